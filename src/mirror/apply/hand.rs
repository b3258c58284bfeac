//! A thread that makes files: asks the source for their content, a good many ahead, takes it in and
//! writes it. It has a line to the source of its own.

use std::collections::VecDeque;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError};
use rustix::io::Errno;

use super::bases::{Base, Finder};
use super::fresh::Inside;
use super::lot::Lot;
use super::outcome::Outcome;
use super::{ApplyError, write_error};
use crate::escape::escape_str;
use crate::mirror::alike::{ALIKE_MIN, NAMES_MAX};
use crate::mirror::codec::Malformed;
use crate::mirror::delta::ranged::{Prepared, prepare};
use crate::mirror::delta::rebuild::{
    Ended, Job, Line as AskLine, Question, Trouble, first_look, rebuild,
};
use crate::mirror::delta::survey::Survey;
use crate::mirror::delta::{self, partial};
use crate::mirror::entry::{Time, split};
use crate::mirror::packing::Unpacker;
use crate::mirror::place::{self, DirCache, PlaceError, Shared};
use crate::mirror::plan::{Old, Op};
use crate::mirror::ranges::Ranges;
use crate::mirror::staging::{self, LATE_FLAGS};
use crate::mirror::told::Told;
use crate::mirror::tree::Tree;
use crate::mirror::wire::{Batch, ContentHash, FETCH_PATHS, FETCH_WINDOW, FrameCursor, Message};
use crate::sys::writeback;

/// Credit is given back in steps of this size.
const CREDIT_STEP: u64 = 2 << 20;

/// The disk begins to take in a large file whenever so much more of it has arrived, so that what is left to do
/// in the end is short.
const WRITEBACK_STEP: u64 = 16 << 20;

/// As many copies of old versions wait for what differs in them; each is an open file.
const PREPARED_MAX: usize = 256;

/// Files that wait for those they are made out of; with more, they come as a whole.
const LATER_MAX: usize = 1024;

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

/// What is known of what a file is made out of, before it is asked for.
enum Hint {
    /// Nothing.
    None,
    /// It has to come.
    Nothing,
    /// This; whether that is a guess.
    Like(Arc<OwnedFd>, bool),
}

/// A file that waits for the one it is made out of.
struct Waiting {
    order: Order,
    /// Its path.
    base: Vec<u8>,
    is_guess: bool,
}

/// What came of a question for all of a file.
enum Came {
    /// The file was made, or cannot be.
    File(Result<(), PlaceError>),
    /// Names of others like it.
    Names(Vec<Vec<u8>>),
}

/// What the source sent for a file.
enum Sent {
    /// Its content, up to here.
    Content(u64),
    /// Names of others like it.
    Names(Vec<Vec<u8>>),
}

/// Where the content of files comes from.
pub(super) enum Origin<'a> {
    /// A tree of this machine.
    Here(&'a Tree, DirCache),
    /// The other machine.
    There(Line<'a>),
}

/// A line to the source.
pub(super) struct Line<'a> {
    incoming: &'a Receiver<Vec<u8>>,
    peer: Batch<'a>,
    cursor: FrameCursor,
    unpacker: Unpacker,
    requested: u64,
    received: u64,
    uncredited: u64,
}

