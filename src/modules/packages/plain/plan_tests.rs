//! The comparison of two machines, made up for it, and what is done on a target that a test makes up.

use std::collections::BTreeMap;
use std::sync::Mutex;

use super::super::Dialect;
use super::super::apply::apply;
use super::*;
use crate::interrupt::AbortFlag;
use crate::modules::packages::answer::Silence;
use crate::modules::packages::effects::{Effects, Transaction, Unforeseen};
use crate::modules::packages::patterns::Patterns;
use crate::modules::packages::rules::Rules;
use crate::modules::packages::testing::FakeMachine;
use crate::modules::packages::tools::Tools;

fn package(manual: bool, repository: &str) -> Package {
    Package {
        version: "1".to_owned(),
        manual,
        repository: (!repository.is_empty()).then(|| repository.to_owned()),
        ..Package::default()
    }
}

fn made(packages: &[(&str, Package)]) -> State {
    let owned = |(name, package): &(&str, Package)| ((*name).to_owned(), package.clone());
    State {
        packages: packages.iter().map(owned).collect(),
        repositories: BTreeMap::from([("fedora".to_owned(), "https://f".to_owned())]),
        can_lock: true,
    }
}

fn outcome(
    source: &State,
    target: &State,
    marked: &[&str],
    effects: &[(&str, Effects)],
) -> (Proposal<Question>, Work) {
    let rules = Rules {
        left_alone: Patterns::new(["kernel*"]),
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
    let mut draft = draft(true, &view);
    let effects: AllEffects = (effects.iter())
        .map(|(name, effects)| ((*name).to_owned(), effects.clone()))
        .collect();
    if draft.question.is_some() {
        consider("dnf", &view, &effects, &mut draft.items);
    }
    let ids = (draft.items.iter())
        .filter(|item| matches!(item.stand, Stand::Asked(_)) && !item.costly)
        .map(|item| item.id.clone())
        .collect();
    let work = settle("dnf", &view, &draft.items, &effects, &ids).work;
    (draft, work)
}

#[test]
fn what_was_asked_for_comes_and_what_was_not_stays_whose_it_is() {
    let source = made(&[
        ("vim", package(true, "fedora")),
        ("lib", package(false, "fedora")),
        ("both", package(true, "fedora")),
        ("copr", package(true, "copr:x")),
        ("kernel-core", package(true, "fedora")),
    ]);
    let target = made(&[
        ("both", package(false, "fedora")),
        ("games", package(true, "fedora")),
        ("own", package(true, "fedora")),
        ("rpm-by-hand", package(true, "")),
        ("dependency", package(false, "fedora")),
    ]);
    let (draft, work) = outcome(&source, &target, &["own"], &[]);
    assert_eq!(work.wish.install, ["vim"]);
    assert_eq!(work.wish.remove, ["games"]);
    assert_eq!(work.manual, ["both"]);
    let find = |id: &str| draft.items.iter().find(|item| item.id == id).unwrap();
    assert!(find("copr").by_person && matches!(find("copr").stand, Stand::Told(_)));
    assert!(matches!(find("kernel-core").stand, Stand::Told(_)));
    assert!(find("rpm-by-hand").costly, "nobody offers it again");
    assert_eq!(find("games").stand, Stand::Asked(false));
    let (_, work) = outcome(&source, &source, &[], &[]);
    assert!(work.is_idle(), "{work:?}");
}

#[test]
fn what_would_take_something_wanted_is_for_a_person_and_refusals_are_told() {
    let source = made(&[
        ("mta-a", package(true, "fedora")),
        ("hand", package(true, "")),
    ]);
    let target = made(&[
        ("mta-b", package(true, "fedora")),
        ("x", package(false, "fedora")),
    ]);
    let swap = Effects {
        removes: vec!["mta-b".to_owned()],
        ..Effects::default()
    };
    let unknown = Effects {
        refused: Some("No match".to_owned()),
        ..Effects::default()
    };
    let (draft, work) = outcome(&source, &target, &[], &[("mta-a", swap), ("hand", unknown)]);
    let find = |id: &str| draft.items.iter().find(|item| item.id == id).unwrap();
    assert!(find("mta-a").costly && find("mta-a").stand == Stand::Asked(false));
    assert!(find("hand").by_person);
    assert!(work.wish.install.is_empty());
}

#[test]
fn locks_of_what_both_have_are_the_sources_or_told() {
    let locked = || Package {
        locked: true,
        ..package(true, "fedora")
    };
    let free = || package(true, "fedora");
    let source = made(&[
        ("a", locked()),
        ("b", free()),
        ("m", locked()),
        ("kernel", locked()),
    ]);
    let mut target = made(&[
        ("a", free()),
        ("b", locked()),
        ("m", free()),
        ("kernel", free()),
    ]);
    let (draft, work) = outcome(&source, &target, &["m"], &[]);
    assert!(
        draft.items.is_empty() && draft.notes.is_empty(),
        "{draft:?}"
    );
    assert_eq!(
        (&work.lock[..], &work.unlock[..]),
        (&["a".to_owned()][..], &["b".to_owned()][..])
    );
    assert!(outcome(&source, &source, &[], &[]).1.is_idle());
    target.can_lock = false;
    let (draft, work) = outcome(&source, &target, &["m"], &[]);
    assert_eq!(
        draft.notes,
        [
            "locked on atlas and not on vega: a",
            "locked on vega and not on atlas: b"
        ]
    );
    assert!(work.is_idle());
}

/// A manager that keeps what is installed, and cannot have `broken`.
struct Made {
    there: Mutex<BTreeSet<String>>,
    takes: &'static str,
}

impl Dialect for Made {
    fn name(&self) -> &'static str {
        "made"
    }

    fn is_there(&self, _: &Tools<'_>) -> bool {
        true
    }

    fn read(&self, _: &Tools<'_>) -> Result<State, Silence> {
        Ok(State::default())
    }

    fn installed(&self, _: &Tools<'_>) -> Result<BTreeSet<String>, Silence> {
        Ok(self.there.lock().unwrap().clone())
    }

    fn foresee(&self, _: &Tools<'_>, wish: &Question) -> Result<Transaction, Unforeseen> {
        let mut foreseen = Transaction::default();
        foreseen.removes.extend(wish.remove.iter().cloned());
        if wish.install.iter().any(|name| name == "greedy") {
            foreseen.removes.insert(self.takes.to_owned());
        }
        Ok(foreseen)
    }

    fn change(&self, _: &Tools<'_>, wish: &Question) -> Result<(), Silence> {
        if wish.install.iter().any(|name| name == "broken") {
            return Err(Silence("broken cannot be".to_owned()));
        }
        let mut there = self.there.lock().unwrap();
        there.extend(wish.install.iter().cloned());
        there.retain(|name| !wish.remove.contains(name));
        Ok(())
    }

    fn mark(&self, _: &Tools<'_>, _: bool, _: &[String]) -> Result<(), Silence> {
        Ok(())
    }
}

