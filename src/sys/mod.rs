//! System calls: the only floor with `unsafe`, and the only one that makes child processes.

pub mod command;
#[cfg(test)]
pub mod testing;
