//! The log as a file: what is in it, from before it was opened and after.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::*;
use crate::change::{Action, Change};
use crate::event::{
    EventSink, Host, ModuleResult, ModuleStatus, Phase, ProgressEvent, ProgressUpdate,
};
use crate::jsonline::json_doc;

fn parse(path: &Path) -> Vec<Value> {
    std::fs::read_to_string(path)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

fn progress(module: &str, current: u64) -> Event {
    Event::Progress(ProgressEvent {
        timestamp: Timestamp::now(),
        module: module.into(),
        update: ProgressUpdate {
            current: Some(current),
            ..ProgressUpdate::default()
        },
    })
}

#[test]
fn a_line_has_the_fixed_keys_and_its_context_at_the_top() {
    let dir = tempfile::tempdir().unwrap();
    let mut sink = EventSink::none();
    let log = LogWriter::start("1a2b3c4d", sink.subscribe()).unwrap();
    sink.emit(&Event::Session {
        id: "1a2b3c4d".into(),
        source: "atlas".into(),
        target: "vega".into(),
    });
    let context = json!({"path": "/home", "level": 7, "url": "https://u:p@h/"});
    let Value::Object(context) = context else {
        unreachable!()
    };
    sink.log(
        LogLevel::Warning,
        "user_data",
        Some(Host::Target),
        "fetch https://u:p@h/x",
        context,
    );
    let opened = log.open(dir.path(), LogLevel::Full).unwrap();
    let path = log.finish().unwrap();
    assert_eq!(path, opened);
    let line = parse(&path).pop().unwrap();
    let timestamp = line["timestamp"].as_str().unwrap();
    assert!(timestamp.ends_with('Z') && timestamp.parse::<Timestamp>().is_ok());
    for (key, value) in [
        ("level", json!("WARNING")),
        ("module", json!("user_data")),
        ("host", json!("target")),
        ("hostname", json!("vega")),
        ("session", json!("1a2b3c4d")),
        ("event", json!("log")),
        ("message", json!("fetch https://***@h/x")),
        ("path", json!("/home")),
        ("context_level", json!(7)),
        ("url", json!("https://***@h/")),
    ] {
        assert_eq!(line[key], value, "{key}");
    }
    let fixed = super::line::FIXED.map(|key| (key.to_owned(), line[key].clone()));
    json_doc::check("logs", "Lines of a log", &fixed.into_iter().collect());
}

#[test]
fn lines_below_the_level_are_left_out_also_from_before_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let mut sink = EventSink::none();
    let log = LogWriter::start("s", sink.subscribe()).unwrap();
    let say = |text: &str, level| sink.log(level, "core", None, text, Map::new());
    say("early detail", LogLevel::Debug);
    say("early news", LogLevel::Info);
    log.open(dir.path(), LogLevel::Info).unwrap();
    say("late detail", LogLevel::Full);
    say("late news", LogLevel::Info);
    sink.emit(&Event::Phase { phase: Phase::Plan });
    let messages: Vec<Value> = parse(&log.finish().unwrap())
        .into_iter()
        .map(|l| l["message"].clone())
        .collect();
    assert_eq!(messages, ["early news", "late news", "phase 6 of 10: plan"]);
}

#[test]
fn ten_thousand_lines_before_and_a_hundred_thousand_after_opening_all_arrive() {
    let dir = tempfile::tempdir().unwrap();
    let mut sink = EventSink::none();
    let log = LogWriter::start("s", sink.subscribe()).unwrap();
    let say = |n: u64| {
        let mut context = Map::new();
        context.insert("n".into(), n.into());
        sink.log(LogLevel::Full, "m", None, "line", context);
    };
    (0..10_000).for_each(say);
    log.open(dir.path(), LogLevel::Full).unwrap();
    (10_000..110_000).for_each(say);
    let lines = parse(&log.finish().unwrap());
    assert_eq!(lines.len(), 110_000);
    assert!(lines.iter().enumerate().all(|(i, l)| l["n"] == i));
}

#[test]
fn more_than_memory_holds_before_opening_is_counted() {
    let dir = tempfile::tempdir().unwrap();
    let mut sink = EventSink::none();
    let events = sink.subscribe();
    for n in 0..MAX_EARLY + 5 {
        sink.log(LogLevel::Info, "m", None, n.to_string(), Map::new());
    }
    let mut writer = Writer::new(Lines::new("s"));
    events.try_iter().for_each(|event| writer.take(event));
    let (out, path) = file::create(dir.path(), "s", Timestamp::now()).unwrap();
    writer.open(out, path, LogLevel::Info);
    let lines = parse(&writer.end().unwrap());
    assert_eq!(lines.len(), MAX_EARLY + 1);
    assert_eq!(lines[0]["message"], "5 earlier events are not in this log");
    assert_eq!(lines[1]["message"], "5");
}

