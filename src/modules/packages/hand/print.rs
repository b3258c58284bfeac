//! What a program that no package owns looks like: enough to see that two machines have different ones.
//!
//! Nothing is run to ask it for its version, and not everything is read: names, kinds, permissions, sizes
//! and links of a whole tree, and of its content the first few megabytes. A new version changes one of them.

use std::collections::BTreeSet;
use std::fs::{self, File, Metadata};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use serde::{Deserialize, Serialize};

use crate::escape::escape_str;
use crate::modules::packages::answer::Silence;

/// Most entries of one program that are looked at, in the order of their names.
const ENTRIES: usize = 20_000;
/// Most bytes of one program's content that are read, in the same order.
const CONTENT: u64 = 4 << 20;
/// Most bytes of one file.
const OF_A_FILE: u64 = 1 << 20;

/// A program on one machine.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Print {
    /// Hash of all that was looked at; equal programs have equal ones.
    pub hash: String,
    /// When a file of it was changed last, in seconds since 1970.
    pub changed: i64,
}

/// Looks at `path`; nothing if it is a directory with no file anywhere below.
pub fn look(path: &Path) -> Result<Option<Print>, Silence> {
    let mut look = Look {
        hasher: blake3::Hasher::new(),
        left: CONTENT,
        entries: 0,
        files: 0,
        changed: i64::MIN,
    };
    look.at(path, path).map_err(|e| {
        Silence(format!(
            "cannot look at {}: {e}",
            escape_str(&path.to_string_lossy())
        ))
    })?;
    let print = || Print {
        hash: look.hasher.finalize().to_hex().to_string(),
        changed: look.changed,
    };
    Ok((look.files > 0).then(print))
}

struct Look {
    hasher: blake3::Hasher,
    left: u64,
    entries: usize,
    files: usize,
    changed: i64,
}

impl Look {
    fn at(&mut self, top: &Path, path: &Path) -> io::Result<()> {
        if self.entries >= ENTRIES {
            return Ok(());
        }
        self.entries += 1;
        let Some(metadata) = there(fs::symlink_metadata(path))? else {
            return Ok(());
        };
        let name = path.strip_prefix(top).unwrap_or(path).as_os_str();
        self.word(name.as_bytes());
        self.word(&(metadata.mode()).to_le_bytes());
        if metadata.is_dir() {
            let mut names = BTreeSet::new();
            for entry in there(fs::read_dir(path))?.into_iter().flatten() {
                names.insert(entry?.file_name());
            }
            for name in names {
                self.at(top, &path.join(name))?;
            }
            return Ok(());
        }
        self.files += 1;
        if metadata.is_symlink() {
            if let Some(link) = there(fs::read_link(path))? {
                self.word(link.as_os_str().as_bytes());
            }
            return Ok(());
        }
        self.word(&metadata.len().to_le_bytes());
        if metadata.is_file() {
            self.changed = self.changed.max(metadata.mtime());
            self.content(path, &metadata)?;
        }
        Ok(())
    }

    /// A word of its own: what comes before and after it cannot be taken for a part of it.
    fn word(&mut self, bytes: &[u8]) {
        self.hasher.update(&(bytes.len() as u64).to_le_bytes());
        self.hasher.update(bytes);
    }

    fn content(&mut self, path: &Path, metadata: &Metadata) -> io::Result<()> {
        let wanted = metadata.len().min(OF_A_FILE).min(self.left);
        if wanted == 0 {
            return Ok(());
        }
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let opened = rustix::fs::open(path, flags, Mode::empty()).map_err(io::Error::from);
        let Some(file) = there(opened)?.map(File::from) else {
            return Ok(());
        };
        self.left -= wanted;
        let mut buffer = vec![0; 64 << 10];
        let mut offset = 0;
        while offset < wanted {
            let most = usize::try_from(wanted - offset).unwrap_or(usize::MAX);
            let room = most.min(buffer.len());
            let n = file.read_at(&mut buffer[..room], offset)?;
            if n == 0 {
                break;
            }
            self.hasher.update(&buffer[..n]);
            offset += n as u64;
        }
        Ok(())
    }
}

/// What is gone by now was never there.
fn there<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use rustix::fs::{CWD, FileType};

    use super::*;

    /// A program of a binary, a link and some files.
    fn made(change: impl FnOnce(&Path)) -> Option<Print> {
        let directory = tempfile::tempdir().unwrap();
        let top = directory.path().join("tool");
        fs::create_dir_all(top.join("lib/empty")).unwrap();
        fs::write(top.join("tool"), vec![7; 3 << 20]).unwrap();
        fs::write(top.join("lib/one"), "one").unwrap();
        symlink("lib/one", top.join("link")).unwrap();
        change(&top);
        look(&top).unwrap()
    }

    #[test]
    fn equal_programs_look_alike_and_others_do_not() {
        type Change = fn(&Path);
        let one = made(|_| ()).unwrap().hash;
        assert_eq!(made(|_| ()).unwrap().hash, one);
        let changes: [(&str, Change); 7] = [
            ("content", |top| {
                fs::write(top.join("lib/one"), "two").unwrap();
            }),
            ("size", |top| {
                fs::write(top.join("tool"), vec![7; (3 << 20) + 1]).unwrap();
            }),
            ("name", |top| {
                fs::rename(top.join("lib/one"), top.join("lib/two")).unwrap();
            }),
            ("place", |top| {
                fs::rename(top.join("lib/one"), top.join("lib/empty/one")).unwrap();
            }),
            ("link", |top| {
                fs::remove_file(top.join("link")).unwrap();
                symlink("lib/two", top.join("link")).unwrap();
            }),
            ("mode", |top| {
                let mode = fs::Permissions::from_mode(0o700);
                fs::set_permissions(top.join("tool"), mode).unwrap();
            }),
            ("more", |top| {
                fs::write(top.join("lib/empty/x"), "").unwrap();
            }),
        ];
        for (what, change) in changes {
            assert_ne!(made(change).unwrap().hash, one, "{what}");
        }
    }

    #[test]
    fn a_directory_without_a_file_is_no_program_and_a_pipe_is_not_waited_for() {
        let empty = made(|top| {
            fs::remove_dir_all(top).unwrap();
            fs::create_dir_all(top.join("a/b")).unwrap();
        });
        assert_eq!(empty, None);
        let gone = look(Path::new("/nowhere/to/be/found"));
        assert_eq!(gone.unwrap(), None);
        let piped = made(|top| {
            let (kind, mode) = (FileType::Fifo, Mode::RUSR);
            rustix::fs::mknodat(CWD, top.join("pipe"), kind, mode, 0).unwrap();
        });
        assert!(piped.is_some());
    }
}
