//! What comparing a folder came to: the plan, and what stays different whatever the plan does.

use std::collections::BTreeSet;

use super::diff::DiffError;
use super::drift::Drift;
use super::plan::FolderPlan;
use super::scan::Notes;
use crate::record::anchor::LEFT_MAX;

/// What came of comparing.
pub struct Compared {
    /// What makes the target like the source.
    pub plan: FolderPlan,
    /// What a person should know.
    pub notes: Notes,
    /// Entries seen on the target.
    pub entries: u64,
    /// Names read and entries looked at there.
    pub looked: u64,
    /// What stays different.
    pub left: Left,
    /// What the plan would undo, if there is an anchor to tell.
    pub drift: Option<Drift>,
    /// After a restricted scan: names that have to be visited as well; then the plan is of no use.
    pub more: Result<Vec<Vec<u8>>, DiffError>,
}

/// Paths that stay different, because they are left alone on purpose: what a later scan that is
/// restricted must look at again.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Left {
    /// Some of them.
    pub paths: BTreeSet<Vec<u8>>,
    /// Whether there are more.
    pub more: bool,
    /// Whether a directory has a filter file that is not mirrored itself.
    pub own_rules: bool,
}

impl Left {
    /// Whether `path`, or a directory on the way to it, is one of them.
    #[must_use]
    pub fn covers(&self, path: &[u8]) -> bool {
        !self.paths.is_empty()
            && (0..=path.len())
                .filter(|at| path.get(*at).is_none_or(|byte| *byte == b'/'))
                .any(|at| self.paths.contains(&path[..at]))
    }

    /// Adds a path.
    pub fn add(&mut self, path: Vec<u8>) {
        if self.paths.len() < LEFT_MAX {
            self.paths.insert(path);
        } else {
            self.more = true;
        }
    }
}
