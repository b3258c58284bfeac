//! Comparing two machines' snaps.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::state::{Snap, State};
use crate::change::Action;
use crate::modules::packages::item::{self, Item, Proposal, Settled, Stand, Verb, View};

/// What the target's agent is to do, in this order.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Work {
    /// Snaps that come, as the source has them.
    pub install: State,
    /// Snaps that get another revision or channel.
    pub change: State,
    /// Snaps that go.
    pub remove: Vec<String>,
    /// Snaps to hold back.
    pub hold: Vec<String>,
    /// Snaps held back no more.
    pub unhold: Vec<String>,
}

/// Whether the target's is another build of it than the source's.
fn differs(ours: &Snap, theirs: &Snap) -> bool {
    ours.revision != theirs.revision || !ours.channel.is_empty() && ours.channel != theirs.channel
}

fn text(name: &str, snap: &Snap) -> String {
    let mut text = format!("{name} {} (revision {})", snap.version, snap.revision);
    if snap.classic {
        text.push_str(", not confined");
    }
    if snap.devmode {
        text.push_str(", in developer mode");
    }
    text
}

/// The mirrored folder with a person's data of this very revision, which no other revision looks at.
fn data_folder<'v>(view: &'v View<'_, State>, name: &str, snap: &Snap) -> Option<&'v str> {
    ["/home/person", "/root"].iter().find_map(|home| {
        let data = format!("{home}/snap/{name}/{}", snap.revision);
        view.rules.mirrored.folder_of(&data)
    })
}

/// What may be done, and what is only told.
#[must_use]
pub fn draft(view: &View<'_, State>) -> Proposal<()> {
    let (source, target) = (view.source, view.target);
    let (source_name, target_name) = view.names;
    let mut draft = Proposal::default();
    let is_passed_over = |name: &String| view.marked.contains(name);
    for (name, ours) in source
        .iter()
        .filter(|(name, snap)| !snap.derived && !is_passed_over(name))
    {
        let there = target.get(name);
        if !ours.is_from_store() || there.is_some_and(|theirs| !theirs.is_from_store()) {
            let holder = if ours.is_from_store() {
                target_name
            } else {
                source_name
            };
            let why = format!("it was installed from a file on {holder}: bring it over by hand");
            if there.is_none_or(|theirs| differs(ours, theirs)) {
                let mut item = Item::told(name, Verb::Install, text(name, ours), why);
                item.by_person = there.is_none();
                draft.items.push(item);
            }
            continue;
        }
        if let Some(why) = view.rules.why_left_alone(name) {
            if there.is_none() {
                draft
                    .items
                    .push(Item::told(name, Verb::Install, text(name, ours), why));
            }
            continue;
        }
        match there {
            None => draft
                .items
                .push(Item::asked(name, Verb::Install, text(name, ours))),
            Some(theirs) if differs(ours, theirs) => {
                let text = format!(
                    "{} for revision {} of {}",
                    text(name, ours),
                    theirs.revision,
                    if theirs.channel.is_empty() {
                        "no channel"
                    } else {
                        &theirs.channel
                    }
                );
                let mut item = Item::asked(name, Verb::Replace, text);
                if let Some(folder) = data_folder(view, name, ours) {
                    item.consequences.push(format!(
                        "skipped, it does not find its data of revision {} that {folder} brings",
                        ours.revision
                    ));
                }
                draft.items.push(item);
            }
            Some(_) => {}
        }
    }
    for (name, theirs) in target {
        if theirs.derived || source.contains_key(name) || is_passed_over(name) {
            continue;
        }
        let mut item = Item::asked(name, Verb::Remove, text(name, theirs));
        if let Some(why) = view.rules.why_left_alone(name) {
            item.stand = Stand::Told(why);
        } else if !theirs.is_from_store() {
            item.costly = true;
            (item.consequences)
                .push("it was installed from a file: no store gives it again".to_owned());
        }
        draft.items.push(item);
    }
    draft
}

