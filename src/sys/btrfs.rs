//! btrfs ioctls: what a subvolume is, what is nested in it, making and destroying snapshots.
//!
//! Numbers and layouts are those of `linux/btrfs.h` and `linux/btrfs_tree.h`, which are kernel ABI.
//! Everything here needs `CAP_SYS_ADMIN` except [`is_subvolume`]. Names are single path components;
//! callers hold the directory they are in.

#![allow(unsafe_code)]

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use super::search::{Key, Searcher, Step, malformed};

/// Inode number of every subvolume's root directory (`BTRFS_FIRST_FREE_OBJECTID`).
const SUBVOLUME_INODE: u64 = 256;
/// `BTRFS_SUPER_MAGIC` of `linux/magic.h`.
const SUPER_MAGIC: u32 = 0x9123_683e;
/// Id of the top level (`BTRFS_FS_TREE_OBJECTID`).
pub const TOP_LEVEL: u64 = 5;
/// `BTRFS_ROOT_TREE_OBJECTID`.
const ROOT_TREE: u64 = 1;
/// `BTRFS_QUOTA_TREE_OBJECTID`.
const QUOTA_TREE: u64 = 8;
/// `BTRFS_ROOT_BACKREF_KEY`: (child, 144, parent) in the root tree.
const ROOT_BACKREF_KEY: u8 = 144;
/// `BTRFS_ROOT_REF_KEY`: (parent, 156, child) in the root tree.
const ROOT_REF_KEY: u8 = 156;
/// `BTRFS_QGROUP_INFO_KEY`: (0, 242, qgroup id) in the quota tree.
const QGROUP_INFO_KEY: u8 = 242;
/// `BTRFS_SUBVOL_RDONLY`.
const SUBVOL_RDONLY: u64 = 1 << 1;
/// `BTRFS_ROOT_SUBVOL_RDONLY`, the flag as it is stored in the root item.
const ROOT_SUBVOL_RDONLY: u64 = 1 << 0;
/// `BTRFS_SUBVOL_NAME_MAX` allows more, but a directory entry does not.
const NAME_MAX: usize = 255;

const fn ioc(direction: u64, number: u64, size: usize) -> u64 {
    // `_IOC` of asm-generic/ioctl.h with the magic 0x94; the same on every architecture we build for.
    (direction << 30) | ((size as u64) << 16) | (0x94 << 8) | number
}
const NONE: u64 = 0;
const WRITE: u64 = 1;
const READ: u64 = 2;

const IOC_SYNC: u64 = ioc(NONE, 8, 0);
const IOC_SUBVOL_CREATE: u64 = ioc(WRITE, 14, size_of::<VolArgs>());
const IOC_CLONE_RANGE: u64 = ioc(WRITE, 13, size_of::<CloneRange>());
const IOC_SNAP_DESTROY: u64 = ioc(WRITE, 15, size_of::<VolArgs>());
const IOC_INO_LOOKUP: u64 = ioc(READ | WRITE, 18, size_of::<InoLookupArgs>());
const IOC_SNAP_CREATE_V2: u64 = ioc(WRITE, 23, size_of::<VolArgsV2>());
const IOC_SUBVOL_SETFLAGS: u64 = ioc(WRITE, 26, size_of::<u64>());
const IOC_FS_INFO: u64 = ioc(READ, 31, size_of::<FsInfoArgs>());
const IOC_GET_SUBVOL_INFO: u64 = ioc(READ, 60, size_of::<SubvolInfoArgs>());

/// `struct btrfs_ioctl_vol_args`.
#[repr(C)]
struct VolArgs {
    fd: i64,
    name: [u8; 4088],
}

/// `struct file_clone_range`.
#[repr(C)]
struct CloneRange {
    from: i64,
    from_offset: u64,
    length: u64,
    to_offset: u64,
}

