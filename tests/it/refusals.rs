//! Every reason not to start, or to fail, has its status, one clear message with a remedy, and changes nothing.

use std::fs;
use std::time::Duration;

use rustix::process::Signal;

use crate::support::lab::{ATLAS, Lab, Output, VEGA};
use crate::support::processes::{self, Part};
use crate::support::scenario::{DONE, FILTER, home};

const DUMMIES: &str = "sync_modules: { dummy_success: true }\n\
    btrfs_snapshots: { subvolumes: [\"@home\"] }\n";

/// Runs, and fails the test unless it ended with `status`, said every one of `words`, and changed nothing on vega.
#[track_caller]
fn refused(lab: &Lab, args: &[&str], status: i32, words: &[&str]) -> Output {
    let before = home(lab, VEGA);
    let run = lab.pc_switcher(args).expect(status);
    for word in words {
        assert!(
            run.text().to_lowercase().contains(&word.to_lowercase()),
            "no word of {word:?} in:\n{}",
            run.text()
        );
    }
    assert!(!run.text().contains("panicked"), "{}", run.text());
    assert_eq!(before.differences(&home(lab, VEGA)), []);
    lab.assert_nothing_left_running();
    run
}

#[test]
fn a_first_sync_needs_its_flag() {
    let Some(lab) = Lab::fresh() else { return };
    lab.configure(ATLAS, FILTER);
    refused(
        &lab,
        &["sync", "vega", "--yes"],
        4,
        &["first", "--allow-first-sync"],
    );
}

#[test]
fn pushing_twice_without_a_sync_back_needs_its_flag() {
    let Some(lab) = Lab::fresh() else { return };
    lab.configure(ATLAS, FILTER);
    assert!(DONE.contains(&lab.sync(&[]).status));
    refused(
        &lab,
        &["sync", "vega", "--yes"],
        4,
        &["--allow-out-of-order"],
    );
}

#[test]
fn a_mass_delete_needs_its_flag() {
    let Some(lab) = Lab::fresh() else { return };
    lab.configure(ATLAS, FILTER);
    let many = lab.dev(VEGA).join("many");
    fs::create_dir(&many).expect("writable");
    for n in 0..3000 {
        fs::write(many.join(n.to_string()), "x").expect("writable");
    }
    refused(
        &lab,
        &["sync", "vega", "--yes", "--allow-first-sync"],
        4,
        &["--allow-mass-delete", "delete"],
    );
}

#[test]
fn a_second_sync_meets_the_lock_and_is_told_who_holds_it() {
    let Some(lab) = Lab::fresh() else { return };
    let slow = format!("{DUMMIES}dummy_success: {{ source_duration: 30, target_duration: 0 }}\n");
    lab.configure_with(ATLAS, &slow, FILTER);
    let mut first = lab.start_sync(&[]);
    let locked = || [ATLAS, VEGA].iter().all(|host| !lab.is_free(host));
    assert!(Lab::wait_until(Duration::from_secs(15), locked));
    let second = lab.pc_switcher(&["sync", "vega", "--yes", "--allow-first-sync"]);
    assert!(first.is_running(), "{second:?}");
    let text = second.expect(6).text();
    assert!(text.contains("from atlas holds its lock since"), "{text}");
    assert!(processes::signal(&lab, Part::Cli, Signal::INT));
    first.wait().expect(130);
    lab.assert_nothing_left_running();
}

#[test]
fn a_wrong_configuration_is_refused_before_any_connection() {
    let Some(lab) = Lab::fresh() else { return };
    lab.verb(&["cut", "down"]).ok();
    for (yaml, words) in [
        (
            "sync_modules: { user_data: true }\nuser_dat: {}\n",
            &["user_dat", "user_data"][..],
        ),
        (
            "sync_modules: { user_data: maybe }\n",
            &["sync_modules", "user_data"],
        ),
        (
            "disk: { preflight_minimum: 20 }\n",
            &["preflight_minimum", "%"],
        ),
        (
            "log_file_level: FULL\nlog_file_level: INFO\n",
            &["log_file_level", "given twice"],
        ),
        ("sync_modules: [\n", &["config.yaml"]),
        (
            "user_data: { folders: [ { path: home } ] }\n",
            &["user_data.folders[0].path", "relative"],
        ),
    ] {
        lab.configure_with(ATLAS, yaml, FILTER);
        refused(&lab, &["sync", "vega", "--yes"], 2, words);
    }
    lab.as_dev(ATLAS, &["rm", "-r", ".config/pc-switcher"]).ok();
    refused(&lab, &["sync", "vega", "--yes"], 2, &["pc-switcher init"]);
    refused(
        &lab,
        &["sync", "vega", "--no-such-flag"],
        2,
        &["--no-such-flag"],
    );
}

