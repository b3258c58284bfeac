//! Situations that others needed several attempts for, with the machines' real apt: keys inside a source,
//! holds that cannot be met, superseded versions, timers of the machine's own updater.

use std::fs;
use std::time::Duration;

use crate::packages::{
    BOTH, CONFIG, World, distribution_packages, install, offer, state, sync, world,
};
use crate::support::lab::{ATLAS, Lab, VEGA};
use crate::support::repo::{Deb, inside, publish, write};
use crate::support::scenario::FILTER;

fn is_there(lab: &Lab, host: &str, name: &str) -> bool {
    (state(lab, host).iter()).any(|line| line.split('\t').next() == Some(name))
}

#[test]
fn a_vendors_source_arrives_with_the_key_in_it_and_with_one_in_a_directory_that_was_missing() {
    let Some(lab) = Lab::fresh() else { return };
    let world = world(&lab);
    // The vendor's place as one file with its key inside, and another of its places with a key file.
    fs::remove_file(inside(&lab, ATLAS, "/etc/apt/sources.list.d/vendor.list")).expect("ours");
    let armored = world.vendor.armored();
    let mut inline = String::new();
    for line in armored.lines() {
        let line = if line.is_empty() { "." } else { line };
        inline.push_str("\n ");
        inline.push_str(line);
    }
    let path = "/etc/apt/sources.list.d/vendor.sources";
    let text = format!("Types: deb\nURIs: file:/srv/vendor\nSuites: ./\nSigned-By:{inline}\n");
    write(&lab, ATLAS, path, &text);
    for host in [ATLAS, VEGA] {
        let more = [Deb::new("second-tool", "1.0")];
        publish(&lab, host, "/srv/second", "Second", &world.vendor, &more);
    }
    let (second, key) = (
        "/etc/apt/sources.list.d/second.list",
        "/etc/apt/keyrings/second.gpg",
    );
    write(&lab, ATLAS, key, &world.vendor.public);
    write(
        &lab,
        ATLAS,
        second,
        format!("deb [signed-by={key}] file:/srv/second ./\n"),
    );
    lab.exec(VEGA, &["rm", "-rf", "/etc/apt/keyrings"]).ok();
    lab.exec(ATLAS, &["apt-get", "-q", "update"]).ok();
    install(&lab, ATLAS, &["vendor-tool", "second-tool"]);
    let text = sync(&lab, &BOTH).expect(0).text();
    assert!(
        is_there(&lab, VEGA, "vendor-tool") && is_there(&lab, VEGA, "second-tool"),
        "{text}"
    );
    for path in [path, second, key] {
        let (ours, theirs) = (inside(&lab, ATLAS, path), inside(&lab, VEGA, path));
        assert_eq!(fs::read(ours).ok(), fs::read(theirs).ok(), "{path}: {text}");
    }
}

#[test]
fn a_held_version_that_is_nowhere_to_be_had_fails_by_name_and_nothing_else_takes_its_place() {
    let Some(lab) = Lab::fresh() else { return };
    let world = world(&lab);
    install(&lab, ATLAS, &["held", "simple"]);
    lab.exec(ATLAS, &["apt-mark", "hold", "held"]).ok();
    let mut newer = distribution_packages();
    newer.retain(|deb| deb.name() != "held");
    newer.push(Deb::new("held", "2.0"));
    publish(
        &lab,
        VEGA,
        "/srv/debian",
        "Debian",
        &world.distribution,
        &newer,
    );
    lab.exec(VEGA, &["apt-get", "-q", "update"]).ok();
    let text = sync(&lab, &BOTH).expect(1).text();
    assert!(text.contains("held") && text.contains("1.0"), "{text}");
    assert!(!is_there(&lab, VEGA, "held"), "{text}");
    assert!(is_there(&lab, VEGA, "simple"), "the others come: {text}");
}

#[test]
fn a_version_that_its_source_no_longer_offers_is_not_taken_for_one_installed_by_hand() {
    let Some(lab) = Lab::fresh() else { return };
    let world = world(&lab);
    install(&lab, ATLAS, &["mine", "shadow=1.0"]);
    install(&lab, VEGA, &["shadow=1.0", "extra"]);
    let mut newer = distribution_packages();
    newer.retain(|deb| !["mine", "shadow", "extra"].contains(&deb.name()));
    for name in ["mine", "shadow", "extra"] {
        newer.push(Deb::new(name, "1.1"));
    }
    for host in [ATLAS, VEGA] {
        offer(&lab, host, &world, &newer);
    }
    let text = sync(&lab, &["--apply-package-installs"]).expect(8).text();
    assert!(
        is_there(&lab, VEGA, "mine") && is_there(&lab, VEGA, "shadow"),
        "{text}"
    );
    assert!(!text.contains("hand:"), "each has its source: {text}");
    assert!(text.contains("apt: not decided: extra"), "{text}");
}

