//! Directories that were moved on the source: moved on the target too, or made anew where they cannot be.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::{CWD, RenameFlags, renameat_with};

use super::entry::Kind;
use super::filter::STAGING_NAME;
use super::plan::{FolderPlan, Step};
use super::staging::{KEPT_PREFIX, STAGING_MARK};
use super::testing::Cut;
use super::tests::sh;
use super::tests_anchor::{Anchored, listed};
use super::tests_property::{number, random_rules};
use super::tests_random::{Random, grow, list, manifest, move_over, mutate, rotate, thaw};
use crate::escape::escape_bytes;

/// Syncs once, has the source (and the target) changed, and syncs again.
fn after(
    setup: &str,
    rules: &str,
    on_source: &str,
    on_target: &str,
) -> Option<(Anchored, Vec<String>)> {
    after_by(false, setup, rules, on_source, on_target)
}

/// The same where perhaps everything is compared.
fn after_by(
    compares_all: bool,
    setup: &str,
    rules: &str,
    on_source: &str,
    on_target: &str,
) -> Option<(Anchored, Vec<String>)> {
    let mut anchored = Anchored::new()?;
    anchored.compares_all = compares_all;
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
    plans!(TREE, "", "mv p/old q/new; touch -d @1 p q", "", ["> q/new"]);
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
            "* q/new/1",
            "+ q/new/below/4",
            "- q/new/2",
            "- q/new/below/1",
            "> q/new",
            "> q/new/below",
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
        ["> d/a", "> d/b", "> d/c"]
    );
}

#[test]
fn a_chain_of_names_is_followed() {
    plans!(
        "mkdir -p d/a d/b; echo a >d/a/a; echo b >d/b/b; touch -d @1 d",
        "",
        "cd d; mv b c; mv a b; touch -d @1 .",
        "",
        ["> d/b", "> d/c"]
    );
}

#[test]
fn a_child_becomes_the_parent() {
    plans!(
        "mkdir -p d/a/b/x; echo a >d/a/f; echo b >d/a/b/f; touch -d @1 d d/a d/a/b",
        "",
        "cd d; mv a/b b; mv a b/a; touch -d @1 . b b/a",
        "",
        ["> d/b", "> d/b/a"]
    );
}

#[test]
fn what_a_directory_is_moved_into_may_be_new() {
    plans!(
        &format!("{TREE}; touch -d @1 ."),
        "",
        "mkdir -p fresh/deep; echo x >fresh/x; mv p/old fresh/deep/old; chmod 710 fresh; \
         touch -d @1 p .; touch -d @5 fresh fresh/deep",
        "",
        ["+ fresh", "+ fresh/deep", "+ fresh/x", "> fresh/deep/old"]
    );
}

#[test]
fn a_directory_is_moved_out_of_one_that_is_deleted() {
    plans!(
        "mkdir -p p/old/sub/x q; echo 1 >p/old/1; echo 2 >p/old/sub/2; touch -d @1 . q p/old/sub",
        "",
        "mv p/old/sub q/sub; rm -r p; touch -d @1 . q",
        "",
        ["- p", "- p/old", "- p/old/1", "> q/sub"]
    );
}

#[test]
fn a_directory_is_moved_out_of_one_that_gives_way_to_a_file() {
    plans!(
        "mkdir -p p/old/sub q; echo 1 >p/old/1; echo 2 >p/old/sub/2; touch -d @1 p q p/old/sub",
        "",
        "mv p/old/sub q/sub; rm -r p/old; echo file >p/old; touch -d @1 p q",
        "",
        ["* p/old", "- p/old/1", "> q/sub"]
    );
}

#[test]
fn a_file_and_a_link_take_names_that_were_left() {
    plans!(
        "mkdir -p a b c; touch a/1 b/1 c/1; touch -d @1 .",
        "",
        "mv a x; echo >a; mv b y; ln -s c b; touch -d @1 .",
        "",
        ["+ a", "+ b", "> x", "> y"]
    );
}

