//! Moving finished things into place, and removing what shall go: the only code that changes what a
//! person sees.
//!
//! Every change is one rename, link or unlink relative to a held directory that was reached without
//! following a link. What stands at the path must still be what the plan saw; else it is left alone.

use std::collections::{BTreeMap, HashSet};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::fs::{AtFlags, RenameFlags, StatxFlags};
use rustix::io::Errno;

use super::codec::{Reader, put_bytes, put_u64};
use super::entry::{Kind, PATH_LIMIT, Time, split};
use super::plan::Old;
use super::spool::{Spool, SpoolWriter};
use super::staging::{LATE_FLAGS, Staging, set_flags, set_mtime};
use super::tree::Tree;
use super::wire::{put_time, read_time};

/// Why one entry was not changed.
#[derive(Debug, thiserror::Error)]
pub enum PlaceError {
    /// Something is there that the plan did not see.
    #[error("appeared on the target meanwhile; left as it is")]
    Appeared,
    /// What is there is not what the plan saw.
    #[error("changed on the target meanwhile; left as it is")]
    Changed,
    /// It could not be made with all its attributes.
    #[error("{0}")]
    Io(#[from] Errno),
    /// Its content did not arrive.
    #[error("{0}")]
    Content(String),
    /// Notes about directories cannot be kept.
    #[error("{0}")]
    Spool(#[from] io::Error),
}

impl PlaceError {
    /// Whether nothing more can be written at all.
    #[must_use]
    pub fn is_fatal(&self) -> bool {
        matches!(
            self,
            Self::Io(Errno::NOSPC | Errno::DQUOT | Errno::ROFS) | Self::Spool(_)
        )
    }
}

/// What is shared by everything that changes a folder.
pub struct Shared<'a> {
    /// The folder.
    pub tree: &'a Tree,
    /// Where new things are made.
    pub staging: &'a Staging,
    touched: Mutex<Touched>,
    /// Directories that gave way to something else: path to name in the staging directory.
    displaced: Mutex<BTreeMap<Vec<u8>, String>>,
}

/// Directories whose content was changed, with the time and flags they had before.
struct Touched {
    seen: HashSet<u128>,
    spool: SpoolWriter,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a touched directory was like.
#[derive(Debug, PartialEq, Eq)]
pub struct Before {
    /// Where, below the folder.
    pub path: Vec<u8>,
    /// Its modification time.
    pub mtime: Time,
    /// Those of its late flags that were set and have been cleared.
    pub flags: u32,
}

impl<'a> Shared<'a> {
    /// For a folder and its staging directory.
    pub fn new(tree: &'a Tree, staging: &'a Staging) -> io::Result<Self> {
        Ok(Self {
            tree,
            staging,
            touched: Mutex::new(Touched {
                seen: HashSet::new(),
                spool: SpoolWriter::new()?,
            }),
            displaced: Mutex::new(BTreeMap::new()),
        })
    }

    /// Remembers what `dir` is like before its content is changed for the first time, and clears
    /// flags that forbid changing it.
    pub fn touch(&self, path: &[u8], dir: &OwnedFd) -> Result<(), PlaceError> {
        let hash = blake3::hash(path);
        let key = u128::from_le_bytes(hash.as_bytes()[..16].try_into().expect("32 bytes"));
        let mut touched = lock(&self.touched);
        if !touched.seen.insert(key) {
            return Ok(());
        }
        let stat = rustix::fs::statx(dir, "", AtFlags::EMPTY_PATH, StatxFlags::BASIC_STATS)?;
        let flags = rustix::fs::ioctl_getflags(dir).map_or(0, |f| f.bits()) & LATE_FLAGS;
        let mtime = Time {
            secs: stat.stx_mtime.tv_sec,
            nanos: stat.stx_mtime.tv_nsec,
        };
        let mut record = Vec::new();
        put_bytes(&mut record, path);
        put_time(&mut record, mtime);
        put_u64(&mut record, u64::from(flags));
        touched.spool.push(&record)?;
        drop(touched);
        if flags != 0 {
            clear_late_flags(dir)?;
        }
        Ok(())
    }

    /// Ends the notes: what was touched, in order, and the directories that gave way.
    pub fn finish(self) -> io::Result<(Spool, BTreeMap<Vec<u8>, String>)> {
        let touched = self
            .touched
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner);
        let displaced = self
            .displaced
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner);
        Ok((touched.spool.finish()?, displaced))
    }
}

/// Reads a note of [`Shared::finish`].
pub fn read_before(record: &[u8]) -> io::Result<Before> {
    let mut reader = Reader::new(record);
    let mut read = || {
        let path = reader.bytes(PATH_LIMIT)?.to_vec();
        let mtime = read_time(&mut reader)?;
        Ok(Before {
            path,
            mtime,
            flags: reader.u32()?,
        })
    };
    read().map_err(|e: super::codec::Malformed| io::Error::other(e))
}

