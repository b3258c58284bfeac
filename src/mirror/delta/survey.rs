//! The source's half: says how a file is cut and what its pieces' hashes are, and sends the parts
//! that are wanted.
//!
//! It keeps nothing between two questions: what is asked comes with it, bounded, and is answered in
//! one pass over the file.

use std::ops::Range;
use std::os::fd::BorrowedFd;

use rustix::io::Errno;

use super::BLOCK;
use super::ahead::Ahead;
use super::cut::{Cut, Cutter, for_each_data};
use super::list::{Hash, PART_WEIGHT, PARTS_MAX, Part, PieceWriter, brief};
use crate::interrupt::{AbortFlag, Interrupted};
use crate::mirror::codec::{Malformed, Reader};
use crate::mirror::ranges::Ranges;
use crate::mirror::wire::{ContentHash, DATA_MAX, Message};

/// A file of more pieces is not surveyed; it is sent as a whole.
pub const PIECES_MAX: usize = 1 << 20;
/// Pieces are said in lists of about this many bytes.
const LIST: usize = 64 << 10;

/// What is to be surveyed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Survey {
    /// How it is cut.
    pub cut: Cut,
    /// Whether the beginnings of the hashes are enough.
    pub brief: bool,
    /// Which ranges of the file; `None`: all.
    pub ranges: Option<Ranges>,
}

impl Survey {
    /// What the question weighs.
    #[must_use]
    pub fn weight(&self) -> usize {
        self.ranges.as_ref().map_or(0, Ranges::len) * PART_WEIGHT
    }

    /// Appends the encoding.
    pub fn encode(&self, out: &mut Vec<u8>) {
        self.cut.encode(out);
        out.push(u8::from(self.brief) | u8::from(self.ranges.is_some()) << 1);
        if let Some(ranges) = &self.ranges {
            ranges.encode(out);
        }
    }

    /// Decodes and checks it.
    pub fn decode(reader: &mut Reader<'_>) -> Result<Self, Malformed> {
        let cut = Cut::decode(reader)?;
        let bits = reader.u8()?;
        let ranges = match bits & 2 {
            0 => None,
            _ => Some(Ranges::decode(reader, PARTS_MAX)?),
        };
        Ok(Self {
            cut,
            brief: bits & 1 != 0,
            ranges,
        })
    }
}

/// Says the pieces of the open `file` of `size` bytes.
pub fn survey<E: From<Errno> + From<Interrupted>>(
    file: BorrowedFd<'_>,
    size: u64,
    id: u64,
    survey: &Survey,
    abort: &AbortFlag,
    mut say: impl FnMut(&Message<'_>) -> Result<(), E>,
) -> Result<(), E> {
    let all = || std::iter::once(0..size).collect();
    let ranges: Ranges = match &survey.ranges {
        Some(ranges) => ranges.iter().map(|r| r.start..r.end.min(size)).collect(),
        None => all(),
    };
    let mut writer = PieceWriter::default();
    let mut total = blake3::Hasher::new();
    let mut count = 0;
    Cutter::new(survey.cut).for_each::<E>(file, &ranges, |offset, bytes| {
        abort.check()?;
        count += 1;
        if count > PIECES_MAX {
            return Err(Errno::FBIG.into());
        }
        let hash: Hash = blake3::hash(bytes).into();
        let length = if survey.brief { 16 } else { 32 };
        writer.push(offset, bytes.len(), &hash[..length]);
        if writer.list.len() >= LIST {
            total.update(&writer.list);
            let pieces = &writer.list;
            say(&Message::Pieces { id, pieces })?;
            writer.list.clear();
        }
        Ok(())
    })?;
    total.update(&writer.list);
    let pieces = &writer.list;
    if !pieces.is_empty() {
        say(&Message::Pieces { id, pieces })?;
    }
    let hash = total.finalize().into();
    say(&Message::End { id, size, hash })
}

/// Reads parts of files as both machines do: data without holes, and a hash that tells where what is.
pub struct PartReader {
    buffer: Vec<u8>,
}

impl PartReader {
    /// For these parts and no longer ones.
    #[must_use]
    pub fn of<'p>(parts: impl IntoIterator<Item = &'p Range<u64>>) -> Self {
        let lengths = parts.into_iter().map(|part| part.end - part.start);
        let longest = usize::try_from(lengths.max().unwrap_or(0)).unwrap_or(usize::MAX);
        Self {
            buffer: vec![0; longest.min(DATA_MAX)],
        }
    }

    /// Visits the data of a part; returns its hash.
    pub fn read<E: From<Errno>>(
        &mut self,
        file: BorrowedFd<'_>,
        range: &Range<u64>,
        mut visit: impl FnMut(u64, &[u8]) -> Result<(), E>,
    ) -> Result<Hash, E> {
        let mut hash = ContentHash::new();
        let mut take = |offset: u64, bytes: &[u8]| {
            hash.update(offset, bytes);
            visit(offset, bytes)
        };
        let length = range.end - range.start;
        if length <= BLOCK && range.start / BLOCK == (range.end - 1) / BLOCK {
            // Within one block, which is data as a whole or not at all; and data is seldom zeros.
            let buffer = &mut self.buffer[..usize::try_from(length).expect("a block")];
            let got = read_full(file, buffer, range.start)?;
            let bytes = &self.buffer[..got];
            let is_data = bytes.iter().any(|byte| *byte != 0) || {
                let mut is_data = false;
                for_each_data::<E>(file, range, |_| {
                    is_data = true;
                    Ok(())
                })?;
                is_data
            };
            if is_data && got > 0 {
                take(range.start, bytes)?;
            }
        } else {
            for_each_data::<E>(file, range, |run| {
                let mut at = run.start;
                while at < run.end {
                    let room = self.buffer.len() as u64;
                    let want = usize::try_from(room.min(run.end - at)).expect("fits the buffer");
                    let got = read_full(file, &mut self.buffer[..want], at)?;
                    if got == 0 {
                        break;
                    }
                    take(at, &self.buffer[..got])?;
                    at += got as u64;
                }
                Ok(())
            })?;
        }
        Ok(hash.finish(length))
    }
}

