//! The contract of one package manager.
//!
//! [`read`](Manager::read), [`weigh`](Manager::weigh) and [`apply`](Manager::apply) run in an agent,
//! beside the manager itself; the others compare what the agents said and touch nothing.

use std::collections::BTreeSet;

use serde_json::Value;

use super::answer::{Answer, Silence};
use super::item::{Draft, Outcome, Settled, View};
use super::sharing::Wanted;
use super::tools::Tools;
use crate::event::Host;

/// A reason not to begin, on one machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Obstacle {
    /// Where.
    pub host: Host,
    /// What.
    pub message: String,
    /// What a person can do.
    pub hint: Option<String>,
}

/// One package manager.
pub trait Manager: Sync {
    /// Its name (`apt`).
    fn name(&self) -> &'static str;

    /// Everything planning needs of this machine. Changes nothing.
    fn read(&self, tools: &Tools<'_>) -> Answer<Value>;

    /// What stands in the way on either machine, before anything begins.
    fn obstacles(&self, _view: &View<'_>) -> Result<Vec<Obstacle>, String> {
        Ok(Vec::new())
    }

    /// Compares both machines. An error says that an answer was nonsense.
    fn draft(&self, view: &View<'_>) -> Result<Draft, String>;

    /// On the target: what would come of the draft's question. Changes nothing.
    fn weigh(&self, _tools: &Tools<'_>, _question: Value) -> Result<Value, Silence> {
        Ok(Value::Null)
    }

    /// Takes the answer into the draft.
    fn consider(&self, _view: &View<'_>, _draft: &mut Draft, _answer: Value) -> Result<(), String> {
        Ok(())
    }

    /// What the chosen items come to, with everything they need.
    fn settle(
        &self,
        view: &View<'_>,
        draft: &Draft,
        chosen: &BTreeSet<String>,
    ) -> Result<Settled, String>;

    /// On the target: package files it would have to fetch for the work. Changes nothing.
    fn lacks(&self, _tools: &Tools<'_>, _work: Value) -> Result<Vec<Wanted>, Silence> {
        Ok(Vec::new())
    }

    /// On the target: does the work; `say` is told what is being done.
    fn apply(
        &self,
        tools: &Tools<'_>,
        work: Value,
        say: &mut dyn FnMut(&str),
    ) -> Result<Vec<Outcome>, Silence>;
}
