//! What the chosen items come to: packages, and what they need of `/etc/apt`.

use std::collections::{BTreeMap, BTreeSet};

use super::places::{declared_by_target, files_for, origins_in, other_keys};
use super::{Both, Install, Work};
use crate::change::{Action, Change};
use crate::escape::escape_str;
use crate::modules::packages::apt::names::foreign_architecture;
use crate::modules::packages::apt::simulate::Forecast;
use crate::modules::packages::apt::state::{SOURCES_FILE, State, is_key_path};
use crate::modules::packages::bytes::Bytes;
use crate::modules::packages::item::{self, Item, Settled, Verb, View};
use crate::modules::packages::list;

/// What the chosen items come to.
#[must_use]
pub fn settle(
    view: &View<'_, State>,
    items: &[Item],
    forecast: &Forecast,
    chosen: &BTreeSet<String>,
) -> Settled<Work> {
    let both = Both::of(view);
    let mut settled = Settled::<Work>::default();
    let work = &mut settled.work;
    let mut needed_by: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for item in items.iter().filter(|item| chosen.contains(&item.id)) {
        let name = &item.id;
        match item.verb {
            Verb::Install => {
                let Some(package) = both.source.packages.get(name) else {
                    continue;
                };
                let vendors = both.our_vendors(package);
                if declared_by_target(&both, name, &vendors) {
                    for (path, key) in other_keys(&both, &vendors) {
                        work.files.insert(path.to_owned(), key.content.clone());
                        let users: &mut Vec<String> = needed_by.entry(path.to_owned()).or_default();
                        users.push(name.clone());
                    }
                } else if !vendors.is_empty() {
                    match add_source(&both, &vendors, work) {
                        Ok(path) => needed_by.entry(path).or_default().push(name.clone()),
                        Err(why) => {
                            settled.withdrawn.push((name.clone(), why));
                            continue;
                        }
                    }
                }
                let lacking: Vec<String> = (both.lacking(name, package).into_iter())
                    .map(str::to_owned)
                    .collect();
                for architecture in &lacking {
                    let users = needed_by.entry(architecture.clone()).or_default();
                    users.push(name.clone());
                }
                work.architectures.extend(lacking.iter().cloned());
                work.install.push(Install {
                    name: name.clone(),
                    needs: lacking,
                    version: package.held.then(|| package.version.clone()),
                    origins: vendors.iter().map(|v| (*v).to_owned()).collect(),
                });
                settled
                    .changes
                    .push(change(Action::Create, "package", &item.text));
            }
            Verb::Remove => {
                work.remove.push(name.clone());
                settled
                    .changes
                    .push(change(Action::Delete, "package", &item.text));
            }
            Verb::Note | Verb::Replace => {
                let manual = both.source.packages.get(name).is_some_and(|p| p.manual);
                let list = if manual {
                    &mut work.manual
                } else {
                    &mut work.auto
                };
                list.push(name.clone());
                settled
                    .changes
                    .push(change(Action::Attributes, "package", &item.text));
            }
        }
        if let Some(effects) = forecast.effects.get(name) {
            work.may_remove.extend(effects.removes.iter().cloned());
        }
    }
    work.along = (forecast.recommended.iter())
        .filter(|name| both.source.packages.contains_key(*name) && !both.is_marked(name))
        .filter(|name| view.rules.left_alone.matching(name).is_none())
        .cloned()
        .collect();
    if work.install.is_empty() {
        work.along.clear();
    }
    work.keep = (both.target.packages.iter())
        .filter(|(name, package)| package.manual || both.is_marked(name))
        .map(|(name, _)| name.clone())
        .collect();
    settle_pins(&both, work);
    settle_unused_sources(&both, work);
    settle_unused_architectures(&both, work);
    settle_holds(&both, work);
    list_plumbing(&both, work, &needed_by, &mut settled.changes);
    settled
}

fn change(action: Action, kind: &str, text: &str) -> Change {
    item::change("apt", action, &format!("{kind} {text}"))
}

/// Puts the source file of a vendor, and its keys, into the work; returns the file's path.
fn add_source(both: &Both<'_>, vendors: &[&str], work: &mut Work) -> Result<String, String> {
    let (path, keys) = files_for(both.source, vendors)?;
    let text = &both.source.sources[path];
    if let Some(theirs) = both.target.sources.get(path)
        && theirs != text
    {
        // Another file of that name: what it declares and ours does not must not be in use there.
        let ours: BTreeSet<String> = origins_in(path, text);
        let lost: BTreeSet<String> = (origins_in(path, theirs).into_iter())
            .filter(|origin| !ours.contains(origin))
            .collect();
        let user = (both.target.packages.iter()).find(|(_, package)| {
            both.target
                .origins_of(package)
                .any(|origin| lost.contains(origin))
        });
        if let Some((name, _)) = user {
            return Err(format!(
                "{path} on {} declares another place, which {} comes from",
                both.view.names.1,
                escape_str(name)
            ));
        }
    }
    if both.target.sources.get(path) != Some(text) {
        work.files
            .insert(path.to_owned(), Bytes(text.clone().into_bytes()));
    }
    for key in keys {
        let ours = &both.source.keys[&key];
        match both.target.keys.get(&key) {
            Some(theirs) if theirs.content == ours.content || theirs.package.is_some() => {}
            _ => {
                work.files.insert(key, ours.content.clone());
            }
        }
    }
    Ok(path.to_owned())
}

