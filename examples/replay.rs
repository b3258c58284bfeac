//! Plays a made-up sync to the terminal, to see how a run looks without two machines.
//!
//! `cargo run --example replay -- [ask] [list] [flood] [fail] [quick] [plain|json|none]`, at any width, in `tmux`,
//! through a pipe, with `NO_COLOR=1`.

use std::time::{Duration, Instant};

use jiff::Timestamp;
use pc_switcher::change::{Action, Change};
use pc_switcher::event::{
    ClosingReport, ConnectionEvent, ConnectionStatus, Event, EventSink, Host, LogEvent, LogLevel,
    ModuleResult, ModuleStatus, Phase, ProgressEvent, ProgressUpdate, SessionState,
};
use pc_switcher::interrupt::{AbortFlag, Interrupted};
use pc_switcher::prompt::{Choice, PromptError, Question};
use pc_switcher::ui::{self, ProgressMode, Ui, UiOptions};
use pc_switcher::{record, signals};
use serde_json::Map;

/// What the words on the command line ask for.
struct Stage {
    words: Vec<String>,
    events: EventSink,
    abort: AbortFlag,
}

impl Stage {
    fn wants(&self, word: &str) -> bool {
        self.words.iter().any(|w| w == word)
    }

    fn wait(&self, millis: u64) -> Result<(), Interrupted> {
        let factor = if self.wants("quick") { 10 } else { 1 };
        self.abort.sleep(Duration::from_millis(millis / factor))
    }

    fn say(&self, level: LogLevel, module: &str, host: Host, text: &str) {
        self.events.log(level, module, Some(host), text, Map::new());
    }

    fn phase(&self, phase: Phase, millis: u64) -> Result<(), Interrupted> {
        self.events.emit(&Event::Phase { phase });
        self.wait(millis)
    }

    fn user_data(&self) -> Result<(), Interrupted> {
        let module = "user_data";
        self.events.emit(&Event::ModuleStarted {
            module: module.into(),
            background: false,
        });
        let working = self.events.working("vega", "changing /home");
        let total = 12_345;
        for n in 0..=100_u64 {
            let item =
                format!("/home/me/projects/réseau/日本語/deeply/nested/{n}/file \u{1b}[31m{n}.rs");
            self.events.emit(&Event::Progress(ProgressEvent {
                timestamp: Timestamp::now(),
                module: module.into(),
                update: ProgressUpdate {
                    current: Some(n * total / 100),
                    total: Some(total),
                    current_bytes: Some(n * 34_567_890),
                    total_bytes: Some(3_456_789_000),
                    item: Some(item),
                    ..ProgressUpdate::default()
                },
            }));
            if n % 25 == 10 {
                let text = "rule `*.o` in home.filter matches nothing";
                self.say(LogLevel::Warning, module, Host::Source, text);
            }
            if self.wants("flood") {
                for line in 0..1000 {
                    let text = format!("line {line} of tick {n}");
                    self.say(LogLevel::Info, module, Host::Target, &text);
                }
            }
            self.wait(if n == 60 { 5000 } else { 100 })?;
        }
        drop(working);
        Ok(())
    }

    fn play(&self, ui: &Ui) -> Result<(), PromptError> {
        let connection = |status, latency| {
            self.events
                .emit(&Event::Connection(ConnectionEvent { status, latency }));
        };
        connection(ConnectionStatus::Connecting, None);
        let working = self.events.working("vega", "connecting");
        self.phase(Phase::Initialise, 5000)?;
        drop(working);
        self.events.emit(&Event::Session {
            id: "1a2b3c4d".into(),
            source: "atlas".into(),
            target: "vega".into(),
        });
        connection(
            ConnectionStatus::Connected,
            Some(Duration::from_micros(740)),
        );
        self.phase(Phase::Gates, 300)?;
        if self.wants("ask") {
            ask(ui)?;
        }
        self.phase(Phase::Validate, 500)?;
        self.phase(Phase::Preflight, 300)?;
        self.phase(Phase::PresyncSnapshots, 500)?;
        let snapshot = "snapshot @home-presync-20260102T030405Z-1a2b3c4d";
        self.say(LogLevel::Info, "btrfs_snapshots", Host::Target, snapshot);
        self.phase(Phase::Plan, 500)?;
        self.events.emit(&Event::Log(decision()));
        if self.wants("list") {
            let _ = ui.print_changes("user_data", |printer| {
                for n in 0..5_u64 {
                    let _ = printer.print(&Change {
                        action: Action::Create,
                        item: format!("/home/me/{n}").into_bytes(),
                        detail: "content, mode".into(),
                        bytes: n * 1000,
                        from: None,
                    });
                }
            });
        }
        self.phase(Phase::Execute, 100)?;
        self.user_data()?;
        self.phase(Phase::PostsyncSnapshots, 500)?;
        self.phase(Phase::Record, 100)?;
        Ok(())
    }

