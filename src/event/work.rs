//! What somebody is asked to do right now: what is being waited for while nothing else is heard.
//!
//! Everything that may take a while announces itself before and is taken back after, by a guard.
//! Nobody decides here whether it takes long: whoever shows a run does, when it has become silent.

use std::sync::atomic::{AtomicU64, Ordering};

use super::{Event, EventSink};

/// A piece of work begins or has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkEvent {
    /// The same at its beginning and its end, and no other's.
    pub id: u64,
    /// The name of the machine that does it.
    pub machine: String,
    /// What it does, as a phrase that follows a colon ("comparing /home").
    pub doing: String,
    /// Whether it has ended.
    pub ended: bool,
}

/// Work that goes on until this is dropped.
#[derive(Debug)]
pub struct Working {
    events: EventSink,
    event: WorkEvent,
}

impl EventSink {
    /// Says that `machine` is busy `doing` something until the guard is dropped.
    #[must_use]
    pub fn working(&self, machine: &str, doing: impl Into<String>) -> Working {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let event = WorkEvent {
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            machine: machine.to_owned(),
            doing: doing.into(),
            ended: false,
        };
        self.emit(&Event::Work(event.clone()));
        Working {
            events: self.clone(),
            event,
        }
    }
}

impl Drop for Working {
    fn drop(&mut self) {
        self.event.ended = true;
        self.events.emit(&Event::Work(self.event.clone()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_is_announced_and_taken_back() {
        let mut sink = EventSink::none();
        let heard = sink.subscribe();
        let first = sink.working("vega", "comparing /home");
        let second = sink.working("vega", "looking at its free space");
        drop(first);
        drop(second);
        let seen: Vec<(String, bool)> = heard
            .try_iter()
            .map(|event| match event {
                Event::Work(work) => (work.doing, work.ended),
                other => panic!("{other:?}"),
            })
            .collect();
        let expected = [
            ("comparing /home", false),
            ("looking at its free space", false),
            ("comparing /home", true),
            ("looking at its free space", true),
        ];
        assert_eq!(
            seen,
            expected.map(|(doing, ended)| (doing.to_owned(), ended))
        );
    }
}
