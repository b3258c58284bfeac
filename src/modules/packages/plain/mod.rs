//! What dnf, pacman and zypper have in common: packages by name, some of them asked for, from
//! repositories by name.
//!
//! Their limits here: repositories, keys and version locks are told and not carried over; a package
//! comes only if the target uses the repository it came from, and a locked one is left alone.

mod apply;
mod dnf;
mod pacman;
mod plan;
mod repos;
mod rpm;
mod zypper;

pub use dnf::Dnf;
pub use pacman::Pacman;
pub use zypper::Zypper;

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::answer::{Answer, Silence};
use super::apt::simulate::{Effects, Transaction};
use super::item::{Draft, Outcome, Settled, View};
use super::manager::Manager;
use super::tools::Tools;

/// Everything planning needs to know of one machine.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// Installed packages by name; `name.arch` for one of another architecture.
    pub packages: BTreeMap<String, Package>,
    /// Repositories that are switched on, by name, with their address where names alone say little.
    pub repositories: BTreeMap<String, String>,
}

/// One installed package.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Package {
    /// Its version.
    pub version: String,
    /// Whether a person asked for it.
    pub manual: bool,
    /// Whether it is locked to its version.
    pub locked: bool,
    /// The repository it came from, where that is known.
    pub repository: Option<String>,
}

/// What is asked of the target's manager: what would come of these?
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Question {
    /// Packages that come.
    pub install: Vec<String>,
    /// Packages that go.
    pub remove: Vec<String>,
}

/// One such manager.
pub trait Dialect: Sync {
    /// Its name.
    fn name(&self) -> &'static str;

    /// Whether it is on this machine.
    fn is_there(&self, tools: &Tools<'_>) -> bool;

    /// Everything planning needs. Changes nothing.
    fn read(&self, tools: &Tools<'_>) -> Result<State, Silence>;

    /// Names of what is installed.
    fn installed(&self, tools: &Tools<'_>) -> Result<BTreeSet<String>, Silence>;

    /// What a transaction would do; an error is the manager's reason why it cannot be.
    fn foresee(&self, tools: &Tools<'_>, wish: &Question) -> Result<Transaction, Silence>;

    /// Asks the repositories what is new, where the manager does not do so by itself.
    fn refresh(&self, _tools: &Tools<'_>) -> Result<(), Silence> {
        Ok(())
    }

    /// Carries a transaction out.
    fn change(&self, tools: &Tools<'_>, wish: &Question) -> Result<(), Silence>;

    /// Whether it can note that packages were asked for.
    fn can_mark(&self) -> bool {
        true
    }

    /// Notes that packages were asked for, or not.
    fn mark(&self, tools: &Tools<'_>, manual: bool, names: &[String]) -> Result<(), Silence>;
}

/// A manager of this kind.
#[derive(Debug)]
pub struct Plain<D>(pub D);

impl<D: Dialect> Manager for Plain<D> {
    fn name(&self) -> &'static str {
        self.0.name()
    }

    fn read(&self, tools: &Tools<'_>) -> Answer<Value> {
        if !self.0.is_there(tools) {
            return Answer::Absent;
        }
        let state = self.0.read(tools).and_then(|state| {
            // A system without a single package that nobody can be running.
            if state.packages.is_empty() {
                let why = format!(
                    "{} named no installed package, which cannot be",
                    self.name()
                );
                return Err(Silence(why));
            }
            Ok(serde_json::to_value(state).expect("a state is plain data"))
        });
        state.into()
    }

    fn draft(&self, view: &View<'_>) -> Result<Draft, String> {
        plan::draft(self.name(), self.0.can_mark(), view)
    }

    fn weigh(&self, tools: &Tools<'_>, question: Value) -> Result<Value, Silence> {
        let question = Question::deserialize(question)
            .map_err(|e| Silence(format!("an unknown question: {e}")))?;
        let effects = weigh(&self.0, tools, &question);
        Ok(serde_json::to_value(effects).expect("effects are plain data"))
    }

    fn consider(&self, view: &View<'_>, draft: &mut Draft, answer: Value) -> Result<(), String> {
        plan::consider(self.name(), view, draft, answer)
    }

    fn settle(
        &self,
        view: &View<'_>,
        draft: &Draft,
        chosen: &BTreeSet<String>,
    ) -> Result<Settled, String> {
        plan::settle(self.name(), view, draft, chosen)
    }

    fn apply(
        &self,
        tools: &Tools<'_>,
        work: Value,
        say: &mut dyn FnMut(&str),
    ) -> Result<Vec<Outcome>, Silence> {
        let work =
            plan::Work::deserialize(work).map_err(|e| Silence(format!("unknown work: {e}")))?;
        apply::apply(&self.0, tools, &work, say)
    }
}

/// One look at all of it; only where more would happen than was asked for, one at each.
fn weigh(
    dialect: &dyn Dialect,
    tools: &Tools<'_>,
    question: &Question,
) -> BTreeMap<String, Effects> {
    let mut effects: BTreeMap<String, Effects> = BTreeMap::new();
    if let Ok(all) = dialect.foresee(tools, question) {
        let wished = all
            .removes
            .iter()
            .all(|name| question.remove.contains(name));
        if wished && all.upgrades.is_empty() {
            return effects;
        }
    }
    for (name, is_install) in (question.install.iter().map(|name| (name, true)))
        .chain(question.remove.iter().map(|name| (name, false)))
    {
        let mut one = Question::default();
        if is_install {
            one.install.push(name.clone());
        } else {
            one.remove.push(name.clone());
        }
        let others = |names: BTreeSet<String>| names.into_iter().filter(|n| n != name).collect();
        let found = match dialect.foresee(tools, &one) {
            Ok(alone) => Effects {
                removes: others(alone.removes),
                upgrades: others(alone.upgrades),
                refused: None,
            },
            Err(why) => Effects {
                refused: Some(why.0),
                ..Effects::default()
            },
        };
        if !found.is_empty() {
            effects.insert(name.clone(), found);
        }
    }
    effects
}

/// A name that can be a package's, and no option.
#[must_use]
pub fn is_name(name: &str) -> bool {
    name.len() <= 255
        && name.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_' || c == '@')
        && (name.chars()).all(|c| c.is_ascii_alphanumeric() || "._+-@".contains(c))
}
