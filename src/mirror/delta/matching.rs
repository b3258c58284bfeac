//! What of a file the target has already, and where: no files here, only lists of pieces.
//!
//! The source's pieces are looked up among the target's own: best at the very same place, where
//! nothing needs to be done; else right behind what was found for the piece before, so that long
//! runs are copied as one; else anywhere. Pieces that are nowhere make gaps; what stands beside a
//! gap says where in the target's version a finer look is worth while.

use std::collections::HashMap;
use std::ops::Range;

use super::list::{Hash, Piece};

/// Where the target has what the source has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// At the same place.
    Here,
    /// At this place.
    At(u64),
    /// Nowhere.
    Nowhere,
}

impl Found {
    /// Where, for something at `offset`.
    fn place(self, offset: u64) -> Option<u64> {
        match self {
            Self::Here => Some(offset),
            Self::At(place) => Some(place),
            Self::Nowhere => None,
        }
    }
}

/// The target's own pieces, to be looked up.
#[derive(Debug, Default)]
pub struct Index {
    pieces: Vec<Piece<Hash>>,
    /// By the first bytes of their hash; of several alike the first.
    by_hash: HashMap<u64, u32>,
}

fn key(hash: &Hash) -> u64 {
    u64::from_le_bytes(*hash.first_chunk().expect("longer than that"))
}

impl Index {
    /// Adds a piece that follows the last one; what is too much is left out.
    pub fn push(&mut self, piece: Piece<Hash>) {
        let Ok(number) = u32::try_from(self.pieces.len()) else {
            return;
        };
        self.by_hash.entry(key(&piece.hash)).or_insert(number);
        self.pieces.push(piece);
    }

    /// Whether the piece that begins at `place` has this content.
    fn has_at(&self, place: u64, want: &Piece<Hash>) -> bool {
        let found = self.pieces.binary_search_by_key(&place, |p| p.offset);
        found.is_ok_and(|number| {
            let piece = &self.pieces[number];
            (piece.length, piece.hash) == (want.length, want.hash)
        })
    }

    /// Where `want` is; `previous` is where what comes before it was found.
    #[must_use]
    pub fn find(&self, want: &Piece<Hash>, previous: Option<u64>) -> Found {
        if self.has_at(want.offset, want) {
            return Found::Here;
        }
        if let Some(place) = previous.filter(|place| self.has_at(*place, want)) {
            return Found::At(place);
        }
        let number = self.by_hash.get(&key(&want.hash));
        let piece = number.map(|number| &self.pieces[*number as usize]);
        match piece {
            Some(piece) if (piece.length, piece.hash) == (want.length, want.hash) => {
                Found::At(piece.offset)
            }
            _ => Found::Nowhere,
        }
    }
}

/// Finds every piece of `wanted`, which are in order.
#[must_use]
pub fn find_all(index: &Index, wanted: &[Piece<Hash>]) -> Vec<Found> {
    let mut previous: Option<(u64, u64)> = None;
    wanted
        .iter()
        .map(|piece| {
            let behind = previous.filter(|(end, _)| *end == piece.offset);
            let found = index.find(piece, behind.map(|(_, place)| place));
            let length = u64::from(piece.length);
            previous = found
                .place(piece.offset)
                .map(|place| (piece.offset + length, place + length));
            found
        })
        .collect()
}

/// A run of data that was not found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gap {
    /// Where, in the source's version.
    pub range: Range<u64>,
    /// What part of the target's version may have some of it.
    pub near: Near,
}

/// Where to look for the content of a gap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Near {
    /// Nowhere: it is new.
    Nothing,
    /// Block by block, so far from where it is in the source's version, one or the other.
    Shifted(i64, i64),
    /// Anywhere in this range of the target's version.
    Within(Range<u64>),
}

/// The gaps between what was found. `basis` is the size of the target's version; what is longer
/// than `most` is cut at its multiples.
#[must_use]
pub fn gaps(wanted: &[Piece<Hash>], found: &[Found], basis: u64, most: u64) -> Vec<Gap> {
    let mut gaps = Vec::new();
    let mut at = 0;
    while at < wanted.len() {
        if found[at] != Found::Nowhere {
            at += 1;
            continue;
        }
        let begin = at;
        let start = wanted[begin].offset;
        let mut end = start;
        while at < wanted.len() && found[at] == Found::Nowhere && wanted[at].offset == end {
            end = wanted[at].range().end;
            at += 1;
        }
        // Where the target's version goes on from what is found before the gap, and ends before what
        // is found behind it.
        let left = begin.checked_sub(1).and_then(|before| {
            let (piece, found) = (&wanted[before], found[before]);
            let touches = piece.range().end == start;
            let place = found.place(piece.offset).filter(|_| touches)?;
            Some(place + u64::from(piece.length))
        });
        let right = wanted
            .get(at)
            .filter(|piece| piece.offset == end)
            .and_then(|piece| found[at].place(piece.offset));
        cut_gap(
            &(start..end),
            near(&(start..end), left, right, basis, most),
            most,
            &mut gaps,
        );
    }
    gaps
}

