//! What the other agent sends: frames, messages of the mirror, lists of pieces, packed content, and
//! what may come before its first word.

use crossbeam_channel::unbounded;

use crate::agent::lanes::order::Order;
use crate::agent::protocol::{Answer, Call, FrameError, FrameSplitter, Kind, MAX_FRAME};
use crate::event::LogEvent;
use crate::host::opening::{Conversation, Opened, Opening};
use crate::interrupt::AbortFlag;
use crate::mirror::codec::{Malformed, Reader};
use crate::mirror::delta::list::{Hash, Piece, PieceReader, put_parts, read_parts};
use crate::mirror::delta::matching::{Found, Index, find_all, gaps};
use crate::mirror::entry::Entry;
use crate::mirror::frames::{Batch, PACKED, peer_payload};
use crate::mirror::packing::{TALK_MAX, Unpacker};
use crate::mirror::path::{is_valid_name, is_valid_path};
use crate::mirror::ranges::Ranges;
use crate::mirror::wire::{DATA_MAX, FOR_PEER, Message, Messages};

/// The stream of an agent. However it is cut, the same frames come of it; what control frames hold is
/// understood or refused.
pub(super) fn frames(bytes: &[u8]) -> bool {
    let whole = split(&[bytes]);
    let (step, bytes_cut) = bytes.split_first().map_or((1, bytes), |(b, _)| (*b, bytes));
    let pieces: Vec<&[u8]> = bytes_cut.chunks(usize::from(step).max(1)).collect();
    assert_eq!(whole, split(&pieces), "the way it is cut matters");
    let (frames, _) = whole;
    let mut again = Vec::new();
    let mut order = Order::default();
    for (kind, payload) in &frames {
        assert!(payload.len() < MAX_FRAME, "longer than allowed");
        crate::agent::protocol::encode_frame(*kind, payload, &mut again);
        match kind {
            Kind::Call => drop(serde_json::from_slice::<Call>(payload)),
            Kind::Answer => answer(payload),
            Kind::Log => drop(serde_json::from_slice::<LogEvent>(payload)),
            Kind::Numbered => drop(order.take(payload.clone())),
            Kind::Ping | Kind::Pong | Kind::Stream => {}
        }
    }
    assert!(bytes.starts_with(&again), "frames are not what was sent");
    !frames.is_empty()
}

type Split = (Vec<(Kind, Vec<u8>)>, Option<FrameError>);

fn split(pieces: &[&[u8]]) -> Split {
    let mut splitter = FrameSplitter::new();
    let mut frames = Vec::new();
    for piece in pieces {
        splitter.feed(piece);
        loop {
            match splitter.next_frame() {
                Ok(Some(frame)) => frames.push((frame.kind, frame.payload)),
                Ok(None) => break,
                Err(error) => return (frames, Some(error)),
            }
        }
    }
    (frames, None)
}

/// What is understood of an answer, is said again in the same words.
fn answer(payload: &[u8]) {
    let Ok(answer) = serde_json::from_slice::<Answer>(payload) else {
        return;
    };
    let text = serde_json::to_vec(&answer).expect("answers are plain data");
    let again: Answer = serde_json::from_slice(&text).expect("what we write, we read");
    let same = serde_json::to_vec(&again).expect("answers are plain data");
    assert_eq!(text, same);
}

/// The messages of a stream frame: what is understood is within its bounds, and encoding it again
/// gives the same message.
pub(super) fn messages(bytes: &[u8]) -> bool {
    for message in Messages::new(bytes) {
        let Ok(message) = message else { return false };
        check_message(&message);
        let again = encoded(&message);
        let decoded: Result<Vec<_>, Malformed> = Messages::new(&again[1..]).collect();
        // Text that is not UTF-8 is replaced, and may be cut then.
        if !matches!(message, Message::Failed { .. }) {
            assert_eq!(decoded, Ok(vec![message]), "encoded as {again:?}");
        }
    }
    !bytes.is_empty()
}

fn encoded(message: &Message<'_>) -> Vec<u8> {
    let (sender, receiver) = unbounded();
    let abort = AbortFlag::new();
    let mut batch = Batch::new(FOR_PEER, &sender, &abort);
    batch.push(message).expect("nobody has stopped it");
    batch.flush().expect("nobody has stopped it");
    receiver.try_recv().expect("it was sent")
}

fn check_message(message: &Message<'_>) {
    match message {
        Message::Fetch { path, .. }
        | Message::WantHash { path, .. }
        | Message::WantSince { path, .. }
        | Message::Survey { path, .. }
        | Message::Parts { path, .. } => assert!(is_valid_path(path)),
        Message::Suspect(suspect) => {
            assert!(is_valid_path(&suspect.path));
            assert!(suspect.from.as_ref().is_none_or(|from| is_valid_path(from)));
        }
        Message::Chunk(chunk) => {
            assert!(chunk.upper.as_ref().is_none_or(|name| is_valid_name(name)));
        }
        Message::Listing { entries, .. } => {
            let mut reader = Reader::new(entries);
            while !reader.is_empty() {
                let Ok(entry) = Entry::decode(&mut reader) else {
                    return;
                };
                assert!(is_valid_name(&entry.name));
                assert!(entry.meta.mode <= 0o7777 && entry.meta.uid != u32::MAX);
                let mut out = Vec::new();
                entry.encode(&mut out, false);
                assert_eq!(Entry::decode(&mut Reader::new(&out)), Ok(entry));
            }
        }
        Message::Data { offset, bytes, .. } => {
            assert!(bytes.len() <= DATA_MAX);
            assert!(i64::try_from(offset + bytes.len() as u64).is_ok());
        }
        Message::Packed {
            offset,
            length,
            bytes,
            ..
        } => {
            assert!(*length <= DATA_MAX && bytes.len() < *length);
            assert!(i64::try_from(offset + *length as u64).is_ok());
        }
        _ => {}
    }
}

