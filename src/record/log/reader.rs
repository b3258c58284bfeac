//! Reading log files back: which there are, and what their lines say.
//!
//! A line that is not one of ours (cut by a full disk, edited, damaged) is kept as text; nothing in
//! a file makes reading it fail. Lines are bounded, and nothing in them is fit for a terminal before
//! it was escaped.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use serde_json::{Map, Value};

use crate::event::LogLevel;

/// What is kept of one line; the rest of a longer one is passed over.
const MAX_LINE: u64 = 1 << 20;

/// Read from each end of a file to tell what became of its session.
const SUMMARY_BYTES: u64 = 64 << 10;

/// A log file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogFile {
    /// Where it is.
    pub path: PathBuf,
    /// The session.
    pub session: String,
    /// When it began.
    pub started_at: Timestamp,
}

impl LogFile {
    /// By its name, `sync-<start, UTC>-<session>.log`; `None` for another file.
    fn from_path(path: &Path) -> Option<Self> {
        let name = path.file_name()?.to_str()?;
        let (start, session) = (name.strip_prefix("sync-")?)
            .strip_suffix(".log")?
            .split_once('-')?;
        let is_id = !session.is_empty() && session.bytes().all(|b| b.is_ascii_alphanumeric());
        let start = DateTime::strptime("%Y%m%dT%H%M%SZ", start).ok()?;
        let started_at = start.to_zoned(TimeZone::UTC).ok()?.timestamp();
        is_id.then(|| Self {
            session: session.to_owned(),
            started_at,
            path: path.to_owned(),
        })
    }
}

/// The log files in these directories, the oldest first; a directory that is not there has none.
pub fn list(directories: &[PathBuf]) -> io::Result<Vec<LogFile>> {
    let mut found = Vec::new();
    for directory in directories {
        let entries = match std::fs::read_dir(directory) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        for entry in entries {
            let entry = entry?;
            if entry.file_type()?.is_file() {
                found.extend(LogFile::from_path(&entry.path()));
            }
        }
    }
    found.sort_by(|a, b| (a.started_at, &a.session).cmp(&(b.started_at, &b.session)));
    Ok(found)
}

/// One line of a log.
#[derive(Debug, Clone, PartialEq)]
pub enum Entry {
    /// One of ours.
    Line(Box<LogLine>),
    /// Something else, with invalid UTF-8 replaced.
    Damaged(String),
}

/// What one of our lines says.
#[derive(Debug, Clone, PartialEq)]
pub struct LogLine {
    /// When.
    pub timestamp: Timestamp,
    /// How much it matters.
    pub level: LogLevel,
    /// The module that spoke, or `core`.
    pub module: String,
    /// The machine it is about.
    pub hostname: Option<String>,
    /// What kind of event it was (`log`, `phase`, `closing` ...).
    pub event: String,
    /// For people.
    pub message: String,
    /// Everything else.
    pub context: Map<String, Value>,
}

impl Entry {
    /// Takes a line apart.
    #[must_use]
    pub fn parse(line: &[u8]) -> Self {
        match LogLine::parse(line) {
            Some(line) => Self::Line(Box::new(line)),
            None => Self::Damaged(String::from_utf8_lossy(line).into_owned()),
        }
    }
}

impl LogLine {
    fn parse(line: &[u8]) -> Option<Self> {
        let Value::Object(mut map) = serde_json::from_slice(line).ok()? else {
            return None;
        };
        let mut text = |key: &str| match map.remove(key) {
            Some(Value::String(text)) => Some(text),
            _ => None,
        };
        let timestamp = text("timestamp")?.parse().ok()?;
        let level = text("level")?.parse().ok()?;
        let module = text("module")?;
        let message = text("message")?;
        let hostname = text("hostname");
        let event = text("event").unwrap_or_default();
        // Every line of a file has the same.
        let _ = (text("session"), text("host"));
        Some(Self {
            timestamp,
            level,
            module,
            hostname,
            event,
            message,
            context: map,
        })
    }

    /// Whether it is the last line of a session.
    #[must_use]
    pub fn is_closing(&self) -> bool {
        self.event == "closing"
    }
}

