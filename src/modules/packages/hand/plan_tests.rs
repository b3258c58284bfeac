//! The comparison of what two machines have by hand, on machines made up for it.

use super::*;
use crate::modules::packages::answer::Answer;
use crate::modules::packages::effects::Effects;
use crate::modules::packages::item::Answers;
use crate::modules::packages::patterns::Patterns;
use crate::modules::packages::rules::Rules;

#[derive(Default)]
struct Made(State, apt::State);

impl Made {
    fn path(self, path: &str) -> Self {
        self.program(path, "x", 0)
    }

    fn program(mut self, path: &str, hash: &str, changed: i64) -> Self {
        let hash = hash.to_owned();
        (self.0.paths).insert(path.to_owned(), Print { hash, changed });
        self
    }

    fn package(mut self, name: &str, version: &str) -> Self {
        let package = apt::Package {
            version: version.to_owned(),
            manual: true,
            ..apt::Package::default()
        };
        self.1.packages.insert(name.to_owned(), package);
        self
    }
}

fn outcome(
    source: &Made,
    target: &Made,
    rules: &Rules,
    marked: &[&str],
) -> (Proposal<Question>, Settled<Work>, Work) {
    let answers = |made: &Made| -> Answers {
        let state = serde_json::to_value(&made.1).unwrap();
        BTreeMap::from([("apt".to_owned(), Answer::Is(state))])
    };
    let view = View {
        source: &source.0,
        target: &target.0,
        names: ("atlas", "vega"),
        marked: &marked.iter().map(|m| (*m).to_owned()).collect(),
        rules,
        source_all: &answers(source),
        target_all: &answers(target),
    };
    let mut draft = draft(&view);
    let mut forecast = Forecast::default();
    if draft.question.is_some() {
        let effects = Effects {
            removes: vec!["friend".to_owned()],
            ..Effects::default()
        };
        forecast.effects.insert("zoom".to_owned(), effects);
        consider(&forecast, &mut draft.items);
    }
    let ids = (draft.items.iter())
        .filter(|item| matches!(item.stand, Stand::Asked(_)))
        .map(|item| item.id.clone())
        .collect();
    let settled = settle(&view, &draft.items, &forecast, &ids);
    let work = settled.work.clone();
    (draft, settled, work)
}

fn recipes(pairs: &[(&str, &str)]) -> Rules {
    let owned = |(id, command): &(&str, &str)| ((*id).to_owned(), (*command).to_owned());
    Rules {
        recipes: pairs.iter().map(owned).collect(),
        ..Rules::default()
    }
}

#[test]
fn without_a_recipe_it_is_for_a_person_and_with_one_it_is_followed() {
    let source = Made::default().path("/opt/tool").package("zoom", "6");
    let (draft, settled, _) = outcome(&source, &Made::default(), &Rules::default(), &[]);
    assert_eq!(draft.items.len(), 2);
    assert!(draft.items.iter().all(|item| item.by_person));
    assert!(settled.work == Work::default() && settled.changes.is_empty());
    let rules = recipes(&[("zoom", "get zoom"), ("/opt/tool", "get tool")]);
    let (_, settled, work) = outcome(&source, &Made::default(), &rules, &[]);
    assert_eq!(settled.changes.len(), 2);
    assert_eq!(work.recipes["zoom"].version.as_deref(), Some("6"));
    assert_eq!(work.recipes["/opt/tool"].command, "get tool");
    let (_, settled, _) = outcome(&source, &source, &rules, &[]);
    assert!(settled.work == Work::default(), "equal machines");
}

#[test]
fn what_only_the_target_has_goes_only_when_a_person_says_so() {
    let target = Made::default().path("/opt/tool").package("zoom", "6");
    let (draft, _, work) = outcome(&Made::default(), &target, &Rules::default(), &[]);
    for item in &draft.items {
        assert!(item.costly && item.stand == Stand::Asked(false), "{item:?}");
    }
    assert!(draft.items[0].consequences[0].contains("friend"));
    assert_eq!(work.remove, ["zoom"]);
    assert_eq!(work.delete, ["/opt/tool"]);
    assert!(work.may_remove.contains("friend"));
    let (draft, _, _) = outcome(
        &Made::default(),
        &target,
        &Rules::default(),
        &["zoom", "/opt/tool"],
    );
    assert!(draft.items.is_empty(), "it belongs to vega");
    let rules = Rules {
        left_alone: Patterns::new(["/opt/*", "zoom"]),
        ..Rules::default()
    };
    assert!(
        outcome(&Made::default(), &target, &rules, &[])
            .0
            .items
            .is_empty()
    );
}

#[test]
fn an_older_one_is_brought_up_to_date_by_its_recipe_and_a_newer_one_is_told() {
    let (old, new) = (
        Made::default().package("zoom", "5"),
        Made::default().package("zoom", "6"),
    );
    let rules = recipes(&[("zoom", "get zoom")]);
    let (draft, _, work) = outcome(&new, &old, &rules, &[]);
    assert_eq!(draft.items[0].verb, Verb::Replace);
    assert_eq!(work.recipes.len(), 1);
    let (draft, settled, _) = outcome(&old, &new, &rules, &[]);
    assert!(draft.items.is_empty() && settled.work == Work::default());
    assert!(draft.notes[0].contains("6 on vega, 5 on atlas"));
}

#[test]
fn another_content_is_told_and_a_newer_one_may_be_brought_by_its_recipe() {
    let day = 86_400;
    let (one, two) = (
        Made::default().program("/opt/tool", "one", 20_000 * day),
        Made::default().program("/opt/tool", "two", 20_001 * day),
    );
    let (draft, settled, _) = outcome(&two, &one, &Rules::default(), &[]);
    assert!(draft.items.is_empty() && settled.changes.is_empty());
    assert!(
        draft.notes[0].contains("changed 2024-10-05 on atlas, 2024-10-04 on vega"),
        "{:?}",
        draft.notes
    );
    // With a recipe a person may say so, and nobody else; an older one never takes a newer one's place.
    let rules = recipes(&[("/opt/tool", "get tool")]);
    let (draft, _, work) = outcome(&two, &one, &rules, &[]);
    let item = &draft.items[0];
    assert!(item.costly && item.verb == Verb::Replace && item.stand == Stand::Asked(false));
    assert_eq!(work.recipes["/opt/tool"].command, "get tool");
    let (draft, _, _) = outcome(&one, &two, &rules, &[]);
    assert!(draft.items.is_empty() && draft.notes.len() == 1);
    for (rules, marked) in [
        (Rules::default(), &["/opt/tool"][..]),
        (
            Rules {
                left_alone: Patterns::new(["/opt/*"]),
                ..Rules::default()
            },
            &[][..],
        ),
    ] {
        let (draft, _, _) = outcome(&two, &one, &rules, marked);
        assert_eq!(draft, Proposal::default());
    }
}

#[test]
fn without_apts_answer_packages_are_not_spoken_of() {
    let (ours, theirs) = (Made::default().path("/opt/x").0, State::default());
    let silent = BTreeMap::from([("apt".to_owned(), Answer::Silent("dead".to_owned()))]);
    let view = View {
        source: &ours,
        target: &theirs,
        names: ("atlas", "vega"),
        marked: &BTreeSet::new(),
        rules: &Rules::default(),
        source_all: &silent,
        target_all: &silent,
    };
    assert_eq!(draft(&view).items.len(), 1);
}
