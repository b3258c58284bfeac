//! Phase 2: what the histories of both machines say against this sync, and who may overrule it.
//!
//! A gate is opened by a person or by its own flag, never by `--yes`. A dry run warns and goes on.

use super::error::RunError;
use super::{Pair, Run, Shared, CORE};
use crate::agent::client::PendingCall;
use crate::agent::protocol::{Reply, Request};
use crate::escape::escape_str;
use crate::event::{Host, LogLevel, SessionState};
use crate::prompt::{Choice, PromptError, Question};
use crate::record::{HistoryEntry, Incomplete, MachineName, MachineState};

/// A question that stops a sync until it is answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Gate {
    /// What is the case, in one line.
    pub(super) finding: String,
    /// What a person should know before answering.
    pub(super) detail: Vec<String>,
    /// What going on means.
    pub(super) effect: String,
    /// The flag that opens it.
    pub(super) flag: &'static str,
    /// Whether that flag was given.
    pub(super) opened: bool,
}

pub(super) fn run(run: &mut Run, pair: &Pair) -> Result<(), RunError> {
    let mut calls = Vec::with_capacity(2);
    for peer in pair.both() {
        let call = peer.machine.agent.begin(Request::ReadState);
        calls.push((peer, call.map_err(RunError::agent("reading the history"))?));
    }
    let mut states = Vec::with_capacity(2);
    for (peer, call) in &calls {
        states.push(read(&peer.machine.agent, call)?);
    }
    let (target, source) = (states.pop(), states.pop());
    let (Some(source), Some(target)) = (source, target) else {
        unreachable!("two machines were asked");
    };
    let names = (pair.source.name(), pair.target.name());
    for finding in findings(&source, &target, &names.0, &names.1) {
        let gate = in_words(&finding, &run.shared, &names.0, &names.1);
        open(&run.shared, &gate)?;
    }
    Ok(())
}

fn read(
    agent: &crate::agent::client::AgentClient,
    call: &PendingCall,
) -> Result<MachineState, RunError> {
    let doing = || RunError::agent("reading the history");
    match call.wait(None).map_err(doing())? {
        Reply::State(state) => Ok(*state),
        _ => Err(doing()(agent.nonsense("no history"))),
    }
}

/// What the histories say against a sync.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Finding {
    /// The target was never synced.
    FirstSync,
    /// The target last synced with another machine.
    OtherPeer { hostname: String, when: String },
    /// This machine was the source of the target's last sync; what was done there since has not
    /// come back.
    PushedTwice { when: String },
    /// A run died on one of the machines.
    Incomplete { on: Host, marker: Incomplete },
}

fn findings(
    source: &MachineState,
    target: &MachineState,
    source_name: &MachineName,
    target_name: &MachineName,
) -> Vec<Finding> {
    let mut found = Vec::new();
    let died = died(source, target, target_name);
    // Whoever goes on with this machine's own dead run has answered the order questions for it.
    let resumes = matches!(
        &target.incomplete,
        Some(marker) if marker.role == Host::Target && marker.source == source_name.hostname
    );
    if !resumes && let Some(finding) = order(target, source_name) {
        found.push(finding);
    }
    found.extend(died);
    found
}

fn died(
    source: &MachineState,
    target: &MachineState,
    target_name: &MachineName,
) -> Option<Finding> {
    let finding = |on, marker: &Incomplete| Finding::Incomplete {
        on,
        marker: marker.clone(),
    };
    if let Some(marker) = &target.incomplete {
        return Some(finding(Host::Target, marker));
    }
    let marker = source.incomplete.as_ref()?;
    // A push from here to a third machine that died has left this machine itself whole.
    let concerns = marker.role == Host::Target || marker.target == target_name.hostname;
    concerns.then(|| finding(Host::Source, marker))
}

/// Runs that died are no order: their marker speaks for them.
fn order(target: &MachineState, source: &MachineName) -> Option<Finding> {
    let ended = |entry: &&HistoryEntry| entry.state == SessionState::Completed;
    let Some(last) = target.history.iter().rev().find(ended) else {
        return Some(Finding::FirstSync);
    };
    let peer = match last.role {
        Host::Source => &last.target,
        Host::Target => &last.source,
    };
    let when = last.ended_at.strftime("%Y-%m-%d %H:%M UTC").to_string();
    if peer.machine_id != source.machine_id {
        return Some(Finding::OtherPeer {
            hostname: peer.hostname.clone(),
            when,
        });
    }
    (last.role == Host::Target).then_some(Finding::PushedTwice { when })
}

