//! Directories that were moved on the source, and are moved on the target instead of being made anew.
//!
//! A move is known by where the directory was when both machines were equal and where it is on the
//! source now. Until the moves are carried out the target has everything where it was: both ways of
//! calling a path are translated here. Paths are compared in the order of a walk, so a directory is
//! moved before what goes into it, and each move is one rename, or one exchange of two directories
//! both of which move: nothing is ever out of its tree, whenever the machine stops.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::entry::split;
use super::suspects::{is_below, walk_order};

/// More than this are not worth their bookkeeping.
pub const MOVES_MAX: usize = 2000;

/// One directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Move {
    /// Where it was on both machines.
    pub from: Vec<u8>,
    /// Where it is on the source.
    pub to: Vec<u8>,
}

/// Directories to be moved, in the order in which that can be done.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Moves {
    list: Vec<Move>,
    /// Position by where it is.
    by_to: BTreeMap<Vec<u8>, usize>,
    /// Position by where it was.
    by_from: BTreeMap<Vec<u8>, usize>,
    /// Names of moved directories by the directory they are in now.
    arrivals: HashMap<Vec<u8>, Vec<Vec<u8>>>,
    /// Directories that such a directory was in.
    departures: HashSet<Vec<u8>>,
}

/// What the target has at a path where a directory shall come to stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Occupied {
    /// Nothing.
    No,
    /// A directory like any other.
    Directory,
    /// Something else.
    Otherwise,
}

impl Moves {
    /// Those of `candidates` that can be carried out one after another on a target of which
    /// `look` tells what is at a path now.
    pub fn possible(mut candidates: Vec<Move>, mut look: impl FnMut(&[u8]) -> Occupied) -> Self {
        candidates.retain(|m| m.from != m.to && !m.from.is_empty() && !m.to.is_empty());
        candidates.sort_by(|a, b| walk_order(&a.to, &b.to));
        let mut known: HashMap<Vec<u8>, Occupied> = HashMap::new();
        if candidates.len() > MOVES_MAX {
            return Self::default();
        }
        loop {
            let moves = Self::of(candidates);
            let mut occupied =
                |path: &[u8]| *known.entry(path.to_vec()).or_insert_with(|| look(path));
            let bad: HashSet<usize> = (0..moves.list.len())
                .filter(|at| !moves.has_room(*at, &mut occupied))
                .chain(moves.impossible())
                .collect();
            if bad.is_empty() {
                return moves;
            }
            let mut at = 0..;
            candidates = moves.list;
            candidates.retain(|_| !bad.contains(&at.next().expect("it has no end")));
        }
    }

    /// These, in this order.
    #[must_use]
    pub fn of(list: Vec<Move>) -> Self {
        let mut moves = Self {
            list,
            ..Self::default()
        };
        for (at, Move { from, to }) in moves.list.iter().enumerate() {
            moves.by_to.insert(to.clone(), at);
            moves.by_from.insert(from.clone(), at);
            let (dir, name) = split(to);
            let names = moves.arrivals.entry(dir.to_vec()).or_default();
            names.push(name.to_vec());
            moves.departures.insert(split(from).0.to_vec());
        }
        moves
    }

