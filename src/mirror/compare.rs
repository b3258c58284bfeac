//! The target's half of a full scan: follow the source through our own tree, compare, and plan.
//!
//! The target alone decides what is deleted: only what it finds itself, below directories whose
//! source listing was complete, never anything excluded, mounted or in a nested subvolume. What the
//! source says is checked against the filter as well: it cannot write to an excluded path.

use std::collections::{HashMap, HashSet, VecDeque};
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::time::{Duration, Instant};

use crossbeam_channel::Receiver;
use rustix::fs::{AtFlags, FileType};
use rustix::io::Errno;

use super::codec::{Malformed, Reader};
use super::content::hash_file;
use super::drift::{self, Asking, Since};
use super::entry::{Aspects, Entry, FLAG_NOCOW, Kind, Meta};
use super::exchange;
use super::filter::{DIRECTORY_FILTER_NAME, Filter, FilterState, Verdict};
use super::frames::{Batch, FrameCursor, peer_payload, receive};
use super::given_way;
use super::left::{Compared, Left};
use super::links::{Leaders, StandIns, unseen};
use super::look::Looker;
use super::moves::{Move, Moves, Occupied};
use super::path::{DEPTH_MAX, join, split};
use super::plan::{Old, Op, Ops, Planner, RANGES_MAX, Step};
use super::ranges::Ranges;
use super::scan::{ChunkEncoder, Notes, ScanError};
use super::spool::SpoolWriter;
use super::suspects::{Mark, Suspect, Suspects, Within};
use super::tree::{Found, Names, Tree, Trust};
use super::wire::{Chunk, Message, Messages, SCAN_WINDOW_CHUNKS, ScanTree};
use crate::escape::escape_bytes;
use crate::interrupt::AbortFlag;

/// A run with more of our own names than this is compared name by name instead of by digest.
const DIGEST_ENTRIES: usize = 4096;
/// Hashes asked for before they are needed.
const HASHES_AHEAD: u64 = 64;
/// The kind of note about what is excluded, where that is asked for.
pub const EXCLUDED: &str = "excluded";
/// Directories of one folder that may have rules of their own.
const RULED_MAX: usize = 20_000;
/// Acknowledge after this many chunks even while more arrive.
const ACK_EVERY: u64 = 64;

/// Where a directory of the source stands on the target.
#[derive(Clone)]
enum Place {
    /// It is there.
    Here(Rc<OwnedFd>),
    /// It is not, or something else is in its place that will be replaced.
    Absent,
    /// Something is in its place that must stay; nothing below is touched.
    Blocked,
}

/// A directory being followed.
struct Level {
    path: Rc<[u8]>,
    place: Place,
    filter: FilterState,
    within: Within,
    names: Names,
    next: usize,
    /// Whether its last chunk has come.
    listed: bool,
    /// The last name that its chunks have spoken for.
    upper: Vec<u8>,
    /// The subdirectory entered last.
    last_child: Vec<u8>,
}

/// An announced chunk that has not been acknowledged.
struct Pending {
    seq: u64,
    path: Rc<[u8]>,
    place: Place,
    filter: FilterState,
    within: Within,
    /// It speaks for the names after this one ...
    lower: Vec<u8>,
    /// ... and up to this one.
    upper: Option<Vec<u8>>,
    complete: bool,
    ours: Ours,
    done: bool,
}

/// Our side of a chunk.
#[derive(Default)]
struct Ours {
    /// What we have in scope, in name order.
    entries: Vec<(Vec<u8>, Option<Found>)>,
    /// Names we have that are excluded here.
    protected: Vec<Vec<u8>>,
}

/// Follows the source's scan.
pub struct TargetScan<'a> {
    tree: &'a Tree,
    incoming: &'a Receiver<Vec<u8>>,
    peer: Batch<'a>,
    cli: Batch<'a>,
    abort: &'a AbortFlag,
    content: bool,
    trust: Option<Trust>,
    /// What became of things since the anchor, if there is one.
    since: Option<Since<'a>>,
    /// The folder in the snapshot that told what may differ.
    compared: Option<Since<'a>>,
    /// In a restricted scan, before it begins: what this machine knows of.
    restricted: Option<Vec<Suspect>>,
    is_restricted: bool,
    /// Whether what was planned is compared once more.
    is_planned: bool,
    suspects: Suspects,
    leaders: Leaders,
    looker: Looker<'a>,
    stack: Vec<Level>,
    pending: VecDeque<Pending>,
    acked: Option<u64>,
    planner: Planner,
    /// Files whose size and time are equal though they were touched; their hashes will tell.
    doubts: SpoolWriter,
    /// Those of them that lead hard links: what is linked to them waits as well.
    doubtful_leaders: HashSet<Vec<u8>>,
    stand_ins: StandIns,
    /// Number of the chunk that must come next; `None` until the folder itself was announced.
    next_seq: Option<u64>,
    /// The rules of directories that have their own, by path: in the directory itself.
    ruled: HashMap<Vec<u8>, FilterState>,
    reported: Instant,
    /// Whether what is excluded is named among the notes.
    names_excluded: bool,
    /// What stays different whatever the plan does.
    left: Left,
    notes: Notes,
    /// Entries seen on the target.
    entries: u64,
}

