//! Reading a tree: confined opening, sorted names, and an entry with all its attributes.
//!
//! Everything is relative to a held directory descriptor and never follows a symbolic link.
//! Nothing here writes.

use std::collections::HashSet;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{
    AtFlags, Dev, FileType, Mode, OFlags, RawDir, ResolveFlags, Statx, StatxAttributes, StatxFlags,
};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::entry::{FLAGS, Kind, Meta, Time, XATTRS_MAX, Xattr};
use super::moves::Occupied;
use super::path::{PATH_LIMIT, split};

/// How paths below a root are resolved: never outside, never through a link or another mount.
pub const CONFINED: ResolveFlags = ResolveFlags::BENEATH
    .union(ResolveFlags::NO_SYMLINKS)
    .union(ResolveFlags::NO_MAGICLINKS)
    .union(ResolveFlags::NO_XDEV);

/// The inode number of a btrfs subvolume's own root directory (`BTRFS_FIRST_FREE_OBJECTID`).
const SUBVOLUME_ROOT_INO: u64 = 256;
/// What a nested subvolume looks like in a snapshot (`BTRFS_EMPTY_SUBVOL_DIR_OBJECTID`).
const EMPTY_SUBVOLUME_INO: u64 = 2;

/// Longest path handed to one openat2 call; deeper ones are walked in pieces.
const PIECE: usize = 4000;

/// A held directory that everything else is relative to.
#[derive(Debug)]
pub struct Tree {
    root: OwnedFd,
    /// Device number every entry must have: a nested subvolume has another.
    dev: Dev,
}

/// What a person's tree holds under one name, with what tells it from a later thing of that name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Its attributes.
    pub meta: Meta,
    /// Its inode number on this machine.
    pub ino: u64,
    /// How many names the inode has.
    pub nlink: u64,
    /// When anything about the inode was changed last, which nobody can set back.
    pub ctime: Time,
    /// When the inode was made, which nobody can set either.
    pub born: Time,
}

impl Found {
    /// Something that is there and cannot be read: left alone.
    #[must_use]
    pub fn unreadable() -> Self {
        Self {
            meta: Meta::opaque(),
            ino: 0,
            nlink: 1,
            ctime: Time::default(),
            born: Time::default(),
        }
    }

    /// Marks a regular file that is not to be believed for its size and time.
    pub fn suspect_if(&mut self, doubted: bool) {
        self.meta.suspect = doubted && self.meta.kind == Kind::File;
    }

    /// Whether it was touched after the moment of `trust`: its size and time may have been put back,
    /// its change time cannot be.
    #[must_use]
    pub fn is_touched_since(&self, trust: &Trust) -> bool {
        let is_older = |since| self.born <= since && self.ctime > since;
        self.ctime > trust.equal_at || trust.ours_since.is_some_and(is_older)
    }
}

/// Until when files are what size and time make of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trust {
    /// Files touched after this moment of this machine's clock are compared by content even if size
    /// and time are equal.
    pub equal_at: Time,
    /// What was made from this moment on was made by the mirror and is believed; what is older is
    /// not if it was touched since.
    pub ours_since: Option<Time>,
}

impl Trust {
    /// In everything that was not touched since `equal_at`.
    #[must_use]
    pub fn until(equal_at: Time) -> Self {
        Self {
            equal_at,
            ours_since: None,
        }
    }
}

/// As much of an entry as one system call tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Glance {
    /// What kind of thing.
    pub kind: Kind,
    /// Its size, if it is a file.
    pub size: u64,
    /// When it was modified.
    pub mtime: Time,
    /// Its inode number on this machine.
    pub ino: u64,
    /// When anything about the inode was changed last, which nobody can set back.
    pub ctime: Time,
}

fn dev_of(stat: &Statx) -> Dev {
    rustix::fs::makedev(stat.stx_dev_major, stat.stx_dev_minor)
}

fn ctime_of(stat: &Statx) -> Time {
    Time {
        secs: stat.stx_ctime.tv_sec,
        nanos: stat.stx_ctime.tv_nsec,
    }
}

