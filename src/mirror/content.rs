//! Reading a file's data without its holes.

use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::SeekFrom;
use rustix::io::Errno;

use super::tree::Tree;
use super::wire::{ContentHash, DATA_MAX};
use crate::interrupt::AbortFlag;

/// Runs of data of an open file, in order, each at most `buffer.len()` bytes.
///
/// On btrfs preallocated space reads as a hole (`lseek(2)`, `SEEK_DATA`).
pub fn for_each_run<E: From<Errno>>(
    file: BorrowedFd<'_>,
    size: u64,
    buffer: &mut [u8],
    mut visit: impl FnMut(u64, &[u8]) -> Result<(), E>,
) -> Result<(), E> {
    // Small files rarely have holes, and asking costs as much as reading.
    let small = size <= 4096;
    let mut offset = 0;
    while offset < size {
        let (start, end) = if small {
            (0, size)
        } else {
            match rustix::fs::seek(file, SeekFrom::Data(offset)) {
                Ok(start) => (start, rustix::fs::seek(file, SeekFrom::Hole(start))?),
                // Nothing but a hole up to the end.
                Err(Errno::NXIO) => return Ok(()),
                Err(e) => return Err(e.into()),
            }
        };
        let end = end.min(size);
        let mut at = start;
        while at < end {
            let want = usize::try_from(end - at)
                .unwrap_or(usize::MAX)
                .min(buffer.len());
            let got =
                rustix::io::retry_on_intr(|| rustix::io::pread(file, &mut buffer[..want], at))?;
            if got == 0 {
                // Shorter than it was: the caller sees it from the size and the hash.
                return Ok(());
            }
            // A small file without any data: all of it is a hole.
            if small
                && buffer[..got].iter().all(|byte| *byte == 0)
                && rustix::fs::seek(file, SeekFrom::Data(0)) == Err(Errno::NXIO)
            {
                return Ok(());
            }
            visit(at, &buffer[..got])?;
            at += got as u64;
        }
        offset = end.max(offset + 1);
    }
    Ok(())
}

/// Hash of the logical content of the regular file `name`: stored zeros and holes are the same.
///
/// Blocks of zeros are passed over, so a sparse file costs what it stores.
pub fn hash_file(
    tree: &Tree,
    dir: BorrowedFd<'_>,
    name: &[u8],
    abort: &AbortFlag,
) -> Result<[u8; 32], Errno> {
    const BLOCK: u64 = 4096;
    let fd = tree.open_file(dir, name)?;
    let size = u64::try_from(rustix::fs::fstat(&fd)?.st_size).unwrap_or(0);
    let mut hash = ContentHash::new();
    let mut buffer = vec![0; DATA_MAX];
    for_each_run(fd.as_fd(), size, &mut buffer, |offset, bytes| {
        abort.check().map_err(|_| Errno::INTR)?;
        let (mut offset, mut rest) = (offset, bytes);
        while !rest.is_empty() {
            let to_boundary = usize::try_from(BLOCK - offset % BLOCK).expect("at most a block");
            let (block, after) = rest.split_at(to_boundary.min(rest.len()));
            if block.iter().any(|byte| *byte != 0) {
                hash.update(offset, block);
            }
            offset += block.len() as u64;
            rest = after;
        }
        Ok::<(), Errno>(())
    })?;
    Ok(hash.finish(size))
}
