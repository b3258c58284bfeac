//! The lock of a machine: one sync at a time, in either role.
//!
//! The lock is the kernel's (flock(2) on an open file), so a crash leaves nothing behind. The text
//! in the file only tells the loser who holds it, and is written *after* the lock was taken: text
//! without a lock is never believed. Between taking and writing, a loser could read the text of an
//! earlier holder; it therefore compares the text's process with the one the kernel names in
//! `/proc/locks`, and looks again for a moment if they differ.

use std::ffi::OsStr;
use std::fs::{File, TryLockError};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags, openat};

use super::LockHolder;
use crate::event::Host;
use crate::sys::trusted::{Directory, FileError};

/// Name of the lock file below the run directory.
const LOCK: &str = "lock";

/// A holder's text is never longer.
const MAX_TEXT: u64 = 64 << 10;

/// How long a loser waits for the winner to write its text.
const TEXT_WAIT: Duration = Duration::from_millis(500);

/// The taken lock; dropping it gives it back.
#[derive(Debug)]
pub struct MachineLock {
    file: File,
    holder: LockHolder,
}

/// What came of trying to take the lock.
#[derive(Debug)]
pub enum LockOutcome {
    /// It is ours.
    Taken(MachineLock),
    /// It is theirs.
    Held(LockHolder),
}

impl MachineLock {
    /// Tries to take the lock in `run_directory` for `holder`; does not wait for it.
    pub fn take(run_directory: &Directory, holder: LockHolder) -> Result<LockOutcome, FileError> {
        let path = run_directory.path().join(LOCK);
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mode = Mode::RUSR | Mode::WUSR;
        let mut file = openat(run_directory, LOCK, flags, mode)
            .map(File::from)
            .map_err(|e| FileError::io("open", &path, e))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Ok(LockOutcome::Held(read_holder(run_directory, &file)));
            }
            Err(TryLockError::Error(e)) => return Err(FileError::io("lock", &path, e)),
        }
        // Emptied first: half a text is then never the end of an older one.
        serde_json::to_vec(&holder)
            .map_err(std::io::Error::from)
            .and_then(|text| {
                file.set_len(0)?;
                file.rewind()?;
                file.write_all(&text)
            })
            .map_err(|e| FileError::io("write", &path, e))?;
        Ok(LockOutcome::Taken(Self { file, holder }))
    }

    /// What was written for others to read.
    #[must_use]
    pub fn holder(&self) -> &LockHolder {
        &self.holder
    }
}

impl Drop for MachineLock {
    fn drop(&mut self) {
        // Only for tidiness: nobody believes the text without the lock.
        let _ = self.file.set_len(0);
        // Closing does not do while a child that is just being started has the file as well (flock(2)).
        let _ = self.file.unlock();
    }
}

/// Who holds the lock in `run_directory`, without trying to take it: whoever does at this moment is
/// not in anybody's way.
pub fn holder(run_directory: &Directory) -> Result<Option<LockHolder>, FileError> {
    let path = run_directory.path().join(LOCK);
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = match openat(run_directory, LOCK, flags, Mode::empty()) {
        Ok(file) => File::from(file),
        Err(rustix::io::Errno::NOENT) => return Ok(None),
        Err(e) => return Err(FileError::io("open", &path, e)),
    };
    Ok(kernel_holder(&file).map(|_| read_holder(run_directory, &file)))
}

/// Who holds the lock we did not get.
fn read_holder(run_directory: &Directory, file: &File) -> LockHolder {
    let end = Instant::now() + TEXT_WAIT;
    loop {
        let text = read_text(run_directory);
        let pid = kernel_holder(file);
        match (&text, pid) {
            (Some(holder), Some(pid)) if holder.pid == pid => return holder.clone(),
            _ if Instant::now() < end => std::thread::sleep(Duration::from_millis(10)),
            // The kernel names no process, or one of another pid namespace: believe the text of
            // a process that lives.
            (Some(holder), None) if Path::new(&format!("/proc/{}", holder.pid)).exists() => {
                return holder.clone();
            }
            _ => {
                return LockHolder {
                    session: "unknown".to_owned(),
                    role: Host::Target,
                    from: "unknown".to_owned(),
                    pid: pid.unwrap_or(0),
                    since: jiff::Timestamp::now(),
                };
            }
        }
    }
}

fn read_text(run_directory: &Directory) -> Option<LockHolder> {
    let bytes = run_directory.read(OsStr::new(LOCK), MAX_TEXT).ok()??;
    serde_json::from_slice(&bytes).ok()
}

/// The process that holds a flock on this file, from `/proc/locks` (see proc(5)):
/// `1: FLOCK  ADVISORY  WRITE 708 fd:00:12345 0 EOF`.
fn kernel_holder(file: &File) -> Option<u32> {
    let meta = file.metadata().ok()?;
    let device = format!(
        "{:02x}:{:02x}:{}",
        rustix::fs::major(meta.dev()),
        rustix::fs::minor(meta.dev()),
        meta.ino()
    );
    let mut locks = String::new();
    File::open("/proc/locks")
        .ok()?
        .take(16 << 20)
        .read_to_string(&mut locks)
        .ok()?;
    find_flock(&locks, &device)
}

