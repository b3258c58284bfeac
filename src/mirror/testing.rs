//! Both halves of the mirror in one process, for tests: two services with a relay between them.

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded, unbounded};
use serde_json::Value;

use super::plan::FolderPlan;
use super::service::MirrorService;
use super::suspects::Suspect;
use super::tree::Trust;
use super::wire::{
    FOR_PEER, Message, Messages, MirrorReply, MirrorRequest, OtherFolder, Restricted, ScanTree,
};
use crate::agent::fault::{Fault, FaultKind};
use crate::agent::service::{Service, ServiceContext};
use crate::escape::escape_bytes;
use crate::event::{Event, EventSink, LogLevel};
use crate::interrupt::AbortFlag;

/// Two agents' mirror services.
pub(crate) struct Pair {
    source: Arc<MirrorService>,
    target: Arc<MirrorService>,
    /// When both sides were last equal.
    pub equal_at: Option<super::entry::Time>,
    /// Log lines of both, at WARNING or above.
    pub complaints: Vec<String>,
    /// How the next requests end early.
    pub cut: Cut,
    /// Where the source's frames are kept.
    pub record: Option<Record>,
    /// What each side suspects: then scans visit nothing else.
    pub suspects: Option<[Vec<Suspect>; 2]>,
    /// What the last round left alone.
    pub left: Vec<Vec<u8>>,
    /// What the target has said it renamed, from and to.
    pub renames: Vec<(String, String)>,
    /// What each side is told of other folders.
    pub others: [Vec<OtherFolder>; 2],
}

/// Frames of the source, in order.
pub(crate) type Record = Arc<Mutex<Vec<Vec<u8>>>>;

/// How a request ends before its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cut {
    /// Not at all.
    Never,
    /// Somebody interrupts after this time.
    Interrupted(Duration),
    /// The link goes after this many frames of the source.
    LinkGone(usize),
}

/// What a whole mirror run came to.
pub(crate) struct Outcome {
    /// The target's scan.
    pub scan: MirrorReply,
    /// The target's apply.
    pub applied: MirrorReply,
    /// The plan as listed.
    pub changes: Vec<(char, String)>,
}

struct End {
    context: ServiceContext,
    out: Receiver<Vec<u8>>,
    incoming: Sender<Vec<u8>>,
    log: Receiver<Event>,
}

fn end(abort: &AbortFlag) -> End {
    let (outgoing, out) = bounded(8);
    let (incoming_tx, incoming) = unbounded();
    let mut events = EventSink::none();
    let log = events.subscribe();
    let context = ServiceContext {
        incoming,
        outgoing,
        events,
        abort: abort.clone(),
        session: "00000000".to_owned(),
    };
    End {
        context,
        out,
        incoming: incoming_tx,
        log,
    }
}

impl Pair {
    pub(crate) fn new() -> Self {
        Self {
            source: Arc::new(MirrorService::default()),
            target: Arc::new(MirrorService::default()),
            equal_at: None,
            complaints: Vec::new(),
            cut: Cut::Never,
            record: None,
            suspects: None,
            left: Vec::new(),
            renames: Vec::new(),
            others: [Vec::new(), Vec::new()],
        }
    }

    /// The source's service.
    pub(crate) fn source(&self) -> Arc<MirrorService> {
        Arc::clone(&self.source)
    }

