//! Making new things where nobody else can reach them, whole, before they are moved into place.
//!
//! The staging directory is owned by root, mode 0700, at the top of the folder and thus on the
//! same subvolume; what is made in it inherits nothing (ACLs, flags) from where it will go.
//! A directory left by a run that ended early is emptied first, but for what has arrived of large files
//! (`delta/partial.rs`); it is known by an attribute that only root can set, so nobody can make us
//! empty something else by giving it that name.
//!
//! New directories are made in a directory of their own in it, where nothing ever is that was not
//! made by us, so that all of it can be removed with what is in it.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{
    AtFlags, FileType, IFlags, Mode, OFlags, RenameFlags, Timespec, Timestamps, XattrFlags,
};
use rustix::io::Errno;
use rustix::process::{Gid, Uid};

use super::content::for_each_run;
use super::delta::partial;
use super::entry::{FLAG_APPEND, FLAG_IMMUTABLE, FLAGS, Kind, Meta, Time};
use super::filter::STAGING_NAME;
use super::tree::{Names, Tree, proc_path};
use super::wire::DATA_MAX;

/// Flags that would get in our own way; set when everything else is done.
pub const LATE_FLAGS: u32 = FLAG_IMMUTABLE | FLAG_APPEND;

/// What a directory hands down to new things in it.
const DEFAULT_ACL: &str = "system.posix_acl_default";
/// What marks a staging directory as ours.
pub const STAGING_MARK: &str = "trusted.pc-switcher.staging";
/// Where new directories are made, in the staging directory.
const FRESH_NAME: &str = "new";
/// How directories begin that are kept because something new was in them.
pub const KEPT_PREFIX: &str = ".pc-switcher-kept-";

/// Why there is no staging directory.
#[derive(Debug, thiserror::Error)]
pub enum StagingError {
    /// Something that is not ours has the name.
    #[error(
        "{STAGING_NAME} at the top of the folder is not a directory of ours: remove or rename it"
    )]
    Foreign,
    /// A system call failed.
    #[error("cannot make the staging directory: {0}")]
    Io(#[from] Errno),
}

/// The staging directory, open.
#[derive(Debug)]
pub struct Staging {
    fd: OwnedFd,
    fresh: OwnedFd,
    next: AtomicU64,
}

