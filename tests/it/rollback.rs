//! Back to what a machine was before a sync: after a good one, a failed one, one that was stopped, and
//! one whose machine lost power; and back again.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::Signal;

use crate::support::awkward;
use crate::support::lab::{ATLAS, Lab, Output, VEGA};
use crate::support::oracle;
use crate::support::processes::{self, Part};
use crate::support::random;
use crate::support::scenario::{FILTER, PRIVATE, sync_and_compare, work};
use crate::support::stopped::{Bulk, Moment};

/// Two machines with homes of their own, before the first sync.
fn prepare(lab: &Lab) {
    for host in [ATLAS, VEGA] {
        lab.configure(host, FILTER);
    }
    awkward::build(&lab.dev(ATLAS)).expect("the awkward home");
    random::tree(&work(lab, ATLAS), 1, 200).expect("a tree");
    random::tree(&work(lab, VEGA), 2, 200).expect("a tree");
    fs::write(lab.dev(VEGA).join("only on vega"), "precious\n").expect("writable");
}

/// Fails the test unless vega's home is what it was when `before` was taken.
#[track_caller]
fn assert_back(lab: &Lab, before: &Path) {
    oracle::assert_trees_equal(before, &lab.home(VEGA), PRIVATE);
    let private = |line: &&Vec<u8>| {
        let line = String::from_utf8_lossy(line);
        !PRIVATE
            .iter()
            .any(|path| line.contains(&format!(".{path}")))
    };
    let flags = |tree: &Path| -> BTreeSet<Vec<u8>> {
        let all = oracle::lsattr(tree);
        all.iter().filter(private).cloned().collect()
    };
    assert_eq!(flags(before), flags(&lab.home(VEGA)));
    assert!(!lab.home(VEGA).join(".pc-switcher-staging").exists());
}

fn snapshot(lab: &Lab, name: &str) -> PathBuf {
    oracle::snapshot(lab, VEGA, "@home", name)
}

/// The session that a machine remembers last.
fn last_session(lab: &Lab, host: &str) -> serde_json::Value {
    let lines = lab
        .as_dev(host, &["pc-switcher", "history", "--json"])
        .ok()
        .stdout;
    let last = lines.lines().last().expect("a session");
    serde_json::from_str(last).expect("JSON")
}

fn name_of(session: &serde_json::Value) -> String {
    session["session"].as_str().expect("a name").to_owned()
}