fn find_flock(locks: &str, device: &str) -> Option<u32> {
    locks.lines().find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        match fields[..] {
            [_, "FLOCK", _, _, pid, file, ..] if file == device => pid.parse().ok(),
            _ => None,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::command::command;
    use std::os::unix::process::CommandExt;
    use std::process::Stdio;

    fn holder(session: &str, pid: u32) -> LockHolder {
        LockHolder {
            session: session.to_owned(),
            role: Host::Source,
            from: "atlas".to_owned(),
            pid,
            since: "2026-01-01T00:00:00Z".parse().unwrap(),
        }
    }

    fn taken(outcome: LockOutcome) -> MachineLock {
        match outcome {
            LockOutcome::Taken(lock) => lock,
            LockOutcome::Held(holder) => panic!("held by {holder:?}"),
        }
    }

    fn held(outcome: LockOutcome) -> LockHolder {
        match outcome {
            LockOutcome::Taken(_) => panic!("taken"),
            LockOutcome::Held(holder) => holder,
        }
    }

    #[test]
    fn the_loser_is_told_who_holds_it_and_it_is_free_afterwards() {
        let temp = tempfile::tempdir().unwrap();
        let directory = Directory::open(temp.path()).unwrap();
        let first = holder("00000001", std::process::id());
        let second = holder("00000002", std::process::id());
        let take = |holder: &LockHolder| MachineLock::take(&directory, holder.clone()).unwrap();
        let lock = taken(take(&first));
        assert_eq!(held(take(&second)), first);
        assert_eq!(lock.holder(), &first);
        // A child that is about to be started has it for a moment, too.
        let _inherited = lock.file.try_clone().unwrap();
        drop(lock);
        assert_eq!(taken(take(&second)).holder(), &second);
    }

    #[test]
    fn text_without_a_lock_is_not_believed() {
        let temp = tempfile::tempdir().unwrap();
        let directory = Directory::open(temp.path()).unwrap();
        let stale = serde_json::to_vec(&holder("00000001", 1)).unwrap();
        std::fs::write(temp.path().join(LOCK), &stale).unwrap();
        let mine = holder("00000002", std::process::id());
        taken(MachineLock::take(&directory, mine).unwrap());
    }

    #[test]
    fn text_of_an_earlier_holder_is_not_taken_for_the_present_one() {
        let temp = tempfile::tempdir().unwrap();
        let directory = Directory::open(temp.path()).unwrap();
        let path = temp.path().join(LOCK);
        let stale = serde_json::to_vec(&holder("00000001", 1)).unwrap();
        std::fs::write(&path, &stale).unwrap();
        // Somebody who has taken the lock and has not written anything yet.
        let file = File::open(&path).unwrap();
        file.lock().unwrap();
        let mine = holder("00000002", std::process::id());
        let seen = held(MachineLock::take(&directory, mine).unwrap());
        assert_eq!(
            (seen.session.as_str(), seen.pid),
            ("unknown", std::process::id())
        );
    }

    #[test]
    fn a_killed_holder_leaves_the_lock_free() {
        let temp = tempfile::tempdir().unwrap();
        let directory = Directory::open(temp.path()).unwrap();
        let path = temp.path().join(LOCK);
        std::fs::write(&path, "").unwrap();
        let file = File::open(&path).unwrap();
        let mut child = command("/bin/sh")
            .args(["-c", "flock -x 0 && echo locked && exec sleep 600"])
            .stdin(Stdio::from(file))
            .stdout(Stdio::piped())
            .process_group(0)
            .spawn()
            .unwrap();
        let mut ready = [0; 7];
        child
            .stdout
            .as_mut()
            .unwrap()
            .read_exact(&mut ready)
            .unwrap();
        let mine = holder("00000002", std::process::id());
        held(MachineLock::take(&directory, mine.clone()).unwrap());
        child.kill().unwrap();
        child.wait().unwrap();
        taken(MachineLock::take(&directory, mine).unwrap());
    }

    #[test]
    fn the_kernels_list_is_read_by_device_and_inode() {
        let locks = "1: POSIX  ADVISORY  WRITE 11 fd:00:77 0 EOF\n\
                     2: FLOCK  ADVISORY  WRITE 22 fd:00:78 0 EOF\n\
                     2: -> FLOCK  ADVISORY  WRITE 33 fd:00:77 0 EOF\n\
                     3: FLOCK  ADVISORY  WRITE 44 fd:00:77 0 EOF\n";
        assert_eq!(find_flock(locks, "fd:00:77"), Some(44));
        assert_eq!(find_flock(locks, "fd:00:99"), None);
    }
}
