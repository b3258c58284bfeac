//! After the sync: which paths are not equal all the same, and the anchor that leaves them out.
//!
//! People and programs may write to the target while a plan is carried out. What was written there
//! between the presync and the postsync snapshot, and what was planned, is compared once more with
//! what the source had, in the snapshots, where nothing moves. What differs was not ours; it is named
//! and looked at by the next sync.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;

use super::basis::{ask, place, under};
use super::{Planned, scan};
use crate::agent::client::AgentError;
use crate::escape::escape_bytes;
use crate::event::{Host, LogLevel};
use crate::figures::counted;
use crate::mirror::entry::Time;
use crate::mirror::relay::run_alone;
use crate::mirror::tree::Trust;
use crate::mirror::wire::{
    DiffFolder, DiffRequest, Message, MirrorRequest, PlanTotals, Restricted,
};
use crate::module::{ModuleContext, ModuleError, SessionFacts};
use crate::record::anchor::{Anchor, AnchoredFolder, LEFT_MAX, LeftPath};
use crate::snapshot::SnapshotFacts;

/// The anchor of this session's snapshots, or why there is none.
pub(super) fn anchor(
    context: &ModuleContext<'_>,
    folders: &[Planned],
) -> Result<Result<Anchor, String>, ModuleError> {
    let mut anchored = BTreeMap::new();
    for folder in folders {
        let left = match left(context, folder) {
            Ok(Ok(left)) => left,
            Ok(Err(why)) => return Ok(Err(why)),
            Err(ModuleError::Agent(AgentError::Fault { fault, .. })) => {
                return Ok(Err(fault.message));
            }
            Err(error) => return Err(error),
        };
        let totals = &folder.totals;
        let before = folder.start.anchored.as_ref();
        let full_scan_at = match before {
            Some(before) if folder.start.full_scan.is_none() => before.full_scan_at,
            _ => Timestamp::now(),
        };
        let own_rules = folder.own_rules
            || before.is_some_and(|b| b.own_rules && folder.start.full_scan.is_none());
        anchored.insert(
            folder.path.clone(),
            AnchoredFolder {
                entries: (totals.existing + totals.created).saturating_sub(totals.deleted),
                full_scan_at,
                own_rules,
                left: left.into_iter().collect(),
            },
        );
    }
    let anchor = halves(context.session, folders).map(|(source, target)| Anchor {
        source,
        target,
        folders: anchored,
    });
    Ok(anchor.and_then(|anchor| {
        if anchor.fits() {
            Ok(anchor)
        } else {
            Err("too many paths stay different".to_owned())
        }
    }))
}

/// The snapshots that hold the folders: the source's from before, the target's from after.
fn halves(
    session: &SessionFacts,
    folders: &[Planned],
) -> Result<(Vec<SnapshotFacts>, Vec<SnapshotFacts>), String> {
    let half = |subvolumes, snapshots: &[SnapshotFacts]| {
        let mut half = Vec::<SnapshotFacts>::new();
        for folder in folders {
            let holder = place(subvolumes, &folder.path).map(|(name, _)| name);
            let Some(found) = snapshots.iter().find(|s| Some(&*s.subvolume) == holder) else {
                return Err(format!("{} is in no snapshot", folder.path));
            };
            if !half.contains(found) {
                half.push(found.clone());
            }
        }
        Ok(half)
    };
    Ok((
        half(&session.source_subvolumes, &session.source_presync)?,
        half(&session.target_subvolumes, &session.target_postsync)?,
    ))
}

/// To have the filesystem tell of one change and to look it up takes as long as to look at so many
/// entries, when all are looked at (measured: 160 µs and 5 µs).
const MUCH: u64 = 16;
/// The same if all have been looked at just before.
const MUCH_AFTER_FULL_SCAN: u64 = 8;
/// Fewer changes are looked up one by one after a comparison of what may differ.
const MUCH_MIN: u64 = 1000;
/// A file of which only a name has changed is read when all is compared: as much of them is no matter.
const TOUCHED_MAX: u64 = 32 << 20;

/// How much of a folder has to be compared once more.
enum Changed {
    Nothing,
    Few,
    Much,
}

/// Whether it costs less to compare all than to have the filesystem find what was changed, and to look
/// it up.
fn is_much(totals: &PlanTotals, is_after_full_scan: bool) -> bool {
    let (planned, entries) = (totals.changes(), totals.existing + totals.created);
    if is_after_full_scan {
        return planned > entries / MUCH_AFTER_FULL_SCAN;
    }
    // Where nothing but what was planned was compared before, no content is to be read for it now.
    planned >= MUCH_MIN && planned > entries / MUCH && totals.touched <= TOUCHED_MAX
}

