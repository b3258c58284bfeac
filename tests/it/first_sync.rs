//! One sync to a machine that has nothing: everything arrives, exactly, and nothing else is touched.

use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt, symlink};
use std::time::{Duration, Instant};

use crate::support::awkward::{self, OWNER, chown};
use crate::support::lab::{ATLAS, Lab, VEGA};
use crate::support::oracle;
use crate::support::random;
use crate::support::scenario::{
    Before, DONE, FILTER, PRIVATE, home, make_private_paths, sync_and_compare, work,
};
use crate::support::seeds;

#[test]
fn an_awkward_home_arrives_exactly() {
    let Some(lab) = Lab::fresh() else { return };
    lab.configure(ATLAS, FILTER);
    awkward::build(&lab.dev(ATLAS)).expect("the awkward home");
    // What is on the target and not on the source goes, awkward or not.
    fs::write(lab.dev(VEGA).join("only on vega"), "x").expect("writable");
    random::tree(&work(&lab, VEGA), 3, 100).expect("a tree");
    make_private_paths(&lab);

    let source = home(&lab, ATLAS);
    sync_and_compare(&lab, &["--allow-mass-delete"]);
    assert_eq!(
        source.differences(&home(&lab, ATLAS)),
        [],
        "the source was changed"
    );
    assert_eq!(
        oracle::lsattr(&lab.dev(ATLAS).join("flags")),
        oracle::lsattr(&lab.dev(VEGA).join("flags"))
    );
}

#[test]
fn a_second_sync_touches_nothing() {
    let Some(lab) = Lab::fresh() else { return };
    lab.configure(ATLAS, FILTER);
    awkward::build(&lab.dev(ATLAS)).expect("the awkward home");
    sync_and_compare(&lab, &[]);
    let before = Before::remember(&lab, "before");
    sync_and_compare(&lab, &["--allow-out-of-order"]);
    let mut touched = before.touched(&lab, "after");
    touched.retain(|p| {
        !PRIVATE
            .iter()
            .any(|x| p.starts_with(&x.as_bytes()[1..]) || p == b"dev")
    });
    let shown: Vec<String> = touched
        .iter()
        .map(|p| p.escape_ascii().to_string())
        .collect();
    assert_eq!(shown, [""; 0]);
}

#[test]
fn only_what_differs_is_touched() {
    let Some(lab) = Lab::fresh() else { return };
    lab.configure(ATLAS, FILTER);
    awkward::build(&lab.dev(ATLAS)).expect("the awkward home");
    sync_and_compare(&lab, &[]);
    let before = Before::remember(&lab, "before");
    let documents = lab.dev(ATLAS).join("documents");
    fs::write(documents.join("letter.txt"), "Dear reader, again,\n").expect("writable");
    fs::rename(documents.join("one byte"), documents.join("renamed")).expect("writable");
    fs::remove_file(lab.dev(ATLAS).join("kinds/fifo")).expect("writable");
    awkward::chmod(&documents.join("empty"), 0o600).expect("root may");
    sync_and_compare(&lab, &["--allow-out-of-order"]);
    assert!(before.changed(&lab).len() >= 5);
    before.assert_only_changes_were_touched(&lab, "after");
}

#[test]
fn random_trees_arrive_exactly_over_other_random_trees() {
    let Some(mut lab) = Lab::fresh() else { return };
    for seed in seeds(&[11, 22, 33]) {
        println!("seed {seed}");
        lab.configure(ATLAS, FILTER);
        make_private_paths(&lab);
        random::tree(&work(&lab, ATLAS), seed, 400).expect("a tree");
        // Half alike: the same tree, then other changes on each side.
        random::tree(&work(&lab, VEGA), seed, 400).expect("a tree");
        random::mutate(&work(&lab, VEGA), seed + 1, 150).expect("changes");
        sync_and_compare(&lab, &["--allow-mass-delete"]);
        let before = Before::remember(&lab, "before");
        random::mutate(&work(&lab, ATLAS), seed + 2, 80).expect("changes");
        sync_and_compare(&lab, &["--allow-out-of-order", "--allow-mass-delete"]);
        before.assert_only_changes_were_touched(&lab, "after");
        drop(lab);
        lab = Lab::fresh().expect("there was one");
    }
}

