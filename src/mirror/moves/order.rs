//! In which order moves can be made, so that each is one rename to a name that is free by then or whose
//! holder gives way, or one exchange of two things that both are still to be moved.

use std::collections::{HashMap, HashSet};

use super::space::{Id, Slot, Space};
use super::{Moves, Occupied, Step};
use crate::mirror::path::{above, split};

/// More exchanges are not worth finding.
const EXCHANGES_MAX: usize = 200;
/// How often it is worth asking whether a directory can give way.
const DIRECTORIES_MAX: usize = 1000;

/// What became of trying to make a move.
enum Tried {
    /// It is where it shall be.
    Done,
    /// Something else must be moved first.
    NotYet,
    /// Never: something is in the way that stays.
    Never,
}

/// Plays it through: positions in `moves` in the order in which they are made, and those that can
/// never be made. Those that are neither wait for each other, or for something that is not moved.
pub(super) fn order(
    moves: &Moves,
    look: impl FnMut(&[u8]) -> Occupied,
    gives_way: impl FnMut(&[u8]) -> bool,
) -> (Vec<usize>, HashSet<usize>) {
    let mut space = Space::new(look);
    let list = moves.list();
    let mut ids = Vec::with_capacity(list.len());
    for m in list {
        ids.push(space.find(&m.from));
    }
    let mut trial = Trial {
        moves,
        space,
        ids: ids.clone(),
        unmoved: HashMap::new(),
        gives_way,
        directories: 0,
    };
    let mut left: Vec<(usize, Id)> = Vec::new();
    let mut never = HashSet::new();
    for (at, id) in ids.into_iter().enumerate() {
        if let Some(id) = id {
            trial.unmoved.insert(id, at);
            left.push((at, id));
        } else {
            never.insert(at);
        }
    }
    let mut order = Vec::with_capacity(left.len());
    let mut exchanges = 0;
    loop {
        let before = left.len();
        left.retain(|(at, id)| match trial.make(*id, &list[*at].to) {
            Tried::Done => {
                trial.unmoved.remove(id);
                order.push(*at);
                false
            }
            Tried::NotYet => true,
            Tried::Never => {
                never.insert(*at);
                false
            }
        });
        if left.len() < before {
            continue;
        }
        // Those left wait for each other.
        let next = (left.iter()).position(|(at, id)| trial.exchange(*id, &list[*at].to));
        let Some(position) = next.filter(|_| exchanges < EXCHANGES_MAX) else {
            return (order, never);
        };
        exchanges += 1;
        let (at, id) = left.remove(position);
        trial.unmoved.remove(&id);
        order.push(at);
    }
}

struct Trial<'m, L, G> {
    moves: &'m Moves,
    space: Space<L>,
    /// What each move is of.
    ids: Vec<Option<Id>>,
    /// What is still to be moved.
    unmoved: HashMap<Id, usize>,
    /// Whether what was at a path need not stay.
    gives_way: G,
    /// How often a directory was asked about.
    directories: usize,
}

