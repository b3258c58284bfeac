//! Software that no package source offers, answers by keyboard, package files without a network, and what
//! dpkg leaves as a person wrote it; with the machines' real apt.

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::packages::{BOTH, CONFIG, distribution_packages, install, offer, state, sync, world};
use crate::support::lab::{ATLAS, Lab, VEGA};
use crate::support::repo::{Deb, inside, write};
use crate::support::scenario::FILTER;
use crate::support::terminal::Terminal;

const TOOL: &str = "/usr/local/bin/tool";

/// A package without any source, installed on a machine.
fn by_hand(lab: &Lab, host: &str, name: &'static str, version: &str) {
    let directory = inside(lab, host, "/srv/byhand");
    fs::create_dir_all(&directory).expect("root may");
    Deb::new(name, version).build(&directory);
    let file = format!("/srv/byhand/{name}_{version}_all.deb");
    lab.exec(host, &["dpkg", "--install", &file]).ok();
}

fn is_installed(lab: &Lab, host: &str, name: &str) -> bool {
    let packages = state(lab, host);
    packages
        .iter()
        .any(|line| line.split('\t').next() == Some(name) && line.contains("\tii"))
}

#[test]
fn what_nobody_offers_is_told_brought_by_its_recipe_and_removed_by_nobody_but_a_person() {
    let Some(lab) = Lab::fresh() else { return };
    world(&lab);
    write(&lab, ATLAS, TOOL, "#!/bin/sh\n");
    write(&lab, ATLAS, "/opt/vendor/bin/x", "x");
    by_hand(&lab, ATLAS, "zoom", "6.0");
    write(&lab, VEGA, "/opt/own/x", "x");
    by_hand(&lab, VEGA, "own-deb", "1.0");
    let text = sync(&lab, &BOTH).expect(8).text();
    for words in ["zoom", TOOL, "/opt/vendor", "for a person to bring to vega"] {
        assert!(text.contains(words), "{words}: {text}");
    }
    // No flag removes what nobody offers again; it is named as undecided.
    assert!(text.contains("not decided: own-deb, /opt/own"), "{text}");
    assert!(is_installed(&lab, VEGA, "own-deb") && inside(&lab, VEGA, "/opt/own/x").exists());
    assert!(!inside(&lab, VEGA, TOOL).exists() && !is_installed(&lab, VEGA, "zoom"));
    let recipes = format!(
        "packages: {{ left_alone: [\"/opt/own\", own-deb], recipes: {{ {TOOL}: \"cp /bin/true {TOOL}\", \
         zoom: \"dpkg --install /srv/zoom.deb\", /opt/vendor: \"echo no luck >&2; exit 3\" }} }}\n"
    );
    lab.configure_with(ATLAS, &format!("{CONFIG}{recipes}"), FILTER);
    let deb = inside(&lab, ATLAS, "/srv/byhand/zoom_6.0_all.deb");
    fs::copy(deb, inside(&lab, VEGA, "/srv/zoom.deb")).expect("room");
    let text = sync(&lab, &["--apply-package-installs"]).expect(1).text();
    assert!(text.contains("no luck"), "{text}");
    assert!(
        inside(&lab, VEGA, TOOL).exists() && is_installed(&lab, VEGA, "zoom"),
        "{text}"
    );
    // Only what failed is left, and no gate is in the way of the next run.
    let flags = ["--allow-out-of-order", "--apply-package-installs"];
    let text = lab.sync(&flags).expect(1).text();
    assert!(!text.contains("zoom") && text.contains("no luck"), "{text}");
    // The recipe brought another program than atlas has, and an older one would be no reason to run it.
    let told = format!("{TOOL}, which belongs to no package: changed ");
    assert!(text.contains(&told), "{text}");
}

