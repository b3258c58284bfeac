//! The line to the source of a thread that makes files: questions go out, answers come in their order, and credit
//! is given back for what has come.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::Ordering;

use crossbeam_channel::Receiver;

use super::outcome::Outcome;
use super::{ApplyError, write_error};
use crate::escape::escape_str;
use crate::mirror::alike::{NAMES_MAX, Named};
use crate::mirror::codec::Malformed;
use crate::mirror::delta::rebuild::{Ended, Line as AskLine, Question};
use crate::mirror::frames::{Batch, FrameCursor, receive};
use crate::mirror::packing::Unpacker;
use crate::mirror::place::PlaceError;
use crate::mirror::plan::Op;
use crate::mirror::staging;
use crate::mirror::told::Told;
use crate::mirror::wire::{ContentHash, Message};
use crate::sys::writeback;

/// Credit is given back in steps of this size.
const CREDIT_STEP: u64 = 2 << 20;

/// The disk begins to take in a large file whenever so much more of it has arrived, so that what is left to do
/// in the end is short.
const WRITEBACK_STEP: u64 = 16 << 20;

/// What the source sent for a file.
pub(super) enum Sent {
    /// Its content, up to here.
    Content(u64),
    /// Names of others like it.
    Names(Vec<Named>),
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

impl Line<'_> {
    /// Says something that is no question.
    pub(super) fn push(&mut self, message: &Message<'_>) -> Result<(), ApplyError> {
        Ok(self.peer.push(message)?)
    }

    /// Sends what was said.
    pub(super) fn flush(&mut self) -> Result<(), ApplyError> {
        Ok(self.peer.flush()?)
    }

    /// Asks something; answers come in the order of the questions.
    pub(super) fn ask<'m>(
        &mut self,
        question: impl FnOnce(u64) -> Message<'m>,
    ) -> Result<(), ApplyError> {
        self.peer.push(&question(self.requested))?;
        self.requested += 1;
        Ok(())
    }

    /// Writes what arrives for `op` until its end; returns where its last data ended. The inner error
    /// is the file's own.
    pub(super) fn receive(
        &mut self,
        outcome: &Outcome,
        told: &mut Told<'_>,
        op: &Op,
        or_names: bool,
        file: Option<&OwnedFd>,
    ) -> Result<Result<Sent, PlaceError>, ApplyError> {
        let mut names: Vec<Named> = Vec::new();
        let mut hash = ContentHash::new();
        let mut written = 0;
        let mut begun = 0;
        let ended = self.answer(outcome, told, &op.path, &mut |message| {
            if let Message::Alike { folder, path, .. } = message
                && or_names
                && written == 0
                && names.len() < NAMES_MAX
            {
                names.push((*folder, path.to_vec()));
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
    pub(super) fn answer(
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
                let frame = receive(self.incoming, &outcome.stop)?;
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
pub(super) struct FileLine<'l, 'a, 't> {
    pub(super) line: &'l mut Line<'a>,
    pub(super) outcome: &'l Outcome,
    pub(super) told: &'l mut Told<'t>,
    pub(super) path: &'l [u8],
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
        self.line.flush()
    }

    fn answer(
        &mut self,
        take: &mut dyn FnMut(&Message<'_>) -> Result<(), ApplyError>,
    ) -> Result<Ended, ApplyError> {
        self.line.answer(self.outcome, self.told, self.path, take)
    }
}
