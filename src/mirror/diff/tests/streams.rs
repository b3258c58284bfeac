//! Streams that are cut, changed, made up or wrong: never a panic, never much memory, never a list
//! that leaves something out.

use std::io::Read;

use proptest::prelude::*;

use super::super::names::{Names, ROOT};
use super::super::stream::{Command, Stream};
use super::*;
use crate::mirror::tests_random::{Random, grow, mutate};
use crate::sys::search::crc32c;
use crate::sys::send::send_changes;

/// A command with its attributes.
fn command(number: u16, attributes: &[(u16, &[u8])]) -> Vec<u8> {
    let mut body = Vec::new();
    for (kind, value) in attributes {
        body.extend_from_slice(&kind.to_le_bytes());
        body.extend_from_slice(&u16::try_from(value.len()).unwrap().to_le_bytes());
        body.extend_from_slice(value);
    }
    framed(number, &body)
}

fn framed(number: u16, body: &[u8]) -> Vec<u8> {
    let mut bytes = u32::try_from(body.len()).unwrap().to_le_bytes().to_vec();
    bytes.extend_from_slice(&number.to_le_bytes());
    bytes.extend_from_slice(&[0; 4]);
    let checksum = crc32c(crc32c(0, &bytes), body);
    bytes[6..].copy_from_slice(&checksum.to_le_bytes());
    bytes.extend_from_slice(body);
    bytes
}

fn headed(version: u32, commands: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = b"btrfs-stream\0".to_vec();
    bytes.extend_from_slice(&version.to_le_bytes());
    bytes.extend(commands.concat());
    bytes
}

/// All commands in words, or what is wrong.
fn read(bytes: &[u8]) -> Result<Vec<String>, DiffError> {
    let Some(mut stream) = Stream::open(bytes)? else {
        return Ok(Vec::new());
    };
    let mut commands = Vec::new();
    while let Some(command) = stream.next()? {
        commands.push(format!("{command:?}"));
    }
    Ok(commands)
}

fn error(bytes: &[u8]) -> String {
    read(bytes).unwrap_err().to_string()
}

const END: u16 = 21;

#[test]
fn data_of_the_second_format_has_no_length_and_reaches_to_the_end() {
    let mut body = Vec::new();
    for (kind, value) in [(15u16, &b"f"[..]), (18, &7u64.to_le_bytes())] {
        body.extend_from_slice(&kind.to_le_bytes());
        body.extend_from_slice(&u16::try_from(value.len()).unwrap().to_le_bytes());
        body.extend_from_slice(value);
    }
    body.extend_from_slice(&19u16.to_le_bytes());
    body.extend_from_slice(&vec![b'x'; 70_000]);
    let bytes = headed(2, &[framed(15, &body), command(END, &[])]);
    let commands = read(&bytes).unwrap();
    assert_eq!(
        commands[0],
        format!(
            "{:?}",
            Command::Data {
                path: b"f",
                offset: 7,
                length: 70_000
            }
        )
    );
    assert!(error(&headed(1, &[framed(15, &body)])).contains("cut off"));
}

#[test]
fn a_command_of_a_later_kernel_makes_its_path_a_suspect() {
    let known = headed(
        2,
        &[command(26, &[(15, b"f"), (32, b"\x01")]), command(END, &[])],
    );
    let expected = format!("{:?}", Command::Unknown { path: b"f" });
    assert_eq!(read(&known).unwrap()[0], expected);
    for attributes in [&[][..], &[(99, &b"x"[..])], &[(15, b"f"), (16, b"g")]] {
        let bytes = headed(2, &[command(77, attributes)]);
        let error = read(&bytes).unwrap_err();
        assert!(matches!(error, DiffError::UnknownCommand(77)), "{error}");
    }
}

#[test]
fn what_is_not_a_stream_is_refused() {
    let end = command(END, &[]);
    assert!(read(b"").unwrap().is_empty());
    assert!(error(b"btrfs-streak\0\x01\0\0\0").contains("does not begin"));
    assert!(error(&headed(3, &[])).contains("version"));
    assert!(error(&headed(0, &[])).contains("version"));
    assert!(error(&headed(2, &[])).contains("ends in the middle"));
    assert!(error(&headed(2, &[end.clone(), vec![0]])).contains("follows its end"));
    let mut wrong = end.clone();
    wrong[6] ^= 1;
    assert!(error(&headed(2, &[wrong])).contains("checksum"));
    // Refused by its length alone: nothing of that length is there.
    let mut long = end;
    long[..4].copy_from_slice(&u32::MAX.to_le_bytes());
    assert!(error(&headed(2, &[long])).contains("too long"));
}

