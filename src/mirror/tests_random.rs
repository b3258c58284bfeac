//! Random trees for tests: grown and changed from a seed, and described entry by entry.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, IFlags, Mode, Timespec, Timestamps, XattrFlags};

use super::entry::{Kind, Meta};
use super::filter::{DIRECTORY_FILTER_NAME, FilterState, Verdict};
use super::path::join;
use super::staging::LATE_FLAGS;
use super::tree::{Names, Tree};

/// A small generator (xorshift64*): the same numbers from the same seed.
pub(super) struct Random {
    state: u64,
    /// Times are never given twice: content of equal size and time is equal for a full scan.
    clock: i64,
}

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        let state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
        Self { state, clock: 0 }
    }

    pub(super) fn next(&mut self) -> u64 {
        self.state ^= self.state >> 12;
        self.state ^= self.state << 25;
        self.state ^= self.state >> 27;
        self.state.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 8
    }

    pub(super) fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % end as u64).unwrap()
    }

    pub(super) fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    pub(super) fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len())]
    }

    fn time(&mut self) -> Timestamps {
        self.clock += 1;
        let base = *self.pick(&[-1_500_000_000, 0, 1_600_000_000, 6_000_000_000_i64]);
        let time = Timespec {
            tv_sec: base + self.clock,
            tv_nsec: self.below(1_000_000_000).try_into().unwrap(),
        };
        Timestamps {
            last_access: time,
            last_modification: time,
        }
    }

    fn bytes(&mut self, length: usize) -> Vec<u8> {
        let letter = u8::try_from(self.below(256)).unwrap();
        (0..length)
            .map(|_| if self.one_in(64) { letter } else { 7 })
            .collect()
    }
}

const NAMES: [&[u8]; 22] = [
    b"a",
    b"b",
    b"c",
    b"keep",
    b"skip",
    b"x.o",
    b"y.o",
    b"cache",
    b"dir",
    b"z",
    b"a b",
    b"-n",
    b"\n",
    b"\xff\xfe",
    b"\x1b[31m",
    b"[!x]*?",
    b"...",
    b"\xc3\xa9",
    b" ",
    b"\\",
    b".hidden",
    b"#c",
];
const FLAGS: [u32; 8] = [0x10, 0x20, 0x40, 0x80, 0x8, 0x400, 0x4, 0x1_0000];

fn name(rng: &mut Random) -> Vec<u8> {
    match rng.below(30) {
        0 => vec![b'L'; 255],
        1 => format!("n{}", rng.below(1000)).into_bytes(),
        _ => rng.pick(&NAMES).to_vec(),
    }
}

fn under(top: &Path, path: &[u8]) -> PathBuf {
    if path.is_empty() {
        top.to_owned()
    } else {
        top.join(OsStr::from_bytes(path))
    }
}

/// Makes a few entries in random directories of `top`.
pub(super) fn grow(top: &Path, rng: &mut Random, entries: usize) {
    let mut dirs: Vec<Vec<u8>> = vec![Vec::new()];
    let mut others: Vec<Vec<u8>> = Vec::new();
    for (path, kind) in list(top) {
        if kind == Kind::Dir {
            dirs.push(path);
        } else {
            others.push(path);
        }
    }
    for _ in 0..entries {
        let parent = rng.pick(&dirs).clone();
        let path = join(&parent, &name(rng));
        let full = under(top, &path);
        let frozen = is_frozen(&under(top, &parent));
        if frozen || fs::symlink_metadata(&full).is_ok() || path.len() > 3000 {
            continue;
        }
        match rng.below(14) {
            0..=3 => {
                fs::create_dir(&full).unwrap();
                dirs.push(path.clone());
            }
            4 => std::os::unix::fs::symlink(OsStr::from_bytes(rng.pick::<&[u8]>(&NAMES)), &full)
                .unwrap(),
            5 => {
                let types = [
                    FileType::Fifo,
                    FileType::Socket,
                    FileType::CharacterDevice,
                    FileType::BlockDevice,
                ];
                let rdev = rustix::fs::makedev(7, u32::try_from(rng.below(300)).unwrap());
                let kind = *rng.pick(&types);
                let rdev = if matches!(kind, FileType::Fifo | FileType::Socket) {
                    0
                } else {
                    rdev
                };
                rustix::fs::mknodat(rustix::fs::CWD, &full, kind, Mode::from(0o640), rdev).unwrap();
            }
            6 | 7 if !others.is_empty() => {
                let other = under(top, rng.pick::<Vec<u8>>(&others));
                if fs::hard_link(other, &full).is_err() {
                    continue;
                }
            }
            _ => {
                let file = File::create(&full).unwrap();
                write_content(&file, rng);
            }
        }
        if !fs::symlink_metadata(&full).unwrap().is_dir() {
            others.push(path);
        }
        decorate(&full, rng);
    }
    if rng.one_in(3) {
        decorate(top, rng);
    }
}

