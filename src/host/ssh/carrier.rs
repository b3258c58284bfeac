//! What carries the session's bytes: a TCP connection, or a proxy's standard streams.
//!
//! Every wait looks at the abort flag. A proxy is a child in a process group of its own, which is
//! ended when the carrier is dropped; should we be killed, it sees the end of its stdin.

use std::fs::File;
use std::io::{self, Read};
use std::net::{SocketAddr, ToSocketAddrs};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{RecvTimeoutError, bounded};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SocketFlags, SocketType,
    sockopt,
};
use rustix::process::{Pid, Signal, kill_process_group};

use super::config::{HostConfig, Proxy};
use super::error::SshError;
use crate::host::stream::Tail;
use crate::interrupt::AbortFlag;
use crate::sys::command::command;
use crate::sys::poll::wait_for;

/// How often the abort flag is looked at.
pub(super) const STEP: Duration = Duration::from_millis(50);

/// A peer that acknowledges nothing for this long is gone.
const TCP_SILENCE: Duration = Duration::from_secs(15);

/// The stream below a session.
#[derive(Debug)]
pub(super) struct Carrier {
    socket: OwnedFd,
    is_tcp: bool,
    proxy: Option<ProxyChild>,
}

impl Carrier {
    /// Connects to the host as `config` says.
    pub(super) fn open(
        config: &HostConfig,
        config_file: Option<&std::path::Path>,
        abort: &AbortFlag,
    ) -> Result<Self, SshError> {
        match &config.proxy {
            Proxy::Direct => {
                let socket = connect_tcp(config, abort)?;
                Ok(Self::tcp(socket))
            }
            Proxy::Command(line) => {
                let mut shell = command("/bin/sh");
                shell.args(["-c", &format!("exec {line}")]);
                Self::through(shell, line, config, abort)
            }
            Proxy::Jump(jumps) => {
                let ssh = jump_command(jumps, config, config_file);
                Self::through(ssh, &format!("ssh {jumps}"), config, abort)
            }
        }
    }

    fn tcp(socket: OwnedFd) -> Self {
        // Neither failing makes the connection unusable.
        let _ = sockopt::set_tcp_nodelay(&socket, true);
        let _ = sockopt::set_socket_keepalive(&socket, true);
        let _ = sockopt::set_tcp_keepidle(&socket, Duration::from_secs(5));
        let _ = sockopt::set_tcp_keepintvl(&socket, Duration::from_secs(5));
        let _ = sockopt::set_tcp_keepcnt(&socket, 2);
        let silence = u32::try_from(TCP_SILENCE.as_millis()).expect("seconds fit");
        let _ = sockopt::set_tcp_user_timeout(&socket, silence);
        Self {
            socket,
            is_tcp: true,
            proxy: None,
        }
    }

