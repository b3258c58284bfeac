//! Comparing what two machines have by hand.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::print::Print;
use super::state::State;
use crate::change::Action;
use crate::modules::packages::apt::simulate::{Forecast, Question};
use crate::modules::packages::apt::state as apt;
use crate::modules::packages::apt::version::compare;
use crate::modules::packages::effects;
use crate::modules::packages::item::{self, Item, Proposal, Settled, Stand, Verb, View};

/// What the target's agent is to do, in this order.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Work {
    /// Recipes by what they bring.
    pub recipes: BTreeMap<String, Recipe>,
    /// Packages that go.
    pub remove: Vec<String>,
    /// What may go with them: it was shown.
    pub may_remove: BTreeSet<String>,
    /// Paths that go.
    pub delete: Vec<String>,
}

/// A person's word for how something is brought to a machine.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recipe {
    /// Run by `sh -e`.
    pub command: String,
    /// The version it should bring, if it is a package.
    pub version: Option<String>,
}

/// What apt answered on both machines; where it did not, it has said so itself.
fn packages(view: &View<'_, State>) -> Option<(apt::State, apt::State)> {
    let both: (apt::State, apt::State) = view.both_of("apt")?;
    [&both.0, &both.1]
        .iter()
        .all(|state| state.nonsense().is_none())
        .then_some(both)
}

/// Packages that no source of that machine offers, with their versions.
fn by_hand(state: &apt::State) -> impl Iterator<Item = (&String, &str)> {
    (state.packages.iter())
        .filter(|(_, package)| package.origins.is_empty())
        .map(|(name, package)| (name, package.version.as_str()))
}

/// What may be done, and what is for a person to do.
#[must_use]
pub fn draft(view: &View<'_, State>) -> Proposal<Question> {
    let mut draft = Proposal::default();
    if let Some((source, target)) = &packages(view) {
        draft_packages(view, source, target, &mut draft);
    }
    let (source, target) = (&view.source.paths, &view.target.paths);
    for (path, ours) in source.iter().filter(|(path, _)| !is_elsewhere(view, path)) {
        let text = format!("{path}, which belongs to no package");
        match target.get(path) {
            Some(theirs) if theirs.hash == ours.hash => {}
            Some(theirs) => differs(view, path, (ours, theirs), &mut draft),
            None => {
                let why = format!(
                    "copy it to {} by hand, mirror it (user_data.folders) or write down how to get \
                     it (packages.recipes)",
                    view.names.1
                );
                draft.items.push(comes(view, path, text, why));
            }
        }
    }
    for path in target.keys().filter(|path| !is_elsewhere(view, path)) {
        if source.contains_key(path) {
            continue;
        }
        let text = format!("{path}, which belongs to no package");
        let mut item = goes(path, text);
        (item.consequences).push(
            "deletes it with all that is in it; starters and services elsewhere stay".to_owned(),
        );
        draft.items.push(item);
    }
    draft
}

/// Both machines have it, and not the same of it. Which is the newer one, nobody can say for sure; a recipe
/// that is there may bring the target's up to date, if a person says so.
fn differs(
    view: &View<'_, State>,
    path: &str,
    (ours, theirs): (&Print, &Print),
    draft: &mut Proposal<Question>,
) {
    let day = |print: &Print| {
        Timestamp::from_second(print.changed).map_or_else(
            |_| "at an unknown time".to_owned(),
            |at| at.strftime("%F").to_string(),
        )
    };
    let text = format!(
        "{path}, which belongs to no package: changed {} on {}, {} on {}",
        day(ours),
        view.names.0,
        day(theirs),
        view.names.1
    );
    if ours.changed <= theirs.changed || !view.rules.recipes.contains_key(path) {
        draft.notes.push(text);
        return;
    }
    // No flag says yes: nobody knows whether the recipe brings what the source has, and it would be
    // followed in every run.
    draft.items.push(Item {
        costly: true,
        stand: Stand::Asked(false),
        consequences: vec!["follows its recipe again, where it is already".to_owned()],
        ..Item::asked(path, Verb::Replace, text)
    });
}

