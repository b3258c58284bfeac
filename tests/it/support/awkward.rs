//! A home full of what breaks mirrors: one of everything a btrfs file system can hold.
//!
//! Runs as root on the mounted disk of a lab machine. What disturbs what (children change a
//! directory's time, an immutable file takes no attributes) is put off to the end.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, symlink};
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, CWD, FallocateFlags, FileType, Gid, IFlags, Mode, OFlags, Timespec, Timestamps, Uid,
    XattrFlags,
};

/// The person whose home it is.
pub const OWNER: u32 = 1000;
/// `chattr +m`: rustix has no name for it.
pub const NO_COMPRESSION: IFlags = IFlags::from_bits_retain(0x400);
/// Levels of the directory that is deeper than `PATH_MAX`.
pub const DEEP_LEVELS: usize = 220;

/// Names that break programs which print, quote, match or transcode them.
pub const NAMES: &[&[u8]] = &[
    b"new\nline",
    b"\n",
    b"tab\there",
    b"carriage\rreturn",
    b"\x1b[2J\x1b]0;title\x07escape",
    b"bell\x07back\x08space\x7fdelete",
    b"\xff\xfe invalid utf-8",
    b"latin1 caf\xe9",
    b"overlong \xc0\xaf",
    b"\xed\xa0\x80 surrogate",
    b"-rf",
    b"--help",
    b"-",
    b" ",
    b" leading space",
    b"trailing space ",
    b"two  spaces",
    b"'single'",
    b"\"double\"",
    b"`backtick`",
    b"$(touch pwned)",
    b"${HOME}",
    b"a;b",
    b"a|b",
    b"a&b",
    b"a>b",
    b"*",
    b"?",
    b"[a-z]",
    b"{a,b}",
    b"!not",
    b"#comment",
    b"~",
    b"~dev",
    b"back\\slash",
    b"\\",
    b"\\n not a newline",
    b"%s%n%d",
    b"caf\xc3\xa9 composed",
    b"cafe\xcc\x81 decomposed",
    b"Case",
    b"case",
    b"CASE",
    b"trailing.dot.",
    b"...",
    b"..hidden",
    b".",
    b"\xe2\x80\xae right to left",
    b"\xe2\x80\x8b",
    b"\xf0\x9f\x90\xa7",
    b"CON",
    b"file.txt~",
    b".#lock",
    b"x@y:z",
    b"host:path",
];

fn every_name() -> Vec<Vec<u8>> {
    let mut names: Vec<Vec<u8>> = NAMES
        .iter()
        .filter(|n| **n != b".")
        .map(|n| n.to_vec())
        .collect();
    names.push(vec![b'n'; 255]);
    names.push("\u{fc}".repeat(127).into_bytes());
    // Every byte that a name may hold.
    names.push((1..=255).filter(|b| *b != b'/').take(254).collect());
    names
}

/// Builds all of it below `home`, which must be an existing directory.
pub fn build(home: &Path) -> io::Result<()> {
    let mut builder = Builder {
        home: home.to_owned(),
        times: Vec::new(),
        flags: Vec::new(),
    };
    builder.plain()?;
    builder.kinds()?;
    builder.modes()?;
    builder.owners()?;
    builder.times()?;
    builder.acls()?;
    builder.xattrs()?;
    builder.flags()?;
    builder.hard_links()?;
    builder.sparse()?;
    builder.names()?;
    builder.symlinks()?;
    builder.directories()?;
    builder.deep()?;
    builder.finish()
}

/// An ACL as the kernel stores it: `(tag, permissions, id)`.
pub fn acl(entries: &[(u16, u16, u32)]) -> Vec<u8> {
    let mut raw = 2_u32.to_le_bytes().to_vec();
    for (tag, permissions, id) in entries {
        raw.extend(tag.to_le_bytes());
        raw.extend(permissions.to_le_bytes());
        raw.extend(id.to_le_bytes());
    }
    raw
}

/// `u::rw-,u:1234:rwx,g::r--,g:4321:r--,m::rwx,o::---`
pub fn some_acl(reader: u32) -> Vec<u8> {
    const NONE: u32 = u32::MAX;
    acl(&[
        (0x01, 6, NONE),
        (0x02, 7, reader),
        (0x04, 4, NONE),
        (0x08, 4, 4321),
        (0x10, 7, NONE),
        (0x20, 0, NONE),
    ])
}

