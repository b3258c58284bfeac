//! Carrying out a plan on the target.
//!
//! Order, and why: new things are made in the staging directory with all attributes; a batch of them
//! is made durable with one `syncfs(2)` and only then moved into place, so that after a power cut
//! every path is its old or its new version; deletions follow when everything else is in place;
//! directories get their times last, because changing their content moves them.
//!
//! One thread receives and writes, a second makes batches durable and places them.

use std::collections::{BTreeSet, HashSet, VecDeque};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded, unbounded};
use rustix::io::Errno;

use super::codec::Malformed;
use super::delta;
use super::delta::partial;
use super::delta::ranged::{Prepared, prepare};
use super::delta::rebuild::{Ended, Job, Line, Question, Trouble, first_look, rebuild};
use super::delta::survey::Survey;
use super::entry::{Aspects, Kind, Meta, Time, split};
use super::place::{self, Deleted, DirCache, PlaceError, Shared};
use super::plan::{FolderPlan, Old, Op, Ops, Step};
use super::scan::{Notes, ScanError};
use super::spool::{Spool, SpoolWriter};
use super::staging::{self, LATE_FLAGS, Staging, StagingError};
use super::told::{Note, Told};
use super::tree::Tree;
use super::wire::{Batch, ContentHash, FETCH_PATHS, FETCH_WINDOW, FOR_PEER, FrameCursor, Message};
use crate::escape::{escape_bytes, escape_str};
use crate::interrupt::{AbortFlag, Interrupted};

/// A batch is placed when it holds this many things.
const BATCH_ITEMS: usize = 8192;
/// ... or this much content.
const BATCH_BYTES: u64 = 256 << 20;
/// As many copies of old versions wait for what differs in them; each is an open file.
const PREPARED_MAX: usize = 64;
/// Credit is given back in steps of this size.
const CREDIT_STEP: u64 = 2 << 20;

