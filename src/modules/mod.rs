//! What can be synced: every module behind the contract in [`crate::module`].
//!
//! To add one: write its file here and add its line to [`registry`].

pub mod btrfs_snapshots;
pub mod disk_monitor;
pub mod dummy;
pub mod install_on_target;
pub mod packages;
pub mod space;
pub mod user_data;

use crate::agent::service::Service;
use crate::module::{Module, ModuleKind};

/// Every module there is. Sync modules run in the order of the configuration; the order here
/// is that of the system modules, and of what a person is told.
#[must_use]
pub fn registry() -> Vec<Box<dyn Module>> {
    vec![
        Box::new(btrfs_snapshots::BtrfsSnapshots),
        Box::new(install_on_target::InstallOnTarget::default()),
        Box::new(disk_monitor::DiskMonitor::default()),
        Box::new(packages::Packages::default()),
        Box::new(user_data::UserData::default()),
        Box::new(dummy::DummySuccess),
        Box::new(dummy::DummyFail),
    ]
}

/// What modules have the agent do for them, beyond what it does for everybody.
#[must_use]
pub fn services() -> Vec<Box<dyn Service>> {
    vec![
        Box::new(crate::mirror::service::MirrorService::default()),
        Box::new(crate::mirror::local::LocalService::default()),
        Box::new(packages::service::PackagesService),
    ]
}

/// Names of the modules of one kind, in the order of the registry.
#[must_use]
pub fn names(modules: &[Box<dyn Module>], kind: ModuleKind) -> Vec<&'static str> {
    modules
        .iter()
        .filter(|module| module.kind() == kind)
        .map(|module| module.name())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn module_names_are_unique() {
        let mut names: Vec<&str> = registry().iter().map(|m| m.name()).collect();
        let all = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), all);
    }

    #[test]
    fn only_sync_modules_can_be_disabled() {
        for module in registry() {
            assert_eq!(
                module.required(),
                module.kind() != ModuleKind::Sync,
                "{}",
                module.name()
            );
        }
    }
}