#[test]
fn what_is_moved_over_what_goes_takes_its_place() {
    // One file over another; a directory over an empty one, a full one and a file; a file over a directory.
    for (setup, change, expected) in [
        ("echo 1 >a; echo 2 >b", "mv a b", &["> b"][..]),
        ("ln -s x a; mkfifo b", "mv a b", &["> b"]),
        (
            "mkdir -p a/s b; echo 1 >a/1; echo 2 >a/s/2",
            "mv -T a b",
            &["> b"],
        ),
        (
            "mkdir -p a/s b/s/t; echo 1 >a/1; echo 2 >a/s/2; echo 3 >b/1; echo 4 >b/s/t/2; chattr +i b/1",
            "chattr -i b/1; rm -r b; mv a b",
            &["- b/1", "- b/s", "- b/s/t", "- b/s/t/2", "> b"],
        ),
        ("mkdir a; echo 1 >a/1; echo 2 >b", "rm b; mv a b", &["> b"]),
        (
            "mkdir b; echo 1 >b/1; echo 2 >a",
            "rm -r b; mv a b",
            &["- b/1", "> b"],
        ),
        // Names of something that has several.
        (
            "echo 1 >a; ln a a2; echo 2 >b; ln b b2; mkdir d; ln b d/b3",
            "mv a b",
            &["> b"],
        ),
        // A log that is rotated, and one that begins anew.
        (
            "for n in '' .1 .2 .3; do echo $n >log$n; done",
            "mv log.2 log.3; mv log.1 log.2; mv log log.1; echo new >log",
            &["+ log", "> log.1", "> log.2", "> log.3"],
        ),
        // A child that becomes its parent; of what else was in it one is moved out.
        (
            "mkdir -p p/c q; echo 1 >p/c/1; echo 2 >p/2; echo 3 >p/3",
            "mv p/c t; mv p/2 q; rm -r p; mv t p",
            &["- p/3", "> p", "> q/2"],
        ),
        // Below what is moved itself.
        (
            "mkdir -p d/b a; echo 1 >d/b/1; echo 2 >a/2; echo 3 >d/3",
            "mv d e; rm -r e/b; mv a e/b",
            &["- d/b/1", "> e", "> e/b"],
        ),
        // Others trade places meanwhile.
        (
            "mkdir a b c; for d in a b c; do echo $d >$d/$d; done",
            "mv a t; mv b a; rm -r c; mv t c",
            &["- c/c", "> a", "> c"],
        ),
    ] {
        let touch = "find . -type d -exec touch -h -d @1 {} +";
        // No two files have one time: the clock of the filesystem may not have moved on in between.
        let apart =
            "n=1; for f in $(find . -type f); do n=$((n + 1)); touch -d @$n $f || true; done";
        let setup = format!("{setup}; {apart}; {touch}");
        let change = format!("{change}; {touch}");
        for compares_all in [false, true] {
            if compares_all && (setup.contains("ln b b2") || setup.contains("d/b")) {
                // Only the kernel's diff follows names of something that has several, and what gives way
                // in a directory that is moved itself.
                continue;
            }
            let Some((anchored, lines)) = after_by(compares_all, &setup, "", &change, "") else {
                return;
            };
            assert_eq!(
                lines, expected,
                "{change}, everything compared: {compares_all}"
            );
            let kept = fs::read_dir(&anchored.lab.to).unwrap();
            let kept = kept.filter(|e| e.as_ref().unwrap().file_name().len() > 8);
            assert_eq!(kept.count(), 0, "{change}");
        }
    }
}

#[test]
fn what_was_changed_where_something_gives_way_is_told_when_everything_is_compared() {
    let Some(mut anchored) = Anchored::new() else {
        return;
    };
    anchored.compares_all = true;
    let (from, to) = (anchored.lab.from.clone(), anchored.lab.to.clone());
    sh(
        &from,
        "mkdir a b; echo 1 >a/1; echo 2 >b/2; echo 3 >b/3; echo 4 >f; echo 5 >g; touch -d @1 *",
    );
    anchored.sync("", "");
    sh(&from, "rm -r b; mv a b; mv f g; touch -d @1 b g");
    sh(&to, "echo theirs >b/2; echo theirs >g");
    let synced = anchored.sync("", "");
    assert_eq!(synced.renames.len(), 2, "{:?}", synced.renames);
    let drift = synced.drift.unwrap();
    let mut told: Vec<String> = (drift.told.iter()).map(|t| t.path.clone().into()).collect();
    told.sort();
    assert_eq!(told, ["b/2", "g"]);
    anchored.judge("drift");
}

