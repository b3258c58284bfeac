//! What can go wrong on the way to another machine, each with its remedy.

use std::io;
use std::path::PathBuf;

use crate::escape::escape_str;
use crate::interrupt::Interrupted;
use crate::prompt::PromptError;

/// Why the other machine was not reached, or was lost. Ends in exit status 5, an interrupt in 130.
#[derive(Debug, thiserror::Error)]
pub enum SshError {
    /// Asked to stop while waiting.
    #[error(transparent)]
    Interrupted(#[from] Interrupted),
    /// The name cannot be that of a host.
    #[error("{host:?} is not a host name")]
    BadHost {
        /// As typed.
        host: String,
    },
    /// `ssh -G` or the configuration file failed.
    #[error("cannot read the ssh configuration for {host}: {detail}")]
    Config {
        /// As typed.
        host: String,
        /// What `ssh` said.
        detail: String,
    },
    /// The name has no address.
    #[error("the name {hostname} has no address: {detail}")]
    NameNotFound {
        /// After the ssh configuration was applied.
        hostname: String,
        /// What the resolver said.
        detail: String,
    },
    /// No address answered.
    #[error("cannot reach {host} at {address}: {source}")]
    Connect {
        /// As typed.
        host: String,
        /// The address tried last.
        address: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// The proxy command ended or could not be started.
    #[error("the proxy to {host} failed{}", after_colon(detail))]
    Proxy {
        /// As typed.
        host: String,
        /// The command or the jump host.
        command: String,
        /// What it wrote to stderr.
        detail: String,
    },
    /// No common algorithms, no ssh server, garbage.
    #[error("no ssh session with {host}: {detail}")]
    Handshake {
        /// As typed.
        host: String,
        /// What failed.
        detail: String,
    },
    /// The key is in no `known_hosts` file.
    #[error("the host key of {host} is not known ({kind} {fingerprint})")]
    HostKeyUnknown {
        /// As looked up.
        host: String,
        /// As typed.
        alias: String,
        /// The key's type.
        kind: String,
        /// `SHA256:…`.
        fingerprint: String,
    },
    /// What answers has this machine's own host key.
    #[error("{host} is this machine itself: what answers there has its host key")]
    OwnKey {
        /// As typed.
        host: String,
    },
    /// Another key is known for this host.
    #[error(
        "the host key of {host} has changed: it offers {kind} {fingerprint}, but {}:{line} says otherwise",
        file.display()
    )]
    HostKeyChanged {
        /// As looked up.
        host: String,
        /// The offered key's type.
        kind: String,
        /// `SHA256:…` of the offered key.
        fingerprint: String,
        /// Where another key is known.
        file: PathBuf,
        /// Line number in it.
        line: usize,
    },
    /// The key is marked `@revoked`.
    #[error("the host key of {host} is revoked ({kind} {fingerprint}, {}:{line})", file.display())]
    HostKeyRevoked {
        /// As looked up.
        host: String,
        /// The key's type.
        kind: String,
        /// `SHA256:…`.
        fingerprint: String,
        /// Where it is revoked.
        file: PathBuf,
        /// Line number in it.
        line: usize,
    },
    /// A `known_hosts` file cannot be read or written.
    #[error("{}: {source}", file.display())]
    KnownHosts {
        /// The file.
        file: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The server accepted none of what we have.
    #[error(
        "{host} refused the login of {user} (tried {}; the server offers {})",
        list(tried),
        list(offered)
    )]
    LoginRefused {
        /// As typed.
        host: String,
        /// The login name.
        user: String,
        /// What was tried, in order.
        tried: Vec<String>,
        /// Methods the server accepts.
        offered: Vec<String>,
    },
    /// The server is there but did not answer in time.
    #[error("no answer from {host} within {seconds} s while {doing}")]
    TimedOut {
        /// As typed.
        host: String,
        /// The limit.
        seconds: u64,
        /// What was waited for.
        doing: &'static str,
    },
    /// The connection broke.
    #[error("lost the connection to {host}: {detail}")]
    Lost {
        /// As typed.
        host: String,
        /// What failed.
        detail: String,
    },
    /// The server does not let us reach a socket there.
    #[error("the ssh server of {host} does not pass it on (AllowStreamLocalForwarding)")]
    SocketRefused {
        /// As typed.
        host: String,
    },
    /// A question at login got no answer.
    #[error(transparent)]
    Prompt(PromptError),
    /// A local resource failed (descriptors, threads).
    #[error("cannot prepare the connection to {host}: {source}")]
    Local {
        /// As typed.
        host: String,
        /// What the kernel said.
        source: io::Error,
    },
}

