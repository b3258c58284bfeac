//! What a process does to itself: descriptors it was given, acting as a person, leaving at once.

#![allow(unsafe_code)]

use std::io;

/// Closes every descriptor but stdin, stdout and stderr.
///
/// For the first line of the agent's work, before this process has opened anything of its own:
/// whatever else held a descriptor would be left with a closed one.
pub(crate) fn close_inherited_descriptors() {
    // SAFETY: close_range(2) touches no memory. Nothing in this process owns the descriptors: the
    // only caller is `agent::server::serve`, which runs before anything is opened.
    unsafe {
        libc::syscall(libc::SYS_close_range, 3_u32, u32::MAX, 0_u32);
    }
}

/// Ends the process now, without unwinding, flushing or waiting for threads.
pub fn leave_at_once(status: u8) -> ! {
    // SAFETY: _exit(2) is always allowed; nothing after it runs.
    unsafe { libc::_exit(status.into()) }
}

/// Runs `work` with a person's rights on files: theirs are what it reads, writes and creates, and
/// what they may not touch it may not either. Root only.
///
/// The rights are those of one thread (setfsuid(2): the raw system calls change only the calling
/// thread), which ends with `work`; the process stays root. Changing the filesystem ids rather than
/// the real ones also keeps the person from sending that thread signals.
pub fn as_person<T: Send>(uid: u32, gid: u32, work: impl FnOnce() -> T + Send) -> io::Result<T> {
    std::thread::scope(|scope| {
        std::thread::Builder::new()
            .name("as-person".to_owned())
            .spawn_scoped(scope, || {
                become_person(uid, gid)?;
                Ok(work())
            })?
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

fn become_person(uid: u32, gid: u32) -> io::Result<()> {
    // SAFETY: none of these touches memory (setgroups with no groups reads none); each changes
    // only the calling thread's credentials.
    unsafe {
        if libc::syscall(
            libc::SYS_setgroups,
            0_usize,
            std::ptr::null::<libc::gid_t>(),
        ) != 0
        {
            return Err(io::Error::last_os_error());
        }
        libc::syscall(libc::SYS_setfsgid, gid);
        libc::syscall(libc::SYS_setfsuid, uid);
        // They do not report failure, only the id before; asking for an invalid one changes nothing.
        let group_now = libc::syscall(libc::SYS_setfsgid, u32::MAX);
        let user_now = libc::syscall(libc::SYS_setfsuid, u32::MAX);
        if group_now != libc::c_long::from(gid) || user_now != libc::c_long::from(uid) {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    #[test]
    fn a_person_has_only_their_own_rights_and_the_process_keeps_root() {
        if !crate::sys::testing::is_root("a_person_has_only_their_own_rights") {
            return;
        }
        let temp = tempfile::tempdir().unwrap();
        std::fs::set_permissions(temp.path(), PermissionsExt::from_mode(0o777)).unwrap();
        let secret = temp.path().join("secret");
        std::fs::write(&secret, "root's").unwrap();
        std::fs::set_permissions(&secret, PermissionsExt::from_mode(0o600)).unwrap();
        let theirs = temp.path().join("theirs");
        let refused = as_person(12345, 54321, || {
            std::fs::write(&theirs, "x").unwrap();
            std::fs::read(&secret).map_err(|e| e.kind())
        })
        .unwrap();
        assert_eq!(refused, Err(io::ErrorKind::PermissionDenied));
        let meta = std::fs::metadata(&theirs).unwrap();
        assert_eq!((meta.uid(), meta.gid()), (12345, 54321));
        assert_eq!(std::fs::read(&secret).unwrap(), b"root's");
    }
}
