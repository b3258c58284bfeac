//! Moving content about on one machine: from one file to another, as cheaply as the filesystem can.

use std::ops::Range;
use std::os::fd::BorrowedFd;

use rustix::fs::{FallocateFlags, SeekFrom};
use rustix::io::Errno;

use super::BLOCK;
use super::survey::read_full;
use crate::interrupt::AbortFlag;
use crate::mirror::staging::write_all;
use crate::mirror::wire::DATA_MAX;

/// Less than this is copied: a reflink of it would only make fragments.
const REFLINK_MIN: u64 = 64 << 10;
/// At most this much is copied between two looks at the abort flag.
const STEP: u64 = 8 << 20;

/// A run of content to be taken from one file into another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Copy {
    /// Where it is.
    pub from: u64,
    /// Where it goes.
    pub to: u64,
    /// How long it is.
    pub length: u64,
}

/// Adds a run, to the one before if it goes on from there.
pub fn push_copy(copies: &mut Vec<Copy>, copy: Copy) {
    match copies.last_mut() {
        Some(last) if last.from + last.length == copy.from && last.to + last.length == copy.to => {
            last.length += copy.length;
        }
        _ => copies.push(copy),
    }
}

/// Takes a run of `from` into `to`, another file: whole blocks by reflink where that is possible.
pub fn copy(
    from: BorrowedFd<'_>,
    to: BorrowedFd<'_>,
    run: Copy,
    abort: &AbortFlag,
) -> Result<(), Errno> {
    let head = (BLOCK - run.to % BLOCK) % BLOCK;
    let whole = run.length.saturating_sub(head) / BLOCK * BLOCK;
    if run.from % BLOCK != run.to % BLOCK || whole < REFLINK_MIN {
        return copy_bytes(from, to, run, abort);
    }
    let part = |skip, length| Copy {
        from: run.from + skip,
        to: run.to + skip,
        length,
    };
    copy_bytes(from, to, part(0, head), abort)?;
    // `copy_file_range(2)` makes reflinks of what is aligned.
    copy_bytes(from, to, part(head, whole), abort)?;
    copy_bytes(
        from,
        to,
        part(head + whole, run.length - head - whole),
        abort,
    )
}

fn copy_bytes(
    from: BorrowedFd<'_>,
    to: BorrowedFd<'_>,
    run: Copy,
    abort: &AbortFlag,
) -> Result<(), Errno> {
    let (mut source, mut target) = (run.from, run.to);
    let end = run.from + run.length;
    while source < end {
        abort.check().map_err(|_| Errno::INTR)?;
        let want = usize::try_from((end - source).min(STEP)).expect("a step");
        match rustix::fs::copy_file_range(from, Some(&mut source), to, Some(&mut target), want) {
            // The file is shorter than it was: whoever looks at the result sees it.
            Ok(0) => return Ok(()),
            Ok(_) | Err(Errno::INTR) => {}
            Err(
                Errno::INVAL
                | Errno::XDEV
                | Errno::NOSYS
                | Errno::OPNOTSUPP
                | Errno::TXTBSY
                | Errno::PERM,
            ) => {
                return read_and_write(from, to, source..end, target, abort);
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn read_and_write(
    from: BorrowedFd<'_>,
    to: BorrowedFd<'_>,
    range: Range<u64>,
    mut target: u64,
    abort: &AbortFlag,
) -> Result<(), Errno> {
    let mut buffer = vec![0; DATA_MAX];
    let mut at = range.start;
    while at < range.end {
        abort.check().map_err(|_| Errno::INTR)?;
        let want = usize::try_from((range.end - at).min(DATA_MAX as u64)).expect("a buffer");
        let got = read_full(from, &mut buffer[..want], at)?;
        if got == 0 {
            return Ok(());
        }
        write_all(to, target, &buffer[..got])?;
        at += got as u64;
        target += got as u64;
    }
    Ok(())
}

/// Makes a hole; where the filesystem has none, zeros.
pub fn punch(file: BorrowedFd<'_>, range: Range<u64>) -> Result<(), Errno> {
    if range.is_empty() {
        return Ok(());
    }
    // Of a block that is not punched as a whole only zeros are left: also of the last one, which the file does not fill.
    let mut end = range.end;
    if !end.is_multiple_of(BLOCK)
        && u64::try_from(rustix::fs::fstat(file)?.st_size).is_ok_and(|size| size <= end)
    {
        end = end.next_multiple_of(BLOCK);
    }
    let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    match rustix::fs::fallocate(file, flags, range.start, end - range.start) {
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => write_zeros(file, range),
        other => other,
    }
}

fn write_zeros(file: BorrowedFd<'_>, range: Range<u64>) -> Result<(), Errno> {
    let zeros = [0; 1 << 14];
    let mut at = range.start;
    while at < range.end {
        let length = usize::try_from((range.end - at).min(zeros.len() as u64)).expect("a buffer");
        write_all(file, at, &zeros[..length])?;
        at += length as u64;
    }
    Ok(())
}

/// Gives `file` of `size` bytes its holes: all that is not in `runs`, which are in order. What is in
/// them and a hole has been found to be zeros, and is written as such.
pub fn lay_out(
    file: BorrowedFd<'_>,
    size: u64,
    runs: impl IntoIterator<Item = Range<u64>>,
    abort: &AbortFlag,
) -> Result<(), Errno> {
    let mut at = 0;
    for run in runs {
        abort.check().map_err(|_| Errno::INTR)?;
        punch(file, at..run.start)?;
        at = run.start;
        while at < run.end {
            let hole = rustix::fs::seek(file, SeekFrom::Hole(at))?;
            if hole >= run.end {
                break;
            }
            let end = match rustix::fs::seek(file, SeekFrom::Data(hole)) {
                Ok(data) => data.min(run.end),
                Err(Errno::NXIO) => run.end,
                Err(error) => return Err(error),
            };
            write_zeros(file, hole..end)?;
            at = end;
        }
        at = run.end;
    }
    punch(file, at..size)
}
