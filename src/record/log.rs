//! The log file of a session: one JSON object a line, written by one thread that owns the file.
//!
//! The writer is started with the run, before anyone knows where the file will be; until
//! [`LogWriter::open`] it keeps events in memory (the newest [`MAX_EARLY`] of them; how many older
//! ones were dropped is the first line of the file). Log lines are never coalesced or dropped
//! after that; progress is, to one line a second and module. A disk that refuses to take lines is
//! tried again at every flush, with up to [`MAX_PENDING`] bytes waiting, and reported once, by
//! [`LogWriter::finish`].
//!
//! [`LogWriter::finish`] does not wait for the senders to go away: the bridge of the `log` crate
//! keeps one for ever. What was emitted before it is called is in the file.

mod appender;
mod bridge;
mod file;
mod line;
pub mod reader;

use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, never, select, unbounded};
use jiff::Timestamp;

use crate::event::{Event, LogLevel};
use crate::figures::counted;
use appender::Appender;
pub use bridge::bridge;
pub use file::log_dir;
use line::Lines;

/// Events kept in memory before the file is open.
pub const MAX_EARLY: usize = 10_000;

/// Bytes kept in memory while the disk refuses them; lines beyond are counted as lost.
pub const MAX_PENDING: usize = 8 << 20;

/// The longest a line waits before it is in the file.
const FLUSH_EVERY: Duration = Duration::from_millis(200);

/// Enough to be worth a write.
const FLUSH_BYTES: usize = 64 << 10;

/// Why there is no log, or not a whole one.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The directory cannot be made or opened.
    #[error("cannot use the log directory {path}: {source}", path = path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The directory belongs to somebody else.
    #[error("the log directory {path} belongs to user {owner}, not to user {me}", path = path.display())]
    NotOurs {
        /// The directory.
        path: PathBuf,
        /// Its owner.
        owner: u32,
        /// Who runs this.
        me: u32,
    },
    /// The file cannot be made.
    #[error("cannot create the log file {path}: {source}", path = path.display())]
    Create {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The disk did not take all lines.
    #[error("{} missing from the log file {path}: {source}", counted(*lost, "line"), path = path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// How many lines.
        lost: u64,
        /// Why.
        source: io::Error,
    },
    /// The run ended before [`LogWriter::open`] was called.
    #[error("no log file was opened")]
    NeverOpened,
    /// The thread could not be started, or is gone.
    #[error("the log writer is not running")]
    NotRunning,
}

enum Control {
    Open {
        out: std::fs::File,
        path: PathBuf,
        level: LogLevel,
    },
    Finish,
}

/// The thread that writes a session's log file. Dropping it ends it like [`finish`](Self::finish),
/// but nobody is told if lines are missing.
#[derive(Debug)]
pub struct LogWriter {
    control: Sender<Control>,
    thread: Option<JoinHandle<Result<PathBuf, LogError>>>,
    session: String,
    started_at: Timestamp,
}

impl LogWriter {
    /// Starts the thread; `session` is stamped on every line.
    pub fn start(session: &str, events: Receiver<Event>) -> Result<Self, LogError> {
        let (control, commands) = unbounded();
        let lines = Lines::new(session);
        let thread = std::thread::Builder::new()
            .name("log writer".into())
            .spawn(move || Writer::new(lines).run(events, &commands))
            .map_err(|_| LogError::NotRunning)?;
        Ok(Self {
            control,
            thread: Some(thread),
            session: session.to_owned(),
            started_at: Timestamp::now(),
        })
    }

    /// Creates the file in `dir` (see [`log_dir`]) and writes what was kept so far; lines below
    /// `level` are left out. Returns the file's path.
    pub fn open(&self, dir: &Path, level: LogLevel) -> Result<PathBuf, LogError> {
        let (out, path) = file::create(dir, &self.session, self.started_at)?;
        self.control
            .send(Control::Open {
                out,
                path: path.clone(),
                level,
            })
            .map_err(|_| LogError::NotRunning)?;
        Ok(path)
    }

