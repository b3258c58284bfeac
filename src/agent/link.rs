//! A two-way byte stream to an agent, whatever carries it: a child's pipes or an SSH channel.
//!
//! The thread that owns the stream reads frames into `incoming` and writes the byte chunks it
//! finds in `outgoing`. Dropping `outgoing` closes the agent's stdin, which ends the agent.
//! Neither channel is bounded here: the protocol's own windows bound what is in flight.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender};

use super::protocol::Frame;

/// What arrives on a link.
#[derive(Debug)]
pub enum Incoming {
    /// A whole frame.
    Frame(Frame),
    /// The stream has ended or failed; nothing follows.
    Closed(Closed),
}

/// Why a link ended, with what the other side said last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Closed {
    /// For people: "connection reset by peer", "no answer for 15 s", "agent exited with status 1".
    pub reason: String,
    /// The last lines the agent (or sudo, or sshd) wrote to stderr.
    pub stderr: String,
    /// Whether the agent ended by itself with status 0 after we closed its stdin.
    pub orderly: bool,
}

/// The CLI's end of a link.
#[derive(Debug)]
pub struct Link {
    /// Encoded frames to send, in order; one element may hold several frames.
    pub outgoing: Sender<Vec<u8>>,
    /// What arrives.
    pub incoming: Receiver<Incoming>,
    /// Bytes on the wire so far (below any encryption).
    pub traffic: Traffic,
    /// The agent's banner line, already read.
    pub banner: String,
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

/// How long to wait for an agent's banner after everything it needs was sent.
pub const BANNER_TIMEOUT: Duration = Duration::from_secs(20);
