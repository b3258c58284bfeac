//! What once went wrong in the kernel when it made such diffs: the situations that the `send` group
//! of fstests keeps, in our own words. Numbers are those of its tests in `tests/btrfs`.
//!
//! Inodes are processed in the order of their numbers, which is that in which they are made, so in
//! many of these what counts is what was made first.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;

use rustix::fs::{FallocateFlags, fallocate};

use super::*;
use crate::mirror::tests_random::Random;
use crate::sys::btrfs::clone_range;
use crate::sys::testing::sh;

/// Carries out words: `a/b/` a directory with those above it, `a` an empty file, `a>b` a rename,
/// `a=b` one more name for `a`, `-a` removed with all in it, `a+` something appended.
fn play(top: &Path, words: &str) {
    for word in words.split_whitespace() {
        let at = |name: &str| top.join(name);
        if let Some((from, to)) = word.split_once('>') {
            fs::rename(at(from), at(to)).unwrap();
        } else if let Some((from, to)) = word.split_once('=') {
            fs::hard_link(at(from), at(to)).unwrap();
        } else if let Some(name) = word.strip_prefix('-') {
            if at(name).is_dir() {
                fs::remove_dir_all(at(name)).unwrap();
            } else {
                fs::remove_file(at(name)).unwrap();
            }
        } else if let Some(name) = word.strip_suffix('+') {
            let mut file = OpenOptions::new().append(true).open(at(name)).unwrap();
            std::io::Write::write_all(&mut file, word.as_bytes()).unwrap();
        } else if word.ends_with('/') {
            fs::create_dir_all(at(word)).unwrap();
        } else {
            File::create_new(at(word)).unwrap();
        }
    }
}

/// Plays a scenario and judges what is said of it.
#[track_caller]
fn names(before: &str, after: &str) {
    let Some(lab) = Lab::new() else { return };
    play(&lab.live, before);
    let older = lab.snapshot("older");
    play(&lab.live, after);
    let newer = lab.snapshot("newer");
    judged(&older, &newer, after);
    // And the way back.
    let back = changes_of(&newer, &older).unwrap_err();
    assert!(matches!(back, DiffError::Unrelated), "{back}");
}

fn changes_of(older: &Path, newer: &Path) -> Result<Changes, DiffError> {
    compare(2, older, newer)
}

#[test]
fn test_019_the_same_tree_made_in_another_order() {
    names(
        "t/ t/one t/two t/sub/ t/sub/in",
        "-t t/ t/one t/sub/ t/sub/in t/two",
    );
}

#[test]
fn test_030_children_become_parents_with_files_and_links_in_between() {
    names(
        "r/s/c/ r/s/c/file r/s/c/d/ r/s/c2/ r/s/w/ r/s/plain r/s/c3/x/y/ r/s/m/n/ r/s/m/n/f \
         r/s/o/ r/s/k1/k2/k3/k4/ r/s/k1/k2/k3/k4/deep",
        "r/s/c/file+ r/s/c/d>r/s/c2/d r/s/c>r/s/c2/d/cc r/s/c3/x/y>r/s/c2/y r/s/c3/x>r/s/c2/y/x \
         r/s/c3>r/s/c2/y/x/z r/s/w>r/s/c2/y/x/w r/s/plain>r/s/c2/y/x/other \
         r/s/c2/d/cc/file=r/s/c2/y/x/z/linked r/s/c2/d/cc/file>r/s/c2/y/x/file r/s/o>r/s/m/o \
         r/s/m/n>r/s/m/o/n r/s/m/o/n/f>r/s/m/o/n/ff r/s/k1/k2/k3/k4/deep+ \
         r/s/k1/k2/k3/k4/deep>r/s/k1/k2/k3/k4/deeper r/s/k1/k2/k3/k4>r/s/k r/s/k1/k2/k3>r/s/k/k3 \
         r/s/k1/k2>r/s/k/k3/k2 r/s/k1>r/s/k/k3/k2/k1",
    );
}

