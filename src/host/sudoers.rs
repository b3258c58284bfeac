//! The one line in sudoers with which a sync asks nobody for a password: it allows our agent, as root,
//! from one place where only root can put another program, and nothing else.

use std::path::Path;

use crate::sys::trusted::{FileError, check_program};

/// Where such a line belongs.
pub const FILE: &str = "/etc/sudoers.d/pc-switcher";

/// The line that lets `user` start `program` as an agent.
///
/// # Errors
///
/// If somebody else than root could put another program in its place: the line would give them root.
pub fn line_for(user: &str, program: &Path) -> Result<String, FileError> {
    check_program(program)?;
    Ok(line(user, &program.to_string_lossy()))
}

/// The line that lets `user` start the agent that is, or will be, at `program`.
#[must_use]
pub fn line(user: &str, program: &str) -> String {
    format!(
        "{} ALL=(root) NOPASSWD: {} agent",
        escaped(user),
        escaped(program)
    )
}

/// A word as `sudoers(5)` reads it: what has a meaning there is preceded by a backslash, and line feeds,
/// which cannot be written, become something that names nobody.
fn escaped(word: &str) -> String {
    let mut out = String::with_capacity(word.len());
    for c in word.chars() {
        match c {
            c if c.is_control() => out.push('?'),
            c if c.is_alphanumeric() || "/_.-".contains(c) => out.push(c),
            // A user's id, and nothing else, begins so.
            '#' if out.is_empty() => out.push('#'),
            c => out.extend(['\\', c]),
        }
    }
    out
}

/// Who types this, as `sudoers(5)` names people: by name, or by number where there is no name.
/// Under `sudo`, whoever called it; `None` for root alone, who needs no line.
#[must_use]
pub fn person() -> Option<String> {
    let variable = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
    let uid = rustix::process::getuid();
    if uid.is_root() {
        return variable("SUDO_USER").filter(|user| user != "root");
    }
    let name = variable("USER").or_else(|| variable("LOGNAME"));
    Some(name.unwrap_or_else(|| format!("#{}", uid.as_raw())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_person_may_start_one_program_with_one_argument() {
        assert_eq!(
            line("kim", "/usr/bin/pc-switcher"),
            "kim ALL=(root) NOPASSWD: /usr/bin/pc-switcher agent"
        );
    }

    #[test]
    fn what_means_something_in_sudoers_means_nothing_in_a_name() {
        for (word, written) in [
            ("kim.lee-2", "kim.lee-2"),
            ("#1000", "#1000"),
            ("kim@corp", "kim\\@corp"),
            ("CORP\\kim", "CORP\\\\kim"),
            ("%wheel", "\\%wheel"),
            ("a,ALL", "a\\,ALL"),
            ("a b=c!:()*", "a\\ b\\=c\\!\\:\\(\\)\\*"),
            ("kim\nALL ALL=(ALL) ALL", "kim?ALL\\ ALL\\=\\(ALL\\)\\ ALL"),
        ] {
            assert_eq!(escaped(word), written);
        }
    }

    #[test]
    fn no_line_allows_a_program_that_others_can_replace() {
        let directory = tempfile::tempdir().expect("a directory");
        let program = directory.path().join("pc-switcher");
        std::fs::write(&program, "").expect("writable");
        // Below /tmp, where everybody may write.
        let error = line_for("kim", &program).expect_err("replaceable");
        assert!(matches!(error, FileError::Untrusted { .. }), "{error}");
        // Any file that is root's alone.
        let line = line_for("kim", Path::new("/etc/passwd")).expect("root's alone");
        assert!(line.ends_with(": /etc/passwd agent"), "{line}");
    }
}
