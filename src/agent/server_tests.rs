//! The server from outside: over a socket in this process, and as a process of its own.

use std::collections::VecDeque;
use std::io::Read;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::thread::JoinHandle;

use serde_json::{Value, json};

use super::*;
use crate::agent::lanes::WELCOME;
use crate::agent::protocol::{Answer, Frame, MAX_FRAME, encode_frame, encode_numbered};
use crate::event::{Host, LogEvent};
use crate::record::LockHolder;
use crate::sys::command::command;
use crate::sys::testing::is_root;

/// Who has not ended after this long never will, however busy the machine is.
const HANGS: Duration = Duration::from_secs(30);

/// A service that does what the test asks of it.
struct TestService;

impl Service for TestService {
    fn name(&self) -> &'static str {
        "test"
    }

    fn call(&self, context: &ServiceContext, body: Value) -> Result<Value, Fault> {
        match body["do"].as_str().unwrap() {
            "session" => Ok(json!(context.session)),
            // Sends back what comes in until an empty payload.
            "echo" => {
                let mut count = 0;
                while let Ok(payload) = context.incoming.recv() {
                    if payload.is_empty() {
                        return Ok(json!(count));
                    }
                    count += 1;
                    context
                        .events
                        .log(LogLevel::Info, "test", None, "echo", Map::new());
                    context.outgoing.send(payload).unwrap();
                }
                Err(Fault::invalid("the stream ended"))
            }
            "until-abort" => {
                while context.abort.sleep(Duration::from_millis(10)).is_ok() {}
                Err(Fault::new(FaultKind::Interrupted, "interrupted"))
            }
            // Deaf to everything.
            "stuck" => loop {
                std::thread::sleep(Duration::from_mins(10));
            },
            "flood" => {
                let count = std::iter::from_fn(|| context.outgoing.send(vec![0; 100_000]).ok());
                Ok(json!(count.count()))
            }
            "panic" => panic!("on purpose"),
            other => Err(Fault::invalid(other)),
        }
    }

    fn finish(&self) {
        if let Some(path) = std::env::var_os("PC_SWITCHER_TEST_FINISHED") {
            std::fs::write(path, "finished").unwrap();
        }
    }
}

/// The CLI's side, by hand.
struct Cli<S> {
    stream: S,
    splitter: FrameSplitter,
    ready: VecDeque<Frame>,
}

impl<S: Read + Write> Cli<S> {
    fn new(stream: S) -> Self {
        Self {
            stream,
            splitter: FrameSplitter::new(),
            ready: VecDeque::new(),
        }
    }

    fn send(&mut self, kind: Kind, payload: &[u8]) {
        let mut bytes = Vec::new();
        encode_frame(kind, payload, &mut bytes);
        self.stream.write_all(&bytes).unwrap();
    }

    fn call(&mut self, id: u64, request: Request) {
        self.call_from(id, request, None);
    }

    fn call_from(&mut self, id: u64, request: Request, stream_from: Option<u64>) {
        let call = Call {
            id,
            request,
            stream_from,
        };
        let payload = serde_json::to_vec(&call).unwrap();
        self.send(Kind::Call, &payload);
    }

    fn service(&mut self, id: u64, what: &str) {
        self.call(id, service(what));
    }

    fn hello(&mut self) {
        self.call(
            0,
            Request::Hello {
                session: "0123abcd".to_owned(),
                uid: None,
            },
        );
        assert!(matches!(self.answer(0), Ok(Reply::Hello(_))));
    }

    /// The next frame, or nothing at the end.
    fn frame(&mut self) -> Option<Frame> {
        let mut buffer = vec![0; 1 << 16];
        loop {
            if let Some(frame) = self.ready.pop_front() {
                return Some(frame);
            }
            if let Some(frame) = self.splitter.next_frame().unwrap() {
                return Some(frame);
            }
            match self.stream.read(&mut buffer) {
                Ok(0) | Err(_) => return None,
                Ok(count) => self.splitter.feed(&buffer[..count]),
            }
        }
    }

