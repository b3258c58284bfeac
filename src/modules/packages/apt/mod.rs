//! apt, on Debian and its kin.
//!
//! A package is its name and who offers it; versions are never converged, except where the source
//! holds one. What a package needs to be had from there (a file of sources, keys, pins) follows from
//! it and is never asked about alone.

mod apply;
pub mod architectures;
pub mod cache;
mod etc;
pub mod names;
mod plan;
pub mod policy;
pub mod simulate;
pub mod sources;
pub mod state;
mod timers;
pub mod version;

use std::collections::BTreeSet;

use self::plan::Work;
use self::simulate::{Forecast, Question};
use self::state::State;
use super::answer::{Answer, Silence};
use super::item::{Item, Outcome, Proposal, Settled, View};
use super::manager::{Native, Obstacle};
use super::sharing::Wanted;
use super::tools::Tools;

/// The manager.
#[derive(Debug)]
pub struct Apt;

impl Native for Apt {
    type State = State;
    type Question = Question;
    type Forecast = Forecast;
    type Work = Work;

    fn name(&self) -> &'static str {
        "apt"
    }

    fn read(&self, tools: &Tools<'_>) -> Answer<State> {
        state::read(tools)
    }

    fn nonsense(&self, state: &State) -> Option<String> {
        state.nonsense()
    }

    fn obstacles(&self, view: &View<'_, State>) -> Vec<Obstacle> {
        plan::obstacles(view)
    }

    fn draft(&self, view: &View<'_, State>) -> Proposal<Question> {
        plan::draft(view)
    }

    fn weigh(&self, tools: &Tools<'_>, question: &Question) -> Result<Forecast, Silence> {
        simulate::forecast(tools, question)
    }

    fn consider(&self, view: &View<'_, State>, forecast: &Forecast, items: &mut [Item]) {
        plan::consider(view, forecast, items);
    }

    fn settle(
        &self,
        view: &View<'_, State>,
        items: &[Item],
        forecast: &Forecast,
        chosen: &BTreeSet<String>,
    ) -> Settled<Work> {
        plan::settle(view, items, forecast, chosen)
    }

    fn is_idle(&self, work: &Work) -> bool {
        work.is_idle()
    }

    fn lacks(&self, tools: &Tools<'_>, work: &Work) -> Vec<Wanted> {
        cache::lacks(tools, work)
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
