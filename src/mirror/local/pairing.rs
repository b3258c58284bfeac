//! Both halves of a scan on one machine, talking to each other without anybody between them.
//!
//! What two trees of one machine have in common is known better than what two machines have: where one
//! of them is a snapshot the other grew out of, a file that was not touched since the snapshot was made
//! is the same file. What was touched is compared by content; without such a snapshot everything is.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crossbeam_channel::unbounded;

use super::super::compare::TargetScan;
use super::super::diff::DiffError;
use super::super::entry::{Aspects, Kind, Time};
use super::super::filter::Filter;
use super::super::frames::Batch;
use super::super::left::Compared;
use super::super::look::Looker;
use super::super::path::{is_valid_path, split};
use super::super::plan::{FolderPlan, Step};
use super::super::scan::{NOTES_OF_A_KIND, Notes, ScanError, SourceScan};
use super::super::service::fault;
use super::super::suspects::{Mark, SUSPECTS_MAX, Suspect};
use super::super::tree::{Tree, Trust};
use super::super::wire::{FOR_CLI, FOR_PEER, ScanTree};
use super::{LocalPlan, Side, grown, open_tree};
use crate::agent::fault::{Fault, FaultKind};
use crate::agent::service::ServiceContext;
use crate::escape::escape_bytes;
use crate::event::LogLevel;
use crate::sys::btrfs;

/// A file touched so long before the snapshot was made counts as touched after it: clocks are set
/// back by that much now and then.
const CLOCK_SLACK_SECS: i64 = 600;

/// The kind of note about what neither side mirrors.
pub const LEFT_ALONE: &str = "left as it is, a nested subvolume or a mount";
/// The kind of note about what stands where a directory would have to be.
const IN_THE_WAY: &str = "in the way, not a directory any more";

/// Scans that may follow one another because names of hard links turned up.
const PASSES: usize = 4;

/// What came of comparing.
pub struct Found {
    /// What makes the second tree like the first.
    pub plan: FolderPlan,
    /// What a person should know.
    pub notes: Notes,
    /// Entries seen in the second tree.
    pub entries: u64,
    /// What it has cost: names read and entries looked at there.
    pub looked: u64,
    /// Why everything was compared, though what differs was to be asked of the kernel.
    pub full_scan: Option<String>,
}

/// One scan of both trees.
struct Scanned {
    source: Notes,
    target: Compared,
    /// After a restricted scan: names in the first tree that have to be visited as well.
    more: Result<Vec<Vec<u8>>, DiffError>,
}

/// Compares the trees of `wanted`, which are open as `from` and `to`.
pub fn compare(
    context: &ServiceContext,
    wanted: &LocalPlan,
    from: &Tree,
    to: &Tree,
) -> Result<Found, Fault> {
    let filter = filter_of(wanted)?;
    let few = match &wanted.newer {
        None => None,
        Some(newer) => Some(by_kernel(context, wanted, newer, [from, to], &filter)?),
    };
    let (scanned, full_scan) = match few {
        Some(Ok(scanned)) => (scanned, None),
        few => {
            let all = once(context, wanted, [from, to], &filter, None)?;
            (all, few.and_then(Result::err))
        }
    };
    let (mut notes, compared) = (
        merged([scanned.source, scanned.target.notes]),
        scanned.target.plan,
    );
    let plan = if wanted.only.is_empty() {
        compared
    } else {
        name_what_is_in_the_way(&mut notes);
        only_what_is_asked_for(&compared, &wanted.only).map_err(ScanError::Spool)?
    };
    Ok(Found {
        plan,
        notes,
        entries: scanned.target.entries,
        looked: scanned.target.looked,
        full_scan,
    })
}

/// Compares what the kernel says may differ; `Err` inside says why that does not do.
fn by_kernel(
    context: &ServiceContext,
    wanted: &LocalPlan,
    newer: &[u8],
    trees: [&Tree; 2],
    filter: &Filter,
) -> Result<Result<Scanned, String>, Fault> {
    let newer = open_tree(newer)?;
    let reason = |error| match error {
        DiffError::Interrupted(interrupted) => Err(Fault::from(interrupted)),
        error => Ok(Err(error.to_string())),
    };
    let mut suspects = match grown::suspects(wanted, trees, &newer, &context.abort) {
        Ok(found) => found,
        Err(error) => return reason(error),
    };
    for _ in 0..PASSES {
        let mut scanned = once(context, wanted, trees, filter, Some(suspects.clone()))?;
        let mut is_whole = true;
        let names = [&mut scanned.more, &mut scanned.target.more];
        for (suspects, names) in suspects.iter_mut().zip(names) {
            match std::mem::replace(names, Ok(Vec::new())) {
                Ok(names) => {
                    is_whole &= names.is_empty();
                    let more = names.into_iter();
                    suspects.extend(more.map(|path| Suspect::new(path, Mark::default())));
                }
                Err(error) => return reason(error),
            }
        }
        if is_whole {
            return Ok(Ok(scanned));
        }
        if suspects
            .iter()
            .any(|suspects| suspects.len() > SUSPECTS_MAX)
        {
            return reason(DiffError::TooMany(SUSPECTS_MAX));
        }
    }
    Ok(Err("hard links lead on and on".to_owned()))
}