/// What was changed between two snapshots of the target, or why that cannot be known.
fn changed(
    context: &ModuleContext<'_>,
    folder: &Planned,
    older: SnapshotFacts,
    newer: &SnapshotFacts,
    below: &str,
) -> Result<Result<Changed, String>, ModuleError> {
    if is_much(&folder.totals, folder.start.full_scan.is_some()) {
        return Ok(Ok(Changed::Much));
    }
    let request = DiffRequest {
        older,
        newer: Some(newer.path.clone()),
        folders: vec![DiffFolder {
            below: below.to_owned(),
            root: under(&newer.path, below),
            rules: false,
            plan: Some(folder.path.clone()),
        }],
        own_writes: true,
    };
    Ok(ask(context, Host::Target, request)?.map(|reply| {
        if reply.full_scan.is_some() {
            Changed::Much
        } else if reply.items > 0 {
            Changed::Few
        } else {
            Changed::Nothing
        }
    }))
}

/// Paths of a folder that are not equal in this session's snapshots.
fn left(
    context: &ModuleContext<'_>,
    folder: &Planned,
) -> Result<Result<BTreeSet<LeftPath>, String>, ModuleError> {
    let session = context.session;
    let too_many = || Ok(Err("too many paths stay different".to_owned()));
    if folder.left_more {
        return too_many();
    }
    let Some((name, below)) = place(&session.target_subvolumes, &folder.path) else {
        return Ok(Err(format!(
            "{} is on no configured subvolume",
            folder.path
        )));
    };
    let named = |all: &[SnapshotFacts]| all.iter().find(|s| s.subvolume == name).cloned();
    let (Some(before), Some(after)) = (
        named(&session.target_presync),
        named(&session.target_postsync),
    ) else {
        return Ok(Err(format!("there are no snapshots of {name}")));
    };
    let root = under(&after.path, below);
    let mut left: BTreeSet<LeftPath> = folder.left.iter().cloned().collect();
    let mut trees = scan::trees(context, folder, false);
    trees[1].root.clone_from(&root);
    trees[0].trust = Some(Trust::until(Time {
        secs: i64::MAX,
        nanos: 0,
    }));
    let scanned = match changed(context, folder, before, &after, below)? {
        Ok(Changed::Nothing) => return Ok(Ok(left)),
        Ok(Changed::Few) => {
            // What the mirror has put there is as it was sent; what was touched since is not believed.
            trees[1].trust = folder.applied.map(|(_, ended)| Trust::until(ended));
            trees[0].restricted = Some(Restricted::default());
            trees[1].restricted = Some(Restricted {
                found: true,
                ..Restricted::default()
            });
            scan::restricted(context, &folder.path, trees)?
        }
        Ok(Changed::Much) => {
            // The same, and what was there before and was touched since is not believed either.
            trees[1].trust = folder.applied.map(|(begun, ended)| Trust {
                equal_at: ended,
                ours_since: Some(begun),
            });
            Ok(scan::once(context, &folder.path, &trees)?)
        }
        Err(why) => return Ok(Err(why)),
    };
    let target = match scanned {
        Ok((_, target)) => target,
        Err(why) => return Ok(Err(why)),
    };
    let mut others = 0;
    let mut shown = Vec::new();
    run_alone(
        &context.target.agent,
        &MirrorRequest::ListPlan { root },
        &mut |message| {
            if let Message::Change { path, .. } = message {
                others += 1;
                if left.len() <= LEFT_MAX {
                    shown.push(escape_bytes(path));
                    left.insert(LeftPath(path.to_vec()));
                }
            }
            Ok(())
        },
    )?;
    left.extend(target.left);
    for path in shown {
        let text = format!("{}/{path}: changed while it was synced", folder.path);
        context.log(LogLevel::Full, Host::Target, text);
    }
    if others > 0 {
        let text = format!(
            "{} below {} changed on {} during the sync and stay for the next one",
            counted(others, "path"),
            folder.path,
            context.target.hostname
        );
        context.decide("changed_meanwhile", Host::Target, text);
    }
    if left.len() > LEFT_MAX || target.left_more {
        return too_many();
    }
    Ok(Ok(left))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_changes_of_few_entries_are_compared_whole() {
        let totals = |changed, existing, touched| PlanTotals {
            changed,
            existing,
            touched,
            ..PlanTotals::default()
        };
        for (changed, existing, touched, after_full, after_anchor) in [
            (0, 0, 0, false, false),
            (20_000, 100_000, 0, true, true),
            // A share that is worth it, but few; many, but a small share.
            (900, 1000, 0, true, false),
            (1000, 15_999, 0, false, true),
            (1000, 16_000, 0, false, false),
            // Links to large files: all of them would be read.
            (20_000, 100_000, TOUCHED_MAX + 1, true, false),
        ] {
            let totals = totals(changed, existing, touched);
            assert_eq!(
                (is_much(&totals, true), is_much(&totals, false)),
                (after_full, after_anchor),
                "{totals:?}"
            );
        }
    }
}