fn clear_late_flags(fd: impl AsFd) -> Result<(), Errno> {
    let now = rustix::fs::ioctl_getflags(&fd)?;
    let new = rustix::fs::IFlags::from_bits_retain(now.bits() & !LATE_FLAGS);
    rustix::fs::ioctl_setflags(&fd, new)
}

/// The last directory that was opened, for the next path in it.
#[derive(Debug, Default)]
pub struct DirCache(Option<(Vec<u8>, OwnedFd)>);

impl DirCache {
    /// The directory at `path`, opened now or before.
    pub fn open(&mut self, tree: &Tree, path: &[u8]) -> Result<&OwnedFd, Errno> {
        if self.0.as_ref().is_none_or(|(held, _)| held != path) {
            self.0 = Some((path.to_vec(), tree.open_dir(path)?));
        }
        Ok(self.0.as_ref().map(|(_, fd)| fd).expect("set above"))
    }

    /// Forgets what is held (the path may lead elsewhere now).
    pub fn clear(&mut self) {
        self.0 = None;
    }
}

/// What stands at `name` in `dir` right now.
fn identity(dir: &OwnedFd, name: &[u8]) -> Result<Option<(Old, u32)>, Errno> {
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
    let stat = match rustix::fs::statx(dir, name, flags, StatxFlags::BASIC_STATS) {
        Ok(stat) => stat,
        Err(Errno::NOENT) => return Ok(None),
        Err(error) => return Err(error),
    };
    let kind = super::tree::kind_of(u32::from(stat.stx_mode));
    let old = Old {
        kind,
        ino: stat.stx_ino,
        size: if kind == Kind::File { stat.stx_size } else { 0 },
        mtime: Time {
            secs: stat.stx_mtime.tv_sec,
            nanos: stat.stx_mtime.tv_nsec,
        },
    };
    Ok(Some((old, stat.stx_nlink)))
}

impl Old {
    /// Whether `now` is still what the plan saw. A directory's time moves with its content.
    fn is_still(&self, now: &Self) -> bool {
        if self.kind == Kind::Dir {
            return now.kind == Kind::Dir && self.ino == now.ino;
        }
        self == now
    }
}

/// Moves the finished thing `staged` to `path`.
pub fn place(
    shared: &Shared<'_>,
    dirs: &mut DirCache,
    staged: &str,
    new_kind: Kind,
    path: &[u8],
    old: Option<&Old>,
) -> Result<(), PlaceError> {
    let (parent, name) = split(path);
    let dir = dirs.open(shared.tree, parent)?;
    shared.touch(parent, dir)?;
    let now = identity(dir, name)?;
    let staging = shared.staging.dir();
    let create =
        || match rustix::fs::renameat_with(staging, staged, dir, name, RenameFlags::NOREPLACE) {
            Err(Errno::EXIST) => Err(PlaceError::Appeared),
            other => Ok(other?),
        };
    let Some(old) = old else {
        return if now.is_some() {
            Err(PlaceError::Appeared)
        } else {
            create()
        };
    };
    let Some((now, _)) = now else {
        // Removed meanwhile: nothing is lost by putting the new one there.
        return create();
    };
    if !old.is_still(&now) {
        return Err(PlaceError::Changed);
    }
    let exchange = old.kind == Kind::Dir || new_kind == Kind::Dir;
    let rename = || {
        if exchange {
            rustix::fs::renameat_with(staging, staged, dir, name, RenameFlags::EXCHANGE)
        } else {
            rustix::fs::renameat(staging, staged, dir, name)
        }
    };
    match rename() {
        // An immutable or append-only file gives way only without its flags.
        Err(Errno::PERM) => {
            let file = shared
                .tree
                .open_child(dir.as_fd(), name)
                .or_else(|_| shared.tree.open_file(dir.as_fd(), name))?;
            clear_late_flags(&file)?;
            rename()?;
        }
        other => other?,
    }
    if old.kind == Kind::Dir {
        lock(&shared.displaced).insert(path.to_vec(), staged.to_owned());
        dirs.clear();
    }
    Ok(())
}

/// Makes `path` a further name of the inode at `leader`.
pub fn place_link(
    shared: &Shared<'_>,
    dirs: &mut DirCache,
    leader: &[u8],
    path: &[u8],
    old: Option<&Old>,
) -> Result<(), PlaceError> {
    let (leader_parent, leader_name) = split(leader);
    let staged = shared.staging.new_name();
    let leader_dir = shared.tree.open_dir(leader_parent)?;
    let Some((leader_now, _)) = identity(&leader_dir, leader_name)? else {
        return Err(PlaceError::Io(Errno::NOENT));
    };
    {
        let dir = dirs.open(shared.tree, split(path).0)?;
        if let Some((now, _)) = identity(dir, split(path).1)?
            && now.ino == leader_now.ino
        {
            return Ok(());
        }
    }
    let link = || {
        let flags = AtFlags::empty();
        rustix::fs::linkat(
            &leader_dir,
            leader_name,
            shared.staging.dir(),
            &staged[..],
            flags,
        )
    };
    let mut late = 0;
    match link() {
        // An immutable file takes no further name.
        Err(Errno::PERM) => {
            let file = shared.tree.open_file(leader_dir.as_fd(), leader_name)?;
            late = rustix::fs::ioctl_getflags(&file)?.bits() & LATE_FLAGS;
            clear_late_flags(&file)?;
            link()?;
        }
        other => other?,
    }
    let placed = place(shared, dirs, &staged, leader_now.kind, path, old);
    if late != 0 {
        let file = shared.tree.open_file(leader_dir.as_fd(), leader_name)?;
        set_flags(file.as_fd(), late | current_flags(&file)?, u32::MAX)?;
    }
    placed
}