    fn frame_of(&mut self, kind: Kind) -> Frame {
        loop {
            let frame = self.frame().expect("the agent is still there");
            if frame.kind == kind {
                return frame;
            }
        }
    }

    /// The answer to `id`, which is the next one.
    #[track_caller]
    fn answer(&mut self, id: u64) -> Result<Reply, Fault> {
        let payload = self.frame_of(Kind::Answer).payload;
        let answer: Answer = serde_json::from_slice(&payload).unwrap();
        assert_eq!(answer.id, id, "{answer:?}");
        answer.result
    }

    /// Messages of every log line until the end.
    fn logs_to_the_end(&mut self) -> Vec<String> {
        std::iter::from_fn(|| self.frame())
            .filter(|f| f.kind == Kind::Log)
            .map(|f| {
                serde_json::from_slice::<LogEvent>(&f.payload)
                    .unwrap()
                    .message
            })
            .collect()
    }
}

fn service(what: &str) -> Request {
    Request::Service {
        name: "test".to_owned(),
        body: json!({ "do": what }),
        changes: None,
    }
}

/// An agent in this process, below a root of its own.
fn agent_with(silence: Duration) -> (Cli<UnixStream>, JoinHandle<ExitStatus>) {
    let (near, far) = UnixStream::pair().unwrap();
    let input = far.try_clone().unwrap();
    let thread = std::thread::spawn(move || {
        let root = tempfile::tempdir().unwrap();
        let places = Places::below(root.path());
        std::fs::create_dir(root.path().join("run")).unwrap();
        let server = Server::start(vec![Box::new(TestService)], places, input.into(), far).unwrap();
        Server { silence, ..server }.wait()
    });
    (Cli::new(near), thread)
}

fn agent() -> (Cli<UnixStream>, JoinHandle<ExitStatus>) {
    agent_with(AGENT_SILENCE)
}

fn close(cli: &Cli<UnixStream>) {
    cli.stream.shutdown(std::net::Shutdown::Write).unwrap();
}

#[test]
fn calls_are_answered_and_the_end_of_input_is_an_orderly_end() {
    let (mut cli, thread) = agent();
    cli.service(1, "session");
    assert!(
        cli.answer(1)
            .unwrap_err()
            .message
            .contains("before the hello")
    );
    cli.hello();
    cli.service(2, "session");
    assert!(matches!(cli.answer(2), Ok(Reply::Service(Value::String(s))) if s == "0123abcd"));
    cli.call(3, Request::Many(vec![Request::ReadState]));
    assert!(matches!(cli.answer(3), Ok(Reply::Many(replies)) if replies.len() == 1));
    let absent = Request::Service {
        name: "absent".to_owned(),
        body: Value::Null,
        changes: None,
    };
    cli.call(4, absent);
    assert!(cli.answer(4).unwrap_err().message.contains("no service"));
    close(&cli);
    assert_eq!(cli.logs_to_the_end(), [""; 0]);
    assert_eq!(thread.join().unwrap(), ExitStatus::Done);
}

#[test]
fn goodbye_is_answered_before_the_end() {
    let (mut cli, thread) = agent();
    cli.call(1, Request::Goodbye);
    assert!(matches!(cli.answer(1), Ok(Reply::Done)));
    assert_eq!(thread.join().unwrap(), ExitStatus::Done);
}

#[test]
fn pings_and_short_calls_are_answered_while_a_service_ignores_its_stream() {
    let (mut cli, thread) = agent();
    cli.hello();
    cli.service(1, "until-abort");
    for _ in 0..16 {
        cli.send(Kind::Stream, &vec![1; 1 << 20]);
    }
    let started = Instant::now();
    for id in 2..22 {
        cli.send(Kind::Ping, b"");
        assert_eq!(cli.frame().unwrap().kind, Kind::Pong);
        cli.call(id, Request::ReadState);
        assert!(cli.answer(id).is_ok());
    }
    assert!(started.elapsed() < HANGS);
    close(&cli);
    assert_eq!(cli.answer(1).unwrap_err().kind, FaultKind::Interrupted);
    assert_eq!(thread.join().unwrap(), ExitStatus::Done);
}

