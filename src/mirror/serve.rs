//! The source's half of carrying out a plan: send the content of the files the target asks for.
//!
//! Only what the scan offered is sent: the filter is asked about each path again, with the rules of
//! the directories on the way, because the other machine may ask for anything.
//!
//! Files are opened some time before their turn, and the kernel is told to read them: a snapshot
//! that was taken just now has nothing in memory, and waiting for the disk file by file would take
//! longer than everything else.

use std::collections::VecDeque;
use std::os::fd::{AsFd, OwnedFd};

use crossbeam_channel::Receiver;
use rustix::fs::Advice;
use rustix::io::Errno;

use super::alike::{Alike, Elsewhere};
use super::codec::Malformed;
use super::content::for_each_run;
use super::delta::list::{PART_WEIGHT, Part};
use super::delta::survey::{Survey, send_parts, survey};
use super::filter::Filter;
use super::frames::{Batch, next_frame, peer_payload};
use super::packing::Packer;
use super::path::split;
use super::scan::ScanError;
use super::scope::{Closed, Way};
use super::tree::Tree;
use super::wire::{ContentHash, DATA_MAX, FETCH_PATHS, FETCH_WINDOW, Message, Messages};
use crate::interrupt::{AbortFlag, Interrupted};

/// Files opened before their turn.
const AHEAD_FILES: usize = 64;
/// Content the kernel is told to read before its turn.
const AHEAD_BYTES: u64 = 8 << 20;
/// ... of one file; the kernel reads on by itself as the file is read.
const AHEAD_OF_FILE: u64 = 1 << 20;

/// A file whose turn will come.
struct Opened {
    id: u64,
    what: What,
    /// How long the question was.
    length: usize,
    file: Result<(OwnedFd, u64), Errno>,
}

impl Opened {
    /// What is being read of it already.
    fn ahead(&self) -> u64 {
        self.file
            .as_ref()
            .map_or(0, |(_, size)| (*size).min(AHEAD_OF_FILE))
    }
}

