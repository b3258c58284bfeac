//! What a plan would undo: paths that were changed on the target since both machines were equal,
//! and among them those that were changed on the source too.
//!
//! Each machine has its half of the anchor, a snapshot of the state they were equal in. Every
//! planned path is looked up there: what has the inode number and the change time it had was not
//! touched; of the rest attributes are compared, and where these are equal, content. The times of
//! directories do not count, they move with what is in them.

use std::os::fd::{AsFd, BorrowedFd};

use crossbeam_channel::Receiver;
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::codec::{Malformed, Reader, put_bytes, put_u64};
use super::content::hash_file;
use super::entry::{Aspects, Kind, Time};
use super::filter::{Filter, FilterState, Verdict};
use super::frames::{Batch, FrameCursor, receive};
use super::moves::Moves;
use super::path::split;
use super::place::DirCache;
use super::plan::{FolderPlan, Step};
use super::scan::{Notes, ScanError};
use super::spool::SpoolWriter;
use super::tree::{Found, Glance, Tree};
use super::wire::{Message, put_time, read_time};
use crate::escape::escape_bytes;
use crate::interrupt::{AbortFlag, Interrupted};
use crate::record::anchor::LeftPath;

/// Conflicts, and other drift, told one by one with a plan; all of it is in the log.
const TOLD_MAX: usize = 100;
/// Questions asked before their answers are needed.
const ASKED_AHEAD: u64 = 256;
/// Bytes of their paths.
const TOLD_BYTES_MAX: usize = 128 << 10;

/// What changes by itself wherever somebody is logged in: caches, logs, files of a session. It is
/// overwritten like everything else, but nobody is asked about it.
const NOISE: &str = "\
.cache/
Cache/
Caches/
Code Cache/
CacheStorage/
GPUCache/
cache2/
*.log
*.log.[0-9]*
logs/
.*_history
.lesshst
.viminfo
.wget-hsts
.Xauthority
.ICEauthority
.xsession-errors*
recently-used.xbel*
sessionstore*
Session Storage/
**/.local/state/
";

/// What stood, or stands, at a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Version {
    /// What kind of thing.
    pub kind: Kind,
    /// Its size, if it is a file.
    pub size: u64,
    /// When it was modified.
    pub mtime: Time,
}

impl Version {
    /// What is at `path` below `tree`; nothing where the way there is none.
    pub fn at(tree: &Tree, dirs: &mut DirCache, path: &[u8]) -> Result<Option<Self>, Errno> {
        Ok(at(tree, dirs, path, Tree::glance)?.as_ref().map(Self::of))
    }

    fn of(glance: &Glance) -> Self {
        Self {
            kind: glance.kind,
            size: glance.size,
            mtime: glance.mtime,
        }
    }

    /// Appends the encoding; `None` is that nothing is there.
    pub fn encode(this: Option<&Self>, out: &mut Vec<u8>) {
        match this {
            None => out.push(0),
            Some(version) => {
                out.push(version.kind as u8);
                put_u64(out, version.size);
                put_time(out, version.mtime);
            }
        }
    }

    /// Decodes what [`encode`](Self::encode) wrote.
    pub fn decode(reader: &mut Reader<'_>) -> Result<Option<Self>, Malformed> {
        let kind = match reader.u8()? {
            0 => return Ok(None),
            kind => Kind::from_byte(kind)?,
        };
        Ok(Some(Self {
            kind,
            size: reader.u64()?,
            mtime: read_time(reader)?,
        }))
    }
}

/// A tree now and as it was when both machines were equal.
pub struct Since<'a> {
    now: &'a Tree,
    then: Tree,
    now_dirs: DirCache,
    then_dirs: DirCache,
}

/// What became of a path since then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Became {
    /// Whether it is another thing, or has another content or other attributes.
    pub changed: bool,
    /// What is there now.
    pub now: Option<Version>,
}

/// What `look` says of the entry at `path`, or nothing if there is no such path.
pub(super) fn at<T>(
    tree: &Tree,
    dirs: &mut DirCache,
    path: &[u8],
    look: impl Fn(&Tree, BorrowedFd<'_>, &[u8]) -> Result<Option<T>, Errno>,
) -> Result<Option<T>, Errno> {
    let (parent, name) = split(path);
    match dirs.open(tree, parent) {
        Ok(dir) => look(tree, dir.as_fd(), name),
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::XDEV) => Ok(None),
        Err(error) => Err(error),
    }
}

impl<'a> Since<'a> {
    /// Of the folder `now`, which was `then`.
    #[must_use]
    pub fn new(now: &'a Tree, then: Tree) -> Self {
        Self {
            now,
            then,
            now_dirs: DirCache::default(),
            then_dirs: DirCache::default(),
        }
    }

