//! What was renamed is renamed on the target: what goes over the wire is counted, the log says from where
//! to where, and a run that dies in between loses nothing.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;

use crate::support::lab::{ATLAS, Lab, VEGA};
use crate::support::noise;
use crate::support::oracle;
use crate::support::processes::{self, Part};
use crate::support::scenario::{
    AGAIN, DONE, FILTER, PRIVATE, comparison, cost, last_log, make_private_paths, work,
};

/// Two machines with an anchor, and what a sync costs that has nothing to do.
fn idle(lab: &Lab) -> u64 {
    lab.configure(ATLAS, FILTER);
    make_private_paths(lab);
    cost(lab, &[]);
    cost(lab, &[]).0
}

/// What the last run's log says was renamed, from where to where.
fn renamed(lab: &Lab) -> Vec<String> {
    let text = last_log(lab, ATLAS);
    let lines = text.lines().map(serde_json::from_str::<Value>);
    let messages = lines.filter_map(|line| Some(line.ok()?["message"].as_str()?.to_owned()));
    let mut found: Vec<String> =
        (messages.filter_map(|m| Some(m.strip_prefix("> ")?.to_owned()))).collect();
    found.sort();
    found
}

fn fill(top: &Path, dirs: usize, files: usize) {
    for dir in 0..dirs {
        let dir = top.join(dir.to_string());
        fs::create_dir_all(&dir).expect("writable");
        for n in 0..files {
            fs::write(dir.join(n.to_string()), format!("{} {n}\n", dir.display()))
                .expect("writable");
        }
    }
}

#[test]
fn a_renamed_directory_costs_a_rename_however_much_is_in_it() {
    let Some(lab) = Lab::fresh() else { return };
    let (ours, theirs) = (work(&lab, ATLAS), work(&lab, VEGA));
    fill(&ours.join("old"), 100, 100);
    let idle = idle(&lab);
    let ino = |path: &str| fs::metadata(theirs.join(path)).expect("there").ino();
    let before = ino("old/7/7");

    fs::rename(ours.join("old"), ours.join("new")).expect("writable");
    let begun = Instant::now();
    let (bytes, how) = cost(&lab, &[]);
    let took = begun.elapsed();
    assert_eq!(how, "anchor");
    assert_eq!(ino("new/7/7"), before, "it was made anew");
    assert_eq!(
        renamed(&lab),
        ["/home/dev/work/old \u{2192} /home/dev/work/new"]
    );
    let moved = bytes.saturating_sub(idle);
    println!("10,000 files renamed: {moved} bytes beyond {idle}, {took:?} with all oracles");
    assert!(moved < 20_000, "{moved}");

    // Deeper, into a new directory, with something changed in it, and a file that takes its name.
    fs::create_dir_all(ours.join("fresh/deep")).expect("writable");
    fs::rename(ours.join("new"), ours.join("fresh/deep/dir")).expect("writable");
    fs::rename(ours.join("fresh/deep/dir/3"), ours.join("three")).expect("writable");
    fs::write(ours.join("fresh/deep/dir/4/4"), "changed\n").expect("writable");
    fs::write(ours.join("new"), "a file\n").expect("writable");
    let (bytes, how) = cost(&lab, &[]);
    assert_eq!(how, "anchor");
    assert_eq!(ino("fresh/deep/dir/7/7"), before);
    assert_eq!(renamed(&lab).len(), 2, "{:?}", renamed(&lab));
    let moved = bytes.saturating_sub(idle);
    println!("moved deeper, and a few changes: {moved} bytes");
    // Some 29,000, with every line of the log.
    assert!(moved < 40_000, "{moved}");
    let history = lab.as_dev(ATLAS, &["pc-switcher", "history"]).ok().text();
    println!("{history}");

    // Files one by one.
    for n in 0..100 {
        let (from, to) = (format!("three/{n}"), format!("file {n}"));
        fs::rename(ours.join(from), ours.join(to)).expect("writable");
    }
    let three = ino("three/7");
    let (bytes, _) = cost(&lab, &[]);
    assert_eq!(ino("file 7"), three);
    assert_eq!(renamed(&lab).len(), 100);
    let moved = bytes.saturating_sub(idle);
    println!("100 files renamed: {moved} bytes");
    assert!(moved < 60_000, "{moved}");
}

