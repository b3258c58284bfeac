//! What the integration tests stand on: the lab, its fixtures and the oracles.

pub mod awkward;
pub mod lab;
pub mod oracle;
pub mod processes;
pub mod random;
pub mod scenario;
pub mod stopped;
pub mod tree;

/// The seeds of a random test: a few, or as many as the environment variable `name` asks for, either
/// `7,8,9` or `100` for the first hundred.
pub fn seeds(name: &str, few: &[u64]) -> Vec<u64> {
    let Ok(text) = std::env::var(name) else {
        return few.to_vec();
    };
    let number = |text: &str| -> u64 {
        let number = text.trim().parse();
        number.unwrap_or_else(|e| panic!("{name}={text:?}: {e}"))
    };
    match text.split_once(',') {
        None => (1..=number(&text)).collect(),
        Some(_) => text
            .split(',')
            .filter(|t| !t.is_empty())
            .map(number)
            .collect(),
    }
}
