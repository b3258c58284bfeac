//! What was moved on the source, directories above all, and is moved on the target instead of being
//! made anew.
//!
//! A move is known by where the thing was when both machines were equal and where it is on the
//! source now. Until the moves are carried out the target has everything where it was: both ways of
//! calling a path are translated here. Each move is one rename, or one exchange of two things
//! both of which move: nothing is ever out of its tree, whenever the machine stops. Where something
//! stands that the source has nowhere any more, it gives way. Directories that something is moved into
//! and that are new themselves are made before.

mod order;
mod space;

use std::collections::{BTreeMap, HashMap, HashSet};

use super::path::{join, split};
use super::suspects::{is_below, walk_order};

/// More than this are not worth their bookkeeping.
pub const MOVES_MAX: usize = 20_000;

/// One thing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Move {
    /// Where it was on both machines.
    pub from: Vec<u8>,
    /// Where it is on the source.
    pub to: Vec<u8>,
}

/// Things to be moved, in the order in which that can be done.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Moves {
    list: Vec<Move>,
    /// Position by where it is.
    by_to: BTreeMap<Vec<u8>, usize>,
    /// Position by where it was.
    by_from: BTreeMap<Vec<u8>, usize>,
    /// Names of what is moved by the directory it is in then.
    arrivals: HashMap<Vec<u8>, Vec<Vec<u8>>>,
    /// Directories that something is moved out of.
    departures: HashSet<Vec<u8>>,
}

/// What the target has at a path before anything is moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Occupied {
    /// Nothing.
    No,
    /// A directory like any other.
    Directory,
    /// Something else.
    Otherwise,
}

/// What is done for one move.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// Where it is when its turn comes.
    pub now: Vec<u8>,
    /// Where it shall be; perhaps it is there already.
    pub to: Vec<u8>,
    /// Which move, a later one, is of what is there, which takes the place of this one.
    pub instead: Option<usize>,
}

