//! Phase 6: what every module will change. A dry run lists it; a real run goes on with the same
//! values, past the mass-delete gate and a second look at the disks.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use jiff::Timestamp;

use super::error::RunError;
use super::{Pair, Run, Shared, context, gates, preflight, reconcile};
use crate::event::{Host, LogLevel, ModuleResult, ModuleStatus};
use crate::interrupt::Interrupted;
use crate::module::{Change, ModuleKind, Plan, PlanSummary};
use crate::modules::space::human;

/// Calls its argument with every change of a list, until that returns an error.
pub type Changes<'a> = dyn FnMut(&mut Visit<'_>) + 'a;

/// What is called with every change; an error says that nobody wants more of them.
pub type Visit<'a> = dyn FnMut(&Change) -> Result<(), Interrupted> + 'a;

/// Where a dry run lists its plan.
pub trait PlanOutput {
    /// Prints a heading and a list of changes under it. A reader that has gone (`| head`) is no
    /// error; the list is cut short.
    fn print(&mut self, heading: &str, changes: &mut Changes<'_>) -> io::Result<()>;
}

/// A plan's totals for people.
#[must_use]
pub fn totals(summary: &PlanSummary) -> String {
    if summary.is_empty() {
        return "nothing to change".to_owned();
    }
    let mut parts = Vec::new();
    for (count, word) in [
        (summary.created, "created"),
        (summary.changed, "changed"),
        (summary.attributes, "with new attributes only"),
        (summary.deleted, "deleted"),
    ] {
        if count > 0 {
            parts.push(format!("{count} {word}"));
        }
    }
    if summary.total_bytes() > 0 {
        parts.push(format!("{} to write", human(summary.total_bytes())));
    }
    parts.join(", ")
}

pub(super) fn run(run: &mut Run, pair: &Pair) -> Result<(), RunError> {
    let shared = Arc::clone(&run.shared);
    let dry_run = shared.options.dry_run;
    run.config_writes = reconcile::decide(run, pair)?;
    if dry_run {
        reconcile::list(&run.config_writes, &mut *run.plan_output).map_err(RunError::Output)?;
    }
    let mut planned = BTreeMap::<String, u64>::new();
    let mut mass_deletes = Vec::new();
    for module in &mut run.selection.foreground {
        let name = module.name();
        shared.stop.check()?;
        let context = context(&shared, pair, &run.facts, name);
        let plan = module.plan(&context).map_err(RunError::module(name))?;
        let summary = plan.summary();
        run.planned.insert(name, summary.clone());
        for (path, bytes) in &summary.bytes {
            *planned.entry(path.clone()).or_default() += bytes;
        }
        let limits = &shared.config.user_data;
        if is_mass_delete(
            summary,
            limits.mass_delete_percent,
            limits.mass_delete_count,
        ) {
            mass_deletes.push((name, summary.clone()));
        }
        if module.kind() == ModuleKind::Sync || !summary.is_empty() {
            context.log(
                LogLevel::Info,
                Host::Target,
                format!("plan: {}", totals(summary)),
            );
            if dry_run {
                list(&shared, &*plan, name, &mut *run.plan_output)?;
                run.session.push_result(dry_result(name, summary));
            }
        }
    }
    for (module, summary) in mass_deletes {
        gates::open(&shared, &mass_delete_gate(run, pair, module, &summary))?;
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

fn list(
    shared: &Shared,
    plan: &dyn Plan,
    module: &'static str,
    out: &mut dyn PlanOutput,
) -> Result<(), RunError> {
    let heading = format!("{module}: {}", totals(plan.summary()));
    let mut result = Ok(());
    out.print(&heading, &mut |visit| result = plan.for_each(visit))
        .map_err(RunError::Output)?;
    match result.map_err(RunError::module(module)) {
        // Stopped by the output, whose reader has gone.
        Err(error) if error.is_interruption() && !shared.stop.flag().is_raised() => Ok(()),
        result => result,
    }
}

/// More than `percent` of what exists, and more than `count`.
fn is_mass_delete(summary: &PlanSummary, percent: u8, count: u64) -> bool {
    let share = u128::from(summary.deleted) * 100;
    summary.deleted > count && share > u128::from(summary.existing) * u128::from(percent)
}

fn mass_delete_gate(run: &Run, pair: &Pair, module: &str, summary: &PlanSummary) -> gates::Gate {
    let target = &pair.target.machine.hostname;
    let limits = &run.shared.config.user_data;
    gates::Gate {
        finding: format!(
            "{module} would delete {} of {} entries on {target}",
            summary.deleted, summary.existing
        ),
        detail: vec![
            format!(
                "more than {}% and more than {} at once is unusual: is a disk of {} not mounted?",
                limits.mass_delete_percent, limits.mass_delete_count, pair.source.machine.hostname
            ),
            "--dry-run lists every one of them".to_owned(),
        ],
        effect: "delete them; they stay in the snapshot taken before".to_owned(),
        flag: "--allow-mass-delete",
        opened: run.shared.options.allow_mass_delete,
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
