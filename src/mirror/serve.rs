//! The source's half of carrying out a plan: send the content of the files the target asks for.
//!
//! Only what the scan offered is sent: the filter is asked about each path again, with the rules of
//! the directories on the way, because the other machine may ask for anything.

use std::collections::VecDeque;
use std::os::fd::{AsFd, OwnedFd};

use crossbeam_channel::Receiver;
use rustix::io::Errno;

use super::codec::Malformed;
use super::content::for_each_run;
use super::delta::list::{PART_WEIGHT, Part};
use super::delta::survey::{Survey, send_parts, survey};
use super::entry::split;
use super::filter::Filter;
use super::scan::ScanError;
use super::scope::{Closed, Way};
use super::tree::Tree;
use super::wire::{
    Batch, ContentHash, DATA_MAX, DATA_WINDOW, FETCH_PATHS, FETCH_WINDOW, Message, Messages,
};
use crate::interrupt::{AbortFlag, Interrupted};

/// Sends files from a tree.
pub struct Server<'a> {
    tree: &'a Tree,
    incoming: &'a Receiver<Vec<u8>>,
    batch: Batch<'a>,
    abort: &'a AbortFlag,
    wanted: VecDeque<Wanted>,
    /// Length of the questions.
    wanted_bytes: usize,
    /// Sent and not credited yet.
    in_flight: u64,
    finished: bool,
    /// The way to the last file.
    way: Way<'a>,
    /// Files sent.
    pub files: u64,
    /// Bytes sent.
    pub bytes: u64,
}

/// A question of the target.
struct Wanted {
    id: u64,
    path: Vec<u8>,
    what: What,
    /// How long the question was.
    length: usize,
}

/// What of a file is wanted.
enum What {
    Whole,
    Survey(Survey),
    Parts(Vec<Part>),
}

/// Why a file was not sent to its end.
enum Stop {
    /// The file's own trouble: the target is told, the next one follows.
    File(Errno),
    /// The end of everything.
    All(ScanError),
}

impl What {
    /// What the question weighs besides its path.
    fn length(&self) -> usize {
        match self {
            Self::Whole => 0,
            Self::Survey(survey) => survey.weight(),
            Self::Parts(parts) => parts.len() * PART_WEIGHT,
        }
    }
}

impl From<Errno> for Stop {
    fn from(errno: Errno) -> Self {
        Self::File(errno)
    }
}

impl From<ScanError> for Stop {
    fn from(error: ScanError) -> Self {
        Self::All(error)
    }
}

impl From<Interrupted> for Stop {
    fn from(error: Interrupted) -> Self {
        Self::All(error.into())
    }
}

impl<'a> Server<'a> {
    /// Serves what `filter` offers of `tree`, which must not change: a read-only snapshot.
    #[must_use]
    pub fn new(
        tree: &'a Tree,
        filter: &Filter,
        incoming: &'a Receiver<Vec<u8>>,
        batch: Batch<'a>,
        abort: &'a AbortFlag,
    ) -> Self {
        Self {
            tree,
            incoming,
            batch,
            abort,
            wanted: VecDeque::new(),
            wanted_bytes: 0,
            in_flight: 0,
            finished: false,
            way: Way::new(tree, filter),
            files: 0,
            bytes: 0,
        }
    }

    /// Sends what is asked for until the target says it was all.
    pub fn run(&mut self) -> Result<(), ScanError> {
        let mut buffer = vec![0; DATA_MAX];
        loop {
            self.hear(false)?;
            let Some(wanted) = self.wanted.pop_front() else {
                if self.finished {
                    self.batch.flush()?;
                    return Ok(());
                }
                self.hear(true)?;
                continue;
            };
            self.wanted_bytes -= wanted.length;
            let id = wanted.id;
            match self.send(&wanted, &mut buffer) {
                // A survey is followed by the parts that are wanted then.
                Ok(()) => self.files += u64::from(!matches!(wanted.what, What::Survey(_))),
                Err(Stop::File(errno)) => {
                    self.batch.push(&Message::Failed {
                        id,
                        error: errno.to_string(),
                    })?;
                }
                Err(Stop::All(error)) => return Err(error),
            }
        }
    }

    fn open(&mut self, path: &[u8]) -> Result<OwnedFd, Stop> {
        let (_, name) = split(path);
        match self.way.open_parent(path)? {
            Ok(dir) => Ok(self.tree.open_file(dir, name)?),
            Err(Closed::Excluded) => Err(excluded()),
            Err(Closed::Io(errno)) => Err(errno.into()),
        }
    }

    fn send(&mut self, wanted: &Wanted, buffer: &mut [u8]) -> Result<(), Stop> {
        let (id, path) = (wanted.id, &wanted.path);
        let fd = self.open(path)?;
        let size = u64::try_from(rustix::fs::fstat(&fd)?.st_size).unwrap_or(0);
        match &wanted.what {
            What::Survey(how) => return survey(fd.as_fd(), size, id, how, |m| self.say(m)),
            What::Parts(parts) => return send_parts(fd.as_fd(), size, id, parts, |m| self.say(m)),
            What::Whole => {}
        }
        let mut hash = ContentHash::new();
        for_each_run(fd.as_fd(), size, buffer, |offset, bytes| {
            hash.update(offset, bytes);
            self.say(&Message::Data { id, offset, bytes })
        })?;
        let hash = hash.finish(size);
        self.say(&Message::End { id, size, hash })
    }

    /// Says something about a file, when there is room for it.
    fn say(&mut self, message: &Message<'_>) -> Result<(), Stop> {
        let length = message.credit();
        if let Message::Data { .. } = message {
            self.bytes += length;
        }
        self.in_flight += length;
        self.batch.push(message)?;
        while self.in_flight > DATA_WINDOW {
            self.hear(true)?;
        }
        // Looking for parts that differ, or cutting, can take long without anything to say.
        Ok(self.abort.check()?)
    }

    fn want(&mut self, id: u64, path: &[u8], what: What) -> Result<(), Malformed> {
        if self.wanted.len() as u64 > FETCH_WINDOW || self.wanted_bytes > FETCH_PATHS {
            return Err(Malformed("wants more files than allowed"));
        }
        let length = path.len() + what.length();
        self.wanted_bytes += length;
        self.wanted.push_back(Wanted {
            id,
            path: path.to_vec(),
            what,
            length,
        });
        Ok(())
    }

    /// Deals with what the target says; with `wait`, at least one frame of it.
    fn hear(&mut self, mut wait: bool) -> Result<(), ScanError> {
        while let Some(frame) = super::next_frame(&mut self.batch, self.incoming, self.abort, wait)?
        {
            wait = false;
            for message in Messages::new(super::peer_payload(&frame)?) {
                match message? {
                    Message::Fetch { id, path } => self.want(id, path, What::Whole)?,
                    Message::Survey { id, path, survey } => {
                        self.want(id, path, What::Survey(survey))?;
                    }
                    Message::Parts { id, path, parts } => {
                        self.want(id, path, What::Parts(parts))?;
                    }
                    Message::Credit(bytes) => {
                        self.in_flight = self.in_flight.saturating_sub(bytes);
                    }
                    Message::Finished => self.finished = true,
                    _ => return Err(Malformed("out of place while files are sent").into()),
                }
            }
        }
        Ok(())
    }
}

fn excluded() -> Stop {
    Stop::All(Malformed("asks for a file that is excluded").into())
}
