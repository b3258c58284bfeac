//! From what both machines said to what will be done: each manager's draft, one review of all of them,
//! and what the chosen items come to.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use serde_json::Value;

use super::answer::Answer;
use super::item::{Draft, Item, Stand, View};
use super::manager::Manager;
use super::marks::{self, Mark, Marks};
use super::review::{self, Answers, Decided};
use super::rules::Rules;
use super::service::{PackagesRequest, Reading};
use super::{Packages, Ready, ask, list, managers};
use crate::escape::escape_str;
use crate::event::{Host, LogLevel};
use crate::module::{Change, ModuleContext, ModuleError};

/// Whose answers decide.
fn answers<'a>(context: &'a ModuleContext<'_>) -> Answers<'a> {
    let session = context.session;
    let flagged = session.package_installs || session.package_removals;
    let person = context.prompter.can_ask() && !flagged;
    if person && (session.yes || session.dry_run) {
        Answers::Defaults
    } else if person {
        Answers::Person(context.prompter)
    } else {
        Answers::Flags {
            installs: session.package_installs,
            removals: session.package_removals,
        }
    }
}

/// What belongs to one machine only, on either; `None`, with an error logged, if that is not known.
fn known_marks(context: &ModuleContext<'_>, readings: [&Reading; 2]) -> Option<Vec<Marks>> {
    let mut known = Vec::new();
    for (machine, reading) in [context.source, context.target].into_iter().zip(readings) {
        match &reading.marks {
            Answer::Is(marks) => known.push(marks.clone()),
            Answer::Absent => {}
            Answer::Silent(why) => {
                let text = format!("what belongs to {} alone: {why}", machine.hostname);
                context.log(LogLevel::Error, machine.host, text);
                return None;
            }
        }
    }
    Some(known)
}

/// What both machines' managers of one name answered; nothing, with words where there are some to say,
/// if there is nothing to compare.
fn pair<'r>(
    context: &ModuleContext<'_>,
    name: &str,
    source: &'r Reading,
    target: &'r Reading,
) -> Option<(&'r Value, &'r Value)> {
    let answers = (source.managers.get(name), target.managers.get(name));
    match answers {
        (Some(Answer::Is(ours)), Some(Answer::Is(theirs))) => Some((ours, theirs)),
        (Some(Answer::Silent(why)), _) | (_, Some(Answer::Silent(why))) => {
            let silent_source = matches!(answers.0, Some(Answer::Silent(_)));
            let machine = if silent_source {
                context.source
            } else {
                context.target
            };
            let text = format!("{name} did not answer: {why}");
            context.log(LogLevel::Error, machine.host, text);
            None
        }
        (Some(Answer::Is(_)), _) | (_, Some(Answer::Is(_))) => {
            let (has, lacks) = if matches!(answers.0, Some(Answer::Is(_))) {
                (context.source, context.target)
            } else {
                (context.target, context.source)
            };
            let text = format!(
                "{name} is on {} only, not on {}: nothing is done with it",
                has.hostname, lacks.hostname
            );
            context.log(LogLevel::Info, lacks.host, text);
            None
        }
        _ => None,
    }
}

/// One manager's draft; an error is a manager's that talked nonsense or did not answer.
fn draft_of(
    context: &ModuleContext<'_>,
    manager: &'static dyn Manager,
    view: &View<'_>,
) -> Result<Result<Draft, String>, ModuleError> {
    let mut draft = match manager.draft(view) {
        Ok(draft) => draft,
        Err(why) => return Ok(Err(why)),
    };
    let Some(question) = draft.question.take() else {
        return Ok(Ok(draft));
    };
    let request = PackagesRequest::Weigh {
        manager: manager.name().to_owned(),
        question,
    };
    let answer: Answer<Value> = ask(context.target, &request, None)?;
    let considered = match answer {
        Answer::Is(answer) => manager.consider(view, &mut draft, answer),
        Answer::Absent => Err("it is gone".to_owned()),
        Answer::Silent(why) => Err(why),
    };
    Ok(considered.map(|()| draft))
}

