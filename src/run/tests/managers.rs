//! A package manager that fails at any step, in whole runs: two machines whose managers are small scripts.

use std::sync::Arc;

use crate::agent::protocol::{Reply, Request};
use crate::event::{Event, Host, LogLevel};
use crate::interrupt::AbortFlag;
use crate::modules::packages::NAME;
use crate::modules::packages::service::{PackagesRequest, SERVICE, serve};
use crate::modules::packages::testing::FakeMachine;
use crate::run::testing::Trial;

use super::world;

/// Each manager has what it has in the file of its name, a name a line, all of it asked for. It says
/// what the real one says as far as it is read.
const APT: &[(&str, &str)] = &[
    (
        "dpkg",
        "case $1 in --print-architecture) echo amd64 ;; esac",
    ),
    (
        "dpkg-query",
        r#"case "$*" in
           *--search*) echo "dpkg: /usr/bin/dpkg"; exit 1 ;;
           *Status-Want*) sed 's/.*/&\tall\t1\tinstall\tinstalled\t/' $TEST_ROOT/apt ;;
           *) sed 's/.*/&:all\tinstalled/' $TEST_ROOT/apt ;; esac"#,
    ),
    (
        "apt-mark",
        "case $1 in showmanual) cat $TEST_ROOT/apt ;; esac",
    ),
    (
        "apt-cache",
        r#"shift; [ $# = 0 ] && { printf 'Package files:\n 100 /var/lib/dpkg/status\n     release a=now\n 500 http://d.example/debian stable/main\n     release o=Debian\n'; exit; }
           for name; do
             installed='(none)'; grep -qx "$name" $TEST_ROOT/apt && installed=1
             printf '%s:\n  Installed: %s\n  Candidate: 1\n  Version table:\n     1 500\n        500 http://d.example/debian stable/main\n' "$name" "$installed"
           done"#,
    ),
    (
        "apt-get",
        r#"case "$*" in
           *--simulate*) do='echo' ;; *update*) exit 0 ;; *) do=change ;; esac
           change() { if [ $1 = Inst ]; then echo $2 >>$TEST_ROOT/apt; else sed -i "/^$2\$/d" $TEST_ROOT/apt; fi; }
           while [ "$1" != -- ]; do shift; [ $# = 0 ] && exit 0; done; shift
           for name; do case $name in *-) $do Remv ${name%-} ;; *) $do Inst $name ;; esac; done"#,
    ),
];

const RPM: (&str, &str) = (
    "rpm",
    r#"case "$*" in *--file*) shift 4; for p; do echo "file $p is not owned by any package"; done; exit 1 ;; esac
       cat $TEST_ROOT/dnf $TEST_ROOT/zypper 2>/dev/null | sed 's/.*/&\tnoarch\t1-1/'; exit 0"#,
);

const DNF: &[(&str, &str)] = &[
    RPM,
    (
        "dnf",
        r#"case "$*" in
           *repoquery*) sed 's/.*/&|noarch|test/' $TEST_ROOT/dnf; exit ;;
           *makecache*|*mark*) exit 0 ;; --version) echo 4; exit ;; esac
           ask=; for word; do case $word in
             --assumeno) ask=1 ;; --*) ;; install|remove) verb=$word ;;
             *) if [ "$ask" ]; then
                  [ $verb = install ] && echo Installing: || echo Removing:; echo " $word noarch 1-1 test 1 k"
                elif [ $verb = install ]; then echo $word >>$TEST_ROOT/dnf
                else sed -i "/^$word\$/d" $TEST_ROOT/dnf; fi ;;
           esac; done
           [ -z "$ask" ] || { echo "Operation aborted." >&2; exit 1; }"#,
    ),
];

const ZYPPER: &[(&str, &str)] = &[
    RPM,
    (
        "zypper",
        r#"case "$*" in
           *packages*) echo 'S | Repository | Name | Version | Arch'; sed 's/.*/i+ | Test | & | 1-1 | noarch/' $TEST_ROOT/zypper; exit ;;
           *locks*) echo 'There are no package locks defined.'; exit ;; *--quiet*) exit 0 ;; esac
           ask=; for word; do case $word in
             --dry-run|--xmlout) ask=1 ;; --*) ;; install|remove) verb=$word ;;
             *) if [ "$ask" ]; then
                  printf '<to-%s>\n<solvable type="package" name="%s" arch="noarch"/>\n</to-%s>\n' $verb $word $verb
                elif [ $verb = install ]; then echo $word >>$TEST_ROOT/zypper
                else sed -i "/^$word\$/d" $TEST_ROOT/zypper; fi ;;
           esac; done
           [ -z "$ask" ] || echo '</stream>'"#,
    ),
];

