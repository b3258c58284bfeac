//! How long snapshots stay: by number, by age, and whatever the numbers say while they are needed.

use std::collections::BTreeSet;
use std::fs;

use crate::support::lab::{ATLAS, Lab, VEGA};
use crate::support::scenario::FILTER;

const CONFIG: &str = "\
sync_modules: { user_data: true }
disk: { preflight_minimum: \"1%\", runtime_minimum: \"1%\", warning_threshold: \"1%\" }
btrfs_snapshots: { subvolumes: [\"@home\"], keep_recent: 1 }
user_data: { folders: [ { path: /home, filter: home.filter } ] }
";

/// Names of the snapshots there are, from outside.
fn snapshots(lab: &Lab, host: &str) -> BTreeSet<String> {
    let directory = fs::read_dir(lab.disk(host).join(".snapshots")).expect("it is there");
    let name = |entry: std::io::Result<fs::DirEntry>| entry.expect("readable").file_name();
    directory
        .map(|entry| name(entry).into_string().expect("ours"))
        .collect()
}

fn sessions(names: &BTreeSet<String>) -> BTreeSet<String> {
    let session = |name: &String| Some(name.rsplit_once('-')?.1.to_owned());
    names.iter().filter_map(session).collect()
}

/// Names in the lines of what `snapshots prune` prints.
fn listed(text: &str) -> BTreeSet<String> {
    let words = text
        .split_whitespace()
        .filter(|word| word.starts_with("@home-"));
    words.map(str::to_owned).collect()
}

#[test]
fn old_snapshots_go_after_every_sync_on_both_machines_and_by_hand_exactly_as_listed() {
    let Some(lab) = Lab::fresh() else { return };
    for host in [ATLAS, VEGA] {
        lab.configure_with(host, CONFIG, FILTER);
    }
    let again = ["--allow-out-of-order", "--allow-mass-delete"];
    for round in 0..3 {
        fs::write(lab.dev(ATLAS).join("file"), round.to_string()).expect("writable");
        lab.sync(&again);
    }
    // One session is kept, on each machine.
    for host in [ATLAS, VEGA] {
        let names = snapshots(&lab, host);
        assert_eq!(
            (names.len(), sessions(&names).len()),
            (2, 1),
            "{host}: {names:?}"
        );
    }
    let newest = sessions(&snapshots(&lab, VEGA));

    // Snapshots of sessions that nobody remembers, as old versions of a machine have them.
    for host in [ATLAS, VEGA] {
        for name in [
            "@home-presync-20200101T000000Z-0000000a",
            "@home-postsync-20200101T000000Z-0000000a",
        ] {
            lab.exec(
                host,
                &[
                    "btrfs",
                    "subvolume",
                    "snapshot",
                    "-r",
                    "/home",
                    &format!("/.snapshots/{name}"),
                ],
            )
            .ok();
        }
    }
    lab.exec(
        VEGA,
        &[
            "btrfs",
            "subvolume",
            "snapshot",
            "-r",
            "/home",
            "/.snapshots/mine",
        ],
    )
    .ok();
    let before = [ATLAS, VEGA].map(|host| snapshots(&lab, host));
    let none = lab
        .pc_switcher(&["snapshots", "prune", "--older-than", "900y"])
        .ok();
    assert!(
        none.stdout.contains("Nothing to delete on atlas"),
        "{}",
        none.text()
    );
    for (host, before, flags) in [
        (ATLAS, &before[0], &[][..]),
        (VEGA, &before[1], &["--host", VEGA][..]),
    ] {
        let dry =
            lab.pc_switcher(&[&["snapshots", "prune", "--keep", "0", "--dry-run"], flags].concat());
        let would = listed(&dry.ok().stdout);
        assert_eq!(&snapshots(&lab, host), before, "a dry run deletes nothing");
        let real = lab.pc_switcher(&[&["snapshots", "prune", "--keep", "0"], flags].concat());
        assert_eq!(listed(&real.ok().stdout), would);
        let after = snapshots(&lab, host);
        let gone: BTreeSet<String> = before.difference(&after).cloned().collect();
        assert_eq!(gone, would, "{host}");
        assert_eq!(gone.len(), 2);
        // What the next sync begins from stays though none was to be kept, and so does what is not ours.
        assert!(newest.is_subset(&sessions(&after)), "{after:?}");
    }
    assert!(snapshots(&lab, VEGA).contains("mine"));
    lab.assert_nothing_left_running();
}

#[test]
fn the_way_back_from_a_run_that_died_is_kept_whatever_follows() {
    let Some(lab) = Lab::fresh() else { return };
    for host in [ATLAS, VEGA] {
        lab.configure_with(host, CONFIG, FILTER);
    }
    for n in 0..2000 {
        fs::write(lab.dev(ATLAS).join(format!("file {n}")), n.to_string()).expect("writable");
    }
    let mut run = lab.start_sync(&["--allow-mass-delete"]);
    let staging = lab.home(VEGA).join(".pc-switcher-staging");
    while !staging.exists() {
        assert!(run.is_running(), "{}", run.wait().text());
    }
    lab.verb(&["kill", VEGA]).ok();
    run.wait();
    lab.verb(&["start", VEGA]).ok();
    let held = snapshots(&lab, VEGA);
    assert_eq!(held.len(), 1);
    let remote = lab
        .pc_switcher(&["snapshots", "prune", "--keep", "0", "--host", VEGA])
        .ok();
    assert!(
        remote.stdout.contains("Nothing to delete on vega"),
        "{}",
        remote.text()
    );
    assert_eq!(snapshots(&lab, VEGA), held);
}

#[test]
fn an_age_that_could_mean_two_things_is_refused() {
    let program = env!("CARGO_BIN_EXE_pc-switcher");
    let output = std::process::Command::new(program)
        .args(["snapshots", "prune", "--older-than", "1m"])
        .output()
        .expect("it runs");
    assert_eq!(output.status.code(), Some(2));
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("minutes or months"), "{text}");
}

#[test]
fn a_snapshot_is_told_of_with_the_space_it_alone_holds_as_far_as_it_is_known() {
    let Some(lab) = Lab::fresh() else { return };
    lab.configure_with(ATLAS, CONFIG, FILTER);
    let large = lab.dev(ATLAS).join("large");
    fs::write(&large, vec![7; 3 << 20]).expect("writable");
    let name = "@home-presync-20200101T000000Z-0000000a";
    let make = [
        "btrfs",
        "subvolume",
        "snapshot",
        "-r",
        "/home",
        &format!("/.snapshots/{name}"),
    ];
    lab.exec(ATLAS, &make).ok();
    fs::remove_file(&large).expect("writable");
    lab.exec(ATLAS, &["sync", "-f", "/home"]).ok();
    let dry = ["snapshots", "prune", "--keep", "0", "--dry-run"];
    let row = |text: &str| {
        let found = text.lines().find(|line| line.contains(name));
        found.expect("a line about it").to_owned()
    };
    let text = lab.pc_switcher(&dry).ok().stdout;
    // Without quotas, by looking; and what all of them free together.
    assert!(row(&text).ends_with("3.0 MiB"), "{text}");
    let together = "Would delete 1 snapshot on atlas, which frees 3.0 MiB.";
    assert!(text.contains(together), "{text}");
    lab.exec(ATLAS, &["btrfs", "quota", "enable", "/home"]).ok();
    lab.exec(ATLAS, &["btrfs", "quota", "rescan", "-w", "/home"])
        .ok();
    let text = lab.pc_switcher(&dry).ok().stdout;
    assert!(row(&text).ends_with("3.0 MiB"), "{text}");
    let real = lab.pc_switcher(&["snapshots", "prune", "--keep", "0"]).ok();
    let done = "Deleted 1 snapshot on atlas, which frees 3.0 MiB.";
    assert!(real.stdout.contains(done), "{}", real.text());
}
