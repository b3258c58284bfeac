//! Errors as a person sees them: what went wrong, why, and what to do.

use std::io::IsTerminal as _;
use std::sync::atomic::{AtomicU8, Ordering};

use super::live::Screen as _;
use super::look::{ColorMode, Line, Look, is_utf8};
use super::screen::stderr_screen;
use super::words::{self, Width};

/// One error, ready to be shown. Lines of a text that begin with a space are commands to copy: they
/// are not wrapped.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ErrorReport {
    /// What went wrong.
    pub message: String,
    /// Why, from the outside in.
    pub causes: Vec<String>,
    /// What a person can do about it.
    pub hint: Option<String>,
}

impl ErrorReport {
    /// A report of `message` alone.
    #[must_use]
    pub fn new(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            ..Self::default()
        }
    }
}

/// `--color`, for what is printed outside of a run.
static COLOR: AtomicU8 = AtomicU8::new(0);

/// Sets `--color` for [`report_error`] and [`report_errors`]; `start` does it too.
pub fn set_color(mode: ColorMode) {
    COLOR.store(mode as u8, Ordering::Relaxed);
}

pub(super) fn color() -> ColorMode {
    let wanted = COLOR.load(Ordering::Relaxed);
    let found = ColorMode::ALL.iter().find(|(_, m)| *m as u8 == wanted);
    found.map_or(ColorMode::Auto, |(_, mode)| *mode)
}

/// Prints `report` to stderr.
pub fn report_error(report: &ErrorReport) {
    show(|width| words::error(report, "error: ", 0, width));
}

/// Prints several errors that were found together, under a `title` ("3 problems in config.yaml").
pub fn report_errors(title: &str, reports: &[ErrorReport]) {
    show(|width| words::errors(title, reports, width));
}

fn show(lines: impl FnOnce(Width) -> Vec<Line>) {
    let is_terminal = std::io::stderr().is_terminal();
    let look = Look {
        color: color().applies(is_terminal, |name| std::env::var_os(name)),
        unicode: is_utf8(|name| std::env::var_os(name)),
    };
    let mut screen = stderr_screen();
    // Wider than this nobody reads well.
    let width = is_terminal.then(|| screen.size().1.saturating_sub(1).clamp(20, 100));
    let mut text = String::new();
    for line in lines(width) {
        text.push_str(&line.render(look));
        text.push('\n');
    }
    screen.write(&text);
}

#[cfg(test)]
fn plain(lines: &[Line]) -> String {
    let look = Look {
        color: false,
        unicode: true,
    };
    let texts: Vec<String> = lines.iter().map(|line| line.render(look)).collect();
    texts.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_names_causes_and_hint_and_is_wrapped_and_escaped() {
        let report = ErrorReport {
            message: "cannot reach vega\u{1b}[2J".into(),
            causes: vec!["connection refused".into()],
            hint: Some("is sshd running there? try\n    sudo systemctl start ssh.service".into()),
        };
        let lines = words::error(&report, "error: ", 0, Some(30));
        assert_eq!(
            plain(&lines),
            "error: cannot reach\n  vega\\x1b[2J\ncause: connection refused\nhint: is sshd running there?\n  try\n      sudo systemctl start ssh.service"
        );
    }

    #[test]
    fn several_errors_are_listed_together() {
        let mut first = ErrorReport::new("c.yaml:3:1: unknown key `foldres`");
        first.hint = Some("did you mean `folders`?".into());
        let second = ErrorReport::new("c.yaml:9:1: a bare number");
        let lines = words::errors("2 problems in c.yaml", &[first, second], None);
        assert_eq!(
            plain(&lines),
            "error: 2 problems in c.yaml\n  c.yaml:3:1: unknown key `foldres`\n    hint: did you mean `folders`?\n  c.yaml:9:1: a bare number"
        );
    }

    #[test]
    fn the_colour_mode_is_kept() {
        for (_, mode) in ColorMode::ALL {
            set_color(mode);
            assert_eq!(color(), mode);
        }
        set_color(ColorMode::Auto);
    }
}