#[test]
fn test_039_a_directory_older_than_its_parent_and_both_renamed() {
    names(
        "p/q/ late/ p/q/c/ late>p/q/c/late other/ p/q/f/g/ other>p/q/f/g/other",
        "p/q/c>p/q/x p/q/x/late>p/q/x/y p/q/f>p/q/w p/q/w/g/other>p/q/w/g/z",
    );
}

#[test]
fn test_043_everything_moves_out_before_the_directory_goes() {
    names(
        "p/q/ n0/ n1/ p/q/c/ n0>p/q/c/n0 n1>p/q/c/n1 p/q/c/text p/q/c/x/ p/q/c/x2/ p/q/y/ p/q/z/ \
         p/q/d1/d2/d3/ p/q/d4/",
        "-p/q/c/text p/q/y>p/q/yy p/q/z>p/z p/q/c/x>p/q/yy/x p/q/c/n0>p/q/yy/n0 p/q/c/x2>p/z/x2 \
         p/q/c/n1>p/z/x2/n1 -p/q/c p/q/d4>p/d4 p/q/d1/d2>p/d4/d2 -p/q/d1",
    );
}

#[test]
fn test_044_a_file_changes_below_directories_that_all_move() {
    names(
        "p/q/c/d/e/ p/q/c/f/ p/q/c/d/e/text",
        "p/q/c/d/e/text+ p/q/c/d/e/text>p/q/c/d/e/text2 p/q/c/f>p/q/f2 p/q/c/d/e>p/q/f2/e2 \
         p/q/c>p/q/c2 p/q/c2/d>p/q/c2/d2",
    );
}

#[test]
fn test_045_subtrees_move_below_new_and_renamed_directories() {
    names(
        "a/b/ a/c/ a/b/d/ a/one a/b/two a/one>a/b/d/three a/b/d/three=a/b/four a/b/f/ a/b>a/c/b \
         a/c/b/d/five h/i/ h/j/ h/i/k/ h/j/l/",
        "a/c/b/four=a/c/b/f/six a/c/b/d/five>a/c/seven a/c/b/d/eight a/c/b/nine \
         a/c/b/nine=a/c/b/ten a/c/b/f>a/f a/c>a/cc a/cc/b>a/f/b a/cc>a/f/b/c a/f/b/c/eleven a>aa \
         h/new h/i/k/m/ h/i/g/ h/j/l>h/i/g/l h/j>h/i/k/m/j h/i/k/m>h/i/g/l/m h/new>h/i/g/l/m/new",
    );
}

#[test]
fn test_077_a_name_passes_to_a_new_directory_with_the_old_one_in_it() {
    names(
        "m/r/o/s/ t/t2/",
        "o/ m/r/o>o/plane o>m/r/o u/ t/t2>u/t t>u/t/t",
    );
}

#[test]
fn test_083_names_pass_on_in_a_chain_of_files_and_directories() {
    names(
        "a/ b/ c/ a/file d/ e/ e/file f/",
        "c>x a>x/y b>a f>g e>g/e d>e",
    );
}

#[test]
fn test_084_descendants_and_ancestors_of_one_name() {
    names(
        "d/n1/n2/p/q/ d/n4/ d/p/q/",
        "d/p/q>d/q d/n1/n2/p/q>d/p/q d/q>d/n1/n2/p/q d/n1/n2>d/p/n2 d/p>d/n4/p d/n4/p/n2/p>d/p",
    );
}

