//! The diff of two snapshots on a real btrfs: what the kernel shows, hides and names oddly.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fmt::Write;
use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use super::*;
use crate::escape::escape_bytes;
use crate::mirror::entry::Kind;
use crate::mirror::path::split;
use crate::mirror::tests_anchor::assert_synced;
use crate::mirror::tests_random::{Manifest, manifest};
use crate::sys::btrfs;
use crate::sys::testing::{TestBtrfs, run};

/// One disk for all tests here; the guardian process takes it away when this process ends.
static DISK: LazyLock<Option<TestBtrfs>> = LazyLock::new(TestBtrfs::new);

/// Longer than a tick of the clock from which files get their times.
const TICK: Duration = Duration::from_millis(20);

/// A subvolume of its own, and snapshots of it.
struct Lab {
    top: PathBuf,
    /// What the names of its snapshots begin with.
    name: String,
    live: PathBuf,
}

impl Lab {
    fn new() -> Option<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let disk = DISK.as_ref()?;
        let name = format!("live{}", COUNT.fetch_add(1, Ordering::Relaxed));
        let live = disk.create_subvolume(&name);
        let top = disk.top();
        Some(Self { top, name, live })
    }

    /// Runs a script in the live subvolume.
    #[track_caller]
    fn shell(&self, script: &str) {
        run(&format!(
            "cd '{}' && set -e && {{ {script}\n}}",
            self.live.display()
        ));
    }

    /// Makes a snapshot. What is done to the live subvolume before and after it is done at
    /// different times: the kernel's coarse clock ticks at least every 10 ms (`CONFIG_HZ`).
    fn snapshot(&self, name: &str) -> PathBuf {
        std::thread::sleep(TICK);
        let (live, top) = (
            File::open(&self.live).unwrap(),
            File::open(&self.top).unwrap(),
        );
        let name = format!("{}-{name}", self.name);
        btrfs::create_readonly_snapshot(live, top, OsStr::new(&name)).unwrap();
        self.top.join(name)
    }
}

fn compare(version: u32, older: &Path, newer: &Path) -> Result<Changes, DiffError> {
    let (older, newer) = (File::open(older).unwrap(), File::open(newer).unwrap());
    let both = (older.as_fd(), newer.as_fd());
    changes_in(version, both, 100_000, &AbortFlag::new())
}

/// What both formats of the stream show, which must be the same, judged by a walk and by a sync.
#[track_caller]
fn judged(older: &Path, newer: &Path, what: &str) -> Changes {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let [first, second] = [1, 2].map(|version| {
        let changes = compare(version, older, newer).unwrap_or_else(|e| panic!("{what}: {e}"));
        assert_eq!(changes.version, version);
        judge_against_walk(older, newer, &changes, what);
        changes
    });
    assert_eq!(lines(&first), lines(&second), "{what}");
    // What it is for: whoever had the older one has the newer one afterwards.
    let name = format!("synced{}", COUNT.fetch_add(1, Ordering::Relaxed));
    let dir = older.parent().unwrap();
    assert_synced(dir, &name, older, newer, what);
    second
}

/// What changes when `change` follows `setup`, a line a path.
#[track_caller]
fn between(setup: &str, change: &str) -> Option<Vec<String>> {
    let lab = Lab::new()?;
    lab.shell(setup);
    let older = lab.snapshot("older");
    lab.shell(change);
    let newer = lab.snapshot("newer");
    Some(lines(&judged(&older, &newer, change)))
}

fn lines(changes: &Changes) -> Vec<String> {
    changes.list().iter().map(line).collect()
}

fn line(changed: &Changed) -> String {
    let names = [
        (What::APPEARED, "appeared"),
        (What::GONE, "gone"),
        (What::CONTENT, "content"),
        (What::ATTRIBUTES, "attributes"),
        (What::SUBTREE, "subtree"),
        (What::NESTED, "nested"),
    ];
    let names = names.iter().filter(|(bit, _)| changed.what.has(*bit));
    let mut line = format!("{}:", escape_bytes(&changed.path));
    for (_, name) in names {
        line.push(' ');
        line.push_str(name);
    }
    for range in changed.ranges.iter() {
        write!(line, " {}..{}", range.start, range.end).unwrap();
    }
    if let Some(from) = &changed.from {
        write!(line, " <- {}", escape_bytes(from)).unwrap();
    }
    line
}

