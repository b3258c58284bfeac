//! Events in, terminal out: the state of the renderer thread, without the thread.

use std::collections::HashMap;
use std::io::Write;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::event::{ChangesEvent, EndingError, Event, LogEvent, LogLevel};
use crate::prompt::Question;

use super::{changes, json};

use super::live::{Live, Screen};
use super::look::{Line, Look, Paint};
use super::sheet::Sheet;
use super::text::{clean, counted, wrap};
use super::view::View;
use super::words::{self, Width};

/// Shortest time between two frames.
pub(super) const FRAME: Duration = Duration::from_millis(100);

/// Without live lines, a module's progress is told this often.
const PLAIN_PROGRESS: Duration = Duration::from_secs(10);

/// Without live lines, what is waited for is told after this much silence and then at these times.
const PLAIN_WAITING: [Duration; 4] = [
    Duration::from_secs(2),
    Duration::from_secs(10),
    Duration::from_secs(30),
    Duration::from_mins(1),
];

/// Log lines a second that a person can follow at all, and how many may come at once.
const LINES_PER_SEC: f64 = 8.0;
const LINES_AT_ONCE: f64 = 50.0;

/// How a run is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    /// Live lines at the bottom, log above.
    Live,
    /// A line after the other.
    Plain,
    /// Events as JSON on stdout, nothing for people.
    Json,
    /// Errors and the closing block.
    Quiet,
}

/// The renderer's state.
pub(super) struct Renderer {
    mode: Mode,
    look: Look,
    level: LogLevel,
    is_terminal: bool,
    screen: Box<dyn Screen>,
    json: Option<Box<dyn Write + Send>>,
    live: Live,
    view: View,
    /// Rows waiting to be written (above the live lines, if there are any).
    rows: Vec<String>,
    json_rows: String,
    limiter: Limiter,
    told: HashMap<String, Instant>,
    /// At how much silence it was last told what is waited for.
    waiting_told: Option<Duration>,
    drawn_at: Option<Instant>,
    paused: bool,
}

impl Renderer {
    /// A renderer to `screen` (stderr), with `json` (stdout) for [`Mode::Json`].
    pub(super) fn new(
        mode: Mode,
        look: Look,
        is_terminal: bool,
        screen: Box<dyn Screen>,
        json: Option<Box<dyn Write + Send>>,
        now: Instant,
    ) -> Self {
        Self {
            mode,
            look,
            level: LogLevel::Info,
            is_terminal,
            screen,
            json,
            live: Live::default(),
            view: View::new(now),
            rows: Vec::new(),
            json_rows: String::new(),
            limiter: Limiter::new(now),
            told: HashMap::new(),
            waiting_told: None,
            drawn_at: None,
            paused: false,
        }
    }

    /// Shows log lines from `level` up.
    pub(super) fn set_level(&mut self, level: LogLevel) {
        self.level = level;
    }

    /// How long nothing need be drawn while nothing happens.
    pub(super) fn patience(&self) -> Duration {
        match self.mode {
            _ if self.paused => Duration::from_hours(1),
            Mode::Live => FRAME,
            Mode::Plain | Mode::Json => Duration::from_millis(500),
            Mode::Quiet => Duration::from_hours(1),
        }
    }

    /// Takes an event in; [`flush`](Self::flush) shows it.
    pub(super) fn take(&mut self, event: &Event, now: Instant) {
        let shown = matches!(event, Event::Log(log) if log.level >= self.level());
        self.view.take(event, shown, now);
        if self.mode == Mode::Json {
            self.take_json(event, shown);
            return;
        }
        match event {
            // The closing block begins with it, cause, hint and all.
            Event::Log(log) if log.context.contains_key(EndingError::STATUS_KEY) => {}
            Event::Log(log) if shown => self.take_log(log, now),
            Event::Phase { phase } if self.mode == Mode::Plain && self.level <= LogLevel::Info => {
                self.rows
                    .push(format!("[{}/10] {}", phase.number(), phase.title()));
            }
            Event::Progress(progress)
                if self.mode == Mode::Plain && self.level <= LogLevel::Info =>
            {
                self.tell_progress(&progress.module, now);
            }
            Event::Changes(event) if self.lists(event) => self.take_changes(event, now),
            Event::ModuleStarted { module, .. } => {
                self.told.insert(module.clone(), now);
            }
            Event::ModuleFinished(result) => {
                self.told.remove(&result.module);
                if self.mode != Mode::Quiet && self.level <= LogLevel::Info {
                    let lines = words::module_result(result, 0, self.look, self.log_width());
                    self.push(&lines);
                }
            }
            Event::Closing(report) => {
                let lines = words::closing(report, self.look, self.width());
                self.push_always(&lines);
                self.mode = match self.mode {
                    // What follows is a word or two; nothing runs that could be watched.
                    Mode::Live => {
                        self.live.clear(self.screen.as_mut());
                        Mode::Plain
                    }
                    mode => mode,
                };
            }
            _ => {}
        }
    }