impl<L: FnMut(&[u8]) -> Occupied, G: FnMut(&[u8]) -> bool> Trial<'_, L, G> {
    /// Moves `id` to `to` if that can be done now.
    fn make(&mut self, id: Id, to: &[u8]) -> Tried {
        let mut dir = None;
        let mut is_there = true;
        for path in above(to) {
            match self.is_right(path) {
                Ok(Some(found)) => dir = Some(found),
                Ok(None) => is_there = false,
                Err(tried) => return tried,
            }
            if dir.is_some_and(|dir| self.space.is_within(dir, id)) {
                return Tried::NotYet;
            }
            if !is_there {
                break;
            }
        }
        let (parent, name) = split(to);
        if is_there {
            let dir = dir.or_else(|| self.space.find(b"")).expect("the folder");
            match self.space.at(dir, name) {
                Slot::Free => {}
                Slot::Is(other) if other == id => return Tried::Done,
                Slot::Is(other) if self.unmoved.contains_key(&other) => return Tried::NotYet,
                Slot::Is(other) => match self.give_way(other, id) {
                    Tried::Done => {}
                    tried => return tried,
                },
            }
        }
        let Some(dir) = self.space.find_or_make(parent) else {
            return Tried::Never;
        };
        self.space.rename(id, dir, name);
        Tried::Done
    }

    /// Whether `other`, which is not moved, gives way to `id` now.
    fn give_way(&mut self, other: Id, id: Id) -> Tried {
        let Some(before) = self.space.before(other) else {
            return Tried::Never;
        };
        if !(self.gives_way)(&before) {
            return Tried::Never;
        }
        if !self.space.is_dir(other) {
            return Tried::Done;
        }
        self.directories += 1;
        if self.directories > DIRECTORIES_MAX {
            return Tried::Never;
        }
        // What is moved out of it comes first.
        let holds = |inside: &Id| *inside != id && self.space.is_within(*inside, other);
        if self.unmoved.keys().any(holds) {
            return Tried::NotYet;
        }
        Tried::Done
    }

    /// The directory that is to be at `path` in the end, if it is there already or can be made;
    /// everything above is right.
    fn is_right(&mut self, path: &[u8]) -> Result<Option<Id>, Tried> {
        let (parent, name) = split(path);
        let dir = self.space.find(parent).ok_or(Tried::Never)?;
        let shall_come = self.moves.to(path);
        let id = match (self.space.at(dir, name), shall_come) {
            (Slot::Is(id), Some(m)) => match self.unmoved.get(&id) {
                None if self.moves.position(m).and_then(|at| self.ids[at]) == Some(id) => id,
                Some(at) if self.moves.list()[*at] == *m => id,
                // It has still to go, or to give way.
                None | Some(_) => return Err(Tried::NotYet),
            },
            (Slot::Is(id), None) if self.unmoved.contains_key(&id) => return Err(Tried::NotYet),
            (Slot::Is(id), None) => id,
            (Slot::Free, Some(_)) => return Err(Tried::NotYet),
            (Slot::Free, None) => return Ok(None),
        };
        if self.space.is_dir(id) {
            Ok(Some(id))
        } else {
            Err(Tried::Never)
        }
    }

    /// Has `id` trade places with what is at `to` and is still to be moved; whether it could.
    fn exchange(&mut self, id: Id, to: &[u8]) -> bool {
        for path in above(to) {
            if !matches!(self.is_right(path), Ok(Some(_))) {
                return false;
            }
        }
        let (parent, name) = split(to);
        let Some(dir) = self.space.find(parent) else {
            return false;
        };
        match self.space.at(dir, name) {
            Slot::Is(other)
                if self.unmoved.contains_key(&other)
                    && !self.space.is_within(id, other)
                    && !self.space.is_within(other, id) =>
            {
                self.space.exchange(id, other);
                true
            }
            _ => false,
        }
    }
}

/// What is done for each of `moves`, which are in the right order.
pub(super) fn steps(moves: &Moves) -> Vec<Step> {
    // What is asked for is there, unless it was moved away.
    let mut space = Space::new(|_: &[u8]| Occupied::Directory);
    let list = moves.list();
    let ids: Vec<Option<Id>> = list.iter().map(|m| space.find(&m.from)).collect();
    let mut unmoved: HashMap<Id, usize> = HashMap::new();
    unmoved.extend((ids.iter().enumerate()).filter_map(|(at, id)| Some(((*id)?, at))));
    let mut steps = Vec::with_capacity(list.len());
    for (m, id) in list.iter().zip(ids) {
        let (parent, name) = split(&m.to);
        let (Some(id), Some(dir)) = (id, space.find_or_make(parent)) else {
            continue;
        };
        unmoved.remove(&id);
        let now = space.path(id);
        let mut instead = None;
        if now != m.to {
            match space.at(dir, name) {
                Slot::Is(other) if unmoved.contains_key(&other) => {
                    instead = unmoved.get(&other).copied();
                    space.exchange(id, other);
                }
                _ => space.rename(id, dir, name),
            }
        }
        steps.push(Step {
            now,
            to: m.to.clone(),
            instead,
        });
    }
    steps
}
