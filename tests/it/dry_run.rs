//! `--dry-run` lists exactly what the following real run does, and writes nothing.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use crate::support::lab::{ATLAS, Lab, Output, VEGA};
use crate::support::oracle;
use crate::support::random;
use crate::support::scenario::{Before, DONE, FILTER, PRIVATE, home, make_private_paths, work};

/// The paths of a printed plan. One change a line: its sign (`+` created, `*` changed, `.` attributes,
/// `-` deleted), a blank, the absolute path, and in parentheses what changes.
fn planned(run: &Output) -> BTreeSet<(char, String)> {
    run.stdout
        .lines()
        .filter_map(|line| {
            let line = line.trim_start();
            let sign = line.chars().next()?;
            let rest = line.get(1..)?.strip_prefix(' ')?.trim_start();
            let path = rest.split(" (").next()?;
            ("+*.-".contains(sign) && path.starts_with("/home"))
                .then(|| (sign, path.trim_end_matches('/').to_owned()))
        })
        .collect()
}

/// The changes below `/home` that the log of a run has.
fn logged(lab: &Lab, run: &Output, planned: bool) -> BTreeSet<(char, String)> {
    let text = run.text();
    let (_, path) = text.rsplit_once("\nLog     ").expect("where the log is");
    let log = lab.exec(ATLAS, &["cat", path.trim_end()]).ok().stdout;
    let lines = log.lines().map(|line| {
        let value: serde_json::Value = serde_json::from_str(line).expect("an object a line");
        value
    });
    lines
        .filter(|line| line["event"] == "change" && line["module"] == "user_data")
        .map(|line| {
            assert_eq!(line["planned"], planned, "{line}");
            let message = line["message"].as_str().expect("a message");
            let (sign, path) = message.split_once(' ').expect("sign and path");
            (sign.chars().next().expect("a sign"), path.to_owned())
        })
        .collect()
}

#[test]
fn a_dry_run_lists_exactly_what_the_real_run_does() {
    let Some(lab) = Lab::fresh() else { return };
    lab.configure(ATLAS, FILTER);
    make_private_paths(&lab);
    let run = lab.sync(&[]);
    assert!(DONE.contains(&run.status), "{}", run.text());

    let source = lab.dev(ATLAS);
    for directory in ["new", "new/deeper"] {
        fs::create_dir(source.join(directory)).expect("writable");
        fs::write(source.join(directory).join("file"), "new").expect("writable");
    }
    fs::write(source.join(".profile"), "changed\n").expect("writable");
    fs::remove_file(source.join(".bash_logout")).expect("writable");
    fs::set_permissions(
        source.join(".bashrc"),
        std::os::unix::fs::PermissionsExt::from_mode(0o600),
    )
    .expect("root may");

    let target_before = home(&lab, VEGA);
    let source_before = home(&lab, ATLAS);
    let dry = lab.sync(&["--dry-run", "--allow-out-of-order"]);
    assert!(DONE.contains(&dry.status), "{}", dry.text());
    assert_eq!(target_before.differences(&home(&lab, VEGA)), []);
    assert_eq!(source_before.differences(&home(&lab, ATLAS)), []);

    let before = Before::remember(&lab, "before");
    let real = lab.sync(&["--allow-out-of-order"]);
    assert!(DONE.contains(&real.status), "{}", real.text());
    let absolute = |paths: BTreeSet<Vec<u8>>| -> BTreeSet<PathBuf> {
        let name = |p| String::from_utf8(p).expect("plain names");
        paths
            .into_iter()
            .map(|p| Path::new("/home").join(name(p)))
            .collect()
    };
    // The time of a directory in which something came or went may be listed or not.
    let only_time = absolute(before.only_time(&lab));
    let mut changed = absolute(before.changed(&lab));
    let mut listed: BTreeSet<PathBuf> = planned(&dry).into_iter().map(|(_, p)| p.into()).collect();
    changed.retain(|p| !only_time.contains(p));
    listed.retain(|p| !only_time.contains(p));
    assert_eq!(listed, changed, "the dry run printed:\n{}", dry.stdout);
    // The logs of both have a line for each of them: as planned, and as made.
    for (run, planned_only) in [(&dry, true), (&real, false)] {
        assert_eq!(logged(&lab, run, planned_only), planned(&dry));
    }
    let signs: BTreeSet<char> = planned(&dry).into_iter().map(|(s, _)| s).collect();
    assert_eq!(signs, "+*.-".chars().collect());
}

