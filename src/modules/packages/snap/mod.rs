//! snap: the one manager whose versions converge, because a snap's data is kept by its revision.
//!
//! Who a name belongs to, the store says by signature on both machines alike. Bases and snapd itself follow
//! from snaps. What was installed from a file (`x1`) is told and left alone on both machines. Brand stores
//! and proxies are not carried over. How it behaves is known from recorded output: no machine of the tests
//! can reach the store.

mod apply;
mod plan;
pub mod state;

use std::collections::BTreeSet;

use serde::Deserialize;
use serde_json::Value;

use super::answer::{Answer, Silence};
use super::item::{Draft, Outcome, Settled, View};
use super::manager::Manager;
use super::tools::Tools;

/// The manager.
#[derive(Debug)]
pub struct Snap;

impl Manager for Snap {
    fn name(&self) -> &'static str {
        "snap"
    }

    fn read(&self, tools: &Tools<'_>) -> Answer<Value> {
        if !tools.has("snap") {
            return Answer::Absent;
        }
        let state = state::read(tools);
        Answer::from(state).map(|state| serde_json::to_value(state).expect("a state is plain data"))
    }

    fn draft(&self, view: &View<'_>) -> Result<Draft, String> {
        plan::draft(view)
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
