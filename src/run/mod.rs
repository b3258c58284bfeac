//! One sync, from the top: ten phases in order, and a clean end whatever happens.
//!
//! [`sync`] is the only way in. Each phase is a file of its own that works on a `Run`; the order
//! they rely on is the order in `Run::phases`. Nothing is changed on either machine before the
//! presync snapshots, nothing but snapshots before the incomplete markers, and the markers go last.
//!
//! # Which exit status
//!
//! What stopped the run first decides. In order: a signal that was received while phases were at
//! work (130), even if it surfaces as some other error; what stopped the run from outside the
//! module at work (disk space 7, connection lost 5); the error the phase or module ended with
//! (1 to 7). A run that reached its end has 1 if anything was logged at ERROR, else 8 if anything
//! was logged at WARNING, else 0. An error while cleaning up is reported beside the first one and
//! never replaces its status; after a run that had ended well it makes the status 1.

mod cleanup;
mod clocks;
pub mod doctor;
pub mod error;
mod execute;
pub mod explain;
mod gates;
mod initialise;
mod logins;
pub mod machines;
pub mod met;
pub mod options;
mod plan;
mod preflight;
pub mod prune;
pub mod reach;
mod reconcile;
mod record;
pub mod restore;
pub mod rollback;
pub mod session;
mod snapshots;
pub mod status;
mod validate;
pub mod watch;

#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::Arc;

use jiff::Timestamp;
use serde_json::Map;

pub use cleanup::say_goodbye;
pub use plan::{Changes, PlanOutput, Visit, totals};

use crate::agent::client::{AgentClient, ConfirmEach};
use crate::agent::protocol::AgentFacts;
use crate::change::Digest;
use crate::config::Config;
use crate::event::{ClosingReport, Event, EventSink, Host, LogLevel, Phase, SessionState};
use crate::exit::ExitStatus;
use crate::interrupt::AbortFlag;
use crate::module::{Machine, Mirrored, Module, ModuleContext, PlanSummary, SessionFacts};
use crate::prompt::Prompter;
use crate::record::standing::NoAnchor;
use crate::record::{Incomplete, MachineName, MachineState};
use crate::snapshot::SnapshotFacts;

use error::RunError;
use execute::Background;
use explain::Explained;
use machines::{Access, Machines};
use options::{Selection, SyncOptions};
use session::SyncSession;
use watch::{ConnectionWatch, Stop, Tally};

/// Opens the log of a dry run in the directory given: its place is known only once the local
/// agent has made it, because a dry run leaves no file outside `/run`. Returns the log's path.
pub type OpenLog = Box<dyn FnOnce(&str) -> Option<PathBuf> + Send>;

/// Everything a run is given.
pub struct Setup {
    /// The checked configuration.
    pub config: Config,
    /// The command line.
    pub options: SyncOptions,
    /// The new session.
    pub session: SyncSession,
    /// How machines are reached.
    pub machines: Arc<dyn Machines>,
    /// Asks a person.
    pub prompter: Arc<dyn Prompter>,
    /// Where events go; whoever wants them has subscribed already.
    pub events: EventSink,
    /// Raised by signals.
    pub abort: AbortFlag,
    /// Every module there is.
    pub modules: Vec<Box<dyn Module>>,
    /// Where a dry run lists its plan.
    pub plan_output: Box<dyn PlanOutput>,
    /// Where the log of this session is, if there is one already.
    pub log_file: Option<PathBuf>,
    /// Opens the log of a dry run.
    pub open_log: Option<OpenLog>,
}

/// How a run ended.
#[derive(Debug)]
pub struct Ended {
    /// What the closing block shows.
    pub report: ClosingReport,
    /// What the process ends with.
    pub status: ExitStatus,
    /// What stopped it, then what went wrong while cleaning up.
    pub errors: Vec<Explained>,
}

/// Runs one sync to its end, whatever that is.
#[must_use]
pub fn sync(setup: Setup) -> Ended {
    let mut run = Run::new(setup);
    let result = run.phases();
    cleanup::run(run, result)
}

