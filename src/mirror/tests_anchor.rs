//! Syncs that begin at an anchor, with the kernel's own diff, judged as full scans are.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::drift::Drift;
use super::entry::Time;
use super::found;
use super::suspects::{Mark, Suspect};
use super::testing::Pair;
use super::tests::{Lab, rsync_differences, sh};
use super::tests_property::{empty, number, random_rules, round};
use super::tests_random::{Random, grow, manifest, mutate};
use super::tree::Trust;
use super::wire::{
    DiffFolder, DiffRequest, MirrorReply, MirrorRequest, PlanTotals, Restricted, ScanTree,
};
use crate::interrupt::AbortFlag;
use crate::record::anchor::LeftPath;
use crate::snapshot::SnapshotFacts;
use crate::sys::testing::TestBtrfs;

/// Two live subvolumes with an anchor between them.
pub(super) struct Anchored {
    pub(super) lab: Lab,
    pub(super) pair: Pair,
    pub(super) rules: String,
    count: usize,
    anchor: Option<(SnapshotFacts, SnapshotFacts)>,
    left: Vec<LeftPath>,
    /// Everything is compared, and then what is planned once more, for what was moved.
    pub(super) compares_all: bool,
    /// When both were equal.
    equal_at: Option<Time>,
}

/// What one sync came to.
pub(super) struct Synced {
    pub(super) changes: Vec<(char, String)>,
    pub(super) drift: Option<Drift>,
    pub(super) looked: (u64, u64),
    pub(super) passes: usize,
    pub(super) errors: u64,
    /// What was changed behind our back.
    pub(super) behind: Vec<(char, String)>,
    /// What was said to have been renamed while the plan was carried out, from and to.
    pub(super) renames: Vec<(String, String)>,
    /// What the plan came to.
    pub(super) totals: PlanTotals,
    /// How long planning, carrying it out and settling took.
    pub(super) took: [Duration; 3],
}

/// What scanning came to.
struct Scanned {
    /// The source's snapshot, and the target's.
    now: SnapshotFacts,
    before: SnapshotFacts,
    replies: (MirrorReply, MirrorReply),
    passes: usize,
}

fn facts(path: &Path) -> SnapshotFacts {
    let info = crate::sys::btrfs::subvolume_info(File::open(path).unwrap()).unwrap();
    SnapshotFacts {
        subvolume: String::new(),
        name: path.file_name().unwrap().to_str().unwrap().to_owned(),
        path: path.to_str().unwrap().to_owned(),
        uuid: info.uuid,
        parent_uuid: info.parent_uuid,
        generation: info.generation,
        created_generation: info.created_generation,
        changed_generation: info.changed_generation,
        readonly: info.is_readonly,
        exclusive_bytes: None,
    }
}

fn tree(root: &str, rules: &str) -> ScanTree {
    ScanTree {
        root: root.to_owned(),
        without_mounts: false,
        rules: rules.to_owned(),
        origin: "test.filter".to_owned(),
        content: false,
        trust: None,
        anchor: None,
        restricted: None,
    }
}

/// Has one machine find out what differs between two snapshots.
fn diff(
    pair: &mut Pair,
    source: bool,
    older: &SnapshotFacts,
    newer: &str,
    root: &str,
) -> MirrorReply {
    let folder = DiffFolder {
        below: String::new(),
        root: root.to_owned(),
        rules: source,
        plan: None,
    };
    pair.alone(
        source,
        MirrorRequest::Diff(Box::new(DiffRequest {
            older: older.clone(),
            newer: Some(newer.to_owned()),
            folders: vec![folder],
            own_writes: false,
        })),
    )
}

