//! One directory entry with everything the mirror keeps exact, and its canonical encoding.
//!
//! Both machines encode a directory's entries the same way, so equal digests mean equal entries.
//! Not part of it: inode numbers, change time, birth time, link count, directory sizes.

use serde::{Deserialize, Serialize};

use super::codec::{Malformed, Reader, put_bytes, put_i64, put_u64};
use super::path::{NAME_MAX, PATH_LIMIT, is_valid_name, is_valid_path};

/// Longest symlink text Linux allows (`PATH_MAX` without its NUL).
pub const SYMLINK_MAX: usize = 4095;
/// All extended attributes of one entry together.
pub const XATTRS_MAX: usize = 1 << 20;

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Kind {
    /// Regular file.
    File = 1,
    /// Directory.
    Dir = 2,
    /// Symbolic link.
    Symlink = 3,
    /// FIFO.
    Fifo = 4,
    /// Unix socket.
    Socket = 5,
    /// Character device.
    Char = 6,
    /// Block device.
    Block = 7,
    /// Something the mirror neither looks into nor touches: a nested subvolume, a mount point,
    /// an entry that could not be read.
    Opaque = 8,
}

impl Kind {
    pub(crate) fn from_byte(byte: u8) -> Result<Self, Malformed> {
        Ok(match byte {
            1 => Self::File,
            2 => Self::Dir,
            3 => Self::Symlink,
            4 => Self::Fifo,
            5 => Self::Socket,
            6 => Self::Char,
            7 => Self::Block,
            8 => Self::Opaque,
            _ => return Err(Malformed("unknown kind of entry")),
        })
    }

    /// For people.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::File => "file",
            Self::Dir => "directory",
            Self::Symlink => "symlink",
            Self::Fifo => "FIFO",
            Self::Socket => "socket",
            Self::Char | Self::Block => "device",
            Self::Opaque => "nested subvolume or mount",
        }
    }

    /// Whether it is a device node.
    #[must_use]
    pub fn is_device(self) -> bool {
        matches!(self, Self::Char | Self::Block)
    }
}

/// Seconds and nanoseconds since 1970, the nanoseconds always 0 to 999,999,999.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
pub struct Time {
    /// Seconds, negative before 1970.
    pub secs: i64,
    /// Nanoseconds.
    pub nanos: u32,
}

/// An extended attribute: name (with its namespace) and value.
pub type Xattr = (Vec<u8>, Vec<u8>);

/// Everything about an entry but its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Meta {
    /// What it is.
    pub kind: Kind,
    /// Permission bits with setuid, setgid and sticky (07777).
    pub mode: u32,
    /// Owner, numeric.
    pub uid: u32,
    /// Group, numeric.
    pub gid: u32,
    /// Size of a regular file in bytes, else 0.
    pub size: u64,
    /// Modification time.
    pub mtime: Time,
    /// Device number of a device node, else 0.
    pub rdev: u64,
    /// Inode flags (`chattr`), masked to those a person can set on btrfs.
    pub flags: u32,
    /// Text of a symlink, else empty.
    pub symlink: Vec<u8>,
    /// For a further name of an inode: the path, below the folder, of its first name in scan order.
    pub leader: Option<Vec<u8>>,
    /// Whether the inode has further names (not part of the digest: some may be out of scope).
    pub multi: bool,
    /// Bytes a regular file occupies on disk (not part of the digest).
    pub allocated: u64,
    /// Extended attributes and ACLs, sorted by name.
    pub xattrs: Vec<Xattr>,
    /// Whether a regular file was touched since both sides were last known to be equal (not part
    /// of the digest): then equal size and time prove nothing.
    pub suspect: bool,
    /// Hash of a regular file's content, where a scan was asked to compare content.
    pub content: Option<[u8; 32]>,
}

/// A named entry of a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its name: any bytes but NUL and slash.
    pub name: Vec<u8>,
    /// Everything else.
    pub meta: Meta,
}

