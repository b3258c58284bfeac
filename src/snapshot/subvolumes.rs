//! Finding subvolumes by the flat names people configure, and what is nested in them.
//!
//! A flat name is found through the mount table (a btrfs mount whose root is `/NAME`) and then
//! checked against the filesystem itself: the mount point is opened, and the subvolume it leads to
//! must have that name. So a mount point that is hidden, or a path that somebody swapped, is not
//! mistaken for it.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, openat};

use super::{SnapshotDir, SnapshotError, Subvolume, SubvolumeFacts};
use crate::sys::btrfs::{self, SubvolumeInfo, TOP_LEVEL};
use crate::sys::mounts::{Mount, mounts};
use crate::sys::trusted::{Directory, FileError};

/// A mounted subvolume, held open at its root.
#[derive(Debug)]
pub struct OpenSubvolume {
    /// Its root directory.
    pub root: File,
    /// Where it is mounted.
    pub mount_point: PathBuf,
    /// What the kernel says of it.
    pub info: SubvolumeInfo,
    /// Uuid of its filesystem.
    pub filesystem: String,
}

/// Opens the mounted subvolume with this flat name. Where several filesystems have one of that
/// name, that of `preferred` (a filesystem's uuid) is taken, else the one mounted first.
pub fn open_subvolume(
    name: &str,
    preferred: Option<&str>,
) -> Result<Option<OpenSubvolume>, SnapshotError> {
    let mounts = mounts().map_err(SnapshotError::MountTable)?;
    open_among(&mounts, name, preferred)
}

fn open_among(
    mounts: &[Mount],
    name: &str,
    preferred: Option<&str>,
) -> Result<Option<OpenSubvolume>, SnapshotError> {
    let root = Path::new("/").join(name);
    let mut first = None;
    for mount in mounts {
        if mount.fs_type != "btrfs" || mount.root != root {
            continue;
        }
        let Some(found) = open_mount(mount, name)? else {
            continue;
        };
        if preferred.is_none_or(|p| p == found.filesystem) {
            return Ok(Some(found));
        }
        first.get_or_insert(found);
    }
    Ok(first)
}

/// Opens what is at a mount point now; `None` if that is not the subvolume `name`.
fn open_mount(mount: &Mount, name: &str) -> Result<Option<OpenSubvolume>, SnapshotError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let Ok(fd) = openat(CWD, &mount.mount_point, flags, Mode::empty()) else {
        return Ok(None);
    };
    let root = File::from(fd);
    let at = |source| SnapshotError::btrfs(&mount.mount_point, source);
    if !btrfs::is_subvolume(&root).map_err(at)? {
        return Ok(None);
    }
    let info = btrfs::subvolume_info(&root).map_err(at)?;
    let flat = btrfs::flat_path(&root, info.id).map_err(at)?;
    if flat.as_deref() != Some(OsStr::new(name)) {
        return Ok(None);
    }
    Ok(Some(OpenSubvolume {
        filesystem: btrfs::filesystem_uuid(&root).map_err(at)?,
        root,
        mount_point: mount.mount_point.clone(),
        info,
    }))
}

/// Everything nested in subvolume `id`, as paths relative to it; what is inside `skip` (itself
/// named) is left out, because those are our own snapshots.
fn nested_below(
    root: &File,
    id: u64,
    skip: Option<u64>,
    prefix: &Path,
    found: &mut Vec<PathBuf>,
) -> std::io::Result<()> {
    for child in btrfs::children(root, id)? {
        let path = prefix.join(&child.path);
        found.push(path.clone());
        if Some(child.id) != skip {
            nested_below(root, child.id, skip, &path, found)?;
        }
    }
    Ok(())
}

/// The snapshot directory as it is found: what stands there, its filesystem, and the subvolume that
/// it is or lies in.
#[derive(Debug)]
struct FoundDir {
    state: SnapshotDir,
    filesystem: Option<String>,
    subvolume: Option<u64>,
}

impl FoundDir {
    /// The subvolume that it is.
    fn own_subvolume(&self) -> Option<u64> {
        self.subvolume
            .filter(|_| self.state == SnapshotDir::Subvolume)
    }
}

