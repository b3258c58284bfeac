//! What the two agents say to each other while mirroring, and what they tell the CLI.
//!
//! A stream frame's first byte says who it is for; the rest is one or more messages, each a type
//! byte, its length and its body. The CLI relays frames for the other agent without opening them.
//! Requests and replies that are not bulk go as JSON inside `Request::Service`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::codec::{Malformed, Reader, put_bytes, put_i64, put_u64};
use super::delta::list::{Part, put_parts, read_parts};
use super::delta::survey::Survey;
use super::drift::{Became, Drift, Version};
use super::entry::{Meta, Time};
use super::path::{NAME_MAX, PATH_LIMIT, is_valid_name, is_valid_path};
use super::suspects::Suspect;
use super::tree::Trust;
use crate::record::anchor::LeftPath;
use crate::snapshot::SnapshotFacts;

/// Name of the agent service.
pub const SERVICE: &str = "mirror";

/// First byte of a stream frame that the CLI hands to the other agent unopened.
pub const FOR_PEER: u8 = 0;
/// First byte of a stream frame meant for the CLI.
pub const FOR_CLI: u8 = 1;

/// The source may have this many bytes of listings unacknowledged.
pub const SCAN_WINDOW_BYTES: usize = 8 << 20;
/// ... and this many chunks.
pub const SCAN_WINDOW_CHUNKS: usize = 1024;
/// The source may have this many bytes of file content uncredited.
pub const DATA_WINDOW: u64 = 16 << 20;
/// The target may have this many files requested and not received.
pub const FETCH_WINDOW: u64 = 4096;
/// ... and this many bytes of their paths, and one path more.
pub const FETCH_PATHS: usize = 2 << 20;
/// Content of one data message.
pub const DATA_MAX: usize = 256 << 10;
/// Messages are collected to about this many bytes before they are sent.
pub const BATCH: usize = 256 << 10;
/// Longest per-directory filter.
pub const RULES_MAX: usize = 64 << 10;
/// Longest listing of one chunk (its entries' attributes may be large).
pub const LISTING_MAX: usize = 3 << 20;
/// Longest error text.
const TEXT_MAX: usize = 4096;

/// Digest of a chunk's canonical encoding.
pub type Digest = [u8; 16];

