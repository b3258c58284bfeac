//! Phase 2: what the histories of both machines, and who works on the target, say against this sync,
//! and who may overrule it.
//!
//! A gate is opened by a person or by its own flag, never by `--yes`. A dry run warns and goes on.

use super::error::RunError;
use super::{CORE, Pair, Run, Shared, logins};
use crate::agent::client::{AgentClient, PendingCall};
use crate::agent::protocol::{Reply, Request};
use crate::escape::escape_str;
use crate::event::{Host, LogLevel};
use crate::module::EqualAt;
use crate::modules::user_data;
use crate::prompt::{Choice, PromptError, Question};
use crate::record::MachineState;
use crate::record::history::{GateFinding, Memories};

/// The flag for the gate of a run that died.
const ALLOW_INCOMPLETE: &str = "--allow-incomplete";

/// A question that stops a sync until it is answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Gate {
    /// What is the case, in one line.
    pub(super) finding: String,
    /// What is asked, naming both machines or the one that is changed.
    pub(super) question: String,
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
    for gate in look(run, pair)? {
        open(&run.shared, &gate)?;
    }
    Ok(())
}

/// Every gate on the way of this sync, opened by its flag or not.
pub(super) fn look(run: &mut Run, pair: &Pair) -> Result<Vec<Gate>, RunError> {
    let health = logins::begin(&pair.target)?;
    let mut calls = Vec::with_capacity(2);
    for peer in pair.both() {
        let call = peer.machine.agent.begin(Request::ReadState);
        calls.push((peer, call.map_err(RunError::agent("reading the history"))?));
    }
    for (peer, call) in &calls {
        let state = read(&peer.machine.agent, call)?;
        run.remembered.insert(peer.machine.host, state);
    }
    let (source, target) = (pair.source.name(), pair.target.name());
    let memories = Memories {
        source: &source,
        target: &target,
        source_state: &run.remembered[&Host::Source],
        target_state: &run.remembered[&Host::Target],
    };
    let equal_at = equal_at(&memories, pair);
    let anchor = memories.anchor(user_data::NAME);
    let mut gates: Vec<Gate> = (concerning(&memories).iter())
        .map(|finding| in_words(finding, &run.shared))
        .collect();
    gates.extend(logins::gate(&run.shared, pair, &health)?);
    let facts = std::sync::Arc::make_mut(&mut run.facts);
    facts.equal_at = equal_at;
    facts.anchor = anchor;
    Ok(gates)
}

/// When both machines were last equal, by the source's clock and by the target's.
///
/// The side that was read then has been equal since that sync began, the other since the mirror
/// had ended there; both moments are stored by the clock of the machine that was the source.
fn equal_at(memories: &Memories<'_>, pair: &Pair) -> Option<EqualAt> {
    let (last, same_direction) = memories.last_with_module(user_data::NAME)?;
    if memories.rolled_back_since(&last.session).is_some() {
        // What came back has the change times of then.
        return None;
    }
    let mut results = last.modules.iter();
    let mirrored = results.find(|r| r.module == user_data::NAME)?;
    let (started, ended) = (last.started_at, mirrored.ended_at);
    let ahead = pair.target.clock_ahead;
    let (source, target) = if same_direction {
        (started, ended.checked_add(ahead).ok()?)
    } else {
        (ended.checked_sub(ahead).ok()?, started)
    };
    Some(EqualAt {
        source,
        target,
        filters: last.folders.clone(),
    })
}

fn read(agent: &AgentClient, call: &PendingCall) -> Result<MachineState, RunError> {
    let doing = || RunError::agent("reading the history");
    match call.wait(None).map_err(doing())? {
        Reply::State(state) => Ok(*state),
        _ => Err(doing()(agent.nonsense("no history"))),
    }
}

