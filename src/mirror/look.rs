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

use super::entry::{FLAGS, Kind, Meta, Time, XATTRS_MAX, join};
use super::tree::{Found, Names, Tree};
use crate::sys::inodes::{Found as Item, InodeReader};

/// Names looked up in one go.
const AHEAD: usize = 512;
/// Inode numbers this far apart are still fetched together.
const GAP: u64 = 16;

/// Looks at entries of a tree.
pub struct Looker<'a> {
    tree: &'a Tree,
    /// `None` where the filesystem has no tree to search, or we may not.
    reader: Option<InodeReader>,
    /// Paths below the root that something is mounted on.
    mounts: HashSet<Vec<u8>>,
    /// What was fetched, by inode number.
    fetched: HashMap<u64, Meta>,
    nlinks: HashMap<u64, u64>,
    /// Position up to which the current directory's names were fetched.
    until: usize,
    /// How many entries needed no look of their own.
    pub at_once: u64,
}

impl<'a> Looker<'a> {
    /// For `tree`, which is the directory `root`. Flushes the filesystem, so that its tree says
    /// what the system calls would.
    #[must_use]
    pub fn new(tree: &'a Tree, root: &Path) -> Self {
        let usable = crate::sys::btrfs::is_btrfs(tree.root()).unwrap_or(false)
            && rustix::fs::syncfs(tree.root()).is_ok();
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
        let (fetched, nlinks) = (HashMap::new(), HashMap::new());
        Self {
            tree,
            reader,
            mounts,
            fetched,
            nlinks,
            until: 0,
            at_once: 0,
        }
    }

    /// A new directory begins.
    pub fn begin(&mut self) {
        self.until = 0;
    }

    /// Everything about the entry at `position` of `names`, which are the names of `dir` at `path`.
    pub fn look(
        &mut self,
        dir: &OwnedFd,
        path: &[u8],
        names: &Names,
        position: usize,
    ) -> Result<Option<Found>, Errno> {
        if self.reader.is_some() && position >= self.until {
            self.fetch(dir.as_fd(), names, position);
        }
        let name = names
            .get(position)
            .expect("the caller's position is within the names");
        let (ino, file_type) = names.identity(position);
        let found = match self.fetched.remove(&ino) {
            Some(meta) => self.confirm(dir, path, name, ino, file_type, meta)?,
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

    /// What was fetched, if it surely is what has this name.
    fn confirm(
        &self,
        dir: &OwnedFd,
        path: &[u8],
        name: &[u8],
        ino: u64,
        file_type: FileType,
        mut meta: Meta,
    ) -> Result<Option<Found>, Errno> {
        let expected = match meta.kind {
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
        match meta.kind {
            Kind::Dir if !self.tree.is_plain_dir(dir.as_fd(), name, ino)? => return Ok(None),
            Kind::Symlink => match rustix::fs::readlinkat(dir, name, Vec::new()) {
                Ok(text) => meta.symlink = text.into_bytes(),
                Err(Errno::NOENT | Errno::INVAL) => return Ok(None),
                Err(error) => return Err(error),
            },
            _ => {}
        }
        let nlink = self.nlinks.get(&ino).copied().unwrap_or(1);
        Ok(Some(Found { meta, ino, nlink }))
    }

    /// Fetches the inodes of the names from `position` on.
    fn fetch(&mut self, dir: BorrowedFd<'_>, names: &Names, position: usize) {
        self.fetched.clear();
        self.nlinks.clear();
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
            let (fetched, nlinks) = (&mut self.fetched, &mut self.nlinks);
            let mut too_large = Vec::new();
            let read = reader.read(dir, first, last, |ino, item| match item {
                Item::Inode(inode) => {
                    fetched.insert(
                        ino,
                        Meta {
                            kind: super::tree::kind_of(inode.mode),
                            mode: inode.mode & 0o7777,
                            uid: inode.uid,
                            gid: inode.gid,
                            size: inode.size,
                            mtime: Time {
                                secs: inode.mtime_secs,
                                nanos: inode.mtime_nanos,
                            },
                            flags: inode.flags & FLAGS,
                            multi: inode.nlink > 1,
                            allocated: inode.allocated,
                            ..Meta::opaque()
                        },
                    );
                    if inode.nlink > 1 {
                        nlinks.insert(ino, u64::from(inode.nlink));
                    }
                }
                Item::Xattr(name, value) => {
                    if let Some(meta) = fetched.get_mut(&ino) {
                        meta.xattrs.push((name.to_vec(), value.to_vec()));
                        let total: usize = meta.xattrs.iter().map(|x| x.0.len() + x.1.len()).sum();
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
        for meta in self.fetched.values_mut() {
            meta.xattrs.sort_unstable();
            if meta.kind != Kind::File {
                (meta.size, meta.allocated) = (0, 0);
            }
            if meta.kind == Kind::Dir {
                meta.multi = false;
            }
            if matches!(meta.kind, Kind::Symlink) {
                meta.flags = 0;
            }
        }
    }
}
