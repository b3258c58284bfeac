//! The real dnf, zypper and pacman, each in a root of its own, with a repository made for the test: what a
//! target comes to, and that nothing is left to do then. Where one is not installed its test says so
//! (`tests/lab/need.sh managers` installs them all).

use std::collections::BTreeMap;
use std::path::Path;

use super::*;
use crate::interrupt::AbortFlag;
use crate::modules::packages::item::Stand;
use crate::modules::packages::rules::Rules;
use crate::modules::packages::testing::FakeMachine;
use crate::sys::testing::{is_root, say_skipped};

/// Packages and a repository of rpms in `$TEST_ROOT/repo`; one cannot be installed, two not together.
const RPMS: &str = r#"
make() { # NAME LINES
  { printf 'Name: %s\nVersion: 1.0\nRelease: 1\nSummary: made for a test\nLicense: none\nBuildArch: noarch\n' $1
    printf "$2"; printf '%%description\nx\n%%files\n'; } >$TEST_ROOT/$1.spec
  HOME=$TEST_ROOT rpmbuild -bb --quiet --define "_topdir $TEST_ROOT/build" --define "_rpmdir $TEST_ROOT/repo" \
    --define '_build_name_fmt %%{NAME}-%%{VERSION}.rpm' $TEST_ROOT/$1.spec
}
for name in dep other games both; do make $name ''; done
make simple 'Requires: dep\n'
make mta-a 'Conflicts: mta-b\n'
make mta-b 'Conflicts: mta-a\n'
make broken '%%pre -p <lua>\nerror("it cannot be")\n'
createrepo_c --quiet $TEST_ROOT/repo
"#;

/// The same for pacman; `broken` is in the database only.
const ARCH: &str = r#"
mkdir $TEST_ROOT/repo $TEST_ROOT/db
make() { # NAME RELATION LIST
  cd $TEST_ROOT
  printf 'pkgname = %s\npkgbase = %s\npkgver = 1.0-1\npkgdesc = x\nurl = x\nbuilddate = 1\npackager = x\nsize = 0\narch = any\n%b' \
    $1 $1 "$2" >.PKGINFO
  tar czf repo/$1-1.0-1-any.pkg.tar.gz .PKGINFO
  mkdir db/$1-1.0-1
  printf '%%FILENAME%%\n%s-1.0-1-any.pkg.tar.gz\n\n%%NAME%%\n%s\n\n%%BASE%%\n%s\n\n%%VERSION%%\n1.0-1\n\n%%CSIZE%%\n%s\n\n%%ISIZE%%\n0\n\n%%SHA256SUM%%\n%s\n\n%%ARCH%%\nany\n\n%b' \
    $1 $1 $1 $(stat -c %s repo/$1-*) $(sha256sum repo/$1-* | cut -d' ' -f1) "$3" >db/$1-1.0-1/desc
}
for name in dep other games both broken; do make $name '' ''; done
make simple 'depend = dep\n' '%DEPENDS%\ndep\n\n'
make mta-a 'conflict = mta-b\n' '%CONFLICTS%\nmta-b\n\n'
make mta-b 'conflict = mta-a\n' '%CONFLICTS%\nmta-a\n\n'
rm repo/broken-*
cd $TEST_ROOT/db && tar czf ../repo/test.db *
"#;

/// What a manager needs to work in a root of its own.
struct Root {
    /// Real programs without which nothing can be tested.
    needs: &'static [&'static str],
    /// Makes the repository.
    repository: &'static str,
    /// Programs by name: what is put before the arguments.
    programs: &'static [(&'static str, &'static str)],
    /// The file that names the repository, and what is in it before and after the repository's place.
    config: (&'static str, &'static str, &'static str),
    /// Commands after which the manager knows the repository.
    first: &'static str,
}

const RPM: (&str, &str) = (
    "rpm",
    "case \"$*\" in *--root*) exec /usr/bin/rpm \"$@\" ;; esac\n\
     HOME=$TEST_ROOT/home exec /usr/bin/rpm --root $TEST_ROOT",
);

const DNF: Root = Root {
    needs: &["rpm", "rpmbuild", "createrepo_c", "dnf"],
    repository: RPMS,
    programs: &[
        RPM,
        (
            "dnf",
            "HOME=$TEST_ROOT/home exec /usr/bin/dnf --installroot=$TEST_ROOT --releasever=1 \
             --setopt=reposdir=$TEST_ROOT/etc/yum.repos.d \
             --setopt=pluginconfpath=$TEST_ROOT/etc/dnf/plugins",
        ),
    ],
    config: (
        "/etc/yum.repos.d/test.repo",
        "[test]\nname=Test\nenabled=1\ngpgcheck=0\nbaseurl=file://",
        "\n",
    ),
    first: "dnf --quiet makecache",
};