/// What does not change during a run, shared by its threads.
struct Shared {
    config: Config,
    options: SyncOptions,
    machines: Arc<dyn Machines>,
    prompter: Arc<dyn Prompter>,
    events: EventSink,
    stop: Stop,
}

/// One of the two machines.
struct Peer {
    machine: Machine,
    facts: AgentFacts,
    /// How far its clock is ahead of ours, as well as a round trip tells.
    clock_ahead: jiff::SignedDuration,
}

impl Peer {
    fn name(&self) -> MachineName {
        MachineName {
            hostname: self.machine.hostname.clone(),
            machine_id: self.facts.machine_id.clone(),
        }
    }
}

/// Both machines, once their agents answer and their locks are ours.
struct Pair {
    source: Peer,
    target: Peer,
}

impl Pair {
    fn both(&self) -> [&Peer; 2] {
        [&self.source, &self.target]
    }

    fn peer(&self, host: Host) -> &Peer {
        match host {
            Host::Source => &self.source,
            Host::Target => &self.target,
        }
    }
}

/// Snapshots of this session on one machine.
#[derive(Debug, Clone, Default)]
struct OwnSnapshots {
    presync: Vec<SnapshotFacts>,
    postsync: Vec<SnapshotFacts>,
}

/// A run in progress.
struct Run {
    shared: Arc<Shared>,
    session: SyncSession,
    phase: Phase,
    tally: Tally,
    connection: Option<ConnectionWatch>,
    /// Every agent ever started, for the end.
    agents: Vec<AgentClient>,
    /// Set at the end of phase 1.
    pair: Option<Arc<Pair>>,
    facts: Arc<SessionFacts>,
    selection: Selection,
    background: Vec<Background>,
    /// The module at work, by index in `selection.foreground`.
    current: Option<usize>,
    source_snapshots: OwnSnapshots,
    target_snapshots: OwnSnapshots,
    /// The markers, from the moment they are about to be written until they are removed.
    incomplete: Option<Incomplete>,
    /// What each machine remembered when the run began.
    remembered: HashMap<Host, MachineState>,
    /// What each module planned.
    planned: BTreeMap<&'static str, PlanSummary>,
    /// What the next sync of the two can start from.
    mirrored: Option<Mirrored>,
    /// Whether history has this session.
    recorded: bool,
    plan_output: Box<dyn PlanOutput>,
    /// What the modules of a dry run would do.
    plans: Vec<Digest>,
    /// What reconciling the target's configuration will write.
    config_writes: Vec<reconcile::Write>,
    log_file: Option<PathBuf>,
    open_log: Option<OpenLog>,
    registry: Vec<Box<dyn Module>>,
}

impl Run {
    fn new(setup: Setup) -> Self {
        let mut events = setup.events;
        let tally = Tally::start(&mut events);
        let facts = SessionFacts {
            id: setup.session.id().to_owned(),
            dry_run: setup.options.dry_run,
            verify: setup.options.verify,
            yes: setup.options.yes,
            package_installs: setup.options.package_installs,
            package_removals: setup.options.package_removals,
            full_scan: setup.options.full_scan,
            equal_at: None,
            anchor: Err(NoAnchor::Unread),
            source_presync: Vec::new(),
            target_presync: Vec::new(),
            target_postsync: Vec::new(),
            source_subvolumes: Vec::new(),
            target_subvolumes: Vec::new(),
        };
        Self {
            shared: Arc::new(Shared {
                config: setup.config,
                options: setup.options,
                machines: setup.machines,
                prompter: setup.prompter,
                events,
                stop: Stop::new(setup.abort),
            }),
            session: setup.session,
            phase: Phase::Initialise,
            tally,
            connection: None,
            agents: Vec::new(),
            pair: None,
            facts: Arc::new(facts),
            selection: Selection::default(),
            background: Vec::new(),
            current: None,
            source_snapshots: OwnSnapshots::default(),
            target_snapshots: OwnSnapshots::default(),
            incomplete: None,
            remembered: HashMap::new(),
            planned: BTreeMap::new(),
            mirrored: None,
            recorded: false,
            plan_output: setup.plan_output,
            plans: Vec::new(),
            config_writes: Vec::new(),
            log_file: setup.log_file,
            open_log: setup.open_log,
            registry: setup.modules,
        }
    }

