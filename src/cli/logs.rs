//! `logs`: what past and present runs wrote down, read back.
//!
//! Lines that cannot be understood are shown as they are, and never end the reading. `--json` prints the
//! lines as they stand in the file, one object each; a damaged one as an object with its text under
//! `damaged`.

use std::io::{self, Write};
use std::path::PathBuf;
use std::time::Duration;

use serde_json::json;

use super::args::{GlobalArgs, LogsArgs};
use super::ended_by;
use super::table::{number, print, render, text};
use crate::escape::escape_str;
use crate::event::LogLevel;
use crate::exit::ExitStatus;
use crate::figures;
use crate::jsonline::safe;
use crate::record::log::log_dir;
use crate::record::log::reader::{Entry, LogFile, LogReader, Summary, list, summary};
use crate::record::sessions::find;
use crate::run::error::RunError;
use crate::ui::{LogRow, LogView, page};

/// How often a file that grows is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Lists logs, or shows one.
#[must_use]
pub fn run(global: &GlobalArgs, args: &LogsArgs) -> ExitStatus {
    match show(global, args) {
        Ok(status) => status,
        Err(error) => ended_by(&error),
    }
}

/// Where logs are: those of runs, and those of dry runs, which go with the next boot.
fn directories() -> Vec<PathBuf> {
    let env = |name: &str| std::env::var_os(name);
    let uid = rustix::process::getuid().as_raw();
    let without_a_session = PathBuf::from(format!("/run/pc-switcher/user-{uid}"));
    let of_dry_runs = log_dir(env, true);
    let known = [log_dir(env, false), of_dry_runs, Some(without_a_session)];
    known.into_iter().flatten().collect()
}

fn show(global: &GlobalArgs, args: &LogsArgs) -> Result<ExitStatus, RunError> {
    let shows_one = args.last
        || args.follow
        || args.session.is_some()
        || args.level.is_some()
        || !args.module.is_empty();
    let files = logs()?;
    if !shows_one {
        return Ok(print(&if args.json {
            json_list(&files)
        } else {
            table(&files)
        }));
    }
    let file = match &args.session {
        Some(prefix) => chosen(&files, prefix)?,
        None if args.follow => newest_or_next(files)?,
        None => files.into_iter().last().ok_or_else(none)?,
    };
    let filter = Filter {
        level: args.level.unwrap_or(LogLevel::Debug),
        modules: &args.module,
        is_json: args.json,
        detail: global.verbose > 0,
    };
    let read = |source| RunError::Read {
        path: escape_str(&file.path.to_string_lossy()),
        source,
    };
    let mut reader = LogReader::open(&file.path).map_err(read)?;
    if args.follow {
        follow(&mut reader, &filter)
    } else if args.json {
        let mut out = io::BufWriter::new(io::stdout().lock());
        let written = filter.copy(&mut reader, &mut out).and_then(|_| out.flush());
        let _ = out.into_parts();
        gone_is_fine(written)
    } else {
        page(|out| filter.copy(&mut reader, out).map(drop))
    }
    .map_err(RunError::Output)?;
    Ok(ExitStatus::Done)
}

fn gone_is_fine(written: io::Result<()>) -> io::Result<()> {
    match written {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other,
    }
}

fn logs() -> Result<Vec<LogFile>, RunError> {
    list(&directories()).map_err(|source| RunError::Read {
        path: "the log directory".to_owned(),
        source,
    })
}

fn none() -> RunError {
    RunError::Usage {
        message: "there are no logs yet".to_owned(),
        hint: "a sync writes one:\n    pc-switcher sync HOST --dry-run".to_owned(),
    }
}

fn chosen(files: &[LogFile], prefix: &str) -> Result<LogFile, RunError> {
    let session = find(files.iter().map(|file| file.session.as_str()), prefix);
    let session = session.map_err(|error| RunError::Usage {
        message: error.to_string(),
        hint: "these have a log:\n    pc-switcher logs".to_owned(),
    })?;
    let file = files.iter().rfind(|file| file.session == session);
    Ok(file.expect("it was found among them").clone())
}

/// The newest log, or, where there is none, the first that comes.
fn newest_or_next(mut files: Vec<LogFile>) -> Result<LogFile, RunError> {
    loop {
        if let Some(newest) = files.pop() {
            return Ok(newest);
        }
        std::thread::sleep(LOOK_EVERY);
        files = logs()?;
    }
}

