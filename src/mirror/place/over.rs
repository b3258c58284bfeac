//! Moving something over what stands there and is nowhere any more on the source.
//!
//! What is moved is taken into the staging directory first, where nobody can exchange it any more: a further
//! name of a file, a directory itself. There it must be what the plan saw. Then both trade places, and what has
//! come into the staging directory must be what the plan saw there; else they trade places once more. So at
//! every moment each of both paths is its old or its new version, and what gives way goes last. Nothing of it
//! ever appears in a directory of somebody else.

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{AtFlags, RenameFlags, renameat_with};
use rustix::io::Errno;

use super::{Deleted, Moving, PlaceError, Shared, clear_late_flags, is, rename_new, unlink_old};
use crate::mirror::entry::Kind;
use crate::mirror::path::split;
use crate::mirror::plan::Old;
use crate::mirror::staging;

/// Moves what was `old` to where `over` gives way. A directory that gave way is in the staging directory
/// then, with all that was in it: `gave_way` is its name there.
pub fn move_over(
    shared: &Shared<'_>,
    moving: &Moving<'_>,
    old: &Old,
    over: &Old,
    gave_way: &mut Option<String>,
) -> Result<(), PlaceError> {
    let (name, to_name) = (split(moving.now).1, split(moving.to).1);
    let (from, to) = moving.open(shared)?;
    if !is(&to, to_name, over)? || !is(&from, name, old)? {
        return Err(PlaceError::Changed);
    }
    let taken = Taken {
        shared,
        staged: shared.staging.new_name(),
        is_link: old.kind != Kind::Dir,
        from: (&from, name),
    };
    taken.take()?;
    let staging = shared.staging.dir();
    if !is(staging, taken.staged.as_bytes(), old)? {
        return Err(taken.put_back());
    }
    let exchange = || {
        renameat_with(
            staging,
            &taken.staged[..],
            &to,
            to_name,
            RenameFlags::EXCHANGE,
        )
    };
    match exchange() {
        Err(Errno::NOENT) => {
            // Removed meanwhile: nothing is lost by putting this one there.
            if let Err(error) = rename_new(staging, taken.staged.as_bytes(), &to, to_name) {
                taken.put_back();
                return Err(error);
            }
            return taken.leave(old);
        }
        Err(errno) => {
            taken.put_back();
            return Err(errno.into());
        }
        Ok(()) => {}
    }
    if !is(staging, taken.staged.as_bytes(), over)? {
        // Somebody put something else there in between: it goes back.
        return Err(match exchange() {
            Ok(()) if is(staging, taken.staged.as_bytes(), old)? => taken.put_back(),
            // What came instead is not for us to move either.
            Ok(()) => taken.keep(),
            Err(_) => taken.give_up(&to, to_name),
        });
    }
    if over.kind == Kind::Dir {
        *gave_way = Some(taken.staged.clone());
    } else {
        shared.staging.unlink(&taken.staged)?;
    }
    taken.leave(old)
}

/// What was taken into the staging directory.
struct Taken<'a> {
    shared: &'a Shared<'a>,
    /// Its name there.
    staged: String,
    /// Whether it still has its name where it was.
    is_link: bool,
    /// Where it was.
    from: (&'a OwnedFd, &'a [u8]),
}

impl Taken<'_> {
    fn take(&self) -> Result<(), Errno> {
        let (dir, name) = self.from;
        let staging = self.shared.staging.dir();
        if self.is_link {
            return rustix::fs::linkat(dir, name, staging, &self.staged[..], AtFlags::empty());
        }
        renameat_with(dir, name, staging, &self.staged[..], RenameFlags::NOREPLACE)
    }

    /// It has come to stand where it shall be, and goes from where it was.
    fn leave(&self, old: &Old) -> Result<(), PlaceError> {
        let (dir, name) = self.from;
        if self.is_link {
            unlink_old(self.shared, dir, name, old)?;
        }
        Ok(())
    }

    /// It goes back to where it was, where nobody but those who can write there could get at it.
    fn put_back(&self) -> PlaceError {
        let (dir, name) = self.from;
        let staging = self.shared.staging.dir();
        if self.is_link {
            // It is where it was.
            let removed = self.shared.staging.unlink(&self.staged);
            return removed.map_or_else(PlaceError::Io, |()| PlaceError::Changed);
        }
        match rename_new(staging, self.staged.as_bytes(), dir, name) {
            Ok(()) => PlaceError::Changed,
            Err(_) => self.keep(),
        }
    }

    /// What is staged now goes to `name` in `dir`, where it came from and where nothing is any more.
    fn give_up(&self, dir: &OwnedFd, name: &[u8]) -> PlaceError {
        match rename_new(self.shared.staging.dir(), self.staged.as_bytes(), dir, name) {
            Ok(()) => PlaceError::Changed,
            Err(_) => self.keep(),
        }
    }

    fn keep(&self) -> PlaceError {
        let staging = self.shared.staging.dir();
        match staging::keep(self.shared.tree, staging, self.staged.as_bytes()) {
            Ok(kept) => PlaceError::Kept(kept),
            Err(errno) => PlaceError::Io(errno),
        }
    }
}

/// Removes `path` below the directory `top`, which gave way, if it is what the plan saw.
pub fn delete_in(
    shared: &Shared<'_>,
    top: &OwnedFd,
    path: &[u8],
    old: &Old,
) -> Result<Deleted, PlaceError> {
    let (parent, name) = split(path);
    let dir = shared.tree.open_below(top.as_fd(), parent)?;
    clear_late_flags(&dir)?;
    unlink_old(shared, &dir, name, old)
}
