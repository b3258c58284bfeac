//! Phase 10: always. Whatever happened before, nothing of ours is left running, and the run says
//! how it ended.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::bounded;

use super::error::RunError;
use super::explain::{Explained, explain};
use super::{Ended, Pair, Peer, Run, context_for, record};
use crate::agent::client::AgentClient;
use crate::agent::protocol::{Reply, Request};
use crate::event::{
    ClosingReport, ConnectionEvent, ConnectionStatus, Event, Host, LogLevel, Phase, SessionState,
};
use crate::exit::ExitStatus;
use crate::interrupt::AbortFlag;
use crate::module::{Machine, ModuleKind};
use crate::modules::btrfs_snapshots;

/// How long a module and the agents may take to stop what they were doing.
const ABORT_LIMIT: Duration = Duration::from_secs(5);

/// How long one last request may take.
const LAST_CALL_LIMIT: Duration = Duration::from_secs(5);

/// How long an agent may take to end.
const GOODBYE_LIMIT: Duration = Duration::from_secs(2);

/// Ends a run that came to `result`.
pub(super) fn run(mut run: Run, result: Result<(), RunError>) -> Ended {
    let mut ending = Ending::of(&run, result.err());
    run.shared.events.emit(&Event::Phase {
        phase: Phase::CleanUp,
    });
    ending.say(&run);
    if ending.first.is_some() {
        stop_work(&mut run);
    }
    for error in finish_background(&mut run) {
        ending.add(&run, &error);
    }
    if ending.first.is_some() {
        settle(&mut run, &mut ending);
    }
    drop(run.connection.take());
    say_goodbye(&run.agents);
    if run.pair.is_some() {
        run.shared.events.emit(&Event::Connection(ConnectionEvent {
            status: ConnectionStatus::Disconnected,
            latency: None,
        }));
    }
    close(run, ending)
}

/// What stopped a run, and what went wrong besides.
struct Ending {
    first: Option<RunError>,
    errors: Vec<Explained>,
    /// Whether the presync snapshots were taken back.
    removed: bool,
    /// What was logged about them: they are shown with their hints, not repeated among warnings.
    logged: Vec<String>,
}

impl Ending {
    /// The reason to stop counts more than the error it surfaced as; a reason that came after the
    /// last phase had ended well does not count.
    fn of(run: &Run, error: Option<RunError>) -> Self {
        let Some(error) = error else {
            return Self {
                first: None,
                errors: Vec::new(),
                removed: false,
                logged: Vec::new(),
            };
        };
        let (first, surfaced) = match run.shared.stop.take() {
            Some(cause) if error.is_interruption() => (cause, None),
            Some(cause) => (cause, Some(explain(&error))),
            None => (error, None),
        };
        let mut errors = vec![explain(&first)];
        errors.extend(surfaced.filter(|other| other.line() != errors[0].line()));
        Self {
            first: Some(first),
            errors,
            removed: false,
            logged: Vec::new(),
        }
    }

    fn status(&self) -> Option<ExitStatus> {
        self.first.as_ref()?;
        self.errors.first().map(|error| error.status)
    }

    /// Logs what stopped the run: CRITICAL if a module returned it, a warning if a signal did.
    fn say(&mut self, run: &Run) {
        let Some(first) = &self.first else { return };
        let level = match first {
            RunError::Module { .. } => LogLevel::Critical,
            _ if first.is_interruption() => LogLevel::Warning,
            _ => LogLevel::Error,
        };
        if first.is_interruption()
            && let Some(error) = self.errors.first_mut()
        {
            let (number, title) = (run.phase.number(), run.phase.title());
            error.message = format!("interrupted in phase {number}, {title}");
            error.hint = Some(after_interruption(run).to_owned());
        }
        for (error, level) in self.errors.iter().zip([level, LogLevel::Error]) {
            let message = error.line();
            self.logged.push(message.clone());
            let events = &run.shared.events;
            events.log(level, super::CORE, None, message, error.context());
        }
    }

