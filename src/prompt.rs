//! Questions to a person: the contract between whoever must ask and the terminal.
//!
//! The terminal itself lives in `ui`; everything else only sees this trait.

use crate::interrupt::Interrupted;

/// One answer a person may give.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    /// The key that picks it, lower case.
    pub key: char,
    /// The word for it ("continue").
    pub label: String,
    /// What picking it does, one short sentence.
    pub effect: String,
}

/// A question with a fixed set of answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// What is the case, zero or more lines shown before the question.
    pub detail: Vec<String>,
    /// The question itself, one line.
    pub text: String,
    /// The answers, in the order shown.
    pub choices: Vec<Choice>,
    /// Index of the safe answer, taken on Enter.
    pub default: usize,
    /// The flag or config key that would have answered, if there is one.
    pub flag: Option<String>,
}

/// Many decisions on one screen.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Survey {
    /// What it is about, one line.
    pub title: String,
    /// What is decided alike.
    pub groups: Vec<SurveyGroup>,
}

/// Things that have the same answers to choose from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SurveyGroup {
    /// What is asked of all of them, one line.
    pub heading: String,
    /// The answers; each has a key of its own.
    pub choices: Vec<Choice>,
    /// The things.
    pub rows: Vec<SurveyRow>,
}

/// One thing to decide.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SurveyRow {
    /// What it is, one line.
    pub text: String,
    /// What would come of it, shown while the row is looked at.
    pub detail: Vec<String>,
    /// Index of the answer it begins with, and has unless another is given.
    pub answer: usize,
    /// Whether an answer for the whole group passes it over: it is answered by itself.
    pub alone: bool,
}

/// A secret typed by a person; not printed by `Debug`, overwritten when dropped.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps what was typed.
    #[must_use]
    pub fn new(text: String) -> Self {
        Self(text)
    }

    /// The secret itself.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl Drop for Secret {
    fn drop(&mut self) {
        // Best effort: NUL is valid UTF-8, and the optimiser barrier keeps the store.
        let mut bytes = std::mem::take(&mut self.0).into_bytes();
        bytes.fill(0);
        std::hint::black_box(&bytes);
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// Why there is no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PromptError {
    /// No terminal, or `--batch`: the question cannot be asked.
    #[error("cannot ask: not on a terminal, or --batch was given")]
    CannotAsk,
    /// Ctrl-C or end of input at the question.
    #[error(transparent)]
    Interrupted(#[from] Interrupted),
}

/// Asks a person. Implemented by the terminal, by `--batch` and by tests.
pub trait Prompter: Send + Sync {
    /// Whether a question would reach a person.
    fn can_ask(&self) -> bool;

    /// Asks `question`; returns the index of the chosen answer.
    fn choose(&self, question: &Question) -> Result<usize, PromptError>;

    /// Asks for many decisions at once: for each group the index of the answer to each of its rows.
    /// `None`: there is no screen for it here, each must be asked by itself.
    fn survey(&self, _survey: &Survey) -> Result<Option<Vec<Vec<usize>>>, PromptError> {
        Ok(None)
    }

    /// Asks for a secret without echo.
    fn secret(&self, prompt: &str) -> Result<Secret, PromptError>;

    /// Asks for a line with echo (keyboard-interactive logins).
    fn line(&self, prompt: &str) -> Result<String, PromptError>;
}

/// Never asks: `--batch`, and runs without a terminal.
#[derive(Debug, Clone, Copy, Default)]
pub struct NeverAsk;

impl Prompter for NeverAsk {
    fn can_ask(&self) -> bool {
        false
    }

    fn choose(&self, _: &Question) -> Result<usize, PromptError> {
        Err(PromptError::CannotAsk)
    }

    fn secret(&self, _: &str) -> Result<Secret, PromptError> {
        Err(PromptError::CannotAsk)
    }

    fn line(&self, _: &str) -> Result<String, PromptError> {
        Err(PromptError::CannotAsk)
    }
}