/// `cap_net_raw=ep` as `security.capability` holds it (`vfs_cap_data`, revision 2).
pub fn capability() -> Vec<u8> {
    let mut raw = 0x0200_0001_u32.to_le_bytes().to_vec();
    raw.extend((1_u32 << 13).to_le_bytes());
    raw.extend([0; 12]);
    raw
}

/// Sets one extended attribute, never through a symlink.
pub fn set_xattr(path: &Path, name: &str, value: &[u8]) -> io::Result<()> {
    Ok(rustix::fs::lsetxattr(
        path,
        name,
        value,
        XattrFlags::empty(),
    )?)
}

/// Sets the modification time, never through a symlink.
pub fn set_mtime(path: &Path, seconds: i64, nanos: i64) -> io::Result<()> {
    let time = Timespec {
        tv_sec: seconds,
        tv_nsec: nanos,
    };
    let times = Timestamps {
        last_access: time,
        last_modification: time,
    };
    Ok(rustix::fs::utimensat(
        CWD,
        path,
        &times,
        AtFlags::SYMLINK_NOFOLLOW,
    )?)
}

/// Sets the `chattr` flags of a file or directory to exactly these.
pub fn set_flags(path: &Path, flags: IFlags) -> io::Result<()> {
    let file = rustix::fs::open(path, OFlags::RDONLY | OFlags::NOFOLLOW, Mode::empty())?;
    Ok(rustix::fs::ioctl_setflags(file, flags)?)
}

/// Makes a FIFO, socket or device node.
pub fn make_node(path: &Path, kind: FileType, mode: u32, device: u64) -> io::Result<()> {
    rustix::fs::mknodat(CWD, path, kind, Mode::from_raw_mode(mode), device)?;
    chmod(path, mode)
}

/// Changes owner and group, never through a symlink.
pub fn chown(path: &Path, uid: u32, gid: u32) -> io::Result<()> {
    let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
    Ok(rustix::fs::chownat(
        CWD,
        path,
        Some(uid),
        Some(gid),
        AtFlags::SYMLINK_NOFOLLOW,
    )?)
}

/// Changes the mode, setuid and the like included.
pub fn chmod(path: &Path, mode: u32) -> io::Result<()> {
    Ok(rustix::fs::chmod(path, Mode::from_raw_mode(mode))?)
}

struct Builder {
    home: PathBuf,
    times: Vec<(PathBuf, i64, i64)>,
    flags: Vec<(PathBuf, IFlags)>,
}

impl Builder {
    fn directory(&self, name: &str) -> io::Result<PathBuf> {
        let path = self.home.join(name);
        fs::create_dir(&path)?;
        chown(&path, OWNER, OWNER)?;
        Ok(path)
    }

    fn file(path: &Path, content: impl AsRef<[u8]>) -> io::Result<()> {
        fs::write(path, content)?;
        chown(path, OWNER, OWNER)?;
        chmod(path, 0o644)
    }

    fn plain(&self) -> io::Result<()> {
        let plain = self.directory("documents")?;
        Self::file(&plain.join("letter.txt"), "Dear reader,\n")?;
        Self::file(&plain.join("empty"), "")?;
        Self::file(&plain.join("one byte"), "x")?;
        Self::file(&plain.join("2047 bytes"), vec![b'i'; 2047])?;
        Self::file(&plain.join("4096 bytes"), vec![b'p'; 4096])?;
        let mut noise = Random::new(1);
        let big: Vec<u8> = (0..3_000_001).map(|_| noise.byte()).collect();
        Self::file(&plain.join("three megabytes and one"), &big)?;
        // A clone shares its extents with the original.
        let clone = File::create(plain.join("reflinked"))?;
        rustix::fs::ioctl_ficlone(&clone, File::open(plain.join("three megabytes and one"))?)?;
        clone.set_len(3_000_000)?;
        let preallocated = File::create(plain.join("preallocated"))?;
        rustix::fs::fallocate(&preallocated, FallocateFlags::empty(), 0, 1 << 20)?;
        preallocated.write_all_at(b"head", 0)?;
        let beyond = File::create(plain.join("preallocated beyond its end"))?;
        rustix::fs::fallocate(&beyond, FallocateFlags::KEEP_SIZE, 0, 1 << 20)?;
        beyond.write_all_at(b"short", 0)
    }

