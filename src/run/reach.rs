//! How machines are really reached: a local agent through `sudo`, and SSH.

use std::collections::HashMap;
use std::error::Error;
use std::sync::{Arc, Mutex, PoisonError};

use super::machines::{Access, MachineError, Machines};
use crate::agent::client::AgentClient;
use crate::agent::deploy::{
    AgentAccess, AgentBinary, DeployError, start_agent, start_extra_agent, start_local_agent,
};
use crate::agent::lanes::pool::{LanePlan, OpenLane};
use crate::agent::lanes::{LANES_MAX, LaneOffer, WELCOME};
use crate::event::{EventSink, Host};
use crate::host::opening::Opening;
use crate::host::ssh::{self, SshConnection, SshOptions};
use crate::host::stream::{ByteSink, Outgoing, Traffic};
use crate::host::throttle::Throttle;
use crate::interrupt::AbortFlag;
use crate::prompt::{NeverAsk, PromptError, Prompter, Question, Secret, Survey};

/// What a machine does before there is anybody to ask.
const STARTING: &str = "receiving and starting the agent";

/// This machine and one other.
#[derive(Debug)]
pub struct Reach {
    host: String,
    ssh: SshOptions,
    first: Mutex<Option<AgentAccess>>,
    memory: Arc<Memory>,
    transfers: usize,
}

impl Reach {
    /// The target as typed; nothing is done yet.
    #[must_use]
    pub fn new(host: &str) -> Self {
        Self {
            host: host.to_owned(),
            ssh: SshOptions::default(),
            first: Mutex::default(),
            memory: Arc::default(),
            transfers: 1,
        }
    }

    /// With as many connections for content, if there is much of it.
    #[must_use]
    pub fn over(mut self, transfers: usize) -> Self {
        self.transfers = transfers;
        self
    }

    /// With at most so many bytes a second for all connections together, if that is said.
    #[must_use]
    pub fn limited(mut self, bytes_per_second: Option<u64>) -> Self {
        self.ssh.throttle = bytes_per_second
            .map(Throttle::per_second)
            .unwrap_or_default();
        self
    }

    fn connect(
        &self,
        access: &Access,
        prompter: &dyn Prompter,
    ) -> Result<SshConnection, MachineError> {
        let _working = access.events.working(&self.host, "connecting");
        ssh::connect(
            &self.host,
            &self.ssh,
            prompter,
            &access.events,
            &access.abort,
        )
        .map_err(|error| self.unreached(error.into()))
    }

    fn unreached(&self, error: DeployError) -> MachineError {
        match error {
            DeployError::Interrupted(interrupted) => MachineError::Interrupted(interrupted),
            source => MachineError::Target {
                hostname: self.host.clone(),
                source: Box::new(source),
            },
        }
    }
}

impl Machines for Reach {
    fn local(&self, access: &Access) -> Result<AgentClient, MachineError> {
        let hostname = rustix::system::uname()
            .nodename()
            .to_string_lossy()
            .into_owned();
        let working = access.events.working(&hostname, "starting the agent");
        let link =
            start_local_agent(&*access.prompter, &access.abort).map_err(|error| match error {
                DeployError::Interrupted(interrupted) => MachineError::Interrupted(interrupted),
                source => MachineError::Local(Box::new(source)),
            })?;
        drop(working);
        Ok(AgentClient::new(
            link,
            Host::Source,
            &hostname,
            access.events.clone(),
            access.abort.clone(),
        ))
    }

    fn target(&self, access: &Access) -> Result<AgentClient, MachineError> {
        let prompter = Remembering {
            inner: Arc::clone(&access.prompter),
            memory: Arc::clone(&self.memory),
        };
        let connection = self.connect(access, &prompter)?;
        let _working = access.events.working(&self.host, STARTING);
        let started = AgentBinary::find().and_then(|binary| {
            start_agent(connection, &binary, &access.session, &*access.prompter)
        });
        let (link, how) = started.map_err(|error| self.unreached(error))?;
        *self.first.lock().unwrap_or_else(PoisonError::into_inner) = Some(how);
        let agent = AgentClient::new(
            link,
            Host::Target,
            &self.host,
            access.events.clone(),
            access.abort.clone(),
        );
        agent.plan_lanes(LanePlan {
            lanes: self.transfers.saturating_sub(1).min(LANES_MAX),
            opener: Arc::new(Lanes {
                host: self.host.clone(),
                ssh: self.ssh.clone(),
                events: access.events.clone(),
                memory: Arc::clone(&self.memory),
            }),
        });
        Ok(agent)
    }

    fn target_again(&self, access: &Access, first: u32) -> Result<AgentClient, MachineError> {
        let how = self
            .first
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let Some(how) = how else {
            return self.target(access);
        };
        let prompter = Repeating {
            inner: Arc::clone(&access.prompter),
            memory: Mutex::new(self.memory.answers()),
        };
        let connection = self.connect(access, &prompter)?;
        let _working = access.events.working(&self.host, STARTING);
        let link = start_extra_agent(connection, first, &how).map_err(|e| self.unreached(e))?;
        Ok(AgentClient::new(
            link,
            Host::Target,
            &self.host,
            access.events.clone(),
            access.abort.clone(),
        ))
    }
}

/// Opens further connections to the target.
struct Lanes {
    host: String,
    ssh: SshOptions,
    events: EventSink,
    memory: Arc<Memory>,
}

