//! A thread that makes files: asks the source for their content, a good many ahead, takes it in and
//! writes it. It has a line to the source of its own.

use std::collections::VecDeque;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError};
use rustix::io::Errno;

use super::fresh::Inside;
use super::lot::Lot;
use super::outcome::Outcome;
use super::{ApplyError, write_error};
use crate::escape::escape_str;
use crate::mirror::codec::Malformed;
use crate::mirror::delta::ranged::{Prepared, prepare};
use crate::mirror::delta::rebuild::{
    Ended, Job, Line as AskLine, Question, Trouble, first_look, rebuild,
};
use crate::mirror::delta::survey::Survey;
use crate::mirror::delta::{self, partial};
use crate::mirror::entry::{Time, split};
use crate::mirror::packing::Unpacker;
use crate::mirror::place::{DirCache, PlaceError, Shared};
use crate::mirror::plan::{Old, Op};
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
const PREPARED_MAX: usize = 64;

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
}

/// What of a file was asked for.
enum What {
    /// All of it.
    Whole,
    /// How it is cut; and what has arrived of it before.
    Survey {
        survey: Survey,
        arrived: Option<OwnedFd>,
    },
    /// What can differ, which will be written into this.
    Parts(Prepared),
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
                    self.ask_for(order)?;
                    self.flush()?;
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
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
            let Ok(order) = self.orders.try_recv() else {
                break;
            };
            self.ask_for(order)?;
        }
        self.flush()
    }

    fn ask_for(&mut self, order: Order) -> Result<(), ApplyError> {
        let what = self.choose(&order)?;
        let path = &order.op.path[..];
        let mut bytes = path.len();
        if let What::Parts(prepared) = &what {
            bytes += prepared.weight();
            self.prepared += 1;
        }
        self.ask_no_more = matches!(what, What::Survey { .. });
        if let Origin::There(line) = &mut self.origin {
            match &what {
                What::Whole => line.ask(|id| Message::Fetch { id, path })?,
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
        self.asked.push_back(Asked { order, bytes, what });
        Ok(())
    }

    /// What of a file is asked for.
    fn choose(&mut self, order: &Order) -> Result<What, ApplyError> {
        let (Origin::There(_), Spot::Staged { staged, .. }) = (&self.origin, &order.spot) else {
            return Ok(What::Whole);
        };
        let op = &order.op;
        let mut arrived = None;
        if partial::is_worth_keeping(op) {
            let opened = partial::open(self.shared.staging, self.shared.tree, op);
            arrived = opened.map_err(|errno| write_error(&op.path, errno))?;
        }
        if arrived.is_none()
            && let Some(prepared) = self.prepare(op, staged)?
        {
            return Ok(What::Parts(prepared));
        }
        if arrived.is_none() && !delta::is_worth_it(op) {
            return Ok(What::Whole);
        }
        let old = op.old.as_ref().map_or(0, |old| old.size);
        let survey = first_look(op.meta.size.max(old));
        Ok(What::Survey { survey, arrived })
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
            Ok(_) => {}
            Err(errno) => {
                self.outcome.stop.check()?;
                if PlaceError::Io(errno).is_fatal() {
                    return Err(write_error(&op.path, errno));
                }
            }
        }
        self.discard(staged)
            .map_err(|errno| write_error(&op.path, errno))?;
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
        let Asked { order, bytes, what } = asked;
        let item = match &order.spot {
            Spot::Staged { item, .. } => Some(*item),
            Spot::Inside(_) => None,
        };
        let made = match what {
            What::Whole => self.make_whole(&order)?,
            What::Survey { survey, arrived } => self.rebuild(&order, &survey, arrived)?,
            What::Parts(prepared) => self.patch(&order, prepared)?,
        };
        self.asked_bytes -= bytes;
        self.outcome.received.fetch_add(1, Ordering::Relaxed);
        let op = &order.op;
        let spoiled = item.filter(|_| made.is_err());
        let noted = made.or_else(|error| self.outcome.failed(&op.path, &error));
        // Links to it look there first.
        order.lot.finished(spoiled);
        noted?;
        Ok(self.outcome.report(&mut self.told, &op.path)?)
    }

    /// Makes a file of all its content. The inner error is the file's own.
    fn make_whole(&mut self, order: &Order) -> Result<Result<(), PlaceError>, ApplyError> {
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
                take_over(tree, dirs, op, file.as_ref().ok())
            }
            Origin::There(line) => {
                line.receive(self.outcome, &mut self.told, op, file.as_ref().ok())?
            }
        };
        let made = match (&file, taken) {
            (Ok(file), Ok(end)) => finish(file, op, end, is_inside),
            (Err(errno), _) => Err((*errno).into()),
            (_, Err(error)) => Err(error),
        };
        if let Spot::Inside(inside) = &order.spot {
            if made.is_ok() {
                inside.top.add(op);
            } else if file.is_ok() {
                // Nothing unfinished is placed with its directory: if it cannot be taken out (a full
                // disk refuses that, too), the lot is never finished, and nothing of it is placed.
                let dir = inside.open(self.shared, &mut self.fresh);
                dir.and_then(|dir| staging::discard(dir.as_fd(), name))
                    .map_err(|e| write_error(&op.path, e))?;
            }
        }
        Ok(made)
    }

    /// Makes a file of its old version, what has arrived of it before, and what is missing then.
    fn rebuild(
        &mut self,
        order: &Order,
        survey: &Survey,
        arrived: Option<OwnedFd>,
    ) -> Result<Result<(), PlaceError>, ApplyError> {
        let op = &order.op;
        let (Origin::There(_), Spot::Staged { staged, .. }) = (&self.origin, &order.spot) else {
            return Err(Malformed("asked of nobody").into());
        };
        let old = if delta::is_worth_it(op) {
            self.open_old(op).map(Some)
        } else {
            Ok(None)
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
        let rebuilt = rebuild(&mut line, job, survey, old, arrived);
        self.ask_no_more = false;
        let as_a_whole = matches!(rebuilt, Err(Trouble::AsAWhole));
        let made = self.finish_delta(op, before, rebuilt)?;
        if !as_a_whole {
            return Ok(made);
        }
        if let Err(errno) = self.discard(staged) {
            return Ok(Err(errno.into()));
        }
        let path = &op.path[..];
        if let Origin::There(line) = &mut self.origin {
            line.ask(|id| Message::Fetch { id, path })?;
        }
        self.flush()?;
        self.make_whole(order)
    }

    /// Makes a file of its old version and those of its parts that differ.
    fn patch(
        &mut self,
        order: &Order,
        prepared: Prepared,
    ) -> Result<Result<(), PlaceError>, ApplyError> {
        let op = &order.op;
        let before = self.outcome.bytes.load(Ordering::Relaxed);
        let Origin::There(line) = &mut self.origin else {
            return Err(Malformed("asked of nobody").into());
        };
        let (outcome, told) = (self.outcome, &mut self.told);
        let received = prepared.receive(&op.path, op.meta.size, |take| {
            line.answer(outcome, told, &op.path, take)
        });
        self.prepared -= 1;
        self.finish_delta(op, before, received)
    }

    /// Gives what was made out of an old version its attributes, and counts what of it was here.
    fn finish_delta(
        &self,
        op: &Op,
        before: u64,
        made: Result<OwnedFd, Trouble>,
    ) -> Result<Result<(), PlaceError>, ApplyError> {
        self.outcome.stop.check()?;
        match made {
            Ok(file) => {
                let arrived = self.outcome.bytes.load(Ordering::Relaxed) - before;
                let kept = op.bytes().saturating_sub(arrived);
                self.outcome.kept.fetch_add(kept, Ordering::Relaxed);
                Ok(finish(&file, op, op.meta.size, false))
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
        file: Option<&OwnedFd>,
    ) -> Result<Result<u64, PlaceError>, ApplyError> {
        let mut hash = ContentHash::new();
        let mut written = 0;
        let mut begun = 0;
        let ended = self.answer(outcome, told, &op.path, &mut |message| {
            let Message::Data { offset, bytes, .. } = message else {
                return Err(Malformed("out of place while files are sent").into());
            };
            // Forwards only, so that there is an end to it.
            let end = offset.saturating_add(bytes.len() as u64);
            if *offset < written || end <= *offset || end > op.meta.size {
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
            Ok((size, theirs)) if size == op.meta.size && theirs == hash.finish(size) => {
                Ok(written)
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
