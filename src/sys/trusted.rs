//! Files that root relies on: directories nobody else can rearrange, replaced atomically.
//!
//! A directory is trusted when every component of its path is a directory (no symbolic link) that
//! belongs to root or to us and that nobody else may write to, or that is sticky. Files in it are
//! reached through the held descriptor, never by path again, so that nothing can be swapped in.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FileType, Gid, Mode, OFlags, Uid, mkdirat, openat, renameat};
use rustix::io::Errno;

/// Why a file or directory cannot be relied on, or could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// A component of the path belongs to somebody else or can be replaced by somebody else.
    #[error("{} is not safe to use as root: {reason}", path.display())]
    Untrusted {
        /// The component.
        path: PathBuf,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// Longer than anything that belongs there.
    #[error("{} is larger than {limit} bytes", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// What was allowed.
        limit: u64,
    },
    /// A system call failed.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried ("open", "create").
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
}

impl FileError {
    /// The error of a failed `action` on `path`.
    pub fn io(action: &'static str, path: &Path, source: impl Into<io::Error>) -> Self {
        Self::Io {
            action,
            path: path.to_owned(),
            source: source.into(),
        }
    }

    /// Whether the file or directory is simply not there.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }
}

/// A directory held open, with the path it was reached by for messages.
#[derive(Debug)]
pub struct Directory {
    fd: OwnedFd,
    path: PathBuf,
}

impl AsFd for Directory {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

const WALK: OFlags = OFlags::PATH
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);
const READ_DIRECTORY: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

/// Checks that a directory belongs to root or to us and nobody else can rearrange it.
fn check(fd: impl AsFd, path: &Path) -> Result<(), FileError> {
    let untrusted = |reason| FileError::Untrusted {
        path: path.to_owned(),
        reason,
    };
    let stat = rustix::fs::fstat(fd).map_err(|e| FileError::io("examine", path, e))?;
    if stat.st_uid != 0 && stat.st_uid != rustix::process::geteuid().as_raw() {
        return Err(untrusted("it does not belong to root"));
    }
    let mode = Mode::from_raw_mode(stat.st_mode);
    if mode.intersects(Mode::WGRP | Mode::WOTH) && !mode.contains(Mode::SVTX) {
        return Err(untrusted("others may write to it"));
    }
    Ok(())
}

fn explain(errno: Errno, action: &'static str, path: &Path) -> FileError {
    let reason = match errno {
        Errno::LOOP => "it is a symbolic link",
        // O_PATH|O_NOFOLLOW|O_DIRECTORY on a symbolic link gives ENOTDIR.
        Errno::NOTDIR => "it is not a directory, or a symbolic link to one",
        _ => return FileError::io(action, path, errno),
    };
    FileError::Untrusted {
        path: path.to_owned(),
        reason,
    }
}

impl Directory {
    /// Opens the trusted directory at the absolute `path`.
    pub fn open(path: &Path) -> Result<Self, FileError> {
        if !path.is_absolute() {
            return Err(FileError::Untrusted {
                path: path.to_owned(),
                reason: "it is not an absolute path",
            });
        }
        let mut walked = PathBuf::from("/");
        let mut current = openat(CWD, "/", READ_DIRECTORY, Mode::empty())
            .map_err(|e| FileError::io("open", &walked, e))?;
        check(&current, &walked)?;
        for component in path.components() {
            match component {
                Component::RootDir | Component::CurDir => {}
                Component::Normal(name) => {
                    walked.push(name);
                    current = openat(&current, name, WALK, Mode::empty())
                        .map_err(|e| explain(e, "open", &walked))?;
                    check(&current, &walked)?;
                }
                Component::ParentDir | Component::Prefix(_) => {
                    return Err(FileError::Untrusted {
                        path: path.to_owned(),
                        reason: "it contains '..'",
                    });
                }
            }
        }
        let fd = openat(&current, ".", READ_DIRECTORY, Mode::empty())
            .map_err(|e| FileError::io("open", &walked, e))?;
        Ok(Self { fd, path: walked })
    }

