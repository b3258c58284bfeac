//! Which paths below a folder may be spoken of: the filter and the per-directory filters on the way.

use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::io::Errno;

use super::entry::{join, split};
use super::filter::{DIRECTORY_FILTER_NAME, Filter, FilterState, Verdict};
use super::scan::ScanError;
use super::tree::Tree;
use super::wire::RULES_MAX;
use crate::escape::escape_bytes;

/// The directory's own filter file: a regular file, never through a link, of bounded size.
pub fn directory_rules(
    tree: &Tree,
    dir: BorrowedFd<'_>,
    path: &[u8],
) -> Result<Option<Vec<u8>>, ScanError> {
    let name = DIRECTORY_FILTER_NAME.as_bytes();
    let unusable = |why: String| {
        Err(ScanError::Rules(format!(
            "{}: {why}",
            escape_bytes(&join(path, name))
        )))
    };
    let fd = match tree.open_file(dir, name) {
        Ok(fd) => fd,
        Err(Errno::NOENT) => return Ok(None),
        Err(Errno::LOOP | Errno::INVAL | Errno::NXIO | Errno::ISDIR) => {
            return unusable("is not a regular file; per-directory filters must be".into());
        }
        Err(error) => return unusable(error.to_string()),
    };
    let mut text = Vec::new();
    match std::fs::File::from(fd)
        .take(RULES_MAX as u64 + 1)
        .read_to_end(&mut text)
    {
        Ok(length) if length > RULES_MAX => unusable(format!("is larger than {RULES_MAX} bytes")),
        Ok(_) => Ok(Some(text)),
        Err(error) => unusable(error.to_string()),
    }
}

/// Adds a directory's own rules to its state.
pub fn with_rules(
    state: FilterState,
    rules: Option<&[u8]>,
    path: &[u8],
) -> Result<FilterState, ScanError> {
    let Some(text) = rules else { return Ok(state) };
    let origin = escape_bytes(&join(path, DIRECTORY_FILTER_NAME.as_bytes()));
    state
        .with_directory_rules(text, &origin)
        .map_err(|errors| ScanError::Rules(errors.first().map_or(origin, ToString::to_string)))
}

/// Whether the file at `path` is one the other machine may ask about: not excluded, and none of
/// the directories on the way is.
pub fn in_scope(tree: &Tree, filter: &Filter, path: &[u8]) -> Result<bool, ScanError> {
    let (parent, name) = split(path);
    let mut state = FilterState::root(filter);
    let mut at = Vec::new();
    let Ok(mut dir) = tree.open_dir(b"") else {
        return Ok(false);
    };
    state = with_rules(
        state,
        directory_rules(tree, dir.as_fd(), &at)?.as_deref(),
        &at,
    )?;
    for component in parent.split(|b| *b == b'/').filter(|c| !c.is_empty()) {
        if state.verdict(component, true) == Verdict::Exclude {
            return Ok(false);
        }
        state = state.enter(component);
        at = join(&at, component);
        dir = match tree.open_child(dir.as_fd(), component) {
            Ok(dir) => dir,
            Err(_) => return Ok(false),
        };
        state = with_rules(
            state,
            directory_rules(tree, dir.as_fd(), &at)?.as_deref(),
            &at,
        )?;
    }
    Ok(state.verdict(name, false) != Verdict::Exclude)
}