/// Offers `waits` besides, which is installed only when `/var/tmp/wait` is not there, and says in `/var/tmp/waits` that it is.
fn offer_one_that_waits(lab: &Lab, world: &World) {
    let mut packages = distribution_packages();
    packages.push(Deb::new("waits", "1.0").script(
        "postinst",
        "echo waiting for somebody; echo x >>/var/tmp/waits; test ! -e /var/tmp/wait || exec sleep 86400",
    ));
    for host in [ATLAS, VEGA] {
        offer(lab, host, world, &packages);
    }
}

#[track_caller]
fn assert_nobody_sleeps(lab: &Lab, text: &str) {
    // The brackets keep the question from finding itself.
    let left = lab.exec(VEGA, &["pgrep", "-af", "[s]leep 86400"]).stdout;
    assert_eq!(left, "", "{text}");
}

/// What dpkg was in the middle of is said before anything is done again; when it is mended, everything converges.
#[track_caller]
fn finish_what_waited(lab: &Lab) {
    let text = sync(lab, &BOTH).expect(3).text();
    assert!(
        text.contains("dpkg has not finished with") && text.contains("waits"),
        "{text}"
    );
    let mend = "rm /var/tmp/wait && dpkg --configure -a && apt-get -qy --fix-broken install";
    lab.exec(VEGA, &["sh", "-c", mend]).ok();
    sync(lab, &BOTH).expect(0);
    assert_eq!(state(lab, ATLAS), state(lab, VEGA));
}

#[test]
fn a_package_that_waits_for_ever_is_waited_for_once_and_named() {
    let Some(lab) = Lab::fresh() else { return };
    let world = world(&lab);
    offer_one_that_waits(&lab, &world);
    for host in [ATLAS, VEGA] {
        // Long enough for apt on a machine that does other things, too.
        lab.configure_with(
            host,
            &format!("{CONFIG}packages: {{ command_timeout: 60 }}\n"),
            FILTER,
        );
    }
    write(&lab, VEGA, "/var/tmp/wait", "");
    install(&lab, ATLAS, &["simple", "waits", "held"]);
    lab.exec(ATLAS, &["apt-mark", "hold", "held"]).ok();
    let text = sync(&lab, &BOTH).expect(1).text();
    let waits = fs::read_to_string(inside(&lab, VEGA, "/var/tmp/waits")).expect("it ran");
    assert_eq!(waits, "x\n", "{text}");
    let named: Vec<&str> = (text.lines())
        .filter(|line| line.contains("given up") && line.contains("waits"))
        .collect();
    assert!(!named.is_empty(), "{text}");
    assert!(text.contains("waiting for somebody"), "{text}");
    assert_nobody_sleeps(&lab, &text);
    finish_what_waited(&lab);
    assert!(
        sync(&lab, &BOTH)
            .expect(0)
            .text()
            .contains("nothing to change")
    );
}

#[test]
fn timers_of_the_machines_own_updater_are_as_they_were_also_after_a_run_that_died() {
    let Some(lab) = Lab::fresh() else { return };
    world(&lab);
    install(&lab, ATLAS, &["simple"]);
    // One is switched on, the other masked; and a dead run had stopped the first.
    let timer = "apt-daily.timer";
    let shell = "rm /etc/systemd/system/apt-daily.timer && systemctl daemon-reload && \
                 systemctl enable apt-daily.timer && \
                 systemd-run --quiet --on-active=1h --unit=pc-switcher-apt-timers \
                 systemctl start apt-daily.timer";
    lab.exec(VEGA, &["sh", "-c", shell]).ok();
    let text = sync(&lab, &BOTH).expect(0).text();
    let ask = |what: &str, unit: &str| {
        lab.exec(VEGA, &["systemctl", what, unit])
            .stdout
            .trim()
            .to_owned()
    };
    assert_eq!(ask("is-active", timer), "active", "{text}");
    assert_eq!(
        ask("is-enabled", "apt-daily-upgrade.timer"),
        "masked",
        "{text}"
    );
    assert_ne!(
        ask("is-active", "pc-switcher-apt-timers.timer"),
        "active",
        "{text}"
    );
    assert!(is_there(&lab, VEGA, "simple"), "{text}");
}

