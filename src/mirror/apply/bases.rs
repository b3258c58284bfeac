//! Other files of this machine that a new one is made out of, so that what is here need not be sent.
//!
//! The source names those that share data with the one that is wanted. Without it, a file of the same size
//! that the plan deletes, replaces or makes, and that has the same time or name, is taken for the same: a
//! copy, or something moved that nobody has seen move. So is one of another folder's plan (`others`). Either is a guess. The file is opened confined to the
//! folder and its filter, what is taken of it is a copy that nobody else can write to, and all of that is
//! compared with what the source says (`delta`): a wrong guess costs a question, and after some wrong ones
//! nothing is guessed any more.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::io::Errno;

use super::hand::Spot;
use super::others::{Opener, Other};
use crate::mirror::alike::{ALIKE_MIN, Named};
use crate::mirror::delta;
use crate::mirror::entry::{Kind, Time};
use crate::mirror::path::split;
use crate::mirror::place::{DirCache, Shared};
use crate::mirror::plan::{FolderPlan, Old, Op, Step};
use crate::mirror::scope::Way;

/// Files that others may be like.
const CANDIDATES_MAX: usize = 4096;
/// ... and as many of one size.
const OF_A_SIZE_MAX: usize = 256;
/// Files made just now that are kept in mind for others.
const MADE_MAX: usize = 1 << 16;
/// So many guesses may be wrong, and twice as many as were right.
const WRONG_MAX: u32 = 4;

/// Where a base is.
pub(super) enum Base {
    /// Here.
    File(Arc<OwnedFd>),
    /// It is being made; if it `will_come`, of its content and nothing else, so that it waits for nobody.
    Awaited { will_come: bool },
    /// Nowhere.
    Nothing,
}

/// What became of a file that others may be made out of.
enum Made {
    Awaited {
        will_come: bool,
    },
    /// It is there, until it is placed.
    At(Spot),
    Failed,
}

/// A file that another may be like.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Candidate {
    /// The folder it is in: 0 the one at hand, the others from 1.
    folder: u64,
    path: Vec<u8>,
    mtime: Time,
    /// The plan makes it; else it is there.
    is_new: bool,
}

impl Candidate {
    fn is_at(&self, path: &[u8]) -> bool {
        self.folder == 0 && self.path == path
    }
}

/// Candidates by size, and how many they are.
#[derive(Default)]
struct Candidates {
    of_size: HashMap<u64, Vec<Candidate>>,
    count: usize,
}

impl Candidates {
    fn is_full(&self) -> bool {
        self.count >= CANDIDATES_MAX
    }

    /// Adds what `op` of this folder's plan gives for `wanted` sizes of new content. What `has_come` is there as it
    /// shall be.
    fn add(&mut self, op: &Op, folder: u64, has_come: bool, wanted: &HashMap<u64, u32>) {
        let gives = matches!(op.step, Step::Delete | Step::Fetch);
        let old = op
            .old
            .as_ref()
            .filter(|old| gives && old.kind == Kind::File);
        let old = old.map(|old| (old.size, old.mtime, false));
        let new = has_come && is_new_file(op);
        let new = new.then_some((op.meta.size, op.meta.mtime, true));
        for (size, mtime, is_new) in old.into_iter().chain(new) {
            // One of the new ones is the file itself.
            let is_itself = u32::from(is_new && folder == 0);
            if wanted.get(&size).copied().unwrap_or(0) <= is_itself || self.is_full() {
                continue;
            }
            let others = self.of_size.entry(size).or_default();
            if others.len() < OF_A_SIZE_MAX {
                self.count += 1;
                // What was deleted or replaced was there before anything was moved.
                let was = op.from.as_ref().filter(|_| folder > 0);
                others.push(Candidate {
                    folder,
                    path: was.unwrap_or(&op.path).clone(),
                    mtime,
                    is_new,
                });
            }
        }
    }
}

