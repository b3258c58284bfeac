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

use crate::config::{self, Config, ConfigProblem, KnownModule};
use crate::exit::ExitStatus;
use crate::module::Module;
use crate::modules;
use crate::run::explain::Explained;
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
    let path = match config_path(global) {
        Ok(path) => path,
        Err(status) => return status,
    };
    match init::init(&path, Path::new("/"), force) {
        Ok(report) => {
            println!("{report}");
            ExitStatus::Done
        }
        Err(error) => {
            let hint = error.hint().map(str::to_owned);
            ui::report_error(&ErrorReport::from_error(&error, hint));
            error.status()
        }
    }
}

/// Where the configuration is: `--config`, or the person's own.
fn config_path(global: &GlobalArgs) -> Result<PathBuf, ExitStatus> {
    if let Some(path) = &global.config {
        // Everything beside it (filters) is found from here, whatever the working directory.
        return std::path::absolute(path).map_err(|error| {
            ui::report_error(&ErrorReport::from_error(&error, None));
            ExitStatus::Usage
        });
    }
    config::default_path().ok_or_else(|| {
        let mut report = ErrorReport::new("there is no place for the configuration");
        report.hint = Some("set HOME, or name a file with --config".to_owned());
        ui::report_error(&report);
        ExitStatus::Usage
    })
}

/// Reads the configuration; says everything that is wrong with it.
fn load_config(global: &GlobalArgs, registry: &[Box<dyn Module>]) -> Result<Config, ExitStatus> {
    let path = config_path(global)?;
    config::load(&path, &known(registry)).map_err(|problems| {
        report_problems(&path, &problems);
        ExitStatus::Usage
    })
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

fn report_problems(path: &Path, problems: &[ConfigProblem]) {
    let reports: Vec<ErrorReport> = (problems.iter())
        .map(|problem| {
            let bare = ConfigProblem {
                hint: None,
                ..problem.clone()
            };
            let mut report = ErrorReport::new(bare.to_string());
            report.hint.clone_from(&problem.hint);
            report
        })
        .collect();
    match reports.as_slice() {
        [one] => ui::report_error(one),
        several => {
            let title = format!("{} problems in {}", several.len(), path.display());
            ui::report_errors(&title, several);
        }
    }
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
