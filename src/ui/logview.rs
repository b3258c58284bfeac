//! Lines of a log file, read back: time, level, who spoke, what was said; in colour where it can be seen.

use std::fmt::Write as _;

use jiff::Timestamp;
use serde_json::{Map, Value};

use super::look::{Line, Look, Paint, is_utf8};
use super::pager::stdout_is_terminal;
use super::report::color;
use super::text::{clean, clean_lines};
use crate::event::LogLevel;
use crate::jsonline::redact_value;

/// Lines shown of one message.
const MESSAGE_LINES: usize = 200;

/// One line of a log.
#[derive(Debug, Clone)]
pub struct LogRow<'a> {
    /// When.
    pub timestamp: Timestamp,
    /// How much it matters.
    pub level: LogLevel,
    /// Who spoke.
    pub module: &'a str,
    /// The machine it is about.
    pub hostname: Option<&'a str>,
    /// What was said.
    pub message: &'a str,
    /// Structured detail, where it is wanted.
    pub context: Option<&'a Map<String, Value>>,
}

/// Turns lines of a log into text for stdout.
#[derive(Debug)]
pub struct LogView {
    look: Look,
    day: String,
}

impl Default for LogView {
    fn default() -> Self {
        Self::new()
    }
}

impl LogView {
    /// For stdout as it is.
    #[must_use]
    pub fn new() -> Self {
        Self::with(Look {
            color: color().applies(stdout_is_terminal(), |name| std::env::var_os(name)),
            unicode: is_utf8(|name| std::env::var_os(name)),
        })
    }

    fn with(look: Look) -> Self {
        Self {
            look,
            day: String::new(),
        }
    }

    /// A line, with the day above it when a new one begins.
    pub fn row(&mut self, row: &LogRow<'_>) -> String {
        let mut text = String::new();
        let day = row.timestamp.strftime("%Y-%m-%d UTC").to_string();
        if day != self.day {
            self.say(&mut text, &Line::of(day.clone(), Paint::Bold));
            self.day = day;
        }
        let (level_paint, paint) = match row.level {
            LogLevel::Debug | LogLevel::Full => (Paint::Dim, Paint::Dim),
            LogLevel::Info => (Paint::Plain, Paint::Plain),
            LogLevel::Warning => (Paint::Warn, Paint::Plain),
            LogLevel::Error | LogLevel::Critical => (Paint::Bad, Paint::Plain),
        };
        let time = row.timestamp.strftime("%H:%M:%S.%3f").to_string();
        let mut line = Line::of(format!("{time} "), Paint::Dim);
        line.push(format!("{:<8} ", row.level), level_paint);
        let module = clean(row.module);
        let speaker = match (module.as_str(), row.hostname) {
            ("core" | "", None) => String::new(),
            ("core" | "", Some(host)) => format!("{}: ", clean(host)),
            (module, None) => format!("{module}: "),
            (module, Some(host)) => format!("{module} ({}): ", clean(host)),
        };
        line.push(speaker, Paint::Accent);
        let mut texts = clean_lines(row.message, MESSAGE_LINES).into_iter();
        line.push(texts.next().unwrap_or_default(), paint);
        if let Some(context) = row.context.filter(|context| !context.is_empty()) {
            let mut context = Value::Object(context.clone());
            redact_value(&mut context);
            line.push(format!(" {}", clean(&context.to_string())), Paint::Dim);
        }
        self.say(&mut text, &line);
        for more in texts {
            self.say(&mut text, &Line::of(format!("{:22}{more}", ""), paint));
        }
        text
    }

    /// A line that is not one of ours, as it is.
    pub fn damaged(&mut self, line: &str) -> String {
        let mut text = String::new();
        let mut shown = Line::of("damaged line: ", Paint::Warn);
        shown.push(clean(line), Paint::Dim);
        self.say(&mut text, &shown);
        text
    }

    fn say(&self, text: &mut String, line: &Line) {
        writeln!(text, "{}", line.render(self.look)).expect("a String takes every write");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row<'a>(second: &str, level: LogLevel, message: &'a str) -> LogRow<'a> {
        LogRow {
            timestamp: format!("2026-01-02T03:04:{second}Z").parse().unwrap(),
            level,
            module: "user_data",
            hostname: Some("vega"),
            message,
            context: None,
        }
    }

    #[test]
    fn lines_read_well_and_nothing_in_them_acts_on_the_terminal() {
        let mut view = LogView::with(Look {
            color: false,
            unicode: true,
        });
        let mut text = view.row(&row(
            "05.6789",
            LogLevel::Warning,
            "left \x1b[2Jalone\nand more",
        ));
        text += &view.damaged("{\"half\": \u{9b}31m");
        let context = serde_json::json!({"url": "https://a:b@c/", "name": "\u{202e}"});
        let detailed = LogRow {
            module: "core",
            hostname: None,
            context: context.as_object(),
            ..row("06", LogLevel::Info, "next")
        };
        text += &view.row(&detailed);
        insta::assert_snapshot!(text, @r#"
        2026-01-02 UTC
        03:04:05.678 WARNING  user_data (vega): left \x1b[2Jalone
                              and more
        damaged line: {"half": \xc2\x9b31m
        03:04:06.000 INFO     next {"name":"\xe2\x80\xae","url":"https://***@c/"}
        "#);
    }

    #[test]
    fn levels_have_their_colours() {
        let mut view = LogView::with(Look {
            color: true,
            unicode: true,
        });
        let text = view.row(&row("05", LogLevel::Error, "failed"));
        assert!(text.contains("\x1b[1;31mERROR    \x1b[0m"), "{text:?}");
    }
}