/// Scans until no more names turn out to be suspect.
fn scan(
    pair: &mut Pair,
    source: &ScanTree,
    target: &ScanTree,
) -> ((MirrorReply, MirrorReply), usize) {
    let (mut source, mut target) = (source.clone(), target.clone());
    for pass in 1..4 {
        let replies = pair
            .both(
                MirrorRequest::ScanSource(source.clone()),
                MirrorRequest::ScanTarget(target.clone()),
            )
            .unwrap();
        assert_eq!((&replies.0.full_scan, &replies.1.full_scan), (&None, &None));
        if replies.0.more_suspects + replies.1.more_suspects == 0 {
            return (replies, pass);
        }
        for scan in [&mut source, &mut target] {
            scan.restricted.as_mut().expect("only then").found = true;
        }
    }
    panic!("no end of suspects");
}

/// Syncs what became of a snapshot, `newer`, to a copy of what it was, `older`, by nothing but the
/// kernel's diff; fails the test unless a full scan finds them equal afterwards. Everything is made in
/// `dir`, whose files begin with `name`.
#[track_caller]
pub(in crate::mirror) fn assert_synced(
    dir: &Path,
    name: &str,
    older: &Path,
    newer: &Path,
    what: &str,
) {
    let [to, half, before] =
        ["to", "half", "before"].map(|part| dir.join(format!("{name}-{part}")));
    let [from, was, live] = [newer, older, &to].map(|path| path.to_str().unwrap().to_owned());
    // The target's half of the anchor holds what the source's does.
    sh(
        dir,
        &format!(
            "btrfs -q subvolume snapshot '{was}' '{live}'; \
             for s in half before; do btrfs -q subvolume snapshot -r '{live}' \"{0}-$s\"; done; \
             btrfs filesystem sync .",
            dir.join(name).display(),
        ),
    );
    let mut pair = Pair::new();
    for (is_source, older, newer, root) in [
        (true, facts(older), &*from, &*from),
        (false, facts(&half), before.to_str().unwrap(), &*live),
    ] {
        let reply = diff(&mut pair, is_source, &older, newer, root);
        assert_eq!(reply.full_scan, None, "{what}");
    }
    let restricted = |root: &str| ScanTree {
        restricted: Some(Restricted {
            found: true,
            ..Restricted::default()
        }),
        ..tree(root, "")
    };
    scan(&mut pair, &restricted(&from), &restricted(&live));
    let planned = pair.list(&to);
    let applied = pair.apply(newer, &to).unwrap();
    assert_eq!(
        applied.errors, 0,
        "{what}: {:?} {planned:?}",
        pair.complaints
    );
    let (_, target) = pair.scan(newer, &to, "", true).unwrap();
    let rest = target.plan.unwrap();
    assert_eq!(
        rest.changes(),
        0,
        "{what}: {planned:?}, then {:?}",
        pair.list(&to)
    );
    // A nested subvolume is nobody's, and its place is left alone.
    let has_nested = [newer, &to].into_iter().any(|top| {
        let mut all = manifest(top).into_values();
        all.any(|found| found.ino == 2)
    });
    if !has_nested {
        assert_eq!(rsync_differences(newer, &to), "", "{what}");
    }
    sh(
        dir,
        &format!(
            "for s in '{live}' '{}' '{}'; do btrfs property set -f \"$s\" ro false; chattr -ia \"$s\"; \
             btrfs -q subvolume delete \"$s\"; done",
            half.display(),
            before.display()
        ),
    );
}

impl Anchored {
    pub(super) fn new() -> Option<Self> {
        let disk = TestBtrfs::new()?;
        let (from, to) = (disk.create_subvolume("from"), disk.create_subvolume("to"));
        Some(Self {
            lab: Lab { disk, from, to },
            pair: Pair::new(),
            rules: String::new(),
            count: 0,
            anchor: None,
            left: Vec::new(),
            compares_all: false,
            equal_at: None,
        })
    }

    fn snapshot(&mut self, of: &Path) -> SnapshotFacts {
        self.count += 1;
        let path = self.lab.disk.top().join(format!("snapshot-{}", self.count));
        let (of, to) = (of.display(), path.display());
        sh(
            &self.lab.disk.top(),
            &format!("btrfs -q subvolume snapshot -r '{of}' '{to}'; btrfs filesystem sync ."),
        );
        facts(&path)
    }

    fn tree(&self, root: &str) -> ScanTree {
        tree(root, &self.rules)
    }

