//! There and back again, with edits on each side in between.

use std::fs;

use crate::support::awkward;
use crate::support::lab::{ATLAS, Lab, VEGA};
use crate::support::oracle;
use crate::support::random;
use crate::support::scenario::{DONE, FILTER, PRIVATE, sync_and_compare, work};
use crate::support::seeds;

#[test]
fn edits_on_each_side_travel_to_the_other() {
    let Some(lab) = Lab::fresh() else { return };
    lab.configure(ATLAS, FILTER);
    awkward::build(&lab.dev(ATLAS)).expect("the awkward home");
    random::tree(&work(&lab, ATLAS), 5, 300).expect("a tree");
    sync_and_compare(&lab, &[]);

    // The person opens vega, works there, and syncs back: with the program the sync installed.
    lab.configure(VEGA, FILTER);
    let letter = "documents/letter.txt";
    fs::write(lab.dev(VEGA).join(letter), "written on vega\n").expect("writable");
    random::mutate(&work(&lab, VEGA), 6, 60).expect("changes");
    let back = lab.sync_from(VEGA, &["--allow-mass-delete", "--allow-conflicts"]);
    assert!(DONE.contains(&back.status), "{}", back.text());
    oracle::assert_homes_equal(&lab, PRIVATE);
    lab.assert_nothing_left_running();

    random::mutate(&work(&lab, ATLAS), 7, 60).expect("changes");
    // In order: the last sync went the other way, so no gate is in the way.
    sync_and_compare(&lab, &["--allow-mass-delete", "--allow-conflicts"]);
}

#[test]
fn random_edits_on_either_side_travel_back_and_forth() {
    let Some(lab) = Lab::fresh() else { return };
    for host in [ATLAS, VEGA] {
        lab.configure(host, FILTER);
    }
    let (atlas, vega) = (work(&lab, ATLAS), work(&lab, VEGA));
    random::tree(&atlas, 8, 300).expect("a tree");
    sync_and_compare(&lab, &[]);
    for seed in seeds(&[1, 2, 3]) {
        println!("seed {seed}");
        // What is edited where it is about to be replaced loses; what is edited where it is read wins.
        random::mutate(&vega, seed * 10, 60).expect("changes");
        if seed % 2 == 0 {
            random::mutate(&atlas, seed * 10 + 1, 30).expect("changes");
        }
        let back = lab.sync_from(VEGA, &["--allow-mass-delete", "--allow-conflicts"]);
        assert!(DONE.contains(&back.status), "{}", back.text());
        oracle::assert_homes_equal(&lab, PRIVATE);
        random::mutate(&atlas, seed * 10 + 2, 60).expect("changes");
        if seed % 2 == 1 {
            random::mutate(&vega, seed * 10 + 3, 30).expect("changes");
        }
        sync_and_compare(&lab, &["--allow-mass-delete", "--allow-conflicts"]);
    }
}
