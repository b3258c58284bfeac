//! Phase 6: what every module will change. A dry run lists it; a real run goes on with the same
//! values, past the gates of conflicts and of mass deletion and a second look at the disks.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use jiff::Timestamp;

use super::error::RunError;
use super::{Pair, Run, Shared, context, gates, preflight, reconcile};
use crate::change::Digester;
use crate::event::{Host, LogLevel, ModuleResult, ModuleStatus};
use crate::figures::{bytes, counted, number};
use crate::module::{Change, ModuleKind, Plan, PlanSummary};

/// Calls its argument with every change of a list.
pub type Changes<'a> = dyn FnMut(&mut Visit<'_>) + 'a;

/// What is called with every change.
pub type Visit<'a> = dyn FnMut(&Change) + 'a;

/// Where a dry run lists its plan.
pub trait PlanOutput {
    /// Prints a heading and a list of changes of `module` under it, if a list is wanted; goes
    /// through all of them in any case. A reader that has gone (`| head`) is no error.
    fn print(&mut self, module: &str, heading: &str, changes: &mut Changes<'_>) -> io::Result<()>;
}

/// A plan's totals for people.
#[must_use]
pub fn totals(summary: &PlanSummary) -> String {
    if summary.is_empty() {
        return "nothing to change".to_owned();
    }
    let mut parts = summary.counts();
    if summary.total_bytes() > 0 {
        parts.push(format!("{} to write", bytes(summary.total_bytes())));
    }
    parts.join(", ")
}

pub(super) fn run(run: &mut Run, pair: &Pair) -> Result<(), RunError> {
    let shared = Arc::clone(&run.shared);
    let dry_run = shared.options.dry_run;
    run.config_writes = reconcile::decide(run, pair)?;
    if dry_run {
        reconcile::list(run)?;
    }
    let mut planned = BTreeMap::<String, u64>::new();
    let mut questions = Vec::new();
    for index in 0..run.selection.foreground.len() {
        let module = &mut run.selection.foreground[index];
        let (name, kind) = (module.name(), module.kind());
        shared.stop.check()?;
        let context = context(&shared, pair, &run.facts, name);
        let plan = module.plan(&context).map_err(RunError::module(name))?;
        let summary = plan.summary();
        run.planned.insert(name, summary.clone());
        for (path, bytes) in &summary.bytes {
            *planned.entry(path.clone()).or_default() += bytes;
        }
        let limits = &shared.config.user_data;
        if summary.conflicts > 0 {
            questions.push(conflict_gate(&shared, pair, name, summary));
        }
        if is_mass_delete(
            summary,
            limits.mass_delete_percent,
            limits.mass_delete_count,
        ) {
            questions.push(mass_delete_gate(&shared, pair, name, summary));
        }
        if kind == ModuleKind::Sync || !summary.is_empty() {
            context.log(
                LogLevel::Info,
                Host::Target,
                format!("plan: {}", totals(summary)),
            );
            if dry_run {
                list(run, &*plan, name)?;
                run.session.push_result(dry_result(name, summary));
            }
        }
    }
    for gate in questions {
        gates::open(&shared, &gate)?;
    }
    preflight::with_plan(run, pair, &planned)
}

/// A module's line in the closing block of a dry run.
fn dry_result(module: &str, summary: &PlanSummary) -> ModuleResult {
    let now = Timestamp::now();
    ModuleResult {
        module: module.to_owned(),
        status: ModuleStatus::Skipped,
        started_at: now,
        ended_at: now,
        error: Some("dry run".to_owned()),
        summary: Some(totals(summary)),
    }
}

/// Goes through a plan once: every change to the log and, if wanted, to the output; what all of
/// them come to is kept for the end.
fn list(run: &mut Run, plan: &dyn Plan, module: &'static str) -> Result<(), RunError> {
    let heading = format!("{module}: {}", totals(plan.summary()));
    let mut result = Ok(());
    let mut each = |visit: &mut Visit<'_>| {
        result = plan.for_each(&mut |change| {
            visit(change);
            Ok(())
        });
    };
    digest(run, module, &heading, &mut each)?;
    result.map_err(RunError::module(module))
}

/// The same for any list of changes.
pub(super) fn digest(
    run: &mut Run,
    module: &str,
    heading: &str,
    changes: &mut Changes<'_>,
) -> Result<(), RunError> {
    let events = &run.shared.events;
    let mut logged = events.changes(module, Host::Target, true);
    let mut digester = Digester::new(module);
    let mut passed_on = |visit: &mut Visit<'_>| {
        changes(&mut |change| {
            digester.add(change);
            logged.push(change.clone());
            visit(change);
        });
    };
    (run.plan_output.print(module, heading, &mut passed_on)).map_err(RunError::Output)?;
    run.plans.push(digester.finish());
    Ok(())
}

/// More than `percent` of what exists, and more than `count`.
fn is_mass_delete(summary: &PlanSummary, percent: u8, count: u64) -> bool {
    let share = u128::from(summary.deleted) * 100;
    summary.deleted > count && share > u128::from(summary.existing) * u128::from(percent)
}

/// What was changed on both machines: said before anything is overwritten.
fn conflict_gate(shared: &Shared, pair: &Pair, module: &str, summary: &PlanSummary) -> gates::Gate {
    let (source, target) = (&pair.source.machine.hostname, &pair.target.machine.hostname);
    gates::Gate {
        finding: format!(
            "{module}: {} changed on both {source} and {target} since they were equal",
            counted(summary.conflicts, "path")
        ),
        question: format!("Replace those on {target} by those of {source}?"),
        detail: summary.conflict_lines.clone(),
        effect: format!(
            "{source}'s versions replace those of {target}, which stay in the snapshot taken before"
        ),
        flag: "--allow-conflicts",
        opened: shared.options.allow_conflicts,
    }
}

fn mass_delete_gate(
    shared: &Shared,
    pair: &Pair,
    module: &str,
    summary: &PlanSummary,
) -> gates::Gate {
    let target = &pair.target.machine.hostname;
    let limits = &shared.config.user_data;
    gates::Gate {
        finding: format!(
            "{module} would delete {} of {} on {target}",
            number(summary.deleted),
            counted(summary.existing, "entry")
        ),
        question: format!(
            "Delete {} on {target}, which {} does not have?",
            counted(summary.deleted, "entry"),
            pair.source.machine.hostname
        ),
        detail: vec![
            format!(
                "more than {}% and more than {} at once is unusual: is a disk of {} not mounted?",
                limits.mass_delete_percent,
                number(limits.mass_delete_count),
                pair.source.machine.hostname
            ),
            "--dry-run lists every one of them".to_owned(),
        ],
        effect: "delete them; they stay in the snapshot taken before".to_owned(),
        flag: "--allow-mass-delete",
        opened: shared.options.allow_mass_delete,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn deleting(deleted: u64, existing: u64) -> PlanSummary {
        PlanSummary {
            deleted,
            existing,
            ..PlanSummary::default()
        }
    }

    #[test]
    fn a_mass_delete_exceeds_both_the_share_and_the_count() {
        assert!(is_mass_delete(&deleting(600, 1000), 50, 500));
        assert!(
            !is_mass_delete(&deleting(500, 900), 50, 500),
            "not above the count"
        );
        assert!(
            !is_mass_delete(&deleting(600, 1200), 50, 500),
            "not above the share"
        );
        assert!(is_mass_delete(&deleting(u64::MAX, u64::MAX), 50, 500));
    }
}
