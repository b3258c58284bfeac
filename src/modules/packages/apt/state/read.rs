//! What an agent reads of apt on its machine, all of it in one go.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;

use rustix::process::{Flock, FlockType, fcntl_getlk};

use super::{Key, PINS, PINS_FILE, Package, SOURCES, SOURCES_FILE, State, TRUSTED, is_key_path};
use crate::escape::escape_str;
use crate::modules::packages::answer::{Answer, Silence};
use crate::modules::packages::apt::names::own_name;
use crate::modules::packages::apt::{architectures, policy, sources};
use crate::modules::packages::bytes::Bytes;
use crate::modules::packages::tools::{ASK, Tools, failed};

/// Largest file of `/etc/apt`, and key, that is read.
const FILE_LIMIT: u64 = 256 << 10;
/// Names in one question, well below what a command line may hold.
const NAMES_A_CALL: usize = 4000;

/// Reads it.
pub fn read(tools: &Tools<'_>) -> Answer<State> {
    if !tools.has("apt-get") || !tools.has("dpkg-query") {
        return Answer::Absent;
    }
    read_all(tools).into()
}

fn read_all(tools: &Tools<'_>) -> Result<State, Silence> {
    let mut state = State {
        architecture: architectures::own(tools)?,
        foreign: architectures::foreign(tools)?,
        locked_by: lock_holder(tools)?,
        ..State::default()
    };
    read_dpkg(tools, &mut state)?;
    let marks = read_marks(tools, &state.architecture)?;
    read_policies(tools, &mut state)?;
    let files = read_files(tools)?;
    for name in marks.manual {
        if let Some(package) = state.packages.get_mut(&name) {
            package.manual = true;
        }
    }
    for name in marks.held {
        if !state.packages.contains_key(&name) {
            state.absent_holds.push(name);
        }
    }
    Ok(State {
        labels: marks.labels,
        sources: files.sources,
        pins: files.pins,
        keys: files.keys,
        subscribed: files.subscribed,
        ..state
    })
}

/// What apt itself has noted.
struct Noted {
    manual: Vec<String>,
    held: Vec<String>,
    labels: BTreeMap<String, String>,
}

fn read_marks(tools: &Tools<'_>, architecture: &str) -> Result<Noted, Silence> {
    Ok(Noted {
        manual: manual(tools, architecture)?,
        // Not from dpkg: without being asked by name it is silent about what it has never had.
        held: marked(tools, "showhold", architecture)?,
        labels: labels(tools)?,
    })
}

/// Only what of the state is in files, or is about them.
fn read_files(tools: &Tools<'_>) -> Result<State, Silence> {
    let mut state = State::default();
    read_sources(tools, &mut state)?;
    read_pins(tools, &mut state)?;
    read_keys(tools, &mut state)?;
    state.subscribed = subscribed(tools);
    Ok(state)
}

/// Who the places say they are.
fn labels(tools: &Tools<'_>) -> Result<BTreeMap<String, String>, Silence> {
    let text = tools.ask(&["apt-cache", "policy"])?;
    if !text.starts_with("Package files:") {
        return Err(Silence(
            "`apt-cache policy` named no package files, not even dpkg's".to_owned(),
        ));
    }
    Ok(policy::parse_labels(&text))
}

/// Only whether: what else the program says (whose, until when) is nobody's business here.
fn subscribed(tools: &Tools<'_>) -> Option<bool> {
    if !tools.has("pro") {
        return None;
    }
    let text = tools.ask(&["pro", "status", "--format", "json"]).ok()?;
    let status: serde_json::Value = serde_json::from_str(&text).ok()?;
    status["attached"].as_bool()
}

/// Names of what somebody asked for. That nobody asked for anything cannot be: a system is not there by itself.
pub fn manual(tools: &Tools<'_>, architecture: &str) -> Result<Vec<String>, Silence> {
    let names = marked(tools, "showmanual", architecture)?;
    if names.is_empty() {
        return Err(Silence(
            "`apt-mark showmanual` named no package, which cannot be".to_owned(),
        ));
    }
    Ok(names)
}

/// What `apt-mark` lists, a name a line.
fn marked(tools: &Tools<'_>, what: &str, architecture: &str) -> Result<Vec<String>, Silence> {
    let text = tools.ask(&["apt-mark", what])?;
    let is_part = |c: char| c.is_ascii_alphanumeric() || "+-.:".contains(c);
    let mut names = Vec::new();
    for name in text.lines().map(str::trim) {
        if !name.chars().all(is_part) {
            let name = escape_str(name);
            return Err(Silence(format!(
                "`apt-mark {what}` printed nonsense: {name}"
            )));
        }
        names.push(own_name(name, architecture).to_owned());
    }
    Ok(names)
}

