//! Events for programs: `--progress json`, one object a line. `docs/events.md` is the contract; its
//! tables are compared with what this file makes.
//!
//! Every key of an object is always there, `null` where nothing is known; times are UTC.

use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::change::{Action, Amounts, Change, Digest, FolderAmounts, Notable};
use crate::escape::escape_bytes;
use crate::event::{
    ClosingReport, ConnectionEvent, EndingError, Event, Host, LogEvent, ModuleResult,
    ProgressUpdate,
};
use crate::jsonline::{redact_value, safe};

use super::view::Waiting;
use super::words::Hosts;

/// An event as an object; `None` for what is of no use to a program.
pub(super) fn object(event: &Event, hosts: Hosts<'_>) -> Option<Value> {
    let object = match event {
        Event::Log(line) => {
            let mut object = log(line, hosts);
            object["event"] = "log".into();
            object["ts"] = stamp(line.timestamp);
            object
        }
        Event::Progress(progress) if progress.update.heartbeat => return None,
        Event::Progress(event) => {
            let mut object = progress(&event.update);
            object["event"] = "progress".into();
            object["ts"] = stamp(event.timestamp);
            object["module"] = event.module.clone().into();
            object
        }
        // Many at once, not wanted by all: see [`change`].
        Event::Work(_) | Event::Changes(_) => return None,
        Event::Connection(event) => connection(event),
        Event::Session { id, source, target } => json!({
            "event": "session",
            "id": id,
            "source": source,
            "target": target,
        }),
        Event::Phase { phase } => json!({
            "event": "phase",
            "phase": phase,
            "number": phase.number(),
            "of": 10,
            "title": phase.title(),
        }),
        Event::ModuleStarted { module, background } => json!({
            "event": "module_started",
            "module": module,
            "background": background,
        }),
        Event::ModuleFinished(result) => {
            let mut object = module(result);
            object["event"] = "module_finished".into();
            object
        }
        Event::Closing(report) => closing(report, hosts),
    };
    Some(object)
}

/// What is waited for.
pub(super) fn waiting(waiting: &Waiting) -> Value {
    json!({
        "event": "waiting",
        "for": waiting.who,
        "doing": waiting.what,
        "seconds": waiting.silence.as_secs(),
    })
}

/// A change that a plan has, or that was made.
pub(super) fn change(module: &str, change: &Change, planned: bool) -> Value {
    json!({
        "event": "change",
        "module": module,
        "planned": planned,
        "action": change.action.name(),
        "item": escape_bytes(&change.item),
        "from": change.from.as_ref().map(|from| escape_bytes(from)),
        "detail": change.detail,
        "bytes": change.bytes,
    })
}

/// An object as a line: stamped if it is not, secrets in URLs hidden, nothing in it that acts on a terminal.
pub(super) fn line(mut object: Value) -> String {
    if object.get("ts").is_none() {
        object["ts"] = stamp(Timestamp::now());
    }
    redact_value(&mut object);
    let mut line = safe(&object.to_string()).into_owned();
    line.push('\n');
    line
}

fn stamp(time: Timestamp) -> Value {
    format!("{time:.6}").into()
}

fn seconds(time: Duration) -> Value {
    // To the microsecond, as a person would write it.
    let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
    (Duration::from_micros(micros).as_secs_f64()).into()
}

fn log(line: &LogEvent, hosts: Hosts<'_>) -> Value {
    json!({
        "level": line.level,
        "module": line.module,
        "host": line.host,
        "hostname": match line.host {
            Some(Host::Source) => hosts.0,
            Some(Host::Target) => hosts.1,
            None => None,
        },
        "message": line.message,
        "decision": line.decision(),
        "context": line.context,
    })
}

fn progress(update: &ProgressUpdate) -> Value {
    json!({
        "percent": update.percent,
        "current": update.current,
        "total": update.total,
        "current_bytes": update.current_bytes,
        "total_bytes": update.total_bytes,
        "item": update.item,
        "eta_s": update.eta.map(seconds),
    })
}

fn connection(event: &ConnectionEvent) -> Value {
    json!({
        "event": "connection",
        "status": event.status,
        "latency_s": event.latency.map(seconds),
    })
}

