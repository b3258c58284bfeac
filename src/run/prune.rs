//! Old snapshots of a machine: which ones a policy no longer keeps, and deleting them.
//!
//! After a sync and by hand it is the same decision, and a dry run lists exactly what it comes to.

use jiff::Timestamp;

use crate::agent::client::{AgentClient, AgentError};
use crate::agent::protocol::{Reply, Request};
use crate::record::sessions::indispensable;
use crate::snapshot::SnapshotFacts;
use crate::snapshot::retention::{Policy, expired};

/// The snapshots in `snapshot_dir` that `policy` does not keep, the oldest session first. What the next
/// sync begins from, and the way back from a run that has not ended, stay whatever it says.
pub fn what_goes(
    agent: &AgentClient,
    snapshot_dir: &str,
    policy: Policy,
    with_space: bool,
) -> Result<Vec<SnapshotFacts>, AgentError> {
    let Reply::State(state) = agent.call(Request::ReadState)? else {
        return Err(agent.nonsense("no history"));
    };
    let list = Request::ListSnapshots {
        snapshot_dir: snapshot_dir.to_owned(),
        with_space,
    };
    let Reply::Snapshots(mut all) = agent.call(list)? else {
        return Err(agent.nonsense("no snapshots"));
    };
    let kept = indispensable(&state, &all);
    let names = expired(&all, policy, &kept, Timestamp::now());
    let place = |name: &String| names.iter().position(|gone| gone == name);
    all.retain(|snapshot| place(&snapshot.name).is_some());
    all.sort_by_key(|snapshot| place(&snapshot.name));
    Ok(all)
}

/// Deletes `snapshots`; how many they were.
pub fn delete(
    agent: &AgentClient,
    snapshot_dir: &str,
    snapshots: &[SnapshotFacts],
) -> Result<usize, AgentError> {
    if !snapshots.is_empty() {
        agent.call(Request::DeleteSnapshots {
            snapshot_dir: snapshot_dir.to_owned(),
            names: snapshots
                .iter()
                .map(|snapshot| snapshot.name.clone())
                .collect(),
        })?;
    }
    Ok(snapshots.len())
}