fn current_flags(file: &OwnedFd) -> Result<u32, Errno> {
    Ok(rustix::fs::ioctl_getflags(file)?.bits() & super::entry::FLAGS)
}

/// Sets the flags that were kept back, on the thing just placed.
pub fn set_late_flags(
    shared: &Shared<'_>,
    dirs: &mut DirCache,
    path: &[u8],
    flags: u32,
) -> Result<(), PlaceError> {
    let (parent, name) = split(path);
    let dir = dirs.open(shared.tree, parent)?;
    let file = shared.tree.open_file(dir.as_fd(), name)?;
    Ok(set_flags(
        file.as_fd(),
        current_flags(&file)? | flags,
        u32::MAX,
    )?)
}

/// What became of a deletion.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deleted {
    /// It is gone.
    Gone,
    /// A directory that is not empty: something new is in it.
    NotEmpty,
}

/// Removes what the plan saw at `path`. `displaced` has the directories that gave way.
pub fn delete(
    shared: &Shared<'_>,
    dirs: &mut DirCache,
    path: &[u8],
    old: &Old,
) -> Result<Deleted, PlaceError> {
    let (parent, name) = split(path);
    let displaced = displaced_parent(shared, parent);
    let held;
    let dir = if let Some((staged, rest)) = displaced {
        let top = shared
            .tree
            .open_child(shared.staging.dir(), staged.as_bytes())?;
        held = if rest.is_empty() {
            top
        } else {
            shared.tree.open_child(top.as_fd(), &rest)?
        };
        clear_late_flags(&held)?;
        &held
    } else {
        let dir = match dirs.open(shared.tree, parent) {
            Ok(dir) => dir,
            Err(Errno::NOENT) => return Ok(Deleted::Gone),
            Err(error) => return Err(error.into()),
        };
        shared.touch(parent, dir)?;
        dir
    };
    let Some((now, nlink)) = identity(dir, name)? else {
        return Ok(Deleted::Gone);
    };
    if !old.is_still(&now) {
        return Err(PlaceError::Changed);
    }
    let flags = if old.kind == Kind::Dir {
        AtFlags::REMOVEDIR
    } else {
        AtFlags::empty()
    };
    let unlink = || rustix::fs::unlinkat(dir, name, flags);
    match unlink() {
        Err(Errno::PERM) if matches!(old.kind, Kind::File | Kind::Dir) => {
            let file = if old.kind == Kind::Dir {
                shared.tree.open_child(dir.as_fd(), name)?
            } else {
                shared.tree.open_file(dir.as_fd(), name)?
            };
            let late = current_flags(&file)? & LATE_FLAGS;
            clear_late_flags(&file)?;
            let done = unlink();
            if late != 0 && (done.is_err() || nlink > 1) {
                set_flags(file.as_fd(), current_flags(&file)? | late, u32::MAX)?;
            }
            done?;
        }
        Err(Errno::NOTEMPTY | Errno::EXIST) => return Ok(Deleted::NotEmpty),
        other => other?,
    }
    Ok(Deleted::Gone)
}

/// If `parent` is, or lies in, a directory that gave way: its name in the staging directory, and
/// the way from there.
fn displaced_parent(shared: &Shared<'_>, parent: &[u8]) -> Option<(String, Vec<u8>)> {
    let displaced = lock(&shared.displaced);
    if displaced.is_empty() {
        return None;
    }
    let mut prefix = parent;
    loop {
        if let Some(staged) = displaced.get(prefix) {
            let rest = parent[prefix.len()..].strip_prefix(b"/").unwrap_or(b"");
            return Some((staged.clone(), rest.to_vec()));
        }
        if prefix.is_empty() {
            return None;
        }
        prefix = split(prefix).0;
    }
}

/// Gives a touched directory back the time and flags it had.
pub fn restore(tree: &Tree, before: &Before) -> Result<(), Errno> {
    let dir = match tree.open_dir(&before.path) {
        Ok(dir) => dir,
        // Removed or replaced since.
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::XDEV) => return Ok(()),
        Err(error) => return Err(error),
    };
    set_mtime(dir.as_fd(), before.mtime)?;
    if before.flags != 0 {
        set_flags(dir.as_fd(), current_flags(&dir)? | before.flags, u32::MAX)?;
    }
    Ok(())
}