fn in_words(
    finding: &Finding,
    shared: &Shared,
    source: &MachineName,
    target: &MachineName,
) -> Gate {
    let options = &shared.options;
    let (source, target) = (&source.hostname, &target.hostname);
    match finding {
        Finding::FirstSync => Gate {
            finding: format!("{target} was never synced"),
            detail: first_sync_scope(shared, source, target),
            effect: format!("make {target} like {source}"),
            flag: "--allow-first-sync",
            opened: options.allow_first_sync,
        },
        Finding::OtherPeer { hostname, when } => {
            let hostname = escape_str(hostname);
            Gate {
                finding: format!("{target} last synced with {hostname}, not with {source}"),
                detail: vec![
                    format!("that was on {when}"),
                    format!("what came to {target} from there and is not here will be overwritten"),
                ],
                effect: format!("make {target} like {source} all the same"),
                flag: "--allow-out-of-order",
                opened: options.allow_out_of_order,
            }
        }
        Finding::PushedTwice { when } => Gate {
            finding: format!("{source} was synced to {target} before, and not back since"),
            detail: vec![
                format!("that was on {when}"),
                format!("what was done on {target} since then will be overwritten"),
            ],
            effect: format!("make {target} like {source} again"),
            flag: "--allow-out-of-order",
            opened: options.allow_out_of_order,
        },
        Finding::Incomplete { on, marker } => {
            let on = match on {
                Host::Source => source,
                Host::Target => target,
            };
            incomplete_gate(on, marker, options.allow_incomplete)
        }
    }
}

fn incomplete_gate(on: &str, marker: &Incomplete, opened: bool) -> Gate {
    let place = match &marker.module {
        Some(module) => format!("in {}", escape_str(module)),
        None => format!("in phase {}, {}", marker.phase.number(), marker.phase.title()),
    };
    let mut detail = vec![format!(
        "session {} from {} to {}, begun {}, ended {place}",
        escape_str(&marker.session),
        escape_str(&marker.source),
        escape_str(&marker.target),
        marker.started_at.strftime("%Y-%m-%d %H:%M UTC"),
    )];
    if !marker.presync.is_empty() {
        let names: Vec<String> = marker.presync.iter().map(|n| escape_str(n)).collect();
        detail.push(format!(
            "{on} as it was before that run is in the snapshots {}",
            names.join(", ")
        ));
    }
    Gate {
        finding: format!("the last sync did not end on {on}"),
        detail,
        effect: "go on from here; this run does all of the work that one left".to_owned(),
        flag: "--allow-incomplete",
        opened,
    }
}

/// What a first sync replaces, named before it happens.
fn first_sync_scope(shared: &Shared, source: &str, target: &str) -> Vec<String> {
    let mut lines = Vec::new();
    let on = |name: &str| shared.config.sync_modules.iter().any(|(n, on)| n == name && *on);
    if on("user_data") {
        let folders: Vec<String> = shared
            .config
            .user_data
            .folders
            .iter()
            .map(|folder| escape_str(&folder.path))
            .collect();
        lines.push(format!(
            "everything below {} on {target} that the filters do not protect will be replaced by \
             what {source} has, and what {source} does not have will be deleted",
            folders.join(", ")
        ));
    }
    let others: Vec<&str> = (shared.config.sync_modules.iter())
        .filter(|(name, on)| *on && name != "user_data")
        .map(|(name, _)| name.as_str())
        .collect();
    if !others.is_empty() {
        lines.push(format!("{target} will also be changed by: {}", others.join(", ")));
    }
    lines.push(format!("a snapshot of {target} is taken before"));
    lines
}

/// Stops at a gate until it is answered.
pub(super) fn open(shared: &Shared, gate: &Gate) -> Result<(), RunError> {
    let log = |level, message: String| {
        shared
            .events
            .log(level, CORE, Some(Host::Target), message, serde_json::Map::new());
    };
    if gate.opened {
        log(
            LogLevel::Info,
            format!("{}; going on because of {}", gate.finding, gate.flag),
        );
        return Ok(());
    }
    if shared.options.dry_run {
        log(
            LogLevel::Warning,
            format!("{}; the real run needs {}", gate.finding, gate.flag),
        );
        for line in &gate.detail {
            log(LogLevel::Info, line.clone());
        }
        return Ok(());
    }
    let refused = || RunError::Refused {
        message: gate.finding.clone(),
        flag: Some(gate.flag.to_owned()),
    };
    if shared.options.batch || !shared.prompter.can_ask() {
        return Err(refused());
    }
    let question = Question {
        detail: std::iter::once(gate.finding.clone())
            .chain(gate.detail.iter().cloned())
            .collect(),
        text: "Continue anyway?".to_owned(),
        choices: vec![
            Choice {
                key: 'c',
                label: "continue".to_owned(),
                effect: gate.effect.clone(),
            },
            Choice {
                key: 'a',
                label: "abort".to_owned(),
                effect: "stop here; nothing was changed".to_owned(),
            },
        ],
        default: 1,
        flag: Some(gate.flag.to_owned()),
    };
    match shared.prompter.choose(&question) {
        Ok(0) => {
            log(
                LogLevel::Info,
                format!("{}; going on because a person said so", gate.finding),
            );
            Ok(())
        }
        Ok(_) | Err(PromptError::CannotAsk) => Err(refused()),
        Err(PromptError::Interrupted(interrupted)) => Err(RunError::Interrupted(interrupted)),
    }
}
