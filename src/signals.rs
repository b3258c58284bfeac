//! Signals: the first asks the run to stop, the second ends it at once.
//!
//! What is ignored from the start (`nohup`, `&` in a script) stays ignored. SIGPIPE stays ignored as
//! the Rust runtime sets it: a closed pipe is an error of the write.

use std::io;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::Map;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::{Handle, Signals};

use crate::event::{EventSink, LogLevel};
use crate::exit::ExitStatus;
use crate::interrupt::AbortFlag;

/// `timeout` signals its child and then the child's group: that is one wish to end, not two.
const SAME_WISH: Duration = Duration::from_secs(1);

/// The thread that hears signals; ends when this is stopped or dropped.
#[derive(Debug)]
pub struct SignalThread {
    handle: Handle,
    thread: Option<JoinHandle<()>>,
}

/// From now on SIGINT does nothing here: Ctrl-C is for the program that has the terminal (a pager).
pub fn leave_interrupts_to_others() -> io::Result<()> {
    let heard = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    signal_hook::flag::register(SIGINT, heard).map(drop)
}

/// Starts hearing SIGINT, SIGTERM and SIGHUP.
///
/// The first raises `abort` and says so through `events`. A second SIGINT, or a second SIGTERM that is
/// not part of the first, ends the process at once with status 130, after `last_words` (restoring the
/// terminal): it must not wait for anything. A SIGHUP is never the second: a closing terminal sends
/// more than one, and the clean-up is still wanted.
pub fn listen(
    abort: AbortFlag,
    events: EventSink,
    last_words: impl Fn() + Send + 'static,
) -> io::Result<SignalThread> {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = ignored_mask(&status);
    let heard = [SIGINT, SIGTERM, SIGHUP]
        .into_iter()
        .filter(|signal| ignored & (1 << (signal - 1)) == 0);
    let mut signals = Signals::new(heard.clone())?;
    // In the handler itself: the flag must be up even if the thread is late.
    for signal in heard {
        signal_hook::flag::register(signal, abort.as_atomic())?;
    }
    let handle = signals.handle();
    let thread = std::thread::Builder::new()
        .name("signal".into())
        .spawn(move || {
            let mut first: Option<Instant> = None;
            for signal in signals.forever() {
                abort.raise();
                let Some(at) = first else {
                    first = Some(Instant::now());
                    events.log(LogLevel::Info, "core", None, message(signal), Map::new());
                    continue;
                };
                if ends_at_once(signal, at.elapsed()) {
                    last_words();
                    // Not `std::process::exit`: no exit handlers while other threads run.
                    signal_hook::low_level::exit(ExitStatus::Interrupted.code().into());
                }
            }
        })?;
    Ok(SignalThread {
        handle,
        thread: Some(thread),
    })
}

fn message(signal: i32) -> &'static str {
    match signal {
        SIGINT => "stopping: cleaning up, press Ctrl-C again to leave at once",
        SIGTERM => "stopping (SIGTERM): cleaning up, a second one ends the program at once",
        _ => "stopping (SIGHUP): cleaning up",
    }
}

fn ends_at_once(signal: i32, since_first: Duration) -> bool {
    match signal {
        SIGINT => true,
        SIGTERM => since_first >= SAME_WISH,
        _ => false,
    }
}

/// The signals a process ignores, from its `/proc/PID/status`: bit n-1 for signal n.
fn ignored_mask(status: &str) -> u64 {
    status
        .lines()
        .find_map(|line| line.strip_prefix("SigIgn:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .unwrap_or(0)
}

impl SignalThread {
    /// Ends the thread. From then on signals are swallowed: what is left to do is a moment's work.
    pub fn stop(mut self) {
        self.end();
    }

    fn end(&mut self) {
        self.handle.close();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for SignalThread {
    fn drop(&mut self) {
        self.end();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_second_wish_ends_at_once() {
        let (soon, later) = (Duration::from_millis(3), Duration::from_secs(2));
        assert!(ends_at_once(SIGINT, soon));
        assert!(!ends_at_once(SIGTERM, soon), "`timeout` signals twice");
        assert!(ends_at_once(SIGTERM, later));
        assert!(
            !ends_at_once(SIGHUP, later),
            "a closing terminal signals twice"
        );
    }

    #[test]
    fn ignored_signals_are_read_from_the_mask() {
        let status = "Name:\tx\nSigBlk:\t0000000000000000\nSigIgn:\t0000000000001001\n";
        let mask = ignored_mask(status);
        assert_ne!(mask & (1 << (SIGHUP - 1)), 0);
        assert_eq!(mask & (1 << (SIGINT - 1)), 0);
        assert_eq!(ignored_mask(""), 0);
    }
}
