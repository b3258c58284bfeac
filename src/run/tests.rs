//! Whole runs against machines in memory.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::session::SyncSession;
use super::testing::{Outcome, Scripted, TestModule, Trial, World, history_entry, name};
use crate::agent::fake::fault;
use crate::agent::protocol::{FaultKind, Installed, Request};
use crate::event::{Event, Host, LogLevel, ModuleStatus, Phase, SessionState};
use crate::interrupt::Interrupted;
use crate::module::{ModuleError, PlanSummary, ValidationError};
use crate::record::Incomplete;

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
        Event::ModuleStarted { module } if module.len() == 1 => Some(module.as_str()),
        _ => None,
    });
    assert_eq!(started.collect::<Vec<_>>(), ["b", "a"]);
    assert!(statuses(&outcome).contains(&("c", ModuleStatus::Skipped)));
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
}

/// Worlds in which one gate is closed, with the gate's flag.
fn closed_gates() -> Vec<(&'static str, World)> {
    let first = world();
    for host in BOTH {
        first.with(host, |m| m.state.history.clear());
    }
    let elsewhere = world();
    elsewhere.with(Host::Target, |m| {
        let entry = history_entry("00000002", &name("rigel"), &name("vega"), Host::Target);
        m.state.history.push(entry);
    });
    let twice = world();
    for host in BOTH {
        twice.with(host, |m| {
            let entry = history_entry("00000002", &name("atlas"), &name("vega"), host);
            m.state.history.push(entry);
        });
    }
    let died = world();
    died.with(Host::Target, |m| {
        m.state.incomplete = Some(marker("atlas", "vega", Host::Target))
    });
    vec![
        ("--allow-first-sync", first),
        ("--allow-out-of-order", elsewhere),
        ("--allow-out-of-order", twice),
        ("--allow-incomplete", died),
        ("--allow-mass-delete", world()),
    ]
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
    }
}

/// A run in which only the gate of `flag` may be closed.
fn gated(world: &World, flag: &str) -> Trial {
    let mut work = TestModule::new("work");
    if flag == "--allow-mass-delete" {
        work.plan = Box::new(|_| PlanSummary {
            deleted: 900,
            existing: 1000,
            ..PlanSummary::default()
        });
    }
    Trial::of(world, vec![work])
}

fn give(trial: &mut Trial, flag: &str) {
    let options = &mut trial.options;
    *match flag {
        "--allow-first-sync" => &mut options.allow_first_sync,
        "--allow-out-of-order" => &mut options.allow_out_of_order,
        "--allow-incomplete" => &mut options.allow_incomplete,
        "--allow-mass-delete" => &mut options.allow_mass_delete,
        _ => unreachable!(),
    } = true;
}

const GATE_FLAGS: [&str; 4] = [
    "--allow-first-sync",
    "--allow-out-of-order",
    "--allow-incomplete",
    "--allow-mass-delete",
];

#[test]
fn a_closed_gate_refuses_with_batch_and_names_its_flag() {
    for (flag, world) in closed_gates() {
        let outcome = gated(&world, flag).run();
        assert_eq!(outcome.code(), 4, "{flag}: --yes opens no gate");
        assert!(outcome.error().contains(flag), "{}", outcome.error());
        assert_eq!(outcome.ended.report.state, SessionState::Aborted);
        nothing_was_changed(&world);
    }
}

#[test]
fn a_gate_opens_for_its_own_flag_and_for_no_other() {
    for (number, (flag, _)) in closed_gates().into_iter().enumerate() {
        for given in GATE_FLAGS {
            let (_, world) = closed_gates().swap_remove(number);
            let mut trial = gated(&world, flag);
            give(&mut trial, given);
            let code = trial.run().code();
            assert_eq!(
                code,
                if given == flag { 0 } else { 4 },
                "{flag} given {given}"
            );
        }
    }
}

#[test]
fn a_person_opens_a_gate_or_leaves_it_closed_by_default() {
    for (keys, code) in [("c", 0), ("a", 4), ("", 4)] {
        for (flag, world) in closed_gates() {
            let prompter = Scripted::new(keys);
            let mut trial = gated(&world, flag);
            trial.options.batch = false;
            trial.prompter = prompter.clone();
            assert_eq!(trial.run().code(), code, "{flag} answered {keys:?}");
            assert_eq!(prompter.texts(), ["Continue anyway?"]);
        }
    }
}

