//! Whole runs against machines in memory.

mod anchors;
mod disks;
mod doctor;
mod endings;
mod gates;
mod managers;
mod phases;
mod refusals;

use crate::agent::protocol::{Installed, Request};
use crate::event::{Event, Host, ModuleStatus, Phase};
use crate::module::PlanSummary;
use crate::record::Incomplete;
use crate::run::testing::{Outcome, TestModule, Trial, World};

const BOTH: [Host; 2] = [Host::Source, Host::Target];

/// A world whose history opens no gate, and whose target has our configuration.
fn world() -> World {
    let world = World::new();
    world.synced_before();
    world.with(Host::Target, |m| {
        m.config.insert("config.yaml".into(), "ours\n".into());
        m.installed = Some(Installed {
            path: "/usr/local/bin/pc-switcher".into(),
            version: Some(env!("CARGO_PKG_VERSION").into()),
            same_binary: true,
        });
    });
    world
}

fn statuses(outcome: &Outcome) -> Vec<(&str, ModuleStatus)> {
    let modules = outcome.ended.report.modules.iter();
    modules.map(|m| (m.module.as_str(), m.status)).collect()
}

fn phases(outcome: &Outcome) -> Vec<u8> {
    let phases = outcome.events.iter().filter_map(|event| match event {
        Event::Phase { phase } => Some(phase.number()),
        _ => None,
    });
    phases.collect()
}

fn kind(request: &Request) -> &'static str {
    match request {
        Request::CreateSnapshots { .. } => "create",
        Request::DeleteSnapshots { .. } => "delete",
        Request::WriteIncomplete(Some(_)) => "mark",
        Request::WriteIncomplete(None) => "unmark",
        Request::AppendHistory(_) => "history",
        Request::InstallSelf => "install",
        Request::WriteUserConfig { .. } => "config",
        _ => "other",
    }
}

fn mutations(world: &World, host: Host) -> Vec<&'static str> {
    let machine = world.machine(host);
    let mut kinds: Vec<_> = machine.mutations().into_iter().map(kind).collect();
    kinds.dedup();
    kinds
}

fn marker(source: &str, target: &str, role: Host) -> Incomplete {
    Incomplete {
        session: "0000dead".into(),
        role,
        source: source.into(),
        target: target.into(),
        started_at: jiff::Timestamp::UNIX_EPOCH,
        phase: Phase::Execute,
        module: Some("user_data".into()),
        presync: vec!["@home-presync-20260101T000000Z-0000dead".into()],
        address: None,
        rollback_of: None,
        settles: None,
    }
}

/// A run in which only the gate of `flag` may be closed.
fn gated(world: &World, flag: &str) -> Trial {
    // Whose homes are not synced may be logged in.
    let name = if flag == "--allow-logged-in" {
        "user_data"
    } else {
        "work"
    };
    let mut work = TestModule::new(name);
    if flag == "--allow-conflicts" {
        work.plan = Box::new(|_| PlanSummary {
            changed: 2,
            conflicts: 2,
            conflict_lines: vec!["/home/a: atlas 1 B, vega 2 B".to_owned()],
            ..PlanSummary::default()
        });
    }
    if flag == "--allow-mass-delete" {
        work.plan = Box::new(|_| PlanSummary {
            deleted: 900,
            existing: 1000,
            ..PlanSummary::default()
        });
    }
    Trial::of(world, vec![work])
}

/// No marker, no history of this session, no snapshot of it, nothing written, nothing running.
fn nothing_was_changed(world: &World) {
    for host in BOTH {
        let machine = world.machine(host);
        assert!(
            machine.snapshots.is_empty(),
            "{host}: {:?}",
            machine.snapshots
        );
        assert!(
            machine
                .state
                .history
                .iter()
                .all(|e| e.session != "0123abcd"),
            "{host}"
        );
        let changed = mutations(world, host);
        let allowed = |kind: &&'static str| matches!(*kind, "create" | "delete");
        assert!(changed.iter().all(allowed), "{host}: {changed:?}");
    }
    assert!(world.nothing_runs());
}
