//! The target's half of [`send_parts`](super::survey::send_parts): parts of a file as they arrive.

use std::ops::Range;
use std::os::fd::BorrowedFd;

use rustix::io::Errno;

use super::files::punch;
use super::list::Hash;
use super::rebuild::{Trouble, damaged};
use crate::mirror::apply::{ApplyError, write_error};
use crate::mirror::codec::Malformed;
use crate::mirror::place::PlaceError;
use crate::mirror::staging::write_all;
use crate::mirror::wire::{ContentHash, Message};

/// Writes parts as they arrive into a file that has something in their place already.
pub struct PartSink<'a> {
    file: BorrowedFd<'a>,
    parts: &'a [Range<u64>],
    /// Hashes of what the file has in the parts; without, every part must come.
    known: Option<&'a [Hash]>,
    /// Number of the part that comes next.
    next: usize,
    /// The one that is coming: up to where it is written, and its hash so far.
    open: Option<(u64, ContentHash)>,
    total: blake3::Hasher,
    /// A hole that may go on: only whole blocks become one, and parts can be shorter.
    hole: Range<u64>,
    /// What could not be written: the rest is taken off the line and passed over.
    trouble: Option<Errno>,
    /// Which parts came, by number.
    came: Vec<bool>,
}

impl<'a> PartSink<'a> {
    /// Into `file`, for `parts` that were asked for.
    #[must_use]
    pub fn new(file: BorrowedFd<'a>, parts: &'a [Range<u64>], known: Option<&'a [Hash]>) -> Self {
        Self {
            file,
            parts,
            known,
            next: 0,
            open: None,
            total: blake3::Hasher::new(),
            hole: 0..0,
            trouble: None,
            came: vec![false; parts.len()],
        }
    }

    /// Takes a message of the answer. An error means that the source does not keep to the protocol.
    pub fn take(&mut self, message: &Message<'_>) -> Result<(), Malformed> {
        match message {
            Message::Part { index, .. } => {
                self.close();
                let index = usize::try_from(*index).unwrap_or(usize::MAX);
                if index < self.next || index >= self.parts.len() {
                    return Err(Malformed("a part out of turn"));
                }
                self.pass_over(index)?;
                self.came[index] = true;
                self.open = Some((self.parts[index].start, ContentHash::new()));
                self.next = index + 1;
                Ok(())
            }
            Message::Data { offset, bytes, .. } => {
                let end = offset.saturating_add(bytes.len() as u64);
                let (at, hash) = self.open.as_mut().ok_or(Malformed("content of no part"))?;
                let part = &self.parts[self.next - 1];
                // Forwards only, so that there is an end to it.
                if *offset < *at || end <= *offset || end > part.end {
                    return Err(Malformed("more content than the part has"));
                }
                hash.update(*offset, bytes);
                let hole = *at..*offset;
                *at = end;
                let (file, offset) = (self.file, *offset);
                self.make_hole(hole);
                self.write(|| write_all(file, offset, bytes));
                Ok(())
            }
            _ => Err(Malformed("out of place while parts are sent")),
        }
    }

    /// The same; and where nothing more can be written, that is the end of everything: the rest need
    /// not come.
    pub fn take_or_end(&mut self, path: &[u8], message: &Message<'_>) -> Result<(), ApplyError> {
        self.take(message)?;
        match self.trouble {
            Some(errno) if PlaceError::Io(errno).is_fatal() => Err(write_error(path, errno)),
            _ => Ok(()),
        }
    }

    fn write(&mut self, write: impl FnOnce() -> Result<(), Errno>) {
        if self.trouble.is_none() {
            self.trouble = write().err();
        }
    }

    /// The parts before `index` that did not come are as they were known.
    fn pass_over(&mut self, index: usize) -> Result<(), Malformed> {
        let passed = self.next..index;
        match self.known {
            Some(known) => {
                for hash in &known[passed] {
                    self.total.update(hash);
                }
                Ok(())
            }
            None if passed.is_empty() => Ok(()),
            None => Err(Malformed("a part is missing")),
        }
    }

    /// Ends the part that was coming.
    fn close(&mut self) {
        if let Some((at, hash)) = self.open.take() {
            let part = self.parts[self.next - 1].clone();
            self.total.update(&hash.finish(part.end - part.start));
            self.make_hole(at..part.end);
        }
    }

    /// Leaves a hole, together with those it continues.
    fn make_hole(&mut self, hole: Range<u64>) {
        if hole.is_empty() {
            return;
        }
        if self.hole.end == hole.start {
            self.hole.end = hole.end;
            return;
        }
        let before = std::mem::replace(&mut self.hole, hole);
        let file = self.file;
        self.write(|| punch(file, before));
    }

    /// The source says that was all: which parts came.
    pub fn finish(mut self, hash: &Hash) -> Result<Vec<bool>, PartError> {
        self.close();
        let (file, hole) = (self.file, std::mem::take(&mut self.hole));
        self.write(|| punch(file, hole));
        self.pass_over(self.parts.len())
            .map_err(PartError::Malformed)?;
        match self.trouble {
            Some(errno) => Err(PartError::Io(errno)),
            None if *self.total.finalize().as_bytes() == *hash => Ok(self.came),
            None => Err(PartError::Damaged),
        }
    }
}

/// Why parts are not what they should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PartError {
    /// The source does not keep to the protocol.
    Malformed(Malformed),
    /// They could not be written.
    Io(Errno),
    /// They are not what the source has.
    Damaged,
}

impl From<PartError> for Trouble {
    fn from(error: PartError) -> Self {
        match error {
            PartError::Malformed(error) => Self::All(error.into()),
            PartError::Io(errno) => errno.into(),
            PartError::Damaged => damaged(),
        }
    }
}