#[test]
fn batch_does_not_ask_even_on_a_terminal() {
    let (_, world) = closed_gates().swap_remove(0);
    let prompter = Scripted::new("c");
    let mut trial = Trial::new(&world);
    trial.prompter = prompter.clone();
    assert_eq!(trial.run().code(), 4);
    assert!(prompter.texts().is_empty());
}

#[test]
fn a_dry_run_warns_at_every_closed_gate_and_goes_on() {
    for (flag, world) in closed_gates() {
        let mut trial = gated(&world, flag);
        trial.options.dry_run = true;
        let outcome = trial.run();
        assert_eq!(outcome.code(), 8, "{flag}");
        let warnings = outcome.logged(LogLevel::Warning);
        assert!(
            warnings.iter().any(|w| w.message.contains(flag)),
            "{warnings:?}"
        );
    }
}

#[test]
fn going_on_with_our_own_dead_first_sync_asks_only_about_its_death() {
    let world = world();
    for host in BOTH {
        world.with(host, |m| {
            m.state.history.clear();
            m.state.incomplete = Some(marker("atlas", "vega", host));
        });
    }
    let mut trial = Trial::new(&world);
    trial.options.allow_incomplete = true;
    assert_eq!(trial.run().code(), 0);
    for host in BOTH {
        assert_eq!(world.machine(host).state.incomplete, None);
    }
}

#[test]
fn a_dead_push_to_a_third_machine_is_no_gate_but_a_half_received_sync_is() {
    for (role, source, target, code) in [
        (Host::Source, "atlas", "rigel", 0),
        (Host::Target, "rigel", "atlas", 4),
    ] {
        let world = world();
        world.with(Host::Source, |m| {
            m.state.incomplete = Some(marker(source, target, role))
        });
        assert_eq!(Trial::new(&world).run().code(), code, "{role}");
    }
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
        let allowed = |kind: &&str| matches!(*kind, "create" | "delete");
        assert!(changed.iter().all(|k| allowed(&k)), "{host}: {changed:?}");
    }
    assert!(world.nothing_runs());
}

#[test]
fn validation_errors_of_all_modules_on_both_machines_come_together() {
    let world = world();
    world.with(Host::Source, |m| m.missing = vec!["@home".into()]);
    let complaining = |name: &'static str| {
        let mut module = TestModule::new(name);
        module.validate = Box::new(move |_| {
            vec![ValidationError {
                module: name.into(),
                host: Host::Target,
                message: format!("{name} is unhappy"),
                hint: None,
            }]
        });
        module
    };
    let outcome = Trial::of(&world, ["one", "two"].map(complaining).into()).run();
    assert_eq!(outcome.code(), 3);
    let error = outcome.error();
    for part in [
        "@home is not a mounted",
        "it has @, @home",
        "one is unhappy",
        "two is unhappy",
    ] {
        assert!(error.contains(part), "{part}: {error}");
    }
    nothing_was_changed(&world);
}

#[test]
fn a_folder_on_a_mount_of_its_own_has_no_way_back_and_is_refused() {
    let world = world();
    let mut trial = Trial::of(&world, vec![TestModule::new("user_data")]);
    trial.config.btrfs_snapshots.subvolumes = vec!["@".into()];
    let outcome = trial.run();
    assert_eq!(outcome.code(), 3);
    assert!(
        outcome
            .error()
            .contains("/home is on no configured subvolume"),
        "{}",
        outcome.error()
    );
}

#[test]
fn configuration_errors_of_modules_come_before_any_connection() {
    let world = world();
    let mut trial = Trial::new(&world);
    trial.config.dummy_fail.fail_at = 5;
    trial.config.sync_modules.push(("dummy_fail".into(), true));
    let outcome = trial.run();
    assert_eq!(outcome.code(), 2);
    assert!(
        outcome.error().contains("dummy_fail.fail_at"),
        "{}",
        outcome.error()
    );
    assert!(world.machine(Host::Source).requests.is_empty());
}

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
fn a_locked_machine_says_who_holds_it() {
    for host in BOTH {
        let world = world();
        world.with(host, |m| {
            m.lock = Some(crate::record::LockHolder {
                session: "0badcafe".into(),
                role: Host::Source,
                from: "rigel".into(),
                pid: 42,
                since: jiff::Timestamp::UNIX_EPOCH,
            });
        });
        let outcome = Trial::new(&world).run();
        assert_eq!(outcome.code(), 6);
        for part in ["0badcafe", "rigel", "42"] {
            assert!(outcome.error().contains(part), "{}", outcome.error());
        }
        nothing_was_changed(&world);
    }
}