/// What the chosen items come to.
#[must_use]
pub fn settle(view: &View<'_, State>, items: &[Item], chosen: &BTreeSet<String>) -> Settled<Work> {
    let (source, target) = (view.source, view.target);
    let (mut work, mut changes) = (Work::default(), Vec::new());
    let mut change =
        |action: Action, text: String| changes.push(item::change("snap", action, &text));
    for item in items.iter().filter(|item| chosen.contains(&item.id)) {
        let ours = source.get(&item.id).cloned();
        let action = match (item.verb, ours) {
            (Verb::Remove, _) => {
                work.remove.push(item.id.clone());
                Action::Delete
            }
            (Verb::Install, Some(ours)) => {
                work.install.insert(item.id.clone(), ours);
                Action::Create
            }
            (_, Some(ours)) => {
                work.change.insert(item.id.clone(), ours);
                Action::Change
            }
            (_, None) => continue,
        };
        change(action, item.text.clone());
    }
    for (name, ours) in source {
        if view.marked.contains(name) || view.rules.left_alone.matching(name).is_some() {
            continue;
        }
        let held = target.get(name).map(|theirs| theirs.held);
        let comes = work.install.contains_key(name);
        if ours.held && held != Some(true) && (held.is_some() || comes) {
            change(Action::Attributes, format!("hold {name}"));
            work.hold.push(name.clone());
        } else if !ours.held && held == Some(true) {
            change(Action::Attributes, format!("no hold {name}"));
            work.unhold.push(name.clone());
        }
    }
    Settled {
        work,
        changes,
        withdrawn: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::mirror::filter::Filter;
    use crate::modules::packages::patterns::Patterns;
    use crate::modules::packages::rules::{Mirrored, Rules};

    fn snap(revision: &str) -> Snap {
        Snap {
            version: "1".to_owned(),
            revision: revision.to_owned(),
            channel: "latest/stable".to_owned(),
            ..Snap::default()
        }
    }

    fn made(snaps: &[(&str, Snap)]) -> State {
        snaps
            .iter()
            .map(|(name, snap)| ((*name).to_owned(), snap.clone()))
            .collect()
    }

    fn outcome(source: &State, target: &State, marked: &[&str]) -> (Proposal<()>, Work) {
        outcome_beside(Mirrored::default(), source, target, marked)
    }

    fn outcome_beside(
        mirrored: Mirrored,
        source: &State,
        target: &State,
        marked: &[&str],
    ) -> (Proposal<()>, Work) {
        let rules = Rules {
            left_alone: Patterns::new(["*-firmware"]),
            mirrored,
            ..Rules::default()
        };
        let view = View {
            source,
            target,
            names: ("atlas", "vega"),
            marked: &marked.iter().map(|m| (*m).to_owned()).collect(),
            rules: &rules,
            source_all: &BTreeMap::new(),
            target_all: &BTreeMap::new(),
        };
        let draft = draft(&view);
        let ids = (draft.items.iter())
            .filter(|item| matches!(item.stand, Stand::Asked(_)))
            .map(|item| item.id.clone())
            .collect();
        let work = settle(&view, &draft.items, &ids).work;
        (draft, work)
    }

    #[test]
    fn revisions_channels_and_holds_become_the_sources() {
        let held = Snap {
            held: true,
            classic: true,
            ..snap("7")
        };
        let base = Snap {
            derived: true,
            ..snap("1")
        };
        let source = made(&[
            ("code", held.clone()),
            ("firefox", snap("3")),
            ("core22", base.clone()),
        ]);
        let (draft, work) = outcome(&source, &State::new(), &[]);
        assert_eq!(draft.items.len(), 2, "bases follow");
        assert_eq!(work.install["code"], held);
        assert_eq!(work.hold, ["code"]);
        let target = made(&[
            ("code", snap("6")),
            (
                "firefox",
                Snap {
                    held: true,
                    ..snap("3")
                },
            ),
            ("core20", base),
        ]);
        let (draft, work) = outcome(&source, &target, &[]);
        assert_eq!(draft.items[0].verb, Verb::Replace);
        assert_eq!(work.change.keys().collect::<Vec<_>>(), ["code"]);
        assert_eq!(
            (work.hold.as_slice(), work.unhold.as_slice()),
            (&["code".to_owned()][..], &["firefox".to_owned()][..])
        );
        assert!(work.remove.is_empty(), "nobody asked for a base");
        assert_eq!(
            outcome(&source, &source, &[]),
            (Proposal::default(), Work::default())
        );
    }

    #[test]
    fn a_revision_that_is_not_taken_does_not_find_the_data_that_is_mirrored() {
        let (source, target) = (made(&[("code", snap("7"))]), made(&[("code", snap("6"))]));
        let told = |filter: Filter| {
            let mirrored = Mirrored::made("/home", filter);
            let (draft, _) = outcome_beside(mirrored, &source, &target, &[]);
            draft.items[0].consequences.join(", ")
        };
        assert!(told(Filter::everything()).contains("revision 7 that /home brings"));
        let without = Filter::parse(b"- */snap/\n", "f").unwrap();
        assert_eq!(told(without), "");
    }

    #[test]
    fn what_came_from_a_file_is_told_on_both_machines_and_never_replaced() {
        let (store, file) = (made(&[("mine", snap("3"))]), made(&[("mine", snap("x1"))]));
        for (source, target) in [(&store, &file), (&file, &store), (&file, &State::new())] {
            let (draft, work) = outcome(source, target, &[]);
            assert!(matches!(draft.items[0].stand, Stand::Told(_)), "{draft:?}");
            assert_eq!(work, Work::default());
        }
        let (draft, _) = outcome(&State::new(), &file, &[]);
        assert!(draft.items[0].costly && draft.items[0].stand == Stand::Asked(false));
    }

    #[test]
    fn removals_are_no_by_default_and_marks_and_machine_things_stay() {
        let target = made(&[
            ("games", snap("1")),
            ("own", snap("1")),
            ("gpu-firmware", snap("2")),
        ]);
        let (draft, work) = outcome(&State::new(), &target, &["own"]);
        assert_eq!(work.remove, ["games"]);
        assert!(
            draft
                .items
                .iter()
                .all(|item| item.stand != Stand::Asked(true))
        );
        assert!(!draft.items.iter().any(|item| item.id == "own"));
    }
}
