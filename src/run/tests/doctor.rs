//! What the doctor says of machines in memory: everything at once, what a sync would end with, and nothing
//! changed.

use std::sync::Arc;

use crate::agent::health::Login;
use crate::agent::protocol::Request;
use crate::config::{Config, ConfigProblem};
use crate::event::{EventSink, Host};
use crate::exit::ExitStatus;
use crate::module::ModuleKind;
use crate::record::LockHolder;
use crate::run::doctor::{Check, Checkup, Examination, State, examine};
use crate::run::testing::World;
use crate::snapshot::SnapshotDir;

use super::{BOTH, marker, world};

/// Everything but the modules that speak to services of real agents.
fn registry() -> Vec<Box<dyn crate::module::Module>> {
    let mut all = crate::modules::registry();
    all.retain(|module| module.kind() != ModuleKind::Sync || module.name() == "dummy_success");
    all
}

fn config() -> Config {
    Config {
        sync_modules: vec![("dummy_success".into(), true)],
        ..Config::with_defaults("/nowhere/config.yaml".as_ref())
    }
}

fn looked_with(
    world: &World,
    host: Option<&str>,
    config: Result<Config, Vec<ConfigProblem>>,
) -> Checkup {
    let checkup = examine(Examination {
        config,
        config_path: "/nowhere/config.yaml".into(),
        host: host.map(str::to_owned),
        machines: Arc::new(world.clone()),
        prompter: Arc::new(crate::prompt::NeverAsk),
        events: EventSink::none(),
        abort: world.abort(),
        modules: &registry,
    });
    for host in BOTH {
        let machine = world.machine(host);
        assert!(machine.mutations().is_empty(), "{:?}", machine.mutations());
        let takes_locks = |r: &Request| matches!(r, Request::Lock(_));
        assert!(
            !machine.requests.iter().any(takes_locks),
            "a lock was taken"
        );
    }
    assert!(world.nothing_runs());
    checkup.expect("nobody interrupted it")
}

fn looked(world: &World) -> Checkup {
    looked_with(world, Some("vega"), Ok(config()))
}

fn bad(checkup: &Checkup) -> Vec<(&str, Option<Host>, State)> {
    let bad = checkup
        .checks
        .iter()
        .filter(|check| check.state != State::Ok);
    bad.map(|check| (check.id, check.host, check.state))
        .collect()
}

fn one<'a>(checkup: &'a Checkup, id: &str, host: Option<Host>) -> &'a Check {
    let mut found = checkup
        .checks
        .iter()
        .filter(|c| c.id == id && c.host == host);
    let check = found
        .next()
        .unwrap_or_else(|| panic!("no {id} in {checkup:#?}"));
    assert!(found.next().is_none(), "{id} twice");
    check
}

#[test]
fn two_good_machines_are_good_in_every_respect() {
    let world = world();
    let checkup = looked(&world);
    assert_eq!(bad(&checkup), [], "{checkup:#?}");
    assert_eq!(checkup.status(), ExitStatus::Done);
    assert_eq!(
        (checkup.source.as_str(), checkup.target.as_deref()),
        ("atlas", Some("vega"))
    );
    for id in [
        "ssh_config",
        "connection",
        "host_key",
        "login",
        "architecture",
        "clock",
    ] {
        one(&checkup, id, Some(Host::Target));
    }
    for id in [
        "sudo",
        "agent",
        "kernel",
        "run",
        "lock",
        "logins",
        "disk",
        "btrfs_snapshots",
    ] {
        for host in BOTH {
            one(&checkup, id, Some(host));
        }
    }
    one(&checkup, "config", None);
    one(&checkup, "history", None);
}

#[test]
fn everything_that_is_wrong_is_told_at_once_with_what_a_sync_would_end_with() {
    let world = world();
    world.with(Host::Target, |m| {
        m.lock = None;
        m.health.lock = Some(LockHolder {
            session: "0badcafe".into(),
            role: Host::Target,
            from: "rigel".into(),
            pid: 42,
            since: jiff::Timestamp::UNIX_EPOCH,
        });
        m.health.kernel_lacks = vec!["openat2(2)".into()];
        m.free_bytes = 100;
        m.snapshot_dir = SnapshotDir::Directory;
        m.clock_ahead = jiff::SignedDuration::from_hours(2);
        m.state.incomplete = Some(marker("atlas", "vega", Host::Target));
    });
    world.with(Host::Source, |m| m.free_bytes = 220);
    let checkup = looked(&world);
    let target = Some(Host::Target);
    assert_eq!(
        bad(&checkup),
        [
            ("kernel", target, State::Failed),
            ("lock", target, State::Failed),
            ("btrfs_snapshots", target, State::Failed),
            ("clock", target, State::Failed),
            ("disk", Some(Host::Source), State::Warning),
            ("disk", target, State::Failed),
            ("history", None, State::Warning),
        ]
    );
    assert_eq!(one(&checkup, "lock", target).status, ExitStatus::Locked);
    assert_eq!(one(&checkup, "disk", target).status, ExitStatus::DiskSpace);
    assert_eq!(
        checkup.status(),
        ExitStatus::Validation,
        "that of the first"
    );
    for check in checkup.checks.iter().filter(|c| c.state != State::Ok) {
        assert!(check.remedy.is_some(), "{check:?}");
    }
}

