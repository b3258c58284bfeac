//! Reading an answer from a terminal: line by line, stoppable, and never leaving it without echo.

use std::io::IsTerminal as _;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Mutex;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::termios::{
    InputModes, LocalModes, OptionalActions, QueueSelector, SpecialCodeIndex, Termios, tcflush,
    tcgetattr, tcsetattr,
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

/// How a terminal hands out what is typed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Input {
    /// Whole lines, shown while they are typed.
    Lines,
    /// Whole lines, not shown.
    HiddenLines,
    /// Key by key, not shown; Ctrl-C still is a signal.
    Keys,
}

/// A mode of the terminal, until dropped.
struct LineMode<'a> {
    tty: BorrowedFd<'a>,
    before: Termios,
}

impl<'a> LineMode<'a> {
    /// Switches the mode; what was typed before the question does not answer it.
    fn set(tty: BorrowedFd<'a>, input: Input) -> Result<Self, Errno> {
        let before = tcgetattr(tty)?;
        let mut modes = before.clone();
        modes.local_modes |= LocalModes::ICANON | LocalModes::ISIG | LocalModes::IEXTEN;
        modes.local_modes |= LocalModes::ECHOE | LocalModes::ECHOK;
        modes
            .local_modes
            .set(LocalModes::ICANON, input != Input::Keys);
        modes
            .local_modes
            .set(LocalModes::ECHO, input == Input::Lines);
        if input == Input::Keys {
            modes.special_codes[SpecialCodeIndex::VMIN] = 1;
            modes.special_codes[SpecialCodeIndex::VTIME] = 0;
        }
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
    let input = if echo {
        Input::Lines
    } else {
        Input::HiddenLines
    };
    let _mode = LineMode::set(tty.as_fd(), input).map_err(|_| Interrupted)?;
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

/// A key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Key {
    /// What it prints.
    Char(char),
    /// Return.
    Enter,
    /// An arrow.
    Up,
    /// An arrow.
    Down,
    /// A screen up.
    PageUp,
    /// A screen down.
    PageDown,
    /// To the first.
    Home,
    /// To the last.
    End,
    /// Time for another look: the window may have another size.
    Nothing,
}

/// Keys one by one, until dropped.
pub(super) struct Keys<'a> {
    _mode: LineMode<'a>,
    tty: &'a OwnedFd,
    typed: Vec<u8>,
}

impl<'a> Keys<'a> {
    /// From this terminal; what was typed before does not count.
    pub(super) fn of(tty: &'a OwnedFd) -> Result<Self, Interrupted> {
        let mode = LineMode::set(tty.as_fd(), Input::Keys).map_err(|_| Interrupted)?;
        Ok(Self {
            _mode: mode,
            tty,
            typed: Vec::new(),
        })
    }

    /// The next one. End of input, Ctrl-D and a raised abort flag are [`Interrupted`].
    pub(super) fn next(&mut self, abort: &AbortFlag) -> Result<Key, Interrupted> {
        loop {
            abort.check()?;
            // Several may have come at once.
            match take_key(&mut self.typed) {
                Some(Key::Char('\u{4}')) => return Err(Interrupted),
                Some(key) => return Ok(key),
                None => {}
            }
            let step = Timespec::try_from(STEP).expect("a short time");
            let ready = poll(&mut [PollFd::new(self.tty, PollFlags::IN)], Some(&step));
            match ready {
                Err(Errno::INTR) => {}
                Err(_) => return Err(Interrupted),
                Ok(0) => {
                    // An escape that nothing follows is the key of that name.
                    if self.typed.first() == Some(&0x1b) {
                        self.typed.clear();
                    }
                    return Ok(Key::Nothing);
                }
                Ok(_) => {
                    let mut piece = [0; 64];
                    match rustix::io::read(self.tty, &mut piece) {
                        Err(Errno::INTR | Errno::AGAIN) => {}
                        Ok(0) | Err(_) => return Err(Interrupted),
                        Ok(n) => self.typed.extend_from_slice(&piece[..n]),
                    }
                }
            }
        }
    }
}

/// Takes the first key that means something off what was typed; `None` if what is left is none yet.
fn take_key(typed: &mut Vec<u8>) -> Option<Key> {
    loop {
        let (key, used) = parse_key(typed)?;
        typed.drain(..used);
        if key.is_some() {
            return key;
        }
    }
}

/// The first key of what was typed, and how many bytes it has; `None` while it is not whole.
fn parse_key(typed: &[u8]) -> Option<(Option<Key>, usize)> {
    match typed {
        [] | [0x1b] | [0x1b, b'[' | b'O'] => None,
        [b'\r' | b'\n', ..] => Some((Some(Key::Enter), 1)),
        [0x1b, b'[' | b'O', rest @ ..] => {
            // Parameters, then one letter or ~ (ECMA-48).
            let end = rest.iter().position(|byte| (0x40..=0x7e).contains(byte))?;
            let key = match (&rest[..end], rest[end]) {
                (_, b'A') => Some(Key::Up),
                (_, b'B') => Some(Key::Down),
                (_, b'H') | (b"1" | b"7", b'~') => Some(Key::Home),
                (_, b'F') | (b"4" | b"8", b'~') => Some(Key::End),
                (b"5", b'~') => Some(Key::PageUp),
                (b"6", b'~') => Some(Key::PageDown),
                _ => None,
            };
            Some((key, end + 3))
        }
        [0x1b, ..] => Some((None, 1)),
        [first, ..] => {
            let length = match first {
                0xc2..=0xdf => 2,
                0xe0..=0xef => 3,
                0xf0..=0xf4 => 4,
                _ => 1,
            };
            let bytes = typed.get(..length)?;
            let key = std::str::from_utf8(bytes)
                .ok()
                .and_then(|text| text.chars().next());
            Some((key.map(Key::Char), length))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_read_whole() {
        let all = |typed: &[u8]| {
            let (mut rest, mut keys) = (typed.to_vec(), Vec::new());
            while let Some(key) = take_key(&mut rest) {
                keys.push(key);
            }
            (keys, rest.len())
        };
        let (keys, left) = all(b"y\r\x1b[A\x1bOB\x1b[5~\x1b[6~\x1b[H\x1b[4~\x1b[1;5C \xc3\xa4");
        let expected = [
            Key::Char('y'),
            Key::Enter,
            Key::Up,
            Key::Down,
            Key::PageUp,
            Key::PageDown,
            Key::Home,
            Key::End,
            Key::Char(' '),
            Key::Char('ä'),
        ];
        assert_eq!((keys.as_slice(), left), (&expected[..], 0));
        assert_eq!(all(b"\x1b[").1, 2, "not whole yet");
        assert_eq!(all(b"\xc3").1, 1, "not whole yet");
        assert_eq!(all(b"\xff\x1bxn").0, [Key::Char('x'), Key::Char('n')]);
    }
}
