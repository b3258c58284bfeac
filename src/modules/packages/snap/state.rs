//! What `snap list` says.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::escape::escape_str;
use crate::modules::packages::answer::Silence;
use crate::modules::packages::tools::{ASK, Tools, failed};

/// What snapd says where there is no snap: on stderr, with status 0.
const NONE: &str = "No snaps are installed yet";

/// Notes of snaps that follow from others, or from the system.
const DERIVED: [&str; 6] = ["base", "core", "snapd", "kernel", "gadget", "os"];

/// The snaps of a machine that are in use, by name.
pub type State = BTreeMap<String, Snap>;

/// One snap.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snap {
    /// Its version, for people.
    pub version: String,
    /// Its revision: a number, or `x` and a number for one installed from a file.
    pub revision: String,
    /// The channel it follows; empty: none.
    pub channel: String,
    /// Whether it is not confined (`--classic`).
    pub classic: bool,
    /// Whether it runs in developer mode (`--devmode`).
    pub devmode: bool,
    /// Whether it is held back from refreshes.
    pub held: bool,
    /// Whether it is there for others.
    pub derived: bool,
}

impl Snap {
    /// Whether the store gave it.
    #[must_use]
    pub fn is_from_store(&self) -> bool {
        is_revision(&self.revision)
    }
}

/// Whether it is a revision of the store's.
#[must_use]
pub fn is_revision(text: &str) -> bool {
    !text.is_empty() && text.len() < 10 && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// Whether it can be the name of a snap (its instance key included), and no option.
#[must_use]
pub fn is_name(name: &str) -> bool {
    name.len() <= 60
        && name.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
        && (name.chars()).all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "-_".contains(c))
}

/// Whether it can be a channel, and no option.
#[must_use]
pub fn is_channel(text: &str) -> bool {
    text.len() <= 200
        && text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "/._+-".contains(c))
}

/// Reads it.
pub fn read(tools: &Tools<'_>) -> Result<State, Silence> {
    let argv = ["snap", "list", "--all", "--unicode=never", "--color=never"];
    let done = tools.run(&argv, ASK)?;
    if done.code() != 0 || done.truncated {
        return Err(failed(&argv, &done));
    }
    let text = String::from_utf8_lossy(&done.stdout).into_owned();
    if text.trim().is_empty() {
        return if String::from_utf8_lossy(&done.stderr).contains(NONE) {
            Ok(State::new())
        } else {
            Err(Silence("`snap list` said nothing at all".to_owned()))
        };
    }
    parse(&text)
}

/// Columns are found by their headings: their order is no contract.
pub fn parse(text: &str) -> Result<State, Silence> {
    let nonsense = |line: &str| {
        Silence(format!(
            "`snap list` printed nonsense: {}",
            escape_str(line)
        ))
    };
    let mut lines = text.lines().filter(|line| !line.trim().is_empty());
    let header = lines.next().unwrap_or_default();
    let titles: Vec<&str> = header.split_whitespace().collect();
    let place = |title: &str| {
        titles
            .iter()
            .position(|t| *t == title)
            .ok_or_else(|| nonsense(header))
    };
    let (name, version, revision) = (place("Name")?, place("Version")?, place("Rev")?);
    let (tracking, notes) = (place("Tracking")?, place("Notes")?);
    let mut state = State::new();
    for line in lines {
        let fields: Vec<&str> = line.split_whitespace().collect();
        if fields.len() != titles.len() || !is_name(fields[name]) {
            return Err(nonsense(line));
        }
        let notes: Vec<&str> = fields[notes].split(',').collect();
        let has = |note: &str| notes.contains(&note);
        if has("disabled") {
            continue;
        }
        let is_sideload = (fields[revision].strip_prefix('x')).is_some_and(is_revision);
        if !is_sideload && !is_revision(fields[revision]) {
            return Err(nonsense(line));
        }
        let channel = fields[tracking].trim_matches('-');
        let snap = Snap {
            version: fields[version].to_owned(),
            revision: fields[revision].to_owned(),
            channel: channel.to_owned(),
            classic: has("classic"),
            devmode: has("devmode"),
            held: has("held"),
            derived: DERIVED.iter().any(|note| has(note)),
        };
        state.insert(fields[name].to_owned(), snap);
    }
    Ok(state)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::interrupt::AbortFlag;
    use crate::modules::packages::testing::FakeMachine;

    const LIST: &str = include_str!("../../../../tests/samples/packages/snap-list.txt");

    #[test]
    fn what_is_in_use_is_read() {
        let state = parse(LIST).unwrap();
        assert_eq!(state["firefox"].revision, "3504");
        assert_eq!(state["firefox"].channel, "latest/stable/ubuntu-22.04");
        assert!(state["code"].classic && state["code"].held && !state["firefox"].held);
        assert!(state["core22"].derived && state["snapd"].derived);
        assert!(!state["mine"].is_from_store() && state["mine"].devmode);
        assert_eq!(
            state["gnome-42-2204"].revision, "141",
            "not the disabled one"
        );
    }

    #[test]
    fn columns_are_found_by_their_headings() {
        let text = "Notes Rev Name Publisher Tracking Version\n\
                    classic,held 42 code vscode latest/edge 1.9\ndisabled 41 code vscode latest/edge 1.8\n";
        let state = parse(text).unwrap();
        let code = &state["code"];
        assert_eq!((&*code.revision, &*code.channel), ("42", "latest/edge"));
        assert!(code.classic && code.held && state.len() == 1);
    }

    #[test]
    fn nothing_is_only_nothing_when_snapd_says_so() {
        let abort = AbortFlag::new();
        let machine = FakeMachine::new();
        machine.program(
            "snap",
            "echo \"No snaps are installed yet. Try 'snap install hello-world'.\" >&2",
        );
        assert_eq!(read(&machine.tools(&abort)), Ok(State::new()));
        for (script, words) in [
            ("exit 0", "nothing at all"),
            (
                "echo 'error: cannot communicate with server' >&2; exit 1",
                "cannot communicate",
            ),
            ("echo 'Name Version'", "nonsense"),
            (
                "echo 'Name Version Rev Tracking Publisher Notes'; echo 'firefox 1 2'",
                "nonsense",
            ),
            (
                "echo 'Name Version Rev Tracking Publisher Notes'; echo '--all 1 2 - x -'",
                "nonsense",
            ),
            (
                "echo 'Name Version Rev Tracking Publisher Notes'; echo 'a 1 unset - x -'",
                "nonsense",
            ),
        ] {
            machine.program("snap", script);
            let why = read(&machine.tools(&abort)).unwrap_err().0;
            assert!(why.contains(words), "{script}: {why}");
        }
    }
}
