//! Phase 3: every module looks at both machines; all reasons not to start are shown together.

use std::sync::Arc;

use super::error::RunError;
use super::{Pair, Run, clocks, context};
use crate::event::{Host, LogLevel};
use crate::module::ValidationError;
use crate::modules::btrfs_snapshots::{begin_facts, finish_facts};

pub(super) fn run(run: &mut Run, pair: &Pair) -> Result<(), RunError> {
    if let Some(difference) = clocks::small_difference(pair) {
        run.log(LogLevel::Warning, Some(Host::Target), difference);
    }
    let errors = look(run, pair)?;
    if errors.is_empty() {
        Ok(())
    } else {
        Err(RunError::Validation(errors))
    }
}

/// Every reason not to start, with the host name of its machine.
pub(super) fn look(run: &mut Run, pair: &Pair) -> Result<Vec<(String, ValidationError)>, RunError> {
    let shared = Arc::clone(&run.shared);
    learn_subvolumes(run, pair)?;
    let mut errors: Vec<ValidationError> = clocks::difference(pair).into_iter().collect();
    let selection = &mut run.selection;
    for module in (selection.foreground.iter_mut()).chain(&mut selection.background) {
        let name = module.name();
        let context = context(&shared, pair, &run.facts, name);
        errors.append(&mut module.validate(&context).map_err(RunError::module(name))?);
        shared.stop.check()?;
    }
    let named = errors.into_iter().map(|error| {
        let hostname = pair.peer(error.host).machine.hostname.clone();
        (hostname, error)
    });
    Ok(named.collect())
}

/// Facts every later phase needs: which subvolume is mounted where.
fn learn_subvolumes(run: &mut Run, pair: &Pair) -> Result<(), RunError> {
    let config = &run.shared.config.btrfs_snapshots;
    let doing = || RunError::agent("looking at the subvolumes");
    let mut calls = Vec::with_capacity(2);
    for peer in pair.both() {
        calls.push((peer, begin_facts(&peer.machine, config).map_err(doing())?));
    }
    let mut found = Vec::with_capacity(2);
    for (peer, call) in &calls {
        let facts = finish_facts(&peer.machine.agent, call).map_err(doing())?;
        found.push((peer.machine.host, facts.found));
    }
    let facts = Arc::make_mut(&mut run.facts);
    for (host, subvolumes) in found {
        match host {
            Host::Source => facts.source_subvolumes = subvolumes,
            Host::Target => facts.target_subvolumes = subvolumes,
        }
    }
    run.log(LogLevel::Debug, None, "subvolumes are known");
    Ok(())
}
