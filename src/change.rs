//! What plans consist of: one change, what kind it is, and what many of them come to.

mod digest;

pub use digest::{Amount, Amounts, Digest, Digester, FolderAmounts, Notable};

use crate::escape::escape_bytes;

/// What kind of change an item of a plan is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Action {
    /// Something that was not there.
    Create = b'+',
    /// New content or a new kind of thing.
    Change = b'*',
    /// What was elsewhere before, as it was.
    Rename = b'>',
    /// Attributes only.
    Attributes = b'.',
    /// Gone afterwards.
    Delete = b'-',
}

impl Action {
    /// All kinds, what is lost first.
    pub const ALL: [Self; 5] = [
        Self::Delete,
        Self::Create,
        Self::Change,
        Self::Rename,
        Self::Attributes,
    ];

    /// The sign in front of an item.
    #[must_use]
    pub fn sign(self) -> char {
        char::from(self as u8)
    }

    /// What it does, for programs and people: `delete`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Delete => "delete",
            Self::Create => "create",
            Self::Change => "change",
            Self::Rename => "rename",
            Self::Attributes => "attributes",
        }
    }

    /// The kind for a byte off the wire.
    #[must_use]
    pub fn from_byte(byte: u8) -> Option<Self> {
        (Self::ALL.into_iter()).find(|action| *action as u8 == byte)
    }
}

/// One change of a plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// What happens.
    pub action: Action,
    /// To what: a path (any bytes), a package, a subvolume.
    pub item: Vec<u8>,
    /// Which aspects change, for people ("content, mode").
    pub detail: String,
    /// Bytes that will be written; of a deletion the size of what goes.
    pub bytes: u64,
    /// Of something renamed: what it was called before.
    pub from: Option<Vec<u8>>,
}

impl Change {
    /// What changes, for people and logs: `/home/a`, or `/home/a → /home/b`.
    #[must_use]
    pub fn shown(&self) -> String {
        let item = escape_bytes(&self.item);
        match &self.from {
            Some(from) => format!("{} → {item}", escape_bytes(from)),
            None => item,
        }
    }
}
