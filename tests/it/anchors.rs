//! The second sync starts from what the first one left: how it knows, when it does not, and what it says.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use crate::support::awkward::set_mtime;
use crate::support::lab::{ATLAS, Lab, Output, VEGA};
use crate::support::noise;
use crate::support::oracle;
use crate::support::random;
use crate::support::scenario::{
    DONE, FILTER, PRIVATE, comparison, last_log, make_private_paths, work,
};
use crate::support::seeds;
use crate::support::stopped::STAGING;

/// Lets a sync go the same way again.
const AGAIN: &str = "--allow-out-of-order";

/// A sync that must be done, and how it compared.
#[track_caller]
fn sync(lab: &Lab, args: &[&str]) -> (Output, String, Value) {
    let run = lab.sync(&[&[AGAIN], args].concat());
    assert!(
        DONE.contains(&run.status),
        "{:?}\n{}",
        run.status,
        run.text()
    );
    let (how, line) = comparison(lab, ATLAS);
    (run, how, line)
}

/// Two machines with equal homes and an anchor.
#[track_caller]
fn anchored(lab: &Lab) -> PathBuf {
    lab.configure(ATLAS, FILTER);
    make_private_paths(lab);
    let work = lab.dev(ATLAS).join("work");
    fs::create_dir(&work).expect("writable");
    for n in 0..50 {
        fs::write(work.join(n.to_string()), format!("page {n}\n")).expect("writable");
    }
    let (first, how, _) = sync(lab, &[]);
    assert_eq!(how, "full");
    assert!(
        said(&first, "full scan of /home: first sync with vega"),
        "{}",
        first.text()
    );
    assert!(!said(&first, "no anchor to tell"), "{}", first.text());
    oracle::assert_homes_equal(lab, PRIVATE);
    lab.dev(VEGA).join("work")
}

#[track_caller]
fn assert_equal_by_a_full_scan(lab: &Lab) {
    let full = lab.sync(&[AGAIN, "--dry-run", "--full-scan"]);
    assert!(
        said(&full, "user_data: nothing to change"),
        "{}",
        full.text()
    );
}

/// Whether a run said so, however its lines are broken.
fn said(run: &Output, what: &str) -> bool {
    let flat = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    flat(&run.text()).contains(&flat(what))
}

fn shell(dir: &Path, script: &str) {
    let status = Command::new("bash")
        .args(["-euc", script])
        .current_dir(dir)
        .status();
    assert!(status.expect("bash is there").success(), "{script}");
}

#[test]
fn the_second_sync_looks_only_at_what_changed_whatever_there_is() {
    let Some(lab) = Lab::fresh() else { return };
    let theirs = anchored(&lab);
    let work = lab.dev(ATLAS).join("work");
    let looked = |line: &Value| {
        line["source_looked"].as_u64().expect("counted")
            + line["target_looked"].as_u64().expect("counted")
    };
    let mut seen = Vec::new();
    for files in [10, 3000] {
        shell(
            &work,
            &format!("mkdir -p many; touch $(seq -f 'many/{files}-%.0f' {files})"),
        );
        sync(&lab, &[]);
        // Same size, same time: the filesystem knows better.
        let page = work.join("7");
        let time = fs::metadata(&page).expect("there");
        fs::write(&page, format!("PAGE {}\n", files % 9)).expect("writable");
        set_mtime(&page, time.mtime(), time.mtime_nsec()).expect("root may");
        fs::write(work.join("8"), "rewritten\n").expect("writable");
        fs::remove_file(theirs.join("9")).expect("there");
        let (run, how, line) = sync(&lab, &[]);
        assert_eq!(how, "anchor", "{}", run.text());
        assert!(!said(&run, "full scan"), "{}", run.text());
        oracle::assert_homes_equal(&lab, PRIVATE);
        seen.push(looked(&line));
    }
    println!("looked at with 10 and with 3000 files more: {seen:?}");
    assert!(
        seen[1] <= seen[0] + 10,
        "it grows with the number of files: {seen:?}"
    );
    assert!(seen[0] < 150, "{seen:?}");

    // And back: the same pair with the roles exchanged.
    lab.configure(VEGA, FILTER);
    fs::write(theirs.join("10"), "from vega\n").expect("writable");
    let back = lab.sync_from(VEGA, &[]);
    assert!(DONE.contains(&back.status), "{}", back.text());
    assert_eq!(comparison(&lab, VEGA).0, "anchor", "{}", back.text());
    oracle::assert_homes_equal(&lab, PRIVATE);
    let verified = lab.sync(&["--verify"]);
    assert!(DONE.contains(&verified.status), "{}", verified.text());
    assert_eq!(comparison(&lab, ATLAS).0, "anchor", "{}", verified.text());
}
/// A machine's snapshots of one kind, newest last.
fn snapshots(lab: &Lab, host: &str, kind: &str) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = (fs::read_dir(lab.disk(host).join(".snapshots")).expect("there"))
        .map(|entry| entry.expect("readable").path())
        .filter(|path| path.to_string_lossy().contains(kind))
        .collect();
    found.sort();
    found
}

