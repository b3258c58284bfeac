//! System calls: the only floor with `unsafe`, and the only one that makes child processes.

pub mod command;
pub mod inherit;
pub mod poll;
#[cfg(test)]
pub mod testing;
