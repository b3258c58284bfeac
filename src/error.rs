//! The one place where an error becomes words and an exit status: what happened, what caused it,
//! what a person can do, and the number a script sees.

use std::error::Error;

use serde_json::{Map, Value, json};

use crate::agent::client::AgentError;
use crate::agent::protocol::FaultKind;
use crate::event::Host;
use crate::exit::ExitStatus;
use crate::module::{ModuleError, ValidationError};
use crate::prompt::PromptError;
use crate::record::LockHolder;
use crate::run::error::RunError;
use crate::run::machines::MachineError;

/// An error in words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explained {
    /// What happened: lower case, no full stop.
    pub message: String,
    /// What caused it, outermost first; or the single errors, where it is a list of them.
    pub causes: Vec<String>,
    /// Whether `causes` are single errors that were found together.
    pub is_list: bool,
    /// What a person can do about it.
    pub hint: Option<String>,
    /// What a script sees.
    pub status: ExitStatus,
}

impl Explained {
    /// The message with its causes in one line, or a line each for a list, for the log.
    #[must_use]
    pub fn line(&self) -> String {
        let separator = if self.is_list { "\n" } else { ": " };
        let mut line = self.message.clone();
        for cause in &self.causes {
            line.push_str(separator);
            line.push_str(cause);
        }
        line
    }

    /// The hint and the status, for the log line's context.
    #[must_use]
    pub fn context(&self) -> Map<String, Value> {
        let mut context = Map::new();
        if let Some(hint) = &self.hint {
            context.insert("hint".to_owned(), json!(hint));
        }
        context.insert("exit_status".to_owned(), json!(self.status.code()));
        context
    }
}

/// The error and everything below it, each text once: transparent layers repeat their inner text,
/// and some outer texts end with it.
fn chain(error: &dyn Error) -> (String, Vec<String>) {
    let message = error.to_string();
    let mut causes = Vec::new();
    let mut last = message.clone();
    let mut next = error.source();
    while let Some(cause) = next {
        let text = cause.to_string();
        if !last.ends_with(&text) {
            causes.push(text.clone());
            last = text;
        }
        next = cause.source();
    }
    (message, causes)
}

/// Puts a run's error into words.
#[must_use]
pub fn explain(error: &RunError) -> Explained {
    let (message, causes) = chain(error);
    let (status, hint) = judge(error);
    let mut explained = Explained {
        message,
        causes,
        is_list: false,
        hint,
        status,
    };
    let list: Vec<String> = match error {
        RunError::Config(errors) => (errors.iter())
            .map(|e| format!("{}: {}", e.path, e.message))
            .collect(),
        RunError::Validation(errors) => (errors.iter())
            .map(|(hostname, error)| reason(hostname, error))
            .collect(),
        RunError::DiskSpace(errors) => errors.iter().map(ToString::to_string).collect(),
        RunError::Locked { holder, .. } => {
            explained.causes = vec![held_by(holder)];
            Vec::new()
        }
        _ => Vec::new(),
    };
    if !list.is_empty() {
        explained.causes = list;
        explained.is_list = true;
    }
    explained
}

fn held_by(holder: &LockHolder) -> String {
    format!(
        "session {} from {} holds its lock since {} (process {} there)",
        holder.session,
        holder.from,
        holder.since.strftime("%Y-%m-%d %H:%M:%S UTC"),
        holder.pid
    )
}

fn reason(hostname: &str, error: &ValidationError) -> String {
    let hint = match &error.hint {
        Some(hint) => format!(" ({hint})"),
        None => String::new(),
    };
    format!("{hostname}: {}: {}{hint}", error.module, error.message)
}

