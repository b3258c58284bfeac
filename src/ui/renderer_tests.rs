//! What the renderer writes for which events, on terminals, pipes and as JSON.

use jiff::Timestamp;
use serde_json::{Map, json};

use super::super::live::memory::MemoryScreen;
use super::super::text::columns;
use super::*;
use crate::event::{
    ClosingReport, ConnectionEvent, ConnectionStatus, EventSink, Host, ModuleResult, ModuleStatus,
    Phase, ProgressEvent, ProgressUpdate, SessionState, WorkEvent,
};
use crate::prompt::Choice;

const LOOK: Look = Look {
    color: false,
    unicode: true,
};

struct Stage {
    renderer: Renderer,
    screen: MemoryScreen,
    now: Instant,
}

impl Stage {
    fn new(mode: Mode, rows: u16, cols: u16) -> Self {
        let screen = MemoryScreen::new(rows, cols);
        let now = Instant::now();
        let boxed = Box::new(screen.clone());
        Self {
            renderer: Renderer::new(mode, LOOK, true, boxed, None, now),
            screen,
            now,
        }
    }

    fn play(&mut self, events: &[Event]) {
        for event in events {
            self.renderer.take(event, self.now);
        }
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
        self.renderer.flush(self.now);
    }
}

fn log_event(level: LogLevel, message: &str) -> Event {
    Event::Log(LogEvent {
        timestamp: "2026-01-02T03:04:05Z".parse().unwrap(),
        level,
        module: "user_data".into(),
        host: Some(Host::Target),
        message: message.into(),
        context: Map::new(),
    })
}

fn session(source: &str, target: &str) -> Event {
    Event::Session {
        id: "1a2b3c4d".into(),
        source: source.into(),
        target: target.into(),
    }
}

fn progress(current: u64, item: &str) -> Event {
    Event::Progress(ProgressEvent {
        timestamp: Timestamp::now(),
        module: "user_data".into(),
        update: ProgressUpdate {
            current: Some(current),
            total: Some(56_789),
            current_bytes: Some(current << 20),
            total_bytes: Some(56_789 << 20),
            item: Some(item.into()),
            ..ProgressUpdate::default()
        },
    })
}

fn running(source: &str, target: &str, item: &str) -> Vec<Event> {
    vec![
        session(source, target),
        Event::Work(WorkEvent {
            id: 1,
            machine: target.into(),
            doing: item.into(),
            ended: false,
        }),
        Event::Connection(ConnectionEvent {
            status: ConnectionStatus::Connected,
            latency: Some(Duration::from_micros(420)),
        }),
        Event::Phase {
            phase: Phase::PresyncSnapshots,
        },
        Event::Phase {
            phase: Phase::Execute,
        },
        log_event(LogLevel::Warning, "two rules match nothing"),
        Event::ModuleStarted {
            module: "user_data".into(),
            background: false,
        },
        progress(12_345, item),
    ]
}

fn result(module: &str, status: ModuleStatus, text: &str) -> ModuleResult {
    ModuleResult {
        module: module.into(),
        status,
        started_at: "2026-01-02T03:04:05Z".parse().unwrap(),
        ended_at: "2026-01-02T03:05:17Z".parse().unwrap(),
        error: (status != ModuleStatus::Success).then(|| text.into()),
        summary: (status == ModuleStatus::Success).then(|| text.into()),
    }
}

fn report() -> ClosingReport {
    let Event::Log(warning) = log_event(LogLevel::Warning, "two rules match nothing") else {
        unreachable!()
    };
    ClosingReport {
        session: "1a2b3c4d".into(),
        source: "atlas".into(),
        target: "vega".into(),
        state: SessionState::Failed,
        dry_run: false,
        exit_code: 1,
        errors: Vec::new(),
        modules: vec![
            result("user_data", ModuleStatus::Success, "12 created, 4.2 MiB"),
            result("docker", ModuleStatus::Skipped, "not installed"),
            result("dummy_fail", ModuleStatus::Failed, "told to fail"),
        ],
        plans: Vec::new(),
        decisions: Vec::new(),
        warnings: vec![warning.clone(), warning],
        elapsed: Duration::from_secs(83),
        log_file: Some("/home/me/.local/state/pc-switcher/logs/x.log".into()),
    }
}

