//! The contract of one package manager.
//!
//! [`Native`] is what a manager is written as, in types of its own. [`Manager`] is what the module and the
//! service see of any of them: the same with everything that travels between the machines as JSON.
//! `read`, `weigh`, `lacks` and `apply` run in an agent, beside the manager itself; the others compare
//! what the agents said and touch nothing.

use std::collections::BTreeSet;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::answer::{Answer, Silence};
use super::item::{Draft, Item, Outcome, Proposal, Settled, View};
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

/// One package manager in its own words.
pub trait Native: Sync {
    /// Everything planning needs of a machine.
    type State: Serialize + DeserializeOwned;
    /// What the target's manager is asked about a proposal.
    type Question: Serialize + DeserializeOwned;
    /// What it answers; the default says nothing.
    type Forecast: Serialize + DeserializeOwned + Default;
    /// What the target's agent is to do; the default is nothing.
    type Work: Serialize + DeserializeOwned + Default + PartialEq;

    /// Its name (`apt`).
    fn name(&self) -> &'static str;

    /// Reads this machine. Changes nothing.
    fn read(&self, tools: &Tools<'_>) -> Answer<Self::State>;

    /// What is wrong with an answer that can be read, if anything: it is nonsense then.
    fn nonsense(&self, _state: &Self::State) -> Option<String> {
        None
    }

    /// What stands in the way on either machine, before anything begins.
    fn obstacles(&self, _view: &View<'_, Self::State>) -> Vec<Obstacle> {
        Vec::new()
    }

    /// Compares both machines.
    fn draft(&self, view: &View<'_, Self::State>) -> Proposal<Self::Question>;

    /// On the target: what would come of the proposal. Changes nothing.
    fn weigh(
        &self,
        _tools: &Tools<'_>,
        _question: &Self::Question,
    ) -> Result<Self::Forecast, Silence> {
        Ok(Self::Forecast::default())
    }

    /// Takes the answer into the items.
    fn consider(
        &self,
        _view: &View<'_, Self::State>,
        _forecast: &Self::Forecast,
        _items: &mut [Item],
    ) {
    }

    /// What the chosen items come to, with everything they need.
    fn settle(
        &self,
        view: &View<'_, Self::State>,
        items: &[Item],
        forecast: &Self::Forecast,
        chosen: &BTreeSet<String>,
    ) -> Settled<Self::Work>;

    /// Whether the work changes nothing.
    fn is_idle(&self, work: &Self::Work) -> bool {
        *work == Self::Work::default()
    }

    /// On the target: package files it would have to fetch for the work. Changes nothing.
    fn lacks(&self, _tools: &Tools<'_>, _work: &Self::Work) -> Vec<Wanted> {
        Vec::new()
    }

    /// On the target: does the work; `say` is told what is being done.
    fn apply(
        &self,
        tools: &Tools<'_>,
        work: &Self::Work,
        say: &mut dyn FnMut(&str),
    ) -> Result<Vec<Outcome>, Silence>;
}

/// One package manager, whichever it is.
pub trait Manager: Sync {
    /// See [`Native::name`].
    fn name(&self) -> &'static str;

    /// See [`Native::read`].
    fn read(&self, tools: &Tools<'_>) -> Answer<Value>;

    /// See [`Native::obstacles`]. An error says that an answer was nonsense.
    fn obstacles(&self, view: &View<'_>) -> Result<Vec<Obstacle>, String>;

    /// See [`Native::draft`]. An error says that an answer was nonsense.
    fn draft(&self, view: &View<'_>) -> Result<Draft, String>;

    /// See [`Native::weigh`].
    fn weigh(&self, tools: &Tools<'_>, question: Value) -> Result<Value, Silence>;

    /// Takes the answer into the draft.
    fn consider(&self, view: &View<'_>, draft: &mut Draft, answer: Value) -> Result<(), String>;

    /// See [`Native::settle`]; work that changes nothing is `Null`.
    fn settle(
        &self,
        view: &View<'_>,
        draft: &Draft,
        chosen: &BTreeSet<String>,
    ) -> Result<Settled, String>;

    /// See [`Native::lacks`].
    fn lacks(&self, tools: &Tools<'_>, work: Value) -> Result<Vec<Wanted>, Silence>;

    /// See [`Native::apply`].
    fn apply(
        &self,
        tools: &Tools<'_>,
        work: Value,
        say: &mut dyn FnMut(&str),
    ) -> Result<Vec<Outcome>, Silence>;
}

fn value(of: &impl Serialize) -> Value {
    serde_json::to_value(of).expect("what travels is plain data")
}

fn understood<T: DeserializeOwned>(what: &str, value: Value) -> Result<T, Silence> {
    serde_json::from_value(value).map_err(|e| Silence(format!("an unknown {what}: {e}")))
}

/// The states of both machines, if both can be understood.
fn states<N: Native>(manager: &N, view: &View<'_>) -> Result<(N::State, N::State), String> {
    let one = |value: &Value, host: &str| {
        let whose = || format!("the answer of {host}'s {}", manager.name());
        let state = N::State::deserialize(value).map_err(|e| format!("{}: {e}", whose()))?;
        match manager.nonsense(&state) {
            Some(why) => Err(format!("{} {why}", whose())),
            None => Ok(state),
        }
    };
    Ok((
        one(view.source, view.names.0)?,
        one(view.target, view.names.1)?,
    ))
}

/// What the target's manager answered; nothing was asked: it says nothing.
fn forecast<N: Native>(
    manager: &N,
    view: &View<'_>,
    answer: &Value,
) -> Result<N::Forecast, String> {
    if answer.is_null() {
        return Ok(N::Forecast::default());
    }
    N::Forecast::deserialize(answer)
        .map_err(|e| format!("the forecast of {}'s {}: {e}", view.names.1, manager.name()))
}

impl<N: Native> Manager for N {
    fn name(&self) -> &'static str {
        Native::name(self)
    }

    fn read(&self, tools: &Tools<'_>) -> Answer<Value> {
        Native::read(self, tools).map(|state| value(&state))
    }

    fn obstacles(&self, view: &View<'_>) -> Result<Vec<Obstacle>, String> {
        let (source, target) = states(self, view)?;
        Ok(Native::obstacles(self, &view.with(&source, &target)))
    }

    fn draft(&self, view: &View<'_>) -> Result<Draft, String> {
        let (source, target) = states(self, view)?;
        let proposal = Native::draft(self, &view.with(&source, &target));
        Ok(Draft {
            items: proposal.items,
            notes: proposal.notes,
            question: proposal.question.map(|question| value(&question)),
            answer: Value::Null,
        })
    }

    fn weigh(&self, tools: &Tools<'_>, question: Value) -> Result<Value, Silence> {
        let question: N::Question = understood("question", question)?;
        Native::weigh(self, tools, &question).map(|forecast| value(&forecast))
    }

    fn consider(&self, view: &View<'_>, draft: &mut Draft, answer: Value) -> Result<(), String> {
        let (source, target) = states(self, view)?;
        let forecast = forecast(self, view, &answer)?;
        let view = view.with(&source, &target);
        Native::consider(self, &view, &forecast, &mut draft.items);
        draft.answer = answer;
        Ok(())
    }

    fn settle(
        &self,
        view: &View<'_>,
        draft: &Draft,
        chosen: &BTreeSet<String>,
    ) -> Result<Settled, String> {
        let (source, target) = states(self, view)?;
        let forecast = forecast(self, view, &draft.answer)?;
        let view = view.with(&source, &target);
        let settled = Native::settle(self, &view, &draft.items, &forecast, chosen);
        Ok(Settled {
            work: if self.is_idle(&settled.work) {
                Value::Null
            } else {
                value(&settled.work)
            },
            changes: settled.changes,
            withdrawn: settled.withdrawn,
        })
    }

    fn lacks(&self, tools: &Tools<'_>, work: Value) -> Result<Vec<Wanted>, Silence> {
        let work: N::Work = understood("work", work)?;
        Ok(Native::lacks(self, tools, &work))
    }

    fn apply(
        &self,
        tools: &Tools<'_>,
        work: Value,
        say: &mut dyn FnMut(&str),
    ) -> Result<Vec<Outcome>, Silence> {
        let work: N::Work = understood("work", work)?;
        Native::apply(self, tools, &work, say)
    }
}