#[test]
fn a_stream_goes_to_the_running_service_and_never_to_the_next() {
    let (mut cli, thread) = agent();
    cli.hello();
    // Sent for nobody.
    cli.send(Kind::Stream, b"lost");
    for round in 1..20 {
        cli.service(round, "echo");
        for payload in [b"one".as_slice(), b"two", b""] {
            cli.send(Kind::Stream, payload);
        }
        // Left over: the call has ended with the empty one.
        cli.send(Kind::Stream, b"stale");
        assert_eq!(cli.frame_of(Kind::Stream).payload, b"one");
        assert_eq!(cli.frame_of(Kind::Stream).payload, b"two");
        assert!(matches!(cli.answer(round), Ok(Reply::Service(n)) if n == 2));
        // Answered: whatever of it was on its way has been read by now.
        cli.call(100, Request::ReadState);
        assert!(cli.answer(100).is_ok());
    }
    cli.service(50, "echo");
    cli.send(Kind::Stream, b"last");
    close(&cli);
    assert_eq!(cli.frame_of(Kind::Stream).payload, b"last");
    assert!(cli.answer(50).unwrap_err().message.contains("stream ended"));
    assert_eq!(thread.join().unwrap(), ExitStatus::Done);
}

/// Connects a further connection to an agent that has greeted us.
fn lane(cli: &mut Cli<UnixStream>) -> UnixStream {
    cli.call(90, Request::Lock(holder()));
    assert!(matches!(cli.answer(90), Ok(Reply::Lock(None))));
    cli.call(91, Request::LetIn(1));
    let offer = match cli.answer(91) {
        Ok(Reply::Lanes(offer)) => offer,
        other => panic!("{other:?}"),
    };
    let mut lane = UnixStream::connect(&offer.path).unwrap();
    lane.write_all(format!("{}\n", offer.secret).as_bytes())
        .unwrap();
    let mut welcome = vec![0; WELCOME.len() + 1];
    lane.read_exact(&mut welcome).unwrap();
    assert_eq!(welcome, format!("{WELCOME}\n").into_bytes());
    cli.call(92, Request::LetInNoMore);
    assert!(matches!(cli.answer(92), Ok(Reply::Done)));
    assert!(!std::path::Path::new(&offer.path).exists());
    lane
}

fn holder() -> LockHolder {
    LockHolder {
        session: "0123abcd".to_owned(),
        role: Host::Target,
        from: "atlas".to_owned(),
        pid: 1,
        since: jiff::Timestamp::now(),
    }
}

fn numbered(number: u64, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode_numbered(number, payload, &mut bytes);
    bytes
}

#[test]
fn what_comes_over_two_connections_is_one_stream() {
    let (mut cli, thread) = agent();
    cli.hello();
    cli.call(1, Request::LetIn(1));
    let fault = cli.answer(1).unwrap_err();
    assert!(fault.message.contains("lock"), "{fault:?}");
    let mut lane = lane(&mut cli);
    // Three of four go over the lane, and the request they are for comes after them.
    let payload = |number: u64| number.to_le_bytes().repeat(1000);
    for number in (0..400).filter(|n| n % 4 != 0) {
        lane.write_all(&numbered(number, &payload(number))).unwrap();
    }
    cli.service(2, "echo");
    for number in (0..400).step_by(4) {
        cli.stream
            .write_all(&numbered(number, &payload(number)))
            .unwrap();
    }
    for number in 0..400 {
        let got = cli.frame_of(Kind::Stream).payload;
        assert!(got == payload(number), "frame {number}");
    }
    lane.write_all(&numbered(400, b"")).unwrap();
    assert!(matches!(cli.answer(2), Ok(Reply::Service(n)) if n == 400));
    // That a lane ends is not for the agent to judge.
    drop(lane);
    cli.call(3, Request::ReadState);
    assert!(cli.answer(3).is_ok());
    close(&cli);
    assert_eq!(thread.join().unwrap(), ExitStatus::Done);
}