const PACMAN: &[(&str, &str)] = &[
    ("pacman-conf", "case $1 in --repo-list) echo test ;; esac"),
    (
        "pacman",
        r#"case "$*" in
           '--sync --list') printf 'test %s 1\n' base tool own; exit ;;
           *--owns*) echo '/usr/bin/pacman is owned by pacman 1'; exit 1 ;;
           *--foreign*) exit 1 ;;
           '--query') sed 's/$/ 1/' $TEST_ROOT/pacman; exit ;;
           --query*) cat $TEST_ROOT/pacman; exit ;; esac
           ask=; case "$*" in *--print*) ask=1 ;; esac; verb=$1
           while [ "$1" != -- ]; do shift; done; shift
           for word; do
             if [ "$ask" ]; then echo $word
             elif [ $verb = --sync ]; then echo $word >>$TEST_ROOT/pacman
             else sed -i "/^$word\$/d" $TEST_ROOT/pacman; fi
           done"#,
    ),
];

const SNAP: &[(&str, &str)] = &[(
    "snap",
    r#"verb=$1; for name; do :; done
       case $verb in
         list) echo 'Name Version Rev Tracking Publisher Notes'; sed 's/.*/& 1 1 - x -/' $TEST_ROOT/snap ;;
         get) echo '{"refresh": {"hold": "forever"}}' ;;
         install) echo $name >>$TEST_ROOT/snap ;;
         remove) sed -i "/^$name\$/d" $TEST_ROOT/snap ;; esac"#,
)];

const FLATPAK: &[(&str, &str)] = &[(
    "flatpak",
    r#"verb=$1; for name; do :; done
       case "$*" in
         --version) echo 'Flatpak 1' ;;
         *--runtime*|mask*|pin*) ;;
         list*) sed 's/.*/&\/x86_64\/stable\thub\t-/' $TEST_ROOT/flatpak ;;
         install*) name=${name#app/}; echo ${name%%/*} >>$TEST_ROOT/flatpak ;;
         uninstall*) name=${name#app/}; sed -i "/^${name%%/*}\$/d" $TEST_ROOT/flatpak ;; esac"#,
)];

/// When a manager does not do as it should.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// While the source is read, or the target.
    Read(Host),
    /// While the target foresees what would come of the plan.
    Foresee,
    /// While the target asks what is new.
    Refresh,
    /// While the target is changed.
    Apply,
}

/// What it does then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Fails,
    Hangs,
    IsMissing,
    TalksNonsense,
}

/// A manager, its programs, and at each step one of its commands: the program and the arguments' pattern.
type Case = (
    &'static str,
    &'static [(&'static str, &'static str)],
    &'static [(Step, &'static str, &'static str)],
);

const BOTH_READ: [Step; 2] = [Step::Read(Host::Source), Step::Read(Host::Target)];

const CASES: &[Case] = &[
    (
        "apt",
        APT,
        &[
            (BOTH_READ[0], "dpkg-query", "*Status-Want*"),
            (BOTH_READ[1], "dpkg-query", "*Status-Want*"),
            (BOTH_READ[1], "apt-mark", "showmanual*"),
            (BOTH_READ[0], "apt-cache", "policy*"),
            (BOTH_READ[1], "apt-cache", "policy*"),
            (Step::Foresee, "apt-get", "--simulate*"),
            (Step::Refresh, "apt-get", "*update*"),
            (Step::Apply, "apt-get", "--assume-yes*"),
        ],
    ),
    (
        "dnf",
        DNF,
        &[
            (BOTH_READ[0], "rpm", "--query*"),
            (BOTH_READ[1], "rpm", "--query*"),
            (BOTH_READ[0], "dnf", "*repoquery*"),
            (BOTH_READ[1], "dnf", "*repoquery*"),
            (Step::Foresee, "dnf", "*--assumeno*"),
            (Step::Refresh, "dnf", "*makecache*"),
            (Step::Apply, "dnf", "*--assumeyes*"),
        ],
    ),
    (
        "zypper",
        ZYPPER,
        &[
            (BOTH_READ[0], "zypper", "*packages*"),
            (BOTH_READ[1], "zypper", "*packages*"),
            (BOTH_READ[1], "rpm", "--query*"),
            (Step::Foresee, "zypper", "--xmlout*"),
            (Step::Refresh, "zypper", "*--quiet*"),
            (
                Step::Apply,
                "zypper",
                "*--no-color*install*|*--no-color*remove*",
            ),
        ],
    ),
    (
        "pacman",
        PACMAN,
        &[
            (BOTH_READ[0], "pacman", "--query"),
            (BOTH_READ[1], "pacman", "--query"),
            (BOTH_READ[1], "pacman", "'--sync --list'"),
            (Step::Foresee, "pacman", "*--print*"),
            (Step::Apply, "pacman", "*--noconfirm*"),
        ],
    ),
    (
        "snap",
        SNAP,
        &[
            (BOTH_READ[0], "snap", "list*"),
            (BOTH_READ[1], "snap", "list*"),
            (Step::Apply, "snap", "install*|remove*"),
        ],
    ),
    (
        "flatpak",
        FLATPAK,
        &[
            (BOTH_READ[0], "flatpak", "list*--app*"),
            (BOTH_READ[1], "flatpak", "list*--app*"),
            (BOTH_READ[1], "flatpak", "mask*"),
            (Step::Apply, "flatpak", "install*|uninstall*"),
        ],
    ),
];

