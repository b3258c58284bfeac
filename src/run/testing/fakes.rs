//! A person and modules that do as they are told.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::config::Config;
use crate::module::{
    ListPlan, Mirrored, Module, ModuleContext, ModuleError, ModuleKind, Plan, PlanSummary,
    ValidationError,
};
use crate::prompt::{PromptError, Prompter, Question, Secret};

/// Answers questions from a list; keeps what was asked.
#[derive(Debug, Default)]
pub(crate) struct Scripted {
    answers: Mutex<Vec<char>>,
    pub(crate) asked: Mutex<Vec<Question>>,
}

impl Scripted {
    /// Gives the answers with these keys, in order; then the default of each question. `!` is Ctrl-C.
    pub(crate) fn new(keys: &str) -> Arc<Self> {
        Arc::new(Self {
            answers: Mutex::new(keys.chars().rev().collect()),
            asked: Mutex::default(),
        })
    }

    pub(crate) fn texts(&self) -> Vec<String> {
        let asked = self.asked.lock().unwrap();
        asked.iter().map(|question| question.text.clone()).collect()
    }
}

impl Prompter for Scripted {
    fn can_ask(&self) -> bool {
        true
    }

    fn choose(&self, question: &Question) -> Result<usize, PromptError> {
        self.asked.lock().unwrap().push(question.clone());
        let key = self.answers.lock().unwrap().pop();
        if key == Some('!') {
            return Err(PromptError::Interrupted(crate::interrupt::Interrupted));
        }
        Ok(key
            .and_then(|key| question.choices.iter().position(|c| c.key == key))
            .unwrap_or(question.default))
    }

    fn secret(&self, _: &str) -> Result<Secret, PromptError> {
        Err(PromptError::CannotAsk)
    }

    fn line(&self, _: &str) -> Result<String, PromptError> {
        Err(PromptError::CannotAsk)
    }
}

/// What a test module does at each step.
type Step<T> = Box<dyn FnMut(&ModuleContext<'_>) -> T + Send>;

/// A sync module made of closures.
pub(crate) struct TestModule {
    pub(crate) name: &'static str,
    pub(crate) validate: Step<Vec<ValidationError>>,
    pub(crate) plan: Step<PlanSummary>,
    pub(crate) execute: Step<Result<String, ModuleError>>,
    pub(crate) abort: Step<()>,
    /// Whether its errors are over with the run.
    pub(crate) fails_whole: bool,
    /// The folders it mirrors.
    pub(crate) mirrors: Vec<String>,
    pub(crate) mirrored: Step<Option<Mirrored>>,
}

impl TestModule {
    pub(crate) fn new(name: &'static str) -> Self {
        Self {
            name,
            fails_whole: false,
            validate: Box::new(|_| Vec::new()),
            plan: Box::new(|_| PlanSummary::default()),
            execute: Box::new(|_| Ok("done".into())),
            abort: Box::new(|_| ()),
            mirrors: Vec::new(),
            mirrored: Box::new(|_| None),
        }
    }

    pub(crate) fn executing(
        mut self,
        execute: impl FnMut(&ModuleContext<'_>) -> Result<String, ModuleError> + Send + 'static,
    ) -> Self {
        self.execute = Box::new(execute);
        self
    }
}

impl Module for TestModule {
    fn name(&self) -> &'static str {
        self.name
    }

    fn kind(&self) -> ModuleKind {
        ModuleKind::Sync
    }

    fn validate(
        &mut self,
        context: &ModuleContext<'_>,
    ) -> Result<Vec<ValidationError>, ModuleError> {
        Ok((self.validate)(context))
    }

    fn plan(&mut self, context: &ModuleContext<'_>) -> Result<Box<dyn Plan>, ModuleError> {
        Ok(Box::new(ListPlan {
            summary: (self.plan)(context),
            changes: Vec::new(),
        }))
    }

    fn execute(&mut self, context: &ModuleContext<'_>) -> Result<String, ModuleError> {
        (self.execute)(context)
    }

    fn fails_whole(&self) -> bool {
        self.fails_whole
    }

    fn mirrors(&self, _: &Config) -> Vec<String> {
        self.mirrors.clone()
    }

    fn mirrored(&mut self, context: &ModuleContext<'_>) -> Result<Option<Mirrored>, ModuleError> {
        Ok((self.mirrored)(context))
    }

    fn abort(&mut self, context: &ModuleContext<'_>, _: Duration) {
        (self.abort)(context);
    }
}
