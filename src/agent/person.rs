//! A person's configuration directory, read and written with that person's own rights.
//!
//! The directory is in a home that its owner can rearrange at any moment. So every access is made
//! with the person's filesystem ids (what they may not read, we do not read for them; what is
//! created is theirs from the start), from a held descriptor of the home, beneath it, and through
//! no symbolic link.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Dir, Gid, Mode, OFlags, ResolveFlags, Uid, mkdirat, openat, openat2};
use rustix::io::Errno;

use super::fault::Fault;
use crate::interrupt::AbortFlag;
use crate::sys::command::{Limits, command, run};
use crate::sys::process::as_person;
use crate::sys::trusted::{Directory, FileError, read_regular};

/// Below a home.
const CONFIG_DIR: [&str; 2] = [".config", "pc-switcher"];

/// Largest configuration or filter file.
const MAX_FILE: u64 = 1 << 20;

/// Files, and bytes of all of them: they must fit one answer.
const MAX_FILES: usize = 64;
const MAX_TOTAL: usize = 2 << 20;

/// `/etc/passwd` is never larger.
const MAX_PASSWD: u64 = 16 << 20;

/// A person as the machine knows them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Person {
    /// User id.
    pub uid: u32,
    /// Their own group.
    pub gid: u32,
    /// Their home.
    pub home: PathBuf,
}

/// Finds a person by user id, in `passwd` and then wherever else the machine keeps its users.
pub fn find_person(passwd: &Path, uid: u32) -> Result<Person, Fault> {
    let mut text = Vec::new();
    File::open(passwd)
        .and_then(|f| f.take(MAX_PASSWD).read_to_end(&mut text))
        .map_err(|e| Fault::of_io(format!("cannot read {}: {e}", passwd.display()), &e))?;
    if let Some(person) = find_in_passwd(&String::from_utf8_lossy(&text), uid) {
        return Ok(person);
    }
    let mut getent = command("getent");
    getent
        .args(["passwd", &uid.to_string()])
        .env_clear()
        .env("PATH", "/usr/bin:/bin");
    run(&mut getent, b"", &Limits::default(), &AbortFlag::new())
        .ok()
        .and_then(|done| find_in_passwd(&String::from_utf8_lossy(&done.stdout), uid))
        .ok_or_else(|| Fault::invalid(format!("there is no user with id {uid}")))
}

fn find_in_passwd(text: &str, uid: u32) -> Option<Person> {
    text.lines().find_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        let &[_, _, id, gid, _, home, _] = &fields[..] else {
            return None;
        };
        if id.parse() != Ok(uid) || !home.starts_with('/') {
            return None;
        }
        Some(Person {
            uid,
            gid: gid.parse().ok()?,
            home: home.into(),
        })
    })
}

/// Whether `name` is a file of the configuration: `config.yaml` or `*.filter`.
fn is_config_name(name: &str) -> bool {
    let is_plain = name
        .bytes()
        .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'));
    let is_filter = name.len() > ".filter".len() && name.ends_with(".filter");
    is_plain && name.len() <= 200 && !name.starts_with('.') && (is_filter || name == "config.yaml")
}

const OPEN_DIRECTORY: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

/// Opens `name` in `directory`, beneath it and through no symbolic link.
fn open_beneath(directory: impl AsFd, name: &str, flags: OFlags) -> rustix::io::Result<OwnedFd> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    openat2(
        directory,
        name,
        flags | OFlags::CLOEXEC,
        Mode::empty(),
        resolve,
    )
}

impl Person {
    fn config_path(&self) -> PathBuf {
        self.home.join(CONFIG_DIR[0]).join(CONFIG_DIR[1])
    }

    fn fault(&self, action: &'static str, path: &Path, errno: Errno) -> Fault {
        let fault = Fault::from(FileError::io(action, path, errno));
        match errno {
            Errno::LOOP => fault.with_hint(format!(
                "symbolic links are not followed below {}: put the real file or directory there",
                self.home.display()
            )),
            _ => fault,
        }
    }

