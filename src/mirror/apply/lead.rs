//! The thread that goes through the plan: makes directories, nodes and copies of what is there, has
//! the hands make files, and seals one lot after the other.

use std::collections::HashMap;
use std::os::fd::AsFd;
use std::time::Duration;

use crossbeam_channel::{SendTimeoutError, Sender};

use super::ApplyError;
use super::hand::{Order, Spot};
use super::lot::{Filling, Item, Sealed};
use super::outcome::Outcome;
use crate::interrupt::{AbortFlag, Interrupted};
use crate::mirror::codec::Malformed;
use crate::mirror::delta::partial;
use crate::mirror::entry::Meta;
use crate::mirror::path::split;
use crate::mirror::place::{DirCache, PlaceError, Shared};
use crate::mirror::plan::{FolderPlan, Old, Op, Step};
use crate::mirror::spool::SpoolWriter;
use crate::mirror::staging;
use crate::mirror::told::Told;

/// Goes through the plan.
pub(super) struct Lead<'a> {
    shared: &'a Shared<'a>,
    outcome: &'a Outcome,
    told: Told<'a>,
    orders: Sender<Order>,
    lots: Sender<Sealed>,
    filling: Filling,
    /// The directory of the last file that was there already.
    dirs: DirCache,
    /// The last new directory.
    fresh: DirCache,
    made: SpoolWriter,
    /// New directories that are there already, by path: their inode numbers.
    made_before: HashMap<Vec<u8>, u64>,
}

/// Sends `value`, looking at the flag while there is no room.
fn send<T>(channel: &Sender<T>, mut value: T, stop: &AbortFlag) -> Result<(), Interrupted> {
    loop {
        stop.check()?;
        match channel.send_timeout(value, Duration::from_millis(50)) {
            Ok(()) => return Ok(()),
            Err(SendTimeoutError::Timeout(back)) => value = back,
            Err(SendTimeoutError::Disconnected(_)) => return Err(Interrupted),
        }
    }
}

impl<'a> Lead<'a> {
    /// Has `orders` carried out and `lots` placed.
    pub(super) fn new(
        shared: &'a Shared<'a>,
        outcome: &'a Outcome,
        told: Told<'a>,
        orders: Sender<Order>,
        lots: Sender<Sealed>,
    ) -> Result<Self, ApplyError> {
        Ok(Self {
            shared,
            outcome,
            told,
            orders,
            lots,
            filling: Filling::default(),
            dirs: DirCache::default(),
            fresh: DirCache::default(),
            made: SpoolWriter::new()?,
            made_before: HashMap::new(),
        })
    }

    /// The same when these new directories are there already.
    pub(super) fn after(self, made_before: HashMap<Vec<u8>, u64>) -> Self {
        Self {
            made_before,
            ..self
        }
    }

    /// Goes through all changes; returns what is known of the directories that were to be made: for
    /// each its inode number if it is finished when all is in place, else 0.
    pub(super) fn run(mut self, plan: &FolderPlan) -> SpoolWriter {
        let result = self.go_through(plan);
        self.outcome.ended(result);
        self.made
    }

    fn go_through(&mut self, plan: &FolderPlan) -> Result<(), ApplyError> {
        let mut ops = plan.changes()?;
        while let Some(op) = ops.next_op()? {
            self.outcome.stop.check()?;
            self.step(op)?;
            if self.filling.is_full() {
                self.hand_over()?;
            }
        }
        self.hand_over()
    }

    fn hand_over(&mut self) -> Result<(), ApplyError> {
        match self.filling.seal() {
            Some(sealed) => Ok(send(&self.lots, sealed, &self.outcome.stop)?),
            None => Ok(()),
        }
    }

