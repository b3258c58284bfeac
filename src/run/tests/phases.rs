//! What a good run does, in which order.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::agent::protocol::Request;
use crate::change::Action;
use crate::event::{Event, Host, ModuleStatus, Phase, SessionState};
use crate::module::PlanSummary;
use crate::run::session::SyncSession;
use crate::run::testing::{TestModule, Trial, World};

use super::{BOTH, kind, mutations, phases, statuses, world};

#[test]
fn a_good_run_goes_through_all_phases_and_leaves_nothing_running() {
    let world = world();
    let outcome = Trial::new(&world).run();
    assert_eq!(outcome.code(), 0, "{}", outcome.error());
    assert_eq!(phases(&outcome), [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]);
    assert_eq!(outcome.ended.report.state, SessionState::Completed);
    assert!(world.nothing_runs());
    for host in BOTH {
        let machine = world.machine(host);
        assert_eq!(machine.state.incomplete, None);
        let last = machine.state.history.last().unwrap();
        assert_eq!((last.session.as_str(), last.role), ("0123abcd", host));
        assert_eq!(last.state, SessionState::Completed);
        assert_eq!(
            (last.source_snapshots.len(), last.target_snapshots.len()),
            (4, 4)
        );
        assert_eq!(machine.snapshots.len(), 4);
        assert!(matches!(machine.requests.last(), Some(Request::Goodbye)));
    }
}

#[test]
fn snapshots_come_first_then_the_marker_and_the_marker_goes_last() {
    let world = world();
    world.with(Host::Target, |m| {
        m.installed = None;
        m.config.clear();
    });
    let outcome = Trial::new(&world).run();
    assert_eq!(outcome.code(), 0, "{}", outcome.error());
    assert_eq!(
        mutations(&world, Host::Target),
        [
            "create", "mark", "install", "config", "mark", "create", "mark", "history", "unmark"
        ]
    );
    assert_eq!(
        mutations(&world, Host::Source),
        ["create", "mark", "create", "mark", "history", "unmark"]
    );
}

#[test]
fn both_histories_are_written_before_either_marker_goes() {
    let world = world();
    let histories = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&histories);
    world.hook(move |_, request, _| {
        match kind(request) {
            "history" => {
                // The slower one is still before the first removal.
                std::thread::sleep(Duration::from_millis(20));
                seen.fetch_add(1, Ordering::SeqCst);
            }
            "unmark" => assert_eq!(seen.load(Ordering::SeqCst), 2),
            _ => {}
        }
        None
    });
    assert_eq!(Trial::new(&world).run().code(), 0);
    assert_eq!(histories.load(Ordering::SeqCst), 2);
}

#[test]
fn the_marker_names_the_module_at_work_and_the_way_back() {
    let world = world();
    let looked = world.clone();
    let work = TestModule::new("work").executing(move |_| {
        for host in BOTH {
            let marker = looked.machine(host).state.incomplete.expect("marked");
            assert_eq!(marker.module.as_deref(), Some("work"));
            assert_eq!((marker.phase, marker.role), (Phase::Execute, host));
            assert_eq!(marker.presync.len(), 2);
        }
        Ok("looked".into())
    });
    assert_eq!(Trial::of(&world, vec![work]).run().code(), 0);
}

#[test]
fn modules_run_in_the_order_of_the_configuration() {
    let world = world();
    let modules = ["c", "a", "b"].map(TestModule::new);
    let mut trial = Trial::of(&world, modules.into_iter().collect());
    trial.config.sync_modules = ["b", "c", "a"].map(|n| (n.to_owned(), n != "c")).into();
    let outcome = trial.run();
    assert_eq!(outcome.code(), 0, "{}", outcome.error());
    let started = outcome.events.iter().filter_map(|event| match event {
        Event::ModuleStarted { module, .. } if module.len() == 1 => Some(module.as_str()),
        _ => None,
    });
    assert_eq!(started.collect::<Vec<_>>(), ["b", "a"]);
    assert!(statuses(&outcome).iter().all(|(module, _)| *module != "c"));
}

#[test]
fn only_and_skip_choose_and_unknown_or_required_names_are_usage_errors() {
    let names = |only: &[&str], skip: &[&str]| {
        let world = world();
        let mut trial = Trial::of(&world, ["a", "b"].map(TestModule::new).into());
        trial.options.only = only.iter().map(|&n| n.to_owned()).collect();
        trial.options.skip = skip.iter().map(|&n| n.to_owned()).collect();
        let outcome = trial.run();
        let mut run: Vec<String> = (outcome.ended.report.modules.iter())
            .filter(|m| m.status == ModuleStatus::Success && m.module.len() == 1)
            .map(|m| m.module.clone())
            .collect();
        run.sort();
        (
            outcome.code(),
            run.concat(),
            world.machine(Host::Source).requests.len(),
        )
    };
    assert_eq!(names(&["b"], &[]).1, "b");
    assert_eq!(names(&[], &["b"]).1, "a");
    for (only, skip) in [
        (&["nosuch"][..], &[][..]),
        (&[], &["nosuch"]),
        (&["btrfs_snapshots"], &[]),
        (&[], &["disk_monitor"]),
        (&[], &["a", "b"]),
    ] {
        assert_eq!(
            names(only, skip),
            (2, String::new(), 0),
            "{only:?} {skip:?}"
        );
    }
}

