//! Which anchor a sync of two machines can start from, by what both remember; or why there is none.

use std::collections::BTreeMap;

use super::anchor::{Anchor, Recorded};
use super::history::Memories;
use super::{HistoryEntry, MachineName, MachineState};
use crate::event::{Host, ModuleStatus};

/// An anchor that a sync can start from, in the roles of that sync.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// The session that left it.
    pub session: String,
    /// Whether that went the way this one goes.
    pub same_direction: bool,
    /// What is equal.
    pub anchor: Anchor,
    /// What the folders' filters said then.
    pub filters: BTreeMap<String, String>,
}

/// Why two machines have no anchor that a sync can start from.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoAnchor {
    /// They have never synced the module.
    #[error("first sync with {target}")]
    FirstSync {
        /// The machine that would be changed.
        target: String,
    },
    /// The histories have not been looked at.
    #[error("nothing is known of earlier syncs")]
    Unread,
    /// A run began to change one of them and did not end well.
    #[error("session {session} did not end well")]
    Incomplete {
        /// That run.
        session: String,
    },
    /// A third machine has changed one of them since.
    #[error("{hostname} was changed by a sync from {other} in between (session {session})")]
    Elsewhere {
        /// The machine that was changed.
        hostname: String,
        /// By which one.
        other: String,
        /// When.
        session: String,
    },
    /// One of the two does not know of the other's last sync with it.
    #[error("{hostname} does not remember session {session}")]
    Forgotten {
        /// Who does not.
        hostname: String,
        /// What.
        session: String,
    },
    /// The last session left none.
    #[error("session {session} left no anchor: {why}")]
    NotLeft {
        /// That session.
        session: String,
        /// Its reason.
        why: String,
    },
    /// What was written down cannot be understood.
    #[error("what {hostname} remembers of session {session} is damaged")]
    Damaged {
        /// Whose history.
        hostname: String,
        /// Which entry.
        session: String,
    },
    /// Both remember the session and not the same of it.
    #[error("the two machines remember session {session} differently")]
    Differs {
        /// Which entry.
        session: String,
    },
}

impl Memories<'_> {
    /// The anchor that the last sync of the two with `module` has left, if both remember the same
    /// and nothing has come in between but people's own work, or a rollback: what that has put back is
    /// something that was changed since, which the kernel's diff names as anything else. A subvolume
    /// that another one has taken the place of is another one to the diff.
    pub fn anchor(&self, module: &str) -> Result<Standing, NoAnchor> {
        self.no_incomplete_run()?;
        let ran = |entry: &&HistoryEntry| ran(entry, module);
        let newest = |state| newest_first(state).find(|e| self.is_of_pair(e) && ran(e));
        let sides = [
            (self.source, self.source_state, newest(self.source_state)),
            (self.target, self.target_state, newest(self.target_state)),
        ];
        let (ours, theirs) = match (sides[0].2, sides[1].2) {
            (None, None) => {
                return Err(NoAnchor::FirstSync {
                    target: self.target.hostname.clone(),
                });
            }
            (Some(ours), Some(theirs)) if ours.session == theirs.session => (ours, theirs),
            (ours, theirs) => {
                let knows = |state, entry: &&HistoryEntry| {
                    newest_first(state).any(|e| e.session == entry.session)
                };
                let unknown_there = ours.filter(|e| !knows(self.target_state, e));
                let (hostname, entry) = match unknown_there {
                    Some(entry) => (self.target, Some(entry)),
                    None => (self.source, theirs.or(ours)),
                };
                return Err(NoAnchor::Forgotten {
                    hostname: hostname.hostname.clone(),
                    session: entry.map(|e| e.session.clone()).unwrap_or_default(),
                });
            }
        };
        let session = ours.session.clone();
        if [ours, theirs].iter().any(|e| !e.is_whole()) {
            return Err(NoAnchor::Incomplete { session });
        }
        for (machine, state, _) in sides {
            let later = newest_first(state).take_while(|e| e.session != session);
            for entry in later.filter(ran) {
                if entry.role == Host::Target && !self.is_of_pair(entry) {
                    return Err(NoAnchor::Elsewhere {
                        hostname: machine.hostname.clone(),
                        other: entry.source.hostname.clone(),
                        session: entry.session.clone(),
                    });
                }
            }
        }
        let recorded = |machine: &MachineName, entry: &HistoryEntry| match &entry.anchor {
            Some(Recorded::Anchor(anchor)) if anchor.fits() => Ok((**anchor).clone()),
            Some(Recorded::None { no_anchor }) => Err(NoAnchor::NotLeft {
                session: session.clone(),
                why: no_anchor.clone(),
            }),
            None => Err(NoAnchor::NotLeft {
                session: session.clone(),
                why: format!("pc-switcher {} left none", entry.version),
            }),
            Some(_) => Err(NoAnchor::Damaged {
                hostname: machine.hostname.clone(),
                session: session.clone(),
            }),
        };
        let anchor = recorded(self.source, ours)?;
        if anchor != recorded(self.target, theirs)? || ours.folders != theirs.folders {
            return Err(NoAnchor::Differs { session });
        }
        let same_direction = self.is_same(&ours.source, self.source);
        Ok(Standing {
            session,
            same_direction,
            anchor: if same_direction {
                anchor
            } else {
                anchor.reversed()
            },
            filters: ours.folders.clone(),
        })
    }

    /// The rollback of one of the two that came after a session both remember.
    #[must_use]
    pub fn rolled_back_since(&self, session: &str) -> Option<&HistoryEntry> {
        let concerns = |entry: &&HistoryEntry| {
            let machine = &entry.target;
            entry.rollback_of.is_some()
                && (self.is_same(machine, self.source) || self.is_same(machine, self.target))
        };
        [self.source_state, self.target_state]
            .into_iter()
            .find_map(|state| {
                let later = newest_first(state).take_while(|e| e.session != session);
                later.filter(concerns).last()
            })
    }

    /// A push from one of the two to a third machine that died has left the pusher itself whole.
    fn no_incomplete_run(&self) -> Result<(), NoAnchor> {
        for (state, other) in [
            (self.source_state, self.target),
            (self.target_state, self.source),
        ] {
            if let Some(marker) = &state.incomplete
                && (marker.role == Host::Target
                    || marker.target.eq_ignore_ascii_case(&other.hostname))
            {
                return Err(NoAnchor::Incomplete {
                    session: marker.session.clone(),
                });
            }
        }
        Ok(())
    }
}

