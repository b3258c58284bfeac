//! What a transaction takes with it, and what changes between the plan and the deed: shown with its cause,
//! asked about, and never done by the way; with the machines' real apt.

use std::time::Duration;

use rustix::process::Signal;

use crate::packages::{BOTH, distribution_packages, install, offer, state, sync, world};
use crate::support::lab::{ATLAS, Lab, VEGA};
use crate::support::processes::{Part, all, signal};
use crate::support::repo::{Deb, inside, publish, write};
use crate::support::terminal::Terminal;

const REVIEW: &str =
    "pc-switcher sync vega --allow-first-sync --allow-out-of-order --allow-incomplete";

fn is_there(lab: &Lab, host: &str, name: &str) -> bool {
    (state(lab, host).iter()).any(|line| line.split('\t').next() == Some(name))
}

#[test]
fn what_somebody_asked_for_while_the_review_was_open_is_not_taken() {
    let Some(lab) = Lab::fresh() else { return };
    world(&lab);
    install(&lab, ATLAS, &["new-mta", "simple"]);
    let mut terminal = Terminal::open(&lab, (24, 80), REVIEW);
    terminal.until_words("Install on vega");
    // When this was planned there was nothing in its way.
    install(&lab, VEGA, &["old-mta"]);
    terminal.send("\r");
    let status = terminal.end(|_| {});
    let text = terminal.text();
    assert_eq!(status, Some(1), "{text}");
    assert!(is_there(&lab, VEGA, "old-mta"), "{text}");
    assert!(!is_there(&lab, VEGA, "new-mta"), "{text}");
    assert!(is_there(&lab, VEGA, "simple"), "the others come: {text}");
    // The next plan knows of it, and leaves it to a person.
    let text = sync(&lab, &["--apply-package-installs"]).expect(8).text();
    assert!(text.contains("not decided: new-mta"), "{text}");
    assert!(is_there(&lab, VEGA, "old-mta"), "{text}");
}

#[test]
fn a_removal_that_would_take_what_is_to_stay_is_not_done_and_the_others_are() {
    let Some(lab) = Lab::fresh() else { return };
    world(&lab);
    install(&lab, VEGA, &["dep", "mine", "simple"]);
    let mut terminal = Terminal::open(&lab, (24, 80), REVIEW);
    terminal.until_words("Remove from vega");
    // dep and mine: yes; simple, which needs dep: not now.
    terminal.send("yyn\r");
    let status = terminal.end(|_| {});
    let text = terminal.text();
    assert_eq!(status, Some(1), "{text}");
    for (name, stays) in [("dep", true), ("simple", true), ("mine", false)] {
        assert_eq!(is_there(&lab, VEGA, name), stays, "{name}: {text}");
    }
    // Both together are what one of them takes with it: then nothing is taken unasked.
    let text = sync(&lab, &BOTH).expect(0).text();
    for name in ["dep", "simple"] {
        assert!(!is_there(&lab, VEGA, name), "{name}: {text}");
    }
}

#[test]
fn what_belongs_to_the_target_alone_is_not_taken_by_what_comes() {
    let Some(lab) = Lab::fresh() else { return };
    world(&lab);
    install(&lab, ATLAS, &["new-mta", "simple"]);
    install(&lab, VEGA, &["old-mta"]);
    lab.exec(VEGA, &["apt-mark", "auto", "old-mta"]).ok();
    let marks = "{\"version\":1,\"marks\":{\"apt\":{\"old-mta\":{\"text\":\"old-mta\",\
                 \"at\":\"2026-01-01T00:00:00Z\"}}}}";
    let directory = "/var/lib/pc-switcher";
    lab.exec(VEGA, &["install", "-d", "-m", "700", directory])
        .ok();
    let path = format!("{directory}/package-marks.json");
    write(&lab, VEGA, &path, marks);
    let text = sync(&lab, &BOTH).expect(8).text();
    assert!(text.contains("not decided: new-mta"), "{text}");
    assert!(is_there(&lab, VEGA, "old-mta") && is_there(&lab, VEGA, "simple"));
    let now = std::fs::read_to_string(inside(&lab, VEGA, &path));
    assert_eq!(now.expect("it is there"), marks);
    // Without the mark nobody wants it: it goes as what it is, in the way.
    lab.exec(VEGA, &["rm", &path]).ok();
    let text = sync(&lab, &BOTH).expect(0).text();
    assert!(is_there(&lab, VEGA, "new-mta"), "{text}");
    assert!(!is_there(&lab, VEGA, "old-mta"), "{text}");
}

