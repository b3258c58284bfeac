//! What a run leaves for the next one to start from.

use std::sync::{Arc, Mutex};

use crate::agent::protocol::Request;
use crate::event::{Host, LogLevel, SessionState};
use crate::module::Mirrored;
use crate::modules::user_data::NAME as USER_DATA;
use crate::record::anchor::Recorded;
use crate::record::standing::{NoAnchor, Standing};
use crate::record::testing::anchor;
use crate::run::testing::{TestModule, Trial, World, history_entry, name};

use super::{BOTH, marker, world};

fn mirrored() -> Mirrored {
    Mirrored {
        filters: [("/home".to_owned(), "1:ab".to_owned())].into(),
        anchor: Ok(anchor("0123abcd")),
    }
}

/// A module that mirrors `/home`.
fn mirror(name: &'static str) -> TestModule {
    let mut module = TestModule::new(name);
    module.mirrors = vec!["/home".to_owned()];
    module.mirrored = Box::new(|_| Some(mirrored()));
    module
}

/// Postsync snapshots of the target and marks of modules, in the order they were made.
fn order(world: &World) -> Vec<String> {
    let requests = world.machine(Host::Target).requests;
    let steps = requests.iter().filter_map(|request| match request {
        Request::WriteIncomplete(Some(marker)) => marker.module.clone(),
        Request::CreateSnapshots { snapshots, .. } => {
            let names = snapshots.iter().filter(|s| s.name.contains("postsync"));
            let names: Vec<&str> = names.map(|s| s.subvolume.as_str()).collect();
            (!names.is_empty()).then(|| format!("postsync {}", names.join(" ")))
        }
        _ => None,
    });
    let mut steps: Vec<String> = steps.collect();
    steps.retain(|step| step != "install_on_target");
    steps
}

#[test]
fn the_postsync_snapshot_follows_the_last_mirror_at_once() {
    let world = world();
    let modules = vec![
        mirror("one"),
        TestModule::new("between"),
        mirror("two"),
        TestModule::new("after"),
    ];
    assert_eq!(Trial::of(&world, modules).run().code(), 0);
    assert_eq!(
        order(&world),
        [
            "one",
            "between",
            "two",
            "postsync @home",
            "after",
            "postsync @"
        ]
    );
    for host in BOTH {
        let entry = world.machine(host).state.history.last().cloned().unwrap();
        let snapshots = match host {
            Host::Source => &entry.source_snapshots,
            Host::Target => &entry.target_snapshots,
        };
        assert_eq!(snapshots.len(), 4, "{snapshots:?}");
    }
}

#[test]
fn both_histories_have_the_anchor_and_a_run_with_errors_has_none() {
    for (errors, expected) in [
        (false, SessionState::Completed),
        (true, SessionState::Failed),
    ] {
        let world = world();
        let seen = Arc::new(Mutex::new(0));
        let asked = Arc::clone(&seen);
        let mut module = mirror("work").executing(move |context| {
            if errors {
                context.log(LogLevel::Error, Host::Target, "a file was not changed");
            }
            Ok("done".into())
        });
        module.mirrored = Box::new(move |context| {
            *asked.lock().unwrap() += context.session.target_postsync.len();
            Some(mirrored())
        });
        Trial::of(&world, vec![module]).run();
        assert_eq!(*seen.lock().unwrap(), if errors { 0 } else { 2 });
        for host in BOTH {
            let entry = world.machine(host).state.history.last().cloned().unwrap();
            assert_eq!(entry.state, expected);
            let (folders, anchor) = if errors {
                (0, None)
            } else {
                let anchor = mirrored().anchor.unwrap();
                (1, Some(Recorded::Anchor(Box::new(anchor))))
            };
            assert_eq!((entry.folders.len(), entry.anchor), (folders, anchor));
        }
    }
}