#[test]
fn what_was_renamed_is_listed_and_told_as_such_and_is_no_deletion() {
    let Some(lab) = Lab::fresh() else { return };
    lab.configure(ATLAS, FILTER);
    make_private_paths(&lab);
    let (ours, theirs) = (work(&lab, ATLAS), work(&lab, VEGA));
    // More than a mass delete has.
    let files = 1500;
    for dir in ["old", "old/deep"] {
        fs::create_dir(ours.join(dir)).expect("writable");
    }
    for n in 0..files {
        fs::write(ours.join(format!("old/deep/{n}")), format!("{n}\n")).expect("writable");
    }
    fs::write(ours.join("letter"), "dear\n").expect("writable");
    assert!(DONE.contains(&lab.sync(&[]).status));

    let rename = |from: &str, to: &str| {
        fs::rename(ours.join(from), ours.join(to)).expect("writable");
    };
    rename("old", "new");
    rename("letter", "new/deep/message");
    rename("new/deep/7", "seven");
    fs::write(ours.join("new/deep/8"), "changed\n").expect("writable");
    // Neither has a snapshot to ask the filesystem about: everything is compared.
    let moved =
        |old: &str, new: &str| format!("/home/dev/work/{old} \u{2192} /home/dev/work/{new}");
    let expected = [
        moved("letter", "new/deep/message"),
        moved("old", "new"),
        moved("old/deep/7", "seven"),
    ];
    let renames = |run: &Output| -> Vec<String> {
        let lines = run.stdout.lines().map(str::trim_start);
        let mut found: Vec<String> = lines
            .filter_map(|line| Some(line.strip_prefix("> ")?.split(" (").next()?.to_owned()))
            .collect();
        found.sort();
        found
    };
    let dry = lab.sync(&["--dry-run", "--allow-out-of-order"]);
    assert!(DONE.contains(&dry.status), "{}", dry.text());
    assert_eq!(renames(&dry), expected, "{}", dry.text());
    let signs: Vec<(char, String)> = planned(&dry).into_iter().collect();
    assert!(
        signs.iter().all(|(sign, _)| !"+-".contains(*sign)),
        "{signs:?}"
    );
    assert!(signs.contains(&('*', "/home/dev/work/new/deep/8".to_owned())));
    assert!(
        !dry.text().contains("--allow-mass-delete"),
        "{}",
        dry.text()
    );
    let json = lab.sync(&["--dry-run", "--allow-out-of-order", "--progress", "json"]);
    let events = json.stdout.lines().map(|line| {
        let event: serde_json::Value = serde_json::from_str(line).expect("an object a line");
        event
    });
    let in_json = events.filter(|e| e["event"] == "change" && e["action"] == "rename");
    let mut in_json: Vec<String> = in_json
        .map(|e| format!("{} \u{2192} {}", e["from"], e["item"]).replace('"', ""))
        .collect();
    in_json.sort();
    assert_eq!(in_json, expected);

    // A real run that compares everything does it, without a question.
    let ino = |path: &str| {
        let stat = fs::metadata(theirs.join(path)).expect("there");
        std::os::unix::fs::MetadataExt::ino(&stat)
    };
    let before = ino("old/deep/9");
    let real = lab.sync(&["--allow-out-of-order", "--full-scan"]);
    assert!(DONE.contains(&real.status), "{}", real.text());
    assert_eq!(ino("new/deep/9"), before);
    oracle::assert_homes_equal(&lab, PRIVATE);

    // And what it did is told the same way afterwards.
    let sessions = lab.pc_switcher(&["history", "--json"]).ok().stdout;
    let last: serde_json::Value =
        serde_json::from_str(sessions.lines().last().expect("a session")).expect("JSON");
    assert_eq!(last["changed"]["renamed"], 3);
    assert_eq!(last["changed"]["deleted"], 0);
    let session = last["session"].as_str().expect("it has a name");
    let told = lab.pc_switcher(&["history", session]).ok();
    assert_eq!(renames(&told), expected, "{}", told.stdout);
    assert!(told.stdout.contains(", 3 renamed, "), "{}", told.stdout);
    let told = lab.pc_switcher(&["history", session, "--json"]).ok().stdout;
    let lines = told.lines().map(|line| {
        let change: serde_json::Value = serde_json::from_str(line).expect("JSON");
        change
    });
    for change in lines.filter(|change| change["sign"] == ">") {
        let from = change["from"].as_str().expect("a path");
        assert!(from.starts_with("dev/work/"), "{change}");
        // The old version is where it was called so.
        let kept = change["before"].as_str().expect("a path");
        assert!(kept.ends_with(from), "{change}");
        let kept = lab.inside(VEGA).join(kept.trim_start_matches('/'));
        assert!(kept.exists(), "{change}");
    }
}

#[test]
fn a_dry_run_moves_no_generation_and_leaves_no_file() {
    let Some(lab) = Lab::fresh() else { return };
    lab.configure(ATLAS, FILTER);
    make_private_paths(&lab);
    random::tree(&work(&lab, ATLAS), 9, 200).expect("a tree");
    let root_before = oracle::snapshot(&lab, VEGA, "@", "root before");
    let before = oracle::generations(&lab, VEGA);
    let dry = lab.sync(&["--dry-run", "--allow-mass-delete"]);
    assert!(DONE.contains(&dry.status), "{}", dry.text());
    let after = oracle::generations(&lab, VEGA);
    for subvolume in ["@home", ".snapshots"] {
        assert_eq!(before[subvolume], after[subvolume], "{subvolume} moved");
    }
    assert_eq!(before.len(), after.len(), "a subvolume came or went");
    // The login itself is written down by sshd and systemd; nothing else may have moved.
    let root_after = oracle::snapshot(&lab, VEGA, "@", "root after");
    let of_the_login: &[&[u8]] = &[b"var/log", b"var/lib/systemd", b"var/tmp", b"tmp"];
    let touched: Vec<String> = oracle::kernel_diff(&root_before, &root_after)
        .into_iter()
        .filter(|p| !of_the_login.iter().any(|l| p.starts_with(l)))
        .map(|p| p.escape_ascii().to_string())
        .collect();
    assert_eq!(touched, [""; 0]);
    // The log is where it is gone with the next boot.
    let logs = lab.run_files(ATLAS);
    let logs: Vec<&String> = logs.iter().filter(|p| !p.ends_with("/lock")).collect();
    assert!(
        logs.len() == 1 && logs[0].starts_with("/run/pc-switcher/user-1000/sync-"),
        "{logs:?}"
    );
    assert!(!lab.dev(ATLAS).join(".local/state/pc-switcher").exists());
    fs::remove_file(lab.inside(ATLAS).join(&logs[0][1..])).expect("root may");
    lab.assert_nothing_left_running();
}