fn read_dpkg(tools: &Tools<'_>, state: &mut State) -> Result<(), Silence> {
    let mut format =
        "${Package}\t${Architecture}\t${Version}\t${db:Status-Want}\t${db:Status-Status}\t"
            .to_owned();
    // Only where there can be something foreign in it: it is long.
    if !state.foreign.is_empty() {
        format.push_str("${Pre-Depends}, ${Depends}\t${Provides}\t${Multi-Arch}");
    }
    format.push('\n');
    let columns = format.split('\t').count();
    let argv = ["dpkg-query", "--show", "--showformat", &format];
    let answer = tools.ask(&argv)?;
    let mut said_of = BTreeMap::new();
    let nonsense = |line: &str| {
        let line = escape_str(line);
        Silence(format!("`dpkg-query --show` printed nonsense: {line}"))
    };
    for line in answer.lines() {
        let fields: Vec<&str> = line.split('\t').collect();
        let [name, arch, version, want, status, ref said @ ..] = fields[..] else {
            return Err(nonsense(line));
        };
        if fields.len() != columns {
            return Err(nonsense(line));
        }
        let full = format!("{name}:{arch}");
        let name = own_name(&full, &state.architecture).to_owned();
        let held = want == "hold";
        match status {
            "installed" | "triggers-pending" | "triggers-awaited" => {
                let package = Package {
                    version: version.to_owned(),
                    held,
                    ..Package::default()
                };
                if let [depends, provides, multi] = said[..] {
                    let said = architectures::Said {
                        depends,
                        provides,
                        serves_all: multi == "foreign",
                    };
                    said_of.insert(name.clone(), said);
                }
                state.packages.insert(name, package);
            }
            "not-installed" | "config-files" => {
                if held {
                    state
                        .absent_holds
                        .push(name.trim_end_matches(':').to_owned());
                }
            }
            _ => state.unfinished.push(name),
        }
    }
    if state.packages.is_empty() {
        return Err(Silence(
            "`dpkg-query --show` named no installed package, which cannot be".to_owned(),
        ));
    }
    let foreign = state.foreign.clone();
    for (name, architecture) in architectures::needs(&said_of, &foreign) {
        if let Some(package) = state.packages.get_mut(name) {
            package.needs.push(architecture.to_owned());
        }
    }
    Ok(())
}

fn read_policies(tools: &Tools<'_>, state: &mut State) -> Result<(), Silence> {
    let names: Vec<String> = state.packages.keys().cloned().collect();
    let mut numbers: BTreeMap<String, u16> = BTreeMap::new();
    let mut answered = BTreeSet::new();
    for chunk in names.chunks(NAMES_A_CALL) {
        let mut argv = vec!["apt-cache", "policy"];
        argv.extend(chunk.iter().map(String::as_str));
        let policies = policy::parse(&tools.ask(&argv)?);
        for (name, policy) in policies {
            let name = own_name(&name, &state.architecture);
            let Some(package) = state.packages.get_mut(name) else {
                continue;
            };
            answered.insert(name.to_owned());
            for origin in policy.installed_origins() {
                let next = numbers.len();
                let number = if let Some(number) = numbers.get(&origin) {
                    *number
                } else {
                    let number = u16::try_from(next)
                        .map_err(|_| Silence("apt knows more than 65535 origins".to_owned()))?;
                    numbers.insert(origin.clone(), number);
                    state.origins.push(origin);
                    number
                };
                package.origins.push(number);
            }
        }
    }
    // A package that apt said nothing about would look as if it had been installed by hand.
    if let Some(name) = names.iter().find(|name| !answered.contains(*name)) {
        return Err(Silence(format!(
            "`apt-cache policy` said nothing of {}",
            escape_str(name)
        )));
    }
    Ok(())
}

fn text_file(tools: &Tools<'_>, path: &str) -> Result<Option<String>, Silence> {
    let Some(bytes) = tools.read_linked(path, FILE_LIMIT)? else {
        return Ok(None);
    };
    let text = String::from_utf8(bytes).map_err(|_| Silence(format!("{path} is not UTF-8")))?;
    Ok(Some(text))
}

fn read_parts(
    tools: &Tools<'_>,
    file: &str,
    directory: &str,
    endings: &[&str],
) -> Result<BTreeMap<String, String>, Silence> {
    let mut files = BTreeMap::new();
    if let Some(text) = text_file(tools, file)? {
        files.insert(file.to_owned(), text);
    }
    for name in tools.names(directory)? {
        if sources::is_read(&name, endings) {
            let path = format!("{directory}/{name}");
            if let Some(text) = text_file(tools, &path)? {
                files.insert(path, text);
            }
        }
    }
    Ok(files)
}

fn read_sources(tools: &Tools<'_>, state: &mut State) -> Result<(), Silence> {
    state.sources = read_parts(tools, SOURCES_FILE, SOURCES, &["list", "sources"])?;
    Ok(())
}

/// Only what tells the distribution's places from others.
pub fn read_labels_and_sources(tools: &Tools<'_>) -> Result<State, Silence> {
    let mut state = State {
        labels: labels(tools)?,
        ..State::default()
    };
    read_sources(tools, &mut state)?;
    Ok(state)
}

fn read_pins(tools: &Tools<'_>, state: &mut State) -> Result<(), Silence> {
    state.pins = read_parts(tools, PINS_FILE, PINS, &["", "pref"])?;
    Ok(())
}

