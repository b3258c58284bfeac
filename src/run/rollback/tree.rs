//! One subvolume put back in place: what that changes, and doing it.
//!
//! The agent mirrors the presync snapshot onto the live subvolume it was made of. What a sync does not
//! touch is not touched: what the folders' filters exclude, nested subvolumes, mounts; and neither is
//! our own memory, without which nobody would know of the rollback.

use std::path::Path;

use super::Work;
use crate::agent::client::AgentError;
use crate::escape::escape_bytes;
use crate::event::{Event, ProgressEvent, ProgressUpdate};
use crate::mirror::local::{FolderRules, LocalPlan, Side, client};
use crate::mirror::told;
use crate::mirror::wire::{Message, MirrorReply, PlanTotals};
use crate::modules::space::holder;
use crate::modules::user_data::read_rules;
use crate::record::state::STATE_DIR;
use crate::run::Visit;
use crate::run::error::RunError;
use crate::run::met::Met;
use crate::snapshot::{SnapshotFacts, Subvolume};

/// A subvolume that goes back to a snapshot.
#[derive(Debug, Clone)]
pub struct Tree {
    /// The subvolume as it is mounted.
    pub subvolume: Subvolume,
    /// What it goes back to.
    pub snapshot: SnapshotFacts,
    /// What that changes, once it was compared.
    pub totals: PlanTotals,
    /// What is left as it is, by kind.
    pub left: Vec<(String, u64)>,
    /// What could not be put back.
    pub errors: u64,
    /// Whether it is the running root, which is exchanged for the next boot instead of being changed.
    pub is_exchanged: bool,
    /// After that: the flat name that the running one is kept under.
    pub kept: Option<String>,
}

impl Tree {
    /// Not compared yet.
    #[must_use]
    pub fn new(subvolume: Subvolume, snapshot: SnapshotFacts) -> Self {
        Self {
            subvolume,
            snapshot,
            totals: PlanTotals::default(),
            left: Vec::new(),
            errors: 0,
            is_exchanged: false,
            kept: None,
        }
    }

    /// Where it is, for people.
    #[must_use]
    pub fn place(&self) -> &str {
        &self.subvolume.mount_point
    }

    /// Everything that will change.
    #[must_use]
    pub fn changes(&self) -> u64 {
        let totals = &self.totals;
        totals.changes()
    }

    /// Has the agent compare; it keeps the plan under the subvolume's name. With `own`, a snapshot of the
    /// subvolume as it is now, that costs what differs.
    pub fn compare(
        &mut self,
        work: &Work<'_>,
        met: &Met,
        mounted: &[Subvolume],
        own: Option<&SnapshotFacts>,
    ) -> Result<(), RunError> {
        let wanted = LocalPlan {
            id: self.subvolume.name.clone(),
            from: self.snapshot.path.clone().into_bytes(),
            to: self.subvolume.mount_point.clone().into_bytes(),
            older: Some(Side::From),
            rules: self.rules(work, mounted)?,
            protected: self.protected(work, mounted),
            // A dry run makes no copy; what would be changed in it is what differs now.
            to_copy: self.is_exchanged && !work.options.dry_run,
            newer: own.map(|own| own.path.clone().into_bytes()),
            own_rules: true,
            ..LocalPlan::default()
        };
        let place = self.place().to_owned();
        let mut progress = |message: &Message<'_>| {
            if let Message::Progress { items, path, .. } = message {
                work.progress(ProgressUpdate {
                    current: Some(*items),
                    item: Some(format!("comparing {}", within(&place, path))),
                    ..ProgressUpdate::default()
                });
            }
            Ok(())
        };
        let doing = || RunError::agent(format!("comparing {} with its snapshot", self.place()));
        let reply = client::plan(&met.agent, wanted, &mut progress).map_err(doing())?;
        self.left = left(&reply);
        self.totals = reply.plan.unwrap_or_default();
        Ok(())
    }

    /// The filters of the folders in it.
    fn rules(&self, work: &Work<'_>, mounted: &[Subvolume]) -> Result<Vec<FolderRules>, RunError> {
        let mut all = Vec::new();
        for folder in &work.config.user_data.folders {
            let Some(below) = self.below(&folder.path, mounted) else {
                continue;
            };
            let (rules, origin) = read_rules(folder).map_err(|(message, _)| RunError::Usage {
                message,
                hint: "what a sync excludes, a rollback leaves as it is: correct \
                       user_data.folders"
                    .to_owned(),
            })?;
            all.push(FolderRules {
                below,
                rules,
                origin,
            });
        }
        Ok(all)
    }

    /// What must survive whatever the snapshot says.
    fn protected(&self, work: &Work<'_>, mounted: &[Subvolume]) -> Vec<Vec<u8>> {
        let ours = [STATE_DIR, &work.config.btrfs_snapshots.snapshot_dir];
        let ours = ours
            .into_iter()
            .chain(work.protected.iter().map(String::as_str));
        let below = ours.filter_map(|path| self.below(path, mounted));
        below.filter(|path| !path.is_empty()).collect()
    }

    /// `path` relative to the subvolume, if that is what holds it.
    fn below(&self, path: &str, mounted: &[Subvolume]) -> Option<Vec<u8>> {
        let held_by = holder(mounted, path)?;
        if held_by.name != self.subvolume.name {
            return None;
        }
        let rest = Path::new(path).strip_prefix(&held_by.mount_point).ok()?;
        Some(rest.to_str()?.as_bytes().to_vec())
    }

    /// Calls `visit` with every change of the plan.
    pub fn each_change(&self, met: &Met, visit: &mut Visit<'_>) -> Result<(), AgentError> {
        client::each_change(&met.agent, &self.subvolume.name, &mut |change| {
            visit(&told::within(self.place().as_bytes(), change));
            Ok(())
        })
    }

    /// Carries out the plan. `before` has been done already, of `total` changes in all.
    pub fn apply(
        &mut self,
        work: &Work<'_>,
        met: &Met,
        before: u64,
        total: u64,
    ) -> Result<(), RunError> {
        let place = self.place().to_owned();
        let mut progress = |message: &Message<'_>| {
            if let Message::Progress { items, path, .. } = message {
                work.progress(ProgressUpdate {
                    current: Some(before + items),
                    total: Some(total),
                    item: Some(within(&place, path)),
                    ..ProgressUpdate::default()
                });
            }
            Ok(())
        };
        let changes = format!("put {place} back to its state before session {}", work.of);
        let doing = || RunError::agent(format!("putting {place} back"));
        let agent = &met.agent;
        let reply = client::apply(agent, &self.subvolume.name, &changes, &mut progress);
        self.errors = reply.map_err(doing())?.errors;
        Ok(())
    }
}

/// A path in a subvolume, for people.
fn within(place: &str, path: &[u8]) -> String {
    format!("{}/{}", place.trim_end_matches('/'), escape_bytes(path))
}

/// What was left as it is: the kinds of notes that are no trouble.
fn left(reply: &MirrorReply) -> Vec<(String, u64)> {
    let notes = reply.notes.iter();
    notes.map(|(kind, count)| (kind.clone(), *count)).collect()
}

impl Work<'_> {
    /// Tells how far it is.
    pub(super) fn progress(&self, update: ProgressUpdate) {
        self.events.emit(&Event::Progress(ProgressEvent {
            timestamp: jiff::Timestamp::now(),
            module: super::NAME.to_owned(),
            update,
        }));
    }
}