impl Moves {
    /// Those of `candidates` that can be carried out one after another on a target of which
    /// `look` tells what is at a path now, and `gives_way` whether that need not stay, with all that is
    /// in it and not moved itself.
    pub fn possible(
        mut candidates: Vec<Move>,
        mut look: impl FnMut(&[u8]) -> Occupied,
        mut gives_way: impl FnMut(&[u8]) -> bool,
    ) -> Self {
        candidates.retain(|m| m.from != m.to && !m.from.is_empty() && !m.to.is_empty());
        candidates.sort_by(|a, b| walk_order(&a.to, &b.to));
        let (mut froms, mut tos) = (HashSet::new(), HashSet::new());
        candidates.retain(|m| froms.insert(m.from.clone()) && tos.insert(m.to.clone()));
        if candidates.len() > MOVES_MAX {
            return Self::default();
        }
        let mut known: HashMap<Vec<u8>, Occupied> = HashMap::new();
        let mut giving: HashMap<Vec<u8>, bool> = HashMap::new();
        loop {
            let moves = Self::of(candidates);
            let look = |path: &[u8]| *known.entry(path.to_vec()).or_insert_with(|| look(path));
            let gives_way = |path: &[u8]| {
                let known = giving.entry(path.to_vec());
                *known.or_insert_with(|| gives_way(path))
            };
            let (order, never) = order::order(&moves, look, gives_way);
            let in_order = || order.iter().map(|at| moves.list[*at].clone()).collect();
            if order.len() == moves.list.len() {
                return Self::of(in_order());
            }
            // Without those that cannot be made, or that wait for each other, the others may do.
            candidates = if never.is_empty() {
                in_order()
            } else {
                let some = moves.list.iter().enumerate();
                some.filter(|(at, _)| !never.contains(at))
                    .map(|(_, m)| m.clone())
                    .collect()
            };
            candidates.sort_by(|a, b| walk_order(&a.to, &b.to));
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

    fn position(&self, m: &Move) -> Option<usize> {
        self.by_to.get(&m.to).copied()
    }

    /// The move that begins at `path`, a path of before.
    #[must_use]
    pub fn from(&self, path: &[u8]) -> Option<&Move> {
        self.by_from.get(path).map(|at| &self.list[*at])
    }

    /// Whether something moved is below `dir` of the source, and `path` in it or it itself.
    #[must_use]
    pub fn is_between(&self, path: &[u8], dir: &[u8]) -> bool {
        longest(&self.by_to, path).is_some_and(|at| is_below(&self.list[at].to, dir))
    }

    /// Names of what is moved into `dir`, a directory of the source.
    #[must_use]
    pub fn arrivals(&self, dir: &[u8]) -> &[Vec<u8>] {
        self.arrivals.get(dir).map_or(&[], Vec::as_slice)
    }

    /// Whether something is moved out of `dir`, a path of before.
    #[must_use]
    pub fn is_left_by_some(&self, dir: &[u8]) -> bool {
        self.departures.contains(dir)
    }

    /// Whether what the target has at `path`, called as the source would call it, is moved away: by
    /// then nothing is there, or what is moved there.
    #[must_use]
    pub fn is_vacated(&self, path: &[u8]) -> bool {
        !self.is_empty() && !self.by_to.contains_key(path) && {
            let (dir, name) = split(path);
            self.by_from.contains_key(&join(&self.before(dir), name))
        }
    }

    /// Where on the target, before anything is moved, that stands which gives way to `m`, if anything
    /// is there.
    #[must_use]
    pub fn over(&self, m: &Move) -> Option<Vec<u8>> {
        let (dir, name) = split(&m.to);
        let path = join(&self.before(dir), name);
        (!self.by_from.contains_key(&path)).then_some(path)
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

    /// What is done for each move, in order.
    #[must_use]
    pub fn steps(&self) -> Vec<Step> {
        order::steps(self)
    }
}

/// The longest of the keys that is `path` or above it.
fn longest(by_path: &BTreeMap<Vec<u8>, usize>, path: &[u8]) -> Option<usize> {
    if by_path.is_empty() {
        return None;
    }
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
    use crate::mirror::path::above;

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
        possible_over(dirs, list, |_| false)
    }

    /// The same where `gives_way` says what need not stay.
    fn possible_over(
        dirs: &[&str],
        list: &[(&str, &str)],
        gives_way: impl FnMut(&[u8]) -> bool,
    ) -> Vec<String> {
        let look = |path: &[u8]| {
            if dirs.iter().any(|dir| dir.as_bytes() == path) {
                Occupied::Directory
            } else {
                Occupied::No
            }
        };
        let found = Moves::possible(moves(list), look, gives_way);
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
        // Into a file, or below one.
        let look = |path: &[u8]| match path {
            b"a" | b"b" => Occupied::Directory,
            b"f" => Occupied::Otherwise,
            _ => Occupied::No,
        };
        let found = Moves::possible(moves(&[("a", "f"), ("b", "f/b")]), look, |_| false);
        assert!(found.is_empty());
        // What is nowhere; and one name for two.
        assert!(possible(&["a"], &[("b", "c")]).is_empty());
        assert_eq!(possible(&["a", "b"], &[("a", "c"), ("b", "c")]).len(), 1);
        assert_eq!(possible(&["a"], &[("a", "b"), ("a", "c")]).len(), 1);
    }

    #[test]
    fn what_a_directory_is_moved_into_may_be_new_and_may_have_the_name_of_one_moved_away() {
        assert_eq!(possible(&["a"], &[("a", "new/deep/a")]), ["a>new/deep/a"]);
        assert_eq!(
            possible(&["a", "b"], &[("a", "z"), ("b", "a/b")]),
            ["a>z", "b>a/b"]
        );
        // Out of what is moved itself, into something new that has its name.
        assert_eq!(
            possible(&["a", "a/b"], &[("a", "z"), ("a/b", "a/b2")]),
            ["a>z", "a/b>a/b2"]
        );
    }

    #[test]
    fn what_goes_gives_way_when_all_is_out_of_it_that_is_moved() {
        let over = |dirs: &[&str], list: &[(&str, &str)]| possible_over(dirs, list, |_| true);
        assert_eq!(over(&["a", "b"], &[("a", "b")]), ["a>b"]);
        let dirs = ["a", "b", "b/x", "c"];
        assert_eq!(over(&dirs, &[("a", "b"), ("b/x", "c")]), ["b/x>c", "a>b"]);
        assert_eq!(over(&dirs, &[("b/x", "b")]), ["b/x>b"]);
        assert_eq!(
            over(&dirs, &[("b/x", "b"), ("a", "b/x")]),
            ["b/x>b", "a>b/x"]
        );
        assert_eq!(over(&dirs, &[("a", "b"), ("b", "c")]), ["b>c", "a>b"]);
        // It would have to come out and go in.
        assert!(over(&dirs, &[("a", "b"), ("b/x", "b/y")]).len() < 2);
        let only_b = |path: &[u8]| path == b"b";
        let list = [("a", "c"), ("c", "b")];
        assert_eq!(possible_over(&dirs, &list, only_b), ["c>b", "a>c"]);
        // What cannot be moved itself gives way as well.
        let list = [("b", "c"), ("a", "b")];
        assert_eq!(possible_over(&dirs, &list, only_b), ["a>b"]);
        assert!(possible_over(&dirs, &[("b", "c")], only_b).is_empty());
    }

    #[test]
    fn one_that_cannot_be_moved_does_not_keep_others_from_it() {
        let list = [("a", "x"), ("a/in", "x/there"), ("b", "y")];
        assert_eq!(
            possible(&["a", "a/in", "b", "x"], &list),
            ["a/in>x/there", "b>y"]
        );
    }

    #[test]
    fn the_last_of_a_cycle_is_where_it_shall_be() {
        let cycle = moves(&[("a", "b"), ("b", "c"), ("c", "a")]);
        let look = |path: &[u8]| match path {
            b"a" | b"b" | b"c" => Occupied::Directory,
            _ => Occupied::No,
        };
        let moves = Moves::possible(cycle, look, |_| false);
        let steps = moves.steps();
        let made = steps.iter().filter(|step| step.now != step.to);
        assert_eq!((steps.len(), made.count()), (3, 2));
        assert!(steps[0].instead.is_some() && steps[2].instead.is_none());
        assert_eq!(steps[2].now, steps[2].to);
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

    /// The same where what is at `to` goes, with all that is in it.
    fn rename_over(dirs: &mut Dirs, from: &[u8], to: &[u8]) {
        rename(dirs, from, b"?");
        dirs.retain(|path, _| path != to && !is_below(path, to));
        rename(dirs, b"?", to);
    }

    proptest! {
        #[test]
        fn carried_out_every_move_leads_where_it_shall(
            renames in prop::collection::vec((0usize..40, 0usize..40, 0usize..7), 0..25),
        ) {
            // A tree of twelve, changed by renames as a person would, with new ones made and old
            // ones removed.
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
            let mut others = false;
            for (step, (from, into, name)) in renames.into_iter().enumerate() {
                let paths: Vec<Vec<u8>> = now.keys().cloned().collect();
                if paths.is_empty() {
                    break;
                }
                let from = paths[from % paths.len()].clone();
                let into = if into % 5 == 0 { Vec::new() } else { paths[into % paths.len()].clone() };
                let to = join(&into, &b"abxydef"[name..=name]);
                match name {
                    5 if !now.contains_key(&to) => {
                        others = true;
                        now.insert(to, 100 + step);
                    }
                    6 if !paths.iter().any(|path| is_below(path, &from)) => {
                        others = true;
                        now.remove(&from);
                    }
                    _ if to != from && !is_below(&to, &from) => {
                        rename_over(&mut now, &from, &to);
                    }
                    _ => {}
                }
            }
            // Those that were moved themselves, not only with what they are in.
            let at = |dirs: &Dirs, number: usize| {
                dirs.iter().find(|(_, n)| **n == number).map(|(path, _)| path.clone())
            };
            let parent = |dirs: &Dirs, path: &[u8]| dirs.get(split(path).0).copied();
            let moved: Vec<Move> = (0..12)
                .filter_map(|number| {
                    let (from, to) = (at(&before, number)?, at(&now, number)?);
                    let stayed = parent(&before, &from) == parent(&now, &to)
                        && split(&from).1 == split(&to).1;
                    (!stayed).then_some(Move { from, to })
                })
                .collect();
            let all = moved.len();
            let look = |path: &[u8]| match before.get(path) {
                Some(_) => Occupied::Directory,
                None => Occupied::No,
            };
            let moves = Moves::possible(moved, look, |_| true);
            let mut tree = before.clone();
            for (step, m) in moves.steps().iter().zip(moves.list()) {
                prop_assert_eq!(&step.to, &m.to);
                for path in above(&step.to) {
                    if !tree.contains_key(path) {
                        tree.insert(path.to_vec(), 1000);
                    }
                }
                if step.now == step.to {
                    continue;
                }
                prop_assert_eq!(tree.get(&step.now), before.get(&m.from), "{:?}", m);
                // What gives way is what was there all the time, and nothing is moved out of it any more.
                let is_over = step.instead.is_none() && tree.contains_key(&step.to);
                if is_over {
                    let over = moves.over(m).and_then(|path| before.get(&path).copied());
                    prop_assert_eq!(tree.get(&step.to).copied(), over);
                }
                prop_assert!(step.instead.is_none() || tree.contains_key(&step.to));
                if let Some(other) = step.instead {
                    let other = &moves.list()[other];
                    prop_assert_eq!(tree.get(&step.to), before.get(&other.from));
                    prop_assert!(!is_below(&step.now, &step.to) && !is_below(&step.to, &step.now));
                    rename(&mut tree, &step.to, b"?");
                    rename(&mut tree, &step.now, &step.to);
                    rename(&mut tree, b"?", &step.now);
                } else {
                    prop_assert!(!is_below(&step.to, &step.now));
                    rename_over(&mut tree, &step.now, &step.to);
                }
            }
            for m in moves.list() {
                prop_assert_eq!(tree.get(&m.to), before.get(&m.from), "{:?} of {:?}", m, moves);
            }
            // Where nothing else was done and all are possible, the whole tree is as it shall be.
            if !others && moves.list().len() == all {
                let left: BTreeSet<usize> = now.values().copied().collect();
                tree.retain(|_, number| left.contains(number));
                prop_assert_eq!(&tree, &now);
            }
            let names: BTreeSet<&Vec<u8>> = moves.list().iter().map(|m| &m.to).collect();
            prop_assert_eq!(names.len(), moves.list().len());
        }
    }
}
