//! A person on the target who works against the mirror while it applies, with what a person may do:
//! everything in a home of their own. Nothing outside is touched, nothing comes into their reach that
//! was not meant for them, and the run ends with an error for each entry at most.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use super::staging::STAGING_MARK;
use super::testing::Pair;
use super::tests::{Lab, lab, rsync_differences, sh};
use super::tests_property::{empty, number};
use super::tests_random::{Random, manifest, thaw};
use crate::sys::testing::run;

const ALICE: u32 = 12_001;

/// Runs `work` as alice, who has nothing but her home.
pub(super) fn as_alice<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            let (uid, gid) = (
                rustix::process::Uid::from_raw(ALICE),
                rustix::process::Gid::from_raw(ALICE),
            );
            rustix::thread::set_thread_groups(&[]).unwrap();
            // Of this thread alone; root's capabilities go with the identity.
            rustix::thread::set_thread_res_gid(gid, gid, gid).unwrap();
            rustix::thread::set_thread_res_uid(uid, uid, uid).unwrap();
            work()
        });
        thread.join().unwrap()
    })
}

/// A folder with alice's and bob's home, to be changed everywhere.
fn homes(lab: &Lab) {
    sh(
        &lab.disk.top(),
        r"
chmod 755 . from to
cd from; mkdir -p alice bob
for d in 1 2 3 4; do mkdir -p alice/d$d/sub bob/d$d; for f in 1 2 3 4 5 6; do
  echo new-$d-$f >alice/d$d/f$f; echo new-$d-$f-longer >alice/d$d/sub/f$f; echo private-$d-$f >bob/d$d/f$f; done; done
ln alice/d1/f1 bob/linked
chown -R 12001:12001 alice; chown -R 12002:12002 bob; chmod 700 bob; chmod -R o-rwx bob
chattr +i alice/d2/f2; chattr +a alice/d2/f3
chown 12001:12001 alice/d3; chmod 2775 alice/d3
setfacl -m u:12003:rwX alice/d1 alice/d1/f1 alice/d4/f1 alice/d3; setfacl -d -m u:12003:rwX alice/d1 alice/d4; setfattr -n user.mirrored -v 1 alice/d1/f3 alice/d2
cd ../to; mkdir -p alice/d1/sub alice/d2 alice/d3/gone/deep alice/d4 bob alice/d5
for d in 1 2; do for f in 1 2 3; do echo old >alice/d$d/f$f; done; done
for f in $(seq 20); do echo old >alice/d3/gone/$f; echo old >alice/d3/gone/deep/$f; done
chown -R 12001:12001 alice; chown -R 12002:12002 bob; chmod 700 bob
# What root keeps in alice's home is hers to rename, not to read.
mkdir alice/root-dir; echo secret >alice/root-dir/secret; echo secret! >alice/root-file; chmod 700 alice/root-dir; chmod 600 alice/root-file
",
    );
}

/// One thing a person may do; most fail most of the time.
fn mischief(home: &Path, outside: &Path, rng: &mut Random) {
    let dirs = [
        "d1",
        "d2",
        "d3",
        "d4",
        "d5",
        "d1/sub",
        "d3/gone",
        "d3/gone/deep",
        "aside",
        "root-dir",
    ];
    let files = [
        "d1/f1",
        "d2/f2",
        "d1/f3",
        "d2/f4",
        "d4/f1",
        "d1/sub/f1",
        "d3/gone/3",
        "root-file",
        "mine",
    ];
    let (dir, other) = (
        home.join(rng.pick::<&str>(&dirs)),
        home.join(rng.pick::<&str>(&dirs)),
    );
    let file = home.join(rng.pick::<&str>(&files));
    match rng.below(12) {
        0 | 1 => {
            let aside = home.join(format!("aside{}", rng.below(50)));
            if fs::rename(&dir, &aside).is_ok() {
                let _ = std::os::unix::fs::symlink(outside, &dir);
                std::thread::yield_now();
                if rng.one_in(2) {
                    let _ = fs::remove_file(&dir);
                    let _ = fs::rename(&aside, &dir);
                }
            }
        }
        2 => drop(fs::rename(&dir, &other)),
        3 => drop(rustix::fs::renameat_with(
            rustix::fs::CWD,
            &dir,
            rustix::fs::CWD,
            &other,
            rustix::fs::RenameFlags::EXCHANGE,
        )),
        4 => {
            let from = home.join(rng.pick::<&str>(&["root-file", "root-dir", "mine"]));
            let to = if rng.one_in(2) { &file } else { &dir };
            let _ = rustix::fs::renameat_with(
                rustix::fs::CWD,
                &from,
                rustix::fs::CWD,
                to,
                rustix::fs::RenameFlags::EXCHANGE,
            );
        }
        5 => drop(fs::write(&file, "mine")),
        6 => {
            let _ = fs::remove_file(&file);
            let _ = std::os::unix::fs::symlink(outside.join("sentinel"), &file);
        }
        7 => drop(fs::hard_link(
            &file,
            home.join(format!("mine{}", rng.below(30))),
        )),
        8 => drop(fs::rename(
            &dir,
            outside.join(format!("out{}", rng.below(20))),
        )),
        9 => drop(fs::rename(
            outside.join(format!("out{}", rng.below(20))),
            &dir,
        )),
        10 => {
            let _ = fs::create_dir_all(&dir);
            let _ = fs::write(dir.join("new"), "new");
        }
        _ => drop(fs::remove_dir_all(&dir)),
    }
}

