//! Free space, the disk monitor, old snapshots.

use std::time::{Duration, Instant};

use crate::event::{Host, LogLevel, SessionState};
use crate::module::PlanSummary;
use crate::run::testing::{TestModule, Trial, history_entry, name};

use super::{BOTH, nothing_was_changed, world};

#[test]
fn too_little_space_on_either_machine_stops_before_anything() {
    for host in BOTH {
        let world = world();
        world.with(host, |m| m.free_bytes = 150);
        let outcome = Trial::new(&world).run();
        assert_eq!(outcome.code(), 7);
        assert!(outcome.error().contains("20%"), "{}", outcome.error());
        nothing_was_changed(&world);
    }
}

#[test]
fn what_the_plan_will_write_counts_as_used() {
    for (bytes, code) in [(600, 0), (800, 7)] {
        let world = world();
        let mut work = TestModule::new("work");
        work.plan = Box::new(move |_| PlanSummary {
            created: 1,
            bytes: [("/home/anna".to_owned(), bytes)].into(),
            ..PlanSummary::default()
        });
        let outcome = Trial::of(&world, vec![work]).run();
        assert_eq!(outcome.code(), code, "{}", outcome.error());
        if code == 7 {
            nothing_was_changed(&world);
        }
    }
}

#[test]
fn a_disk_that_fills_up_stops_the_run_with_7() {
    let world = world();
    let filled = world.clone();
    let work = TestModule::new("work").executing(move |context| {
        filled.with(Host::Target, |m| m.free_bytes = 100);
        context.abort.sleep(Duration::from_secs(30))?;
        Ok(String::new())
    });
    let mut trial = Trial::of(&world, vec![work]);
    trial.config.disk.check_interval = 1;
    let begun = Instant::now();
    let outcome = trial.run();
    assert!(begun.elapsed() < Duration::from_secs(25));
    assert_eq!(outcome.code(), 7, "{}", outcome.error());
    assert_eq!(outcome.ended.report.state, SessionState::Failed);
    assert!(
        outcome.error().contains("below the minimum of 15%"),
        "{}",
        outcome.error()
    );
    assert!(world.machine(Host::Target).state.incomplete.is_some());
    assert!(world.nothing_runs());
}

#[test]
fn low_space_is_warned_about_once() {
    let world = world();
    world.with(Host::Source, |m| m.free_bytes = 230);
    let work = TestModule::new("work").executing(|context| {
        context.abort.sleep(Duration::from_millis(4300))?;
        Ok(String::new())
    });
    let mut trial = Trial::of(&world, vec![work]);
    trial.config.disk.check_interval = 1;
    let outcome = trial.run();
    assert_eq!(outcome.code(), 8, "{}", outcome.error());
    assert_eq!(outcome.logged(LogLevel::Warning).len(), 1);
    let looks = outcome
        .logged(LogLevel::Full)
        .into_iter()
        .filter(|line| line.module == "disk_monitor" && line.context.contains_key("late_millis"));
    assert!(looks.count() >= 4, "two machines, at least twice");
}

#[test]
fn the_disk_monitor_has_an_agent_of_its_own_and_does_without_when_it_must() {
    let world = world();
    assert_eq!(Trial::new(&world).run().code(), 0);
    assert_eq!(world.target_agents(), 2);

    let world = super::world();
    let (connecting, refused) = (world.clone(), world.clone());
    let mut work = TestModule::new("work").executing(move |context| {
        // A run that ends at once needs no watch, and does not complain about it.
        while !refused.is_reachable() {
            context.abort.sleep(Duration::from_millis(5))?;
        }
        context.abort.sleep(Duration::from_millis(1500))?;
        Ok(String::new())
    });
    work.plan = Box::new(move |_| {
        connecting.unreachable(1);
        PlanSummary::default()
    });
    let outcome = Trial::of(&world, vec![work]).run();
    assert_eq!(outcome.code(), 8);
    let warning = &outcome.logged(LogLevel::Warning)[0].message;
    assert!(warning.contains("no connection of its own"), "{warning}");
}

#[test]
fn old_snapshots_go_by_policy_and_the_anchors_of_other_machines_stay() {
    let world = world();
    let old = |session: &str| crate::snapshot::SnapshotFacts {
        subvolume: "@home".into(),
        name: format!("@home-presync-20200101T000000Z-{session}"),
        path: String::new(),
        uuid: String::new(),
        parent_uuid: None,
        generation: 1,
        created_generation: 1,
        changed_generation: 1,
        readonly: true,
        exclusive_bytes: None,
    };
    world.with(Host::Source, |m| {
        m.snapshots = vec![old("00000007"), old("00000008")];
        let mut entry = history_entry("00000008", &name("atlas"), &name("rigel"), Host::Source);
        entry.source_snapshots = vec![old("00000008")];
        m.state.history.insert(0, entry);
    });
    let mut trial = Trial::new(&world);
    trial.config.btrfs_snapshots.keep_recent = 1;
    let outcome = trial.run();
    assert_eq!(outcome.code(), 0, "{}", outcome.error());
    let left = world.machine(Host::Source).snapshots;
    assert!(
        left.iter().any(|s| s.name.ends_with("00000008")),
        "{left:?}"
    );
    assert!(
        !left.iter().any(|s| s.name.ends_with("00000007")),
        "{left:?}"
    );
}
