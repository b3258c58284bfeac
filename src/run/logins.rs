//! Somebody at work on the target's desktop: programs there keep files open and write their old state
//! over what a sync brings.

use std::path::Path;

use super::error::RunError;
use super::gates::Gate;
use super::{Pair, Peer, Shared};
use crate::agent::client::PendingCall;
use crate::agent::health::{Health, Login};
use crate::agent::protocol::{Reply, Request};
use crate::config::Config;
use crate::escape::escape_str;
use crate::modules::user_data;

/// The flag of the gate.
pub(super) const FLAG: &str = "--allow-logged-in";

/// More names than these are counted.
const NAMED: usize = 4;

/// Asks how a machine is doing, without waiting for the answer.
pub(super) fn begin(peer: &Peer) -> Result<PendingCall, RunError> {
    let call = peer.machine.agent.begin(Request::Health);
    call.map_err(RunError::agent("looking at the machine"))
}

/// Takes the answer to [`begin`].
pub(super) fn finish(peer: &Peer, call: &PendingCall) -> Result<Health, RunError> {
    let doing = || RunError::agent("looking at the machine");
    match call.wait(None).map_err(doing())? {
        Reply::Health(health) => Ok(*health),
        _ => Err(doing()(peer.machine.agent.nonsense("not how it is doing"))),
    }
}

/// The gate, if somebody whose files are synced is at work on the target's desktop.
pub(super) fn gate(
    shared: &Shared,
    pair: &Pair,
    call: &PendingCall,
) -> Result<Option<Gate>, RunError> {
    let health = finish(&pair.target, call)?;
    let (source, target) = (&pair.source.machine.hostname, &pair.target.machine.hostname);
    let logins = health.logins.unwrap_or_default();
    let at_work = at_work(&logins, &shared.config);
    Ok((!at_work.is_empty()).then(|| Gate {
        finding: format!(
            "{} logged in on the desktop of {target}: log out there first, or programs that run may \
             write their old state over what this sync brings",
            names(&at_work)
        ),
        question: format!("Make {target} like {source} meanwhile?"),
        detail: Vec::new(),
        effect: format!("make {target} like {source} while they work on it"),
        flag: FLAG,
        opened: shared.options.allow_logged_in,
    }))
}

/// Desktops of people whose homes are among the synced folders.
pub(super) fn at_work<'a>(logins: &'a [Login], config: &Config) -> Vec<&'a Login> {
    if !config.is_on(user_data::NAME) {
        return Vec::new();
    }
    let folders = &config.user_data.folders;
    let is_synced = |login: &&Login| {
        (login.home.as_ref()).is_none_or(|home| {
            let mut folders = folders.iter();
            folders.any(|f| home.starts_with(&f.path) || Path::new(&f.path).starts_with(home))
        })
    };
    let desktops = logins.iter().filter(|login| login.is_graphical);
    desktops.filter(is_synced).collect()
}

/// `anna is`, `anna and dev are`, each name once.
fn names(logins: &[&Login]) -> String {
    let mut names: Vec<String> = logins.iter().map(|login| escape_str(&login.user)).collect();
    names.dedup();
    let verb = if names.len() == 1 { "is" } else { "are" };
    if names.len() > NAMED {
        let more = names.len() - NAMED;
        names.truncate(NAMED);
        names.push(format!("{more} more"));
    }
    match names.pop() {
        Some(last) if !names.is_empty() => format!("{} and {last} {verb}", names.join(", ")),
        Some(only) => format!("{only} {verb}"),
        None => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn people_are_named_once_and_many_are_counted() {
        let logins: Vec<Login> = ["anna", "anna", "ben", "cid", "dan", "eve", "fay"]
            .map(|user| Login {
                user: user.into(),
                home: None,
                is_graphical: true,
                place: "seat0".into(),
            })
            .into();
        let of = |count: usize| names(&logins.iter().take(count).collect::<Vec<_>>());
        assert_eq!(of(2), "anna is");
        assert_eq!(of(4), "anna, ben and cid are");
        assert_eq!(of(7), "anna, ben, cid, dan and 2 more are");
    }
}
