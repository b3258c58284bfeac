//! Runs that are stopped, and which exit status they end with.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::agent::fake::fault;
use crate::agent::fault::FaultKind;
use crate::agent::protocol::Request;
use crate::event::{Host, LogLevel, ModuleStatus, SessionState};
use crate::interrupt::Interrupted;
use crate::module::ModuleError;
use crate::modules::btrfs_snapshots;
use crate::run::testing::{TestModule, Trial};

use super::{BOTH, gated, nothing_was_changed, phases, statuses, world};

#[test]
fn an_interrupt_in_any_phase_aborts_with_130_and_leaves_markers_right() {
    type At = fn(Host, &Request) -> bool;
    let early: [At; 6] = [
        |host, r| host == Host::Source && matches!(r, Request::Hello { .. }),
        |host, r| host == Host::Target && matches!(r, Request::Lock(_)),
        |_, r| matches!(r, Request::ReadState),
        |host, r| host == Host::Target && matches!(r, Request::Subvolumes { .. }),
        |host, r| host == Host::Target && matches!(r, Request::Disk { .. }),
        |host, r| host == Host::Target && matches!(r, Request::CreateSnapshots { .. }),
    ];
    for (number, at) in early.into_iter().enumerate() {
        let world = world();
        world.interrupt_at(at);
        let outcome = Trial::new(&world).run();
        assert_eq!(outcome.code(), 130, "{number}: {}", outcome.error());
        assert_eq!(outcome.ended.report.state, SessionState::Aborted);
        assert_eq!(phases(&outcome).last(), Some(&10));
        nothing_was_changed(&world);
    }
}

/// When to interrupt.
type At = Box<dyn Fn(Host, &Request) -> bool + Send>;

#[test]
fn an_interrupt_after_the_first_change_leaves_both_markers_and_an_aborted_session() {
    let postsync = |_: Host, r: &Request| {
        matches!(r, Request::CreateSnapshots { snapshots, .. }
            if snapshots.iter().any(|s| s.name.contains("postsync")))
    };
    let late: Vec<At> = vec![
        Box::new(|host, r| host == Host::Target && matches!(r, Request::InstallSelf)),
        Box::new(postsync),
    ];
    for at in late {
        let world = world();
        world.with(Host::Target, |m| m.installed = None);
        world.interrupt_at(at);
        let outcome = Trial::new(&world).run();
        assert_eq!(outcome.code(), 130, "{}", outcome.error());
        for host in BOTH {
            let state = world.machine(host).state;
            assert!(state.incomplete.is_some(), "{host}");
            let last = state.history.last().unwrap();
            assert_eq!(
                (last.session.as_str(), last.state),
                ("0123abcd", SessionState::Aborted)
            );
        }
        assert!(world.nothing_runs());
    }
}

#[test]
fn an_interrupted_module_cleans_up_and_later_ones_are_not_reached() {
    let world = world();
    let abort = world.abort();
    let cleaned = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&cleaned);
    let mut work = TestModule::new("work").executing(move |context| {
        abort.raise();
        context.abort.sleep(Duration::from_mins(1))?;
        Ok(String::new())
    });
    work.abort = Box::new(move |context| {
        // The machines still answer while cleaning up.
        assert!(context.target.agent.call(Request::ReadState).is_ok());
        seen.fetch_add(1, Ordering::SeqCst);
    });
    let begun = Instant::now();
    let outcome = Trial::of(&world, vec![work, TestModule::new("later")]).run();
    assert!(begun.elapsed() < Duration::from_secs(25));
    assert_eq!(outcome.code(), 130);
    assert_eq!(cleaned.load(Ordering::SeqCst), 1);
    assert!(statuses(&outcome).contains(&("later", ModuleStatus::Skipped)));
    assert!(outcome.logged(LogLevel::Critical).is_empty());
}

#[test]
fn a_failing_module_is_critical_stops_the_run_and_leaves_the_markers() {
    let world = world();
    let work = TestModule::new("work").executing(|_| {
        Err(ModuleError::Failed {
            message: "out of paper".into(),
            hint: Some("buy paper".into()),
        })
    });
    let outcome = Trial::of(&world, vec![work, TestModule::new("later")]).run();
    assert_eq!(outcome.code(), 1);
    assert_eq!(outcome.error(), "work failed: out of paper [buy paper]");
    assert_eq!(outcome.ended.report.state, SessionState::Failed);
    assert_eq!(outcome.logged(LogLevel::Critical).len(), 1);
    let statuses = statuses(&outcome);
    assert!(
        statuses.contains(&("work", ModuleStatus::Failed)),
        "{statuses:?}"
    );
    assert!(
        statuses.contains(&("later", ModuleStatus::Skipped)),
        "{statuses:?}"
    );
    for host in BOTH {
        let state = world.machine(host).state;
        assert_eq!(state.incomplete.unwrap().module.as_deref(), Some("work"));
        assert_eq!(state.history.last().unwrap().state, SessionState::Failed);
    }
}