impl Staging {
    /// Makes (or takes over and empties) the staging directory of the folder `tree`.
    pub fn open(tree: &Tree) -> Result<Self, StagingError> {
        match rustix::fs::mkdirat(tree.root(), STAGING_NAME, Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
        let fd = tree
            .open_child(tree.root(), STAGING_NAME.as_bytes())
            .map_err(|e| match e {
                Errno::NOTDIR | Errno::LOOP | Errno::XDEV => StagingError::Foreign,
                other => StagingError::Io(other),
            })?;
        let stat = rustix::fs::fstat(&fd)?;
        if stat.st_uid != rustix::process::geteuid().as_raw() {
            return Err(StagingError::Foreign);
        }
        let marked = match rustix::fs::fgetxattr(&fd, STAGING_MARK, &mut [0u8; 1][..]) {
            Ok(_) | Err(Errno::RANGE) => true,
            Err(Errno::NODATA | Errno::OPNOTSUPP) => false,
            Err(error) => return Err(error.into()),
        };
        if !marked {
            // Made just now, or by a run that died at this very moment: empty.
            if Names::read(fd.as_fd())?.get(0).is_some() {
                return Err(StagingError::Foreign);
            }
            match rustix::fs::fsetxattr(&fd, STAGING_MARK, b"1", XattrFlags::empty()) {
                Ok(()) | Err(Errno::OPNOTSUPP) => {}
                Err(error) => return Err(error.into()),
            }
        }
        rustix::fs::fchmod(&fd, Mode::RWXU)?;
        // Whatever the folder hands down must not reach what is made here.
        for acl in [DEFAULT_ACL, "system.posix_acl_access"] {
            match rustix::fs::fremovexattr(&fd, acl) {
                Ok(()) | Err(Errno::NODATA | Errno::OPNOTSUPP) => {}
                Err(error) => return Err(error.into()),
            }
        }
        match rustix::fs::ioctl_setflags(&fd, IFlags::empty()) {
            Ok(()) | Err(Errno::NOTTY | Errno::OPNOTSUPP) => {}
            Err(error) => return Err(error.into()),
        }
        clear(tree, &fd, Parts::Stay)?;
        rustix::fs::mkdirat(&fd, FRESH_NAME, Mode::RWXU)?;
        let fresh = tree.open_child(fd.as_fd(), FRESH_NAME.as_bytes())?;
        Ok(Self {
            fd,
            fresh,
            next: AtomicU64::new(1),
        })
    }

    /// Removes the staging directory with everything in it.
    pub fn remove(&self, tree: &Tree) -> Result<(), Errno> {
        clear(tree, &self.fd, Parts::Go)?;
        rustix::fs::unlinkat(tree.root(), STAGING_NAME, AtFlags::REMOVEDIR)
    }

    /// The same after a run that ended early: what has arrived of large files may stay.
    pub fn leave(&self, tree: &Tree) -> Result<(), Errno> {
        clear(tree, &self.fd, Parts::Stay)?;
        if partial::keep_what_is_worth_it(self)? {
            return Ok(());
        }
        rustix::fs::unlinkat(tree.root(), STAGING_NAME, AtFlags::REMOVEDIR)
    }

    /// Whether a run has left a staging directory in the folder `tree`.
    #[must_use]
    pub fn is_left(tree: &Tree) -> bool {
        let flags = AtFlags::SYMLINK_NOFOLLOW;
        rustix::fs::statat(tree.root(), STAGING_NAME, flags).is_ok()
    }

    /// The directory itself.
    #[must_use]
    pub fn dir(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// The directory in it where new directories are made.
    #[must_use]
    pub fn fresh(&self) -> BorrowedFd<'_> {
        self.fresh.as_fd()
    }

    /// A name that is not in use.
    #[must_use]
    pub fn new_name(&self) -> String {
        self.next.fetch_add(1, Ordering::Relaxed).to_string()
    }

    /// An empty regular file, as [`new_file`] makes it.
    pub fn new_file(&self, name: &str, meta: &Meta) -> Result<OwnedFd, Errno> {
        new_file(self.dir(), name.as_bytes(), meta)
    }

    /// Removes a file.
    pub fn unlink(&self, name: &str) -> Result<(), Errno> {
        rustix::fs::unlinkat(&self.fd, name, AtFlags::empty())
    }
}

/// Removes what could not be finished. In a new directory it would else be placed with it.
pub fn discard(dir: BorrowedFd<'_>, name: &[u8]) -> Result<(), Errno> {
    rustix::fs::unlinkat(dir, name, AtFlags::empty())
}

/// An empty regular file `name` in `dir`, with the flags that must be there before any content. Nothing
/// is left if that fails.
pub fn new_file(dir: BorrowedFd<'_>, name: &[u8], meta: &Meta) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let fd = rustix::fs::openat(dir, name, flags, Mode::RUSR | Mode::WUSR)?;
    if let Err(error) = set_flags(fd.as_fd(), meta.flags & !LATE_FLAGS, 0) {
        discard(dir, name)?;
        return Err(error);
    }
    Ok(fd)
}

/// A directory `name` in `dir` that can have all attributes of `meta` but hands none of them down to
/// what is made in it, until [`finish_bare_dir`]. Nothing is left if that fails.
pub fn new_bare_dir(
    tree: &Tree,
    dir: BorrowedFd<'_>,
    name: &[u8],
    meta: &Meta,
) -> Result<(), Errno> {
    rustix::fs::mkdirat(dir, name, Mode::RWXU)?;
    // All of them are tried, so that what cannot be set is known before anything is in it.
    if meta.xattrs.is_empty() && meta.flags & !LATE_FLAGS == 0 {
        return Ok(());
    }
    let try_attributes = || {
        let fd = tree.open_child(dir, name)?;
        set_flags(fd.as_fd(), meta.flags & !LATE_FLAGS, 0)?;
        set_attributes(fd.as_fd(), meta)?;
        set_flags(fd.as_fd(), 0, u32::MAX)?;
        match rustix::fs::fremovexattr(&fd, DEFAULT_ACL) {
            Ok(()) | Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(()),
            Err(error) => Err(error),
        }
    };
    try_attributes().inspect_err(|_| {
        let _ = rustix::fs::unlinkat(dir, name, AtFlags::REMOVEDIR);
    })
}

/// Gives the directory `name` in `dir` the attributes of `meta`, its time among them, but for the late
/// flags. Only where nobody else can reach it: it is named, not held.
pub fn finish_bare_dir(
    tree: &Tree,
    dir: BorrowedFd<'_>,
    name: &[u8],
    meta: &Meta,
) -> Result<(), Errno> {
    if meta.xattrs.is_empty() && meta.flags & !LATE_FLAGS == 0 {
        let (uid, gid) = (Uid::from_raw(meta.uid), Gid::from_raw(meta.gid));
        let no_link = AtFlags::SYMLINK_NOFOLLOW;
        rustix::fs::chownat(dir, name, Some(uid), Some(gid), no_link)?;
        rustix::fs::chmodat(dir, name, Mode::from_raw_mode(meta.mode), AtFlags::empty())?;
        return rustix::fs::utimensat(dir, name, &times(meta.mtime), no_link);
    }
    let fd = tree.open_child(dir, name)?;
    set_flags(fd.as_fd(), meta.flags & !LATE_FLAGS, 0)?;
    set_attributes(fd.as_fd(), meta)?;
    set_mtime(fd.as_fd(), meta.mtime)
}

/// A symlink, FIFO, socket or device node `name` in `dir` with all its attributes. Nothing is left if
/// that fails.
pub fn new_node(dir: BorrowedFd<'_>, name: &[u8], meta: &Meta) -> Result<(), Errno> {
    let file_type = match meta.kind {
        Kind::Fifo => FileType::Fifo,
        Kind::Socket => FileType::Socket,
        Kind::Char => FileType::CharacterDevice,
        Kind::Block => FileType::BlockDevice,
        Kind::Symlink => FileType::Symlink,
        Kind::File | Kind::Dir | Kind::Opaque => return Err(Errno::INVAL),
    };
    let mode = Mode::from_raw_mode(meta.mode);
    if meta.kind == Kind::Symlink {
        rustix::fs::symlinkat(&meta.symlink[..], dir, name)?;
    } else {
        rustix::fs::mknodat(dir, name, file_type, mode, meta.rdev)?;
    }
    finish_node(dir, name, meta, mode).or_else(|error| {
        discard(dir, name)?;
        Err(error)
    })
}

fn finish_node(dir: BorrowedFd<'_>, name: &[u8], meta: &Meta, mode: Mode) -> Result<(), Errno> {
    let (uid, gid) = (Uid::from_raw(meta.uid), Gid::from_raw(meta.gid));
    rustix::fs::chownat(dir, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
    if meta.kind != Kind::Symlink {
        // Not a symlink, and nobody else can put one here.
        rustix::fs::chmodat(dir, name, mode, AtFlags::empty())?;
    }
    if !meta.xattrs.is_empty() {
        let path = proc_path(dir, name);
        for (key, value) in &meta.xattrs {
            rustix::fs::lsetxattr(&path, &key[..], value, XattrFlags::empty())?;
        }
    }
    rustix::fs::utimensat(dir, name, &times(meta.mtime), AtFlags::SYMLINK_NOFOLLOW)
}

fn times(mtime: Time) -> Timestamps {
    Timestamps {
        last_access: Timespec {
            tv_sec: 0,
            tv_nsec: rustix::fs::UTIME_OMIT,
        },
        last_modification: Timespec {
            tv_sec: mtime.secs,
            tv_nsec: mtime.nanos.into(),
        },
    }
}

/// Sets the modification time and leaves the access time alone.
pub fn set_mtime(fd: BorrowedFd<'_>, mtime: Time) -> Result<(), Errno> {
    rustix::fs::futimens(fd, &times(mtime))
}

/// Sets inode flags if they are not `have` already; leaves those we do not carry as they are.
pub fn set_flags(fd: BorrowedFd<'_>, want: u32, have: u32) -> Result<(), Errno> {
    if want == have {
        return Ok(());
    }
    let now = rustix::fs::ioctl_getflags(fd)?.bits();
    let new = (now & !super::entry::FLAGS) | want;
    rustix::fs::ioctl_setflags(fd, IFlags::from_bits_retain(new))
}

/// Owner, mode and extended attributes, in the order in which none undoes another: changing the
/// owner clears setuid and capabilities, changing the mode changes an ACL's mask.
pub fn set_attributes(fd: BorrowedFd<'_>, meta: &Meta) -> Result<(), Errno> {
    rustix::fs::fchown(
        fd,
        Some(Uid::from_raw(meta.uid)),
        Some(Gid::from_raw(meta.gid)),
    )?;
    rustix::fs::fchmod(fd, Mode::from_raw_mode(meta.mode))?;
    for (name, value) in &meta.xattrs {
        rustix::fs::fsetxattr(fd, &name[..], value, XattrFlags::empty())?;
    }
    Ok(())
}

/// Removes the extended attributes that `want` does not have.
pub fn remove_xattrs(fd: BorrowedFd<'_>, have: &Meta, want: &Meta) -> Result<(), Errno> {
    for (name, _) in &have.xattrs {
        if want.xattrs.binary_search_by(|(n, _)| n.cmp(name)).is_err() {
            match rustix::fs::fremovexattr(fd, &name[..]) {
                Ok(()) | Err(Errno::NODATA) => {}
                Err(error) => return Err(error),
            }
        }
    }
    Ok(())
}

/// Gives `to` (empty) the content of `from`: by reflink, or where that is not possible by copying.
pub fn copy_content(from: BorrowedFd<'_>, to: BorrowedFd<'_>, size: u64) -> Result<(), Errno> {
    match rustix::fs::ioctl_ficlone(to, from) {
        Ok(()) => return Ok(()),
        Err(Errno::OPNOTSUPP | Errno::INVAL | Errno::XDEV | Errno::TXTBSY | Errno::NOTTY) => {}
        Err(error) => return Err(error),
    }
    let mut buffer = vec![0; DATA_MAX];
    for_each_run(from, size, &mut buffer, |offset, bytes| {
        write_all(to, offset, bytes)
    })?;
    rustix::fs::ftruncate(to, size)
}

/// Writes all of `bytes` at `offset`.
pub fn write_all(to: BorrowedFd<'_>, mut offset: u64, mut bytes: &[u8]) -> Result<(), Errno> {
    while !bytes.is_empty() {
        let written = rustix::io::retry_on_intr(|| rustix::io::pwrite(to, bytes, offset))?;
        offset += written as u64;
        bytes = &bytes[written..];
    }
    Ok(())
}

/// What becomes of what has arrived of large files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Parts {
    Stay,
    Go,
}

/// Removes what is in the staging directory. Only a directory that gave way to something else and
/// was not emptied can have anything in it that is not ours: it is kept.
fn clear(tree: &Tree, staging: &OwnedFd, parts: Parts) -> Result<(), Errno> {
    let names = Names::read(staging.as_fd())?;
    for position in 0..names.len() {
        let name = names.get(position).expect("within the length");
        if parts == Parts::Stay && partial::is_one(staging.as_fd(), name)? {
            continue;
        }
        if name == FRESH_NAME.as_bytes() {
            remove_with_content(tree, staging, name)?;
            continue;
        }
        match unlink(tree, staging, name) {
            Err(Errno::NOTEMPTY | Errno::EXIST) => keep(tree, staging.as_fd(), name).map(drop)?,
            done => done?,
        }
    }
    Ok(())
}

/// Removes `name` in `dir`, an empty directory or something else, whatever its flags.
fn unlink(tree: &Tree, dir: &OwnedFd, name: &[u8]) -> Result<(), Errno> {
    let unlink = |flags| rustix::fs::unlinkat(dir, name, flags);
    let mut done = unlink(AtFlags::empty());
    if done == Err(Errno::PERM) {
        // Immutable or append-only.
        let node = match tree.open_child(dir.as_fd(), name) {
            Err(Errno::NOTDIR) => tree.open_file(dir.as_fd(), name)?,
            other => other?,
        };
        let had = rustix::fs::ioctl_getflags(&node)?.bits() & FLAGS;
        set_flags(node.as_fd(), had & !LATE_FLAGS, u32::MAX)?;
        done = unlink(AtFlags::empty());
        // Names elsewhere keep it, and with them it keeps its flags.
        if done.is_ok() && rustix::fs::fstat(&node)?.st_nlink > 0 {
            set_flags(node.as_fd(), had, u32::MAX)?;
        }
    }
    if done == Err(Errno::ISDIR) {
        done = unlink(AtFlags::REMOVEDIR);
    }
    done
}

/// Removes the directory `name` in `dir` with everything in it: only what was made by us, and as deep
/// as we make it.
fn remove_with_content(tree: &Tree, dir: &OwnedFd, name: &[u8]) -> Result<(), Errno> {
    let inside = tree.open_child(dir.as_fd(), name)?;
    let names = Names::read(inside.as_fd())?;
    for position in 0..names.len() {
        let name = names.get(position).expect("within the length");
        match unlink(tree, &inside, name) {
            Err(Errno::NOTEMPTY | Errno::EXIST) => remove_with_content(tree, &inside, name)?,
            done => done?,
        }
    }
    unlink(tree, dir, name)
}

/// Moves `name` of the staging directory, or of another one, to where it survives: into a new directory
/// that only root can look into, at the top of the folder. Returns that one's name.
pub fn keep(tree: &Tree, dir: BorrowedFd<'_>, name: &[u8]) -> Result<String, Errno> {
    match tree.open_child(dir, name) {
        // An immutable directory cannot be moved.
        Ok(moved) => set_flags(moved.as_fd(), 0, u32::MAX)?,
        Err(Errno::NOTDIR | Errno::LOOP | Errno::XDEV) => {}
        Err(error) => return Err(error),
    }
    for number in 1..10_000 {
        let kept = format!("{KEPT_PREFIX}{number}");
        match rustix::fs::mkdirat(tree.root(), &kept[..], Mode::RWXU) {
            Err(Errno::EXIST) => continue,
            other => other?,
        }
        let home = tree.open_child(tree.root(), kept.as_bytes())?;
        let moved = rustix::fs::renameat_with(dir, name, &home, "was-here", RenameFlags::NOREPLACE);
        if moved.is_err() {
            rustix::fs::unlinkat(tree.root(), &kept[..], AtFlags::REMOVEDIR)?;
        }
        return moved.map(|()| kept);
    }
    Err(Errno::EXIST)
}
