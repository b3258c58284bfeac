//! One of the two snapshots, asked by inode number.
//!
//! Read from its tree, not through paths: names and numbers are facts there, whatever a stream
//! says, no inode is loaded into memory for it, and the names of a hard link are all found.

use std::collections::HashMap;
use std::io;
use std::os::fd::BorrowedFd;

use super::error::DiffError;
use crate::mirror::path::PATH_LIMIT;
use crate::sys::inodes::{DirEntry, Found, InodeItem, InodeReader, Target};

/// The root directory of every subvolume.
pub const ROOT_INO: u64 = 256;
/// Inode numbers this far apart are still fetched together.
const GAP: u64 = 4;

const LOST: DiffError = DiffError::Disagreement("a directory in it leads nowhere");

/// An inode and its names.
#[derive(Debug)]
pub struct Inode {
    /// The inode itself.
    pub item: InodeItem,
    /// Directory and name, for each name.
    pub names: Vec<(u64, Box<[u8]>)>,
}

/// A snapshot.
pub struct Snapshot<'a> {
    fd: BorrowedFd<'a>,
    reader: InodeReader,
    /// Where directories are: their own directory and name.
    directories: HashMap<u64, (u64, Box<[u8]>)>,
}

impl<'a> Snapshot<'a> {
    /// The snapshot whose root directory this is.
    pub fn new(fd: BorrowedFd<'a>) -> Self {
        Self {
            fd,
            reader: InodeReader::new(),
            directories: HashMap::new(),
        }
    }

    /// What has this name.
    pub fn child(&mut self, directory: u64, name: &[u8]) -> io::Result<Option<Target>> {
        self.reader.child(self.fd, directory, name)
    }

    /// The entries of a directory made in generation `since` or later.
    pub fn entries(
        &mut self,
        directory: u64,
        since: u64,
        visit: impl FnMut(DirEntry<'_>),
    ) -> io::Result<()> {
        self.reader.entries(self.fd, directory, since, visit)
    }

    /// The inodes with these numbers, which are sorted; those that exist.
    pub fn inodes(&mut self, numbers: &[u64]) -> io::Result<HashMap<u64, Inode>> {
        let mut found: HashMap<u64, Inode> = HashMap::with_capacity(numbers.len());
        for run in numbers.chunk_by(|a, b| b - a <= GAP) {
            let (first, last) = (run[0], run[run.len() - 1]);
            self.reader
                .read_names(self.fd, first, last, |number, what| match what {
                    Found::Inode(item) if run.binary_search(&number).is_ok() => {
                        let names = Vec::new();
                        found.insert(number, Inode { item, names });
                    }
                    Found::Name(directory, name) => {
                        if let Some(inode) = found.get_mut(&number) {
                            inode.names.push((directory, name.into()));
                        }
                    }
                    _ => {}
                })?;
        }
        Ok(found)
    }

    /// The directory a directory is in, and its name there.
    fn place(&mut self, directory: u64) -> Result<(u64, Box<[u8]>), DiffError> {
        if let Some(known) = self.directories.get(&directory) {
            return Ok(known.clone());
        }
        let mut found = None;
        self.reader
            .read_names(self.fd, directory, directory, |_, what| {
                if let Found::Name(above, name) = what {
                    found = Some((above, Box::<[u8]>::from(name)));
                }
            })?;
        let found = found.ok_or(LOST)?;
        self.directories.insert(directory, found.clone());
        Ok(found)
    }

    /// The path of `name` in the directory with this number; without a name, of the directory.
    pub fn path(&mut self, directory: u64, name: &[u8]) -> Result<Vec<u8>, DiffError> {
        let mut names: Vec<(u64, Box<[u8]>)> = Vec::new();
        let mut length = name.len();
        let mut at = directory;
        while at != ROOT_INO {
            let (above, name) = self.place(at)?;
            length += name.len() + 1;
            if length > PATH_LIMIT {
                return Err(LOST);
            }
            names.push((above, name));
            at = above;
        }
        let mut path = Vec::with_capacity(length);
        let above = names.iter().rev().map(|(_, name)| &**name);
        for name in above.chain((!name.is_empty()).then_some(name)) {
            if !path.is_empty() {
                path.push(b'/');
            }
            path.extend_from_slice(name);
        }
        Ok(path)
    }
}
