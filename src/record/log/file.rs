//! Where the log file is, and making it so that only its owner can read it.

use std::ffi::OsString;
use std::fs::{DirBuilder, File};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use rustix::fs::{Mode, OFlags};

use super::LogError;

/// The directory of the log files: `$XDG_STATE_HOME` (or `~/.local/state`) `/pc-switcher/logs`; for
/// a dry run, which leaves no file behind a reboot, `$XDG_RUNTIME_DIR/pc-switcher/logs`.
///
/// `env` looks up an environment variable. `None` if the variables it needs are not set; relative
/// paths in them are ignored, as the XDG base directory specification demands.
pub fn log_dir(env: impl Fn(&str) -> Option<OsString>, dry_run: bool) -> Option<PathBuf> {
    let absolute = |name: &str| env(name).map(PathBuf::from).filter(|p| p.is_absolute());
    let base = if dry_run {
        absolute("XDG_RUNTIME_DIR")?
    } else {
        absolute("XDG_STATE_HOME").or_else(|| Some(absolute("HOME")?.join(".local/state")))?
    };
    Some(base.join("pc-switcher/logs"))
}

/// Creates `sync-<start, UTC>-<session>.log` in `dir`, which is made if it is missing.
pub(super) fn create(
    dir: &Path,
    session: &str,
    started_at: Timestamp,
) -> Result<(File, PathBuf), LogError> {
    let directory = |source: std::io::Error| LogError::Directory {
        path: dir.to_owned(),
        source,
    };
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .map_err(directory)?;
    // From here on by descriptor, so that what was checked is what is used.
    let held = rustix::fs::open(
        dir,
        OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::RDONLY | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .map_err(|e| directory(e.into()))?;
    let stat = rustix::fs::fstat(&held).map_err(|e| directory(e.into()))?;
    let me = rustix::process::geteuid().as_raw();
    if stat.st_uid != me {
        return Err(LogError::NotOurs {
            path: dir.to_owned(),
            owner: stat.st_uid,
            me,
        });
    }
    if stat.st_mode & 0o777 != 0o700 {
        rustix::fs::fchmod(&held, Mode::RWXU).map_err(|e| directory(e.into()))?;
    }
    let began = started_at.strftime("%Y%m%dT%H%M%SZ");
    let id: String = session
        .chars()
        .filter(char::is_ascii_alphanumeric)
        .collect();
    let name = format!("sync-{began}-{id}.log");
    let path = dir.join(&name);
    let flags = OFlags::WRONLY
        | OFlags::APPEND
        | OFlags::CREATE
        | OFlags::EXCL
        | OFlags::NOFOLLOW
        | OFlags::CLOEXEC;
    match rustix::fs::openat(&held, &name, flags, Mode::RUSR | Mode::WUSR) {
        Ok(file) => Ok((File::from(file), path)),
        Err(e) => Err(LogError::Create {
            path,
            source: e.into(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn dir_for(vars: &[(&str, &str)], dry_run: bool) -> Option<PathBuf> {
        let find = |name: &str| vars.iter().find(|(n, _)| *n == name);
        log_dir(|name| find(name).map(|(_, v)| v.into()), dry_run)
    }

    #[test]
    fn the_directory_follows_the_xdg_variables() {
        let home = ("HOME", "/home/me");
        let found = |vars: &[_], dry| dir_for(vars, dry).map(|p| p.display().to_string());
        assert_eq!(
            found(&[home], false).unwrap(),
            "/home/me/.local/state/pc-switcher/logs"
        );
        assert_eq!(
            found(&[home, ("XDG_STATE_HOME", "/s")], false).unwrap(),
            "/s/pc-switcher/logs"
        );
        assert_eq!(
            found(&[home, ("XDG_STATE_HOME", "s")], false).unwrap(),
            "/home/me/.local/state/pc-switcher/logs"
        );
        assert_eq!(
            found(&[home, ("XDG_RUNTIME_DIR", "/run/user/1000")], true).unwrap(),
            "/run/user/1000/pc-switcher/logs"
        );
        assert_eq!(found(&[home], true), None, "a dry run writes no state");
        assert_eq!(found(&[], false), None);
    }

    #[test]
    fn file_and_directory_are_for_their_owner_alone() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("a/logs");
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::set_permissions(&dir, PermissionsExt::from_mode(0o755)).unwrap();
        let at: Timestamp = "2026-01-02T03:04:05.678Z".parse().unwrap();
        let (file, path) = create(&dir, "1a2b3c4d", at).unwrap();
        assert_eq!(path, dir.join("sync-20260102T030405Z-1a2b3c4d.log"));
        let mode = |m: std::fs::Metadata| m.permissions().mode() & 0o777;
        assert_eq!(mode(file.metadata().unwrap()), 0o600);
        assert_eq!(mode(dir.metadata().unwrap()), 0o700);
    }

    #[test]
    fn an_existing_file_or_symlink_is_refused() {
        let root = tempfile::tempdir().unwrap();
        let at: Timestamp = "2026-01-02T03:04:05Z".parse().unwrap();
        let name = root.path().join("sync-20260102T030405Z-x.log");
        std::os::unix::fs::symlink("/nonexistent/elsewhere", &name).unwrap();
        let refused = create(root.path(), "x", at).unwrap_err();
        assert!(matches!(refused, LogError::Create { .. }), "{refused}");

        let linked = root.path().join("linked");
        std::os::unix::fs::symlink(root.path(), &linked).unwrap();
        let refused = create(&linked, "y", at).unwrap_err();
        assert!(matches!(refused, LogError::Directory { .. }), "{refused}");
    }
}
