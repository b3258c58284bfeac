//! What the kernel says of two trees of which one grew out of the other: where they may differ.
//!
//! The kernel compares snapshots only. So there is a snapshot of the tree that grew, as it was just now, and
//! what it says holds for that tree as far as nobody has written to it since.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::super::diff::snapshot::Snapshot;
use super::super::diff::{DiffError, changes};
use super::super::found;
use super::super::suspects::{Mark, SUSPECTS_MAX, Suspect, in_folder};
use super::super::tree::Tree;
use super::{LocalPlan, Side};
use crate::interrupt::AbortFlag;
use crate::sys::{btrfs, mounts};

/// Where the trees of `wanted` may differ, by the names of the first and by those of the second; `newer` is the
/// same place as theirs in a snapshot of the one that grew. And what neither side mirrors there, so that it is
/// named. The first tree has it all: what was moved in the tree that grew is moved back, or done likewise.
pub fn suspects(
    wanted: &LocalPlan,
    [from, to]: [&Tree; 2],
    newer: &Tree,
    abort: &AbortFlag,
) -> Result<[Vec<Suspect>; 2], DiffError> {
    let (older, grown, top) = match wanted.older {
        Some(Side::From) => (from, to, &wanted.to),
        Some(Side::To) => (to, from, &wanted.from),
        None => return Err(DiffError::Unrelated),
    };
    let (is, was) = (
        btrfs::subvolume_info(grown.root())?,
        btrfs::subvolume_info(newer.root())?,
    );
    let is_of_it = was.parent_uuid.as_ref() == Some(&is.uuid);
    // A copy of the root was made of it as the snapshot was, and just now.
    let is_sibling =
        wanted.to_copy && was.parent_uuid.is_some() && was.parent_uuid == is.parent_uuid;
    if is.uuid != was.uuid && !is_of_it && !is_sibling {
        return Err(DiffError::Unrelated);
    }
    let below = place(older)?;
    if place(newer)? != below || place(grown)? != below {
        return Err(DiffError::Disagreement("the folder was elsewhere then"));
    }
    let changes = changes(older.root(), newer.root(), SUSPECTS_MAX, abort)?;
    let others = others(grown, (is.id, &below), Path::new(OsStr::from_bytes(top)))?;
    let others = others
        .into_iter()
        .map(|path| Suspect::new(path, Mark::default()));
    let of = |changes| found::suspects(changes, &below, wanted.own_rules, false);
    Ok(match wanted.older {
        // What grew is the second tree; the names of both are told, because what was moved is at another
        // path in each.
        Some(Side::From) => {
            let grown: Vec<Suspect> = others.collect();
            [of(&changes.reversed()), grown]
        }
        _ => [of(&changes).into_iter().chain(others).collect(), Vec::new()],
    })
}

/// The path of a tree's root in its subvolume.
fn place(tree: &Tree) -> Result<Vec<u8>, DiffError> {
    Snapshot::new(tree.root()).path(tree.root_ino()?, b"")
}

/// Paths below the tree at `top`, which is `below` in subvolume `id`, of nested subvolumes and of mounts.
fn others(tree: &Tree, (id, below): (u64, &[u8]), top: &Path) -> Result<Vec<Vec<u8>>, DiffError> {
    let nested = btrfs::children(tree.root(), id)?;
    let nested = nested
        .iter()
        .filter_map(|child| in_folder(child.path.as_bytes(), below));
    let mut paths: Vec<Vec<u8>> = nested.map(<[u8]>::to_vec).collect();
    for mount in mounts::mounts()? {
        if let Ok(rest) = mount.mount_point.strip_prefix(top) {
            paths.push(rest.as_os_str().as_bytes().to_vec());
        }
    }
    paths.retain(|path| !path.is_empty());
    Ok(paths)
}
