//! The agent: our own binary as root on either machine, and how it is reached and spoken to.

pub mod client;
pub mod deploy;
pub mod facts;
#[cfg(test)]
pub mod fake;
pub mod fault;
pub mod handlers;
pub mod health;
pub mod inflow;
pub mod lanes;
pub mod link;
pub mod outgoing;
pub mod person;
pub mod places;
pub mod programs;
pub mod protocol;
pub mod server;
pub mod service;
