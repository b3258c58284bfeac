//! Software of another architecture than the machine's own, with the machines' real apt and dpkg: the
//! architecture comes with the first package that needs it, and goes when there is none.

use std::collections::BTreeSet;
use std::fs;

use crate::packages::{BOTH, CONFIG, install, state, sync};
use crate::support::lab::{ATLAS, Lab, VEGA};
use crate::support::repo::{Deb, Key, inside, own_architecture, publish_suite, write};
use crate::support::scenario::FILTER;

const LIST: &str = "/var/lib/dpkg/arch";
const VENDOR_LIST: &str = "/etc/apt/sources.list.d/vendor.list";
const VENDOR_KEY: &str = "/usr/share/keyrings/vendor.gpg";
const DEBIAN_KEY: &str = "/usr/share/keyrings/debian-archive-test.gpg";

/// An architecture that is not the machines' own.
fn other() -> &'static str {
    match own_architecture() {
        "i386" => "armhf",
        _ => "i386",
    }
}

/// What is written here for `amd64` machines that get `i386`, for these and the architecture they get.
fn here(text: &str) -> &'static str {
    let text = text.replace("i386", other());
    text.replace("amd64", own_architecture()).leak()
}

struct World {
    distribution: Key,
    vendor: Key,
}

fn distribution_packages() -> Vec<Deb> {
    let pair = |architecture| {
        Deb::new("pair", "1.0")
            .of(architecture)
            .field("Multi-Arch: same")
    };
    vec![
        Deb::new("simple", "1.0"),
        Deb::new("lib", "1.0").of(here("i386")),
        Deb::new("game", "1.0")
            .of(here("i386"))
            .field("Depends: lib"),
        pair(here("amd64")),
        pair(here("i386")),
        Deb::new("kept", "1.0").of(here("i386")),
        Deb::new("launcher", "1.0")
            .of(here("amd64"))
            .field(here("Depends: runtime:i386")),
        Deb::new("runtime", "1.0").of(here("i386")),
        Deb::new("front", "1.0")
            .of(here("amd64"))
            .field("Depends: back"),
        Deb::new("back", "1.0")
            .of(here("i386"))
            .field("Multi-Arch: foreign"),
        Deb::new("mine", "1.0"),
        Deb::new("kicks", "1.0")
            .of(here("i386"))
            .field("Conflicts: mine"),
    ]
}

fn offer(lab: &Lab, host: &str, world: &World, architectures: &[&str]) {
    let distribution = ("Debian", &world.distribution);
    let debs = distribution_packages();
    publish_suite(lab, host, "/srv/debian", distribution, &debs, architectures);
}

/// Both machines with a distribution for two architectures; atlas has the second one, and uses a vendor.
fn world(lab: &Lab) -> World {
    let world = World {
        distribution: Key::new("distribution"),
        vendor: Key::new("vendor"),
    };
    let two = [here("amd64"), here("i386")];
    for host in [ATLAS, VEGA] {
        lab.configure_with(host, CONFIG, FILTER);
        offer(lab, host, &world, &two);
        let tool = Deb::new("vendor-tool", "2.0").of(here("i386"));
        publish_suite(
            lab,
            host,
            "/srv/vendor",
            ("Vendor", &world.vendor),
            &[tool],
            &two,
        );
        write(lab, host, DEBIAN_KEY, &world.distribution.public);
        let line = format!("deb [signed-by={DEBIAN_KEY}] file:/srv/debian stable main\n");
        write(lab, host, "/etc/apt/sources.list", line);
        let _ = fs::remove_file(inside(lab, host, "/etc/apt/sources.list.d/debian.sources"));
    }
    write(lab, ATLAS, VENDOR_KEY, &world.vendor.public);
    let line = format!("deb [signed-by={VENDOR_KEY}] file:/srv/vendor stable main\n");
    write(lab, ATLAS, VENDOR_LIST, line);
    lab.exec(ATLAS, &["dpkg", "--add-architecture", here("i386")])
        .ok();
    for host in [ATLAS, VEGA] {
        lab.exec(host, &["apt-get", "-q", "update"]).ok();
    }
    world
}

fn architectures(lab: &Lab, host: &str) -> String {
    let argv = ["dpkg", "--print-foreign-architectures"];
    lab.exec(host, &argv).ok().stdout.trim().to_owned()
}

/// What is installed, without versions and marks.
fn names(lab: &Lab, host: &str) -> BTreeSet<String> {
    (state(lab, host).iter())
        .filter_map(|line| line.split('\t').next())
        .map(str::to_owned)
        .collect()
}

