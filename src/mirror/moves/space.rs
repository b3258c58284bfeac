//! What the target has by name while it is moved about in thought, as far as anybody asked: everything
//! else is where it was.

use std::collections::HashMap;

use super::Occupied;
use crate::mirror::path::join;

/// A directory or something else, wherever it is by now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Id(usize);

/// The folder itself.
const TOP: Id = Id(0);

/// What has a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Slot {
    /// Nothing.
    Free,
    /// This.
    Is(Id),
}

struct Node {
    /// Where it was; nothing if it is still to be made.
    before: Option<Vec<u8>>,
    is_dir: bool,
    dir: Id,
    name: Vec<u8>,
    slots: HashMap<Vec<u8>, Slot>,
}

/// All of them. `look` says what is at a path before anything is moved.
pub(super) struct Space<L> {
    nodes: Vec<Node>,
    look: L,
}

impl<L: FnMut(&[u8]) -> Occupied> Space<L> {
    pub(super) fn new(look: L) -> Self {
        let top = Node {
            before: Some(Vec::new()),
            is_dir: true,
            dir: TOP,
            name: Vec::new(),
            slots: HashMap::new(),
        };
        Self {
            nodes: vec![top],
            look,
        }
    }

    fn node(&mut self, id: Id) -> &mut Node {
        &mut self.nodes[id.0]
    }

    /// What has `name` in `dir` now.
    pub(super) fn at(&mut self, dir: Id, name: &[u8]) -> Slot {
        if let Some(slot) = self.node(dir).slots.get(name) {
            return *slot;
        }
        let before = self.node(dir).before.as_ref().map(|dir| join(dir, name));
        let found = before.as_ref().map_or(Occupied::No, |p| (self.look)(p));
        if found == Occupied::No {
            self.put(Slot::Free, dir, name);
            return Slot::Free;
        }
        Slot::Is(self.add(before, found == Occupied::Directory, dir, name))
    }

    fn add(&mut self, before: Option<Vec<u8>>, is_dir: bool, dir: Id, name: &[u8]) -> Id {
        let id = Id(self.nodes.len());
        self.nodes.push(Node {
            before,
            is_dir,
            dir,
            name: name.to_vec(),
            slots: HashMap::new(),
        });
        self.put(Slot::Is(id), dir, name);
        id
    }

    fn put(&mut self, slot: Slot, dir: Id, name: &[u8]) {
        self.node(dir).slots.insert(name.to_vec(), slot);
        if let Slot::Is(id) = slot {
            let node = self.node(id);
            (node.dir, node.name) = (dir, name.to_vec());
        }
    }

    /// Where it was before anything was moved; nothing if it is still to be made.
    pub(super) fn before(&self, id: Id) -> Option<Vec<u8>> {
        self.nodes[id.0].before.clone()
    }

    /// Whether it is a directory.
    pub(super) fn is_dir(&self, id: Id) -> bool {
        self.nodes[id.0].is_dir
    }

    /// What is at `path`, if anything is.
    pub(super) fn find(&mut self, path: &[u8]) -> Option<Id> {
        let mut at = TOP;
        for name in names(path) {
            if !self.is_dir(at) {
                return None;
            }
            match self.at(at, name) {
                Slot::Is(id) => at = id,
                Slot::Free => return None,
            }
        }
        Some(at)
    }

    /// The directory at `path`, made with the way to it as far as there is nothing.
    pub(super) fn find_or_make(&mut self, path: &[u8]) -> Option<Id> {
        let mut at = TOP;
        for name in names(path) {
            at = match self.at(at, name) {
                Slot::Is(id) if self.is_dir(id) => id,
                Slot::Is(_) => return None,
                Slot::Free => self.add(None, true, at, name),
            };
        }
        Some(at)
    }

    /// Where it is now.
    pub(super) fn path(&self, id: Id) -> Vec<u8> {
        let mut names = Vec::new();
        let mut at = id;
        while at != TOP {
            let node = &self.nodes[at.0];
            names.push(&node.name[..]);
            at = node.dir;
        }
        names.reverse();
        names.join(&b'/')
    }

    /// Whether `id` is `dir` or somewhere in it.
    pub(super) fn is_within(&self, id: Id, dir: Id) -> bool {
        let mut at = id;
        while at != dir && at != TOP {
            at = self.nodes[at.0].dir;
        }
        at == dir
    }

    /// Moves it to `name` in `dir`, where nothing is.
    pub(super) fn rename(&mut self, id: Id, dir: Id, name: &[u8]) {
        let (old, old_name) = self.place(id);
        self.put(Slot::Free, old, &old_name);
        self.put(Slot::Is(id), dir, name);
    }

    /// Has two of them, of which neither is in the other, trade places.
    pub(super) fn exchange(&mut self, one: Id, other: Id) {
        let (here, there) = (self.place(one), self.place(other));
        self.put(Slot::Is(one), there.0, &there.1);
        self.put(Slot::Is(other), here.0, &here.1);
    }

    /// The directory that it is in now, and its name there.
    pub(super) fn place(&self, id: Id) -> (Id, Vec<u8>) {
        let node = &self.nodes[id.0];
        (node.dir, node.name.clone())
    }
}

fn names(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    path.split(|b| *b == b'/').filter(|name| !name.is_empty())
}
