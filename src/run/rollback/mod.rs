//! A machine put back to its state before a session.
//!
//! What a rollback needs are the presync snapshots of that session on the machine it changed; whether
//! the session ended well, failed, or died with its machine makes no difference to them. A rollback is
//! a session of its own: it takes snapshots before and after, leaves its marker while it is at work,
//! and is written into the histories, so that it can be rolled back, is finished when it died, and the
//! next sync knows of it.

pub mod choose;
mod tree;

use jiff::Timestamp;
use serde_json::Map;

use super::PlanOutput;
use super::error::RunError;
use super::met::{Meets, Met};
use crate::agent::client::AgentError;
use crate::agent::protocol::Request;
use crate::config::Config;
use crate::escape::escape_str;
use crate::event::{
    Event, EventSink, Host, LogLevel, ModuleResult, ModuleStatus, Phase, SessionState,
};
use crate::figures;
use crate::interrupt::AbortFlag;
use crate::mirror::local::client;
use crate::prompt::{Choice as Answer, PromptError, Prompter, Question};
use crate::record::sessions::undone;
use crate::record::state::STATE_DIR;
use crate::record::{Changed, HistoryEntry, Incomplete, MachineState};
use crate::snapshot::name::{SnapshotKind, SnapshotName};
use crate::snapshot::{NewSnapshot, SnapshotFacts, Subvolume};

use choose::{Target, choose};
pub use tree::Tree;

/// The name it goes by among modules.
pub const NAME: &str = "rollback";

/// What a machine remembers: a root that was exchanged must know it too.
const STATE_FILES: [&str; 3] = ["history.json", "incomplete.json", "package-marks.json"];

/// How long the last words with an agent may take after trouble.
const LAST_CALL_LIMIT: std::time::Duration = std::time::Duration::from_secs(5);

/// The options of `rollback`.
#[derive(Debug, Clone, Default)]
pub struct RollbackOptions {
    /// The session to go back before; `None`: the last one.
    pub session: Option<String>,
    /// The machine, if not the one that the session changed as remembered here.
    pub host: Option<String>,
    /// This machine, whatever its role was.
    pub local: bool,
    /// Only these subvolumes, if any are named.
    pub subvolumes: Vec<String>,
    /// The root too is put back file by file while it runs.
    pub in_place: bool,
    /// Change nothing, list everything.
    pub dry_run: bool,
    /// Do not ask.
    pub yes: bool,
    /// Never ask.
    pub batch: bool,
}

/// Everything a rollback is given.
pub struct Work<'a> {
    /// The checked configuration.
    pub config: &'a Config,
    /// The command line.
    pub options: &'a RollbackOptions,
    /// The rollback's own session.
    pub id: &'a str,
    /// The session to go back before, once it is known.
    pub of: String,
    /// Paths on this machine that stay as they are: the log of this very run.
    pub protected: Vec<String>,
    /// Where events go.
    pub events: &'a EventSink,
    /// Asks a person.
    pub prompter: &'a dyn Prompter,
    /// Raised by signals.
    pub abort: &'a AbortFlag,
}

/// What a rollback came to.
#[derive(Debug)]
pub struct Report {
    /// The machine.
    pub machine: String,
    /// The session it went back before.
    pub of: String,
    /// The subvolumes.
    pub trees: Vec<Tree>,
    /// Whether anything was to be done.
    pub is_needed: bool,
}

impl Report {
    /// What could not be put back.
    #[must_use]
    pub fn errors(&self) -> u64 {
        self.trees.iter().map(|tree| tree.errors).sum()
    }
}

/// The machines of a rollback: the one that is changed, and this one if that is another.
struct Machines {
    changed: Met,
    here: Option<Met>,
    /// What the changed one remembers.
    state: MachineState,
}

