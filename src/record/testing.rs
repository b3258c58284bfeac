//! Small histories for tests.

use super::{HistoryEntry, MachineName};
use crate::event::{Host, SessionState};

/// A machine whose id follows from its name.
#[must_use]
pub fn machine(hostname: &str) -> MachineName {
    MachineName {
        hostname: hostname.to_owned(),
        machine_id: format!("id-of-{hostname}"),
    }
}

/// A session between two machines, as the source remembers it.
#[must_use]
pub fn entry(session: &str, source: &str, target: &str, state: SessionState) -> HistoryEntry {
    HistoryEntry {
        session: session.to_owned(),
        role: Host::Source,
        source: machine(source),
        target: machine(target),
        started_at: jiff::Timestamp::UNIX_EPOCH,
        ended_at: jiff::Timestamp::UNIX_EPOCH,
        state,
        version: "0.1.0".to_owned(),
        modules: Vec::new(),
        source_snapshots: Vec::new(),
        target_snapshots: Vec::new(),
        folders: std::collections::BTreeMap::new(),
        address: None,
        changed: None,
        rollback_of: None,
    }
}
