//! The real terminal behind stderr, through the one crate that knows terminals.

use std::io::Write as _;

use super::live::Screen;

/// Stderr.
struct Stderr(console::Term);

/// Stderr as a screen.
pub(super) fn stderr_screen() -> impl Screen {
    Stderr(console::Term::stderr())
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

    fn in_foreground(&self) -> bool {
        // No controlling terminal (a test's, a container's): nobody to be in the background of.
        rustix::termios::tcgetpgrp(std::io::stderr())
            .map_or(true, |group| group == rustix::process::getpgrp())
    }
}
