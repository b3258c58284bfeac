//! The contract of a module: one unit of sync work.
//!
//! A module sees its configuration, the two machines, the session's facts, a log, a progress
//! report and the abort flag; nothing of the terminal, the connection or other modules.
//! To add one: write a file in `modules/` and add one line to `modules::registry`.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Map, Value};

use crate::agent::client::{AgentClient, AgentError};
pub use crate::change::{Action, Change};
use crate::config::Config;
use crate::event::{
    ChangeBatch, Event, EventSink, Host, LogEvent, LogLevel, ProgressEvent, ProgressUpdate,
};
use crate::figures::number;
use crate::interrupt::{AbortFlag, Interrupted};
use crate::prompt::{PromptError, Prompter};
use crate::record::anchor::Anchor;
use crate::record::standing::{NoAnchor, Standing};
use crate::snapshot::{SnapshotFacts, Subvolume};

/// What kind of work a module is, which decides when it runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ModuleKind {
    /// Part of the machinery: required, cannot be disabled, placed by the orchestrator.
    System,
    /// A person's choice, run in the order of the configuration.
    Sync,
    /// Runs beside the others on a thread of its own for the whole sync.
    Background,
}

/// Something in the configuration that a module cannot work with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    /// The module, or `None` for the configuration as a whole.
    pub module: Option<String>,
    /// Key path (`user_data.folders[0].path`).
    pub path: String,
    /// What is wrong.
    pub message: String,
    /// What would be right.
    pub hint: Option<String>,
}

/// A reason on one machine not to start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ValidationError {
    /// The module that found it.
    pub module: String,
    /// The machine.
    pub host: Host,
    /// What is wrong.
    pub message: String,
    /// What a person can do about it.
    pub hint: Option<String>,
}

/// A filesystem ran out of reserve.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{hostname}: {free_space} free on {mount_point}, below the minimum of {threshold}")]
pub struct DiskSpaceCritical {
    /// Role of the machine.
    pub host: Host,
    /// Its host name.
    pub hostname: String,
    /// Where the filesystem is mounted.
    pub mount_point: String,
    /// What is free, for people.
    pub free_space: String,
    /// What was demanded, as configured.
    pub threshold: String,
}

/// How a module fails.
#[derive(Debug, thiserror::Error)]
pub enum ModuleError {
    /// Asked to stop.
    #[error(transparent)]
    Interrupted(#[from] Interrupted),
    /// An agent could not do it, or is gone.
    #[error(transparent)]
    Agent(#[from] AgentError),
    /// A gate or question was answered with no, or could not be asked.
    #[error("{message}")]
    Refused {
        /// What was refused.
        message: String,
        /// The flag that would have answered.
        flag: Option<String>,
    },
    /// A person aborted at a question, or it could not be asked.
    #[error(transparent)]
    Prompt(#[from] PromptError),
    /// Too little space.
    #[error(transparent)]
    DiskSpace(#[from] DiskSpaceCritical),
    /// What the module itself found wrong.
    #[error("{message}")]
    Failed {
        /// Lower case, no full stop.
        message: String,
        /// What a person can do about it.
        hint: Option<String>,
    },
}

impl ModuleError {
    /// A failure without a hint.
    #[must_use]
    pub fn failed(message: impl Into<String>) -> Self {
        Self::Failed {
            message: message.into(),
            hint: None,
        }
    }
}

/// Totals of a plan.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PlanSummary {
    /// Items created.
    pub created: u64,
    /// Items with new content.
    pub changed: u64,
    /// Items that have another name.
    pub renamed: u64,
    /// Items with new attributes only.
    pub attributes: u64,
    /// Items deleted.
    pub deleted: u64,
    /// Items that exist on the target in the module's scope (for the mass-delete gate).
    pub existing: u64,
    /// Paths that were changed on both machines since they were equal (for the conflict gate).
    pub conflicts: u64,
    /// Some of them, each in one line.
    pub conflict_lines: Vec<String>,
    /// Bytes that will be written, per target path whose filesystem receives them.
    pub bytes: BTreeMap<String, u64>,
}

impl PlanSummary {
    /// Whether nothing will change.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        let all = [
            self.created,
            self.changed,
            self.renamed,
            self.attributes,
            self.deleted,
        ];
        all.iter().all(|count| *count == 0)
    }

    /// Bytes in all.
    #[must_use]
    pub fn total_bytes(&self) -> u64 {
        self.bytes.values().sum()
    }

    /// The counts in words, without what there is none of: `12 created`, `1 deleted`.
    #[must_use]
    pub fn counts(&self) -> Vec<String> {
        let all = [
            (self.created, "created"),
            (self.changed, "changed"),
            (self.renamed, "renamed"),
            (self.attributes, "with new attributes only"),
            (self.deleted, "deleted"),
        ];
        all.into_iter()
            .filter(|(count, _)| *count > 0)
            .map(|(count, word)| format!("{} {word}", number(count)))
            .collect()
    }
}

/// A module's plan: totals, and every change on demand (there may be millions).
pub trait Plan: Send {
    /// Totals.
    fn summary(&self) -> &PlanSummary;