#[test]
fn what_was_touched_or_is_somebody_elses_does_not_give_way() {
    let setup = "mkdir -p a b; echo 1 >a/1; echo 2 >b/2; echo 3 >f; echo 4 >g";
    let change = "rm -r b; mv a b; mv f g";
    for (rules, on_target) in [
        ("", "echo other >b/2; echo other >g"),
        ("", "echo more >b/new; touch -d @7 g"),
        ("*.o\n", "echo mine >b/x.o; rm g"),
        ("", "rm -r b; echo b >b; chattr +i g"),
    ] {
        let Some((_, lines)) = after(setup, rules, change, on_target) else {
            return;
        };
        let is_moved = |line: &String| line.starts_with('>');
        assert!(!lines.iter().any(is_moved), "{on_target}: {lines:?}");
    }
}

#[test]
fn what_has_another_directory_at_the_same_path_is_not_taken_for_what_was_there() {
    for (setup, change) in [
        // Both trade places, and one entry changes back.
        (
            "mkdir -p d/a d/b; echo 1 >d/a/f; echo 2 >d/b/g; touch -d @1 d/a/f d/b/g",
            "cd d; mv a t; mv b a; mv t b; mv b/f a/f; touch -d @1 a b .",
        ),
        (
            "mkdir -p d/a/s d/b; echo 1 >d/a/s/f; echo 2 >d/b/g",
            "cd d; mv a t; mv b a; mv t b; mv b/s a/s; touch -d @1 a b .",
        ),
        // The other one has something of that name.
        (
            "mkdir -p d/a/s d/b/s; echo 1 >d/a/s/f; echo 22 >d/b/s/f; touch -d @1 d/*/s/f d/*/s",
            "cd d; mv a t; mv b a; mv t b; mv b/s t; mv a/s b/s; mv t a/s; touch -d @1 a b .",
        ),
        (
            "mkdir -p d/a d/b; echo 1 >d/a/f; echo 2 >d/b/f; touch -d @1 d/*/f",
            "cd d; mv a t; mv b a; mv t b; mv b/f t; mv a/f b/f; mv t a/f; touch -d @1 a b .",
        ),
        // A new one takes the place, with the old ones in it.
        (
            "mkdir -p a/s; echo 1 >a/f; echo 2 >a/s/f; touch -d @1 a/s/f a/f",
            "mv a b; mkdir a; mv b/s b/f a/; touch -d @1 a b .",
        ),
        (
            "mkdir -p a/s/x; echo 1 >a/f; echo 2 >a/s/f; echo 3 >a/s/x/f",
            "mv a b; mkdir -p a/s; mv b/s/x a/s/x; mv b a/b; touch -d @1 a .",
        ),
    ] {
        if after(setup, "", change, "").is_none() {
            return;
        }
    }
}

#[test]
fn both_machines_moved_it_elsewhere() {
    for on_target in [
        "mv p/old q/other; touch -d @1 p q",
        "mv p r; touch -d @1 .",
        "mv q/../p/old/sub q/new; touch -d @1 p/old q",
        "rm -r p/old",
        "rm -r p/old; echo file >p/old",
        "mv p t; mv q p; mv t q",
        "rm -r q; echo file >q",
        "rm -r q; ln -s p q",
    ] {
        if after(TREE, "", "mv p/old q/new; touch -d @1 p q", on_target).is_none() {
            return;
        }
    }
}

