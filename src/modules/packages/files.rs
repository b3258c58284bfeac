//! Files of a manager's configuration: written whole or not at all, never through somebody's link.

use std::ffi::OsStr;
use std::path::Path;

use rustix::fs::{Gid, Mode, Uid};

use super::answer::Silence;
use super::tools::Tools;
use crate::escape::escape_str;
use crate::sys::trusted::Directory;

/// Writes a file of root's that everybody may read, with the directories above it.
pub fn write(tools: &Tools<'_>, path: &str, content: &[u8]) -> Result<(), Silence> {
    let place = tools.at(path);
    let (directory, name) = split(&place);
    let write = || {
        let directory = Directory::ensure(directory, Mode::from_raw_mode(0o755))?;
        let owner = (Uid::ROOT, Gid::ROOT);
        let owner = rustix::process::geteuid().is_root().then_some(owner);
        directory.replace(name, &mut &*content, Mode::from_raw_mode(0o644), owner)
    };
    write().map_err(|e| Silence(escape_str(&e.to_string())))
}

/// Deletes a file; one that is not there is no error.
pub fn delete(tools: &Tools<'_>, path: &str) -> Result<(), Silence> {
    let place = tools.at(path);
    let (directory, name) = split(&place);
    match Directory::open(directory) {
        Err(e) if e.is_not_found() => Ok(()),
        Err(e) => Err(Silence(escape_str(&e.to_string()))),
        Ok(directory) => (directory.remove(name)).map_err(|e| Silence(escape_str(&e.to_string()))),
    }
}

fn split(path: &Path) -> (&Path, &OsStr) {
    (
        path.parent().unwrap_or(Path::new("/")),
        path.file_name().unwrap_or_default(),
    )
}
