//! The plan of a folder: typed operations in the order they will be made, kept on the target.
//!
//! A dry run lists exactly these; a real run carries out exactly these.

use std::collections::{HashMap, HashSet};
use std::io;
use std::sync::Arc;

use super::alike::ALIKE_MIN;
use super::codec::{Malformed, Reader, put_bytes, put_u64};
use super::delta::is_small;
use super::entry::{Aspects, Kind, Meta, Time};
use super::filter::Filter;
use super::moves::{Move, Moves};
use super::ranges::Ranges;
use super::spool::{Spool, SpoolReader, SpoolWriter};
use super::wire::{PlanTotals, put_time, read_time};
use crate::change::Action;

/// What stood at a path when the plan was made; it is only overwritten or deleted while it still
/// is that.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Old {
    /// What kind of thing.
    pub kind: Kind,
    /// Its inode number.
    pub ino: u64,
    /// Its size, if it is a file.
    pub size: u64,
    /// When it was modified.
    pub mtime: Time,
}

impl Old {
    fn encode(this: Option<&Self>, out: &mut Vec<u8>) {
        match this {
            None => out.push(0),
            Some(old) => {
                out.push(old.kind as u8);
                put_u64(out, old.ino);
                put_u64(out, old.size);
                put_time(out, old.mtime);
            }
        }
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Option<Self>, Malformed> {
        Ok(match reader.u8()? {
            0 => None,
            kind => Some(Self {
                kind: Kind::from_byte(kind)?,
                ino: reader.u64()?,
                size: reader.u64()?,
                mtime: read_time(reader)?,
            }),
        })
    }
}

/// What is done to a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Step {
    /// Make a directory.
    MakeDir = 1,
    /// Give an existing directory its attributes.
    DirAttributes = 2,
    /// Write a file with content from the source.
    Fetch = 3,
    /// Give a file new attributes, keeping its content: a reflink copy takes its place.
    Reattribute = 4,
    /// Make a symlink, FIFO, socket or device node.
    MakeNode = 5,
    /// Make a further name of the inode at `meta.leader`.
    Link = 6,
    /// Remove it (a directory is empty by then, or stays).
    Delete = 7,
    /// Move something here as it is.
    Move = 8,
}

/// One operation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Op {
    /// What is done.
    pub step: Step,
    /// Which aspects change.
    pub aspects: Aspects,
    /// Where, below the folder.
    pub path: Vec<u8>,
    /// Of what is moved: where it is before anything is done. Of what is deleted: the same, if it is in
    /// a directory that gives way to what is moved.
    pub from: Option<Vec<u8>>,
    /// What stands there now, if anything; of what is moved, itself.
    pub old: Option<Old>,
    /// Of what is moved: what gives way to it.
    pub over: Option<Old>,
    /// What shall stand there (of no meaning for a deletion).
    pub meta: Meta,
    /// For a file with new content where an anchor tells: outside of these both machines have the
    /// same, so only they are read and sent. `None`: nothing is known.
    pub ranges: Option<Ranges>,
}

/// An operation tells at most this many ranges of a file; see [`Ranges::at_most`].
pub const RANGES_MAX: usize = 1 << 16;

impl Op {
    /// How a person would call it.
    #[must_use]
    pub fn action(&self) -> Action {
        match (self.step, &self.old) {
            (Step::Delete, _) => Action::Delete,
            (Step::Move, _) => Action::Rename,
            (_, None) => Action::Create,
            (Step::DirAttributes | Step::Reattribute, _) => Action::Attributes,
            _ if !self
                .aspects
                .any(Aspects::KIND | Aspects::CONTENT | Aspects::LINK) =>
            {
                Action::Attributes
            }
            _ => Action::Change,
        }
    }

    /// Where what is moved comes from.
    #[must_use]
    pub fn moved_from(&self) -> Option<&[u8]> {
        self.from.as_deref().filter(|_| self.step == Step::Move)
    }

    /// Bytes a person is shown beside it: what will be written, or the size of what goes.
    #[must_use]
    pub fn bytes_shown(&self) -> u64 {
        match (self.step, &self.old) {
            (Step::Delete, Some(old)) if old.kind == Kind::File => old.size,
            _ => self.bytes(),
        }
    }