impl<'a> TargetScan<'a> {
    /// A scan of `tree`, the folder as it is on this machine.
    pub fn new(
        tree: &'a Tree,
        looker: Looker<'a>,
        incoming: &'a Receiver<Vec<u8>>,
        peer: Batch<'a>,
        cli: Batch<'a>,
        abort: &'a AbortFlag,
        scan: &ScanTree,
    ) -> Result<Self, ScanError> {
        Ok(Self {
            tree,
            incoming,
            peer,
            cli,
            abort,
            content: scan.content,
            trust: scan.trust,
            since: None,
            compared: None,
            restricted: None,
            is_restricted: false,
            is_planned: scan.restricted.as_ref().is_some_and(|r| r.planned),
            suspects: Suspects::default(),
            leaders: Leaders::default(),
            looker,
            stack: Vec::new(),
            pending: VecDeque::new(),
            acked: None,
            planner: Planner::new()?,
            doubts: SpoolWriter::new()?,
            doubtful_leaders: HashSet::new(),
            stand_ins: StandIns::default(),
            next_seq: None,
            ruled: HashMap::new(),
            reported: Instant::now(),
            names_excluded: false,
            left: Left::default(),
            notes: Notes::default(),
            entries: 0,
        })
    }

    /// The same, telling what the plan would undo of what was changed since the folder was `anchor`.
    #[must_use]
    pub fn since(self, anchor: Tree) -> Self {
        Self {
            since: Some(Since::new(self.tree, anchor)),
            ..self
        }
    }

    /// The same, of nothing but `suspects` and those the source names. `compared`: the folder in
    /// the snapshot that told, where parts of files are to be believed.
    #[must_use]
    pub fn restricted(self, suspects: Vec<Suspect>, compared: Option<Tree>) -> Self {
        Self {
            restricted: Some(suspects),
            compared: compared.map(|then| Since::new(self.tree, then)),
            is_restricted: true,
            ..self
        }
    }

    /// The same, naming what is there and excluded.
    #[must_use]
    pub fn naming_excluded(self) -> Self {
        Self {
            names_excluded: true,
            ..self
        }
    }

    /// Compares everything the source announces and returns the plan.
    pub fn run(mut self, filter: &Filter) -> Result<Compared, ScanError> {
        if let Some(ours) = self.restricted.take() {
            exchange::tell(&mut self.peer, &ours)?;
            let theirs = exchange::hear(self.incoming, self.abort)?;
            // Where something is that was equal, nobody would look any more, unless all of it is looked at.
            let whole: HashSet<&[u8]> = (theirs.iter())
                .filter(|s| s.from.is_none() && s.mark.has(Mark::BELOW))
                .map(|s| &s.path[..])
                .collect();
            // A file and the like is nothing but itself; and what gives way goes with all that is in it.
            let is_taken = |m: &Move| {
                self.is_planned
                    && self.tree.occupied(&m.to) != Occupied::No
                    && self.tree.occupied(&m.from) != Occupied::Otherwise
                    && !(whole.contains(&m.from[..]) && whole.contains(&m.to[..]))
            };
            let is_barred = |m: &Move| self.looker.may_hold_mount(&m.from) || is_taken(m);
            // What is planned is all that is in either place: it is visited, whoever touched it.
            let touched = if self.is_planned { &[][..] } else { &ours };
            let moves =
                exchange::accept(touched, &theirs, self.tree, filter, is_barred, self.abort)?;
            exchange::tell(&mut self.peer, &exchange::agreed(&moves))?;
            self.plan_moves(&moves)?;
            self.suspects = Suspects::new(theirs, ours, moves);
        }
        let mut ended = false;
        while !ended || !self.pending.is_empty() {
            let frame = if let Ok(frame) = self.incoming.try_recv() {
                frame
            } else {
                self.acknowledge(true)?;
                self.peer.flush()?;
                receive(self.incoming, self.abort)?
            };
            for message in Messages::new(&peer_payload(&frame)?) {
                match message? {
                    _ if ended && self.pending.is_empty() => {
                        return Err(Malformed("goes on after the end of the scan").into());
                    }
                    Message::Root(meta) => self.root(&meta)?,
                    Message::Chunk(chunk) if !ended => self.chunk(chunk, filter)?,
                    Message::Listing { seq, entries } => self.listing(seq, entries)?,
                    Message::ScanEnd => ended = true,
                    _ => return Err(Malformed("out of place during a scan").into()),
                }
            }
            self.acknowledge(false)?;
            self.report()?;
        }
        self.acknowledge(true)?;
        self.resolve_doubts()?;
        self.planner.count_existing(self.entries);
        let plan = self.planner.finish()?;
        let more = if self.is_restricted {
            let moves = self.suspects.moves();
            unseen(&self.leaders, self.tree, &self.suspects, |path| {
                moves.after(path)
            })
        } else {
            Ok(Vec::new())
        };
        let is_whole = more.as_ref().is_ok_and(Vec::is_empty);
        let drift = match self.since.take() {
            Some(since) if is_whole => {
                let mut asking = Asking::new(&mut self.peer, self.incoming, self.abort);
                let moves = self.suspects.moves();
                let notes = &mut self.notes;
                Some(drift::of_plan(&plan, moves, since, &mut asking, notes)?)
            }
            _ => None,
        };
        self.peer.push(&Message::Finished)?;
        self.peer.flush()?;
        Ok(Compared {
            plan,
            notes: self.notes,
            entries: self.entries,
            looked: self.looker.looked,
            left: self.left,
            drift,
            more,
        })
    }

    /// Tells the CLI now and then how far the scan is.
    fn report(&mut self) -> Result<(), ScanError> {
        if self.reported.elapsed() >= Duration::from_millis(200) {
            self.reported = Instant::now();
            let path = self.stack.last().map_or(&b""[..], |level| &level.path);
            self.cli.push(&Message::Progress {
                items: self.entries,
                bytes: 0,
                path,
            })?;
            self.cli.flush()?;
        }
        Ok(())
    }