/// Lists of a large file: parts that are wanted, and pieces, of which the first half are one machine's
/// and the others the other's.
pub(super) fn delta(bytes: &[u8]) -> bool {
    if let Ok(parts) = read_parts(bytes) {
        assert!(parts.windows(2).all(|w| w[0].range.end <= w[1].range.start));
        let mut out = Vec::new();
        put_parts(&mut out, &parts);
        assert_eq!(read_parts(&out), Ok(parts));
    }
    if let Ok(ranges) = Ranges::decode(&mut Reader::new(bytes), 64) {
        let blocks = ranges.in_blocks(4096, u64::MAX);
        assert!(blocks.total() >= ranges.total());
        let (few, total) = (ranges.clone().at_most(3), ranges.total());
        assert!(few.len() <= 3 && few.total() >= total);
    }
    let mut reader = Reader::new(bytes);
    let (Ok(size), Ok(basis)) = (reader.u64(), reader.u64()) else {
        return false;
    };
    let mut pieces = PieceReader::new(size, 1 << 20);
    let mut list: Vec<Piece<Hash>> = Vec::new();
    while let Ok(piece) = pieces.next::<1>(&mut reader) {
        let [byte] = piece.hash;
        assert!(piece.length > 0 && piece.range().end <= size);
        list.push(Piece {
            offset: piece.offset,
            length: piece.length,
            hash: [byte; 32],
        });
    }
    let (ours, theirs) = list.split_at(list.len() / 2);
    let mut index = Index::default();
    for piece in ours {
        index.push(*piece);
    }
    let found = find_all(&index, theirs);
    for (piece, found) in theirs.iter().zip(&found) {
        let place = match found {
            Found::Here => piece.offset,
            Found::At(place) => *place,
            Found::Nowhere => continue,
        };
        let alike = |own: &&Piece<Hash>| {
            (own.offset, own.length, own.hash) == (place, piece.length, piece.hash)
        };
        assert_eq!(
            ours.iter().filter(alike).count(),
            1,
            "found where it is not"
        );
    }
    let gaps = gaps(theirs, &found, basis, 1 << 20);
    let total: u64 = gaps.iter().map(|gap| gap.range.end - gap.range.start).sum();
    let missing = theirs.iter().zip(&found);
    let missing: u64 = missing
        .filter(|(_, found)| **found == Found::Nowhere)
        .map(|(piece, _)| u64::from(piece.length))
        .sum();
    assert_eq!(
        total, missing,
        "what is nowhere is asked for, and nothing else"
    );
    found.iter().any(|found| *found != Found::Nowhere)
}

/// Packed content: of exactly the announced length, or refused. The same for a packed frame, which says its own.
pub(super) fn packing(bytes: &[u8]) -> bool {
    let frame = [&[FOR_PEER, PACKED], bytes].concat();
    let said = peer_payload(&frame);
    if let Ok(payload) = &said {
        assert!(payload.len() <= TALK_MAX);
        messages(payload);
    }
    let Some((announced, packed)) = bytes.split_first_chunk::<4>() else {
        return said.is_ok();
    };
    let announced = u32::from_le_bytes(*announced) as usize;
    let mut unpacker = Unpacker::default();
    // What was unpacked before must not show through.
    let first = unpacker.unpack(packed, announced).map(<[u8]>::to_vec);
    if let Ok(content) = &first {
        assert_eq!(content.len(), announced);
        assert!(announced <= DATA_MAX);
    }
    let _ = unpacker.unpack(b"\x28\xb5\x2f\xfd\x20\x05\x29\0\0hello", 5);
    let again = unpacker.unpack(packed, announced).map(<[u8]>::to_vec);
    assert_eq!(again, first);
    first.is_ok() || said.is_ok()
}

/// What a program says before an agent's first word, wherever it is cut.
pub(super) fn opening(bytes: &[u8]) -> bool {
    let opening = || Opening {
        at_once: vec![b"secret\n"],
        ready: "pc-switcher-ready",
        when_ready: vec![b"binary"],
        banner: "pc-switcher-agent ",
        refusal: "pc-switcher-refused ",
        password_prompt: Some("[password]"),
    };
    let talk = |step: usize| {
        let mut talk = Conversation::new(opening());
        let mut pieces = bytes.chunks(step);
        let opened = pieces.by_ref().find_map(|piece| talk.stdout(piece));
        opened.map(|opened| match opened {
            Opened::Banner { line, rest } => {
                let rest = [&rest[..], &pieces.collect::<Vec<_>>().concat()].concat();
                Opened::Banner { line, rest }
            }
            other => other,
        })
    };
    let whole = talk(bytes.len().max(1));
    if let Some(Opened::Banner { line, rest }) = &whole {
        assert!(line.starts_with("pc-switcher-agent ") && !line.contains('\n'));
        assert!(bytes.ends_with(rest));
    }
    // How much noise is too much is counted in whole pieces.
    if bytes.len() < 60_000 {
        assert_eq!(whole, talk(7));
        assert_eq!(whole, talk(1));
    }
    let mut stderr = Conversation::new(opening());
    for piece in bytes.chunks(11) {
        if stderr.stderr(piece).is_some() {
            break;
        }
    }
    matches!(whole, Some(Opened::Banner { .. }))
}