#[test]
fn a_person_who_exchanges_everything_meanwhile_gains_nothing() {
    let Some(lab) = lab() else { return };
    sh(lab.disk.directory(), "chmod 755 . top");
    let outside = lab.disk.top().join("outside");
    let secret = lab.disk.top().join("secret");
    let mut errors = 0;
    for seed in 1..=number("PCS_SEEDS", 12) {
        for tree in [&lab.from, &lab.to, &outside, &secret] {
            fs::create_dir_all(tree).unwrap();
            empty(tree);
        }
        run(&format!(
            "rm -rf '{0}' '{1}'; mkdir '{0}' '{0}/dir' '{1}' && echo sentinel >'{0}/sentinel' && \
             echo x >'{1}/x' && chmod 1777 '{0}' && chmod 700 '{1}'",
            outside.display(),
            secret.display()
        ));
        homes(&lab);
        let root_of = |name: &str| {
            fs::symlink_metadata(lab.to.join("alice").join(name))
                .unwrap()
                .ino()
        };
        let (root_dir, root_file) = (root_of("root-dir"), root_of("root-file"));
        let sentinel = (
            manifest(&secret),
            manifest(&outside.join("dir")),
            fs::read(outside.join("sentinel")).unwrap(),
        );
        let mut pair = Pair::new();
        // What root keeps there is no business of the mirror.
        let rules = "root-dir/\nroot-file\n";
        pair.scan(&lab.from, &lab.to, rules, false).unwrap();
        assert!(as_alice(|| fs::read(secret.join("x")).is_err()));
        let done = AtomicBool::new(false);
        let home = lab.to.join("alice");
        std::thread::scope(|scope| {
            for thread in 0..2 {
                let (home, outside, done) = (&home, &outside, &done);
                scope.spawn(move || {
                    as_alice(|| {
                        let mut rng = Random::new(seed * 100 + thread);
                        while !done.load(Ordering::SeqCst) {
                            mischief(home, outside, &mut rng);
                        }
                    });
                });
            }
            let applied = pair.apply(&lab.from, &lab.to);
            done.store(true, Ordering::SeqCst);
            errors += applied.unwrap().errors;
        });
        let what = format!("seed {seed}");
        let now = (
            manifest(&secret),
            manifest(&outside.join("dir")),
            fs::read(outside.join("sentinel")).unwrap(),
        );
        assert_eq!(sentinel, now, "{what}: something outside was changed");
        // What was root's is root's, wherever it is now, with its mode; nothing of bob's came to alice.
        for top in [&lab.to, &outside] {
            for (path, entry) in manifest(top) {
                let meta = &entry.meta;
                let path = crate::escape::escape_bytes(&path);
                if entry.ino == root_dir || entry.ino == root_file {
                    assert!(
                        meta.uid == 0 && meta.mode.trailing_zeros() >= 6 && meta.xattrs.is_empty(),
                        "{what}: {path} was given away: {meta:?}"
                    );
                }
                let text = fs::read(top.join(&path)).unwrap_or_default();
                if text.starts_with(b"secret") {
                    assert_eq!(meta.uid, 0, "{what}: {path} is a copy of root's file");
                }
                let in_bobs = *top == lab.to && path.starts_with("bob/");
                if text.starts_with(b"private") {
                    assert!(in_bobs, "{what}: {path} is bob's");
                }
                if in_bobs && path != "bob/linked" {
                    assert_eq!(meta.uid, 12_002, "{what}: {path}");
                } else if in_bobs {
                    assert!(
                        text.starts_with(b"new-1-1"),
                        "{what}: {path} is not what the source has"
                    );
                }
            }
        }
        thaw(&lab.to);
        assert!(!lab.to.join(".pc-switcher-staging").exists(), "{what}");
        // Left alone, it converges.
        sh(&lab.to, "rm -rf alice/root-dir alice/root-file");
        // By content: files moved about may have each other's size and time.
        for _ in 0..2 {
            let mut pair = Pair::new();
            pair.scan(&lab.from, &lab.to, "", true).unwrap();
            pair.apply(&lab.from, &lab.to).unwrap();
        }
        assert_eq!(rsync_differences(&lab.from, &lab.to), "", "{what}");
    }
    assert!(errors > 0, "nothing was ever in the way");
    empty(&lab.from);
    empty(&lab.to);
}

