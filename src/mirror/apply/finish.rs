//! What comes when everything else is in place: deletions, then the attributes and times of
//! directories, because changing what is in them moves their times.

use std::collections::HashMap;
use std::os::fd::AsFd;

use super::{Applied, ApplyError};
use crate::escape::escape_bytes;
use crate::interrupt::AbortFlag;
use crate::mirror::codec::Malformed;
use crate::mirror::entry::{Aspects, Meta};
use crate::mirror::place::{self, Deleted, DirCache, PlaceError, Shared};
use crate::mirror::plan::{FolderPlan, Old, Step};
use crate::mirror::spool::Spool;
use crate::mirror::staging::{self, LATE_FLAGS};
use crate::mirror::told::Told;
use crate::mirror::tree::Tree;

/// Deletions: last of all, what is in a directory before the directory.
pub(super) fn delete_all(
    shared: &Shared<'_>,
    plan: &FolderPlan,
    applied: &mut Applied,
    told: &mut Told<'_>,
    abort: &AbortFlag,
) -> Result<(), ApplyError> {
    let mut deletions = plan.deletions()?;
    let mut dirs = DirCache::default();
    while let Some(op) = deletions.next_op()? {
        abort.check()?;
        if op.from.is_some() {
            // It went with the directory that gave way.
            continue;
        }
        let old = op.old.as_ref().ok_or(Malformed("a deletion of nothing"))?;
        match place::delete(shared, &mut dirs, &op.path, old) {
            Ok(Deleted::Gone) => {
                applied.items += 1;
                told.made((&op).into(), &op.path)?;
            }
            Ok(Deleted::NotEmpty) => {
                applied
                    .notes
                    .warn("kept, something new is in it", &escape_bytes(&op.path));
            }
            Err(error) => {
                let text = format!("{}: {error}", escape_bytes(&op.path));
                applied.notes.error("not deleted", &text);
            }
        }
        told.progress(applied.items, applied.bytes, &op.path)?;
    }
    Ok(told.flush()?)
}

/// What is known of the directories that were to be made.
pub(super) struct MadeDirs {
    /// For each in the plan's order: its inode number if it is to be finished, else 0.
    pub(super) inos: Spool,
    /// Those that somebody else made.
    pub(super) adopted: HashMap<Vec<u8>, u64>,
}

/// Attributes of directories that were there, when what is in them moves no more; and of the new ones
/// that could not have all of theirs before.
pub(super) fn finish_dirs(
    tree: &Tree,
    plan: &FolderPlan,
    made: &MadeDirs,
    applied: &mut Applied,
    told: &mut Told<'_>,
    abort: &AbortFlag,
) -> Result<(), ApplyError> {
    let mut inos = made.inos.reader()?;
    let mut ops = plan.changes()?;
    while let Some(op) = ops.next_op()? {
        abort.check()?;
        let ino = match op.step {
            Step::MakeDir => {
                let record = inos.next_record()?.unwrap_or_default();
                let ino = record.try_into().map_err(|_| Malformed("no such note"))?;
                let adopted = made.adopted.get(&op.path).copied();
                adopted.unwrap_or_else(|| u64::from_le_bytes(ino))
            }
            Step::DirAttributes => op.old.as_ref().map_or(0, |old| old.ino),
            _ => continue,
        };
        // Finished, or it could not be made: said already.
        if ino == 0 {
            continue;
        }
        let result = finish_dir(tree, &op.path, ino, &op.meta);
        match result {
            Ok(()) if op.step == Step::DirAttributes => {
                applied.items += 1;
                told.made((&op).into(), &op.path)?;
            }
            Ok(()) => {}
            Err(error) => {
                let text = format!("{}: {error}", escape_bytes(&op.path));
                applied.notes.error("attributes not set", &text);
            }
        }
        told.progress(applied.items, applied.bytes, &op.path)?;
    }
    Ok(told.flush()?)
}

/// Gives the directory at `path` its attributes, if it is the inode `ino`: not another one that
/// somebody moved there to have it given away.
fn finish_dir(tree: &Tree, path: &[u8], ino: u64, want: &Meta) -> Result<(), PlaceError> {
    let dir = tree.open_dir(path)?;
    if Old::of(&dir)?.ino != ino {
        return Err(PlaceError::Changed);
    }
    let have = tree.look_fd(dir.as_fd())?;
    // An immutable directory takes no new time either.
    if have.flags & LATE_FLAGS != 0 {
        staging::set_flags(dir.as_fd(), have.flags & !LATE_FLAGS, u32::MAX)?;
    }
    let aspects = Aspects::between(want, &have);
    if aspects.any(Aspects::OWNER | Aspects::MODE | Aspects::XATTRS) {
        staging::remove_xattrs(dir.as_fd(), &have, want)?;
        staging::set_attributes(dir.as_fd(), want)?;
    }
    if aspects.any(Aspects::FLAGS) {
        staging::set_flags(dir.as_fd(), want.flags & !LATE_FLAGS, u32::MAX)?;
    }
    staging::set_mtime(dir.as_fd(), want.mtime)?;
    if want.flags & LATE_FLAGS != 0 {
        staging::set_flags(dir.as_fd(), want.flags, u32::MAX)?;
    }
    Ok(())
}
