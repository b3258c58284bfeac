//! Which paths of a folder may differ between two machines, where an anchor tells: a scan then
//! visits these and nothing else.
//!
//! Both machines must hold the same set, or what one announces the other does not look for: the
//! target sends its part, the source answers with its own, and each joins the two.

use std::cmp::Ordering;
use std::ops::Range;
use std::os::fd::BorrowedFd;

use rustix::io::Errno;

use super::codec::{Malformed, Reader, put_bytes};
use super::moves::Moves;
use super::path::{above, join, split};
use super::plan::RANGES_MAX;
use super::ranges::Ranges;
use super::tree::Names;

/// Paths of one folder at most; with more a full scan is as good.
pub const SUSPECTS_MAX: usize = 200_000;
/// Bytes of these paths at most.
pub const SUSPECT_BYTES_MAX: usize = 64 << 20;
/// Ranges of all these files at most; beyond it, files are compared whole.
const ALL_RANGES_MAX: usize = 1 << 20;

/// What is suspected of a path: a set of bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Mark(u8);

impl Mark {
    /// Equal size and time of a file prove nothing.
    pub const CONTENT: Self = Self(1);
    /// It need not be what was there when both sides were equal.
    pub const OTHER: Self = Self(2);
    /// Everything below as well, in the same way as far as content goes.
    pub const BELOW: Self = Self(4);
    /// Nothing is known of it.
    pub const ANYTHING: Self = Self(7);
    /// Another name of what was found at some other path: to be seen together with that one.
    pub const NAME: Self = Self(8);
    /// Of what came from elsewhere: nothing was written into it.
    pub const AS_WRITTEN: Self = Self(16);
    /// All of them.
    const ALL: Self = Self(31);

    /// Both sets together.
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// This set without those of the other.
    #[must_use]
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// Whether all of `other` is in it.
    #[must_use]
    pub const fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

/// A path that may differ.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Suspect {
    /// Below the folder; empty for the folder itself.
    pub path: Vec<u8>,
    /// In which way.
    pub mark: Mark,
    /// The only parts of the file's content that may differ, if that is known.
    pub ranges: Option<Ranges>,
    /// Of what was elsewhere when both sides were equal: where. Not of a directory that cannot be
    /// moved as it is.
    pub from: Option<Vec<u8>>,
}

impl Suspect {
    /// Of `path`, in the way of `mark`.
    #[must_use]
    pub fn new(path: Vec<u8>, mark: Mark) -> Self {
        Self {
            path,
            mark,
            ranges: None,
            from: None,
        }
    }

    /// Appends the encoding.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let bits = u8::from(self.ranges.is_some()) | u8::from(self.from.is_some()) << 1;
        out.push(self.mark.0 << 2 | bits);
        put_bytes(out, &self.path);
        if let Some(from) = &self.from {
            put_bytes(out, from);
        }
        if let Some(ranges) = &self.ranges {
            ranges.encode(out);
        }
    }

    /// Decodes and checks what [`encode`](Self::encode) wrote.
    pub fn decode(reader: &mut Reader<'_>) -> Result<Self, Malformed> {
        let bits = reader.u8()?;
        if bits >> 2 > Mark::ALL.0 {
            return Err(Malformed("an unknown suspicion"));
        }
        let path = reader.path()?;
        let from = match bits & 2 {
            0 => None,
            _ => Some(reader.path()?),
        };
        let ranges = match bits & 1 {
            0 => None,
            _ => Some(Ranges::decode(reader, RANGES_MAX)?),
        };
        Ok(Self {
            path,
            mark: Mark(bits >> 2),
            ranges,
            from,
        })
    }

    /// What is moved, or comes along with the directory it is in, is what it was.
    pub fn come_along(&mut self, moves: &Moves) {
        if self.from.is_none() || self.from.as_ref() != Some(&moves.before(&self.path)) {
            return;
        }
        let mut other = Mark::BELOW.with(Mark::OTHER);
        if self.mark.has(Mark::AS_WRITTEN) {
            other = other.with(Mark::CONTENT);
        }
        self.mark = self.mark.without(other);
    }

    /// Adds what is suspected of the same path for another reason.
    fn merge(&mut self, other: Self) {
        let content = |s: &Self| s.mark.has(Mark::CONTENT);
        self.ranges = match (content(self), content(&other)) {
            (true, true) => match (self.ranges.take(), other.ranges) {
                (Some(ours), Some(theirs)) => Some(ours.union(&theirs)),
                _ => None,
            },
            (true, false) => self.ranges.take(),
            (false, _) => other.ranges,
        };
        self.mark = self.mark.with(other.mark);
    }
}

