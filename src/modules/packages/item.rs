//! What a review is about: one thing that may be done to the target, or one that is only told.

use std::collections::{BTreeMap, BTreeSet};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::answer::Answer;
use crate::change::{Action, Change};
use crate::event::Host;

/// What would be done to a piece of software.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verb {
    /// It comes to the target.
    Install,
    /// It is there, and is noted as asked for (or not asked for) as on the source.
    Note,
    /// Another version or channel of it takes its place.
    Replace,
    /// It leaves the target.
    Remove,
}

impl Verb {
    /// For headings: what all items of this kind would have done to them.
    #[must_use]
    pub fn heading(self) -> &'static str {
        match self {
            Self::Install => "install",
            Self::Note => "note as on the other machine",
            Self::Replace => "replace",
            Self::Remove => "remove",
        }
    }
}

/// How an item is decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stand {
    /// A person decides; `true`: acting is what is proposed.
    Asked(bool),
    /// Nothing will be done, and why.
    Told(String),
}

/// One item.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// Names it within its manager, on every machine alike.
    pub id: String,
    /// What would be done.
    pub verb: Verb,
    /// For people: name, version, where from (not yet escaped).
    pub text: String,
    /// What else would come of it.
    pub consequences: Vec<String>,
    /// Whether it would take something from the target that somebody wanted there: then neither a
    /// default nor a flag says yes.
    pub costly: bool,
    /// Whether a person has to see to it: it is told at the end of each run until it is done, or noted
    /// as belonging to its machine.
    pub by_person: bool,
    /// How it is decided.
    pub stand: Stand,
}

impl Item {
    /// A question with what is usual as its default: installing yes, removing no.
    #[must_use]
    pub fn asked(id: impl Into<String>, verb: Verb, text: impl Into<String>) -> Self {
        Self {
            id: id.into(),
            verb,
            text: text.into(),
            consequences: Vec::new(),
            costly: false,
            by_person: false,
            stand: Stand::Asked(verb != Verb::Remove),
        }
    }

    /// Something that is told and not done.
    #[must_use]
    pub fn told(
        id: impl Into<String>,
        verb: Verb,
        text: impl Into<String>,
        why: impl Into<String>,
    ) -> Self {
        Self {
            stand: Stand::Told(why.into()),
            ..Self::asked(id, verb, text)
        }
    }

    /// The machine that has the thing, where "belongs to this machine" is noted.
    #[must_use]
    pub fn holder(&self) -> Host {
        match self.verb {
            Verb::Remove => Host::Target,
            _ => Host::Source,
        }
    }
}

/// What a manager proposes.
#[derive(Debug, Clone, PartialEq)]
pub struct Proposal<Q> {
    /// What may be done, in the order shown.
    pub items: Vec<Item>,
    /// What differs and is left, as whole lines.
    pub notes: Vec<String>,
    /// What the target's manager is asked about it, if anything.
    pub question: Option<Q>,
}

impl<Q> Default for Proposal<Q> {
    fn default() -> Self {
        Self {
            items: Vec::new(),
            notes: Vec::new(),
            question: None,
        }
    }
}

/// The same of any manager, with the answer when there is one.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Draft {
    /// What may be done, in the order shown.
    pub items: Vec<Item>,
    /// What differs and is left, as whole lines.
    pub notes: Vec<String>,
    /// What the target's manager is asked about this proposal, if anything.
    pub question: Option<Value>,
    /// The answer.
    pub answer: Value,
}

/// What a decided draft comes to.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Settled<W = Value> {
    /// For the target's agent; of any manager, `Null`: nothing is to be done.
    pub work: W,
    /// The same for people, in order: software and what it needs.
    pub changes: Vec<Change>,
    /// Items that could not be settled after all, with the reason.
    pub withdrawn: Vec<(String, String)>,
}

/// One change, as the plan lists it.
#[must_use]
pub fn change(manager: &str, action: Action, text: &str) -> Change {
    Change {
        action,
        item: format!("{manager} {text}").into_bytes(),
        detail: String::new(),
        bytes: 0,
        from: None,
    }
}

/// How one piece of work ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// The item, or what was done for it.
    pub id: String,
    /// Why it was not done, if it was not.
    pub error: Option<String>,
}

impl Outcome {
    /// Done.
    #[must_use]
    pub fn done(id: impl Into<String>) -> Self {
        Self {
            id: id.into(),
            error: None,
        }
    }

    /// Not done.
    #[must_use]
    pub fn failed(id: impl Into<String>, why: impl Into<String>) -> Self {
        Self {
            id: id.into(),
            error: Some(why.into()),
        }
    }
}

/// Everything a manager compares.
#[derive(Debug)]
pub struct View<'a, S = Value> {
    /// What the source's manager answered.
    pub source: &'a S,
    /// What the target's answered.
    pub target: &'a S,
    /// Host names, for people.
    pub names: (&'a str, &'a str),
    /// Ids that belong to one machine only, on either.
    pub marked: &'a BTreeSet<String>,
    /// What the configuration says.
    pub rules: &'a super::rules::Rules,
    /// What every manager of the source answered, for one that builds on another.
    pub source_all: &'a Answers,
    /// Likewise of the target.
    pub target_all: &'a Answers,
}

/// Answers by name of the manager.
pub type Answers = BTreeMap<String, Answer<Value>>;

impl<S> View<'_, S> {
    /// What another manager answered, if it did on both machines and can be understood.
    #[must_use]
    pub fn both_of<T: DeserializeOwned>(&self, manager: &str) -> Option<(T, T)> {
        match (self.source_all.get(manager)?, self.target_all.get(manager)?) {
            (Answer::Is(ours), Answer::Is(theirs)) => {
                Some((T::deserialize(ours).ok()?, T::deserialize(theirs).ok()?))
            }
            _ => None,
        }
    }

    /// The same of these two answers.
    #[must_use]
    pub fn with<'b, T>(&'b self, source: &'b T, target: &'b T) -> View<'b, T> {
        View {
            source,
            target,
            names: self.names,
            marked: self.marked,
            rules: self.rules,
            source_all: self.source_all,
            target_all: self.target_all,
        }
    }
}
