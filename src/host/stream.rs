//! A program's standard streams, whatever carries them: a child's pipes or an SSH channel.
//!
//! One thread owns the carrier. It hands what arrives to a [`ByteSink`] and writes what it finds
//! in its queue, never holding up one direction for the other. [`Outgoing`] is the way into that
//! queue; dropping it closes the program's stdin. What must not wait behind megabytes of content (a
//! ping, the word to stop) goes first.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crossbeam_channel::{Receiver, Sender, TryRecvError, unbounded};

use crate::buffers;
use crate::sys::poll::Waker;

/// Bytes of stderr that are kept for the error message.
pub const STDERR_TAIL: usize = 4096;

/// Why a stream ended, with what the other side said last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Closed {
    /// For people: "connection reset by peer", "no answer for 15 s", "agent exited with status 1".
    pub reason: String,
    /// The last lines the agent (or sudo, or sshd) wrote to stderr.
    pub stderr: String,
    /// Whether the agent ended by itself with status 0 after we closed its stdin.
    pub orderly: bool,
}

impl Closed {
    /// The end of a stream of which nothing was heard since.
    #[must_use]
    pub fn silent(since: std::time::Instant) -> Self {
        Self {
            reason: format!("no answer for {} s", since.elapsed().as_secs()),
            stderr: String::new(),
            orderly: false,
        }
    }
}

/// Bytes that went over a link.
#[derive(Debug, Clone, Default)]
pub struct Traffic(Arc<(AtomicU64, AtomicU64)>);

