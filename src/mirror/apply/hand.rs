//! A thread that makes files: asks the source for their content, a good many ahead (`asking`), takes it in and
//! writes it (`making`). It has a line to the source of its own.

mod asking;
mod making;

use std::collections::VecDeque;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError};
use rustix::io::Errno;

use self::asking::{Hint, Waiting};
use super::ApplyError;
use super::bases::Finder;
use super::fresh::Inside;
use super::line::Line;
use super::lot::Lot;
use super::outcome::Outcome;
use crate::mirror::delta::ranged::Prepared;
use crate::mirror::delta::rebuild::Job;
use crate::mirror::delta::survey::Survey;
use crate::mirror::entry::Time;
use crate::mirror::path::split;
use crate::mirror::place::{DirCache, PlaceError, Shared};
use crate::mirror::plan::{Old, Op};
use crate::mirror::told::Told;
use crate::mirror::tree::Tree;
use crate::mirror::wire::{FETCH_PATHS, FETCH_WINDOW, Message};

/// As many copies of old versions wait for what differs in them; each is an open file.
const PREPARED_MAX: usize = 256;

/// Orders that wait for a hand.
pub(super) const ORDERS: usize = 128;

/// A file to be made.
pub(super) struct Order {
    /// What it shall be.
    pub(super) op: Op,
    /// Where it is made.
    pub(super) spot: Spot,
    /// What it is made for.
    pub(super) lot: Arc<Lot>,
}

/// Where a file is made.
#[derive(Clone)]
pub(super) enum Spot {
    /// In the staging directory; it is moved by itself.
    Staged {
        /// Its name there.
        staged: String,
        /// Its number in the lot.
        item: usize,
    },
    /// In a new directory, under its final name.
    Inside(Inside),
}

/// A file whose content was asked for.
struct Asked {
    order: Order,
    /// The question's length.
    bytes: usize,
    what: What,
    /// Whether what it is made out of is a guess.
    is_guess: bool,
}

/// What of a file was asked for.
enum What {
    /// All of it; with `or_names`, the names of others like it will do.
    Whole { or_names: bool },
    /// How it is cut; where it is put together out of what has arrived of it before, another file or
    /// its own old version.
    Survey {
        survey: Survey,
        arrived: Option<OwnedFd>,
        base: Option<Arc<OwnedFd>>,
        staged: String,
    },
    /// What can differ, which will be written into this.
    Parts(Prepared),
}

/// Where the content of files comes from.
pub(super) enum Origin<'a> {
    /// A tree of this machine.
    Here(&'a Tree, DirCache),
    /// The other machine.
    There(Box<Line<'a>>),
}

/// Makes files.
pub(super) struct Hand<'a> {
    shared: &'a Shared<'a>,
    outcome: &'a Outcome,
    told: Told<'a>,
    orders: Receiver<Order>,
    origin: Origin<'a>,
    /// When the plan began.
    planned: Time,
    /// What was asked for and is not made yet.
    asked: VecDeque<Asked>,
    /// Length of the questions.
    asked_bytes: usize,
    /// What is asked next depends on the answer to what was asked last.
    ask_no_more: bool,
    /// How many copies of old versions wait for what differs.
    prepared: usize,
    /// Finds what files are made out of.
    finder: Finder<'a>,
    /// Files that wait for one that they are made out of, with its path.
    later: Vec<Waiting>,
    /// How many had been made when these were looked at.
    made_then: u64,
    /// What is asked for before anything else.
    next: VecDeque<(Order, Hint)>,
    /// The last new directory.
    fresh: DirCache,
    /// The directory of the last file that was there already.
    dirs: DirCache,
}

impl<'a> Hand<'a> {
    /// Carries out `orders`.
    pub(super) fn new(
        shared: &'a Shared<'a>,
        outcome: &'a Outcome,
        told: Told<'a>,
        orders: Receiver<Order>,
        origin: Origin<'a>,
        finder: Finder<'a>,
        planned: Time,
    ) -> Self {
        Self {
            shared,
            outcome,
            told,
            orders,
            origin,
            planned,
            asked: VecDeque::new(),
            asked_bytes: 0,
            ask_no_more: false,
            prepared: 0,
            finder,
            later: Vec::new(),
            made_then: 0,
            next: VecDeque::new(),
            fresh: DirCache::default(),
            dirs: DirCache::default(),
        }
    }

    /// Makes files until there are no more orders.
    pub(super) fn run(mut self) -> Result<(), ApplyError> {
        loop {
            self.outcome.stop.check()?;
            self.ask()?;
            if let Some(asked) = self.asked.pop_front() {
                self.make(asked)?;
                continue;
            }
            match self.orders.recv_timeout(Duration::from_millis(50)) {
                Ok(order) => {
                    self.ask_for(order, Hint::None)?;
                    self.flush()?;
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) if self.later.is_empty() => break,
                // Another hand is making it.
                Err(RecvTimeoutError::Disconnected) => {
                    std::thread::sleep(Duration::from_millis(5));
                }
            }
        }
        if let Origin::There(line) = &mut self.origin {
            line.push(&Message::Finished)?;
        }
        self.flush()
    }

    fn flush(&mut self) -> Result<(), ApplyError> {
        match &mut self.origin {
            Origin::There(line) => line.flush(),
            Origin::Here(..) => Ok(()),
        }
    }

    /// Asks for the content of files to come, as many as may be under way.
    fn ask(&mut self) -> Result<(), ApplyError> {
        let is_enough = |asked: usize, bytes: usize, part: usize| {
            asked as u64 >= FETCH_WINDOW / part as u64 || bytes >= FETCH_PATHS / part
        };
        if self.ask_no_more || is_enough(self.asked.len(), self.asked_bytes, 2) {
            return Ok(());
        }
        while !is_enough(self.asked.len(), self.asked_bytes, 1)
            && self.prepared < PREPARED_MAX
            && !self.ask_no_more
        {
            self.resolve_later();
            let (order, hint) = match self.next.pop_front() {
                Some(next) => next,
                None => match self.orders.try_recv() {
                    Ok(order) => (order, Hint::None),
                    Err(_) => break,
                },
            };
            self.ask_for(order, hint)?;
        }
        self.flush()
    }

    /// Removes what was begun under the name `staged`, if it was.
    fn discard(&self, staged: &str) -> Result<(), Errno> {
        match self.shared.staging.unlink(staged) {
            Err(Errno::NOENT) => Ok(()),
            other => other,
        }
    }

    /// Opens the file that stands where `op` puts another one.
    fn open_old(&mut self, op: &Op) -> Result<OwnedFd, PlaceError> {
        let (parent, name) = split(&op.path);
        let dir = self.dirs.open(self.shared.tree, parent)?;
        let file = self.shared.tree.open_file(dir.as_fd(), name)?;
        // What has its name now may be a file that the new owner must not read.
        let now = Old::of(&file)?;
        if op.old.as_ref().is_some_and(|old| old.is_still(&now)) {
            Ok(file)
        } else {
            Err(PlaceError::Changed)
        }
    }

    fn job<'j>(&self, op: &'j Op, staged: &'j str) -> Job<'j>
    where
        'a: 'j,
    {
        Job {
            path: &op.path,
            staging: self.shared.staging,
            staged,
            meta: &op.meta,
            abort: &self.outcome.stop,
        }
    }
}