    /// Opens the trusted directory at `path`, creating the last component with `mode` if it is
    /// absent, and giving it that mode if it has another.
    pub fn ensure(path: &Path, mode: Mode) -> Result<Self, FileError> {
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return Self::open(path);
        };
        let parent = Self::open(parent)?;
        match mkdirat(&parent, name, mode) {
            // What is written into it is no safer than its name.
            Ok(()) => rustix::fs::fsync(&parent).map_err(|e| FileError::io("create", path, e))?,
            Err(Errno::EXIST) => {}
            Err(e) => return Err(FileError::io("create", path, e)),
        }
        let directory = Self::open(path)?;
        // The umask, or an earlier version, may have left another.
        rustix::fs::fchmod(&directory, mode).map_err(|e| FileError::io("change", path, e))?;
        Ok(directory)
    }

    /// Wraps a directory that was opened and checked otherwise.
    #[must_use]
    pub fn from_fd(fd: OwnedFd, path: PathBuf) -> Self {
        Self { fd, path }
    }

    /// The path it was reached by, for messages.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Reads the regular file `name`, at most `limit` bytes; `None` if it is not there.
    pub fn read(&self, name: &OsStr, limit: u64) -> Result<Option<Vec<u8>>, FileError> {
        let path = self.path.join(name);
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let fd = match openat(&self.fd, name, flags, Mode::empty()) {
            Ok(fd) => fd,
            Err(Errno::NOENT) => return Ok(None),
            Err(e) => return Err(explain(e, "open", &path)),
        };
        read_regular(File::from(fd), &path, limit).map(Some)
    }

    /// Replaces the file `name` so that after a power cut it is the old or the new one: temp file,
    /// fsync, rename, fsync of the directory.
    pub fn replace(
        &self,
        name: &OsStr,
        content: &mut dyn Read,
        mode: Mode,
        owner: Option<(Uid, Gid)>,
    ) -> Result<(), FileError> {
        let path = self.path.join(name);
        let fail = |action, e: io::Error| FileError::io(action, &path, e);
        // A fixed name: what a crash left behind is removed here, so there is never more than one.
        let mut temp = std::ffi::OsString::from(".");
        temp.push(name);
        temp.push(".pc-switcher-new");
        match rustix::fs::unlinkat(&self.fd, &temp, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(e) => return Err(fail("replace", e.into())),
        }
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = openat(&self.fd, &temp, flags, Mode::RUSR | Mode::WUSR)
            .map_err(|e| fail("write", e.into()))?;
        let written = (|| {
            let mut file = File::from(fd);
            io::copy(content, &mut file)?;
            file.flush()?;
            if let Some((uid, gid)) = owner {
                rustix::fs::fchown(&file, Some(uid), Some(gid))?;
            }
            // Last: a change of owner clears setuid bits, and the umask is not ours to trust.
            rustix::fs::fchmod(&file, mode)?;
            file.sync_all()?;
            drop(file);
            renameat(&self.fd, &temp, &self.fd, name)?;
            rustix::fs::fsync(&self.fd)?;
            Ok(())
        })();
        written.map_err(|e| {
            let _ = rustix::fs::unlinkat(&self.fd, &temp, AtFlags::empty());
            fail("write", e)
        })
    }

    /// Removes the file `name` for good; one that is not there is fine.
    pub fn remove(&self, name: &OsStr) -> Result<(), FileError> {
        let removed = match rustix::fs::unlinkat(&self.fd, name, AtFlags::empty()) {
            Err(Errno::NOENT) => return Ok(()),
            other => other.and_then(|()| rustix::fs::fsync(&self.fd)),
        };
        removed.map_err(|e| FileError::io("remove", &self.path.join(name), e))
    }
}

