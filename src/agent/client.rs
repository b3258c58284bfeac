//! The CLI's end of an agent: calls with answers, log lines, stream frames, liveness.
//!
//! One thread per agent reads the link and hands out what arrives. Calls may come from any
//! thread; each waits for its own answer while looking at the abort flag and at the link's end.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded, tick, unbounded};

use super::fault::{Fault, FaultKind};
use super::lanes::order::NUMBER;
use super::lanes::pool::{Dealt, LanePlan, Pool, Streaming};
use super::link::{Backlog, Closed, Gone, Incoming, Link, Outgoing, Traffic};
use super::protocol::{
    Answer, Call, Frame, FrameError, HEAD, Kind, MAX_FRAME, PEER_SILENCE, PING_EVERY, Reply,
    Request, encode_frame, encode_numbered,
};
use crate::buffers;
use crate::escape::escape_str;
use crate::event::{Event, EventSink, Host, LogEvent, LogLevel, Working};
use crate::interrupt::{AbortFlag, Interrupted};
use crate::prompt::{Choice, PromptError, Prompter, Question};

/// The windows of every service end far below this.
const UNDER_WAY_MAX: u64 = 256 << 20;
/// As much may wait to be looked at here: a long list, while the person reads it in a pager.
const UNHEARD_MAX: usize = 1 << 30;
/// Bytes of log lines of one agent that are passed on.
const LOG_MAX: usize = 256 << 20;

