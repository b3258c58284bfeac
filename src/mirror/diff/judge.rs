//! From what a stream was about to what may differ: both snapshots are asked.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::os::fd::BorrowedFd;

use super::error::DiffError;
use super::fingerprint::Fingerprint;
use super::names::{Had, Id, Names, Origin, Touch};
use super::parts::Parts;
use super::snapshot::{Inode, ROOT_INO, Snapshot};
use super::{Changed, What};
use crate::interrupt::AbortFlag;
use crate::mirror::entry::Kind;
use crate::mirror::path::{above, join};
use crate::mirror::ranges::Ranges;
use crate::mirror::tree::kind_of;
use crate::sys::inodes::{InodeItem, Target};

/// Inodes looked up in one go.
const BATCH: usize = 1024;

const NO_INODE: DiffError = DiffError::Disagreement("it names an inode that is nowhere");

/// Looks up everything `names` has heard of.
pub fn judge(
    names: &Names,
    (older, newer): (BorrowedFd<'_>, BorrowedFd<'_>),
    was: &Fingerprint,
    limit: usize,
    abort: &AbortFlag,
) -> Result<Vec<Changed>, DiffError> {
    let mut judge = Judge {
        names,
        older: Snapshot::new(older),
        newer: Snapshot::new(newer),
        since: was.created_generation + 1,
        numbers: HashMap::new(),
        directories: Vec::new(),
        moved_directories: HashSet::new(),
        found: BTreeMap::new(),
        limit,
    };
    let mut wanted = judge.wanted(abort)?;
    wanted.sort_unstable();
    for batch in batches(&wanted) {
        abort.check()?;
        judge.batch(batch)?;
    }
    for directory in std::mem::take(&mut judge.directories) {
        abort.check()?;
        judge.entries(&directory)?;
    }
    judge.finish()
}

/// Pieces of a list sorted by number, all of one number in one piece.
fn batches(mut wanted: &[(u64, Id)]) -> impl Iterator<Item = &[(u64, Id)]> {
    std::iter::from_fn(move || {
        let mut end = wanted.len().min(BATCH);
        while end > 0 && end < wanted.len() && wanted[end].0 == wanted[end - 1].0 {
            end += 1;
        }
        let (piece, rest) = wanted.split_at(end);
        wanted = rest;
        (!piece.is_empty()).then_some(piece)
    })
}

/// A directory that is in both snapshots and may have other entries now.
struct Directory {
    id: Id,
    ino: u64,
    /// Its size before and now: two bytes for each byte of its entries' names.
    sizes: (u64, u64),
    old_path: Vec<u8>,
    new_path: Vec<u8>,
}

struct Judge<'a> {
    names: &'a Names,
    older: Snapshot<'a>,
    newer: Snapshot<'a>,
    /// The first generation that is not in the older snapshot.
    since: u64,
    /// Inode numbers that were looked up.
    numbers: HashMap<Id, u64>,
    directories: Vec<Directory>,
    /// Directories of the older snapshot that have another name or directory now.
    moved_directories: HashSet<Id>,
    found: BTreeMap<Vec<u8>, Changed>,
    limit: usize,
}

