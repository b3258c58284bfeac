//! The configuration: typed, checked, with every error at once.
//!
//! [`load`] reads a file, [`parse`] takes its text. Nothing else in the program reads YAML.

mod check;
mod fields;
mod keys;
mod problem;
mod yaml;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use jiff::SignedDuration;

use crate::event::LogLevel;

pub use fields::parse_rate;
pub use problem::ConfigProblem;

use yaml::Position;

/// The configuration with every default, as `init` writes it.
pub const EXAMPLE: &str = include_str!("../../config.example.yaml");

/// Name of the configuration file in its directory.
pub const FILE_NAME: &str = "config.yaml";

/// Largest configuration file that is read.
const MAX_BYTES: usize = 1024 * 1024;

/// A module the program has, as far as the configuration must know it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KnownModule<'a> {
    /// Its name (`user_data`).
    pub name: &'a str,
    /// Whether it always runs and cannot be switched off.
    pub required: bool,
}

const READABLE: &str = "you must be allowed to read it, and to enter its directories";

/// Reads and checks the configuration file `path`.
pub fn load(path: &Path, modules: &[KnownModule<'_>]) -> Result<Config, Vec<ConfigProblem>> {
    let whole = |message: String, hint| vec![ConfigProblem::of_file(path, message, hint)];
    // Asked first: opening a pipe would wait for a writer.
    match std::fs::metadata(path) {
        Ok(facts) if facts.is_file() => {}
        Ok(_) => return Err(whole("not a file".to_owned(), Some("name a file"))),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let hint = if default_path().as_deref() == Some(path) {
                "'pc-switcher init' writes one with every key explained"
            } else {
                "'pc-switcher --config FILE init' writes one with every key explained"
            };
            return Err(whole("no such file".to_owned(), Some(hint)));
        }
        Err(error) => return Err(whole(format!("cannot read it: {error}"), Some(READABLE))),
    }
    let mut text = Vec::new();
    let read = std::fs::File::open(path)
        .and_then(|file| file.take(MAX_BYTES as u64 + 1).read_to_end(&mut text));
    if let Err(error) = read {
        return Err(whole(format!("cannot read it: {error}"), Some(READABLE)));
    }
    parse(path, &text, modules)
}

/// Checks `text` as the configuration in `path`; filter files are looked for beside `path`.
pub fn parse(
    path: &Path,
    text: &[u8],
    modules: &[KnownModule<'_>],
) -> Result<Config, Vec<ConfigProblem>> {
    if text.len() > MAX_BYTES {
        let message = format!("larger than {} KiB", MAX_BYTES / 1024);
        return Err(vec![ConfigProblem::of_file(path, message, None)]);
    }
    let one = |at: Position, message: String, hint: Option<&str>| {
        let hint = hint.map(str::to_owned);
        vec![ConfigProblem::at(path, at, "", message, hint)]
    };
    let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
    let text = std::str::from_utf8(text).map_err(|error| {
        let at = Position::of_byte(text, error.valid_up_to());
        one(
            at,
            "not UTF-8 text".to_owned(),
            Some("save the file as UTF-8"),
        )
    })?;
    let root = yaml::parse(text).map_err(|error| one(error.at, error.message, error.hint))?;
    check::check(path, root.as_ref(), modules)
}

/// The directory of the configuration: `$XDG_CONFIG_HOME/pc-switcher`, or
/// `$HOME/.config/pc-switcher`; `None` if neither variable is an absolute path.
#[must_use]
pub fn default_directory() -> Option<PathBuf> {
    directory_from(
        std::env::var_os("XDG_CONFIG_HOME"),
        std::env::var_os("HOME"),
    )
}

/// The configuration file in [`default_directory`].
#[must_use]
pub fn default_path() -> Option<PathBuf> {
    default_directory().map(|directory| directory.join(FILE_NAME))
}

/// The XDG specification has relative paths ignored.
fn directory_from(xdg: Option<OsString>, home: Option<OsString>) -> Option<PathBuf> {
    let absolute = |text: Option<OsString>| text.map(PathBuf::from).filter(|p| p.is_absolute());
    let base = absolute(xdg).or_else(|| absolute(home).map(|home| home.join(".config")))?;
    Some(base.join("pc-switcher"))
}

/// A checked configuration.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// The file it came from.
    pub path: PathBuf,
    /// Lowest level written to the log file.
    pub log_file_level: LogLevel,
    /// Lowest level shown on the terminal.
    pub log_cli_level: LogLevel,
    /// Bytes a second that are sent to the target; `None`: as many as the line takes.
    pub bandwidth_limit: Option<u64>,
    /// Over how many connections content goes; `None`: by what this machine has.
    pub transfers: Option<usize>,
    /// Sync modules with their switch, in the order of execution.
    pub sync_modules: Vec<(String, bool)>,
    /// Free-space limits.
    pub disk: DiskConfig,
    /// Snapshots.
    pub btrfs_snapshots: SnapshotConfig,
    /// Software.
    pub packages: PackagesConfig,
    /// The mirror of people's files.
    pub user_data: UserDataConfig,
    /// The dummy that succeeds.
    pub dummy_success: DummySuccessConfig,
    /// The dummy that fails.
    pub dummy_fail: DummyFailConfig,
}

