//! How a higher layer adds work to the agent without the agent knowing it.
//!
//! The `agent` command builds the list of services; the server hands each
//! [`Request::Service`](super::protocol::Request::Service) to the one named and runs it on a
//! thread of its own, so that pings, disk questions and an abort are answered meanwhile.

use crossbeam_channel::{Receiver, Sender};
use serde_json::Value;

use super::fault::Fault;
use crate::event::EventSink;
use crate::interrupt::AbortFlag;

/// What a running service call is given.
pub struct ServiceContext {
    /// Payloads of stream frames from the CLI, in order; disconnected when the CLI is gone.
    /// There is one stream per agent, so one service call that streams runs at a time.
    pub incoming: Receiver<Vec<u8>>,
    /// Payloads of stream frames to the CLI. Bounded: sending blocks when the pipe is full.
    pub outgoing: Sender<Vec<u8>>,
    /// Log lines to the CLI.
    pub events: EventSink,
    /// Raised by [`Request::Abort`](super::protocol::Request::Abort) and when stdin closes.
    pub abort: AbortFlag,
    /// Session id from the hello.
    pub session: String,
}

/// A named group of requests.
pub trait Service: Send + Sync {
    /// The name requests carry.
    fn name(&self) -> &'static str;

    /// Answers one request.
    fn call(&self, context: &ServiceContext, body: Value) -> Result<Value, Fault>;

    /// The agent is about to end, in whatever way it still can: release what outlives a call.
    fn finish(&self) {}
}