#[test]
fn a_good_sync_is_undone_and_the_undoing_too() {
    let Some(lab) = Lab::fresh() else { return };
    prepare(&lab);
    let before = snapshot(&lab, "before");
    sync_and_compare(&lab, &["--allow-mass-delete"]);
    let session = name_of(&last_session(&lab, ATLAS));
    // Work goes on there.
    random::mutate(&work(&lab, VEGA), 3, 60).expect("changes");
    fs::write(lab.dev(VEGA).join("after"), "written after the sync\n").expect("writable");
    let after = snapshot(&lab, "after");

    let refused = lab.pc_switcher(&["rollback"]).expect(4);
    assert!(refused.stderr.contains("--yes"), "{}", refused.text());
    assert_back(&lab, &after);
    let done = lab.pc_switcher(&["rollback", "--yes"]).ok();
    assert!(
        done.stdout
            .contains(&format!("back at its state before session {session}")),
        "{}",
        done.text()
    );
    assert_back(&lab, &before);
    lab.assert_nothing_left_running();
    let nothing = lab.pc_switcher(&["rollback", &session, "--yes"]).ok();
    assert!(
        nothing.stdout.contains("nothing was changed"),
        "{}",
        nothing.text()
    );

    // Both remember it.
    for host in [ATLAS, VEGA] {
        let rollback = last_session(&lab, host);
        assert_eq!(rollback["rollback_of"], session.as_str(), "{host}");
        let table = lab.as_dev(host, &["pc-switcher", "history"]).ok().stdout;
        assert!(table.contains("completed, rolled back"), "{host}: {table}");
    }
    // The next sync, either way, knows what it faces.
    for (host, words) in [
        (ATLAS, "makes vega like atlas once more"),
        (VEGA, "is newer than that"),
    ] {
        let refused = lab.sync_from(host, &[]).expect(4).text();
        assert!(
            refused.contains("was rolled back on vega") && refused.contains(words),
            "{refused}"
        );
        assert!(refused.contains("--allow-out-of-order"), "{refused}");
    }
    // Once more without a name would go further back than is meant.
    let again = lab.pc_switcher(&["rollback", "--yes"]).expect(2);
    assert!(
        again.stderr.contains("rolled back already"),
        "{}",
        again.text()
    );

    // What was over before there was anything to say has left no log of nothing.
    let logs = fs::read_dir(lab.dev(ATLAS).join(".local/state/pc-switcher/logs"));
    for log in logs.expect("there are some") {
        let log = log.expect("readable");
        let length = log.metadata().expect("readable").len();
        assert!(length > 0, "{} is empty", log.path().display());
    }

    let rollback = name_of(&last_session(&lab, ATLAS));
    lab.pc_switcher(&["rollback", &rollback[..5], "--yes"]).ok();
    assert_back(&lab, &after);
    let table = lab.pc_switcher(&["history"]).ok().stdout;
    assert!(!table.contains("completed, rolled back"), "{table}");
    // And everything is as if nothing had been: what is in the way is that vega got the last sync.
    let refused = lab.sync(&[]).expect(4).text();
    assert!(!refused.contains("rolled back"), "{refused}");
    sync_and_compare(&lab, &["--allow-mass-delete", "--allow-out-of-order"]);
}

#[test]
fn a_dry_run_lists_what_a_rollback_does_and_does_nothing() {
    let Some(lab) = Lab::fresh() else { return };
    prepare(&lab);
    sync_and_compare(&lab, &["--allow-mass-delete"]);
    lab.exec(VEGA, &["btrfs", "filesystem", "sync", "/"]).ok();
    let generations = oracle::generations(&lab, VEGA);
    let dry = lab.pc_switcher(&["rollback", "--dry-run"]).ok();
    lab.exec(VEGA, &["btrfs", "filesystem", "sync", "/"]).ok();
    let touched = oracle::generations(&lab, VEGA);
    let changed: Vec<_> = generations
        .iter()
        .filter(|(name, g)| touched.get(*name) != Some(g))
        .collect();
    // A login writes its own lines into the logs.
    assert!(changed.iter().all(|(name, _)| *name == "@"), "{changed:?}");
    assert!(
        dry.stdout.contains("+ /home/dev/only on vega"),
        "{}",
        dry.text()
    );
    assert!(dry.stdout.contains("nothing was changed"), "{}", dry.text());
    let before = snapshot(&lab, "before");
    lab.pc_switcher(&["rollback", "--yes"]).ok();
    let after = snapshot(&lab, "after");
    let is_change = |line: &&str| {
        ["+ ", "* ", ". ", "- "]
            .iter()
            .any(|sign| line.starts_with(sign))
    };
    let listed = dry.stdout.lines().filter(is_change).count();
    let found = oracle::differences(&before, &after, &|_| false).expect("readable");
    let paths: BTreeSet<&Vec<u8>> = found.iter().map(|d| &d.path).collect();
    assert_eq!(listed, paths.len(), "{}", dry.stdout);
}

#[test]
fn on_the_machine_itself_without_the_other_one() {
    let Some(lab) = Lab::fresh() else { return };
    prepare(&lab);
    let before = snapshot(&lab, "before");
    sync_and_compare(&lab, &["--allow-mass-delete"]);
    lab.configure(VEGA, FILTER);
    lab.verb(&["stop", ATLAS]).ok();
    let local = ["pc-switcher", "--batch", "rollback", "--local", "--yes"];
    let done = lab.as_dev(VEGA, &local).ok();
    assert!(
        done.stdout.contains("excluded, left as it is"),
        "{}",
        done.text()
    );
    assert_back(&lab, &before);
    lab.verb(&["start", ATLAS]).ok();
    // The other machine learns of it when they meet.
    let refused = lab.sync(&[]).expect(4).text();
    assert!(refused.contains("was rolled back on vega"), "{refused}");
    // This machine was the source: there is nothing to roll back on it.
    let none = lab.pc_switcher(&["rollback", "--local", "--yes"]).expect(2);
    assert!(
        none.stderr.contains("no sync to roll back"),
        "{}",
        none.text()
    );
}