    /// Opens the configuration directory, creating it if wanted; `None` if it is absent.
    fn open_config(&self, create: bool) -> Result<Option<Directory>, Fault> {
        let mut path = self.home.clone();
        let mut current = openat(CWD, &self.home, OPEN_DIRECTORY, Mode::empty())
            .map_err(|e| self.fault("open", &path, e))?;
        self.check_owner(&current, &path)?;
        for name in CONFIG_DIR {
            path.push(name);
            if create {
                let before = rustix::fs::fstat(&current);
                match mkdirat(&current, name, Mode::RWXU) {
                    // The directory above is mirrored, and its time with it: ours is no change.
                    Ok(()) => {
                        if let Ok(before) = before {
                            let _ = rustix::fs::futimens(&current, &mtime_of(&before));
                        }
                    }
                    Err(Errno::EXIST) => {}
                    Err(e) => return Err(self.fault("create", &path, e)),
                }
            }
            current = match open_beneath(&current, name, OPEN_DIRECTORY) {
                Ok(fd) => fd,
                Err(Errno::NOENT) => return Ok(None),
                Err(e) => return Err(self.fault("open", &path, e)),
            };
            self.check_owner(&current, &path)?;
        }
        Ok(Some(Directory::from_fd(current, path)))
    }

    /// What root reads for a person belongs to that person, or to root itself.
    fn check_owner(&self, fd: impl AsFd, path: &Path) -> Result<(), Fault> {
        let stat = rustix::fs::fstat(fd).map_err(|e| self.fault("examine", path, e))?;
        if stat.st_uid == self.uid || stat.st_uid == 0 {
            return Ok(());
        }
        Err(Fault::invalid(format!(
            "{} belongs to user {}, not to user {}",
            path.display(),
            stat.st_uid,
            self.uid
        ))
        .with_hint(format!("sudo chown {} {}", self.uid, path.display())))
    }

    fn as_self<T: Send>(&self, work: impl FnOnce() -> Result<T, Fault> + Send) -> Result<T, Fault> {
        as_person(self.uid, self.gid, work).unwrap_or_else(|e| {
            let message = format!("cannot act as user {}: {e}", self.uid);
            Err(Fault::of_io(message, &e))
        })
    }

    /// Every configuration file by name.
    pub fn read_config(&self) -> Result<BTreeMap<String, String>, Fault> {
        self.as_self(|| {
            let Some(directory) = self.open_config(false)? else {
                return Ok(BTreeMap::new());
            };
            self.read_all(&directory)
        })
    }

    fn read_all(&self, directory: &Directory) -> Result<BTreeMap<String, String>, Fault> {
        let fail = |e| self.fault("read", directory.path(), e);
        let mut files = BTreeMap::new();
        let mut total = 0;
        for entry in Dir::read_from(directory).map_err(fail)? {
            let entry = entry.map_err(fail)?;
            let Some(name) = entry
                .file_name()
                .to_str()
                .ok()
                .filter(|n| is_config_name(n))
            else {
                continue;
            };
            let path = directory.path().join(name);
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK;
            let fd = match open_beneath(directory, name, flags) {
                Ok(fd) => fd,
                // Removed since it was listed.
                Err(Errno::NOENT) => continue,
                Err(e) => return Err(self.fault("open", &path, e)),
            };
            self.check_owner(&fd, &path)?;
            let bytes = read_regular(fd.into(), &path, MAX_FILE)?;
            total += bytes.len();
            if files.len() == MAX_FILES || total > MAX_TOTAL {
                return Err(Fault::invalid(format!(
                    "{} holds more than {MAX_FILES} configuration files or {MAX_TOTAL} bytes",
                    directory.path().display()
                )));
            }
            let text = String::from_utf8(bytes).map_err(|e| {
                Fault::invalid(format!(
                    "{} is not UTF-8 from byte {} on",
                    path.display(),
                    e.utf8_error().valid_up_to()
                ))
            })?;
            files.insert(name.to_owned(), text);
        }
        Ok(files)
    }

    /// Replaces one configuration file, creating the directory if need be; an existing file keeps
    /// its mode.
    pub fn write_config(&self, name: &str, content: &str) -> Result<(), Fault> {
        if !is_config_name(name) {
            return Err(Fault::invalid(format!(
                "{name:?} is not the name of a configuration file"
            )));
        }
        if content.len() as u64 > MAX_FILE {
            return Err(Fault::invalid(format!(
                "{name} is larger than {MAX_FILE} bytes"
            )));
        }
        self.as_self(|| {
            let Some(directory) = self.open_config(true)? else {
                let path = self.config_path();
                return Err(self.fault("create", &path, Errno::NOENT));
            };
            let flags = OFlags::PATH | OFlags::NOFOLLOW;
            let mode = match open_beneath(&directory, name, flags) {
                Ok(old) => File::from(old).metadata().map(|m| m.mode()).ok(),
                Err(_) => None,
            };
            let mode = Mode::from_raw_mode(mode.unwrap_or(0o600) & 0o666) | Mode::RUSR;
            directory.replace(OsStr::new(name), &mut content.as_bytes(), mode, None)?;
            Ok(())
        })
    }

