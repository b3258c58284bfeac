//! Whether there is colour and which signs can be shown, and lines made of painted pieces.
//!
//! A line is measured and cut before it is painted, so that no escape sequence is ever cut.
//! Only bold, dim and the six plain colours are used: they are right on light and on dark.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::str::FromStr;

use super::text::{columns, fit};

/// `--color`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ColorMode {
    /// On a terminal, unless `NO_COLOR` says otherwise.
    #[default]
    Auto,
    /// Also into pipes and files.
    Always,
    /// None.
    Never,
}

impl ColorMode {
    /// Every mode with its name on the command line.
    pub const ALL: [(&'static str, Self); 3] = [
        ("auto", Self::Auto),
        ("always", Self::Always),
        ("never", Self::Never),
    ];

    /// Whether to paint what goes to a stream that is a terminal or not.
    ///
    /// The flag counts most, then `CLICOLOR_FORCE` (not empty, not `0`), then `NO_COLOR` (not empty).
    #[must_use]
    pub fn applies(self, is_terminal: bool, env: impl Fn(&str) -> Option<OsString>) -> bool {
        let set = |name: &str| env(name).filter(|value| !value.is_empty());
        match self {
            Self::Always => true,
            Self::Never => false,
            Self::Auto if set("CLICOLOR_FORCE").is_some_and(|v| v != "0") => true,
            Self::Auto if set("NO_COLOR").is_some() => false,
            Self::Auto => is_terminal && set("TERM").is_none_or(|term| term != "dumb"),
        }
    }
}

impl FromStr for ColorMode {
    type Err = ();

    fn from_str(name: &str) -> Result<Self, ()> {
        let found = Self::ALL.iter().find(|(n, _)| *n == name);
        found.map(|(_, mode)| *mode).ok_or(())
    }
}

/// Whether the locale's character set is UTF-8.
pub(super) fn is_utf8(env: impl Fn(&str) -> Option<OsString>) -> bool {
    ["LC_ALL", "LC_CTYPE", "LANG"]
        .iter()
        .find_map(|name| env(name).filter(|value| !value.is_empty()))
        .is_some_and(|locale| {
            let locale = locale.to_string_lossy().to_ascii_lowercase();
            locale.contains("utf-8") || locale.contains("utf8")
        })
}

/// How a piece of text is painted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Paint {
    Plain,
    Bold,
    Dim,
    Good,
    Warn,
    Bad,
    Accent,
}

impl Paint {
    fn code(self) -> &'static str {
        match self {
            Self::Plain => "",
            Self::Bold => "1",
            Self::Dim => "2",
            Self::Good => "32",
            // Not yellow, which is hardly there on white.
            Self::Warn => "35",
            Self::Bad => "1;31",
            Self::Accent => "36",
        }
    }
}

/// What a stream can show.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Look {
    /// Whether to paint.
    pub color: bool,
    /// Whether signs beyond ASCII can be shown.
    pub unicode: bool,
}

impl Look {
    /// `fancy`, or `plain` where only ASCII can be shown.
    pub(super) fn sign(self, fancy: &'static str, plain: &'static str) -> &'static str {
        if self.unicode { fancy } else { plain }
    }

    /// What stands for text left out.
    pub(super) fn ellipsis(self) -> &'static str {
        self.sign("…", "...")
    }
}

/// A line of painted pieces; their text is escaped already.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Line(Vec<(String, Paint)>);

impl Line {
    /// A line of one piece.
    pub(super) fn of(text: impl Into<String>, paint: Paint) -> Self {
        let mut line = Self::default();
        line.push(text, paint);
        line
    }

    /// Appends a piece.
    pub(super) fn push(&mut self, text: impl Into<String>, paint: Paint) {
        self.0.push((text.into(), paint));
    }

    /// Appends all pieces of `other`.
    pub(super) fn append(&mut self, other: Self) {
        self.0.extend(other.0);
    }

    /// Columns it takes.
    pub(super) fn columns(&self) -> usize {
        self.0.iter().map(|(text, _)| columns(text)).sum()
    }

    /// Cuts it down to `width` columns.
    pub(super) fn fitted(self, width: usize, look: Look) -> Self {
        if self.columns() <= width {
            return self;
        }
        let ellipsis = look.ellipsis();
        let mut room = width;
        let mut out = Self::default();
        for (text, paint) in self.0 {
            let wide = columns(&text);
            // Something follows: keep room for the ellipsis.
            if wide + columns(ellipsis) <= room {
                room -= wide;
                out.push(text, paint);
            } else {
                out.push(fit(&format!("{text}{ellipsis}"), room, ellipsis), paint);
                break;
            }
        }
        out
    }

    /// As text for a terminal.
    pub(super) fn render(&self, look: Look) -> String {
        let mut out = String::new();
        for (text, paint) in &self.0 {
            let code = paint.code();
            if look.color && !code.is_empty() && !text.is_empty() {
                write!(out, "\x1b[{code}m{text}\x1b[0m").expect("a String takes every write");
            } else {
                out.push_str(text);
            }
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn applies(mode: ColorMode, terminal: bool, vars: &[(&str, &str)]) -> bool {
        mode.applies(terminal, |name| {
            let found = vars.iter().find(|(n, _)| *n == name);
            found.map(|(_, value)| value.into())
        })
    }

    #[test]
    fn colour_follows_the_flag_then_the_variables_then_the_terminal() {
        let no = ("NO_COLOR", "1");
        let force = ("CLICOLOR_FORCE", "1");
        assert!(applies(ColorMode::Always, false, &[no]));
        assert!(!applies(ColorMode::Never, true, &[force]));
        assert!(applies(ColorMode::Auto, true, &[]));
        assert!(!applies(ColorMode::Auto, false, &[]));
        assert!(!applies(ColorMode::Auto, true, &[no]));
        assert!(applies(ColorMode::Auto, false, &[force]));
        assert!(!applies(ColorMode::Auto, false, &[("CLICOLOR_FORCE", "0")]));
        assert!(applies(ColorMode::Auto, true, &[("NO_COLOR", "")]));
        assert!(!applies(ColorMode::Auto, true, &[("TERM", "dumb")]));
    }

    #[test]
    fn the_first_locale_variable_that_is_set_decides_on_utf8() {
        let with = |vars: &[(&str, &str)]| {
            is_utf8(|name| {
                let found = vars.iter().find(|(n, _)| *n == name);
                found.map(|(_, value)| value.into())
            })
        };
        assert!(with(&[("LANG", "de_DE.UTF-8")]));
        assert!(with(&[("LC_ALL", ""), ("LANG", "C.utf8")]));
        assert!(!with(&[("LC_ALL", "C"), ("LANG", "de_DE.UTF-8")]));
        assert!(!with(&[]));
    }

    #[test]
    fn a_cut_line_never_cuts_a_sequence() {
        let look = Look {
            color: true,
            unicode: true,
        };
        let mut line = Line::of("atlas", Paint::Bold);
        line.push(" to ", Paint::Plain);
        line.push("vega", Paint::Good);
        for width in 1..20 {
            let cut = line.clone().fitted(width, look);
            assert!(cut.columns() <= width);
            let text = console::strip_ansi_codes(&cut.render(look)).into_owned();
            assert_eq!(columns(&text), cut.columns(), "{text:?}");
            assert!(!text.contains('\x1b'));
        }
        let cut = line.fitted(11, look).render(look);
        assert_eq!(cut, "\x1b[1matlas\x1b[0m to \x1b[32mv…\x1b[0m");
    }
}
