//! Trees of one machine on real btrfs: back to a snapshot, one path out of it, what came between two.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crossbeam_channel::{Receiver, unbounded};

use super::super::tests::{AWKWARD, lsattr, rsync_differences, sh};
use super::super::tests_property::number;
use super::super::tests_random::{Random, grow, mutate};
use super::super::wire::{FOR_CLI, Message, Messages};
use super::*;
use crate::event::{Event, EventSink, LogLevel};
use crate::interrupt::AbortFlag;
use crate::sys::testing::{TestBtrfs, run};

/// A subvolume as it is, and snapshots of it.
struct Lab {
    disk: TestBtrfs,
    live: PathBuf,
    service: LocalService,
    context: ServiceContext,
    said: Receiver<Vec<u8>>,
    log: Receiver<Event>,
}

impl Lab {
    fn new() -> Option<Self> {
        let disk = TestBtrfs::new()?;
        let live = disk.create_subvolume("home");
        let (outgoing, said) = unbounded();
        let (_, incoming) = unbounded();
        let mut events = EventSink::none();
        let log = events.subscribe();
        Some(Self {
            disk,
            live,
            service: LocalService::default(),
            context: ServiceContext {
                incoming,
                outgoing,
                events,
                abort: AbortFlag::new(),
                session: "00000000".to_owned(),
            },
            said,
            log,
        })
    }

    fn snapshot(&self, name: &str) -> PathBuf {
        let path = self.disk.top().join(name);
        run(&format!(
            "btrfs subvolume snapshot -r '{}' '{}'",
            self.live.display(),
            path.display()
        ));
        path
    }

    fn call(&self, request: LocalRequest) -> MirrorReply {
        let body = serde_json::to_value(request).unwrap();
        let reply = self.service.call(&self.context, body);
        serde_json::from_value(reply.unwrap()).unwrap()
    }

    /// Plans as asked, and lists the plan.
    fn plan(&self, wanted: LocalPlan) -> (MirrorReply, Vec<(char, String)>) {
        let id = wanted.id.clone();
        let reply = self.call(LocalRequest::Plan(Box::new(wanted)));
        self.said.try_iter().count();
        self.call(LocalRequest::List { id });
        let mut changes = Vec::new();
        for frame in self.said.try_iter() {
            assert_eq!(frame[0], FOR_CLI);
            for message in Messages::new(&frame[1..]) {
                if let Message::Change { action, path, .. } = message.unwrap() {
                    changes.push((char::from(action), escape_bytes(path)));
                }
            }
        }
        (reply, changes)
    }

    fn apply(&self) -> MirrorReply {
        self.call(LocalRequest::Apply { id: String::new() })
    }

    /// Log lines so far, from INFO up.
    fn lines(&self) -> Vec<String> {
        let lines = self.log.try_iter().filter_map(|event| match event {
            Event::Log(line) if line.level >= LogLevel::Full => Some(line.message),
            _ => None,
        });
        lines.collect()
    }
}

fn back(from: &Path, to: &Path) -> LocalPlan {
    let bytes = |path: &Path| path.as_os_str().as_bytes().to_vec();
    LocalPlan {
        from: bytes(from),
        to: bytes(to),
        older: Some(Side::From),
        ..LocalPlan::default()
    }
}

#[track_caller]
fn assert_same(snapshot: &Path, live: &Path) {
    assert_eq!(rsync_differences(snapshot, live), "");
    assert_eq!(lsattr(snapshot), lsattr(live));
    assert!(!live.join(".pc-switcher-staging").exists());
}

