//! A root that goes back takes its kernels' modules along; a `/boot` that is no part of it keeps its kernels.
//!
//! A kernel without its modules boots into a machine without network and disks, so the two are compared
//! before a root goes back. Which kernel belongs to which modules is told by their version, which names the
//! directory of the modules and, on most systems, is part of the kernel's file name. Where it is not, the
//! kernels fit only if nothing about the modules' directories changes.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::escape::escape_bytes;

/// Where kernels are.
const PLACES: [&str; 3] = ["boot", "boot/efi", "efi"];
/// Where their modules are.
const MODULES: [&str; 2] = ["lib/modules", "usr/lib/modules"];
/// `/efi/EFI/Linux/name.efi`, `/boot/<machine>/<version>/linux`.
const DEPTH: usize = 3;
/// No more files of a place are looked at.
const FILES_MAX: usize = 20_000;

/// What stays as it is when the root goes back.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Staying {
    /// Places of kernels that are no part of the root, for people.
    pub places: Vec<String>,
    /// Kernels there that would not find their modules any more: by version, or by file name.
    pub orphaned: Vec<String>,
}

/// Looks what stays beside the root at `root` (`/`) when what is in it goes back to what is in `back`; places
/// in `going_back` do the same on their own.
#[must_use]
pub fn staying(root: &Path, back: &Path, going_back: &[PathBuf]) -> Staying {
    let device = |path: &Path| fs::metadata(path).map(|facts| facts.dev()).ok();
    let is_apart = |path: &PathBuf| {
        let parent = path.parent().unwrap_or(root);
        // Not merely in another place that is apart, which has it already.
        let here = device(path);
        here.is_some() && here != device(root) && here != device(parent)
    };
    let places = PLACES.map(|place| root.join(place));
    let places = places.into_iter().filter(is_apart);
    let places: Vec<PathBuf> = places.filter(|place| !going_back.contains(place)).collect();
    let shown = |place: &PathBuf| escape_bytes(place.as_os_str().as_bytes());
    let mut files = Vec::new();
    for place in &places {
        collect(place, DEPTH, &mut files);
    }
    let (now, then) = (modules(root), modules(back));
    Staying {
        places: places.iter().map(shown).collect(),
        orphaned: orphaned(&files, &now, &then),
    }
}

/// Of the kernels among `files` (relative paths), those that have their modules `now` and not `then`.
fn orphaned(files: &[Vec<u8>], now: &BTreeSet<Vec<u8>>, then: &BTreeSet<Vec<u8>>) -> Vec<String> {
    // `6.1.0-4` is part of the name of `6.1.0-40`: the longest that fits is meant.
    let version_of = |file: &[u8]| {
        let all = now.union(then);
        let fitting = all.filter(|version| has(file, version));
        fitting.max_by_key(|version| version.len()).cloned()
    };
    let mut orphaned = BTreeSet::new();
    for file in files.iter().filter(|file| is_kernel(file)) {
        match version_of(file) {
            Some(version) if !then.contains(&version) => {
                orphaned.insert(escape_bytes(&version));
            }
            // A version that has no modules now either is none that boots.
            None if !has_version(file) && now != then => {
                orphaned.insert(escape_bytes(file));
            }
            _ => {}
        }
    }
    orphaned.into_iter().collect()
}

fn name_of(file: &[u8]) -> &[u8] {
    file.rsplit(|byte| *byte == b'/').next().unwrap_or(file)
}

/// Whether a file of such a place is a kernel, by its name.
fn is_kernel(file: &[u8]) -> bool {
    let name = name_of(file);
    let begins = |with: &[u8]| name.starts_with(with);
    begins(b"vmlinuz")
        || begins(b"vmlinux")
        || begins(b"kernel-")
        || begins(b"Image")
        || name == b"linux"
        || (name.ends_with(b".efi") && has(file, b"EFI/Linux/"))
}

fn has(file: &[u8], part: &[u8]) -> bool {
    file.windows(part.len()).any(|window| window == part)
}

/// Whether something in the name looks like a version: a digit, a dot, a digit.
fn has_version(file: &[u8]) -> bool {
    file.windows(3)
        .any(|w| w[0].is_ascii_digit() && w[1] == b'.' && w[2].is_ascii_digit())
}

