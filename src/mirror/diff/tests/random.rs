//! Random trees and random changes between two snapshots, against a complete walk of both.
//!
//! `PCS_SEEDS=500` tries that many seeds instead of a few; `PCS_SEED=17` begins at that one.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;

use rustix::fs::{CWD, FallocateFlags, RenameFlags, fallocate, renameat_with};

use super::*;
use crate::mirror::path::split;
use crate::mirror::tests_property::{empty, number};
use crate::mirror::tests_random::{Random, grow, list, mutate, thaw};

fn under(top: &Path, path: &[u8]) -> PathBuf {
    top.join(OsStr::from_bytes(path))
}

/// A name in `dir` that nothing has, or may have.
fn fresh(rng: &mut Random, dir: &Path) -> PathBuf {
    dir.join(["a", "b", "keep", "dir", "moved", "z", "o257-7-0"][rng.below(7)])
}

fn is_subvolume(path: &Path) -> bool {
    let is_dir = fs::symlink_metadata(path).is_ok_and(|meta| meta.is_dir());
    is_dir && btrfs::is_subvolume(File::open(path).unwrap()).unwrap()
}

/// Deletes a subvolume and all that is nested in it.
fn destroy(path: &Path) {
    for (below, kind) in list(path) {
        let below = under(path, &below);
        if kind == Kind::Dir && is_subvolume(&below) {
            destroy(&below);
        }
    }
    let parent = File::open(path.parent().unwrap()).unwrap();
    btrfs::destroy_subvolume(&parent, path.file_name().unwrap()).unwrap();
}

/// Removes whatever is there, nested subvolumes in it too.
fn remove(path: &Path) {
    let Ok(meta) = fs::symlink_metadata(path) else {
        return;
    };
    if !meta.is_dir() {
        fs::remove_file(path).unwrap();
    } else if is_subvolume(path) {
        destroy(path);
    } else {
        for entry in fs::read_dir(path).unwrap() {
            remove(&entry.unwrap().path());
        }
        fs::remove_dir(path).unwrap();
    }
}

/// Changes of names and of parts of files, which is what a diff is most likely to get wrong.
fn disturb(top: &Path, rng: &mut Random, changes: usize) {
    thaw(top);
    for _ in 0..changes {
        let paths: Vec<(Vec<u8>, Kind)> = list(top)
            .into_iter()
            .filter(|(path, _)| !is_below_subvolume(top, path))
            .collect();
        if paths.is_empty() {
            return;
        }
        let (path, kind) = rng.pick(&paths).clone();
        let full = under(top, &path);
        let dirs: Vec<&Vec<u8>> = paths
            .iter()
            .filter(|(path, kind)| *kind == Kind::Dir && !is_subvolume(&under(top, path)))
            .map(|(path, _)| path)
            .collect();
        let root = Vec::new();
        let dir = if dirs.is_empty() || rng.one_in(4) {
            top.to_owned()
        } else {
            under(top, dirs.get(rng.below(dirs.len())).unwrap_or(&&root))
        };
        let other = under(top, &rng.pick(&paths).0);
        match rng.below(16) {
            // Moves, over what is there or not; refused ones (into itself, onto a full directory).
            0..=2 => drop(fs::rename(&full, fresh(rng, &dir))),
            3 => drop(fs::rename(&full, &other)),
            4 | 5 => drop(renameat_with(
                CWD,
                &full,
                CWD,
                &other,
                RenameFlags::EXCHANGE,
            )),
            // The parent below its child.
            6 if kind == Kind::Dir => {
                let (parent, _) = split(&path);
                let parent = under(top, parent);
                let aside = fresh(rng, top);
                if parent != top && fs::rename(&full, &aside).is_ok() {
                    let _ = fs::rename(&parent, aside.join("inside"));
                    let _ = fs::rename(&aside, &full);
                }
            }
            // The same name for something new.
            7 => {
                let is_dir = kind == Kind::Dir;
                remove(&full);
                if is_dir == rng.one_in(4) {
                    fs::write(&full, "anew").unwrap();
                } else {
                    fs::create_dir(&full).unwrap();
                    fs::write(full.join("a"), "in the new one").unwrap();
                }
            }
            8 | 9 if kind == Kind::File => part(&full, rng),
            10 if kind == Kind::File => {
                let copy = fresh(rng, &dir);
                if fs::symlink_metadata(&copy).is_err() {
                    let (from, to) = (File::open(&full).unwrap(), File::create(copy).unwrap());
                    rustix::fs::ioctl_ficlone(to, from).unwrap_or_default();
                }
            }
            11 if kind != Kind::Dir => drop(fs::hard_link(&full, fresh(rng, &dir))),
            12 => {
                let new = fresh(rng, &dir);
                if rng.one_in(3) {
                    remove(&new);
                }
                if fs::symlink_metadata(&new).is_err() {
                    let dir = File::open(new.parent().unwrap()).unwrap();
                    btrfs::create_subvolume(&dir, new.file_name().unwrap()).unwrap();
                    fs::write(new.join("inner"), "x").unwrap();
                }
            }
            13 => {
                let nested: Vec<PathBuf> = paths
                    .iter()
                    .map(|(path, _)| under(top, path))
                    .filter(|path| is_subvolume(path))
                    .collect();
                if !nested.is_empty() {
                    let one = rng.pick(&nested);
                    match rng.below(3) {
                        0 => remove(one),
                        1 => drop(fs::rename(one, fresh(rng, &dir))),
                        _ => fs::write(one.join("inner"), "y").unwrap(),
                    }
                }
            }
            14 => {
                drop(fs::metadata(&full).and_then(|m| fs::set_permissions(&full, m.permissions())));
            }
            _ if kind == Kind::Dir && rng.one_in(2) => remove(&full),
            _ => {}
        }
    }
}