/// The order of a walk: what is in a directory directly after it, names in byte order.
pub(super) fn walk_order(a: &[u8], b: &[u8]) -> Ordering {
    // No name holds a zero.
    let key = |byte: &u8| if *byte == b'/' { 0 } else { *byte };
    a.iter().map(key).cmp(b.iter().map(key))
}

/// Whether `path` is below the directory `dir` (everything but the folder is below the folder).
pub(super) fn is_below(path: &[u8], dir: &[u8]) -> bool {
    match path.strip_prefix(dir) {
        Some(rest) if dir.is_empty() => !rest.is_empty(),
        Some(rest) => rest.first() == Some(&b'/'),
        None => false,
    }
}

/// All suspects of a folder.
#[derive(Debug, Default)]
pub struct Suspects {
    /// In the order of a walk, each path once, none below one that is suspected with all in it
    /// unless its ranges are known.
    list: Vec<Suspect>,
    /// Whether the whole folder is suspect.
    everything: bool,
    /// Directories that are moved: of what is in them only what is suspected itself is visited.
    moves: Moves,
}

/// The part of a directory that a walk visits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Within {
    /// Every entry; with `doubted`, none is believed for its size and time.
    All {
        /// Because of a suspicion, not because nothing is known.
        doubted: bool,
    },
    /// The entries that these suspects lead to, by position.
    Only(Range<usize>),
}

/// What a walk does with one entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Visit {
    /// Whether a file's size and time prove nothing.
    pub doubted: bool,
    /// What of it is visited, if it is a directory.
    pub below: Option<Within>,
}

impl FromIterator<Suspect> for Suspects {
    fn from_iter<I: IntoIterator<Item = Suspect>>(suspects: I) -> Self {
        Self::new(suspects, [], Moves::default())
    }
}

impl Suspects {
    /// Of what each machine suspects, by its own names, when these directories are moved on the
    /// target.
    #[must_use]
    pub fn new(
        of_source: impl IntoIterator<Item = Suspect>,
        of_target: impl IntoIterator<Item = Suspect>,
        moves: Moves,
    ) -> Self {
        let of_source = of_source.into_iter().map(|mut suspect| {
            suspect.come_along(&moves);
            suspect
        });
        let of_target = of_target.into_iter().map(|mut suspect| {
            suspect.path = moves.after(&suspect.path);
            suspect
        });
        let mut all: Vec<Suspect> = of_source.chain(of_target).collect();
        all.sort_by(|a, b| walk_order(&a.path, &b.path));
        let mut list: Vec<Suspect> = Vec::with_capacity(all.len());
        let mut everything = false;
        let mut whole: Option<Vec<u8>> = None;
        let mut ranges = 0;
        for mut suspect in all {
            if suspect.path.is_empty() {
                everything |= suspect.mark.has(Mark::BELOW);
                continue;
            }
            let count = suspect.ranges.as_ref().map_or(0, Ranges::len);
            if ranges + count > ALL_RANGES_MAX {
                suspect.ranges = None;
            } else {
                ranges += count;
            }
            if let Some(last) = list.last_mut()
                && last.path == suspect.path
            {
                last.merge(suspect);
                if last.mark.has(Mark::BELOW) {
                    whole = Some(last.path.clone());
                }
                continue;
            }
            if whole.as_ref().is_some_and(|dir| {
                is_below(&suspect.path, dir) && !moves.is_between(&suspect.path, dir)
            }) {
                continue;
            }
            if suspect.mark.has(Mark::BELOW) {
                whole = Some(suspect.path.clone());
            }
            list.push(suspect);
        }
        if everything {
            list.clear();
        }
        Self {
            list,
            everything,
            moves,
        }
    }

    /// Directories that are moved.
    #[must_use]
    pub fn moves(&self) -> &Moves {
        &self.moves
    }