/// The versions of which a root has modules.
fn modules(root: &Path) -> BTreeSet<Vec<u8>> {
    let directories = MODULES.iter().map(|place| root.join(place));
    let entries = directories.filter_map(|directory| fs::read_dir(directory).ok());
    let entries = entries.flatten().filter_map(Result::ok);
    // What is left of a removed kernel is an empty directory, or one without this list.
    let is_whole = |path: &Path| path.join("modules.dep").exists() || path.join("kernel").is_dir();
    entries
        .filter(|entry| is_whole(&entry.path()))
        .map(|entry| entry.file_name().as_bytes().to_vec())
        .collect()
}

/// Regular files below a directory, by their paths relative to it; links are not followed.
fn collect(directory: &Path, depth: usize, files: &mut Vec<Vec<u8>>) {
    let mut open = vec![(directory.to_owned(), depth)];
    while let Some((at, depth)) = open.pop() {
        let Ok(entries) = fs::read_dir(&at) else {
            continue;
        };
        for entry in entries.filter_map(Result::ok) {
            if files.len() >= FILES_MAX {
                return;
            }
            let Ok(kind) = entry.file_type() else {
                continue;
            };
            let path = entry.path();
            if kind.is_dir() && depth > 1 {
                open.push((path, depth - 1));
            } else if kind.is_file() {
                let path = path.strip_prefix(directory).unwrap_or(&path);
                files.push(OsStr::as_bytes(path.as_os_str()).to_vec());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> BTreeSet<Vec<u8>> {
        names.iter().map(|name| name.as_bytes().to_vec()).collect()
    }

    type Names<'a> = &'a [&'a str];
    /// Files, modules now, modules then, kernels that lose theirs.
    type Case<'a> = (Names<'a>, Names<'a>, Names<'a>, Names<'a>);

    #[test]
    fn a_kernel_whose_modules_go_is_named() {
        let debian = [
            "vmlinuz-6.1.0-4-amd64",
            "vmlinuz-6.1.0-40-amd64",
            "initrd.img-6.1.0-40-amd64",
        ];
        let (old, both) = (["6.1.0-4-amd64"], ["6.1.0-4-amd64", "6.1.0-40-amd64"]);
        let cases: [Case<'_>; 9] = [
            (&debian, &both, &both, &[]),
            (&debian, &both, &old, &["6.1.0-40-amd64"]),
            // One that came back with the modules does no harm.
            (&debian, &old, &both, &[]),
            // Left behind by a removal: it has no modules now.
            (&["vmlinuz-5.10.0-1"], &old, &old, &[]),
            (&["vmlinuz-5.10.0-1"], &old, &["6.9"], &[]),
            // No version in the name.
            (
                &["vmlinuz-linux", "initramfs-linux.img"],
                &["6.9-arch"],
                &["6.9-arch"],
                &[],
            ),
            (
                &["vmlinuz-linux"],
                &["6.10-arch"],
                &["6.9-arch"],
                &["vmlinuz-linux"],
            ),
            (
                &[
                    "0123/6.9/linux",
                    "EFI/Linux/0123-6.10.efi",
                    "EFI/BOOT/BOOTX64.EFI",
                    "grub/x.efi",
                ],
                &["6.9", "6.10"],
                &["6.9"],
                &["6.10"],
            ),
            (&["grub/grub.cfg"], &["6.10"], &["6.9"], &[]),
        ];
        for (files, now, then, expected) in cases {
            let files: Vec<Vec<u8>> = files.iter().map(|f| f.as_bytes().to_vec()).collect();
            let found = orphaned(&files, &names(now), &names(then));
            assert_eq!(found, expected, "{files:?}: {now:?} to {then:?}");
        }
    }

    #[test]
    fn what_is_part_of_the_root_goes_back_with_it() {
        let temp = tempfile::tempdir().unwrap();
        let (root, back) = (temp.path().join("root"), temp.path().join("back"));
        for path in ["root/boot", "root/lib/modules/6.9/kernel", "back"] {
            fs::create_dir_all(temp.path().join(path)).unwrap();
        }
        fs::write(root.join("boot/vmlinuz-6.9"), "").unwrap();
        assert_eq!(staying(&root, &back, &[]), Staying::default());
        assert_eq!(modules(&root), names(&["6.9"]));
        assert!(modules(&back).is_empty());
    }
}
