//! What a run says about itself: log lines, progress, phases, the connection, the closing report.
//!
//! Events are data, never text for a terminal; the renderer and the log writer each get every
//! event on a channel of their own. Nothing below `ui` knows how an event looks.

mod changes;
mod work;

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, unbounded};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

pub use changes::{ChangeBatch, ChangesEvent};
pub use work::{WorkEvent, Working};

use crate::change::Digest;

/// The two machines of a sync, by role; people are shown the real host names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Host {
    /// The machine the command was typed on.
    Source,
    /// The machine that is changed.
    Target,
}

impl Host {
    /// The other machine.
    #[must_use]
    pub fn other(self) -> Self {
        match self {
            Self::Source => Self::Target,
            Self::Target => Self::Source,
        }
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Source => "source",
            Self::Target => "target",
        })
    }
}

/// Six ordered levels; a level includes everything above it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum LogLevel {
    /// Internal diagnostics: every command, every round trip.
    Debug,
    /// Operational detail, down to single files.
    Full,
    /// What a person follows.
    Info,
    /// Unexpected, but the run goes on; repeated at the end.
    Warning,
    /// Something was not done; the session ends as FAILED.
    Error,
    /// A module returned an error; logged by the orchestrator only.
    Critical,
}

impl LogLevel {
    /// All levels, most verbose first.
    pub const ALL: [Self; 6] = [
        Self::Debug,
        Self::Full,
        Self::Info,
        Self::Warning,
        Self::Error,
        Self::Critical,
    ];

    /// The upper-case name used in files and in the configuration.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Debug => "DEBUG",
            Self::Full => "FULL",
            Self::Info => "INFO",
            Self::Warning => "WARNING",
            Self::Error => "ERROR",
            Self::Critical => "CRITICAL",
        }
    }
}

impl fmt::Display for LogLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for LogLevel {
    type Err = ();

    fn from_str(s: &str) -> Result<Self, ()> {
        Self::ALL
            .into_iter()
            .find(|l| l.name().eq_ignore_ascii_case(s))
            .ok_or(())
    }
}

/// One log line. In files it is one JSON object with `context` merged at the top level.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LogEvent {
    /// When it happened, UTC.
    pub timestamp: Timestamp,
    /// How much it matters.
    pub level: LogLevel,
    /// The module that spoke, or `core` for the orchestrator.
    pub module: String,
    /// The machine it is about, where it is about one.
    pub host: Option<Host>,
    /// A sentence for people; may contain raw bytes of the other machine, never printed unescaped.
    pub message: String,
    /// Structured detail.
    #[serde(default)]
    pub context: Map<String, Value>,
}

impl LogEvent {
    /// The key in the context of a line that tells what a module decided, with what kind of decision
    /// it is (`full_scan`, `conflicts`): the closing block repeats it below the module's result.
    pub const DECISION_KEY: &'static str = "decision";

    /// What kind of decision this line tells, if it tells one.
    #[must_use]
    pub fn decision(&self) -> Option<&str> {
        self.context.get(Self::DECISION_KEY)?.as_str()
    }
}

/// What a progress figure counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Unit {
    /// Files, packages, commands.
    Items,
    /// Bytes.
    Bytes,
}

/// How far a module is, over all of its work.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ProgressUpdate {
    /// 0 to 100, if known.
    pub percent: Option<u8>,
    /// Items finished.
    pub current: Option<u64>,
    /// Items in all, if known.
    pub total: Option<u64>,
    /// Bytes finished, where the work is counted in bytes too.
    pub current_bytes: Option<u64>,
    /// Bytes in all, if known.
    pub total_bytes: Option<u64>,
    /// What is being worked on now (escaped before it is shown).
    pub item: Option<String>,
    /// Nothing new, but alive.
    pub heartbeat: bool,
    /// Time left, if the module can tell.
    pub eta: Option<Duration>,
}