    /// Writes what is waiting; draws the live lines if it is time.
    pub(super) fn flush(&mut self, now: Instant) {
        if self.paused {
            return;
        }
        if self.mode != Mode::Live {
            self.tell_waiting(now);
        }
        if !self.json_rows.is_empty() {
            let text = std::mem::take(&mut self.json_rows);
            let written = self
                .json
                .as_mut()
                .map(|out| out.write_all(text.as_bytes()).and_then(|()| out.flush()));
            if matches!(written, Some(Err(_))) {
                // The reader has gone; the run goes on.
                self.json = None;
            }
        }
        if self.mode != Mode::Live {
            self.write_rows();
            return;
        }
        if self.drawn_at.is_some_and(|at| now < at + FRAME) || !self.screen.is_ready() {
            return;
        }
        self.drawn_at = Some(now);
        if let Some(skipped) = self.limiter.skipped(now) {
            let text = format!("({} not shown here)", counted(skipped, "log line"));
            self.push(&[Line::of(text, Paint::Dim)]);
        }
        let (rows, cols) = self.screen.size();
        if !self.screen.in_foreground() {
            // Lines of log may be written from the background, frames may not be drawn there.
            self.live = Live::default();
            self.write_rows();
            return;
        }
        let lines = self.view.lines(rows, cols, self.look, now);
        let above = std::mem::take(&mut self.rows);
        self.live
            .draw(self.screen.as_mut(), self.look, &above, lines);
    }

    /// Removes the live lines and writes nothing until [`resume`](Self::resume).
    pub(super) fn pause(&mut self, now: Instant) {
        self.drawn_at = None;
        self.flush(now);
        self.live.clear(self.screen.as_mut());
        self.paused = true;
    }

    /// Goes on after [`pause`](Self::pause).
    pub(super) fn resume(&mut self, now: Instant) {
        self.paused = false;
        self.drawn_at = None;
        // A person who took their time was no silence of the machines.
        self.view.heard(now);
        self.flush(now);
    }

    /// Shows a question and the place to answer; only while paused.
    pub(super) fn ask(&mut self, question: &Question) {
        let width = Some(self.width().unwrap_or(80));
        let lines = words::question(question, self.look, width);
        let text: String = lines
            .iter()
            .map(|line| line.render(self.look) + "\r\n")
            .collect();
        self.screen.write(&text);
        self.prompt(&words::answer_prompt(question));
    }

    /// Shows a survey where it is shown already; only while paused. The size it has, if it can be shown.
    pub(super) fn survey(&mut self, sheet: &Sheet) -> Option<(usize, usize)> {
        if self.mode != Mode::Live {
            return None;
        }
        let size = self.screen.size();
        if self.screen.in_foreground() {
            let lines = sheet.lines(size, self.look);
            (self.live).draw(self.screen.as_mut(), self.look, &[], lines);
        }
        Some(size)
    }

    /// Leaves a survey's answers where it was; only while paused.
    pub(super) fn answers(&mut self, sheet: &Sheet) {
        self.live.clear(self.screen.as_mut());
        let width = self.screen.size().1.saturating_sub(1).max(1);
        let text: String = (sheet.told(self.look).into_iter())
            .map(|line| line.fitted(width, self.look).render(self.look) + "\r\n")
            .collect();
        self.screen.write(&text);
    }

    /// Shows a text and leaves the cursor behind it; only while paused.
    pub(super) fn prompt(&mut self, text: &str) {
        let text = clean(text);
        // A word is not cut where another line can hold it.
        let width = self.width().unwrap_or(80).saturating_sub(1);
        let rows = wrap(text.trim_end(), width, 2).into_iter();
        let rows: Vec<String> = rows
            .map(|row| Line::of(row, Paint::Bold).render(self.look))
            .collect();
        self.screen.write(&(rows.join("\r\n") + " "));
    }

    /// Ends the line the cursor is in; only while paused.
    pub(super) fn newline(&mut self) {
        self.screen.write("\r\n");
    }

    /// Writes everything and leaves the cursor below it.
    pub(super) fn finish(&mut self, now: Instant) {
        self.paused = false;
        self.drawn_at = None;
        self.flush(now);
        self.live.clear(self.screen.as_mut());
        self.write_rows();
    }

    fn level(&self) -> LogLevel {
        match self.mode {
            Mode::Quiet => self.level.max(LogLevel::Error),
            _ => self.level,
        }
    }

    /// The width to wrap to.
    fn width(&self) -> Width {
        self.is_terminal
            .then(|| self.screen.size().1.saturating_sub(1).max(20))
    }

    /// Plain lines are not wrapped: they are read by other programs too.
    fn log_width(&self) -> Width {
        (self.mode == Mode::Live).then(|| self.screen.size().1.saturating_sub(1).max(20))
    }