#[test]
fn what_was_sent_to_a_service_that_has_failed_is_not_for_the_next_one() {
    let (mut cli, thread) = agent();
    cli.hello();
    let mut lane = lane(&mut cli);
    cli.service(1, "fail");
    cli.stream.write_all(&numbered(0, b"old")).unwrap();
    assert!(cli.answer(1).is_err());
    // The CLI had sent these before it knew; the second is still under way.
    lane.write_all(&numbered(2, b"old")).unwrap();
    cli.call_from(2, service("echo"), Some(3));
    cli.stream.write_all(&numbered(3, b"new")).unwrap();
    assert_eq!(cli.frame_of(Kind::Stream).payload, b"new");
    lane.write_all(&numbered(1, b"old")).unwrap();
    lane.write_all(&numbered(4, b"newer")).unwrap();
    assert_eq!(cli.frame_of(Kind::Stream).payload, b"newer");
    lane.write_all(&numbered(5, b"")).unwrap();
    assert!(matches!(cli.answer(2), Ok(Reply::Service(n)) if n == 2));
    close(&cli);
    assert_eq!(thread.join().unwrap(), ExitStatus::Done);
}

#[test]
fn a_lane_carries_nothing_but_what_it_is_for() {
    for bytes in [
        numbered(7, b"x").repeat(2),
        [1, 0, 0, 0, Kind::Ping as u8].to_vec(),
        vec![0xff; 8],
    ] {
        let (mut cli, thread) = agent();
        cli.hello();
        let mut lane = lane(&mut cli);
        lane.write_all(&bytes).unwrap();
        assert_eq!(thread.join().unwrap(), ExitStatus::Failed, "{bytes:?}");
    }
}

#[test]
fn a_lane_says_that_it_is_there() {
    let (mut cli, thread) = agent();
    cli.hello();
    let mut lane = lane(&mut cli);
    let mut sign = [0; 1];
    lane.read_exact(&mut sign).unwrap();
    assert_eq!(&sign, b".");
    close(&cli);
    assert_eq!(thread.join().unwrap(), ExitStatus::Done);
}

#[test]
fn a_service_that_does_not_read_holds_up_the_sender_in_the_end() {
    let (mut cli, thread) = agent();
    cli.hello();
    cli.service(1, "until-abort");
    cli.stream
        .set_write_timeout(Some(Duration::from_millis(300)))
        .unwrap();
    let mut bytes = Vec::new();
    encode_frame(Kind::Stream, &vec![0; 1 << 20], &mut bytes);
    let mut sent = 0;
    while cli.stream.write_all(&bytes).is_ok() {
        sent += 1;
        assert!(sent < 100, "the agent takes in everything");
    }
    assert!(sent >= 32, "{sent}");
    // That it waits for its service does not make it miss the end.
    drop(cli);
    let started = Instant::now();
    thread.join().unwrap();
    assert!(started.elapsed() < HANGS);
}

#[test]
fn a_cli_that_does_not_read_holds_up_the_service() {
    let (mut cli, thread) = agent();
    cli.hello();
    cli.service(1, "flood");
    std::thread::sleep(Duration::from_millis(300));
    // What is in the pipe and the queues, and no more, is there to be read now.
    close(&cli);
    cli.stream
        .set_read_timeout(Some(Duration::from_millis(100)))
        .unwrap();
    let mut buffer = vec![0; 1 << 20];
    assert!(cli.stream.read(&mut buffer).unwrap() > 0);
    drop(cli);
    let started = Instant::now();
    // Who is first to meet the end, the one that reads or the one that writes, is chance.
    let ended = thread.join().unwrap();
    assert!(matches!(ended, ExitStatus::Done | ExitStatus::Connection));
    assert!(started.elapsed() < HANGS);
}