#[test]
fn test_087_092_127_178_directories_move_into_each_other_again_and_again() {
    let Some(lab) = Lab::new() else { return };
    let first = crate::mirror::tests_property::number("PCS_SEED", 1);
    for seed in first..first + crate::mirror::tests_property::number("PCS_SEEDS", 8) {
        let mut rng = Random::new(seed);
        let top = lab.live.join(format!("{seed}"));
        // Few names, so that they meet; where each directory is now.
        let mut dirs: Vec<PathBuf> = Vec::new();
        let name = |rng: &mut Random| format!("n{}", rng.below(6));
        fs::create_dir(&top).unwrap();
        let shuffle = |dirs: &mut Vec<PathBuf>, rng: &mut Random, moves: usize| {
            for _ in 0..moves {
                let (from, into) = (rng.below(dirs.len()), rng.below(dirs.len()));
                let to = dirs[into].join(name(rng));
                let from = dirs[from].clone();
                if to.starts_with(&from) || to.exists() {
                    continue;
                }
                fs::rename(&from, &to).unwrap();
                for dir in dirs.iter_mut() {
                    if let Ok(rest) = dir.strip_prefix(&from) {
                        *dir = if rest.as_os_str().is_empty() {
                            to.clone()
                        } else {
                            to.join(rest)
                        };
                    }
                }
            }
        };
        for number in 0..24 {
            let dir = top.join(format!("{number}"));
            fs::create_dir(&dir).unwrap();
            dirs.push(dir);
        }
        shuffle(&mut dirs, &mut rng, 40);
        let older = lab.snapshot(&format!("{seed}-older"));
        shuffle(&mut dirs, &mut rng, 40);
        let newer = lab.snapshot(&format!("{seed}-newer"));
        judged(&older, &newer, &format!("seed {seed}"));
    }
}

#[test]
fn test_129_a_directory_waits_for_one_that_waits_for_another() {
    names(
        "a/ tmp/ del/ tmp>del/tmp a/c/ del/x/",
        "a/c>c del/x>a/x del/tmp>c/tmp -del",
    );
}

#[test]
fn test_144_names_of_files_pass_on_with_a_new_link() {
    names("f1 f2 f3", "f3>f4 f2=f5 f2>f3 f1>f2");
}

#[test]
fn test_145_a_directory_takes_the_name_of_a_file_and_a_file_that_of_a_directory() {
    names(
        "p/ p/d/ p/d/one p/d/two p/d/three p/e/ p/d/two>p/e/two p/e/f/",
        "p/d/three>p/e/f/three p/d/one>p/e/f/one p/e>p/three p/three/two>p/e",
    );
}

#[test]
fn test_147_a_link_below_a_directory_whose_name_the_file_takes() {
    names(
        "p/ p/q/ p/q/r/ s/ p/q/r/file p/q/r/t/",
        "p/u/ s>p/q/r/t/s p/q/r/file=p/q/r/t/linked p/q/r/t>p/u/t p/q/r/file>p/q/r/t",
    );
}

#[test]
fn test_155_links_of_two_files_below_directories_that_move() {
    names(
        "a/ a/f1 a/b/c/ a/f1=a/b/c/l1 a/b/f2 d/ a/b/c/l1>d/l1 a/b/f2=a/l2 a/b/f2=d/l3 a/f1>d/f1",
        "d>a/b/d a/l2>d a/l2/ a/b/d/f1=a/b/l4 a/b>a/l2/b a/l2/b/d>a/l2/b/c/d \
         a/l2/b/c/d/l3>a/l2/b/c/d/l5",
    );
}

#[test]
fn test_221_222_241_links_take_the_names_of_directories() {
    names(
        "a b dir/ a>dir/a",
        "dir/a>a2 dir/a b>b2 a2=b dir>dir2 a2>dir",
    );
    names(
        "f1 f2 d1/ d1/d2/",
        "f2=d1/l f1>d1/d2/f1 d1>tmp f2>d1 tmp>f2 f2/d2>tmp f2/l>f2/d2 tmp>f2/l",
    );
    names("f1 f2 f3 d/ f3=d/l", "f1>d/f1 d/l>tmp f2>d/l d>e e/l=d");
}

#[test]
fn test_105_another_file_of_the_same_name_in_a_snapshot_of_the_snapshot() {
    let Some(lab) = Lab::new() else { return };
    play(&lab.live, "foo/ foo/bar foo/bar+");
    let older = lab.snapshot("older");
    let written = format!("{}-written", older.display());
    run(&format!(
        "btrfs subvolume snapshot '{0}' '{written}' && cd '{written}' && rm foo/bar && \
         echo other > foo/bar && btrfs subvolume snapshot -r '{written}' '{written}-ro'",
        older.display()
    ));
    // Neither two snapshots of one subvolume, nor one of the other.
    let error = changes_of(&older, Path::new(&format!("{written}-ro"))).unwrap_err();
    assert!(matches!(error, DiffError::Unrelated), "{error}");
}