    fn closing(&self, ended: Result<(), PromptError>, elapsed: Duration) -> ClosingReport {
        let now = Timestamp::now();
        let module = |name: &str, status, text: &str| ModuleResult {
            module: name.into(),
            status,
            started_at: now - Duration::from_secs(12),
            ended_at: now,
            error: (status != ModuleStatus::Success).then(|| text.into()),
            summary: (status == ModuleStatus::Success).then(|| text.into()),
        };
        let mut modules = vec![
            module(
                "btrfs_snapshots",
                ModuleStatus::Success,
                "2 snapshots on each machine",
            ),
            module(
                "user_data",
                ModuleStatus::Success,
                "12 created, 3 changed, 1 deleted, 4.2 MiB",
            ),
            module("docker", ModuleStatus::Skipped, "not installed on atlas"),
        ];
        if self.wants("fail") {
            let text = "told to fail at second 12";
            modules.push(module("dummy_fail", ModuleStatus::Failed, text));
        }
        let warning = LogEvent {
            timestamp: now,
            level: LogLevel::Warning,
            module: "user_data".into(),
            host: Some(Host::Source),
            message: "rule `*.o` in home.filter matches nothing".into(),
            context: Map::new(),
        };
        let (state, exit_code) = match ended {
            Err(_) => (SessionState::Aborted, 130),
            Ok(()) if self.wants("fail") => (SessionState::Failed, 1),
            Ok(()) => (SessionState::Completed, 8),
        };
        ClosingReport {
            session: "1a2b3c4d".into(),
            source: "atlas".into(),
            target: "vega".into(),
            state,
            dry_run: false,
            exit_code,
            modules,
            plans: Vec::new(),
            decisions: vec![decision()],
            warnings: vec![warning.clone(), warning],
            elapsed,
            errors: Vec::new(),
            log_file: None,
        }
    }
}

fn decision() -> LogEvent {
    let mut context = Map::new();
    context.insert(LogEvent::DECISION_KEY.into(), "full_scan".into());
    LogEvent {
        timestamp: Timestamp::now(),
        level: LogLevel::Info,
        module: "user_data".into(),
        host: Some(Host::Target),
        message: "full scan of /home: first sync with vega".into(),
        context,
    }
}

fn ask(ui: &Ui) -> Result<(), PromptError> {
    let choice = |key, label: &str, effect: &str| Choice {
        key,
        label: label.into(),
        effect: effect.into(),
    };
    ui.prompter()
        .secret("Passphrase for /home/me/.ssh/id_ed25519: ")?;
    ui.prompter().choose(&Question {
        detail: vec!["atlas and vega were never synced with each other.".into()],
        text: "Replace /home and /root on vega by those of atlas?".into(),
        choices: vec![
            choice('c', "continue", "what is on vega stays in a snapshot there"),
            choice('a', "abort", "nothing is changed"),
        ],
        default: 1,
        flag: Some("--allow-first-sync".into()),
    })?;
    Ok(())
}

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let progress: ProgressMode = words
        .iter()
        .find_map(|w| w.parse().ok())
        .unwrap_or_default();
    let mut events = EventSink::none();
    let abort = AbortFlag::new();
    let session = format!("{:08x}", std::process::id());
    let log = record::log::LogWriter::start(&session, events.subscribe()).ok();
    let options = UiOptions {
        progress,
        ..UiOptions::default()
    };
    let ui = ui::start(options, events.subscribe(), abort.clone());
    let signals = signals::listen(abort.clone(), events.clone(), ui::restore_terminal);
    let directory = std::env::temp_dir().join("pc-switcher-replay");
    let log_file = log.as_ref().map(|log| log.open(&directory, LogLevel::Full));
    let stage = Stage {
        words,
        events,
        abort,
    };
    let began = Instant::now();
    let ended = stage.play(&ui);
    stage.events.emit(&Event::Phase {
        phase: Phase::CleanUp,
    });
    let mut report = stage.closing(ended, began.elapsed());
    report.log_file = log_file.and_then(Result::ok);
    stage.events.emit(&Event::Closing(report));
    ui.finish();
    drop(signals);
    if let Some(Err(error)) = log.map(record::log::LogWriter::finish) {
        ui::report_error(&ui::ErrorReport::new(error.to_string()));
    }
}
