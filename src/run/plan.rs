//! Phase 6: what every module will change. A dry run lists it; a real run goes on with the same
//! values, past the mass-delete gate and a second look at the disks.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::sync::Arc;

use jiff::Timestamp;

use super::error::RunError;
use super::{Pair, Run, context, gates, preflight, reconcile};
use crate::escape::escape_bytes;
use crate::event::{Host, LogLevel, ModuleResult, ModuleStatus};
use crate::interrupt::Interrupted;
use crate::module::{Change, ModuleKind, Plan, PlanSummary};
use crate::modules::space::human;

/// Where a dry run lists its plan.
pub trait PlanOutput: Send {
    /// A module's plan begins.
    fn module(&mut self, module: &str, summary: &PlanSummary) -> io::Result<()>;

    /// One change of it.
    fn change(&mut self, module: &str, change: &Change) -> io::Result<()>;

    /// The list is complete.
    fn finish(&mut self) -> io::Result<()>;
}

/// The plan as text: a line per module, then a line per change.
#[derive(Debug)]
pub struct TextPlan<W: Write + Send> {
    out: io::BufWriter<W>,
}

impl<W: Write + Send> TextPlan<W> {
    /// Writes to `out`.
    pub fn new(out: W) -> Self {
        Self {
            out: io::BufWriter::new(out),
        }
    }
}

impl<W: Write + Send> PlanOutput for TextPlan<W> {
    fn module(&mut self, module: &str, summary: &PlanSummary) -> io::Result<()> {
        writeln!(self.out, "{module}: {}", totals(summary))
    }

    fn change(&mut self, _: &str, change: &Change) -> io::Result<()> {
        let action = char::from(change.action as u8);
        write!(self.out, "  {action} {}", escape_bytes(&change.item))?;
        if !change.detail.is_empty() {
            write!(self.out, "  ({})", change.detail)?;
        }
        writeln!(self.out)
    }

    fn finish(&mut self) -> io::Result<()> {
        self.out.flush()
    }
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
                list(&*plan, name, &mut *run.plan_output)?;
                run.session.push_result(dry_result(name, summary));
            }
        }
    }
    if dry_run {
        run.plan_output.finish().map_err(RunError::Output)?;
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

fn list(plan: &dyn Plan, module: &'static str, out: &mut dyn PlanOutput) -> Result<(), RunError> {
    out.module(module, plan.summary())
        .map_err(RunError::Output)?;
    let mut failed = None;
    let visited = plan.for_each(&mut |change| {
        out.change(module, change).map_err(|error| {
            failed = Some(error);
            Interrupted
        })
    });
    match (failed, visited) {
        (Some(error), _) => Err(RunError::Output(error)),
        (None, result) => result.map_err(RunError::module(module)),
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
    use crate::module::{Action, ListPlan};

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

    #[test]
    fn a_plan_is_listed_escaped_and_in_order() {
        let mut written = Vec::new();
        let plan = ListPlan::new(vec![
            Change {
                action: Action::Create,
                item: b"/home/a\x1b[31m".to_vec(),
                detail: "content".into(),
                bytes: 3,
            },
            Change {
                action: Action::Delete,
                item: b"/home/b".to_vec(),
                detail: String::new(),
                bytes: 0,
            },
        ]);
        let mut out = TextPlan::new(&mut written);
        list(&plan, "user_data", &mut out).unwrap();
        out.finish().unwrap();
        drop(out);
        let text = String::from_utf8(written).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "user_data: 1 created, 1 deleted");
        assert!(lines[1].starts_with("  + /home/a") && lines[1].ends_with("(content)"));
        assert!(!text.contains('\x1b'));
        assert_eq!(lines[2], "  - /home/b");
    }
}
