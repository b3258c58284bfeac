//! The mount table: what is mounted where, and which mount holds an open descriptor.
//!
//! See `proc_pid_mountinfo(5)`. The table is our own kernel's, but mount points and sources are names
//! that users can choose; they are kept as bytes.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

/// One line of the mount table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// Its id, which `fdinfo` refers to.
    pub id: u64,
    /// `major:minor` of the device it shows (for btrfs an anonymous one).
    pub device: String,
    /// Which directory of the filesystem is mounted (`/@home`).
    pub root: PathBuf,
    /// Where.
    pub mount_point: PathBuf,
    /// `btrfs`, `ext4`, …
    pub fs_type: String,
    /// What was mounted (`/dev/sda2`).
    pub source: OsString,
}

/// Undoes the octal escapes of the mount table.
fn unescape(field: &[u8]) -> OsString {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&byte, after)) = rest.split_first() {
        if byte == b'\\'
            && let Some(&[a, b, c]) = after.first_chunk::<3>()
            && [a, b, c].iter().all(|d| (b'0'..=b'7').contains(d))
            && a <= b'3'
        {
            out.push(((a - b'0') << 6) | ((b - b'0') << 3) | (c - b'0'));
            rest = &after[3..];
        } else {
            out.push(byte);
            rest = after;
        }
    }
    OsString::from_vec(out)
}

fn parse_line(line: &[u8]) -> Option<Mount> {
    let mut fields = line.split(|b| *b == b' ');
    let id = std::str::from_utf8(fields.next()?).ok()?.parse().ok()?;
    let _parent = fields.next()?;
    let device = String::from_utf8(fields.next()?.to_vec()).ok()?;
    let root = unescape(fields.next()?).into();
    let mount_point = unescape(fields.next()?).into();
    let _options = fields.next()?;
    // Any number of optional fields ends with a lone dash.
    fields.find(|f| *f == b"-")?;
    let fs_type = String::from_utf8_lossy(fields.next()?).into_owned();
    let source = unescape(fields.next()?);
    Some(Mount {
        id,
        device,
        root,
        mount_point,
        fs_type,
        source,
    })
}

/// The mounts this process sees, in the order they were made.
pub fn mounts() -> io::Result<Vec<Mount>> {
    let table = std::fs::read("/proc/self/mountinfo")?;
    Ok(table
        .split(|b| *b == b'\n')
        .filter_map(parse_line)
        .collect())
}

/// The mount an open descriptor was reached through.
pub fn mount_id(fd: impl AsFd) -> io::Result<u64> {
    let path = format!("/proc/self/fdinfo/{}", fd.as_fd().as_raw_fd());
    let info = std::fs::read_to_string(path)?;
    info.lines()
        .find_map(|l| l.strip_prefix("mnt_id:"))
        .and_then(|v| v.trim().parse().ok())
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "no mnt_id in fdinfo"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_with_escapes_and_optional_fields_is_understood() {
        let line = br"36 35 0:32 /@ho\040me /mnt/a\134b\011c rw,noatime shared:1 master:2 - btrfs /dev/sda2 rw,subvol=/@ho";
        let mount = parse_line(line).unwrap();
        assert_eq!(mount.id, 36);
        assert_eq!(mount.device, "0:32");
        assert_eq!(mount.root, PathBuf::from("/@ho me"));
        assert_eq!(mount.mount_point, PathBuf::from("/mnt/a\\b\tc"));
        assert_eq!(mount.fs_type, "btrfs");
        assert_eq!(mount.source, "/dev/sda2");
    }

    #[test]
    fn what_is_not_an_escape_stays() {
        assert_eq!(unescape(br"\9\04\777\x"), OsString::from(r"\9\04\777\x"));
    }

    #[test]
    fn a_line_without_its_dash_is_passed_over() {
        assert_eq!(parse_line(b"1 2 0:1 / / rw shared:1 btrfs x y"), None);
        assert_eq!(parse_line(b""), None);
    }

    #[test]
    fn the_mount_of_a_descriptor_is_in_the_table() {
        let id = mount_id(std::fs::File::open("/proc/self/status").unwrap()).unwrap();
        let mount = mounts().unwrap().into_iter().find(|m| m.id == id).unwrap();
        assert_eq!(mount.fs_type, "proc");
    }
}
