//! Another root for the next boot: a writable copy of the running root subvolume, made beside it, that takes
//! its name.
//!
//! The running system keeps the subvolume it runs from, under another name; nothing of it is touched. What is
//! booted is decided outside of us, by the kernel's command line and `/etc/fstab`: only where they name the
//! root subvolume, and by its name alone, does a renamed one take effect. Everything else is refused with
//! words, because a machine that does not boot is worse than one that was not rolled back.

use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, RenameFlags, ResolveFlags, openat, openat2, renameat_with};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_string, fsmount,
    fsopen,
};

use super::SnapshotError;
use super::subvolumes::{OpenSubvolume, open_subvolume};
use crate::sys::btrfs::{self, TOP_LEVEL};
use crate::sys::mounts::mounts;

/// How the name of a copy goes on that is not in its place yet.
const NEW: &str = ".pc-switcher-new-";
/// How the name of the one that was replaced goes on.
const REPLACED: &str = ".replaced-by-";

/// A copy of the running root that can take its place.
#[derive(Debug)]
pub struct Replacement {
    /// The directory of the top level that both are in.
    parent: OwnedFd,
    name: String,
    new: String,
    kept: String,
    root: File,
    is_in_place: bool,
}

fn refused(reason: impl Into<String>) -> SnapshotError {
    SnapshotError::NotReplaced {
        reason: reason.into(),
    }
}

/// Whether another subvolume of that name would be what boots next; why not, in words.
pub fn check(name: &str, snapshot_dir: &Path) -> Result<(), SnapshotError> {
    opened(name, snapshot_dir).map(drop)
}

fn opened(name: &str, snapshot_dir: &Path) -> Result<OpenSubvolume, SnapshotError> {
    let open = open_subvolume(name, None)?
        .filter(|open| open.mount_point == Path::new("/"))
        .ok_or_else(|| SnapshotError::NotMounted {
            name: name.to_owned(),
        })?;
    let at = |source| SnapshotError::btrfs(Path::new("/"), source);
    if open.info.id == TOP_LEVEL {
        return Err(refused(
            "/ is the top level of its filesystem, which has no name to exchange",
        ));
    }
    if name.contains("/.snapshots/") {
        return Err(refused(
            "the root is one of snapper's snapshots, and snapper says which one boots: \
             `snapper rollback` goes back to one of its own",
        ));
    }
    let read = |path: &str| std::fs::read(path).unwrap_or_default();
    decides(name, &read("/proc/cmdline"), &read("/etc/fstab")).map_err(refused)?;
    for nested in btrfs::children(&open.root, open.info.id).map_err(at)? {
        let path = Path::new("/").join(&nested.path);
        if snapshot_dir.starts_with(&path) {
            return Err(refused(format!(
                "{} is inside the root subvolume, and would be gone with it: mount a subvolume of its own there",
                path.display()
            )));
        }
        // In the copy it is an empty directory; if it is that here too, nothing is missed.
        let is_empty = std::fs::read_dir(&path).is_ok_and(|mut entries| entries.next().is_none());
        if !is_empty {
            return Err(refused(format!(
                "the subvolume {} is inside the root subvolume, and would stay behind in the old one",
                path.display()
            )));
        }
    }
    Ok(open)
}

/// What the kernel's command line and the table of file systems say of the root: whether it is mounted by
/// this name, and by nothing else.
fn decides(name: &str, cmdline: &[u8], fstab: &[u8]) -> Result<(), String> {
    let cmdline = String::from_utf8_lossy(cmdline);
    let flags = cmdline.split_ascii_whitespace();
    let flags = flags.filter_map(|word| word.strip_prefix("rootflags="));
    let boot = flags.flat_map(|flags| flags.split(','));
    let fstab = String::from_utf8_lossy(fstab);
    let lines = fstab
        .lines()
        .filter(|line| !line.trim_start().starts_with('#'));
    let of_root = lines
        .map(|line| line.split_ascii_whitespace().collect::<Vec<_>>())
        .filter(|fields| fields.get(1) == Some(&"/") && fields.get(2) == Some(&"btrfs"));
    let mut table = Vec::new();
    for fields in of_root {
        let options = fields.get(3).copied().unwrap_or_default();
        table.extend(options.split(',').map(str::to_owned));
    }
    let boot: Vec<String> = boot.map(str::to_owned).collect();
    let mut by_name = false;
    for (place, options) in [("the kernel's command line", &boot), ("/etc/fstab", &table)] {
        for option in options {
            if option.starts_with("subvolid=") {
                return Err(format!(
                    "{place} names the root subvolume by its number ({option}): let it say subvol={name} alone"
                ));
            }
            if let Some(other) = option.strip_prefix("subvol=") {
                if other.trim_matches('/') != name {
                    return Err(format!(
                        "{place} says subvol={other}, and the root is {name}"
                    ));
                }
                by_name = true;
            }
        }
    }
    if by_name {
        Ok(())
    } else {
        Err(format!(
            "neither the kernel's command line nor /etc/fstab says subvol={name}: what boots is the \
             filesystem's default subvolume, or something that is not known here"
        ))
    }
}

