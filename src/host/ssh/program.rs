//! A program on the other machine whose standard streams are kept, or a socket there: started, opened,
//! then handed to a thread of its own that moves bytes both ways until it ends.
//!
//! The thread owns the session. It never blocks in libssh2: it writes what it can, reads what is
//! there, and sleeps in poll(2) on the socket and on the queue's waker. libssh2 wants the same
//! buffer again after EAGAIN; the queue keeps it at its address until it was taken.

use std::io::{ErrorKind, Read, Write};
use std::time::{Duration, Instant};

use rustix::event::PollFd;
use ssh2::Channel;

use super::SshConnection;
use super::carrier::STEP;
use super::error::SshError;
use super::exec::{CLOSED_THERE, WINDOW, broken_words, how_it_ended};
use crate::host::opening::{BANNER_TIMEOUT, Conversation, Opened, Opening, STALL_TIMEOUT};
use crate::host::stream::{ByteSink, Closed, Outgoing, Queue, Tail, Traffic};
use crate::sys::poll::{interest, wait_any, wait_for};

/// Bytes read in one call.
const READ_BYTES: usize = 256 << 10;

/// Packets written before the other direction has its turn.
const WRITES_PER_TURN: usize = 16;

/// How long a program may take to end after its stdin was closed.
const END_TIMEOUT: Duration = Duration::from_secs(15);

/// A program that was started and has said its first words; or what listens on a socket.
pub struct Program {
    connection: SshConnection,
    channel: Channel,
    stderr: Tail,
    /// A socket has no exit status.
    is_socket: bool,
}

impl std::fmt::Debug for Program {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Program")
            .field("connection", &self.connection)
            .finish_non_exhaustive()
    }
}

impl SshConnection {
    /// Starts `command` and goes through `opening` with it.
    ///
    /// Returns how the opening ended, what the program wrote to stderr meanwhile, and the program,
    /// or the connection if there was no banner. The connection can be used again if the program
    /// ended or the password was refused.
    pub fn open_program(
        self,
        command: &str,
        opening: Opening<'_>,
    ) -> Result<(Opened, String, Result<Program, SshConnection>), SshError> {
        let channel = self.start(command, Duration::from_secs(30))?;
        self.open_on(channel, opening, false)
    }

    /// Connects to the socket at `path` there, as the person, and goes through `opening` with what
    /// listens on it. No program is started for that.
    pub fn open_socket(
        self,
        path: &str,
        opening: Opening<'_>,
    ) -> Result<(Opened, Result<Program, SshConnection>), SshError> {
        let channel = self.connect_socket(path, Duration::from_secs(30))?;
        let (opened, _, program) = self.open_on(channel, opening, true)?;
        Ok((opened, program))
    }

    fn open_on(
        self,
        mut channel: Channel,
        opening: Opening<'_>,
        is_socket: bool,
    ) -> Result<(Opened, String, Result<Program, SshConnection>), SshError> {
        let mut talk = Conversation::new(opening);
        let opened = self.converse(&mut channel, &mut talk)?;
        let stderr = talk.into_stderr();
        let text = stderr.text();
        if let Opened::Banner { .. } = opened {
            let program = Program {
                connection: self,
                channel,
                stderr,
                is_socket,
            };
            return Ok((opened, text, Ok(program)));
        }
        // Closing its stdin ends it.
        let closed = self.close(&mut channel);
        let opened = match opened {
            Opened::Ended(_) => {
                closed?;
                Opened::Ended(how_it_ended(&channel).ok())
            }
            Opened::PasswordRefused => {
                closed?;
                opened
            }
            // The caller gives up; what it is told matters more than a program that hangs.
            _ => opened,
        };
        Ok((opened, text, Err(self)))
    }