fn near(gap: &Range<u64>, left: Option<u64>, right: Option<u64>, basis: u64, most: u64) -> Near {
    let length = gap.end - gap.start;
    let before = left.map(|left| left.cast_signed() - gap.start.cast_signed());
    let behind = right.map(|right| right.cast_signed() - gap.end.cast_signed());
    match (left, before, right, behind) {
        // It was put in.
        (Some(left), _, Some(right), _) if left == right => Near::Nothing,
        (Some(left), Some(before), Some(right), Some(behind)) => {
            if before != behind && left < right && right - left <= most && length <= most {
                Near::Within(left..right)
            } else {
                // Changed in place, or where two runs meet that were moved.
                Near::Shifted(before, behind)
            }
        }
        (Some(left), Some(shift), ..) if left < basis => Near::Shifted(shift, shift),
        (.., Some(right), Some(shift)) if right > 0 => Near::Shifted(shift, shift),
        (None, _, None, _) if gap.start < basis => Near::Shifted(0, 0),
        _ => Near::Nothing,
    }
}

fn cut_gap(range: &Range<u64>, near: Near, most: u64, gaps: &mut Vec<Gap>) {
    if !matches!(near, Near::Shifted(..)) {
        let range = range.clone();
        gaps.push(Gap { range, near });
        return;
    }
    let mut start = range.start;
    while start < range.end {
        // At its multiples, so that no block of a grid is cut.
        let end = range.end.min((start / most + 1) * most);
        let near = near.clone();
        gaps.push(Gap {
            range: start..end,
            near,
        });
        start = end;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Pieces of ten bytes each, one behind the other; a letter is a content.
    fn pieces(letters: &str) -> Vec<Piece<Hash>> {
        (0..)
            .zip(letters.bytes())
            .filter(|(_, letter)| *letter != b' ')
            .map(|(n, letter)| Piece {
                offset: n * 10,
                length: 10,
                hash: [letter; 32],
            })
            .collect()
    }

    fn matched(ours: &str, theirs: &str) -> (Vec<Found>, Vec<Gap>) {
        let mut index = Index::default();
        for piece in pieces(ours) {
            index.push(piece);
        }
        let wanted = pieces(theirs);
        let found = find_all(&index, &wanted);
        let gaps = gaps(&wanted, &found, ours.len() as u64 * 10, 1000);
        (found, gaps)
    }

    fn gap(range: Range<u64>, near: Near) -> Gap {
        Gap { range, near }
    }

    #[test]
    fn what_is_in_place_stays_even_if_it_is_elsewhere_too() {
        let (found, gaps) = matched("aabaa", "aabaa");
        assert_eq!(found, [Found::Here; 5]);
        assert_eq!(gaps, []);
    }

    #[test]
    fn what_moved_is_found_in_runs() {
        let (found, gaps) = matched("abxabc", "yyabc");
        // The second `ab`, because it is not known yet where the run ends, is the first one.
        let expected = [
            Found::Nowhere,
            Found::Nowhere,
            Found::At(0),
            Found::At(10),
            Found::At(50),
        ];
        assert_eq!(found, expected);
        assert_eq!(gaps, [gap(0..20, Near::Nothing)]);
        let (found, _) = matched("xabcab", "abcab");
        let places = [10, 20, 30, 40, 50].map(Found::At);
        assert_eq!(found, places);
    }

    #[test]
    fn an_edit_in_place_is_looked_for_in_place() {
        let (_, gaps) = matched("abcdef", "abxyef");
        assert_eq!(gaps, [gap(20..40, Near::Shifted(0, 0))]);
    }

    #[test]
    fn an_insertion_is_looked_for_between_its_neighbours() {
        let (found, gaps) = matched("abcdef", "abxyzdef");
        assert_eq!(found[5], Found::At(30));
        assert_eq!(gaps, [gap(20..50, Near::Within(20..30))]);
        // Behind something that moved, an edit is as far from its place.
        let (_, gaps) = matched("abcdef", "Xabcyef");
        assert_eq!(
            gaps,
            [
                gap(0..10, Near::Nothing),
                gap(40..50, Near::Shifted(-10, -10))
            ]
        );
    }

    #[test]
    fn where_two_moved_runs_meet_either_may_go_on() {
        let (_, gaps) = matched("abcdefgh", "efgXYabc");
        assert_eq!(gaps, [gap(30..50, Near::Shifted(40, -50))]);
    }

    #[test]
    fn new_content_is_looked_for_nowhere() {
        let (_, gaps) = matched("ab", "abcd");
        assert_eq!(gaps, [gap(20..40, Near::Nothing)]);
        let (_, gaps) = matched("ab", "axxb");
        assert_eq!(gaps, [gap(10..30, Near::Nothing)]);
        let (_, gaps) = matched("", "axxb");
        assert_eq!(gaps, [gap(0..40, Near::Nothing)]);
    }

    #[test]
    fn what_is_all_different_is_looked_for_in_place_and_in_portions() {
        let most = 25;
        let mut index = Index::default();
        for piece in pieces("abcdef") {
            index.push(piece);
        }
        let wanted = pieces("uvw  x");
        let found = find_all(&index, &wanted);
        let near = || Near::Shifted(0, 0);
        assert_eq!(
            gaps(&wanted, &found, 60, most),
            [gap(0..25, near()), gap(25..30, near()), gap(50..60, near())]
        );
    }
}