/// Rolls back.
pub fn rollback(
    meets: &mut dyn Meets,
    mut work: Work<'_>,
    output: &mut dyn PlanOutput,
) -> Result<Report, RunError> {
    let machines = reach(meets, &mut work)?;
    let mut trees = find_trees(&work, &machines.changed)?;
    work.events.emit(&Event::ModuleStarted {
        module: NAME.to_owned(),
        background: false,
    });
    let own = if work.options.dry_run {
        Vec::new()
    } else {
        take_snapshots(&work, &machines.changed, &trees, SnapshotKind::Presync)?
    };
    let decided = decide(&work, &machines, &mut trees, &own, output);
    let report = |trees, is_needed| Report {
        machine: machines.changed.name(),
        of: work.of.clone(),
        trees,
        is_needed,
    };
    match decided {
        Ok(true) if !work.options.dry_run => {}
        decided => {
            // Nothing was changed, and nothing is left behind.
            if trees.iter().any(|tree| tree.is_exchanged) && !own.is_empty() {
                let _ = client::drop_copy(&machines.changed.cleaning_up().agent);
            }
            take_back(&work, &machines.changed, &own);
            return decided.map(|is_needed| report(trees, is_needed));
        }
    }
    carry_out(&work, &machines, &mut trees, own)?;
    Ok(report(trees, true))
}

/// Deletes the snapshots of a rollback that changed nothing.
fn take_back(work: &Work<'_>, met: &Met, own: &[SnapshotFacts]) {
    if own.is_empty() || met.agent.closed().is_some() {
        return;
    }
    let dir = &work.config.btrfs_snapshots.snapshot_dir;
    if let Err(error) = met.cleaning_up().delete_snapshots(dir, own) {
        let names: Vec<&str> = own.iter().map(|s| s.name.as_str()).collect();
        let names = names.join(", ");
        work.log(
            LogLevel::Warning,
            format!("{names} is left behind: {error}"),
        );
    }
}

/// Finds the session and the machine, and takes the locks.
fn reach(meets: &mut dyn Meets, work: &mut Work<'_>) -> Result<Machines, RunError> {
    let options = work.options;
    let wanted = options.session.as_deref();
    let here = meets.local()?;
    here.lock(Host::Source)?;
    let (changed, here) = if let Some(host) = options.host.as_deref().filter(|_| !options.local) {
        let changed = meets.remote(host)?;
        work.of = choose(&changed.state()?, wanted, true)?.session;
        (changed, Some(here))
    } else {
        let choice = choose(&here.state()?, wanted, options.local)?;
        work.of = choice.session;
        match choice.target {
            Target::Here => (here, None),
            Target::There {
                address,
                machine_id,
            } => {
                let changed = meets.remote(&address)?;
                let is_other = machine_id.is_some_and(|id| id != changed.facts.machine_id);
                if is_other {
                    return Err(RunError::Usage {
                        message: format!(
                            "{} is not the machine that session {} changed",
                            escape_str(&address),
                            work.of
                        ),
                        hint: "name that machine with --host".to_owned(),
                    });
                }
                (changed, Some(here))
            }
        }
    };
    if let Some(here) = &here {
        if here.facts.machine_id == changed.facts.machine_id && !here.facts.machine_id.is_empty() {
            return Err(RunError::SameMachine {
                typed: options.host.clone().unwrap_or_default(),
                hostname: changed.name(),
            });
        }
        changed.lock(Host::Target)?;
        // The log of this run is not on the machine that is changed.
        work.protected.clear();
    }
    let state = changed.state()?;
    Ok(Machines {
        changed,
        here,
        state,
    })
}

