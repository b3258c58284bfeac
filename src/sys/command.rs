//! Child processes: the one place where they are made, and the one way to run one to its end.
//!
//! A child made with [`run`] or prepared with [`tie_to_parent`] is the leader of a process group of
//! its own and gets SIGKILL from the kernel when the thread that started it ends (prctl(2),
//! `PR_SET_PDEATHSIG`: the *thread*, which therefore must wait for it). Groups that are running are
//! listed, so that [`kill_running_groups`] can end them all before the process leaves (and where
//! the process may be killed itself, [`guardian`] does).
//!
//! A group's number stays reserved while its leader is unreaped: `run` looks at the leader's end
//! without reaping it, kills what is left of the group, takes it off the list, and reaps last.
//! So a signal never reaches a stranger that was given the same number.

#![allow(unsafe_code)]

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{
    Pid, Resource, Rlimit, Signal, WaitId, WaitIdOptions, kill_process_group, waitid,
};

use super::guardian;
use crate::interrupt::AbortFlag;

/// Groups of children that [`run`] has not finished with.
static RUNNING: Mutex<BTreeSet<i32>> = Mutex::new(BTreeSet::new());

/// The limit on open files this process was started with, if it has raised its own.
static ORIGINAL_NOFILE: OnceLock<Rlimit> = OnceLock::new();

/// How long a child has between SIGTERM and SIGKILL.
const TERM_GRACE: Duration = Duration::from_secs(2);

/// How long to wait for the end of the pipes once the whole group is dead: only a process that
/// left the group can still hold them.
const DRAIN_GRACE: Duration = Duration::from_millis(500);

/// How often the abort flag is looked at.
const STEP: Duration = Duration::from_millis(50);

/// Why a program could not be run to its end.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// There is no such program.
    #[error("{program}: program not found")]
    NotFound {
        /// As it was named.
        program: String,
    },
    /// It could not be started.
    #[error("cannot start {program}: {source}")]
    Spawn {
        /// As it was named.
        program: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// Its pipes or its end could not be watched.
    #[error("cannot watch {program}: {source}")]
    Watch {
        /// As it was named.
        program: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// It took too long and was killed.
    #[error("{program} did not end within {} s and was killed", limit.as_secs_f32())]
    TimedOut {
        /// As it was named.
        program: String,
        /// The time it had.
        limit: Duration,
        /// What it had said until then, on stdout and then on stderr.
        said: Vec<u8>,
    },
    /// The abort flag was raised; the program was killed.
    #[error("{program} was stopped: interrupted")]
    Interrupted {
        /// As it was named.
        program: String,
    },
}

/// Bounds on one run.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Killed after this long.
    pub timeout: Option<Duration>,
    /// Kept of stdout and of stderr each; what is beyond is read and dropped.
    pub output_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            timeout: Some(Duration::from_secs(30)),
            output_bytes: 1 << 20,
        }
    }
}

/// A program that has ended.
#[derive(Debug)]
pub struct Finished {
    /// How.
    pub status: ExitStatus,
    /// What it wrote.
    pub stdout: Vec<u8>,
    /// What it wrote about it.
    pub stderr: Vec<u8>,
    /// Whether some of either was dropped.
    pub truncated: bool,
}

impl Finished {
    /// The exit code, or 128 + the signal that killed it, as a shell has it.
    #[must_use]
    pub fn code(&self) -> i32 {
        self.status
            .code()
            .unwrap_or_else(|| 128 + self.status.signal().unwrap_or(0))
    }
}

/// A command for `program`: an absolute path, or a name looked up on `PATH`.
#[must_use]
pub fn command(program: impl AsRef<OsStr>) -> Command {
    #[expect(
        clippy::disallowed_methods,
        reason = "the one place where commands are made"
    )]
    Command::new(program)
}

/// Raises this process's limit on open files to what it may have; children made by [`run`]
/// get the old limit back, because programs that use select(2) break beyond 1024.
pub fn raise_open_files_limit() {
    let limit = rustix::process::getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    if rustix::process::setrlimit(Resource::Nofile, raised).is_ok() {
        let _ = ORIGINAL_NOFILE.set(limit);
    }
}

