//! What an agent reads of flatpak on its machine: the system's installation and each person's.
//!
//! Which software there is, flatpak itself says. What it does not print (keys, whether signatures are
//! checked) is in the configuration of its repository, which is only read. What belongs to a person is
//! read with that person's rights.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::escape::escape_str;
use crate::modules::packages::answer::{Answer, Silence};
use crate::modules::packages::bytes::Bytes;
use crate::modules::packages::people::{Person, people};
use crate::modules::packages::tools::{ASK, Tools, failed};

/// Name of the scope of the whole machine.
pub const SYSTEM: &str = "system";

/// Where the system's installation is.
const SYSTEM_STORE: &str = "/var/lib/flatpak";
/// Where a person's is, in the home.
const PERSON_STORE: &str = ".local/share/flatpak";
/// Keys that everything may be checked with which has none of its own.
const COMMON_KEYS: &str = "/usr/share/ostree/trusted.gpg.d";

/// Largest configuration, filter or key that is read.
const FILE_LIMIT: u64 = 256 << 10;
/// Most files of keys of one remote.
const MOST_KEYS: usize = 64;
/// Most characters of a name or an address.
const MAX_WORD: usize = 2048;

/// Everything planning needs to know of one machine's flatpak.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// Installations by name: `system`, `user NAME`.
    pub scopes: BTreeMap<String, Scope>,
    /// People who could have one, by the name of their scope.
    pub people: BTreeMap<String, Person>,
}

/// One installation.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scope {
    /// Where it is.
    pub store: String,
    /// Remotes by name.
    pub remotes: BTreeMap<String, Remote>,
    /// What is installed, by its whole name (`app/org.x.App/x86_64/stable`).
    pub refs: BTreeMap<String, Installed>,
    /// Patterns that are never installed or updated.
    pub masks: BTreeSet<String>,
    /// Patterns of runtimes that stay without anything that needs them.
    pub pins: BTreeSet<String>,
}

/// One installed thing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Installed {
    /// Name of the remote it came from.
    pub origin: String,
    /// What an app runs on (`org.x.Platform/x86_64/stable`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runtime: Option<String>,
}

/// One remote.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Remote {
    /// Its address; empty for what was installed from a file.
    pub url: String,
    /// Whether signatures are checked.
    pub verify: bool,
    /// The keys they are checked with.
    pub keys: Vec<Bytes>,
    /// Files and directories of keys that somebody named for it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub key_paths: Vec<String>,
    /// Name of its collection.
    pub collection: String,
    /// The part of it that is used.
    pub subset: String,
    /// Path of a file that says what of it is offered.
    pub filter: String,
    /// Content of that file.
    pub filter_content: Option<Bytes>,
    /// Whether it is switched off.
    pub disabled: bool,
    /// Whether it is not shown in lists.
    pub hidden: bool,
}

impl Scope {
    /// What somebody asked for: apps, and runtimes that are pinned by their whole name.
    pub fn asked(&self) -> impl Iterator<Item = (&String, &Installed)> {
        (self.refs.iter()).filter(|(name, _)| name.starts_with("app/") || self.pins.contains(*name))
    }
}

impl Remote {
    /// The address in a form that can be compared.
    #[must_use]
    pub fn address(&self) -> &str {
        self.url.trim_end_matches('/')
    }
}

/// Reads it.
pub fn read(tools: &Tools<'_>) -> Answer<State> {
    if !tools.has("flatpak") {
        return Answer::Absent;
    }
    read_all(tools).into()
}

fn read_all(tools: &Tools<'_>) -> Result<State, Silence> {
    let version = tools.ask(&["flatpak", "--version"])?;
    if !version.starts_with("Flatpak ") {
        let line = escape_str(version.lines().next().unwrap_or_default());
        return Err(Silence(format!(
            "`flatpak --version` printed nonsense: {line}"
        )));
    }
    let mut state = State::default();
    for person in people(tools)? {
        state.people.insert(format!("user {}", person.name), person);
    }
    let installation = Installation {
        tools,
        person: None,
    };
    if let Some(scope) = installation.read()? {
        state.scopes.insert(SYSTEM.to_owned(), scope);
    }
    for (name, person) in &state.people {
        let installation = Installation {
            tools,
            person: Some(person),
        };
        let scope = installation
            .read()
            .map_err(|why| Silence(format!("for {}: {}", person.name, why.0)))?;
        if let Some(scope) = scope {
            state.scopes.insert(name.clone(), scope);
        }
    }
    Ok(state)
}

/// One installation on this machine: the system's, or a person's.
#[derive(Clone, Copy)]
pub struct Installation<'a> {
    /// The machine.
    pub tools: &'a Tools<'a>,
    /// Whose; nobody's: the system's.
    pub person: Option<&'a Person>,
}

