//! Running one command on the other machine to its end.

use std::io::{ErrorKind, Read, Write};
use std::time::{Duration, Instant};

use ssh2::Channel;

use super::SshConnection;
use super::error::SshError;
use super::session::{CHANNEL_REFUSED, WireError};
use crate::escape::escape_str;
use crate::sys::poll::wait_for;

use super::carrier::STEP;

/// What people are told when nobody says more.
pub(super) const CLOSED_THERE: &str =
    "the connection was closed by the other side or by the network";

/// What people are told when libssh2 says "transport read".
pub(super) fn broken_words(error: &std::io::Error) -> String {
    let text = error.to_string();
    match text.to_lowercase().as_str() {
        "transport read"
        | "unable to send channel data"
        | "failure while draining incoming flow" => CLOSED_THERE.to_owned(),
        lower => lower.to_owned(),
    }
}

/// How the command of a closed channel ended: its exit status, or the signal that killed it.
///
/// libssh2 gives the exit status 0 where the server sent none, so the signal is asked for first.
pub(super) fn how_it_ended(channel: &Channel) -> Result<i32, String> {
    match channel.exit_signal().map(|ended| ended.exit_signal) {
        Ok(Some(signal)) => {
            let signal: String = signal.chars().take(20).collect();
            Err(escape_str(&signal))
        }
        Ok(None) | Err(_) => channel.exit_status().map_err(|e| e.message().to_owned()),
    }
}

/// Kept of stdout and of stderr each; what is beyond is read and dropped.
const OUTPUT_MAX: usize = 1 << 20;

/// The window the server may fill on a channel before we have read it.
pub(super) const WINDOW: u32 = 8 << 20;

/// Largest packet of a channel: what every ssh can do.
pub(super) const PACKET: u32 = 32 << 10;

/// A command that has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommandOutput {
    /// Exit status, if the server said one (a killed command has none).
    pub status: Option<i32>,
    /// What it wrote, at most 1 MiB.
    pub stdout: Vec<u8>,
    /// What it wrote about it, at most 1 MiB.
    pub stderr: Vec<u8>,
}

impl SshConnection {
    /// Runs `command` with `stdin` and waits for its end.
    ///
    /// The person's login shell on the other machine parses `command`: it may hold nothing but
    /// words of our own.
    pub fn exec(
        &mut self,
        command: &str,
        stdin: &[u8],
        limit: Duration,
    ) -> Result<CommandOutput, SshError> {
        let until = Instant::now() + limit;
        let mut channel = self.start(command, limit)?;
        let mut out = CommandOutput {
            status: None,
            stdout: Vec::new(),
            stderr: Vec::new(),
        };
        let mut left = stdin;
        let mut eof_sent = false;
        let mut buffer = vec![0; 64 << 10];
        loop {
            let mut moved = false;
            if !left.is_empty() {
                match channel.write(left) {
                    Ok(count) => {
                        left = &left[count..];
                        moved |= count > 0;
                    }
                    Err(e) if e.kind() == ErrorKind::WouldBlock => {}
                    // It does not want the rest: its own business.
                    Err(_) if channel.eof() => left = &[],
                    Err(e) => return Err(self.lost(&broken_words(&e))),
                }
            } else if !eof_sent {
                self.send_eof(&mut channel)?;
                eof_sent = true;
            }
            for (stream, kept) in [(0, &mut out.stdout), (1, &mut out.stderr)] {
                match channel.stream(stream).read(&mut buffer) {
                    Ok(count) => {
                        let room = OUTPUT_MAX.saturating_sub(kept.len());
                        kept.extend_from_slice(&buffer[..count.min(room)]);
                        moved |= count > 0;
                    }
                    Err(e) if e.kind() == ErrorKind::WouldBlock => {}
                    Err(e) => return Err(self.lost(&broken_words(&e))),
                }
            }
            if channel.eof() {
                break;
            }
            if !moved {
                self.abort.check()?;
                if Instant::now() > until {
                    return Err(self.timed_out("running a command", limit));
                }
                self.wire.acknowledge_at_once();
                let (read, write) = self.wire.directions();
                wait_for(self.wire.carrier.fd(), read, write, STEP)
                    .map_err(|e| self.lost(&broken_words(&e)))?;
            }
        }
        self.close(&mut channel)?;
        out.status = how_it_ended(&channel).ok();
        Ok(out)
    }

    /// Opens a channel and starts `command` on it.
    pub(super) fn start(&self, command: &str, limit: Duration) -> Result<Channel, SshError> {
        let session = &self.wire.session;
        let mut channel = self
            .wire
            .drive(limit, &self.abort, || {
                session.channel_open("session", WINDOW, PACKET, None)
            })
            .map_err(|e| self.broken(e, "opening a channel", limit))?;
        self.wire
            .drive(limit, &self.abort, || channel.exec(command))
            .map_err(|e| self.broken(e, "starting a command", limit))?;
        Ok(channel)
    }

    /// Opens a channel to the socket at `path`, which the server reaches as the person.
    pub(super) fn connect_socket(&self, path: &str, limit: Duration) -> Result<Channel, SshError> {
        let session = &self.wire.session;
        let opened = self.wire.drive(limit, &self.abort, || {
            session.channel_direct_streamlocal(path, None)
        });
        opened.map_err(|error| {
            if error.is(CHANNEL_REFUSED) {
                SshError::SocketRefused {
                    host: self.config.alias.clone(),
                }
            } else {
                self.broken(error, "reaching a socket", limit)
            }
        })
    }

    /// Closes the command's stdin.
    pub(super) fn send_eof(&self, channel: &mut Channel) -> Result<(), SshError> {
        // libssh2 recognises an unfinished packet by its address, and this one lies on the stack:
        // it must stay inside one blocking call.
        self.wire.session.set_timeout(10_000);
        self.wire.session.set_blocking(true);
        let sent = channel.send_eof();
        self.wire.session.set_blocking(false);
        sent.map_err(|e| self.lost(e.message()))
    }

    /// Closes the channel on both sides: it must not be dropped before (ssh2-rs issue 322).
    pub(super) fn close(&self, channel: &mut Channel) -> Result<(), SshError> {
        let limit = Duration::from_secs(10);
        self.wire
            .drive(limit, &self.abort, || channel.close())
            .map_err(|e| self.broken(e, "closing a channel", limit))
    }

    pub(super) fn lost(&self, detail: &str) -> SshError {
        SshError::Lost {
            host: self.config.alias.clone(),
            detail: detail.to_lowercase(),
        }
    }

    pub(super) fn timed_out(&self, doing: &'static str, limit: Duration) -> SshError {
        SshError::TimedOut {
            host: self.config.alias.clone(),
            seconds: limit.as_secs(),
            doing,
        }
    }

    pub(super) fn broken(
        &self,
        error: WireError,
        doing: &'static str,
        limit: Duration,
    ) -> SshError {
        match error {
            WireError::Interrupted(e) => e.into(),
            WireError::TimedOut => self.timed_out(doing, limit),
            WireError::Ssh(e) => self.lost(&format!("{} while {doing}", e.message())),
            WireError::Io(e) => self.lost(&format!("{e} while {doing}")),
        }
    }
}