#[test]
fn what_no_sync_touches_no_rollback_touches() {
    let Some(lab) = Lab::fresh() else { return };
    let filter = format!("{FILTER}- cache/\n");
    for host in [ATLAS, VEGA] {
        lab.configure(host, &filter);
        fs::create_dir(lab.dev(host).join("cache")).expect("writable");
    }
    let write =
        |path: &str, text: &str| fs::write(lab.dev(VEGA).join(path), text).expect("writable");
    lab.as_dev(VEGA, &["mkdir", "mounted"]).ok();
    lab.exec(VEGA, &["btrfs", "subvolume", "create", "/home/dev/nested"])
        .ok();
    for path in ["cache/x", "nested/x", "plain"] {
        write(path, "before");
    }
    lab.sync(&["--allow-mass-delete"]);
    lab.exec(VEGA, &["mkdir", "-p", "/home/dev/mounted"]).ok();
    lab.exec(VEGA, &["mount", "-t", "tmpfs", "none", "/home/dev/mounted"])
        .ok();
    for path in ["cache/x", "nested/x"] {
        write(path, "after");
    }
    lab.exec(VEGA, &["sh", "-c", "echo after >/home/dev/mounted/x"])
        .ok();
    let done = lab.pc_switcher(&["rollback", "--yes"]).ok();
    let read = |path: &str| fs::read_to_string(lab.dev(VEGA).join(path));
    assert_eq!(read("plain").expect("it is back"), "before");
    for path in ["cache/x", "nested/x"] {
        assert_eq!(read(path).expect("it is there"), "after", "{path}");
    }
    lab.exec(VEGA, &["grep", "after", "/home/dev/mounted/x"])
        .ok();
    lab.exec(VEGA, &["umount", "/home/dev/mounted"]).ok();
    assert!(
        done.stdout
            .contains("2: left as it is, a nested subvolume or a mount"),
        "{}",
        done.text()
    );
    let log = lab
        .as_dev(
            ATLAS,
            &["sh", "-c", "cat ~/.local/state/pc-switcher/logs/*"],
        )
        .ok()
        .stdout;
    for named in [
        "excluded: dev/cache",
        "mount: dev/nested",
        "mount: dev/mounted",
    ] {
        assert!(log.contains(named), "{named}");
    }
}

/// Rolls back a sync that did not end, from the source, and judges.
#[track_caller]
fn roll_back_and_judge(lab: &Lab, before: &Path) -> Output {
    let done = lab.pc_switcher(&["rollback", "--yes"]).ok();
    assert_back(lab, before);
    lab.assert_nothing_left_running();
    done
}