    fn take_log(&mut self, log: &LogEvent, now: Instant) {
        if self.mode == Mode::Live && !self.limiter.admits(log.level, now) {
            return;
        }
        let detail = self.level == LogLevel::Debug;
        let lines = words::log(log, self.view.hosts(), detail, self.log_width());
        self.push_always(&lines);
    }

    /// Whether changes are listed as they are made; those of a dry run are a list of their own.
    fn lists(&self, event: &ChangesEvent) -> bool {
        !event.planned && self.level() <= LogLevel::Full
    }

    fn take_changes(&mut self, event: &ChangesEvent, now: Instant) {
        let width = self.log_width();
        for change in &*event.changes {
            if self.mode == Mode::Live && !self.limiter.admits(LogLevel::Full, now) {
                continue;
            }
            let line = changes::line(change);
            self.push(&[match width {
                Some(width) => line.fitted(width, self.look),
                None => line,
            }]);
        }
    }

    fn tell_progress(&mut self, module: &str, now: Instant) {
        let told = self.told.entry(module.to_owned()).or_insert(now);
        if now.saturating_duration_since(*told) < PLAIN_PROGRESS {
            return;
        }
        *told = now;
        if let Some(figures) = self.view.figures(module, now) {
            self.rows.push(format!("{}: {figures}", clean(module)));
        }
    }

    /// Without live lines: what is waited for, now and then.
    fn tell_waiting(&mut self, now: Instant) {
        let Some(waiting) = self.view.waiting(now) else {
            self.waiting_told = None;
            return;
        };
        let silence = waiting.silence;
        let told = self.waiting_told;
        let last = PLAIN_WAITING[PLAIN_WAITING.len() - 1];
        let next = (PLAIN_WAITING.into_iter())
            .find(|at| told.is_none_or(|told| *at > told))
            .or_else(|| Some(told? + last));
        if next.is_none_or(|next| silence < next) {
            return;
        }
        self.waiting_told = Some(silence);
        if self.mode == Mode::Json {
            self.push_json(json::waiting(&waiting));
        } else if self.level <= LogLevel::Info {
            let words = waiting.words(None, self.look);
            self.push(&[Line::of(words, Paint::Dim)]);
        }
    }

    fn take_json(&mut self, event: &Event, shown: bool) {
        if let Event::Changes(event) = event
            && self.lists(event)
        {
            for change in &*event.changes {
                self.push_json(json::change(&event.module, change, false));
            }
        }
        // Programs read what people read: `-v` and `-q` choose among the log lines.
        if (shown || !matches!(event, Event::Log(_)))
            && let Some(object) = json::object(event, self.view.hosts())
        {
            self.push_json(object);
        }
    }

    fn push_json(&mut self, object: Value) {
        if self.json.is_some() {
            self.json_rows.push_str(&json::line(object));
        }
    }

    fn push(&mut self, lines: &[Line]) {
        if self.mode != Mode::Quiet {
            self.push_always(lines);
        }
    }

    fn push_always(&mut self, lines: &[Line]) {
        let look = self.look;
        self.rows.extend(lines.iter().map(|line| line.render(look)));
    }

    fn write_rows(&mut self) {
        if !self.rows.is_empty() {
            let mut text = self.rows.join("\n");
            text.push('\n');
            self.rows.clear();
            self.screen.write(&text);
        }
    }
}

/// Keeps a flood of log lines from making the screen unreadable.
struct Limiter {
    tokens: f64,
    filled_at: Instant,
    skipped: u64,
    told_at: Instant,
}

impl Limiter {
    fn new(now: Instant) -> Self {
        Self {
            tokens: LINES_AT_ONCE,
            filled_at: now,
            skipped: 0,
            told_at: now,
        }
    }

    /// Whether a line of `level` is shown. What needs a look has a reserve of its own.
    fn admits(&mut self, level: LogLevel, now: Instant) -> bool {
        let time = now.saturating_duration_since(self.filled_at).as_secs_f64();
        self.tokens = (self.tokens + time * LINES_PER_SEC).min(LINES_AT_ONCE);
        self.filled_at = now;
        let reserve = if level >= LogLevel::Warning {
            LINES_AT_ONCE
        } else {
            0.0
        };
        let admitted = self.tokens + reserve >= 1.0;
        if admitted {
            self.tokens -= 1.0;
        } else {
            self.skipped += 1;
        }
        admitted
    }

    /// How many lines were skipped since it was last told, once a second.
    fn skipped(&mut self, now: Instant) -> Option<u64> {
        let due = now.saturating_duration_since(self.told_at) >= Duration::from_secs(1);
        if self.skipped == 0 || !due {
            return None;
        }
        self.told_at = now;
        Some(std::mem::take(&mut self.skipped))
    }
}

#[cfg(test)]
#[path = "renderer_tests.rs"]
mod tests;
