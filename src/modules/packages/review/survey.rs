//! The review on one screen: what a person is shown of the items, and what the answers mean.

use super::{Decided, VERBS, choice};
use crate::event::Host;
use crate::modules::packages::item::{Item, Stand, Verb};
use crate::prompt::{Choice, PromptError, Prompter, Survey, SurveyGroup, SurveyRow};

/// What an answer means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Meaning {
    Act,
    Skip,
    Never,
}

/// Where a row comes from: the number of the manager, and the item.
type Origin<'i> = (usize, &'i Item);

/// Asks about everything at once; `None` if there is no screen for it.
pub(super) fn decide(
    lists: &[(&str, &[Item])],
    names: (&str, &str),
    prompter: &dyn Prompter,
) -> Result<Option<Vec<Decided>>, PromptError> {
    let mut survey = Survey::default();
    let mut origins: Vec<(Vec<Meaning>, Vec<Origin<'_>>)> = Vec::new();
    let kinds = VERBS
        .into_iter()
        .map(|verb| (verb, false))
        .chain([(Verb::Install, true)]);
    for (verb, by_person) in kinds {
        let found: Vec<Origin<'_>> = (lists.iter().enumerate())
            .flat_map(|(number, (_, items))| items.iter().map(move |item| (number, item)))
            .filter(|(_, item)| item.verb == verb && is_for(item, by_person))
            .collect();
        if found.is_empty() {
            continue;
        }
        let (choices, meanings) = choices(verb, by_person, names);
        let rows = found.iter().map(|(number, item)| {
            let answer = match item.stand {
                Stand::Asked(true) => Meaning::Act,
                _ => Meaning::Skip,
            };
            SurveyRow {
                text: format!("{}: {}", lists[*number].0, item.text),
                detail: detail(item),
                answer: meanings.iter().position(|m| *m == answer).unwrap_or(0),
                alone: item.costly,
            }
        });
        survey.groups.push(SurveyGroup {
            heading: heading(verb, by_person, names.1),
            rows: rows.collect(),
            choices,
        });
        origins.push((meanings, found));
    }
    let mut decided = vec![Decided::default(); lists.len()];
    let asks = (origins.iter().flat_map(|(_, found)| found)).any(|(_, item)| !is_for(item, true));
    // What only a person can bring is no reason to ask in each run.
    if !asks {
        return Ok(Some(decided));
    }
    survey.title = format!("Software for {}", names.1);
    let Some(answers) = prompter.survey(&survey)? else {
        return Ok(None);
    };
    for ((meanings, found), answers) in origins.iter().zip(answers) {
        for ((number, item), answer) in found.iter().zip(answers) {
            match meanings.get(answer) {
                Some(Meaning::Act) => {
                    decided[*number].chosen.insert(item.id.clone());
                }
                Some(Meaning::Never) => {
                    decided[*number].never.insert(item.id.clone());
                }
                Some(Meaning::Skip) | None => {}
            }
        }
    }
    Ok(Some(decided))
}

/// Whether it is asked about, or only a person can see to it.
fn is_for(item: &Item, by_person: bool) -> bool {
    let is_asked = matches!(item.stand, Stand::Asked(_));
    if by_person {
        item.by_person && !is_asked
    } else {
        is_asked
    }
}

fn detail(item: &Item) -> Vec<String> {
    let mut lines = item.consequences.clone();
    if let Stand::Told(why) = &item.stand {
        lines.push(why.clone());
    }
    lines
}

fn heading(verb: Verb, by_person: bool, target: &str) -> String {
    match verb {
        _ if by_person => format!("For you to bring to {target}"),
        Verb::Install => format!("Install on {target}"),
        Verb::Note => format!("Note on {target}"),
        Verb::Replace => format!("Replace on {target}"),
        Verb::Remove => format!("Remove from {target}"),
    }
}

fn choices(verb: Verb, by_person: bool, names: (&str, &str)) -> (Vec<Choice>, Vec<Meaning>) {
    let (source, target) = names;
    let holder = match verb {
        Verb::Remove => Host::Target,
        _ => Host::Source,
    };
    let holder = match holder {
        Host::Source => source,
        Host::Target => target,
    };
    let (mut choices, mut meanings) = (Vec::new(), Vec::new());
    let mut add = |key: char, label: &str, effect: String, meaning: Meaning| {
        choices.push(choice(key, label, effect));
        meanings.push(meaning);
    };
    if !by_person {
        let effect = match verb {
            Verb::Install => format!("install it on {target}, with what it needs"),
            Verb::Note => "changes what is noted, not what is installed".to_owned(),
            Verb::Replace => format!("replace it on {target}"),
            Verb::Remove => format!("remove it from {target}"),
        };
        add('y', "yes", effect, Meaning::Act);
    }
    let effect = "leave it this time; the next sync asks again".to_owned();
    add('n', "no", effect, Meaning::Skip);
    if verb != Verb::Note {
        let effect = format!("it belongs to {holder} alone; never ask again");
        add('x', "never", effect, Meaning::Never);
    }
    (choices, meanings)
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::prompt::{Question, Secret};

    /// Gives these answers, if it has a screen.
    struct Person(Option<Vec<Vec<usize>>>, Mutex<Vec<Survey>>);

    impl Prompter for Person {
        fn can_ask(&self) -> bool {
            true
        }

        fn choose(&self, _: &Question) -> Result<usize, PromptError> {
            Err(PromptError::CannotAsk)
        }

        fn survey(&self, survey: &Survey) -> Result<Option<Vec<Vec<usize>>>, PromptError> {
            self.1.lock().unwrap().push(survey.clone());
            Ok(self.0.clone())
        }

        fn secret(&self, _: &str) -> Result<Secret, PromptError> {
            Err(PromptError::CannotAsk)
        }

        fn line(&self, _: &str) -> Result<String, PromptError> {
            Err(PromptError::CannotAsk)
        }
    }

    fn by_person() -> Item {
        let mut item = Item::told("/opt/x", Verb::Install, "/opt/x", "copy it");
        item.by_person = true;
        item
    }

    #[test]
    fn all_managers_are_on_one_screen_grouped_by_action() {
        let mut swap = Item::asked("swap", Verb::Install, "swap");
        swap.costly = true;
        swap.stand = Stand::Asked(false);
        let apt = [
            Item::asked("vim", Verb::Install, "vim 9"),
            swap,
            Item::asked("nano", Verb::Remove, "nano"),
            Item::told("kernel", Verb::Install, "kernel", "left alone"),
            Item::asked("jq", Verb::Note, "jq"),
        ];
        let flatpak = [Item::asked("system app/a", Verb::Install, "a")];
        let hand = [by_person()];
        let lists: [(&str, &[Item]); 3] = [("apt", &apt), ("flatpak", &flatpak), ("hand", &hand)];
        let answers = vec![vec![0, 1, 2], vec![0], vec![2], vec![1]];
        let person = Person(Some(answers), Mutex::default());
        let decided = decide(&lists, ("atlas", "vega"), &person).unwrap().unwrap();
        let survey = person.1.into_inner().unwrap().remove(0);
        let headings: Vec<&str> = survey.groups.iter().map(|g| g.heading.as_str()).collect();
        let expected = [
            "Install on vega",
            "Note on vega",
            "Remove from vega",
            "For you to bring to vega",
        ];
        assert_eq!(headings, expected);
        let begins: Vec<Vec<usize>> = (survey.groups.iter())
            .map(|group| group.rows.iter().map(|row| row.answer).collect())
            .collect();
        assert_eq!(begins, [vec![0, 1, 0], vec![0], vec![1], vec![0]]);
        assert!(
            survey.groups[0].rows[1].alone,
            "what costs something is answered by itself"
        );
        assert!(survey.groups[2].choices[2].effect.contains("vega alone"));
        assert!(decided[0].chosen.contains("vim") && decided[0].chosen.contains("jq"));
        assert_eq!(decided[0].chosen.len(), 2);
        assert!(decided[0].never.contains("nano"));
        assert!(decided[1].never.contains("system app/a"));
        assert!(
            decided[2].never.contains("/opt/x"),
            "it belongs to atlas alone"
        );
    }

    #[test]
    fn nothing_is_asked_where_there_is_nothing_to_decide_and_no_screen_is_said() {
        let person = Person(None, Mutex::default());
        let hand = [by_person()];
        let lists: [(&str, &[Item]); 1] = [("hand", &hand)];
        let decided = decide(&lists, ("atlas", "vega"), &person).unwrap();
        assert_eq!(decided, Some(vec![Decided::default()]));
        assert!(person.1.lock().unwrap().is_empty());
        let apt = [Item::asked("vim", Verb::Install, "vim")];
        let lists: [(&str, &[Item]); 1] = [("apt", &apt)];
        assert_eq!(decide(&lists, ("atlas", "vega"), &person).unwrap(), None);
    }
}
