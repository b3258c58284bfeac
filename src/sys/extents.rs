//! Where the data of files lies on a btrfs, and which subvolumes hold it.
//!
//! Extents are read from a subvolume's tree; who else refers to one is the kernel's to say
//! (`BTRFS_IOC_LOGICAL_INO_V2`). Needs `CAP_SYS_ADMIN`.

#![allow(unsafe_code)]

use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use super::search::{Disk, FIRST_FREE, Key, LAST_FREE, OWN_TREE, Searcher, Step, malformed};

/// `BTRFS_EXTENT_TREE_OBJECTID`: the tree of all extents of the filesystem.
const EXTENT_TREE: u64 = 2;
const EXTENT_ITEM: u8 = 168;
const DIR_INDEX: u8 = 96;
const EXTENT_DATA: u8 = 108;
const INODE_ITEM: u8 = 1;
/// `BTRFS_FILE_EXTENT_INLINE`: the data is in the tree itself.
const INLINE: u8 = 0;
/// After so many inodes it is asked whether there is still time.
const LOOK_EVERY: usize = 1024;

/// Room for references to one extent; one that has more is held by too many to be looked at.
const REFERENCES: usize = 64 << 10;
/// `_IOWR(0x94, 59, struct btrfs_ioctl_logical_ino_args)`.
const LOGICAL_INO_V2: u64 =
    (3 << 30) | ((size_of::<LogicalIno>() as u64) << 16) | (0x94 << 8) | 0x3b;
/// `BTRFS_LOGICAL_INO_ARGS_IGNORE_OFFSET`: whoever refers to any part of the extent.
const IGNORE_OFFSET: u64 = 1;

/// `struct btrfs_ioctl_logical_ino_args`.
#[repr(C)]
struct LogicalIno {
    logical: u64,
    size: u64,
    reserved: [u64; 3],
    flags: u64,
    inodes: u64,
}

/// One thing that a tree says of an inode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Item<'a> {
    /// An entry of the directory: the inode it leads to, and its name.
    Entry(u64, &'a [u8]),
    /// An extent of the file: where on disk, and how many bytes there.
    Extent(u64, u64),
}

/// Reads trees; keeps its buffers.
pub struct Extents {
    searcher: Searcher,
    references: Vec<u64>,
}

impl Default for Extents {
    fn default() -> Self {
        Self::new()
    }
}

impl Extents {
    /// A reader.
    #[must_use]
    pub fn new() -> Self {
        Self {
            searcher: Searcher::new(),
            references: vec![0; REFERENCES / size_of::<u64>()],
        }
    }

    /// Numbers of inodes of which something was written in generation `since` or later, with some of
    /// their neighbours, in order; `None` if they are more than `limit`, or `is_over` says so first.
    pub fn touched(
        &mut self,
        fd: BorrowedFd<'_>,
        since: u64,
        limit: usize,
        is_over: impl Fn() -> bool,
    ) -> io::Result<Option<Vec<u64>>> {
        let mut found = Vec::new();
        let keys = (
            Key::new(FIRST_FREE, 0, 0),
            Key::new(LAST_FREE, u8::MAX, u64::MAX),
        );
        let mut is_all = true;
        self.searcher.read(fd, OWN_TREE, keys, since, |key, _| {
            if found.last() != Some(&key.objectid) {
                found.push(key.objectid);
                let is_time = found.len() % LOOK_EVERY == 0;
                is_all = found.len() <= limit && !(is_time && is_over());
            }
            Ok(if is_all { Step::Next } else { Step::Stop })
        })?;
        Ok(is_all.then_some(found))
    }

