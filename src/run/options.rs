//! What a person asked for on the command line, and which modules that means.

use crate::config::Config;
use crate::module::{Module, ModuleKind};

use super::error::RunError;

/// The options of `sync`.
#[derive(Debug, Clone, Default)]
pub struct SyncOptions {
    /// The target as typed.
    pub host: String,
    /// Change nothing, list everything.
    pub dry_run: bool,
    /// Answer ordinary confirmations with yes.
    pub yes: bool,
    /// Never ask.
    pub batch: bool,
    /// Only these sync modules, if any are named.
    pub only: Vec<String>,
    /// Not these sync modules.
    pub skip: Vec<String>,
    /// Compare everything, whatever is remembered of earlier syncs.
    pub full_scan: bool,
    /// Compare all content afterwards.
    pub verify: bool,
    /// Opens the first-sync gate.
    pub allow_first_sync: bool,
    /// Opens the out-of-order gate.
    pub allow_out_of_order: bool,
    /// Opens the incomplete gate.
    pub allow_incomplete: bool,
    /// Opens the conflict gate.
    pub allow_conflicts: bool,
    /// Opens the mass-delete gate.
    pub allow_mass_delete: bool,
    /// Installs packages without asking.
    pub package_installs: bool,
    /// Removes packages without asking.
    pub package_removals: bool,
    /// Opens the gate of somebody at work on the target's desktop.
    pub allow_logged_in: bool,
    /// Ask before every request that changes something.
    pub confirm_each_command: bool,
}

/// The modules of one run.
#[derive(Default)]
pub struct Selection {
    /// System modules in the order of the registry, then sync modules in the order of the
    /// configuration.
    pub foreground: Vec<Box<dyn Module>>,
    /// Modules that run beside them.
    pub background: Vec<Box<dyn Module>>,
    /// Sync modules that the command line leaves out, with the reason.
    pub skipped: Vec<(String, &'static str)>,
}

/// Chooses from `registry` what the configuration and the command line ask for, and makes the
/// switches in `config` say the same: what is not selected is off, whoever looks.
///
/// `--only` overrides a switch that is off: it was typed for this run. What was chosen checks its
/// part of the configuration.
pub fn choose(
    registry: Vec<Box<dyn Module>>,
    config: &mut Config,
    options: &SyncOptions,
) -> Result<Selection, RunError> {
    let selection = select(registry, config, options)?;
    let modules = selection.foreground.iter().chain(&selection.background);
    let errors: Vec<_> = modules
        .flat_map(|module| module.validate_config(config))
        .collect();
    if errors.is_empty() {
        Ok(selection)
    } else {
        Err(RunError::Config(errors))
    }
}

fn select(
    registry: Vec<Box<dyn Module>>,
    config: &mut Config,
    options: &SyncOptions,
) -> Result<Selection, RunError> {
    check_names(&registry, options)?;
    let mut selection = Selection::default();
    let mut sync = Vec::new();
    for module in registry {
        match module.kind() {
            ModuleKind::System => selection.foreground.push(module),
            ModuleKind::Background => selection.background.push(module),
            ModuleKind::Sync => sync.push(module),
        }
    }
    // A module named by --only need not be in the configuration; such ones come last.
    for name in &options.only {
        if !config.sync_modules.iter().any(|(known, _)| known == name) {
            config.sync_modules.push((name.clone(), false));
        }
    }
    let mut enabled = 0;
    for (name, on) in &mut config.sync_modules {
        let Some(index) = sync.iter().position(|module| module.name() == name) else {
            continue;
        };
        if options.only.is_empty() && !*on {
            // No part of this person's syncs: not worth a line in each of them.
            continue;
        }
        let reason = if options.skip.contains(name) {
            Some("--skip")
        } else if !options.only.is_empty() && !options.only.contains(name) {
            Some("not in --only")
        } else {
            None
        };
        *on = reason.is_none();
        match reason {
            None => {
                enabled += 1;
                selection.foreground.push(sync.remove(index));
            }
            Some(reason) => selection.skipped.push((name.clone(), reason)),
        }
    }
    if enabled == 0 {
        return Err(RunError::Usage {
            message: "no sync module is switched on".to_owned(),
            hint: "switch one on in sync_modules, or name one with --only".to_owned(),
        });
    }
    Ok(selection)
}

fn check_names(registry: &[Box<dyn Module>], options: &SyncOptions) -> Result<(), RunError> {
    let known = crate::modules::names(registry, ModuleKind::Sync);
    for (flag, name) in (options.only.iter().map(|name| ("--only", name)))
        .chain(options.skip.iter().map(|name| ("--skip", name)))
    {
        let Some(module) = registry.iter().find(|module| module.name() == name) else {
            return Err(RunError::Usage {
                message: format!("{flag} names {name:?}, which is no module"),
                hint: format!("the modules are {}", known.join(", ")),
            });
        };
        if module.required() {
            return Err(RunError::Usage {
                message: format!("{flag} names {name}, which is part of every sync"),
                hint: format!("the modules to choose from are {}", known.join(", ")),
            });
        }
    }
    Ok(())
}
