//! A program on this machine whose standard streams are kept, as an SSH channel's are.
//!
//! One thread owns the three pipes and the child. The child leads a process group of its own, so
//! that Ctrl-C on the terminal reaches us alone; it learns of our end, whatever kind, by the end of
//! its stdin. It may be root's, where we are not: it is asked to end that way, never killed.

use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::event::PollFd;

use super::opening::{BANNER_TIMEOUT, Conversation, Opened, Opening};
use super::stream::{ByteSink, Closed, Outgoing, Queue, Tail, Traffic};
use crate::interrupt::{AbortFlag, Interrupted};
use crate::sys::poll::{interest, wait_any};

/// Bytes read in one call, and the size asked for the pipes.
const PIPE_BYTES: usize = 1 << 20;

/// Bytes read in one call: no more than the processor keeps at hand until they are taken apart.
const READ_BYTES: usize = 256 << 10;

/// How often the abort flag and the child's end are looked at.
const STEP: Duration = Duration::from_millis(50);

/// How long a program may take to end after its stdin was closed.
const END_TIMEOUT: Duration = Duration::from_secs(15);

/// Why a program on this machine was not started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Asked to stop while waiting.
    #[error(transparent)]
    Interrupted(#[from] Interrupted),
    /// The kernel refused something.
    #[error("cannot start {program}: {source}")]
    Io {
        /// The program.
        program: String,
        /// What the kernel said.
        source: io::Error,
    },
}

/// A program that was started and has said its first words.
#[derive(Debug)]
pub struct LocalProgram {
    child: Child,
    stdin: Option<File>,
    stdout: Option<File>,
    stderr: Option<File>,
    said: Tail,
}

/// Starts `command` and goes through `opening` with it.
///
/// Returns how the opening ended, what the program wrote to stderr meanwhile, and the program if
/// it came to a banner; otherwise it has ended, or will now that its stdin is closed.
pub fn open_program(
    mut command: Command,
    opening: Opening<'_>,
    abort: &AbortFlag,
) -> Result<(Opened, String, Option<LocalProgram>), StartError> {
    let name = command.get_program().to_string_lossy().into_owned();
    let failed = |source| StartError::Io {
        program: name.clone(),
        source,
    };
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0);
    let child = command.spawn().map_err(failed)?;
    let mut program = LocalProgram::take(child).map_err(failed)?;
    let mut talk = Conversation::new(opening);
    let opened = program.converse(&mut talk, abort, &failed);
    program.said = talk.into_stderr();
    let text = program.said.text();
    match opened? {
        opened @ Opened::Banner { .. } => Ok((opened, text, Some(program))),
        Opened::Ended(_) => {
            let status = program
                .wait(END_TIMEOUT)
                .and_then(|status| code(status).ok());
            Ok((Opened::Ended(status), text, None))
        }
        opened => {
            program.stdin = None;
            program.wait(Duration::from_secs(3));
            Ok((opened, text, None))
        }
    }
}

/// The exit code, or the signal.
fn code(status: ExitStatus) -> Result<i32, i32> {
    status.code().ok_or_else(|| status.signal().unwrap_or(0))
}

impl LocalProgram {
    fn take(mut child: Child) -> io::Result<Self> {
        let open = |fd: Option<OwnedFd>| -> io::Result<Option<File>> {
            fd.map(|fd| {
                rustix::io::ioctl_fionbio(&fd, true)?;
                // A larger pipe means fewer turns; the kernel may refuse a person that much.
                let _ = rustix::pipe::fcntl_setpipe_size(&fd, PIPE_BYTES);
                Ok(File::from(fd))
            })
            .transpose()
        };
        Ok(Self {
            stdin: open(child.stdin.take().map(Into::into))?,
            stdout: open(child.stdout.take().map(Into::into))?,
            stderr: open(child.stderr.take().map(Into::into))?,
            child,
            said: Tail::default(),
        })
    }

