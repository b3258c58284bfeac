//! Which of our snapshots may go: the newest sessions stay, older ones leave by number and age.
//!
//! A session's snapshots are kept or dropped together, because a rollback needs all of them.
//! Names a caller protects (the newest anchor, the presync snapshots of a run that died) stay
//! whatever the policy says. Pure: nothing is looked at but the arguments.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};

use super::SnapshotFacts;
use super::name::SnapshotName;

/// How much is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// So many of the newest sessions are kept whatever their age.
    pub keep_recent: u32,
    /// Of the others, those older than this go; `None`: all of them go.
    pub max_age: Option<SignedDuration>,
}

/// So many days.
#[must_use]
pub fn days(days: u32) -> SignedDuration {
    SignedDuration::from_hours(24 * i64::from(days))
}

/// Names of the snapshots to delete, oldest session first.
///
/// Only names of our pattern and read-only snapshots are ever returned.
#[must_use]
pub fn expired(
    snapshots: &[SnapshotFacts],
    policy: Policy,
    protected: &BTreeSet<String>,
    now: Timestamp,
) -> Vec<String> {
    // A session's age is that of its newest snapshot. Names tell the time to the second: within one,
    // the filesystem knows which came later.
    let mut sessions: BTreeMap<String, ((Timestamp, u64), BTreeSet<&SnapshotFacts>)> =
        BTreeMap::new();
    for snapshot in snapshots {
        let Some(name) = SnapshotName::parse(&snapshot.name) else {
            continue;
        };
        let (at, members) = sessions
            .entry(name.session)
            .or_insert(((name.at, 0), BTreeSet::new()));
        *at = (*at).max((name.at, snapshot.created_generation));
        members.insert(snapshot);
    }
    let mut newest_first: Vec<_> = sessions
        .into_iter()
        .map(|(session, (at, members))| (at, session, members))
        .collect();
    newest_first.sort_by(|a, b| (b.0, &b.1).cmp(&(a.0, &a.1)));

    let kept = usize::try_from(policy.keep_recent).unwrap_or(usize::MAX);
    let is_too_old = |at: Timestamp| {
        let too_old = |limit| now.duration_since(at) > limit;
        policy.max_age.is_none_or(too_old)
    };
    newest_first
        .iter()
        .skip(kept)
        .filter(|((at, _), _, _)| is_too_old(*at))
        .rev()
        .flat_map(|(_, _, members)| members.iter())
        .filter(|s| s.readonly && !protected.contains(&s.name))
        .map(|s| s.name.clone())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::name::SnapshotKind;
    use proptest::prelude::*;

    const DAY: i64 = 86_400;

    fn now() -> Timestamp {
        "2026-03-01T12:00:00Z".parse().unwrap()
    }

    fn facts(session: &str, age_days: i64, kind: SnapshotKind, subvolume: &str) -> SnapshotFacts {
        let at = Timestamp::from_second(now().as_second() - age_days * DAY).unwrap();
        let name = SnapshotName {
            subvolume: subvolume.to_owned(),
            kind,
            at,
            session: session.to_owned(),
        }
        .to_string();
        SnapshotFacts {
            subvolume: subvolume.to_owned(),
            path: format!("/.snapshots/{name}"),
            name,
            uuid: String::new(),
            parent_uuid: None,
            generation: 1,
            created_generation: 1,
            changed_generation: 1,
            readonly: true,
            exclusive_bytes: None,
        }
    }

    fn session(id: &str, age_days: i64) -> Vec<SnapshotFacts> {
        vec![
            facts(id, age_days, SnapshotKind::Presync, "@"),
            facts(id, age_days, SnapshotKind::Presync, "@home"),
            facts(id, age_days, SnapshotKind::Postsync, "@home"),
        ]
    }

    fn sessions_of(names: &[String]) -> Vec<String> {
        let mut sessions: Vec<String> = names
            .iter()
            .map(|n| SnapshotName::parse(n).unwrap().session)
            .collect();
        sessions.dedup();
        sessions
    }

    #[test]
    fn number_and_age_decide_together() {
        let all: Vec<_> = [("aaaaaaaa", 1), ("bbbbbbbb", 5), ("cccccccc", 9)]
            .into_iter()
            .flat_map(|(id, age)| session(id, age))
            .collect();
        let none = BTreeSet::new();
        let table: [(u32, Option<u32>, &[&str]); 7] = [
            (3, None, &[]),
            (2, None, &["cccccccc"]),
            (1, None, &["cccccccc", "bbbbbbbb"]),
            (0, None, &["cccccccc", "bbbbbbbb", "aaaaaaaa"]),
            (1, Some(7), &["cccccccc"]),
            (1, Some(30), &[]),
            // A session exactly as old as allowed stays.
            (0, Some(5), &["cccccccc"]),
        ];
        for (keep_recent, max_age_days, gone) in table {
            let policy = Policy {
                keep_recent,
                max_age: max_age_days.map(days),
            };
            let names = expired(&all, policy, &none, now());
            assert_eq!(sessions_of(&names), gone, "{policy:?}");
            assert_eq!(names.len(), gone.len() * 3);
        }
    }

    #[test]
    fn foreign_and_writable_snapshots_are_never_named() {
        let mut writable = facts("aaaaaaaa", 99, SnapshotKind::Presync, "@");
        writable.readonly = false;
        let mut foreign = facts("bbbbbbbb", 99, SnapshotKind::Presync, "@");
        foreign.name = "@-daily-2020".to_owned();
        let policy = Policy {
            keep_recent: 0,
            max_age: None,
        };
        let names = expired(&[writable, foreign], policy, &BTreeSet::new(), now());
        assert_eq!(names, [""; 0]);
    }

    proptest! {
        #[test]
        fn the_promises_hold_for_any_set(
            ages in prop::collection::vec((0_u32..8, 0_i64..40, any::<bool>(), 0_usize..3), 0..40),
            protect in prop::collection::vec(any::<prop::sample::Index>(), 0..4),
            keep_recent in 0_u32..6,
            max_age_days in prop::option::of(0_u32..40),
            rotate in any::<prop::sample::Index>(),
        ) {
            let mut all: Vec<SnapshotFacts> = ages
                .into_iter()
                .map(|(id, age, post, subvolume)| {
                    let kind = if post { SnapshotKind::Postsync } else { SnapshotKind::Presync };
                    facts(&format!("{id:08x}"), age, kind, ["@", "@home", "root"][subvolume])
                })
                .collect();
            all.sort_by(|a, b| a.name.cmp(&b.name));
            all.dedup();
            let protected: BTreeSet<String> = if all.is_empty() {
                BTreeSet::new()
            } else {
                protect.iter().map(|i| i.get(&all).name.clone()).collect()
            };
            let policy = Policy { keep_recent, max_age: max_age_days.map(days) };
            let gone = expired(&all, policy, &protected, now());

            // Nothing twice, nothing invented, nothing protected.
            let set: BTreeSet<&String> = gone.iter().collect();
            prop_assert_eq!(set.len(), gone.len());
            prop_assert!(gone.iter().all(|n| all.iter().any(|s| &s.name == n)));
            prop_assert!(gone.iter().all(|n| !protected.contains(n)));

            // The order of the input does not matter.
            if !all.is_empty() {
                let mut turned = all.clone();
                turned.rotate_left(rotate.index(all.len()));
                prop_assert_eq!(&expired(&turned, policy, &protected, now()), &gone);
            }

            // By definition: per session its newest time, ranked.
            let mut newest: BTreeMap<String, Timestamp> = BTreeMap::new();
            for s in &all {
                let name = SnapshotName::parse(&s.name).unwrap();
                let at = newest.entry(name.session).or_insert(name.at);
                *at = (*at).max(name.at);
            }
            for s in &all {
                let id = SnapshotName::parse(&s.name).unwrap().session;
                let mine = (newest[&id], &id);
                let newer = newest.iter().filter(|(other, at)| (**at, *other) > mine).count();
                let age = now().as_second() - newest[&id].as_second();
                let must_go = newer >= keep_recent as usize
                    && max_age_days.is_none_or(|d| age > i64::from(d) * DAY)
                    && !protected.contains(&s.name);
                prop_assert_eq!(gone.contains(&s.name), must_go, "{}", s.name);
            }

            // Keeping more never deletes more.
            let more = Policy { keep_recent: keep_recent + 1, ..policy };
            let fewer = expired(&all, more, &protected, now());
            prop_assert!(fewer.iter().all(|n| gone.contains(n)));
        }
    }
}