/// The subvolumes of which the session has left a presync snapshot, with where they are mounted.
fn find_trees(work: &Work<'_>, met: &Met) -> Result<Vec<Tree>, RunError> {
    let dir = &work.config.btrfs_snapshots.snapshot_dir;
    let is_wanted = |name: &str| {
        let only = &work.options.subvolumes;
        only.is_empty() || only.iter().any(|wanted| wanted == name)
    };
    let mut snapshots = Vec::new();
    for snapshot in met.snapshots(dir, false)? {
        let Some(name) = SnapshotName::parse(&snapshot.name) else {
            continue;
        };
        let is_way_back = name.kind == SnapshotKind::Presync && name.session == work.of;
        if is_way_back && is_wanted(&name.subvolume) {
            if !snapshot.is_untouched() {
                return Err(RunError::Usage {
                    message: format!(
                        "the snapshot {} on {} was changed since it was taken",
                        escape_str(&snapshot.name),
                        met.name()
                    ),
                    hint: "leave its subvolume out with --subvolume, or name another session"
                        .to_owned(),
                });
            }
            snapshots.push((name.subvolume, snapshot));
        }
    }
    if snapshots.is_empty() {
        return Err(RunError::Usage {
            message: format!(
                "{} has no snapshots from before session {}",
                met.name(),
                work.of
            ),
            hint: "`pc-switcher snapshots list` shows what there is to go back to".to_owned(),
        });
    }
    let names: Vec<String> = snapshots.iter().map(|(name, _)| name.clone()).collect();
    let mut mounted = met.subvolumes(names, dir)?.found;
    let mut trees = Vec::new();
    for (name, snapshot) in snapshots {
        let Some(at) = mounted.iter().position(|subvolume| subvolume.name == name) else {
            return Err(RunError::Usage {
                message: format!("{} is not mounted on {}", escape_str(&name), met.name()),
                hint: "mount it, or leave it out with --subvolume".to_owned(),
            });
        };
        let subvolume = mounted.swap_remove(at);
        let mut tree = Tree::new(subvolume, snapshot);
        tree.is_exchanged = tree.place() == "/" && !work.options.in_place;
        if tree.is_exchanged {
            can_be_exchanged(&tree, met, dir)?;
        }
        trees.push(tree);
    }
    if let Some(root) = trees.iter().find(|tree| tree.place() == "/") {
        keeps_its_kernel(work, root, &trees, met)?;
    }
    Ok(trees)
}

/// Whether the kernels that stay as they are, because they are no part of the root, would find their modules in
/// a root that goes back.
fn keeps_its_kernel(
    work: &Work<'_>,
    root: &Tree,
    trees: &[Tree],
    met: &Met,
) -> Result<(), RunError> {
    let going_back = trees.iter().map(|tree| tree.place().to_owned()).collect();
    let staying = client::boot(&met.agent, &root.snapshot.path, going_back);
    let staying = staying.map_err(RunError::agent("looking at the kernels"))?;
    if staying.places.is_empty() {
        return Ok(());
    }
    let (name, places) = (met.name(), escape_str(&staying.places.join(" and ")));
    if staying.orphaned.is_empty() {
        let line = format!(
            "{places} on {name} is no part of the root and stays as it is; its kernels have their modules in the \
             root that comes back"
        );
        work.log(LogLevel::Info, line);
        return Ok(());
    }
    let kernels = escape_str(&staying.orphaned.join(", "));
    Err(RunError::Usage {
        message: format!(
            "{name} might not boot: {places} is no part of the root and would stay as it is, and the modules of its \
             kernel {kernels} are not in the root that would come back"
        ),
        hint: "remove that kernel and boot the one from before, or leave the root as it is: --subvolume names \
               the others"
            .to_owned(),
    })
}

/// Whether another root would surely boot; if not, that is said in words.
fn can_be_exchanged(tree: &Tree, met: &Met, snapshot_dir: &str) -> Result<(), RunError> {
    let place = (&*tree.subvolume.name, snapshot_dir);
    match client::copy_root(&met.agent, place, false) {
        Err(AgentError::Fault { fault, .. }) => Err(RunError::Usage {
            message: format!("{}: {}", met.name(), fault.message),
            hint: fault.hint.unwrap_or_default(),
        }),
        other => other.map_err(RunError::agent("looking at the root")),
    }
}