fn write_content(file: &File, rng: &mut Random) {
    file.set_len(0).unwrap();
    if rng.one_in(12) {
        // Only possible while it is empty.
        set_flag(file, 0x80_0000, true);
    }
    match rng.below(6) {
        0 => {}
        1 => file.set_len(rng.below(9000) as u64).unwrap(),
        2 => {
            // Holes and data, also at the end.
            for _ in 0..=rng.below(4) {
                let offset = rng.below(60) as u64 * 4096;
                file.write_all_at(&rng.bytes(4096), offset).unwrap();
            }
            file.set_len(rng.below(400_000) as u64 + 1).unwrap();
        }
        3 => file.write_all_at(&vec![0; rng.below(20_000)], 0).unwrap(),
        _ => {
            let length = rng.below(30_000);
            file.write_all_at(&rng.bytes(length), 0).unwrap();
        }
    }
}

fn is_frozen(full: &Path) -> bool {
    let flags = rustix::fs::ioctl_getflags(File::open(full).unwrap()).unwrap();
    flags.bits() & LATE_FLAGS != 0
}

fn set_flag(file: &File, flag: u32, on: bool) {
    let now = rustix::fs::ioctl_getflags(file).unwrap().bits();
    let new = if on { now | flag } else { now & !flag };
    let _ = rustix::fs::ioctl_setflags(file, IFlags::from_bits_retain(new));
}

/// Random attributes for something that is there.
fn decorate(full: &Path, rng: &mut Random) {
    let meta = fs::symlink_metadata(full).unwrap();
    let link = meta.is_symlink();
    if rng.one_in(3) {
        let (uid, gid) = (rng.below(3) * 1000, rng.below(3) * 1000);
        let (uid, gid) = (u32::try_from(uid).unwrap(), u32::try_from(gid).unwrap());
        std::os::unix::fs::lchown(full, Some(uid), Some(gid)).unwrap();
    }
    if !link && rng.one_in(3) {
        let mode = u32::try_from(rng.below(0o10000)).unwrap();
        rustix::fs::chmod(full, Mode::from(mode)).unwrap();
    }
    if rng.one_in(3) {
        let space = if meta.is_file() || meta.is_dir() {
            "user"
        } else {
            "trusted"
        };
        for _ in 0..=rng.below(3) {
            let key = format!("{space}.{}", rng.below(5));
            let length = if rng.one_in(10) { 3000 } else { rng.below(20) };
            let value = rng.bytes(length);
            let _ = rustix::fs::lsetxattr(full, &key[..], &value, XattrFlags::empty());
        }
    }
    if !link && rng.one_in(8) {
        let who = rng.below(9999);
        acl(full, "system.posix_acl_access", who);
        if meta.is_dir() {
            acl(full, "system.posix_acl_default", who + 1);
        }
    }
    rustix::fs::utimensat(
        rustix::fs::CWD,
        full,
        &rng.time(),
        AtFlags::SYMLINK_NOFOLLOW,
    )
    .unwrap();
    if (meta.is_file() || meta.is_dir()) && rng.one_in(6) {
        let flag = *rng.pick(&FLAGS);
        // Immutable things elsewhere would get in the way of this test, not of the mirror.
        set_flag(&File::open(full).unwrap(), flag, true);
    }
}