fn btrfs(args: &[&str]) {
    let done = Command::new("btrfs")
        .args(args)
        .output()
        .expect("btrfs is there");
    assert!(
        done.status.success(),
        "{args:?}: {}",
        String::from_utf8_lossy(&done.stderr)
    );
}

fn history(lab: &Lab, host: &str) -> (PathBuf, Value) {
    let path = lab.disk(host).join("@/var/lib/pc-switcher/history.json");
    let file = serde_json::from_slice(&fs::read(&path).expect("there")).expect("JSON");
    (path, file)
}

fn last_session(lab: &Lab, host: &str) -> String {
    let (_, file) = history(lab, host);
    let last = file["history"].as_array().expect("a list").last();
    last.expect("there is one")["session"]
        .as_str()
        .expect("text")
        .to_owned()
}

/// Rewrites a machine's history.
fn rewrite(lab: &Lab, host: &str, change: impl Fn(&mut Vec<Value>)) {
    let (path, mut file) = history(lab, host);
    change(file["history"].as_array_mut().expect("a list"));
    fs::write(&path, file.to_string()).expect("writable");
}

#[test]
fn every_reason_for_a_full_scan_is_told_and_the_sync_is_right() {
    let Some(lab) = Lab::fresh() else { return };
    let theirs = anchored(&lab);
    let ours = lab.dev(ATLAS).join("work");
    let why = |reason: &str, args: &[&str]| {
        let (run, how, _) = sync(&lab, args);
        assert_eq!(how, "full", "{reason}: {}", run.text());
        assert!(
            said(&run, "full scan of /home:") && said(&run, reason),
            "{reason}:\n{}",
            run.text()
        );
        oracle::assert_homes_equal(&lab, PRIVATE);
        run
    };
    let asked = why("--full-scan", &["--full-scan"]);
    assert!(!said(&asked, "no anchor to tell"), "{}", asked.text());

    // What the filter left out was never compared: equal size and time are not believed.
    let narrow = format!("{FILTER}- *.tmp\n");
    lab.configure(ATLAS, &narrow);
    for (dir, text) in [(&ours, "ours"), (&theirs, "thei")] {
        fs::write(dir.join("x.tmp"), text).expect("writable");
        set_mtime(&dir.join("x.tmp"), 1_000_000_000, 0).expect("root may");
    }
    let (run, _, _) = sync(&lab, &[]);
    assert!(said(&run, "the filter of /home changed"), "{}", run.text());
    assert_eq!(fs::read(theirs.join("x.tmp")).expect("there"), b"thei");
    lab.configure(ATLAS, FILTER);
    why("the filter of /home changed", &[]);
    assert_eq!(fs::read(theirs.join("x.tmp")).expect("there"), b"ours");

    let last = |host, kind| {
        let session = last_session(&lab, host);
        let mut found = snapshots(&lab, host, kind).into_iter();
        // Two sessions within a second are in no order by their names.
        found
            .rfind(|path| path.to_string_lossy().contains(&session))
            .expect("there is one")
    };
    let gone = last(VEGA, "postsync");
    btrfs(&[
        "-q",
        "subvolume",
        "delete",
        "-c",
        gone.to_str().expect("text"),
    ]);
    let unknown = why("is gone", &[]);
    assert!(said(&unknown, "no anchor to tell"), "{}", unknown.text());

    let touched = last(ATLAS, "presync");
    let touched = touched.to_str().expect("text");
    btrfs(&["property", "set", touched, "ro", "false"]);
    fs::write(format!("{touched}/planted"), "x").expect("writable");
    btrfs(&["property", "set", touched, "ro", "true"]);
    why("was written to since the last sync", &[]);

    let moved = last(ATLAS, "presync");
    let copy = lab.disk(ATLAS).join("copy");
    let args = [
        "-q",
        "subvolume",
        "snapshot",
        moved.to_str().expect("text"),
        copy.to_str().expect("text"),
    ];
    btrfs(&args);
    btrfs(&["filesystem", "sync", moved.to_str().expect("text")]);
    why("not in the state it was left in", &[]);

    rewrite(&lab, VEGA, |history| {
        let mut other = history.last().expect("there is one").clone();
        other["session"] = "0000dead".into();
        other["source"]["hostname"] = "rigel".into();
        other["source"]["machine_id"] = "0123456789abcdef0123456789abcdef".into();
        history.push(other);
    });
    why("vega was changed by a sync from rigel in between", &[]);

    rewrite(&lab, VEGA, |history| {
        let last = history.last_mut().expect("there is one");
        last["anchor"] = serde_json::json!({"folders": 7});
    });
    why("is damaged", &[]);

    for host in [ATLAS, VEGA] {
        rewrite(&lab, host, |history| {
            let last = history.last_mut().expect("there is one");
            last["anchor"]["folders"]["/home"]["full_scan_at"] = "2020-02-02T00:00:00Z".into();
        });
    }
    why("the last one was on 2020-02-02 (full_scan_every)", &[]);

    // A run that died: its marker says so.
    let marker = serde_json::json!({"version": 1, "incomplete": {
        "session": "0000beef", "role": "target", "source": "atlas", "target": "vega",
        "started_at": "2026-01-01T00:00:00Z", "phase": "execute", "module": "user_data", "presync": [],
    }});
    let path = lab.disk(VEGA).join("@/var/lib/pc-switcher/incomplete.json");
    fs::write(path, marker.to_string()).expect("writable");
    why("session 0000beef did not end well", &["--allow-incomplete"]);

    let (run, how, _) = sync(&lab, &[]);
    assert_eq!(how, "anchor", "{}", run.text());
}

