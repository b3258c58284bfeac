//! Applies that end early: everything is old or new, and the next run converges.
//!
//! Why that holds also when the power goes: a file is written and given all its attributes in the
//! staging directory; `syncfs(2)` makes it durable; only then is it moved to its path with one
//! rename. btrfs commits whole transactions, in the order the calls were made, so a commit that has
//! the rename has the file, and one that has not has the old file. Deletions come last. What is not
//! ordered that way and may be halfway: a directory's own time, and the flags +i and +a of a single
//! file around the moment it is exchanged, because both forbid the exchange itself.

use std::collections::BTreeSet;
use std::fs;
use std::os::fd::AsFd;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use super::entry::Kind;
use super::filter::STAGING_NAME;
use super::staging::{KEPT_PREFIX, LATE_FLAGS};
use super::testing::{Cut, Pair};
use super::tests::{Lab, lab, rsync_differences, sh};
use super::tests_property::{empty, number};
use super::tests_random::{Described, Manifest, Random, grow, manifest, mutate, thaw};
use crate::escape::escape_bytes;
use crate::sys::command::command;
use crate::sys::testing::run;

/// Both trees alike, then changed on both sides, with enough content for a few frames.
fn changed(lab: &Lab, rng: &mut Random) {
    empty(&lab.from);
    empty(&lab.to);
    grow(&lab.from, rng, 60);
    Pair::new().mirror(&lab.from, &lab.to, "");
    mutate(&lab.from, rng, 25);
    mutate(&lab.to, rng, 10);
    thaw(&lab.from);
    for n in 0..6 {
        sh(&lab.from, &format!("head -c 700000 /dev/urandom >large{n}"));
    }
}

/// Whether `now` is `then`, but for what may be halfway.
fn is(now: &Described, then: Option<&Described>, strict: bool) -> bool {
    let Some(then) = then else { return false };
    let (mut now, mut then) = (now.clone(), then.clone());
    for side in [&mut now, &mut then] {
        if side.meta.kind == Kind::Dir {
            side.meta.mtime = super::entry::Time::default();
        }
        if !strict || side.meta.kind == Kind::Dir {
            side.meta.flags &= !LATE_FLAGS;
        }
    }
    now.same(&then)
}

fn assert_old_or_new(old: &Manifest, new: &Manifest, now: &Manifest, strict: bool, what: &str) {
    let ours = |path: &[u8]| {
        path.starts_with(STAGING_NAME.as_bytes()) || path.starts_with(KEPT_PREFIX.as_bytes())
    };
    let paths: BTreeSet<&Vec<u8>> = old.keys().chain(new.keys()).chain(now.keys()).collect();
    for path in paths.into_iter().filter(|path| !ours(path)) {
        let fine = match now.get(path) {
            Some(now) => is(now, old.get(path), strict) || is(now, new.get(path), strict),
            None => !old.contains_key(path) || !new.contains_key(path),
        };
        let path_text = escape_bytes(path);
        let three = (now.get(path), old.get(path), new.get(path));
        assert!(
            fine,
            "{what}: {path_text} is neither old nor new\n{three:#?}"
        );
    }
}

/// The next run makes everything equal and leaves nothing behind.
fn assert_converges(lab: &Lab, what: &str) {
    let mut pair = Pair::new();
    pair.mirror(&lab.from, &lab.to, "");
    // What a directory held when it gave way is kept once and deleted by the run after.
    pair.mirror(&lab.from, &lab.to, "");
    assert_eq!(rsync_differences(&lab.from, &lab.to), "", "{what}");
    for entry in fs::read_dir(&lab.to).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap_or_default();
        assert!(!name.starts_with(".pc-switcher"), "{what}: {name} is left");
    }
}