#[test]
fn a_machine_is_not_synced_with_itself() {
    let world = world();
    world.with(Host::Target, |m| m.machine_id = "id-atlas".into());
    let outcome = Trial::new(&world).run();
    assert_eq!(outcome.code(), 3);
    assert!(
        outcome.error().contains("this machine"),
        "{}",
        outcome.error()
    );
    nothing_was_changed(&world);
}

#[test]
fn a_newer_pc_switcher_on_the_target_is_refused() {
    let world = world();
    world.with(Host::Target, |m| {
        m.installed = Some(Installed {
            path: "/usr/bin/pc-switcher".into(),
            version: Some("pc-switcher 99.0.0".into()),
            same_binary: false,
        });
    });
    let outcome = Trial::new(&world).run();
    assert_eq!(outcome.code(), 3);
    assert!(outcome.error().contains("99.0.0"), "{}", outcome.error());
    nothing_was_changed(&world);
}

#[test]
fn an_agent_of_another_protocol_is_not_spoken_to() {
    let world = world();
    world.banner("pc-switcher-agent 999 0.1.0 x86_64");
    let outcome = Trial::new(&world).run();
    assert_eq!(outcome.code(), 5);
    assert!(
        world
            .machine(Host::Target)
            .requests
            .iter()
            .all(|r| matches!(r, Request::Goodbye))
    );
}

#[test]
fn an_unreachable_target_is_a_connection_error_and_ends_the_local_agent() {
    let world = world();
    world.unreachable(1);
    let outcome = Trial::new(&world).run();
    assert_eq!(outcome.code(), 5);
    assert!(
        outcome.error().contains("cannot reach vega"),
        "{}",
        outcome.error()
    );
    assert!(world.nothing_runs());
}

#[test]
fn an_interrupt_in_any_phase_aborts_with_130_and_leaves_markers_right() {
    type At = fn(Host, &Request) -> bool;
    let early: [At; 6] = [
        |host, r| host == Host::Source && matches!(r, Request::Hello { .. }),
        |host, r| host == Host::Target && matches!(r, Request::Lock(_)),
        |_, r| matches!(r, Request::ReadState),
        |host, r| host == Host::Target && matches!(r, Request::Subvolumes { .. }),
        |host, r| host == Host::Target && matches!(r, Request::Disk { .. }),
        |host, r| host == Host::Target && matches!(r, Request::CreateSnapshots { .. }),
    ];
    for (number, at) in early.into_iter().enumerate() {
        let world = world();
        world.interrupt_at(at);
        let outcome = Trial::new(&world).run();
        assert_eq!(outcome.code(), 130, "{number}: {}", outcome.error());
        assert_eq!(outcome.ended.report.state, SessionState::Aborted);
        assert_eq!(phases(&outcome).last(), Some(&10));
        nothing_was_changed(&world);
    }
}

#[test]
fn an_interrupt_after_the_first_change_leaves_both_markers_and_an_aborted_session() {
    let postsync = |_: Host, r: &Request| {
        matches!(r, Request::CreateSnapshots { snapshots, .. }
            if snapshots.iter().any(|s| s.name.contains("postsync")))
    };
    type At = Box<dyn Fn(Host, &Request) -> bool + Send>;
    let late: Vec<At> = vec![
        Box::new(|host, r| host == Host::Target && matches!(r, Request::InstallSelf)),
        Box::new(postsync),
    ];
    for at in late {
        let world = world();
        world.with(Host::Target, |m| m.installed = None);
        world.interrupt_at(at);
        let outcome = Trial::new(&world).run();
        assert_eq!(outcome.code(), 130, "{}", outcome.error());
        for host in BOTH {
            let state = world.machine(host).state;
            assert!(state.incomplete.is_some(), "{host}");
            let last = state.history.last().unwrap();
            assert_eq!(
                (last.session.as_str(), last.state),
                ("0123abcd", SessionState::Aborted)
            );
        }
        assert!(world.nothing_runs());
    }
}

