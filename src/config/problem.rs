//! One thing that is wrong with the configuration, with its place.

use std::fmt;
use std::path::{Path, PathBuf};

use crate::escape::{escape_bytes, escape_str};

use super::yaml::Position;

/// One thing that is wrong with the configuration. Displays as
/// `FILE:LINE:COLUMN: KEY.PATH: message`, and a second line `  hint: ...` if there is a remedy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigProblem {
    /// The file.
    pub file: PathBuf,
    /// Line, from 1; `None`: the file as a whole.
    pub line: Option<usize>,
    /// Column in characters, from 1.
    pub column: Option<usize>,
    /// Key path (`user_data.folders[0].path`); empty: the file as a whole.
    pub key_path: String,
    /// What is wrong.
    pub message: String,
    /// What would be right.
    pub hint: Option<String>,
}

impl ConfigProblem {
    /// A problem of the whole file.
    #[must_use]
    pub fn of_file(file: &Path, message: String, hint: Option<&str>) -> Self {
        Self {
            file: file.to_owned(),
            line: None,
            column: None,
            key_path: String::new(),
            message,
            hint: hint.map(str::to_owned),
        }
    }

    /// A problem at a place.
    pub(super) fn at(
        file: &Path,
        position: Position,
        key_path: &str,
        message: String,
        hint: Option<String>,
    ) -> Self {
        Self {
            file: file.to_owned(),
            line: Some(position.line),
            column: Some(position.column),
            key_path: key_path.to_owned(),
            message,
            hint,
        }
    }
}

impl fmt::Display for ConfigProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&escape_bytes(self.file.as_os_str().as_encoded_bytes()))?;
        if let (Some(line), Some(column)) = (self.line, self.column) {
            write!(f, ":{line}:{column}")?;
        }
        if !self.key_path.is_empty() {
            write!(f, ": {}", escape_str(&self.key_path))?;
        }
        write!(f, ": {}", escape_str(&self.message))?;
        if let Some(hint) = &self.hint {
            write!(f, "\n  hint: {}", escape_str(hint))?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigProblem {}