/// What is told and not asked.
fn tell(context: &ModuleContext<'_>, name: &str, draft: &Draft) {
    for note in &draft.notes {
        let text = format!("{name}: {}", escape_str(note));
        context.log(LogLevel::Info, Host::Target, text);
    }
    for item in &draft.items {
        if let Stand::Told(why) = &item.stand {
            let text = format!("{name}: {}: {}", escape_str(&item.text), escape_str(why));
            context.log(LogLevel::Info, item.holder(), text);
        }
    }
    let by_person: Vec<&String> = (draft.items.iter())
        .filter(|item| item.by_person && matches!(item.stand, Stand::Told(_)))
        .map(|item| &item.id)
        .collect();
    if !by_person.is_empty() {
        let text = format!(
            "{name}: {} on {} for a person to bring to {}: {}",
            by_person.len(),
            context.source.hostname,
            context.target.hostname,
            list(by_person)
        );
        context.decide("by_hand", Host::Target, text);
    }
}

impl Packages {
    /// Notes what was decided about one manager's items.
    fn note(&mut self, context: &ModuleContext<'_>, name: &str, draft: &Draft, decided: &Decided) {
        if !decided.unanswered.is_empty() {
            self.unanswered += decided.unanswered.len();
            let text = format!("{name}: not decided: {}", list(&decided.unanswered));
            context.log(LogLevel::Warning, Host::Target, text);
        }
        let never = |item: &&Item| decided.never.contains(&item.id);
        for item in draft.items.iter().filter(never) {
            let mark = Mark {
                text: item.text.clone(),
                at: Timestamp::now(),
            };
            let marks = Marks::from([(name.to_owned(), BTreeMap::from([(item.id.clone(), mark)]))]);
            self.marks.push((item.holder(), marks));
        }
    }

    /// Everything that will be done, in order.
    pub(super) fn make_plan(
        &mut self,
        context: &ModuleContext<'_>,
    ) -> Result<Vec<Change>, ModuleError> {
        self.ready.clear();
        self.marks.clear();
        self.unanswered = 0;
        let rules = Rules::of(context.config);
        let (source, target) = self.readings(context)?.clone();
        // What is protected is not known: nothing at all is done.
        let Some(known) = known_marks(context, [&source, &target]) else {
            return Ok(Vec::new());
        };
        let marked: BTreeMap<&str, BTreeSet<String>> = (managers().iter())
            .map(|manager| (manager.name(), marks::marked(&known, manager.name())))
            .collect();
        let view = |name: &str, (ours, theirs)| View {
            source: ours,
            target: theirs,
            names: (&context.source.hostname, &context.target.hostname),
            marked: &marked[name],
            rules: &rules,
            source_all: &source.managers,
            target_all: &target.managers,
        };
        let failed = |name: &str, why: String| {
            let text = format!("{name} did not answer: {}", escape_str(&why));
            context.log(LogLevel::Error, Host::Target, text);
        };
        let mut drafts = Vec::new();
        for &manager in managers() {
            context.abort.check()?;
            let name = manager.name();
            let Some(answers) = pair(context, name, &source, &target) else {
                continue;
            };
            let view = view(name, answers);
            match draft_of(context, manager, &view)? {
                Ok(draft) => {
                    tell(context, name, &draft);
                    drafts.push((manager, view, draft));
                }
                Err(why) => failed(name, why),
            }
        }
        let lists: Vec<(&str, &[Item])> = (drafts.iter())
            .map(|(manager, _, draft)| (manager.name(), &draft.items[..]))
            .collect();
        let names = (&*context.source.hostname, &*context.target.hostname);
        let decided = review::decide(&lists, names, answers(context))?;
        let mut changes = Vec::new();
        for ((manager, view, draft), decided) in drafts.iter().zip(decided) {
            let name = manager.name();
            self.note(context, name, draft, &decided);
            let settled = match manager.settle(view, draft, &decided.chosen) {
                Ok(settled) => settled,
                Err(why) => {
                    failed(name, why);
                    continue;
                }
            };
            for (id, why) in &settled.withdrawn {
                let (id, why) = (escape_str(id), escape_str(why));
                let text = format!("{name}: {id} is not done: {why}");
                context.log(LogLevel::Warning, Host::Target, text);
            }
            changes.extend(settled.changes.iter().cloned());
            self.ready.push(Ready {
                manager: *manager,
                settled,
            });
        }
        Ok(changes)
    }
}
