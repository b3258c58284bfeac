//! What plans consist of: one change, and what kind it is.

/// What kind of change an item of a plan is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Action {
    /// Something that was not there.
    Create = b'+',
    /// New content or a new kind of thing.
    Change = b'*',
    /// Attributes only.
    Attributes = b'.',
    /// Gone afterwards.
    Delete = b'-',
}

impl Action {
    /// The kind for a byte off the wire.
    #[must_use]
    pub fn from_byte(byte: u8) -> Option<Self> {
        let all = [Self::Create, Self::Change, Self::Attributes, Self::Delete];
        all.into_iter().find(|action| *action as u8 == byte)
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
    /// Bytes that will be written.
    pub bytes: u64,
}
