//! What outlives a run: history, the incomplete marker, the lock's holder, log files.

pub mod anchor;
pub mod history;
pub mod lock;
pub mod log;
pub mod sessions;
pub mod standing;
pub mod state;
#[cfg(test)]
pub mod testing;

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::event::{Host, ModuleResult, Phase, SessionState};
use crate::snapshot::SnapshotFacts;

/// Who holds a machine's lock; stored in the lock file for the one who loses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LockHolder {
    /// Session id.
    pub session: String,
    /// `source` or `target`: the role this machine has in that session.
    pub role: Host,
    /// Host name of the machine the command was typed on.
    pub from: String,
    /// Process id of the agent that holds the lock, on this machine.
    pub pid: u32,
    /// Since when.
    pub since: Timestamp,
}

/// What a machine remembers.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct MachineState {
    /// Past sessions, oldest first.
    pub history: Vec<HistoryEntry>,
    /// A run that began and did not end.
    pub incomplete: Option<Incomplete>,
}

/// Written before the first change of a run, removed when it has ended well.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Incomplete {
    /// Session id.
    pub session: String,
    /// The role of the machine this is written on.
    pub role: Host,
    /// Host name of the source.
    pub source: String,
    /// Host name of the target.
    pub target: String,
    /// When it began.
    pub started_at: Timestamp,
    /// The phase it was in.
    pub phase: Phase,
    /// The module it was in, if any.
    pub module: Option<String>,
    /// The presync snapshots of this machine (names).
    pub presync: Vec<String>,
    /// What was typed to reach the target.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// For a rollback: the session whose presync state was being put back on the target.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollback_of: Option<String>,
    /// For a rollback: the marker it was to settle, which this one took the place of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub settles: Option<Box<Incomplete>>,
}

/// One session in a machine's history.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HistoryEntry {
    /// Session id.
    pub session: String,
    /// This machine's role in it.
    pub role: Host,
    /// The source.
    pub source: MachineName,
    /// The target.
    pub target: MachineName,
    /// When it began.
    pub started_at: Timestamp,
    /// When it ended.
    pub ended_at: Timestamp,
    /// How it ended.
    pub state: SessionState,
    /// pc-switcher's version.
    pub version: String,
    /// One result per module.
    pub modules: Vec<ModuleResult>,
    /// Snapshots of the source.
    pub source_snapshots: Vec<SnapshotFacts>,
    /// Snapshots of the target.
    pub target_snapshots: Vec<SnapshotFacts>,
    /// What each mirrored folder's filter said: the folder's path to a digest.
    pub folders: BTreeMap<String, String>,
    /// What was typed to reach the target: the way back to it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// What was changed, if every module did what it had planned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub changed: Option<Changed>,
    /// For a rollback: the session whose presync state was put back on the target.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollback_of: Option<String>,
    /// For a rollback: the marker of the run that had died before, which it settled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub settled: Option<Incomplete>,
    /// What it left behind for the next sync of the two to start from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub anchor: Option<anchor::Recorded>,
    /// For a failed run: whether it came to its end all the same, and what did not come is over with it
    /// (a package that could not be had): it left nothing incomplete behind.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub whole: bool,
}

impl HistoryEntry {
    /// Whether the run came to its end and left nothing incomplete behind: a good one, and one that failed
    /// only in what was over with it.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        match self.state {
            SessionState::Completed => true,
            SessionState::Failed => self.whole,
            _ => false,
        }
    }

    /// The machine that remembers it.
    #[must_use]
    pub fn own_name(&self) -> &MachineName {
        match self.role {
            Host::Source => &self.source,
            Host::Target => &self.target,
        }
    }

    /// The other machine.
    #[must_use]
    pub fn partner(&self) -> &MachineName {
        match self.role {
            Host::Source => &self.target,
            Host::Target => &self.source,
        }
    }
}

/// How much a session changed on its target.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Changed {
    /// Items created.
    #[serde(deserialize_with = "crate::figures::count")]
    pub created: u64,
    /// Items with new content.
    #[serde(deserialize_with = "crate::figures::count")]
    pub changed: u64,
    /// Items that have another name.
    #[serde(default, deserialize_with = "crate::figures::count")]
    pub renamed: u64,
    /// Items with new attributes only.
    #[serde(deserialize_with = "crate::figures::count")]
    pub attributes: u64,
    /// Items deleted.
    #[serde(deserialize_with = "crate::figures::count")]
    pub deleted: u64,
    /// Bytes written.
    #[serde(deserialize_with = "crate::figures::count")]
    pub bytes: u64,
}

/// A machine by name and identity.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MachineName {
    /// Its own host name.
    pub hostname: String,
    /// Its `/etc/machine-id`.
    pub machine_id: String,
}

impl MachineName {
    /// Whether two names mean the same machine, when `ids_are_unique`: by machine id where both have
    /// one, else by host name.
    #[must_use]
    pub fn is_same(&self, other: &Self, ids_are_unique: bool) -> bool {
        if ids_are_unique && !self.machine_id.is_empty() && !other.machine_id.is_empty() {
            self.machine_id.eq_ignore_ascii_case(&other.machine_id)
        } else {
            self.hostname.eq_ignore_ascii_case(&other.hostname)
        }
    }
}
