//! Two folders on two subvolumes: what goes from one of them to the other is not sent, and arrives exactly.

use std::ops::Range;
use std::path::Path;
use std::process::Command;

use crate::support::awkward::{Random, unlock};
use crate::support::lab::{ATLAS, Lab, VEGA};
use crate::support::noise;
use crate::support::oracle;
use crate::support::random;
use crate::support::scenario::{AGAIN, FILTER, cost, make_private_paths, work};
use crate::support::seeds;

const MIB: u64 = 1 << 20;

/// Both folders are mirrored; `/srv` is on the subvolume of the root.
const YAML: &str = "sync_modules: { user_data: true }\n\
    disk: { preflight_minimum: \"1%\", runtime_minimum: \"1%\", warning_threshold: \"1%\", check_interval: 5 }\n\
    btrfs_snapshots: { subvolumes: [\"@\", \"@home\"] }\n\
    user_data: { folders: [ { path: /home, filter: home.filter }, { path: /srv } ] }\n";

/// What a sync costs after which both folders are equal.
#[track_caller]
fn both(lab: &Lab, args: &[&str]) -> u64 {
    let (bytes, how) = cost(lab, &[&["--allow-mass-delete"], args].concat());
    if args.is_empty() {
        assert_eq!(how, "anchor");
    }
    let [ours, theirs] = [ATLAS, VEGA].map(|host| lab.disk(host).join("@/srv"));
    oracle::assert_trees_equal(&ours, &theirs, &[]);
    bytes
}

/// A copy that shares data.
#[track_caller]
fn copy(from: &Path, to: &Path) {
    let copied = Command::new("cp")
        .args(["-aT", "--reflink=auto", "--"])
        .args([from, to])
        .status();
    assert!(copied.expect("cp is there").success(), "{}", from.display());
}

/// Copies and moves some things from one tree to the other; `numbers` make their names new ones.
#[track_caller]
fn cross(from: &Path, to: &Path, seed: u64, numbers: Range<usize>) {
    let mut random = Random::new(seed ^ 0x0063_726f_7373);
    for top in [from, to] {
        unlock(top).expect("root may");
    }
    for number in numbers {
        let all = random::list(from).expect("readable");
        let mut places = random::list(to).expect("readable");
        places.retain(|place| random::is_dir(place));
        places.push(to.to_owned());
        if all.is_empty() {
            break;
        }
        let path = random.pick(&all).clone();
        let fresh = random::name(&mut random, number);
        copy(&path, &random.pick(&places).join(fresh));
        if random.below(2) == 0 {
            random::remove(&path).expect("writable");
        }
    }
}

#[test]
fn what_goes_from_one_folder_to_another_is_not_sent() {
    let Some(lab) = Lab::fresh() else { return };
    let ours = work(&lab, ATLAS);
    let srv = lab.disk(ATLAS).join("@/srv");
    std::fs::create_dir(ours.join("d")).expect("writable");
    for n in 0..10 {
        noise(&ours.join(format!("d/{n}")), 2 * MIB - n * 1000);
    }
    lab.configure_with(ATLAS, YAML, FILTER);
    make_private_paths(&lab);
    both(&lab, &["--full-scan"]);
    // The program is installed there now, and need not be sent any more.
    let idle = both(&lab, &[]);

    // Either folder is carried out before the other one, and with a full scan nothing is different.
    for (from, to, args) in [
        ("/home/dev/work/d", "/srv/d", &[][..]),
        ("/srv/d", "/home/dev/work/d", &[]),
        ("/home/dev/work/d", "/srv/e", &["--full-scan"]),
    ] {
        lab.exec(ATLAS, &["mv", from, to]).ok();
        let moved = both(&lab, args).saturating_sub(idle);
        println!("20 MiB moved from {from} to {to}: {moved} bytes beyond {idle}");
        assert!(moved < 200_000, "{moved} from {from} to {to}");
    }

    copy(&srv.join("e"), &ours.join("copy"));
    noise(&srv.join("new"), 3 * MIB);
    copy(&srv.join("new"), &ours.join("too"));
    let copied = both(&lab, &[]).saturating_sub(idle);
    println!("20 MiB copied, and 3 MiB new in both folders: {copied} bytes");
    assert!(copied > 3 * MIB, "{copied}: not counted");
    assert!(copied < 3 * MIB + 250_000, "{copied}");
}

#[test]
fn random_changes_in_two_folders_and_from_one_to_the_other_are_synced_as_by_a_full_scan() {
    let Some(lab) = Lab::fresh() else { return };
    let [ours, theirs] = [ATLAS, VEGA].map(|host| [work(&lab, host), lab.disk(host).join("@/srv")]);
    for (top, seed) in ours.iter().zip(20..) {
        random::tree(top, seed, 100).expect("a tree");
    }
    lab.configure_with(ATLAS, YAML, FILTER);
    make_private_paths(&lab);
    both(&lab, &["--full-scan"]);
    for (round, seed) in seeds(&[1, 2]).into_iter().enumerate() {
        println!("seed {seed}");
        let first = 2_000_000 + round * 10;
        for (top, seed) in ours.iter().zip(seed * 10..) {
            random::mutate(top, seed, 20).expect("changes");
        }
        for (top, seed) in theirs.iter().zip(seed * 10 + 2..) {
            random::mutate(top, seed, 12).expect("changes");
        }
        cross(&ours[0], &ours[1], seed * 10 + 4, first..first + 5);
        cross(&ours[1], &ours[0], seed * 10 + 5, first + 5..first + 10);
        both(&lab, &[]);
        let full = lab.sync(&[&AGAIN[..], &["--dry-run", "--full-scan"]].concat());
        assert!(
            full.text().contains("user_data: nothing to change"),
            "{}",
            full.text()
        );
    }
}