    /// The tree as it was.
    #[must_use]
    pub fn tree_then(&self) -> &Tree {
        &self.then
    }

    /// What became of what is at `path`, and was at `before`.
    pub fn became(
        &mut self,
        path: &[u8],
        before: &[u8],
        abort: &AbortFlag,
    ) -> Result<Became, Errno> {
        let now = at(self.now, &mut self.now_dirs, path, Tree::glance)?;
        let then = at(&self.then, &mut self.then_dirs, before, Tree::glance)?;
        let changed = match (&then, &now) {
            (None, None) => false,
            (Some(then), Some(now)) if (then.ino, then.ctime) == (now.ino, now.ctime) => false,
            (Some(_), Some(_)) => self.differs(path, before, abort)?,
            _ => true,
        };
        Ok(Became {
            changed,
            now: now.as_ref().map(Version::of),
        })
    }

    /// What was at `path` then, if it can be told.
    pub fn then(&mut self, path: &[u8]) -> Option<Glance> {
        let then = at(&self.then, &mut self.then_dirs, path, Tree::glance);
        then.ok().flatten()
    }

    /// Whether something that was touched since is another thing or has other attributes or content.
    fn differs(&mut self, path: &[u8], before: &[u8], abort: &AbortFlag) -> Result<bool, Errno> {
        let now = at(self.now, &mut self.now_dirs, path, Tree::look)?;
        let then = at(&self.then, &mut self.then_dirs, before, Tree::look)?;
        let (Some(then), Some(now)) = (then, now) else {
            return Ok(true);
        };
        match difference(&then, &now) {
            Difference::None => Ok(false),
            Difference::Some => Ok(true),
            Difference::Content => self.differs_in_content(path, before, abort),
        }
    }

    fn differs_in_content(
        &mut self,
        path: &[u8],
        before: &[u8],
        abort: &AbortFlag,
    ) -> Result<bool, Errno> {
        let (parent, name) = split(path);
        let now = self.now_dirs.open(self.now, parent)?;
        let now = hash_file(self.now, now.as_fd(), name, abort)?;
        let (parent, name) = split(before);
        let then = self.then_dirs.open(&self.then, parent)?;
        let then = hash_file(&self.then, then.as_fd(), name, abort)?;
        Ok(now != then)
    }
}

enum Difference {
    None,
    Some,
    /// Only reading both can tell.
    Content,
}

fn difference(then: &Found, now: &Found) -> Difference {
    let mut aspects = Aspects::between(&then.meta, &now.meta);
    aspects.0 &= !Aspects::LINK;
    if now.meta.kind == Kind::Dir {
        aspects.0 &= !Aspects::MTIME;
    }
    match now.meta.kind {
        _ if aspects != Aspects::default() => Difference::Some,
        Kind::File => Difference::Content,
        _ => Difference::None,
    }
}

/// What a plan would undo, in numbers and by name.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drift {
    /// Paths changed on the target, noise apart.
    #[serde(deserialize_with = "crate::figures::count")]
    pub changed: u64,
    /// Caches, logs and the like among what was changed there.
    #[serde(deserialize_with = "crate::figures::count")]
    pub noise: u64,
    /// Of `changed`: those changed on the source as well.
    #[serde(deserialize_with = "crate::figures::count")]
    pub conflicts: u64,
    /// Some of them, conflicts and others.
    pub told: Vec<Drifted>,
}

/// One path that was changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drifted {
    /// Below the folder.
    pub path: LeftPath,
    /// Whether it was changed on both machines.
    pub conflict: bool,
    /// What the source has now.
    pub source: Option<Told>,
    /// What the target has now.
    pub target: Option<Told>,
}

/// A [`Version`] fit to be told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Told {
    /// What kind of thing, as a word.
    pub kind: String,
    /// Its size, if it is a file.
    pub size: Option<u64>,
    /// When it was modified.
    pub mtime: Time,
}

impl From<Version> for Told {
    fn from(version: Version) -> Self {
        Self {
            kind: version.kind.word().to_owned(),
            size: (version.kind == Kind::File).then_some(version.size),
            mtime: version.mtime,
        }
    }
}

impl Drift {
    /// Adds a path that the target has changed.
    pub fn add(&mut self, path: &[u8], noise: bool, here: Option<Version>, there: &Became) {
        if noise {
            self.noise += 1;
            return;
        }
        self.changed += 1;
        self.conflicts += u64::from(there.changed);
        let alike = |told: &&Drifted| told.conflict == there.changed;
        let bytes: usize = self.told.iter().map(|told| told.path.0.len()).sum();
        if self.told.iter().filter(alike).count() < TOLD_MAX && bytes + path.len() < TOLD_BYTES_MAX
        {
            self.told.push(Drifted {
                path: LeftPath(path.to_vec()),
                conflict: there.changed,
                source: there.now.map(Told::from),
                target: here.map(Told::from),
            });
        }
    }
}