#[test]
fn what_debconf_would_ask_a_person_is_answered_with_the_packages_own_default() {
    let Some(lab) = Lab::fresh() else { return };
    let world = world(&lab);
    let asks = Deb::new("asks-debconf", "1.0")
        .field("Depends: debconf")
        .about(
            "templates",
            "Template: asks-debconf/name\nType: string\nDefault: nobody\nDescription: Who are you?\n",
        )
        .script(
            "config",
            ". /usr/share/debconf/confmodule\ndb_input critical asks-debconf/name || true\ndb_go || true",
        )
        .script(
            "postinst",
            "set -e\n. /usr/share/debconf/confmodule\ndb_get asks-debconf/name\n\
             echo \"$RET\" >/etc/asks-debconf\ndb_stop",
        );
    let mut debs = distribution_packages();
    debs.push(asks);
    for host in [ATLAS, VEGA] {
        offer(&lab, host, &world, &debs);
    }
    // A person on atlas had another answer.
    let answered = "echo asks-debconf asks-debconf/name string me | debconf-set-selections && \
                    DEBIAN_FRONTEND=noninteractive apt-get -qy install asks-debconf";
    lab.exec(ATLAS, &["sh", "-c", answered]).ok();
    let answer = |host: &str| fs::read_to_string(inside(&lab, host, "/etc/asks-debconf"));
    assert_eq!(answer(ATLAS).expect("it wrote it"), "me\n");
    let text = sync(&lab, &BOTH).expect(0).text();
    assert!(is_there(&lab, VEGA, "asks-debconf"), "{text}");
    assert_eq!(answer(VEGA).expect("it wrote it"), "nobody\n", "{text}");
    let text = sync(&lab, &BOTH).expect(0).text();
    assert!(text.contains("nothing to change"), "{text}");
}

#[test]
fn holds_are_met_exactly_nothing_is_upgraded_and_one_on_nothing_is_named_on_both() {
    let Some(lab) = Lab::fresh() else { return };
    let world = world(&lab);
    let apt_mark = |host: &str, how: &str, name: &str| {
        lab.exec(host, &["apt-mark", how, name]).ok();
    };
    install(&lab, ATLAS, &["simple", "held", "mine"]);
    apt_mark(ATLAS, "hold", "held");
    install(&lab, VEGA, &["mine", "shadow"]);
    apt_mark(VEGA, "hold", "shadow");
    apt_mark(VEGA, "hold", "mine");
    // On each of them one that is not there: nothing begins.
    apt_mark(ATLAS, "hold", "asks");
    apt_mark(VEGA, "hold", "virtual-one");
    let before = state(&lab, VEGA);
    let text = sync(&lab, &BOTH).expect(3).text();
    for words in ["apt-mark unhold asks", "apt-mark unhold virtual-one"] {
        assert!(text.contains(words), "{words}: {text}");
    }
    assert_eq!(state(&lab, VEGA), before);
    apt_mark(ATLAS, "unhold", "asks");
    apt_mark(VEGA, "unhold", "virtual-one");
    // Everything is there in a newer version, too; atlas has one of them.
    let mut both = distribution_packages();
    for name in ["held", "mine", "shadow"] {
        both.push(Deb::new(name, "2.0"));
    }
    for host in [ATLAS, VEGA] {
        offer(&lab, host, &world, &both);
    }
    install(&lab, ATLAS, &["mine"]);
    let text = sync(&lab, &BOTH).expect(0).text();
    let line = |host: &str, name: &str| {
        let lines = state(&lab, host).into_iter();
        lines
            .filter(|line| line.split('\t').next() == Some(name))
            .collect::<String>()
    };
    assert_eq!(line(VEGA, "held"), line(ATLAS, "held"), "{text}");
    assert!(line(VEGA, "held").contains("\t1.0\thi"), "{text}");
    // What vega holds is not removed; whether it is held is atlas's say, its version is not.
    assert!(line(VEGA, "shadow").contains("\t1.0\thi"), "{text}");
    assert!(text.contains("shadow: it is held on vega"), "{text}");
    assert!(line(ATLAS, "mine").contains("\t2.0\tii"));
    assert!(line(VEGA, "mine").contains("\t1.0\tii"), "{text}");
    let text = sync(&lab, &BOTH).expect(0).text();
    assert!(text.contains("nothing to change"), "{text}");
}