    fn diff(
        &mut self,
        source: bool,
        older: &SnapshotFacts,
        newer: &str,
        root: &str,
    ) -> MirrorReply {
        diff(&mut self.pair, source, older, newer, root)
    }

    /// As if the run before had not come to its end: the next sync compares everything.
    pub(super) fn forget(&mut self) {
        self.anchor = None;
        self.left.clear();
    }

    /// Plans a sync, by the anchor if there is one, and returns the source's snapshot.
    pub(super) fn plan(&mut self) -> String {
        self.scanned().now.path
    }

    fn scanned(&mut self) -> Scanned {
        let to = self.lab.to.to_str().unwrap().to_owned();
        let (now, before) = (
            self.snapshot(&self.lab.from.clone()),
            self.snapshot(&self.lab.to.clone()),
        );
        let (mut source, mut target) = (self.tree(&now.path), self.tree(&to));
        if let Some((ours, theirs)) = self.anchor.clone().filter(|_| self.compares_all) {
            source.anchor = Some(ours.path);
            target.anchor = Some(theirs.path);
            source.trust = self.equal_at.map(Trust::until);
            target.trust = source.trust;
        } else if let Some((ours, theirs)) = self.anchor.clone() {
            for (is_source, older, newer, root) in [
                (true, &ours, &now.path, &now.path),
                (false, &theirs, &before.path, &to),
            ] {
                let reply = self.diff(is_source, older, newer, root);
                assert_eq!(reply.full_scan, None);
            }
            source.anchor = Some(ours.path);
            target.anchor = Some(theirs.path);
            source.restricted = Some(Restricted {
                found: true,
                ..Restricted::default()
            });
            target.restricted = Some(Restricted {
                found: true,
                left: self.left.clone(),
                compared: Some(before.path.clone()),
                ..Restricted::default()
            });
        }
        let (mut replies, mut passes) = self.scan(&source, &target);
        let totals = replies.1.plan.clone().unwrap();
        if source.restricted.is_none() && source.anchor.is_some() && totals.changes() > 1 {
            source.restricted = Some(Restricted {
                origins: true,
                ..Restricted::default()
            });
            target.restricted = Some(Restricted {
                planned: true,
                ..Restricted::default()
            });
            let left = std::mem::take(&mut replies.1.left);
            (replies, passes) = self.scan(&source, &target);
            replies.1.left.extend(left);
        }
        Scanned {
            now,
            before,
            replies,
            passes,
        }
    }

    /// One sync, by the anchor if there is one; `meanwhile` is done on the target when the plan is
    /// made, `after` when it was carried out.
    pub(super) fn sync(&mut self, meanwhile: &str, after: &str) -> Synced {
        let to = self.lab.to.to_str().unwrap().to_owned();
        let begun = Instant::now();
        let Scanned {
            now,
            before,
            replies: scanned,
            passes,
        } = self.scanned();
        let planned = begun.elapsed();
        let changes = self.pair.list(&self.lab.to.clone());
        sh(&self.lab.to, meanwhile);
        let begun = Instant::now();
        let serve = MirrorRequest::Serve {
            root: now.path.clone(),
            others: Vec::new(),
        };
        let (_, applied) = self
            .pair
            .both(
                serve,
                MirrorRequest::Apply {
                    root: to.clone(),
                    others: Vec::new(),
                },
            )
            .unwrap();
        let carried_out = begun.elapsed();
        sh(&self.lab.to, after);
        let begun = Instant::now();
        let then = self.snapshot(&self.lab.to.clone());
        let behind = self.settle(&now, &before, &then, &to, &applied);
        let took = [planned, carried_out, begun.elapsed()];
        self.left = scanned.1.left.clone();
        let paths = behind
            .iter()
            .map(|(_, path)| LeftPath(path.clone().into_bytes()));
        self.left.extend(paths);
        self.anchor = Some((now, then));
        self.equal_at = Some(crate::mirror::plan::now());
        Synced {
            changes,
            drift: scanned.1.drift,
            looked: (scanned.0.looked, scanned.1.looked),
            passes,
            errors: applied.errors,
            behind,
            renames: std::mem::take(&mut self.pair.renames),
            totals: scanned.1.plan.unwrap_or_default(),
            took,
        }
    }

