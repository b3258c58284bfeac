//! Comparing two machines' packages by what was asked for on each.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Package, Question, State, is_name};
use crate::change::{Action, Change};
use crate::modules::packages::apt::simulate::Effects;
use crate::modules::packages::item::{Draft, Item, Settled, Stand, Verb, View};
use crate::modules::packages::list;

/// What the target's agent is to do.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Work {
    /// What comes and goes.
    pub wish: Question,
    /// What may go besides: it was shown.
    pub may_remove: BTreeSet<String>,
    /// What may never go unasked.
    pub keep: BTreeSet<String>,
    /// Packages to note as asked for.
    pub manual: Vec<String>,
    /// Packages to note as not asked for.
    pub auto: Vec<String>,
}

fn both(name: &str, view: &View<'_>) -> Result<(State, State), String> {
    let parse = |value: &Value, host: &str| {
        let state =
            State::deserialize(value).map_err(|e| format!("the answer of {host}'s {name}: {e}"))?;
        match state.packages.keys().find(|package| !is_name(package)) {
            Some(bad) => Err(format!("the answer of {host}'s {name} names {bad}")),
            None => Ok(state),
        }
    };
    Ok((
        parse(view.source, view.names.0)?,
        parse(view.target, view.names.1)?,
    ))
}

/// What may be done, and what is only told.
pub fn draft(manager: &str, can_mark: bool, view: &View<'_>) -> Result<Draft, String> {
    let (source, target) = both(manager, view)?;
    let (source_name, target_name) = view.names;
    let mut draft = Draft::default();
    let mut question = Question::default();
    for (name, package) in source.packages.iter().filter(|(_, p)| p.manual) {
        let there = target.packages.get(name);
        if view.marked.contains(name) || there.is_some_and(|p| p.manual) {
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
            if !can_mark {
                continue;
            }
            let text = format!("{name}: asked for on {source_name}");
            draft.items.push(Item::asked(name, Verb::Note, text));
            continue;
        }
        let text = format!("{name} {}", package.version);
        if let Some(why) = unreachable_reason(package, &source, &target, view) {
            let mut item = Item::told(name, Verb::Install, text, why);
            item.by_person = true;
            draft.items.push(item);
        } else {
            question.install.push(name.clone());
            draft.items.push(Item::asked(name, Verb::Install, text));
        }
    }
    for (name, package) in target.packages.iter().filter(|(_, p)| p.manual) {
        let here = source.packages.get(name);
        if view.marked.contains(name) || here.is_some_and(|p| p.manual) {
            continue;
        }
        if let Some(pattern) = view.rules.left_alone.matching(name) {
            if here.is_none() {
                let why = format!("left alone: it belongs to the machine ({pattern})");
                draft.items.push(Item::told(name, Verb::Remove, name, why));
            }
        } else if here.is_some() {
            if !can_mark {
                continue;
            }
            let text = format!("{name}: not asked for on {source_name}, there as a dependency");
            draft.items.push(Item::asked(name, Verb::Note, text));
        } else if package.locked {
            let why = format!("it is locked on {target_name}");
            draft.items.push(Item::told(name, Verb::Remove, name, why));
        } else {
            question.remove.push(name.clone());
            let text = format!("{name} {}", package.version);
            let mut item = Item::asked(name, Verb::Remove, text);
            if package.repository.is_none() {
                item.costly = true;
                item.consequences
                    .push("no repository is known to offer it again".to_owned());
            }
            draft.items.push(item);
        }
    }
    if question != Question::default() {
        draft.question = Some(serde_json::to_value(question).expect("a question is plain data"));
    }
    Ok(draft)
}

/// Why a package cannot come from where the source has it: then a person has to see to it.
fn unreachable_reason(
    package: &Package,
    source: &State,
    target: &State,
    view: &View<'_>,
) -> Option<String> {
    if package.locked {
        return Some(format!("it is locked to its version on {}", view.names.0));
    }
    let repository = package.repository.as_ref()?;
    let theirs = target.repositories.get(repository);
    match (source.repositories.get(repository), theirs) {
        (_, None) => Some(format!(
            "its repository {repository} is not in use on {}: add it there",
            view.names.1
        )),
        (Some(ours), Some(theirs)) if ours != theirs => Some(format!(
            "its repository {repository} is another place on {}",
            view.names.1
        )),
        _ => None,
    }
}

/// Takes in what the target's manager foresees.
pub fn consider(
    manager: &str,
    view: &View<'_>,
    draft: &mut Draft,
    answer: Value,
) -> Result<(), String> {
    let (source, target) = both(manager, view)?;
    let effects: BTreeMap<String, Effects> = BTreeMap::deserialize(&answer)
        .map_err(|e| format!("the forecast of {}'s {manager}: {e}", view.names.1))?;
    for item in &mut draft.items {
        let is_asked = matches!(item.stand, Stand::Asked(_)) && item.verb != Verb::Note;
        let Some(effects) = effects.get(&item.id).filter(|_| is_asked) else {
            continue;
        };
        if let Some(why) = &effects.refused {
            item.stand = Stand::Told(format!("{manager} would not: {why}"));
            // Nobody knows where it is from: it was installed by hand.
            let package = source.packages.get(&item.id);
            item.by_person = item.verb == Verb::Install
                && package.is_some_and(|package| package.repository.is_none());
            continue;
        }
        let (wanted, others): (Vec<&String>, Vec<&String>) =
            (effects.removes.iter()).partition(|name| {
                view.marked.contains(*name) || target.packages.get(*name).is_some_and(|p| p.manual)
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
            let text = format!("also changes the version of {}", list(&effects.upgrades));
            item.consequences.push(text);
        }
    }
    draft.answer = answer;
    Ok(())
}

/// What the chosen items come to.
pub fn settle(
    manager: &str,
    view: &View<'_>,
    draft: &Draft,
    chosen: &BTreeSet<String>,
) -> Result<Settled, String> {
    let (source, target) = both(manager, view)?;
    let effects: BTreeMap<String, Effects> = if draft.answer.is_null() {
        BTreeMap::new()
    } else {
        BTreeMap::deserialize(&draft.answer).map_err(|e| e.to_string())?
    };
    let (mut work, mut settled) = (Work::default(), Settled::default());
    for item in draft.items.iter().filter(|item| chosen.contains(&item.id)) {
        let name = item.id.clone();
        let action = match item.verb {
            Verb::Install => {
                work.wish.install.push(name);
                Action::Create
            }
            Verb::Remove => {
                work.wish.remove.push(name);
                Action::Delete
            }
            Verb::Note | Verb::Replace => {
                let is_manual = source.packages.get(&name).is_some_and(|p| p.manual);
                if is_manual {
                    work.manual.push(name);
                } else {
                    work.auto.push(name);
                }
                Action::Attributes
            }
        };
        if let Some(effects) = effects.get(&item.id) {
            work.may_remove.extend(effects.removes.iter().cloned());
        }
        settled.changes.push(Change {
            action,
            item: format!("{manager} package {}", item.text).into_bytes(),
            detail: String::new(),
            from: None,
            bytes: 0,
        });
    }
    work.keep = (target.packages.iter())
        .filter(|(name, package)| package.manual || view.marked.contains(*name))
        .map(|(name, _)| name.clone())
        .collect();
    if !settled.changes.is_empty() {
        settled.work = serde_json::to_value(&work).expect("work is plain data");
    }
    Ok(settled)
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
