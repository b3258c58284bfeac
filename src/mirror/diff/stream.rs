//! The send stream: from the kernel's bytes to commands, nothing more.
//!
//! The format is that of `fs/btrfs/send.h`, versions 1 and 2. Every length is checked against what
//! is allowed before it is believed, every command's checksum before its content is looked at. A
//! command of a later kernel is handed on as unknown, with its path if it has one.

use super::error::DiffError;
use crate::mirror::path::is_valid_path;
use crate::sys::search::crc32c;

/// What a stream begins with, its NUL included.
const MAGIC: &[u8; 13] = b"btrfs-stream\0";
/// Length, command, checksum.
const COMMAND_HEAD: usize = 10;
/// The longest command taken. Version 1 ends at 64 KiB, version 2 knows no limit; without file data
/// the longest is an extended attribute.
const COMMAND_MAX: usize = 256 << 10;
/// `PATH_MAX`: the kernel fails before it writes a longer one.
const PATH_MAX: usize = 4096;
/// How much is asked for at once.
const READ: usize = 256 << 10;
/// The newest version that is understood.
pub const VERSION: u32 = 2;

/// One command of the stream. Paths are relative to the subvolume's root, which is the empty path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command<'a> {
    /// What the stream is about: always first.
    Snapshot {
        /// Uuid of the newer snapshot.
        uuid: [u8; 16],
        /// Uuid of the older one.
        older: [u8; 16],
    },
    /// A new inode.
    Make {
        /// Its name for now.
        path: &'a [u8],
        /// Its number.
        ino: u64,
        /// Whether it is a directory.
        is_dir: bool,
    },
    /// Another name instead of this.
    Rename {
        /// The name it had.
        from: &'a [u8],
        /// The name it gets.
        to: &'a [u8],
    },
    /// One more name.
    Link {
        /// A name it has.
        existing: &'a [u8],
        /// The name it gets.
        path: &'a [u8],
    },
    /// One name less, or an empty directory removed.
    Remove {
        /// The name.
        path: &'a [u8],
        /// Whether it is a directory.
        is_dir: bool,
    },
    /// Something about the inode itself, all of which its item shows.
    Attributes {
        /// Where it is.
        path: &'a [u8],
    },
    /// An extended attribute, which the inode's item does not show.
    Xattr {
        /// Where it is.
        path: &'a [u8],
    },
    /// Data of a file.
    Data {
        /// Where it is.
        path: &'a [u8],
        /// Where in the file.
        offset: u64,
        /// How much.
        length: u64,
    },
    /// Data of a file, shared with another place.
    Clone {
        /// Where it is.
        path: &'a [u8],
        /// Where in the file.
        offset: u64,
        /// How much.
        length: u64,
        /// The file that has it too.
        from: &'a [u8],
        /// Where in that file.
        from_offset: u64,
    },
    /// A file's size.
    Truncate {
        /// Where it is.
        path: &'a [u8],
        /// The size.
        size: u64,
    },
    /// A command of a later kernel about some path.
    Unknown {
        /// Where it is.
        path: &'a [u8],
    },
    /// The end of the stream.
    End,
}

/// `BTRFS_SEND_C_*`.
mod command {
    pub(super) const SNAPSHOT: u16 = 2;
    pub(super) const MKFILE: u16 = 3;
    pub(super) const MKDIR: u16 = 4;
    pub(super) const MKNOD: u16 = 5;
    pub(super) const MKFIFO: u16 = 6;
    pub(super) const MKSOCK: u16 = 7;
    pub(super) const SYMLINK: u16 = 8;
    pub(super) const RENAME: u16 = 9;
    pub(super) const LINK: u16 = 10;
    pub(super) const UNLINK: u16 = 11;
    pub(super) const RMDIR: u16 = 12;
    pub(super) const SET_XATTR: u16 = 13;
    pub(super) const REMOVE_XATTR: u16 = 14;
    pub(super) const WRITE: u16 = 15;
    pub(super) const CLONE: u16 = 16;
    pub(super) const TRUNCATE: u16 = 17;
    pub(super) const CHMOD: u16 = 18;
    pub(super) const CHOWN: u16 = 19;
    pub(super) const UTIMES: u16 = 20;
    pub(super) const END: u16 = 21;
    pub(super) const UPDATE_EXTENT: u16 = 22;
    pub(super) const FALLOCATE: u16 = 23;
    pub(super) const FILEATTR: u16 = 24;
    pub(super) const ENCODED_WRITE: u16 = 25;
}