/// One scan: of everything, or of what is suspected of either tree.
fn once(
    context: &ServiceContext,
    wanted: &LocalPlan,
    [from, to]: [&Tree; 2],
    filter: &Filter,
    suspects: Option<[Vec<Suspect>; 2]>,
) -> Result<Scanned, Fault> {
    let is_whole = suspects.is_none();
    let (of_source, of_target) = suspects.map(|[source, target]| (source, target)).unzip();
    let scan = ScanTree {
        root: escape_bytes(&wanted.from),
        without_mounts: false,
        rules: String::new(),
        origin: String::new(),
        content: false,
        // What is suspected is doubted where its content may differ, and nothing else is visited.
        trust: equal_at(wanted.older, from, to)
            .filter(|_| is_whole)
            .map(Trust::until),
        restricted: None,
        anchor: None,
    };
    let abort = &context.abort;
    let path = |bytes| Path::new(OsStr::from_bytes(bytes));
    // What is under way is bounded by the windows of the scan itself.
    let (to_target, target_hears) = unbounded();
    let (to_source, source_hears) = unbounded();
    let (source, target) = std::thread::scope(|scope| {
        let (source_filter, source_scan) = (filter.clone(), &scan);
        // Each half drops its sender when it ends, which ends the other.
        let source = std::thread::Builder::new()
            .name("scan".into())
            .spawn_scoped(scope, move || {
                let looker = Looker::new(from, path(&wanted.from));
                let batch = Batch::new(FOR_PEER, &to_target, abort);
                let heard = &source_hears;
                let mut source = SourceScan::new(
                    from,
                    looker,
                    heard,
                    batch,
                    abort,
                    source_scan,
                    source_filter,
                );
                if !wanted.own_rules {
                    source = source.without_own_rules();
                }
                if let Some(suspects) = of_source {
                    source = source.restricted(suspects);
                }
                let scanned = source.run(&source_scan.root);
                scanned.map(|()| (source.unseen(), source.notes))
            })
            .map_err(ScanError::Spool)?;
        let looker = Looker::new(to, path(&wanted.to));
        let mut target = TargetScan::new(
            to,
            looker,
            &target_hears,
            Batch::new(FOR_PEER, &to_source, abort),
            Batch::new(FOR_CLI, &context.outgoing, abort),
            abort,
            &scan,
        )?;
        if wanted.only.is_empty() {
            target = target.naming_excluded();
        }
        if let Some(suspects) = of_target {
            target = target.restricted(suspects, None);
        }
        let target = target.run(filter);
        drop((to_source, target_hears));
        Ok::<_, ScanError>((source.join().expect("a scan does not panic"), target))
    })?;
    let ((more, source), target) = match (source, target) {
        // One half's trouble interrupts the other.
        (Err(ScanError::Interrupted(_)), Err(error)) => return Err(error.into()),
        (source, target) => (source?, target?),
    };
    Ok(Scanned {
        source,
        target,
        more,
    })
}

/// The rules of every folder as they stand in the tree.
fn filter_of(wanted: &LocalPlan) -> Result<Filter, Fault> {
    let too_many = || {
        let text = "the filters have too many rules together";
        fault(FaultKind::Invalid, text)
    };
    if !wanted.only.is_empty() {
        if !wanted
            .only
            .iter()
            .all(|path| !path.is_empty() && is_valid_path(path))
        {
            return Err(fault(FaultKind::Invalid, "an impossible path"));
        }
        return Filter::only(&wanted.only).ok_or_else(too_many);
    }
    let mut filters = vec![Filter::protecting(&wanted.protected)];
    let mut folders: Vec<_> = wanted.rules.iter().collect();
    // A folder inside another one is asked first.
    folders.sort_by_key(|folder| std::cmp::Reverse(folder.below.len()));
    for folder in folders {
        let filter = Filter::parse(folder.rules.as_bytes(), &folder.origin).map_err(|errors| {
            let text: Vec<String> = errors.iter().map(ToString::to_string).collect();
            fault(FaultKind::Invalid, text.join("; "))
        })?;
        filters.push(filter.moved_below(&folder.below));
    }
    Filter::joined(&filters).ok_or_else(too_many)
}