/// Checks that nobody but root can change the program at `path`, or put another one in its place: all of its
/// absolute path is root's, without symbolic links. A group may write to a directory, as on older Debian
/// systems `staff` may to `/usr/local`, which is as good as root; a sticky directory, which somebody else's
/// file may be in tomorrow, will not do.
pub fn check_program(path: &Path) -> Result<(), FileError> {
    let untrusted = |path: &Path, reason| {
        Err(FileError::Untrusted {
            path: path.to_owned(),
            reason,
        })
    };
    let is_plain = |part| matches!(part, Component::RootDir | Component::Normal(_));
    if !path.is_absolute() || !path.components().all(is_plain) {
        return untrusted(path, "it is not a plain absolute path");
    }
    for part in path.ancestors() {
        let stat = rustix::fs::lstat(part).map_err(|e| FileError::io("examine", part, e))?;
        let (wanted, writable) = if part == path {
            (FileType::RegularFile, Mode::WGRP | Mode::WOTH)
        } else {
            (FileType::Directory, Mode::WOTH)
        };
        if FileType::from_raw_mode(stat.st_mode) != wanted {
            return untrusted(part, "it is a symbolic link, or no regular file");
        }
        if stat.st_uid != 0 {
            return untrusted(part, "it does not belong to root");
        }
        if Mode::from_raw_mode(stat.st_mode).intersects(writable) {
            return untrusted(part, "others may write to it");
        }
    }
    Ok(())
}