#[test]
fn an_error_in_the_log_makes_the_session_failed_although_every_module_succeeded() {
    let world = world();
    let work = TestModule::new("work").executing(|context| {
        context.log(LogLevel::Error, Host::Target, "one file was left out");
        Ok("done".into())
    });
    let outcome = Trial::of(&world, vec![work]).run();
    assert_eq!(outcome.code(), 1);
    assert_eq!(outcome.ended.report.state, SessionState::Failed);
    for host in BOTH {
        let state = world.machine(host).state;
        assert_eq!(state.history.last().unwrap().state, SessionState::Failed);
        assert!(state.incomplete.is_some(), "it has not ended well");
    }
    assert_eq!(phases(&outcome), [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]);
}

#[test]
fn errors_that_are_over_with_the_run_leave_nothing_incomplete_but_others_do() {
    for (other, stays) in [(false, false), (true, true)] {
        let world = world();
        let mut software = TestModule::new("software").executing(|context| {
            context.log(LogLevel::Error, Host::Target, "one package did not come");
            Ok("1 failed".into())
        });
        software.fails_whole = true;
        let work = TestModule::new("work").executing(move |context| {
            if other {
                context.log(LogLevel::Error, Host::Target, "one file was left out");
            }
            Ok("done".into())
        });
        let outcome = Trial::of(&world, vec![software, work]).run();
        assert_eq!(outcome.code(), 1);
        for host in BOTH {
            let state = world.machine(host).state;
            assert_eq!(state.history.last().unwrap().state, SessionState::Failed);
            assert_eq!(state.incomplete.is_some(), stays, "{host}");
        }
    }
}

#[test]
fn a_warning_in_the_log_is_status_8_and_is_repeated() {
    let world = world();
    let work = TestModule::new("work").executing(|context| {
        context.log(LogLevel::Warning, Host::Target, "look at this");
        Ok("done".into())
    });
    let outcome = Trial::of(&world, vec![work]).run();
    assert_eq!(outcome.code(), 8);
    assert_eq!(outcome.ended.report.state, SessionState::Completed);
    assert_eq!(outcome.ended.report.warnings[0].message, "look at this");
    assert_eq!(world.machine(Host::Target).state.incomplete, None);
}

#[test]
fn a_lost_target_fails_with_5_and_the_sources_marker_stays() {
    let world = world();
    world.hook(|host, request, levers| {
        if host == Host::Target && matches!(request, Request::Run { .. }) {
            levers.die();
        }
        None
    });
    let work = TestModule::new("work").executing(|context| {
        let run = Request::Run {
            argv: vec!["true".into()],
            env: [].into(),
            stdin: None,
            timeout_millis: None,
        };
        drop(context.target.agent.call(run));
        // Busy on the source: only the watch over the connection can tell.
        context.abort.sleep(Duration::from_mins(1))?;
        Ok(String::new())
    });
    let begun = Instant::now();
    let outcome = Trial::of(&world, vec![work]).run();
    assert!(begun.elapsed() < Duration::from_secs(25));
    assert_eq!(outcome.code(), 5, "{}", outcome.error());
    assert_eq!(outcome.ended.report.state, SessionState::Failed);
    for host in BOTH {
        assert!(world.machine(host).state.incomplete.is_some(), "{host}");
    }
    let source = world.machine(Host::Source);
    assert_eq!(
        source.state.history.last().unwrap().state,
        SessionState::Failed
    );
    assert!(world.nothing_runs());
}

#[test]
fn a_failed_snapshot_on_one_machine_stops_and_takes_the_others_back() {
    for failing in BOTH {
        let world = world();
        world.hook(move |host, request, _| {
            (host == failing && matches!(request, Request::CreateSnapshots { .. }))
                .then(|| Err(fault(FaultKind::NoSpace, "no space left on device")))
        });
        let outcome = Trial::new(&world).run();
        assert_eq!(outcome.code(), 7, "{}", outcome.error());
        nothing_was_changed(&world);
    }
}

