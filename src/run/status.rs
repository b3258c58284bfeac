//! Where a machine stands: its last sync with each other one, a run that died, what was changed on it since,
//! and what its snapshots hold.
//!
//! Looks only. What was changed is what the kernel says of a snapshot made for the question, which is gone
//! afterwards, so that it costs what was changed and not what there is.

use std::time::Duration;

use jiff::Timestamp;

use super::error::RunError;
use super::met::{Meets, Met};
use crate::agent::client::AgentError;
use crate::change::Change;
use crate::config::Config;
use crate::escape::escape_str;
use crate::event::{Event, EventSink, Host, ProgressEvent, ProgressUpdate, SessionState};
use crate::figures;
use crate::mirror::local::{FolderRules, LocalPlan, Side, client};
use crate::mirror::told;
use crate::mirror::wire::{Message, PlanTotals};
use crate::modules::space::holder;
use crate::modules::user_data::read_rules;
use crate::record::anchor::{self, Anchor};
use crate::record::sessions::undone;
use crate::record::{HistoryEntry, Incomplete, LockHolder, MachineName, MachineState};
use crate::snapshot::name::SnapshotName;
use crate::snapshot::space::Held;
use crate::snapshot::{SnapshotFacts, Subvolume};

/// The name it goes by among modules.
pub const NAME: &str = "status";

/// How long it may take to find out what snapshots hold: there is an answer within two seconds.
pub(super) const SPACE_LIMIT: Duration = Duration::from_millis(800);

/// Everything a look is given.
pub struct Work<'a> {
    /// The checked configuration.
    pub config: &'a Config,
    /// Where events go.
    pub events: &'a EventSink,
}

/// Where a machine stands.
#[derive(Debug)]
pub struct Standing {
    /// The machine.
    pub machine: String,
    /// A sync that is at work on it.
    pub running: Option<LockHolder>,
    /// A run that began to change it, or another one from it, and did not end well.
    pub incomplete: Option<Incomplete>,
    /// The other machines, the one it met last first.
    pub others: Vec<Other>,
    /// The snapshots of syncs on it, oldest first.
    pub snapshots: Vec<SnapshotFacts>,
    /// What they hold that nothing else does.
    pub held: Held,
    agent: Met,
}

/// What is between a machine and another one.
#[derive(Debug)]
pub struct Other {
    /// The other one.
    pub machine: MachineName,
    /// The last sync of the two, however it ended.
    pub last: HistoryEntry,
    /// Whether that was rolled back.
    pub is_undone: bool,
    /// The session that has left both equal, and the folders that were.
    pub anchor: Option<String>,
    /// What was changed here in each of them since.
    pub folders: Vec<Folder>,
}

/// What was changed in a folder.
#[derive(Debug)]
pub struct Folder {
    /// The folder.
    pub path: String,
    /// When all of it was compared with the other machine last.
    pub full_scan_at: Timestamp,
    /// What was changed since both were equal, or why that cannot be told.
    pub changed: Result<PlanTotals, String>,
    /// Why everything had to be looked at to say so.
    pub full_scan: Option<String>,
    /// The plan's name with the agent.
    id: String,
}

impl Folder {
    /// What is known of a folder that has no plan.
    #[must_use]
    pub fn new(path: &str, full_scan_at: Timestamp, changed: Result<PlanTotals, String>) -> Self {
        Self {
            path: path.to_owned(),
            full_scan_at,
            changed,
            full_scan: None,
            id: String::new(),
        }
    }

    /// How many paths.
    #[must_use]
    pub fn count(&self) -> u64 {
        let totals = self.changed.as_ref().ok();
        totals.map_or(0, PlanTotals::changes)
    }
}

/// Where this machine stands; and with `host` that one too, as far as the two have to do with each other.
pub fn status(
    meets: &mut dyn Meets,
    work: &Work<'_>,
    host: Option<&str>,
) -> Result<Vec<Standing>, RunError> {
    let here = meets.local()?;
    let Some(host) = host else {
        return Ok(vec![look(work, &here, None)?]);
    };
    let there = meets.remote(host)?;
    let (own, other) = (here.machine(), there.machine());
    // Both at once: neither waits for the other's disk.
    let (looked, looked_there) = std::thread::scope(|scope| {
        let name = std::thread::Builder::new().name("status".into());
        let looking = name.spawn_scoped(scope, || look(work, &here, Some(&other)));
        let looked_there = look(work, &there, Some(&own));
        let looked = match looking {
            Ok(thread) => thread.join().expect("looking does not panic"),
            Err(_) => look(work, &here, Some(&other)),
        };
        (looked, looked_there)
    });
    Ok(vec![looked?, looked_there?])
}