    /// Bytes on disk it will need.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        if self.step != Step::Fetch {
            return 0;
        }
        // What is not shared with the old version is written, changed or not.
        let shared = self.ranges.as_ref().filter(|_| !is_small(self.meta.size));
        let changed = shared.map_or(u64::MAX, Ranges::total);
        self.meta.allocated.min(self.meta.size).min(changed)
    }

    /// As a record of a spool.
    #[must_use]
    pub fn to_record(&self) -> Vec<u8> {
        let mut record = Vec::new();
        self.encode(&mut record);
        record
    }

    fn encode(&self, out: &mut Vec<u8>) {
        out.push(self.step as u8);
        put_u64(out, u64::from(self.aspects.0));
        put_bytes(out, &self.path);
        out.push(u8::from(self.from.is_some()));
        if let Some(from) = &self.from {
            put_bytes(out, from);
        }
        Old::encode(self.old.as_ref(), out);
        Old::encode(self.over.as_ref(), out);
        self.meta.encode(out, false);
        out.push(u8::from(self.ranges.is_some()));
        if let Some(ranges) = &self.ranges {
            ranges.encode(out);
        }
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, Malformed> {
        let step = match reader.u8()? {
            1 => Step::MakeDir,
            2 => Step::DirAttributes,
            3 => Step::Fetch,
            4 => Step::Reattribute,
            5 => Step::MakeNode,
            6 => Step::Link,
            7 => Step::Delete,
            8 => Step::Move,
            _ => return Err(Malformed("unknown step")),
        };
        let aspects = u16::try_from(reader.u64()?).map_err(|_| Malformed("unknown aspects"))?;
        let aspects = Aspects(aspects);
        let path = reader.path()?;
        let from = match reader.u8()? {
            0 => None,
            _ => Some(reader.path()?),
        };
        let (old, over) = (Old::decode(reader)?, Old::decode(reader)?);
        let meta = Meta::decode(reader)?;
        let ranges = match reader.u8()? {
            0 => None,
            _ => Some(Ranges::decode(reader, RANGES_MAX)?),
        };
        Ok(Self {
            step,
            aspects,
            path,
            from,
            old,
            over,
            meta,
            ranges,
        })
    }
}

/// Sizes of new content that are kept in mind.
const SIZES_MAX: usize = 1 << 16;

/// Collects operations.
pub struct Planner {
    changes: SpoolWriter,
    deletions: SpoolWriter,
    totals: PlanTotals,
    /// Leaders of hard-link groups that get a new inode: all further names must be linked anew.
    new_leaders: HashSet<Vec<u8>>,
    /// How often new content of a size comes that something else could be like.
    sizes: HashMap<u64, u32>,
    buffer: Vec<u8>,
    begun: Time,
}

impl Planner {
    /// With nothing planned.
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            changes: SpoolWriter::new()?,
            deletions: SpoolWriter::new()?,
            totals: PlanTotals::default(),
            new_leaders: HashSet::new(),
            sizes: HashMap::new(),
            buffer: Vec::new(),
            begun: now(),
        })
    }

    /// Counts an entry of the target that is in scope.
    pub fn count_existing(&mut self, entries: u64) {
        self.totals.existing += entries;
    }

    /// Whether the inode at `leader` will be a new one.
    #[must_use]
    pub fn is_new_leader(&self, leader: &[u8]) -> bool {
        self.new_leaders.contains(leader)
    }

    /// Counts a file of `size` bytes that stays, though one of its names changes.
    pub fn count_touched(&mut self, size: u64) {
        self.totals.touched = self.totals.touched.saturating_add(size);
    }

    /// Adds an operation.
    pub fn add(&mut self, op: &Op) -> io::Result<()> {
        match op.action() {
            Action::Create => self.totals.created += 1,
            Action::Change => self.totals.changed += 1,
            Action::Rename => self.totals.renamed += 1,
            Action::Attributes => self.totals.attributes += 1,
            Action::Delete => self.totals.deleted += 1,
        }
        self.totals.bytes = self.totals.bytes.saturating_add(op.bytes());
        if matches!(op.step, Step::Move | Step::Link) {
            let old = op.old.as_ref().map_or(0, |old| old.size);
            self.count_touched(old.max(op.meta.size));
        }
        if op.meta.multi && op.meta.leader.is_none() && op.step != Step::Delete {
            self.new_leaders.insert(op.path.clone());
        }
        let size = op.meta.size;
        if op.step == Step::Fetch
            && size >= ALIKE_MIN
            && (self.sizes.len() < SIZES_MAX || self.sizes.contains_key(&size))
        {
            *self.sizes.entry(size).or_default() += 1;
        }
        self.buffer.clear();
        op.encode(&mut self.buffer);
        if op.step == Step::Delete {
            self.deletions.push(&self.buffer)
        } else {
            self.changes.push(&self.buffer)
        }
    }

    /// The finished plan.
    pub fn finish(self) -> io::Result<FolderPlan> {
        Ok(FolderPlan {
            changes: self.changes.finish()?,
            deletions: self.deletions.finish()?,
            totals: self.totals,
            begun: self.begun,
            sizes: Arc::new(self.sizes),
            filter: None,
        })
    }
}

/// The clock that files get their times from; it lags behind the precise one by up to a tick.
#[must_use]
pub fn now() -> Time {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::RealtimeCoarse);
    Time {
        secs: now.tv_sec,
        nanos: u32::try_from(now.tv_nsec).unwrap_or(0),
    }
}

/// A folder's finished plan.
#[derive(Debug, Clone)]
pub struct FolderPlan {
    changes: Spool,
    deletions: Spool,
    /// When the comparison began.
    pub begun: Time,
    /// Totals.
    pub totals: PlanTotals,
    /// How many files with new content have a size, of those that another file could be like.
    pub sizes: Arc<HashMap<u64, u32>>,
    /// The folder's filter: what is excluded is not even looked at to make other things out of it.
    pub filter: Option<Filter>,
}