/// `struct btrfs_ioctl_vol_args_v2`, with the unions in the form used here.
#[repr(C)]
struct VolArgsV2 {
    fd: i64,
    transid: u64,
    flags: u64,
    unused: [u64; 4],
    name: [u8; 4040],
}

/// `struct btrfs_ioctl_fs_info_args`.
#[repr(C)]
struct FsInfoArgs {
    max_id: u64,
    num_devices: u64,
    fsid: [u8; 16],
    rest: [u8; 992],
}

/// `struct btrfs_ioctl_timespec`.
#[repr(C)]
struct Timespec {
    seconds: u64,
    nanos: u32,
}

/// Which of a subvolume's four times says when it was created (ctime, otime, stime, rtime).
const OTIME: usize = 1;

/// `struct btrfs_ioctl_get_subvol_info_args`.
#[repr(C)]
struct SubvolInfoArgs {
    treeid: u64,
    name: [u8; 256],
    parent_id: u64,
    dirid: u64,
    generation: u64,
    flags: u64,
    uuid: [u8; 16],
    parent_uuid: [u8; 16],
    received_uuid: [u8; 16],
    ctransid: u64,
    otransid: u64,
    stransid: u64,
    rtransid: u64,
    times: [Timespec; 4],
    reserved: [u64; 8],
}

/// `struct btrfs_ioctl_ino_lookup_args`.
#[repr(C)]
struct InoLookupArgs {
    treeid: u64,
    objectid: u64,
    name: [u8; 4080],
}

const _: () = {
    assert!(size_of::<VolArgs>() == 4096);
    assert!(size_of::<VolArgsV2>() == 4096);
    assert!(size_of::<CloneRange>() == 32);
    assert!(size_of::<FsInfoArgs>() == 1024);
    assert!(size_of::<SubvolInfoArgs>() == 504);
    assert!(size_of::<InoLookupArgs>() == 4096);
};

/// Facts about one subvolume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubvolumeInfo {
    /// Its id.
    pub id: u64,
    /// Id of the subvolume it is in; 0 for the top level and for a deleted one.
    pub parent_id: u64,
    /// Its uuid, hyphenated.
    pub uuid: String,
    /// Uuid of the subvolume it is a snapshot of.
    pub parent_uuid: Option<String>,
    /// Generation of its tree: moved by changes, but also by snapshots taken from it. Only what was committed counts: see [`sync`].
    pub generation: u64,
    /// Generation in which it was created.
    pub created_generation: u64,
    /// Generation of the last change to a file in it: later than its creation if it was written to.
    pub changed_generation: u64,
    /// When it was created, by this machine's clock: seconds and nanoseconds since 1970.
    pub created_at: (i64, u32),
    /// Whether it is read-only.
    pub is_readonly: bool,
}

/// A subvolume as its parent refers to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubvolumeRef {
    /// Its id.
    pub id: u64,
    /// Its path relative to the root of its parent.
    pub path: OsString,
}

/// Calls an ioctl whose argument is a structure.
///
/// # Safety
/// `T` must be the structure `request` takes, `repr(C)`, and valid for any bytes the kernel writes.
unsafe fn ioctl<T>(fd: impl AsFd, request: u64, argument: &mut T) -> io::Result<()> {
    let pointer: *mut T = argument;
    // SAFETY: the pointer is valid for reads and writes of a whole T for the duration of the call,
    // the descriptor is open, and the caller vouches for T.
    let result = unsafe { libc::ioctl(fd.as_fd().as_raw_fd(), request as _, pointer) };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

fn put_name<const N: usize>(name: &OsStr, field: &mut [u8; N]) -> io::Result<()> {
    let bytes = name.as_bytes();
    if bytes.is_empty()
        || bytes.len() > NAME_MAX
        || bytes == b"."
        || bytes == b".."
        || bytes.iter().any(|b| matches!(b, 0 | b'/'))
    {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "not a single path component",
        ));
    }
    field[..bytes.len()].copy_from_slice(bytes);
    Ok(())
}