/// A module's progress.
#[derive(Debug, Clone, PartialEq)]
pub struct ProgressEvent {
    /// When it was said, UTC.
    pub timestamp: Timestamp,
    /// The module's name.
    pub module: String,
    /// How far it is.
    pub update: ProgressUpdate,
}

/// State of the connection to the target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ConnectionStatus {
    /// Name look-up, handshake, login.
    Connecting,
    /// The agent answers.
    Connected,
    /// Closed, by us or by fate.
    Disconnected,
}

/// The connection changed, or its latency was measured.
#[derive(Debug, Clone, PartialEq)]
pub struct ConnectionEvent {
    /// What it is now.
    pub status: ConnectionStatus,
    /// Round trip to the agent and back, if connected.
    pub latency: Option<Duration>,
}

/// The ten phases of a sync.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Config, locks, connection, agents.
    Initialise = 1,
    /// First sync, out of order, incomplete.
    Gates = 2,
    /// Every module, both machines, nothing changed.
    Validate = 3,
    /// Free space.
    Preflight = 4,
    /// Snapshots to go back to.
    PresyncSnapshots = 5,
    /// What will be changed.
    Plan = 6,
    /// Changing it.
    Execute = 7,
    /// Snapshots of the result.
    PostsyncSnapshots = 8,
    /// History.
    Record = 9,
    /// Always.
    CleanUp = 10,
}

impl Phase {
    /// 1 to 10.
    #[must_use]
    pub fn number(self) -> u8 {
        self as u8
    }

    /// A short name for people.
    #[must_use]
    pub fn title(self) -> &'static str {
        match self {
            Self::Initialise => "connect",
            Self::Gates => "history",
            Self::Validate => "validate",
            Self::Preflight => "disk space",
            Self::PresyncSnapshots => "presync snapshots",
            Self::Plan => "plan",
            Self::Execute => "execute",
            Self::PostsyncSnapshots => "postsync snapshots",
            Self::Record => "record",
            Self::CleanUp => "clean up",
        }
    }
}

/// What became of one module.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum ModuleStatus {
    /// It did what it was asked.
    Success,
    /// It was not asked, or had nothing it could do.
    Skipped,
    /// It returned an error.
    Failed,
}

/// One module's line in the closing block and in the history.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ModuleResult {
    /// The module's name.
    pub module: String,
    /// What became of it.
    pub status: ModuleStatus,
    /// When it began, UTC.
    pub started_at: Timestamp,
    /// When it ended, UTC.
    pub ended_at: Timestamp,
    /// Why it failed or was skipped.
    pub error: Option<String>,
    /// What it changed, in one line ("12 created, 3 changed, 1 deleted, 4.2 MiB").
    pub summary: Option<String>,
}

/// States of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum SessionState {
    /// Config, lock, connection.
    Initializing,
    /// Gates, validation, preflight.
    Validating,
    /// From the presync snapshots to the postsync ones.
    Executing,
    /// Undoing what must not outlive the run.
    Cleanup,
    /// All modules succeeded and nothing was logged at ERROR.
    Completed,
    /// A person or a signal ended it.
    Aborted,
    /// A module failed, or ERROR was logged.
    Failed,
}

/// An error that ended a run, or went wrong while it was cleaned up, in words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndingError {
    /// What happened: lower case, no full stop.
    pub message: String,
    /// What caused it, outermost first; or the single errors, where it is a list of them.
    pub causes: Vec<String>,
    /// Whether `causes` are single errors that were found together.
    pub is_list: bool,
    /// What a person can do about it.
    pub hint: Option<String>,
}

impl EndingError {
    /// The key in the context of a log line that tells an ending error: the closing block says it
    /// whole, so a terminal need not show the line too.
    pub const STATUS_KEY: &'static str = "exit_status";
}

