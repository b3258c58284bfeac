//! Making the source's version of a file out of the target's, where an anchor tells which ranges can
//! differ: nothing else of it is read, on either machine.
//!
//! The target makes its reflink copy when it asks, hashes the ranges in it and sends the hashes with
//! the question; the source sends what is otherwise. So there is one question, which is asked as far
//! ahead as those for whole files, and what is compared cannot change until it is needed.

use std::ops::Range;
use std::os::fd::{AsFd, OwnedFd};

use rustix::io::Errno;

use super::ahead::Ahead;
use super::cut::for_each_data;
use super::files::{self, Copy};
use super::list::{Hash, PART_WEIGHT, PARTS_MAX, Part, brief};
use super::parts::PartSink;
use super::rebuild::{Ended, Job, Trouble, damaged, ficlone};
use super::survey::PartReader;
use super::{BLOCK, SHRED, is_small};
use crate::interrupt::AbortFlag;
use crate::mirror::apply::ApplyError;
use crate::mirror::content::for_each_run;
use crate::mirror::place::PlaceError;
use crate::mirror::ranges::Ranges;
use crate::mirror::staging::write_all;
use crate::mirror::wire::Message;

/// A file that waits for its ranges.
pub struct Prepared {
    /// Its name in the staging directory.
    pub staged: String,
    file: OwnedFd,
    parts: Vec<Range<u64>>,
    known: Vec<Hash>,
}

/// The ranges that are compared, each as a whole: `changed` in blocks, or larger pieces if there
/// would be too many.
fn parts(changed: &Ranges, size: u64) -> Vec<Range<u64>> {
    let mut unit = if is_small(size) { SHRED } else { BLOCK };
    loop {
        let in_blocks = changed.in_blocks(BLOCK, size).at_most(PARTS_MAX / 2);
        let count: u64 = in_blocks
            .iter()
            .map(|range| range.end.div_ceil(unit) - range.start / unit)
            .sum();
        if count > PARTS_MAX as u64 {
            unit *= 2;
            continue;
        }
        let cut = |range: Range<u64>| {
            let units = range.start / unit..range.end.div_ceil(unit);
            units.map(move |n| (n * unit).max(range.start)..((n + 1) * unit).min(range.end))
        };
        return in_blocks.iter().flat_map(cut).collect();
    }
}

/// Makes a copy of `old` and hashes what can differ in it.
pub fn prepare(job: Job<'_>, old: &OwnedFd, changed: &Ranges) -> Result<Prepared, Errno> {
    let file = job.staging.new_file(job.staged, job.meta)?;
    let old_size = u64::try_from(rustix::fs::fstat(old)?.st_size).unwrap_or(0);
    let size = job.meta.size;
    if is_small(size.max(old_size)) {
        copy_small(old, &file, old_size)?;
    } else if !ficlone(file.as_fd(), old.as_fd())? {
        copy_all(old, &file, old_size, job.abort)?;
    }
    // To set the size it has already costs as much as writing it.
    if u64::try_from(rustix::fs::fstat(&file)?.st_size) != Ok(size) {
        rustix::fs::ftruncate(&file, size)?;
    }
    // What our version does not have can only be different.
    let more = std::iter::once(old_size.min(size)..size).collect();
    let parts = parts(&changed.union(&more), size);
    let mut reader = PartReader::of(&parts);
    let mut known = Vec::with_capacity(parts.len());
    let mut ahead = Ahead::new(file.as_fd(), parts.iter().cloned());
    for part in &parts {
        ahead.reach(part);
        let go_on = || job.abort.check().map_err(|_| Errno::INTR);
        go_on()?;
        known.push(reader.read(file.as_fd(), part, |_, _| go_on())?);
    }
    Ok(Prepared {
        staged: job.staged.to_owned(),
        file,
        parts,
        known,
    })
}

/// Not by `copy_file_range(2)`, which would share it.
fn copy_small(from: &OwnedFd, to: &OwnedFd, size: u64) -> Result<(), Errno> {
    let mut buffer = vec![0; usize::try_from(size).map_err(|_| Errno::FBIG)?];
    for_each_run(from.as_fd(), size, &mut buffer, |offset, bytes| {
        write_all(to.as_fd(), offset, bytes)
    })
}

fn copy_all(from: &OwnedFd, to: &OwnedFd, size: u64, abort: &AbortFlag) -> Result<(), Errno> {
    for_each_data(from.as_fd(), &(0..size), |run| {
        let copy = Copy {
            from: run.start,
            to: run.start,
            length: run.end - run.start,
        };
        files::copy(from.as_fd(), to.as_fd(), copy, abort)
    })
}

impl Prepared {
    /// What is asked for.
    #[must_use]
    pub fn question(&self) -> Vec<Part> {
        let both = self.parts.iter().zip(&self.known);
        both.map(|(range, hash)| Part {
            range: range.clone(),
            known: Some(brief(hash)),
        })
        .collect()
    }

    /// What the question weighs.
    #[must_use]
    pub fn weight(&self) -> usize {
        self.parts.len() * PART_WEIGHT
    }

    /// Takes in the answer: the finished content.
    pub fn receive(
        self,
        path: &[u8],
        size: u64,
        answer: impl FnOnce(
            &mut dyn FnMut(&Message<'_>) -> Result<(), ApplyError>,
        ) -> Result<Ended, ApplyError>,
    ) -> Result<OwnedFd, Trouble> {
        let mut sink = PartSink::new(self.file.as_fd(), &self.parts, Some(&self.known));
        let ended = answer(&mut |message| sink.take_or_end(path, message))?;
        match ended {
            Ok((theirs, hash)) if theirs == size => match sink.finish(&hash) {
                Ok(_) => Ok(self.file),
                Err(error) => Err(error.into()),
            },
            Ok(_) => Err(damaged()),
            Err(text) => Err(PlaceError::Content(text).into()),
        }
    }
}