fn is_below_subvolume(top: &Path, path: &[u8]) -> bool {
    above(path).any(|dir| is_subvolume(&under(top, dir)))
}

/// Changes a part of a file.
fn part(full: &Path, rng: &mut Random) {
    let file = OpenOptions::new().write(true).open(full).unwrap();
    let size = file.metadata().unwrap().len();
    let offset = rng.next() % (size + 9000);
    let length = rng.next() % 9000 + 1;
    let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    match rng.below(6) {
        0 => file.set_len(offset).unwrap(),
        1 => {
            file.set_len(offset).unwrap();
            file.set_len(offset + length).unwrap();
        }
        2 => drop(fallocate(&file, punch, offset, length)),
        3 => drop(fallocate(&file, FallocateFlags::KEEP_SIZE, offset, length)),
        4 => drop(fallocate(&file, FallocateFlags::ZERO_RANGE, offset, length)),
        _ => drop(file.write_all_at(&vec![7; usize::try_from(length).unwrap()], offset)),
    }
}

#[test]
fn random_changes_are_all_found() {
    let Some(lab) = Lab::new() else { return };
    let first = number("PCS_SEED", 1);
    for seed in first..first + number("PCS_SEEDS", 12) {
        let mut rng = Random::new(seed);
        thaw(&lab.live);
        for entry in fs::read_dir(&lab.live).unwrap() {
            remove(&entry.unwrap().path());
        }
        empty(&lab.live);
        grow(&lab.live, &mut rng, 60);
        disturb(&lab.live, &mut rng, 10);
        let older = lab.snapshot(&format!("{seed}-older"));
        for step in 0..3 {
            let changes = 1 + rng.below(20);
            disturb(&lab.live, &mut rng, changes);
            if rng.one_in(2) {
                let changes = 1 + rng.below(6);
                grow(&lab.live, &mut rng, changes);
            }
            let newer = lab.snapshot(&format!("{seed}-newer-{step}"));
            let what = format!("seed {seed} step {step}");
            judged(&older, &newer, &what);
        }
    }
}

#[test]
fn random_changes_of_everything_are_all_found() {
    let Some(lab) = Lab::new() else { return };
    let first = number("PCS_SEED", 1);
    for seed in first..first + number("PCS_SEEDS", 6) {
        let mut rng = Random::new(seed);
        empty(&lab.live);
        grow(&lab.live, &mut rng, 60);
        let older = lab.snapshot(&format!("{seed}-older"));
        mutate(&lab.live, &mut rng, 15);
        let newer = lab.snapshot(&format!("{seed}-newer"));
        let what = format!("seed {seed}");
        judged(&older, &newer, &what);
    }
}