fn module(result: &ModuleResult) -> Value {
    json!({
        "module": result.module,
        "status": result.status,
        "started_at": stamp(result.started_at),
        "ended_at": stamp(result.ended_at),
        "error": result.error,
        "summary": result.summary,
    })
}

fn error(error: &EndingError) -> Value {
    json!({
        "message": error.message,
        "causes": error.causes,
        "hint": error.hint,
    })
}

fn amounts(amounts: &Amounts) -> Value {
    let kinds = Action::ALL.map(|action| {
        let amount = amounts.of(action);
        let figures = json!({"items": amount.items, "bytes": amount.bytes});
        (action.name().to_owned(), figures)
    });
    Value::Object(kinds.into_iter().collect())
}

fn plan(digest: &Digest) -> Value {
    let folder = |folder: &FolderAmounts| {
        let mut object = amounts(&folder.amounts);
        object["path"] = folder.path.clone().into();
        object
    };
    let notable = |notable: &Notable| {
        json!({
            "action": notable.action.name(),
            "item": notable.item,
            "bytes": notable.bytes,
        })
    };
    json!({
        "module": digest.module,
        "total": amounts(&digest.total),
        "folders": digest.folders.iter().map(folder).collect::<Vec<_>>(),
        "largest": digest.largest.iter().map(notable).collect::<Vec<_>>(),
    })
}

fn closing(report: &ClosingReport, hosts: Hosts<'_>) -> Value {
    let log = |line: &LogEvent| {
        let mut object = log(line, hosts);
        object["ts"] = stamp(line.timestamp);
        object
    };
    json!({
        "event": "closing",
        "session": report.session,
        "source": report.source,
        "target": report.target,
        "state": report.state,
        "dry_run": report.dry_run,
        "exit_code": report.exit_code,
        "errors": report.errors.iter().map(error).collect::<Vec<_>>(),
        "modules": report.modules.iter().map(module).collect::<Vec<_>>(),
        "plans": report.plans.iter().map(plan).collect::<Vec<_>>(),
        "decisions": report.decisions.iter().map(log).collect::<Vec<_>>(),
        "warnings": report.warnings.iter().map(log).collect::<Vec<_>>(),
        "elapsed_s": seconds(report.elapsed),
        "log_file": report.log_file.as_ref().map(|path| path.to_string_lossy()),
    })
}