#[test]
fn a_review_at_forty_columns_installs_skips_and_notes_what_belongs_to_a_machine() {
    let Some(lab) = Lab::fresh() else { return };
    world(&lab);
    install(&lab, ATLAS, &["simple", "asks", "needs-virtual"]);
    install(&lab, VEGA, &["mine", "held"]);
    let command =
        "pc-switcher sync vega --allow-first-sync --allow-out-of-order --allow-incomplete";
    let mut terminal = Terminal::open(&lab, (24, 40), command);
    terminal.until_words("Software for vega");
    terminal.until("the first row", |terminal| {
        terminal
            .screen()
            .iter()
            .any(|line| line.contains("❯ ●") && line.contains("asks"))
    });
    assert_eq!(terminal.wrapped(), Vec::<String>::new());
    // asks: yes; needs-virtual: not now; simple: yes. held: removed; mine: vega's alone.
    // Keys that come all at once, as from one that is held down, are all heard: down, and up again.
    terminal.send("\u{1b}[B\u{1b}[Ayny");
    terminal.send("yx\r");
    let status = terminal.end(|_| {});
    assert_eq!(status, Some(0), "{}", terminal.text());
    let after = state(&lab, VEGA);
    let has = |name: &str| {
        after
            .iter()
            .any(|line| line.split('\t').next() == Some(name))
    };
    assert!(has("asks") && has("simple") && has("mine"), "{after:?}");
    assert!(
        !has("needs-virtual") && !is_installed(&lab, VEGA, "held"),
        "{after:?}"
    );
    let marks = fs::read_to_string(inside(
        &lab,
        VEGA,
        "/var/lib/pc-switcher/package-marks.json",
    ));
    assert!(marks.expect("it is there").contains("mine"));
    // What was noted is not asked about again, and no flag removes it.
    let text = sync(&lab, &BOTH).expect(0).text();
    assert!(is_installed(&lab, VEGA, "mine"), "{text}");
    assert!(
        is_installed(&lab, VEGA, "needs-virtual"),
        "it was only put off: {text}"
    );
}

#[test]
fn a_review_that_is_stopped_changes_nothing() {
    let Some(lab) = Lab::fresh() else { return };
    world(&lab);
    install(&lab, ATLAS, &["simple"]);
    let before = state(&lab, VEGA);
    let command =
        "pc-switcher sync vega --allow-first-sync --allow-out-of-order --allow-incomplete";
    let mut terminal = Terminal::open(&lab, (24, 80), command);
    terminal.until_words("Install on vega");
    terminal.send("\u{3}");
    assert_eq!(terminal.end(|_| {}), Some(130), "{}", terminal.text());
    assert_eq!(state(&lab, VEGA), before);
}

#[test]
fn configuration_that_a_person_changed_stays_and_is_named() {
    let Some(lab) = Lab::fresh() else { return };
    let world = world(&lab);
    let offer = |host: &str, version: &str, content: &'static str| {
        let mut all = distribution_packages();
        all.push(Deb::new("conf", version).conffile("/etc/conf.conf", content));
        offer(&lab, host, &world, &all);
    };
    offer(VEGA, "1.0", "one\n");
    install(&lab, VEGA, &["conf"]);
    write(&lab, VEGA, "/etc/conf.conf", "mine\n");
    // Removed and not purged: its configuration stays, and dpkg remembers what it shipped.
    lab.exec(VEGA, &["apt-get", "-qy", "remove", "conf"]).ok();
    offer(VEGA, "2.0", "two\n");
    offer(ATLAS, "2.0", "two\n");
    install(&lab, ATLAS, &["conf"]);
    let text = sync(&lab, &BOTH).expect(0).text();
    assert!(is_installed(&lab, VEGA, "conf"), "{text}");
    let now = fs::read_to_string(inside(&lab, VEGA, "/etc/conf.conf"));
    assert_eq!(now.expect("it is there"), "mine\n", "{text}");
    assert!(text.contains("/etc/conf.conf stays as it is"), "{text}");
}

/// Both machines fetch from a place, as from a server, and atlas keeps what it fetched.
fn with_fetched_packages(lab: &Lab) {
    world(lab);
    // The very same files at both: a package built twice has another hash.
    let place = |host: &str| inside(lab, host, "/srv/debian");
    fs::remove_dir_all(place(VEGA)).expect("root may");
    let copied = Command::new("cp")
        .arg("-a")
        .arg(place(ATLAS))
        .arg(place(VEGA))
        .status();
    assert!(copied.expect("cp runs").success());
    let list = "deb [signed-by=/usr/share/keyrings/debian-archive-test.gpg] copy:/srv/debian ./\n";
    for host in [ATLAS, VEGA] {
        write(lab, host, "/etc/apt/sources.list", list);
        // An index of `file:` is a link to the place, and apt keeps it while the place says nothing new.
        fs::remove_dir_all(inside(lab, host, "/var/lib/apt/lists")).expect("root may");
        lab.exec(host, &["apt-get", "-q", "update"]).ok();
    }
    install(lab, ATLAS, &["simple"]);
    let cached = inside(lab, ATLAS, "/var/cache/apt/archives/simple_1.0_all.deb");
    assert!(cached.exists(), "apt keeps what it fetched");
    // vega cannot reach the place any more.
    fs::remove_dir_all(inside(lab, VEGA, "/srv/debian")).expect("root may");
    let config = format!("{CONFIG}packages: {{ share_cache: true }}\n");
    lab.configure_with(ATLAS, &config, FILTER);
}

#[test]
fn package_files_travel_to_a_machine_without_a_network() {
    let Some(lab) = Lab::fresh() else { return };
    with_fetched_packages(&lab);
    let text = sync(&lab, &BOTH).expect(0).text();
    assert!(
        is_installed(&lab, VEGA, "simple") && is_installed(&lab, VEGA, "dep"),
        "{text}"
    );
    assert!(text.contains("came from the cache of atlas"), "{text}");
}