/// Inode flags the mirror carries (`linux/fs.h`, `FS_*_FL`): those btrfs lets a person set.
pub const FLAGS: u32 = FLAG_COMPRESS
    | FLAG_SYNC
    | FLAG_IMMUTABLE
    | FLAG_APPEND
    | FLAG_NODUMP
    | FLAG_NOATIME
    | FLAG_NOCOMPRESS
    | FLAG_DIRSYNC
    | FLAG_NOCOW;
/// `chattr +c`.
pub const FLAG_COMPRESS: u32 = 0x4;
/// `chattr +S`.
pub const FLAG_SYNC: u32 = 0x8;
/// `chattr +i`.
pub const FLAG_IMMUTABLE: u32 = 0x10;
/// `chattr +a`.
pub const FLAG_APPEND: u32 = 0x20;
/// `chattr +d`.
pub const FLAG_NODUMP: u32 = 0x40;
/// `chattr +A`.
pub const FLAG_NOATIME: u32 = 0x80;
/// `chattr +m`.
pub const FLAG_NOCOMPRESS: u32 = 0x400;
/// `chattr +D`.
pub const FLAG_DIRSYNC: u32 = 0x1_0000;
/// `chattr +C`.
pub const FLAG_NOCOW: u32 = 0x80_0000;

const MULTI_BIT: u8 = 0x80;
const SUSPECT_BIT: u8 = 0x40;

impl Meta {
    /// A stand-in for something the mirror leaves alone.
    #[must_use]
    pub fn opaque() -> Self {
        Self {
            kind: Kind::Opaque,
            mode: 0,
            uid: 0,
            gid: 0,
            size: 0,
            mtime: Time::default(),
            rdev: 0,
            flags: 0,
            symlink: Vec::new(),
            leader: None,
            multi: false,
            allocated: 0,
            xattrs: Vec::new(),
            suspect: false,
            content: None,
        }
    }

    /// Appends the encoding. With `canonical` the bits that are not part of the digest are zero.
    pub fn encode(&self, out: &mut Vec<u8>, canonical: bool) {
        let bit = |set: bool, bit| if set && !canonical { bit } else { 0 };
        let bits = bit(self.multi, MULTI_BIT) | bit(self.suspect, SUSPECT_BIT);
        out.push(self.kind as u8 | bits);
        if self.kind == Kind::Opaque {
            return;
        }
        put_u64(out, u64::from(self.mode));
        put_u64(out, u64::from(self.uid));
        put_u64(out, u64::from(self.gid));
        put_i64(out, self.mtime.secs);
        put_u64(out, u64::from(self.mtime.nanos));
        put_u64(out, u64::from(self.flags));
        match self.kind {
            Kind::File => {
                put_u64(out, self.size);
                put_u64(out, if canonical { 0 } else { self.allocated });
                put_bytes(out, self.content.as_ref().map_or(&[], |hash| &hash[..]));
            }
            Kind::Symlink => put_bytes(out, &self.symlink),
            Kind::Char | Kind::Block => put_u64(out, self.rdev),
            _ => {}
        }
        match &self.leader {
            Some(leader) => put_bytes(out, leader),
            None => out.push(0),
        }
        put_u64(out, self.xattrs.len() as u64);
        for (name, value) in &self.xattrs {
            put_bytes(out, name);
            put_bytes(out, value);
        }
    }

