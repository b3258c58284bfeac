//! Phase 9, and the markers: what both machines remember of a run.
//!
//! A marker says that a run has begun to change this machine. It is on both machines before the
//! first change; it is removed last, after both histories were written.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;

use super::error::RunError;
use super::prune::{delete, what_goes};
use super::watch::Counts;
use super::{Pair, Peer, Run};
use crate::agent::client::{AgentError, PendingCall};
use crate::agent::protocol::Request;
use crate::event::{Host, LogLevel, ModuleStatus, SessionState};
use crate::record::anchor::Recorded;
use crate::record::{Changed, HistoryEntry, Incomplete};
use crate::snapshot::SnapshotFacts;
use crate::snapshot::retention::{Policy, days};

/// How long taking back a marker may take.
const UNMARK_LIMIT: Duration = Duration::from_secs(5);

/// Writes or updates the markers on both machines: where the run is now.
pub(super) fn mark(run: &mut Run, pair: &Pair, module: Option<&str>) -> Result<(), RunError> {
    let marker = Incomplete {
        session: run.session.id().to_owned(),
        role: Host::Source,
        source: pair.source.machine.hostname.clone(),
        target: pair.target.machine.hostname.clone(),
        started_at: run.session.started_at(),
        phase: run.phase,
        module: module.map(str::to_owned),
        presync: Vec::new(),
        address: Some(run.shared.options.host.clone()),
        rollback_of: None,
        settles: None,
    };
    let is_first = run.incomplete.replace(marker.clone()).is_none();
    let request = |peer: &Peer| {
        let host = peer.machine.host;
        let presync = &run.snapshots(host).presync;
        Request::WriteIncomplete(Some(Incomplete {
            role: host,
            presync: presync.iter().map(|s| s.name.clone()).collect(),
            ..marker.clone()
        }))
    };
    let written = on_both(pair, request);
    if written.is_err() && is_first && unmark(pair).is_ok() {
        // Nothing was changed, and neither machine says otherwise.
        run.incomplete = None;
    }
    written.map_err(RunError::agent("noting that the sync has begun"))
}

/// Takes back markers of a run that has not changed anything yet, whatever asked it to stop.
fn unmark(pair: &Pair) -> Result<(), AgentError> {
    for peer in pair.both() {
        let agent = peer.machine.agent.cleaning_up();
        agent.call_within(Request::WriteIncomplete(None), Some(UNMARK_LIMIT))?;
    }
    Ok(())
}

/// Asks both machines at once and waits for both, whatever asks to stop meanwhile: an agent may
/// answer calls in any order, so one write must have ended before the next may contradict it.
/// The first error of either.
fn on_both(pair: &Pair, request: impl Fn(&Peer) -> Request) -> Result<(), AgentError> {
    let calls: Vec<Result<PendingCall, AgentError>> = (pair.both().into_iter())
        .map(|peer| peer.machine.agent.unabortable().begin(request(peer)))
        .collect();
    let mut first = Ok(());
    for call in calls {
        let result = call.and_then(|call| call.wait(None)).map(drop);
        if first.is_ok() {
            first = result;
        }
    }
    first
}

/// Histories, then the markers, then old snapshots. A run in which errors were logged has reached
/// its end but has not ended well: it is remembered as FAILED, and its markers stay, unless all of them
/// are over with it ([`crate::module::Module::fails_whole`]): then it counts as a sync, with its anchor.
pub(super) fn run(run: &mut Run, pair: &Pair) -> Result<(), RunError> {
    let counts = run.tally.counts();
    let over = over(run, &counts);
    let state = if counts.errors == 0 {
        SessionState::Completed
    } else {
        SessionState::Failed
    };
    let whole = counts.errors == over;
    let entry = |peer: &Peer| {
        let entry = entry(run, pair, peer, state, whole);
        Request::AppendHistory(Box::new(entry))
    };
    on_both(pair, entry).map_err(RunError::agent("writing the history"))?;
    run.recorded = true;
    if whole {
        on_both(pair, |_| Request::WriteIncomplete(None))
            .map_err(RunError::agent("noting that the sync has ended"))?;
        run.incomplete = None;
    }
    prune(run, pair);
    Ok(())
}

/// Errors that are over with the run: those of modules which fail whole.
pub(super) fn over(run: &Run, counts: &Counts) -> u64 {
    (run.selection.foreground.iter())
        .filter(|module| module.fails_whole())
        .filter_map(|module| counts.errors_of.get(module.name()))
        .sum()
}

/// Deletes old snapshots by policy. Trouble here is a warning: the sync itself is done.
fn prune(run: &Run, pair: &Pair) {
    let config = &run.shared.config.btrfs_snapshots;
    let policy = Policy {
        keep_recent: config.keep_recent,
        max_age: config.max_age_days.map(days),
    };
    for peer in pair.both() {
        let agent = &peer.machine.agent;
        let pruned = what_goes(agent, &config.snapshot_dir, policy, false);
        let pruned = pruned.and_then(|gone| delete(agent, &config.snapshot_dir, &gone));
        match pruned {
            Ok(0) => {}
            Ok(count) => run.log(
                LogLevel::Info,
                Some(peer.machine.host),
                format!("deleted {count} old snapshots"),
            ),
            Err(error) => run.log(
                LogLevel::Warning,
                Some(peer.machine.host),
                format!("old snapshots were not deleted: {error}"),
            ),
        }
    }
}

/// This session as one machine remembers it; `whole`: it leaves nothing incomplete behind.
pub(super) fn entry(
    run: &Run,
    pair: &Pair,
    peer: &Peer,
    state: SessionState,
    whole: bool,
) -> HistoryEntry {
    let all = |host: Host| -> Vec<SnapshotFacts> {
        let own = run.snapshots(host);
        own.presync.iter().chain(&own.postsync).cloned().collect()
    };
    let mirrored = run.mirrored.as_ref().filter(|_| whole);
    HistoryEntry {
        session: run.session.id().to_owned(),
        role: peer.machine.host,
        source: pair.source.name(),
        target: pair.target.name(),
        started_at: run.session.started_at(),
        ended_at: Timestamp::now(),
        state,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        modules: run.session.results().to_vec(),
        source_snapshots: all(Host::Source),
        target_snapshots: all(Host::Target),
        address: Some(run.shared.options.host.clone()),
        changed: changed(run),
        rollback_of: None,
        settled: None,
        folders: mirrored.map_or_else(BTreeMap::new, |m| m.filters.clone()),
        anchor: mirrored.map(|m| match &m.anchor {
            Ok(anchor) => Recorded::Anchor(Box::new(anchor.clone())),
            Err(why) => Recorded::None {
                no_anchor: why.clone(),
            },
        }),
        whole: whole && state == SessionState::Failed,
    }
}

/// What all modules changed together; unknown if one of them did not come to its end.
fn changed(run: &Run) -> Option<Changed> {
    let mut all = Changed::default();
    for (module, summary) in &run.planned {
        let mut results = run.session.results().iter();
        let done = results.any(|r| r.module == *module && r.status == ModuleStatus::Success);
        if !done && !summary.is_empty() {
            return None;
        }
        all.created += summary.created;
        all.changed += summary.changed;
        all.renamed += summary.renamed;
        all.attributes += summary.attributes;
        all.deleted += summary.deleted;
        all.bytes += summary.total_bytes();
    }
    Some(all)
}
