//! The agent: our own binary as root on either machine, and how it is reached and spoken to.

pub mod client;
pub mod deploy;
pub mod link;
pub mod protocol;
pub mod service;