#[test]
fn attributes_that_cannot_be_are_refused() {
    let utimes = |attributes: &[(u16, &[u8])]| error(&headed(1, &[command(20, attributes)]));
    assert!(utimes(&[]).contains("lacks"));
    assert!(utimes(&[(15, b"a"), (15, b"b")]).contains("twice"));
    for path in [
        &b"/a"[..],
        b"a/",
        b"a//b",
        b"..",
        b"a/../b",
        b".",
        b"a\0",
        &[b'x'; 256],
    ] {
        assert!(
            utimes(&[(15, path)]).contains("a path is not one"),
            "{path:?}"
        );
    }
    let deep = [b"ab/".repeat(1400).as_slice(), b"x"].concat();
    assert!(utimes(&[(15, &deep)]).contains("a path is not one"));
    // Only times and attributes are ever said of the root.
    let unlink = command(11, &[(15, b"")]);
    assert!(error(&headed(1, &[unlink])).contains("lacks"));
    let short = command(17, &[(15, b"f"), (4, &[1, 2, 3])]);
    assert!(error(&headed(1, &[short])).contains("a number is not one"));
}

/// A stream of the kernel's own, its two snapshots, and the lab that holds them.
fn recorded(seed: u64) -> Option<(Vec<u8>, PathBuf, PathBuf)> {
    let lab = Lab::new()?;
    let mut rng = Random::new(seed);
    grow(&lab.live, &mut rng, 40);
    let older = lab.snapshot("older");
    mutate(&lab.live, &mut rng, 25);
    let newer = lab.snapshot("newer");
    let id = subvolume_info(File::open(&older).unwrap()).unwrap().id;
    let from = File::open(&newer).unwrap();
    let (reader, writer) = rustix::pipe::pipe().unwrap();
    let thread = std::thread::spawn(move || {
        send_changes(from.as_fd(), id, 2, writer.as_fd()).unwrap();
    });
    let mut bytes = Vec::new();
    File::from(reader).read_to_end(&mut bytes).unwrap();
    thread.join().unwrap();
    Some((bytes, older, newer))
}

/// Where each command of a stream begins and ends.
fn cuts(bytes: &[u8]) -> Vec<std::ops::Range<usize>> {
    let mut cuts = Vec::new();
    let mut at = 17;
    while at < bytes.len() {
        let length = u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
        let end = at + 10 + usize::try_from(length).unwrap();
        cuts.push(at..end);
        at = end;
    }
    cuts
}

/// What comes of a stream that is said to be about these snapshots.
fn believed(bytes: &[u8], older: &Path, newer: &Path) -> Result<Changes, DiffError> {
    let (older, newer) = (File::open(older).unwrap(), File::open(newer).unwrap());
    let (older, newer) = (older.as_fd(), newer.as_fd());
    let (was, is) = (Fingerprint::of(older)?, Fingerprint::of(newer)?);
    let mut names = Names::new(100_000);
    let stream = Stream::open(bytes)?.ok_or(DiffError::Malformed("empty"))?;
    let (version, commands) = follow(stream, &mut names, (&was, &is))?;
    let list = judge::judge(&names, (older, newer), &was, 100_000, &AbortFlag::new())?;
    Ok(Changes {
        list,
        version,
        commands,
    })
}

#[test]
fn every_truncation_of_a_stream_is_noticed() {
    let Some((bytes, older, newer)) = recorded(1) else {
        return;
    };
    assert!(believed(&bytes, &older, &newer).is_ok());
    for end in 0..bytes.len() {
        // Most cuts are the same to the parser: all near the ends of commands, some of the others.
        let is_near = cuts(&bytes[..bytes.len()])
            .iter()
            .any(|cut| cut.end.abs_diff(end) < 3);
        if is_near || end % 97 == 0 {
            assert!(believed(&bytes[..end], &older, &newer).is_err(), "{end}");
        }
    }
}

#[test]
fn a_stream_about_other_snapshots_is_noticed() {
    let (Some((bytes, ..)), Some((_, older, newer))) = (recorded(1), recorded(1)) else {
        return;
    };
    let error = believed(&bytes, &older, &newer).unwrap_err();
    assert!(matches!(error, DiffError::Disagreement(_)), "{error}");
}