const ZYPPER: Root = Root {
    needs: &["rpm", "rpmbuild", "createrepo_c", "zypper"],
    repository: RPMS,
    programs: &[
        RPM,
        (
            "zypper",
            "HOME=$TEST_ROOT/home exec /usr/bin/zypper --root $TEST_ROOT",
        ),
    ],
    config: (
        "/etc/zypp/repos.d/test.repo",
        "[test]\nname=Test\nenabled=1\ngpgcheck=0\nbaseurl=file://",
        "\n",
    ),
    first: "zypper --non-interactive --quiet refresh",
};

const PACMAN: Root = Root {
    needs: &["pacman", "pacman-conf"],
    repository: ARCH,
    programs: &[
        (
            "pacman",
            "exec /usr/bin/pacman --root $TEST_ROOT --dbpath $TEST_ROOT/var/lib/pacman --cachedir \
             $TEST_ROOT/var/cache --config $TEST_ROOT/etc/pacman.conf --logfile $TEST_ROOT/log \
             --hookdir $TEST_ROOT/hooks",
        ),
        (
            "pacman-conf",
            "exec /usr/bin/pacman-conf --config $TEST_ROOT/etc/pacman.conf",
        ),
    ],
    config: (
        "/etc/pacman.conf",
        "[options]\nArchitecture = auto\nSigLevel = Never\nIgnorePkg = locked*\n[test]\nServer = file://",
        "\n",
    ),
    first: "pacman --sync --refresh",
};

impl Root {
    /// Whether it can be had here.
    fn is_there(&self, test: &str) -> bool {
        let missing: Vec<&&str> = (self.needs.iter())
            .filter(|program| !Path::new("/usr/bin").join(program).exists())
            .collect();
        if !missing.is_empty() {
            // Not a failure anywhere: these are other systems' managers.
            say_skipped(&format!("{missing:?} not installed"));
            return false;
        }
        is_root(test)
    }

    /// A machine of its own that uses the repository below `place`, or makes that there is none.
    fn machine(&self, place: Option<&Path>) -> FakeMachine {
        let machine = FakeMachine::new();
        for directory in [
            "home",
            "var/cache",
            "var/lib/pacman",
            "var/lib/rpm",
            "hooks",
        ] {
            std::fs::create_dir_all(machine.root().join(directory)).unwrap();
        }
        machine.file("/home/.rpmmacros", "%_dbpath /var/lib/rpm\n");
        let list = machine.root().join("etc/dnf/plugins/versionlock.list");
        let conf = format!("[main]\nenabled=1\nlocklist={}\n", list.display());
        machine.file("/etc/dnf/plugins/versionlock.conf", &conf);
        machine.file("/etc/dnf/plugins/versionlock.list", "");
        for (name, before) in self.programs {
            machine.program(name, &format!("{before} \"$@\""));
        }
        let (path, before, after) = self.config;
        let place = place.unwrap_or(machine.root()).join("repo");
        machine.file(path, &format!("{before}{}{after}", place.display()));
        machine
    }
}

/// Runs a shell command on a machine.
#[track_caller]
fn sh(machine: &FakeMachine, script: &str) {
    let abort = AbortFlag::new();
    let script = format!("PATH=$PATH:/usr/bin:/bin\n{script}");
    let argv = ["sh", "-e", "-c", &script];
    machine.tools(&abort).act(&argv).unwrap();
}

fn state<D: Dialect>(manager: &Plain<D>, machine: &FakeMachine) -> State {
    let abort = AbortFlag::new();
    match Native::read(manager, &machine.tools(&abort)) {
        Answer::Is(state) => state,
        other => panic!("{}: {other:?}", manager.0.name()),
    }
}

fn asked(state: &State) -> BTreeSet<&str> {
    (state.packages.iter())
        .filter(|(_, package)| package.manual)
        .map(|(name, _)| name.as_str())
        .collect()
}

