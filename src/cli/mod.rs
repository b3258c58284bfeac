//! The command line: one file per command, arguments in, report out.

pub mod agent;
pub mod args;
pub mod completions;
pub mod doctor;
mod errand;
pub mod history;
pub mod init;
pub mod logs;
pub mod manual;
pub mod restore;
pub mod rollback;
mod session;
pub mod snapshots;
pub mod status;
pub mod sync;
mod table;

use std::path::{Path, PathBuf};

use clap::Parser as _;

use crate::config::{self, Config, KnownModule};
use crate::escape::escape_bytes;
use crate::exit::ExitStatus;
use crate::module::Module;
use crate::modules;
use crate::run::error::RunError;
use crate::run::explain::{Explained, explain};
use crate::ui::{self, ErrorReport};
use args::{Cli, Command, GlobalArgs, SnapshotsCommand};

/// Reads the command line, does what it says, and returns how it ended.
#[must_use]
pub fn main() -> ExitStatus {
    match Cli::try_parse() {
        Ok(cli) => dispatch(&cli),
        Err(error) => {
            // Help and version go to stdout and are no error.
            let _ = error.print();
            if error.use_stderr() {
                ExitStatus::Usage
            } else {
                ExitStatus::Done
            }
        }
    }
}

fn dispatch(cli: &Cli) -> ExitStatus {
    let global = &cli.global;
    ui::set_color(session::color(global.color));
    match &cli.command {
        Command::Sync(args) => sync::run(global, args),
        Command::Doctor(args) => doctor::run(global, args),
        Command::Logs(args) => logs::run(global, args),
        Command::Init(args) if args.sudoers => init::sudoers::run(),
        Command::Init(args) => write_config(global, args.force),
        Command::Snapshots(args) => match &args.command {
            SnapshotsCommand::List { host } => snapshots::list(global, host.as_deref()),
            SnapshotsCommand::Prune(args) => snapshots::prune(global, args),
        },
        Command::Status(args) => status::run(global, args),
        Command::Completions(args) => completions::run(args.shell),
        Command::Man(args) => manual::run(&args.directory),
        Command::History(args) => history::run(global, args),
        Command::Rollback(args) => rollback::run(global, args),
        Command::Restore(args) => restore::run(global, args),
        Command::Agent => agent::run(modules::services()),
    }
}

fn write_config(global: &GlobalArgs, force: bool) -> ExitStatus {
    let written = config_path(global).and_then(|path| init::init(&path, Path::new("/"), force));
    match written {
        Ok(report) => table::print(&format!("{report}\n")),
        Err(error) => ended_by(&error),
    }
}

/// Where the configuration is: `--config`, or the person's own.
fn config_path(global: &GlobalArgs) -> Result<PathBuf, RunError> {
    if let Some(path) = &global.config {
        // Everything beside it (filters) is found from here, whatever the working directory.
        return std::path::absolute(path).map_err(|source| RunError::Read {
            path: escape_bytes(path.as_os_str().as_encoded_bytes()),
            source,
        });
    }
    config::default_path().ok_or_else(|| RunError::Usage {
        message: "there is no place for the configuration".to_owned(),
        hint: "set HOME, or name a file with --config".to_owned(),
    })
}

/// Reads the configuration; says everything that is wrong with it.
fn load_config(global: &GlobalArgs, registry: &[Box<dyn Module>]) -> Result<Config, ExitStatus> {
    let loaded = config_path(global).and_then(|path| {
        config::load(&path, &known(registry)).map_err(|problems| RunError::Problems {
            path: escape_bytes(path.as_os_str().as_encoded_bytes()),
            problems,
        })
    });
    loaded.map_err(|error| ended_by(&error))
}

/// The registry as the configuration knows it.
fn known(registry: &[Box<dyn Module>]) -> Vec<KnownModule<'static>> {
    let modules = registry.iter();
    let known = modules.map(|module| KnownModule {
        name: module.name(),
        required: module.required(),
    });
    known.collect()
}

/// Says what ended a command, and with which status.
fn ended_by(error: &RunError) -> ExitStatus {
    let explained = explain(error);
    report(&explained);
    explained.status
}

/// Prints an error that ended a command.
fn report(error: &Explained) {
    if error.is_list {
        let mut reports: Vec<ErrorReport> = error.causes.iter().map(ErrorReport::new).collect();
        if let Some(last) = reports.last_mut() {
            last.hint.clone_from(&error.hint);
        }
        ui::report_errors(&error.message, &reports);
    } else {
        ui::report_error(&ErrorReport {
            message: error.message.clone(),
            causes: error.causes.clone(),
            hint: error.hint.clone(),
        });
    }
}
