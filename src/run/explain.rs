//! The one place where an error becomes words and an exit status: what happened, what caused it,
//! what a person can do, and the number a script sees.

use std::error::Error;
use std::io::{self, ErrorKind};

use serde_json::{Map, Value, json};

use super::error::RunError;
use super::machines::MachineError;
use crate::agent::client::AgentError;
use crate::agent::deploy::DeployError;
use crate::agent::fault::FaultKind;
use crate::config::ConfigProblem;
use crate::event::{EndingError, Host};
use crate::exit::ExitStatus;
use crate::host::ssh::SshError;
use crate::host::sudo::SudoTrouble;
use crate::module::{ModuleError, ValidationError};
use crate::prompt::PromptError;
use crate::record::LockHolder;
use crate::record::log::LogError;

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

    /// The same for the closing block.
    #[must_use]
    pub fn ending(&self) -> EndingError {
        EndingError {
            message: self.message.clone(),
            causes: self.causes.clone(),
            is_list: self.is_list,
            hint: self.hint.clone(),
        }
    }

    /// The hint and the status, for the log line's context.
    #[must_use]
    pub fn context(&self) -> Map<String, Value> {
        let mut context = Map::new();
        if let Some(hint) = &self.hint {
            context.insert("hint".to_owned(), json!(hint));
        }
        context.insert(
            EndingError::STATUS_KEY.to_owned(),
            json!(self.status.code()),
        );
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
    let (message, causes) = match error {
        // Who noticed first that a machine is gone makes no difference.
        RunError::Module {
            source: ModuleError::Agent(lost @ AgentError::Lost { .. }),
            ..
        } => chain(lost),
        _ => chain(error),
    };
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
            .map(|e| with_hint(format!("{}: {}", e.path, e.message), e.hint.as_deref()))
            .collect(),
        RunError::Problems { problems, .. } if problems.len() > 1 => {
            (problems.iter()).map(problem).collect()
        }
        RunError::Validation(errors) => (errors.iter())
            .map(|(hostname, error)| reason(hostname, error))
            .collect(),
        RunError::DiskSpace { errors, .. } => errors.iter().map(ToString::to_string).collect(),
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

/// One of several errors, with its own hint.
fn with_hint(message: String, hint: Option<&str>) -> String {
    match hint {
        Some(hint) => format!("{message}\nhint: {hint}"),
        None => message,
    }
}

fn problem(problem: &ConfigProblem) -> String {
    let bare = ConfigProblem {
        hint: None,
        ..problem.clone()
    };
    with_hint(bare.to_string(), problem.hint.as_deref())
}

fn reason(hostname: &str, error: &ValidationError) -> String {
    let module = match error.module.as_str() {
        super::CORE => String::new(),
        module => format!("{module}: "),
    };
    let message = format!("{hostname}: {module}{}", error.message);
    with_hint(message, error.hint.as_deref())
}

fn judge(error: &RunError) -> (ExitStatus, Option<String>) {
    let some = |hint: &str| Some(hint.to_owned());
    match error {
        RunError::Interrupted(_) => (ExitStatus::Interrupted, None),
        RunError::Usage { hint, .. } => (ExitStatus::Usage, Some(hint.clone())),
        RunError::Config(_) | RunError::Read { .. } => (ExitStatus::Usage, None),
        RunError::Problems { problems, .. } => match problems.as_slice() {
            [one] => (ExitStatus::Usage, one.hint.clone()),
            _ => (ExitStatus::Usage, None),
        },
        RunError::Write { source, .. } => judge_writing(source),
        RunError::Log(error) => {
            let explained = explain_log(error);
            (explained.status, explained.hint)
        }
        RunError::Machine(error) => judge_machine(error),
        RunError::WrongAgent { .. } => (
            ExitStatus::Connection,
            some(
                "if a login script of that machine prints text, make it silent for non-interactive shells",
            ),
        ),
        RunError::Locked { holder, .. } => (
            ExitStatus::Locked,
            Some(format!(
                "wait for it to end, its lock ends with it; or see on {} how far it is:\n    \
                 pc-switcher logs --follow",
                holder.from
            )),
        ),
        RunError::SameMachine { .. } => (
            ExitStatus::Validation,
            some(
                "name the other machine; if it is another one, a copy of this one's disk, give it \
                 an identity of its own there:\n    \
                 sudo sh -c 'rm /etc/machine-id && systemd-machine-id-setup'",
            ),
        ),
        RunError::NewerTarget { .. } => (
            ExitStatus::Validation,
            some("upgrade pc-switcher on this machine"),
        ),
        RunError::Validation(_) => (ExitStatus::Validation, None),
        RunError::Refused { flag, .. } => (ExitStatus::Refused, refusal_hint(flag.as_deref())),
        RunError::DiskSpace { relief, .. } => {
            let hint = if relief.is_empty() {
                "free space there, or lower the limit in `disk:`; what could go:\n    \
                 pc-switcher snapshots list"
                    .to_owned()
            } else {
                let relief = relief.join("\n");
                format!("free space there, or lower the limit in `disk:`\n{relief}")
            };
            (ExitStatus::DiskSpace, Some(hint))
        }
        RunError::Agent { source, .. }
        | RunError::Snapshots { source, .. }
        | RunError::Lost(source) => judge_agent(source),
        RunError::Module { source, .. } => judge_module(source),
        RunError::Prompt(error) => judge_prompt(*error),
        RunError::Output(_) => (ExitStatus::Failed, None),
        RunError::Panicked { .. } | RunError::Transition(_) => (
            ExitStatus::Failed,
            some("this is a defect of pc-switcher; please report it with the log"),
        ),
    }
}

fn refusal_hint(flag: Option<&str>) -> Option<String> {
    flag.map(|flag| format!("{flag} answers the question beforehand"))
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
        MachineError::Local(source) => judge_deploy(&**source, ExitStatus::Failed),
        MachineError::Target { source, .. } => judge_deploy(&**source, ExitStatus::Connection),
    }
}

