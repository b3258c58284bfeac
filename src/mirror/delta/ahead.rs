//! Has the kernel read the parts of a file some time before they are wanted: parts that lie far apart would
//! otherwise be waited for one by one, and of a snapshot that was taken just now nothing is in memory.

use std::num::NonZeroU64;
use std::ops::Range;
use std::os::fd::BorrowedFd;

use rustix::fs::Advice;

/// So much is being read before its turn.
const BYTES: u64 = 4 << 20;
/// ... of one part; the kernel reads on by itself as the part is read.
const OF_PART: u64 = 1 << 20;

/// Walks before whoever reads the parts.
pub struct Ahead<'a, I> {
    file: BorrowedFd<'a>,
    coming: I,
    /// What was told to be read and its turn has not come, counted from the first part.
    told: u64,
    reached: u64,
}

impl<'a, I: Iterator<Item = Range<u64>>> Ahead<'a, I> {
    /// For the parts `coming` of `file`, in the order in which they are read.
    pub fn new(file: BorrowedFd<'a>, coming: I) -> Self {
        Self {
            file,
            coming,
            told: 0,
            reached: 0,
        }
    }

    /// It is the turn of `part`, the next one.
    pub fn reach(&mut self, part: &Range<u64>) {
        self.tell();
        self.reached += weight(part);
    }

    fn tell(&mut self) {
        while self.told - self.reached < BYTES {
            let Some(part) = self.coming.next() else {
                return;
            };
            if let Some(length) = NonZeroU64::new(weight(&part)) {
                // Only advice: without it the part is read when its turn comes.
                let _ = rustix::fs::fadvise(self.file, part.start, Some(length), Advice::WillNeed);
            }
            self.told += weight(&part);
        }
    }
}

fn weight(part: &Range<u64>) -> u64 {
    part.end.saturating_sub(part.start).min(OF_PART)
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn what_is_read_ahead_is_bounded_and_every_part_has_its_turn() {
        let file = tempfile::tempfile().unwrap();
        let lengths = [0, 1, 4096, 3 << 20].into_iter().cycle();
        let parts: Vec<_> = (0..300_u64)
            .zip(lengths)
            .map(|(n, length)| n << 23..(n << 23) + length)
            .collect();
        let mut ahead = Ahead::new(file.as_fd(), parts.iter().cloned());
        for part in &parts {
            ahead.reach(part);
            assert!(ahead.told >= ahead.reached, "told of before it is read");
            assert!(ahead.told - ahead.reached < BYTES + OF_PART);
        }
        assert_eq!(ahead.told, ahead.reached);
        assert_eq!(ahead.coming.next(), None);
    }
}