    /// Waits for the child's end.
    fn wait(&mut self, limit: Duration) -> Option<ExitStatus> {
        let until = Instant::now() + limit;
        loop {
            match self.child.try_wait() {
                Ok(Some(status)) => return Some(status),
                Err(_) => return None,
                Ok(None) if Instant::now() > until => return None,
                Ok(None) => std::thread::sleep(Duration::from_millis(2)),
            }
        }
    }

    fn converse(
        &mut self,
        talk: &mut Conversation<'_>,
        abort: &AbortFlag,
        failed: &impl Fn(io::Error) -> StartError,
    ) -> Result<Opened, StartError> {
        let mut buffer = vec![0; 16 << 10];
        let mut last_move = Instant::now();
        while self.stdout.is_some() || self.stderr.is_some() {
            let mut moved = false;
            let front = talk.front();
            match write_some(&mut self.stdin, front).map_err(failed)? {
                // It does not want to be told: its own business.
                Some(0) | None => {}
                Some(count) => {
                    talk.wrote(count);
                    moved = true;
                }
            }
            if let Some(count) = read_some(&mut self.stderr, &mut buffer).map_err(failed)? {
                moved = true;
                if let Some(opened) = talk.stderr(&buffer[..count]) {
                    return Ok(opened);
                }
            }
            if let Some(count) = read_some(&mut self.stdout, &mut buffer).map_err(failed)? {
                moved = true;
                if let Some(opened) = talk.stdout(&buffer[..count]) {
                    return Ok(opened);
                }
            }
            if moved {
                last_move = Instant::now();
                continue;
            }
            abort.check()?;
            if last_move.elapsed() > BANNER_TIMEOUT {
                return Ok(Opened::TimedOut);
            }
            let is_sending = !talk.front().is_empty();
            self.poll(is_sending, None, STEP).map_err(failed)?;
        }
        Ok(Opened::Ended(None))
    }

    /// Waits for any of the pipes, or for `queue`'s waker; tells whether that rang.
    fn poll(&self, is_sending: bool, queue: Option<&Queue>, limit: Duration) -> io::Result<bool> {
        let mut fds = Vec::with_capacity(4);
        if let Some(queue) = queue {
            fds.push(PollFd::from_borrowed_fd(
                queue.waker.fd(),
                interest(true, false),
            ));
        }
        for pipe in [&self.stdout, &self.stderr].into_iter().flatten() {
            fds.push(PollFd::from_borrowed_fd(
                pipe.as_fd(),
                interest(true, false),
            ));
        }
        if let Some(stdin) = self.stdin.as_ref().filter(|_| is_sending) {
            fds.push(PollFd::from_borrowed_fd(
                stdin.as_fd(),
                interest(false, true),
            ));
        }
        wait_any(&mut fds, limit)?;
        Ok(queue.is_some() && !fds[0].revents().is_empty())
    }

    /// Hands the streams to a thread named `name`: what arrives goes to `sink`, what is sent into
    /// the returned queue goes to the program. Both are counted in `traffic`.
    pub fn run(
        self,
        name: &str,
        sink: Box<dyn ByteSink>,
        traffic: Traffic,
    ) -> io::Result<Outgoing> {
        let (outgoing, queue) = Queue::new()?;
        let pump = Pump {
            program: self,
            queue,
            sink,
            traffic,
            closing: None,
        };
        std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || pump.run())?;
        Ok(outgoing)
    }
}

/// Reads once; `None` if nothing is there now. At the end the pipe is closed.
fn read_some(pipe: &mut Option<File>, buffer: &mut [u8]) -> io::Result<Option<usize>> {
    let Some(open) = pipe else { return Ok(None) };
    match open.read(buffer) {
        Ok(0) => {
            *pipe = None;
            Ok(None)
        }
        Ok(count) => Ok(Some(count)),
        Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => Ok(None),
        Err(e) => Err(e),
    }
}

