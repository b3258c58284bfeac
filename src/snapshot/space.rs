//! What would be free if snapshots were gone: data that nothing else holds.
//!
//! Quotas would know it, and are off on most machines. So each snapshot is compared with the one after it,
//! and the last one with the subvolume as it is: what was written since has a younger generation, and what
//! was there before and is no more is in nobody's younger tree. Of such data the kernel is asked who holds
//! it. That costs what was changed, not what there is, and it ends when its time is up.
//!
//! What trees themselves take is not counted: it is little beside data.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags, openat};
use serde::{Deserialize, Serialize};

use super::manage::list;
use super::subvolumes::{filesystem_of_dir, open_subvolume};
use super::{SnapshotError, SnapshotFacts};
use crate::sys::btrfs;
use crate::sys::extents::{Extents, Item};
use crate::sys::trusted::Directory;

/// More inodes than this between two snapshots are not looked at.
const TOUCHED_MAX: usize = 2_000_000;
/// Inode numbers this far apart are still read together.
const GAP: u64 = 16;
/// Of these at most so many, between two looks at the clock.
const AT_ONCE: usize = 4096;

/// What snapshots hold that nothing else does.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    /// By the snapshots that must all be gone for it to be free.
    pub sets: Vec<HeldSet>,
    /// Whether that is all of it; else it is at least so much.
    pub complete: bool,
}

/// What some snapshots hold together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldSet {
    /// Their names.
    pub names: Vec<String>,
    /// Bytes on disk.
    pub bytes: u64,
}

impl Held {
    /// Bytes that are free when all that `goes` says yes to are gone.
    #[must_use]
    pub fn freed(&self, goes: impl Fn(&str) -> bool) -> u64 {
        let all_go = |set: &&HeldSet| set.names.iter().all(|name| goes(name));
        self.sets.iter().filter(all_go).map(|set| set.bytes).sum()
    }
}

/// One of our snapshots, open.
struct Snapshot {
    facts: SnapshotFacts,
    id: u64,
    fd: File,
}

/// What the snapshots in `snapshot_dir` hold, as far as that can be found out within `time`.
pub fn held(snapshot_dir: &Path, time: Duration) -> Result<Held, SnapshotError> {
    let end = Instant::now() + time;
    let all = list(snapshot_dir, false)?;
    let mut held = Held {
        sets: Vec::new(),
        complete: true,
    };
    if all.is_empty() {
        return Ok(held);
    }
    let at = |source| SnapshotError::btrfs(snapshot_dir, source);
    let directory = Directory::open(snapshot_dir)?;
    let filesystem = filesystem_of_dir(snapshot_dir)?;
    let mut by_origin = BTreeMap::<String, Vec<Snapshot>>::new();
    let mut names = BTreeMap::<u64, String>::new();
    for facts in all {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = openat(&directory, &*facts.name, flags, Mode::empty());
        let fd = File::from(fd.map_err(|e| at(e.into()))?);
        let id = btrfs::subvolume_info(&fd).map_err(at)?.id;
        names.insert(id, facts.name.clone());
        let origin = facts.parent_uuid.clone().unwrap_or_default();
        let of = by_origin.entry(origin).or_default();
        of.push(Snapshot { facts, id, fd });
    }
    let mut search = Search {
        extents: Extents::new(),
        found: BTreeMap::new(),
        end,
    };
    for (origin, mut snapshots) in by_origin {
        snapshots.sort_by_key(|s| (s.facts.created_generation, s.id));
        for (older, newer) in snapshots.iter().zip(snapshots.iter().skip(1)) {
            held.complete &= search.gone(older, &newer.fd).map_err(at)?;
        }
        let Some(last) = snapshots.last() else {
            continue;
        };
        let live = open_subvolume(&last.facts.subvolume, filesystem.as_deref())?;
        match live.filter(|live| live.info.uuid == origin) {
            Some(live) => held.complete &= search.gone(last, &live.root).map_err(at)?,
            // There is nothing that grew out of it to compare with.
            None => held.complete = false,
        }
    }
    let mut sets = BTreeMap::<BTreeSet<u64>, u64>::new();
    let any = File::from(rustix::io::dup(&directory).map_err(|e| at(e.into()))?);
    for (logical, bytes) in std::mem::take(&mut search.found) {
        if search.is_over() {
            held.complete = false;
            break;
        }
        let Some(holders) = search.extents.holders(any.as_fd(), logical).map_err(at)? else {
            held.complete = false;
            continue;
        };
        if !holders.is_empty() && holders.iter().all(|id| names.contains_key(id)) {
            *sets.entry(holders).or_default() += bytes;
        }
    }
    held.sets = sets
        .into_iter()
        .map(|(ids, bytes)| HeldSet {
            names: ids.iter().map(|id| names[id].clone()).collect(),
            bytes,
        })
        .collect();
    Ok(held)
}