#[test]
fn rules_of_a_directory_of_its_own_keep_it_where_it_is() {
    let rules = "echo '/private' >p/old/sub/.pc-switcher-filter";
    let Some((_, lines)) = after(
        &format!("{TREE}; {rules}"),
        "",
        "mv p/old q/new; touch -d @1 p q",
        "",
    ) else {
        return;
    };
    assert!(lines.contains(&"+ q/new/1".to_owned()), "{lines:?}");
    let Some((_, lines)) = after(
        &format!("{TREE}; {}", rules.replace("old/sub/", "")),
        "",
        "mv p/old q/new; touch -d @1 p q",
        "",
    ) else {
        return;
    };
    assert!(lines.contains(&"+ q/new/1".to_owned()), "{lines:?}");
}

#[test]
fn what_is_mounted_inside_keeps_the_directory_where_it_is() {
    let Some(mut anchored) = Anchored::new() else {
        return;
    };
    let (from, to) = (anchored.lab.from.clone(), anchored.lab.to.clone());
    for what in ["sub", "1"] {
        sh(&from, &format!("rm -rf p q; {TREE}"));
        anchored.sync("", "");
        sh(&from, "mv p/old q/new; touch -d @1 p q");
        sh(&to, &format!("mount --bind p/old/{what} p/old/{what}"));
        let synced = anchored.sync("", "");
        let lines = listed(&synced);
        sh(&to, &format!("umount p/old/{what}"));
        assert!(lines.contains(&"+ q/new/2".to_owned()), "{what}: {lines:?}");
    }
}

#[test]
fn directories_that_may_not_be_changed_are_moved_all_the_same() {
    let Some((_, lines)) = after(
        "mkdir -p p/old q; echo 1 >p/old/1; chattr +i p/old/1; chattr +a q; chattr +i p",
        "",
        "chattr -i p; chattr -a q; mv p/old q/new; chattr +a q; chattr +i p",
        "",
    ) else {
        return;
    };
    assert!(lines.contains(&"> q/new".to_owned()), "{lines:?}");
    let Some((_, lines)) = after(
        "mkdir -p p/old q; echo 1 >p/old/1; chattr +i p/old",
        "",
        "chattr -i p/old; mv p/old q/new; chattr +i q/new",
        "",
    ) else {
        return;
    };
    assert!(lines.contains(&"+ q/new".to_owned()), "{lines:?}");
}

#[test]
fn a_renamed_file_keeps_its_inode_and_is_not_read() {
    let Some(mut anchored) = Anchored::new() else {
        return;
    };
    let (from, to) = (anchored.lab.from.clone(), anchored.lab.to.clone());
    sh(
        &from,
        "mkdir p q; echo text >p/f; ln -s x p/l; mkfifo p/fifo; echo 1 >a; echo 2 >b; touch -d @1 p q .",
    );
    anchored.sync("", "");
    let ino = |path: &str| fs::symlink_metadata(to.join(path)).unwrap().ino();
    let before = ["p/f", "p/l", "p/fifo", "a", "b"].map(ino);
    sh(
        &from,
        "mv p/f q/g; mv p/l q/m; mv p/fifo q/fofi; mv a t; mv b a; mv t b; touch -d @1 p q .",
    );
    let synced = anchored.sync("", "");
    assert_eq!(
        listed(&synced),
        ["> a", "> b", "> q/fofi", "> q/g", "> q/m"]
    );
    assert_eq!(["q/g", "q/m", "q/fofi", "b", "a"].map(ino), before);
    anchored.judge("files");
}

#[test]
fn a_file_that_was_renamed_and_changed_is_both() {
    plans!(
        "mkdir p q; echo one >p/one; echo two >p/two; touch -d @1 p q p/one p/two",
        "",
        "mv p/one q/one; printf O | dd of=q/one conv=notrunc status=none; touch -d @1 q/one; \
         mv p/two q/zwei; chmod 600 q/zwei; touch -d @1 p q",
        "",
        ["* q/one", ". q/zwei", "> q/one", "> q/zwei"]
    );
}

