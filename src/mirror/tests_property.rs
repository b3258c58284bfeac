//! Random trees, random changes on both sides, random filters: what the mirror makes of them.
//!
//! `PCS_SEEDS=500` (or `make soak SEEDS=500`) tries that many seeds instead of a few; `PCS_SEED=17` begins at that one.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use super::entry::Kind;
use super::filter::{DIRECTORY_FILTER_NAME, Filter, FilterState};
use super::testing::Pair;
use super::tests::{Lab, lab, lsattr, rsync_differences};
use super::tests_random::{Manifest, Random, excluded, grow, list, manifest, mutate, thaw};
use crate::escape::escape_bytes;
use crate::sys::command::command;

pub(super) fn number(variable: &str, otherwise: u64) -> u64 {
    if let Ok(text) = std::env::var(variable) {
        return text.parse().unwrap();
    }
    // `make soak` asks all random tests at once: for a number of seeds, or for some of them.
    let soak = std::env::var("PC_SWITCHER_TEST_SEEDS").unwrap_or_default();
    match soak.parse() {
        Ok(seeds) if variable == "PCS_SEEDS" => seeds,
        _ => otherwise,
    }
}

const RULES: [&str; 12] = [
    "skip",
    "cache/",
    "*.o",
    "/a/b",
    "+ /a/keep",
    "+ keep",
    "/dir/",
    "- /c/**",
    "+ x.o",
    "**/b/c",
    "z/",
    "[ab]/[!k]*",
];

pub(super) fn random_rules(rng: &mut Random, most: usize) -> String {
    let count = rng.below(most + 1);
    let mut rules: Vec<&str> = (0..count).map(|_| *rng.pick(&RULES)).collect();
    // Ends with a line end, if there is any.
    rules.push("");
    rules.join("\n")
}

/// Paths that share an inode, for each path in scope that shares one.
fn groups(all: &Manifest, out: &BTreeSet<Vec<u8>>) -> BTreeMap<Vec<u8>, Vec<Vec<u8>>> {
    let mut by_ino: BTreeMap<u64, Vec<Vec<u8>>> = BTreeMap::new();
    for (path, entry) in all {
        if entry.meta.kind != Kind::Dir && !out.contains(path) {
            by_ino.entry(entry.ino).or_default().push(path.clone());
        }
    }
    by_ino
        .into_values()
        .flat_map(|group| group.clone().into_iter().map(move |p| (p, group.clone())))
        .collect()
}

fn text(path: &[u8]) -> String {
    escape_bytes(path)
}

/// Mirrors and judges one round.
pub(super) fn round(lab: &Lab, pair: &mut Pair, rules: &str, what: &str) {
    let filter = Filter::parse(rules.as_bytes(), "f").unwrap();
    let root = FilterState::root(&filter);
    let before = manifest(&lab.to);
    let source = manifest(&lab.from);
    pair.complaints.clear();
    let outcome = pair.mirror(&lab.from, &lab.to, rules);
    pair.left = outcome
        .scan
        .left
        .iter()
        .map(|path| path.0.clone())
        .collect();
    // What is judged by from here on is a full scan.
    pair.suspects = None;
    let after = manifest(&lab.to);
    assert_eq!(
        source,
        manifest(&lab.from),
        "{what}: the source was changed"
    );
    // Left alone because of something excluded: said so, and judged no further.
    let left: Vec<&str> = pair
        .complaints
        .iter()
        .filter_map(|c| c.split_once("left alone on the target"))
        .map(|(_, path)| path.rsplit(": ").next().unwrap())
        .collect();
    assert!(
        pair.complaints.len() == left.len(),
        "{what}: {:?}",
        pair.complaints
    );
    assert_eq!(outcome.applied.errors, 0, "{what}");
    let is_left = |path: &[u8]| {
        let path = text(path);
        left.iter()
            .any(|l| path == *l || path.starts_with(&format!("{l}/")))
    };
    let set = |all: &Manifest| -> BTreeSet<Vec<u8>> {
        excluded(all, &source, &lab.from, &root)
            .into_iter()
            .collect()
    };
    let (out_source, out_before, out_after) = (set(&source), set(&before), set(&after));
    // Excluded on the target: as before.
    for path in &out_before {
        assert!(
            after.get(path).is_some_and(|now| now.same(&before[path])),
            "{what}: excluded {} was touched",
            text(path)
        );
    }
    // In scope: as on the source.
    for (path, want) in &source {
        if out_source.contains(path) || is_left(path) {
            continue;
        }
        let have = after.get(path);
        assert!(
            have.is_some_and(|have| have.same(want)),
            "{what}: {}\nwant {want:?}\nhave {have:?}",
            text(path)
        );
    }
    for path in after.keys() {
        let kept = || {
            out_after
                .iter()
                .any(|p| p.starts_with(path) && p.get(path.len()) == Some(&b'/'))
        };
        assert!(
            out_after.contains(path)
                || source.contains_key(path) && !out_source.contains(path)
                || is_left(path)
                || kept(),
            "{what}: {} is left over",
            text(path)
        );
    }
    if left.is_empty() {
        let (want, have) = (groups(&source, &out_source), groups(&after, &out_after));
        for (path, group) in &want {
            assert_eq!(
                Some(group),
                have.get(path),
                "{what}: hard links of {}",
                text(path)
            );
        }
    }
    // The list is what happened.
    let listed: BTreeSet<String> = outcome.changes.iter().map(|(_, p)| p.clone()).collect();
    assert_eq!(
        listed.len(),
        outcome.changes.len(),
        "{what}: listed twice: {:?}",
        outcome.changes
    );
    let (groups_before, groups_after) = (groups(&before, &out_before), groups(&after, &out_after));
    let paths: BTreeSet<&Vec<u8>> = before.keys().chain(after.keys()).collect();
    for path in paths {
        let changed = match (before.get(path), after.get(path)) {
            (Some(a), Some(b)) => !a.same(b),
            _ => true,
        };
        if changed {
            assert!(
                listed.contains(&text(path)),
                "{what}: {} changed and is not listed\n{:?}\n{:?}",
                text(path),
                before.get(path),
                after.get(path)
            );
        } else if listed.contains(&text(path)) {
            assert!(
                groups_before.get(path) != groups_after.get(path),
                "{what}: {} is listed and did not change",
                text(path)
            );
        }
    }
    for (action, path) in &outcome.changes {
        let known = before.keys().chain(after.keys()).any(|p| text(p) == *path);
        assert!(known, "{what}: {action} {path} is listed and nowhere");
    }
    // And again: nothing to do.
    let (_, again) = pair.scan(&lab.from, &lab.to, rules, true).unwrap();
    let plan = again.plan.unwrap();
    assert_eq!(
        (plan.created, plan.changed, plan.attributes, plan.deleted),
        (0, 0, 0, 0),
        "{what}: {:?}",
        pair.list(&lab.to)
    );
    if rules.is_empty() && out_source.is_empty() {
        assert_eq!(rsync_differences(&lab.from, &lab.to), "", "{what}");
        assert_eq!(lsattr(&lab.from), lsattr(&lab.to), "{what}");
    }
}

