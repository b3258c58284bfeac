//! Parts of a file's content: what a diff says has changed, and what is asked for.

use std::ops::Range;

use super::codec::{Malformed, Reader, put_u64};

/// Ranges of a file in order, none empty, none touching the next.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ranges(Vec<Range<u64>>);

impl FromIterator<Range<u64>> for Ranges {
    /// Sorts them and joins what overlaps or touches.
    fn from_iter<I: IntoIterator<Item = Range<u64>>>(ranges: I) -> Self {
        let mut all: Vec<_> = ranges.into_iter().filter(|r| r.start < r.end).collect();
        all.sort_unstable_by_key(|range| range.start);
        let mut joined: Vec<Range<u64>> = Vec::with_capacity(all.len());
        for range in all {
            match joined.last_mut() {
                Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
                _ => joined.push(range),
            }
        }
        Self(joined)
    }
}

impl Ranges {
    /// They, in order.
    pub fn iter(&self) -> impl Iterator<Item = Range<u64>> + '_ {
        self.0.iter().cloned()
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many bytes they cover.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.0.iter().map(|range| range.end - range.start).sum()
    }

    /// What is in either.
    #[must_use]
    pub fn union(&self, other: &Self) -> Self {
        self.iter().chain(other.iter()).collect()
    }

    /// Widened to whole blocks, then cut at `size`.
    #[must_use]
    pub fn in_blocks(&self, block: u64, size: u64) -> Self {
        self.0
            .iter()
            .map(|range| {
                let end = range.end.checked_next_multiple_of(block);
                range.start - range.start % block..end.unwrap_or(u64::MAX).min(size)
            })
            .collect()
    }

    /// At most `most` ranges (at least one) that cover the same and as little as possible besides:
    /// the smallest gaps are closed.
    #[must_use]
    pub fn at_most(self, most: usize) -> Self {
        let most = most.max(1);
        if self.0.len() <= most {
            return self;
        }
        let gap = |w: &[Range<u64>]| w[1].start - w[0].end;
        let mut gaps: Vec<u64> = self.0.windows(2).map(gap).collect();
        // As many gaps as there may be ranges less one stay open: the largest.
        let closed = gaps.len() - (most - 1);
        let (_, limit, _) = gaps.select_nth_unstable(closed - 1);
        let limit = *limit;
        let mut joined: Vec<Range<u64>> = Vec::with_capacity(most);
        for range in self.0 {
            match joined.last_mut() {
                Some(last) if range.start - last.end <= limit => last.end = range.end,
                _ => joined.push(range),
            }
        }
        Self(joined)
    }

    /// Appends the encoding: how many, then of each how far it is from the one before, and its length.
    pub fn encode(&self, out: &mut Vec<u8>) {
        put_u64(out, self.0.len() as u64);
        let mut at = 0;
        for range in &self.0 {
            put_u64(out, range.start - at);
            put_u64(out, range.end - range.start);
            at = range.end;
        }
    }

    /// Decodes at most `most` ranges.
    pub fn decode(reader: &mut Reader<'_>, most: usize) -> Result<Self, Malformed> {
        let count = reader.u64()?;
        if count > most as u64 {
            return Err(Malformed("more ranges than allowed"));
        }
        let mut ranges = Vec::new();
        let mut at = 0;
        for index in 0..count {
            let range = read_step(reader, at)?;
            if index > 0 && range.start == at {
                return Err(Malformed("ranges that touch"));
            }
            at = range.end;
            ranges.push(range);
        }
        Ok(Self(ranges))
    }
}

/// Reads a range that is told by its distance from `at` and its length; never empty, never beyond
/// what a file can hold.
pub(super) fn read_step(reader: &mut Reader<'_>, at: u64) -> Result<Range<u64>, Malformed> {
    let (skip, length) = (reader.u64()?, reader.u64()?);
    let start = at.checked_add(skip);
    let end = start.and_then(|start| start.checked_add(length));
    match (start, end) {
        (Some(start), Some(end)) if length > 0 && i64::try_from(end).is_ok() => Ok(start..end),
        _ => Err(Malformed("impossible range")),
    }
}

#[cfg(test)]
#[expect(
    clippy::single_range_in_vec_init,
    reason = "lists of ranges are what is tested"
)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ranges(list: &[Range<u64>]) -> Ranges {
        list.iter().cloned().collect()
    }

    #[test]
    fn what_overlaps_or_touches_is_one_and_nothing_is_no_range() {
        let joined = ranges(&[8..9, 0..4, 4..6, 3..5, 20..20]);
        assert_eq!(joined, Ranges(vec![0..6, 8..9]));
        assert_eq!((joined.len(), joined.total()), (2, 7));
        assert_eq!(joined.union(&ranges(&[5..8])), ranges(&[0..9]));
    }

    #[test]
    fn blocks_are_whole_but_for_the_end_of_the_file() {
        let blocks = ranges(&[1..2, 4095..4097, 9000..9001, 20_000..30_000]).in_blocks(4096, 9500);
        assert_eq!(blocks, ranges(&[0..9500]));
        assert_eq!(
            ranges(&[5000..6000]).in_blocks(4096, u64::MAX),
            ranges(&[4096..8192])
        );
        assert_eq!(
            ranges(&[u64::MAX - 1..u64::MAX]).in_blocks(4096, i64::MAX as u64),
            Ranges::default()
        );
    }

    #[test]
    fn the_smallest_gaps_are_closed_first() {
        let many = ranges(&[0..1, 2..3, 10..11, 13..14, 100..101]);
        assert_eq!(many.clone().at_most(5), many);
        assert_eq!(many.clone().at_most(3), ranges(&[0..3, 10..14, 100..101]));
        assert_eq!(many.clone().at_most(2), ranges(&[0..14, 100..101]));
        assert_eq!(many.at_most(0), ranges(&[0..101]));
    }

    #[test]
    fn impossible_lists_are_refused() {
        let refused = |words: &[u64]| {
            let mut out = Vec::new();
            for word in words {
                put_u64(&mut out, *word);
            }
            Ranges::decode(&mut Reader::new(&out), 3).unwrap_err()
        };
        for words in [
            &[4, 0, 1, 1, 1, 1, 1, 1, 1][..],
            &[u64::MAX, 0, 1],
            &[1, 0, 0],
            &[2, 0, 1, 0, 1],
            &[2, 0, 1],
            &[1, u64::MAX, 1],
            &[1, 1, u64::MAX],
            &[1, 1, i64::MAX as u64],
        ] {
            refused(words);
        }
    }

    proptest! {
        #[test]
        fn ranges_survive_the_round_trip_and_fewer_cover_the_same(
            list in prop::collection::vec((0u64..1 << 20, 1u64..5000), 0..40),
            most in 1usize..20,
        ) {
            let all: Ranges = list.iter().map(|(start, length)| *start..start + length).collect();
            let mut out = Vec::new();
            all.encode(&mut out);
            let mut reader = Reader::new(&out);
            prop_assert_eq!(&Ranges::decode(&mut reader, all.len()).unwrap(), &all);
            prop_assert!(reader.is_empty());
            let fewer = all.clone().at_most(most);
            prop_assert!(fewer.len() <= most);
            prop_assert_eq!(fewer.union(&all), fewer);
        }
    }
}
