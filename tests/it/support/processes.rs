//! What runs on a lab machine, seen from outside: its control group says which processes are its own,
//! so nothing has to be started in the machine to look, and a signal arrives at once.

use std::fs;
use std::path::{Path, PathBuf};

use rustix::process::{Pid, Signal};

use super::lab::{ATLAS, Lab};

/// One process of a machine.
#[derive(Debug, Clone)]
pub struct Process {
    pid: Pid,
    /// What is executed, as `/proc` names it (`... (deleted)` and all).
    pub exe: String,
    /// The kernel's short name.
    pub comm: String,
    /// The arguments.
    pub args: Vec<String>,
}

impl Process {
    fn read(pid: Pid) -> Option<Self> {
        let proc = PathBuf::from(format!("/proc/{}", pid.as_raw_nonzero()));
        let stat = fs::read_to_string(proc.join("stat")).ok()?;
        // A zombie runs no more; whoever started it has not looked yet.
        if stat
            .rsplit(')')
            .next()?
            .trim_start()
            .starts_with(['Z', 'X'])
        {
            return None;
        }
        let exe = fs::read_link(proc.join("exe")).ok()?;
        let comm = fs::read_to_string(proc.join("comm")).ok()?;
        let args = fs::read(proc.join("cmdline")).ok()?;
        let args = args.split(|b| *b == 0).filter(|a| !a.is_empty());
        Some(Self {
            pid,
            exe: exe.to_string_lossy().into_owned(),
            comm: comm.trim_end().to_owned(),
            args: args
                .map(|a| String::from_utf8_lossy(a).into_owned())
                .collect(),
        })
    }

    /// Whether it is the program itself: sudo, timeout and shells only have its name among their arguments.
    pub fn is_program(&self) -> bool {
        // A deployed agent is executed by its descriptor, from a file that has no name any more.
        let deployed = self
            .args
            .first()
            .is_some_and(|a| a.starts_with("/proc/self/fd/"));
        deployed || self.exe.contains("pc-switcher") || self.exe.contains("memfd:")
    }

    fn has(&self, argument: &str) -> bool {
        self.args.iter().any(|a| a == argument)
    }

    /// Sends a signal; `false` if it has gone.
    pub fn signal(&self, signal: Signal) -> bool {
        rustix::process::kill_process(self.pid, signal).is_ok()
    }
}

/// A part of a running sync.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// The command a person typed, on atlas.
    Cli,
    /// The agent on this machine.
    Agent(&'static str),
    /// What sshd runs for one login on this machine.
    Login(&'static str),
}

impl Part {
    /// The machine it runs on.
    pub fn host(self) -> &'static str {
        match self {
            Self::Cli => ATLAS,
            Self::Agent(host) | Self::Login(host) => host,
        }
    }

    fn is(self, process: &Process) -> bool {
        match self {
            Self::Cli => process.is_program() && process.has("sync"),
            Self::Agent(_) => process.is_program() && process.has("agent"),
            Self::Login(_) => {
                process.comm.starts_with("sshd")
                    && (process.args.first()).is_some_and(|a| a.starts_with("sshd: dev@"))
            }
        }
    }
}

/// Every process of a machine.
pub fn all(lab: &Lab, host: &str) -> Vec<Process> {
    // What booted it or brought somebody in is in its control group too, but outside its namespace.
    let namespace = |pid: String| fs::read_link(format!("/proc/{pid}/ns/pid")).ok();
    let own = lab.init(host).and_then(|init| namespace(init.to_string()));
    let is_own = |pid: &Pid| own.is_some() && namespace(pid.as_raw_nonzero().to_string()) == own;
    let mut found = Vec::new();
    let mut open = vec![lab.cgroup(host)];
    while let Some(group) = open.pop() {
        let pids = fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
        let pids = pids.lines().filter_map(|l| Pid::from_raw(l.parse().ok()?));
        found.extend(pids.filter(is_own).filter_map(Process::read));
        let below = fs::read_dir(&group).into_iter().flatten().flatten();
        open.extend(below.map(|e| e.path()).filter(|p| is_dir(p)));
    }
    found
}

fn is_dir(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|m| m.is_dir())
}

/// The processes that are this part of a sync, the oldest first: of agents and logins on the target
/// that is the one that everything but the disk monitor uses.
pub fn of(lab: &Lab, part: Part) -> Vec<Process> {
    let mut found = all(lab, part.host());
    found.retain(|p| part.is(p));
    found.sort_by_key(|p| p.pid.as_raw_nonzero());
    found
}

/// Sends a signal to every process that is this part of a sync; `false` if there is none.
pub fn signal(lab: &Lab, part: Part, signal: Signal) -> bool {
    of(lab, part)
        .iter()
        .fold(false, |any, p| p.signal(signal) | any)
}

/// Sends a signal to the program where it was started with `argument` on this machine; `false` if it
/// was not.
pub fn signal_on(lab: &Lab, host: &str, argument: &str, signal: Signal) -> bool {
    let mut found = all(lab, host);
    found.retain(|p| p.is_program() && p.has(argument));
    found.iter().fold(false, |any, p| p.signal(signal) | any)
}
