//! What no package source offers: packages installed by hand, and programs below `/opt` and `/usr/local`
//! that no package owns.
//!
//! Nobody but a person knows where these came from. A recipe in the configuration (`packages.recipes`) is a
//! person's word for it and is run on the target; without one the difference is told, and stays told until
//! it is gone or noted as belonging to its machine. Nothing here is ever removed because a flag said so.

mod apply;
mod plan;
mod print;
mod state;

use std::collections::BTreeSet;

use self::plan::Work;
use self::state::State;
use super::answer::{Answer, Silence};
use super::apt::simulate::{self, Forecast, Question};
use super::item::{Item, Outcome, Proposal, Settled, View};
use super::manager::Native;
use super::tools::Tools;

/// The manager.
#[derive(Debug)]
pub struct Hand;

/// Its name.
pub const NAME: &str = "hand";

impl Native for Hand {
    type State = State;
    type Question = Question;
    type Forecast = Forecast;
    type Work = Work;

    fn name(&self) -> &'static str {
        NAME
    }

    fn read(&self, tools: &Tools<'_>) -> Answer<State> {
        state::read(tools)
    }

    fn draft(&self, view: &View<'_, State>) -> Proposal<Question> {
        plan::draft(view)
    }

    fn weigh(&self, tools: &Tools<'_>, question: &Question) -> Result<Forecast, Silence> {
        simulate::forecast(tools, question)
    }

    fn consider(&self, _: &View<'_, State>, forecast: &Forecast, items: &mut [Item]) {
        plan::consider(forecast, items);
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

    fn apply(
        &self,
        tools: &Tools<'_>,
        work: &Work,
        say: &mut dyn FnMut(&str),
    ) -> Result<Vec<Outcome>, Silence> {
        apply::apply(tools, work, say)
    }
}