    /// An error while cleaning up: told, but never instead of the first one.
    fn add(&mut self, run: &Run, error: &RunError) {
        let explained = explain(error);
        let message = format!("while cleaning up: {}", explained.line());
        self.logged.push(message.clone());
        run.shared.events.log(
            LogLevel::Error,
            super::CORE,
            None,
            message,
            explained.context(),
        );
        self.errors.push(explained);
    }
}

/// What an interruption means for the machines.
fn after_interruption(run: &Run) -> &'static str {
    if run.recorded {
        "everything was done and noted"
    } else if run.incomplete.is_some() {
        "every file is whole, old or new; the next sync asks, or is told with --allow-incomplete, \
         and does the rest"
    } else {
        "nothing was changed"
    }
}

/// Ends background modules and keeps their results.
pub(super) fn finish_background(run: &mut Run) -> Vec<RunError> {
    let mut errors = Vec::new();
    for background in std::mem::take(&mut run.background) {
        match background.finish() {
            Ok(result) => run.session.push_result(result),
            Err(error) => errors.push(error),
        }
    }
    errors
}

/// The module at work frees what it held, the agents stop what they were doing; both within
/// [`ABORT_LIMIT`].
fn stop_work(run: &mut Run) {
    let Some(pair) = run.pair.clone() else { return };
    let end = Instant::now() + ABORT_LIMIT;
    let calls = pair.both().map(|peer| {
        let agent = peer.machine.agent.cleaning_up();
        agent.begin(Request::Abort)
    });
    if let Some(index) = run.current.take() {
        let mut module = run.selection.foreground.remove(index);
        let (shared, facts) = (Arc::clone(&run.shared), Arc::clone(&run.facts));
        let name = module.name();
        let machines = [unabortable(&pair.source), unabortable(&pair.target)];
        let (done, is_done) = bounded::<()>(0);
        // On a thread of its own: a module that hangs must not hang the end of the run.
        let _detached = std::thread::Builder::new()
            .name(format!("abort-{name}"))
            .spawn(move || {
                let abort = AbortFlag::new();
                let context = context_for(&shared, &machines, &facts, &abort, name);
                module.abort(&context, ABORT_LIMIT);
                drop(done);
            });
        let disconnected = crossbeam_channel::RecvTimeoutError::Disconnected;
        if is_done.recv_timeout(ABORT_LIMIT) != Err(disconnected) {
            run.log(
                LogLevel::Warning,
                None,
                format!("{name} did not clean up within {} s", ABORT_LIMIT.as_secs()),
            );
        }
    }
    for (peer, call) in pair.both().into_iter().zip(calls) {
        let left = end.saturating_duration_since(Instant::now());
        let answer = call.and_then(|call| call.wait(Some(left.max(Duration::from_millis(100)))));
        if let Err(error) = answer {
            run.log(
                LogLevel::Full,
                Some(peer.machine.host),
                format!("no answer to stopping: {error}"),
            );
        }
    }
}

fn unabortable(peer: &Peer) -> Machine {
    Machine {
        host: peer.machine.host,
        hostname: peer.machine.hostname.clone(),
        agent: peer.machine.agent.cleaning_up(),
    }
}

/// What a run that was stopped leaves on the machines. If it had changed nothing: nothing, its
/// snapshots go too. If it had: the markers, and a line in the histories.
fn settle(run: &mut Run, ending: &mut Ending) {
    for module in &run.selection.foreground {
        if module.kind() == ModuleKind::Sync && !run.session.has_result(module.name()) {
            run.session.skip(module.name(), "not reached");
        }
    }
    let Some(pair) = run.pair.clone() else { return };
    for peer in pair.both() {
        if peer.machine.agent.closed().is_some() {
            continue;
        }
        let Some((doing, request)) = last_request(run, &pair, peer, ending) else {
            continue;
        };
        let agent = peer.machine.agent.cleaning_up();
        let removes = matches!(request, Request::DeleteSnapshots { .. });
        match agent.call_within(request, Some(LAST_CALL_LIMIT)) {
            Ok(_) => ending.removed |= removes,
            Err(error) => ending.add(run, &RunError::agent(doing)(error)),
        }
    }
}

