//! A limit on the bytes that are sent in a second, shared by all connections of a run.
//!
//! A bucket of tokens fills steadily. Whoever has something to send may while it is not empty and
//! takes out what was sent, so that it owes at most one packet for each connection.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// What may be sent at once after a pause: the limit's share of this time.
const BURST: Duration = Duration::from_millis(250);

/// A limit, or none; clones share it.
#[derive(Debug, Clone, Default)]
pub struct Throttle(Option<Arc<Mutex<Bucket>>>);

#[derive(Debug)]
struct Bucket {
    /// Bytes a second.
    rate: f64,
    tokens: f64,
    filled: Instant,
}

impl Bucket {
    fn fill(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.filled);
        self.filled = now;
        let most = self.rate * BURST.as_secs_f64();
        self.tokens = (self.tokens + self.rate * passed.as_secs_f64()).min(most);
    }
}

fn lock(bucket: &Mutex<Bucket>) -> MutexGuard<'_, Bucket> {
    bucket.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Throttle {
    /// A limit of so many bytes a second.
    #[must_use]
    #[allow(
        clippy::cast_precision_loss,
        reason = "a rate needs no more than 53 bits"
    )]
    pub fn per_second(bytes: u64) -> Self {
        Self(Some(Arc::new(Mutex::new(Bucket {
            rate: bytes.max(1) as f64,
            tokens: 0.0,
            filled: Instant::now(),
        }))))
    }

    /// How long nothing may be sent; `None`: something may be now.
    #[must_use]
    pub fn pause(&self) -> Option<Duration> {
        let mut bucket = lock(self.0.as_ref()?);
        bucket.fill(Instant::now());
        if bucket.tokens > 0.0 {
            return None;
        }
        // A little longer than it takes to owe nothing: a waiter must not come back too early.
        let seconds = -bucket.tokens / bucket.rate + 0.001;
        Some(Duration::from_secs_f64(seconds))
    }

    /// So many bytes were sent.
    #[allow(
        clippy::cast_precision_loss,
        reason = "a packet is no larger than that"
    )]
    pub fn sent(&self, bytes: usize) {
        if let Some(bucket) = &self.0 {
            lock(bucket).tokens -= bytes as f64;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_limit_nothing_waits() {
        let throttle = Throttle::default();
        throttle.sent(usize::MAX);
        assert_eq!(throttle.pause(), None);
    }

    #[test]
    fn clones_share_what_may_be_sent() {
        let (one, other) = (Throttle::per_second(1_000_000), Throttle::default());
        let two = one.clone();
        one.sent(500_000);
        let pause = two.pause().unwrap();
        assert!(
            (Duration::from_millis(400)..Duration::from_millis(600)).contains(&pause),
            "{pause:?}"
        );
        assert_eq!(other.pause(), None);
    }

    #[test]
    fn what_was_not_sent_in_a_pause_is_not_kept_for_long() {
        let mut bucket = Bucket {
            rate: 1000.0,
            tokens: 0.0,
            filled: Instant::now(),
        };
        bucket.fill(Instant::now() + Duration::from_hours(1));
        assert!((bucket.tokens - 250.0).abs() < 1.0, "{}", bucket.tokens);
    }
}