#[test]
fn what_takes_the_place_of_something_else_costs_a_rename() {
    let Some(lab) = Lab::fresh() else { return };
    let (ours, theirs) = (work(&lab, ATLAS), work(&lab, VEGA));
    fill(&ours.join("build"), 20, 50);
    fill(&ours.join("build.new"), 20, 50);
    for log in ["log", "log.1", "log.2", "report", "draft"] {
        noise(&ours.join(log), 300_000);
    }
    let idle = idle(&lab);
    let ino = |path: &str| fs::metadata(theirs.join(path)).expect("there").ino();
    let before = ["build.new/7/7", "log", "log.1", "draft"].map(ino);

    let rename =
        |from: &str, to: &str| fs::rename(ours.join(from), ours.join(to)).expect("writable");
    // A directory that was built beside the old one, a rotated log that begins anew, a file over another.
    fs::remove_dir_all(ours.join("build")).expect("writable");
    rename("build.new", "build");
    rename("log.1", "log.2");
    rename("log", "log.1");
    fs::write(ours.join("log"), "new\n").expect("writable");
    rename("draft", "report");
    let name = |name: &str| format!("/home/dev/work/{name}");
    let expected = [
        ("build.new", "build"),
        ("draft", "report"),
        ("log", "log.1"),
        ("log.1", "log.2"),
    ];
    let expected = expected.map(|(from, to)| format!("{} \u{2192} {}", name(from), name(to)));
    // A dry run compares everything, and lists what will be done all the same.
    let dry = lab.sync(&["--dry-run", "--allow-out-of-order", "--allow-mass-delete"]);
    assert!(DONE.contains(&dry.status), "{}", dry.text());
    let planned = dry.stdout.lines().map(str::trim_start);
    let mut planned: Vec<&str> = planned
        .filter_map(|line| line.strip_prefix("> ")?.split(" (").next())
        .collect();
    planned.sort_unstable();
    assert_eq!(planned, expected, "{}", dry.text());

    let (bytes, how) = cost(&lab, &["--allow-mass-delete"]);
    assert_eq!(how, "anchor");
    assert_eq!(["build/7/7", "log.1", "log.2", "report"].map(ino), before);
    assert_eq!(renamed(&lab), expected);
    // And so does what is told of it afterwards.
    let lines = |args: &[&str]| -> Vec<Value> {
        let out = lab.pc_switcher(args).ok().stdout;
        let parse = |line: &str| serde_json::from_str(line).expect("a JSON object a line");
        out.lines().map(parse).collect()
    };
    let sessions = lines(&["history", "--json"]);
    let last = sessions
        .iter()
        .max_by_key(|s| s["started_at"].as_str().map(str::to_owned));
    let session = last
        .and_then(|s| s["session"].as_str())
        .expect("it has a name");
    let mut told: Vec<String> = (lines(&["history", session, "--json"]).iter())
        .filter(|change| change["sign"] == ">")
        .map(|change| format!("{} {}", change["from"], change["path"]))
        .collect();
    told.sort();
    assert_eq!(told.len(), expected.len(), "{told:?}");
    // 1000 files were deleted: each is a line of the log, some 100 bytes of JSON before it is packed.
    let moved = bytes.saturating_sub(idle);
    println!("taking each other's place: {moved} bytes beyond {idle}");
    assert!(moved < 150_000, "{moved}");
}

#[test]
fn a_run_killed_while_it_moves_loses_nothing_and_the_next_makes_it_right() {
    const DIRS: usize = 4000;
    let Some(lab) = Lab::fresh() else { return };
    let (ours, theirs) = (work(&lab, ATLAS), work(&lab, VEGA));
    fill(&ours.join("old"), DIRS, 1);
    idle(&lab);
    let mut halfway = 0;
    for (round, wait) in [0, 3, 20].into_iter().enumerate() {
        let (old, new) = (
            format!("old{}", "x".repeat(round)),
            format!("old{}", "x".repeat(round + 1)),
        );
        fs::create_dir(ours.join(&new)).expect("writable");
        for dir in 0..DIRS {
            let dir = dir.to_string();
            fs::rename(ours.join(&old).join(&dir), ours.join(&new).join(&dir)).expect("writable");
        }
        let mut run = lab.start_sync(&AGAIN);
        while run.is_running() && !theirs.join(&new).join("0").exists() {
            std::thread::sleep(Duration::from_micros(200));
        }
        std::thread::sleep(Duration::from_millis(wait));
        for victim in processes::of(&lab, Part::Agent(VEGA)) {
            victim.signal(Signal::KILL);
        }
        let status = run.wait().status;
        lab.assert_nothing_left_running();
        // Each directory is where it was or where it shall be, whole.
        let mut moved = 0;
        for dir in 0..DIRS {
            let at = |top: &str| theirs.join(top).join(dir.to_string()).join("0").exists();
            assert!(at(&old) != at(&new), "{dir}: {} {}", at(&old), at(&new));
            moved += usize::from(at(&new));
        }
        println!("killed {wait} ms after the first: {moved} of {DIRS} were moved, {status:?}");
        halfway += usize::from(moved > 0 && moved < DIRS);
        if status != Some(0) {
            lab.sync(&AGAIN).expect(4);
        }
        let next = lab.sync(&[&AGAIN[..], &["--allow-incomplete", "--allow-mass-delete"]].concat());
        assert!(DONE.contains(&next.status), "{}", next.text());
        if status != Some(0) {
            assert_eq!(comparison(&lab, ATLAS).0, "full");
        }
        oracle::assert_homes_equal(&lab, PRIVATE);
    }
    assert!(halfway > 0, "it was never in the middle");
}