/// Every subvolume of the machine that people configured or that is rolled back: which of them holds a
/// path.
fn mounted(work: &Work<'_>, met: &Met, trees: &[Tree]) -> Result<Vec<Subvolume>, RunError> {
    let mut names = work.config.btrfs_snapshots.subvolumes.clone();
    for tree in trees {
        if !names.contains(&tree.subvolume.name) {
            names.push(tree.subvolume.name.clone());
        }
    }
    let facts = met.subvolumes(names, &work.config.btrfs_snapshots.snapshot_dir)?;
    Ok(facts.found)
}

/// Compares, lists or asks; whether there is something to do that a person agreed to.
fn decide(
    work: &Work<'_>,
    machines: &Machines,
    trees: &mut [Tree],
    own: &[SnapshotFacts],
    output: &mut dyn PlanOutput,
) -> Result<bool, RunError> {
    let met = &machines.changed;
    let mounted = mounted(work, met, trees)?;
    for tree in trees.iter_mut() {
        if tree.is_exchanged && !work.options.dry_run {
            let place = (
                &*tree.subvolume.name,
                &*work.config.btrfs_snapshots.snapshot_dir,
            );
            client::copy_root(&met.agent, place, true)
                .map_err(RunError::agent("copying the root"))?;
        }
        let own = own.iter().find(|s| s.subvolume == tree.subvolume.name);
        tree.compare(work, met, &mounted, own)?;
        work.log(
            LogLevel::Info,
            format!("{}: {}", tree.place(), totals(tree)),
        );
    }
    if work.options.dry_run {
        for tree in trees.iter() {
            let heading = format!("{}: {}", tree.place(), totals(tree));
            let mut listed = Ok(());
            output
                .print(NAME, &heading, &mut |visit| {
                    listed = tree.each_change(met, visit);
                })
                .map_err(RunError::Output)?;
            listed.map_err(RunError::agent("listing the changes"))?;
        }
        return Ok(true);
    }
    if trees.iter().all(|tree| tree.changes() == 0) && machines.state.incomplete.is_none() {
        return Ok(false);
    }
    agree(work, machines, trees)?;
    Ok(true)
}

/// A subvolume's totals, for people.
#[must_use]
pub fn totals(tree: &Tree) -> String {
    if tree.changes() == 0 {
        return "nothing to put back".to_owned();
    }
    let totals = &tree.totals;
    let counts = [
        (totals.created, "to bring back"),
        (totals.changed, "to change back"),
        (totals.renamed, "to rename back"),
        (totals.attributes, "with other attributes"),
        (totals.deleted, "to delete"),
    ];
    let parts = counts.iter().filter(|(count, _)| *count > 0);
    let parts: Vec<String> = parts
        .map(|(count, words)| format!("{} {words}", figures::number(*count)))
        .collect();
    parts.join(", ")
}

/// Asks, or takes `--yes` for an answer.
fn agree(work: &Work<'_>, machines: &Machines, trees: &[Tree]) -> Result<(), RunError> {
    let name = machines.changed.name();
    let text = format!("Put {name} back to its state before session {}?", work.of);
    if work.options.yes {
        return Ok(());
    }
    let refused = || RunError::Refused {
        message: format!(
            "{name} would be put back to its state before session {}",
            work.of
        ),
        flag: Some("--yes".to_owned()),
    };
    if work.options.batch || !work.prompter.can_ask() {
        return Err(refused());
    }
    let mut detail = vec![about(&machines.state, &work.of)];
    for tree in trees {
        detail.push(format!("{}: {}", tree.place(), totals(tree)));
        if tree.is_exchanged {
            detail.push(
                "/ is exchanged for the next boot; what runs now stays as it is and is kept"
                    .to_owned(),
            );
        }
    }
    detail.extend(also_undone(&machines.state, work));
    detail.push(format!(
        "what was done on {name} since then is undone too; `pc-switcher rollback {}` brings it back",
        work.id
    ));
    let question = Question {
        detail,
        text,
        choices: vec![
            Answer {
                key: 'r',
                label: "roll back".to_owned(),
                effect: "every file becomes what it was then".to_owned(),
            },
            Answer {
                key: 'a',
                label: "abort".to_owned(),
                effect: "nothing was changed".to_owned(),
            },
        ],
        default: 1,
        flag: Some("--yes".to_owned()),
    };
    match work.prompter.choose(&question) {
        Ok(0) => Ok(()),
        Ok(_) | Err(PromptError::CannotAsk) => Err(refused()),
        Err(PromptError::Interrupted(interrupted)) => Err(RunError::Interrupted(interrupted)),
    }
}

