//! Reading an answer from a terminal: line by line, stoppable, and never leaving it without echo.

use std::io::IsTerminal as _;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Mutex;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::termios::{
    InputModes, LocalModes, OptionalActions, QueueSelector, Termios, tcflush, tcgetattr, tcsetattr,
};

use crate::interrupt::{AbortFlag, Interrupted};

use super::screen::is_writable;

/// How soon a raised abort flag is noticed.
const STEP: Duration = Duration::from_millis(50);

/// Longest answer; the kernel's line buffer has 4096 bytes.
const MAX_ANSWER: usize = 8192;

/// The terminal whose modes are changed now, with the modes to go back to.
static CHANGED: Mutex<Option<(OwnedFd, Termios)>> = Mutex::new(None);

/// Gives the terminal back as it was found: echo on, cursor visible, colours off.
///
/// For an end that runs no destructors (the second Ctrl-C); never waits.
pub fn restore_terminal() {
    if let Ok(mut changed) = CHANGED.try_lock()
        && let Some((tty, modes)) = changed.take()
    {
        let _ = tcsetattr(&tty, OptionalActions::Now, &modes);
    }
    if std::io::stderr().is_terminal() && is_writable() {
        // Around the lock that a stuck writer may hold.
        let _ = rustix::io::write(std::io::stderr(), b"\x1b[0m\x1b[?25h\r\n");
    }
}

/// A line mode with or without echo, until dropped.
struct LineMode<'a> {
    tty: BorrowedFd<'a>,
    before: Termios,
}

impl<'a> LineMode<'a> {
    /// Switches the mode; what was typed before the question does not answer it.
    fn set(tty: BorrowedFd<'a>, echo: bool) -> Result<Self, Errno> {
        let before = tcgetattr(tty)?;
        let mut modes = before.clone();
        modes.local_modes |= LocalModes::ICANON | LocalModes::ISIG | LocalModes::IEXTEN;
        modes.local_modes |= LocalModes::ECHOE | LocalModes::ECHOK;
        modes.local_modes.set(LocalModes::ECHO, echo);
        modes.local_modes.remove(LocalModes::ECHONL);
        modes.input_modes |= InputModes::ICRNL;
        if let (Ok(mut changed), Ok(tty)) = (CHANGED.lock(), tty.try_clone_to_owned()) {
            *changed = Some((tty, before.clone()));
        }
        let mode = Self { tty, before };
        tcsetattr(tty, OptionalActions::Now, &modes)?;
        tcflush(tty, QueueSelector::IFlush)?;
        Ok(mode)
    }
}

impl Drop for LineMode<'_> {
    fn drop(&mut self) {
        // What was typed after the answer was not meant for the shell.
        let _ = tcsetattr(self.tty, OptionalActions::Flush, &self.before);
        if let Ok(mut changed) = CHANGED.lock() {
            *changed = None;
        }
    }
}

/// Reads one line, without its newline. `ready` is called once the terminal is in the right mode:
/// the place to show the prompt, so that nobody types before the echo is off.
///
/// End of input and a raised abort flag are both [`Interrupted`]. The bytes are in one allocation that
/// is never moved, so that a secret is not left behind in memory.
pub(super) fn read_line(
    tty: &OwnedFd,
    echo: bool,
    abort: &AbortFlag,
    ready: impl FnOnce(),
) -> Result<Vec<u8>, Interrupted> {
    let _mode = LineMode::set(tty.as_fd(), echo).map_err(|_| Interrupted)?;
    ready();
    let mut line = Vec::with_capacity(MAX_ANSWER);
    let mut piece = [0; 512];
    let result = loop {
        if let Err(interrupted) = abort.check() {
            break Err(interrupted);
        }
        let step = Timespec::try_from(STEP).expect("a short time");
        match poll(&mut [PollFd::new(tty, PollFlags::IN)], Some(&step)) {
            Ok(0) | Err(Errno::INTR) => continue,
            Ok(_) => {}
            Err(_) => break Err(Interrupted),
        }
        match rustix::io::read(tty, &mut piece) {
            Err(Errno::INTR | Errno::AGAIN) => {}
            // Ctrl-D at the beginning of a line, or the terminal is gone.
            Ok(0) | Err(_) => break Err(Interrupted),
            Ok(n) => {
                let piece = &piece[..n];
                let text = piece.strip_suffix(b"\n");
                let room = MAX_ANSWER - line.len();
                let taken = text.unwrap_or(piece);
                line.extend_from_slice(&taken[..taken.len().min(room)]);
                if text.is_some() {
                    break Ok(());
                }
            }
        }
    };
    piece.fill(0);
    std::hint::black_box(&piece);
    match result {
        // A signal flushes the input; an answer that came with it does not count.
        Ok(()) if !abort.is_raised() => Ok(line),
        _ => {
            line.fill(0);
            std::hint::black_box(&line);
            Err(Interrupted)
        }
    }
}
