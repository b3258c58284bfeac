//! Stream frames on their way to a service: queued apart from the control frames behind them.
//!
//! The reader of the input must go on answering pings while a service is busy, so it does not wait
//! for the service: it queues. What is queued is bounded in bytes; only beyond that does the reader
//! wait, which in the end holds up the sender.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded, unbounded};

/// Queued for a service before the reader waits.
pub const MAX_QUEUED: usize = 32 << 20;

/// Payloads beyond those counted that the service can fetch without the relay.
const READY: usize = 4;

/// Bytes that are queued, and a bell for when they become fewer.
#[derive(Debug, Default)]
pub struct Backlog {
    bytes: Mutex<usize>,
    fewer: Condvar,
}

impl Backlog {
    fn add(&self, count: usize) {
        *self.bytes.lock().unwrap_or_else(PoisonError::into_inner) += count;
    }

    fn subtract(&self, count: usize) {
        *self.bytes.lock().unwrap_or_else(PoisonError::into_inner) -= count;
        self.fewer.notify_all();
    }

    /// Waits for room for at most `limit`; whether there is some.
    #[must_use]
    pub fn wait_for_room(&self, limit: Duration) -> bool {
        let bytes = self.bytes.lock().unwrap_or_else(PoisonError::into_inner);
        let (bytes, _) = self
            .fewer
            .wait_timeout_while(bytes, limit, |bytes| *bytes > MAX_QUEUED)
            .unwrap_or_else(PoisonError::into_inner);
        *bytes <= MAX_QUEUED
    }
}

/// The reader's end of a service's stream. Dropping it disconnects the service once it has
/// fetched what is queued.
#[derive(Debug)]
pub struct Inflow {
    queue: Sender<Vec<u8>>,
    backlog: Arc<Backlog>,
}

impl Inflow {
    /// A new stream: the reader's end and the service's.
    pub fn open() -> std::io::Result<(Self, Receiver<Vec<u8>>)> {
        let (queue, queued) = unbounded::<Vec<u8>>();
        let (ready, receiver) = bounded(READY);
        let backlog = Arc::new(Backlog::default());
        let inflow = Self {
            queue,
            backlog: Arc::clone(&backlog),
        };
        std::thread::Builder::new()
            .name("inflow".to_owned())
            .spawn(move || {
                for payload in queued {
                    let count = payload.len();
                    // A service that has gone away wants no more; what comes still is counted off.
                    let _ = ready.send(payload);
                    backlog.subtract(count);
                }
            })?;
        Ok((inflow, receiver))
    }

    /// Queues a payload; never waits.
    pub fn push(&self, payload: Vec<u8>) {
        self.backlog.add(payload.len());
        let _ = self.queue.send(payload);
    }

    /// The queue's size, to wait for room without holding on to the stream itself.
    #[must_use]
    pub fn backlog(&self) -> Arc<Backlog> {
        Arc::clone(&self.backlog)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHUNK: usize = 1 << 20;

    #[test]
    fn a_busy_service_fills_the_queue_and_an_idle_one_empties_it() {
        let (inflow, receiver) = Inflow::open().unwrap();
        let backlog = inflow.backlog();
        assert!(backlog.wait_for_room(Duration::ZERO));
        // So much that the queue stays too long whatever the relay has moved on.
        let pushed = MAX_QUEUED / CHUNK + READY + 2;
        for _ in 0..pushed {
            inflow.push(vec![0; CHUNK]);
        }
        assert!(!backlog.wait_for_room(Duration::from_millis(20)));
        let fetched = READY + 4;
        for _ in 0..fetched {
            receiver.recv().unwrap();
        }
        assert!(backlog.wait_for_room(Duration::from_secs(5)));
        drop(inflow);
        assert_eq!(receiver.iter().count(), pushed - fetched);
    }

    #[test]
    fn a_service_that_has_gone_away_leaves_no_backlog() {
        let (inflow, receiver) = Inflow::open().unwrap();
        drop(receiver);
        for _ in 0..100 {
            inflow.push(vec![0; 1 << 20]);
        }
        assert!(inflow.backlog().wait_for_room(Duration::from_secs(5)));
    }
}
