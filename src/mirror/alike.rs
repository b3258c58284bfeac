//! On the source: which other files a file shares data with. A reflink copy need not be sent: the target
//! can make one of its own, if it has the other file, in this folder or in another one of the same run.
//!
//! Asked of a file only when its content is wanted, so it costs what is sent: the filesystem says where the
//! file's largest extents are, how often anything refers to them, and, if it is more than once, who. Of other
//! folders also that is looked at which was there when both machines were equal: what was moved from one folder to
//! another is nowhere else any more. What comes of it is a hint. Nobody relies on it: the target compares content
//! before it believes anything.

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
use crate::sys::btrfs::{filesystem_uuid, subvolume_info};
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

/// A folder, as the target is told of it (0: the one whose files it asks for), and a path below it.
pub type Named = (u64, Vec<u8>);

/// A tree that may hold files like those of another one.
pub struct Elsewhere {
    /// The folder it is of, counted from 1.
    pub folder: u64,
    /// The tree: a read-only snapshot.
    pub tree: Tree,
    /// What may be named of it.
    pub filter: Filter,
}

/// Finds files of a tree that share data.
pub struct Alike<'a> {
    /// The tree itself, then the others on its filesystem. Empty where the filesystem cannot tell.
    places: Vec<Place<'a>>,
    extents: Extents,
    /// Files in a row that shared nothing.
    misses: u32,
    /// Inodes of files that share something and were asked about, with their turn: of many that are all
    /// new the first one is sent, and the others are made out of it.
    asked_for: HashMap<u64, usize>,
}

/// Where files are.
struct Place<'a> {
    folder: u64,
    tree: &'a Tree,
    way: Way<'a>,
    snapshot: Snapshot<'a>,
    /// The subvolume that the tree is in, and the path of the tree in it.
    subvolume: u64,
    below: Vec<u8>,
}

impl<'a> Place<'a> {
    fn new(folder: u64, tree: &'a Tree, filter: &Filter) -> Result<Self, DiffError> {
        let mut snapshot = Snapshot::new(tree.root());
        Ok(Self {
            folder,
            tree,
            way: Way::new(tree, filter),
            subvolume: subvolume_info(tree.root())?.id,
            below: snapshot.path(tree.root_ino()?, b"")?,
            snapshot,
        })
    }

    /// A name in scope of the inode with this number.
    fn path_of(&mut self, number: u64) -> Result<Option<Vec<u8>>, ScanError> {
        let found = self.snapshot.inodes(&[number]);
        let names = |found: Option<Inode>| found.map_or_else(Vec::new, |inode| inode.names);
        for (dir, name) in names(found.ok().and_then(|mut found| found.remove(&number))) {
            let Ok(path) = self.snapshot.path(dir, &name) else {
                continue;
            };
            let Some(path) = in_folder(&path, &self.below).filter(|path| !path.is_empty()) else {
                continue;
            };
            match self.way.open_parent(path) {
                Ok(Ok(dir)) if self.tree.open_file(dir.as_fd(), split(path).1).is_ok() => {
                    return Ok(Some(path.to_vec()));
                }
                // Of another folder it is no matter what its rules are.
                Err(error) if self.folder == 0 => return Err(error),
                _ => {}
            }
        }
        Ok(None)
    }
}

impl<'a> Alike<'a> {
    /// Of what `filter` offers of `tree`, a read-only snapshot, and what is `elsewhere`.
    #[must_use]
    pub fn new(tree: &'a Tree, filter: &Filter, elsewhere: &'a [Elsewhere]) -> Self {
        let mut places: Vec<Place<'a>> = Place::new(0, tree, filter).into_iter().collect();
        // Numbers of subvolumes are those of one filesystem.
        let filesystem = filesystem_uuid(tree.root()).ok();
        for other in elsewhere {
            let is_there = filesystem_uuid(other.tree.root()).ok() == filesystem;
            if filesystem.is_some() && is_there && !places.is_empty() {
                places.extend(Place::new(other.folder, &other.tree, &other.filter));
            }
        }
        Self {
            places,
            extents: Extents::new(),
            misses: 0,
            asked_for: HashMap::new(),
        }
    }

