//! The last lines of the terminal, redrawn in place, with ordinary output scrolling above them.
//!
//! Every line drawn is narrower than the terminal, so none wraps when it is drawn. When the window
//! has become narrower since, terminals wrap what is already there; how many rows that makes is
//! computed from the widths drawn. The whole frame is one write, old text is overwritten before
//! the rest is cleared: nothing flickers. The cursor is never hidden, so that nothing has to be
//! restored after a kill.

use std::fmt::Write as _;

use super::look::{Line, Look};

/// Something to write to that has a size: the terminal, or a test's picture of one.
pub(super) trait Screen: Send {
    /// Rows and columns.
    fn size(&self) -> (usize, usize);

    /// Writes; errors are of no use to anyone (the terminal may be gone) and are dropped.
    fn write(&mut self, text: &str);

    /// Whether a write would not block: it does on a stalled connection, and after Ctrl-S.
    fn is_ready(&self) -> bool {
        true
    }

    /// Whether we may move the cursor now: not while the shell has us in the background.
    fn in_foreground(&self) -> bool {
        true
    }
}

/// What is on the screen's last lines now.
#[derive(Debug, Default)]
pub(super) struct Live {
    /// The text drawn, and the columns of each line.
    drawn: String,
    widths: Vec<usize>,
}

impl Live {
    /// Writes `above` where it scrolls, then `lines` as the last lines of the screen.
    pub(super) fn draw(
        &mut self,
        screen: &mut dyn Screen,
        look: Look,
        above: &[String],
        lines: Vec<Line>,
    ) {
        let (rows, cols) = screen.size();
        let width = cols.saturating_sub(1).max(1);
        let lines: Vec<Line> = lines
            .into_iter()
            .take(rows.saturating_sub(1).max(1))
            .map(|line| line.fitted(width, look))
            .collect();
        let widths: Vec<usize> = lines.iter().map(Line::columns).collect();
        let drawn = lines
            .iter()
            .map(|line| format!("{}\x1b[K", line.render(look)))
            .collect::<Vec<_>>()
            .join("\r\n");
        let torn = self.widths.iter().any(|w| *w > cols);
        if above.is_empty() && drawn == self.drawn && !torn {
            return;
        }
        let mut frame = self.to_first_row(cols);
        if torn {
            frame.push_str("\x1b[J");
        }
        for line in above {
            write!(frame, "{line}\x1b[K\r\n").expect("a String takes every write");
        }
        frame.push_str(&drawn);
        // The cursor rests at the beginning of the last line: what is typed meanwhile (`^C`) is echoed
        // there, where it cannot make the line wrap.
        frame.push_str("\x1b[J\r");
        screen.write(&frame);
        self.drawn = drawn;
        self.widths = widths;
    }

    /// Removes the lines; the cursor is then where they began.
    pub(super) fn clear(&mut self, screen: &mut dyn Screen) {
        if !self.widths.is_empty() {
            let (_, cols) = screen.size();
            let frame = self.to_first_row(cols) + "\x1b[J";
            screen.write(&frame);
            *self = Self::default();
        }
    }

    /// Moves to the beginning of the first row of what was drawn.
    fn to_first_row(&self, cols: usize) -> String {
        let cols = cols.max(1);
        let rows: usize = self.widths.iter().map(|w| w.div_ceil(cols).max(1)).sum();
        match rows {
            0 | 1 => "\r".to_owned(),
            rows => format!("\r\x1b[{}A", rows - 1),
        }
    }
}

/// A terminal in memory.
#[cfg(test)]
pub(super) mod memory {
    use std::sync::{Arc, Mutex};

    use super::Screen;

    #[derive(Clone)]
    pub(crate) struct MemoryScreen {
        parser: Arc<Mutex<vt100::Parser>>,
        written: Arc<Mutex<Vec<String>>>,
    }

    impl MemoryScreen {
        pub(crate) fn new(rows: u16, cols: u16) -> Self {
            Self {
                parser: Arc::new(Mutex::new(vt100::Parser::new(rows, cols, 1000))),
                written: Arc::default(),
            }
        }

        pub(crate) fn text(&self) -> String {
            let parser = self.parser.lock().unwrap();
            let (_, cols) = parser.screen().size();
            let rows: Vec<String> = parser
                .screen()
                .rows(0, cols)
                .map(|row| row.trim_end().to_owned())
                .collect();
            rows.join("\n").trim_end().to_owned()
        }