impl From<PromptError> for SshError {
    fn from(error: PromptError) -> Self {
        match error {
            PromptError::Interrupted(interrupted) => Self::Interrupted(interrupted),
            PromptError::CannotAsk => Self::Prompt(error),
        }
    }
}

fn after_colon(detail: &str) -> String {
    if detail.is_empty() {
        String::new()
    } else {
        format!(": {}", escape_str(detail))
    }
}

fn list(items: &[String]) -> String {
    if items.is_empty() {
        "nothing".to_owned()
    } else {
        escape_str(&items.join(", "))
    }
}

/// A host as typed, without a login name.
fn bare(typed: &str) -> &str {
    typed.rsplit_once('@').map_or(typed, |(_, host)| host)
}

impl SshError {
    /// Whether a person or a signal stopped it: exit status 130 instead of 5.
    #[must_use]
    pub fn is_interrupt(&self) -> bool {
        matches!(self, Self::Interrupted(_))
    }

    /// What a person can do about it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Interrupted(_) | Self::Local { .. } => return None,
            Self::BadHost { .. } => {
                "name the host as for ssh: an alias from ~/.ssh/config, a host name, or user@host"
                    .to_owned()
            }
            Self::Config { host, .. } => {
                format!("correct ~/.ssh/config; this shows the same error:\n    ssh -G {host}")
            }
            Self::NameNotFound { hostname, .. } => format!(
                "check the spelling, or give {hostname} a HostName in ~/.ssh/config or a line in /etc/hosts"
            ),
            Self::Connect { host, source, .. } => match source.kind() {
                io::ErrorKind::ConnectionRefused => format!(
                    "is an ssh server running there? On {host} (where it is called sshd: so):\n    sudo systemctl enable --now ssh"
                ),
                _ => format!("is {host} switched on, awake and on the same network?"),
            },
            Self::Proxy { command, .. } => format!(
                "try the proxy by itself; it is started without a terminal, so it must not ask anything:\n    {command}"
            ),
            Self::Handshake { host, .. } => format!("see what ssh says:\n    ssh -v {host} true"),
            Self::HostKeyUnknown { alias, .. } => {
                let host = bare(alias);
                format!(
                    "on {host} itself, see that its fingerprint is this one:\n    \
                     ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub\n\
                     then log in once from here, and say yes:\n    ssh {alias}"
                )
            }
            Self::OwnKey { .. } => {
                "name the other machine; if it is a copy of this one's disk, give it keys of its own there:\n    \
                 sudo sh -c 'rm /etc/ssh/ssh_host_* && ssh-keygen -A'"
                    .to_owned()
            }
            Self::HostKeyChanged { host, file, .. } => format!(
                "somebody may be listening in. Only if the machine was reinstalled, forget its old key and log in once:\n    \
                 ssh-keygen -R '{host}' -f {}\n    ssh {host}",
                file.display()
            ),
            Self::HostKeyRevoked { .. } => {
                "this key must not be used any more: have the machine make a new one".to_owned()
            }
            Self::KnownHosts { file, .. } => {
                format!("it must be yours:\n    ls -l {}", file.display())
            }
            Self::LoginRefused {
                host,
                offered,
                tried,
                ..
            } => {
                if offered.iter().any(|m| m == "publickey") && tried.len() > 4 {
                    format!(
                        "too many keys may have been offered: set IdentityFile and `IdentitiesOnly yes` for {host} in ~/.ssh/config, or copy your key there:\n    ssh-copy-id {host}"
                    )
                } else if offered.iter().any(|m| m == "publickey") {
                    format!(
                        "`ssh {host}` must work. If your key needs a passphrase, `ssh-add` it; or copy it there:\n    ssh-copy-id {host}"
                    )
                } else {
                    format!(
                        "run it on a terminal without --batch to be asked for the password; `ssh {host}` must work"
                    )
                }
            }
            Self::SocketRefused { .. } => {
                "AllowStreamLocalForwarding yes in its sshd_config; or transfers: 1 in the configuration"
                    .to_owned()
            }
            Self::TimedOut { host, .. } | Self::Lost { host, .. } => {
                format!(
                    "check the network between here and {host}, then run it again:\n    ping -c 3 {}",
                    bare(host)
                )
            }
            Self::Prompt(_) => "run it on a terminal without --batch".to_owned(),
        })
    }
}
