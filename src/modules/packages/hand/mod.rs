//! What no package source offers: packages installed by hand, and programs below `/opt` and `/usr/local`
//! that no package owns.
//!
//! Nobody but a person knows where these came from. A recipe in the configuration (`packages.recipes`) is a
//! person's word for it and is run on the target; without one the difference is told, and stays told until
//! it is gone or noted as belonging to its machine. Nothing here is ever removed because a flag said so.

mod apply;
mod plan;
mod state;

use std::collections::BTreeSet;

use serde::Deserialize;
use serde_json::Value;

use super::answer::{Answer, Silence};
use super::apt;
use super::item::{Draft, Outcome, Settled, View};
use super::manager::Manager;
use super::tools::Tools;

/// The manager.
#[derive(Debug)]
pub struct Hand;

/// Its name.
pub const NAME: &str = "hand";

impl Manager for Hand {
    fn name(&self) -> &'static str {
        NAME
    }

    fn read(&self, tools: &Tools<'_>) -> Answer<Value> {
        state::read(tools).map(|state| serde_json::to_value(state).expect("a state is plain data"))
    }

    fn draft(&self, view: &View<'_>) -> Result<Draft, String> {
        plan::draft(view)
    }

    fn weigh(&self, tools: &Tools<'_>, question: Value) -> Result<Value, Silence> {
        apt::weigh(tools, question)
    }

    fn consider(&self, view: &View<'_>, draft: &mut Draft, answer: Value) -> Result<(), String> {
        plan::consider(view, draft, answer)
    }

    fn settle(
        &self,
        view: &View<'_>,
        draft: &Draft,
        chosen: &BTreeSet<String>,
    ) -> Result<Settled, String> {
        plan::settle(view, draft, chosen)
    }

    fn apply(
        &self,
        tools: &Tools<'_>,
        work: Value,
        say: &mut dyn FnMut(&str),
    ) -> Result<Vec<Outcome>, Silence> {
        let work =
            plan::Work::deserialize(work).map_err(|e| Silence(format!("unknown work: {e}")))?;
        apply::apply(tools, &work, say)
    }
}