/// One message between the agents or to the CLI.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message<'a> {
    /// Before a restricted scan, first the target, then the source: a path that may differ.
    Suspect(Box<Suspect>),
    /// That was all of them.
    SuspectsEnd,
    /// Source: the folder's own attributes.
    Root(Box<Meta>),
    /// Source: a run of a directory's entries, by digest.
    Chunk(Chunk),
    /// Source: the entries of a chunk that was wanted.
    Listing {
        /// The chunk's number.
        seq: u64,
        /// Encoded entries.
        entries: &'a [u8],
    },
    /// Source: that was all.
    ScanEnd,
    /// Source: the hash of a file that was asked for; `None` if it cannot be read.
    Hash {
        /// Number of the question.
        id: u64,
        /// See [`super::content::hash_file`].
        hash: Option<[u8; 32]>,
    },
    /// Target: send the listing of this chunk.
    Want(u64),
    /// Target: say what became of this path since the anchor.
    WantSince {
        /// Number of the question, counting up.
        id: u64,
        /// Path below the folder.
        path: &'a [u8],
    },
    /// Source: what became of a path since the anchor.
    Since {
        /// Number of the question.
        id: u64,
        /// The answer.
        became: Became,
    },
    /// Target: everything up to this chunk is dealt with.
    Ack(u64),
    /// Target: say the hash of this file.
    WantHash {
        /// Number of the question, counting up.
        id: u64,
        /// Path below the folder.
        path: &'a [u8],
    },
    /// Target: send the content of this file.
    Fetch {
        /// Number of the request, counting up.
        id: u64,
        /// Path below the folder.
        path: &'a [u8],
    },
    /// Target: send the content of this file, or [say](Self::Alike) which others share data with it.
    FetchOrNames {
        /// The request's number; it counts with those of fetches.
        id: u64,
        /// Path below the folder.
        path: &'a [u8],
    },
    /// Target: say how this file is cut, and what hashes its pieces have.
    Survey {
        /// The request's number; it counts with those of fetches.
        id: u64,
        /// Path below the folder.
        path: &'a [u8],
        /// How, and which ranges.
        survey: Survey,
    },
    /// Target: send these parts of this file.
    Parts {
        /// The request's number; it counts with those of fetches.
        id: u64,
        /// Path below the folder.
        path: &'a [u8],
        /// Which.
        parts: Vec<Part>,
    },
    /// Target: this many bytes more may come.
    Credit(u64),
    /// Target: no more requests will come.
    Finished,
    /// Source: a run of content.
    Data {
        /// The request's number.
        id: u64,
        /// Where in the file.
        offset: u64,
        /// The bytes.
        bytes: &'a [u8],
    },
    /// Source: content of a requested file, compressed.
    Packed {
        /// The request's number.
        id: u64,
        /// Where in the file.
        offset: u64,
        /// How many bytes it is.
        length: usize,
        /// See [`super::packing`].
        bytes: &'a [u8],
    },
    /// Source, instead of content: this other file shares data with the one asked for.
    Alike {
        /// The request's number.
        id: u64,
        /// The folder it is in: 0 the one whose files are asked for, the others as [`OtherFolder`] counts them.
        folder: u64,
        /// Path below that folder.
        path: &'a [u8],
    },
    /// Source: pieces of a surveyed file.
    Pieces {
        /// The request's number.
        id: u64,
        /// See [`super::delta::list::PieceWriter`].
        pieces: &'a [u8],
    },
    /// Source: what follows is content of this part.
    Part {
        /// The request's number.
        id: u64,
        /// The part's number, counted from 0.
        index: u64,
    },
    /// Source: the file, or what was asked of it, is complete.
    End {
        /// The request's number.
        id: u64,
        /// The file's size.
        size: u64,
        /// Of a whole file its [`ContentHash`], else a hash of all that was said of it.
        hash: [u8; 32],
    },
    /// Source: the file could not be read.
    Failed {
        /// The request's number.
        id: u64,
        /// Why.
        error: String,
    },
    /// To the CLI: one planned change.
    Change {
        /// [`crate::change::Action`] as a byte.
        action: u8,
        /// See [`super::entry::Aspects`].
        aspects: u16,
        /// Bytes that will be written.
        bytes: u64,
        /// Path below the folder.
        path: &'a [u8],
        /// Of something renamed: its path before.
        from: Option<&'a [u8]>,
    },
    /// To the CLI: how far it is.
    Progress {
        /// Entries scanned, or changes made.
        items: u64,
        /// Bytes written.
        bytes: u64,
        /// What is being worked on.
        path: &'a [u8],
    },
}

/// A run of a directory's entries in name order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chunk {
    /// Counts up over the whole scan.
    pub seq: u64,
    /// For a directory's first chunk: its path and its own filter rules, if it has any.
    pub begins: Option<(Vec<u8>, Option<Vec<u8>>)>,
    /// The last name this chunk speaks for; `None`: everything that is left.
    pub upper: Option<Vec<u8>>,
    /// Whether every entry could be read: only then may the target delete.
    pub complete: bool,
    /// Whether an entry is suspect: then equal digests prove nothing.
    pub suspect: bool,
    /// Digest of the entries.
    pub digest: Digest,
}

