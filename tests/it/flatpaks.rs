//! flatpak's software, with the machines' real flatpak and a real signed repository.

use std::fs;

use crate::support::hub::{APP, KEY, URL, bytes, flatpak, make, refs, use_hub};
use crate::support::lab::{ATLAS, Lab, Output, VEGA};
use crate::support::repo::{inside, write};
use crate::support::scenario::FILTER;

const CONFIG: &str = "sync_modules: { packages: true }\n\
    disk: { preflight_minimum: \"1%\", runtime_minimum: \"1%\", warning_threshold: \"1%\" }\n\
    btrfs_snapshots: { subvolumes: [\"@\", \"@home\"] }\n";

const BOTH: [&str; 2] = ["--apply-package-installs", "--apply-package-removals"];
const INSTALL: [&str; 4] = ["install", "--system", "--noninteractive", "--assumeyes"];
const TRUSTED: &str = "/var/lib/flatpak/repo/hub.trustedkeys.gpg";

fn world(lab: &Lab) {
    for host in [ATLAS, VEGA] {
        lab.configure_with(host, CONFIG, FILTER);
    }
    make(lab);
    use_hub(lab, ATLAS, "hub");
}

fn install(lab: &Lab, host: &str, names: &[&str]) {
    let argv = [&INSTALL[..], &["hub"], names].concat();
    flatpak(lab, host, &argv);
}

fn sync(lab: &Lab, flags: &[&str]) -> Output {
    lab.sync(&[&["--allow-out-of-order", "--allow-incomplete"], flags].concat())
}

#[test]
fn apps_arrive_with_their_remote_its_key_pins_and_masks_and_then_nothing_is_left_to_do() {
    let Some(lab) = Lab::fresh() else { return };
    world(&lab);
    // Two branches of one app, a runtime somebody asked for, and something only vega has.
    let sdk = "runtime/org.test.Sdk/x86_64/1";
    install(&lab, ATLAS, &[APP, "app/org.test.App/x86_64/beta", sdk]);
    flatpak(&lab, ATLAS, &["mask", "--system", "org.test.Never"]);
    let before = inside(&lab, VEGA, "/var/lib/flatpak/repo/config").exists();
    let text = sync(&lab, &[&BOTH[..], &["--dry-run"]].concat()).text();
    for words in [
        "org.test.App stable",
        "org.test.App beta",
        "remote hub",
        URL,
        "mask org.test.Never",
    ] {
        assert!(text.contains(words), "{words}: {text}");
    }
    assert_eq!(
        inside(&lab, VEGA, "/var/lib/flatpak/repo/config").exists(),
        before
    );
    let text = sync(&lab, &BOTH).expect(0).text();
    assert_eq!(refs(&lab, ATLAS), refs(&lab, VEGA), "{text}");
    assert!(refs(&lab, VEGA).len() >= 4, "{text}");
    assert_eq!(
        bytes(&lab, ATLAS, TRUSTED),
        bytes(&lab, VEGA, TRUSTED),
        "{text}"
    );
    assert!(bytes(&lab, VEGA, TRUSTED).is_some());
    for what in ["pin", "mask"] {
        let (ours, theirs) = (
            flatpak(&lab, ATLAS, &[what, "--system"]),
            flatpak(&lab, VEGA, &[what, "--system"]),
        );
        assert_eq!(ours, theirs, "{what}");
        assert!(!ours.trim().is_empty(), "{what}");
    }
    let again = sync(&lab, &BOTH).expect(0).text();
    assert!(again.contains("nothing to change"), "{again}");
    // And back again: what was removed here goes there, and only when a flag says so.
    flatpak(
        &lab,
        ATLAS,
        &["uninstall", "--system", "-y", "--noninteractive", APP],
    );
    let text = sync(&lab, &["--apply-package-installs"]).expect(8).text();
    assert!(
        refs(&lab, VEGA)
            .iter()
            .any(|r| r.contains("App/x86_64/stable")),
        "{text}"
    );
    let text = sync(&lab, &BOTH).expect(0).text();
    assert!(
        !refs(&lab, VEGA)
            .iter()
            .any(|r| r.contains("App/x86_64/stable")),
        "{text}"
    );
    assert!(
        refs(&lab, VEGA)
            .iter()
            .any(|r| r.contains("App/x86_64/beta")),
        "{text}"
    );
}