/// Makes the child lead a process group of its own, die with the thread that starts it, and begin
/// with the umask and file limit an ordinary root process has.
pub fn tie_to_parent(command: &mut Command) {
    let parent = rustix::process::getpid();
    let nofile = ORIGINAL_NOFILE.get().copied();
    command.process_group(0);
    // SAFETY: the closure runs between fork and exec and only makes system calls: it allocates
    // nothing and takes no lock (fork(2), signal-safety(7)).
    unsafe {
        command.pre_exec(move || {
            rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
            // The parent may have died before the call above; then nobody will send the signal.
            if rustix::process::getppid() != Some(parent) {
                return Err(io::Error::from_raw_os_error(libc::ESRCH));
            }
            rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
            if let Some(nofile) = &nofile {
                rustix::process::setrlimit(Resource::Nofile, *nofile)?;
            }
            Ok(())
        });
    }
}

/// Kills every process group that [`run`] is waiting for, at once.
pub fn kill_running_groups() {
    let running = RUNNING.lock().unwrap_or_else(PoisonError::into_inner);
    for group in running.iter().filter_map(|raw| Pid::from_raw(*raw)) {
        let _ = kill_process_group(group, Signal::KILL);
    }
}

/// Runs `command` to its end with `input` on its stdin, or kills its process group when it takes
/// too long or `abort` is raised.
pub fn run(
    command: &mut Command,
    input: &[u8],
    limits: &Limits,
    abort: &AbortFlag,
) -> Result<Finished, RunError> {
    let program = command.get_program().to_string_lossy().into_owned();
    tie_to_parent(command);
    let stdin = if input.is_empty() {
        Stdio::null()
    } else {
        Stdio::piped()
    };
    command
        .stdin(stdin)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    // Listed under the same lock that `kill_running_groups` takes: none slips between.
    let running = {
        let mut groups = RUNNING.lock().unwrap_or_else(PoisonError::into_inner);
        let child = command.spawn().map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => RunError::NotFound {
                program: program.clone(),
            },
            _ => RunError::Spawn {
                program: program.clone(),
                source,
            },
        })?;
        let group = Pid::from_child(&child);
        groups.insert(group.as_raw_pid());
        guardian::tell('+', group.as_raw_pid());
        Running { child, group }
    };
    running.watch(&program, input, limits, abort)
}

/// A child that is on the list; dropping it kills its group and reaps it.
struct Running {
    child: Child,
    group: Pid,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill(Signal::KILL);
        self.strike_off();
        let _ = self.child.wait();
    }
}

impl Running {
    fn kill(&self, signal: Signal) {
        let _ = kill_process_group(self.group, signal);
    }

    /// Takes the group off the list, which must be before its leader is reaped.
    fn strike_off(&self) {
        let group = self.group.as_raw_pid();
        let mut groups = RUNNING.lock().unwrap_or_else(PoisonError::into_inner);
        if groups.remove(&group) {
            guardian::tell('-', group);
        }
    }

    /// Whether the leader has ended; it stays unreaped.
    fn has_ended(&self) -> io::Result<bool> {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        Ok(waitid(WaitId::Pid(self.group), options)?.is_some())
    }

    fn watch(
        mut self,
        program: &str,
        input: &[u8],
        limits: &Limits,
        abort: &AbortFlag,
    ) -> Result<Finished, RunError> {
        let watch = |source| RunError::Watch {
            program: program.to_owned(),
            source,
        };
        let mut pipes = Pipes::take(&mut self.child, limits.output_bytes).map_err(watch)?;
        let pidfd = rustix::process::pidfd_open(self.group, rustix::process::PidfdFlags::empty())
            .map_err(|e| watch(e.into()))?;
        let started = Instant::now();
        let mut input = input;
        let mut stopping: Option<(RunError, Instant)> = None;
        while !self.has_ended().map_err(watch)? {
            pipes.turn(&mut input, Some(&pidfd), STEP).map_err(watch)?;
            if let Some((_, since)) = &stopping {
                if since.elapsed() > TERM_GRACE {
                    self.kill(Signal::KILL);
                }
                continue;
            }
            let reason = if abort.is_raised() {
                RunError::Interrupted {
                    program: program.to_owned(),
                }
            } else if let Some(limit) = limits.timeout
                && started.elapsed() > limit
            {
                RunError::TimedOut {
                    program: program.to_owned(),
                    limit,
                    said: Vec::new(),
                }
            } else {
                continue;
            };
            self.kill(Signal::TERM);
            stopping = Some((reason, Instant::now()));
        }
        // What the leader left behind in its group would hold the pipes open.
        self.kill(Signal::KILL);
        let ended = Instant::now();
        while pipes.is_open() && ended.elapsed() < DRAIN_GRACE {
            pipes.turn(&mut &[][..], None, STEP).map_err(watch)?;
        }
        let (stdout, stderr) = (pipes.stdout.kept(), pipes.stderr.kept());
        if let Some((mut reason, _)) = stopping {
            if let RunError::TimedOut { said, .. } = &mut reason {
                *said = [stdout, stderr].concat();
            }
            return Err(reason);
        }
        self.strike_off();
        let status = self.child.wait().map_err(watch)?;
        Ok(Finished {
            status,
            truncated: pipes.stdout.truncated || pipes.stderr.truncated,
            stdout,
            stderr,
        })
    }
}

