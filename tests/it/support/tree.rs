//! Everything a mirror must carry over, read from a directory tree and compared aspect by aspect.
//!
//! A reader of its own, on purpose: it shares no code with the program it judges. It walks by
//! descriptors, so that paths beyond `PATH_MAX` are read too, and stops at other filesystems and
//! nested subvolumes.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::Path;

use rustix::fs::{AtFlags, Dir, Mode, OFlags, SeekFrom};

/// What can differ between two entries of the same path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Aspect {
    /// It is on one side only.
    Presence,
    /// File, directory, symlink, ...
    Kind,
    /// Permission bits, setuid, setgid and sticky included.
    Mode,
    /// Numeric owner or group.
    Owner,
    /// Modification time in nanoseconds.
    Mtime,
    /// Bytes of a file, text of a symlink, numbers of a device.
    Content,
    /// Extended attributes, ACLs and capabilities included.
    Xattrs,
    /// `chattr` flags.
    Flags,
    /// Which names are one inode.
    HardLinks,
    /// A hole on the left is data on the right: space is taken that was not.
    Holes,
    /// Data on the left, all zeroes, is a hole on the right: no byte differs.
    ZeroData,
}

/// One difference.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Difference {
    /// Relative to the tree's root.
    pub path: Vec<u8>,
    /// In what.
    pub aspect: Aspect,
    /// Left and right, for people.
    pub detail: String,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.path.escape_ascii().to_string();
        match path.len() {
            0 => write!(f, "{:?} of the root: {}", self.aspect, self.detail),
            1..300 => write!(f, "{:?} of {path}: {}", self.aspect, self.detail),
            long => {
                let (head, tail) = (&path[..100], &path[long - 100..]);
                write!(f, "{:?} of {head}...{tail}: {}", self.aspect, self.detail)
            }
        }
    }
}

/// What a path is and has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// `st_mode`.
    pub mode: u32,
    /// Numeric owner.
    pub uid: u32,
    /// Numeric group.
    pub gid: u32,
    /// Device numbers, of devices.
    pub rdev: u64,
    /// Bytes, of files.
    pub size: u64,
    /// Seconds and nanoseconds.
    pub mtime: (i64, u32),
    /// Hash of a file's bytes, or a symlink's text.
    pub content: Vec<u8>,
    /// All extended attributes.
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    /// `FS_IOC_GETFLAGS`, of files and directories.
    pub flags: u32,
    /// Data ranges of a file.
    pub data: Vec<(u64, u64)>,
    /// Inode number, to group names.
    pub inode: u64,
    /// Another filesystem or subvolume begins here; nothing below was read.
    pub boundary: bool,
}

impl Entry {
    fn kind(&self) -> u32 {
        self.mode & 0o170_000
    }

    /// Whether it is a regular file.
    #[allow(dead_code, reason = "the example that compares two trees counts them")]
    pub fn is_file(&self) -> bool {
        self.kind() == 0o100_000
    }

    /// Whether it is a directory.
    pub fn is_dir(&self) -> bool {
        self.kind() == 0o040_000
    }
}

/// A directory tree with everything it holds, by path; the root itself is the empty path.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tree {
    /// Relative path to entry.
    pub entries: BTreeMap<Vec<u8>, Entry>,
}

impl Tree {
    /// Reads the tree below `root`.
    pub fn read(root: &Path) -> io::Result<Self> {
        Self::read_except(root, &|_| false)
    }

    /// Reads the tree below `root`, without the paths `skip` says yes to and what is below them.
    pub fn read_except(root: &Path, skip: &dyn Fn(&[u8]) -> bool) -> io::Result<Self> {
        let top = rustix::fs::open(root, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty())?;
        let stat = rustix::fs::fstat(&top)?;
        let mut tree = Self::default();
        let entry = read_entry(&top, b".", &stat, false)?;
        tree.entries.insert(Vec::new(), entry);
        tree.read_directory(&top, &[], stat.st_dev, skip)?;
        Ok(tree)
    }

    fn read_directory(
        &mut self,
        directory: &OwnedFd,
        prefix: &[u8],
        device: u64,
        skip: &dyn Fn(&[u8]) -> bool,
    ) -> io::Result<()> {
        let mut names = Vec::new();
        for entry in Dir::read_from(directory)? {
            let name = entry?.file_name().to_bytes().to_vec();
            if name != b"." && name != b".." {
                names.push(name);
            }
        }
        for name in names {
            let path = join(prefix, &name);
            if skip(&path) {
                continue;
            }
            let stat = rustix::fs::statat(directory, name.as_slice(), AtFlags::SYMLINK_NOFOLLOW)?;
            let boundary = stat.st_dev != device;
            let entry = read_entry(directory, &name, &stat, boundary)
                .map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", path.escape_ascii())))?;
            let descend = entry.is_dir() && !boundary;
            self.entries.insert(path.clone(), entry);
            if descend {
                let child = rustix::fs::openat(
                    directory,
                    name.as_slice(),
                    OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::NOATIME,
                    Mode::empty(),
                )?;
                self.read_directory(&child, &path, device, skip)?;
            }
        }
        Ok(())
    }

