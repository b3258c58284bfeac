//! Software, with the machines' real apt and real repositories made for the purpose.

use std::fs;
use std::os::fd::AsFd;

use crate::support::lab::{ATLAS, Lab, Output, VEGA};
use crate::support::repo::{Deb, Key, inside, publish, write};
use crate::support::scenario::FILTER;

pub(crate) const CONFIG: &str = "sync_modules: { packages: true }\n\
    disk: { preflight_minimum: \"1%\", runtime_minimum: \"1%\", warning_threshold: \"1%\" }\n\
    btrfs_snapshots: { subvolumes: [\"@\", \"@home\"] }\n";

pub(crate) const BOTH: [&str; 2] = ["--apply-package-installs", "--apply-package-removals"];

/// What the vendor's repository needs on a machine that uses it.
const VENDOR_LIST: &str = "/etc/apt/sources.list.d/vendor.list";
const VENDOR_KEY: &str = "/usr/share/keyrings/vendor.gpg";
const VENDOR_PIN: &str = "/etc/apt/preferences.d/vendor";

pub(crate) struct World {
    pub(crate) distribution: Key,
    pub(crate) vendor: Key,
}

/// Both machines with a distribution of a few packages; atlas also uses a vendor's.
pub(crate) fn world(lab: &Lab) -> World {
    let (distribution, vendor) = (Key::new("distribution"), Key::new("vendor"));
    let list = "deb [signed-by=/usr/share/keyrings/debian-archive-test.gpg] file:/srv/debian ./\n";
    for host in [ATLAS, VEGA] {
        lab.configure_with(host, CONFIG, FILTER);
        publish(
            lab,
            host,
            "/srv/debian",
            "Debian",
            &distribution,
            &distribution_packages(),
        );
        let tools = [
            Deb::new("vendor-tool", "2.0").field("Depends: dep"),
            Deb::new("shadow", "9.0"),
        ];
        publish(lab, host, "/srv/vendor", "Vendor", &vendor, &tools);
        write(
            lab,
            host,
            "/usr/share/keyrings/debian-archive-test.gpg",
            &distribution.public,
        );
        write(lab, host, "/etc/apt/sources.list", list);
        let _ = fs::remove_file(inside(lab, host, "/etc/apt/sources.list.d/debian.sources"));
        lab.exec(host, &["apt-get", "-q", "update"]).ok();
    }
    use_vendor(lab, ATLAS, &vendor);
    World {
        distribution,
        vendor,
    }
}

pub(crate) fn use_vendor(lab: &Lab, host: &str, key: &Key) {
    write(lab, host, VENDOR_KEY, &key.public);
    write(
        lab,
        host,
        VENDOR_LIST,
        format!("deb [signed-by={VENDOR_KEY}] file:/srv/vendor ./\n"),
    );
    write(
        lab,
        host,
        VENDOR_PIN,
        "Package: vendor-tool\nPin: release o=Vendor\nPin-Priority: 990\n",
    );
    lab.exec(host, &["apt-get", "-q", "update"]).ok();
}

pub(crate) fn distribution_packages() -> Vec<Deb> {
    vec![
        Deb::new("dep", "1.0"),
        Deb::new("extra", "1.0"),
        Deb::new("simple", "1.0")
            .field("Depends: dep")
            .field("Recommends: extra"),
        Deb::new("held", "1.0"),
        Deb::new("mine", "1.0"),
        Deb::new("shadow", "1.0"),
        Deb::new("virtual-one", "1.0").field("Provides: virtual"),
        Deb::new("needs-virtual", "1.0").field("Depends: virtual"),
        Deb::new("broken", "1.0").script("postinst", "echo it cannot be >&2; exit 7"),
        Deb::new("asks", "1.0").script("postinst", "read answer || true; test -z \"$answer\""),
        Deb::new("old-mta", "1.0")
            .field("Provides: mta")
            .field("Conflicts: mta"),
        Deb::new("new-mta", "1.0")
            .field("Provides: mta")
            .field("Conflicts: mta"),
        Deb::new("linux-image-test", "1.0"),
    ]
}