    /// Acknowledges everything dealt with, from the oldest on.
    fn acknowledge(&mut self, now: bool) -> Result<(), ScanError> {
        let mut last = None;
        while self.pending.front().is_some_and(|p| p.done) {
            last = self.pending.pop_front().map(|p| p.seq);
        }
        if last.is_some() {
            self.acked = last;
        }
        if let Some(seq) = self.acked
            && (now || seq % ACK_EVERY == 0)
        {
            self.acked = None;
            self.peer.push(&Message::Ack(seq))?;
        }
        Ok(())
    }

    fn root(&mut self, want: &Meta) -> Result<(), ScanError> {
        let unreadable = |source| ScanError::Root {
            path: "the folder on the target".to_owned(),
            source,
        };
        let have = self.tree.look_root().map_err(unreadable)?;
        if want.kind != Kind::Dir || self.next_seq.replace(0).is_some() {
            return Err(Malformed("the folder is no directory, or comes twice").into());
        }
        self.entries += 1;
        let aspects = Aspects::between(want, &have.meta);
        if aspects != Aspects::default() {
            self.add(Step::DirAttributes, aspects, Vec::new(), Some(&have), want)?;
        }
        Ok(())
    }

    fn add(
        &mut self,
        step: Step,
        aspects: Aspects,
        path: Vec<u8>,
        have: Option<&Found>,
        want: &Meta,
    ) -> Result<(), ScanError> {
        if let Some(have) = have.filter(|have| have.meta.multi) {
            self.planner.count_touched(have.meta.size);
        }
        let ranges = match have {
            Some(have) if step == Step::Fetch => self.known_ranges(&path, have, want),
            _ => None,
        };
        let op = Op {
            step,
            aspects,
            path,
            old: have.map(old_of),
            over: None,
            from: None,
            meta: want.clone(),
            ranges,
        };
        let leader = want.leader.as_ref().filter(|_| step == Step::Link);
        if leader.is_some_and(|leader| self.doubtful_leaders.contains(leader)) {
            // Whether its leader will be a new inode is not known yet.
            return Ok(self.doubts.push(&op.to_record())?);
        }
        Ok(self.planner.add(&op)?)
    }

    /// The only parts of a file that may differ, if that is known and still true.
    fn known_ranges(&mut self, path: &[u8], have: &Found, want: &Meta) -> Option<Ranges> {
        if (want.kind, have.meta.kind) != (Kind::File, Kind::File) {
            return None;
        }
        let ranges = self.suspects.ranges(path)?;
        // They were found out of a snapshot: what was written since then is not in them.
        let path = self.suspects.moves().before(path);
        let then = self.compared.as_mut()?.then(&path)?;
        let is_as_it_was = (then.ino, then.ctime) == (have.ino, have.ctime);
        is_as_it_was.then(|| ranges.clone().at_most(RANGES_MAX))
    }

    fn chunk(&mut self, chunk: Chunk, filter: &Filter) -> Result<(), ScanError> {
        if self.next_seq != Some(chunk.seq) || self.pending.len() > SCAN_WINDOW_CHUNKS {
            return Err(Malformed("a chunk out of turn").into());
        }
        self.next_seq = Some(chunk.seq + 1);
        if let Some((path, rules)) = &chunk.begins {
            self.enter(path, rules.as_deref(), filter)?;
        }
        let level = self
            .stack
            .last_mut()
            .ok_or(Malformed("a chunk without a directory"))?;
        let ends_too_early = |upper: &Vec<u8>| *upper <= level.upper;
        if level.listed || chunk.upper.as_ref().is_some_and(ends_too_early) {
            return Err(Malformed("a chunk of what was listed already").into());
        }
        let lower = std::mem::replace(&mut level.upper, chunk.upper.clone().unwrap_or_default());
        level.listed = chunk.upper.is_none();
        let (path, place, filter, within) = (
            Rc::clone(&level.path),
            level.place.clone(),
            level.filter.clone(),
            level.within.clone(),
        );
        let mut ours = Ours::default();
        let mut equal = false;
        let dir = match &place {
            Place::Here(fd) => Some(Rc::clone(fd)),
            // What is moved into it is looked at where it is.
            Place::Absent if !level.names.is_empty() => Some(self.top()?),
            Place::Absent | Place::Blocked => None,
        };
        let level = (self.stack.last_mut()).expect("looked at above");
        if let Some(fd) = dir {
            let names = std::mem::take(&mut level.names);
            let first = level.next;
            let in_run = |name: &[u8]| chunk.upper.as_deref().is_none_or(|upper| name <= upper);
            while names.get(level.next).is_some_and(in_run) {
                level.next += 1;
            }
            let run = first..level.next;
            let by_digest = run.len() <= DIGEST_ENTRIES;
            let mut encoder = ChunkEncoder::default();
            for position in run {
                self.abort.check()?;
                let here = (&filter, &within);
                self.look_at(&fd, &path, &names, position, here, by_digest, &mut ours)?;
            }
            if let Some(level) = self.stack.last_mut() {
                level.names = names;
            }
            if by_digest {
                for (name, found) in &mut ours.entries {
                    let found = found.as_mut().expect("looked at above");
                    if found.meta.kind == Kind::Opaque {
                        self.left.add(join(&path, name));
                    }
                    // Moved in and out, not copied.
                    let meta = std::mem::replace(&mut found.meta, Meta::opaque());
                    let entry = Entry {
                        name: std::mem::take(name),
                        meta,
                    };
                    encoder.add(&entry, false);
                    (*name, found.meta) = (entry.name, entry.meta);
                }
                let suspect = chunk.suspect || encoder.is_suspect();
                equal = encoder.take().0 == chunk.digest && !suspect;
            }
        }
        if chunk.upper.is_none()
            && let Some(level) = self.stack.last_mut()
        {
            level.names = Names::default();
        }
        let blocked = matches!(place, Place::Blocked);
        if !equal && !blocked {
            self.peer.push(&Message::Want(chunk.seq))?;
        }
        if equal {
            ours = Ours::default();
        }
        self.pending.push_back(Pending {
            seq: chunk.seq,
            path,
            place,
            filter,
            within,
            lower,
            upper: chunk.upper,
            complete: chunk.complete,
            ours,
            done: equal || blocked,
        });
        Ok(())
    }