#[test]
fn what_cannot_be_read_on_the_source_is_not_gone() {
    let Some(lab) = Lab::fresh() else { return };
    world(&lab);
    install(&lab, VEGA, &["mine"]);
    write(&lab, VEGA, "/opt/own/x", "x");
    // A snapd that is down on atlas, and one on vega that would do as it is told.
    let snap = |host: &str, script: &str| {
        write(
            &lab,
            host,
            "/usr/bin/snap",
            format!("#!/bin/sh\n{script}\n"),
        );
        lab.exec(host, &["chmod", "755", "/usr/bin/snap"]).ok();
    };
    snap(
        ATLAS,
        "echo 'error: cannot communicate with server' >&2; exit 1",
    );
    snap(
        VEGA,
        "case $1 in list) echo 'Name Version Rev Tracking Publisher Notes'; \
         echo 'games 1 7 latest/stable x -' ;; *) echo $* >>/var/tmp/snap ;; esac",
    );
    // Where programs would be, there is no directory that could be listed.
    let opt = "mv /opt /opt.away; echo >/opt";
    lab.exec(ATLAS, &["sh", "-c", opt]).ok();
    let text = sync(&lab, &BOTH).expect(1).text();
    for words in [
        "snap did not answer",
        "cannot communicate with server",
        "hand did not answer",
        "/opt",
    ] {
        assert!(text.contains(words), "{words}: {text}");
    }
    assert!(inside(&lab, VEGA, "/opt/own/x").exists(), "{text}");
    assert!(!inside(&lab, VEGA, "/var/tmp/snap").exists(), "{text}");
    assert!(!is_there(&lab, VEGA, "mine"), "apt has answered: {text}");
    lab.exec(ATLAS, &["sh", "-c", "rm /opt; mv /opt.away /opt"])
        .ok();
    snap(ATLAS, "echo 'No snaps are installed yet.' >&2");
    // dpkg's own list is damaged, and marks that cannot be read protect nothing.
    install(&lab, VEGA, &["mine"]);
    let status = inside(&lab, ATLAS, "/var/lib/dpkg/status");
    let good = fs::read(&status).expect("dpkg's");
    fs::write(&status, [&good[..], b"\nPackage\n"].concat()).expect("root may");
    let text = sync(&lab, &BOTH).expect(1).text();
    assert!(text.contains("apt did not answer"), "{text}");
    assert!(is_there(&lab, VEGA, "mine"), "{text}");
    fs::write(&status, good).expect("root may");
    lab.exec(
        VEGA,
        &["mkdir", "-p", "/var/lib/pc-switcher/package-marks.json"],
    )
    .ok();
    let text = sync(&lab, &BOTH).expect(1).text();
    assert!(text.contains("package-marks.json"), "{text}");
    assert!(is_there(&lab, VEGA, "mine"), "{text}");
}

#[test]
fn a_link_that_is_cut_while_packages_are_read_or_changed_takes_nothing_away() {
    let Some(lab) = Lab::fresh() else { return };
    let world = world(&lab);
    offer_one_that_waits(&lab, &world);
    install(&lab, VEGA, &["mine"]);
    let cut_at = |marker: &str| {
        let marker = inside(&lab, VEGA, marker);
        let run = lab.start_sync(&[&["--allow-incomplete"], &BOTH[..]].concat());
        let begun = Lab::wait_until(Duration::from_mins(2), || marker.exists());
        assert!(begun, "no {}", marker.display());
        lab.verb(&["cut", "drop"]).ok();
        let text = run.wait().expect(5).text();
        // What has lost its person ends by itself, and what it had started with it.
        lab.assert_nothing_left_running_on(VEGA, Duration::from_mins(1));
        lab.verb(&["heal"]).ok();
        assert_nobody_sleeps(&lab, &text);
        assert!(is_there(&lab, VEGA, "mine"), "{text}");
        text
    };
    // While the target is asked what it has.
    let snap = "#!/bin/sh\necho asked >/var/tmp/asked\nexec sleep 86400\n";
    write(&lab, VEGA, "/usr/bin/snap", snap);
    lab.exec(VEGA, &["chmod", "755", "/usr/bin/snap"]).ok();
    let text = cut_at("/var/tmp/asked");
    assert!(!text.contains("mine"), "{text}");
    lab.exec(VEGA, &["rm", "/usr/bin/snap"]).ok();

    // In the middle of a transaction.
    install(&lab, ATLAS, &["mine", "simple", "waits"]);
    write(&lab, VEGA, "/var/tmp/wait", "");
    cut_at("/var/tmp/waits");
    finish_what_waited(&lab);
}