/// `BTRFS_SEND_A_*`.
mod attribute {
    pub(super) const UUID: u16 = 1;
    pub(super) const INO: u16 = 3;
    pub(super) const SIZE: u16 = 4;
    pub(super) const PATH: u16 = 15;
    pub(super) const PATH_TO: u16 = 16;
    pub(super) const PATH_LINK: u16 = 17;
    pub(super) const FILE_OFFSET: u16 = 18;
    pub(super) const DATA: u16 = 19;
    pub(super) const CLONE_UUID: u16 = 20;
    pub(super) const CLONE_PATH: u16 = 22;
    pub(super) const CLONE_OFFSET: u16 = 23;
    pub(super) const CLONE_LEN: u16 = 24;
    pub(super) const UNENCODED_FILE_LEN: u16 = 27;
}

/// Reads commands from wherever the bytes come from.
pub struct Stream<R> {
    source: R,
    buffer: Vec<u8>,
    /// What of the buffer is read and not yet taken.
    ready: std::ops::Range<usize>,
    version: u32,
    is_ended: bool,
}

/// Where the bytes of a stream come from: fills the buffer as far as it can, 0 at the end.
pub trait Source {
    /// Reads some bytes.
    fn fill(&mut self, buffer: &mut [u8]) -> Result<usize, DiffError>;
}

impl Source for &[u8] {
    fn fill(&mut self, buffer: &mut [u8]) -> Result<usize, DiffError> {
        let length = self.len().min(buffer.len());
        let (taken, rest) = self.split_at(length);
        buffer[..length].copy_from_slice(taken);
        *self = rest;
        Ok(length)
    }
}

impl<R: Source> Stream<R> {
    /// Reads the stream's head. `None` if there is nothing at all.
    pub fn open(source: R) -> Result<Option<Self>, DiffError> {
        let mut stream = Self {
            source,
            buffer: vec![0; READ],
            ready: 0..0,
            version: 0,
            is_ended: false,
        };
        if !stream.has(1)? {
            return Ok(None);
        }
        let head = stream.take(MAGIC.len() + 4)?;
        let head = &stream.buffer[head];
        if head[..MAGIC.len()] != MAGIC[..] {
            return Err(DiffError::Malformed("it does not begin as one"));
        }
        stream.version = u32_at(head, MAGIC.len());
        if !(1..=VERSION).contains(&stream.version) {
            return Err(DiffError::Malformed("of a version that was not asked for"));
        }
        Ok(Some(stream))
    }

    /// The format's version.
    pub fn version(&self) -> u32 {
        self.version
    }

