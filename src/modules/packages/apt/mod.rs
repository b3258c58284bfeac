//! apt, on Debian and its kin.
//!
//! A package is its name and who offers it; versions are never converged, except where the source
//! holds one. What a package needs to be had from there (a file of sources, keys, pins) follows from
//! it and is never asked about alone.

mod apply;
pub mod cache;
mod etc;
mod plan;
pub mod policy;
pub mod simulate;
pub mod sources;
pub mod state;
mod timers;
pub mod version;

use std::collections::BTreeSet;

use serde::Deserialize;
use serde_json::Value;

use super::answer::{Answer, Silence};
use super::item::{Draft, Outcome, Settled, View};
use super::manager::{Manager, Obstacle};
use super::sharing::Wanted;
use super::tools::Tools;

/// The manager.
#[derive(Debug)]
pub struct Apt;

impl Manager for Apt {
    fn name(&self) -> &'static str {
        "apt"
    }

    fn read(&self, tools: &Tools<'_>) -> Answer<Value> {
        state::read(tools).map(|state| serde_json::to_value(state).expect("a state is plain data"))
    }

    fn obstacles(&self, view: &View<'_>) -> Result<Vec<Obstacle>, String> {
        plan::obstacles(view)
    }

    fn draft(&self, view: &View<'_>) -> Result<Draft, String> {
        plan::draft(view)
    }

    fn weigh(&self, tools: &Tools<'_>, question: Value) -> Result<Value, Silence> {
        weigh(tools, question)
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

    fn lacks(&self, tools: &Tools<'_>, work: Value) -> Result<Vec<Wanted>, Silence> {
        let work =
            plan::Work::deserialize(work).map_err(|e| Silence(format!("unknown work: {e}")))?;
        Ok(cache::lacks(tools, &work))
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

/// What would come of installs and removals by this machine's apt.
pub fn weigh(tools: &Tools<'_>, question: Value) -> Result<Value, Silence> {
    let question = simulate::Question::deserialize(question)
        .map_err(|e| Silence(format!("an unknown question: {e}")))?;
    let forecast = simulate::forecast(tools, &question)?;
    Ok(serde_json::to_value(forecast).expect("a forecast is plain data"))
}