#[test]
fn what_fails_fails_by_name_and_nothing_takes_what_was_not_agreed_to() {
    let machine = FakeMachine::new();
    let abort = AbortFlag::new();
    let owned = |names: &[&str]| -> Vec<String> { names.iter().map(|n| (*n).to_owned()).collect() };
    let made = Made {
        there: Mutex::new(owned(&["old", "wanted"]).into_iter().collect()),
        takes: "wanted",
    };
    let mut work = Work {
        wish: Question {
            install: owned(&["good", "broken", "greedy"]),
            remove: owned(&["old"]),
        },
        manual: owned(&["wanted", "nowhere"]),
        ..Work::default()
    };
    let outcomes = apply(&made, &machine.tools(&abort), &work, &mut |_| {}).unwrap();
    let found: Vec<(&str, bool)> = outcomes
        .iter()
        .map(|o| (o.id.as_str(), o.error.is_none()))
        .collect();
    let expected = [
        ("good", true),
        ("broken", false),
        ("greedy", false),
        ("old", true),
        ("manual wanted", true),
    ];
    assert_eq!(found, expected);
    let whys: Vec<&str> = outcomes.iter().filter_map(|o| o.error.as_deref()).collect();
    assert!(whys[0].contains("broken cannot be"), "{whys:?}");
    assert!(whys[1].contains("also remove wanted"), "{whys:?}");
    work.may_remove.insert("wanted".to_owned());
    work.wish = Question {
        install: owned(&["greedy"]),
        ..Question::default()
    };
    let outcomes = apply(&made, &machine.tools(&abort), &work, &mut |_| {}).unwrap();
    assert!(
        outcomes[0].error.is_none(),
        "it was agreed to: {outcomes:?}"
    );
    work.wish.install = owned(&["--option"]);
    assert!(apply(&made, &machine.tools(&abort), &work, &mut |_| {}).is_err());
}