    fn converse(
        &self,
        channel: &mut Channel,
        talk: &mut Conversation<'_>,
    ) -> Result<Opened, SshError> {
        let mut buffer = vec![0; 32 << 10];
        let mut last_move = Instant::now();
        loop {
            let mut moved = false;
            let front = talk.front();
            let pause = self.throttle.pause();
            if !front.is_empty() && !channel.eof() && pause.is_none() {
                match channel.write(front) {
                    Ok(count) => {
                        self.throttle.sent(count);
                        talk.wrote(count);
                        moved |= count > 0;
                    }
                    Err(e) if e.kind() == ErrorKind::WouldBlock => {}
                    // It may have closed the channel; what it said is read below.
                    Err(_) if channel.eof() => {}
                    Err(e) => return Err(self.lost(&broken_words(&e))),
                }
            }
            for stream in [1, 0] {
                match channel.stream(stream).read(&mut buffer) {
                    Ok(count) => {
                        moved |= count > 0;
                        let bytes = &buffer[..count];
                        let opened = if stream == 0 {
                            talk.stdout(bytes)
                        } else {
                            talk.stderr(bytes)
                        };
                        if let Some(opened) = opened {
                            return Ok(opened);
                        }
                    }
                    Err(e) if e.kind() == ErrorKind::WouldBlock => {}
                    Err(e) => return Err(self.lost(&broken_words(&e))),
                }
            }
            if moved {
                last_move = Instant::now();
                continue;
            }
            if channel.eof() {
                return Ok(Opened::Ended(None));
            }
            self.abort.check()?;
            let limit = if talk.front().is_empty() {
                BANNER_TIMEOUT
            } else {
                STALL_TIMEOUT
            };
            if last_move.elapsed() > limit {
                return Ok(Opened::TimedOut);
            }
            self.wire.acknowledge_at_once();
            let (read, write) = self.wire.directions();
            let write = write && pause.is_none();
            let limit = pause.map_or(STEP, |pause| pause.min(STEP));
            wait_for(self.wire.carrier.fd(), read, write, limit)
                .map_err(|e| self.lost(&broken_words(&e)))?;
        }
    }
}

impl Program {
    /// Hands the streams to a thread named `name`: what arrives goes to `sink`, what is sent into
    /// the returned queue goes to the program. Both are counted in `traffic`.
    pub fn run(
        self,
        name: &str,
        sink: Box<dyn ByteSink>,
        traffic: Traffic,
    ) -> Result<Outgoing, SshError> {
        let local = |source| SshError::Local {
            host: self.connection.config.alias.clone(),
            source,
        };
        let (outgoing, queue) = Queue::new().map_err(local)?;
        let host = self.connection.config.alias.clone();
        let pump = Pump {
            program: self,
            queue,
            sink,
            traffic,
            closing: None,
            is_held: false,
        };
        std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || pump.run())
            .map_err(|source| SshError::Local { host, source })?;
        Ok(outgoing)
    }
}

struct Pump {
    program: Program,
    queue: Queue,
    sink: Box<dyn ByteSink>,
    traffic: Traffic,
    /// When stdin was closed.
    closing: Option<Instant>,
    /// There is something to write, and the limit does not allow it yet.
    is_held: bool,
}

impl Pump {
    fn run(mut self) {
        let reason = self.pump();
        let closed = self.finish(reason);
        self.sink.closed(closed);
    }

    /// Moves bytes until the program ends (`None`) or something fails.
    fn pump(&mut self) -> Option<String> {
        let mut buffer = vec![0; READ_BYTES];
        loop {
            let wrote = match self.write_some() {
                Ok(wrote) => wrote,
                Err(reason) => return Some(reason),
            };
            let read = match self.read_some(&mut buffer) {
                Ok(read) => read,
                Err(reason) => return Some(reason),
            };
            // A program is told to end; what carries content for one may be cut off.
            if self.program.is_socket && self.program.connection.abort.is_raised() {
                self.program.connection.wire.carrier.discard();
                return Some("it was not wanted any more".to_owned());
            }
            if wrote || read {
                continue;
            }
            if self.program.channel.eof() {
                return None;
            }
            if let Err(reason) = self.sleep() {
                return Some(reason);
            }
        }
    }

