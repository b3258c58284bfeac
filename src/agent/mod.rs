//! The agent: our own binary as root on either machine, and how it is reached and spoken to.

pub mod client;
#[cfg(test)]
pub mod fake;
pub mod link;
pub mod protocol;
pub mod service;