#[test]
fn snapshots_that_were_taken_back_are_not_counted_among_what_was_done() {
    let world = world();
    let mut trial = gated(&world, "--allow-mass-delete");
    trial.options.batch = true;
    let outcome = trial.run();
    assert_eq!(outcome.code(), 4, "{}", outcome.error());
    let modules = &outcome.ended.report.modules;
    let of = |name| modules.iter().find(|result| result.module == name);
    let summary = of(btrfs_snapshots::NAME).and_then(|result| result.summary.as_deref());
    assert_eq!(summary, Some("taken back: nothing was changed"));
}

#[test]
fn an_error_while_cleaning_up_is_told_beside_the_first_one() {
    let world = world();
    world.with(Host::Target, |m| m.free_bytes = 900);
    world.hook(|_, request, _| {
        matches!(request, Request::DeleteSnapshots { .. })
            .then(|| Err(fault(FaultKind::Io, "read-only file system")))
    });
    let mut trial = gated(&world, "--allow-mass-delete");
    trial.options.batch = true;
    let outcome = trial.run();
    assert_eq!(outcome.code(), 4, "the first error decides");
    let lines: Vec<String> = outcome
        .ended
        .errors
        .iter()
        .map(crate::run::explain::Explained::line)
        .collect();
    assert_eq!(lines.len(), 3, "one on each machine: {lines:?}");
    assert!(lines[1].contains("read-only file system"), "{lines:?}");
}

#[test]
fn a_marker_that_cannot_be_written_everywhere_is_taken_back() {
    let world = world();
    world.hook(|host, request, _| {
        (host == Host::Target && matches!(request, Request::WriteIncomplete(Some(_))))
            .then(|| Err(fault(FaultKind::Io, "read-only file system")))
    });
    let outcome = Trial::new(&world).run();
    assert_eq!(outcome.code(), 1);
    for host in BOTH {
        let machine = world.machine(host);
        assert_eq!(machine.state.incomplete, None);
        assert!(machine.snapshots.is_empty());
    }
}

#[test]
fn the_first_reason_decides_the_exit_status() {
    // A module's own error that surfaces after a signal is reported, but 130 is the status.
    let world = world();
    let abort = world.abort();
    let work = TestModule::new("work").executing(move |_| {
        abort.raise();
        Err(ModuleError::failed("the child was killed"))
    });
    let outcome = Trial::of(&world, vec![work]).run();
    assert_eq!(outcome.code(), 130);
    assert!(
        outcome
            .ended
            .errors
            .iter()
            .any(|e| e.line().contains("the child was killed"))
    );

    // A signal that comes when everything is done changes nothing.
    let world = super::world();
    world.interrupt_at(|host, r| host == Host::Source && matches!(r, Request::Goodbye));
    assert_eq!(Trial::new(&world).run().code(), 0);
}

#[test]
fn each_module_error_has_its_status() {
    use crate::agent::client::AgentError;
    use crate::prompt::PromptError;
    type Make = fn() -> ModuleError;
    let table: [(Make, u8); 6] = [
        (|| ModuleError::failed("x"), 1),
        (
            || ModuleError::Refused {
                message: "x".into(),
                flag: None,
            },
            4,
        ),
        (|| PromptError::CannotAsk.into(), 4),
        (
            || {
                AgentError::Fault {
                    hostname: "v".into(),
                    fault: fault(FaultKind::NoSpace, "x"),
                }
                .into()
            },
            7,
        ),
        (
            || {
                AgentError::Fault {
                    hostname: "v".into(),
                    fault: fault(FaultKind::Io, "x"),
                }
                .into()
            },
            1,
        ),
        (|| Interrupted.into(), 130),
    ];
    for (make, code) in table {
        let world = world();
        let work = TestModule::new("work").executing(move |_| Err(make()));
        let outcome = Trial::of(&world, vec![work]).run();
        assert_eq!(outcome.code(), code, "{:?}", make());
    }
}

#[test]
fn an_interrupt_while_the_markers_are_written_leaves_them_only_if_something_may_change() {
    // The flag is up before the first marker is answered: both are written, and the run goes no
    // further than noticing.
    let world = world();
    world.hook(|host, request, levers| {
        if host == Host::Source && matches!(request, Request::WriteIncomplete(Some(_))) {
            levers.abort.raise();
            std::thread::sleep(Duration::from_millis(120));
        }
        None
    });
    let outcome = Trial::new(&world).run();
    assert_eq!(outcome.code(), 130, "{}", outcome.error());
    for host in BOTH {
        let state = world.machine(host).state;
        assert!(
            state.incomplete.is_some(),
            "{host}: what was asked for is done"
        );
        assert_eq!(
            state.history.last().unwrap().state,
            SessionState::Aborted,
            "{host}"
        );
    }
    assert!(world.nothing_runs());
}