/// What is known of the session.
fn about(state: &MachineState, session: &str) -> String {
    let time = |at: Timestamp| at.strftime("%F %T UTC").to_string();
    let entry = state.history.iter().find(|entry| entry.session == session);
    let marker = state.incomplete.as_ref().filter(|m| m.session == session);
    match (entry, marker) {
        (Some(entry), _) => format!(
            "session {session}, from {} to {}, began at {}",
            escape_str(&entry.source.hostname),
            escape_str(&entry.target.hostname),
            time(entry.started_at)
        ),
        (None, Some(marker)) => format!(
            "session {session}, from {} to {}, began at {} and did not end",
            escape_str(&marker.source),
            escape_str(&marker.target),
            time(marker.started_at)
        ),
        (None, None) => format!("session {session} is known by its snapshots alone"),
    }
}

/// Later sessions on the machine that this rollback undoes as well.
fn also_undone(state: &MachineState, work: &Work<'_>) -> Option<String> {
    let begin = state.history.iter().position(|e| e.session == work.of)?;
    let already = undone(&state.history);
    let later = state.history[begin + 1..].iter();
    let later = later.filter(|e| e.role == Host::Target && !already.contains(&e.session));
    let later: Vec<String> = later.map(|e| escape_str(&e.session)).collect();
    (!later.is_empty()).then(|| {
        let noun = if later.len() == 1 {
            "session"
        } else {
            "sessions"
        };
        format!(
            "the later {noun} {} there will be undone too",
            later.join(", ")
        )
    })
}

/// Snapshots of every subvolume, all or none.
fn take_snapshots(
    work: &Work<'_>,
    met: &Met,
    trees: &[Tree],
    kind: SnapshotKind,
) -> Result<Vec<SnapshotFacts>, RunError> {
    let at = Timestamp::now();
    // What comes after an exchanged root is not there before the next boot.
    let there = |tree: &&Tree| kind == SnapshotKind::Presync || !tree.is_exchanged;
    let new = trees.iter().filter(there).map(|tree| {
        let subvolume = tree.subvolume.name.clone();
        let name = SnapshotName {
            subvolume: subvolume.clone(),
            kind,
            at,
            session: work.id.to_owned(),
        };
        NewSnapshot {
            subvolume,
            name: name.to_string(),
        }
    });
    let dir = &work.config.btrfs_snapshots.snapshot_dir;
    met.make_snapshots(dir, new.collect())
}

/// From the marker to the history. Whatever stops it, the machines say so afterwards.
fn carry_out(
    work: &Work<'_>,
    machines: &Machines,
    trees: &mut [Tree],
    before: Vec<SnapshotFacts>,
) -> Result<(), RunError> {
    let began = Timestamp::now();
    let changed = &machines.changed;
    changed.mark(Some(marker(work, machines, &before, began)))?;
    let mut own = before;
    let done = put_back(work, machines, trees, &mut own);
    let errors: u64 = trees.iter().map(|tree| tree.errors).sum();
    let state = match &done {
        Ok(()) if errors == 0 => SessionState::Completed,
        Err(error) if error.is_interruption() => SessionState::Aborted,
        _ => SessionState::Failed,
    };
    let result = module_result(&done, trees, began);
    work.events.emit(&Event::ModuleFinished(result.clone()));
    if done.is_err() {
        let agent = changed.agent.cleaning_up();
        let _ = agent.call_within(Request::Abort, Some(LAST_CALL_LIMIT));
    }
    let remembered = remember(work, machines, trees, own, state, result, began);
    match done {
        Ok(()) => remembered?,
        Err(error) => {
            if let Err(also) = remembered {
                work.log(
                    LogLevel::Warning,
                    format!("the history was not written: {also}"),
                );
            }
            return Err(error);
        }
    }
    if state == SessionState::Completed {
        settle_markers(work, machines)?;
    }
    if trees.iter().any(|tree| tree.kept.is_some()) {
        exchange(&changed.cleaning_up())?;
    }
    Ok(())
}

