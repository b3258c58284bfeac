//! Tables on stdout: columns as wide as what is in them, numbers to the right.

use std::fmt::Write as _;
use std::io::Write as _;

use super::ended_by;
use crate::exit::ExitStatus;
use crate::run::error::RunError;

/// A column: its heading, and whether numbers are in it.
#[derive(Debug, Clone, Copy)]
pub struct Column {
    heading: &'static str,
    is_number: bool,
}

/// A column of text.
#[must_use]
pub const fn text(heading: &'static str) -> Column {
    Column {
        heading,
        is_number: false,
    }
}

/// A column of numbers.
#[must_use]
pub const fn number(heading: &'static str) -> Column {
    Column {
        heading,
        is_number: true,
    }
}

/// The rows under their headings, a line each. Cells are shown as they are: whoever makes them
/// has escaped what is not ours.
#[must_use]
pub fn render<const N: usize>(columns: &[Column; N], rows: Vec<[String; N]>) -> String {
    let mut all = vec![columns.map(|column| column.heading.to_owned())];
    all.extend(rows);
    let widths: [usize; N] = std::array::from_fn(|column| {
        let cells = all.iter().map(|row| row[column].chars().count());
        cells.max().unwrap_or(0)
    });
    let mut text = String::new();
    for row in all {
        let mut line = String::new();
        for ((cell, width), column) in row.iter().zip(widths).zip(columns) {
            let _ = if column.is_number {
                write!(line, "{cell:>width$}  ")
            } else {
                write!(line, "{cell:width$}  ")
            };
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// Writes to stdout. A reader that has gone (`| head`) is no error.
pub fn print(text: &str) -> ExitStatus {
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            ended_by(&RunError::Output(error))
        }
        _ => ExitStatus::Done,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_stands_left_and_numbers_stand_right() {
        let columns = [text("NAME"), number("FILES"), text("WHERE")];
        let row = |cells: [&str; 3]| cells.map(str::to_owned);
        let rows = vec![row(["a", "1,234,567", "é"]), row(["longer", "5", ""])];
        assert_eq!(
            render(&columns, rows),
            "NAME        FILES  WHERE\n\
             a       1,234,567  é\n\
             longer          5\n"
        );
        assert_eq!(render(&[text("X")], Vec::new()), "X\n");
    }
}
