//! What a plan comes to, so that a person can decide on it: how much of what, where, and the largest.
//!
//! Made in one pass in bounded memory, however many changes there are. Folders are counted down to
//! some depth; which of them are shown is decided at the end: the fewest that tell where the
//! changes are.

use std::collections::BTreeMap;

use super::{Action, Change};
use crate::escape::escape_bytes;

/// Folders counted; what lies in further ones counts for the nearest folder above that is counted.
const MAX_FOLDERS: usize = 20_000;

/// Components of a path that are told apart.
const MAX_DEPTH: usize = 8;

/// Folders shown.
const FOLDERS: usize = 10;

/// Largest changes shown, of those that delete and of those that write.
const LARGEST: usize = 5;

/// A tenth of a kind of change is worth a line of its own.
const MUCH: u64 = 10;

/// Plans of no more changes than this are shown whole.
const FEW: usize = 5;

/// How many changes, and how many bytes they write or free.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Amount {
    /// Changes.
    pub items: u64,
    /// Bytes to write; of deletions the size of what goes.
    pub bytes: u64,
}

impl Amount {
    fn add(&mut self, bytes: u64) {
        self.items += 1;
        self.bytes = self.bytes.saturating_add(bytes);
    }
}

/// Amounts by kind of change.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Amounts([Amount; 5]);

impl Amounts {
    fn add(&mut self, change: &Change) {
        self.0[place(change.action)].add(change.bytes);
    }

    fn less(self, other: Self) -> Self {
        let mut rest = self;
        for (rest, other) in rest.0.iter_mut().zip(other.0) {
            rest.items -= other.items;
            rest.bytes = rest.bytes.saturating_sub(other.bytes);
        }
        rest
    }

    /// Of one kind.
    #[must_use]
    pub fn of(&self, action: Action) -> Amount {
        self.0[place(action)]
    }

    /// Changes of all kinds.
    #[must_use]
    pub fn items(&self) -> u64 {
        self.0.iter().map(|amount| amount.items).sum()
    }

    /// Whether this is a good part of `whole`, for one kind of change at least.
    fn is_much_of(&self, whole: &Self) -> bool {
        let pairs = self.0.iter().zip(&whole.0);
        let mut pairs = pairs.filter(|(part, _)| part.items > 0);
        pairs.any(|(part, whole)| part.items.saturating_mul(MUCH) >= whole.items)
    }

    fn bytes(&self) -> u64 {
        (self.0.iter()).fold(0, |sum, amount| sum.saturating_add(amount.bytes))
    }
}

fn place(action: Action) -> usize {
    match action {
        Action::Delete => 0,
        Action::Create => 1,
        Action::Change => 2,
        Action::Rename => 3,
        Action::Attributes => 4,
    }
}

/// A folder and what changes in it and below; without what is below another folder shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FolderAmounts {
    /// Its path, escaped.
    pub path: String,
    /// What changes.
    pub amounts: Amounts,
}

/// One change worth naming.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notable {
    /// What kind.
    pub action: Action,
    /// Of what, escaped.
    pub item: String,
    /// Bytes to write, or the size of what goes.
    pub bytes: u64,
}

impl Notable {
    fn of(change: &Change) -> Self {
        Self {
            action: change.action,
            item: change.shown(),
            bytes: change.bytes,
        }
    }
}

/// What a module's plan comes to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Digest {
    /// The module's name.
    pub module: String,
    /// All of it.
    pub total: Amounts,
    /// Where most of it is, what is deleted first; empty where the changes are no files, or few.
    pub folders: Vec<FolderAmounts>,
    /// The largest, deletions first; all of them if they are few.
    pub largest: Vec<Notable>,
    /// Whether `largest` is everything.
    pub is_whole: bool,
}

/// A folder while changes are counted.
#[derive(Debug, Default)]
struct Node {
    path: Vec<u8>,
    amounts: Amounts,
    below: BTreeMap<Vec<u8>, usize>,
}

/// Makes a [`Digest`] of changes that come one by one.
#[derive(Debug)]
pub struct Digester {
    module: String,
    nodes: Vec<Node>,
    /// Folders of the change before, from the top, and how long their common path is.
    way: Vec<usize>,
    way_path: Vec<u8>,
    few: Vec<Notable>,
    deleted: Vec<Notable>,
    written: Vec<Notable>,
}

