//! The CLI's side of [`LocalService`](super::LocalService): asking an agent, hearing what it says.

use super::super::relay::{attend, begin_with};
use super::super::wire::{Message, MirrorReply};
use super::{LocalPlan, LocalRequest, SERVICE};
use crate::agent::client::{AgentClient, AgentError};

/// What an agent says while it works on a request.
pub type OnMessage<'a> = dyn FnMut(&Message<'_>) -> Result<(), AgentError> + 'a;

fn ask(
    agent: &AgentClient,
    request: &LocalRequest,
    changes: Option<&str>,
    on_message: &mut OnMessage<'_>,
) -> Result<MirrorReply, AgentError> {
    // What an earlier, broken-off request left on the way.
    while agent.stream().try_recv().is_ok() {}
    let call = begin_with(agent, SERVICE, request, request.doing(), changes)?;
    attend(agent, &call, on_message)
}

/// Has the agent compare two trees and keep the plan.
pub fn plan(
    agent: &AgentClient,
    wanted: LocalPlan,
    on_message: &mut OnMessage<'_>,
) -> Result<MirrorReply, AgentError> {
    ask(
        agent,
        &LocalRequest::Plan(Box::new(wanted)),
        None,
        on_message,
    )
}

/// Hears every operation of the plan `id` as [`Message::Change`].
pub fn list(
    agent: &AgentClient,
    id: &str,
    on_message: &mut OnMessage<'_>,
) -> Result<MirrorReply, AgentError> {
    ask(
        agent,
        &LocalRequest::List { id: id.to_owned() },
        None,
        on_message,
    )
}

/// Has the agent carry out the plan `id`; `changes` says what that means.
pub fn apply(
    agent: &AgentClient,
    id: &str,
    changes: &str,
    on_message: &mut OnMessage<'_>,
) -> Result<MirrorReply, AgentError> {
    let request = LocalRequest::Apply { id: id.to_owned() };
    ask(agent, &request, Some(changes), on_message)
}
