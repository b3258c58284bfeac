//! Reasons not to start, found before anything is changed.

use jiff::SignedDuration;

use crate::agent::protocol::{Installed, Request};
use crate::event::{Host, LogLevel};
use crate::module::ValidationError;
use crate::run::testing::{TestModule, Trial};
use crate::snapshot::SnapshotDir;

use super::{BOTH, nothing_was_changed, world};

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
        "the subvolume @home is not mounted",
        "/etc/fstab",
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
fn a_snapshot_directory_inside_what_is_snapshotted_is_refused() {
    let world = world();
    world.with(Host::Target, |m| m.snapshot_dir = SnapshotDir::Directory);
    let outcome = Trial::new(&world).run();
    assert_eq!(outcome.code(), 3);
    for part in ["/.snapshots is a plain directory in @", "mv /.snapshots"] {
        assert!(outcome.error().contains(part), "{}", outcome.error());
    }
    nothing_was_changed(&world);
}

#[test]
fn clocks_that_are_far_apart_are_refused_and_less_is_warned_of() {
    for (ahead, code) in [(-7200, 3), (7200, 3), (60, 8), (-60, 8), (20, 0)] {
        let world = world();
        world.with(Host::Target, |m| {
            m.clock_ahead = SignedDuration::from_secs(ahead);
        });
        let outcome = Trial::new(&world).run();
        assert_eq!(outcome.code(), code, "{ahead}: {}", outcome.error());
        if code == 3 {
            let way = if ahead < 0 { "behind" } else { "ahead of" };
            let words = format!("its clock is 2 h 0 min {way} that of atlas");
            assert!(outcome.error().contains(&words), "{}", outcome.error());
            nothing_was_changed(&world);
        }
    }
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
fn what_a_lost_sync_from_here_left_on_the_target_is_waited_for() {
    let world = world();
    world.with(Host::Target, |m| {
        m.lock = Some(crate::record::LockHolder {
            session: "0badcafe".into(),
            role: Host::Target,
            from: "atlas".into(),
            pid: 42,
            since: jiff::Timestamp::UNIX_EPOCH,
        });
    });
    let later = world.clone();
    let ends = std::thread::spawn(move || {
        std::thread::sleep(std::time::Duration::from_secs(1));
        later.with(Host::Target, |m| m.lock = None);
    });
    let outcome = Trial::new(&world).run();
    ends.join().unwrap();
    assert_eq!(outcome.code(), 0, "{}", outcome.error());
    let told = |line: &&crate::event::LogEvent| line.message.contains("0badcafe");
    assert_eq!(
        outcome
            .logged(LogLevel::Info)
            .into_iter()
            .filter(told)
            .count(),
        1
    );
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
        outcome.error().contains("connection refused"),
        "{}",
        outcome.error()
    );
    assert!(world.nothing_runs());
}