#[test]
fn a_remote_of_the_same_name_at_another_place_gives_nothing_and_loses_nothing() {
    let Some(lab) = Lab::fresh() else { return };
    world(&lab);
    install(&lab, ATLAS, &[APP]);
    // On vega `hub` is a copy elsewhere, and something of vega's own comes from it.
    lab.exec(VEGA, &["cp", "-a", "/srv/hub", "/srv/other"]).ok();
    let import = format!("--gpg-import={KEY}");
    flatpak(
        &lab,
        VEGA,
        &[
            "remote-add",
            "--system",
            &import,
            "hub",
            "file:///srv/other",
        ],
    );
    install(&lab, VEGA, &["app/org.test.Other/x86_64/stable"]);
    let text = sync(&lab, &["--apply-package-installs"]).text();
    assert!(text.contains("is another place there"), "{text}");
    let config = fs::read_to_string(inside(&lab, VEGA, "/var/lib/flatpak/repo/config"));
    assert!(config.expect("it is there").contains("file:///srv/other"));
    assert!(
        !refs(&lab, VEGA).iter().any(|r| r.contains("org.test.App")),
        "{text}"
    );
    // Without that, the remote follows the source.
    let own = "app/org.test.Other/x86_64/stable";
    flatpak(
        &lab,
        VEGA,
        &["uninstall", "--system", "-y", "--noninteractive", own],
    );
    let text = sync(&lab, &["--apply-package-installs"]).text();
    assert!(
        refs(&lab, VEGA).iter().any(|r| r.contains("org.test.App")),
        "{text}"
    );
    let config = fs::read_to_string(inside(&lab, VEGA, "/var/lib/flatpak/repo/config"));
    assert!(config.expect("it is there").contains(URL), "{text}");
}

#[test]
fn a_key_that_does_not_fit_fails_the_apps_of_its_remote_by_name_and_apt_goes_on() {
    let Some(lab) = Lab::fresh() else { return };
    world(&lab);
    install(&lab, ATLAS, &[APP]);
    fs::remove_dir_all(inside(&lab, VEGA, "/srv/hub")).expect("root may");
    let text = sync(&lab, &BOTH).expect(1).text();
    assert!(text.contains("org.test.App"), "{text}");
    assert!(text.contains("flatpak"), "{text}");
    assert!(refs(&lab, VEGA).is_empty(), "{text}");
    assert!(!text.contains("apt did not answer"), "{text}");
}

#[test]
fn a_flatpak_that_does_not_answer_plans_no_removal_and_one_that_is_missing_is_told() {
    let Some(lab) = Lab::fresh() else { return };
    world(&lab);
    use_hub(&lab, VEGA, "hub");
    install(&lab, VEGA, &[APP]);
    let path = "/usr/local/bin/flatpak";
    for script in ["exit 2", "exit 0", "echo broken >&2; exit 1", "kill -9 $$"] {
        write(&lab, ATLAS, path, format!("#!/bin/sh\n{script}\n"));
        lab.exec(ATLAS, &["chmod", "755", path]).ok();
        let text = sync(&lab, &BOTH).expect(1).text();
        assert!(text.contains("flatpak did not answer"), "{script}: {text}");
        assert!(!refs(&lab, VEGA).is_empty(), "{script}: {text}");
        lab.exec(ATLAS, &["rm", path]).ok();
    }
    lab.exec(ATLAS, &["mv", "/usr/bin/flatpak", "/usr/bin/flatpak.away"])
        .ok();
    let text = sync(&lab, &BOTH).expect(0).text();
    assert!(text.contains("flatpak is on vega only"), "{text}");
    assert!(!refs(&lab, VEGA).is_empty(), "{text}");
}

