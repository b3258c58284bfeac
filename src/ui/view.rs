//! What the live lines show: the status line, a bar per running module, what is being waited for.
//!
//! A pure picture of the events so far; time comes in as an argument, text goes out as lines.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::event::{
    ConnectionEvent, ConnectionStatus, Event, LogEvent, LogLevel, Phase, ProgressEvent, WorkEvent,
};

use super::bar::{Frame, ModuleView, ONE_LINE};
use super::look::{Line, Look, Paint};
use super::text::{clean, clock, columns, counted, fit_middle, millis, number, span};

/// Silence after which the lines say what is being waited for.
const PATIENCE: Duration = Duration::from_secs(2);

/// Pieces of work kept in mind; there are as many as threads that wait.
const MAX_WORK: usize = 256;

/// What the events so far add up to.
pub(super) struct View {
    began: Instant,
    source: Option<String>,
    target: Option<String>,
    phase: Option<Phase>,
    connection: Option<ConnectionEvent>,
    warnings: u64,
    errors: u64,
    modules: Vec<ModuleView>,
    last_sign: Instant,
    /// What machines were asked and have not answered, by its number: what began first is first.
    work: BTreeMap<u64, WorkEvent>,
}

impl View {
    /// Nothing has happened yet.
    pub(super) fn new(now: Instant) -> Self {
        Self {
            began: now,
            source: None,
            target: None,
            phase: None,
            connection: None,
            warnings: 0,
            errors: 0,
            modules: Vec::new(),
            last_sign: now,
            work: BTreeMap::new(),
        }
    }

    /// Takes an event in. Of log lines, only those a person is shown (`shown`) count as a sign of life.
    pub(super) fn take(&mut self, event: &Event, shown: bool, now: Instant) {
        match event {
            Event::Log(log) => {
                self.count(log);
                if shown {
                    self.last_sign = now;
                }
                return;
            }
            Event::Progress(progress) => {
                self.progress(progress, now);
                if progress.update.heartbeat {
                    return;
                }
            }
            Event::Connection(connection) => {
                let latency = connection.latency.or_else(|| {
                    let known = self.connection.as_ref()?;
                    (connection.status == ConnectionStatus::Connected).then_some(known.latency)?
                });
                let status = connection.status;
                self.connection = Some(ConnectionEvent { status, latency });
                return;
            }
            Event::Session { source, target, .. } => {
                self.source = Some(clean(source));
                self.target = Some(clean(target));
            }
            Event::Phase { phase } => {
                self.phase = Some(*phase);
                // What a module said while it planned is over; what runs, runs on.
                self.modules.retain(|m| m.started);
            }
            Event::ModuleStarted { module, background } => {
                self.modules.retain(|m| m.name != *module);
                let mut view = ModuleView::new(module, now);
                view.started = true;
                view.background = *background;
                self.modules.push(view);
                // What is watched comes first; the sort keeps the order otherwise.
                self.modules.sort_by_key(|m| m.background);
            }
            Event::Work(work) => {
                self.work(work);
                return;
            }
            // What makes them tells how far it is.
            Event::Changes(_) => return,
            Event::ModuleFinished(result) => self.modules.retain(|m| m.name != result.module),
            Event::Closing(_) => self.modules.clear(),
        }
        self.last_sign = now;
    }

    /// Something was heard: what was silence is over.
    pub(super) fn heard(&mut self, now: Instant) {
        self.last_sign = now;
    }

    /// The host names, as far as they are known.
    pub(super) fn hosts(&self) -> (Option<&str>, Option<&str>) {
        (self.source.as_deref(), self.target.as_deref())
    }

    /// A module's figures in one line, for plain output.
    pub(super) fn figures(&self, module: &str, now: Instant) -> Option<String> {
        let module = self.modules.iter().find(|m| m.name == module)?;
        module.figures(now)
    }

    fn count(&mut self, log: &LogEvent) {
        match log.level {
            LogLevel::Warning => self.warnings += 1,
            LogLevel::Error | LogLevel::Critical => self.errors += 1,
            LogLevel::Info | LogLevel::Full | LogLevel::Debug => {}
        }
    }

    fn progress(&mut self, progress: &ProgressEvent, now: Instant) {
        let at = self.modules.iter().position(|m| m.name == progress.module);
        let at = at.unwrap_or_else(|| {
            self.modules.push(ModuleView::new(&progress.module, now));
            self.modules.len() - 1
        });
        self.modules[at].take(&progress.update, now);
    }

    /// The lines for a screen of `rows` by `cols`.
    pub(super) fn lines(&self, rows: usize, cols: usize, look: Look, now: Instant) -> Vec<Line> {
        let width = cols.saturating_sub(1);
        let mut lines = vec![self.status(width, look, now)];
        let waiting = self.waiting_line(width, look, now);
        // Half of the screen stays for the log.
        let room = (rows / 2)
            .max(2)
            .saturating_sub(1 + usize::from(waiting.is_some()));
        let shown = self.modules.len().min(room);
        let names = self.modules.iter().map(|m| columns(&clean(&m.name))).max();
        let name_width = names.unwrap_or(0).min((width / 4).clamp(10, 24));
        let item_lines = width < ONE_LINE && shown * 2 <= room;
        let frame = Frame {
            width,
            name_width,
            item_line: item_lines,
            look,
            now,
        };
        for module in &self.modules[..shown] {
            module.draw(&mut lines, frame);
        }
        let hidden = self.modules.len() - shown;
        if let Some(last) = lines.last_mut().filter(|_| hidden > 0) {
            last.push(format!("  (+{hidden})"), Paint::Dim);
        }
        lines.extend(waiting);
        lines
    }

