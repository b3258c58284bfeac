//! The thread that makes lots durable and places them, one after the other.

use crossbeam_channel::Receiver;

use super::fresh;
use super::lot::{Item, Sealed};
use super::outcome::Outcome;
use super::{ApplyError, write_error};
use crate::interrupt::AbortFlag;
use crate::mirror::entry::Time;
use crate::mirror::place::{self, DirCache, PlaceError, Shared};

/// Places lots.
pub(super) struct Committer<'a> {
    pub(super) shared: &'a Shared<'a>,
    pub(super) outcome: &'a Outcome<'a>,
    /// Stops it in the middle of a lot. What is finished is placed even if the rest cannot be made.
    pub(super) abort: &'a AbortFlag,
    /// When the plan was made.
    pub(super) planned: Time,
    /// The directory placed into last.
    pub(super) dirs: DirCache,
}

impl Committer<'_> {
    /// Places `lots` until there are no more.
    pub(super) fn run(mut self, lots: &Receiver<Sealed>) -> Result<(), ApplyError> {
        for sealed in lots {
            self.abort.check()?;
            let spoiled = sealed.lot.wait(&self.outcome.stop)?;
            fresh::finish(self.shared, &sealed.fresh, self.outcome);
            rustix::fs::syncfs(self.shared.tree.root()).map_err(|e| write_error(b"", e))?;
            for (number, item) in sealed.items.into_iter().enumerate() {
                self.abort.check()?;
                if !spoiled.contains(&number) {
                    self.place(item)?;
                }
            }
        }
        Ok(())
    }

    fn place(&mut self, item: Item) -> Result<(), ApplyError> {
        let (path, placed) = match item {
            Item::Place {
                staged,
                path,
                kind,
                old,
                late_flags,
            } => {
                let (shared, dirs, old) = (self.shared, &mut self.dirs, old.as_ref());
                let placed = if late_flags == 0 {
                    place::place(shared, dirs, &staged, kind, &path, old)
                } else {
                    place::place_flagged(shared, dirs, &staged, &path, old, late_flags)
                };
                (path, placed.map(|()| 1))
            }
            Item::Tree { top, path, old } => {
                let placed = fresh::place_tree(
                    self.shared,
                    &mut self.dirs,
                    &top,
                    &path,
                    old.as_ref(),
                    self.planned,
                    self.outcome,
                );
                let others = top.entries() - 1;
                if placed.is_err() && others > 0 {
                    let text = format!("{others} entries of a directory that could not be placed");
                    self.outcome.results().complain("not changed", &path, &text);
                }
                (path, placed)
            }
            Item::Link {
                leader,
                path,
                old,
                want,
            } => {
                let mut results = self.outcome.results();
                if results.failed.contains(&leader) {
                    results.complain("not linked", &path, &"its first name failed");
                    return Ok(());
                }
                drop(results);
                let (dirs, old) = (&mut self.dirs, old.as_ref());
                let placed = place::place_link(self.shared, dirs, &leader, &path, old, &want);
                (path, placed.map(|()| 1))
            }
        };
        match placed {
            Ok(entries) => {
                let mut results = self.outcome.results();
                results.placed += entries;
                results.moves += 1;
                Ok(())
            }
            Err(PlaceError::Io(rustix::io::Errno::INTR)) if self.outcome.stop.is_raised() => {
                Err(crate::interrupt::Interrupted.into())
            }
            Err(error) => self.outcome.failed(&path, &error),
        }
    }
}