impl OpenLane for Lanes {
    fn open(
        &self,
        offer: &LaneOffer,
        sink: Box<dyn ByteSink>,
        traffic: Traffic,
        abort: &AbortFlag,
    ) -> Result<Outgoing, Box<dyn Error + Send + Sync>> {
        // Nobody is disturbed for what only makes it faster.
        let prompter = Repeating {
            inner: Arc::new(NeverAsk),
            memory: Mutex::new(self.memory.answers()),
        };
        let connection = ssh::connect(&self.host, &self.ssh, &prompter, &self.events, abort)?;
        let words = Secret::new(format!("{}\n", offer.secret));
        let opening = Opening {
            at_once: vec![words.expose().as_bytes()],
            banner: WELCOME,
            ..Opening::default()
        };
        match connection.open_socket(&offer.path, opening)? {
            (_, Ok(lane)) => Ok(lane.run("lane", sink, traffic)?),
            (_, Err(_)) => Err("the agent there did not let it in".into()),
        }
    }
}

/// What was typed to log in, by its prompt: later connections to the same machine log in the same
/// way without asking again. It is overwritten in memory when the run ends.
#[derive(Debug, Default)]
struct Memory(Mutex<HashMap<String, Secret>>);

impl Memory {
    fn answers(&self) -> HashMap<String, Secret> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

/// Asks a person and keeps the last answer to each prompt: the one that was right.
struct Remembering {
    inner: Arc<dyn Prompter>,
    memory: Arc<Memory>,
}

impl Remembering {
    fn keep(&self, prompt: &str, answer: &Secret) {
        let mut memory = self.memory.0.lock().unwrap_or_else(PoisonError::into_inner);
        memory.insert(prompt.to_owned(), answer.clone());
    }
}

impl Prompter for Remembering {
    fn can_ask(&self) -> bool {
        self.inner.can_ask()
    }

    fn choose(&self, question: &Question) -> Result<usize, PromptError> {
        self.inner.choose(question)
    }

    fn survey(&self, survey: &Survey) -> Result<Option<Vec<Vec<usize>>>, PromptError> {
        self.inner.survey(survey)
    }

    fn secret(&self, prompt: &str) -> Result<Secret, PromptError> {
        let answer = self.inner.secret(prompt)?;
        self.keep(prompt, &answer);
        Ok(answer)
    }

    fn line(&self, prompt: &str) -> Result<String, PromptError> {
        let answer = self.inner.line(prompt)?;
        self.keep(prompt, &Secret::new(answer.clone()));
        Ok(answer)
    }
}

/// Gives each remembered answer once, then asks: what is asked twice was answered wrongly (a
/// one-time password).
struct Repeating {
    inner: Arc<dyn Prompter>,
    memory: Mutex<HashMap<String, Secret>>,
}

impl Repeating {
    fn recall(&self, prompt: &str) -> Option<Secret> {
        let mut memory = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
        memory.remove(prompt)
    }
}

impl Prompter for Repeating {
    fn can_ask(&self) -> bool {
        let memory = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
        !memory.is_empty() || self.inner.can_ask()
    }

    fn choose(&self, question: &Question) -> Result<usize, PromptError> {
        self.inner.choose(question)
    }

    fn survey(&self, survey: &Survey) -> Result<Option<Vec<Vec<usize>>>, PromptError> {
        self.inner.survey(survey)
    }

    fn secret(&self, prompt: &str) -> Result<Secret, PromptError> {
        match self.recall(prompt) {
            Some(answer) => Ok(answer),
            None => self.inner.secret(prompt),
        }
    }

    fn line(&self, prompt: &str) -> Result<String, PromptError> {
        match self.recall(prompt) {
            Some(answer) => Ok(answer.expose().to_owned()),
            None => self.inner.line(prompt),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Answers `first`, `second`, … and counts how often it was asked.
    #[derive(Default)]
    struct Typing(Mutex<usize>);

    impl Prompter for Typing {
        fn can_ask(&self) -> bool {
            true
        }

        fn choose(&self, _: &Question) -> Result<usize, PromptError> {
            Err(PromptError::CannotAsk)
        }

        fn secret(&self, _: &str) -> Result<Secret, PromptError> {
            let mut asked = self.0.lock().unwrap();
            *asked += 1;
            Ok(Secret::new(format!("answer {asked}")))
        }

        fn line(&self, prompt: &str) -> Result<String, PromptError> {
            Ok(self.secret(prompt)?.expose().to_owned())
        }
    }

    #[test]
    fn the_right_password_is_asked_for_once_and_a_wrong_one_is_not_repeated() {
        let person = Arc::new(Typing::default());
        let memory = Arc::<Memory>::default();
        let first = Remembering {
            inner: person.clone(),
            memory: Arc::clone(&memory),
        };
        // Mistyped once, then right.
        first.secret("password: ").unwrap();
        first.secret("password: ").unwrap();
        let again = Repeating {
            inner: person.clone(),
            memory: Mutex::new(memory.answers()),
        };
        assert_eq!(again.secret("password: ").unwrap().expose(), "answer 2");
        assert_eq!(*person.0.lock().unwrap(), 2, "nobody was asked");
        assert_eq!(again.secret("password: ").unwrap().expose(), "answer 3");
        assert_eq!(again.line("code: ").unwrap(), "answer 4");
    }
}