    /// In the order in which they are made.
    #[must_use]
    pub fn list(&self) -> &[Move] {
        &self.list
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// The move that leads to `path`, a path of the source.
    #[must_use]
    pub fn to(&self, path: &[u8]) -> Option<&Move> {
        self.by_to.get(path).map(|at| &self.list[*at])
    }

    /// The move that begins at `path`, a path of before.
    #[must_use]
    pub fn from(&self, path: &[u8]) -> Option<&Move> {
        self.by_from.get(path).map(|at| &self.list[*at])
    }

    /// Whether a moved directory is below `dir` of the source, and `path` in it or it itself.
    #[must_use]
    pub fn is_between(&self, path: &[u8], dir: &[u8]) -> bool {
        longest(&self.by_to, path).is_some_and(|at| is_below(&self.list[at].to, dir))
    }

    /// Names of directories that are moved into `dir`, a directory of the source.
    #[must_use]
    pub fn arrivals(&self, dir: &[u8]) -> &[Vec<u8>] {
        self.arrivals.get(dir).map_or(&[], Vec::as_slice)
    }

    /// Whether directories are moved out of `dir`, a path of before.
    #[must_use]
    pub fn is_left_by_some(&self, dir: &[u8]) -> bool {
        self.departures.contains(dir)
    }

    /// Where on the target, before anything is moved, that is which the source has at `path`.
    #[must_use]
    pub fn before(&self, path: &[u8]) -> Vec<u8> {
        match longest(&self.by_to, path) {
            Some(at) => exchange(path, &self.list[at].to, &self.list[at].from),
            None => path.to_vec(),
        }
    }

    /// Where that is when all has been moved which the target has at `path` before.
    #[must_use]
    pub fn after(&self, path: &[u8]) -> Vec<u8> {
        match longest(&self.by_from, path) {
            Some(at) => exchange(path, &self.list[at].from, &self.list[at].to),
            None => path.to_vec(),
        }
    }

    /// Whether the place of a move is, or becomes, free, and the way to it is there.
    fn has_room(&self, at: usize, look: &mut impl FnMut(&[u8]) -> Occupied) -> bool {
        let to = &self.list[at].to;
        // What is there must move away itself: what is only deleted later is in the way.
        if look(to) != Occupied::No && self.from(to).is_none() {
            return false;
        }
        let mut dir = split(to).0;
        while !dir.is_empty() {
            if self.to(dir).is_some() {
                // Then that one's way counts.
                break;
            }
            // A directory that is still to be made, or has the name of one that must move away, is
            // no place to move anything to.
            if self.from(dir).is_some() || look(&self.before(dir)) != Occupied::Directory {
                return false;
            }
            dir = split(dir).0;
        }
        true
    }

    /// Plays it through; the first move that cannot be made.
    fn impossible(&self) -> Option<usize> {
        self.steps().iter().position(|step| {
            // A directory cannot go into itself, nor trade places with one in it.
            is_below(&step.to, &step.now) || step.instead.is_some() && is_below(&step.now, &step.to)
        })
    }

    /// What is done for each move, in order.
    #[must_use]
    pub fn steps(&self) -> Vec<Step> {
        let mut steps = Steps::default();
        let mut list = Vec::with_capacity(self.list.len());
        for (at, m) in self.list.iter().enumerate() {
            let now = steps.now(&m.from);
            let mut later = at + 1..self.list.len();
            let instead =
                later.find(|later| now != m.to && steps.now(&self.list[*later].from) == m.to);
            steps.made(now.clone(), m.to.clone(), instead.is_some());
            list.push(Step {
                now,
                to: m.to.clone(),
                instead,
            });
        }
        list
    }
}

/// One rename.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// Where the directory is when its turn comes.
    pub now: Vec<u8>,
    /// Where it shall be; perhaps it is there already.
    pub to: Vec<u8>,
    /// Which move, a later one, has its directory there, which takes the place of this one.
    pub instead: Option<usize>,
}

/// Moves made so far, one after another.
#[derive(Debug, Default)]
pub struct Steps(Vec<Made>);

#[derive(Debug)]
struct Made {
    from: Vec<u8>,
    to: Vec<u8>,
    is_exchange: bool,
}

impl Steps {
    /// Where that is now which was at `path` before the first step.
    #[must_use]
    pub fn now(&self, path: &[u8]) -> Vec<u8> {
        let mut now = path.to_vec();
        for step in &self.0 {
            if now == step.from || is_below(&now, &step.from) {
                now = exchange(&now, &step.from, &step.to);
            } else if step.is_exchange && (now == step.to || is_below(&now, &step.to)) {
                now = exchange(&now, &step.to, &step.from);
            }
        }
        now
    }

    /// A step was made.
    pub fn made(&mut self, from: Vec<u8>, to: Vec<u8>, is_exchange: bool) {
        if from != to {
            self.0.push(Made {
                from,
                to,
                is_exchange,
            });
        }
    }
}

/// The longest of the keys that is `path` or above it.
fn longest(by_path: &BTreeMap<Vec<u8>, usize>, path: &[u8]) -> Option<usize> {
    let mut at = path;
    while !at.is_empty() {
        if let Some(found) = by_path.get(at) {
            return Some(*found);
        }
        at = split(at).0;
    }
    None
}