    /// Names that share an inode, as groups of two or more.
    pub fn hard_links(&self) -> BTreeSet<Vec<&[u8]>> {
        let mut groups: BTreeMap<u64, Vec<&[u8]>> = BTreeMap::new();
        for (path, entry) in &self.entries {
            if !entry.is_dir() {
                groups.entry(entry.inode).or_default().push(path);
            }
        }
        groups.into_values().filter(|g| g.len() > 1).collect()
    }

    /// Every difference to `other`, by path.
    pub fn differences(&self, other: &Self) -> Vec<Difference> {
        let mut found = Vec::new();
        for path in self.entries.keys().chain(other.entries.keys()) {
            match (self.entries.get(path), other.entries.get(path)) {
                (Some(left), Some(right)) => compare(path, left, right, &mut found),
                (Some(_), None) => found.push(Difference {
                    path: path.clone(),
                    aspect: Aspect::Presence,
                    detail: "left only".to_owned(),
                }),
                _ => found.push(Difference {
                    path: path.clone(),
                    aspect: Aspect::Presence,
                    detail: "right only".to_owned(),
                }),
            }
        }
        let (left, right) = (self.hard_links(), other.hard_links());
        for (groups, others, side) in [(&left, &right, "left"), (&right, &left, "right")] {
            for group in groups.difference(others) {
                found.push(Difference {
                    path: group[0].to_vec(),
                    aspect: Aspect::HardLinks,
                    detail: format!(
                        "one inode on the {side} only: {}",
                        show_all(group.iter().copied())
                    ),
                });
            }
        }
        found.sort();
        found.dedup();
        found
    }
}

fn join(prefix: &[u8], name: &[u8]) -> Vec<u8> {
    if prefix.is_empty() {
        name.to_vec()
    } else {
        [prefix, name].join(&b'/')
    }
}

/// Paths for people, separated by commas.
pub fn show_all<'a>(paths: impl IntoIterator<Item = &'a [u8]>) -> String {
    let shown: Vec<String> = paths
        .into_iter()
        .map(|p| p.escape_ascii().to_string())
        .collect();
    shown.join(", ")
}

fn compare(path: &[u8], left: &Entry, right: &Entry, found: &mut Vec<Difference>) {
    let mut differ = |aspect, detail: String| {
        found.push(Difference {
            path: path.to_vec(),
            aspect,
            detail,
        });
    };
    if left.kind() != right.kind() || left.boundary != right.boundary {
        differ(
            Aspect::Kind,
            format!("{:o} against {:o}", left.mode, right.mode),
        );
        return;
    }
    if left.mode != right.mode {
        differ(
            Aspect::Mode,
            format!("{:o} against {:o}", left.mode, right.mode),
        );
    }
    if (left.uid, left.gid) != (right.uid, right.gid) {
        differ(
            Aspect::Owner,
            format!("{}:{} / {}:{}", left.uid, left.gid, right.uid, right.gid),
        );
    }
    if left.mtime != right.mtime {
        differ(
            Aspect::Mtime,
            format!("{:?} against {:?}", left.mtime, right.mtime),
        );
    }
    if (left.rdev, left.size, &left.content) != (right.rdev, right.size, &right.content) {
        differ(
            Aspect::Content,
            format!(
                "{} bytes against {}, device {:x} against {:x}",
                left.size, right.size, left.rdev, right.rdev
            ),
        );
    }
    if left.xattrs != right.xattrs {
        let changed = left
            .xattrs
            .keys()
            .chain(right.xattrs.keys())
            .filter(|k| left.xattrs.get(*k) != right.xattrs.get(*k));
        differ(Aspect::Xattrs, show_all(changed.map(Vec::as_slice)));
    }
    if left.flags != right.flags {
        differ(
            Aspect::Flags,
            format!("{:#x} against {:#x}", left.flags, right.flags),
        );
    }
    for (aspect, more, less) in [
        (Aspect::Holes, right, left),
        (Aspect::ZeroData, left, right),
    ] {
        if !covers(&less.data, &more.data) {
            differ(
                aspect,
                format!("data at {:?} against {:?}", left.data, right.data),
            );
        }
    }
}

