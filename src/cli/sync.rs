//! `sync`: puts this machine's state on another one.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::args::{GlobalArgs, ProgressMode, SyncArgs};
use super::session::Console;
use super::{ended_by, load_config, report};
use crate::config::Config;
use crate::event::{EventSink, LogLevel};
use crate::exit::ExitStatus;
use crate::modules;
use crate::record::log::{LogError, LogWriter, bridge, log_dir};
use crate::run::explain::explain_log;
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
        return ended_by(&error);
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
    lost_lines(lost, ended.status)
}

/// Says what is missing from the log; it is a warning, whatever else became of the run.
pub(super) fn lost_lines(lost: Result<(), LogError>, status: ExitStatus) -> ExitStatus {
    match (lost, status) {
        (Ok(()), status) => status,
        (Err(error), ExitStatus::Done) => ended_by(&error.into()),
        (Err(error), status) => {
            ended_by(&error.into());
            status
        }
    }
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
pub(super) struct Log(Result<Arc<LogWriter>, LogError>);

/// Where the log is, or how it is opened later.
pub(super) struct Place {
    file: Option<PathBuf>,
    later: Option<OpenLog>,
}

impl Log {
    pub(super) fn start(session: &str, events: &mut EventSink) -> Self {
        let heard = events.subscribe();
        Self(LogWriter::start(session, heard).map(Arc::new))
    }

    /// Opens the file. That of a dry run is below `/run`, where it takes the local agent to make a
    /// directory if the person has none of their own there.
    pub(super) fn open(&self, config: &Config, dry_run: bool, events: &EventSink) -> Place {
        let nowhere = Place {
            file: None,
            later: None,
        };
        let writer = match &self.0 {
            Ok(writer) => Arc::clone(writer),
            Err(error) => {
                warn(events, &no_log(error));
                return nowhere;
            }
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
                warn(events, "there will be no log: HOME is not set");
                nowhere
            }
        }
    }

    /// Writes the rest; an error says what is missing from the file. That there is none was told when
    /// it could not be opened, or the run ended before it could be.
    pub(super) fn finish(self) -> Result<(), LogError> {
        self.finished().map(drop)
    }

    /// The same; a file without a line, which nobody was told of, is removed.
    pub(super) fn finish_if_used(self) -> Result<(), LogError> {
        if let Some(path) = self.finished()?
            && std::fs::metadata(&path).is_ok_and(|file| file.len() == 0)
        {
            // It harms nobody.
            let _ = std::fs::remove_file(path);
        }
        Ok(())
    }

    fn finished(self) -> Result<Option<PathBuf>, LogError> {
        match self.0.ok().and_then(Arc::into_inner).map(LogWriter::finish) {
            Some(Err(LogError::NeverOpened)) | None => Ok(None),
            Some(ended) => ended.map(Some),
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
        .inspect_err(|error| warn(events, &no_log(error)))
        .ok()
}

/// The reason and what would help, as they fit into a warning.
fn no_log(error: &LogError) -> String {
    let explained = explain_log(error);
    let hint = explained.hint.map(|hint| format!(" ({hint})"));
    format!(
        "there will be no log: {}{}",
        explained.message,
        hint.unwrap_or_default()
    )
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Event;

    #[test]
    fn a_log_that_cannot_be_opened_is_a_warning_with_its_remedy_and_no_second_error_at_the_end() {
        let mut events = EventSink::none();
        let told = events.subscribe();
        let log = Log::start("1a2b3c4d", &mut events);
        let writer = Arc::clone(log.0.as_ref().expect("a thread"));
        let nowhere = Path::new("/dev/null/logs");
        assert_eq!(opened(&writer, nowhere, LogLevel::Info, &events), None);
        drop(writer);
        let Ok(Event::Log(warning)) = told.try_recv() else {
            panic!("nobody was told");
        };
        assert_eq!(warning.level, LogLevel::Warning);
        assert!(warning.message.contains("/dev/null/logs"), "{warning:?}");
        assert!(warning.message.contains("(something else"), "{warning:?}");
        log.finish().expect("told already");
    }

    #[test]
    fn lines_missing_from_the_log_make_a_good_end_one_with_warnings_and_change_no_other() {
        let lost = || {
            Err(LogError::Write {
                path: "/x".into(),
                lost: 1,
                source: io::ErrorKind::StorageFull.into(),
            })
        };
        assert_eq!(lost_lines(Ok(()), ExitStatus::Done), ExitStatus::Done);
        assert_eq!(lost_lines(lost(), ExitStatus::Done), ExitStatus::Warnings);
        for status in [ExitStatus::Failed, ExitStatus::Interrupted] {
            assert_eq!(lost_lines(lost(), status), status);
        }
    }
}
