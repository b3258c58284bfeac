//! Following names through a send stream, to know which inode each command is about.
//!
//! A stream names things as they are called at that moment of being replayed: by names that only
//! exist in between (`o257-7-0`), below directories that were already moved or are not yet. What is
//! replayed here is only that: which name stands for what. A thing is known either as the one that
//! had some path in the older snapshot, or as a new inode with its number, which the stream says.
//! Nothing of the older snapshot is read: below a directory that was there, every name that no
//! command has touched stands for what had it before.
//!
//! What comes of it is not believed either: the caller looks up in both snapshots what it found.

use std::collections::BTreeMap;

use super::error::DiffError;
use super::parts::Parts;
use super::stream::Command;
use crate::mirror::path::split;

/// A thing that was touched, or leads to one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Id(u32);

/// The root directory of the subvolume.
pub const ROOT: Id = Id(0);

/// Where a thing comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// The root directory.
    Root,
    /// It had this name in the older snapshot.
    Old(Id, Box<[u8]>),
    /// It was made since, with this inode number.
    New(u64),
}

/// The names a thing has now, as far as the stream has said.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Places {
    /// The one it comes from.
    Origin,
    /// These; none at all if it is gone.
    At(Vec<(Id, Box<[u8]>)>),
}

/// Whether the older snapshot had something of a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Had {
    /// Nothing that a command would have told of.
    Nothing,
    /// Something that was removed without anything else being said of it.
    Something,
    /// A directory, likewise.
    Directory,
    /// This.
    Node(Id),
}

/// What is known of a name in a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slot {
    /// What has it now.
    pub now: Option<Id>,
    /// What had it before.
    pub had: Had,
}

impl Slot {
    /// Whether what has it is what had it.
    pub fn is_as_it_was(self) -> bool {
        matches!(self, Self { now: Some(now), had: Had::Node(had) } if now == had)
    }
}

/// What commands said about an inode.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Touch {
    /// Something its item shows.
    pub attributes: bool,
    /// An extended attribute, or something unknown: its item need not show it.
    pub hidden: bool,
    /// Which parts of its data.
    pub content: Parts,
}

impl Touch {
    /// Whether any command was about it.
    pub fn is_any(&self) -> bool {
        self.attributes || self.hidden || !self.content.is_empty()
    }
}

/// A thing.
#[derive(Debug)]
pub struct Node {
    /// Where it comes from.
    pub origin: Origin,
    places: Places,
    /// Whether commands have shown it to be a directory.
    pub is_dir: bool,
    /// Names in it that are not, or no longer, simply what the older snapshot had.
    pub entries: BTreeMap<Box<[u8]>, Slot>,
    /// What was said about it.
    pub touch: Touch,
}

/// The names of a subvolume on the way from one snapshot to the other.
pub struct Names {
    nodes: Vec<Node>,
    /// How much is kept, in rough units of a hundred bytes, and how much may be.
    kept: usize,
    limit: usize,
}

const NOWHERE: DiffError = DiffError::Disagreement("it names a path that is nowhere");

impl Names {
    /// Names as they were in the older snapshot; an error when more than about `limit` paths would
    /// have to be kept in mind.
    pub fn new(limit: usize) -> Self {
        let root = Node {
            origin: Origin::Root,
            places: Places::Origin,
            is_dir: true,
            entries: BTreeMap::new(),
            touch: Touch::default(),
        };
        Self {
            nodes: vec![root],
            kept: 0,
            limit,
        }
    }

    /// All things, with whether they still have a name.
    pub fn nodes(&self) -> impl Iterator<Item = (Id, &Node)> {
        let id = |at| Id(u32::try_from(at).expect("nodes are counted as they are made"));
        self.nodes
            .iter()
            .enumerate()
            .map(move |(at, node)| (id(at), node))
    }

    /// A thing.
    pub fn node(&self, id: Id) -> &Node {
        &self.nodes[id.0 as usize]
    }

    fn node_mut(&mut self, id: Id) -> &mut Node {
        &mut self.nodes[id.0 as usize]
    }

    /// The directories and names a thing is found under now.
    pub fn places(&self, id: Id) -> Vec<(Id, &[u8])> {
        let node = self.node(id);
        match (&node.places, &node.origin) {
            (Places::At(places), _) => places.iter().map(|(dir, name)| (*dir, &**name)).collect(),
            (Places::Origin, Origin::Old(dir, name)) => vec![(*dir, name)],
            (Places::Origin, _) => Vec::new(),
        }
    }

