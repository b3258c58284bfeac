//! What a package manager said: it is not there, it answered, or it did not answer.
//!
//! The three are never mixed up: a manager that did not answer has not said "nothing is
//! installed", and nothing is ever removed because of it.

use serde::{Deserialize, Serialize};

/// A manager's answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer<T> {
    /// The manager is not on this machine.
    Absent,
    /// It answered.
    Is(T),
    /// It is there and did not answer: the command and what it said, for people.
    Silent(String),
}

/// A command that did not answer: which one, and why, for people (already escaped).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{0}")]
pub struct Silence(pub String);

impl Silence {
    /// Nobody else's fault: a thread of ours has died.
    #[must_use]
    pub fn our_fault() -> Self {
        Self("reading it failed in our own code".to_owned())
    }
}

impl<T> From<Result<T, Silence>> for Answer<T> {
    fn from(result: Result<T, Silence>) -> Self {
        match result {
            Ok(value) => Self::Is(value),
            Err(silence) => Self::Silent(silence.0),
        }
    }
}

impl<T> Answer<T> {
    /// The same with the value made into something else.
    pub fn map<U>(self, make: impl FnOnce(T) -> U) -> Answer<U> {
        match self {
            Self::Absent => Answer::Absent,
            Self::Is(value) => Answer::Is(make(value)),
            Self::Silent(why) => Answer::Silent(why),
        }
    }
}