/// An ACL in its binary form (`linux/posix_acl_xattr.h`): one more user may read.
fn acl(full: &Path, key: &str, who: usize) {
    let mut value = 2u32.to_le_bytes().to_vec();
    let mut entry = |tag: u16, perm: u16, id: u32| {
        value.extend_from_slice(&tag.to_le_bytes());
        value.extend_from_slice(&perm.to_le_bytes());
        value.extend_from_slice(&id.to_le_bytes());
    };
    entry(1, 7, u32::MAX);
    entry(2, 4, u32::try_from(who).unwrap());
    entry(4, 5, u32::MAX);
    entry(0x10, 5, u32::MAX);
    entry(0x20, 1, u32::MAX);
    rustix::fs::setxattr(full, key, &value, XattrFlags::empty()).unwrap();
}

/// Every path below `top` (without it), parents first.
pub(super) fn list(top: &Path) -> Vec<(Vec<u8>, Kind)> {
    let mut found = Vec::new();
    let mut stack = vec![Vec::new()];
    while let Some(dir) = stack.pop() {
        let mut names: Vec<_> = fs::read_dir(under(top, &dir))
            .unwrap()
            .map(|e| e.unwrap().file_name().into_vec())
            .collect();
        names.sort();
        for name in names {
            let path = join(&dir, &name);
            let meta = fs::symlink_metadata(under(top, &path)).unwrap();
            let kind = super::tree::kind_of(meta.mode());
            if kind == Kind::Dir {
                stack.push(path.clone());
            }
            found.push((path, kind));
        }
    }
    found.sort_by(|a, b| a.0.cmp(&b.0));
    found
}

/// Clears what forbids changing anything below `top`; what to give back to [`freeze`].
pub(super) fn thaw(top: &Path) -> Vec<(PathBuf, u64, u32)> {
    let mut frozen = Vec::new();
    let mut paths = list(top);
    paths.push((Vec::new(), Kind::Dir));
    for (path, kind) in paths {
        if matches!(kind, Kind::File | Kind::Dir) {
            let full = under(top, &path);
            let file = File::open(&full).unwrap();
            let late = rustix::fs::ioctl_getflags(&file).unwrap().bits() & LATE_FLAGS;
            if late != 0 {
                set_flag(&file, late, false);
                frozen.push((full, file.metadata().unwrap().ino(), late));
            }
        }
    }
    frozen
}

fn freeze(frozen: Vec<(PathBuf, u64, u32)>) {
    for (full, ino, late) in frozen {
        if fs::symlink_metadata(&full).is_ok_and(|m| m.ino() == ino) {
            set_flag(&File::open(&full).unwrap(), late, true);
        }
    }
}

/// Changes a tree in some random ways.
pub(super) fn mutate(top: &Path, rng: &mut Random, changes: usize) {
    let frozen = thaw(top);
    for _ in 0..changes {
        let paths = list(top);
        if paths.is_empty() || rng.one_in(4) {
            grow(top, rng, 3);
            thaw(top);
            continue;
        }
        let (path, kind) = rng.pick(&paths).clone();
        let full = under(top, &path);
        let remove = |full: &Path| {
            if kind == Kind::Dir {
                fs::remove_dir_all(full)
            } else {
                fs::remove_file(full)
            }
            .unwrap();
        };
        match rng.below(14) {
            11 => move_over(top, &path, &rng.pick(&paths).0),
            12 => rotate(top, &path, &paths, rng),
            13 if kind == Kind::File => {
                // A copy that shares data, perhaps in the place of something else.
                let other = under(top, &rng.pick(&paths).0);
                copy_over(&full, &other);
            }
            0 => remove(&full),
            1 => {
                // Something of another kind.
                remove(&full);
                if kind == Kind::Dir {
                    File::create(&full)
                        .unwrap()
                        .write_all(&rng.bytes(100))
                        .unwrap();
                } else if rng.one_in(2) {
                    fs::create_dir(&full).unwrap();
                    fs::write(full.join("in"), "in").unwrap();
                } else {
                    std::os::unix::fs::symlink("elsewhere", &full).unwrap();
                }
                decorate(&full, rng);
            }
            2 => {
                let other = under(top, &rng.pick(&paths).0);
                if !other.starts_with(&full) && other.parent().is_some_and(Path::exists) {
                    let _ = fs::rename(&full, &other);
                }
            }
            3..=5 if kind == Kind::File => {
                let file = fs::OpenOptions::new().write(true).open(&full).unwrap();
                write_content(&file, rng);
                rustix::fs::futimens(&file, &rng.time()).unwrap();
            }
            6 if kind == Kind::File => {
                // A new inode of the same content: breaks a hard link.
                let copy = full.with_file_name("copy");
                if fs::symlink_metadata(&copy).is_err() {
                    fs::copy(&full, &copy).unwrap();
                    fs::rename(&copy, &full).unwrap();
                }
            }
            7 => {
                for key in [
                    "user.0",
                    "user.1",
                    "trusted.1",
                    "system.posix_acl_access",
                    "system.posix_acl_default",
                ] {
                    let _ = rustix::fs::lremovexattr(&full, key);
                }
            }
            8 if kind == Kind::File || kind == Kind::Dir => {
                for flag in FLAGS {
                    set_flag(&File::open(&full).unwrap(), flag, false);
                }
            }
            _ => decorate(&full, rng),
        }
        thaw(top);
    }
    freeze(frozen);
}

