//! On the source: which other files a file shares data with. A reflink copy need not be sent: the target
//! can make one of its own, if it has the other file.
//!
//! Asked of a file only when its content is wanted, so it costs what is sent: the filesystem says where the
//! file's largest extents are, how often anything refers to them, and, if it is more than once, who. What
//! comes of it is a hint. Nobody relies on it: the target compares content before it believes anything.

use std::collections::{BTreeMap, HashMap};
use std::os::fd::{AsFd, BorrowedFd};

use super::diff::DiffError;
use super::diff::snapshot::{Inode, Snapshot};
use super::filter::Filter;
use super::path::split;
use super::scan::ScanError;
use super::scope::Way;
use super::suspects::in_folder;
use super::tree::Tree;
use crate::sys::btrfs::subvolume_info;
use crate::sys::extents::Extents;

/// A smaller file is sent faster than asked about.
pub const ALIKE_MIN: u64 = 64 << 10;
/// As many files are named.
pub const NAMES_MAX: usize = 4;
/// Extents of a file that are looked at, the first ones,
const EXTENTS_MAX: usize = 1024;
/// ... and of these as many are asked about, the largest.
const ASKED_MAX: usize = 4;
/// After so many files of which nothing came, only files of this size are asked about.
const MISSES_MAX: u32 = 512;
const LARGE: u64 = 1 << 20;
/// Files asked about that are kept in mind.
const ASKED_FOR_MAX: usize = 1 << 16;

/// Finds files of a tree that share data.
pub struct Alike<'a> {
    tree: &'a Tree,
    way: Way<'a>,
    /// `None` where the filesystem cannot tell.
    asking: Option<Asking<'a>>,
    /// Files in a row that shared nothing.
    misses: u32,
    /// Inodes of files that share something and were asked about, with their turn: of many that are all
    /// new the first one is sent, and the others are made out of it.
    asked_for: HashMap<u64, usize>,
}

struct Asking<'a> {
    extents: Extents,
    snapshot: Snapshot<'a>,
    /// The subvolume that the tree is in, and the path of the tree in it.
    subvolume: u64,
    folder: Vec<u8>,
}

impl<'a> Asking<'a> {
    fn new(tree: &'a Tree) -> Result<Self, DiffError> {
        let mut snapshot = Snapshot::new(tree.root());
        Ok(Self {
            subvolume: subvolume_info(tree.root())?.id,
            folder: snapshot.path(tree.root_ino()?, b"")?,
            extents: Extents::new(),
            snapshot,
        })
    }

    /// Inodes of the subvolume that share data with the one of this number, most of it first.
    fn sharers(&mut self, fd: BorrowedFd<'_>, number: u64) -> std::io::Result<Vec<u64>> {
        let mut extents = self.extents.first(fd, number, EXTENTS_MAX)?;
        extents.sort_by_key(|(at, bytes)| (std::cmp::Reverse(*bytes), *at));
        extents.dedup();
        let mut shared: BTreeMap<u64, u64> = BTreeMap::new();
        for extent in extents.into_iter().take(ASKED_MAX) {
            if self.extents.references(fd, extent)? == 1 {
                continue;
            }
            let (at, bytes) = extent;
            for other in self.extents.sharers(fd, at, self.subvolume)? {
                if other != number {
                    *shared.entry(other).or_default() += bytes;
                }
            }
        }
        let mut shared: Vec<(u64, u64)> = shared.into_iter().collect();
        shared.sort_by_key(|(number, bytes)| (std::cmp::Reverse(*bytes), *number));
        Ok(shared.into_iter().map(|(number, _)| number).collect())
    }
}

impl<'a> Alike<'a> {
    /// Of what `filter` offers of `tree`, a read-only snapshot.
    #[must_use]
    pub fn new(tree: &'a Tree, filter: &Filter) -> Self {
        Self {
            tree,
            way: Way::new(tree, filter),
            asking: Asking::new(tree).ok(),
            misses: 0,
            asked_for: HashMap::new(),
        }
    }

    /// Paths of files that share data with `file`, of `size` bytes, best first; none if that cannot be
    /// told.
    pub fn to(&mut self, file: BorrowedFd<'_>, size: u64) -> Result<Vec<Vec<u8>>, ScanError> {
        let least = if self.misses < MISSES_MAX {
            ALIKE_MIN
        } else {
            LARGE
        };
        let Some(asking) = self.asking.as_mut().filter(|_| size >= least) else {
            return Ok(Vec::new());
        };
        let Ok(stat) = rustix::fs::fstat(file) else {
            return Ok(Vec::new());
        };
        let Ok(mut numbers) = asking.sharers(file, stat.st_ino) else {
            // Not allowed, or not known to this kernel.
            self.asking = None;
            return Ok(Vec::new());
        };
        let turn = |number: &u64| self.asked_for.get(number).copied();
        let first = numbers.iter().copied().filter(|n| turn(n).is_some());
        let first = first.min_by_key(|n| turn(n));
        numbers.retain(|number| !self.asked_for.contains_key(number));
        numbers.splice(..0, first);
        if !numbers.is_empty() && self.asked_for.len() < ASKED_FOR_MAX {
            let next = self.asked_for.len();
            self.asked_for.entry(stat.st_ino).or_insert(next);
        }
        let mut paths = Vec::new();
        for number in numbers.into_iter().take(NAMES_MAX * 4) {
            if let Some(path) = self.path_of(number)? {
                paths.push(path);
            }
            if paths.len() == NAMES_MAX {
                break;
            }
        }
        self.misses = if paths.is_empty() {
            self.misses.saturating_add(1)
        } else {
            0
        };
        Ok(paths)
    }

    /// A name in scope of the inode with this number.
    fn path_of(&mut self, number: u64) -> Result<Option<Vec<u8>>, ScanError> {
        let Some(asking) = &mut self.asking else {
            return Ok(None);
        };
        let found = asking.snapshot.inodes(&[number]);
        let names = |found: Option<Inode>| found.map_or_else(Vec::new, |inode| inode.names);
        for (dir, name) in names(found.ok().and_then(|mut found| found.remove(&number))) {
            let Some(asking) = &mut self.asking else {
                break;
            };
            let Ok(path) = asking.snapshot.path(dir, &name) else {
                continue;
            };
            let Some(path) = in_folder(&path, &asking.folder).filter(|path| !path.is_empty())
            else {
                continue;
            };
            if let Ok(dir) = self.way.open_parent(path)?
                && self.tree.open_file(dir.as_fd(), split(path).1).is_ok()
            {
                return Ok(Some(path.to_vec()));
            }
        }
        Ok(None)
    }
}
