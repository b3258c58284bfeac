//! Copies, by reflink or not, through both halves of the mirror: what the target has is not sent, whatever it
//! is called there; and what the other agent may say about it.

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;

use super::testing::Pair;
use super::tests::{CLEAN, Lab, lab, lsattr, rsync_differences, sh};
use super::tests_peer::{Alone, Line, file, plan, scan};
use super::wire::{Message, Messages, MirrorRequest};
use crate::sys::extents::Extents;

/// Mirrors and returns how many bytes the source said while the plan was carried out.
fn said(lab: &Lab, pair: &mut Pair) -> usize {
    // Extents are known when they are on the disk.
    sh(&lab.from, "sync -f .");
    pair.scan(&lab.from, &lab.to, "", false).unwrap();
    pair.record = Some(Arc::default());
    let applied = pair.apply(&lab.from, &lab.to).unwrap();
    assert_eq!(applied.errors, 0, "{:?}", pair.complaints);
    let frames = pair.record.take().unwrap();
    let frames = frames.lock().unwrap();
    assert_eq!(rsync_differences(&lab.from, &lab.to), "");
    assert_eq!(lsattr(&lab.from), lsattr(&lab.to));
    assert!(!lab.to.join(".pc-switcher-staging").exists());
    frames.iter().map(Vec::len).sum()
}

/// Where on disk what the target has under this name begins.
fn extents(lab: &Lab, name: &str) -> Vec<(u64, u64)> {
    let file = File::open(lab.to.join(name)).unwrap();
    rustix::fs::fsync(&file).unwrap();
    let number = file.metadata().unwrap().ino();
    Extents::new().first(file.as_fd(), number, 1000).unwrap()
}

#[test]
fn a_reflink_copy_on_the_source_becomes_one_on_the_target() {
    let Some(lab) = lab() else { return };
    sh(
        &lab.from,
        "head -c 8000000 /dev/urandom >big; head -c 200000 /dev/urandom >small; ln small twice
         head -c 3000000 /dev/urandom >sparse; truncate -s 20M sparse",
    );
    let mut pair = Pair::new();
    pair.mirror(&lab.from, &lab.to, "");
    sh(
        &lab.from,
        "cp --reflink=always big copy; touch -d @5 copy; chown 7:8 copy; setfattr -n user.a -v b copy
         mkdir -p new/deep; cp --reflink=always big new/big; cp --reflink=always twice new/deep/small
         cp --reflink=always sparse new/sparse; chmod 4711 new/deep/small
         cp --reflink=always small new/fixed; chattr +i new/fixed
         cp --reflink=always big new/edited; ln new/edited new/linked
         head -c 8192 /dev/urandom | dd of=new/edited bs=4096 seek=300 conv=notrunc status=none
         cp --reflink=always small grown; date >>grown",
    );
    let said = said(&lab, &mut pair);
    println!("eight copies cost {said}");
    assert!(said < 60_000, "{said}");
    assert_eq!(pair.complaints, Vec::<String>::new());
    for (copy, of) in [
        ("copy", "big"),
        ("new/big", "big"),
        ("new/deep/small", "small"),
        ("new/fixed", "small"),
        ("new/sparse", "sparse"),
    ] {
        assert_eq!(extents(&lab, copy), extents(&lab, of), "{copy}");
    }
    let (edited, big) = (extents(&lab, "new/edited"), extents(&lab, "big"));
    assert!(edited.iter().any(|extent| big.contains(extent)));
    sh(&lab.from, CLEAN);
    sh(&lab.to, CLEAN);
}

#[test]
fn copies_that_come_together_are_sent_once() {
    let Some(lab) = lab() else { return };
    sh(
        &lab.from,
        "mkdir x y; head -c 5000000 /dev/urandom >x/b; head -c 100000 /dev/urandom >x/small
         for n in $(seq 20); do cp --reflink=always x/b y/$n; cp --reflink=always x/small x/s$n; done
         cp --reflink=always x/b a
         # More than are held open at once.
         mkdir p q; for n in $(seq 10 99); do head -c 70000 /dev/urandom >p/$n; cp --reflink=always p/$n q; done",
    );
    let said = said(&lab, &mut Pair::new());
    println!("11,400,000 bytes and their copies cost {said}");
    assert!(said > 11_400_000 && said < 11_700_000, "{said}");
    for n in 1..=9 {
        assert_eq!(extents(&lab, &format!("y/{n}")), extents(&lab, "a"));
        assert_eq!(extents(&lab, &format!("x/s{n}")), extents(&lab, "x/small"));
        assert_eq!(
            extents(&lab, &format!("q/{n}0")),
            extents(&lab, &format!("p/{n}0"))
        );
    }
}