    fn kinds(&self) -> io::Result<()> {
        let kinds = self.directory("kinds")?;
        make_node(&kinds.join("fifo"), FileType::Fifo, 0o600, 0)?;
        make_node(&kinds.join("socket"), FileType::Socket, 0o755, 0)?;
        for (name, kind, major, minor) in [
            ("null", FileType::CharacterDevice, 1, 3),
            ("whiteout", FileType::CharacterDevice, 0, 0),
            ("large numbers", FileType::CharacterDevice, 4095, 1_048_575),
            ("block", FileType::BlockDevice, 7, 200),
            ("block whiteout", FileType::BlockDevice, 0, 0),
        ] {
            let path = kinds.join(name);
            make_node(&path, kind, 0o640, rustix::fs::makedev(major, minor))?;
            chown(&path, OWNER, 6)?;
        }
        fs::create_dir(kinds.join("empty directory"))
    }

    fn modes(&self) -> io::Result<()> {
        let modes = self.directory("modes")?;
        for mode in [
            0, 0o400, 0o200, 0o111, 0o777, 0o4755, 0o2755, 0o6711, 0o1644, 0o7777, 0o2644, 0o4000,
        ] {
            let path = modes.join(format!("{mode:04o}"));
            Self::file(&path, format!("{mode:o}\n"))?;
            chmod(&path, mode)?;
        }
        Ok(())
    }

    fn owners(&self) -> io::Result<()> {
        let owners = self.directory("owners")?;
        for (uid, gid) in [
            (0, 0),
            (0, OWNER),
            (OWNER, 0),
            (65_534, 65_534),
            (123_456, 654_321),
            (u32::MAX - 1, u32::MAX - 1),
        ] {
            let path = owners.join(format!("{uid}-{gid}"));
            Self::file(&path, "owned\n")?;
            chown(&path, uid, gid)?;
            chmod(&path, 0o4750)?; // chown clears setuid: an order that a mirror must keep to
        }
        let link = owners.join("symlink of nobody");
        symlink("nowhere", &link)?;
        chown(&link, 65_534, 65_534)
    }

    fn times(&mut self) -> io::Result<()> {
        let times = self.directory("times")?;
        for (name, seconds, nanos) in [
            ("epoch", 0, 0),
            ("nanosecond", 1_600_000_000, 123_456_789),
            ("last nanosecond", 1_600_000_000, 999_999_999),
            ("one nanosecond", 1_600_000_000, 1),
            ("before the epoch", -1, 999_999_999),
            ("1901", -2_177_452_800, 500_000_000),
            ("1600", -11_676_096_000, 1),
            ("2038", 2_147_483_648, 7),
            ("2107", 4_323_456_000, 123),
            ("2500", 16_725_225_600, 999_999_999),
        ] {
            let file = times.join(format!("file {name}"));
            Self::file(&file, name)?;
            let link = times.join(format!("symlink {name}"));
            symlink(name, &link)?;
            let directory = times.join(format!("directory {name}"));
            fs::create_dir(&directory)?;
            fs::write(directory.join("child"), name)?;
            for path in [file, link, directory] {
                self.times.push((path, seconds, nanos));
            }
        }
        self.times.push((times, 1_234_567_890, 987_654_321));
        Ok(())
    }

