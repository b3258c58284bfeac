//! What dnf, pacman and zypper have in common: packages by name, some of them asked for, from
//! repositories by name.
//!
//! Their limits here: repositories and keys are told and not carried over; a package comes only if the
//! target uses the repository it came from, and one that is locked and missing is left to a person. Locks of
//! what both machines have are the source's, where a command sets them (not pacman's: they stand in a file
//! with everything else). What they say and do is tested with the real ones in a root of their own
//! (`real_tests.rs`), dnf in version 4.

mod apply;
mod dnf;
mod pacman;
mod plan;
#[cfg(test)]
mod real_tests;
mod repos;
mod rpm;
mod zypper;

pub use dnf::Dnf;
pub use pacman::Pacman;
pub use zypper::Zypper;

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use self::plan::Work;
use super::answer::{Answer, Silence};
use super::effects::{self, AllEffects, Transaction, Unforeseen};
use super::item::{Item, Outcome, Proposal, Settled, View};
use super::manager::Native;
use super::tools::{Tools, failed};
use crate::sys::command::Finished;

/// Everything planning needs to know of one machine.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// Installed packages by name; `name.arch` for one of another architecture.
    pub packages: BTreeMap<String, Package>,
    /// Repositories that are switched on, by name, with their address where names alone say little.
    pub repositories: BTreeMap<String, String>,
    /// Whether a command locks packages here.
    #[serde(default)]
    pub can_lock: bool,
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

impl Question {
    /// The part of it that is about `name`.
    #[must_use]
    pub fn only(&self, name: &String) -> Self {
        let only = |names: &[String]| names.iter().filter(|n| *n == name).cloned().collect();
        Self {
            install: only(&self.install),
            remove: only(&self.remove),
        }
    }
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

    /// What a transaction would do.
    fn foresee(&self, tools: &Tools<'_>, wish: &Question) -> Result<Transaction, Unforeseen>;

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

    /// Locks packages to the version that is there, or no longer.
    fn lock(&self, _tools: &Tools<'_>, _locked: bool, _names: &[String]) -> Result<(), Silence> {
        let why = format!("{} cannot lock packages by a command", self.name());
        Err(Silence(why))
    }
}

/// A manager of this kind.
#[derive(Debug)]
pub struct Plain<D>(pub D);

impl<D: Dialect> Native for Plain<D> {
    type State = State;
    type Question = Question;
    type Forecast = AllEffects;
    type Work = Work;

    fn name(&self) -> &'static str {
        self.0.name()
    }

    fn read(&self, tools: &Tools<'_>) -> Answer<State> {
        if !self.0.is_there(tools) {
            return Answer::Absent;
        }
        let state = self.0.read(tools).and_then(|state| {
            // A system without a single package that nobody can be running.
            if state.packages.is_empty() {
                let why = format!(
                    "{} named no installed package, which cannot be",
                    self.0.name()
                );
                return Err(Silence(why));
            }
            Ok(state)
        });
        state.into()
    }

    fn nonsense(&self, state: &State) -> Option<String> {
        let bad = state.packages.keys().find(|name| !is_name(name));
        bad.map(|name| format!("names {name}"))
    }

    fn draft(&self, view: &View<'_, State>) -> Proposal<Question> {
        plan::draft(self.0.can_mark(), view)
    }

    fn weigh(&self, tools: &Tools<'_>, question: &Question) -> Result<AllEffects, Silence> {
        weigh(&self.0, tools, question)
    }

    fn consider(&self, view: &View<'_, State>, forecast: &AllEffects, items: &mut [Item]) {
        plan::consider(self.0.name(), view, forecast, items);
    }

    fn settle(
        &self,
        view: &View<'_, State>,
        items: &[Item],
        forecast: &AllEffects,
        chosen: &BTreeSet<String>,
    ) -> Settled<Work> {
        plan::settle(self.0.name(), view, items, forecast, chosen)
    }

    fn is_idle(&self, work: &Work) -> bool {
        work.is_idle()
    }

    fn apply(
        &self,
        tools: &Tools<'_>,
        work: &Work,
        say: &mut dyn FnMut(&str),
    ) -> Result<Vec<Outcome>, Silence> {
        apply::apply(&self.0, tools, work, say)
    }
}

/// One look at all of it; only where more would happen than was asked for, at parts of it.
fn weigh(
    dialect: &dyn Dialect,
    tools: &Tools<'_>,
    question: &Question,
) -> Result<AllEffects, Silence> {
    let mut effects = AllEffects::new();
    match dialect.foresee(tools, question) {
        Ok(all) => {
            let wished = (all.removes.iter()).all(|name| question.remove.contains(name));
            if wished && all.upgrades.is_empty() {
                return Ok(effects);
            }
        }
        Err(Unforeseen::Silent(why)) => return Err(why),
        Err(Unforeseen::Refused(_)) => {}
    }
    let names: Vec<&str> = question.install.iter().map(String::as_str).collect();
    let mut foresee = |names: &[&str]| {
        let install = names.iter().map(|&name| name.to_owned()).collect();
        dialect.foresee(
            tools,
            &Question {
                install,
                remove: Vec::new(),
            },
        )
    };
    effects::attribute_halves(&mut effects, &names, &mut foresee)?;
    effects::attribute_jointly(&mut effects, &names, None, &mut foresee)?;
    for name in &question.remove {
        let alone = dialect.foresee(tools, &question.only(name));
        effects::note(&mut effects, name, alone)?;
    }
    Ok(effects)
}

/// A failed command as a refusal where it said one of these words, and as no answer where not.
#[must_use]
pub fn refusal(argv: &[&str], done: &Finished, words: &[&str]) -> Unforeseen {
    let said = [&done.stdout[..], &done.stderr[..]].concat();
    let said = String::from_utf8_lossy(&said);
    if words.iter().any(|words| said.contains(words)) {
        Unforeseen::Refused(failed(argv, done))
    } else {
        Unforeseen::Silent(failed(argv, done))
    }
}

/// A name that can be a package's, and no option.
#[must_use]
pub fn is_name(name: &str) -> bool {
    name.len() <= 255
        && name.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_' || c == '@')
        && (name.chars()).all(|c| c.is_ascii_alphanumeric() || "._+-@".contains(c))
}