/// Tells noise from people's work.
pub struct Noise {
    top: FilterState,
    /// The directory asked about last, and what the patterns make of it.
    last: (Vec<u8>, FilterState),
}

impl Noise {
    /// By the patterns above.
    ///
    /// # Panics
    /// Never: a test parses them.
    #[must_use]
    pub fn new() -> Self {
        let filter = Filter::parse(NOISE.as_bytes(), "noise").expect("our own patterns are valid");
        let top = FilterState::root(&filter);
        Self {
            last: (Vec::new(), top.clone()),
            top,
        }
    }

    /// Whether `path` is noise.
    #[must_use]
    pub fn is(&mut self, path: &[u8]) -> bool {
        let (parent, name) = split(path);
        if self.last.0 != parent {
            let dirs = parent.split(|b| *b == b'/').filter(|dir| !dir.is_empty());
            let state = dirs.fold(self.top.clone(), |state, dir| state.enter(dir));
            self.last = (parent.to_vec(), state);
        }
        // It may have been a directory or not.
        self.last.1.verdict(name, true) == Verdict::Exclude
    }
}

impl Default for Noise {
    fn default() -> Self {
        Self::new()
    }
}

/// A path that the target has changed, as a record of a spool.
fn to_record(path: &[u8], here: Option<&Version>) -> Vec<u8> {
    let mut record = Vec::new();
    put_bytes(&mut record, path);
    Version::encode(here, &mut record);
    record
}

/// Reads what [`to_record`] wrote.
fn read_record(record: &[u8]) -> Result<(&[u8], Option<Version>), Malformed> {
    let mut reader = Reader::new(record);
    let path = reader.bytes(super::path::PATH_LIMIT)?;
    Ok((path, Version::decode(&mut reader)?))
}

/// What the source says of a path it cannot read: nothing that would stop a sync.
pub fn unless_unreadable(became: Result<Became, Errno>) -> Result<Became, Interrupted> {
    match became {
        Err(Errno::INTR) => Err(Interrupted),
        Ok(became) => Ok(became),
        Err(_) => Ok(Became {
            changed: true,
            now: None,
        }),
    }
}

/// Asking the source while it waits for the end of a scan.
pub struct Asking<'s, 'a> {
    peer: &'s mut Batch<'a>,
    incoming: &'s Receiver<Vec<u8>>,
    abort: &'s AbortFlag,
    cursor: FrameCursor,
}

impl<'s, 'a> Asking<'s, 'a> {
    /// Through `peer`, hearing through `incoming`.
    pub fn new(
        peer: &'s mut Batch<'a>,
        incoming: &'s Receiver<Vec<u8>>,
        abort: &'s AbortFlag,
    ) -> Self {
        Self {
            peer,
            incoming,
            abort,
            cursor: FrameCursor::default(),
        }
    }

    fn answer(&mut self, expected: u64) -> Result<Became, ScanError> {
        loop {
            match self.cursor.next_message() {
                Some(Ok(Message::Since { id, became })) if id == expected => return Ok(became),
                Some(Ok(_)) => return Err(Malformed("out of place after a scan").into()),
                Some(Err(error)) => return Err(error.into()),
                None => self.cursor = FrameCursor::new(receive(self.incoming, self.abort)?)?,
            }
        }
    }
}

/// What of `plan`, before any of it is carried out, would undo a change of the target's; each path is
/// noted.
pub fn of_plan(
    plan: &FolderPlan,
    moves: &Moves,
    mut since: Since<'_>,
    asking: &mut Asking<'_, '_>,
    notes: &mut Notes,
) -> Result<Drift, ScanError> {
    let mut changed = SpoolWriter::new()?;
    for mut ops in [plan.changes()?, plan.deletions()?] {
        while let Some(op) = ops.next_op()? {
            asking.abort.check()?;
            // A directory's time says nothing but that something in it has changed.
            let is_time = op.step == Step::DirAttributes && op.aspects.0 == Aspects::MTIME;
            if is_time || op.path.is_empty() {
                continue;
            }
            // Nothing is moved yet: it is where it was, and so is what gives way.
            let here = match &op.from {
                Some(from) => from.clone(),
                None => moves.before(&op.path),
            };
            let over = moves.to(&op.path).filter(|_| op.over.is_some());
            for here in std::iter::once(here).chain(over.and_then(|m| moves.over(m))) {
                let became = unless_unreadable(since.became(&here, &here, asking.abort))?;
                if became.changed {
                    changed.push(&to_record(&op.path, became.now.as_ref()))?;
                    break;
                }
            }
        }
    }
    let changed = changed.finish()?;
    let (mut ahead, mut records) = (changed.reader()?, changed.reader()?);
    let (mut asked, mut answered) = (0, 0);
    let (mut drift, mut noise) = (Drift::default(), Noise::new());
    while let Some(record) = records.next_record()? {
        while asked < answered + ASKED_AHEAD {
            let Some(record) = ahead.next_record()? else {
                break;
            };
            let (path, _) = read_record(record)?;
            asking.peer.push(&Message::WantSince { id: asked, path })?;
            asked += 1;
        }
        asking.peer.flush()?;
        let there = asking.answer(answered)?;
        answered += 1;
        let (path, here) = read_record(record)?;
        let noise = noise.is(path);
        drift.add(path, noise, here, &there);
        let kind = match (noise, there.changed) {
            (true, _) => "changed on the target since the last sync, a cache, log or session file",
            (false, false) => "changed on the target since the last sync",
            (false, true) => "changed on both machines since the last sync",
        };
        notes.every(kind, &escape_bytes(path));
    }
    Ok(drift)
}