    /// Decodes and checks what [`encode`](Self::encode) wrote.
    pub fn decode(reader: &mut Reader<'_>) -> Result<Self, Malformed> {
        let first = reader.u8()?;
        let kind = Kind::from_byte(first & !(MULTI_BIT | SUSPECT_BIT))?;
        let mut meta = Self {
            kind,
            multi: first & MULTI_BIT != 0,
            suspect: first & SUSPECT_BIT != 0,
            ..Self::opaque()
        };
        if kind == Kind::Opaque {
            return Ok(meta);
        }
        meta.mode = reader.u32()?;
        meta.uid = reader.u32()?;
        meta.gid = reader.u32()?;
        meta.mtime = Time {
            secs: reader.i64()?,
            nanos: reader.u32()?,
        };
        meta.flags = reader.u32()?;
        // u32::MAX means "leave as it is" to chown(2).
        if meta.mode > 0o7777 || meta.uid == u32::MAX || meta.gid == u32::MAX {
            return Err(Malformed("impossible owner or mode"));
        }
        if meta.mtime.nanos >= 1_000_000_000 || meta.flags & !FLAGS != 0 {
            return Err(Malformed("impossible time or flags"));
        }
        match kind {
            Kind::File => {
                meta.size = reader.u64()?;
                if meta.size > i64::MAX as u64 {
                    return Err(Malformed("impossible size"));
                }
                meta.allocated = reader.u64()?;
                let hash = reader.bytes(32)?;
                if !hash.is_empty() {
                    let hash = hash.try_into().map_err(|_| Malformed("impossible hash"))?;
                    meta.content = Some(hash);
                }
            }
            Kind::Symlink => {
                meta.symlink = reader.bytes(SYMLINK_MAX)?.to_vec();
                if meta.symlink.is_empty() || meta.symlink.contains(&0) {
                    return Err(Malformed("impossible symlink text"));
                }
            }
            Kind::Char | Kind::Block => meta.rdev = reader.u64()?,
            _ => {}
        }
        let leader = reader.bytes(PATH_LIMIT)?;
        if !leader.is_empty() {
            if kind == Kind::Dir || !is_valid_path(leader) {
                return Err(Malformed("impossible hard link"));
            }
            meta.leader = Some(leader.to_vec());
        }
        let count = reader.u64()?;
        let mut total = 0;
        for _ in 0..count {
            let name = reader.bytes(NAME_MAX)?;
            let value = reader.bytes(XATTRS_MAX)?;
            total += name.len() + value.len();
            if total > XATTRS_MAX || name.is_empty() || name.contains(&0) {
                return Err(Malformed("impossible extended attributes"));
            }
            meta.xattrs.push((name.to_vec(), value.to_vec()));
        }
        if !meta.xattrs.windows(2).all(|w| w[0].0 < w[1].0) {
            return Err(Malformed("extended attributes out of order"));
        }
        Ok(meta)
    }
}

impl Entry {
    /// Appends the encoding.
    pub fn encode(&self, out: &mut Vec<u8>, canonical: bool) {
        put_bytes(out, &self.name);
        self.meta.encode(out, canonical);
    }

    /// Decodes and checks an entry.
    pub fn decode(reader: &mut Reader<'_>) -> Result<Self, Malformed> {
        let name = reader.bytes(NAME_MAX)?;
        if !is_valid_name(name) {
            return Err(Malformed("impossible file name"));
        }
        Ok(Self {
            name: name.to_vec(),
            meta: Meta::decode(reader)?,
        })
    }
}

/// Which aspects of an entry differ; a set of bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Aspects(pub u16);

impl Aspects {
    /// Another kind of thing.
    pub const KIND: u16 = 1;
    /// Content of a file, text of a symlink, number of a device.
    pub const CONTENT: u16 = 2;
    /// Permission bits.
    pub const MODE: u16 = 4;
    /// Owner or group.
    pub const OWNER: u16 = 8;
    /// Modification time.
    pub const MTIME: u16 = 16;
    /// Extended attributes, ACLs, capabilities.
    pub const XATTRS: u16 = 32;
    /// Inode flags.
    pub const FLAGS: u16 = 64;
    /// Which inode it shares.
    pub const LINK: u16 = 128;
    /// Where it is: a directory that is moved as it is.
    pub const MOVED: u16 = 256;