#[test]
fn an_abort_stops_what_runs_and_nothing_that_comes_after() {
    let (mut cli, thread) = agent();
    cli.hello();
    cli.service(1, "until-abort");
    let sleep = Request::Run {
        argv: vec!["sleep".to_owned(), "600".to_owned()],
        env: std::collections::BTreeMap::new(),
        stdin: None,
        timeout_millis: None,
    };
    cli.call(2, sleep);
    std::thread::sleep(Duration::from_millis(100));
    cli.call(3, Request::Abort);
    let mut stopped = Vec::new();
    for _ in 0..3 {
        let payload = cli.frame_of(Kind::Answer).payload;
        let answer: Answer = serde_json::from_slice(&payload).unwrap();
        match (answer.id, answer.result) {
            (3, result) => assert!(matches!(result, Ok(Reply::Done))),
            (id, result) => {
                assert_eq!(result.unwrap_err().kind, FaultKind::Interrupted);
                stopped.push(id);
            }
        }
    }
    stopped.sort_unstable();
    assert_eq!(stopped, [1, 2]);
    let true_ = Request::Run {
        argv: vec!["true".to_owned()],
        env: std::collections::BTreeMap::new(),
        stdin: None,
        timeout_millis: None,
    };
    cli.call(4, true_);
    assert!(matches!(cli.answer(4), Ok(Reply::Run(output)) if output.exit_code == 0));
    drop(cli);
    thread.join().unwrap();
}

#[test]
fn a_panic_in_a_service_is_a_fault_and_the_agent_lives() {
    let (mut cli, thread) = agent();
    cli.hello();
    cli.service(1, "panic");
    let fault = cli.answer(1).unwrap_err();
    assert!(fault.message.contains("on purpose"), "{fault}");
    cli.service(2, "session");
    assert!(cli.answer(2).is_ok());
    drop(cli);
    thread.join().unwrap();
}

#[test]
fn more_calls_than_the_bound_are_refused() {
    let (mut cli, thread) = agent();
    cli.hello();
    for id in 0..MAX_CALLS as u64 {
        cli.service(id, "until-abort");
    }
    cli.service(1000, "session");
    let fault = cli.answer(1000).unwrap_err();
    assert!(fault.message.contains("calls at once"), "{fault}");
    drop(cli);
    thread.join().unwrap();
}

#[test]
fn broken_input_is_logged_and_ends_with_a_bad_status() {
    let frame = |kind: u8, payload: &[u8]| {
        let length = u32::try_from(payload.len() + 1).unwrap().to_le_bytes();
        [&length, &[kind][..], payload].concat()
    };
    let too_long = (u32::try_from(MAX_FRAME).unwrap() + 1)
        .to_le_bytes()
        .to_vec();
    for (bytes, part) in [
        (vec![0; 4], "frame of 0 bytes"),
        (too_long, "not allowed"),
        (frame(99, b""), "unknown kind 99"),
        (frame(Kind::Call as u8, b"{"), "unreadable call"),
        (
            frame(Kind::Call as u8, b"{\"id\":1,\"request\":\"x\"}"),
            "unreadable call",
        ),
        (frame(Kind::Answer as u8, b"{}"), "only an agent sends"),
    ] {
        let (mut cli, thread) = agent();
        cli.stream.write_all(&bytes).unwrap();
        close(&cli);
        let logs = cli.logs_to_the_end();
        assert!(logs.iter().any(|l| l.contains(part)), "{part}: {logs:?}");
        assert_eq!(thread.join().unwrap(), ExitStatus::Failed, "{part}");
    }
}

#[test]
fn an_input_that_ends_inside_a_frame_is_an_ordinary_end() {
    for bytes in [
        &[7][..],
        &[9, 0, 0, 0],
        &[9, 0, 0, 0, Kind::Call as u8, b'{'],
    ] {
        let (mut cli, thread) = agent();
        cli.stream.write_all(bytes).unwrap();
        close(&cli);
        assert_eq!(cli.logs_to_the_end(), [""; 0]);
        assert_eq!(thread.join().unwrap(), ExitStatus::Done);
    }
}