    fn acls(&self) -> io::Result<()> {
        let acls = self.directory("acls")?;
        let file = acls.join("file");
        Self::file(&file, "acl\n")?;
        set_xattr(&file, "system.posix_acl_access", &some_acl(1234))?;
        let both = acls.join("directory with both");
        fs::create_dir(&both)?;
        set_xattr(&both, "system.posix_acl_access", &some_acl(1))?;
        set_xattr(&both, "system.posix_acl_default", &some_acl(2))?;
        // Inside: one that inherited, and one that must arrive without what it would inherit.
        fs::write(both.join("inherited"), "i")?;
        let bare = both.join("without");
        fs::write(&bare, "w")?;
        rustix::fs::lremovexattr(&bare, "system.posix_acl_access")?;
        chmod(&bare, 0o664)?;
        let only_default = acls.join("only default");
        fs::create_dir(&only_default)?;
        set_xattr(&only_default, "system.posix_acl_default", &some_acl(3))?;
        fs::create_dir(only_default.join("sub"))?;
        let fifo = acls.join("fifo");
        make_node(&fifo, FileType::Fifo, 0o640, 0)?;
        set_xattr(&fifo, "system.posix_acl_access", &some_acl(77))
    }

    fn xattrs(&self) -> io::Result<()> {
        let xattrs = self.directory("xattrs")?;
        let file = xattrs.join("many");
        Self::file(&file, "x")?;
        for n in 0..40 {
            set_xattr(&file, &format!("user.number {n}"), &[n; 50])?;
        }
        let big = xattrs.join("big");
        Self::file(&big, "x")?;
        set_xattr(&big, "user.big", &[b'B'; 12_000])?;
        let odd = xattrs.join("odd");
        Self::file(&odd, "x")?;
        set_xattr(&odd, "user.empty", b"")?;
        set_xattr(&odd, "user.binary", &(0..=255).collect::<Vec<u8>>())?;
        set_xattr(&odd, "user.na\nme \x1b[1m", b"newline in the name")?;
        set_xattr(&odd, &format!("user.{}", "l".repeat(250)), b"long name")?;
        set_xattr(&odd, "trusted.secret", b"\0\x01\x02")?;
        set_xattr(&odd, "security.lab", b"label")?;
        let capable = xattrs.join("ping");
        Self::file(&capable, "#!/bin/true\n")?;
        chmod(&capable, 0o755)?;
        set_xattr(&capable, "security.capability", &capability())?;
        let directory = xattrs.join("directory");
        fs::create_dir(&directory)?;
        set_xattr(&directory, "user.on a directory", b"d")?;
        set_xattr(&directory, "trusted.overlay.opaque", b"y")?;
        let link = xattrs.join("symlink");
        symlink("big", &link)?;
        set_xattr(&link, "trusted.on a symlink", b"l")?;
        let fifo = xattrs.join("fifo");
        make_node(&fifo, FileType::Fifo, 0o600, 0)?;
        set_xattr(&fifo, "trusted.on a fifo", b"f")?;
        let read_only = xattrs.join("read-only");
        Self::file(&read_only, "x")?;
        set_xattr(&read_only, "user.on mode 0400", b"r")?;
        chmod(&read_only, 0o400)
    }

    fn flags(&mut self) -> io::Result<()> {
        let flags = self.directory("flags")?;
        for (name, bits) in [
            ("i", IFlags::IMMUTABLE),
            ("a", IFlags::APPEND),
            ("A", IFlags::NOATIME),
            ("S", IFlags::SYNC),
            ("d", IFlags::NODUMP),
            ("m", NO_COMPRESSION),
            ("iaA", IFlags::IMMUTABLE | IFlags::APPEND | IFlags::NOATIME),
            ("Sd", IFlags::SYNC | IFlags::NODUMP),
        ] {
            let path = flags.join(format!("file +{name}"));
            Self::file(&path, name)?;
            self.flags.push((path, bits));
        }
        // These shape how data is written, and must be there before it.
        for (name, bits) in [
            ("C", IFlags::NOCOW),
            ("c", IFlags::COMPRESSED),
            ("Ci", IFlags::NOCOW),
        ] {
            let path = flags.join(format!("file +{name}"));
            Self::file(&path, "")?;
            set_flags(&path, bits)?;
            File::options()
                .write(true)
                .open(&path)?
                .write_all(&vec![b'c'; 200_000])?;
        }
        self.flags.push((
            flags.join("file +Ci"),
            IFlags::NOCOW | IFlags::IMMUTABLE | IFlags::NODUMP,
        ));
        for (name, bits) in [
            ("i", IFlags::IMMUTABLE),
            ("a", IFlags::APPEND),
            ("D", IFlags::DIRSYNC),
            ("C", IFlags::NOCOW),
        ] {
            let path = flags.join(format!("directory +{name}"));
            fs::create_dir(&path)?;
            if name == "C" {
                set_flags(&path, bits)?; // the child inherits it
            }
            fs::write(path.join("child"), "in a flagged directory")?;
            self.times.push((path.clone(), 1_500_000_000, 5));
            self.flags.push((path, bits));
        }
        let hard = flags.join("immutable with two names");
        Self::file(&hard, "one inode")?;
        fs::hard_link(&hard, flags.join("other name"))?;
        self.flags.push((hard, IFlags::IMMUTABLE));
        Ok(())
    }