    /// Whether it is where it was in its directory, under no other name besides.
    pub fn is_at_origin(&self, id: Id) -> bool {
        self.node(id).places == Places::Origin
    }

    /// Whether it has no name any more.
    pub fn is_gone(&self, id: Id) -> bool {
        matches!(&self.node(id).places, Places::At(places) if places.is_empty())
    }

    /// Carries out one command.
    pub fn apply(&mut self, command: Command<'_>) -> Result<(), DiffError> {
        match command {
            Command::Snapshot { .. } => {
                return Err(DiffError::Malformed("it begins more than once"));
            }
            Command::Make { path, ino, is_dir } => {
                let (dir, name) = self.parent(path)?;
                let id = self.add(Origin::New(ino), Places::At(Vec::new()), is_dir)?;
                self.attach(id, dir, name)?;
            }
            Command::Rename { from, to } => self.rename(from, to)?,
            Command::Link { existing, path } => {
                let id = self.find(existing)?;
                if self.node(id).is_dir || !self.node(id).entries.is_empty() {
                    return Err(DiffError::Disagreement("it links a directory"));
                }
                let (dir, name) = self.parent(path)?;
                self.check_outside(id, dir)?;
                self.attach(id, dir, name)?;
            }
            Command::Remove { path, is_dir } => self.remove(path, is_dir)?,
            Command::Attributes { path } => self.touch(path)?.attributes = true,
            Command::Xattr { path } => self.touch(path)?.hidden = true,
            Command::Data {
                path,
                offset,
                length,
            }
            | Command::Clone {
                path,
                offset,
                length,
                ..
            } => self.data(path, offset, length)?,
            // What was behind the new end is gone, even if the file has grown again since.
            Command::Truncate { path, size } => self.data(path, size, u64::MAX)?,
            Command::Unknown { path } => {
                let touch = self.touch(path)?;
                touch.hidden = true;
                touch.content.add_all();
            }
            Command::End => {}
        }
        Ok(())
    }

    fn touch(&mut self, path: &[u8]) -> Result<&mut Touch, DiffError> {
        let id = self.find(path)?;
        Ok(&mut self.node_mut(id).touch)
    }

    fn data(&mut self, path: &[u8], offset: u64, length: u64) -> Result<(), DiffError> {
        let id = self.find(path)?;
        let node = self.node_mut(id);
        // A new file is looked at as a whole.
        if !matches!(node.origin, Origin::New(_)) && node.touch.content.add(offset, length) {
            self.keep(1)?;
        }
        Ok(())
    }

    /// Counts what is kept.
    fn keep(&mut self, units: usize) -> Result<(), DiffError> {
        self.kept += units;
        // A path that changed costs a few of them, with the directories that lead to it.
        if self.kept > self.limit.saturating_mul(4).saturating_add(1 << 12) {
            return Err(DiffError::TooMany(self.limit));
        }
        Ok(())
    }

    fn add(&mut self, origin: Origin, places: Places, is_dir: bool) -> Result<Id, DiffError> {
        self.keep(1)?;
        let id = u32::try_from(self.nodes.len()).map_err(|_| DiffError::TooMany(self.limit))?;
        self.nodes.push(Node {
            origin,
            places,
            is_dir,
            entries: BTreeMap::new(),
            touch: Touch::default(),
        });
        Ok(Id(id))
    }

    /// What is at this path now.
    fn find(&mut self, path: &[u8]) -> Result<Id, DiffError> {
        let mut at = ROOT;
        for name in path.split(|b| *b == b'/').filter(|name| !name.is_empty()) {
            at = self.child(at, name)?;
        }
        Ok(at)
    }