    /// The folder itself.
    fn top(&self) -> Result<Rc<OwnedFd>, ScanError> {
        let top = self.tree.open_dir(b"").map_err(|source| ScanError::Root {
            path: "the folder on the target".to_owned(),
            source,
        })?;
        Ok(Rc::new(top))
    }

    /// Goes to the directory the source has come to.
    fn enter(
        &mut self,
        path: &[u8],
        rules: Option<&[u8]>,
        filter: &Filter,
    ) -> Result<(), ScanError> {
        let (place, state, within) = if path.is_empty() {
            if !self.stack.is_empty() {
                return Err(Malformed("the folder begins twice").into());
            }
            let fd = self.top()?;
            let within = if self.is_restricted {
                self.suspects.root()
            } else {
                Within::All { doubted: false }
            };
            (Place::Here(fd), FilterState::root(filter), within)
        } else {
            let (parent, name) = split(path);
            while self
                .stack
                .last()
                .is_some_and(|level| *level.path != *parent)
            {
                self.stack.pop();
            }
            if self.stack.len() > DEPTH_MAX {
                return Err(Malformed("a directory too deep").into());
            }
            let level = self
                .stack
                .last_mut()
                .ok_or(Malformed("a directory without its parent"))?;
            if !level.listed || *name <= *level.last_child {
                return Err(Malformed("a directory out of turn").into());
            }
            level.last_child = name.to_vec();
            if level.filter.verdict(name, true) == Verdict::Exclude {
                return Err(Malformed("an excluded directory").into());
            }
            let below = level.filter.enter(name);
            let visit = self.suspects.visit(&level.path, &level.within, name);
            let within = visit
                .below
                .ok_or(Malformed("a directory that nobody suspects"))?;
            (self.child_place(name), below, within)
        };
        let state = match rules {
            None => state,
            Some(text) => state
                .with_directory_rules(text, &escape_bytes(path))
                .map_err(|_| Malformed("unusable rules of a directory"))?,
        };
        if rules.is_some() {
            if self.ruled.len() >= RULED_MAX {
                return Err(Malformed("too many directories with rules").into());
            }
            self.ruled.insert(path.to_vec(), state.clone());
        }
        let names = match &place {
            Place::Here(fd) => match self.suspects.read(fd.as_fd(), path, &within) {
                Ok(names) => self.as_moved(path, names),
                Err(error) => {
                    self.notes.error(
                        "cannot be read",
                        &format!("{}: {error}", escape_bytes(path)),
                    );
                    Names::default()
                }
            },
            // What is moved into a new directory.
            Place::Absent => self.as_moved(path, Names::default()),
            Place::Blocked => Names::default(),
        };
        self.looker.begin(&names);
        self.stack.push(Level {
            path: path.into(),
            place,
            filter: state,
            within,
            names,
            next: 0,
            listed: false,
            upper: Vec::new(),
            last_child: Vec::new(),
        });
        Ok(())
    }

    /// Plans the moves that were agreed on, before everything else, and the deletion of what is in
    /// directories that give way.
    fn plan_moves(&mut self, moves: &Moves) -> Result<(), ScanError> {
        let look = |path: &[u8]| {
            let (parent, name) = split(path);
            let dir = self.tree.open_dir(parent);
            let found = dir.and_then(|dir| self.tree.look(dir.as_fd(), name));
            found.ok().flatten()
        };
        for m in moves.list() {
            // Nothing more than a moment ago it was there.
            let have = look(&m.from).unwrap_or_else(Found::unreadable);
            let over = moves.over(m).and_then(|path| Some((look(&path)?, path)));
            if let Some((found, path)) = &over {
                self.entries += 1;
                self.planner.count_touched(found.meta.size);
                if found.meta.kind == Kind::Dir {
                    self.delete_given_way(path, moves)?;
                }
            }
            self.planner.add(&Op {
                step: Step::Move,
                aspects: Aspects(Aspects::MOVED),
                path: m.to.clone(),
                from: Some(m.from.clone()),
                old: Some(old_of(&have)),
                over: over.as_ref().map(|(found, _)| old_of(found)),
                meta: Meta::opaque(),
                ranges: None,
            })?;
        }
        Ok(())
    }

    /// Plans the deletion of everything in the directory at `path`, which gives way, that is not moved itself.
    fn delete_given_way(&mut self, path: &[u8], moves: &Moves) -> Result<(), ScanError> {
        let (planner, entries) = (&mut self.planner, &mut self.entries);
        given_way::each(self.tree, path, moves, self.abort, &mut |path, found| {
            *entries += 1;
            planner.add(&Op {
                step: Step::Delete,
                aspects: Aspects::default(),
                path: path.to_vec(),
                from: Some(path.to_vec()),
                old: Some(old_of(found)),
                over: None,
                meta: Meta::opaque(),
                ranges: None,
            })
        })
    }

