//! Comparing two machines' apt: what the target lacks, what only it has, and what that needs.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::simulate::{Forecast, Question};
use super::sources::{self, origin};
use super::state::{self, Package, SOURCES, SOURCES_FILE, State};
use super::version::compare;
use crate::change::{Action, Change};
use crate::escape::escape_str;
use crate::event::Host;
use crate::modules::packages::bytes::Bytes;
use crate::modules::packages::item::{Draft, Item, Settled, Stand, Verb, View};
use crate::modules::packages::manager::Obstacle;

/// Names listed in one line before it says how many more there are.
const LISTED: usize = 6;

/// What the target's agent is to do, in this order.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Work {
    /// Files of `/etc/apt` and keys, written before the refresh.
    pub files: BTreeMap<String, Bytes>,
    /// Files of `/etc/apt` that go, before the refresh.
    pub deletions: Vec<String>,
    /// Packages that come.
    pub install: Vec<Install>,
    /// Packages that come along as recommended on the source, too.
    pub along: Vec<String>,
    /// Packages that go.
    pub remove: Vec<String>,
    /// What may go besides: it was shown.
    pub may_remove: BTreeSet<String>,
    /// Packages that may never go unasked.
    pub keep: BTreeSet<String>,
    /// Packages a person asked for on the source.
    pub manual: Vec<String>,
    /// Packages nobody asked for on the source.
    pub auto: Vec<String>,
    /// Packages to hold.
    pub hold: Vec<String>,
    /// Packages held no more.
    pub unhold: Vec<String>,
}

/// One package that comes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Install {
    /// Its name.
    pub name: String,
    /// The version, where only that will do (it is held on the source).
    pub version: Option<String>,
    /// Who must offer it: vendors; none means the distribution.
    pub origins: Vec<String>,
}

/// Both machines' states and what follows from them.
struct Both<'a> {
    view: &'a View<'a>,
    source: State,
    target: State,
    source_own: BTreeSet<String>,
    target_own: BTreeSet<String>,
}

impl<'a> Both<'a> {
    fn of(view: &'a View<'a>) -> Result<Self, String> {
        let parse = |value: &Value, name: &str| -> Result<State, String> {
            State::deserialize(value).map_err(|e| format!("the answer of {name}'s apt: {e}"))
        };
        let source = parse(view.source, view.names.0)?;
        let target = parse(view.target, view.names.1)?;
        Ok(Self {
            source_own: source.distribution(),
            target_own: target.distribution(),
            view,
            source,
            target,
        })
    }

    /// The vendors of the source's `package`; see [`vendors`].
    fn our_vendors(&'a self, package: &'a Package) -> Vec<&'a str> {
        vendors(&self.source, &self.source_own, package)
    }

    /// The vendors of the target's `package`.
    fn their_vendors(&'a self, package: &'a Package) -> Vec<&'a str> {
        vendors(&self.target, &self.target_own, package)
    }

    fn is_marked(&self, name: &str) -> bool {
        self.view.marked.contains(name)
    }
}

/// The vendors of a package, if it is not the distribution's.
fn vendors<'s>(state: &'s State, own: &BTreeSet<String>, package: &'s Package) -> Vec<&'s str> {
    let origins: Vec<&str> = state.origins_of(package).collect();
    if origins.iter().any(|origin| own.contains(*origin)) {
        Vec::new()
    } else {
        origins
    }
}

/// What stands in the way.
pub fn obstacles(view: &View<'_>) -> Result<Vec<Obstacle>, String> {
    let both = Both::of(view)?;
    let mut obstacles = Vec::new();
    for (host, state) in [(Host::Source, &both.source), (Host::Target, &both.target)] {
        let mut add = |message: String, hint: Option<String>| {
            obstacles.push(Obstacle {
                host,
                message,
                hint,
            });
        };
        if !state.absent_holds.is_empty() {
            let names = state.absent_holds.join(" ");
            add(
                format!("held, but not installed: {}", escape_str(&names)),
                Some(format!("sudo apt-mark unhold {}", escape_str(&names))),
            );
        }
        if !state.unfinished.is_empty() {
            add(
                format!("dpkg has not finished with {}", list(&state.unfinished)),
                Some("sudo dpkg --configure -a && sudo apt-get --fix-broken install".to_owned()),
            );
        }
        if let Some(holder) = &state.locked_by {
            add(
                format!("packages are being changed by {holder}"),
                Some("wait until it has ended, and sync again".to_owned()),
            );
        }
    }
    Ok(obstacles)
}