/// What became of a session, as far as its log says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Summary {
    /// Host name of the source.
    pub source: Option<String>,
    /// Host name of the target.
    pub target: Option<String>,
    /// How it ended; `None` if it runs, or died.
    pub state: Option<String>,
    /// What the process ended with.
    pub exit_code: Option<u64>,
    /// Whether it was a dry run, if it ended.
    pub dry_run: Option<bool>,
    /// The file's size.
    pub bytes: u64,
}

/// Looks at both ends of a log.
pub fn summary(path: &Path) -> io::Result<Summary> {
    let mut file = File::open(path)?;
    let bytes = file.metadata()?.len();
    let mut head = Vec::new();
    (&mut file).take(SUMMARY_BYTES).read_to_end(&mut head)?;
    let mut tail = Vec::new();
    file.seek(SeekFrom::Start(bytes.saturating_sub(SUMMARY_BYTES)))?;
    file.take(SUMMARY_BYTES).read_to_end(&mut tail)?;
    let mut found = Summary {
        bytes,
        ..Summary::default()
    };
    for line in head
        .split(|b| *b == b'\n')
        .chain(tail.split(|b| *b == b'\n'))
    {
        let Some(line) = LogLine::parse(line) else {
            continue;
        };
        let text = |key: &str| line.context.get(key)?.as_str().map(str::to_owned);
        if line.event == "session" || line.is_closing() {
            found.source = text("source").or(found.source);
            found.target = text("target").or(found.target);
        }
        if line.is_closing() {
            found.state = text("state");
            found.exit_code = line.context.get("exit_code").and_then(Value::as_u64);
            found.dry_run = line.context.get("dry_run").and_then(Value::as_bool);
        }
    }
    Ok(found)
}

/// The lines of a log, also those that are still to come.
#[derive(Debug)]
pub struct LogReader {
    file: BufReader<File>,
    /// The beginning of a line whose end is not there yet.
    pending: Vec<u8>,
}

impl LogReader {
    /// Opens a log at its beginning.
    pub fn open(path: &Path) -> io::Result<Self> {
        Ok(Self {
            file: BufReader::with_capacity(64 << 10, File::open(path)?),
            pending: Vec::new(),
        })
    }

    /// The next whole line, without its end; `None` at the end of what is there now.
    pub fn next_line(&mut self) -> io::Result<Option<Vec<u8>>> {
        loop {
            let room = MAX_LINE.saturating_sub(self.pending.len() as u64);
            let mut piece = Vec::new();
            let most = if room > 0 { room } else { MAX_LINE };
            if (&mut self.file).take(most).read_until(b'\n', &mut piece)? == 0 {
                return Ok(None);
            }
            let is_whole = piece.pop_if(|last| *last == b'\n').is_some();
            if room > 0 {
                self.pending.append(&mut piece);
            }
            if is_whole {
                return Ok(Some(std::mem::take(&mut self.pending)));
            }
        }
    }