fn newest_first(state: &MachineState) -> impl Iterator<Item = &HistoryEntry> {
    state.history.iter().rev()
}

/// Whether `module` was at work in a session, however that ended.
fn ran(entry: &HistoryEntry, module: &str) -> bool {
    let mut results = entry.modules.iter();
    results.any(|r| r.module == module && r.status != ModuleStatus::Skipped)
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::event::{ModuleResult, SessionState};
    use crate::record::anchor::{LEFT_MAX, LeftPath};
    use crate::record::testing::{anchor, entry, machine};

    /// `"a>b"`: a good sync that left an anchor; `!` a failed one, `?` one that failed only in what was
    /// over with it, `-` without the module, `0` without an anchor, `<` a rollback; `"a:a>b"`: only a
    /// remembers it.
    fn standing(syncs: &[&str], wanted: &str) -> Result<String, NoAnchor> {
        let state = |name: &str| {
            let mut state = MachineState::default();
            for (number, sync) in syncs.iter().enumerate() {
                let (only, sync) = sync.split_once(':').unwrap_or((name, sync));
                let (pair, kind) = sync.split_at(3);
                let (from, to) = pair.split_once('>').unwrap();
                if only != name || (from != name && to != name) {
                    continue;
                }
                let (end, status) = match kind {
                    "!" => (SessionState::Failed, ModuleStatus::Failed),
                    "?" => (SessionState::Failed, ModuleStatus::Success),
                    "-" => (SessionState::Completed, ModuleStatus::Skipped),
                    _ => (SessionState::Completed, ModuleStatus::Success),
                };
                let id = format!("{number:08x}");
                let mut entry = entry(&id, from, to, end);
                if to == name {
                    entry.role = Host::Target;
                }
                entry.modules = vec![ModuleResult {
                    module: "m".to_owned(),
                    status,
                    started_at: Timestamp::UNIX_EPOCH,
                    ended_at: Timestamp::UNIX_EPOCH,
                    error: None,
                    summary: None,
                }];
                entry.rollback_of = (kind == "<").then(|| "00000000".to_owned());
                if kind == "<" {
                    entry.modules.clear();
                }
                entry.whole = kind == "?";
                if kind.is_empty() || kind == "?" {
                    entry.anchor = Some(Recorded::Anchor(Box::new(anchor(&id))));
                }
                state.history.push(entry);
            }
            state
        };
        let (from, to) = wanted.split_once('>').unwrap();
        let memories = Memories {
            source: &machine(from),
            target: &machine(to),
            source_state: &state(from),
            target_state: &state(to),
        };
        let standing = memories.anchor("m")?;
        let expected = if standing.same_direction {
            anchor(&standing.session)
        } else {
            anchor(&standing.session).reversed()
        };
        assert_eq!(standing.anchor, expected);
        let way = if standing.same_direction {
            "same"
        } else {
            "back"
        };
        Ok(format!("{way} {}", &standing.session[7..]))
    }

    #[test]
    fn an_anchor_stands_while_nobody_else_has_changed_either_machine() {
        let table: &[(&[&str], &str, &str)] = &[
            (&[], "a>b", "first sync with b"),
            (&["a>b"], "a>b", "same 0"),
            (&["a>b"], "b>a", "back 0"),
            (&["a>b", "b>a"], "a>b", "back 1"),
            (&["a>b", "a>b-"], "a>b", "same 0"),
            (&["a>b-"], "a>b", "first sync with b"),
            (&["a>b", "a>b!"], "a>b", "session 00000001 did not end well"),
            (&["a>b!", "a>b"], "a>b", "same 1"),
            (&["a>b", "a>b?"], "a>b", "same 1"),
            (&["a>b", "b>a?"], "a>b", "back 1"),
            (
                &["a>b?", "a>b!"],
                "a>b",
                "session 00000001 did not end well",
            ),
            (
                &["a>b", "a>b0"],
                "a>b",
                "session 00000001 left no anchor: pc-switcher 0.1.0 left none",
            ),
            // What is pushed elsewhere stays as it is; what comes from elsewhere does not.
            (&["a>b", "a>c"], "a>b", "same 0"),
            (&["a>b", "b>c"], "a>b", "same 0"),
            (
                &["a>b", "c>b"],
                "a>b",
                "b was changed by a sync from c in between (session 00000001)",
            ),
            (
                &["a>b", "c>a!"],
                "a>b",
                "a was changed by a sync from c in between (session 00000001)",
            ),
            (&["a>b", "c>b-"], "a>b", "same 0"),
            (&["c>b", "a>b"], "a>b", "same 1"),
            // What a rollback has put back was changed since.
            (&["a>b", "a>b<"], "a>b", "same 0"),
            (&["a>b", "a>b<"], "b>a", "back 0"),
            (&["a>b", "b:b>b<"], "a>b", "same 0"),
            (
                &["a>b", "a>b!", "a>b<"],
                "a>b",
                "session 00000001 did not end well",
            ),
            (&["a>b", "a>c<"], "a>b", "same 0"),
            (&["a>b<", "a>b"], "a>b", "same 1"),
            // One of the two has missed something.
            (&["a:a>b"], "a>b", "b does not remember session 00000000"),
            (&["b:a>b"], "a>b", "a does not remember session 00000000"),
            (
                &["a>b", "b:b>a"],
                "a>b",
                "a does not remember session 00000001",
            ),
            (
                &["a>b", "a:b>a"],
                "a>b",
                "b does not remember session 00000001",
            ),
            (
                &["a:a>b", "b:b>a"],
                "a>b",
                "b does not remember session 00000000",
            ),
        ];
        for (syncs, wanted, expected) in table {
            let found = standing(syncs, wanted).unwrap_or_else(|e| e.to_string());
            assert_eq!(found, *expected, "{syncs:?} {wanted}");
        }
    }

    #[test]
    fn an_anchor_that_both_do_not_remember_alike_is_none() {
        let entry = |uuid: &str| {
            let mut entry = entry("00000001", "a", "b", SessionState::Completed);
            entry.modules = vec![ModuleResult {
                module: "m".to_owned(),
                status: ModuleStatus::Success,
                started_at: Timestamp::UNIX_EPOCH,
                ended_at: Timestamp::UNIX_EPOCH,
                error: None,
                summary: None,
            }];
            let mut anchor = anchor("00000001");
            anchor.target[0].uuid = uuid.to_owned();
            entry.anchor = Some(Recorded::Anchor(Box::new(anchor)));
            entry
        };
        let find = |ours: HistoryEntry, theirs: HistoryEntry| {
            let state = |entry| MachineState {
                history: vec![entry],
                incomplete: None,
            };
            let memories = Memories {
                source: &machine("a"),
                target: &machine("b"),
                source_state: &state(ours),
                target_state: &state(theirs),
            };
            memories
                .anchor("m")
                .map_err(|e| e.to_string())
                .map(|s| s.session)
        };
        assert_eq!(find(entry("x"), entry("x")), Ok("00000001".to_owned()));
        let differs = find(entry("x"), entry("y")).unwrap_err();
        assert!(differs.contains("differently"), "{differs}");
        let mut filtered = entry("x");
        filtered.folders.insert("/home".into(), "other".into());
        assert!(find(entry("x"), filtered).is_err());
        let mut damaged = entry("x");
        damaged.anchor = Some(Recorded::Damaged(serde_json::json!([])));
        let found = find(entry("x"), damaged).unwrap_err();
        assert_eq!(found, "what b remembers of session 00000001 is damaged");
        let mut many = anchor("00000001");
        let folder = many.folders.get_mut("/home").unwrap();
        folder.left = vec![LeftPath(b"x".to_vec()); LEFT_MAX + 1];
        let mut large = entry("x");
        large.anchor = Some(Recorded::Anchor(Box::new(many)));
        assert!(find(large.clone(), large).is_err());
    }
}