    /// How many paths.
    #[must_use]
    pub fn len(&self) -> usize {
        self.list.len()
    }

    /// Whether nothing but the folder itself is visited.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.list.is_empty() && !self.everything
    }

    /// What is visited of the folder.
    #[must_use]
    pub fn root(&self) -> Within {
        if self.everything {
            Within::All { doubted: true }
        } else {
            Within::Only(0..self.list.len())
        }
    }

    /// The names of the directory `dir` at `path` that a walk visits.
    pub fn read(&self, dir: BorrowedFd<'_>, path: &[u8], within: &Within) -> Result<Names, Errno> {
        match within {
            Within::All { .. } => Names::read(dir),
            Within::Only(range) => Names::pick(dir, self.names(path, range.clone())),
        }
    }

    /// The names in the directory at `path` that `range` leads to, in order.
    pub fn names<'s>(
        &'s self,
        path: &'s [u8],
        range: Range<usize>,
    ) -> impl Iterator<Item = &'s [u8]> {
        let mut at = range.start;
        std::iter::from_fn(move || {
            let name = name_in(&self.list.get(at..range.end)?.first()?.path, path);
            at = self.end_of(path, name, at..range.end);
            Some(name)
        })
    }

    /// Position after the last suspect at or below `name` in `path`, from a start that is not
    /// before them.
    fn end_of(&self, path: &[u8], name: &[u8], range: Range<usize>) -> usize {
        let part = &self.list[range.clone()];
        range.start + part.partition_point(|s| name_in(&s.path, path) <= name)
    }

    /// What a walk does with the entry `name` of the directory at `path`, of which it visits
    /// `within`. An entry that was not to be visited is doubted.
    #[must_use]
    pub fn visit(&self, path: &[u8], within: &Within, name: &[u8]) -> Visit {
        let Within::Only(range) = within else {
            if !self.moves.is_empty() && self.moves.to(&join(path, name)).is_some() {
                let all = Within::Only(self.all_below(path));
                return self.visit(path, &all, name);
            }
            return Visit {
                doubted: matches!(within, Within::All { doubted: true }),
                below: Some(within.clone()),
            };
        };
        let part = &self.list[range.clone()];
        let start = range.start + part.partition_point(|s| name_in(&s.path, path) < name);
        let end = self.end_of(path, name, start..range.end);
        let Some(first) = self.list[start..end].first() else {
            return Visit {
                doubted: true,
                below: None,
            };
        };
        if first.path.len() != path.len() + usize::from(!path.is_empty()) + name.len() {
            // Only the way to suspects.
            return Visit {
                doubted: false,
                below: Some(Within::Only(start..end)),
            };
        }
        let below = if first.mark.has(Mark::BELOW) {
            Some(Within::All {
                doubted: first.mark.has(Mark::CONTENT),
            })
        } else if end - start > 1 {
            Some(Within::Only(start + 1..end))
        } else {
            None
        };
        Visit {
            doubted: first.mark.has(Mark::CONTENT),
            below,
        }
    }

    /// The suspects below `dir`.
    fn all_below(&self, dir: &[u8]) -> Range<usize> {
        let start = (self.list).partition_point(|s| walk_order(&s.path, dir) != Ordering::Greater);
        let count = self.list[start..].partition_point(|s| is_below(&s.path, dir));
        start..start + count
    }

    /// Whether a walk comes to `path`.
    #[must_use]
    pub fn covers(&self, path: &[u8]) -> bool {
        let is_whole = |dir| self.find(dir).is_some_and(|s| s.mark.has(Mark::BELOW));
        self.everything
            || path.is_empty()
            || self.find(path).is_some()
            || above(path).any(|dir| is_whole(dir) && !self.moves.is_between(path, dir))
    }

    /// The only parts of the file at `path` that may differ, if that is known: it was the same file
    /// on both machines, and is on each what it was.
    #[must_use]
    pub fn ranges(&self, path: &[u8]) -> Option<&Ranges> {
        let suspect = self.find(path)?;
        let known = suspect.ranges.as_ref()?;
        (!suspect.mark.has(Mark::OTHER)).then_some(known)
    }

    fn find(&self, path: &[u8]) -> Option<&Suspect> {
        let at = self.list.binary_search_by(|s| walk_order(&s.path, path));
        at.ok().map(|at| &self.list[at])
    }
}

