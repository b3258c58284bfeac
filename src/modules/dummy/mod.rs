//! Two modules that only pretend: reference implementations of the contract, and test material.
//!
//! Each second of pretended work asks the machine one real, reading question, so that a lost
//! agent is noticed here as it is in a module that works.

mod fail;
mod success;

pub use fail::DummyFail;
pub use success::DummySuccess;

use std::time::Duration;

use crate::agent::protocol::{Reply, Request};
use crate::event::{Host, LogLevel, ProgressUpdate};
use crate::module::{ModuleContext, ModuleError};

/// What a dummy does at the end of each second, given how many seconds have passed on this
/// machine and in all.
type EachSecond<'a> = dyn FnMut(Host, u64, u64) -> Result<(), ModuleError> + 'a;

/// Pretends to work on the source, then on the target; returns the seconds it took.
fn pretend(
    context: &ModuleContext<'_>,
    source_secs: u64,
    target_secs: u64,
    each_second: &mut EachSecond<'_>,
) -> Result<u64, ModuleError> {
    let total = source_secs.saturating_add(target_secs);
    let mut elapsed = 0;
    for (host, secs) in [(Host::Source, source_secs), (Host::Target, target_secs)] {
        let machine = context.machine(host);
        let hostname = &machine.hostname;
        context.log(
            LogLevel::Info,
            host,
            format!("pretending to work for {secs} s"),
        );
        each_second(host, 0, elapsed)?;
        for second in 1..=secs {
            context.abort.sleep(Duration::from_secs(1))?;
            let reply = machine.agent.call(Request::Disk {
                paths: vec!["/".to_owned()],
            })?;
            if !matches!(reply, Reply::Disk(_)) {
                return Err(machine.agent.nonsense("not the disk's space").into());
            }
            elapsed += 1;
            context.log(LogLevel::Full, host, format!("second {second} of {secs}"));
            context.emit_progress(progress(elapsed, total, hostname));
            each_second(host, second, elapsed)?;
        }
    }
    Ok(elapsed)
}

fn progress(elapsed: u64, total: u64, hostname: &str) -> ProgressUpdate {
    let percent = (elapsed.saturating_mul(100) / total.max(1)).min(100);
    ProgressUpdate {
        percent: u8::try_from(percent).ok(),
        current: Some(elapsed),
        total: Some(total),
        item: Some(format!("second {elapsed} on {hostname}")),
        eta: Some(Duration::from_secs(total - elapsed)),
        ..ProgressUpdate::default()
    }
}

/// What both dummies say when they are stopped.
fn say_stopped(context: &ModuleContext<'_>) {
    context.log(
        LogLevel::Warning,
        Host::Source,
        format!("{} was stopped; it held nothing", context.module),
    );
}