fn remove_whatever(full: &Path) {
    if fs::symlink_metadata(full).is_ok_and(|meta| meta.is_dir()) {
        fs::remove_dir_all(full).unwrap();
    } else {
        let _ = fs::remove_file(full);
    }
}

/// Puts a copy of a file, which shares its data and has its time, in the place of something else.
fn copy_over(from: &Path, to: &Path) {
    if from == to || from.starts_with(to) {
        return;
    }
    remove_whatever(to);
    let (from, to) = (File::open(from).unwrap(), File::create(to).unwrap());
    let meta = from.metadata().unwrap();
    // One that has no checksums is copied.
    super::staging::copy_content(from.as_fd(), to.as_fd(), meta.len()).unwrap();
    to.set_modified(meta.modified().unwrap()).unwrap();
}

/// Moves what is at `path` to where something else is, which goes.
pub(super) fn move_over(top: &Path, path: &[u8], other: &[u8]) {
    let (from, to) = (under(top, path), under(top, other));
    if from == to || to.starts_with(&from) {
        return;
    }
    let aside = top.join("aside");
    fs::rename(&from, &aside).unwrap();
    remove_whatever(&to);
    fs::rename(&aside, &to).unwrap();
}

/// Has each of some things take the place of the next one, as logs do; the last one goes, or comes first.
pub(super) fn rotate(top: &Path, first: &[u8], paths: &[(Vec<u8>, Kind)], rng: &mut Random) {
    let mut chain = vec![under(top, first)];
    for _ in 0..=rng.below(3) {
        let next = under(top, &rng.pick(paths).0);
        if !chain
            .iter()
            .any(|one| one.starts_with(&next) || next.starts_with(one))
        {
            chain.push(next);
        }
    }
    let last = chain.last().unwrap().clone();
    let aside = top.join("aside");
    fs::rename(&last, &aside).unwrap();
    for pair in chain.windows(2).rev() {
        fs::rename(&pair[0], &pair[1]).unwrap();
    }
    if rng.one_in(2) {
        fs::rename(&aside, &chain[0]).unwrap();
    } else {
        remove_whatever(&aside);
    }
}

/// What is at a path, but for the inode itself.
#[derive(Debug, PartialEq, Eq, Clone)]
pub(super) struct Described {
    pub meta: Meta,
    /// Hash of a file's content.
    hash: Option<blake3::Hash>,
    /// Where its data is.
    runs: Vec<(u64, u64)>,
    /// Its inode number: not compared between trees.
    pub ino: u64,
}

impl Described {
    /// Whether both hold the same data.
    pub(super) fn same_content(&self, other: &Self) -> bool {
        self.hash == other.hash
    }

    /// Whether both are the same to a person.
    pub(super) fn same(&self, other: &Self) -> bool {
        (&self.meta, self.hash, &self.runs) == (&other.meta, other.hash, &other.runs)
    }
}