#[test]
fn names_of_files_are_passed_on() {
    for (change, on_target) in [
        ("mv 2 3; mv 1 2; echo new >1", ""),
        ("mv 3 4; mv 2 3; mv 1 2; echo new >1", ""),
        ("ln 1 x; rm 1; ln 2 y; mv y d/", ""),
        ("mv l2 l3; ln 3 d/3", ""),
        ("rm l1; mv l2 d/l", ""),
        ("mv 1 d/1; rm 2; mkdir 2; mv 3 2/3", ""),
        ("mv d/sub/f 5; rm -r d; mv 1 d", ""),
        ("mv 1 2", "echo other >1; touch -d @1 1"),
        ("mv 1 d/1", "rm 1; ln 2 1"),
        ("mv 1 d/1", "echo here >d/1"),
        ("mv 1 d/1", "chattr +i 1"),
        ("mv 1 d/1", "mv 1 d/2"),
    ] {
        let setup = "mkdir -p d/sub; for n in 1 2 3; do echo $n >$n; done; touch -d @1 1 2 3; \
                     echo l >l1; ln l1 l2; echo f >d/sub/f";
        if after(setup, "", change, on_target).is_none() {
            return;
        }
    }
}

#[test]
fn what_is_excluded_under_one_of_its_names_is_not_renamed() {
    let Some((anchored, lines)) = after(
        "echo 1 >kept.o; echo 2 >two; mkdir d",
        "*.o\n",
        "mv kept.o d/came; mv two d/two.o",
        "echo mine >kept.o",
    ) else {
        return;
    };
    assert!(lines.contains(&"+ d/came".to_owned()), "{lines:?}");
    assert!(lines.contains(&"- two".to_owned()), "{lines:?}");
    let kept = anchored.lab.to.join("kept.o");
    assert_eq!(fs::read_to_string(kept).unwrap(), "mine\n");
}

#[test]
fn the_log_and_the_list_say_where_it_was() {
    let Some(mut anchored) = Anchored::new() else {
        return;
    };
    let from = anchored.lab.from.clone();
    sh(&from, TREE);
    anchored.sync("", "");
    sh(&from, "mv p/old q/new; touch -d @1 p q");
    let synced = anchored.sync("", "");
    assert_eq!(listed(&synced), ["> q/new"]);
    assert_eq!(synced.renames, [("p/old".to_owned(), "q/new".to_owned())]);
    assert_eq!(synced.totals.renamed, 1);
    assert_eq!(synced.totals.changes(), 1);
    assert_eq!(synced.drift.unwrap().changed, 0);
}

#[test]
fn something_new_takes_the_name_that_was_left() {
    plans!(
        TREE,
        "",
        "mv p/old q/new; mkdir p/old; echo 1 >p/old/1; touch -d @1 p q p/old",
        "",
        ["+ p/old", "+ p/old/1", "> q/new"]
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
        ["> p/new"]
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
    let Some(mut anchored) = Anchored::new() else {
        return;
    };
    let (from, to) = (anchored.lab.from.clone(), anchored.lab.to.clone());
    sh(&from, TREE);
    anchored.sync("", "");
    sh(&from, "mv p/old q/new; touch -d @1 p q");
    sh(
        &to,
        "btrfs -q subvolume create p/old/sub/mine; echo x >p/old/sub/mine/x; touch -d @1 p/old/sub",
    );
    let synced = anchored.sync("", "");
    let lines = listed(&synced);
    assert!(lines.contains(&"+ q/new/1".to_owned()), "{lines:?}");
    assert!(!lines.iter().any(|line| line.starts_with('>')), "{lines:?}");
    assert!(to.join("p/old/sub/mine/x").exists() && !to.join("p/old/1").exists());
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
        (0, vec!["> q/new".to_owned()])
    );
    assert_eq!(synced.behind, []);
    let (source, target) = synced.looked;
    assert!(source < 50 && target < 50, "{source} {target}");
    let bytes: usize = record.lock().unwrap().iter().map(Vec::len).sum();
    assert!(bytes < 20_000, "{bytes}");
    anchored.judge("ten thousand");
}