#[test]
fn a_stream_that_leaves_out_a_change_of_names_is_found_out() {
    let first = crate::mirror::tests_property::number("PCS_SEED", 1);
    let seeds = crate::mirror::tests_property::number("PCS_SEEDS", 6);
    let mut found_out = 0;
    for seed in first..first + seeds {
        let Some((bytes, older, newer)) = recorded(seed) else {
            return;
        };
        for cut in cuts(&bytes) {
            let number = u16::from_le_bytes([bytes[cut.start + 4], bytes[cut.start + 5]]);
            // From making a file to removing a directory.
            if !(3..=12).contains(&number) {
                continue;
            }
            let left = [&bytes[..cut.start], &bytes[cut.end..]].concat();
            match believed(&left, &older, &newer) {
                Err(DiffError::Disagreement(_)) => found_out += 1,
                Err(error) => panic!("seed {seed}, command {number}: {error}"),
                // Nothing is missing all the same: it was one of several that say it.
                Ok(changes) => judge_against_walk(&older, &newer, &changes, "left out"),
            }
        }
    }
    assert!(found_out > 100, "{found_out}");
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn bytes_are_read_or_refused(
        version in 1u32..3,
        commands in prop::collection::vec(
            (0u16..30, prop::collection::vec(any::<u8>(), 0..60), any::<bool>()),
            0..12,
        ),
    ) {
        let commands: Vec<_> = commands
            .into_iter()
            .map(|(number, body, is_sound)| {
                let mut bytes = framed(number, &body);
                bytes[7] ^= u8::from(!is_sound);
                bytes
            })
            .collect();
        let _ = read(&headed(version, &commands));
        let _ = read(&commands.concat());
    }

    #[test]
    fn any_commands_about_names_end_well(
        commands in prop::collection::vec((0u8..9, 0usize..60, 0usize..60), 0..120),
    ) {
        // Paths of up to three names, of few different names.
        let path = |number: usize| {
            let names = [&b"a"[..], b"b", b"c", b"d"];
            let mut path = names[number % 4].to_vec();
            for more in [number / 4 % 5, number / 20 % 3] {
                if more > 0 {
                    path.push(b'/');
                    path.extend_from_slice(names[more - 1]);
                }
            }
            path
        };
        let mut names = Names::new(50);
        for (kind, one, other) in commands {
            let (one, other) = (path(one), path(other));
            let command = match kind {
                0 | 1 => Command::Make {
                    path: &one,
                    ino: 300,
                    is_dir: kind == 0,
                },
                2 | 3 => Command::Rename {
                    from: &one,
                    to: &other,
                },
                4 => Command::Link {
                    existing: &one,
                    path: &other,
                },
                5 | 6 => Command::Remove {
                    path: &one,
                    is_dir: kind == 5,
                },
                7 => Command::Attributes { path: &one },
                _ => Command::Data {
                    path: &one,
                    offset: 5,
                    length: u64::MAX,
                },
            };
            // The first error is the last thing that is done with a stream.
            if names.apply(command).is_err() {
                break;
            }
        }
        // From every thing that still has a name the way up ends at the root.
        let count = names.nodes().count();
        prop_assert!(count < 10_000);
        for (id, _) in names.nodes() {
            let mut at = id;
            let mut steps = 0;
            while at != ROOT && !names.is_gone(at) {
                at = names.places(at)[0].0;
                steps += 1;
                prop_assert!(steps <= count);
            }
        }
    }
}

#[test]
fn changed_bytes_of_a_real_stream_are_read_or_refused() {
    let Some((bytes, older, newer)) = recorded(3) else {
        return;
    };
    let cuts = cuts(&bytes);
    let mut rng = Random::new(7);
    for _ in 0..3000 {
        let mut changed = bytes.clone();
        for _ in 0..=rng.below(3) {
            let cut = rng.pick(&cuts).clone();
            if cut.len() == 10 {
                continue;
            }
            // In the body, with a sound checksum: the kernel itself gone mad.
            let at = cut.start + 10 + rng.below(cut.len() - 10);
            changed[at] = u8::try_from(rng.below(256)).unwrap();
            let number = u16::from_le_bytes([changed[cut.start + 4], changed[cut.start + 5]]);
            let sound = framed(number, &changed[cut.start + 10..cut.end]);
            changed[cut].copy_from_slice(&sound);
        }
        let _ = believed(&changed, &older, &newer);
    }
}
