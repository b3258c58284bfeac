//! Who looks on while the phases work: the tally of what was logged, the reason for stopping,
//! and the watch over the connection.

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded, unbounded};

use super::error::RunError;
use super::explain::explain;
use crate::agent::client::AgentClient;
use crate::event::{ConnectionEvent, ConnectionStatus, Event, EventSink, LogEvent, LogLevel};
use crate::interrupt::{AbortFlag, Interrupted};

/// Different warnings kept for the closing block; more are counted in one last line.
const MAX_WARNINGS: usize = 200;

/// Decisions kept for the closing block.
const MAX_DECISIONS: usize = 50;

/// The abort flag with a reason: whoever stops the run first says why.
#[derive(Debug, Clone)]
pub struct Stop {
    abort: AbortFlag,
    cause: Arc<Mutex<Option<RunError>>>,
}

impl Stop {
    /// Wraps the flag that signals raise.
    #[must_use]
    pub fn new(abort: AbortFlag) -> Self {
        Self {
            abort,
            cause: Arc::default(),
        }
    }

    /// The flag itself.
    #[must_use]
    pub fn flag(&self) -> &AbortFlag {
        &self.abort
    }

    /// `Err` once something asked to stop.
    pub fn check(&self) -> Result<(), Interrupted> {
        self.abort.check()
    }

    /// Stops the run because of `error`, unless it was stopped before.
    pub fn because(&self, error: RunError) {
        let mut cause = self.cause.lock().unwrap_or_else(PoisonError::into_inner);
        if !self.abort.is_raised() {
            *cause = Some(error);
            self.abort.raise();
        }
    }

    /// Why it was stopped, in words, if not by a signal: what a module says that only knows that it
    /// was to stop.
    #[must_use]
    pub fn words(&self) -> Option<String> {
        let cause = self.cause.lock().unwrap_or_else(PoisonError::into_inner);
        cause.as_ref().map(|cause| explain(cause).line())
    }

    /// Why it was stopped; [`RunError::Interrupted`] if by a signal, `None` if it was not.
    #[must_use]
    pub fn take(&self) -> Option<RunError> {
        let mut cause = self.cause.lock().unwrap_or_else(PoisonError::into_inner);
        self.abort
            .is_raised()
            .then(|| cause.take().unwrap_or(RunError::Interrupted(Interrupted)))
    }
}

/// What was logged so far.
#[derive(Debug, Clone, Default)]
pub struct Counts {
    /// Lines at ERROR or above.
    pub errors: u64,
    /// The same by who logged them.
    pub errors_of: BTreeMap<String, u64>,
    /// Lines at WARNING.
    pub warnings: u64,
    /// Lines at WARNING or above, each different one once.
    pub lines: Vec<LogEvent>,
    /// Lines that tell a decision.
    pub decisions: Vec<LogEvent>,
}

/// Counts what is logged, on a thread of its own, in bounded memory.
#[derive(Debug)]
pub struct Tally {
    ask: Sender<Sender<Counts>>,
    thread: Option<JoinHandle<()>>,
}

impl Tally {
    /// Listens to `events`; later clones of that sink are heard, earlier ones are not.
    ///
    /// # Panics
    /// If the machine cannot start one more thread: nothing else would work either.
    pub fn start(events: &mut EventSink) -> Self {
        let heard = events.subscribe();
        let (ask, asked) = unbounded::<Sender<Counts>>();
        let thread = std::thread::Builder::new()
            .name("tally".into())
            .spawn(move || count(&heard, &asked))
            .expect("a thread can be started: the process has only a handful");
        Self {
            ask,
            thread: Some(thread),
        }
    }

    /// What was logged before this call.
    #[must_use]
    pub fn counts(&self) -> Counts {
        let (tx, rx) = bounded(1);
        let _ = self.ask.send(tx);
        rx.recv().unwrap_or_default()
    }
}

