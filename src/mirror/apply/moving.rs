//! What is moved as it is: first of all, before anything else is made.
//!
//! Each step is one rename within the tree people see, or one exchange of two things that are both to be
//! moved. Nothing goes through the staging directory but new directories that something is
//! moved into, which are placed empty and with all their attributes; so there is nothing to be put back
//! after a crash: whatever was not moved is where it was, and the next sync begins from there.

use std::collections::{HashMap, HashSet};

use rustix::fs::AtFlags;

use super::{Applied, ApplyError, write_error};
use crate::escape::escape_bytes;
use crate::interrupt::{AbortFlag, Interrupted};
use crate::mirror::entry::{Meta, above, split};
use crate::mirror::place::{
    DirCache, Moving, PlaceError, Shared, is_there, move_as_it_is, place_new,
};
use crate::mirror::plan::{FolderPlan, Op, Step};
use crate::mirror::staging;
use crate::mirror::told::Told;

/// Makes the moves of a plan; returns the new directories that had to be there before, with their
/// inode numbers: they are still to be finished when all is in place.
pub(super) fn move_all(
    shared: &Shared<'_>,
    plan: &FolderPlan,
    applied: &mut Applied,
    told: &mut Told<'_>,
    abort: &AbortFlag,
) -> Result<HashMap<Vec<u8>, u64>, ApplyError> {
    let moves = plan.moves()?;
    if moves.is_empty() {
        return Ok(HashMap::new());
    }
    let mut ops = plan.changes()?;
    let mut planned = Vec::with_capacity(moves.list().len());
    while planned.len() < moves.list().len()
        && let Some(op) = ops.next_op()?
    {
        planned.push(op);
    }
    let mut way = Way {
        shared,
        wanted: new_above(plan, planned.iter().map(|op| &op.path))?,
        made: HashMap::new(),
    };
    for (op, step) in planned.iter().zip(moves.steps()) {
        abort.check()?;
        let Some(old) = &op.old else { continue };
        let parent_after = moves.after(split(op.from.as_deref().unwrap_or_default()).0);
        let moving = Moving {
            now: &step.now,
            parent_after: &parent_after,
            to: &step.to,
            instead: step.instead.and_then(|other| planned[other].old.as_ref()),
        };
        let ready = way.make(op, applied, told)?;
        let done = match ready {
            // It has come in exchange for another.
            Ok(()) if step.now == step.to => is_there(shared, &step.to, old),
            Ok(()) => move_as_it_is(shared, &moving, old),
            Err(error) => Err(error),
        };
        match done {
            Ok(()) => {
                applied.items += 1;
                applied.moves += 1;
                let from = op.from.as_deref().unwrap_or_default();
                told.moved(op.into(), from, &op.path)?;
            }
            Err(PlaceError::Io(errno)) if PlaceError::Io(errno).is_fatal() => {
                return Err(write_error(&op.path, errno));
            }
            Err(error) => {
                let text = format!("{}: {error}", escape_bytes(&op.path));
                applied.notes.error("not moved", &text);
            }
        }
        told.progress(applied.items, applied.bytes, &op.path)?;
    }
    told.flush()?;
    Ok(way.made)
}

/// New directories of the plan above some of `paths`.
fn new_above<'p>(
    plan: &FolderPlan,
    paths: impl Iterator<Item = &'p Vec<u8>>,
) -> Result<HashMap<Vec<u8>, Op>, ApplyError> {
    let above: HashSet<&[u8]> = paths.flat_map(|path| above(path)).collect();
    let mut found = HashMap::new();
    if above.is_empty() {
        return Ok(found);
    }
    let mut ops = plan.changes()?;
    while let Some(op) = ops.next_op()? {
        if op.step == Step::MakeDir && op.old.is_none() && above.contains(&op.path[..]) {
            found.insert(op.path.clone(), op);
        }
    }
    Ok(found)
}

/// New directories that something is moved into.
struct Way<'a> {
    shared: &'a Shared<'a>,
    /// Those still to be made.
    wanted: HashMap<Vec<u8>, Op>,
    /// The others, with their inode numbers.
    made: HashMap<Vec<u8>, u64>,
}

impl Way<'_> {
    /// Makes the new directories that `op` leads into.
    fn make(
        &mut self,
        op: &Op,
        applied: &mut Applied,
        told: &mut Told<'_>,
    ) -> Result<Result<(), PlaceError>, Interrupted> {
        for path in above(&op.path) {
            let Some(dir) = self.wanted.remove(path) else {
                continue;
            };
            match self.make_dir(path, &dir.meta) {
                Ok(ino) => self.made.insert(path.to_vec(), ino),
                Err(error) => return Ok(Err(error)),
            };
            applied.items += 1;
            applied.moves += 1;
            told.made((&dir).into(), path)?;
        }
        Ok(Ok(()))
    }

    /// Makes a directory with its attributes, and places it empty.
    fn make_dir(&self, path: &[u8], meta: &Meta) -> Result<u64, PlaceError> {
        let (tree, fresh) = (self.shared.tree, self.shared.staging.fresh());
        let name = self.shared.staging.new_name();
        staging::new_bare_dir(tree, fresh, name.as_bytes(), meta)?;
        staging::finish_bare_dir(tree, fresh, name.as_bytes(), meta)?;
        let ino = rustix::fs::statat(fresh, &name[..], AtFlags::SYMLINK_NOFOLLOW)?.st_ino;
        let mut dirs = DirCache::default();
        place_new(self.shared, &mut dirs, fresh, name.as_bytes(), path)?;
        Ok(ino)
    }
}
