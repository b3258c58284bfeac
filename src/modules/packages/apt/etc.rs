//! Changes of `/etc/apt` and its keys as one unit: all of it, or put back byte for byte.

use std::collections::BTreeMap;

use super::sources::is_read;
use super::state::{PINS, PINS_FILE, SOURCES, is_key_path};
use crate::escape::escape_str;
use crate::modules::packages::answer::Silence;
use crate::modules::packages::bytes::Bytes;
use crate::modules::packages::files::{delete, write};
use crate::modules::packages::tools::Tools;

/// Largest file kept for putting back.
const BACKUP_LIMIT: u64 = 4 << 20;

/// What was there before.
#[derive(Debug, Default)]
pub struct Before(BTreeMap<String, Option<Vec<u8>>>);

impl Before {
    /// Whether nothing was changed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Whether a file of this path may be written for apt.
#[must_use]
pub fn may_write(path: &str) -> bool {
    let part = |directory: &str, endings: &[&str]| {
        (path.strip_prefix(directory))
            .and_then(|rest| rest.strip_prefix('/'))
            .is_some_and(|name| is_read(name, endings))
    };
    path == PINS_FILE
        || part(SOURCES, &["list", "sources"])
        || part(PINS, &["", "pref"])
        || is_key_path(path)
}

/// Writes and deletes; on the first failure everything is as it was.
pub fn change(
    tools: &Tools<'_>,
    files: &BTreeMap<String, Bytes>,
    deletions: &[String],
) -> Result<Before, Silence> {
    let mut before = Before::default();
    for path in files.keys().chain(deletions) {
        if !may_write(path) {
            return Err(Silence(format!(
                "{} is not apt's to be written",
                escape_str(path)
            )));
        }
        before
            .0
            .insert(path.clone(), tools.read(path, BACKUP_LIMIT)?);
    }
    // Keys before what names them.
    let (keys, others): (Vec<_>, Vec<_>) = files.iter().partition(|(path, _)| is_key_path(path));
    for (path, content) in keys.into_iter().chain(others) {
        if let Err(error) = write(tools, path, &content.0) {
            put_back(tools, &before)?;
            return Err(error);
        }
    }
    for path in deletions {
        if let Err(error) = delete(tools, path) {
            put_back(tools, &before)?;
            return Err(error);
        }
    }
    Ok(before)
}

/// Makes everything as it was. Tries all of it, and says what could not be done.
pub fn put_back(tools: &Tools<'_>, before: &Before) -> Result<(), Silence> {
    let mut failures = Vec::new();
    for (path, content) in &before.0 {
        let result = match content {
            Some(content) => write(tools, path, content),
            None => delete(tools, path),
        };
        if let Err(error) = result {
            failures.push(error.0);
        }
    }
    if failures.is_empty() {
        Ok(())
    } else {
        Err(Silence(format!(
            "/etc/apt could not be put back: {}",
            failures.join("; ")
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::interrupt::AbortFlag;
    use crate::modules::packages::testing::FakeMachine;

    #[test]
    fn what_was_changed_is_put_back_byte_for_byte() {
        let machine = FakeMachine::new();
        machine.file("/etc/apt/preferences.d/old", "Package: a\n");
        machine.file("/etc/apt/sources.list.d/v.list", "deb http://old x\n");
        let abort = AbortFlag::new();
        let tools = machine.tools(&abort);
        let new = |text: &str| Bytes(text.as_bytes().to_vec());
        let files = BTreeMap::from([
            (
                "/etc/apt/sources.list.d/v.list".to_owned(),
                new("deb http://new x\n"),
            ),
            ("/etc/apt/keyrings/v.gpg".to_owned(), Bytes(vec![0, 255, 7])),
        ]);
        let deletions = ["/etc/apt/preferences.d/old".to_owned()];
        let before = change(&tools, &files, &deletions).unwrap();
        assert_eq!(machine.content("/etc/apt/preferences.d/old"), None);
        assert_eq!(
            machine.content("/etc/apt/sources.list.d/v.list").unwrap(),
            "deb http://new x\n"
        );
        assert_eq!(
            tools.read("/etc/apt/keyrings/v.gpg", 9).unwrap().unwrap(),
            [0, 255, 7]
        );
        put_back(&tools, &before).unwrap();
        assert_eq!(
            machine.content("/etc/apt/preferences.d/old").unwrap(),
            "Package: a\n"
        );
        assert_eq!(
            machine.content("/etc/apt/sources.list.d/v.list").unwrap(),
            "deb http://old x\n"
        );
        assert_eq!(tools.read("/etc/apt/keyrings/v.gpg", 9).unwrap(), None);
    }

    #[test]
    fn only_apts_own_places_are_written() {
        for path in [
            "/etc/apt/sources.list.d/../../shadow.list",
            "/etc/apt/sources.list",
            "/etc/apt/apt.conf.d/00x",
            "/etc/passwd",
            "/usr/share/keyrings/x/../y.gpg",
            "/etc/apt/keyrings/.hidden.gpg",
        ] {
            assert!(!may_write(path), "{path}");
        }
        for path in [
            "/etc/apt/preferences",
            "/etc/apt/preferences.d/99x",
            "/usr/share/keyrings/v.gpg",
        ] {
            assert!(may_write(path), "{path}");
        }
    }
}
