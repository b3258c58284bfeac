//! A part of a running sync is lost: what a person is told, how soon, and whether trying again works.

use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::support::lab::{ATLAS, Lab, Output, Running, VEGA};
use crate::support::processes::{self, Part};
use crate::support::scenario::{DONE, FILTER};

/// Looks at the disks so seldom that only a look in between can notice anything.
const SLOW: &str = "sync_modules: { dummy_success: true }\n\
    disk: { preflight_minimum: \"1%\", runtime_minimum: \"1%\", warning_threshold: \"1%\", check_interval: 300 }\n\
    btrfs_snapshots: { subvolumes: [\"@home\"] }\n\
    dummy_success: { source_duration: 0, target_duration: 60 }\n";

/// Everything the logs on atlas say.
fn log(lab: &Lab) -> String {
    let line = "cat /home/dev/.local/state/pc-switcher/logs/*.log 2>/dev/null || true";
    lab.exec(ATLAS, &["sh", "-c", line]).ok().stdout
}

/// A sync whose module is at work, with the monitor's agent beside it.
fn at_work(lab: &Lab) -> Running {
    lab.configure_with(ATLAS, SLOW, FILTER);
    let mut run = lab.start_sync(&[]);
    // The monitor has looked with an agent of its own; before that it would do without one.
    let is_working = || {
        let log = log(lab);
        log.contains("pretending to work for 60 s")
            && log.contains("\"module\":\"disk_monitor\",\"host\":\"target\"")
            && processes::of(lab, Part::Agent(VEGA)).len() == 2
    };
    if !Lab::wait_until(Duration::from_secs(90), is_working) {
        assert!(run.is_running(), "{}", run.wait().text());
        panic!("it does not work");
    }
    run
}

#[track_caller]
fn says(run: &Output, words: &[&str]) {
    for word in words {
        assert!(run.text().contains(word), "no {word:?} in {}", run.text());
    }
    // That it was stopped is not why.
    assert!(
        !run.text().contains("failed: interrupted"),
        "{}",
        run.text()
    );
}

#[test]
fn after_a_cut_the_module_says_what_was_lost_and_a_retry_at_once_works() {
    let Some(lab) = Lab::fresh() else { return };
    let run = at_work(&lab);
    lab.verb(&["cut", "drop"]).ok();
    let run = run.wait().expect(5);
    says(&run, &["lost the agent on vega: no answer for "]);
    let finished = log(&lab);
    let finished = finished
        .lines()
        .find(|l| l.contains("\"event\":\"module_finished\"") && l.contains("\"dummy_success\""));
    let finished = finished.expect("the module's end is in the log");
    assert!(
        finished.contains("failed: lost the agent on vega"),
        "{finished}"
    );

    lab.verb(&["heal"]).ok();
    let quick = SLOW.replace("target_duration: 60", "target_duration: 0");
    lab.configure_with(ATLAS, &quick, FILTER);
    let again = lab.sync(&["--allow-incomplete"]);
    assert!(DONE.contains(&again.status), "{}", again.text());
    lab.assert_nothing_left_running();
}

#[test]
fn the_loss_of_the_monitors_agent_alone_is_noticed_within_moments() {
    let Some(lab) = Lab::fresh() else { return };
    let run = at_work(&lab);
    let agents = processes::of(&lab, Part::Agent(VEGA));
    let monitors = agents.last().expect("the newer one is the monitor's");
    let killed = Instant::now();
    assert!(monitors.signal(Signal::KILL));
    let run = run.wait().expect(5);
    says(&run, &["lost the agent on vega"]);
    assert!(
        killed.elapsed() < Duration::from_secs(30),
        "{:?}",
        killed.elapsed()
    );
    lab.assert_nothing_left_running();
}

#[test]
fn a_killed_agent_of_this_machine_is_told_with_what_to_do() {
    let Some(lab) = Lab::fresh() else { return };
    let run = at_work(&lab);
    assert!(processes::signal(&lab, Part::Agent(ATLAS), Signal::KILL));
    let run = run.wait().expect(1);
    says(
        &run,
        &[
            "lost the agent on atlas",
            "hint: it was killed",
            "sync again",
        ],
    );
    lab.assert_nothing_left_running();
}

#[test]
fn an_agent_whose_sudo_dies_does_not_complain_of_frames() {
    let Some(lab) = Lab::fresh() else { return };
    let run = at_work(&lab);
    lab.exec(VEGA, &["pkill", "-KILL", "-x", "sudo"]).ok();
    let run = run.wait().expect(5);
    says(&run, &["lost the agent on vega"]);
    assert!(!log(&lab).contains("frame"), "{}", log(&lab));
}