/// Extents that were and are no more.
struct Search {
    extents: Extents,
    /// Where they are, and how long.
    found: BTreeMap<u64, u64>,
    end: Instant,
}

/// What trees say of some inodes.
#[derive(Default)]
struct Of {
    entries: BTreeSet<u64>,
    extents: BTreeMap<u64, BTreeMap<u64, u64>>,
}

impl Search {
    fn is_over(&self) -> bool {
        Instant::now() > self.end
    }

    /// Notes what `older` holds and `newer`, which it was the beginning of, does not; whether that was all.
    fn gone(&mut self, older: &Snapshot, newer: &File) -> io::Result<bool> {
        let (was, is) = (older.fd.as_fd(), newer.as_fd());
        let since = older.facts.created_generation;
        let end = self.end;
        let is_over = || Instant::now() > end;
        let Some(touched) = self.extents.touched(is, since, TOUCHED_MAX, is_over)? else {
            return Ok(false);
        };
        let mut vanished = Vec::new();
        let near = touched.chunk_by(|a, b| b - a <= GAP);
        for run in near.flat_map(|run| run.chunks(AT_ONCE)) {
            if self.is_over() {
                return Ok(false);
            }
            let range = (run[0], run[run.len() - 1]);
            let then = self.of(was, range)?;
            if then.entries.is_empty() && then.extents.is_empty() {
                continue;
            }
            let now = self.of(is, range)?;
            for (number, extents) in &then.extents {
                let still = now.extents.get(number);
                let is_gone = |at: &u64| still.is_none_or(|still| !still.contains_key(at));
                self.found
                    .extend(extents.iter().filter(|(at, _)| is_gone(at)));
            }
            for number in then.entries.difference(&now.entries) {
                // It may have been moved.
                if !self.extents.exists(is, *number)? {
                    vanished.push(*number);
                }
            }
        }
        // What was in a directory that is gone went with it, or was moved before.
        let mut seen = BTreeSet::new();
        while let Some(number) = vanished.pop() {
            if self.is_over() {
                return Ok(false);
            }
            if !seen.insert(number) {
                continue;
            }
            let then = self.of(was, (number, number))?;
            self.found.extend(then.extents.into_values().flatten());
            for number in then.entries {
                if !self.extents.exists(is, number)? {
                    vanished.push(number);
                }
            }
        }
        Ok(true)
    }