    /// Calls `visit` with every change, in the order they will be made; stops at its first error.
    fn for_each(
        &self,
        visit: &mut dyn FnMut(&Change) -> Result<(), Interrupted>,
    ) -> Result<(), ModuleError>;
}

/// A plan of few changes, kept as a list.
#[derive(Debug, Clone, Default)]
pub struct ListPlan {
    /// Totals.
    pub summary: PlanSummary,
    /// The changes.
    pub changes: Vec<Change>,
}

impl ListPlan {
    /// A plan of these changes, with its totals.
    #[must_use]
    pub fn new(changes: Vec<Change>) -> Self {
        let mut summary = PlanSummary::default();
        for change in &changes {
            match change.action {
                Action::Create => summary.created += 1,
                Action::Change => summary.changed += 1,
                Action::Rename => summary.renamed += 1,
                Action::Attributes => summary.attributes += 1,
                Action::Delete => summary.deleted += 1,
            }
        }
        Self { summary, changes }
    }
}

impl Plan for ListPlan {
    fn summary(&self) -> &PlanSummary {
        &self.summary
    }

    fn for_each(
        &self,
        visit: &mut dyn FnMut(&Change) -> Result<(), Interrupted>,
    ) -> Result<(), ModuleError> {
        for change in &self.changes {
            visit(change)?;
        }
        Ok(())
    }
}

/// One machine as a module sees it.
#[derive(Debug)]
pub struct Machine {
    /// Its role.
    pub host: Host,
    /// Its own host name, for people.
    pub hostname: String,
    /// Its agent: everything is asked of it, as root.
    pub agent: AgentClient,
}

/// Facts of the session a module may need.
#[derive(Debug, Clone)]
pub struct SessionFacts {
    /// 8 hex digits.
    pub id: String,
    /// Whether nothing may be changed.
    pub dry_run: bool,
    /// `--verify`: compare all content afterwards.
    pub verify: bool,
    /// `--yes`: ordinary questions are answered with their defaults.
    pub yes: bool,
    /// `--apply-package-installs`: a run that cannot ask installs what the source has.
    pub package_installs: bool,
    /// `--apply-package-removals`: a run that cannot ask removes what the source has not.
    pub package_removals: bool,
    /// `--full-scan`: start from nothing that is remembered.
    pub full_scan: bool,
    /// When the two machines were last known to be equal. `None` if no completed sync of the two
    /// with `user_data` is remembered.
    pub equal_at: Option<EqualAt>,
    /// What the last sync of the two has left to start from.
    pub anchor: Result<Standing, NoAnchor>,
    /// Presync snapshots of the source (empty in a dry run, which reads the live tree).
    pub source_presync: Vec<SnapshotFacts>,
    /// Presync snapshots of the target.
    pub target_presync: Vec<SnapshotFacts>,
    /// Postsync snapshots of the target, as soon as there are some.
    pub target_postsync: Vec<SnapshotFacts>,
    /// Subvolumes of the source with their mount points, for finding the one that holds a path.
    pub source_subvolumes: Vec<Subvolume>,
    /// Subvolumes of the target.
    pub target_subvolumes: Vec<Subvolume>,
}

/// When two machines were last known to be equal, by each one's own clock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EqualAt {
    /// By the source's.
    pub source: Timestamp,
    /// By the target's.
    pub target: Timestamp,
    /// What the folders' filters said then: what they left out was not compared.
    pub filters: BTreeMap<String, String>,
}

/// What a module that mirrors folders leaves behind for the next sync of the two machines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mirrored {
    /// What each folder's filter said: the folder's path to a digest.
    pub filters: BTreeMap<String, String>,
    /// The anchor, or why there can be none.
    pub anchor: Result<Anchor, String>,
}