#[test]
fn a_snapshot_made_again_other_folders_and_a_kernel_that_cannot_compare_are_told_too() {
    let Some(lab) = Lab::fresh() else { return };
    let theirs = anchored(&lab);
    let ours = lab.dev(ATLAS).join("work");
    let change = |n: u32| fs::write(ours.join("3"), format!("change {n}\n")).expect("writable");

    // Of the same name, of the same subvolume, read-only, and not what the sync left.
    let session = last_session(&lab, VEGA);
    let mut all = snapshots(&lab, VEGA, "postsync").into_iter();
    let half = all.find(|path| path.to_string_lossy().contains(&session));
    let half = half.expect("there is one");
    let half = half.to_str().expect("text");
    let live = lab.disk(VEGA).join("@home");
    btrfs(&["-q", "subvolume", "delete", "-c", half]);
    let live = live.to_str().expect("text");
    btrfs(&["-q", "subvolume", "snapshot", "-r", live, half]);
    change(1);
    let (run, how, _) = sync(&lab, &[]);
    assert_eq!(how, "full", "{}", run.text());
    let why = "the snapshot of the last sync was replaced by another one";
    assert!(said(&run, why), "{}", run.text());
    assert!(logged(&lab, why));
    oracle::assert_homes_equal(&lab, PRIVATE);

    // Another folder: that one is compared whole, and the one that was mirrored is not.
    let folders = |folders: &str| {
        format!(
            "sync_modules: {{ user_data: true }}\n\
             disk: {{ preflight_minimum: \"1%\", runtime_minimum: \"1%\", warning_threshold: \"1%\" }}\n\
             btrfs_snapshots: {{ subvolumes: [\"@home\", \"@\"] }}\n\
             user_data: {{ folders: [ {folders} ] }}\n"
        )
    };
    let both = folders("{ path: /home, filter: home.filter }, { path: /opt }");
    lab.configure_with(ATLAS, &both, FILTER);
    fs::write(lab.disk(ATLAS).join("@/opt/tool"), "a tool\n").expect("writable");
    change(2);
    let (run, _, _) = sync(&lab, &[]);
    let why = "full scan of /opt: /opt was not mirrored by the last sync";
    assert!(said(&run, why), "{}", run.text());
    assert!(!said(&run, "full scan of /home"), "{}", run.text());
    assert!(logged(&lab, why));
    oracle::assert_homes_equal(&lab, PRIVATE);
    let (run, _, _) = sync(&lab, &[]);
    assert!(!said(&run, "full scan"), "{}", run.text());
    lab.configure(ATLAS, FILTER);
    let (run, how, _) = sync(&lab, &[]);
    assert_eq!(how, "anchor", "{}", run.text());

    // A kernel without the ioctl, as far as the source can see.
    change(3);
    let run = lab.sync_without_send(&[AGAIN]);
    assert!(DONE.contains(&run.status), "{}", run.text());
    assert_eq!(comparison(&lab, ATLAS).0, "full", "{}", run.text());
    let why = "on atlas, this kernel cannot compare snapshots";
    assert!(said(&run, why), "{}", run.text());
    assert!(logged(&lab, why));
    oracle::assert_homes_equal(&lab, PRIVATE);
    assert_eq!(fs::read(theirs.join("3")).expect("there"), b"change 3\n");
    let (run, how, _) = sync(&lab, &[]);
    assert_eq!(how, "anchor", "{}", run.text());
}