    /// The next command; `None` behind the last.
    pub fn next(&mut self) -> Result<Option<Command<'_>>, DiffError> {
        if self.is_ended {
            if self.has(1)? {
                return Err(DiffError::Malformed("something follows its end"));
            }
            return Ok(None);
        }
        let head = self.take(COMMAND_HEAD)?;
        let mut head: [u8; COMMAND_HEAD] = self.buffer[head]
            .try_into()
            .expect("as long as was asked for");
        let length = u32_at(&head, 0) as usize;
        let number = u16_at(&head, 4);
        let checksum = u32_at(&head, 6);
        if length > COMMAND_MAX {
            return Err(DiffError::Malformed("a command is too long"));
        }
        let body = self.take(length)?;
        // The checksum is made with zeros in its own place.
        head[6..].fill(0);
        let body = &self.buffer[body];
        if crc32c(crc32c(0, &head), body) != checksum {
            return Err(DiffError::Malformed("a checksum is wrong"));
        }
        let command = Fields::read(body, self.version)?.command(number)?;
        self.is_ended = command == Command::End;
        Ok(Some(command))
    }

    /// Whether that much is there; reads on if need be.
    fn has(&mut self, length: usize) -> Result<bool, DiffError> {
        while self.ready.len() < length {
            if self.ready.start > 0 {
                self.buffer.copy_within(self.ready.clone(), 0);
                self.ready = 0..self.ready.len();
            }
            if self.buffer.len() < length {
                self.buffer.resize(length, 0);
            }
            let read = self.source.fill(&mut self.buffer[self.ready.end..])?;
            if read == 0 {
                return Ok(false);
            }
            self.ready.end += read;
        }
        Ok(true)
    }

    /// Takes that much; where it is in the buffer.
    fn take(&mut self, length: usize) -> Result<std::ops::Range<usize>, DiffError> {
        if !self.has(length)? {
            return Err(DiffError::Malformed("it ends in the middle"));
        }
        let start = self.ready.start;
        self.ready.start += length;
        Ok(start..start + length)
    }
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

/// The attributes of a command that are of use.
#[derive(Debug, Default)]
struct Fields<'a> {
    uuid: Option<[u8; 16]>,
    clone_uuid: Option<[u8; 16]>,
    ino: Option<u64>,
    size: Option<u64>,
    path: Option<&'a [u8]>,
    path_to: Option<&'a [u8]>,
    path_link: Option<&'a [u8]>,
    offset: Option<u64>,
    data_length: Option<u64>,
    clone_path: Option<&'a [u8]>,
    clone_offset: Option<u64>,
    clone_length: Option<u64>,
    unencoded_length: Option<u64>,
}

impl<'a> Fields<'a> {
    fn read(body: &'a [u8], version: u32) -> Result<Self, DiffError> {
        const CUT: DiffError = DiffError::Malformed("an attribute is cut off");
        let mut fields = Self::default();
        let mut rest = body;
        while !rest.is_empty() {
            let (kind, after) = rest.split_at_checked(2).ok_or(CUT)?;
            let kind = u16_at(kind, 0);
            let (value, after) = if kind == attribute::DATA && version >= 2 {
                // From version 2 on data has no length: it is last, and reaches to the end.
                (after, &b""[..])
            } else {
                let (length, after) = after.split_at_checked(2).ok_or(CUT)?;
                after
                    .split_at_checked(usize::from(u16_at(length, 0)))
                    .ok_or(CUT)?
            };
            rest = after;
            fields.put(kind, value)?;
        }
        Ok(fields)
    }

    fn put(&mut self, kind: u16, value: &'a [u8]) -> Result<(), DiffError> {
        match kind {
            attribute::UUID => once(&mut self.uuid, uuid(value)?),
            attribute::CLONE_UUID => once(&mut self.clone_uuid, uuid(value)?),
            attribute::INO => once(&mut self.ino, number(value)?),
            attribute::SIZE => once(&mut self.size, number(value)?),
            attribute::PATH => once(&mut self.path, path(value)?),
            attribute::PATH_TO => once(&mut self.path_to, path(value)?),
            // What a hard link is made of, but also a symlink's text, which need not be a path.
            attribute::PATH_LINK => once(&mut self.path_link, value),
            attribute::FILE_OFFSET => once(&mut self.offset, number(value)?),
            attribute::DATA => once(&mut self.data_length, value.len() as u64),
            attribute::CLONE_PATH => once(&mut self.clone_path, path(value)?),
            attribute::CLONE_OFFSET => once(&mut self.clone_offset, number(value)?),
            attribute::CLONE_LEN => once(&mut self.clone_length, number(value)?),
            attribute::UNENCODED_FILE_LEN => once(&mut self.unencoded_length, number(value)?),
            // Modes, owners, times, attributes' names and values: what counts is that they changed.
            _ => Ok(()),
        }
    }