fn last_request(
    run: &Run,
    pair: &Pair,
    peer: &Peer,
    ending: &Ending,
) -> Option<(&'static str, Request)> {
    if run.recorded {
        return None;
    }
    if run.incomplete.is_some() {
        let entry = record::entry(run, pair, peer, end_state(ending.status()), false);
        return Some((
            "writing the history",
            Request::AppendHistory(Box::new(entry)),
        ));
    }
    let presync = &run.snapshots(peer.machine.host).presync;
    let names: Vec<String> = presync.iter().map(|s| s.name.clone()).collect();
    (!names.is_empty()).then(|| {
        let request = Request::DeleteSnapshots {
            snapshot_dir: run.shared.config.btrfs_snapshots.snapshot_dir.clone(),
            names,
        };
        (
            "deleting the snapshots of a run that changed nothing",
            request,
        )
    })
}

/// The state a stopped run ends in: a person or a signal aborts, everything else fails.
fn end_state(status: Option<ExitStatus>) -> SessionState {
    match status {
        Some(ExitStatus::Interrupted | ExitStatus::Refused) => SessionState::Aborted,
        _ => SessionState::Failed,
    }
}

/// Ends agents in good order, or at least closes their stdin, which ends them too.
pub fn say_goodbye(agents: &[AgentClient]) {
    let calls: Vec<_> = (agents.iter())
        .map(|agent| agent.cleaning_up().begin(Request::Goodbye))
        .collect();
    for (agent, call) in agents.iter().zip(calls) {
        if let Ok(call) = call {
            let _: Result<Reply, _> = call.wait(Some(GOODBYE_LIMIT));
        }
        agent.close(GOODBYE_LIMIT);
    }
}

fn close(mut run: Run, ending: Ending) -> Ended {
    let counts = run.tally.counts();
    let status = match ending.status() {
        Some(status) => status,
        None if counts.errors > 0 || !ending.errors.is_empty() => ExitStatus::Failed,
        None if counts.warnings > 0 => ExitStatus::Warnings,
        None => ExitStatus::Done,
    };
    let state = match status {
        ExitStatus::Done | ExitStatus::Warnings => SessionState::Completed,
        status => end_state(Some(status)),
    };
    let steps: &[SessionState] = match state {
        SessionState::Completed => &[SessionState::Completed],
        _ => &[SessionState::Cleanup, state],
    };
    for &step in steps {
        run.session
            .advance(step)
            .expect("every state of a run that ends can go through cleanup");
    }
    let (source, target) = match &run.pair {
        Some(pair) => (
            pair.peer(Host::Source).machine.hostname.clone(),
            pair.peer(Host::Target).machine.hostname.clone(),
        ),
        None => (
            rustix::system::uname()
                .nodename()
                .to_string_lossy()
                .into_owned(),
            run.shared.options.host.clone(),
        ),
    };
    let mut modules = run.session.results().to_vec();
    if ending.removed {
        for result in (modules.iter_mut()).filter(|r| r.module == btrfs_snapshots::NAME) {
            result.summary = Some("taken back: nothing was changed".to_owned());
        }
    }
    let report = ClosingReport {
        session: run.session.id().to_owned(),
        source,
        target,
        state,
        dry_run: run.shared.options.dry_run,
        exit_code: status.code(),
        errors: ending.errors.iter().map(Explained::ending).collect(),
        modules,
        plans: std::mem::take(&mut run.plans),
        decisions: counts.decisions,
        warnings: (counts.lines.into_iter())
            .filter(|line| line.module != super::CORE || !ending.logged.contains(&line.message))
            .collect(),
        elapsed: run.elapsed(),
        log_file: run.log_file.clone(),
    };
    run.shared.events.emit(&Event::Closing(report.clone()));
    Ended {
        report,
        status,
        errors: ending.errors,
    }
}
