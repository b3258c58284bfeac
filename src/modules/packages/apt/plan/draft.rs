//! What of apt's may be done, what is only told, and what the target's apt foresees of it.

use std::fmt::Write as _;

use super::Both;
use super::places::{is_unchecked, unreachable_reason};
use crate::modules::packages::apt::simulate::{Forecast, Question};
use crate::modules::packages::apt::state::{State, is_for_subscribers};
use crate::modules::packages::apt::version::compare;
use crate::modules::packages::effects;
use crate::modules::packages::item::{Item, Proposal, Stand, Verb, View};
use crate::modules::packages::list;

/// What may be done, and what is only told.
#[must_use]
pub fn draft(view: &View<'_, State>) -> Proposal<Question> {
    let both = Both::of(view);
    let mut draft = Proposal::default();
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
        if let Some(why) = view.rules.why_left_alone(name) {
            if there.is_none() {
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
        let mut item = Item::asked(name, Verb::Install, text);
        let lacking = both.lacking(name, package);
        if !lacking.is_empty() {
            question.later.insert(name.clone());
            let names = lacking.into_iter().collect::<Vec<_>>().join(", ");
            (item.consequences).push(format!(
                "{target_name} gets the architecture {names} for it"
            ));
        }
        draft.items.push(item);
    }
    for (name, package) in both.target.packages.iter().filter(|(_, p)| p.manual) {
        if both.is_marked(name) {
            continue;
        }
        let here = both.source.packages.get(name);
        if here.is_some_and(|p| p.manual) {
            continue;
        }
        if let Some(why) = view.rules.why_left_alone(name) {
            if here.is_none() {
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
        .filter(|p| both.source.origins_of(p).any(is_for_subscribers))
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
        draft.question = Some(question);
    }
    draft
}

/// Whether two lists of vendors (none: the distribution) can be the same one.
fn is_one_vendor(a: &[&str], b: &[&str]) -> bool {
    (a.is_empty() && b.is_empty()) || a.iter().any(|origin| b.contains(origin))
}

/// Takes in what the target's apt foresees.
pub fn consider(view: &View<'_, State>, forecast: &Forecast, items: &mut [Item]) {
    let both = Both::of(view);
    for item in items {
        if item.stand != Stand::Asked(item.verb != Verb::Remove) {
            continue;
        }
        if item.verb == Verb::Install
            && let Some(why) = unreachable_reason(&both, forecast, &item.id)
        {
            item.stand = Stand::Told(why);
            continue;
        }
        let package = both.source.packages.get(&item.id);
        if item.verb == Verb::Install
            && package.is_some_and(|p| is_unchecked(&both, &item.id, &both.our_vendors(p)))
        {
            (item.consequences).push("its place is not verified by signatures".to_owned());
        }
        if let Some(effects) = forecast.effects.get(&item.id) {
            effects::consider("apt", effects, item, |name| {
                both.is_marked(name) || both.target.packages.get(name).is_some_and(|p| p.manual)
            });
        }
    }
}
