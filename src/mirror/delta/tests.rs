//! Files rebuilt from their old versions: the result is the source's, and only what differs is sent.

use std::fs::{self, File, OpenOptions};
use std::ops::Range;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use rustix::fs::{FallocateFlags, IFlags, SeekFrom};

use super::ranged::prepare;
use super::rebuild::{Job, Line, Question, Trouble, first_look, rebuild};
use super::testing::{Direct, noise};
use crate::interrupt::AbortFlag;
use crate::mirror::entry::{FLAG_NOCOW, Kind, Meta};
use crate::mirror::place::PlaceError;
use crate::mirror::ranges::Ranges;
use crate::mirror::staging::Staging;
use crate::mirror::tests::{Lab, lab};
use crate::mirror::tests_property::number;
use crate::mirror::tests_random::Random;
use crate::mirror::tree::Tree;

/// Two versions of a file, on a btrfs.
pub(super) struct Versions {
    lab: Lab,
    pub staging: Staging,
}

/// What went over the line.
pub(super) struct Sent {
    pub data: u64,
    pub wire: u64,
    pub staged: String,
    file: File,
}

impl Versions {
    pub(super) fn new() -> Option<Self> {
        let lab = lab()?;
        let staging = Staging::open(&Tree::open(&lab.to).unwrap()).unwrap();
        Some(Self { lab, staging })
    }

    pub(super) fn theirs(&self) -> PathBuf {
        self.lab.from.join("file")
    }

    pub(super) fn ours(&self) -> PathBuf {
        self.lab.to.join("file")
    }

    /// Rebuilds the source's version from ours; the new file is not placed.
    pub(super) fn rebuild(&self, flags: u32) -> Result<Sent, Trouble> {
        let theirs = File::open(self.theirs()).unwrap();
        let old = OwnedFd::from(File::open(self.ours()).unwrap());
        let size = theirs.metadata().unwrap().len();
        let meta = Meta {
            kind: Kind::File,
            size,
            flags,
            ..Meta::opaque()
        };
        let mut line = Direct::new(theirs);
        let survey = first_look(size.max(fs::metadata(self.ours()).unwrap().len()));
        line.ask(Question::Survey(&survey)).unwrap();
        let staged = self.staging.new_name();
        let job = Job {
            path: b"file",
            staging: &self.staging,
            staged: &staged,
            meta: &meta,
            abort: &AbortFlag::new(),
        };
        let file = rebuild(&mut line, job, &survey, Ok(Some(old)), None)?;
        Ok(Sent {
            data: line.data_bytes,
            wire: line.wire_bytes(),
            staged,
            file: file.into(),
        })
    }

    /// Makes the source's version out of ours, of which only `ranges` can differ.
    fn by_ranges(&self, ranges: &Ranges, flags: u32) -> Sent {
        let theirs = File::open(self.theirs()).unwrap();
        let old = OwnedFd::from(File::open(self.ours()).unwrap());
        let meta = Meta {
            kind: Kind::File,
            size: theirs.metadata().unwrap().len(),
            flags,
            ..Meta::opaque()
        };
        let staged = self.staging.new_name();
        let job = Job {
            path: b"file",
            staging: &self.staging,
            staged: &staged,
            meta: &meta,
            abort: &AbortFlag::new(),
        };
        let prepared = prepare(job, &old, ranges).unwrap();
        let mut line = Direct::new(theirs);
        line.ask(Question::Parts(&prepared.question())).unwrap();
        let file = prepared
            .receive(b"file", meta.size, |take| line.answer(take))
            .unwrap();
        Sent {
            data: line.data_bytes,
            wire: line.wire_bytes(),
            staged,
            file: file.into(),
        }
    }

    /// Makes it out of ranges and compares: content and holes.
    #[track_caller]
    fn assert_by_ranges(&self, ranges: &[Range<u64>]) -> Sent {
        let sent = self.by_ranges(&ranges.iter().cloned().collect(), 0);
        self.assert_same(&sent);
        sent
    }

