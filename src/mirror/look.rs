//! Looking at a directory's entries, many at once where the filesystem lets us.
//!
//! On btrfs one search of the tree replaces several system calls a file (`sys::inodes`). It is used
//! only for what cannot be something else: plain files and symlinks whose type the directory itself
//! says, and directories whose identity a `statx` confirms. A nested subvolume's entry carries a
//! number that may be another inode's here, a mount hides what is below it: those, and whatever is
//! rare or odd, are looked at one by one.

use std::collections::{HashMap, HashSet};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::FileType;
use rustix::io::Errno;

use super::entry::{FLAGS, Kind, Meta, Time, XATTRS_MAX};
use super::path::join;
use super::suspects::is_below;
use super::tree::{Found, Names, Tree};
use crate::sys::inodes::{Found as Item, InodeItem, InodeReader};

/// Names looked up in one go.
const AHEAD: usize = 512;
/// In a directory of which fewer names are visited they are looked at one by one, where searching
/// would first have to flush the filesystem.
const FEW: usize = 64;
/// Inode numbers this far apart are still fetched together.
const GAP: u64 = 16;

/// Looks at entries of a tree.
pub struct Looker<'a> {
    tree: &'a Tree,
    /// `None` where the filesystem has no tree to search, or we may not.
    reader: Option<InodeReader>,
    /// Paths below the root that something is mounted on.
    mounts: HashSet<Vec<u8>>,
    /// Whether these are all.
    knows_mounts: bool,
    /// What was fetched, by inode number.
    fetched: HashMap<u64, Found>,
    /// Position up to which the current directory's names were fetched.
    until: usize,
    /// Whether the filesystem's tree is known to say what the system calls would.
    flushed: bool,
    /// How many entries needed no look of their own.
    pub at_once: u64,
    /// How many names were read and entries looked at.
    pub looked: u64,
}

impl<'a> Looker<'a> {
    /// For `tree`, which is the directory `root`. The filesystem is flushed before its tree is
    /// searched, so that it says what the system calls would.
    #[must_use]
    pub fn new(tree: &'a Tree, root: &Path) -> Self {
        let usable = crate::sys::btrfs::is_btrfs(tree.root()).unwrap_or(false);
        let mut mounts = HashSet::new();
        let table = crate::sys::mounts::mounts();
        if let Ok(table) = &table {
            for mount in table {
                if let Ok(below) = mount.mount_point.strip_prefix(root) {
                    mounts.insert(below.as_os_str().as_bytes().to_vec());
                }
            }
        }
        let reader = (usable && table.is_ok()).then(InodeReader::new);
        Self {
            tree,
            reader,
            mounts,
            knows_mounts: table.is_ok(),
            fetched: HashMap::new(),
            until: 0,
            flushed: false,
            at_once: 0,
            looked: 0,
        }
    }

    /// Whether something may be mounted in the directory at `path`.
    #[must_use]
    pub fn may_hold_mount(&self, path: &[u8]) -> bool {
        let is_in = |mount: &Vec<u8>| mount == path || is_below(mount, path);
        !self.knows_mounts || self.mounts.iter().any(is_in)
    }

    /// A new directory begins, of which these names were read.
    pub fn begin(&mut self, names: &Names) {
        self.until = 0;
        self.looked += names.len() as u64;
    }

    /// Everything about the entry at `position` of `names`, which are the names of `dir` at `path`.
    pub fn look(
        &mut self,
        dir: &OwnedFd,
        path: &[u8],
        names: &Names,
        position: usize,
    ) -> Result<Option<Found>, Errno> {
        self.looked += 1;
        if position >= self.until && self.can_fetch(names) {
            self.fetch(dir.as_fd(), names, position);
        }
        let name = names
            .get(position)
            .expect("the caller's position is within the names");
        let (ino, file_type) = names.identity(position);
        let found = match self.fetched.remove(&ino) {
            Some(found) => self.confirm(dir, path, name, file_type, found)?,
            None => None,
        };
        match found {
            Some(found) => {
                self.at_once += 1;
                Ok(Some(found))
            }
            None => self.tree.look(dir.as_fd(), name),
        }
    }

    /// Whether the tree may be searched for these names.
    fn can_fetch(&mut self, names: &Names) -> bool {
        if self.reader.is_none() || (!self.flushed && names.is_picked() && names.len() < FEW) {
            return false;
        }
        if !self.flushed {
            self.flushed = rustix::fs::syncfs(self.tree.root()).is_ok();
            if !self.flushed {
                self.reader = None;
            }
        }
        self.flushed
    }