    fn scan(
        &mut self,
        source: &ScanTree,
        target: &ScanTree,
    ) -> ((MirrorReply, MirrorReply), usize) {
        scan(&mut self.pair, source, target)
    }

    /// What was written to the target between two snapshots and is not what the source has.
    fn settle(
        &mut self,
        now: &SnapshotFacts,
        before: &SnapshotFacts,
        then: &SnapshotFacts,
        live: &str,
        applied: &MirrorReply,
    ) -> Vec<(char, String)> {
        let reply = self.pair.alone(
            false,
            MirrorRequest::Diff(Box::new(DiffRequest {
                older: before.clone(),
                newer: Some(then.path.clone()),
                folders: vec![DiffFolder {
                    below: String::new(),
                    root: then.path.clone(),
                    rules: false,
                    plan: Some(live.to_owned()),
                }],
                own_writes: true,
            })),
        );
        assert_eq!(reply.full_scan, None);
        let (mut source, mut target) = (self.tree(&now.path), self.tree(&then.path));
        source.restricted = Some(Restricted::default());
        target.restricted = Some(Restricted {
            found: true,
            ..Restricted::default()
        });
        target.trust = applied.ended.map(Trust::until);
        self.scan(&source, &target);
        let few = self.pair.list(Path::new(&then.path));
        // Where much was planned, all is compared instead: it comes to the same.
        source.restricted = None;
        source.trust = Some(Trust::until(Time {
            secs: i64::MAX,
            nanos: 0,
        }));
        target.restricted = None;
        target.trust = target.trust.map(|ended| Trust {
            ours_since: applied.begun,
            ..ended
        });
        self.pair
            .both(
                MirrorRequest::ScanSource(source),
                MirrorRequest::ScanTarget(target),
            )
            .unwrap();
        let (mut much, mut same) = (self.pair.list(Path::new(&then.path)), few.clone());
        for list in [&mut much, &mut same] {
            list.sort();
        }
        if applied.errors > 0 {
            // What could not be done is seen only where all is looked at; there is no anchor then.
            much.retain(|change| same.contains(change));
        }
        assert_eq!(much, same);
        few
    }

    /// Fails the test unless a full scan finds nothing to do and both trees are equal for all judges.
    pub(super) fn judge(&mut self, what: &str) {
        let source = PathBuf::from(&self.anchor.as_ref().unwrap().0.path);
        let (to, rules) = (self.lab.to.clone(), self.rules.clone());
        let (_, target) = self.pair.scan(&source, &to, &rules, true).unwrap();
        let plan = target.plan.unwrap();
        assert_eq!(plan.changes(), 0, "{what}: {:?}", self.pair.list(&to));
        let live = std::mem::replace(&mut self.lab.from, source);
        round(&self.lab, &mut self.pair, &rules, what);
        self.lab.from = live;
    }
}

#[test]
fn random_changes_on_both_machines_are_synced_by_the_kernels_diff() {
    let first = number("PCS_SEED", 1);
    for seed in first..first + number("PCS_SEEDS", 6) {
        let Some(mut anchored) = Anchored::new() else {
            return;
        };
        let mut rng = Random::new(seed);
        let (from, to) = (anchored.lab.from.clone(), anchored.lab.to.clone());
        grow(&from, &mut rng, 80);
        grow(&to, &mut rng, 20);
        if rng.one_in(2) {
            anchored.rules = random_rules(&mut rng, 4);
        }
        for step in 0..5 {
            let what = format!("seed {seed} step {step} rules {:?}", anchored.rules);
            let synced = anchored.sync("", "");
            if synced.errors > 0 {
                // Hard links to what is left alone: no anchor comes of such a run.
                break;
            }
            assert_eq!(synced.behind, [], "{what}");
            anchored.judge(&what);
            if step > 0 {
                let drift = synced.drift.unwrap();
                assert!(
                    drift.changed + drift.noise <= synced.changes.len() as u64,
                    "{what}"
                );
            }
            mutate(&from, &mut rng, 8);
            mutate(&to, &mut rng, 6);
        }
        empty(&from);
        empty(&to);
    }
}