fn look_at_dir(path: &Path) -> Result<FoundDir, SnapshotError> {
    let unusable = FoundDir {
        state: SnapshotDir::Unusable,
        filesystem: None,
        subvolume: None,
    };
    let at = |source| SnapshotError::btrfs(path, source);
    let (directory, is_absent) = match Directory::open(path) {
        Ok(directory) => (directory, false),
        Err(e) if e.is_not_found() => match path.parent().map(Directory::open) {
            Some(Ok(parent)) => (parent, true),
            _ => return Ok(unusable),
        },
        Err(FileError::Untrusted { .. }) => return Ok(unusable),
        Err(e) => return Err(e.into()),
    };
    if !btrfs::is_btrfs(&directory).map_err(at)? {
        return Ok(unusable);
    }
    let filesystem = Some(btrfs::filesystem_uuid(&directory).map_err(at)?);
    let is_subvolume = !is_absent && btrfs::is_subvolume(&directory).map_err(at)?;
    Ok(FoundDir {
        state: match (is_absent, is_subvolume) {
            (true, _) => SnapshotDir::Absent,
            (false, true) => SnapshotDir::Subvolume,
            (false, false) => SnapshotDir::Directory,
        },
        filesystem,
        // For a directory, or the one it would be made in: the subvolume it lies in.
        subvolume: Some(btrfs::subvolume_info(&directory).map_err(at)?.id),
    })
}

/// The uuid of the filesystem the snapshot directory is on, or would be created on.
pub fn filesystem_of_dir(snapshot_dir: &Path) -> Result<Option<String>, SnapshotError> {
    Ok(look_at_dir(snapshot_dir)?.filesystem)
}

/// Facts about the subvolumes `names` and the snapshot directory; changes nothing.
pub fn discover(names: &[String], snapshot_dir: &Path) -> Result<SubvolumeFacts, SnapshotError> {
    let mounts = mounts().map_err(SnapshotError::MountTable)?;
    let dir = look_at_dir(snapshot_dir)?;
    let mut facts = SubvolumeFacts {
        found: Vec::new(),
        missing: Vec::new(),
        snapshot_dir: dir.state,
        snapshot_dir_in: dir.subvolume,
        existing: existing_names(&mounts)?,
    };
    for name in names {
        let Some(open) = open_among(&mounts, name, dir.filesystem.as_deref())? else {
            facts.missing.push(name.clone());
            continue;
        };
        if Some(&open.filesystem) != dir.filesystem.as_ref() {
            // Snapshots cannot leave their filesystem.
            facts.snapshot_dir = SnapshotDir::Unusable;
        }
        let mut nested = Vec::new();
        nested_below(
            &open.root,
            open.info.id,
            dir.own_subvolume(),
            Path::new(""),
            &mut nested,
        )
        .map_err(|e| SnapshotError::btrfs(&open.mount_point, e))?;
        facts.found.push(Subvolume {
            name: name.clone(),
            mount_point: open.mount_point.to_string_lossy().into_owned(),
            id: open.info.id,
            uuid: open.info.uuid,
            generation: open.info.generation,
            filesystem: open.filesystem,
            nested: nested
                .iter()
                .map(|p| p.to_string_lossy().into_owned())
                .collect(),
        });
    }
    Ok(facts)
}