/// The top level of the filesystem that the root is on, mounted for nobody but us.
fn top_level() -> Result<OwnedFd, SnapshotError> {
    let table = mounts().map_err(SnapshotError::MountTable)?;
    // The last one is what is seen.
    let root = table
        .iter()
        .rfind(|mount| mount.mount_point == Path::new("/"));
    let source = root.map(|mount| mount.source.clone()).unwrap_or_default();
    let at = |e: Errno| SnapshotError::btrfs(Path::new(&source), e.into());
    let context = fsopen("btrfs", FsOpenFlags::FSOPEN_CLOEXEC).map_err(at)?;
    fsconfig_set_string(context.as_fd(), "source", &*source).map_err(at)?;
    fsconfig_set_string(context.as_fd(), "subvolid", TOP_LEVEL.to_string()).map_err(at)?;
    fsconfig_create(context.as_fd()).map_err(at)?;
    let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV;
    // What that gives only stands for a place: it is opened to be used.
    let mounted =
        fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes).map_err(at)?;
    openat(&mounted, ".", DIRECTORY, Mode::empty()).map_err(at)
}

const DIRECTORY: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

fn open_below(top: impl AsFd, path: &Path) -> Result<OwnedFd, Errno> {
    let confined = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    openat2(top, path, DIRECTORY, Mode::empty(), confined)
}

impl Replacement {
    /// Makes a copy of the running root, the subvolume `name`, for `session`.
    pub fn make(name: &str, snapshot_dir: &Path, session: &str) -> Result<Self, SnapshotError> {
        let open = opened(name, snapshot_dir)?;
        let path = Path::new(name);
        let at = |e: Errno| SnapshotError::btrfs(path, e.into());
        let top = top_level()?;
        let parent = match path
            .parent()
            .filter(|parent| !parent.as_os_str().is_empty())
        {
            None => top,
            Some(parent) => open_below(&top, parent).map_err(at)?,
        };
        let last = path
            .file_name()
            .and_then(OsStr::to_str)
            .unwrap_or(name)
            .to_owned();
        let there = open_below(&parent, Path::new(&last)).map_err(at)?;
        let info = btrfs::subvolume_info(&there).map_err(|e| SnapshotError::btrfs(path, e))?;
        if info.uuid != open.info.uuid {
            return Err(refused(format!(
                "{name} was exchanged before: what is called so now boots next, and is not what runs"
            )));
        }
        remove_abandoned(&parent, &last);
        let new = format!("{last}{NEW}{session}");
        let failed = |source| SnapshotError::Create {
            name: new.clone(),
            source,
        };
        btrfs::create_writable_snapshot(&open.root, &parent, OsStr::new(&new)).map_err(failed)?;
        let root = open_below(&parent, Path::new(&new)).map_err(at)?;
        Ok(Self {
            parent,
            kept: format!("{last}{REPLACED}{session}"),
            name: last,
            new,
            root: File::from(root),
            is_in_place: false,
        })
    }

    /// Whether it has the name that boots next.
    #[must_use]
    pub fn is_in_place(&self) -> bool {
        self.is_in_place
    }

    /// The copy's root directory.
    #[must_use]
    pub fn root(&self) -> &File {
        &self.root
    }