    /// Rebuilds and compares: content and holes.
    #[track_caller]
    fn assert_rebuilt(&self) -> Sent {
        let sent = self.rebuild(0).expect("it can be rebuilt");
        self.assert_same(&sent);
        sent
    }

    #[track_caller]
    fn assert_same(&self, sent: &Sent) {
        let theirs = File::open(self.theirs()).unwrap();
        assert_eq!(runs(&sent.file), runs(&theirs), "holes and data");
        assert!(content(&sent.file) == content(&theirs), "content");
    }
}

fn content(file: &File) -> Vec<u8> {
    let mut bytes = vec![0; usize::try_from(file.metadata().unwrap().len()).unwrap()];
    file.read_exact_at(&mut bytes, 0).unwrap();
    bytes
}

/// Where data is.
fn runs(file: &File) -> Vec<(u64, u64)> {
    let mut runs = Vec::new();
    let mut at = 0;
    while let Ok(start) = rustix::fs::seek(file, SeekFrom::Data(at)) {
        at = rustix::fs::seek(file, SeekFrom::Hole(start)).unwrap();
        runs.push((start, at));
    }
    runs
}

/// Both versions the same noise.
fn same(versions: &Versions, length: usize) -> Vec<u8> {
    let bytes = noise(length, 1);
    fs::write(versions.theirs(), &bytes).unwrap();
    fs::write(versions.ours(), &bytes).unwrap();
    bytes
}

fn edit(path: &PathBuf) -> File {
    OpenOptions::new()
        .read(true)
        .write(true)
        .open(path)
        .unwrap()
}

const MIB: usize = 1 << 20;

#[test]
fn equal_content_costs_only_its_hashes() {
    let Some(versions) = Versions::new() else {
        return;
    };
    same(&versions, 20 * MIB);
    let sent = versions.assert_rebuilt();
    assert_eq!(sent.data, 0);
    assert!(sent.wire < 16 << 10, "{}", sent.wire);
}

#[test]
fn blocks_changed_in_place_are_sent_and_no_more() {
    let Some(versions) = Versions::new() else {
        return;
    };
    same(&versions, 16 * MIB);
    let file = edit(&versions.theirs());
    for n in 0..40 {
        let block = noise(4096, 100 + n);
        file.write_all_at(&block, (n * 97 % 4096) * 4096).unwrap();
    }
    let sent = versions.assert_rebuilt();
    assert_eq!(sent.data, 40 * 4096);
    // Half of the pieces are looked at more closely.
    assert!(sent.wire < 40 * 4096 + 64 * 1024, "{}", sent.wire);
}

#[test]
fn a_line_put_in_sends_little_more_than_itself() {
    let Some(versions) = Versions::new() else {
        return;
    };
    let bytes = same(&versions, 16 * MIB);
    for at in [0, 5_000_001, bytes.len()] {
        let edited = [&bytes[..at], b"a new line\n", &bytes[at..]].concat();
        fs::write(versions.theirs(), &edited).unwrap();
        let sent = versions.assert_rebuilt();
        assert!(sent.data < 10_000, "at {at}: {}", sent.data);
        assert!(sent.wire < 40_000, "at {at}: {}", sent.wire);
        // And taken out again.
        fs::copy(versions.ours(), versions.lab.to.join("kept")).unwrap();
        fs::rename(versions.theirs(), versions.ours()).unwrap();
        fs::copy(versions.lab.to.join("kept"), versions.theirs()).unwrap();
        let sent = versions.assert_rebuilt();
        assert!(sent.data < 10_000, "out at {at}: {}", sent.data);
        fs::rename(versions.lab.to.join("kept"), versions.ours()).unwrap();
    }
}