#[test]
fn a_package_that_did_not_come_costs_neither_the_anchor_nor_the_sync() {
    let world = world();
    let mut software = TestModule::new("software").executing(|context| {
        context.log(LogLevel::Error, Host::Target, "one package did not come");
        Ok("1 failed".into())
    });
    software.fails_whole = true;
    let trial = Trial::of(&world, vec![software, mirror(USER_DATA)]);
    assert_eq!(trial.run().code(), 1);
    for host in BOTH {
        let entry = world.machine(host).state.history.last().cloned().unwrap();
        assert_eq!((entry.state, entry.whole), (SessionState::Failed, true));
        let left = Recorded::Anchor(Box::new(mirrored().anchor.unwrap()));
        assert_eq!((entry.anchor, entry.folders.len()), (Some(left), 1));
        world.with(host, |m| m.lock = None);
    }
    // It was a sync: the next one the same way is asked about as after any other, and starts from it.
    let refused = Trial::of(&world, vec![mirror(USER_DATA)]).run();
    assert_eq!(refused.code(), 4, "{}", refused.error());
    assert!(refused.error().contains("--allow-out-of-order"));
    assert!(told(&world).unwrap().same_direction);
}

#[test]
fn the_anchor_with_this_machine_outlives_a_sync_that_leaves_none() {
    let world = world();
    for (host, role) in [(Host::Source, Host::Source), (Host::Target, Host::Target)] {
        world.with(host, |m| {
            let mut entry = history_entry("00000009", &name("atlas"), &name("vega"), role);
            let anchor = anchor("00000009");
            m.snapshots = anchor.half(role).to_vec();
            entry.anchor = Some(Recorded::Anchor(Box::new(anchor)));
            m.state.history.insert(0, entry);
        });
    }
    let mut trial = Trial::new(&world);
    trial.config.btrfs_snapshots.keep_recent = 1;
    assert_eq!(trial.run().code(), 0);
    for host in BOTH {
        let left = world.machine(host).snapshots;
        assert!(
            left.iter().any(|s| s.name.ends_with("00000009")),
            "{left:?}"
        );
    }
}

/// What the next run's modules are told.
fn told(world: &World) -> Result<Standing, NoAnchor> {
    let seen = Arc::new(Mutex::new(Err(NoAnchor::Unread)));
    let tell = Arc::clone(&seen);
    let module = TestModule::new("work").executing(move |context| {
        tell.lock().unwrap().clone_from(&context.session.anchor);
        Ok("done".into())
    });
    for host in BOTH {
        world.with(host, |m| m.lock = None);
    }
    let mut trial = Trial::of(world, vec![module]);
    trial.options.allow_incomplete = true;
    trial.options.allow_out_of_order = true;
    assert_eq!(trial.run().code(), 0);
    Arc::into_inner(seen).unwrap().into_inner().unwrap()
}

#[test]
fn modules_are_told_the_anchor_or_why_there_is_none() {
    let world = world();
    assert!(matches!(told(&world), Err(NoAnchor::FirstSync { .. })));
    for (host, role) in [(Host::Source, Host::Target), (Host::Target, Host::Source)] {
        world.with(host, |m| {
            let mut entry = history_entry("00000009", &name("vega"), &name("atlas"), role);
            entry.anchor = Some(Recorded::Anchor(Box::new(anchor("00000009"))));
            entry.modules = vec![crate::run::session::success(
                crate::modules::user_data::NAME,
                jiff::Timestamp::UNIX_EPOCH,
                String::new(),
            )];
            m.state.history.push(entry);
        });
    }
    let standing = told(&world).unwrap();
    assert!(!standing.same_direction);
    assert_eq!(standing.anchor, anchor("00000009").reversed());
    world.with(Host::Target, |m| {
        m.state.incomplete = Some(marker("atlas", "vega", Host::Target));
    });
    let expected = NoAnchor::Incomplete {
        session: "0000dead".to_owned(),
    };
    assert_eq!(told(&world), Err(expected));
}
