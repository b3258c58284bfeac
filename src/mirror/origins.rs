//! Where things were when both machines were equal, for a scan that was not told by the kernel: what has the
//! number and the time of birth of something in the anchor is that, wherever it is now.
//!
//! A full scan finds something new in one place and something gone in another. Its plan is then compared once
//! more, restricted to its own paths, and this says what the source offers to be moved (`exchange`). That is as
//! good as the kernel's word only where nothing was equal in the first place: what is equal is not in the plan,
//! and nobody would look at it where something is moved from, or to. So what has another thing in its old place,
//! or takes the place of one, is offered if that place is in the plan; and of a directory both places are
//! compared once more with all that is in them.

use std::collections::{HashMap, HashSet};

use super::diff::DiffError;
use super::diff::snapshot::Snapshot;
use super::drift::at;
use super::entry::Kind;
use super::path::above;
use super::place::DirCache;
use super::suspects::{Mark, Suspect, in_folder, walk_order};
use super::tree::{Glance, Tree};
use crate::interrupt::AbortFlag;

/// All of `paths`; of those that were elsewhere in the folder when it was `then`, with where that was.
pub fn origins(
    now: &Tree,
    then: &Tree,
    paths: &[Suspect],
    abort: &AbortFlag,
) -> Result<Vec<Suspect>, DiffError> {
    let mut finder = Finder {
        now,
        then,
        folder: Vec::new(),
        snapshot: Snapshot::new(then.root()),
        now_dirs: DirCache::default(),
        then_dirs: DirCache::default(),
        moved: HashMap::new(),
        planned: paths.iter().map(|suspect| &suspect.path[..]).collect(),
    };
    finder.folder = finder.snapshot.path(then.root_ino()?, b"")?;
    let planned = finder.planned.iter().copied();
    // A directory that took the place of one like it is not in the plan, only what is in it.
    let dirs: HashSet<&[u8]> = planned.clone().flat_map(above).collect();
    let mut paths: Vec<&[u8]> = planned.chain(dirs).collect();
    // Directories before what is in them.
    paths.sort_by(|a, b| walk_order(a, b));
    paths.dedup();
    let mut found = Vec::new();
    for path in paths {
        abort.check()?;
        if let Some((from, kind)) = finder.origin(path)? {
            let mut mark = Mark::OTHER;
            if kind == Kind::Dir {
                mark = mark.with(Mark::BELOW);
                if finder.takes_a_place(path, &from) {
                    let places = [path.to_vec(), from.clone()];
                    found.extend(places.map(|path| Suspect::new(path, mark)));
                }
                finder.moved.insert(path.to_vec(), from.clone());
            } else if finder.was_a_directory(path) {
                let all = mark.with(Mark::BELOW);
                found.push(Suspect::new(path.to_vec(), all));
            }
            found.push(Suspect {
                from: Some(from),
                ..Suspect::new(path.to_vec(), mark)
            });
        } else if finder.planned.contains(path) {
            // The target may mean another one by it, if things are moved.
            found.push(Suspect::new(path.to_vec(), Mark::default()));
        }
    }
    Ok(found)
}

/// What one system call tells of what is at `path`, if anything is.
fn glance(tree: &Tree, dirs: &mut DirCache, path: &[u8]) -> Option<Glance> {
    at(tree, dirs, path, Tree::glance).ok().flatten()
}

struct Finder<'a> {
    now: &'a Tree,
    then: &'a Tree,
    /// The path of the folder in the anchor's subvolume.
    folder: Vec<u8>,
    snapshot: Snapshot<'a>,
    now_dirs: DirCache,
    then_dirs: DirCache,
    /// Directories found, with where they were.
    moved: HashMap<Vec<u8>, Vec<u8>>,
    /// What is planned.
    planned: HashSet<&'a [u8]>,
}

impl Finder<'_> {
    /// Where what is at `path` was, and what it is.
    fn origin(&mut self, path: &[u8]) -> Result<Option<(Vec<u8>, Kind)>, DiffError> {
        if path.is_empty() {
            return Ok(None);
        }
        let Some(here) = glance(self.now, &mut self.now_dirs, path) else {
            return Ok(None);
        };
        let ino = here.ino;
        let before = self.before(path);
        if glance(self.then, &mut self.then_dirs, &before).is_some_and(|then| then.ino == ino) {
            // Where it was, or gone along with the directory it is in.
            return Ok(None);
        }
        let Some(inode) = self.snapshot.inodes(&[ino])?.remove(&ino) else {
            return Ok(None);
        };
        let [(dir, name)] = &inode.names[..] else {
            return Ok(None);
        };
        let from = self.snapshot.path(*dir, name)?;
        let Some(from) = in_folder(&from, &self.folder).filter(|from| !from.is_empty()) else {
            return Ok(None);
        };
        // What is there now was compared with what the target has there, and is not in the plan if it is equal.
        if here.kind != Kind::Dir
            && !self.planned.contains(from)
            && glance(self.now, &mut self.now_dirs, from).is_some()
        {
            return Ok(None);
        }
        // A number can be given again; a birth is not repeated.
        let now = at(self.now, &mut self.now_dirs, path, Tree::look);
        let then = at(self.then, &mut self.then_dirs, from, Tree::look);
        let (now, then) = (now.ok().flatten(), then.ok().flatten());
        let is_same = now.zip(then).is_some_and(|(now, then)| {
            (now.ino, now.born, now.meta.kind) == (then.ino, then.born, then.meta.kind)
        });
        Ok(is_same.then(|| (from.to_vec(), here.kind)))
    }

    /// Whether something else is where the directory at `path` comes `from`, or was where it is.
    fn takes_a_place(&mut self, path: &[u8], from: &[u8]) -> bool {
        glance(self.now, &mut self.now_dirs, from).is_some()
            || glance(self.then, &mut self.then_dirs, path).is_some()
    }

    /// Whether a directory was at `path`, which goes with all that was in it.
    fn was_a_directory(&mut self, path: &[u8]) -> bool {
        let then = glance(self.then, &mut self.then_dirs, path);
        then.is_some_and(|then| then.kind == Kind::Dir)
    }

    /// Where `path` was if it was moved with a directory it is in, and only so.
    fn before(&self, path: &[u8]) -> Vec<u8> {
        let dirs: Vec<&[u8]> = above(path).collect();
        // The innermost one counts.
        let moved = dirs.into_iter().rev().find_map(|dir| {
            let from = self.moved.get(dir)?;
            Some([&from[..], &path[dir.len()..]].concat())
        });
        moved.unwrap_or_else(|| path.to_vec())
    }
}