/// Whether the log of the last run says so.
fn logged(lab: &Lab, what: &str) -> bool {
    let text = last_log(lab, ATLAS);
    let lines = text.lines().map(serde_json::from_str::<Value>);
    let mut messages = lines.filter_map(|line| Some(line.ok()?["message"].as_str()?.to_owned()));
    messages.any(|message| message.contains(what))
}

#[test]
fn what_both_machines_changed_is_shown_and_waits_for_an_answer() {
    let Some(lab) = Lab::fresh() else { return };
    let theirs = anchored(&lab);
    let ours = lab.dev(ATLAS).join("work");
    fs::write(ours.join("1"), "atlas wrote more\n").expect("writable");
    fs::write(theirs.join("1"), "vega\n").expect("writable");
    fs::write(theirs.join("new"), "of vega alone\n").expect("writable");
    for dir in [&ours, &theirs] {
        // The same change on both is none.
        fs::write(dir.join("2"), "the same\n").expect("writable");
        set_mtime(&dir.join("2"), 1_700_000_000, 0).expect("root may");
    }
    fs::write(theirs.join("server.log"), "noise\n").expect("writable");

    let refused = lab.sync(&[AGAIN]).expect(4);
    for part in [
        "1 path changed on both atlas and vega",
        "/home/dev/work/1: atlas 17 B of",
        "vega 5 B of",
        "--allow-conflicts",
        "2 paths changed on vega since session",
        "1 caches, logs and session files",
    ] {
        assert!(said(&refused, part), "{part}:\n{}", refused.text());
    }
    assert_eq!(fs::read(theirs.join("1")).expect("there"), b"vega\n");
    assert!(theirs.join("new").exists());

    let dry = lab.sync(&[AGAIN, "--dry-run"]).expect(8);
    assert!(
        said(&dry, "the real run needs --allow-conflicts"),
        "{}",
        dry.text()
    );
    assert!(
        said(&dry, "a dry run makes no snapshots to compare"),
        "{}",
        dry.text()
    );
    assert!(said(&dry, "2 paths changed on vega"), "{}", dry.text());

    let (run, how, _) = sync(&lab, &["--allow-conflicts"]);
    assert_eq!(how, "anchor", "{}", run.text());
    oracle::assert_homes_equal(&lab, PRIVATE);
    let before = snapshots(&lab, VEGA, "presync")
        .pop()
        .expect("there is one");
    let kept = before.join("dev/work/1");
    assert_eq!(fs::read(kept).expect("there"), b"vega\n", "the way back");
}