/// What a failed run must leave as it was: apt's files and keys, and dpkg's list, which is not there.
fn files(lab: &Lab) -> String {
    let find = "find /etc/apt /usr/share/keyrings /var/lib/dpkg/arch -type f -exec sha256sum {} + 2>&1 | sort";
    lab.exec(VEGA, &["sh", "-c", find]).stdout
}

#[test]
fn an_architecture_comes_with_what_needs_it_and_goes_with_the_last_of_it() {
    let Some(lab) = Lab::fresh() else { return };
    world(&lab);
    let ours = [
        here("game:i386"),
        "pair",
        here("pair:i386"),
        here("kept:i386"),
        "launcher",
        here("vendor-tool:i386"),
        "simple",
    ];
    install(&lab, ATLAS, &ours);
    lab.exec(ATLAS, &["apt-mark", "hold", here("kept:i386")])
        .ok();
    // Asked for on one machine as that architecture's, on the other as the machine's own.
    install(&lab, VEGA, &["pair"]);
    let text = sync(&lab, &[&BOTH[..], &["--dry-run"]].concat()).text();
    for words in [
        here("architecture i386"),
        here("game:i386"),
        here("vendor-tool:i386"),
    ] {
        assert!(text.contains(words), "{words}: {text}");
    }
    assert!(!inside(&lab, VEGA, LIST).exists(), "{text}");
    let text = sync(&lab, &BOTH).expect(0).text();
    assert_eq!(state(&lab, ATLAS), state(&lab, VEGA), "{text}");
    let held = lab.exec(VEGA, &["apt-mark", "showhold"]).ok().stdout;
    assert_eq!(held.trim(), here("kept:i386"));
    assert_eq!(architectures(&lab, VEGA), here("i386"));
    let text = sync(&lab, &BOTH).expect(0).text();
    assert!(text.contains("nothing to change"), "{text}");

    // One of the pair goes, the other stays, and so does what is held on vega.
    let remove = |names: &[&str]| {
        let argv = [&["apt-get", "-qy", "--auto-remove", "remove"], names].concat();
        lab.exec(ATLAS, &argv).ok();
    };
    lab.exec(ATLAS, &["apt-mark", "unhold", here("kept:i386")])
        .ok();
    remove(&[here("pair:i386"), here("kept:i386")]);
    let text = sync(&lab, &BOTH).expect(0).text();
    assert!(
        text.contains(here("kept:i386: it is held on vega")),
        "{text}"
    );
    let mut expected = names(&lab, ATLAS);
    expected.insert(here("kept:i386").to_owned());
    assert_eq!(names(&lab, VEGA), expected, "{text}");
    assert_eq!(architectures(&lab, VEGA), here("i386"));

    // The last ones, on a machine that then is of one architecture.
    remove(&[here("game:i386"), "launcher", here("vendor-tool:i386")]);
    lab.exec(ATLAS, &["dpkg", "--remove-architecture", here("i386")])
        .ok();
    lab.exec(VEGA, &["apt-mark", "unhold", here("kept:i386")])
        .ok();
    let depended_on = [here("lib:i386"), here("runtime:i386")];
    let argv = [&["apt-mark", "manual"], &depended_on[..]].concat();
    lab.exec(VEGA, &argv).ok();
    let text = sync(&lab, &BOTH).expect(0).text();
    assert_eq!(state(&lab, ATLAS), state(&lab, VEGA), "{text}");
    assert_eq!(architectures(&lab, VEGA), "", "{text}");
    let text = sync(&lab, &BOTH).expect(0).text();
    assert!(text.contains("nothing to change"), "{text}");
}

#[test]
fn where_the_architecture_is_there_its_packages_are_others_than_the_machines_own() {
    let Some(lab) = Lab::fresh() else { return };
    world(&lab);
    lab.exec(VEGA, &["dpkg", "--add-architecture", here("i386")])
        .ok();
    lab.exec(VEGA, &["apt-get", "-q", "update"]).ok();
    install(&lab, ATLAS, &[here("pair:i386"), "simple"]);
    install(&lab, VEGA, &["pair", here("game:i386")]);
    // Without a yes to removals, nothing of vega's own is taken.
    let text = sync(&lab, &["--apply-package-installs"]).expect(8).text();
    for name in ["pair", here("pair:i386"), here("game:i386"), "simple"] {
        assert!(names(&lab, VEGA).contains(name), "{name}: {text}");
    }
    let told = |text: &str, name: &str| {
        text.lines()
            .any(|line| line.contains("not decided") && line.contains(name))
    };
    assert!(
        told(&text, here("game:i386")) && told(&text, "pair"),
        "{text}"
    );
    // What belongs to vega is marked by that very name.
    let mark = here(
        r#"{"version":1,"marks":{"apt":{"game:i386":{"text":"game","at":"2026-01-01T00:00:00Z"}}}}"#,
    );
    write(&lab, VEGA, "/var/lib/pc-switcher/package-marks.json", mark);
    let text = sync(&lab, &BOTH).expect(0).text();
    let there = names(&lab, VEGA);
    assert!(
        there.contains(here("game:i386")) && there.contains(here("pair:i386")),
        "{text}"
    );
    assert!(!there.contains("pair"), "{text}");
    assert_eq!(architectures(&lab, VEGA), here("i386"), "{text}");
    let text = sync(&lab, &BOTH).expect(0).text();
    assert!(text.contains("nothing to change"), "{text}");
}

