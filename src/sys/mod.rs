//! System calls: the only floor with `unsafe`, and the only one that makes child processes.

pub mod btrfs;
pub mod command;
pub mod mounts;
pub mod process;
pub mod inherit;
pub mod poll;
#[cfg(test)]
pub mod testing;
pub mod trusted;
