//! Large files through both halves of the mirror: little is sent, and everything else about them is
//! as exact as ever. What the other agent may say about them is at the end.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;

use super::delta::cut::Cut;
use super::delta::list::{Part, PieceWriter};
use super::delta::partial::name_of;
use super::delta::survey::Survey;
use super::filter::STAGING_NAME;
use super::testing::{self, Pair};
use super::tests::{Lab, lab, lsattr, rsync_differences, sh};
use super::tests_peer::{Alone, Line, applying, file, plan, scan};
use super::wire::{Message, Messages, MirrorRequest};
use crate::agent::fault::FaultKind;
use crate::sys::testing::run;

/// Mirrors and returns how many bytes the source said while the plan was carried out.
fn said(lab: &Lab, pair: &mut Pair) -> usize {
    pair.scan(&lab.from, &lab.to, "", false).unwrap();
    said_applying(lab, pair)
}

fn said_applying(lab: &Lab, pair: &mut Pair) -> usize {
    pair.record = Some(Arc::default());
    let applied = pair.apply(&lab.from, &lab.to).unwrap();
    assert_eq!(applied.errors, 0, "{:?}", pair.complaints);
    let frames = pair.record.take().unwrap();
    let frames = frames.lock().unwrap();
    frames.iter().map(Vec::len).sum()
}

fn assert_equal(lab: &Lab) {
    assert_eq!(rsync_differences(&lab.from, &lab.to), "");
    assert_eq!(lsattr(&lab.from), lsattr(&lab.to));
    assert!(!lab.to.join(".pc-switcher-staging").exists());
}

/// Writes a block of another content at block `at` of a file.
const EDIT: &str =
    "edit() { head -c 4096 /dev/urandom | dd of=$1 bs=4096 seek=$2 conv=notrunc status=none; }; ";

#[test]
fn large_files_are_changed_at_little_cost_whatever_else_there_is_about_them() {
    let Some(lab) = lab() else { return };
    sh(
        &lab.from,
        "head -c 5000000 /dev/urandom >plain; ln plain link; mkdir d; ln plain d/link
         cp plain flags; setfattr -n user.a -v b flags; setfacl -m u:1234:rw flags; chmod 4750 flags
         cp plain frozen; chattr +i frozen; cp plain log; chattr +a log
         touch nocow; chattr +C nocow; cat plain >nocow; cp plain shrinks; cp plain grows
         head -c 5000000 /dev/urandom >small-before; cp plain small-after; cp plain rewritten; cp plain becomes-cow
         head -c 2000000 /dev/urandom >sparse; truncate -s 40M sparse; cp plain touched",
    );
    let mut pair = Pair::new();
    pair.mirror(&lab.from, &lab.to, "");
    assert_equal(&lab);
    sh(
        &lab.from,
        &format!(
            "{EDIT} edit plain 7; edit flags 100; chattr -i frozen; edit frozen 5; chattr +i frozen
             date >>log; edit nocow 50; truncate -s 3000001 shrinks; date >>grows
             cp grows again; edit again 2; mv again touched
             truncate -s 10000 small-after; cat rewritten >x; mv x rewritten
             printf x | dd of=sparse bs=1 seek=30000000 conv=notrunc status=none"
        ),
    );
    sh(&lab.to, "truncate -s 10000 small-before; chown 7:7 flags");
    let said = said(&lab, &mut pair);
    assert_eq!(pair.complaints, Vec::<String>::new());
    // What was small before comes whole.
    let whole = 5_000_000 + 10_000;
    assert!(said > whole && said < whole + 600_000, "{said}");
    assert_equal(&lab);
    sh(&lab.from, super::tests::CLEAN);
    sh(&lab.to, super::tests::CLEAN);
}

#[test]
fn names_linked_to_a_large_changed_file_follow_it() {
    let Some(lab) = lab() else { return };
    sh(
        &lab.from,
        "head -c 3000000 /dev/urandom >a; mkdir b; ln a b/x; ln a z",
    );
    let mut pair = Pair::new();
    pair.mirror(&lab.from, &lab.to, "");
    sh(&lab.from, &format!("{EDIT} edit a 3; ln a b/new"));
    assert!(said(&lab, &mut pair) < 100_000);
    assert_equal(&lab);
}

