//! How a run reaches its machines: the seam between the phases and what carries them.
//!
//! The real implementation starts a local agent and connects over SSH; tests put agents without
//! machines behind it.

use std::sync::Arc;

use crate::agent::client::AgentClient;
use crate::event::EventSink;
use crate::interrupt::{AbortFlag, Interrupted};
use crate::prompt::Prompter;

/// What a new agent is connected with.
#[derive(Clone)]
pub struct Access {
    /// Session id.
    pub session: String,
    /// Where the agent's log lines go.
    pub events: EventSink,
    /// Ends waiting for the agent, and connecting to it.
    pub abort: AbortFlag,
    /// Passwords, passphrases, unknown host keys.
    pub prompter: Arc<dyn Prompter>,
}

/// Why there is no agent on a machine.
#[derive(Debug, thiserror::Error)]
pub enum MachineError {
    /// Asked to stop meanwhile.
    #[error(transparent)]
    Interrupted(#[from] Interrupted),
    /// No agent on this machine.
    #[error("cannot start the agent on this machine")]
    Local(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// No connection, or no agent, on the other machine.
    #[error("{source}")]
    Target {
        /// The machine as typed.
        hostname: String,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// Starts agents. Each call gives a new one.
pub trait Machines: Send + Sync {
    /// An agent on this machine.
    fn local(&self, access: &Access) -> Result<AgentClient, MachineError>;

    /// The first agent on the target.
    fn target(&self, access: &Access) -> Result<AgentClient, MachineError>;

    /// One more agent on the target, over a connection of its own; `first` is the process id of
    /// the first one there.
    fn target_again(&self, access: &Access, first: u32) -> Result<AgentClient, MachineError>;
}
