//! `status`: what was changed since the last sync here and there, in numbers and by name, and what snapshots
//! hold; and that looking leaves nothing behind.

use std::fs;

use serde_json::Value;

use crate::support::json_doc;
use crate::support::lab::{ATLAS, Lab, VEGA};
use crate::support::noise;
use crate::support::scenario::{FILTER, sync_and_compare};

fn status(lab: &Lab, args: &[&str]) -> Value {
    let args = [&["status", "--json"], args].concat();
    let output = lab.pc_switcher(&args).ok();
    serde_json::from_str(&output.stdout).unwrap_or_else(|e| panic!("{e}: {}", output.text()))
}

/// Created, changed, with other attributes, deleted; the kernel has said so, not a look at everything.
#[track_caller]
fn since(machine: &Value) -> [u64; 4] {
    let folder = &machine["syncs"][0]["since"][0];
    assert_eq!(folder["path"], "/home", "{machine}");
    assert_eq!(folder["full_scan"], Value::Null, "{machine}");
    let figure = |key: &str| {
        folder[key]
            .as_u64()
            .unwrap_or_else(|| panic!("{key}: {machine}"))
    };
    ["created", "changed", "attributes", "deleted"].map(figure)
}

#[test]
fn what_was_changed_since_the_last_sync_is_told_on_both_machines() {
    let Some(lab) = Lab::fresh() else { return };
    for host in [ATLAS, VEGA] {
        lab.configure(host, FILTER);
    }
    let none = lab.pc_switcher(&["status"]).ok().stdout;
    assert!(none.contains("none is remembered"), "{none}");
    assert!(none.contains("snapshots    none"), "{none}");

    let docs = |host| lab.dev(host).join("docs");
    fs::create_dir(docs(ATLAS)).expect("writable");
    for n in 0..500 {
        fs::write(docs(ATLAS).join(n.to_string()), format!("page {n}\n")).expect("writable");
    }
    fs::write(lab.dev(ATLAS).join("large"), vec![7; 3 << 20]).expect("writable");
    sync_and_compare(&lab, &["--allow-mass-delete"]);
    let names = || -> Vec<String> {
        let found = fs::read_dir(lab.disk(ATLAS).join(".snapshots")).expect("readable");
        let name = |entry: std::io::Result<fs::DirEntry>| entry.map(|e| e.file_name());
        let mut names: Vec<String> = found
            .map(|entry| name(entry).expect("readable").into_string().expect("ours"))
            .collect();
        names.sort();
        names
    };
    let before = names();
    let both = status(&lab, &[VEGA]);
    for machine in both["machines"].as_array().expect("a list") {
        json_doc::check("status", "Of each machine", machine);
    }
    for machine in [0, 1] {
        assert_eq!(since(&both["machines"][machine]), [0; 4], "{both}");
    }
    assert_eq!(both["machines"][1]["machine"], VEGA);

    for n in 0..3 {
        fs::write(docs(ATLAS).join(format!("new {n}\u{1b}[2J")), "x").expect("writable");
    }
    fs::write(docs(ATLAS).join("7"), "rewritten\n").expect("writable");
    fs::remove_file(docs(ATLAS).join("8")).expect("writable");
    fs::remove_file(lab.dev(ATLAS).join("large")).expect("writable");
    fs::write(docs(VEGA).join("9"), "on vega\n").expect("writable");
    // What is excluded is nobody's business.
    fs::write(lab.dev(ATLAS).join(".local/noise"), "x").expect("writable");
    // What was deleted is held by snapshots alone once that is on disk.
    lab.exec(ATLAS, &["btrfs", "filesystem", "sync", "/home"])
        .ok();
    let both = status(&lab, &[VEGA]);
    let [created, changed, _, deleted] = since(&both["machines"][0]);
    assert_eq!([created, changed, deleted], [3, 1, 2], "{both}");
    let [created, changed, _, deleted] = since(&both["machines"][1]);
    assert_eq!([created, changed, deleted], [0, 1, 0], "{both}");
    let held = &both["machines"][0]["snapshots"];
    assert_eq!(held["complete"], true, "{both}");
    assert!(held["only_in_them"].as_u64() >= Some(3 << 20), "{both}");

    let text = lab.pc_switcher(&["status", "-v"]).ok().stdout;
    for words in [
        "3 created, 1 changed",
        "+ /home/dev/docs/new 0\\x1b[2J",
        "- /home/dev/docs/8",
    ] {
        assert!(text.contains(words), "{words}: {text}");
    }
    assert!(
        !text.contains('\u{1b}') && !text.contains(".local/noise"),
        "{text}"
    );
    assert_eq!(names(), before, "nothing is left behind");
    lab.assert_nothing_left_running();
    // Looking has changed nothing that the next sync begins from.
    let next = lab
        .sync(&["--allow-out-of-order", "--allow-conflicts"])
        .text();
    assert!(!next.contains("full scan"), "{next}");
}

