//! Which paths below a folder may be spoken of: the filter and the per-directory filters on the way.

use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;

use super::filter::{DIRECTORY_FILTER_NAME, Filter, FilterState, Verdict};
use super::path::{join, split};
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

/// Why a path may not be spoken of, or cannot be reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Closed {
    /// It, or a directory on the way, is excluded.
    Excluded,
    /// It cannot be opened.
    Io(Errno),
}

/// The way to a file in scope, held open for the next one nearby.
pub struct Way<'a> {
    tree: &'a Tree,
    filter: Filter,
    /// Whether directories' own filter files count.
    own_rules: bool,
    /// The folder first.
    levels: Vec<Level>,
}

struct Level {
    name: Vec<u8>,
    fd: OwnedFd,
    filter: FilterState,
}

impl<'a> Way<'a> {
    /// Nowhere yet, in `tree` under `filter`.
    #[must_use]
    pub fn new(tree: &'a Tree, filter: &Filter) -> Self {
        Self {
            tree,
            filter: filter.clone(),
            own_rules: true,
            levels: Vec::new(),
        }
    }

    /// The same without the filter files that directories have of their own.
    #[must_use]
    pub fn without_own_rules(self) -> Self {
        Self {
            own_rules: false,
            ..self
        }
    }

    /// Opens the directory of the file at `path`, if the file is one the other machine may ask
    /// about: not excluded, and no directory on the way is. The outer error is that of a filter
    /// file that cannot be used.
    pub fn open_parent(
        &mut self,
        path: &[u8],
    ) -> Result<Result<BorrowedFd<'_>, Closed>, ScanError> {
        let (parent, name) = split(path);
        if self.levels.is_empty() {
            match self.tree.open_dir(b"") {
                Ok(fd) => {
                    self.push(Vec::new(), fd, FilterState::root(&self.filter.clone()), b"")?;
                }
                Err(error) => return Ok(Err(Closed::Io(error))),
            }
        }
        let components: Vec<&[u8]> = parent
            .split(|b| *b == b'/')
            .filter(|name| !name.is_empty())
            .collect();
        let held = self.levels[1..].iter().zip(&components);
        let same = held
            .take_while(|(level, name)| level.name == **name)
            .count();
        self.levels.truncate(1 + same);
        for component in &components[same..] {
            let level = self.levels.last().expect("the folder itself stays");
            if level.filter.verdict(component, true) == Verdict::Exclude {
                return Ok(Err(Closed::Excluded));
            }
            let filter = level.filter.enter(component);
            match self.tree.open_child(level.fd.as_fd(), component) {
                Ok(fd) => self.push(component.to_vec(), fd, filter, parent)?,
                Err(error) => return Ok(Err(Closed::Io(error))),
            }
        }
        let level = self.levels.last().expect("the folder itself stays");
        if level.filter.verdict(name, false) == Verdict::Exclude {
            return Ok(Err(Closed::Excluded));
        }
        Ok(Ok(level.fd.as_fd()))
    }

    fn push(
        &mut self,
        name: Vec<u8>,
        fd: OwnedFd,
        filter: FilterState,
        path: &[u8],
    ) -> Result<(), ScanError> {
        let rules = if self.own_rules {
            directory_rules(self.tree, fd.as_fd(), path)?
        } else {
            None
        };
        let filter = with_rules(filter, rules.as_deref(), path)?;
        self.levels.push(Level { name, fd, filter });
        Ok(())
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
