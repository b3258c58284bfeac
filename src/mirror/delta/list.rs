//! Lists that the machines exchange about a file: pieces with their hashes, parts that are wanted.

use std::ops::Range;

use crate::mirror::codec::{Malformed, Reader, put_u64};
use crate::mirror::ranges::read_step;

/// A piece's or part's hash in full.
pub type Hash = [u8; 32];
/// Its beginning, where a whole hash is compared later.
pub type Brief = [u8; 16];

/// At most this many parts are wanted at once.
pub const PARTS_MAX: usize = 1 << 16;

/// What a part or a range of a question weighs, for the bound on questions.
pub const PART_WEIGHT: usize = 24;

/// The beginning of a hash.
#[must_use]
pub fn brief(hash: &Hash) -> Brief {
    *hash.first_chunk().expect("longer than its beginning")
}

/// A piece of a file's data as its owner says it is; `H` is [`type@Hash`] or [`Brief`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece<H> {
    /// Where it begins.
    pub offset: u64,
    /// Its length, never 0.
    pub length: u32,
    /// Hash of its content.
    pub hash: H,
}

impl<H> Piece<H> {
    /// Where it is.
    #[must_use]
    pub fn range(&self) -> Range<u64> {
        self.offset..self.offset + u64::from(self.length)
    }
}

/// Pieces on their way to the other machine.
#[derive(Debug, Default)]
pub struct PieceWriter {
    /// What was not taken yet.
    pub list: Vec<u8>,
    at: u64,
}

impl PieceWriter {
    /// Appends a piece; `hash` is as long as the list's hashes are.
    pub fn push(&mut self, offset: u64, length: usize, hash: &[u8]) {
        put_u64(&mut self.list, offset - self.at);
        put_u64(&mut self.list, length as u64);
        self.list.extend_from_slice(hash);
        self.at = offset + length as u64;
    }
}

/// Pieces as they arrive, checked: in order, not beyond `size`, none longer than `longest`.
#[derive(Debug)]
pub struct PieceReader {
    at: u64,
    size: u64,
    longest: usize,
}

impl PieceReader {
    /// Nothing yet of a file of `size` bytes.
    #[must_use]
    pub fn new(size: u64, longest: usize) -> Self {
        Self {
            at: 0,
            size,
            longest,
        }
    }

    /// The next piece of a list.
    pub fn next<const N: usize>(
        &mut self,
        list: &mut Reader<'_>,
    ) -> Result<Piece<[u8; N]>, Malformed> {
        let range = read_step(list, self.at)?;
        let length = range.end - range.start;
        if range.end > self.size || length > self.longest as u64 {
            return Err(Malformed("an impossible piece"));
        }
        self.at = range.end;
        let hash = list.take(N)?.try_into().expect("as many were taken");
        let length = u32::try_from(length).map_err(|_| Malformed("an impossible piece"))?;
        Ok(Piece {
            offset: range.start,
            length,
            hash,
        })
    }
}

/// A part of a file that is wanted unless it still is what is known of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// Where in the file.
    pub range: Range<u64>,
    /// Hash of what whoever asks has there.
    pub known: Option<Brief>,
}

/// Appends the encoding of parts, which are in order and apart.
pub fn put_parts<'a>(out: &mut Vec<u8>, parts: impl IntoIterator<Item = &'a Part>) {
    let mut at = 0;
    for part in parts {
        let length = part.range.end - part.range.start;
        put_u64(out, part.range.start - at);
        put_u64(out, length);
        out.push(u8::from(part.known.is_some()));
        out.extend_from_slice(part.known.as_ref().map_or(&[], |hash| &hash[..]));
        at = part.range.end;
    }
}

/// Decodes and checks parts.
pub fn read_parts(list: &[u8]) -> Result<Vec<Part>, Malformed> {
    let mut reader = Reader::new(list);
    let mut parts = Vec::new();
    let mut at = 0;
    while !reader.is_empty() {
        if parts.len() == PARTS_MAX {
            return Err(Malformed("wants more parts than allowed"));
        }
        let range = read_step(&mut reader, at)?;
        at = range.end;
        let known = match reader.u8()? {
            0 => None,
            1 => Some(reader.take(16)?.try_into().expect("as many were taken")),
            _ => return Err(Malformed("an impossible part")),
        };
        parts.push(Part { range, known });
    }
    Ok(parts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_and_parts_survive_the_round_trip() {
        let mut writer = PieceWriter::default();
        writer.push(5, 10, &[1; 32]);
        writer.push(15, 1, &[2; 32]);
        writer.push(1 << 40, 4096, &[3; 32]);
        let mut reader = PieceReader::new(1 << 41, 4096);
        let mut list = Reader::new(&writer.list);
        for (offset, length, byte) in [(5, 10, 1), (15, 1, 2), (1 << 40, 4096, 3)] {
            let hash: Hash = [byte; 32];
            let piece = Piece {
                offset,
                length,
                hash,
            };
            assert_eq!(reader.next(&mut list), Ok(piece));
        }
        assert!(list.is_empty());
        let parts = [
            (0..1, None),
            (1..9, Some([7; 16])),
            (1 << 40..1 << 41, None),
        ];
        let parts = parts.map(|(range, known)| Part { range, known });
        let mut out = Vec::new();
        put_parts(&mut out, &parts);
        assert_eq!(read_parts(&out), Ok(parts.to_vec()));
    }

    #[test]
    fn pieces_that_cannot_be_are_refused() {
        let refused = |offset, length| {
            let mut writer = PieceWriter::default();
            writer.push(offset, length, &[0; 32]);
            let mut list = Reader::new(&writer.list);
            PieceReader::new(1000, 100)
                .next::<32>(&mut list)
                .unwrap_err()
        };
        // Empty, too long, beyond the end, beyond every file.
        refused(0, 0);
        refused(0, 101);
        refused(950, 51);
        refused(i64::MAX as u64, 100);
        // Its hash is cut off.
        let mut reader = PieceReader::new(1000, 100);
        assert!(reader.next::<32>(&mut Reader::new(&[0, 1, 2, 3])).is_err());
    }

    #[test]
    fn parts_that_cannot_be_are_refused() {
        let mut endless = Vec::new();
        for _ in 0..=PARTS_MAX {
            endless.extend([1, 1, 0]);
        }
        let huge = [&[0xff; 9][..], &[1, 1, 0]].concat();
        for list in [&endless[..], &[0, 0, 0], &[0, 1, 2], &[0, 1, 1, 5], &huge] {
            read_parts(list).unwrap_err();
        }
    }
}