#[test]
fn a_dry_run_makes_no_changing_request() {
    let world = World::new();
    let mut trial = Trial::new(&world);
    trial.options.dry_run = true;
    let outcome = trial.run();
    for host in BOTH {
        assert_eq!(mutations(&world, host), [""; 0], "{host}");
    }
    assert_eq!(phases(&outcome), [1, 2, 3, 4, 6, 10]);
    assert_eq!(
        outcome.code(),
        8,
        "the first-sync gate is a warning: {}",
        outcome.error()
    );
    assert!(
        outcome.plan.contains("+ /usr/local/bin/pc-switcher"),
        "{}",
        outcome.plan
    );
    assert!(
        outcome.plan.contains("+ ~/.config/pc-switcher/config.yaml"),
        "{}",
        outcome.plan
    );
    assert!(
        outcome.plan.contains("work: nothing to change"),
        "{}",
        outcome.plan
    );
    assert_eq!(outcome.ended.report.state, SessionState::Completed);
    assert!(world.nothing_runs());
    // What it would do is at the end and, one by one, in the log.
    let plans = outcome.ended.report.plans.iter();
    let created: Vec<(&str, u64)> = plans
        .map(|plan| (plan.module.as_str(), plan.total.of(Action::Create).items))
        .collect();
    assert_eq!(
        created,
        [("configuration", 1), ("install_on_target", 1), ("work", 0)]
    );
    let logged = outcome.events.iter().filter_map(|event| match event {
        Event::Changes(event) => Some((event.planned, event.changes.len())),
        _ => None,
    });
    assert_eq!(logged.collect::<Vec<_>>(), [(true, 1), (true, 1)]);
}

#[test]
fn what_a_module_decides_is_in_the_log_and_in_the_report() {
    let world = world();
    let mut work = TestModule::new("work");
    work.plan = Box::new(|context| {
        context.decide("full_scan", Host::Target, "full scan of /home: first sync");
        PlanSummary::default()
    });
    let outcome = Trial::of(&world, vec![work]).run();
    let decisions = &outcome.ended.report.decisions;
    assert_eq!(decisions.len(), 1);
    assert_eq!(decisions[0].decision(), Some("full_scan"));
    assert_eq!(
        (decisions[0].module.as_str(), decisions[0].message.as_str()),
        ("work", "full scan of /home: first sync")
    );
}

#[test]
fn what_is_asked_of_a_machine_is_told_while_it_is_waited_for() {
    let world = world();
    let outcome = Trial::new(&world).run();
    let mut open = BTreeMap::new();
    let mut told = BTreeSet::new();
    for event in &outcome.events {
        let Event::Work(work) = event else { continue };
        if work.ended {
            assert!(open.remove(&work.id).is_some(), "it began: {work:?}");
        } else {
            told.insert((work.machine.as_str(), work.doing.as_str()));
            open.insert(work.id, work);
        }
    }
    assert!(open.is_empty(), "all of it ended: {open:?}");
    for doing in ["making snapshots", "reading its history", "taking its lock"] {
        for machine in ["atlas", "vega"] {
            assert!(
                told.contains(&(machine, doing)),
                "{machine}: {doing}: {told:?}"
            );
        }
    }
}

#[test]
fn the_dummies_do_what_they_say() {
    let world = world();
    let mut trial = Trial::new(&world);
    trial.config.sync_modules = vec![("dummy_success".into(), true), ("dummy_fail".into(), true)];
    trial.config.dummy_success.target_duration = 1;
    trial.config.dummy_fail.source_duration = 1;
    trial.config.dummy_fail.fail_at = 1;
    let outcome = trial.run();
    assert_eq!(outcome.code(), 1);
    assert!(
        outcome.error().contains("failed at second 1"),
        "{}",
        outcome.error()
    );
    let statuses = statuses(&outcome);
    assert!(
        statuses.contains(&("dummy_success", ModuleStatus::Success)),
        "{statuses:?}"
    );
    assert!(
        statuses.contains(&("dummy_fail", ModuleStatus::Failed)),
        "{statuses:?}"
    );
    let full = outcome.events.iter().any(|event| {
        matches!(event, Event::Progress(p) if p.module == "dummy_success" && p.update.percent == Some(100))
    });
    assert!(full);
}

#[test]
fn a_session_is_named_by_its_id_everywhere() {
    assert_eq!(SyncSession::with_id("0123abcd".into()).id(), "0123abcd");
    let world = world();
    let outcome = Trial::new(&world).run();
    assert_eq!(outcome.ended.report.session, "0123abcd");
    for snapshot in world.machine(Host::Target).snapshots {
        assert!(snapshot.name.ends_with("-0123abcd"), "{}", snapshot.name);
    }
}