    const NAMES: [(u16, &'static str); 9] = [
        (Self::KIND, "type"),
        (Self::CONTENT, "content"),
        (Self::MODE, "mode"),
        (Self::OWNER, "owner"),
        (Self::MTIME, "mtime"),
        (Self::XATTRS, "xattrs"),
        (Self::FLAGS, "flags"),
        (Self::LINK, "hard link"),
        (Self::MOVED, "renamed"),
    ];

    /// Whether any of `bits` is set.
    #[must_use]
    pub fn any(self, bits: u16) -> bool {
        self.0 & bits != 0
    }

    /// For people: "content, mode".
    #[must_use]
    pub fn describe(self) -> String {
        let names: Vec<&str> = Self::NAMES
            .iter()
            .filter(|(bit, _)| self.any(*bit))
            .map(|(_, name)| *name)
            .collect();
        names.join(", ")
    }

    /// What differs between what should be and what is.
    #[must_use]
    pub fn between(want: &Meta, have: &Meta) -> Self {
        let mut bits = 0;
        if want.kind != have.kind {
            return Self(Self::KIND | Self::CONTENT);
        }
        let mut set = |differs: bool, bit| {
            if differs {
                bits |= bit;
            }
        };
        set(
            want.mode != have.mode && want.kind != Kind::Symlink,
            Self::MODE,
        );
        set((want.uid, want.gid) != (have.uid, have.gid), Self::OWNER);
        set(want.mtime != have.mtime, Self::MTIME);
        set(want.xattrs != have.xattrs, Self::XATTRS);
        set(want.flags != have.flags, Self::FLAGS);
        set(want.leader != have.leader, Self::LINK);
        let content = match want.kind {
            // The full scan's rule: another size or another time, to the nanosecond.
            Kind::File => {
                want.size != have.size || want.mtime != have.mtime || want.content != have.content
            }
            Kind::Symlink => want.symlink != have.symlink,
            Kind::Char | Kind::Block => want.rdev != have.rdev,
            _ => false,
        };
        set(content, Self::CONTENT);
        Self(bits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(crate) fn sample() -> Meta {
        Meta {
            kind: Kind::File,
            mode: 0o4755,
            uid: 1000,
            gid: 100,
            size: 1 << 40,
            mtime: Time {
                secs: -5,
                nanos: 999_999_999,
            },
            flags: FLAG_NOCOW,
            leader: Some(b"a/b".to_vec()),
            multi: true,
            allocated: 4096,
            xattrs: vec![
                (b"user.a".to_vec(), vec![0, 1]),
                (b"user.b".to_vec(), vec![]),
            ],
            ..Meta::opaque()
        }
    }

    #[test]
    fn an_entry_survives_the_round_trip() {
        let entry = Entry {
            name: b"\xff\n-".to_vec(),
            meta: sample(),
        };
        let mut out = Vec::new();
        entry.encode(&mut out, false);
        assert_eq!(Entry::decode(&mut Reader::new(&out)), Ok(entry));
    }

    #[test]
    fn whether_an_inode_has_more_names_is_not_part_of_the_digest() {
        let (mut a, mut b) = (Vec::new(), Vec::new());
        sample().encode(&mut a, true);
        Meta {
            multi: false,
            ..sample()
        }
        .encode(&mut b, true);
        assert_eq!(a, b);
    }

    #[test]
    fn owners_that_mean_leave_alone_are_refused() {
        let mut out = Vec::new();
        Meta {
            uid: u32::MAX,
            ..sample()
        }
        .encode(&mut out, false);
        assert!(Meta::decode(&mut Reader::new(&out)).is_err());
    }

    #[test]
    fn every_truncation_is_refused_without_a_panic() {
        let mut out = Vec::new();
        Entry {
            name: b"n".to_vec(),
            meta: sample(),
        }
        .encode(&mut out, false);
        for cut in 0..out.len() {
            assert!(Entry::decode(&mut Reader::new(&out[..cut])).is_err());
        }
    }

    #[test]
    fn a_changed_time_counts_as_changed_content() {
        let want = sample();
        let have = Meta {
            mtime: Time { secs: -5, nanos: 0 },
            ..sample()
        };
        assert!(Aspects::between(&want, &have).any(Aspects::CONTENT));
        assert_eq!(Aspects::between(&want, &want), Aspects(0));
    }
}