fn marker(
    work: &Work<'_>,
    machines: &Machines,
    before: &[SnapshotFacts],
    began: Timestamp,
) -> Incomplete {
    let changed = machines.changed.name();
    Incomplete {
        session: work.id.to_owned(),
        role: Host::Target,
        source: machines
            .here
            .as_ref()
            .map_or_else(|| changed.clone(), Met::name),
        target: changed,
        started_at: began,
        phase: Phase::Execute,
        module: Some(NAME.to_owned()),
        presync: before
            .iter()
            .map(|snapshot| snapshot.name.clone())
            .collect(),
        address: None,
        rollback_of: Some(work.of.clone()),
        settles: died(machines).map(Box::new),
    }
}

/// The marker of a run that died, which this rollback settles.
fn died(machines: &Machines) -> Option<Incomplete> {
    let marker = machines.state.incomplete.clone()?;
    // One of a rollback stands for the one that it was to settle.
    match marker.rollback_of {
        Some(_) => marker.settles.map(|settles| *settles),
        None => Some(marker),
    }
}

fn put_back(
    work: &Work<'_>,
    machines: &Machines,
    trees: &mut [Tree],
    own: &mut Vec<SnapshotFacts>,
) -> Result<(), RunError> {
    let total = trees.iter().map(Tree::changes).sum();
    let mut before = 0;
    for tree in trees.iter_mut() {
        work.abort.check()?;
        tree.apply(work, &machines.changed, before, total)?;
        before += tree.changes();
    }
    own.extend(take_snapshots(
        work,
        &machines.changed,
        trees,
        SnapshotKind::Postsync,
    )?);
    // Last, and only if everything else is as it should be.
    if trees.iter().all(|tree| tree.errors == 0) {
        for tree in trees.iter_mut().filter(|tree| tree.is_exchanged) {
            tree.kept = Some(exchange(&machines.changed)?);
        }
    }
    Ok(())
}

/// Exchanges the root, or if that is done already gives the new one what the machine remembers now.
fn exchange(met: &Met) -> Result<String, RunError> {
    let doing = RunError::agent("exchanging the root");
    client::take_place(&met.agent, STATE_DIR, &STATE_FILES).map_err(doing)
}

fn module_result(done: &Result<(), RunError>, trees: &[Tree], began: Timestamp) -> ModuleResult {
    let errors: u64 = trees.iter().map(|tree| tree.errors).sum();
    let summary = trees
        .iter()
        .map(|tree| format!("{}: {}", tree.place(), totals(tree)));
    let error = match done {
        Err(error) => Some(error.to_string()),
        Ok(()) if errors > 0 => Some(format!(
            "{} not put back",
            figures::counted(errors, "entry")
        )),
        Ok(()) => None,
    };
    ModuleResult {
        module: NAME.to_owned(),
        status: match error {
            None => ModuleStatus::Success,
            Some(_) => ModuleStatus::Failed,
        },
        started_at: began,
        ended_at: Timestamp::now(),
        error,
        summary: Some(summary.collect::<Vec<_>>().join("; ")),
    }
}

