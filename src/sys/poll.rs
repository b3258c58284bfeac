//! Waiting for file descriptors, and waking a thread that waits for them.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering, fence};
use std::time::Duration;

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::io::Errno;

/// Waits at most `limit` until one of `fds` is ready; true if one is. A signal ends the wait early.
pub fn wait_any(fds: &mut [PollFd<'_>], limit: Duration) -> io::Result<bool> {
    let limit = Timespec::try_from(limit).unwrap_or(Timespec {
        tv_sec: 3600,
        tv_nsec: 0,
    });
    match poll(fds, Some(&limit)) {
        Ok(ready) => Ok(ready > 0),
        Err(Errno::INTR) => Ok(false),
        Err(e) => Err(e.into()),
    }
}

/// Waits at most `limit` until `fd` can be read, or (with `write`) written.
pub fn wait_for(fd: impl AsFd, read: bool, write: bool, limit: Duration) -> io::Result<bool> {
    let fd = fd.as_fd();
    wait_any(
        &mut [PollFd::from_borrowed_fd(fd, interest(read, write))],
        limit,
    )
}

/// The poll flags for reading and writing.
#[must_use]
pub fn interest(read: bool, write: bool) -> PollFlags {
    let mut flags = PollFlags::empty();
    flags.set(PollFlags::IN, read);
    flags.set(PollFlags::OUT, write);
    flags
}

/// Wakes the one thread that polls [`fd`](Self::fd) together with its own descriptors.
///
/// The sleeper calls [`about_to_sleep`](Self::about_to_sleep), then looks at its queue once more,
/// then polls. Whoever fills the queue calls [`wake`](Self::wake) afterwards. Because both orders
/// are sequentially consistent, either the sleeper sees the entry or the waker sees it asleep;
/// a thread that is awake costs its feeders no system call.
#[derive(Debug)]
pub struct Waker {
    event: OwnedFd,
    asleep: AtomicBool,
}

impl Waker {
    /// A waker nobody has used yet.
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            event: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
            asleep: AtomicBool::new(false),
        })
    }

    /// What the sleeper polls for reading.
    #[must_use]
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }

    /// Wakes the sleeper if it sleeps.
    pub fn wake(&self) {
        fence(Ordering::SeqCst);
        if self.asleep.swap(false, Ordering::SeqCst) {
            // A full counter means it has been woken already.
            let _ = rustix::io::write(&self.event, &1_u64.to_ne_bytes());
        }
    }

    /// From here on [`wake`](Self::wake) makes [`fd`](Self::fd) readable.
    pub fn about_to_sleep(&self) {
        self.asleep.store(true, Ordering::SeqCst);
        fence(Ordering::SeqCst);
    }

    /// The sleeper is awake again; `rung` says whether [`fd`](Self::fd) was readable.
    pub fn is_awake(&self, rung: bool) {
        let called = !self.asleep.swap(false, Ordering::SeqCst);
        if rung || called {
            let mut counter = [0; 8];
            let _ = rustix::io::read(&self.event, &mut counter);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_waker_rings_only_for_a_sleeper() {
        let waker = Waker::new().unwrap();
        waker.wake();
        assert!(!wait_for(waker.fd(), true, false, Duration::ZERO).unwrap());
        waker.about_to_sleep();
        waker.wake();
        assert!(wait_for(waker.fd(), true, false, Duration::ZERO).unwrap());
        waker.is_awake(true);
        assert!(!wait_for(waker.fd(), true, false, Duration::ZERO).unwrap());
    }
}
