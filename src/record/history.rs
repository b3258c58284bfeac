//! What two machines' memories say about a sync from one to the other: the history gates.
//!
//! Pure: two machines and what each remembers go in, findings come out. Only sessions that
//! COMPLETED count for the order; one that died shows as the incomplete marker it left.
//!
//! Order within a machine is that of its history file, because clocks differ and jump; only where
//! two files must be compared and share no session do the times decide.

use std::collections::BTreeSet;

use super::sessions::undone;
use super::{HistoryEntry, Incomplete, MachineName, MachineState};
use crate::event::{Host, ModuleStatus};

/// The two machines of a sync and what they remember.
#[derive(Debug, Clone, Copy)]
pub struct Memories<'a> {
    /// The machine the command was typed on.
    pub source: &'a MachineName,
    /// The machine that would be changed.
    pub target: &'a MachineName,
    /// What the source remembers.
    pub source_state: &'a MachineState,
    /// What the target remembers.
    pub target_state: &'a MachineState,
}

/// A reason to ask before this sync goes on, with the facts a message needs.
#[derive(Debug, Clone, PartialEq)]
pub enum GateFinding {
    /// These two have never completed a sync with each other, so nothing is known about what the
    /// target has of its own.
    FirstSync {
        /// The machine the command was typed on.
        source: MachineName,
        /// The machine that would be changed.
        target: MachineName,
        /// The last sync the target completed with any machine.
        target_last: Option<Box<HistoryEntry>>,
    },
    /// The target last synced with a third machine: it may hold work the source has never seen.
    SyncedElsewhere {
        /// The machine the command was typed on.
        source: MachineName,
        /// The machine that would be changed.
        target: MachineName,
        /// The third machine.
        other: MachineName,
        /// The target's last sync.
        last: Box<HistoryEntry>,
    },
    /// The last sync between the two went the same way: what was done on the target since has
    /// not come back.
    PushedTwice {
        /// The machine the command was typed on.
        source: MachineName,
        /// The machine that would be changed.
        target: MachineName,
        /// That last sync.
        last: Box<HistoryEntry>,
    },
    /// The last sync between the two was undone since, on the machine it had changed.
    RolledBack {
        /// The machine the command was typed on.
        source: MachineName,
        /// The machine that would be changed.
        target: MachineName,
        /// The sync that was undone.
        last: Box<HistoryEntry>,
    },
    /// A run began to change a machine and did not end well.
    Incomplete {
        /// The machines that carry its marker, by their role in the sync now asked for.
        on: Vec<(Host, MachineName)>,
        /// The marker.
        incomplete: Incomplete,
    },
}

impl GateFinding {
    /// The flag that lets a sync pass, where there is one.
    #[must_use]
    pub fn flag(&self) -> Option<&'static str> {
        match self {
            Self::FirstSync { .. } => Some("--allow-first-sync"),
            Self::SyncedElsewhere { .. } | Self::PushedTwice { .. } | Self::RolledBack { .. } => {
                Some("--allow-out-of-order")
            }
            Self::Incomplete { .. } => None,
        }
    }

    /// What is the case and what going on would mean, as one sentence for a person.
    #[must_use]
    pub fn explain(&self) -> String {
        match self {
            Self::FirstSync {
                source,
                target,
                target_last,
            } => {
                let (source, target) = (&source.hostname, &target.hostname);
                let last = match target_last {
                    Some(last) => format!(
                        " ({target} last synced at {}: {} to {})",
                        last.ended_at.strftime("%F %T UTC"),
                        last.source.hostname,
                        last.target.hostname
                    ),
                    None => String::new(),
                };
                format!(
                    "{source} and {target} have never synced with each other{last}; what {target} \
                     holds in the synced places will be replaced by what {source} holds"
                )
            }
            Self::SyncedElsewhere {
                source,
                target,
                other,
                last,
            } => format!(
                "{target} last synced with {other} (at {}), not with {source}; what came from \
                 {other} or was done on {target} since and is not on {source} will be replaced",
                last.ended_at.strftime("%F %T UTC"),
                source = source.hostname,
                target = target.hostname,
                other = other.hostname,
            ),
            Self::PushedTwice {
                source,
                target,
                last,
            } => format!(
                "the last sync between {source} and {target} (at {}) also went from {source} to \
                 {target}; what was done on {target} since has not been synced back and will be \
                 replaced",
                last.ended_at.strftime("%F %T UTC"),
                source = source.hostname,
                target = target.hostname,
            ),
            Self::RolledBack {
                source,
                target,
                last,
            } => {
                let (from, to) = (&last.source.hostname, &last.target.hostname);
                let at = last.ended_at.strftime("%F %T UTC");
                let begin = format!(
                    "the last sync between {} and {}, session {} from {from} to {to} (at {at}), was \
                     rolled back on {to}",
                    source.hostname, target.hostname, last.session
                );
                let (source, target) = (&source.hostname, &target.hostname);
                if to.eq_ignore_ascii_case(target) {
                    format!("{begin}; this one makes {target} like {source} once more")
                } else {
                    format!(
                        "{begin}; what {target} holds is newer than that, and will be replaced by what \
                         {source} had before"
                    )
                }
            }
            Self::Incomplete { on, incomplete } => {
                let machines: Vec<&str> = on.iter().map(|(_, m)| m.hostname.as_str()).collect();
                let place = match &incomplete.module {
                    Some(module) => format!("in module {module}"),
                    None => format!("in phase \"{}\"", incomplete.phase.title()),
                };
                let Incomplete {
                    session,
                    source,
                    target,
                    ..
                } = incomplete;
                let what = match &incomplete.rollback_of {
                    None => format!("session {session} from {source} to {target}"),
                    Some(of) => {
                        format!(
                            "session {session}, the rollback of {target} to before session {of}"
                        )
                    }
                };
                format!(
                    "{what}, begun at {}, did not end well: it stopped {place} (noted on {})",
                    incomplete.started_at.strftime("%F %T UTC"),
                    machines.join(" and "),
                )
            }
        }
    }
}

