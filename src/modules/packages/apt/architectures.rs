//! Further architectures of a machine (`dpkg --add-architecture`): which there are, one that comes, one that
//! goes again.

use std::collections::{BTreeMap, BTreeSet};

use super::names::{foreign_architecture, is_architecture, plain_name};
use crate::escape::escape_str;
use crate::interrupt::AbortFlag;
use crate::modules::packages::answer::Silence;
use crate::modules::packages::files;
use crate::modules::packages::tools::Tools;

/// Where dpkg keeps its list. A machine that never had another architecture has no such file.
const LIST: &str = "/var/lib/dpkg/arch";
const LIST_LIMIT: u64 = 64 << 10;

/// The machine's own.
pub fn own(tools: &Tools<'_>) -> Result<String, Silence> {
    let answer = tools.ask(&["dpkg", "--print-architecture"])?;
    let name = answer.trim();
    if is_architecture(name) {
        return Ok(name.to_owned());
    }
    Err(Silence(format!(
        "`dpkg --print-architecture` printed nonsense: {}",
        escape_str(name)
    )))
}

/// Those that the machine has besides its own.
pub fn foreign(tools: &Tools<'_>) -> Result<Vec<String>, Silence> {
    let text = tools.ask(&["dpkg", "--print-foreign-architectures"])?;
    let mut names: Vec<String> = Vec::new();
    for name in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
        if !is_architecture(name) {
            return Err(Silence(format!(
                "`dpkg --print-foreign-architectures` printed nonsense: {}",
                escape_str(name)
            )));
        }
        names.push(name.to_owned());
    }
    names.sort_unstable();
    names.dedup();
    Ok(names)
}

/// What dpkg says of one installed package, as far as needs go.
#[derive(Debug, Clone, Copy, Default)]
pub struct Said<'a> {
    /// What it depends on.
    pub depends: &'a str,
    /// Names that it stands for, too.
    pub provides: &'a str,
    /// Whether packages of other architectures may depend on it (`Multi-Arch: foreign`).
    pub serves_all: bool,
}

/// The names in a list like `libx:i386 (>= 2) | y, z`: by what is needed, then by what will do.
fn named(list: &str) -> impl Iterator<Item = Vec<&str>> {
    list.split(',').map(|one| {
        (one.split('|'))
            .filter_map(|one| one.trim().split([' ', '(']).next())
            .filter(|word| !word.is_empty())
            .collect()
    })
}

/// Which packages need something of which foreign architecture, by what dpkg says they depend on: they name
/// it (`libx:i386`), or what they name is only there of a foreign architecture and serves all, or something
/// that they depend on needs it.
pub fn needs<'a>(
    all: &'a BTreeMap<String, Said<'_>>,
    foreign: &'a [String],
) -> BTreeSet<(&'a str, &'a str)> {
    // Who is there under which name: natively, or of a foreign architecture and for all.
    let mut native: BTreeSet<&str> = BTreeSet::new();
    let mut serving: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for (name, said) in all {
        let stands_for = named(said.provides).flatten().chain([plain_name(name)]);
        match foreign_architecture(name) {
            None => native.extend(stands_for),
            Some(architecture) if said.serves_all => {
                for name in stands_for {
                    serving.entry(name).or_default().insert(architecture);
                }
            }
            Some(_) => {}
        }
    }
    let mut users: BTreeMap<&str, Vec<&'a str>> = BTreeMap::new();
    let mut found = BTreeSet::new();
    for (name, said) in all {
        let is_native = foreign_architecture(name).is_none();
        for words in named(said.depends) {
            let is_met = words.iter().any(|word| native.contains(plain_name(word)));
            for word in words {
                let wanted = foreign_architecture(word);
                if let Some(architecture) = foreign.iter().find(|a| Some(a.as_str()) == wanted) {
                    found.insert((name.as_str(), architecture.as_str()));
                    continue;
                }
                users.entry(plain_name(word)).or_default().push(name);
                let served = serving.get(word).filter(|_| is_native && !is_met);
                for architecture in foreign {
                    if served.is_some_and(|by| by.contains(architecture.as_str())) {
                        found.insert((name.as_str(), architecture.as_str()));
                    }
                }
            }
        }
    }
    let mut open: Vec<(&str, &str)> = found.iter().copied().collect();
    while let Some((name, architecture)) = open.pop() {
        for user in users.get(name).into_iter().flatten() {
            if found.insert((user, architecture)) {
                open.push((user, architecture));
            }
        }
    }
    found
}

