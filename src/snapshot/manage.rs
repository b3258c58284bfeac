//! Making, listing and deleting our snapshots.
//!
//! The snapshot directory is opened once as a trusted directory; everything happens through that
//! descriptor. Snapshots of one request are made all or none, and are on disk when the request
//! returns. Nothing is deleted but read-only snapshots whose names are ours.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{Dir, IFlags, Mode, OFlags, openat};
use rustix::io::Errno;

use super::name::SnapshotName;
use super::subvolumes::{OpenSubvolume, filesystem_of_dir, open_subvolume};
use super::{NewSnapshot, SnapshotError, SnapshotFacts};
use crate::sys::btrfs;
use crate::sys::trusted::Directory;

/// More snapshots than this in one request make no sense.
const MAX_SNAPSHOTS: usize = 64;

/// Makes every snapshot of `wanted`, or none; creates `snapshot_dir` as a subvolume if absent.
pub fn create(
    snapshot_dir: &Path,
    wanted: &[NewSnapshot],
) -> Result<Vec<SnapshotFacts>, SnapshotError> {
    if wanted.len() > MAX_SNAPSHOTS {
        return Err(SnapshotError::TooMany {
            limit: MAX_SNAPSHOTS,
        });
    }
    for snapshot in wanted {
        let is_ours =
            SnapshotName::parse(&snapshot.name).is_some_and(|n| n.subvolume == snapshot.subvolume);
        if !is_ours {
            return Err(SnapshotError::NotOurs {
                name: snapshot.name.clone(),
            });
        }
    }
    // Everything that can be known to fail fails before anything is made.
    let filesystem = filesystem_of_dir(snapshot_dir)?;
    let sources = wanted
        .iter()
        .map(|s| {
            open_subvolume(&s.subvolume, filesystem.as_deref())?.ok_or_else(|| {
                SnapshotError::NotMounted {
                    name: s.subvolume.clone(),
                }
            })
        })
        .collect::<Result<Vec<_>, _>>()?;
    for source in &sources {
        if filesystem.as_ref() != Some(&source.filesystem) {
            return Err(SnapshotError::OtherFilesystem {
                snapshot_dir: snapshot_dir.to_owned(),
                mount_point: source.mount_point.clone(),
            });
        }
    }
    let (directory, was_created) = open_or_create(snapshot_dir)?;
    let mut made = Vec::new();
    let result = create_all(&directory, &sources, wanted, &mut made);
    result.map_err(|error| {
        let mut left = undo(&directory, &made);
        if was_created && left.is_empty() {
            drop(directory);
            left = remove_created(snapshot_dir);
        }
        if left.is_empty() {
            error
        } else {
            SnapshotError::NotUndone {
                error: Box::new(error),
                left,
            }
        }
    })
}

fn create_all(
    directory: &Directory,
    sources: &[OpenSubvolume],
    wanted: &[NewSnapshot],
    made: &mut Vec<String>,
) -> Result<Vec<SnapshotFacts>, SnapshotError> {
    for (source, snapshot) in sources.iter().zip(wanted) {
        btrfs::create_readonly_snapshot(&source.root, directory, OsStr::new(&snapshot.name))
            .map_err(|e| SnapshotError::Create {
                name: snapshot.name.clone(),
                source: e,
            })?;
        made.push(snapshot.name.clone());
    }
    // The first look into a snapshot has the kernel remove files that were deleted but still open. That
    // moves its generation once, so it comes before the generation is noted.
    for snapshot in wanted {
        facts_of(directory, &snapshot.name, false)?;
    }
    btrfs::sync(directory).map_err(|e| SnapshotError::btrfs(directory.path(), e))?;
    wanted
        .iter()
        .map(|s| {
            facts_of(directory, &s.name, false)?.ok_or_else(|| SnapshotError::Create {
                name: s.name.clone(),
                source: io::ErrorKind::NotFound.into(),
            })
        })
        .collect()
}

