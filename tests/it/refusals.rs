//! Reasons not to start, or to fail, have their status, one clear message with a remedy, and change nothing.
//! What each of the most frequent ones says is in `errors.rs`.

use std::fs;

use crate::support::lab::{ATLAS, Lab, Output, VEGA};
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
    lab.exec(VEGA, &["systemctl", "stop", "ssh"]).ok();
    refused(&lab, &sync("vega"), 5, &["vega", "refused"]);
    lab.exec(VEGA, &["systemctl", "start", "ssh"]).ok();

    lab.verb(&["cut", "drop"]).ok();
    refused(&lab, &sync("vega"), 5, &["vega"]);
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