    /// What a tree says of the inodes in `range`.
    fn of(&mut self, fd: std::os::fd::BorrowedFd<'_>, range: (u64, u64)) -> io::Result<Of> {
        let mut of = Of::default();
        self.extents.items(fd, range, |number, item| match item {
            Item::Entry(target, _) => {
                of.entries.insert(target);
            }
            Item::Extent(at, bytes) => {
                of.extents.entry(number).or_default().insert(at, bytes);
            }
        })?;
        Ok(of)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::NewSnapshot;
    use crate::snapshot::manage::create;
    use crate::sys::testing::{TestBtrfs, run};

    const MIB: u64 = 1 << 20;

    #[test]
    fn what_only_snapshots_hold_is_found_by_who_must_go_for_it() {
        let Some(btrfs) = TestBtrfs::new() else {
            return;
        };
        btrfs.create_subvolume("sp-home");
        let home = btrfs.mount_subvolume("sp-home");
        let dir = btrfs.top().join("snapshots");
        let sh = |script: &str| run(&format!("cd '{}'; {script}; sync -f .", home.display()));
        let take = |kind: &str, session: &str| {
            let new = NewSnapshot {
                subvolume: "sp-home".to_owned(),
                name: format!("sp-home-{kind}-20260101T000000Z-{session}"),
            };
            create(&dir, &[new]).unwrap();
        };
        let data = |size: &str, path: &str| format!("head -c {size} /dev/urandom >{path}");
        sh(&[
            "mkdir deep deep/er".to_owned(),
            data("1M", "one"),
            data("2M", "deep/two"),
            data("4M", "deep/er/four"),
            data("8M", "eight"),
            data("3M", "kept"),
            data("5M", "moved"),
        ]
        .join("; "));
        assert_eq!(held(&dir, Duration::from_secs(9)).unwrap().sets, []);
        take("presync", "0000000a");
        sh(&format!("rm one; {}", data("16M", "sixteen")));
        take("postsync", "0000000a");
        // Gone with its directory, gone by itself, replaced, moved, and still held by a clone.
        sh(&format!(
            "cp --reflink=always deep/two clone; mkdir new; mv moved new/; {}; rm -r deep sixteen",
            data("8M", "eight")
        ));
        let found = held(&dir, Duration::from_secs(9)).unwrap();
        assert!(found.complete);
        let freed = |found: &Held, sessions: &[&str]| {
            found.freed(|name| sessions.iter().any(|s| name.contains(s)))
        };
        assert_eq!(freed(&found, &["presync-20260101T000000Z-0000000a"]), MIB);
        assert_eq!(
            freed(&found, &["postsync-20260101T000000Z-0000000a"]),
            16 * MIB
        );
        assert_eq!(freed(&found, &["0000000a"]), (1 + 4 + 8 + 16) * MIB);
        take("presync", "0000000b");
        sh("rm clone kept");
        let found = held(&dir, Duration::from_secs(9)).unwrap();
        assert_eq!(freed(&found, &["0000000a"]), (1 + 4 + 8 + 16) * MIB);
        assert_eq!(freed(&found, &["0000000b"]), 0);
        assert_eq!(
            freed(&found, &["0000000a", "0000000b"]),
            (1 + 4 + 8 + 16 + 2 + 3) * MIB
        );
        let nothing = held(&dir, Duration::ZERO).unwrap();
        assert!(!nothing.complete);
        // And the filesystem itself says so.
        let names: Vec<String> = list(&dir, false)
            .unwrap()
            .into_iter()
            .map(|s| s.name)
            .collect();
        let free = || {
            run(&format!(
                "btrfs filesystem sync '{0}'; btrfs subvolume sync '{0}'; btrfs filesystem sync '{0}'",
                home.display()
            ));
            let shown = run(&format!("btrfs filesystem df -b '{}'", home.display()));
            let line = shown
                .lines()
                .find(|line| line.starts_with("Data"))
                .unwrap()
                .to_owned();
            line.rsplit('=')
                .next()
                .unwrap()
                .trim()
                .parse::<u64>()
                .unwrap()
        };
        let before = free();
        crate::snapshot::manage::delete(&dir, &names).unwrap();
        assert_eq!(before - free(), (1 + 4 + 8 + 16 + 2 + 3) * MIB);
        assert_eq!(
            held(&dir, Duration::from_secs(9)).unwrap(),
            Held {
                sets: Vec::new(),
                complete: true
            }
        );
    }
}