/// Our ends of a child's pipes, none of which blocks.
struct Pipes {
    stdin: Option<File>,
    stdout: Sink,
    stderr: Sink,
}

struct Sink {
    pipe: Option<File>,
    bytes: Vec<u8>,
    limit: usize,
    truncated: bool,
}

impl Sink {
    fn kept(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.bytes)
    }

    fn read_some(&mut self) -> io::Result<()> {
        let Some(pipe) = &mut self.pipe else {
            return Ok(());
        };
        let mut buffer = [0; 16 << 10];
        match pipe.read(&mut buffer) {
            Ok(0) => self.pipe = None,
            Ok(count) => {
                let room = self.limit - self.bytes.len();
                self.truncated |= count > room;
                self.bytes.extend_from_slice(&buffer[..count.min(room)]);
            }
            Err(e) if is_not_now(&e) => {}
            Err(e) => return Err(e),
        }
        Ok(())
    }
}

fn is_not_now(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
    )
}

impl Pipes {
    fn take(child: &mut Child, limit: usize) -> io::Result<Self> {
        let open = |fd: Option<OwnedFd>| -> io::Result<Option<File>> {
            fd.map(|fd| {
                rustix::io::ioctl_fionbio(&fd, true)?;
                Ok(File::from(fd))
            })
            .transpose()
        };
        let sink = |pipe| Sink {
            pipe,
            bytes: Vec::new(),
            limit,
            truncated: false,
        };
        Ok(Self {
            stdin: open(child.stdin.take().map(Into::into))?,
            stdout: sink(open(child.stdout.take().map(Into::into))?),
            stderr: sink(open(child.stderr.take().map(Into::into))?),
        })
    }

    fn is_open(&self) -> bool {
        self.stdout.pipe.is_some() || self.stderr.pipe.is_some()
    }