#[test]
fn what_nobody_saw_move_and_plain_copies_are_taken_from_what_is_here() {
    let Some(lab) = lab() else { return };
    sh(
        &lab.from,
        "mkdir d; for n in 1 2 3; do head -c 2000000 /dev/urandom >d/$n; done
         head -c 300000 /dev/urandom >log; head -c 1200000 /dev/urandom >log.1; touch -d @7 log",
    );
    let mut pair = Pair::new();
    pair.mirror(&lab.from, &lab.to, "");
    // A directory that moved, a log that was rotated, and a copy of what is replaced.
    sh(
        &lab.from,
        "mv d e; mv log log.1; echo fresh >log
         cp -p e/2 e/kept; echo new >e/2",
    );
    let moved = said(&lab, &mut pair);
    println!("three moved files and a copy cost {moved}");
    assert!(moved < 40_000, "{moved}");

    // A copy of a whole directory, both new.
    sh(
        &lab.from,
        "mkdir one; for n in 1 2 3; do head -c 700000 /dev/urandom >one/$n; done
         cp -r --reflink=never one two; cp -a --reflink=never one three",
    );
    let copied = said(&lab, &mut pair);
    println!("a directory and two copies cost {copied}");
    assert!(copied > 2_100_000 && copied < 2_200_000, "{copied}");
    assert_eq!(extents(&lab, "two/3"), extents(&lab, "one/3"));
}

#[test]
fn wrong_guesses_cost_a_question_and_then_nothing_is_guessed_any_more() {
    const FILES: usize = 30;
    let Some(lab) = lab() else { return };
    for n in 0..FILES {
        for (dir, name) in [(&lab.from, "new"), (&lab.to, "old")] {
            let script =
                format!("head -c 1500000 /dev/urandom >{name}{n}; touch -d @9{n} {name}{n}");
            sh(dir, &script);
        }
    }
    let mut pair = Pair::new();
    pair.scan(&lab.from, &lab.to, "", false).unwrap();
    pair.record = Some(Arc::default());
    let applied = pair.apply(&lab.from, &lab.to).unwrap();
    assert_eq!((applied.errors, applied.kept), (0, 0));
    let frames = pair.record.take().unwrap();
    let frames = frames.lock().unwrap();
    let said = frames.iter().flat_map(|frame| Messages::new(&frame[1..]));
    let surveys = said.filter(|m| matches!(m, Ok(Message::Pieces { .. })));
    let surveys = surveys.count();
    // A survey of the whole, and for each a closer one where something like it could be.
    assert!((5..=12).contains(&surveys), "{surveys}");
    assert_eq!(rsync_differences(&lab.from, &lab.to), "");
}

pub(super) const SIZE: u64 = 2 << 20;

/// A target that asks for the new file `a`; it has `b`, and `secret`, which is excluded.
fn asking(lab: &Lab) -> Line {
    sh(
        &lab.to,
        &format!(
            "rm -rf *; head -c {SIZE} /dev/zero | tr '\\0' x >b; cp b secret; ln -s b link; mkfifo p; mkdir d"
        ),
    );
    let alone = Alone::new();
    let root = lab.to.to_str().unwrap().to_owned();
    plan(&alone, &lab.to, &[(b"a", file(SIZE))]);
    let filtered = alone.service.plan(&root).unwrap();
    let plan = filtered.retain(|op| op.path == b"a").unwrap();
    let rules = super::filter::Filter::parse(b"secret\n", "f").unwrap();
    alone.service.put_plan(&root, plan, rules);
    alone.begin(MirrorRequest::Apply {
        root,
        others: Vec::new(),
    })
}

/// Another file is like the one asked for.
pub(super) fn alike(id: u64, folder: u64, path: &str) -> Message<'_> {
    let path = path.as_bytes();
    Message::Alike { id, folder, path }
}

/// That was all.
pub(super) fn end(id: u64) -> Message<'static> {
    let (size, hash) = (SIZE, [0; 32]);
    Message::End { id, size, hash }
}