/// Shared by all who make files.
#[derive(Default)]
pub(super) struct Bases {
    /// By size.
    candidates: HashMap<u64, Vec<Candidate>>,
    /// By path.
    made: Mutex<HashMap<Vec<u8>, Made>>,
    /// How many were made, or could not be.
    made_so_far: AtomicU64,
    right: AtomicU32,
    wrong: AtomicU32,
}

fn is_new_file(op: &Op) -> bool {
    op.step == Step::Fetch && op.meta.size >= ALIKE_MIN
}

impl Bases {
    /// What the files of `plan` may be like, which is carried out among `others`.
    pub(super) fn of(plan: &FolderPlan, others: &[Other]) -> io::Result<Self> {
        let mut found = Candidates::default();
        if plan.may_hold_copies() {
            for mut ops in [plan.deletions()?, plan.changes()?] {
                while let Some(op) = ops.next_op()?
                    && !found.is_full()
                {
                    found.add(&op, 0, true, &plan.sizes);
                }
            }
        }
        for (other, folder) in others.iter().zip(1..) {
            if !other.plan.may_give(other.is_done, &plan.sizes) {
                continue;
            }
            for mut ops in [other.plan.deletions()?, other.plan.changes()?] {
                while let Some(op) = ops.next_op()?
                    && !found.is_full()
                {
                    found.add(&op, folder, other.is_done, &plan.sizes);
                }
            }
        }
        Ok(Self {
            candidates: found.of_size,
            ..Self::default()
        })
    }

    fn made(&self) -> MutexGuard<'_, HashMap<Vec<u8>, Made>> {
        self.made.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What `op` may be like, if there is reason to guess.
    fn guess(&self, op: &Op) -> Option<&Candidate> {
        let count = |counter: &AtomicU32| counter.load(Ordering::Relaxed);
        if !is_new_file(op) || count(&self.wrong) > WRONG_MAX + 2 * count(&self.right) {
            return None;
        }
        let (_, name) = split(&op.path);
        let others = self.candidates.get(&op.meta.size)?.iter();
        let mut others = others.filter(|c| !c.is_at(&op.path));
        let is_named_so = |c: &&Candidate| split(&c.path).1 == name;
        let mut same_time = others.clone().filter(|c| c.mtime == op.meta.mtime);
        let named_so = same_time.clone().find(is_named_so);
        // Several of one size and time came out of one archive, or were made at once.
        let same_time = named_so.or_else(|| match (same_time.next(), same_time.next()) {
            (only, None) => only,
            _ => None,
        });
        // Its own old version is the better guess.
        let by_name = !delta::is_worth_it(op);
        same_time.or_else(|| others.find(|c| by_name && is_named_so(c)))
    }

    /// A guess has turned out to be right or not.
    pub(super) fn learn(&self, is_right: bool) {
        let counter = if is_right { &self.right } else { &self.wrong };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    fn await_it(&self, path: &[u8], will_come: bool) {
        let mut made = self.made();
        if made.len() < MADE_MAX || made.contains_key(path) {
            made.insert(path.to_vec(), Made::Awaited { will_come });
        }
    }

    /// Others may be made out of the file at `path`, which is being made of what comes.
    pub(super) fn will_come(&self, path: &[u8]) {
        self.await_it(path, true);
    }

    /// The same of `op`, if there is reason to guess so, and it is not known yet how it is made.
    pub(super) fn was_asked_for(&self, op: &Op) {
        let others = self.candidates.get(&op.meta.size);
        if others.is_some_and(|c| c.iter().any(|c| c.is_new && c.is_at(&op.path))) {
            self.await_it(&op.path, false);
        }
    }

    /// The file at `path` was made there, or not at all.
    pub(super) fn was_made(&self, path: &[u8], at: Option<&Spot>) {
        if let Some(made) = self.made().get_mut(path) {
            *made = at.map_or(Made::Failed, |spot| Made::At(spot.clone()));
        }
        self.made_so_far.fetch_add(1, Ordering::Release);
    }

    /// As long as this is the same, nobody need look again for what is being made.
    pub(super) fn made_so_far(&self) -> u64 {
        self.made_so_far.load(Ordering::Acquire)
    }
}

/// Finds bases; each hand has its own.
pub(super) struct Finder<'a> {
    shared: &'a Shared<'a>,
    bases: &'a Bases,
    /// The way to what is in scope of the folder; without, nothing there is a base.
    way: Option<Way<'a>>,
    others: Vec<Opener<'a>>,
    /// The last new directory.
    fresh: DirCache,
}