#[test]
fn a_changed_tree_goes_back_to_its_snapshot_and_what_was_not_changed_is_not_touched() {
    let Some(lab) = Lab::new() else { return };
    sh(&lab.live, AWKWARD);
    sh(&lab.live, "mkdir kept; echo same >kept/file; cp -a d d2");
    let snapshot = lab.snapshot("before");
    let kept = fs::metadata(lab.live.join("kept/file")).unwrap().ino();
    sh(
        &lab.live,
        "chattr -R -f -i -a idir immutable append many || true
         rm -rf d2 empty fifo; mv d moved; mkdir d; echo other >d/file; rm top-link; ln d/file top-link
         echo new >new; touch -r caps stamp; echo tampered >d2; ln -s x sock2; rm sparse; mkdir sparse
         echo in >sparse/x; echo longer >nocow; setfacl -m u:77:r 'with space'; echo xx >compressed
         touch -r d/sub/link kept/file 2>/dev/null || true; rm -f $'new\\nline'; mkdir $'new\\nline'",
    );
    let (reply, changes) = lab.plan(back(&snapshot, &lab.live));
    assert!(!changes.is_empty() && reply.errors == 0, "{reply:?}");
    let applied = lab.apply();
    assert_eq!(applied.errors, 0, "{:?}", lab.lines());
    assert_same(&snapshot, &lab.live);
    assert_eq!(
        fs::metadata(lab.live.join("kept/file")).unwrap().ino(),
        kept
    );
    let (_, changes) = lab.plan(back(&snapshot, &lab.live));
    assert_eq!(changes, []);
}

#[test]
fn what_was_changed_without_a_trace_in_size_and_time_goes_back() {
    let Some(lab) = Lab::new() else { return };
    sh(
        &lab.live,
        "echo one >file; echo one >other; touch -d '2020-01-01' file other",
    );
    let snapshot = lab.snapshot("before");
    sh(&lab.live, "echo two >file; touch -d '2020-01-01' file");
    let (_, changes) = lab.plan(back(&snapshot, &lab.live));
    assert_eq!(changes, [('*', "file".to_owned())]);
    lab.apply();
    assert_same(&snapshot, &lab.live);
}

#[test]
fn only_the_snapshot_a_tree_grew_out_of_vouches_for_files_that_were_not_touched() {
    let Some(lab) = Lab::new() else { return };
    let tree = |path: &Path| Tree::open(path).unwrap();
    let since =
        |from: &Path, to: &Path| pairing::equal_at(Some(Side::From), &tree(from), &tree(to));
    let snapshot = lab.snapshot("before");
    assert!(since(&snapshot, &lab.live).is_some());
    assert!(since(&snapshot, &lab.snapshot("after")).is_some());
    // Writable, of something else, or the wrong way round.
    run(&format!(
        "cd '{}'; btrfs subvolume snapshot before copy; btrfs subvolume create other",
        lab.disk.top().display()
    ));
    let at = |name: &str| lab.disk.top().join(name);
    assert!(since(&at("copy"), &lab.live).is_none());
    assert!(since(&snapshot, &at("other")).is_none());
    assert!(since(&lab.live, &snapshot).is_none());
    assert!(pairing::equal_at(None, &tree(&snapshot), &tree(&lab.live)).is_none());
}

#[test]
fn content_is_shared_with_the_snapshot_not_copied() {
    let Some(lab) = Lab::new() else { return };
    sh(
        &lab.live,
        "head -c 20M /dev/urandom >large; truncate -s 5M holes; sync -f .",
    );
    let snapshot = lab.snapshot("before");
    sh(&lab.live, "rm large; echo x >holes");
    lab.plan(back(&snapshot, &lab.live));
    let applied = lab.apply();
    // The top gets its time back as well.
    assert_eq!(applied.items, 3);
    assert_same(&snapshot, &lab.live);
    let extents = |path: &Path| {
        run(&format!(
            "filefrag -v '{}' | grep -F .. | cut -c1-60",
            path.display()
        ))
    };
    let places = extents(&snapshot.join("large"));
    assert!(places.lines().count() >= 1);
    assert_eq!(places, extents(&lab.live.join("large")));
}

