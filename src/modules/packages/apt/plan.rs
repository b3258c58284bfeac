//! Comparing two machines' apt: what the target lacks, what only it has, and what that needs.

mod draft;
mod places;
mod settle;

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

pub use self::draft::{consider, draft};
pub use self::places::origins_in;
pub use self::settle::settle;
use super::state::{Package, State};
use crate::escape::escape_str;
use crate::event::Host;
use crate::modules::packages::bytes::Bytes;
use crate::modules::packages::item::View;
use crate::modules::packages::list;
use crate::modules::packages::manager::Obstacle;

/// What the target's agent is to do, in this order.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Work {
    /// Files of `/etc/apt` and keys, written before the refresh.
    pub files: BTreeMap<String, Bytes>,
    /// Files of `/etc/apt` that go, before the refresh.
    pub deletions: Vec<String>,
    /// Foreign architectures that come, before the refresh.
    pub architectures: BTreeSet<String>,
    /// Foreign architectures that go, with the last package of theirs.
    pub disused: Vec<String>,
    /// Packages that come.
    pub install: Vec<Install>,
    /// Packages that come along as recommended on the source, too.
    pub along: Vec<String>,
    /// Packages that go.
    pub remove: Vec<String>,
    /// What may go besides: it was shown.
    pub may_remove: BTreeSet<String>,
    /// Packages that may never go unasked.
    pub keep: BTreeSet<String>,
    /// Packages a person asked for on the source.
    pub manual: Vec<String>,
    /// Packages nobody asked for on the source.
    pub auto: Vec<String>,
    /// Packages to hold.
    pub hold: Vec<String>,
    /// Packages held no more.
    pub unhold: Vec<String>,
}

impl Work {
    /// Whether it changes nothing: what only says how is no work.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        let Self {
            files,
            deletions,
            architectures,
            disused,
            install,
            along: _,
            remove,
            may_remove: _,
            keep: _,
            manual,
            auto,
            hold,
            unhold,
        } = self;
        files.is_empty()
            && architectures.is_empty()
            && [deletions, disused, remove, manual, auto, hold, unhold]
                .iter()
                .all(|list| list.is_empty())
            && install.is_empty()
    }
}

/// One package that comes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Install {
    /// Its name.
    pub name: String,
    /// The version, where only that will do (it is held on the source).
    pub version: Option<String>,
    /// Who must offer it: vendors; none means the distribution.
    pub origins: Vec<String>,
    /// Foreign architectures that it needs.
    pub needs: Vec<String>,
}

/// Both machines' states and what follows from them.
struct Both<'a> {
    view: &'a View<'a, State>,
    source: &'a State,
    target: &'a State,
    source_own: BTreeSet<String>,
    target_own: BTreeSet<String>,
}

impl<'a> Both<'a> {
    fn of(view: &'a View<'a, State>) -> Self {
        Self {
            source_own: view.source.distribution(),
            target_own: view.target.distribution(),
            view,
            source: view.source,
            target: view.target,
        }
    }

    /// The vendors of the source's `package`; see [`vendors`].
    fn our_vendors(&'a self, package: &'a Package) -> Vec<&'a str> {
        vendors(self.source, &self.source_own, package)
    }

    /// The vendors of the target's `package`.
    fn their_vendors(&'a self, package: &'a Package) -> Vec<&'a str> {
        vendors(self.target, &self.target_own, package)
    }

    /// Foreign architectures that the target lacks for this package of the source.
    fn lacking(&self, name: &'a str, package: &'a Package) -> BTreeSet<&'a str> {
        self.target.lacks_for(name, package)
    }

    fn is_marked(&self, name: &str) -> bool {
        self.view.marked.contains(name)
    }
}

/// The vendors of a package, if it is not the distribution's.
fn vendors<'s>(state: &'s State, own: &BTreeSet<String>, package: &'s Package) -> Vec<&'s str> {
    let origins: Vec<&str> = state.origins_of(package).collect();
    if origins.iter().any(|origin| own.contains(*origin)) {
        Vec::new()
    } else {
        origins
    }
}

/// What stands in the way.
#[must_use]
pub fn obstacles(view: &View<'_, State>) -> Vec<Obstacle> {
    let mut obstacles = Vec::new();
    for (host, state) in [(Host::Source, view.source), (Host::Target, view.target)] {
        let mut add = |message: String, hint: Option<String>| {
            obstacles.push(Obstacle {
                host,
                message,
                hint,
            });
        };
        if !state.absent_holds.is_empty() {
            let names = state.absent_holds.join(" ");
            add(
                format!("held, but not installed: {}", escape_str(&names)),
                Some(format!("sudo apt-mark unhold {}", escape_str(&names))),
            );
        }
        if !state.unfinished.is_empty() {
            add(
                format!("dpkg has not finished with {}", list(&state.unfinished)),
                Some("sudo dpkg --configure -a && sudo apt-get --fix-broken install".to_owned()),
            );
        }
        if let Some(holder) = &state.locked_by {
            add(
                format!("packages are being changed by {holder}"),
                Some("wait until it has ended, and sync again".to_owned()),
            );
        }
    }
    obstacles
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
