//! Exit statuses: the one documented list, shared by the CLI, the man page and the tests.

use std::process::ExitCode;

/// How the program ended, as a script sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum ExitStatus {
    /// Everything asked for was done.
    Done = 0,
    /// A module failed, or something was logged at ERROR.
    Failed = 1,
    /// The command line or the configuration is wrong.
    Usage = 2,
    /// A module's validation found a reason not to start.
    Validation = 3,
    /// A gate was not opened by an answer or a flag.
    Refused = 4,
    /// No connection to the other machine, or it was lost.
    Connection = 5,
    /// Another sync holds a machine's lock.
    Locked = 6,
    /// Too little disk space, before or during the run.
    DiskSpace = 7,
    /// Done, with warnings that a person should look at.
    Warnings = 8,
    /// A signal ended the run.
    Interrupted = 130,
}

impl ExitStatus {
    /// Every status with the sentence that documents it, in numeric order.
    pub const ALL: [(Self, &'static str); 10] = [
        (Self::Done, "done"),
        (Self::Failed, "a module failed, or an error was logged"),
        (
            Self::Usage,
            "the command line or the configuration is wrong",
        ),
        (Self::Validation, "validation failed; nothing was changed"),
        (Self::Refused, "refused by a gate; nothing was changed"),
        (
            Self::Connection,
            "cannot connect, or the connection was lost",
        ),
        (Self::Locked, "another sync holds a lock"),
        (Self::DiskSpace, "not enough disk space"),
        (Self::Warnings, "done, with warnings that need a look"),
        (Self::Interrupted, "interrupted"),
    ];

    /// The number the process ends with.
    #[must_use]
    pub fn code(self) -> u8 {
        self as u8
    }
}

impl From<ExitStatus> for ExitCode {
    fn from(status: ExitStatus) -> Self {
        Self::from(status.code())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_are_listed_once_in_numeric_order() {
        let codes: Vec<u8> = ExitStatus::ALL.iter().map(|(s, _)| s.code()).collect();
        assert_eq!(codes, [0, 1, 2, 3, 4, 5, 6, 7, 8, 130]);
    }
}
