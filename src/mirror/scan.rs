//! The source's half of a full scan: walk the tree, announce it chunk by chunk as digests, and send
//! the listings the target wants.
//!
//! Directories come in depth-first order, names in byte order, so that the target can follow with
//! its own tree. What is announced and not acknowledged is kept, and bounded: then the walk waits.

use std::collections::{BTreeMap, VecDeque};
use std::os::fd::{AsFd, OwnedFd};

use crossbeam_channel::Receiver;
use rustix::io::Errno;

use super::codec::Malformed;
use super::content::hash_file;
use super::diff::DiffError;
use super::drift::{Became, Since, unless_unreadable};
use super::entry::{Entry, Kind, Meta};
use super::exchange;
use super::filter::{DIRECTORY_FILTER_NAME, Filter, FilterState, Verdict};
use super::frames::{Batch, next_frame, peer_payload};
use super::links::{Leaders, unseen};
use super::look::Looker;
use super::origins::origins;
use super::path::{DEPTH_MAX, join, split};
use super::scope::{Closed, Way, directory_rules, with_rules};
use super::suspects::{Suspect, Suspects, Within};
use super::tree::{Names, Tree, Trust};
use super::wire::{
    Chunk, Digest, LISTING_MAX, Message, Messages, SCAN_WINDOW_BYTES, SCAN_WINDOW_CHUNKS, ScanTree,
};
use crate::escape::escape_bytes;
use crate::event::LogLevel;
use crate::interrupt::{AbortFlag, Interrupted};

/// Entries of one chunk at most.
const CHUNK_ENTRIES: usize = 256;
/// A chunk ends when its encoding reaches this size.
const CHUNK_BYTES: usize = 64 << 10;

/// Why a scan could not be finished.
#[derive(Debug, thiserror::Error)]
pub enum ScanError {
    /// Asked to stop, or the other side is gone.
    #[error(transparent)]
    Interrupted(#[from] Interrupted),
    /// The other side does not keep to the protocol.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// The folder itself cannot be read.
    #[error("cannot read {path}: {source}")]
    Root {
        /// The folder.
        path: String,
        /// Why.
        source: Errno,
    },
    /// A per-directory filter file is not usable.
    #[error("{0}")]
    Rules(String),
    /// The plan cannot be kept.
    #[error("cannot keep the plan: {0}")]
    Spool(#[from] std::io::Error),
}

/// What a person is told about a scan, counted by kind, the first few logged by path.
#[derive(Debug, Default)]
pub struct Notes {
    /// Kind of note to how often.
    pub counts: BTreeMap<String, u64>,
    /// The notes to log.
    pub lines: Vec<(LogLevel, String)>,
    /// How many were warnings.
    pub warnings: u64,
    /// How many were errors.
    pub errors: u64,
}

/// Notes of one kind logged one by one; the rest is only counted.
pub const NOTES_OF_A_KIND: u64 = 50;

/// ... of a kind that is a list.
const NOTES_OF_A_LIST: u64 = 5000;

impl Notes {
    /// Something that is as the person asked, but worth a line in the log.
    pub fn info(&mut self, kind: &str, detail: &str) {
        self.add(LogLevel::Full, kind, detail);
    }

    /// The same, one by one for longer: a list that somebody may want to read.
    pub fn every(&mut self, kind: &str, detail: &str) {
        let count = self.counts.entry(kind.to_owned()).or_default();
        *count += 1;
        if *count <= NOTES_OF_A_LIST {
            self.lines
                .push((LogLevel::Full, format!("{kind}: {detail}")));
        }
    }

    /// Something the person should look at; the rest is as it should be.
    pub fn warn(&mut self, kind: &str, detail: &str) {
        self.warnings += 1;
        self.add(LogLevel::Warning, kind, detail);
    }

    /// Something that was not done.
    pub fn error(&mut self, kind: &str, detail: &str) {
        self.errors += 1;
        self.add(LogLevel::Error, kind, detail);
    }

    fn add(&mut self, level: LogLevel, kind: &str, detail: &str) {
        let count = self.counts.entry(kind.to_owned()).or_default();
        *count += 1;
        if *count <= NOTES_OF_A_KIND {
            self.lines.push((level, format!("{kind}: {detail}")));
        }
    }
}

/// Encodes a chunk's entries: what is sent, and the digest both sides must agree on.
#[derive(Debug, Default)]
pub struct ChunkEncoder {
    canonical: Vec<u8>,
    listing: Vec<u8>,
    entries: usize,
    suspect: bool,
}

impl ChunkEncoder {
    /// Adds an entry.
    pub fn add(&mut self, entry: &Entry, with_listing: bool) {
        entry.encode(&mut self.canonical, true);
        if with_listing {
            entry.encode(&mut self.listing, false);
        }
        self.entries += 1;
        self.suspect |= entry.meta.suspect;
    }

    /// Whether an entry is suspect.
    #[must_use]
    pub fn is_suspect(&self) -> bool {
        self.suspect
    }

    /// Whether the chunk should end here.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.entries >= CHUNK_ENTRIES || self.canonical.len() >= CHUNK_BYTES
    }

    /// Whether there is nothing in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries == 0
    }

