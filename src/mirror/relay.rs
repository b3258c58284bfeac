//! The CLI between the two agents: hands their frames over unopened, takes out what is for itself.

use std::time::Duration;

use crossbeam_channel::{never, select};
use serde::Serialize;

use super::told;
use super::wire::{FOR_CLI, FOR_PEER, Message, Messages, MirrorReply, MirrorRequest, SERVICE};
use crate::agent::client::{AgentClient, AgentError, PendingCall};
use crate::agent::protocol::{Reply, Request};
use crate::buffers;
use crate::change::Change;
use crate::interrupt::AbortFlag;

/// Begins a mirror request.
pub fn begin(
    agent: &AgentClient,
    request: &MirrorRequest,
    changes: Option<&str>,
) -> Result<PendingCall, AgentError> {
    begin_with(agent, SERVICE, request, request.doing(), changes)
}

/// Begins a request of the service `name`; meanwhile the machine is said to be `doing` this.
pub fn begin_with(
    agent: &AgentClient,
    name: &str,
    request: &impl Serialize,
    doing: String,
    changes: Option<&str>,
) -> Result<PendingCall, AgentError> {
    let body = serde_json::to_value(request).expect("a request is plain data");
    let service = Request::Service {
        name: name.to_owned(),
        body,
        changes: changes.map(str::to_owned),
    };
    agent.begin_doing(service, doing)
}

fn mirror_reply(agent: &AgentClient, reply: Reply) -> Result<MirrorReply, AgentError> {
    match reply {
        Reply::Service(value) => {
            serde_json::from_value(value).map_err(|e| agent.nonsense(e.to_string()))
        }
        _ => Err(agent.nonsense("another reply than the mirror's")),
    }
}

/// Waits for the answer to a request of which nothing else is heard.
pub fn finish(agent: &AgentClient, call: &PendingCall) -> Result<MirrorReply, AgentError> {
    mirror_reply(agent, call.wait(None)?)
}

/// Runs a request on each machine that talk to each other, and relays until both have answered.
///
/// `on_message` gets what the target's agent has for the CLI.
pub fn run_pair(
    source: (&AgentClient, &MirrorRequest),
    target: (&AgentClient, &MirrorRequest),
    changes: Option<&str>,
    abort: &AbortFlag,
    on_message: &mut dyn FnMut(&Message<'_>),
) -> Result<(MirrorReply, MirrorReply), AgentError> {
    let (source, source_request) = source;
    let (target, target_request) = target;
    // What an earlier, broken-off request left on the way.
    for agent in [source, target] {
        while agent.stream().try_recv().is_ok() {}
    }
    let _streams = target.streams();
    let target_call = begin(target, target_request, changes)?;
    let source_call = begin(source, source_request, None)?;
    let (mut source_reply, mut target_reply) = (None, None);
    let closed = never();
    let (mut source_stream, mut target_stream) = (source.stream(), target.stream());
    while source_reply.is_none() || target_reply.is_none() {
        abort.check()?;
        select! {
            recv(source_stream) -> frame => match frame {
                Ok(frame) => hand_over(source, target, frame, on_message)?,
                Err(_) => source_stream = &closed,
            },
            recv(target_stream) -> frame => match frame {
                Ok(frame) => hand_over(target, source, frame, on_message)?,
                Err(_) => target_stream = &closed,
            },
            default(Duration::from_millis(2)) => {}
        }
        for (agent, call, reply) in [
            (source, &source_call, &mut source_reply),
            (target, &target_call, &mut target_reply),
        ] {
            if reply.is_none() {
                if let Some(answer) = call.poll() {
                    *reply = Some(mirror_reply(agent, answer?)?);
                } else if agent.closed().is_some() {
                    return Err(agent.lost());
                }
            }
        }
    }
    // Frames that were on the way when the answers came.
    while let Ok(frame) = target.stream().try_recv() {
        if frame.first() == Some(&FOR_CLI) {
            hand_over(target, source, frame, on_message)?;
        }
    }
    Ok((
        source_reply.expect("both answered"),
        target_reply.expect("both answered"),
    ))
}

/// What hears of changes: each goes to `visit`, its item the path below the tree.
pub fn hearing<'a>(
    agent: &'a AgentClient,
    visit: &'a mut dyn FnMut(Change) -> Result<(), AgentError>,
) -> impl FnMut(&Message<'_>) -> Result<(), AgentError> + 'a {
    move |message| match told::change(message) {
        Ok(None) => Ok(()),
        Ok(Some(change)) => visit(change),
        Err(error) => Err(agent.nonsense(error.to_string())),
    }
}

/// Runs a request on one machine that only talks to the CLI.
pub fn run_alone(
    agent: &AgentClient,
    request: &MirrorRequest,
    on_message: &mut dyn FnMut(&Message<'_>) -> Result<(), AgentError>,
) -> Result<MirrorReply, AgentError> {
    while agent.stream().try_recv().is_ok() {}
    let call = begin(agent, request, None)?;
    attend(agent, &call, on_message)
}

/// Hears what an agent has for the CLI until it has answered `call`.
pub fn attend(
    agent: &AgentClient,
    call: &PendingCall,
    on_message: &mut dyn FnMut(&Message<'_>) -> Result<(), AgentError>,
) -> Result<MirrorReply, AgentError> {
    let mut open = |frame: &[u8]| match frame.split_first() {
        Some((&FOR_CLI, payload)) => {
            for message in Messages::new(payload) {
                on_message(&message.map_err(|e| agent.nonsense(e.to_string()))?)?;
            }
            Ok(())
        }
        _ => Err(agent.nonsense("a frame for nobody")),
    };
    loop {
        select! {
            recv(agent.stream()) -> frame => match frame {
                Ok(frame) => open(&frame)?,
                Err(_) => return Err(agent.lost()),
            },
            recv(call.receiver()) -> answer => {
                let answer = answer.map_err(|_| agent.lost())?;
                let reply = mirror_reply(agent, call.convert(answer)?)?;
                // An answer follows all frames of its call.
                while let Ok(frame) = agent.stream().try_recv() {
                    open(&frame)?;
                }
                return Ok(reply);
            }
        }
    }
}

fn hand_over(
    from: &AgentClient,
    to: &AgentClient,
    frame: Vec<u8>,
    on_message: &mut dyn FnMut(&Message<'_>),
) -> Result<(), AgentError> {
    match frame.split_first() {
        Some((&FOR_PEER, _)) => {
            if to.send_stream(&frame)? {
                buffers::give(frame);
                return Ok(());
            }
            Err(from.nonsense("it sends the other agent without end what that has not asked for"))
        }
        Some((&FOR_CLI, payload)) => {
            for message in Messages::new(payload) {
                on_message(&message.map_err(|e| from.nonsense(e.to_string()))?);
            }
            Ok(())
        }
        _ => Err(from.nonsense("a frame for nobody")),
    }
}
