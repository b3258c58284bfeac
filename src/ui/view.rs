//! What the live lines show: the status line, a bar per running module, what is being waited for.
//!
//! A pure picture of the events so far; time comes in as an argument, text goes out as lines.

use std::time::{Duration, Instant};

use crate::event::{
    ConnectionEvent, ConnectionStatus, Event, LogEvent, LogLevel, Phase, ProgressEvent,
    ProgressUpdate,
};

use super::look::{Line, Look, Paint};
use super::meter::Meter;
use super::text::{bytes, clean, clock, columns, fit_middle, millis, number};

/// Silence after which the lines say what is being waited for.
const PATIENCE: Duration = Duration::from_secs(2);

/// Widths from which a bar and what it is at share a line.
const ONE_LINE: usize = 120;

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
    last_words: Option<String>,
}

struct ModuleView {
    name: String,
    started: bool,
    began: Instant,
    update: ProgressUpdate,
    waiting_for: Option<String>,
    bytes: Meter,
    items: Meter,
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
            last_words: None,
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
                self.last_words = None;
                // What a module said while it planned is over; what runs, runs on.
                self.modules.retain(|m| m.started);
            }
            Event::ModuleStarted { module } => {
                self.modules.retain(|m| m.name != *module);
                let mut view = ModuleView::new(module, now);
                view.started = true;
                self.modules.push(view);
            }
            Event::ModuleFinished(result) => self.modules.retain(|m| m.name != result.module),
            Event::Closing(_) => self.modules.clear(),
        }
        self.last_sign = now;
    }

    /// The host names, as far as they are known.
    pub(super) fn hosts(&self) -> (Option<&str>, Option<&str>) {
        (self.source.as_deref(), self.target.as_deref())
    }

    /// Modules with something to say, each with one line of figures, for plain output.
    pub(super) fn figures(&self, module: &str, now: Instant) -> Option<String> {
        let module = self.modules.iter().find(|m| m.name == module)?;
        let update = &module.update;
        let mut parts = Vec::new();
        parts.extend(module.percent().map(|p| format!("{p}%")));
        parts.extend(of(update.current, update.total, number, " of "));
        parts.extend(of(update.current_bytes, update.total_bytes, bytes, " of "));
        parts.extend(module.rate(now));
        parts.extend(module.eta(now).map(|eta| format!("{} left", clock(eta))));
        parts.extend(update.item.as_deref().map(clean));
        (!parts.is_empty()).then(|| parts.join(", "))
    }

    fn count(&mut self, log: &LogEvent) {
        match log.level {
            LogLevel::Warning => self.warnings += 1,
            LogLevel::Error | LogLevel::Critical => self.errors += 1,
            LogLevel::Full | LogLevel::Info => {
                let message = clean(log.message.lines().next().unwrap_or_default());
                self.last_words = Some(match log.module.as_str() {
                    "core" => message,
                    module => format!("{}: {message}", clean(module)),
                });
            }
            LogLevel::Debug => {}
        }
    }

    fn progress(&mut self, progress: &ProgressEvent, now: Instant) {
        let at = self.modules.iter().position(|m| m.name == progress.module);
        let at = at.unwrap_or_else(|| {
            self.modules.push(ModuleView::new(&progress.module, now));
            self.modules.len() - 1
        });
        let module = &mut self.modules[at];
        if progress.update.heartbeat {
            module.waiting_for.clone_from(&progress.update.item);
            return;
        }
        module.waiting_for = None;
        module.update = progress.update.clone();
        if let Some(n) = module.update.current_bytes {
            module.bytes.add(now, n);
        }
        if let Some(n) = module.update.current {
            module.items.add(now, n);
        }
    }

    /// The lines for a screen of `rows` by `cols`.
    pub(super) fn lines(&self, rows: usize, cols: usize, look: Look, now: Instant) -> Vec<Line> {
        let width = cols.saturating_sub(1);
        let mut lines = vec![self.status(width, look, now)];
        let waiting = self.waiting(look, now);
        // Half of the screen stays for the log.
        let room = (rows / 2)
            .max(2)
            .saturating_sub(1 + usize::from(waiting.is_some()));
        let shown = self.modules.len().min(room);
        let names = self.modules.iter().map(|m| columns(&clean(&m.name))).max();
        let name_width = names.unwrap_or(0).min((width / 4).clamp(10, 24));
        let item_lines = width < ONE_LINE && shown * 2 <= room;
        for module in &self.modules[..shown] {
            module.draw(&mut lines, width, name_width, item_lines, look, now);
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
        // Each attempt says less, until it fits.
        for attempt in 0..6 {
            let mut line = Line::default();
            let room = if attempt < 4 { width } else { width / 5 };
            self.push_hosts(&mut line, room, look);
            if let Some(phase) = self.phase {
                let (n, title) = (phase.number(), phase.title());
                let text = match attempt {
                    0 => format!("  [{n}/10] {title}"),
                    5 => format!("  {n}/10"),
                    _ => format!("  {n}/10 {title}"),
                };
                line.push(text, Paint::Accent);
            }
            if attempt < 2 {
                self.push_connection(&mut line);
            }
            if attempt < 4 {
                line.push(format!("  {elapsed}"), Paint::Dim);
            }
            for (count, noun, short, paint) in [
                (self.errors, "error", look.sign("✖", "E"), Paint::Bad),
                (self.warnings, "warning", look.sign("⚠", "W"), Paint::Warn),
            ] {
                if count > 0 && attempt < 1 {
                    line.push(format!("  {}", super::text::counted(count, noun)), paint);
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

    /// The line that says, after a while of silence, that we are alive and what we wait for.
    fn waiting(&self, look: Look, now: Instant) -> Option<Line> {
        let silence = now.saturating_duration_since(self.last_sign);
        if silence < PATIENCE {
            return None;
        }
        let signs: &[&str] = if look.unicode {
            &["⠋", "⠙", "⠹", "⠸", "⠼", "⠴", "⠦", "⠧", "⠇", "⠏"]
        } else {
            &["|", "/", "-", "\\"]
        };
        let turn = now.saturating_duration_since(self.began).as_millis() / 100;
        let sign = signs[usize::try_from(turn % signs.len() as u128).unwrap_or(0)];
        let mut line = Line::of(sign, Paint::Accent);
        let what = self.what_is_waited_for();
        let time = clock(silence);
        line.push(format!(" waiting {time} for {what}"), Paint::Plain);
        if let Some(words) = &self.last_words {
            line.push(format!(" (last heard: {words})"), Paint::Dim);
        }
        Some(line)
    }

    fn what_is_waited_for(&self) -> String {
        let told = self.modules.iter().rev().find_map(|m| {
            let item = m.waiting_for.as_ref()?;
            Some(format!("{}: {}", clean(&m.name), clean(item)))
        });
        let running = || Some(clean(&self.modules.last()?.name));
        told.or_else(running)
            .or_else(|| self.target.clone())
            .unwrap_or_else(|| "the other machine".into())
    }
}

impl ModuleView {
    fn new(name: &str, now: Instant) -> Self {
        Self {
            name: name.to_owned(),
            started: false,
            began: now,
            update: ProgressUpdate::default(),
            waiting_for: None,
            bytes: Meter::default(),
            items: Meter::default(),
        }
    }

    fn percent(&self) -> Option<u8> {
        let update = &self.update;
        let ratio = |current: Option<u64>, total: Option<u64>| {
            let (current, total) = (current?, total.filter(|t| *t > 0)?);
            let percent = u128::from(current.min(total)) * 100 / u128::from(total);
            u8::try_from(percent).ok()
        };
        update
            .percent
            .map(|percent| percent.min(100))
            .or_else(|| ratio(update.current_bytes, update.total_bytes))
            .or_else(|| ratio(update.current, update.total))
    }

    fn rate(&self, now: Instant) -> Option<String> {
        let of_bytes = self.update.current_bytes.and(self.bytes.rate(now));
        of_bytes
            .filter(|rate| *rate > 0.0)
            .map(|rate| format!("{}/s", bytes(whole(rate))))
            .or_else(|| {
                let rate = self.items.rate(now).filter(|rate| *rate > 0.0)?;
                Some(format!("{}/s", number(whole(rate))))
            })
    }

    fn eta(&self, now: Instant) -> Option<Duration> {
        let update = &self.update;
        let left = |current: Option<u64>, total: Option<u64>| total?.checked_sub(current?);
        update.eta.or_else(|| {
            left(update.current_bytes, update.total_bytes)
                .and_then(|n| self.bytes.time_for(n, now))
                .or_else(|| {
                    left(update.current, update.total).and_then(|n| self.items.time_for(n, now))
                })
        })
    }

    fn draw(
        &self,
        lines: &mut Vec<Line>,
        width: usize,
        name_width: usize,
        item_line: bool,
        look: Look,
        now: Instant,
    ) {
        let name = fit_middle(&clean(&self.name), name_width, look.ellipsis());
        let pad = " ".repeat(name_width.saturating_sub(columns(&name)));
        let mut line = Line::of(format!("{name}{pad}"), Paint::Bold);
        let bar = match width {
            0..50 => 8,
            50..100 => 16,
            _ => 24,
        };
        if let Some(percent) = self.percent() {
            let full = usize::from(percent) * bar / 100;
            line.push("  ", Paint::Plain);
            line.push(look.sign("━", "#").repeat(full), Paint::Good);
            line.push(look.sign("─", ".").repeat(bar - full), Paint::Dim);
            line.push(format!(" {percent:>3}%"), Paint::Plain);
        } else {
            let time = clock(now.saturating_duration_since(self.began));
            line.push(format!("  {time}"), Paint::Plain);
        }
        // By how much they matter; shown in another order.
        let update = &self.update;
        let eta = self.eta(now).map(clock).map(|eta| format!("{eta} left"));
        let figures = [
            (2, self.rate(now)),
            (3, eta),
            (0, of(update.current, update.total, number, "/")),
            (1, of(update.current_bytes, update.total_bytes, bytes, "/")),
        ];
        let mut room = width.saturating_sub(line.columns());
        let mut kept: Vec<(u8, String)> = Vec::new();
        for (place, text) in figures {
            if let Some(text) = text.filter(|t| columns(t) + 2 <= room) {
                room -= columns(&text) + 2;
                kept.push((place, text));
            }
        }
        kept.sort();
        for (_, text) in kept {
            line.push(format!("  {text}"), Paint::Plain);
        }
        let item = update.item.as_deref().map(clean);
        if width >= ONE_LINE {
            let room = width.saturating_sub(line.columns() + 2);
            if let Some(item) = item.filter(|_| room >= 20) {
                line.push("  ", Paint::Plain);
                line.push(fit_middle(&item, room, look.ellipsis()), Paint::Dim);
            }
            lines.push(line);
        } else {
            lines.push(line);
            if let Some(item) = item.filter(|_| item_line) {
                let item = fit_middle(&item, width.saturating_sub(2), look.ellipsis());
                lines.push(Line::of(format!("  {item}"), Paint::Dim));
            }
        }
    }
}

/// `3/7`, or `3` if nobody knows of how many.
fn of(
    current: Option<u64>,
    total: Option<u64>,
    show: impl Fn(u64) -> String,
    between: &str,
) -> Option<String> {
    let current = show(current?);
    Some(match total {
        Some(total) => format!("{current}{between}{}", show(total)),
        None => current,
    })
}

/// A rate without its fraction.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "rates are finite, not negative and far below 2^64"
)]
fn whole(rate: f64) -> u64 {
    rate as u64
}