/// A directory's inode number and a name in it.
type Name<'a> = (u64, &'a [u8]);

/// The names that share an inode with each path, each as it is in its directory wherever that is.
fn groups(all: &Manifest) -> BTreeMap<&[u8], BTreeSet<Name<'_>>> {
    let mut by_ino: BTreeMap<u64, Vec<&[u8]>> = BTreeMap::new();
    for (path, entry) in all {
        if entry.meta.kind != Kind::Dir {
            by_ino.entry(entry.ino).or_default().push(path);
        }
    }
    let mut groups = BTreeMap::new();
    for group in by_ino.values() {
        let names: BTreeSet<Name<'_>> = group
            .iter()
            .map(|path| {
                let (dir, name) = split(path);
                (all[dir].ino, name)
            })
            .collect();
        for path in group {
            groups.insert(*path, names.clone());
        }
    }
    groups
}

/// Every path that differs in a complete walk of both snapshots is covered, ranges are right, and
/// so is what is said of moves.
#[track_caller]
fn judge_against_walk(older: &Path, newer: &Path, changes: &Changes, what: &str) {
    let (before, now) = (manifest(older), manifest(newer));
    let (groups_before, groups_now) = (groups(&before), groups(&now));
    let said = || lines(changes).join("\n");
    let paths: BTreeSet<&Vec<u8>> = before.keys().chain(now.keys()).collect();
    for path in paths {
        let differs = match (before.get(path), now.get(path)) {
            // The stub of a nested subvolume has the time at which it was looked at.
            (Some(a), Some(b)) if (a.ino, b.ino) == (2, 2) => false,
            (Some(a), Some(b)) => {
                !a.same(b) || groups_before.get(&**path) != groups_now.get(&**path)
            }
            _ => true,
        };
        assert!(
            !differs || changes.may_differ(path),
            "{what}: {} differs and is not named\n{:?}\n{:?}\n{}",
            escape_bytes(path),
            before.get(path),
            now.get(path),
            said()
        );
    }
    let mut last: Option<&[u8]> = None;
    for changed in changes.list() {
        let path = &changed.path;
        assert!(last < Some(path), "{what}: not sorted\n{}", said());
        last = Some(path);
        if let Some(from) = &changed.from {
            assert_ne!(from, path);
            if changed.what.has(What::APPEARED) {
                let inos = (
                    before.get(from).map(|d| d.ino),
                    now.get(path).map(|d| d.ino),
                );
                assert!(
                    inos.0.is_some() && inos.0 == inos.1,
                    "{what}: {}",
                    line(changed)
                );
            }
        }
        let origin = changed.from.as_ref().unwrap_or(path);
        if changed.what.has(What::CONTENT) && !changed.ranges.is_empty() {
            let text =
                |top: &Path, path: &[u8]| std::fs::read(top.join(OsStr::from_bytes(path))).unwrap();
            let (mut a, mut b) = (text(older, origin), text(newer, path));
            let longer = a.len().max(b.len());
            let mut end = 0;
            for range in changed.ranges.iter() {
                assert!(
                    range.start < range.end && range.end <= longer as u64,
                    "{what}"
                );
                assert!(end == 0 || end < range.start, "{what}: {}", line(changed));
                end = range.end;
            }
            a.resize(longer, 0);
            b.resize(longer, 0);
            for range in changed.ranges.iter() {
                let (start, end) = (
                    range.start.try_into().unwrap(),
                    range.end.try_into().unwrap(),
                );
                a[start..end].fill(0);
                b[start..end].fill(0);
            }
            assert!(a == b, "{what}: differs outside of {}", line(changed));
        } else if !changed.what.has(What::CONTENT)
            && let (Some(a), Some(b)) = (before.get(origin), now.get(path))
            && a.ino == b.ino
        {
            assert!(a.same_content(b), "{what}: {}", line(changed));
        }
    }
}

mod measure;
mod random;
mod refusals;
mod scenarios;
mod streams;
mod table;