const TREE: &str = "mkdir -p a/b c; for n in 1 2 3 4 5; do echo $n >a/$n; echo $n >a/b/$n; done; echo x >c/x; ln c/x c/y; touch -d @9 a/1 a/2";

pub(super) fn listed(synced: &Synced) -> Vec<String> {
    let mut all: Vec<String> = (synced.changes.iter())
        .map(|(action, path)| format!("{action} {path}"))
        .collect();
    all.sort();
    all
}

#[test]
fn the_text_of_a_symlink_may_be_anything() {
    let Some(mut anchored) = Anchored::new() else {
        return;
    };
    let from = anchored.lab.from.clone();
    sh(&from, TREE);
    anchored.sync("", "");
    sh(
        &from,
        "ln -s /etc/hostname absolute; ln -s ../../x//y/ odd; ln -s . here; ln -s a/1 plain",
    );
    assert_eq!(listed(&anchored.sync("", "")).len(), 5);
    anchored.judge("symlinks");
}

#[test]
fn only_what_changed_is_looked_at_and_content_behind_equal_times_is_found() {
    let Some(mut anchored) = Anchored::new() else {
        return;
    };
    let (from, to) = (anchored.lab.from.clone(), anchored.lab.to.clone());
    sh(
        &from,
        &format!("{TREE}; mkdir many; touch $(seq -f 'many/f%.0f' 3000)"),
    );
    anchored.sync("", "");
    assert_eq!(listed(&anchored.sync("", "")), [""; 0]);
    sh(
        &from,
        "echo 9 >a/1; touch -d @9 a/1; mv a/b a/moved; echo more >>many/f7",
    );
    sh(
        &to,
        "echo 8 >a/2; touch -d @9 a/2; rm c/y; chmod 600 many/f9",
    );
    let synced = anchored.sync("", "");
    assert_eq!(synced.passes, 1);
    let expected = [
        "* a/1",
        "* a/2",
        "* c/y",
        "* many/f7",
        "> a/moved",
        ". a",
        ". c",
        ". many/f9",
    ];
    let expected: Vec<String> = expected
        .iter()
        .map(|l| l.replace("* c/y", "+ c/y"))
        .collect();
    let mut expected: Vec<&str> = expected.iter().map(String::as_str).collect();
    expected.sort_unstable();
    assert_eq!(listed(&synced), expected);
    assert!(
        synced.looked.0 < 80 && synced.looked.1 < 80,
        "{:?}",
        synced.looked
    );
    anchored.judge("by hand");
    // What was changed on the target, and on both.
    let drift = synced.drift.unwrap();
    let mut told: Vec<(String, bool)> = (drift.told.iter())
        .map(|t| (String::from(t.path.clone()), t.conflict))
        .collect();
    told.sort();
    let no = |path: &str| (path.to_owned(), false);
    assert_eq!(told, [no("a/2"), no("c/y"), no("many/f9")]);
    assert_eq!((drift.changed, drift.conflicts, drift.noise), (3, 0, 0));
}

