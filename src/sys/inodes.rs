//! Reading many inodes of a btrfs subvolume at once, from its tree.
//!
//! Where `stat`, `ioctl` and `listxattr` cost several system calls a file, one search returns the
//! inode items and extended attributes of a whole directory. Needs `CAP_SYS_ADMIN`; what a tree
//! holds is said in `search`.

use std::io;
use std::os::fd::BorrowedFd;

use super::search::{Disk, FIRST_FREE, Key, LAST_FREE, OWN_TREE, Searcher, Step, crc32c};

const INODE_ITEM: u8 = 1;
const INODE_REF: u8 = 12;
const INODE_EXTREF: u8 = 13;
const XATTR_ITEM: u8 = 24;
const DIR_ITEM: u8 = 84;
const DIR_INDEX: u8 = 96;
const ROOT_ITEM: u8 = 132;
/// `BTRFS_FT_DIR`.
const FT_DIR: u8 = 2;

/// What an inode item says (`struct btrfs_inode_item`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InodeItem {
    /// When the inode was made: tells it from another one that had its number before.
    pub generation: u64,
    /// When it was changed last.
    pub transid: u64,
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
    /// All flags, as they are on disk.
    pub disk_flags: u64,
    /// Change time, seconds and nanoseconds.
    pub ctime: (i64, u32),
    /// Modification time, seconds.
    pub mtime_secs: i64,
    /// Modification time, nanoseconds.
    pub mtime_nanos: u32,
    /// When it was made.
    pub otime: (i64, u32),
}

/// One thing found about an inode.
#[derive(Debug)]
pub enum Found<'a> {
    /// The inode itself.
    Inode(InodeItem),
    /// A name of it: the directory's inode, the name in it.
    Name(u64, &'a [u8]),
    /// An extended attribute: name, value.
    Xattr(&'a [u8], &'a [u8]),
}

/// An entry of a directory, as the tree has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DirEntry<'a> {
    /// Its name.
    pub name: &'a [u8],
    /// What it leads to.
    pub target: Target,
    /// Whether that is a directory.
    pub is_dir: bool,
    /// The generation in which the entry was made.
    pub generation: u64,
}

/// What an entry of a directory leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// An inode of the same tree.
    Inode(u64),
    /// The subvolume with this id, nested here. In a snapshot it is an empty directory.
    Subvolume(u64),
}

/// Searches a subvolume's tree; keeps its buffer.
#[derive(Default)]
pub struct InodeReader {
    searcher: Searcher,
}

