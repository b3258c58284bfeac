//! The parts of a file that a stream is about, collected as it comes.

use crate::mirror::ranges::Ranges;

/// More parts than this are the whole file.
const PARTS_MAX: usize = 1 << 16;

/// Parts of a file, or all of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Parts {
    parts: Vec<std::ops::Range<u64>>,
    all: bool,
}

impl Parts {
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
        self.parts.push(offset..end);
        true
    }

    /// Adds all that is in `other`.
    pub fn add_parts(&mut self, other: &Self) {
        if other.all {
            self.add_all();
        }
        for part in &other.parts {
            self.add(part.start, part.end - part.start);
        }
    }

    /// What of it is before `size`; `None` for all of the file.
    pub fn up_to(&self, size: u64) -> Option<Ranges> {
        let parts = self.parts.iter();
        (!self.all).then(|| parts.map(|part| part.start..part.end.min(size)).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_end_with_the_file() {
        let mut parts = Parts::default();
        for (offset, length) in [(8, 4), (12, 4), (30, 10), (0, 2), (2, 1), (50, 0), (60, 5)] {
            parts.add(offset, length);
        }
        parts.add(35, u64::MAX);
        let expected = [0..3, 8..16, 30..38].into_iter().collect();
        assert_eq!(parts.up_to(38), Some(expected));
        assert_eq!(parts.up_to(0), Some(Ranges::default()));
    }

    #[test]
    fn too_many_parts_are_the_whole_file() {
        let mut parts = Parts::default();
        for part in 0..=PARTS_MAX as u64 {
            parts.add(part * 10, 1);
        }
        assert!(!parts.is_empty());
        assert_eq!(parts.up_to(u64::MAX), None);
        assert_eq!(parts.parts.capacity(), 0);
    }
}