#[test]
fn a_package_file_that_is_not_what_the_index_says_does_not_travel() {
    let Some(lab) = Lab::fresh() else { return };
    with_fetched_packages(&lab);
    let cached = inside(&lab, ATLAS, "/var/cache/apt/archives/simple_1.0_all.deb");
    let mut content = fs::read(&cached).expect("it is there");
    let last = content.len() - 1;
    content[last] ^= 1;
    fs::write(&cached, content).expect("root may");
    let text = sync(&lab, &BOTH).expect(1).text();
    assert!(!is_installed(&lab, VEGA, "simple"), "{text}");
    // The others, which are whole, did.
    assert!(text.contains("2 of 3 package files came"), "{text}");
    let left = inside(&lab, VEGA, "/var/cache/apt/archives/simple_1.0_all.deb");
    assert!(!left.exists(), "{text}");
}

#[test]
fn two_thousand_packages_are_planned_in_time() {
    let Some(lab) = Lab::fresh() else { return };
    let world = world(&lab);
    let names: Vec<String> = (0..2300).map(|n| format!("many-{n}")).collect();
    // Known to apt and to dpkg, as if they had been installed one by one.
    let stanza = |name: &String| {
        format!(
            "Package: {name}\nVersion: 1.0\nArchitecture: all\n\
             Maintainer: Many <many@example.invalid>\nDescription: made for a test\n"
        )
    };
    let hash = "0".repeat(64);
    let index: Vec<String> = (names.iter())
        .map(|name| {
            let stanza = stanza(name);
            format!("{stanza}Filename: ./{name}.deb\nSize: 1\nSHA256: {hash}\n\n")
        })
        .collect();
    let index = index.concat();
    let installed: String = (names.iter())
        .map(|name| stanza(name).replacen('\n', "\nStatus: install ok installed\n", 1) + "\n")
        .collect();
    for host in [ATLAS, VEGA] {
        crate::support::repo::publish_with(
            &lab,
            host,
            "/srv/debian",
            "Debian",
            &world.distribution,
            &distribution_packages(),
            &index,
        );
        lab.exec(host, &["apt-get", "-q", "update"]).ok();
        let path = inside(&lab, host, "/var/lib/dpkg/status");
        let status = fs::read_to_string(&path).expect("dpkg's");
        fs::write(&path, format!("{status}\n{installed}")).expect("root may");
        for name in &names {
            write(
                &lab,
                host,
                &format!("/var/lib/dpkg/info/{name}.list"),
                "/.\n",
            );
        }
    }
    install(&lab, ATLAS, &["simple"]);
    let planning = || {
        let flags = [
            "--progress",
            "json",
            "--dry-run",
            "--apply-package-installs",
        ];
        let text = sync(&lab, &flags).ok().stdout;
        assert!(text.contains("simple"), "{text}");
        phase_time(&text, "validate") + phase_time(&text, "plan")
    };
    // What the managers of one machine need themselves for the same answers, at the same time.
    let own = || {
        let begun = Instant::now();
        let each: Vec<&str> = names.iter().map(String::as_str).collect();
        let policy = [&["apt-cache", "policy"][..], &each[..]].concat();
        for argv in [
            &policy[..],
            &["dpkg-query", "--show"],
            &["apt-mark", "showmanual"],
        ] {
            lab.exec(VEGA, argv).ok();
        }
        begun.elapsed()
    };
    // Others work on this machine, too: the best of three is what it takes, and where everything takes
    // long it is the managers' own time that counts.
    let times: Vec<(Duration, Duration)> = (0..3).map(|_| (planning(), own())).collect();
    println!(
        "planning over 2300 packages on each of two machines, and the managers alone: {times:.2?}"
    );
    let is_in_time =
        |(planning, own): &(Duration, Duration)| *planning < Duration::from_secs(3).max(*own * 4);
    assert!(times.iter().any(is_in_time), "{times:?}");
}

/// How long a phase took, by the events of a run.
fn phase_time(events: &str, phase: &str) -> Duration {
    let phases: Vec<(String, jiff::Timestamp)> = (events.lines())
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter(|event| event["event"] == "phase")
        .map(|event| {
            let text = |key: &str| event[key].as_str().expect("a text").to_owned();
            (text("phase"), text("ts").parse().expect("a time"))
        })
        .collect();
    let at = phases
        .iter()
        .position(|(name, _)| name == phase)
        .expect("it began");
    let taken = phases[at + 1].1.duration_since(phases[at].1);
    Duration::try_from(taken).expect("forwards")
}
