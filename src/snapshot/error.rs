//! What can go wrong with subvolumes and snapshots.

use std::io;
use std::path::{Path, PathBuf};

use crate::sys::trusted::FileError;

/// Why snapshots could not be found, made or deleted.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// The mount table could not be read.
    #[error("cannot read the mount table: {0}")]
    MountTable(#[source] io::Error),
    /// The snapshot directory cannot be used.
    #[error(transparent)]
    Directory(#[from] FileError),
    /// btrfs refused something.
    #[error("btrfs at {}: {source}", path.display())]
    Btrfs {
        /// Where.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// No mounted subvolume has that flat name.
    #[error("{name} is not a mounted subvolume of this machine")]
    NotMounted {
        /// The name.
        name: String,
    },
    /// The name does not have the form of our snapshots, or is no subvolume at all.
    #[error("{name} is not one of pc-switcher's snapshots")]
    NotOurs {
        /// The name.
        name: String,
    },
    /// A snapshot that somebody made writable is theirs, and no longer what it was.
    #[error("the snapshot {name} was made writable; it is left alone")]
    Writable {
        /// The name.
        name: String,
    },
    /// Snapshots cannot leave their filesystem.
    #[error(
        "{} is on another filesystem than {}",
        snapshot_dir.display(),
        mount_point.display()
    )]
    OtherFilesystem {
        /// The snapshot directory.
        snapshot_dir: PathBuf,
        /// Where the subvolume is mounted.
        mount_point: PathBuf,
    },
    /// A request for more than makes sense.
    #[error("more than {limit} snapshots in one request")]
    TooMany {
        /// What is allowed.
        limit: usize,
    },
    /// One could not be made; those made before it are gone again.
    #[error("cannot create the snapshot {name}: {source}")]
    Create {
        /// Its name.
        name: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// One could not be made, and not all of the others could be removed again.
    #[error("{error}; could not be removed again: {}", left.join(", "))]
    NotUndone {
        /// Why it failed in the first place.
        #[source]
        error: Box<SnapshotError>,
        /// What is left.
        left: Vec<String>,
    },
    /// The root cannot be exchanged for the next boot so that this machine surely boots.
    #[error("the root cannot be exchanged for the next boot: {reason}")]
    NotReplaced {
        /// Why.
        reason: String,
    },
    /// One could not be deleted; the others were.
    #[error("cannot delete the snapshot {name}: {source}")]
    Delete {
        /// Its name.
        name: String,
        /// What the kernel said.
        source: io::Error,
    },
}

impl SnapshotError {
    /// An error of btrfs at `path`.
    #[must_use]
    pub fn btrfs(path: &Path, source: io::Error) -> Self {
        Self::Btrfs {
            path: path.to_owned(),
            source,
        }
    }

    /// The system call's error behind it, if there is one.
    #[must_use]
    pub fn io_error(&self) -> Option<&io::Error> {
        match self {
            Self::MountTable(source)
            | Self::Btrfs { source, .. }
            | Self::Create { source, .. }
            | Self::Delete { source, .. }
            | Self::Directory(FileError::Io { source, .. }) => Some(source),
            Self::NotUndone { error, .. } => error.io_error(),
            _ => None,
        }
    }

    /// What a person can do about it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::NotMounted { .. } => {
                "see `btrfs subvolume list /` for the names there are, and correct \
                 btrfs_snapshots.subvolumes"
                    .to_owned()
            }
            Self::OtherFilesystem { .. } => {
                "choose a btrfs_snapshots.snapshot_dir on the subvolumes' own filesystem".to_owned()
            }
            Self::Directory(FileError::Untrusted { path, .. }) => format!(
                "every directory up to the snapshots must belong to root: look at {} or choose \
                 another btrfs_snapshots.snapshot_dir",
                path.display()
            ),
            Self::NotReplaced { .. } => {
                "--in-place puts it back file by file while it runs; --subvolume names others"
                    .to_owned()
            }
            Self::NotUndone { left, .. } => format!(
                "delete what is left by hand: btrfs subvolume delete {}",
                left.join(" ")
            ),
            _ => return None,
        })
    }
}
