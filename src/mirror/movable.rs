//! Whether a directory can be moved as it is: everything in it is in scope where it was and where it
//! comes to stand, and nothing in it is anybody else's.
//!
//! Both machines ask this of their own tree. What is excluded would come to stand where it must not,
//! or be lost from where it must stay; a nested subvolume or a mount would go along; and a filter
//! file of a directory may say something else elsewhere. Then the directory is made anew, entry by
//! entry, as it would be without knowing of the move.

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::FileType;
use rustix::io::Errno;

use super::entry::DEPTH_MAX;
use super::filter::{DIRECTORY_FILTER_NAME, Filter, FilterState, Verdict};
use super::moves::Move;
use super::staging::LATE_FLAGS;
use super::tree::{Names, Tree};
use crate::interrupt::{AbortFlag, Interrupted};

/// Whether what `tree` has at `at` can be moved like `m`.
pub fn is_movable(
    tree: &Tree,
    at: &[u8],
    m: &Move,
    filter: &Filter,
    abort: &AbortFlag,
) -> Result<bool, Interrupted> {
    let states = (way(tree, &m.from, filter), way(tree, &m.to, filter));
    let (Some(from), Some(to)) = states else {
        return Ok(false);
    };
    let Ok(top) = tree.open_dir(at) else {
        return Ok(false);
    };
    // Such a directory stays where it is.
    let is_fixed = rustix::fs::ioctl_getflags(&top).map_or(true, |f| f.bits() & LATE_FLAGS != 0);
    if is_fixed {
        return Ok(false);
    }
    is_all_in_scope(tree, top, (from, to), abort)
}

/// The rules in the directory at `path` if everything on the way is in scope and no directory on
/// the way has rules of its own.
fn way(tree: &Tree, path: &[u8], filter: &Filter) -> Option<FilterState> {
    let mut state = FilterState::root(filter);
    let mut at = 0;
    loop {
        let above = &path[..at];
        if has_own_rules(tree, above.strip_suffix(b"/").unwrap_or(above)) {
            return None;
        }
        let rest = &path[at..];
        let end = rest.iter().position(|b| *b == b'/');
        let name = &rest[..end.unwrap_or(rest.len())];
        if state.verdict(name, true) != Verdict::Include {
            return None;
        }
        state = state.enter(name);
        match end {
            Some(end) => at += end + 1,
            None => return Some(state),
        }
    }
}

fn has_own_rules(tree: &Tree, dir: &[u8]) -> bool {
    let found = tree.open_dir(dir).and_then(|dir| {
        rustix::fs::accessat(
            dir,
            DIRECTORY_FILTER_NAME,
            rustix::fs::Access::EXISTS,
            rustix::fs::AtFlags::empty(),
        )
    });
    !matches!(found, Err(Errno::NOENT | Errno::NOTDIR))
}

/// A directory that is being looked through, under the rules of both places.
struct Level {
    dir: OwnedFd,
    names: Names,
    next: usize,
    from: FilterState,
    to: FilterState,
}

impl Level {
    fn new(dir: OwnedFd, from: FilterState, to: FilterState) -> Result<Self, Errno> {
        Ok(Self {
            names: Names::read(dir.as_fd())?,
            dir,
            next: 0,
            from,
            to,
        })
    }

    /// The directory `name` in this one, if it is one like any other.
    fn child(&self, tree: &Tree, name: &[u8], ino: u64) -> Result<Option<Self>, Errno> {
        if !tree.is_plain_dir(self.dir.as_fd(), name, ino)? {
            return Ok(None);
        }
        let below = tree.open_child(self.dir.as_fd(), name)?;
        Self::new(below, self.from.enter(name), self.to.enter(name)).map(Some)
    }
}

fn is_all_in_scope(
    tree: &Tree,
    top: OwnedFd,
    (from, to): (FilterState, FilterState),
    abort: &AbortFlag,
) -> Result<bool, Interrupted> {
    let Ok(top) = Level::new(top, from, to) else {
        return Ok(false);
    };
    let mut stack = vec![top];
    while let Some(level) = stack.last_mut() {
        abort.check()?;
        let Some(name) = level.names.get(level.next) else {
            stack.pop();
            continue;
        };
        let (ino, file_type) = level.names.identity(level.next);
        let is_dir = file_type == FileType::Directory;
        let is_in_scope = |state: &FilterState| state.verdict(name, is_dir) == Verdict::Include;
        if file_type == FileType::Unknown
            || name == DIRECTORY_FILTER_NAME.as_bytes()
            || !is_in_scope(&level.from)
            || !is_in_scope(&level.to)
        {
            return Ok(false);
        }
        let below = if is_dir {
            level.child(tree, name, ino)
        } else {
            Ok(None)
        };
        level.next += 1;
        match below {
            Ok(Some(below)) if stack.len() < DEPTH_MAX => stack.push(below),
            Ok(None) if !is_dir => {}
            _ => return Ok(false),
        }
    }
    Ok(true)
}

/// Whether two moves are one: the directory goes along with the one it is in.
#[must_use]
pub fn goes_along(m: &Move, above: &Move) -> bool {
    let rest = m.to.strip_prefix(&above.to[..]);
    rest.is_some_and(|rest| {
        rest.first() == Some(&b'/') && m.from.strip_prefix(&above.from[..]) == Some(rest)
    })
}