/// What was added, and how dpkg's list was.
#[derive(Debug, Default)]
pub struct Added {
    names: Vec<String>,
    had_no_list: bool,
}

impl Added {
    /// Those that were not there before.
    #[must_use]
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// Those for which `is_used`, and what was added of the others.
    #[must_use]
    pub fn split(self, is_used: impl Fn(&str) -> bool) -> (Vec<String>, Self) {
        let had_no_list = self.had_no_list;
        let (used, names) = self.names.into_iter().partition(|name| is_used(name));
        (used, Self { names, had_no_list })
    }
}

/// Adds those that are not there; on the first failure none is.
pub fn add<'n>(
    tools: &Tools<'_>,
    names: impl IntoIterator<Item = &'n String>,
) -> Result<Added, Silence> {
    let mut names = names.into_iter().peekable();
    if names.peek().is_none() {
        return Ok(Added::default());
    }
    let there = foreign(tools)?;
    let mut added = Added {
        names: Vec::new(),
        had_no_list: tools.read(LIST, LIST_LIMIT)?.is_none(),
    };
    for name in names.filter(|name| !there.contains(name)) {
        if let Err(why) = tools.act(&["dpkg", "--add-architecture", name]) {
            // Also when we were told to stop.
            let calm = AbortFlag::new();
            remove(&tools.with_abort(&calm), &added)?;
            return Err(why);
        }
        added.names.push(name.clone());
    }
    Ok(added)
}

