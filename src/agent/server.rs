//! The agent itself: reads frames, runs each call on a thread of its own, and ends in time.
//!
//! Threads: the reader (input; answers pings, starts calls, queues stream frames, never waits for
//! work), the writer (output), one thread per running call, one relay per stream, one for signals,
//! and the caller's, which waits for a reason to end.
//!
//! The agent lives on its input. End of input, 30 s of silence, a signal, a broken frame or a
//! closed output each end it: the abort flag is raised, services release what they hold, children
//! are killed, and after 5 s at most the process is gone, whatever its threads are doing.

use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde_json::Map;
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};
use signal_hook::iterator::Signals;

use super::fault::{Fault, FaultKind};
use super::handlers::Handlers;
use super::inflow::{Backlog, Inflow};
use super::lanes::door::Door;
use super::lanes::order::Order;
use super::outgoing::{Outgoing, Writer, outgoing};
use super::places::{Places, RUN_DIR};
use super::protocol::{
    AGENT_SILENCE, Call, FrameSplitter, Kind, PING_EVERY, Reply, Request, banner,
};
use super::service::{Service, ServiceContext};
use crate::event::{EventSink, LogLevel};
use crate::exit::ExitStatus;
use crate::interrupt::AbortFlag;
use crate::sys::command::{kill_running_groups, raise_open_files_limit};
use crate::sys::guardian::guard_groups;
use crate::sys::poll::wait_for;
use crate::sys::process::{close_inherited_descriptors, leave_at_once};

/// Calls that run at the same time.
const MAX_CALLS: usize = 64;

/// How long an abort waits for what it stops.
const ABORT_WAIT: Duration = Duration::from_secs(5);

/// From the reason to end to the end of the process.
const END_WITHIN: Duration = Duration::from_secs(5);

/// Of that, how long calls have to look at the abort flag.
const CALLS_WAIT: Duration = Duration::from_secs(3);

/// Of that, how long the last answers have to be written.
const WRITE_WAIT: Duration = Duration::from_millis(500);

/// Read from a lane in one call.
const LANE_READ: usize = 128 << 10;

/// Name under which the agent itself logs.
const LOG_NAME: &str = "agent";

/// Why an agent ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// The CLI closed the input: the ordinary end.
    InputClosed,
    /// The CLI said goodbye.
    Goodbye,
    /// What came in makes no sense.
    Broken(String),
    /// Nothing came in for too long.
    Silent,
    /// Nothing can be written any more.
    OutputClosed(String),
    /// A signal.
    Signal(i32),
}

impl End {
    fn status(&self) -> ExitStatus {
        match self {
            Self::InputClosed | Self::Goodbye => ExitStatus::Done,
            Self::Broken(_) => ExitStatus::Failed,
            Self::Silent | Self::OutputClosed(_) => ExitStatus::Connection,
            Self::Signal(_) => ExitStatus::Interrupted,
        }
    }

    /// What is worth a log line.
    fn complaint(&self) -> Option<String> {
        match self {
            Self::InputClosed | Self::Goodbye => None,
            Self::Broken(reason) | Self::OutputClosed(reason) => Some(reason.clone()),
            Self::Silent => Some(format!(
                "heard nothing for {} s; giving up",
                AGENT_SILENCE.as_secs()
            )),
            Self::Signal(signal) => Some(format!("ended by signal {signal}")),
        }
    }
}

