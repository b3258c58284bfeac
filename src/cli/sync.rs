//! `sync`: puts this machine's state on another one.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::args::{GlobalArgs, ProgressMode, SyncArgs};
use super::session::Console;
use super::{load_config, report};
use crate::config::Config;
use crate::event::{EventSink, LogLevel};
use crate::exit::ExitStatus;
use crate::modules;
use crate::record::log::{LogError, LogWriter, bridge, log_dir};
use crate::run::explain::explain;
use crate::run::options::{SyncOptions, choose};
use crate::run::reach::Reach;
use crate::run::session::SyncSession;
use crate::run::{Changes, OpenLog, PlanOutput, Setup, sync};
use crate::ui::Ui;

/// Runs one sync.
#[must_use]
pub fn run(global: &GlobalArgs, args: &SyncArgs) -> ExitStatus {
    let registry = modules::registry();
    let config = match load_config(global, &registry) {
        Ok(config) => config,
        Err(status) => return status,
    };
    let options = options(global, args);
    // What can be known to be wrong already is said without beginning anything.
    if let Err(error) = choose(modules::registry(), &mut config.clone(), &options) {
        let explained = explain(&error);
        report(&explained);
        return explained.status;
    }
    let session = SyncSession::new();
    let mut events = EventSink::none();
    let log = Log::start(session.id(), &mut events);
    let console = Console::start(global, config.log_cli_level, events);
    // What libraries log goes the same way; a second call in one process is no harm.
    let _ = bridge(console.events.clone());
    let limit = match args.bwlimit {
        Some(typed) => Some(typed).filter(|rate| *rate > 0),
        None => config.bandwidth_limit,
    };
    let place = log.open(&config, args.dry_run, &console.events);
    let ended = sync(Setup {
        options,
        session,
        machines: Arc::new(
            Reach::new(&args.host)
                .limited(limit)
                .over(config.transfers()),
        ),
        prompter: console.prompter(),
        events: console.events.clone(),
        abort: console.abort.clone(),
        modules: registry,
        plan_output: Box::new(Listed(Arc::clone(&console.ui))),
        log_file: place.file,
        open_log: place.later,
        config,
    });
    let lost = log.finish();
    console.finish();
    // A closing block has told them already.
    if global.progress == ProgressMode::Json {
        for error in &ended.errors {
            report(error);
        }
    }
    if let Err(error) = lost {
        crate::ui::report_error(&crate::ui::ErrorReport::from_error(&error, None));
    }
    ended.status
}

fn options(global: &GlobalArgs, args: &SyncArgs) -> SyncOptions {
    SyncOptions {
        host: args.host.clone(),
        dry_run: args.dry_run,
        yes: args.yes,
        batch: global.batch,
        only: args.only.clone(),
        skip: args.skip.clone(),
        full_scan: args.full_scan,
        verify: args.verify,
        allow_first_sync: args.allow_first_sync,
        allow_out_of_order: args.allow_out_of_order,
        allow_incomplete: args.allow_incomplete,
        allow_conflicts: args.allow_conflicts,
        allow_mass_delete: args.allow_mass_delete,
        package_installs: args.apply_package_installs,
        package_removals: args.apply_package_removals,
        allow_logged_in: args.allow_logged_in,
        confirm_each_command: args.confirm_each_command,
    }
}

/// The list of a dry run, on stdout between the live lines.
pub(super) struct Listed(pub(super) Arc<Ui>);

impl PlanOutput for Listed {
    fn print(&mut self, module: &str, heading: &str, changes: &mut Changes<'_>) -> io::Result<()> {
        if !self.0.lists_changes() {
            changes(&mut |_| {});
            return Ok(());
        }
        self.0.print_changes(module, |printer| {
            printer.heading(heading);
            // The log wants them all, also when the reader has gone.
            changes(&mut |change| {
                let _ = printer.print(change);
            });
        })
    }
}

/// The session's log file.
pub(super) struct Log(Option<Arc<LogWriter>>);

/// Where the log is, or how it is opened later.
pub(super) struct Place {
    file: Option<PathBuf>,
    later: Option<OpenLog>,
}

impl Log {
    pub(super) fn start(session: &str, events: &mut EventSink) -> Self {
        let heard = events.subscribe();
        Self(LogWriter::start(session, heard).ok().map(Arc::new))
    }

    /// Opens the file. That of a dry run is below `/run`, where it takes the local agent to make a
    /// directory if the person has none of their own there.
    pub(super) fn open(&self, config: &Config, dry_run: bool, events: &EventSink) -> Place {
        let nowhere = Place {
            file: None,
            later: None,
        };
        let Some(writer) = self.0.clone() else {
            return nowhere;
        };
        let level = config.log_file_level;
        let directory = log_dir(|name| std::env::var_os(name), dry_run)
            .filter(|directory| !dry_run || directory.starts_with("/run"));
        match directory {
            Some(directory) => Place {
                file: opened(&writer, &directory, level, events),
                later: None,
            },
            None if dry_run => {
                let events = events.clone();
                Place {
                    later: Some(Box::new(move |directory| {
                        opened(&writer, Path::new(directory), level, &events)
                    })),
                    ..nowhere
                }
            }
            None => {
                warn(events, "there is no place for a log: HOME is not set");
                nowhere
            }
        }
    }

    /// Writes the rest; an error says what is missing from the file.
    pub(super) fn finish(self) -> Result<(), LogError> {
        match self.0.and_then(Arc::into_inner) {
            Some(writer) => writer.finish().map(drop),
            None => Ok(()),
        }
    }
}

fn opened(
    writer: &LogWriter,
    directory: &Path,
    level: LogLevel,
    events: &EventSink,
) -> Option<PathBuf> {
    writer
        .open(directory, level)
        .inspect_err(|error| warn(events, &format!("there will be no log: {error}")))
        .ok()
}

fn warn(events: &EventSink, message: &str) {
    events.log(
        LogLevel::Warning,
        "core",
        None,
        message,
        serde_json::Map::new(),
    );
}