/// Everything in a tree, by path; the tree itself as the empty path.
pub(super) type Manifest = BTreeMap<Vec<u8>, Described>;

/// Describes everything below `top`, other subvolumes and mounts included.
pub(super) fn manifest(top: &Path) -> Manifest {
    let mut all = Manifest::new();
    describe(top, b"", &mut all);
    all
}

fn describe(top: &Path, prefix: &[u8], all: &mut Manifest) {
    let tree = Tree::open(top).unwrap();
    let root = tree.look_root().unwrap();
    let described = |mut meta: Meta, ino| {
        // Not the entry's own.
        (meta.multi, meta.allocated) = (false, 0);
        Described {
            meta,
            hash: None,
            runs: Vec::new(),
            ino,
        }
    };
    all.insert(prefix.to_vec(), described(root.meta, root.ino));
    let mut stack = vec![Vec::new()];
    while let Some(path) = stack.pop() {
        let dir = tree.open_dir(&path).unwrap();
        let names = Names::read(dir.as_fd()).unwrap();
        for position in 0..names.len() {
            let name = names.get(position).unwrap();
            let below = join(&path, name);
            let found = tree.look(dir.as_fd(), name).unwrap().unwrap();
            let mut this = described(found.meta, found.ino);
            match this.meta.kind {
                Kind::Dir => stack.push(below.clone()),
                Kind::Opaque => {
                    describe(&under(top, &below), &join(prefix, &below), all);
                    continue;
                }
                Kind::File => {
                    let file = File::from(tree.open_file(dir.as_fd(), name).unwrap());
                    this.hash = Some(hash(&file));
                    this.runs = runs(&file);
                }
                _ => {}
            }
            all.insert(join(prefix, &below), this);
        }
    }
}

fn hash(mut file: &File) -> blake3::Hash {
    let mut hasher = blake3::Hasher::new();
    std::io::copy(&mut file, &mut hasher).unwrap();
    hasher.finalize()
}

fn runs(file: &File) -> Vec<(u64, u64)> {
    use rustix::fs::SeekFrom;
    let mut runs = Vec::new();
    let mut at = 0;
    while let Ok(start) = rustix::fs::seek(file, SeekFrom::Data(at)) {
        at = rustix::fs::seek(file, SeekFrom::Hole(start)).unwrap();
        runs.push((start, at));
    }
    runs
}

/// What the rules say of every path in `all`, with the filter files of `source` on the way: excluded
/// or not. A path below an excluded directory that is not entered is excluded.
pub(super) fn excluded(
    all: &Manifest,
    source: &Manifest,
    source_top: &Path,
    root: &FilterState,
) -> Vec<Vec<u8>> {
    let rules = |path: &[u8], state: FilterState| {
        let file = join(path, DIRECTORY_FILTER_NAME.as_bytes());
        let is_dir = source.get(path).is_some_and(|d| d.meta.kind == Kind::Dir);
        if is_dir && source.contains_key(&file) {
            let text = fs::read(under(source_top, &file)).unwrap();
            return state.with_directory_rules(&text, "x").unwrap();
        }
        state
    };
    // `None` for what is not entered.
    let mut states: BTreeMap<Vec<u8>, Option<FilterState>> = BTreeMap::new();
    states.insert(Vec::new(), Some(rules(b"", root.clone())));
    let mut out = Vec::new();
    // Not the order of the keys: a directory before what is in it, whatever its name.
    let mut paths: Vec<&Vec<u8>> = all.keys().filter(|p| !p.is_empty()).collect();
    paths.sort_by_key(|path| path.split(|b| *b == b'/').count());
    for path in paths {
        let (parent, name) = super::path::split(path);
        let is_dir = all[path].meta.kind == Kind::Dir;
        let state = states.get(parent).cloned().flatten();
        let verdict = state
            .as_ref()
            .map_or(Verdict::Exclude, |s| s.verdict(name, is_dir));
        if verdict == Verdict::Exclude {
            out.push(path.clone());
        }
        if is_dir {
            let below = state.filter(|_| verdict != Verdict::Exclude);
            states.insert(path.clone(), below.map(|s| rules(path, s.enter(name))));
        }
    }
    out
}
