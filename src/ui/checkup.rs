//! A list of checks on stdout: a sign, a name, what was found, and below it what to do about it.

use std::io::{self, IsTerminal as _, Write as _};

use super::look::{Line, Look, Paint, is_utf8};
use super::report::color;
use super::screen::stdout_columns;
use super::text::{columns, message};
use super::words::{Width, wrapped};

/// What a check came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mark {
    /// As it should be.
    Good,
    /// To be looked at.
    Warning,
    /// Not as it must be.
    Bad,
    /// Not known.
    Unknown,
}

impl Mark {
    fn look(self, look: Look) -> (&'static str, Paint) {
        match self {
            Self::Good => (look.sign("✔", "ok  "), Paint::Good),
            Self::Warning => (look.sign("▲", "WARN"), Paint::Warn),
            Self::Bad => (look.sign("✖", "FAIL"), Paint::Bad),
            Self::Unknown => (look.sign("·", "?   "), Paint::Dim),
        }
    }
}

/// One check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckRow {
    /// What it came to.
    pub mark: Mark,
    /// Its name.
    pub title: String,
    /// What was found; may have several lines.
    pub text: String,
    /// What to do about it; lines that begin with a space are commands to copy.
    pub remedy: Option<String>,
}

/// Checks of one machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckGroup {
    /// The machine.
    pub title: String,
    /// Its checks.
    pub rows: Vec<CheckRow>,
}

/// Prints the groups to stdout, and below them what it comes to.
pub fn print_checks(groups: &[CheckGroup], verdict: (Mark, &str)) -> io::Result<()> {
    let stdout = io::stdout();
    let is_terminal = stdout.is_terminal();
    let look = Look {
        color: color().applies(is_terminal, |name| std::env::var_os(name)),
        unicode: is_utf8(|name| std::env::var_os(name)),
    };
    let width = is_terminal.then(|| stdout_columns().saturating_sub(1).clamp(20, 100));
    let mut text = String::new();
    for line in lines(groups, verdict, look, width) {
        text.push_str(line.render(look).trim_end());
        text.push('\n');
    }
    stdout.lock().write_all(text.as_bytes())
}

fn lines(groups: &[CheckGroup], verdict: (Mark, &str), look: Look, width: Width) -> Vec<Line> {
    let rows = groups.iter().flat_map(|group| &group.rows);
    let titles = rows.map(|row| columns(&row.title)).max().unwrap_or(0);
    let mut lines = Vec::new();
    for group in groups.iter().filter(|group| !group.rows.is_empty()) {
        lines.push(Line::of(message(&group.title), Paint::Bold));
        for row in &group.rows {
            lines.extend(row_lines(row, titles, look, width));
        }
        lines.push(Line::default());
    }
    let (sign, paint) = verdict.0.look(look);
    let mut line = Line::of(format!("{sign} "), paint);
    line.push(verdict.1, Paint::Plain);
    lines.push(line);
    lines
}