#[test]
fn the_vendors_build_comes_although_the_distributions_has_a_higher_epoch() {
    let Some(lab) = Lab::fresh() else { return };
    let world = world(&lab);
    for host in [ATLAS, VEGA] {
        let mut all = distribution_packages();
        all.push(Deb::new("browser", "1:1.0"));
        publish(
            &lab,
            host,
            "/srv/debian",
            "Debian",
            &world.distribution,
            &all,
        );
        let tools = [Deb::new("browser", "128.0")];
        publish(&lab, host, "/srv/vendor", "Vendor", &world.vendor, &tools);
    }
    let pin = "Package: browser\nPin: release o=Vendor\nPin-Priority: 1001\n";
    write(&lab, ATLAS, "/etc/apt/preferences.d/browser", pin);
    for host in [ATLAS, VEGA] {
        lab.exec(host, &["apt-get", "-q", "update"]).ok();
    }
    install(&lab, ATLAS, &["browser"]);
    let browser = |host: &str| -> Vec<String> {
        let mut lines = state(&lab, host);
        lines.retain(|line| line.starts_with("browser\t"));
        lines
    };
    assert!(browser(ATLAS)[0].contains("128.0"), "{:?}", browser(ATLAS));
    let text = sync(&lab, &BOTH).expect(0).text();
    assert_eq!(browser(VEGA), browser(ATLAS), "{text}");
    let again = sync(&lab, &BOTH).expect(0).text();
    assert!(again.contains("nothing to change"), "{again}");
}

#[test]
fn after_a_run_that_was_killed_at_work_systemd_starts_the_timers_that_it_had_stopped() {
    let Some(lab) = Lab::fresh() else { return };
    let world = world(&lab);
    for host in [ATLAS, VEGA] {
        let mut all = distribution_packages();
        let wait = "while test ! -e /srv/go; do sleep 0.1; done";
        all.push(Deb::new("slow", "1.0").script("postinst", wait));
        offer(&lab, host, &world, &all);
    }
    write(&lab, ATLAS, "/srv/go", "");
    install(&lab, ATLAS, &["slow"]);
    // One is switched on, the other masked.
    let timer = "apt-daily.timer";
    let shell = "rm /etc/systemd/system/apt-daily.timer && systemctl daemon-reload && \
                 systemctl enable --now apt-daily.timer";
    lab.exec(VEGA, &["sh", "-c", shell]).ok();
    let is_active = |unit: &str| {
        let state = lab.exec(VEGA, &["systemctl", "is-active", unit]).stdout;
        state.trim() == "active"
    };
    assert!(is_active(timer));
    let running = lab.start_sync(&BOTH);
    let is_at_work = || {
        let is_slow = |argument: &String| argument.ends_with("slow.postinst");
        all(&lab, VEGA)
            .iter()
            .any(|process| process.args.iter().any(is_slow))
    };
    assert!(Lab::wait_until(Duration::from_mins(2), is_at_work));
    assert!(!is_active(timer), "they are out of the way meanwhile");
    signal(&lab, Part::Agent(VEGA), Signal::KILL);
    signal(&lab, Part::Cli, Signal::KILL);
    running.wait();
    write(&lab, VEGA, "/srv/go", "");
    assert!(Lab::wait_until(Duration::from_mins(2), || !is_at_work()));
    assert!(!is_active(timer), "nobody is left to start it");
    // Within hours, by systemd; here its hour is made to come.
    let unit = "pc-switcher-apt-timers";
    assert!(is_active(&format!("{unit}.timer")));
    let show = ["systemctl", "show", "--property=TimersMonotonic"];
    let when = lab.exec(VEGA, &[&show[..], &[&format!("{unit}.timer")]].concat());
    assert!(when.text().contains("OnActiveUSec=6h"), "{}", when.text());
    lab.exec(VEGA, &["systemctl", "start", &format!("{unit}.service")])
        .ok();
    assert!(is_active(timer));
    assert!(!is_active("apt-daily-upgrade.timer"), "it is masked");
}