/// The name in the directory `dir` that leads to `path`, which is below it.
fn name_in<'p>(path: &'p [u8], dir: &[u8]) -> &'p [u8] {
    let rest = &path[dir.len() + usize::from(!dir.is_empty())..];
    let end = rest.iter().position(|b| *b == b'/').unwrap_or(rest.len());
    &rest[..end]
}

/// The path that `path`, in the subvolume, has in the folder at `folder` in it; `None` outside.
#[must_use]
pub fn in_folder<'p>(path: &'p [u8], folder: &[u8]) -> Option<&'p [u8]> {
    if folder.is_empty() || path == folder {
        return Some(if folder.is_empty() { path } else { b"" });
    }
    is_below(path, folder).then(|| &path[folder.len() + 1..])
}

/// Whether the directory `dir` is the folder at `folder` or above it.
#[must_use]
pub fn holds_folder(dir: &[u8], folder: &[u8]) -> bool {
    dir == folder || is_below(folder, dir)
}

/// The suspect that the rules of a directory make of it when they change: all of it, because they
/// say what is in scope.
#[must_use]
pub fn of_rules(path: &[u8]) -> Option<Suspect> {
    let (dir, name) = split(path);
    (name == super::filter::DIRECTORY_FILTER_NAME.as_bytes())
        .then(|| Suspect::new(dir.to_vec(), Mark::ANYTHING))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mirror::path::is_valid_path;
    use proptest::prelude::*;

    fn suspects(list: &[(&str, Mark)]) -> Suspects {
        list.iter()
            .map(|(path, mark)| Suspect::new(path.as_bytes().to_vec(), *mark))
            .collect()
    }

    /// Every entry a walk comes to: path, whether it is doubted, and `/` where all below is visited.
    fn walk(suspects: &Suspects, path: &[u8], within: &Within, out: &mut Vec<String>) {
        let Within::Only(range) = within else {
            out.push(format!("{}/**", path.escape_ascii()));
            return;
        };
        for name in suspects.names(path, range.clone()) {
            let visit = suspects.visit(path, within, name);
            let child = join(path, name);
            let doubt = if visit.doubted { "?" } else { "" };
            out.push(format!("{}{doubt}", child.escape_ascii()));
            if let Some(below) = visit.below {
                walk(suspects, &child, &below, out);
            }
        }
    }

    fn walked(suspects: &Suspects) -> Vec<String> {
        let mut out = Vec::new();
        walk(suspects, b"", &suspects.root(), &mut out);
        out
    }

    const NONE: Mark = Mark(0);

    #[test]
    fn a_walk_comes_to_the_suspects_and_the_way_to_them() {
        let found = suspects(&[
            ("b/x", Mark::CONTENT),
            ("a.c", NONE),
            ("a/deep/er", NONE),
            ("a/z", NONE),
            ("a", NONE),
            ("d", Mark::ANYTHING),
            ("d/in", Mark::CONTENT),
            ("d!", NONE),
        ]);
        assert_eq!(
            walked(&found),
            [
                "a",
                "a/deep",
                "a/deep/er",
                "a/z",
                "a.c",
                "b",
                "b/x?",
                "d?",
                "d/**",
                "d!"
            ]
        );
        assert!(walked(&suspects(&[])).is_empty() && suspects(&[]).is_empty());
        assert_eq!(
            walked(&suspects(&[("", Mark::ANYTHING), ("a", NONE)])),
            ["/**"]
        );
        let outside = found.visit(b"a", &Within::Only(1..1), b"other");
        assert!(outside.doubted && outside.below.is_none());
    }

    #[test]
    fn what_both_machines_suspect_is_joined() {
        let ranges = |r: Range<u64>| Some([r].into_iter().collect::<Ranges>());
        let suspect = |mark, ranges| Suspect {
            ranges,
            ..Suspect::new(b"f".to_vec(), mark)
        };
        let joined = |a: Suspect, b: Suspect| {
            let both: [Suspects; 2] = [
                [a.clone(), b.clone()].into_iter().collect(),
                [b, a].into_iter().collect(),
            ];
            let found = both
                .each_ref()
                .map(|s| (s.list[0].mark, s.ranges(b"f").cloned()));
            assert_eq!(found[0], found[1]);
            found[0].clone()
        };
        let data = |r| suspect(Mark::CONTENT, ranges(r));
        let both: Ranges = [0..2, 5..7].into_iter().collect();
        assert_eq!(joined(data(0..2), data(5..7)), (Mark::CONTENT, Some(both)));
        // Attributes alone on one machine say nothing against what is known of the content.
        assert_eq!(
            joined(data(0..2), suspect(NONE, None)),
            (Mark::CONTENT, ranges(0..2))
        );
        // Unknown ranges on one machine, or another file there: all of it.
        assert_eq!(joined(data(0..2), suspect(Mark::CONTENT, None)).1, None);
        let other = Mark::OTHER.with(Mark::CONTENT);
        assert_eq!(joined(data(0..2), suspect(other, None)), (other, None));
    }

    #[test]
    fn paths_of_a_subvolume_are_those_of_the_folder_in_it() {
        for (path, folder, inside) in [
            ("a/b", "", Some("a/b")),
            ("", "", Some("")),
            ("home/a", "home", Some("a")),
            ("home", "home", Some("")),
            ("homework", "home", None),
            ("", "home", None),
        ] {
            let found = in_folder(path.as_bytes(), folder.as_bytes());
            assert_eq!(found, inside.map(str::as_bytes), "{path} {folder}");
        }
        assert!(holds_folder(b"", b"a") && holds_folder(b"a", b"a/b") && holds_folder(b"a", b"a"));
        assert!(!holds_folder(b"a/b", b"a") && !holds_folder(b"a", b"ab"));
    }

    #[test]
    fn a_suspect_survives_the_round_trip_and_no_truncation_is_taken_for_one() {
        let suspect = Suspect {
            ranges: Some([1..5, 9..100].into_iter().collect()),
            from: Some(b"b".to_vec()),
            ..Suspect::new(b"a/\xff".to_vec(), Mark::ANYTHING)
        };
        let mut out = Vec::new();
        suspect.encode(&mut out);
        assert_eq!(Suspect::decode(&mut Reader::new(&out)), Ok(suspect));
        for cut in 0..out.len() {
            assert!(Suspect::decode(&mut Reader::new(&out[..cut])).is_err());
        }
        for bad in [&b"\x80\x01a"[..], b"\x00\x02/a", b"\x02\x01a\x02/a"] {
            assert!(Suspect::decode(&mut Reader::new(bad)).is_err());
        }
    }

    proptest! {
        #[test]
        fn a_walk_covers_exactly_what_is_suspected(
            paths in prop::collection::vec(("[ab./!]{0,8}", 0_u8..8), 0..20),
            asked in "[ab./!]{1,8}",
        ) {
            let valid = |p: &String| is_valid_path(p.as_bytes());
            let list: Vec<(String, u8)> = paths.into_iter().filter(|(p, _)| valid(p)).collect();
            let set: Suspects = list
                .iter()
                .map(|(p, m)| Suspect::new(p.as_bytes().to_vec(), Mark(*m)))
                .collect();
            prop_assume!(valid(&asked));
            let is_named = |p: &[u8]| list.iter().any(|(q, m)| {
                q.as_bytes() == p || (Mark(*m).has(Mark::BELOW) && is_below(p, q.as_bytes()))
            });
            prop_assert_eq!(set.covers(asked.as_bytes()), is_named(asked.as_bytes()));
            // Going down step by step leads to the same.
            let (mut at, mut within, mut reached) = (Vec::new(), Some(set.root()), true);
            for name in asked.as_bytes().split(|b| *b == b'/') {
                let Some(here) = within.take() else { reached = false; break };
                if let Within::Only(range) = &here
                    && !set.names(&at, range.clone()).any(|n| n == name)
                {
                    reached = false;
                    break;
                }
                within = set.visit(&at, &here, name).below;
                at = join(&at, name);
            }
            let leads_on = list.iter().any(|(q, _)| is_below(q.as_bytes(), asked.as_bytes()));
            prop_assert_eq!(reached, is_named(asked.as_bytes()) || leads_on);
        }
    }
}