impl Judge<'_> {
    /// What has to be looked up, with inode numbers: what was touched, moved, or has other entries;
    /// of what is new, the tops.
    fn wanted(&mut self, abort: &AbortFlag) -> Result<Vec<(u64, Id)>, DiffError> {
        let names = self.names;
        let mut wanted = Vec::new();
        for (id, node) in names.nodes() {
            if names.is_gone(id) {
                continue;
            }
            let is_wanted = match node.origin {
                Origin::New(_) => {
                    let in_old =
                        |(dir, _): &(Id, _)| !matches!(names.node(*dir).origin, Origin::New(_));
                    names.places(id).iter().any(in_old)
                }
                Origin::Root | Origin::Old(..) => {
                    node.touch.is_any()
                        || !names.is_at_origin(id)
                        || node.entries.values().any(|slot| !slot.is_as_it_was())
                }
            };
            if is_wanted {
                abort.check()?;
                wanted.push((self.number(id)?, id));
            }
        }
        Ok(wanted)
    }

    /// The inode number of a thing.
    fn number(&mut self, id: Id) -> Result<u64, DiffError> {
        let mut down = Vec::new();
        let mut at = id;
        let mut number = loop {
            if let Some(known) = self.numbers.get(&at) {
                break *known;
            }
            match &self.names.node(at).origin {
                Origin::Root => break ROOT_INO,
                Origin::New(number) => break *number,
                Origin::Old(dir, name) => {
                    down.push((at, name));
                    at = *dir;
                }
            }
        };
        for (id, name) in down.into_iter().rev() {
            number = match self.older.child(number, name)? {
                Some(Target::Inode(number)) => number,
                Some(Target::Subvolume(_)) | None => return Err(NO_INODE),
            };
            self.numbers.insert(id, number);
        }
        Ok(number)
    }

    fn batch(&mut self, batch: &[(u64, Id)]) -> Result<(), DiffError> {
        let is_new = |id: Id| matches!(self.names.node(id).origin, Origin::New(_));
        let mut all: Vec<u64> = batch.iter().map(|(number, _)| *number).collect();
        all.dedup();
        let mut old: Vec<u64> = batch
            .iter()
            .filter(|(_, id)| !is_new(*id))
            .map(|(number, _)| *number)
            .collect();
        old.dedup();
        let newer = self.newer.inodes(&all)?;
        let older = self.older.inodes(&old)?;
        for same in batch.chunk_by(|a, b| a.0 == b.0) {
            let number = same[0].0;
            let ids: Vec<Id> = same.iter().map(|(_, id)| *id).collect();
            let now = newer.get(&number).ok_or(NO_INODE)?;
            match ids.iter().filter(|id| is_new(**id)).count() {
                0 => {
                    let before = older.get(&number).ok_or(NO_INODE)?;
                    self.existing(number, &ids, before, now)?;
                }
                1 if ids.len() == 1 => self.made(ids[0], now)?,
                _ => {
                    return Err(DiffError::Disagreement("two things have one inode number"));
                }
            }
        }
        Ok(())
    }

    /// Something that was made since.
    fn made(&mut self, id: Id, now: &Inode) -> Result<(), DiffError> {
        self.check_places(&[id], None, now)?;
        let what = if is_dir(&now.item) {
            What::APPEARED.with(What::SUBTREE)
        } else {
            What::APPEARED
        };
        for (dir, name) in &now.names {
            let path = self.newer.path(*dir, name)?;
            self.add(path, what, Ranges::default(), None)?;
        }
        Ok(())
    }

    /// Something that is in both snapshots.
    fn existing(
        &mut self,
        number: u64,
        ids: &[Id],
        before: &Inode,
        now: &Inode,
    ) -> Result<(), DiffError> {
        if before.item.generation != now.item.generation
            || kind_of(before.item.mode) != kind_of(now.item.mode)
        {
            return Err(DiffError::Disagreement("an inode became another one"));
        }
        let is_dir = is_dir(&now.item);
        let (old_paths, new_paths) = if number == ROOT_INO {
            (vec![Vec::new()], vec![Vec::new()])
        } else {
            self.check_places(ids, Some(before), now)?;
            (
                paths(&mut self.older, before)?,
                paths(&mut self.newer, now)?,
            )
        };
        if is_dir {
            let id = ids[0];
            if ids.len() > 1 || old_paths.len() != 1 || new_paths.len() != 1 {
                return Err(DiffError::Disagreement("a directory has several names"));
            }
            if !self.names.is_at_origin(id) {
                self.moved_directories.insert(id);
            }
            self.directories.push(Directory {
                id,
                ino: number,
                sizes: (before.item.size, now.item.size),
                old_path: old_paths[0].clone(),
                new_path: new_paths[0].clone(),
            });
        }
        let touches = ids.iter().map(|id| &self.names.node(*id).touch);
        let (mut what, ranges) = difference(touches, &before.item, &now.item);
        let is_linked = before.item.nlink > 1 || now.item.nlink > 1;
        if is_linked && old_paths.iter().any(|old| !new_paths.contains(old)) {
            // The names it keeps share their inode with others than before.
            what = what.with(What::ATTRIBUTES);
        }
        let subtree = if is_dir {
            What::SUBTREE
        } else {
            What::default()
        };
        for (path, name) in new_paths.iter().zip(&now.names) {
            if let Some(at) = old_paths.iter().position(|old| old == path) {
                if before.names.get(at) != Some(name) {
                    // It has taken the place of what would be here if directories above it had been
                    // moved and nothing else: for that, not for its path, it is another thing.
                    let other = What::APPEARED.with(What::GONE).with(subtree);
                    let content = if is_dir {
                        What::default()
                    } else {
                        What::CONTENT
                    };
                    let what = what.with(other).with(content);
                    self.add(path.clone(), what, Ranges::default(), None)?;
                } else if !what.is_empty() {
                    self.add(path.clone(), what, ranges.clone(), None)?;
                }
                continue;
            }
            // Moved with its directory, or one of the names it no longer has.
            let with_directory = before.names.iter().position(|old| old == name);
            let given_up = || old_paths.iter().position(|old| !new_paths.contains(old));
            if with_directory.is_some() && what.is_empty() {
                // The directory that was moved says it.
                continue;
            }
            let from = with_directory
                .or_else(given_up)
                .map(|at| old_paths[at].clone());
            let appeared = What::APPEARED.with(subtree);
            // One more name of something: what differs is no difference to what was here before.
            let (what, ranges) = match from {
                Some(_) => (what.with(appeared), ranges.clone()),
                None => (appeared, Ranges::default()),
            };
            self.add(path.clone(), what, ranges, from)?;
        }
        for path in old_paths {
            if !new_paths.contains(&path) {
                self.add(path, What::GONE.with(subtree), Ranges::default(), None)?;
            }
        }
        Ok(())
    }

    /// Whether the names a thing has according to the stream are those it has.
    fn check_places(
        &mut self,
        ids: &[Id],
        before: Option<&Inode>,
        now: &Inode,
    ) -> Result<(), DiffError> {
        let names = self.names;
        let mut said: Vec<(u64, &[u8])> = Vec::new();
        for id in ids {
            for (dir, name) in names.places(*id) {
                said.push((self.number(dir)?, name));
            }
        }
        let has = |inode: &Inode, place: &(u64, &[u8])| {
            let mut names = inode.names.iter();
            names.any(|(dir, name)| *dir == place.0 && **name == *place.1)
        };
        let is_explained = |(dir, name): &(u64, Box<[u8]>)| {
            let place = (*dir, &**name);
            said.contains(&place) || before.is_some_and(|before| has(before, &place))
        };
        if said.iter().all(|place| has(now, place)) && now.names.iter().all(is_explained) {
            Ok(())
        } else {
            Err(DiffError::Disagreement("something is not where it says"))
        }
    }

    /// The entries of a directory: what went away, and nested subvolumes.
    fn entries(&mut self, directory: &Directory) -> Result<(), DiffError> {
        let names = self.names;
        let mut balance = i128::from(directory.sizes.0);
        let mut nested = Vec::new();
        for (name, slot) in &names.node(directory.id).entries {
            if slot.is_as_it_was() {
                continue;
            }
            let weight = 2 * i128::try_from(name.len()).expect("a name is short");
            if slot.now.is_some() {
                balance += weight;
            }
            if slot.had != Had::Nothing {
                balance -= weight;
                self.gone(directory, name, slot.had)?;
            }
        }
        self.newer.entries(directory.ino, self.since, |entry| {
            if let Target::Subvolume(_) = entry.target {
                nested.push(entry.name.to_vec());
            }
        })?;
        for name in &nested {
            balance += 2 * i128::try_from(name.len()).expect("a name is short");
            let path = join(&directory.new_path, name);
            self.add(
                path,
                What::APPEARED.with(What::NESTED).with(What::SUBTREE),
                Ranges::default(),
                None,
            )?;
        }
        if balance == i128::from(directory.sizes.1) {
            return Ok(());
        }
        self.compare_entries(directory)
    }

    /// Compares all entries of a directory, because the changes known do not make up its size:
    /// a nested subvolume vanished, or the stream was misunderstood.
    fn compare_entries(&mut self, directory: &Directory) -> Result<(), DiffError> {
        let mut before: BTreeMap<Vec<u8>, Target> = BTreeMap::new();
        let mut now = before.clone();
        self.older.entries(directory.ino, 0, |entry| {
            before.insert(entry.name.to_vec(), entry.target);
        })?;
        self.newer.entries(directory.ino, 0, |entry| {
            now.insert(entry.name.to_vec(), entry.target);
        })?;
        let entries = &self.names.node(directory.id).entries;
        for (name, target) in &before {
            if now.get(name) == Some(target) {
                continue;
            }
            match target {
                Target::Subvolume(_) => {
                    let path = join(&directory.new_path, name);
                    let what = What::GONE.with(What::NESTED).with(What::SUBTREE);
                    let from = (directory.old_path != directory.new_path)
                        .then(|| join(&directory.old_path, name));
                    self.add(path, what, Ranges::default(), from)?;
                }
                Target::Inode(_) => {
                    let known = entries.get(&**name).copied();
                    let is_explained =
                        known.is_some_and(|slot| slot.had != Had::Nothing && !slot.is_as_it_was());
                    if !is_explained {
                        return Err(DiffError::Disagreement(
                            "a name is gone and it does not say so",
                        ));
                    }
                }
            }
        }
        for (name, target) in &now {
            if before.get(name) == Some(target) || matches!(target, Target::Subvolume(_)) {
                continue;
            }
            let known = entries.get(&**name).and_then(|slot| slot.now);
            if known.is_none() {
                return Err(DiffError::Disagreement(
                    "a name is new and it does not say so",
                ));
            }
        }
        Ok(())
    }

    /// An entry that something of the older snapshot had and has no longer.
    fn gone(&mut self, directory: &Directory, name: &[u8], had: Had) -> Result<(), DiffError> {
        let is_directory = match had {
            Had::Directory => true,
            Had::Node(id) => self.names.node(id).is_dir || self.moved_directories.contains(&id),
            Had::Something | Had::Nothing => false,
        };
        let what = if is_directory {
            What::GONE.with(What::SUBTREE)
        } else {
            What::GONE
        };
        let from =
            (directory.old_path != directory.new_path).then(|| join(&directory.old_path, name));
        self.add(
            join(&directory.new_path, name),
            what,
            Ranges::default(),
            from,
        )
    }

    /// Adds to what is said of a path.
    fn add(
        &mut self,
        path: Vec<u8>,
        what: What,
        ranges: Ranges,
        from: Option<Vec<u8>>,
    ) -> Result<(), DiffError> {
        // What is below something gone is dropped in the end: there may be more of it.
        if self.found.len() > self.limit.saturating_mul(4) {
            return Err(DiffError::TooMany(self.limit));
        }
        match self.found.entry(path) {
            std::collections::btree_map::Entry::Vacant(vacant) => {
                let path = vacant.key().clone();
                vacant.insert(Changed {
                    path,
                    what,
                    ranges,
                    from,
                });
            }
            std::collections::btree_map::Entry::Occupied(mut occupied) => {
                let known = occupied.get_mut();
                // One inode at a time has a name, so only one speaks of content.
                if !ranges.is_empty() {
                    known.ranges = ranges;
                }
                // Where it came from is said of what is here, if anything is.
                if what.has(What::APPEARED) || !known.what.has(What::APPEARED) && from.is_some() {
                    known.from = from;
                }
                known.what = known.what.with(what);
            }
        }
        Ok(())
    }

    /// Leaves out what is said by something above it.
    fn finish(self) -> Result<Vec<Changed>, DiffError> {
        let gone = What::GONE.with(What::SUBTREE);
        let is_said_above = |changed: &Changed| {
            let more = [
                What::APPEARED,
                What::CONTENT,
                What::ATTRIBUTES,
                What::NESTED,
            ];
            changed.from.is_none()
                && !more.into_iter().any(|bit| changed.what.has(bit))
                && above(&changed.path)
                    .any(|dir| self.found.get(dir).is_some_and(|c| c.what.has(gone)))
        };
        let said: HashSet<Vec<u8>> = self
            .found
            .values()
            .filter(|changed| is_said_above(changed))
            .map(|changed| changed.path.clone())
            .collect();
        let list: Vec<Changed> = self
            .found
            .into_values()
            .filter(|changed| !said.contains(&changed.path))
            .collect();
        if list.len() > self.limit {
            return Err(DiffError::TooMany(self.limit));
        }
        Ok(list)
    }
}