#[test]
fn a_large_file_edited_on_the_target_meanwhile_is_left_alone() {
    let Some(lab) = lab() else { return };
    sh(
        &lab.from,
        "for n in a b c; do head -c 3000000 /dev/urandom >$n; done",
    );
    let mut pair = Pair::new();
    pair.mirror(&lab.from, &lab.to, "");
    // At different times, so that none is taken for a copy of another.
    sh(
        &lab.from,
        &format!(
            "{EDIT} for n in a b c; do edit $n 3; done; touch -d @7 a; touch -d @8 b; touch -d @9 c"
        ),
    );
    pair.scan(&lab.from, &lab.to, "", false).unwrap();
    sh(&lab.to, &format!("{EDIT} edit b 9; cp b kept; rm c"));
    let applied = pair.apply(&lab.from, &lab.to).unwrap();
    // What was removed meanwhile cannot be compared with, and comes with the next sync.
    assert_eq!(applied.errors, 2, "{:?}", pair.complaints);
    sh(&lab.to, "cmp b kept; rm kept");
    sh(&lab.to, "cmp a ../from/a");
    pair.mirror(&lab.from, &lab.to, "");
    assert_equal(&lab);
}

#[test]
fn of_files_whose_changed_ranges_are_known_only_those_are_compared() {
    let Some(lab) = lab() else { return };
    sh(
        &lab.from,
        "head -c 4000000 /dev/urandom >a; cp a b; chattr +i b; cp a c; ln c d; cp a touched
         for n in $(seq 100); do cp a many-$n; done; head -c 30000 /dev/urandom >small",
    );
    let mut pair = Pair::new();
    pair.mirror(&lab.from, &lab.to, "");
    sh(
        &lab.from,
        &format!(
            "{EDIT} edit a 7; chattr -i b; edit b 8; chattr +i b; edit c 9; touch touched
             for n in $(seq 100); do edit many-$n $n; done; edit small 2"
        ),
    );
    pair.scan(&lab.from, &lab.to, "", false).unwrap();
    pair.change_plan(&lab.to, |op| {
        // Of which nobody may see more than its blocks 0 to 120, that is 3 MB of nothing.
        let end = if op.path == b"touched" { 0 } else { 121 * 4096 };
        op.ranges = Some(std::iter::once(0..end).collect());
    });
    let said = said_applying(&lab, &mut pair);
    assert_eq!(pair.complaints, Vec::<String>::new());
    let changed = 104 * 4096;
    assert!(said > changed && said < changed * 11 / 10, "{said}");
    assert_equal(&lab);
    sh(&lab.from, super::tests::CLEAN);
    sh(&lab.to, super::tests::CLEAN);
}

#[test]
fn what_was_written_outside_known_ranges_meanwhile_is_seen_though_nothing_tells() {
    let Some(lab) = lab() else { return };
    sh(&lab.from, "head -c 4000000 /dev/urandom >a");
    let mut pair = Pair::new();
    pair.mirror(&lab.from, &lab.to, "");
    sh(&lab.from, &format!("{EDIT} edit a 7"));
    pair.scan(&lab.from, &lab.to, "", false).unwrap();
    pair.change_plan(&lab.to, |op| {
        op.ranges = Some(std::iter::once(0..121 * 4096).collect());
    });
    // Its size and time are what the plan saw.
    sh(
        &lab.to,
        &format!("{EDIT} touch -r a ../time; edit a 900; touch -r ../time a; rm ../time"),
    );
    let said = said_applying(&lab, &mut pair);
    assert!(said < 100_000, "{said}");
    assert_equal(&lab);
}