fn until_nul(bytes: &[u8]) -> &[u8] {
    let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
    &bytes[..end]
}

/// A uuid in its usual form.
#[must_use]
pub fn format_uuid(bytes: [u8; 16]) -> String {
    let hex: Vec<String> = bytes.iter().map(|b| format!("{b:02x}")).collect();
    [&hex[..4], &hex[4..6], &hex[6..8], &hex[8..10], &hex[10..]]
        .map(<[String]>::concat)
        .join("-")
}

/// Whether the descriptor is the root directory of a btrfs subvolume.
pub fn is_subvolume(fd: impl AsFd) -> io::Result<bool> {
    let stat = rustix::fs::fstat(fd.as_fd())?;
    Ok(is_btrfs(fd)? && stat.st_ino == SUBVOLUME_INODE)
}

/// Whether the descriptor is on a btrfs.
pub fn is_btrfs(fd: impl AsFd) -> io::Result<bool> {
    // The field's type differs between architectures; the magic number is 32 bits everywhere.
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "which of them fires depends on the architecture"
    )]
    let magic = rustix::fs::fstatfs(fd)?.f_type as u32;
    Ok(magic == SUPER_MAGIC)
}

/// Facts about the subvolume the descriptor is in.
pub fn subvolume_info(fd: impl AsFd) -> io::Result<SubvolumeInfo> {
    let mut args = SubvolInfoArgs {
        treeid: 0,
        name: [0; 256],
        parent_id: 0,
        dirid: 0,
        generation: 0,
        flags: 0,
        uuid: [0; 16],
        parent_uuid: [0; 16],
        received_uuid: [0; 16],
        ctransid: 0,
        otransid: 0,
        stransid: 0,
        rtransid: 0,
        times: [const {
            Timespec {
                seconds: 0,
                nanos: 0,
            }
        }; 4],
        reserved: [0; 8],
    };
    // SAFETY: this is BTRFS_IOC_GET_SUBVOL_INFO's structure, all integers.
    unsafe { ioctl(fd, IOC_GET_SUBVOL_INFO, &mut args)? };
    Ok(SubvolumeInfo {
        id: args.treeid,
        parent_id: args.parent_id,
        uuid: format_uuid(args.uuid),
        parent_uuid: (args.parent_uuid != [0; 16]).then(|| format_uuid(args.parent_uuid)),
        generation: args.generation,
        created_generation: args.otransid,
        changed_generation: args.ctransid,
        created_at: (
            args.times[OTIME].seconds.cast_signed(),
            args.times[OTIME].nanos,
        ),
        is_readonly: args.flags & ROOT_SUBVOL_RDONLY != 0,
    })
}

/// Uuid of the filesystem, hyphenated.
pub fn filesystem_uuid(fd: impl AsFd) -> io::Result<String> {
    let mut args = FsInfoArgs {
        max_id: 0,
        num_devices: 0,
        fsid: [0; 16],
        rest: [0; 992],
    };
    // SAFETY: this is BTRFS_IOC_FS_INFO's structure, all integers.
    unsafe { ioctl(fd, IOC_FS_INFO, &mut args)? };
    Ok(format_uuid(args.fsid))
}

/// Creates an empty subvolume in the directory `parent`.
pub fn create_subvolume(parent: impl AsFd, name: &OsStr) -> io::Result<()> {
    let mut args = VolArgs {
        fd: 0,
        name: [0; 4088],
    };
    put_name(name, &mut args.name)?;
    // SAFETY: this is BTRFS_IOC_SUBVOL_CREATE's structure; the name ends with a NUL.
    unsafe { ioctl(parent, IOC_SUBVOL_CREATE, &mut args) }
}

/// Makes a read-only snapshot of the subvolume `of` in the directory `parent`. The kernel has
/// committed it when this returns.
pub fn create_readonly_snapshot(of: impl AsFd, parent: impl AsFd, name: &OsStr) -> io::Result<()> {
    create_snapshot(of, parent, name, SUBVOL_RDONLY)
}