/// Run by hand: `cargo test --release -- --ignored --nocapture mirror::tests_moves::measured`.
#[test]
#[ignore = "a measurement"]
fn measured_a_directory_of_a_hundred_thousand_files() {
    let Some(mut anchored) = Anchored::new() else {
        return;
    };
    let from = anchored.lab.from.clone();
    sh(
        &from,
        "mkdir -p p/old; cd p/old; for d in $(seq 1000); do mkdir $d; (cd $d; touch $(seq 100)); done",
    );
    let timed = |anchored: &mut Anchored, what: &str| {
        let begun = Instant::now();
        let synced = anchored.sync("", "");
        println!("{what}: {:?} {:?}", begun.elapsed(), synced.took);
        listed(&synced)
    };
    timed(&mut anchored, "first");
    timed(&mut anchored, "nothing");
    for turn in ["mv p/old p/new", "mv p/new p/old"] {
        sh(&from, turn);
        assert_eq!(timed(&mut anchored, turn).len(), 2);
    }
}

/// What a machine that stops between two renames leaves: the first `done` of them.
fn made_in_part(plan: &FolderPlan, top: &Path, done: usize) -> bool {
    let at = |path: &[u8]| top.join(<OsStr as OsStrExt>::from_bytes(path));
    let staging = top.join(STAGING_NAME);
    let mut over = Vec::new();
    let mut ops = plan.changes().unwrap();
    while let Some(op) = ops.next_op().unwrap().filter(|op| op.step == Step::Move) {
        over.push(op.over.is_some());
    }
    let mut left = done;
    let mut stops = || {
        let stops = left == 0;
        left = left.saturating_sub(1);
        stops
    };
    for (number, (step, over)) in plan.moves().unwrap().steps().iter().zip(over).enumerate() {
        if step.now == step.to {
            continue;
        }
        if stops() {
            return true;
        }
        let (now, to) = (at(&step.now), at(&step.to));
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        if !over {
            let flags = match step.instead {
                Some(_) => RenameFlags::EXCHANGE,
                None => RenameFlags::NOREPLACE,
            };
            renameat_with(CWD, now, CWD, to, flags).unwrap();
            continue;
        }
        if fs::create_dir(&staging).is_ok() {
            let mark = rustix::fs::XattrFlags::empty();
            rustix::fs::setxattr(&staging, STAGING_MARK, b"1", mark).unwrap();
        }
        // What is moved is taken where nobody can get at it; it trades places with what gives way, which then goes.
        let staged = staging.join(number.to_string());
        let is_dir = now.is_dir();
        if is_dir {
            fs::rename(&now, &staged).unwrap();
        } else {
            fs::hard_link(&now, &staged).unwrap();
        }
        if stops() {
            return true;
        }
        renameat_with(CWD, &staged, CWD, &to, RenameFlags::EXCHANGE).unwrap();
        if stops() {
            return true;
        }
        if !is_dir {
            fs::remove_file(&now).unwrap();
        }
    }
    false
}

