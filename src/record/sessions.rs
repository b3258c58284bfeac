//! What a history says about its sessions: which one is meant, and which were undone since.
//!
//! Pure, like [`super::history`], which asks what speaks against a sync.

use std::collections::BTreeSet;

use super::anchor;
use super::{HistoryEntry, MachineName, MachineState};
use crate::event::{Host, SessionState};
use crate::snapshot::SnapshotFacts;
use crate::snapshot::name::{SnapshotKind, SnapshotName};

/// Why no single session is meant.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotFound {
    /// None begins so.
    #[error("no session is called {0:?}")]
    None(String),
    /// Several begin so.
    #[error("{prefix:?} may mean any of {}", sessions.join(", "))]
    Several {
        /// What was asked for.
        prefix: String,
        /// Those that begin so, oldest first.
        sessions: Vec<String>,
    },
}

/// The session among `all` (oldest first) that is called `prefix` or is the only one to begin so.
pub fn find<'a>(all: impl Iterator<Item = &'a str>, prefix: &str) -> Result<&'a str, NotFound> {
    let wanted = prefix.to_ascii_lowercase();
    let mut found: Vec<&str> = all.filter(|session| session.starts_with(&wanted)).collect();
    found.dedup();
    match found.as_slice() {
        _ if wanted.is_empty() => Err(NotFound::None(prefix.to_owned())),
        [one] => Ok(one),
        [] => Err(NotFound::None(prefix.to_owned())),
        several => match several.iter().find(|session| **session == wanted) {
            Some(exact) => Ok(exact),
            None => Err(NotFound::Several {
                prefix: prefix.to_owned(),
                sessions: several
                    .iter()
                    .map(|session| (*session).to_owned())
                    .collect(),
            }),
        },
    }
}

/// Sessions whose changes to their target were undone by a later rollback of that machine: the one it
/// names and all that followed it there. A rollback that was rolled back itself undoes nothing.
#[must_use]
pub fn undone(history: &[HistoryEntry]) -> BTreeSet<String> {
    let mut undone = BTreeSet::new();
    for (end, rollback) in history.iter().enumerate().rev() {
        let Some(of) = &rollback.rollback_of else {
            continue;
        };
        if rollback.state != SessionState::Completed || undone.contains(&rollback.session) {
            continue;
        }
        let Some(begin) = history[..end].iter().rposition(|e| e.session == *of) else {
            continue;
        };
        for entry in &history[begin..end] {
            if entry.target.is_same(&rollback.target, true) {
                undone.insert(entry.session.clone());
            }
        }
    }
    undone
}

