//! Comparing one folder on both machines: whole, by what may differ, or once more by content.

use jiff::Timestamp;

use super::{Planned, basis};
use crate::escape::escape_bytes;
use crate::event::ProgressUpdate;
use crate::mirror::entry::Time;
use crate::mirror::relay::run_pair;
use crate::mirror::suspects::SUSPECTS_MAX;
use crate::mirror::tree::Trust;
use crate::mirror::wire::{Message, MirrorReply, MirrorRequest, PlanTotals, Restricted, ScanTree};
use crate::module::{ModuleContext, ModuleError};

/// Scans that may follow one another because names of hard links turned up.
const PASSES: usize = 4;

/// Both machines' answers, and why a restricted scan did not do.
pub(super) struct Scanned {
    pub source: MirrorReply,
    pub target: MirrorReply,
    /// What is to be said if there was a full scan though a restricted one was begun.
    pub full_scan: Option<String>,
}

pub(super) fn time(at: Timestamp) -> Time {
    Time {
        secs: at.as_second(),
        nanos: at.subsec_nanosecond().unsigned_abs(),
    }
}

/// What both machines are asked to scan for `planned`, whole.
pub(super) fn trees(
    context: &ModuleContext<'_>,
    planned: &Planned,
    by_content: bool,
) -> [ScanTree; 2] {
    // What a filter left out then was not compared then.
    let equal_at = context
        .session
        .equal_at
        .as_ref()
        .filter(|equal| basis::is_unchanged(&equal.filters, &planned.path, &planned.digest));
    let (source_equal_at, target_equal_at) = equal_at.map(|e| (e.source, e.target)).unzip();
    let tree = |root: &str, without_mounts, equal_at: Option<Timestamp>| ScanTree {
        root: root.to_owned(),
        without_mounts,
        rules: planned.rules.clone(),
        origin: planned.origin.clone(),
        content: by_content,
        trust: equal_at.map(|at| Trust::until(time(at))),
        anchor: None,
        restricted: None,
    };
    let dry_run = context.session.dry_run;
    [
        tree(&planned.source_root, dry_run, source_equal_at),
        tree(&planned.path, false, target_equal_at),
    ]
}

/// One scan on both machines.
pub(super) fn once(
    context: &ModuleContext<'_>,
    folder: &str,
    [source, target]: &[ScanTree; 2],
) -> Result<(MirrorReply, MirrorReply), ModuleError> {
    let mut progress = |message: &Message<'_>| {
        if let Message::Progress { items, path, .. } = message {
            context.emit_progress(ProgressUpdate {
                current: Some(*items),
                item: Some(format!("comparing {folder}/{}", escape_bytes(path))),
                ..ProgressUpdate::default()
            });
        }
    };
    let source = MirrorRequest::ScanSource(source.clone());
    let target = MirrorRequest::ScanTarget(target.clone());
    Ok(run_pair(
        (&context.source.agent, &source),
        (&context.target.agent, &target),
        None,
        context.abort,
        &mut progress,
    )?)
}

/// Restricted scans until no more names turn up; `Err` inside says why that does not do.
pub(super) fn restricted(
    context: &ModuleContext<'_>,
    folder: &str,
    mut trees: [ScanTree; 2],
) -> Result<Result<(MirrorReply, MirrorReply), String>, ModuleError> {
    for _ in 0..PASSES {
        let (source, target) = once(context, folder, &trees)?;
        let reasons = [&source.full_scan, &target.full_scan];
        if let Some(why) = reasons.into_iter().flatten().next() {
            return Ok(Err(why.clone()));
        }
        if source.more_suspects + target.more_suspects == 0 {
            return Ok(Ok((source, target)));
        }
        for tree in &mut trees {
            if let Some(restricted) = &mut tree.restricted {
                restricted.found = true;
            }
        }
    }
    Ok(Err("hard links lead on and on".to_owned()))
}

/// Compares a folder for its plan, from where it can start.
pub(super) fn scan(context: &ModuleContext<'_>, planned: &Planned) -> Result<Scanned, ModuleError> {
    let start = &planned.start;
    let mut trees = trees(context, planned, false);
    let mut why = None;
    if let Some((source, target)) = &start.halves {
        trees[0].anchor = Some(source.clone());
        trees[1].anchor = Some(target.clone());
    }
    if start.full_scan.is_none() {
        let mut few = trees.clone();
        let left = start
            .anchored
            .as_ref()
            .map(|anchored| anchored.left.clone());
        let found = |left, compared| {
            Some(Restricted {
                found: true,
                left,
                compared,
                ..Restricted::default()
            })
        };
        few[0].restricted = found(Vec::new(), None);
        few[1].restricted = found(left.unwrap_or_default(), start.compared.clone());
        for tree in &mut few {
            tree.trust = None;
        }
        match restricted(context, &planned.path, few)? {
            Ok((source, target)) => {
                return Ok(Scanned {
                    source,
                    target,
                    full_scan: None,
                });
            }
            Err(reason) => why = Some(reason),
        }
    }
    let (source, target) = once(context, &planned.path, &trees)?;
    let (source, target) = with_moves(context, &planned.path, &trees, (source, target))?;
    Ok(Scanned {
        source,
        target,
        full_scan: why,
    })
}

/// After a full scan: where something new was elsewhere in the anchor, it is moved instead of being made and
/// deleted. What is planned is compared once more for that.
fn with_moves(
    context: &ModuleContext<'_>,
    folder: &str,
    trees: &[ScanTree; 2],
    whole: (MirrorReply, MirrorReply),
) -> Result<(MirrorReply, MirrorReply), ModuleError> {
    let is_known = trees
        .iter()
        .all(|t| t.anchor.is_some() && t.trust.is_some());
    let totals = whole.1.plan.clone().unwrap_or_default();
    let is_worth_it = (1..=SUSPECTS_MAX as u64).contains(&totals.changes());
    // Something came and something went, or things may have changed places.
    let may_hold_moves = totals.deleted > 0 && totals.created > 0
        || totals.changed > 0 && totals.created + totals.changed + totals.deleted > 1;
    if !is_known || !is_worth_it || !may_hold_moves {
        return Ok(whole);
    }
    let mut few = trees.clone();
    few[0].restricted = Some(Restricted {
        origins: true,
        ..Restricted::default()
    });
    few[1].restricted = Some(Restricted {
        planned: true,
        ..Restricted::default()
    });
    let Ok((source, target)) = restricted(context, folder, few)? else {
        // The plan is that of the scan that did not do.
        return once(context, folder, trees);
    };
    let (mut of_source, mut of_target) = whole;
    of_source.looked += source.looked;
    of_source.errors = of_source.errors.max(source.errors);
    of_target.looked += target.looked;
    of_target.errors = of_target.errors.max(target.errors);
    of_target.left.extend(target.left);
    of_target.left.sort();
    of_target.left.dedup();
    of_target.left_more |= target.left_more;
    of_target.drift = target.drift;
    of_target.plan = target.plan.map(|plan| PlanTotals {
        existing: totals.existing,
        ..plan
    });
    Ok((of_source, of_target))
}
