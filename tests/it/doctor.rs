//! `doctor` on real machines: what it says of good ones and of bad ones, that it changes nothing, and that
//! its remedies help when they are copied.

use std::fs;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::awkward::chmod;
use crate::support::lab::{ATLAS, Kept, Lab, VEGA};
use crate::support::oracle;
use crate::support::scenario::FILTER;
use crate::support::told::{Changed, QUICK, told};

/// Where a sync installs the program, on a machine's disk.
const PROGRAM: &str = "@/usr/local/bin/pc-switcher";

/// A lab in which a sync would go through.
fn lab() -> Option<Kept> {
    let lab = Lab::kept()?;
    lab.configure_with(ATLAS, QUICK, FILTER);
    Some(lab)
}

/// The object that `--json` prints, and the checks in it that are not good.
fn looked(lab: &Lab, args: &[&str], status: i32) -> (Value, Vec<Value>) {
    let run = lab
        .pc_switcher(&[&["doctor", "--json"], args].concat())
        .expect(status);
    let object: Value = serde_json::from_str(&run.stdout).expect("one JSON object");
    assert_eq!(object["status"], status);
    let checks = object["checks"].as_array().expect("a list");
    let bad = checks
        .iter()
        .filter(|check| check["state"] != "ok")
        .cloned();
    let bad = bad.collect();
    (object, bad)
}

fn ids(checks: &[Value]) -> Vec<&str> {
    checks
        .iter()
        .filter_map(|check| check["id"].as_str())
        .collect()
}

/// The lines to copy of the one check of this name.
fn commands(checks: &[Value], id: &str) -> Vec<String> {
    let mut found = checks.iter().filter(|check| check["id"] == id);
    let check = found
        .next()
        .unwrap_or_else(|| panic!("no {id} in {checks:#?}"));
    assert_eq!(found.count(), 0, "{id} more than once");
    let lines = check["commands"].as_array().expect("a list");
    let lines = lines
        .iter()
        .map(|line| line.as_str().expect("text").to_owned());
    lines.collect()
}

#[test]
fn good_machines_are_good_and_nothing_is_changed_within_seconds() {
    let Some(lab) = lab() else { return };
    lab.configure(ATLAS, FILTER);
    let before = [ATLAS, VEGA].map(|host| oracle::generations(&lab, host));
    let logs = lab.logs();
    let since = Instant::now();
    told("doctor_good", lab.pc_switcher(&["doctor", "vega"]), 8);
    let took = since.elapsed();
    assert!(took < Duration::from_secs(30), "{took:?}");
    told("doctor_alone", lab.pc_switcher(&["doctor"]), 0);
    let (object, bad) = looked(&lab, &["vega"], 8);
    assert_eq!(
        (object["source"].as_str(), object["target"].as_str()),
        (Some("atlas"), Some("vega"))
    );
    assert_eq!(ids(&bad), ["history"], "the first sync asks");
    let after = [ATLAS, VEGA].map(|host| oracle::generations(&lab, host));
    for (before, after) in before.iter().zip(&after) {
        for subvolume in ["@home", ".snapshots"] {
            assert_eq!(before[subvolume], after[subvolume], "{subvolume} moved");
        }
        assert_eq!(before.len(), after.len(), "a subvolume came or went");
    }
    assert_eq!(lab.logs(), logs, "looking keeps no log");
    lab.assert_nothing_left_running();
}

#[test]
fn what_is_wrong_is_told_at_once_and_the_remedies_can_be_copied() {
    let Some(lab) = lab() else { return };
    let yaml = "sync_modules: { dummy_success: true }\nuser_dat: {}\n";
    lab.configure_with(ATLAS, yaml, FILTER);
    let nobody = Changed::to(lab.dev(VEGA).join(".ssh/authorized_keys"), "");
    told("doctor_no_login", lab.pc_switcher(&["doctor", "vega"]), 2);
    drop(nobody);

    lab.configure_with(
        ATLAS,
        &QUICK.replace("[\"@home\"]", "[\"@\", \"@home\", \"@data\"]"),
        FILTER,
    );
    lab.exec(VEGA, &["umount", "/.snapshots"]).ok();
    let much = lab.pc_switcher(&["doctor", "vega"]);
    let (_, bad) = looked(&lab, &["vega"], 3);
    told("doctor_much_wrong", much, 3);
    lab.configure_with(
        ATLAS,
        &QUICK.replace("[\"@home\"]", "[\"@\", \"@home\"]"),
        FILTER,
    );
    let plain: Vec<Value> = bad
        .into_iter()
        .filter(|c| c["message"].to_string().contains("plain"))
        .collect();
    for line in commands(&plain, "btrfs_snapshots") {
        lab.as_dev(VEGA, &["sh", "-c", &line]).ok();
    }
    let (_, bad) = looked(&lab, &["vega"], 8);
    assert_eq!(ids(&bad), ["history"]);
    lab.exec(
        VEGA,
        &[
            "sh",
            "-c",
            "mv /.snapshots.old /.snapshots && mount /.snapshots",
        ],
    )
    .ok();
}

#[test]
fn the_lines_for_sudo_and_for_a_changed_host_key_help() {
    let Some(lab) = lab() else { return };
    {
        let sudoers = lab.disk(VEGA).join("@/etc/sudoers.d/dev");
        let _asks = Changed::to(sudoers, "dev ALL=(ALL) ALL\n");
        // As a sync has left it there; without, the remedy begins with that.
        let (_, bad) = looked(&lab, &["vega"], 4);
        let remedy = bad[0]["remedy"].as_str().expect("text");
        assert!(remedy.contains("installs pc-switcher"), "{remedy}");
        let program = fs::read(lab.disk(ATLAS).join(PROGRAM)).expect("it is there");
        let _installed = Changed::to(lab.disk(VEGA).join(PROGRAM), program);
        chmod(&lab.disk(VEGA).join(PROGRAM), 0o755).expect("root may");
        let (_, bad) = looked(&lab, &["vega"], 4);
        for line in commands(&bad, "sudo") {
            lab.exec(VEGA, &["sh", "-c", &line]).ok();
        }
        let (_, bad) = looked(&lab, &["vega"], 8);
        assert_eq!(ids(&bad), ["history"]);
        lab.exec(VEGA, &["rm", "/etc/sudoers.d/pc-switcher"]).ok();
    }
    let known = lab.dev(ATLAS).join(".ssh/known_hosts");
    let own = lab.disk(ATLAS).join("@/etc/ssh/ssh_host_ed25519_key.pub");
    let own = fs::read_to_string(own).expect("atlas has one");
    let _wrong = Changed::to(known, format!("vega,10.77.0.2 {own}"));
    let (_, bad) = looked(&lab, &["vega"], 5);
    let lines = commands(&bad, "host_key");
    lab.as_dev(ATLAS, &["sh", "-c", &lines[0]]).ok();
    assert!(lines[1].starts_with("ssh "), "{lines:?}");
    let yes = format!("{} -o StrictHostKeyChecking=accept-new true", lines[1]);
    lab.as_dev(ATLAS, &["sh", "-c", &yes]).ok();
    let (_, bad) = looked(&lab, &["vega"], 8);
    assert_eq!(ids(&bad), ["history"]);
}