    /// A directory below `run` that is this person's alone.
    pub fn run_directory(&self, run: &Directory) -> Result<PathBuf, Fault> {
        let name = format!("user-{}", self.uid);
        let path = run.path().join(&name);
        match mkdirat(run, &name, Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(e) => return Err(self.fault("create", &path, e)),
        }
        // `run` is root's: nobody but us can have put anything there.
        let fd =
            open_beneath(run, &name, OPEN_DIRECTORY).map_err(|e| self.fault("open", &path, e))?;
        rustix::fs::fchown(
            &fd,
            Some(Uid::from_raw(self.uid)),
            Some(Gid::from_raw(self.gid)),
        )
        .and_then(|()| rustix::fs::fchmod(&fd, Mode::RWXU))
        .map_err(|e| self.fault("change", &path, e))?;
        Ok(path)
    }
}

/// Times that set only the modification time, to what it was.
fn mtime_of(stat: &rustix::fs::Stat) -> rustix::fs::Timestamps {
    use rustix::fs::{Timespec, Timestamps, UTIME_OMIT};
    Timestamps {
        last_access: Timespec {
            tv_sec: 0,
            tv_nsec: UTIME_OMIT,
        },
        last_modification: Timespec {
            tv_sec: stat.st_mtime,
            tv_nsec: stat.st_mtime_nsec.try_into().unwrap_or(0),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::fault::FaultKind;
    use crate::sys::testing::is_root;
    use std::os::unix::fs::{PermissionsExt, chown, symlink};

    const UID: u32 = 12345;
    const GID: u32 = 23456;

    /// A home of a person who exists nowhere else, in a directory they can reach.
    fn home(test: &str) -> Option<(tempfile::TempDir, Person)> {
        if !is_root(test) {
            return None;
        }
        let temp = tempfile::tempdir().unwrap();
        std::fs::set_permissions(temp.path(), PermissionsExt::from_mode(0o755)).unwrap();
        let home = temp.path().join("home");
        std::fs::create_dir(&home).unwrap();
        chown(&home, Some(UID), Some(GID)).unwrap();
        let person = Person {
            uid: UID,
            gid: GID,
            home,
        };
        Some((temp, person))
    }

    fn give(path: &Path) {
        std::os::unix::fs::lchown(path, Some(UID), Some(GID)).unwrap();
    }

    #[test]
    fn people_are_found_by_id_and_odd_lines_are_passed_over() {
        let text = "root:x:0:0:root:/root:/bin/bash\n\
                    broken:x:12345:1\n\
                    relative:x:12345:1::home:/bin/sh\n\
                    dev:x:12345:23456:Dev,,,:/home/dev:/bin/sh\n\
                    other:x:12345:1::/home/other:/bin/sh\n";
        let person = find_in_passwd(text, UID).unwrap();
        assert_eq!(person.home, Path::new("/home/dev"));
        assert_eq!(person.gid, GID);
        assert_eq!(find_in_passwd(text, 1234), None);
        let temp = tempfile::NamedTempFile::new().unwrap();
        let error = find_person(temp.path(), 3_999_999_999).unwrap_err();
        assert!(error.message.contains("3999999999"), "{error}");
        // Not in the given file, but known to the machine.
        assert_eq!(
            find_person(temp.path(), 0).unwrap().home,
            Path::new("/root")
        );
    }

    #[test]
    fn only_names_of_configuration_files_are_accepted() {
        for name in ["config.yaml", "home.filter", "my-home_2.filter"] {
            assert!(is_config_name(name), "{name}");
        }
        for name in [
            "",
            ".filter",
            ".x.filter",
            "a/b.filter",
            "../config.yaml",
            "config.yml",
            "x.filter\n",
            "config.yaml~",
            "ü.filter",
        ] {
            assert!(!is_config_name(name), "{name}");
        }
    }

    #[test]
    fn what_is_written_is_the_persons_and_is_read_back() {
        let Some((_temp, person)) = home("what_is_written_is_the_persons") else {
            return;
        };
        assert_eq!(person.read_config().unwrap(), BTreeMap::new());
        person
            .write_config("config.yaml", "sync_modules: {}\n")
            .unwrap();
        person.write_config("home.filter", "first").unwrap();
        let config = person.config_path();
        let filter = config.join("home.filter");
        std::fs::set_permissions(&filter, PermissionsExt::from_mode(0o644)).unwrap();
        person.write_config("home.filter", "second").unwrap();
        std::fs::write(config.join("notes.txt"), "not ours").unwrap();
        let files = person.read_config().unwrap();
        assert_eq!(
            files.into_iter().collect::<Vec<_>>(),
            [
                ("config.yaml".to_owned(), "sync_modules: {}\n".to_owned()),
                ("home.filter".to_owned(), "second".to_owned())
            ]
        );
        let mode = |path: &Path| {
            let meta = std::fs::metadata(path).unwrap();
            assert_eq!((meta.uid(), meta.gid()), (UID, GID), "{}", path.display());
            meta.mode() & 0o7777
        };
        assert_eq!(mode(&person.home.join(".config")), 0o700);
        assert_eq!(mode(&config), 0o700);
        assert_eq!(mode(&config.join("config.yaml")), 0o600);
        assert_eq!(mode(&filter), 0o644);
    }

    #[test]
    fn neither_links_nor_other_peoples_files_are_read_or_written_through() {
        let Some((temp, person)) = home("neither_links_nor_other_peoples_files") else {
            return;
        };
        let secret = temp.path().join("secret");
        std::fs::write(&secret, "root's").unwrap();
        std::fs::set_permissions(&secret, PermissionsExt::from_mode(0o600)).unwrap();
        person.write_config("config.yaml", "mine").unwrap();
        let config = person.config_path();

        // A link to a secret, and a hard link to it.
        let planted = config.join("a.filter");
        symlink(&secret, &planted).unwrap();
        let error = person.read_config().unwrap_err();
        assert!(error.hint.unwrap().contains("symbolic links"));
        person.write_config("a.filter", "new").unwrap();
        assert_eq!(std::fs::read(&secret).unwrap(), b"root's");
        std::fs::remove_file(&planted).unwrap();
        std::fs::hard_link(&secret, &planted).unwrap();
        let error = person.read_config().unwrap_err();
        assert!(error.message.contains("ermission denied"), "{error}");
        std::fs::remove_file(&planted).unwrap();

        // Somebody else's file, a directory and a pipe with such names.
        std::fs::write(&planted, "theirs").unwrap();
        chown(&planted, Some(777), Some(777)).unwrap();
        std::fs::set_permissions(&planted, PermissionsExt::from_mode(0o644)).unwrap();
        let error = person.read_config().unwrap_err();
        assert!(error.message.contains("belongs to user 777"), "{error}");
        std::fs::remove_file(&planted).unwrap();
        std::fs::create_dir(&planted).unwrap();
        assert!(person.read_config().is_err());
        std::fs::remove_dir(&planted).unwrap();
        rustix::fs::mkfifoat(CWD, &planted, Mode::from_raw_mode(0o666)).unwrap();
        give(&planted);
        let error = person.read_config().unwrap_err();
        assert!(error.message.contains("not a regular file"), "{error}");
        std::fs::remove_file(&planted).unwrap();

        // Bytes that are no text, and too many of them.
        std::fs::write(&planted, b"ok\xff").unwrap();
        give(&planted);
        let error = person.read_config().unwrap_err();
        assert!(error.message.contains("from byte 2"), "{error}");
        std::fs::write(&planted, vec![b'x'; 1 + (1 << 20)]).unwrap();
        let error = person.read_config().unwrap_err();
        assert!(error.message.contains("larger than"), "{error}");
        assert!(
            person
                .write_config("b.filter", &"x".repeat(1 + (1 << 20)))
                .is_err()
        );
        std::fs::remove_file(&planted).unwrap();

        // The directory itself is a link, even to one of the person's own.
        std::fs::rename(&config, person.home.join("real")).unwrap();
        symlink("../real", &config).unwrap();
        assert_eq!(person.read_config().unwrap_err().kind, FaultKind::Io);
        assert!(person.write_config("config.yaml", "new").is_err());
        std::fs::remove_file(&config).unwrap();
        symlink(temp.path(), &config).unwrap();
        assert!(person.write_config("config.yaml", "new").is_err());
        assert!(!temp.path().join("config.yaml").exists());
    }

    #[test]
    fn a_persons_run_directory_is_theirs_alone() {
        let Some((temp, person)) = home("a_persons_run_directory") else {
            return;
        };
        let run = Directory::ensure(&temp.path().join("run"), Mode::from_raw_mode(0o711)).unwrap();
        for _ in 0..2 {
            let path = person.run_directory(&run).unwrap();
            assert_eq!(path, temp.path().join("run/user-12345"));
            let meta = std::fs::metadata(&path).unwrap();
            assert_eq!((meta.uid(), meta.gid()), (UID, GID));
            assert_eq!(meta.mode() & 0o7777, 0o700);
        }
        std::fs::remove_dir(temp.path().join("run/user-12345")).unwrap();
        symlink("/etc", temp.path().join("run/user-12345")).unwrap();
        assert!(person.run_directory(&run).is_err());
    }
}
