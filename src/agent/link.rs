//! A two-way byte stream to an agent, whatever carries it: a child's pipes or an SSH channel.
//!
//! The thread that owns the stream reads frames into `incoming` and writes the byte chunks it
//! finds in `outgoing`. Dropping `outgoing` closes the agent's stdin, which ends the agent.
//! Neither channel is bounded here: the protocol's own windows bound what is in flight.

use crossbeam_channel::Receiver;

use super::protocol::Frame;
pub use crate::host::opening::BANNER_TIMEOUT;
pub use crate::host::stream::{Backlog, Closed, Gone, Outgoing, Traffic};

/// What arrives on a link.
#[derive(Debug)]
pub enum Incoming {
    /// A whole frame.
    Frame(Frame),
    /// The stream has ended or failed; nothing follows.
    Closed(Closed),
}

/// The CLI's end of a link.
#[derive(Debug)]
pub struct Link {
    /// Encoded frames to send, in order; one element may hold several frames.
    pub outgoing: Outgoing,
    /// What arrives.
    pub incoming: Receiver<Incoming>,
    /// Bytes on the wire so far (below any encryption).
    pub traffic: Traffic,
    /// The agent's banner line, already read.
    pub banner: String,
}