impl Config {
    /// The configuration in which nothing is said: every default, and no module switched on.
    #[must_use]
    pub fn with_defaults(path: &Path) -> Self {
        let directory = path.parent().unwrap_or(Path::new("/"));
        Self {
            path: path.to_owned(),
            log_file_level: LogLevel::Full,
            log_cli_level: LogLevel::Info,
            bandwidth_limit: None,
            transfers: None,
            sync_modules: Vec::new(),
            disk: DiskConfig::default(),
            btrfs_snapshots: SnapshotConfig::default(),
            packages: PackagesConfig::default(),
            user_data: UserDataConfig::in_directory(directory),
            dummy_success: DummySuccessConfig::default(),
            dummy_fail: DummyFailConfig::default(),
        }
    }

    /// Over how many connections content goes: as said, else half as many as there are cores, at most 4.
    #[must_use]
    pub fn transfers(&self) -> usize {
        self.transfers.unwrap_or_else(|| {
            let cores = std::thread::available_parallelism().map_or(1, usize::from);
            (cores / 2).clamp(1, 4)
        })
    }

    /// Whether the sync module `name` is switched on.
    #[must_use]
    pub fn is_on(&self, name: &str) -> bool {
        (self.sync_modules.iter()).any(|(known, on)| known == name && *on)
    }
}

/// An amount of disk space: a share of the filesystem or bytes.
#[derive(Debug, Clone, PartialEq)]
pub enum Space {
    /// Percent of the filesystem's size.
    Percent(u8),
    /// Bytes, with the text as configured.
    Bytes(u64, String),
}

impl fmt::Display for Space {
    /// As configured.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Percent(percent) => write!(f, "{percent}%"),
            Self::Bytes(_, text) => f.write_str(text),
        }
    }
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

impl Default for DiskConfig {
    fn default() -> Self {
        Self {
            preflight_minimum: Space::Percent(20),
            runtime_minimum: Space::Percent(15),
            warning_threshold: Space::Percent(25),
            check_interval: 30,
        }
    }
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

impl Default for SnapshotConfig {
    fn default() -> Self {
        Self {
            subvolumes: vec!["@".to_owned(), "@home".to_owned()],
            snapshot_dir: "/.snapshots".to_owned(),
            keep_recent: 3,
            max_age_days: None,
        }
    }
}

/// `packages:`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackagesConfig {
    /// Names, with `*` for any run of characters, of packages that are never converged.
    pub left_alone: Vec<String>,
    /// Commands that bring what no package source offers, by the package's name or the program's path.
    pub recipes: BTreeMap<String, String>,
    /// Whether package files of the source's cache travel over the sync's connection (default: no).
    pub share_cache: bool,
    /// Seconds that one command of a package manager may take (default 3600).
    pub command_timeout: u64,
}

impl Default for PackagesConfig {
    fn default() -> Self {
        Self {
            left_alone: LEFT_ALONE.iter().map(|&name| name.to_owned()).collect(),
            recipes: BTreeMap::new(),
            share_cache: false,
            command_timeout: 3600,
        }
    }
}

/// Packages that belong to a machine and not to the person: kernels, drivers, firmware, boot loaders.
pub const LEFT_ALONE: &[&str] = &[
    "linux-image*",
    "linux-headers*",
    "linux-modules*",
    "linux-generic*",
    "linux-lowlatency*",
    "linux-oem*",
    "linux-virtual*",
    "linux-signed*",
    "linux-tools*",
    "kernel*",
    "*-dkms",
    "dkms",
    "akmod-*",
    "kmod-*",
    "nvidia-*",
    "libnvidia-*",
    "xserver-xorg-video-*",
    "xorg-x11-drv-*",
    "xf86-video-*",
    "broadcom-*",
    "bcmwl-*",
    "firmware-*",
    "*-firmware",
    "*-microcode",
    "microcode_ctl",
    "amd-ucode",
    "intel-ucode",
    "grub*",
    "shim*",
    "systemd-boot*",
    "efibootmgr",
    "refind",
    "dracut*",
    "initramfs-tools*",
    "mkinitcpio*",
    "cryptsetup-initramfs",
    "thermald",
    "tlp*",
    "fprintd",
];

/// `user_data:`.
#[derive(Debug, Clone, PartialEq)]
pub struct UserDataConfig {
    /// Folders to mirror, in order.
    pub folders: Vec<Folder>,
    /// A folder of which not everything was compared for so long is compared whole (default 30
    /// days); `None`: only where there is another reason.
    pub full_scan_every: Option<SignedDuration>,
    /// More deletions than this share of the existing entries (percent, default 10) is a mass
    /// delete ...
    pub mass_delete_percent: u8,
    /// ... if they are more than this many, too (default 1000).
    pub mass_delete_count: u64,
}

impl UserDataConfig {
    /// The defaults, with filter files in the configuration's `directory`.
    #[must_use]
    pub fn in_directory(directory: &Path) -> Self {
        let folder = |path: &str, filter: &str| Folder {
            path: path.to_owned(),
            filter: Some(directory.join(filter)),
        };
        Self {
            folders: vec![
                folder("/home", "home.filter"),
                folder("/root", "root.filter"),
            ],
            full_scan_every: Some(SignedDuration::from_hours(30 * 24)),
            mass_delete_percent: 10,
            mass_delete_count: 1000,
        }
    }
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

impl Default for DummySuccessConfig {
    fn default() -> Self {
        Self {
            source_duration: 20,
            target_duration: 20,
        }
    }
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

impl Default for DummyFailConfig {
    fn default() -> Self {
        Self {
            source_duration: 10,
            target_duration: 10,
            fail_at: 12,
        }
    }
}

#[cfg(test)]
mod tests;
