//! How a run ends early. Each variant is a situation; [`super::explain`] finds the words for it.

use crate::agent::client::AgentError;
use crate::config::ConfigProblem;
use crate::event::Host;
use crate::figures::counted;
use crate::interrupt::Interrupted;
use crate::module::{ConfigError, DiskSpaceCritical, ModuleError, ValidationError};
use crate::prompt::PromptError;
use crate::record::LockHolder;
use crate::record::log::LogError;

use super::machines::MachineError;
use super::session::ForbiddenTransition;

/// Why a run stopped before its end.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// A signal, or Ctrl-C at a question.
    #[error(transparent)]
    Interrupted(#[from] Interrupted),
    /// The command line asks for something that cannot be.
    #[error("{message}")]
    Usage {
        /// What is wrong.
        message: String,
        /// What would be right.
        hint: String,
    },
    /// Modules cannot work with their configuration.
    #[error("the configuration has {}", counted(.0.len() as u64, "error"))]
    Config(Vec<ConfigError>),
    /// A machine cannot be reached, or its agent not be started.
    #[error(transparent)]
    Machine(#[from] MachineError),
    /// What answers is not our agent of our version.
    #[error("{hostname} started an agent that is not ours: it said {said:?}")]
    WrongAgent {
        /// The machine.
        hostname: String,
        /// Its banner, escaped and cut.
        said: String,
    },
    /// Another sync is at work on a machine.
    #[error("{hostname} is busy with another sync")]
    Locked {
        /// The machine.
        hostname: String,
        /// Who holds its lock.
        holder: LockHolder,
    },
    /// Source and target are one machine.
    #[error("{typed} is this machine ({hostname}) itself")]
    SameMachine {
        /// What was typed.
        typed: String,
        /// Its host name.
        hostname: String,
    },
    /// The target has a newer pc-switcher than we are.
    #[error("{hostname} has pc-switcher {theirs}, newer than {ours} here")]
    NewerTarget {
        /// The target.
        hostname: String,
        /// Its version.
        theirs: String,
        /// Our version.
        ours: &'static str,
    },
    /// Modules found reasons not to start, each on a machine of this name.
    #[error("{} not to start", counted(.0.len() as u64, "reason"))]
    Validation(Vec<(String, ValidationError)>),
    /// A gate was not opened.
    #[error("{message}")]
    Refused {
        /// What was refused.
        message: String,
        /// The flag that would have answered.
        flag: Option<String>,
    },
    /// Too little space.
    #[error("not enough disk space")]
    DiskSpace {
        /// On these filesystems.
        errors: Vec<DiskSpaceCritical>,
        /// Which old snapshots could go, and how, where that is known to help.
        relief: Vec<String>,
    },
    /// A machine could not do something, or is gone.
    #[error("{doing} failed")]
    Agent {
        /// What was being done.
        doing: String,
        /// What came back.
        #[source]
        source: AgentError,
    },
    /// An agent was gone while nobody was asking it anything.
    #[error(transparent)]
    Lost(AgentError),
    /// A snapshot could not be made.
    #[error("no {phase} snapshots on {host}")]
    Snapshots {
        /// `presync` or `postsync`.
        phase: &'static str,
        /// Where.
        host: Host,
        /// Why.
        #[source]
        source: AgentError,
    },
    /// A module failed.
    #[error("{module} failed")]
    Module {
        /// Which.
        module: &'static str,
        /// How.
        #[source]
        source: ModuleError,
    },
    /// A question could not be asked.
    #[error(transparent)]
    Prompt(#[from] PromptError),
    /// A file of this machine cannot be read.
    #[error("cannot read {path}")]
    Read {
        /// The file.
        path: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A file or directory of this machine cannot be written.
    #[error("cannot write {path}")]
    Write {
        /// What.
        path: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The file of the configuration has problems; there is at least one.
    #[error("{}", found(path, problems))]
    Problems {
        /// The file.
        path: String,
        /// Each with its place.
        problems: Vec<ConfigProblem>,
    },
    /// There is no log, or not a whole one.
    #[error(transparent)]
    Log(#[from] LogError),
    /// What was asked for could not be printed.
    #[error("cannot write the output")]
    Output(#[source] std::io::Error),
    /// A thread of ours panicked.
    #[error("{thread} panicked")]
    Panicked {
        /// Its name.
        thread: String,
    },
    /// A defect in the run itself.
    #[error(transparent)]
    Transition(#[from] ForbiddenTransition),
}

fn found(path: &str, problems: &[ConfigProblem]) -> String {
    match problems {
        [one] => ConfigProblem {
            hint: None,
            ..one.clone()
        }
        .to_string(),
        several => format!("{} in {path}", counted(several.len() as u64, "problem")),
    }
}

impl RunError {
    /// An agent's error, with what was being done.
    pub fn agent(doing: impl Into<String>) -> impl FnOnce(AgentError) -> Self {
        let doing = doing.into();
        move |source| match source {
            AgentError::Interrupted(interrupted)
            | AgentError::Prompt(PromptError::Interrupted(interrupted)) => {
                Self::Interrupted(interrupted)
            }
            declined @ AgentError::Declined { .. } => Self::Refused {
                message: declined.to_string(),
                flag: None,
            },
            source => Self::Agent { doing, source },
        }
    }

    /// A module's error.
    pub fn module(module: &'static str) -> impl FnOnce(ModuleError) -> Self {
        move |source| match source {
            ModuleError::Interrupted(interrupted)
            | ModuleError::Agent(
                AgentError::Interrupted(interrupted)
                | AgentError::Prompt(PromptError::Interrupted(interrupted)),
            )
            | ModuleError::Prompt(PromptError::Interrupted(interrupted)) => {
                Self::Interrupted(interrupted)
            }
            source => Self::Module { module, source },
        }
    }

    /// Whether this only says that the work was asked to stop.
    #[must_use]
    pub fn is_interruption(&self) -> bool {
        matches!(
            self,
            Self::Interrupted(_)
                | Self::Prompt(PromptError::Interrupted(_))
                | Self::Machine(MachineError::Interrupted(_))
        )
    }
}
