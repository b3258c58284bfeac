//! Making the source's version of a file out of the target's, without an anchor.
//!
//! Three questions, each answered before the next is asked: how the source's version is cut (while
//! the answer comes, our own is cut alike); how the runs that were not found are cut more finely,
//! where something like them may stand; the parts that are nowhere.
//!
//! Our version is read from a reflink copy that nobody else can write to. Where there can be none it
//! is read as it is, all of the result is written, and so all of it is read back and checked.

use std::collections::HashMap;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;

use super::cut::{Cut, Cutter};
use super::files::{self, Copy, push_copy};
use super::list::{Brief, Hash, PARTS_MAX, Part, Piece, PieceReader, brief};
use super::matching::{Found, Gap, Index, Near, find_all, gaps};
use super::parts::PartSink;
use super::survey::{PIECES_MAX, Survey, read_full};
use crate::interrupt::AbortFlag;
use crate::mirror::apply::ApplyError;
use crate::mirror::codec::{Malformed, Reader};
use crate::mirror::entry::{FLAG_NOCOW, Meta};
use crate::mirror::place::PlaceError;
use crate::mirror::staging::Staging;
use crate::mirror::wire::Message;

/// Pieces of this size, as a power of two, on average; larger ones for a file of very many.
const PIECE_BITS: u8 = 16;
/// ... so that it has not many more than two to this power.
const PIECES_BITS: u32 = 17;
/// The finer look: blocks of what was edited in place.
pub const BLOCKS: Cut = Cut::Grid(12);
/// The finer look: pieces of what was put in or taken out.
pub const SHREDS: Cut = Cut::Content(11);
/// Less than this in all is sent without a finer look.
const FINER_MIN: u64 = 32 << 10;
/// A finer look is taken at this much at once.
const FINER_AT_ONCE: u64 = 64 << 20;

/// How a file of `size` bytes is cut for a first look.
#[must_use]
pub fn first_look(size: u64) -> Survey {
    let needed = (size >> PIECES_BITS).max(1).next_power_of_two();
    let bits = u8::try_from(needed.trailing_zeros()).expect("of 64");
    Survey {
        cut: Cut::Content(bits.clamp(PIECE_BITS, super::cut::BITS_MAX)),
        brief: false,
        ranges: None,
    }
}

