//! Disk space as configured and as found: what a threshold means on a filesystem, and which
//! filesystems a sync touches.

use crate::agent::client::{AgentClient, AgentError};
use crate::agent::protocol::{DiskFacts, Reply, Request};
use crate::config::Space;
use crate::figures;
use crate::module::{DiskSpaceCritical, Machine};
use crate::snapshot::Subvolume;

/// The threshold in bytes, on a filesystem of `total` bytes.
#[must_use]
pub fn threshold(space: &Space, total: u64) -> u64 {
    match space {
        Space::Percent(percent) => {
            let bytes = u128::from(total) * u128::from(*percent) / 100;
            u64::try_from(bytes).unwrap_or(u64::MAX)
        }
        Space::Bytes(bytes, _) => *bytes,
    }
}

/// The paths whose filesystems a sync touches on a machine: its root (our own state and binary)
/// and every configured subvolume (all synced folders and the snapshots lie inside them).
#[must_use]
pub fn touched_paths(subvolumes: &[Subvolume]) -> Vec<String> {
    let mut paths = vec!["/".to_owned()];
    for subvolume in subvolumes {
        if !paths.contains(&subvolume.mount_point) {
            paths.push(subvolume.mount_point.clone());
        }
    }
    paths
}

/// The configured subvolume of this machine that holds `path`, by its mount point.
#[must_use]
pub fn holder(subvolumes: &[Subvolume], path: impl AsRef<[u8]>) -> Option<&Subvolume> {
    subvolumes
        .iter()
        .filter(|subvolume| is_below(path.as_ref(), &subvolume.mount_point))
        .max_by_key(|subvolume| subvolume.mount_point.len())
}

fn is_below(path: &[u8], directory: &str) -> bool {
    match path.strip_prefix(directory.trim_end_matches('/').as_bytes()) {
        Some(rest) => rest.is_empty() || rest.starts_with(b"/"),
        None => false,
    }
}

/// Takes the answer to [`Request::Disk`].
pub fn disk_reply(agent: &AgentClient, reply: Reply) -> Result<Vec<DiskFacts>, AgentError> {
    match reply {
        Reply::Disk(facts) => Ok(facts),
        _ => Err(agent.nonsense("not the disks' space")),
    }
}

/// Asks a machine for the space of the filesystems that hold `paths`.
pub fn ask(machine: &Machine, paths: Vec<String>) -> Result<Vec<DiskFacts>, AgentError> {
    let reply = machine.agent.call(Request::Disk { paths })?;
    disk_reply(&machine.agent, reply)
}

/// One entry per filesystem: several paths and mounts may share one.
#[must_use]
pub fn distinct(facts: Vec<DiskFacts>) -> Vec<DiskFacts> {
    let mut seen = Vec::<DiskFacts>::new();
    for fact in facts {
        if !seen.iter().any(|s| s.filesystem == fact.filesystem) {
            seen.push(fact);
        }
    }
    seen
}

/// What is wrong with a filesystem that will have `free` bytes left, if that is below `minimum`.
#[must_use]
pub fn below(
    machine: &Machine,
    fact: &DiskFacts,
    free: u64,
    minimum: &Space,
) -> Option<DiskSpaceCritical> {
    (free < threshold(minimum, fact.total_bytes)).then(|| DiskSpaceCritical {
        host: machine.host,
        hostname: machine.hostname.clone(),
        mount_point: fact.mount_point.clone(),
        free_space: share(free, fact.total_bytes),
        threshold: minimum.to_string(),
    })
}

/// That a filesystem has less free space than the warning threshold, in words.
#[must_use]
pub fn low_words(low: &DiskSpaceCritical) -> String {
    format!(
        "only {} free on {}, below {}",
        low.free_space, low.mount_point, low.threshold
    )
}

/// Bytes with their share of the whole ("3.2 GiB (12%)").
#[must_use]
pub fn share(bytes: u64, total: u64) -> String {
    let percent = u128::from(bytes) * 100 / u128::from(total.max(1));
    format!("{} ({percent}%)", figures::bytes(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subvolume(name: &str, mount_point: &str) -> Subvolume {
        Subvolume {
            name: name.into(),
            mount_point: mount_point.into(),
            id: 256,
            uuid: String::new(),
            generation: 1,
            filesystem: "f".into(),
            nested: Vec::new(),
        }
    }

    #[test]
    fn a_percentage_is_of_the_filesystem_and_bytes_are_bytes() {
        assert_eq!(threshold(&Space::Percent(20), 1000), 200);
        assert_eq!(threshold(&Space::Percent(100), u64::MAX), u64::MAX);
        assert_eq!(threshold(&Space::Bytes(5, "5MB".into()), 1000), 5);
    }

    #[test]
    fn the_deepest_mount_holds_a_path() {
        let both = [subvolume("@", "/"), subvolume("@home", "/home")];
        let name = |path| holder(&both, path).map(|s| s.name.as_str());
        assert_eq!(name("/home"), Some("@home"));
        assert_eq!(name("/home/anna"), Some("@home"));
        assert_eq!(name("/homework"), Some("@"));
        assert_eq!(name("/root"), Some("@"));
        assert_eq!(holder(&both[1..], "/homework"), None);
    }

    #[test]
    fn every_touched_filesystem_is_asked_about_once() {
        let both = [subvolume("@", "/"), subvolume("@home", "/home")];
        assert_eq!(touched_paths(&both), ["/", "/home"]);
        assert_eq!(touched_paths(&[]), ["/"]);
    }

    #[test]
    fn two_mounts_of_one_filesystem_are_one() {
        let fact = |path: &str, filesystem: &str| DiskFacts {
            path: path.into(),
            mount_point: path.into(),
            fs_type: "btrfs".into(),
            filesystem: filesystem.into(),
            total_bytes: 1,
            free_bytes: 1,
        };
        let facts = distinct(vec![fact("/", "a"), fact("/home", "a"), fact("/boot", "b")]);
        let paths: Vec<&str> = facts.iter().map(|f| f.path.as_str()).collect();
        assert_eq!(paths, ["/", "/boot"]);
    }
}