    fn step(&mut self, op: Op) -> Result<(), ApplyError> {
        self.outcome.report(&mut self.told, &op.path)?;
        // After everything else, or before.
        if matches!(op.step, Step::DirAttributes | Step::Delete | Step::Move) {
            return Ok(());
        }
        self.filling.weigh(&op);
        let made = match op.step {
            Step::DirAttributes | Step::Delete | Step::Move => return Ok(()),
            Step::Fetch => return self.fetch(op),
            Step::Link => return self.link(op),
            Step::MakeDir => {
                let ino = match self.made_before.get(&op.path) {
                    Some(ino) => *ino,
                    None => self.make_dir(&op)?,
                };
                return Ok(self.made.push(&ino.to_le_bytes())?);
            }
            Step::Reattribute => self.reattribute(&op),
            Step::MakeNode => self.make_node(&op),
        };
        made.or_else(|error| self.outcome.failed(&op.path, &error))
    }

    fn fetch(&mut self, op: Op) -> Result<(), ApplyError> {
        // What is worth keeping is not made where all goes together.
        let keep = partial::is_worth_keeping(&op);
        let spot = match self.filling.fresh.holds(&op.path) {
            Some(inside) if op.old.is_none() && !keep => Spot::Inside(inside.clone()),
            _ => {
                let staged = if keep {
                    partial::name_of(&op.path)
                } else {
                    self.shared.staging.new_name()
                };
                let item = self.filling.place(staged.clone(), &op);
                Spot::Staged { staged, item }
            }
        };
        let lot = self.filling.begin();
        Ok(send(
            &self.orders,
            Order { op, spot, lot },
            &self.outcome.stop,
        )?)
    }

    fn link(&mut self, op: Op) -> Result<(), ApplyError> {
        let leader = op.meta.leader.clone();
        let leader = leader.ok_or(Malformed("a link without its leader"))?;
        let note = (&op).into();
        let want = Meta {
            xattrs: Vec::new(),
            ..op.meta
        };
        self.filling.push(Item::Link {
            leader,
            path: op.path,
            old: op.old,
            want: Box::new(want),
            note,
        });
        Ok(())
    }

    fn make_dir(&mut self, op: &Op) -> Result<u64, ApplyError> {
        let fresh = &mut self.filling.fresh;
        match fresh.make(self.shared, &mut self.fresh, op) {
            Ok(made) => {
                if let Some(top) = made.top {
                    self.filling.push(Item::Tree {
                        top,
                        path: op.path.clone(),
                        old: op.old.clone(),
                    });
                }
                Ok(made.ino)
            }
            Err(errno) => {
                self.outcome.failed(&op.path, &errno.into())?;
                Ok(0)
            }
        }
    }

    fn make_node(&mut self, op: &Op) -> Result<(), PlaceError> {
        let inside = self.filling.fresh.holds(&op.path);
        if let Some(inside) = inside.filter(|_| op.old.is_none()) {
            let dir = inside.open(self.shared, &mut self.fresh)?;
            staging::new_node(dir.as_fd(), split(&op.path).1, &op.meta)?;
            inside.top.add(op);
            return Ok(());
        }
        let staged = self.shared.staging.new_name();
        staging::new_node(self.shared.staging.dir(), staged.as_bytes(), &op.meta)?;
        self.filling.place(staged, op);
        Ok(())
    }

    /// A copy by reflink of what is there, with the new attributes.
    fn reattribute(&mut self, op: &Op) -> Result<(), PlaceError> {
        let (parent, name) = split(&op.path);
        let dir = self.dirs.open(self.shared.tree, parent)?;
        let from = self.shared.tree.open_file(dir.as_fd(), name)?;
        // What has its name now may be a file that the new owner must not read.
        let now = Old::of(&from)?;
        if now.size != op.meta.size || !op.old.as_ref().is_some_and(|old| old.is_still(&now)) {
            return Err(PlaceError::Changed);
        }
        let staged = self.shared.staging.new_name();
        let to = staging::new_file(self.shared.staging.dir(), staged.as_bytes(), &op.meta)?;
        staging::copy_content(from.as_fd(), to.as_fd(), op.meta.size)?;
        staging::set_attributes(to.as_fd(), &op.meta)?;
        staging::set_mtime(to.as_fd(), op.meta.mtime)?;
        self.filling.place(staged, op);
        Ok(())
    }
}
