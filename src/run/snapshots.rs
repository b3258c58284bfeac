//! Phases 5 and 8: the way back, and the state a good sync left behind.

use std::sync::Arc;

use jiff::Timestamp;

use super::error::RunError;
use super::session::success;
use super::{Pair, Run, context, record};
use crate::event::{Host, LogLevel};
use crate::module::ModuleKind;
use crate::modules::{btrfs_snapshots, space};
use crate::snapshot::name::SnapshotKind;

/// Presync snapshots on both machines; a failure on either stops here, with nothing changed.
pub(super) fn presync(run: &mut Run, pair: &Pair) -> Result<(), RunError> {
    let began = Timestamp::now();
    let all = run.shared.config.btrfs_snapshots.subvolumes.clone();
    take(run, pair, SnapshotKind::Presync, &all)?;
    let facts = Arc::make_mut(&mut run.facts);
    facts
        .source_presync
        .clone_from(&run.source_snapshots.presync);
    facts
        .target_presync
        .clone_from(&run.target_snapshots.presync);
    // The module checks that what was made is a way back.
    for module in &mut run.selection.foreground {
        if module.kind() == ModuleKind::System && module.name() == btrfs_snapshots::NAME {
            let context = context(&run.shared, pair, &run.facts, btrfs_snapshots::NAME);
            let summary = module
                .execute(&context)
                .map_err(RunError::module(btrfs_snapshots::NAME))?;
            run.session
                .push_result(success(btrfs_snapshots::NAME, began, summary));
        }
    }
    Ok(())
}

/// Postsync snapshots on both machines of what has none yet.
pub(super) fn postsync(run: &mut Run, pair: &Pair) -> Result<(), RunError> {
    let taken = run.target_snapshots.postsync.iter();
    let taken: Vec<&str> = taken.map(|s| s.subvolume.as_str()).collect();
    let all = &run.shared.config.btrfs_snapshots.subvolumes;
    let left: Vec<String> = (all.iter().filter(|name| !taken.contains(&name.as_str())))
        .cloned()
        .collect();
    if left.is_empty() {
        return Ok(());
    }
    take(run, pair, SnapshotKind::Postsync, &left)
}

/// Postsync snapshots of the subvolumes that hold mirrored folders, right after the last module
/// that mirrors: what other programs write from now on is none of the anchor's.
pub(super) fn mirrored(run: &mut Run, pair: &Pair) -> Result<(), RunError> {
    let modules = run.selection.foreground.iter();
    let folders: Vec<String> = modules
        .flat_map(|module| module.mirrors(&run.shared.config))
        .collect();
    let facts = [&run.facts.source_subvolumes, &run.facts.target_subvolumes];
    let holds = |name: &String| {
        facts.iter().any(|subvolumes| {
            let mut holders = folders.iter().filter_map(|f| space::holder(subvolumes, f));
            holders.any(|s| s.name == *name)
        })
    };
    let all = &run.shared.config.btrfs_snapshots.subvolumes;
    let wanted: Vec<String> = all.iter().filter(|name| holds(name)).cloned().collect();
    if wanted.is_empty() {
        return Ok(());
    }
    take(run, pair, SnapshotKind::Postsync, &wanted)
}

/// What the next sync of the two can start from: asked of the module that mirrors, if nothing
/// went wrong but what is over with the run. Without it the sync is as good.
pub(super) fn anchor(run: &mut Run, pair: &Pair) -> Result<(), RunError> {
    let counts = run.tally.counts();
    if counts.errors > record::over(run, &counts) {
        return Ok(());
    }
    let facts = Arc::make_mut(&mut run.facts);
    facts
        .target_postsync
        .clone_from(&run.target_snapshots.postsync);
    for module in &mut run.selection.foreground {
        let name = module.name();
        let context = context(&run.shared, pair, &run.facts, name);
        if let Some(mirrored) = module.mirrored(&context).map_err(RunError::module(name))? {
            run.mirrored = Some(mirrored);
        }
    }
    Ok(())
}

fn take(
    run: &mut Run,
    pair: &Pair,
    kind: SnapshotKind,
    subvolumes: &[String],
) -> Result<(), RunError> {
    let created = btrfs_snapshots::create(
        &pair.source.machine,
        &pair.target.machine,
        &run.shared.config.btrfs_snapshots.snapshot_dir,
        subvolumes,
        run.session.id(),
        kind,
    );
    let mut first_error = None;
    for (host, result) in [
        (Host::Source, created.source),
        (Host::Target, created.target),
    ] {
        match result {
            Ok(made) => {
                let names: Vec<&str> = made.iter().map(|s| s.name.as_str()).collect();
                run.log(
                    LogLevel::Full,
                    Some(host),
                    format!("created {}", names.join(", ")),
                );
                let own = run.snapshots_mut(host);
                match kind {
                    SnapshotKind::Presync => own.presync = made,
                    SnapshotKind::Postsync => own.postsync.extend(made),
                }
            }
            Err(source) => {
                let error = match RunError::agent("making snapshots")(source) {
                    RunError::Agent { source, .. } => RunError::Snapshots {
                        phase: kind.word(),
                        host,
                        source,
                    },
                    other => other,
                };
                first_error.get_or_insert(error);
            }
        }
    }
    first_error.map_or(Ok(()), Err)
}