/// Runs the agent on stdin and stdout until it ends: the whole of `pc-switcher agent`.
///
/// Must be the first thing a process does: it closes inherited descriptors.
#[must_use]
pub fn serve(services: Vec<Box<dyn Service>>) -> ExitStatus {
    if !rustix::process::geteuid().is_root() {
        complain("the agent must run as root; pc-switcher starts it with sudo");
        return ExitStatus::Usage;
    }
    if rustix::termios::isatty(rustix::stdio::stdin()) {
        complain("the agent speaks to pc-switcher, not to a terminal; it is started by `sync`");
        return ExitStatus::Usage;
    }
    close_inherited_descriptors();
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    let prepared = rustix::process::chdir("/")
        .map_err(std::io::Error::from)
        .and_then(|()| {
            raise_open_files_limit();
            guard_groups();
            // Handlers, not SIG_IGN: children would inherit that. SIGPIPE is ignored by Rust's
            // runtime, which gives children the default back.
            let signals = Signals::new([SIGTERM, SIGHUP, SIGINT, SIGQUIT])?;
            let input = rustix::io::dup(rustix::stdio::stdin())?;
            let output = std::fs::File::from(rustix::io::dup(rustix::stdio::stdout())?);
            Ok((signals, input, output))
        });
    let (signals, input, mut output) = match prepared {
        Ok(prepared) => prepared,
        Err(e) => {
            complain(&format!("the agent cannot start: {e}"));
            return ExitStatus::Failed;
        }
    };
    if writeln!(output, "{}", banner()).is_err() {
        return ExitStatus::Connection;
    }
    let server = match Server::start(services, Places::of_machine(), input, output) {
        Ok(server) => Server {
            owns_process: true,
            ..server
        },
        Err(e) => {
            complain(&format!("the agent cannot start: {e}"));
            return ExitStatus::Failed;
        }
    };
    server.watch_signals(signals);
    server.wait()
}

