//! A thread that makes files: asks the source for their content, a good many ahead, takes it in and
//! writes it. It has a line to the source of its own.

use std::collections::VecDeque;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError};

use super::fresh::Inside;
use super::lot::Lot;
use super::outcome::Outcome;
use super::{ApplyError, write_error};
use crate::escape::escape_str;
use crate::mirror::codec::Malformed;
use crate::mirror::entry::split;
use crate::mirror::place::{DirCache, PlaceError, Shared};
use crate::mirror::plan::{Old, Op};
use crate::mirror::staging::{self, LATE_FLAGS};
use crate::mirror::told::Told;
use crate::mirror::tree::Tree;
use crate::mirror::wire::{Batch, ContentHash, FETCH_PATHS, FETCH_WINDOW, FrameCursor, Message};

/// Credit is given back in steps of this size.
const CREDIT_STEP: u64 = 2 << 20;

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
    /// What was asked for and is not made yet.
    asked: VecDeque<Order>,
    /// Length of their paths.
    asked_bytes: usize,
    /// The last new directory.
    fresh: DirCache,
}

impl<'a> Hand<'a> {
    /// Carries out `orders`.
    pub(super) fn new(
        shared: &'a Shared<'a>,
        outcome: &'a Outcome,
        told: Told<'a>,
        orders: Receiver<Order>,
        origin: Origin<'a>,
    ) -> Self {
        Self {
            shared,
            outcome,
            told,
            orders,
            origin,
            asked: VecDeque::new(),
            asked_bytes: 0,
            fresh: DirCache::default(),
        }
    }

    /// Makes files until there are no more orders.
    pub(super) fn run(mut self) -> Result<(), ApplyError> {
        loop {
            self.outcome.stop.check()?;
            self.ask()?;
            if let Some(order) = self.asked.pop_front() {
                self.make(&order)?;
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
        if is_enough(self.asked.len(), self.asked_bytes, 2) {
            return Ok(());
        }
        while !is_enough(self.asked.len(), self.asked_bytes, 1) {
            let Ok(order) = self.orders.try_recv() else {
                break;
            };
            self.ask_for(order)?;
        }
        self.flush()
    }

    fn ask_for(&mut self, order: Order) -> Result<(), ApplyError> {
        if let Origin::There(line) = &mut self.origin {
            line.peer.push(&Message::Fetch {
                id: line.requested,
                path: &order.op.path,
            })?;
            line.requested += 1;
        }
        self.asked_bytes += order.op.path.len();
        self.asked.push_back(order);
        Ok(())
    }

    /// Makes a file. Only what stops everything is an error.
    fn make(&mut self, order: &Order) -> Result<(), ApplyError> {
        let (op, fresh) = (&order.op, &mut self.fresh);
        let staging = self.shared.staging.dir();
        let (dir, name, item) = match &order.spot {
            Spot::Staged { staged, item } => (Ok(staging), staged.as_bytes(), Some(*item)),
            Spot::Inside(inside) => {
                let dir = inside.open(self.shared, fresh).map(AsFd::as_fd);
                (dir, split(&op.path).1, None)
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
        self.asked_bytes -= op.path.len();
        self.outcome.received.fetch_add(1, Ordering::Relaxed);
        let made = match (&file, taken) {
            (Ok(file), Ok(end)) => finish(file, op, end, item.is_none()),
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
        let spoiled = item.filter(|_| made.is_err());
        let noted = made.or_else(|error| self.outcome.failed(&op.path, &error));
        // Links to it look there first.
        order.lot.finished(spoiled);
        noted?;
        Ok(self.outcome.report(&mut self.told, &op.path)?)
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
        let expected = self.received;
        self.received += 1;
        let mut cursor = std::mem::take(&mut self.cursor);
        let result = loop {
            let Some(message) = cursor.next_message() else {
                let frame = crate::mirror::receive(self.incoming, &outcome.stop)?;
                cursor = FrameCursor::new(frame)?;
                continue;
            };
            match message? {
                Message::Data { id, offset, bytes } if id == expected => {
                    // Forwards only, so that there is an end to it.
                    let end = offset.saturating_add(bytes.len() as u64);
                    if offset < written || end <= offset || end > op.meta.size {
                        return Err(Malformed("more content than the file has").into());
                    }
                    written = end;
                    if let Some(file) = file {
                        staging::write_all(file.as_fd(), offset, bytes)
                            .map_err(|e| write_error(&op.path, e))?;
                    }
                    hash.update(offset, bytes);
                    let length = bytes.len() as u64;
                    outcome.bytes.fetch_add(length, Ordering::Relaxed);
                    self.credit(length)?;
                    outcome.report(told, &op.path)?;
                }
                Message::End {
                    id,
                    size,
                    hash: theirs,
                } if id == expected => {
                    let whole = size == op.meta.size && theirs == hash.finish(size);
                    break if whole {
                        Ok(written)
                    } else {
                        Err("arrived damaged: its size or hash is wrong".to_owned())
                    };
                }
                Message::Failed { id, error } if id == expected => {
                    break Err(format!(
                        "the source could not read it: {}",
                        escape_str(&error)
                    ));
                }
                _ => return Err(Malformed("out of place while files are sent").into()),
            }
        };
        self.cursor = cursor;
        Ok(result.map_err(PlaceError::Content))
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
