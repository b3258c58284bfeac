//! `doctor`: every precondition of a sync, on both machines, looked at and not touched.
//!
//! Nothing is checked here a second time: the phases of a sync look (`validate::look`,
//! `gates::look`, `preflight::look`), and what makes a sync stop is what is shown. Where a sync
//! stops at the first thing, this goes on with everything that can still be told.

mod looks;
mod reaching;

use std::path::PathBuf;
use std::sync::Arc;

use super::error::RunError;
use super::explain::{Explained, explain};
use super::initialise;
use super::machines::Machines;
use super::options::SyncOptions;
use super::session::SyncSession;
use super::{Changes, Pair, Peer, PlanOutput, Run, Setup, say_goodbye};
use crate::config::{Config, ConfigProblem};
use crate::event::{EventSink, Host};
use crate::exit::ExitStatus;
use crate::interrupt::AbortFlag;
use crate::module::{Machine, Module, ModuleKind};
use crate::prompt::Prompter;

/// What a check came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    /// As it should be.
    Ok,
    /// Could not be told, because something before it failed.
    Unknown,
    /// A sync goes on, or asks; a person should look.
    Warning,
    /// A sync would stop here.
    Failed,
}

impl State {
    /// The word in `--json`.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Unknown => "unknown",
            Self::Warning => "warning",
            Self::Failed => "failed",
        }
    }
}

/// One precondition of a sync.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// Names it for programs; a module's check has the module's name.
    pub id: &'static str,
    /// The machine it is about; `None` for what is between the two, or about no machine.
    pub host: Option<Host>,
    /// What it came to.
    pub state: State,
    /// What was found: lower case, no full stop, one line or several.
    pub message: String,
    /// What a person can do about it; lines that begin with a space are commands to copy.
    pub remedy: Option<String>,
    /// What a sync would end with here, if it failed.
    pub status: ExitStatus,
}

/// Everything that was looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkup {
    /// Host name of this machine.
    pub source: String,
    /// Host name of the other one (as typed, if it did not say), if one was named.
    pub target: Option<String>,
    /// The checks, in the order of a sync.
    pub checks: Vec<Check>,
}

impl Checkup {
    /// What `doctor` ends with: what a sync would end with at the first thing that failed, else
    /// [`ExitStatus::Warnings`] if there is something to look at.
    #[must_use]
    pub fn status(&self) -> ExitStatus {
        let failed = self
            .checks
            .iter()
            .find(|check| check.state == State::Failed);
        match failed {
            Some(check) => check.status,
            None if self.count(State::Warning) > 0 => ExitStatus::Warnings,
            None => ExitStatus::Done,
        }
    }

    /// How many checks came to `state`.
    #[must_use]
    pub fn count(&self, state: State) -> usize {
        let checks = self.checks.iter();
        checks.filter(|check| check.state == state).count()
    }
}

/// What is needed to look.
pub struct Examination<'a> {
    /// The configuration, or what is wrong with it.
    pub config: Result<Config, Vec<ConfigProblem>>,
    /// Where it is.
    pub config_path: PathBuf,
    /// The other machine as typed, if it is looked at too.
    pub host: Option<String>,
    /// How machines are reached.
    pub machines: Arc<dyn Machines>,
    /// Asks for passwords.
    pub prompter: Arc<dyn Prompter>,
    /// Where log lines go.
    pub events: EventSink,
    /// Raised by signals.
    pub abort: AbortFlag,
    /// Makes every module there is.
    pub modules: &'a dyn Fn() -> Vec<Box<dyn Module>>,
}

/// Looks at everything; an error only says that it was asked to stop.
pub fn examine(examination: Examination<'_>) -> Result<Checkup, RunError> {
    let Examination {
        config,
        config_path,
        host,
        machines,
        prompter,
        events,
        abort,
        modules,
    } = examination;
    let mut checks = Checks::default();
    checks.configuration(&config);
    let is_whole = config.is_ok();
    let mut run = Run::new(Setup {
        config: config.unwrap_or_else(|_| Config::with_defaults(&config_path)),
        options: SyncOptions {
            host: host.clone().unwrap_or_default(),
            dry_run: true,
            ..SyncOptions::default()
        },
        session: SyncSession::new(),
        machines,
        prompter,
        events,
        abort,
        modules: modules(),
        plan_output: Box::new(Nowhere),
        log_file: None,
        open_log: None,
    });
    let looked = look(&mut run, host.as_deref(), modules, is_whole, &mut checks);
    say_goodbye(&run.agents);
    let (source, target) = looked?;
    Ok(Checkup {
        source: source.unwrap_or_else(own_name),
        target: target.or(host),
        checks: checks.0,
    })
}

fn own_name() -> String {
    let name = rustix::system::uname();
    name.nodename().to_string_lossy().into_owned()
}

/// The host names the machines gave themselves.
type Names = (Option<String>, Option<String>);

