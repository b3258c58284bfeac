//! What this kernel can do, asked of it rather than read off its version.

use rustix::fs::{CWD, MemfdFlags, Mode, OFlags, ResolveFlags};
use rustix::process::PidfdFlags;

/// What we need and the kernel does not have, in words.
#[must_use]
pub fn lacks() -> Vec<&'static str> {
    let openat2 = rustix::fs::openat2(
        CWD,
        "/",
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
        ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS,
    );
    let memfd = rustix::fs::memfd_create(c"pc-switcher", MemfdFlags::CLOEXEC);
    let pidfd = rustix::process::pidfd_open(rustix::process::getpid(), PidfdFlags::empty());
    let mut missing = Vec::new();
    for (works, name) in [
        (openat2.is_ok(), "openat2(2), since Linux 5.6"),
        (memfd.is_ok(), "memfd_create(2), since Linux 3.17"),
        (pidfd.is_ok(), "pidfd_open(2), since Linux 5.3"),
    ] {
        if !works {
            missing.push(name);
        }
    }
    missing
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_kernel_that_runs_the_tests_has_everything() {
        assert_eq!(super::lacks(), [""; 0]);
    }
}