#[test]
fn random_trees_go_back_after_random_changes() {
    let seeds = number("PCS_SEEDS", 6);
    let first = number("PCS_SEED", 1);
    for seed in first..first + seeds {
        let Some(lab) = Lab::new() else { return };
        let mut rng = Random::new(seed);
        grow(&lab.live, &mut rng, 120);
        let snapshot = lab.snapshot("before");
        for round in 0..2 {
            mutate(&lab.live, &mut rng, 60);
            let (planned, _) = lab.plan(back(&snapshot, &lab.live));
            let applied = lab.apply();
            let log = lab.lines();
            assert_eq!(
                (planned.errors, applied.errors),
                (0, 0),
                "{seed} {round}: {log:?}"
            );
            assert_eq!(
                rsync_differences(&snapshot, &lab.live),
                "",
                "{seed} {round}"
            );
            assert_eq!(lsattr(&snapshot), lsattr(&lab.live), "{seed} {round}");
            let (_, changes) = lab.plan(back(&snapshot, &lab.live));
            assert_eq!(changes, [], "{seed} {round}");
        }
    }
}

#[test]
fn what_is_excluded_mounted_or_a_subvolume_of_its_own_stays_and_is_named() {
    let Some(lab) = Lab::new() else { return };
    lab.disk.create_subvolume("home/nested");
    sh(
        &lab.live,
        "mkdir -p dev/.cache dev/mnt other; echo 1 >dev/.cache/x; echo 1 >dev/file; echo 1 >nested/in
         echo 1 >dev/keep; echo 1 >keep",
    );
    let snapshot = lab.snapshot("before");
    lab.disk.create_subvolume("home/later");
    let mount = lab.live.join("dev/mnt");
    run(&format!("mount -t tmpfs none '{}'", mount.display()));
    sh(
        &lab.live,
        "echo 2 >dev/.cache/x; echo 2 >dev/.cache/y; echo 2 >dev/file; echo 2 >nested/in; echo 2 >dev/mnt/m
         echo 2 >dev/keep; echo 2 >keep; echo 2 >later/in",
    );
    let mut wanted = back(&snapshot, &lab.live);
    wanted.rules = vec![FolderRules {
        below: b"dev".to_vec(),
        rules: ".cache/\n".to_owned(),
        origin: "home.filter".to_owned(),
    }];
    wanted.protected = vec![b"keep".to_vec()];
    let (reply, changes) = lab.plan(wanted);
    let paths: Vec<&str> = changes.iter().map(|(_, path)| path.as_str()).collect();
    // The top has another time, because something was made in it.
    assert_eq!(paths, ["", "dev/file", "dev/keep"]);
    assert_eq!((reply.errors, reply.warned), (0, 0));
    lab.apply();
    let read = |path: &str| fs::read_to_string(lab.live.join(path)).unwrap();
    assert_eq!(
        (read("dev/file"), read("dev/keep")),
        ("1\n".into(), "1\n".into())
    );
    for path in [
        "dev/.cache/x",
        "dev/.cache/y",
        "nested/in",
        "later/in",
        "dev/mnt/m",
        "keep",
    ] {
        assert_eq!(read(path), "2\n", "{path}");
    }
    let lines = lab.lines();
    for named in [
        "excluded: dev/.cache",
        "excluded: keep",
        "left as it is, a nested subvolume or a mount: nested",
        "left as it is, a nested subvolume or a mount: later",
        "left as it is, a nested subvolume or a mount: dev/mnt",
    ] {
        assert!(lines.iter().any(|line| line == named), "{named}: {lines:?}");
    }
}

