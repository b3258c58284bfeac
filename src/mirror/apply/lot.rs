//! Things that are made together, made durable with one `syncfs(2)` and then placed, in the order of
//! the plan.

use std::collections::HashSet;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::fresh::{Fresh, FreshDir};
use crate::interrupt::{AbortFlag, Interrupted};
use crate::mirror::entry::{Kind, Meta};
use crate::mirror::plan::{Old, Op};
use crate::mirror::told::Note;

/// A lot is placed when so many things were made for it (in tests soon, so that there are many),
const THINGS: usize = if cfg!(test) { 7 } else { 16_384 };
/// ... or so many of them are moved one by one,
const ITEMS: usize = 8192;
/// ... or they have this much content,
const BYTES: u64 = 256 << 20;
/// ... or this much of names and attributes is kept in memory.
const WEIGHT: usize = 4 << 20;

/// One step of placing a lot.
pub(super) enum Item {
    /// Move something finished from the staging directory.
    Place {
        staged: String,
        path: Vec<u8>,
        kind: Kind,
        old: Option<Old>,
        late_flags: u32,
        note: Note,
    },
    /// Make a further name of the inode at `leader`.
    Link {
        leader: Vec<u8>,
        path: Vec<u8>,
        old: Option<Old>,
        /// What the leader is.
        want: Box<Meta>,
        note: Note,
    },
    /// Move a new directory with all that was made in it.
    Tree {
        top: Arc<Top>,
        path: Vec<u8>,
        old: Option<Old>,
    },
}

/// A new directory that is not in another new one.
#[derive(Debug)]
pub(super) struct Top {
    /// Its name where new directories are made.
    pub(super) staged: String,
    made: Mutex<Vec<(Note, Vec<u8>)>>,
}

impl Top {
    /// Nothing is in it yet.
    pub(super) fn new(staged: String) -> Self {
        Self {
            staged,
            made: Mutex::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<(Note, Vec<u8>)>> {
        self.made.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The directory itself, or something in it, was made.
    pub(super) fn add(&self, op: &Op) {
        self.lock().push((op.into(), op.path.clone()));
    }

    /// All that was made.
    pub(super) fn take(&self) -> Vec<(Note, Vec<u8>)> {
        std::mem::take(&mut *self.lock())
    }
}

/// What of a lot is still being made, and what went wrong.
#[derive(Debug, Default)]
pub(super) struct Lot {
    state: Mutex<State>,
    fewer: Condvar,
}

#[derive(Debug, Default)]
struct State {
    unfinished: usize,
    spoiled: HashSet<usize>,
}

impl Lot {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A file is being made.
    fn begin(&self) {
        self.state().unfinished += 1;
    }

    /// A file was made, or the item it is must not be placed.
    pub(super) fn finished(&self, spoiled: Option<usize>) {
        let mut state = self.state();
        state.unfinished -= 1;
        state.spoiled.extend(spoiled);
        if state.unfinished == 0 {
            self.fewer.notify_all();
        }
    }

    /// Waits until everything is made; which items must not be placed.
    pub(super) fn wait(&self, stop: &AbortFlag) -> Result<HashSet<usize>, Interrupted> {
        let mut state = self.state();
        while state.unfinished > 0 {
            stop.check()?;
            state = self
                .fewer
                .wait_timeout(state, Duration::from_millis(50))
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
        Ok(std::mem::take(&mut state.spoiled))
    }
}

/// A lot to which nothing will be added.
pub(super) struct Sealed {
    /// What is still being made.
    pub(super) lot: Arc<Lot>,
    /// How it is placed, in order.
    pub(super) items: Vec<Item>,
    /// The new directories, each before those in it.
    pub(super) fresh: Vec<FreshDir>,
}

/// A lot to which things are added.
#[derive(Default)]
pub(super) struct Filling {
    lot: Arc<Lot>,
    items: Vec<Item>,
    /// New directories that are being filled.
    pub(super) fresh: Fresh,
    things: usize,
    bytes: u64,
    weight: usize,
}

impl Filling {
    /// Adds something that is moved by itself; its number in the lot.
    pub(super) fn place(&mut self, staged: String, op: &Op) -> usize {
        self.push(Item::Place {
            staged,
            path: op.path.clone(),
            kind: op.meta.kind,
            old: op.old.clone(),
            late_flags: op.meta.flags & crate::mirror::staging::LATE_FLAGS,
            note: op.into(),
        })
    }

    /// Adds a step of placing.
    pub(super) fn push(&mut self, item: Item) -> usize {
        self.items.push(item);
        self.items.len() - 1
    }

    /// A file of the lot goes to a hand.
    pub(super) fn begin(&mut self) -> Arc<Lot> {
        self.lot.begin();
        Arc::clone(&self.lot)
    }

    /// What `op` adds to the lot.
    pub(super) fn weigh(&mut self, op: &Op) {
        let attributes = op.meta.xattrs.iter();
        self.things += 1;
        self.bytes = self.bytes.saturating_add(op.bytes());
        self.weight += op.path.len()
            + op.meta.leader.as_ref().map_or(0, Vec::len)
            + attributes
                .map(|(key, value)| key.len() + value.len())
                .sum::<usize>();
    }

    /// Whether it should be placed before more is added.
    pub(super) fn is_full(&self) -> bool {
        self.things >= THINGS
            || self.items.len() >= ITEMS
            || self.bytes >= BYTES
            || self.weight >= WEIGHT
    }

    /// The lot as it is, and an empty one.
    pub(super) fn seal(&mut self) -> Option<Sealed> {
        let full = std::mem::take(self);
        (full.things > 0).then(|| Sealed {
            lot: full.lot,
            items: full.items,
            fresh: full.fresh.into_dirs(),
        })
    }
}