/// The findings that concern this run. Two are left out:
///
/// - Whoever goes on with this machine's own dead push to this target has already answered the
///   questions of order for it, and is asked only about its death.
/// - A push from here to a third machine that died has left this machine itself whole.
fn concerning(memories: &Memories<'_>) -> Vec<GateFinding> {
    let (source, target) = (memories.source, memories.target);
    let resumes = memories
        .target_state
        .incomplete
        .as_ref()
        .is_some_and(|marker| {
            marker.role == Host::Target && marker.source.eq_ignore_ascii_case(&source.hostname)
        });
    let mut findings = memories.findings();
    findings.retain(|finding| match finding {
        GateFinding::FirstSync { .. } | GateFinding::PushedTwice { .. } => !resumes,
        GateFinding::SyncedElsewhere { .. } | GateFinding::RolledBack { .. } => true,
        GateFinding::Incomplete { on, incomplete } => {
            let only_here = on.iter().all(|(host, _)| *host == Host::Source);
            !(only_here
                && incomplete.role == Host::Source
                && !incomplete.target.eq_ignore_ascii_case(&target.hostname))
        }
    });
    findings
}

fn in_words(finding: &GateFinding, shared: &Shared) -> Gate {
    let options = &shared.options;
    let effect = |source: &str, target: &str| format!("make {target} like {source}");
    let explained = escape_str(&finding.explain());
    match finding {
        GateFinding::FirstSync { source, target, .. } => Gate {
            finding: explained,
            question: format!(
                "Make {} like {} for the first time?",
                target.hostname, source.hostname
            ),
            detail: first_sync_scope(shared, &source.hostname, &target.hostname),
            effect: effect(&source.hostname, &target.hostname),
            flag: "--allow-first-sync",
            opened: options.allow_first_sync,
        },
        GateFinding::SyncedElsewhere { source, target, .. }
        | GateFinding::PushedTwice { source, target, .. }
        | GateFinding::RolledBack { source, target, .. } => Gate {
            finding: explained,
            question: format!(
                "Make {} like {} all the same?",
                target.hostname, source.hostname
            ),
            detail: Vec::new(),
            effect: effect(&source.hostname, &target.hostname),
            flag: "--allow-out-of-order",
            opened: options.allow_out_of_order,
        },
        GateFinding::Incomplete { incomplete, .. } => {
            let names: Vec<String> = incomplete.presync.iter().map(|n| escape_str(n)).collect();
            let mut detail = Vec::new();
            if !names.is_empty() {
                let names = names.join(", ");
                detail.push(format!(
                    "what was there before it is in the snapshots {names}"
                ));
            }
            let target = escape_str(&incomplete.target);
            let way_out = match &incomplete.rollback_of {
                None => format!("`pc-switcher rollback` makes {target} what it was before"),
                Some(_) => format!("`pc-switcher rollback --host {target}` finishes it"),
            };
            Gate {
                finding: format!("{explained}; {way_out}"),
                question: format!(
                    "Sync to {} and finish what that run left?",
                    shared.options.host
                ),
                detail,
                effect: "go on from here; this run does all the work that one left".to_owned(),
                flag: ALLOW_INCOMPLETE,
                opened: options.allow_incomplete,
            }
        }
    }
}

/// What a first sync replaces, named before it happens.
fn first_sync_scope(shared: &Shared, source: &str, target: &str) -> Vec<String> {
    let mut lines = Vec::new();
    if shared.config.is_on(user_data::NAME) {
        let folders: Vec<String> = shared
            .config
            .user_data
            .folders
            .iter()
            .map(|folder| escape_str(&folder.path))
            .collect();
        lines.push(format!(
            "below {} on {target}, what {source} does not have is deleted, but for what the filters \
             protect",
            folders.join(", ")
        ));
    }
    let others: Vec<&str> = (shared.config.sync_modules.iter())
        .filter(|(name, on)| *on && name != "user_data")
        .map(|(name, _)| name.as_str())
        .collect();
    if !others.is_empty() {
        lines.push(format!(
            "{target} is also changed by: {}",
            others.join(", ")
        ));
    }
    lines.push(format!("a snapshot of {target} is taken before"));
    lines
}

/// Stops at a gate until it is answered.
pub(super) fn open(shared: &Shared, gate: &Gate) -> Result<(), RunError> {
    let log = |level, message: String| {
        shared
            .events
            .log(level, CORE, None, message, serde_json::Map::new());
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
        text: gate.question.clone(),
        choices: vec![
            Choice {
                key: 'c',
                label: "continue".to_owned(),
                effect: gate.effect.clone(),
            },
            Choice {
                key: 'a',
                label: "abort".to_owned(),
                effect: "stop here; neither machine is changed".to_owned(),
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