fn born_of(stat: &Statx) -> Time {
    Time {
        secs: stat.stx_btime.tv_sec,
        nanos: stat.stx_btime.tv_nsec,
    }
}

/// What is asked of an inode.
const ASKED: StatxFlags = StatxFlags::BASIC_STATS.union(StatxFlags::BTIME);

/// The stat of the entry `name` of `dir`, or `None` if there is no such entry.
fn stat_at(dir: BorrowedFd<'_>, name: &[u8]) -> Result<Option<Statx>, Errno> {
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
    match rustix::fs::statx(dir, name, flags, ASKED) {
        Ok(stat) => Ok(Some(stat)),
        Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Device, inode and type through a descriptor.
fn statx_fd(fd: BorrowedFd<'_>) -> Result<Statx, Errno> {
    rustix::fs::statx(fd, "", AtFlags::EMPTY_PATH, ASKED)
}

impl Tree {
    /// Opens the directory at absolute path `root` without following any symbolic link.
    pub fn open(root: &Path) -> Result<Self, Errno> {
        let fd = rustix::fs::openat2(
            rustix::fs::CWD,
            root,
            OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC,
            Mode::empty(),
            ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS,
        )?;
        Self::from_fd(fd)
    }

    /// Opens `root` as its own filesystem shows it: what is mounted below it is not seen, as in a
    /// snapshot. Needs `CAP_SYS_ADMIN` (`open_tree(2)` with `OPEN_TREE_CLONE`).
    pub fn open_without_mounts(root: &Path) -> Result<Self, Errno> {
        use rustix::mount::{OpenTreeFlags, open_tree};
        let plain = Self::open(root)?;
        let clone = open_tree(
            &plain.root,
            "",
            OpenTreeFlags::OPEN_TREE_CLONE
                | OpenTreeFlags::OPEN_TREE_CLOEXEC
                | OpenTreeFlags::AT_EMPTY_PATH,
        )?;
        let fd = rustix::fs::openat(
            &clone,
            ".",
            OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )?;
        Self::from_fd(fd)
    }

    /// The tree below a directory that is open already.
    pub fn from_fd(root: OwnedFd) -> Result<Self, Errno> {
        let dev = dev_of(&statx_fd(root.as_fd())?);
        Ok(Self { root, dev })
    }

    /// The root itself.
    #[must_use]
    pub fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    /// Its inode number.
    pub fn root_ino(&self) -> std::io::Result<u64> {
        Ok(rustix::fs::fstat(&self.root)?.st_ino)
    }

    /// Opens the directory at `path` below the root (empty: the root).
    /// [`Errno::XDEV`] for a mount or a nested subvolume.
    pub fn open_dir(&self, path: &[u8]) -> Result<OwnedFd, Errno> {
        self.open_below(self.root.as_fd(), path)
    }

    /// Opens the directory at `path` below `top` (empty: `top` itself).
    pub fn open_below(&self, top: BorrowedFd<'_>, path: &[u8]) -> Result<OwnedFd, Errno> {
        if path.is_empty() {
            return self.open_child(top, b".");
        }
        if path.len() > PATH_LIMIT {
            return Err(Errno::NAMETOOLONG);
        }
        let mut held: Option<OwnedFd> = None;
        let mut rest = path;
        loop {
            let (piece, remaining) = if rest.len() <= PIECE {
                (rest, &b""[..])
            } else {
                // Names are at most 255 bytes, so there is a slash within any piece.
                let cut = rest[..PIECE]
                    .iter()
                    .rposition(|b| *b == b'/')
                    .ok_or(Errno::NAMETOOLONG)?;
                (&rest[..cut], &rest[cut + 1..])
            };
            let at = held.as_ref().map_or(top, AsFd::as_fd);
            let next = self.open_child(at, piece)?;
            if remaining.is_empty() {
                return Ok(next);
            }
            held = Some(next);
            rest = remaining;
        }
    }

    /// Opens the directory `name` (or a short relative path) in `parent`.
    pub fn open_child(&self, parent: BorrowedFd<'_>, name: &[u8]) -> Result<OwnedFd, Errno> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let open =
            |extra| rustix::fs::openat2(parent, name, flags | extra, Mode::empty(), CONFINED);
        // Only the owner or CAP_FOWNER may ask for NOATIME.
        let fd = match open(OFlags::NOATIME) {
            Err(Errno::PERM) => open(OFlags::empty())?,
            other => other?,
        };
        if dev_of(&statx_fd(fd.as_fd())?) != self.dev {
            return Err(Errno::XDEV);
        }
        Ok(fd)
    }

    /// Opens the regular file at `path` for reading. [`Errno::INVAL`] if it is something else.
    pub fn open_file(&self, dir: BorrowedFd<'_>, name: &[u8]) -> Result<OwnedFd, Errno> {
        let fd = open_node(dir, name)?;
        let stat = statx_fd(fd.as_fd())?;
        if FileType::from_raw_mode(u32::from(stat.stx_mode)) != FileType::RegularFile
            || dev_of(&stat) != self.dev
        {
            return Err(Errno::INVAL);
        }
        Ok(fd)
    }

    /// What one system call tells of the entry `name` of `dir`, or `None` if there is no such entry.
    pub fn glance(&self, dir: BorrowedFd<'_>, name: &[u8]) -> Result<Option<Glance>, Errno> {
        let stat = stat_at(dir, name)?;
        Ok(stat.map(|stat| {
            let meta = self.plain_meta(&stat);
            Glance {
                kind: meta.kind,
                size: meta.size,
                mtime: meta.mtime,
                ino: stat.stx_ino,
                ctime: ctime_of(&stat),
            }
        }))
    }

    /// Everything about the entry `name` of `dir`, or `None` if there is no such entry.
    ///
    /// A mount point, a nested subvolume and a directory on another device are [`Kind::Opaque`].
    pub fn look(&self, dir: BorrowedFd<'_>, name: &[u8]) -> Result<Option<Found>, Errno> {
        let mut tries = 0;
        loop {
            let Some(stat) = stat_at(dir, name)? else {
                return Ok(None);
            };
            match self.found(dir, name, &stat) {
                // Given to something else between two looks: look again.
                Err(Errno::STALE | Errno::NOENT | Errno::LOOP | Errno::NXIO) if tries < 5 => {
                    tries += 1;
                }
                other => return other.map(Some),
            }
        }
    }

    /// Whether `name` is a directory of this very filesystem tree with inode number `ino`: neither
    /// a nested subvolume nor a mount point.
    pub fn is_plain_dir(&self, dir: BorrowedFd<'_>, name: &[u8], ino: u64) -> Result<bool, Errno> {
        let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
        match rustix::fs::statx(dir, name, flags, StatxFlags::TYPE | StatxFlags::INO) {
            Ok(stat) => Ok(stat.stx_ino == ino
                && ino != EMPTY_SUBVOLUME_INO
                && ino != SUBVOLUME_ROOT_INO
                && dev_of(&stat) == self.dev
                && !stat.stx_attributes.contains(StatxAttributes::MOUNT_ROOT)
                && kind_of(u32::from(stat.stx_mode)) == Kind::Dir),
            Err(Errno::NOENT) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// What is at `path`, for something that shall come to stand there.
    #[must_use]
    pub fn occupied(&self, path: &[u8]) -> Occupied {
        let (parent, name) = split(path);
        let found = match self.open_dir(parent) {
            Ok(dir) => self.look(dir.as_fd(), name),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(error),
        };
        match found {
            Ok(None) => Occupied::No,
            Ok(Some(found)) if found.meta.kind == Kind::Dir => Occupied::Directory,
            _ => Occupied::Otherwise,
        }
    }

    /// The attributes of something that is open.
    pub fn look_fd(&self, fd: BorrowedFd<'_>) -> Result<Meta, Errno> {
        let mut meta = meta_of(&statx_fd(fd)?);
        read_through_fd(fd, &mut meta)?;
        Ok(meta)
    }

    /// The root directory's own attributes.
    pub fn look_root(&self) -> Result<Found, Errno> {
        let stat = statx_fd(self.root.as_fd())?;
        let mut meta = meta_of(&stat);
        read_through_fd(self.root.as_fd(), &mut meta)?;
        Ok(Found {
            meta,
            ino: stat.stx_ino,
            nlink: u64::from(stat.stx_nlink),
            ctime: ctime_of(&stat),
            born: born_of(&stat),
        })
    }

    /// What a stat tells, of something that is ours to look into.
    fn plain_meta(&self, stat: &Statx) -> Meta {
        let meta = meta_of(stat);
        let mounted = stat.stx_attributes.contains(StatxAttributes::MOUNT_ROOT);
        let nested = meta.kind == Kind::Dir
            && matches!(stat.stx_ino, SUBVOLUME_ROOT_INO | EMPTY_SUBVOLUME_INO);
        if mounted || nested || dev_of(stat) != self.dev {
            return Meta::opaque();
        }
        meta
    }

    fn found(&self, dir: BorrowedFd<'_>, name: &[u8], stat: &Statx) -> Result<Found, Errno> {
        let mut meta = self.plain_meta(stat);
        match meta.kind {
            Kind::File | Kind::Dir => {
                let fd = open_node(dir, name)?;
                // The name may have been given to something else since the stat.
                let now = statx_fd(fd.as_fd())?;
                if now.stx_ino != stat.stx_ino || dev_of(&now) != self.dev {
                    return Err(Errno::STALE);
                }
                read_through_fd(fd.as_fd(), &mut meta)?;
            }
            Kind::Opaque => {}
            _ => {
                if meta.kind == Kind::Symlink {
                    meta.symlink = rustix::fs::readlinkat(dir, name, Vec::new())?.into_bytes();
                }
                meta.xattrs = xattrs_at(dir, name)?;
            }
        }
        Ok(Found {
            meta,
            ino: stat.stx_ino,
            nlink: u64::from(stat.stx_nlink),
            ctime: ctime_of(stat),
            born: born_of(stat),
        })
    }
}

/// Opens a regular file or directory without following a link, blocking on a FIFO, or moving atime.
fn open_node(dir: BorrowedFd<'_>, name: &[u8]) -> Result<OwnedFd, Errno> {
    let flags =
        OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    match rustix::fs::openat(dir, name, flags | OFlags::NOATIME, Mode::empty()) {
        Err(Errno::PERM) => rustix::fs::openat(dir, name, flags, Mode::empty()),
        other => other,
    }
}

/// What a `st_mode` says a thing is.
#[must_use]
pub fn kind_of(mode: u32) -> Kind {
    match FileType::from_raw_mode(mode) {
        FileType::RegularFile => Kind::File,
        FileType::Directory => Kind::Dir,
        FileType::Symlink => Kind::Symlink,
        FileType::Fifo => Kind::Fifo,
        FileType::Socket => Kind::Socket,
        FileType::CharacterDevice => Kind::Char,
        FileType::BlockDevice => Kind::Block,
        FileType::Unknown => Kind::Opaque,
    }
}

fn meta_of(stat: &Statx) -> Meta {
    let mode = u32::from(stat.stx_mode);
    let kind = kind_of(mode);
    Meta {
        kind,
        mode: mode & 0o7777,
        uid: stat.stx_uid,
        gid: stat.stx_gid,
        size: if kind == Kind::File { stat.stx_size } else { 0 },
        mtime: Time {
            secs: stat.stx_mtime.tv_sec,
            nanos: stat.stx_mtime.tv_nsec,
        },
        rdev: if kind.is_device() {
            rustix::fs::makedev(stat.stx_rdev_major, stat.stx_rdev_minor)
        } else {
            0
        },
        multi: kind != Kind::Dir && stat.stx_nlink > 1,
        allocated: if kind == Kind::File {
            stat.stx_blocks.saturating_mul(512)
        } else {
            0
        },
        ..Meta::opaque()
    }
}

fn read_through_fd(fd: BorrowedFd<'_>, meta: &mut Meta) -> Result<(), Errno> {
    meta.flags = match rustix::fs::ioctl_getflags(fd) {
        Ok(flags) => flags.bits() & FLAGS,
        // A filesystem without inode flags has none set.
        Err(Errno::NOTTY | Errno::OPNOTSUPP) => 0,
        Err(e) => return Err(e),
    };
    meta.xattrs = read_xattrs(
        |buffer| rustix::fs::flistxattr(fd, buffer),
        |name, buffer| rustix::fs::fgetxattr(fd, name, buffer),
    )?;
    Ok(())
}

/// Extended attributes of something that cannot be opened (a symlink, a device).
fn xattrs_at(dir: BorrowedFd<'_>, name: &[u8]) -> Result<Vec<Xattr>, Errno> {
    let path = proc_path(dir, name);
    read_xattrs(
        |buffer| rustix::fs::llistxattr(&path, buffer),
        |name, buffer| rustix::fs::lgetxattr(&path, name, buffer),
    )
}

/// A path that names `name` in `dir` through our own descriptor, for calls without an `at` form.
#[must_use]
pub fn proc_path(dir: BorrowedFd<'_>, name: &[u8]) -> Vec<u8> {
    let mut path = format!("/proc/self/fd/{}/", dir.as_raw_fd()).into_bytes();
    path.extend_from_slice(name);
    path
}

/// Lists and reads all attributes, sorted by name; at most [`XATTRS_MAX`] bytes in all.
fn read_xattrs(
    list: impl Fn(&mut [u8]) -> Result<usize, Errno>,
    get: impl Fn(&[u8], &mut [u8]) -> Result<usize, Errno>,
) -> Result<Vec<Xattr>, Errno> {
    let mut small = [0u8; 1024];
    let names: Vec<u8> = match list(&mut small) {
        Ok(0) | Err(Errno::OPNOTSUPP) => return Ok(Vec::new()),
        Ok(length) => small[..length].to_vec(),
        Err(Errno::RANGE) => {
            // XATTR_LIST_MAX is 64 KiB.
            let mut large = vec![0; 1 << 16];
            let length = list(&mut large)?;
            large.truncate(length);
            large
        }
        Err(e) => return Err(e),
    };
    let mut value = vec![0; 1 << 16];
    let mut xattrs = Vec::new();
    let mut total = 0;
    for name in names.split(|b| *b == 0).filter(|n| !n.is_empty()) {
        match get(name, &mut value) {
            Ok(length) => {
                total += name.len() + length;
                if total > XATTRS_MAX {
                    return Err(Errno::TOOBIG);
                }
                xattrs.push((name.to_vec(), value[..length].to_vec()));
            }
            // Removed meanwhile.
            Err(Errno::NODATA) => {}
            Err(e) => return Err(e),
        }
    }
    xattrs.sort_unstable();
    Ok(xattrs)
}

/// The names of a directory, sorted by bytes, in one allocation for all.
#[derive(Debug, Default)]
pub struct Names {
    text: Vec<u8>,
    index: Vec<NameAt>,
    /// Whether they are only some of the directory's.
    picked: bool,
}

/// Where a name stands in the text (its length is the byte before it), and what the directory says
/// of its inode.
#[derive(Debug, Clone, Copy)]
struct NameAt {
    ino: u64,
    offset: u32,
    file_type: FileType,
}

impl Names {
    /// Reads all names of `dir` but `.` and `..`.
    pub fn read(dir: BorrowedFd<'_>) -> Result<Self, Errno> {
        let mut names = Self::default();
        let mut buffer = Vec::with_capacity(64 * 1024);
        rustix::fs::seek(dir, rustix::fs::SeekFrom::Start(0))?;
        let mut iter = RawDir::new(dir, buffer.spare_capacity_mut());
        while let Some(entry) = iter.next() {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if name != b"." && name != b".." {
                names.add(name, entry.ino(), entry.file_type());
            }
        }
        names.sort();
        Ok(names)
    }

    /// Those of `wanted`, which are sorted, that are in `dir`.
    pub fn pick<'n>(
        dir: BorrowedFd<'_>,
        wanted: impl Iterator<Item = &'n [u8]>,
    ) -> Result<Self, Errno> {
        let mut names = Self {
            picked: true,
            ..Self::default()
        };
        let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
        for name in wanted {
            match rustix::fs::statx(dir, name, flags, StatxFlags::TYPE | StatxFlags::INO) {
                Ok(stat) => {
                    let file_type = FileType::from_raw_mode(u32::from(stat.stx_mode));
                    names.add(name, stat.stx_ino, file_type);
                }
                Err(Errno::NOENT) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(names)
    }

    /// The same without the names that `is_gone`, and with these of these inode numbers and types.
    #[must_use]
    pub fn changed(self, is_gone: impl Fn(&[u8]) -> bool, come: &[(&[u8], u64, FileType)]) -> Self {
        let comes: HashSet<&[u8]> = come.iter().map(|(name, ..)| *name).collect();
        let mut names = Self {
            picked: self.picked,
            ..Self::default()
        };
        for position in 0..self.len() {
            let name = self.get(position).expect("within the length");
            let (ino, file_type) = self.identity(position);
            if !is_gone(name) && !comes.contains(name) {
                names.add(name, ino, file_type);
            }
        }
        for (name, ino, file_type) in come {
            names.add(name, *ino, *file_type);
        }
        names.sort();
        names
    }

    fn sort(&mut self) {
        let text = &self.text;
        let index = &mut self.index;
        index.sort_unstable_by(|a, b| name_at(text, a.offset).cmp(name_at(text, b.offset)));
    }

    /// Adds a name at the end.
    pub fn push(&mut self, name: &[u8]) {
        self.add(name, 0, FileType::Unknown);
    }

    fn add(&mut self, name: &[u8], ino: u64, file_type: FileType) {
        let length = u8::try_from(name.len()).expect("NAME_MAX is 255");
        self.text.push(length);
        let offset = u32::try_from(self.text.len()).expect("a directory's names fit 4 GiB");
        self.index.push(NameAt {
            ino,
            offset,
            file_type,
        });
        self.text.extend_from_slice(name);
    }

    /// The name at `position` in sorted order.
    #[must_use]
    pub fn get(&self, position: usize) -> Option<&[u8]> {
        self.index
            .get(position)
            .map(|at| name_at(&self.text, at.offset))
    }

    /// What the directory says of the entry at `position`: inode number and type. For a nested
    /// subvolume the number is not an inode's.
    ///
    /// # Panics
    /// If there is no such position.
    #[must_use]
    pub fn identity(&self, position: usize) -> (u64, FileType) {
        let at = &self.index[position];
        (at.ino, at.file_type)
    }

    /// Whether they are only some of the directory's.
    #[must_use]
    pub fn is_picked(&self) -> bool {
        self.picked
    }

    /// How many names there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.index.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.index.is_empty()
    }
}

fn name_at(text: &[u8], offset: u32) -> &[u8] {
    let start = offset as usize;
    &text[start..start + usize::from(text[start - 1])]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_older_than_the_mirrors_work_is_not_believed_if_it_was_touched_meanwhile() {
        let at = |secs| Time { secs, nanos: 0 };
        let found = |born, ctime| Found {
            born: at(born),
            ctime: at(ctime),
            ..Found::unreadable()
        };
        let plain = Trust::until(at(20));
        let ours = Trust {
            ours_since: Some(at(10)),
            ..plain
        };
        for (born, ctime, by_plain, by_ours) in [
            (5, 5, false, false),
            (5, 15, false, true),
            (5, 25, true, true),
            // Made by the mirror.
            (11, 15, false, false),
            (11, 25, true, true),
        ] {
            let found = found(born, ctime);
            let is = (
                found.is_touched_since(&plain),
                found.is_touched_since(&ours),
            );
            assert_eq!(is, (by_plain, by_ours), "{born} {ctime}");
        }
    }
}
