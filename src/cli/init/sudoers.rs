//! `init --sudoers`: the one line that lets the person sync without a password. On stdout there is that line
//! and nothing else, so that it can go through a pipe; what to do with it is said on a terminal only.

use std::io::{self, IsTerminal as _};
use std::path::Path;

use crate::cli::ended_by;
use crate::cli::table::print;
use crate::exit::ExitStatus;
use crate::host::sudoers::{self, FILE};
use crate::run::error::RunError;
use crate::sys::trusted::FileError;

/// Why there is no line.
#[derive(Debug, thiserror::Error)]
enum NoLine {
    #[error("root needs no line in sudoers")]
    Root,
    #[error("cannot tell where this program is: {0}")]
    Nowhere(io::Error),
    #[error("no line can safely name this program: {0}")]
    Replaceable(#[from] FileError),
}

impl NoLine {
    fn hint(&self) -> &'static str {
        match self {
            Self::Root => "run it as the person who syncs",
            Self::Nowhere(_) | Self::Replaceable(_) => {
                "install it where only root can replace it (the package, or `make install`), and run that one"
            }
        }
    }
}

/// Prints the line for who types this and the program they type.
#[must_use]
pub fn run() -> ExitStatus {
    let program = std::env::current_exe().map_err(NoLine::Nowhere);
    match program.and_then(|program| line(sudoers::person(), &program)) {
        Ok(line) => {
            if io::stdout().is_terminal() {
                eprintln!(
                    "Whoever has this line can read and change every file through pc-switcher. To put it into\n\
                     {FILE}, here and on the machines you sync to:\n\n    \
                     pc-switcher init --sudoers | sudo EDITOR=tee visudo -f {FILE}\n"
                );
            }
            print(&format!("{line}\n"))
        }
        Err(error) => {
            let hint = error.hint().to_owned();
            let message = error.to_string();
            ended_by(&RunError::Usage { message, hint })
        }
    }
}

fn line(person: Option<String>, program: &Path) -> Result<String, NoLine> {
    let person = person.ok_or(NoLine::Root)?;
    Ok(sudoers::line_for(&person, program)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_a_line_for_a_person_and_a_program_that_is_roots() {
        let kim = || Some("kim".to_owned());
        // Any file that is root's alone.
        let program = Path::new("/etc/passwd");
        let line_of = |person, program| line(person, program).map_err(|e| e.to_string());
        assert_eq!(
            line_of(kim(), program),
            Ok("kim ALL=(root) NOPASSWD: /etc/passwd agent".to_owned())
        );
        assert!(line_of(None, program).unwrap_err().contains("root needs"));
        let gone = line_of(kim(), Path::new("/usr/bin/pc-switcher (deleted)"));
        assert!(gone.unwrap_err().contains("no line can safely"));
    }
}
