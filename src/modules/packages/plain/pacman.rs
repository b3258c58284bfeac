//! pacman, on Arch. The databases are never refreshed here: a package from a newer database than the
//! system's is a partial upgrade, which Arch does not support. What has left the mirrors meanwhile fails by
//! name, and `pacman -Syu` on the target is the remedy.

use std::collections::{BTreeMap, BTreeSet};

use super::{Dialect, Package, Question, State, is_name, refusal};
use crate::escape::escape_str;
use crate::modules::packages::answer::Silence;
use crate::modules::packages::effects::{Transaction, Unforeseen};
use crate::modules::packages::patterns::Patterns;
use crate::modules::packages::tools::{ASK, Tools, failed};

/// What it says of what cannot be had, and of what cannot be together.
const REFUSALS: [&str; 3] = ["target not found", "could not satisfy", "conflicting"];

/// The manager.
#[derive(Debug)]
pub struct Pacman;

impl Dialect for Pacman {
    fn name(&self) -> &'static str {
        "pacman"
    }

    fn is_there(&self, tools: &Tools<'_>) -> bool {
        tools.has("pacman") && tools.has("pacman-conf") && !tools.has("dpkg-query")
    }

    fn read(&self, tools: &Tools<'_>) -> Result<State, Silence> {
        let repositories: Vec<String> = lines(&tools.ask(&["pacman-conf", "--repo-list"])?)
            .map(str::to_owned)
            .collect();
        let offered = parse_offered(&tools.ask(&["pacman", "--sync", "--list"])?, &repositories)?;
        let ignored = Patterns::new(lines(&tools.ask(&["pacman-conf", "IgnorePkg"])?));
        let explicit = query(tools, &["--query", "--quiet", "--explicit"])?;
        let explicit: BTreeSet<&str> = lines(&explicit).collect();
        let foreign = query(tools, &["--query", "--quiet", "--foreign"])?;
        let foreign: BTreeSet<&str> = lines(&foreign).collect();
        let mut packages = BTreeMap::new();
        for (name, version) in parse_installed(&tools.ask(&["pacman", "--query"])?)? {
            let package = Package {
                manual: explicit.contains(&*name),
                locked: ignored.matching(&name).is_some(),
                repository: if foreign.contains(&*name) {
                    None
                } else {
                    offered.get(&name).cloned()
                },
                version,
            };
            packages.insert(name, package);
        }
        Ok(State {
            packages,
            repositories: repositories
                .into_iter()
                .map(|name| (name, String::new()))
                .collect(),
            can_lock: false,
        })
    }

    fn installed(&self, tools: &Tools<'_>) -> Result<BTreeSet<String>, Silence> {
        let text = tools.ask(&["pacman", "--query", "--quiet"])?;
        Ok(lines(&text).map(str::to_owned).collect())
    }

    /// A conflict it does not foresee: asked about one, it says no by itself, and then nothing is done.
    fn foresee(&self, tools: &Tools<'_>, wish: &Question) -> Result<Transaction, Unforeseen> {
        let there = self.installed(tools)?;
        let mut transaction = Transaction::default();
        if !wish.install.is_empty() {
            let mut argv = vec![
                "pacman",
                "--sync",
                "--print",
                "--print-format",
                "%n",
                "--needed",
                "--",
            ];
            argv.extend(wish.install.iter().map(String::as_str));
            let done = tools.run(&argv, ASK)?;
            if done.code() != 0 {
                return Err(refusal(&argv, &done, &REFUSALS));
            }
            let text = String::from_utf8_lossy(&done.stdout).into_owned();
            for name in lines(&text) {
                if !is_name(name) {
                    return Err(nonsense(name).into());
                }
                let set = if there.contains(name) {
                    &mut transaction.upgrades
                } else {
                    &mut transaction.installs
                };
                set.insert(name.to_owned());
            }
        }
        if !wish.remove.is_empty() {
            let mut argv = vec![
                "pacman",
                "--remove",
                "--print",
                "--print-format",
                "%n",
                "--",
            ];
            argv.extend(wish.remove.iter().map(String::as_str));
            let done = tools.run(&argv, ASK)?;
            if done.code() != 0 {
                // Why it breaks something stands before the error.
                let text = String::from_utf8_lossy(&done.stdout).into_owned();
                return Err(
                    match text.lines().find_map(|line| line.strip_prefix(":: ")) {
                        Some(why) => Unforeseen::Refused(Silence(escape_str(why))),
                        None => refusal(&argv, &done, &REFUSALS),
                    },
                );
            }
            let text = String::from_utf8_lossy(&done.stdout).into_owned();
            transaction.removes.extend(lines(&text).map(str::to_owned));
        }
        Ok(transaction)
    }

    fn change(&self, tools: &Tools<'_>, wish: &Question) -> Result<(), Silence> {
        for (verb, more, names) in [
            ("--sync", "--needed", &wish.install),
            ("--remove", "--noprogressbar", &wish.remove),
        ] {
            if !names.is_empty() {
                let mut argv = vec!["pacman", verb, more, "--noconfirm", "--"];
                argv.extend(names.iter().map(String::as_str));
                tools.act(&argv)?;
            }
        }
        Ok(())
    }

    fn mark(&self, tools: &Tools<'_>, manual: bool, names: &[String]) -> Result<(), Silence> {
        let how = if manual { "--asexplicit" } else { "--asdeps" };
        let mut argv = vec!["pacman", "--database", how, "--"];
        argv.extend(names.iter().map(String::as_str));
        tools.act(&argv).map(|_| ())
    }
}