/// Destroys what was made, newest first; returns the names that could not be.
fn undo(directory: &Directory, made: &[String]) -> Vec<String> {
    made.iter()
        .rev()
        .filter(|name| destroy(directory, OsStr::new(name)).is_err())
        .cloned()
        .collect()
}

/// Removes the snapshot directory we have just created, which is empty.
fn remove_created(snapshot_dir: &Path) -> Vec<String> {
    let removed = (|| {
        let parent = Directory::open(snapshot_dir.parent()?).ok()?;
        btrfs::destroy_subvolume(&parent, snapshot_dir.file_name()?).ok()
    })();
    match removed {
        Some(()) => Vec::new(),
        None => vec![snapshot_dir.display().to_string()],
    }
}

fn open_or_create(snapshot_dir: &Path) -> Result<(Directory, bool), SnapshotError> {
    match Directory::open(snapshot_dir) {
        Ok(directory) => return Ok((directory, false)),
        Err(e) if e.is_not_found() => {}
        Err(e) => return Err(e.into()),
    }
    let (Some(parent), Some(name)) = (snapshot_dir.parent(), snapshot_dir.file_name()) else {
        return Err(SnapshotError::NotOurs {
            name: snapshot_dir.display().to_string(),
        });
    };
    let parent = Directory::open(parent)?;
    btrfs::create_subvolume(&parent, name).map_err(|e| SnapshotError::btrfs(snapshot_dir, e))?;
    let directory = Directory::open(snapshot_dir)?;
    // Old versions of files that people have since made private are in there.
    rustix::fs::fchmod(&directory, Mode::RWXU)
        .map_err(|e| SnapshotError::btrfs(snapshot_dir, e.into()))?;
    Ok((directory, true))
}

/// Facts about the entry `name`; `None` if it is not there or not a subvolume.
fn facts_of(
    directory: &Directory,
    name: &str,
    with_space: bool,
) -> Result<Option<SnapshotFacts>, SnapshotError> {
    let Some(parsed) = SnapshotName::parse(name) else {
        return Ok(None);
    };
    let path = directory.path().join(name);
    let at = |source| SnapshotError::btrfs(&path, source);
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = match openat(directory, name, flags, Mode::empty()) {
        Ok(fd) => fd,
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(None),
        Err(e) => return Err(at(e.into())),
    };
    if !btrfs::is_subvolume(&fd).map_err(at)? {
        return Ok(None);
    }
    let info = btrfs::subvolume_info(&fd).map_err(at)?;
    Ok(Some(SnapshotFacts {
        subvolume: parsed.subvolume,
        name: name.to_owned(),
        path: path.to_string_lossy().into_owned(),
        uuid: info.uuid,
        parent_uuid: info.parent_uuid,
        generation: info.generation,
        created_generation: info.created_generation,
        changed_generation: info.changed_generation,
        readonly: info.is_readonly,
        exclusive_bytes: if with_space {
            btrfs::exclusive_bytes(&fd, info.id)
        } else {
            None
        },
    }))
}

/// Our snapshots in `snapshot_dir`, oldest first; none if there is no such directory.
pub fn list(snapshot_dir: &Path, with_space: bool) -> Result<Vec<SnapshotFacts>, SnapshotError> {
    let directory = match Directory::open(snapshot_dir) {
        Ok(directory) => directory,
        Err(e) if e.is_not_found() => return Ok(Vec::new()),
        Err(e) => return Err(e.into()),
    };
    let at = |source: Errno| SnapshotError::btrfs(snapshot_dir, source.into());
    let mut found = Vec::new();
    for entry in Dir::read_from(&directory).map_err(at)? {
        let entry = entry.map_err(at)?;
        let Ok(name) = entry.file_name().to_str() else {
            continue;
        };
        if let Some(facts) = facts_of(&directory, name, with_space)? {
            found.push(facts);
        }
    }
    found.sort_by_cached_key(|s| {
        SnapshotName::parse(&s.name).map(|n| (n.at, n.session, n.kind, n.subvolume))
    });
    Ok(found)
}