    /// Calls `visit` with the entries and extents of the inodes `first..=last`.
    pub fn items(
        &mut self,
        fd: BorrowedFd<'_>,
        (first, last): (u64, u64),
        mut visit: impl FnMut(u64, Item<'_>),
    ) -> io::Result<()> {
        let keys = (
            Key::new(first, DIR_INDEX, 0),
            Key::new(last, EXTENT_DATA, u64::MAX),
        );
        self.searcher.read(fd, OWN_TREE, keys, 0, |key, data| {
            match key.kind {
                DIR_INDEX => {
                    let mut item = Disk(data);
                    let target = item.u64()?;
                    // The rest of the location, the generation and the length of no data.
                    item.skip(1 + 8 + 8 + 2)?;
                    let length = item.u16()?;
                    item.skip(1)?;
                    visit(
                        key.objectid,
                        Item::Entry(target, item.bytes(length.into())?),
                    );
                }
                EXTENT_DATA => {
                    if let Some((at, bytes)) = parse_extent(data)? {
                        visit(key.objectid, Item::Extent(at, bytes));
                    }
                }
                kind if kind < DIR_INDEX => {
                    return Ok(Step::To(Key::new(key.objectid, DIR_INDEX, 0)));
                }
                _ => {}
            }
            Ok(Step::Next)
        })
    }

    /// The first `limit` extents of the inode `number`: where each is on disk, and how many bytes there.
    pub fn first(
        &mut self,
        fd: BorrowedFd<'_>,
        number: u64,
        limit: usize,
    ) -> io::Result<Vec<(u64, u64)>> {
        let mut found = Vec::new();
        let keys = (
            Key::new(number, EXTENT_DATA, 0),
            Key::new(number, EXTENT_DATA, u64::MAX),
        );
        self.searcher.read(fd, OWN_TREE, keys, 0, |_, data| {
            found.extend(parse_extent(data)?);
            Ok(if found.len() < limit {
                Step::Next
            } else {
                Step::Stop
            })
        })?;
        Ok(found)
    }

    /// How often trees refer to this extent: where it is, and how many bytes it has there. What several
    /// subvolumes have in one leaf of their trees counts once. 0 if it is not known yet.
    pub fn references(&mut self, fd: BorrowedFd<'_>, (at, bytes): (u64, u64)) -> io::Result<u64> {
        let key = Key::new(at, EXTENT_ITEM, bytes);
        let mut count = 0;
        self.searcher
            .read(fd, EXTENT_TREE, (key, key), 0, |_, data| {
                count = Disk(data).u64()?;
                Ok(Step::Stop)
            })?;
        Ok(count)
    }

    /// Inodes of the subvolumes with these `ids` that refer to the extent at `logical`, each behind the id of its
    /// subvolume; none where they are too many.
    pub fn sharers(
        &mut self,
        fd: BorrowedFd<'_>,
        logical: u64,
        ids: &[u64],
    ) -> io::Result<BTreeSet<(u64, u64)>> {
        self.ask(fd, logical)?;
        let all = referrers(&self.references)?.unwrap_or_default();
        let ours = all.chunks_exact(3).filter(|one| ids.contains(&one[2]));
        Ok(ours.map(|one| (one[2], one[0])).collect())
    }

    /// Whether the subvolume has an inode of this number.
    pub fn exists(&mut self, fd: BorrowedFd<'_>, number: u64) -> io::Result<bool> {
        let key = Key::new(number, INODE_ITEM, 0);
        let mut found = false;
        self.searcher.read(fd, OWN_TREE, (key, key), 0, |_, _| {
            found = true;
            Ok(Step::Stop)
        })?;
        Ok(found)
    }

    /// Ids of the subvolumes that refer to the extent at `logical`; `None` where they are too many.
    pub fn holders(
        &mut self,
        fd: BorrowedFd<'_>,
        logical: u64,
    ) -> io::Result<Option<BTreeSet<u64>>> {
        self.ask(fd, logical)?;
        let all = referrers(&self.references)?;
        Ok(all.map(|all| all.chunks_exact(3).map(|one| one[2]).collect()))
    }

    /// Has the kernel write down who refers to the extent at `logical`.
    fn ask(&mut self, fd: BorrowedFd<'_>, logical: u64) -> io::Result<()> {
        let mut args = LogicalIno {
            logical,
            size: REFERENCES as u64,
            reserved: [0; 3],
            flags: IGNORE_OFFSET,
            inodes: self.references.as_mut_ptr() as u64,
        };
        // SAFETY: this is the ioctl's structure, all integers; the buffer it names is ours, alive and has
        // `size` bytes, for which any value is valid.
        let result = unsafe {
            libc::ioctl(
                fd.as_raw_fd(),
                LOGICAL_INO_V2 as _,
                std::ptr::from_mut(&mut args),
            )
        };
        if result < 0 {
            let error = io::Error::last_os_error();
            // It is gone, or nobody refers to it any more.
            if error.raw_os_error() != Some(libc::ENOENT) {
                return Err(error);
            }
            self.references[..2].fill(0);
        }
        Ok(())
    }
}

/// `struct btrfs_data_container`: four numbers of 32 bits, then inode, offset and subvolume of each.
/// `None` if there were more of them than it has room for.
fn referrers(container: &[u64]) -> io::Result<Option<&[u64]>> {
    let [first, second, rest @ ..] = container else {
        return Err(malformed());
    };
    let halves = |word: u64| {
        let bytes = word.to_ne_bytes();
        let half = |at: usize| u32::from_ne_bytes(bytes[at..at + 4].try_into().expect("four"));
        (half(0), half(4))
    };
    let ((_, bytes_missing), (count, missed)) = (halves(*first), halves(*second));
    if bytes_missing > 0 || missed > 0 {
        return Ok(None);
    }
    rest.get(..count as usize).map(Some).ok_or_else(malformed)
}

/// `struct btrfs_file_extent_item`: where the extent is and how long; `None` for a hole and for what is in
/// the item itself.
fn parse_extent(data: &[u8]) -> io::Result<Option<(u64, u64)>> {
    let mut item = Disk(data);
    // Generation, length in memory, compression, encryption and another encoding.
    item.skip(8 + 8 + 1 + 1 + 2)?;
    if item.u8()? == INLINE {
        return Ok(None);
    }
    let (at, bytes) = (item.u64()?, item.u64()?);
    Ok((at != 0).then_some((at, bytes)))
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::AsFd;
    use std::os::unix::fs::MetadataExt;

    use super::*;
    use crate::sys::btrfs::{subvolume_info, sync};
    use crate::sys::testing::{TestBtrfs, run};

    #[test]
    fn extents_are_found_with_all_that_hold_them() {
        let Some(btrfs) = TestBtrfs::new() else {
            return;
        };
        let home = btrfs.create_subvolume("home");
        run(&format!(
            "cd '{0}'; head -c 3M /dev/urandom >large; head -c 50000 /dev/urandom >alone; echo small >small; truncate -s 1M hole; mkdir dir
             cp --reflink=always large dir/clone; sync -f .; btrfs subvolume snapshot -r . ../snap
             rm large dir/clone; echo more >>small; sync -f .",
            home.display()
        ));
        let (live, snap) = (
            File::open(&home).unwrap(),
            File::open(btrfs.top().join("snap")).unwrap(),
        );
        sync(&live).unwrap();
        let mut extents = Extents::new();
        let number = |path: &str| std::fs::metadata(btrfs.top().join(path)).unwrap().ino();
        let large = number("snap/large");
        let mut found = Vec::new();
        extents
            .items(snap.as_fd(), (large, large), |number, item| {
                assert_eq!(number, large);
                match item {
                    Item::Extent(at, bytes) => found.push((at, bytes)),
                    Item::Entry(..) => panic!("a file has no entries"),
                }
            })
            .unwrap();
        assert_eq!(found.iter().map(|(_, bytes)| bytes).sum::<u64>(), 3 << 20);
        let id = subvolume_info(&snap).unwrap().id;
        for (at, _) in &found {
            assert_eq!(
                extents.holders(snap.as_fd(), *at).unwrap(),
                Some([id].into())
            );
        }
        let clone = number("snap/dir/clone");
        assert_eq!(extents.first(snap.as_fd(), large, 100).unwrap(), found);
        assert_eq!(extents.first(snap.as_fd(), clone, 1).unwrap(), found[..1]);
        for (at, bytes) in &found {
            let sharers = extents.sharers(snap.as_fd(), *at, &[id]).unwrap();
            assert_eq!(sharers, [(id, large), (id, clone)].into());
            let elsewhere = extents.sharers(snap.as_fd(), *at, &[id + 1000]);
            assert_eq!(elsewhere.unwrap(), [].into());
            let count = extents.references(snap.as_fd(), (*at, *bytes)).unwrap();
            assert!(count > 1, "{count}");
        }
        let alone = number("snap/alone");
        let lone = extents.first(snap.as_fd(), alone, 100).unwrap();
        let ids = [id, subvolume_info(&live).unwrap().id];
        let sharers = extents.sharers(snap.as_fd(), lone[0].0, &ids).unwrap();
        assert_eq!(sharers, ids.map(|id| (id, alone)).into());
        assert_eq!(
            extents.references(snap.as_fd(), (lone[0].0, 4096)).unwrap(),
            0
        );
        for path in ["snap/small", "snap/hole"] {
            let number = number(path);
            extents
                .items(snap.as_fd(), (number, number), |_, item| {
                    panic!("{path}: {item:?}")
                })
                .unwrap();
        }
        let mut entries = Vec::new();
        let dir = number("snap/dir");
        extents
            .items(snap.as_fd(), (dir, dir), |_, item| {
                if let Item::Entry(target, name) = item {
                    entries.push((target, name.to_vec()));
                }
            })
            .unwrap();
        assert_eq!(entries, [(number("snap/dir/clone"), b"clone".to_vec())]);
        assert!(extents.exists(snap.as_fd(), large).unwrap());
        assert!(!extents.exists(live.as_fd(), large).unwrap());
        let since = subvolume_info(&snap).unwrap().created_generation;
        let touched = extents.touched(live.as_fd(), since, 1000, || false);
        let touched = touched.unwrap().unwrap();
        assert!(touched.contains(&number("home/small")) && touched.contains(&number("home/dir")));
        assert!(touched.is_sorted_by(|a, b| a < b));
        let few = extents.touched(live.as_fd(), 0, 1, || false);
        assert_eq!(few.unwrap(), None);
        // There is no more time as soon as it is looked at.
        run(&format!(
            "cd '{}'; for n in $(seq 1100); do echo $n >$n; done; sync -f .",
            home.display()
        ));
        let late = extents.touched(live.as_fd(), 0, 1_000_000, || true);
        assert_eq!(late.unwrap(), None);
        let all = extents.touched(live.as_fd(), 0, 1_000_000, || false);
        assert!(all.unwrap().unwrap().len() > 1100);
    }

    #[test]
    fn what_the_kernel_could_not_fit_is_not_taken_for_all() {
        let word = |low: u32, high: u32| {
            let bytes = [low.to_ne_bytes(), high.to_ne_bytes()].concat();
            u64::from_ne_bytes(bytes.try_into().unwrap())
        };
        let one = [word(8, 0), word(3, 0), 257, 0, 5];
        assert_eq!(referrers(&one).unwrap(), Some(&[257, 0, 5][..]));
        assert_eq!(
            referrers(&[word(0, 24), word(3, 0), 257, 0, 5]).unwrap(),
            None
        );
        assert_eq!(
            referrers(&[word(0, 0), word(3, 3), 257, 0, 5]).unwrap(),
            None
        );
        assert!(referrers(&[word(0, 0), word(6, 0), 257, 0, 5]).is_err());
        assert!(referrers(&[0]).is_err());
    }
}