/// Reads all of `file`, which must be a regular file of at most `limit` bytes.
pub fn read_regular(file: File, path: &Path, limit: u64) -> Result<Vec<u8>, FileError> {
    let stat = rustix::fs::fstat(&file).map_err(|e| FileError::io("examine", path, e))?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(FileError::Untrusted {
            path: path.to_owned(),
            reason: "it is not a regular file",
        });
    }
    let mut bytes = Vec::new();
    file.take(limit + 1)
        .read_to_end(&mut bytes)
        .map_err(|e| FileError::io("read", path, e))?;
    if bytes.len() as u64 > limit {
        return Err(FileError::TooLarge {
            path: path.to_owned(),
            limit,
        });
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    const PRIVATE: Mode = Mode::from_raw_mode(0o600);

    struct Failing;

    impl Read for Failing {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::Error::other("on purpose"))
        }
    }

    fn open(path: &Path) -> Result<Directory, FileError> {
        Directory::open(path)
    }

    fn reason(result: Result<Directory, FileError>) -> String {
        result.map(|d| d.path).unwrap_err().to_string()
    }

    #[test]
    fn a_directory_others_can_rearrange_is_refused() {
        let temp = tempfile::tempdir().unwrap();
        let real = temp.path().join("real");
        std::fs::create_dir(&real).unwrap();
        assert!(open(&real).is_ok());
        symlink(&real, temp.path().join("link")).unwrap();
        assert!(reason(open(&temp.path().join("link"))).contains("symbolic link"));
        assert!(reason(open(&temp.path().join("link/below"))).contains("symbolic link"));
        assert!(reason(open(&temp.path().join("real/../real"))).contains("'..'"));
        assert!(reason(open(Path::new("relative"))).contains("absolute"));
        std::fs::set_permissions(&real, PermissionsExt::from_mode(0o777)).unwrap();
        assert!(reason(open(&real)).contains("others may write"));
        std::fs::set_permissions(&real, PermissionsExt::from_mode(0o1777)).unwrap();
        assert!(open(&real).is_ok());
        assert!(
            open(&temp.path().join("absent"))
                .unwrap_err()
                .is_not_found()
        );
        if crate::sys::testing::is_root("a_directory_others_can_rearrange_is_refused") {
            std::os::unix::fs::chown(&real, Some(12345), None).unwrap();
            std::fs::set_permissions(&real, PermissionsExt::from_mode(0o700)).unwrap();
            assert!(reason(open(&real)).contains("belong to root"));
        }
    }

    #[test]
    fn a_program_others_can_replace_is_refused() {
        let check = |path: &str| check_program(Path::new(path)).map_err(|e| e.to_string());
        assert_eq!(check("/etc/passwd"), Ok(()));
        assert!(check("/etc").unwrap_err().contains("no regular file"));
        assert!(check("etc/passwd").unwrap_err().contains("absolute"));
        assert!(check("/etc/../etc/passwd").unwrap_err().contains("plain"));
        assert!(check("/etc/passwd/below").is_err());
        let temp = tempfile::tempdir().unwrap();
        let program = temp.path().join("program");
        std::fs::write(&program, "").unwrap();
        // What is above it lets everybody put files beside it, or it is not root's.
        assert!(check_program(&program).is_err());
        if crate::sys::testing::is_root("a_program_others_can_replace_is_refused") {
            let own = tempfile::tempdir_in("/root").unwrap();
            let program = own.path().join("program");
            let link = own.path().join("link");
            std::fs::write(&program, "").unwrap();
            symlink(&program, &link).unwrap();
            assert!(check_program(&program).is_ok());
            assert!(check_program(&link).is_err());
            let mode = |mode| PermissionsExt::from_mode(mode);
            std::fs::set_permissions(&program, mode(0o775)).unwrap();
            assert!(check_program(&program).is_err());
            std::fs::set_permissions(&program, mode(0o755)).unwrap();
            std::fs::set_permissions(own.path(), mode(0o1777)).unwrap();
            assert!(check_program(&program).is_err());
            std::fs::set_permissions(own.path(), mode(0o775)).unwrap();
            assert!(check_program(&program).is_ok());
            std::os::unix::fs::chown(&program, Some(12345), None).unwrap();
            assert!(check_program(&program).is_err());
        }
    }

    #[test]
    fn ensure_gives_an_existing_directory_its_mode() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("state");
        std::fs::create_dir(&path).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
        for _ in 0..2 {
            Directory::ensure(&path, Mode::from_raw_mode(0o700)).unwrap();
            assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o7777, 0o700);
        }
    }

    #[test]
    fn replacing_is_atomic_and_leaves_nothing_beside() {
        let temp = tempfile::tempdir().unwrap();
        let directory = open(temp.path()).unwrap();
        let name = OsStr::new("file");
        // What an earlier crash left behind is in the way of nobody.
        std::fs::write(temp.path().join(".file.pc-switcher-new"), "stale").unwrap();
        for content in ["first", "second"] {
            directory
                .replace(name, &mut content.as_bytes(), PRIVATE, None)
                .unwrap();
            assert_eq!(
                directory.read(name, 100).unwrap().unwrap(),
                content.as_bytes()
            );
        }
        assert_eq!(std::fs::read_dir(temp.path()).unwrap().count(), 1);
        directory
            .replace(name, &mut Failing, PRIVATE, None)
            .unwrap_err();
        assert_eq!(directory.read(name, 100).unwrap().unwrap(), b"second");
        assert_eq!(std::fs::read_dir(temp.path()).unwrap().count(), 1);
        directory.remove(name).unwrap();
        directory.remove(name).unwrap();
        assert_eq!(directory.read(name, 100).unwrap(), None);
    }

    #[test]
    fn only_regular_files_within_the_limit_are_read() {
        let temp = tempfile::tempdir().unwrap();
        let directory = open(temp.path()).unwrap();
        std::fs::write(temp.path().join("file"), [7; 10]).unwrap();
        symlink("file", temp.path().join("link")).unwrap();
        rustix::fs::mkfifoat(&directory, "fifo", PRIVATE).unwrap();
        assert_eq!(
            directory.read(OsStr::new("file"), 10).unwrap().unwrap(),
            [7; 10]
        );
        let error = |name: &str, limit| {
            directory
                .read(OsStr::new(name), limit)
                .unwrap_err()
                .to_string()
        };
        assert!(error("file", 9).contains("larger than 9 bytes"));
        assert!(error("link", 10).contains("symbolic link"));
        assert!(error("fifo", 10).contains("not a regular file"));
    }
}