impl Digester {
    /// For the plan of `module`.
    #[must_use]
    pub fn new(module: &str) -> Self {
        Self {
            module: module.to_owned(),
            nodes: vec![Node::default()],
            way: vec![0],
            way_path: Vec::new(),
            few: Vec::new(),
            deleted: Vec::new(),
            written: Vec::new(),
        }
    }

    /// Counts `change`.
    pub fn add(&mut self, change: &Change) {
        self.find(&change.item);
        for at in &self.way {
            self.nodes[*at].amounts.add(change);
        }
        if self.few.len() <= FEW {
            self.few.push(Notable::of(change));
        }
        let largest = match change.action {
            Action::Delete => &mut self.deleted,
            _ => &mut self.written,
        };
        let is_larger = |last: &Notable| change.bytes > last.bytes;
        if change.bytes > 0 && (largest.len() < LARGEST || largest.last().is_some_and(is_larger)) {
            let at = largest.partition_point(|known| known.bytes >= change.bytes);
            largest.insert(at, Notable::of(change));
            largest.truncate(LARGEST);
        }
    }

    /// Makes `way` the folders that hold `item`, as far as they are told apart.
    fn find(&mut self, item: &[u8]) {
        let folder = match item.iter().rposition(|byte| *byte == b'/') {
            Some(end) if item.starts_with(b"/") => &item[..end],
            // A package, a container: in no folder.
            _ => &[],
        };
        if folder == self.way_path {
            return;
        }
        folder.clone_into(&mut self.way_path);
        self.way.truncate(1);
        let mut at = 0;
        let names = folder.split(|byte| *byte == b'/').skip(1);
        for name in names.take(MAX_DEPTH) {
            at = match self.nodes[at].below.get(name) {
                Some(below) => *below,
                None if self.nodes.len() == MAX_FOLDERS => break,
                None => {
                    let new = self.nodes.len();
                    let path = [self.nodes[at].path.as_slice(), b"/", name].concat();
                    self.nodes[at].below.insert(name.to_owned(), new);
                    self.nodes.push(Node {
                        path,
                        ..Node::default()
                    });
                    new
                }
            };
            self.way.push(at);
        }
    }

    /// The digest of what was counted.
    #[must_use]
    pub fn finish(self) -> Digest {
        let total = self.nodes[0].amounts;
        let is_whole = self.few.len() <= FEW;
        let (mut largest, folders) = if is_whole {
            (self.few, Vec::new())
        } else {
            let folders = self.folders();
            ([self.deleted, self.written].concat(), folders)
        };
        largest.sort_by_key(|notable| notable.action != Action::Delete);
        Digest {
            module: self.module,
            total,
            folders,
            largest,
            is_whole,
        }
    }

    /// The few folders that tell where the changes are.
    fn folders(&self) -> Vec<FolderAmounts> {
        let mut shown: Vec<(usize, Amounts)> = vec![self.narrowed(0)];
        let mut whole: Vec<(usize, Amounts)> = Vec::new();
        // The one with the most changes is taken apart, as long as its parts can be shown.
        while let Some(most) = (0..shown.len()).max_by_key(|at| shown[*at].1.items()) {
            let (at, amounts) = shown.swap_remove(most);
            let parts: Vec<(usize, Amounts)> = (self.nodes[at].below.values())
                .map(|below| self.narrowed(*below))
                .collect();
            let rest = (parts.iter()).fold(amounts, |rest, (_, part)| rest.less(*part));
            let own = usize::from(rest.items() > 0);
            let all = parts.iter().map(|(_, part)| part).chain([&rest]);
            let telling = all.filter(|part| part.is_much_of(&amounts)).count();
            if telling < 2 || shown.len() + whole.len() + parts.len() + own > FOLDERS {
                whole.push((at, amounts));
                continue;
            }
            shown.extend(parts);
            if own > 0 {
                whole.push((at, rest));
            }
        }
        whole.sort_by(|(a, left), (b, right)| {
            let weight = |amounts: &Amounts| (amounts.of(Action::Delete).items, amounts.bytes());
            let path = |at: &usize| &self.nodes[*at].path;
            (weight(right).cmp(&weight(left))).then_with(|| path(a).cmp(path(b)))
        });
        (whole.into_iter())
            .filter(|(at, _)| *at != 0)
            .map(|(at, amounts)| FolderAmounts {
                path: escape_bytes(&self.nodes[at].path),
                amounts,
            })
            .collect()
    }

