//! What the last good sync of two machines left on both: snapshots known to hold equal content.
//!
//! An anchor is a pair of snapshots of each subvolume: the source's, taken before, which is what was
//! read, and the target's, taken after, which is what was there when it had been written. The same
//! pair serves the way back with the roles exchanged. An anchor says what is equal, never more:
//! paths that were not are kept beside it ([`AnchoredFolder::left`]), and where that cannot be
//! said there is none, only the reason.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{HistoryEntry, MachineState};
use crate::event::Host;
use crate::snapshot::SnapshotFacts;

/// Paths a folder's anchor may leave out; more, and there is no anchor.
pub const LEFT_MAX: usize = 2000;
/// Bytes of all these paths, as they are written down.
pub const LEFT_BYTES_MAX: usize = 128 << 10;

/// Snapshots of two machines that hold equal content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Anchor {
    /// The source's presync snapshots.
    pub source: Vec<SnapshotFacts>,
    /// The target's postsync snapshots.
    pub target: Vec<SnapshotFacts>,
    /// What of them is equal, by the folder's path.
    pub folders: BTreeMap<String, AnchoredFolder>,
}

/// One folder in an [`Anchor`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AnchoredFolder {
    /// Entries it had on the target, as far as they are mirrored.
    #[serde(deserialize_with = "crate::figures::count")]
    pub entries: u64,
    /// When all of it was compared last.
    pub full_scan_at: Timestamp,
    /// Whether a directory's own filter file is not mirrored itself: then the machines may have
    /// different rules, and the way back is another scope.
    pub own_rules: bool,
    /// Paths below it that are not known to be equal.
    pub left: Vec<LeftPath>,
}

/// A raw path that can be written down as text: bytes that are not UTF-8, and `%`, as `%NN`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct LeftPath(pub Vec<u8>);

impl From<LeftPath> for String {
    fn from(path: LeftPath) -> Self {
        let mut text = Self::with_capacity(path.0.len());
        let hex = |text: &mut Self, bytes: &[u8]| {
            use std::fmt::Write as _;
            for byte in bytes {
                write!(text, "%{byte:02X}").expect("a String takes every write");
            }
        };
        for chunk in path.0.utf8_chunks() {
            for c in chunk.valid().chars() {
                if c == '%' {
                    hex(&mut text, b"%");
                } else {
                    text.push(c);
                }
            }
            hex(&mut text, chunk.invalid());
        }
        text
    }
}

impl TryFrom<String> for LeftPath {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let mut path = Vec::with_capacity(text.len());
        let mut rest = text.as_bytes();
        while let Some((&byte, after)) = rest.split_first() {
            rest = after;
            if byte != b'%' {
                path.push(byte);
                continue;
            }
            let digits = rest.get(..2).and_then(|two| std::str::from_utf8(two).ok());
            let value = digits.and_then(|two| u8::from_str_radix(two, 16).ok());
            path.push(value.ok_or("a path with a % that is no %NN")?);
            rest = &rest[2..];
        }
        Ok(Self(path))
    }
}

/// What a session has written down about its anchor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Recorded {
    /// There is one.
    Anchor(Box<Anchor>),
    /// There is none.
    None {
        /// Why, for people.
        no_anchor: String,
    },
    /// Something that is neither: there is none, and the rest of the history is not lost for it.
    Damaged(serde_json::Value),
}

impl Anchor {
    /// The same seen from the other machine: who was the source is the target now.
    #[must_use]
    pub fn reversed(mut self) -> Self {
        std::mem::swap(&mut self.source, &mut self.target);
        self
    }

    /// The half of the machine that was, or is, in this role.
    #[must_use]
    pub fn half(&self, role: Host) -> &[SnapshotFacts] {
        match role {
            Host::Source => &self.source,
            Host::Target => &self.target,
        }
    }

    /// Whether its lists of paths are within what may be written down.
    #[must_use]
    pub fn fits(&self) -> bool {
        self.folders.values().all(|folder| {
            let text = |path: &LeftPath| String::from(path.clone()).len();
            folder.left.len() <= LEFT_MAX
                && folder.left.iter().map(text).sum::<usize>() <= LEFT_BYTES_MAX
        })
    }
}