#[test]
fn a_terabyte_of_hole_costs_nothing() {
    let Some(lab) = Lab::fresh() else { return };
    lab.configure(ATLAS, FILTER);
    // A disk image as virtual machines have them; rsync would read all of it, so our own reader judges alone.
    let image = fs::File::create(lab.dev(ATLAS).join("disk.img")).expect("writable");
    image.set_len(1 << 40).expect("sparse");
    for at in [0, 1 << 30, (1 << 40) - 4096] {
        image.write_all_at(b"boot sector", at).expect("writable");
    }
    let since = Instant::now();
    let run = lab.sync(&[]);
    assert!(DONE.contains(&run.status), "{}", run.text());
    assert!(
        since.elapsed() < Duration::from_mins(1),
        "{:?}",
        since.elapsed()
    );
    let found = home(&lab, ATLAS).differences(&home(&lab, VEGA));
    assert_eq!(found, []);
}

#[test]
fn a_symlink_planted_on_the_target_is_replaced_and_not_followed() {
    let Some(lab) = Lab::fresh() else { return };
    lab.configure(ATLAS, FILTER);
    let (source, target) = (lab.dev(ATLAS), lab.dev(VEGA));
    for name in ["data", "below/data"] {
        fs::create_dir_all(source.join(name)).expect("writable");
        fs::write(source.join(name).join("passwd"), "mine\n").expect("writable");
    }
    fs::create_dir(target.join("below")).expect("writable");
    for name in ["data", "below/data"] {
        symlink("/etc", target.join(name)).expect("writable");
        chown(&target.join(name), OWNER, OWNER).expect("root may");
    }
    let etc = lab.disk(VEGA).join("@/etc/passwd");
    let before = fs::read(&etc).expect("it is there");
    sync_and_compare(&lab, &["--allow-mass-delete"]);
    assert_eq!(fs::read(&etc).expect("still there"), before);
    assert!(lab.disk(VEGA).join("@/etc/hostname").exists());
}

#[test]
fn the_target_gets_the_program_and_atlas_a_log() {
    let Some(lab) = Lab::fresh() else { return };
    lab.configure(ATLAS, FILTER);
    sync_and_compare(&lab, &[]);
    let version = lab.as_dev(VEGA, &["pc-switcher", "--version"]).ok();
    assert!(version.stdout.starts_with("pc-switcher "), "{version:?}");
    let snapshots = lab.pc_switcher(&["snapshots", "list"]).ok();
    for phase in ["presync", "postsync"] {
        let told = |line: &str| {
            let words: Vec<&str> = line.split_whitespace().collect();
            words.contains(&"@home") && words.contains(&phase)
        };
        assert!(snapshots.stdout.lines().any(told), "{snapshots:?}");
        let name = format!("@home-{phase}-");
        let kept = fs::read_dir(lab.disk(ATLAS).join(".snapshots")).expect("it is there");
        let mut names = kept.flatten().map(|e| e.file_name());
        assert!(
            names.any(|n| n.to_string_lossy().starts_with(&name)),
            "{name}"
        );
    }
    let logs = lab.dev(ATLAS).join(".local/state/pc-switcher/logs");
    let logs: Vec<_> = fs::read_dir(logs)
        .expect("a directory of logs")
        .flatten()
        .collect();
    let [log] = &logs[..] else { panic!("{logs:?}") };
    let stat = log.metadata().expect("it is there");
    assert_eq!((stat.mode() & 0o777, stat.uid()), (0o600, OWNER));
    let text = fs::read_to_string(log.path()).expect("readable");
    assert!(text.lines().count() > 10);
    for line in text.lines() {
        serde_json::from_str::<serde_json::Value>(line).expect("an object a line");
    }
}
