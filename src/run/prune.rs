//! Old snapshots of a machine: which ones a policy no longer keeps, and deleting them.
//!
//! After a sync and by hand it is the same decision, and a dry run lists exactly what it comes to.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use crate::agent::client::{AgentClient, AgentError};
use crate::agent::protocol::{Reply, Request};
use crate::config::SnapshotConfig;
use crate::escape::escape_str;
use crate::figures;
use crate::record::sessions::indispensable;
use crate::snapshot::SnapshotFacts;
use crate::snapshot::name::SnapshotName;
use crate::snapshot::retention::{Policy, expired};
use crate::snapshot::space::Held;

/// How long it may take to find out what snapshots hold.
const SPACE_LIMIT: Duration = Duration::from_secs(5);
/// Sessions that are named.
const NAMED_MAX: usize = 10;

/// The snapshots in `snapshot_dir` that `policy` does not keep, the oldest session first. What the next
/// sync begins from, and the way back from a run that has not ended, stay whatever it says.
pub fn what_goes(
    agent: &AgentClient,
    snapshot_dir: &str,
    policy: Policy,
    with_space: bool,
) -> Result<Vec<SnapshotFacts>, AgentError> {
    let (mut all, kept) = there(agent, snapshot_dir, with_space)?;
    let names = expired(&all, policy, &kept, Timestamp::now());
    let place = |name: &String| names.iter().position(|gone| gone == name);
    all.retain(|snapshot| place(&snapshot.name).is_some());
    all.sort_by_key(|snapshot| place(&snapshot.name));
    Ok(all)
}

/// All snapshots in `snapshot_dir`, and the names of those that stay whatever a policy says.
fn there(
    agent: &AgentClient,
    snapshot_dir: &str,
    with_space: bool,
) -> Result<(Vec<SnapshotFacts>, BTreeSet<String>), AgentError> {
    let Reply::State(state) = agent.call(Request::ReadState)? else {
        return Err(agent.nonsense("no history"));
    };
    let list = Request::ListSnapshots {
        snapshot_dir: snapshot_dir.to_owned(),
        with_space,
    };
    let Reply::Snapshots(all) = agent.call(list)? else {
        return Err(agent.nonsense("no snapshots"));
    };
    let kept = indispensable(&state, &all);
    Ok((all, kept))
}

/// What deleting old snapshots of a machine would free.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Relief {
    /// Sessions whose snapshots could go, oldest first: when it was, and what only they hold.
    sessions: Vec<(String, Timestamp, u64)>,
    /// The fewest that have to go so that there is enough, or else all that can: the number to keep.
    keep: u32,
    /// Whether an age has to be named for them to go, because one is configured.
    names_age: bool,
    /// What that frees.
    bytes: u64,
    /// Whether it is enough.
    is_enough: bool,
    /// Whether it may be more.
    at_least: bool,
}

impl Relief {
    /// Asks a machine; `None` if nothing could go, or nothing would come of it.
    pub fn find(
        agent: &AgentClient,
        config: &SnapshotConfig,
        wanted: u64,
    ) -> Result<Option<Self>, AgentError> {
        let dir = &config.snapshot_dir;
        let (all, kept) = there(agent, dir, false)?;
        let request = Request::SnapshotSpace {
            snapshot_dir: dir.clone(),
            limit_millis: u64::try_from(SPACE_LIMIT.as_millis()).unwrap_or(u64::MAX),
        };
        let Reply::Held(held) = agent.call(request)? else {
            return Err(agent.nonsense("not what snapshots hold"));
        };
        let names_age = config.max_age_days.is_some();
        Ok(Self::of(
            (&all, &kept),
            &held,
            names_age,
            wanted,
            Timestamp::now(),
        ))
    }

    fn of(
        (all, kept): (&[SnapshotFacts], &BTreeSet<String>),
        held: &Held,
        names_age: bool,
        wanted: u64,
        now: Timestamp,
    ) -> Option<Self> {
        let goes = |keep_recent| {
            let max_age = names_age.then(|| SignedDuration::from_hours(1));
            expired(
                all,
                Policy {
                    keep_recent,
                    max_age,
                },
                kept,
                now,
            )
        };
        let freed = |names: &[String]| held.freed(|name| names.iter().any(|gone| gone == name));
        let everything = goes(0);
        let mut sessions = Vec::<(String, Timestamp, u64)>::new();
        for name in everything
            .iter()
            .filter_map(|name| SnapshotName::parse(name))
        {
            if sessions
                .iter()
                .all(|(session, ..)| *session != name.session)
            {
                let of_it = |other: &&String| {
                    SnapshotName::parse(other).is_some_and(|n| n.session == name.session)
                };
                let of_it: Vec<String> = everything.iter().filter(of_it).cloned().collect();
                sessions.push((name.session.clone(), name.at, freed(&of_it)));
            }
        }
        // Each step keeps one session less.
        let known: BTreeSet<String> = (all.iter())
            .filter_map(|facts| Some(SnapshotName::parse(&facts.name)?.session))
            .collect();
        let most = u32::try_from(known.len()).unwrap_or(u32::MAX);
        let enough = (0..most)
            .rev()
            .find(|keep| freed(&goes(*keep)) >= wanted.max(1));
        let keep = enough.unwrap_or(0);
        let bytes = freed(&goes(keep));
        (bytes > 0).then_some(Self {
            sessions,
            keep,
            names_age,
            bytes,
            is_enough: enough.is_some(),
            at_least: !held.complete,
        })
    }

