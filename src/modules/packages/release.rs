//! Which system a machine runs (os-release(5)), because software only converges between equal ones.

use serde::{Deserialize, Serialize};

use super::tools::Tools;

/// The system and the hardware it is made for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Release {
    /// `ID` (`debian`).
    pub id: String,
    /// `VERSION_ID` (`12`); empty where the system has none (rolling, testing).
    pub version: String,
    /// `PRETTY_NAME`, for people.
    pub name: String,
    /// CPU architecture.
    pub architecture: String,
}

impl Release {
    /// Whether software of one can be that of the other.
    #[must_use]
    pub fn is_like(&self, other: &Self) -> bool {
        self.id == other.id
            && self.version == other.version
            && self.architecture == other.architecture
    }
}

/// Reads it.
#[must_use]
pub fn read_release(tools: &Tools<'_>) -> Release {
    let read = |path: &str| {
        // `/etc/os-release` usually is a link to the other.
        std::fs::read(tools.at(path))
            .ok()
            .filter(|bytes| bytes.len() < 65_536)
    };
    let bytes = read("/etc/os-release").or_else(|| read("/usr/lib/os-release"));
    let text = String::from_utf8_lossy(&bytes.unwrap_or_default()).into_owned();
    let value = |key: &str| {
        (text.lines())
            .filter_map(|line| line.split_once('='))
            .find(|(name, _)| name.trim() == key)
            .map(|(_, value)| value.trim().trim_matches(['"', '\'']).to_owned())
            .unwrap_or_default()
    };
    Release {
        id: value("ID"),
        version: value("VERSION_ID"),
        name: value("PRETTY_NAME"),
        architecture: std::env::consts::ARCH.to_owned(),
    }
}