/// Reads until the buffer is full or the file ends.
pub fn read_full(file: BorrowedFd<'_>, buffer: &mut [u8], offset: u64) -> Result<usize, Errno> {
    let mut got = 0;
    while got < buffer.len() {
        let into = &mut buffer[got..];
        match rustix::io::retry_on_intr(|| {
            rustix::io::pread(file, &mut *into, offset + got as u64)
        })? {
            0 => break,
            more => got += more,
        }
    }
    Ok(got)
}

/// Sends the parts of `file` that are not what is known of them. What of a part that was begun is
/// not sent is a hole.
pub fn send_parts<E: From<Errno> + From<Interrupted>>(
    file: BorrowedFd<'_>,
    size: u64,
    id: u64,
    parts: &[Part],
    abort: &AbortFlag,
    mut say: impl FnMut(&Message<'_>) -> Result<(), E>,
) -> Result<(), E> {
    let mut reader = PartReader::of(parts.iter().map(|part| &part.range));
    let mut total = blake3::Hasher::new();
    let mut ahead = Ahead::new(file, parts.iter().map(|part| part.range.clone()));
    for (index, part) in (0..).zip(parts) {
        abort.check()?;
        ahead.reach(&part.range);
        if part.range.end > size {
            return Err(Errno::INVAL.into());
        }
        // A short part is kept while it is compared, a long one is read twice if it differs.
        let mut held = Vec::new();
        let is_short = part.range.end - part.range.start <= DATA_MAX as u64;
        if let Some(known) = &part.known {
            let hash = reader.read::<E>(file, &part.range, |offset, bytes| {
                if is_short {
                    held.push((offset, bytes.to_vec()));
                }
                Ok(abort.check()?)
            })?;
            if brief(&hash) == *known {
                total.update(&hash);
                continue;
            }
            if is_short {
                total.update(&hash);
            }
        }
        say(&Message::Part { id, index })?;
        if part.known.is_some() && is_short {
            for (offset, bytes) in &held {
                let offset = *offset;
                say(&Message::Data { id, offset, bytes })?;
            }
            continue;
        }
        let hash = reader.read(file, &part.range, |offset, bytes| {
            say(&Message::Data { id, offset, bytes })
        })?;
        total.update(&hash);
    }
    let hash = total.finalize().into();
    say(&Message::End { id, size, hash })
}