#[test]
fn an_interrupted_apply_leaves_everything_old_or_new_and_the_next_run_converges() {
    let Some(lab) = lab() else { return };
    let first = number("PCS_SEED", 1);
    for seed in first..first + number("PCS_SEEDS", 10) {
        let mut rng = Random::new(seed);
        changed(&lab, &mut rng);
        let (old, new) = (manifest(&lab.to), manifest(&lab.from));
        let mut pair = Pair::new();
        pair.scan(&lab.from, &lab.to, "", false).unwrap();
        pair.cut = if rng.one_in(3) {
            Cut::LinkGone(rng.below(18))
        } else {
            Cut::Interrupted(Duration::from_micros(rng.next() % 200_000))
        };
        let what = format!("seed {seed}, {:?}", pair.cut);
        let ended = pair.apply(&lab.from, &lab.to);
        if let Err(fault) = &ended {
            let kind = &fault.kind;
            assert!(
                matches!(kind, crate::agent::fault::FaultKind::Interrupted),
                "{what}: {fault:?}"
            );
        }
        let now = manifest(&lab.to);
        assert!(
            !lab.to.join(STAGING_NAME).exists(),
            "{what}: staging is left"
        );
        assert_old_or_new(&old, &new, &now, true, &what);
        assert_converges(&lab, &what);
    }
    empty(&lab.from);
    empty(&lab.to);
}

/// What the test below starts and kills: not a test of its own.
#[test]
#[ignore = "started by a test that kills it"]
fn child_that_is_killed() {
    let Some(top) = std::env::var_os("PCS_CHILD") else {
        return;
    };
    let (from, to) = (Path::new(&top).join("from"), Path::new(&top).join("to"));
    let mut pair = Pair::new();
    pair.scan(&from, &to, "", false).unwrap();
    fs::write(Path::new(&top).join("planned"), "").unwrap();
    pair.apply(&from, &to).unwrap();
}

#[test]
fn a_killed_apply_leaves_everything_old_or_new_and_the_next_run_converges() {
    let Some(lab) = lab() else { return };
    let mut killed = 0;
    for seed in 1..=number("PCS_SEEDS", 10) {
        let mut rng = Random::new(seed);
        changed(&lab, &mut rng);
        let (old, new) = (manifest(&lab.to), manifest(&lab.from));
        let planned = lab.disk.top().join("planned");
        let _ = fs::remove_file(&planned);
        let mut child = command(std::env::current_exe().unwrap())
            .args([
                "--ignored",
                "--exact",
                "mirror::tests_interrupt::child_that_is_killed",
            ])
            .env("PCS_CHILD", lab.disk.top())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let begun = Instant::now();
        while !planned.exists() && begun.elapsed() < Duration::from_secs(20) {
            std::thread::sleep(Duration::from_millis(1));
        }
        std::thread::sleep(Duration::from_micros(rng.next() % 150_000));
        child.kill().unwrap();
        killed += u32::from(!child.wait().unwrap().success());
        let what = format!("seed {seed}");
        assert_old_or_new(&old, &new, &manifest(&lab.to), false, &what);
        assert_converges(&lab, &what);
    }
    assert!(killed > 0, "it was always too late");
    empty(&lab.from);
    empty(&lab.to);
}

/// Other tests start processes, which hold our descriptors until they become their program.
fn unmount(point: &Path) {
    let tries = 50;
    run(&format!(
        "for i in $(seq {tries}); do umount '{}' 2>/dev/null && exit; sleep 0.1; done; exit 1",
        point.display()
    ));
}