    fn phases(&mut self) -> Result<(), RunError> {
        let dry_run = self.shared.options.dry_run;
        self.enter(Phase::Initialise)?;
        let pair = initialise::run(self)?;

        self.session.advance(SessionState::Validating)?;
        self.enter(Phase::Gates)?;
        gates::run(self, &pair)?;
        self.enter(Phase::Validate)?;
        validate::run(self, &pair)?;
        self.enter(Phase::Preflight)?;
        preflight::run(self, &pair)?;

        self.session.advance(SessionState::Executing)?;
        if !dry_run {
            self.enter(Phase::PresyncSnapshots)?;
            snapshots::presync(self, &pair)?;
        }
        self.enter(Phase::Plan)?;
        plan::run(self, &pair)?;
        if dry_run {
            return Ok(());
        }

        self.enter(Phase::Execute)?;
        execute::run(self, &pair)?;
        self.enter(Phase::PostsyncSnapshots)?;
        snapshots::postsync(self, &pair)?;
        snapshots::anchor(self, &pair)?;
        if let Some(error) = cleanup::finish_background(self).pop() {
            return Err(error);
        }
        self.enter(Phase::Record)?;
        record::run(self, &pair)
    }

    /// A phase begins: nothing new is begun once something asked to stop.
    fn enter(&mut self, phase: Phase) -> Result<(), RunError> {
        self.shared.stop.check()?;
        self.phase = phase;
        self.shared.events.emit(&Event::Phase { phase });
        if let (Some(_), Some(pair)) = (&self.incomplete, self.pair.clone()) {
            record::mark(self, &pair, None)?;
        }
        Ok(())
    }

    fn access(&self) -> Access {
        Access {
            session: self.session.id().to_owned(),
            events: self.shared.events.clone(),
            abort: self.shared.stop.flag().clone(),
            prompter: Arc::clone(&self.shared.prompter),
        }
    }

    /// The agent as phases use it: asking before each change, if that was demanded.
    fn confirming(&self, agent: AgentClient) -> AgentClient {
        if self.shared.options.confirm_each_command {
            agent.confirming(ConfirmEach {
                prompter: Arc::clone(&self.shared.prompter),
            })
        } else {
            agent
        }
    }

    /// One line of the orchestrator.
    fn log(&self, level: LogLevel, host: Option<Host>, message: impl Into<String>) {
        self.shared
            .events
            .log(level, CORE, host, message, Map::new());
    }

    /// This session's snapshots of one machine.
    fn snapshots_mut(&mut self, host: Host) -> &mut OwnSnapshots {
        match host {
            Host::Source => &mut self.source_snapshots,
            Host::Target => &mut self.target_snapshots,
        }
    }

    fn snapshots(&self, host: Host) -> &OwnSnapshots {
        match host {
            Host::Source => &self.source_snapshots,
            Host::Target => &self.target_snapshots,
        }
    }

    fn elapsed(&self) -> std::time::Duration {
        let spent = Timestamp::now().duration_since(self.session.started_at());
        spent.try_into().unwrap_or_default()
    }
}

/// Who speaks when the orchestrator does.
const CORE: &str = "core";

/// What a module is given, in the main thread.
fn context<'a>(
    shared: &'a Shared,
    pair: &'a Pair,
    facts: &'a SessionFacts,
    module: &'static str,
) -> ModuleContext<'a> {
    ModuleContext {
        config: &shared.config,
        source: &pair.source.machine,
        target: &pair.target.machine,
        session: facts,
        prompter: &*shared.prompter,
        events: &shared.events,
        abort: shared.stop.flag(),
        module,
    }
}

/// What a module is given in another thread: machines and an abort flag of that thread.
fn context_for<'a>(
    shared: &'a Shared,
    machines: &'a [Machine; 2],
    facts: &'a SessionFacts,
    abort: &'a AbortFlag,
    module: &'static str,
) -> ModuleContext<'a> {
    let [source, target] = machines;
    ModuleContext {
        config: &shared.config,
        source,
        target,
        session: facts,
        prompter: &*shared.prompter,
        events: &shared.events,
        abort,
        module,
    }
}