/// Deletes a snapshot, also one of a subvolume whose own directory is immutable or append-only: as it is, so is
/// that of the snapshot, and nobody may delete such a one.
fn destroy(directory: &Directory, name: &OsStr) -> io::Result<()> {
    let Err(error) = btrfs::destroy_subvolume(directory, name) else {
        return Ok(());
    };
    if error.raw_os_error() != Some(Errno::PERM.raw_os_error()) {
        return Err(error);
    }
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let root = openat(directory, name, flags, Mode::empty())?;
    let had = rustix::fs::ioctl_getflags(&root)?;
    let locks = IFlags::IMMUTABLE | IFlags::APPEND;
    if !had.intersects(locks) {
        return Err(error);
    }
    btrfs::set_readonly(&root, false)?;
    let done = rustix::fs::ioctl_setflags(&root, had.difference(locks))
        .map_err(io::Error::from)
        .and_then(|()| btrfs::destroy_subvolume(directory, name));
    if done.is_err() {
        // It stays, and as what it was.
        let _ = rustix::fs::ioctl_setflags(&root, had);
        let _ = btrfs::set_readonly(&root, true);
    }
    done
}

/// Deletes our snapshots `names`; one that is gone already is fine. All of them are checked before
/// the first is deleted, and one that cannot be deleted does not keep the others.
pub fn delete(snapshot_dir: &Path, names: &[String]) -> Result<(), SnapshotError> {
    let directory = Directory::open(snapshot_dir)?;
    for name in names {
        if SnapshotName::parse(name).is_none() {
            return Err(SnapshotError::NotOurs { name: name.clone() });
        }
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match facts_of(&directory, name, false)? {
            Some(facts) if facts.readonly => {}
            Some(_) => return Err(SnapshotError::Writable { name: name.clone() }),
            // Gone already, or something that only has such a name.
            None => match openat(&directory, name.as_str(), flags, Mode::empty()) {
                Err(Errno::NOENT) => {}
                _ => return Err(SnapshotError::NotOurs { name: name.clone() }),
            },
        }
    }
    let mut failed = Vec::new();
    for name in names {
        match destroy(&directory, OsStr::new(name)) {
            Ok(()) => {}
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => failed.push((name.clone(), e)),
        }
    }
    match failed.into_iter().next() {
        None => Ok(()),
        Some((name, source)) => Err(SnapshotError::Delete { name, source }),
    }
}

/// How the names of snapshots begin that live for one question.
const TEMPORARY: &str = ".pc-switcher-now-";

/// One that was left behind by an agent that died is removed after so long.
const STALE_SECS: i64 = 600;

/// A read-only snapshot of a subvolume as it is now, gone when this is dropped. By its name it is none of
/// ours, so that nobody lists it, keeps it or goes back to it.
#[derive(Debug)]
pub struct Temporary {
    directory: Directory,
    name: String,
}

impl Temporary {
    /// Makes one in `snapshot_dir`, which must be there.
    pub fn make(snapshot_dir: &Path, subvolume: &str) -> Result<Self, SnapshotError> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let filesystem = filesystem_of_dir(snapshot_dir)?;
        let source = open_subvolume(subvolume, filesystem.as_deref())?.ok_or_else(|| {
            SnapshotError::NotMounted {
                name: subvolume.to_owned(),
            }
        })?;
        let directory = Directory::open(snapshot_dir)?;
        remove_stale(&directory);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("{TEMPORARY}{}-{number}", std::process::id());
        // Of an agent that died, whose number has come round again.
        let _ = destroy(&directory, OsStr::new(&name));
        btrfs::create_readonly_snapshot(&source.root, &directory, OsStr::new(&name)).map_err(
            |source| SnapshotError::Create {
                name: name.clone(),
                source,
            },
        )?;
        Ok(Self { directory, name })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.directory.path().join(&self.name)
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        // What cannot be removed now, the next one removes.
        let _ = destroy(&self.directory, OsStr::new(&self.name));
    }
}

