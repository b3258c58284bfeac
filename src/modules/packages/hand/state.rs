//! Programs that no package owns, on one machine.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::print::{self, Print};
use crate::modules::packages::answer::{Answer, Silence};
use crate::modules::packages::tools::{ASK, Tools, failed};

/// Directories whose entries are programs, each by itself.
const PLACES: [&str; 7] = [
    "/opt",
    "/usr/local",
    "/usr/local/bin",
    "/usr/local/sbin",
    "/usr/local/lib",
    "/usr/local/games",
    "/usr/local/src",
];

/// What every system has below `/usr/local`, and what only belongs to a program elsewhere.
const SKELETON: [&str; 10] = [
    "bin", "etc", "games", "include", "lib", "lib64", "man", "sbin", "share", "src",
];

/// Our own: it installs itself.
const OURS: [&str; 2] = ["/usr/local/bin/pc-switcher", "/usr/local/bin/vagrantp"];

/// Most entries that are looked at.
const MOST: usize = 4000;
/// Names in one question.
const NAMES_A_CALL: usize = 1000;

/// What planning needs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// Programs that no package owns, by path.
    pub paths: BTreeMap<String, Print>,
}

/// Whether `path` is one that this manager may speak of: an entry of one of its places, by a plain name.
#[must_use]
pub fn is_ours(path: &str) -> bool {
    let Some((place, name)) = path.rsplit_once('/') else {
        return false;
    };
    let is_system = place == "/usr/local" && SKELETON.contains(&name) || OURS.contains(&path);
    let is_name = !["", ".", ".."].contains(&name);
    PLACES.contains(&place) && is_name && !is_system
}

/// Reads it. Every machine has these directories, or could have.
pub fn read(tools: &Tools<'_>) -> Answer<State> {
    read_all(tools).into()
}

fn read_all(tools: &Tools<'_>) -> Result<State, Silence> {
    let mut found = BTreeSet::new();
    for place in PLACES {
        let names = tools.names(place)?.into_iter();
        let paths = names.map(|name| format!("{place}/{name}"));
        found.extend(paths.filter(|path| is_ours(path)));
    }
    if found.len() > MOST {
        return Err(Silence(format!(
            "more than {MOST} programs below /opt and /usr/local"
        )));
    }
    for owned in owned(tools, &found)? {
        found.remove(&owned);
    }
    let mut paths = BTreeMap::new();
    for path in found {
        tools.check()?;
        if let Some(print) = print::look(&tools.at(&path))? {
            paths.insert(path, print);
        }
    }
    Ok(State { paths })
}

/// Those of the paths that a package owns.
fn owned(tools: &Tools<'_>, paths: &BTreeSet<String>) -> Result<Vec<String>, Silence> {
    let all: Vec<&str> = paths.iter().map(String::as_str).collect();
    let mut owned = Vec::new();
    for chunk in all.chunks(NAMES_A_CALL) {
        if tools.has("dpkg-query") {
            let owners =
                crate::modules::packages::apt::state::owners(tools, chunk.iter().copied())?;
            owned.extend(owners.into_keys());
        } else if tools.has("rpm") {
            owned.extend(owned_by_rpm(tools, chunk)?);
        } else if tools.has("pacman") {
            owned.extend(owned_by_pacman(tools, chunk)?);
        }
    }
    Ok(owned)
}

/// rpm says one line for each path, in their order.
fn owned_by_rpm(tools: &Tools<'_>, paths: &[&str]) -> Result<Vec<String>, Silence> {
    let argv = [
        &["rpm", "--query", "--queryformat", "owned\n", "--file"],
        paths,
    ]
    .concat();
    let done = tools.run(&argv, ASK)?;
    let text = String::from_utf8_lossy(&done.stdout).into_owned();
    // A path that several packages own has several such lines; the others name theirs.
    let free: BTreeSet<&str> = (text.lines())
        .filter_map(|line| {
            line.strip_prefix("file ")?
                .strip_suffix(" is not owned by any package")
        })
        .collect();
    if text.lines().count() < paths.len() {
        return Err(failed(&argv, &done));
    }
    Ok((paths.iter().filter(|path| !free.contains(**path)))
        .map(|path| (*path).to_owned())
        .collect())
}