impl Traffic {
    /// Counts bytes sent.
    pub fn add_sent(&self, bytes: u64) {
        self.0.0.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Counts bytes received.
    pub fn add_received(&self, bytes: u64) {
        self.0.1.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Bytes sent and received so far.
    #[must_use]
    pub fn totals(&self) -> (u64, u64) {
        (
            self.0.0.load(Ordering::Relaxed),
            self.0.1.load(Ordering::Relaxed),
        )
    }
}

/// Where a stream's thread puts what arrives.
pub trait ByteSink: Send {
    /// Takes bytes of stdout, in order. An error is the reason to end the stream.
    fn received(&mut self, bytes: &[u8]) -> Result<(), String>;

    /// The stream has ended; called once, last.
    fn closed(&mut self, closed: Closed);
}

/// The stream has ended; what was to be sent is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the stream has ended")]
pub struct Gone;

/// How much waits in a queue of byte strings, told from their lengths and from how many are left.
#[derive(Debug, Default)]
pub struct Backlog {
    lengths: VecDeque<usize>,
    bytes: usize,
}

impl Backlog {
    /// After so many bytes were put into a queue that holds `waiting` by now: how many bytes wait in it.
    pub fn add(&mut self, bytes: usize, waiting: usize) -> usize {
        self.lengths.push_back(bytes);
        self.bytes += bytes;
        while self.lengths.len() > waiting {
            let taken = self.lengths.pop_front();
            self.bytes -= taken.expect("there are more than are waiting");
        }
        self.bytes
    }
}

/// The way into a stream's queue. Dropping it closes the program's stdin.
#[derive(Debug)]
pub struct Outgoing {
    queue: Option<Sender<Vec<u8>>>,
    first: Option<Sender<Vec<u8>>>,
    waker: Option<Arc<Waker>>,
    /// What is not urgent is not sent any more.
    only_first: Arc<AtomicBool>,
}

impl Outgoing {
    /// Queues `bytes`; never blocks.
    pub fn send(&self, bytes: Vec<u8>) -> Result<(), Gone> {
        self.put(self.queue.as_ref(), bytes)
    }

    /// Queues `bytes`, whole frames, before everything that is queued already; never blocks.
    pub fn send_first(&self, bytes: Vec<u8>) -> Result<(), Gone> {
        self.put(self.first.as_ref().or(self.queue.as_ref()), bytes)
    }

    /// Forgets everything that is queued and was not to go first, now and later: the line is needed for what
    /// follows.
    pub fn drop_rest(&self) {
        self.only_first.store(true, Ordering::SeqCst);
    }

    fn put(&self, queue: Option<&Sender<Vec<u8>>>, bytes: Vec<u8>) -> Result<(), Gone> {
        let queue = queue.filter(|_| self.queue.is_some()).ok_or(Gone)?;
        queue.send(bytes).map_err(|_| Gone)?;
        if let Some(waker) = &self.waker {
            waker.wake();
        }
        Ok(())
    }
}

impl From<Sender<Vec<u8>>> for Outgoing {
    /// For a stream whose thread waits on the channel itself (tests, threads without a socket).
    fn from(queue: Sender<Vec<u8>>) -> Self {
        Self {
            queue: Some(queue),
            first: None,
            waker: None,
            only_first: Arc::default(),
        }
    }
}

impl Drop for Outgoing {
    fn drop(&mut self) {
        self.queue = None;
        self.first = None;
        if let Some(waker) = &self.waker {
            waker.wake();
        }
    }
}

/// Chunks at least this large are written as they are, smaller ones are joined up to it.
const JOIN_BELOW: usize = 16 << 10;

/// The owning thread's end of the queue: what to write next.
#[derive(Debug)]
pub(crate) struct Queue {
    chunks: Receiver<Vec<u8>>,
    first: Receiver<Vec<u8>>,
    pub(crate) waker: Arc<Waker>,
    chunk: Vec<u8>,
    written: usize,
    held: Option<Vec<u8>>,
    ended: bool,
    only_first: Arc<AtomicBool>,
}

impl Queue {
    /// A queue and the way into it.
    pub(crate) fn new() -> std::io::Result<(Outgoing, Self)> {
        let (sender, chunks) = unbounded();
        let (first_sender, first) = unbounded();
        let waker = Arc::new(Waker::new()?);
        let only_first = Arc::<AtomicBool>::default();
        let outgoing = Outgoing {
            queue: Some(sender),
            first: Some(first_sender),
            waker: Some(Arc::clone(&waker)),
            only_first: Arc::clone(&only_first),
        };
        Ok((
            outgoing,
            Self {
                chunks,
                first,
                waker,
                chunk: Vec::new(),
                written: 0,
                held: None,
                ended: false,
                only_first,
            },
        ))
    }

    /// What to write now; empty when there is nothing. Until [`wrote`](Self::wrote) is called the
    /// same bytes at the same address are returned: libssh2 must be given them again after EAGAIN.
    pub(crate) fn front(&mut self) -> &[u8] {
        if self.written == self.chunk.len() && !self.ended {
            self.refill();
        }
        &self.chunk[self.written..]
    }

    fn refill(&mut self) {
        buffers::give(std::mem::take(&mut self.chunk));
        self.written = 0;
        // A chunk is whole frames, so between two of them there is room for another.
        if let Ok(first) = self.first.try_recv() {
            self.chunk = first;
            return;
        }
        if self.only_first.load(Ordering::SeqCst) {
            self.held = None;
            self.ended = loop {
                match self.chunks.try_recv() {
                    Ok(_) => {}
                    Err(end) => break end == TryRecvError::Disconnected,
                }
            };
            return;
        }
        if let Some(held) = self.held.take() {
            self.chunk = held;
            return;
        }
        loop {
            match self.chunks.try_recv() {
                Ok(next) if self.chunk.is_empty() => self.chunk = next,
                Ok(next) if self.chunk.len() + next.len() <= 2 * JOIN_BELOW => {
                    self.chunk.extend_from_slice(&next);
                }
                Ok(next) => {
                    self.held = Some(next);
                    return;
                }
                Err(TryRecvError::Empty) => return,
                Err(TryRecvError::Disconnected) => {
                    self.ended = true;
                    return;
                }
            }
            if self.chunk.len() >= JOIN_BELOW {
                return;
            }
        }
    }

    /// `count` bytes of [`front`](Self::front) are on their way.
    pub(crate) fn wrote(&mut self, count: usize) {
        self.written += count;
    }

    /// Whether everything taken from the queue so far was written.
    pub(crate) fn is_idle(&self) -> bool {
        self.written == self.chunk.len()
    }

    /// Nothing is left and nothing will come: stdin can be closed.
    pub(crate) fn is_finished(&self) -> bool {
        self.ended && self.written == self.chunk.len() && self.held.is_none()
    }
}

/// The last bytes of a stream.
#[derive(Debug, Default)]
pub(crate) struct Tail(Vec<u8>);

impl Tail {
    /// Takes in `bytes`, forgetting the oldest.
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
        if self.0.len() > 2 * STDERR_TAIL {
            let excess = self.0.len() - STDERR_TAIL;
            self.0.drain(..excess);
        }
    }

    /// Takes `words` out of what is kept.
    pub(crate) fn forget(&mut self, words: &str) {
        self.0 = String::from_utf8_lossy(&self.0)
            .replace(words, "")
            .into_bytes();
    }

    /// What is kept, as text.
    pub(crate) fn text(&self) -> String {
        let start = self.0.len().saturating_sub(STDERR_TAIL);
        String::from_utf8_lossy(&self.0[start..])
            .trim_end()
            .to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_chunks_are_joined_and_large_ones_kept_in_order() {
        let (outgoing, mut queue) = Queue::new().unwrap();
        outgoing.send(vec![1; 10]).unwrap();
        outgoing.send(vec![2; 10]).unwrap();
        outgoing.send(vec![3; 100_000]).unwrap();
        outgoing.send(vec![4; 1]).unwrap();
        drop(outgoing);
        let mut all = Vec::new();
        let mut pieces = 0;
        while !queue.front().is_empty() {
            let take = queue.front().len().min(60_000);
            let piece = queue.front()[..take].to_vec();
            queue.wrote(take);
            all.extend(piece);
            pieces += 1;
        }
        assert!(queue.is_finished());
        assert_eq!(pieces, 4);
        let expected: Vec<u8> = [vec![1; 10], vec![2; 10], vec![3; 100_000], vec![4; 1]].concat();
        assert_eq!(all, expected);
    }

    #[test]
    fn what_must_not_wait_goes_before_all_that_is_not_begun() {
        let (outgoing, mut queue) = Queue::new().unwrap();
        outgoing.send(vec![1; 100_000]).unwrap();
        outgoing.send(vec![2; 100_000]).unwrap();
        assert_eq!(queue.front().len(), 100_000);
        queue.wrote(60_000);
        outgoing.send_first(vec![9; 5]).unwrap();
        assert_eq!(queue.front(), vec![1; 40_000]);
        queue.wrote(40_000);
        assert_eq!(queue.front(), [9; 5]);
        queue.wrote(5);
        assert_eq!(queue.front(), vec![2; 100_000]);
        queue.wrote(100_000);
        drop(outgoing);
        assert!(queue.front().is_empty() && queue.is_finished());
    }

    #[test]
    fn what_is_dropped_makes_room_for_what_is_urgent() {
        let (outgoing, mut queue) = Queue::new().unwrap();
        for byte in 1..100 {
            outgoing.send(vec![byte; 100_000]).unwrap();
        }
        assert_eq!(queue.front(), vec![1; 100_000]);
        queue.wrote(60_000);
        outgoing.drop_rest();
        outgoing.send_first(vec![200; 5]).unwrap();
        outgoing.send(vec![201; 5]).unwrap();
        // What was begun goes to its end: it is a frame.
        assert_eq!(queue.front(), vec![1; 40_000]);
        queue.wrote(40_000);
        assert_eq!(queue.front(), [200; 5]);
        queue.wrote(5);
        assert!(queue.front().is_empty() && !queue.is_finished());
        outgoing.send_first(vec![202; 5]).unwrap();
        assert_eq!(queue.front(), [202; 5]);
        queue.wrote(5);
        drop(outgoing);
        assert!(queue.front().is_empty() && queue.is_finished());
    }

    #[test]
    fn a_dropped_sender_finishes_the_queue() {
        let (outgoing, mut queue) = Queue::new().unwrap();
        assert!(queue.front().is_empty());
        assert!(!queue.is_finished());
        drop(outgoing);
        assert!(queue.front().is_empty());
        assert!(queue.is_finished());
    }

    #[test]
    fn the_tail_keeps_the_end() {
        let mut tail = Tail::default();
        for _ in 0..10_000 {
            tail.push(b"noise ");
        }
        tail.push(b"last words\n");
        assert!(tail.text().ends_with("last words"));
        assert!(tail.text().len() <= STDERR_TAIL);
    }
}
