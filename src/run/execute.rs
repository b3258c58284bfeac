//! Phase 7: the changes. Modules one after another; background modules beside them.

use std::sync::Arc;
use std::thread::JoinHandle;

use jiff::Timestamp;

use super::error::RunError;
use super::machines::Access;
use super::session::success;
use super::watch::Stop;
use super::{CORE, Pair, Run, Shared, context, context_for, reconcile, record, snapshots};
use crate::agent::client::{AgentClient, AgentError};
use crate::agent::protocol::Request;
use crate::event::{Event, Host, LogLevel, ModuleResult, ModuleStatus};
use crate::interrupt::AbortFlag;
use crate::module::{Machine, Module, ModuleError, ModuleKind, SessionFacts};
use crate::modules::btrfs_snapshots;

pub(super) fn run(run: &mut Run, pair: &Arc<Pair>) -> Result<(), RunError> {
    for module in std::mem::take(&mut run.selection.background) {
        let background = Background::start(module, run, Arc::clone(pair));
        run.background.push(background);
    }
    record::mark(run, pair, None)?;
    let mut reconciled = false;
    for index in 0..run.selection.foreground.len() {
        let module = &run.selection.foreground[index];
        if module.name() == btrfs_snapshots::NAME {
            continue;
        }
        // System modules come first; the configuration follows them, before people's data.
        if module.kind() == ModuleKind::Sync && !reconciled {
            reconcile::apply(run, pair)?;
            reconciled = true;
        }
        execute(run, pair, index)?;
        let modules = &run.selection.foreground;
        let mirrors = |at: usize| !modules[at].mirrors(&run.shared.config).is_empty();
        if mirrors(index) && !(index + 1..modules.len()).any(mirrors) {
            snapshots::mirrored(run, pair)?;
        }
    }
    Ok(())
}

fn execute(run: &mut Run, pair: &Pair, index: usize) -> Result<(), RunError> {
    let shared = Arc::clone(&run.shared);
    let name = run.selection.foreground[index].name();
    shared.stop.check()?;
    record::mark(run, pair, Some(name))?;
    shared.events.emit(&Event::ModuleStarted {
        module: name.to_owned(),
        background: false,
    });
    run.current = Some(index);
    let began = Timestamp::now();
    let context = context(&shared, pair, &run.facts, name);
    let result = run.selection.foreground[index].execute(&context);
    let module_result = match &result {
        Ok(summary) => success(name, began, summary.clone()),
        Err(error) => failure(&shared.stop, name, began, error),
    };
    shared
        .events
        .emit(&Event::ModuleFinished(module_result.clone()));
    run.session.push_result(module_result);
    result.map_err(RunError::module(name))?;
    run.current = None;
    Ok(())
}

/// The result of a module that did not. One that was told to stop does not know why; the run does.
fn failure(stop: &Stop, module: &str, began: Timestamp, error: &ModuleError) -> ModuleResult {
    let error = match error {
        ModuleError::Interrupted(_) | ModuleError::Agent(AgentError::Interrupted(_)) => {
            stop.words().unwrap_or_else(|| error.to_string())
        }
        error => error.to_string(),
    };
    ModuleResult {
        module: module.to_owned(),
        status: ModuleStatus::Failed,
        started_at: began,
        ended_at: Timestamp::now(),
        error: Some(error),
        summary: None,
    }
}

/// A background module at work on a thread of its own, with an agent of its own on the target.
pub(super) struct Background {
    name: &'static str,
    ended: AbortFlag,
    thread: JoinHandle<ModuleResult>,
}

impl Background {
    fn start(module: Box<dyn Module>, run: &Run, pair: Arc<Pair>) -> Self {
        let ended = AbortFlag::new();
        let work = Work {
            name: module.name(),
            shared: Arc::clone(&run.shared),
            facts: Arc::clone(&run.facts),
            ended: ended.clone(),
            pair,
        };
        let name = work.name;
        let thread = std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || work.run(module))
            .expect("a thread can be started: the process has only a handful");
        Self {
            name,
            ended,
            thread,
        }
    }

    /// Ends it and waits for its thread.
    pub(super) fn finish(self) -> Result<ModuleResult, RunError> {
        self.ended.raise();
        self.thread.join().map_err(|_| RunError::Panicked {
            thread: self.name.to_owned(),
        })
    }
}

struct Work {
    name: &'static str,
    shared: Arc<Shared>,
    facts: Arc<SessionFacts>,
    ended: AbortFlag,
    pair: Arc<Pair>,
}

impl Work {
    fn run(self, mut module: Box<dyn Module>) -> ModuleResult {
        let began = Timestamp::now();
        let shared = &self.shared;
        shared.events.emit(&Event::ModuleStarted {
            module: self.name.to_owned(),
            background: true,
        });
        let own = self.own_agent();
        let machines = [
            self.machine(Host::Source, None),
            self.machine(Host::Target, own.as_ref()),
        ];
        let context = context_for(shared, &machines, &self.facts, &self.ended, self.name);
        let result = module.execute(&context);
        if let Some(agent) = own {
            super::cleanup::say_goodbye(&[agent]);
        }
        let result = match result {
            Ok(summary) => success(self.name, began, summary),
            Err(error) => {
                let result = failure(&shared.stop, self.name, began, &error);
                let error = RunError::module(self.name)(error);
                if !error.is_interruption() {
                    shared.stop.because(error);
                }
                result
            }
        };
        shared.events.emit(&Event::ModuleFinished(result.clone()));
        result
    }

    /// A connection that a transfer cannot saturate. Without one the watch goes on over the
    /// connection there is, and says so: late news is better than none.
    fn own_agent(&self) -> Option<AgentClient> {
        let access = Access {
            session: self.facts.id.clone(),
            events: self.shared.events.clone(),
            abort: self.ended.clone(),
            prompter: Arc::clone(&self.shared.prompter),
        };
        let first = self.pair.target.facts.pid;
        let why = match self.shared.machines.target_again(&access, first) {
            Ok(agent) => {
                let hello = Request::Hello {
                    session: self.facts.id.clone(),
                    uid: None,
                };
                match agent.call(hello) {
                    Ok(_) => return Some(agent),
                    Err(error) => {
                        // One that is started is ended, too.
                        super::cleanup::say_goodbye(&[agent]);
                        error.to_string()
                    }
                }
            }
            Err(error) => error.to_string(),
        };
        if !self.ended.is_raised() {
            self.shared.events.log(
                LogLevel::Warning,
                CORE,
                Some(Host::Target),
                format!(
                    "{} has no connection of its own, and may be late: {why}",
                    self.name
                ),
                serde_json::Map::new(),
            );
        }
        None
    }

    /// A machine as the background thread sees it: its calls end when the thread is to end.
    fn machine(&self, host: Host, own: Option<&AgentClient>) -> Machine {
        let machine = &self.pair.peer(host).machine;
        if let Some(agent) = own {
            agent.set_hostname(&machine.hostname);
        }
        Machine {
            host,
            hostname: machine.hostname.clone(),
            agent: own.unwrap_or(&machine.agent).with_abort(self.ended.clone()),
        }
    }
}