#[test]
fn a_line_is_in_the_file_soon_without_an_end() {
    let dir = tempfile::tempdir().unwrap();
    let mut sink = EventSink::none();
    let log = LogWriter::start("s", sink.subscribe()).unwrap();
    let path = log.open(dir.path(), LogLevel::Info).unwrap();
    std::thread::sleep(Duration::from_millis(20));
    sink.log(LogLevel::Info, "m", None, "now", Map::new());
    let end = Instant::now() + Duration::from_secs(20);
    while parse(&path).is_empty() {
        assert!(Instant::now() < end, "nothing was flushed");
        std::thread::sleep(Duration::from_millis(10));
    }
    log.finish().unwrap();
}

#[test]
fn finishing_does_not_wait_for_the_senders() {
    let dir = tempfile::tempdir().unwrap();
    let mut sink = EventSink::none();
    let log = LogWriter::start("s", sink.subscribe()).unwrap();
    log.open(dir.path(), LogLevel::Info).unwrap();
    sink.log(LogLevel::Info, "m", None, "last", Map::new());
    assert_eq!(parse(&log.finish().unwrap()).len(), 1);
    drop(sink);
}

#[test]
fn a_log_that_was_never_opened_says_so() {
    let log = LogWriter::start("s", EventSink::none().subscribe()).unwrap();
    assert!(matches!(log.finish(), Err(LogError::NeverOpened)));
}

#[test]
fn progress_is_a_line_a_second_and_module_and_the_last_is_kept() {
    let mut lines = Lines::new("s");
    let mut written: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    let mut out = |line: &[u8]| {
        let line: Value = serde_json::from_slice(line).unwrap();
        if line["event"] == "progress" {
            written
                .entry(line["module"].as_str().unwrap().into())
                .or_default()
                .push(line["progress"]["current"].as_u64().unwrap());
        }
    };
    let start = Instant::now();
    for n in 0..25 {
        let now = start + Duration::from_millis(n * 100);
        lines.write(progress("a", n), now, &mut out);
        lines.write(progress("b", n), now, &mut out);
    }
    assert!(lines.has_pending());
    let at = Timestamp::now();
    let finished = ModuleResult {
        module: "a".into(),
        status: ModuleStatus::Success,
        started_at: at,
        ended_at: at,
        error: None,
        summary: None,
    };
    lines.write(Event::ModuleFinished(finished), start, &mut out);
    lines.write_due(start + Duration::from_secs(10), &mut out);
    assert!(!lines.has_pending());
    assert_eq!(written["a"], [0, 10, 20, 24]);
    // What was held back goes out when its second is over, whoever speaks then.
    assert_eq!(written["b"], [0, 9, 19, 24]);
}

#[test]
fn every_change_has_a_line_at_full_and_none_above() {
    let dir = tempfile::tempdir().unwrap();
    for (level, expected) in [(LogLevel::Full, 3), (LogLevel::Info, 0)] {
        let mut sink = EventSink::none();
        let log = LogWriter::start("1a2b3c4d", sink.subscribe()).unwrap();
        log.open(&dir.path().join(level.name()), level).unwrap();
        let mut changes = sink.changes("user_data", Host::Target, false);
        for (action, bytes) in [
            (Action::Create, 7),
            (Action::Attributes, 0),
            (Action::Delete, 0),
        ] {
            changes.push(Change {
                action,
                item: b"/home/a\n\xff\"\x1b".to_vec(),
                detail: if bytes > 0 {
                    "content".into()
                } else {
                    String::new()
                },
                bytes,
                from: None,
            });
        }
        drop(changes);
        let lines = parse(&log.finish().unwrap());
        let lines: Vec<&Value> = lines.iter().filter(|l| l["event"] == "change").collect();
        assert_eq!(lines.len(), expected);
        let Some(first) = lines.first() else { continue };
        for (key, value) in [
            ("level", json!("FULL")),
            ("module", json!("user_data")),
            ("host", json!("target")),
            ("session", json!("1a2b3c4d")),
            ("planned", json!(false)),
            ("message", json!("+ /home/a\\x0a\\xff\"\\x1b")),
            ("detail", json!("content")),
            ("bytes", json!(7)),
        ] {
            assert_eq!(first[key], value, "{key}");
        }
        assert_eq!(lines[2]["message"], "- /home/a\\x0a\\xff\"\\x1b");
        assert!(lines[2].get("bytes").is_none());
    }
}

/// `cargo test --release --lib -- --ignored --nocapture what_a_million_changes_cost`
#[test]
#[ignore = "a measurement"]
fn what_a_million_changes_cost() {
    let dir = tempfile::tempdir().unwrap();
    let mut sink = EventSink::none();
    let log = LogWriter::start("1a2b3c4d", sink.subscribe()).unwrap();
    let path = log.open(dir.path(), LogLevel::Full).unwrap();
    let begun = Instant::now();
    let mut changes = sink.changes("user_data", Host::Target, false);
    for n in 0..1_000_000_u64 {
        changes.push(Change {
            action: Action::Create,
            item: format!("/home/dev/projects/some-project/node_modules/x{n}/index.js").into(),
            detail: String::new(),
            bytes: n,
            from: None,
        });
    }
    drop(changes);
    let said = begun.elapsed();
    log.finish().unwrap();
    let bytes = std::fs::metadata(path).unwrap().len();
    println!(
        "said in {said:?}, written after {:?}, {bytes} bytes",
        begun.elapsed()
    );
}
