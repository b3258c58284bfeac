//! Scans that visit nothing but what may differ, judged as full scans are.
//!
//! What may differ is made here from descriptions of the trees before and after; that the kernel's
//! diff says the same is another test.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::entry::Kind;
use super::filter::DIRECTORY_FILTER_NAME;
use super::suspects::{Mark, Suspect, of_rules};
use super::testing::Pair;
use super::tests::{lab, rsync_differences, sh};
use super::tests_property::{empty, number, random_rules, round};
use super::tests_random::{Manifest, Random, grow, list, manifest, mutate, thaw};

/// What a diff of two states of a tree says: as little as it may.
fn suspects_between(before: &Manifest, after: &Manifest) -> Vec<Suspect> {
    let mut marks: BTreeMap<Vec<u8>, Mark> = BTreeMap::new();
    let paths: BTreeSet<&Vec<u8>> = before.keys().chain(after.keys()).collect();
    let is_dir = |all: &Manifest, p: &Vec<u8>| all.get(p).is_some_and(|d| d.meta.kind == Kind::Dir);
    for path in paths {
        let mark = match (before.get(path), after.get(path)) {
            (Some(was), Some(is)) if was.ino == is.ino => {
                if was.same(is) {
                    continue;
                }
                if was.same_content(is) {
                    Mark::default()
                } else {
                    Mark::CONTENT
                }
            }
            _ => {
                let mark = Mark::OTHER.with(Mark::CONTENT);
                let dir = is_dir(before, path) || is_dir(after, path);
                if dir { mark.with(Mark::BELOW) } else { mark }
            }
        };
        marks.insert(path.clone(), mark);
    }
    // All names of an inode of which one is suspect.
    for all in [before, after] {
        let mut by_ino: BTreeMap<u64, Vec<&Vec<u8>>> = BTreeMap::new();
        for (path, entry) in all.iter().filter(|(_, e)| e.meta.kind != Kind::Dir) {
            by_ino.entry(entry.ino).or_default().push(path);
        }
        for names in by_ino.values() {
            if names.len() > 1 && names.iter().any(|path| marks.contains_key(*path)) {
                for path in names {
                    marks.entry((*path).clone()).or_default();
                }
            }
        }
    }
    marks
        .into_iter()
        .flat_map(|(path, mark)| [of_rules(&path), Some(Suspect::new(path, mark))])
        .flatten()
        .collect()
}

#[test]
fn random_changes_on_both_sides_are_mirrored_by_looking_at_them_alone() {
    let Some(lab) = lab() else { return };
    let first = number("PCS_SEED", 1);
    for seed in first..first + number("PCS_SEEDS", 8) {
        let mut rng = Random::new(seed);
        empty(&lab.from);
        empty(&lab.to);
        let mut pair = Pair::new();
        grow(&lab.from, &mut rng, 80);
        grow(&lab.to, &mut rng, 20);
        let rules = if rng.one_in(2) {
            String::new()
        } else {
            random_rules(&mut rng, 4)
        };
        round(&lab, &mut pair, &rules, &format!("seed {seed}, at first"));
        for step in 0..4 {
            let (source, target) = (manifest(&lab.from), manifest(&lab.to));
            mutate(&lab.from, &mut rng, 8);
            if step == 3 {
                let frozen = thaw(&lab.from);
                let dirs = list(&lab.from).into_iter().filter(|(_, k)| *k == Kind::Dir);
                for (dir, _) in dirs.take(3) {
                    let file = lab
                        .from
                        .join(OsStr::from_bytes(&dir))
                        .join(DIRECTORY_FILTER_NAME);
                    fs::write(file, random_rules(&mut rng, 3)).unwrap();
                }
                drop(frozen);
            }
            mutate(&lab.to, &mut rng, 6);
            let ours = suspects_between(&source, &manifest(&lab.from));
            let mut theirs = suspects_between(&target, &manifest(&lab.to));
            let left = pair.left.iter().cloned();
            theirs.extend(left.map(|path| Suspect::new(path, Mark::ANYTHING)));
            pair.suspects = Some([ours, theirs]);
            let what = format!("seed {seed} step {step} rules {rules:?}");
            round(&lab, &mut pair, &rules, &what);
        }
    }
    empty(&lab.from);
    empty(&lab.to);
}

fn suspects(paths: &[(&str, Mark)]) -> Vec<Suspect> {
    let suspect = |(path, mark): &(&str, Mark)| Suspect::new(path.as_bytes().to_vec(), *mark);
    paths.iter().map(suspect).collect()
}

const NOTHING: Mark = Mark::CONTENT;

