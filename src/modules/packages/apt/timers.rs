//! Keeping the machine's own updater away while packages change.
//!
//! The timers are started again by us; should we die, a transient timer of systemd does it. They are
//! not started while we work, because they are persistent: what they missed they would do at once.

use crate::modules::packages::tools::{ASK, Tools};

const TIMERS: [&str; 2] = ["apt-daily.timer", "apt-daily-upgrade.timer"];
/// The transient unit that starts them again if we do not.
const UNIT: &str = "pc-switcher-apt-timers";
/// Longer than any run.
const AT_THE_LATEST: &str = "6h";

/// Timers that were stopped.
#[derive(Debug, Default)]
pub struct Paused(Vec<&'static str>);

fn succeeds(tools: &Tools<'_>, argv: &[&str]) -> bool {
    tools.run(argv, ASK).is_ok_and(|done| done.code() == 0)
}

/// Stops the timers that a person has switched on, if their return can be ensured.
pub fn pause(tools: &Tools<'_>) -> Paused {
    if !tools.has("systemctl") || !tools.has("systemd-run") {
        return Paused::default();
    }
    // Switched on, not running: a run that died may have left them stopped.
    let on: Vec<&'static str> = (TIMERS.into_iter())
        .filter(|timer| succeeds(tools, &["systemctl", "--quiet", "is-enabled", timer]))
        .collect();
    if on.is_empty() {
        return Paused::default();
    }
    // That of a run that died is replaced: its hour must not come while we work.
    let _ = tools.run(
        &["systemctl", "--quiet", "stop", &format!("{UNIT}.timer")],
        ASK,
    );
    let mut again = vec![
        "systemd-run",
        "--quiet",
        "--collect",
        "--on-active",
        AT_THE_LATEST,
        "--unit",
        UNIT,
        "systemctl",
        "start",
    ];
    again.extend(&on);
    if !succeeds(tools, &again) {
        return Paused::default();
    }
    let mut stop = vec!["systemctl", "stop"];
    stop.extend(&on);
    let _ = tools.run(&stop, ASK);
    Paused(on)
}

/// Starts them again; whether that is done.
pub fn resume(tools: &Tools<'_>, paused: &Paused) -> bool {
    if paused.0.is_empty() {
        return true;
    }
    let mut start = vec!["systemctl", "start"];
    start.extend(&paused.0);
    let started = succeeds(tools, &start);
    if started {
        let _ = tools.run(
            &["systemctl", "--quiet", "stop", &format!("{UNIT}.timer")],
            ASK,
        );
    }
    started
}
