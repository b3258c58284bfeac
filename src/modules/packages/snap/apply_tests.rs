//! What is said to snapd, by a snapd made for it that keeps its state in files.

use super::*;
use crate::modules::packages::testing::FakeMachine;

/// Keeps one line a snap below `snaps`, `refresh.hold` in a file, and every command in `log`.
const SNAPD: &str = r#"
D=$TEST_ROOT/snapd; mkdir -p $D/snaps
case $1 in list|get) ;; *) echo "$*" >>$D/log ;; esac
verb=$1; shift
for word; do case $word in
  --revision=*) rev=${word#*=} ;; --channel=*) channel=${word#*=} ;; -*) ;; *) name=$word ;;
esac; done
case $verb in
  list)
    [ -z "$(ls $D/snaps)" ] && { echo "No snaps are installed yet." >&2; exit 0; }
    echo "Name Version Rev Tracking Publisher Notes"; cat $D/snaps/* ;;
  get)
    if [ -s $D/hold ]; then echo "{\"refresh\": {\"hold\": \"$(cat $D/hold)\"}}"; else echo "{}"; fi ;;
  set) echo ${2#refresh.hold=} >$D/hold ;;
  unset) rm -f $D/hold ;;
  install|refresh)
    case $* in *--hold*|*--unhold*) exit 0 ;; esac
    [ $name = gone ] && { echo "error: snap \"gone\" not found" >&2; exit 1; }
    [ $name = other ] && rev=99
    echo "$name 1 $rev latest/stable x -" >$D/snaps/$name ;;
  switch) ;;
  remove) rm $D/snaps/$name ;;
esac
"#;

fn machine() -> FakeMachine {
    let machine = FakeMachine::new();
    machine.program("snap", SNAPD);
    machine
}

fn snap() -> Snap {
    Snap {
        revision: "7".to_owned(),
        channel: "latest/edge".to_owned(),
        classic: true,
        ..Snap::default()
    }
}

fn run(machine: &FakeMachine, work: &Work) -> (Vec<Outcome>, Vec<String>, String) {
    let abort = AbortFlag::new();
    let mut said = Vec::new();
    let outcomes = apply(&machine.tools(&abort), work, &mut |line| {
        said.push(line.to_owned());
    })
    .unwrap();
    (
        outcomes,
        said,
        machine.content("/snapd/log").unwrap_or_default(),
    )
}

#[test]
fn snaps_come_at_their_revision_and_one_that_fails_fails_by_name() {
    let machine = machine();
    let mut work = Work::default();
    for name in ["code", "gone", "other"] {
        work.install.insert(name.to_owned(), snap());
    }
    work.hold.push("code".to_owned());
    let (outcomes, _, log) = run(&machine, &work);
    let failed: Vec<&str> = (outcomes.iter())
        .filter(|outcome| outcome.error.is_some())
        .map(|outcome| outcome.id.as_str())
        .collect();
    assert_eq!(failed, ["gone", "other"], "{outcomes:?}");
    assert!(outcomes[1].error.as_ref().unwrap().contains("not found"));
    assert!(
        outcomes[2]
            .error
            .as_ref()
            .unwrap()
            .contains("revision 99 and not 7")
    );
    assert!(
        log.contains("install --revision=7 --classic code\nswitch --channel=latest/edge code\n"),
        "{log}"
    );
    assert!(log.contains("refresh --hold=forever code\n"), "{log}");
}

#[test]
fn automatic_refreshes_are_held_off_meanwhile_and_then_as_they_were() {
    let work = Work {
        remove: vec!["old".to_owned()],
        ..Work::default()
    };
    for (before, touched) in [
        (None, true),
        (Some("2020-01-01T00:00:00Z\n"), true),
        (Some("forever\n"), false),
        (Some("2199-01-01T00:00:00Z\n"), false),
    ] {
        let machine = machine();
        machine.file("/snapd/snaps/old", "old 1 1 latest/stable x -\n");
        if let Some(before) = before {
            machine.file("/snapd/hold", before);
        }
        let (_, said, log) = run(&machine, &work);
        assert_eq!(machine.content("/snapd/hold").as_deref(), before, "{log}");
        assert_eq!(
            log.contains("set system refresh.hold=2"),
            touched,
            "{before:?}: {log}"
        );
        assert!(
            !said.iter().any(|line| line.contains("refresh")),
            "{said:?}"
        );
    }
}

#[test]
fn a_hold_that_cannot_be_read_is_not_touched() {
    let machine = machine();
    let script = SNAPD.replace(
        "  get)",
        "  get) echo 'error: access denied' >&2; exit 1 ;;\n  gone)",
    );
    machine.program("snap", &script);
    machine.file("/snapd/hold", "forever\n");
    let work = Work {
        unhold: vec!["code".to_owned()],
        ..Work::default()
    };
    let (outcomes, said, log) = run(&machine, &work);
    assert!(outcomes[0].error.is_none());
    assert!(said[0].contains("access denied"), "{said:?}");
    assert!(!log.contains("refresh.hold"), "{log}");
}

#[test]
fn nothing_that_is_no_snap_reaches_the_command_line() {
    let machine = machine();
    let abort = AbortFlag::new();
    for name in ["--all", "../x", "A", ""] {
        let work = Work {
            remove: vec![name.to_owned()],
            ..Work::default()
        };
        assert!(
            apply(&machine.tools(&abort), &work, &mut |_| {}).is_err(),
            "{name}"
        );
    }
}

#[test]
fn what_is_said_to_snapd_names_one_snap_and_purges_nothing() {
    let machine = machine();
    machine.file("/snapd/snaps/old", "old 1 1 latest/stable x -\n");
    machine.file("/snapd/snaps/moves", "moves 1 3 latest/stable x -\n");
    let devmode = Snap {
        devmode: true,
        ..snap()
    };
    let work = Work {
        install: [("dev".to_owned(), devmode)].into(),
        change: [("moves".to_owned(), snap())].into(),
        remove: vec!["old".to_owned()],
        hold: vec!["dev".to_owned()],
        unhold: vec!["moves".to_owned()],
    };
    let (outcomes, _, log) = run(&machine, &work);
    assert!(outcomes.iter().all(|o| o.error.is_none()), "{outcomes:?}");
    let lines: Vec<&str> = (log.lines())
        .filter(|line| !line.contains("refresh.hold"))
        .collect();
    assert_eq!(
        lines,
        [
            "install --revision=7 --devmode dev",
            "switch --channel=latest/edge dev",
            "refresh --revision=7 --classic moves",
            "switch --channel=latest/edge moves",
            "remove old",
            "refresh --hold=forever dev",
            "refresh --unhold moves",
        ]
    );
}

#[test]
fn a_hold_that_snapd_does_not_keep_is_said_and_a_run_that_dies_leaves_one_that_ends() {
    let machine = machine();
    // It takes the setting, ends well, and keeps nothing.
    machine.program("snap", &SNAPD.replace("set) echo", "set) : echo"));
    let work = Work {
        unhold: vec!["code".to_owned()],
        ..Work::default()
    };
    let (_, said, _) = run(&machine, &work);
    assert!(said[0].contains("did not keep"), "{said:?}");
    // What is set while it works is a time that comes by itself, whatever becomes of us.
    let machine = super::tests::machine();
    let (_, _, log) = run(&machine, &work);
    let set = log
        .lines()
        .find_map(|l| l.strip_prefix("set system refresh.hold="));
    let until: Timestamp = set.unwrap().parse().unwrap();
    assert!(until <= Timestamp::now() + PAUSE_TIME, "{log}");
    assert!(log.contains("unset system refresh.hold\n"), "{log}");
}
