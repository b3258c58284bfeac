//! A stream from the kernel: the ioctl in a thread, its bytes through a pipe.
//!
//! The ioctl cannot be stopped while it looks through trees; it ends at its next write after
//! nobody reads any more. So whoever is asked to stop closes the pipe and waits for the thread only
//! a moment: it owns all it uses, and what it leaves behind is nothing.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::pipe::{PipeFlags, fcntl_setpipe_size, pipe_with};

use super::error::DiffError;
use super::stream::Source;
use crate::interrupt::AbortFlag;
use crate::sys::poll::wait_for;
use crate::sys::send::send_changes;

/// Room in the pipe: fewer turns between the two threads.
const PIPE_SIZE: usize = 1 << 20;
/// How often the abort flag is looked at.
const TICK: Duration = Duration::from_millis(50);
/// How long the thread may take to notice that nobody reads.
const PATIENCE: Duration = Duration::from_millis(300);

/// A stream being written by the kernel.
pub struct Feed {
    /// The end we read; closed first.
    pipe: Option<OwnedFd>,
    thread: Option<JoinHandle<io::Result<()>>>,
    abort: AbortFlag,
}

impl Feed {
    /// Starts the stream that leads from the subvolume with id `older` to `newer`.
    pub fn start(
        older: u64,
        newer: BorrowedFd<'_>,
        version: u32,
        abort: &AbortFlag,
    ) -> io::Result<Self> {
        let (read, write) = pipe_with(PipeFlags::CLOEXEC)?;
        // Unprivileged limits may not allow it; then it has the usual size.
        let _ = fcntl_setpipe_size(&read, PIPE_SIZE);
        let newer = newer.try_clone_to_owned()?;
        let thread = std::thread::Builder::new()
            .name("snapshot-diff".to_owned())
            .spawn(move || send_changes(newer.as_fd(), older, version, write.as_fd()))?;
        Ok(Self {
            pipe: Some(read),
            thread: Some(thread),
            abort: abort.clone(),
        })
    }

    /// After the last byte: what the ioctl says of it.
    pub fn finish(mut self) -> io::Result<()> {
        let thread = self.thread.take().expect("only this takes it");
        thread
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

impl Source for &mut Feed {
    fn fill(&mut self, buffer: &mut [u8]) -> Result<usize, DiffError> {
        let pipe = self.pipe.as_ref().expect("closed only at the end");
        loop {
            self.abort.check()?;
            if wait_for(pipe, true, false, TICK)? {
                match rustix::io::read(pipe, &mut *buffer) {
                    Err(rustix::io::Errno::INTR) => {}
                    Err(error) => return Err(DiffError::Io(error.into())),
                    Ok(read) => return Ok(read),
                }
            }
        }
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        drop(self.pipe.take());
        let Some(thread) = self.thread.take() else {
            return;
        };
        let end = Instant::now() + PATIENCE;
        while !thread.is_finished() && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}
