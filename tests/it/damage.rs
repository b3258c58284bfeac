//! State files that are not what we wrote: every command that needs one says which it is and what to do,
//! and leaves it as it is; none takes it for an empty one.

use std::fs;
use std::path::PathBuf;

use crate::support::lab::{ATLAS, Lab, Output, VEGA};
use crate::support::oracle;
use crate::support::scenario::{DONE, FILTER, PRIVATE, sync_and_compare};

const DIR: &str = "var/lib/pc-switcher";

/// Makes a damaged file of what was in it and of what is in the other one.
type Damage = fn(&[u8], &[u8]) -> Vec<u8>;

/// What may have become of a file, made of what was in it and of what is in the other one.
const DAMAGES: [(&str, Damage); 7] = [
    ("emptied", |_, _| Vec::new()),
    ("truncated", |was, _| was[..was.len() / 2].to_vec()),
    ("without its last byte", |was, _| {
        was[..was.len() - 1].to_vec()
    }),
    ("zeros, as after a power cut", |was, _| vec![0; was.len()]),
    ("swapped for the other one", |_, other| other.to_vec()),
    ("that of another machine", |was, _| {
        let text = String::from_utf8(was.to_vec()).expect("JSON");
        let begin = "{\"version\":1,";
        let machine = "\"machine\":{\"hostname\":\"deneb\",\"machine_id\":\"0123456789abcdef0123456789abcdef\"}";
        // Who wrote it stands in front, if it says so.
        let rest = text.strip_prefix(begin).expect("the form comes first");
        let rest = match rest.strip_prefix("\"machine\":") {
            Some(rest) => rest.split_once("},").expect("it ends").1,
            None => rest,
        };
        format!("{begin}{machine},{rest}").into_bytes()
    }),
    ("of an older form", |was, _| {
        let text = String::from_utf8(was.to_vec()).expect("JSON");
        text.replacen("\"version\":1", "\"version\":0", 1)
            .into_bytes()
    }),
];

fn state(lab: &Lab, host: &str, name: &str) -> PathBuf {
    lab.disk(host).join("@").join(DIR).join(name)
}

/// Commands that need what a machine remembers: typed on atlas, about either machine.
fn commands(lab: &Lab, host: &str) -> Vec<(&'static str, Output)> {
    let there = |words: &[&'static str]| -> Vec<&'static str> {
        let host: &[&'static str] = if host == VEGA { &["--host", VEGA] } else { &[] };
        [words, host].concat()
    };
    let run = |args: &[&str]| lab.pc_switcher(args);
    let status: &[&str] = if host == VEGA {
        &["status", VEGA]
    } else {
        &["status"]
    };
    vec![
        (
            "sync",
            lab.sync(&["--allow-out-of-order", "--allow-incomplete"]),
        ),
        (
            "a dry run",
            lab.sync(&["--dry-run", "--allow-out-of-order"]),
        ),
        ("history", run(&there(&["history"]))),
        ("status", run(status)),
        ("prune", run(&there(&["snapshots", "prune", "--keep", "0"]))),
        ("rollback", run(&there(&["rollback", "--yes"]))),
        ("doctor", run(&["doctor", VEGA])),
    ]
}

#[test]
fn a_damaged_state_file_is_named_with_what_to_do_and_never_taken_for_an_empty_one() {
    let Some(lab) = Lab::fresh() else { return };
    for host in [ATLAS, VEGA] {
        lab.configure(host, FILTER);
    }
    fs::write(lab.dev(ATLAS).join("file"), "text\n").expect("writable");
    sync_and_compare(&lab, &["--allow-mass-delete"]);
    // A marker as a run leaves it that dies; the form of the file is ours.
    let session = "0badc0de";
    let marker = format!(
        "{{\"version\":1,\"incomplete\":{{\"session\":\"{session}\",\"role\":\"target\",\"source\":\"atlas\",\
         \"target\":\"vega\",\"started_at\":\"2026-01-01T00:00:00Z\",\"phase\":\"execute\",\
         \"module\":\"user_data\",\"presync\":[]}}}}"
    );
    for (host, name, seeds) in [
        (VEGA, "history.json", 0..DAMAGES.len()),
        (VEGA, "incomplete.json", 0..DAMAGES.len()),
        (ATLAS, "history.json", 1..2),
        (ATLAS, "incomplete.json", 0..1),
    ] {
        let path = state(&lab, host, name);
        let history = fs::read(state(&lab, host, "history.json")).expect("it is there");
        let (was, other) = match name {
            "history.json" => (history.clone(), marker.clone().into_bytes()),
            _ => (marker.clone().into_bytes(), history.clone()),
        };
        for (words, damage) in &DAMAGES[seeds] {
            let damaged = damage(&was, &other);
            assert_ne!(damaged, was, "{words}");
            fs::write(&path, &damaged).expect("writable");
            let snapshots = || {
                let list = fs::read_dir(lab.disk(host).join(".snapshots")).expect("readable");
                list.count()
            };
            let before = snapshots();
            for (command, ended) in commands(&lab, host) {
                let text = ended.text();
                let about = format!("{name} on {host}, {words}: {command}: {text}");
                assert!(!matches!(ended.status, Some(0 | 8)), "{about}");
                let named = format!("/{DIR}/{name}");
                assert!(text.contains(&named) && text.contains("damaged"), "{about}");
                assert!(text.contains("move it out of the way"), "{about}");
                assert!(text.contains(&format!("sudo mv {named}")), "{about}");
                assert_eq!(fs::read(&path).expect("it is there"), damaged, "{about}");
            }
            assert_eq!(snapshots(), before, "{words}");
            assert!(lab.is_free(ATLAS) && lab.is_free(VEGA), "{words}");
        }
        // What was said to do, helps.
        let moved = format!("/{DIR}/{name}.damaged");
        lab.exec(host, &["mv", &format!("/{DIR}/{name}"), &moved])
            .ok();
        lab.pc_switcher(&["history"]).ok();
        fs::write(state(&lab, host, "history.json"), &history).expect("writable");
    }
    // The logs of the dry runs are all that is left.
    let last = lab.sync(&["--allow-out-of-order"]);
    assert!(DONE.contains(&last.status), "{}", last.text());
    oracle::assert_homes_equal(&lab, PRIVATE);
}