/// Why a plan was not carried out to its end.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// Asked to stop.
    #[error(transparent)]
    Interrupted(#[from] Interrupted),
    /// The source does not keep to the protocol.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// No staging directory.
    #[error(transparent)]
    Staging(#[from] StagingError),
    /// The plan cannot be read.
    #[error("cannot read the plan: {0}")]
    Plan(#[from] std::io::Error),
    /// Nothing more can be written.
    #[error("cannot write {path}: {source}")]
    Write {
        /// Where, escaped.
        path: String,
        /// Why.
        source: Errno,
    },
}

impl From<ScanError> for ApplyError {
    fn from(error: ScanError) -> Self {
        match error {
            ScanError::Interrupted(e) => Self::Interrupted(e),
            ScanError::Malformed(e) => Self::Malformed(e),
            ScanError::Spool(e) => Self::Plan(e),
            other @ (ScanError::Root { .. } | ScanError::Rules(_)) => {
                Self::Plan(std::io::Error::other(other.to_string()))
            }
        }
    }
}

/// What was done.
#[derive(Debug, Default)]
pub struct Applied {
    /// Changes made.
    pub items: u64,
    /// Bytes of content that arrived.
    pub bytes: u64,
    /// Bytes of planned content that were here already.
    pub kept: u64,
    /// What a person should know.
    pub notes: Notes,
}

/// Something finished, waiting to be made durable and placed.
enum Item {
    Place {
        staged: String,
        path: Vec<u8>,
        kind: Kind,
        old: Option<Old>,
        late_flags: u32,
        note: Note,
    },
    Link {
        leader: Vec<u8>,
        path: Vec<u8>,
        old: Option<Old>,
        /// What the leader is.
        want: Box<Meta>,
        note: Note,
    },
}

/// What both threads write to.
#[derive(Default)]
struct Outcome {
    notes: Notes,
    /// Leaders that could not be placed: their further names must not be linked to the old inode.
    failed: HashSet<Vec<u8>>,
    fatal: Option<(Vec<u8>, Errno)>,
    placed: u64,
}

/// Carries out `plan` on the folder `tree` with what the other machine sends.
pub fn apply(
    tree: &Tree,
    plan: &FolderPlan,
    incoming: &Receiver<Vec<u8>>,
    peer: Batch<'_>,
    cli: Batch<'_>,
    abort: &AbortFlag,
) -> Result<Applied, ApplyError> {
    let origin = Origin {
        here: None,
        incoming,
        peer,
    };
    carry_out(tree, plan, origin, cli, abort)
}

/// Carries out `plan` on the folder `tree` with what `from` has, a tree of this machine that does
/// not change: content is shared with it where the filesystem can, else copied.
pub fn apply_here(
    tree: &Tree,
    plan: &FolderPlan,
    from: &Tree,
    cli: Batch<'_>,
    abort: &AbortFlag,
) -> Result<Applied, ApplyError> {
    // Nobody is asked and nobody answers.
    let (said, _unheard) = unbounded();
    let (_silent, heard) = unbounded();
    let origin = Origin {
        here: Some(from),
        incoming: &heard,
        peer: Batch::new(FOR_PEER, &said, abort),
    };
    carry_out(tree, plan, origin, cli, abort)
}

/// Where the content of files comes from.
struct Origin<'a> {
    /// A tree of this machine; `None`: the other machine.
    here: Option<&'a Tree>,
    incoming: &'a Receiver<Vec<u8>>,
    peer: Batch<'a>,
}

fn carry_out(
    tree: &Tree,
    plan: &FolderPlan,
    origin: Origin<'_>,
    cli: Batch<'_>,
    abort: &AbortFlag,
) -> Result<Applied, ApplyError> {
    // What an earlier run has left is of no more use then.
    if plan.is_empty() && !Staging::is_left(tree) {
        return finish_peer(origin.peer).map(|()| Applied::default());
    }
    let mut told = Told::new(cli);
    let root_before = tree
        .look_root()
        .map_err(|source| write_error(b"", source))?;
    let root_dir = tree
        .open_dir(b"")
        .map_err(|source| write_error(b"", source))?;
    let late = root_before.meta.flags & LATE_FLAGS;
    if late != 0 {
        let rest = root_before.meta.flags & !LATE_FLAGS;
        staging::set_flags(root_dir.as_fd(), rest, u32::MAX).map_err(|e| write_error(b"", e))?;
    }
    let before = place::Before {
        path: Vec::new(),
        ino: root_before.ino,
        mtime: root_before.meta.mtime,
        flags: late,
    };
    let result = Staging::open(tree)
        .map_err(ApplyError::from)
        .and_then(|staging| apply_with(tree, plan, &staging, origin, &mut told, abort));
    // Making and removing the staging directory moved the folder's own time.
    let restored = place::restore(tree, &before);
    let (mut applied, made) = result?;
    if let Err(error) = restored {
        applied
            .notes
            .error("cannot restore the folder's time", &error.to_string());
    }
    finish_dirs(tree, plan, &made, &mut applied, &mut told, abort)?;
    rustix::fs::syncfs(tree.root()).map_err(|e| write_error(b"", e))?;
    Ok(applied)
}

/// Carries out `plan` and, however that ends, puts away what it needed and gives directories whose
/// content moved their times and flags back.
fn apply_with(
    tree: &Tree,
    plan: &FolderPlan,
    staging: &Staging,
    origin: Origin<'_>,
    told: &mut Told<'_>,
    abort: &AbortFlag,
) -> Result<(Applied, Spool), ApplyError> {
    let shared = Shared::new(tree, staging)?;
    let mut applied = Applied::default();
    drop_parts(plan, staging)?;
    let result = apply_staged(&shared, plan, &mut applied, origin, told, abort);
    let (touched, displaced) = shared.finish()?;
    let notes = &mut applied.notes;
    for (path, staged) in displaced {
        clear_displaced(tree, staging, &path, &staged, notes);
    }
    let removed = match &result {
        // What has arrived of large files need not come again.
        Err(ApplyError::Interrupted(_)) => staging.leave(tree),
        _ => staging.remove(tree),
    };
    if let Err(error) = removed {
        notes.error("cannot remove the staging directory", &error.to_string());
    }
    let mut reader = touched.reader()?;
    while let Some(record) = reader.next_record()? {
        let before = place::read_before(record)?;
        if before.path.is_empty() {
            continue;
        }
        if let Err(error) = place::restore(tree, &before) {
            let path = escape_bytes(&before.path);
            notes.error("cannot restore the time of", &format!("{path}: {error}"));
        }
    }
    Ok((applied, result?))
}

/// Removes what has arrived of large files that are not wanted any more.
fn drop_parts(plan: &FolderPlan, staging: &Staging) -> Result<(), ApplyError> {
    let failed = |e| write_error(b"", e);
    let mut wanted = BTreeSet::new();
    if partial::is_empty(staging).map_err(failed)? {
        return Ok(());
    }
    let mut ops = plan.changes()?;
    while let Some(op) = ops.next_op()? {
        if partial::is_worth_keeping(&op) {
            wanted.insert(partial::name_of(&op.path));
        }
    }
    partial::keep_only(staging, &wanted).map_err(failed)
}

/// Nothing more can be written, as was seen at `path`.
#[must_use]
pub fn write_error(path: &[u8], source: Errno) -> ApplyError {
    let path = match path {
        b"" => "to the folder".to_owned(),
        path => escape_bytes(path),
    };
    ApplyError::Write { path, source }
}

fn finish_peer(mut peer: Batch<'_>) -> Result<(), ApplyError> {
    peer.push(&Message::Finished)?;
    Ok(peer.flush()?)
}

/// Returns the inode numbers of the directories that were made, in the plan's order.
fn apply_staged(
    shared: &Shared<'_>,
    plan: &FolderPlan,
    applied: &mut Applied,
    origin: Origin<'_>,
    told: &mut Told<'_>,
    abort: &AbortFlag,
) -> Result<Spool, ApplyError> {
    let outcome = Mutex::new(Outcome::default());
    let (tx, rx) = bounded::<Vec<Item>>(1);
    let mut placed = told.another();
    let made = std::thread::scope(|scope| {
        let committer = std::thread::Builder::new()
            .name("place".into())
            .spawn_scoped(scope, || {
                commit_batches(shared, &rx, &outcome, &mut placed, abort);
            })
            .map_err(ApplyError::Plan)?;
        let mut writer = Writer {
            shared,
            outcome: &outcome,
            batches: Some(tx),
            batch: Vec::new(),
            batch_bytes: 0,
            here: origin.here,
            incoming: origin.incoming,
            peer: origin.peer,
            told: told.another(),
            abort,
            ahead: plan.changes()?,
            ahead_ended: false,
            requested: 0,
            received: 0,
            asked_bytes: 0,
            asked: VecDeque::new(),
            ask_no_more: false,
            prepared: 0,
            planned: plan.begun,
            uncredited: 0,
            cursor: FrameCursor::default(),
            dirs: DirCache::default(),
            origins: DirCache::default(),
            applied,
            made: SpoolWriter::new()?,
        };
        let result = writer.run(plan);
        writer.batches = None;
        let made = writer.made;
        // The channel is closed now; what was handed over is still placed unless we were aborted.
        let joined = committer.join();
        assert!(joined.is_ok(), "the placing thread does not panic");
        result.and_then(|()| Ok(made.finish()?))
    })?;
    {
        let outcome = outcome.into_inner().unwrap_or_else(PoisonError::into_inner);
        if let Some((path, source)) = outcome.fatal {
            return Err(write_error(&path, source));
        }
        applied.items += outcome.placed;
        applied.notes.merge(outcome.notes);
    }
    abort.check()?;
    delete_all(shared, plan, applied, told, abort)?;
    Ok(made)
}

/// Removes a directory that gave way. If something is in it that nobody planned to delete, or it
/// was not emptied because the run ended early, it is kept.
fn clear_displaced(tree: &Tree, staging: &Staging, path: &[u8], staged: &str, notes: &mut Notes) {
    if rustix::fs::unlinkat(staging.dir(), staged, rustix::fs::AtFlags::REMOVEDIR).is_ok() {
        return;
    }
    let path = escape_bytes(path);
    let text = match staging::keep(tree, staging.dir(), staged.as_bytes()) {
        Ok(kept) => format!("{path}: kept in {kept} at the top of the folder"),
        Err(error) => format!("{path}: {error}"),
    };
    notes.error("something was in a directory that gave way", &text);
}

/// Makes batches durable and places them, until the channel closes or we are aborted.
fn commit_batches(
    shared: &Shared<'_>,
    batches: &Receiver<Vec<Item>>,
    outcome: &Mutex<Outcome>,
    told: &mut Told<'_>,
    abort: &AbortFlag,
) {
    let mut dirs = DirCache::default();
    for batch in batches {
        if let Err(source) = rustix::fs::syncfs(shared.tree.root()) {
            lock(outcome).fatal.get_or_insert((Vec::new(), source));
            return;
        }
        for item in batch {
            if abort.is_raised() {
                return;
            }
            let (path, note, result) = match &item {
                Item::Place {
                    staged,
                    path,
                    kind,
                    old,
                    late_flags,
                    note,
                } => {
                    let (dirs, old) = (&mut dirs, old.as_ref());
                    let result = if *late_flags == 0 {
                        place::place(shared, dirs, staged, *kind, path, old)
                    } else {
                        place::place_flagged(shared, dirs, staged, path, old, *late_flags)
                    };
                    (path, note, result)
                }
                Item::Link {
                    leader,
                    path,
                    old,
                    want,
                    note,
                } => {
                    if lock(outcome).failed.contains(leader) {
                        let text = format!("{}: its first name failed", escape_bytes(path));
                        lock(outcome).notes.error("not linked", &text);
                        continue;
                    }
                    let (dirs, old) = (&mut dirs, old.as_ref());
                    let result = place::place_link(shared, dirs, leader, path, old, want);
                    (path, note, result)
                }
            };
            match result {
                Ok(()) => {
                    lock(outcome).placed += 1;
                    // Interrupted: seen at the top of the loop.
                    let _ = told.made(*note, path);
                }
                Err(error) => {
                    let mut outcome = lock(outcome);
                    outcome.failed.insert(path.clone());
                    let text = format!("{}: {error}", escape_bytes(path));
                    outcome.notes.error("not changed", &text);
                    if error.is_fatal() {
                        let source = match error {
                            PlaceError::Io(errno) => errno,
                            _ => Errno::IO,
                        };
                        outcome.fatal.get_or_insert((path.clone(), source));
                        return;
                    }
                }
            }
        }
        let _ = told.flush();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What was asked of a file.
struct Asked {
    /// The question's length.
    bytes: usize,
    what: What,
}

/// What of a file was asked for.
enum What {
    /// All of it.
    Whole,
    /// How it is cut; and what has arrived of it before.
    Survey {
        survey: Survey,
        arrived: Option<OwnedFd>,
    },
    /// What can differ, which will be written into this.
    Parts(Prepared),
}

/// The thread that asks, receives and writes.
struct Writer<'a> {
    shared: &'a Shared<'a>,
    outcome: &'a Mutex<Outcome>,
    batches: Option<Sender<Vec<Item>>>,
    batch: Vec<Item>,
    batch_bytes: u64,
    /// Where files are taken from instead of being asked for.
    here: Option<&'a Tree>,
    incoming: &'a Receiver<Vec<u8>>,
    peer: Batch<'a>,
    told: Told<'a>,
    abort: &'a AbortFlag,
    /// Reads the plan ahead of what is being done, to ask for content in time.
    ahead: Ops,
    ahead_ended: bool,
    requested: u64,
    received: u64,
    /// Length of the questions that are not answered.
    asked_bytes: usize,
    /// What was asked of the files to come.
    asked: VecDeque<Asked>,
    /// What is asked next depends on the answer to what was asked last.
    ask_no_more: bool,
    /// How many copies of old versions wait for what differs.
    prepared: usize,
    /// When the plan was made.
    planned: Time,
    uncredited: u64,
    cursor: FrameCursor,
    dirs: DirCache,
    /// The same for `here`.
    origins: DirCache,
    applied: &'a mut Applied,
    /// Inode numbers of the directories made, 0 for those that could not be.
    made: SpoolWriter,
}

impl Writer<'_> {
    fn run(&mut self, plan: &FolderPlan) -> Result<(), ApplyError> {
        let mut ops = plan.changes()?;
        self.ask()?;
        while let Some(op) = ops.next_op()? {
            self.abort.check()?;
            if let Some((path, source)) = &lock(self.outcome).fatal {
                return Err(write_error(path, *source));
            }
            self.step(&op)?;
            self.report(&op.path)?;
            if self.batch.len() >= BATCH_ITEMS || self.batch_bytes >= BATCH_BYTES {
                self.hand_over()?;
            }
        }
        self.hand_over()?;
        self.batches = None;
        self.peer.push(&Message::Finished)?;
        self.peer.flush()?;
        Ok(self.told.flush()?)
    }

    /// Asks for the content of files to come, as many as may be under way.
    fn ask(&mut self) -> Result<(), ApplyError> {
        let low = FETCH_WINDOW / 2;
        if self.here.is_some()
            || self.ahead_ended
            || self.ask_no_more
            || self.requested - self.received > low
            || self.asked_bytes > FETCH_PATHS / 2
        {
            return Ok(());
        }
        while self.requested - self.received < FETCH_WINDOW
            && self.asked_bytes < FETCH_PATHS
            && self.prepared < PREPARED_MAX
            && !self.ask_no_more
        {
            let Some(op) = self.ahead.next_op()? else {
                self.ahead_ended = true;
                break;
            };
            if op.step == Step::Fetch {
                self.ask_for(&op)?;
            }
        }
        Ok(self.peer.flush()?)
    }

    fn ask_for(&mut self, op: &Op) -> Result<(), ApplyError> {
        let (id, path) = (self.requested, &op.path[..]);
        let mut bytes = path.len();
        let arrived = self.arrived(op)?;
        let prepared = match &arrived {
            None => self.prepare(op)?,
            Some(_) => None,
        };
        let what = if let Some(prepared) = prepared {
            let parts = prepared.question();
            self.peer.push(&Message::Parts { id, path, parts })?;
            self.prepared += 1;
            bytes += prepared.weight();
            What::Parts(prepared)
        } else if arrived.is_some() || delta::is_worth_it(op) {
            let old = op.old.as_ref().map_or(0, |old| old.size);
            let survey = first_look(op.meta.size.max(old));
            self.peer.push(&Message::Survey {
                id,
                path,
                survey: survey.clone(),
            })?;
            self.ask_no_more = true;
            What::Survey { survey, arrived }
        } else {
            self.peer.push(&Message::Fetch { id, path })?;
            What::Whole
        };
        self.requested += 1;
        self.asked_bytes += bytes;
        self.asked.push_back(Asked { bytes, what });
        Ok(())
    }

    /// What has arrived of a file in an earlier run.
    fn arrived(&mut self, op: &Op) -> Result<Option<OwnedFd>, ApplyError> {
        if !partial::is_worth_keeping(op) {
            return Ok(None);
        }
        let staging = self.shared.staging;
        let opened = partial::open(staging, self.shared.tree, op);
        opened.map_err(|errno| write_error(&op.path, errno))
    }

    /// A name for what is made of `op`: one that is known again, if it would be worth keeping.
    fn staged_name(&self, op: &Op) -> String {
        if partial::is_worth_keeping(op) {
            partial::name_of(&op.path)
        } else {
            self.shared.staging.new_name()
        }
    }

    /// Makes a copy of the old version, where only ranges of it can differ.
    fn prepare(&mut self, op: &Op) -> Result<Option<Prepared>, ApplyError> {
        let Some(changed) = delta::worthy_ranges(op) else {
            return Ok(None);
        };
        // What has changed meanwhile is left alone when its turn comes.
        let Ok(old) = self.open_old(op) else {
            return Ok(None);
        };
        let staged = self.staged_name(op);
        match prepare(job(self.shared, self.abort, op, &staged), &old, changed) {
            Ok(prepared) => Ok(Some(prepared)),
            Err(errno) => {
                self.abort.check()?;
                Self::check_fatal(&op.path, errno)?;
                Ok(None)
            }
        }
    }

    fn hand_over(&mut self) -> Result<(), ApplyError> {
        if self.batch.is_empty() {
            return Ok(());
        }
        let mut batch = std::mem::take(&mut self.batch);
        self.batch_bytes = 0;
        let batches = self
            .batches
            .as_ref()
            .expect("open until the end of the run");
        loop {
            self.abort.check()?;
            match batches.send_timeout(batch, Duration::from_millis(50)) {
                Ok(()) => return Ok(()),
                Err(crossbeam_channel::SendTimeoutError::Timeout(back)) => batch = back,
                Err(crossbeam_channel::SendTimeoutError::Disconnected(_)) => {
                    return match &lock(self.outcome).fatal {
                        Some((path, source)) => Err(write_error(path, *source)),
                        None => Err(Interrupted.into()),
                    };
                }
            }
        }
    }

    fn report(&mut self, path: &[u8]) -> Result<(), ApplyError> {
        let items = self.applied.items + self.received;
        let bytes = self.applied.bytes + self.applied.kept;
        Ok(self.told.progress(items, bytes, path)?)
    }

    /// One entry could not be made; the others can.
    fn failed(&mut self, path: &[u8], error: &dyn std::fmt::Display) {
        let mut outcome = lock(self.outcome);
        outcome.failed.insert(path.to_vec());
        outcome
            .notes
            .error("not changed", &format!("{}: {error}", escape_bytes(path)));
    }

    fn check_fatal(path: &[u8], errno: Errno) -> Result<(), ApplyError> {
        if PlaceError::Io(errno).is_fatal() {
            Err(write_error(path, errno))
        } else {
            Ok(())
        }
    }

    fn step(&mut self, op: &Op) -> Result<(), ApplyError> {
        let made = match op.step {
            Step::MakeDir => return self.make_dir(op),
            // After everything else.
            Step::DirAttributes | Step::Delete => return Ok(()),
            Step::Link => {
                let leader = op
                    .meta
                    .leader
                    .clone()
                    .ok_or(Malformed("a link without its leader"))?;
                let (path, old) = (op.path.clone(), op.old.clone());
                let want = Meta {
                    xattrs: Vec::new(),
                    ..op.meta.clone()
                };
                self.batch.push(Item::Link {
                    leader,
                    path,
                    old,
                    want: Box::new(want),
                    note: op.into(),
                });
                return Ok(());
            }
            Step::Fetch => self.fetch(op)?,
            Step::Reattribute => self.reattribute(op),
            Step::MakeNode => {
                let staged = self.shared.staging.new_name();
                let made = self.shared.staging.new_node(&staged, &op.meta);
                made.map(|()| staged).map_err(PlaceError::from)
            }
        };
        match made {
            Ok(staged) => {
                self.batch_bytes += op.bytes();
                self.batch.push(Item::Place {
                    staged,
                    path: op.path.clone(),
                    kind: op.meta.kind,
                    old: op.old.clone(),
                    late_flags: op.meta.flags & LATE_FLAGS,
                    note: op.into(),
                });
            }
            Err(error) => {
                if let PlaceError::Io(errno) = &error {
                    Self::check_fatal(&op.path, *errno)?;
                }
                self.failed(&op.path, &error);
            }
        }
        Ok(())
    }

    /// Directories are placed at once: what goes into them needs them, and they hold no content.
    fn make_dir(&mut self, op: &Op) -> Result<(), ApplyError> {
        let staged = self.shared.staging.new_name();
        let shared = self.shared;
        let made = shared
            .staging
            .new_dir(shared.tree, &staged, &op.meta)
            .map_err(PlaceError::from)
            .and_then(|fd| {
                let (dirs, old) = (&mut self.dirs, op.old.as_ref());
                match place::place(shared, dirs, &staged, Kind::Dir, &op.path, old) {
                    Ok(()) => Ok(Old::of(&fd)?.ino),
                    Err(PlaceError::Appeared) => {
                        place::made_meanwhile(shared.tree, &op.path, &op.meta, self.planned)
                    }
                    Err(error) => Err(error),
                }
            });
        let ino = match made {
            Ok(ino) => {
                self.applied.items += 1;
                self.told.made(op.into(), &op.path)?;
                ino
            }
            Err(error) => {
                if let PlaceError::Io(errno) = &error {
                    Self::check_fatal(&op.path, *errno)?;
                }
                self.failed(&op.path, &error);
                0
            }
        };
        Ok(self.made.push(&ino.to_le_bytes())?)
    }

    /// Opens the file that stands where `op` puts another one.
    fn open_old(&mut self, op: &Op) -> Result<OwnedFd, PlaceError> {
        let (parent, name) = split(&op.path);
        let dir = self.dirs.open(self.shared.tree, parent)?;
        let file = self.shared.tree.open_file(dir.as_fd(), name)?;
        // What has its name now may be a file that the new owner must not read.
        let now = Old::of(&file)?;
        if op.old.as_ref().is_some_and(|old| old.is_still(&now)) {
            Ok(file)
        } else {
            Err(PlaceError::Changed)
        }
    }

    /// A copy by reflink of what is there, with the new attributes.
    fn reattribute(&mut self, op: &Op) -> Result<String, PlaceError> {
        let from = self.open_old(op)?;
        if Old::of(&from)?.size != op.meta.size {
            return Err(PlaceError::Changed);
        }
        let staged = self.shared.staging.new_name();
        let to = self.shared.staging.new_file(&staged, &op.meta)?;
        staging::copy_content(from.as_fd(), to.as_fd(), op.meta.size)?;
        staging::set_attributes(to.as_fd(), &op.meta)?;
        staging::set_mtime(to.as_fd(), op.meta.mtime)?;
        Ok(staged)
    }

    /// A copy by reflink of the file of the same path in `from`.
    fn take_over(&mut self, from: &Tree, op: &Op) -> Result<String, PlaceError> {
        let (parent, name) = split(&op.path);
        let dir = self.origins.open(from, parent)?;
        let file = from.open_file(dir.as_fd(), name)?;
        if Old::of(&file)?.size != op.meta.size {
            return Err(PlaceError::Content("is not what it was".to_owned()));
        }
        let staged = self.shared.staging.new_name();
        let to = self.shared.staging.new_file(&staged, &op.meta)?;
        staging::copy_content(file.as_fd(), to.as_fd(), op.meta.size)?;
        staging::set_attributes(to.as_fd(), &op.meta)?;
        staging::set_mtime(to.as_fd(), op.meta.mtime)?;
        self.received += 1;
        self.applied.bytes += op.bytes();
        Ok(staged)
    }

    /// Receives a file from the source. The outer error ends everything, the inner only this file.
    fn fetch(&mut self, op: &Op) -> Result<Result<String, PlaceError>, ApplyError> {
        if let Some(from) = self.here {
            return Ok(self.take_over(from, op));
        }
        let asked = self.asked.pop_front().expect("asked before it is fetched");
        let mut staged = self.staged_name(op);
        let received = match asked.what {
            What::Whole => self.receive(op, &staged),
            What::Survey { survey, arrived } => {
                let rebuilt = self.rebuild(op, &staged, &survey, arrived);
                self.ask_no_more = false;
                rebuilt
            }
            What::Parts(prepared) => {
                staged.clone_from(&prepared.staged);
                self.prepared -= 1;
                self.receive_parts(op, prepared)
            }
        };
        self.asked_bytes -= asked.bytes;
        self.ask()?;
        let fd = match received? {
            Ok(fd) => fd,
            Err(error) => return Ok(Err(error)),
        };
        let finish = || {
            staging::set_attributes(fd.as_fd(), &op.meta)?;
            staging::set_mtime(fd.as_fd(), op.meta.mtime)
        };
        Ok(finish().map(|()| staged).map_err(PlaceError::from))
    }

    /// Makes the file out of its old version and what is missing in it.
    fn rebuild(
        &mut self,
        op: &Op,
        staged: &str,
        survey: &Survey,
        arrived: Option<OwnedFd>,
    ) -> Result<Result<OwnedFd, PlaceError>, ApplyError> {
        let old = if delta::is_worth_it(op) {
            self.open_old(op).map(Some)
        } else {
            Ok(None)
        };
        let job = job(self.shared, self.abort, op, staged);
        let before = self.applied.bytes;
        let mut line = FileLine {
            path: &op.path,
            writer: self,
        };
        let rebuilt = rebuild(&mut line, job, survey, old, arrived);
        self.abort.check()?;
        match rebuilt {
            Ok(file) => {
                self.count_kept(op, before);
                Ok(Ok(file))
            }
            Err(Trouble::All(error)) => Err(error),
            Err(Trouble::File(error)) => Ok(Err(error)),
            Err(Trouble::AsAWhole) => {
                match self.shared.staging.unlink(staged) {
                    Ok(()) | Err(Errno::NOENT) => {}
                    Err(errno) => return Ok(Err(errno.into())),
                }
                let (id, path) = (self.requested, &op.path[..]);
                self.peer.push(&Message::Fetch { id, path })?;
                self.peer.flush()?;
                self.requested += 1;
                self.receive(op, staged)
            }
        }
    }

    /// What of `op` did not come since `before` was here already.
    fn count_kept(&mut self, op: &Op, before: u64) {
        let arrived = self.applied.bytes - before;
        self.applied.kept += op.bytes().saturating_sub(arrived);
    }

    /// Receives what differs in a file whose changed ranges are known.
    fn receive_parts(
        &mut self,
        op: &Op,
        prepared: Prepared,
    ) -> Result<Result<OwnedFd, PlaceError>, ApplyError> {
        let before = self.applied.bytes;
        let size = op.meta.size;
        let received = prepared.receive(&op.path, size, |take| self.answer(&op.path, take));
        match received {
            Ok(file) => {
                self.count_kept(op, before);
                Ok(Ok(file))
            }
            Err(Trouble::All(error)) => Err(error),
            Err(Trouble::File(error)) => Ok(Err(error)),
            Err(Trouble::AsAWhole) => Ok(Err(PlaceError::Changed)),
        }
    }

    /// Receives the whole of a file into a new one. The inner error is this file's own.
    fn receive(
        &mut self,
        op: &Op,
        staged: &str,
    ) -> Result<Result<OwnedFd, PlaceError>, ApplyError> {
        // What arrives must be taken off the line even if it cannot be written.
        let file = match self.shared.staging.new_file(staged, &op.meta) {
            Ok(file) => Ok(file),
            Err(errno) => {
                Self::check_fatal(&op.path, errno)?;
                Err(errno)
            }
        };
        let mut hash = ContentHash::new();
        let mut written = 0;
        let ended = self.answer(&op.path, &mut |message| {
            let Message::Data { offset, bytes, .. } = message else {
                return Err(Malformed("out of place while files are sent").into());
            };
            // Forwards only, so that there is an end to it.
            let end = offset + bytes.len() as u64;
            if *offset < written || end <= *offset || end > op.meta.size {
                return Err(Malformed("more content than the file has").into());
            }
            written = end;
            if let Ok(file) = &file {
                staging::write_all(file.as_fd(), *offset, bytes)
                    .map_err(|e| write_error(&op.path, e))?;
            }
            hash.update(*offset, bytes);
            Ok(())
        })?;
        let file = match file {
            Ok(file) => file,
            Err(errno) => return Ok(Err(errno.into())),
        };
        match ended {
            Ok((size, theirs)) if size == op.meta.size && theirs == hash.finish(size) => {
                // A hole at its end; to set the size it has already costs as much as writing it.
                if written < size
                    && let Err(errno) = rustix::fs::ftruncate(&file, size)
                {
                    return Ok(Err(errno.into()));
                }
                Ok(Ok(file))
            }
            Ok(_) => Ok(Err(PlaceError::Content(
                "arrived damaged: its size or hash is wrong".to_owned(),
            ))),
            Err(text) => Ok(Err(PlaceError::Content(text))),
        }
    }

    /// Takes in what the source says of one file, up to its end.
    fn answer(
        &mut self,
        path: &[u8],
        take: &mut dyn FnMut(&Message<'_>) -> Result<(), ApplyError>,
    ) -> Result<Ended, ApplyError> {
        let expected = self.received;
        let mut cursor = std::mem::take(&mut self.cursor);
        let ended = loop {
            let Some(message) = cursor.next_message() else {
                cursor = FrameCursor::new(super::receive(self.incoming, self.abort)?)?;
                continue;
            };
            let message = message?;
            match &message {
                Message::Data { id, .. }
                | Message::Pieces { id, .. }
                | Message::Part { id, .. }
                    if *id == expected =>
                {
                    take(&message)?;
                    if let Message::Data { bytes, .. } = &message {
                        self.applied.bytes += bytes.len() as u64;
                    }
                    self.uncredited += message.credit();
                    if self.uncredited >= CREDIT_STEP {
                        let credit = std::mem::take(&mut self.uncredited);
                        self.peer.push(&Message::Credit(credit))?;
                        self.peer.flush()?;
                        self.report(path)?;
                    }
                }
                Message::End { id, size, hash } if *id == expected => break Ok((*size, *hash)),
                Message::Failed { id, error } if *id == expected => {
                    let error = escape_str(error);
                    break Err(format!("the source could not read it: {error}"));
                }
                _ => return Err(Malformed("out of place while files are sent").into()),
            }
        };
        self.cursor = cursor;
        self.received += 1;
        Ok(ended)
    }
}

/// Where `op` is made, and what.
fn job<'j>(shared: &'j Shared<'_>, abort: &'j AbortFlag, op: &'j Op, staged: &'j str) -> Job<'j> {
    Job {
        path: &op.path,
        staging: shared.staging,
        staged,
        meta: &op.meta,
        abort,
    }
}