    fn hard_links(&self) -> io::Result<()> {
        let links = self.directory("links")?;
        for n in ["a", "b", "c"] {
            fs::create_dir(links.join(n))?;
        }
        Self::file(&links.join("a/file"), "three names in three directories")?;
        fs::hard_link(links.join("a/file"), links.join("b/file"))?;
        fs::hard_link(links.join("a/file"), links.join("c/another name"))?;
        Self::file(&links.join("a/empty"), "")?;
        fs::hard_link(links.join("a/empty"), links.join("c/empty"))?;
        symlink("somewhere", links.join("a/symlink"))?;
        make_node(&links.join("a/fifo"), FileType::Fifo, 0o600, 0)?;
        let null = rustix::fs::makedev(1, 3);
        make_node(
            &links.join("a/device"),
            FileType::CharacterDevice,
            0o666,
            null,
        )?;
        for name in ["symlink", "fifo", "device"] {
            // Not through a symlink: linkat without AT_SYMLINK_FOLLOW, as std does it.
            fs::hard_link(links.join("a").join(name), links.join("b").join(name))?;
        }
        Self::file(&links.join("many"), "m")?;
        for n in 0..60 {
            fs::hard_link(links.join("many"), links.join(format!("c/many {n}")))?;
        }
        Ok(())
    }

    fn sparse(&self) -> io::Result<()> {
        let sparse = self.directory("sparse")?;
        for (name, size, writes) in [
            ("all hole", 256 << 20, &[][..]),
            ("leading hole", 1_004_096, &[1_000_000][..]),
            ("trailing hole", 1 << 20, &[0][..]),
            ("middle hole", 1 << 20, &[0, 1_044_480][..]),
            ("holes and data", 10 << 20, &[65_536, 1 << 20, 5 << 20][..]),
            ("one byte at the end", (512 << 20) + 1, &[512 << 20][..]),
            ("hole at the end of a block", 12_000, &[0][..]),
        ] {
            let path = sparse.join(name);
            let file = File::create(&path)?;
            file.set_len(size)?;
            for at in writes {
                let end = (at + 4096).min(size);
                let length = usize::try_from(end - at).expect("at most one block");
                file.write_all_at(&vec![b'd'; length], *at)?;
            }
            chown(&path, OWNER, OWNER)?;
        }
        // Zeroes that are data: they need not stay data, but must stay zeroes.
        Self::file(&sparse.join("zeroes"), vec![0; 100_000])
    }

    fn names(&self) -> io::Result<()> {
        let names = self.directory("names")?;
        let directories = self.directory("directory names")?;
        for name in every_name() {
            let name = std::ffi::OsStr::from_bytes(&name);
            Self::file(&names.join(name), name.as_bytes())?;
            fs::create_dir(directories.join(name))?;
            fs::write(directories.join(name).join("in"), name.as_bytes())?;
        }
        Ok(())
    }

    fn symlinks(&self) -> io::Result<()> {
        let links = self.directory("symlinks")?;
        let longest = "l/".repeat(2047) + "l";
        for (name, text) in [
            ("dangling", "does not exist"),
            ("absolute", "/etc/passwd"),
            ("up and out", "../../../../../../etc/shadow"),
            ("to itself", "to itself"),
            ("to a directory", "../documents"),
            ("root", "/"),
            ("dot", "."),
            ("newline", "a\nb"),
            ("longest", longest.as_str()),
        ] {
            symlink(text, links.join(name))?;
        }
        let bytes = std::ffi::OsStr::from_bytes(b"\xff\x1b[31m");
        symlink(bytes, links.join("invalid utf-8"))
    }

