//! Carrying out what was decided, on the target: recipes, and removals of exactly what was named.

use std::collections::BTreeSet;
use std::path::Path;

use super::plan::{Recipe, Work};
use super::state::is_ours;
use crate::escape::escape_str;
use crate::modules::packages::answer::Silence;
use crate::modules::packages::apt::{self, names::own_name, simulate::simulate};
use crate::modules::packages::item::Outcome;
use crate::modules::packages::tools::{Tools, failed};

/// Does the work; what fails keeps nothing else from being done.
pub fn apply(
    tools: &Tools<'_>,
    work: &Work,
    say: &mut dyn FnMut(&str),
) -> Result<Vec<Outcome>, Silence> {
    let mut outcomes = Vec::new();
    let mut note = |id: &str, result: Result<(), Silence>| {
        outcomes.push(match result {
            Ok(()) => Outcome::done(id),
            Err(why) => Outcome::failed(id, why.0),
        });
    };
    for (id, recipe) in &work.recipes {
        tools.check()?;
        say(&format!("following the recipe of {id}"));
        note(id, follow(tools, id, recipe));
    }
    for name in &work.remove {
        say(&format!("removing {name}"));
        note(name, remove(tools, name, &work.may_remove));
    }
    for path in &work.delete {
        say(&format!("deleting {path}"));
        note(path, delete(tools, path));
    }
    Ok(outcomes)
}

fn follow(tools: &Tools<'_>, id: &str, recipe: &Recipe) -> Result<(), Silence> {
    let done = tools.run(&["sh", "-e", "-c", &recipe.command], tools.patience)?;
    if done.code() != 0 {
        return Err(failed(&["its recipe"], &done));
    }
    let absent = || Silence("its recipe ended well, and it is not there".to_owned());
    if id.starts_with('/') {
        return std::fs::symlink_metadata(tools.at(id))
            .map(|_| ())
            .map_err(|_| absent());
    }
    let architecture = apt::architectures::own(tools)?;
    // Without an architecture dpkg speaks of those of all of them.
    let format = "${db:Status-Status}\t${Package}:${Architecture}\t${Version}\n";
    let argv = ["dpkg-query", "--show", "--showformat", format, "--", id];
    let answer = tools.ask(&argv).map_err(|_| absent())?;
    let version = (answer.lines())
        .filter_map(|line| line.strip_prefix("installed\t")?.split_once('\t'))
        .find(|(name, _)| own_name(name, &architecture) == id)
        .map(|(_, version)| version)
        .ok_or_else(absent)?;
    match &recipe.version {
        Some(wanted) if apt::version::compare(version, wanted).is_lt() => Err(Silence(format!(
            "its recipe brings version {}, and the other machine has {}",
            escape_str(version),
            escape_str(wanted)
        ))),
        _ => Ok(()),
    }
}

fn remove(tools: &Tools<'_>, name: &str, may: &BTreeSet<String>) -> Result<(), Silence> {
    let architecture = apt::architectures::own(tools)?;
    let foreseen = simulate(tools, &[format!("{name}-")], false, &architecture)?;
    let taken: Vec<&String> = (foreseen.removes.iter())
        .filter(|other| *other != name && !may.contains(*other))
        .collect();
    if let Some(other) = taken.first() {
        let other = escape_str(other);
        return Err(Silence(format!("it would also remove {other}")));
    }
    let argv = ["apt-get", "--assume-yes", "--quiet=2", "remove", "--", name];
    tools.act(&argv).map(|_| ())
}

fn delete(tools: &Tools<'_>, path: &str) -> Result<(), Silence> {
    let parent = Path::new(path).parent().unwrap_or(Path::new("/"));
    let parent = tools.at(&parent.to_string_lossy());
    // Exactly that path: no directory above it may be a link to somewhere else.
    let is_itself = parent.canonicalize().is_ok_and(|real| real == parent);
    if !is_ours(path) || !is_itself {
        return Err(Silence(format!(
            "{} is nothing to delete",
            escape_str(path)
        )));
    }
    let place = tools.at(path).to_string_lossy().into_owned();
    let argv = [
        "rm",
        "--recursive",
        "--force",
        "--one-file-system",
        "--",
        &place,
    ];
    tools.act(&argv).map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::interrupt::AbortFlag;
    use crate::modules::packages::testing::FakeMachine;

    fn recipe(command: &str) -> Recipe {
        Recipe {
            command: command.to_owned(),
            version: None,
        }
    }

    #[test]
    fn recipes_are_followed_and_what_they_bring_is_looked_for() {
        let machine = FakeMachine::new();
        std::fs::create_dir(machine.root().join("opt")).unwrap();
        machine.program("dpkg", "echo amd64");
        let both = r"printf 'installed\told:i386\t3.0\ninstalled\told:all\t1.0\n'";
        machine.program("dpkg-query", both);
        let abort = AbortFlag::new();
        let mut work = Work::default();
        for (id, command) in [
            ("/opt/a", "touch $TEST_ROOT/opt/a"),
            ("/opt/b", "true"),
            ("/opt/c", "echo no luck >&2; exit 4"),
            ("/opt/d", "false; touch $TEST_ROOT/opt/d"),
        ] {
            work.recipes.insert(id.to_owned(), recipe(command));
        }
        let old = Recipe {
            version: Some("2.0".to_owned()),
            ..recipe("true")
        };
        work.recipes.insert("old".to_owned(), old);
        let outcomes = apply(&machine.tools(&abort), &work, &mut |_| {}).unwrap();
        let whys: Vec<&str> = (outcomes.iter())
            .map(|outcome| outcome.error.as_deref().unwrap_or("done"))
            .collect();
        assert_eq!(whys[0], "done");
        assert!(whys[1].contains("it is not there"), "{whys:?}");
        assert!(whys[2].contains("status 4: no luck"), "{whys:?}");
        assert!(whys[3].contains("status 1"), "{whys:?}");
        assert!(whys[4].contains("version 1.0"), "{whys:?}");
    }

    #[test]
    fn what_is_deleted_is_what_was_named_and_nothing_behind_a_link() {
        let machine = FakeMachine::new();
        machine.file("/opt/goes/x", "x");
        machine.file("/opt/stays/x", "x");
        machine.file("/etc/kept/x", "x");
        std::fs::create_dir_all(machine.root().join("usr/local")).unwrap();
        std::os::unix::fs::symlink(
            machine.root().join("etc"),
            machine.root().join("usr/local/bin"),
        )
        .unwrap();
        let abort = AbortFlag::new();
        let delete = [
            "/opt/goes",
            "/usr/local/bin/kept",
            "/opt/../etc/kept",
            "/etc/kept",
        ];
        let work = Work {
            delete: delete.map(str::to_owned).to_vec(),
            ..Work::default()
        };
        let outcomes = apply(&machine.tools(&abort), &work, &mut |_| {}).unwrap();
        let done: Vec<bool> = outcomes.iter().map(|o| o.error.is_none()).collect();
        assert_eq!(done, [true, false, false, false], "{outcomes:?}");
        assert!(!machine.root().join("opt/goes").exists());
        assert!(machine.root().join("opt/stays/x").exists());
        assert!(machine.root().join("etc/kept/x").exists());
    }
}