#[test]
fn whenever_the_machine_stops_the_next_sync_makes_it_right() {
    for (setup, change) in [
        (TREE, "mv p/old q/new; echo 4 >q/new/4; rm q/new/1"),
        (
            "mkdir -p d/a d/b d/c d/e; for x in a b c e; do echo $x >d/$x/$x; done",
            "cd d; mv a t; mv b a; mv c b; mv t c; mkdir -p new/er; mv e new/er/f; echo x >e",
        ),
        (
            "mkdir -p a/b/c d; echo 1 >a/1; echo 2 >a/b/2; echo 3 >a/b/c/3; echo 4 >d/4",
            "mv a/b/c x; mv a/b x/y; mv a x/y/z; mv d a; rm x/3",
        ),
        (
            "mkdir -p a/in b/in c; echo 1 >a/in/1; echo 2 >b/2; echo 3 >b/in/3; echo 4 >c/4; echo 5 >5; echo 6 >6",
            "mv b/2 x; rm -r b; mv a b; mv c a; mv 5 6; echo 7 >5",
        ),
    ] {
        for done in 0.. {
            let Some(mut anchored) = Anchored::new() else {
                return;
            };
            let (from, to) = (anchored.lab.from.clone(), anchored.lab.to.clone());
            sh(&from, setup);
            anchored.sync("", "");
            sh(&from, change);
            let before = manifest(&to);
            anchored.plan();
            let plan = anchored.pair.plan(&to);
            assert!(!plan.moves().unwrap().is_empty(), "{change}");
            let is_more = made_in_part(&plan, &to, done);
            // Nothing that was there is lost.
            let now = manifest(&to);
            for (path, was) in &before {
                let is_there = now.values().any(|is| is.ino == was.ino);
                assert!(is_there, "{change}: {}", escape_bytes(path));
            }
            anchored.forget();
            let synced = anchored.sync("", "");
            assert_eq!(synced.errors, 0, "{change}: {:?}", anchored.pair.complaints);
            // A directory that was in the way stays until the next sync, where nobody can look into it.
            for (_, path) in &synced.behind {
                assert!(path.starts_with(KEPT_PREFIX) || path.is_empty(), "{path}");
            }
            if !synced.behind.is_empty() {
                assert_eq!(anchored.sync("", "").errors, 0, "{change} after {done}");
            }
            anchored.judge(&format!("{change} after {done}"));
            if !is_more {
                break;
            }
        }
    }
}

#[test]
fn an_interrupted_sync_of_moves_is_made_right_by_the_next() {
    let first = number("PCS_SEED", 1);
    for seed in first..first + number("PCS_SEEDS", 4) {
        let Some(mut anchored) = Anchored::new() else {
            return;
        };
        let mut rng = Random::new(seed);
        let (from, to) = (anchored.lab.from.clone(), anchored.lab.to.clone());
        grow(&from, &mut rng, 60);
        anchored.sync("", "");
        shuffle(&from, &mut rng, 10);
        mutate(&from, &mut rng, 5);
        let source = anchored.plan();
        anchored.pair.cut = if rng.one_in(2) {
            Cut::LinkGone(rng.below(6))
        } else {
            Cut::Interrupted(Duration::from_micros(rng.next() % 60_000))
        };
        let what = format!("seed {seed}, {:?}", anchored.pair.cut);
        let _ = anchored.pair.apply(Path::new(&source), &to);
        anchored.pair.cut = Cut::Never;
        anchored.forget();
        let synced = anchored.sync("", "");
        assert_eq!(synced.errors, 0, "{what}: {:?}", anchored.pair.complaints);
        anchored.judge(&what);
    }
}

/// Moves directories about, some of them in exchange for others.
fn shuffle(top: &Path, rng: &mut Random, moves: usize) {
    thaw(top);
    for _ in 0..moves {
        let dirs: Vec<_> = list(top)
            .into_iter()
            .filter(|(_, kind)| *kind == Kind::Dir)
            .map(|(path, _)| top.join(<OsStr as OsStrExt>::from_bytes(&path)))
            .collect();
        if dirs.len() < 2 {
            return;
        }
        let (one, other) = (rng.pick(&dirs).clone(), rng.pick(&dirs).clone());
        let name = ["a", "b", "moved", "dir"][rng.below(4)];
        let all = list(top);
        match rng.below(8) {
            0 | 1 => {
                let (one, other) = (rng.pick(&all).0.clone(), rng.pick(&all).0.clone());
                move_over(top, &one, &other);
                continue;
            }
            2 => {
                let one = rng.pick(&all).0.clone();
                rotate(top, &one, &all, rng);
                continue;
            }
            _ => {}
        }
        let _ = match rng.below(3) {
            0 => renameat_with(CWD, &one, CWD, &other, RenameFlags::EXCHANGE),
            1 => renameat_with(CWD, &one, CWD, other.join(name), RenameFlags::NOREPLACE),
            _ => renameat_with(CWD, &one, CWD, top.join(name), RenameFlags::NOREPLACE),
        };
    }
}

