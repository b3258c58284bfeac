//! zypper, on openSUSE. It has no way to note that a package was asked for; such differences are passed over.

use std::collections::BTreeSet;

use super::{Dialect, Package, Question, State, is_name, repos, rpm};
use crate::escape::escape_str;
use crate::modules::packages::answer::Silence;
use crate::modules::packages::effects::{Transaction, Unforeseen};
use crate::modules::packages::tools::{ASK, Tools, failed, shown};

/// It never asks, and never looks at the network by itself.
const CALM: [&str; 4] = ["zypper", "--non-interactive", "--no-color", "--no-refresh"];

/// How it ends where it knows no package of a name (`ZYPPER_EXIT_INF_CAP_NOT_FOUND`).
const NOT_FOUND: i32 = 104;

/// The manager.
#[derive(Debug)]
pub struct Zypper;

impl Dialect for Zypper {
    fn name(&self) -> &'static str {
        "zypper"
    }

    fn is_there(&self, tools: &Tools<'_>) -> bool {
        tools.has("zypper") && tools.has("rpm") && !tools.has("dpkg-query")
    }

    fn can_mark(&self) -> bool {
        false
    }

    fn read(&self, tools: &Tools<'_>) -> Result<State, Silence> {
        let mut state = State {
            packages: rpm::packages(tools)?,
            repositories: repos::read(tools, "/etc/zypp/repos.d", true)?,
            can_lock: true,
        };
        let argv = [&CALM[..], &["packages", "--installed-only"]].concat();
        for row in table(&tools.ask(&argv)?, &["S", "Repository", "Name", "Arch"])? {
            let [status, repository, name, architecture] = &row[..] else {
                continue;
            };
            let Some(package) = state.packages.get_mut(&rpm::own_name(name, architecture)) else {
                continue;
            };
            note(package, status, repository);
        }
        let argv = [&CALM[..], &["locks"]].concat();
        let locks = tools.ask(&argv)?;
        if locks.contains('|') {
            for row in table(&locks, &["Name"])? {
                if let Some(package) = state.packages.get_mut(&row[0]) {
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
            let mut argv = vec![
                "zypper",
                "--xmlout",
                "--non-interactive",
                "--no-refresh",
                verb,
                "--dry-run",
            ];
            argv.extend(names.iter().map(String::as_str));
            let done = tools.run(&argv, ASK)?;
            let text = String::from_utf8_lossy(&done.stdout).into_owned();
            if let Some(problem) = problem(&text) {
                return Err(Unforeseen::Refused(Silence(format!(
                    "`{}`: {}",
                    shown(&argv),
                    escape_str(problem)
                ))));
            }
            if done.code() == NOT_FOUND {
                return Err(Unforeseen::Refused(failed(&argv, &done)));
            }
            if done.code() != 0 || !text.contains("</stream>") {
                return Err(failed(&argv, &done).into());
            }
            all = all.and(parse_transaction(&text));
        }
        Ok(all)
    }

    fn refresh(&self, tools: &Tools<'_>) -> Result<(), Silence> {
        tools
            .act(&["zypper", "--non-interactive", "--quiet", "refresh"])
            .map(|_| ())
    }

    fn change(&self, tools: &Tools<'_>, wish: &Question) -> Result<(), Silence> {
        for (verb, names) in [("install", &wish.install), ("remove", &wish.remove)] {
            if !names.is_empty() {
                let mut argv = [&CALM[..], &[verb]].concat();
                argv.extend(names.iter().map(String::as_str));
                tools.act(&argv)?;
            }
        }
        Ok(())
    }

    fn mark(&self, _: &Tools<'_>, _: bool, _: &[String]) -> Result<(), Silence> {
        Err(Silence("zypper cannot note what was asked for".to_owned()))
    }

    fn lock(&self, tools: &Tools<'_>, locked: bool, names: &[String]) -> Result<(), Silence> {
        let verb = if locked { "addlock" } else { "removelock" };
        let mut argv = [&CALM[..], &[verb]].concat();
        argv.extend(names.iter().map(String::as_str));
        tools.act(&argv).map(|_| ())
    }
}

fn note(package: &mut Package, status: &str, repository: &str) {
    package.manual |= status == "i+";
    let is_system = repository.starts_with('@') || repository.starts_with('(');
    if package.repository.is_none() && !is_system {
        package.repository = Some(repository.to_owned());
    }
}

/// Rows of a table, these columns of it, found by their headings.
fn table(text: &str, columns: &[&str]) -> Result<Vec<Vec<String>>, Silence> {
    let nonsense = |line: &str| Silence(format!("zypper printed nonsense: {}", escape_str(line)));
    let mut places: Option<Vec<usize>> = None;
    let mut rows = Vec::new();
    for line in text.lines().filter(|line| line.contains('|')) {
        let fields: Vec<&str> = line.split('|').map(str::trim).collect();
        let Some(places) = &places else {
            let found: Option<Vec<usize>> = (columns.iter())
                .map(|column| fields.iter().position(|field| field == column))
                .collect();
            places = Some(found.ok_or_else(|| nonsense(line))?);
            continue;
        };
        let row: Option<Vec<String>> = (places.iter())
            .map(|place| fields.get(*place).map(|&field| field.to_owned()))
            .collect();
        rows.push(row.ok_or_else(|| nonsense(line))?);
    }
    if places.is_none() {
        return Err(nonsense(text.lines().next_back().unwrap_or_default()));
    }
    Ok(rows)
}

/// Why a transaction cannot be, in zypper's words.
fn problem(text: &str) -> Option<&str> {
    let (_, rest) = text.split_once("<description>Problem: ")?;
    rest.lines().next()
}

/// The lists of `<install-summary>`.
fn parse_transaction(text: &str) -> Transaction {
    let mut transaction = Transaction::default();
    let mut list = "";
    for line in text.lines().map(str::trim) {
        if let Some(name) = line.strip_prefix("<to-") {
            list = name.trim_end_matches('>');
        } else if line.starts_with("</to-") {
            list = "";
        } else if let Some(solvable) = line.strip_prefix("<solvable ") {
            let value = |key: &str| {
                let (_, rest) = solvable.split_once(&format!("{key}=\""))?;
                rest.split('"').next()
            };
            if value("type") != Some("package") {
                continue;
            }
            let Some(name) = value("name").filter(|name| is_name(name)) else {
                continue;
            };
            let name = rpm::own_name(name, value("arch").unwrap_or_default());
            match list {
                "install" => transaction.installs.insert(name),
                "remove" => transaction.removes.insert(name),
                "" => continue,
                _ => transaction.upgrades.insert(name),
            };
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
            include_str!(concat!("../../../../tests/samples/packages/zypper/", $name))
        };
    }

    #[test]
    fn recorded_tables_and_transactions_are_read() {
        let rows = table(sample!("packages.out"), &["S", "Name"]).unwrap();
        let asked: Vec<&str> = rows
            .iter()
            .filter(|row| row[0] == "i+")
            .map(|row| row[1].as_str())
            .collect();
        assert_eq!(asked, ["other", "simple"]);
        assert_eq!(table(sample!("locks.out"), &["Name"]).unwrap(), [["other"]]);
        assert!(table("System management is locked by pid 7\n", &["Name"]).is_err());
        let install = parse_transaction(sample!("foresee.out"));
        assert_eq!(install.installs.len(), 3);
        let remove = parse_transaction(sample!("remove.out"));
        assert_eq!(
            remove.removes.into_iter().collect::<Vec<_>>(),
            ["needs-simple", "simple"]
        );
        let why = problem(sample!("conflict.out")).unwrap();
        assert!(
            why.contains("mta-a-1.0-1.noarch conflicts with mta-b"),
            "{why}"
        );
    }

    #[test]
    fn half_an_answer_is_none() {
        let machine = FakeMachine::new();
        let abort = AbortFlag::new();
        let wish = Question {
            remove: vec!["simple".to_owned()],
            ..Question::default()
        };
        let whole = sample!("remove.out");
        for (text, code, good) in [
            (whole, 0, true),
            (&whole[..whole.len() / 2], 0, false),
            (sample!("conflict.out"), 4, false),
            (sample!("unknown.out"), 104, false),
            ("", 7, false),
        ] {
            machine.file("/out", text);
            machine.program("zypper", &format!("cat $TEST_ROOT/out; exit {code}"));
            let answer = Zypper.foresee(&machine.tools(&abort), &wish);
            assert_eq!(answer.is_ok(), good, "{code}: {answer:?}");
        }
    }
}
