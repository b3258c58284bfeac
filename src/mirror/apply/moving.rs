//! What is moved as it is: first of all, before anything else is made.
//!
//! Each step is one rename within the tree people see, or one exchange of two things that are both to be
//! moved. Nothing goes through the staging directory but what is moved over something that gives way
//! (`place/over.rs`), and new directories that something is
//! moved into, which are placed empty and with all their attributes; so there is nothing to be put back
//! after a crash: whatever was not moved is where it was, and the next sync begins from there. A directory that was
//! just being moved over another is kept by the next run, as is one that had given way (`staging.rs`). What was in a
//! directory that gave way is deleted before anything else is made, so that an end of the run later on leaves
//! nothing of it.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use rustix::fs::AtFlags;

use super::{Applied, ApplyError, write_error};
use crate::escape::escape_bytes;
use crate::interrupt::{AbortFlag, Interrupted};
use crate::mirror::entry::Meta;
use crate::mirror::moves::Moves;
use crate::mirror::path::{above, split};
use crate::mirror::place::{
    Deleted, DirCache, Moving, PlaceError, Shared, delete_in, is_there, move_as_it_is, move_over,
    place_new,
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
    let mut goes = Goes::of(&moves);
    let done = move_each(
        &mut way,
        &mut goes,
        (&moves, &planned),
        applied,
        told,
        abort,
    );
    goes.delete_all(shared, plan, applied, told, abort)?;
    done?;
    told.flush()?;
    Ok(way.made)
}

fn move_each(
    way: &mut Way<'_>,
    goes: &mut Goes,
    (moves, planned): (&Moves, &[Op]),
    applied: &mut Applied,
    told: &mut Told<'_>,
    abort: &AbortFlag,
) -> Result<(), ApplyError> {
    let shared = way.shared;
    for (op, step) in planned.iter().zip(moves.steps()) {
        abort.check()?;
        let Some(old) = &op.old else { continue };
        let from = op.from.as_deref().unwrap_or_default();
        let parent_after = goes.after(moves, split(from).0);
        let moving = Moving {
            now: &step.now,
            parent_after: parent_after.as_deref(),
            to: &step.to,
            instead: step.instead.and_then(|other| planned[other].old.as_ref()),
        };
        let ready = way.make(op, applied, told)?;
        let done = match ready {
            // It has come in exchange for another.
            Ok(()) if step.now == step.to => is_there(shared, &step.to, old),
            Ok(()) => match &op.over {
                Some(over) => {
                    let mut gave_way = None;
                    let done = move_over(shared, &moving, old, over, &mut gave_way);
                    goes.take_note(moves, op, gave_way);
                    done
                }
                None => move_as_it_is(shared, &moving, old),
            },
            Err(error) => Err(error),
        };
        match done {
            Ok(()) => {
                applied.items += 1;
                applied.moves += 1;
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
    Ok(())
}

/// What gave way is deleted so long after the word to stop, so that nothing of it has to be kept.
const AFTER_STOP: Duration = Duration::from_secs(2);

/// What gives way to what is moved.
struct Goes {
    /// Where it is before anything is moved.
    paths: HashSet<Vec<u8>>,
    /// Directories that gave way, with their names in the staging directory.
    staged: Vec<(Vec<u8>, String)>,
}

impl Goes {
    fn of(moves: &Moves) -> Self {
        let over = moves.list().iter().filter_map(|m| moves.over(m));
        Self {
            paths: over.collect(),
            staged: Vec::new(),
        }
    }

    /// Where the directory that is at `path` will be when all is done; nothing if it goes.
    fn after(&self, moves: &Moves, path: &[u8]) -> Option<Vec<u8>> {
        let mut at = path;
        while !at.is_empty() {
            if moves.from(at).is_some() {
                break;
            }
            if self.paths.contains(at) {
                return None;
            }
            at = split(at).0;
        }
        Some(moves.after(path))
    }

    fn take_note(&mut self, moves: &Moves, op: &Op, gave_way: Option<String>) {
        let m = moves.to(&op.path);
        if let (Some(path), Some(staged)) = (m.and_then(|m| moves.over(m)), gave_way) {
            self.staged.push((path, staged));
        }
    }

    /// Deletes what was planned to be deleted in directories that gave way, and these.
    fn delete_all(
        self,
        shared: &Shared<'_>,
        plan: &FolderPlan,
        applied: &mut Applied,
        told: &mut Told<'_>,
        abort: &AbortFlag,
    ) -> Result<(), ApplyError> {
        if self.staged.is_empty() {
            return Ok(());
        }
        let mut tops = HashMap::new();
        for (path, staged) in &self.staged {
            let top = (shared.tree).open_child(shared.staging.dir(), staged.as_bytes());
            tops.insert(&path[..], top.map_err(|e| write_error(path, e))?);
        }
        let mut until = None;
        let mut deletions = plan.deletions()?;
        while let Some(op) = deletions.next_op()? {
            let (Some(from), Some(old)) = (&op.from, &op.old) else {
                continue;
            };
            let Some((top, dir)) = above(from).find_map(|dir| Some((dir, tops.get(dir)?))) else {
                continue;
            };
            if abort.is_raised()
                && until.get_or_insert_with(|| Instant::now() + AFTER_STOP) < &mut Instant::now()
            {
                break;
            }
            match delete_in(shared, dir, &from[top.len() + 1..], old) {
                Ok(Deleted::Gone) => {
                    applied.items += 1;
                    // Whether anybody still hears of it or not.
                    let _ = told.made((&op).into(), &op.path);
                }
                // It is kept with what is in it.
                Ok(Deleted::NotEmpty) => {}
                Err(error) => {
                    let text = format!("{}: {error}", escape_bytes(&op.path));
                    applied.notes.error("not deleted", &text);
                }
            }
        }
        for (path, staged) in &self.staged {
            let staging = shared.staging;
            super::clear_displaced(shared.tree, staging, path, staged, &mut applied.notes);
        }
        Ok(())
    }
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
