//! Random trees and random changes to them, for properties that must hold for every tree.
//!
//! The same seed makes the same tree and the same changes, so a failure can be repeated.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{FileExt, MetadataExt, symlink};
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, IFlags};

use super::awkward::{
    NAMES, NO_COMPRESSION, Random, chmod, chown, make_node, set_flags, set_mtime, set_xattr,
    some_acl, unlock,
};

/// Fills `root` with about `count` random entries.
pub fn tree(root: &Path, seed: u64, count: usize) -> io::Result<()> {
    let mut random = Random::new(seed);
    let mut directories = vec![root.to_owned()];
    for number in 0..count {
        let parent = random.pick(&directories).clone();
        let path = parent.join(name(&mut random, number));
        create(&mut random, root, &path)?;
        if path.is_dir() && !path.is_symlink() {
            directories.push(path);
        }
    }
    Ok(())
}

/// Makes about `count` random changes below `root`; the n-th depends on what the others left.
pub fn mutate(root: &Path, seed: u64, count: usize) -> io::Result<()> {
    let mut random = Random::new(seed ^ 0x6d75_7461_7465);
    unlock(root)?;
    for number in 0..count {
        let all = list(root)?;
        if all.is_empty() {
            create(&mut random, root, &root.join(format!("first {number}")))?;
            continue;
        }
        let path = random.pick(&all).clone();
        change(&mut random, root, &path, &all, number)?;
    }
    Ok(())
}

/// A name that no other `number` gives.
pub fn name(random: &mut Random, number: usize) -> OsString {
    // A number keeps names unique; every other one is awkward too.
    let mut bytes = format!("{number} ").into_bytes();
    if random.below(2) == 0 {
        bytes.extend_from_slice(random.pick::<&[u8]>(NAMES));
    }
    OsString::from_vec(bytes)
}

