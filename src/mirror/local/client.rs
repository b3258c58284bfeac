//! The CLI's side of [`LocalService`](super::LocalService): asking an agent, hearing what it says.

use super::super::drift::Told;
use super::super::relay::{attend, begin_with, hearing};
use super::super::wire::{Message, MirrorReply};
use super::{LocalPlan, LocalRequest, SERVICE};
use crate::agent::client::{AgentClient, AgentError};
use crate::agent::protocol::Reply;
use crate::change::Change;
use crate::snapshot::boot::Staying;

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

/// What is at each of `paths` below `tree` on the agent's machine.
pub fn find(
    agent: &AgentClient,
    tree: Vec<u8>,
    paths: Vec<Vec<u8>>,
) -> Result<Vec<Option<Told>>, AgentError> {
    let (count, request) = (paths.len(), LocalRequest::Find { tree, paths });
    let call = begin_with(agent, SERVICE, &request, request.doing(), None)?;
    let Reply::Service(value) = call.wait(None)? else {
        return Err(agent.nonsense("no answer about paths"));
    };
    let found: Vec<Option<Told>> =
        serde_json::from_value(value).map_err(|e| agent.nonsense(e.to_string()))?;
    if found.len() != count {
        return Err(agent.nonsense("an answer about other paths"));
    }
    Ok(found)
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

/// Has the agent compare the folder at `below` in `subvolume`, as it is now, with the older one that `plan`
/// is about, and keep what came of it.
pub fn since(
    agent: &AgentClient,
    plan: LocalPlan,
    (snapshot_dir, subvolume, below): (&str, &str, &[u8]),
    on_message: &mut OnMessage<'_>,
) -> Result<MirrorReply, AgentError> {
    let request = LocalRequest::Since {
        plan: Box::new(plan),
        snapshot_dir: snapshot_dir.to_owned(),
        subvolume: subvolume.to_owned(),
        below: below.to_vec(),
    };
    ask(agent, &request, None, on_message)
}

/// Asks whether the running root `subvolume` can be exchanged for the next boot, or has the copy made.
pub fn copy_root(
    agent: &AgentClient,
    (subvolume, snapshot_dir): (&str, &str),
    make: bool,
) -> Result<(), AgentError> {
    let request = LocalRequest::Copy {
        subvolume: subvolume.to_owned(),
        snapshot_dir: snapshot_dir.to_owned(),
        make,
    };
    let changes = make.then_some("make a copy of the root subvolume");
    ask(agent, &request, changes, &mut |_| Ok(())).map(drop)
}

/// Asks what kernels there are beside the root, and whether they would find their modules in the snapshot `back`;
/// what is mounted at `going_back` goes back as well.
pub fn boot(
    agent: &AgentClient,
    back: &str,
    going_back: Vec<String>,
) -> Result<Staying, AgentError> {
    let back = back.as_bytes().to_vec();
    let request = LocalRequest::Boot { back, going_back };
    let call = begin_with(agent, SERVICE, &request, request.doing(), None)?;
    match call.wait(None)? {
        Reply::Service(value) => {
            serde_json::from_value(value).map_err(|e| agent.nonsense(e.to_string()))
        }
        _ => Err(agent.nonsense("no answer about kernels")),
    }
}

/// Has the agent forget the copy of the root that has not taken its place.
pub fn drop_copy(agent: &AgentClient) -> Result<(), AgentError> {
    ask(agent, &LocalRequest::DropCopy, None, &mut |_| Ok(())).map(drop)
}

/// Gives the copy of the root its name, if it has not got it, and `files` of the directory `memory` as they
/// are now; the name that the running root is kept under.
pub fn take_place(agent: &AgentClient, memory: &str, files: &[&str]) -> Result<String, AgentError> {
    let request = LocalRequest::TakePlace {
        memory: memory.to_owned(),
        files: files.iter().map(|name| (*name).to_owned()).collect(),
    };
    let changes = Some("boot the copy of the root from now on");
    let call = begin_with(agent, SERVICE, &request, request.doing(), changes)?;
    match call.wait(None)? {
        Reply::Service(serde_json::Value::String(kept)) => Ok(kept),
        _ => Err(agent.nonsense("no name of the old root")),
    }
}

/// Calls `visit` with every change of the plan `id`, its item the path below the tree.
pub fn each_change(
    agent: &AgentClient,
    id: &str,
    visit: &mut dyn FnMut(Change) -> Result<(), AgentError>,
) -> Result<(), AgentError> {
    let request = LocalRequest::List { id: id.to_owned() };
    ask(agent, &request, None, &mut hearing(agent, visit)).map(drop)
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