        /// Everything written, as it was written.
        pub(crate) fn raw(&self) -> String {
            self.written.lock().unwrap().concat()
        }

        pub(crate) fn writes(&self) -> usize {
            self.written.lock().unwrap().len()
        }

        pub(crate) fn wrapped_rows(&self) -> usize {
            let parser = self.parser.lock().unwrap();
            let (rows, _) = parser.screen().size();
            (0..rows)
                .filter(|row| parser.screen().row_wrapped(*row))
                .count()
        }
    }

    impl Screen for MemoryScreen {
        fn size(&self) -> (usize, usize) {
            let (rows, cols) = self.parser.lock().unwrap().screen().size();
            (rows.into(), cols.into())
        }

        fn write(&mut self, text: &str) {
            // As the line discipline does it.
            let text = text.replace("\r\n", "\n").replace('\n', "\r\n");
            self.parser.lock().unwrap().process(text.as_bytes());
            self.written.lock().unwrap().push(text);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::look::Paint;
    use super::memory::MemoryScreen;
    use super::*;

    const LOOK: Look = Look {
        color: false,
        unicode: true,
    };

    fn lines(texts: &[&str]) -> Vec<Line> {
        texts.iter().map(|t| Line::of(*t, Paint::Plain)).collect()
    }

    #[test]
    fn lines_are_redrawn_in_place_and_logs_scroll_above() {
        let mut screen = MemoryScreen::new(10, 20);
        let mut live = Live::default();
        live.draw(&mut screen, LOOK, &[], lines(&["status 1", "bar 1"]));
        live.draw(
            &mut screen,
            LOOK,
            &["log a".into()],
            lines(&["status 2", "bar 2", "x"]),
        );
        live.draw(&mut screen, LOOK, &["log b".into()], lines(&["s3"]));
        assert_eq!(screen.text(), "log a\nlog b\ns3");
        live.clear(&mut screen);
        screen.write("after\r\n");
        assert_eq!(screen.text(), "log a\nlog b\nafter");
    }

    #[test]
    fn scrolling_at_the_bottom_leaves_no_traces() {
        let mut screen = MemoryScreen::new(6, 20);
        let mut live = Live::default();
        for n in 0..20 {
            live.draw(
                &mut screen,
                LOOK,
                &[format!("log {n}")],
                lines(&["status", "bar"]),
            );
        }
        assert_eq!(screen.text(), "log 16\nlog 17\nlog 18\nlog 19\nstatus\nbar");
    }

    #[test]
    fn an_unchanged_frame_is_not_written_again() {
        let mut screen = MemoryScreen::new(6, 20);
        let mut live = Live::default();
        for _ in 0..3 {
            live.draw(&mut screen, LOOK, &[], lines(&["status"]));
        }
        assert_eq!(screen.writes(), 1);
    }

    #[test]
    fn an_echoed_key_does_not_tear_a_full_line() {
        let mut screen = MemoryScreen::new(6, 10);
        let mut live = Live::default();
        live.draw(&mut screen, LOOK, &[], lines(&["status", "123456789"]));
        screen.write("^C");
        live.draw(
            &mut screen,
            LOOK,
            &["log".into()],
            lines(&["status", "abc"]),
        );
        assert_eq!(screen.text(), "log\nstatus\nabc");
    }

    #[test]
    fn more_lines_than_rows_are_cut() {
        let mut screen = MemoryScreen::new(3, 20);
        let mut live = Live::default();
        for _ in 0..2 {
            live.draw(
                &mut screen,
                LOOK,
                &["log".into()],
                lines(&["1", "2", "3", "4"]),
            );
        }
        assert_eq!(screen.text(), "log\n1\n2");
    }

    #[test]
    fn a_narrower_window_counts_the_rows_the_old_lines_now_take() {
        let live = Live {
            drawn: String::new(),
            widths: vec![39, 10, 0],
        };
        assert_eq!(live.to_first_row(80), "\r\x1b[2A");
        assert_eq!(live.to_first_row(20), "\r\x1b[3A");
        assert_eq!(live.to_first_row(10), "\r\x1b[5A");
    }
}