/// Removes temporary snapshots that nobody can be using any more.
fn remove_stale(directory: &Directory) {
    let Ok(entries) = Dir::read_from(directory) else {
        return;
    };
    let now = jiff::Timestamp::now().as_second();
    for entry in entries.flatten() {
        let name = entry.file_name();
        if !name.to_bytes().starts_with(TEMPORARY.as_bytes()) {
            continue;
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let made_at = openat(directory, name, flags, Mode::empty())
            .ok()
            .filter(|fd| btrfs::is_subvolume(fd).unwrap_or(false))
            .and_then(|fd| btrfs::subvolume_info(&fd).ok())
            .filter(|info| info.is_readonly)
            .map(|info| info.created_at.0);
        if made_at.is_some_and(|at| (now - at).abs() > STALE_SECS) {
            let _ = destroy(directory, OsStr::from_bytes(name.to_bytes()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::testing::{TestBtrfs, run};
    use std::fs::File;
    use std::os::unix::fs::MetadataExt;

    fn new(subvolume: &str, kind: &str, session: &str) -> NewSnapshot {
        NewSnapshot {
            subvolume: subvolume.to_owned(),
            name: format!("{subvolume}-{kind}-20260101T000000Z-{session}"),
        }
    }

    fn entries(path: &Path) -> Vec<String> {
        let mut names: Vec<String> = std::fs::read_dir(path)
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    struct Lab {
        btrfs: TestBtrfs,
        one: std::path::PathBuf,
        dir: std::path::PathBuf,
    }

    fn lab() -> Option<Lab> {
        let btrfs = TestBtrfs::new()?;
        btrfs.create_subvolume("s-one");
        btrfs.create_subvolume("s-two");
        let one = btrfs.mount_subvolume("s-one");
        btrfs.mount_subvolume("s-two");
        let dir = btrfs.top().join("snapshots");
        Some(Lab { btrfs, one, dir })
    }

    #[test]
    fn snapshots_of_a_locked_directory_can_be_deleted() {
        let Some(lab) = lab() else { return };
        for (session, locks) in [
            ("aaaaaaaa", IFlags::IMMUTABLE),
            ("bbbbbbbb", IFlags::APPEND),
        ] {
            let live = File::open(&lab.one).unwrap();
            let had = rustix::fs::ioctl_getflags(&live).unwrap();
            rustix::fs::ioctl_setflags(&live, had | locks).unwrap();
            let made = create(&lab.dir, &[new("s-one", "presync", session)]).unwrap();
            drop(Temporary::make(&lab.dir, "s-one").unwrap());
            rustix::fs::ioctl_setflags(&live, had).unwrap();
            assert_eq!(
                entries(&lab.dir),
                [made[0].name.clone()],
                "the other one is gone"
            );
            delete(&lab.dir, &[made[0].name.clone()]).unwrap();
            assert_eq!(list(&lab.dir, false).unwrap(), []);
        }
    }

    #[test]
    fn snapshots_are_made_listed_and_deleted() {
        let Some(lab) = lab() else { return };
        std::fs::write(lab.one.join("file"), "before").unwrap();
        let wanted = [
            new("s-one", "presync", "aaaaaaaa"),
            new("s-two", "presync", "aaaaaaaa"),
        ];
        let made = create(&lab.dir, &wanted).unwrap();
        std::fs::write(lab.one.join("file"), "after").unwrap();
        assert_eq!(
            made.iter().map(|s| &s.name).collect::<Vec<_>>(),
            [&wanted[0].name, &wanted[1].name]
        );
        assert!(made.iter().all(|s| s.readonly));
        assert!(made.iter().all(SnapshotFacts::is_untouched));
        assert_eq!(
            std::fs::read(Path::new(&made[0].path).join("file")).unwrap(),
            b"before"
        );
        let meta = std::fs::metadata(&lab.dir).unwrap();
        assert_eq!((meta.ino(), meta.mode() & 0o7777), (256, 0o700));

        // Strangers in the directory are neither listed nor deleted.
        std::fs::create_dir(lab.dir.join("other")).unwrap();
        let plain = "s-one-presync-20260101T000000Z-bbbbbbbb";
        std::fs::create_dir(lab.dir.join(plain)).unwrap();
        lab.btrfs
            .create_subvolume("snapshots/s-one-presync-20260101T000000Z-cccccccc");
        let listed = list(&lab.dir, true).unwrap();
        assert_eq!(listed.len(), 3);
        assert_eq!(listed[..2], made);
        assert!(!listed[2].readonly);
        for (name, reason) in [
            ("other", "not one of"),
            ("../s-one", "not one of"),
            (plain, "not one of"),
            (&*listed[2].name, "writable"),
        ] {
            let names = [wanted[0].name.clone(), name.to_owned()];
            let error = delete(&lab.dir, &names).unwrap_err().to_string();
            assert!(error.contains(reason), "{error}");
        }
        assert_eq!(list(&lab.dir, false).unwrap(), listed);

        let names: Vec<String> = wanted.iter().map(|w| w.name.clone()).collect();
        delete(&lab.dir, &names).unwrap();
        delete(&lab.dir, &names).unwrap();
        assert_eq!(list(&lab.dir, false).unwrap(), listed[2..]);
        assert_eq!(std::fs::read(lab.one.join("file")).unwrap(), b"after");
    }

    #[test]
    fn a_file_that_was_deleted_but_is_open_touches_no_snapshot() {
        let Some(lab) = lab() else { return };
        let path = lab.one.join("open");
        let open = std::fs::File::create(&path).unwrap();
        rustix::io::write(&open, &vec![7; 100_000]).unwrap();
        open.sync_all().unwrap();
        std::fs::remove_file(&path).unwrap();
        let made = create(&lab.dir, &[new("s-one", "presync", "aaaaaaaa")]).unwrap();
        assert!(made[0].is_untouched(), "{made:?}");
        run(&format!("btrfs filesystem sync '{}'", lab.dir.display()));
        assert_eq!(list(&lab.dir, false).unwrap(), made, "it is what was noted");
        // One that was written to is known by that, whatever it says of itself now.
        let path = &made[0].path;
        run(&format!(
            "btrfs property set '{path}' ro false; echo x >'{path}/x'; btrfs property set '{path}' ro true
             btrfs filesystem sync '{path}'"
        ));
        assert!(!list(&lab.dir, false).unwrap()[0].is_untouched());
        drop(open);
    }

    #[test]
    fn a_snapshot_for_one_question_is_nobody_elses_and_gone_afterwards() {
        let Some(lab) = lab() else { return };
        std::fs::write(lab.one.join("file"), "now").unwrap();
        Temporary::make(&lab.dir, "s-one").unwrap_err();
        assert!(!lab.dir.exists());
        create(&lab.dir, &[new("s-two", "presync", "aaaaaaaa")]).unwrap();
        let listed = list(&lab.dir, false).unwrap();
        {
            let one = Temporary::make(&lab.dir, "s-one").unwrap();
            let two = Temporary::make(&lab.dir, "s-one").unwrap();
            assert_ne!(one.path(), two.path());
            assert_eq!(std::fs::read(two.path().join("file")).unwrap(), b"now");
            assert!(std::fs::write(two.path().join("file"), "").is_err());
            assert_eq!(list(&lab.dir, false).unwrap(), listed);
        }
        assert_eq!(entries(&lab.dir), [listed[0].name.as_str()]);
        // What is fresh may be in use; what is a stranger's stays.
        let left = format!("{TEMPORARY}left");
        lab.btrfs.create_subvolume(&format!("snapshots/{left}"));
        drop(Temporary::make(&lab.dir, "s-one").unwrap());
        assert!(lab.dir.join(&left).exists());
    }

    #[test]
    fn a_subvolume_inside_others_is_snapshotted_under_a_flat_name() {
        let Some(btrfs) = TestBtrfs::new() else {
            return;
        };
        btrfs.create_subvolume("s-suse");
        std::fs::create_dir_all(btrfs.top().join("s-suse/.snapshots/1")).unwrap();
        let name = "s-suse/.snapshots/1/snapshot";
        btrfs.create_subvolume(name);
        btrfs.mount_subvolume(name);
        let dir = btrfs.top().join("snapshots");
        let wanted = NewSnapshot {
            subvolume: name.to_owned(),
            name: "s-suse%2f.snapshots%2f1%2fsnapshot-presync-20260101T000000Z-aaaaaaaa".to_owned(),
        };
        let made = create(&dir, std::slice::from_ref(&wanted)).unwrap();
        assert_eq!(
            (&made[0].subvolume, &made[0].name),
            (&wanted.subvolume, &wanted.name)
        );
        assert_eq!(list(&dir, false).unwrap(), made);
        delete(&dir, &[wanted.name]).unwrap();
        assert!(list(&dir, false).unwrap().is_empty());
    }

    #[test]
    fn when_a_later_one_fails_the_earlier_ones_are_gone() {
        let Some(lab) = lab() else { return };
        let first = new("s-one", "presync", "aaaaaaaa");
        let second = new("s-two", "presync", "aaaaaaaa");
        // The second name is taken, which only shows when it is made.
        create(&lab.dir, std::slice::from_ref(&second)).unwrap();
        let error = create(&lab.dir, &[first, second.clone()]).unwrap_err();
        assert!(matches!(error, SnapshotError::Create { .. }), "{error}");
        assert_eq!(entries(&lab.dir), [second.name.as_str()]);

        // A directory we made for it goes as well.
        let fresh = lab.btrfs.top().join("fresh");
        let error = create(&fresh, &[second.clone(), second]).unwrap_err();
        assert!(matches!(error, SnapshotError::Create { .. }), "{error}");
        assert!(!fresh.exists());
    }

    #[test]
    fn what_cannot_be_snapshotted_is_refused_before_anything_is_made() {
        let Some(lab) = lab() else { return };
        let good = new("s-one", "presync", "aaaaaaaa");
        let refused = |bad: NewSnapshot| {
            let error = create(&lab.dir, &[good.clone(), bad]).unwrap_err();
            assert!(!lab.dir.exists());
            error.to_string()
        };
        let absent = refused(new("s-absent", "presync", "aaaaaaaa"));
        assert!(absent.contains("not a mounted subvolume"), "{absent}");
        let crossed = refused(NewSnapshot {
            subvolume: "s-two".to_owned(),
            ..good.clone()
        });
        assert!(crossed.contains("not one of"), "{crossed}");
        let path = refused(NewSnapshot {
            subvolume: "s-two".to_owned(),
            name: "../x".to_owned(),
        });
        assert!(path.contains("not one of"), "{path}");
        let many = vec![good.clone(); MAX_SNAPSHOTS + 1];
        assert!(create(&lab.dir, &many).is_err());

        let other = TestBtrfs::new().unwrap();
        let error = create(&other.top().join("s"), std::slice::from_ref(&good)).unwrap_err();
        assert!(error.to_string().contains("filesystem"), "{error}");
        assert!(list(&lab.dir, false).unwrap().is_empty());
        std::os::unix::fs::symlink(other.top(), lab.btrfs.top().join("link")).unwrap();
        assert!(create(&lab.btrfs.top().join("link/s"), &[good]).is_err());
    }
}
