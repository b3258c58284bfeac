//! What a person said belongs to one machine only: kept on the machine that has the thing.
//!
//! A file that cannot be understood is an error, never "nothing is marked": removals would follow.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;

use jiff::Timestamp;
use rustix::fs::Mode;
use serde::{Deserialize, Serialize};

use super::answer::Silence;
use super::tools::Tools;
use crate::escape::escape_str;
use crate::record::state::STATE_DIR;
use crate::sys::trusted::Directory;

/// The file, beside the machine's history.
const NAME: &str = "package-marks.json";
/// Version of its form.
const FORM: u32 = 1;
/// Larger files are damaged ones.
const MAX_BYTES: u64 = 1 << 20;

/// All marks of one machine: by manager, by id.
pub type Marks = BTreeMap<String, BTreeMap<String, Mark>>;

/// One mark.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    /// What was shown to the person who set it.
    pub text: String,
    /// When.
    pub at: Timestamp,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct MarksFile {
    version: u32,
    marks: Marks,
}

#[derive(Debug, Deserialize)]
struct Form {
    version: u32,
}

/// The marks of this machine.
pub fn read(tools: &Tools<'_>) -> Result<Marks, Silence> {
    let path = format!("{STATE_DIR}/{NAME}");
    match tools.read(&path, MAX_BYTES)? {
        Some(bytes) => parse(&path, &bytes),
        None => Ok(Marks::new()),
    }
}

/// What the bytes of the file `path` say.
pub(crate) fn parse(path: &str, bytes: &[u8]) -> Result<Marks, Silence> {
    let damaged = |detail: &dyn std::fmt::Display| {
        Silence(format!(
            "{path} is damaged ({}); what it protects would be lost: look at it, and restore or \
             remove it",
            escape_str(&detail.to_string())
        ))
    };
    // The form first: a newer file may differ in everything else.
    let form: Form = serde_json::from_slice(bytes).map_err(|e| damaged(&e))?;
    if form.version > FORM {
        return Err(Silence(format!(
            "{path} was written by a newer pc-switcher: upgrade this one"
        )));
    }
    if form.version != FORM {
        return Err(damaged(&format!("there is no form {}", form.version)));
    }
    let file: MarksFile = serde_json::from_slice(bytes).map_err(|e| damaged(&e))?;
    Ok(file.marks)
}

/// Adds marks to this machine's; those that are there stay.
pub fn add(tools: &Tools<'_>, new: &Marks) -> Result<(), Silence> {
    let mut marks = read(tools)?;
    for (manager, new) in new {
        let marks = marks.entry(manager.clone()).or_default();
        for (id, mark) in new {
            marks.entry(id.clone()).or_insert_with(|| mark.clone());
        }
    }
    let file = MarksFile {
        version: FORM,
        marks,
    };
    let mut text = serde_json::to_vec_pretty(&file).expect("marks are plain data");
    text.push(b'\n');
    let write = || {
        let directory = Directory::ensure(&tools.at(STATE_DIR), Mode::RWXU)?;
        directory.replace(OsStr::new(NAME), &mut &*text, Mode::RUSR | Mode::WUSR, None)
    };
    write().map_err(|e| Silence(escape_str(&e.to_string())))
}

/// The ids of one manager that are marked on any of the machines.
#[must_use]
pub fn marked<'a>(
    machines: impl IntoIterator<Item = &'a Marks>,
    manager: &str,
) -> BTreeSet<String> {
    (machines.into_iter())
        .filter_map(|marks| marks.get(manager))
        .flat_map(|marks| marks.keys().cloned())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::interrupt::AbortFlag;
    use crate::modules::packages::testing::FakeMachine;

    const PATH: &str = "/var/lib/pc-switcher/package-marks.json";

    fn one(id: &str) -> Marks {
        let mark = Mark {
            text: id.to_owned(),
            at: "2026-01-01T00:00:00Z".parse().unwrap(),
        };
        Marks::from([("apt".to_owned(), BTreeMap::from([(id.to_owned(), mark)]))])
    }

    #[test]
    fn marks_are_kept_and_added_to() {
        let machine = FakeMachine::new();
        let abort = AbortFlag::new();
        let tools = machine.tools(&abort);
        assert!(read(&tools).unwrap().is_empty());
        add(&tools, &one("nvidia-driver")).unwrap();
        add(&tools, &one("tlp")).unwrap();
        let marks = read(&tools).unwrap();
        assert_eq!(marks["apt"].len(), 2);
        let ids = marked([&marks, &one("other")], "apt");
        assert_eq!(
            ids.into_iter().collect::<Vec<_>>(),
            ["nvidia-driver", "other", "tlp"]
        );
        assert!(marked([&marks], "snap").is_empty());
    }

    #[test]
    fn a_damaged_file_is_an_error_and_is_not_written_over() {
        let machine = FakeMachine::new();
        let abort = AbortFlag::new();
        let tools = machine.tools(&abort);
        add(&tools, &one("kept")).unwrap();
        let good = machine.content(PATH).unwrap();
        let newer = good.replace("\"version\": 1", "\"version\": 2");
        for (text, word) in [
            ("", "damaged"),
            (&good[..good.len() / 2], "damaged"),
            ("{}", "damaged"),
            ("[]", "damaged"),
            ("{\"version\":0,\"marks\":{}}", "damaged"),
            ("{\"version\":1,\"marks\":{},\"more\":1}", "damaged"),
            // Swapped for a neighbour, and zeros as after a power cut.
            ("{\"version\":1,\"history\":[]}", "damaged"),
            ("\0\0\0\0\0\0\0\0", "damaged"),
            (&good[..good.len() - 3], "damaged"),
            ("{\"version\":1,\"marks\":{\"apt\":[\"a\"]}}", "damaged"),
            (&newer, "newer"),
        ] {
            machine.file(PATH, text);
            let why = read(&tools).unwrap_err().0;
            assert!(why.contains(word) && why.contains(PATH), "{text}: {why}");
            add(&tools, &one("more")).unwrap_err();
            assert_eq!(machine.content(PATH).unwrap(), text);
        }
    }
}