fn lines(text: &str) -> impl Iterator<Item = &str> {
    text.lines().map(str::trim).filter(|line| !line.is_empty())
}

/// A question that nothing may be the answer to: pacman then says nothing at all and ends with 1.
fn query(tools: &Tools<'_>, words: &[&str]) -> Result<String, Silence> {
    let argv = [&["pacman"], words].concat();
    let done = tools.run(&argv, ASK)?;
    let is_nothing = done.code() == 1 && done.stdout.is_empty() && done.stderr.is_empty();
    if done.code() == 0 || is_nothing {
        Ok(String::from_utf8_lossy(&done.stdout).into_owned())
    } else {
        Err(failed(&argv, &done))
    }
}

fn nonsense(line: &str) -> Silence {
    Silence(format!("`pacman` printed nonsense: {}", escape_str(line)))
}

fn parse_installed(text: &str) -> Result<Vec<(String, String)>, Silence> {
    lines(text)
        .map(|line| {
            let (name, version) = (line.split_once(' '))
                .filter(|(_, version)| !version.contains(' '))
                .ok_or_else(|| nonsense(line))?;
            Ok((name.to_owned(), version.to_owned()))
        })
        .collect()
}

/// Which repository offers a name: the first one, as pacman itself takes it.
fn parse_offered(text: &str, known: &[String]) -> Result<BTreeMap<String, String>, Silence> {
    let mut offered = BTreeMap::new();
    for line in lines(text) {
        let mut words = line.split(' ');
        let (Some(repository), Some(name), Some(_)) = (words.next(), words.next(), words.next())
        else {
            return Err(nonsense(line));
        };
        if !known.iter().any(|name| name == repository) {
            return Err(nonsense(line));
        }
        offered
            .entry(name.to_owned())
            .or_insert_with(|| repository.to_owned());
    }
    Ok(offered)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::interrupt::AbortFlag;
    use crate::modules::packages::testing::FakeMachine;

    macro_rules! sample {
        ($name:literal) => {
            include_str!(concat!("../../../../tests/samples/packages/pacman/", $name))
        };
    }

    fn machine() -> FakeMachine {
        let machine = FakeMachine::new();
        for (name, text) in [
            ("q", sample!("q.out")),
            ("qe", sample!("qe.out")),
            ("qm", sample!("qm.out")),
            ("sl", sample!("sl.out")),
            ("rprint", sample!("rprint.out")),
            ("rprint.err", sample!("rprint.err")),
        ] {
            machine.file(&format!("/{name}"), text);
        }
        machine.program(
            "pacman-conf",
            "case $1 in --repo-list) echo test ;; *) echo other ;; esac",
        );
        machine.program(
            "pacman",
            "cd $TEST_ROOT; case \"$*\" in \
             --query) cat q ;; '--query --quiet') cut -d' ' -f1 q ;; *--explicit) cat qe ;; \
             *--foreign) cut -d' ' -f1 qm ;; '--sync --list') cat sl ;; \
             --remove*) cat rprint; cat rprint.err >&2; exit 1 ;; \
             --sync*nosuch*) echo 'error: target not found: nosuch' >&2; exit 1 ;; \
             --sync*) echo dep; echo simple; echo fresh ;; *) exit 9 ;; esac",
        );
        machine
    }

    #[test]
    fn recorded_answers_are_read() {
        let abort = AbortFlag::new();
        let machine = machine();
        let state = Pacman.read(&machine.tools(&abort)).unwrap();
        assert!(state.packages["simple"].manual && !state.packages["dep"].manual);
        assert_eq!(state.packages["simple"].repository.as_deref(), Some("test"));
        assert_eq!(state.packages["handmade"].repository, None);
        let wish = |install: &[&str], remove: &[&str]| Question {
            install: install.iter().map(|n| (*n).to_owned()).collect(),
            remove: remove.iter().map(|n| (*n).to_owned()).collect(),
        };
        let foreseen = Pacman
            .foresee(&machine.tools(&abort), &wish(&["fresh"], &[]))
            .unwrap();
        assert_eq!((foreseen.installs.len(), foreseen.upgrades.len()), (1, 2));
        let why = Pacman
            .foresee(&machine.tools(&abort), &wish(&[], &["simple"]))
            .unwrap_err()
            .refused();
        assert!(why.contains("required by needs-simple"), "{why}");
        let why = Pacman
            .foresee(&machine.tools(&abort), &wish(&["nosuch"], &[]))
            .unwrap_err()
            .refused();
        assert!(why.contains("target not found"), "{why}");
    }

    #[test]
    fn nothing_is_an_answer_only_where_it_can_be_one() {
        let abort = AbortFlag::new();
        let machine = machine();
        machine.program("pacman", "exit 1");
        assert!(Pacman.read(&machine.tools(&abort)).is_err());
        assert_eq!(
            query(&machine.tools(&abort), &["--query", "--foreign"]),
            Ok(String::new())
        );
        machine.program(
            "pacman",
            "echo 'error: could not open database' >&2; exit 1",
        );
        assert!(query(&machine.tools(&abort), &["--query", "--foreign"]).is_err());
    }
}
