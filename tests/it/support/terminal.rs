//! A terminal of any size in which a program runs, through `ssh -t` as a person would start it on
//! another machine, or here: what it shows is read as a terminal reads it, and kept byte for byte.

use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

use super::lab::{ATLAS, Lab};

/// Longer than any run in a terminal takes; then it hangs.
const LIMIT: Duration = Duration::from_secs(90);

/// A terminal and what runs in it.
pub struct Terminal {
    master: OwnedFd,
    child: Running,
    parser: vt100::Parser,
    /// Everything that was written, as it came.
    pub raw: Vec<u8>,
    _config: Option<tempfile::NamedTempFile>,
}

/// A child that does not outlive the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn window(rows: u16, cols: u16) -> Winsize {
    Winsize {
        ws_row: rows,
        ws_col: cols,
        ws_xpixel: 0,
        ws_ypixel: 0,
    }
}

impl Terminal {
    /// Runs `command`, a line of shell, on atlas as the person.
    pub fn open(lab: &Lab, size: (u16, u16), command: &str) -> Self {
        let config = tempfile::NamedTempFile::new().expect("a file");
        let text = lab.verb(&["ssh-config"]).ok().stdout;
        std::fs::write(config.path(), text).expect("writable");
        let mut ssh = Command::new("ssh");
        ssh.args(["-q", "-t", "-F"])
            .arg(config.path())
            .args([ATLAS, &format!("export LC_ALL=C.UTF-8; {command}")]);
        Self {
            _config: Some(config),
            ..Self::run(size, &ssh)
        }
    }

    /// Runs a program of this machine, with its arguments and its environment.
    pub fn run((rows, cols): (u16, u16), program: &Command) -> Self {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let master = openpt(flags).expect("a pseudo-terminal");
        grantpt(&master).expect("ours");
        unlockpt(&master).expect("ours");
        let name = ptsname(&master, Vec::new()).expect("it has a name");
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
        let slave = rustix::fs::open(name, flags, Mode::empty()).expect("its other end");
        tcsetwinsize(&master, window(rows, cols)).expect("a size");
        let io = || Stdio::from(slave.try_clone().expect("a descriptor"));
        // `setsid --ctty` makes it the controlling terminal: it hears of a new size, and of Ctrl-C.
        let child = Command::new("setsid")
            .args(["--ctty", "--wait"])
            .arg(program.get_program())
            .args(program.get_args())
            .env("TERM", "xterm-256color")
            .env("LC_ALL", "C.UTF-8")
            .envs(
                program
                    .get_envs()
                    .filter_map(|(name, value)| Some((name, value?))),
            )
            .stdin(io())
            .stdout(io())
            .stderr(io())
            .process_group(0)
            .spawn()
            .expect("setsid and the program are there");
        Self {
            master,
            child: Running(child),
            parser: vt100::Parser::new(rows, cols, 0),
            raw: Vec::new(),
            _config: None,
        }
    }

    /// Gives the window another size.
    pub fn resize(&mut self, rows: u16, cols: u16) {
        tcsetwinsize(&self.master, window(rows, cols)).expect("a size");
        self.parser.screen_mut().set_size(rows, cols);
    }

    /// Types.
    pub fn send(&self, keys: &str) {
        let written = rustix::io::write(&self.master, keys.as_bytes()).expect("it takes keys");
        assert_eq!(written, keys.len());
    }

    /// The screen, without blanks at the ends of lines.
    pub fn screen(&self) -> Vec<String> {
        let (_, cols) = self.parser.screen().size();
        let rows = self.parser.screen().rows(0, cols);
        let mut rows: Vec<String> = rows.map(|row| row.trim_end().to_owned()).collect();
        while rows.last().is_some_and(String::is_empty) {
            rows.pop();
        }
        rows
    }

    /// Rows that go on in the next one because they were too long.
    pub fn wrapped(&self) -> Vec<String> {
        let (rows, _) = self.parser.screen().size();
        let screen = self.screen();
        (0..rows)
            .filter(|row| self.parser.screen().row_wrapped(*row))
            .map(|row| screen.get(usize::from(row)).cloned().unwrap_or_default())
            .collect()
    }