/// The anchor a session has left, if it has.
#[must_use]
pub fn of(entry: &HistoryEntry) -> Option<&Anchor> {
    match &entry.anchor {
        Some(Recorded::Anchor(anchor)) if entry.is_whole() => Some(anchor),
        _ => None,
    }
}

/// Forgets the anchors that the one of `newer`, with the same machine, takes the place of.
pub(super) fn supersede(history: &mut [HistoryEntry], newer: &HistoryEntry) {
    let id = &newer.partner().machine_id;
    for entry in history.iter_mut().filter(|e| e.partner().machine_id == *id) {
        if of(entry).is_some() {
            entry.anchor = None;
        }
    }
}

/// Names of the snapshots of this machine that no clean-up may delete: its half of the newest
/// anchor with each other machine.
#[must_use]
pub fn held(state: &MachineState) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    let mut seen = HashSet::new();
    for entry in state.history.iter().rev() {
        if let Some(anchor) = of(entry)
            && seen.insert(&entry.partner().machine_id)
        {
            names.extend(anchor.half(entry.role).iter().map(|s| s.name.clone()));
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::SessionState;
    use crate::record::testing::{anchor, entry};
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_path_is_written_down_and_read_back(path in prop::collection::vec(any::<u8>(), 0..40)) {
            let text = String::from(LeftPath(path.clone()));
            prop_assert_eq!(LeftPath::try_from(text).unwrap().0, path);
        }

        #[test]
        fn no_text_is_too_strange_to_be_looked_at(text in "\\PC{0,20}") {
            let _ = LeftPath::try_from(text);
        }
    }

    #[test]
    fn a_damaged_anchor_costs_the_anchor_and_not_the_history() {
        let mut whole = entry("00000001", "atlas", "vega", SessionState::Completed);
        whole.anchor = Some(Recorded::Anchor(Box::new(anchor("00000001"))));
        let json = serde_json::to_value(&whole).unwrap();
        assert_eq!(
            serde_json::from_value::<HistoryEntry>(json.clone()).unwrap(),
            whole
        );
        for damage in [
            serde_json::json!(7),
            serde_json::json!({"source": [], "target": []}),
            serde_json::json!({"folders": {"/home": {"left": ["%zz"]}}}),
        ] {
            let mut json = json.clone();
            json["anchor"] = damage.clone();
            let read: HistoryEntry = serde_json::from_value(json).unwrap();
            assert_eq!(read.anchor, Some(Recorded::Damaged(damage)));
            assert_eq!(of(&read), None);
        }
        let mut json = json;
        json.as_object_mut().unwrap().remove("anchor");
        let read: HistoryEntry = serde_json::from_value(json).unwrap();
        assert_eq!(read.anchor, None);
    }

    #[test]
    fn the_newest_anchor_with_each_other_machine_is_held() {
        use SessionState::{Completed, Failed};
        let session = |id: &str, from: &str, to: &str, state, anchored: bool| {
            let mut entry = entry(id, from, to, state);
            if from != "atlas" {
                entry.role = Host::Target;
            }
            entry.anchor = anchored.then(|| Recorded::Anchor(Box::new(anchor(id))));
            entry
        };
        // One that failed only in what was over with it has left its anchor; another failed one has not.
        let mut whole = session("00000006", "atlas", "deneb", Failed, true);
        whole.whole = true;
        let state = MachineState {
            history: vec![
                session("00000001", "atlas", "vega", Completed, true),
                session("00000002", "atlas", "rigel", Completed, true),
                session("00000003", "vega", "atlas", Completed, true),
                session("00000004", "atlas", "vega", Failed, true),
                session("00000005", "atlas", "vega", Completed, false),
                whole,
            ],
            incomplete: None,
        };
        let names: Vec<String> = held(&state).into_iter().collect();
        assert_eq!(
            names,
            [
                // As the target of the newest with vega, as the source of the only one with rigel.
                "@home-postsync-20260101T000000Z-00000003",
                "@home-presync-20260101T000000Z-00000002",
                "@home-presync-20260101T000000Z-00000006",
            ]
        );
    }
}