#[test]
fn what_only_moved_is_not_sent() {
    let Some(versions) = Versions::new() else {
        return;
    };
    let bytes = same(&versions, 16 * MIB);
    // Turned around in blocks, and by an odd number of bytes.
    for at in [6 * MIB, 6 * MIB + 1234] {
        let turned = [&bytes[at..], &bytes[..at]].concat();
        fs::write(versions.theirs(), &turned).unwrap();
        let sent = versions.assert_rebuilt();
        assert!(sent.data < 10_000, "{}", sent.data);
    }
}

#[test]
fn what_moved_by_blocks_is_shared_with_the_old_version() {
    let Some(versions) = Versions::new() else {
        return;
    };
    let bytes = same(&versions, 8 * MIB);
    let head = noise(64 << 10, 9);
    fs::write(versions.theirs(), [&head, &bytes[..]].concat()).unwrap();
    let sent = versions.assert_rebuilt();
    assert!(sent.data <= 200_000, "{}", sent.data);
    rustix::fs::syncfs(&sent.file).unwrap();
    let shared = shared_bytes(&sent.file);
    assert!(shared > 7 * MIB as u64, "{shared}");
}

/// Bytes of a file in extents that something else has too (`btrfs filesystem du`).
fn shared_bytes(file: &File) -> u64 {
    let path = fs::read_link(format!(
        "/proc/self/fd/{}",
        std::os::fd::AsRawFd::as_raw_fd(file)
    ))
    .unwrap();
    let output = crate::sys::command::command("btrfs")
        .args(["filesystem", "du", "--raw"])
        .arg(path)
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let line = text.lines().nth(1).expect("a line for the file");
    let words: Vec<u64> = line
        .split_whitespace()
        .take(2)
        .map(|word| word.parse().unwrap())
        .collect();
    words[0] - words[1]
}

#[test]
fn holes_stay_holes_and_zeros_stay_zeros() {
    let Some(versions) = Versions::new() else {
        return;
    };
    same(&versions, 8 * MIB);
    let theirs = edit(&versions.theirs());
    let ours = edit(&versions.ours());
    let punch = |file: &File, offset: u64, length: u64| {
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        rustix::fs::fallocate(file, flags, offset, length).unwrap();
    };
    let mib = MIB as u64;
    // A hole where we have data, data where we have a hole, zeros where we have a hole and the
    // other way round, and space that was only reserved.
    punch(&theirs, mib, 100 * 4096);
    punch(&ours, 2 * mib, 50 * 4096);
    theirs.write_all_at(&vec![0; 40 * 4096], 3 * mib).unwrap();
    punch(&ours, 3 * mib, 40 * 4096);
    ours.write_all_at(&vec![0; 40 * 4096], 4 * mib).unwrap();
    punch(&theirs, 4 * mib, 40 * 4096);
    punch(&ours, 5 * mib, 64 * 4096);
    rustix::fs::fallocate(&ours, FallocateFlags::KEEP_SIZE, 5 * mib, 64 * 4096).unwrap();
    punch(&theirs, 5 * mib, 64 * 4096);
    // An end that is a hole, and one that is cut off within a block.
    for length in [8 * mib + 5_000_000, 7 * mib + 12_345] {
        theirs.set_len(length).unwrap();
        let sent = versions.assert_rebuilt();
        assert!(sent.data < 500_000, "{}", sent.data);
        let allocated = |file: &File| {
            rustix::fs::syncfs(file).unwrap();
            std::os::unix::fs::MetadataExt::blocks(&file.metadata().unwrap())
        };
        // Nothing is left of what was reserved.
        assert_eq!(allocated(&sent.file), allocated(&theirs));
    }
}

