//! Reading a btrfs tree item by item: `BTRFS_IOC_TREE_SEARCH_V2`.
//!
//! The tree holds what was committed or flushed: on a live subvolume call `syncfs` first; a
//! read-only snapshot is always whole. Needs `CAP_SYS_ADMIN`.
//!
//! Layouts are those of `linux/btrfs.h` and `linux/btrfs_tree.h`: what the ioctl adds is in the
//! machine's byte order, what lies on disk is little-endian.

#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Room for items: several times the largest leaf, so that most searches end with one call.
const BUFFER: usize = 256 << 10;
/// The largest an item can be with its header: a leaf has at most 64 KiB.
const ITEM_MAX: usize = (64 << 10) + ITEM_HEAD;
/// Size of `struct btrfs_ioctl_search_header`.
const ITEM_HEAD: usize = 32;
/// Size of `struct btrfs_ioctl_search_args_v2` without its flexible array.
const HEAD: usize = 112;
/// `_IOWR(0x94, 17, struct btrfs_ioctl_search_args_v2)`.
const TREE_SEARCH_V2: u64 = (3 << 30) | ((HEAD as u64) << 16) | (0x94 << 8) | 0x11;

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

const _: () = assert!(size_of::<Args>() == HEAD + BUFFER);

/// The tree that holds the inode of the descriptor.
pub const OWN_TREE: u64 = 0;
/// The lowest number an inode can have (`BTRFS_FIRST_FREE_OBJECTID`).
pub const FIRST_FREE: u64 = 256;
/// The highest (`BTRFS_LAST_FREE_OBJECTID`).
pub const LAST_FREE: u64 = u64::MAX - 255;

/// The key of an item; items are ordered by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    /// What the item belongs to: an inode number, a subvolume's id.
    pub objectid: u64,
    /// What it says about it (`BTRFS_*_KEY`).
    pub kind: u8,
    /// Which of several: its meaning depends on the kind.
    pub offset: u64,
}

impl Key {
    /// A key.
    #[must_use]
    pub fn new(objectid: u64, kind: u8, offset: u64) -> Self {
        Self {
            objectid,
            kind,
            offset,
        }
    }

    /// The first key after this one, if there can be one.
    fn next(self) -> Option<Self> {
        if let Some(offset) = self.offset.checked_add(1) {
            return Some(Self { offset, ..self });
        }
        if let Some(kind) = self.kind.checked_add(1) {
            return Some(Self::new(self.objectid, kind, 0));
        }
        Some(Self::new(self.objectid.checked_add(1)?, 0, 0))
    }
}

/// Where to go on after an item.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// With the next item.
    Next,
    /// With the first item from this key on.
    To(Key),
    /// Nowhere: what was looked for is found.
    Stop,
}

/// Searches trees; keeps its buffer.
pub struct Searcher {
    args: Box<Args>,
}

impl Default for Searcher {
    fn default() -> Self {
        Self::new()
    }
}

impl Searcher {
    /// A searcher.
    #[must_use]
    pub fn new() -> Self {
        // SAFETY: `Args` is made of integers, for which zero is a value. Made in place, because a
        // thread's stack is no place for the buffer.
        let args = unsafe { Box::<Args>::new_zeroed().assume_init() };
        Self { args }
    }

    /// Calls `visit` with the items from `first` to `last` of `tree` on `fd`'s filesystem, in
    /// order. With `since`, leaves that were not written in that generation or later are passed
    /// over; those that were are given whole, so older items may be among them.
    pub fn read(
        &mut self,
        fd: BorrowedFd<'_>,
        tree: u64,
        (first, last): (Key, Key),
        since: u64,
        mut visit: impl FnMut(Key, &[u8]) -> io::Result<Step>,
    ) -> io::Result<()> {
        let args = &mut *self.args;
        let mut next = first;
        while next <= last {
            args.tree_id = tree;
            (args.min_objectid, args.min_offset) = (next.objectid, next.offset);
            (args.max_objectid, args.max_offset) = (last.objectid, last.offset);
            (args.min_type, args.max_type) = (u32::from(next.kind), u32::from(last.kind));
            (args.min_transid, args.max_transid) = (since, u64::MAX);
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
                (rest, seen) = (after, key);
                if key < next {
                    continue;
                }
                match visit(key, data)? {
                    Step::Next => {}
                    Step::To(key) => next = key,
                    Step::Stop => return Ok(()),
                }
            }
            // The kernel stops early only when an item does not fit.
            if rest.len() >= ITEM_MAX {
                return Ok(());
            }
            match seen.next() {
                Some(after) => next = next.max(after),
                None => return Ok(()),
            }
        }
        Ok(())
    }
}