/// Has the distribution offer these on a machine from now on.
pub(crate) fn offer(lab: &Lab, host: &str, world: &World, debs: &[Deb]) {
    publish(
        lab,
        host,
        "/srv/debian",
        "Debian",
        &world.distribution,
        debs,
    );
    lab.exec(host, &["apt-get", "-q", "update"]).ok();
}

pub(crate) fn install(lab: &Lab, host: &str, names: &[&str]) {
    let argv = [&["apt-get", "-qy", "install"], names].concat();
    lab.exec(host, &argv).ok();
}

/// What is installed of the test's packages: name, with its architecture where that is foreign, whether asked for, whether held, version.
pub(crate) fn state(lab: &Lab, host: &str) -> Vec<String> {
    let lines = |argv: &[&str]| -> Vec<String> {
        lab.exec(host, argv)
            .ok()
            .stdout
            .lines()
            .map(str::to_owned)
            .collect()
    };
    let manual = lines(&["apt-mark", "showmanual"]);
    let own = format!(":{}", lines(&["dpkg", "--print-architecture"]).concat());
    let all = lines(&[
        "dpkg-query",
        "--show",
        "--showformat",
        "${Maintainer}\t${binary:Package}\t${Version}\t${db:Status-Abbrev}\n",
    ]);
    (all.iter())
        .filter_map(|line| line.strip_prefix("Test <test@example.invalid>\t"))
        .map(|line| line.replacen(&format!("{own}\t"), "\t", 1))
        .map(|line| {
            let name = line.split('\t').next().unwrap_or_default().to_owned();
            let asked = if manual.contains(&name) {
                "manual"
            } else {
                "auto"
            };
            format!("{} {asked}", line.trim())
        })
        .collect()
}

pub(crate) fn sync(lab: &Lab, flags: &[&str]) -> Output {
    lab.sync(&[&["--allow-out-of-order", "--allow-incomplete"], flags].concat())
}

#[test]
fn software_converges_with_its_sources_keys_pins_and_holds_and_then_nothing_is_left_to_do() {
    let Some(lab) = Lab::fresh() else { return };
    world(&lab);
    install(
        &lab,
        ATLAS,
        &[
            "simple",
            "vendor-tool",
            "held",
            "needs-virtual",
            "asks",
            "linux-image-test",
        ],
    );
    lab.exec(ATLAS, &["apt-mark", "hold", "held"]).ok();
    install(&lab, VEGA, &["mine", "dep"]);
    let text = sync(&lab, &BOTH).expect(0).text();
    let (ours, theirs) = (state(&lab, ATLAS), state(&lab, VEGA));
    let kernel = |line: &&String| !line.starts_with("linux-image");
    assert_eq!(
        ours.iter().filter(kernel).collect::<Vec<_>>(),
        theirs.iter().collect::<Vec<_>>(),
        "{text}"
    );
    assert!(
        theirs
            .iter()
            .any(|line| line.starts_with("extra") && line.ends_with("auto")),
        "{theirs:?}"
    );
    assert!(text.contains("left alone"), "{text}");
    for path in [VENDOR_LIST, VENDOR_KEY, VENDOR_PIN] {
        let (ours, theirs) = (inside(&lab, ATLAS, path), inside(&lab, VEGA, path));
        assert_eq!(fs::read(ours).ok(), fs::read(theirs).ok(), "{path}");
    }
    let again = sync(&lab, &BOTH).expect(0).text();
    assert!(again.contains("nothing to change"), "{again}");
}

#[test]
fn without_a_person_nothing_is_done_that_no_flag_allows_and_it_is_named() {
    let Some(lab) = Lab::fresh() else { return };
    world(&lab);
    install(&lab, ATLAS, &["simple", "new-mta"]);
    install(&lab, VEGA, &["mine", "old-mta"]);
    let before = state(&lab, VEGA);
    let text = sync(&lab, &[]).expect(8).text();
    assert_eq!(state(&lab, VEGA), before);
    for name in ["simple", "new-mta", "mine"] {
        assert!(text.contains(name), "{text}");
    }
    // What would cost something that was asked for there is for a person to allow, not for a flag.
    let text = sync(&lab, &["--apply-package-installs"]).expect(8).text();
    let after = state(&lab, VEGA);
    for (name, there) in [
        ("simple ", true),
        ("new-mta", false),
        ("old-mta", true),
        ("mine", true),
    ] {
        assert_eq!(
            after.iter().any(|l| l.replace('\t', " ").starts_with(name)),
            there,
            "{name}: {text}"
        );
    }
}

