//! Moving finished things into place, and removing what shall go: the only code that changes what a
//! person sees.
//!
//! Every change is one rename, link or unlink relative to a held directory that was reached without
//! following a link. What stands at the path must still be what the plan saw; else it is left alone.

mod over;

use std::collections::{BTreeMap, HashSet};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::fs::{AtFlags, RenameFlags, Statx, StatxFlags};
use rustix::io::Errno;

use super::codec::{Reader, put_bytes, put_u64};
use super::entry::{Kind, Meta, Time};
use super::path::{PATH_LIMIT, split};
use super::plan::Old;
use super::spool::{Spool, SpoolWriter};
use super::staging::{self, LATE_FLAGS, Staging, set_flags, set_mtime};
use super::tree::Tree;
use super::wire::{put_time, read_time};

pub use self::over::{delete_in, move_over};

/// Why one entry was not changed.
#[derive(Debug, thiserror::Error)]
pub enum PlaceError {
    /// Something is there that the plan did not see.
    #[error("appeared on the target meanwhile; left as it is")]
    Appeared,
    /// What is there is not what the plan saw.
    #[error("changed on the target meanwhile; left as it is")]
    Changed,
    /// What somebody put in its place was moved and could not go back.
    #[error("exchanged on the target meanwhile; what came in its place is in {0}")]
    Kept(String),
    /// What is at its first name is not what the source has.
    #[error("not linked: its first name is not what it should be on the target")]
    Leader,
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
    /// Its inode number: another directory of that name is left as it is.
    pub ino: u64,
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
        put_u64(&mut record, stat.stx_ino);
        put_time(&mut record, mtime);
        put_u64(&mut record, u64::from(flags));
        touched.spool.push(&record)?;
        // Still locked: the other thread must not go on before the flags are gone.
        if flags != 0 {
            clear_late_flags(dir)?;
        }
        drop(touched);
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
        let ino = reader.u64()?;
        let mtime = read_time(&mut reader)?;
        Ok(Before {
            path,
            ino,
            mtime,
            flags: reader.u32()?,
        })
    };
    read().map_err(|e: super::codec::Malformed| io::Error::other(e))
}

/// Clears the late flags and says which were set.
fn clear_late_flags(fd: &OwnedFd) -> Result<u32, Errno> {
    let now = match rustix::fs::ioctl_getflags(fd) {
        Ok(flags) => flags.bits(),
        Err(Errno::NOTTY | Errno::OPNOTSUPP) => 0,
        Err(error) => return Err(error),
    };
    if now & LATE_FLAGS != 0 {
        let new = rustix::fs::IFlags::from_bits_retain(now & !LATE_FLAGS);
        rustix::fs::ioctl_setflags(fd, new)?;
    }
    Ok(now & LATE_FLAGS)
}

/// Sets late flags in addition to the flags there are.
fn add_late_flags(fd: &OwnedFd, late: u32) -> Result<(), Errno> {
    if late == 0 {
        return Ok(());
    }
    set_flags(fd.as_fd(), current_flags(fd)? | late, u32::MAX)
}

/// Opens the file or directory `name` to change its flags, if it still is what the plan saw.
fn open_old(
    shared: &Shared<'_>,
    dir: &OwnedFd,
    name: &[u8],
    old: &Old,
) -> Result<OwnedFd, PlaceError> {
    let fd = if old.kind == Kind::Dir {
        shared.tree.open_child(dir.as_fd(), name)?
    } else {
        shared.tree.open_file(dir.as_fd(), name)?
    };
    if rustix::fs::fstat(&fd)?.st_ino == old.ino {
        Ok(fd)
    } else {
        Err(PlaceError::Changed)
    }
}

/// The last directory that was opened, for the next path in it.
#[derive(Debug, Default)]
pub struct DirCache(Option<(Vec<u8>, OwnedFd)>);

impl DirCache {
    /// The directory at `path`, opened now or before.
    pub fn open(&mut self, tree: &Tree, path: &[u8]) -> Result<&OwnedFd, Errno> {
        self.open_below(tree, tree.root(), path)
    }

    /// The directory at `path` below `top`, always the same one, opened now or before.
    pub fn open_below(
        &mut self,
        tree: &Tree,
        top: BorrowedFd<'_>,
        path: &[u8],
    ) -> Result<&OwnedFd, Errno> {
        if self.0.as_ref().is_none_or(|(held, _)| held != path) {
            self.0 = Some((path.to_vec(), tree.open_below(top, path)?));
        }
        Ok(self.0.as_ref().map(|(_, fd)| fd).expect("set above"))
    }