#[test]
fn a_machine_that_is_not_reached_leaves_what_follows_unknown_and_the_other_looked_at() {
    let world = world();
    world.unreachable(1);
    let checkup = looked(&world);
    assert_eq!(
        one(&checkup, "agent", Some(Host::Target)).state,
        State::Failed
    );
    assert_eq!(checkup.status(), ExitStatus::Connection);
    assert_eq!(checkup.target.as_deref(), Some("vega"));
    one(&checkup, "btrfs_snapshots", Some(Host::Source));
    assert!(checkup.checks.iter().all(|c| c.id != "clock"));
}

#[test]
fn without_a_host_this_machine_is_looked_at_alone() {
    let world = world();
    world.with(Host::Source, |m| {
        m.snapshot_dir = SnapshotDir::Directory;
        m.state.incomplete = Some(marker("atlas", "vega", Host::Source));
    });
    let checkup = looked_with(&world, None, Ok(config()));
    assert!(checkup.target.is_none() && world.machine(Host::Target).requests.is_empty());
    let source = Some(Host::Source);
    assert_eq!(
        bad(&checkup),
        [
            ("history", source, State::Warning),
            ("btrfs_snapshots", source, State::Failed)
        ]
    );
    assert!(checkup.checks.iter().all(|c| c.host != Some(Host::Target)));
}

#[test]
fn without_a_configuration_everything_else_is_still_looked_at() {
    let world = world();
    let problem = ConfigProblem::of_file(
        "/nowhere/config.yaml".as_ref(),
        "no such file".to_owned(),
        Some("write one"),
    );
    let checkup = looked_with(&world, Some("vega"), Err(vec![problem]));
    assert_eq!(bad(&checkup), [("config", None, State::Failed)]);
    assert_eq!(checkup.status(), ExitStatus::Usage);
    one(&checkup, "btrfs_snapshots", Some(Host::Target));

    let mut wrong = config();
    wrong.sync_modules = vec![("dummy_success".into(), false)];
    let checkup = looked_with(&world, Some("vega"), Ok(wrong));
    let config = checkup.checks.iter().filter(|c| c.id == "config");
    let states: Vec<State> = config.map(|c| c.state).collect();
    assert_eq!(states, [State::Ok, State::Failed]);
}

#[test]
fn gates_are_warnings_that_name_their_flags() {
    let world = World::new();
    world.with(Host::Target, |m| {
        m.health.logins = Some(vec![Login {
            user: "anna".into(),
            home: None,
            is_graphical: true,
            place: "seat0".into(),
        }]);
    });
    let mut with_user_data = config();
    with_user_data.sync_modules.push(("user_data".into(), true));
    let checkup = looked_with(&world, Some("vega"), Ok(with_user_data));
    let remedies: Vec<&str> = (checkup.checks.iter())
        .filter(|check| check.state == State::Warning)
        .filter_map(|check| check.remedy.as_deref())
        .collect();
    assert_eq!(
        remedies,
        [
            "a sync asks; --allow-first-sync answers beforehand",
            "a sync asks; --allow-logged-in answers beforehand"
        ]
    );
    assert_eq!(checkup.status(), ExitStatus::Warnings);
}

#[test]
fn where_a_machine_stands_is_told_without_writing() {
    use crate::event::SessionState;
    use crate::record::testing::{entry, snapshot};
    let world = world();
    let session = "0a11ce00";
    for host in [Host::Source, Host::Target] {
        world.with(host, |m| {
            let mut last = entry(session, "atlas", "vega", SessionState::Completed);
            last.role = host;
            m.state.history = vec![last];
            m.snapshots.push(snapshot(&format!(
                "@home-presync-20260101T000000Z-{session}"
            )));
        });
    }
    let checkup = looked(&world);
    for (host, words) in [
        (
            Host::Source,
            "synced to vega 1970-01-01 00:00:00 UTC, completed; 1 snapshot, ",
        ),
        (
            Host::Target,
            "synced from atlas 1970-01-01 00:00:00 UTC, completed; 1 snapshot, ",
        ),
    ] {
        let check = one(&checkup, "standing", Some(host));
        assert!(check.message.starts_with(words), "{}", check.message);
        assert!(
            check.message.contains("pc-switcher status"),
            "{}",
            check.message
        );
        world.with(host, |m| assert!(m.mutations().is_empty()));
    }
}