/// What is asked about the file.
#[derive(Debug, Clone, Copy)]
pub enum Question<'q> {
    /// How it is cut.
    Survey(&'q Survey),
    /// These parts.
    Parts(&'q [Part]),
}

/// How an answer ended: the file's size and a hash of what was said; or why it did not.
pub type Ended = Result<(u64, Hash), String>;

/// The line to the source, as far as one file is concerned.
pub trait Line {
    /// Asks; answers come in the order of the questions.
    fn ask(&mut self, question: Question<'_>) -> Result<(), ApplyError>;

    /// Takes in the answer that comes next, up to its end.
    fn answer(
        &mut self,
        take: &mut dyn FnMut(&Message<'_>) -> Result<(), ApplyError>,
    ) -> Result<Ended, ApplyError>;
}

/// Where and what.
#[derive(Clone, Copy)]
pub struct Job<'a> {
    /// Where the file is, for error messages.
    pub path: &'a [u8],
    /// Where things are made.
    pub staging: &'a Staging,
    /// Name of what is made.
    pub staged: &'a str,
    /// What it shall be.
    pub meta: &'a Meta,
    /// Looked at all the time.
    pub abort: &'a AbortFlag,
}

/// Why a file was not rebuilt.
#[derive(Debug)]
pub enum Trouble {
    /// The end of everything.
    All(ApplyError),
    /// This file cannot be made; the others can.
    File(PlaceError),
    /// It cannot be compared piece by piece, and has to come as a whole.
    AsAWhole,
}

impl From<ApplyError> for Trouble {
    fn from(error: ApplyError) -> Self {
        Self::All(error)
    }
}

impl From<Errno> for Trouble {
    fn from(errno: Errno) -> Self {
        Self::File(errno.into())
    }
}

impl From<PlaceError> for Trouble {
    fn from(error: PlaceError) -> Self {
        Self::File(error)
    }
}

/// Our version of the file.
struct Basis {
    file: OwnedFd,
    size: u64,
    /// Whether it is a copy that nobody else can write to.
    is_ours: bool,
    index: Index,
}

impl Basis {
    /// There is none.
    fn nothing(job: Job<'_>) -> Result<Self, Trouble> {
        Ok(Self {
            file: nameless(job, 0)?,
            size: 0,
            is_ours: true,
            index: Index::default(),
        })
    }

    fn new(job: Job<'_>, old: OwnedFd, cut: Cut) -> Result<Self, Trouble> {
        let (file, is_ours) = match reflink(job, &old)? {
            Some(copy) => (copy, true),
            None => (old, false),
        };
        let size = u64::try_from(rustix::fs::fstat(&file)?.st_size).unwrap_or(0);
        let mut index = Index::default();
        let all = std::iter::once(0..size).collect();
        let mut room = PIECES_MAX;
        Cutter::new(cut).for_each::<Trouble>(file.as_fd(), &all, |offset, bytes| {
            job.abort.check().map_err(ApplyError::from)?;
            if room > 0 {
                room -= 1;
                index.push(Piece {
                    offset,
                    length: length_of(bytes),
                    hash: blake3::hash(bytes).into(),
                });
            }
            Ok(())
        })?;
        Ok(Self {
            file,
            size,
            is_ours,
            index,
        })
    }
}

fn length_of(bytes: &[u8]) -> u32 {
    u32::try_from(bytes.len()).expect("a piece is shorter than that")
}

/// An empty file without a name.
fn nameless(job: Job<'_>, flags: u32) -> Result<OwnedFd, Errno> {
    let name = job.staging.new_name();
    let meta = Meta {
        flags,
        ..Meta::opaque()
    };
    let file = job.staging.new_file(&name, &meta)?;
    job.staging.unlink(&name)?;
    Ok(file)
}

/// A reflink copy of `old` without a name, if there can be one.
fn reflink(job: Job<'_>, old: &OwnedFd) -> Result<Option<OwnedFd>, Errno> {
    let flags = rustix::fs::ioctl_getflags(old).map_or(0, |flags| flags.bits());
    // A reflink copy must have the same checksum setting as its origin.
    let copy = nameless(job, flags & FLAG_NOCOW)?;
    let is_made = ficlone(copy.as_fd(), old.as_fd())?;
    Ok(is_made.then_some(copy))
}

/// Makes `to` (empty) a reflink copy of `from`; `false` where that is not possible.
pub fn ficlone(to: BorrowedFd<'_>, from: BorrowedFd<'_>) -> Result<bool, Errno> {
    match rustix::fs::ioctl_ficlone(to, from) {
        Ok(()) => Ok(true),
        Err(Errno::OPNOTSUPP | Errno::INVAL | Errno::XDEV | Errno::TXTBSY | Errno::NOTTY) => {
            Ok(false)
        }
        Err(error) => Err(error),
    }
}

/// Makes what `job` says out of `old`, if there is a version to begin with, and of what has arrived
/// of it before; the first look has been asked for already.
pub fn rebuild(
    line: &mut dyn Line,
    job: Job<'_>,
    first_look: &Survey,
    old: Result<Option<OwnedFd>, PlaceError>,
    arrived: Option<OwnedFd>,
) -> Result<OwnedFd, Trouble> {
    let basis = old.map_err(Trouble::from).and_then(|old| {
        old.map_or(Basis::nothing(job), |old| {
            Basis::new(job, old, first_look.cut)
        })
    });
    if let Err(Trouble::All(_)) = &basis {
        return basis.map(|basis| basis.file);
    }
    // What was asked for is taken off the line, come what may.
    let wanted = hear_pieces(line, job, first_look)?;
    let basis = basis?;
    let mut found = find_all(&basis.index, &wanted);
    // What is in its place in the result already.
    let mut done: Vec<bool>;
    let mut is_copy = false;
    let file;
    if let Some(arrived) = arrived {
        file = arrived;
        done = Vec::with_capacity(wanted.len());
        let mut buffer = Vec::new();
        for piece in &wanted {
            job.abort.check().map_err(ApplyError::from)?;
            done.push(is_there(file.as_fd(), piece, &mut buffer)?);
        }
    } else {
        file = job.staging.new_file(job.staged, job.meta)?;
        done = found.iter().map(|found| *found == Found::Here).collect();
        let pieces = wanted.iter().zip(&done).filter(|(_, done)| **done);
        let in_place: u64 = pieces.map(|(piece, _)| u64::from(piece.length)).sum();
        // Where most has moved, a copy would only be written over.
        is_copy = basis.is_ours
            && in_place > 0
            && in_place >= basis.size / 4
            && ficlone(file.as_fd(), basis.file.as_fd())?;
        if !is_copy {
            done.fill(false);
        }
    }
    // To set the size it has already costs as much as writing it.
    if u64::try_from(rustix::fs::fstat(&file)?.st_size) != Ok(job.meta.size) {
        rustix::fs::ftruncate(&file, job.meta.size)?;
    }
    let mut work = Work {
        line,
        job,
        basis: &basis,
        file: file.as_fd(),
        is_copy,
        copies: Vec::new(),
        missing: Vec::new(),
    };
    for ((piece, found), done) in wanted.iter().zip(&mut found).zip(&done) {
        match found {
            _ if *done => *found = Found::Here,
            Found::Here => work.take(piece.offset, piece.range()),
            Found::At(place) => work.take(*place, piece.range()),
            Found::Nowhere => {}
        }
    }
    work.copy()?;
    let gaps = gaps(&wanted, &found, basis.size, FINER_AT_ONCE);
    work.fill(gaps)?;
    let mut runs: Vec<Range<u64>> = Vec::new();
    for piece in &wanted {
        let range = piece.range();
        match runs.last_mut() {
            Some(last) if last.end == range.start => last.end = range.end,
            _ => runs.push(range),
        }
    }
    files::lay_out(file.as_fd(), job.meta.size, runs, job.abort)?;
    let written: Vec<&Piece<Hash>> = wanted
        .iter()
        .zip(&done)
        .filter(|(_, done)| !**done)
        .map(|(piece, _)| piece)
        .collect();
    let bad = work.check(&written)?;
    // A copy of something that was being changed, or a collision of beginnings of hashes.
    work.missing = bad.iter().map(|piece| piece.range()).collect();
    work.fetch()?;
    if !work.check(&bad)?.is_empty() {
        return Err(damaged());
    }
    Ok(file)
}

/// What arrived is not what was announced.
#[must_use]
pub fn damaged() -> Trouble {
    PlaceError::Content("arrived damaged: its hash is wrong".to_owned()).into()
}

/// The pieces of the source's version.
fn hear_pieces(
    line: &mut dyn Line,
    job: Job<'_>,
    survey: &Survey,
) -> Result<Vec<Piece<Hash>>, Trouble> {
    let mut pieces = Vec::new();
    let mut total = blake3::Hasher::new();
    let mut reader = PieceReader::new(job.meta.size, survey.cut.longest());
    let ended = line.answer(&mut |message| {
        let Message::Pieces { pieces: list, .. } = message else {
            return Err(Malformed("out of place during a survey").into());
        };
        total.update(list);
        let mut list = Reader::new(list);
        while !list.is_empty() {
            if pieces.len() >= PIECES_MAX {
                return Err(Malformed("more pieces than allowed").into());
            }
            pieces.push(reader.next(&mut list)?);
        }
        Ok(())
    })?;
    match ended {
        Err(_) => Err(Trouble::AsAWhole),
        Ok((size, hash)) if size == job.meta.size && hash == *total.finalize().as_bytes() => {
            Ok(pieces)
        }
        Ok(_) => Err(damaged()),
    }
}

/// A file being put together.
struct Work<'a> {
    line: &'a mut dyn Line,
    job: Job<'a>,
    basis: &'a Basis,
    file: BorrowedFd<'a>,
    /// Whether it began as a copy of the basis.
    is_copy: bool,
    /// To be copied from the basis.
    copies: Vec<Copy>,
    /// To be fetched.
    missing: Vec<Range<u64>>,
}

impl Work<'_> {
    /// What is at `place` in the basis belongs into `range`.
    fn take(&mut self, place: u64, range: Range<u64>) {
        if self.is_copy && place == range.start {
            return;
        }
        let copy = Copy {
            from: place,
            to: range.start,
            length: range.end - range.start,
        };
        push_copy(&mut self.copies, copy);
    }

    fn miss(&mut self, range: Range<u64>) {
        match self.missing.last_mut() {
            Some(last) if last.end == range.start => last.end = range.end,
            _ => self.missing.push(range),
        }
    }

    fn copy(&mut self) -> Result<(), Trouble> {
        for copy in std::mem::take(&mut self.copies) {
            self.stop_if_asked()?;
            files::copy(self.basis.file.as_fd(), self.file, copy, self.job.abort)?;
        }
        self.stop_if_asked()
    }

    fn stop_if_asked(&self) -> Result<(), Trouble> {
        Ok(self.job.abort.check().map_err(ApplyError::from)?)
    }

    /// Fills the gaps, a portion after the other.
    fn fill(&mut self, gaps: Vec<Gap>) -> Result<(), Trouble> {
        let length = |gap: &Gap| gap.range.end - gap.range.start;
        let total: u64 = gaps.iter().map(length).sum();
        let mut portion = Vec::new();
        let mut bytes = 0;
        for gap in gaps {
            if gap.near == Near::Nothing || total < FINER_MIN {
                self.miss(gap.range);
                continue;
            }
            bytes += length(&gap);
            portion.push(gap);
            if bytes >= FINER_AT_ONCE || portion.len() >= PARTS_MAX / 2 {
                self.look_closer(&std::mem::take(&mut portion))?;
                bytes = 0;
            }
        }
        self.look_closer(&portion)?;
        self.fetch()
    }

    /// Looks at gaps more finely, copies what is found and fetches the rest.
    fn look_closer(&mut self, gaps: &[Gap]) -> Result<(), Trouble> {
        let is_shifted = |gap: &&Gap| matches!(gap.near, Near::Shifted(..));
        let (shifted, within): (Vec<&Gap>, Vec<&Gap>) = gaps.iter().partition(is_shifted);
        for (gaps, cut) in [(&shifted, BLOCKS), (&within, SHREDS)] {
            if !gaps.is_empty() {
                self.line.ask(Question::Survey(&Survey {
                    cut,
                    brief: true,
                    ranges: Some(gaps.iter().map(|gap| gap.range.clone()).collect()),
                }))?;
            }
        }
        let mut compared = Ok(());
        for (gaps, cut) in [(&shifted, BLOCKS), (&within, SHREDS)] {
            if gaps.is_empty() {
                continue;
            }
            match self.compare(gaps, cut) {
                Err(Trouble::All(error)) => return Err(error.into()),
                // Both were asked for, and both are taken off the line.
                result => compared = compared.and(result),
            }
        }
        compared?;
        self.copy()?;
        self.fetch()
    }

    /// Takes in how gaps are cut and looks every piece up near them.
    fn compare(&mut self, gaps: &[&Gap], cut: Cut) -> Result<(), Trouble> {
        let mut gaps = gaps.iter().copied();
        let mut gap = gaps.next();
        let mut near = Nearby::new(self.basis, cut);
        let mut reader = PieceReader::new(self.job.meta.size, cut.longest());
        let mut trouble = None;
        let (mut taken, mut missed) = (Vec::new(), Vec::new());
        let ended = self.line.answer(&mut |message| {
            let Message::Pieces { pieces: list, .. } = message else {
                return Err(Malformed("out of place during a survey").into());
            };
            let mut list = Reader::new(list);
            while !list.is_empty() {
                if taken.len() + missed.len() >= PIECES_MAX {
                    return Err(Malformed("more pieces than allowed").into());
                }
                let piece: Piece<Brief> = reader.next(&mut list)?;
                while gap.is_some_and(|gap| gap.range.end <= piece.offset) {
                    gap = gaps.next();
                }
                let range = piece.range();
                let holds =
                    |gap: &&Gap| gap.range.start <= range.start && range.end <= gap.range.end;
                let Some(gap) = gap.filter(holds) else {
                    return Err(Malformed("a piece nobody asked for").into());
                };
                match near.find(gap, &piece) {
                    Ok(Some(place)) => taken.push((place, piece.range())),
                    Ok(None) => missed.push(piece.range()),
                    Err(errno) => trouble = Some(errno),
                }
            }
            Ok(())
        })?;
        if let Some(errno) = trouble {
            return Err(errno.into());
        }
        if ended.is_err() {
            return Err(Trouble::AsAWhole);
        }
        for (place, range) in taken {
            self.take(place, range);
        }
        for range in missed {
            self.miss(range);
        }
        Ok(())
    }

    /// Fetches what is missing.
    fn fetch(&mut self) -> Result<(), Trouble> {
        let mut missing = std::mem::take(&mut self.missing);
        missing.sort_unstable_by_key(|range| range.start);
        for ranges in missing.chunks(PARTS_MAX) {
            let parts: Vec<Part> = ranges
                .iter()
                .map(|range| Part {
                    range: range.clone(),
                    known: None,
                })
                .collect();
            self.line.ask(Question::Parts(&parts))?;
            let mut sink = PartSink::new(self.file, ranges, None);
            let path = self.job.path;
            let ended = self
                .line
                .answer(&mut |message| sink.take_or_end(path, message))?;
            match ended {
                Ok((size, hash)) if size == self.job.meta.size => drop(sink.finish(&hash)?),
                Ok(_) => return Err(damaged()),
                Err(text) => return Err(PlaceError::Content(text).into()),
            }
        }
        Ok(())
    }

    /// Reads pieces back; those that are not what they should be.
    fn check<'p>(&self, pieces: &[&'p Piece<Hash>]) -> Result<Vec<&'p Piece<Hash>>, Trouble> {
        let mut buffer = Vec::new();
        let mut bad = Vec::new();
        for piece in pieces {
            self.stop_if_asked()?;
            if !is_there(self.file, piece, &mut buffer)? {
                bad.push(*piece);
            }
        }
        Ok(bad)
    }
}