/// Inode numbers begin anew behind the highest after a mount.
fn remounted(before: &str, removed: &str, after: &str) {
    let Some(disk) = TestBtrfs::new() else { return };
    let top = disk.top();
    let live = disk.create_subvolume("live");
    play(&live, before);
    let take = |name: &str| {
        let (live, dir) = (File::open(&live).unwrap(), File::open(&top).unwrap());
        btrfs::create_readonly_snapshot(live, dir, OsStr::new(name)).unwrap();
        top.join(name)
    };
    let older = take("older");
    play(&live, removed);
    run(&format!(
        "d=$(findmnt -no SOURCE '{0}'); umount '{0}' && \
         mount -t btrfs -o loop,subvolid=5 '{1}' '{0}'",
        top.display(),
        disk.directory().join("image").display()
    ));
    play(&live, after);
    let newer = take("newer");
    judged(&older, &newer, after);
}

#[test]
fn test_133_134_135_227_inode_numbers_are_given_again() {
    remounted("a1/ a2/ a2/x", "-a1 -a2", "a2 a1/ a1/x");
    remounted(
        "d7/ d8/ d9/ d7>d8/d7",
        "d8/d7>d7 -d8 -d9",
        "f8 n9/ d7>n9/d7",
    );
    remounted("f d1/ old/ d1>old/d1", "-f -old", "d1/ d8/ d9/ d1>d9/d1");
    remounted("d/ d/1 d/2 d/3", "-d", "new");
}

#[test]
fn test_040_the_last_of_many_links_and_its_directory() {
    names(
        "a/b/c/ a/b/c/one a/b/c/two a/b/c/two=a/b/c/three a/b/c/two=a/b/four",
        "-a/b/c/two -a/b/c/three -a/b/c/one -a/b/c",
    );
}

#[test]
fn test_050_272_338_more_links_than_one_item_holds() {
    let Some(lab) = Lab::new() else { return };
    play(&lab.live, "a/ b/ a/foo c/ c/foo d/ d/foo");
    let link = |from: &str, dir: &str, count: usize| {
        for number in 0..count {
            let to = lab.live.join(format!("{dir}/{number:040}"));
            fs::hard_link(lab.live.join(from), to).unwrap();
        }
    };
    link("a/foo", "a", 700);
    link("a/foo", "b", 700);
    link("c/foo", "c", 700);
    link("d/foo", "d", 700);
    let older = lab.snapshot("older");
    play(&lab.live, "-a -b");
    for number in 0..700 {
        fs::remove_file(lab.live.join(format!("c/{number:040}"))).unwrap();
    }
    link("c/foo", "c", 300);
    fs::rename(lab.live.join("d"), lab.live.join("e")).unwrap();
    fs::rename(lab.live.join("e/foo"), lab.live.join("outside")).unwrap();
    let newer = lab.snapshot("newer");
    judged(&older, &newer, "links");
}

#[test]
fn test_051_053_long_paths_and_long_attributes() {
    let Some(lab) = Lab::new() else { return };
    let long = ["x".repeat(250), "y".repeat(250), "z".repeat(250)].join("/");
    play(&lab.live, &format!("{long}/ {long}/file attributes"));
    let set = |name: &str, length: usize, byte: char| {
        let value = byte.to_string().repeat(length);
        let file = lab.live.join("attributes");
        rustix::fs::setxattr(
            file,
            name,
            value.as_bytes(),
            rustix::fs::XattrFlags::empty(),
        )
        .unwrap();
    };
    set("user.one", 6000, 'A');
    let older = lab.snapshot("older");
    play(&lab.live, &format!("{long}/file+ {long}/file>{long}/other"));
    set("user.one", 6666, 'Z');
    set("user.two", 5555, 'U');
    let newer = lab.snapshot("newer");
    judged(&older, &newer, "long");
}

