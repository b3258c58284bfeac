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
    wanted: VecDeque<(u64, Vec<u8>)>,
    /// Length of their paths.
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

/// Why a file was not sent to its end.
enum Stop {
    /// The file's own trouble: the target is told, the next one follows.
    File(Errno),
    /// The end of everything.
    All(ScanError),
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
            let Some((id, path)) = self.wanted.pop_front() else {
                if self.finished {
                    self.batch.flush()?;
                    return Ok(());
                }
                self.hear(true)?;
                continue;
            };
            self.wanted_bytes -= path.len();
            match self.send(id, &path, &mut buffer) {
                Ok(()) => self.files += 1,
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

    fn send(&mut self, id: u64, path: &[u8], buffer: &mut [u8]) -> Result<(), Stop> {
        let fd = self.open(path)?;
        let size = u64::try_from(rustix::fs::fstat(&fd)?.st_size).unwrap_or(0);
        let mut hash = ContentHash::new();
        for_each_run(fd.as_fd(), size, buffer, |offset, bytes| {
            hash.update(offset, bytes);
            self.in_flight += bytes.len() as u64;
            self.bytes += bytes.len() as u64;
            self.batch.push(&Message::Data { id, offset, bytes })?;
            while self.in_flight > DATA_WINDOW {
                self.hear(true)?;
            }
            Ok::<(), Stop>(())
        })?;
        self.batch.push(&Message::End {
            id,
            size,
            hash: hash.finish(size),
        })?;
        Ok(())
    }

    /// Deals with what the target says; with `wait`, at least one frame of it.
    fn hear(&mut self, mut wait: bool) -> Result<(), ScanError> {
        while let Some(frame) = super::next_frame(&mut self.batch, self.incoming, self.abort, wait)?
        {
            wait = false;
            for message in Messages::new(super::peer_payload(&frame)?) {
                match message? {
                    Message::Fetch { id, path } => {
                        if self.wanted.len() as u64 > FETCH_WINDOW
                            || self.wanted_bytes > FETCH_PATHS
                        {
                            return Err(Malformed("wants more files than allowed").into());
                        }
                        self.wanted_bytes += path.len();
                        self.wanted.push_back((id, path.to_vec()));
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
