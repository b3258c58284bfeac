//! Phases 5 and 8: the way back, and the state a good sync left behind.

use std::sync::Arc;

use jiff::Timestamp;

use super::error::RunError;
use super::{Pair, Run, context, execute};
use crate::event::{Host, LogLevel};
use crate::module::ModuleKind;
use crate::modules::btrfs_snapshots;
use crate::snapshot::name::SnapshotKind;

/// Presync snapshots on both machines; a failure on either stops here, with nothing changed.
pub(super) fn presync(run: &mut Run, pair: &Pair) -> Result<(), RunError> {
    let began = Timestamp::now();
    take(run, pair, SnapshotKind::Presync)?;
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
                .push_result(execute::success(btrfs_snapshots::NAME, began, summary));
        }
    }
    Ok(())
}

/// Postsync snapshots on both machines.
pub(super) fn postsync(run: &mut Run, pair: &Pair) -> Result<(), RunError> {
    take(run, pair, SnapshotKind::Postsync)
}

fn take(run: &mut Run, pair: &Pair, kind: SnapshotKind) -> Result<(), RunError> {
    let created = btrfs_snapshots::create(
        &pair.source.machine,
        &pair.target.machine,
        &run.shared.config.btrfs_snapshots,
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
                    SnapshotKind::Postsync => own.postsync = made,
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
