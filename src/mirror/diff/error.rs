//! Why the kernel's diff of two snapshots cannot be had, or cannot be trusted.
//!
//! None of these ends a sync: each is the reason for a full scan, and is told as that.

use std::io;

use crate::interrupt::Interrupted;

/// Which of the two snapshots.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// What was there at the last sync.
    Older,
    /// What is there now.
    Newer,
}

impl std::fmt::Display for Side {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Older => "older",
            Self::Newer => "newer",
        })
    }
}

/// Why there is no diff. Texts complete the sentence "full scan, because …".
#[derive(Debug, thiserror::Error)]
pub enum DiffError {
    /// They are not two snapshots of one subvolume: it was replaced, or the machine rolled back.
    #[error("the snapshots are not of one and the same subvolume")]
    Unrelated,
    /// One of them can be written to.
    #[error("the {0} snapshot is not read-only")]
    Writable(Side),
    /// One of them was written to after it was made.
    #[error("the {0} snapshot was written to after it was made")]
    Written(Side),
    /// It is not the snapshot that was recorded.
    #[error("the snapshot of the last sync was replaced by another one")]
    Replaced,
    /// Its tree has moved since it was recorded: a balance, a snapshot taken from it, or worse.
    #[error("the snapshot of the last sync is not in the state it was left in")]
    Moved,
    /// The kernel cannot do it.
    #[error("this kernel cannot compare snapshots")]
    Unsupported,
    /// The kernel will not do it for us.
    #[error("comparing snapshots is not permitted here")]
    NotPermitted,
    /// A command of a later kernel that does not even say which path it is about.
    #[error("the kernel's diff holds the command {0}, which is not known here and names no path")]
    UnknownCommand(u16),
    /// Not what the kernel writes.
    #[error("the kernel's diff is malformed: {0}")]
    Malformed(&'static str),
    /// What the diff says and what the snapshots hold do not go together.
    #[error("the kernel's diff and the snapshots do not agree: {0}")]
    Disagreement(&'static str),
    /// More than the caller can use.
    #[error("more than {0} paths changed")]
    TooMany(usize),
    /// Asked to stop. Not a reason for anything else.
    #[error(transparent)]
    Interrupted(#[from] Interrupted),
    /// A system call failed.
    #[error("the snapshots cannot be compared: {0}")]
    Io(#[from] io::Error),
}