    /// What stands at the end without a line's end: the writer was killed, or is at work.
    pub fn rest(&mut self) -> Option<Vec<u8>> {
        (!self.pending.is_empty()).then(|| std::mem::take(&mut self.pending))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    const LINE: &str = r#"{"timestamp":"2026-01-02T03:04:05.678900Z","level":"WARNING","module":"user_data","host":"target","hostname":"vega","session":"1a2b3c4d","event":"log","message":"left alone","path":"/home"}"#;

    #[test]
    fn logs_are_found_by_their_names_the_oldest_first() {
        let root = tempfile::tempdir().unwrap();
        let (one, two) = (root.path().join("one"), root.path().join("two"));
        for directory in [&one, &two] {
            std::fs::create_dir(directory).unwrap();
        }
        for (directory, name) in [
            (&one, "sync-20260102T030405Z-00000002.log"),
            (&two, "sync-20260102T030404Z-00000003.log"),
            (&one, "sync-20260101T000000Z-00000001.log"),
            (&one, "sync-20269901T000000Z-00000001.log"),
            (&one, "sync-20260101T000000Z-.log"),
            (&one, "sync-20260101T000000Z-a/../b.log.bak"),
            (&one, "notes.log"),
        ] {
            let _ = std::fs::write(directory.join(name), "");
        }
        std::os::unix::fs::symlink(
            "/etc/passwd",
            one.join("sync-20260103T000000Z-00000009.log"),
        )
        .unwrap();
        let found = list(&[one, two, root.path().join("absent")]).unwrap();
        let sessions: Vec<&str> = found.iter().map(|f| f.session.as_str()).collect();
        assert_eq!(sessions, ["00000001", "00000003", "00000002"]);
        assert_eq!(found[2].started_at.to_string(), "2026-01-02T03:04:05Z");
    }

    #[test]
    fn a_line_is_taken_apart_and_anything_else_is_damaged() {
        let Entry::Line(line) = Entry::parse(LINE.as_bytes()) else {
            panic!("it is one of ours");
        };
        assert_eq!(line.level, LogLevel::Warning);
        assert_eq!(line.hostname.as_deref(), Some("vega"));
        assert_eq!(line.message, "left alone");
        let keys: Vec<&String> = line.context.keys().collect();
        assert_eq!(keys, ["path"]);
        for damaged in [
            "",
            "null",
            "[1]",
            "{}",
            &LINE[..LINE.len() - 4],
            &LINE.replace("WARNING", "LOUD"),
            &LINE.replace("2026-01-02", "yesterday"),
            &LINE.replace("\"left alone\"", "7"),
        ] {
            assert_eq!(
                Entry::parse(damaged.as_bytes()),
                Entry::Damaged(damaged.to_owned())
            );
        }
        assert_eq!(
            Entry::parse(b"\xff\x1b"),
            Entry::Damaged("\u{fffd}\u{1b}".to_owned())
        );
    }

    #[test]
    fn lines_are_read_as_they_come_and_endless_ones_are_cut() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("log");
        let mut file = File::create(&path).unwrap();
        let mut reader = LogReader::open(&path).unwrap();
        assert_eq!(reader.next_line().unwrap(), None);
        file.write_all(b"one\ntw").unwrap();
        assert_eq!(reader.next_line().unwrap(), Some(b"one".to_vec()));
        assert_eq!(reader.next_line().unwrap(), None);
        file.write_all(b"o\n\n").unwrap();
        assert_eq!(reader.next_line().unwrap(), Some(b"two".to_vec()));
        assert_eq!(reader.next_line().unwrap(), Some(Vec::new()));
        let limit = usize::try_from(MAX_LINE).unwrap();
        let mut long = vec![b'x'; 3 * limit + 17];
        long.extend_from_slice(b"\nlast\nno end");
        file.write_all(&long).unwrap();
        let cut = reader.next_line().unwrap().unwrap();
        assert_eq!(cut.len(), limit);
        assert_eq!(reader.next_line().unwrap(), Some(b"last".to_vec()));
        assert_eq!(reader.next_line().unwrap(), None);
        assert_eq!(reader.rest(), Some(b"no end".to_vec()));
        assert_eq!(reader.rest(), None);
    }

    #[test]
    fn both_ends_of_a_log_say_what_became_of_the_session() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("log");
        let line = |event: &str, more: &str| {
            LINE.replace("\"log\"", &format!("\"{event}\""))
                .replace("\"path\":\"/home\"", more)
        };
        let session = line("session", "\"source\":\"atlas\",\"target\":\"vega\"");
        let closing = line(
            "closing",
            "\"state\":\"COMPLETED\",\"exit_code\":8,\"dry_run\":true",
        );
        let noise = format!("{LINE}\n").repeat(2000);
        std::fs::write(&path, format!("{session}\n{noise}")).unwrap();
        let found = summary(&path).unwrap();
        assert_eq!(found.target.as_deref(), Some("vega"));
        assert_eq!((found.state, found.exit_code), (None, None));
        std::fs::write(&path, format!("{session}\n\0\0\n{noise}{closing}\n")).unwrap();
        let found = summary(&path).unwrap();
        assert_eq!(found.source.as_deref(), Some("atlas"));
        assert_eq!(
            (found.state.as_deref(), found.exit_code, found.dry_run),
            (Some("COMPLETED"), Some(8), Some(true))
        );
    }
}