    /// Forgets what is held (the path may lead elsewhere now).
    pub fn clear(&mut self) {
        self.0 = None;
    }
}

/// What stands at `name` in `dir` right now.
fn identity(dir: impl AsFd, name: &[u8]) -> Result<Option<(Old, u32)>, Errno> {
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
    let stat = match rustix::fs::statx(dir, name, flags, StatxFlags::BASIC_STATS) {
        Ok(stat) => stat,
        Err(Errno::NOENT) => return Ok(None),
        Err(error) => return Err(error),
    };
    Ok(Some((old_of(&stat), stat.stx_nlink)))
}

fn old_of(stat: &Statx) -> Old {
    let kind = super::tree::kind_of(u32::from(stat.stx_mode));
    Old {
        kind,
        ino: stat.stx_ino,
        size: if kind == Kind::File { stat.stx_size } else { 0 },
        mtime: Time {
            secs: stat.stx_mtime.tv_sec,
            nanos: stat.stx_mtime.tv_nsec,
        },
    }
}

impl Old {
    /// What is open as `fd`.
    pub fn of(fd: impl AsFd) -> Result<Self, Errno> {
        let stat = rustix::fs::statx(fd, "", AtFlags::EMPTY_PATH, StatxFlags::BASIC_STATS)?;
        Ok(old_of(&stat))
    }

    /// When what is open as `fd` was last touched: of all its times the one that nobody can set.
    pub fn touched_at(fd: impl AsFd) -> Result<Time, Errno> {
        let stat = rustix::fs::statx(fd, "", AtFlags::EMPTY_PATH, StatxFlags::CTIME)?;
        Ok(Time {
            secs: stat.stx_ctime.tv_sec,
            nanos: stat.stx_ctime.tv_nsec,
        })
    }

    /// Whether `now` is still what the plan saw. A directory's time moves with its content.
    #[must_use]
    pub fn is_still(&self, now: &Self) -> bool {
        if self.kind == Kind::Dir {
            return now.kind == Kind::Dir && self.ino == now.ino;
        }
        self == now
    }
}

/// Moves `name` in `from` to the name `new` in `to`, where nothing may be.
pub fn rename_new(
    from: BorrowedFd<'_>,
    name: &[u8],
    to: &OwnedFd,
    new: &[u8],
) -> Result<(), PlaceError> {
    match rustix::fs::renameat_with(from, name, to, new, RenameFlags::NOREPLACE) {
        Err(Errno::EXIST) => Err(PlaceError::Appeared),
        other => Ok(other?),
    }
}

/// Moves the finished thing `name` in `from` to `path`, where nothing may be.
pub fn place_new(
    shared: &Shared<'_>,
    dirs: &mut DirCache,
    from: BorrowedFd<'_>,
    name: &[u8],
    path: &[u8],
) -> Result<(), PlaceError> {
    let (parent, new) = split(path);
    let dir = dirs.open(shared.tree, parent)?;
    shared.touch(parent, dir)?;
    rename_new(from, name, dir, new)
}

/// Something on its way from one place to another.
pub struct Moving<'m> {
    /// Where it is.
    pub now: &'m [u8],
    /// Where the directory it is in will be when all is done; nothing if it gives way to something else.
    pub parent_after: Option<&'m [u8]>,
    /// Where it shall be.
    pub to: &'m [u8],
    /// What is there and takes its place, if anything is.
    pub instead: Option<&'m Old>,
}

impl Moving<'_> {
    /// The directory that it is in, and the one it comes to.
    fn open(&self, shared: &Shared<'_>) -> Result<(OwnedFd, OwnedFd), PlaceError> {
        let to_parent = split(self.to).0;
        let from = shared.tree.open_dir(split(self.now).0)?;
        let to = shared.tree.open_dir(to_parent)?;
        match self.parent_after {
            Some(after) => shared.touch(after, &from)?,
            None => drop(clear_late_flags(&from)?),
        }
        shared.touch(to_parent, &to)?;
        Ok((from, to))
    }
}

/// Whether `name` in `dir` still is what the plan saw.
fn is(dir: impl AsFd, name: &[u8], old: &Old) -> Result<bool, Errno> {
    let now = identity(dir, name)?;
    Ok(now.is_some_and(|(now, _)| old.is_still(&now)))
}

