//! Whether a thing can be moved as it is: everything in it is in scope where it was and where it comes
//! to stand, and nothing in it is anybody else's.
//!
//! Both machines ask this of their own tree. What is excluded would come to stand where it must not,
//! or be lost from where it must stay; a nested subvolume or a mount would go along; and a filter
//! file of a directory may say something else elsewhere. Then the directory is made anew, entry by
//! entry, as it would be without knowing of the move.

use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::FileType;
use rustix::io::Errno;

use super::entry::Kind;
use super::filter::{DIRECTORY_FILTER_NAME, Filter, FilterState, Verdict};
use super::moves::Move;
use super::path::{DEPTH_MAX, split};
use super::staging::LATE_FLAGS;
use super::tree::{Names, Tree};
use crate::interrupt::{AbortFlag, Interrupted};

/// Asks whether things of a tree can be moved.
pub struct Movable<'a> {
    tree: &'a Tree,
    filter: &'a Filter,
    abort: &'a AbortFlag,
    /// The rules in directories that were asked about, if these are in scope and no directory on the
    /// way has rules of its own.
    ways: HashMap<Vec<u8>, Option<FilterState>>,
}

impl<'a> Movable<'a> {
    /// Of what `tree` has.
    #[must_use]
    pub fn new(tree: &'a Tree, filter: &'a Filter, abort: &'a AbortFlag) -> Self {
        Self {
            tree,
            filter,
            abort,
            ways: HashMap::new(),
        }
    }

    /// Whether what the tree has at `at` can be moved like `m`.
    pub fn is(&mut self, m: &Move, at: &[u8]) -> Result<bool, Interrupted> {
        self.abort.check()?;
        let (parent, name) = split(at);
        let dir = self.tree.open_dir(parent);
        let Ok(Some(found)) = dir.and_then(|dir| self.tree.look(dir.as_fd(), name)) else {
            return Ok(false);
        };
        // What may not be changed stays where it is.
        if found.meta.flags & LATE_FLAGS != 0 {
            return Ok(false);
        }
        match found.meta.kind {
            Kind::Opaque => Ok(false),
            Kind::Dir => {
                let (Some(from), Some(to)) = (self.way(&m.from), self.way(&m.to)) else {
                    return Ok(false);
                };
                match self.tree.open_dir(at) {
                    Ok(top) => is_all_in_scope(self.tree, top, (from, to), self.abort),
                    Err(_) => Ok(false),
                }
            }
            _ => Ok([&m.from, &m.to].into_iter().all(|path| {
                let (parent, name) = split(path);
                name != DIRECTORY_FILTER_NAME.as_bytes()
                    && (self.way(parent))
                        .is_some_and(|rules| rules.verdict(name, false) == Verdict::Include)
            })),
        }
    }

    /// The rules in the directory at `path`, see `ways`.
    fn way(&mut self, path: &[u8]) -> Option<FilterState> {
        if let Some(known) = self.ways.get(path) {
            return known.clone();
        }
        let found = if path.is_empty() {
            Some(FilterState::root(self.filter))
        } else {
            let (parent, name) = split(path);
            self.way(parent)
                .filter(|rules| rules.verdict(name, true) == Verdict::Include)
                .map(|rules| rules.enter(name))
        };
        let found = found.filter(|_| !has_own_rules(self.tree, path));
        self.ways.insert(path.to_vec(), found.clone());
        found
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