impl<'a> Memories<'a> {
    /// Machines cloned from one image share their id; then only the host names tell them apart.
    fn ids_are_unique(&self) -> bool {
        !self
            .source
            .machine_id
            .eq_ignore_ascii_case(&self.target.machine_id)
    }

    pub(super) fn is_same(&self, a: &MachineName, b: &MachineName) -> bool {
        a.is_same(b, self.ids_are_unique())
    }

    pub(super) fn is_of_pair(&self, entry: &HistoryEntry) -> bool {
        let (from, to) = (&entry.source, &entry.target);
        (self.is_same(from, self.source) && self.is_same(to, self.target))
            || (self.is_same(from, self.target) && self.is_same(to, self.source))
    }

    /// The newest completed sync between the two that this source remembers in which `module`
    /// succeeded, and whether it went the way this one goes.
    #[must_use]
    pub fn last_with_module(&self, module: &str) -> Option<(&'a HistoryEntry, bool)> {
        let ran = |entry: &HistoryEntry| {
            let mut results = entry.modules.iter();
            results.any(|r| r.module == module && r.status == ModuleStatus::Success)
        };
        // What was rolled back leaves the two as equal as the sync before it did.
        let undone = self.undone();
        let mut all = in_force(self.source_state, &undone);
        let entry = all.rfind(|e| self.is_of_pair(e) && ran(e))?;
        Some((entry, self.is_same(&entry.source, self.source)))
    }

    /// Sessions that were rolled back, whichever machine remembers it.
    fn undone(&self) -> BTreeSet<String> {
        let mut sessions = undone(&self.source_state.history);
        sessions.append(&mut undone(&self.target_state.history));
        sessions
    }

