//! System calls: the only floor with `unsafe`, and the only one that makes child processes.

pub mod btrfs;
pub mod command;
pub mod guardian;
pub mod mounts;
pub mod process;
#[cfg(test)]
pub mod testing;
pub mod trusted;