/// The same, one that can be written to.
pub fn create_writable_snapshot(of: impl AsFd, parent: impl AsFd, name: &OsStr) -> io::Result<()> {
    create_snapshot(of, parent, name, 0)
}

fn create_snapshot(of: impl AsFd, parent: impl AsFd, name: &OsStr, flags: u64) -> io::Result<()> {
    let mut args = VolArgsV2 {
        fd: of.as_fd().as_raw_fd().into(),
        transid: 0,
        flags,
        unused: [0; 4],
        name: [0; 4040],
    };
    put_name(name, &mut args.name)?;
    // SAFETY: this is BTRFS_IOC_SNAP_CREATE_V2's structure; the name ends with a NUL, the inner
    // descriptor is open, and no flag says that the union holds a pointer.
    unsafe { ioctl(parent, IOC_SNAP_CREATE_V2, &mut args) }
}

/// Makes the subvolume whose root directory this is read-only, or writable.
pub fn set_readonly(root: impl AsFd, is_readonly: bool) -> io::Result<()> {
    let mut flags = if is_readonly { SUBVOL_RDONLY } else { 0 };
    // SAFETY: BTRFS_IOC_SUBVOL_SETFLAGS reads a __u64.
    unsafe { ioctl(root, IOC_SUBVOL_SETFLAGS, &mut flags) }
}

/// Deletes the subvolume `name` in the directory `parent`.
pub fn destroy_subvolume(parent: impl AsFd, name: &OsStr) -> io::Result<()> {
    let mut args = VolArgs {
        fd: 0,
        name: [0; 4088],
    };
    put_name(name, &mut args.name)?;
    // SAFETY: this is BTRFS_IOC_SNAP_DESTROY's structure; the name ends with a NUL.
    unsafe { ioctl(parent, IOC_SNAP_DESTROY, &mut args) }
}

/// Makes `length` bytes of `to` from `to_offset` on share the data of `from` from `from_offset` on
/// (`FICLONERANGE`). All in whole blocks, but for a length that reaches the end of `from`.
pub fn clone_range(
    from: impl AsFd,
    from_offset: u64,
    length: u64,
    to: impl AsFd,
    to_offset: u64,
) -> io::Result<()> {
    let mut args = CloneRange {
        from: from.as_fd().as_raw_fd().into(),
        from_offset,
        length,
        to_offset,
    };
    // SAFETY: this is FICLONERANGE's structure, and the descriptor in it is open.
    unsafe { ioctl(to, IOC_CLONE_RANGE, &mut args) }
}