/// The file cannot be had.
pub(super) fn failed(id: u64) -> Message<'static> {
    let error = "no".to_owned();
    Message::Failed { id, error }
}

/// What the target says, as one text.
pub(super) fn questions(frames: &[Vec<u8>]) -> Vec<String> {
    let mut said = Vec::new();
    for frame in frames {
        for message in Messages::new(&frame[1..]) {
            match message.unwrap() {
                Message::Fetch { path, .. } => said.push(format!("fetch {}", path.escape_ascii())),
                Message::FetchOrNames { path, .. } => {
                    said.push(format!("names {}", path.escape_ascii()));
                }
                Message::Survey { path, .. } => {
                    said.push(format!("survey {}", path.escape_ascii()));
                }
                _ => {}
            }
        }
    }
    said
}

#[test]
fn names_that_lead_nowhere_or_out_of_scope_are_not_looked_at() {
    let Some(lab) = lab() else { return };
    let alike = |id, path| alike(id, 0, path);
    for name in ["secret", "link", "p", "d", "nowhere", "d/x", "link/x", "a"] {
        let line = asking(&lab);
        line.say(&[alike(0, name), end(0), failed(1)]);
        let (frames, result) = line.end();
        assert_eq!(result.unwrap().errors, 1, "{name}");
        assert_eq!(questions(&frames), ["names a", "fetch a"], "{name}");
        assert!(!lab.to.join("a").exists());
    }
    // What is there is not believed either.
    let line = asking(&lab);
    line.say(&[
        alike(0, "nowhere"),
        alike(0, "b"),
        end(0),
        end(1),
        failed(2),
    ]);
    let (frames, result) = line.end();
    assert_eq!(result.unwrap().errors, 1);
    assert_eq!(questions(&frames), ["names a", "survey a", "fetch a"]);
    assert!(!lab.to.join("a").exists());
    let data = |id, bytes: &'static [u8]| Message::Data {
        id,
        offset: 0,
        bytes,
    };
    let five = ["1", "2", "3", "4", "5"].map(|name| alike(0, name));
    let refused: [&[Message<'_>]; 5] = [
        &five,
        &[data(0, b"x"), alike(0, "b")],
        &[alike(0, "b"), data(0, b"x")],
        &[alike(0, "../b")],
        // Asked for the content, names once more.
        &[alike(0, "nowhere"), end(0), alike(1, "b")],
    ];
    for said in refused {
        let line = asking(&lab);
        line.say(said);
        line.refused();
    }
}

#[test]
fn only_files_that_are_offered_are_named_to_the_target() {
    let Some(lab) = lab() else { return };
    sh(
        &lab.from,
        "head -c 300000 /dev/urandom >secret; cp --reflink=always secret a; mkdir d hidden
         cp --reflink=always a d/b; cp --reflink=always a hidden/c; ln d/b hidden/d; sync -f .",
    );
    let alone = Alone::new();
    let rules = "secret\nhidden\n";
    let line = alone.begin(MirrorRequest::ScanSource(scan(&lab.from, rules)));
    line.say(&[Message::Ack(u64::MAX), Message::Finished]);
    line.end().1.unwrap();
    let named = |path: &'static str| {
        let line = alone.begin(MirrorRequest::Serve {
            root: lab.from.to_str().unwrap().to_owned(),
            others: Vec::new(),
        });
        let path = path.as_bytes();
        line.say(&[Message::FetchOrNames { id: 0, path }, Message::Finished]);
        let (frames, result) = line.end();
        result.unwrap();
        let mut names = Vec::new();
        for frame in frames {
            for message in Messages::new(&frame[1..]) {
                if let Message::Alike { path, .. } = message.unwrap() {
                    names.push(path.escape_ascii().to_string());
                }
            }
        }
        names
    };
    assert_eq!(named("a"), ["d/b"]);
    assert_eq!(named("d/b"), ["a"]);
    let line = alone.begin(MirrorRequest::Serve {
        root: lab.from.to_str().unwrap().to_owned(),
        others: Vec::new(),
    });
    line.say(&[Message::FetchOrNames {
        id: 0,
        path: b"secret",
    }]);
    line.refused();
    assert!(fs::exists(lab.from.join("secret")).unwrap());
}
