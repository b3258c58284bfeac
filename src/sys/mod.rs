//! System calls: the only floor with `unsafe`, and the only one that makes child processes.

<<<<<<< HEAD
pub mod btrfs;
pub mod command;
pub mod mounts;
pub mod process;
#[cfg(test)]
pub mod testing;
pub mod trusted;
=======
pub mod command;
pub mod inherit;
pub mod poll;
#[cfg(test)]
pub mod testing;
>>>>>>> h-ssh
