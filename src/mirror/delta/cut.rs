//! How content is cut into pieces that both machines cut alike.
//!
//! Cut by content (`FastCDC`), a piece is found again wherever it has moved to; cut by a grid, pieces
//! are what a disk image or a database rewrites in place. Only data is cut, never holes: no piece
//! reaches over one.

use std::ops::Range;
use std::os::fd::BorrowedFd;

use fastcdc::v2020::{MASKS, cut};
use rustix::fs::SeekFrom;
use rustix::io::Errno;

use crate::mirror::codec::{Malformed, Reader};
use crate::mirror::ranges::Ranges;

/// Smallest size of pieces, as a power of two.
const BITS_MIN: u8 = 9;
/// Largest size of pieces, as a power of two, on average.
pub const BITS_MAX: u8 = 22;
/// At least this much is read at once.
const READ: usize = 1 << 20;

/// A way to cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// Where the content says so, pieces of two to this power on average.
    Content(u8),
    /// At multiples of two to this power.
    Grid(u8),
}

impl Cut {
    /// Longest piece.
    #[must_use]
    pub fn longest(self) -> usize {
        match self {
            Self::Content(bits) => 4 << bits,
            Self::Grid(bits) => 1 << bits,
        }
    }

    /// Appends the encoding.
    pub fn encode(self, out: &mut Vec<u8>) {
        let (kind, bits) = match self {
            Self::Content(bits) => (0, bits),
            Self::Grid(bits) => (1, bits),
        };
        out.extend([kind, bits]);
    }

    /// Decodes and checks it.
    pub fn decode(reader: &mut Reader<'_>) -> Result<Self, Malformed> {
        let (kind, bits) = (reader.u8()?, reader.u8()?);
        if !(BITS_MIN..=BITS_MAX).contains(&bits) {
            return Err(Malformed("impossible size of pieces"));
        }
        match kind {
            0 => Ok(Self::Content(bits)),
            1 => Ok(Self::Grid(bits)),
            _ => Err(Malformed("unknown way to cut")),
        }
    }

    /// Length of the first piece of `bytes`, which begin at `offset` in the file.
    fn first(self, offset: u64, bytes: &[u8]) -> usize {
        match self {
            Self::Content(bits) => {
                let average = 1 << bits;
                // One step of normalisation, as `FastCDC` recommends.
                let (small, large) = (MASKS[usize::from(bits) + 1], MASKS[usize::from(bits) - 1]);
                let (small_ls, large_ls) = (small << 1, large << 1);
                let (least, most) = (average / 4, self.longest());
                cut(
                    bytes, least, average, most, small, large, small_ls, large_ls,
                )
                .1
            }
            Self::Grid(bits) => {
                let size = 1 << bits;
                let into = usize::try_from(offset % size as u64).expect("less than a piece");
                (size - into).min(bytes.len())
            }
        }
    }
}