#[test]
fn files_that_share_no_blocks_with_others_are_copied() {
    let Some(versions) = Versions::new() else {
        return;
    };
    let nocow = |path: &PathBuf, bytes: &[u8]| {
        let _ = fs::remove_file(path);
        let file = File::create(path).unwrap();
        rustix::fs::ioctl_setflags(&file, IFlags::from_bits_retain(FLAG_NOCOW)).unwrap();
        file.write_all_at(bytes, 0).unwrap();
    };
    let bytes = noise(6 * MIB, 1);
    let mut edited = bytes.clone();
    edited[3_000_000..3_000_100].fill(7);
    // From nocow to nocow, to cow, and from cow to nocow.
    for (ours_is_nocow, flags) in [(true, FLAG_NOCOW), (true, 0), (false, FLAG_NOCOW)] {
        fs::write(versions.theirs(), &edited).unwrap();
        if ours_is_nocow {
            nocow(&versions.ours(), &bytes);
        } else {
            let _ = fs::remove_file(versions.ours());
            fs::write(versions.ours(), &bytes).unwrap();
        }
        let sent = versions.rebuild(flags).unwrap();
        assert!(content(&sent.file) == edited);
        assert!(sent.data < 20_000, "{}", sent.data);
        let now = rustix::fs::ioctl_getflags(&sent.file).unwrap().bits();
        assert_eq!(now & FLAG_NOCOW, flags);
    }
}

#[test]
fn an_old_version_that_is_gone_or_all_different_or_short_is_no_obstacle() {
    let Some(versions) = Versions::new() else {
        return;
    };
    let bytes = same(&versions, 5 * MIB);
    fs::write(versions.ours(), noise(4 * MIB, 77)).unwrap();
    let sent = versions.assert_rebuilt();
    assert_eq!(sent.data, bytes.len() as u64);
    fs::write(versions.ours(), b"").unwrap();
    assert_eq!(versions.assert_rebuilt().data, bytes.len() as u64);
    // Zeros, all pieces of which are the same.
    fs::write(versions.theirs(), vec![0; 5 * MIB]).unwrap();
    fs::write(versions.ours(), vec![0; 3 * MIB]).unwrap();
    assert!(versions.assert_rebuilt().data < 400_000);
    // A reason is kept until the answer is off the line.
    let mut line = Direct::new(File::open(versions.theirs()).unwrap());
    let survey = first_look(5 << 20);
    line.ask(Question::Survey(&survey)).unwrap();
    let meta = Meta {
        kind: Kind::File,
        size: 5 << 20,
        ..Meta::opaque()
    };
    let staged = versions.staging.new_name();
    let job = Job {
        path: b"file",
        staging: &versions.staging,
        staged: &staged,
        meta: &meta,
        abort: &AbortFlag::new(),
    };
    let result = rebuild(&mut line, job, &survey, Err(PlaceError::Changed), None);
    assert!(matches!(result, Err(Trouble::File(PlaceError::Changed))));
    assert!(line.said_bytes > 0);
}

#[test]
fn when_the_source_cannot_look_closer_nothing_stays_on_the_line() {
    let Some(versions) = Versions::new() else {
        return;
    };
    let mut bytes = same(&versions, 8 * MIB);
    // Something put in, and something changed in place: two questions at once.
    bytes[6_000_000..6_050_000].copy_from_slice(&noise(50_000, 5));
    bytes.splice(2_000_001..2_000_001, noise(50_000, 6));
    fs::write(versions.theirs(), &bytes).unwrap();
    let meta = Meta {
        kind: Kind::File,
        size: bytes.len() as u64,
        ..Meta::opaque()
    };
    let survey = first_look(meta.size);
    for answered in 0..4 {
        let mut line = Direct::new(File::open(versions.theirs()).unwrap());
        line.fails_after = Some(answered);
        line.ask(Question::Survey(&survey)).unwrap();
        let staged = versions.staging.new_name();
        let job = Job {
            path: b"file",
            staging: &versions.staging,
            staged: &staged,
            meta: &meta,
            abort: &AbortFlag::new(),
        };
        let old = OwnedFd::from(File::open(versions.ours()).unwrap());
        let result = rebuild(&mut line, job, &survey, Ok(Some(old)), None);
        match answered {
            3 => assert!(matches!(result, Err(Trouble::File(PlaceError::Content(_))))),
            _ => assert!(matches!(result, Err(Trouble::AsAWhole)), "{answered}"),
        }
        let questions = [1, 3, 3, 4];
        assert_eq!(
            line.questions,
            questions[usize::try_from(answered).unwrap()]
        );
        assert_eq!(line.unanswered(), 0, "{answered}");
    }
}

