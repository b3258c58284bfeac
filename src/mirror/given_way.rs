//! What is in a directory that gives way to something that is moved over it: all of it goes, but for what is
//! moved itself.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use super::entry::Kind;
use super::moves::Moves;
use super::path::{DEPTH_MAX, join};
use super::scan::ScanError;
use super::tree::{Found, Names, Tree};
use crate::interrupt::AbortFlag;

/// A directory that is being looked through.
struct Level {
    path: Vec<u8>,
    dir: OwnedFd,
    names: Names,
    next: usize,
    /// Itself, but for the one that gives way.
    found: Option<Found>,
}

/// Has `visit` see everything below the directory at `top`, what is in a directory before the directory, as
/// it is before anything is moved. What cannot be looked at is passed over: it will be in the way when the
/// directory is to go.
pub fn each(
    tree: &Tree,
    top: &[u8],
    moves: &Moves,
    abort: &AbortFlag,
    visit: &mut dyn FnMut(&[u8], &Found) -> io::Result<()>,
) -> Result<(), ScanError> {
    let level = |path: Vec<u8>, dir: OwnedFd, found| {
        let names = Names::read(dir.as_fd()).unwrap_or_default();
        Level {
            path,
            dir,
            names,
            next: 0,
            found,
        }
    };
    let Ok(dir) = tree.open_dir(top) else {
        return Ok(());
    };
    let mut stack = vec![level(top.to_vec(), dir, None)];
    while let Some(here) = stack.last_mut() {
        abort.check()?;
        let Some(name) = here.names.get(here.next) else {
            if let Some(Level {
                path,
                found: Some(found),
                ..
            }) = stack.pop()
            {
                visit(&path, &found)?;
            }
            continue;
        };
        let path = join(&here.path, name);
        let found = tree.look(here.dir.as_fd(), name);
        let below = match &found {
            Ok(Some(found)) if found.meta.kind == Kind::Dir => {
                tree.open_child(here.dir.as_fd(), name).ok()
            }
            _ => None,
        };
        here.next += 1;
        let Ok(Some(found)) = found else { continue };
        if moves.from(&path).is_some() || found.meta.kind == Kind::Opaque {
            continue;
        }
        match below {
            Some(dir) if stack.len() < DEPTH_MAX => stack.push(level(path, dir, Some(found))),
            None if found.meta.kind != Kind::Dir => visit(&path, &found)?,
            _ => {}
        }
    }
    Ok(())
}
