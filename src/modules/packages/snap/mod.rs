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

use self::plan::Work;
use self::state::State;
use super::answer::{Answer, Silence};
use super::item::{Item, Outcome, Proposal, Settled, View};
use super::manager::Native;
use super::tools::Tools;

/// The manager.
#[derive(Debug)]
pub struct Snap;

impl Native for Snap {
    type State = State;
    type Question = ();
    type Forecast = ();
    type Work = Work;

    fn name(&self) -> &'static str {
        "snap"
    }

    fn read(&self, tools: &Tools<'_>) -> Answer<State> {
        if !tools.has("snap") {
            return Answer::Absent;
        }
        state::read(tools).into()
    }

    fn draft(&self, view: &View<'_, State>) -> Proposal<()> {
        plan::draft(view)
    }

    fn settle(
        &self,
        view: &View<'_, State>,
        items: &[Item],
        (): &(),
        chosen: &BTreeSet<String>,
    ) -> Settled<Work> {
        plan::settle(view, items, chosen)
    }

    fn apply(
        &self,
        tools: &Tools<'_>,
        work: &Work,
        say: &mut dyn FnMut(&str),
    ) -> Result<Vec<Outcome>, Silence> {
        apply::apply(tools, work, say)
    }
}