    /// The last completed sync between the two that was not rolled back, whichever machine
    /// remembers it.
    #[must_use]
    pub fn last_of_pair(&self) -> Option<&'a HistoryEntry> {
        self.newest_of_pair(&self.undone())
    }

    /// The same, passing over the sessions `without`.
    fn newest_of_pair(&self, without: &BTreeSet<String>) -> Option<&'a HistoryEntry> {
        let newest =
            |state: &'a MachineState| in_force(state, without).rfind(|e| self.is_of_pair(e));
        let knows = |state: &MachineState, entry: &HistoryEntry| {
            state.history.iter().any(|e| e.session == entry.session)
        };
        match (newest(self.source_state), newest(self.target_state)) {
            (Some(ours), Some(theirs)) => {
                // Whoever also remembers the other's newest, remembers what came after it.
                let source_is_ahead = knows(self.source_state, theirs);
                let target_is_ahead = knows(self.target_state, ours);
                Some(match (source_is_ahead, target_is_ahead) {
                    (true, false) => ours,
                    (false, true) => theirs,
                    _ if ours.ended_at > theirs.ended_at => ours,
                    _ => theirs,
                })
            }
            (ours, theirs) => ours.or(theirs),
        }
    }

    /// Every reason to ask before a sync from the source to the target.
    #[must_use]
    pub fn findings(&self) -> Vec<GateFinding> {
        let mut findings = self.incomplete();
        let undone = self.undone();
        let target_last = in_force(self.target_state, &undone).next_back();
        let newest = self.newest_of_pair(&BTreeSet::new());
        if newest.is_none() {
            findings.push(GateFinding::FirstSync {
                source: self.source.clone(),
                target: self.target.clone(),
                target_last: target_last.cloned().map(Box::new),
            });
        }
        if let Some(last) = target_last
            && !self.is_of_pair(last)
        {
            let other = match last.role {
                Host::Source => &last.target,
                Host::Target => &last.source,
            };
            findings.push(GateFinding::SyncedElsewhere {
                source: self.source.clone(),
                target: self.target.clone(),
                other: other.clone(),
                last: Box::new(last.clone()),
            });
        }
        if let Some(last) = newest.filter(|last| undone.contains(&last.session)) {
            findings.push(GateFinding::RolledBack {
                source: self.source.clone(),
                target: self.target.clone(),
                last: Box::new(last.clone()),
            });
        }
        if let Some(last) = self.newest_of_pair(&undone)
            && self.is_same(&last.source, self.source)
        {
            findings.push(GateFinding::PushedTwice {
                source: self.source.clone(),
                target: self.target.clone(),
                last: Box::new(last.clone()),
            });
        }
        findings
    }

    fn incomplete(&self) -> Vec<GateFinding> {
        let mut findings: Vec<GateFinding> = Vec::new();
        // The target first: it is the machine a rollback would concern.
        for (host, machine, state) in [
            (Host::Target, self.target, self.target_state),
            (Host::Source, self.source, self.source_state),
        ] {
            let Some(marker) = &state.incomplete else {
                continue;
            };
            let same = findings.iter_mut().find_map(|finding| match finding {
                GateFinding::Incomplete { on, incomplete }
                    if incomplete.session == marker.session =>
                {
                    Some(on)
                }
                _ => None,
            });
            match same {
                Some(on) => on.push((host, machine.clone())),
                None => findings.push(GateFinding::Incomplete {
                    on: vec![(host, machine.clone())],
                    incomplete: marker.clone(),
                }),
            }
        }
        findings
    }
}

