//! `packages`: the same software on both machines, each by its own package manager.
//!
//! Nothing of a manager's database is ever copied. Both machines say what they have, the plan is what
//! would make the target's software the source's, a person reviews it, and the target's own managers
//! carry it out. A manager that does not answer fails by itself, by name, and nothing is planned from it.

pub mod answer;
pub(crate) mod apt;
mod bytes;
pub(crate) mod effects;
mod files;
mod flatpak;
mod hand;
pub mod item;
pub mod manager;
pub mod marks;
mod patterns;
mod people;
mod plain;
mod planning;
mod release;
mod review;
mod rules;
pub mod service;
mod sharing;
pub(crate) mod snap;
#[cfg(test)]
pub(crate) mod testing;
pub mod tools;

use std::collections::{BTreeMap, BTreeSet};

use serde::de::DeserializeOwned;

use crate::agent::client::{AgentError, PendingCall};
use crate::agent::protocol::{Reply, Request};
use crate::config::Config;
use crate::escape::{escape_str, few as list};
use crate::event::{Host, LogLevel, ProgressUpdate};
use crate::module::{
    ConfigError, ListPlan, Machine, Module, ModuleContext, ModuleError, ModuleKind, Plan,
    ValidationError,
};
use answer::Answer;
use item::{Outcome, Settled, View};
use manager::Manager;
use marks::Marks;
use rules::Rules;
use service::{PackagesRequest, Reading, SERVICE};

/// The module's name, as in the configuration.
pub const NAME: &str = "packages";

/// Every manager there is, in the order they work: what the system's own manager brings may be
/// another manager.
#[must_use]
pub fn managers() -> &'static [&'static dyn Manager] {
    &[
        &apt::Apt,
        &plain::Plain(plain::Dnf),
        &plain::Plain(plain::Pacman),
        &plain::Plain(plain::Zypper),
        &snap::Snap,
        &flatpak::Flatpak,
        &hand::Hand,
    ]
}

/// The module, with what it found out.
#[derive(Default)]
pub struct Packages {
    readings: Option<(Reading, Reading)>,
    ready: Vec<Ready>,
    marks: Vec<(Host, Marks)>,
    unanswered: usize,
}

/// One manager's settled plan.
struct Ready {
    manager: &'static dyn Manager,
    settled: Settled,
}

fn begin(
    machine: &Machine,
    request: &PackagesRequest,
    changes: Option<String>,
) -> Result<PendingCall, AgentError> {
    let body = serde_json::to_value(request).expect("a request is plain data");
    machine.agent.begin(Request::Service {
        name: SERVICE.to_owned(),
        body,
        changes,
    })
}

fn finish<T: DeserializeOwned>(machine: &Machine, call: &PendingCall) -> Result<T, AgentError> {
    match call.wait(None)? {
        Reply::Service(value) => {
            serde_json::from_value(value).map_err(|e| machine.agent.nonsense(e.to_string()))
        }
        _ => Err(machine
            .agent
            .nonsense("another reply than that of the packages")),
    }
}

fn ask<T: DeserializeOwned>(
    machine: &Machine,
    request: &PackagesRequest,
    changes: Option<String>,
) -> Result<T, AgentError> {
    finish(machine, &begin(machine, request, changes)?)
}

impl Packages {
    /// Reads both machines at once; a second call has the same answer.
    fn readings(
        &mut self,
        context: &ModuleContext<'_>,
    ) -> Result<&(Reading, Reading), ModuleError> {
        if self.readings.is_none() {
            let source = begin(context.source, &PackagesRequest::Read, None)?;
            let target = begin(context.target, &PackagesRequest::Read, None)?;
            let both = (
                finish(context.source, &source)?,
                finish(context.target, &target)?,
            );
            self.readings = Some(both);
        }
        Ok(self.readings.as_ref().expect("just read"))
    }

    /// The work of one manager on the target.
    fn carry_out(
        context: &ModuleContext<'_>,
        ready: &Ready,
    ) -> Result<Answer<Vec<Outcome>>, ModuleError> {
        let name = ready.manager.name();
        let share = context.config.packages.share_cache;
        let supplied = share && sharing::share(context, ready.manager, &ready.settled.work)?;
        let request = PackagesRequest::Apply {
            manager: name.to_owned(),
            work: ready.settled.work.clone(),
            patience: context.config.packages.command_timeout,
            supplied,
        };
        let count = ready.settled.changes.len();
        let changes = format!("let {name} make {count} changes");
        Ok(ask(context.target, &request, Some(changes))?)
    }
}