/// Changes a version the way programs do.
fn mutate(bytes: &mut Vec<u8>, rng: &mut Random) {
    for _ in 0..=rng.below(6) {
        let at = rng.below(bytes.len() + 1);
        let length = [7, 300, 4096, 100_000][rng.below(4)];
        let end = (at + length).min(bytes.len());
        match rng.below(7) {
            0 => drop(bytes.splice(at..at, noise(length, rng.next()))),
            1 => drop(bytes.drain(at..end)),
            2 => {
                let new = noise(end - at, rng.next());
                bytes[at..end].copy_from_slice(&new);
            }
            3 => bytes[at..end].fill(0),
            4 => {
                let moved: Vec<u8> = bytes.drain(at..end).collect();
                let to = rng.below(bytes.len() + 1);
                drop(bytes.splice(to..to, moved));
            }
            5 => {
                let (from, block) = (at / 4096 * 4096, length.next_multiple_of(4096));
                let again = bytes[from..(from + block).min(bytes.len())].to_vec();
                drop(bytes.splice(from..from, again));
            }
            _ => bytes.extend(noise(length, rng.next())),
        }
    }
}

/// Writes it with holes where it is zeros, or not.
fn write_version(path: &PathBuf, bytes: &[u8], rng: &mut Random) {
    let _ = fs::remove_file(path);
    let file = File::create(path).unwrap();
    let sparse = rng.one_in(2);
    for (n, block) in (0..).zip(bytes.chunks(4096)) {
        if !sparse || block.iter().any(|byte| *byte != 0) {
            file.write_all_at(block, n * 4096).unwrap();
        }
    }
    file.set_len(bytes.len() as u64).unwrap();
    // Where holes are is settled when it is on disk.
    rustix::fs::fsync(file.as_fd()).unwrap();
}

#[test]
fn random_edits_are_rebuilt_exactly_and_cheaply() {
    let Some(versions) = Versions::new() else {
        return;
    };
    let first = number("PCS_SEED", 1);
    for seed in first..first + number("PCS_SEEDS", 12) {
        let mut rng = Random::new(seed);
        let mut bytes = noise(MIB + rng.below(4 * MIB), seed);
        let hole = rng.below(bytes.len() - 400_000);
        bytes[hole..hole + 400_000].fill(0);
        write_version(&versions.ours(), &bytes, &mut rng);
        let rounds = 1 + rng.below(3);
        for _ in 0..rounds {
            mutate(&mut bytes, &mut rng);
        }
        write_version(&versions.theirs(), &bytes, &mut rng);
        let sent = versions.assert_rebuilt();
        // At most six edits a round, each at most 100,000 bytes and a piece or two around it; what was
        // a hole on one side and zeros on the other is sent.
        let most = rounds as u64 * 6 * 300_000 + 500_000;
        assert!(sent.data < most, "seed {seed}: {}", sent.data);
        assert!(
            sent.wire < sent.data + 120_000,
            "seed {seed}: {}",
            sent.wire
        );
        versions.staging.unlink(&sent.staged).unwrap();
    }
}