/// Names among `snapshots`, this machine's, that stay whatever a policy says: the newest anchor with each
/// other machine, which is what the next sync with it begins from, and the way back from a run that has
/// not ended.
#[must_use]
pub fn indispensable(state: &MachineState, snapshots: &[SnapshotFacts]) -> BTreeSet<String> {
    let mut names = anchor::held(state);
    let mut sessions = BTreeSet::new();
    let mut met: Vec<&MachineName> = Vec::new();
    for entry in state.history.iter().rev() {
        let (other, own) = match entry.role {
            Host::Source => (&entry.target, &entry.source_snapshots),
            Host::Target => (&entry.source, &entry.target_snapshots),
        };
        let is_sync = entry.is_whole() && entry.rollback_of.is_none();
        if is_sync && !met.iter().any(|known| known.is_same(other, true)) {
            met.push(other);
            names.extend(own.iter().map(|snapshot| snapshot.name.clone()));
        }
    }
    if let Some(marker) = &state.incomplete {
        names.extend(marker.presync.iter().cloned());
        sessions.insert(marker.session.as_str());
        // A rollback that died is finished by going back there once more; and one that is undone leaves the run
        // open again that it was to settle.
        sessions.extend(marker.rollback_of.as_deref());
        if let Some(settles) = &marker.settles {
            names.extend(settles.presync.iter().cloned());
            sessions.insert(&settles.session);
        }
    }
    let of_session = |name: &String| {
        let name = SnapshotName::parse(name)?;
        let is_before = name.kind == SnapshotKind::Presync;
        (is_before && sessions.contains(name.session.as_str())).then_some(())
    };
    let there = snapshots.iter().map(|snapshot| &snapshot.name);
    names.extend(there.filter(|name| of_session(name).is_some()).cloned());
    names
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::testing::{entry, marker, snapshot};

    #[test]
    fn a_session_is_found_by_the_beginning_of_its_name() {
        let all = ["0a11ce00", "0a11cf11", "b0b00000", "0a11ce"];
        let find = |prefix| find(all.into_iter(), prefix);
        assert_eq!(find("b"), Ok("b0b00000"));
        assert_eq!(find("B0B"), Ok("b0b00000"));
        assert_eq!(find("0a11cf"), Ok("0a11cf11"));
        // Wholly named, it is meant though others begin so.
        assert_eq!(find("0a11ce"), Ok("0a11ce"));
        let several = find("0a").unwrap_err();
        assert_eq!(
            several.to_string(),
            r#""0a" may mean any of 0a11ce00, 0a11cf11, 0a11ce"#
        );
        for nothing in ["", "c", "b0b000000", "\u{1b}[31m"] {
            assert!(matches!(find(nothing), Err(NotFound::None(_))), "{nothing}");
        }
    }

    #[test]
    fn the_newest_anchor_with_each_machine_and_the_way_back_from_a_dead_run_are_indispensable() {
        let named = |session: &str, kind| format!("@home-{kind}-20260101T000000Z-{session}");
        let facts = |name: String| snapshot(&name);
        let pair = |session: &str| ["presync", "postsync"].map(|kind| facts(named(session, kind)));
        let sessions = [
            "00000001", "00000002", "00000003", "00000004", "00000005", "00000006",
        ];
        let all: Vec<_> = sessions.into_iter().flat_map(pair).collect();
        let mut history: Vec<HistoryEntry> = [
            ("00000001", "atlas", "vega", SessionState::Completed),
            ("00000002", "atlas", "vega", SessionState::Completed),
            ("00000003", "atlas", "lyra", SessionState::Completed),
            ("00000004", "atlas", "vega", SessionState::Failed),
        ]
        .map(|(session, from, to, state)| HistoryEntry {
            source_snapshots: pair(session).into(),
            ..entry(session, from, to, state)
        })
        .into();
        // Here the other machine is the source, and what is ours are the target's.
        history.insert(
            1,
            HistoryEntry {
                role: Host::Target,
                target_snapshots: pair("00000006").into(),
                ..entry("00000006", "lyra", "atlas", SessionState::Completed)
            },
        );
        history.push(HistoryEntry {
            source_snapshots: pair("00000005").into(),
            rollback_of: Some("00000001".to_owned()),
            ..entry("00000005", "atlas", "atlas", SessionState::Completed)
        });
        let mut state = MachineState {
            history,
            incomplete: None,
        };
        let kept = |state: &MachineState| -> Vec<String> {
            let found = indispensable(state, &all);
            let short = |name: &String| {
                let name = SnapshotName::parse(name).unwrap();
                format!("{} {}", name.session, name.kind.word())
            };
            found.iter().map(short).collect()
        };
        let anchors = [
            "00000002 postsync",
            "00000003 postsync",
            "00000002 presync",
            "00000003 presync",
        ];
        assert_eq!(kept(&state), anchors);
        let mut half = marker("00000005", Host::Target);
        half.rollback_of = Some("00000004".to_owned());
        half.presync = vec![named("00000006", "presync")];
        state.incomplete = Some(half.clone());
        let mut more = anchors.to_vec();
        more.extend(["00000004 presync", "00000005 presync", "00000006 presync"]);
        more.sort_by_key(|line| {
            line.split_once(' ')
                .map(|(session, kind)| (kind.to_owned(), session.to_owned()))
        });
        assert_eq!(kept(&state), more);
        // A rollback to before 4 that was to settle 1, which died: undone, it leaves 1 open again.
        half.settles = Some(Box::new(marker("00000001", Host::Target)));
        state.incomplete = Some(half);
        assert!(!more.contains(&"00000001 presync"));
        assert!(kept(&state).contains(&"00000001 presync".to_owned()));
        assert!(!kept(&state).contains(&"00000001 postsync".to_owned()));
    }

    #[test]
    fn a_rollback_undoes_what_was_changed_on_its_machine_from_its_session_on() {
        // "session from>to", "session from>to of"
        let history = |lines: &[&str]| -> Vec<HistoryEntry> {
            let parse = |line: &&str| {
                let words: Vec<&str> = line.split(' ').collect();
                let (state, last) = match words.last().unwrap().strip_suffix('!') {
                    Some(last) => (SessionState::Failed, last),
                    None => (SessionState::Completed, *words.last().unwrap()),
                };
                let (from, to) = words[1].trim_end_matches('!').split_once('>').unwrap();
                let mut entry = entry(words[0], from, to, state);
                entry.rollback_of = (words.len() > 2).then(|| last.to_owned());
                entry
            };
            lines.iter().map(parse).collect()
        };
        let undone = |lines: &[&str]| {
            undone(&history(lines))
                .into_iter()
                .collect::<Vec<_>>()
                .join(" ")
        };
        let one = ["1 a>v", "2 v>a", "3 a>v", "4 a>x"];
        assert_eq!(undone(&one), "");
        assert_eq!(undone(&[&one[..], &["r v>v 3"]].concat()), "3");
        assert_eq!(undone(&[&one[..], &["r v>v 1"]].concat()), "1 3");
        assert_eq!(undone(&[&one[..], &["r a>a 2"]].concat()), "2");
        // One that failed has undone nothing as a whole.
        assert_eq!(undone(&[&one[..], &["r v>v 3!"]].concat()), "");
        // Rolled back itself.
        assert_eq!(undone(&[&one[..], &["r v>v 1", "s v>v r"]].concat()), "r");
        assert_eq!(
            undone(&[&one[..], &["r v>v 3", "5 a>v", "s v>v 1"]].concat()),
            "1 3 5 r"
        );
        // Of a session nobody remembers.
        assert_eq!(undone(&[&one[..], &["r v>v 9"]].concat()), "");
    }
}