impl Message<'_> {
    /// What of it counts against [`DATA_WINDOW`]: what is said of files, not the words around it.
    #[must_use]
    pub fn credit(&self) -> u64 {
        match self {
            Self::Data { bytes, .. } | Self::Packed { bytes, .. } => bytes.len() as u64,
            Self::Pieces { pieces, .. } => pieces.len() as u64,
            _ => 0,
        }
    }

    pub(super) fn tag(&self) -> u8 {
        match self {
            Self::Suspect(_) => 8,
            Self::SuspectsEnd => 9,
            Self::Root(_) => 10,
            Self::Chunk(_) => 11,
            Self::Listing { .. } => 12,
            Self::ScanEnd => 13,
            Self::Hash { .. } => 14,
            Self::Since { .. } => 15,
            Self::Want(_) => 20,
            Self::Ack(_) => 21,
            Self::WantHash { .. } => 22,
            Self::WantSince { .. } => 23,
            Self::Fetch { .. } => 30,
            Self::Credit(_) => 31,
            Self::Finished => 32,
            Self::Survey { .. } => 33,
            Self::Parts { .. } => 34,
            Self::FetchOrNames { .. } => 35,
            Self::Data { .. } => 40,
            Self::End { .. } => 41,
            Self::Failed { .. } => 42,
            Self::Pieces { .. } => 43,
            Self::Part { .. } => 44,
            Self::Packed { .. } => 45,
            Self::Alike { .. } => 46,
            Self::Change { .. } => 50,
            Self::Progress { .. } => 51,
        }
    }

    /// What the message ends with, in the length that is left for it: content, which is not copied more often than it
    /// must be.
    pub(super) fn content(&self) -> &[u8] {
        match self {
            Self::Data { bytes, .. } | Self::Packed { bytes, .. } => bytes,
            _ => &[],
        }
    }

    /// Everything before the content.
    pub(super) fn encode_body(&self, out: &mut Vec<u8>) {
        match self {
            Self::Suspect(suspect) => suspect.encode(out),
            Self::Root(meta) => meta.encode(out, false),
            Self::Chunk(chunk) => chunk.encode(out),
            Self::Listing { seq, entries } => {
                put_u64(out, *seq);
                out.extend_from_slice(entries);
            }
            Self::SuspectsEnd | Self::ScanEnd | Self::Finished => {}
            Self::Want(n) | Self::Ack(n) | Self::Credit(n) => put_u64(out, *n),
            Self::Hash { id, hash } => {
                put_u64(out, *id);
                put_bytes(out, hash.as_ref().map_or(&[], |hash| &hash[..]));
            }
            Self::Fetch { id, path }
            | Self::FetchOrNames { id, path }
            | Self::WantHash { id, path }
            | Self::WantSince { id, path } => {
                put_u64(out, *id);
                put_bytes(out, path);
            }
            Self::Alike { id, folder, path } => {
                put_u64(out, *id);
                put_u64(out, *folder);
                put_bytes(out, path);
            }
            Self::Survey { id, path, survey } => {
                put_u64(out, *id);
                put_bytes(out, path);
                survey.encode(out);
            }
            Self::Parts { id, path, parts } => {
                put_u64(out, *id);
                put_bytes(out, path);
                put_parts(out, parts);
            }
            Self::Since { id, became } => {
                put_u64(out, *id);
                out.push(u8::from(became.changed));
                Version::encode(became.now.as_ref(), out);
            }
            Self::Data { id, offset, .. } => {
                put_u64(out, *id);
                put_u64(out, *offset);
            }
            Self::Packed {
                id, offset, length, ..
            } => {
                put_u64(out, *id);
                put_u64(out, *offset);
                put_u64(out, *length as u64);
            }
            Self::Pieces { id, pieces } => {
                put_u64(out, *id);
                out.extend_from_slice(pieces);
            }
            Self::Part { id, index } => {
                put_u64(out, *id);
                put_u64(out, *index);
            }
            Self::End { id, size, hash } => {
                put_u64(out, *id);
                put_u64(out, *size);
                out.extend_from_slice(hash);
            }
            Self::Failed { id, error } => {
                put_u64(out, *id);
                let cut = error.floor_char_boundary(TEXT_MAX);
                put_bytes(out, &error.as_bytes()[..cut]);
            }
            Self::Change {
                action,
                aspects,
                bytes,
                path,
                from,
            } => {
                out.push(*action);
                put_u64(out, u64::from(*aspects));
                put_u64(out, *bytes);
                put_bytes(out, path);
                out.push(u8::from(from.is_some()));
                if let Some(from) = from {
                    put_bytes(out, from);
                }
            }
            Self::Progress { items, bytes, path } => {
                put_u64(out, *items);
                put_u64(out, *bytes);
                put_bytes(out, path);
            }
        }
    }
}

/// A path off the wire, checked.
fn path<'a>(reader: &mut Reader<'a>) -> Result<&'a [u8], Malformed> {
    let path = reader.bytes(PATH_LIMIT)?;
    if is_valid_path(path) {
        Ok(path)
    } else {
        Err(Malformed("impossible path"))
    }
}