#[test]
fn one_path_comes_back_with_its_attributes_and_nothing_else_moves() {
    let Some(lab) = Lab::new() else { return };
    let names: [&[u8]; 5] = [b"a*b", b"line\nfeed", b"\xff\xfe", b"- x", b"-rf"];
    sh(
        &lab.live,
        "mkdir -p top/tree/deep; echo 1 >top/tree/deep/x; echo 1 >top/other; echo 1 >top/axb",
    );
    for name in names {
        fs::write(lab.live.join("top").join(OsStr::from_bytes(name)), "1").unwrap();
    }
    sh(
        &lab.live,
        "chmod 4750 top/tree/deep/x; chown 1000:7 top/tree/deep/x; setfattr -n user.a -v b top/tree/deep/x
         chmod 710 top/tree; touch -d '2001-02-03 04:05:06.789' top/tree",
    );
    let snapshot = lab.snapshot("before");
    sh(
        &lab.live,
        "rm -rf top/tree; echo 2 >top/other; echo 2 >top/axb; echo 2 >top/new",
    );
    for name in names {
        fs::write(lab.live.join("top").join(OsStr::from_bytes(name)), "2").unwrap();
    }
    sh(&lab.live, "touch -d '2002-02-02' top");
    let time = || fs::metadata(lab.live.join("top")).unwrap().mtime();
    let moved = time();
    let before = rsync_differences(&snapshot, &lab.live);
    let only = |path: &[u8]| LocalPlan {
        only: vec![path.to_vec()],
        ..back(&snapshot, &lab.live)
    };
    for name in names {
        let path = [b"top/", name].concat();
        let (_, changes) = lab.plan(only(&path));
        assert_eq!(changes, [('*', escape_bytes(&path))]);
        lab.apply();
        let file = lab.live.join(OsStr::from_bytes(&path));
        assert_eq!(fs::read(file).unwrap(), b"1");
    }
    // A tree whose parent is gone as well, with the attributes of everything on the way.
    let (_, changes) = lab.plan(only(b"top/tree/deep"));
    let paths: Vec<&str> = changes.iter().map(|(_, path)| path.as_str()).collect();
    assert_eq!(paths, ["top/tree", "top/tree/deep", "top/tree/deep/x"]);
    lab.apply();
    let left = rsync_differences(&snapshot, &lab.live);
    assert!(before.contains("top/tree/deep/x"), "{before}");
    let left: Vec<&str> = left
        .lines()
        .map(|line| line.split_once(' ').unwrap().1.trim())
        .collect();
    // The directory around it keeps the time it had.
    assert_eq!(left, ["top/new", "top/", "top/axb", "top/other"]);
    assert_eq!(time(), moved);
}

#[test]
fn a_file_comes_back_where_a_directory_stands_now() {
    let Some(lab) = Lab::new() else { return };
    sh(&lab.live, "echo 1 >thing; echo 1 >beside");
    let snapshot = lab.snapshot("before");
    sh(
        &lab.live,
        "rm thing; mkdir -p thing/a; echo 2 >thing/a/b; rm beside",
    );
    let (_, changes) = lab.plan(LocalPlan {
        only: vec![b"thing".to_vec()],
        ..back(&snapshot, &lab.live)
    });
    let expected = [('*', "thing"), ('-', "thing/a/b"), ('-', "thing/a")];
    assert_eq!(
        changes,
        expected.map(|(sign, path)| (sign, path.to_owned()))
    );
    let applied = lab.apply();
    assert_eq!(applied.errors, 0, "{:?}", lab.lines());
    assert_eq!(fs::read(lab.live.join("thing")).unwrap(), b"1\n");
    assert!(!lab.live.join("beside").exists());
}

#[test]
fn two_snapshots_say_what_came_between_them_filter_files_or_not() {
    let Some(lab) = Lab::new() else { return };
    sh(
        &lab.live,
        "echo 1 >a; echo 1 >b; echo 1 >c; mkdir d; echo 1 >d/x; echo 'x' >.pc-switcher-filter
         touch -d 2020-01-01 b",
    );
    let before = lab.snapshot("before");
    sh(
        &lab.live,
        "echo 22 >a; chmod 600 b; rm c; echo new >e; echo 2 >d/x; touch -d 2020-01-01 b",
    );
    let after = lab.snapshot("after");
    let (reply, mut changes) = lab.plan(LocalPlan {
        older: Some(Side::To),
        ..back(&after, &before)
    });
    changes.sort();
    // The top itself has another time.
    let expected = [
        ('*', "a"),
        ('*', "d/x"),
        ('+', "e"),
        ('-', "c"),
        ('.', ""),
        ('.', "b"),
    ];
    assert_eq!(
        changes,
        expected.map(|(sign, path)| (sign, path.to_owned()))
    );
    let totals = reply.plan.unwrap();
    assert_eq!((totals.created, totals.deleted, totals.changed), (1, 1, 2));
}