    fn command(self, kind: u16) -> Result<Command<'a>, DiffError> {
        const MISSING: DiffError = DiffError::Malformed("a command lacks an attribute");
        let path = || self.path.ok_or(MISSING);
        // Only attributes and times are ever said of the root.
        let name = || path().ok().filter(|path| !path.is_empty()).ok_or(MISSING);
        let data = |length: Option<u64>| -> Result<_, DiffError> {
            Ok(Command::Data {
                path: name()?,
                offset: self.offset.ok_or(MISSING)?,
                length: length.ok_or(MISSING)?,
            })
        };
        Ok(match kind {
            command::SNAPSHOT => Command::Snapshot {
                uuid: self.uuid.ok_or(MISSING)?,
                older: self.clone_uuid.ok_or(MISSING)?,
            },
            command::MKFILE
            | command::MKDIR
            | command::MKNOD
            | command::MKFIFO
            | command::MKSOCK
            | command::SYMLINK => Command::Make {
                path: name()?,
                ino: self.ino.ok_or(MISSING)?,
                is_dir: kind == command::MKDIR,
            },
            command::RENAME => Command::Rename {
                from: name()?,
                to: self.path_to.filter(|to| !to.is_empty()).ok_or(MISSING)?,
            },
            command::LINK => Command::Link {
                existing: self::path(self.path_link.ok_or(MISSING)?)?,
                path: name()?,
            },
            command::UNLINK | command::RMDIR => Command::Remove {
                path: name()?,
                is_dir: kind == command::RMDIR,
            },
            command::CHMOD | command::CHOWN | command::UTIMES | command::FILEATTR => {
                Command::Attributes { path: path()? }
            }
            command::SET_XATTR | command::REMOVE_XATTR => Command::Xattr { path: path()? },
            command::WRITE => data(self.data_length)?,
            command::ENCODED_WRITE => data(self.unencoded_length)?,
            command::UPDATE_EXTENT | command::FALLOCATE => data(self.size)?,
            command::CLONE => Command::Clone {
                path: name()?,
                offset: self.offset.ok_or(MISSING)?,
                length: self.clone_length.ok_or(MISSING)?,
                from: self.clone_path.ok_or(MISSING)?,
                from_offset: self.clone_offset.ok_or(MISSING)?,
            },
            command::TRUNCATE => Command::Truncate {
                path: name()?,
                size: self.size.ok_or(MISSING)?,
            },
            command::END => Command::End,
            other => match self.path {
                // What else it names we cannot know the meaning of.
                Some(path) if self.path_to.is_none() && self.path_link.is_none() => {
                    Command::Unknown { path }
                }
                _ => return Err(DiffError::UnknownCommand(other)),
            },
        })
    }
}

fn once<T>(field: &mut Option<T>, value: T) -> Result<(), DiffError> {
    match field.replace(value) {
        Some(_) => Err(DiffError::Malformed("an attribute is given twice")),
        None => Ok(()),
    }
}

fn uuid(value: &[u8]) -> Result<[u8; 16], DiffError> {
    value
        .try_into()
        .map_err(|_| DiffError::Malformed("a uuid is not one"))
}

fn number(value: &[u8]) -> Result<u64, DiffError> {
    let bytes = value
        .try_into()
        .map_err(|_| DiffError::Malformed("a number is not one"))?;
    Ok(u64::from_le_bytes(bytes))
}

fn path(value: &[u8]) -> Result<&[u8], DiffError> {
    if value.len() <= PATH_MAX && is_valid_path(value) {
        Ok(value)
    } else {
        Err(DiffError::Malformed("a path is not one"))
    }
}
