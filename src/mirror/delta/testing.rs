//! For tests: content, and a line to a source in the same process that counts what goes over it.

use std::collections::VecDeque;
use std::fs::File;
use std::os::fd::AsFd;

use crossbeam_channel::unbounded;
use rustix::io::Errno;

use super::list::Part;
use super::rebuild::{Ended, Line, Question};
use super::survey::{Survey, send_parts, survey};
use crate::interrupt::{AbortFlag, Interrupted};
use crate::mirror::apply::ApplyError;
use crate::mirror::frames::Batch;
use crate::mirror::wire::{FOR_PEER, Message, Messages};

/// Bytes that do not compress, the same from the same seed.
pub(crate) fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut bytes = vec![0; length];
    let mut hasher = blake3::Hasher::new();
    hasher.update(&seed.to_le_bytes());
    hasher.finalize_xof().fill(&mut bytes);
    bytes
}

/// A source that answers at once.
pub(crate) struct Direct {
    /// Its version of the file.
    pub file: File,
    asked: VecDeque<Asked>,
    abort: AbortFlag,
    /// How many questions are answered before one is not; `None`: all.
    pub fails_after: Option<u64>,
    answered: u64,
    /// Bytes that went to the source.
    pub asked_bytes: u64,
    /// Bytes that came from it.
    pub said_bytes: u64,
    /// Bytes of content among them.
    pub data_bytes: u64,
    /// Round trips.
    pub questions: u64,
}

enum Asked {
    Survey(Survey),
    Parts(Vec<Part>),
}

impl Direct {
    pub(crate) fn new(file: File) -> Self {
        Self {
            file,
            asked: VecDeque::new(),
            abort: AbortFlag::new(),
            fails_after: None,
            answered: 0,
            asked_bytes: 0,
            said_bytes: 0,
            data_bytes: 0,
            questions: 0,
        }
    }

    /// How many questions wait for their answers.
    pub(crate) fn unanswered(&self) -> usize {
        self.asked.len()
    }

    /// What went over the line in both directions.
    pub(crate) fn wire_bytes(&self) -> u64 {
        self.asked_bytes + self.said_bytes
    }
}

/// A message on the wire.
fn encoded(message: &Message<'_>) -> Vec<u8> {
    let (tx, rx) = unbounded();
    let abort = AbortFlag::new();
    let mut batch = Batch::new(FOR_PEER, &tx, &abort);
    batch.push(message).unwrap();
    batch.flush().unwrap();
    rx.recv().unwrap()[1..].to_vec()
}

impl Line for Direct {
    fn ask(&mut self, question: Question<'_>) -> Result<(), ApplyError> {
        let (id, path) = (0, &b"some/file"[..]);
        let message = match question {
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
        };
        let bytes = encoded(&message);
        self.asked_bytes += bytes.len() as u64;
        self.questions += 1;
        let asked = match Messages::new(&bytes).next().unwrap().unwrap() {
            Message::Survey { survey, .. } => Asked::Survey(survey),
            Message::Parts { parts, .. } => Asked::Parts(parts),
            other => panic!("{other:?}"),
        };
        self.asked.push_back(asked);
        Ok(())
    }

    fn answer(
        &mut self,
        take: &mut dyn FnMut(&Message<'_>) -> Result<(), ApplyError>,
    ) -> Result<Ended, ApplyError> {
        enum Stop {
            Source(Errno),
            Target(ApplyError),
        }
        impl From<Errno> for Stop {
            fn from(errno: Errno) -> Self {
                Self::Source(errno)
            }
        }
        impl From<Interrupted> for Stop {
            fn from(error: Interrupted) -> Self {
                Self::Target(error.into())
            }
        }
        let size = self.file.metadata().unwrap().len();
        let asked = self.asked.pop_front().expect("asked before");
        self.answered += 1;
        if self.fails_after == Some(self.answered - 1) {
            return Ok(Err("it cannot be read".to_owned()));
        }
        let mut ended = None;
        let (said, data) = (&mut self.said_bytes, &mut self.data_bytes);
        let mut say = |message: &Message<'_>| {
            let bytes = encoded(message);
            *said += bytes.len() as u64;
            match Messages::new(&bytes).next().unwrap().unwrap() {
                Message::End { size, hash, .. } => ended = Some((size, hash)),
                message => {
                    if let Message::Data { bytes, .. } = &message {
                        *data += bytes.len() as u64;
                    }
                    take(&message).map_err(Stop::Target)?;
                }
            }
            Ok(())
        };
        let file = self.file.as_fd();
        let done = match &asked {
            Asked::Survey(how) => survey(file, size, 0, how, &self.abort, &mut say),
            Asked::Parts(parts) => send_parts(file, size, 0, parts, &self.abort, &mut say),
        };
        match done {
            Ok(()) => Ok(Ok(ended.expect("an end"))),
            Err(Stop::Source(errno)) => Ok(Err(errno.to_string())),
            Err(Stop::Target(error)) => Err(error),
        }
    }
}