    /// The deepest folder below `at` that holds the same changes.
    fn narrowed(&self, mut at: usize) -> (usize, Amounts) {
        let amounts = self.nodes[at].amounts;
        while let Some(below) =
            (self.nodes[at].below.values()).find(|below| self.nodes[**below].amounts == amounts)
        {
            at = *below;
        }
        (at, amounts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(action: Action, item: &str, bytes: u64) -> Change {
        Change {
            action,
            item: item.as_bytes().to_vec(),
            detail: String::new(),
            bytes,
            from: None,
        }
    }

    fn digest(changes: impl IntoIterator<Item = Change>) -> Digest {
        let mut digester = Digester::new("user_data");
        for change in changes {
            digester.add(&change);
        }
        digester.finish()
    }

    fn paths(digest: &Digest) -> Vec<(&str, u64)> {
        let folders = digest.folders.iter();
        folders
            .map(|folder| (folder.path.as_str(), folder.amounts.items()))
            .collect()
    }

    #[test]
    fn few_changes_are_all_named_deletions_first() {
        let digest = digest([
            change(Action::Create, "/a/b", 0),
            change(Action::Delete, "/a/c\n", 7),
        ]);
        assert!(digest.is_whole && digest.folders.is_empty());
        let named: Vec<&str> = digest.largest.iter().map(|n| n.item.as_str()).collect();
        assert_eq!(named, ["/a/c\\x0a", "/a/b"]);
        assert_eq!(
            digest.total.of(Action::Delete),
            Amount { items: 1, bytes: 7 }
        );
    }

    #[test]
    fn folders_go_as_deep_as_there_is_room_and_deletions_come_first() {
        let mut changes = Vec::new();
        for n in 0..50 {
            changes.push(change(
                Action::Create,
                &format!("/home/dev/work/d{n}/x"),
                10,
            ));
            changes.push(change(
                Action::Create,
                &format!("/home/dev/work/d{n}/y"),
                10,
            ));
        }
        changes.push(change(Action::Delete, "/home/dev/.cache/old/1", 5));
        changes.push(change(Action::Delete, "/home/dev/.cache/old/2", 5));
        changes.push(change(Action::Attributes, "/home/dev/work", 0));
        let digest = digest(changes);
        assert_eq!(
            paths(&digest),
            [
                ("/home/dev/.cache/old", 2),
                ("/home/dev/work", 100),
                ("/home/dev", 1)
            ]
        );
        let all: u64 = digest.folders.iter().map(|f| f.amounts.items()).sum();
        assert_eq!(all, digest.total.items());
    }

    #[test]
    fn a_folder_that_goes_is_one_line_however_it_is_built() {
        let mut changes = vec![change(Action::Create, "/home/dev/new", 10)];
        changes
            .extend((0..90).map(|n| change(Action::Delete, &format!("/home/dev/old/x/y/{n}"), 1)));
        changes.push(change(Action::Delete, "/home/dev/old/x/y", 0));
        changes.push(change(Action::Delete, "/home/dev/old/x", 0));
        changes.push(change(Action::Delete, "/home/dev/old", 0));
        let digest = digest(changes);
        assert_eq!(paths(&digest), [("/home/dev/old", 92), ("/home/dev", 2)]);
    }

    #[test]
    fn the_largest_are_kept_of_deletions_and_of_the_rest() {
        let digest = digest((0..1000).map(|n| {
            let action = if n % 10 == 0 {
                Action::Delete
            } else {
                Action::Change
            };
            change(action, &format!("/d/{n}"), n)
        }));
        let sizes: Vec<u64> = digest.largest.iter().map(|n| n.bytes).collect();
        assert_eq!(sizes, [990, 980, 970, 960, 950, 999, 998, 997, 996, 995]);
    }

    #[test]
    fn what_is_no_path_has_no_folder() {
        let digest = digest((0..20).map(|n| change(Action::Create, &format!("package/{n}"), 1)));
        assert_eq!(digest.total.items(), 20);
        assert_eq!(paths(&digest), []);
    }

    #[test]
    fn memory_is_bounded_whatever_the_names() {
        let mut digester = Digester::new("user_data");
        for n in 0..100_000 {
            digester.add(&change(
                Action::Create,
                &format!("/f/{n}/a/b/c/d/e/f/g/h/i/j/x"),
                1,
            ));
        }
        assert_eq!(digester.nodes.len(), MAX_FOLDERS);
        assert!(digester.nodes.iter().all(|node| node.path.len() < 40));
        let digest = digester.finish();
        assert_eq!(digest.total.items(), 100_000);
        assert_eq!(paths(&digest), [("/f", 100_000)]);
    }
}