/// Names, at most a few of them.
fn list<'n>(names: impl IntoIterator<Item = &'n String>) -> String {
    let names: Vec<&String> = names.into_iter().collect();
    let mut text = names
        .iter()
        .take(LISTED)
        .map(|n| escape_str(n))
        .collect::<Vec<_>>()
        .join(", ");
    if names.len() > LISTED {
        let _ = write!(text, " and {} more", names.len() - LISTED);
    }
    text
}

/// What may be done, and what is only told.
pub fn draft(view: &View<'_>) -> Result<Draft, String> {
    let both = Both::of(view)?;
    let mut draft = Draft::default();
    let mut question = Question::default();
    let (source_name, target_name) = view.names;
    let mut older = Vec::new();
    let mut elsewhere = Vec::new();
    for (name, package) in both.source.packages.iter().filter(|(_, p)| p.manual) {
        if both.is_marked(name) {
            continue;
        }
        let there = both.target.packages.get(name);
        if there.is_some_and(|p| p.manual) {
            continue;
        }
        if let Some(pattern) = view.rules.left_alone.matching(name) {
            if there.is_none() {
                let why = format!("left alone: it belongs to the machine ({pattern})");
                draft.items.push(Item::told(name, Verb::Install, name, why));
            }
            continue;
        }
        if there.is_some() {
            let text = format!("{name}: asked for on {source_name}");
            draft.items.push(Item::asked(name, Verb::Note, text));
            continue;
        }
        if package.origins.is_empty() {
            continue; // installed by hand: another manager's
        }
        let version = package.held.then(|| package.version.clone());
        let vendors = both.our_vendors(package);
        let mut text = format!("{name} {}", package.version);
        if let Some(vendor) = vendors.first() {
            let _ = write!(text, " from {vendor}");
        }
        if version.is_some() {
            let _ = write!(text, ", held");
        }
        question.install.push((name.clone(), version));
        draft.items.push(Item::asked(name, Verb::Install, text));
    }
    for (name, package) in both.target.packages.iter().filter(|(_, p)| p.manual) {
        if both.is_marked(name) {
            continue;
        }
        let here = both.source.packages.get(name);
        if here.is_some_and(|p| p.manual) {
            continue;
        }
        if let Some(pattern) = view.rules.left_alone.matching(name) {
            if here.is_none() {
                let why = format!("left alone: it belongs to the machine ({pattern})");
                draft.items.push(Item::told(name, Verb::Remove, name, why));
            }
            continue;
        }
        if here.is_some() {
            let text = format!("{name}: not asked for on {source_name}, there as a dependency");
            draft.items.push(Item::asked(name, Verb::Note, text));
        } else if package.held {
            let why = format!("it is held on {target_name}");
            draft.items.push(Item::told(name, Verb::Remove, name, why));
        } else if !package.origins.is_empty() {
            question.remove.push(name.clone());
            let text = format!("{name} {}", package.version);
            draft.items.push(Item::asked(name, Verb::Remove, text));
        }
    }
    for (name, package) in &both.source.packages {
        let Some(there) = both.target.packages.get(name) else {
            continue;
        };
        let (ours, theirs) = (both.our_vendors(package), both.their_vendors(there));
        let by_hand = package.origins.is_empty() || there.origins.is_empty();
        if !by_hand && !is_one_vendor(&ours, &theirs) {
            elsewhere.push(name.clone());
        } else if compare(&there.version, &package.version).is_lt() {
            older.push(name.clone());
        }
    }
    let for_subscribers = (both.source.packages.values())
        .filter(|p| both.source.origins_of(p).any(state::is_for_subscribers))
        .count();
    if for_subscribers > 0 && both.target.subscribed == Some(false) {
        draft.notes.push(format!(
            "{for_subscribers} packages of {source_name} come from Ubuntu Pro, which {target_name} is not \
             attached to (`sudo pro attach` there): it has them without Pro's fixes"
        ));
    }
    if !elsewhere.is_empty() {
        draft.notes.push(format!(
            "from another place on {target_name} than on {source_name}, left as they are: {}",
            list(&elsewhere)
        ));
    }
    if !older.is_empty() {
        draft.notes.push(format!(
            "{} older on {target_name} than on {source_name} (`sudo apt upgrade` there brings them \
             up to date): {}",
            older.len(),
            list(&older)
        ));
    }
    if !question.install.is_empty() || !question.remove.is_empty() {
        let question = serde_json::to_value(question).expect("a question is plain data");
        draft.question = Some(question);
    }
    Ok(draft)
}

