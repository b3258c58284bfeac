//! The second sync starts from what the first one left: how it knows, when it does not, and what it says.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::support::awkward::set_mtime;
use crate::support::lab::{ATLAS, Lab, Output, VEGA};
use crate::support::oracle;
use crate::support::scenario::{DONE, FILTER, PRIVATE, make_private_paths};

/// Lets a sync go the same way again.
const AGAIN: &str = "--allow-out-of-order";

/// What the last sync's log says of its comparison: `anchor` or `full`, with all it says besides.
fn comparison(lab: &Lab, host: &str) -> (String, Value) {
    let logs = lab.dev(host).join(".local/state/pc-switcher/logs");
    let mut files: Vec<PathBuf> = (fs::read_dir(logs).expect("a directory of logs"))
        .map(|entry| entry.expect("readable").path())
        .collect();
    files.sort_by_key(|path| fs::metadata(path).expect("there").mtime_nsec());
    files.sort_by_key(|path| fs::metadata(path).expect("there").mtime());
    let text = fs::read_to_string(files.last().expect("a log")).expect("readable");
    let mut lines = text
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
    let line = lines.rfind(|line| line["scan"].is_string());
    let line = line.expect("a line about the comparison");
    (line["scan"].as_str().expect("text").to_owned(), line)
}

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
    assert!(said(&first, "no anchor to tell"), "{}", first.text());
    oracle::assert_homes_equal(lab, PRIVATE);
    lab.dev(VEGA).join("work")
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
