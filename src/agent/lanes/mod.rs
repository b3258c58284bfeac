//! Further connections that carry a share of what goes to an agent: `transfers` in the configuration.
//!
//! On a fast line the cipher costs most, and each connection has one thread for it on either side. So
//! the CLI deals the frames of a stream out to several connections, each with a number (`pool`), and
//! the agent puts them back in order (`order`): nothing above knows of it. A lane ends in a socket
//! that the agent listens on for a moment (`door`), reached by the ssh server as the person: nothing
//! more is started there, and nobody is asked for a password of `sudo`.

pub mod door;
pub mod order;
pub mod pool;

use serde::{Deserialize, Serialize};

/// What an agent says once a lane is let in; one line.
pub const WELCOME: &str = "pc-switcher-lane";

/// Most lanes besides the first connection.
pub const LANES_MAX: usize = 15;

/// Where lanes are let in, and with what words.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LaneOffer {
    /// The socket.
    pub path: String,
    /// The line that lets in.
    pub secret: String,
}

impl std::fmt::Debug for LaneOffer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LaneOffer")
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}
