//! Comparing two machines' packages by what was asked for on each.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::{Package, Question, State};
use crate::change::Action;
use crate::modules::packages::effects::{self, AllEffects};
use crate::modules::packages::item::{self, Item, Proposal, Settled, Stand, Verb, View};
use crate::modules::packages::list;

/// What the target's agent is to do.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Work {
    /// What comes and goes.
    pub wish: Question,
    /// What may go besides: it was shown.
    pub may_remove: BTreeSet<String>,
    /// Packages to note as asked for.
    pub manual: Vec<String>,
    /// Packages to note as not asked for.
    pub auto: Vec<String>,
    /// Packages to lock.
    pub lock: Vec<String>,
    /// Packages locked no more.
    pub unlock: Vec<String>,
}

impl Work {
    /// Whether it changes nothing.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.wish == Question::default()
            && [&self.manual, &self.auto, &self.lock, &self.unlock]
                .iter()
                .all(|list| list.is_empty())
    }
}

/// What may be done, and what is only told.
#[must_use]
pub fn draft(can_mark: bool, view: &View<'_, State>) -> Proposal<Question> {
    let (source, target) = (view.source, view.target);
    let (source_name, target_name) = view.names;
    let mut draft = Proposal::default();
    let mut question = Question::default();
    for (name, package) in source.packages.iter().filter(|(_, p)| p.manual) {
        let there = target.packages.get(name);
        if view.marked.contains(name) || there.is_some_and(|p| p.manual) {
            continue;
        }
        if let Some(why) = view.rules.why_left_alone(name) {
            if there.is_none() {
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
        if let Some(why) = unreachable_reason(package, view) {
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
        if let Some(why) = view.rules.why_left_alone(name) {
            if here.is_none() {
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
    if !target.can_lock {
        for (names, (has, lacks)) in [
            (locks(view).0, (source_name, target_name)),
            (locks(view).1, (target_name, source_name)),
        ] {
            if !names.is_empty() {
                let text = format!("locked on {has} and not on {lacks}: {}", list(&names));
                draft.notes.push(text);
            }
        }
    }
    if question != Question::default() {
        draft.question = Some(question);
    }
    draft
}

/// What both have, and what only the source, or only the target has locked of it.
fn locks(view: &View<'_, State>) -> (Vec<String>, Vec<String>) {
    let unlike = |locked_here: bool| -> Vec<String> {
        (view.source.packages.iter())
            .filter(|(name, ours)| {
                let theirs = view.target.packages.get(*name);
                ours.locked == locked_here && theirs.is_some_and(|p| p.locked != locked_here)
            })
            .map(|(name, _)| name)
            .filter(|name| !view.marked.contains(*name))
            .filter(|name| view.rules.left_alone.matching(name).is_none())
            .cloned()
            .collect()
    };
    (unlike(true), unlike(false))
}

/// Why a package cannot come from where the source has it: then a person has to see to it.
fn unreachable_reason(package: &Package, view: &View<'_, State>) -> Option<String> {
    if package.locked {
        return Some(format!("it is locked to its version on {}", view.names.0));
    }
    let repository = package.repository.as_ref()?;
    let theirs = view.target.repositories.get(repository);
    match (view.source.repositories.get(repository), theirs) {
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
pub fn consider(manager: &str, view: &View<'_, State>, forecast: &AllEffects, items: &mut [Item]) {
    for item in items {
        let is_asked = matches!(item.stand, Stand::Asked(_)) && item.verb != Verb::Note;
        let Some(effects) = forecast.get(&item.id).filter(|_| is_asked) else {
            continue;
        };
        effects::consider(manager, effects, item, |name| {
            view.marked.contains(name) || view.target.packages.get(name).is_some_and(|p| p.manual)
        });
        // Nobody knows where it is from: it was installed by hand.
        let package = view.source.packages.get(&item.id);
        item.by_person = effects.refused.is_some()
            && item.verb == Verb::Install
            && package.is_some_and(|package| package.repository.is_none());
    }
}

/// What the chosen items come to.
#[must_use]
pub fn settle(
    manager: &str,
    view: &View<'_, State>,
    items: &[Item],
    forecast: &AllEffects,
    chosen: &BTreeSet<String>,
) -> Settled<Work> {
    let mut settled = Settled::<Work>::default();
    let work = &mut settled.work;
    for item in items.iter().filter(|item| chosen.contains(&item.id)) {
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
                let is_manual = view.source.packages.get(&name).is_some_and(|p| p.manual);
                if is_manual {
                    work.manual.push(name);
                } else {
                    work.auto.push(name);
                }
                Action::Attributes
            }
        };
        if let Some(effects) = forecast.get(&item.id) {
            work.may_remove.extend(effects.removes.iter().cloned());
        }
        let text = format!("package {}", item.text);
        (settled.changes).push(item::change(manager, action, &text));
    }
    if view.target.can_lock {
        let goes = |name: &String| work.wish.remove.contains(name);
        (work.lock, work.unlock) = locks(view);
        work.lock.retain(|name| !goes(name));
        for (names, what) in [(&work.lock, "lock"), (&work.unlock, "unlock")] {
            for name in names {
                let text = format!("{what} {name}");
                (settled.changes).push(item::change(manager, Action::Attributes, &text));
            }
        }
    }
    settled
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
