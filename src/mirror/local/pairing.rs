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
use super::super::entry::{Aspects, Kind, Time, split};
use super::super::filter::Filter;
use super::super::left::Compared;
use super::super::look::Looker;
use super::super::plan::{FolderPlan, Step};
use super::super::scan::{NOTES_OF_A_KIND, Notes, ScanError, SourceScan};
use super::super::service::fault;
use super::super::tree::{Tree, Trust};
use super::super::wire::{Batch, FOR_CLI, FOR_PEER, ScanTree};
use super::{LocalPlan, Side};
use crate::agent::protocol::{Fault, FaultKind};
use crate::agent::service::ServiceContext;
use crate::escape::escape_bytes;
use crate::event::LogLevel;
use crate::sys::btrfs;

/// A file touched so long before the snapshot was made counts as touched after it: clocks are set
/// back by that much now and then.
const CLOCK_SLACK_SECS: i64 = 600;

/// The kind of note about what neither side mirrors.
pub const LEFT_ALONE: &str = "left as it is, a nested subvolume or a mount";

/// What came of comparing.
pub struct Found {
    /// What makes the second tree like the first.
    pub plan: FolderPlan,
    /// What a person should know.
    pub notes: Notes,
    /// Entries seen in the second tree.
    pub entries: u64,
}

/// Compares the trees of `wanted`, which are open as `from` and `to`.
pub fn compare(
    context: &ServiceContext,
    wanted: &LocalPlan,
    from: &Tree,
    to: &Tree,
) -> Result<Found, Fault> {
    let filter = filter_of(wanted)?;
    let scan = ScanTree {
        root: escape_bytes(&wanted.from),
        without_mounts: false,
        rules: String::new(),
        origin: String::new(),
        content: false,
        trust: equal_at(wanted.older, from, to).map(Trust::until),
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
                source.run(&source_scan.root).map(|()| source.notes)
            })
            .map_err(ScanError::Spool)?;
        let looker = Looker::new(to, path(&wanted.to));
        let target = follow(
            context,
            to,
            looker,
            &target_hears,
            &to_source,
            &scan,
            &filter,
        );
        drop((to_source, target_hears));
        Ok::<_, ScanError>((source.join().expect("a scan does not panic"), target))
    })?;
    let (source_notes, compared) = match (source, target) {
        // One half's trouble interrupts the other.
        (Err(ScanError::Interrupted(_)), Err(error)) => return Err(error.into()),
        (source, target) => (source?, target?),
    };
    let notes = merged([source_notes, compared.notes]);
    let plan = match &wanted.only {
        None => compared.plan,
        Some(path) => only_what_is_asked_for(&compared.plan, path).map_err(ScanError::Spool)?,
    };
    Ok(Found {
        plan,
        notes,
        entries: compared.entries,
    })
}

fn follow(
    context: &ServiceContext,
    to: &Tree,
    looker: Looker<'_>,
    heard: &crossbeam_channel::Receiver<Vec<u8>>,
    to_source: &crossbeam_channel::Sender<Vec<u8>>,
    scan: &ScanTree,
    filter: &Filter,
) -> Result<Compared, ScanError> {
    let abort = &context.abort;
    let peer = Batch::new(FOR_PEER, to_source, abort);
    let cli = Batch::new(FOR_CLI, &context.outgoing, abort);
    TargetScan::new(to, looker, heard, peer, cli, abort, scan)?
        .naming_excluded()
        .run(filter)
}

/// The rules of every folder as they stand in the tree.
fn filter_of(wanted: &LocalPlan) -> Result<Filter, Fault> {
    if let Some(path) = &wanted.only {
        return Ok(Filter::only(path));
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
    Filter::joined(&filters).ok_or_else(|| {
        fault(
            FaultKind::Invalid,
            "the filters have too many rules together",
        )
    })
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

/// The part of a plan that brings `path` back: what is only here stays, unless it is inside a directory
/// that something else takes the place of; and so do directories on the way.
fn only_what_is_asked_for(plan: &FolderPlan, path: &[u8]) -> std::io::Result<FolderPlan> {
    let mut give_way = BTreeSet::<Vec<u8>>::new();
    plan.retain(|op| {
        if op.step != Step::Delete {
            let was_dir = op.old.as_ref().is_some_and(|old| old.kind == Kind::Dir);
            if was_dir && op.aspects.any(Aspects::KIND) {
                give_way.insert(op.path.clone());
            }
            let is_on_the_way = op.path.len() < path.len() && op.old.is_some();
            return !(op.step == Step::DirAttributes && is_on_the_way);
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