#[test]
fn an_interrupted_module_cleans_up_and_later_ones_are_not_reached() {
    let world = world();
    let abort = world.abort();
    let cleaned = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&cleaned);
    let mut work = TestModule::new("work").executing(move |context| {
        abort.raise();
        context.abort.sleep(Duration::from_secs(60))?;
        Ok(String::new())
    });
    work.abort = Box::new(move |context| {
        // The machines still answer while cleaning up.
        assert!(context.target.agent.call(Request::ReadState).is_ok());
        seen.fetch_add(1, Ordering::SeqCst);
    });
    let begun = Instant::now();
    let outcome = Trial::of(&world, vec![work, TestModule::new("later")]).run();
    assert!(begun.elapsed() < Duration::from_secs(5));
    assert_eq!(outcome.code(), 130);
    assert_eq!(cleaned.load(Ordering::SeqCst), 1);
    assert!(statuses(&outcome).contains(&("later", ModuleStatus::Skipped)));
    assert!(outcome.logged(LogLevel::Critical).is_empty());
}

#[test]
fn a_failing_module_is_critical_stops_the_run_and_leaves_the_markers() {
    let world = world();
    let work = TestModule::new("work").executing(|_| {
        Err(ModuleError::Failed {
            message: "out of paper".into(),
            hint: Some("buy paper".into()),
        })
    });
    let outcome = Trial::of(&world, vec![work, TestModule::new("later")]).run();
    assert_eq!(outcome.code(), 1);
    assert_eq!(outcome.error(), "work failed: out of paper [buy paper]");
    assert_eq!(outcome.ended.report.state, SessionState::Failed);
    assert_eq!(outcome.logged(LogLevel::Critical).len(), 1);
    let statuses = statuses(&outcome);
    assert!(
        statuses.contains(&("work", ModuleStatus::Failed)),
        "{statuses:?}"
    );
    assert!(
        statuses.contains(&("later", ModuleStatus::Skipped)),
        "{statuses:?}"
    );
    for host in BOTH {
        let state = world.machine(host).state;
        assert_eq!(state.incomplete.unwrap().module.as_deref(), Some("work"));
        assert_eq!(state.history.last().unwrap().state, SessionState::Failed);
    }
}

#[test]
fn an_error_in_the_log_makes_the_session_failed_although_every_module_succeeded() {
    let world = world();
    let work = TestModule::new("work").executing(|context| {
        context.log(LogLevel::Error, Host::Target, "one file was left out");
        Ok("done".into())
    });
    let outcome = Trial::of(&world, vec![work]).run();
    assert_eq!(outcome.code(), 1);
    assert_eq!(outcome.ended.report.state, SessionState::Failed);
    for host in BOTH {
        let state = world.machine(host).state;
        assert_eq!(state.history.last().unwrap().state, SessionState::Failed);
        assert!(state.incomplete.is_some(), "it has not ended well");
    }
    assert_eq!(phases(&outcome), [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]);
}

#[test]
fn a_warning_in_the_log_is_status_8_and_is_repeated() {
    let world = world();
    let work = TestModule::new("work").executing(|context| {
        context.log(LogLevel::Warning, Host::Target, "look at this");
        Ok("done".into())
    });
    let outcome = Trial::of(&world, vec![work]).run();
    assert_eq!(outcome.code(), 8);
    assert_eq!(outcome.ended.report.state, SessionState::Completed);
    assert_eq!(outcome.ended.report.warnings[0].message, "look at this");
    assert_eq!(world.machine(Host::Target).state.incomplete, None);
}