    /// The digest, and the listing; empty again afterwards.
    pub fn take(&mut self) -> (Digest, Vec<u8>) {
        let hash = blake3::hash(&self.canonical);
        let digest = hash.as_bytes()[..16]
            .try_into()
            .expect("a hash has 32 bytes");
        self.canonical.clear();
        self.entries = 0;
        self.suspect = false;
        (digest, std::mem::take(&mut self.listing))
    }
}

/// Walks the source's tree.
pub struct SourceScan<'a> {
    tree: &'a Tree,
    incoming: &'a Receiver<Vec<u8>>,
    batch: Batch<'a>,
    abort: &'a AbortFlag,
    content: bool,
    leaders: Leaders,
    looker: Looker<'a>,
    /// Announced and not acknowledged: number and listing, in order.
    window: VecDeque<(u64, Vec<u8>)>,
    window_bytes: usize,
    next_seq: u64,
    filter: Filter,
    /// Whether directories' own filter files count.
    own_rules: bool,
    /// The way to the last file that was asked about.
    way: Way<'a>,
    trust: Option<Trust>,
    /// What became of things since the anchor, if there is one.
    since: Option<Since<'a>>,
    /// In a restricted scan, before it begins: what this machine knows of.
    restricted: Option<Vec<Suspect>>,
    is_restricted: bool,
    /// Whether where things were is looked up.
    finds_origins: bool,
    suspects: Suspects,
    finished: bool,
    /// What a person should know.
    pub notes: Notes,
    /// Entries seen.
    pub entries: u64,
    /// Whether a directory has a filter file that is not mirrored itself.
    pub rules_excluded: bool,
}

/// A directory being walked: what is left of its subdirectories.
struct Level {
    path: Vec<u8>,
    fd: OwnedFd,
    filter: FilterState,
    within: Within,
    subdirs: Names,
    next: usize,
}

impl<'a> SourceScan<'a> {
    /// A scan of `tree`, speaking through `batch` and hearing through `incoming`.
    #[must_use]
    pub fn new(
        tree: &'a Tree,
        looker: Looker<'a>,
        incoming: &'a Receiver<Vec<u8>>,
        batch: Batch<'a>,
        abort: &'a AbortFlag,
        scan: &ScanTree,
        filter: Filter,
    ) -> Self {
        Self {
            tree,
            incoming,
            batch,
            abort,
            content: scan.content,
            leaders: Leaders::default(),
            looker,
            window: VecDeque::new(),
            window_bytes: 0,
            next_seq: 0,
            way: Way::new(tree, &filter),
            filter,
            own_rules: true,
            trust: scan.trust,
            since: None,
            restricted: None,
            is_restricted: false,
            finds_origins: scan.restricted.as_ref().is_some_and(|r| r.origins),
            suspects: Suspects::default(),
            finished: false,
            notes: Notes::default(),
            entries: 0,
            rules_excluded: false,
        }
    }