/// Why a call has no reply.
#[derive(Debug, Clone, thiserror::Error)]
pub enum AgentError {
    /// Asked to stop while waiting.
    #[error(transparent)]
    Interrupted(#[from] Interrupted),
    /// The agent answered that it could not.
    #[error("{hostname}: {fault}")]
    Fault {
        /// The machine.
        hostname: String,
        /// Its answer.
        #[source]
        fault: Fault,
    },
    /// The connection or the agent is gone.
    #[error("lost the agent on {hostname}: {}", closed.reason)]
    Lost {
        /// The machine.
        hostname: String,
        /// Its role; losing the target's agent is a lost connection.
        host: Host,
        /// How it went.
        closed: Closed,
    },
    /// The answer does not fit the question: a broken or hostile agent.
    #[error("the agent on {hostname} answered nonsense: {detail}")]
    Nonsense {
        /// The machine.
        hostname: String,
        /// What was wrong.
        detail: String,
    },
    /// A person declined a single command (`--confirm-each-command`).
    #[error("declined on {hostname}: {what}")]
    Declined {
        /// The machine.
        hostname: String,
        /// What would have been done.
        what: String,
    },
    /// The question for a single command could not be asked.
    #[error(transparent)]
    Prompt(#[from] PromptError),
}

/// After this long without a frame, though one comes every few seconds, a link that ends was dead.
const SILENT: Duration = Duration::from_secs(PING_EVERY.as_secs() * 3);

/// Name under which connections are spoken of.
const LOG_NAME: &str = "core";

/// How long an agent that said it was stopped may take to be gone.
const ENDING: Duration = Duration::from_secs(2);

type Pending = HashMap<u64, Sender<Result<Reply, Fault>>>;

#[derive(Debug)]
struct Shared {
    hostname: Mutex<String>,
    host: Host,
    outgoing: Mutex<Option<Outgoing>>,
    pending: Mutex<Pending>,
    closed: Mutex<Option<Closed>>,
    is_closed: AtomicBool,
    is_aborted: AtomicBool,
    next_id: AtomicU64,
    latency_nanos: AtomicU64,
    traffic: Traffic,
    /// Bytes queued for the link.
    queued: AtomicU64,
    /// As many may wait in it when another frame of a stream comes.
    under_way_most: u64,
    lanes: Arc<Pool>,
    banner: String,
}

/// Asks a person before every request that changes something.
#[derive(Clone)]
pub struct ConfirmEach {
    /// Who asks.
    pub prompter: Arc<dyn Prompter>,
}

impl std::fmt::Debug for ConfirmEach {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ConfirmEach")
    }
}

/// A handle to one agent; cheap to clone, usable from any thread.
#[derive(Debug, Clone)]
pub struct AgentClient {
    shared: Arc<Shared>,
    stream: Receiver<Vec<u8>>,
    events: EventSink,
    abort: AbortFlag,
    confirm: Option<ConfirmEach>,
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl AgentClient {
    /// Takes over `link`. `hostname` is what people call the machine until it says its own name.
    #[must_use]
    pub fn new(
        link: Link,
        host: Host,
        hostname: &str,
        events: EventSink,
        abort: AbortFlag,
    ) -> Self {
        let shared = Arc::new(Shared {
            hostname: Mutex::new(hostname.to_owned()),
            host,
            outgoing: Mutex::new(Some(link.outgoing)),
            pending: Mutex::new(HashMap::new()),
            closed: Mutex::new(None),
            is_closed: AtomicBool::new(false),
            is_aborted: AtomicBool::new(false),
            next_id: AtomicU64::new(1),
            latency_nanos: AtomicU64::new(0),
            traffic: link.traffic,
            queued: AtomicU64::new(0),
            under_way_most: UNDER_WAY_MAX,
            lanes: Arc::new(Pool::new(&abort)),
            banner: link.banner,
        });
        let (stream_tx, stream) = unbounded();
        let dispatcher = Dispatcher {
            shared: Arc::clone(&shared),
            incoming: link.incoming,
            stream: Some(stream_tx),
            events: events.clone(),
            backlog: Backlog::default(),
            most: UNHEARD_MAX,
            logged: 0,
            log_most: LOG_MAX,
        };
        std::thread::Builder::new()
            .name(format!("agent-{host}"))
            .spawn(move || dispatcher.run())
            .expect("a thread can be started: the process has only a handful");
        Self {
            shared,
            stream,
            events,
            abort,
            confirm: None,
        }
    }

    /// The same agent, asking before every request that changes something.
    #[must_use]
    pub fn confirming(mut self, confirm: ConfirmEach) -> Self {
        self.confirm = Some(confirm);
        self
    }

    /// The same agent, for calls that must be waited for whatever asks to stop.
    #[must_use]
    pub fn unabortable(&self) -> Self {
        self.with_abort(AbortFlag::new())
    }

    /// The same agent for clean-up: no abort stops it, and nobody is asked. Whoever declined a
    /// change has not declined that it is cleaned up after.
    #[must_use]
    pub fn cleaning_up(&self) -> Self {
        Self {
            confirm: None,
            ..self.unabortable()
        }
    }

    /// The same agent, for calls that stop waiting when `abort` is raised (a thread with an end of
    /// its own).
    #[must_use]
    pub fn with_abort(&self, abort: AbortFlag) -> Self {
        Self {
            abort,
            ..self.clone()
        }
    }

    /// Sets the name people see, once the machine has said it.
    pub fn set_hostname(&self, hostname: &str) {
        hostname.clone_into(&mut lock(&self.shared.hostname));
    }

    /// The name people see.
    #[must_use]
    pub fn hostname(&self) -> String {
        lock(&self.shared.hostname).clone()
    }

    /// The plain-text line the agent began with.
    #[must_use]
    pub fn banner(&self) -> &str {
        &self.shared.banner
    }

    /// Bytes on the wire.
    #[must_use]
    pub fn traffic(&self) -> &Traffic {
        &self.shared.traffic
    }

    /// The last measured round trip, if any.
    #[must_use]
    pub fn latency(&self) -> Option<Duration> {
        match self.shared.latency_nanos.load(Ordering::Relaxed) {
            0 => None,
            nanos => Some(Duration::from_nanos(nanos)),
        }
    }

    /// How the link ended, if it has; or how another connection did that had a share of a stream.
    #[must_use]
    pub fn closed(&self) -> Option<Closed> {
        let closed = lock(&self.shared.closed).clone();
        closed.or_else(|| self.shared.lanes.lost())
    }

    /// Has streams go over more connections, once there is enough to send.
    pub fn plan_lanes(&self, plan: LanePlan) {
        self.shared.lanes.plan(plan);
    }

    /// A stream is to be sent: until this is dropped, all connections that have a share of it are needed.
    #[must_use]
    pub fn streams(&self) -> Streaming {
        self.shared.lanes.streams()
    }

    /// Asks `request` and waits for the reply without a time limit (the agent's silence has one).
    pub fn call(&self, request: Request) -> Result<Reply, AgentError> {
        self.call_within(request, None)
    }

    /// Asks `request` and waits for the reply for at most `limit`.
    pub fn call_within(
        &self,
        request: Request,
        limit: Option<Duration>,
    ) -> Result<Reply, AgentError> {
        self.begin(request)?.wait(limit)
    }

    /// Asks `request` and returns at once; the answer is waited for later.
    pub fn begin(&self, request: Request) -> Result<PendingCall, AgentError> {
        let doing = request.doing();
        self.begin_doing(request, doing)
    }

    /// Asks `request` like [`begin`](Self::begin); while the answer is waited for, the machine is said
    /// to be `doing` this.
    pub fn begin_doing(
        &self,
        request: Request,
        doing: impl Into<String>,
    ) -> Result<PendingCall, AgentError> {
        self.abort.check()?;
        if let (Some(confirm), Some(what)) = (&self.confirm, request.mutation()) {
            self.confirm_one(confirm, &what)?;
        }
        if matches!(request, Request::Abort) {
            self.shared.is_aborted.store(true, Ordering::SeqCst);
            self.shared.lanes.abandon();
            if let Some(outgoing) = &*lock(&self.shared.outgoing) {
                outgoing.drop_rest();
            }
        }
        let id = self.shared.next_id.fetch_add(1, Ordering::Relaxed);
        let (tx, rx) = bounded(1);
        lock(&self.shared.pending).insert(id, tx);
        let pending = PendingCall {
            client: self.clone(),
            id,
            answer: rx,
            _working: self.events.working(&self.hostname(), doing),
        };
        self.send_call(Call {
            id,
            request,
            stream_from: None,
        })?;
        Ok(pending)
    }

    fn send_call(&self, mut call: Call) -> Result<(), AgentError> {
        // Content that was to be sent is not wanted any more, and nothing waits for it.
        let is_urgent = self.shared.is_aborted.load(Ordering::SeqCst);
        let send = |call: &Call| {
            let payload =
                serde_json::to_vec(call).expect("requests are plain data that JSON can hold");
            (payload.len() < MAX_FRAME).then(|| {
                let bytes = framed(Kind::Call, &payload);
                if is_urgent {
                    self.is_queued(bytes, Outgoing::send_first)
                } else {
                    self.is_queued(bytes, Outgoing::send)
                }
            })
        };
        let queued = match call.request {
            Request::Service { .. } => self.shared.lanes.begin(|stream_from| {
                call.stream_from = stream_from;
                send(&call)
            }),
            _ => send(&call),
        };
        match queued {
            Some(true) => Ok(()),
            Some(false) => Err(self.lost()),
            None => Err(self.nonsense("our own request is too large for a frame")),
        }
    }

    fn confirm_one(&self, confirm: &ConfirmEach, what: &str) -> Result<(), AgentError> {
        let hostname = self.hostname();
        let question = Question {
            detail: Vec::new(),
            text: format!("On {hostname}: {what}?"),
            choices: vec![
                Choice {
                    key: 'p',
                    label: "proceed".into(),
                    effect: "do it; the next one is asked about, too".into(),
                },
                Choice {
                    key: 'a',
                    label: "abort".into(),
                    effect: "stop the sync here; what was done stays done".into(),
                },
            ],
            default: 1,
            flag: Some("leave out --confirm-each-command".into()),
        };
        match confirm.prompter.choose(&question)? {
            0 => Ok(()),
            _ => Err(AgentError::Declined {
                hostname,
                what: what.to_owned(),
            }),
        }
    }

    /// Sends a stream frame; `false` if so much waits to be sent that whoever says what is sent here cannot be
    /// keeping to the windows of its service.
    pub fn send_stream(&self, payload: &[u8]) -> Result<bool, AgentError> {
        if payload.len() + NUMBER >= MAX_FRAME {
            return Err(self.nonsense("a frame of a stream is too large to be passed on"));
        }
        let lanes = &self.shared.lanes;
        if let Some(plan) = lanes.wanted() {
            self.open_lanes(plan);
        }
        let sent = self.shared.traffic.totals().0;
        let waiting = (self.shared.queued.load(Ordering::Relaxed)).saturating_sub(sent);
        // Nowhere waits more than here: a frame goes where the least waits.
        if waiting > self.shared.under_way_most {
            return Ok(false);
        }
        match lanes.deal(payload, waiting) {
            Dealt::Gone => {}
            Dealt::Plain => self.send(Kind::Stream, payload)?,
            Dealt::First(number) => {
                let mut bytes = buffers::take(payload.len() + NUMBER + HEAD);
                encode_numbered(number, payload, &mut bytes);
                self.queue(bytes)?;
            }
        }
        Ok(true)
    }

    /// Opens more connections on a thread of its own; those that there are go on meanwhile.
    fn open_lanes(&self, plan: LanePlan) {
        let client = self
            .cleaning_up()
            .with_abort(self.shared.lanes.ended().clone());
        let done = self.shared.lanes.opens();
        let started = std::thread::Builder::new()
            .name("lanes".to_owned())
            .spawn(move || {
                let opened = client.let_in(&plan);
                let lanes = &client.shared.lanes;
                let (have, wanted) = (lanes.count() + 1, plan.lanes + 1);
                match opened {
                    _ if lanes.ended().is_raised() => {}
                    Ok(()) => {
                        let text = format!("{have} connections carry what is sent");
                        client.say(LogLevel::Full, text);
                    }
                    Err(reason) => {
                        let text = format!(
                            "what is sent goes over {have} of {wanted} connections: {reason}"
                        );
                        client.say(LogLevel::Info, text);
                    }
                }
                drop(done);
            });
        if let Err(error) = started {
            self.say(LogLevel::Info, format!("no more connections: {error}"));
        }
    }

    /// Opens the lanes of a plan; the error is why there are fewer.
    fn let_in(&self, plan: &LanePlan) -> Result<(), String> {
        let offer = match self.call(Request::LetIn(plan.lanes)) {
            Ok(Reply::Lanes(offer)) => offer,
            Ok(_) => return Err(self.nonsense("no place for connections").to_string()),
            Err(error) => return Err(error.to_string()),
        };
        let open = |_| self.shared.lanes.open(&*plan.opener, &offer);
        let opened = (0..plan.lanes).try_for_each(open);
        let closed = self.call(Request::LetInNoMore);
        opened.map_err(|error| error.to_string())?;
        closed.map(drop).map_err(|error| error.to_string())
    }

    fn say(&self, level: LogLevel, message: String) {
        let host = Some(self.shared.host);
        let context = serde_json::Map::new();
        self.events.log(level, LOG_NAME, host, message, context);
    }

    /// Payloads of stream frames from the agent; disconnected once the link has ended.
    #[must_use]
    pub fn stream(&self) -> &Receiver<Vec<u8>> {
        &self.stream
    }

    /// Closes the agent's stdin, which ends it; waits up to `limit` for the link to end.
    pub fn close(&self, limit: Duration) {
        lock(&self.shared.outgoing).take();
        self.shared.lanes.end(limit);
        self.ends_within(limit);
    }

    /// Waits up to `limit` for the link to end; whether it has.
    fn ends_within(&self, limit: Duration) -> bool {
        let end = Instant::now() + limit;
        while !self.shared.is_closed.load(Ordering::Acquire) {
            if Instant::now() >= end {
                return false;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        true
    }

    fn send(&self, kind: Kind, payload: &[u8]) -> Result<(), AgentError> {
        self.queue(framed(kind, payload))
    }

    fn queue(&self, bytes: Vec<u8>) -> Result<(), AgentError> {
        if self.is_queued(bytes, Outgoing::send) {
            Ok(())
        } else {
            Err(self.lost())
        }
    }

    /// Whether the link still takes something.
    fn is_queued(
        &self,
        bytes: Vec<u8>,
        queue: impl FnOnce(&Outgoing, Vec<u8>) -> Result<(), Gone>,
    ) -> bool {
        let length = bytes.len() as u64;
        self.shared.queued.fetch_add(length, Ordering::Relaxed);
        (lock(&self.shared.outgoing).as_ref())
            .is_some_and(|outgoing| queue(outgoing, bytes).is_ok())
    }

    /// The error for a link that has ended.
    #[must_use]
    pub fn lost(&self) -> AgentError {
        AgentError::Lost {
            hostname: self.hostname(),
            host: self.shared.host,
            closed: self.closed().unwrap_or(Closed {
                reason: "the connection was closed".to_owned(),
                stderr: String::new(),
                orderly: false,
            }),
        }
    }

    /// The error for an answer that does not fit.
    #[must_use]
    pub fn nonsense(&self, detail: impl Into<String>) -> AgentError {
        AgentError::Nonsense {
            hostname: self.hostname(),
            detail: detail.into(),
        }
    }
}

/// A call whose answer has not been looked at yet.
#[derive(Debug)]
pub struct PendingCall {
    client: AgentClient,
    id: u64,
    answer: Receiver<Result<Reply, Fault>>,
    _working: Working,
}

impl PendingCall {
    /// The answer, if it is there.
    #[must_use]
    pub fn poll(&self) -> Option<Result<Reply, AgentError>> {
        self.answer
            .try_recv()
            .ok()
            .map(|answer| self.convert(answer))
    }

    /// The channel the answer arrives on, for `select!`.
    #[must_use]
    pub fn receiver(&self) -> &Receiver<Result<Reply, Fault>> {
        &self.answer
    }

    /// Turns what arrived on [`receiver`](Self::receiver) into a result.
    pub fn convert(&self, answer: Result<Reply, Fault>) -> Result<Reply, AgentError> {
        answer.map_err(|fault| {
            if fault.kind == FaultKind::Interrupted {
                if self.client.abort.is_raised() {
                    return AgentError::Interrupted(Interrupted);
                }
                // Nobody here asked it to stop: it is about to end, for the reason of its link.
                if self.client.ends_within(ENDING) {
                    return self.client.lost();
                }
            }
            AgentError::Fault {
                hostname: self.client.hostname(),
                fault,
            }
        })
    }

    /// Waits for the answer, looking at the abort flag and the link.
    pub fn wait(&self, limit: Option<Duration>) -> Result<Reply, AgentError> {
        let end = limit.map(|l| Instant::now() + l);
        loop {
            match self.answer.recv_timeout(Duration::from_millis(50)) {
                Ok(answer) => return self.convert(answer),
                Err(RecvTimeoutError::Disconnected) => return Err(self.client.lost()),
                Err(RecvTimeoutError::Timeout) => {}
            }
            self.client.abort.check()?;
            if end.is_some_and(|end| Instant::now() > end) {
                return Err(AgentError::Fault {
                    hostname: self.client.hostname(),
                    fault: Fault {
                        kind: FaultKind::Timeout,
                        message: "no answer in time".to_owned(),
                        hint: None,
                    },
                });
            }
        }
    }
}

impl Drop for PendingCall {
    fn drop(&mut self) {
        lock(&self.client.shared.pending).remove(&self.id);
    }
}

struct Dispatcher {
    shared: Arc<Shared>,
    incoming: Receiver<Incoming>,
    stream: Option<Sender<Vec<u8>>>,
    events: EventSink,
    /// What waits in `stream`, and how much may.
    backlog: Backlog,
    most: usize,
    /// Bytes of log lines so far, and how much of them is passed on.
    logged: usize,
    log_most: usize,
}

impl Dispatcher {
    fn run(mut self) {
        let closed = self.dispatch();
        *lock(&self.shared.closed) = Some(closed);
        lock(&self.shared.outgoing).take();
        // Whoever waits for an answer or a frame sees its channel disconnected.
        lock(&self.shared.pending).clear();
        self.stream = None;
        self.shared.is_closed.store(true, Ordering::Release);
    }

    fn dispatch(&mut self) -> Closed {
        let ticker = tick(PING_EVERY);
        let mut heard = Instant::now();
        let mut pinged: Option<Instant> = None;
        loop {
            crossbeam_channel::select! {
                recv(self.incoming) -> message => match message {
                    Ok(Incoming::Frame(frame)) => {
                        heard = Instant::now();
                        if frame.kind == Kind::Pong && let Some(at) = pinged.take() {
                            let nanos = u64::try_from(at.elapsed().as_nanos()).unwrap_or(u64::MAX);
                            self.shared.latency_nanos.store(nanos.max(1), Ordering::Relaxed);
                        }
                        if let Err(reason) = self.take(frame) {
                            return broken(reason);
                        }
                    }
                    // The kernel gives a silent connection up at about the same time as we do.
                    Ok(Incoming::Closed(closed)) if !closed.orderly && heard.elapsed() > SILENT => {
                        return Closed { reason: silence(heard), ..closed };
                    }
                    Ok(Incoming::Closed(closed)) => return closed,
                    Err(_) => return broken("the link's thread ended".to_owned()),
                },
                recv(ticker) -> _ => {
                    if heard.elapsed() > PEER_SILENCE {
                        return broken(silence(heard));
                    }
                    let mut bytes = Vec::new();
                    encode_frame(Kind::Ping, &[], &mut bytes);
                    if pinged.is_none() {
                        pinged = Some(Instant::now());
                    }
                    if let Some(outgoing) = &*lock(&self.shared.outgoing) {
                        let _ = outgoing.send_first(bytes);
                    }
                }
            }
        }
    }

    fn take(&mut self, frame: Frame) -> Result<(), String> {
        match frame.kind {
            Kind::Answer => {
                let answer: Answer = serde_json::from_slice(&frame.payload)
                    .map_err(|e| format!("unreadable answer: {e}"))?;
                if let Some(waiting) = lock(&self.shared.pending).remove(&answer.id) {
                    let _ = waiting.send(answer.result);
                }
            }
            Kind::Log => {
                let before = self.logged;
                self.logged = before.saturating_add(frame.payload.len());
                if self.logged > self.log_most {
                    if before <= self.log_most {
                        self.too_much_is_said();
                    }
                    return Ok(());
                }
                let mut event: LogEvent = serde_json::from_slice(&frame.payload)
                    .map_err(|e| format!("unreadable log line: {e}"))?;
                event.host = Some(self.shared.host);
                self.events.emit(&Event::Log(event));
            }
            Kind::Stream => {
                if let Some(stream) = &self.stream {
                    let bytes = frame.payload.len();
                    let _ = stream.send(frame.payload);
                    if self.backlog.add(bytes, stream.len()) > self.most {
                        let megabytes = self.most >> 20;
                        return Err(format!(
                            "it sends without end: {megabytes} MiB that nobody has asked for"
                        ));
                    }
                }
            }
            Kind::Pong | Kind::Ping => {}
            kind @ (Kind::Call | Kind::Numbered) => {
                return Err(FrameError::Kind(kind as u8).to_string());
            }
        }
        Ok(())
    }

    /// Says that no more of the agent's log lines follow.
    fn too_much_is_said(&self) {
        let name = lock(&self.shared.hostname).clone();
        let megabytes = self.log_most >> 20;
        let line = format!(
            "the agent on {} logs more than {megabytes} MiB; its further lines are left out",
            escape_str(&name)
        );
        let (level, host) = (LogLevel::Warning, Some(self.shared.host));
        self.events
            .log(level, "core", host, line, serde_json::Map::new());
    }
}

fn framed(kind: Kind, payload: &[u8]) -> Vec<u8> {
    let mut bytes = buffers::take(payload.len() + HEAD);
    encode_frame(kind, payload, &mut bytes);
    bytes
}

fn silence(heard: Instant) -> String {
    Closed::silent(heard).reason
}

fn broken(reason: String) -> Closed {
    Closed {
        reason,
        stderr: String::new(),
        orderly: false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What an agent is known by, which bears little; it is sent to `outgoing`.
    fn shared(outgoing: Sender<Vec<u8>>) -> Arc<Shared> {
        Arc::new(Shared {
            hostname: Mutex::new("vega\x1b[2J".to_owned()),
            host: Host::Target,
            outgoing: Mutex::new(Some(Outgoing::from(outgoing))),
            pending: Mutex::new(HashMap::new()),
            closed: Mutex::new(None),
            is_closed: AtomicBool::new(false),
            is_aborted: AtomicBool::new(false),
            next_id: AtomicU64::new(1),
            latency_nanos: AtomicU64::new(0),
            traffic: Traffic::default(),
            queued: AtomicU64::new(0),
            under_way_most: 5000,
            lanes: Arc::new(Pool::new(&AbortFlag::new())),
            banner: String::new(),
        })
    }

    /// A dispatcher that bears little, what it hands out, and its log.
    fn dispatcher() -> (Dispatcher, Receiver<Vec<u8>>, Receiver<Event>) {
        let (_, incoming) = unbounded();
        let mut events = EventSink::none();
        let log = events.subscribe();
        let (stream_tx, stream) = unbounded();
        let dispatcher = Dispatcher {
            shared: shared(unbounded().0),
            incoming,
            stream: Some(stream_tx),
            events,
            backlog: Backlog::default(),
            most: 4 << 20,
            logged: 0,
            log_most: 10_000,
        };
        (dispatcher, stream, log)
    }

    fn frame(kind: Kind, payload: Vec<u8>) -> Frame {
        Frame { kind, payload }
    }

    #[test]
    fn an_agent_that_sends_without_end_is_cut_off_in_bounded_memory() {
        let (mut dispatcher, stream, _log) = dispatcher();
        let mut send = || dispatcher.take(frame(Kind::Stream, vec![7; 1 << 20]));
        // What is heard does not count.
        for _ in 0..100 {
            send().unwrap();
            stream.recv().unwrap();
        }
        for _ in 0..4 {
            send().unwrap();
        }
        let reason = send().unwrap_err();
        assert!(reason.contains("sends without end: 4 MiB"), "{reason}");
        assert!(stream.len() <= 5);
    }

    #[test]
    fn an_agent_that_logs_without_end_is_heard_for_a_while() {
        let (mut dispatcher, _stream, log) = dispatcher();
        let line = LogEvent {
            timestamp: jiff::Timestamp::UNIX_EPOCH,
            level: LogLevel::Info,
            module: "user_data".to_owned(),
            host: None,
            message: "x".repeat(900),
            context: serde_json::Map::new(),
        };
        let line = serde_json::to_vec(&line).unwrap();
        for _ in 0..1000 {
            dispatcher.take(frame(Kind::Log, line.clone())).unwrap();
        }
        let lines: Vec<LogEvent> = (log.try_iter())
            .filter_map(|event| match event {
                Event::Log(line) => Some(line),
                _ => None,
            })
            .collect();
        let (last, others) = lines.split_last().unwrap();
        assert!((5..20).contains(&others.len()), "{}", others.len());
        assert!(others.iter().all(|line| line.level == LogLevel::Info));
        assert_eq!(last.level, LogLevel::Warning);
        assert!(last.message.contains("left out"), "{}", last.message);
        assert!(!last.message.contains('\x1b'), "{}", last.message);
    }

    #[test]
    fn nothing_is_sent_on_without_end() {
        let (queue, waiting) = unbounded();
        let client = AgentClient {
            shared: shared(queue),
            stream: unbounded().1,
            events: EventSink::none(),
            abort: AbortFlag::new(),
            confirm: None,
        };
        let send = || client.send_stream(&[0; 995]).unwrap();
        // What has gone does not count.
        for _ in 0..100 {
            assert!(send());
            let bytes: Vec<u8> = waiting.recv().unwrap();
            client.shared.traffic.add_sent(bytes.len() as u64);
        }
        let fitting = (0..20).filter(|_| send()).count();
        assert_eq!(fitting, 6);
        assert_eq!(waiting.len(), 6);
    }
}
