//! What is said to flatpak, and in which order, by a flatpak made for it that keeps its remotes and apps in
//! files.

use super::*;
use crate::interrupt::AbortFlag;
use crate::modules::packages::bytes::Bytes;
use crate::modules::packages::flatpak::plan::Install;
use crate::modules::packages::flatpak::state::{Remote, SYSTEM};
use crate::modules::packages::testing::FakeMachine;

/// `refs`: what is installed, with its remote. `lazy`: remotes are added with words only. `elsewhere`: an
/// install takes another remote than it is told.
const FLATPAK: &str = r#"
config=$TEST_ROOT/var/lib/flatpak/repo/config
verb=$1; shift; for last; do :; done
case $verb in
  --version) echo 'Flatpak 1.14' ; exit ;;
  list) case "$*" in *--app*) sed -n 's|^app/||p' $TEST_ROOT/refs ;; esac; exit ;;
  mask|pin) [ $# -gt 1 ] || exit 0 ;;
esac
echo "$verb $*" | sed "s|$TEST_ROOT||g" >>$TEST_ROOT/log
case $verb in
  remote-add)
    for word; do name=$url; url=$word; done
    [ -e $TEST_ROOT/lazy ] || printf '[remote "%s"]\nurl=%s\ngpg-verify=true\n' $name $url >>$config ;;
  remote-modify)
    for word; do case $word in --url=*) sed -i "s|^url=.*|url=${word#--url=}|" $config ;; esac; done ;;
  install)
    for word; do remote=$ref; ref=$word; done
    [ -e $TEST_ROOT/elsewhere ] && remote=other
    printf '%s\t%s\t-\n' $ref $remote >>$TEST_ROOT/refs ;;
  uninstall) grep -v "^$last" $TEST_ROOT/refs >$TEST_ROOT/refs.new; mv $TEST_ROOT/refs.new $TEST_ROOT/refs ;;
esac"#;

const APP: &str = "app/org.x.App/x86_64/stable";
const BETA: &str = "app/org.x.App/x86_64/beta";
const URL: &str = "https://hub.example/repo";

fn machine(config: &str, refs: &str) -> FakeMachine {
    let machine = FakeMachine::new();
    machine.program("flatpak", FLATPAK);
    let config = format!("[core]\nmode=x\n{config}");
    machine.file("/var/lib/flatpak/repo/config", &config);
    machine.file("/refs", refs);
    std::fs::create_dir_all(machine.root().join("run")).unwrap();
    machine
}

fn remote(exists: bool) -> RemoteWork {
    RemoteWork {
        name: "hub".to_owned(),
        exists,
        like: Remote {
            url: URL.to_owned(),
            verify: true,
            keys: vec![Bytes(b"one".to_vec()), Bytes(b"two".to_vec())],
            ..Remote::default()
        },
        ..RemoteWork::default()
    }
}

fn work(remote: RemoteWork) -> ScopeWork {
    ScopeWork {
        remotes: vec![remote],
        install: vec![Install {
            name: APP.to_owned(),
            remote: "hub".to_owned(),
            also: Vec::new(),
        }],
        ..ScopeWork::default()
    }
}

/// What failed and why, and what was run.
fn run(machine: &FakeMachine, work: ScopeWork) -> (BTreeMap<String, String>, Vec<String>) {
    let abort = AbortFlag::new();
    let work = Work::from([(SYSTEM.to_owned(), work)]);
    let outcomes = apply(&machine.tools(&abort), &work, &mut |_| {});
    let failed = (outcomes.into_iter())
        .filter_map(|outcome| Some((outcome.id, outcome.error?)))
        .collect();
    let log = machine.content("/log").unwrap_or_default();
    (failed, log.lines().map(str::to_owned).collect())
}

#[test]
fn a_remote_comes_with_key_and_filter_before_its_apps_and_masks_come_last() {
    let machine = machine("", &format!("{BETA}\thub\t-\n"));
    let mut remote = remote(false);
    remote.like.filter = "/etc/flatpak/hub.filter".to_owned();
    remote.like.filter_content = Some(Bytes(b"deny *\n".to_vec()));
    let mut work = work(remote);
    work.remove.push(BETA.to_owned());
    work.mask.push("org.x.Never".to_owned());
    let (failed, log) = run(&machine, work);
    assert!(failed.is_empty(), "{failed:?}");
    let filter = machine.content("/etc/flatpak/hub.filter");
    assert_eq!(filter.as_deref(), Some("deny *\n"));
    let key = format!("/run/pc-switcher-keys-{}.gpg", std::process::id());
    assert_eq!(machine.content(&key), None, "only while it is imported");
    let quiet = "--noninteractive --assumeyes";
    assert_eq!(
        log,
        [
            format!(
                "remote-add --system --filter=/etc/flatpak/hub.filter --gpg-import={key} hub {URL}"
            ),
            format!("install --system {quiet} hub {APP}"),
            format!("uninstall --system {quiet} {BETA}"),
            "mask --system org.x.Never".to_owned(),
        ]
    );
}

#[test]
fn a_remote_is_turned_to_another_place_and_its_filter_taken_away() {
    let old = "[remote \"hub\"]\nurl=https://old.example/\ngpg-verify=true\n";
    let machine = machine(old, "");
    let mut remote = remote(true);
    remote.unfilter = true;
    remote.like.keys.clear();
    let (failed, log) = run(&machine, work(remote));
    assert!(failed.is_empty(), "{failed:?}");
    let modify = format!("remote-modify --system --url={URL} --gpg-verify --no-filter hub");
    assert_eq!(log[0], modify);
}

#[test]
fn a_remote_that_is_not_what_was_said_gives_nothing() {
    let machine = machine("", "");
    machine.file("/lazy", "");
    let (failed, log) = run(&machine, work(remote(false)));
    let why = &failed[&format!("{SYSTEM} {APP}")];
    assert!(why.contains("the remote is another one"), "{why}");
    assert!(
        !log.iter().any(|line| line.starts_with("install")),
        "{log:?}"
    );
}

#[test]
fn an_app_that_came_from_elsewhere_is_not_it() {
    let there = format!("[remote \"hub\"]\nurl={URL}\ngpg-verify=true\n");
    let machine = machine(&there, "");
    machine.file("/elsewhere", "");
    let mut work = work(remote(true));
    work.remotes.clear();
    let (failed, _) = run(&machine, work);
    let why = &failed[&format!("{SYSTEM} {APP}")];
    assert!(why.contains("it came from other and not from hub"), "{why}");
}

#[test]
fn a_filter_that_cannot_be_set_fails_everything_of_its_remote() {
    for path in [
        "/srv/hub.filter",
        "/etc/flatpak/../shadow",
        "/etc/flatpak/.x",
    ] {
        let machine = machine("", "");
        let mut remote = remote(false);
        remote.like.filter = path.to_owned();
        remote.like.filter_content = Some(Bytes(b"deny *\n".to_vec()));
        let (failed, log) = run(&machine, work(remote));
        let why = &failed[&format!("{SYSTEM} {APP}")];
        assert!(why.contains(path), "{why}");
        assert!(log.is_empty(), "{log:?}");
    }
}
