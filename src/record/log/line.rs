//! Events as lines of the log file.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::event::{
    ChangesEvent, ClosingReport, ConnectionEvent, ConnectionStatus, Event, Host, LogEvent,
    LogLevel, ModuleResult, ModuleStatus, Phase, ProgressEvent,
};
use crate::jsonline::{redact, redact_value, safe};

/// A module's progress is a line at most this often.
const PROGRESS_EVERY: Duration = Duration::from_secs(1);

/// Keys every line may have; context under one of these names is kept as `context_<name>`.
pub(super) const FIXED: [&str; 8] = [
    "timestamp",
    "level",
    "module",
    "host",
    "hostname",
    "session",
    "event",
    "message",
];

/// Turns events into lines; holds back progress that comes too often.
pub(super) struct Lines {
    session: String,
    source: Option<String>,
    target: Option<String>,
    level: LogLevel,
    progress: BTreeMap<String, ModuleProgress>,
}

#[derive(Default)]
struct ModuleProgress {
    written: Option<Instant>,
    pending: Option<ProgressEvent>,
}

/// What a line says, before the fixed keys are added.
struct Line {
    timestamp: Timestamp,
    level: LogLevel,
    module: String,
    host: Option<Host>,
    event: &'static str,
    message: String,
    context: Map<String, Value>,
}

impl Line {
    fn core(event: &'static str, level: LogLevel, message: String) -> Self {
        Self {
            timestamp: Timestamp::now(),
            level,
            module: "core".into(),
            host: None,
            event,
            message,
            context: Map::new(),
        }
    }

    fn with(mut self, context: Value) -> Self {
        if let Value::Object(map) = context {
            self.context = map;
        }
        self
    }
}

impl Lines {
    /// For this session, every level.
    pub(super) fn new(session: &str) -> Self {
        Self {
            session: session.to_owned(),
            source: None,
            target: None,
            level: LogLevel::Debug,
            progress: BTreeMap::new(),
        }
    }

    /// Leaves out what is below `level` from now on.
    pub(super) fn set_level(&mut self, level: LogLevel) {
        self.level = level;
    }

    /// Hands the line or lines for `event` to `out`, now or, for progress, when they are due.
    pub(super) fn write(&mut self, event: Event, now: Instant, out: &mut dyn FnMut(&[u8])) {
        let line = match event {
            Event::Log(log) => log_line(log),
            Event::Progress(progress) => {
                if self.level <= LogLevel::Full {
                    let entry = self.progress.entry(progress.module.clone());
                    entry.or_default().pending = Some(progress);
                    self.write_due(now, out);
                }
                return;
            }
            Event::Changes(changes) => {
                if self.level <= LogLevel::Full {
                    self.write_changes(&changes, out);
                }
                return;
            }
            // Whoever shows a run says what is waited for; that it was is in the times of the lines.
            Event::Work(_) => return,
            Event::Connection(connection) => connection_line(&connection),
            Event::Session { id, source, target } => {
                let message = format!("session {id}: {source} to {target}");
                let line = Line::core("session", LogLevel::Info, message)
                    .with(json!({"source": source, "target": target}));
                self.source = Some(source);
                self.target = Some(target);
                line
            }
            Event::Phase { phase } => phase_line(phase),
            Event::ModuleStarted { module, .. } => {
                let mut line = Line::core("module_started", LogLevel::Info, "started".into());
                line.module = module;
                line
            }
            Event::ModuleFinished(result) => {
                if let Some(progress) = self.progress.remove(&result.module) {
                    self.write_pending(progress, out);
                }
                module_line(&result)
            }
            Event::Closing(report) => {
                self.write_rest(out);
                closing_line(&report)
            }
        };
        self.emit(line, out);
    }

    /// Whether progress is held back.
    pub(super) fn has_pending(&self) -> bool {
        self.progress.values().any(|p| p.pending.is_some())
    }

