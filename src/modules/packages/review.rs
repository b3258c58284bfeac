//! Asking a person what may be done: all of it on one screen, and where there is none, grouped by manager
//! and action, all at once or one by one.

mod survey;

use std::collections::BTreeSet;

use super::item::{Item, Stand, Verb};
use crate::escape::escape_str;
use crate::event::Host;
use crate::prompt::{Choice, PromptError, Prompter, Question};

/// In the order they are asked about.
const VERBS: [Verb; 4] = [Verb::Install, Verb::Note, Verb::Replace, Verb::Remove];

/// Lines of a group shown before it says how many more there are.
const SHOWN: usize = 40;

/// What was decided about one manager's items.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Decided {
    /// Ids that will be acted on.
    pub chosen: BTreeSet<String>,
    /// Ids that belong to one machine only, from now on.
    pub never: BTreeSet<String>,
    /// Ids nobody could be asked about.
    pub unanswered: Vec<String>,
}

/// Who answers.
#[derive(Clone, Copy)]
pub enum Answers<'a> {
    /// A person.
    Person(&'a dyn Prompter),
    /// The defaults (`--yes`, and the preview of a dry run).
    Defaults,
    /// The flags of a run that cannot ask.
    Flags {
        /// `--apply-package-installs`.
        installs: bool,
        /// `--apply-package-removals`.
        removals: bool,
    },
}

/// Decides about the items of every manager, each with its name.
pub fn decide(
    lists: &[(&str, &[Item])],
    names: (&str, &str),
    answers: Answers<'_>,
) -> Result<Vec<Decided>, PromptError> {
    if let Answers::Person(prompter) = answers
        && let Some(decided) = survey::decide(lists, names, prompter)?
    {
        return Ok(decided);
    }
    (lists.iter())
        .map(|(manager, items)| decide_one(manager, items, names, answers))
        .collect()
}

/// Decides about all items of one manager.
fn decide_one(
    manager: &str,
    items: &[Item],
    names: (&str, &str),
    answers: Answers<'_>,
) -> Result<Decided, PromptError> {
    let mut decided = Decided::default();
    for verb in VERBS {
        let group: Vec<&Item> = (items.iter())
            .filter(|item| item.verb == verb && matches!(item.stand, Stand::Asked(_)))
            .collect();
        if group.is_empty() {
            continue;
        }
        match answers {
            Answers::Defaults => decided.chosen.extend(
                (group.iter())
                    .filter(|item| item.stand == Stand::Asked(true))
                    .map(|item| item.id.clone()),
            ),
            Answers::Flags { installs, removals } => {
                let allowed = if verb == Verb::Remove {
                    removals
                } else {
                    installs
                };
                for item in group {
                    // What would cost something that was wanted there is only for a person to allow.
                    if allowed && !item.costly {
                        decided.chosen.insert(item.id.clone());
                    } else {
                        decided.unanswered.push(item.id.clone());
                    }
                }
            }
            Answers::Person(prompter) => {
                ask_group(manager, verb, &group, names, prompter, &mut decided)?;
            }
        }
    }
    Ok(decided)
}

fn line(item: &Item) -> String {
    let mut text = escape_str(&item.text);
    for consequence in &item.consequences {
        text.push_str("; ");
        text.push_str(&escape_str(consequence));
    }
    text
}

fn phrase(verb: Verb, count: usize, target: &str) -> String {
    let things = if count == 1 { "this one" } else { "these" };
    match verb {
        Verb::Install => format!("Install {things} on {target}?"),
        Verb::Note => format!("Note {things} on {target} as on the other machine?"),
        Verb::Replace => format!("Replace {things} on {target}?"),
        Verb::Remove => format!("Remove {things} from {target}?"),
    }
}

fn choice(key: char, label: &str, effect: String) -> Choice {
    Choice {
        key,
        label: label.to_owned(),
        effect,
    }
}

fn ask_group(
    manager: &str,
    verb: Verb,
    group: &[&Item],
    names: (&str, &str),
    prompter: &dyn Prompter,
    decided: &mut Decided,
) -> Result<(), PromptError> {
    let target = names.1;
    let easy: Vec<&&Item> = group.iter().filter(|item| !item.costly).collect();
    let mut detail = vec![format!("{manager}, {}: {}", verb.heading(), group.len())];
    detail.extend(
        group
            .iter()
            .take(SHOWN)
            .map(|item| format!("  {}", line(item))),
    );
    if group.len() > SHOWN {
        detail.push(format!(
            "  and {} more, named one by one with e",
            group.len() - SHOWN
        ));
    }
    let costly = group.len() - easy.len();
    if costly > 0 {
        detail.push(format!(
            "{costly} of them are asked about one by one: see what else goes"
        ));
    }
    let effect = match verb {
        Verb::Install => "install them all, with what they need".to_owned(),
        Verb::Note => "changes what is noted, not what is installed".to_owned(),
        Verb::Replace => "replace them all".to_owned(),
        Verb::Remove => format!("remove them all from {target}"),
    };
    let default_yes = verb != Verb::Remove;
    let question = Question {
        detail,
        text: phrase(verb, group.len(), target),
        choices: vec![
            choice('y', "yes", effect),
            choice('e', "each", "ask about each one".to_owned()),
            choice(
                'n',
                "no",
                "leave them this time; the next sync asks again".to_owned(),
            ),
        ],
        default: if default_yes { 0 } else { 2 },
        flag: Some(flag(verb).to_owned()),
    };
    match prompter.choose(&question)? {
        0 => {
            decided
                .chosen
                .extend(easy.iter().map(|item| item.id.clone()));
            for item in group.iter().filter(|item| item.costly) {
                ask_one(manager, item, names, prompter, decided)?;
            }
        }
        1 => {
            for item in group {
                ask_one(manager, item, names, prompter, decided)?;
            }
        }
        _ => {}
    }
    Ok(())
}

