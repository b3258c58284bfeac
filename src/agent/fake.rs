//! An agent without a machine, for tests: answers come from a closure, requests are kept.
//!
//! The client under test is the real one; only what is behind the link is replaced.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crossbeam_channel::{RecvTimeoutError, Sender, unbounded};

use super::client::AgentClient;
use super::fault::{Fault, FaultKind};
use super::link::{Closed, Incoming, Link, Traffic};
use super::protocol::{Answer, Call, Frame, FrameSplitter, Kind, Reply, Request, banner};
use crate::event::{EventSink, Host};
use crate::interrupt::AbortFlag;

/// What a fake agent answers.
pub type Handler = Box<dyn FnMut(&Request) -> Result<Reply, Fault> + Send>;

/// A fake agent and what was asked of it.
#[derive(Debug, Clone)]
pub struct FakeAgent {
    /// The real client, speaking to the fake.
    pub client: AgentClient,
    requests: Arc<Mutex<Vec<Request>>>,
    dead: Arc<AtomicBool>,
}

impl FakeAgent {
    /// An agent that answers with `handler`; [`Request::Many`] is unrolled for it.
    pub fn start(
        host: Host,
        hostname: &str,
        events: EventSink,
        abort: AbortFlag,
        handler: impl FnMut(&Request) -> Result<Reply, Fault> + Send + 'static,
    ) -> Self {
        Self::with_banner(&banner(), host, hostname, events, abort, handler)
    }

    /// An agent that introduces itself with `banner`.
    ///
    /// # Panics
    /// If no thread can be started.
    pub fn with_banner(
        banner: &str,
        host: Host,
        hostname: &str,
        events: EventSink,
        abort: AbortFlag,
        handler: impl FnMut(&Request) -> Result<Reply, Fault> + Send + 'static,
    ) -> Self {
        let (to_agent, from_cli) = unbounded::<Vec<u8>>();
        let (to_cli, incoming) = unbounded();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let dead = Arc::new(AtomicBool::new(false));
        let other_end = OtherEnd {
            handler: Box::new(handler),
            requests: Arc::clone(&requests),
            to_cli,
        };
        let stop = Arc::clone(&dead);
        std::thread::Builder::new()
            .name(format!("fake-agent-{host}"))
            .spawn(move || other_end.run(&from_cli, &stop))
            .expect("a thread can be started");
        let link = Link {
            outgoing: to_agent.into(),
            incoming,
            traffic: Traffic::default(),
            banner: banner.to_owned(),
        };
        Self {
            client: AgentClient::new(link, host, hostname, events, abort),
            requests,
            dead,
        }
    }

    /// Every request so far, in order; the elements of a `Many` one by one.
    pub fn requests(&self) -> Vec<Request> {
        self.requests
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// The link breaks now, as if the machine had gone.
    pub fn die(&self) {
        self.dead.store(true, Ordering::SeqCst);
    }

    /// The switch behind [`die`](Self::die), for handlers that die of a request.
    #[must_use]
    pub fn death_switch(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.dead)
    }
}

/// A fault for tests.
#[must_use]
pub fn fault(kind: FaultKind, message: &str) -> Fault {
    Fault {
        kind,
        message: message.to_owned(),
        hint: None,
    }
}

struct OtherEnd {
    handler: Handler,
    requests: Arc<Mutex<Vec<Request>>>,
    to_cli: Sender<Incoming>,
}

impl OtherEnd {
    fn run(mut self, from_cli: &crossbeam_channel::Receiver<Vec<u8>>, dead: &AtomicBool) {
        let mut splitter = FrameSplitter::new();
        let closed = loop {
            if dead.load(Ordering::SeqCst) {
                break closed("connection reset by peer", false);
            }
            match from_cli.recv_timeout(Duration::from_millis(2)) {
                Ok(bytes) => splitter.feed(&bytes),
                Err(RecvTimeoutError::Timeout) => continue,
                Err(RecvTimeoutError::Disconnected) => break closed("ended", true),
            }
            while let Some(frame) = splitter.next_frame().expect("our own frames are valid") {
                self.take(&frame);
            }
        };
        let _ = self.to_cli.send(Incoming::Closed(closed));
    }

    fn take(&mut self, frame: &Frame) {
        match frame.kind {
            Kind::Ping => self.send(Kind::Pong, Vec::new()),
            Kind::Call => {
                let call: Call =
                    serde_json::from_slice(&frame.payload).expect("our own calls are valid");
                let result = self.answer(&call.request);
                let answer = Answer {
                    id: call.id,
                    result,
                };
                let payload = serde_json::to_vec(&answer).expect("answers are plain data");
                self.send(Kind::Answer, payload);
            }
            _ => {}
        }
    }

    fn answer(&mut self, request: &Request) -> Result<Reply, Fault> {
        if let Request::Many(requests) = request {
            return requests
                .iter()
                .map(|request| self.answer(request))
                .collect::<Result<Vec<_>, _>>()
                .map(Reply::Many);
        }
        self.requests
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(request.clone());
        (self.handler)(request)
    }

    fn send(&self, kind: Kind, payload: Vec<u8>) {
        let _ = self.to_cli.send(Incoming::Frame(Frame { kind, payload }));
    }
}

fn closed(reason: &str, orderly: bool) -> Closed {
    Closed {
        reason: reason.to_owned(),
        stderr: String::new(),
        orderly,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::client::AgentError;

    fn fake() -> FakeAgent {
        FakeAgent::start(
            Host::Target,
            "vega",
            EventSink::none(),
            AbortFlag::new(),
            |request| match request {
                Request::Goodbye => Ok(Reply::Done),
                _ => Err(fault(FaultKind::Invalid, "no")),
            },
        )
    }

    #[test]
    fn answers_come_from_the_closure_and_requests_are_kept() {
        let fake = fake();
        assert!(matches!(
            fake.client.call(Request::Goodbye),
            Ok(Reply::Done)
        ));
        assert!(matches!(
            fake.client
                .call(Request::Many(vec![Request::Goodbye, Request::Abort])),
            Err(AgentError::Fault { .. })
        ));
        assert_eq!(fake.requests().len(), 3);
    }

    #[test]
    fn a_dead_agent_is_a_lost_one() {
        let fake = fake();
        fake.die();
        while fake.client.closed().is_none() {
            std::thread::sleep(Duration::from_millis(1));
        }
        assert!(matches!(
            fake.client.call(Request::Goodbye),
            Err(AgentError::Lost { .. })
        ));
    }
}
