//! What `sudo` says when it will not run a program, on this machine or another.
//!
//! `sudo` is always called with `LC_ALL=C`; both the classic one and sudo-rs are understood.

/// Why `sudo` did not run what it was asked to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SudoTrouble {
    /// It wants a password and was told not to ask.
    PasswordRequired,
    /// The password was wrong.
    PasswordWrong,
    /// The person may not run this as root.
    NotAllowed,
    /// It only works on a terminal (`requiretty`).
    NeedsTerminal,
    /// There is no `sudo`.
    Missing,
    /// `sudo` itself is not set up to work (not setuid root, `no_new_privs`).
    Broken,
}

impl SudoTrouble {
    /// Reads the trouble from what was written to stderr and the exit status, if there is one.
    #[must_use]
    pub fn from_stderr(stderr: &str, status: Option<i32>) -> Option<Self> {
        let text = stderr.to_ascii_lowercase();
        let says = |needles: &[&str]| needles.iter().any(|needle| text.contains(needle));
        if says(&[
            "incorrect password",
            "sorry, try again",
            "no password was provided",
            "authentication failed, try again",
            "incorrect authentication attempt",
        ]) {
            Some(Self::PasswordWrong)
        } else if says(&[
            "password is required",
            "interactive authentication is required",
            "a terminal is required to read the password",
        ]) {
            Some(Self::PasswordRequired)
        } else if says(&["must have a tty"]) {
            Some(Self::NeedsTerminal)
        } else if says(&[
            "not in the sudoers file",
            "is not allowed to",
            "may not run sudo",
            "i'm afraid i can't do that",
        ]) {
            Some(Self::NotAllowed)
        } else if says(&[
            "no new privileges",
            "effective uid is not 0",
            "must be owned by uid 0",
            "setuid",
        ]) && text.contains("sudo")
        {
            Some(Self::Broken)
        } else if status == Some(127) && text.contains("sudo") {
            Some(Self::Missing)
        } else {
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_of_both_sudos_are_understood() {
        for (stderr, status, expected) in [
            (
                "sudo: a password is required",
                1,
                SudoTrouble::PasswordRequired,
            ),
            (
                "sudo: interactive authentication is required",
                1,
                SudoTrouble::PasswordRequired,
            ),
            (
                "Sorry, try again.\nsudo: no password was provided\nsudo: 1 incorrect password attempt",
                1,
                SudoTrouble::PasswordWrong,
            ),
            (
                "dev is not in the sudoers file.  This incident will be reported.",
                1,
                SudoTrouble::NotAllowed,
            ),
            (
                "Sorry, user dev is not allowed to execute '/bin/sh' as root on vega.",
                1,
                SudoTrouble::NotAllowed,
            ),
            (
                "sudo: I'm sorry dev. I'm afraid I can't do that",
                1,
                SudoTrouble::NotAllowed,
            ),
            (
                "sudo: sorry, you must have a tty to run sudo",
                1,
                SudoTrouble::NeedsTerminal,
            ),
            (
                "env: 'sudo': No such file or directory",
                127,
                SudoTrouble::Missing,
            ),
            ("sh: 1: sudo: not found", 127, SudoTrouble::Missing),
        ] {
            assert_eq!(
                SudoTrouble::from_stderr(stderr, Some(status)),
                Some(expected),
                "{stderr}"
            );
        }
        assert_eq!(
            SudoTrouble::from_stderr("segmentation fault", Some(139)),
            None
        );
    }
}
