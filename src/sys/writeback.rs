//! Writing to the disk that begins before somebody waits for it.

#![allow(unsafe_code)]

use std::os::fd::{AsRawFd, BorrowedFd};

/// Lets the kernel begin to write `length` bytes at `offset` of `file` to the disk; it says nothing of what
/// arrives there, and makes nothing durable. Where it cannot be asked, everything is written later.
///
/// `SYNC_FILE_RANGE_WRITE`, see `sync_file_range(2)`.
pub fn begin(file: BorrowedFd<'_>, offset: u64, length: u64) {
    let (Ok(offset), Ok(length)) = (i64::try_from(offset), i64::try_from(length)) else {
        return;
    };
    // SAFETY: it takes a descriptor that is open while it is borrowed, and no pointer.
    unsafe {
        libc::sync_file_range(
            file.as_raw_fd(),
            offset,
            length,
            libc::SYNC_FILE_RANGE_WRITE,
        );
    }
}
