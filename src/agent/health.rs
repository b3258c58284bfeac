//! How a machine is doing, beyond what is asked for each sync: who works on it, who holds its lock,
//! what `/run` can take, what the kernel cannot do. Looks only.
//!
//! Who is logged in is read where `loginctl` has it from: the files logind (or elogind) keeps in
//! `/run/systemd/sessions` (sd-login(3)). They are root's; a line that is not understood is passed
//! over.

use std::fs::File;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, StatVfsMountFlags, openat};
use serde::{Deserialize, Serialize};

use super::fault::Fault;
use super::person::find_person;
use super::places::Places;
use crate::record::{LockHolder, lock};
use crate::sys::trusted::Directory;
use crate::sys::{kernel, mounts};

/// Larger than any session's file.
const MAX_SESSION_FILE: u64 = 64 << 10;

/// More sessions than this are not looked at.
const MAX_SESSIONS: usize = 1024;

/// A machine as it is at this moment.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// Who holds the machine's lock.
    pub lock: Option<LockHolder>,
    /// Who is logged in, other than the agent itself; `None` if nobody keeps account of it.
    pub logins: Option<Vec<Login>>,
    /// `/run`, where agents start.
    pub run: RunFacts,
    /// What the kernel would have to be able to do, and cannot.
    pub kernel_lacks: Vec<String>,
}

/// A person's session on a machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Login {
    /// The login name.
    pub user: String,
    /// Their home, if it is known.
    pub home: Option<PathBuf>,
    /// Whether it is a desktop rather than a terminal.
    pub is_graphical: bool,
    /// Where: a seat, a terminal, or the host it came from.
    pub place: String,
}

/// What `/run` can take.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunFacts {
    /// The file system's type.
    pub fs_type: String,
    /// Whether programs cannot be started from it.
    pub is_noexec: bool,
    /// Bytes left.
    pub free_bytes: u64,
}

/// Looks at the machine.
pub fn health(places: &Places) -> Result<Health, Fault> {
    Ok(Health {
        lock: holder(&places.run)?,
        logins: logins(places),
        run: run_facts(&places.run)?,
        kernel_lacks: (kernel::lacks().into_iter()).map(str::to_owned).collect(),
    })
}

