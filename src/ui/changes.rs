//! The list of a plan's changes on stdout: `+ path (detail, size)`, streamed, for people and pipes.

use std::io::{self, Write};

use super::json;
use super::look::{Line, Look, Paint};
use super::text::{bytes, clean};
use crate::change::{Action, Change};

/// Nobody reads the list any more (`| head`): there is no use in printing more of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the reader of the list has gone")]
pub struct ReaderGone;

/// Prints changes one by one; see [`Ui::print_changes`](super::Ui::print_changes).
pub struct ChangePrinter<'a> {
    out: &'a mut dyn Write,
    module: &'a str,
    json: bool,
    look: Look,
    failure: Option<io::Error>,
}

impl<'a> ChangePrinter<'a> {
    pub(super) fn new(out: &'a mut dyn Write, module: &'a str, json: bool, color: bool) -> Self {
        let unicode = true;
        Self {
            out,
            module,
            json,
            look: Look { color, unicode },
            failure: None,
        }
    }

    /// Prints one change of a plan. After an error every further call returns it without printing.
    pub fn print(&mut self, change: &Change) -> Result<(), ReaderGone> {
        if self.failure.is_some() {
            return Err(ReaderGone);
        }
        let text = if self.json {
            json::line(json::change(self.module, change, true))
        } else {
            line(change).render(self.look) + "\n"
        };
        self.write(&text);
        match self.failure {
            None => Ok(()),
            Some(_) => Err(ReaderGone),
        }
    }

    /// Prints a line of text between changes (a heading); nothing in JSON.
    pub fn heading(&mut self, text: &str) {
        if !self.json {
            let line = Line::of(clean(text), Paint::Bold).render(self.look);
            self.write(&(line + "\n"));
        }
    }

    fn write(&mut self, text: &str) {
        if self.failure.is_none() {
            self.failure = self.out.write_all(text.as_bytes()).err();
        }
    }

    /// Flushes; a reader that has gone is no error, a full disk is.
    pub(super) fn finish(self) -> io::Result<()> {
        let result = match self.failure {
            Some(failure) => Err(failure),
            None => self.out.flush(),
        };
        match result {
            Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            result => result,
        }
    }
}

/// The sign of a kind of change, and how it is painted.
pub(super) fn sign(action: Action) -> (char, Paint) {
    let paint = match action {
        Action::Create => Paint::Good,
        Action::Change | Action::Rename => Paint::Warn,
        Action::Delete => Paint::Bad,
        Action::Attributes => Paint::Dim,
    };
    (action.sign(), paint)
}

/// `+ path (content, mode, 2.0 KiB)`.
pub(super) fn line(change: &Change) -> Line {
    let (sign, paint) = sign(change.action);
    let mut line = Line::of(format!("{sign} {}", change.shown()), paint);
    let size = (change.bytes > 0).then(|| bytes(change.bytes));
    let about: Vec<String> = [Some(clean(&change.detail)), size]
        .into_iter()
        .flatten()
        .filter(|text| !text.is_empty())
        .collect();
    if !about.is_empty() {
        line.push(format!(" ({})", about.join(", ")), Paint::Dim);
    }
    line
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn change(action: Action, item: &[u8], detail: &str, bytes: u64) -> Change {
        Change {
            action,
            item: item.to_vec(),
            detail: detail.to_owned(),
            bytes,
            from: None,
        }
    }

    fn example() -> Change {
        change(Action::Create, b"/home/a\x1b[2J\xff", "content, mode", 2048)
    }

    #[test]
    fn a_change_is_a_line_with_its_name_escaped() {
        let mut out = Vec::new();
        let mut printer = ChangePrinter::new(&mut out, "user_data", false, false);
        printer.heading("user_data: 2 changes\u{9b}2J");
        printer.print(&example()).unwrap();
        printer.print(&change(Action::Delete, b"x", "", 0)).unwrap();
        printer.finish().unwrap();
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "user_data: 2 changes\\xc2\\x9b2J\n\
             + /home/a\\x1b[2J\\xff (content, mode, 2.0 KiB)\n- x\n"
        );
    }

    #[test]
    fn in_json_a_change_is_an_object_a_line() {
        let mut out = Vec::new();
        let mut printer = ChangePrinter::new(&mut out, "user_data", true, true);
        printer.heading("not here");
        printer.print(&example()).unwrap();
        printer.finish().unwrap();
        let value: serde_json::Value = serde_json::from_slice(&out).unwrap();
        let expected = [
            ("event", json!("change")),
            ("module", json!("user_data")),
            ("planned", json!(true)),
            ("action", json!("create")),
            ("bytes", json!(2048)),
            ("item", json!("/home/a\\x1b[2J\\xff")),
        ];
        for (key, expected) in expected {
            assert_eq!(value[key], expected, "{key}");
        }
    }

    /// Takes one write, then fails.
    struct Failing(io::ErrorKind, usize);

    impl Write for Failing {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.1 += 1;
            if self.1 > 1 {
                return Err(self.0.into());
            }
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_reader_that_goes_ends_the_list_quietly_but_a_full_disk_is_an_error() {
        for (kind, quiet) in [
            (io::ErrorKind::BrokenPipe, true),
            (io::ErrorKind::StorageFull, false),
        ] {
            let mut out = Failing(kind, 0);
            let mut printer = ChangePrinter::new(&mut out, "user_data", false, false);
            assert_eq!(printer.print(&example()), Ok(()));
            for _ in 0..2 {
                assert_eq!(printer.print(&example()), Err(ReaderGone));
            }
            assert_eq!(printer.finish().is_ok(), quiet);
            assert_eq!(out.1, 2, "nothing was tried after the failure");
        }
    }
}