#[test]
fn a_plan_that_nobody_made_is_not_carried_out() {
    let (outgoing, _) = unbounded();
    let context = ServiceContext {
        incoming: unbounded().1,
        outgoing,
        events: EventSink::none(),
        abort: AbortFlag::new(),
        session: String::new(),
    };
    let request = LocalRequest::Apply { id: "x".into() };
    let body = serde_json::to_value(request).unwrap();
    let fault = LocalService::default().call(&context, body).unwrap_err();
    assert_eq!(fault.kind, FaultKind::Invalid);
}

/// What the kernel says, and nothing else, is compared: a plan, and the names it took.
fn by_kernel(lab: &Lab, snapshot: &Path, now: &Path) -> (MirrorReply, Vec<(char, String)>) {
    let newer = now.as_os_str().as_bytes().to_vec();
    let found = lab.plan(LocalPlan {
        newer: Some(newer),
        ..back(snapshot, &lab.live)
    });
    assert_eq!(found.0.full_scan, None);
    found
}

#[test]
fn what_the_kernel_says_differs_is_all_that_is_looked_at() {
    let Some(lab) = Lab::new() else { return };
    sh(
        &lab.live,
        "mkdir -p many/a many/b few; for i in $(seq 2000); do echo $i >many/a/$i; done
         echo 1 >few/x; echo 1 >few/y; echo 1 >few/linked; ln few/linked many/b/linked",
    );
    let snapshot = lab.snapshot("before");
    sh(
        &lab.live,
        "echo 2 >few/x; touch -r few/y few/x; rm few/y; mkdir few/new; echo 1 >few/new/z; echo 22 >few/linked
         mv many/a/7 few/seven",
    );
    let now = lab.snapshot("now");
    let (reply, mut changes) = by_kernel(&lab, &snapshot, &now);
    assert!(reply.looked < 60, "{reply:?}");
    let (whole, mut all) = lab.plan(back(&snapshot, &lab.live));
    assert!(whole.looked > 2000, "{whole:?}");
    // Only the kernel knows that what is missing there is what is too much here.
    all.retain(|(_, path)| path != "few/seven" && path != "many/a/7");
    all.push(('>', "many/a/7".to_owned()));
    changes.sort();
    all.sort();
    assert_eq!(changes, all);
    by_kernel(&lab, &snapshot, &now);
    assert_eq!(lab.apply().errors, 0, "{:?}", lab.lines());
    assert_same(&snapshot, &lab.live);
}

#[test]
fn random_changes_are_found_by_the_kernel_as_by_looking_at_everything() {
    let seeds = number("PCS_SEEDS", 6);
    let first = number("PCS_SEED", 1);
    let mut with_renames = 0;
    for seed in first..first + seeds {
        let Some(lab) = Lab::new() else { return };
        let mut rng = Random::new(seed ^ 0xbeef);
        grow(&lab.live, &mut rng, 120);
        let snapshot = lab.snapshot("before");
        mutate(&lab.live, &mut rng, 60);
        let now = lab.snapshot("now");
        let (_, all) = lab.plan(back(&snapshot, &lab.live));
        let (planned, few) = by_kernel(&lab, &snapshot, &now);
        let renamed = few.iter().filter(|(sign, _)| *sign == '>').count();
        // A move changes the time of two directories.
        let weight = |list: &[(char, String)]| list.iter().filter(|(sign, _)| *sign != '.').count();
        if renamed == 0 {
            let sorted = |mut list: Vec<(char, String)>| {
                list.sort();
                list
            };
            assert_eq!(sorted(few), sorted(all), "{seed}");
        } else {
            assert!(
                weight(&few) <= weight(&all),
                "{seed}: {few:?} instead of {all:?}"
            );
        }
        with_renames += u64::from(renamed > 0);
        let applied = lab.apply();
        assert_eq!((planned.errors, applied.errors), (0, 0), "{seed}");
        assert_eq!(rsync_differences(&snapshot, &lab.live), "", "{seed}");
        assert_eq!(lsattr(&snapshot), lsattr(&lab.live), "{seed}");
        let (_, left) = lab.plan(back(&snapshot, &lab.live));
        assert_eq!(left, [], "{seed}");
    }
    println!("{with_renames} of {seeds} with renames");
    assert!(with_renames > 0 || seeds < 6);
}