/// pacman names the owned ones, and complains of the others; a witness shows that it answered.
fn owned_by_pacman(tools: &Tools<'_>, paths: &[&str]) -> Result<Vec<String>, Silence> {
    const WITNESS: &str = "/usr/bin/pacman";
    let argv = [&["pacman", "--query", "--owns", WITNESS], paths].concat();
    let done = tools.run(&argv, ASK)?;
    let text = String::from_utf8_lossy(&done.stdout).into_owned();
    let owned: Vec<&str> = (text.lines())
        .filter_map(|line| line.split_once(" is owned by "))
        .map(|(path, _)| path.trim_end_matches('/'))
        .collect();
    if !owned.contains(&WITNESS) {
        return Err(failed(&argv, &done));
    }
    Ok((owned.into_iter().filter(|path| *path != WITNESS))
        .map(str::to_owned)
        .collect())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::interrupt::AbortFlag;
    use crate::modules::packages::testing::FakeMachine;

    fn machine() -> FakeMachine {
        let machine = FakeMachine::new();
        machine.file("/opt/vendor/bin/tool", "x");
        machine.file("/opt/owned/x", "x");
        machine.file("/usr/local/bin/mine", "x");
        machine.file("/usr/local/bin/pc-switcher", "x");
        machine.file("/usr/local/share/doc/x", "x");
        machine.file("/usr/local/go/bin/go", "x");
        fs::create_dir_all(machine.root().join("opt/empty/dir")).unwrap();
        machine
    }

    #[test]
    fn programs_that_no_package_owns_are_found() {
        let machine = machine();
        machine.program(
            "dpkg-query",
            "echo 'dpkg: /usr/bin/dpkg'; echo 'vendor: /opt/owned'; echo none >&2; exit 1",
        );
        let abort = AbortFlag::new();
        let Answer::Is(state) = read(&machine.tools(&abort)) else {
            panic!("it answers");
        };
        let found: Vec<&str> = state.paths.keys().map(String::as_str).collect();
        assert_eq!(
            found,
            ["/opt/vendor", "/usr/local/bin/mine", "/usr/local/go"]
        );
    }

    #[test]
    fn owners_that_nobody_named_are_not_nobody() {
        let abort = AbortFlag::new();
        for (program, script) in [
            ("dpkg-query", "exit 2"),
            (
                "rpm",
                "echo 'error: cannot open Packages database' >&2; exit 1",
            ),
            (
                "pacman",
                "echo 'error: No package owns /opt/vendor' >&2; exit 1",
            ),
        ] {
            let machine = machine();
            machine.program(program, script);
            let answer = read(&machine.tools(&abort));
            assert!(matches!(answer, Answer::Silent(_)), "{program}: {answer:?}");
        }
        for (program, script) in [
            (
                "rpm",
                "for p in \"$@\"; do case $p in /opt/owned) echo owned;; /*) \
                 echo \"file $p is not owned by any package\";; esac; done; exit 3",
            ),
            (
                "pacman",
                "echo '/usr/bin/pacman is owned by pacman 6.0.2-5'; \
                 echo '/opt/owned/ is owned by vendor 1-1'; echo 'error: No package owns x' >&2; exit 1",
            ),
        ] {
            let machine = machine();
            machine.program(program, script);
            let Answer::Is(state) = read(&machine.tools(&abort)) else {
                panic!("{program} answers");
            };
            assert_eq!(state.paths.len(), 3, "{program}: {state:?}");
        }
    }

    #[test]
    fn only_entries_of_its_places_are_its_own() {
        for path in [
            "/opt/x",
            "/usr/local/bin/x",
            "/usr/local/go",
            "/usr/local/src/a b",
        ] {
            assert!(is_ours(path), "{path}");
        }
        for path in [
            "/opt/",
            "/opt/..",
            "/opt/x/y",
            "/usr/local/bin",
            "/usr/local/share/x",
            "/usr/local/bin/pc-switcher",
            "/etc/x",
            "opt/x",
            "/opt/../etc/x",
        ] {
            assert!(!is_ours(path), "{path}");
        }
    }
}
