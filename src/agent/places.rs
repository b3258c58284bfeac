//! Where the agent finds and keeps things; tests put all of it below a directory of their own.

use std::path::{Path, PathBuf};

use crate::record::state::STATE_DIR;

/// Directory of locks and of what lives as long as the machine is up.
pub const RUN_DIR: &str = "/run/pc-switcher";

/// Every path the agent itself uses.
#[derive(Debug, Clone)]
pub struct Places {
    /// Locks, run directories, deployed agents (`/run/pc-switcher`).
    pub run: PathBuf,
    /// History (`/var/lib/pc-switcher`).
    pub state: PathBuf,
    /// `/etc/machine-id`.
    pub machine_id: PathBuf,
    /// `/etc/passwd`.
    pub passwd: PathBuf,
    /// Where logind keeps account of who is logged in (`/run/systemd/sessions`).
    pub sessions: PathBuf,
    /// Where [`InstallSelf`](super::protocol::Request::InstallSelf) puts the binary.
    pub install: PathBuf,
    /// Where an installed binary is looked for, first match wins.
    pub installed: Vec<PathBuf>,
    /// The agent's own binary.
    pub own_binary: PathBuf,
}

impl Places {
    /// The real ones.
    #[must_use]
    pub fn of_machine() -> Self {
        Self::below(Path::new("/"))
    }

    /// The same below `root`; the own binary is always the running one.
    #[must_use]
    pub fn below(root: &Path) -> Self {
        let at = |path: &str| root.join(path.trim_start_matches('/'));
        Self {
            run: at(RUN_DIR),
            state: at(STATE_DIR),
            machine_id: at("/etc/machine-id"),
            passwd: at("/etc/passwd"),
            sessions: at("/run/systemd/sessions"),
            install: at("/usr/local/bin/pc-switcher"),
            installed: vec![at("/usr/local/bin/pc-switcher"), at("/usr/bin/pc-switcher")],
            own_binary: PathBuf::from("/proc/self/exe"),
        }
    }
}