/// Plans, lets something happen, applies; how many errors.
fn meanwhile(lab: &Lab, script: &str) -> (u64, Vec<String>) {
    let mut pair = Pair::new();
    pair.scan(&lab.from, &lab.to, "", false).unwrap();
    sh(&lab.to, script);
    let errors = pair.apply(&lab.from, &lab.to).unwrap().errors;
    (errors, pair.complaints)
}

#[test]
fn attributes_go_to_the_inodes_of_the_plan_only() {
    let Some(lab) = lab() else { return };
    sh(
        &lab.from,
        "mkdir attr new; echo content >file; echo flagged >flagged; chattr +i flagged; chown 12001 attr new file; chmod 777 attr; chmod 666 file; touch -d @9 file",
    );
    sh(
        &lab.to,
        "mkdir attr theirs; echo content >file; touch -d @9 file; echo secret! >theirs/s; chmod 700 theirs; echo s3cret! >secret; chmod 600 secret; touch -d @9 secret theirs",
    );
    // A directory of root's in the place of one that is to be given away, existing and new; a file of
    // root's in the place of one that gets a new owner.
    let (errors, complaints) = meanwhile(
        &lab,
        "mv attr aside; mv theirs attr; mkdir -m 700 new; mv file file2; mv secret file",
    );
    assert_eq!(errors, 3, "{complaints:?}");
    for (name, mode) in [("attr", 0o40700), ("new", 0o40700), ("file", 0o100_600)] {
        let meta = fs::symlink_metadata(lab.to.join(name)).unwrap();
        assert_eq!((meta.uid(), meta.mode()), (0, mode), "{name}");
    }
    empty(&lab.to);
    empty(&lab.from);
}

#[test]
fn new_directories_that_somebody_makes_meanwhile_are_filled_if_they_are_theirs() {
    let Some(lab) = lab() else { return };
    sh(
        &lab.from,
        "mkdir -p new/sub/deep new/taken new/roots; for d in new new/sub new/sub/deep new/taken new/roots; do echo $d >$d/file; done; \
         ln new/sub/file new/name; chown -R 12001:12001 new; chown 0:0 new/roots; chmod 750 new new/sub; touch -d @9 new/sub new",
    );
    let (errors, complaints) = meanwhile(
        &lab,
        "mkdir -p new/sub/own new/roots; echo theirs >new/file; echo own >new/sub/own/own; echo x >new/taken; chown -R 12001 new; chgrp -R 12001 new",
    );
    // The file and the directory whose names are taken, what was to be in that directory, and the
    // directory that is root's on the source.
    assert_eq!(errors, 4, "{complaints:?}");
    let read = |path: &str| fs::read_to_string(lab.to.join(path)).unwrap_or_default();
    assert_eq!(
        ["new/file", "new/taken", "new/sub/file", "new/sub/own/own"].map(read),
        ["theirs\n", "x\n", "new/sub\n", "own\n"]
    );
    assert_eq!(read("new/sub/deep/file"), "new/sub/deep\n");
    assert!(!lab.to.join("new/roots/file").exists());
    let meta = |path: &str| fs::symlink_metadata(lab.to.join(path)).unwrap();
    assert_eq!(meta("new/name").ino(), meta("new/sub/file").ino());
    for path in ["new", "new/sub"] {
        let meta = meta(path);
        assert_eq!((meta.mode(), meta.mtime()), (0o40750, 9), "{path}");
    }
    assert!(!lab.to.join(".pc-switcher-staging").exists());
    // Left alone, it converges.
    Pair::new().mirror(&lab.from, &lab.to, "");
    assert_eq!(rsync_differences(&lab.from, &lab.to), "");
}