    /// The same, of nothing but `suspects` and those the target names.
    #[must_use]
    pub fn restricted(self, suspects: Vec<Suspect>) -> Self {
        Self {
            restricted: Some(suspects),
            is_restricted: true,
            ..self
        }
    }

    /// The same, able to tell what became of a path since the folder was `anchor`.
    #[must_use]
    pub fn since(self, anchor: Tree) -> Self {
        Self {
            since: Some(Since::new(self.tree, anchor)),
            ..self
        }
    }

    /// The same without the filter files that directories have of their own.
    #[must_use]
    pub fn without_own_rules(self) -> Self {
        Self {
            own_rules: false,
            way: self.way.without_own_rules(),
            ..self
        }
    }

    /// After a restricted scan: names of inodes it came to that it did not come to.
    pub fn unseen(&self) -> Result<Vec<Vec<u8>>, DiffError> {
        if !self.is_restricted {
            return Ok(Vec::new());
        }
        unseen(&self.leaders, self.tree, &self.suspects, <[u8]>::to_vec)
    }

    /// What it has cost: names read and entries looked at.
    #[must_use]
    pub fn looked(&self) -> u64 {
        self.looker.looked
    }

    /// Walks everything, and stays until the target has dealt with all of it.
    pub fn run(&mut self, root_path: &str) -> Result<(), ScanError> {
        let unreadable = |source| ScanError::Root {
            path: root_path.to_owned(),
            source,
        };
        let within = match self.restricted.take() {
            None => Within::All { doubted: false },
            Some(mut ours) => {
                let theirs = exchange::hear(self.incoming, self.abort)?;
                if let Some(since) = self.since.as_ref().filter(|_| self.finds_origins) {
                    match origins(self.tree, since.tree_then(), &theirs, self.abort) {
                        Ok(found) => ours.extend(found),
                        Err(DiffError::Interrupted(error)) => return Err(error.into()),
                        // Then nothing is moved.
                        Err(_) => {}
                    }
                }
                exchange::offer(&mut ours, self.tree, &self.filter, self.abort)?;
                exchange::tell(&mut self.batch, &ours)?;
                let agreed = exchange::hear(self.incoming, self.abort)?;
                let moves = exchange::agree(&ours, &agreed)?;
                self.suspects = Suspects::new(ours, theirs, moves);
                self.suspects.root()
            }
        };
        let root = self.tree.look_root().map_err(unreadable)?;
        self.batch.push(&Message::Root(Box::new(root.meta)))?;
        let fd = self.tree.open_dir(b"").map_err(unreadable)?;
        let filter = FilterState::root(&self.filter);
        let mut stack = vec![self.directory(Vec::new(), fd, filter, within)?];
        while let Some(level) = stack.last_mut() {
            let Some(name) = level.subdirs.get(level.next) else {
                stack.pop();
                continue;
            };
            let path = join(&level.path, name);
            let filter = level.filter.enter(name);
            let visit = self.suspects.visit(&level.path, &level.within, name);
            let opened = self.tree.open_child(level.fd.as_fd(), name);
            level.next += 1;
            let within = visit.below.expect("only such directories are kept");
            if stack.len() >= DEPTH_MAX {
                // Announced as incomplete, so that nothing is deleted there.
                self.unreadable_dir(&path, Errno::NAMETOOLONG)?;
                continue;
            }
            match opened {
                Ok(fd) => stack.push(self.directory(path, fd, filter, within)?),
                Err(e) => self.unreadable_dir(&path, e)?,
            }
        }
        self.batch.push(&Message::ScanEnd)?;
        self.batch.flush()?;
        while !self.finished {
            self.hear(true)?;
        }
        Ok(self.batch.flush()?)
    }

    /// A directory that cannot be listed: announced as incomplete, so that nothing is deleted there.
    fn unreadable_dir(&mut self, path: &[u8], error: Errno) -> Result<(), ScanError> {
        self.notes.error(
            "cannot be read",
            &format!("{}: {error}", escape_bytes(path)),
        );
        let begins = Some((path.to_vec(), None));
        self.announce(begins, None, false, &mut ChunkEncoder::default())
    }