fn is_dir(item: &InodeItem) -> bool {
    kind_of(item.mode) == Kind::Dir
}

fn paths(snapshot: &mut Snapshot<'_>, inode: &Inode) -> Result<Vec<Vec<u8>>, DiffError> {
    let names = inode.names.iter();
    names.map(|(dir, name)| snapshot.path(*dir, name)).collect()
}

/// What differs between two states of one inode, and where in its data.
fn difference<'a>(
    touches: impl Iterator<Item = &'a Touch>,
    before: &InodeItem,
    now: &InodeItem,
) -> (What, Ranges) {
    let seen = |item: &InodeItem| {
        // A directory's size is that of its entries, which are looked at for themselves.
        let sizes = (!is_dir(item)).then_some((item.size, item.allocated));
        let attributes = (item.mode, item.uid, item.gid, item.rdev, item.disk_flags);
        let mtime = (item.mtime_secs, item.mtime_nanos);
        (attributes, mtime, sizes, item.nlink)
    };
    let mut differs = seen(before) != seen(now);
    let mut content = Parts::default();
    for touch in touches {
        differs |= touch.hidden;
        content.add_parts(&touch.content);
    }
    let (short, long) = (before.size.min(now.size), before.size.max(now.size));
    if !is_dir(now) {
        content.add(short, long - short);
    }
    let mut what = What::default();
    if differs {
        what = what.with(What::ATTRIBUTES);
    }
    let ranges = content.up_to(long);
    if ranges.as_ref().is_none_or(|ranges| !ranges.is_empty()) {
        what = what.with(What::CONTENT);
    }
    (what, ranges.unwrap_or_default())
}