impl Chunk {
    fn encode(&self, out: &mut Vec<u8>) {
        put_u64(out, self.seq);
        let bits = u8::from(self.begins.is_some())
            | u8::from(self.upper.is_some()) << 1
            | u8::from(self.complete) << 2
            | u8::from(self.suspect) << 4
            | u8::from(
                self.begins
                    .as_ref()
                    .is_some_and(|(_, rules)| rules.is_some()),
            ) << 3;
        out.push(bits);
        if let Some((path, rules)) = &self.begins {
            put_bytes(out, path);
            if let Some(rules) = rules {
                put_bytes(out, rules);
            }
        }
        if let Some(upper) = &self.upper {
            put_bytes(out, upper);
        }
        out.extend_from_slice(&self.digest);
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, Malformed> {
        let seq = reader.u64()?;
        let bits = reader.u8()?;
        let mut begins = None;
        if bits & 1 != 0 {
            let path = path(reader)?.to_vec();
            let rules = if bits & 8 != 0 {
                Some(reader.bytes(RULES_MAX)?.to_vec())
            } else {
                None
            };
            begins = Some((path, rules));
        }
        let mut upper = None;
        if bits & 2 != 0 {
            let name = reader.bytes(NAME_MAX)?;
            if !is_valid_name(name) {
                return Err(Malformed("impossible file name"));
            }
            upper = Some(name.to_vec());
        }
        let digest = reader
            .take(16)?
            .try_into()
            .expect("sixteen bytes were taken");
        Ok(Self {
            seq,
            begins,
            upper,
            complete: bits & 4 != 0,
            suspect: bits & 16 != 0,
            digest,
        })
    }
}

/// Decodes the messages of a frame (without its first byte).
#[derive(Debug)]
pub struct Messages<'a>(Reader<'a>);

impl<'a> Messages<'a> {
    /// Of the frame's payload after its first byte.
    #[must_use]
    pub fn new(payload: &'a [u8]) -> Self {
        Self(Reader::new(payload))
    }

    /// How many bytes of it have not been decoded.
    #[must_use]
    pub fn left(&self) -> usize {
        self.0.len()
    }

    fn decode(&mut self) -> Result<Message<'a>, Malformed> {
        let tag = self.0.u8()?;
        let mut body = Reader::new(self.0.bytes(crate::agent::protocol::MAX_FRAME)?);
        let message = match tag {
            8 => Message::Suspect(Box::new(Suspect::decode(&mut body)?)),
            9 => Message::SuspectsEnd,
            10 => Message::Root(Box::new(Meta::decode(&mut body)?)),
            11 => Message::Chunk(Chunk::decode(&mut body)?),
            12 => Message::Listing {
                seq: body.u64()?,
                entries: rest(&mut body)?,
            },
            13 => Message::ScanEnd,
            14 => {
                let (id, hash) = (body.u64()?, body.bytes(32)?);
                let hash = match hash {
                    [] => None,
                    hash => Some(hash.try_into().map_err(|_| Malformed("impossible hash"))?),
                };
                Message::Hash { id, hash }
            }
            15 => Message::Since {
                id: body.u64()?,
                became: Became {
                    changed: body.u8()? != 0,
                    now: Version::decode(&mut body)?,
                },
            },
            20 => Message::Want(body.u64()?),
            21 => Message::Ack(body.u64()?),
            22 => Message::WantHash {
                id: body.u64()?,
                path: path(&mut body)?,
            },
            23 => Message::WantSince {
                id: body.u64()?,
                path: path(&mut body)?,
            },
            30 => Message::Fetch {
                id: body.u64()?,
                path: path(&mut body)?,
            },
            31 => Message::Credit(body.u64()?),
            32 => Message::Finished,
            33 => Message::Survey {
                id: body.u64()?,
                path: path(&mut body)?,
                survey: Survey::decode(&mut body)?,
            },
            34 => Message::Parts {
                id: body.u64()?,
                path: path(&mut body)?,
                parts: read_parts(rest(&mut body)?)?,
            },
            35 => Message::FetchOrNames {
                id: body.u64()?,
                path: path(&mut body)?,
            },
            40 => {
                let (id, offset) = (body.u64()?, body.u64()?);
                let bytes = rest(&mut body)?;
                check_run(offset, bytes.len() as u64)?;
                Message::Data { id, offset, bytes }
            }
            41 => Message::End {
                id: body.u64()?,
                size: body.u64()?,
                hash: body
                    .take(32)?
                    .try_into()
                    .expect("thirty-two bytes were taken"),
            },
            42 => Message::Failed {
                id: body.u64()?,
                error: String::from_utf8_lossy(body.bytes(TEXT_MAX)?).into_owned(),
            },
            43 => Message::Pieces {
                id: body.u64()?,
                pieces: rest(&mut body)?,
            },
            44 => Message::Part {
                id: body.u64()?,
                index: body.u64()?,
            },
            45 => {
                let (id, offset, length) = (body.u64()?, body.u64()?, body.u64()?);
                check_run(offset, length)?;
                let length = usize::try_from(length).expect("checked to be small");
                let bytes = rest(&mut body)?;
                if bytes.len() >= length {
                    return Err(Malformed("packed content that is no smaller"));
                }
                Message::Packed {
                    id,
                    offset,
                    length,
                    bytes,
                }
            }
            46 => Message::Alike {
                id: body.u64()?,
                folder: body.u64()?,
                path: path(&mut body)?,
            },
            50 => Message::Change {
                action: body.u8()?,
                aspects: u16::try_from(body.u64()?).map_err(|_| Malformed("impossible aspects"))?,
                bytes: body.u64()?,
                path: path(&mut body)?,
                from: match body.u8()? {
                    0 => None,
                    _ => Some(path(&mut body)?),
                },
            },
            51 => Message::Progress {
                items: body.u64()?,
                bytes: body.u64()?,
                path: path(&mut body)?,
            },
            _ => return Err(Malformed("unknown message")),
        };
        if body.is_empty() {
            Ok(message)
        } else {
            Err(Malformed("trailing bytes"))
        }
    }
}