/// One sync of the two by this manager alone: what is proposed, and how what `wanted` says ended.
fn sync<D: Dialect>(
    manager: &Plain<D>,
    machines: [&FakeMachine; 2],
    wanted: impl Fn(&Item) -> bool,
) -> (Proposal<Question>, Vec<Outcome>) {
    let (source, target) = (state(manager, machines[0]), state(manager, machines[1]));
    let view = View {
        source: &source,
        target: &target,
        names: ("atlas", "vega"),
        marked: &BTreeSet::new(),
        rules: &Rules::default(),
        source_all: &BTreeMap::new(),
        target_all: &BTreeMap::new(),
    };
    let abort = AbortFlag::new();
    let tools = machines[1].tools(&abort);
    let mut draft = Native::draft(manager, &view);
    let mut forecast = AllEffects::new();
    if let Some(question) = &draft.question {
        forecast = Native::weigh(manager, &tools, question).unwrap();
        Native::consider(manager, &view, &forecast, &mut draft.items);
    }
    let chosen: BTreeSet<String> = (draft.items.iter())
        .filter(|item| matches!(item.stand, Stand::Asked(_)) && wanted(item))
        .map(|item| item.id.clone())
        .collect();
    let settled = Native::settle(manager, &view, &draft.items, &forecast, &chosen);
    let outcomes = if manager.is_idle(&settled.work) {
        Vec::new()
    } else {
        Native::apply(manager, &tools, &settled.work, &mut |_| ()).unwrap()
    };
    (draft, outcomes)
}

/// The whole story. `install` is how a person installs, `lock` how one locks `other`.
fn converges<D: Dialect>(test: &str, manager: &Plain<D>, root: &Root, install: &str) {
    if !root.is_there(test) {
        return;
    }
    let source = root.machine(None);
    sh(&source, root.repository);
    let target = root.machine(Some(source.root()));
    for machine in [&source, &target] {
        sh(machine, root.first);
    }
    sh(&source, &format!("{install} simple both mta-a other"));
    sh(&target, &format!("{install} both games mta-b"));
    // Asked for on both machines stays, what only one has comes or goes, and a conflict is for a person.
    let (draft, outcomes) = sync(manager, [&source, &target], |item| !item.costly);
    let item = |id: &str| draft.items.iter().find(|item| item.id == id).unwrap();
    assert_eq!(item("simple").stand, Stand::Asked(true), "{draft:?}");
    assert_eq!(item("games").stand, Stand::Asked(false), "{draft:?}");
    assert_eq!(draft.items.len(), 5, "{draft:?}");
    let failed: Vec<&Outcome> = outcomes.iter().filter(|o| o.error.is_some()).collect();
    let now = state(manager, &target);
    assert!(now.packages.contains_key("dep"), "{now:?}");
    assert!(!now.packages.contains_key("games"), "{now:?}");
    assert!(
        !now.packages.contains_key("mta-a") || !now.packages.contains_key("mta-b"),
        "{now:?}"
    );
    let names: Vec<&str> = failed.iter().map(|o| o.id.as_str()).collect();
    assert!(names.is_empty() || names == ["mta-a"], "{failed:?}");
    // With the conflict out of the way the second sync ends it, and the third has nothing to do.
    sync(manager, [&source, &target], |item| item.id == "mta-b");
    let (_, outcomes) = sync(manager, [&source, &target], |item| !item.costly);
    assert!(outcomes.iter().all(|o| o.error.is_none()), "{outcomes:?}");
    let (ours, theirs) = (state(manager, &source), state(manager, &target));
    assert_eq!(asked(&ours), asked(&theirs));
    assert!(!theirs.packages["dep"].manual, "it came along");
    let (draft, outcomes) = sync(manager, [&source, &target], |_| true);
    assert!(draft.items.is_empty() && outcomes.is_empty(), "{draft:?}");
    // What cannot be had fails by name, and the others come; what is gone from the source goes.
    let wish = |install: &[&str], remove: &[&str]| plan::Work {
        wish: Question {
            install: install.iter().map(|n| (*n).to_owned()).collect(),
            remove: remove.iter().map(|n| (*n).to_owned()).collect(),
        },
        ..plan::Work::default()
    };
    let abort = AbortFlag::new();
    let tools = target.tools(&abort);
    let work = wish(&["broken", "games"], &["dep"]);
    let outcomes = Native::apply(manager, &tools, &work, &mut |_| ()).unwrap();
    let ended: Vec<(&str, bool)> = (outcomes.iter())
        .map(|outcome| (outcome.id.as_str(), outcome.error.is_none()))
        .collect();
    // dep goes only with what needs it, and nobody agreed to that.
    let expected = [("broken", false), ("games", true), ("dep", false)];
    assert_eq!(ended, expected, "{outcomes:?}");
    let outcomes = Native::apply(manager, &tools, &wish(&["nowhere"], &[]), &mut |_| ()).unwrap();
    let why = outcomes[0].error.as_deref().unwrap();
    assert!(why.contains("nowhere"), "{why}");
}