impl Installation<'_> {
    /// Where it is.
    #[must_use]
    pub fn store(&self) -> String {
        match self.person {
            None => SYSTEM_STORE.to_owned(),
            Some(person) => format!("{}/{PERSON_STORE}", person.home),
        }
    }

    /// A command for this installation, run with its owner's rights.
    fn argv(&self, verb: &str, rest: &[&str]) -> Vec<String> {
        let which = if self.person.is_some() {
            "--user"
        } else {
            "--system"
        };
        let all = [&["flatpak", verb, which], rest].concat();
        self.owned(&all)
    }

    fn owned(&self, argv: &[&str]) -> Vec<String> {
        match self.person {
            None => argv.iter().map(|&word| word.to_owned()).collect(),
            Some(person) => person.argv(argv),
        }
    }

    /// What flatpak answers.
    pub fn ask(&self, verb: &str, rest: &[&str]) -> Result<String, Silence> {
        let argv = self.argv(verb, rest);
        let argv: Vec<&str> = argv.iter().map(String::as_str).collect();
        self.tools.ask(&argv)
    }

    /// Lets flatpak change something.
    pub fn act(&self, verb: &str, rest: &[&str]) -> Result<(), Silence> {
        let argv = self.argv(verb, rest);
        let argv: Vec<&str> = argv.iter().map(String::as_str).collect();
        self.tools.act(&argv).map(|_| ())
    }

    /// A file of this installation, read with its owner's rights; nothing if there is none.
    fn file(&self, path: &str) -> Result<Option<Vec<u8>>, Silence> {
        if self.person.is_none() {
            return self.tools.read_linked(path, FILE_LIMIT);
        }
        if !self.tools.at(path).exists() {
            return Ok(None);
        }
        let limit = FILE_LIMIT.to_string();
        let place = self.tools.at(path).to_string_lossy().into_owned();
        let argv = self.owned(&["head", "-c", &limit, "--", &place]);
        let argv: Vec<&str> = argv.iter().map(String::as_str).collect();
        let done = self.tools.run(&argv, ASK)?;
        if done.code() != 0 {
            return Err(failed(&argv, &done));
        }
        Ok(Some(done.stdout))
    }

    /// Everything in it; nothing if there is no such installation.
    pub fn read(&self) -> Result<Option<Scope>, Silence> {
        let store = self.store();
        let Some(config) = self.file(&format!("{store}/repo/config"))? else {
            return Ok(None);
        };
        let config = String::from_utf8(config)
            .map_err(|_| Silence(format!("{store}/repo/config is not UTF-8")))?;
        let mut scope = Scope {
            remotes: parse_config(&config)
                .map_err(|why| Silence(format!("{store}/repo/config: {why}")))?,
            refs: self.refs()?,
            masks: parse_patterns(&self.ask("mask", &[])?)?,
            pins: parse_patterns(&self.ask("pin", &[])?)?,
            store,
        };
        for (name, remote) in &mut scope.remotes {
            self.keys(&scope.store, name, remote)?;
            if !remote.filter.is_empty() {
                remote.filter_content = self.file(&remote.filter)?.map(Bytes);
            }
        }
        Ok(Some(scope))
    }

    /// What is installed.
    pub fn refs(&self) -> Result<BTreeMap<String, Installed>, Silence> {
        let apps = self.ask("list", &["--app", "--columns=ref,origin,runtime"])?;
        let runtimes = self.ask("list", &["--runtime", "--all", "--columns=ref,origin"])?;
        let mut refs = parse_list(&apps, "app", 3)?;
        refs.append(&mut parse_list(&runtimes, "runtime", 2)?);
        Ok(refs)
    }

    fn keys(&self, store: &str, name: &str, remote: &mut Remote) -> Result<(), Silence> {
        if !remote.verify {
            return Ok(());
        }
        let own = format!("{store}/repo/{name}.trustedkeys.gpg");
        remote.keys.extend(self.file(&own)?.map(Bytes));
        for path in &remote.key_paths {
            for path in self.key_files(path)? {
                remote.keys.extend(self.file(&path)?.map(Bytes));
            }
        }
        if !remote.keys.is_empty() {
            return Ok(());
        }
        // One that has no keys of its own is checked with those of the whole machine.
        for name in self.tools.names(COMMON_KEYS)? {
            let path = format!("{COMMON_KEYS}/{name}");
            let ending = name.rsplit_once('.').map(|(_, ending)| ending);
            if matches!(ending, Some("gpg" | "asc")) {
                remote
                    .keys
                    .extend(self.tools.read(&path, FILE_LIMIT)?.map(Bytes));
            }
        }
        Ok(())
    }
}

impl Installation<'_> {
    /// A file of keys itself, or all in a directory of them; a person's directories are not looked into.
    fn key_files(&self, path: &str) -> Result<Vec<String>, Silence> {
        if !self.tools.at(path).is_dir() {
            return Ok(vec![path.to_owned()]);
        }
        if self.person.is_some() {
            return Ok(Vec::new());
        }
        let names = self.tools.names(path)?.into_iter();
        let shown = names.filter(|name| !name.starts_with('.')).take(MOST_KEYS);
        Ok(shown.map(|name| format!("{path}/{name}")).collect())
    }
}

fn nonsense(what: &str, line: &str) -> Silence {
    let mut line = escape_str(line);
    line.truncate(line.floor_char_boundary(200));
    Silence(format!("`flatpak {what}` printed nonsense: {line}"))
}

