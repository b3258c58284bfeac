//! Why an agent did not start, each with its remedy.

use std::path::PathBuf;

use super::{BINARY_VARIABLE, STATIC_SIBLING};
use crate::escape::escape_str;
use crate::host::local::StartError;
use crate::host::ssh::SshError;
use crate::host::sudo::SudoTrouble;
use crate::host::sudoers;
use crate::interrupt::Interrupted;
use crate::prompt::PromptError;

/// With what `sudo` would ask for no password.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Allowance {
    /// This line in sudoers.
    Line(String),
    /// The same, once this version is installed there.
    LineOnceInstalled(String),
    /// None that could be named: our program is where somebody else than root could replace it.
    None {
        /// The program, and why not.
        reason: String,
    },
}

/// Why an agent did not start.
#[derive(Debug, thiserror::Error)]
pub enum DeployError {
    /// Asked to stop while waiting.
    #[error(transparent)]
    Interrupted(#[from] Interrupted),
    /// The connection failed.
    #[error(transparent)]
    Ssh(SshError),
    /// The binary to stream cannot be read.
    #[error("cannot read the agent binary {}: {source}", path.display())]
    Binary {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// The program could not be started on this machine.
    #[error("cannot start the agent on this machine: {detail}")]
    Local {
        /// What the kernel said.
        detail: String,
    },
    /// Another CPU architecture.
    #[error("refused: {host} has {theirs}, this binary is for {ours}")]
    Architecture {
        /// The machine.
        host: String,
        /// What `uname -m` says there.
        theirs: String,
        /// Ours.
        ours: &'static str,
    },
    /// `sudo` does not let us become root.
    #[error("{user} cannot become root on {host}: {}", words(*trouble))]
    Sudo {
        /// The machine.
        host: String,
        /// Who we are there.
        user: String,
        /// What is wrong.
        trouble: SudoTrouble,
        /// What would allow it.
        allowance: Allowance,
    },
    /// We did not become root.
    #[error("the agent on {host} would not be root")]
    NotRoot {
        /// The machine.
        host: String,
    },
    /// `/run/pc-switcher` is something else than root's own directory.
    #[error("/run/pc-switcher on {host} is not a directory of root")]
    RunDirectory {
        /// The machine.
        host: String,
    },
    /// `/run` allows no programs, and no private file system could be made.
    #[error("{host} mounts /run noexec and allows no private mount")]
    NoExec {
        /// The machine.
        host: String,
    },
    /// No room for the binary.
    #[error("no space for the agent in /run on {host}: it needs {} MiB", bytes.div_ceil(1 << 20))]
    NoSpace {
        /// The machine.
        host: String,
        /// Size of the binary.
        bytes: usize,
    },
    /// A program the deployment needs is missing.
    #[error("{host} has no {tool}")]
    NoTool {
        /// The machine.
        host: String,
        /// The program.
        tool: String,
    },
    /// The agent from whose binary another one was to be started has ended.
    #[error("the agent on {host} has ended, so no other one could be started from it")]
    Gone {
        /// The machine.
        host: String,
    },
    /// What arrived is not what was sent, or what runs is not what was sent before.
    #[error("the agent binary on {host} does not match its checksum")]
    Damaged {
        /// The machine.
        host: String,
    },
    /// The binary does not run there.
    #[error("the agent binary does not run on {host}: {}", escape_str(detail))]
    WillNotRun {
        /// The machine.
        host: String,
        /// What was said about it.
        detail: String,
    },
    /// It ended without saying why in a way we know.
    #[error("the agent on {host} did not start: {}", escape_str(detail))]
    NotStarted {
        /// The machine.
        host: String,
        /// The last words on stderr, or the exit status.
        detail: String,
    },
    /// Too much output that is no agent's.
    #[error("{host} prints too much at login for the agent to be heard")]
    Babble {
        /// The machine.
        host: String,
    },
    /// It speaks another protocol.
    #[error("the agent on {host} speaks another protocol ({})", escape_str(banner))]
    Protocol {
        /// The machine.
        host: String,
        /// Its banner.
        banner: String,
    },
    /// A password was needed and could not be asked for.
    #[error(transparent)]
    Prompt(PromptError),
}

impl From<SshError> for DeployError {
    fn from(error: SshError) -> Self {
        match error {
            SshError::Interrupted(interrupted) => Self::Interrupted(interrupted),
            other => Self::Ssh(other),
        }
    }
}

impl From<PromptError> for DeployError {
    fn from(error: PromptError) -> Self {
        match error {
            PromptError::Interrupted(interrupted) => Self::Interrupted(interrupted),
            PromptError::CannotAsk => Self::Prompt(error),
        }
    }
}

impl From<StartError> for DeployError {
    fn from(error: StartError) -> Self {
        match error {
            StartError::Interrupted(interrupted) => Self::Interrupted(interrupted),
            StartError::Io { .. } => Self::Local {
                detail: error.to_string(),
            },
        }
    }
}

fn words(trouble: SudoTrouble) -> &'static str {
    match trouble {
        SudoTrouble::PasswordRequired => "sudo wants a password",
        SudoTrouble::PasswordWrong => "the password is wrong",
        SudoTrouble::NotAllowed => "sudo does not allow it",
        SudoTrouble::NeedsTerminal => "sudo insists on a terminal (requiretty)",
        SudoTrouble::Missing => "there is no sudo",
        SudoTrouble::Broken => "sudo is not set up",
    }
}

/// How root puts a line into sudoers, in a way that cannot break it.
fn put(line: &str) -> String {
    format!(
        "\n    echo '{line}' | EDITOR=tee visudo -f {}",
        sudoers::FILE
    )
}

/// How root allows it, with what is in the way of that.
fn allow(host: &str, allowance: &Allowance) -> String {
    match allowance {
        Allowance::Line(line) => format!("as root allow it on {host}:{}", put(line)),
        Allowance::LineOnceInstalled(line) => format!(
            "as root install pc-switcher {} on {host} and allow it there:{}",
            env!("CARGO_PKG_VERSION"),
            put(line)
        ),
        Allowance::None { reason } => format!(
            "install pc-switcher where only root can replace it, and run that one ({reason})"
        ),
    }
}

impl DeployError {
    /// What a person can do about it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Ssh(error) => return error.hint(),
            Self::Interrupted(_) => return None,
            Self::Binary { .. } => {
                format!("unset {BINARY_VARIABLE}, or reinstall pc-switcher")
            }
            Self::Local { .. } => "see whether sudo works here:\n    sudo -v".to_owned(),
            Self::Architecture { theirs, .. } => format!(
                "both machines should run the same system; with a pc-switcher built for {theirs}:\n    {BINARY_VARIABLE}=./pc-switcher-{theirs} pc-switcher sync HOST"
            ),
            Self::Sudo {
                host,
                user,
                trouble,
                allowance,
            } => match trouble {
                SudoTrouble::PasswordRequired => {
                    let asked = "run it on a terminal without --batch to be asked";
                    match allowance {
                        Allowance::LineOnceInstalled(line) => format!(
                            "{asked}; a sync also installs pc-switcher there, and then this as root on \
                             {host} allows it:{}",
                            put(line)
                        ),
                        _ => format!("{asked}, or {}", allow(host, allowance)),
                    }
                }
                SudoTrouble::PasswordWrong => "try again with the right password".to_owned(),
                SudoTrouble::NotAllowed => allow(host, allowance),
                SudoTrouble::NeedsTerminal => {
                    let line = Allowance::Line(format!("Defaults:{user} !requiretty"));
                    allow(host, &line)
                }
                SudoTrouble::Missing => {
                    format!("install sudo on {host} and let {user} use it, or log in as root")
                }
                SudoTrouble::Broken => format!(
                    "NoNewPrivileges= of a systemd unit is in its way, if one runs this; else, on {host} this \
                     must work:\n    sudo true"
                ),
            },
            Self::NotRoot { host } => format!("on {host} this must print 0:\n    sudo id -u"),
            Self::RunDirectory { host } => {
                format!("remove it on {host}, then run it again:\n    sudo rm -r /run/pc-switcher")
            }
            Self::NoExec { host } => format!(
                "install pc-switcher on {host}, or there:\n    sudo mount -o remount,exec /run"
            ),
            Self::NoSpace { host, .. } => {
                format!("see what fills it on {host}:\n    df -h /run; sudo du -xsh /run/*")
            }
            Self::NoTool { host, tool } => {
                format!(
                    "install {tool} on {host} (Debian, Fedora and Arch: package coreutils or util-linux)"
                )
            }
            Self::Gone { host } => {
                format!("see whether {host} is up and the network is there, and run it again")
            }
            Self::Damaged { .. } => {
                "run it again; if it happens twice, suspect the memory or disk of either machine"
                    .to_owned()
            }
            Self::WillNotRun { host, .. } => format!(
                "{host} has an older system than this machine: build a pc-switcher that needs nothing of it (`make static`), and put it here as {STATIC_SIBLING}, or name it in {BINARY_VARIABLE}"
            ),
            Self::NotStarted { host, .. } => {
                format!("see what this says:\n    ssh {host} sudo -n true")
            }
            Self::Babble { host } => format!(
                "silence the login scripts on {host} for sessions without a terminal (~/.bashrc)"
            ),
            Self::Protocol { .. } => {
                format!(
                    "unset {BINARY_VARIABLE} or rebuild what it names: both sides must be the same version"
                )
            }
            Self::Prompt(_) => "run it on a terminal without --batch".to_owned(),
        })
    }
}
