//! Directories that were moved on the source: moved on the target too, or made anew where they cannot be.

use std::fs;
use std::path::Path;

use rustix::fs::{CWD, RenameFlags, renameat_with};

use super::entry::Kind;
use super::tests::sh;
use super::tests_anchor::{Anchored, listed};
use super::tests_property::{number, random_rules};
use super::tests_random::{Random, grow, list, mutate, thaw};

/// Syncs once, has the source (and the target) changed, and syncs again.
fn after(
    setup: &str,
    rules: &str,
    on_source: &str,
    on_target: &str,
) -> Option<(Anchored, Vec<String>)> {
    let mut anchored = Anchored::new()?;
    rules.clone_into(&mut anchored.rules);
    let (from, to) = (anchored.lab.from.clone(), anchored.lab.to.clone());
    sh(&from, setup);
    anchored.sync("", "");
    sh(&from, on_source);
    sh(&to, on_target);
    let synced = anchored.sync("", "");
    assert_eq!(
        (synced.errors, synced.behind.len()),
        (0, 0),
        "{:?}",
        anchored.pair.complaints
    );
    anchored.judge(on_source);
    let lines = listed(&synced);
    Some((anchored, lines))
}

macro_rules! plans {
    ($setup:expr, $rules:expr, $source:expr, $target:expr, [$($line:expr),* $(,)?]) => {
        let Some((_, lines)) = after($setup, $rules, $source, $target) else { return };
        let expected: Vec<String> = vec![$($line.to_owned()),*];
        assert_eq!(lines, expected);
    };
}

const TREE: &str = "mkdir -p p/old/sub q; for n in 1 2 3; do echo $n >p/old/$n; echo $n >p/old/sub/$n; done; \
     touch -d @1 p q p/old p/old/sub";

#[test]
fn a_moved_directory_is_moved_and_nothing_else_is_done() {
    plans!(TREE, "", "mv p/old q/new; touch -d @1 p q", "", ["* q/new"]);
}

#[test]
fn what_changed_in_it_is_changed_where_it_is_now() {
    plans!(
        TREE,
        "",
        "mv p/old q/new; echo more >>q/new/1; rm q/new/2; mv q/new/sub q/new/below; \
         echo new >q/new/below/4; rm q/new/below/1; touch -d @1 p q q/new q/new/below",
        "",
        [
            "* q/new",
            "* q/new/1",
            "* q/new/below",
            "+ q/new/below/4",
            "- q/new/2",
            "- q/new/below/1",
        ]
    );
}

#[test]
fn directories_that_change_places_are_exchanged() {
    plans!(
        "mkdir -p d/a/in d/b d/c; for x in a b c; do echo $x >d/$x/$x; done; touch -d @1 d",
        "",
        "cd d; mv a t; mv b a; mv c b; mv t c; touch -d @1 .",
        "",
        ["* d/a", "* d/b", "* d/c"]
    );
}

#[test]
fn a_chain_of_names_is_followed() {
    plans!(
        "mkdir -p d/a d/b; echo a >d/a/a; echo b >d/b/b; touch -d @1 d",
        "",
        "cd d; mv b c; mv a b; touch -d @1 .",
        "",
        ["* d/b", "* d/c"]
    );
}

#[test]
fn a_child_becomes_the_parent() {
    plans!(
        "mkdir -p d/a/b/x; echo a >d/a/f; echo b >d/a/b/f; touch -d @1 d d/a d/a/b",
        "",
        "cd d; mv a/b b; mv a b/a; touch -d @1 . b b/a",
        "",
        ["* d/b", "* d/b/a"]
    );
}

#[test]
fn something_new_takes_the_name_that_was_left() {
    plans!(
        TREE,
        "",
        "mv p/old q/new; mkdir p/old; echo 1 >p/old/1; touch -d @1 p q p/old",
        "",
        ["* q/new", "+ p/old", "+ p/old/1"]
    );
}

#[test]
fn hard_links_between_inside_and_outside_stay() {
    plans!(
        "mkdir -p p/old q; echo x >p/old/x; ln p/old/x q/y; echo z >p/old/z; ln p/old/z p/old/zz; \
         touch -d @1 p q p/old",
        "",
        "mv p/old p/new; touch -d @1 p",
        "",
        ["* p/new"]
    );
}

#[test]
fn what_is_excluded_inside_keeps_the_directory_where_it_is() {
    let Some((anchored, lines)) = after(
        TREE,
        "*.o\n",
        "mv p/old q/new; touch -d @1 p q",
        "echo mine >p/old/sub/kept.o; touch -d @1 p/old/sub",
    ) else {
        return;
    };
    assert!(lines.contains(&"+ q/new/sub/1".to_owned()), "{lines:?}");
    let kept = anchored.lab.to.join("p/old/sub/kept.o");
    assert_eq!(fs::read_to_string(kept).unwrap(), "mine\n");
}

#[test]
fn what_is_excluded_on_the_source_only_is_not_moved_along() {
    // In scope where it comes to stand, not where it was.
    plans!(
        TREE,
        "/p/old/1\n",
        "mv p/old q/new; touch -d @1 p q",
        "",
        [
            "+ q/new",
            "+ q/new/1",
            "+ q/new/2",
            "+ q/new/3",
            "+ q/new/sub",
            "+ q/new/sub/1",
            "+ q/new/sub/2",
            "+ q/new/sub/3",
            "- p/old",
            "- p/old/2",
            "- p/old/3",
            "- p/old/sub",
            "- p/old/sub/1",
            "- p/old/sub/2",
            "- p/old/sub/3",
        ]
    );
}