#[test]
fn test_054_directories_and_subvolumes_exchange_names() {
    let Some(lab) = Lab::new() else { return };
    lab.shell("mkdir dir; btrfs -q subvolume create sub");
    let older = lab.snapshot("older");
    lab.shell("rmdir dir; btrfs -q subvolume create dir; btrfs -q subvolume delete sub; mkdir sub");
    let newer = lab.snapshot("newer");
    assert_eq!(
        lines(&judged(&older, &newer, "exchange")),
        [
            ": attributes",
            "dir: appeared gone subtree nested",
            "sub: appeared gone subtree nested",
        ]
    );
}

#[test]
fn test_008_036_snapshots_are_made_inside_the_subvolume_all_the_while() {
    let Some(lab) = Lab::new() else { return };
    play(&lab.live, "t/one/ t/two/ snapshots/ f");
    let older = lab.snapshot("older");
    let live = File::open(&lab.live).unwrap();
    let inside = File::open(lab.live.join("snapshots")).unwrap();
    let stop = AbortFlag::new();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for number in 0..40 {
                if stop.is_raised() {
                    return;
                }
                let name = format!("{number}");
                btrfs::create_readonly_snapshot(&live, &inside, OsStr::new(&name)).unwrap();
            }
        });
        for number in 0..5 {
            play(&lab.live, &format!("f+ t/one/{number}"));
            let newer = lab.snapshot(&format!("newer-{number}"));
            judged(&older, &newer, "beside");
        }
        stop.raise();
    });
}

#[test]
fn test_058_168_278_files_without_a_name_are_nothing() {
    let Some(lab) = Lab::new() else { return };
    play(&lab.live, "d/ kept kept+ gone gone+");
    let open = |name: &str| {
        OpenOptions::new()
            .write(true)
            .open(lab.live.join(name))
            .unwrap()
    };
    let unnamed = || {
        let flags = rustix::fs::OFlags::TMPFILE | rustix::fs::OFlags::RDWR;
        let mode = rustix::fs::Mode::from(0o600);
        let fd = rustix::fs::open(lab.live.join("d"), flags, mode).unwrap();
        let file = File::from(fd);
        file.write_all_at(&vec![7; 70_000], 0).unwrap();
        file
    };
    let (before, linked_later) = (unnamed(), unnamed());
    let deleted = open("gone");
    play(&lab.live, "-gone");
    let older = lab.snapshot("older");
    let after = unnamed();
    before.write_all_at(b"more", 0).unwrap();
    let newer = lab.snapshot("newer");
    judged(&older, &newer, "unnamed");
    // One that had no name in the older snapshot gets one: known for certain, or not at all.
    let from = format!(
        "/proc/self/fd/{}",
        std::os::fd::AsRawFd::as_raw_fd(&linked_later)
    );
    rustix::fs::linkat(
        rustix::fs::CWD,
        from,
        rustix::fs::CWD,
        lab.live.join("d/named"),
        rustix::fs::AtFlags::SYMLINK_FOLLOW,
    )
    .unwrap();
    let named = lab.snapshot("named");
    if let Ok(changes) = changes_of(&older, &named) {
        judge_against_walk(&older, &named, &changes, "named");
    }
    drop((before, after, deleted));
}

#[test]
fn test_186_what_is_not_written_back_yet_is_in_the_snapshot() {
    let Some(lab) = Lab::new() else { return };
    play(&lab.live, "f f+");
    let older = lab.snapshot("older");
    let file = OpenOptions::new()
        .write(true)
        .open(lab.live.join("f"))
        .unwrap();
    file.write_all_at(&vec![0xea; 108 << 10], 0).unwrap();
    let newer = lab.snapshot("newer");
    let changes = judged(&older, &newer, "unwritten");
    assert!(changes.get(b"f").unwrap().what.has(What::CONTENT));
}

