//! The real terminal behind stderr, through the one crate that knows terminals.

use std::io::Write as _;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::live::Screen;

/// Stderr.
struct Stderr(console::Term);

/// Whether a write to stderr would not block now.
pub(super) fn is_writable() -> bool {
    let stderr = std::io::stderr();
    let mut polled = [PollFd::new(&stderr, PollFlags::OUT)];
    poll(&mut polled, Some(&Timespec::default())) != Ok(0)
}

/// Stderr as a screen.
pub(super) fn stderr_screen() -> impl Screen {
    Stderr(console::Term::stderr())
}

/// Columns of the terminal behind stdout.
pub(super) fn stdout_columns() -> usize {
    let size = console::Term::stdout().size_checked();
    size.map_or(80, |(_, columns)| usize::from(columns))
}

impl Screen for Stderr {
    fn size(&self) -> (usize, usize) {
        let (rows, cols) = self.0.size_checked().unwrap_or((24, 80));
        (usize::from(rows).max(1), usize::from(cols).max(1))
    }

    fn write(&mut self, text: &str) {
        // Not `eprint!`: that panics when the terminal is gone.
        let _ = std::io::stderr().lock().write_all(text.as_bytes());
    }

    fn is_ready(&self) -> bool {
        is_writable()
    }

    fn in_foreground(&self) -> bool {
        // No controlling terminal (a test's, a container's): nobody to be in the background of.
        rustix::termios::tcgetpgrp(std::io::stderr())
            .map_or(true, |group| group == rustix::process::getpgrp())
    }
}