    /// Announces all entries of a directory and returns what is needed to go down.
    fn directory(
        &mut self,
        path: Vec<u8>,
        fd: OwnedFd,
        mut filter: FilterState,
        within: Within,
    ) -> Result<Level, ScanError> {
        let mut complete = true;
        let names = match self.suspects.read(fd.as_fd(), &path, &within) {
            Ok(names) => names,
            Err(error) => {
                self.notes.error(
                    "cannot be read",
                    &format!("{}: {error}", escape_bytes(&path)),
                );
                complete = false;
                Names::default()
            }
        };
        let rules = if self.own_rules {
            directory_rules(self.tree, fd.as_fd(), &path)?
        } else {
            None
        };
        filter = with_rules(filter, rules.as_deref(), &path)?;
        let own_file = DIRECTORY_FILTER_NAME.as_bytes();
        self.rules_excluded |=
            rules.is_some() && filter.verdict(own_file, false) == Verdict::Exclude;
        self.looker.begin(&names);
        let mut begins = Some((path.clone(), rules));
        let mut subdirs = Names::default();
        let mut chunk = ChunkEncoder::default();
        for position in 0..names.len() {
            self.abort.check()?;
            let name = names.get(position).expect("within the length");
            let visit = self.suspects.visit(&path, &within, name);
            let doubted = visit.doubted;
            let Some(entry) = self.entry(
                &fd,
                &path,
                &names,
                position,
                &filter,
                doubted,
                &mut complete,
            ) else {
                continue;
            };
            if entry.meta.kind == Kind::Dir && visit.below.is_some() {
                subdirs.push(name);
            }
            chunk.add(&entry, true);
            self.entries += 1;
            if chunk.is_full() {
                let upper = Some(name.to_vec());
                self.announce(begins.take(), upper, complete, &mut chunk)?;
            }
        }
        // Always a last one: it speaks for everything that is left, also for nothing.
        self.announce(begins.take(), None, complete, &mut chunk)?;
        Ok(Level {
            path,
            fd,
            filter,
            within,
            subdirs,
            next: 0,
        })
    }