#[test]
fn test_214_235_capabilities_of_one_of_two_files() {
    let Some(lab) = Lab::new() else { return };
    lab.shell("for f in a b c d; do : > $f; chown 3:4 $f; setcap cap_net_raw+ep $f; done");
    let older = lab.snapshot("older");
    // The second loses its capabilities by the change of its owner.
    lab.shell("touch a; chown 5:6 b; : > e; setcap cap_sys_nice+ep e; chown 3:4 c; setcap cap_net_raw+ep c");
    let newer = lab.snapshot("newer");
    judged(&older, &newer, "capabilities");
}

#[test]
fn test_252_a_balance_runs_all_the_while() {
    let Some(disk) = TestBtrfs::new() else { return };
    let live = disk.create_subvolume("live");
    play(&live, "d/ d/f");
    let take = |name: &str| {
        let (live, top) = (File::open(&live).unwrap(), File::open(disk.top()).unwrap());
        btrfs::create_readonly_snapshot(live, top, OsStr::new(name)).unwrap();
        disk.top().join(name)
    };
    let stop = AbortFlag::new();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.is_raised() {
                let _ = sh(&format!(
                    "btrfs balance start --full-balance '{}'",
                    disk.top().display()
                ));
            }
        });
        let mut rng = Random::new(252);
        let mut older = take("0");
        for number in 1..6 {
            crate::mirror::tests_random::grow(&live, &mut rng, 30);
            play(&live, "d/f+");
            let newer = take(&format!("{number}"));
            match changes_of(&older, &newer) {
                Ok(changes) => judge_against_walk(&older, &newer, &changes, "balance"),
                // The kernel may refuse while data is being moved: then all is scanned.
                Err(error) => assert!(matches!(error, DiffError::Io(_)), "{error}"),
            }
            older = newer;
        }
        stop.raise();
    });
}