/// Names of subvolumes a person may mean: those at the top level of every mounted btrfs, and those that
/// are mounted; sorted.
fn existing_names(mounts: &[Mount]) -> Result<Vec<String>, SnapshotError> {
    // One look per filesystem: all subvolumes of a btrfs come from one block device.
    let mut by_source: BTreeMap<&OsStr, &Mount> = BTreeMap::new();
    for mount in mounts.iter().filter(|m| m.fs_type == "btrfs") {
        by_source.entry(&mount.source).or_insert(mount);
    }
    let mut names = Vec::new();
    for mount in by_source.values() {
        let Ok(fd) = File::open(&mount.mount_point) else {
            continue;
        };
        let at = |source| SnapshotError::btrfs(&mount.mount_point, source);
        if !btrfs::is_btrfs(&fd).map_err(at)? {
            continue;
        }
        for child in btrfs::children(&fd, TOP_LEVEL).map_err(at)? {
            if !child.path.as_bytes().contains(&b'/') {
                names.push(child.path.to_string_lossy().into_owned());
            }
        }
    }
    for mount in mounts.iter().filter(|m| m.fs_type == "btrfs") {
        let name = mount.root.to_string_lossy();
        let name = name.trim_start_matches('/');
        // What is mounted may be a directory; a name further down says where the subvolumes are.
        if name.contains('/') && open_among(mounts, name, None)?.is_some() {
            names.push(name.to_owned());
        }
    }
    names.sort();
    names.dedup();
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::testing::{TestBtrfs, run};

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|n| (*n).to_owned()).collect()
    }

    #[test]
    fn mounted_subvolumes_are_found_by_their_flat_names_with_what_is_nested() {
        let Some(btrfs) = TestBtrfs::new() else {
            return;
        };
        // Names of their own: other tests' and the machine's own btrfs are mounted as well.
        for name in ["t-root", "t-home", "t-unmounted", "t-root/.snapshots"] {
            btrfs.create_subvolume(name);
        }
        std::fs::create_dir_all(btrfs.top().join("t-home/dev/work")).unwrap();
        btrfs.create_subvolume("t-home/dev/work/vm");
        btrfs.create_subvolume("t-home/dev/work/vm/inner");
        btrfs.create_subvolume("t-root/.snapshots/ours");
        let root = btrfs.mount_subvolume("t-root");
        let home = root.join("home");
        std::fs::create_dir(&home).unwrap();
        btrfs.mount_subvolume_at("t-home", &home);

        let wanted = names(&["t-home", "t-root", "t-unmounted", "t-absent"]);
        let facts = discover(&wanted, &root.join(".snapshots")).unwrap();
        assert_eq!(facts.missing, ["t-unmounted", "t-absent"]);
        assert_eq!(facts.snapshot_dir, SnapshotDir::Subvolume);
        for name in ["t-home", "t-root", "t-unmounted"] {
            assert!(facts.existing.contains(&name.to_owned()), "{name}");
        }
        assert!(!facts.existing.iter().any(|n| n.contains('/')));
        let found: Vec<_> = facts
            .found
            .iter()
            .map(|s| (s.name.as_str(), PathBuf::from(&s.mount_point)))
            .collect();
        assert_eq!(found, [("t-home", home), ("t-root", root.clone())]);
        assert_eq!(facts.found[0].nested, ["dev/work/vm", "dev/work/vm/inner"]);
        assert_eq!(facts.found[1].nested, [".snapshots"]);
        assert_eq!(facts.found[0].filesystem, facts.found[1].filesystem);
        let info = btrfs::subvolume_info(File::open(&root).unwrap()).unwrap();
        assert_eq!(
            (facts.found[1].id, &facts.found[1].uuid),
            (info.id, &info.uuid)
        );
    }

    #[test]
    fn a_mount_point_hidden_by_another_mount_is_not_mistaken_for_the_subvolume() {
        let Some(btrfs) = TestBtrfs::new() else {
            return;
        };
        btrfs.create_subvolume("t-below");
        let hidden = btrfs.mount_subvolume("t-below");
        let seen = || discover(&names(&["t-below"]), &btrfs.top().join("snapshots")).unwrap();
        assert_eq!(seen().found[0].name, "t-below");
        run(&format!("mount -t tmpfs none '{}'", hidden.display()));
        let facts = seen();
        assert_eq!(facts.missing, ["t-below"]);
        assert_eq!(facts.snapshot_dir, SnapshotDir::Absent);
        // Mounted a second time, it is found there.
        let open = btrfs.mount_subvolume("t-below");
        assert_eq!(Path::new(&seen().found[0].mount_point), open);
    }

    #[test]
    fn of_two_filesystems_that_of_the_snapshot_directory_is_taken() {
        let (Some(one), Some(two)) = (TestBtrfs::new(), TestBtrfs::new()) else {
            return;
        };
        for btrfs in [&one, &two] {
            btrfs.create_subvolume("t-twice");
            btrfs.mount_subvolume("t-twice");
        }
        for btrfs in [&one, &two] {
            let wanted = names(&["t-twice"]);
            let facts = discover(&wanted, &btrfs.top().join("snapshots")).unwrap();
            assert!(Path::new(&facts.found[0].mount_point).starts_with(btrfs.directory()));
            assert_eq!(facts.snapshot_dir, SnapshotDir::Absent);
        }
        // One that exists only elsewhere cannot be snapshotted here.
        two.create_subvolume("t-only-two");
        two.mount_subvolume("t-only-two");
        let facts = discover(&names(&["t-only-two"]), &one.top().join("snapshots")).unwrap();
        assert_eq!(facts.found.len(), 1);
        assert_eq!(facts.snapshot_dir, SnapshotDir::Unusable);
    }

    #[test]
    fn a_snapshot_directory_that_cannot_be_trusted_is_unusable() {
        let Some(btrfs) = TestBtrfs::new() else {
            return;
        };
        let top = btrfs.top();
        let state = |path: &Path| discover(&[], path).unwrap().snapshot_dir;
        std::fs::create_dir(top.join("plain")).unwrap();
        assert_eq!(state(&top.join("plain")), SnapshotDir::Directory);
        std::os::unix::fs::symlink("plain", top.join("link")).unwrap();
        assert_eq!(state(&top.join("link")), SnapshotDir::Unusable);
        std::fs::write(top.join("file"), "").unwrap();
        assert_eq!(state(&top.join("file")), SnapshotDir::Unusable);
        assert_eq!(state(&top.join("absent/deeper")), SnapshotDir::Unusable);
        assert_eq!(state(Path::new("/proc")), SnapshotDir::Unusable);
        btrfs.create_subvolume("theirs");
        std::os::unix::fs::chown(top.join("theirs"), Some(1000), Some(1000)).unwrap();
        assert_eq!(state(&top.join("theirs")), SnapshotDir::Unusable);
    }
}