fn holder(run: &Path) -> Result<Option<LockHolder>, Fault> {
    match Directory::open(run) {
        Ok(directory) => Ok(lock::holder(&directory)?),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Our own directory may not be there yet: the one above it is where it will be.
fn run_facts(run: &Path) -> Result<RunFacts, Fault> {
    let above = run.parent().unwrap_or(Path::new("/"));
    let path = if run.exists() { run } else { above };
    let fail =
        |e: std::io::Error| Fault::of_io(format!("cannot examine {}: {e}", path.display()), &e);
    let file = openat(CWD, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
        .map_err(|e| fail(e.into()))?;
    let stat = rustix::fs::fstatvfs(&file).map_err(|e| fail(e.into()))?;
    let id = mounts::mount_id(&file).map_err(fail)?;
    let mounts = mounts::mounts().map_err(|e| Fault::of_io("cannot read the mount table", &e))?;
    let mount = mounts.into_iter().find(|mount| mount.id == id);
    Ok(RunFacts {
        fs_type: mount.map(|mount| mount.fs_type).unwrap_or_default(),
        is_noexec: stat.f_flag.contains(StatVfsMountFlags::NOEXEC),
        free_bytes: stat.f_bavail.saturating_mul(stat.f_frsize),
    })
}

/// Sessions of people, without the one this process belongs to.
fn logins(places: &Places) -> Option<Vec<Login>> {
    let entries = std::fs::read_dir(&places.sessions).ok()?;
    let own = own_session();
    let mut found = Vec::new();
    for entry in entries.flatten().take(MAX_SESSIONS) {
        let name = entry.file_name();
        // `5.ref` beside `5` is a pipe that ends with the session.
        if name.as_bytes().contains(&b'.') || own.as_deref() == name.to_str() {
            continue;
        }
        let Some(session) = read(&entry.path()).and_then(|text| Session::parse(&text)) else {
            continue;
        };
        let home = find_person(&places.passwd, session.uid).ok();
        found.push(Login {
            user: session.user,
            home: home.map(|person| person.home),
            is_graphical: session.is_graphical,
            place: session.place,
        });
    }
    found.sort_by(|a, b| (&a.user, &a.place).cmp(&(&b.user, &b.place)));
    Some(found)
}

fn read(path: &Path) -> Option<String> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = File::from(openat(CWD, path, flags, Mode::empty()).ok()?);
    if !file.metadata().ok()?.is_file() {
        return None;
    }
    let mut bytes = Vec::new();
    file.take(MAX_SESSION_FILE).read_to_end(&mut bytes).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

/// The session this process was started in: `.../session-5.scope` in its control group.
fn own_session() -> Option<String> {
    let groups = std::fs::read_to_string("/proc/self/cgroup").ok()?;
    session_of(&groups)
}

fn session_of(groups: &str) -> Option<String> {
    let mut parts = groups.lines().flat_map(|line| line.split('/'));
    parts.find_map(|part| {
        let id = part.strip_prefix("session-")?.strip_suffix(".scope")?;
        Some(id.to_owned())
    })
}

/// What a session's file says.
#[derive(Debug, PartialEq, Eq)]
struct Session {
    user: String,
    uid: u32,
    is_graphical: bool,
    place: String,
}

impl Session {
    /// `None` for what is no person's session, or one that is at its end.
    fn parse(text: &str) -> Option<Self> {
        let value = |key: &str| {
            let line = text
                .lines()
                .find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
            line.filter(|value| !value.is_empty())
        };
        // `user`, and the kinds of it that newer versions tell apart; not `greeter`, `manager` ...
        if !value("CLASS")?.starts_with("user") || value("STATE") == Some("closing") {
            return None;
        }
        let place = ["SEAT", "REMOTE_HOST", "TTY"].into_iter().find_map(value);
        Some(Self {
            user: value("USER")?.to_owned(),
            uid: value("UID")?.parse().ok()?,
            is_graphical: matches!(value("TYPE"), Some("x11" | "wayland" | "mir" | "web")),
            place: place.or(value("SERVICE")).unwrap_or_default().to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Host;
    use crate::record::lock::{LockOutcome, MachineLock};

    fn places() -> (tempfile::TempDir, Places) {
        let root = tempfile::tempdir().unwrap();
        for directory in ["run", "etc", "run/systemd/sessions"] {
            std::fs::create_dir_all(root.path().join(directory)).unwrap();
        }
        let passwd = "anna:x:1000:1000::/home/anna:/bin/sh\n";
        std::fs::write(root.path().join("etc/passwd"), passwd).unwrap();
        let places = Places::below(root.path());
        (root, places)
    }

    #[test]
    fn desktops_and_terminals_of_people_are_told_apart_and_the_rest_is_no_login() {
        let (_root, places) = places();
        let session = |name: &str, text: &str| {
            std::fs::write(places.sessions.join(name), text).unwrap();
        };
        let wayland = "# This is private data. Do not parse.\nUID=1000\nUSER=anna\nACTIVE=1\n\
             STATE=active\nREMOTE=0\nTYPE=wayland\nCLASS=user\nSEAT=seat0\nTTY=tty2\nSERVICE=gdm\n";
        session("2", wayland);
        session("c1", &wayland.replace("CLASS=user", "CLASS=greeter"));
        session("4", &wayland.replace("STATE=active", "STATE=closing"));
        session(
            "7",
            "UID=1000\nUSER=anna\nSTATE=active\nTYPE=tty\nCLASS=user\nREMOTE_HOST=192.0.2.1\n",
        );
        session("8", "UID=nonsense\nUSER=x\nCLASS=user\n");
        session("9", "\0\0\0");
        session("2.ref", wayland);
        std::os::unix::fs::symlink("2", places.sessions.join("10")).unwrap();
        let login = |is_graphical, place: &str| Login {
            user: "anna".into(),
            home: Some("/home/anna".into()),
            is_graphical,
            place: place.into(),
        };
        assert_eq!(
            logins(&places),
            Some(vec![login(false, "192.0.2.1"), login(true, "seat0")])
        );
    }

    #[test]
    fn the_agents_own_session_is_found_in_its_control_group() {
        for (groups, id) in [
            (
                "0::/user.slice/user-1000.slice/session-5.scope\n",
                Some("5"),
            ),
            (
                "0::/user.slice/user-0.slice/session-c12.scope/x\n",
                Some("c12"),
            ),
            ("0::/system.slice/ssh.service\n", None),
            ("", None),
        ] {
            assert_eq!(session_of(groups).as_deref(), id, "{groups}");
        }
    }

    #[test]
    fn the_holder_of_the_lock_is_named_and_looking_takes_nothing() {
        let (_root, places) = places();
        let seen = || health(&places).unwrap();
        assert_eq!(seen().lock, None);
        assert!(!places.run.exists(), "looking makes nothing");
        std::fs::create_dir(&places.run).unwrap();
        let mine = LockHolder {
            session: "0badcafe".into(),
            role: Host::Target,
            from: "rigel".into(),
            pid: std::process::id(),
            since: jiff::Timestamp::UNIX_EPOCH,
        };
        let directory = Directory::open(&places.run).unwrap();
        let taken = MachineLock::take(&directory, mine.clone()).unwrap();
        assert_eq!(seen().lock, Some(mine));
        assert!(matches!(taken, LockOutcome::Taken(_)));
        drop(taken);
        assert_eq!(seen().lock, None);
    }

    #[test]
    fn the_run_directory_and_the_kernel_are_looked_at() {
        let (_root, places) = places();
        let health = health(&places).unwrap();
        assert!(!health.run.fs_type.is_empty() && health.run.free_bytes > 0);
        assert_eq!(health.kernel_lacks, [""; 0]);
        assert_eq!(health.logins, Some(Vec::new()));
    }
}