#[test]
fn when_the_refresh_fails_the_architecture_is_gone_again_and_what_needs_none_of_it_comes() {
    let Some(lab) = Lab::fresh() else { return };
    let world = world(&lab);
    install(
        &lab,
        ATLAS,
        &[here("vendor-tool:i386"), here("game:i386"), "simple"],
    );
    let before = files(&lab);
    assert!(!before.contains("  /var/lib/dpkg/arch"), "{before}");
    // The vendor's place is gone on vega.
    fs::remove_dir_all(inside(&lab, VEGA, "/srv/vendor")).expect("root may");
    let text = sync(&lab, &BOTH).expect(1).text();
    assert_eq!(files(&lab), before, "{text}");
    assert!(
        text.contains(here("/etc/apt, architecture i386: put back as it was")),
        "{text}"
    );
    assert_eq!(
        names(&lab, VEGA),
        BTreeSet::from(["simple".to_owned()]),
        "{text}"
    );

    // It is back; the distribution's index for the other architecture is not what its list says.
    let tool = Deb::new("vendor-tool", "2.0").of(here("i386"));
    let two = [here("amd64"), here("i386")];
    publish_suite(
        &lab,
        VEGA,
        "/srv/vendor",
        ("Vendor", &world.vendor),
        &[tool],
        &two,
    );
    let index = here("/srv/debian/dists/stable/main/binary-i386/Packages");
    write(&lab, VEGA, index, "Package: game\n");
    let text = sync(&lab, &BOTH).expect(1).text();
    assert_eq!(files(&lab), before, "{text}");
    assert!(
        text.contains(here("architecture i386: put back as it was")),
        "{text}"
    );

    // It has none at all for it: that fails no refresh, and nothing comes of it.
    lab.exec(
        ATLAS,
        &["apt-get", "-qy", "remove", here("vendor-tool:i386")],
    )
    .ok();
    offer(&lab, VEGA, &world, &[here("amd64")]);
    let text = sync(&lab, &BOTH).expect(1).text();
    assert_eq!(files(&lab), before, "{text}");
    assert!(
        text.contains(here("architecture i386: taken away again")),
        "{text}"
    );
    assert!(
        text.contains(here("game:i386: no package source here")),
        "{text}"
    );

    // Once it is well, all of it comes.
    offer(&lab, VEGA, &world, &two);
    let text = sync(&lab, &BOTH).expect(0).text();
    assert_eq!(state(&lab, ATLAS), state(&lab, VEGA), "{text}");
}

#[test]
fn what_a_package_of_an_architecture_that_was_not_there_would_take_is_found_before_it_comes() {
    let Some(lab) = Lab::fresh() else { return };
    world(&lab);
    install(&lab, ATLAS, &[here("kicks:i386"), "simple"]);
    install(&lab, VEGA, &["mine"]);
    let before = files(&lab);
    let installs = ["--apply-package-installs"];
    let text = sync(&lab, &installs).expect(1).text();
    let refused = here("kicks:i386: it would also remove mine");
    assert!(text.contains(refused), "{text}");
    let expected = ["mine", "simple"].map(str::to_owned);
    assert_eq!(names(&lab, VEGA), BTreeSet::from(expected), "{text}");
    assert_eq!(files(&lab), before, "the architecture is of no use: {text}");
    // One of the machine's own that only says `Depends: back`, which is there of the other alone.
    install(&lab, ATLAS, &["front"]);
    assert!(names(&lab, ATLAS).contains(here("back:i386")));
    let text = sync(&lab, &installs).expect(1).text();
    assert!(text.contains(refused), "{text}");
    let expected = ["mine", "simple", "front", here("back:i386")].map(str::to_owned);
    assert_eq!(names(&lab, VEGA), BTreeSet::from(expected), "{text}");
    assert_eq!(architectures(&lab, VEGA), other(), "{text}");
    // Now that it is there, the plan itself knows, and leaves it to a person.
    let text = sync(&lab, &installs).expect(8).text();
    assert!(
        text.contains(here("not decided: kicks:i386")) && names(&lab, VEGA).contains("mine"),
        "{text}"
    );
}