#[test]
fn a_run_that_died_is_told_with_what_to_do() {
    let Some(lab) = Lab::fresh() else { return };
    lab.configure(ATLAS, FILTER);
    noise(&lab.dev(ATLAS).join("large"), 40 << 20); // which no packing makes smaller
    lab.verb(&["netem", "100mbit", "1ms"]).ok();
    let run = lab.start_sync(&[]);
    let staging = lab.home(VEGA).join(".pc-switcher-staging");
    assert!(Lab::wait_until(std::time::Duration::from_secs(90), || {
        staging.exists()
    }));
    let running = lab.pc_switcher(&["status", VEGA]).stdout;
    assert!(running.contains("running"), "{running}");
    lab.verb(&["kill", VEGA]).ok();
    run.wait();
    lab.verb(&["start", VEGA]).ok();
    lab.verb(&["netem", "off"]).ok();
    let told = lab.pc_switcher(&["status", VEGA]).expect(8).stdout;
    for words in [
        "incomplete",
        "it was in user_data",
        "`pc-switcher rollback`",
    ] {
        assert!(told.contains(words), "{words}: {told}");
    }
}

#[test]
fn too_little_space_names_the_sessions_that_hold_it_and_the_command_frees_it() {
    let Some(lab) = Lab::fresh() else { return };
    lab.configure(VEGA, FILTER);
    let configure = |minimum: &str| {
        let yaml = format!(
            "sync_modules: {{ user_data: true }}\n\
             disk: {{ preflight_minimum: \"{minimum}\", runtime_minimum: \"1%\", warning_threshold: \"1%\" }}\n\
             btrfs_snapshots: {{ subvolumes: [\"@home\"] }}\n\
             user_data: {{ folders: [ {{ path: /home, filter: home.filter }} ] }}\n"
        );
        lab.configure_with(ATLAS, &yaml, FILTER);
    };
    configure("1%");
    // What vega alone had is only in the snapshot from before the first sync then.
    noise(&lab.dev(VEGA).join("large"), 30 << 20);
    sync_and_compare(&lab, &["--allow-mass-delete"]);
    let first = status(&lab, &[])["machines"][0]["syncs"][0]["session"].clone();
    let first = first.as_str().expect("a name").to_owned();
    sync_and_compare(&lab, &["--allow-out-of-order"]);
    let held = &status(&lab, &[VEGA])["machines"][1]["snapshots"];
    assert_eq!(held["only_in_them"].as_u64(), Some(30 << 20), "{held}");
    // More than there can be.
    configure("99%");
    let refused = lab.sync(&["--allow-out-of-order"]).expect(7).text();
    for words in [
        "old snapshots on vega hold what nothing else does",
        &format!("session {first}"),
        "30.0 MiB",
        "pc-switcher snapshots prune --keep",
        "--host vega",
    ] {
        assert!(refused.contains(words), "{words}: {refused}");
    }
    let command = refused
        .lines()
        .find(|line| line.contains("snapshots prune"))
        .expect("a command");
    let words: Vec<&str> = command.split_whitespace().skip(1).collect();
    let free = || {
        let shown = lab
            .exec(VEGA, &["df", "-B1", "--output=avail", "/home"])
            .ok()
            .stdout;
        shown
            .lines()
            .nth(1)
            .and_then(|line| line.trim().parse::<u64>().ok())
            .expect("a number")
    };
    let before = free();
    let done = lab.pc_switcher(&words).ok();
    assert!(done.stdout.contains("Deleted"), "{}", done.text());
    let freed = Lab::wait_until(std::time::Duration::from_mins(1), || {
        lab.exec(VEGA, &["btrfs", "filesystem", "sync", "/home"])
            .ok();
        free() >= before + (28 << 20) // trees take some of it
    });
    assert!(freed, "{before} then, {} now", free());
}