#[test]
fn a_dry_run_lists_what_would_be_done_and_does_none_of_it() {
    let Some(lab) = Lab::fresh() else { return };
    world(&lab);
    install(&lab, ATLAS, &["vendor-tool"]);
    let before = state(&lab, VEGA);
    let text = sync(&lab, &[&BOTH[..], &["--dry-run"]].concat()).text();
    for words in ["vendor-tool", VENDOR_LIST, VENDOR_KEY, VENDOR_PIN] {
        assert!(text.contains(words), "{words}: {text}");
    }
    assert_eq!(state(&lab, VEGA), before);
    assert!(!inside(&lab, VEGA, VENDOR_LIST).exists());
}

#[test]
fn a_broken_refresh_puts_every_file_back_and_fails_what_needed_it() {
    let Some(lab) = Lab::fresh() else { return };
    let world = world(&lab);
    install(&lab, ATLAS, &["vendor-tool", "simple"]);
    // The vendor's place is gone on vega, and its pin there is another.
    fs::remove_dir_all(inside(&lab, VEGA, "/srv/vendor")).expect("root may");
    write(
        &lab,
        VEGA,
        VENDOR_PIN,
        "Package: vendor-tool\nPin: release o=Nobody\nPin-Priority: 1\n",
    );
    let files = |lab: &Lab| {
        let find = "find /etc/apt /usr/share/keyrings -type f -exec sha256sum {} + | sort";
        lab.exec(VEGA, &["sh", "-c", find]).ok().stdout
    };
    let before = files(&lab);
    let text = sync(&lab, &BOTH).expect(1).text();
    assert_eq!(files(&lab), before, "{text}");
    assert!(
        text.contains("vendor-tool") && text.contains("put back"),
        "{text}"
    );
    let after = state(&lab, VEGA);
    assert!(
        after.iter().any(|line| line.starts_with("simple")),
        "what needed none of it comes: {text}"
    );
    drop(world);
}

#[test]
fn a_package_that_fails_fails_by_name_and_the_others_come() {
    let Some(lab) = Lab::fresh() else { return };
    world(&lab);
    lab.exec(ATLAS, &["sh", "-c", "apt-get -qy install broken || true"])
        .ok();
    // Finished by hand there, so that it counts as installed.
    let finish =
        "sed -i 's/exit 7/exit 0/' /var/lib/dpkg/info/broken.postinst && dpkg --configure -a";
    lab.exec(ATLAS, &["sh", "-c", finish]).ok();
    install(&lab, ATLAS, &["simple", "asks"]);
    let text = sync(&lab, &BOTH).expect(1).text();
    assert!(text.contains("broken"), "{text}");
    let after = state(&lab, VEGA);
    for name in ["simple", "asks"] {
        assert!(
            after
                .iter()
                .any(|line| line.starts_with(name) && line.contains("ii")),
            "{name}: {text}"
        );
    }
}

#[test]
fn a_vendors_package_does_not_pass_for_the_distributions() {
    let Some(lab) = Lab::fresh() else { return };
    let world = world(&lab);
    install(&lab, ATLAS, &["shadow=1.0"]);
    use_vendor(&lab, VEGA, &world.vendor);
    let text = sync(&lab, &BOTH).text();
    assert!(text.contains("not from the distribution"), "{text}");
    assert!(
        !state(&lab, VEGA)
            .iter()
            .any(|line| line.starts_with("shadow")),
        "{text}"
    );
}

