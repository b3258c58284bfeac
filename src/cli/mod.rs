//! The command line: one file per command, arguments in, report out.

pub mod args;
pub mod init;