/// Commits everything written to the filesystem so far; generations are current afterwards.
pub fn sync(fd: impl AsFd) -> io::Result<()> {
    // SAFETY: BTRFS_IOC_SYNC takes no argument.
    let result = unsafe { libc::ioctl(fd.as_fd().as_raw_fd(), IOC_SYNC as _) };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// One item found in a tree.
struct Item {
    offset: u64,
    data: Vec<u8>,
}

/// Every item with this object id and type and an offset in the range, in order of offset.
fn search(
    fd: impl AsFd,
    tree: u64,
    objectid: u64,
    kind: u8,
    offsets: std::ops::RangeInclusive<u64>,
) -> io::Result<Vec<Item>> {
    let mut found = Vec::new();
    let keys = (
        Key::new(objectid, kind, *offsets.start()),
        Key::new(objectid, kind, *offsets.end()),
    );
    Searcher::new().read(fd.as_fd(), tree, keys, 0, |key, data| {
        found.push(Item {
            offset: key.offset,
            data: data.to_vec(),
        });
        Ok(Step::Next)
    })?;
    Ok(found)
}

/// Path of the directory `inode` of subvolume `id` relative to that subvolume's root, with a
/// slash at its end unless it is the root itself.
fn directory_path(fd: impl AsFd, id: u64, inode: u64) -> io::Result<Vec<u8>> {
    let mut args = InoLookupArgs {
        treeid: id,
        objectid: inode,
        name: [0; 4080],
    };
    // SAFETY: this is BTRFS_IOC_INO_LOOKUP's structure, all integers.
    unsafe { ioctl(fd, IOC_INO_LOOKUP, &mut args)? };
    Ok(until_nul(&args.name).to_vec())
}

/// `struct btrfs_root_ref` and the name behind it: directory inode and name.
fn parse_root_ref(data: &[u8]) -> Option<(u64, &[u8])> {
    let directory = u64::from_le_bytes(data.get(..8)?.try_into().ok()?);
    let length = u16::from_le_bytes(data.get(16..18)?.try_into().ok()?);
    Some((directory, data.get(18..18 + usize::from(length))?))
}

/// The subvolumes directly inside subvolume `id` (none deeper), in order of id.
pub fn children(fd: impl AsFd, id: u64) -> io::Result<Vec<SubvolumeRef>> {
    let mut children = Vec::new();
    for item in search(&fd, ROOT_TREE, id, ROOT_REF_KEY, 0..=u64::MAX)? {
        let (directory, name) = parse_root_ref(&item.data).ok_or_else(malformed)?;
        let mut path = directory_path(&fd, id, directory)?;
        path.extend_from_slice(name);
        children.push(SubvolumeRef {
            id: item.offset,
            path: OsString::from_vec(path),
        });
    }
    Ok(children)
}

/// The path of subvolume `id` from the top level, as `btrfs subvolume list` prints it; `None` for
/// one that was deleted.
pub fn flat_path(fd: impl AsFd, id: u64) -> io::Result<Option<OsString>> {
    let mut path = Vec::new();
    let mut current = id;
    while current != TOP_LEVEL {
        let backrefs = search(&fd, ROOT_TREE, current, ROOT_BACKREF_KEY, 0..=u64::MAX)?;
        let Some(backref) = backrefs.first() else {
            return Ok(None);
        };
        let (directory, name) = parse_root_ref(&backref.data).ok_or_else(malformed)?;
        let mut head = directory_path(&fd, backref.offset, directory)?;
        head.extend_from_slice(name);
        if !path.is_empty() {
            head.push(b'/');
        }
        head.append(&mut path);
        path = head;
        current = backref.offset;
    }
    Ok(Some(OsString::from_vec(path)))
}

/// Bytes only subvolume `id` holds, if quotas are on and have counted it.
#[must_use]
pub fn exclusive_bytes(fd: impl AsFd, id: u64) -> Option<u64> {
    // struct btrfs_qgroup_info_item: generation, rfer, rfer_cmpr, excl, excl_cmpr.
    let items = search(fd, QUOTA_TREE, 0, QGROUP_INFO_KEY, id..=id).ok()?;
    let exclusive = items.first()?.data.get(24..32)?;
    Some(u64::from_le_bytes(exclusive.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::testing::{TestBtrfs, run};
    use std::fs::File;

    fn open(path: impl AsRef<std::path::Path>) -> File {
        File::open(path).unwrap()
    }

    #[test]
    fn names_that_are_no_single_component_are_refused_before_the_kernel_sees_them() {
        let long = "x".repeat(256);
        for name in ["", ".", "..", "a/b", "/", "a\0b", &long] {
            let mut field = [0; 4088];
            let error = put_name(OsStr::new(name), &mut field).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "{name}");
        }
    }

    #[test]
    fn uuids_are_printed_as_everywhere() {
        let bytes = std::array::from_fn(|i| u8::try_from(i * 17).unwrap());
        assert_eq!(format_uuid(bytes), "00112233-4455-6677-8899-aabbccddeeff");
    }

    #[test]
    fn subvolume_facts_agree_with_btrfs_progs() {
        let Some(btrfs) = TestBtrfs::new() else {
            return;
        };
        let home = btrfs.create_subvolume("@home");
        std::fs::create_dir_all(home.join("a/b")).unwrap();
        btrfs.create_subvolume("@home/a/b/nested");
        btrfs.create_subvolume("@home/a/b/nested/deep");
        let dir = open(&home);
        sync(&dir).unwrap();
        let info = subvolume_info(&dir).unwrap();
        let shown = run(&format!("btrfs subvolume show '{}'", home.display()));
        let field = |key: &str| {
            let line = shown.lines().find(|l| l.trim().starts_with(key)).unwrap();
            line.trim()[key.len()..].trim().to_owned()
        };
        assert_eq!(field("UUID:"), info.uuid);
        assert_eq!(field("Subvolume ID:"), info.id.to_string());
        assert_eq!(field("Generation:"), info.generation.to_string());
        assert_eq!(
            field("Gen at creation:"),
            info.created_generation.to_string()
        );
        assert!(!info.is_readonly);
        let fsid = run(&format!(
            "blkid -p -o value -s UUID '{}'",
            btrfs.device().display()
        ));
        assert_eq!(fsid.trim(), filesystem_uuid(&dir).unwrap());

        let nested = children(&dir, info.id).unwrap();
        assert_eq!(nested.len(), 1);
        assert_eq!(nested[0].path, "a/b/nested");
        let deep = children(&dir, nested[0].id).unwrap();
        assert_eq!(deep[0].path, "deep");
        assert_eq!(
            flat_path(&dir, deep[0].id).unwrap().unwrap(),
            "@home/a/b/nested/deep"
        );
        assert_eq!(flat_path(&dir, 99_999).unwrap(), None);
        assert_eq!(exclusive_bytes(&dir, info.id), None);
        run(&format!(
            "btrfs quota enable '{0}' && btrfs quota rescan -w '{0}'",
            home.display()
        ));
        assert!(exclusive_bytes(&dir, info.id).is_some());
    }

    #[test]
    fn more_subvolumes_than_one_search_holds_are_all_found() {
        let Some(btrfs) = TestBtrfs::new() else {
            return;
        };
        let top = open(btrfs.top());
        let names: Vec<String> = (0..600).map(|i| format!("{i:0>200}")).collect();
        for name in &names {
            create_subvolume(&top, OsStr::new(name)).unwrap();
        }
        let found: Vec<_> = children(&top, TOP_LEVEL)
            .unwrap()
            .into_iter()
            .map(|c| c.path.into_string().unwrap())
            .collect();
        assert_eq!(found, names);
    }

    #[test]
    fn a_snapshot_is_readonly_and_unchanged_until_it_is_destroyed() {
        let Some(btrfs) = TestBtrfs::new() else {
            return;
        };
        let top = open(btrfs.top());
        create_subvolume(&top, OsStr::new("data")).unwrap();
        std::fs::write(btrfs.top().join("data/file"), "before").unwrap();
        let data = open(btrfs.top().join("data"));
        assert!(is_subvolume(&data).unwrap());
        assert!(!is_subvolume(open("/proc")).unwrap());
        create_readonly_snapshot(&data, &top, OsStr::new("snap")).unwrap();
        std::fs::write(btrfs.top().join("data/file"), "after").unwrap();
        let path = btrfs.top().join("snap");
        let snapshot = open(&path);
        let info = subvolume_info(&snapshot).unwrap();
        assert!(info.is_readonly);
        assert_eq!(info.generation, info.created_generation);
        assert_eq!(
            info.parent_uuid.unwrap(),
            subvolume_info(&data).unwrap().uuid
        );
        assert_eq!(std::fs::read(path.join("file")).unwrap(), b"before");
        assert!(std::fs::write(path.join("file"), "x").is_err());
        let again = create_readonly_snapshot(&data, &top, OsStr::new("snap")).unwrap_err();
        assert_eq!(again.kind(), io::ErrorKind::AlreadyExists);
        drop(snapshot);
        destroy_subvolume(&top, OsStr::new("snap")).unwrap();
        assert!(!path.exists());
    }
}