#[cfg(test)]
#[path = "../../tests/it/support/events_doc.rs"]
mod events_doc;

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::Map;

    use super::events_doc::Schema;
    use super::*;
    use crate::change::Digester;
    use crate::event::{
        ConnectionStatus, LogLevel, ModuleStatus, Phase, ProgressEvent, SessionState,
    };

    const HOSTS: Hosts<'_> = (Some("atlas"), Some("vega"));
    const EVIL: &str = "https://me:secret@host/\u{1b}[2J\u{9b}\u{202e}";

    fn a_log(level: LogLevel) -> LogEvent {
        let mut context = Map::new();
        context.insert(EVIL.into(), EVIL.into());
        context.insert(LogEvent::DECISION_KEY.into(), "full_scan".into());
        LogEvent {
            timestamp: Timestamp::now(),
            level,
            module: "user_data".into(),
            host: Some(Host::Target),
            message: EVIL.into(),
            context,
        }
    }

    fn results() -> Vec<ModuleResult> {
        [
            ModuleStatus::Success,
            ModuleStatus::Skipped,
            ModuleStatus::Failed,
        ]
        .map(|status| ModuleResult {
            module: "user_data".into(),
            status,
            started_at: Timestamp::now(),
            ended_at: Timestamp::now(),
            error: (status != ModuleStatus::Success).then(|| EVIL.into()),
            summary: (status == ModuleStatus::Success).then(|| EVIL.into()),
        })
        .to_vec()
    }

    fn a_change(action: Action, item: &[u8]) -> Change {
        Change {
            action,
            item: item.to_vec(),
            detail: "content".into(),
            bytes: 5,
            from: None,
        }
    }

    fn a_plan() -> Digest {
        let mut digester = Digester::new("user_data");
        for action in Action::ALL {
            for _ in 0..9 {
                digester.add(&a_change(action, b"/\x1b/\xff"));
            }
        }
        digester.finish()
    }

    /// Each kind of event, with everything there and with as little as possible.
    fn all() -> Vec<Value> {
        let empty = ProgressUpdate::default();
        let full = ProgressUpdate {
            percent: Some(1),
            current: Some(2),
            total: Some(3),
            current_bytes: Some(4),
            total_bytes: Some(5),
            item: Some(EVIL.into()),
            heartbeat: false,
            eta: Some(Duration::from_millis(1500)),
        };
        let progress = |update| {
            Event::Progress(ProgressEvent {
                timestamp: Timestamp::now(),
                module: "user_data".into(),
                update,
            })
        };
        let nothing = LogEvent {
            host: None,
            context: Map::new(),
            ..a_log(LogLevel::Debug)
        };
        let report = ClosingReport {
            session: "1a2b3c4d".into(),
            source: "atlas".into(),
            target: EVIL.into(),
            state: SessionState::Failed,
            dry_run: false,
            exit_code: 1,
            errors: vec![EndingError {
                message: EVIL.into(),
                causes: vec![EVIL.into()],
                is_list: false,
                hint: None,
            }],
            modules: results(),
            plans: vec![a_plan()],
            decisions: vec![a_log(LogLevel::Info)],
            warnings: vec![a_log(LogLevel::Warning)],
            elapsed: Duration::from_millis(1500),
            log_file: Some(EVIL.into()),
        };
        let bare = ClosingReport {
            errors: Vec::new(),
            modules: Vec::new(),
            plans: Vec::new(),
            decisions: Vec::new(),
            warnings: Vec::new(),
            log_file: None,
            ..report.clone()
        };
        let mut events = vec![
            Event::Session {
                id: "1a2b3c4d".into(),
                source: "atlas".into(),
                target: EVIL.into(),
            },
            Event::Phase { phase: Phase::Plan },
            Event::Connection(ConnectionEvent {
                status: ConnectionStatus::Connected,
                latency: Some(Duration::from_micros(420)),
            }),
            Event::Connection(ConnectionEvent {
                status: ConnectionStatus::Connecting,
                latency: None,
            }),
            Event::Log(a_log(LogLevel::Error)),
            Event::Log(nothing),
            Event::ModuleStarted {
                module: "user_data".into(),
                background: true,
            },
            progress(empty),
            progress(full),
            Event::Closing(report),
            Event::Closing(bare),
        ];
        events.extend(results().into_iter().map(Event::ModuleFinished));
        let mut objects: Vec<Value> = (events.iter())
            .map(|event| object(event, HOSTS).expect("of use to programs"))
            .collect();
        objects.extend([Some(EVIL), None].map(|who| {
            waiting(&Waiting {
                who: who.map(str::to_owned),
                what: EVIL.into(),
                silence: Duration::from_secs(2),
            })
        }));
        for action in Action::ALL {
            objects.push(change(
                "user_data",
                &a_change(action, b"/a\x1b\xff\\"),
                true,
            ));
        }
        objects
    }

    #[test]
    fn every_event_is_as_documented_and_every_documented_event_is_made() {
        let schema = Schema::read();
        let mut seen = BTreeSet::new();
        for object in all() {
            seen.insert(schema.check(&line(object)).unwrap());
        }
        let seen: Vec<&str> = seen.iter().map(String::as_str).collect();
        assert_eq!(seen, schema.events());
    }

    #[test]
    fn the_check_of_the_schema_finds_what_is_wrong() {
        let schema = Schema::read();
        let right = all().remove(1);
        for (key, value) in [
            ("event", json!("fase")),
            ("number", json!("6")),
            ("number", json!(6.5)),
            ("title", Value::Null),
            ("surprise", json!(1)),
            ("ts", json!("yesterday")),
        ] {
            let mut wrong = right.clone();
            wrong[key] = value;
            assert!(schema.check(&line(wrong)).is_err(), "{key}");
        }
        let mut wrong = right.clone();
        wrong.as_object_mut().unwrap().remove("of");
        assert!(schema.check(&line(wrong)).is_err());
        assert_eq!(schema.check(&line(right)), Ok("phase".to_owned()));
    }

    #[test]
    fn no_line_has_secrets_or_controls_and_each_is_one_line() {
        for object in all() {
            let line = line(object);
            let text = line.strip_suffix('\n').unwrap();
            assert!(!text.contains(crate::escape::is_unsafe), "{text}");
            assert!(!text.contains("secret"), "{text}");
        }
    }
}