    /// Takes in what comes within `time`; `false` at the end.
    fn take(&mut self, time: Duration) -> bool {
        let time = Timespec::try_from(time).expect("a short time");
        let mut polled = [PollFd::from_borrowed_fd(self.master.as_fd(), PollFlags::IN)];
        if poll(&mut polled, Some(&time)).is_ok_and(|ready| ready > 0) {
            let mut bytes = [0; 4096];
            match rustix::io::read(&self.master, &mut bytes) {
                Ok(n) if n > 0 => {
                    self.parser.process(&bytes[..n]);
                    self.raw.extend_from_slice(&bytes[..n]);
                }
                _ => return false,
            }
        }
        true
    }

    /// Looks at every screen until `seen` is content with one.
    #[track_caller]
    pub fn until(&mut self, what: &str, mut seen: impl FnMut(&Self) -> bool) {
        let end = Instant::now() + LIMIT;
        while !seen(self) {
            let goes_on = self.take(Duration::from_millis(50));
            assert!(
                goes_on && Instant::now() < end,
                "no {what} on\n{}",
                self.screen().join("\n")
            );
        }
    }

    /// Waits until a line of the screen has these words.
    #[track_caller]
    pub fn until_words(&mut self, words: &str) {
        self.until(words, |t| {
            t.screen().iter().any(|line| line.contains(words))
        });
    }

    /// Waits for the end, while `look`ing at every screen; returns the exit status.
    pub fn end(&mut self, mut look: impl FnMut(&Self)) -> Option<i32> {
        let end = Instant::now() + LIMIT;
        while self.take(Duration::from_millis(50)) {
            look(self);
            assert!(
                Instant::now() < end,
                "it hangs on\n{}",
                self.screen().join("\n")
            );
            if self.child.0.try_wait().is_ok_and(|status| status.is_some()) {
                while self.take(Duration::from_millis(100)) && self.has_more() {}
                break;
            }
        }
        self.child.0.wait().expect("it can be waited for").code()
    }

    fn has_more(&self) -> bool {
        let mut polled = [PollFd::from_borrowed_fd(self.master.as_fd(), PollFlags::IN)];
        poll(&mut polled, Some(&Timespec::default())).is_ok_and(|ready| ready > 0)
    }

    /// Everything written, as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.raw).into_owned()
    }

    /// Everything written that acts on a terminal and is not ours: ours are line ends, erasing to the
    /// end of line or screen, going up, and the few plain colours.
    pub fn foreign_controls(&self) -> Vec<String> {
        let text = self.text();
        let mut found = Vec::new();
        let mut rest = text.as_str();
        while let Some(at) = rest.find(|c: char| c.is_control() && c != '\r' && c != '\n') {
            let tail = &rest[at..];
            let length = own_sequence(tail);
            if length == 0 {
                found.push(
                    tail.chars()
                        .take(12)
                        .collect::<String>()
                        .escape_debug()
                        .to_string(),
                );
                rest = &tail[tail.chars().next().map_or(1, char::len_utf8)..];
            } else {
                rest = &tail[length..];
            }
        }
        found
    }
}

/// The length of the sequence of ours that `text` begins with, or 0.
fn own_sequence(text: &str) -> usize {
    let Some(rest) = text.strip_prefix("\u{1b}[") else {
        return 0;
    };
    let Some(end) = rest.find(|c: char| c.is_ascii_alphabetic()) else {
        return 0;
    };
    let (arguments, last) = (&rest[..end], &rest[end..=end]);
    let is_ours = match last {
        "m" => ["0", "1", "2", "32", "35", "1;31", "36"].contains(&arguments),
        "K" | "J" => arguments.is_empty(),
        "A" => arguments.parse::<u16>().is_ok(),
        // Given back at the end of an interrupted run.
        "h" => arguments == "?25",
        _ => false,
    };
    if is_ours { end + 3 } else { 0 }
}
