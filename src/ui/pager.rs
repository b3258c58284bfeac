//! Long text through the person's pager: only on a terminal, and never a reason to fail.
//!
//! `$PAGER` is a command line for the shell, as everybody reads it; empty or `cat` means none. `less`
//! is told to end at once when all fits on one screen, and to let colours through, unless `$LESS`
//! says what it shall do.

use std::io::{self, BufWriter, IsTerminal as _, Write};
use std::process::Stdio;

use crate::signals;
use crate::sys::command::command;

/// What is used where `$PAGER` says nothing.
const USUAL: &str = "less";

/// Whether stdout is a terminal.
#[must_use]
pub fn stdout_is_terminal() -> bool {
    io::stdout().is_terminal()
}

/// Which pager, for stdout as it is.
fn pager(is_terminal: bool, variable: Option<&str>, can_move: bool) -> Option<&str> {
    let wanted = variable.map_or(USUAL, str::trim);
    (is_terminal && can_move && !wanted.is_empty() && wanted != "cat").then_some(wanted)
}

/// Whether there is such a program: small systems have no `less`, and nobody has asked for it.
fn is_installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|directory| directory.join(program).is_file())
}

/// Lets `print` write to the pager, or to stdout where there is none. A reader that has gone is no error.
pub fn page(print: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> io::Result<()> {
    let variable = std::env::var("PAGER").ok();
    let term = std::env::var("TERM").ok();
    let can_move = term.is_some_and(|term| !term.is_empty() && term != "dumb");
    let pager = pager(stdout_is_terminal(), variable.as_deref(), can_move)
        .filter(|usual| variable.is_some() || is_installed(usual));
    gone_is_fine(match pager {
        Some(pager) => through(pager, print),
        None => straight(print),
    })
}

fn straight(print: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> io::Result<()> {
    let mut out = BufWriter::new(io::stdout().lock());
    let written = print(&mut out).and_then(|()| out.flush());
    // Not dropped: that would write to the closed pipe once more.
    let _ = out.into_parts();
    written
}

fn through(pager: &str, print: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> io::Result<()> {
    let mut shell = command("/bin/sh");
    shell.args(["-c", pager]).stdin(Stdio::piped());
    if std::env::var_os("LESS").is_none() {
        shell.env("LESS", "FRX");
    }
    // Ctrl-C is for the pager while it is there.
    signals::leave_interrupts_to_others()?;
    let mut child = shell.spawn()?;
    let mut out = BufWriter::new(child.stdin.take().expect("it was piped"));
    let written = print(&mut out).and_then(|()| out.flush());
    drop(out.into_parts());
    let ended = child.wait()?;
    // 127: the shell found no such program, and has shown nothing of the text.
    if ended.code() == Some(127) {
        return Err(io::Error::new(
            io::ErrorKind::NotFound,
            format!("the pager {pager:?} is not there; set PAGER to another, or to cat"),
        ));
    }
    written
}

fn gone_is_fine(written: io::Result<()>) -> io::Result<()> {
    match written {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_installed_is_found_and_what_is_not_is_not() {
        assert!(is_installed("sh"));
        assert!(!is_installed("no-such-pager-of-a-test"));
    }

    #[test]
    fn a_pager_is_for_terminals_and_can_be_declined() {
        assert_eq!(pager(true, None, true), Some("less"));
        assert_eq!(pager(true, Some("most -w"), true), Some("most -w"));
        for (is_terminal, variable, can_move) in [
            (false, None, true),
            (false, Some("less"), true),
            (true, Some(""), true),
            (true, Some(" cat "), true),
            (true, None, false),
        ] {
            assert_eq!(pager(is_terminal, variable, can_move), None);
        }
    }
}
