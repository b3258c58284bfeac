//! The list of a plan's changes on stdout: `+ path (detail, size)`, streamed, for people and pipes.

use std::io::{self, Write};

use jiff::Timestamp;
use serde_json::json;

use super::look::Line;
use super::look::{Look, Paint};
use super::text::{bytes, clean};
use crate::escape::escape_bytes;
use crate::jsonline::safe;

/// One change, as the list shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChangeLine<'a> {
    /// `+`, `*`, `.` or `-`.
    pub sign: char,
    /// The path or name, any bytes.
    pub item: &'a [u8],
    /// Which aspects change, for people; may be empty.
    pub detail: &'a str,
    /// Bytes that will be written; 0 shows none.
    pub bytes: u64,
}

/// Nobody reads the list any more (`| head`): there is no use in going on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the reader of the list has gone")]
pub struct ReaderGone;

/// Prints changes one by one; see [`Ui::print_changes`](super::Ui::print_changes).
pub struct ChangePrinter<'a> {
    out: &'a mut dyn Write,
    json: bool,
    look: Look,
    failure: Option<io::Error>,
}

impl<'a> ChangePrinter<'a> {
    pub(super) fn new(out: &'a mut dyn Write, json: bool, color: bool) -> Self {
        let unicode = true;
        Self {
            out,
            json,
            look: Look { color, unicode },
            failure: None,
        }
    }

    /// Prints one change. After an error every further call returns it without printing.
    pub fn print(&mut self, change: ChangeLine<'_>) -> Result<(), ReaderGone> {
        let mut text = if self.json {
            let value = json!({
                "event": "change",
                "ts": format!("{:.6}", Timestamp::now()),
                "sign": change.sign,
                "item": escape_bytes(change.item),
                "detail": change.detail,
                "bytes": change.bytes,
            });
            safe(&value.to_string()).into_owned()
        } else {
            self.line(change)
        };
        text.push('\n');
        self.write(&text)
    }

    /// Prints a line of text between changes (a heading); nothing in JSON.
    pub fn heading(&mut self, text: &str) -> Result<(), ReaderGone> {
        if self.json {
            return Ok(());
        }
        let line = Line::of(clean(text), Paint::Bold).render(self.look);
        self.write(&(line + "\n"))
    }

    fn line(&self, change: ChangeLine<'_>) -> String {
        let paint = match change.sign {
            '+' => Paint::Good,
            '*' => Paint::Warn,
            '-' => Paint::Bad,
            _ => Paint::Dim,
        };
        let mut line = Line::of(
            format!("{} {}", change.sign, escape_bytes(change.item)),
            paint,
        );
        let size = (change.bytes > 0).then(|| bytes(change.bytes));
        let about: Vec<String> = [Some(clean(change.detail)), size]
            .into_iter()
            .flatten()
            .filter(|text| !text.is_empty())
            .collect();
        if !about.is_empty() {
            line.push(format!(" ({})", about.join(", ")), Paint::Dim);
        }
        line.render(self.look)
    }

    fn write(&mut self, text: &str) -> Result<(), ReaderGone> {
        if self.failure.is_none() {
            self.failure = self.out.write_all(text.as_bytes()).err();
        }
        match self.failure {
            None => Ok(()),
            Some(_) => Err(ReaderGone),
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

#[cfg(test)]
mod tests {
    use super::*;

    const CHANGE: ChangeLine<'_> = ChangeLine {
        sign: '+',
        item: b"/home/a\x1b[2J\xff",
        detail: "content, mode",
        bytes: 2048,
    };

    #[test]
    fn a_change_is_a_line_with_its_name_escaped() {
        let mut out = Vec::new();
        let mut printer = ChangePrinter::new(&mut out, false, false);
        printer.print(CHANGE).unwrap();
        let bare = ChangeLine {
            sign: '-',
            item: b"x",
            detail: "",
            bytes: 0,
        };
        printer.print(bare).unwrap();
        printer.finish().unwrap();
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "+ /home/a\\x1b[2J\\xff (content, mode, 2.0 KiB)\n- x\n"
        );
    }

    #[test]
    fn in_json_a_change_is_an_object_a_line() {
        let mut out = Vec::new();
        let mut printer = ChangePrinter::new(&mut out, true, true);
        printer.heading("not here").unwrap();
        printer.print(CHANGE).unwrap();
        printer.finish().unwrap();
        let value: serde_json::Value = serde_json::from_slice(&out).unwrap();
        assert_eq!(
            (&value["event"], &value["bytes"]),
            (&json!("change"), &json!(2048))
        );
        assert_eq!(value["item"], "/home/a\\x1b[2J\\xff");
    }

    /// Takes one write, then fails.
    struct Failing(io::ErrorKind, bool);

    impl Write for Failing {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            if std::mem::replace(&mut self.1, true) {
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
            let mut out = Failing(kind, false);
            let mut printer = ChangePrinter::new(&mut out, false, false);
            assert_eq!(printer.print(CHANGE), Ok(()));
            assert_eq!(printer.print(CHANGE), Err(ReaderGone));
            assert_eq!(printer.print(CHANGE), Err(ReaderGone));
            assert_eq!(printer.finish().is_ok(), quiet);
        }
    }
}