#[test]
fn a_nested_subvolume_inside_keeps_the_directory_where_it_is() {
    let Some((anchored, lines)) = after(
        TREE,
        "",
        "mv p/old q/new; touch -d @1 p q",
        "btrfs -q subvolume create p/old/sub/mine; echo x >p/old/sub/mine/x; touch -d @1 p/old/sub",
    ) else {
        return;
    };
    assert!(lines.contains(&"+ q/new/1".to_owned()), "{lines:?}");
    assert!(anchored.lab.to.join("p/old/sub/mine/x").exists());
}

#[test]
fn a_directory_that_was_touched_on_the_target_is_not_moved() {
    let Some((_, lines)) = after(
        TREE,
        "",
        "mv p/old q/new; touch -d @1 p q",
        "echo x >p/old/sub/1",
    ) else {
        return;
    };
    assert!(lines.contains(&"+ q/new/sub/1".to_owned()), "{lines:?}");
    assert!(lines.contains(&"- p/old/sub/1".to_owned()), "{lines:?}");
}

#[test]
fn what_stands_in_the_way_on_the_target_is_not_moved_over() {
    let Some((_, lines)) = after(
        TREE,
        "",
        "mv p/old q/new; touch -d @1 p q",
        "mkdir q/new; echo x >q/new/x",
    ) else {
        return;
    };
    assert!(lines.contains(&"- q/new/x".to_owned()), "{lines:?}");
}

#[test]
fn both_machines_moved_it_alike() {
    plans!(
        TREE,
        "",
        "mv p/old q/new; touch -d @1 p q",
        "mv p/old q/new; touch -d @1 p q",
        []
    );
}

#[test]
fn what_appears_in_the_way_after_the_plan_is_left_alone() {
    let Some(mut anchored) = Anchored::new() else {
        return;
    };
    let (from, to) = (anchored.lab.from.clone(), anchored.lab.to.clone());
    sh(&from, TREE);
    anchored.sync("", "");
    sh(&from, "mv p/old q/new; touch -d @1 p q");
    let synced = anchored.sync("mkdir q/new; echo x >q/new/x", "");
    assert_eq!(synced.errors, 1, "{:?}", anchored.pair.complaints);
    assert_eq!(fs::read_to_string(to.join("q/new/x")).unwrap(), "x\n");
    assert_eq!(fs::read_to_string(to.join("p/old/1")).unwrap(), "1\n");
}

#[test]
fn ten_thousand_files_cost_a_rename() {
    let Some(mut anchored) = Anchored::new() else {
        return;
    };
    let from = anchored.lab.from.clone();
    sh(
        &from,
        "mkdir -p p/old q; cd p/old; for d in $(seq 100); do mkdir $d; (cd $d; touch $(seq 100)); done; \
         cd ../..; touch -d @1 p q",
    );
    anchored.sync("", "");
    sh(&from, "mv p/old q/new; touch -d @1 p q");
    let record = super::testing::Record::default();
    anchored.pair.record = Some(record.clone());
    let synced = anchored.sync("", "");
    assert_eq!(
        (synced.errors, listed(&synced)),
        (0, vec!["* q/new".to_owned()])
    );
    assert_eq!(synced.behind, []);
    let (source, target) = synced.looked;
    assert!(source < 50 && target < 50, "{source} {target}");
    let bytes: usize = record.lock().unwrap().iter().map(Vec::len).sum();
    assert!(bytes < 20_000, "{bytes}");
    anchored.judge("ten thousand");
}

/// Moves directories about, some of them in exchange for others.
fn shuffle(top: &Path, rng: &mut Random, moves: usize) {
    thaw(top);
    for _ in 0..moves {
        let dirs: Vec<_> = list(top)
            .into_iter()
            .filter(|(_, kind)| *kind == Kind::Dir)
            .map(|(path, _)| {
                top.join(std::os::unix::ffi::OsStrExt::from_bytes(&path[..]) as &std::ffi::OsStr)
            })
            .collect();
        if dirs.len() < 2 {
            return;
        }
        let (one, other) = (rng.pick(&dirs).clone(), rng.pick(&dirs).clone());
        let name = ["a", "b", "moved", "dir"][rng.below(4)];
        let _ = match rng.below(3) {
            0 => renameat_with(CWD, &one, CWD, &other, RenameFlags::EXCHANGE),
            1 => renameat_with(CWD, &one, CWD, other.join(name), RenameFlags::NOREPLACE),
            _ => renameat_with(CWD, &one, CWD, top.join(name), RenameFlags::NOREPLACE),
        };
    }
}

#[test]
fn random_moves_are_followed_exactly() {
    let first = number("PCS_SEED", 1);
    let mut moved = 0;
    for seed in first..first + number("PCS_SEEDS", 6) {
        let Some(mut anchored) = Anchored::new() else {
            return;
        };
        let mut rng = Random::new(seed);
        let (from, to) = (anchored.lab.from.clone(), anchored.lab.to.clone());
        grow(&from, &mut rng, 90);
        if rng.one_in(3) {
            anchored.rules = random_rules(&mut rng, 3);
        }
        for step in 0..5 {
            let what = format!("seed {seed} step {step} rules {:?}", anchored.rules);
            let synced = anchored.sync("", "");
            if synced.errors > 0 {
                // Hard links to what is left alone: no anchor comes of such a run.
                break;
            }
            assert_eq!(synced.behind, [], "{what}");
            anchored.judge(&what);
            let plan = anchored.pair.complaints.len();
            moved += synced
                .changes
                .iter()
                .filter(|(action, _)| *action == '*')
                .count()
                + plan;
            let moves = 1 + rng.below(4);
            shuffle(&from, &mut rng, moves);
            if rng.one_in(2) {
                mutate(&from, &mut rng, 3);
            }
            if rng.one_in(3) {
                mutate(&to, &mut rng, 2);
            }
        }
    }
    assert!(moved > 0);
}