/// Every path below `root`, sorted, without what is too deep to be named by path.
pub fn list(root: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut open = vec![root.to_owned()];
    while let Some(directory) = open.pop() {
        for entry in fs::read_dir(&directory)? {
            let path = entry?.path();
            if path.as_os_str().len() > 3000 {
                continue;
            }
            if path.is_dir() && !path.is_symlink() {
                open.push(path.clone());
            }
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

fn content(random: &mut Random) -> Vec<u8> {
    let most = *random.pick(&[0, 1, 100, 5_000, 100_000, 1_000_000]);
    let length = random.below(most + 1);
    (0..length).map(|_| random.byte()).collect()
}

fn create(random: &mut Random, root: &Path, path: &Path) -> io::Result<()> {
    match random.below(12) {
        0..=4 => fs::write(path, content(random))?,
        5..=7 => fs::create_dir(path)?,
        8 => symlink(random.pick(&["a", "/", "../..", "x\ny"]), path)?,
        9 => make_node(path, FileType::Fifo, 0o600, 0)?,
        10 => {
            let file = File::create(path)?;
            file.set_len(random.below(1 << 22))?;
            file.write_all_at(b"somewhere", random.below(1 << 22))?;
        }
        _ => {
            let files: Vec<PathBuf> = list(root)?.into_iter().filter(|p| !is_dir(p)).collect();
            if files.is_empty() {
                fs::write(path, "alone")?;
            } else {
                fs::hard_link(random.pick(&files), path)?;
            }
        }
    }
    if random.below(3) == 0 {
        attributes(random, path)?;
    }
    Ok(())
}

/// Whether this is a directory, and no link to one.
pub fn is_dir(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|m| m.is_dir())
}

fn attributes(random: &mut Random, path: &Path) -> io::Result<()> {
    let stat = fs::symlink_metadata(path)?;
    let value = random.next().to_le_bytes();
    match random.below(7) {
        0 => {
            let id = u32::from(random.byte());
            chown(path, id, id)?;
        }
        1 if !stat.is_symlink() => {
            let mode = *random.pick(&[0o600, 0o755, 0o4755, 0o2775, 0o1777, 0, 0o444]);
            chmod(path, mode)?;
        }
        2 if stat.is_file() || stat.is_dir() => set_xattr(path, "user.random", &value)?,
        3 => set_xattr(path, "trusted.random", &value)?,
        4 if !stat.is_symlink() => {
            let acl = some_acl(u32::from(value[0]));
            set_xattr(path, "system.posix_acl_access", &acl)?;
        }
        5 if stat.is_file() || stat.is_dir() => {
            let choice = [
                IFlags::NODUMP,
                IFlags::NOATIME,
                NO_COMPRESSION,
                IFlags::empty(),
            ];
            let flags = *random.pick(&choice);
            if !rustix::fs::ioctl_getflags(File::open(path)?)?.contains(IFlags::NOCOW) {
                set_flags(path, flags)?;
            }
        }
        _ => {
            let seconds = i64::from_le_bytes(random.next().to_le_bytes()) >> 30;
            let nanos = i64::try_from(random.below(1_000_000_000)).expect("below a second");
            set_mtime(path, seconds, nanos)?;
        }
    }
    Ok(())
}

/// Removes whatever it is.
pub fn remove(path: &Path) -> io::Result<()> {
    if is_dir(path) {
        fs::remove_dir_all(path)
    } else {
        fs::remove_file(path)
    }
}

fn change(
    random: &mut Random,
    root: &Path,
    path: &Path,
    all: &[PathBuf],
    number: usize,
) -> io::Result<()> {
    let stat = fs::symlink_metadata(path)?;
    let fresh = name(random, 1_000_000 + number);
    let parent = path.parent().expect("below the root").to_owned();
    match random.below(12) {
        0 => remove(path),
        1 | 2 if stat.is_file() => fs::write(path, content(random)),
        3 if stat.is_file() && stat.len() > 0 => {
            // One byte, and the time put back: only its change time and its content tell.
            let at = random.below(stat.len());
            File::options()
                .write(true)
                .open(path)?
                .write_all_at(&[random.byte()], at)?;
            set_mtime(path, stat.mtime(), stat.mtime_nsec())
        }
        4 if stat.is_file() => File::options()
            .write(true)
            .open(path)?
            .set_len(random.below(1 << 21)),
        5 | 6 => fs::rename(path, parent.join(fresh)),
        7 => {
            // To another directory, unless that is below the moved one.
            let directories: Vec<&PathBuf> = all
                .iter()
                .filter(|d| is_dir(d) && !d.starts_with(path))
                .collect();
            if directories.is_empty() {
                fs::rename(path, root.join(fresh))
            } else {
                fs::rename(path, random.pick(&directories).join(fresh))
            }
        }
        8 => {
            // Another kind of thing under the same name.
            remove(path)?;
            create(random, root, path)
        }
        9 => create(random, root, &parent.join(fresh)),
        10 if stat.is_file() => {
            // A copy by reflink, changed in one place as often as not.
            let copy = parent.join(fresh);
            let made = File::create(&copy)?;
            if rustix::fs::ioctl_ficlone(&made, File::open(path)?).is_err() {
                fs::copy(path, &copy)?;
            }
            if stat.len() > 0 && random.below(2) == 0 {
                made.write_all_at(b"changed", random.below(stat.len()))?;
            }
            Ok(())
        }
        _ => attributes(random, path),
    }
}

/// What images and databases are changed in.
pub const BLOCK: u64 = 4096;

/// Gives `count` blocks of a file, no two of them the same, another content.
pub fn edit(path: &Path, count: u64, random: &mut Random) -> io::Result<()> {
    let file = fs::File::options().write(true).open(path)?;
    let each = file.metadata()?.len() / BLOCK / count;
    let mut block = vec![0; usize::try_from(BLOCK).expect("small")];
    for n in 0..count {
        for word in block.chunks_exact_mut(8) {
            word.copy_from_slice(&random.next().to_le_bytes());
        }
        let number = n * each + random.below(each);
        file.write_all_at(&block, number * BLOCK)?;
    }
    Ok(())
}

/// Makes a file of at least so many bytes, in lines.
pub fn text(path: &Path, bytes: u64, random: &mut Random) -> io::Result<()> {
    let mut file = BufWriter::with_capacity(1 << 20, fs::File::create(path)?);
    let mut written = 0;
    while written < bytes {
        let line = format!("{written}: {:x} {:x}\n", random.next(), random.next());
        file.write_all(line.as_bytes())?;
        written += line.len() as u64;
    }
    file.into_inner()?;
    Ok(())
}
