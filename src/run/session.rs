//! One run's identity and state: which state may follow which, what each module came to.
//!
//! The session stores; it does nothing. The phases in this folder do the work and report here.

use std::fmt::Write as _;

use jiff::Timestamp;

use crate::event::{ModuleResult, ModuleStatus, SessionState};

/// A transition that the state machine does not have: a defect of ours, never of the outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a session cannot go from {from:?} to {to:?}")]
pub struct ForbiddenTransition {
    /// Where it is.
    pub from: SessionState,
    /// Where it was sent.
    pub to: SessionState,
}

/// The result of a module that did its work.
pub(super) fn success(module: &str, began: Timestamp, summary: String) -> ModuleResult {
    ModuleResult {
        module: module.to_owned(),
        status: ModuleStatus::Success,
        started_at: began,
        ended_at: Timestamp::now(),
        error: None,
        summary: Some(summary),
    }
}

/// One run.
#[derive(Debug, Clone)]
pub struct SyncSession {
    id: String,
    started_at: Timestamp,
    state: SessionState,
    results: Vec<ModuleResult>,
    order: Vec<String>,
}

impl SyncSession {
    /// A new session with an id of its own.
    #[must_use]
    pub fn new() -> Self {
        Self::with_id(new_id())
    }

    /// A session with a given id (tests).
    #[must_use]
    pub fn with_id(id: String) -> Self {
        Self {
            id,
            started_at: Timestamp::now(),
            state: SessionState::Initializing,
            results: Vec::new(),
            order: Vec::new(),
        }
    }

    /// 8 hex digits.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// When it began, UTC.
    #[must_use]
    pub fn started_at(&self) -> Timestamp {
        self.started_at
    }

    /// Where it is.
    #[must_use]
    pub fn state(&self) -> SessionState {
        self.state
    }

    /// One result per module so far, in order.
    #[must_use]
    pub fn results(&self) -> &[ModuleResult] {
        &self.results
    }

    /// Goes to `to`, if the state machine has that step. A failing or aborted session always
    /// passes through [`SessionState::Cleanup`]; a completed one may.
    pub fn advance(&mut self, to: SessionState) -> Result<(), ForbiddenTransition> {
        if allowed(self.state, to) {
            self.state = to;
            Ok(())
        } else {
            Err(ForbiddenTransition {
                from: self.state,
                to,
            })
        }
    }

    /// Results are kept in this order of modules; others follow in the order they come.
    pub fn set_order(&mut self, modules: Vec<String>) {
        self.order = modules;
    }

    /// Stores what a module came to; a second result of the same module replaces the first.
    pub fn push_result(&mut self, result: ModuleResult) {
        match self.results.iter_mut().find(|r| r.module == result.module) {
            Some(old) => *old = result,
            None => self.results.push(result),
        }
        let order = &self.order;
        let place = |module: &String| order.iter().position(|m| m == module);
        (self.results).sort_by_key(|result| place(&result.module).unwrap_or(order.len()));
    }

    /// Stores that a module was not run, and why.
    pub fn skip(&mut self, module: &str, why: &str) {
        let now = Timestamp::now();
        self.push_result(ModuleResult {
            module: module.to_owned(),
            status: ModuleStatus::Skipped,
            started_at: now,
            ended_at: now,
            error: Some(why.to_owned()),
            summary: None,
        });
    }

    /// Whether a module has a result.
    #[must_use]
    pub fn has_result(&self, module: &str) -> bool {
        self.results.iter().any(|r| r.module == module)
    }
}

impl Default for SyncSession {
    fn default() -> Self {
        Self::new()
    }
}

/// The state machine.
fn allowed(from: SessionState, to: SessionState) -> bool {
    use SessionState::{Aborted, Cleanup, Completed, Executing, Failed, Initializing, Validating};
    matches!(
        (from, to),
        (Initializing, Validating | Cleanup)
            | (Validating, Executing | Cleanup)
            | (Executing, Completed | Cleanup)
            | (Cleanup, Completed | Aborted | Failed)
    )
}

/// 8 hex digits from the kernel's random numbers.
#[must_use]
pub fn new_id() -> String {
    let mut bytes = [0_u8; 4];
    // 4 bytes come whole or not at all (getrandom(2)); at worst it is interrupted.
    while rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty()) != Ok(4) {}
    bytes.iter().fold(String::with_capacity(8), |mut id, byte| {
        let _ = write!(id, "{byte:02x}");
        id
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use SessionState::{Aborted, Cleanup, Completed, Executing, Failed, Initializing, Validating};

    const ALL: [SessionState; 7] = [
        Initializing,
        Validating,
        Executing,
        Cleanup,
        Completed,
        Aborted,
        Failed,
    ];

    #[test]
    fn exactly_the_designed_transitions_are_allowed() {
        let expected = [
            (Initializing, Validating),
            (Initializing, Cleanup),
            (Validating, Executing),
            (Validating, Cleanup),
            (Executing, Completed),
            (Executing, Cleanup),
            (Cleanup, Completed),
            (Cleanup, Aborted),
            (Cleanup, Failed),
        ];
        for from in ALL {
            for to in ALL {
                let mut session = SyncSession::new();
                session.state = from;
                let result = session.advance(to);
                if expected.contains(&(from, to)) {
                    assert_eq!((result, session.state()), (Ok(()), to));
                } else {
                    assert_eq!(result, Err(ForbiddenTransition { from, to }));
                    assert_eq!(session.state(), from, "a refused step changes nothing");
                }
            }
        }
    }

    #[test]
    fn nothing_follows_an_end_state() {
        for end in [Completed, Aborted, Failed] {
            assert!(ALL.iter().all(|&to| !allowed(end, to)));
        }
    }

    #[test]
    fn ids_are_eight_hex_digits_and_differ() {
        let (a, b) = (new_id(), new_id());
        assert_ne!(a, b);
        for id in [a, b] {
            assert_eq!(id.len(), 8);
            assert!(id.bytes().all(|b| b.is_ascii_hexdigit()), "{id}");
        }
    }

    #[test]
    fn results_are_kept_in_order_and_what_has_no_place_comes_last() {
        let mut session = SyncSession::new();
        session.set_order(["a", "b"].map(str::to_owned).into());
        for module in ["watch", "b", "other", "a"] {
            session.skip(module, "");
        }
        let names: Vec<&str> = session
            .results()
            .iter()
            .map(|r| r.module.as_str())
            .collect();
        assert_eq!(names, ["a", "b", "watch", "other"]);
    }

    #[test]
    fn a_modules_second_result_replaces_its_first() {
        let mut session = SyncSession::new();
        session.skip("packages", "not reached");
        session.skip("packages", "disabled");
        assert_eq!(session.results().len(), 1);
        assert_eq!(session.results()[0].error.as_deref(), Some("disabled"));
    }
}