    /// The names of a directory as they will be when all has been moved.
    fn as_moved(&self, path: &[u8], names: Names) -> Names {
        let moves = self.suspects.moves();
        if moves.is_empty() {
            return names;
        }
        let before = moves.before(path);
        let arrivals = moves.arrivals(path);
        if arrivals.is_empty() && !moves.is_left_by_some(&before) {
            return names;
        }
        let come: Vec<(&[u8], u64, FileType)> = arrivals
            .iter()
            .filter_map(|name| {
                let (parent, old) = split(&moves.to(&join(path, name))?.from);
                let dir = self.tree.open_dir(parent).ok()?;
                let stat = rustix::fs::statat(dir, old, AtFlags::SYMLINK_NOFOLLOW).ok()?;
                let file_type = FileType::from_raw_mode(stat.st_mode);
                Some((&name[..], stat.st_ino, file_type))
            })
            .collect();
        names.changed(|name| moves.from(&join(&before, name)).is_some(), &come)
    }

    /// What stands where something comes from that is moved to `name` in `path`.
    fn look_moved(&self, path: &[u8], name: &[u8]) -> Option<Result<Option<Found>, Errno>> {
        let moves = self.suspects.moves();
        if moves.is_empty() {
            return None;
        }
        let m = moves.to(&join(path, name))?;
        let (parent, name) = split(&m.from);
        let dir = self.tree.open_dir(parent);
        Some(dir.and_then(|dir| self.tree.look(dir.as_fd(), name)))
    }

    /// What stands at `name` in the directory on top of the stack, where the source has a directory.
    fn child_place(&mut self, name: &[u8]) -> Place {
        let level = self.stack.last().expect("the caller looked");
        let path = join(&level.path, name);
        let moves = self.suspects.moves();
        let opened = match (moves.to(&path), &level.place) {
            (_, Place::Blocked) => return Place::Blocked,
            (Some(m), _) => self.tree.open_dir(&m.from),
            (None, Place::Absent) => return Place::Absent,
            (None, Place::Here(_)) if moves.is_vacated(&path) => return Place::Absent,
            (None, Place::Here(fd)) => self.tree.open_child(fd.as_fd(), name),
        };
        match opened {
            Ok(fd) => Place::Here(Rc::new(fd)),
            Err(Errno::NOENT) => Place::Absent,
            Err(Errno::XDEV) => {
                self.notes.warn(
                    "left alone on the target, a nested subvolume or a mount",
                    &escape_bytes(&path),
                );
                self.left.add(path);
                Place::Blocked
            }
            Err(Errno::NOTDIR | Errno::LOOP) => {
                if level.filter.verdict(name, false) == Verdict::Exclude {
                    self.notes
                        .warn("left alone on the target, excluded", &escape_bytes(&path));
                    self.left.add(path);
                    Place::Blocked
                } else {
                    Place::Absent
                }
            }
            Err(error) => {
                self.notes.error(
                    "cannot be read",
                    &format!("{}: {error}", escape_bytes(&path)),
                );
                Place::Blocked
            }
        }
    }