/// Something done to a file between two snapshots.
enum Deed {
    Put(u64, usize, u8),
    Punch(u64, u64),
    Reserve(u64, u64),
    Truncate(u64),
    /// From another file, or itself: its name, offset, length, and to where.
    Clone(&'static str, u64, u64, u64),
}
use Deed::{Clone, Punch, Put, Reserve, Truncate};

const K: u64 = 1024;

#[track_caller]
fn deeds(before: &[(&str, Deed)], after: &[(&str, Deed)]) {
    let Some(lab) = Lab::new() else { return };
    let play = |deeds: &[(&str, Deed)]| {
        for (name, deed) in deeds {
            let mut options = OpenOptions::new();
            let file = options.read(true).write(true).create(true).truncate(false);
            let file = file.open(lab.live.join(name)).unwrap();
            match *deed {
                Put(offset, length, byte) => {
                    file.write_all_at(&vec![byte; length], offset).unwrap();
                }
                Punch(offset, length) => {
                    let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
                    fallocate(&file, flags, offset, length).unwrap();
                }
                Reserve(offset, length) => {
                    fallocate(&file, FallocateFlags::KEEP_SIZE, offset, length).unwrap();
                }
                Truncate(size) => file.set_len(size).unwrap(),
                Clone(from, offset, length, to) => {
                    let from = File::open(lab.live.join(from)).unwrap();
                    clone_range(&from, offset, length, &file, to).unwrap();
                }
            }
            file.sync_all().unwrap();
        }
    };
    play(before);
    let older = lab.snapshot("older");
    play(after);
    let newer = lab.snapshot("newer");
    judged(&older, &newer, "deeds");
}

#[test]
fn test_016_034_046_holes_and_reserved_room_in_a_file_that_existed() {
    deeds(
        &[("f", Put(0, 4 << 20, 1))],
        &[("f", Punch(1 << 20, 1 << 20)), ("f", Put(17, 1000, 2))],
    );
    let mut scattered = vec![("f", Truncate(100 << 20))];
    for step in 0..100 {
        scattered.push(("f", Reserve(step * 1_000_003, 192_512)));
        scattered.push(("f", Put(step * 1_000_003, 4096, 0xf0)));
    }
    deeds(&scattered, &[("f", Truncate(3_882_008))]);
    deeds(
        &[
            ("f", Reserve(0, 32 << 20)),
            ("f", Put(16_190_218, 9216, 1)),
            ("f", Put(1_078_957, 123, 2)),
        ],
        &[
            ("f", Put(8_236_844, 113_664, 3)),
            ("f", Put(16_190_218, 10, 0xff)),
            ("f", Put(31 << 20, 11, 4)),
        ],
    );
}

#[test]
fn test_137_a_hole_before_what_is_appended() {
    deeds(
        &[
            ("a", Put(0, 65_536, 1)),
            ("b", Put(0, 65_536, 1)),
            ("b", Put(1088 * K, 65_536, 2)),
        ],
        &[
            ("a", Put(1088 * K, 65_536, 3)),
            ("b", Put(1088 * K, 65_536, 4)),
        ],
    );
}

#[test]
fn test_169_188_holes_next_to_reserved_room_behind_the_end() {
    deeds(
        &[("f", Reserve(0, 4 << 20)), ("f", Put(0, 1 << 20, 1))],
        &[("f", Punch(1 << 20, 2 << 20))],
    );
    deeds(
        &[
            ("f", Put(0, 500 << 10, 1)),
            ("f", Reserve(1200 * K, 800 * K)),
        ],
        &[("f", Punch(0, 500 * K))],
    );
}

#[test]
fn test_203_322_clones_behind_what_was_the_end() {
    deeds(
        &[("f", Put(0, 65_536, 1))],
        &[
            ("f", Put(512 * K, 65_536, 2)),
            ("f", Put(576 * K, 65_536, 3)),
            ("f", Put(640 * K, 65_536, 4)),
            ("f", Put(768 * K, 65_536, 5)),
            ("f", Clone("f", 448 * K, 192 * K, 192 * K)),
        ],
    );
    deeds(
        &[("a", Put(0, 262_149, 1)), ("b", Put(0, 1 << 20, 2))],
        &[("b", Truncate(0)), ("b", Clone("a", 0, 0, 0))],
    );
}

#[test]
fn test_303_two_extents_in_a_file_that_was_one_hole() {
    deeds(
        &[("f", Truncate(64 << 20))],
        &[("f", Put(0, 65_536, 1)), ("f", Put(32 << 20, 65_536, 2))],
    );
}

#[test]
fn test_025_097_108_109_117_clones_of_parts_of_extents() {
    deeds(
        &[("f", Put(128 * K, 65_536, 1))],
        &[
            ("f", Clone("f", 144 * K, 16 * K, 0)),
            ("f", Clone("f", 176 * K, 16 * K, 16 * K)),
        ],
    );
    deeds(
        &[("a", Put(0, 102_400, 1)), ("b", Put(0, 0, 0))],
        &[
            ("b", Clone("a", 0, 0, 0)),
            ("a", Put(50 * K, 10_240, 2)),
            ("a", Put(90 * K, 10_240, 3)),
            ("a", Punch(70 * K, 10 * K)),
        ],
    );
    deeds(
        &[("a", Put(0, 102_400, 1)), ("b", Put(0, 4096, 9))],
        &[
            ("a", Put(0, 40_960, 2)),
            ("a", Put(100 * K, 102_400, 3)),
            ("b", Clone("a", 0, 0, 0)),
        ],
    );
    deeds(
        &[("x", Put(0, 131_072, 1))],
        &[("y", Clone("x", 0, 0, 0)), ("y", Put(32 * K, 16_384, 2))],
    );
}

#[test]
fn test_130_one_extent_with_very_many_references() {
    let mut many = vec![("f", Put(0, 131_072, 1))];
    for number in 1..300 {
        many.push(("f", Clone("f", 0, 128 * K, number * 128 * K)));
    }
    deeds(
        &many,
        &[("f", Put(1 << 20, 4096, 2)), ("g", Clone("f", 0, 0, 0))],
    );
}

#[test]
fn test_189_200_229_clones_within_a_file_and_a_cut() {
    deeds(
        &[("a", Put(0, 2 << 20, 1)), ("b", Put(0, 2 << 20, 2))],
        &[
            ("a", Clone("a", 1600 * K, 128 * K, 640 * K)),
            ("b", Clone("a", 1600 * K, 128 * K, 0)),
            ("a", Truncate(710 * K)),
        ],
    );
    deeds(
        &[("a", Put(0, 131_072, 1))],
        &[("a", Clone("a", 0, 128 * K, 128 * K))],
    );
    deeds(
        &[
            ("a", Put(0, 131_072, 1)),
            ("a", Put(128 * K, 131_072, 2)),
            ("a", Put(256 * K, 262_144, 3)),
        ],
        &[
            ("a", Clone("a", 64 * K, 448 * K, 1 << 20)),
            ("a", Clone("a", 0, 256 * K, 512 * K)),
        ],
    );
}

#[test]
fn test_283_319_a_clone_of_an_extent_partly_overwritten() {
    deeds(
        &[
            ("a", Put(0, 131_072, 1)),
            ("b", Truncate(1)),
            ("c", Truncate(1)),
        ],
        &[
            ("a", Put(64 * K, 65_536, 2)),
            ("b", Clone("a", 0, 0, 0)),
            ("c", Clone("a", 0, 0, 0)),
            ("c", Put(3, 5, 3)),
        ],
    );
}

#[test]
fn test_191_deduplicated_files_are_suspects_at_most() {
    let Some(lab) = Lab::new() else { return };
    fs::write(lab.live.join("a"), vec![0xb8; 1 << 20]).unwrap();
    let older = lab.snapshot("older");
    // The same data shared anew, as a deduplicating program would: nothing differs.
    fs::write(lab.live.join("b"), vec![0xb8; 1 << 20]).unwrap();
    let (a, b) = (lab.live.join("a"), lab.live.join("b"));
    let to = OpenOptions::new().write(true).open(a).unwrap();
    clone_range(File::open(b).unwrap(), 0, 512 * K, &to, 0).unwrap();
    let newer = lab.snapshot("newer");
    judged(&older, &newer, "deduplicated");
}

#[test]
fn test_038_094_149_281_284_312_with_compression() {
    for algorithm in ["zlib", "lzo", "zstd"] {
        let Some(disk) = TestBtrfs::new() else { return };
        let top = disk.top();
        run(&format!(
            "mount -o remount,compress-force={algorithm} '{}'",
            top.display()
        ));
        let live = disk.create_subvolume("live");
        let put = |name: &str, offset: u64, length: usize, byte: u8| {
            let mut options = OpenOptions::new();
            let file = options.read(true).write(true).create(true).truncate(false);
            let file = file.open(live.join(name)).unwrap();
            file.write_all_at(&vec![byte; length], offset).unwrap();
            file.sync_all().unwrap();
        };
        let clone = |from: &str, to: &str, (offset, length, at): (u64, u64, u64)| {
            let from = File::open(live.join(from)).unwrap();
            let to = OpenOptions::new().write(true).open(live.join(to)).unwrap();
            clone_range(from, offset, length, to, at).unwrap();
        };
        let take = |name: &str| {
            let (live, top) = (File::open(&live).unwrap(), File::open(&top).unwrap());
            btrfs::create_readonly_snapshot(live, top, OsStr::new(name)).unwrap();
            disk.top().join(name)
        };
        put("sparse", 92_267, 39_987, 1);
        put("parts", 64 * K, 131_072, 2);
        put("same", 0, 4096, 3);
        put("a", 0, 66_560, 4);
        put("b", 0, 131_072, 5);
        put("small", 0, 100, 6);
        let older = take("older");
        put("sparse", 200_000, 80_000, 7);
        put("sparse", 300_000, 10_000, 8);
        put("parts", 64 * K, 114_688, 9);
        put("parts", 180 * K, 12_288, 10);
        clone("same", "same", (0, 4096, 8192));
        clone("b", "a", (0, 64 * K, 0));
        put("small", 50, 10, 11);
        put("new", 111 * K, 30_720, 12);
        let newer = take("newer");
        judged(&older, &newer, algorithm);
    }
}