#[test]
fn of_known_ranges_only_blocks_that_differ_are_sent() {
    let Some(versions) = Versions::new() else {
        return;
    };
    same(&versions, 16 * MIB);
    let (theirs, ours) = (edit(&versions.theirs()), edit(&versions.ours()));
    let mut ranges = Vec::new();
    for n in 0..300 {
        let at = n * 13 % 4096 * 4096;
        ranges.push(at..at + 4096);
        let block = noise(4096, 100 + n);
        // Changed there, here, or written on both with the same content.
        match n % 3 {
            0 => theirs.write_all_at(&block, at).unwrap(),
            1 => ours.write_all_at(&block, at).unwrap(),
            _ => {
                theirs.write_all_at(&block, at).unwrap();
                ours.write_all_at(&block, at).unwrap();
            }
        }
    }
    let sent = versions.assert_by_ranges(&ranges);
    assert_eq!(sent.data, 200 * 4096);
    assert!(sent.wire < sent.data * 11 / 10, "{}", sent.wire);
    // All of it written anew with what it was: hashes alone.
    same(&versions, 16 * MIB);
    let all = [Range {
        start: 0,
        end: 16 * MIB as u64,
    }];
    let sent = versions.assert_by_ranges(&all);
    assert_eq!(sent.data, 0);
    assert!(sent.wire < 100_000, "{}", sent.wire);
    // Nothing can differ: nothing is asked but that.
    let sent = versions.assert_by_ranges(&[]);
    assert!(sent.wire < 100, "{}", sent.wire);
}

#[test]
fn what_is_outside_the_ranges_is_not_read() {
    let Some(versions) = Versions::new() else {
        return;
    };
    same(&versions, 4 * MIB);
    let theirs = edit(&versions.theirs());
    for block in [1, 500] {
        theirs.write_all_at(&noise(4096, 5), block * 4096).unwrap();
    }
    let sent = versions.by_ranges(&std::iter::once(4096..8192).collect(), 0);
    let mut expected = content(&theirs);
    let outside = 500 * 4096..501 * 4096;
    expected[outside.clone()].copy_from_slice(&noise(4 * MIB, 1)[outside]);
    assert!(content(&sent.file) == expected);
}

#[test]
fn a_hole_reaches_to_the_end_of_a_file_that_ends_within_a_block() {
    let Some(versions) = Versions::new() else {
        return;
    };
    same(&versions, 2 * MIB + 839);
    let theirs = edit(&versions.theirs());
    let size = theirs.metadata().unwrap().len();
    let hole = size - 839 - 8192;
    theirs.set_len(hole).unwrap();
    theirs.set_len(size).unwrap();
    rustix::fs::fsync(&theirs).unwrap();
    assert_eq!(runs(&theirs), [(0, hole)]);
    let changed = hole..size;
    versions.assert_by_ranges(std::slice::from_ref(&changed));
    versions.assert_rebuilt();
}

#[test]
fn known_ranges_carry_holes_and_sizes() {
    let Some(versions) = Versions::new() else {
        return;
    };
    same(&versions, 4 * MIB);
    let (theirs, ours) = (edit(&versions.theirs()), edit(&versions.ours()));
    let mib = MIB as u64;
    let punch = |file: &File, offset: u64, length: u64| {
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        rustix::fs::fallocate(file, flags, offset, length).unwrap();
    };
    punch(&theirs, mib, 40 * 4096);
    punch(&ours, 2 * mib, 40 * 4096);
    theirs.write_all_at(&vec![0; 20 * 4096], 3 * mib).unwrap();
    punch(&ours, 3 * mib, 20 * 4096);
    let mut ranges = vec![mib..2 * mib, 2 * mib..3 * mib, 3 * mib..3 * mib + 100_000];
    let sent = versions.assert_by_ranges(&ranges);
    assert_eq!(sent.data, 60 * 4096);
    // It grew, by a hole and data; and what we had shrank to less than what is there.
    theirs.set_len(5 * mib + 77).unwrap();
    theirs.write_all_at(b"end", 5 * mib + 100_000).unwrap();
    ours.set_len(3 * mib + 300_001).unwrap();
    ranges.push(4 * mib..5 * mib + 100_003);
    versions.assert_by_ranges(&ranges);
    // It shrank, to within a block.
    theirs.set_len(2 * mib + 5).unwrap();
    versions.assert_by_ranges(&ranges);
    // No reflink is possible: a copy does as well.
    let sent = versions.by_ranges(&ranges.iter().cloned().collect(), FLAG_NOCOW);
    assert!(content(&sent.file) == content(&theirs));
}

