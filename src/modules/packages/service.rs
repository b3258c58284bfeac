//! The packages of a machine as a service of its agent.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::answer::{Answer, Silence};
use super::apt::cache;
use super::item::Outcome;
use super::manager::Manager;
use super::marks::{self, Marks};
use super::release::{Release, read_release};
use super::sharing::{Piece, Wanted};
use super::tools::Tools;
use super::{list, managers};
use crate::agent::fault::{Fault, FaultKind};
use crate::agent::service::{Service, ServiceContext};
use crate::escape::escape_str;
use crate::event::LogLevel;

/// Name of the service.
pub const SERVICE: &str = "packages";

/// What may be asked of it.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PackagesRequest {
    /// Everything that planning needs, of every manager at once. Answered by [`Reading`].
    Read,
    /// What would come of a proposal. Answered by an `Answer<Value>`.
    Weigh {
        /// Whose.
        manager: String,
        /// The manager's own question.
        question: Value,
    },
    /// Which package files the target would have to fetch. Answered by an `Answer<Vec<Wanted>>`.
    Lacks {
        /// Whose.
        manager: String,
        /// The manager's own work.
        work: Value,
    },
    /// Which of these package files are in the cache here. Answered by an `Answer<Vec<Wanted>>`.
    Has(Vec<Wanted>),
    /// A piece of one of them. Answered by an `Answer<Bytes>`.
    Give {
        /// Of which.
        file: Wanted,
        /// From where.
        offset: u64,
    },
    /// Takes a piece into the cache. Answered by an `Answer<()>`.
    Take(Piece),
    /// Does the work. Answered by an `Answer<Vec<Outcome>>`.
    Apply {
        /// Whose.
        manager: String,
        /// The manager's own work.
        work: Value,
        /// Seconds that one command may take.
        patience: u64,
        /// Whether everything it needs is there without a network.
        supplied: bool,
    },
    /// Adds marks. Answered by an `Answer<()>`.
    Mark(Marks),
}

/// What a machine's managers answered.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Reading {
    /// Which system it is.
    pub release: Release,
    /// By name of the manager.
    pub managers: BTreeMap<String, Answer<Value>>,
    /// What belongs to this machine only.
    pub marks: Answer<Marks>,
}

/// The service.
#[derive(Debug, Default)]
pub struct PackagesService;

impl Service for PackagesService {
    fn name(&self) -> &'static str {
        SERVICE
    }

    fn call(&self, context: &ServiceContext, body: Value) -> Result<Value, Fault> {
        let request: PackagesRequest = serde_json::from_value(body).map_err(|e| Fault {
            kind: FaultKind::Invalid,
            message: format!("unknown packages request: {e}"),
            hint: None,
        })?;
        let tools = Tools::of_machine(&context.abort, super::tools::ASK);
        let mut log = |text: String| {
            (context.events).log(LogLevel::Info, super::NAME, None, text, Map::new());
        };
        let reply = serve(&tools, request, &mut log);
        context.abort.check()?;
        Ok(reply)
    }
}

/// What a machine's managers answer; `log` is told what they are doing.
pub(crate) fn serve(
    tools: &Tools<'_>,
    request: PackagesRequest,
    log: &mut dyn FnMut(String),
) -> Value {
    match request {
        PackagesRequest::Read => to_value(&read(tools)),
        PackagesRequest::Weigh { manager, question } => {
            to_value(&answer(&manager, |m| m.weigh(tools, question)))
        }
        PackagesRequest::Apply {
            manager,
            work,
            patience,
            supplied,
        } => {
            let tools = tools.at_work(Duration::from_secs(patience), supplied);
            let mut say = |line: &str| log(format!("{manager}: {line}"));
            to_value(&answer(&manager, |m| -> Result<Vec<Outcome>, Silence> {
                m.apply(&tools, work, &mut say)
                    .map(|outcomes| at_once(outcomes, tools.hung()))
            }))
        }
        PackagesRequest::Lacks { manager, work } => {
            to_value(&answer(&manager, |m| m.lacks(tools, work)))
        }
        PackagesRequest::Has(files) => to_value(&Answer::Is(cache::has(tools, &files))),
        PackagesRequest::Give { file, offset } => {
            to_value(&Answer::from(cache::give(tools, &file, offset)))
        }
        PackagesRequest::Take(piece) => to_value(&Answer::from(cache::take(tools, &piece))),
        PackagesRequest::Mark(marks) => to_value(&Answer::from(marks::add(tools, &marks))),
    }
}

fn to_value(reply: &impl Serialize) -> Value {
    serde_json::to_value(reply).expect("a reply is plain data")
}

fn answer<T>(name: &str, ask: impl FnOnce(&dyn Manager) -> Result<T, Silence>) -> Answer<T> {
    match managers().iter().find(|manager| manager.name() == name) {
        Some(manager) => ask(*manager).into(),
        None => Answer::Silent(format!("there is no manager {}", escape_str(name))),
    }
}

/// What was given up because something hung fails once, with all that did not come for it.
fn at_once(outcomes: Vec<Outcome>, hung: Option<&Silence>) -> Vec<Outcome> {
    let Some(Silence(why)) = hung else {
        return outcomes;
    };
    let (given_up, mut ended): (Vec<Outcome>, Vec<Outcome>) =
        (outcomes.into_iter()).partition(|outcome| outcome.error.as_ref() == Some(why));
    if !given_up.is_empty() {
        let ids = list(given_up.iter().map(|outcome| &outcome.id));
        ended.push(Outcome::failed(ids, format!("given up: {why}")));
    }
    ended
}

/// Asks every manager, each on a thread of its own: they wait for different programs.
fn read(tools: &Tools<'_>) -> Reading {
    let managers = std::thread::scope(|scope| {
        let asked: Vec<_> = (managers().iter())
            .map(|manager| {
                (
                    manager.name(),
                    scope.spawn(|| {
                        // What hangs is one manager's: the others' commands are still run.
                        manager.read(&tools.with_abort(tools.abort))
                    }),
                )
            })
            .collect();
        (asked.into_iter())
            .map(|(name, thread)| {
                let answer = thread.join();
                let answer = answer.unwrap_or_else(|_| Answer::Silent(Silence::our_fault().0));
                (name.to_owned(), answer)
            })
            .collect()
    });
    Reading {
        release: read_release(tools),
        managers,
        marks: marks::read(tools).into(),
    }
}
