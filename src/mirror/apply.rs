//! Carrying out a plan on the target.
//!
//! Order, and why: new things are made in the staging directory with all attributes, new directories
//! with what is in them; a lot of them is made durable with one `syncfs(2)` and only then moved into
//! place, so that after a power cut every path is its old or its new version; deletions follow when
//! everything else is in place; directories get their times last, because changing their content
//! moves them.
//!
//! One thread goes through the plan and makes what needs no content (`lead`), others make files
//! (`hand`), one makes lots durable and places them (`commit`).

mod bases;
mod commit;
mod finish;
mod fresh;
mod hand;
mod lead;
mod line;
mod lot;
mod moving;
mod others;
mod outcome;

use std::collections::BTreeSet;
use std::os::fd::AsFd;
use std::sync::atomic::Ordering;

use crossbeam_channel::{Receiver, bounded};
use rustix::io::Errno;

use self::bases::{Bases, Finder};
use self::commit::Committer;
use self::finish::{MadeDirs, delete_all, finish_dirs};
use self::hand::{Hand, ORDERS, Origin};
use self::lead::Lead;
use self::line::Line;
use self::moving::move_all;
pub use self::others::Other;
use self::outcome::Outcome;
use super::codec::Malformed;
use super::delta::partial;
use super::frames::Batch;
use super::place::{self, DirCache, Shared};
use super::plan::FolderPlan;
use super::scan::{Notes, ScanError};
use super::staging::{self, LATE_FLAGS, Staging, StagingError};
use super::told::Told;
use super::tree::Tree;
use super::wire::Message;
use crate::escape::escape_bytes;
use crate::interrupt::{AbortFlag, Interrupted};