fn complain(line: &str) {
    let _ = writeln!(std::io::stderr(), "pc-switcher: {line}");
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Calls that one abort stops: a flag, and how many of them run.
#[derive(Default)]
struct Batch {
    abort: AbortFlag,
    running: Mutex<usize>,
    fewer: Condvar,
}

impl Batch {
    /// Waits until none runs; whether that came in time.
    fn wait(&self, limit: Duration) -> bool {
        let (running, _) = self
            .fewer
            .wait_timeout_while(lock(&self.running), limit, |running| *running > 0)
            .unwrap_or_else(PoisonError::into_inner);
        *running == 0
    }
}

/// Counts a call as running until it is dropped.
struct Running(Arc<Batch>);

impl Running {
    fn new(batch: &Arc<Batch>) -> Self {
        *lock(&batch.running) += 1;
        Self(Arc::clone(batch))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        *lock(&self.0.running) -= 1;
        self.0.fewer.notify_all();
    }
}

/// The one stream from the CLI, shared by the service calls that run; there is a new one when
/// none ran, so that nothing meant for an earlier call reaches a later one.
#[derive(Default)]
struct Stream {
    current: Option<(Option<Inflow>, Receiver<Vec<u8>>)>,
    users: usize,
    is_closed: bool,
}

struct Shared {
    handlers: Handlers,
    services: Vec<Box<dyn Service>>,
    out: Outgoing,
    events: EventSink,
    session: OnceLock<String>,
    batch: Mutex<Arc<Batch>>,
    stream: Mutex<Stream>,
    /// Numbered frames of the stream.
    order: Mutex<Order>,
    door: Mutex<Option<Door>>,
    ending: Sender<End>,
    is_ending: AtomicBool,
    started: Instant,
    /// Milliseconds after `started` when something last came in.
    heard_millis: AtomicU64,
}

/// A running agent.
pub struct Server {
    shared: Arc<Shared>,
    ended: Receiver<End>,
    writer_done: Receiver<()>,
    /// Whether the process is ours to leave, and its children ours to kill.
    owns_process: bool,
    silence: Duration,
}

impl Server {
    /// Starts the agent's threads on any pair of streams. The banner is the caller's.
    pub fn start<W: Write + Send + 'static>(
        services: Vec<Box<dyn Service>>,
        places: Places,
        input: OwnedFd,
        output: W,
    ) -> std::io::Result<Self> {
        let (out, events, writer) = outgoing(output);
        // Whoever finds a reason first decides; the others need not wait.
        let (ending, ended) = bounded(16);
        let shared = Arc::new(Shared {
            handlers: Handlers::new(places),
            services,
            out,
            events,
            session: OnceLock::new(),
            batch: Mutex::default(),
            stream: Mutex::default(),
            order: Mutex::default(),
            door: Mutex::default(),
            ending,
            is_ending: AtomicBool::new(false),
            started: Instant::now(),
            heard_millis: AtomicU64::new(0),
        });
        let (done, writer_done) = bounded(1);
        spawn("agent-writer", {
            let shared = Arc::clone(&shared);
            move || {
                shared.write(writer);
                let _ = done.send(());
            }
        })?;
        spawn("agent-reader", {
            let shared = Arc::clone(&shared);
            move || {
                let end = shared.read(&input);
                shared.end(end);
            }
        })?;
        Ok(Self {
            shared,
            ended,
            writer_done,
            owns_process: false,
            silence: AGENT_SILENCE,
        })
    }

    /// Ends the agent on SIGTERM and SIGHUP. SIGINT and SIGQUIT come from a terminal to its whole
    /// foreground group: what they mean is for the CLI to decide, which ends us by our input.
    fn watch_signals(&self, mut signals: Signals) {
        let shared = Arc::clone(&self.shared);
        let watched = spawn("agent-signals", move || {
            for signal in &mut signals {
                if signal == SIGTERM || signal == SIGHUP {
                    shared.end(End::Signal(signal));
                }
            }
        });
        if let Err(e) = watched {
            self.shared
                .log(LogLevel::Warning, format!("signals are not watched: {e}"));
        }
    }

    /// Waits for a reason to end, and ends in good order.
    #[must_use]
    pub fn wait(self) -> ExitStatus {
        let end = self.wait_for_end();
        let shared = &self.shared;
        shared.is_ending.store(true, Ordering::SeqCst);
        let status = end.status();
        let _deadline = self.owns_process.then(|| {
            remove_own_deployment(Path::new(RUN_DIR));
            Deadline::set(END_WITHIN, status)
        });
        let batch = Arc::clone(&lock(&shared.batch));
        batch.abort.raise();
        lock(&shared.door).take();
        shared.close_stream();
        if let Some(complaint) = end.complaint() {
            shared.log(LogLevel::Error, complaint);
        }
        if !batch.wait(CALLS_WAIT) {
            let text = "some calls did not stop in time".to_owned();
            shared.log(LogLevel::Warning, text);
        }
        if self.owns_process {
            kill_running_groups();
        }
        for service in &shared.services {
            if catch_unwind(AssertUnwindSafe(|| service.finish())).is_err() {
                let text = format!("service {} failed to finish", service.name());
                shared.log(LogLevel::Error, text);
            }
        }
        shared.out.finish();
        let _ = self.writer_done.recv_timeout(WRITE_WAIT);
        status
    }

    fn wait_for_end(&self) -> End {
        let limit = u64::try_from(self.silence.as_millis()).unwrap_or(u64::MAX);
        let step = (self.silence / 4).min(Duration::from_secs(1));
        loop {
            if let Ok(end) = self.ended.recv_timeout(step) {
                return end;
            }
            let heard = self.shared.heard_millis.load(Ordering::Relaxed);
            if self.shared.millis().saturating_sub(heard) > limit {
                return End::Silent;
            }
        }
    }
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> std::io::Result<()> {
    std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(work)
        .map(drop)
}

/// Leaves the process after a while, whatever else it is doing then, unless dropped before.
struct Deadline {
    _cancel: Sender<()>,
}

impl Deadline {
    fn set(limit: Duration, status: ExitStatus) -> Self {
        let (cancel, cancelled) = bounded::<()>(0);
        // An end that had to be forced was not an orderly one.
        let code = status.code().max(ExitStatus::Failed.code());
        let leave = move || {
            kill_running_groups();
            leave_at_once(code);
        };
        let watched = spawn("agent-deadline", move || {
            if cancelled.recv_timeout(limit) == Err(RecvTimeoutError::Timeout) {
                leave();
            }
        });
        if watched.is_err() {
            // No thread can be had: better a hurried end than one that may never come.
            leave();
        }
        Self { _cancel: cancel }
    }
}

/// Removes the binary we were deployed as, `bin-*/pc-switcher` below the run directory.
fn remove_own_deployment(run_dir: &Path) {
    let Ok(binary) = std::fs::read_link("/proc/self/exe") else {
        return;
    };
    let Some(directory) = deployment_of(&binary, run_dir) else {
        return;
    };
    // Only what we know to be ours; anything else in there keeps the directory.
    let _ = std::fs::remove_file(&binary);
    let _ = std::fs::remove_dir(directory);
}

fn deployment_of<'a>(binary: &'a Path, run_dir: &Path) -> Option<&'a Path> {
    let directory = binary.parent()?;
    let name = directory.file_name()?.to_str()?;
    (directory.parent()? == run_dir && name.starts_with("bin-")).then_some(directory)
}

