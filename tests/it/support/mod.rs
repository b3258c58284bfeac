//! What the integration tests stand on: the lab, its fixtures and the oracles.

pub mod awkward;
pub mod events_doc;
pub mod hub;
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
