//! One running module on the live lines: its bar, rate, counts and time left.

use std::time::{Duration, Instant};

use crate::event::ProgressUpdate;

use super::look::{Line, Look, Paint};
use super::meter::Meter;
use super::text::{bytes, clean, clock, columns, counted, fit_middle, number};

/// Widths from which a bar and what it is at share a line.
pub(super) const ONE_LINE: usize = 120;

/// A running module as its progress shows it.
pub(super) struct ModuleView {
    pub(super) name: String,
    /// Whether it is being carried out; otherwise it is planning.
    pub(super) started: bool,
    /// Whether it runs beside the others.
    pub(super) background: bool,
    /// What it says it waits for itself.
    pub(super) waiting_for: Option<String>,
    began: Instant,
    update: ProgressUpdate,
    bytes: Meter,
    items: Meter,
}

/// Where and how a module is drawn.
#[derive(Debug, Clone, Copy)]
pub(super) struct Frame {
    /// Columns there are.
    pub(super) width: usize,
    /// Columns for the name.
    pub(super) name_width: usize,
    /// Whether what it is at may have a line of its own.
    pub(super) item_line: bool,
    pub(super) look: Look,
    pub(super) now: Instant,
}

impl ModuleView {
    /// A module that has said nothing yet.
    pub(super) fn new(name: &str, now: Instant) -> Self {
        Self {
            name: name.to_owned(),
            started: false,
            background: false,
            waiting_for: None,
            began: now,
            update: ProgressUpdate::default(),
            bytes: Meter::default(),
            items: Meter::default(),
        }
    }

    /// Takes in how far it is.
    pub(super) fn take(&mut self, update: &ProgressUpdate, now: Instant) {
        if update.heartbeat {
            self.waiting_for.clone_from(&update.item);
            return;
        }
        self.waiting_for = None;
        self.update = update.clone();
        if let Some(n) = update.current_bytes {
            self.bytes.add(now, n);
        }
        if let Some(n) = update.current {
            self.items.add(now, n);
        }
    }

    /// Its figures in one line, for plain output.
    pub(super) fn figures(&self, now: Instant) -> Option<String> {
        let update = &self.update;
        let mut parts = Vec::new();
        parts.extend(self.percent().map(|p| format!("{p}%")));
        parts.extend(of(update.current, update.total, item_count, number, " of "));
        parts.extend(of(
            update.current_bytes,
            update.total_bytes,
            bytes,
            bytes,
            " of ",
        ));
        parts.extend(self.rate(now));
        parts.extend(self.eta(now).map(|eta| format!("{} left", clock(eta))));
        parts.extend(update.item.as_deref().map(clean));
        (!parts.is_empty()).then(|| parts.join(", "))
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
        // Less than one a second is no figure that anybody can use.
        of_bytes
            .filter(|rate| *rate >= 1.0)
            .map(|rate| format!("{}/s", bytes(whole(rate))))
            .or_else(|| {
                let rate = self.items.rate(now).filter(|rate| *rate >= 1.0)?;
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

    /// Appends its line, or two.
    pub(super) fn draw(&self, lines: &mut Vec<Line>, frame: Frame) {
        let Frame {
            width,
            name_width,
            item_line,
            look,
            now,
        } = frame;
        let name = fit_middle(&clean(&self.name), name_width, look.ellipsis());
        let pad = " ".repeat(name_width.saturating_sub(columns(&name)));
        let paint = if self.background {
            Paint::Dim
        } else {
            Paint::Bold
        };
        let mut line = Line::of(format!("{name}{pad}"), paint);
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
            let paint = if self.background {
                Paint::Dim
            } else {
                Paint::Plain
            };
            line.push(format!("  {time}"), paint);
        }
        // By how much they matter; shown in another order.
        let update = &self.update;
        let eta = self.eta(now).map(clock).map(|eta| format!("{eta} left"));
        let figures = [
            (2, self.rate(now)),
            (3, eta),
            (0, of(update.current, update.total, item_count, number, "/")),
            (
                1,
                of(update.current_bytes, update.total_bytes, bytes, bytes, "/"),
            ),
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

/// `3/7`, or what `alone` makes of it if nobody knows of how many.
fn of(
    current: Option<u64>,
    total: Option<u64>,
    alone: impl Fn(u64) -> String,
    show: impl Fn(u64) -> String,
    between: &str,
) -> Option<String> {
    let current = current?;
    Some(match total {
        Some(total) => format!("{}{between}{}", show(current), show(total)),
        None => alone(current),
    })
}

fn item_count(n: u64) -> String {
    counted(n, "item")
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
