//! What has arrived of a large file when a run ends before it: kept for the next one.
//!
//! Such a file has a name in the staging directory that says which path it is for. Nothing else is
//! believed of it: the source's version may have moved on, and after a power cut anything may be in
//! it. The next run asks how the source's version is cut and takes those pieces of what is there that
//! have the right hash. A run that ends well, or that does not need it, removes it.

use std::collections::BTreeSet;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, Mode, OFlags, Stat};
use rustix::io::Errno;

use crate::mirror::entry::{FLAG_NOCOW, Kind};
use crate::mirror::plan::{Op, Step};
use crate::mirror::staging::{LATE_FLAGS, Staging, remove_xattrs, set_flags};
use crate::mirror::tree::{Names, Tree, kind_of};

/// Files with less to arrive than this begin anew.
pub const PARTIAL_MIN: u64 = 64 << 20;
/// Less of a file than this is not worth keeping.
const KEPT_MIN: u64 = 1 << 20;
/// As many are kept, the largest.
const KEPT_MAX: usize = 16;
/// As much of them may be in memory only, and not counted yet as taken on the disk.
const UNWRITTEN: u64 = 1 << 30;
/// How their names begin.
const PREFIX: &str = "part-";

/// The name of what has arrived of the file at `path`.
#[must_use]
pub fn name_of(path: &[u8]) -> String {
    format!("{PREFIX}{}", &blake3::hash(path).to_hex()[..32])
}

/// Whether so much of `op` has to arrive that it is worth keeping if the run ends before its end.
#[must_use]
pub fn is_worth_keeping(op: &Op) -> bool {
    op.step == Step::Fetch && op.bytes() >= PARTIAL_MIN
}

/// Opens what has arrived of `op` before, ready to be written to.
pub fn open(staging: &Staging, tree: &Tree, op: &Op) -> Result<Option<OwnedFd>, Errno> {
    let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let name = name_of(&op.path);
    let file = match rustix::fs::openat(staging.dir(), &name, flags, Mode::empty()) {
        Ok(file) => file,
        Err(Errno::NOENT) => return Ok(None),
        Err(error) => return Err(error),
    };
    // It may have been finished and given its attributes, which are others by now.
    let have = tree.look_fd(file.as_fd())?;
    if (have.flags ^ op.meta.flags) & FLAG_NOCOW != 0 {
        // Only an empty file can take this flag or lose it.
        staging.unlink(&name)?;
        return Ok(None);
    }
    remove_xattrs(file.as_fd(), &have, &op.meta)?;
    set_flags(file.as_fd(), op.meta.flags & !LATE_FLAGS, have.flags)?;
    Ok(Some(file))
}

/// Whether nothing has arrived before.
pub fn is_empty(staging: &Staging) -> Result<bool, Errno> {
    Ok(list(staging)?.is_empty())
}

/// Removes what has arrived of files that none of `wanted` is.
pub fn keep_only(staging: &Staging, wanted: &BTreeSet<String>) -> Result<(), Errno> {
    for (name, _) in list(staging)? {
        if !wanted.contains(&name) {
            staging.unlink(&name)?;
        }
    }
    Ok(())
}

/// Of what has arrived, keeps what is worth it: never more than there is free space left besides.
pub fn keep_what_is_worth_it(staging: &Staging) -> Result<bool, Errno> {
    let mut all = list(staging)?;
    all.sort_by_key(|(_, bytes)| std::cmp::Reverse(*bytes));
    let disk = rustix::fs::fstatvfs(staging.dir())?;
    let free = disk.f_bavail.saturating_mul(disk.f_frsize);
    let total: u64 = all.iter().map(|(_, bytes)| bytes).sum();
    let mut room = free.saturating_sub(total.min(UNWRITTEN));
    let mut kept = 0;
    for (name, bytes) in all {
        if kept < KEPT_MAX && bytes >= KEPT_MIN && bytes <= room {
            room -= bytes;
            kept += 1;
        } else {
            staging.unlink(&name)?;
        }
    }
    Ok(kept > 0)
}

/// Names of what has arrived, and how much it is.
fn list(staging: &Staging) -> Result<Vec<(String, u64)>, Errno> {
    let names = Names::read(staging.dir())?;
    let mut found = Vec::new();
    for position in 0..names.len() {
        let name = names.get(position).expect("within the length");
        let Some(stat) = look(staging.dir(), name)? else {
            continue;
        };
        if let Ok(name) = std::str::from_utf8(name) {
            let bytes = u64::try_from(stat.st_blocks).unwrap_or(0) * 512;
            found.push((name.to_owned(), bytes));
        }
    }
    Ok(found)
}

/// Whether `name` in the staging directory is what has arrived of a file. A directory that gave way to
/// such a file has its name, if the run died then.
pub fn is_one(staging: BorrowedFd<'_>, name: &[u8]) -> Result<bool, Errno> {
    Ok(look(staging, name)?.is_some())
}

fn look(staging: BorrowedFd<'_>, name: &[u8]) -> Result<Option<Stat>, Errno> {
    if !name.starts_with(PREFIX.as_bytes()) {
        return Ok(None);
    }
    let stat = rustix::fs::statat(staging, name, AtFlags::SYMLINK_NOFOLLOW)?;
    Ok((kind_of(stat.st_mode) == Kind::File).then_some(stat))
}
