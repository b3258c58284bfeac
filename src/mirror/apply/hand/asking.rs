//! What of a file is asked for: all of it, how it is cut, or what can differ from something that is here; and
//! which files wait for another one that they are made out of.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::io::Errno;

use super::{Asked, Hand, Order, Origin, Spot, What};
use crate::mirror::alike::{ALIKE_MIN, Named};
use crate::mirror::apply::bases::Base;
use crate::mirror::apply::{ApplyError, write_error};
use crate::mirror::codec::Malformed;
use crate::mirror::delta::ranged::{Prepared, prepare};
use crate::mirror::delta::rebuild::first_look;
use crate::mirror::delta::{self, partial};
use crate::mirror::place::PlaceError;
use crate::mirror::plan::{Old, Op};
use crate::mirror::ranges::Ranges;
use crate::mirror::wire::Message;

/// Files that wait for those they are made out of; with more, they come as a whole.
const LATER_MAX: usize = 1024;

/// What is known of what a file is made out of, before it is asked for.
pub(super) enum Hint {
    /// Nothing.
    None,
    /// It has to come.
    Nothing,
    /// This; whether that is a guess.
    Like(Arc<OwnedFd>, bool),
}

/// A file that waits for the one it is made out of.
pub(super) struct Waiting {
    order: Order,
    /// Its path.
    base: Vec<u8>,
    is_guess: bool,
}

impl Hand<'_> {
    /// Files whose base is made by now, or never will be, are next.
    pub(super) fn resolve_later(&mut self) {
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
    pub(super) fn take_names(&mut self, order: Order, names: Vec<Named>) -> Result<(), ApplyError> {
        for named in names {
            let found = self.finder.find_named(&named);
            match found.ok_or(Malformed("names a folder that is not there"))? {
                Base::File(file) => {
                    self.next.push_back((order, Hint::Like(file, false)));
                    return Ok(());
                }
                // One that may wait itself could wait for this one.
                Base::Awaited { will_come: true } if self.later.len() < LATER_MAX => {
                    self.wait_for(named.1, order, false);
                    return Ok(());
                }
                Base::Awaited { .. } | Base::Nothing => {}
            }
        }
        // The others are made out of this one.
        self.outcome.bases.will_come(&order.op.path);
        self.next.push_back((order, Hint::Nothing));
        Ok(())
    }

    /// Asks for what `order` needs, or has it wait.
    pub(super) fn ask_for(&mut self, order: Order, mut hint: Hint) -> Result<(), ApplyError> {
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
}
