//! What may differ between two snapshots of one subvolume, from the kernel's own diff.
//!
//! `BTRFS_IOC_SEND` without file data compares the two trees and passes over all they share, so it
//! costs what changed. Its stream is read for one thing only: which inodes it is about, and what of
//! them. Nothing of it is carried out, and no path in it is believed: names are followed (`names`)
//! to the path a thing had in the older snapshot or the number of a new inode, and then both
//! snapshots' trees are asked (`snapshot`) which inode that is, what names it had and has, and what
//! differs. Where the two do not go together there is an error, not a guess. The same holds for the
//! entries of every directory that changed: their lengths must add up to the size the directory has
//! in the newer snapshot. That also finds nested subvolumes that vanished, of which the stream says
//! nothing; those that appeared are found by the generation of their entry.

mod error;
mod feed;
mod fingerprint;
mod judge;
pub(crate) mod names;
mod parts;
mod reversed;
pub(super) mod snapshot;
pub(crate) mod stream;
#[cfg(test)]
mod tests;

use std::os::fd::BorrowedFd;

use rustix::io::Errno;

pub use error::{DiffError, Side};
pub use fingerprint::Fingerprint;

use super::path::above;
use super::ranges::Ranges;
use crate::interrupt::AbortFlag;
use crate::sys::btrfs::{format_uuid, subvolume_info};
use crate::sys::inodes::InodeReader;
use feed::Feed;
use names::Names;
use stream::{Command, Stream};

/// What may differ at a path: a set of the constants below.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct What(u8);

impl What {
    /// Something is there that was not there: a new name.
    pub const APPEARED: Self = Self(1);
    /// What was there is not there any more; with [`Self::APPEARED`]: something else is.
    pub const GONE: Self = Self(2);
    /// Data of the file that was there before.
    pub const CONTENT: Self = Self(4);
    /// Anything else about what was there before: owner, mode, times, attributes, flags, other names.
    pub const ATTRIBUTES: Self = Self(8);
    /// Everything below: a directory came here or went away.
    pub const SUBTREE: Self = Self(16);
    /// It is, or was, a nested subvolume.
    pub const NESTED: Self = Self(32);

    /// Both sets together.
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// This set without the other.
    #[must_use]
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// Whether all of `other` is in it.
    #[must_use]
    pub const fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Whether it is empty.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }
}

/// A path at which the snapshots may differ.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Changed {
    /// Where it is in the newer snapshot, relative to the subvolume's root, which is the empty path.
    /// For something deleted: where it would be if it were still there, which is where it was
    /// unless a directory above it was moved.
    pub path: Vec<u8>,
    /// What may differ.
    pub what: What,
    /// With [`What::CONTENT`]: which parts of the file, up to the longer of both sizes. Everything else in the file is as it was. None at all: unknown, so
    /// all of it.
    pub ranges: Ranges,
    /// Where the same thing was in the older snapshot, if that was elsewhere and it is there no
    /// longer: it was moved, or something above it was.
    pub from: Option<Vec<u8>>,
}

/// What may differ between two snapshots. What is not in it does not differ.
#[derive(Debug, Default)]
pub struct Changes {
    list: Vec<Changed>,
    /// The format of the kernel's stream.
    pub version: u32,
    /// How many commands the stream held.
    pub commands: u64,
}

impl Changes {
    /// All paths, in byte order, each once. What is below a directory with [`What::SUBTREE`] is
    /// listed only if more is to be said about it than that.
    #[must_use]
    pub fn list(&self) -> &[Changed] {
        &self.list
    }

    /// The same, to keep.
    #[must_use]
    pub fn into_list(self) -> Vec<Changed> {
        self.list
    }

    /// What is said of a path itself.
    #[must_use]
    pub fn get(&self, path: &[u8]) -> Option<&Changed> {
        let at = self.list.binary_search_by(|c| c.path.as_slice().cmp(path));
        at.ok().map(|at| &self.list[at])
    }