/// Sends files from a tree.
pub struct Server<'a> {
    tree: &'a Tree,
    incoming: &'a Receiver<Vec<u8>>,
    batch: Batch<'a>,
    abort: &'a AbortFlag,
    wanted: VecDeque<Wanted>,
    /// Length of the questions.
    wanted_bytes: usize,
    /// The first of them, opened.
    opened: VecDeque<Opened>,
    /// What is being read of those.
    ahead: u64,
    /// Sent and not credited yet.
    in_flight: u64,
    packer: Packer,
    finished: bool,
    /// The way to the last file.
    way: Way<'a>,
    alike: Alike<'a>,
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
    /// All of it, or the names of others like it.
    OrNames,
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
            Self::Whole | Self::OrNames => 0,
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
    /// Serves what `filter` offers of `tree`, which must not change: a read-only snapshot. Names of what is
    /// `elsewhere` may do instead of content.
    #[must_use]
    pub fn new(
        tree: &'a Tree,
        filter: &Filter,
        elsewhere: &'a [Elsewhere],
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
            opened: VecDeque::new(),
            ahead: 0,
            in_flight: 0,
            packer: Packer::default(),
            finished: false,
            way: Way::new(tree, filter),
            alike: Alike::new(tree, filter, elsewhere),
            files: 0,
            bytes: 0,
        }
    }

    /// Sends what is asked for until the target says it was all.
    pub fn run(&mut self) -> Result<(), ScanError> {
        let mut buffer = vec![0; DATA_MAX];
        loop {
            self.hear(false)?;
            self.open_ahead()?;
            let Some(next) = self.opened.pop_front() else {
                if self.finished {
                    self.batch.flush()?;
                    return Ok(());
                }
                self.packer.rest();
                self.hear(true)?;
                continue;
            };
            self.ahead -= next.ahead();
            self.wanted_bytes -= next.length;
            let id = next.id;
            match self.send(next, &mut buffer) {
                Ok(is_content) => self.files += u64::from(is_content),
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

    /// Opens the next files that are wanted and has the kernel read them.
    fn open_ahead(&mut self) -> Result<(), ScanError> {
        while self.opened.len() < AHEAD_FILES && self.ahead < AHEAD_BYTES {
            let Some(wanted) = self.wanted.pop_front() else {
                break;
            };
            let file = match self.open(&wanted.path) {
                Ok(file) => Ok(file),
                Err(Stop::File(errno)) => Err(errno),
                Err(Stop::All(error)) => return Err(error),
            };
            let opened = Opened {
                id: wanted.id,
                what: wanted.what,
                length: wanted.length,
                file,
            };
            self.ahead += opened.ahead();
            self.opened.push_back(opened);
        }
        Ok(())
    }

    fn open(&mut self, path: &[u8]) -> Result<(OwnedFd, u64), Stop> {
        let (_, name) = split(path);
        let file = match self.way.open_parent(path)? {
            Ok(dir) => self.tree.open_file(dir, name)?,
            Err(Closed::Excluded) => return Err(excluded()),
            Err(Closed::Io(errno)) => return Err(errno.into()),
        };
        let size = u64::try_from(rustix::fs::fstat(&file)?.st_size).unwrap_or(0);
        if let Some(length) = std::num::NonZeroU64::new(size.min(AHEAD_OF_FILE)) {
            // Only advice: without it the file is read when its turn comes.
            let _ = rustix::fs::fadvise(&file, 0, Some(length), Advice::WillNeed);
        }
        Ok((file, size))
    }

    /// Answers a question; whether that was all of it: what a survey says is followed by the parts that are
    /// wanted then, and names by another question.
    fn send(&mut self, opened: Opened, buffer: &mut [u8]) -> Result<bool, Stop> {
        let id = opened.id;
        let (fd, size) = opened.file?;
        match &opened.what {
            What::Survey(how) => {
                let abort = self.abort;
                survey(fd.as_fd(), size, id, how, abort, |m| self.say(m))?;
                return Ok(false);
            }
            What::Parts(parts) => {
                let abort = self.abort;
                send_parts(fd.as_fd(), size, id, parts, abort, |m| self.say(m))?;
                return Ok(true);
            }
            What::OrNames => {
                let names = self.alike.to(fd.as_fd(), size)?;
                for (folder, path) in &names {
                    let folder = *folder;
                    self.say(&Message::Alike { id, folder, path })?;
                }
                if !names.is_empty() {
                    let hash = [0; 32];
                    self.say(&Message::End { id, size, hash })?;
                    return Ok(false);
                }
            }
            What::Whole => {}
        }
        let mut hash = ContentHash::new();
        for_each_run(fd.as_fd(), size, buffer, |offset, bytes| {
            hash.update(offset, bytes);
            self.say(&Message::Data { id, offset, bytes })
        })?;
        let hash = hash.finish(size);
        self.say(&Message::End { id, size, hash })?;
        Ok(true)
    }

    /// Says something about a file, when there is room for it.
    fn say(&mut self, message: &Message<'_>) -> Result<(), Stop> {
        let mut message = message.clone();
        if let Message::Data { id, offset, bytes } = message {
            self.bytes += bytes.len() as u64;
            if let Some(packed) = self.packer.pack(bytes) {
                message = Message::Packed {
                    id,
                    offset,
                    length: bytes.len(),
                    bytes: packed,
                };
            }
        }
        self.in_flight += message.credit();
        self.batch.push(&message)?;
        if self.in_flight > self.packer.window() {
            self.packer.waits(true);
            while self.in_flight > self.packer.window() {
                self.hear(true)?;
            }
            self.packer.waits(false);
        }
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
        while let Some(frame) = next_frame(&mut self.batch, self.incoming, self.abort, wait)? {
            wait = false;
            for message in Messages::new(&peer_payload(&frame)?) {
                match message? {
                    Message::Fetch { id, path } => self.want(id, path, What::Whole)?,
                    Message::FetchOrNames { id, path } => self.want(id, path, What::OrNames)?,
                    Message::Survey { id, path, survey } => {
                        self.want(id, path, What::Survey(survey))?;
                    }
                    Message::Parts { id, path, parts } => {
                        self.want(id, path, What::Parts(parts))?;
                    }
                    Message::Credit(bytes) => {
                        self.in_flight = self.in_flight.saturating_sub(bytes);
                        self.packer.credit(bytes);
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