#[test]
fn a_machine_that_cannot_be_reached_is_status_5_with_a_remedy() {
    let Some(lab) = Lab::fresh() else { return };
    lab.configure_with(ATLAS, DUMMIES, FILTER);
    let sync = |host| ["sync", host, "--yes", "--allow-first-sync"];
    refused(&lab, &sync("no-such-host"), 5, &["no-such-host"]);

    lab.exec(VEGA, &["systemctl", "stop", "ssh"]).ok();
    refused(&lab, &sync("vega"), 5, &["vega", "refused"]);
    lab.exec(VEGA, &["systemctl", "start", "ssh"]).ok();

    let known = lab.dev(ATLAS).join(".ssh/known_hosts");
    let right = fs::read_to_string(&known).expect("it is there");
    fs::write(&known, "").expect("writable");
    refused(&lab, &sync("vega"), 5, &["host key", "known_hosts"]);
    let own = fs::read_to_string(lab.disk(ATLAS).join("@/etc/ssh/ssh_host_ed25519_key.pub"));
    let wrong = format!("vega,10.77.0.2 {}", own.expect("it is there"));
    fs::write(&known, wrong).expect("writable");
    refused(&lab, &sync("vega"), 5, &["changed", "known_hosts"]);
    fs::write(&known, right).expect("writable");

    fs::write(lab.dev(VEGA).join(".ssh/authorized_keys"), "").expect("writable");
    refused(
        &lab,
        &sync("vega"),
        5,
        &["vega", "refused the login of dev", "ssh-copy-id vega"],
    );

    lab.verb(&["cut", "drop"]).ok();
    refused(&lab, &sync("vega"), 5, &["vega"]);
}

#[test]
fn sudo_that_asks_is_refused_with_the_sudoers_line() {
    let Some(lab) = Lab::fresh() else { return };
    lab.configure_with(ATLAS, DUMMIES, FILTER);
    let sudoers = lab.disk(VEGA).join("@/etc/sudoers.d/dev");
    fs::write(&sudoers, "dev ALL=(ALL) ALL\n").expect("writable");
    let run = lab.pc_switcher(&["sync", "vega", "--yes", "--allow-first-sync"]);
    assert!(!DONE.contains(&run.status), "{}", run.text());
    assert!(run.text().contains("NOPASSWD"), "{}", run.text());
    lab.assert_nothing_left_running();
}

#[test]
fn validation_names_everything_wrong_on_both_machines_at_once() {
    let Some(lab) = Lab::fresh() else { return };
    let yaml = "sync_modules: { user_data: true }\n\
        btrfs_snapshots: { subvolumes: [\"@home\", \"@missing\"] }\n\
        user_data: { folders: [ { path: /home }, { path: /not/there } ] }\n";
    lab.configure_with(ATLAS, yaml, FILTER);
    refused(
        &lab,
        &["sync", "vega", "--yes", "--allow-first-sync"],
        3,
        &["@missing", "/not/there", "atlas", "vega"],
    );
}

#[test]
fn too_little_space_is_status_7_before_anything_is_written() {
    let Some(lab) = Lab::fresh() else { return };
    let yaml = format!("{DUMMIES}disk: {{ preflight_minimum: \"99999GiB\" }}\n");
    lab.configure_with(ATLAS, &yaml, FILTER);
    refused(
        &lab,
        &["sync", "vega", "--yes", "--allow-first-sync"],
        7,
        &["99999", "free"],
    );
}

#[test]
fn a_failing_module_is_status_1_and_the_others_are_told() {
    let Some(lab) = Lab::fresh() else { return };
    let yaml = "sync_modules: { dummy_fail: true }\n\
        btrfs_snapshots: { subvolumes: [\"@home\"] }\n\
        dummy_fail: { source_duration: 2, target_duration: 2, fail_at: 1 }\n";
    lab.configure_with(ATLAS, yaml, FILTER);
    let run = lab
        .pc_switcher(&["sync", "vega", "--yes", "--allow-first-sync"])
        .expect(1);
    assert!(run.text().contains("dummy_fail"), "{}", run.text());
    lab.assert_nothing_left_running();
}
