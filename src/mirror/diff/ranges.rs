//! Parts of a file.

use super::Range;

/// More parts than this are one: the whole file.
const PARTS_MAX: usize = 1 << 16;

/// Parts of a file, or all of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ranges {
    parts: Vec<Range>,
    all: bool,
}

impl Ranges {
    /// Whether nothing was added.
    pub fn is_empty(&self) -> bool {
        !self.all && self.parts.is_empty()
    }

    /// Adds everything.
    pub fn add_all(&mut self) {
        self.all = true;
        self.parts = Vec::new();
    }

    /// Adds a part; true if that took room.
    pub fn add(&mut self, offset: u64, length: u64) -> bool {
        let end = offset.saturating_add(length);
        if self.all || end == offset {
            return false;
        }
        // The kernel goes through a file from its beginning.
        if let Some(last) = self.parts.last_mut()
            && last.start <= offset
            && offset <= last.end
        {
            last.end = last.end.max(end);
            return false;
        }
        if self.parts.len() == PARTS_MAX {
            self.add_all();
            return false;
        }
        self.parts.push(Range { start: offset, end });
        true
    }

    /// Adds all that is in `other`.
    pub fn add_ranges(&mut self, other: &Self) {
        if other.all {
            self.add_all();
        }
        for part in &other.parts {
            self.add(part.start, part.end - part.start);
        }
    }

    /// The parts before `size`, sorted, none touching another; `None` for all of the file.
    pub fn up_to(&self, size: u64) -> Option<Vec<Range>> {
        if self.all {
            return None;
        }
        let mut sorted = self.parts.clone();
        sorted.sort_unstable();
        let mut merged: Vec<Range> = Vec::with_capacity(sorted.len());
        for part in sorted {
            let part = Range {
                start: part.start,
                end: part.end.min(size),
            };
            if part.start >= part.end {
                continue;
            }
            match merged.last_mut() {
                Some(last) if part.start <= last.end => last.end = last.end.max(part.end),
                _ => merged.push(part),
            }
        }
        Some(merged)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(ranges: &Ranges, size: u64) -> Vec<(u64, u64)> {
        let parts = ranges.up_to(size).unwrap();
        parts.iter().map(|part| (part.start, part.end)).collect()
    }

    #[test]
    fn parts_are_sorted_merged_and_end_with_the_file() {
        let mut ranges = Ranges::default();
        for (offset, length) in [(8, 4), (12, 4), (30, 10), (0, 2), (2, 1), (50, 0), (60, 5)] {
            ranges.add(offset, length);
        }
        ranges.add(35, u64::MAX);
        assert_eq!(parts(&ranges, 38), [(0, 3), (8, 16), (30, 38)]);
        assert_eq!(parts(&ranges, 0), []);
    }

    #[test]
    fn too_many_parts_are_the_whole_file() {
        let mut ranges = Ranges::default();
        for part in 0..=PARTS_MAX as u64 {
            ranges.add(part * 10, 1);
        }
        assert!(!ranges.is_empty());
        assert_eq!(ranges.up_to(u64::MAX), None);
        assert_eq!(ranges.parts.capacity(), 0);
    }
}