#[test]
fn a_sync_that_died_is_undone_whoever_died() {
    let Some(lab) = Lab::fresh() else { return };
    let mut bulk = Bulk::new(&lab, 4);
    let before = snapshot(&lab, "before");
    let receiving = Moment::Receiving(Duration::from_millis(300));
    // The program, the target's agent, the cable, the machine, its power.
    for (round, moment) in [
        receiving,
        Moment::Placing(Duration::ZERO),
        receiving,
        receiving,
        receiving,
    ]
    .into_iter()
    .enumerate()
    {
        let run = bulk.start(moment).expect("it takes longer");
        match round {
            0 => assert!(processes::signal(&lab, Part::Cli, Signal::KILL)),
            1 => assert!(processes::signal(&lab, Part::Agent(VEGA), Signal::KILL)),
            2 => drop(lab.verb(&["cut"]).ok()),
            3 => drop(lab.verb(&["kill", VEGA]).ok()),
            _ => drop(lab.verb(&["powercut", VEGA]).ok()),
        }
        run.wait();
        match round {
            2 => drop(lab.verb(&["heal"]).ok()),
            3 | 4 => drop(lab.verb(&["start", VEGA]).ok()),
            _ => {}
        }
        println!("round {round}");
        // An agent whose cable was cut ends itself half a minute later.
        for host in [ATLAS, VEGA] {
            lab.assert_nothing_left_running_on(host, Duration::from_secs(45));
        }
        let refused = lab.sync(&["--allow-mass-delete"]).expect(4).text();
        assert!(
            refused.contains("`pc-switcher rollback` makes vega what it was before"),
            "{refused}"
        );
        roll_back_and_judge(&lab, &before);
        // Nothing is open any more, on either machine.
        for host in [None, Some(VEGA)] {
            let flags: Vec<&str> = host.into_iter().flat_map(|host| ["--host", host]).collect();
            let told = lab
                .pc_switcher(&[&["history", "--json"], &flags[..]].concat())
                .ok()
                .stdout;
            assert!(!told.contains(r#""incomplete":true"#), "{host:?}: {told}");
        }
        bulk.change();
    }
}

#[test]
fn a_failed_sync_is_undone() {
    let Some(lab) = Lab::fresh() else { return };
    prepare(&lab);
    lab.configure_with(
        ATLAS,
        "sync_modules: { user_data: true, dummy_fail: true }\n\
         dummy_fail: { source_duration: 1, target_duration: 1, fail_at: 1 }\n\
         disk: { preflight_minimum: \"1%\", runtime_minimum: \"1%\", warning_threshold: \"1%\" }\n\
         btrfs_snapshots: { subvolumes: [\"@home\"] }\n\
         user_data: { folders: [ { path: /home, filter: home.filter } ] }\n",
        FILTER,
    );
    let before = snapshot(&lab, "before");
    lab.sync(&["--allow-mass-delete"]).expect(1);
    assert!(
        !lab.dev(VEGA).join("only on vega").exists(),
        "the files had been synced"
    );
    roll_back_and_judge(&lab, &before);
    // What the rollback had settled is open again when that is undone.
    let rollback = name_of(&last_session(&lab, VEGA));
    lab.pc_switcher(&["rollback", &rollback, "--yes"]).ok();
    let refused = lab.sync(&["--allow-mass-delete"]).expect(4).text();
    assert!(refused.contains("did not end well"), "{refused}");
}

#[test]
fn a_rollback_that_died_is_finished_by_the_next() {
    let Some(lab) = Lab::fresh() else { return };
    let bulk = Bulk::new(&lab, 5);
    let before = snapshot(&lab, "before");
    lab.verb(&["netem", "off"]).ok();
    lab.sync(&["--allow-mass-delete", "--allow-out-of-order"])
        .ok();
    drop(bulk);
    let staging = lab.home(VEGA).join(".pc-switcher-staging");
    let mut run = lab.start_as_dev(ATLAS, &["pc-switcher", "--batch", "rollback", "--yes"]);
    while !staging.exists() {
        assert!(run.is_running(), "{}", run.wait().text());
    }
    lab.verb(&["powercut", VEGA]).ok();
    run.wait();
    lab.verb(&["start", VEGA]).ok();
    let refused = lab.sync(&["--allow-out-of-order"]).expect(4).text();
    assert!(
        refused.contains("the rollback of vega to before session"),
        "{refused}"
    );
    let finish = lab.pc_switcher(&["rollback", "--host", VEGA, "--yes"]).ok();
    assert!(
        finish.stdout.contains("is back at its state"),
        "{}",
        finish.text()
    );
    assert_back(&lab, &before);
}

/// Both subvolumes are snapshotted, and root's own files are synced as well.
fn configure_with_root(lab: &Lab) {
    for host in [ATLAS, VEGA] {
        lab.configure_with(
            host,
            "sync_modules: { user_data: true }\n\
             disk: { preflight_minimum: \"1%\", runtime_minimum: \"1%\", warning_threshold: \"1%\" }\n\
             btrfs_snapshots: { subvolumes: [\"@\", \"@home\"] }\n\
             user_data: { folders: [ { path: /home, filter: home.filter }, { path: /root, filter: home.filter } ] }\n",
            FILTER,
        );
    }
}

/// A machine's root, as a script sees it there.
fn root_has(lab: &Lab, path: &str) -> bool {
    lab.exec(VEGA, &["test", "-e", path]).status == Some(0)
}

#[test]
fn the_running_root_is_exchanged_for_the_next_boot_and_kept() {
    let Some(lab) = Lab::fresh() else { return };
    configure_with_root(&lab);
    fs::write(lab.dev(VEGA).join("only on vega"), "precious\n").expect("writable");
    lab.exec(
        VEGA,
        &[
            "sh",
            "-c",
            "echo 1 >/root/only; echo 1 >/root/both; echo 1 >/etc/of-the-machine",
        ],
    )
    .ok();
    lab.exec(ATLAS, &["sh", "-c", "echo 22 >/root/both"]).ok();
    let before = snapshot(&lab, "before");
    let sync = lab.sync(&["--allow-mass-delete"]);
    assert!(matches!(sync.status, Some(0 | 8)), "{}", sync.text());
    assert!(!root_has(&lab, "/root/only"));
    lab.exec(
        VEGA,
        &[
            "sh",
            "-c",
            "echo 1 >/etc/later; echo 22 >/etc/of-the-machine",
        ],
    )
    .ok();

    // A subvolume that would stay behind is a reason not to.
    lab.exec(
        VEGA,
        &[
            "sh",
            "-c",
            "btrfs subvolume create /var/machine && touch /var/machine/x",
        ],
    )
    .ok();
    let refused = lab.pc_switcher(&["rollback", "--yes"]).expect(2).text();
    assert!(
        refused.contains("/var/machine") && refused.contains("--in-place"),
        "{refused}"
    );
    lab.exec(VEGA, &["rm", "/var/machine/x"]).ok();
    // Kernels that are no part of the root stay: one whose modules would go could not be booted.
    lab.exec(
        VEGA,
        &[
            "sh",
            "-c",
            "mkdir -p /boot /lib/modules/6.9.1-new/kernel && mount -t tmpfs tmpfs /boot && touch /boot/vmlinuz-6.9.1-new",
        ],
    )
    .ok();
    for in_place in [&[][..], &["--in-place"]] {
        let refused = lab.pc_switcher(&[&["rollback", "--yes"], in_place].concat());
        let refused = refused.expect(2).text();
        for words in ["might not boot", "/boot", "6.9.1-new", "--subvolume"] {
            assert!(refused.contains(words), "{refused}");
        }
    }
    lab.exec(VEGA, &["rm", "-r", "/lib/modules/6.9.1-new"]).ok();
    // One that does not find its modules now either is no reason; that it stays is said.
    let dry = lab.pc_switcher(&["rollback", "--dry-run"]).ok();
    assert!(
        dry.text().contains("/boot on vega is no part of the root"),
        "{}",
        dry.text()
    );
    lab.exec(VEGA, &["umount", "/boot"]).ok();

    let dry = lab.pc_switcher(&["rollback", "--dry-run"]).ok();
    assert!(dry.stdout.contains("- /etc/later"), "{}", dry.text());
    let subvolumes = || -> Vec<String> {
        let found = fs::read_dir(lab.disk(VEGA)).expect("readable").flatten();
        let names = found.map(|entry| entry.file_name().to_string_lossy().into_owned());
        let mut names: Vec<String> = names.filter(|name| name.starts_with('@')).collect();
        names.sort();
        names
    };
    assert_eq!(subvolumes(), ["@", "@home"]);
    lab.pc_switcher(&["rollback"]).expect(4);
    assert_eq!(
        subvolumes(),
        ["@", "@home"],
        "what was not agreed to leaves no copy"
    );
    let done = lab.pc_switcher(&["rollback", "--yes"]).ok();
    assert!(done.stdout.contains("at the next boot"), "{}", done.text());
    let session = name_of(&last_session(&lab, ATLAS));
    let kept = format!("@.replaced-by-{session}");
    assert!(done.stdout.contains(&kept), "{}", done.text());
    assert_eq!(subvolumes(), ["@", &kept, "@home"]);
    lab.assert_nothing_left_running();
    // What runs, runs on as it is; the home is back at once.
    assert!(root_has(&lab, "/etc/later") && !root_has(&lab, "/root/only"));
    assert_back(&lab, &before);
    // Nothing more can be done to it before it has booted.
    let again = lab
        .pc_switcher(&["rollback", "--host", VEGA, &session, "--yes"])
        .expect(2);
    assert!(again.text().contains("not mounted"), "{}", again.text());

    lab.verb(&["stop", VEGA]).ok();
    lab.verb(&["start", VEGA]).ok();
    assert!(root_has(&lab, "/root/only") && !root_has(&lab, "/etc/later"));
    lab.exec(
        VEGA,
        &[
            "sh",
            "-c",
            "grep -qx 1 /root/both && grep -qx 1 /etc/of-the-machine",
        ],
    )
    .ok();
    // Where the empty subvolume was is a directory, as in every snapshot.
    lab.exec(VEGA, &["rmdir", "/var/machine"]).ok();
    assert_back(&lab, &before);
    // It knows what became of it, and nothing is open.
    let told = lab
        .pc_switcher(&["history", "--json", "--host", VEGA])
        .ok()
        .stdout;
    assert!(
        told.contains(&format!("\"session\":\"{session}\"")),
        "{told}"
    );
    assert!(!told.contains(r#""incomplete":true"#), "{told}");
    let refused = lab.sync(&["--allow-mass-delete"]).expect(4).text();
    assert!(refused.contains("was rolled back on vega"), "{refused}");
    let next = lab.sync(&["--allow-mass-delete", "--allow-out-of-order"]);
    assert!(matches!(next.status, Some(0 | 8)), "{}", next.text());
    lab.exec(VEGA, &["btrfs", "subvolume", "list", "/"]).ok();
}

#[test]
fn the_running_root_is_put_back_in_place_where_that_is_asked_for() {
    let Some(lab) = Lab::fresh() else { return };
    configure_with_root(&lab);
    // What is written at the same moment stays as it is; here nothing is to be.
    let conf = "/etc/systemd/journald.conf.d/here.conf";
    let quiet = format!(
        "printf '[Journal]\\nStorage=volatile\\n' >{conf}; systemctl restart systemd-journald; \
         echo 1 >/root/only; echo 1 >/etc/of-the-machine"
    );
    lab.exec(VEGA, &["sh", "-ec", &quiet]).ok();
    let sync = lab.sync(&["--allow-mass-delete"]);
    assert!(matches!(sync.status, Some(0 | 8)), "{}", sync.text());
    lab.assert_nothing_left_running();
    lab.exec(
        VEGA,
        &[
            "sh",
            "-c",
            "echo 1 >/etc/later; echo 22 >/etc/of-the-machine",
        ],
    )
    .ok();
    let args = ["rollback", "--yes", "--in-place", "--subvolume", "@"];
    let done = lab.pc_switcher(&args).ok();
    assert!(done.stdout.contains("back at its state"), "{}", done.text());
    assert!(root_has(&lab, "/root/only") && !root_has(&lab, "/etc/later"));
    lab.exec(VEGA, &["grep", "-qx", "1", "/etc/of-the-machine"])
        .ok();
    // Our own memory is not put back with it.
    let session = name_of(&last_session(&lab, ATLAS));
    let told = lab
        .pc_switcher(&["history", "--json", "--host", VEGA])
        .ok()
        .stdout;
    assert!(
        told.contains(&format!("\"session\":\"{session}\"")),
        "{told}"
    );
    lab.assert_nothing_left_running();
}