/// A disk inside a file that can be copied in one moment shows what a power cut would leave.
#[test]
fn a_power_cut_leaves_everything_old_or_new() {
    let Some(outer) = lab() else { return };
    let directory = outer.disk.directory().to_owned();
    let (image, point) = (outer.disk.top().join("inner"), directory.join("inner"));
    fs::create_dir(&point).unwrap();
    run(&format!(
        "truncate -s 200M '{0}' && mkfs.btrfs -q -M '{0}' && mount -o loop,commit=1 '{0}' '{1}'",
        image.display(),
        point.display()
    ));
    sh(&point, "mkdir from to");
    let inner = Lab {
        disk: outer.disk,
        from: point.join("from"),
        to: point.join("to"),
    };
    let mut rng = Random::new(number("PCS_SEED", 7));
    changed(&inner, &mut rng);
    sh(&point, "sync -f .");
    let (old, new) = (manifest(&inner.to), manifest(&inner.from));
    let mut pair = Pair::new();
    pair.scan(&inner.from, &inner.to, "", false).unwrap();
    let done = std::sync::atomic::AtomicBool::new(false);
    let copies = std::thread::scope(|scope| {
        let copier = scope.spawn(|| {
            let from = fs::File::open(&image).unwrap();
            let mut copies = Vec::new();
            while !done.load(std::sync::atomic::Ordering::SeqCst) && copies.len() < 25 {
                let path = inner.disk.top().join(format!("copy{}", copies.len()));
                let to = fs::File::create(&path).unwrap();
                rustix::fs::ioctl_ficlone(&to, from.as_fd()).unwrap();
                copies.push(path);
                std::thread::sleep(Duration::from_millis(4));
            }
            copies
        });
        // A commit between any two steps: the kernel may make one at any time.
        let committer = scope.spawn(|| {
            let top = fs::File::open(&point).unwrap();
            while !done.load(std::sync::atomic::Ordering::SeqCst) {
                rustix::fs::syncfs(&top).unwrap();
            }
        });
        pair.apply(&inner.from, &inner.to).unwrap();
        done.store(true, std::sync::atomic::Ordering::SeqCst);
        committer.join().unwrap();
        copier.join().unwrap()
    });
    unmount(&point);
    let mut states = BTreeSet::new();
    for copy in &copies {
        // The same filesystem twice is refused, so one after the other.
        run(&format!(
            "mount -o loop '{}' '{}'",
            copy.display(),
            point.display()
        ));
        let now = manifest(&inner.to);
        assert_old_or_new(&old, &new, &now, false, &copy.display().to_string());
        states.insert(
            now.values()
                .filter(|d| new.values().any(|n| n.same(d)))
                .count(),
        );
        unmount(&point);
    }
    assert!(
        states.len() > 1,
        "every copy shows the same moment: {states:?}"
    );
}

#[test]
fn a_full_disk_is_one_clear_fault_and_leaves_everything_old_or_new() {
    let Some(lab) = lab() else { return };
    let mut rng = Random::new(11);
    changed(&lab, &mut rng);
    let small = lab.disk.directory().join("small");
    let image = lab.disk.directory().join("small-image");
    fs::create_dir(&small).unwrap();
    run(&format!(
        "truncate -s 120M '{0}' && mkfs.btrfs -q -M '{0}' && mount -o loop '{0}' '{1}' && cp -a '{2}/.' '{1}/'",
        image.display(),
        small.display(),
        lab.to.display()
    ));
    sh(
        &lab.from,
        "for i in 1 2 3 4; do head -c 60000000 /dev/urandom >huge$i; done",
    );
    let (old, new) = (manifest(&small), manifest(&lab.from));
    let mut pair = Pair::new();
    pair.scan(&lab.from, &small, "", false).unwrap();
    let fault = pair.apply(&lab.from, &small).unwrap_err();
    assert!(
        matches!(fault.kind, crate::agent::fault::FaultKind::NoSpace),
        "{fault:?}"
    );
    assert!(
        fault.hint.is_some() && !fault.message.contains("write :"),
        "{fault:?}"
    );
    assert_old_or_new(&old, &new, &manifest(&small), true, "no space");
    assert!(!small.join(STAGING_NAME).exists());
    sh(&lab.from, "rm huge?");
    let roomy = Lab {
        disk: lab.disk,
        from: lab.from,
        to: small,
    };
    assert_converges(&roomy, "after no space");
    // A quota says the same with another number.
    sh(
        &roomy.to,
        "btrfs quota enable . && btrfs qgroup limit 90M . ",
    );
    sh(&roomy.from, "head -c 95000000 /dev/urandom >huge");
    pair.scan(&roomy.from, &roomy.to, "", false).unwrap();
    let fault = pair.apply(&roomy.from, &roomy.to).unwrap_err();
    assert!(
        matches!(fault.kind, crate::agent::fault::FaultKind::NoSpace),
        "{fault:?}"
    );
    // Nothing can be written at all.
    run(&format!("mount -o remount,ro '{}'", roomy.to.display()));
    let before = manifest(&roomy.to);
    let fault = pair.apply(&roomy.from, &roomy.to).unwrap_err();
    assert!(
        fault.message.contains("Read-only") || fault.message.contains("os error 30"),
        "{fault:?}"
    );
    assert_eq!(before, manifest(&roomy.to));
    empty(&roomy.from);
}
