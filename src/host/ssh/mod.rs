//! Another machine, through SSH (libssh2).
//!
//! ssh2 lives in this folder alone. A connection is one libssh2 session with one owner: whoever
//! holds the [`SshConnection`], later the thread of the [`Program`] it was turned into. Sessions
//! never block; every wait looks at the abort flag.

mod auth;
mod carrier;
mod config;
mod encoding;
mod error;
mod exec;
mod keys;
mod known_hosts;
mod program;
mod session;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
mod tokens;
mod verify;

use std::path::PathBuf;

pub use config::{AgentSocket, HostConfig, Proxy, UnknownKey};
pub use error::SshError;
pub use exec::CommandOutput;
pub use program::Program;

use self::carrier::Carrier;
use self::known_hosts::KnownKeys;
use self::session::Wire;
use crate::event::EventSink;
use crate::host::throttle::Throttle;
use crate::interrupt::AbortFlag;
use crate::prompt::Prompter;

/// What a connection may differ in.
#[derive(Debug, Clone, Default)]
pub struct SshOptions {
    /// Read instead of `~/.ssh/config` and `/etc/ssh/ssh_config`.
    pub config_file: Option<PathBuf>,
    /// What may be sent.
    pub throttle: Throttle,
}

/// A connection that is logged in.
#[derive(Debug)]
pub struct SshConnection {
    wire: Wire,
    config: Box<HostConfig>,
    abort: AbortFlag,
    throttle: Throttle,
}

/// Reaches `host` (an alias, a name, `user@host`) as the person's ssh would, checks that it is the
/// right machine, and logs in.
pub fn connect(
    host: &str,
    options: &SshOptions,
    prompter: &dyn Prompter,
    events: &EventSink,
    abort: &AbortFlag,
) -> Result<SshConnection, SshError> {
    let config_file = options.config_file.as_deref();
    let config = config::resolve(host, config_file, events, abort)?;
    let known = KnownKeys::read(&config)?;
    let carrier = Carrier::open(&config, config_file, abort)?;
    let wire = Wire::handshake(carrier, &config, &known, abort)?;
    verify::host_key(&wire, &config, &known, prompter, events)?;
    auth::log_in(&wire, &config, prompter, abort)?;
    Ok(SshConnection {
        wire,
        config: Box::new(config),
        abort: abort.clone(),
        throttle: options.throttle.clone(),
    })
}

impl SshConnection {
    /// The host as it was typed, without a login name.
    #[must_use]
    pub fn host(&self) -> &str {
        let alias = &self.config.alias;
        alias.rsplit_once('@').map_or(alias, |(_, host)| host)
    }

    /// The login name.
    #[must_use]
    pub fn user(&self) -> &str {
        &self.config.user
    }

    /// How the host was configured.
    #[must_use]
    pub fn config(&self) -> &HostConfig {
        &self.config
    }

    /// The cipher of what we send, for the log.
    #[must_use]
    pub fn cipher(&self) -> Option<String> {
        self.wire
            .session
            .methods(ssh2::MethodType::CryptCs)
            .map(str::to_owned)
    }
}

impl Drop for SshConnection {
    fn drop(&mut self) {
        // Best effort: the server sees the end of the socket anyway.
        let _ = self.wire.session.disconnect(None, "done", None);
    }
}