/// Both machines remember the rollback.
fn remember(
    work: &Work<'_>,
    machines: &Machines,
    trees: &[Tree],
    own: Vec<SnapshotFacts>,
    state: SessionState,
    result: ModuleResult,
    began: Timestamp,
) -> Result<(), RunError> {
    let mut changed = Changed::default();
    for totals in trees.iter().map(|tree| &tree.totals) {
        changed.created += totals.created;
        changed.changed += totals.changed;
        changed.renamed += totals.renamed;
        changed.attributes += totals.attributes;
        changed.deleted += totals.deleted;
        changed.bytes += totals.bytes;
    }
    let target = machines.changed.machine();
    let entry = HistoryEntry {
        session: work.id.to_owned(),
        role: Host::Target,
        source: machines
            .here
            .as_ref()
            .map_or_else(|| target.clone(), Met::machine),
        target,
        started_at: began,
        ended_at: Timestamp::now(),
        state,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        modules: vec![result],
        source_snapshots: Vec::new(),
        target_snapshots: own,
        folders: std::collections::BTreeMap::new(),
        address: machines
            .here
            .as_ref()
            .map(|_| machines.changed.agent.hostname()),
        changed: (state == SessionState::Completed).then_some(changed),
        rollback_of: Some(work.of.clone()),
        settled: died(machines),
        anchor: None,
        whole: false,
    };
    if let Some(here) = &machines.here {
        here.cleaning_up().remember(HistoryEntry {
            role: Host::Source,
            ..entry.clone()
        })?;
    }
    machines.changed.cleaning_up().remember(entry)
}

/// The machine is whole again, and the other one that pushed to it and died has nothing to finish.
fn settle_markers(work: &Work<'_>, machines: &Machines) -> Result<(), RunError> {
    let before = machines.state.incomplete.as_ref();
    // Part of a machine that is in between makes it no more whole; and what a rollback had settled is
    // open again when that is undone.
    let after = if work.options.subvolumes.is_empty() {
        settled_by(&machines.state, &work.of)
    } else {
        before.cloned()
    };
    let is_settled = after.is_none();
    machines.changed.cleaning_up().mark(after)?;
    let Some(here) = machines.here.as_ref().filter(|_| is_settled) else {
        return Ok(());
    };
    let here = here.cleaning_up();
    let is_of_it = |marker: &Incomplete| {
        let died = before.map(|before| &before.session);
        marker.role == Host::Source && (marker.session == work.of || Some(&marker.session) == died)
    };
    if here.state()?.incomplete.as_ref().is_some_and(is_of_it) {
        here.mark(None)?;
    }
    Ok(())
}

/// The marker of the run that died before the rollback `session`, which that one took away.
fn settled_by(state: &MachineState, session: &str) -> Option<Incomplete> {
    let entry = state.history.iter().find(|entry| entry.session == session);
    let marker = state.incomplete.as_ref().filter(|m| m.session == session);
    let of_marker = marker.and_then(|marker| marker.settles.as_deref());
    of_marker.or_else(|| entry?.settled.as_ref()).cloned()
}

impl Work<'_> {
    fn log(&self, level: LogLevel, message: impl Into<String>) {
        self.events.log(level, NAME, None, message, Map::new());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::testing::{entry, marker};

    #[test]
    fn what_a_rollback_settled_is_open_again_when_that_is_undone() {
        let mut rollback = entry("00000002", "vega", "vega", SessionState::Completed);
        rollback.rollback_of = Some("00000001".to_owned());
        rollback.settled = Some(marker("00000001", Host::Target));
        let mut state = MachineState {
            history: vec![
                entry("00000001", "atlas", "vega", SessionState::Failed),
                rollback,
            ],
            incomplete: None,
        };
        let session = |of: &str, state: &MachineState| settled_by(state, of).map(|m| m.session);
        assert_eq!(session("00000002", &state).as_deref(), Some("00000001"));
        assert_eq!(session("00000001", &state), None);
        // One that died has it in its own marker.
        let mut half = marker("00000003", Host::Target);
        half.settles = Some(Box::new(marker("00000009", Host::Target)));
        state.incomplete = Some(half);
        assert_eq!(session("00000003", &state).as_deref(), Some("00000009"));
    }
}