fn look(
    run: &mut Run,
    host: Option<&str>,
    modules: &dyn Fn() -> Vec<Box<dyn Module>>,
    is_whole: bool,
    checks: &mut Checks,
) -> Result<Names, RunError> {
    choose(run, modules, is_whole, checks)?;
    let source = checks.reached(Host::Source, initialise::start_source(run))?;
    let target = match host {
        Some(_) => checks.reached(Host::Target, initialise::start_target(run))?,
        None => None,
    };
    let name = |peer: &Option<Peer>| peer.as_ref().map(|peer| peer.machine.hostname.clone());
    let names = (name(&source), name(&target));
    let (pair, hosts): (Pair, &[Host]) = match (source, target) {
        (Some(source), Some(target)) => {
            (Pair { source, target }, &[Host::Source, Host::Target][..])
        }
        (Some(source), None) => {
            let target = twin(&source, Host::Target);
            (Pair { source, target }, &[Host::Source])
        }
        (None, Some(target)) => {
            let source = twin(&target, Host::Source);
            (Pair { source, target }, &[Host::Target])
        }
        (None, None) => return Ok(names),
    };
    looks::all(run, &pair, hosts, checks)?;
    Ok(names)
}

/// Chooses the modules that a sync would run; without a configuration that can be used, those that
/// are part of every sync.
fn choose(
    run: &mut Run,
    modules: &dyn Fn() -> Vec<Box<dyn Module>>,
    is_whole: bool,
    checks: &mut Checks,
) -> Result<(), RunError> {
    if is_whole {
        match initialise::choose_modules(run) {
            Ok(()) => return Ok(()),
            Err(error) => checks.failed("config", None, error)?,
        }
    }
    let mut system = modules();
    system.retain(|module| module.kind() == ModuleKind::System);
    run.selection.foreground = system;
    Ok(())
}

/// The same machine in the other role: modules look at two machines, also where there is only one.
fn twin(peer: &Peer, host: Host) -> Peer {
    Peer {
        machine: Machine {
            host,
            hostname: peer.machine.hostname.clone(),
            agent: peer.machine.agent.clone(),
        },
        facts: peer.facts.clone(),
        clock_ahead: peer.clock_ahead,
    }
}

/// A doctor lists no plan.
struct Nowhere;

impl PlanOutput for Nowhere {
    fn print(&mut self, _: &str, _: &str, _: &mut Changes<'_>) -> std::io::Result<()> {
        Ok(())
    }
}

/// The checks so far.
#[derive(Default)]
struct Checks(Vec<Check>);

impl Checks {
    fn push(&mut self, id: &'static str, host: Option<Host>, state: State, message: String) {
        self.0.push(Check {
            id,
            host,
            state,
            message,
            remedy: None,
            status: ExitStatus::Validation,
        });
    }

    fn ok(&mut self, id: &'static str, host: Host, message: impl Into<String>) {
        self.push(id, Some(host), State::Ok, message.into());
    }

    fn warn(
        &mut self,
        id: &'static str,
        host: Option<Host>,
        message: impl Into<String>,
        remedy: Option<String>,
    ) {
        self.push(id, host, State::Warning, message.into());
        self.remedy(remedy);
    }

    /// The remedy of the check that was pushed last.
    fn remedy(&mut self, remedy: Option<String>) {
        if let Some(check) = self.0.last_mut() {
            check.remedy = remedy;
        }
    }

    /// What would stop a sync; being asked to stop ends looking.
    fn failed(
        &mut self,
        id: &'static str,
        host: Option<Host>,
        error: RunError,
    ) -> Result<(), RunError> {
        if error.is_interruption() {
            return Err(error);
        }
        let explained = explain(&error);
        if explained.is_list {
            for cause in &explained.causes {
                let (message, hint) = match cause.split_once("\nhint: ") {
                    Some((message, hint)) => (message.to_owned(), Some(hint.to_owned())),
                    None => (cause.clone(), explained.hint.clone()),
                };
                self.explained(id, host, message, hint, explained.status);
            }
        } else {
            let Explained { hint, status, .. } = explained.clone();
            self.explained(id, host, explained.line(), hint, status);
        }
        Ok(())
    }

    fn explained(
        &mut self,
        id: &'static str,
        host: Option<Host>,
        message: String,
        remedy: Option<String>,
        status: ExitStatus,
    ) {
        self.0.push(Check {
            id,
            host,
            state: State::Failed,
            message,
            remedy,
            status,
        });
    }

    fn configuration(&mut self, config: &Result<Config, Vec<ConfigProblem>>) {
        match config {
            Ok(config) => {
                let on = config.sync_modules.iter().filter(|(_, on)| *on);
                let names: Vec<&str> = on.map(|(name, _)| name.as_str()).collect();
                let message = format!("{} syncs {}", config.path.display(), names.join(", "));
                self.push("config", None, State::Ok, message);
            }
            Err(problems) => {
                for problem in problems {
                    let bare = ConfigProblem {
                        hint: None,
                        ..problem.clone()
                    };
                    let hint = problem.hint.clone();
                    self.explained("config", None, bare.to_string(), hint, ExitStatus::Usage);
                }
            }
        }
    }
}