#[test]
fn a_further_name_is_made_only_of_what_the_source_has() {
    let Some(lab) = lab() else { return };
    sh(
        &lab.from,
        "mkdir a b; echo shared >a/leader; ln a/leader b/name; chown 12002 a/leader",
    );
    sh(&lab.to, "mkdir a b; cp -a ../from/a/leader a/leader");
    let (errors, complaints) = meanwhile(
        &lab,
        "rm a/leader; echo forged >a/leader; chown 12001 a/leader; touch -r ../from/a/leader a/leader",
    );
    assert_eq!(errors, 1, "{complaints:?}");
    assert!(!lab.to.join("b/name").exists());
}

#[test]
fn what_appears_in_a_directory_that_gives_way_is_kept_for_root_alone() {
    let Some(lab) = lab() else { return };
    sh(&lab.from, "echo file >thing");
    sh(&lab.to, "mkdir -p thing/sub; echo old >thing/sub/old");
    let (errors, complaints) = meanwhile(
        &lab,
        "echo precious >thing/sub/precious; btrfs -q subvolume create thing/nested >/dev/null; echo n >thing/nested/n",
    );
    assert!(errors >= 1, "{complaints:?}");
    assert_eq!(fs::read_to_string(lab.to.join("thing")).unwrap(), "file\n");
    let kept = lab.to.join(".pc-switcher-kept-1");
    assert_eq!(fs::symlink_metadata(&kept).unwrap().mode() & 0o777, 0o700);
    assert_eq!(
        fs::read_to_string(kept.join("was-here/sub/precious")).unwrap(),
        "precious\n"
    );
    assert_eq!(
        fs::read_to_string(kept.join("was-here/nested/n")).unwrap(),
        "n\n"
    );
    assert!(!lab.to.join(".pc-switcher-staging").exists());
}

#[test]
fn only_a_staging_directory_of_ours_is_emptied() {
    let Some(lab) = lab() else { return };
    sh(&lab.from, "echo x >x");
    for squat in [
        "mkdir .pc-switcher-staging; echo precious >.pc-switcher-staging/p",
        "mkdir .pc-switcher-staging; chown 12001 .pc-switcher-staging",
        "ln -s ../from .pc-switcher-staging",
        "echo precious >.pc-switcher-staging",
        "btrfs -q subvolume create .pc-switcher-staging >/dev/null",
    ] {
        sh(&lab.to, squat);
        let before = manifest(&lab.to);
        let mut pair = Pair::new();
        pair.scan(&lab.from, &lab.to, "", false).unwrap();
        let fault = pair.apply(&lab.from, &lab.to).unwrap_err();
        assert!(fault.message.contains("remove or rename it"), "{fault:?}");
        assert_eq!(before, manifest(&lab.to));
        sh(&lab.to, "rm -rf .pc-switcher-staging");
    }
    // One of a run that died.
    sh(
        &lab.to,
        &format!(
            "mkdir .pc-switcher-staging; setfattr -n {STAGING_MARK} -v 1 .pc-switcher-staging; \
         cd .pc-switcher-staging; echo half >1; mkdir 2 3; echo was >3/was; echo i >4; chattr +i 4; chattr +i 2; \
         mkdir -p new/5/sub/sub; echo half >new/5/sub/half; echo i >new/5/i; chattr +i new/5/i"
        ),
    );
    let mut pair = Pair::new();
    pair.scan(&lab.from, &lab.to, "", false).unwrap();
    pair.apply(&lab.from, &lab.to).unwrap();
    assert!(lab.to.join("x").exists() && !lab.to.join(".pc-switcher-staging").exists());
    assert!(lab.to.join(".pc-switcher-kept-1/was-here/was").exists());
    assert!(!lab.to.join(".pc-switcher-kept-2").exists());
}
