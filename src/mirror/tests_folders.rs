//! Two folders of one run: what one of them has, or had, is not sent for the other; and who may not be believed.

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::entry::Kind;
use super::filter::Filter;
use super::testing::Pair;
use super::tests::{CLEAN, lsattr, rsync_differences, sh};
use super::tests_alike::{SIZE, alike, end, failed, questions};
use super::tests_peer::{Alone, Line, file, plan};
use super::tests_property::{empty, number};
use super::tests_random::{Random, grow, list, manifest, mutate, thaw};
use super::wire::{Message, Messages, MirrorRequest, OtherFolder};
use crate::escape::escape_bytes;
use crate::sys::command::command;
use crate::sys::extents::Extents;
use crate::sys::testing::TestBtrfs;

const MIB: u64 = 1 << 20;

/// Both folders on both machines, and what was left of the last sync.
struct Folders {
    disk: TestBtrfs,
    pair: Pair,
    /// Subvolumes of a machine, and where in them each folder is.
    subvolumes: [Vec<String>; 2],
    from: [PathBuf; 2],
    to: [PathBuf; 2],
    rules: [&'static str; 2],
    /// Whether both machines have snapshots of what was before.
    has_before: bool,
    /// What the source's folders were when both were equal.
    anchor: Option<[PathBuf; 2]>,
    count: usize,
}

/// What a sync came to, by folder.
#[derive(Debug, Clone, Copy)]
struct Cost {
    /// Bytes that the source said while the plan was carried out.
    said: usize,
    /// Bytes of content that were there already.
    kept: u64,
}

impl Folders {
    /// In one subvolume of each machine, or each in its own.
    fn new(in_one: bool) -> Option<Self> {
        let disk = TestBtrfs::new()?;
        let side = |name: &str| {
            if in_one {
                let top = disk.create_subvolume(name);
                let folders = ["a", "b"].map(|folder| top.join(folder));
                for folder in &folders {
                    fs::create_dir(folder).unwrap();
                }
                (vec![name.to_owned()], folders)
            } else {
                let names = ["a", "b"].map(|folder| format!("{name}-{folder}"));
                let folders = names.each_ref().map(|name| disk.create_subvolume(name));
                (names.to_vec(), folders)
            }
        };
        let ((ours, from), (theirs, to)) = (side("from"), side("to"));
        Some(Self {
            subvolumes: [ours, theirs],
            from,
            to,
            disk,
            pair: Pair::new(),
            rules: ["", ""],
            has_before: true,
            anchor: None,
            count: 0,
        })
    }

    /// Snapshots of a machine's folders as they are now.
    fn snapshot(&self, side: usize) -> [PathBuf; 2] {
        let top = self.disk.top();
        let name = format!("snapshot-{}", self.count);
        for subvolume in &self.subvolumes[side] {
            sh(
                &top,
                &format!("btrfs -q subvolume snapshot -r {subvolume} {name}-{subvolume}"),
            );
        }
        sh(&top, "btrfs filesystem sync .");
        let folders = [&self.from, &self.to][side];
        folders.each_ref().map(|folder| {
            let below = folder.strip_prefix(&top).unwrap().to_str().unwrap();
            top.join(format!("{name}-{below}"))
        })
    }

    /// Syncs both folders, the first one first; `meanwhile` is done when the plans are made.
    fn sync(&mut self, meanwhile: &str) -> [Cost; 2] {
        self.count += 1;
        let (now, before) = (self.snapshot(0), self.snapshot(1));
        let text = |path: &Path| path.to_str().unwrap().to_owned();
        self.pair.complaints.clear();
        for (folder, now) in now.iter().enumerate() {
            let (to, rules) = (&self.to[folder], self.rules[folder]);
            self.pair.scan(now, to, rules, true).unwrap();
        }
        sh(&self.disk.top(), meanwhile);
        let costs = [0, 1].map(|folder| {
            let other = 1 - folder;
            let side = |root: &Path, before: Option<String>| OtherFolder {
                root: text(root),
                before: before.filter(|_| self.has_before),
                is_done: other < folder,
            };
            let anchor = self.anchor.as_ref().map(|anchor| text(&anchor[other]));
            self.pair.others = [
                vec![side(&now[other], anchor)],
                vec![side(&self.to[other], Some(text(&before[other])))],
            ];
            self.pair.record = Some(Arc::default());
            let applied = self.pair.apply(&now[folder], &self.to[folder]).unwrap();
            assert_eq!(applied.errors, 0, "{:?}", self.pair.complaints);
            let frames = self.pair.record.take().unwrap();
            let said = frames.lock().unwrap().iter().map(Vec::len).sum();
            Cost {
                said,
                kept: applied.kept,
            }
        });
        self.anchor = Some(now);
        costs
    }

