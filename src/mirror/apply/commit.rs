//! The thread that makes lots durable and places them, one after the other.

use crossbeam_channel::Receiver;
use rustix::io::Errno;

use super::fresh;
use super::lot::{Item, Sealed};
use super::outcome::Outcome;
use super::{ApplyError, write_error};
use crate::interrupt::{AbortFlag, Interrupted};
use crate::mirror::entry::Time;
use crate::mirror::place::{self, DirCache, PlaceError, Shared};
use crate::mirror::told::Told;

/// Places lots.
pub(super) struct Committer<'a> {
    pub(super) shared: &'a Shared<'a>,
    pub(super) outcome: &'a Outcome,
    pub(super) told: Told<'a>,
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
            self.told.flush()?;
        }
        Ok(())
    }

    fn place(&mut self, item: Item) -> Result<(), ApplyError> {
        let (shared, dirs) = (self.shared, &mut self.dirs);
        let (path, placed) = match item {
            Item::Place {
                staged,
                path,
                kind,
                old,
                late_flags,
                note,
            } => {
                let old = old.as_ref();
                let placed = if late_flags == 0 {
                    place::place(shared, dirs, &staged, kind, &path, old)
                } else {
                    place::place_flagged(shared, dirs, &staged, &path, old, late_flags)
                };
                (path.clone(), placed.map(|()| vec![(note, path)]))
            }
            Item::Tree { top, path, old } => {
                let (planned, outcome) = (self.planned, self.outcome);
                let placed =
                    fresh::place_tree(shared, dirs, &top, &path, old.as_ref(), planned, outcome);
                let mut made = top.take();
                if placed.is_err() && made.len() > 1 {
                    let others = made.len() - 1;
                    let text = format!("{others} entries of a directory that could not be placed");
                    self.outcome.results().complain("not changed", &path, &text);
                }
                let placed = placed.map(|behind| {
                    let stays = |path: &[u8]| behind.iter().any(|top| is_at_or_below(path, top));
                    made.retain(|(_, path)| !stays(path));
                    made
                });
                (path, placed)
            }
            Item::Link {
                leader,
                path,
                old,
                want,
                note,
            } => {
                let mut results = self.outcome.results();
                if results.failed.contains(&leader) {
                    results.complain("not linked", &path, &"its first name failed");
                    return Ok(());
                }
                drop(results);
                let placed = place::place_link(shared, dirs, &leader, &path, old.as_ref(), &want);
                (path.clone(), placed.map(|()| vec![(note, path)]))
            }
        };
        match placed {
            Ok(made) => {
                let mut results = self.outcome.results();
                results.placed += made.len() as u64;
                results.moves += 1;
                drop(results);
                for (note, path) in made {
                    self.told.made(note, &path)?;
                }
                Ok(())
            }
            Err(PlaceError::Io(Errno::INTR)) if self.outcome.stop.is_raised() => {
                Err(Interrupted.into())
            }
            Err(error) => self.outcome.failed(&path, &error),
        }
    }
}

/// Whether `path` is `top` or below it.
fn is_at_or_below(path: &[u8], top: &[u8]) -> bool {
    path.strip_prefix(top)
        .is_some_and(|rest| rest.is_empty() || rest[0] == b'/')
}