    /// Moves what can be moved, waiting at most `wait` for the first byte or the child's end.
    fn turn(
        &mut self,
        input: &mut &[u8],
        pidfd: Option<&OwnedFd>,
        wait: Duration,
    ) -> io::Result<()> {
        if input.is_empty() {
            self.stdin = None;
        }
        let mut fds = Vec::with_capacity(4);
        for (pipe, flags) in [
            (&self.stdin, PollFlags::OUT),
            (&self.stdout.pipe, PollFlags::IN),
            (&self.stderr.pipe, PollFlags::IN),
        ] {
            if let Some(pipe) = pipe {
                fds.push(PollFd::from_borrowed_fd(pipe.as_fd(), flags));
            }
        }
        if let Some(pidfd) = pidfd {
            fds.push(PollFd::new(pidfd, PollFlags::IN));
        }
        let wait = Timespec::try_from(wait).expect("a fraction of a second fits");
        match poll(&mut fds, Some(&wait)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
        drop(fds);
        if let Some(pipe) = &mut self.stdin {
            match pipe.write(input) {
                Ok(count) => *input = &input[count..],
                Err(e) if is_not_now(&e) => {}
                // The program does not want the rest: its own business.
                Err(e) if e.kind() == io::ErrorKind::BrokenPipe => self.stdin = None,
                Err(e) => return Err(e),
            }
        }
        self.stdout.read_some()?;
        self.stderr.read_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = command("/bin/sh");
        command.args(["-c", script]);
        command
    }

    fn limits(millis: u64) -> Limits {
        Limits {
            timeout: Some(Duration::from_millis(millis)),
            output_bytes: 1 << 20,
        }
    }

    #[test]
    fn output_input_and_status_come_through() {
        let input = vec![b'x'; 300_000];
        let done = run(
            &mut shell("cat; echo oops >&2; exit 7"),
            &input,
            &limits(10_000),
            &AbortFlag::new(),
        )
        .unwrap();
        assert_eq!(done.stdout, input);
        assert_eq!(done.stderr, b"oops\n");
        assert_eq!(done.code(), 7);
        assert!(!done.truncated);
    }

    #[test]
    fn output_beyond_the_limit_is_dropped_without_blocking_the_program() {
        let done = run(
            &mut shell("head -c 500000 /dev/zero; exit 3"),
            b"",
            &Limits {
                output_bytes: 1000,
                ..limits(10_000)
            },
            &AbortFlag::new(),
        )
        .unwrap();
        assert_eq!((done.stdout.len(), done.code()), (1000, 3));
        assert!(done.truncated);
    }

    #[test]
    fn a_signal_is_reported_as_a_shell_reports_it() {
        let done = run(
            &mut shell("kill -9 $$"),
            b"",
            &limits(10_000),
            &AbortFlag::new(),
        )
        .unwrap();
        assert_eq!(done.code(), 137);
    }

    #[test]
    fn a_timeout_kills_the_whole_group() {
        let directory = tempfile::tempdir().unwrap();
        let pid_file = directory.path().join("pid");
        let script = format!("sleep 600 & echo $! > {}; wait", pid_file.display());
        let error = run(&mut shell(&script), b"", &limits(300), &AbortFlag::new()).unwrap_err();
        assert!(matches!(error, RunError::TimedOut { .. }), "{error}");
        let pid: i32 = std::fs::read_to_string(&pid_file)
            .unwrap()
            .trim()
            .parse()
            .unwrap();
        assert_gone(pid);
    }

    #[test]
    fn a_child_left_in_the_background_neither_survives_nor_holds_us_up() {
        let started = Instant::now();
        let done = run(
            &mut shell("sleep 600 & echo $!"),
            b"",
            &limits(10_000),
            &AbortFlag::new(),
        )
        .unwrap();
        assert!(started.elapsed() < Duration::from_mins(1));
        let pid: i32 = String::from_utf8(done.stdout)
            .unwrap()
            .trim()
            .parse()
            .unwrap();
        assert_gone(pid);
    }

    #[test]
    fn a_program_deaf_to_sigterm_is_killed_after_the_grace() {
        let started = Instant::now();
        let error = run(
            &mut shell("trap '' TERM; while :; do sleep 1; done"),
            b"",
            &limits(200),
            &AbortFlag::new(),
        )
        .unwrap_err();
        assert!(matches!(error, RunError::TimedOut { .. }), "{error}");
        assert!(started.elapsed() >= TERM_GRACE);
    }

    #[test]
    fn the_abort_flag_stops_a_program() {
        let abort = AbortFlag::new();
        let flag = abort.clone();
        let raiser = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(100));
            flag.raise();
        });
        let error = run(&mut shell("sleep 600"), b"", &Limits::default(), &abort).unwrap_err();
        raiser.join().unwrap();
        assert!(matches!(error, RunError::Interrupted { .. }), "{error}");
    }

    #[test]
    fn a_missing_program_is_named() {
        let error = run(
            &mut command("/nonexistent/program"),
            b"",
            &Limits::default(),
            &AbortFlag::new(),
        )
        .unwrap_err();
        assert_eq!(error.to_string(), "/nonexistent/program: program not found");
    }

    /// Orphans are reaped by whoever is init here, which may take a moment.
    fn assert_gone(pid: i32) {
        let stat = format!("/proc/{pid}/stat");
        for _ in 0..100 {
            match std::fs::read_to_string(&stat) {
                Err(_) => return,
                Ok(text) if text.contains(") Z ") => return,
                Ok(_) => std::thread::sleep(Duration::from_millis(20)),
            }
        }
        panic!("process {pid} is still running");
    }
}
