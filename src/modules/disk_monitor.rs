//! `disk_monitor`: looks at the free space of both machines all through a run.
//!
//! It runs on a thread of its own, and the orchestrator gives it a connection and an agent of its
//! own on the target: a saturated transfer must not delay it. It measures that it is on time:
//! every look logs how late it began and how long the answer took.

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use serde_json::{Map, Value, json};

use super::space;
use crate::agent::client::AgentError;
use crate::agent::fault::FaultKind;
use crate::agent::protocol::{DiskFacts, Request};
use crate::event::{Host, LogLevel};
use crate::figures::bytes;
use crate::module::{
    ListPlan, Module, ModuleContext, ModuleError, ModuleKind, Plan, ValidationError,
};

/// How soon a lost agent is noticed between two looks.
const NOTICE_WITHIN: Duration = Duration::from_millis(250);

/// Longest wait for one answer; a machine that takes longer is looked at again the next time.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);

/// The watching module; [`Module::execute`] ends when its context's abort flag is raised.
#[derive(Debug, Default)]
pub struct DiskMonitor {
    warned: BTreeSet<(bool, String)>,
    silent: BTreeSet<bool>,
    looks: u64,
    worst: Duration,
}

/// When a look was due and what it took.
#[derive(Debug, Clone, Copy)]
struct Timing {
    late: Duration,
    answer: Duration,
}

impl DiskMonitor {
    fn look(
        &mut self,
        context: &ModuleContext<'_>,
        due: Instant,
        limit: Duration,
    ) -> Result<(), ModuleError> {
        let begun = Instant::now();
        let late = begun.saturating_duration_since(due);
        let paths = |host| match host {
            Host::Source => space::touched_paths(&context.session.source_subvolumes),
            Host::Target => space::touched_paths(&context.session.target_subvolumes),
        };
        // Both are asked before either is waited for: a slow machine does not delay the other.
        let calls = [Host::Source, Host::Target].map(|host| {
            let paths = paths(host);
            (
                host,
                context.machine(host).agent.begin(Request::Disk { paths }),
            )
        });
        for (host, call) in calls {
            let agent = &context.machine(host).agent;
            let answer = call
                .and_then(|call| call.wait(Some(limit)))
                .and_then(|reply| space::disk_reply(agent, reply));
            match answer {
                Ok(facts) => {
                    let timing = Timing {
                        late,
                        answer: begun.elapsed(),
                    };
                    self.judge(context, host, facts, timing)?;
                }
                Err(AgentError::Fault { fault, .. }) => {
                    let late = fault.kind == FaultKind::Timeout;
                    self.cannot_tell(context, host, &fault.message, late);
                }
                Err(error) => return Err(error.into()),
            }
        }
        self.looks += 1;
        Ok(())
    }

    fn cannot_tell(&mut self, context: &ModuleContext<'_>, host: Host, why: &str, late: bool) {
        if self.silent.insert(host == Host::Target) {
            let message = if late {
                "no answer in time about disk space".to_owned()
            } else {
                format!("no answer about disk space: {why}")
            };
            context.log(LogLevel::Warning, host, message);
        }
    }

    fn judge(
        &mut self,
        context: &ModuleContext<'_>,
        host: Host,
        facts: Vec<DiskFacts>,
        timing: Timing,
    ) -> Result<(), ModuleError> {
        let machine = context.machine(host);
        let disk = &context.config.disk;
        self.silent.remove(&(host == Host::Target));
        self.worst = self.worst.max(timing.late + timing.answer);
        for fact in space::distinct(facts) {
            context.log_with(
                LogLevel::Full,
                host,
                format!(
                    "{} of {} free on {}",
                    bytes(fact.free_bytes),
                    bytes(fact.total_bytes),
                    fact.mount_point
                ),
                detail(&fact, timing),
            );
            if let Some(critical) =
                space::below(machine, &fact, fact.free_bytes, &disk.runtime_minimum)
            {
                return Err(critical.into());
            }
            let warning = space::below(machine, &fact, fact.free_bytes, &disk.warning_threshold);
            if let Some(low) = warning
                && self
                    .warned
                    .insert((host == Host::Target, fact.filesystem.clone()))
            {
                // What was low at the beginning, the preflight has said.
                let level = match self.looks {
                    0 => LogLevel::Full,
                    _ => LogLevel::Warning,
                };
                context.log(level, host, space::low_words(&low));
            }
        }
        Ok(())
    }
}

fn detail(fact: &DiskFacts, timing: Timing) -> Map<String, Value> {
    let millis = |time: Duration| json!(u64::try_from(time.as_millis()).unwrap_or(u64::MAX));
    Map::from_iter([
        ("mount_point".to_owned(), json!(fact.mount_point)),
        ("free_bytes".to_owned(), json!(fact.free_bytes)),
        ("total_bytes".to_owned(), json!(fact.total_bytes)),
        ("late_millis".to_owned(), millis(timing.late)),
        ("answer_millis".to_owned(), millis(timing.answer)),
    ])
}

impl Module for DiskMonitor {
    fn name(&self) -> &'static str {
        "disk_monitor"
    }

    fn kind(&self) -> ModuleKind {
        ModuleKind::Background
    }

    fn validate(&mut self, _: &ModuleContext<'_>) -> Result<Vec<ValidationError>, ModuleError> {
        Ok(Vec::new())
    }

    fn plan(&mut self, _: &ModuleContext<'_>) -> Result<Box<dyn Plan>, ModuleError> {
        Ok(Box::new(ListPlan::default()))
    }

    fn execute(&mut self, context: &ModuleContext<'_>) -> Result<String, ModuleError> {
        let interval = Duration::from_secs(context.config.disk.check_interval.max(1));
        let limit = interval.min(ANSWER_LIMIT);
        let mut due = Instant::now();
        loop {
            let begun = Instant::now();
            match self.look(context, due, limit) {
                Ok(()) => {}
                Err(
                    ModuleError::Interrupted(_) | ModuleError::Agent(AgentError::Interrupted(_)),
                ) => break,
                Err(error) => return Err(error),
            }
            due = begun + interval;
            if rest_until(context, due)?.is_break() {
                break;
            }
        }
        Ok(summary(self.looks, self.worst))
    }
}

/// Waits for the next look; an agent that is lost meanwhile is noticed within a moment. `Break` if it
/// was told to end.
fn rest_until(context: &ModuleContext<'_>, due: Instant) -> Result<ControlFlow<()>, ModuleError> {
    loop {
        let left = due.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(ControlFlow::Continue(()));
        }
        if context.abort.sleep(left.min(NOTICE_WITHIN)).is_err() {
            return Ok(ControlFlow::Break(()));
        }
        for machine in [context.source, context.target] {
            if machine.agent.closed().is_some() {
                return Err(machine.agent.lost().into());
            }
        }
    }
}

fn summary(looks: u64, worst: Duration) -> String {
    let worst = worst.as_millis();
    match looks {
        0 => "the run was shorter than one look".to_owned(),
        1 => format!("looked once, answered after {worst} ms"),
        _ => format!("looked {looks} times, the slowest answer after {worst} ms"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_summary_counts_as_a_person_would() {
        let worst = Duration::from_millis(12);
        let texts = [0, 1, 2].map(|looks| summary(looks, worst));
        assert_eq!(
            texts,
            [
                "the run was shorter than one look",
                "looked once, answered after 12 ms",
                "looked 2 times, the slowest answer after 12 ms"
            ]
        );
    }
}
