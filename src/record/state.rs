//! What a machine remembers on disk: `history.json` and `incomplete.json`, root's alone.
//!
//! Each file is replaced atomically. A file that cannot be understood is an error that names it:
//! taking it for empty would silence the very questions it is kept for. So is the file of another
//! machine, restored or copied here: what it says is not so here. Writers hold the machine's lock,
//! so there is one at a time.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use rustix::fs::Mode;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::{HistoryEntry, Incomplete, MachineName, MachineState, anchor};
use crate::escape::escape_str;
use crate::sys::trusted::{Directory, FileError};

/// Where the files are.
pub const STATE_DIR: &str = "/var/lib/pc-switcher";

/// Sessions remembered; the oldest are forgotten first.
pub const MAX_ENTRIES: usize = 1000;

/// Bytes of history remembered: it must fit one answer of the agent with room to spare.
const MAX_HISTORY_BYTES: usize = 3 << 20;

/// Larger files are damaged ones.
const MAX_FILE_BYTES: u64 = 4 << 20;

/// Version of both files' form.
const FORM: u32 = 1;

const HISTORY: &str = "history.json";
const INCOMPLETE: &str = "incomplete.json";

/// Why a machine's memory cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The file is there but not what we wrote.
    #[error("the state file {} is damaged: {detail}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where and how.
        detail: String,
    },
    /// A newer pc-switcher wrote it.
    #[error("the state file {} has form {form}, which this version does not know", path.display())]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its form.
        form: u32,
    },
    /// One session's entry alone is too large.
    #[error("the history entry is larger than {limit} bytes")]
    TooLarge {
        /// What is allowed.
        limit: usize,
    },
    /// Reading or writing failed.
    #[error(transparent)]
    File(#[from] FileError),
}

impl StateError {
    /// What a person can do about it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Damaged { path, .. } => {
                let path = path.display();
                Some(format!(
                    "look at it, then move it out of the way: sudo mv {path} {path}.damaged \
                     (what it knew is lost: check that the last sync ended well)"
                ))
            }
            Self::Newer { .. } => Some("upgrade pc-switcher on this machine".to_owned()),
            Self::TooLarge { .. } | Self::File(_) => None,
        }
    }
}

#[derive(Deserialize)]
struct Form {
    version: u32,
}

/// What a state file is of: the form, the machine that wrote it, and what it is about.
trait StateFile: DeserializeOwned {
    /// The machine that wrote it, as far as that can be told; either name may be empty.
    fn machine(&self) -> Option<MachineName>;
}

#[derive(Serialize, Deserialize)]
struct HistoryFile {
    version: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    machine: Option<MachineName>,
    history: Vec<HistoryEntry>,
}

impl StateFile for HistoryFile {
    fn machine(&self) -> Option<MachineName> {
        // Each session says it as well.
        let of_last = || self.history.last().map(HistoryEntry::own_name).cloned();
        self.machine.clone().or_else(of_last)
    }
}

#[derive(Serialize, Deserialize)]
struct IncompleteFile {
    version: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    machine: Option<MachineName>,
    incomplete: Incomplete,
}

impl StateFile for IncompleteFile {
    fn machine(&self) -> Option<MachineName> {
        self.machine.clone()
    }
}

/// The directory with a machine's state files.
#[derive(Debug, Clone)]
pub struct StateStore {
    path: PathBuf,
    machine: Option<MachineName>,
}