/// Names in the staging directory of the target.
fn staged(lab: &Lab) -> Vec<String> {
    let names = fs::read_dir(lab.to.join(STAGING_NAME))
        .into_iter()
        .flatten();
    let mut names: Vec<String> = names
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// Begins to send what is to be sent, until the link goes after so many frames of 256 KiB; how many
/// bytes of `large` are there then.
fn cut_after(lab: &Lab, frames: usize) -> usize {
    let mut pair = Pair::new();
    pair.scan(&lab.from, &lab.to, "", false).unwrap();
    pair.cut = testing::Cut::LinkGone(frames);
    let fault = pair.apply(&lab.from, &lab.to).unwrap_err();
    assert_eq!(fault.kind, FaultKind::Interrupted);
    let part = lab.to.join(STAGING_NAME).join(name_of(b"large"));
    let blocks = fs::metadata(part).map_or(0, |part| part.blocks());
    usize::try_from(blocks * 512).unwrap()
}

const LARGE: usize = 80 << 20;

#[test]
fn a_large_file_goes_on_where_the_link_was_cut() {
    let Some(lab) = lab() else { return };
    let large = format!("head -c {LARGE} /dev/urandom >large; ");
    sh(
        &lab.from,
        &format!("{large} setfattr -n user.a -v b large; echo s >small"),
    );
    cut_after(&lab, 200);
    let part = name_of(b"large");
    assert_eq!(staged(&lab), [&part[..]]);
    // A run that died left more than that; and of what arrived something is damaged.
    sh(
        &lab.to.join(STAGING_NAME),
        &format!(
            "echo x >17; mkdir 18; setfattr -n user.z -v z {part}; chmod 777 {part}
             dd if=/dev/zero of={part} bs=1M seek=10 count=1 conv=notrunc status=none"
        ),
    );
    // It was cut again, soon.
    let arrived = cut_after(&lab, 20);
    assert_eq!(staged(&lab), [&part[..]]);
    // The source's version has moved on a little.
    sh(&lab.from, &format!("{EDIT} edit large 5; edit large 20000"));
    let mut pair = Pair::new();
    let said = said(&lab, &mut pair);
    assert!(arrived > LARGE / 4, "{arrived}");
    // A megabyte of it was damaged, and the cut is within a piece.
    assert!(said < LARGE - arrived + (3 << 20), "{said} of {arrived}");
    assert_equal(&lab);
}

#[test]
fn a_directory_that_gave_way_when_the_run_died_is_not_taken_for_what_arrived() {
    let Some(lab) = lab() else { return };
    sh(
        &lab.from,
        &format!("head -c {LARGE} /dev/urandom >large; mkdir -p new/deep; cp large new/deep/too"),
    );
    cut_after(&lab, 100);
    let part = name_of(b"large");
    assert_eq!(staged(&lab), [&part[..]]);
    // It was exchanged with the file that has arrived, which was removed since; and then died.
    sh(
        &lab.to.join(STAGING_NAME),
        &format!("rm {part}; mkdir {part}; echo mine >{part}/kept"),
    );
    let outcome = Pair::new().mirror(&lab.from, &lab.to, "");
    assert_eq!(outcome.applied.errors, 0);
    sh(
        &lab.to,
        "grep -qx mine .pc-switcher-kept-1/*/kept && rm -r .pc-switcher-kept-1; touch -r ../from .",
    );
    assert_equal(&lab);
}

#[test]
fn a_large_changed_file_goes_on_where_the_link_was_cut() {
    let Some(lab) = lab() else { return };
    let large = format!("head -c {LARGE} /dev/urandom >large; ");
    sh(
        &lab.from,
        &format!("{large} head -c 10000000 /dev/urandom >tail"),
    );
    sh(&lab.from, "cp large ../to/large; cat tail >>../to/large");
    sh(&lab.from, &format!("{large} cat tail >>large; rm tail"));
    // What both had is there as well.
    let arrived = cut_after(&lab, 150) - 10_000_000;
    assert_eq!(staged(&lab), [name_of(b"large")]);
    assert!(arrived > LARGE / 8, "{arrived}");
    let mut pair = Pair::new();
    let said = said(&lab, &mut pair);
    assert!(said < LARGE - arrived + (2 << 20), "{said} of {arrived}");
    assert_equal(&lab);
}

#[test]
fn what_arrived_of_a_large_file_goes_when_nobody_wants_it() {
    let Some(lab) = lab() else { return };
    let large = format!("head -c {LARGE} /dev/urandom >large");
    sh(&lab.from, &large);
    // Hardly anything is not kept.
    cut_after(&lab, 3);
    assert_eq!(staged(&lab), [""; 0]);
    assert!(!lab.to.join(STAGING_NAME).exists());
    for then in [
        "rm large",
        "rm large; echo other >other",
        "truncate -s 1000 large",
    ] {
        sh(&lab.from, &large);
        sh(&lab.to, "rm -f large");
        cut_after(&lab, 50);
        assert_eq!(staged(&lab), [name_of(b"large")]);
        sh(&lab.from, then);
        let outcome = Pair::new().mirror(&lab.from, &lab.to, "");
        assert_eq!(outcome.applied.errors, 0);
        assert_equal(&lab);
    }
    // More than is left free is not kept.
    let small = lab.disk.directory().join("small");
    let image = lab.disk.directory().join("small-image");
    fs::create_dir(&small).unwrap();
    run(&format!(
        "truncate -s 140M '{0}' && mkfs.btrfs -q -M '{0}' && mount -o loop '{0}' '{1}' && mkdir '{1}/to'",
        image.display(),
        small.display(),
    ));
    sh(
        &lab.from,
        &format!("head -c {} /dev/urandom >large", 90 << 20),
    );
    let tight = Lab {
        disk: lab.disk,
        from: lab.from,
        to: small.join("to"),
    };
    cut_after(&tight, 300);
    assert!(
        !tight.to.join(STAGING_NAME).exists(),
        "{:?}",
        staged(&tight)
    );
}

/// A target with an old version of `a` of two MiB, about to ask for the new one; and `b`.
fn asking(lab: &Lab) -> Line {
    sh(&lab.to, "rm -f *; head -c 2097152 /dev/urandom >a");
    applying(&lab.to, &[(b"a", file(2 << 20)), (b"b", file(10))])
}

/// A list of pieces, and the hash that ends it.
fn listed(pieces: &[(u64, usize)], hash: &[u8]) -> (Vec<u8>, [u8; 32]) {
    let mut writer = PieceWriter::default();
    for (offset, length) in pieces {
        writer.push(*offset, *length, hash);
    }
    let end = blake3::hash(&writer.list).into();
    (writer.list, end)
}

const SIZE: u64 = 2 << 20;

#[test]
fn a_source_that_lies_about_pieces_is_refused() {
    let Some(lab) = lab() else { return };
    let end = |id, hash| Message::End {
        id,
        size: SIZE,
        hash,
    };
    let pieces = |id, pieces| Message::Pieces { id, pieces };
    let data = |id, offset, bytes: &'static [u8]| Message::Data { id, offset, bytes };
    let part = |id, index| Message::Part { id, index };
    // In the first look: empty, too long, beyond the end, cut off, of another file, something else.
    let (empty, _) = listed(&[(5, 0)], &[1; 32]);
    let (long, _) = listed(&[(0, 1 << 20)], &[1; 32]);
    let (beyond, _) = listed(&[(SIZE - 5, 6)], &[1; 32]);
    let (fine, hash) = listed(&[(0, 100_000), (200_000, 100_000)], &[1; 32]);
    for list in [&empty[..], &long, &beyond, &fine[..fine.len() - 1]] {
        let line = asking(&lab);
        line.say(&[pieces(0, list)]);
        line.refused();
    }
    let (closer, closer_hash) = listed(&[(0, 4096), (4096, 4096)], &[2; 16]);
    let (outside, _) = listed(&[(150_000, 100)], &[2; 16]);
    let (across, _) = listed(&[(98_000, 4000)], &[2; 16]);
    let first = [pieces(0, &fine), end(0, hash)];
    let second = [pieces(1, &closer), end(1, closer_hash)];
    let refused: [&[Message<'_>]; 5] = [
        &[pieces(1, &fine)],
        &[data(0, 0, b"x")],
        &[part(0, 0)],
        &[end(1, hash)],
        &[first[0].clone(), Message::Credit(1)],
    ];
    for said in refused {
        let line = asking(&lab);
        line.say(said);
        line.refused();
    }
    // In the second: a piece between what was asked for, one that reaches out of it, content.
    for said in [pieces(1, &outside), pieces(1, &across), data(1, 0, b"x")] {
        let line = asking(&lab);
        line.say(&first);
        line.say(&[said]);
        line.refused();
    }
    // Parts: content of none, one that was not asked for, backwards, too much, one left out.
    let refused: [&[Message<'_>]; 6] = [
        &[data(2, 0, b"x")],
        &[part(2, 7)],
        &[part(2, 0), part(2, 0)],
        &[part(2, 0), data(2, 8190, b"xyz")],
        &[part(2, 0), data(2, 3, b"xyz"), data(2, 5, b"xyz")],
        &[end(2, [0; 32])],
    ];
    for said in refused {
        let line = asking(&lab);
        line.say(&first);
        line.say(&second);
        line.say(said);
        line.refused();
    }
    // More pieces than any file has: a byte each.
    let line = asking(&lab);
    let mut list = Vec::new();
    for _ in 0..1000 {
        list.extend([0, 1]);
        list.extend([3; 32]);
    }
    for _ in 0..1100 {
        line.say(&[pieces(0, &list)]);
    }
    assert!(line.refused().contains("more pieces"));
}

#[test]
fn a_large_file_that_does_not_arrive_as_announced_is_left_as_it_was() {
    let Some(lab) = lab() else { return };
    let hash = listed(&[], &[]).1;
    let end = |id, size, hash| Message::End { id, size, hash };
    let failed = |id| Message::Failed {
        id,
        error: "\x1b[2J".to_owned(),
    };
    let (list, list_hash) = listed(&[(0, 4096)], &[1; 32]);
    let wrong: [&[Message<'_>]; 4] = [
        // Another size, another hash.
        &[end(0, SIZE + 1, hash), failed(1)],
        &[end(0, SIZE, [7; 32]), failed(1)],
        // It cannot be surveyed and cannot be sent.
        &[failed(0), failed(1), failed(2)],
        // Its parts are not what was announced, and neither when they are sent again.
        &[
            Message::Pieces {
                id: 0,
                pieces: &list,
            },
            end(0, SIZE, list_hash),
            Message::Part { id: 1, index: 0 },
            end(1, SIZE, [7; 32]),
            failed(2),
        ],
    ];
    for said in wrong {
        let line = asking(&lab);
        let before = fs::read(lab.to.join("a")).unwrap();
        line.say(said);
        let (_, result) = line.end();
        let reply = result.unwrap();
        assert_eq!(reply.errors, 2, "{said:?}");
        assert!(fs::read(lab.to.join("a")).unwrap() == before);
    }
}

#[test]
fn a_source_that_lies_about_known_ranges_is_refused_or_changes_nothing() {
    let Some(lab) = lab() else { return };
    let asking = || {
        sh(&lab.to, "rm -f *; head -c 2097152 /dev/urandom >a");
        let alone = Alone::new();
        plan(&alone, &lab.to, &[(b"a", file(2 << 20))]);
        alone.service.change_plan(lab.to.to_str().unwrap(), |op| {
            op.ranges = Some([0..4096, 8192..16384].into_iter().collect());
        });
        alone.begin(MirrorRequest::Apply {
            root: lab.to.to_str().unwrap().to_owned(),
            others: Vec::new(),
        })
    };
    let part = |index| Message::Part { id: 0, index };
    let data = |offset, bytes: &'static [u8]| Message::Data {
        id: 0,
        offset,
        bytes,
    };
    let refused: [&[Message<'_>]; 6] = [
        &[data(0, b"x")],
        &[part(3)],
        &[part(1), part(0)],
        &[part(1), data(0, b"x")],
        &[part(0), data(4000, &[b'x'; 97])],
        &[Message::Pieces { id: 0, pieces: b"" }],
    ];
    for said in refused {
        let line = asking();
        line.say(said);
        line.refused();
    }
    // Nothing differs, says an end that does not know what we have; or something is not as announced.
    for said in [&[][..], &[part(0), data(0, b"x")]] {
        let line = asking();
        let before = fs::read(lab.to.join("a")).unwrap();
        line.say(said);
        line.say(&[Message::End {
            id: 0,
            size: SIZE,
            hash: [0; 32],
        }]);
        assert_eq!(line.end().1.unwrap().errors, 1);
        assert!(fs::read(lab.to.join("a")).unwrap() == before);
    }
}

#[test]
fn a_target_gets_pieces_and_parts_only_of_what_is_offered() {
    let Some(lab) = lab() else { return };
    sh(
        &lab.from,
        "mkdir d; head -c 300000 /dev/urandom >d/f; cp d/f secret; ln -s d/f link; mkfifo fifo",
    );
    let alone = Alone::new();
    let line = alone.begin(MirrorRequest::ScanSource(scan(&lab.from, "secret\n")));
    line.say(&[Message::Ack(u64::MAX), Message::Finished]);
    line.end().1.unwrap();
    let serve = || {
        alone.begin(MirrorRequest::Serve {
            root: lab.from.to_str().unwrap().to_owned(),
            others: Vec::new(),
        })
    };
    let survey = |id, path: &'static str, cut| Message::Survey {
        id,
        path: path.as_bytes(),
        survey: Survey {
            cut,
            brief: false,
            ranges: None,
        },
    };
    let parts = |id, path: &'static str, range| Message::Parts {
        id,
        path: path.as_bytes(),
        parts: vec![Part { range, known: None }],
    };
    let cut = Cut::Content(16);
    for question in [
        survey(0, "secret", cut),
        parts(0, "secret", 0..10),
        survey(0, "../outside", cut),
        parts(0, "d//f", 0..10),
        survey(0, "d/f", Cut::Content(8)),
        survey(0, "d/f", Cut::Grid(63)),
        survey(0, "d/f", Cut::Grid(23)),
    ] {
        let line = serve();
        line.say(&[question]);
        line.refused();
    }
    // What is no file, or not there: nothing of it, and the rest still comes.
    let line = serve();
    let odd = ["link", "fifo", "d", "nowhere", "d/f/f"];
    for (id, path) in (0..).zip(odd) {
        line.say(&[survey(id, path, cut), parts(100 + id, path, 0..10)]);
    }
    line.say(&[
        parts(50, "d/f", 299_999..300_001),
        parts(51, "d/f", i64::MAX as u64 - 1..i64::MAX as u64),
        parts(52, "d/f", 299_999..300_000),
        survey(53, "d/f", cut),
        Message::Finished,
    ]);
    let (frames, result) = line.end();
    let reply = result.unwrap();
    assert_eq!((reply.items, reply.bytes), (1, 1), "{reply:?}");
    let failed = frames
        .iter()
        .flat_map(|frame| Messages::new(&frame[1..]))
        .filter(|message| matches!(message, Ok(Message::Failed { .. })))
        .count();
    assert_eq!(failed, 2 * odd.len() + 2);
    // Questions that are too many, or too long.
    let line = serve();
    let many: Vec<Part> = (0..60_000)
        .map(|n| Part {
            range: n * 4..n * 4 + 1,
            known: Some([0; 16]),
        })
        .collect();
    for id in 0..40 {
        line.say(&[Message::Parts {
            id,
            path: b"d/f",
            parts: many.clone(),
        }]);
    }
    let (_, result) = line.end();
    let kind = result.unwrap_err().kind;
    assert!(
        matches!(kind, FaultKind::Invalid | FaultKind::Interrupted),
        "{kind:?}"
    );
}
