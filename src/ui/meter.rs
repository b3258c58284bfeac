//! How fast something moves, over the last seconds.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// How far back a rate looks.
const WINDOW: Duration = Duration::from_secs(6);

/// Samples closer together than this replace each other.
const APART: Duration = Duration::from_millis(250);

/// A rate below this much time of samples says nothing.
const SETTLE: Duration = Duration::from_secs(1);

/// A counter's recent past.
#[derive(Debug, Default)]
pub(super) struct Meter(VecDeque<(Instant, u64)>);

impl Meter {
    /// The counter is at `value` now.
    pub(super) fn add(&mut self, now: Instant, value: u64) {
        if self.0.back().is_some_and(|(_, last)| value < *last) {
            self.0.clear();
        }
        let second_last = self.0.len().checked_sub(2).map(|i| self.0[i].0);
        if second_last.is_some_and(|at| now - at < APART) {
            self.0.pop_back();
        }
        self.0.push_back((now, value));
        while self.0.len() > 2 && now - self.0[1].0 > WINDOW {
            self.0.pop_front();
        }
    }

    /// Units a second, falling while nothing comes; `None` until there is enough to say.
    pub(super) fn rate(&self, now: Instant) -> Option<f64> {
        let (first_at, first) = *self.0.front()?;
        let (_, last) = *self.0.back()?;
        let time = now.saturating_duration_since(first_at);
        (time >= SETTLE && self.0.len() > 1).then(|| precise(last - first) / time.as_secs_f64())
    }

    /// Time until `left` more units are done at the present rate.
    pub(super) fn time_for(&self, left: u64, now: Instant) -> Option<Duration> {
        let rate = self.rate(now).filter(|rate| *rate > 0.0)?;
        // More than a hundred hours is no forecast.
        Some(precise(left) / rate)
            .filter(|secs| *secs < 360_000.0)
            .map(Duration::from_secs_f64)
    }
}

/// Counters stay far below 2^52, and a rate needs no last digit.
#[expect(clippy::cast_precision_loss, reason = "a rate needs no last digit")]
fn precise(n: u64) -> f64 {
    n as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_follows_the_last_seconds_and_falls_when_nothing_comes() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut meter = Meter::default();
        assert_eq!(meter.rate(start), None);
        for tick in 0..200 {
            meter.add(at(tick * 50), tick * 50);
        }
        let rate = meter.rate(at(9950)).unwrap();
        assert!((990.0..1010.0).contains(&rate), "{rate}");
        assert!(meter.0.len() < 40, "{}", meter.0.len());
        let left = meter.time_for(5000, at(9950)).unwrap();
        assert!((4900..5100).contains(&left.as_millis()), "{left:?}");
        assert!(meter.rate(at(20_000)).unwrap() < rate / 2.0);
    }

    #[test]
    fn a_counter_that_goes_back_starts_again() {
        let start = Instant::now();
        let mut meter = Meter::default();
        meter.add(start, 1000);
        meter.add(start + Duration::from_secs(2), 5);
        assert_eq!(meter.rate(start + Duration::from_secs(3)), None);
    }
}
