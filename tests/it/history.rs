//! What was, is told: sessions, and what one of them changed, with the old versions where it says.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;

use serde_json::Value;

use crate::support::json_doc;
use crate::support::lab::{ATLAS, Lab, Output, VEGA};
use crate::support::noise;
use crate::support::scenario::{FILTER, sync_and_compare};

fn json(output: &Output) -> Vec<Value> {
    let parse = |line: &str| serde_json::from_str(line).expect("a JSON object a line");
    output.stdout.lines().map(parse).collect()
}

/// Names that would do harm where they were printed as they are.
const HOSTILE: [&[u8]; 5] = [
    b"new\nline",
    b"\x1b[2J\x1b]0;title\x07",
    b"\xff\xfe",
    b"--help",
    "e\u{301} \u{202e}txt".as_bytes(),
];

#[test]
fn a_session_says_what_it_changed_and_where_the_old_versions_are() {
    let Some(lab) = Lab::fresh() else { return };
    for host in [ATLAS, VEGA] {
        lab.configure(host, FILTER);
    }
    let none = lab.pc_switcher(&["history"]).ok();
    assert!(
        none.stdout.contains("No sync is remembered"),
        "{}",
        none.text()
    );

    let write = |host, name: &[u8], text: &str| {
        let path = lab.dev(host).join(OsStr::from_bytes(name));
        fs::write(path, text).expect("writable");
    };
    write(VEGA, b"only vega", "vega's\n");
    write(VEGA, b"both", "old\n");
    write(ATLAS, b"both", "new and longer\n");
    write(ATLAS, b"fresh", "fresh\n");
    for name in HOSTILE {
        write(ATLAS, name, "x");
    }
    sync_and_compare(&lab, &["--allow-mass-delete"]);

    let sessions = json(&lab.pc_switcher(&["history", "--json"]).ok());
    assert_eq!(sessions.len(), 1);
    let session = sessions[0]["session"].as_str().expect("it has a name");
    assert_eq!(sessions[0]["state"], "COMPLETED");
    assert_eq!(sessions[0]["address"], VEGA);
    assert!(sessions[0]["changed"]["created"].as_u64() >= Some(6));
    let table = lab.pc_switcher(&["history"]).ok().stdout;
    let row = table.lines().nth(1).expect("a row");
    for word in [session, ATLAS, VEGA, "completed"] {
        assert!(row.contains(word), "{word}: {table}");
    }
    let theirs = lab.pc_switcher(&["history", "--host", VEGA]).ok().stdout;
    assert!(
        theirs
            .lines()
            .nth(1)
            .is_some_and(|row| row.contains(session)),
        "{theirs}"
    );

    // Asked on the source, which looks it up on the target, and on the target itself.
    let of_one = [&session[..4], "--json"];
    let asked = json(&lab.pc_switcher(&[&["history"], &of_one[..]].concat()).ok());
    let command = [&["pc-switcher", "history"], &of_one[..]].concat();
    assert_eq!(json(&lab.as_dev(VEGA, &command).ok()), asked);
    json_doc::check("history", "What a session changed", &asked[0]);
    let change = |path: &str| {
        let found = asked
            .iter()
            .find(|line| line["path"] == format!("/home/dev/{path}"));
        found.unwrap_or_else(|| panic!("nothing about {path}: {asked:#?}"))
    };
    assert_eq!(change("fresh")["sign"], "+");
    assert_eq!(change("fresh")["before"], Value::Null);
    for (path, sign, text) in [("both", "*", "old\n"), ("only vega", "-", "vega's\n")] {
        let change = change(path);
        assert_eq!(change["sign"], sign, "{path}");
        let before = change["before"].as_str().expect("a path");
        let before = before.strip_prefix('/').expect("absolute");
        let kept = fs::read_to_string(lab.inside(VEGA).join(before));
        assert_eq!(kept.expect("it is there"), text);
    }
    for name in [r"new\x0aline", r"\xff\xfe", "--help"] {
        assert_eq!(change(name)["sign"], "+");
    }

    let text = lab.pc_switcher(&["history", session]).ok().stdout;
    assert!(text.contains("+ /home/dev/fresh"), "{text}");
    assert!(text.contains("* /home/dev/both"), "{text}");
    let harmless = |c: char| c == '\n' || !c.is_control();
    assert!(
        text.chars().all(harmless) && !text.contains('\u{202e}'),
        "{text:?}"
    );

    let unknown = lab.pc_switcher(&["history", "abcdef"]).expect(2);
    assert!(
        unknown.stderr.contains("no session is called"),
        "{}",
        unknown.text()
    );
    lab.assert_nothing_left_running();
}

#[test]
fn a_run_that_died_is_told_of_and_so_is_what_it_changed() {
    let Some(lab) = Lab::fresh() else { return };
    for host in [ATLAS, VEGA] {
        lab.configure(host, FILTER);
    }
    fs::write(lab.dev(VEGA).join("before"), "x").expect("writable");
    for n in 0..3000 {
        fs::write(lab.dev(ATLAS).join(format!("file {n}")), n.to_string()).expect("writable");
    }
    noise(&lab.dev(ATLAS).join("large"), 20 << 20); // so that it takes the line its time
    lab.verb(&["netem", "50mbit", "1ms"]).ok();
    let mut run = lab.start_sync(&["--allow-mass-delete"]);
    let staging = lab.home(VEGA).join(".pc-switcher-staging");
    while !staging.exists() {
        assert!(run.is_running(), "{}", run.wait().text());
    }
    lab.verb(&["kill", VEGA]).ok();
    run.wait();
    lab.verb(&["netem", "off"]).ok();
    lab.verb(&["start", VEGA]).ok();
    let sessions = json(&lab.pc_switcher(&["history", "--json", "--host", VEGA]).ok());
    assert_eq!(sessions.len(), 1, "{sessions:?}");
    assert_eq!(sessions[0]["incomplete"], true);
    assert_eq!(sessions[0]["module"], "user_data");
    let session = sessions[0]["session"].as_str().expect("it has a name");
    let table = lab.pc_switcher(&["history", "--host", VEGA]).ok().stdout;
    assert!(table.contains("died in user_data, incomplete"), "{table}");
    // From either machine: the marker knows where the target is.
    for host in [ATLAS, VEGA] {
        let list = lab.as_dev(host, &["pc-switcher", "history", session]).ok();
        assert!(
            list.stdout.contains("there is no snapshot from after it"),
            "{}",
            list.text()
        );
    }
}