/// Moves what was `old` as it is, by one rename.
pub fn move_as_it_is(
    shared: &Shared<'_>,
    moving: &Moving<'_>,
    old: &Old,
) -> Result<(), PlaceError> {
    let (name, to_name) = (split(moving.now).1, split(moving.to).1);
    let (from, to) = moving.open(shared)?;
    if !is(&from, name, old)? {
        return Err(PlaceError::Changed);
    }
    let flags = match moving.instead {
        Some(other) if is(&to, to_name, other)? => RenameFlags::EXCHANGE,
        Some(_) => return Err(PlaceError::Changed),
        None => RenameFlags::NOREPLACE,
    };
    match rustix::fs::renameat_with(&from, name, &to, to_name, flags) {
        Err(Errno::EXIST) => return Err(PlaceError::Appeared),
        other => other?,
    }
    let moved = is(&to, to_name, old)?;
    let back = moving
        .instead
        .map_or(Ok(true), |other| is(&from, name, other))?;
    if moved && back {
        return Ok(());
    }
    // Somebody put something else there in between: it is not for us to move.
    Err(take_back(shared, (&from, name), (&to, to_name), flags))
}

/// Takes back a move of what was not meant, from `to` to `from`.
///
/// Whoever can write to `to` says what is taken back: they may have exchanged what came there, or what is there
/// now only since. So it goes to `from` only where that is as much theirs, else to where only root can reach it; and
/// so it does if its name is taken again.
pub(super) fn take_back(
    shared: &Shared<'_>,
    (from, name): (&OwnedFd, &[u8]),
    (to, to_name): (&OwnedFd, &[u8]),
    flags: RenameFlags,
) -> PlaceError {
    let back = |flags| rustix::fs::renameat_with(to, to_name, from, name, flags);
    let is_exchange = flags == RenameFlags::EXCHANGE;
    let done = match (gains_nothing(to, from), gains_nothing(from, to)) {
        (Ok(true), Ok(also)) if also || !is_exchange => match back(flags) {
            Err(Errno::NOENT) if is_exchange => back(RenameFlags::NOREPLACE),
            other => other,
        },
        (Err(errno), _) | (_, Err(errno)) => Err(errno),
        _ => Err(Errno::EXIST),
    };
    match done {
        // Who can write there has taken it away.
        Ok(()) | Err(Errno::NOENT) => PlaceError::Changed,
        Err(_) => match staging::keep(shared.tree, to.as_fd(), to_name) {
            Ok(kept) => PlaceError::Kept(kept),
            Err(Errno::NOENT) => PlaceError::Changed,
            Err(errno) => PlaceError::Io(errno),
        },
    }
}

/// Whether everybody who can change what is in the directory `one` can do so in `other`: it is the same, or
/// belongs to the same person, or to root, and nobody else may write to it.
fn gains_nothing(one: &OwnedFd, other: &OwnedFd) -> Result<bool, Errno> {
    let (one, other) = (rustix::fs::fstat(one)?, rustix::fs::fstat(other)?);
    let is_owners_alone = one.st_mode & 0o022 == 0; // an ACL's mask is in the group's bits
    let is_same = (one.st_dev, one.st_ino) == (other.st_dev, other.st_ino);
    Ok(is_same || is_owners_alone && (one.st_uid == other.st_uid || one.st_uid == 0))
}