/// Whether two lists of vendors (none: the distribution) can be the same one.
fn is_one_vendor(a: &[&str], b: &[&str]) -> bool {
    (a.is_empty() && b.is_empty()) || a.iter().any(|origin| b.contains(origin))
}

/// Takes in what the target's apt foresees.
pub fn consider(view: &View<'_>, draft: &mut Draft, answer: Value) -> Result<(), String> {
    let both = Both::of(view)?;
    let forecast = Forecast::deserialize(&answer)
        .map_err(|e| format!("the forecast of {}'s apt: {e}", view.names.1))?;
    for item in &mut draft.items {
        if item.stand != Stand::Asked(item.verb != Verb::Remove) {
            continue;
        }
        if item.verb == Verb::Install
            && let Some(why) = unreachable_reason(&both, &forecast, &item.id)
        {
            item.stand = Stand::Told(why);
            continue;
        }
        let Some(effects) = forecast.effects.get(&item.id) else {
            continue;
        };
        if let Some(why) = &effects.refused {
            item.stand = Stand::Told(format!("apt would not: {why}"));
            continue;
        }
        let (wanted, others): (Vec<&String>, Vec<&String>) =
            (effects.removes.iter()).partition(|name| {
                both.is_marked(name) || both.target.packages.get(*name).is_some_and(|p| p.manual)
            });
        if !wanted.is_empty() {
            item.costly = true;
            item.stand = Stand::Asked(false);
            let text = format!("also removes what was asked for there: {}", list(wanted));
            item.consequences.push(text);
        }
        if !others.is_empty() {
            item.consequences
                .push(format!("also removes {}", list(others)));
        }
        if !effects.upgrades.is_empty() {
            item.consequences.push(format!(
                "also changes the version of {}",
                list(&effects.upgrades)
            ));
        }
    }
    draft.answer = answer;
    Ok(())
}

/// Why a package cannot come from where the source has it.
fn unreachable_reason(both: &Both<'_>, forecast: &Forecast, name: &str) -> Option<String> {
    let package = both.source.packages.get(name)?;
    let vendors = both.our_vendors(package);
    let offer = forecast.offers.get(name);
    if vendors.is_empty() {
        // The distribution's. A target that has not been refreshed for long may not know it yet.
        let offer = offer?;
        let version = package.held.then_some(package.version.as_str());
        let origins = offer.origins(version);
        let is_locked_up = !origins.is_empty()
            && origins
                .iter()
                .all(|origin| state::is_for_subscribers(origin))
            && both.target.subscribed == Some(false);
        if is_locked_up {
            return Some(format!(
                "it would come from Ubuntu Pro, which {} is not attached to (`sudo pro attach` there)",
                both.view.names.1
            ));
        }
        let foreign = !origins.is_empty() && !origins.iter().any(|o| both.target_own.contains(*o));
        return foreign.then(|| {
            format!(
                "{} would take it from {}, not from the distribution",
                both.view.names.1,
                escape_str(&origins.join(", "))
            )
        });
    }
    if declared_by_target(both, &vendors) {
        return None;
    }
    files_for(&both.source, &vendors).err()
}

fn declared_by_target(both: &Both<'_>, vendors: &[&str]) -> bool {
    vendors
        .iter()
        .any(|vendor| !both.target.files_declaring(vendor).is_empty())
}

