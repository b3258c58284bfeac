//! The steps to an agent, one check each: the error says which of them failed, so those before it
//! are good and those after it unknown.

use super::{Checks, State};
use crate::agent::deploy::DeployError;
use crate::event::Host;
use crate::host::ssh::SshError;
use crate::run::Peer;
use crate::run::error::RunError;
use crate::run::machines::MachineError;

/// The steps to another machine's agent, in order, with what is said of one that is good.
const STEPS: [(&str, &str); 7] = [
    ("ssh_config", "understood"),
    ("connection", "an ssh server answers"),
    ("host_key", "known"),
    ("login", "accepted"),
    ("sudo", "root can be had"),
    ("architecture", "the same as here"),
    ("agent", "starts"),
];

/// The steps to this machine's own.
const OWN_STEPS: [&str; 2] = ["sudo", "agent"];

impl Checks {
    /// What came of starting an agent, step by step.
    pub(super) fn reached(
        &mut self,
        host: Host,
        started: Result<Peer, RunError>,
    ) -> Result<Option<Peer>, RunError> {
        let steps = STEPS.into_iter();
        let steps: Vec<_> = steps
            .filter(|(id, _)| host == Host::Target || OWN_STEPS.contains(id))
            .collect();
        let (failed, started) = match started {
            Ok(peer) => (None, Ok(peer)),
            Err(error) => (Some(step(&error)), Err(error)),
        };
        let at = steps.iter().position(|(id, _)| Some(*id) == failed);
        let reached = at.unwrap_or(match failed {
            None => steps.len(),
            // Nothing of the way there: all that is known is that the agent is not there.
            Some(_) => steps.len() - 1,
        });
        for (id, words) in &steps[..reached] {
            self.ok(id, host, *words);
        }
        let peer = match started {
            Ok(peer) => Some(peer),
            Err(error) => {
                self.failed(steps[reached].0, Some(host), error)?;
                None
            }
        };
        for (id, _) in steps.iter().skip(reached + 1) {
            self.push(id, Some(host), State::Unknown, "not known yet".to_owned());
        }
        Ok(peer)
    }
}

/// The step at which an agent was not reached.
fn step(error: &RunError) -> &'static str {
    let RunError::Machine(MachineError::Local(source) | MachineError::Target { source, .. }) =
        error
    else {
        return "agent";
    };
    match source.downcast_ref::<DeployError>() {
        Some(DeployError::Ssh(error)) => ssh_step(error),
        Some(DeployError::Sudo { .. } | DeployError::NotRoot { .. } | DeployError::Prompt(_)) => {
            "sudo"
        }
        Some(DeployError::Architecture { .. }) => "architecture",
        _ => "agent",
    }
}

fn ssh_step(error: &SshError) -> &'static str {
    match error {
        SshError::BadHost { .. } | SshError::Config { .. } => "ssh_config",
        SshError::HostKeyUnknown { .. }
        | SshError::HostKeyChanged { .. }
        | SshError::HostKeyRevoked { .. }
        | SshError::OwnKey { .. }
        | SshError::KnownHosts { .. } => "host_key",
        SshError::LoginRefused { .. } | SshError::Prompt(_) => "login",
        SshError::Interrupted(_)
        | SshError::NameNotFound { .. }
        | SshError::Connect { .. }
        | SshError::Proxy { .. }
        | SshError::Handshake { .. }
        | SshError::TimedOut { .. }
        | SshError::Lost { .. }
        | SshError::SocketRefused { .. }
        | SshError::Local { .. } => "connection",
    }
}