/// Whether every one of `inner` lies within one of `outer`; files of different size may end differently.
fn covers(outer: &[(u64, u64)], inner: &[(u64, u64)]) -> bool {
    inner
        .iter()
        .all(|(start, end)| outer.iter().any(|(s, e)| s <= start && end <= e))
}

fn read_entry(
    directory: &OwnedFd,
    name: &[u8],
    stat: &rustix::fs::Stat,
    boundary: bool,
) -> io::Result<Entry> {
    let mut entry = Entry {
        mode: stat.st_mode,
        uid: stat.st_uid,
        gid: stat.st_gid,
        rdev: 0,
        size: 0,
        mtime: (
            stat.st_mtime,
            u32::try_from(stat.st_mtime_nsec).unwrap_or(u32::MAX),
        ),
        content: Vec::new(),
        // An O_PATH descriptor has no xattr calls of its own; its /proc name does, at any depth.
        xattrs: read_xattrs(&proc_name(directory, name))?,
        flags: 0,
        data: Vec::new(),
        inode: stat.st_ino,
        boundary,
    };
    let open = |flags| {
        rustix::fs::openat(
            directory,
            name,
            flags | OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NOATIME,
            Mode::empty(),
        )
    };
    match entry.kind() {
        0o100_000 => {
            let file = File::from(open(OFlags::empty())?);
            entry.size = u64::try_from(stat.st_size).unwrap_or(0);
            entry.flags = rustix::fs::ioctl_getflags(&file)?.bits();
            entry.data = data_ranges(&file, entry.size)?;
            entry.content = hash(&file, entry.size, &entry.data)?;
        }
        0o040_000 => {
            entry.flags = rustix::fs::ioctl_getflags(open(OFlags::DIRECTORY)?)?.bits();
        }
        0o120_000 => {
            entry.content = rustix::fs::readlinkat(directory, name, Vec::new())?.into_bytes();
        }
        0o020_000 | 0o060_000 => entry.rdev = stat.st_rdev,
        _ => {}
    }
    Ok(entry)
}

/// A short name for `name` in an open directory, for calls that only take paths.
pub fn proc_name(directory: &impl AsFd, name: &[u8]) -> Vec<u8> {
    let mut path = format!("/proc/self/fd/{}/", directory.as_fd().as_raw_fd()).into_bytes();
    path.extend_from_slice(name);
    path
}

fn read_xattrs(path: &[u8]) -> io::Result<BTreeMap<Vec<u8>, Vec<u8>>> {
    let mut names = vec![0; 64 << 10];
    let length = rustix::fs::llistxattr(path, names.as_mut_slice())?;
    let mut found = BTreeMap::new();
    for name in names[..length].split(|b| *b == 0).filter(|n| !n.is_empty()) {
        let mut value = vec![0; 64 << 10];
        let length = rustix::fs::lgetxattr(path, name, value.as_mut_slice())?;
        value.truncate(length);
        found.insert(name.to_vec(), value);
    }
    Ok(found)
}

fn data_ranges(file: &File, size: u64) -> io::Result<Vec<(u64, u64)>> {
    let mut ranges = Vec::new();
    let mut at = 0;
    while at < size {
        let start = match rustix::fs::seek(file, SeekFrom::Data(at)) {
            Err(rustix::io::Errno::NXIO) => break,
            other => other?,
        };
        let end = rustix::fs::seek(file, SeekFrom::Hole(start))?;
        ranges.push((start, end));
        at = end;
    }
    Ok(ranges)
}

/// Hash of a file's content; blocks of zeroes count as holes, which they equal.
fn hash(file: &File, size: u64, data: &[(u64, u64)]) -> io::Result<Vec<u8>> {
    const BLOCK: u64 = 64 << 10;
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; 64 << 10];
    let mut next = 0;
    for (start, end) in data {
        // Whole blocks, each once, wherever the ranges begin.
        let mut at = (start / BLOCK * BLOCK).max(next);
        while at < *end {
            let length = usize::try_from(BLOCK.min(size - at)).expect("at most a block");
            let block = &mut buffer[..length];
            file.read_exact_at(block, at)?;
            if block.iter().any(|b| *b != 0) {
                hasher.update(&at.to_le_bytes()).update(block);
            }
            at += BLOCK;
            next = at;
        }
    }
    Ok(hasher.finalize().as_bytes().to_vec())
}

/// The bytes of a path.
pub fn bytes(path: &Path) -> &[u8] {
    path.as_os_str().as_bytes()
}
