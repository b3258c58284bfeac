//! What the CLI is told while changes are made: each change once it is made, and how far it is.
//!
//! Changes are collected and sent many at once, so that a line in the log for every file costs next to
//! nothing; what was made is told within `TELL_EVERY`, whatever happens next.

use std::time::{Duration, Instant};

use super::codec::Malformed;
use super::entry::Aspects;
use super::frames::Batch;
use super::plan::Op;
use super::wire::Message;
use crate::change::{Action, Change};
use crate::interrupt::Interrupted;

/// How often the CLI is told how far it is, and the longest a change waits.
const TELL_EVERY: Duration = Duration::from_millis(100);

/// The change that a message tells of, planned or made, at its path below the tree; `None` for a message
/// about something else.
pub fn change(message: &Message<'_>) -> Result<Option<Change>, Malformed> {
    let Message::Change {
        action,
        aspects,
        bytes,
        path,
        from,
    } = message
    else {
        return Ok(None);
    };
    Ok(Some(Change {
        action: Action::from_byte(*action).ok_or(Malformed("an unknown kind of change"))?,
        item: path.to_vec(),
        detail: Aspects(*aspects).describe(),
        bytes: *bytes,
        from: from.map(<[u8]>::to_vec),
    }))
}

/// A path below the directory `top`; the empty one is `top` itself.
#[must_use]
pub fn below(top: &[u8], path: &[u8]) -> Vec<u8> {
    let mut whole = top.strip_suffix(b"/").unwrap_or(top).to_vec();
    if !path.is_empty() || whole.is_empty() {
        whole.push(b'/');
    }
    whole.extend_from_slice(path);
    whole
}

/// The same change with whole paths, those that are below the directory `top`.
#[must_use]
pub fn within(top: &[u8], change: Change) -> Change {
    Change {
        item: below(top, &change.item),
        from: change.from.as_ref().map(|from| below(top, from)),
        ..change
    }
}

/// One thread's way to tell the CLI.
pub struct Told<'a> {
    cli: Batch<'a>,
    told_at: Instant,
}

/// What is told of a change, besides its path.
#[derive(Debug, Clone, Copy)]
pub struct Note {
    action: Action,
    aspects: Aspects,
    bytes: u64,
}

impl From<&Op> for Note {
    fn from(op: &Op) -> Self {
        Self {
            action: op.action(),
            aspects: op.aspects,
            bytes: op.bytes_shown(),
        }
    }
}

impl<'a> Told<'a> {
    /// Tells through `cli`.
    #[must_use]
    pub fn new(cli: Batch<'a>) -> Self {
        Self {
            cli,
            told_at: Instant::now(),
        }
    }

    /// The same for another thread.
    #[must_use]
    pub fn another(&self) -> Self {
        Self::new(self.cli.another())
    }

    /// A change was made.
    pub fn made(&mut self, note: Note, path: &[u8]) -> Result<(), Interrupted> {
        self.change(note, path, None)
    }

    /// Something that was at `from` was moved.
    pub fn moved(&mut self, note: Note, from: &[u8], path: &[u8]) -> Result<(), Interrupted> {
        self.change(note, path, Some(from))
    }

    fn change(&mut self, note: Note, path: &[u8], from: Option<&[u8]>) -> Result<(), Interrupted> {
        self.cli.push(&Message::Change {
            action: note.action as u8,
            aspects: note.aspects.0,
            bytes: note.bytes,
            path,
            from,
        })?;
        if self.told_at.elapsed() >= TELL_EVERY {
            self.flush()?;
        }
        Ok(())
    }

    /// How far it is, if it is time to say so.
    pub fn progress(&mut self, items: u64, bytes: u64, path: &[u8]) -> Result<(), Interrupted> {
        self.progress_of(|| (items, bytes), path)
    }

    /// The same where items and bytes must be looked up.
    pub fn progress_of(
        &mut self,
        so_far: impl FnOnce() -> (u64, u64),
        path: &[u8],
    ) -> Result<(), Interrupted> {
        if self.told_at.elapsed() >= TELL_EVERY {
            let (items, bytes) = so_far();
            self.cli.push(&Message::Progress { items, bytes, path })?;
            self.flush()?;
        }
        Ok(())
    }

    /// Sends what was collected.
    pub fn flush(&mut self) -> Result<(), Interrupted> {
        self.told_at = Instant::now();
        self.cli.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_joined_to_places_of_any_form() {
        assert_eq!(below(b"/", b"a/b"), b"/a/b");
        assert_eq!(below(b"/", b""), b"/");
        assert_eq!(below(b"/home", b""), b"/home");
        assert_eq!(below(b"/home/", b"\xff"), b"/home/\xff");
    }

    #[test]
    fn a_change_is_heard_as_it_was_told_and_nothing_else_is_taken_for_one() {
        let told = |action| Message::Change {
            action,
            aspects: Aspects::MTIME,
            bytes: 7,
            path: b"a\xff",
            from: Some(b"b"),
        };
        let heard = change(&told(b'.')).unwrap().expect("a change");
        assert_eq!((heard.action, heard.bytes), (Action::Attributes, 7));
        assert_eq!(heard.item, b"a\xff");
        let whole = within(b"/home", heard);
        assert_eq!(whole.item, b"/home/a\xff");
        assert_eq!(whole.from.as_deref(), Some(&b"/home/b"[..]));
        assert!(change(&told(b'x')).is_err());
        assert_eq!(change(&Message::ScanEnd).unwrap(), None);
    }
}
