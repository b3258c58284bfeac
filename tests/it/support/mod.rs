//! What the integration tests stand on: the lab, its fixtures and the oracles.

pub mod awkward;
pub mod events_doc;
pub mod hub;
pub mod json_doc;
pub mod lab;
pub mod oracle;
pub mod processes;
pub mod programs;
pub mod random;
pub mod repo;
pub mod scenario;
pub mod stopped;
pub mod terminal;
pub mod told;
pub mod tree;

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

/// How many or which seeds the random tests use, instead of a few: `100` for the first hundred, or `7,8,9`.
const SEEDS: &str = "PC_SWITCHER_TEST_SEEDS";

/// The seeds of a random test; `make soak` asks for many.
pub fn seeds(few: &[u64]) -> Vec<u64> {
    let text = match std::env::var(SEEDS) {
        Ok(text) if !text.is_empty() => text,
        _ => return few.to_vec(),
    };
    let number = |part: &str| -> u64 {
        let number = part.trim().parse();
        number.unwrap_or_else(|e| panic!("{SEEDS}={text:?}: {e}"))
    };
    if text.contains(',') {
        text.split(',')
            .filter(|t| !t.is_empty())
            .map(number)
            .collect()
    } else {
        (1..=number(&text)).collect()
    }
}

/// Writes a file of `bytes` random bytes: content that no packing makes smaller, so that it takes a slow line
/// the time it should.
#[track_caller]
pub fn noise(path: &Path, bytes: u64) {
    let random = File::open("/dev/urandom").expect("the kernel has it");
    let mut file = File::create(path).expect("writable");
    io::copy(&mut random.take(bytes), &mut file).expect("writable");
}