/// Whether `file` has a piece in its place.
fn is_there(
    file: BorrowedFd<'_>,
    piece: &Piece<Hash>,
    buffer: &mut Vec<u8>,
) -> Result<bool, Errno> {
    buffer.resize(piece.length as usize, 0);
    let got = read_full(file, buffer, piece.offset)?;
    Ok(*blake3::hash(&buffer[..got]).as_bytes() == piece.hash)
}

/// What stands near gaps in our version.
struct Nearby<'a> {
    basis: &'a Basis,
    cut: Cut,
    buffer: Vec<u8>,
    /// The range that was cut last, and its pieces.
    within: Range<u64>,
    pieces: HashMap<Brief, u64>,
}

impl<'a> Nearby<'a> {
    fn new(basis: &'a Basis, cut: Cut) -> Self {
        Self {
            basis,
            cut,
            buffer: Vec::new(),
            within: 0..0,
            pieces: HashMap::new(),
        }
    }

    /// Where a piece of `gap` is.
    fn find(&mut self, gap: &Gap, piece: &Piece<Brief>) -> Result<Option<u64>, Errno> {
        match &gap.near {
            Near::Nothing => Ok(None),
            Near::Shifted(one, other) => {
                let place = self.find_at(piece, *one)?;
                if place.is_none() && one != other {
                    return self.find_at(piece, *other);
                }
                Ok(place)
            }
            Near::Within(range) => {
                if self.within != *range {
                    self.within = range.clone();
                    self.pieces.clear();
                    let ranges = std::iter::once(range.clone()).collect();
                    let pieces = &mut self.pieces;
                    let file = self.basis.file.as_fd();
                    Cutter::new(self.cut).for_each::<Errno>(file, &ranges, |offset, bytes| {
                        let hash: Hash = blake3::hash(bytes).into();
                        pieces.entry(brief(&hash)).or_insert(offset);
                        Ok(())
                    })?;
                }
                Ok(self.pieces.get(&piece.hash).copied())
            }
        }
    }

    /// Where a piece is, if it is so far from its place.
    fn find_at(&mut self, piece: &Piece<Brief>, shift: i64) -> Result<Option<u64>, Errno> {
        let Some(place) = piece.offset.checked_add_signed(shift) else {
            return Ok(None);
        };
        self.buffer.resize(piece.length as usize, 0);
        let got = read_full(self.basis.file.as_fd(), &mut self.buffer, place)?;
        let hash: Hash = blake3::hash(&self.buffer[..got]).into();
        let is_same = got == self.buffer.len() && brief(&hash) == piece.hash;
        Ok(is_same.then_some(place))
    }
}
