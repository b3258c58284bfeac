//! An agent that has said who it is, and what commands beside `sync` ask of it.

use std::time::Duration;

use crate::agent::client::AgentClient;
use crate::agent::health::Health;
use crate::agent::protocol::{AgentFacts, Reply, Request};
use crate::escape::escape_str;
use crate::event::Host;
use crate::record::{HistoryEntry, Incomplete, LockHolder, MachineName, MachineState};
use crate::snapshot::space::Held;
use crate::snapshot::{NewSnapshot, SnapshotFacts, SubvolumeFacts};

use super::error::RunError;

/// Starts agents and has them say who they are.
pub trait Meets {
    /// An agent on this machine.
    fn local(&mut self) -> Result<Met, RunError>;

    /// An agent on another machine.
    fn remote(&mut self, host: &str) -> Result<Met, RunError>;
}

/// An agent that has said who it is.
#[derive(Debug, Clone)]
pub struct Met {
    /// The agent.
    pub agent: AgentClient,
    /// What it says of its machine.
    pub facts: AgentFacts,
    /// The session it was started for.
    session: String,
}

impl Met {
    /// Greets `agent` for `session`; `uid` is the person's on its machine, if that is known.
    pub fn greet(agent: AgentClient, session: &str, uid: Option<u32>) -> Result<Self, RunError> {
        let hello = Request::Hello {
            session: session.to_owned(),
            uid,
        };
        let doing = || RunError::agent("greeting the agent");
        match agent.call(hello).map_err(doing())? {
            Reply::Hello(facts) => Ok(Self {
                agent,
                facts: *facts,
                session: session.to_owned(),
            }),
            _ => Err(doing()(agent.nonsense("no greeting"))),
        }
    }

    /// What its machine calls itself, fit to be shown.
    #[must_use]
    pub fn name(&self) -> String {
        match escape_str(&self.facts.hostname) {
            empty if empty.is_empty() => self.agent.hostname(),
            name => name,
        }
    }

    /// Its machine's name and identity.
    #[must_use]
    pub fn machine(&self) -> MachineName {
        MachineName {
            hostname: self.name(),
            machine_id: self.facts.machine_id.clone(),
        }
    }

    /// Asks for something that has a reply of its own kind; `take` finds it.
    fn ask<T>(
        &self,
        doing: &str,
        request: Request,
        take: impl FnOnce(Reply) -> Option<T>,
    ) -> Result<T, RunError> {
        let reply = self.agent.call(request).map_err(RunError::agent(doing))?;
        take(reply).ok_or_else(|| RunError::agent(doing)(self.agent.nonsense("another answer")))
    }

    fn tell(&self, doing: &str, request: Request) -> Result<(), RunError> {
        self.agent.call(request).map_err(RunError::agent(doing))?;
        Ok(())
    }

    /// Takes the machine's lock, in the role `role`; held until the agent ends.
    pub fn lock(&self, role: Host) -> Result<(), RunError> {
        let own = rustix::system::uname();
        let holder = LockHolder {
            session: self.session.clone(),
            role,
            from: own.nodename().to_string_lossy().into_owned(),
            pid: self.facts.pid,
            since: jiff::Timestamp::now(),
        };
        let held = self.ask(
            "taking the lock",
            Request::Lock(holder),
            |reply| match reply {
                Reply::Lock(held) => Some(held),
                _ => None,
            },
        )?;
        match held {
            None => Ok(()),
            Some(holder) => Err(RunError::Locked {
                hostname: self.name(),
                holder: LockHolder {
                    session: escape_str(&holder.session),
                    from: escape_str(&holder.from),
                    ..holder
                },
            }),
        }
    }

    /// What its machine remembers.
    pub fn state(&self) -> Result<MachineState, RunError> {
        self.ask(
            "reading the history",
            Request::ReadState,
            |reply| match reply {
                Reply::State(state) => Some(*state),
                _ => None,
            },
        )
    }

    /// How its machine is doing.
    pub fn health(&self) -> Result<Health, RunError> {
        self.ask(
            "looking at the machine",
            Request::Health,
            |reply| match reply {
                Reply::Health(health) => Some(*health),
                _ => None,
            },
        )
    }

    /// The snapshots of syncs on its machine, oldest first.
    pub fn snapshots(
        &self,
        snapshot_dir: &str,
        with_space: bool,
    ) -> Result<Vec<SnapshotFacts>, RunError> {
        let list = Request::ListSnapshots {
            snapshot_dir: snapshot_dir.to_owned(),
            with_space,
        };
        self.ask("listing the snapshots", list, |reply| match reply {
            Reply::Snapshots(snapshots) => Some(snapshots),
            _ => None,
        })
    }

    /// What its snapshots hold that nothing else does, as far as that can be found out within `limit`.
    pub fn held(&self, snapshot_dir: &str, limit: Duration) -> Result<Held, RunError> {
        let request = Request::SnapshotSpace {
            snapshot_dir: snapshot_dir.to_owned(),
            limit_millis: u64::try_from(limit.as_millis()).unwrap_or(u64::MAX),
        };
        self.ask(
            "looking what snapshots hold",
            request,
            |reply| match reply {
                Reply::Held(held) => Some(held),
                _ => None,
            },
        )
    }

    /// Facts about subvolumes of its machine, by their flat names.
    pub fn subvolumes(
        &self,
        names: Vec<String>,
        snapshot_dir: &str,
    ) -> Result<SubvolumeFacts, RunError> {
        let request = Request::Subvolumes {
            names,
            snapshot_dir: snapshot_dir.to_owned(),
        };
        self.ask("looking at the subvolumes", request, |reply| match reply {
            Reply::Subvolumes(facts) => Some(*facts),
            _ => None,
        })
    }

    /// Makes snapshots, all or none.
    pub fn make_snapshots(
        &self,
        snapshot_dir: &str,
        snapshots: Vec<NewSnapshot>,
    ) -> Result<Vec<SnapshotFacts>, RunError> {
        let request = Request::CreateSnapshots {
            snapshot_dir: snapshot_dir.to_owned(),
            snapshots,
        };
        self.ask("making snapshots", request, |reply| match reply {
            Reply::Snapshots(made) => Some(made),
            _ => None,
        })
    }

    /// Deletes snapshots.
    pub fn delete_snapshots(
        &self,
        snapshot_dir: &str,
        snapshots: &[SnapshotFacts],
    ) -> Result<(), RunError> {
        let names = snapshots.iter().map(|snapshot| snapshot.name.clone());
        let request = Request::DeleteSnapshots {
            snapshot_dir: snapshot_dir.to_owned(),
            names: names.collect(),
        };
        self.tell("deleting snapshots", request)
    }

    /// Writes or removes the marker that its machine is being changed.
    pub fn mark(&self, marker: Option<Incomplete>) -> Result<(), RunError> {
        self.tell("noting how far it is", Request::WriteIncomplete(marker))
    }

    /// Adds a session to what its machine remembers.
    pub fn remember(&self, entry: HistoryEntry) -> Result<(), RunError> {
        let request = Request::AppendHistory(Box::new(entry));
        self.tell("writing the history", request)
    }

    /// The same machine for clean-up: no abort stops it.
    #[must_use]
    pub fn cleaning_up(&self) -> Self {
        Self {
            agent: self.agent.cleaning_up(),
            ..self.clone()
        }
    }
}