impl<'a> Finder<'a> {
    /// In the folder that `plan` is for, and in `others`.
    pub(super) fn new(
        shared: &'a Shared<'a>,
        bases: &'a Bases,
        plan: &FolderPlan,
        others: &'a [Other],
    ) -> Self {
        Self {
            others: others.iter().map(Opener::new).collect(),
            shared,
            bases,
            way: (plan.filter.as_ref()).map(|filter| Way::new(shared.tree, filter)),
            fresh: DirCache::default(),
        }
    }

    fn other(&mut self, folder: u64) -> Option<&mut Opener<'a>> {
        let index = usize::try_from(folder.checked_sub(1)?).ok()?;
        self.others.get_mut(index)
    }

    /// The file that was named; `None` if there is no such folder.
    pub(super) fn find_named(&mut self, (folder, path): &Named) -> Option<Base> {
        if *folder == 0 {
            return Some(self.find(path));
        }
        let file = self.other(*folder)?.open(path);
        Some(file.map_or(Base::Nothing, |file| Base::File(Arc::new(file))))
    }

    /// The file at `path`: one made just now, or else what is in the folder.
    pub(super) fn find(&mut self, path: &[u8]) -> Base {
        let made = match self.bases.made().get(path) {
            None => None,
            Some(Made::Awaited { will_come }) => {
                let will_come = *will_come;
                return Base::Awaited { will_come };
            }
            Some(Made::Failed) => return Base::Nothing,
            Some(Made::At(spot)) => Some(spot.clone()),
        };
        if let Some(file) = made.and_then(|spot| self.open_made(&spot, path).ok()) {
            return Base::File(Arc::new(file));
        }
        let Some(Ok(Ok(dir))) = self.way.as_mut().map(|way| way.open_parent(path)) else {
            return Base::Nothing;
        };
        match self.shared.tree.open_file(dir.as_fd(), split(path).1) {
            Ok(file) => Base::File(Arc::new(file)),
            Err(_) => Base::Nothing,
        }
    }

    /// Opens a file that is made and not placed yet.
    fn open_made(&mut self, spot: &Spot, path: &[u8]) -> Result<OwnedFd, Errno> {
        let tree = self.shared.tree;
        match spot {
            Spot::Staged { staged, .. } => {
                tree.open_file(self.shared.staging.dir(), staged.as_bytes())
            }
            Spot::Inside(inside) => {
                let dir = inside.open(self.shared, &mut self.fresh)?;
                tree.open_file(dir.as_fd(), split(path).1)
            }
        }
    }

    /// What `op` may be like though nobody said so: where it is, and its path.
    pub(super) fn guess(&mut self, op: &Op) -> Option<(Base, Vec<u8>)> {
        let Candidate {
            folder,
            path,
            is_new,
            ..
        } = self.bases.guess(op)?.clone();
        if folder > 0 {
            let file = self
                .other(folder)?
                .open_sized(&path, is_new, op.meta.size)?;
            return Some((Base::File(Arc::new(file)), path));
        }
        let base = self.find(&path);
        let is_alike = match &base {
            Base::File(file) => Old::of(file).is_ok_and(|now| now.size == op.meta.size),
            Base::Awaited { .. } => true,
            Base::Nothing => false,
        };
        is_alike.then_some((base, path))
    }
}