    /// Gives the copy the name that boots next; the flat name, in its directory, that the running one has now.
    pub fn take_place(&mut self) -> Result<String, SnapshotError> {
        let at = |source| SnapshotError::btrfs(Path::new(&self.name), source);
        btrfs::sync(&self.root).map_err(at)?;
        // Both at once: there is no moment without a root.
        renameat_with(
            &self.parent,
            &*self.name,
            &self.parent,
            &*self.new,
            RenameFlags::EXCHANGE,
        )
        .map_err(|e| at(e.into()))?;
        self.is_in_place = true;
        let renamed = renameat_with(
            &self.parent,
            &*self.new,
            &self.parent,
            &*self.kept,
            RenameFlags::NOREPLACE,
        );
        btrfs::sync(&self.root).map_err(at)?;
        Ok(match renamed {
            Ok(()) => self.kept.clone(),
            Err(_) => self.new.clone(),
        })
    }

    /// Gives the copy the files `names` of `directory` as they are now on the running root; what is not there
    /// is not in the copy either.
    pub fn carry_over(&self, directory: &Path, names: &[&str]) -> Result<(), SnapshotError> {
        use crate::sys::trusted::Directory;
        let below: PathBuf = directory.components().skip(1).collect();
        let fd = open_below(&self.root, &below)
            .map_err(|e| SnapshotError::btrfs(directory, e.into()))?;
        let there = Directory::from_fd(fd, directory.to_owned());
        let here = Directory::open(directory)?;
        for name in names {
            let name = OsStr::from_bytes(name.as_bytes());
            match here.read(name, CARRIED_MAX)? {
                None => there.remove(name)?,
                Some(content) => {
                    there.replace(name, &mut &*content, Mode::RUSR | Mode::WUSR, None)?;
                }
            }
        }
        btrfs::sync(&self.root).map_err(|e| SnapshotError::btrfs(directory, e))
    }
}

/// The largest file that is carried over.
const CARRIED_MAX: u64 = 16 << 20;

impl Drop for Replacement {
    fn drop(&mut self) {
        if !self.is_in_place {
            // What cannot be removed now, the next one removes.
            let _ = btrfs::destroy_subvolume(&self.parent, OsStr::new(&self.new));
        }
    }
}

/// Removes copies that runs have left that died.
fn remove_abandoned(parent: &OwnedFd, name: &str) {
    let Ok(entries) = rustix::fs::Dir::read_from(parent) else {
        return;
    };
    let prefix = format!("{name}{NEW}");
    for entry in entries.flatten() {
        let entry = entry.file_name().to_bytes().to_vec();
        if entry.starts_with(prefix.as_bytes()) {
            let _ = btrfs::destroy_subvolume(parent, OsStr::from_bytes(&entry));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_root_that_is_mounted_by_its_name_alone_can_be_exchanged() {
        let fine: [(&str, &str, &str); 4] = [
            ("@", "root=UUID=x ro rootflags=subvol=@ quiet", ""),
            (
                "@",
                "root=UUID=x rootflags=noatime,subvol=/@",
                "UUID=x / btrfs subvol=/@ 0 1",
            ),
            (
                "root",
                "root=UUID=x",
                "UUID=x / btrfs subvol=root,compress=zstd:1 0 0",
            ),
            (
                "@",
                "",
                "# UUID=x / btrfs subvolid=5\nUUID=x /home btrfs subvolid=7 0 0\nUUID=x / btrfs subvol=@ 0 0",
            ),
        ];
        for (name, cmdline, fstab) in fine {
            assert_eq!(
                decides(name, cmdline.as_bytes(), fstab.as_bytes()),
                Ok(()),
                "{cmdline} {fstab}"
            );
        }
        for (name, cmdline, fstab, words) in [
            (
                "@",
                "root=UUID=x",
                "UUID=x / btrfs defaults 0 0",
                "default subvolume",
            ),
            (
                "@",
                "rootflags=subvol=@",
                "UUID=x / btrfs subvolid=256,subvol=/@ 0 0",
                "by its number",
            ),
            ("@", "rootflags=subvolid=256", "", "by its number"),
            (
                "@",
                "rootflags=subvol=other",
                "UUID=x / btrfs subvol=@ 0 0",
                "subvol=other",
            ),
            ("@", "", "UUID=x / ext4 subvol=@ 0 0", "default subvolume"),
            ("@", "", "", "default subvolume"),
        ] {
            let why = decides(name, cmdline.as_bytes(), fstab.as_bytes()).unwrap_err();
            assert!(why.contains(words), "{cmdline} {fstab}: {why}");
        }
    }
}
