//! dnf, on Fedora and its kin: version 4 as recorded, and what version 5 says alike.

use std::collections::BTreeSet;

use super::{Dialect, Question, State, refusal, repos, rpm};
use crate::escape::escape_str;
use crate::modules::packages::answer::Silence;
use crate::modules::packages::effects::{Transaction, Unforeseen};
use crate::modules::packages::tools::{ASK, Tools};

/// What nobody would find again under this name.
const NO_REPOSITORY: [&str; 4] = ["anaconda", "@", "<unknown>", "koji-override"];
/// With a line end of its own: version 5 adds none.
const USER_FORMAT: &str = "%{name}|%{arch}|%{from_repo}\n";
/// There where version 4 can lock (`dnf-versionlock(8)`); version 5 always can.
const LOCK_PLUGIN: &str = "/etc/dnf/plugins/versionlock.conf";
const LOCKS: [&str; 2] = [
    "/etc/dnf/plugins/versionlock.list",
    "/etc/dnf/versionlock.toml",
];
/// What it says of what cannot be had, and of what cannot be together.
const REFUSALS: [&str; 4] = [
    "Unable to find a match",
    "No match for argument",
    "Problem",
    "conflicting requests",
];
/// Nothing goes but what is named and what needs it.
const KEEP_UNUSED: &str = "--setopt=clean_requirements_on_remove=False";

/// The manager.
#[derive(Debug)]
pub struct Dnf;

impl Dialect for Dnf {
    fn name(&self) -> &'static str {
        "dnf"
    }

    fn is_there(&self, tools: &Tools<'_>) -> bool {
        tools.has("dnf") && tools.has("rpm") && !tools.has("dpkg-query")
    }

    fn read(&self, tools: &Tools<'_>) -> Result<State, Silence> {
        let mut state = State {
            packages: rpm::packages(tools)?,
            repositories: repos::read(tools, "/etc/yum.repos.d", false)?,
            can_lock: tools.at(LOCK_PLUGIN).exists() || is_five(tools)?,
        };
        let argv = [
            "dnf",
            "--quiet",
            "--disablerepo=*",
            "repoquery",
            "--userinstalled",
            "--queryformat",
            USER_FORMAT,
        ];
        for (name, repository) in parse_user(&tools.ask(&argv)?)? {
            if let Some(package) = state.packages.get_mut(&name) {
                package.manual = true;
                package.repository = repository;
            }
        }
        for path in LOCKS {
            let Some(bytes) = tools.read(path, 256 << 10)? else {
                continue;
            };
            for name in parse_locks(&String::from_utf8_lossy(&bytes)) {
                if let Some(package) = state.packages.get_mut(&name) {
                    package.locked = true;
                }
            }
        }
        Ok(state)
    }

    fn installed(&self, tools: &Tools<'_>) -> Result<BTreeSet<String>, Silence> {
        rpm::names(tools)
    }

    fn foresee(&self, tools: &Tools<'_>, wish: &Question) -> Result<Transaction, Unforeseen> {
        let mut all = Transaction::default();
        for (verb, names) in [("install", &wish.install), ("remove", &wish.remove)] {
            if names.is_empty() {
                continue;
            }
            // From what it knows already: a question writes nothing.
            let mut argv = vec!["dnf", "--cacheonly", "--assumeno", KEEP_UNUSED, verb];
            argv.extend(names.iter().map(String::as_str));
            let done = tools.run(&argv, ASK)?;
            let stdout = String::from_utf8_lossy(&done.stdout).into_owned();
            let is_answer = match done.code() {
                0 => stdout.contains("Nothing to do"),
                1 => String::from_utf8_lossy(&done.stderr).contains("Operation aborted"),
                _ => false,
            };
            if !is_answer {
                return Err(refusal(&argv, &done, &REFUSALS));
            }
            all = all.and(parse_transaction(&stdout));
        }
        Ok(all)
    }

    fn refresh(&self, tools: &Tools<'_>) -> Result<(), Silence> {
        tools.act(&["dnf", "--quiet", "makecache"]).map(|_| ())
    }

    fn change(&self, tools: &Tools<'_>, wish: &Question) -> Result<(), Silence> {
        for (verb, names) in [("install", &wish.install), ("remove", &wish.remove)] {
            if !names.is_empty() {
                let mut argv = vec!["dnf", "--quiet", "--assumeyes", KEEP_UNUSED, verb];
                argv.extend(names.iter().map(String::as_str));
                tools.act(&argv)?;
            }
        }
        Ok(())
    }

    fn mark(&self, tools: &Tools<'_>, manual: bool, names: &[String]) -> Result<(), Silence> {
        let how = match (is_five(tools)?, manual) {
            (true, true) => "user",
            (true, false) => "dependency",
            (false, true) => "install",
            (false, false) => "remove",
        };
        let mut argv = vec!["dnf", "--quiet", "mark", how];
        argv.extend(names.iter().map(String::as_str));
        tools.act(&argv).map(|_| ())
    }

    fn lock(&self, tools: &Tools<'_>, locked: bool, names: &[String]) -> Result<(), Silence> {
        let verb = if locked { "add" } else { "delete" };
        let mut argv = vec!["dnf", "--quiet", "--assumeyes", "versionlock", verb];
        argv.extend(names.iter().map(String::as_str));
        tools.act(&argv).map(|_| ())
    }
}

/// Whether it is version 5.
fn is_five(tools: &Tools<'_>) -> Result<bool, Silence> {
    Ok(tools.ask(&["dnf", "--version"])?.starts_with("dnf5"))
}