/// The line to the source, for one file.
struct FileLine<'w, 'a> {
    path: &'w [u8],
    writer: &'w mut Writer<'a>,
}

impl Line for FileLine<'_, '_> {
    fn ask(&mut self, question: Question<'_>) -> Result<(), ApplyError> {
        let (id, path) = (self.writer.requested, self.path);
        self.writer.peer.push(&match question {
            Question::Survey(survey) => Message::Survey {
                id,
                path,
                survey: survey.clone(),
            },
            Question::Parts(parts) => Message::Parts {
                id,
                path,
                parts: parts.to_vec(),
            },
        })?;
        self.writer.requested += 1;
        Ok(self.writer.peer.flush()?)
    }

    fn answer(
        &mut self,
        take: &mut dyn FnMut(&Message<'_>) -> Result<(), ApplyError>,
    ) -> Result<Ended, ApplyError> {
        self.writer.answer(self.path, take)
    }
}

impl Notes {
    /// Adds what `other` says.
    fn merge(&mut self, other: Self) {
        for (kind, count) in other.counts {
            *self.counts.entry(kind).or_default() += count;
        }
        self.lines.extend(other.lines);
        self.errors += other.errors;
        self.warnings += other.warnings;
    }
}

/// Deletions: last of all, what is in a directory before the directory.
fn delete_all(
    shared: &Shared<'_>,
    plan: &FolderPlan,
    applied: &mut Applied,
    told: &mut Told<'_>,
    abort: &AbortFlag,
) -> Result<(), ApplyError> {
    let mut deletions = plan.deletions()?;
    let mut dirs = DirCache::default();
    while let Some(op) = deletions.next_op()? {
        abort.check()?;
        let old = op.old.as_ref().ok_or(Malformed("a deletion of nothing"))?;
        match place::delete(shared, &mut dirs, &op.path, old) {
            Ok(Deleted::Gone) => {
                applied.items += 1;
                told.made((&op).into(), &op.path)?;
            }
            Ok(Deleted::NotEmpty) => {
                applied
                    .notes
                    .warn("kept, something new is in it", &escape_bytes(&op.path));
            }
            Err(error) => {
                let text = format!("{}: {error}", escape_bytes(&op.path));
                applied.notes.error("not deleted", &text);
            }
        }
        told.progress(applied.items, applied.bytes, &op.path)?;
    }
    Ok(told.flush()?)
}

/// Attributes of directories, and the times of new ones, when their content moves no more.
fn finish_dirs(
    tree: &Tree,
    plan: &FolderPlan,
    made: &Spool,
    applied: &mut Applied,
    told: &mut Told<'_>,
    abort: &AbortFlag,
) -> Result<(), ApplyError> {
    let mut made = made.reader()?;
    let mut ops = plan.changes()?;
    while let Some(op) = ops.next_op()? {
        abort.check()?;
        let ino = match op.step {
            Step::MakeDir => {
                let record = made.next_record()?.unwrap_or_default();
                u64::from_le_bytes(record.try_into().map_err(|_| Malformed("no such note"))?)
            }
            Step::DirAttributes => op.old.as_ref().map_or(0, |old| old.ino),
            _ => continue,
        };
        // It could not be made: said already.
        if ino == 0 {
            continue;
        }
        let result = finish_dir(tree, &op.path, ino, &op.meta);
        match result {
            Ok(()) if op.step == Step::DirAttributes => {
                applied.items += 1;
                told.made((&op).into(), &op.path)?;
            }
            Ok(()) => {}
            Err(error) => {
                let text = format!("{}: {error}", escape_bytes(&op.path));
                applied.notes.error("attributes not set", &text);
            }
        }
        told.progress(applied.items, applied.bytes, &op.path)?;
    }
    Ok(told.flush()?)
}

/// Gives the directory at `path` its attributes, if it is the inode `ino`: not another one that
/// somebody moved there to have it given away.
fn finish_dir(tree: &Tree, path: &[u8], ino: u64, want: &Meta) -> Result<(), PlaceError> {
    let dir = tree.open_dir(path)?;
    if Old::of(&dir)?.ino != ino {
        return Err(PlaceError::Changed);
    }
    let have = tree.look_fd(dir.as_fd())?;
    // An immutable directory takes no new time either.
    if have.flags & LATE_FLAGS != 0 {
        staging::set_flags(dir.as_fd(), have.flags & !LATE_FLAGS, u32::MAX)?;
    }
    let aspects = Aspects::between(want, &have);
    if aspects.any(Aspects::OWNER | Aspects::MODE | Aspects::XATTRS) {
        staging::remove_xattrs(dir.as_fd(), &have, want)?;
        staging::set_attributes(dir.as_fd(), want)?;
    }
    if aspects.any(Aspects::FLAGS) {
        staging::set_flags(dir.as_fd(), want.flags & !LATE_FLAGS, u32::MAX)?;
    }
    staging::set_mtime(dir.as_fd(), want.mtime)?;
    if want.flags & LATE_FLAGS != 0 {
        staging::set_flags(dir.as_fd(), want.flags, u32::MAX)?;
    }
    Ok(())
}