#[test]
fn what_was_moved_is_moved_back_with_all_that_happened_in_it() {
    let Some(lab) = Lab::new() else { return };
    sh(
        &lab.live,
        "mkdir -p big/sub a b other; for i in $(seq 500); do echo $i >big/sub/$i; done
         echo 1 >big/edited; echo 1 >big/gone; echo 1 >a/in-a; echo 1 >b/in-b; echo 1 >lone; echo 1 >linked; ln linked other/name",
    );
    let snapshot = lab.snapshot("before");
    let ino = |path: &str| fs::metadata(lab.live.join(path)).unwrap().ino();
    let inodes = |paths: [&str; 6]| paths.map(ino);
    let stay = ["big", "big/sub/77", "big/edited", "a", "b", "lone"];
    let were = inodes(stay);
    sh(
        &lab.live,
        "mkdir far; mv big far/away; echo 22 >>far/away/edited; rm far/away/gone; echo new >far/away/new
         mv a x; mv b a; mv x b; mv lone other/alone; mv other/name other/called",
    );
    let now = lab.snapshot("now");
    let (reply, changes) = by_kernel(&lab, &snapshot, &now);
    assert!(reply.looked < 1200, "{reply:?}");
    for path in ["big", "a", "b", "lone"] {
        let some = &changes[..changes.len().min(20)];
        assert!(
            changes.contains(&('>', path.to_owned())),
            "{path}: {some:?}"
        );
    }
    assert!(!changes.iter().any(|(_, path)| path.contains("/sub")));
    assert_eq!(lab.apply().errors, 0, "{:?}", lab.lines());
    assert_same(&snapshot, &lab.live);
    let are = inodes(stay);
    for (at, path) in stay.iter().enumerate() {
        // What has other content is another file with it.
        assert!(
            are[at] == were[at] || *path == "big/edited",
            "{path} was made anew"
        );
    }
}

#[test]
fn a_snapshot_that_is_not_of_the_tree_is_not_believed() {
    let Some(lab) = Lab::new() else { return };
    sh(&lab.live, "echo 1 >x; mkdir sub; echo 1 >sub/y");
    let snapshot = lab.snapshot("before");
    sh(&lab.live, "echo 22 >x");
    let now = lab.snapshot("now");
    run(&format!(
        "cd '{}'; btrfs subvolume create other; echo 3 >other/x; btrfs subvolume snapshot -r other stranger
         btrfs subvolume snapshot now written; echo 4 >written/x",
        lab.disk.top().display()
    ));
    for (newer, words) in [
        ("stranger", "one and the same subvolume"),
        ("written", "one and the same subvolume"),
        ("now/sub", "elsewhere"),
        ("home", "not read-only"),
    ] {
        let path = lab.disk.top().join(newer);
        let (reply, changes) = lab.plan(LocalPlan {
            newer: Some(path.as_os_str().as_bytes().to_vec()),
            ..back(&snapshot, &lab.live)
        });
        let why = reply.full_scan.expect("all of it was looked at");
        assert!(why.contains(words), "{newer}: {why}");
        assert_eq!(changes, [('*', "x".to_owned())], "{newer}");
    }
    // A folder in both, by its own path.
    let inside = |path: &Path| path.join("sub");
    sh(&lab.live, "echo 22 >sub/y");
    let later = lab.snapshot("later");
    let (reply, changes) = lab.plan(LocalPlan {
        newer: Some(inside(&later).as_os_str().as_bytes().to_vec()),
        ..back(&inside(&snapshot), &inside(&lab.live))
    });
    assert_eq!(
        (reply.full_scan, changes),
        (None, vec![('*', "y".to_owned())])
    );
    drop(now);
}