/// The syncs of a machine that came to their end, oldest first, passing over rollbacks and the sessions `without`.
fn in_force<'a>(
    state: &'a MachineState,
    without: &BTreeSet<String>,
) -> impl DoubleEndedIterator<Item = &'a HistoryEntry> {
    state.history.iter().filter(|entry| {
        let is_sync = entry.is_whole() && entry.rollback_of.is_none();
        is_sync && !without.contains(&entry.session)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Phase, SessionState};
    use crate::record::testing::{entry, machine};

    /// `"atlas>vega"` completed, `"atlas>vega!"` failed, `"atlas>vega?"` failed and left nothing
    /// incomplete; each on the machines that took part,
    /// unless `"name:"` in front says who alone remembers it.
    fn world(syncs: &[&str]) -> impl Fn(&str) -> MachineState {
        let mut entries = Vec::new();
        for (number, sync) in syncs.iter().enumerate() {
            let (only, sync) = match sync.split_once(':') {
                Some((only, sync)) => (Some(only.to_owned()), sync),
                None => (None, *sync),
            };
            let (sync, of) = match sync.split_once(" ~") {
                Some((sync, of)) => (sync, Some(format!("{of:0>8}"))),
                None => (sync, None),
            };
            let whole = sync.ends_with('?');
            let (pair, state) = match sync.strip_suffix(['!', '?']) {
                Some(pair) => (pair, SessionState::Failed),
                None => (sync, SessionState::Completed),
            };
            let (from, to) = pair.split_once('>').unwrap();
            let mut entry = entry(&format!("{number:08x}"), from, to, state);
            entry.ended_at = jiff::Timestamp::from_second(i64::try_from(number).unwrap()).unwrap();
            entry.rollback_of = of;
            entry.whole = whole;
            entries.push((only, entry));
        }
        move |name: &str| MachineState {
            history: entries
                .iter()
                .filter(|(only, e)| {
                    only.as_ref().is_none_or(|o| o == name)
                        && (e.source.hostname == name || e.target.hostname == name)
                })
                .map(|(_, e)| {
                    let mut entry = e.clone();
                    entry.role = if e.source.hostname == name {
                        Host::Source
                    } else {
                        Host::Target
                    };
                    entry
                })
                .collect(),
            incomplete: None,
        }
    }

    fn findings_of(syncs: &[&str], wanted: &str) -> Vec<String> {
        let world = world(syncs);
        let (from, to) = wanted.split_once('>').unwrap();
        let memories = Memories {
            source: &machine(from),
            target: &machine(to),
            source_state: &world(from),
            target_state: &world(to),
        };
        memories
            .findings()
            .iter()
            .map(|f| match f {
                GateFinding::FirstSync { .. } => "first".to_owned(),
                GateFinding::SyncedElsewhere { other, .. } => {
                    format!("elsewhere {}", other.hostname)
                }
                GateFinding::PushedTwice { last, .. } => format!("twice {}", last.session),
                GateFinding::RolledBack { last, .. } => format!("back {}", last.session),
                GateFinding::Incomplete { .. } => "incomplete".to_owned(),
            })
            .collect()
    }

    #[test]
    fn order_decides() {
        let table: &[(&[&str], &str, &[&str])] = &[
            (&[], "a>b", &["first"]),
            (&["a>b"], "b>a", &[]),
            (&["a>b", "b>a"], "a>b", &[]),
            (&["a>b"], "a>b", &["twice 00000000"]),
            (&["a>b", "b>a", "a>b"], "a>b", &["twice 00000002"]),
            // A third machine in between.
            (&["a>b", "b>a", "c>b"], "a>b", &["elsewhere c"]),
            (&["a>b", "b>c"], "b>a", &[]),
            (&["a>b", "b>c"], "c>b", &[]),
            (&["a>b", "b>c"], "a>b", &["elsewhere c", "twice 00000000"]),
            (&["a>b", "c>a"], "a>b", &["twice 00000000"]),
            (&["c>b"], "a>b", &["first", "elsewhere c"]),
            (&["c>a"], "a>b", &["first"]),
            // What did not complete does not count.
            (&["a>b!"], "a>b", &["first"]),
            (&["a>b", "b>a!"], "a>b", &["twice 00000000"]),
            (&["a>b", "a>b!"], "b>a", &[]),
            (&["a>b", "b>a", "c>b!"], "a>b", &[]),
            // What failed and left nothing incomplete does.
            (&["a>b?"], "a>b", &["twice 00000000"]),
            (&["a>b", "b>a?"], "a>b", &[]),
            (&["a>b", "b>a", "c>b?"], "a>b", &["elsewhere c"]),
            // One of the two has lost its memory.
            (&["a:a>b"], "b>a", &[]),
            (&["a:a>b"], "a>b", &["twice 00000000"]),
            (&["b:a>b"], "a>b", &["twice 00000000"]),
            // One of the two missed the last sync's record: the other knows better.
            (&["a>b", "a:b>a"], "a>b", &[]),
            (&["a>b", "b:b>a"], "a>b", &[]),
            (&["a>b", "b>a", "b:a>b"], "b>a", &[]),
            // Rolled back: either way asks, and what came before decides about the rest.
            (&["a>b", "a>b ~0"], "a>b", &["back 00000000"]),
            (&["a>b", "a>b ~0"], "b>a", &["back 00000000"]),
            (&["a>b", "b:b>b ~0"], "a>b", &["back 00000000"]),
            (&["a>b", "b:b>b ~0"], "b>a", &["back 00000000"]),
            (
                &["a>b", "b>a", "a>b", "b:b>b ~2"],
                "a>b",
                &["back 00000002"],
            ),
            (
                &["a>b", "b>a", "a>b", "b:b>b ~2"],
                "b>a",
                &["back 00000002", "twice 00000001"],
            ),
            (&["a>b", "c>b", "b:b>b ~1"], "b>a", &[]),
            (&["a>b", "c>b", "b:b>b ~1"], "a>b", &["twice 00000000"]),
            // A rollback that did not come to its end has undone nothing as a whole.
            (&["a>b", "b:b>b! ~0"], "b>a", &[]),
            // Synced again since, or the rollback rolled back.
            (&["a>b", "b:b>b ~0", "a>b"], "b>a", &[]),
            (&["a>b", "b:b>b ~0", "b:b>b ~1"], "b>a", &[]),
        ];
        for (syncs, wanted, expected) in table {
            assert_eq!(findings_of(syncs, wanted), *expected, "{syncs:?} {wanted}");
        }
    }

    #[test]
    fn a_clock_that_jumped_back_does_not_change_the_order() {
        let mut first = entry("00000001", "a", "b", SessionState::Completed);
        first.ended_at = "2030-01-01T00:00:00Z".parse().unwrap();
        let mut second = entry("00000002", "b", "a", SessionState::Completed);
        second.ended_at = "2020-01-01T00:00:00Z".parse().unwrap();
        // b remembers both; a only the first.
        let a = MachineState {
            history: vec![first.clone()],
            incomplete: None,
        };
        let b = MachineState {
            history: vec![first, second.clone()],
            incomplete: None,
        };
        for (source, target, source_state, target_state) in [("a", "b", &a, &b), ("b", "a", &b, &a)]
        {
            let memories = Memories {
                source: &machine(source),
                target: &machine(target),
                source_state,
                target_state,
            };
            assert_eq!(memories.last_of_pair(), Some(&second), "{source}");
        }
    }

    #[test]
    fn machines_are_known_by_id_then_by_name() {
        let name = |hostname: &str, id: &str| MachineName {
            hostname: hostname.to_owned(),
            machine_id: id.to_owned(),
        };
        let past = |source: MachineName, target: MachineName| {
            let mut entry = entry("00000001", "", "", SessionState::Completed);
            (entry.source, entry.target) = (source, target);
            entry
        };
        // (source then, target then), (source now, target now), whether they are the same pair
        let table = [
            // Renamed.
            ((("a", "1"), ("b", "2")), (("b2", "2"), ("a", "1")), true),
            // Reinstalled under the same name.
            ((("a", "1"), ("b", "2")), (("b", "3"), ("a", "1")), false),
            // No id known: by name, in any case.
            ((("a", ""), ("B", "2")), (("b", ""), ("A", "1")), true),
            ((("a", ""), ("b", "")), (("c", ""), ("a", "")), false),
            // Cloned machines share an id: the names decide.
            ((("a", "1"), ("b", "1")), (("b", "1"), ("a", "1")), true),
            ((("a", "1"), ("c", "1")), (("b", "1"), ("a", "1")), false),
        ];
        for ((then_source, then_target), (source, target), known) in table {
            let entry = past(
                name(then_source.0, then_source.1),
                name(then_target.0, then_target.1),
            );
            let state = MachineState {
                history: vec![entry],
                incomplete: None,
            };
            let memories = Memories {
                source: &name(source.0, source.1),
                target: &name(target.0, target.1),
                source_state: &state,
                target_state: &MachineState::default(),
            };
            assert_eq!(
                memories.last_of_pair().is_some(),
                known,
                "{source:?} {target:?}"
            );
        }
    }

    #[test]
    fn an_incomplete_run_is_one_finding_that_names_where_its_marker_is() {
        let marker = |session: &str, role| Incomplete {
            session: session.to_owned(),
            role,
            source: "atlas".to_owned(),
            target: "vega".to_owned(),
            started_at: "2026-01-01T00:00:00Z".parse().unwrap(),
            phase: Phase::Execute,
            module: Some("user_data".to_owned()),
            presync: Vec::new(),
            address: None,
            rollback_of: None,
            settles: None,
        };
        let state = |incomplete| MachineState {
            history: vec![entry("00000009", "vega", "atlas", SessionState::Completed)],
            incomplete,
        };
        let findings = |source, target| {
            Memories {
                source: &machine("atlas"),
                target: &machine("vega"),
                source_state: &state(source),
                target_state: &state(target),
            }
            .findings()
        };
        let here = marker("00000001", Host::Source);
        let there = marker("00000001", Host::Target);
        let both = findings(Some(here.clone()), Some(there.clone()));
        let [GateFinding::Incomplete { on, incomplete }] = &both[..] else {
            panic!("{both:?}");
        };
        assert_eq!(incomplete, &there);
        assert_eq!(
            on.iter().map(|(h, _)| *h).collect::<Vec<_>>(),
            [Host::Target, Host::Source]
        );
        let text = both[0].explain();
        for part in ["00000001", "atlas", "vega", "user_data", "2026-01-01"] {
            assert!(text.contains(part), "{text}");
        }
        assert_eq!(findings(Some(here), None).len(), 1);
        let other = marker("00000002", Host::Source);
        assert_eq!(findings(Some(other), Some(there)).len(), 2);
        assert_eq!(findings(None, None), []);
    }

    #[test]
    fn every_explanation_names_both_machines() {
        for syncs in [&[][..], &["atlas>vega"], &["atlas>vega", "rigel>vega"]] {
            let world = world(syncs);
            let memories = Memories {
                source: &machine("atlas"),
                target: &machine("vega"),
                source_state: &world("atlas"),
                target_state: &world("vega"),
            };
            let findings = memories.findings();
            assert!(!findings.is_empty());
            for finding in findings {
                let text = finding.explain();
                assert!(text.contains("atlas") && text.contains("vega"), "{text}");
                assert!(finding.flag().is_some());
            }
        }
    }
}