#[test]
fn a_manager_that_does_not_answer_plans_no_removal() {
    let Some(lab) = Lab::fresh() else { return };
    world(&lab);
    install(&lab, VEGA, &["mine"]);
    for (program, script) in [
        ("dpkg-query", "exit 2"),
        ("dpkg-query", "exit 0"),
        ("apt-mark", "echo broken >&2; exit 1"),
        ("apt-mark", "exit 0"),
        ("dpkg", "echo"),
        ("apt-cache", "exit 0"),
        ("apt-cache", "kill -9 $$"),
    ] {
        let path = format!("/usr/local/bin/{program}");
        write(&lab, ATLAS, &path, format!("#!/bin/sh\n{script}\n"));
        lab.exec(ATLAS, &["chmod", "755", &path]).ok();
        let text = sync(&lab, &BOTH).expect(1).text();
        assert!(
            text.contains("apt did not answer"),
            "{program} {script}: {text}"
        );
        assert!(
            state(&lab, VEGA)
                .iter()
                .any(|line| line.starts_with("mine")),
            "{text}"
        );
        lab.exec(ATLAS, &["rm", &path]).ok();
    }
}

#[test]
fn a_lock_an_unfinished_dpkg_and_a_hold_on_nothing_are_said_before_anything_is_done() {
    let Some(lab) = Lab::fresh() else { return };
    world(&lab);
    lab.exec(ATLAS, &["apt-mark", "hold", "simple"]).ok();
    let text = sync(&lab, &BOTH).expect(3).text();
    assert!(text.contains("apt-mark unhold simple"), "{text}");
    lab.exec(ATLAS, &["apt-mark", "unhold", "simple"]).ok();
    lab.exec(VEGA, &["sh", "-c", "apt-get -qy install broken || true"])
        .ok();
    let text = sync(&lab, &BOTH).expect(3).text();
    assert!(text.contains("dpkg --configure -a"), "{text}");
    lab.exec(VEGA, &["dpkg", "--remove", "--force-all", "broken"])
        .ok();
    let lock = fs::File::options()
        .write(true)
        .open(inside(&lab, VEGA, "/var/lib/dpkg/lock-frontend"))
        .expect("dpkg's lock is there");
    rustix::fs::fcntl_lock(lock.as_fd(), rustix::fs::FlockOperation::LockExclusive)
        .expect("it is free");
    let text = sync(&lab, &BOTH).expect(3).text();
    assert!(text.contains("packages are being changed by"), "{text}");
}

#[test]
fn damaged_marks_stop_the_module_and_are_left_as_they_are() {
    let Some(lab) = Lab::fresh() else { return };
    world(&lab);
    install(&lab, VEGA, &["mine"]);
    let path = "/var/lib/pc-switcher/package-marks.json";
    lab.exec(
        VEGA,
        &["install", "-d", "-m", "700", "/var/lib/pc-switcher"],
    )
    .ok();
    write(&lab, VEGA, path, "{\"version\":1,\"marks\":{\"apt\":{\"mi");
    let text = sync(&lab, &BOTH).expect(1).text();
    assert!(text.contains(path), "{text}");
    assert!(
        state(&lab, VEGA)
            .iter()
            .any(|line| line.starts_with("mine")),
        "{text}"
    );
    let mark = "{\"version\":1,\"marks\":{\"apt\":{\"mine\":{\"text\":\"mine\",\"at\":\"2026-01-01T00:00:00Z\"}}}}";
    write(&lab, VEGA, path, mark);
    sync(&lab, &BOTH).expect(0);
    assert!(
        state(&lab, VEGA)
            .iter()
            .any(|line| line.starts_with("mine")),
        "it belongs to vega"
    );
}

#[test]
fn packages_after_user_data_and_another_release_are_refused() {
    let Some(lab) = Lab::fresh() else { return };
    let wrong = CONFIG.replace("packages: true", "user_data: true, packages: true");
    lab.configure_with(ATLAS, &wrong, FILTER);
    fs::write(lab.dev(ATLAS).join(".config/pc-switcher/root.filter"), "").expect("writable");
    let text = sync(&lab, &[]).expect(2).text();
    assert!(
        text.contains("packages must come before user_data"),
        "{text}"
    );
    lab.configure_with(ATLAS, CONFIG, FILTER);
    write(
        &lab,
        VEGA,
        "/usr/lib/os-release",
        "ID=debian\nVERSION_ID=\"99\"\nPRETTY_NAME=\"Debian 99\"\n",
    );
    let text = sync(&lab, &[]).expect(3).text();
    assert!(
        text.contains("Debian 99") && text.contains("--skip packages"),
        "{text}"
    );
}