/// What to say of items that cannot be.
#[must_use]
pub fn malformed() -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        "the btrfs tree search returned malformed items",
    )
}

/// `struct btrfs_ioctl_search_header` and its data, and what follows.
fn split_item(buffer: &[u8]) -> Option<(Key, &[u8], &[u8])> {
    let (head, after) = buffer.split_at_checked(ITEM_HEAD)?;
    let objectid = u64::from_ne_bytes(head[8..16].try_into().ok()?);
    let offset = u64::from_ne_bytes(head[16..24].try_into().ok()?);
    let kind = u32::from_ne_bytes(head[24..28].try_into().ok()?);
    let length = u32::from_ne_bytes(head[28..32].try_into().ok()?);
    let (data, rest) = after.split_at_checked(length as usize)?;
    let key = Key::new(objectid, u8::try_from(kind).ok()?, offset);
    Some((key, data, rest))
}

/// CRC-32C as btrfs uses it, for checksums and for the hashes of names: from `seed`, and neither
/// begun nor ended by inverting it.
#[must_use]
pub fn crc32c(seed: u32, data: &[u8]) -> u32 {
    !crc32c::crc32c_append(!seed, data)
}

/// Takes little-endian numbers and bytes off the front of an item.
#[derive(Debug, Clone, Copy)]
pub struct Disk<'a>(pub &'a [u8]);

impl<'a> Disk<'a> {
    /// That many bytes.
    pub fn bytes(&mut self, length: usize) -> io::Result<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or_else(malformed)?;
        self.0 = rest;
        Ok(taken)
    }

    /// Passes over that many bytes.
    pub fn skip(&mut self, length: usize) -> io::Result<()> {
        self.bytes(length).map(|_| ())
    }

    fn array<const N: usize>(&mut self) -> io::Result<[u8; N]> {
        let bytes = self.bytes(N)?;
        Ok(bytes.try_into().expect("it has that length"))
    }

    /// A byte.
    pub fn u8(&mut self) -> io::Result<u8> {
        Ok(u8::from_le_bytes(self.array()?))
    }

    /// Two bytes.
    pub fn u16(&mut self) -> io::Result<u16> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    /// Four bytes.
    pub fn u32(&mut self) -> io::Result<u32> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    /// Eight bytes.
    pub fn u64(&mut self) -> io::Result<u64> {
        Ok(u64::from_le_bytes(self.array()?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_after_the_last_of_a_kind_is_of_the_next_kind() {
        let key = Key::new(7, 84, u64::MAX);
        assert_eq!(key.next(), Some(Key::new(7, 85, 0)));
        assert_eq!(Key::new(7, 255, u64::MAX).next(), Some(Key::new(8, 0, 0)));
        assert_eq!(Key::new(u64::MAX, 255, u64::MAX).next(), None);
    }

    #[test]
    fn checksums_are_those_of_the_kernel() {
        // The check value of CRC-32C, whose register begins and ends inverted.
        assert_eq!(!crc32c(!0, b"123456789"), 0xe306_9283);
        // `btrfs inspect-internal dump-tree` prints this hash for the default subvolume's entry.
        assert_eq!(crc32c(!1, b"default"), 2_378_154_706);
    }

    #[test]
    fn an_item_longer_than_the_buffer_is_refused() {
        let mut head = [0; ITEM_HEAD];
        head[28..].copy_from_slice(&u32::MAX.to_ne_bytes());
        assert!(split_item(&head).is_none());
        assert!(split_item(&head[..31]).is_none());
        assert!(Disk(&[1, 2, 3]).u32().is_err());
    }
}
