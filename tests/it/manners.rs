//! What a person meets: one message for one error, the closing block last, warnings that make sense.

use std::fs;
use std::time::Duration;

use crate::support::awkward::chown;
use crate::support::lab::{ATLAS, Lab, VEGA};
use crate::support::scenario::FILTER;

const DUMMIES: &str = "sync_modules: { dummy_success: true }\n\
    dummy_success: { source_duration: 0, target_duration: 0 }\n\
    btrfs_snapshots: { subvolumes: [\"@home\"] }\n";

#[test]
fn a_refusal_is_told_once_with_its_remedy_and_the_closing_block_is_last() {
    let Some(lab) = Lab::fresh() else { return };
    lab.configure(ATLAS, FILTER);
    let run = lab.pc_switcher(&["sync", "vega", "--yes"]).expect(4);
    let text = run.text();
    let times = |words: &str| text.matches(words).count();
    assert_eq!(times("have never synced with each other"), 1, "{text}");
    assert_eq!(times("--allow-first-sync"), 1, "{text}");
    let last = text.trim_end().lines().last().unwrap_or_default();
    assert!(last.starts_with("Log "), "{text}");
}

#[test]
fn a_sync_with_the_shipped_configuration_ends_without_warnings_and_leaves_keys_of_any_name() {
    let Some(lab) = Lab::fresh() else { return };
    lab.pc_switcher(&["init"]).expect(0);
    for name in ["deploy", "deploy.pub", "config"] {
        let file = lab.dev(ATLAS).join(".ssh").join(name);
        fs::write(&file, "# x\n").expect("writable");
        chown(&file, 1000, 1000).expect("root may");
    }
    let run = lab.sync(&[]).expect(0);
    assert!(!run.text().contains("dummy"), "{}", run.text());
    let theirs = lab.dev(VEGA).join(".ssh");
    assert!(theirs.join("config").exists());
    assert!(!theirs.join("deploy").exists() && !theirs.join("deploy.pub").exists());
}

#[test]
fn a_reader_that_goes_away_does_not_end_a_dry_run_as_interrupted() {
    let Some(lab) = Lab::fresh() else { return };
    lab.configure(ATLAS, FILTER);
    let many = lab.dev(ATLAS).join("many");
    fs::create_dir(&many).expect("writable");
    for n in 0..3000 {
        fs::write(many.join(n.to_string()), "x").expect("writable");
    }
    for progress in ["plain", "json"] {
        let script = format!(
            "pc-switcher --batch --progress {progress} sync vega --dry-run | head -n 1 >/dev/null; \
             exit ${{PIPESTATUS[0]}}"
        );
        // The first sync's warning, and nothing else.
        lab.as_dev(ATLAS, &["bash", "-c", &script]).expect(8);
    }
}

#[test]
fn little_space_is_warned_of_before_anything_is_done() {
    let Some(lab) = Lab::fresh() else { return };
    let yaml = format!("{DUMMIES}disk: {{ warning_threshold: \"99%\" }}\n");
    lab.configure_with(ATLAS, &yaml, FILTER);
    let run = lab.pc_switcher(&["sync", "vega", "--dry-run"]).expect(8);
    for host in [ATLAS, VEGA] {
        let words = format!("warning: {host}: only ");
        assert_eq!(run.text().matches(&words).count(), 1, "{}", run.text());
    }
}

#[test]
fn a_target_whose_sudo_is_killed_is_a_lost_connection() {
    let Some(lab) = Lab::fresh() else { return };
    let slow = DUMMIES.replace("target_duration: 0 ", "target_duration: 30 ");
    lab.configure_with(ATLAS, &slow, FILTER);
    let mut started = lab.start_sync(&[]);
    let is_working = || {
        let line = "ls /home/dev/.local/state/pc-switcher/logs/*.log >/dev/null 2>&1 && \
            grep -q 'pretending to work for 30 s' /home/dev/.local/state/pc-switcher/logs/*.log";
        lab.exec(ATLAS, &["sh", "-c", line]).status == Some(0)
    };
    if !Lab::wait_until(Duration::from_mins(1), is_working) {
        assert!(started.is_running(), "{}", started.wait().text());
        panic!("it does not work");
    }
    lab.exec(VEGA, &["pkill", "-KILL", "-x", "sudo"]).ok();
    let run = started.wait().expect(5);
    assert!(
        run.text().contains("lost the agent on vega"),
        "{}",
        run.text()
    );
    lab.assert_nothing_left_running();
}