/// Whether a file can have so much content there, and a message so much of it.
fn check_run(offset: u64, length: u64) -> Result<(), Malformed> {
    let end = offset.checked_add(length);
    if length > DATA_MAX as u64 || end.is_none_or(|end| end > i64::MAX as u64) {
        return Err(Malformed("impossible run of content"));
    }
    Ok(())
}

fn rest<'a>(reader: &mut Reader<'a>) -> Result<&'a [u8], Malformed> {
    reader.take(reader.len())
}

impl<'a> Iterator for Messages<'a> {
    type Item = Result<Message<'a>, Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let message = self.decode();
        if message.is_err() {
            self.0 = Reader::new(&[]);
        }
        Some(message)
    }
}

/// End-to-end hash of a file: where each run of data begins, the data, and the size; holes cost nothing.
#[derive(Debug, Default)]
pub struct ContentHash {
    hasher: blake3::Hasher,
    next: Option<u64>,
}

impl ContentHash {
    /// Of nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes in a run of data.
    pub fn update(&mut self, offset: u64, bytes: &[u8]) {
        if self.next != Some(offset) {
            self.hasher.update(&offset.to_le_bytes());
        }
        self.hasher.update(bytes);
        self.next = Some(offset + bytes.len() as u64);
    }

    /// The hash of a file of `size` bytes.
    #[must_use]
    pub fn finish(mut self, size: u64) -> [u8; 32] {
        self.hasher.update(&size.to_le_bytes());
        *self.hasher.finalize().as_bytes()
    }
}

/// What the CLI asks of the mirror service.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MirrorRequest {
    /// Either: whether this folder can be mirrored at all.
    Check {
        /// The folder.
        root: String,
    },
    /// Either: compare snapshots, and keep for the next scan what may differ.
    Diff(Box<DiffRequest>),
    /// Source: walk a tree and answer the target's questions about it.
    ScanSource(ScanTree),
    /// Target: compare with what the source says, and keep the plan.
    ScanTarget(ScanTree),
    /// Target: send the plan of a folder to the CLI as [`Message::Change`].
    ListPlan {
        /// The folder.
        root: String,
    },
    /// Source: send the files the target asks for.
    Serve {
        /// The tree to read.
        root: String,
        /// What else was scanned, and may be named as like it.
        others: Vec<OtherFolder>,
    },
    /// Target: carry the plan of a folder out.
    Apply {
        /// The folder.
        root: String,
        /// What else was planned, and what is there may be like what comes.
        others: Vec<OtherFolder>,
    },
}