impl FolderPlan {
    /// Everything but deletions: directories before what is in them, leaders before links.
    pub fn changes(&self) -> io::Result<Ops> {
        Ok(Ops(self.changes.reader()?))
    }

    /// Deletions: what is in a directory before the directory.
    pub fn deletions(&self) -> io::Result<Ops> {
        Ok(Ops(self.deletions.reader()?))
    }

    /// What is moved before anything else is done, in order.
    pub fn moves(&self) -> io::Result<Moves> {
        let mut list = Vec::new();
        let mut ops = self.changes()?;
        while let Some(op) = ops.next_op()? {
            match op.from {
                Some(from) if op.step == Step::Move => list.push(Move { from, to: op.path }),
                _ => break,
            }
        }
        Ok(Moves::of(list))
    }

    /// The plan without the operations that `keep` refuses; deletions are asked about last.
    pub fn retain(&self, mut keep: impl FnMut(&Op) -> bool) -> io::Result<Self> {
        let mut kept = Planner::new()?;
        kept.begun = self.begun;
        kept.totals.existing = self.totals.existing;
        for mut ops in [self.changes()?, self.deletions()?] {
            while let Some(op) = ops.next_op()? {
                if keep(&op) {
                    kept.add(&op)?;
                }
            }
        }
        let filter = self.filter.clone();
        Ok(Self {
            filter,
            ..kept.finish()?
        })
    }

    /// Whether some of what comes could be like what goes, or like something else that comes.
    #[must_use]
    pub fn may_hold_copies(&self) -> bool {
        let goes = self.totals.changed > 0 || !self.deletions.is_empty();
        !self.sizes.is_empty() && (goes || self.sizes.values().any(|count| *count > 1))
    }

    /// Whether something that goes, or came if it `is_done`, could be like what comes in `wanted` sizes elsewhere.
    #[must_use]
    pub fn may_give(&self, is_done: bool, wanted: &HashMap<u64, u32>) -> bool {
        let goes = self.totals.changed > 0 || !self.deletions.is_empty();
        let comes = || is_done && self.sizes.keys().any(|size| wanted.contains_key(size));
        !wanted.is_empty() && (goes || comes())
    }

    /// Whether nothing is to be done.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty() && self.deletions.is_empty()
    }
}

/// Operations of a plan, in order.
pub struct Ops(SpoolReader);

impl Ops {
    /// Two readers of operations that were put into a spool as records.
    pub fn of(spool: &Spool) -> io::Result<(Self, Self)> {
        Ok((Self(spool.reader()?), Self(spool.reader()?)))
    }

    /// The next one.
    pub fn next_op(&mut self) -> io::Result<Option<Op>> {
        let Some(record) = self.0.next_record()? else {
            return Ok(None);
        };
        Op::decode(&mut Reader::new(record))
            .map(Some)
            .map_err(io::Error::other)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_gives_back_what_was_put_in_with_deletions_apart() {
        let op = |step, path: &[u8], old| Op {
            step,
            aspects: Aspects(Aspects::CONTENT),
            path: path.to_vec(),
            from: None,
            old,
            over: None,
            meta: Meta {
                kind: Kind::File,
                size: 10,
                allocated: 4096,
                multi: true,
                ..Meta::opaque()
            },
            ranges: None,
        };
        let old = Old {
            kind: Kind::Dir,
            ino: 5,
            size: 0,
            mtime: Time { secs: -1, nanos: 2 },
        };
        let create = op(Step::Fetch, b"a", None);
        let delete = op(Step::Delete, b"b", Some(old.clone()));
        let mut change = op(Step::Fetch, b"c", Some(old));
        change.ranges = Some([1..3, 5..9].into_iter().collect());
        // A smaller one is written whole, whatever of it comes.
        (change.meta.size, change.meta.allocated) = (100_000, 102_400);
        let mut planner = Planner::new().unwrap();
        for op in [&create, &delete, &change] {
            planner.add(op).unwrap();
        }
        assert!(planner.is_new_leader(b"a") && !planner.is_new_leader(b"b"));
        let plan = planner.finish().unwrap();
        let mut changes = plan.changes().unwrap();
        assert_eq!(changes.next_op().unwrap(), Some(create));
        assert_eq!(changes.next_op().unwrap(), Some(change));
        assert_eq!(changes.next_op().unwrap(), None);
        assert_eq!(plan.deletions().unwrap().next_op().unwrap(), Some(delete));
        let expected = PlanTotals {
            created: 1,
            changed: 1,
            deleted: 1,
            bytes: 16,
            ..Default::default()
        };
        assert_eq!(plan.totals, expected);

        let without = plan.retain(|op| op.step != Step::Delete && op.path != b"a");
        let without = without.unwrap();
        let expected = PlanTotals {
            changed: 1,
            bytes: 6,
            ..Default::default()
        };
        assert_eq!(without.totals, expected);
        assert!(without.deletions().unwrap().next_op().unwrap().is_none());
    }
}