    /// Hands over progress that was held back long enough.
    pub(super) fn write_due(&mut self, now: Instant, out: &mut dyn FnMut(&[u8])) {
        let due: Vec<ProgressEvent> = self
            .progress
            .values_mut()
            .filter(|p| p.written.is_none_or(|at| now - at >= PROGRESS_EVERY))
            .filter_map(|p| {
                let pending = p.pending.take()?;
                p.written = Some(now);
                Some(pending)
            })
            .collect();
        for progress in due {
            self.emit(progress_line(progress), out);
        }
    }

    /// Hands over all progress held back.
    pub(super) fn write_rest(&mut self, out: &mut dyn FnMut(&[u8])) {
        for progress in std::mem::take(&mut self.progress).into_values() {
            self.write_pending(progress, out);
        }
    }

    /// The line that says how many events came before the file and did not fit into memory.
    pub(super) fn dropped(&self, count: u64) -> Vec<u8> {
        let message = format!("{count} earlier events are not in this log");
        self.format(Line::core("dropped", LogLevel::Warning, message))
    }

    fn write_pending(&self, progress: ModuleProgress, out: &mut dyn FnMut(&[u8])) {
        if let Some(pending) = progress.pending {
            self.emit(progress_line(pending), out);
        }
    }

    fn emit(&self, line: Line, out: &mut dyn FnMut(&[u8])) {
        if line.level >= self.level {
            out(&self.format(line));
        }
    }

    /// A line for each change: sign and path, bytes. All of a batch begin alike, which is done once.
    fn write_changes(&self, event: &ChangesEvent, out: &mut dyn FnMut(&[u8])) {
        let mut line = Line::core("change", LogLevel::Full, String::new());
        line.timestamp = event.timestamp;
        line.module.clone_from(&event.module);
        line.host = Some(event.host);
        let mut beginning = self.head(&line);
        push(&mut beginning, "planned", &event.planned);
        for change in &*event.changes {
            let mut json = beginning.clone();
            let text = format!("{} {}", change.action.sign(), change.shown());
            push(&mut json, "message", &text);
            if !change.detail.is_empty() {
                push(&mut json, "detail", &*change.detail);
            }
            if change.bytes > 0 {
                push(&mut json, "bytes", &change.bytes);
            }
            out(&ended(json));
        }
    }

    /// The fixed keys of a line, but its message.
    fn head(&self, line: &Line) -> String {
        let hostname = match line.host {
            Some(Host::Source) => self.source.as_deref(),
            Some(Host::Target) => self.target.as_deref(),
            None => None,
        };
        let mut json = String::with_capacity(256);
        push(&mut json, "timestamp", &format!("{:.6}", line.timestamp));
        push(&mut json, "level", line.level.name());
        push(&mut json, "module", &line.module);
        if let Some(host) = line.host {
            push(&mut json, "host", &host.to_string());
        }
        if let Some(hostname) = hostname {
            push(&mut json, "hostname", hostname);
        }
        push(&mut json, "session", &self.session);
        push(&mut json, "event", line.event);
        json
    }

    fn format(&self, line: Line) -> Vec<u8> {
        let mut json = self.head(&line);
        push(&mut json, "message", &*redact(&line.message));
        let mut context = Value::Object(line.context);
        redact_value(&mut context);
        for (key, value) in context.as_object().into_iter().flatten() {
            if FIXED.contains(&key.as_str()) {
                push(&mut json, &format!("context_{key}"), value);
            } else {
                push(&mut json, key, value);
            }
        }
        ended(json)
    }
}

/// The line that `json` is all but the end of.
fn ended(mut json: String) -> Vec<u8> {
    json.push('}');
    let mut bytes = match safe(&json) {
        Cow::Borrowed(_) => json.into_bytes(),
        Cow::Owned(safe) => safe.into_bytes(),
    };
    bytes.push(b'\n');
    bytes
}

