//! What identifies a snapshot and the state it is in, fit to be kept and compared later.
//!
//! A snapshot that was made writable, changed and made read-only again gives a diff that is wrong
//! and looks right. Its own tree tells: a change to any file moves `changed_generation`
//! (`ctransid`) beyond `created_generation` (`otransid`), while what leaves its files alone, a
//! snapshot taken from it or a balance, moves only `generation`.

use std::os::fd::BorrowedFd;

use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::error::{DiffError, Side};
use crate::sys::btrfs::subvolume_info;

/// A snapshot, and its state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fingerprint {
    /// Its uuid.
    pub uuid: String,
    /// Uuid of the subvolume it was taken from.
    pub parent_uuid: Option<String>,
    /// Generation of its tree (`generation`).
    pub generation: u64,
    /// Generation in which it was made (`otransid`).
    pub created_generation: u64,
    /// Generation of the last change to a file in it (`ctransid`).
    pub changed_generation: u64,
    /// Whether it is read-only now.
    pub read_only: bool,
}

impl Fingerprint {
    /// That of the snapshot the descriptor is in.
    pub fn of(snapshot: BorrowedFd<'_>) -> Result<Self, DiffError> {
        let info =
            subvolume_info(snapshot).map_err(|error| match Errno::from_io_error(&error) {
                // Another filesystem, or a kernel from before there were such questions.
                Some(Errno::NOTTY) => DiffError::Unsupported,
                _ => error.into(),
            })?;
        Ok(Self {
            uuid: info.uuid,
            parent_uuid: info.parent_uuid,
            generation: info.generation,
            created_generation: info.created_generation,
            changed_generation: info.changed_generation,
            read_only: info.is_readonly,
        })
    }

    /// Whether it is as it was made: read-only, and never written to.
    pub fn check_pristine(&self, side: Side) -> Result<(), DiffError> {
        if !self.read_only {
            return Err(DiffError::Writable(side));
        }
        if self.changed_generation > self.created_generation {
            return Err(DiffError::Written(side));
        }
        Ok(())
    }

    /// Whether it is still what was `recorded`, in that very state.
    pub fn check_unmoved(&self, recorded: &Self) -> Result<(), DiffError> {
        if self.uuid != recorded.uuid
            || self.parent_uuid != recorded.parent_uuid
            || self.created_generation != recorded.created_generation
        {
            return Err(DiffError::Replaced);
        }
        self.check_pristine(Side::Older)?;
        if self != recorded {
            return Err(DiffError::Moved);
        }
        Ok(())
    }

    /// Whether both are snapshots of one subvolume, or `newer` is a snapshot of this one.
    pub fn check_related(&self, newer: &Self) -> Result<(), DiffError> {
        let siblings = self.parent_uuid.is_some() && self.parent_uuid == newer.parent_uuid;
        let child = newer.parent_uuid.as_ref() == Some(&self.uuid);
        if (siblings || child) && self.created_generation <= newer.created_generation {
            Ok(())
        } else {
            Err(DiffError::Unrelated)
        }
    }
}