impl StateStore {
    /// The store in `path`, which need not exist yet, of `machine`; without one, files of any
    /// machine are taken.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>, machine: Option<MachineName>) -> Self {
        Self {
            path: path.into(),
            machine,
        }
    }

    /// Everything remembered; nothing if nothing was ever written.
    pub fn read(&self) -> Result<MachineState, StateError> {
        let directory = match Directory::open(&self.path) {
            Ok(directory) => directory,
            Err(e) if e.is_not_found() => return Ok(MachineState::default()),
            Err(e) => return Err(e.into()),
        };
        let history = self.read_file::<HistoryFile>(&directory, HISTORY)?;
        let incomplete = self.read_file::<IncompleteFile>(&directory, INCOMPLETE)?;
        Ok(MachineState {
            history: history.map(|f| f.history).unwrap_or_default(),
            incomplete: incomplete.map(|f| f.incomplete),
        })
    }

    /// Writes the marker of a run that has begun to change this machine, or removes it.
    pub fn write_incomplete(&self, incomplete: Option<&Incomplete>) -> Result<(), StateError> {
        let Some(incomplete) = incomplete else {
            return match Directory::open(&self.path) {
                Ok(directory) => Ok(directory.remove(OsStr::new(INCOMPLETE))?),
                Err(e) if e.is_not_found() => Ok(()),
                Err(e) => Err(e.into()),
            };
        };
        let file = IncompleteFile {
            version: FORM,
            machine: self.machine.clone(),
            incomplete: incomplete.clone(),
        };
        self.write_file(INCOMPLETE, &to_json(&file))
    }

    /// Adds a session to the history, forgetting the oldest beyond the bounds.
    pub fn append_history(&self, entry: HistoryEntry) -> Result<(), StateError> {
        let mut history = self.read()?.history;
        if anchor::of(&entry).is_some() {
            anchor::supersede(&mut history, &entry);
        }
        history.push(entry);
        let sizes: Vec<usize> = history.iter().map(|e| to_json(e).len() + 1).collect();
        let mut keep = 0;
        let mut bytes = 0;
        for size in sizes.iter().rev().take(MAX_ENTRIES) {
            bytes += size;
            if bytes > MAX_HISTORY_BYTES {
                break;
            }
            keep += 1;
        }
        if keep == 0 {
            return Err(StateError::TooLarge {
                limit: MAX_HISTORY_BYTES,
            });
        }
        history.drain(..history.len() - keep);
        let file = HistoryFile {
            version: FORM,
            machine: self.machine.clone(),
            history,
        };
        self.write_file(HISTORY, &to_json(&file))
    }

    fn read_file<T: StateFile>(
        &self,
        directory: &Directory,
        name: &str,
    ) -> Result<Option<T>, StateError> {
        let path = Path::new(directory.path()).join(name);
        let damaged = |detail: String| StateError::Damaged {
            path: path.clone(),
            detail,
        };
        let bytes = match directory.read(OsStr::new(name), MAX_FILE_BYTES) {
            Ok(Some(bytes)) => bytes,
            Ok(None) => return Ok(None),
            Err(e @ FileError::TooLarge { .. }) => return Err(damaged(e.to_string())),
            Err(e) => return Err(e.into()),
        };
        let file: T = parse(&path, &bytes)?;
        if let (Some(writer), Some(machine)) = (file.machine(), &self.machine)
            && is_foreign(&writer, machine)
        {
            return Err(damaged(format!(
                "it is that of another machine, {}, not of {}",
                escape_str(&writer.hostname),
                escape_str(&machine.hostname)
            )));
        }
        Ok(Some(file))
    }

    fn write_file(&self, name: &str, content: &[u8]) -> Result<(), StateError> {
        let directory = Directory::ensure(&self.path, Mode::RWXU)?;
        let mode = Mode::RUSR | Mode::WUSR;
        directory.replace(OsStr::new(name), &mut &*content, mode, None)?;
        Ok(())
    }
}

fn to_json(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("state is plain data that JSON can hold")
}

/// What the bytes of the history file `path` say.
pub fn parse_history(path: &Path, bytes: &[u8]) -> Result<Vec<HistoryEntry>, StateError> {
    parse::<HistoryFile>(path, bytes).map(|file| file.history)
}

/// What the bytes of the marker's file `path` say.
pub fn parse_incomplete(path: &Path, bytes: &[u8]) -> Result<Incomplete, StateError> {
    parse::<IncompleteFile>(path, bytes).map(|file| file.incomplete)
}