/// Whether it can be the name of a remote (ostree's own rule), and no option.
#[must_use]
pub fn is_remote_name(name: &str) -> bool {
    let mut chars = name.chars();
    name.len() <= 255
        && chars
            .next()
            .is_some_and(|c| c.is_ascii_alphanumeric() || c == '_')
        && chars.all(|c| c.is_ascii_alphanumeric() || "._-".contains(c))
}

/// Whether it is the whole name of an app or a runtime.
#[must_use]
pub fn is_ref(name: &str) -> bool {
    let parts: Vec<&str> = name.split('/').collect();
    let [kind, id, arch, branch] = parts[..] else {
        return false;
    };
    let is_word = |word: &str| {
        (word.chars().next()).is_some_and(|c| c.is_ascii_alphanumeric() || c == '_')
            && (word.chars()).all(|c| c.is_ascii_alphanumeric() || "._-+".contains(c))
    };
    ["app", "runtime"].contains(&kind)
        && [id, arch, branch].iter().all(|word| is_word(word))
        && name.len() <= 512
}

/// Whether it is an address that a remote may have.
#[must_use]
pub fn is_address(url: &str) -> bool {
    [
        "https://",
        "http://",
        "file://",
        "oci+https://",
        "oci+http://",
    ]
    .iter()
    .any(|scheme| url.starts_with(scheme))
        && url.len() <= MAX_WORD
        && !url.contains(|c: char| c.is_whitespace() || c.is_control())
}

fn parse_list(
    text: &str,
    kind: &str,
    columns: usize,
) -> Result<BTreeMap<String, Installed>, Silence> {
    let mut refs = BTreeMap::new();
    for line in text.lines().filter(|line| !line.trim().is_empty()) {
        let fields: Vec<&str> = line.split('\t').map(str::trim).collect();
        let name = format!("{kind}/{}", fields[0]);
        if fields.len() > columns || fields.len() < 2 || !is_ref(&name) {
            return Err(nonsense("list", line));
        }
        let runtime = (fields.get(2).copied())
            .filter(|runtime| is_ref(&format!("runtime/{runtime}")))
            .map(str::to_owned);
        let origin = fields[1].to_owned();
        refs.insert(name, Installed { origin, runtime });
    }
    Ok(refs)
}

/// Patterns of masks and pins, one a line.
fn parse_patterns(text: &str) -> Result<BTreeSet<String>, Silence> {
    let mut patterns = BTreeSet::new();
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
        if !is_pattern(line) {
            return Err(nonsense("mask", line));
        }
        patterns.insert(line.to_owned());
    }
    Ok(patterns)
}

/// Whether it can be a pattern of a mask or a pin.
#[must_use]
pub fn is_pattern(text: &str) -> bool {
    let is_part = |c: char| c.is_ascii_alphanumeric() || "._-+/*".contains(c);
    !text.is_empty() && text.len() <= 512 && !text.starts_with('-') && text.chars().all(is_part)
}

/// The remotes in the configuration of a repository (`ostree.repo-config(5)`).
fn parse_config(text: &str) -> Result<BTreeMap<String, Remote>, String> {
    let mut remotes: BTreeMap<String, Remote> = BTreeMap::new();
    let mut current: Option<String> = None;
    let mut is_config = false;
    for line in text.lines().map(str::trim) {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if let Some(section) = line.strip_prefix('[').and_then(|l| l.strip_suffix(']')) {
            is_config |= section == "core";
            current = None;
            let Some(name) = section.strip_prefix("remote ") else {
                continue;
            };
            let name = name.trim_matches('"');
            if !is_remote_name(name) {
                return Err(format!("{} is no name of a remote", escape_str(name)));
            }
            current = Some(name.to_owned());
            let remote = Remote {
                verify: true,
                ..Remote::default()
            };
            remotes.insert(name.to_owned(), remote);
            continue;
        }
        let Some((key, value)) = line.split_once('=') else {
            return Err(format!("not understood: {}", escape_str(line)));
        };
        let Some(remote) = current.as_ref().and_then(|name| remotes.get_mut(name)) else {
            continue;
        };
        let value = value.trim();
        if value.len() > MAX_WORD {
            continue;
        }
        let yes = value == "true" || value == "1";
        match key.trim() {
            "url" => value.clone_into(&mut remote.url),
            "gpg-verify" => remote.verify = yes,
            "gpgkeypath" => {
                remote.key_paths = (value.split([';', ',']).map(str::trim))
                    .filter(|path| path.starts_with('/'))
                    .take(MOST_KEYS)
                    .map(str::to_owned)
                    .collect();
            }
            "collection-id" => value.clone_into(&mut remote.collection),
            "xa.subset" => value.clone_into(&mut remote.subset),
            "xa.filter" => value.clone_into(&mut remote.filter),
            "xa.disable" => remote.disabled = yes,
            "xa.noenumerate" => remote.hidden = yes,
            _ => {}
        }
    }
    if !is_config {
        return Err("it has no section [core]".to_owned());
    }
    Ok(remotes)
}

#[cfg(test)]
#[path = "state_tests.rs"]
mod tests;
