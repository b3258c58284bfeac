//! The other agent may say anything: no write outside the folder, nothing excluded, no panic, and no
//! memory without bound.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded, unbounded};

use super::codec::put_bytes;
use super::entry::{Entry, Kind, Meta, Time};
use super::frames::Batch;
use super::packing::FIRST_WINDOW;
use super::scan::ChunkEncoder;
use super::service::MirrorService;
use super::testing::Pair;
use super::tests::{lab, sh};
use super::tests_property::number;
use super::tests_random::{Random, grow, manifest};
use super::wire::{
    Chunk, DATA_MAX, FOR_CLI, FOR_PEER, Message, Messages, MirrorReply, MirrorRequest, ScanTree,
};
use crate::agent::fault::{Fault, FaultKind};
use crate::agent::service::{Service, ServiceContext};
use crate::event::EventSink;
use crate::interrupt::AbortFlag;

/// One of our services with ourselves as the other agent.
pub(super) struct Alone {
    pub service: Arc<MirrorService>,
}

/// The line to a service that is at work.
pub(super) struct Line {
    abort: AbortFlag,
    to: Sender<Vec<u8>>,
    from: Receiver<Vec<u8>>,
    worker: thread::JoinHandle<Result<MirrorReply, Fault>>,
}

impl Alone {
    pub(super) fn new() -> Self {
        Self {
            service: Arc::new(MirrorService::default()),
        }
    }

    pub(super) fn begin(&self, request: MirrorRequest) -> Line {
        let (outgoing, from) = bounded(8);
        let (to, incoming) = unbounded();
        let abort = AbortFlag::new();
        let context = ServiceContext {
            incoming,
            outgoing,
            events: EventSink::none(),
            abort: abort.clone(),
            session: "00000000".to_owned(),
        };
        let service = Arc::clone(&self.service);
        let worker = thread::spawn(move || {
            let body = serde_json::to_value(request).unwrap();
            service
                .call(&context, body)
                .map(|v| serde_json::from_value(v).unwrap())
        });
        Line {
            abort,
            to,
            from,
            worker,
        }
    }
}

impl Line {
    pub(super) fn say(&self, messages: &[Message<'_>]) {
        let abort = AbortFlag::new();
        let (tx, rx) = unbounded();
        let mut batch = Batch::new(FOR_PEER, &tx, &abort);
        for message in messages {
            batch.push(message).unwrap();
        }
        batch.flush().unwrap();
        for frame in rx.try_iter() {
            let _ = self.to.send(frame);
        }
    }

    /// Everything the service still says, and what came of it.
    pub(super) fn end(self) -> (Vec<Vec<u8>>, Result<MirrorReply, Fault>) {
        let frames = Arc::new(Mutex::new(Vec::new()));
        let (sink, from) = (Arc::clone(&frames), self.from);
        let reader = thread::spawn(move || {
            from.iter()
                .for_each(|frame| sink.lock().unwrap().push(frame));
        });
        let watch = self.abort.clone();
        let (done, finished) = bounded::<()>(0);
        let dog = thread::spawn(move || {
            if finished
                .recv_timeout(Duration::from_secs(5))
                .is_err_and(|e| e.is_timeout())
            {
                watch.raise();
            }
        });
        let result = self.worker.join().expect("the service does not panic");
        drop(done);
        dog.join().unwrap();
        reader.join().unwrap();
        let frames = std::mem::take(&mut *frames.lock().unwrap());
        (frames, result)
    }

    /// It must see through this.
    #[track_caller]
    pub(super) fn refused(self) -> String {
        let (_, result) = self.end();
        let fault = result.expect_err("it believed this");
        assert_eq!(fault.kind, FaultKind::Invalid, "{fault:?}");
        fault.message
    }
}

pub(super) fn scan(root: &Path, rules: &str) -> ScanTree {
    ScanTree {
        restricted: None,
        anchor: None,
        root: root.to_str().unwrap().to_owned(),
        without_mounts: false,
        rules: rules.to_owned(),
        origin: "f".to_owned(),
        content: false,
        trust: None,
    }
}

fn meta(kind: Kind) -> Meta {
    let mtime = Time { secs: 1, nanos: 0 };
    let symlink = if kind == Kind::Symlink {
        b"x".to_vec()
    } else {
        Vec::new()
    };
    Meta {
        kind,
        mode: 0o644,
        mtime,
        symlink,
        ..Meta::opaque()
    }
}

pub(super) fn file(size: u64) -> Meta {
    Meta {
        size,
        ..meta(Kind::File)
    }
}

fn listing(entries: &[(&[u8], Meta)]) -> Vec<u8> {
    let mut encoder = ChunkEncoder::default();
    for (name, meta) in entries {
        encoder.add(
            &Entry {
                name: name.to_vec(),
                meta: meta.clone(),
            },
            true,
        );
    }
    encoder.take().1
}

fn root() -> Message<'static> {
    Message::Root(Box::new(Meta {
        mode: 0o755,
        ..meta(Kind::Dir)
    }))
}