/// Everything the closing block shows.
#[derive(Debug, Clone, PartialEq)]
pub struct ClosingReport {
    /// Session id, 8 hex digits.
    pub session: String,
    /// Host name of the source.
    pub source: String,
    /// Host name of the target (as typed, if it was never reached).
    pub target: String,
    /// How it ended.
    pub state: SessionState,
    /// Whether it was a dry run.
    pub dry_run: bool,
    /// The status the process will end with.
    pub exit_code: u8,
    /// What stopped it, then what went wrong while cleaning up.
    pub errors: Vec<EndingError>,
    /// One result per module, in order.
    pub modules: Vec<ModuleResult>,
    /// What the modules of a dry run would do, in order.
    pub plans: Vec<Digest>,
    /// What modules decided, in order.
    pub decisions: Vec<LogEvent>,
    /// Everything logged at WARNING or above, once each.
    pub warnings: Vec<LogEvent>,
    /// Wall time.
    pub elapsed: Duration,
    /// Where the log is, if one was kept.
    pub log_file: Option<PathBuf>,
}

/// One event of a run.
#[derive(Debug, Clone)]
pub enum Event {
    /// A log line.
    Log(LogEvent),
    /// A module's progress.
    Progress(ProgressEvent),
    /// A piece of work begins or has ended.
    Work(WorkEvent),
    /// Changes that were planned in a dry run, or made.
    Changes(ChangesEvent),
    /// The connection.
    Connection(ConnectionEvent),
    /// The session and the real names of its machines, as soon as they are known.
    Session {
        /// 8 hex digits.
        id: String,
        /// Host name of the source.
        source: String,
        /// Host name of the target.
        target: String,
    },
    /// A phase begins.
    Phase {
        /// Which.
        phase: Phase,
    },
    /// A module's execution begins.
    ModuleStarted {
        /// Its name.
        module: String,
        /// Whether it runs beside the others.
        background: bool,
    },
    /// A module's execution ended.
    ModuleFinished(ModuleResult),
    /// The run is over.
    Closing(ClosingReport),
}

/// Where events go in; cheap to clone, never blocks, never fails.
#[derive(Debug, Clone, Default)]
pub struct EventSink {
    consumers: Vec<Sender<Event>>,
}

impl EventSink {
    /// A sink nobody listens to.
    #[must_use]
    pub fn none() -> Self {
        Self::default()
    }

    /// Adds a consumer: it gets every event sent through this sink or later clones of it,
    /// until the last clone is dropped.
    pub fn subscribe(&mut self) -> Receiver<Event> {
        let (tx, rx) = unbounded();
        self.consumers.push(tx);
        rx
    }

    /// Hands `event` to every consumer; one that has gone away is passed over.
    pub fn emit(&self, event: &Event) {
        for consumer in &self.consumers {
            let _ = consumer.send(event.clone());
        }
    }

    /// How many events the slowest consumer has not taken yet.
    fn backlog(&self) -> usize {
        self.consumers.iter().map(Sender::len).max().unwrap_or(0)
    }

    /// Emits a log line of `module` about `host`.
    pub fn log(
        &self,
        level: LogLevel,
        module: &str,
        host: Option<Host>,
        message: impl Into<String>,
        context: Map<String, Value>,
    ) {
        self.emit(&Event::Log(LogEvent {
            timestamp: Timestamp::now(),
            level,
            module: module.to_owned(),
            host,
            message: message.into(),
            context,
        }));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_are_ordered_from_debug_to_critical() {
        assert!(LogLevel::ALL.windows(2).all(|w| w[0] < w[1]));
        assert_eq!("full".parse(), Ok(LogLevel::Full));
        assert_eq!("verbose".parse::<LogLevel>(), Err(()));
    }

    #[test]
    fn every_consumer_gets_every_event() {
        let mut sink = EventSink::none();
        let (a, b) = (sink.subscribe(), sink.subscribe());
        sink.clone()
            .log(LogLevel::Info, "core", None, "hello", Map::new());
        assert_eq!(a.len(), 1);
        assert_eq!(b.len(), 1);
    }
}