const ITEM: &str = "/home/me/projects/something/with/a/deep/tree/of/directories/file.txt";

#[test]
fn at_40_columns_the_lines_say_the_most_important() {
    let mut stage = Stage::new(Mode::Live, 20, 40);
    stage.play(&running("atlas", "vega", ITEM));
    stage.pass(Duration::from_millis(200));
    insta::assert_snapshot!(stage.screen.text(), @"
    warning: user_data (vega): two rules
      match nothing
    atlas → vega  7/10 execute  0.4 ms  ⚠1
    user_data  ━───────  21%  12,345/56,789
      /home/me/pro…/of/directories/file.txt
    ");
}

#[test]
fn at_80_columns_the_item_has_a_line_of_its_own() {
    let mut stage = Stage::new(Mode::Live, 20, 80);
    stage.play(&running("atlas", "vega", ITEM));
    stage.pass(Duration::from_millis(1200));
    stage.play(&[progress(12_400, ITEM)]);
    stage.pass(Duration::from_millis(200));
    insta::assert_snapshot!(stage.screen.text(), @"
    warning: user_data (vega): two rules match nothing
    atlas → vega  [7/10] execute  0.4 ms  0:01  1 warning
    user_data  ━━━─────────────  21%  12,400/56,789  39.3 MiB/s  18:49 left
      /home/me/projects/something/with/a/deep/tree/of/directories/file.txt
    ");
}

#[test]
fn at_200_columns_everything_is_on_one_line() {
    let mut stage = Stage::new(Mode::Live, 20, 200);
    stage.play(&running("atlas", "vega", ITEM));
    stage.pass(Duration::from_millis(1200));
    stage.play(&[progress(12_400, ITEM)]);
    stage.pass(Duration::from_millis(200));
    insta::assert_snapshot!(stage.screen.text(), @"
    warning: user_data (vega): two rules match nothing
    atlas → vega  [7/10] execute  0.4 ms  0:01  1 warning
    user_data  ━━━━━───────────────────  21%  12,400/56,789  12.1 GiB/55.5 GiB  39.3 MiB/s  18:49 left  /home/me/projects/something/with/a/deep/tree/of/directories/file.txt
    ");
}

#[test]
fn nothing_wraps_at_any_width_whatever_the_names() {
    for cols in [2, 5, 10, 20, 39, 40, 41, 79, 80, 119, 120, 121, 200, 300] {
        for name in [
            "a",
            "a-host-with-a-very-long-name.of.a-long.domain.example",
            "日本語日本語日本語日本語日本語",
            "\u{1b}[2J\u{9b}31m\u{202e}",
            "👩‍💻👩‍💻👩‍💻👩‍💻👩‍💻❤️❤️❤️❤️❤️",
        ] {
            let mut stage = Stage::new(Mode::Live, 30, cols);
            stage.play(&running(name, name, &name.repeat(20)));
            stage.play(&[Event::ModuleStarted {
                module: name.repeat(3),
                background: true,
            }]);
            for _ in 0..4 {
                stage.pass(Duration::from_secs(1));
            }
            if cols >= 22 {
                assert_eq!(stage.screen.wrapped_rows(), 0, "{cols} {name}");
            }
            let lines = stage.renderer.view.lines(30, cols.into(), LOOK, stage.now);
            for line in lines {
                let line = line.fitted(usize::from(cols) - 1, LOOK);
                assert!(line.columns() < cols.into());
            }
        }
    }
}

#[test]
fn no_byte_of_others_acts_on_the_terminal() {
    let evil = "x\u{1b}[2J\u{1b}]0;t\u{7}\u{9b}31m\r\u{8}\u{202e}\ny";
    for mode in [Mode::Live, Mode::Plain, Mode::Quiet] {
        let mut stage = Stage::new(mode, 30, 80);
        stage.renderer.set_level(LogLevel::Debug);
        stage.play(&running(evil, evil, evil));
        let mut context = Map::new();
        context.insert(evil.into(), json!(evil));
        stage.play(&[
            Event::Log(LogEvent {
                timestamp: Timestamp::now(),
                level: LogLevel::Error,
                module: evil.into(),
                host: None,
                message: evil.into(),
                context,
            }),
            Event::Progress(ProgressEvent {
                timestamp: Timestamp::now(),
                module: evil.into(),
                update: ProgressUpdate {
                    heartbeat: true,
                    item: Some(evil.into()),
                    ..ProgressUpdate::default()
                },
            }),
            Event::ModuleFinished(result(evil, ModuleStatus::Failed, evil)),
        ]);
        stage.pass(Duration::from_secs(11));
        stage.play(&[progress(3, evil)]);
        stage.pass(Duration::from_secs(3));
        stage.renderer.pause(stage.now);
        stage.renderer.ask(&Question {
            detail: vec![evil.into()],
            text: evil.into(),
            choices: vec![Choice {
                key: '\u{1b}',
                label: evil.into(),
                effect: evil.into(),
            }],
            default: 0,
            flag: Some(evil.into()),
        });
        stage.renderer.prompt(evil);
        stage.renderer.resume(stage.now);
        let mut closing = report();
        closing.target = evil.into();
        closing.session = evil.into();
        closing.log_file = Some(evil.into());
        closing.modules[0].module = evil.into();
        closing.warnings[0].message = evil.into();
        stage.play(&[Event::Closing(closing)]);
        stage.renderer.finish(stage.now);
        let mut raw = stage.screen.raw();
        // Our own: line ends, erase, cursor up.
        for own in ["\r", "\n", "\x1b[K", "\x1b[J"] {
            raw = raw.replace(own, "");
        }
        for n in 1..30 {
            raw = raw.replace(&format!("\x1b[{n}A"), "");
        }
        assert!(!raw.contains(crate::escape::is_unsafe), "{mode:?} {raw:?}");
        assert!(raw.contains("x\\x1b[2J"), "{mode:?} shows the name");
    }
}

#[test]
fn after_two_silent_seconds_it_says_what_is_waited_for() {
    let mut sink = EventSink::none();
    let heard = sink.subscribe();
    let mut stage = Stage::new(Mode::Live, 20, 80);
    stage.play(&[session("atlas", "vega")]);
    stage.play(&[Event::Phase { phase: Phase::Plan }]);
    stage.pass(Duration::from_millis(1900));
    assert!(!stage.screen.text().contains("waiting"));
    stage.pass(Duration::from_millis(1100));
    let last = |stage: &Stage| {
        let text = stage.screen.text();
        let line = text.lines().last().unwrap_or_default();
        line.trim_start_matches(|c: char| !c.is_alphabetic())
            .to_owned()
    };
    assert_eq!(last(&stage), "waiting for plan, 3 s");
    // What began first is what is waited for; a look at the disk beside it is not.
    let first = sink.working("vega", "comparing /home");
    let second = sink.working("vega", "looking at its free space");
    stage.play(&heard.try_iter().collect::<Vec<_>>());
    stage.pass(Duration::from_secs(9));
    assert_eq!(last(&stage), "waiting for vega: comparing /home, 12 s");
    drop(first);
    stage.play(&heard.try_iter().collect::<Vec<_>>());
    stage.pass(Duration::from_secs(100));
    assert_eq!(
        last(&stage),
        "waiting for vega: looking at its free space, 1 min 52 s"
    );
    drop(second);
    stage.play(&heard.try_iter().collect::<Vec<_>>());
    stage.play(&[progress(1, "x")]);
    stage.pass(Duration::from_secs(1));
    assert!(!stage.screen.text().contains("waiting"));
}

#[test]
fn at_40_columns_the_time_waited_is_never_cut() {
    let mut sink = EventSink::none();
    let heard = sink.subscribe();
    let mut stage = Stage::new(Mode::Live, 20, 40);
    let _work = sink.working("vega", "comparing /srv/a-very-long-name/of-a-folder");
    stage.play(&heard.try_iter().collect::<Vec<_>>());
    stage.pass(Duration::from_secs(5));
    let text = stage.screen.text();
    let last = text.lines().last().unwrap_or_default();
    assert!(
        last.ends_with("folder, 5 s") && last.contains("waiting for vega: c"),
        "{text}"
    );
}

#[test]
fn without_live_lines_the_heartbeat_comes_less_and_less_often() {
    let mut stage = Stage::new(Mode::Plain, 20, 80);
    stage.play(&[Event::Phase { phase: Phase::Plan }]);
    for _ in 0..400 {
        stage.pass(Duration::from_millis(500));
    }
    insta::assert_snapshot!(stage.screen.text(), @"
    [6/10] plan
    waiting for plan, 2 s
    waiting for plan, 10 s
    waiting for plan, 30 s
    waiting for plan, 1 min 0 s
    waiting for plan, 2 min 0 s
    waiting for plan, 3 min 0 s
    ");
    stage.play(&[Event::Phase {
        phase: Phase::Execute,
    }]);
    for _ in 0..6 {
        stage.pass(Duration::from_millis(500));
    }
    assert!(
        stage
            .screen
            .text()
            .ends_with("[7/10] execute\nwaiting for execute, 2 s")
    );
}

#[test]
fn a_person_who_takes_their_time_is_no_silence() {
    let mut stage = Stage::new(Mode::Live, 20, 80);
    stage.play(&[Event::Phase {
        phase: Phase::Gates,
    }]);
    stage.renderer.pause(stage.now);
    stage.now += Duration::from_mins(1);
    stage.renderer.resume(stage.now);
    stage.pass(Duration::from_secs(1));
    assert!(!stage.screen.text().contains("waiting"));
}

#[test]
fn what_a_module_decided_is_below_its_result() {
    let mut report = report();
    let Event::Log(mut line) =
        log_event(LogLevel::Info, "full scan of /home: first sync with vega")
    else {
        unreachable!()
    };
    let key = LogEvent::DECISION_KEY.to_owned();
    line.context.insert(key, json!("full_scan"));
    report.decisions = vec![line];
    let lines = words::closing(&report, LOOK, Some(39));
    let text: Vec<String> = lines.iter().map(|l| l.render(LOOK)).collect();
    assert_eq!(
        text[2..6].to_vec(),
        [
            "✔ user_data    1:12",
            "    12 created, 4.2 MiB",
            "    full scan of /home: first sync with",
            "    vega"
        ]
    );
}

#[test]
fn ten_thousand_lines_a_second_leave_the_screen_calm_and_warnings_come_first() {
    let mut stage = Stage::new(Mode::Live, 50, 80);
    for tick in 0..100 {
        for n in 0..1000 {
            stage.play(&[log_event(LogLevel::Info, &format!("line {tick} {n}"))]);
        }
        if tick % 20 == 0 {
            stage.play(&[log_event(LogLevel::Warning, &format!("look {tick}"))]);
        }
        stage.pass(Duration::from_millis(100));
    }
    let raw = stage.screen.raw();
    let lines = raw.matches("user_data (vega)").count() + raw.matches("line ").count();
    assert!(raw.matches("): line").count() < 250, "{lines} lines");
    assert_eq!(raw.matches("look ").count(), 5);
    assert!(raw.contains("log lines not shown here"));
    assert!(stage.screen.writes() <= 101);
}

#[test]
fn at_most_ten_frames_a_second_are_drawn() {
    let mut stage = Stage::new(Mode::Live, 20, 80);
    stage.play(&running("atlas", "vega", ITEM));
    for n in 0..1000 {
        stage.play(&[progress(n, "x")]);
        stage.pass(Duration::from_millis(1));
    }
    assert!(stage.screen.writes() <= 11, "{}", stage.screen.writes());
}

#[test]
fn plain_lines_tell_phases_logs_and_progress_every_ten_seconds() {
    let mut stage = Stage::new(Mode::Plain, 40, 120);
    stage.play(&running("atlas", "vega", "a.txt"));
    for n in 0..25 {
        stage.play(&[progress(n * 1000, "b.txt")]);
        stage.pass(Duration::from_secs(1));
    }
    let done = result("user_data", ModuleStatus::Success, "12 created");
    stage.play(&[Event::ModuleFinished(done)]);
    stage.pass(Duration::ZERO);
    assert!(!stage.screen.raw().contains('\x1b'));
    insta::assert_snapshot!(stage.screen.text(), @"
    [5/10] presync snapshots
    [7/10] execute
    warning: user_data (vega): two rules match nothing
    user_data: 17%, 10,000 of 56,789, 9.8 GiB of 55.5 GiB, 1000.0 MiB/s, 0:46 left, b.txt
    user_data: 35%, 20,000 of 56,789, 19.5 GiB of 55.5 GiB, 1000.0 MiB/s, 0:36 left, b.txt
    ✔ user_data  1:12  12 created
    ");
}

#[test]
fn quiet_shows_errors_and_the_closing_block_only() {
    let mut stage = Stage::new(Mode::Quiet, 40, 80);
    stage.play(&running("atlas", "vega", "a.txt"));
    stage.play(&[log_event(LogLevel::Error, "broken")]);
    stage.play(&[Event::Closing(report())]);
    stage.renderer.finish(stage.now);
    insta::assert_snapshot!(stage.screen.text(), @"
    error: user_data (vega): broken

    Failed: atlas → vega
    ✔ user_data    1:12  12 created, 4.2 MiB
    ○ docker       1:12  skipped: not installed
    ✖ dummy_fail   1:12  failed: told to fail
    2 warnings:
    - user_data (vega): two rules match nothing (2 times)
    Session 1a2b3c4d FAILED, 1 min 23 s, status 1
    Log     /home/me/.local/state/pc-switcher/logs/x.log
    ");
}

#[test]
fn the_closing_block_fits_a_narrow_terminal() {
    let mut stage = Stage::new(Mode::Live, 40, 40);
    stage.play(&running("atlas", "vega", ITEM));
    stage.pass(Duration::from_secs(1));
    stage.play(&[Event::Closing(report())]);
    stage.renderer.finish(stage.now);
    insta::assert_snapshot!(stage.screen.text(), @"
    warning: user_data (vega): two rules
      match nothing

    Failed: atlas → vega
    ✔ user_data    1:12
        12 created, 4.2 MiB
    ○ docker       1:12
        skipped: not installed
    ✖ dummy_fail   1:12
        failed: told to fail
    2 warnings:
    - user_data (vega): two rules match
        nothing (2 times)
    Session 1a2b3c4d FAILED, 1 min 23 s,
      status 1
    Log     /home/me/.local/state/pc-switche
    r/logs/x.log
    ");
}

#[test]
fn without_utf8_words_stand_for_signs() {
    let look = Look {
        color: false,
        unicode: false,
    };
    let lines = words::closing(&report(), look, Some(79));
    let text: Vec<String> = lines.iter().map(|l| l.render(look)).collect();
    assert!(text.iter().all(|line| line.is_ascii()));
    insta::assert_snapshot!(text.join("\n"), @"
    Failed: atlas to vega
    ok      user_data    1:12  12 created, 4.2 MiB
    skipped docker       1:12  not installed
    failed  dummy_fail   1:12  told to fail
    2 warnings:
    - user_data (vega): two rules match nothing (2 times)
    Session 1a2b3c4d FAILED, 1 min 23 s, status 1
    Log     /home/me/.local/state/pc-switcher/logs/x.log
    ");
}

#[test]
fn what_stopped_a_run_is_told_once_with_its_hint() {
    let mut report = report();
    report.errors = vec![EndingError {
        message: "dummy_fail failed".into(),
        causes: vec!["told to fail (os error 5)".into()],
        is_list: false,
        hint: Some("switch dummy_fail off".into()),
    }];
    let mut stage = Stage::new(Mode::Plain, 30, 80);
    let Event::Log(mut log) = log_event(LogLevel::Critical, "dummy_fail failed: told to fail")
    else {
        unreachable!()
    };
    let status = EndingError::STATUS_KEY.to_owned();
    log.context.insert(status, 1.into());
    stage.play(&[Event::Log(log), Event::Closing(report)]);
    stage.pass(Duration::from_millis(200));
    insta::assert_snapshot!(stage.screen.text(), @"

    Failed: atlas → vega
    error: dummy_fail failed
    cause: told to fail
    hint: switch dummy_fail off
    ✔ user_data    1:12  12 created, 4.2 MiB
    ○ docker       1:12  skipped: not installed
    ✖ dummy_fail   1:12  failed
    2 warnings:
    - user_data (vega): two rules match nothing (2 times)
    Session 1a2b3c4d FAILED, 1 min 23 s, status 1
    Log     /home/me/.local/state/pc-switcher/logs/x.log
    ");
}

#[test]
fn errors_found_together_are_a_list_in_the_closing_block() {
    let mut report = report();
    report.errors = vec![EndingError {
        message: "not enough disk space".into(),
        causes: vec!["atlas: 1 GiB free".into(), "vega: 2 GiB free".into()],
        is_list: true,
        hint: Some("free space there".into()),
    }];
    let lines = words::closing(&report, LOOK, None);
    let text: Vec<String> = lines.iter().map(|l| l.render(LOOK)).collect();
    assert_eq!(
        text[2..6].to_vec(),
        [
            "error: not enough disk space",
            "  atlas: 1 GiB free",
            "  vega: 2 GiB free",
            "    hint: free space there"
        ]
    );
}

#[test]
fn warnings_are_grouped_and_capped() {
    let mut report = report();
    for n in 0..30 {
        let Event::Log(warning) = log_event(LogLevel::Warning, &format!("number {n}")) else {
            unreachable!()
        };
        report.warnings.push(warning);
    }
    let Event::Log(error) = log_event(LogLevel::Error, "the last is the worst") else {
        unreachable!()
    };
    report.warnings.push(error);
    let lines = words::closing(&report, LOOK, None);
    let text: Vec<String> = lines.iter().map(|l| l.render(LOOK)).collect();
    let text = text.join("\n");
    assert!(text.contains("33 warnings and errors:\n- user_data (vega): the last is the worst\n"));
    assert!(text.contains("two rules match nothing (2 times)"));
    assert!(text.contains("and 12 more in the log"));
    assert!(text.contains("number 17") && !text.contains("number 18"));
}

#[test]
fn a_question_interrupts_the_bars_and_they_come_back() {
    let mut stage = Stage::new(Mode::Live, 30, 40);
    stage.play(&running("atlas", "vega", ITEM));
    stage.pass(Duration::from_secs(1));
    stage.renderer.pause(stage.now);
    let question = Question {
        detail: vec!["vega has 3 files that were changed there since the last sync.".into()],
        text: "Overwrite them with the versions of atlas?".into(),
        choices: vec![
            Choice {
                key: 'o',
                label: "overwrite".into(),
                effect: "the versions on vega are kept in its snapshot only".into(),
            },
            Choice {
                key: 'a',
                label: "abort".into(),
                effect: "nothing is changed".into(),
            },
        ],
        default: 1,
        flag: Some("--allow-conflicts".into()),
    };
    stage.renderer.ask(&question);
    stage.play(&[log_event(LogLevel::Info, "while asked")]);
    stage.pass(Duration::from_secs(1));
    insta::assert_snapshot!(stage.screen.text(), @"
    warning: user_data (vega): two rules
      match nothing

    vega has 3 files that were changed
      there since the last sync.
    Overwrite them with the versions of
      atlas?
      [o] overwrite – the versions on vega
          are kept in its snapshot only
      [a] abort – nothing is changed
          (default)
    To answer beforehand: --allow-conflicts
    Answer o/a, Enter for abort:
    ");
    stage.screen.write("a\r\n");
    stage.renderer.resume(stage.now);
    let text = stage.screen.text();
    assert!(
        text.contains("Enter for abort: a\nuser_data (vega): while asked\natlas → vega"),
        "{text}"
    );
    assert_eq!(text.matches("━").count(), text.rmatches("━").count().min(8));
}

#[test]
fn a_line_above_is_wrapped_by_us_and_bounded() {
    let mut stage = Stage::new(Mode::Live, 60, 40);
    stage.play(&[log_event(LogLevel::Info, &"word ".repeat(2000))]);
    stage.pass(Duration::from_millis(100));
    let text = stage.screen.text();
    assert!(text.lines().count() <= 25 && text.contains("(cut here)"));
    assert!(text.lines().all(|line| columns(line) < 40));
    assert_eq!(stage.screen.wrapped_rows(), 0);
}
