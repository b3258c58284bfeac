//! What ways of finding unchanged content cost, side by side: bytes on the wire and time.
//!
//! `cargo test --release --lib -- --ignored --nocapture what_each_way_costs` prints the table; what
//! `rebuild` does was chosen by it. In November 2026, 64 MiB each, kilobytes on the wire:
//!
//! ```text
//! TABLE
//! ```
//!
//! A grid costs least for an image and is of no use for a dump; pieces cut by content are the other
//! way round; a rolling checksum over fixed blocks has to choose one block size for both. A first look
//! at large pieces cut by content and a second one at what was not found, by a fine grid where it was
//! changed in place and by content where it grew, is near the best of each in every row.

use std::collections::HashMap;
use std::fs::{self, File};
use std::time::Instant;

use super::cut::{Cut, Cutter};
use super::testing::noise;
use super::tests::Versions;
use crate::mirror::tests_random::Random;

const SIZE: usize = 64 << 20;
const PAGE: usize = 4096;

/// A disk image of which one block in a hundred was written anew.
fn image() -> (Vec<u8>, Vec<u8>) {
    let old = noise(SIZE, 1);
    let mut new = old.clone();
    let mut rng = Random::new(7);
    for n in 0..SIZE / PAGE / 100 {
        let at = rng.below(SIZE / PAGE) * PAGE;
        new[at..at + PAGE].copy_from_slice(&noise(PAGE, 1000 + n as u64));
    }
    (old, new)
}

/// A dump of a database.
fn dump() -> Vec<u8> {
    let mut text = Vec::with_capacity(SIZE + 200);
    let mut rng = Random::new(3);
    let mut row = 0;
    while text.len() < SIZE {
        row += 1;
        text.extend_from_slice(line(row, &mut rng).as_bytes());
    }
    text
}

fn line(row: u64, rng: &mut Random) -> String {
    let (a, b, c) = (rng.next(), rng.next(), rng.below(1000));
    format!("INSERT INTO orders VALUES ({row}, '{a:x}', '{b:x}', {c}, NULL);\n")
}

/// The dump with `count` rows more, anywhere, or at its head.
fn inserted(old: &[u8], count: usize) -> Vec<u8> {
    let mut rng = Random::new(count as u64);
    let mut places: Vec<usize> = (0..count).map(|_| rng.below(old.len())).collect();
    if count == 1 {
        places = vec![0];
    }
    places.sort_unstable();
    let mut new = Vec::with_capacity(old.len() + count * 100);
    let mut at = 0;
    for place in places {
        new.extend_from_slice(&old[at..place]);
        at = place;
        new.extend_from_slice(line(place as u64, &mut rng).as_bytes());
    }
    new.extend_from_slice(&old[at..]);
    new
}

/// Pieces of one size alone; each costs its length and 16 bytes of hash.
fn one_cut(old: &File, new: &File, cut: Cut) -> u64 {
    use std::os::fd::AsFd;
    let whole = |file: &File| std::iter::once(0..file.metadata().unwrap().len()).collect();
    let mut known = HashMap::new();
    let mut cutter = Cutter::new(cut);
    let visit = |offset, bytes: &[u8]| {
        known.insert(blake3::hash(bytes), offset);
        Ok::<_, rustix::io::Errno>(())
    };
    cutter.for_each(old.as_fd(), &whole(old), visit).unwrap();
    let mut wire = 0;
    let visit = |_, bytes: &[u8]| {
        wire += 18;
        if !known.contains_key(&blake3::hash(bytes)) {
            wire += bytes.len() as u64;
        }
        Ok::<_, rustix::io::Errno>(())
    };
    cutter.for_each(new.as_fd(), &whole(new), visit).unwrap();
    wire
}

/// Fixed blocks of the old version, looked for everywhere in the new one by a checksum that rolls;
/// each costs 4 bytes of that and 8 of a strong hash.
fn rolling(old: &[u8], new: &[u8], block: usize) -> u64 {
    let sums = |bytes: &[u8]| {
        let (mut a, mut b) = (0u32, 0u32);
        for byte in bytes {
            a = a.wrapping_add(u32::from(*byte));
            b = b.wrapping_add(a);
        }
        (a, b)
    };
    let key = |(a, b): (u32, u32)| (a & 0xffff) | (b << 16);
    let mut known: HashMap<u32, Vec<blake3::Hash>> = HashMap::new();
    for bytes in old.chunks_exact(block) {
        known
            .entry(key(sums(bytes)))
            .or_default()
            .push(blake3::hash(bytes));
    }
    let mut wire = (old.len() / block * 12) as u64;
    let mut at = 0;
    let mut sum = sums(&new[..block]);
    loop {
        let bytes = &new[at..at + block];
        let is_known = known
            .get(&key(sum))
            .is_some_and(|hashes| hashes.contains(&blake3::hash(bytes)));
        if is_known {
            at += block;
            wire += 4;
            if at + block > new.len() {
                break;
            }
            sum = sums(&new[at..at + block]);
            continue;
        }
        wire += 1;
        if at + block >= new.len() {
            break;
        }
        let (out, into) = (u32::from(new[at]), u32::from(new[at + block]));
        let length = u32::try_from(block).unwrap();
        let a = sum.0.wrapping_sub(out).wrapping_add(into);
        let b = sum.1.wrapping_sub(length.wrapping_mul(out)).wrapping_add(a);
        sum = (a, b);
        at += 1;
    }
    wire + (new.len() - at).min(block) as u64
}

#[test]
#[ignore = "measures"]
fn what_each_way_costs() {
    let Some(versions) = Versions::new() else {
        return;
    };
    let text = dump();
    let cases = [
        ("image, 1 % of 4 KiB blocks", image()),
        (
            "dump, a line at its head",
            (text.clone(), inserted(&text, 1)),
        ),
        ("dump, 100 rows more", (text.clone(), inserted(&text, 100))),
        (
            "dump, 2,000 rows more",
            (text.clone(), inserted(&text, 2000)),
        ),
        (
            "dump, 20,000 rows more",
            (text.clone(), inserted(&text, 20_000)),
        ),
    ];
    println!("{:<40}{:>12}{:>9}", "", "wire kB", "s");
    for (name, (old, new)) in cases {
        fs::write(versions.ours(), &old).unwrap();
        fs::write(versions.theirs(), &new).unwrap();
        let (ours, theirs) = (
            File::open(versions.ours()).unwrap(),
            File::open(versions.theirs()).unwrap(),
        );
        println!("{name}");
        let show = |way: &str, cost: &mut dyn FnMut() -> u64| {
            let begun = Instant::now();
            let wire = cost();
            let seconds = begun.elapsed().as_secs_f64();
            println!("    {way:<36}{:>12}{seconds:>9.2}", wire / 1000);
        };
        for bits in [12, 16] {
            let way = format!("grid of {} KiB", (1 << bits) / 1024);
            show(&way, &mut || one_cut(&ours, &theirs, Cut::Grid(bits)));
        }
        for bits in [11, 13, 14, 16] {
            let way = format!("by content, {} KiB", (1 << bits) / 1024);
            show(&way, &mut || one_cut(&ours, &theirs, Cut::Content(bits)));
        }
        for block in [4096, 11_584] {
            let way = format!("rolling, blocks of {block}");
            show(&way, &mut || rolling(&old, &new, block));
        }
        // What was written just now is on disk, or a reflink copy would have to wait for it.
        rustix::fs::syncfs(&ours).unwrap();
        show("two looks", &mut || {
            let sent = versions.rebuild(0).unwrap();
            versions.staging.unlink(&sent.staged).unwrap();
            sent.wire
        });
    }
}