fn parse<T: StateFile>(path: &Path, bytes: &[u8]) -> Result<T, StateError> {
    let damaged = |detail: String| StateError::Damaged {
        path: path.to_owned(),
        detail,
    };
    // The form first: a newer file may differ in everything else.
    let form: Form = serde_json::from_slice(bytes).map_err(|e| damaged(e.to_string()))?;
    match form.version {
        FORM => {}
        newer if newer > FORM => {
            return Err(StateError::Newer {
                path: path.to_owned(),
                form: newer,
            });
        }
        other => return Err(damaged(format!("there is no form {other}"))),
    }
    serde_json::from_slice(bytes).map_err(|e| damaged(e.to_string()))
}

/// Whether a file that `writer` has written cannot be that of `machine`. A machine may get another
/// name, and another id; both at once make it another one.
fn is_foreign(writer: &MachineName, machine: &MachineName) -> bool {
    let differ = |a: &str, b: &str| !a.is_empty() && !b.is_empty() && !a.eq_ignore_ascii_case(b);
    differ(&writer.hostname, &machine.hostname) && differ(&writer.machine_id, &machine.machine_id)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Host, Phase, SessionState};
    use crate::record::testing::entry;
    use std::os::unix::fs::MetadataExt;

    fn store() -> (tempfile::TempDir, StateStore) {
        let temp = tempfile::tempdir().unwrap();
        let store = StateStore::new(temp.path().join("state"), None);
        (temp, store)
    }

    fn incomplete() -> Incomplete {
        Incomplete {
            session: "0123abcd".to_owned(),
            role: Host::Target,
            source: "atlas".to_owned(),
            target: "vega".to_owned(),
            started_at: "2026-01-01T00:00:00Z".parse().unwrap(),
            phase: Phase::Execute,
            module: Some("user_data".to_owned()),
            presync: vec!["@-presync-20260101T000000Z-0123abcd".to_owned()],
            address: None,
            rollback_of: None,
            settles: None,
        }
    }

    #[test]
    fn what_was_written_is_read_back_and_private() {
        let (_temp, store) = store();
        assert_eq!(store.read().unwrap(), MachineState::default());
        store.write_incomplete(None).unwrap();
        assert!(!store.path.exists());

        let one = entry("00000001", "atlas", "vega", SessionState::Completed);
        let two = entry("00000002", "vega", "atlas", SessionState::Failed);
        store.append_history(one.clone()).unwrap();
        store.append_history(two.clone()).unwrap();
        store.write_incomplete(Some(&incomplete())).unwrap();
        let state = store.read().unwrap();
        assert_eq!(state.history, [one, two]);
        assert_eq!(state.incomplete, Some(incomplete()));
        let mode = |path: &Path| std::fs::metadata(path).unwrap().mode() & 0o7777;
        assert_eq!(mode(&store.path), 0o700);
        assert_eq!(mode(&store.path.join(HISTORY)), 0o600);
        assert_eq!(mode(&store.path.join(INCOMPLETE)), 0o600);

        store.write_incomplete(None).unwrap();
        assert_eq!(store.read().unwrap().incomplete, None);
        assert_eq!(store.read().unwrap().history.len(), 2);
    }

    #[test]
    fn a_damaged_file_is_named_and_neither_emptied_nor_overwritten() {
        let large = vec![b' '; 5 << 20];
        let damages: [&[u8]; 7] = [
            b"",
            b"{",
            b"{\"version\":1}",
            b"{\"version\":0,\"history\":[]}",
            b"{\"version\":1,\"history\":[{}]}",
            b"\xff\xfe",
            &large,
        ];
        for damage in damages {
            for name in [HISTORY, INCOMPLETE] {
                let (_temp, store) = store();
                store
                    .append_history(entry("00000001", "a", "b", SessionState::Completed))
                    .unwrap();
                let path = store.path.join(name);
                std::fs::write(&path, damage).unwrap();
                let error = store.read().unwrap_err();
                assert!(matches!(error, StateError::Damaged { .. }), "{error}");
                assert!(error.to_string().contains(path.to_str().unwrap()));
                assert!(error.hint().unwrap().contains("sudo mv"));
                let new = entry("00000002", "a", "b", SessionState::Completed);
                store.append_history(new).unwrap_err();
                assert_eq!(std::fs::read(&path).unwrap(), damage);
            }
        }
    }

    #[test]
    fn a_file_of_another_machine_is_damage_and_one_of_a_renamed_machine_is_not() {
        let name = |hostname: &str, id: u8| MachineName {
            hostname: hostname.to_owned(),
            machine_id: format!("{id:032x}"),
        };
        let (_temp, store) = store();
        let at = |machine: MachineName| StateStore::new(&store.path, Some(machine));
        let own = at(name("vega", 1));
        own.append_history(entry("00000001", "a", "b", SessionState::Completed))
            .unwrap();
        own.write_incomplete(Some(&incomplete())).unwrap();
        let last_words = [HISTORY, INCOMPLETE].map(|file| {
            let bytes = std::fs::read(store.path.join(file)).unwrap();
            (file, bytes)
        });
        for (file, bytes) in &last_words {
            for (other, _) in &last_words {
                std::fs::remove_file(store.path.join(other)).unwrap_or_default();
            }
            std::fs::write(store.path.join(file), bytes).unwrap();
            for machine in [name("vega", 1), name("renamed", 1), name("vega", 2)] {
                at(machine).read().unwrap();
            }
            let error = at(name("deneb", 3)).read().unwrap_err();
            assert!(matches!(error, StateError::Damaged { .. }), "{error}");
            let text = error.to_string();
            assert!(text.contains("another machine, vega"), "{text}");
            assert!(text.contains(file), "{text}");
            assert!(error.hint().unwrap().contains("sudo mv"));
        }
        // A history from before files said whose they are.
        let entries = parse_history(Path::new(HISTORY), &last_words[0].1).unwrap();
        let file = HistoryFile {
            version: FORM,
            machine: None,
            history: entries,
        };
        std::fs::write(store.path.join(HISTORY), to_json(&file)).unwrap();
        std::fs::remove_file(store.path.join(INCOMPLETE)).unwrap();
        let writer = file.history[0].own_name().clone();
        assert!(!writer.machine_id.is_empty());
        at(writer).read().unwrap();
        let error = at(name("deneb", 3)).read().unwrap_err();
        assert!(matches!(error, StateError::Damaged { .. }), "{error}");
    }

    #[test]
    fn a_newer_form_asks_for_an_upgrade() {
        let (_temp, store) = store();
        std::fs::create_dir(&store.path).unwrap();
        std::fs::write(
            store.path.join(HISTORY),
            b"{\"version\":2,\"sessions\":\"elsewhere\"}",
        )
        .unwrap();
        let error = store.read().unwrap_err();
        assert!(matches!(error, StateError::Newer { form: 2, .. }));
    }

    #[test]
    fn history_is_bounded_in_number_and_size_and_keeps_the_newest() {
        let (_temp, store) = store();
        let many: Vec<HistoryEntry> = (0..MAX_ENTRIES)
            .map(|i| entry(&format!("{i:08x}"), "a", "b", SessionState::Completed))
            .collect();
        std::fs::create_dir(&store.path).unwrap();
        let file = HistoryFile {
            version: FORM,
            machine: None,
            history: many,
        };
        std::fs::write(store.path.join(HISTORY), to_json(&file)).unwrap();
        let newest = entry("ffffffff", "a", "b", SessionState::Completed);
        store.append_history(newest).unwrap();
        let history = store.read().unwrap().history;
        assert_eq!(history.len(), MAX_ENTRIES);
        assert_eq!(history[0].session, "00000001");
        assert_eq!(history.last().unwrap().session, "ffffffff");

        let mut large = entry("eeeeeeee", "a", "b", SessionState::Completed);
        large.version = "x".repeat(MAX_HISTORY_BYTES / 2);
        store.append_history(large.clone()).unwrap();
        store.append_history(large.clone()).unwrap();
        let history = store.read().unwrap().history;
        assert!(to_json(&history).len() <= MAX_HISTORY_BYTES);
        assert_eq!(history.last().unwrap().session, "eeeeeeee");
        large.version = "x".repeat(MAX_HISTORY_BYTES);
        let error = store.append_history(large).unwrap_err();
        assert!(matches!(error, StateError::TooLarge { .. }));
    }
}