/// Another folder of the same run. Both machines are told of the same ones in the same order, in which they are
/// counted from 1.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OtherFolder {
    /// The root of its scan.
    pub root: String,
    /// What it was, in a snapshot: on the source in this machine's half of the anchor, on the target before anything
    /// was changed.
    pub before: Option<String>,
    /// Whether its plan has been carried out.
    pub is_done: bool,
}

impl MirrorRequest {
    /// What the machine does meanwhile, as a phrase that follows a colon.
    #[must_use]
    pub fn doing(&self) -> String {
        match self {
            Self::Check { root } => format!("looking at {root}"),
            Self::Diff(_) => "asking the filesystem what has changed".to_owned(),
            Self::ScanSource(scan) => format!("reading {}", scan.root),
            Self::ScanTarget(scan) => format!("comparing {}", scan.root),
            Self::ListPlan { root } => format!("listing the plan for {root}"),
            Self::Serve { root, .. } => format!("sending files of {root}"),
            Self::Apply { root, .. } => format!("changing {root}"),
        }
    }
}

/// Which tree to scan and how.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ScanTree {
    /// Absolute path of the directory to read: on the source the folder inside a snapshot,
    /// on the target the folder itself.
    pub root: String,
    /// Read a live tree as its own filesystem shows it, without what is mounted in it.
    pub without_mounts: bool,
    /// The folder's filter rules.
    pub rules: String,
    /// Where they come from, for error messages.
    pub origin: String,
    /// Compare content, not only size and time.
    pub content: bool,
    /// Until when files are believed for their size and time. `None`: no file is, all that both
    /// machines have are compared by content.
    pub trust: Option<Trust>,
    /// This machine's half of the anchor, to tell what was changed since.
    pub anchor: Option<String>,
    /// Look at nothing but what may differ, where that is known; without `trust`, no other file
    /// is compared by content then.
    pub restricted: Option<Restricted>,
}

/// Which snapshots to compare.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct DiffRequest {
    /// The one that is known, in the state it was left in.
    pub older: SnapshotFacts,
    /// Path of the other one; without it, only whether `older` still is what it was is looked at.
    pub newer: Option<String>,
    /// The folders it is for.
    pub folders: Vec<DiffFolder>,
    /// Whether the mirror itself has written in between: what it makes is not suspect for that.
    pub own_writes: bool,
}

/// A folder in a subvolume.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct DiffFolder {
    /// Its path below the subvolume's root.
    pub below: String,
    /// The root of the scan that what is found is for.
    pub root: String,
    /// Whether the filter files of directories there say what is in scope.
    pub rules: bool,
    /// The root of a plan whose paths are suspect as well.
    pub plan: Option<String>,
}

/// Where what may differ is known from.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Restricted {
    /// What this machine has found out for the folder with [`MirrorRequest::Diff`], besides `left`.
    pub found: bool,
    /// Paths that were not known to be equal at the anchor.
    pub left: Vec<LeftPath>,
    /// On the target: the folder in the snapshot that was compared, because what is known of parts
    /// of files holds for what they were then.
    pub compared: Option<String>,
    /// On the target: what the plan of the scan before is about, and nothing that was found out.
    #[serde(default)]
    pub planned: bool,
    /// On the source: of what the target names, what was elsewhere in the anchor is offered to be moved.
    #[serde(default)]
    pub origins: bool,
}