/// The last sync with each other machine, the newest first.
fn last_syncs(state: &MachineState) -> Vec<&HistoryEntry> {
    let mut last: Vec<&HistoryEntry> = Vec::new();
    for entry in state.history.iter().rev() {
        let other = &entry.partner().machine_id;
        let is_known = last
            .iter()
            .any(|known| known.partner().machine_id == *other);
        if entry.rollback_of.is_none() && !is_known {
            last.push(entry);
        }
    }
    last
}

/// The newest anchor with a machine, and the session that has left it.
fn newest_anchor<'a>(
    state: &'a MachineState,
    other: &MachineName,
) -> Option<(&'a HistoryEntry, &'a Anchor)> {
    let mut all = state.history.iter().rev();
    all.find_map(|entry| {
        let is_with = entry.partner().machine_id == other.machine_id;
        anchor::of(entry)
            .filter(|_| is_with)
            .map(|anchor| (entry, anchor))
    })
}

/// Where a machine stands, as far as that can be seen without writing anything, in one line; `None` if no sync has
/// left anything there.
pub(super) fn at_a_glance(
    state: &MachineState,
    snapshots: &[SnapshotFacts],
    held: &Held,
) -> Option<String> {
    let undone = undone(&state.history);
    let time = |at: Timestamp| at.strftime("%F %T UTC").to_string();
    let mut parts = Vec::new();
    for last in last_syncs(state).into_iter().take(3) {
        let (direction, other) = match last.role {
            Host::Source => ("to", last.partner()),
            Host::Target => ("from", last.partner()),
        };
        let (at, other) = (time(last.ended_at), escape_str(&other.hostname));
        let end = match last.state {
            SessionState::Completed if undone.contains(&last.session) => "rolled back since",
            SessionState::Completed => "completed",
            SessionState::Aborted => "stopped",
            _ => "failed",
        };
        parts.push(format!("synced {direction} {other} {at}, {end}"));
        let anchor = newest_anchor(state, last.partner());
        let folders = anchor.into_iter().flat_map(|(_, a)| a.folders.values());
        if let Some(oldest) = folders.map(|folder| folder.full_scan_at).min() {
            parts.push(format!("everything compared {}", time(oldest)));
        }
    }
    if !snapshots.is_empty() {
        let least = if held.complete { "" } else { "at least " };
        parts.push(format!(
            "{}, only they hold {least}{}",
            figures::counted(snapshots.len() as u64, "snapshot"),
            figures::bytes(held.freed(|_| true))
        ));
    }
    if parts.is_empty() {
        return None;
    }
    parts.push("`pc-switcher status` tells what was changed since".to_owned());
    Some(parts.join("; "))
}

fn look(work: &Work<'_>, met: &Met, only: Option<&MachineName>) -> Result<Standing, RunError> {
    let state = met.state()?;
    let running = met.health()?.lock;
    let undone = undone(&state.history);
    let dir = &work.config.btrfs_snapshots.snapshot_dir;
    let mut others = Vec::new();
    for last in last_syncs(&state) {
        let machine = last.partner();
        if only.is_some_and(|only| only.machine_id != machine.machine_id) {
            continue;
        }
        let mut other = Other {
            machine: machine.clone(),
            last: last.clone(),
            is_undone: undone.contains(&last.session),
            anchor: None,
            folders: Vec::new(),
        };
        // While a sync is at work, what it writes is not what a person has changed.
        if let Some((entry, anchor)) = newest_anchor(&state, machine).filter(|_| running.is_none())
        {
            other.anchor = Some(entry.session.clone());
            other.folders = since(work, met, (entry, anchor), others.len())?;
        }
        others.push(other);
    }
    Ok(Standing {
        machine: met.name(),
        running,
        incomplete: state.incomplete.clone(),
        others,
        snapshots: met.snapshots(dir, false)?,
        held: met.held(dir, SPACE_LIMIT)?,
        agent: met.clone(),
    })
}

/// What was changed in every folder since the anchor.
fn since(
    work: &Work<'_>,
    met: &Met,
    (entry, anchor): (&HistoryEntry, &Anchor),
    number: usize,
) -> Result<Vec<Folder>, RunError> {
    let half = anchor.half(entry.role);
    let names = half.iter().map(|snapshot| snapshot.subvolume.clone());
    let dir = &work.config.btrfs_snapshots.snapshot_dir;
    let mounted = met.subvolumes(names.collect(), dir)?.found;
    let mut folders = Vec::new();
    for (path, anchored) in &anchor.folders {
        let id = format!("{number} {path}");
        let compared = compare(work, met, path, half, &mounted, &id)?;
        let (changed, full_scan) = match compared {
            Ok((totals, full_scan)) => (Ok(totals), full_scan),
            Err(why) => (Err(why), None),
        };
        folders.push(Folder {
            full_scan,
            id,
            ..Folder::new(path, anchored.full_scan_at, changed)
        });
    }
    Ok(folders)
}

