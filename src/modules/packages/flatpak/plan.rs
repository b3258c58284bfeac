//! Comparing two machines' flatpak, installation by installation.
//!
//! Remotes, keys and filters follow from the software that comes from them. A remote is its address and
//! how it is checked, never its name: on two machines the same name may stand for different places.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::state::{Installed, Remote, SYSTEM, Scope, State};
use crate::change::{Action, Change};
use crate::modules::packages::bytes::Bytes;
use crate::modules::packages::item::{Draft, Item, Settled, Verb, View};
use crate::modules::packages::people::Person;
use crate::modules::packages::tools::redact;

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

struct Both<'a> {
    view: &'a View<'a>,
    source: State,
    target: State,
}

/// One installation on both machines.
struct Pair<'b> {
    name: &'b str,
    source: Scope,
    target: Scope,
}

impl<'a> Both<'a> {
    fn of(view: &'a View<'a>) -> Result<Self, String> {
        let parse = |value: &Value, name: &str| {
            State::deserialize(value).map_err(|e| format!("the answer of {name}'s flatpak: {e}"))
        };
        Ok(Self {
            source: parse(view.source, view.names.0)?,
            target: parse(view.target, view.names.1)?,
            view,
        })
    }

    /// Installations that this module brings together, and a line about each that it does not.
    fn pairs(&self) -> (Vec<Pair<'_>>, Vec<String>) {
        let (mut pairs, mut notes) = (Vec::new(), Vec::new());
        let names: BTreeSet<&String> = (self.source.scopes.keys())
            .chain(self.target.scopes.keys())
            .collect();
        for name in names {
            let scope = |state: &State| state.scopes.get(name).cloned().unwrap_or_default();
            let (source, target) = (scope(&self.source), scope(&self.target));
            let store = [&source.store, &target.store]
                .into_iter()
                .find(|store| !store.is_empty());
            if let Some(folder) = store.and_then(|store| self.view.rules.mirrored.folder_of(store))
            {
                notes.push(format!(
                    "{name}: {} travels with {folder}, whose filter does not exclude it",
                    store.expect("just found")
                ));
                continue;
            }
            if name != SYSTEM && !self.target.people.contains_key(name) {
                notes.push(format!(
                    "{name}: there is no such person on {}",
                    self.view.names.1
                ));
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

/// What may be done, and what is only told.
pub fn draft(view: &View<'_>) -> Result<Draft, String> {
    let both = Both::of(view)?;
    let (pairs, notes) = both.pairs();
    let mut draft = Draft {
        notes,
        ..Draft::default()
    };
    for pair in &pairs {
        let text = |name: &str| format!("{}{}", short(name), whose(pair.name));
        for (name, installed) in pair.source.asked() {
            let id = id(pair.name, name);
            if pair.target.refs.contains_key(name) || view.marked.contains(&id) {
                continue;
            }
            if let Some(pattern) = view.rules.left_alone.matching(application(name)) {
                let why = format!("left alone: it belongs to the machine ({pattern})");
                draft
                    .items
                    .push(Item::told(id, Verb::Install, text(name), why));
                continue;
            }
            let item = match places(pair, installed) {
                Ok(places) => {
                    let remote = &pair.source.remotes[&installed.origin];
                    let text = format!("{} from {}", text(name), redact(&remote.url));
                    let mut item = Item::asked(id, Verb::Install, text);
                    if places.iter().any(|place| !place.verify) {
                        (item.consequences)
                            .push("its place is not verified by signatures".to_owned());
                    }
                    item
                }
                Err(why) => Item::told(id, Verb::Install, text(name), why),
            };
            draft.items.push(item);
        }
        for (name, _) in pair.target.asked() {
            let id = id(pair.name, name);
            if pair.source.refs.contains_key(name) || view.marked.contains(&id) {
                continue;
            }
            draft
                .items
                .push(match view.rules.left_alone.matching(application(name)) {
                    Some(pattern) => {
                        let why = format!("left alone: it belongs to the machine ({pattern})");
                        Item::told(id, Verb::Remove, text(name), why)
                    }
                    None => Item::asked(id, Verb::Remove, text(name)),
                });
        }
        for (name, installed) in pair.source.asked() {
            let Some(there) = pair.target.refs.get(name) else {
                continue;
            };
            let address = |scope: &Scope, origin: &str| {
                (scope.remotes.get(origin)).map(|remote| remote.address().to_owned())
            };
            let ours = address(&pair.source, &installed.origin);
            let theirs = address(&pair.target, &there.origin);
            if let (Some(ours), Some(theirs)) = (ours, theirs)
                && ours != theirs
            {
                draft.notes.push(format!(
                    "{}: from {} on {}, from {} on {}; left as it is",
                    text(name),
                    redact(&ours),
                    view.names.0,
                    redact(&theirs),
                    view.names.1
                ));
            }
        }
    }
    Ok(draft)
}

/// A remote of the target that is, or will be, one of the source's.
struct Place {
    name: String,
    verify: bool,
    /// What must be done for it.
    work: Option<RemoteWork>,
}

/// Where an app comes from on the target, and what it runs on: the first is its own place.
fn places(pair: &Pair<'_>, installed: &Installed) -> Result<Vec<Place>, String> {
    let mut places = vec![place(pair, &installed.origin)?];
    let runtime = (installed.runtime.as_ref()).map(|runtime| format!("runtime/{runtime}"));
    if let Some(runtime) = runtime
        && !pair.target.refs.contains_key(&runtime)
        && let Some(base) = pair.source.refs.get(&runtime)
        && base.origin != installed.origin
    {
        places.push(place(pair, &base.origin)?);
    }
    Ok(places)
}

fn place(pair: &Pair<'_>, origin: &str) -> Result<Place, String> {
    let ours = (pair.source.remotes.get(origin))
        .filter(|remote| super::state::is_address(&remote.url))
        .ok_or("no remote offers it: it was installed from a file; install it there by hand")?;
    if ours.disabled {
        return Err(format!("its remote {origin} is switched off"));
    }
    if !ours.filter.is_empty() && ours.filter_content.is_none() {
        return Err(format!(
            "the filter of {origin} ({}) cannot be read",
            ours.filter
        ));
    }
    let is_same =
        |theirs: &Remote| theirs.address() == ours.address() && theirs.subset == ours.subset;
    let same = (pair.target.remotes.get_key_value(origin))
        .filter(|(_, theirs)| is_same(theirs))
        .or_else(|| {
            pair.target
                .remotes
                .iter()
                .find(|(_, theirs)| is_same(theirs))
        });
    if let Some((name, theirs)) = same {
        return Ok(Place {
            name: name.clone(),
            verify: theirs.verify || ours.verify,
            work: adapted(name, theirs, ours),
        });
    }
    let taken = pair.target.remotes.get(origin);
    if taken.is_some() {
        let user = (pair.target.asked())
            .find(|(name, there)| there.origin == origin && !pair.source.refs.contains_key(*name));
        if let Some((name, _)) = user {
            return Err(format!(
                "its remote {origin} is another place there, which {} comes from",
                short(name)
            ));
        }
    }
    Ok(Place {
        name: origin.to_owned(),
        verify: ours.verify,
        work: Some(RemoteWork {
            name: origin.to_owned(),
            exists: taken.is_some(),
            like: ours.clone(),
            enable: taken.is_some_and(|theirs| theirs.disabled),
            unfilter: taken.is_some_and(|t| !t.filter.is_empty()) && ours.filter.is_empty(),
        }),
    })
}

/// What must be done to a remote of the same address, if anything. Checking of signatures is never
/// switched off where it is on.
fn adapted(name: &str, theirs: &Remote, ours: &Remote) -> Option<RemoteWork> {
    let mut like = ours.clone();
    theirs.url.clone_into(&mut like.url);
    if theirs.verify && !ours.verify {
        like.verify = true;
        like.keys.clear();
    }
    if theirs.keys == like.keys {
        like.keys.clear();
    }
    let same_filter = theirs.filter == ours.filter && theirs.filter_content == ours.filter_content;
    let work = RemoteWork {
        name: name.to_owned(),
        exists: true,
        enable: theirs.disabled,
        unfilter: !theirs.filter.is_empty() && ours.filter.is_empty(),
        like,
    };
    let is_needed = work.enable
        || work.unfilter
        || !work.like.keys.is_empty()
        || work.like.verify != theirs.verify
        || !same_filter;
    is_needed.then_some(work)
}

/// What the chosen items come to.
pub fn settle(
    view: &View<'_>,
    draft: &Draft,
    chosen: &BTreeSet<String>,
) -> Result<Settled, String> {
    let both = Both::of(view)?;
    let mut settled = Settled::default();
    let mut all = Work::new();
    let texts: BTreeMap<&str, &str> = (draft.items.iter())
        .map(|item| (item.id.as_str(), item.text.as_str()))
        .collect();
    for pair in &both.pairs().0 {
        let mut work = ScopeWork {
            person: both.target.people.get(pair.name).cloned(),
            ..ScopeWork::default()
        };
        for (name, installed) in pair.source.asked() {
            let id = id(pair.name, name);
            if !chosen.contains(&id) || pair.target.refs.contains_key(name) {
                continue;
            }
            let places = match places(pair, installed) {
                Ok(places) => places,
                Err(why) => {
                    settled.withdrawn.push((id, why));
                    continue;
                }
            };
            let mut names = places.iter().map(|place| place.name.clone());
            work.install.push(Install {
                name: name.clone(),
                remote: names.next().expect("an app has a place"),
                also: names.collect(),
            });
            for remote in places.into_iter().filter_map(|place| place.work) {
                if !work.remotes.iter().any(|r| r.name == remote.name) {
                    work.remotes.push(remote);
                }
            }
            let text = texts.get(id.as_str()).copied().unwrap_or(name);
            settled.changes.push(change(Action::Create, "", text));
        }
        for (name, _) in pair.target.asked() {
            let id = id(pair.name, name);
            if chosen.contains(&id) && !pair.source.refs.contains_key(name) {
                work.remove.push(name.clone());
                let text = texts.get(id.as_str()).copied().unwrap_or(name);
                settled.changes.push(change(Action::Delete, "", text));
            }
        }
        unused_remotes(pair, &mut work);
        patterns(pair, view, &mut work);
        list_plumbing(pair, &work, &mut settled.changes);
        let idle = ScopeWork {
            person: work.person.clone(),
            ..ScopeWork::default()
        };
        if work != idle {
            all.insert(pair.name.to_owned(), work);
        }
    }
    settled.work = if all.is_empty() {
        Value::Null
    } else {
        serde_json::to_value(&all).expect("work is plain data")
    };
    Ok(settled)
}

fn change(action: Action, kind: &str, text: &str) -> Change {
    let gap = if kind.is_empty() { "" } else { " " };
    Change {
        action,
        item: format!("flatpak {kind}{gap}{text}").into_bytes(),
        detail: String::new(),
        from: None,
        bytes: 0,
    }
}

/// Remotes that only the target has go with the last thing of theirs that this run removes.
fn unused_remotes(pair: &Pair<'_>, work: &mut ScopeWork) {
    let goes: BTreeSet<&String> = work.remove.iter().collect();
    for (name, theirs) in &pair.target.remotes {
        let ours = pair.source.remotes.values();
        if pair.source.remotes.contains_key(name)
            || ours
                .into_iter()
                .any(|remote| remote.address() == theirs.address())
        {
            continue;
        }
        let users = |left: bool| {
            (pair.target.refs.iter())
                .any(|(r, there)| there.origin == *name && goes.contains(r) != left)
        };
        if users(false) && !users(true) {
            work.drop.push(name.clone());
        }
    }
}

/// Masks and pins are the source's, but those that speak of what only one machine has stay there.
fn patterns(pair: &Pair<'_>, view: &View<'_>, work: &mut ScopeWork) {
    let comes: BTreeSet<&str> = work.install.iter().map(|i| i.name.as_str()).collect();
    let goes: BTreeSet<&String> = work.remove.iter().collect();
    let is_marked = |pattern: &str| {
        view.marked.iter().any(|id| {
            (id.strip_prefix(pair.name).map(str::trim_start))
                .is_some_and(|name| pattern == application(name) || pattern == name)
        })
    };
    for pin in pair.source.pins.difference(&pair.target.pins) {
        // One that names a single thing is how flatpak notes that somebody asked for it.
        let names_one = super::state::is_ref(pin) && !pin.contains('*');
        if is_marked(pin)
            || names_one
                && pair.source.refs.contains_key(pin)
                && !pair.target.refs.contains_key(pin)
                && !comes.contains(pin.as_str())
        {
            continue;
        }
        work.pin.push(pin.clone());
    }
    for pin in pair.target.pins.difference(&pair.source.pins) {
        let stays = pair.target.refs.contains_key(pin)
            && !pair.source.refs.contains_key(pin)
            && !goes.contains(pin);
        if !is_marked(pin) && !stays {
            work.unpin.push(pin.clone());
        }
    }
    let unlike = |a: &Scope, b: &Scope| -> Vec<String> {
        (a.masks.difference(&b.masks))
            .filter(|mask| !is_marked(mask))
            .cloned()
            .collect()
    };
    work.mask = unlike(&pair.source, &pair.target);
    work.unmask = unlike(&pair.target, &pair.source);
}

fn list_plumbing(pair: &Pair<'_>, work: &ScopeWork, changes: &mut Vec<Change>) {
    let whose = whose(pair.name);
    for remote in &work.remotes {
        let action = if remote.exists {
            Action::Change
        } else {
            Action::Create
        };
        let text = format!("{}{whose} {}", remote.name, redact(&remote.like.url));
        let mut line = change(action, "remote", &text);
        let users: Vec<&str> = (work.install.iter())
            .filter(|i| i.remote == remote.name || i.also.contains(&remote.name))
            .map(|i| application(&i.name))
            .collect();
        line.detail = format!("for {}", users.join(", "));
        if !remote.like.verify {
            line.detail.push_str("; not verified by signatures");
        }
        if remote.unfilter {
            line.detail.push_str("; without its filter");
        }
        changes.push(line);
    }
    for remote in &work.drop {
        changes.push(change(
            Action::Delete,
            "remote",
            &format!("{remote}{whose}"),
        ));
    }
    let lists = [
        (&work.unmask, "no mask"),
        (&work.mask, "mask"),
        (&work.unpin, "no pin"),
        (&work.pin, "pin"),
    ];
    for (patterns, kind) in lists {
        for pattern in patterns {
            changes.push(change(
                Action::Attributes,
                kind,
                &format!("{pattern}{whose}"),
            ));
        }
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
