//! What the threads of an apply share: what became of things, why it ends, and how far it is.

use std::collections::{HashMap, HashSet};
use std::fmt::Display;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::io::Errno;

use super::bases::Bases;
use super::{ApplyError, write_error};
use crate::escape::escape_bytes;
use crate::interrupt::{AbortFlag, Interrupted};
use crate::mirror::place::PlaceError;
use crate::mirror::scan::Notes;
use crate::mirror::told::Told;

/// Directories that appeared meanwhile and are taken as ours; beyond these they are errors.
const ADOPTED_MAX: usize = 10_000;

/// What became of things.
#[derive(Default)]
pub(super) struct Results {
    /// What a person should know.
    pub(super) notes: Notes,
    /// What could not be made or placed: its further names must not be linked to an old inode.
    pub(super) failed: HashSet<Vec<u8>>,
    /// Directories that somebody made where one was to be made, by path: their inode numbers.
    pub(super) adopted: HashMap<Vec<u8>, u64>,
    /// Changes made.
    pub(super) placed: u64,
    /// Moves it took: a new directory comes with all that is in it.
    pub(super) moves: u64,
    trouble: Option<ApplyError>,
}

/// Shared by the threads of an apply.
pub(super) struct Outcome {
    results: Mutex<Results>,
    /// Raised when nothing more shall be made.
    pub(super) stop: AbortFlag,
    /// Bytes of content that arrived.
    pub(super) bytes: AtomicU64,
    /// Bytes of planned content that were here already.
    pub(super) kept: AtomicU64,
    /// Files received: no change yet, but progress.
    pub(super) received: AtomicU64,
    /// What files are made out of.
    pub(super) bases: Bases,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Outcome {
    /// Of work that has not begun.
    pub(super) fn new(abort: &AbortFlag, bases: Bases) -> Self {
        Self {
            results: Mutex::default(),
            stop: abort.below(),
            bytes: AtomicU64::new(0),
            kept: AtomicU64::new(0),
            received: AtomicU64::new(0),
            bases,
        }
    }

    /// What became of things so far.
    pub(super) fn results(&self) -> MutexGuard<'_, Results> {
        lock(&self.results)
    }

    /// One entry could not be made; the others can, unless the disk takes nothing more.
    pub(super) fn failed(&self, path: &[u8], error: &PlaceError) -> Result<(), ApplyError> {
        let mut results = self.results();
        results.failed.insert(path.to_vec());
        results.complain("not changed", path, error);
        match error {
            PlaceError::Io(errno) if error.is_fatal() => Err(write_error(path, *errno)),
            _ if error.is_fatal() => Err(write_error(path, Errno::IO)),
            _ => Ok(()),
        }
    }

    /// Ends everything, for this reason if there was none before.
    pub(super) fn give_up(&self, error: ApplyError) {
        if !matches!(error, ApplyError::Interrupted(_)) {
            self.results().trouble.get_or_insert(error);
        }
        self.stop.raise();
    }

    /// Takes note of how a thread ended.
    pub(super) fn ended(&self, result: Result<(), ApplyError>) {
        if let Err(error) = result {
            self.give_up(error);
        }
    }

    /// Has `told` say how far it is, if it is time to.
    pub(super) fn report(&self, told: &mut Told<'_>, path: &[u8]) -> Result<(), Interrupted> {
        let received = self.received.load(Ordering::Relaxed);
        let bytes = self.bytes.load(Ordering::Relaxed) + self.kept.load(Ordering::Relaxed);
        told.progress_of(|| (self.results().placed.max(received), bytes), path)
    }

    /// What it came to, or why it ended early.
    pub(super) fn finish(&self) -> Result<Results, ApplyError> {
        let mut results = std::mem::take(&mut *self.results());
        match results.trouble.take() {
            Some(error) => Err(error),
            None if self.stop.is_raised() => Err(Interrupted.into()),
            None => Ok(results),
        }
    }
}

impl Results {
    /// Says what is wrong with one entry.
    pub(super) fn complain(&mut self, kind: &str, path: &[u8], why: &dyn Display) {
        self.notes
            .error(kind, &format!("{}: {why}", escape_bytes(path)));
    }

    /// Takes the directory `ino` as the one that was to be made at `path`; whether it may be.
    pub(super) fn adopt(&mut self, path: &[u8], ino: u64) -> bool {
        let is_room = self.adopted.len() < ADOPTED_MAX;
        if is_room {
            self.adopted.insert(path.to_vec(), ino);
        }
        is_room
    }
}