/// A machine with a manager that is looked at, and another one beside it.
fn machine(manager: &str, programs: &[(&str, &str)], own: &str) -> FakeMachine {
    let machine = FakeMachine::new();
    machine.file("/usr/lib/os-release", "ID=test\n");
    machine.file(
        "/etc/apt/sources.list",
        "deb http://d.example/debian stable main\n",
    );
    machine.file(
        "/etc/zypp/repos.d/t.repo",
        "[t]\nname=Test\nbaseurl=http://t\n",
    );
    machine.file("/etc/yum.repos.d/t.repo", "[test]\nbaseurl=http://t\n");
    machine.file(
        "/var/lib/flatpak/repo/config",
        "[core]\nmode=x\n[remote \"hub\"]\nurl=https://hub.example/\ngpg-verify=false\n",
    );
    let beside = beside(manager);
    for (name, script) in programs.iter().chain(beside.1) {
        machine.program(name, script);
    }
    for manager in [manager, beside.0] {
        machine.file(manager, &format!("base\n{own}\n"));
    }
    machine
}

/// The source, and the target.
fn both(manager: &str, programs: &[(&str, &str)]) -> Arc<[FakeMachine; 2]> {
    Arc::new(["tool", "own"].map(|own| machine(manager, programs, own)))
}

/// The manager that has to go on.
fn beside(manager: &str) -> (&'static str, &'static [(&'static str, &'static str)]) {
    if manager == "snap" {
        ("flatpak", FLATPAK)
    } else {
        ("snap", SNAP)
    }
}

/// What is there afterwards, sorted.
fn has(machine: &FakeMachine, manager: &str) -> Vec<String> {
    let text = machine.content(manager).unwrap();
    let mut names: Vec<String> = text.lines().map(str::to_owned).collect();
    names.sort_unstable();
    names
}

/// One sync of both; its status and the errors it logged.
fn sync(machines: &Arc<[FakeMachine; 2]>, hanging: Option<String>) -> (u8, Vec<String>) {
    let world = world();
    let served = Arc::clone(machines);
    world.hook(move |host, request, _| {
        let Request::Service { name, body, .. } = request else {
            return None;
        };
        assert_eq!(name, SERVICE);
        let request: PackagesRequest = serde_json::from_value(body.clone()).unwrap();
        let abort = AbortFlag::new();
        let machine = &served[usize::from(host == Host::Target)];
        if matches!(request, PackagesRequest::Read) {
            let before = machine.content("/reads").unwrap_or_default();
            machine.file("/reads", &(before + "x"));
        }
        let tools = machine.tools_where(hanging.clone(), &abort);
        Some(Ok(Reply::Service(serve(&tools, request, &mut |_| ()))))
    });
    let mut trial = Trial::of(&world, Vec::new());
    trial.config.sync_modules = vec![(NAME.to_owned(), true)];
    trial.options.package_installs = true;
    trial.options.package_removals = true;
    let outcome = trial.run();
    let errors = (outcome.events.iter()).filter_map(|event| match event {
        Event::Log(line) if line.level >= LogLevel::Error => Some(line.message.clone()),
        _ => None,
    });
    (outcome.code(), errors.collect())
}