#[test]
fn names_of_files_that_have_several_are_renamed_and_keep_what_they_name() {
    let Some(mut anchored) = Anchored::new() else {
        return;
    };
    let (from, to) = (anchored.lab.from.clone(), anchored.lab.to.clone());
    sh(
        &from,
        "mkdir d e; for f in one two three four five; do head -c 5000 /dev/urandom >$f; done
         ln one one-b; ln one d/one-c; ln two two-b; ln three three-b; ln four four-b; ln five five-b
         ln five e/five-c",
    );
    anchored.sync("", "");
    let ino = |path: &str| fs::metadata(to.join(path)).unwrap().ino();
    let before = ["one", "two", "three", "five"].map(ino);
    sh(
        &from,
        // The first name; all of them; one of which the other goes; one with new content; with a directory,
        // into another, to the name that another of its names had.
        "mv one 0ne; mv two a; mv two-b d/b; mv three 3; rm three-b; mv four 4; echo more >>4
         mv e f; mv five f/five; mv five-b five",
    );
    let synced = anchored.sync("", "");
    assert_eq!((synced.errors, synced.behind.len()), (0, 0));
    assert_eq!(["0ne", "a", "3", "five"].map(ino), before);
    assert_eq!(["one-b", "d/b", "3", "f/five-c"].map(ino), before);
    assert_eq!((ino("4"), ino("f/five")), (ino("four-b"), before[3]));
    // Of two names that are given up and two that are new, the one is moved, the other linked.
    for name in ["0ne", "a", "3"] {
        let is_it = |(_, to): &(String, String)| to == name;
        assert!(synced.renames.iter().any(is_it), "{:?}", synced.renames);
    }
    anchored.judge("names");
}

#[test]
fn a_full_scan_knows_what_was_moved_from_where_nothing_is_to_where_nothing_was() {
    let Some(mut anchored) = Anchored::new() else {
        return;
    };
    anchored.compares_all = true;
    let (from, to) = (anchored.lab.from.clone(), anchored.lab.to.clone());
    sh(
        &from,
        "mkdir -p dir/deep a b c; for n in $(seq 50); do echo $n >dir/deep/$n; done
         for d in a b c; do echo same >$d/x; touch -d @5 $d/x; echo $d >$d/y; done; echo 1 >one; echo 2 >two
         touch -d @6 a/y; touch -d @7 b/y",
    );
    anchored.sync("", "");
    sh(
        &from,
        "mv dir moved; echo more >>moved/deep/7; echo new >moved/deep/new; mv one uno; mv two moved/deep/zwei
         mv moved/deep/9 neun
         mv a z; mv b a; mv z b
         mv c d; mkdir c; cp -p d/x c/x",
    );
    sh(&to, "echo there >dir/deep/there; echo other >dir/deep/8");
    let synced = anchored.sync("", "");
    assert_eq!((synced.errors, synced.behind.len()), (0, 0));
    let mut renames = synced.renames;
    renames.sort();
    let expected = [
        ("a", "b"),
        ("b", "a"),
        // Another one has taken its name.
        ("c", "d"),
        ("dir", "moved"),
        ("dir/deep/9", "neun"),
        ("one", "uno"),
        ("two", "moved/deep/zwei"),
    ];
    for (old, new) in expected {
        let expected = (old.to_owned(), new.to_owned());
        assert!(renames.contains(&expected), "{old} {new}: {renames:?}");
    }
    assert_eq!(renames.len(), expected.len(), "{renames:?}");
    anchored.judge("full");
}

#[test]
fn random_moves_are_followed_exactly() {
    random_moves(false);
}

#[test]
fn random_moves_are_followed_exactly_when_everything_is_compared() {
    random_moves(true);
}

fn random_moves(compares_all: bool) {
    let first = number("PCS_SEED", 1);
    let mut renames = 0;
    for seed in first..first + number("PCS_SEEDS", 6) {
        let Some(mut anchored) = Anchored::new() else {
            return;
        };
        anchored.compares_all = compares_all;
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
            renames += synced
                .changes
                .iter()
                .filter(|(sign, _)| *sign == '>')
                .count();
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
    assert!(renames > 0);
}