impl Drop for Tally {
    fn drop(&mut self) {
        // The thread ends when it can no longer be asked.
        let (closed, _) = bounded(0);
        self.ask = closed;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn count(heard: &Receiver<Event>, asked: &Receiver<Sender<Counts>>) {
    let mut counts = Counts::default();
    let mut seen = HashSet::new();
    let mut open = true;
    loop {
        if open {
            crossbeam_channel::select! {
                recv(heard) -> event => match event {
                    Ok(event) => counts.take(event, &mut seen),
                    Err(_) => open = false,
                },
                recv(asked) -> question => match question {
                    Ok(answer) => {
                        // Whatever the asking thread logged before it asked is in the channel.
                        for event in heard.try_iter() {
                            counts.take(event, &mut seen);
                        }
                        let _ = answer.send(counts.clone());
                    }
                    Err(_) => return,
                },
            }
        } else {
            match asked.recv() {
                Ok(answer) => drop(answer.send(counts.clone())),
                Err(_) => return,
            }
        }
    }
}

impl Counts {
    fn take(&mut self, event: Event, seen: &mut HashSet<(LogLevel, String, String)>) {
        let Event::Log(line) = event else { return };
        if line.decision().is_some() && self.decisions.len() < MAX_DECISIONS {
            self.decisions.push(line.clone());
        }
        match line.level {
            LogLevel::Error | LogLevel::Critical => {
                self.errors += 1;
                // Modules are few; a name that an agent made up is none of them.
                if self.errors_of.len() < MAX_WARNINGS || self.errors_of.contains_key(&line.module)
                {
                    *self.errors_of.entry(line.module.clone()).or_default() += 1;
                }
            }
            LogLevel::Warning => self.warnings += 1,
            LogLevel::Debug | LogLevel::Full | LogLevel::Info => return,
        }
        if self.lines.len() < MAX_WARNINGS
            && seen.insert((line.level, line.module.clone(), line.message.clone()))
        {
            self.lines.push(line);
        }
    }
}

/// Tells the latency of the connection, and stops the run as soon as it is lost: a module may be
/// busy on the other machine and would notice late.
#[derive(Debug)]
pub struct ConnectionWatch {
    ended: AbortFlag,
    thread: Option<JoinHandle<()>>,
}

/// How often the connection is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(250);

impl ConnectionWatch {
    /// Watches `agents`; the first one's latency is told.
    ///
    /// # Panics
    /// If the machine cannot start one more thread: nothing else would work either.
    #[must_use]
    pub fn start(agents: Vec<AgentClient>, events: EventSink, stop: Stop) -> Self {
        let ended = AbortFlag::new();
        let end = ended.clone();
        let thread = std::thread::Builder::new()
            .name("connection".into())
            .spawn(move || watch(&agents, &events, &stop, &end))
            .expect("a thread can be started: the process has only a handful");
        Self {
            ended,
            thread: Some(thread),
        }
    }
}

impl Drop for ConnectionWatch {
    fn drop(&mut self) {
        self.ended.raise();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn watch(agents: &[AgentClient], events: &EventSink, stop: &Stop, end: &AbortFlag) {
    let mut told = None;
    while end.sleep(LOOK_EVERY).is_ok() {
        if let Some(lost) = agents.iter().find(|agent| agent.closed().is_some()) {
            events.emit(&Event::Connection(ConnectionEvent {
                status: ConnectionStatus::Disconnected,
                latency: None,
            }));
            stop.because(RunError::Lost(lost.lost()));
            return;
        }
        let latency = agents.first().and_then(AgentClient::latency);
        if latency.is_some() && latency != told {
            told = latency;
            events.emit(&Event::Connection(ConnectionEvent {
                status: ConnectionStatus::Connected,
                latency,
            }));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Map;

    fn log(events: &EventSink, level: LogLevel, message: &str) {
        events.log(level, "core", None, message, Map::new());
    }

    fn no_space() -> RunError {
        RunError::DiskSpace {
            errors: Vec::new(),
            relief: Vec::new(),
        }
    }

    #[test]
    fn errors_are_counted_and_each_warning_is_kept_once() {
        let mut events = EventSink::none();
        let tally = Tally::start(&mut events);
        for _ in 0..3 {
            log(&events, LogLevel::Warning, "low");
        }
        log(&events, LogLevel::Info, "fine");
        log(&events, LogLevel::Error, "bad");
        let counts = tally.counts();
        assert_eq!((counts.errors, counts.warnings), (1, 3));
        let lines: Vec<&str> = counts.lines.iter().map(|l| l.message.as_str()).collect();
        assert_eq!(lines, ["low", "bad"]);
    }

    #[test]
    fn the_tally_still_answers_when_nobody_can_log_any_more() {
        let mut events = EventSink::none();
        let tally = Tally::start(&mut events);
        log(&events, LogLevel::Error, "bad");
        drop(events);
        assert_eq!(tally.counts().errors, 1);
        assert_eq!(tally.counts().errors, 1);
    }

    #[test]
    fn the_first_reason_to_stop_is_the_one_that_counts() {
        let stop = Stop::new(AbortFlag::new());
        assert!(stop.take().is_none());
        stop.because(no_space());
        stop.because(RunError::Interrupted(Interrupted));
        assert_eq!(stop.words().as_deref(), Some("not enough disk space"));
        assert!(matches!(stop.take(), Some(RunError::DiskSpace { .. })));
    }

    #[test]
    fn a_signal_that_came_first_is_not_overruled() {
        let flag = AbortFlag::new();
        let stop = Stop::new(flag.clone());
        flag.raise();
        stop.because(no_space());
        assert!(matches!(stop.take(), Some(RunError::Interrupted(_))));
    }
}
