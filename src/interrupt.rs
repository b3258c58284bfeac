//! The abort flag: how a signal, or a failure elsewhere, stops the work in progress.
//!
//! The flag is looked at in every loop and while waiting; it is never reset within a run.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// The work was stopped by a signal before it was finished.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("interrupted")]
pub struct Interrupted;

/// A flag shared by every thread of a run; once raised it stays raised.
#[derive(Debug, Clone, Default)]
pub struct AbortFlag {
    raised: Arc<AtomicBool>,
    /// What else stops whoever looks at this one.
    above: Option<Arc<AbortFlag>>,
}

impl AbortFlag {
    /// A flag that is not raised.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Asks everything that shares this flag to stop.
    pub fn raise(&self) {
        self.raised.store(true, Ordering::SeqCst);
    }

    /// A flag that can be raised by itself and counts as raised when this one is: for a part of the
    /// work that may have to stop alone.
    #[must_use]
    pub fn below(&self) -> Self {
        Self {
            raised: Arc::default(),
            above: Some(Arc::new(self.clone())),
        }
    }

    /// Whether somebody asked to stop.
    #[must_use]
    pub fn is_raised(&self) -> bool {
        self.raised.load(Ordering::SeqCst)
            || self.above.as_ref().is_some_and(|above| above.is_raised())
    }

    /// `Err(Interrupted)` once the flag is raised, for use with `?` at a loop head.
    pub fn check(&self) -> Result<(), Interrupted> {
        if self.is_raised() {
            Err(Interrupted)
        } else {
            Ok(())
        }
    }

    /// Sleeps for `time`, waking early (with an error) when the flag is raised.
    pub fn sleep(&self, time: Duration) -> Result<(), Interrupted> {
        const STEP: Duration = Duration::from_millis(50);
        let end = Instant::now() + time;
        loop {
            self.check()?;
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            std::thread::sleep(left.min(STEP));
        }
    }

    /// The shared atomic, for signal-hook to store into.
    #[must_use]
    pub fn as_atomic(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.raised)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flag_below_is_raised_alone_or_with_the_one_above() {
        let above = AbortFlag::new();
        let (one, other) = (above.below(), above.below());
        one.raise();
        assert!(one.is_raised() && !other.is_raised() && !above.is_raised());
        above.raise();
        assert!(other.below().check().is_err());
    }
}