    /// Whether a path may differ: it is listed, or below a directory that is listed with
    /// [`What::SUBTREE`].
    #[must_use]
    pub fn may_differ(&self, path: &[u8]) -> bool {
        self.get(path).is_some()
            || above(path).any(|dir| self.get(dir).is_some_and(|c| c.what.has(What::SUBTREE)))
    }
}

/// What may differ between `older` and `newer`, two read-only snapshots of one subvolume, each
/// given by its root directory; an error when more than `limit` paths do.
///
/// One thing is not told, because it would take a look at all that is in moved directories: that a
/// hard link in one of them is called otherwise by now. Whoever comes to a name looks for the others.
pub fn changes(
    older: BorrowedFd<'_>,
    newer: BorrowedFd<'_>,
    limit: usize,
    abort: &AbortFlag,
) -> Result<Changes, DiffError> {
    changes_in(stream::VERSION, (older, newer), limit, abort)
}

/// The same with no stream of a newer format than `newest`.
fn changes_in(
    newest: u32,
    (older, newer): (BorrowedFd<'_>, BorrowedFd<'_>),
    limit: usize,
    abort: &AbortFlag,
) -> Result<Changes, DiffError> {
    let (was, is) = (Fingerprint::of(older)?, Fingerprint::of(newer)?);
    was.check_pristine(Side::Older)?;
    is.check_pristine(Side::Newer)?;
    was.check_related(&is)?;
    check_few(newer, was.created_generation, limit, abort)?;
    let older_id = subvolume_info(older)?.id;
    let mut names = Names::new(limit);
    let mut changes = Changes::default();
    for version in (1..=newest).rev() {
        let mut feed = Feed::start(older_id, newer, version, abort)?;
        if let Some(stream) = Stream::open(&mut feed)? {
            (changes.version, changes.commands) = follow(stream, &mut names, (&was, &is))?;
            feed.finish()?;
            changes.list = judge::judge(&names, (older, newer), &was, limit, abort)?;
            return Ok(changes);
        }
        let error = feed
            .finish()
            .err()
            .ok_or(DiffError::Malformed("it is empty"))?;
        match Errno::from_io_error(&error) {
            // A version, or the flag to ask for one, that this kernel does not know.
            Some(Errno::PROTO | Errno::INVAL | Errno::OPNOTSUPP) if version > 1 => {}
            Some(Errno::NOTTY | Errno::OPNOTSUPP) => return Err(DiffError::Unsupported),
            Some(Errno::PERM) => return Err(DiffError::NotPermitted),
            _ => return Err(error.into()),
        }
    }
    Err(DiffError::Unsupported)
}

/// An error if more than `limit` inodes of `newer` were changed after `generation`: the kernel takes a hundred
/// times longer to compare them than they take to count, and then nobody has a use for what it says.
fn check_few(
    newer: BorrowedFd<'_>,
    generation: u64,
    limit: usize,
    abort: &AbortFlag,
) -> Result<(), DiffError> {
    let is_one_of_few = |count| count <= limit && abort.check().is_ok();
    let changed = InodeReader::new().count_changed(newer, generation, is_one_of_few);
    abort.check()?;
    match changed {
        Ok(changed) if changed > limit => Err(DiffError::TooMany(limit)),
        Ok(_) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
            Err(DiffError::NotPermitted)
        }
        Err(error) => Err(error.into()),
    }
}

/// Reads a stream to its end; its version and how many commands it held.
fn follow<R: stream::Source>(
    mut stream: Stream<R>,
    names: &mut Names,
    (was, is): (&Fingerprint, &Fingerprint),
) -> Result<(u32, u64), DiffError> {
    let mut count = 0;
    match stream.next()? {
        Some(Command::Snapshot { uuid, older })
            if format_uuid(uuid) == is.uuid && format_uuid(older) == was.uuid => {}
        Some(Command::Snapshot { .. }) => {
            return Err(DiffError::Disagreement("it is about other snapshots"));
        }
        _ => return Err(DiffError::Malformed("it does not say what it is about")),
    }
    while let Some(command) = stream.next()? {
        names.apply(command)?;
        count += 1;
    }
    Ok((stream.version(), count))
}
