//! Small histories for tests.

use super::anchor::{Anchor, AnchoredFolder};
use super::{HistoryEntry, Incomplete, MachineName};
use crate::event::{Host, Phase, SessionState};
use crate::snapshot::SnapshotFacts;

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
        settled: None,
        anchor: None,
        whole: false,
    }
}

/// An anchor of `/home` on `@home`, as a session leaves it.
#[must_use]
pub fn anchor(session: &str) -> Anchor {
    let half = |kind: &str| SnapshotFacts {
        subvolume: "@home".to_owned(),
        name: format!("@home-{kind}-20260101T000000Z-{session}"),
        path: format!("/.snapshots/@home-{kind}-20260101T000000Z-{session}"),
        uuid: format!("{kind}-{session}"),
        parent_uuid: Some("home".to_owned()),
        generation: 7,
        created_generation: 7,
        changed_generation: 7,
        readonly: true,
        exclusive_bytes: None,
    };
    let folder = AnchoredFolder {
        entries: 10,
        full_scan_at: jiff::Timestamp::UNIX_EPOCH,
        own_rules: false,
        left: Vec::new(),
    };
    Anchor {
        source: vec![half("presync")],
        target: vec![half("postsync")],
        folders: [("/home".to_owned(), folder)].into(),
    }
}

/// The marker of a run that died while it executed modules.
#[must_use]
pub fn marker(session: &str, role: Host) -> Incomplete {
    Incomplete {
        session: session.to_owned(),
        role,
        source: "atlas".to_owned(),
        target: "vega".to_owned(),
        started_at: jiff::Timestamp::UNIX_EPOCH,
        phase: Phase::Execute,
        module: Some("user_data".to_owned()),
        presync: Vec::new(),
        address: None,
        rollback_of: None,
        settles: None,
    }
}

/// A snapshot of this name, as it should be.
#[must_use]
pub fn snapshot(name: &str) -> SnapshotFacts {
    SnapshotFacts {
        subvolume: String::new(),
        name: name.to_owned(),
        path: format!("/.snapshots/{name}"),
        uuid: String::new(),
        parent_uuid: None,
        generation: 1,
        created_generation: 1,
        changed_generation: 1,
        readonly: true,
        exclusive_bytes: None,
    }
}