    #[expect(
        clippy::too_many_arguments,
        reason = "one entry of one directory under one filter"
    )]
    fn entry(
        &mut self,
        dir: &OwnedFd,
        path: &[u8],
        names: &Names,
        position: usize,
        filter: &FilterState,
        doubted: bool,
        complete: &mut bool,
    ) -> Option<Entry> {
        let name = names.get(position).expect("within the length");
        let mut failed = |notes: &mut Notes, error: Errno| {
            *complete = false;
            notes.error(
                "cannot be read",
                &format!("{}: {error}", escape_bytes(&join(path, name))),
            );
            // Announced as opaque: the target leaves what it has there alone.
            Some(Entry {
                name: name.to_vec(),
                meta: Meta::opaque(),
            })
        };
        // A name excluded whatever it is need not be looked at.
        let as_dir = filter.verdict(name, true);
        let as_other = filter.verdict(name, false);
        if as_dir == Verdict::Exclude && as_other == Verdict::Exclude {
            return None;
        }
        let mut found = match self.looker.look(dir, path, names, position) {
            Ok(found) => found?,
            Err(error) => return failed(&mut self.notes, error),
        };
        let is_dir = matches!(found.meta.kind, Kind::Dir | Kind::Opaque);
        let verdict = if is_dir { as_dir } else { as_other };
        if verdict == Verdict::Exclude {
            return None;
        }
        if found.meta.kind == Kind::Opaque {
            self.notes.warn(
                "not mirrored, a nested subvolume or a mount (a filter rule for it silences this)",
                &escape_bytes(&join(path, name)),
            );
        }
        self.leaders.note(&mut found, || join(path, name));
        let touched = self.trust.map(|trust| found.is_touched_since(&trust));
        // Without a time that both sides were equal, every file is looked into, unless it is known
        // which may differ.
        let touched = touched.unwrap_or(!self.is_restricted);
        found.suspect_if(doubted || touched);
        if self.content && found.meta.kind == Kind::File {
            match hash_file(self.tree, dir.as_fd(), name, self.abort) {
                Ok(hash) => found.meta.content = Some(hash),
                Err(error) => return failed(&mut self.notes, error),
            }
        }
        Some(Entry {
            name: name.to_vec(),
            meta: found.meta,
        })
    }

    fn announce(
        &mut self,
        begins: Option<(Vec<u8>, Option<Vec<u8>>)>,
        upper: Option<Vec<u8>>,
        complete: bool,
        chunk: &mut ChunkEncoder,
    ) -> Result<(), ScanError> {
        let suspect = chunk.is_suspect();
        let (digest, listing) = chunk.take();
        if listing.len() > LISTING_MAX {
            return Err(Malformed("attributes too large for one listing").into());
        }
        let seq = self.next_seq;
        self.next_seq += 1;
        self.window_bytes += listing.len();
        self.window.push_back((seq, listing));
        self.batch.push(&Message::Chunk(Chunk {
            seq,
            begins,
            upper,
            complete,
            suspect,
            digest,
        }))?;
        self.hear(false)?;
        while self.window_bytes > SCAN_WINDOW_BYTES || self.window.len() > SCAN_WINDOW_CHUNKS {
            self.hear(true)?;
        }
        Ok(())
    }

    /// Deals with what the target says; with `wait`, at least one frame of it.
    fn hear(&mut self, mut wait: bool) -> Result<(), ScanError> {
        while let Some(frame) = next_frame(&mut self.batch, self.incoming, self.abort, wait)? {
            wait = false;
            for message in Messages::new(&peer_payload(&frame)?) {
                match message? {
                    Message::Want(seq) => self.send_listing(seq)?,
                    Message::Ack(seq) => self.acknowledged(seq),
                    Message::WantHash { id, path } => self.send_hash(id, path)?,
                    Message::WantSince { id, path } => self.send_since(id, path)?,
                    Message::Finished => self.finished = true,
                    _ => return Err(Malformed("out of place during a scan").into()),
                }
            }
        }
        Ok(())
    }

    /// Says a file's hash, if it is one the target may know of.
    fn send_hash(&mut self, id: u64, path: &[u8]) -> Result<(), ScanError> {
        let (_, name) = split(path);
        let hash = match self.way.open_parent(path)? {
            Ok(dir) => hash_file(self.tree, dir, name, self.abort).ok(),
            Err(_) => None,
        };
        self.abort.check()?;
        self.batch.push(&Message::Hash { id, hash })?;
        Ok(())
    }

    /// Says what became of a path since the anchor, if it is one the target may know of.
    fn send_since(&mut self, id: u64, path: &[u8]) -> Result<(), ScanError> {
        let excluded = self.way.open_parent(path)?.err() == Some(Closed::Excluded);
        let nothing = Became {
            changed: false,
            now: None,
        };
        let became = match &mut self.since {
            Some(since) if !excluded => {
                let then = self.suspects.moves().before(path);
                unless_unreadable(since.became(path, &then, self.abort))?
            }
            _ => nothing,
        };
        self.batch.push(&Message::Since { id, became })?;
        Ok(())
    }

    fn send_listing(&mut self, seq: u64) -> Result<(), ScanError> {
        let position = self
            .window
            .binary_search_by_key(&seq, |(seq, _)| *seq)
            .map_err(|_| Malformed("wants a chunk that is not on offer"))?;
        let entries = &self.window[position].1;
        self.batch.push(&Message::Listing { seq, entries })?;
        Ok(())
    }

    fn acknowledged(&mut self, seq: u64) {
        while let Some((first, listing)) = self.window.front() {
            if *first > seq {
                break;
            }
            self.window_bytes -= listing.len();
            self.window.pop_front();
        }
    }
}