/// Since when files that were not touched are equal on both sides: since the snapshot was made that
/// one of them grew out of. Nobody's word is taken for it: the subvolumes say so themselves.
pub(super) fn equal_at(older: Option<Side>, from: &Tree, to: &Tree) -> Option<Time> {
    let (snapshot, grown) = match older? {
        Side::From => (from, to),
        Side::To => (to, from),
    };
    let info = |tree: &Tree| btrfs::subvolume_info(tree.root()).ok();
    let (snapshot, grown) = (info(snapshot)?, info(grown)?);
    let origin = snapshot.parent_uuid.as_ref()?;
    let related = *origin == grown.uuid || Some(origin) == grown.parent_uuid.as_ref();
    (snapshot.is_readonly && related).then(|| Time {
        secs: snapshot.created_at.0 - CLOCK_SLACK_SECS,
        nanos: snapshot.created_at.1,
    })
}

/// What both halves have to say. What neither touches is as it should be, and told once.
fn merged(halves: [Notes; 2]) -> Notes {
    let is_left = |kind: &str| kind.contains("a nested subvolume or a mount");
    let mut notes = Notes::default();
    let (mut left, mut most) = (BTreeSet::new(), 0);
    for half in halves {
        let of_left = |count: &(&String, &u64)| is_left(count.0);
        let here: u64 = half.counts.iter().filter(of_left).map(|(_, n)| n).sum();
        most = most.max(here);
        for (kind, count) in half.counts.into_iter().filter(|(kind, _)| !is_left(kind)) {
            *notes.counts.entry(kind).or_default() += count;
        }
        let mut warned = 0;
        for (level, line) in half.lines {
            match line.split_once(": ") {
                Some((kind, path)) if is_left(kind) => {
                    left.insert(path.to_owned());
                }
                _ => {
                    warned += u64::from(level == LogLevel::Warning);
                    notes.lines.push((level, line));
                }
            }
        }
        notes.warnings += half.warnings.saturating_sub(here).max(warned);
        notes.errors += half.errors;
    }
    // Each half names only the first of them.
    let count = most.max(left.len() as u64);
    if count > 0 {
        let count = if most <= NOTES_OF_A_KIND {
            left.len() as u64
        } else {
            count
        };
        notes.counts.insert(LEFT_ALONE.to_owned(), count);
    }
    for path in left {
        notes
            .lines
            .push((LogLevel::Info, format!("{LEFT_ALONE}: {path}")));
    }
    notes
}

/// What the scan calls excluded is, where only some paths are wanted, something else on the way to one of
/// them: nothing can be brought back below it.
fn name_what_is_in_the_way(notes: &mut Notes) {
    const EXCLUDED: &str = "left alone on the target, excluded";
    let Some(count) = notes.counts.remove(EXCLUDED) else {
        return;
    };
    // It is met where it is listed and where it would be entered.
    let mut paths = BTreeSet::new();
    notes
        .lines
        .retain(|(_, line)| match line.strip_prefix(EXCLUDED) {
            Some(path) => {
                paths.insert(path.to_owned());
                false
            }
            None => true,
        });
    let lines = paths
        .iter()
        .map(|path| (LogLevel::Error, format!("{IN_THE_WAY}{path}")));
    notes.lines.extend(lines);
    notes
        .counts
        .insert(IN_THE_WAY.to_owned(), paths.len() as u64);
    notes.errors += paths.len() as u64;
    notes.warnings = notes.warnings.saturating_sub(count);
}

/// The part of a plan that brings `paths` back: what is only here stays, unless it is inside a directory
/// that something else takes the place of; and so do directories on the way.
fn only_what_is_asked_for(plan: &FolderPlan, paths: &[Vec<u8>]) -> std::io::Result<FolderPlan> {
    let wanted: BTreeSet<&[u8]> = paths.iter().map(Vec::as_slice).collect();
    let is_wanted = |path: &[u8]| {
        let mut at = path;
        while !at.is_empty() && !wanted.contains(at) {
            at = split(at).0;
        }
        !at.is_empty()
    };
    let mut give_way = BTreeSet::<Vec<u8>>::new();
    plan.retain(|op| {
        if op.step != Step::Delete {
            let was_dir = op.old.as_ref().is_some_and(|old| old.kind == Kind::Dir);
            if was_dir && op.aspects.any(Aspects::KIND) {
                give_way.insert(op.path.clone());
            }
            let is_there = op.step == Step::DirAttributes && op.old.is_some();
            return !is_there || is_wanted(&op.path);
        }
        let mut inside = &op.path[..];
        while !inside.is_empty() {
            inside = split(inside).0;
            if give_way.contains(inside) {
                return true;
            }
        }
        false
    })
}