fn flag(verb: Verb) -> &'static str {
    if verb == Verb::Remove {
        "--apply-package-removals"
    } else {
        "--apply-package-installs"
    }
}

fn ask_one(
    manager: &str,
    item: &Item,
    names: (&str, &str),
    prompter: &dyn Prompter,
    decided: &mut Decided,
) -> Result<(), PromptError> {
    let (source, target) = names;
    let holder = match item.holder() {
        Host::Source => source,
        Host::Target => target,
    };
    let mut detail = vec![format!("{manager}: {}", escape_str(&item.text))];
    detail.extend(
        item.consequences
            .iter()
            .map(|text| format!("  {}", escape_str(text))),
    );
    let mut choices = vec![
        choice('y', "yes", format!("{} on {target}", item.verb.heading())),
        choice(
            'n',
            "no",
            "leave it this time; the next sync asks again".to_owned(),
        ),
    ];
    if item.verb != Verb::Note {
        let effect = format!("it belongs to {holder} alone; never ask again");
        choices.push(choice('x', "never", effect));
    }
    let question = Question {
        detail,
        text: phrase(item.verb, 1, target),
        choices,
        default: usize::from(item.stand != Stand::Asked(true)),
        flag: (!item.costly).then(|| flag(item.verb).to_owned()),
    };
    match prompter.choose(&question)? {
        0 => {
            decided.chosen.insert(item.id.clone());
        }
        2 => {
            decided.never.insert(item.id.clone());
        }
        _ => {}
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    use crate::prompt::Secret;

    /// Answers with the keys it was given.
    struct Keys(Mutex<Vec<char>>, Mutex<Vec<Question>>);

    impl Prompter for Keys {
        fn can_ask(&self) -> bool {
            true
        }

        fn choose(&self, question: &Question) -> Result<usize, PromptError> {
            self.1.lock().unwrap().push(question.clone());
            let key = self.0.lock().unwrap().remove(0);
            if key == '\n' {
                return Ok(question.default);
            }
            Ok(question.choices.iter().position(|c| c.key == key).unwrap())
        }

        fn secret(&self, _: &str) -> Result<Secret, PromptError> {
            Err(PromptError::CannotAsk)
        }

        fn line(&self, _: &str) -> Result<String, PromptError> {
            Err(PromptError::CannotAsk)
        }
    }

    fn items() -> Vec<Item> {
        let mut costly = Item::asked("swap", Verb::Install, "swap 1");
        costly.costly = true;
        costly.stand = Stand::Asked(false);
        costly
            .consequences
            .push("also removes what was asked for there: keep".to_owned());
        vec![
            Item::asked("vim", Verb::Install, "vim 9"),
            Item::asked("jq", Verb::Install, "jq \u{1b}[2J"),
            costly,
            Item::told(
                "linux-image-1",
                Verb::Install,
                "linux-image-1",
                "left alone",
            ),
            Item::asked("nano", Verb::Remove, "nano 7"),
        ]
    }

    fn ask(keys: &str) -> (Decided, Vec<Question>) {
        let prompter = Keys(Mutex::new(keys.chars().collect()), Mutex::default());
        let answers = Answers::Person(&prompter);
        let decided = decide_one("apt", &items(), ("atlas", "vega"), answers).unwrap();
        assert!(prompter.0.lock().unwrap().is_empty(), "unasked: {keys}");
        (decided, prompter.1.into_inner().unwrap())
    }

    fn ids(set: &BTreeSet<String>) -> Vec<&str> {
        set.iter().map(String::as_str).collect()
    }

    #[test]
    fn installing_is_yes_and_removing_is_no_unless_said_otherwise() {
        // The costly one is asked about by itself, and its default is no.
        let (decided, questions) = ask("\n\n\n");
        assert_eq!(ids(&decided.chosen), ["jq", "vim"]);
        assert!(decided.never.is_empty() && decided.unanswered.is_empty());
        assert!(
            questions
                .iter()
                .all(|q| !q.detail.join("").contains('\u{1b}'))
        );
        assert!(questions[1].detail.join(" ").contains("keep"));
        assert_eq!(
            questions[1].flag, None,
            "no flag says yes to what costs something"
        );
        assert_eq!(
            questions[2].flag.as_deref(),
            Some("--apply-package-removals")
        );
    }

    #[test]
    fn each_can_be_answered_and_kept_for_good() {
        let (decided, _) = ask("exnyex");
        assert_eq!(ids(&decided.chosen), ["swap"]);
        assert_eq!(ids(&decided.never), ["nano", "vim"]);
        let (decided, _) = ask("nn");
        assert_eq!(decided, Decided::default());
    }

    #[test]
    fn without_a_person_flags_decide_and_the_rest_is_named() {
        let flags = |installs, removals| {
            let answers = Answers::Flags { installs, removals };
            decide_one("apt", &items(), ("atlas", "vega"), answers).unwrap()
        };
        let none = flags(false, false);
        assert!(none.chosen.is_empty());
        assert_eq!(none.unanswered, ["vim", "jq", "swap", "nano"]);
        let installs = flags(true, false);
        assert_eq!(ids(&installs.chosen), ["jq", "vim"]);
        assert_eq!(installs.unanswered, ["swap", "nano"]);
        assert_eq!(ids(&flags(true, true).chosen), ["jq", "nano", "vim"]);
        let defaults = decide_one("apt", &items(), ("a", "b"), Answers::Defaults).unwrap();
        assert_eq!(ids(&defaults.chosen), ["jq", "vim"]);
    }
}
