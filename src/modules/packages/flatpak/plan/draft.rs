//! What of flatpak's may be done, and what is only told.

use super::remotes::places;
use super::{application, id, pairs, short, whose};
use crate::modules::packages::flatpak::state::{Scope, State};
use crate::modules::packages::item::{Item, Proposal, Verb, View};
use crate::modules::packages::tools::redact;

/// What may be done, and what is only told.
#[must_use]
pub fn draft(view: &View<'_, State>) -> Proposal<()> {
    let (pairs, notes) = pairs(view);
    let mut draft = Proposal {
        notes,
        ..Proposal::default()
    };
    for pair in &pairs {
        let text = |name: &str| format!("{}{}", short(name), whose(pair.name));
        for (name, installed) in pair.source.asked() {
            let id = id(pair.name, name);
            if pair.target.refs.contains_key(name) || view.marked.contains(&id) {
                continue;
            }
            if let Some(why) = view.rules.why_left_alone(application(name)) {
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
                .push(match view.rules.why_left_alone(application(name)) {
                    Some(why) => Item::told(id, Verb::Remove, text(name), why),
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
    draft
}