#[test]
fn dnf_converges_and_then_has_nothing_to_do() {
    let test = "dnf_converges_and_then_has_nothing_to_do";
    let install = "dnf --quiet --assumeyes install";
    converges(test, &Plain(Dnf), &DNF, install);
}

#[test]
fn zypper_converges_and_then_has_nothing_to_do() {
    let test = "zypper_converges_and_then_has_nothing_to_do";
    let install = "zypper --non-interactive --no-refresh install";
    converges(test, &Plain(Zypper), &ZYPPER, install);
}

#[test]
fn pacman_converges_and_then_has_nothing_to_do() {
    let test = "pacman_converges_and_then_has_nothing_to_do";
    let install = "pacman --sync --noconfirm";
    converges(test, &Plain(Pacman), &PACMAN, install);
}

#[test]
fn zyppers_and_pacmans_locks_are_read_from_the_real_ones() {
    let test = "zyppers_and_pacmans_locks_are_read_from_the_real_ones";
    if ZYPPER.is_there(test) {
        let machine = ZYPPER.machine(None);
        sh(&machine, RPMS);
        sh(&machine, ZYPPER.first);
        let install = "zypper --non-interactive --no-refresh install both other";
        sh(&machine, install);
        sh(
            &machine,
            "zypper --non-interactive --no-refresh addlock other",
        );
        let now = state(&Plain(Zypper), &machine);
        assert!(now.packages["other"].locked && !now.packages["both"].locked);
        assert_eq!(now.packages["both"].repository.as_deref(), Some("Test"));
    }
    if PACMAN.is_there(test) {
        let machine = PACMAN.machine(None);
        sh(&machine, ARCH);
        sh(&machine, PACMAN.first);
        sh(&machine, "pacman --sync --noconfirm both other");
        let conf = machine.content("/etc/pacman.conf").unwrap();
        machine.file("/etc/pacman.conf", &conf.replace("locked*", "oth*"));
        let state = state(&Plain(Pacman), &machine);
        assert!(state.packages["other"].locked && !state.packages["both"].locked);
        assert_eq!(state.packages["both"].repository.as_deref(), Some("test"));
    }
}

/// Locks become the other machine's, and go when they are gone; no locked package changes.
fn locks_converge<D: Dialect>(manager: &Plain<D>, root: &Root, install: &str, verbs: [&str; 2]) {
    let source = root.machine(None);
    sh(&source, root.repository);
    let target = root.machine(Some(source.root()));
    for machine in [&source, &target] {
        sh(machine, root.first);
        sh(machine, &format!("{install} both other"));
    }
    for (verb, locked) in [(verbs[0], true), (verbs[1], false)] {
        sh(&source, &format!("{verb} other"));
        let (_, outcomes) = sync(manager, [&source, &target], |_| true);
        assert!(outcomes.iter().all(|o| o.error.is_none()), "{outcomes:?}");
        assert_eq!(outcomes.len(), 1, "{outcomes:?}");
        let now = state(manager, &target);
        assert_eq!(now.packages["other"].locked, locked, "{verb}");
        assert!(!now.packages["both"].locked, "{verb}");
        let (_, outcomes) = sync(manager, [&source, &target], |_| true);
        assert!(outcomes.is_empty(), "{outcomes:?}");
    }
}

#[test]
fn zyppers_locks_become_the_sources() {
    if ZYPPER.is_there("zyppers_locks_become_the_sources") {
        let install = "zypper --non-interactive --no-refresh install";
        let verbs = [
            "zypper --non-interactive --no-refresh addlock",
            "zypper --non-interactive --no-refresh removelock",
        ];
        locks_converge(&Plain(Zypper), &ZYPPER, install, verbs);
    }
}

#[test]
fn dnfs_locks_become_the_sources() {
    let test = "dnfs_locks_become_the_sources";
    let plugin = Path::new("/usr/lib/python3/dist-packages/dnf-plugins/versionlock.py");
    if !plugin.exists() {
        say_skipped("dnf's plugin versionlock is not installed");
    } else if DNF.is_there(test) {
        let install = "dnf --quiet --assumeyes install";
        let verbs = [
            "dnf --quiet versionlock add",
            "dnf --quiet versionlock delete",
        ];
        locks_converge(&Plain(Dnf), &DNF, install, verbs);
    }
}
