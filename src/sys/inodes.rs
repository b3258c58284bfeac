//! Reading many inodes of a btrfs subvolume at once: `BTRFS_IOC_TREE_SEARCH_V2` over its tree.
//!
//! Where `stat`, `ioctl` and `listxattr` cost several system calls a file, one search returns the
//! inode items and extended attributes of a whole directory. The tree holds what was committed or
//! flushed: on a live subvolume call `syncfs` first. Needs `CAP_SYS_ADMIN`.
//!
//! Layouts are those of `linux/btrfs.h` and `linux/btrfs_tree.h`; on-disk numbers are little-endian.

#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Room for items: a leaf is at most 64 KiB.
const BUFFER: usize = 128 << 10;
const INODE_ITEM: u32 = 1;
const XATTR_ITEM: u32 = 24;
/// `_IOWR(0x94, 17, struct btrfs_ioctl_search_args_v2)`; the structure's fixed part has 112 bytes.
const TREE_SEARCH_V2: u64 = (3 << 30) | (112 << 16) | (0x94 << 8) | 0x11;

/// `struct btrfs_ioctl_search_args_v2` with a buffer of ours.
#[repr(C)]
struct Args {
    tree_id: u64,
    min_objectid: u64,
    max_objectid: u64,
    min_offset: u64,
    max_offset: u64,
    min_transid: u64,
    max_transid: u64,
    min_type: u32,
    max_type: u32,
    nr_items: u32,
    unused: u32,
    unused_more: [u64; 4],
    buf_size: u64,
    buf: [u8; BUFFER],
}

const _: () = assert!(size_of::<Args>() == 112 + BUFFER);

/// What an inode item says (`struct btrfs_inode_item`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InodeItem {
    /// Size in bytes.
    pub size: u64,
    /// Bytes on disk.
    pub allocated: u64,
    /// Number of names.
    pub nlink: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Type and permissions, as in `st_mode`.
    pub mode: u32,
    /// Device number in the kernel's internal form, as `major << 20 | minor`.
    pub rdev: u64,
    /// Flags as `chattr` knows them (`FS_*_FL`).
    pub flags: u32,
    /// Change time, seconds and nanoseconds.
    pub ctime: (i64, u32),
    /// Modification time, seconds.
    pub mtime_secs: i64,
    /// Modification time, nanoseconds.
    pub mtime_nanos: u32,
}

/// One thing found about an inode.
#[derive(Debug)]
pub enum Found<'a> {
    /// The inode itself.
    Inode(InodeItem),
    /// An extended attribute: name, value.
    Xattr(&'a [u8], &'a [u8]),
}

/// Searches a subvolume's tree; keeps its buffer.
pub struct InodeReader {
    args: Box<Args>,
}

impl Default for InodeReader {
    fn default() -> Self {
        Self::new()
    }
}

impl InodeReader {
    /// A reader.
    #[must_use]
    pub fn new() -> Self {
        // SAFETY: `Args` is made of integers, for which zero is a value. Made in place, because a
        // thread's stack is no place for the buffer.
        let args = unsafe { Box::<Args>::new_zeroed().assume_init() };
        Self { args }
    }

    /// Calls `visit` with what the tree of `fd`'s subvolume holds about the inodes `first..=last`.
    pub fn read(
        &mut self,
        fd: BorrowedFd<'_>,
        first: u64,
        last: u64,
        mut visit: impl FnMut(u64, Found<'_>),
    ) -> io::Result<()> {
        let args = &mut *self.args;
        let mut next = (first, 0u32, 0u64);
        while next.0 <= last {
            // Tree 0 means the one that holds the inode of the descriptor.
            args.tree_id = 0;
            (args.min_objectid, args.min_type, args.min_offset) = next;
            (args.max_objectid, args.max_type, args.max_offset) = (last, XATTR_ITEM, u64::MAX);
            (args.min_transid, args.max_transid) = (0, u64::MAX);
            args.nr_items = u32::MAX;
            args.buf_size = BUFFER as u64;
            // SAFETY: `args` is the ioctl's structure with `buf_size` bytes behind it, alive and
            // exclusively ours during the call; any bytes are valid for its integers.
            let result = unsafe {
                libc::ioctl(
                    fd.as_raw_fd(),
                    TREE_SEARCH_V2 as _,
                    std::ptr::from_mut(args),
                )
            };
            if result < 0 {
                return Err(io::Error::last_os_error());
            }
            if args.nr_items == 0 {
                return Ok(());
            }
            let mut rest = &args.buf[..];
            let mut seen = next;
            for _ in 0..args.nr_items {
                let (key, data, after) = split_item(rest).ok_or_else(malformed)?;
                rest = after;
                seen = key;
                match key.1 {
                    INODE_ITEM => {
                        let item = parse_inode(data).ok_or_else(malformed)?;
                        visit(key.0, Found::Inode(item));
                    }
                    XATTR_ITEM => {
                        let mut entries = data;
                        while !entries.is_empty() {
                            let (name, value, after) =
                                parse_xattr(entries).ok_or_else(malformed)?;
                            visit(key.0, Found::Xattr(name, value));
                            entries = after;
                        }
                    }
                    _ => {}
                }
            }
            // What follows an inode's attributes (a directory's entries, a file's extents) is of no
            // interest and may be long: go on with the next inode.
            next = if seen.1 > XATTR_ITEM || seen.2 == u64::MAX {
                (seen.0 + 1, 0, 0)
            } else {
                (seen.0, seen.1, seen.2 + 1)
            };
        }
        Ok(())
    }
}

fn malformed() -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        "the btrfs tree search returned malformed items",
    )
}

