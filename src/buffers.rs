//! Buffers of a frame of content, kept for the next one.
//!
//! Content goes through the program a quarter of a megabyte at a time, each piece in a buffer that one thread fills
//! and another lets go of. To an allocator these are large: it gives them back to the kernel, which clears their pages
//! anew for the next one. The few that are under way at any moment are kept here instead, and the one that was used
//! last is used first, while the processor still has it at hand.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// What a kept buffer holds: the largest piece of content and what a frame says of it.
pub const SIZE: usize = 272 << 10;

/// Who needs less than this gets a buffer of its own length: little that waits must not hold much memory.
const LEAST: usize = 192 << 10;

/// So many are kept.
const KEPT: usize = 16;

static BUFFERS: Mutex<Vec<Vec<u8>>> = Mutex::new(Vec::new());

fn lock() -> MutexGuard<'static, Vec<Vec<u8>>> {
    BUFFERS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// An empty buffer with room for `capacity` bytes.
#[must_use]
pub fn take(capacity: usize) -> Vec<u8> {
    if (LEAST..=SIZE).contains(&capacity) {
        let kept = lock().pop();
        kept.unwrap_or_else(|| Vec::with_capacity(SIZE))
    } else {
        Vec::with_capacity(capacity)
    }
}

/// Lets go of a buffer, wherever it came from.
pub fn give(mut buffer: Vec<u8>) {
    if buffer.capacity() < SIZE || buffer.capacity() > 2 * SIZE {
        return;
    }
    buffer.clear();
    let mut buffers = lock();
    if buffers.len() < KEPT {
        buffers.push(buffer);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_taken_is_empty_and_large_enough_whatever_was_given() {
        for capacity in [0, 1, LEAST - 1, LEAST, SIZE, SIZE + 1, 3 * SIZE] {
            let mut given = Vec::with_capacity(capacity);
            given.resize(capacity, 7);
            give(given);
            for wanted in [0, LEAST, SIZE, SIZE + 1] {
                let taken = take(wanted);
                assert!(taken.is_empty(), "{capacity} given, {wanted} wanted");
                assert!(taken.capacity() >= wanted);
            }
        }
    }

    #[test]
    fn only_a_few_are_kept_and_none_that_is_larger() {
        for _ in 0..3 * KEPT {
            give(Vec::with_capacity(SIZE));
            give(Vec::with_capacity(4 * SIZE));
        }
        let buffers = lock();
        assert!(buffers.len() <= KEPT);
        assert!(buffers.iter().all(|buffer| buffer.capacity() <= 2 * SIZE));
    }
}