/// What a person asked for, with the repository it came from.
fn parse_user(text: &str) -> Result<Vec<(String, Option<String>)>, Silence> {
    let mut all = Vec::new();
    for line in text.lines().filter(|line| !line.trim().is_empty()) {
        let fields: Vec<&str> = line.split('|').collect();
        let [name, architecture, repository] = fields[..] else {
            let line = escape_str(line);
            return Err(Silence(format!("`dnf repoquery` printed nonsense: {line}")));
        };
        let is_known = !repository.is_empty()
            && !NO_REPOSITORY
                .iter()
                .any(|prefix| repository.starts_with(prefix));
        let repository = is_known.then(|| repository.to_owned());
        all.push((rpm::own_name(name, architecture), repository));
    }
    Ok(all)
}

/// Names in either form of the list of locks.
fn parse_locks(text: &str) -> Vec<String> {
    (text.lines().map(str::trim))
        .filter(|line| !line.starts_with('#') && !line.starts_with('!'))
        .filter_map(|line| match line.strip_prefix("name") {
            Some(rest) => Some(rest.split_once('"')?.1.trim_end_matches('"').to_owned()),
            // `name-epoch:version-release.arch`
            None => line.rsplitn(3, '-').nth(2).map(str::to_owned),
        })
        .collect()
}

/// The table of a transaction: headings at the line's beginning, rows of it with a space before.
fn parse_transaction(text: &str) -> Transaction {
    let mut transaction = Transaction::default();
    let mut heading = "";
    for line in text.lines() {
        if line.starts_with("Transaction Summary") {
            break;
        }
        if !line.starts_with(' ') {
            heading = line.trim_end_matches(':');
            continue;
        }
        let mut words = line.split_whitespace();
        let (Some(name), Some(architecture)) = (words.next(), words.next()) else {
            continue;
        };
        let name = rpm::own_name(name, architecture);
        if heading.starts_with("Installing") {
            transaction.installs.insert(name);
        } else if heading.starts_with("Removing") {
            transaction.removes.insert(name);
        } else if ["Upgrading", "Downgrading", "Reinstalling"]
            .iter()
            .any(|h| heading.starts_with(h))
        {
            transaction.upgrades.insert(name);
        }
    }
    transaction
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::interrupt::AbortFlag;
    use crate::modules::packages::testing::FakeMachine;

    macro_rules! sample {
        ($name:literal) => {
            include_str!(concat!("../../../../tests/samples/packages/dnf/", $name))
        };
    }

    fn names(set: &BTreeSet<String>) -> Vec<&str> {
        set.iter().map(String::as_str).collect()
    }

    #[test]
    fn recorded_transactions_are_read() {
        let install = parse_transaction(sample!("foresee-install.out"));
        assert_eq!(names(&install.installs), ["dep", "other", "simple"]);
        assert!(install.removes.is_empty() && install.upgrades.is_empty());
        let remove = parse_transaction(sample!("foresee-remove-noauto.out"));
        assert_eq!(names(&remove.removes), ["needs-simple", "simple"]);
        let swap = parse_transaction(sample!("conflict-erasing.out"));
        assert_eq!(
            (names(&swap.installs), names(&swap.removes)),
            (vec!["mta-a"], vec!["mta-b"])
        );
    }

    #[test]
    fn only_an_answer_is_an_answer() {
        let machine = FakeMachine::new();
        let abort = AbortFlag::new();
        let wish = Question {
            install: vec!["x".to_owned()],
            ..Question::default()
        };
        let foresee = |out: &str, err: &str, code: u8| {
            machine.file("/out", out);
            machine.file("/err", err);
            machine.program(
                "dnf",
                &format!("cat $TEST_ROOT/out; cat $TEST_ROOT/err >&2; exit {code}"),
            );
            Dnf.foresee(&machine.tools(&abort), &wish)
        };
        let found = foresee(
            sample!("foresee-install.out"),
            sample!("foresee-install.err"),
            1,
        );
        assert_eq!(found.unwrap().installs.len(), 3);
        assert_eq!(
            foresee(sample!("none.out"), sample!("none.err"), 0),
            Ok(Transaction::default())
        );
        let why = foresee(sample!("unknown.out"), sample!("unknown.err"), 1)
            .unwrap_err()
            .refused();
        assert!(why.contains("Unable to find a match"), "{why}");
        let why = foresee(sample!("conflict.out"), sample!("conflict.err"), 1)
            .unwrap_err()
            .refused();
        assert!(why.contains("conflict"), "{why}");
        assert!(foresee("", "", 0).is_err());
        assert!(foresee("", "killed", 137).is_err());
    }

    #[test]
    fn what_was_asked_for_and_what_is_locked() {
        let user = parse_user(sample!("userinstalled.out")).unwrap();
        assert!(user.contains(&("simple".to_owned(), Some("test".to_owned()))));
        assert!(parse_user("Error: broken\n").is_err());
        let user = parse_user("a|noarch|\nb|i686|@System\nc|x86_64|fedora\n").unwrap();
        assert_eq!(user[0], ("a".to_owned(), None));
        assert_eq!(user[1], ("b.i686".to_owned(), None));
        assert_eq!(
            parse_locks("# x\nvim-enhanced-2:9.0-1.fc40.*\n!foo-0:1-1.*\n"),
            ["vim-enhanced"]
        );
        assert_eq!(
            parse_locks("[[packages]]\nname = \"vim\"\ncomment = \"x\"\n"),
            ["vim"]
        );
    }
}