impl Shared {
    fn millis(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn log(&self, level: LogLevel, message: String) {
        self.events.log(level, LOG_NAME, None, message, Map::new());
    }

    fn end(&self, end: End) {
        // A full channel means that there are reasons enough.
        let _ = self.ending.try_send(end);
    }

    fn write<W: Write>(&self, writer: Writer<W>) {
        if let Err(e) = writer.run() {
            self.end(End::OutputClosed(format!("cannot write: {e}")));
        }
    }

    fn heard(&self) {
        self.heard_millis.store(self.millis(), Ordering::Relaxed);
    }

    /// Reads frames until there is a reason to end.
    fn read(self: &Arc<Self>, input: &OwnedFd) -> End {
        let mut splitter = FrameSplitter::new();
        let mut buffer = vec![0; 256 << 10];
        loop {
            let count = match rustix::io::read(input, &mut buffer[..]) {
                // Also inside a frame: whoever spoke is gone, and was not wrong to go.
                Ok(0) => return End::InputClosed,
                Ok(count) => count,
                Err(rustix::io::Errno::INTR) => continue,
                Err(rustix::io::Errno::AGAIN) => {
                    wait_readable(input);
                    continue;
                }
                Err(e) => return End::Broken(format!("cannot read: {e}")),
            };
            self.heard();
            splitter.feed(&buffer[..count]);
            loop {
                let frame = match splitter.next_frame() {
                    Ok(Some(frame)) => frame,
                    Ok(None) => break,
                    Err(e) => return End::Broken(e.to_string()),
                };
                match frame.kind {
                    Kind::Ping => self.out.pong(),
                    Kind::Pong => {}
                    Kind::Stream => {
                        if let Some(end) = self.take_stream(vec![frame.payload], input) {
                            return end;
                        }
                    }
                    Kind::Numbered => {
                        if let Some(end) = self.take_numbered(frame.payload, input) {
                            return end;
                        }
                    }
                    Kind::Call => match serde_json::from_slice::<Call>(&frame.payload) {
                        Ok(call) => self.admit(call),
                        Err(e) => return End::Broken(format!("unreadable call: {e}")),
                    },
                    Kind::Answer | Kind::Log => {
                        return End::Broken("a frame that only an agent sends".to_owned());
                    }
                }
            }
        }
    }

    /// Queues stream frames for the services that run; waits only while their queue is full.
    fn take_stream(&self, payloads: Vec<Vec<u8>>, input: &impl AsFd) -> Option<End> {
        let backlog = self.queue_stream(payloads)?;
        self.wait_for_room(&backlog, input)
    }

    /// The same with a frame that has a number, when it is its turn.
    fn take_numbered(&self, payload: Vec<u8>, input: &impl AsFd) -> Option<End> {
        // Queued before another connection's frames can be.
        let mut order = lock(&self.order);
        let backlog = match order.take(payload) {
            Ok(ready) => self.queue_stream(ready),
            Err(disorder) => return Some(End::Broken(disorder.to_string())),
        };
        drop(order);
        let backlog = backlog?;
        self.wait_for_room(&backlog, input)
    }

    fn queue_stream(&self, payloads: Vec<Vec<u8>>) -> Option<Arc<Backlog>> {
        match &lock(&self.stream).current {
            Some((Some(inflow), _)) => {
                for payload in payloads {
                    inflow.push(payload);
                }
                Some(inflow.backlog())
            }
            // For a call that has just ended, or was never made.
            _ => None,
        }
    }

    fn wait_for_room(&self, backlog: &Backlog, input: &impl AsFd) -> Option<End> {
        while !backlog.wait_for_room(Duration::from_millis(100)) {
            // Behind what is not read yet, the CLI may have gone. (If the wait takes as long as a
            // silence, the agent ends as well: the CLI has had no answer to its pings either.)
            if self.is_ending.load(Ordering::SeqCst) || is_hung_up(input) {
                return Some(End::InputClosed);
            }
        }
        None
    }

    /// Reads the frames of a further connection, and says now and then that it is there, until it ends. What
    /// its end means is for the CLI to decide, which sees it, too.
    fn serve_lane(&self, mut lane: UnixStream) {
        let mut splitter = FrameSplitter::new();
        let mut buffer = vec![0; LANE_READ];
        let mut told = Instant::now();
        while !self.is_ending.load(Ordering::SeqCst) {
            let pause = PING_EVERY.saturating_sub(told.elapsed());
            if pause.is_zero() {
                // There is always room for it, unless nobody reads what we say.
                let _ = lane.write(b".");
                told = Instant::now();
                continue;
            }
            if wait_for(&lane, true, false, pause).is_err() {
                return;
            }
            let count = match lane.read(&mut buffer) {
                Ok(0) => return,
                Ok(count) => count,
                Err(e) if is_for_later(&e) => continue,
                Err(_) => return,
            };
            splitter.feed(&buffer[..count]);
            loop {
                let end = match splitter.next_frame() {
                    Ok(Some(frame)) if frame.kind == Kind::Numbered => {
                        self.take_numbered(frame.payload, &lane)
                    }
                    Ok(None) => break,
                    Ok(Some(_)) => Some(End::Broken("a frame that is not for a lane".to_owned())),
                    Err(e) => Some(End::Broken(e.to_string())),
                };
                match end {
                    None => {}
                    Some(End::InputClosed) => return,
                    Some(end) => return self.end(end),
                }
            }
        }
    }

    /// Opens the door for further connections, or closes it.
    fn answer_door(self: &Arc<Self>, request: &Request) -> Result<Reply, Fault> {
        lock(&self.door).take();
        let Request::LetIn(count) = request else {
            return Ok(Reply::Done);
        };
        let shared = Arc::clone(self);
        let serve = Arc::new(move |lane| shared.serve_lane(lane));
        let (door, offer) = self.handlers.let_in(*count, serve)?;
        *lock(&self.door) = Some(door);
        Ok(Reply::Lanes(offer))
    }

    /// Starts a call on a thread of its own.
    fn admit(self: &Arc<Self>, call: Call) {
        let Call {
            id,
            request,
            stream_from,
        } = call;
        let batch = {
            let mut current = lock(&self.batch);
            if matches!(request, Request::Abort) {
                // What comes after the abort is not stopped by it.
                std::mem::take(&mut *current)
            } else {
                Arc::clone(&current)
            }
        };
        match &request {
            Request::Abort => {
                batch.abort.raise();
                let shared = Arc::clone(self);
                self.start(id, move || shared.answer_abort(id, &batch));
            }
            Request::Goodbye => {
                self.out.answer(id, Ok(Reply::Done));
                self.end(End::Goodbye);
            }
            _ => {
                if *lock(&batch.running) >= MAX_CALLS {
                    let fault = Fault::invalid(format!("more than {MAX_CALLS} calls at once"));
                    self.out.answer(id, Err(fault));
                    return;
                }
                if let Request::Hello { session, .. } = &request {
                    let _ = self.session.set(session.clone());
                }
                // Before the next frame is read, which may belong to it.
                let incoming = match &request {
                    Request::Service { .. } => match self.enter_stream(stream_from) {
                        Ok(incoming) => Some(incoming),
                        Err(e) => {
                            let fault = Fault::of_io(format!("cannot start a thread: {e}"), &e);
                            self.out.answer(id, Err(fault));
                            return;
                        }
                    },
                    _ => None,
                };
                let running = Running::new(&batch);
                let shared = Arc::clone(self);
                self.start(id, move || {
                    shared.answer_call(id, request, incoming, &batch.abort);
                    drop(running);
                });
            }
        }
    }

    fn start(&self, id: u64, work: impl FnOnce() + Send + 'static) {
        if let Err(e) = spawn(&format!("agent-call-{id}"), work) {
            let fault = Fault::of_io(format!("cannot start a thread: {e}"), &e);
            self.out.answer(id, Err(fault));
        }
    }

    fn answer_abort(&self, id: u64, batch: &Batch) {
        let result = if batch.wait(ABORT_WAIT) {
            Ok(Reply::Done)
        } else {
            Err(Fault::new(
                FaultKind::Timeout,
                format!("what runs did not stop within {} s", ABORT_WAIT.as_secs()),
            ))
        };
        self.out.answer(id, result);
    }

    fn answer_call(
        self: &Arc<Self>,
        id: u64,
        request: Request,
        incoming: Option<StreamUse>,
        abort: &AbortFlag,
    ) {
        let result = catch_unwind(AssertUnwindSafe(|| match (request, &incoming) {
            (Request::Service { name, body, .. }, Some(incoming)) => {
                self.call_service(&name, body, incoming, abort)
            }
            (request @ (Request::LetIn(_) | Request::LetInNoMore), _) => self.answer_door(&request),
            (request, _) => self.handlers.answer(request, abort),
        }))
        .unwrap_or_else(|panic| {
            let what = panic
                .downcast_ref::<String>()
                .map(String::as_str)
                .or_else(|| panic.downcast_ref::<&str>().copied())
                .unwrap_or("no message");
            let message = format!("the agent failed unexpectedly: {what}");
            self.log(LogLevel::Error, message.clone());
            Err(Fault::new(FaultKind::Io, message))
        });
        // The stream is left before the answer: what the CLI sends after it is for the next call.
        drop(incoming);
        self.out.answer(id, result);
    }

    fn call_service(
        &self,
        name: &str,
        body: serde_json::Value,
        stream: &StreamUse,
        abort: &AbortFlag,
    ) -> Result<Reply, Fault> {
        let service = self
            .services
            .iter()
            .find(|s| s.name() == name)
            .ok_or_else(|| Fault::invalid(format!("this agent has no service {name:?}")))?;
        let session = self
            .session
            .get()
            .ok_or_else(|| Fault::invalid("a service was called before the hello"))?;
        let context = ServiceContext {
            incoming: stream.receiver.clone(),
            outgoing: self.out.stream(),
            events: self.events.clone(),
            abort: abort.clone(),
            session: session.clone(),
        };
        service.call(&context, body).map(Reply::Service)
    }

    /// Joins the stream, opening a new one if no service call runs. What is left of an earlier one, on whatever
    /// connection, has numbers before `first`.
    fn enter_stream(self: &Arc<Self>, first: Option<u64>) -> std::io::Result<StreamUse> {
        let mut order = lock(&self.order);
        let mut stream = lock(&self.stream);
        if stream.current.is_none() {
            let (inflow, receiver) = Inflow::open()?;
            if let Some(first) = first {
                order.start_from(first);
            }
            stream.current = Some(((!stream.is_closed).then_some(inflow), receiver));
        }
        let receiver = match &stream.current {
            Some((_, receiver)) => receiver.clone(),
            None => return Err(std::io::ErrorKind::Other.into()),
        };
        stream.users += 1;
        Ok(StreamUse {
            shared: Arc::clone(self),
            receiver,
        })
    }

    /// Nothing more will come in: running services see their stream end.
    fn close_stream(&self) {
        let mut stream = lock(&self.stream);
        stream.is_closed = true;
        if let Some((inflow, _)) = &mut stream.current {
            *inflow = None;
        }
    }
}

/// A service call's share of the stream, given back when dropped.
struct StreamUse {
    shared: Arc<Shared>,
    receiver: Receiver<Vec<u8>>,
}

impl Drop for StreamUse {
    fn drop(&mut self) {
        let mut stream = lock(&self.shared.stream);
        stream.users -= 1;
        if stream.users == 0 {
            stream.current = None;
        }
    }
}

/// What poll(2) says of the input within `limit`.
fn poll_input(input: &impl AsFd, events: PollFlags, limit: Duration) -> PollFlags {
    let mut fds = [PollFd::from_borrowed_fd(input.as_fd(), events)];
    let limit = Timespec::try_from(limit).expect("a few seconds fit");
    let _ = poll(&mut fds, Some(&limit));
    fds[0].revents()
}

/// Whether a read of a descriptor that does not block may be tried again.
fn is_for_later(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}

/// Waits for input on a descriptor that somebody else made non-blocking.
fn wait_readable(input: &OwnedFd) {
    let _ = poll_input(input, PollFlags::IN, Duration::from_secs(1));
}

/// Whether nobody holds the other end of the input any more, read or unread bytes aside.
fn is_hung_up(input: &impl AsFd) -> bool {
    let gone = PollFlags::HUP | PollFlags::RDHUP | PollFlags::ERR;
    poll_input(input, PollFlags::RDHUP, Duration::ZERO).intersects(gone)
}

#[cfg(test)]
#[path = "server_tests.rs"]
mod tests;