/// Takes them away again. dpkg itself refuses while a package of one is installed.
pub fn remove(tools: &Tools<'_>, added: &Added) -> Result<(), Silence> {
    let mut failures = Vec::new();
    for name in &added.names {
        if let Err(why) = tools.act(&["dpkg", "--remove-architecture", name]) {
            failures.push(why.0);
        }
    }
    if !failures.is_empty() {
        return Err(Silence(failures.join("; ")));
    }
    // dpkg leaves a list of nothing but its own architecture: what was not there need not stay.
    let is_own_alone = |text: &[u8]| {
        text.split(|b| *b == b'\n')
            .filter(|l| !l.is_empty())
            .count()
            < 2
    };
    if added.had_no_list
        && !added.names.is_empty()
        && tools
            .read(LIST, LIST_LIMIT)?
            .is_some_and(|text| is_own_alone(&text))
    {
        files::delete(tools, LIST)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::modules::packages::testing::FakeMachine;

    /// A dpkg that keeps its list as the real one does.
    fn machine() -> FakeMachine {
        let machine = FakeMachine::new();
        std::fs::create_dir_all(machine.root().join("var/lib/dpkg")).unwrap();
        machine.program(
            "dpkg",
            "list=$TEST_ROOT/var/lib/dpkg/arch\n\
             case $1 in\n\
             --print-foreign-architectures) [ ! -e $list ] || grep -v amd64 $list; true;;\n\
             --add-architecture) [ $2 != bad ] || exit 2; [ -e $list ] || echo amd64 >$list; echo $2 >>$list;;\n\
             --remove-architecture) [ ! -e $TEST_ROOT/used-$2 ] || exit 2; grep -v $2 $list >$list.new; mv $list.new $list;;\n\
             esac",
        );
        machine
    }

    #[test]
    fn what_was_added_goes_again_and_what_was_there_stays() {
        let machine = machine();
        let abort = AbortFlag::new();
        let tools = machine.tools(&abort);
        let names = ["i386".to_owned(), "armhf".to_owned()];
        assert!(foreign(&tools).unwrap().is_empty());
        let added = add(&tools, &names).unwrap();
        assert_eq!(added.names(), names);
        assert_eq!(foreign(&tools).unwrap(), ["armhf", "i386"]);
        remove(&tools, &added).unwrap();
        assert_eq!(machine.content("/var/lib/dpkg/arch"), None, "as it was");
        machine.file("/var/lib/dpkg/arch", "amd64\ni386\n");
        let added = add(&tools, &names).unwrap();
        assert_eq!(added.names(), ["armhf"]);
        remove(&tools, &added).unwrap();
        assert_eq!(
            machine.content("/var/lib/dpkg/arch").unwrap(),
            "amd64\ni386\n"
        );
        let added = add(&tools, &names).unwrap();
        machine.file("/used-armhf", "");
        assert!(remove(&tools, &added).is_err());
    }

    #[test]
    fn who_needs_something_foreign_is_found_through_what_it_depends_on() {
        let depends = BTreeMap::from([
            ("steam".to_owned(), "libc6 (>= 2.36), steam-libs | other, "),
            ("steam-libs".to_owned(), ", libx:i386(>= 1) | libx:armhf"),
            ("python".to_owned(), "libc6:any, libc6:s390x"),
            ("ring".to_owned(), "steam, ring"),
        ]);
        let foreign = ["i386".to_owned()];
        let all = (depends.into_iter())
            .map(|(name, depends)| {
                let said = Said {
                    depends,
                    ..Said::default()
                };
                (name, said)
            })
            .collect();
        let found: Vec<&str> = (needs(&all, &foreign).into_iter())
            .map(|(name, architecture)| {
                assert_eq!(architecture, "i386");
                name
            })
            .collect();
        assert_eq!(found, ["ring", "steam", "steam-libs"]);
    }

    #[test]
    fn who_needs_what_is_only_there_of_a_foreign_architecture_is_found() {
        let said = |depends, provides, serves_all| Said {
            depends,
            provides,
            serves_all,
        };
        let all = BTreeMap::from([
            ("back:i386".to_owned(), said("libc6", "engine (= 1)", true)),
            ("private:i386".to_owned(), said("", "", false)),
            ("both".to_owned(), said("", "motor", false)),
            ("both:i386".to_owned(), said("", "", true)),
            ("front".to_owned(), said("back (>= 1)", "", false)),
            ("virtual".to_owned(), said("engine", "", false)),
            ("user".to_owned(), said("front", "", false)),
            // Met by something of the machine's own, or not by what does not serve all.
            ("native".to_owned(), said("both", "", false)),
            ("either".to_owned(), said("back | motor", "", false)),
            ("lost".to_owned(), said("private", "", false)),
            ("game:i386".to_owned(), said("back", "", false)),
        ]);
        let foreign = ["armhf".to_owned(), "i386".to_owned()];
        let found = needs(&all, &foreign);
        let expected = ["front", "user", "virtual"].map(|name| (name, "i386"));
        assert_eq!(found, BTreeSet::from(expected));
    }

    #[test]
    fn one_that_cannot_be_added_takes_the_others_with_it_and_nonsense_is_no_answer() {
        let machine = machine();
        let abort = AbortFlag::new();
        let tools = machine.tools(&abort);
        let names = ["i386".to_owned(), "bad".to_owned()];
        assert!(add(&tools, &names).is_err());
        assert_eq!(machine.content("/var/lib/dpkg/arch"), None);
        let nothing: [String; 0] = [];
        assert!(add(&tools, &nothing).unwrap().names().is_empty());
        machine.program("dpkg", "echo 'i386 --force'");
        assert!(foreign(&tools).unwrap_err().0.contains("printed nonsense"));
    }
}