/// An agent that did not start: what is refused on purpose has a status of its own, everything
/// else is `otherwise`.
fn judge_deploy(
    error: &(dyn Error + Send + Sync + 'static),
    otherwise: ExitStatus,
) -> (ExitStatus, Option<String>) {
    let Some(error) = error.downcast_ref::<DeployError>() else {
        return (otherwise, None);
    };
    let status = match error {
        DeployError::Interrupted(_) => ExitStatus::Interrupted,
        DeployError::Architecture { .. } | DeployError::Ssh(SshError::OwnKey { .. }) => {
            ExitStatus::Validation
        }
        DeployError::Sudo {
            trouble: SudoTrouble::PasswordRequired,
            ..
        }
        | DeployError::Prompt(_) => ExitStatus::Refused,
        DeployError::NoSpace { .. } => ExitStatus::DiskSpace,
        _ => otherwise,
    };
    (status, error.hint())
}

/// A file of this machine that cannot be written.
fn judge_writing(error: &io::Error) -> (ExitStatus, Option<String>) {
    let (status, hint) = match error.kind() {
        ErrorKind::PermissionDenied => (
            ExitStatus::Failed,
            "you must be allowed to write there, and to enter the directories above",
        ),
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
            (ExitStatus::DiskSpace, "free space there")
        }
        ErrorKind::NotADirectory | ErrorKind::AlreadyExists => (
            ExitStatus::Failed,
            "something else has the name of a directory there: move it away, or name another place",
        ),
        _ => return (ExitStatus::Failed, None),
    };
    (status, Some(hint.to_owned()))
}

/// Puts into words why there is no log, or not a whole one. Nothing else depends on it: the run goes on.
#[must_use]
pub fn explain_log(error: &LogError) -> Explained {
    let hint = match error {
        LogError::Directory { source, .. }
        | LogError::Create { source, .. }
        | LogError::Write { source, .. } => judge_writing(source).1,
        LogError::NotOurs { .. } => Some(
            "it was made by somebody else, perhaps with sudo: have it given to you, or set \
             XDG_STATE_HOME to a place of yours"
                .to_owned(),
        ),
        LogError::NeverOpened | LogError::NotRunning => None,
    };
    let (message, causes) = chain(error);
    Explained {
        message,
        causes,
        is_list: false,
        hint,
        status: ExitStatus::Warnings,
    }
}

/// An agent of this machine does not go by itself.
const KILLED_HERE: &str = "it was killed, by somebody or for want of memory; every file is whole, \
    old or new: sync again to finish. The kernel says if it was memory:\n    \
    journalctl -k --grep 'Out of memory'";

