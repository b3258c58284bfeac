//! What a scan may start from, and what the next one may: filters in one word, and anchors.

use std::collections::BTreeMap;

use super::Planned;
use crate::mirror::RULES;
use crate::mirror::filter::{Filter, SHIPPED};
use crate::module::SessionFacts;
use crate::modules::space;
use crate::record::anchor::{Anchor, AnchoredFolder};
use crate::snapshot::{SnapshotFacts, Subvolume};

/// What a filter means, in one word: two that are equal mirror the same paths the same way.
///
/// Besides the rules it says which version of the mirror read them: what an older one took for
/// equal need not be.
#[must_use]
pub fn digest(filter: &Filter) -> String {
    let mut shipped = blake3::Hasher::new();
    for (name, text) in SHIPPED {
        shipped.update(name.as_bytes());
        shipped.update(text.as_bytes());
    }
    let shipped = shipped.finalize().to_hex();
    format!("{RULES}.{}:{}", &shipped[..8], filter.digest())
}

/// Whether `folder` was mirrored with the filter `now` when `then` was noted.
#[must_use]
pub fn is_unchanged(then: &BTreeMap<String, String>, folder: &str, now: &str) -> bool {
    then.get(folder).is_some_and(|digest| digest == now)
}

/// This session's snapshots as an anchor of the folders that were mirrored, or why they are none.
pub(super) fn anchor(session: &SessionFacts, folders: &[Planned]) -> Result<Anchor, String> {
    let half = |subvolumes: &[Subvolume], snapshots: &[SnapshotFacts]| {
        let mut half = Vec::<SnapshotFacts>::new();
        for folder in folders {
            let holder = space::holder(subvolumes, &folder.path);
            let found = holder.and_then(|h| snapshots.iter().find(|s| s.subvolume == h.name));
            let Some(found) = found else {
                return Err(format!("{} is in no snapshot", folder.path));
            };
            if !half.contains(found) {
                half.push(found.clone());
            }
        }
        Ok(half)
    };
    let anchored = |folder: &Planned| AnchoredFolder {
        entries: folder.totals.existing,
        full_scan_at: jiff::Timestamp::now(),
        own_rules: false,
        left: Vec::new(),
    };
    Ok(Anchor {
        source: half(&session.source_subvolumes, &session.source_presync)?,
        target: half(&session.target_subvolumes, &session.target_postsync)?,
        folders: (folders.iter())
            .map(|folder| (folder.path.clone(), anchored(folder)))
            .collect(),
    })
}
