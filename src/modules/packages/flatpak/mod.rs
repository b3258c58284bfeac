//! flatpak, the system's installation and each person's.
//!
//! A thing is its installation and its whole name, branch and architecture included. What somebody asked
//! for are apps, and runtimes pinned by name; other runtimes follow from apps. Versions are never
//! converged. Installations elsewhere (`installations.d`) are left alone.

mod apply;
mod plan;
mod state;

use std::collections::BTreeSet;

use self::plan::Work;
use self::state::State;
use super::answer::{Answer, Silence};
use super::item::{Item, Outcome, Proposal, Settled, View};
use super::manager::Native;
use super::tools::Tools;

/// The manager.
#[derive(Debug)]
pub struct Flatpak;

impl Native for Flatpak {
    type State = State;
    type Question = ();
    type Forecast = ();
    type Work = Work;

    fn name(&self) -> &'static str {
        "flatpak"
    }

    fn read(&self, tools: &Tools<'_>) -> Answer<State> {
        state::read(tools)
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
        Ok(apply::apply(tools, work, say))
    }
}