impl<'a> Line<'a> {
    /// Frames to and from the source.
    pub(super) fn new(incoming: &'a Receiver<Vec<u8>>, peer: Batch<'a>) -> Self {
        Self {
            incoming,
            peer,
            cursor: FrameCursor::default(),
            unpacker: Unpacker::default(),
            requested: 0,
            received: 0,
            uncredited: 0,
        }
    }
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
            line.peer.push(&Message::Finished)?;
        }
        self.flush()
    }

    fn flush(&mut self) -> Result<(), ApplyError> {
        match &mut self.origin {
            Origin::There(line) => Ok(line.peer.flush()?),
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

    /// Files whose base is made by now, or never will be, are next.
    fn resolve_later(&mut self) {
        let made = self.outcome.bases.made_so_far();
        if self.later.is_empty() || made == self.made_then {
            return;
        }
        self.made_then = made;
        // All of them: one may wait for another that is behind it.
        for waiting in std::mem::take(&mut self.later) {
            let hint = match self.finder.find(&waiting.base) {
                Base::Awaited { .. } => {
                    self.later.push(waiting);
                    continue;
                }
                Base::File(file) => Hint::Like(file, waiting.is_guess),
                Base::Nothing => Hint::Nothing,
            };
            self.next.push_back((waiting.order, hint));
        }
    }

    fn wait_for(&mut self, base: Vec<u8>, order: Order, is_guess: bool) {
        self.later.push(Waiting {
            order,
            base,
            is_guess,
        });
    }

    /// What `order` is for is like one of these: made out of the first that is here.
    fn take_names(&mut self, order: Order, names: Vec<Vec<u8>>) {
        for path in names {
            match self.finder.find(&path) {
                Base::File(file) => {
                    self.next.push_back((order, Hint::Like(file, false)));
                    return;
                }
                // One that may wait itself could wait for this one.
                Base::Awaited { will_come: true } if self.later.len() < LATER_MAX => {
                    return self.wait_for(path, order, false);
                }
                Base::Awaited { .. } | Base::Nothing => {}
            }
        }
        // The others are made out of this one.
        self.outcome.bases.will_come(&order.op.path);
        self.next.push_back((order, Hint::Nothing));
    }

    /// Asks for what `order` needs, or has it wait.
    fn ask_for(&mut self, order: Order, mut hint: Hint) -> Result<(), ApplyError> {
        if matches!(hint, Hint::None)
            && matches!(self.origin, Origin::There(_))
            && delta::worthy_ranges(&order.op).is_none()
        {
            match self.finder.guess(&order.op) {
                Some((Base::File(file), _)) => hint = Hint::Like(file, true),
                Some((Base::Awaited { .. }, path)) if self.later.len() < LATER_MAX => {
                    self.wait_for(path, order, true);
                    return Ok(());
                }
                _ => {}
            }
        }
        let is_guess = matches!(hint, Hint::Like(_, true));
        let what = self.choose(&order, hint)?;
        let path = &order.op.path[..];
        let mut bytes = path.len();
        if let What::Parts(prepared) = &what {
            bytes += prepared.weight();
            self.prepared += 1;
        }
        self.ask_no_more = matches!(what, What::Survey { .. });
        if let Origin::There(line) = &mut self.origin {
            match &what {
                What::Whole { or_names: false } => line.ask(|id| Message::Fetch { id, path })?,
                What::Whole { or_names: true } => {
                    line.ask(|id| Message::FetchOrNames { id, path })?;
                }
                What::Survey { survey, .. } => line.ask(|id| Message::Survey {
                    id,
                    path,
                    survey: survey.clone(),
                })?,
                What::Parts(prepared) => line.ask(|id| Message::Parts {
                    id,
                    path,
                    parts: prepared.question(),
                })?,
            }
        }
        self.asked_bytes += bytes;
        self.asked.push_back(Asked {
            order,
            bytes,
            what,
            is_guess,
        });
        Ok(())
    }

    /// What of a file is asked for.
    fn choose(&mut self, order: &Order, hint: Hint) -> Result<What, ApplyError> {
        let op = &order.op;
        if !matches!(self.origin, Origin::There(_)) || matches!(hint, Hint::Nothing) {
            return Ok(What::Whole { or_names: false });
        }
        let mut arrived = None;
        let (staged, is_staged) = match &order.spot {
            Spot::Staged { staged, .. } => (staged.clone(), true),
            Spot::Inside(_) => (String::new(), false),
        };
        if is_staged && partial::is_worth_keeping(op) {
            let opened = partial::open(self.shared.staging, self.shared.tree, op);
            arrived = opened.map_err(|errno| write_error(&op.path, errno))?;
        }
        let Hint::Like(base, _) = hint else {
            if is_staged
                && arrived.is_none()
                && let Some(prepared) = self.prepare(op, &staged)?
            {
                return Ok(What::Parts(prepared));
            }
            if arrived.is_none() && !(is_staged && delta::is_worth_it(op)) {
                self.outcome.bases.was_asked_for(op);
                let or_names = op.meta.size >= ALIKE_MIN;
                return Ok(What::Whole { or_names });
            }
            let old = op.old.as_ref().map_or(0, |old| old.size);
            return Ok(What::Survey {
                survey: first_look(op.meta.size.max(old)),
                arrived,
                base: None,
                staged,
            });
        };
        let staged = if is_staged {
            staged
        } else {
            self.shared.staging.new_name()
        };
        if arrived.is_none() && op.meta.size < delta::DELTA_MIN {
            return self.prepare_like(op, &base, &staged);
        }
        let size = Old::of(&base).map_or(0, |old| old.size);
        Ok(What::Survey {
            survey: first_look(op.meta.size.max(size)),
            arrived,
            base: Some(base),
            staged,
        })
    }

    /// Makes a copy of another file, all of which is compared.
    fn prepare_like(&self, op: &Op, base: &OwnedFd, staged: &str) -> Result<What, ApplyError> {
        let all: Ranges = std::iter::once(0..op.meta.size).collect();
        match prepare(self.job(op, staged), base, &all) {
            Ok(prepared) => Ok(What::Parts(prepared)),
            Err(errno) => {
                self.give_up_copy(op, staged, errno)?;
                Ok(What::Whole { or_names: false })
            }
        }
    }

    /// A copy could not be made: unless that is the end of everything, the file is made without.
    fn give_up_copy(&self, op: &Op, staged: &str, errno: Errno) -> Result<(), ApplyError> {
        self.outcome.stop.check()?;
        if PlaceError::Io(errno).is_fatal() {
            return Err(write_error(&op.path, errno));
        }
        self.discard(staged)
            .map_err(|errno| write_error(&op.path, errno))
    }

    /// Makes a copy of the old version, where only ranges of it can differ.
    fn prepare(&mut self, op: &Op, staged: &str) -> Result<Option<Prepared>, ApplyError> {
        let Some(changed) = delta::worthy_ranges(op) else {
            return Ok(None);
        };
        // What has changed meanwhile is left alone when its turn comes.
        let Ok(old) = self.open_old(op) else {
            return Ok(None);
        };
        let prepared = prepare(self.job(op, staged), &old, changed);
        // Outside of the ranges nothing is compared. Who wrote there since the plan began can have put
        // its size and time back, but not this; and once copied it is out of everybody's reach.
        let touched = Old::touched_at(&old);
        match prepared.and_then(|prepared| Ok((prepared, touched?))) {
            Ok((prepared, touched)) if touched < self.planned => return Ok(Some(prepared)),
            Ok(_) => self.give_up_copy(op, staged, Errno::STALE)?,
            Err(errno) => self.give_up_copy(op, staged, errno)?,
        }
        Ok(None)
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

    /// Makes a file. Only what stops everything is an error.
    fn make(&mut self, asked: Asked) -> Result<(), ApplyError> {
        let Asked {
            order,
            bytes,
            what,
            is_guess,
        } = asked;
        self.asked_bytes -= bytes;
        let item = match &order.spot {
            Spot::Staged { item, .. } => Some(*item),
            Spot::Inside(_) => None,
        };
        let made = match what {
            What::Whole { or_names } => match self.make_whole(&order, or_names)? {
                Came::File(made) => made,
                Came::Names(names) => {
                    self.take_names(order, names);
                    return Ok(());
                }
            },
            What::Survey {
                survey,
                arrived,
                base,
                staged,
            } => self.rebuild(&order, &survey, arrived, base.zip(Some(is_guess)), &staged)?,
            What::Parts(prepared) => self.patch(&order, prepared, is_guess)?,
        };
        self.outcome.received.fetch_add(1, Ordering::Relaxed);
        let op = &order.op;
        let bases = &self.outcome.bases;
        bases.was_made(&op.path, made.is_ok().then_some(&order.spot));
        let spoiled = item.filter(|_| made.is_err());
        let noted = made.or_else(|error| self.outcome.failed(&op.path, &error));
        // Links to it look there first.
        order.lot.finished(spoiled);
        noted?;
        Ok(self.outcome.report(&mut self.told, &op.path)?)
    }

    /// Makes a file of all its content, unless names of others like it come instead. The inner error is
    /// the file's own.
    fn make_whole(&mut self, order: &Order, or_names: bool) -> Result<Came, ApplyError> {
        let (op, fresh) = (&order.op, &mut self.fresh);
        let staging = self.shared.staging.dir();
        let (dir, name, is_inside) = match &order.spot {
            Spot::Staged { staged, .. } => (Ok(staging), staged.as_bytes(), false),
            Spot::Inside(inside) => {
                let dir = inside.open(self.shared, fresh).map(AsFd::as_fd);
                (dir, split(&op.path).1, true)
            }
        };
        let file = dir.and_then(|dir| staging::new_file(dir, name, &op.meta));
        // What arrives must be taken off the line even if it cannot be written.
        let taken = match &mut self.origin {
            Origin::Here(tree, dirs) => {
                self.outcome.bytes.fetch_add(op.bytes(), Ordering::Relaxed);
                take_over(tree, dirs, op, file.as_ref().ok()).map(Sent::Content)
            }
            Origin::There(line) => {
                let file = file.as_ref().ok();
                line.receive(self.outcome, &mut self.told, op, or_names, file)?
            }
        };
        let came = match (&file, taken) {
            (_, Ok(Sent::Names(names))) => Came::Names(names),
            (Ok(file), Ok(Sent::Content(end))) => Came::File(finish(file, op, end, is_inside)),
            (Err(errno), _) => Came::File(Err((*errno).into())),
            (_, Err(error)) => Came::File(Err(error)),
        };
        match (&order.spot, &came) {
            (Spot::Inside(inside), Came::File(Ok(()))) => inside.top.add(op),
            (Spot::Inside(inside), _) if file.is_ok() => {
                // Nothing unfinished is placed with its directory: if it cannot be taken out (a full
                // disk refuses that, too), the lot is never finished, and nothing of it is placed.
                let dir = inside.open(self.shared, &mut self.fresh);
                dir.and_then(|dir| staging::discard(dir.as_fd(), name))
                    .map_err(|e| write_error(&op.path, e))?;
            }
            (Spot::Staged { staged, .. }, Came::Names(_)) if file.is_ok() => {
                // It is begun once more, with another file's content.
                let discarded = self.shared.staging.unlink(staged);
                discarded.map_err(|e| write_error(&op.path, e))?;
            }
            _ => {}
        }
        Ok(came)
    }

    /// Puts what was made in the staging directory under the name `staged` to where it belongs.
    fn settle(
        &mut self,
        order: &Order,
        staged: &str,
        file: &OwnedFd,
    ) -> Result<Result<(), PlaceError>, ApplyError> {
        let Spot::Inside(inside) = &order.spot else {
            return Ok(Ok(()));
        };
        let (op, staging) = (&order.op, self.shared.staging.dir());
        let (_, name) = split(&op.path);
        let dir = match inside.open(self.shared, &mut self.fresh) {
            Ok(dir) => dir,
            Err(errno) => return Ok(Err(errno.into())),
        };
        if let Err(error) = place::rename_new(staging, staged.as_bytes(), dir, name) {
            return Ok(Err(error));
        }
        if op.meta.flags & LATE_FLAGS != 0
            && let Err(errno) = staging::set_flags(file.as_fd(), op.meta.flags, u32::MAX)
        {
            // As above: nothing unfinished is placed with its directory.
            staging::discard(dir.as_fd(), name).map_err(|e| write_error(&op.path, e))?;
            return Ok(Err(errno.into()));
        }
        inside.top.add(op);
        Ok(Ok(()))
    }

    /// Makes a file of `base` (and whether that is a guess) or its old version, what has arrived of it
    /// before, and what is missing then.
    fn rebuild(
        &mut self,
        order: &Order,
        survey: &Survey,
        arrived: Option<OwnedFd>,
        base: Option<(Arc<OwnedFd>, bool)>,
        staged: &str,
    ) -> Result<Result<(), PlaceError>, ApplyError> {
        let op = &order.op;
        let old = match &base {
            Some((base, _)) => base.try_clone().map(Some).map_err(|_| Errno::MFILE.into()),
            None if delta::is_worth_it(op) => self.open_old(op).map(Some),
            None => Ok(None),
        };
        let job = self.job(op, staged);
        let before = self.outcome.bytes.load(Ordering::Relaxed);
        let Origin::There(line) = &mut self.origin else {
            return Err(Malformed("asked of nobody").into());
        };
        let mut line = FileLine {
            line,
            outcome: self.outcome,
            told: &mut self.told,
            path: &op.path,
        };
        let mut rebuilt = rebuild(&mut line, job, survey, old, arrived);
        self.ask_no_more = false;
        if let (Some(_), Err(Trouble::File(error))) = (&base, &rebuilt)
            && !error.is_fatal()
        {
            // That other file is no reason for this one not to come.
            self.outcome.stop.check()?;
            rebuilt = Err(Trouble::AsAWhole);
        }
        let as_a_whole = matches!(rebuilt, Err(Trouble::AsAWhole));
        let is_guess = base.is_some_and(|(_, is_guess)| is_guess);
        let made = self.finish_delta(op, before, rebuilt, is_guess)?;
        if !as_a_whole {
            return match made {
                Ok(file) => self.settle(order, staged, &file),
                Err(error) => Ok(Err(error)),
            };
        }
        if let Err(errno) = self.discard(staged) {
            return Ok(Err(errno.into()));
        }
        let path = &op.path[..];
        if let Origin::There(line) = &mut self.origin {
            line.ask(|id| Message::Fetch { id, path })?;
        }
        self.flush()?;
        match self.make_whole(order, false)? {
            Came::File(made) => Ok(made),
            Came::Names(_) => Err(Malformed("names nobody asked for").into()),
        }
    }

    /// Makes a file of its old version and those of its parts that differ.
    fn patch(
        &mut self,
        order: &Order,
        prepared: Prepared,
        is_guess: bool,
    ) -> Result<Result<(), PlaceError>, ApplyError> {
        let op = &order.op;
        let staged = prepared.staged.clone();
        let before = self.outcome.bytes.load(Ordering::Relaxed);
        let Origin::There(line) = &mut self.origin else {
            return Err(Malformed("asked of nobody").into());
        };
        let (outcome, told) = (self.outcome, &mut self.told);
        let received = prepared.receive(&op.path, op.meta.size, |take| {
            line.answer(outcome, told, &op.path, take)
        });
        self.prepared -= 1;
        let made = self.finish_delta(op, before, received, is_guess)?;
        match made {
            Ok(file) => self.settle(order, &staged, &file),
            Err(error) => Ok(Err(error)),
        }
    }

    /// Gives what was made out of an old version its attributes, and counts what of it was here.
    fn finish_delta(
        &self,
        op: &Op,
        before: u64,
        made: Result<OwnedFd, Trouble>,
        is_guess: bool,
    ) -> Result<Result<OwnedFd, PlaceError>, ApplyError> {
        self.outcome.stop.check()?;
        match made {
            Ok(file) => {
                let arrived = self.outcome.bytes.load(Ordering::Relaxed) - before;
                let kept = op.bytes().saturating_sub(arrived);
                self.outcome.kept.fetch_add(kept, Ordering::Relaxed);
                if is_guess {
                    self.outcome.bases.learn(kept >= op.bytes() / 2);
                }
                Ok(finish(&file, op, op.meta.size, false).map(|()| file))
            }
            Err(Trouble::All(error)) => Err(error),
            Err(Trouble::File(error)) => Ok(Err(error)),
            Err(Trouble::AsAWhole) => Ok(Err(PlaceError::Changed)),
        }
    }
}

/// Gives a file whose last data ends at `end` its size and attributes.
fn finish(file: &OwnedFd, op: &Op, end: u64, with_late_flags: bool) -> Result<(), PlaceError> {
    // A hole at its end; to set the size it has already costs as much as writing it.
    if end < op.meta.size {
        rustix::fs::ftruncate(file, op.meta.size)?;
    }
    staging::set_attributes(file.as_fd(), &op.meta)?;
    staging::set_mtime(file.as_fd(), op.meta.mtime)?;
    let late = op.meta.flags & LATE_FLAGS;
    if with_late_flags && late != 0 {
        staging::set_flags(file.as_fd(), op.meta.flags, u32::MAX)?;
    }
    Ok(())
}

/// A copy by reflink of the file of the same path in `from`.
fn take_over(
    from: &Tree,
    dirs: &mut DirCache,
    op: &Op,
    to: Option<&OwnedFd>,
) -> Result<u64, PlaceError> {
    let (parent, name) = split(&op.path);
    let dir = dirs.open(from, parent)?;
    let file = from.open_file(dir.as_fd(), name)?;
    if Old::of(&file)?.size != op.meta.size {
        return Err(PlaceError::Content("is not what it was".to_owned()));
    }
    if let Some(to) = to {
        staging::copy_content(file.as_fd(), to.as_fd(), op.meta.size)?;
    }
    Ok(op.meta.size)
}

impl Line<'_> {
    /// Asks something; answers come in the order of the questions.
    fn ask<'m>(&mut self, question: impl FnOnce(u64) -> Message<'m>) -> Result<(), ApplyError> {
        self.peer.push(&question(self.requested))?;
        self.requested += 1;
        Ok(())
    }

    /// Writes what arrives for `op` until its end; returns where its last data ended. The inner error
    /// is the file's own.
    fn receive(
        &mut self,
        outcome: &Outcome,
        told: &mut Told<'_>,
        op: &Op,
        or_names: bool,
        file: Option<&OwnedFd>,
    ) -> Result<Result<Sent, PlaceError>, ApplyError> {
        let mut names: Vec<Vec<u8>> = Vec::new();
        let mut hash = ContentHash::new();
        let mut written = 0;
        let mut begun = 0;
        let ended = self.answer(outcome, told, &op.path, &mut |message| {
            if let Message::Alike { path, .. } = message
                && or_names
                && written == 0
                && names.len() < NAMES_MAX
            {
                names.push(path.to_vec());
                return Ok(());
            }
            let Message::Data { offset, bytes, .. } = message else {
                return Err(Malformed("out of place while files are sent").into());
            };
            // Forwards only, so that there is an end to it.
            let end = offset.saturating_add(bytes.len() as u64);
            let is_more = *offset < written || end <= *offset || end > op.meta.size;
            if is_more || !names.is_empty() {
                return Err(Malformed("more content than the file has").into());
            }
            written = end;
            if let Some(file) = file {
                staging::write_all(file.as_fd(), *offset, bytes)
                    .map_err(|e| write_error(&op.path, e))?;
                if written - begun >= WRITEBACK_STEP {
                    writeback::begin(file.as_fd(), begun, written - begun);
                    begun = written;
                }
            }
            hash.update(*offset, bytes);
            Ok(())
        })?;
        let result = match ended {
            Ok(_) if !names.is_empty() => Ok(Sent::Names(names)),
            Ok((size, theirs)) if size == op.meta.size && theirs == hash.finish(size) => {
                Ok(Sent::Content(written))
            }
            Ok(_) => Err("arrived damaged: its size or hash is wrong".to_owned()),
            Err(text) => Err(text),
        };
        Ok(result.map_err(PlaceError::Content))
    }

    /// Takes in what the source says of one file, up to its end.
    fn answer(
        &mut self,
        outcome: &Outcome,
        told: &mut Told<'_>,
        path: &[u8],
        take: &mut dyn FnMut(&Message<'_>) -> Result<(), ApplyError>,
    ) -> Result<Ended, ApplyError> {
        let expected = self.received;
        self.received += 1;
        let mut cursor = std::mem::take(&mut self.cursor);
        let ended = loop {
            let Some(message) = cursor.next_message() else {
                let frame = crate::mirror::receive(self.incoming, &outcome.stop)?;
                cursor = FrameCursor::new(frame)?;
                continue;
            };
            let mut message = message?;
            let credit = message.credit();
            if let Message::Packed {
                id,
                offset,
                length,
                bytes,
            } = message
            {
                let bytes = self.unpacker.unpack(bytes, length)?;
                message = Message::Data { id, offset, bytes };
            }
            match &message {
                Message::Data { id, .. }
                | Message::Alike { id, .. }
                | Message::Pieces { id, .. }
                | Message::Part { id, .. }
                    if *id == expected =>
                {
                    take(&message)?;
                    if let Message::Data { bytes, .. } = &message {
                        let length = bytes.len() as u64;
                        outcome.bytes.fetch_add(length, Ordering::Relaxed);
                    }
                    self.credit(credit)?;
                    outcome.report(told, path)?;
                }
                Message::End { id, size, hash } if *id == expected => break Ok((*size, *hash)),
                Message::Failed { id, error } if *id == expected => {
                    let error = escape_str(error);
                    break Err(format!("the source could not read it: {error}"));
                }
                _ => return Err(Malformed("out of place while files are sent").into()),
            }
        };
        self.cursor = cursor;
        Ok(ended)
    }

    fn credit(&mut self, bytes: u64) -> Result<(), ApplyError> {
        self.uncredited += bytes;
        if self.uncredited >= CREDIT_STEP {
            let credit = std::mem::take(&mut self.uncredited);
            self.peer.push(&Message::Credit(credit))?;
            self.peer.flush()?;
        }
        Ok(())
    }
}

/// The line to the source, for one file.
struct FileLine<'l, 'a, 't> {
    line: &'l mut Line<'a>,
    outcome: &'l Outcome,
    told: &'l mut Told<'t>,
    path: &'l [u8],
}

impl AskLine for FileLine<'_, '_, '_> {
    fn ask(&mut self, question: Question<'_>) -> Result<(), ApplyError> {
        let path = self.path;
        self.line.ask(|id| match question {
            Question::Survey(survey) => Message::Survey {
                id,
                path,
                survey: survey.clone(),
            },
            Question::Parts(parts) => Message::Parts {
                id,
                path,
                parts: parts.to_vec(),
            },
        })?;
        Ok(self.line.peer.flush()?)
    }

    fn answer(
        &mut self,
        take: &mut dyn FnMut(&Message<'_>) -> Result<(), ApplyError>,
    ) -> Result<Ended, ApplyError> {
        self.line.answer(self.outcome, self.told, self.path, take)
    }
}
