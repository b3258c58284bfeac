//! Why an agent could not do what it was asked, and errors of the lower layers as that.

use std::io;

use serde::{Deserialize, Serialize};

use crate::record::state::StateError;
use crate::snapshot::SnapshotError;
use crate::sys::command::RunError;
use crate::sys::trusted::FileError;

/// Why an agent could not do what it was asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Fault {
    /// What kind of trouble.
    pub kind: FaultKind,
    /// For people: lower case, no full stop, may contain escaped file names.
    pub message: String,
    /// What a person can do about it, if anything is known.
    pub hint: Option<String>,
}

/// Kinds of [`Fault`], as far as the CLI treats them differently.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FaultKind {
    /// A system call or a file failed.
    Io,
    /// The filesystem is full, or a quota is.
    NoSpace,
    /// A state file is damaged.
    Damaged,
    /// Stopped because it was asked to.
    Interrupted,
    /// The request makes no sense now, or violates a limit.
    Invalid,
    /// A program that was run did not answer in time.
    Timeout,
}

impl Fault {
    /// A fault of this kind, without a hint.
    #[must_use]
    pub fn new(kind: FaultKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
            hint: None,
        }
    }

    /// A request that makes no sense now.
    #[must_use]
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(FaultKind::Invalid, message)
    }

    /// The same fault, with what a person can do about it.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The fault for a system call that failed.
    #[must_use]
    pub fn of_io(message: impl Into<String>, error: &io::Error) -> Self {
        Self::new(kind_of(error), message)
    }
}

/// Which kind of trouble a system call's error is.
fn kind_of(error: &io::Error) -> FaultKind {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => FaultKind::NoSpace,
        io::ErrorKind::TimedOut => FaultKind::Timeout,
        _ => FaultKind::Io,
    }
}

impl From<FileError> for Fault {
    fn from(error: FileError) -> Self {
        let kind = match &error {
            FileError::Io { source, .. } => kind_of(source),
            FileError::Untrusted { .. } | FileError::TooLarge { .. } => FaultKind::Invalid,
        };
        Self::new(kind, error.to_string())
    }
}

impl From<SnapshotError> for Fault {
    fn from(error: SnapshotError) -> Self {
        let kind = match (&error, error.io_error()) {
            (_, Some(source)) => kind_of(source),
            (SnapshotError::NotUndone { .. }, None) => FaultKind::Io,
            _ => FaultKind::Invalid,
        };
        Self {
            kind,
            message: error.to_string(),
            hint: error.hint(),
        }
    }
}

impl From<StateError> for Fault {
    fn from(error: StateError) -> Self {
        let hint = error.hint();
        let kind = match error {
            StateError::Damaged { .. } => FaultKind::Damaged,
            StateError::Newer { .. } | StateError::TooLarge { .. } => FaultKind::Invalid,
            StateError::File(file) => return file.into(),
        };
        Self {
            kind,
            message: error.to_string(),
            hint,
        }
    }
}

impl From<RunError> for Fault {
    fn from(error: RunError) -> Self {
        let kind = match &error {
            RunError::NotFound { .. } => FaultKind::Invalid,
            RunError::Spawn { source, .. } | RunError::Watch { source, .. } => kind_of(source),
            RunError::TimedOut { .. } => FaultKind::Timeout,
            RunError::Interrupted { .. } => FaultKind::Interrupted,
        };
        Self::new(kind, error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn a_full_disk_is_told_apart_from_other_trouble() {
        let errno = |e: rustix::io::Errno| FileError::io("write", Path::new("/x"), e);
        for (error, kind) in [
            (errno(rustix::io::Errno::NOSPC), FaultKind::NoSpace),
            (errno(rustix::io::Errno::DQUOT), FaultKind::NoSpace),
            (errno(rustix::io::Errno::IO), FaultKind::Io),
        ] {
            let fault = Fault::from(StateError::from(error));
            assert_eq!(fault.kind, kind, "{fault}");
        }
        let full = SnapshotError::Create {
            name: "x".to_owned(),
            source: rustix::io::Errno::NOSPC.into(),
        };
        assert_eq!(Fault::from(full).kind, FaultKind::NoSpace);
    }
}