    fn write_some(&mut self) -> Result<bool, String> {
        let mut moved = false;
        self.is_held = false;
        for _ in 0..WRITES_PER_TURN {
            let front = self.queue.front();
            if front.is_empty() {
                break;
            }
            if self.program.connection.throttle.pause().is_some() {
                self.is_held = true;
                break;
            }
            match self.program.channel.write(front) {
                Ok(0) => break,
                Ok(count) => {
                    self.queue.wrote(count);
                    self.traffic.add_sent(count as u64);
                    self.program.connection.throttle.sent(count);
                    moved = true;
                }
                Err(e) if e.kind() == ErrorKind::WouldBlock => break,
                // The program may have gone; what it said last is read before that is told.
                Err(_) if self.program.channel.eof() => break,
                Err(e) => return Err(broken_words(&e)),
            }
        }
        // No packet may be under way when the end of stdin is sent.
        let (_, is_sending) = self.program.connection.wire.directions();
        if self.closing.is_none() && self.queue.is_finished() && !is_sending {
            self.closing = Some(Instant::now());
            let program = &mut self.program;
            if !program.channel.eof() {
                program
                    .connection
                    .send_eof(&mut program.channel)
                    .map_err(|e| e.to_string())?;
            }
            moved = true;
        }
        Ok(moved)
    }

    fn read_some(&mut self, buffer: &mut [u8]) -> Result<bool, String> {
        let channel = &mut self.program.channel;
        match channel.read(buffer) {
            Ok(0) => {}
            Ok(count) => {
                self.traffic.add_received(count as u64);
                self.sink.received(&buffer[..count])?;
                return Ok(true);
            }
            Err(e) if e.kind() == ErrorKind::WouldBlock => {}
            Err(e) => return Err(broken_words(&e)),
        }
        match channel.stderr().read(buffer) {
            Ok(count) => {
                self.program.stderr.push(&buffer[..count]);
                Ok(count > 0)
            }
            Err(e) if e.kind() == ErrorKind::WouldBlock => Ok(false),
            Err(e) => Err(broken_words(&e)),
        }
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
        let wire = &self.program.connection.wire;
        wire.acknowledge_at_once();
        let (_, is_sending) = wire.directions();
        self.queue.waker.about_to_sleep();
        // Whatever was queued before the line above is seen here, whatever comes later rings. Bytes
        // that were refused just now (a full socket, a full window) are no reason to stay awake.
        let was_refused = !self.queue.is_idle();
        // Nor are those that may not be sent yet, until they may.
        let throttle = &self.program.connection.throttle;
        let pause = self.is_held.then(|| throttle.pause().unwrap_or_default());
        let has_news = pause.is_some_and(|pause| pause.is_zero())
            || !was_refused && pause.is_none() && !self.queue.front().is_empty()
            || self.closing.is_none() && !is_sending && self.queue.is_finished();
        let mut rung = false;
        if !has_news {
            let wire = &self.program.connection.wire;
            let mut fds = [
                PollFd::from_borrowed_fd(
                    wire.carrier.fd(),
                    interest(true, is_sending && pause.is_none()),
                ),
                PollFd::from_borrowed_fd(self.queue.waker.fd(), interest(true, false)),
            ];
            let limit = if self.closing.is_some() {
                Duration::from_millis(500)
            } else {
                Duration::from_secs(5)
            };
            let limit = pause.map_or(limit, |pause| pause.min(limit));
            wait_any(&mut fds, limit).map_err(|e| e.to_string())?;
            rung = !fds[1].revents().is_empty();
        }
        self.queue.waker.is_awake(rung);
        Ok(())
    }

    fn finish(&mut self, reason: Option<String>) -> Closed {
        let was_asked = self.closing.is_some();
        let program = &mut self.program;
        // Clean-up must not be cut short by the abort that may be the reason for it.
        program.connection.abort = crate::interrupt::AbortFlag::new();
        let closed = if reason.is_none() {
            program.connection.close(&mut program.channel).is_ok()
        } else {
            // The link is broken or the program hangs: only what needs no answer.
            let _ = program.channel.close();
            false
        };
        let has_status = closed && !program.is_socket;
        let end = has_status.then(|| how_it_ended(&program.channel));
        let reason = reason.unwrap_or_else(|| match &end {
            Some(Ok(status)) => format!("agent exited with status {status}"),
            Some(Err(signal)) => format!("agent was killed by SIG{signal}"),
            None if program.is_socket => CLOSED_THERE.to_owned(),
            None => "agent ended".to_owned(),
        });
        Closed {
            orderly: was_asked && end == Some(Ok(0)),
            reason,
            stderr: program.stderr.text(),
        }
    }
}

/// The window must hold more than one read: libssh2 widens it only between reads.
const _: () = assert!(WINDOW as usize >= 4 * READ_BYTES);