    fn status(&self, width: usize, look: Look, now: Instant) -> Line {
        let elapsed = clock(now.saturating_duration_since(self.began));
        let phase = self.phase.map(|phase| (phase.number(), phase.title()));
        // Each attempt says less, until it fits: first words are cut, then the time, the phase's
        // title, the round trip, and at last the names.
        for attempt in 0..6 {
            let mut line = Line::default();
            let room = if attempt < 5 { width } else { width / 5 };
            self.push_hosts(&mut line, room, look);
            if let Some((n, title)) = phase {
                let text = match attempt {
                    0 => format!("  [{n}/10] {title}"),
                    1 | 2 => format!("  {n}/10 {title}"),
                    _ => format!("  {n}/10"),
                };
                line.push(text, Paint::Accent);
            }
            if attempt < 4 {
                self.push_connection(&mut line);
            }
            if attempt < 2 {
                line.push(format!("  {elapsed}"), Paint::Dim);
            }
            for (count, noun, short, paint) in [
                (self.errors, "error", look.sign("✖", "E"), Paint::Bad),
                (self.warnings, "warning", look.sign("⚠", "W"), Paint::Warn),
            ] {
                if count > 0 && attempt < 1 {
                    line.push(format!("  {}", counted(count, noun)), paint);
                } else if count > 0 {
                    line.push(format!("  {short}{}", number(count)), paint);
                }
            }
            if line.columns() <= width || attempt == 5 {
                return line;
            }
        }
        unreachable!("the last attempt is taken as it is")
    }

    fn push_hosts(&self, line: &mut Line, room: usize, look: Look) {
        let (Some(source), Some(target)) = (&self.source, &self.target) else {
            line.push("pc-switcher", Paint::Bold);
            return;
        };
        let each = (room / 3).max(4);
        line.push(fit_middle(source, each, look.ellipsis()), Paint::Bold);
        line.push(look.sign(" → ", " -> "), Paint::Plain);
        line.push(fit_middle(target, each, look.ellipsis()), Paint::Bold);
    }

    fn push_connection(&self, line: &mut Line) {
        let Some(connection) = &self.connection else {
            return;
        };
        match (connection.status, connection.latency) {
            (ConnectionStatus::Connected, Some(latency)) => {
                line.push(format!("  {}", millis(latency)), Paint::Dim);
            }
            (ConnectionStatus::Connected, None) => {}
            (ConnectionStatus::Connecting, _) => line.push("  connecting", Paint::Dim),
            (ConnectionStatus::Disconnected, _) => line.push("  disconnected", Paint::Warn),
        }
    }

    /// What is being waited for, after a while of silence.
    pub(super) fn waiting(&self, now: Instant) -> Option<Waiting> {
        let silence = now.saturating_duration_since(self.last_sign);
        if silence < PATIENCE || self.phase.is_none() && self.work.is_empty() {
            return None;
        }
        let told = self.modules.iter().find_map(|m| {
            let item = m.waiting_for.as_ref()?;
            Some((Some(clean(&m.name)), clean(item)))
        });
        // What began first is what the others wait for: a transfer, not a look at the disk beside it.
        let asked = || {
            let (_, work) = self.work.first_key_value()?;
            Some((Some(clean(&work.machine)), clean(&work.doing)))
        };
        let running = || {
            let module = self.modules.iter().find(|m| !m.background)?;
            Some((None, clean(&module.name)))
        };
        let phase = || Some((None, self.phase?.title().to_owned()));
        let (who, what) = (told.or_else(asked)).or_else(running).or_else(phase)?;
        Some(Waiting { who, what, silence })
    }

    /// The line for it, with a sign that turns: we are alive.
    fn waiting_line(&self, width: usize, look: Look, now: Instant) -> Option<Line> {
        let waiting = self.waiting(now)?;
        let signs: &[&str] = if look.unicode {
            &["⠋", "⠙", "⠹", "⠸", "⠼", "⠴", "⠦", "⠧", "⠇", "⠏"]
        } else {
            &["|", "/", "-", "\\"]
        };
        let turn = now.saturating_duration_since(self.began).as_millis() / 100;
        let sign = signs[usize::try_from(turn % signs.len() as u128).unwrap_or(0)];
        let mut line = Line::of(sign, Paint::Accent);
        let words = waiting.words(Some(width.saturating_sub(2)), look);
        line.push(format!(" {words}"), Paint::Plain);
        Some(line)
    }

    fn work(&mut self, work: &WorkEvent) {
        if work.ended {
            self.work.remove(&work.id);
        } else if self.work.len() < MAX_WORK {
            self.work.insert(work.id, work.clone());
        }
    }
}

/// What is waited for, and since when nothing was heard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Waiting {
    /// The machine, or the module that said so itself; escaped.
    pub(super) who: Option<String>,
    /// What it does; escaped.
    pub(super) what: String,
    /// How long nothing was heard.
    pub(super) silence: Duration,
}

impl Waiting {
    /// `waiting for vega: comparing /home, 12 s`, in at most `width` columns if possible: how long
    /// it has been is never cut.
    pub(super) fn words(&self, width: Option<usize>, look: Look) -> String {
        let time = match self.silence.as_secs() {
            secs @ ..60 => format!("{secs} s"),
            _ => span(self.silence),
        };
        let head = match &self.who {
            Some(who) => format!("waiting for {who}: "),
            None => "waiting for ".to_owned(),
        };
        let room = width.map(|width| width.saturating_sub(columns(&head) + columns(&time) + 2));
        let what = room.map_or_else(
            || self.what.clone(),
            |room| fit_middle(&self.what, room, look.ellipsis()),
        );
        format!("{head}{what}, {time}")
    }
}