#[test]
fn the_made_up_managers_converge_while_they_work() {
    for (manager, programs, _) in CASES {
        let both = both(manager, programs);
        let (status, errors) = sync(&both, None);
        assert_eq!((status, errors), (0, Vec::new()), "{manager}");
        for name in [manager, beside(manager).0] {
            assert_eq!(has(&both[1], name), ["base", "tool"], "{manager}: {name}");
            assert_eq!(has(&both[0], name), ["base", "tool"], "{manager}: {name}");
            // A machine is read in one round trip.
            let reads = both.each_ref().map(|machine| machine.content("/reads"));
            assert_eq!(reads, ["x", "x"].map(|x| Some(x.to_owned())), "{manager}");
        }
    }
}

/// At each step, in each way, by itself.
fn fails_by_name_removes_nothing_and_keeps_nobody_else(manager: &str) {
    let case = CASES.iter().find(|(name, _, _)| *name == manager);
    let (_, programs, steps) = case.expect("it is there");
    for (step, program, pattern) in *steps {
        for way in [Way::Fails, Way::Hangs, Way::IsMissing, Way::TalksNonsense] {
            // Nothing is read of what a refresh says; and without its own program it is not there.
            if (*step, way) == (Step::Refresh, Way::TalksNonsense)
                || way == Way::IsMissing && (*program == manager || is_asked_for(program))
            {
                continue;
            }
            let what = format!("{manager} {step:?} {way:?} ({program} {pattern})");
            fails(manager, programs, (*step, program, pattern), way, &what);
        }
    }
}

#[test]
fn an_apt_that_fails_at_any_step_fails_alone() {
    fails_by_name_removes_nothing_and_keeps_nobody_else("apt");
}

#[test]
fn a_dnf_that_fails_at_any_step_fails_alone() {
    fails_by_name_removes_nothing_and_keeps_nobody_else("dnf");
}

#[test]
fn a_zypper_that_fails_at_any_step_fails_alone() {
    fails_by_name_removes_nothing_and_keeps_nobody_else("zypper");
}

#[test]
fn a_pacman_that_fails_at_any_step_fails_alone() {
    fails_by_name_removes_nothing_and_keeps_nobody_else("pacman");
}

#[test]
fn a_snap_that_fails_at_any_step_fails_alone() {
    fails_by_name_removes_nothing_and_keeps_nobody_else("snap");
}

#[test]
fn a_flatpak_that_fails_at_any_step_fails_alone() {
    fails_by_name_removes_nothing_and_keeps_nobody_else("flatpak");
}

/// Programs without which a manager counts as absent.
fn is_asked_for(program: &str) -> bool {
    ["apt-get", "dpkg-query", "rpm"].contains(&program)
}

fn fails(
    manager: &str,
    programs: &[(&str, &str)],
    (step, program, pattern): (Step, &str, &str),
    way: Way,
    what: &str,
) {
    let both = both(manager, programs);
    let broken = &both[usize::from(step != Step::Read(Host::Source))];
    let mut hanging = None;
    match way {
        Way::Fails => broken.breaks(program, pattern, "echo 'it is broken' >&2; exit 9"),
        Way::Hangs => {
            broken.breaks(
                program,
                pattern,
                "echo hung >>$TEST_ROOT/hung; echo 'asking nobody'; exec sleep 1000",
            );
            // The other machine has the good one, which is given no more time.
            hanging = Some(program.to_owned());
        }
        Way::IsMissing => std::fs::remove_file(broken.root().join("bin").join(program)).unwrap(),
        Way::TalksNonsense => broken.breaks(program, pattern, "echo 'what is it to you?'; exit 0"),
    }
    let (status, errors) = sync(&both, hanging);
    assert_eq!(status, 1, "{what}: {errors:?}");
    let own: Vec<&String> = errors.iter().filter(|e| e.starts_with(manager)).collect();
    assert_eq!(own.len(), errors.len(), "{what}: {errors:?}");
    let words = match way {
        Way::Fails => "it is broken",
        Way::Hangs => "asking nobody",
        Way::IsMissing => program,
        Way::TalksNonsense => "",
    };
    assert!(
        errors.iter().any(|e| e.contains(words)),
        "{what}: {errors:?}"
    );
    if matches!(step, Step::Read(_) | Step::Foresee) {
        assert_eq!(errors.len(), 1, "{what}: {errors:?}");
        assert_eq!(has(&both[1], manager), ["base", "own"], "{what}");
    }
    if way == Way::Hangs {
        // What does not end is waited for once, and said once.
        let waits = broken.content("hung").unwrap().lines().count();
        assert_eq!((waits, errors.len()), (1, 1), "{what}: {errors:?}");
        assert!(
            errors[0].contains("did not end within"),
            "{what}: {errors:?}"
        );
    }
    let beside = beside(manager).0;
    assert_eq!(has(&both[1], beside), ["base", "tool"], "{what}");
}