#[cfg(test)]
mod tests {
    use super::super::tests::{lab, sh};
    use super::*;

    #[test]
    fn noise_is_told_from_work() {
        let mut noise = Noise::new();
        for path in [
            "ann/.cache/x/y",
            "ann/.bash_history",
            "ann/.mozilla/firefox/p/cache2/entries/1",
            "ann/app/server.log",
            "ann/app/server.log.1.gz",
            "ann/.local/state/thing/log",
            "ann/.config/app/Code Cache/js/1",
        ] {
            assert!(noise.is(path.as_bytes()), "{path}");
        }
        for path in [
            "ann/thesis.tex",
            "ann/logbook.txt",
            "ann/history",
            "ann/.local/share/app/data",
            "ann/src/cache.rs",
            "ann/.ssh/known_hosts",
        ] {
            assert!(!noise.is(path.as_bytes()), "{path}");
        }
    }

    #[test]
    fn what_was_touched_is_told_from_what_was_changed() {
        let Some(lab) = lab() else { return };
        sh(
            &lab.from,
            "mkdir dir gone-dir; for f in same read chmod noop put-back moved-on gone; do echo text >$f; done; \
             ln -s a link; touch -d @5 *; mkfifo fifo; echo same >touched; touch -d @7 touched",
        );
        sh(&lab.disk.top(), "btrfs -q subvolume snapshot -r . then");
        let then = Tree::open(&lab.disk.top().join("then/from")).unwrap();
        sh(
            &lab.from,
            "cat read >/dev/null; chmod 600 chmod; chmod 644 noop; \
             printf TEXT | dd of=put-back conv=notrunc status=none; touch -d @5 put-back; \
             echo more >>moved-on; rm gone; echo >new; echo >dir/in; rmdir gone-dir; echo >gone-dir; \
             ln -sf b link; echo same >t; touch -d @7 t; mv t touched",
        );
        let now = Tree::open(&lab.from).unwrap();
        let mut since = Since::new(&now, then);
        let abort = AbortFlag::new();
        for (path, changed, there) in [
            ("same", false, true),
            ("read", false, true),
            ("chmod", true, true),
            ("noop", false, true),
            ("put-back", true, true),
            ("moved-on", true, true),
            ("gone", true, false),
            ("new", true, true),
            // Its time moves with what is in it.
            ("dir", false, true),
            ("dir/in", true, true),
            ("gone-dir", true, true),
            ("gone-dir/never", false, false),
            ("link", true, true),
            ("fifo", false, true),
            // Another file of equal content.
            ("touched", false, true),
            ("never", false, false),
        ] {
            let path_then = path.as_bytes();
            let became = since.became(path_then, path_then, &abort).unwrap();
            assert_eq!(
                (became.changed, became.now.is_some()),
                (changed, there),
                "{path}"
            );
        }
    }

    #[test]
    fn what_is_told_is_bounded_and_what_is_counted_is_not() {
        let mut drift = Drift::default();
        let became = |changed| Became { changed, now: None };
        for n in 0..1000 {
            drift.add(
                format!("{n}").as_bytes(),
                n % 10 == 0,
                None,
                &became(n % 2 == 1),
            );
        }
        assert_eq!(
            (drift.changed, drift.noise, drift.conflicts),
            (900, 100, 500)
        );
        let conflicts = drift.told.iter().filter(|t| t.conflict).count();
        assert_eq!((drift.told.len(), conflicts), (2 * TOLD_MAX, TOLD_MAX));
        let mut long = Drift::default();
        for _ in 0..100 {
            long.add(&vec![b'x'; 60_000], false, None, &became(true));
        }
        assert_eq!((long.changed, long.told.len()), (100, 2));
    }
}