fn chunk<'a>(seq: u64, path: Option<&[u8]>, upper: Option<&[u8]>) -> Message<'a> {
    Message::Chunk(Chunk {
        seq,
        begins: path.map(|path| (path.to_vec(), None)),
        upper: upper.map(<[u8]>::to_vec),
        complete: true,
        suspect: false,
        digest: [9; 16],
    })
}

/// Scans `to` as a target and hears these messages as the source's.
fn hear(to: &Path, rules: &str, messages: &[Message<'_>]) -> Line {
    let line = Alone::new().begin(MirrorRequest::ScanTarget(scan(to, rules)));
    line.say(messages);
    line
}

/// One directory's listing, as the source's.
fn hear_listing(to: &Path, rules: &str, entries: &[(&[u8], Meta)]) -> Line {
    let entries = listing(entries);
    let said = [
        root(),
        chunk(0, Some(b""), None),
        Message::Listing {
            seq: 0,
            entries: &entries,
        },
        Message::ScanEnd,
    ];
    hear(to, rules, &said)
}

#[test]
fn a_source_that_lies_about_its_tree_is_refused() {
    let Some(lab) = lab() else { return };
    sh(
        &lab.to,
        "mkdir -p .ssh d/e; echo key >.ssh/authorized_keys; echo x >d/e/x; echo s >s",
    );
    let before = manifest(&lab.to);
    let to = &lab.to;
    let rules = "authorized_keys\n";
    let secret = Meta {
        leader: Some(b".ssh/authorized_keys".to_vec()),
        ..file(4)
    };
    let link = |leader: &[u8]| Meta {
        leader: Some(leader.to_vec()),
        ..file(4)
    };

    hear_listing(to, rules, &[(b"authorized_keys", file(4))]).refused();
    hear_listing(to, rules, &[(b"z", secret)]).refused();
    for leader in [&b"../s"[..], b"/etc/shadow", b"d/../s", b"d//e", b"x\0"] {
        hear_listing(to, "", &[(b"z", link(leader))]).refused();
    }
    for name in [&b".."[..], b".", b"a/b", b"", b"a\0b", &[b'n'; 256]] {
        hear_listing(to, "", &[(name, file(1))]).refused();
    }
    // The staging directory is never in scope.
    hear_listing(to, "", &[(b".pc-switcher-staging", meta(Kind::Dir))]).refused();
    // Out of order, twice.
    hear_listing(to, "", &[(b"b", file(1)), (b"a", file(1))]).refused();
    hear_listing(to, "", &[(b"a", file(1)), (b"a", file(1))]).refused();
    // Outside of the announced run, before it and after it.
    let (early, late) = (listing(&[(b"a", file(1))]), listing(&[(b"z", file(1))]));
    let (first, second) = (chunk(0, Some(b""), Some(b"m")), chunk(1, None, None));
    for (seq, entries) in [(1, &early), (0, &late)] {
        let said = [
            root(),
            first.clone(),
            second.clone(),
            Message::Listing { seq, entries },
        ];
        hear(to, "", &said).refused();
    }
    // Not asked for, and twice.
    hear(
        to,
        "",
        &[
            root(),
            Message::Listing {
                seq: 0,
                entries: &early,
            },
        ],
    )
    .refused();
    let twice = Message::Listing {
        seq: 0,
        entries: &early,
    };
    hear(
        to,
        "",
        &[root(), chunk(0, Some(b""), None), twice.clone(), twice],
    )
    .refused();
    // Chunks: without a folder, out of turn, of what was listed, of a directory without its parent,
    // twice, backwards, excluded, before its parent was listed.
    let top = chunk(0, Some(b""), None);
    let refused: [&[Message<'_>]; 12] = [
        std::slice::from_ref(&top),
        &[root(), root()],
        &[root(), chunk(1, Some(b""), None)],
        &[root(), top.clone(), chunk(0, Some(b"d"), None)],
        &[root(), top.clone(), chunk(1, None, None)],
        &[root(), chunk(0, None, None)],
        &[root(), top.clone(), chunk(1, Some(b"d/e"), None)],
        &[root(), top.clone(), chunk(1, Some(b""), None)],
        &[
            root(),
            top.clone(),
            chunk(1, Some(b"d"), None),
            chunk(2, Some(b"d"), None),
        ],
        &[
            root(),
            top.clone(),
            chunk(1, Some(b"d"), None),
            chunk(2, Some(b"a"), None),
        ],
        &[
            root(),
            chunk(0, Some(b""), Some(b"m")),
            chunk(1, Some(b"d"), None),
        ],
        &[
            root(),
            chunk(0, Some(b""), Some(b"m")),
            chunk(1, None, Some(b"m")),
        ],
    ];
    for said in refused {
        hear(to, "", said).refused();
    }
    hear(
        to,
        "d/\n",
        &[root(), top.clone(), chunk(1, Some(b"d"), None)],
    )
    .refused();
    hear(to, "", &[Message::Root(Box::new(file(1)))]).refused();
    hear(to, "", &[Message::Finished]).refused();
    hear(to, "", &[root(), Message::Fetch { id: 0, path: b"s" }]).refused();
    assert_eq!(before, manifest(to));
}

#[test]
fn a_source_that_never_ends_is_cut_off_in_bounded_memory() {
    let Some(lab) = lab() else { return };
    // Chunks without an end.
    let line = hear(&lab.to, "", &[root(), chunk(0, Some(b""), Some(b"0"))]);
    let names: Vec<String> = (0..3000).map(|n| format!("{n:09}")).collect();
    for (n, name) in names.iter().enumerate() {
        line.say(&[chunk(n as u64 + 1, None, Some(name.as_bytes()))]);
    }
    assert!(line.refused().contains("out of turn"));
    // Directories without a bottom.
    let line = hear(&lab.to, "", &[root()]);
    let mut path = Vec::new();
    let mut said = vec![
        chunk(0, Some(b""), None),
        Message::Listing {
            seq: 0,
            entries: &[],
        },
    ];
    for n in 1..1200 {
        if n > 1 {
            path.push(b'/');
        }
        path.push(b'd');
        said.push(chunk(n, Some(&path), None));
        said.push(Message::Listing {
            seq: n,
            entries: &[],
        });
    }
    for message in &said {
        line.say(std::slice::from_ref(message));
    }
    assert!(line.refused().contains("too deep"));
    // Rules without an end.
    let line = hear(
        &lab.to,
        "",
        &[
            root(),
            chunk(0, Some(b""), None),
            Message::Listing {
                seq: 0,
                entries: &[],
            },
        ],
    );
    for n in 1..21_000 {
        let path = format!("{n:09}").into_bytes();
        let begins = Some((path, Some(b"x\n".to_vec())));
        let chunk = Chunk {
            seq: n,
            begins,
            upper: None,
            complete: true,
            suspect: false,
            digest: [0; 16],
        };
        line.say(&[
            Message::Chunk(chunk),
            Message::Listing {
                seq: n,
                entries: &[],
            },
        ]);
    }
    assert!(line.refused().contains("too many"));
}

/// A target that has planned `entries` and carries the plan out with us as the source.
pub(super) fn applying(to: &Path, entries: &[(&[u8], Meta)]) -> Line {
    let alone = Alone::new();
    plan(&alone, to, entries);
    alone.begin(MirrorRequest::Apply {
        root: to.to_str().unwrap().to_owned(),
        others: Vec::new(),
    })
}

/// Has a target plan `entries`.
pub(super) fn plan(alone: &Alone, to: &Path, entries: &[(&[u8], Meta)]) {
    let encoded = listing(entries);
    let line = alone.begin(MirrorRequest::ScanTarget(scan(to, "")));
    line.say(&[
        root(),
        chunk(0, Some(b""), None),
        Message::Listing {
            seq: 0,
            entries: &encoded,
        },
        Message::ScanEnd,
    ]);
    line.end().1.unwrap();
}

#[test]
fn a_source_that_sends_something_else_changes_nothing() {
    let Some(lab) = lab() else { return };
    let data = |id, offset, bytes: &'static [u8]| Message::Data { id, offset, bytes };
    let end = |id, size| Message::End {
        id,
        size,
        hash: [0; 32],
    };
    let files: [(&[u8], Meta); 2] = [(b"a", file(10)), (b"b", file(10))];
    let refused: [&[Message<'_>]; 10] = [
        &[data(1, 0, b"x")],
        &[data(0, 5, b"123456")],
        &[data(0, 11, b"1")],
        &[data(0, i64::MAX as u64, b"")],
        &[data(0, 0, b"")],
        &[data(0, 0, b"12"), data(0, 1, b"12")],
        &[end(1, 10)],
        &[Message::Failed {
            id: 7,
            error: String::new(),
        }],
        &[root()],
        &[Message::Credit(u64::MAX)],
    ];
    for said in refused {
        let line = applying(&lab.to, &files);
        line.say(said);
        line.refused();
        assert_eq!(fs::read_dir(&lab.to).unwrap().count(), 0);
    }
    // A wrong hash, a wrong size: that file is left out, the other is tried.
    for size in [10, 9] {
        let line = applying(&lab.to, &files);
        line.say(&[data(0, 0, b"0123456789"), end(0, size)]);
        line.say(&[Message::Failed {
            id: 1,
            error: "\x1b[2J".to_owned(),
        }]);
        let reply = line.end().1.unwrap();
        assert_eq!(reply.errors, 2);
        assert_eq!(fs::read_dir(&lab.to).unwrap().count(), 0);
    }
}

#[test]
fn attributes_nobody_can_set_spoil_only_their_entry() {
    let Some(lab) = lab() else { return };
    let bad = |key: &[u8], value: &[u8]| vec![(key.to_vec(), value.to_vec())];
    let entries: Vec<(&[u8], Meta)> = vec![
        (
            b"a",
            Meta {
                xattrs: bad(b"nonsense", b""),
                ..meta(Kind::Dir)
            },
        ),
        (
            b"b",
            Meta {
                xattrs: bad(b"system.posix_acl_access", b"junk"),
                ..meta(Kind::Symlink)
            },
        ),
        (
            b"c",
            Meta {
                flags: 0x80_0004,
                ..file(0)
            },
        ),
        (
            b"d",
            Meta {
                size: i64::MAX as u64,
                ..file(0)
            },
        ),
        (
            b"e",
            Meta {
                symlink: vec![b'x'; 4095],
                ..meta(Kind::Symlink)
            },
        ),
        (
            b"f",
            Meta {
                leader: Some(b"nowhere".to_vec()),
                ..file(0)
            },
        ),
        (
            b"g",
            Meta {
                leader: Some(b"a".to_vec()),
                ..file(0)
            },
        ),
        (b"h", meta(Kind::Fifo)),
    ];
    let line = applying(&lab.to, &entries);
    for (id, size) in [(0, 0), (1, i64::MAX as u64)] {
        let hash = super::wire::ContentHash::new().finish(size);
        line.say(&[Message::End { id, size, hash }]);
    }
    let reply = line.end().1.unwrap();
    assert!(reply.errors >= 5, "{reply:?}");
    assert!(lab.to.join("h").exists());
}

#[test]
fn a_target_gets_only_what_is_offered() {
    let Some(lab) = lab() else { return };
    sh(
        &lab.from,
        "mkdir .ssh d keep; echo secret >.ssh/id_rsa; echo p >.ssh/id_rsa.pub; echo f >d/f; ln -s .. d/up; \
         ln -s /etc/passwd link; echo hidden >d/hidden; echo hidden >d/.pc-switcher-filter; mkfifo fifo",
    );
    sh(&lab.disk.top(), "echo outside >outside");
    let alone = Alone::new();
    let source = |request| alone.begin(request);
    // Nothing was scanned: nothing is offered.
    let serve = || MirrorRequest::Serve {
        root: lab.from.to_str().unwrap().to_owned(),
        others: Vec::new(),
    };
    source(serve()).refused();
    let line = source(MirrorRequest::ScanSource(scan(
        &lab.from,
        "+ id_rsa.pub\n.ssh/\n",
    )));
    let said_all = |frame: &Vec<u8>| Messages::new(&frame[1..]).any(|m| m == Ok(Message::ScanEnd));
    assert!(line.from.iter().any(|frame| said_all(&frame)));
    let asked = [".ssh/id_rsa", "d/hidden", "link", "d/up/outside", "d/f"];
    line.say(&[Message::Ack(u64::MAX)]);
    for (id, path) in (0..).zip(asked) {
        let path = path.as_bytes();
        line.say(&[Message::WantHash { id, path }]);
    }
    line.say(&[Message::Finished]);
    let (frames, reply) = line.end();
    reply.unwrap();
    let mut hashed = Vec::new();
    for frame in &frames {
        for message in Messages::new(&frame[1..]) {
            if let Message::Hash { hash, .. } = message.unwrap() {
                hashed.push(hash.is_some());
            }
        }
    }
    assert_eq!(hashed, [false, false, false, false, true]);
    let fetch = |id, path: &'static str| Message::Fetch {
        id,
        path: path.as_bytes(),
    };
    for path in [".ssh/id_rsa", "d/hidden", ".pc-switcher-staging/x"] {
        let line = source(serve());
        line.say(&[fetch(0, path), Message::Finished]);
        let (frames, result) = line.end();
        assert_eq!(result.unwrap_err().kind, FaultKind::Invalid);
        assert!(frames.is_empty(), "{path} was sent");
    }
    for path in ["../outside", "/etc/passwd", "d/../.ssh/id_rsa", "d//f", "."] {
        let line = source(serve());
        line.say(&[fetch(0, path)]);
        line.refused();
    }
    // What is no file below the folder: no content, and the rest still comes.
    let line = source(serve());
    let odd = ["link", "d/up/d/f", "fifo", "d", "nowhere", "d/f/f", ""];
    for (id, path) in odd.iter().enumerate() {
        line.say(&[Message::Fetch {
            id: id as u64,
            path: path.as_bytes(),
        }]);
    }
    line.say(&[
        fetch(50, "d/f"),
        fetch(u64::MAX, ".ssh/id_rsa.pub"),
        Message::Credit(u64::MAX),
        Message::Finished,
    ]);
    let (frames, result) = line.end();
    let reply = result.unwrap();
    assert_eq!((reply.items, reply.bytes), (2, 4), "{reply:?}");
    let failed = frames
        .iter()
        .flat_map(|f| Messages::new(&f[1..]))
        .filter(|m| matches!(m, Ok(Message::Failed { .. })))
        .count();
    assert_eq!(failed, odd.len());
    // More than allowed: by number, by length of paths.
    let long = [b'n'; 200];
    let long = [&long[..]; 1000].join(&b'/');
    for (path, times) in [(&b"d/f"[..], 20_000), (&long[..], 100)] {
        let line = source(serve());
        // Without any credit it stops at the first large file; here it is kept busy by number.
        let all: Vec<_> = (0..times).map(|id| Message::Fetch { id, path }).collect();
        line.say(&all);
        line.refused();
    }
    // No credit: it waits, and can be interrupted.
    sh(&lab.from, "head -c 30000000 /dev/zero | tr '\\0' x >large");
    let line = source(serve());
    line.say(&[fetch(0, "large")]);
    let (frames, result) = line.end();
    assert_eq!(result.unwrap_err().kind, FaultKind::Interrupted);
    let sent: usize = frames.iter().map(Vec::len).sum();
    assert!(
        sent < (16 << 20) + 4 * DATA_MAX,
        "{sent} bytes without credit"
    );
    // Wants what was never announced.
    let line = source(MirrorRequest::ScanSource(scan(&lab.from, "")));
    line.say(&[Message::Want(99)]);
    line.refused();
}

/// Whether the file's first byte can be had without waiting for the disk.
fn is_in_memory(path: &Path) -> bool {
    let file = fs::File::open(path).unwrap();
    let mut byte = [0];
    let mut parts = [std::io::IoSliceMut::new(&mut byte)];
    rustix::io::preadv2(&file, &mut parts, 0, rustix::io::ReadWriteFlags::NOWAIT).is_ok()
}

#[test]
fn files_are_read_from_the_disk_before_their_turn_but_not_too_many() {
    let Some(lab) = lab() else { return };
    sh(
        &lab.from,
        "for n in $(seq 10 69); do head -c 1048576 /dev/urandom >f$n; done; sync -f .",
    );
    let path = |n: u64| format!("f{n}");
    for n in 10..70 {
        let file = fs::File::open(lab.from.join(path(n))).unwrap();
        rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
    }
    let alone = Alone::new();
    let line = alone.begin(MirrorRequest::ScanSource(scan(&lab.from, "")));
    line.say(&[Message::Ack(u64::MAX), Message::Finished]);
    line.end().1.unwrap();
    let line = alone.begin(MirrorRequest::Serve {
        root: lab.from.to_str().unwrap().to_owned(),
        others: Vec::new(),
    });
    for n in 10..70 {
        let (id, path) = (n - 10, path(n));
        line.say(&[Message::Fetch {
            id,
            path: path.as_bytes(),
        }]);
    }
    // Nothing is credited, so nothing is known of the line: four are sent, and it waits.
    let mut sent = 0;
    while sent < FIRST_WINDOW {
        for message in Messages::new(&line.from.recv().unwrap()[1..]) {
            if let Message::Data { bytes, .. } = message.unwrap() {
                sent += bytes.len() as u64;
            }
        }
    }
    let waited = std::time::Instant::now();
    while !is_in_memory(&lab.from.join(path(19))) {
        assert!(
            waited.elapsed() < Duration::from_secs(20),
            "not read ahead of its turn"
        );
        thread::sleep(Duration::from_millis(5));
    }
    assert!(
        !is_in_memory(&lab.from.join(path(50))),
        "read too far ahead"
    );
    line.abort.raise();
    line.end().1.unwrap_err();
}

/// Frames of a real run, both ways.
fn recorded(from: &Path, to: &Path) -> Vec<Vec<Vec<u8>>> {
    let mut pair = Pair::new();
    pair.record = Some(Arc::default());
    pair.scan(from, to, "", false).unwrap();
    let scanned = pair.record.replace(Arc::default()).unwrap();
    pair.apply(from, to).unwrap();
    let applied = pair.record.take().unwrap();
    [scanned, applied]
        .map(|frames| std::mem::take(&mut *frames.lock().unwrap()))
        .to_vec()
}

/// Changes frames the way somebody would who knows what is in them.
fn distort(frames: &mut Vec<Vec<u8>>, rng: &mut Random) {
    for _ in 0..=rng.below(3) {
        if frames.is_empty() {
            return;
        }
        let at = rng.below(frames.len());
        match rng.below(8) {
            0 => drop(frames.remove(at)),
            1 => frames.insert(rng.below(frames.len()), frames[at].clone()),
            2 => {
                let other = rng.below(frames.len());
                frames.swap(at, other);
            }
            3 => {
                let cut = rng.below(frames[at].len());
                frames[at].truncate(cut);
            }
            4 => {
                // A whole message somewhere else.
                let mut out = vec![FOR_PEER];
                let tag = *rng.pick(&[
                    10_u8, 11, 12, 13, 20, 21, 30, 31, 32, 33, 34, 40, 41, 42, 43, 44, 45, 50, 51,
                ]);
                let length = rng.below(40);
                let body: Vec<u8> = (0..length).map(|_| rng.next().to_le_bytes()[0]).collect();
                out.push(tag);
                put_bytes(&mut out, &body);
                frames.insert(at, out);
            }
            5 => {
                let needles: [&[u8]; 3] = [b"../", b"/et", b"\0\0\0"];
                let needle = *rng.pick(&needles);
                let frame = &mut frames[at];
                if frame.len() > 10 {
                    let position = rng.below(frame.len() - 5);
                    frame[position..position + 3].copy_from_slice(needle);
                }
            }
            _ => {
                let frame = &mut frames[at];
                for _ in 0..=rng.below(4) {
                    let position = rng.below(frame.len().max(1));
                    if let Some(byte) = frame.get_mut(position) {
                        *byte ^= 1 << rng.below(8);
                    }
                }
            }
        }
    }
}

#[test]
fn distorted_frames_never_reach_outside_and_never_panic() {
    let Some(lab) = lab() else { return };
    let mut rng = Random::new(number("PCS_SEED", 3));
    grow(&lab.from, &mut rng, 50);
    let outside = lab.disk.top().join("outside");
    fs::create_dir(&outside).unwrap();
    grow(&outside, &mut rng, 20);
    sh(&outside, "echo sentinel >sentinel");
    let parts = recorded(&lab.from, &lab.to);
    let sentinel = manifest(&outside);
    let source = manifest(&lab.from);
    let top = |top: &Path| -> Vec<Vec<u8>> {
        let mut names: Vec<_> = fs::read_dir(top)
            .unwrap()
            .map(|e| e.unwrap().file_name().as_bytes().to_vec())
            .collect();
        names.sort();
        names
    };
    let around = top(&lab.disk.top());
    let (mut believed, mut refused) = (0, 0);
    for _ in 0..number("PCS_SEEDS", 150).max(150) {
        super::tests_property::empty(&lab.to);
        sh(
            &lab.to,
            "ln -s ../outside out; mkdir -p a/b; ln -s ../../outside a/b/out; echo x >x.o",
        );
        let alone = Alone::new();
        let which = rng.below(2);
        let rules = *rng.pick(&["", "", "keep\n"]);
        let mut frames = parts.clone();
        distort(&mut frames[which], &mut rng);
        let requests = [
            MirrorRequest::ScanTarget(scan(&lab.to, rules)),
            MirrorRequest::Apply {
                root: lab.to.to_str().unwrap().to_owned(),
                others: Vec::new(),
            },
        ];
        for (request, frames) in requests.into_iter().zip(frames) {
            let line = alone.begin(request);
            for frame in frames {
                let _ = line.to.send(frame);
            }
            let mut line = line;
            // It hears nothing more after that.
            line.to = unbounded().0;
            let (said, result) = line.end();
            assert!(
                said.iter()
                    .all(|frame| matches!(frame[0], FOR_PEER | FOR_CLI))
            );
            match result {
                Ok(_) => believed += 1,
                Err(_) => refused += 1,
            }
        }
        assert_eq!(around, top(&lab.disk.top()));
    }
    assert_eq!(sentinel, manifest(&outside));
    assert_eq!(source, manifest(&lab.from));
    assert!(
        believed > 10 && refused > 10,
        "{believed} believed, {refused} refused"
    );
    super::tests_property::empty(&lab.to);
    super::tests_property::empty(&lab.from);
}