    fn directories(&mut self) -> io::Result<()> {
        let directories = self.directory("directories")?;
        for mode in [0, 0o555, 0o111, 0o700, 0o1777, 0o2775, 0o3777, 0o4755] {
            let path = directories.join(format!("{mode:04o}"));
            fs::create_dir(&path)?;
            fs::write(path.join("child"), "inside")?;
            chown(&path, OWNER, 4321)?;
            chmod(&path, mode)?;
            if mode == 0o2775 {
                fs::create_dir(path.join("inherits the group"))?;
                let other = path.join("other group");
                fs::create_dir(&other)?;
                chown(&other, OWNER, OWNER)?;
                chmod(&other, 0o755)?;
            }
            self.times.push((path, 1_400_000_000, i64::from(mode)));
        }
        let wide = directories.join("wide");
        fs::create_dir(&wide)?;
        for n in 0..1500 {
            fs::write(wide.join(format!("{n}")), n.to_string())?;
        }
        Ok(())
    }

    fn deep(&self) -> io::Result<()> {
        let top = self.directory("deep")?;
        let name = |level: usize| format!("{level:03}{}", "d".repeat(97));
        let mut here: OwnedFd = File::open(&top)?.into();
        for level in 0..DEEP_LEVELS {
            rustix::fs::mkdirat(&here, name(level), Mode::from_raw_mode(0o755))?;
            here = rustix::fs::openat(
                &here,
                name(level),
                OFlags::RDONLY | OFlags::DIRECTORY,
                Mode::empty(),
            )?;
        }
        let mut bottom = File::from(rustix::fs::openat(
            &here,
            "bottom",
            OFlags::WRONLY | OFlags::CREATE,
            Mode::from_raw_mode(0o4711),
        )?);
        bottom.write_all(b"deeper than PATH_MAX\n")?;
        rustix::fs::fsetxattr(&bottom, "user.deep", b"down here", XattrFlags::empty())?;
        rustix::fs::symlinkat("up", &here, "symlink")?;
        let links = File::open(self.home.join("links"))?;
        rustix::fs::linkat(&here, "bottom", &links, "from the deep", AtFlags::empty())?;
        Ok(())
    }

    fn finish(self) -> io::Result<()> {
        for (path, seconds, nanos) in &self.times {
            set_mtime(path, *seconds, *nanos)?;
        }
        // Children before parents: nothing can be set below an immutable directory's entry list.
        for (path, flags) in self.flags.iter().rev() {
            set_flags(path, *flags).map_err(|e| {
                io::Error::new(
                    e.kind(),
                    format!("flags {flags:?} of {}: {e}", path.display()),
                )
            })?;
        }
        rustix::fs::syncfs(File::open(&self.home)?)?;
        Ok(())
    }
}

/// Removes `+i` and `+a` from everything below `root`, so that it can be removed.
pub fn unlock(root: &Path) -> io::Result<()> {
    let Ok(stat) = fs::symlink_metadata(root) else {
        return Ok(());
    };
    if stat.is_file() || stat.is_dir() {
        let file = rustix::fs::open(root, OFlags::RDONLY | OFlags::NOFOLLOW, Mode::empty())?;
        let flags = rustix::fs::ioctl_getflags(&file)?;
        let locks = IFlags::IMMUTABLE | IFlags::APPEND;
        if flags.intersects(locks) {
            rustix::fs::ioctl_setflags(&file, flags - locks)?;
        }
    }
    if stat.is_dir() {
        for entry in fs::read_dir(root)? {
            let path = entry?.path();
            if path.as_os_str().len() < 3000 {
                unlock(&path)?;
            }
        }
    }
    Ok(())
}

/// A small seeded generator (`SplitMix64`): the same tree for the same seed on every machine.
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// Starts at `seed`.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next 64 bits.
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Below `limit`, which must not be 0.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    /// One byte.
    pub fn byte(&mut self) -> u8 {
        self.next().to_le_bytes()[0]
    }

    /// One of these.
    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        let index = self.below(from.len() as u64);
        &from[usize::try_from(index).expect("an index of a slice")]
    }
}