#[test]
fn silence_ends_the_agent_and_pings_keep_it() {
    let (mut cli, thread) = agent_with(Duration::from_secs(2));
    for _ in 0..60 {
        cli.send(Kind::Ping, b"");
        std::thread::sleep(Duration::from_millis(50));
    }
    assert!(!thread.is_finished());
    assert_eq!(thread.join().unwrap(), ExitStatus::Connection);
    let log = cli.frame_of(Kind::Log).payload;
    assert!(String::from_utf8_lossy(&log).contains("heard nothing"));
}

#[test]
fn only_a_deployed_binary_is_removed() {
    let run = Path::new("/run/pc-switcher");
    let deployed = Path::new("/run/pc-switcher/bin-1a2b/pc-switcher");
    assert_eq!(deployment_of(deployed, run), deployed.parent());
    for other in [
        "/usr/local/bin/pc-switcher",
        "/run/pc-switcher/pc-switcher",
        "/run/pc-switcher/user-0/pc-switcher",
        "/run/pc-switcher/bin-1/deeper/pc-switcher",
        "/run/other/bin-1/pc-switcher",
    ] {
        assert_eq!(deployment_of(Path::new(other), run), None, "{other}");
    }
}

// --- as a process of its own ---

const CHILD: &str = "PC_SWITCHER_TEST_AGENT";

/// Not a test of its own: what the tests below start as their agent.
#[test]
fn the_agent_process_of_other_tests() {
    if std::env::var_os(CHILD).is_some() {
        let status = serve(vec![Box::new(TestService)]);
        std::process::exit(status.code().into());
    }
}

struct Pipes(Child);

impl Read for Pipes {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        self.0.stdout.as_mut().unwrap().read(buffer)
    }
}

