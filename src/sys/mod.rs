//! System calls: the only floor with `unsafe`, and the only one that makes child processes.

pub mod btrfs;
pub mod command;
pub mod extents;
pub mod guardian;
pub mod inherit;
pub mod inodes;
pub mod kernel;
pub mod mounts;
pub mod poll;
pub mod process;
pub mod search;
pub mod send;
#[cfg(test)]
pub mod testing;
pub mod trusted;
pub mod writeback;