/// What rsync, told the same rules, would still do.
fn rsync_with_rules(lab: &Lab, rules: &str) -> String {
    let file = lab.disk.directory().join("rules");
    fs::write(
        &file,
        Filter::parse(rules.as_bytes(), "f")
            .unwrap()
            .to_rsync_rules(),
    )
    .unwrap();
    let output = command("rsync")
        .args(["-aHAXScni", "-@-1", "--delete", "--numeric-ids"])
        .arg(format!("--filter=merge {}", file.display()))
        .arg(format!("{}/", lab.from.display()))
        .arg(format!("{}/", lab.to.display()))
        .output()
        .unwrap();
    let lines = String::from_utf8_lossy(&output.stdout).into_owned();
    // A dry run says of some directories that they stay, and that they go.
    let stays: Vec<&str> = lines
        .lines()
        .filter_map(|l| l.strip_prefix("cannot delete non-empty directory: "))
        .collect();
    let goes = |l: &str| {
        l.strip_prefix("*deleting   ")
            .map(|d| d.trim_end_matches('/').to_owned())
    };
    let left: Vec<&str> = lines
        .lines()
        .filter(|l| !l.starts_with("cannot delete non-empty directory"))
        .filter(|l| goes(l).is_none_or(|dir| !stays.contains(&&*dir)))
        .collect();
    left.join("\n")
}

pub(super) fn empty(top: &Path) {
    thaw(top);
    for entry in fs::read_dir(top).unwrap() {
        let path = entry.unwrap().path();
        if path.is_symlink() || !path.is_dir() {
            fs::remove_file(path)
        } else {
            fs::remove_dir_all(path)
        }
        .unwrap();
    }
}

#[test]
fn random_trees_are_mirrored_exactly_and_the_list_is_what_happens() {
    let Some(lab) = lab() else { return };
    let first = number("PCS_SEED", 1);
    for seed in first..first + number("PCS_SEEDS", 8) {
        let mut rng = Random::new(seed);
        empty(&lab.from);
        empty(&lab.to);
        let mut pair = Pair::new();
        grow(&lab.from, &mut rng, 60);
        grow(&lab.to, &mut rng, 20);
        for step in 0..3 {
            let rules = if step == 0 || rng.one_in(2) {
                String::new()
            } else {
                random_rules(&mut rng, 5)
            };
            let what = format!("seed {seed} step {step} rules {rules:?}");
            round(&lab, &mut pair, &rules, &what);
            if !rules.is_empty() && pair.complaints.is_empty() {
                assert_eq!(rsync_with_rules(&lab, &rules), "", "{what}");
            }
            mutate(&lab.from, &mut rng, 12);
            mutate(&lab.to, &mut rng, 8);
        }
        // With filter files of directories.
        let frozen_rules = random_rules(&mut rng, 3);
        let dirs: Vec<_> = list(&lab.from)
            .into_iter()
            .filter(|(_, kind)| *kind == Kind::Dir)
            .collect();
        thaw(&lab.from);
        for _ in 0..3.min(dirs.len()) {
            let dir = lab.from.join(std::ffi::OsStr::new(
                std::str::from_utf8(&rng.pick(&dirs).0).unwrap_or(""),
            ));
            let _ = fs::write(dir.join(DIRECTORY_FILTER_NAME), random_rules(&mut rng, 3));
        }
        let what = format!("seed {seed} with filter files, rules {frozen_rules:?}");
        round(&lab, &mut pair, &frozen_rules, &what);
    }
    empty(&lab.from);
    empty(&lab.to);
}