#[test]
fn what_was_changed_on_both_machines_is_a_conflict_unless_it_is_the_same_change() {
    let Some(mut anchored) = Anchored::new() else {
        return;
    };
    let (from, to) = (anchored.lab.from.clone(), anchored.lab.to.clone());
    sh(
        &from,
        &format!("{TREE}; mkdir d; echo >d/f; echo >same; echo >.bash_history"),
    );
    anchored.sync("", "");
    sh(
        &from,
        "echo ours >a/1; rm a/2; echo ours >a/3; rm -r d; echo new >same; touch -d @77 same; echo >a/in;          echo x >>.bash_history; mkdir both; echo 1 >both/f",
    );
    sh(
        &to,
        "echo theirs >a/1; echo theirs >a/2; rm a/3; echo >d/g; echo new >same; touch -d @77 same;          echo >a/out; echo y >>.bash_history; mkdir both; echo 2 >both/f",
    );
    let synced = anchored.sync("", "");
    let drift = synced.drift.unwrap();
    let mut told: Vec<String> = (drift.told.iter())
        .map(|t| {
            let side = |told: &Option<super::drift::Told>| match told {
                Some(told) => format!("{} {}", told.kind, told.size.unwrap_or_default()),
                None => "nothing".to_owned(),
            };
            let sign = if t.conflict { "!" } else { " " };
            let path = String::from(t.path.clone());
            format!("{sign} {path}: {} / {}", side(&t.source), side(&t.target))
        })
        .collect();
    told.sort();
    assert_eq!(
        told,
        [
            "  a/out: nothing / file 1",
            "  d/g: nothing / file 1",
            "! a/1: file 5 / file 7",
            "! a/2: nothing / file 7",
            "! a/3: file 5 / nothing",
            "! both/f: file 2 / file 2",
        ]
    );
    assert_eq!((drift.changed, drift.conflicts, drift.noise), (6, 4, 1));
    anchored.judge("conflicts");
}

#[test]
fn what_is_written_to_the_target_meanwhile_is_left_for_the_next_sync() {
    let Some(mut anchored) = Anchored::new() else {
        return;
    };
    let (from, to) = (anchored.lab.from.clone(), anchored.lab.to.clone());
    sh(
        &from,
        &format!("{TREE}; mkdir -p big/dir; echo >big/dir/f; echo >p; ln p q; echo >r"),
    );
    anchored.sync("", "");
    sh(
        &from,
        "echo new >a/1; echo newer >c/x; mkdir fresh; echo >fresh/f; rm r",
    );
    // Between plan and writing: outside of the plan. After writing: in it.
    let meanwhile = "echo z >a/3; rm -r big; echo >stray; echo >p2; mv p2 p";
    let after = "printf N | dd of=a/1 conv=notrunc status=none; touch -r c a/1; echo >fresh/g;                  printf k | dd of=a/4 conv=notrunc status=none; touch -d @9 a/4";
    sh(&from, "touch -r c a/1; touch -d @9 a/4");
    sh(&to, "touch -d @9 a/4");
    let synced = anchored.sync(meanwhile, after);
    let mut behind: Vec<&str> = synced
        .behind
        .iter()
        .map(|(_, path)| path.as_str())
        .collect();
    behind.sort_unstable();
    let told = ["a/1", "a/3", "a/4", "big", "fresh/g", "p", "stray"];
    for path in told {
        assert!(behind.contains(&path), "{path} is not in {behind:?}");
    }
    // Directories whose times moved, and the other name of what was replaced.
    for path in &behind {
        let times = ["", "fresh", "q", "big/dir", "big/dir/f"];
        assert!(
            told.contains(path) || times.contains(path),
            "{path} in {behind:?}"
        );
    }
    let synced = anchored.sync("", "");
    assert_eq!(synced.behind, []);
    let mended: Vec<&str> = synced
        .changes
        .iter()
        .map(|(_, path)| path.as_str())
        .collect();
    for path in told {
        assert!(mended.contains(&path), "{path} is not in {mended:?}");
    }
    anchored.judge("meanwhile");
    assert_eq!(listed(&anchored.sync("", "")), [""; 0]);
}

#[test]
fn further_names_of_what_was_left_out_are_found_and_looked_at() {
    let Some(mut anchored) = Anchored::new() else {
        return;
    };
    let from = anchored.lab.from.clone();
    sh(
        &from,
        "mkdir d; echo text >d/one; ln d/one two; echo >other",
    );
    anchored.sync("", "");
    // As if something had been left alone there.
    anchored.left = vec![LeftPath(b"d/one".to_vec())];
    sh(
        &anchored.lab.to.clone(),
        "rm d/one; echo text >d/one; touch -r two d/one",
    );
    let target = anchored.lab.to.clone();
    let now = anchored.snapshot(&target);
    // The break of the link is nothing the anchor knows of.
    anchored.anchor.as_mut().unwrap().1 = now;
    let synced = anchored.sync("", "");
    assert_eq!(synced.passes, 2);
    anchored.judge("links");
}