/// Fails unless what was `old` is at `path`.
pub fn is_there(shared: &Shared<'_>, path: &[u8], old: &Old) -> Result<(), PlaceError> {
    let (parent, name) = split(path);
    match identity(&shared.tree.open_dir(parent)?, name)? {
        Some((now, _)) if old.is_still(&now) => Ok(()),
        _ => Err(PlaceError::Changed),
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
    let staging = shared.staging.dir();
    let Some(old) = old else {
        return place_new(shared, dirs, staging, staged.as_bytes(), path);
    };
    let (parent, name) = split(path);
    let dir = dirs.open(shared.tree, parent)?;
    shared.touch(parent, dir)?;
    let Some((now, nlink)) = identity(dir, name)? else {
        // Removed meanwhile: nothing is lost by putting the new one there.
        return rename_new(staging, staged.as_bytes(), dir, name);
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
        Err(Errno::PERM) if matches!(old.kind, Kind::File | Kind::Dir) => {
            let node = open_old(shared, dir, name, old)?;
            let late = clear_late_flags(&node)?;
            let done = rename();
            // It stays, or has names elsewhere that keep it.
            if done.is_err() || (old.kind == Kind::File && nlink > 1) {
                add_late_flags(&node, late)?;
            }
            done?;
        }
        other => other?,
    }
    if old.kind == Kind::Dir {
        lock(&shared.displaced).insert(path.to_vec(), staged.to_owned());
        dirs.clear();
    }
    Ok(())
}

/// Whether the thing just linked is what the source said of it.
///
/// A person may have put something else at the leader's path: it must not appear under a name in
/// somebody else's directory. Owner, time and size together cannot be forged for another's file.
fn is_as_wanted(stat: &Statx, want: &Meta) -> bool {
    let now = old_of(stat);
    now.kind == want.kind
        && (stat.stx_uid, stat.stx_gid) == (want.uid, want.gid)
        && now.mtime == want.mtime
        && (want.kind != Kind::File || now.size == want.size)
        && (want.kind == Kind::Symlink || u32::from(stat.stx_mode) & 0o7777 == want.mode)
}

/// Makes `path` a further name of the inode at `leader`, if that is what `want` says.
pub fn place_link(
    shared: &Shared<'_>,
    dirs: &mut DirCache,
    leader: &[u8],
    path: &[u8],
    old: Option<&Old>,
    want: &Meta,
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
    // Under its staged name nobody can exchange it any more.
    let mut place_linked = || {
        let flags = AtFlags::SYMLINK_NOFOLLOW;
        let staging = shared.staging.dir();
        let stat = rustix::fs::statx(staging, &staged[..], flags, StatxFlags::BASIC_STATS)?;
        if !is_as_wanted(&stat, want) {
            return Err(PlaceError::Leader);
        }
        place(shared, dirs, &staged, leader_now.kind, path, old)
    };
    match link() {
        Ok(()) => place_linked(),
        // An immutable file takes no further name.
        Err(Errno::PERM) if leader_now.kind == Kind::File => {
            let file = open_old(shared, &leader_dir, leader_name, &leader_now)?;
            let late = clear_late_flags(&file)?;
            let placed = link()
                .map_err(PlaceError::from)
                .and_then(|()| place_linked());
            add_late_flags(&file, late)?;
            placed
        }
        Err(error) => Err(error.into()),
    }
}

fn current_flags(file: &OwnedFd) -> Result<u32, Errno> {
    Ok(rustix::fs::ioctl_getflags(file)?.bits() & super::entry::FLAGS)
}

/// Moves the finished file `staged` to `path` and then sets the flags that were kept back, on what
/// was moved, whatever the path leads to by then.
pub fn place_flagged(
    shared: &Shared<'_>,
    dirs: &mut DirCache,
    staged: &str,
    path: &[u8],
    old: Option<&Old>,
    late: u32,
) -> Result<(), PlaceError> {
    let file = shared
        .tree
        .open_file(shared.staging.dir(), staged.as_bytes())?;
    place(shared, dirs, staged, Kind::File, path, old)?;
    Ok(add_late_flags(&file, late)?)
}

/// A directory that appeared where one was to be made is as good if somebody made it since `planned`
/// and it belongs to whom it shall belong: the directory, and its inode number. Otherwise it may have
/// been moved there to have it given away.
pub fn made_meanwhile(
    tree: &Tree,
    path: &[u8],
    owner: (u32, u32),
    planned: Time,
) -> Result<(OwnedFd, u64), PlaceError> {
    let dir = tree.open_dir(path).map_err(|_| PlaceError::Appeared)?;
    let mask = StatxFlags::BASIC_STATS | StatxFlags::BTIME;
    let stat = rustix::fs::statx(&dir, "", AtFlags::EMPTY_PATH, mask)?;
    let born = (stat.stx_btime.tv_sec, stat.stx_btime.tv_nsec);
    let is_new =
        stat.stx_mask & StatxFlags::BTIME.bits() != 0 && born >= (planned.secs, planned.nanos);
    if is_new && (stat.stx_uid, stat.stx_gid) == owner {
        Ok((dir, stat.stx_ino))
    } else {
        Err(PlaceError::Appeared)
    }
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
        held = shared.tree.open_below(top.as_fd(), &rest)?;
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
    unlink_old(shared, dir, name, old)
}

/// Removes `name` in `dir`, if it is what the plan saw.
fn unlink_old(
    shared: &Shared<'_>,
    dir: &OwnedFd,
    name: &[u8],
    old: &Old,
) -> Result<Deleted, PlaceError> {
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
            let node = open_old(shared, dir, name, old)?;
            let late = clear_late_flags(&node)?;
            let done = unlink();
            if done.is_err() || (old.kind == Kind::File && nlink > 1) {
                add_late_flags(&node, late)?;
            }
            match done {
                Err(Errno::NOTEMPTY | Errno::EXIST) => return Ok(Deleted::NotEmpty),
                other => other?,
            }
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
    // Another directory of that name is left as it is.
    if rustix::fs::fstat(&dir)?.st_ino != before.ino {
        return Ok(());
    }
    set_mtime(dir.as_fd(), before.mtime)?;
    if before.flags != 0 {
        set_flags(dir.as_fd(), current_flags(&dir)? | before.flags, u32::MAX)?;
    }
    Ok(())
}