#[test]
fn what_nobody_suspects_is_not_looked_at_however_much_there_is() {
    let Some(lab) = lab() else { return };
    let looked = |files: usize| {
        empty(&lab.from);
        empty(&lab.to);
        let grow = format!(
            "mkdir -p deep/er; touch $(seq -f 'deep/f%.0f' {files}); echo a >deep/er/x; echo b >y"
        );
        sh(&lab.from, &grow);
        let mut pair = Pair::new();
        pair.mirror(&lab.from, &lab.to, "");
        sh(&lab.from, "echo new >deep/er/x; rm y");
        sh(&lab.to, "echo more >deep/er/z");
        let ours = suspects(&[
            ("deep/er/x", NOTHING),
            ("y", Mark::OTHER),
            ("", Mark::default()),
        ]);
        let theirs = suspects(&[("deep/er/z", Mark::OTHER), ("deep/er", Mark::default())]);
        pair.suspects = Some([ours, theirs]);
        let (source, target) = pair.scan(&lab.from, &lab.to, "", false).unwrap();
        let mut changes = pair.list(&lab.to);
        changes.sort();
        assert_eq!(
            changes
                .iter()
                .map(|(c, p)| format!("{c} {p}"))
                .collect::<Vec<_>>(),
            ["* deep/er/x", "- deep/er/z", "- y", ". ", ". deep/er"]
        );
        pair.apply(&lab.from, &lab.to).unwrap();
        assert_eq!(rsync_differences(&lab.from, &lab.to), "");
        (source.looked, target.looked)
    };
    let (few, many) = (looked(10), looked(2000));
    assert_eq!(few, many);
    assert!(few.0 < 20 && few.1 < 20, "{few:?}");
}

#[test]
fn content_is_compared_where_it_is_suspected_and_only_there() {
    let Some(lab) = lab() else { return };
    sh(&lab.from, "echo one >a; echo two >b; touch -d @5 a b");
    sh(
        &lab.to,
        "echo eno >a; echo owt >b; touch -d @5 a b; touch -r ../from .",
    );
    let mut pair = Pair::new();
    let ours = suspects(&[("a", Mark::CONTENT), ("b", Mark::default())]);
    pair.suspects = Some([ours, Vec::new()]);
    pair.scan(&lab.from, &lab.to, "", false).unwrap();
    assert_eq!(pair.list(&lab.to), [('*', "a".to_owned())]);
    // The other machine's suspicion is as good.
    pair.suspects = Some([Vec::new(), suspects(&[("b", Mark::CONTENT)])]);
    pair.scan(&lab.from, &lab.to, "", false).unwrap();
    assert_eq!(pair.list(&lab.to), [('*', "b".to_owned())]);
    // All of it, in a directory that may be another one.
    pair.suspects = Some([suspects(&[("", Mark::ANYTHING)]), Vec::new()]);
    let (_, target) = pair.scan(&lab.from, &lab.to, "", false).unwrap();
    assert_eq!(target.plan.unwrap().changed, 2);
}

#[test]
fn a_directory_that_only_one_machine_suspects_is_compared_with_all_in_it() {
    let Some(lab) = lab() else { return };
    sh(
        &lab.from,
        "mkdir -p d/e; echo 1 >d/e/f; echo 2 >g; ln g d/h",
    );
    let mut pair = Pair::new();
    pair.mirror(&lab.from, &lab.to, "");
    // Gone on the target, moved on the target, replaced by a file there.
    for change in ["rm -r d", "mv d k", "rm -r d; echo >d"] {
        sh(&lab.to, change);
        let all = Mark::ANYTHING;
        let theirs = suspects(&[("d", all), ("k", all), ("g", Mark::default())]);
        pair.suspects = Some([Vec::new(), theirs]);
        let outcome = pair.mirror(&lab.from, &lab.to, "");
        assert_eq!(pair.complaints, Vec::<String>::new());
        assert_eq!(outcome.applied.errors, 0);
        assert_eq!(rsync_differences(&lab.from, &lab.to), "", "{change}");
    }
}

#[test]
fn what_stays_different_is_told_to_be_looked_at_again() {
    let Some(lab) = lab() else { return };
    let nested = |top: &Path, name: &str| {
        let path = top.join(name);
        let path = path.strip_prefix(lab.disk.top()).unwrap().to_owned();
        lab.disk.create_subvolume(path.to_str().unwrap());
    };
    sh(&lab.from, "mkdir p; echo 1 >excl; mkdir -p r/in");
    nested(&lab.from, "both");
    nested(&lab.to, "both");
    nested(&lab.from, "ours");
    nested(&lab.to, "p");
    nested(&lab.to, "theirs");
    sh(
        &lab.to,
        "mkdir -p kept; echo >kept/skip; echo >kept/gone; mkdir excl; echo >r; rm r; mkdir r; echo - >r/.pc-switcher-filter",
    );
    let mut pair = Pair::new();
    let rules = "skip\nexcl/\n.pc-switcher-filter\n";
    let (source, target) = pair.scan(&lab.from, &lab.to, rules, false).unwrap();
    let left: Vec<String> = target
        .left
        .iter()
        .map(|p| String::from_utf8(p.0.clone()).unwrap())
        .collect();
    assert_eq!(left, ["both", "excl", "kept", "ours", "p", "theirs"]);
    assert!(!target.left_more && target.own_rules && !source.own_rules);
    sh(&lab.from, "echo >p/.pc-switcher-filter");
    let (source, _) = pair.scan(&lab.from, &lab.to, rules, false).unwrap();
    assert!(source.own_rules);
}
