//! The kernel's account of what differs between two snapshots.

use crate::mirror::diff::names::{Names, ROOT};
use crate::mirror::diff::stream::{Command, Stream};
use crate::mirror::path::is_valid_path;
use crate::sys::search::crc32c;

/// As many paths are kept in mind.
const LIMIT: usize = 200;

/// A send stream, and the names it speaks of. Checksums are made right first: no fuzzer would guess
/// them, and what a checksum proves is that the bytes are those that were sent, not that they are good.
pub(super) fn send_stream(bytes: &[u8]) -> bool {
    let mut bytes = bytes.to_vec();
    mend_checksums(&mut bytes);
    let Ok(Some(mut stream)) = Stream::open(&bytes[..]) else {
        return false;
    };
    let mut names = Names::new(LIMIT);
    let mut is_whole = false;
    while let Ok(Some(command)) = stream.next() {
        check(&command);
        is_whole = command == Command::End;
        // Whoever reads one takes the first away.
        if matches!(command, Command::Snapshot { .. }) {
            continue;
        }
        if names.apply(command).is_err() {
            break;
        }
    }
    let count = names.nodes().count();
    assert!(count <= LIMIT * 4 + (1 << 12) + 2, "{count} are kept");
    // From everything that still has a name, the way up ends at the root.
    for (id, _) in names.nodes() {
        let (mut at, mut steps) = (id, 0);
        while at != ROOT && !names.is_gone(at) {
            at = names.places(at)[0].0;
            steps += 1;
            assert!(steps <= count, "a way in circles");
        }
    }
    is_whole
}

fn check(command: &Command<'_>) {
    let paths = match command {
        Command::Snapshot { .. } | Command::End => return,
        Command::Rename { from, to } => vec![from, to],
        Command::Link { existing, path } => vec![existing, path],
        Command::Clone { path, from, .. } => vec![path, from],
        Command::Make { path, .. }
        | Command::Remove { path, .. }
        | Command::Attributes { path }
        | Command::Xattr { path }
        | Command::Data { path, .. }
        | Command::Truncate { path, .. }
        | Command::Unknown { path } => vec![path],
    };
    assert!(paths.into_iter().all(|path| is_valid_path(path)));
}

/// Puts the right checksum into every command, as far as lengths lead.
fn mend_checksums(bytes: &mut [u8]) {
    let mut at = 17;
    while let Some(head) = bytes.get(at..at + 10) {
        let length = u32::from_le_bytes([head[0], head[1], head[2], head[3]]) as usize;
        let Some(command) = bytes.get_mut(at..at + 10 + length.min(1 << 20)) else {
            return;
        };
        command[6..10].fill(0);
        let checksum = crc32c(0, command);
        command[6..10].copy_from_slice(&checksum.to_le_bytes());
        at += 10 + length.min(1 << 20);
    }
}