type Key = (u64, u32, u64);

/// `struct btrfs_ioctl_search_header` and its data.
fn split_item(buffer: &[u8]) -> Option<(Key, &[u8], &[u8])> {
    let (head, after) = buffer.split_at_checked(32)?;
    let objectid = u64::from_ne_bytes(head[8..16].try_into().ok()?);
    let offset = u64::from_ne_bytes(head[16..24].try_into().ok()?);
    let kind = u32::from_ne_bytes(head[24..28].try_into().ok()?);
    let length = u32::from_ne_bytes(head[28..32].try_into().ok()?);
    let (data, rest) = after.split_at_checked(length as usize)?;
    Some(((objectid, kind, offset), data, rest))
}

/// `struct btrfs_inode_item`.
fn parse_inode(data: &[u8]) -> Option<InodeItem> {
    let u64_at = |at: usize| Some(u64::from_le_bytes(data.get(at..at + 8)?.try_into().ok()?));
    let u32_at = |at: usize| Some(u32::from_le_bytes(data.get(at..at + 4)?.try_into().ok()?));
    Some(InodeItem {
        size: u64_at(16)?,
        allocated: u64_at(24)?,
        nlink: u32_at(40)?,
        uid: u32_at(44)?,
        gid: u32_at(48)?,
        mode: u32_at(52)?,
        rdev: u64_at(56)?,
        flags: chattr_flags(u64_at(64)?),
        ctime: (u64_at(124)?.cast_signed(), u32_at(132)?),
        mtime_secs: u64_at(136)?.cast_signed(),
        mtime_nanos: u32_at(144)?,
    })
}

/// `BTRFS_INODE_*` as `FS_*_FL` (`btrfs_inode_flags_to_fsflags`).
fn chattr_flags(flags: u64) -> u32 {
    const NODATACOW: u64 = 1 << 1;
    const NOCOMPRESS: u64 = 1 << 3;
    const SYNC: u64 = 1 << 5;
    const IMMUTABLE: u64 = 1 << 6;
    const APPEND: u64 = 1 << 7;
    const NODUMP: u64 = 1 << 8;
    const NOATIME: u64 = 1 << 9;
    const DIRSYNC: u64 = 1 << 10;
    const COMPRESS: u64 = 1 << 11;
    let pairs = [
        (SYNC, 0x8),
        (IMMUTABLE, 0x10),
        (APPEND, 0x20),
        (NODUMP, 0x40),
        (NOATIME, 0x80),
        (DIRSYNC, 0x1_0000),
        (NODATACOW, 0x80_0000),
    ];
    let mut result = 0;
    for (bit, flag) in pairs {
        if flags & bit != 0 {
            result |= flag;
        }
    }
    if flags & NOCOMPRESS != 0 {
        result |= 0x400;
    } else if flags & COMPRESS != 0 {
        result |= 0x4;
    }
    result
}

/// `struct btrfs_dir_item` of an attribute: name, value, what follows.
fn parse_xattr(data: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let value_length = u16::from_le_bytes(data.get(25..27)?.try_into().ok()?);
    let name_length = u16::from_le_bytes(data.get(27..29)?.try_into().ok()?);
    let (name, rest) = data.get(30..)?.split_at_checked(usize::from(name_length))?;
    let (value, rest) = rest.split_at_checked(usize::from(value_length))?;
    Some((name, value, rest))
}
