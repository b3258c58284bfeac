//! Looking at many inodes at once says what looking at each says.

use std::fs;
use std::os::fd::AsFd;
use std::path::Path;

use super::entry::Kind;
use super::look::Looker;
use super::path::join;
use super::tests::{AWKWARD, CLEAN, lab, sh};
use super::tests_random::{Random, grow, thaw};
use super::tree::{Names, Tree};

/// Compares both ways for everything below `top`; how many entries the search of the tree gave.
fn compare(top: &Path) -> (u64, u64) {
    let tree = Tree::open(top).unwrap();
    let mut looker = Looker::new(&tree, top);
    let mut entries = 0;
    let mut stack = vec![Vec::new()];
    while let Some(path) = stack.pop() {
        let dir = tree.open_dir(&path).unwrap();
        let names = Names::read(dir.as_fd()).unwrap();
        looker.begin(&names);
        for position in 0..names.len() {
            let name = names.get(position).unwrap();
            let one = tree.look(dir.as_fd(), name).unwrap();
            let many = looker.look(&dir, &path, &names, position).unwrap();
            let (one, mut many) = (one.unwrap(), many.unwrap());
            // Not part of what is compared between machines.
            many.meta.allocated = one.meta.allocated;
            if one.meta.kind == Kind::Opaque {
                // What stands for a subvolume in a snapshot is made up at each look, with its time.
                many.ctime = one.ctime;
            }
            assert_eq!(
                many,
                one,
                "{}",
                crate::escape::escape_bytes(&join(&path, name))
            );
            if one.meta.kind == Kind::Dir {
                stack.push(join(&path, name));
            }
            entries += 1;
        }
    }
    (looker.at_once, entries)
}

#[test]
fn many_looks_at_once_equal_single_ones_on_awkward_trees() {
    let Some(lab) = lab() else { return };
    sh(&lab.from, AWKWARD);
    sh(
        &lab.from,
        r#"
mkdir far wide linked mounted
# Inode numbers far apart, and other inodes between them.
for i in 1 2 3; do : >far/$i; for j in $(seq 40); do : >wide/$i-$j; done; done
for i in $(seq 1500); do : >wide/many-$i; done
echo x >linked/a; for i in b c d; do ln linked/a linked/$i; done
setfattr -n user.large -v "$(head -c 3000 /dev/zero | tr '\0' v)" linked/a
for i in $(seq 60); do setfattr -n user.n$i -v "$i" wide/many-7; done
mkdir mounted/dir; echo under >mounted/file; echo over >over
mount --bind d mounted/dir; mount --bind over mounted/file
"#,
    );
    let (fetched, entries) = compare(&lab.from);
    sh(&lab.from, "umount mounted/dir mounted/file");
    assert!(
        fetched * 10 > entries * 9,
        "only {fetched} of {entries} were found by searching"
    );
    sh(&lab.from, CLEAN);
}

#[test]
fn extended_attributes_of_one_hash_are_all_seen() {
    let Some(lab) = lab() else { return };
    // Two names of one crc32c, which is what btrfs files attributes under: found by trying.
    let mut seen = std::collections::HashMap::new();
    let (a, b) = (0_u32..)
        .find_map(|n| {
            let name = format!("user.{n:x}");
            seen.insert(crc32c(name.as_bytes()), name.clone())
                .map(|other| (other, name))
        })
        .unwrap();
    let file = lab.from.join("file");
    fs::write(&file, "x").unwrap();
    for (name, value) in [(&a, &b"first"[..]), (&b, b"second")] {
        rustix::fs::setxattr(&file, name.as_str(), value, rustix::fs::XattrFlags::CREATE).unwrap();
    }
    assert_eq!(compare(&lab.from), (1, 1));
}

/// As btrfs hashes names: crc32c beginning with ~1.
fn crc32c(bytes: &[u8]) -> u32 {
    let mut crc = !1_u32;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = if crc & 1 == 0 {
                crc >> 1
            } else {
                (crc >> 1) ^ 0x82f6_3b78
            };
        }
    }
    crc
}

#[test]
fn a_nested_subvolume_is_not_taken_for_the_inode_of_its_number() {
    let Some(lab) = lab() else { return };
    let home = lab.disk.create_subvolume("home");
    // Subvolumes are numbered from 256 on, as inodes are: entries of both kinds with equal numbers.
    sh(
        &home,
        "for i in $(seq 300); do if ((i % 2)); then mkdir d$i; else echo $i >f$i; fi; done",
    );
    for n in 0..12 {
        lab.disk.create_subvolume(&format!("home/nested{n}"));
        lab.disk.create_subvolume(&format!("home/d1/nested{n}"));
    }
    let names = Names::read(fs::File::open(&home).unwrap().as_fd()).unwrap();
    let mut numbers: Vec<u64> = (0..names.len()).map(|p| names.identity(p).0).collect();
    numbers.sort_unstable();
    assert!(
        numbers.windows(2).any(|w| w[0] == w[1]),
        "no number is used twice: {numbers:?}"
    );
    compare(&home);
    // In a snapshot nothing is left of them but empty directories.
    sh(
        &home,
        "btrfs -q subvolume snapshot -r . ../snapshot >/dev/null",
    );
    let (fetched, entries) = compare(&lab.disk.top().join("snapshot"));
    assert!(fetched + 24 >= entries, "{fetched} of {entries}");
}

#[test]
fn what_was_just_written_is_seen_on_a_live_subvolume() {
    let Some(lab) = lab() else { return };
    let mut rng = Random::new(5);
    for _ in 0..15 {
        grow(&lab.from, &mut rng, 60);
        thaw(&lab.from);
        let (fetched, entries) = compare(&lab.from);
        assert!(fetched * 2 > entries, "{fetched} of {entries}");
    }
}

#[test]
fn another_filesystem_is_looked_at_one_by_one() {
    let Some(lab) = lab() else { return };
    let other = lab.disk.directory().join("tmpfs");
    fs::create_dir(&other).unwrap();
    sh(&other, "mount -t tmpfs none .");
    grow(&other, &mut Random::new(3), 40);
    let (fetched, entries) = compare(&other);
    assert!(fetched == 0 && entries > 10);
}

#[test]
fn without_privileges_it_is_looked_at_one_by_one() {
    let Some(lab) = lab() else { return };
    sh(
        &lab.from,
        "chmod 755 ../from; for i in 1 2 3; do echo $i >f$i; done; mkdir dir; ln -s f1 link",
    );
    let top = lab.from.clone();
    sh(lab.disk.directory(), "chmod 755 . top");
    // Capabilities belong to a thread: this one ends afterwards.
    let (fetched, entries) = std::thread::spawn(move || {
        rustix::thread::set_capabilities(
            None,
            rustix::thread::CapabilitySets {
                effective: rustix::thread::CapabilitySet::empty(),
                permitted: rustix::thread::CapabilitySet::empty(),
                inheritable: rustix::thread::CapabilitySet::empty(),
            },
        )
        .unwrap();
        compare(&top)
    })
    .join()
    .unwrap();
    assert_eq!((fetched, entries), (0, 5));
}