#[test]
fn a_persons_own_apps_come_for_that_person() {
    let Some(lab) = Lab::fresh() else { return };
    world(&lab);
    let import = format!("--gpg-import={KEY}");
    let as_dev = |host: &str, arguments: &[&str]| {
        let argv = [&["flatpak"], arguments].concat();
        lab.as_dev(host, &argv).ok().stdout
    };
    as_dev(ATLAS, &["remote-add", "--user", &import, "hub", URL]);
    as_dev(
        ATLAS,
        &["install", "--user", "--noninteractive", "-y", "hub", APP],
    );
    let text = sync(&lab, &BOTH).expect(0).text();
    let list = ["list", "--user", "--columns=ref,origin"];
    assert_eq!(as_dev(ATLAS, &list), as_dev(VEGA, &list), "{text}");
    assert!(as_dev(VEGA, &list).contains("org.test.App"), "{text}");
    let store = lab.dev(VEGA).join(".local/share/flatpak");
    let owner = std::os::unix::fs::MetadataExt::uid(&fs::metadata(store).expect("it is there"));
    assert_eq!(owner, 1000, "it is dev's own");
    assert!(refs(&lab, VEGA).is_empty(), "not for everybody");
    let again = sync(&lab, &BOTH).expect(0).text();
    assert!(again.contains("nothing to change"), "{again}");
}

#[test]
fn one_without_a_place_is_told_two_installations_have_one_each_and_a_filter_comes_along() {
    let Some(lab) = Lab::fresh() else { return };
    world(&lab);
    let (other, beta) = (
        "app/org.test.Other/x86_64/stable",
        "app/org.test.App/x86_64/beta",
    );
    use_hub(&lab, VEGA, "hub");
    // What nobody offers any more: on both machines, and on atlas alone. (What they run on has its place.)
    let platform = "runtime/org.test.Platform/x86_64/1";
    for host in [ATLAS, VEGA] {
        install(&lab, host, &[platform]);
        flatpak(&lab, host, &["pin", "--system", "--remove", platform]);
    }
    let orphans = |host: &str, names: &[&str]| {
        use_hub(&lab, host, "gone");
        flatpak(&lab, host, &[&INSTALL[..], &["gone"], names].concat());
        let argv = ["remote-delete", "--system", "--force", "gone"];
        flatpak(&lab, host, &argv);
    };
    orphans(ATLAS, &[other, beta]);
    orphans(VEGA, &[other]);
    // The same app for everybody and for one person, from a place of which little is taken.
    let filter = "/etc/flatpak/hub.filter";
    let rules = "deny *\nallow runtime/org.test.Platform/*/*\nallow app/org.test.App/*\n";
    write(&lab, ATLAS, filter, rules);
    let option = format!("--filter={filter}");
    flatpak(&lab, ATLAS, &["remote-modify", "--system", &option, "hub"]);
    install(&lab, ATLAS, &[APP]);
    let as_dev = |host: &str, arguments: &[&str]| {
        let argv = [&["flatpak"], arguments].concat();
        lab.as_dev(host, &argv).ok().stdout
    };
    let import = format!("--gpg-import={KEY}");
    as_dev(ATLAS, &["remote-add", "--user", &import, "hub", URL]);
    let quiet = ["install", "--user", "--noninteractive", "-y", "hub", APP];
    as_dev(ATLAS, &quiet);
    let text = sync(&lab, &BOTH).expect(0).text();
    let told = |line: &&str| line.contains("App beta") && line.contains("by hand");
    assert!(text.lines().any(|line| told(&line)), "{text}");
    let there = refs(&lab, VEGA);
    let has = |name: &str| there.iter().any(|line| line.contains(name));
    assert!(
        has("App/x86_64/stable") && has("Other/x86_64/stable"),
        "{text}"
    );
    assert!(!has("beta"), "{text}");
    let list = ["list", "--user", "--columns=ref,origin"];
    assert_eq!(as_dev(ATLAS, &list), as_dev(VEGA, &list), "{text}");
    assert_eq!(bytes(&lab, VEGA, filter).as_deref(), Some(rules.as_bytes()));
    let remotes = ["remotes", "--system", "--columns=name,filter"];
    let own = flatpak(&lab, VEGA, &remotes);
    assert!(own.contains(filter), "{own}");
    let again = sync(&lab, &BOTH).expect(0).text();
    assert!(again.contains("nothing to change"), "{again}");
}
