//! btrfs subvolumes and snapshots: what is there, what we make, what we keep.

pub mod boot;
pub mod error;
pub mod manage;
pub mod name;
pub mod replace;
pub mod retention;
pub mod space;
pub mod subvolumes;

use serde::{Deserialize, Serialize};

pub use error::SnapshotError;

/// What a machine has of the configured subvolumes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SubvolumeFacts {
    /// Those that were found, in the order asked.
    pub found: Vec<Subvolume>,
    /// Names that are no mounted subvolume of this machine.
    pub missing: Vec<String>,
    /// What stands at the snapshot directory.
    pub snapshot_dir: SnapshotDir,
    /// Id of the subvolume that the snapshot directory is, or lies in.
    pub snapshot_dir_in: Option<u64>,
    /// Top-level subvolume names that exist, for a helpful error.
    pub existing: Vec<String>,
}

/// What stands at the snapshot directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SnapshotDir {
    /// A subvolume of its own, root-owned: as it should be.
    Subvolume,
    /// A directory inside another subvolume.
    Directory,
    /// Nothing; it can be created as a subvolume.
    Absent,
    /// On another filesystem than the subvolumes, not a directory, or not owned by root.
    Unusable,
}

/// One mounted btrfs subvolume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subvolume {
    /// Flat name (`@home`).
    pub name: String,
    /// Where it is mounted (`/home`).
    pub mount_point: String,
    /// Its id.
    pub id: u64,
    /// Its uuid, hyphenated.
    pub uuid: String,
    /// Its generation.
    pub generation: u64,
    /// Uuid of its filesystem.
    pub filesystem: String,
    /// Subvolumes nested below it, as paths relative to it (lossy UTF-8, for people).
    pub nested: Vec<String>,
}

/// A snapshot to make.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewSnapshot {
    /// Flat name of the subvolume.
    pub subvolume: String,
    /// Name of the snapshot within the snapshot directory.
    pub name: String,
}

/// One of our snapshots.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct SnapshotFacts {
    /// Flat name of its subvolume.
    pub subvolume: String,
    /// Its name.
    pub name: String,
    /// Absolute path.
    pub path: String,
    /// Its uuid.
    pub uuid: String,
    /// Uuid of the subvolume it was taken of.
    #[serde(default)]
    pub parent_uuid: Option<String>,
    /// Generation when it was looked at.
    pub generation: u64,
    /// Generation when it was created.
    pub created_generation: u64,
    /// Generation of the last change to a file in it.
    #[serde(default)]
    pub changed_generation: u64,
    /// Whether it is read-only.
    pub readonly: bool,
    /// Bytes only it holds, if that was asked and could be found out.
    pub exclusive_bytes: Option<u64>,
}

impl SnapshotFacts {
    /// Whether nobody has written to it since it was made. Its generation alone does not tell: the kernel
    /// removes from a new snapshot what was deleted but still open, and that moves it.
    #[must_use]
    pub fn is_untouched(&self) -> bool {
        self.readonly && self.changed_generation <= self.created_generation
    }
}
