//! Phase 4: free space on every filesystem touched, before anything; and again once the plan
//! says how much it will write.

use std::collections::BTreeMap;

use super::error::RunError;
use super::{Pair, Peer, Run};
use crate::agent::protocol::DiskFacts;
use crate::event::{Host, LogLevel};
use crate::figures::bytes;
use crate::module::DiskSpaceCritical;
use crate::modules::space;
use crate::snapshot::Subvolume;

/// What is free now.
pub(super) fn run(run: &mut Run, pair: &Pair) -> Result<(), RunError> {
    check(run, pair, &BTreeMap::new())
}

/// Says that a filesystem has little space left, though enough to start.
fn warn_if_low(run: &Run, peer: &Peer, fact: &DiskFacts) {
    let threshold = &run.shared.config.disk.warning_threshold;
    if let Some(low) = space::below(&peer.machine, fact, fact.free_bytes, threshold) {
        run.log(
            LogLevel::Warning,
            Some(peer.machine.host),
            space::low_words(&low),
        );
    }
}

/// What will be free on the target after `planned` bytes were written, by target path.
pub(super) fn with_plan(
    run: &mut Run,
    pair: &Pair,
    planned: &BTreeMap<String, u64>,
) -> Result<(), RunError> {
    if planned.values().all(|&bytes| bytes == 0) {
        return Ok(());
    }
    check(run, pair, planned)
}

fn check(run: &Run, pair: &Pair, planned: &BTreeMap<String, u64>) -> Result<(), RunError> {
    let minimum = &run.shared.config.disk.preflight_minimum;
    let mut critical: Vec<DiskSpaceCritical> = Vec::new();
    for peer in pair.both() {
        let machine = &peer.machine;
        let subvolumes = match machine.host {
            Host::Source => &run.facts.source_subvolumes,
            Host::Target => &run.facts.target_subvolumes,
        };
        let facts = space::ask(machine, space::touched_paths(subvolumes))
            .map_err(RunError::agent("asking for free disk space"))?;
        // Which filesystem receives each planned path: that of the subvolume it lies in.
        let mut incoming = BTreeMap::<&str, u64>::new();
        if machine.host == Host::Target {
            for (path, bytes) in planned {
                let mount_point = receiving(subvolumes, path);
                if let Some(fact) = facts.iter().find(|f| f.path == mount_point) {
                    *incoming.entry(&fact.filesystem).or_default() += bytes;
                }
            }
        }
        for fact in space::distinct(facts.clone()) {
            let needed = incoming
                .get(fact.filesystem.as_str())
                .copied()
                .unwrap_or_default();
            let left = fact.free_bytes.saturating_sub(needed);
            if let Some(mut low) = space::below(machine, &fact, left, minimum) {
                if needed > 0 {
                    low.free_space = format!(
                        "{} minus {} to be written",
                        bytes(fact.free_bytes),
                        bytes(needed)
                    );
                }
                critical.push(low);
            } else {
                if planned.is_empty() {
                    warn_if_low(run, peer, &fact);
                }
                run.log(
                    LogLevel::Full,
                    Some(machine.host),
                    format!(
                        "{} free on {}, {} will be written",
                        space::share(fact.free_bytes, fact.total_bytes),
                        fact.mount_point,
                        bytes(needed)
                    ),
                );
            }
        }
    }
    if critical.is_empty() {
        Ok(())
    } else {
        Err(RunError::DiskSpace(critical))
    }
}

fn receiving<'a>(subvolumes: &'a [Subvolume], path: &str) -> &'a str {
    space::holder(subvolumes, path).map_or("/", |subvolume| &subvolume.mount_point)
}
