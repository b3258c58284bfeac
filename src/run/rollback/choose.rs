//! Which session a rollback undoes, and on which machine: what a history and a marker say, and what was
//! typed.

use crate::event::Host;
use crate::record::sessions::{find, undone};
use crate::record::{HistoryEntry, MachineState};
use crate::run::error::RunError;
use crate::snapshot::name::is_session_id;

/// A session to go back before, and the machine it changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    /// The session.
    pub session: String,
    /// Where its target is.
    pub target: Target,
}

/// The machine that a session changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// The one whose memory was asked.
    Here,
    /// Another one.
    There {
        /// How it is reached.
        address: String,
        /// Its identity, as far as it was written down.
        machine_id: Option<String>,
    },
}

fn usage(message: String, hint: &str) -> RunError {
    RunError::Usage {
        message,
        hint: hint.to_owned(),
    }
}

const LIST: &str = "`pc-switcher history` lists them";

/// Chooses from what a machine remembers: the session whose name begins with `wanted`, or the last one.
///
/// With `only_here`, the rollback is of the machine that remembers, whoever else took part: then a
/// session that nobody remembers may be named in full, because its snapshots are enough to go back.
pub fn choose(
    state: &MachineState,
    wanted: Option<&str>,
    only_here: bool,
) -> Result<Choice, RunError> {
    let marker = state.incomplete.as_ref();
    let session = match wanted {
        Some(wanted) => {
            let known = state.history.iter().map(|entry| entry.session.as_str());
            let known = known.chain(marker.map(|marker| marker.session.as_str()));
            match find(known, wanted) {
                Ok(session) => session.to_owned(),
                Err(_) if only_here && is_session_id(wanted) => wanted.to_owned(),
                Err(error) => return Err(usage(error.to_string(), LIST)),
            }
        }
        None => last(state, only_here)?,
    };
    if only_here {
        return Ok(Choice {
            session,
            target: Target::Here,
        });
    }
    let entry = state.history.iter().find(|entry| entry.session == session);
    let marker = marker.filter(|marker| {
        let of = marker.rollback_of.as_ref();
        marker.session == session || of == Some(&session)
    });
    let (role, address, machine_id) = match (entry, marker) {
        (Some(entry), _) => (
            entry.role,
            entry.address.as_ref().unwrap_or(&entry.target.hostname),
            Some(entry.target.machine_id.clone()),
        ),
        (None, Some(marker)) => (
            marker.role,
            marker.address.as_ref().unwrap_or(&marker.target),
            None,
        ),
        (None, None) => return Err(usage(format!("no session is called {session:?}"), LIST)),
    };
    Ok(Choice {
        session,
        target: match role {
            Host::Target => Target::Here,
            Host::Source => Target::There {
                address: address.clone(),
                machine_id,
            },
        },
    })
}

/// The session that a rollback without a name undoes: the one that died, else the last one.
fn last(state: &MachineState, only_here: bool) -> Result<String, RunError> {
    let is_ours = |role: Host| !only_here || role == Host::Target;
    if let Some(marker) = state.incomplete.as_ref().filter(|m| is_ours(m.role)) {
        // A rollback that died is finished by going there once more.
        let session = marker.rollback_of.as_ref().unwrap_or(&marker.session);
        return Ok(session.clone());
    }
    let is_sync = |entry: &&HistoryEntry| entry.rollback_of.is_none() && is_ours(entry.role);
    let Some(entry) = state.history.iter().rev().find(is_sync) else {
        return Err(usage(
            "there is no sync to roll back".to_owned(),
            "name a session, and its machine with --host or --local",
        ));
    };
    if undone(&state.history).contains(&entry.session) {
        // Once more without a name would go back one sync further, which few who type it mean.
        return Err(usage(
            format!("the last sync, {}, was rolled back already", entry.session),
            "name the session to go back before; one of a rollback undoes that rollback",
        ));
    }
    Ok(entry.session.clone())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::SessionState;
    use crate::record::testing::{entry, marker};

    fn state() -> MachineState {
        let mut pushed = entry("00000001", "atlas", "vega", SessionState::Completed);
        pushed.address = Some("vega.lan".to_owned());
        let mut pulled = entry("00000002", "vega", "atlas", SessionState::Completed);
        pulled.role = Host::Target;
        let third = entry("00000003", "atlas", "vega", SessionState::Failed);
        MachineState {
            history: vec![pushed, pulled, third],
            incomplete: None,
        }
    }

    fn there(address: &str) -> Target {
        Target::There {
            address: address.to_owned(),
            machine_id: Some("id-of-vega".to_owned()),
        }
    }

    fn chosen(state: &MachineState, wanted: Option<&str>, only_here: bool) -> (String, Target) {
        let choice = choose(state, wanted, only_here).unwrap();
        (choice.session, choice.target)
    }

    #[test]
    fn the_last_sync_is_rolled_back_where_it_changed_something() {
        let state = state();
        assert_eq!(
            chosen(&state, None, false),
            ("00000003".into(), there("vega"))
        );
        assert_eq!(
            chosen(&state, Some("00000001"), false),
            ("00000001".into(), there("vega.lan"))
        );
        assert_eq!(
            chosen(&state, Some("00000002"), false),
            ("00000002".into(), Target::Here)
        );
        // Of this machine alone: the last that changed it.
        assert_eq!(
            chosen(&state, None, true),
            ("00000002".into(), Target::Here)
        );
    }

    #[test]
    fn one_that_died_comes_first_and_a_rollback_that_died_is_finished() {
        let mut state = state();
        state.incomplete = Some(marker("00000004", Host::Source));
        let unnamed = Target::There {
            address: "vega".to_owned(),
            machine_id: None,
        };
        assert_eq!(chosen(&state, None, false), ("00000004".into(), unnamed));
        // A push from here that died has left this machine itself whole.
        assert_eq!(
            chosen(&state, None, true),
            ("00000002".into(), Target::Here)
        );
        let mut half = marker("00000005", Host::Target);
        half.rollback_of = Some("00000002".to_owned());
        state.incomplete = Some(half);
        assert_eq!(
            chosen(&state, None, true),
            ("00000002".into(), Target::Here)
        );
        assert_eq!(
            chosen(&state, None, false),
            ("00000002".into(), Target::Here)
        );
    }

    #[test]
    fn what_was_rolled_back_is_not_taken_for_the_last_sync_once_more() {
        let mut state = state();
        let mut rollback = entry("00000006", "atlas", "vega", SessionState::Completed);
        rollback.rollback_of = Some("00000003".to_owned());
        state.history.push(rollback);
        let error = choose(&state, None, false).unwrap_err();
        assert!(error.to_string().contains("rolled back already"), "{error}");
        // By name everything can be gone back before, the rollback too.
        assert_eq!(chosen(&state, Some("00000006"), false).0, "00000006");
        assert_eq!(chosen(&state, Some("00000001"), false).0, "00000001");
    }

    #[test]
    fn a_session_nobody_remembers_is_accepted_where_its_snapshots_are() {
        let state = MachineState::default();
        assert_eq!(
            chosen(&state, Some("abcdef01"), true),
            ("abcdef01".into(), Target::Here)
        );
        for (wanted, only_here) in [(Some("abcdef01"), false), (Some("abc"), true), (None, true)] {
            let error = choose(&state, wanted, only_here).unwrap_err();
            assert!(matches!(error, RunError::Usage { .. }), "{wanted:?}");
        }
    }
}