    /// The directory a path is in, and its name there.
    fn parent<'a>(&mut self, path: &'a [u8]) -> Result<(Id, &'a [u8]), DiffError> {
        let (dir, name) = split(path);
        let dir = self.find(dir)?;
        self.check_dir(dir)?;
        Ok((dir, name))
    }

    /// A thing that names lead through has exactly one itself: no path ever goes in a circle.
    fn check_dir(&self, id: Id) -> Result<(), DiffError> {
        match &self.node(id).places {
            Places::At(places) if places.len() != 1 => Err(NOWHERE),
            _ => Ok(()),
        }
    }

    /// A name for `id` in `dir` must not make it its own ancestor.
    fn check_outside(&self, id: Id, dir: Id) -> Result<(), DiffError> {
        let mut above = dir;
        while above != ROOT {
            if above == id {
                return Err(DiffError::Disagreement("it puts a directory into itself"));
            }
            above = self.places(above).first().ok_or(NOWHERE)?.0;
        }
        Ok(())
    }

    fn child(&mut self, dir: Id, name: &[u8]) -> Result<Id, DiffError> {
        self.check_dir(dir)?;
        match self.node(dir).entries.get(name) {
            Some(slot) => return slot.now.ok_or(NOWHERE),
            None if matches!(self.node(dir).origin, Origin::New(_)) => return Err(NOWHERE),
            None => {}
        }
        let origin = Origin::Old(dir, name.into());
        let id = self.add(origin, Places::Origin, false)?;
        let slot = Slot {
            now: Some(id),
            had: Had::Node(id),
        };
        self.node_mut(dir).entries.insert(name.into(), slot);
        Ok(id)
    }

    fn attach(&mut self, id: Id, dir: Id, name: &[u8]) -> Result<(), DiffError> {
        let slot = self
            .node_mut(dir)
            .entries
            .entry(name.into())
            .or_insert(Slot {
                now: None,
                had: Had::Nothing,
            });
        if slot.now.replace(id).is_some() {
            return Err(DiffError::Disagreement("it gives one name to two things"));
        }
        self.keep(1)?;
        let node = self.node_mut(id);
        let is_home = matches!(&node.origin, Origin::Old(d, n) if *d == dir && **n == *name);
        match &mut node.places {
            Places::At(places) if places.is_empty() && is_home => node.places = Places::Origin,
            Places::At(places) => places.push((dir, name.into())),
            Places::Origin => {
                let Origin::Old(old_dir, old_name) = &node.origin else {
                    return Err(DiffError::Disagreement("it links a directory"));
                };
                let old = (*old_dir, old_name.clone());
                node.places = Places::At(vec![old, (dir, name.into())]);
            }
        }
        Ok(())
    }

    /// Takes a name from what has it.
    fn detach(&mut self, dir: Id, name: &[u8]) -> Result<Id, DiffError> {
        let entries = &mut self.node_mut(dir).entries;
        let slot = entries.get_mut(name).ok_or(NOWHERE)?;
        let id = slot.now.take().ok_or(NOWHERE)?;
        if slot.had == Had::Nothing {
            entries.remove(name);
        }
        let node = self.node_mut(id);
        match &mut node.places {
            Places::Origin => node.places = Places::At(Vec::new()),
            Places::At(places) => places.retain(|(d, n)| *d != dir || **n != *name),
        }
        Ok(id)
    }

    fn rename(&mut self, from: &[u8], to: &[u8]) -> Result<(), DiffError> {
        let id = self.find(from)?;
        let (from_dir, from_name) = self.parent(from)?;
        let (to_dir, to_name) = self.parent(to)?;
        self.check_outside(id, to_dir)?;
        self.detach(from_dir, from_name)?;
        self.attach(id, to_dir, to_name)
    }

    fn remove(&mut self, path: &[u8], is_dir: bool) -> Result<(), DiffError> {
        let (dir, name) = self.parent(path)?;
        let had = if is_dir {
            Had::Directory
        } else {
            Had::Something
        };
        if !self.node(dir).entries.contains_key(name) {
            // Nothing was said about it: no need to know it any closer.
            if matches!(self.node(dir).origin, Origin::New(_)) {
                return Err(NOWHERE);
            }
            self.keep(1)?;
            let slot = Slot { now: None, had };
            self.node_mut(dir).entries.insert(name.into(), slot);
            return Ok(());
        }
        let id = self.detach(dir, name)?;
        let node = self.node_mut(id);
        if is_dir {
            if node.entries.values().any(|slot| slot.now.is_some()) {
                return Err(DiffError::Disagreement(
                    "it removes a directory that is not empty",
                ));
            }
            node.is_dir = true;
            let freed = std::mem::take(&mut node.entries).len();
            self.kept = self.kept.saturating_sub(freed);
        }
        Ok(())
    }
}