/// Everything a module is given.
pub struct ModuleContext<'a> {
    /// The whole configuration; a module reads its own section.
    pub config: &'a Config,
    /// The machine the command was typed on.
    pub source: &'a Machine,
    /// The machine that is changed.
    pub target: &'a Machine,
    /// Session facts.
    pub session: &'a SessionFacts,
    /// Asks a person.
    pub prompter: &'a dyn Prompter,
    /// Where log lines and progress go.
    pub events: &'a EventSink,
    /// Looked at in every loop.
    pub abort: &'a AbortFlag,
    /// The module's own name, stamped on everything it says.
    pub module: &'static str,
}

impl ModuleContext<'_> {
    /// The machine in a role.
    #[must_use]
    pub fn machine(&self, host: Host) -> &Machine {
        match host {
            Host::Source => self.source,
            Host::Target => self.target,
        }
    }

    /// Logs a line about `host`.
    pub fn log(&self, level: LogLevel, host: Host, message: impl Into<String>) {
        self.log_with(level, host, message, Map::new());
    }

    /// Logs a line with structured detail.
    pub fn log_with(
        &self,
        level: LogLevel,
        host: Host,
        message: impl Into<String>,
        context: Map<String, Value>,
    ) {
        self.events
            .log(level, self.module, Some(host), message, context);
    }

    /// Says what was decided and why ("full scan of /home: first sync with vega"): a line of the log,
    /// repeated below the module's result at the end. `kind` names the decision for programs
    /// (`full_scan`); docs/events.md lists them.
    pub fn decide(&self, kind: &str, host: Host, message: impl Into<String>) {
        let mut context = Map::new();
        context.insert(LogEvent::DECISION_KEY.to_owned(), kind.into());
        self.log_with(LogLevel::Info, host, message, context);
    }

    /// For the changes it makes on the target, one by one as they are made: each becomes a line of
    /// the log at FULL.
    #[must_use]
    pub fn changes(&self) -> ChangeBatch {
        let planned = self.session.dry_run;
        self.events.changes(self.module, Host::Target, planned)
    }

    /// Reports progress over all of the module's work.
    pub fn emit_progress(&self, update: ProgressUpdate) {
        self.events.emit(&Event::Progress(ProgressEvent {
            timestamp: jiff::Timestamp::now(),
            module: self.module.to_owned(),
            update,
        }));
    }
}

/// One unit of sync work. The orchestrator calls, in this order: [`validate`](Module::validate),
/// [`plan`](Module::plan), and unless it is a dry run [`execute`](Module::execute).
pub trait Module: Send {
    /// Unique, as in the configuration (`user_data`).
    fn name(&self) -> &'static str;

    /// When it runs.
    fn kind(&self) -> ModuleKind;

    /// Whether it cannot be disabled.
    fn required(&self) -> bool {
        self.kind() != ModuleKind::Sync
    }

    /// Checks the module's section beyond what the schema says, before any connection.
    fn validate_config(&self, _config: &Config) -> Vec<ConfigError> {
        Vec::new()
    }

    /// Every reason, on either machine, not to start; changes nothing.
    fn validate(
        &mut self,
        context: &ModuleContext<'_>,
    ) -> Result<Vec<ValidationError>, ModuleError>;

    /// What [`execute`](Module::execute) will do, exactly; changes nothing outside `/run`.
    fn plan(&mut self, context: &ModuleContext<'_>) -> Result<Box<dyn Plan>, ModuleError>;

    /// Does what the plan says; returns a one-line summary.
    fn execute(&mut self, context: &ModuleContext<'_>) -> Result<String, ModuleError>;

    /// Whether errors it logged are over with the run: what was not done is named, what is there is whole,
    /// and its next plan begins with that. A run with such errors alone has failed, and leaves nothing
    /// incomplete behind.
    fn fails_whole(&self) -> bool {
        false
    }

    /// The folders it makes equal to the source's, if it does such a thing: the postsync snapshots
    /// of what holds them are taken as soon as the last such module has ended.
    fn mirrors(&self, _config: &Config) -> Vec<String> {
        Vec::new()
    }

    /// What it leaves behind, asked when the postsync snapshots are there and nothing went wrong.
    fn mirrored(&mut self, _context: &ModuleContext<'_>) -> Result<Option<Mirrored>, ModuleError> {
        Ok(None)
    }

    /// Frees what `execute` held after it failed or was interrupted, within `timeout`.
    fn abort(&mut self, _context: &ModuleContext<'_>, _timeout: Duration) {}
}