/// Pins are the source's, but those that speak of software which only the target has stay.
fn settle_pins(both: &Both<'_>, work: &mut Work) {
    for (path, text) in &both.source.pins {
        if both.target.pins.get(path) != Some(text)
            && !is_about_target(both, both.target.pins.get(path))
        {
            work.files
                .insert(path.clone(), Bytes(text.clone().into_bytes()));
        }
    }
    for (path, text) in &both.target.pins {
        if !both.source.pins.contains_key(path) && !is_about_target(both, Some(text)) {
            work.deletions.push(path.clone());
        }
    }
}

/// Whether a file of pins names a package that the target has and the source has not, or a place that
/// only the target declares.
fn is_about_target(both: &Both<'_>, text: Option<&String>) -> bool {
    let Some(text) = text else {
        return false;
    };
    let only_there: BTreeSet<String> = (both.target.sources.iter())
        .flat_map(|(path, text)| origins_in(path, text))
        .filter(|origin| both.source.files_declaring(origin).is_empty())
        .collect();
    let hosts: BTreeSet<&str> = only_there
        .iter()
        .filter_map(|o| o.split('/').next())
        .collect();
    text.lines().any(|line| {
        let Some((field, value)) = line.split_once(':') else {
            return false;
        };
        match field.trim().to_ascii_lowercase().as_str() {
            "package" => value.split_whitespace().any(|name| {
                // Without an architecture it speaks of those of all of them.
                let foreign = format!("{name}:");
                (both.target.packages.range(foreign.clone()..))
                    .map(|(there, _)| there.as_str())
                    .take_while(|there| there.starts_with(&foreign))
                    .chain([name])
                    .any(|there| {
                        both.target.packages.contains_key(there)
                            && !both.source.packages.contains_key(there)
                    })
            }),
            "pin" => {
                let value = value.trim().strip_prefix("origin").unwrap_or_default();
                let host = value.trim().trim_matches('"');
                !host.is_empty() && hosts.contains(host)
            }
            _ => false,
        }
    })
}

/// A file whose places only the target declares goes when this run removes the last of its packages.
fn settle_unused_sources(both: &Both<'_>, work: &mut Work) {
    let gone: BTreeSet<&String> = work.remove.iter().chain(&work.may_remove).collect();
    for (path, text) in &both.target.sources {
        if path == SOURCES_FILE || both.source.sources.contains_key(path) {
            continue;
        }
        let origins = origins_in(path, text);
        let is_ours = |origin: &String| {
            both.target_own.contains(origin) || !both.source.files_declaring(origin).is_empty()
        };
        if origins.is_empty() || origins.iter().any(is_ours) {
            continue;
        }
        let users = |left: bool| {
            (both.target.packages.iter())
                .filter(|(name, _)| gone.contains(name) != left)
                .any(|(_, p)| both.target.origins_of(p).any(|o| origins.contains(o)))
        };
        if users(false) && !users(true) {
            work.deletions.push(path.clone());
        }
    }
}

/// An architecture that only the target has goes with the last of its packages, if this run removes that.
fn settle_unused_architectures(both: &Both<'_>, work: &mut Work) {
    let gone: BTreeSet<&String> = work.remove.iter().chain(&work.may_remove).collect();
    for architecture in &both.target.foreign {
        let mut users = (both.target.packages.keys())
            .filter(|name| foreign_architecture(name) == Some(architecture))
            .peekable();
        if !both.source.foreign.contains(architecture)
            && users.peek().is_some()
            && users.all(|name| gone.contains(name))
        {
            work.disused.push(architecture.clone());
        }
    }
}

fn settle_holds(both: &Both<'_>, work: &mut Work) {
    let comes: BTreeSet<&str> = work.install.iter().map(|i| i.name.as_str()).collect();
    for (name, package) in &both.source.packages {
        if both.is_marked(name) || both.view.rules.left_alone.matching(name).is_some() {
            continue;
        }
        let there = both.target.packages.get(name);
        let will_be = there.is_some() || comes.contains(name.as_str());
        let held = there.is_some_and(|p| p.held);
        if package.held && !held && will_be {
            work.hold.push(name.clone());
        } else if !package.held && held {
            work.unhold.push(name.clone());
        }
    }
}

fn list_plumbing(
    both: &Both<'_>,
    work: &Work,
    needed_by: &BTreeMap<String, Vec<String>>,
    changes: &mut Vec<Change>,
) {
    for architecture in &work.architectures {
        let mut line = change(Action::Create, "architecture", architecture);
        if let Some(names) = needed_by.get(architecture) {
            line.detail = format!("for {}", list(names));
        }
        changes.push(line);
    }
    for architecture in &work.disused {
        changes.push(change(Action::Delete, "architecture", architecture));
    }
    for path in work.files.keys() {
        let is_there = both.target.sources.contains_key(path)
            || both.target.pins.contains_key(path)
            || both.target.keys.contains_key(path);
        let action = if is_there {
            Action::Change
        } else {
            Action::Create
        };
        let kind = if both.source.pins.contains_key(path) {
            "pin"
        } else if is_key_path(path) {
            "key"
        } else {
            "source"
        };
        let mut line = change(action, kind, path);
        if let Some(names) = needed_by.get(path) {
            line.detail = format!("for {}", list(names));
        }
        changes.push(line);
    }
    for path in &work.deletions {
        changes.push(change(Action::Delete, "file", path));
    }
    for (names, what) in [(&work.hold, "hold"), (&work.unhold, "unhold")] {
        for name in names {
            changes.push(change(Action::Attributes, what, name));
        }
    }
}