/// The data of an open file within `within`, run by run without the holes.
pub fn for_each_data<E: From<Errno>>(
    file: BorrowedFd<'_>,
    within: &Range<u64>,
    mut visit: impl FnMut(Range<u64>) -> Result<(), E>,
) -> Result<(), E> {
    let mut at = within.start;
    while at < within.end {
        let start = match rustix::fs::seek(file, SeekFrom::Data(at)) {
            Ok(start) if start < within.end => start,
            // Nothing but a hole up to the end.
            Ok(_) | Err(Errno::NXIO) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        let end = rustix::fs::seek(file, SeekFrom::Hole(start))?.min(within.end);
        visit(start..end)?;
        // A file that is cut off under us must not keep us here.
        at = end.max(start + 1);
    }
    Ok(())
}

/// Reads a file piece by piece, in bounded memory.
pub struct Cutter {
    cut: Cut,
    buffer: Vec<u8>,
}

impl Cutter {
    /// Cuts this way.
    #[must_use]
    pub fn new(cut: Cut) -> Self {
        let buffer = vec![0; (2 * cut.longest()).max(READ)];
        Self { cut, buffer }
    }

    /// Visits the pieces of the data in `ranges`, in order: where each begins, and its content.
    pub fn for_each<E: From<Errno>>(
        &mut self,
        file: BorrowedFd<'_>,
        ranges: &Ranges,
        mut visit: impl FnMut(u64, &[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        for range in ranges.iter() {
            for_each_data(file, &range, |run| self.run(file, run, &mut visit))?;
        }
        Ok(())
    }

    fn run<E: From<Errno>>(
        &mut self,
        file: BorrowedFd<'_>,
        run: Range<u64>,
        visit: &mut impl FnMut(u64, &[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        // Of the buffer: what is held and not cut yet.
        let (mut from, mut to) = (0, 0);
        let (mut offset, mut read) = (run.start, run.start);
        loop {
            if to - from < self.cut.longest() && read < run.end {
                self.buffer.copy_within(from..to, 0);
                (from, to) = (0, to - from);
                let room = (self.buffer.len() - to) as u64;
                let want = usize::try_from(room.min(run.end - read)).expect("fits the buffer");
                let into = &mut self.buffer[to..to + want];
                let got = rustix::io::retry_on_intr(|| rustix::io::pread(file, &mut *into, read))?;
                if got == 0 {
                    // Shorter than it was: the caller sees it from what is missing.
                    read = run.end;
                }
                to += got;
                read += got as u64;
                continue;
            }
            if from == to {
                return Ok(());
            }
            let length = self.cut.first(offset, &self.buffer[from..to]).max(1);
            visit(offset, &self.buffer[from..from + length])?;
            from += length;
            offset += length as u64;
        }
    }
}

#[cfg(test)]
#[expect(
    clippy::single_range_in_vec_init,
    reason = "lists of ranges are what is tested"
)]
mod tests {
    use std::fs::File;
    use std::os::fd::AsFd;
    use std::os::unix::fs::FileExt;

    use super::*;
    use crate::mirror::delta::testing::noise;

    fn pieces(file: &File, cut: Cut, ranges: &[Range<u64>]) -> Vec<(u64, Vec<u8>)> {
        let mut all = Vec::new();
        let ranges = ranges.iter().cloned().collect();
        Cutter::new(cut)
            .for_each::<Errno>(file.as_fd(), &ranges, |offset, bytes| {
                all.push((offset, bytes.to_vec()));
                Ok(())
            })
            .unwrap();
        all
    }

    fn file_of(content: &[u8]) -> File {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(content, 0).unwrap();
        file
    }

    #[test]
    fn pieces_are_the_whole_content_whatever_the_cut() {
        let content = noise(3_000_001, 1);
        let file = file_of(&content);
        let whole = 0..content.len() as u64;
        for cut in [
            Cut::Content(9),
            Cut::Content(16),
            Cut::Grid(12),
            Cut::Grid(20),
        ] {
            let all = pieces(&file, cut, std::slice::from_ref(&whole));
            let mut at = 0;
            for (offset, bytes) in &all {
                assert_eq!(*offset, at);
                assert!(!bytes.is_empty() && bytes.len() <= cut.longest());
                at += bytes.len() as u64;
            }
            let joined: Vec<u8> = all.into_iter().flat_map(|(_, bytes)| bytes).collect();
            assert!(joined == content, "{cut:?}");
        }
    }

    #[test]
    fn a_grid_stays_where_it_is_and_content_takes_its_cuts_along() {
        let content = noise(1 << 20, 2);
        let moved = [b"something in front".as_slice(), &content].concat();
        let file = file_of(&content);
        let grid = pieces(&file, Cut::Grid(12), &[100..5000, 8192..8200]);
        let places: Vec<_> = grid.iter().map(|(at, bytes)| (*at, bytes.len())).collect();
        assert_eq!(places, [(100, 3996), (4096, 904), (8192, 8)]);
        let cut = Cut::Content(14);
        let before = pieces(&file, cut, &[0..1 << 20]);
        let after = pieces(&file_of(&moved), cut, &[0..moved.len() as u64]);
        let known = |piece: &&(u64, Vec<u8>)| before.iter().any(|(_, bytes)| *bytes == piece.1);
        let new = after.iter().filter(|piece| !known(piece)).count();
        assert!(before.len() > 40 && new <= 2, "{new} of {}", after.len());
    }

    #[test]
    fn what_is_beyond_the_end_is_no_piece() {
        let file = file_of(&noise(10_000, 3));
        assert_eq!(pieces(&file, Cut::Grid(12), &[20_000..30_000]), []);
        let last = pieces(&file, Cut::Grid(12), &[9000..30_000]);
        assert_eq!(
            last.iter().map(|(_, bytes)| bytes.len()).sum::<usize>(),
            1000
        );
    }
}
