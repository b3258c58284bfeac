//! Changes on their way to the log, many in one event: a line for each file of a large sync must
//! cost next to nothing.

use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;

use super::{Event, EventSink, Host};
use crate::change::Change;

/// Changes in one event; a full batch is said at once.
const BATCH: usize = 512;

/// Events that may wait to be written down before more changes are held back.
const MAX_BACKLOG: usize = 256;

/// How long a batch is held back at most.
const PATIENCE: Duration = Duration::from_secs(1);

/// Changes that were planned, or made.
#[derive(Debug, Clone)]
pub struct ChangesEvent {
    /// When, UTC.
    pub timestamp: Timestamp,
    /// The module whose changes they are.
    pub module: String,
    /// The machine that is changed.
    pub host: Host,
    /// Whether they are planned in a dry run; otherwise they were made.
    pub planned: bool,
    /// What changes, in order.
    pub changes: Arc<[Change]>,
}

/// Collects changes and says them in batches; the rest when it is dropped.
#[derive(Debug)]
pub struct ChangeBatch {
    events: EventSink,
    module: String,
    host: Host,
    planned: bool,
    batch: Vec<Change>,
    begun: Timestamp,
}

impl EventSink {
    /// A batch for the changes of `module` on `host`.
    #[must_use]
    pub fn changes(&self, module: &str, host: Host, planned: bool) -> ChangeBatch {
        ChangeBatch {
            events: self.clone(),
            module: module.to_owned(),
            host,
            planned,
            batch: Vec::new(),
            begun: Timestamp::now(),
        }
    }
}

impl ChangeBatch {
    /// Adds a change.
    pub fn push(&mut self, change: Change) {
        if self.batch.is_empty() {
            self.begun = Timestamp::now();
        }
        self.batch.push(change);
        if self.batch.len() >= BATCH {
            self.say();
        }
    }

    /// Says what was added so far.
    pub fn say(&mut self) {
        if self.batch.is_empty() {
            return;
        }
        // Whoever makes changes faster than they can be written down waits a little, so that they do
        // not pile up in memory; a log that has stopped must not stop the sync.
        let end = Instant::now() + PATIENCE;
        while self.events.backlog() > MAX_BACKLOG && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(1));
        }
        self.events.emit(&Event::Changes(ChangesEvent {
            timestamp: self.begun,
            module: self.module.clone(),
            host: self.host,
            planned: self.planned,
            changes: std::mem::take(&mut self.batch).into(),
        }));
    }
}

impl Drop for ChangeBatch {
    fn drop(&mut self) {
        self.say();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::change::Action;

    #[test]
    fn every_change_is_said_once_and_in_order() {
        let mut sink = EventSink::none();
        let heard = sink.subscribe();
        let mut batch = sink.changes("user_data", Host::Target, false);
        for n in 0..1300_u64 {
            batch.push(Change {
                action: Action::Create,
                item: Vec::new(),
                detail: String::new(),
                bytes: n,
                from: None,
            });
        }
        drop(batch);
        let mut sizes = Vec::new();
        for event in heard.try_iter() {
            let Event::Changes(event) = event else {
                panic!("{event:?}");
            };
            sizes.extend(event.changes.iter().map(|change| change.bytes));
        }
        assert_eq!(sizes, (0..1300).collect::<Vec<_>>());
    }
}