    /// Writes everything emitted so far, syncs the file and ends the thread.
    pub fn finish(mut self) -> Result<PathBuf, LogError> {
        self.end()
    }

    fn end(&mut self) -> Result<PathBuf, LogError> {
        let _ = self.control.send(Control::Finish);
        let thread = self.thread.take().ok_or(LogError::NotRunning)?;
        thread.join().map_err(|_| LogError::NotRunning)?
    }
}

impl Drop for LogWriter {
    fn drop(&mut self) {
        let _ = self.end();
    }
}

/// The thread's state: first a queue, then a file.
struct Writer {
    lines: Lines,
    early: VecDeque<Event>,
    dropped: u64,
    file: Option<(Appender<std::fs::File>, PathBuf)>,
    flush_at: Option<Instant>,
}

impl Writer {
    fn new(lines: Lines) -> Self {
        Self {
            lines,
            early: VecDeque::new(),
            dropped: 0,
            file: None,
            flush_at: None,
        }
    }

    fn run(
        mut self,
        mut events: Receiver<Event>,
        commands: &Receiver<Control>,
    ) -> Result<PathBuf, LogError> {
        loop {
            let patience = self.flush_at.map_or(Duration::from_hours(1), |at| {
                at.saturating_duration_since(Instant::now())
            });
            select! {
                recv(commands) -> command => match command {
                    Ok(Control::Open { out, path, level }) => self.open(out, path, level),
                    Ok(Control::Finish) | Err(_) => break,
                },
                recv(events) -> event => match event {
                    Ok(event) => self.take(event),
                    Err(_) => events = never(),
                },
                default(patience) => self.flush(),
            }
            if self.flush_at.is_some_and(|at| at <= Instant::now()) {
                self.flush();
            }
        }
        // Only what is there now: a chatty thread must not keep us from ending.
        for _ in 0..events.len() {
            if let Ok(event) = events.try_recv() {
                self.take(event);
            }
        }
        self.end()
    }

    fn open(&mut self, out: std::fs::File, path: PathBuf, level: LogLevel) {
        self.lines.set_level(level);
        let mut appender = Appender::new(out, MAX_PENDING);
        if self.dropped > 0 {
            appender.push(&self.lines.dropped(self.dropped));
        }
        self.file = Some((appender, path));
        for event in std::mem::take(&mut self.early) {
            self.take(event);
        }
        self.flush();
    }

    fn take(&mut self, event: Event) {
        let Some((appender, _)) = &mut self.file else {
            if self.early.len() == MAX_EARLY {
                self.early.pop_front();
                self.dropped += 1;
            }
            self.early.push_back(event);
            return;
        };
        self.lines
            .write(event, Instant::now(), &mut |line| appender.push(line));
        if appender.pending() >= FLUSH_BYTES && !appender.is_failing() {
            appender.flush();
        }
        if appender.pending() > 0 || self.lines.has_pending() {
            self.flush_at
                .get_or_insert_with(|| Instant::now() + FLUSH_EVERY);
        }
    }

    fn flush(&mut self) {
        self.flush_at = None;
        if let Some((appender, _)) = &mut self.file {
            self.lines
                .write_due(Instant::now(), &mut |line| appender.push(line));
            appender.flush();
            if appender.pending() > 0 || self.lines.has_pending() {
                self.flush_at = Some(Instant::now() + FLUSH_EVERY);
            }
        }
    }

    fn end(mut self) -> Result<PathBuf, LogError> {
        let Some((mut appender, path)) = self.file.take() else {
            return Err(LogError::NeverOpened);
        };
        self.lines.write_rest(&mut |line| appender.push(line));
        match appender.finish(|file| file.sync_data()) {
            Ok(()) => Ok(path),
            Err((lost, source)) => Err(LogError::Write { path, lost, source }),
        }
    }
}

#[cfg(test)]
mod tests;