    /// What was fetched, if it surely is what has this name.
    fn confirm(
        &self,
        dir: &OwnedFd,
        path: &[u8],
        name: &[u8],
        file_type: FileType,
        mut found: Found,
    ) -> Result<Option<Found>, Errno> {
        let expected = match found.meta.kind {
            Kind::File => FileType::RegularFile,
            Kind::Dir => FileType::Directory,
            Kind::Symlink => FileType::Symlink,
            _ => return Ok(None),
        };
        if file_type != expected {
            return Ok(None);
        }
        if !self.mounts.is_empty() && self.mounts.contains(&join(path, name)) {
            return Ok(None);
        }
        match found.meta.kind {
            Kind::Dir if !self.tree.is_plain_dir(dir.as_fd(), name, found.ino)? => return Ok(None),
            Kind::Symlink => match rustix::fs::readlinkat(dir, name, Vec::new()) {
                Ok(text) => found.meta.symlink = text.into_bytes(),
                Err(Errno::NOENT | Errno::INVAL) => return Ok(None),
                Err(error) => return Err(error),
            },
            _ => {}
        }
        Ok(Some(found))
    }

    /// Fetches the inodes of the names from `position` on.
    fn fetch(&mut self, dir: BorrowedFd<'_>, names: &Names, position: usize) {
        self.fetched.clear();
        self.until = (position + AHEAD).min(names.len());
        let mut numbers: Vec<u64> = (position..self.until)
            .map(|p| names.identity(p).0)
            .collect();
        numbers.sort_unstable();
        let mut rest = &numbers[..];
        while let Some((&first, _)) = rest.split_first() {
            let end = rest
                .windows(2)
                .position(|w| w[1] - w[0] > GAP)
                .map_or(rest.len(), |p| p + 1);
            let (run, after) = rest.split_at(end);
            rest = after;
            let last = run.last().copied().unwrap_or(first);
            let Some(reader) = &mut self.reader else {
                return;
            };
            let fetched = &mut self.fetched;
            let mut too_large = Vec::new();
            let read = reader.read(dir, first, last, |ino, item| match item {
                Item::Inode(inode) => {
                    fetched.insert(ino, found_of(ino, &inode));
                }
                Item::Name(..) => {}
                Item::Xattr(name, value) => {
                    if let Some(found) = fetched.get_mut(&ino) {
                        let xattrs = &mut found.meta.xattrs;
                        xattrs.push((name.to_vec(), value.to_vec()));
                        let total: usize = xattrs.iter().map(|x| x.0.len() + x.1.len()).sum();
                        if total > XATTRS_MAX {
                            too_large.push(ino);
                        }
                    }
                }
            });
            for ino in too_large {
                self.fetched.remove(&ino);
            }
            if read.is_err() {
                // Not allowed, or a filesystem that only looks like btrfs: one by one then.
                self.reader = None;
                self.fetched.clear();
                return;
            }
        }
        for found in self.fetched.values_mut() {
            found.meta.xattrs.sort_unstable();
        }
    }
}

/// What an inode item says, as `statx` and the flags' ioctl would.
fn found_of(ino: u64, inode: &InodeItem) -> Found {
    let kind = super::tree::kind_of(inode.mode);
    let is_file = kind == Kind::File;
    let meta = Meta {
        kind,
        mode: inode.mode & 0o7777,
        uid: inode.uid,
        gid: inode.gid,
        size: if is_file { inode.size } else { 0 },
        mtime: Time {
            secs: inode.mtime_secs,
            nanos: inode.mtime_nanos,
        },
        // A symlink's flags cannot be asked for by system calls.
        flags: if kind == Kind::Symlink {
            0
        } else {
            inode.flags & FLAGS
        },
        multi: kind != Kind::Dir && inode.nlink > 1,
        allocated: if is_file { inode.allocated } else { 0 },
        ..Meta::opaque()
    };
    let (secs, nanos) = inode.ctime;
    Found {
        meta,
        ino,
        nlink: u64::from(inode.nlink),
        ctime: Time { secs, nanos },
        born: Time {
            secs: inode.otime.0,
            nanos: inode.otime.1,
        },
    }
}