fn row_lines(row: &CheckRow, titles: usize, look: Look, width: Width) -> Vec<Line> {
    let (sign, paint) = row.mark.look(look);
    let margin = 2 + columns(sign) + 1;
    let indent = margin + titles + 2;
    // Where the column of titles leaves too little, what was found stands below it.
    let beside = width.is_none_or(|width| width >= indent + 24);
    let indent = if beside { indent } else { margin + 2 };
    let room = width.map(|width| width.saturating_sub(indent).max(10));
    let mut head = Line::of("  ", Paint::Plain);
    head.push(format!("{sign} "), paint);
    let title = message(&row.title);
    let pad = " ".repeat(titles.saturating_sub(columns(&title)) + 2);
    head.push(format!("{title}{pad}"), Paint::Plain);
    let mut lines = vec![head];
    let plain = match row.mark {
        Mark::Good | Mark::Unknown => Paint::Dim,
        Mark::Warning | Mark::Bad => Paint::Plain,
    };
    let texts = row.text.lines().map(|text| (text, plain));
    let remedy = row.remedy.as_deref().unwrap_or_default().lines();
    let remedy = remedy.map(|text| {
        (
            text,
            if text.starts_with(' ') {
                Paint::Accent
            } else {
                Paint::Dim
            },
        )
    });
    for (number, (text, paint)) in texts.chain(remedy).enumerate() {
        for (row, part) in wrapped(&message(text), room, 0).into_iter().enumerate() {
            match lines.first_mut() {
                Some(head) if (number, row) == (0, 0) && beside => head.push(part, paint),
                _ => {
                    let mut line = Line::of(" ".repeat(indent), Paint::Plain);
                    line.push(part, paint);
                    lines.push(line);
                }
            }
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn groups() -> Vec<CheckGroup> {
        let row = |mark, title: &str, text: &str, remedy: Option<&str>| CheckRow {
            mark,
            title: title.into(),
            text: text.into(),
            remedy: remedy.map(str::to_owned),
        };
        vec![
            CheckGroup {
                title: "atlas".into(),
                rows: vec![row(Mark::Good, "sudo", "root can be had", None)],
            },
            CheckGroup {
                title: "empty".into(),
                rows: Vec::new(),
            },
            CheckGroup {
                title: "vega".into(),
                rows: vec![
                    row(
                        Mark::Warning,
                        "clock",
                        "its clock is 2 min ahead\x1b[2J",
                        None,
                    ),
                    row(
                        Mark::Bad,
                        "disk space",
                        "only 1 GiB free on / and much else to be said about it",
                        Some(
                            "free some:\n    btrfs filesystem usage /home/somebody/very/long/path",
                        ),
                    ),
                    row(Mark::Unknown, "agent", "not known yet", None),
                ],
            },
        ]
    }

    fn shown(unicode: bool, width: Width) -> String {
        let look = Look {
            color: false,
            unicode,
        };
        let lines = lines(&groups(), (Mark::Bad, "1 of 4 failed"), look, width);
        let lines: Vec<String> = lines
            .iter()
            .map(|l| l.render(look).trim_end().to_owned())
            .collect();
        lines.join("\n")
    }

    #[test]
    fn rows_are_in_columns_with_remedies_below_and_nothing_acts_on_the_terminal() {
        insta::assert_snapshot!(shown(true, None), @r#"
        atlas
          ✔ sudo        root can be had

        vega
          ▲ clock       its clock is 2 min ahead\x1b[2J
          ✖ disk space  only 1 GiB free on / and much else to be said about it
                        free some:
                            btrfs filesystem usage /home/somebody/very/long/path
          · agent       not known yet

        ✖ 1 of 4 failed
        "#);
        insta::assert_snapshot!(shown(false, None), @r#"
        atlas
          ok   sudo        root can be had

        vega
          WARN clock       its clock is 2 min ahead\x1b[2J
          FAIL disk space  only 1 GiB free on / and much else to be said about it
                           free some:
                               btrfs filesystem usage /home/somebody/very/long/path
          ?    agent       not known yet

        FAIL 1 of 4 failed
        "#);
    }

    #[test]
    fn long_text_is_wrapped_and_commands_are_not() {
        insta::assert_snapshot!(shown(true, Some(60)), @r#"
        atlas
          ✔ sudo        root can be had

        vega
          ▲ clock       its clock is 2 min ahead\x1b[2J
          ✖ disk space  only 1 GiB free on / and much else to be
                        said about it
                        free some:
                            btrfs filesystem usage /home/somebody/very/long/path
          · agent       not known yet

        ✖ 1 of 4 failed
        "#);
        insta::assert_snapshot!(shown(true, Some(30)), @r#"
        atlas
          ✔ sudo
              root can be had

        vega
          ▲ clock
              its clock is 2 min
              ahead\x1b[2J
          ✖ disk space
              only 1 GiB free on / and
              much else to be said
              about it
              free some:
                  btrfs filesystem usage /home/somebody/very/long/path
          · agent
              not known yet

        ✖ 1 of 4 failed
        "#);
    }
}