fn judge(error: &RunError) -> (ExitStatus, Option<String>) {
    let some = |hint: &str| Some(hint.to_owned());
    match error {
        RunError::Interrupted(_) => (ExitStatus::Interrupted, None),
        RunError::Usage { hint, .. } => (ExitStatus::Usage, Some(hint.clone())),
        RunError::Config(_) => (ExitStatus::Usage, some("change the configuration")),
        RunError::Machine(error) => judge_machine(error),
        RunError::WrongAgent { .. } => (
            ExitStatus::Connection,
            some(
                "if a login script of that machine prints text, make it silent for non-interactive shells",
            ),
        ),
        RunError::Locked { .. } => (
            ExitStatus::Locked,
            some("wait for it to end; its lock ends with it"),
        ),
        RunError::SameMachine { .. } => (
            ExitStatus::Validation,
            some(
                "name the other machine; if it is another one, a copy of this one's disk, give it \
                 an identity of its own: rm /etc/machine-id && systemd-machine-id-setup",
            ),
        ),
        RunError::NewerTarget { .. } => (
            ExitStatus::Validation,
            some("upgrade pc-switcher on this machine"),
        ),
        RunError::Validation(_) => (ExitStatus::Validation, None),
        RunError::Refused { flag, .. } => (ExitStatus::Refused, refusal_hint(flag.as_deref())),
        RunError::DiskSpace(_) => (
            ExitStatus::DiskSpace,
            some("free space there, delete old snapshots, or lower the limit in `disk:`"),
        ),
        RunError::Agent { source, .. } | RunError::Snapshots { source, .. } => judge_agent(source),
        RunError::Module { source, .. } => judge_module(source),
        RunError::Prompt(error) => judge_prompt(*error),
        RunError::Read { .. } => (ExitStatus::Usage, None),
        RunError::Output(_) => (ExitStatus::Failed, None),
        RunError::Panicked { .. } | RunError::Transition(_) => (
            ExitStatus::Failed,
            some("this is a defect of pc-switcher; please report it with the log"),
        ),
    }
}

fn refusal_hint(flag: Option<&str>) -> Option<String> {
    flag.map(|flag| format!("{flag} answers it"))
}

fn judge_prompt(error: PromptError) -> (ExitStatus, Option<String>) {
    match error {
        PromptError::CannotAsk => (
            ExitStatus::Refused,
            Some("run it on a terminal without --batch".to_owned()),
        ),
        PromptError::Interrupted(_) => (ExitStatus::Interrupted, None),
    }
}

fn judge_machine(error: &MachineError) -> (ExitStatus, Option<String>) {
    match error {
        MachineError::Interrupted(_) => (ExitStatus::Interrupted, None),
        MachineError::Local(_) => (ExitStatus::Failed, None),
        MachineError::Target { .. } => (ExitStatus::Connection, None),
    }
}

fn judge_agent(error: &AgentError) -> (ExitStatus, Option<String>) {
    match error {
        AgentError::Interrupted(_) => (ExitStatus::Interrupted, None),
        AgentError::Fault { fault, .. } => {
            let status = match fault.kind {
                FaultKind::NoSpace => ExitStatus::DiskSpace,
                _ => ExitStatus::Failed,
            };
            (status, fault.hint.clone())
        }
        AgentError::Lost {
            host: Host::Target, ..
        } => (
            ExitStatus::Connection,
            Some("every file there is whole, old or new; sync again to finish".to_owned()),
        ),
        AgentError::Lost {
            host: Host::Source, ..
        }
        | AgentError::Nonsense { .. } => (ExitStatus::Failed, None),
        AgentError::Declined { .. } => (ExitStatus::Refused, None),
        AgentError::Prompt(error) => judge_prompt(*error),
    }
}

fn judge_module(error: &ModuleError) -> (ExitStatus, Option<String>) {
    match error {
        ModuleError::Interrupted(_) => (ExitStatus::Interrupted, None),
        ModuleError::Agent(error) => judge_agent(error),
        ModuleError::Refused { flag, .. } => (ExitStatus::Refused, refusal_hint(flag.as_deref())),
        ModuleError::Prompt(error) => judge_prompt(*error),
        ModuleError::DiskSpace(_) => (
            ExitStatus::DiskSpace,
            Some("free space there, then sync again".to_owned()),
        ),
        ModuleError::Failed { hint, .. } => (ExitStatus::Failed, hint.clone()),
    }
}
