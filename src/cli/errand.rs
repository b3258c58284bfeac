//! Short work with agents, outside of a sync: look something up on this machine or another, change a
//! little, leave.

use std::sync::Arc;

use super::args::GlobalArgs;
use super::report;
use super::session::Console;
use crate::agent::client::AgentClient;
use crate::agent::protocol::{AgentFacts, Reply, Request};
use crate::escape::escape_str;
use crate::event::{EventSink, Host, LogLevel};
use crate::exit::ExitStatus;
use crate::record::{LockHolder, MachineState};
use crate::run::error::RunError;
use crate::run::explain::explain;
use crate::run::machines::{Access, Machines as _};
use crate::run::reach::Reach;
use crate::run::{say_goodbye, session};
use crate::snapshot::{SnapshotFacts, SubvolumeFacts};

/// The terminal, signals, and the agents that were started so far.
pub struct Errand {
    /// The terminal and the signals.
    pub console: Console,
    access: Access,
    agents: Vec<AgentClient>,
}

/// An agent that has said who it is.
#[derive(Debug, Clone)]
pub struct Met {
    /// The agent.
    pub agent: AgentClient,
    /// What it says of its machine.
    pub facts: AgentFacts,
    session: String,
}

impl Errand {
    /// Begins: the renderer and the signals are at work.
    pub fn start(global: &GlobalArgs, level: LogLevel) -> Self {
        let console = Console::start(global, level, EventSink::none());
        let access = console.access(&session::new_id());
        Self {
            console,
            access,
            agents: Vec::new(),
        }
    }

    /// An agent on this machine.
    pub fn local(&mut self) -> Result<Met, RunError> {
        let agent = Reach::new("").local(&self.access)?;
        let uid = rustix::process::getuid().as_raw();
        self.greet(agent, Some(uid))
    }

    /// An agent on another machine.
    pub fn remote(&mut self, host: &str) -> Result<Met, RunError> {
        let agent = Reach::new(host).target(&self.access)?;
        self.greet(agent, None)
    }

    /// An agent on `host`, or on this machine if none is named.
    pub fn on(&mut self, host: Option<&str>) -> Result<Met, RunError> {
        match host {
            None => self.local(),
            Some(host) => self.remote(host),
        }
    }

    fn greet(&mut self, agent: AgentClient, uid: Option<u32>) -> Result<Met, RunError> {
        self.agents.push(agent.clone());
        let hello = Request::Hello {
            session: self.access.session.clone(),
            uid,
        };
        let doing = || RunError::agent("greeting the agent");
        match agent.call(hello).map_err(doing())? {
            Reply::Hello(facts) => Ok(Met {
                agent,
                facts: *facts,
                session: self.access.session.clone(),
            }),
            _ => Err(doing()(agent.nonsense("no greeting"))),
        }
    }

    /// Ends the agents and the renderer, and says what went wrong.
    pub fn finish(self, result: Result<ExitStatus, RunError>) -> ExitStatus {
        say_goodbye(&self.agents);
        self.console.finish();
        match result {
            Ok(status) => status,
            Err(error) => {
                let explained = explain(&error);
                report(&explained);
                explained.status
            }
        }
    }

    /// The terminal, for lists.
    pub fn ui(&self) -> Arc<crate::ui::Ui> {
        Arc::clone(&self.console.ui)
    }
}

impl Met {
    /// Takes the machine's lock, in the role `role`; held until the agent ends.
    pub fn lock(&self, role: Host) -> Result<(), RunError> {
        let hostname = rustix::system::uname()
            .nodename()
            .to_string_lossy()
            .into_owned();
        let holder = LockHolder {
            session: self.session.clone(),
            role,
            from: hostname,
            pid: self.facts.pid,
            since: jiff::Timestamp::now(),
        };
        let doing = || RunError::agent("taking the lock");
        match self.agent.call(Request::Lock(holder)).map_err(doing())? {
            Reply::Lock(None) => Ok(()),
            Reply::Lock(Some(holder)) => Err(RunError::Locked {
                hostname: self.name(),
                holder: LockHolder {
                    session: escape_str(&holder.session),
                    from: escape_str(&holder.from),
                    ..holder
                },
            }),
            _ => Err(doing()(self.agent.nonsense("no answer about the lock"))),
        }
    }

    /// What its machine calls itself, fit to be shown.
    pub fn name(&self) -> String {
        match escape_str(&self.facts.hostname) {
            empty if empty.is_empty() => self.agent.hostname(),
            name => name,
        }
    }

    /// What its machine remembers.
    pub fn state(&self) -> Result<MachineState, RunError> {
        let doing = || RunError::agent("reading the history");
        match self.agent.call(Request::ReadState).map_err(doing())? {
            Reply::State(state) => Ok(*state),
            _ => Err(doing()(self.agent.nonsense("no history"))),
        }
    }

    /// The snapshots of syncs on its machine, oldest first.
    pub fn snapshots(
        &self,
        snapshot_dir: &str,
        with_space: bool,
    ) -> Result<Vec<SnapshotFacts>, RunError> {
        let doing = || RunError::agent("listing the snapshots");
        let list = Request::ListSnapshots {
            snapshot_dir: snapshot_dir.to_owned(),
            with_space,
        };
        match self.agent.call(list).map_err(doing())? {
            Reply::Snapshots(snapshots) => Ok(snapshots),
            _ => Err(doing()(self.agent.nonsense("no snapshots"))),
        }
    }

    /// Facts about subvolumes of its machine, by their flat names.
    pub fn subvolumes(
        &self,
        names: Vec<String>,
        snapshot_dir: &str,
    ) -> Result<SubvolumeFacts, RunError> {
        let doing = || RunError::agent("looking at the subvolumes");
        let request = Request::Subvolumes {
            names,
            snapshot_dir: snapshot_dir.to_owned(),
        };
        match self.agent.call(request).map_err(doing())? {
            Reply::Subvolumes(facts) => Ok(*facts),
            _ => Err(doing()(self.agent.nonsense("no subvolumes"))),
        }
    }
}
