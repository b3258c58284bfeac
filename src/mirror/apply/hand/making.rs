//! Making a file of what comes for it: of all its content, of pieces and what is here, or of the ranges that
//! differ.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use rustix::io::Errno;

use super::{Asked, Hand, Order, Origin, Spot, What};
use crate::mirror::alike::Named;
use crate::mirror::apply::line::{FileLine, Sent};
use crate::mirror::apply::{ApplyError, write_error};
use crate::mirror::codec::Malformed;
use crate::mirror::delta;
use crate::mirror::delta::ranged::Prepared;
use crate::mirror::delta::rebuild::{Trouble, rebuild};
use crate::mirror::delta::survey::Survey;
use crate::mirror::path::split;
use crate::mirror::place::{self, DirCache, PlaceError};
use crate::mirror::plan::{Old, Op};
use crate::mirror::staging::{self, LATE_FLAGS};
use crate::mirror::tree::Tree;
use crate::mirror::wire::Message;

/// What came of a question for all of a file.
enum Came {
    /// The file was made, or cannot be.
    File(Result<(), PlaceError>),
    /// Names of others like it.
    Names(Vec<Named>),
}

impl Hand<'_> {
    /// Makes a file. Only what stops everything is an error.
    pub(super) fn make(&mut self, asked: Asked) -> Result<(), ApplyError> {
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
                    return self.take_names(order, names);
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