/// Whether another rule speaks of it.
fn is_elsewhere(view: &View<'_, State>, path: &str) -> bool {
    view.marked.contains(path)
        || view.rules.left_alone.matching(path).is_some()
        || view.rules.mirrored.folder_of(path).is_some()
}

fn comes(view: &View<'_, State>, id: &str, text: String, why: String) -> Item {
    if view.rules.recipes.contains_key(id) {
        return Item::asked(id, Verb::Install, format!("{text}, by its recipe"));
    }
    let mut item = Item::told(id, Verb::Install, text, why);
    item.by_person = true;
    item
}

/// What goes is gone: nobody offers it again. So only a person says yes to it.
fn goes(id: &str, text: String) -> Item {
    Item {
        costly: true,
        ..Item::asked(id, Verb::Remove, text)
    }
}

fn draft_packages(
    view: &View<'_, State>,
    source: &apt::State,
    target: &apt::State,
    draft: &mut Proposal<Question>,
) {
    let mut question = Question::default();
    let is_passed_over =
        |name: &str| view.marked.contains(name) || view.rules.left_alone.matching(name).is_some();
    for (name, version) in by_hand(source).filter(|(name, _)| !is_passed_over(name)) {
        let Some(there) = target.packages.get(name) else {
            let text = format!("{name} {version}, which no package source offers");
            let why = format!(
                "install it on {} by hand, or write down how to get it (packages.recipes)",
                view.names.1
            );
            draft.items.push(comes(view, name, text, why));
            continue;
        };
        if there.version == version {
            continue;
        }
        let is_older = compare(&there.version, version).is_lt();
        if is_older && view.rules.recipes.contains_key(name) {
            let text = format!("{name} {} by {version}, by its recipe", there.version);
            draft.items.push(Item::asked(name, Verb::Replace, text));
        } else {
            draft.notes.push(format!(
                "{name}, which no package source offers: {} on {}, {version} on {}",
                there.version, view.names.1, view.names.0
            ));
        }
    }
    for (name, version) in by_hand(target).filter(|(name, _)| !is_passed_over(name)) {
        // What nobody asked for there is a dependency's business.
        let is_asked = target
            .packages
            .get(name)
            .is_some_and(|p| p.manual && !p.held);
        if is_asked && !source.packages.contains_key(name) {
            question.remove.push(name.clone());
            let text = format!("{name} {version}, which no package source offers again");
            draft.items.push(goes(name, text));
        }
    }
    if !question.remove.is_empty() {
        draft.question = Some(question);
    }
}

/// Takes in what else apt would remove.
pub fn consider(forecast: &Forecast, items: &mut [Item]) {
    for item in items {
        if let Some(effects) = forecast.effects.get(&item.id) {
            effects::consider("apt", effects, item, |_| false);
        }
    }
}

/// What the chosen items come to.
#[must_use]
pub fn settle(
    view: &View<'_, State>,
    items: &[Item],
    forecast: &Forecast,
    chosen: &BTreeSet<String>,
) -> Settled<Work> {
    let packages = packages(view);
    let mut settled = Settled::<Work>::default();
    let work = &mut settled.work;
    for item in items.iter().filter(|item| chosen.contains(&item.id)) {
        let action = match item.verb {
            Verb::Install | Verb::Note => Action::Create,
            Verb::Replace => Action::Change,
            Verb::Remove => Action::Delete,
        };
        if item.verb == Verb::Remove {
            if item.id.starts_with('/') {
                work.delete.push(item.id.clone());
            } else {
                work.remove.push(item.id.clone());
                let effects = forecast.effects.get(&item.id);
                let removes = effects.iter().flat_map(|effects| &effects.removes);
                work.may_remove.extend(removes.cloned());
            }
        } else {
            let Some(command) = view.rules.recipes.get(&item.id) else {
                continue;
            };
            let package = packages
                .as_ref()
                .and_then(|(ours, _)| ours.packages.get(&item.id));
            let recipe = Recipe {
                command: command.clone(),
                version: package.map(|package| package.version.clone()),
            };
            work.recipes.insert(item.id.clone(), recipe);
        }
        (settled.changes).push(item::change("hand", action, &item.text));
    }
    settled
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
