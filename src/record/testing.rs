//! Small histories for tests.

use super::anchor::{Anchor, AnchoredFolder};
use super::{HistoryEntry, MachineName};
use crate::event::{Host, SessionState};
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
        anchor: None,
        address: None,
        changed: None,
        rollback_of: None,
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