/// What a mirror request came to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MirrorReply {
    /// Entries seen (scan) or changes made (apply).
    #[serde(deserialize_with = "crate::figures::count")]
    pub items: u64,
    /// Names read and entries looked at: what a scan costs.
    #[serde(default, deserialize_with = "crate::figures::count")]
    pub looked: u64,
    /// Bytes read (serve) or written (apply).
    #[serde(deserialize_with = "crate::figures::count")]
    pub bytes: u64,
    /// Bytes of planned content that the target had already (apply).
    #[serde(default, deserialize_with = "crate::figures::count")]
    pub kept: u64,
    /// Apply: moves it took to put new things into place.
    #[serde(default, deserialize_with = "crate::figures::count")]
    pub moves: u64,
    /// When the plan that was carried out was begun, by that machine's clock.
    #[serde(default)]
    pub begun: Option<Time>,
    /// When applying ended, by that machine's clock.
    #[serde(default)]
    pub ended: Option<Time>,
    /// Totals of the plan (scan of the target).
    pub plan: Option<PlanTotals>,
    /// Comparing snapshots, or a restricted scan: why it has to be a full scan.
    #[serde(default)]
    pub full_scan: Option<String>,
    /// Comparing snapshots: whether the older one is what it was.
    #[serde(default)]
    pub intact: bool,
    /// A restricted scan: more paths that turned out to be suspect; they are kept for the next one,
    /// which has to follow.
    #[serde(default, deserialize_with = "crate::figures::count")]
    pub more_suspects: u64,
    /// Which filter rules matched something, by their index.
    pub matched_rules: Vec<bool>,
    /// What a person should know, by kind; the first of each kind were logged.
    pub notes: BTreeMap<String, u64>,
    /// How many of them were warnings.
    #[serde(deserialize_with = "crate::figures::count")]
    pub warned: u64,
    /// Entries that could not be dealt with; each was logged at ERROR.
    #[serde(deserialize_with = "crate::figures::count")]
    pub errors: u64,
    /// Scan of the target: what the plan would undo, if there is an anchor to tell.
    #[serde(default)]
    pub drift: Option<Drift>,
    /// Scan of the target: paths that stay different whatever the plan does.
    #[serde(default)]
    pub left: Vec<LeftPath>,
    /// ... and more of them than can be told.
    #[serde(default)]
    pub left_more: bool,
    /// Scan: whether a directory has a filter file that is not mirrored itself.
    #[serde(default)]
    pub own_rules: bool,
}

/// Totals of a folder's plan.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanTotals {
    /// Entries created.
    #[serde(deserialize_with = "crate::figures::count")]
    pub created: u64,
    /// Entries with new content.
    #[serde(deserialize_with = "crate::figures::count")]
    pub changed: u64,
    /// Entries that have another name, with all that is in them.
    #[serde(deserialize_with = "crate::figures::count")]
    pub renamed: u64,
    /// Entries with new attributes only.
    #[serde(deserialize_with = "crate::figures::count")]
    pub attributes: u64,
    /// Entries deleted.
    #[serde(deserialize_with = "crate::figures::count")]
    pub deleted: u64,
    /// Entries that exist on the target in scope.
    #[serde(deserialize_with = "crate::figures::count")]
    pub existing: u64,
    /// Bytes on disk the new content will need.
    #[serde(deserialize_with = "crate::figures::count")]
    pub bytes: u64,
    /// Bytes of files that stay what they are though they are touched: one of their names comes, goes
    /// or is another one.
    #[serde(default, deserialize_with = "crate::figures::count")]
    pub touched: u64,
}

impl PlanTotals {
    /// How many operations.
    #[must_use]
    pub fn changes(&self) -> u64 {
        self.created + self.changed + self.renamed + self.attributes + self.deleted
    }
}

/// Appends a time.
pub fn put_time(out: &mut Vec<u8>, time: Time) {
    put_i64(out, time.secs);
    put_u64(out, u64::from(time.nanos));
}

/// Reads a time.
pub fn read_time(reader: &mut Reader<'_>) -> Result<Time, Malformed> {
    Ok(Time {
        secs: reader.i64()?,
        nanos: reader.u32()?,
    })
}

#[cfg(test)]
mod tests {
    use crossbeam_channel::unbounded;

    use super::super::entry::Kind;
    use super::super::frames::Batch;
    use super::super::suspects::Mark;
    use super::*;
    use crate::interrupt::AbortFlag;
    use crate::mirror::delta::cut::Cut;

