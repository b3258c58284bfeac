//! Phase 4: free space on every filesystem touched, before anything; and again once the plan
//! says how much it will write.

use std::collections::BTreeMap;

use super::error::RunError;
use super::prune::Relief;
use super::{Pair, Run};
use crate::agent::protocol::DiskFacts;
use crate::event::{Host, LogLevel};
use crate::figures::bytes;
use crate::module::DiskSpaceCritical;
use crate::modules::space;
use crate::snapshot::Subvolume;

/// One filesystem that a sync touches, and what to think of it.
pub(super) struct DiskLook {
    /// Whose it is.
    pub(super) host: Host,
    /// Its space.
    pub(super) fact: DiskFacts,
    /// What the plan will write to it.
    needed: u64,
    /// Whether snapshots of the subvolumes are on it.
    has_snapshots: bool,
    /// Less than the minimum is left.
    pub(super) critical: Option<DiskSpaceCritical>,
    /// Enough to start, but little.
    pub(super) low: Option<DiskSpaceCritical>,
}

/// What is free now.
pub(super) fn run(run: &mut Run, pair: &Pair) -> Result<(), RunError> {
    check(run, pair, &BTreeMap::new())
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
    let mut critical: Vec<DiskSpaceCritical> = Vec::new();
    let mut reliefs: Vec<String> = Vec::new();
    for look in look(run, pair, planned)? {
        if let Some(too_low) = &look.critical {
            critical.push(too_low.clone());
            reliefs.extend(relief(run, pair, &look));
            continue;
        }
        if let Some(low) = look.low.filter(|_| planned.is_empty()) {
            run.log(LogLevel::Warning, Some(look.host), space::low_words(&low));
        }
        let (fact, needed) = (&look.fact, look.needed);
        run.log(
            LogLevel::Full,
            Some(look.host),
            format!(
                "{} free on {}, {} will be written",
                space::share(fact.free_bytes, fact.total_bytes),
                fact.mount_point,
                bytes(needed)
            ),
        );
    }
    if critical.is_empty() {
        Ok(())
    } else {
        Err(RunError::DiskSpace {
            errors: critical,
            relief: reliefs,
        })
    }
}

/// Which old snapshots could go for a filesystem to have enough, if there are some on it.
pub(super) fn relief(run: &Run, pair: &Pair, look: &DiskLook) -> Option<String> {
    let config = &run.shared.config;
    if !look.has_snapshots {
        return None;
    }
    let minimum = space::threshold(&config.disk.preflight_minimum, look.fact.total_bytes);
    let wanted = (minimum + look.needed).saturating_sub(look.fact.free_bytes);
    let machine = &pair.peer(look.host).machine;
    let relief = match Relief::find(&machine.agent, &config.btrfs_snapshots, wanted) {
        Ok(relief) => relief?,
        Err(error) => {
            let message = format!("what snapshots hold cannot be said: {error}");
            run.log(LogLevel::Full, Some(look.host), message);
            return None;
        }
    };
    let host = (look.host == Host::Target).then_some(machine.hostname.as_str());
    Some(relief.words(host))
}

/// Every filesystem that a sync touches on either machine, once.
pub(super) fn look(
    run: &Run,
    pair: &Pair,
    planned: &BTreeMap<String, u64>,
) -> Result<Vec<DiskLook>, RunError> {
    let disk = &run.shared.config.disk;
    let mut looks = Vec::new();
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
        let is_subvolume = |path: &String| subvolumes.iter().any(|s| s.mount_point == *path);
        for fact in space::distinct(facts.clone()) {
            let mut same = facts.iter().filter(|f| f.filesystem == fact.filesystem);
            let has_snapshots = same.any(|f| is_subvolume(&f.path));
            let needed = incoming
                .get(fact.filesystem.as_str())
                .copied()
                .unwrap_or_default();
            let left = fact.free_bytes.saturating_sub(needed);
            let mut critical = space::below(machine, &fact, left, &disk.preflight_minimum);
            if let Some(low) = critical.as_mut().filter(|_| needed > 0) {
                low.free_space = format!(
                    "{} minus {} to be written",
                    bytes(fact.free_bytes),
                    bytes(needed)
                );
            }
            looks.push(DiskLook {
                host: machine.host,
                low: space::below(machine, &fact, fact.free_bytes, &disk.warning_threshold),
                fact,
                needed,
                has_snapshots,
                critical,
            });
        }
    }
    Ok(looks)
}

fn receiving<'a>(subvolumes: &'a [Subvolume], path: &str) -> &'a str {
    space::holder(subvolumes, path).map_or("/", |subvolume| &subvolume.mount_point)
}
