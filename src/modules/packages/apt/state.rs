//! What planning needs to know of one machine's apt.

mod read;

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

pub use self::read::{lock_holder, manual, owners, read, read_labels_and_sources};
use super::names::{foreign_architecture, is_architecture, is_name, is_version};
use super::sources;
use crate::modules::packages::bytes::Bytes;

/// Directories whose files apt reads as keys that everything is checked against.
pub const TRUSTED: &str = "/etc/apt/trusted.gpg.d";
/// Directory of pins.
pub const PINS: &str = "/etc/apt/preferences.d";
/// Directory of sources.
pub const SOURCES: &str = "/etc/apt/sources.list.d";
/// The one file of sources.
pub const SOURCES_FILE: &str = "/etc/apt/sources.list";
/// The one file of pins.
pub const PINS_FILE: &str = "/etc/apt/preferences";
/// Directories a key may lie in to travel.
pub const KEY_DIRECTORIES: [&str; 3] = ["/etc/apt/keyrings", TRUSTED, "/usr/share/keyrings"];

/// Everything planning needs to know of one machine's apt.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// The machine's own architecture as dpkg names it.
    pub architecture: String,
    /// Further architectures whose packages may be installed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub foreign: Vec<String>,
    /// Installed packages by name, `name:architecture` for foreign ones.
    pub packages: BTreeMap<String, Package>,
    /// Origins, named by number in the packages.
    pub origins: Vec<String>,
    /// Names held although they are not installed.
    pub absent_holds: Vec<String>,
    /// Files of sources.
    pub sources: BTreeMap<String, String>,
    /// Files of pins.
    pub pins: BTreeMap<String, String>,
    /// Keys that sources name, and all in `trusted.gpg.d`.
    pub keys: BTreeMap<String, Key>,
    /// Who the places say they are.
    pub labels: BTreeMap<String, String>,
    /// Who uses dpkg now, if anybody.
    pub locked_by: Option<String>,
    /// Packages that dpkg has not finished with.
    pub unfinished: Vec<String>,
    /// Whether the machine has a subscription to Ubuntu Pro, where there is such a thing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subscribed: Option<bool>,
}

/// One installed package.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Package {
    /// Its version.
    #[serde(rename = "v")]
    pub version: String,
    /// Whether a person asked for it (and not a dependency).
    #[serde(rename = "m", default, skip_serializing_if = "is_false")]
    pub manual: bool,
    /// Whether it is held.
    #[serde(rename = "h", default, skip_serializing_if = "is_false")]
    pub held: bool,
    /// Who offers it, by number in [`State::origins`]; nobody: it was installed by hand.
    #[serde(rename = "o", default, skip_serializing_if = "Vec::is_empty")]
    pub origins: Vec<u16>,
    /// Foreign architectures that it names in what it needs.
    #[serde(rename = "a", default, skip_serializing_if = "Vec::is_empty")]
    pub needs: Vec<String>,
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde asks for a reference"
)]
fn is_false(value: &bool) -> bool {
    !value
}

/// A key file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Key {
    /// Its content.
    pub content: Bytes,
    /// The package it belongs to, if any: then it is that package's business.
    pub package: Option<String>,
}

impl State {
    /// What of it no dpkg can have said, if anything.
    #[must_use]
    pub fn nonsense(&self) -> Option<String> {
        let bad = (self.foreign.iter())
            .chain(self.packages.values().flat_map(|package| &package.needs))
            .find(|architecture| !is_architecture(architecture));
        if let Some(bad) = bad {
            return Some(format!("names the architecture {bad}"));
        }
        (self.packages.iter()).find_map(|(name, package)| {
            if !is_name(name) {
                Some(format!("names {name}"))
            } else if !is_version(&package.version) {
                Some(format!("names {name} {}", package.version))
            } else {
                None
            }
        })
    }

    /// Names of the origins of an installed package.
    pub fn origins_of<'a>(&'a self, package: &'a Package) -> impl Iterator<Item = &'a str> {
        (package.origins.iter())
            .filter_map(|&number| self.origins.get(usize::from(number)))
            .map(String::as_str)
    }

