//! What the chosen items come to, installation by installation, with the remotes, pins and masks they need.

use std::collections::{BTreeMap, BTreeSet};

use super::remotes::{places, unused_remotes};
use super::{Install, Pair, ScopeWork, Work, application, id, pairs, whose};
use crate::change::{Action, Change};
use crate::modules::packages::flatpak::state::{Scope, State, is_ref};
use crate::modules::packages::item::{self, Item, Settled, View};
use crate::modules::packages::tools::redact;

/// What the chosen items come to.
#[must_use]
pub fn settle(view: &View<'_, State>, items: &[Item], chosen: &BTreeSet<String>) -> Settled<Work> {
    let mut settled = Settled::<Work>::default();
    let texts: BTreeMap<&str, &str> = (items.iter())
        .map(|item| (item.id.as_str(), item.text.as_str()))
        .collect();
    for pair in &pairs(view).0 {
        let mut work = ScopeWork {
            person: view.target.people.get(pair.name).cloned(),
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
            settled.work.insert(pair.name.to_owned(), work);
        }
    }
    settled
}

fn change(action: Action, kind: &str, text: &str) -> Change {
    let gap = if kind.is_empty() { "" } else { " " };
    item::change("flatpak", action, &format!("{kind}{gap}{text}"))
}

/// Masks and pins are the source's, but those that speak of what only one machine has stay there.
fn patterns(pair: &Pair<'_>, view: &View<'_, State>, work: &mut ScopeWork) {
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
        let names_one = is_ref(pin) && !pin.contains('*');
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
