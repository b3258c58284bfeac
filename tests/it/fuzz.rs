//! Whatever bytes come in, they are understood or refused: the targets of `src/fuzz/` with their corpus,
//! and with random changes of it from fixed seeds. What guides itself by coverage is `make fuzz`.

use std::collections::BTreeSet;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use pc_switcher::fuzz::{TARGETS, Target};

use crate::support::awkward::Random;
use crate::support::seeds;

/// Random changes of the corpus for each target and seed.
const CHANGES: u64 = 3_000;
/// Longer than this nothing grows.
const LONGEST: usize = 64 << 10;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every file below a directory, in a fixed order.
fn files(directory: &Path) -> Vec<Vec<u8>> {
    let mut paths: Vec<PathBuf> = Vec::new();
    let mut directories = vec![directory.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(&directory).expect("the corpus is in the repository") {
            let path = entry.expect("readable").path();
            if path.is_dir() {
                directories.push(path);
            } else {
                paths.push(path);
            }
        }
    }
    paths.sort();
    let read = |path: &PathBuf| fs::read(path).expect("readable");
    paths.iter().map(read).collect()
}

fn corpus(target: &Target) -> Vec<Vec<u8>> {
    let mut all = files(&root().join("fuzz/corpus").join(target.name));
    for samples in target.samples {
        all.extend(files(&root().join(samples)));
    }
    all
}

/// Whether the bytes were understood; what they are, where the target finds something.
#[track_caller]
fn run(target: &Target, bytes: &[u8], about: &str) -> bool {
    let ran = catch_unwind(AssertUnwindSafe(|| (target.run)(bytes)));
    ran.unwrap_or_else(|_| {
        let name = format!("fuzz-{}-{:08x}", target.name, crc(bytes));
        let kept = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        fs::write(&kept, bytes).expect("writable");
        panic!(
            "{} ({about}) finds something; the bytes are in {}: once it is mended, add them to fuzz/corpus/{}",
            target.name,
            kept.display(),
            target.name
        );
    })
}

/// Something to tell inputs apart by.
fn crc(bytes: &[u8]) -> u32 {
    let step = |sum: u32, byte: &u8| sum.rotate_left(5) ^ u32::from(*byte);
    bytes.iter().fold(0x811c_9dc5, |sum, byte| {
        step(sum, byte).wrapping_mul(16_777_619)
    })
}

/// An index below `limit`, which is not 0.
fn below(random: &mut Random, limit: usize) -> usize {
    usize::try_from(random.below(limit as u64)).expect("an index")
}

/// Some bytes of some input.
fn piece(random: &mut Random, corpus: &[Vec<u8>]) -> Vec<u8> {
    let from = random.pick(corpus);
    let begin = below(random, from.len() + 1);
    let length = below(random, (from.len() - begin).min(64) + 1);
    from[begin..begin + length].to_vec()
}

/// Numbers at which code that counts goes wrong.
const NUMBERS: [u64; 12] = [
    0,
    1,
    0x7f,
    0x80,
    0xff,
    0x7fff,
    0xffff,
    0x7fff_ffff,
    0xffff_ffff,
    0x7fff_ffff_ffff_ffff,
    0xffff_ffff_ffff_fffe,
    0xffff_ffff_ffff_ffff,
];

/// One small change.
fn change(random: &mut Random, bytes: &mut Vec<u8>, corpus: &[Vec<u8>]) {
    let at = below(random, bytes.len() + 1);
    let end = at + below(random, (bytes.len() - at).min(32) + 1);
    match random.below(9) {
        0 if at < bytes.len() => bytes[at] ^= 1 << random.below(8),
        1 if at < bytes.len() => bytes[at] = random.byte(),
        2 => drop(bytes.drain(at..end)),
        3 => {
            let copy = bytes[at..end].to_vec();
            bytes.splice(at..at, copy);
        }
        4 => {
            let number = random.pick(&NUMBERS).to_le_bytes();
            let width = 1 << random.below(4);
            let end = (at + width).min(bytes.len());
            bytes.splice(at..end, number[..width].iter().copied());
        }
        5 => {
            let piece = piece(random, corpus);
            bytes.splice(at..at, piece);
        }
        6 => {
            let piece = piece(random, corpus);
            bytes.splice(at..end, piece);
        }
        7 => bytes.truncate(at),
        _ => {
            // The same a good many times over.
            let copy = bytes[at..end].to_vec();
            for _ in 0..random.below(200) {
                bytes.splice(at..at, copy.iter().copied());
            }
        }
    }
    bytes.truncate(LONGEST);
}

#[test]
fn every_target_has_a_program_and_a_corpus_and_there_are_no_others() {
    let names: BTreeSet<&str> = TARGETS.iter().map(|target| target.name).collect();
    assert_eq!(names.len(), TARGETS.len());
    let listed = |directory: &str, ending: &str| -> BTreeSet<String> {
        let entries = fs::read_dir(root().join("fuzz").join(directory)).expect("it is there");
        let name = |entry: fs::DirEntry| entry.file_name().to_str().expect("UTF-8").to_owned();
        let names = entries.map(|entry| name(entry.expect("readable")));
        names
            .map(|name| name.trim_end_matches(ending).to_owned())
            .collect()
    };
    let names: BTreeSet<String> = names.into_iter().map(str::to_owned).collect();
    assert_eq!(listed("fuzz_targets", ".rs"), names);
    assert_eq!(listed("corpus", ""), names);
    let manifest = fs::read_to_string(root().join("fuzz/Cargo.toml")).expect("it is there");
    for name in &names {
        let program = root().join(format!("fuzz/fuzz_targets/{name}.rs"));
        let program = fs::read_to_string(program).expect("it is there");
        assert!(program.contains(&format!("fuzz::run(\"{name}\", bytes)")));
        assert!(manifest.contains(&format!("path = \"fuzz_targets/{name}.rs\"")));
    }
}

#[test]
fn the_corpus_is_understood_in_part_and_refused_in_part() {
    for target in TARGETS {
        let corpus = corpus(target);
        let understood = corpus.iter().filter(|bytes| run(target, bytes, "corpus"));
        let understood = understood.count();
        println!("{}: {understood} of {}", target.name, corpus.len());
        assert!(understood > 0, "{}: nothing is understood", target.name);
        assert!(understood < corpus.len(), "{}: nothing is not", target.name);
    }
}

#[test]
fn random_bytes_are_understood_or_refused() {
    let seeds = seeds(&[1]);
    for target in TARGETS {
        let corpus = corpus(target);
        let mut understood = 0;
        for seed in &seeds {
            let mut random = Random::new(*seed);
            for number in 0..CHANGES {
                let mut bytes = random.pick(&corpus).clone();
                for _ in 0..=random.below(4) {
                    change(&mut random, &mut bytes, &corpus);
                }
                let about = format!("seed {seed}, change {number}");
                understood += u64::from(run(target, &bytes, &about));
            }
        }
        let all = CHANGES * seeds.len() as u64;
        println!("{}: {understood} of {all} understood", target.name);
    }
}