    /// Files that share data with `file`, of `size` bytes, best first; none if that cannot be told.
    pub fn to(&mut self, file: BorrowedFd<'_>, size: u64) -> Result<Vec<Named>, ScanError> {
        let least = if self.misses < MISSES_MAX {
            ALIKE_MIN
        } else {
            LARGE
        };
        let Some(ours) = self.places.first().filter(|_| size >= least) else {
            return Ok(Vec::new());
        };
        let ours = ours.subvolume;
        let Ok(stat) = rustix::fs::fstat(file) else {
            return Ok(Vec::new());
        };
        let Ok(mut numbers) = self.sharers(file, (ours, stat.st_ino)) else {
            // Not allowed, or not known to this kernel.
            self.places.clear();
            return Ok(Vec::new());
        };
        let turn = |(subvolume, number): &(u64, u64)| {
            let turn = self.asked_for.get(number).copied();
            turn.filter(|_| *subvolume == ours)
        };
        let first = numbers.iter().copied().filter(|n| turn(n).is_some());
        let first = first.min_by_key(|n| turn(n));
        numbers.retain(|number| turn(number).is_none());
        numbers.splice(..0, first);
        if !numbers.is_empty() && self.asked_for.len() < ASKED_FOR_MAX {
            let next = self.asked_for.len();
            self.asked_for.entry(stat.st_ino).or_insert(next);
        }
        let mut named: Vec<Named> = Vec::new();
        'all: for (subvolume, number) in numbers.into_iter().take(NAMES_MAX * 4) {
            for place in &mut self.places {
                if place.subvolume != subvolume {
                    continue;
                }
                if let Some(path) = place.path_of(number)?
                    && !named.contains(&(place.folder, path.clone()))
                {
                    named.push((place.folder, path));
                }
                if named.len() == NAMES_MAX {
                    break 'all;
                }
            }
        }
        self.misses = if named.is_empty() {
            self.misses.saturating_add(1)
        } else {
            0
        };
        Ok(named)
    }

    /// Subvolumes and inodes in them that share data with `own`, most of it first, and of as much one of each
    /// subvolume in turn.
    fn sharers(&mut self, fd: BorrowedFd<'_>, own: (u64, u64)) -> std::io::Result<Vec<(u64, u64)>> {
        let mut extents = self.extents.first(fd, own.1, EXTENTS_MAX)?;
        extents.sort_by_key(|(at, bytes)| (std::cmp::Reverse(*bytes), *at));
        extents.dedup();
        let ids: Vec<u64> = self.places.iter().map(|place| place.subvolume).collect();
        let mut shared: BTreeMap<(u64, u64), u64> = BTreeMap::new();
        for extent in extents.into_iter().take(ASKED_MAX) {
            if self.extents.references(fd, extent)? == 1 {
                continue;
            }
            let (at, bytes) = extent;
            for other in self.extents.sharers(fd, at, &ids)? {
                if other != own {
                    *shared.entry(other).or_default() += bytes;
                }
            }
        }
        let mut shared: Vec<((u64, u64), u64)> = shared.into_iter().collect();
        let rank = |id: u64| ids.iter().position(|other| *other == id);
        shared.sort_by_key(|((id, number), bytes)| (std::cmp::Reverse(*bytes), rank(*id), *number));
        let mut turns: HashMap<(u64, u64), usize> = HashMap::new();
        let mut in_turn = Vec::with_capacity(shared.len());
        for (one, bytes) in shared {
            let turn = turns.entry((bytes, one.0)).or_default();
            in_turn.push((std::cmp::Reverse(bytes), *turn, one));
            *turn += 1;
        }
        in_turn.sort_by_key(|(bytes, turn, _)| (*bytes, *turn));
        Ok(in_turn.into_iter().map(|(_, _, one)| one).collect())
    }
}
