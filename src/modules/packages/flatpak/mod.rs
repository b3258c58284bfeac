//! flatpak, the system's installation and each person's.
//!
//! A thing is its installation and its whole name, branch and architecture included. What somebody asked
//! for are apps, and runtimes pinned by name; other runtimes follow from apps. Versions are never
//! converged. Installations elsewhere (`installations.d`) are left alone.

mod apply;
mod plan;
mod state;

use std::collections::BTreeSet;

use serde::Deserialize;
use serde_json::Value;

use super::answer::{Answer, Silence};
use super::item::{Draft, Outcome, Settled, View};
use super::manager::Manager;
use super::tools::Tools;

/// The manager.
#[derive(Debug)]
pub struct Flatpak;

impl Manager for Flatpak {
    fn name(&self) -> &'static str {
        "flatpak"
    }

    fn read(&self, tools: &Tools<'_>) -> Answer<Value> {
        state::read(tools).map(|state| serde_json::to_value(state).expect("a state is plain data"))
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
        Ok(apply::apply(tools, &work, say))
    }
}