impl Write for Pipes {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.stdin.as_mut().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Drop for Pipes {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The command that is an agent, run by `wrapper` if that is not empty.
fn agent_command(binary: &Path, wrapper: &[&str]) -> std::process::Command {
    let mut whole: Vec<&std::ffi::OsStr> = wrapper.iter().map(std::ffi::OsStr::new).collect();
    whole.push(binary.as_os_str());
    let mut prepared = command(whole[0]);
    prepared
        .args(&whole[1..])
        .args(["--exact", "--nocapture", "--test-threads=1"])
        .arg("agent::server::tests::the_agent_process_of_other_tests")
        .env(CHILD, "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0);
    prepared
}

/// Starts an agent process and reads up to its banner.
fn start(mut prepared: std::process::Command) -> Cli<Pipes> {
    let mut pipes = Pipes(prepared.spawn().unwrap());
    // The test harness has a few lines of its own before.
    let mut line = Vec::new();
    loop {
        let mut byte = [0];
        assert_eq!(pipes.read(&mut byte).unwrap(), 1, "no banner");
        if byte != *b"\n" {
            line.push(byte[0]);
        } else if line.ends_with(banner().as_bytes()) {
            break;
        } else {
            line.clear();
        }
    }
    let mut cli = Cli::new(pipes);
    cli.hello();
    cli
}

fn process(test: &str) -> Option<Cli<Pipes>> {
    let binary = std::env::current_exe().unwrap();
    is_root(test).then(|| start(agent_command(&binary, &[])))
}

/// Has the agent run a shell line that prints process ids first; returns those.
fn run_in_agent(cli: &mut Cli<Pipes>, id: u64, script: &str, wait_for: &Path) -> Vec<i32> {
    cli.call(
        id,
        Request::Run {
            argv: ["sh", "-c", script].map(str::to_owned).to_vec(),
            env: std::collections::BTreeMap::new(),
            stdin: None,
            timeout_millis: None,
        },
    );
    for _ in 0..500 {
        if let Ok(text) = std::fs::read_to_string(wait_for)
            && text.ends_with("end\n")
        {
            return text.lines().filter_map(|l| l.parse().ok()).collect();
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("the program did not start");
}

fn is_running(pid: i32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

#[track_caller]
fn assert_gone(pids: &[i32]) {
    assert!(!pids.is_empty());
    for pid in pids {
        let end = Instant::now() + Duration::from_secs(2);
        while is_running(*pid) {
            assert!(Instant::now() < end, "process {pid} is still running");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// Waits for the process without closing its input, as `Child::wait` would.
#[track_caller]
fn wait_for(cli: &mut Cli<Pipes>) -> std::process::ExitStatus {
    let end = Instant::now() + 2 * END_WITHIN;
    loop {
        if let Some(status) = cli.stream.0.try_wait().unwrap() {
            return status;
        }
        assert!(Instant::now() < end, "the agent does not end");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A shell line that leaves a program and its background child running.
fn two_sleepers(directory: &Path) -> (String, PathBuf) {
    let file = directory.join("pids");
    let script = format!(
        "sleep 600 & (echo $$; echo $!; echo end) >{0}.new; mv {0}.new {0}; sleep 600",
        file.display()
    );
    (script, file)
}

#[test]
fn when_stdin_closes_the_process_and_all_its_children_end() {
    let temp = tempfile::tempdir().unwrap();
    let finished = temp.path().join("finished");
    if !is_root("when_stdin_closes") {
        return;
    }
    let mut prepared = agent_command(&std::env::current_exe().unwrap(), &[]);
    prepared.env("PC_SWITCHER_TEST_FINISHED", &finished);
    let mut cli = start(prepared);
    let (script, file) = two_sleepers(temp.path());
    let pids = run_in_agent(&mut cli, 1, &script, &file);
    assert!(pids.iter().all(|p| is_running(*p)));
    let started = Instant::now();
    drop(cli.stream.0.stdin.take());
    assert_eq!(wait_for(&mut cli).code(), Some(0));
    assert!(started.elapsed() < HANGS);
    assert_gone(&pids);
    assert_eq!(std::fs::read(&finished).unwrap(), b"finished");
}

#[test]
fn a_call_that_is_deaf_cannot_keep_the_process() {
    let Some(mut cli) = process("a_call_that_is_deaf") else {
        return;
    };
    let temp = tempfile::tempdir().unwrap();
    cli.service(1, "stuck");
    let (script, file) = two_sleepers(temp.path());
    let deaf = format!("trap '' TERM HUP; {script}");
    let pids = run_in_agent(&mut cli, 2, &deaf, &file);
    let started = Instant::now();
    drop(cli.stream.0.stdin.take());
    wait_for(&mut cli);
    assert!(started.elapsed() < HANGS);
    assert_gone(&pids);
}

#[test]
fn an_agent_that_is_killed_takes_its_programs_along() {
    let Some(mut cli) = process("an_agent_that_is_killed") else {
        return;
    };
    let temp = tempfile::tempdir().unwrap();
    let (script, file) = two_sleepers(temp.path());
    cli.call(
        1,
        Request::Run {
            argv: vec!["true".to_owned()],
            env: std::collections::BTreeMap::new(),
            stdin: None,
            timeout_millis: None,
        },
    );
    assert!(cli.answer(1).is_ok());
    let pids = run_in_agent(&mut cli, 2, &script, &file);
    cli.stream.0.kill().unwrap();
    wait_for(&mut cli);
    assert_gone(&pids);
}

#[test]
fn a_terminals_interrupt_is_left_to_the_cli_and_sigterm_ends_the_agent() {
    let Some(mut cli) = process("a_terminals_interrupt") else {
        return;
    };
    let pid = rustix::process::Pid::from_child(&cli.stream.0);
    for signal in [rustix::process::Signal::INT, rustix::process::Signal::QUIT] {
        rustix::process::kill_process(pid, signal).unwrap();
    }
    std::thread::sleep(Duration::from_millis(200));
    cli.service(1, "session");
    assert!(cli.answer(1).is_ok());
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    let logs = cli.logs_to_the_end();
    assert!(logs.iter().any(|l| l.contains("signal 15")), "{logs:?}");
    assert_eq!(wait_for(&mut cli).code(), Some(130));
}

#[test]
fn a_closed_output_ends_the_agent_though_its_input_is_open() {
    let Some(mut cli) = process("a_closed_output") else {
        return;
    };
    drop(cli.stream.0.stdout.take());
    cli.send(Kind::Ping, b"");
    assert_eq!(wait_for(&mut cli).code(), Some(5));
}

#[test]
fn the_agent_starts_with_nothing_inherited() {
    if !is_root("the_agent_starts_with_nothing_inherited") {
        return;
    }
    let leaked = std::fs::File::open("/etc").unwrap();
    rustix::io::fcntl_setfd(&leaked, rustix::io::FdFlags::empty()).unwrap();
    let number = leaked.as_raw_fd();
    let mut cli = start(agent_command(&std::env::current_exe().unwrap(), &[]));
    drop(leaked);
    let pid = cli.stream.0.id();
    let link = |name: &str| std::fs::read_link(format!("/proc/{pid}/{name}"));
    assert_eq!(link("cwd").unwrap(), Path::new("/"));
    let is_leaked = link(&format!("fd/{number}")).is_ok_and(|p| p == Path::new("/etc"));
    assert!(!is_leaked);
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    assert!(status.contains("Umask:\t0077"), "{status}");
    let limits = std::fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
    let files: Vec<&str> = limits
        .lines()
        .find(|l| l.starts_with("Max open files"))
        .unwrap()
        .split_whitespace()
        .collect();
    assert_eq!(files[3], files[4]);
    // A program it runs has what root's programs usually have.
    cli.call(
        1,
        Request::Run {
            argv: ["sh", "-c", "umask"].map(str::to_owned).to_vec(),
            env: std::collections::BTreeMap::new(),
            stdin: None,
            timeout_millis: None,
        },
    );
    assert!(matches!(cli.answer(1), Ok(Reply::Run(output)) if output.stdout == "0022\n"));
}

#[test]
fn without_root_the_agent_says_so_in_plain_words() {
    if !is_root("without_root_the_agent_says_so") {
        return;
    }
    // Where an ordinary user can reach it.
    let temp = tempfile::tempdir().unwrap();
    std::fs::set_permissions(
        temp.path(),
        std::os::unix::fs::PermissionsExt::from_mode(0o755),
    )
    .unwrap();
    let binary = temp.path().join("agent");
    std::fs::copy(std::env::current_exe().unwrap(), &binary).unwrap();
    let wrapper = ["setpriv", "--reuid=65534", "--clear-groups", "--"];
    let done = agent_command(&binary, &wrapper).output().unwrap();
    assert_eq!(done.status.code(), Some(2));
    let stderr = String::from_utf8(done.stderr).unwrap();
    assert!(stderr.contains("must run as root"), "{stderr}");
    assert!(!String::from_utf8_lossy(&done.stdout).contains("pc-switcher-agent"));
}

#[test]
fn a_deployed_agent_removes_itself() {
    if !is_root("a_deployed_agent_removes_itself") {
        return;
    }
    let made_run = std::fs::create_dir(RUN_DIR).is_ok();
    let directory = Path::new(RUN_DIR).join(format!("bin-test-{}", std::process::id()));
    std::fs::create_dir(&directory).unwrap();
    let binary = directory.join("pc-switcher");
    std::fs::copy(std::env::current_exe().unwrap(), &binary).unwrap();
    let mut cli = start(agent_command(&binary, &[]));
    assert!(binary.exists());
    drop(cli.stream.0.stdin.take());
    assert_eq!(wait_for(&mut cli).code(), Some(0));
    let is_gone = !directory.exists();
    let _ = std::fs::remove_dir_all(&directory);
    if made_run {
        let _ = std::fs::remove_dir(RUN_DIR);
    }
    assert!(is_gone);
}