#[test]
fn a_lost_target_fails_with_5_and_the_sources_marker_stays() {
    let world = world();
    world.hook(|host, request, levers| {
        if host == Host::Target && matches!(request, Request::Run { .. }) {
            levers.die();
        }
        None
    });
    let work = TestModule::new("work").executing(|context| {
        let run = Request::Run {
            argv: vec!["true".into()],
            env: [].into(),
            stdin: None,
            timeout_millis: None,
        };
        drop(context.target.agent.call(run));
        // Busy on the source: only the watch over the connection can tell.
        context.abort.sleep(Duration::from_secs(60))?;
        Ok(String::new())
    });
    let begun = Instant::now();
    let outcome = Trial::of(&world, vec![work]).run();
    assert!(begun.elapsed() < Duration::from_secs(5));
    assert_eq!(outcome.code(), 5, "{}", outcome.error());
    assert_eq!(outcome.ended.report.state, SessionState::Failed);
    for host in BOTH {
        assert!(world.machine(host).state.incomplete.is_some(), "{host}");
    }
    let source = world.machine(Host::Source);
    assert_eq!(
        source.state.history.last().unwrap().state,
        SessionState::Failed
    );
    assert!(world.nothing_runs());
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
    assert!(begun.elapsed() < Duration::from_secs(5));
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
        context.abort.sleep(Duration::from_millis(2300))?;
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

    let world = super::tests::world();
    let connecting = world.clone();
    let mut work = TestModule::new("work");
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
fn a_failed_snapshot_on_one_machine_stops_and_takes_the_others_back() {
    for failing in BOTH {
        let world = world();
        world.hook(move |host, request, _| {
            (host == failing && matches!(request, Request::CreateSnapshots { .. }))
                .then(|| Err(fault(FaultKind::NoSpace, "no space left on device")))
        });
        let outcome = Trial::new(&world).run();
        assert_eq!(outcome.code(), 7, "{}", outcome.error());
        nothing_was_changed(&world);
    }
}

#[test]
fn an_error_while_cleaning_up_is_told_beside_the_first_one() {
    let world = world();
    world.with(Host::Target, |m| m.free_bytes = 900);
    world.hook(|_, request, _| {
        matches!(request, Request::DeleteSnapshots { .. })
            .then(|| Err(fault(FaultKind::Io, "read-only file system")))
    });
    let mut trial = gated(&world, "--allow-mass-delete");
    trial.options.batch = true;
    let outcome = trial.run();
    assert_eq!(outcome.code(), 4, "the first error decides");
    let lines: Vec<String> = outcome
        .ended
        .errors
        .iter()
        .map(crate::error::Explained::line)
        .collect();
    assert_eq!(lines.len(), 3, "one on each machine: {lines:?}");
    assert!(lines[1].contains("read-only file system"), "{lines:?}");
}

#[test]
fn a_marker_that_cannot_be_written_everywhere_is_taken_back() {
    let world = world();
    world.hook(|host, request, _| {
        (host == Host::Target && matches!(request, Request::WriteIncomplete(Some(_))))
            .then(|| Err(fault(FaultKind::Io, "read-only file system")))
    });
    let outcome = Trial::new(&world).run();
    assert_eq!(outcome.code(), 1);
    for host in BOTH {
        let machine = world.machine(host);
        assert_eq!(machine.state.incomplete, None);
        assert!(machine.snapshots.is_empty());
    }
}

#[test]
fn a_differing_configuration_is_taken_kept_or_stops_the_run() {
    let run = |keys: Option<&str>, yes: bool, theirs: Option<&str>| {
        let world = world();
        world.with(Host::Target, |m| {
            m.config.clear();
            if let Some(theirs) = theirs {
                m.config.insert("config.yaml".into(), theirs.into());
            }
        });
        let mut trial = Trial::new(&world);
        trial.options.yes = yes;
        if let Some(keys) = keys {
            trial.options.batch = false;
            trial.prompter = Scripted::new(keys);
        }
        let outcome = trial.run();
        let now = world
            .machine(Host::Target)
            .config
            .get("config.yaml")
            .cloned();
        (outcome.code(), now.unwrap_or_default())
    };
    let ours = "ours\n".to_owned();
    assert_eq!(run(Some("t"), false, Some("theirs\n")), (0, ours.clone()));
    assert_eq!(
        run(Some("k"), false, Some("theirs\n")),
        (0, "theirs\n".into())
    );
    assert_eq!(
        run(Some("a"), false, Some("theirs\n")),
        (4, "theirs\n".into())
    );
    assert_eq!(
        run(Some(""), false, Some("theirs\n")),
        (4, "theirs\n".into()),
        "the default"
    );
    assert_eq!(run(Some("t"), false, None), (0, ours.clone()));
    assert_eq!(
        run(Some("k"), false, None),
        (4, String::new()),
        "nothing to keep"
    );
    assert_eq!(
        run(None, true, Some("theirs\n")),
        (0, ours),
        "--yes takes ours"
    );
    assert_eq!(
        run(None, false, Some("theirs\n")),
        (4, "theirs\n".into()),
        "--batch refuses"
    );
}

#[test]
fn with_confirm_each_command_every_change_is_asked_about_and_no_stops_it() {
    let world = world();
    let prompter = Scripted::new("a");
    let mut trial = Trial::new(&world);
    trial.options.batch = false;
    trial.options.confirm_each_command = true;
    trial.prompter = prompter.clone();
    let outcome = trial.run();
    assert_eq!(outcome.code(), 4, "{}", outcome.error());
    assert!(
        prompter.texts()[0].contains("create snapshots"),
        "{:?}",
        prompter.texts()
    );
    nothing_was_changed(&world);

    let world = super::tests::world();
    let prompter = Scripted::new("pppppppppppppppppppp");
    let mut trial = Trial::new(&world);
    trial.options.batch = false;
    trial.options.confirm_each_command = true;
    trial.prompter = prompter.clone();
    assert_eq!(trial.run().code(), 0);
    let changes = BOTH.map(|host| world.machine(host).mutations().len());
    assert_eq!(prompter.texts().len(), changes.iter().sum::<usize>());
}

#[test]
fn confirm_each_command_without_anyone_to_ask_is_refused_at_once() {
    let world = world();
    let mut trial = Trial::new(&world);
    trial.options.confirm_each_command = true;
    assert_eq!(trial.run().code(), 4);
    assert!(world.machine(Host::Source).requests.is_empty());
}

#[test]
fn old_snapshots_go_by_policy_and_the_anchors_of_other_machines_stay() {
    let world = world();
    let old = |session: &str| crate::snapshot::SnapshotFacts {
        subvolume: "@home".into(),
        name: format!("@home-presync-20200101T000000Z-{session}"),
        path: String::new(),
        uuid: String::new(),
        generation: 1,
        created_generation: 1,
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

#[test]
fn the_first_reason_decides_the_exit_status() {
    // A module's own error that surfaces after a signal is reported, but 130 is the status.
    let world = world();
    let abort = world.abort();
    let work = TestModule::new("work").executing(move |_| {
        abort.raise();
        Err(ModuleError::failed("the child was killed"))
    });
    let outcome = Trial::of(&world, vec![work]).run();
    assert_eq!(outcome.code(), 130);
    assert!(
        outcome
            .ended
            .errors
            .iter()
            .any(|e| e.line().contains("the child was killed"))
    );

    // A signal that comes when everything is done changes nothing.
    let world = super::tests::world();
    world.interrupt_at(|host, r| host == Host::Source && matches!(r, Request::Goodbye));
    assert_eq!(Trial::new(&world).run().code(), 0);
}

#[test]
fn each_module_error_has_its_status() {
    use crate::agent::client::AgentError;
    use crate::prompt::PromptError;
    type Make = fn() -> ModuleError;
    let table: [(Make, u8); 6] = [
        (|| ModuleError::failed("x"), 1),
        (
            || ModuleError::Refused {
                message: "x".into(),
                flag: None,
            },
            4,
        ),
        (|| PromptError::CannotAsk.into(), 4),
        (
            || {
                AgentError::Fault {
                    hostname: "v".into(),
                    fault: fault(FaultKind::NoSpace, "x"),
                }
                .into()
            },
            7,
        ),
        (
            || {
                AgentError::Fault {
                    hostname: "v".into(),
                    fault: fault(FaultKind::Io, "x"),
                }
                .into()
            },
            1,
        ),
        (|| Interrupted.into(), 130),
    ];
    for (make, code) in table {
        let world = world();
        let work = TestModule::new("work").executing(move |_| Err(make()));
        let outcome = Trial::of(&world, vec![work]).run();
        assert_eq!(outcome.code(), code, "{:?}", make());
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