/// Writes once; `None` if nothing can be written now. A program that closed its stdin takes nothing.
fn write_some(pipe: &mut Option<File>, bytes: &[u8]) -> io::Result<Option<usize>> {
    let Some(open) = pipe.as_mut().filter(|_| !bytes.is_empty()) else {
        return Ok(None);
    };
    match open.write(bytes) {
        Ok(count) => Ok(Some(count)),
        Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => Ok(None),
        Err(e) if e.kind() == ErrorKind::BrokenPipe => {
            *pipe = None;
            Ok(None)
        }
        Err(e) => Err(e),
    }
}

struct Pump {
    program: LocalProgram,
    queue: Queue,
    sink: Box<dyn ByteSink>,
    traffic: Traffic,
    /// When stdin was closed.
    closing: Option<Instant>,
}

impl Pump {
    fn run(mut self) {
        let reason = self.pump().err();
        let was_asked = self.closing.is_some();
        self.program.stdin = None;
        let status = self.program.wait(if reason.is_none() {
            END_TIMEOUT
        } else {
            Duration::from_millis(500)
        });
        let reason = reason.unwrap_or_else(|| match status.map(code) {
            Some(Ok(code)) => format!("agent exited with status {code}"),
            Some(Err(signal)) => format!("agent was killed by signal {signal}"),
            None => "agent closed its output".to_owned(),
        });
        self.sink.closed(Closed {
            orderly: was_asked && status.is_some_and(|status| status.success()),
            reason,
            stderr: self.program.said.text(),
        });
    }

    /// Moves bytes until stdout and stderr have ended.
    fn pump(&mut self) -> Result<(), String> {
        let words = |e: io::Error| e.to_string();
        let mut buffer = vec![0; READ_BYTES];
        while self.program.stdout.is_some() || self.program.stderr.is_some() {
            let program = &mut self.program;
            let mut moved = false;
            if let Some(count) =
                write_some(&mut program.stdin, self.queue.front()).map_err(words)?
            {
                self.queue.wrote(count);
                self.traffic.add_sent(count as u64);
                moved = true;
            }
            if self.closing.is_none() && self.queue.is_finished() {
                self.closing = Some(Instant::now());
                program.stdin = None;
            }
            if let Some(count) = read_some(&mut program.stdout, &mut buffer).map_err(words)? {
                self.traffic.add_received(count as u64);
                self.sink.received(&buffer[..count])?;
                moved = true;
            } else if let Some(count) =
                read_some(&mut program.stderr, &mut buffer).map_err(words)?
            {
                program.said.push(&buffer[..count]);
                moved = true;
            }
            // What has just ended will wake nobody.
            let has_ended = program.stdout.is_none() && program.stderr.is_none();
            if !moved && !has_ended {
                self.sleep()?;
            }
        }
        Ok(())
    }

    fn sleep(&mut self) -> Result<(), String> {
        if self
            .closing
            .is_some_and(|since| since.elapsed() > END_TIMEOUT)
        {
            return Err(format!(
                "it did not end within {} s of being asked to",
                END_TIMEOUT.as_secs()
            ));
        }
        self.queue.waker.about_to_sleep();
        // See the SSH program's thread: what was refused just now is waited for in poll(2).
        let was_refused = !self.queue.is_idle() && self.program.stdin.is_some();
        let has_stdin = self.program.stdin.is_some();
        let has_news = !was_refused && has_stdin && !self.queue.front().is_empty()
            || self.closing.is_none() && self.queue.is_finished();
        let mut rung = false;
        if !has_news {
            let limit = if self.closing.is_some() {
                Duration::from_millis(500)
            } else {
                Duration::from_secs(5)
            };
            rung = self
                .program
                .poll(was_refused, Some(&self.queue), limit)
                .map_err(|e| e.to_string())?;
        }
        self.queue.waker.is_awake(rung);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::command::command;
    use crossbeam_channel::{Receiver, Sender, unbounded};

    enum Heard {
        Bytes(Vec<u8>),
        Closed(Closed),
    }

    struct Ear(Sender<Heard>);

    impl ByteSink for Ear {
        fn received(&mut self, bytes: &[u8]) -> Result<(), String> {
            self.0
                .send(Heard::Bytes(bytes.to_vec()))
                .map_err(|e| e.to_string())
        }

        fn closed(&mut self, closed: Closed) {
            let _ = self.0.send(Heard::Closed(closed));
        }
    }

    fn shell(script: &str) -> Command {
        let mut shell = command("/bin/sh");
        shell.args(["-c", script]);
        shell
    }

    fn opening() -> Opening<'static> {
        Opening {
            banner: "agent ",
            refusal: "refused ",
            ..Opening::default()
        }
    }