/// Appends one member to the object that `json` is the beginning of.
fn push<T: Serialize + ?Sized>(json: &mut String, key: &str, value: &T) {
    const NEVER_FAILS: &str = "strings and values have a JSON form";
    json.push(if json.is_empty() { '{' } else { ',' });
    json.push_str(&serde_json::to_string(key).expect(NEVER_FAILS));
    json.push(':');
    json.push_str(&serde_json::to_string(value).expect(NEVER_FAILS));
}

fn log_line(log: LogEvent) -> Line {
    Line {
        timestamp: log.timestamp,
        level: log.level,
        module: log.module,
        host: log.host,
        event: "log",
        message: log.message,
        context: log.context,
    }
}

fn phase_line(phase: Phase) -> Line {
    let number = phase.number();
    let message = format!("phase {number} of 10: {}", phase.title());
    Line::core("phase", LogLevel::Info, message).with(json!({"phase": phase, "number": number}))
}

fn connection_line(connection: &ConnectionEvent) -> Line {
    let latency = connection.latency.map(|l| l.as_secs_f64() * 1e3);
    let (level, message) = match latency {
        // Measured again and again; that it changed is detail.
        Some(ms) => (LogLevel::Debug, format!("round trip {ms:.1} ms")),
        None => (
            LogLevel::Info,
            match connection.status {
                ConnectionStatus::Connecting => "connecting".to_owned(),
                ConnectionStatus::Connected => "connected".to_owned(),
                ConnectionStatus::Disconnected => "disconnected".to_owned(),
            },
        ),
    };
    let mut line = Line::core("connection", level, message)
        .with(json!({"status": connection.status, "latency_ms": latency}));
    line.host = Some(Host::Target);
    line
}

fn progress_line(progress: ProgressEvent) -> Line {
    let update = progress.update;
    let of = |current: Option<u64>, total: Option<u64>| match (current, total) {
        (Some(current), Some(total)) => Some(format!("{current} of {total}")),
        (Some(current), None) => Some(current.to_string()),
        (None, _) => None,
    };
    let parts: Vec<String> = [
        update.percent.map(|percent| format!("{percent}%")),
        of(update.current, update.total).map(|items| format!("{items} items")),
        of(update.current_bytes, update.total_bytes).map(|bytes| format!("{bytes} bytes")),
        update.item.clone(),
    ]
    .into_iter()
    .flatten()
    .collect();
    let message = if parts.is_empty() {
        "alive".to_owned()
    } else {
        parts.join(", ")
    };
    Line {
        timestamp: progress.timestamp,
        level: LogLevel::Full,
        module: progress.module,
        host: None,
        event: "progress",
        message,
        context: Map::new(),
    }
    .with(json!({ "progress": update }))
}

fn module_line(result: &ModuleResult) -> Line {
    let (level, word) = match result.status {
        ModuleStatus::Success => (LogLevel::Info, "succeeded"),
        ModuleStatus::Skipped => (LogLevel::Info, "skipped"),
        ModuleStatus::Failed => (LogLevel::Error, "failed"),
    };
    let message = [
        Some(word.to_owned()),
        result.error.clone(),
        result.summary.clone(),
    ]
    .into_iter()
    .flatten()
    .collect::<Vec<_>>()
    .join(": ");
    Line {
        timestamp: result.ended_at,
        level,
        module: result.module.clone(),
        host: None,
        event: "module_finished",
        message,
        context: Map::new(),
    }
    .with(json!({ "result": result }))
}

fn closing_line(report: &ClosingReport) -> Line {
    let seconds = report.elapsed.as_secs_f64();
    let state = json!(report.state);
    let state = state.as_str().unwrap_or_default();
    let message = format!("{state} after {seconds:.1} s, status {}", report.exit_code);
    // Modules and warnings have lines of their own.
    Line::core("closing", LogLevel::Info, message).with(json!({
        "state": report.state,
        "dry_run": report.dry_run,
        "exit_code": report.exit_code,
        "elapsed_s": seconds,
        "source": report.source,
        "target": report.target,
        "warnings": report.warnings.len(),
    }))
}