    fn run(
        &mut self,
        source: Option<MirrorRequest>,
        target: MirrorRequest,
        mut for_cli: impl FnMut(&Message<'_>),
    ) -> Result<(MirrorReply, MirrorReply), Fault> {
        let abort = AbortFlag::new();
        let (a, b) = (end(&abort), end(&abort));
        let call = |service: &Arc<MirrorService>, context: ServiceContext, request| {
            let service = Arc::clone(service);
            let abort = context.abort.clone();
            thread::spawn(move || {
                let body = serde_json::to_value(request).unwrap();
                let result: Result<Value, Fault> = service.call(&context, body);
                if result.is_err() {
                    abort.raise();
                }
                result.map(|v| serde_json::from_value::<MirrorReply>(v).unwrap())
            })
        };
        let source_thread = source.map(|request| call(&self.source, a.context, request));
        let target_thread = call(&self.target, b.context, target);
        let to_source = a.incoming;
        let to_target = b.incoming;
        let source_out = a.out;
        let record = self.record.clone();
        let frames = match self.cut {
            Cut::LinkGone(frames) => frames,
            _ => usize::MAX,
        };
        let relay = thread::spawn(move || {
            for frame in source_out.iter().take(frames) {
                if let Some(record) = &record {
                    record.lock().unwrap().push(frame.clone());
                }
                let _ = to_target.send(frame);
            }
        });
        if let Cut::Interrupted(after) = self.cut {
            let abort = abort.clone();
            // Left alone: it raises a flag that nobody looks at any more.
            thread::spawn(move || {
                thread::sleep(after);
                abort.raise();
            });
        }
        for frame in b.out {
            if frame[0] == FOR_PEER {
                let _ = to_source.send(frame);
            } else {
                for message in Messages::new(&frame[1..]) {
                    for_cli(&message.unwrap());
                }
            }
        }
        let target = target_thread.join().unwrap();
        let source = source_thread.map_or(Ok(MirrorReply::default()), |t| t.join().unwrap());
        relay.join().unwrap();
        for log in [a.log, b.log] {
            while let Ok(event) = log.try_recv() {
                if let Event::Log(line) = event
                    && line.level >= LogLevel::Warning
                {
                    self.complaints.push(line.message);
                }
            }
        }
        match (source, target) {
            // One side's trouble interrupts the other.
            (Err(fault), Err(target)) if fault.kind == FaultKind::Interrupted => Err(target),
            (source, target) => Ok((source?, target?)),
        }
    }

    /// Asks one side alone.
    pub(crate) fn alone(&mut self, source: bool, request: MirrorRequest) -> MirrorReply {
        let abort = AbortFlag::new();
        let end = end(&abort);
        let service = if source { &self.source } else { &self.target };
        let body = serde_json::to_value(request).unwrap();
        serde_json::from_value(service.call(&end.context, body).unwrap()).unwrap()
    }

    /// Asks both sides.
    pub(crate) fn both(
        &mut self,
        source: MirrorRequest,
        target: MirrorRequest,
    ) -> Result<(MirrorReply, MirrorReply), Fault> {
        let mut renames = Vec::new();
        let replies = self.run(Some(source), target, |message| {
            if let Message::Change {
                path,
                from: Some(from),
                ..
            } = message
            {
                renames.push((escape_bytes(from), escape_bytes(path)));
            }
        });
        self.renames.extend(renames);
        replies
    }

    /// Scans `from` against `to`; the target keeps the plan.
    pub(crate) fn scan(
        &mut self,
        from: &Path,
        to: &Path,
        rules: &str,
        content: bool,
    ) -> Result<(MirrorReply, MirrorReply), Fault> {
        let trust = self.equal_at.map(Trust::until);
        if let Some([ours, theirs]) = self.suspects.clone() {
            self.source.suspect(from.to_str().unwrap(), ours);
            self.target.suspect(to.to_str().unwrap(), theirs);
        }
        let restricted = self.suspects.is_some().then(|| Restricted {
            found: true,
            ..Restricted::default()
        });
        let tree = |root: &Path| ScanTree {
            restricted: restricted.clone(),
            anchor: None,
            root: root.to_str().unwrap().to_owned(),
            without_mounts: false,
            rules: rules.to_owned(),
            origin: "test.filter".to_owned(),
            content,
            trust,
        };
        let (from, to) = (tree(from), tree(to));
        self.run(
            Some(MirrorRequest::ScanSource(from)),
            MirrorRequest::ScanTarget(to),
            |_| {},
        )
    }

    /// Changes what is planned for `to`.
    pub(crate) fn change_plan(&mut self, to: &Path, change: impl Fn(&mut super::plan::Op)) {
        self.target.change_plan(to.to_str().unwrap(), change);
    }

    /// The plan for `to`, as listed.
    pub(crate) fn list(&mut self, to: &Path) -> Vec<(char, String)> {
        let root = to.to_str().unwrap().to_owned();
        let mut changes = Vec::new();
        self.run(None, MirrorRequest::ListPlan { root }, |message| {
            if let Message::Change { action, path, .. } = message {
                changes.push((char::from(*action), escape_bytes(path)));
            }
        })
        .unwrap();
        changes
    }

    /// The plan for `to` itself.
    pub(crate) fn plan(&self, to: &Path) -> FolderPlan {
        self.target.plan(to.to_str().unwrap()).unwrap()
    }

    /// Carries out the plan for `to`.
    pub(crate) fn apply(&mut self, from: &Path, to: &Path) -> Result<MirrorReply, Fault> {
        let text = |p: &Path| p.to_str().unwrap().to_owned();
        let [ours, theirs] = self.others.clone();
        self.run(
            Some(MirrorRequest::Serve {
                root: text(from),
                others: ours,
            }),
            MirrorRequest::Apply {
                root: text(to),
                others: theirs,
            },
            |_| {},
        )
        .map(|(_, target)| target)
    }

    /// Makes `to` like `from`.
    pub(crate) fn mirror(&mut self, from: &Path, to: &Path, rules: &str) -> Outcome {
        let (_, scan) = self.scan(from, to, rules, false).unwrap();
        let changes = self.list(to);
        let applied = self.apply(from, to).unwrap();
        Outcome {
            scan,
            applied,
            changes,
        }
    }
}