    fn open(script: &str) -> (Opened, String, Option<LocalProgram>) {
        open_program(shell(script), opening(), &AbortFlag::new()).unwrap()
    }

    fn run(script: &str) -> (Outgoing, Receiver<Heard>, Traffic) {
        let (opened, _, program) = open(script);
        assert!(matches!(opened, Opened::Banner { .. }), "{opened:?}");
        let (sender, receiver) = unbounded();
        let traffic = Traffic::default();
        let outgoing = program
            .unwrap()
            .run("test", Box::new(Ear(sender)), traffic.clone())
            .unwrap();
        (outgoing, receiver, traffic)
    }

    fn all(receiver: &Receiver<Heard>) -> (Vec<u8>, Closed) {
        let mut bytes = Vec::new();
        loop {
            match receiver.recv_timeout(Duration::from_secs(20)).unwrap() {
                Heard::Bytes(more) => bytes.extend(more),
                Heard::Closed(closed) => return (bytes, closed),
            }
        }
    }

    #[test]
    fn bytes_go_both_ways_and_the_end_of_stdin_ends_it_in_good_order() {
        let (outgoing, receiver, traffic) = run("echo agent 1; exec cat");
        let mut sent = Vec::new();
        for round in 0..50_u8 {
            let chunk = vec![round; 70_000];
            sent.extend_from_slice(&chunk);
            outgoing.send(chunk).unwrap();
        }
        drop(outgoing);
        let (bytes, closed) = all(&receiver);
        assert!(bytes == sent);
        assert!(closed.orderly, "{closed:?}");
        assert_eq!(traffic.totals(), (3_500_000, 3_500_000));
    }

    #[test]
    fn an_end_is_told_at_once() {
        let fastest = (0..3).map(|_| {
            let (outgoing, receiver, _) = run("echo agent 1; exec cat");
            let begun = std::time::Instant::now();
            drop(outgoing);
            assert!(all(&receiver).1.orderly);
            begun.elapsed()
        });
        // The wait that must not happen takes half a second.
        assert!(fastest.min() < Some(Duration::from_millis(400)));
    }

    #[test]
    fn an_end_of_its_own_tells_status_and_last_words() {
        let (_outgoing, receiver, _) = run("echo agent 1; echo dying >&2; exit 9");
        let (_, closed) = all(&receiver);
        assert_eq!(closed.reason, "agent exited with status 9");
        assert_eq!(closed.stderr, "dying");
        assert!(!closed.orderly);
    }

    #[test]
    fn refusal_early_end_and_abort_are_told_apart() {
        let (opened, _, program) = open("echo refused arch m68k; cat");
        assert_eq!(opened, Opened::Refused("arch m68k".into()));
        assert!(program.is_none());
        let (opened, stderr, _) = open("echo no >&2; exit 4");
        assert_eq!((opened, stderr.as_str()), (Opened::Ended(Some(4)), "no"));
        let abort = AbortFlag::new();
        abort.raise();
        let error = open_program(shell("exec cat"), opening(), &abort).unwrap_err();
        assert!(matches!(error, StartError::Interrupted(_)));
    }
}