    fn through(
        mut program: Command,
        line: &str,
        config: &HostConfig,
        abort: &AbortFlag,
    ) -> Result<Self, SshError> {
        let local = |source: io::Error| SshError::Local {
            host: config.alias.clone(),
            source,
        };
        let (ours, theirs) = rustix::net::socketpair(
            AddressFamily::UNIX,
            SocketType::STREAM,
            SocketFlags::CLOEXEC,
            None,
        )
        .map_err(|e| local(e.into()))?;
        let its_stdin = theirs.try_clone().map_err(local)?;
        program
            .stdin(Stdio::from(its_stdin))
            .stdout(Stdio::from(theirs))
            .stderr(Stdio::piped())
            .process_group(0);
        let child = program.spawn().map_err(|source| SshError::Proxy {
            host: config.alias.clone(),
            command: line.to_owned(),
            detail: source.to_string(),
        })?;
        // Our copies of the child's ends go with `program`.
        drop(program);
        let mut proxy = ProxyChild::watch(child, line);
        rustix::io::ioctl_fionbio(&ours, true).map_err(|e| local(e.into()))?;
        if config.proxy_use_fdpass && matches!(config.proxy, Proxy::Command(_)) {
            let passed = receive_socket(&ours, config.connect_timeout, abort);
            return match passed {
                Ok(socket) => Ok(Self::tcp(socket)),
                Err(PassError::Interrupted(e)) => Err(e.into()),
                Err(PassError::Io(source)) => Err(proxy.error(&config.alias, &source.to_string())),
            };
        }
        Ok(Self {
            socket: ours,
            is_tcp: false,
            proxy: Some(proxy),
        })
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Whether this is a network connection of our own.
    pub(super) fn is_tcp(&self) -> bool {
        self.is_tcp
    }

    /// Whatever was not sent yet is not sent any more when this is closed.
    pub(super) fn discard(&self) {
        if self.is_tcp {
            let _ = sockopt::set_socket_linger(&self.socket, Some(Duration::ZERO));
        }
    }

    /// The session's own handle on the socket.
    pub(super) fn for_session(&self) -> io::Result<OwnedFd> {
        self.socket.try_clone()
    }

    /// The proxy's failure, if there is a proxy and it has ended.
    pub(super) fn proxy_error(&mut self, host: &str) -> Option<SshError> {
        let proxy = self.proxy.as_mut()?;
        // The stream's end may be seen a moment before the process is gone.
        let until = Instant::now() + Duration::from_millis(500);
        while proxy.child.try_wait().ok()?.is_none() {
            if Instant::now() > until {
                return None;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Some(proxy.error(host, "it ended"))
    }
}

fn resolve_name(config: &HostConfig, abort: &AbortFlag) -> Result<Vec<SocketAddr>, SshError> {
    let (sender, receiver) = bounded(1);
    let name = (config.hostname.clone(), config.port);
    // getaddrinfo(3) cannot be interrupted: after an abort its thread is left to end by itself.
    std::thread::Builder::new()
        .name("resolve".to_owned())
        .spawn(move || {
            let _ = sender.send(name.to_socket_addrs().map(Iterator::collect::<Vec<_>>));
        })
        .map_err(|source| SshError::Local {
            host: config.alias.clone(),
            source,
        })?;
    let not_found = |detail: String| SshError::NameNotFound {
        hostname: config.hostname.clone(),
        detail,
    };
    let until = Instant::now() + config.connect_timeout;
    loop {
        match receiver.recv_timeout(STEP) {
            Ok(Ok(addresses)) => {
                let addresses: Vec<_> = addresses
                    .into_iter()
                    .filter(|a| config.ipv6.is_none_or(|only| a.is_ipv6() == only))
                    .collect();
                if addresses.is_empty() {
                    return Err(not_found("none of the wanted address family".to_owned()));
                }
                return Ok(addresses);
            }
            Ok(Err(e)) => {
                let text = e.to_string();
                let text = text
                    .rsplit_once(": ")
                    .map_or(text.as_str(), |(_, last)| last);
                return Err(not_found(text.to_lowercase()));
            }
            Err(RecvTimeoutError::Disconnected) => {
                return Err(not_found("the resolver failed".to_owned()));
            }
            Err(RecvTimeoutError::Timeout) => {}
        }
        abort.check()?;
        if Instant::now() > until {
            return Err(not_found("the name servers did not answer".to_owned()));
        }
    }
}

fn connect_tcp(config: &HostConfig, abort: &AbortFlag) -> Result<OwnedFd, SshError> {
    let mut last = None;
    for address in resolve_name(config, abort)? {
        match connect_one(address, config.connect_timeout, abort)? {
            Ok(socket) => return Ok(socket),
            Err(source) => last = Some((address, source)),
        }
    }
    let (address, source) = last.expect("there is at least one address");
    Err(SshError::Connect {
        host: config.alias.clone(),
        address: address.to_string(),
        source,
    })
}

fn connect_one(
    address: SocketAddr,
    limit: Duration,
    abort: &AbortFlag,
) -> Result<io::Result<OwnedFd>, SshError> {
    let family = if address.is_ipv6() {
        AddressFamily::INET6
    } else {
        AddressFamily::INET
    };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = match rustix::net::socket_with(family, SocketType::STREAM, flags, None) {
        Ok(socket) => socket,
        Err(e) => return Ok(Err(e.into())),
    };
    match rustix::net::connect(&socket, &address) {
        Ok(()) => return Ok(Ok(socket)),
        Err(Errno::INPROGRESS) => {}
        Err(e) => return Ok(Err(e.into())),
    }
    let until = Instant::now() + limit;
    loop {
        abort.check()?;
        match wait_for(&socket, false, true, STEP) {
            Ok(true) => {
                return Ok(match sockopt::socket_error(&socket) {
                    Ok(Ok(())) => Ok(socket),
                    Ok(Err(e)) | Err(e) => Err(e.into()),
                });
            }
            Ok(false) if Instant::now() > until => {
                let text = format!("no answer within {} s", limit.as_secs());
                return Ok(Err(io::Error::new(io::ErrorKind::TimedOut, text)));
            }
            Ok(false) => {}
            Err(e) => return Ok(Err(e)),
        }
    }
}

/// `ssh -W` through the last jump host, and through the others before it with `-J`.
///
/// It runs without a terminal of its own, so it may ask nothing.
fn jump_command(
    jumps: &str,
    config: &HostConfig,
    config_file: Option<&std::path::Path>,
) -> Command {
    let (before, last) = match jumps.rsplit_once(',') {
        Some((before, last)) => (Some(before), last),
        None => (None, jumps),
    };
    let mut ssh = command("ssh");
    if let Some(file) = config_file {
        ssh.arg("-F").arg(file);
    }
    ssh.args(["-o", "BatchMode=yes"]);
    if let Some(before) = before {
        ssh.args(["-J", before]);
    }
    let last = last.trim();
    let last = last.strip_prefix("ssh://").unwrap_or(last);
    let (user, host) = match last.rsplit_once('@') {
        Some((user, host)) => (Some(user), host),
        None => (None, last),
    };
    if let Some(user) = user {
        ssh.args(["-l", user]);
    }
    let (host, port) = split_port(host);
    if let Some(port) = port {
        ssh.args(["-p", port]);
    }
    ssh.arg("-W")
        .arg(format!("[{}]:{}", config.hostname, config.port));
    ssh.args(["--", host]);
    ssh
}

/// Splits `host:port` and `[address]:port`; an address with colons and no brackets has no port.
fn split_port(text: &str) -> (&str, Option<&str>) {
    if let Some(rest) = text.strip_prefix('[')
        && let Some((host, port)) = rest.split_once(']')
    {
        return (host, port.strip_prefix(':'));
    }
    match text.split_once(':') {
        Some((host, port)) if !port.contains(':') => (host, Some(port)),
        _ => (text, None),
    }
}

enum PassError {
    Interrupted(crate::interrupt::Interrupted),
    Io(io::Error),
}

/// Receives the connected socket a proxy passes back (`ProxyUseFdpass`).
fn receive_socket(
    from: &OwnedFd,
    limit: Duration,
    abort: &AbortFlag,
) -> Result<OwnedFd, PassError> {
    let until = Instant::now() + limit;
    loop {
        abort.check().map_err(PassError::Interrupted)?;
        if Instant::now() > until {
            let error = io::Error::new(io::ErrorKind::TimedOut, "it passed no socket in time");
            return Err(PassError::Io(error));
        }
        if !wait_for(from, true, false, STEP).map_err(PassError::Io)? {
            continue;
        }
        let mut byte = [0];
        let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let received = rustix::net::recvmsg(
            from,
            &mut [io::IoSliceMut::new(&mut byte)],
            &mut control,
            RecvFlags::CMSG_CLOEXEC,
        );
        match received {
            Ok(_) => {}
            Err(Errno::AGAIN | Errno::INTR) => continue,
            Err(e) => return Err(PassError::Io(e.into())),
        }
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(mut sockets) = message
                && let Some(socket) = sockets.next()
            {
                rustix::io::ioctl_fionbio(&socket, true).map_err(|e| PassError::Io(e.into()))?;
                return Ok(socket);
            }
        }
        let error = io::Error::new(io::ErrorKind::UnexpectedEof, "it passed no socket");
        return Err(PassError::Io(error));
    }
}

/// How long a proxy that has failed has for saying why.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// A running proxy.
#[derive(Debug)]
struct ProxyChild {
    child: Child,
    line: String,
    stderr: Arc<Mutex<Tail>>,
    listener: Option<JoinHandle<()>>,
}

impl ProxyChild {
    fn watch(mut child: Child, line: &str) -> Self {
        let stderr = Arc::new(Mutex::new(Tail::default()));
        let listener = child.stderr.take().and_then(|pipe| {
            let tail = Arc::clone(&stderr);
            // Ends with the last holder of the pipe; without it only the words are missing.
            let thread = std::thread::Builder::new().name("proxy-stderr".to_owned());
            thread
                .spawn(move || {
                    let mut pipe = File::from(OwnedFd::from(pipe));
                    let mut buffer = [0; 1024];
                    while let Ok(count) = pipe.read(&mut buffer)
                        && count > 0
                    {
                        tail.lock()
                            .unwrap_or_else(PoisonError::into_inner)
                            .push(&buffer[..count]);
                    }
                })
                .ok()
        });
        Self {
            child,
            line: line.to_owned(),
            stderr,
            listener,
        }
    }

    fn error(&mut self, host: &str, otherwise: &str) -> SshError {
        // Its last words may still be in the pipe, or on their way to it.
        let until = Instant::now() + LAST_WORDS;
        while self.listener.as_ref().is_some_and(|l| !l.is_finished()) && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(5));
        }
        let said = self
            .stderr
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .text();
        SshError::Proxy {
            host: host.to_owned(),
            command: self.line.clone(),
            detail: if said.is_empty() {
                otherwise.to_owned()
            } else {
                said
            },
        }
    }
}

impl Drop for ProxyChild {
    fn drop(&mut self) {
        // The group's number is ours until the leader is reaped below.
        if !matches!(self.child.try_wait(), Ok(Some(_))) {
            let group = Pid::from_child(&self.child);
            let _ = kill_process_group(group, Signal::TERM);
            let until = Instant::now() + Duration::from_millis(300);
            while matches!(self.child.try_wait(), Ok(None)) {
                if Instant::now() > until {
                    let _ = kill_process_group(group, Signal::KILL);
                    let _ = self.child.wait();
                    break;
                }
                std::thread::sleep(Duration::from_millis(5));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jump_hosts_are_split_as_ssh_splits_them() {
        for (text, host, port) in [
            ("hop", "hop", None),
            ("hop:2200", "hop", Some("2200")),
            ("[2001:db8::1]:22", "2001:db8::1", Some("22")),
            ("2001:db8::1", "2001:db8::1", None),
        ] {
            assert_eq!(split_port(text), (host, port));
        }
    }
}