/// Shows the lines as they come, to the end of the session.
fn follow(reader: &mut LogReader, filter: &Filter<'_>) -> io::Result<()> {
    let mut out = io::stdout().lock();
    let mut view = LogView::new();
    loop {
        let ended = filter.copy_with(reader, &mut out, &mut view, false);
        match ended.and_then(|ended| out.flush().map(|()| ended)) {
            Ok(true) => return Ok(()),
            Ok(false) => std::thread::sleep(LOOK_EVERY),
            Err(error) => return gone_is_fine(Err(error)),
        }
    }
}

/// Which lines are shown, and how.
struct Filter<'a> {
    level: LogLevel,
    modules: &'a [String],
    is_json: bool,
    detail: bool,
}

impl Filter<'_> {
    fn copy(&self, reader: &mut LogReader, out: &mut dyn Write) -> io::Result<bool> {
        self.copy_with(reader, out, &mut LogView::new(), true)
    }

    /// Copies what is there now; whether the session's last line was among it. What stands at the end
    /// without a line's end is copied too if nothing more is expected.
    fn copy_with(
        &self,
        reader: &mut LogReader,
        out: &mut dyn Write,
        view: &mut LogView,
        is_all: bool,
    ) -> io::Result<bool> {
        let mut is_closed = false;
        loop {
            let next = reader.next_line()?;
            let Some(line) = next.or_else(|| is_all.then(|| reader.rest()).flatten()) else {
                return Ok(is_closed);
            };
            if let Some(text) = self.text(&line, view, &mut is_closed) {
                out.write_all(text.as_bytes())?;
            }
        }
    }

    fn text(&self, line: &[u8], view: &mut LogView, is_closed: &mut bool) -> Option<String> {
        match Entry::parse(line) {
            Entry::Line(entry) => {
                *is_closed |= entry.is_closing();
                let is_wanted = entry.level >= self.level
                    && (self.modules.is_empty() || self.modules.contains(&entry.module));
                is_wanted.then(|| {
                    if self.is_json {
                        return format!("{}\n", safe(&String::from_utf8_lossy(line)));
                    }
                    view.row(&LogRow {
                        timestamp: entry.timestamp,
                        level: entry.level,
                        module: &entry.module,
                        hostname: entry.hostname.as_deref(),
                        message: &entry.message,
                        context: self.detail.then_some(&entry.context),
                    })
                })
            }
            Entry::Damaged(text) if self.is_json => {
                let object = json!({ "damaged": text });
                Some(format!("{}\n", safe(&object.to_string())))
            }
            Entry::Damaged(text) => Some(view.damaged(&text)),
        }
    }
}

/// What became of a session: how it ended, or that it did not.
fn result_words(found: &Summary) -> String {
    let state = match found.state.as_deref() {
        None => "no end".to_owned(),
        Some("COMPLETED") => "completed".to_owned(),
        Some("ABORTED") => "stopped".to_owned(),
        Some("FAILED") => "failed".to_owned(),
        Some(other) => escape_str(other),
    };
    match found.exit_code {
        Some(code) => format!("{state} ({code})"),
        None => state,
    }
}

/// A line per log, the newest first.
fn table(files: &[LogFile]) -> String {
    if files.is_empty() {
        return "No logs yet.\n".to_owned();
    }
    let columns = [
        text("SESSION"),
        text("TIME (UTC)"),
        text("FROM"),
        text("TO"),
        text("RESULT"),
        text("DRY RUN"),
        number("SIZE"),
    ];
    let rows = files.iter().rev().map(|file| {
        let found = summary(&file.path).unwrap_or_default();
        let name = |name: &Option<String>| name.as_deref().map(escape_str).unwrap_or_default();
        [
            escape_str(&file.session),
            file.started_at.strftime("%Y-%m-%d %H:%M:%S").to_string(),
            name(&found.source),
            name(&found.target),
            result_words(&found),
            if is_dry_run(file, &found) { "yes" } else { "" }.to_owned(),
            figures::bytes(found.bytes),
        ]
    });
    render(&columns, rows.collect())
}

/// Also of one that has not ended: its log is below `/run`.
fn is_dry_run(file: &LogFile, found: &Summary) -> bool {
    (found.dry_run).unwrap_or_else(|| file.path.starts_with("/run"))
}

fn json_list(files: &[LogFile]) -> String {
    let lines = files.iter().rev().map(|file| {
        let found = summary(&file.path).unwrap_or_default();
        let object = json!({
            "session": file.session,
            "started_at": file.started_at,
            "path": file.path.to_string_lossy(),
            "bytes": found.bytes,
            "source": found.source,
            "target": found.target,
            "state": found.state,
            "exit_code": found.exit_code,
            "dry_run": is_dry_run(file, &found),
        });
        format!("{}\n", safe(&object.to_string()))
    });
    lines.collect()
}
