//! Directories that are moved as they are: first of all, before anything is made.
//!
//! Each step is one rename within the tree people see, or one exchange of two directories that are
//! both to be moved. Nothing goes through the staging directory, so there is nothing to be put back
//! after a crash: whatever was not moved is where it was, and the next sync begins from there.

use super::{Applied, ApplyError};
use crate::escape::escape_bytes;
use crate::interrupt::AbortFlag;
use crate::mirror::entry::split;
use crate::mirror::moves::{Move, Moves};
use crate::mirror::place::{Moving, Shared, move_dir};
use crate::mirror::plan::{FolderPlan, Op, Step};
use crate::mirror::told::Told;

/// Makes the moves of a plan.
pub(super) fn move_all(
    shared: &Shared<'_>,
    plan: &FolderPlan,
    applied: &mut Applied,
    told: &mut Told<'_>,
    abort: &AbortFlag,
) -> Result<(), ApplyError> {
    let planned = planned(plan)?;
    let moves = Moves::of(planned.iter().map(|(m, _)| m.clone()).collect());
    for (at, step) in moves.steps().into_iter().enumerate() {
        abort.check()?;
        let (m, op) = &planned[at];
        let parent_after = moves.after(split(&m.from).0);
        let ino_of = |other: usize| planned[other].1.old.as_ref().map_or(0, |old| old.ino);
        let moving = Moving {
            now: &step.now,
            parent_after: &parent_after,
            to: &step.to,
            instead: step.instead.map(ino_of),
        };
        let moved = match &op.old {
            Some(old) => move_dir(shared, &moving, old),
            None => continue,
        };
        match moved {
            Ok(()) => {
                applied.items += 1;
                applied.moves += 1;
                told.made(op.into(), &op.path)?;
            }
            Err(error) => {
                let text = format!("{}: {error}", escape_bytes(&op.path));
                applied.notes.error("not moved", &text);
            }
        }
    }
    Ok(told.flush()?)
}

/// The moves, which a plan begins with.
fn planned(plan: &FolderPlan) -> Result<Vec<(Move, Op)>, ApplyError> {
    let mut planned = Vec::new();
    let mut ops = plan.changes()?;
    while let Some(op) = ops.next_op()? {
        let Some(from) = op.from.clone().filter(|_| op.step == Step::Move) else {
            break;
        };
        let to = op.path.clone();
        planned.push((Move { from, to }, op));
    }
    Ok(planned)
}
