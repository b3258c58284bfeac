//! New directories, made where nobody can reach them and filled under their final names, so that a
//! whole tree is placed with one rename.
//!
//! While they are being filled they are root's, mode 0700, and hand nothing down. They get their
//! attributes and times when their lot is complete; what comes later is placed into them one by one.

use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use rustix::io::Errno;

use super::lot::Top;
use super::outcome::Outcome;
use crate::mirror::entry::{Kind, Meta, Time};
use crate::mirror::path::{join, split};
use crate::mirror::place::{self, DirCache, PlaceError, Shared};
use crate::mirror::plan::{Old, Op};
use crate::mirror::staging::{self, LATE_FLAGS};
use crate::mirror::tree::Names;

/// A place in a new directory.
#[derive(Debug, Clone)]
pub(super) struct Inside {
    /// The directory, below where new ones are made.
    dir: Arc<[u8]>,
    /// The first of the new directories on the way to it.
    pub(super) top: Arc<Top>,
}

impl Inside {
    /// The directory, open.
    pub(super) fn open<'d>(
        &self,
        shared: &Shared<'_>,
        dirs: &'d mut DirCache,
    ) -> Result<&'d OwnedFd, Errno> {
        dirs.open_below(shared.tree, shared.staging.fresh(), &self.dir)
    }
}

/// A new directory to be finished.
pub(super) struct FreshDir {
    path: Arc<[u8]>,
    at: Arc<[u8]>,
    meta: Meta,
}

/// The new directories of a lot.
#[derive(Default)]
pub(super) struct Fresh {
    by_path: HashMap<Arc<[u8]>, Inside>,
    dirs: Vec<FreshDir>,
}

/// A new directory that was made.
pub(super) struct Made {
    /// If it is not in another one.
    pub(super) top: Option<Arc<Top>>,
    /// Its inode number if it is not finished with its lot, else 0.
    pub(super) ino: u64,
}

impl Fresh {
    /// The new directory that `path` is in, if it is in one.
    pub(super) fn holds(&self, path: &[u8]) -> Option<&Inside> {
        self.by_path.get(split(path).0)
    }

    /// Makes the directory of `op`.
    pub(super) fn make(
        &mut self,
        shared: &Shared<'_>,
        dirs: &mut DirCache,
        op: &Op,
    ) -> Result<Made, Errno> {
        let held = self.holds(&op.path).filter(|_| op.old.is_none()).cloned();
        let is_top = held.is_none();
        let parent = held.unwrap_or_else(|| Inside {
            dir: Arc::from(&b""[..]),
            top: Arc::new(Top::new(shared.staging.new_name())),
        });
        let name = if is_top {
            parent.top.staged.as_bytes()
        } else {
            split(&op.path).1
        };
        let dir = parent.open(shared, dirs)?;
        staging::new_bare_dir(shared.tree, dir.as_fd(), name, &op.meta)?;
        let late = op.meta.flags & LATE_FLAGS != 0;
        let ino = if late {
            rustix::fs::statat(dir, name, rustix::fs::AtFlags::SYMLINK_NOFOLLOW)?.st_ino
        } else {
            0
        };
        parent.top.add(op);
        let at: Arc<[u8]> = join(&parent.dir, name).into();
        let path: Arc<[u8]> = op.path[..].into();
        let inside = Inside {
            dir: Arc::clone(&at),
            top: Arc::clone(&parent.top),
        };
        self.by_path.insert(Arc::clone(&path), inside);
        let meta = op.meta.clone();
        self.dirs.push(FreshDir { path, at, meta });
        let top = is_top.then_some(parent.top);
        Ok(Made { top, ino })
    }

    /// The directories, each before those in it.
    pub(super) fn into_dirs(self) -> Vec<FreshDir> {
        self.dirs
    }
}

/// Gives new directories their attributes and times; nothing will be made in them any more.
pub(super) fn finish(shared: &Shared<'_>, dirs: &[FreshDir], outcome: &Outcome) {
    let mut parents = DirCache::default();
    for dir in dirs.iter().rev() {
        let (parent, name) = split(&dir.at);
        let finished = parents
            .open_below(shared.tree, shared.staging.fresh(), parent)
            .and_then(|parent| {
                staging::finish_bare_dir(shared.tree, parent.as_fd(), name, &dir.meta)
            });
        if let Err(error) = finished {
            let mut results = outcome.results();
            results.complain("attributes not set", &dir.path, &error);
        }
    }
}

/// Moves the new directory `top` to `path`; what stands there gives way if it is `old`. Returns the
/// paths of what stays behind.
pub(super) fn place_tree(
    shared: &Shared<'_>,
    dirs: &mut DirCache,
    top: &Top,
    path: &[u8],
    old: Option<&Old>,
    planned: Time,
    outcome: &Outcome,
) -> Result<Vec<Vec<u8>>, PlaceError> {
    let fresh = shared.staging.fresh();
    if old.is_some() {
        // What gives way comes in its place: not among what may be removed with all that is in it.
        let staging = shared.staging.dir();
        let staged = &top.staged[..];
        rustix::fs::renameat(fresh, staged, staging, staged)?;
        let placed = place::place(shared, dirs, staged, Kind::Dir, path, old);
        if placed.is_err() {
            rustix::fs::renameat(staging, staged, fresh, staged)?;
        }
        return placed.map(|()| Vec::new());
    }
    match place::place_new(shared, dirs, fresh, top.staged.as_bytes(), path) {
        Ok(()) => Ok(Vec::new()),
        Err(PlaceError::Appeared) => {
            let from = shared.tree.open_child(fresh, top.staged.as_bytes())?;
            merge(shared, &from, path, planned, outcome)
        }
        Err(error) => Err(error),
    }
}

/// Moves what is in the new directory `from` into the one that somebody made at `path` meanwhile, if
/// it may be taken for ours. Returns the paths of what stays behind.
fn merge(
    shared: &Shared<'_>,
    from: &OwnedFd,
    path: &[u8],
    planned: Time,
    outcome: &Outcome,
) -> Result<Vec<Vec<u8>>, PlaceError> {
    let stat = rustix::fs::fstat(from)?;
    let owner = (stat.st_uid, stat.st_gid);
    let (to, ino) = place::made_meanwhile(shared.tree, path, owner, planned)?;
    if !outcome.results().adopt(path, ino) {
        return Err(PlaceError::Appeared);
    }
    shared.touch(path, &to)?;
    let mut behind = Vec::new();
    let names = Names::read(from.as_fd())?;
    for position in 0..names.len() {
        if outcome.stop.is_raised() {
            return Err(PlaceError::Io(Errno::INTR));
        }
        let name = names.get(position).expect("within the length");
        let path = join(path, name);
        let moved = match place::rename_new(from.as_fd(), name, &to, name) {
            Err(PlaceError::Appeared) => match shared.tree.open_child(from.as_fd(), name) {
                Ok(dir) => merge(shared, &dir, &path, planned, outcome),
                Err(_) => Err(PlaceError::Appeared),
            },
            moved => moved.map(|()| Vec::new()),
        };
        match moved {
            Ok(more) => behind.extend(more),
            Err(error) => {
                let mut results = outcome.results();
                results.complain("not changed", &path, &error);
                results.failed.insert(path.clone());
                behind.push(path);
            }
        }
    }
    Ok(behind)
}
