//! The kernel's own account of what changed between two snapshots: `BTRFS_IOC_SEND`.
//!
//! Numbers and layouts are those of `linux/btrfs.h`. Needs `CAP_SYS_ADMIN`.

#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// `BTRFS_SEND_FLAG_NO_FILE_DATA`: changed ranges are named, not sent.
const NO_FILE_DATA: u64 = 0x1;
/// `BTRFS_SEND_FLAG_VERSION`: `version` says which format is wanted; without it the first.
const VERSION: u64 = 0x8;
/// `_IOW(0x94, 38, struct btrfs_ioctl_send_args)`.
const IOC_SEND: u64 = (1 << 30) | ((size_of::<SendArgs>() as u64) << 16) | (0x94 << 8) | 0x26;

/// `struct btrfs_ioctl_send_args`.
#[repr(C)]
struct SendArgs {
    send_fd: i64,
    clone_sources_count: u64,
    /// A pointer, as a number: we never give clone sources.
    clone_sources: u64,
    parent_root: u64,
    flags: u64,
    version: u32,
    reserved: [u8; 28],
}

const _: () = assert!(size_of::<SendArgs>() == 72 && size_of::<*const u64>() == 8);

/// Writes into `into` what makes the read-only subvolume with id `older` into the read-only
/// subvolume `newer` is in, as a send stream without file data in the format `version`. Returns when
/// all is written; with [`io::ErrorKind::BrokenPipe`] when nobody reads any more.
pub fn send_changes(
    newer: BorrowedFd<'_>,
    older: u64,
    version: u32,
    into: BorrowedFd<'_>,
) -> io::Result<()> {
    let mut args = SendArgs {
        send_fd: into.as_raw_fd().into(),
        clone_sources_count: 0,
        clone_sources: 0,
        parent_root: older,
        flags: NO_FILE_DATA | if version > 1 { VERSION } else { 0 },
        version: if version > 1 { version } else { 0 },
        reserved: [0; 28],
    };
    // SAFETY: this is the ioctl's structure, alive during the call; it names no memory of ours, as
    // there are no clone sources, and the descriptor in it is open.
    let result = unsafe {
        libc::ioctl(
            newer.as_raw_fd(),
            IOC_SEND as _,
            std::ptr::from_mut(&mut args),
        )
    };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}