/// `path`, which begins with `old`, with `new` instead.
fn exchange(path: &[u8], old: &[u8], new: &[u8]) -> Vec<u8> {
    [new, &path[old.len()..]].concat()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;
    use crate::mirror::entry::join;

    fn moves(list: &[(&str, &str)]) -> Vec<Move> {
        list.iter()
            .map(|(from, to)| Move {
                from: from.as_bytes().to_vec(),
                to: to.as_bytes().to_vec(),
            })
            .collect()
    }

    /// Those possible where these directories exist.
    fn possible(dirs: &[&str], list: &[(&str, &str)]) -> Vec<String> {
        let found = Moves::possible(moves(list), |path| {
            if dirs.iter().any(|dir| dir.as_bytes() == path) {
                Occupied::Directory
            } else {
                Occupied::No
            }
        });
        let text = |path: &[u8]| String::from_utf8(path.to_vec()).unwrap();
        let list = found.list().iter();
        list.map(|m| format!("{}>{}", text(&m.from), text(&m.to)))
            .collect()
    }

    #[test]
    fn swaps_chains_cycles_and_inversions_are_possible() {
        assert_eq!(possible(&["a", "b"], &[("a", "b"), ("b", "a")]).len(), 2);
        assert_eq!(possible(&["a", "b"], &[("a", "b"), ("b", "c")]).len(), 2);
        let cycle = [("a", "b"), ("b", "c"), ("c", "a")];
        assert_eq!(possible(&["a", "b", "c"], &cycle).len(), 3);
        // The child above its parent.
        assert_eq!(
            possible(&["a", "a/b"], &[("a/b", "b"), ("a", "b/a")]),
            ["a/b>b", "a>b/a"]
        );
    }

    #[test]
    fn what_is_in_the_way_or_passes_a_name_on_to_something_new_is_not_moved() {
        assert!(possible(&["a", "b"], &[("a", "b")]).is_empty());
        assert!(possible(&["a", "b", "c"], &[("a", "b"), ("c", "a")]).is_empty());
        // A new directory `a` shall hold what was `a`.
        assert!(possible(&["a"], &[("a", "a/old")]).is_empty());
        // Parent and child trade places.
        assert!(possible(&["a", "a/b"], &[("a/b", "a"), ("a", "a/b")]).len() < 2);
    }

    #[test]
    fn paths_are_translated_both_ways() {
        let moves = Moves::of(moves(&[("a", "b"), ("a/x", "b/y"), ("c", "a")]));
        for (before, after) in [
            ("a/f", "b/f"),
            ("a/x/f", "b/y/f"),
            ("a", "b"),
            ("c/f", "a/f"),
            ("d/f", "d/f"),
            ("ab", "ab"),
        ] {
            assert_eq!(moves.after(before.as_bytes()), after.as_bytes());
            assert_eq!(moves.before(after.as_bytes()), before.as_bytes());
        }
        assert_eq!(moves.arrivals(b"b"), [b"y".to_vec()]);
        assert!(moves.is_left_by_some(b"a") && moves.is_left_by_some(b""));
    }

    /// A tree of directories, each with a number, by path.
    type Dirs = BTreeMap<Vec<u8>, usize>;

    fn rename(dirs: &mut Dirs, from: &[u8], to: &[u8]) {
        let moved: Vec<(Vec<u8>, usize)> = dirs
            .iter()
            .filter(|(path, _)| *path == from || is_below(path, from))
            .map(|(path, number)| (path.clone(), *number))
            .collect();
        for (path, _) in &moved {
            dirs.remove(path);
        }
        for (path, number) in moved {
            dirs.insert(exchange(&path, from, to), number);
        }
    }

    proptest! {
        #[test]
        fn carried_out_every_move_leads_where_it_shall(
            renames in prop::collection::vec((0usize..40, 0usize..40, 0usize..4), 0..25),
        ) {
            // A tree of twelve, changed by renames as a person would.
            let mut before = Dirs::new();
            for number in 0..12usize {
                let parents: Vec<Vec<u8>> = before.keys().cloned().collect();
                let parent = if number % 3 == 0 || parents.is_empty() {
                    Vec::new()
                } else {
                    parents[number * 7 % parents.len()].clone()
                };
                before.insert(join(&parent, &[b'a' + u8::try_from(number).unwrap()]), number);
            }
            let mut now = before.clone();
            for (from, into, name) in renames {
                let paths: Vec<Vec<u8>> = now.keys().cloned().collect();
                let from = paths[from % paths.len()].clone();
                let into = if into % 5 == 0 { Vec::new() } else { paths[into % paths.len()].clone() };
                let to = join(&into, &b"abxy"[name..=name]);
                if !now.contains_key(&to) && to != from && !is_below(&to, &from) {
                    rename(&mut now, &from, &to);
                }
            }
            // Those that were moved themselves, not only with what they are in.
            let at = |dirs: &Dirs, number: usize| {
                dirs.iter().find(|(_, n)| **n == number).unwrap().0.clone()
            };
            let parent = |dirs: &Dirs, path: &[u8]| dirs.get(split(path).0).copied();
            let moved: Vec<Move> = (0..12)
                .filter_map(|number| {
                    let (from, to) = (at(&before, number), at(&now, number));
                    let stayed = parent(&before, &from) == parent(&now, &to)
                        && split(&from).1 == split(&to).1;
                    (!stayed).then_some(Move { from, to })
                })
                .collect();
            let all = moved.len();
            let moves = Moves::possible(moved, |path| match before.get(path) {
                Some(_) => Occupied::Directory,
                None => Occupied::No,
            });
            let mut tree = before.clone();
            let mut steps = Steps::default();
            for m in moves.list() {
                let from = steps.now(&m.from);
                let is_exchange = from != m.to && tree.contains_key(&m.to);
                prop_assert!(tree.contains_key(&from), "{:?}", m);
                if is_exchange {
                    prop_assert!(!is_below(&from, &m.to) && !is_below(&m.to, &from));
                    rename(&mut tree, &m.to, b"?");
                    rename(&mut tree, &from, &m.to);
                    rename(&mut tree, b"?", &from);
                } else if from != m.to {
                    prop_assert!(!is_below(&m.to, &from));
                    rename(&mut tree, &from, &m.to);
                }
                steps.made(from, m.to.clone(), is_exchange);
            }
            for m in moves.list() {
                prop_assert_eq!(tree.get(&m.to), before.get(&m.from), "{:?} of {:?}", m, moves);
            }
            // Where all are possible, the whole tree is as it shall be.
            if moves.list().len() == all {
                prop_assert_eq!(&tree, &now);
            }
            let names: BTreeSet<&Vec<u8>> = moves.list().iter().map(|m| &m.to).collect();
            prop_assert_eq!(names.len(), moves.list().len());
        }
    }
}