/// The same when the other machine is gone.
fn when_it_is_back(hostname: &str) -> String {
    format!(
        "is {hostname} switched on, and on the network? Every file there is whole, old or new; \
         when it is back, sync again to finish"
    )
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
            host: Host::Target,
            hostname,
            ..
        } => (ExitStatus::Connection, Some(when_it_is_back(hostname))),
        AgentError::Lost {
            host: Host::Source, ..
        } => (ExitStatus::Failed, Some(KILLED_HERE.to_owned())),
        AgentError::Nonsense { .. } => (ExitStatus::Failed, None),
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::deploy::Allowance;
    use crate::interrupt::Interrupted;
    use crate::module::DiskSpaceCritical;

    fn target(source: DeployError) -> RunError {
        RunError::Machine(MachineError::Target {
            hostname: "vega".into(),
            source: Box::new(source),
        })
    }

    #[test]
    fn what_went_wrong_on_the_way_keeps_its_cause_and_its_remedy() {
        let refused = DeployError::Ssh(SshError::Connect {
            host: "vega".into(),
            address: "192.0.2.1:22".into(),
            source: std::io::ErrorKind::ConnectionRefused.into(),
        });
        let explained = explain(&target(refused));
        assert_eq!(explained.status, ExitStatus::Connection);
        assert_eq!(
            explained.message,
            "cannot reach vega at 192.0.2.1:22: connection refused"
        );
        assert!(explained.causes.is_empty(), "{explained:?}");
        assert!(
            explained.line().contains("connection refused"),
            "{explained:?}"
        );
        assert!(explained.hint.is_some_and(|hint| hint.contains("sshd")));
    }

    #[test]
    fn a_password_nobody_can_type_is_a_refusal_and_another_architecture_a_validation_error() {
        let sudo = |trouble| {
            target(DeployError::Sudo {
                host: "vega".into(),
                user: "anna".into(),
                trouble,
                allowance: Allowance::Line("anna ALL=(root) NOPASSWD: x agent".into()),
            })
        };
        let required = explain(&sudo(SudoTrouble::PasswordRequired));
        assert_eq!(required.status, ExitStatus::Refused);
        assert!(required.hint.is_some_and(|hint| hint.contains("NOPASSWD")));
        assert_eq!(
            explain(&sudo(SudoTrouble::Missing)).status,
            ExitStatus::Connection
        );
        let architecture = DeployError::Architecture {
            host: "vega".into(),
            theirs: "aarch64".into(),
            ours: "x86_64",
        };
        assert_eq!(
            explain(&target(architecture)).status,
            ExitStatus::Validation
        );
    }

    #[test]
    fn errors_found_together_are_a_list() {
        let low = |mount_point: &str| DiskSpaceCritical {
            host: Host::Target,
            hostname: "vega".into(),
            mount_point: mount_point.into(),
            free_space: "1.0 GiB (2%)".into(),
            threshold: "20%".into(),
        };
        let of = |errors, relief: &[&str]| {
            let relief = relief.iter().map(|text| (*text).to_owned()).collect();
            explain(&RunError::DiskSpace { errors, relief })
        };
        let explained = of(vec![low("/"), low("/home")], &["what could go: 1f3"]);
        assert!(explained.is_list);
        assert_eq!(explained.causes.len(), 2);
        assert!(
            (explained.hint.as_ref()).is_some_and(|hint| hint.ends_with("\nwhat could go: 1f3")),
            "{explained:?}"
        );
        let explained = of(vec![low("/")], &[]);
        assert!(
            explained
                .hint
                .is_some_and(|hint| hint.ends_with("snapshots list"))
        );
    }

    #[test]
    fn the_hint_and_the_status_go_into_the_log_line() {
        let explained = explain(&RunError::Refused {
            message: "vega was never synced".into(),
            flag: Some("--allow-first-sync".into()),
        });
        let context = explained.context();
        assert_eq!(
            context["hint"],
            "--allow-first-sync answers the question beforehand"
        );
        assert_eq!(context["exit_status"], 4);
        let interrupted = explain(&RunError::Interrupted(Interrupted));
        assert_eq!(interrupted.status.code(), 130);
    }

    #[test]
    fn what_cannot_be_written_says_why_and_what_would_help() {
        let writing = |kind: ErrorKind| {
            explain(&RunError::Write {
                path: "/x".into(),
                source: kind.into(),
            })
        };
        let denied = writing(ErrorKind::PermissionDenied);
        assert_eq!(denied.line(), "cannot write /x: permission denied");
        assert_eq!(denied.status, ExitStatus::Failed);
        assert!(denied.hint.is_some_and(|hint| hint.contains("allowed")));
        let full = writing(ErrorKind::StorageFull);
        assert_eq!(full.status, ExitStatus::DiskSpace);
    }

    #[test]
    fn a_log_that_is_not_whole_is_a_warning_with_its_reason_said_once() {
        let explained = explain(&RunError::Log(LogError::Write {
            path: "/x/y.log".into(),
            lost: 3,
            source: ErrorKind::StorageFull.into(),
        }));
        assert_eq!(explained.status, ExitStatus::Warnings);
        assert!(explained.causes.is_empty(), "{explained:?}");
        assert!(explained.message.contains("3 lines missing"));
        assert_eq!(explained.hint.as_deref(), Some("free space there"));
    }

    #[test]
    fn one_problem_of_the_configuration_is_the_error_and_several_are_a_list() {
        let problem = |key: &str| ConfigProblem {
            file: "c.yaml".into(),
            line: Some(3),
            column: Some(1),
            key_path: key.into(),
            message: "unknown key".into(),
            hint: Some("did you mean `disk`?".into()),
        };
        let explained = |problems| {
            let path = "c.yaml".to_owned();
            explain(&RunError::Problems { path, problems })
        };
        let one = explained(vec![problem("dsk")]);
        assert_eq!(one.message, "c.yaml:3:1: dsk: unknown key");
        assert_eq!(one.hint.as_deref(), Some("did you mean `disk`?"));
        assert_eq!(one.status, ExitStatus::Usage);
        let two = explained(vec![problem("dsk"), problem("disc")]);
        assert!(two.is_list);
        assert_eq!(two.message, "2 problems in c.yaml");
        assert_eq!(
            two.causes[1],
            "c.yaml:3:1: disc: unknown key\nhint: did you mean `disk`?"
        );
    }
}