impl Module for Packages {
    fn name(&self) -> &'static str {
        NAME
    }

    fn kind(&self) -> ModuleKind {
        ModuleKind::Sync
    }

    fn fails_whole(&self) -> bool {
        true
    }

    fn validate_config(&self, config: &Config) -> Vec<ConfigError> {
        let place = |name: &str| {
            (config.sync_modules.iter().filter(|(_, on)| *on)).position(|(n, _)| n == name)
        };
        match (place(NAME), place("user_data")) {
            (Some(packages), Some(user_data)) if packages > user_data => vec![ConfigError {
                module: Some(NAME.to_owned()),
                path: "sync_modules".to_owned(),
                message: "packages must come before user_data: a program's first start would \
                          write over the settings that user_data brings"
                    .to_owned(),
                hint: Some("put the line `packages` above the line `user_data`".to_owned()),
            }],
            _ => Vec::new(),
        }
    }

    fn validate(
        &mut self,
        context: &ModuleContext<'_>,
    ) -> Result<Vec<ValidationError>, ModuleError> {
        let rules = Rules::of(context.config);
        let (source, target) = self.readings(context)?;
        let error = |host: Host, message: String, hint: Option<String>| ValidationError {
            module: NAME.to_owned(),
            host,
            message,
            hint,
        };
        if !source.release.is_like(&target.release) {
            let describe = |reading: &Reading| {
                let release = &reading.release;
                let name = if release.name.is_empty() {
                    "an unknown system"
                } else {
                    &release.name
                };
                format!(
                    "{} ({})",
                    escape_str(name),
                    escape_str(&release.architecture)
                )
            };
            let message = format!(
                "{} runs {}, {} runs {}: software only converges between equal systems",
                context.source.hostname,
                describe(source),
                context.target.hostname,
                describe(target)
            );
            let hint = "upgrade the older one, or sync without it: --skip packages".to_owned();
            return Ok(vec![error(Host::Target, message, Some(hint))]);
        }
        let mut errors = Vec::new();
        for manager in managers() {
            let answers = (
                source.managers.get(manager.name()),
                target.managers.get(manager.name()),
            );
            let (Some(Answer::Is(ours)), Some(Answer::Is(theirs))) = answers else {
                continue;
            };
            let view = View {
                source: ours,
                target: theirs,
                names: (&context.source.hostname, &context.target.hostname),
                marked: &BTreeSet::new(),
                rules: &rules,
                source_all: &source.managers,
                target_all: &target.managers,
            };
            // Nonsense is said when it is planned with.
            for obstacle in manager.obstacles(&view).unwrap_or_default() {
                let message = format!("{}: {}", manager.name(), obstacle.message);
                errors.push(error(obstacle.host, message, obstacle.hint));
            }
        }
        Ok(errors)
    }

    fn plan(&mut self, context: &ModuleContext<'_>) -> Result<Box<dyn Plan>, ModuleError> {
        Ok(Box::new(ListPlan::new(self.make_plan(context)?)))
    }

    fn execute(&mut self, context: &ModuleContext<'_>) -> Result<String, ModuleError> {
        for (host, marks) in std::mem::take(&mut self.marks) {
            let machine = context.machine(host);
            let ids = marks.values().flat_map(BTreeMap::keys);
            let changes = format!("note that {} belongs to this machine", list(ids));
            let answer: Answer<()> = ask(machine, &PackagesRequest::Mark(marks), Some(changes))?;
            if let Answer::Silent(why) = answer {
                context.log(LogLevel::Error, host, why);
            }
        }
        let busy: Vec<&Ready> = self
            .ready
            .iter()
            .filter(|r| !r.settled.work.is_null())
            .collect();
        let total = busy.len() as u64;
        let (mut done, mut failed) = (0_usize, 0_usize);
        for (index, ready) in busy.into_iter().enumerate() {
            context.abort.check()?;
            let name = ready.manager.name();
            context.emit_progress(ProgressUpdate {
                current: Some(index as u64),
                total: Some(total),
                item: Some(name.to_owned()),
                ..ProgressUpdate::default()
            });
            let why = match Self::carry_out(context, ready)? {
                Answer::Is(outcomes) => {
                    for outcome in outcomes {
                        let id = escape_str(&outcome.id);
                        match outcome.error {
                            None => {
                                done += 1;
                                context.log(
                                    LogLevel::Full,
                                    Host::Target,
                                    format!("{name}: {id}: done"),
                                );
                            }
                            Some(why) => {
                                failed += 1;
                                let text = format!("{name}: {id}: {}", escape_str(&why));
                                context.log(LogLevel::Error, Host::Target, text);
                            }
                        }
                    }
                    continue;
                }
                Answer::Absent => "it is gone".to_owned(),
                Answer::Silent(why) => why,
            };
            failed += 1;
            context.log(
                LogLevel::Error,
                Host::Target,
                format!("{name} failed: {}", escape_str(&why)),
            );
        }
        context.emit_progress(ProgressUpdate {
            percent: Some(100),
            current: Some(total),
            total: Some(total),
            ..ProgressUpdate::default()
        });
        let mut parts = Vec::new();
        for (count, word) in [
            (done, "done"),
            (failed, "failed"),
            (self.unanswered, "not decided"),
        ] {
            if count > 0 {
                parts.push(format!("{count} {word}"));
            }
        }
        if parts.is_empty() {
            parts.push("nothing to change".to_owned());
        }
        Ok(parts.join(", "))
    }
}