impl InodeReader {
    /// A reader.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Calls `visit` with what the tree of `fd`'s subvolume holds about the inodes `first..=last`.
    pub fn read(
        &mut self,
        fd: BorrowedFd<'_>,
        first: u64,
        last: u64,
        visit: impl FnMut(u64, Found<'_>),
    ) -> io::Result<()> {
        self.search(fd, (first, last), XATTR_ITEM, visit)
    }

    /// The same without extended attributes.
    pub fn read_names(
        &mut self,
        fd: BorrowedFd<'_>,
        first: u64,
        last: u64,
        visit: impl FnMut(u64, Found<'_>),
    ) -> io::Result<()> {
        self.search(fd, (first, last), INODE_EXTREF, visit)
    }

    fn search(
        &mut self,
        fd: BorrowedFd<'_>,
        (first, last): (u64, u64),
        last_kind: u8,
        mut visit: impl FnMut(u64, Found<'_>),
    ) -> io::Result<()> {
        let keys = (
            Key::new(first, INODE_ITEM, 0),
            Key::new(last, last_kind, u64::MAX),
        );
        self.searcher.read(fd, OWN_TREE, keys, 0, |key, data| {
            match key.kind {
                INODE_ITEM => visit(key.objectid, Found::Inode(parse_inode(data)?)),
                INODE_REF | INODE_EXTREF => parse_names(key, data, |directory, name| {
                    visit(key.objectid, Found::Name(directory, name));
                })?,
                XATTR_ITEM => {
                    let mut entries = Disk(data);
                    while !entries.0.is_empty() {
                        let entry = parse_entry(&mut entries)?;
                        visit(key.objectid, Found::Xattr(entry.name, entry.data));
                    }
                }
                // What follows an inode's attributes (a directory's entries, a file's extents) is of
                // no interest and may be long.
                kind if kind > last_kind => {
                    return Ok(Step::To(Key::new(key.objectid.saturating_add(1), 0, 0)));
                }
                _ => {}
            }
            Ok(Step::Next)
        })
    }

    /// How many inodes of `fd`'s subvolume were changed after `generation`, as far as `may_go_on` lets it count: it
    /// is asked after each of them. Leaves that were not written since are passed over, so it costs what changed.
    pub fn count_changed(
        &mut self,
        fd: BorrowedFd<'_>,
        generation: u64,
        mut may_go_on: impl FnMut(usize) -> bool,
    ) -> io::Result<usize> {
        let keys = (
            Key::new(FIRST_FREE, INODE_ITEM, 0),
            Key::new(LAST_FREE, INODE_ITEM, u64::MAX),
        );
        let since = generation.saturating_add(1);
        let mut count = 0;
        self.searcher.read(fd, OWN_TREE, keys, since, |key, data| {
            if key.kind == INODE_ITEM && parse_inode(data)?.transid > generation {
                count += 1;
                if !may_go_on(count) {
                    return Ok(Step::Stop);
                }
            }
            Ok(Step::Next)
        })?;
        Ok(count)
    }

    /// What has this name in the directory `dir`, an inode number of `fd`'s subvolume.
    pub fn child(
        &mut self,
        fd: BorrowedFd<'_>,
        dir: u64,
        name: &[u8],
    ) -> io::Result<Option<Target>> {
        // `btrfs_name_hash`.
        let key = Key::new(dir, DIR_ITEM, u64::from(crc32c(!1, name)));
        let mut found = None;
        self.searcher.read(fd, OWN_TREE, (key, key), 0, |_, data| {
            // Several names may have one hash.
            let mut entries = Disk(data);
            while !entries.0.is_empty() {
                let entry = parse_entry(&mut entries)?;
                if entry.name == name {
                    found = Some(target_of(entry.location));
                }
            }
            Ok(Step::Stop)
        })?;
        Ok(found)
    }

    /// Calls `visit` with the entries of the directory `dir`, in the order in which they were made:
    /// all of them, or with `since` those made in that generation or later.
    pub fn entries(
        &mut self,
        fd: BorrowedFd<'_>,
        dir: u64,
        since: u64,
        mut visit: impl FnMut(DirEntry<'_>),
    ) -> io::Result<()> {
        let keys = (
            Key::new(dir, DIR_INDEX, 0),
            Key::new(dir, DIR_INDEX, u64::MAX),
        );
        self.searcher.read(fd, OWN_TREE, keys, since, |_, data| {
            let mut entries = Disk(data);
            while !entries.0.is_empty() {
                let entry = parse_entry(&mut entries)?;
                if entry.generation >= since {
                    visit(DirEntry {
                        name: entry.name,
                        target: target_of(entry.location),
                        is_dir: entry.file_type == FT_DIR,
                        generation: entry.generation,
                    });
                }
            }
            Ok(Step::Next)
        })
    }
}

fn target_of(location: Key) -> Target {
    if location.kind == ROOT_ITEM {
        Target::Subvolume(location.objectid)
    } else {
        Target::Inode(location.objectid)
    }
}

/// `struct btrfs_inode_item`.
fn parse_inode(data: &[u8]) -> io::Result<InodeItem> {
    let mut item = Disk(data);
    let (generation, transid) = (item.u64()?, item.u64()?);
    let (size, allocated) = (item.u64()?, item.u64()?);
    item.skip(8)?;
    let nlink = item.u32()?;
    let (uid, gid, mode) = (item.u32()?, item.u32()?, item.u32()?);
    let (rdev, disk_flags) = (item.u64()?, item.u64()?);
    // Sequence number, reserved space and the time of the last access.
    item.skip(8 + 32 + 12)?;
    let mut time = || -> io::Result<_> { Ok((item.u64()?.cast_signed(), item.u32()?)) };
    let (ctime, mtime, otime) = (time()?, time()?, time()?);
    Ok(InodeItem {
        generation,
        transid,
        size,
        allocated,
        nlink,
        uid,
        gid,
        mode,
        rdev,
        flags: chattr_flags(disk_flags),
        disk_flags,
        ctime,
        mtime_secs: mtime.0,
        mtime_nanos: mtime.1,
        otime,
    })
}

/// The names in `struct btrfs_inode_ref` or `struct btrfs_inode_extref`: directory and name each.
fn parse_names<'a>(
    key: Key,
    data: &'a [u8],
    mut visit: impl FnMut(u64, &'a [u8]),
) -> io::Result<()> {
    let mut names = Disk(data);
    while !names.0.is_empty() {
        let directory = if key.kind == INODE_EXTREF {
            names.u64()?
        } else {
            key.offset
        };
        names.skip(8)?;
        let length = names.u16()?;
        visit(directory, names.bytes(usize::from(length))?);
    }
    Ok(())
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

/// `struct btrfs_dir_item`: an extended attribute, or an entry of a directory.
struct DirItem<'a> {
    /// What it leads to, for an entry.
    location: Key,
    /// In which generation it was made.
    generation: u64,
    /// `BTRFS_FT_*`.
    file_type: u8,
    name: &'a [u8],
    /// An attribute's value.
    data: &'a [u8],
}

fn parse_entry<'a>(item: &mut Disk<'a>) -> io::Result<DirItem<'a>> {
    let location = (item.u64()?, item.u8()?, item.u64()?);
    let generation = item.u64()?;
    let (data_length, name_length) = (item.u16()?, item.u16()?);
    let file_type = item.u8()?;
    Ok(DirItem {
        location: Key::new(location.0, location.1, location.2),
        generation,
        file_type,
        name: item.bytes(usize::from(name_length))?,
        data: item.bytes(usize::from(data_length))?,
    })
}
