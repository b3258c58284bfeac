//! Changes of `/etc/apt`, its keys and the machine's architectures as one unit: all of it, or put back byte
//! for byte.

use std::collections::BTreeMap;

use super::architectures::{self, Added};
use super::plan::Work;
use super::sources::is_read;
use super::state::{PINS, PINS_FILE, SOURCES, is_key_path};
use crate::escape::escape_str;
use crate::interrupt::AbortFlag;
use crate::modules::packages::answer::Silence;
use crate::modules::packages::files::{delete, write};
use crate::modules::packages::tools::Tools;

/// Largest file kept for putting back.
const BACKUP_LIMIT: u64 = 4 << 20;

/// What was there before.
#[derive(Debug, Default)]
pub struct Before {
    files: BTreeMap<String, Option<Vec<u8>>>,
    added: Added,
}

impl Before {
    /// Whether nothing was changed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.files.is_empty() && self.added.names().is_empty()
    }

    /// What of it was changed, for people.
    #[must_use]
    pub fn changed(&self) -> String {
        let files = (!self.files.is_empty()).then(|| "/etc/apt".to_owned());
        let added = (self.added.names().iter()).map(|name| format!("architecture {name}"));
        files
            .into_iter()
            .chain(added)
            .collect::<Vec<_>>()
            .join(", ")
    }

    /// The architectures that came and for which `is_used`, and a unit of only the others.
    #[must_use]
    pub fn split_added(self, is_used: impl Fn(&str) -> bool) -> (Vec<String>, Self) {
        let (kept, added) = self.added.split(is_used);
        let vain = Self {
            added,
            ..Self::default()
        };
        (kept, vain)
    }

    /// Whether an architecture came that was not there.
    #[must_use]
    pub fn has_added(&self, architecture: &str) -> bool {
        self.added.names().iter().any(|name| name == architecture)
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

/// Writes, deletes and adds what the work says; on the first failure everything is as it was.
pub fn change(tools: &Tools<'_>, work: &Work) -> Result<Before, Silence> {
    let mut before = Before::default();
    let result = change_noting(tools, work, &mut before);
    if let Err(why) = result {
        put_back(tools, &before)?;
        return Err(why);
    }
    Ok(before)
}

fn change_noting(tools: &Tools<'_>, work: &Work, before: &mut Before) -> Result<(), Silence> {
    let (files, deletions) = (&work.files, &work.deletions);
    let mut there = BTreeMap::new();
    for path in files.keys().chain(deletions) {
        if !may_write(path) {
            return Err(Silence(format!(
                "{} is not apt's to be written",
                escape_str(path)
            )));
        }
        there.insert(path.clone(), tools.read(path, BACKUP_LIMIT)?);
    }
    before.files = there;
    // Keys before what names them.
    let (keys, others): (Vec<_>, Vec<_>) = files.iter().partition(|(path, _)| is_key_path(path));
    for (path, content) in keys.into_iter().chain(others) {
        write(tools, path, &content.0)?;
    }
    for path in deletions {
        delete(tools, path)?;
    }
    before.added = architectures::add(tools, &work.architectures)?;
    Ok(())
}

/// Makes everything as it was, also when we were told to stop. Tries all of it, and says what could not be
/// done.
pub fn put_back(tools: &Tools<'_>, before: &Before) -> Result<(), Silence> {
    let calm = AbortFlag::new();
    let tools = &tools.with_abort(&calm);
    let mut failures = Vec::new();
    if let Err(error) = architectures::remove(tools, &before.added) {
        failures.push(error.0);
    }
    for (path, content) in &before.files {
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
            "{} could not be put back: {}",
            before.changed(),
            failures.join("; ")
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::modules::packages::bytes::Bytes;
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
        let work = Work {
            files,
            deletions: deletions.to_vec(),
            ..Work::default()
        };
        let before = change(&tools, &work).unwrap();
        assert_eq!(before.changed(), "/etc/apt");
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

    #[test]
    fn what_cannot_be_kept_or_written_leaves_everything_as_it_was() {
        const KEY: &str = "/etc/apt/keyrings/v.gpg";
        const LIST: &str = "/etc/apt/sources.list.d/v.list";
        const PIN: &str = "/etc/apt/preferences.d/v";
        let abort = AbortFlag::new();
        let new = || Bytes(b"new".to_vec());
        let files = [KEY, LIST, PIN].map(|path| (path.to_owned(), new()));
        let work = Work {
            files: BTreeMap::from(files),
            ..Work::default()
        };
        // A directory where the file would be cannot be read, so it could not be put back.
        let machine = FakeMachine::new();
        machine.file(&format!("{PIN}/x"), "");
        machine.file(LIST, "old");
        assert!(change(&machine.tools(&abort), &work).is_err());
        assert_eq!(machine.content(KEY), None);
        assert_eq!(machine.content(LIST).unwrap(), "old");
        // A file where the directory would be: the last of three cannot be written.
        let machine = FakeMachine::new();
        machine.file("/etc/apt/sources.list.d", "");
        machine.file(PIN, "old");
        assert!(change(&machine.tools(&abort), &work).is_err());
        assert_eq!(machine.content(KEY), None, "keys come first, and go again");
        assert_eq!(machine.content(PIN).unwrap(), "old");
        assert!(
            machine.root().join("etc/apt/keyrings").is_dir(),
            "it was tried"
        );
    }
}
