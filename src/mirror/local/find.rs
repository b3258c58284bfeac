//! What stands at paths of a tree: which snapshots have what is to be restored.

use super::super::drift::{Told, Version};
use super::super::entry::Kind;
use super::super::path::is_valid_path;
use super::super::place::DirCache;
use super::super::service::{fault, io_fault};
use super::super::tree::Tree;
use crate::agent::fault::{Fault, FaultKind};
use crate::escape::escape_bytes;

/// Paths asked about at once.
pub const PATHS_MAX: usize = 1000;

/// What is at each of `paths`, below `tree`; a nested subvolume or a mount is nothing.
pub fn find(tree: &Tree, paths: &[Vec<u8>]) -> Result<Vec<Option<Told>>, Fault> {
    if paths.len() > PATHS_MAX
        || !paths
            .iter()
            .all(|path| !path.is_empty() && is_valid_path(path))
    {
        return Err(fault(FaultKind::Invalid, "impossible paths, or too many"));
    }
    let mut dirs = DirCache::default();
    let mut look = |path: &Vec<u8>| {
        let found = Version::at(tree, &mut dirs, path)
            .map_err(|e| io_fault(e, format!("cannot look at {}: {e}", escape_bytes(path))))?;
        Ok(found
            .filter(|found| found.kind != Kind::Opaque)
            .map(Told::from))
    };
    paths.iter().map(&mut look).collect()
}