fn read_keys(tools: &Tools<'_>, state: &mut State) -> Result<(), Silence> {
    let mut paths: BTreeSet<String> = (state.sources.iter())
        .flat_map(|(path, text)| sources::parse(path, text))
        .flat_map(|entry| entry.keys)
        .filter(|path| is_key_path(path))
        .collect();
    for name in tools.names(TRUSTED)? {
        if sources::is_read(&name, &["gpg", "asc"]) {
            paths.insert(format!("{TRUSTED}/{name}"));
        }
    }
    for path in &paths {
        if let Some(content) = tools.read_linked(path, FILE_LIMIT)? {
            let key = Key {
                content: Bytes(content),
                package: None,
            };
            state.keys.insert(path.clone(), key);
        }
    }
    let owners = owners(tools, state.keys.keys().map(String::as_str))?;
    for (path, package) in owners {
        if let Some(key) = state.keys.get_mut(&path) {
            key.package = Some(package);
        }
    }
    Ok(())
}

/// Which package owns which of these paths.
///
/// dpkg says "no path found" and ends with 1 when one of many is nobody's; that it answered at all is
/// seen from a path that dpkg itself owns.
pub fn owners<'a>(
    tools: &Tools<'_>,
    paths: impl IntoIterator<Item = &'a str>,
) -> Result<BTreeMap<String, String>, Silence> {
    const WITNESS: &str = "/usr/bin/dpkg";
    let paths: Vec<&str> = paths.into_iter().collect();
    let mut owners = BTreeMap::new();
    for chunk in paths.chunks(NAMES_A_CALL / 4) {
        let mut argv = vec!["dpkg-query", "--search", WITNESS];
        argv.extend(chunk);
        let done = tools.run(&argv, ASK)?;
        let text = String::from_utf8_lossy(&done.stdout).into_owned();
        if !text.lines().any(|line| line.ends_with(": /usr/bin/dpkg")) {
            return Err(failed(&argv, &done));
        }
        for line in text.lines() {
            if let Some((package, path)) = line.split_once(": ")
                && !line.starts_with("diversion by")
            {
                owners.insert(path.to_owned(), package.to_owned());
            }
        }
    }
    owners.remove(WITNESS);
    Ok(owners)
}

/// Who holds the lock that every program changing packages takes, if anybody does.
pub fn lock_holder(tools: &Tools<'_>) -> Result<Option<String>, Silence> {
    for path in ["/var/lib/dpkg/lock-frontend", "/var/lib/dpkg/lock"] {
        let file = match File::options().read(true).write(true).open(tools.at(path)) {
            Ok(file) => file,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => continue,
            Err(e) => return Err(Silence(format!("cannot look at the lock {path}: {e}"))),
        };
        let lock = Flock::from(FlockType::WriteLock);
        let held = fcntl_getlk(&file, &lock)
            .map_err(|e| Silence(format!("cannot look at the lock {path}: {e}")))?;
        if let Some(held) = held {
            let Some(pid) = held.pid else {
                return Ok(Some("another program".to_owned()));
            };
            let pid = pid.as_raw_nonzero();
            let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            return Ok(Some(format!("{} (process {pid})", escape_str(name.trim()))));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::interrupt::AbortFlag;
    use crate::modules::packages::testing::FakeMachine;

    #[test]
    fn of_a_subscription_only_whether_there_is_one_is_known() {
        let abort = AbortFlag::new();
        let machine = FakeMachine::new();
        assert_eq!(subscribed(&machine.tools(&abort)), None);
        for (script, expected) in [
            (
                r#"echo '{"attached": true, "account": {"name": "Kim"}}'"#,
                Some(true),
            ),
            (r#"echo '{"attached": false}'"#, Some(false)),
            ("echo '{}'", None),
            ("echo attached", None),
            (r#"echo '{"attached": true}'; exit 1"#, None),
        ] {
            machine.program("pro", script);
            assert_eq!(subscribed(&machine.tools(&abort)), expected, "{script}");
        }
    }

    #[test]
    fn what_is_held_or_half_there_is_installed_or_not_by_dpkgs_own_word() {
        let machine = FakeMachine::new();
        machine.program(
            "dpkg-query",
            r"printf '%s\n' 'held\tall\t1\thold\tinstalled\t' 'waits\tall\t1\tinstall\ttriggers-pending\t' \
              'removed\tall\t1\tdeinstall\tconfig-files\t' 'half\tall\t1\tinstall\thalf-configured\t' | sed 's/\\t/\t/g'",
        );
        let abort = AbortFlag::new();
        let mut state = State::default();
        read_dpkg(&machine.tools(&abort), &mut state).unwrap();
        let names: Vec<&str> = state.packages.keys().map(String::as_str).collect();
        assert_eq!(names, ["held", "waits"]);
        assert!(state.packages["held"].held && !state.packages["waits"].held);
        assert_eq!(state.unfinished, ["half"]);
    }
}