/// Why a plan was not carried out to its end.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// Asked to stop.
    #[error(transparent)]
    Interrupted(#[from] Interrupted),
    /// The source does not keep to the protocol.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// No staging directory.
    #[error(transparent)]
    Staging(#[from] StagingError),
    /// The plan cannot be read.
    #[error("cannot read the plan: {0}")]
    Plan(#[from] std::io::Error),
    /// Nothing more can be written.
    #[error("cannot write {path}: {source}")]
    Write {
        /// Where, escaped.
        path: String,
        /// Why.
        source: Errno,
    },
}

impl From<ScanError> for ApplyError {
    fn from(error: ScanError) -> Self {
        match error {
            ScanError::Interrupted(e) => Self::Interrupted(e),
            ScanError::Malformed(e) => Self::Malformed(e),
            ScanError::Spool(e) => Self::Plan(e),
            other @ (ScanError::Root { .. } | ScanError::Rules(_)) => {
                Self::Plan(std::io::Error::other(other.to_string()))
            }
        }
    }
}

/// What was done.
#[derive(Debug, Default)]
pub struct Applied {
    /// Changes made.
    pub items: u64,
    /// Moves it took to put new things into place.
    pub moves: u64,
    /// Bytes of content that arrived.
    pub bytes: u64,
    /// Bytes of planned content that were here already.
    pub kept: u64,
    /// What a person should know.
    pub notes: Notes,
}

/// Carries out `plan` on the folder `tree` with what the other machine sends, and what is here, there or in `others`.
pub fn apply(
    tree: &Tree,
    plan: &FolderPlan,
    others: &[Other],
    incoming: &Receiver<Vec<u8>>,
    peer: Batch<'_>,
    cli: Batch<'_>,
    abort: &AbortFlag,
) -> Result<Applied, ApplyError> {
    // What an earlier run has left is of no more use when there is nothing to do.
    if plan.is_empty() && !Staging::is_left(tree) {
        let mut peer = peer;
        peer.push(&Message::Finished)?;
        peer.flush()?;
        return Ok(Applied::default());
    }
    let line = Origin::There(Box::new(Line::new(incoming, peer)));
    carry_out(tree, (plan, others), line, cli, abort)
}

/// Carries out `plan` on the folder `tree` with what `from` has, a tree of this machine that does
/// not change: content is shared with it where the filesystem can, else copied.
pub fn apply_here(
    tree: &Tree,
    plan: &FolderPlan,
    from: &Tree,
    cli: Batch<'_>,
    abort: &AbortFlag,
) -> Result<Applied, ApplyError> {
    if plan.is_empty() {
        return Ok(Applied::default());
    }
    let origin = Origin::Here(from, DirCache::default());
    carry_out(tree, (plan, &[]), origin, cli, abort)
}

fn carry_out(
    tree: &Tree,
    (plan, others): (&FolderPlan, &[Other]),
    origin: Origin<'_>,
    cli: Batch<'_>,
    abort: &AbortFlag,
) -> Result<Applied, ApplyError> {
    let mut told = Told::new(cli);
    let root_before = tree
        .look_root()
        .map_err(|source| write_error(b"", source))?;
    let root_dir = tree
        .open_dir(b"")
        .map_err(|source| write_error(b"", source))?;
    let late = root_before.meta.flags & LATE_FLAGS;
    if late != 0 {
        let rest = root_before.meta.flags & !LATE_FLAGS;
        staging::set_flags(root_dir.as_fd(), rest, u32::MAX).map_err(|e| write_error(b"", e))?;
    }
    let before = place::Before {
        path: Vec::new(),
        ino: root_before.ino,
        mtime: root_before.meta.mtime,
        flags: late,
    };
    let result = Staging::open(tree)
        .map_err(ApplyError::from)
        .and_then(|staging| apply_with(tree, (plan, others), &staging, origin, &mut told, abort));
    // Making and removing the staging directory moved the folder's own time.
    let restored = place::restore(tree, &before);
    let (mut applied, made) = result?;
    if let Err(error) = restored {
        applied
            .notes
            .error("cannot restore the folder's time", &error.to_string());
    }
    finish_dirs(tree, plan, &made, &mut applied, &mut told, abort)?;
    rustix::fs::syncfs(tree.root()).map_err(|e| write_error(b"", e))?;
    Ok(applied)
}

/// Carries out `plan` and, however that ends, puts away what it needed and gives directories whose
/// content moved their times and flags back.
fn apply_with(
    tree: &Tree,
    (plan, others): (&FolderPlan, &[Other]),
    staging: &Staging,
    origin: Origin<'_>,
    told: &mut Told<'_>,
    abort: &AbortFlag,
) -> Result<(Applied, MadeDirs), ApplyError> {
    let shared = Shared::new(tree, staging)?;
    let mut applied = Applied::default();
    let is_there = matches!(origin, Origin::There(_));
    drop_parts(plan, staging, is_there)?;
    let result = apply_staged(&shared, (plan, others), &mut applied, origin, told, abort);
    let (touched, displaced) = shared.finish()?;
    let notes = &mut applied.notes;
    for (path, staged) in displaced {
        clear_displaced(tree, staging, &path, &staged, notes);
    }
    let removed = match &result {
        // What has arrived of large files need not come again.
        Err(ApplyError::Interrupted(_)) if is_there => staging.leave(tree),
        _ => staging.remove(tree),
    };
    if let Err(error) = removed {
        notes.error("cannot remove the staging directory", &error.to_string());
    }
    let mut reader = touched.reader()?;
    while let Some(record) = reader.next_record()? {
        let before = place::read_before(record)?;
        if before.path.is_empty() {
            continue;
        }
        if let Err(error) = place::restore(tree, &before) {
            let path = escape_bytes(&before.path);
            notes.error("cannot restore the time of", &format!("{path}: {error}"));
        }
    }
    Ok((applied, result?))
}

/// Removes what has arrived of large files that are not wanted any more; all of it if nothing
/// `will_arrive`.
fn drop_parts(plan: &FolderPlan, staging: &Staging, will_arrive: bool) -> Result<(), ApplyError> {
    let failed = |e| write_error(b"", e);
    let mut wanted = BTreeSet::new();
    if partial::is_empty(staging).map_err(failed)? {
        return Ok(());
    }
    let mut ops = plan.changes()?;
    while let Some(op) = ops.next_op()? {
        if will_arrive && partial::is_worth_keeping(&op) {
            wanted.insert(partial::name_of(&op.path));
        }
    }
    partial::keep_only(staging, &wanted).map_err(failed)
}

/// Nothing more can be written, as was seen at `path`.
#[must_use]
pub fn write_error(path: &[u8], source: Errno) -> ApplyError {
    let path = match path {
        b"" => "to the folder".to_owned(),
        path => escape_bytes(path),
    };
    ApplyError::Write { path, source }
}

/// Makes, places and deletes; returns what is known of the directories that were made.
fn apply_staged(
    shared: &Shared<'_>,
    (plan, others): (&FolderPlan, &[Other]),
    applied: &mut Applied,
    origin: Origin<'_>,
    told: &mut Told<'_>,
    abort: &AbortFlag,
) -> Result<MadeDirs, ApplyError> {
    let made_before = move_all(shared, plan, applied, told, abort)?;
    let is_there = matches!(origin, Origin::There(_));
    let bases = if is_there {
        Bases::of(plan, others)?
    } else {
        Bases::default()
    };
    let outcome = Outcome::new(abort, bases);
    let (orders, ordered) = bounded(ORDERS);
    let (lots, sealed) = bounded(1);
    let lead = Lead::new(shared, &outcome, told.another(), orders, lots)?.after(made_before);
    let hand = Hand::new(
        shared,
        &outcome,
        told.another(),
        ordered,
        origin,
        Finder::new(shared, &outcome.bases, plan, others),
        plan.begun,
    );
    let committer = Committer {
        shared,
        outcome: &outcome,
        told: told.another(),
        abort,
        planned: plan.begun,
        dirs: DirCache::default(),
    };
    let made = std::thread::scope(|scope| {
        let start = |name: &str| std::thread::Builder::new().name(name.to_owned());
        let started = start("hand")
            .spawn_scoped(scope, || outcome.ended(hand.run()))
            .and_then(|_| {
                start("place").spawn_scoped(scope, || outcome.ended(committer.run(&sealed)))
            });
        if let Err(error) = started {
            outcome.give_up(error.into());
        }
        // When it has ended its channels are closed, and what was handed over is finished.
        lead.run(plan)
    });
    applied.bytes = outcome.bytes.load(Ordering::Relaxed);
    applied.kept = outcome.kept.load(Ordering::Relaxed);
    let results = outcome.finish()?;
    applied.items += results.placed;
    applied.moves += results.moves;
    applied.notes.merge(results.notes);
    abort.check()?;
    delete_all(shared, plan, applied, told, abort)?;
    Ok(MadeDirs {
        inos: made.finish()?,
        adopted: results.adopted,
    })
}

/// Removes a directory that gave way. If something is in it that nobody planned to delete, or it
/// was not emptied because the run ended early, it is kept.
fn clear_displaced(tree: &Tree, staging: &Staging, path: &[u8], staged: &str, notes: &mut Notes) {
    if rustix::fs::unlinkat(staging.dir(), staged, rustix::fs::AtFlags::REMOVEDIR).is_ok() {
        return;
    }
    let path = escape_bytes(path);
    let text = match staging::keep(tree, staging.dir(), staged.as_bytes()) {
        Ok(kept) => format!("{path}: kept in {kept} at the top of the folder"),
        Err(error) => format!("{path}: {error}"),
    };
    notes.error("something was in a directory that gave way", &text);
}

impl Notes {
    /// Adds what `other` says.
    fn merge(&mut self, other: Self) {
        for (kind, count) in other.counts {
            *self.counts.entry(kind).or_default() += count;
        }
        self.lines.extend(other.lines);
        self.errors += other.errors;
        self.warnings += other.warnings;
    }
}