/// The files a package of these vendors needs: one of the source's that declares a vendor and whose
/// keys can travel, and those keys.
fn files_for<'s>(source: &'s State, vendors: &[&str]) -> Result<(&'s str, Vec<String>), String> {
    let mut reason = format!(
        "no file of {SOURCES} declares {}",
        escape_str(&vendors.join(", "))
    );
    for vendor in vendors {
        for (path, _) in source.files_declaring(vendor) {
            if path == SOURCES_FILE {
                reason = format!(
                    "{} is declared in {SOURCES_FILE}, which is never copied: give it a file of its \
                     own in {SOURCES}",
                    escape_str(vendor)
                );
                continue;
            }
            let entries = sources::parse(path, &source.sources[path]);
            let mut keys: Vec<String> = entries.iter().flat_map(|e| e.keys.clone()).collect();
            if entries.iter().any(|entry| !entry.signed_by) {
                let trusted = source
                    .keys
                    .keys()
                    .filter(|key| key.starts_with(state::TRUSTED));
                keys.extend(trusted.cloned());
            }
            match keys.iter().find(|key| !source.keys.contains_key(*key)) {
                Some(missing) => {
                    reason = format!(
                        "{path} names the key {}, which cannot be read",
                        escape_str(missing)
                    );
                }
                None => return Ok((path, keys)),
            }
        }
    }
    Err(reason)
}

/// What the chosen items come to.
pub fn settle(
    view: &View<'_>,
    draft: &Draft,
    chosen: &BTreeSet<String>,
) -> Result<Settled, String> {
    let both = Both::of(view)?;
    let forecast = if draft.answer.is_null() {
        Forecast::default()
    } else {
        Forecast::deserialize(&draft.answer).map_err(|e| e.to_string())?
    };
    let mut work = Work::default();
    let mut settled = Settled::default();
    let mut needed_by: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for item in draft.items.iter().filter(|item| chosen.contains(&item.id)) {
        let name = &item.id;
        match item.verb {
            Verb::Install => {
                let Some(package) = both.source.packages.get(name) else {
                    continue;
                };
                let vendors = both.our_vendors(package);
                if !vendors.is_empty() && !declared_by_target(&both, &vendors) {
                    match add_source(&both, &vendors, &mut work) {
                        Ok(path) => needed_by.entry(path).or_default().push(name.clone()),
                        Err(why) => {
                            settled.withdrawn.push((name.clone(), why));
                            continue;
                        }
                    }
                }
                work.install.push(Install {
                    name: name.clone(),
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
    settle_pins(&both, &mut work);
    settle_unused_sources(&both, &mut work);
    settle_holds(&both, &mut work);
    list_plumbing(&both, &work, &needed_by, &mut settled.changes);
    settled.work = if work_is_empty(&work) {
        Value::Null
    } else {
        serde_json::to_value(&work).expect("work is plain data")
    };
    Ok(settled)
}

fn work_is_empty(work: &Work) -> bool {
    let Work {
        files,
        deletions,
        install,
        along: _,
        remove,
        may_remove: _,
        keep: _,
        manual,
        auto,
        hold,
        unhold,
    } = work;
    files.is_empty()
        && deletions.is_empty()
        && [remove, manual, auto, hold, unhold]
            .iter()
            .all(|list| list.is_empty())
        && install.is_empty()
}

fn change(action: Action, kind: &str, text: &str) -> Change {
    Change {
        action,
        item: format!("apt {kind} {text}").into_bytes(),
        detail: String::new(),
        bytes: 0,
        from: None,
    }
}

/// Puts the source file of a vendor, and its keys, into the work; returns the file's path.
fn add_source(both: &Both<'_>, vendors: &[&str], work: &mut Work) -> Result<String, String> {
    let (path, keys) = files_for(&both.source, vendors)?;
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

fn origins_in(path: &str, text: &str) -> BTreeSet<String> {
    (sources::parse(path, text).iter())
        .flat_map(|entry| entry.uris.iter().map(|uri| origin(uri)))
        .collect()
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
                both.target.packages.contains_key(name) && !both.source.packages.contains_key(name)
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
        } else if state::is_key_path(path) {
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

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