    /// For people, with the command that does it; `host` if that is another machine.
    #[must_use]
    pub fn words(&self, host: Option<&str>) -> String {
        let mut text = match host {
            Some(host) => format!(
                "old snapshots on {} hold what nothing else does:",
                escape_str(host)
            ),
            None => "old snapshots here hold what nothing else does:".to_owned(),
        };
        for (session, at, bytes) in self.sessions.iter().take(NAMED_MAX) {
            let (at, bytes) = (at.strftime("%F %T UTC"), figures::bytes(*bytes));
            let _ = write!(text, "\n    session {}, {at}: {bytes}", escape_str(session));
        }
        if self.sessions.len() > NAMED_MAX {
            let more = (self.sessions.len() - NAMED_MAX) as u64;
            let _ = write!(text, "\n    and {} more", figures::number(more));
        }
        let least = if self.at_least { "at least " } else { "" };
        let enough = if self.is_enough {
            ""
        } else {
            ", which is not enough"
        };
        let bytes = figures::bytes(self.bytes);
        let _ = write!(
            text,
            "\nthis frees {least}{bytes}{enough}:\n    pc-switcher snapshots prune"
        );
        let _ = write!(text, " --keep {}", self.keep);
        if self.names_age {
            text.push_str(" --older-than 1h");
        }
        if let Some(host) = host {
            let _ = write!(text, " --host {}", escape_str(host));
        }
        text
    }
}

/// Deletes `snapshots`; how many they were.
pub fn delete(
    agent: &AgentClient,
    snapshot_dir: &str,
    snapshots: &[SnapshotFacts],
) -> Result<usize, AgentError> {
    if !snapshots.is_empty() {
        agent.call(Request::DeleteSnapshots {
            snapshot_dir: snapshot_dir.to_owned(),
            names: snapshots
                .iter()
                .map(|snapshot| snapshot.name.clone())
                .collect(),
        })?;
    }
    Ok(snapshots.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::testing::snapshot;
    use crate::snapshot::space::HeldSet;

    fn name(day: u32) -> String {
        format!("@home-presync-2026010{day}T000000Z-0000000{day}")
    }

    fn relief(wanted: u64, kept: &[u32], names_age: bool) -> Option<Relief> {
        let all: Vec<SnapshotFacts> = (1..=4).map(|day| snapshot(&name(day))).collect();
        let set = |days: &[u32], bytes| HeldSet {
            names: days.iter().map(|day| name(*day)).collect(),
            bytes,
        };
        let held = Held {
            sets: vec![
                set(&[1], 10),
                set(&[1, 2], 100),
                set(&[3], 1000),
                set(&[4], 1),
            ],
            complete: true,
        };
        let kept = kept.iter().map(|day| name(*day)).collect();
        let now = "2026-03-01T00:00:00Z".parse().unwrap();
        Relief::of((&all, &kept), &held, names_age, wanted, now)
    }

    #[test]
    fn the_fewest_sessions_that_free_enough_are_named_with_the_command() {
        for (wanted, kept, keep, bytes, is_enough) in [
            (1, &[4][..], 3, 10, true),
            (11, &[4], 2, 110, true),
            (500, &[4], 1, 1110, true),
            (5000, &[4], 0, 1110, false),
            (500, &[4, 3], 0, 110, false),
        ] {
            let relief = relief(wanted, kept, false).unwrap();
            let found = (relief.keep, relief.bytes, relief.is_enough);
            assert_eq!(found, (keep, bytes, is_enough), "{wanted}");
        }
        assert_eq!(relief(1, &[1, 2, 3, 4], false), None);
        let words = relief(500, &[4], true).unwrap().words(Some("vega"));
        assert_eq!(
            words,
            "old snapshots on vega hold what nothing else does:\n    \
             session 00000001, 2026-01-01 00:00:00 UTC: 10 B\n    \
             session 00000002, 2026-01-02 00:00:00 UTC: 0 B\n    \
             session 00000003, 2026-01-03 00:00:00 UTC: 1000 B\n\
             this frees 1.1 KiB:\n    \
             pc-switcher snapshots prune --keep 1 --older-than 1h --host vega"
        );
        assert!(
            relief(5000, &[4], false)
                .unwrap()
                .words(None)
                .contains("not enough")
        );
    }
}