#[test]
fn of_small_files_less_than_a_block_is_sent() {
    let Some(versions) = Versions::new() else {
        return;
    };
    same(&versions, 10_000);
    let (theirs, ours) = (edit(&versions.theirs()), edit(&versions.ours()));
    let one = |range: Range<u64>| versions.assert_by_ranges(std::slice::from_ref(&range));
    theirs.write_all_at(b"a line more\n", 10_000).unwrap();
    let sent = one(8192..12_288);
    // From 9728 on, where a piece begins.
    assert_eq!(sent.data, 10_012 - 9728);
    assert!(sent.wire < 500, "{}", sent.wire);
    // All of a hole is made one, though it comes in pieces, and stays one.
    same(&versions, 40_000);
    let punch = |file: &File, offset: u64, length: u64| {
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        rustix::fs::fallocate(file, flags, offset, length).unwrap();
    };
    punch(&theirs, 4096, 3 * 4096);
    punch(&theirs, 36_864, 40_000 - 36_864);
    punch(&ours, 8192, 4096);
    punch(&ours, 20_480, 4096);
    theirs.write_all_at(&[0; 700], 24_600).unwrap();
    versions.assert_by_ranges(&[4096..28_672, 36_864..40_000]);
    // It becomes small, or was.
    same(&versions, 200_000);
    theirs.set_len(9000).unwrap();
    one(8192..200_000);
    same(&versions, 9000);
    let more = noise(191_000, 3);
    theirs.write_all_at(&more, 9000).unwrap();
    one(8192..200_000);
}

#[test]
fn random_ranges_that_hold_all_changes_make_the_sources_version() {
    let Some(versions) = Versions::new() else {
        return;
    };
    let first = number("PCS_SEED", 1);
    for seed in first..first + number("PCS_SEEDS", 12) {
        let mut rng = Random::new(seed);
        // Small ones are copied and cut more finely.
        let (length, beyond) = match seed % 2 {
            0 => (MIB + rng.below(2 * MIB), 100_000),
            _ => (2048 + rng.below(55_000), 5000),
        };
        let bytes = noise(length, seed);
        let mut ranges = Vec::new();
        for path in [versions.theirs(), versions.ours()] {
            let _ = fs::remove_file(&path);
            fs::write(&path, &bytes).unwrap();
            let file = edit(&path);
            for _ in 0..rng.below(20) {
                let at = rng.below(bytes.len() + beyond) as u64;
                let most = *rng.pick(&[10, 5000, 2 * beyond]);
                let length = 1 + rng.below(most);
                let (zeros, length) = (vec![0; length], length as u64);
                let end = at + length;
                match rng.below(4) {
                    0 => {
                        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
                        rustix::fs::fallocate(&file, flags, at, length).unwrap();
                    }
                    1 => file.write_all_at(&zeros, at).unwrap(),
                    2 => {
                        let before = file.metadata().unwrap().len();
                        file.set_len(at).unwrap();
                        // What was cut off and what was put on may differ from the other's.
                        ranges.push(before.min(at)..before.max(at));
                    }
                    _ => {
                        let new = noise(zeros.len(), rng.next());
                        file.write_all_at(&new, at).unwrap();
                        let before = bytes.len() as u64;
                        ranges.push(before.min(at)..end);
                    }
                }
                ranges.push(at..end);
            }
            // As in a snapshot: where holes are is settled when it is on disk.
            rustix::fs::fsync(&file).unwrap();
        }
        let sent = versions.by_ranges(&ranges.iter().cloned().collect(), 0);
        let theirs = File::open(versions.theirs()).unwrap();
        assert!(content(&sent.file) == content(&theirs), "seed {seed}");
        assert_eq!(runs(&sent.file), runs(&theirs), "seed {seed}");
        versions.staging.unlink(&sent.staged).unwrap();
    }
}
