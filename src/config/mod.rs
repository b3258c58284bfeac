//! The configuration: typed, checked, with every error at once.

use std::path::PathBuf;

use crate::event::LogLevel;

/// A checked configuration.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// The file it came from.
    pub path: PathBuf,
    /// Lowest level written to the log file.
    pub log_file_level: LogLevel,
    /// Lowest level shown on the terminal.
    pub log_cli_level: LogLevel,
    /// Sync modules with their switch, in the order of execution.
    pub sync_modules: Vec<(String, bool)>,
    /// Free-space limits.
    pub disk: DiskConfig,
    /// Snapshots.
    pub btrfs_snapshots: SnapshotConfig,
    /// The mirror of people's files.
    pub user_data: UserDataConfig,
    /// The dummy that succeeds.
    pub dummy_success: DummySuccessConfig,
    /// The dummy that fails.
    pub dummy_fail: DummyFailConfig,
}

/// An amount of disk space: a share of the filesystem or bytes.
#[derive(Debug, Clone, PartialEq)]
pub enum Space {
    /// Percent of the filesystem's size.
    Percent(u8),
    /// Bytes, with the text as configured.
    Bytes(u64, String),
}

/// `disk:`.
#[derive(Debug, Clone, PartialEq)]
pub struct DiskConfig {
    /// Less free than this before the sync: do not start (default 20%).
    pub preflight_minimum: Space,
    /// Less free than this during the sync: stop (default 15%).
    pub runtime_minimum: Space,
    /// Less free than this: warn (default 25%).
    pub warning_threshold: Space,
    /// Seconds between looks (default 30).
    pub check_interval: u64,
}

/// `btrfs_snapshots:`.
#[derive(Debug, Clone, PartialEq)]
pub struct SnapshotConfig {
    /// Flat names.
    pub subvolumes: Vec<String>,
    /// Absolute path (default `/.snapshots`).
    pub snapshot_dir: String,
    /// Sessions whose snapshots are kept whatever their age (default 3).
    pub keep_recent: u32,
    /// Older ones beyond those are deleted; `None`: by number alone.
    pub max_age_days: Option<u32>,
}

/// `user_data:`.
#[derive(Debug, Clone, PartialEq)]
pub struct UserDataConfig {
    /// Folders to mirror, in order.
    pub folders: Vec<Folder>,
    /// More deletions than this share of the existing entries (percent) is a mass delete.
    pub mass_delete_percent: u8,
    /// ... and more than this many.
    pub mass_delete_count: u64,
}

/// One folder to mirror.
#[derive(Debug, Clone, PartialEq)]
pub struct Folder {
    /// Absolute path, the same on both machines.
    pub path: String,
    /// Filter file, resolved against the configuration's directory; `None`: everything.
    pub filter: Option<PathBuf>,
}

/// `dummy_success:`.
#[derive(Debug, Clone, PartialEq)]
pub struct DummySuccessConfig {
    /// Seconds of pretended work on the source (default 20).
    pub source_duration: u64,
    /// Seconds of pretended work on the target (default 20).
    pub target_duration: u64,
}

/// `dummy_fail:`.
#[derive(Debug, Clone, PartialEq)]
pub struct DummyFailConfig {
    /// Seconds of pretended work on the source (default 10).
    pub source_duration: u64,
    /// Seconds of pretended work on the target (default 10).
    pub target_duration: u64,
    /// Second at which it fails (default 12).
    pub fail_at: u64,
}