    #[track_caller]
    fn assert_equal(&self, what: &str) {
        for (from, to) in self.from.iter().zip(&self.to) {
            assert_eq!(rsync_differences(from, to), "", "{what}");
            assert_eq!(lsattr(from), lsattr(to), "{what}");
        }
    }

    /// Where on disk what the target has there begins.
    fn extents(&self, folder: usize, name: &str) -> Vec<(u64, u64)> {
        let file = File::open(self.to[folder].join(name)).unwrap();
        rustix::fs::fsync(&file).unwrap();
        let number = file.metadata().unwrap().ino();
        Extents::new().first(file.as_fd(), number, 1000).unwrap()
    }
}

/// Both layouts, and both orders of the folders.
fn each_way(mut test: impl FnMut(&mut Folders, [usize; 2])) {
    for in_one in [true, false] {
        for order in [[0, 1], [1, 0]] {
            let Some(mut folders) = Folders::new(in_one) else {
                return;
            };
            println!(
                "in one subvolume: {in_one}, from {} to {}",
                order[0], order[1]
            );
            test(&mut folders, order);
            for top in folders.from.iter().chain(&folders.to) {
                sh(top, CLEAN);
            }
        }
    }
}

#[test]
fn a_reflink_copy_in_another_folder_becomes_one_on_the_target() {
    each_way(|folders, [a, b]| {
        sh(
            &folders.from[a],
            "mkdir d; head -c 6000000 /dev/urandom >d/big; head -c 200000 /dev/urandom >small",
        );
        folders.sync("");
        folders.assert_equal("first");
        let from = folders.from[a].display().to_string();
        sh(
            &folders.from[b],
            &format!(
                "mkdir -p new/deep; cp --reflink=always {from}/d/big copy; touch -d @5 copy; chown 7:8 copy
                 cp --reflink=always {from}/d/big new/deep/big; chmod 600 new/deep/big
                 cp --reflink=always {from}/small new/small; setfattr -n user.a -v b new/small
                 cp --reflink=always {from}/d/big edited
                 head -c 8192 /dev/urandom | dd of=edited bs=4096 seek=300 conv=notrunc status=none",
            ),
        );
        let costs = folders.sync("");
        println!("{costs:?}");
        assert!(costs[a].said + costs[b].said < 40_000, "{costs:?}");
        folders.assert_equal("copies");
        for (copy, of) in [
            ("copy", "d/big"),
            ("new/deep/big", "d/big"),
            ("new/small", "small"),
        ] {
            assert_eq!(folders.extents(b, copy), folders.extents(a, of), "{copy}");
        }
    });
}

/// Moves `name` from one folder to the other on the source.
fn move_over(folders: &Folders, name: &str, [a, b]: [usize; 2]) {
    let (a, b) = (folders.from[a].display(), folders.from[b].display());
    sh(Path::new("/"), &format!("mv {a}/{name} {b}/{name}"));
}

#[test]
fn what_is_moved_from_one_folder_to_another_is_not_sent() {
    each_way(|folders, [a, b]| {
        sh(
            &folders.from[a],
            "mkdir -p d/sub; for n in $(seq 9); do head -c 2000000 /dev/urandom >d/$n; done
             for n in $(seq 8); do head -c 300000 /dev/urandom >d/sub/$n; done",
        );
        folders.sync("");
        move_over(folders, "d", [a, b]);
        let costs = folders.sync("");
        println!("moved: {costs:?}");
        assert!(costs[a].said + costs[b].said < 60_000, "{costs:?}");
        assert!(costs[b].kept > 20 * MIB - 600_000, "{costs:?}");
        folders.assert_equal("moved");
        assert!(!folders.to[a].join("d").exists());

        // Back again, with other times and an edit: nothing is guessed, but the source knows what it was.
        move_over(folders, "d", [b, a]);
        sh(
            &folders.from[a],
            "for f in d/[1-9] d/sub/*; do mv $f $f-moved; touch -d @77 $f-moved; done
             head -c 5000 /dev/urandom >>d/3-moved",
        );
        let costs = folders.sync("");
        println!("and back: {costs:?}");
        assert!(costs[a].said + costs[b].said < 100_000, "{costs:?}");
        folders.assert_equal("back");
    });
}

#[test]
fn what_comes_for_both_folders_is_sent_once() {
    each_way(|folders, [a, b]| {
        sh(
            &folders.from[a],
            "for n in $(seq 5); do head -c 90000$n /dev/urandom >$n; done; head -c 3000000 /dev/urandom >big",
        );
        let from = folders.from[a].display().to_string();
        sh(
            &folders.from[b],
            // Once by reflink, once as another file of the same time.
            &format!(
                "mkdir x y; for n in $(seq 5); do cp --reflink=always {from}/$n x; done
                 cp --reflink=always {from}/big x; cp -a --reflink=never {from}/[0-9] {from}/big y",
            ),
        );
        let costs = folders.sync("");
        println!("7,500,015 bytes, three times: {costs:?}");
        let said = costs[0].said + costs[1].said;
        assert!(said > 7_500_000 && said < 7_600_000, "{costs:?}");
        folders.assert_equal("both");
    });
}

#[test]
fn without_a_snapshot_what_is_gone_is_sent_and_what_is_still_there_is_not() {
    for order in [[0, 1], [1, 0]] {
        let Some(mut folders) = Folders::new(false) else {
            return;
        };
        folders.has_before = false;
        sh(&folders.from[order[0]], "head -c 4000000 /dev/urandom >f");
        folders.sync("");
        move_over(&folders, "f", order);
        let costs = folders.sync("");
        println!("{order:?}: {costs:?}");
        let is_gone = order[0] == 0;
        assert_eq!(costs[order[1]].said > 4_000_000, is_gone, "{costs:?}");
        assert_eq!(costs[order[1]].said < 40_000, !is_gone, "{costs:?}");
        folders.assert_equal("moved");
    }
}

#[test]
fn what_somebody_put_there_meanwhile_does_not_get_into_the_copy() {
    // The second folder is carried out last, and so looks at the first one's files as they are.
    let Some(mut folders) = Folders::new(true) else {
        return;
    };
    sh(
        &folders.from[0],
        "head -c 3000000 /dev/urandom >big; head -c 300000 /dev/urandom >small; cp small gone; cp big away
         touch -d @8 *",
    );
    folders.sync("");
    let from = folders.from[0].display().to_string();
    sh(
        &folders.from[1],
        &format!("cp -p --reflink=always {from}/* ."),
    );
    sh(&folders.from[0], "rm gone away");
    let to = folders.to[0].display().to_string();
    // Of the same size and time.
    let meanwhile = format!(
        "cd {to}; for f in *; do s=$(stat -c %s $f); head -c $s /dev/urandom >$f; touch -d @8 $f; done",
    );
    let costs = folders.sync(&meanwhile);
    println!("{costs:?}");
    let (from, to) = (&folders.from[1], &folders.to[1]);
    assert_eq!(rsync_differences(from, to), "");
    for name in ["big", "small", "gone", "away"] {
        assert_eq!(
            fs::read(from.join(name)).unwrap(),
            fs::read(to.join(name)).unwrap()
        );
    }
}

/// A target that asks for the new file `a` of one folder, told of another one, `other`, whose `secret` is excluded.
fn asking(disk: &TestBtrfs) -> Line {
    let (to, other, before) = (
        disk.top().join("to"),
        disk.top().join("other"),
        disk.top().join("before"),
    );
    sh(
        &disk.top(),
        &format!(
            "rm -rf to other before; mkdir to other before before/hidden; cd other
             head -c {SIZE} /dev/zero | tr '\\0' x >b; cp b secret; ln -s b link; mkfifo p; mkdir d
             ln -s ../before up; cp b ../before/was; cp b ../before/secret; cp b ../before/hidden/f
             ln -s was ../before/link; cp b ../outside"
        ),
    );
    let alone = Alone::new();
    plan(&alone, &to, &[(b"a", file(SIZE))]);
    plan(&alone, &other, &[(b"unused", file(SIZE))]);
    let root = |path: &Path| path.to_str().unwrap().to_owned();
    for (folder, keep, rules) in [
        (&to, &b"a"[..], ""),
        (&other, b"unused", "secret\nhidden/\n"),
    ] {
        let root = root(folder);
        let filtered = alone.service.plan(&root).unwrap();
        let plan = filtered.retain(|op| op.path == keep).unwrap();
        let rules = Filter::parse(rules.as_bytes(), "f").unwrap();
        alone.service.put_plan(&root, plan, rules);
    }
    alone.begin(MirrorRequest::Apply {
        root: root(&to),
        others: vec![OtherFolder {
            root: root(&other),
            before: Some(root(&before)),
            is_done: true,
        }],
    })
}

#[test]
fn names_in_another_folder_that_are_out_of_scope_are_not_looked_at() {
    let Some(disk) = TestBtrfs::new() else { return };
    let alike = |folder, path| alike(0, folder, path);
    let names = [
        "secret", "link", "p", "d", "nowhere", "d/x", "link/x", "up/was", "hidden/f", "a",
    ];
    for name in names {
        let line = asking(&disk);
        line.say(&[alike(1, name), end(0), failed(1)]);
        let (frames, result) = line.end();
        assert_eq!(result.unwrap().errors, 1, "{name}");
        assert_eq!(questions(&frames), ["names a", "fetch a"], "{name}");
        assert!(!disk.top().join("to/a").exists());
    }
    // What is there, or was, is not believed either.
    for name in ["b", "was"] {
        let line = asking(&disk);
        line.say(&[
            alike(0, "nowhere"),
            alike(1, name),
            end(0),
            end(1),
            failed(2),
        ]);
        let (frames, result) = line.end();
        assert_eq!(result.unwrap().errors, 1);
        assert_eq!(questions(&frames), ["names a", "survey a", "fetch a"]);
        assert!(!disk.top().join("to/a").exists());
    }
    // Nobody has spoken of such a folder.
    for folder in [2, u64::MAX] {
        let line = asking(&disk);
        line.say(&[alike(folder, "b"), end(0), failed(1)]);
        line.refused();
    }
    let line = asking(&disk);
    line.say(&[alike(1, "../outside"), end(0), failed(1)]);
    line.refused();
}

#[test]
fn of_another_folder_only_files_that_are_offered_are_named() {
    let Some(mut folders) = Folders::new(true) else {
        return;
    };
    let a = folders.from[0].display().to_string();
    sh(
        &folders.from[0],
        "mkdir hidden; head -c 300000 /dev/urandom >hidden/f; cp --reflink=always hidden/f secret
         cp --reflink=always hidden/f ../between",
    );
    sh(
        &folders.from[1],
        &format!("cp --reflink=always {a}/secret copy"),
    );
    folders.rules[0] = "secret\nhidden/\n";
    let named = |folders: &mut Folders| -> Vec<String> {
        folders.pair.record = None;
        folders.sync("");
        let now = folders.anchor.clone().unwrap();
        let text = |path: &Path| path.to_str().unwrap().to_owned();
        let line = Alone {
            service: folders.pair.source(),
        };
        let line = line.begin(MirrorRequest::Serve {
            root: text(&now[1]),
            others: vec![OtherFolder {
                root: text(&now[0]),
                before: None,
                is_done: true,
            }],
        });
        let path = &b"copy"[..];
        line.say(&[Message::FetchOrNames { id: 0, path }, Message::Finished]);
        let (frames, result) = line.end();
        result.unwrap();
        let mut names = Vec::new();
        for frame in frames {
            for message in Messages::new(&frame[1..]) {
                if let Message::Alike { folder, path, .. } = message.unwrap() {
                    names.push(format!("{folder} {}", path.escape_ascii()));
                }
            }
        }
        names
    };
    assert_eq!(named(&mut folders), Vec::<String>::new());
    sh(
        &folders.from[0],
        "mkdir open; cp --reflink=always secret open/f",
    );
    assert_eq!(named(&mut folders), ["1 open/f"]);
}

/// Something from one folder is copied or moved to the other.
fn cross(folders: &Folders, rng: &mut Random) {
    let here = rng.below(2);
    let (from, to) = (&folders.from[here], &folders.from[1 - here]);
    for top in [from, to] {
        thaw(top);
    }
    let all = list(from);
    let dirs: Vec<Vec<u8>> = list(to)
        .into_iter()
        .filter(|(_, kind)| *kind == Kind::Dir)
        .map(|(path, _)| path)
        .chain([Vec::new()])
        .collect();
    if all.is_empty() {
        return;
    }
    let full = |top: &Path, path: &[u8]| {
        let path: &std::ffi::OsStr = std::os::unix::ffi::OsStrExt::from_bytes(path);
        if path.is_empty() {
            top.to_owned()
        } else {
            top.join(path)
        }
    };
    let (path, _) = rng.pick(&all);
    let dir = full(to, rng.pick::<Vec<u8>>(&dirs));
    let what = full(from, path);
    let place = match rng.below(3) {
        0 => dir.join(format!("from-{here}")),
        _ => dir.join(what.file_name().unwrap()),
    };
    let script = match rng.below(4) {
        0 => "rm -rf -- \"$2\"; cp -aT --reflink=auto -- \"$1\" \"$2\"",
        1 => "rm -rf -- \"$2\"; cp -rT --reflink=never -- \"$1\" \"$2\"",
        _ => "rm -rf -- \"$2\"; mv -T -- \"$1\" \"$2\"",
    };
    let status = command("bash")
        .args(["-euc", script, "-"])
        .args([&what, &place])
        .status()
        .unwrap();
    assert!(status.success(), "{script} {what:?} {place:?}");
}

/// A file that is worth asking about.
fn plant(top: &Path, rng: &mut Random) {
    let name = format!("large-{}", rng.below(6));
    let file = top.join(name);
    if fs::symlink_metadata(&file).is_ok_and(|meta| !meta.is_file()) {
        return;
    }
    let size = *rng.pick(&[70_000, 70_000, 300_000, 1_300_000]);
    let mut bytes = Vec::with_capacity(size + 8);
    while bytes.len() < size {
        bytes.extend_from_slice(&rng.next().to_le_bytes()[..7]);
    }
    bytes.truncate(size);
    let _ = fs::remove_file(&file);
    File::create(&file)
        .unwrap()
        .write_all_at(&bytes, 0)
        .unwrap();
}

#[test]
fn random_folders_are_mirrored_exactly_whatever_goes_from_one_to_the_other() {
    let first = number("PCS_SEED", 1);
    let seeds = number("PCS_SEEDS", 4);
    let (mut kept, mut bytes) = (0, 0);
    for seed in first..first + seeds {
        let mut rng = Random::new(seed);
        let Some(mut folders) = Folders::new(seed % 2 == 0) else {
            return;
        };
        for top in &folders.from {
            grow(top, &mut rng, 25);
            for _ in 0..4 {
                thaw(top);
                plant(top, &mut rng);
            }
        }
        for top in &folders.to {
            grow(top, &mut rng, 8);
        }
        for step in 0..4 {
            let what = format!("seed {seed} step {step}");
            folders.has_before = !rng.one_in(5);
            let costs = folders.sync("");
            kept += costs.iter().map(|cost| cost.kept).sum::<u64>();
            bytes += costs.iter().map(|cost| cost.said).sum::<usize>();
            for (from, to) in folders.from.iter().zip(&folders.to) {
                let (want, have) = (manifest(from), manifest(to));
                for (path, want) in &want {
                    let have = have.get(path);
                    assert!(
                        have.is_some_and(|have| have.same(want)),
                        "{what}: {}\nwant {want:?}\nhave {have:?}",
                        escape_bytes(path)
                    );
                }
                assert_eq!(want.len(), have.len(), "{what}");
            }
            folders.assert_equal(&what);
            for top in &folders.from {
                mutate(top, &mut rng, 4);
                thaw(top);
                plant(top, &mut rng);
            }
            for top in &folders.to {
                mutate(top, &mut rng, 3);
            }
            for _ in 0..4 {
                cross(&folders, &mut rng);
            }
        }
        for top in folders.from.iter().chain(&folders.to) {
            empty(top);
        }
    }
    println!("{seeds} seeds: {kept} bytes were there already, {bytes} were said");
    assert!(kept > 0, "nothing was ever made out of anything");
}