    #[expect(
        clippy::too_many_arguments,
        reason = "one entry of one directory under one filter"
    )]
    fn look_at(
        &mut self,
        dir: &OwnedFd,
        path: &[u8],
        names: &Names,
        position: usize,
        (filter, within): (&FilterState, &Within),
        by_digest: bool,
        ours: &mut Ours,
    ) -> Result<(), ScanError> {
        let name = names.get(position).expect("within the run").to_vec();
        let as_dir = filter.verdict(&name, true);
        let as_other = filter.verdict(&name, false);
        if as_dir == Verdict::Exclude && as_other == Verdict::Exclude {
            self.protect(path, name, ours);
            return Ok(());
        }
        if as_dir != Verdict::Exclude && as_other != Verdict::Exclude && !by_digest {
            self.entries += 1;
            ours.entries.push((name, None));
            return Ok(());
        }
        let found = match self.look_moved(path, &name) {
            Some(found) => found,
            None => self.looker.look(dir, path, names, position),
        };
        if let Ok(Some(found)) = &found {
            let is_dir = matches!(found.meta.kind, Kind::Dir | Kind::Opaque);
            // Before it is noted: what is excluded leads no hard links.
            if (if is_dir { as_dir } else { as_other }) == Verdict::Exclude {
                self.protect(path, name, ours);
                return Ok(());
            }
        }
        if let Some(found) = self.note(found, dir, path, &name, within)? {
            self.entries += 1;
            ours.entries.push((name, Some(found)));
        }
        Ok(())
    }

    /// Notes that an entry of ours is excluded.
    fn protect(&mut self, path: &[u8], name: Vec<u8>, ours: &mut Ours) {
        if self.names_excluded {
            self.notes.info(EXCLUDED, &escape_bytes(&join(path, &name)));
        }
        self.left.own_rules |= name == DIRECTORY_FILTER_NAME.as_bytes();
        ours.protected.push(name);
    }

    /// Everything about one of our entries; opaque if it cannot be read.
    fn look(
        &mut self,
        dir: &OwnedFd,
        path: &[u8],
        name: &[u8],
        within: &Within,
    ) -> Result<Option<Found>, ScanError> {
        self.looker.looked += 1;
        let found = match self.look_moved(path, name) {
            Some(found) => found,
            None => self.tree.look(dir.as_fd(), name),
        };
        self.note(found, dir, path, name, within)
    }

    /// Completes what was found: its place in a hard-link group, its content's hash.
    fn note(
        &mut self,
        found: Result<Option<Found>, Errno>,
        dir: &OwnedFd,
        path: &[u8],
        name: &[u8],
        within: &Within,
    ) -> Result<Option<Found>, ScanError> {
        let unreadable = |notes: &mut Notes, error: Errno| {
            notes.error(
                "cannot be read",
                &format!("{}: {error}", escape_bytes(&join(path, name))),
            );
            Ok(Some(Found::unreadable()))
        };
        let mut found = match found {
            Ok(Some(found)) => found,
            Ok(None) => return Ok(None),
            Err(error) => return unreadable(&mut self.notes, error),
        };
        self.leaders.note(&mut found, || join(path, name));
        let doubted = self.suspects.visit(path, within, name).doubted;
        let touched = self.trust.map(|trust| found.is_touched_since(&trust));
        // As on the source.
        let touched = touched.unwrap_or(!self.is_restricted);
        found.suspect_if(doubted || touched);
        if self.content && found.meta.kind == Kind::File {
            match hash_file(self.tree, dir.as_fd(), name, self.abort) {
                Ok(hash) => found.meta.content = Some(hash),
                Err(Errno::INTR) => self.abort.check()?,
                Err(error) => return unreadable(&mut self.notes, error),
            }
        }
        Ok(Some(found))
    }

    /// Whether the rules exclude `path`, which is not a directory.
    fn is_excluded(&self, path: &[u8]) -> bool {
        // The folder's own state is always at the bottom of the stack.
        let Some(mut state) = self.stack.first().map(|level| level.filter.clone()) else {
            return true;
        };
        let mut at = 0;
        while let Some(slash) = path[at..].iter().position(|b| *b == b'/') {
            let end = at + slash;
            state = match self.ruled.get(&path[..end]) {
                Some(state) => state.clone(),
                None => state.enter(&path[at..end]),
            };
            at = end + 1;
        }
        state.verdict(&path[at..], false) == Verdict::Exclude
    }

    /// Compares a chunk whose entries have arrived.
    fn listing(&mut self, seq: u64, entries: &[u8]) -> Result<(), ScanError> {
        let position = self
            .pending
            .binary_search_by_key(&seq, |p| p.seq)
            .map_err(|_| Malformed("a listing nobody asked for"))?;
        let pending = &mut self.pending[position];
        if pending.done {
            return Err(Malformed("a listing nobody asked for").into());
        }
        pending.done = true;
        let ours = std::mem::take(&mut pending.ours);
        let (path, place, filter, within, complete, lower, upper) = (
            Rc::clone(&pending.path),
            pending.place.clone(),
            pending.filter.clone(),
            pending.within.clone(),
            pending.complete,
            std::mem::take(&mut pending.lower),
            pending.upper.take(),
        );
        let mut ours_iter = ours.entries.into_iter().peekable();
        let mut reader = Reader::new(entries);
        let mut previous = lower;
        while !reader.is_empty() {
            self.abort.check()?;
            let mut entry = Entry::decode(&mut reader)?;
            let in_order = previous < entry.name && upper.as_ref().is_none_or(|u| entry.name <= *u);
            let excluded_as = |is_dir| filter.verdict(&entry.name, is_dir) == Verdict::Exclude;
            let excluded = match entry.meta.kind {
                Kind::Dir => excluded_as(true),
                // It could not be looked at: a directory or not.
                Kind::Opaque => excluded_as(true) && excluded_as(false),
                _ => excluded_as(false),
            };
            if !in_order || excluded {
                return Err(Malformed("an entry that does not belong in its listing").into());
            }
            if let Some(leader) = &entry.meta.leader
                && self.is_excluded(leader)
            {
                return Err(Malformed("a hard link to something excluded").into());
            }
            (self.stand_ins).settle(&mut entry.meta, &self.left, || join(&path, &entry.name));
            while let Some((name, have)) = ours_iter.next_if(|(name, _)| *name < entry.name) {
                self.only_ours(&path, &place, &name, have, &filter, complete)?;
            }
            let have = match ours_iter.next_if(|(name, _)| *name == entry.name) {
                Some((name, None)) => match &place {
                    Place::Here(fd) => self.look(&Rc::clone(fd), &path, &name, &within)?,
                    _ => None,
                },
                Some((_, found)) => found,
                None => None,
            };
            match have {
                Some(have) => self.both(&path, &place, &entry, &have, &filter)?,
                None if ours.protected.binary_search(&entry.name).is_ok() => {
                    let path = join(&path, &entry.name);
                    self.notes
                        .warn("left alone on the target, excluded", &escape_bytes(&path));
                    self.left.add(path);
                }
                None => self.only_theirs(&path, &entry)?,
            }
            previous = entry.name;
        }
        for (name, have) in ours_iter {
            self.only_ours(&path, &place, &name, have, &filter, complete)?;
        }
        Ok(())
    }

    /// Makes `entry`, where nothing (or `have`, of another kind) stands.
    fn make(
        &mut self,
        path: Vec<u8>,
        entry: &Entry,
        have: Option<&Found>,
        aspects: Aspects,
    ) -> Result<(), ScanError> {
        let step = match entry.meta.kind {
            Kind::Opaque => {
                self.left.add(path);
                return Ok(());
            }
            Kind::Dir => Step::MakeDir,
            _ if entry.meta.leader.is_some() => Step::Link,
            Kind::File => Step::Fetch,
            _ => Step::MakeNode,
        };
        self.add(step, aspects, path, have, &entry.meta)
    }

    fn only_theirs(&mut self, path: &[u8], entry: &Entry) -> Result<(), ScanError> {
        self.make(join(path, &entry.name), entry, None, Aspects::default())
    }

    fn both(
        &mut self,
        dir_path: &[u8],
        place: &Place,
        entry: &Entry,
        have: &Found,
        filter: &FilterState,
    ) -> Result<(), ScanError> {
        let want = &entry.meta;
        let path = join(dir_path, &entry.name);
        if want.kind == Kind::Opaque {
            self.left.add(path);
            return Ok(());
        }
        if have.meta.kind == Kind::Opaque {
            self.notes.warn(
                "left alone on the target, a nested subvolume or a mount",
                &escape_bytes(&path),
            );
            self.left.add(path);
            return Ok(());
        }
        let mut aspects = Aspects::between(want, &have.meta);
        if let Some(leader) = &want.leader
            && self.planner.is_new_leader(leader)
        {
            aspects.0 |= Aspects::LINK;
        }
        let doubtful = want.kind == Kind::File
            && (want.suspect || have.meta.suspect)
            && !self.content
            && !aspects.any(Aspects::KIND | Aspects::CONTENT);
        if aspects == Aspects::default() && !doubtful {
            return Ok(());
        }
        if aspects.any(Aspects::KIND) {
            if have.meta.kind == Kind::Dir {
                if !self.can_be_emptied(dir_path, place, &entry.name, filter)? {
                    self.notes.warn(
                        "left alone on the target, holds something excluded",
                        &escape_bytes(&path),
                    );
                    self.left.add(path);
                    return Ok(());
                }
                // The directory itself gives way to what takes its place.
                self.delete_below(dir_path, place, &entry.name, filter)?;
            }
            return self.make(path, entry, Some(have), aspects);
        }
        let step = match want.kind {
            Kind::Dir => Step::DirAttributes,
            _ if want.leader.is_some() => Step::Link,
            Kind::File => {
                let nocow = (want.flags ^ have.meta.flags) & FLAG_NOCOW != 0;
                // A reflink copy must have the same checksum setting as its origin.
                if aspects.any(Aspects::CONTENT) || nocow {
                    Step::Fetch
                } else {
                    Step::Reattribute
                }
            }
            _ => Step::MakeNode,
        };
        if doubtful {
            if want.multi && want.leader.is_none() {
                self.doubtful_leaders.insert(path.clone());
            }
            if have.meta.multi {
                self.planner.count_touched(have.meta.size);
            }
            let ranges = self.known_ranges(&path, have, want);
            let op = Op {
                step,
                aspects,
                path,
                from: None,
                old: Some(old_of(have)),
                over: None,
                meta: want.clone(),
                ranges,
            };
            return Ok(self.doubts.push(&op.to_record())?);
        }
        self.add(step, aspects, path, Some(have), want)
    }

    /// Compares by content what was touched without its size or time showing it.
    fn resolve_doubts(&mut self) -> Result<(), ScanError> {
        let doubts = Ops::of(&std::mem::replace(&mut self.doubts, SpoolWriter::new()?).finish()?)?;
        let (mut ahead, mut ops) = doubts;
        let (mut asked, mut answered) = (0, 0);
        let mut cursor = FrameCursor::default();
        while let Some(mut op) = ops.next_op()? {
            self.abort.check()?;
            if op.step != Step::Link {
                while asked < answered + HASHES_AHEAD {
                    let Some(next) = ahead.next_op()? else { break };
                    if next.step != Step::Link {
                        self.peer.push(&Message::WantHash {
                            id: asked,
                            path: &next.path,
                        })?;
                        asked += 1;
                    }
                }
                self.peer.flush()?;
                let ours = self.hash_of(&op.path);
                self.abort.check()?;
                let theirs = self.next_hash(&mut cursor, answered)?;
                answered += 1;
                match (ours, theirs) {
                    (Ok(ours), Some(theirs)) if ours == theirs => {}
                    (Ok(_), Some(_)) => {
                        op.aspects.0 |= Aspects::CONTENT;
                        op.step = Step::Fetch;
                    }
                    (Ok(_), None) => {
                        self.notes.error(
                            "cannot be read on the source, left as it is",
                            &escape_bytes(&op.path),
                        );
                        continue;
                    }
                    (Err(error), _) => {
                        let path = escape_bytes(&op.path);
                        self.notes
                            .error("cannot be read", &format!("{path}: {error}"));
                        continue;
                    }
                }
            } else if let Some(leader) = &op.meta.leader
                && self.planner.is_new_leader(leader)
            {
                op.aspects.0 |= Aspects::LINK;
            }
            if op.aspects != Aspects::default() || op.old.is_none() {
                self.planner.add(&op)?;
            }
        }
        Ok(())
    }

    fn hash_of(&self, path: &[u8]) -> Result<[u8; 32], Errno> {
        let path = self.suspects.moves().before(path);
        let (parent, name) = split(&path);
        let dir = self.tree.open_dir(parent)?;
        hash_file(self.tree, dir.as_fd(), name, self.abort)
    }

    fn next_hash(
        &self,
        cursor: &mut FrameCursor,
        expected: u64,
    ) -> Result<Option<[u8; 32]>, ScanError> {
        loop {
            match cursor.next_message() {
                Some(Ok(Message::Hash { id, hash })) if id == expected => return Ok(hash),
                Some(Ok(_)) => return Err(Malformed("out of place after a scan").into()),
                Some(Err(error)) => return Err(error.into()),
                None => {
                    *cursor = FrameCursor::new(receive(self.incoming, self.abort)?)?;
                }
            }
        }
    }

    fn only_ours(
        &mut self,
        dir_path: &[u8],
        place: &Place,
        name: &[u8],
        have: Option<Found>,
        filter: &FilterState,
        complete: bool,
    ) -> Result<(), ScanError> {
        if !complete {
            self.notes.warn(
                "kept on the target, its directory could not be read completely on the source",
                &escape_bytes(&join(dir_path, name)),
            );
            self.left.add(join(dir_path, name));
            return Ok(());
        }
        let have = match (have, place) {
            (Some(have), _) => have,
            (None, Place::Here(fd)) => {
                let anywhere = Within::All { doubted: false };
                match self.look(&Rc::clone(fd), dir_path, name, &anywhere)? {
                    Some(have) => have,
                    None => return Ok(()),
                }
            }
            (None, _) => return Ok(()),
        };
        self.delete(dir_path, place, name, &have, filter)
    }

    /// Whether everything in a directory of ours is in scope, so that it can give way.
    fn can_be_emptied(
        &mut self,
        dir_path: &[u8],
        place: &Place,
        name: &[u8],
        filter: &FilterState,
    ) -> Result<bool, ScanError> {
        let mut all = true;
        self.walk_ours(dir_path, place, name, filter, &mut |_, event| {
            if matches!(event, Visit::Stays) {
                all = false;
            }
            Ok(())
        })?;
        Ok(all)
    }

    /// Plans the deletion of one of our entries with everything in it that is in scope.
    fn delete(
        &mut self,
        dir_path: &[u8],
        place: &Place,
        name: &[u8],
        have: &Found,
        filter: &FilterState,
    ) -> Result<(), ScanError> {
        let path = join(dir_path, name);
        if have.meta.kind == Kind::Opaque {
            self.notes.info(
                "left alone on the target, a nested subvolume or a mount",
                &escape_bytes(&path),
            );
            self.left.add(path);
            return Ok(());
        }
        if have.meta.kind == Kind::Dir && self.delete_below(dir_path, place, name, filter)? {
            self.notes.info(
                "kept on the target, holds something excluded",
                &escape_bytes(&path),
            );
            self.left.add(path);
            return Ok(());
        }
        self.add(
            Step::Delete,
            Aspects::default(),
            path,
            Some(have),
            &Meta::opaque(),
        )
    }

    /// Plans the deletion of everything in scope below a directory of ours; whether anything stays.
    fn delete_below(
        &mut self,
        dir_path: &[u8],
        place: &Place,
        name: &[u8],
        filter: &FilterState,
    ) -> Result<bool, ScanError> {
        let mut stays = false;
        self.walk_ours(dir_path, place, name, filter, &mut |scan, event| {
            match event {
                Visit::Goes(path, found) => {
                    scan.entries += 1;
                    let aspects = Aspects::default();
                    scan.add(Step::Delete, aspects, path, Some(found), &Meta::opaque())?;
                }
                Visit::Stays => stays = true,
            }
            Ok(())
        })?;
        Ok(stays)
    }

    /// Visits everything below our directory `name`, what is in a directory before the directory.
    /// A directory in which something stays is itself passed over in silence.
    fn walk_ours(
        &mut self,
        dir_path: &[u8],
        place: &Place,
        name: &[u8],
        filter: &FilterState,
        visit: &mut dyn FnMut(&mut Self, Visit<'_>) -> Result<(), ScanError>,
    ) -> Result<(), ScanError> {
        struct Frame {
            path: Vec<u8>,
            fd: OwnedFd,
            filter: FilterState,
            names: Names,
            next: usize,
            stays: bool,
            found: Option<Found>,
        }
        let Place::Here(parent) = place else {
            return Ok(());
        };
        let open = |parent: &OwnedFd, path: Vec<u8>, name: &[u8], filter, found| {
            let fd = self.tree.open_child(parent.as_fd(), name)?;
            let names = Names::read(fd.as_fd())?;
            Ok::<_, Errno>(Frame {
                path,
                fd,
                filter,
                names,
                next: 0,
                stays: false,
                found,
            })
        };
        let first = match open(parent, join(dir_path, name), name, filter.enter(name), None) {
            Ok(frame) => frame,
            Err(error) => {
                let path = escape_bytes(&join(dir_path, name));
                self.notes
                    .error("cannot be read", &format!("{path}: {error}"));
                return visit(self, Visit::Stays);
            }
        };
        let mut stack = vec![first];
        loop {
            self.abort.check()?;
            let depth = stack.len();
            let Some(frame) = stack.last_mut() else { break };
            let Some(name) = frame.names.get(frame.next).map(<[u8]>::to_vec) else {
                let frame = stack.pop().expect("looked at above");
                if frame.stays {
                    if let Some(parent) = stack.last_mut() {
                        parent.stays = true;
                    }
                    visit(self, Visit::Stays)?;
                } else if let Some(found) = &frame.found {
                    visit(self, Visit::Goes(frame.path, found))?;
                }
                continue;
            };
            frame.next += 1;
            let path = join(&frame.path, &name);
            if self.suspects.moves().is_vacated(&path) {
                continue;
            }
            let found = match self.tree.look(frame.fd.as_fd(), &name) {
                Ok(Some(found)) => found,
                Ok(None) => continue,
                Err(_) => Found::unreadable(),
            };
            let is_dir = matches!(found.meta.kind, Kind::Dir | Kind::Opaque);
            let excluded = frame.filter.verdict(&name, is_dir) == Verdict::Exclude;
            let too_deep = found.meta.kind == Kind::Dir && depth > DEPTH_MAX;
            if excluded || too_deep || found.meta.kind == Kind::Opaque {
                frame.stays = true;
            } else if found.meta.kind == Kind::Dir {
                let below = frame.filter.enter(&name);
                match open(&frame.fd, path, &name, below, Some(found)) {
                    Ok(next) => stack.push(next),
                    Err(_) => frame.stays = true,
                }
            } else {
                visit(self, Visit::Goes(path, &found))?;
            }
        }
        Ok(())
    }
}

/// What the plan remembers of what stands there.
fn old_of(found: &Found) -> Old {
    Old {
        kind: found.meta.kind,
        ino: found.ino,
        size: found.meta.size,
        mtime: found.meta.mtime,
    }
}

/// What is found below a directory that shall go.
enum Visit<'f> {
    /// In scope.
    Goes(Vec<u8>, &'f Found),
    /// Excluded, mounted, nested, or unreadable.
    Stays,
}
