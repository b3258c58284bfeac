//! Comparing two machines' flatpak, installation by installation.
//!
//! Remotes, keys and filters follow from the software that comes from them. A remote is its address and
//! how it is checked, never its name: on two machines the same name may stand for different places.

mod draft;
mod remotes;
mod settle;

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

pub use self::draft::draft;
pub use self::settle::settle;
use super::state::{Remote, SYSTEM, Scope, State};
use crate::modules::packages::bytes::Bytes;
use crate::modules::packages::item::View;
use crate::modules::packages::people::Person;

/// What the target's agent is to do, by installation.
pub type Work = BTreeMap<String, ScopeWork>;

/// The same in one installation, in this order.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScopeWork {
    /// Whose it is; nobody's: the system's.
    pub person: Option<Person>,
    /// Remotes that come or change.
    pub remotes: Vec<RemoteWork>,
    /// Masks that would be in the way.
    pub unmask: Vec<String>,
    /// What comes.
    pub install: Vec<Install>,
    /// What goes.
    pub remove: Vec<String>,
    /// Remotes that go, if nothing uses them then.
    pub drop: Vec<String>,
    /// Pins that go.
    pub unpin: Vec<String>,
    /// Pins that come.
    pub pin: Vec<String>,
    /// Masks that come.
    pub mask: Vec<String>,
}

/// One app or runtime that comes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Install {
    /// Its whole name.
    pub name: String,
    /// The target's name of the remote it comes from.
    pub remote: String,
    /// Remotes it needs besides, for what it runs on.
    pub also: Vec<String>,
}

/// One remote that comes or changes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemoteWork {
    /// Its name on the target.
    pub name: String,
    /// Whether it is there already.
    pub exists: bool,
    /// As the source has it.
    pub like: Remote,
    /// Whether it must be switched on.
    pub enable: bool,
    /// Whether a filter that it has there must go.
    pub unfilter: bool,
}

/// One installation on both machines.
struct Pair<'a> {
    name: &'a str,
    source: Scope,
    target: Scope,
}

/// Installations that this module brings together, and a line about each that it does not.
fn pairs<'a>(view: &View<'a, State>) -> (Vec<Pair<'a>>, Vec<String>) {
    let (mut pairs, mut notes) = (Vec::new(), Vec::new());
    let names: BTreeSet<&String> = (view.source.scopes.keys())
        .chain(view.target.scopes.keys())
        .collect();
    for name in names {
        let scope = |state: &State| state.scopes.get(name).cloned().unwrap_or_default();
        let (source, target) = (scope(view.source), scope(view.target));
        let store = [&source.store, &target.store]
            .into_iter()
            .find(|store| !store.is_empty());
        if let Some(folder) = store.and_then(|store| view.rules.mirrored.folder_of(store)) {
            notes.push(format!(
                "{name}: {} travels with {folder}, whose filter does not exclude it",
                store.expect("just found")
            ));
            continue;
        }
        // Who is not there (or whose home is not, today) has not said that they want nothing.
        let lacks = [(view.target, view.names.1), (view.source, view.names.0)]
            .into_iter()
            .find(|(state, _)| name != SYSTEM && !state.people.contains_key(name));
        if let Some((_, host)) = lacks {
            notes.push(format!("{name}: there is no such person on {host}"));
            continue;
        }
        // Nor does a place that is not there: with what is on another disk, say, that is not mounted today.
        if name == SYSTEM && !view.source.scopes.contains_key(name) {
            if target.asked().next().is_some() {
                notes.push(format!(
                    "{name}: {} has no {}, so what {} has there stays",
                    view.names.0, target.store, view.names.1
                ));
            }
            continue;
        }
        pairs.push(Pair {
            name,
            source,
            target,
        });
    }
    (pairs, notes)
}

fn id(scope: &str, name: &str) -> String {
    format!("{scope} {name}")
}

/// `org.x.App stable` of `app/org.x.App/x86_64/stable`, with the architecture where it is not usual.
fn short(name: &str) -> String {
    let parts: Vec<&str> = name.split('/').collect();
    match parts[..] {
        [kind, app, arch, branch] => {
            let mut text = format!("{app} {branch}");
            if arch != std::env::consts::ARCH {
                text = format!("{text} {arch}");
            }
            if kind == "runtime" {
                text = format!("{text} (runtime)");
            }
            text
        }
        _ => name.to_owned(),
    }
}

fn application(name: &str) -> &str {
    name.split('/').nth(1).unwrap_or_default()
}

/// For whom, where it is not for everybody.
fn whose(scope: &str) -> String {
    match scope.strip_prefix("user ") {
        Some(person) => format!(" for {person}"),
        None => String::new(),
    }
}

/// The filter's content and path, if the remote has one.
#[must_use]
pub fn filter_of(remote: &Remote) -> Option<(&str, &Bytes)> {
    let content = remote.filter_content.as_ref()?;
    (!remote.filter.is_empty()).then_some((remote.filter.as_str(), content))
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
