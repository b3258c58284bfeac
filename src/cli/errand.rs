//! Short work with agents, outside of a sync: look something up on this machine or another, change a
//! little, leave.

use std::sync::Arc;

use super::args::GlobalArgs;
use super::ended_by;
use super::session::Console;
use crate::agent::client::AgentClient;
use crate::event::{EventSink, LogLevel};
use crate::exit::ExitStatus;
use crate::run::error::RunError;
use crate::run::machines::{Access, Machines as _};
use crate::run::met::{Meets, Met};
use crate::run::reach::Reach;
use crate::run::{say_goodbye, session};

/// The terminal, signals, and the agents that were started so far.
pub struct Errand {
    /// The terminal and the signals.
    pub console: Console,
    access: Access,
    agents: Vec<AgentClient>,
}

impl Errand {
    /// Begins: the renderer and the signals are at work.
    pub fn start(global: &GlobalArgs, level: LogLevel) -> Self {
        Self::start_as(global, level, &session::new_id(), EventSink::none())
    }

    /// The same for the session `id`; `events` may have other listeners already.
    pub fn start_as(global: &GlobalArgs, level: LogLevel, id: &str, events: EventSink) -> Self {
        let console = Console::start(global, level, events);
        let access = console.access(id);
        Self {
            console,
            access,
            agents: Vec::new(),
        }
    }

    /// An agent on `host`, or on this machine if none is named.
    pub fn on(&mut self, host: Option<&str>) -> Result<Met, RunError> {
        match host {
            None => self.local(),
            Some(host) => self.remote(host),
        }
    }

    /// Ends the agents and the renderer, and says what went wrong.
    pub fn finish(self, result: Result<ExitStatus, RunError>) -> ExitStatus {
        say_goodbye(&self.agents);
        self.console.finish();
        match result {
            Ok(status) => status,
            Err(error) => ended_by(&error),
        }
    }

    /// The terminal, for lists.
    pub fn ui(&self) -> Arc<crate::ui::Ui> {
        Arc::clone(&self.console.ui)
    }
}

impl Meets for Errand {
    fn local(&mut self) -> Result<Met, RunError> {
        let agent = Reach::new("").local(&self.access)?;
        self.agents.push(agent.clone());
        let uid = rustix::process::getuid().as_raw();
        Met::greet(agent, &self.access.session, Some(uid))
    }

    fn remote(&mut self, host: &str) -> Result<Met, RunError> {
        let agent = Reach::new(host).target(&self.access)?;
        self.agents.push(agent.clone());
        Met::greet(agent, &self.access.session, None)
    }
}