/// Compares a folder with its state in `half`; why that cannot be done is no error.
fn compare(
    work: &Work<'_>,
    met: &Met,
    folder: &str,
    half: &[SnapshotFacts],
    mounted: &[Subvolume],
    id: &str,
) -> Result<Result<(PlanTotals, Option<String>), String>, RunError> {
    let Some(subvolume) = holder(mounted, folder) else {
        return Ok(Err("its subvolume is not mounted".to_owned()));
    };
    let Some(then) = half.iter().find(|s| s.subvolume == subvolume.name) else {
        return Ok(Err("it was elsewhere then".to_owned()));
    };
    let top = subvolume.mount_point.trim_end_matches('/').len();
    let below = folder[top..].trim_matches('/').as_bytes();
    let mut rules = Vec::new();
    let configured = work.config.user_data.folders.iter();
    for folder in configured.filter(|configured| configured.path == folder) {
        let (text, origin) = read_rules(folder).map_err(|(message, _)| RunError::Usage {
            message,
            hint: "correct user_data.folders".to_owned(),
        })?;
        rules.push(FolderRules {
            below: Vec::new(),
            rules: text,
            origin,
        });
    }
    let then = told::below(then.path.as_bytes(), below);
    let wanted = LocalPlan {
        id: id.to_owned(),
        to: then.strip_suffix(b"/").unwrap_or(&then).to_vec(),
        older: Some(Side::To),
        rules,
        own_rules: true,
        ..LocalPlan::default()
    };
    let mut progress = |message: &Message<'_>| {
        if let Message::Progress { items, .. } = message {
            work.events.emit(&Event::Progress(ProgressEvent {
                timestamp: Timestamp::now(),
                module: NAME.to_owned(),
                update: ProgressUpdate {
                    current: Some(*items),
                    item: Some(format!("comparing {folder} with what it was")),
                    ..ProgressUpdate::default()
                },
            }));
        }
        Ok(())
    };
    let place = (
        &*work.config.btrfs_snapshots.snapshot_dir,
        &*subvolume.name,
        below,
    );
    match client::since(&met.agent, wanted, place, &mut progress) {
        Ok(reply) => Ok(Ok((reply.plan.unwrap_or_default(), reply.full_scan))),
        Err(AgentError::Fault { fault, .. }) => Ok(Err(fault.message)),
        Err(error) => Err(RunError::agent("comparing")(error)),
    }
}

impl Standing {
    /// Calls `visit` with everything that was changed in a folder.
    pub fn each_change(
        &self,
        folder: &Folder,
        visit: &mut dyn FnMut(&Change) -> Result<(), AgentError>,
    ) -> Result<(), RunError> {
        client::each_change(&self.agent.agent, &folder.id, &mut |change| {
            visit(&told::within(folder.path.as_bytes(), change))
        })
        .map_err(RunError::agent("listing what was changed"))
    }

    /// Bytes that would be free if the snapshots of a session were gone, oldest session first.
    #[must_use]
    pub fn space(&self) -> Vec<(String, u64)> {
        let names = self
            .snapshots
            .iter()
            .filter_map(|facts| SnapshotName::parse(&facts.name));
        let mut sessions: Vec<String> = names.map(|name| name.session).collect();
        sessions.dedup();
        let of = |session: &str, name: &str| {
            SnapshotName::parse(name).is_some_and(|name| name.session == session)
        };
        let bytes = |session: &String| self.held.freed(|name| of(session, name));
        sessions
            .iter()
            .map(|session| (session.clone(), bytes(session)))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::anchor::Recorded;
    use crate::record::testing::{anchor, entry};

    #[test]
    fn the_last_sync_with_each_machine_counts_and_the_last_anchor() {
        let with_anchor = |session: &str, from: &str, to: &str| HistoryEntry {
            anchor: Some(Recorded::Anchor(Box::new(anchor(session)))),
            ..entry(session, from, to, SessionState::Completed)
        };
        let mut pulled = with_anchor("00000002", "vega", "atlas");
        pulled.role = Host::Target;
        let mut rollback = entry("00000005", "atlas", "vega", SessionState::Completed);
        rollback.rollback_of = Some("00000004".to_owned());
        let state = MachineState {
            history: vec![
                with_anchor("00000001", "atlas", "lyra"),
                pulled,
                entry("00000003", "atlas", "lyra", SessionState::Failed),
                entry("00000004", "atlas", "vega", SessionState::Failed),
                rollback,
            ],
            incomplete: None,
        };
        let last = last_syncs(&state);
        let sessions: Vec<&str> = last.iter().map(|entry| &*entry.session).collect();
        assert_eq!(sessions, ["00000004", "00000003"]);
        let anchors: Vec<&str> = (last.iter())
            .filter_map(|entry| newest_anchor(&state, entry.partner()))
            .map(|(entry, _)| &*entry.session)
            .collect();
        assert_eq!(anchors, ["00000002", "00000001"]);
    }
}
