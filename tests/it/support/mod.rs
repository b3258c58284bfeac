//! What the integration tests stand on: the lab, its fixtures and the oracles.

pub mod awkward;
pub mod lab;
pub mod oracle;
pub mod random;
pub mod scenario;
pub mod tree;