#[test]
fn what_a_rollback_has_put_back_was_changed_since_the_anchor() {
    let Some(lab) = Lab::fresh() else { return };
    let theirs = anchored(&lab);
    let ours = lab.dev(ATLAS).join("work");
    fs::write(theirs.join("1"), "rescued on vega\n").expect("writable");
    shell(&ours, "echo atlas >2; rm 3; mv 4 four; echo new >new");
    let (run, how, _) = sync(&lab, &[]);
    assert_eq!(how, "anchor", "{}", run.text());
    oracle::assert_homes_equal(&lab, PRIVATE);

    lab.pc_switcher(&["rollback", "--yes"]).ok();
    let back = fs::read(theirs.join("1")).expect("there");
    assert_eq!(back, b"rescued on vega\n");
    // What would be lost again is named; and that it was changed here as well since then.
    shell(&ours, "echo changed once more >1");
    let refused = lab.sync(&[AGAIN]).expect(4);
    for part in [
        "1 path changed on both atlas and vega",
        "/home/dev/work/1: atlas 18 B of",
        "vega 16 B of",
        "was rolled back on vega",
    ] {
        assert!(said(&refused, part), "{part}:\n{}", refused.text());
    }
    let (run, how, _) = sync(&lab, &["--allow-conflicts"]);
    assert_eq!(how, "anchor", "{}", run.text());
    assert!(!said(&run, "full scan"), "{}", run.text());
    oracle::assert_homes_equal(&lab, PRIVATE);
    assert!(!theirs.join("4").exists() && theirs.join("four").exists());
    assert_equal_by_a_full_scan(&lab);
}

#[test]
fn random_changes_on_both_machines_are_synced_from_the_anchor_as_by_a_full_scan() {
    let Some(lab) = Lab::fresh() else { return };
    anchored(&lab);
    let (ours, theirs) = (work(&lab, ATLAS), work(&lab, VEGA));
    random::tree(&ours, 9, 200).expect("a tree");
    let flags = ["--allow-mass-delete", "--allow-conflicts"];
    sync(&lab, &flags);
    for seed in seeds(&[1, 2]) {
        println!("seed {seed}");
        random::mutate(&ours, seed * 10, 40).expect("changes");
        random::mutate(&theirs, seed * 10 + 1, 25).expect("changes");
        let (run, how, _) = sync(&lab, &flags);
        assert_eq!(how, "anchor", "{}", run.text());
        oracle::assert_homes_equal(&lab, PRIVATE);
        assert_equal_by_a_full_scan(&lab);
    }
}

#[test]
fn what_is_written_to_the_target_during_a_sync_is_named_and_mended_by_the_next() {
    let Some(lab) = Lab::fresh() else { return };
    let theirs = anchored(&lab);
    let ours = lab.dev(ATLAS).join("work");
    // What is looked at afterwards is what the kernel names, and with much that is new everything.
    for (number, more, args) in [(33, 0, &[AGAIN][..]), (34, 60, &[AGAIN, "--full-scan"])] {
        noise(&ours.join(format!("large-{number}")), 30_000_000);
        for n in 0..more {
            fs::write(ours.join(format!("new-{n}")), "new\n").expect("writable");
        }
        lab.verb(&["netem", "200mbit", "3ms"]).ok();
        let run = lab.start_sync(args);
        let staging = lab.home(VEGA).join(STAGING);
        assert!(Lab::wait_until(Duration::from_secs(90), || staging.exists()));
        // Not in the plan, and with its time put back.
        let page = theirs.join(number.to_string());
        let time = fs::metadata(&page).expect("there");
        fs::write(&page, "page XX\n").expect("writable");
        set_mtime(&page, time.mtime(), time.mtime_nsec()).expect("root may");
        fs::write(theirs.join("stray"), "written meanwhile\n").expect("writable");
        let run = run.wait();
        lab.verb(&["netem", "off"]).ok();
        assert!(DONE.contains(&run.status), "{}", run.text());
        assert!(
            said(&run, "2 paths below /home changed on vega during the sync"),
            "{}",
            run.text()
        );

        let (next, how, _) = sync(&lab, &[]);
        assert_eq!(how, "anchor", "{}", next.text());
        let text = format!("page {number}\n");
        assert_eq!(fs::read(&page).expect("there"), text.as_bytes());
        assert!(!theirs.join("stray").exists());
        oracle::assert_homes_equal(&lab, PRIVATE);
    }
}
