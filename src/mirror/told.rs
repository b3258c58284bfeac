//! What the CLI is told while changes are made: each change once it is made, and how far it is.
//!
//! Changes are collected and sent many at once, so that a line in the log for every file costs next to
//! nothing; what was made is told within `TELL_EVERY`, whatever happens next.

use std::time::{Duration, Instant};

use super::entry::Aspects;
use super::plan::Op;
use super::wire::{Batch, Message};
use crate::change::Action;
use crate::interrupt::Interrupted;

/// How often the CLI is told how far it is, and the longest a change waits.
const TELL_EVERY: Duration = Duration::from_millis(100);

/// One thread's way to tell the CLI.
pub struct Told<'a> {
    cli: Batch<'a>,
    told_at: Instant,
}

/// What is told of a change, besides its path.
#[derive(Debug, Clone, Copy)]
pub struct Note {
    action: Action,
    aspects: Aspects,
    bytes: u64,
}

impl From<&Op> for Note {
    fn from(op: &Op) -> Self {
        Self {
            action: op.action(),
            aspects: op.aspects,
            bytes: op.bytes_shown(),
        }
    }
}

impl<'a> Told<'a> {
    /// Tells through `cli`.
    #[must_use]
    pub fn new(cli: Batch<'a>) -> Self {
        Self {
            cli,
            told_at: Instant::now(),
        }
    }

    /// The same for another thread.
    #[must_use]
    pub fn another(&self) -> Self {
        Self::new(self.cli.another())
    }

    /// A change was made.
    pub fn made(&mut self, note: Note, path: &[u8]) -> Result<(), Interrupted> {
        self.change(note, path, None)
    }

    /// Something that was at `from` was moved.
    pub fn moved(&mut self, note: Note, from: &[u8], path: &[u8]) -> Result<(), Interrupted> {
        self.change(note, path, Some(from))
    }

    fn change(&mut self, note: Note, path: &[u8], from: Option<&[u8]>) -> Result<(), Interrupted> {
        self.cli.push(&Message::Change {
            action: note.action as u8,
            aspects: note.aspects.0,
            bytes: note.bytes,
            path,
            from,
        })?;
        if self.told_at.elapsed() >= TELL_EVERY {
            self.flush()?;
        }
        Ok(())
    }

    /// How far it is, if it is time to say so.
    pub fn progress(&mut self, items: u64, bytes: u64, path: &[u8]) -> Result<(), Interrupted> {
        self.progress_of(|| (items, bytes), path)
    }

    /// The same where items and bytes must be looked up.
    pub fn progress_of(
        &mut self,
        so_far: impl FnOnce() -> (u64, u64),
        path: &[u8],
    ) -> Result<(), Interrupted> {
        if self.told_at.elapsed() >= TELL_EVERY {
            let (items, bytes) = so_far();
            self.cli.push(&Message::Progress { items, bytes, path })?;
            self.flush()?;
        }
        Ok(())
    }

    /// Sends what was collected.
    pub fn flush(&mut self) -> Result<(), Interrupted> {
        self.told_at = Instant::now();
        self.cli.flush()
    }
}