#[test]
fn what_stands_in_the_way_of_a_diff_is_a_reason_and_no_error() {
    let Some(mut anchored) = Anchored::new() else {
        return;
    };
    let from = anchored.lab.from.clone();
    sh(&from, TREE);
    let (old, new) = (anchored.snapshot(&from), anchored.snapshot(&from));
    let mut reason = |older: &SnapshotFacts| anchored.diff(true, older, &new.path, "x").full_scan;
    assert_eq!(reason(&old), None);
    let mut other = old.clone();
    other.uuid = "00000000-0000-0000-0000-000000000000".to_owned();
    assert!(reason(&other).unwrap().contains("replaced"));
    other = old.clone();
    other.generation -= 1;
    assert!(reason(&other).unwrap().contains("not in the state"));
    sh(
        Path::new(&old.path),
        "btrfs property set . ro false; echo >planted; btrfs property set -f . ro true; btrfs filesystem sync .",
    );
    assert!(reason(&old).unwrap().contains("written to"));
    sh(Path::new(&old.path), "btrfs property set . ro false");
    assert!(reason(&old).unwrap().contains("written to"));
    other.path.push_str("-gone");
    assert_eq!(
        reason(&other).unwrap(),
        format!("the snapshot {} is gone", other.name)
    );
}

#[test]
fn suspects_are_those_of_the_folder_in_the_subvolume() {
    let Some(mut anchored) = Anchored::new() else {
        return;
    };
    let from = anchored.lab.from.clone();
    sh(
        &from,
        "mkdir -p home/ann root; echo >home/ann/f; echo >root/g; echo >home/.pc-switcher-filter",
    );
    let old = anchored.snapshot(&from);
    sh(
        &from,
        "echo 1 >home/ann/f; echo 2 >root/g; echo x >home/.pc-switcher-filter",
    );
    let new = anchored.snapshot(&from);
    sh(&from, "mv home house; mkdir home");
    let moved = anchored.snapshot(&from);
    let found = |older: &SnapshotFacts, newer: &SnapshotFacts, below: &str, own_writes| {
        let folder = |rules| DiffFolder {
            below: below.to_owned(),
            root: String::new(),
            rules,
            plan: None,
        };
        let request = DiffRequest {
            older: older.clone(),
            newer: Some(newer.path.clone()),
            folders: vec![folder(false), folder(true)],
            own_writes,
        };
        let found = found::find(&request, &AbortFlag::new())
            .unwrap()
            .suspects
            .unwrap();
        let paths = |suspects: &Vec<Suspect>| -> Vec<(String, Mark)> {
            let text = |s: &Suspect| String::from_utf8(s.path.clone()).unwrap();
            suspects.iter().map(|s| (text(s), s.mark)).collect()
        };
        (paths(&found[0]), paths(&found[1]))
    };
    let (plain, with_rules) = found(&old, &new, "home", false);
    let names: Vec<&str> = plain.iter().map(|(path, _)| path.as_str()).collect();
    assert_eq!(names, [".pc-switcher-filter", "ann/f"]);
    assert!(plain.iter().all(|(_, mark)| mark.has(Mark::CONTENT)));
    // What a directory's rules say has changed: all of it.
    assert!(
        with_rules.contains(&(String::new(), Mark::ANYTHING)),
        "{with_rules:?}"
    );
    assert_eq!(found(&old, &new, "root", false).0.len(), 1);
    assert_eq!(found(&old, &new, "elsewhere", false).0, []);
    // The folder itself is another one, or one above it.
    for below in ["home", "home/ann"] {
        let (plain, _) = found(&new, &moved, below, false);
        assert!(
            plain.contains(&(String::new(), Mark::ANYTHING)),
            "{below}: {plain:?}"
        );
    }
}