    /// The origins that are the distribution's own: declared in one of its files, not under a
    /// vendor's key, and not by a place that says it is somebody else.
    ///
    /// What a place says of itself alone proves nothing: a vendor may call itself the distribution.
    #[must_use]
    pub fn distribution(&self) -> BTreeSet<String> {
        let mut own = BTreeSet::new();
        for (path, text) in &self.sources {
            if !is_distribution_file(path) {
                continue;
            }
            for entry in sources::parse(path, text) {
                let foreign_key = (entry.keys.iter()).any(|key| !is_distribution_key(key))
                    || (entry.signed_by && entry.keys.is_empty());
                if foreign_key {
                    continue;
                }
                for uri in &entry.uris {
                    let origin = sources::origin(uri);
                    let label = self.labels.get(&origin);
                    if label.is_none_or(|label| is_distribution_label(label)) {
                        own.insert(origin);
                    }
                }
            }
        }
        own
    }

    /// Whether packages of an architecture, once it is there, are taken from a place like this.
    #[must_use]
    pub fn takes(&self, architecture: &str, is_it: impl Fn(&str) -> bool) -> bool {
        (self.sources.iter())
            .flat_map(|(path, text)| sources::parse(path, text))
            .filter(|entry| entry.serves(architecture))
            .any(|entry| entry.uris.iter().any(|uri| is_it(&sources::origin(uri))))
    }

    /// Foreign architectures without which a package of this name and needs cannot be installed here.
    #[must_use]
    pub fn lacks_for<'a>(&self, name: &'a str, package: &'a Package) -> BTreeSet<&'a str> {
        (foreign_architecture(name).into_iter())
            .chain(package.needs.iter().map(String::as_str))
            .filter(|wanted| *wanted != self.architecture)
            .filter(|wanted| !self.foreign.iter().any(|there| there == wanted))
            .collect()
    }

    /// Source files that declare `origin`, with their entries for it.
    #[must_use]
    pub fn files_declaring(&self, origin: &str) -> Vec<(&str, Vec<sources::Entry>)> {
        (self.sources.iter())
            .filter_map(|(path, text)| {
                let entries: Vec<_> = (sources::parse(path, text).into_iter())
                    .filter(|entry| entry.uris.iter().any(|uri| sources::origin(uri) == origin))
                    .collect();
                (!entries.is_empty()).then_some((path.as_str(), entries))
            })
            .collect()
    }
}

fn is_distribution_file(path: &str) -> bool {
    let name = path.rsplit('/').next().unwrap_or_default();
    path == SOURCES_FILE
        || matches!(
            name,
            "debian.sources"
                | "ubuntu.sources"
                | "debian.list"
                | "debian-backports.sources"
                | "ubuntu-esm-apps.sources"
                | "ubuntu-esm-infra.sources"
        )
}

fn is_distribution_key(path: &str) -> bool {
    let name = path
        .strip_prefix("/usr/share/keyrings/")
        .unwrap_or_default();
    [
        "debian-archive-",
        "ubuntu-archive-",
        "ubuntu-pro-",
        "ubuntu-cloudimage-",
    ]
    .iter()
    .any(|prefix| name.starts_with(prefix))
}

fn is_distribution_label(label: &str) -> bool {
    let label = label.to_ascii_lowercase();
    [
        "debian",
        "ubuntu",
        "debian backports",
        "ubuntuesm",
        "ubuntuesmapps",
    ]
    .contains(&label.as_str())
}

/// Whether `origin` gives packages only to machines with a subscription; its index is everybody's.
#[must_use]
pub fn is_for_subscribers(origin: &str) -> bool {
    origin.starts_with("esm.ubuntu.com/")
}

/// Whether a key lies where keys may travel to.
#[must_use]
pub fn is_key_path(path: &str) -> bool {
    KEY_DIRECTORIES.iter().any(|directory| {
        (path.strip_prefix(directory))
            .and_then(|rest| rest.strip_prefix('/'))
            .is_some_and(|name| sources::is_read(name, &["gpg", "asc", "pgp", "key"]))
    })
}