    #[test]
    fn messages_survive_the_round_trip() {
        let messages = [
            Message::Suspect(Box::new(Suspect::new(b"a/b".to_vec(), Mark::CONTENT))),
            Message::SuspectsEnd,
            Message::Root(Box::new(Meta::opaque())),
            Message::Chunk(Chunk {
                seq: 7,
                begins: Some((b"a/b".to_vec(), Some(b"- x".to_vec()))),
                upper: Some(b"zz".to_vec()),
                complete: true,
                suspect: true,
                digest: [3; 16],
            }),
            Message::Chunk(Chunk {
                seq: 8,
                begins: None,
                upper: None,
                complete: false,
                suspect: false,
                digest: [0; 16],
            }),
            Message::Listing {
                seq: 9,
                entries: b"abc",
            },
            Message::ScanEnd,
            Message::Hash {
                id: 1,
                hash: Some([7; 32]),
            },
            Message::Hash { id: 2, hash: None },
            Message::WantHash { id: 1, path: b"x" },
            Message::WantSince {
                id: 2,
                path: b"x/y",
            },
            Message::Since {
                id: 2,
                became: Became {
                    changed: true,
                    now: Some(Version {
                        kind: Kind::File,
                        size: 7,
                        mtime: Time { secs: -1, nanos: 5 },
                    }),
                },
            },
            Message::Want(1),
            Message::Ack(u64::MAX),
            Message::Fetch {
                id: 3,
                path: b"p/q",
            },
            Message::FetchOrNames {
                id: 3,
                path: b"p/q",
            },
            Message::Alike {
                id: 3,
                folder: 1,
                path: b"q",
            },
            Message::Survey {
                id: 4,
                path: b"p",
                survey: Survey {
                    cut: Cut::Grid(12),
                    brief: true,
                    ranges: Some([1..2, 5..9].into_iter().collect()),
                },
            },
            Message::Survey {
                id: 5,
                path: b"p",
                survey: Survey {
                    cut: Cut::Content(16),
                    brief: false,
                    ranges: None,
                },
            },
            Message::Parts {
                id: 6,
                path: b"p",
                parts: vec![
                    Part {
                        range: 0..4096,
                        known: Some([4; 16]),
                    },
                    Part {
                        range: 1 << 40..1 << 41,
                        known: None,
                    },
                ],
            },
            Message::Credit(5),
            Message::Finished,
            Message::Pieces {
                id: 4,
                pieces: b"abc",
            },
            Message::Part { id: 6, index: 1 },
            Message::Packed {
                id: 3,
                offset: 1 << 40,
                length: 7,
                bytes: b"abc",
            },
            Message::Data {
                id: 3,
                offset: 1 << 40,
                bytes: b"xyz",
            },
            Message::End {
                id: 3,
                size: 9,
                hash: [9; 32],
            },
            Message::Failed {
                id: 4,
                error: "gone".into(),
            },
            Message::Change {
                action: b'+',
                aspects: 3,
                bytes: 10,
                path: b"n",
                from: None,
            },
            Message::Change {
                action: b'>',
                aspects: 3,
                bytes: 0,
                path: b"n",
                from: Some(b"m"),
            },
            Message::Progress {
                items: 1,
                bytes: 2,
                path: b"",
            },
        ];
        let (tx, rx) = unbounded();
        let abort = AbortFlag::new();
        let mut batch = Batch::new(FOR_PEER, &tx, &abort);
        for message in &messages {
            batch.push(message).unwrap();
        }
        batch.flush().unwrap();
        let frame = rx.try_recv().unwrap();
        assert_eq!(frame[0], FOR_PEER);
        let decoded: Result<Vec<_>, _> = Messages::new(&frame[1..]).collect();
        assert_eq!(decoded.unwrap(), messages);
        for cut in 1..frame.len() {
            // Whatever is cut off, decoding ends without a panic.
            let _ = Messages::new(&frame[1..cut]).count();
        }
    }

    #[test]
    fn a_path_that_leaves_the_folder_is_refused() {
        for path in [&b"../x"[..], b"/etc/shadow", b"a/../../b", b"a//b"] {
            let (tx, rx) = unbounded();
            let abort = AbortFlag::new();
            let mut batch = Batch::new(FOR_PEER, &tx, &abort);
            batch.push(&Message::Fetch { id: 1, path }).unwrap();
            batch.flush().unwrap();
            let frame = rx.try_recv().unwrap();
            assert!(Messages::new(&frame[1..]).next().unwrap().is_err());
        }
    }

    #[test]
    fn a_hole_changes_the_hash_but_the_way_data_is_cut_does_not() {
        let hash = |runs: &[(u64, &[u8])]| {
            let mut hash = ContentHash::new();
            for (offset, bytes) in runs {
                hash.update(*offset, bytes);
            }
            hash.finish(8)
        };
        assert_eq!(hash(&[(0, b"abcd")]), hash(&[(0, b"ab"), (2, b"cd")]));
        assert_ne!(hash(&[(0, b"ab"), (4, b"cd")]), hash(&[(0, b"abcd")]));
    }
}