#[test]
fn nested_subvolumes_and_mounts_are_named_though_nothing_changed_there() {
    let Some(lab) = Lab::new() else { return };
    sh(&lab.live, "mkdir -p dir/mnt; echo 1 >x");
    lab.disk.create_subvolume("home/dir/nested");
    let snapshot = lab.snapshot("before");
    let mount = lab.live.join("dir/mnt");
    run(&format!("mount -t tmpfs none '{}'", mount.display()));
    sh(&lab.live, "echo 22 >x");
    let now = lab.snapshot("now");
    let (reply, changes) = by_kernel(&lab, &snapshot, &now);
    assert_eq!(changes, [('*', "x".to_owned())]);
    assert_eq!(reply.notes.get(pairing::LEFT_ALONE), Some(&2), "{reply:?}");
}

#[test]
fn several_paths_come_back_at_once_with_what_links_them() {
    let Some(lab) = Lab::new() else { return };
    sh(
        &lab.live,
        "mkdir a b; echo 1 >a/x; ln a/x b/x; echo 1 >b/other; echo 1 >c",
    );
    let snapshot = lab.snapshot("before");
    sh(&lab.live, "rm -r a b c; mkdir b; echo new >b/new");
    let paths = ["a", "b/x"].map(|path| path.as_bytes().to_vec());
    let only = LocalPlan {
        only: paths.to_vec(),
        ..back(&snapshot, &lab.live)
    };
    let (reply, changes) = lab.plan(only);
    assert_eq!(reply.notes, BTreeMap::new());
    let names: Vec<&str> = changes.iter().map(|(_, path)| path.as_str()).collect();
    assert_eq!(names, ["a", "a/x", "b/x"]);
    lab.apply();
    let ino = |path: &str| fs::metadata(lab.live.join(path)).unwrap().ino();
    assert_eq!(ino("a/x"), ino("b/x"));
    assert!(lab.live.join("b/new").exists() && !lab.live.join("c").exists());
    // Something else stands where a directory must be.
    sh(&lab.live, "rm -r b; echo file >b");
    let (reply, changes) = lab.plan(LocalPlan {
        only: vec![b"b/other".to_vec()],
        ..back(&snapshot, &lab.live)
    });
    assert_eq!((reply.errors, changes), (1, Vec::new()));
    assert!(
        lab.lines()
            .iter()
            .any(|line| line.contains("in the way") && line.ends_with(": b"))
    );
}

#[test]
fn what_is_there_is_found_and_no_link_is_followed() {
    let Some(lab) = Lab::new() else { return };
    sh(
        &lab.live,
        "mkdir dir; echo 123 >dir/file; ln -s dir link; ln -s /etc etc",
    );
    lab.disk.create_subvolume("home/nested");
    let snapshot = lab.snapshot("before");
    let ask = |paths: &[&str]| {
        let paths = paths.iter().map(|path| path.as_bytes().to_vec()).collect();
        let tree = snapshot.as_os_str().as_bytes().to_vec();
        let body = serde_json::to_value(LocalRequest::Find { tree, paths }).unwrap();
        lab.service.call(&lab.context, body)
    };
    let found = ask(&[
        "dir/file",
        "dir",
        "link",
        "link/file",
        "etc/passwd",
        "gone",
        "nested",
    ]);
    let found: Vec<Option<super::super::drift::Told>> =
        serde_json::from_value(found.unwrap()).unwrap();
    let kinds: Vec<Option<(&str, Option<u64>)>> = found
        .iter()
        .map(|told| told.as_ref().map(|told| (&*told.kind, told.size)))
        .collect();
    assert_eq!(kinds[0].unwrap().1, Some(4));
    assert!(kinds[1].is_some() && kinds[2].is_some());
    assert_eq!(kinds[3..], [None, None, None, None]);
    for wrong in ["", "..", "/etc", "dir/../x"] {
        assert_eq!(
            ask(&[wrong]).unwrap_err().kind,
            FaultKind::Invalid,
            "{wrong}"
        );
    }
}
