//! One run in a world: what it is given, and how it went.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use crate::config::{
    Config, DiskConfig, DummyFailConfig, DummySuccessConfig, Folder, SnapshotConfig, Space,
    UserDataConfig,
};
use crate::event::{Event, EventSink, LogEvent, LogLevel};
use crate::module::Module;
use crate::prompt::Prompter;
use crate::run::options::SyncOptions;
use crate::run::session::SyncSession;
use crate::run::{Changes, Ended, PlanOutput, Setup, sync};

use super::{TestModule, World};
/// One run to be made.
pub(crate) struct Trial {
    pub(crate) world: World,
    pub(crate) config: Config,
    pub(crate) options: SyncOptions,
    pub(crate) prompter: Arc<dyn Prompter>,
    pub(crate) modules: Vec<Box<dyn Module>>,
    pub(crate) events: EventSink,
    heard: crossbeam_channel::Receiver<Event>,
    written: Arc<Mutex<String>>,
    _directory: tempfile::TempDir,
}

/// How it went.
pub(crate) struct Outcome {
    pub(crate) ended: Ended,
    pub(crate) events: Vec<Event>,
    pub(crate) plan: String,
}

impl Outcome {
    pub(crate) fn code(&self) -> u8 {
        self.ended.status.code()
    }

    pub(crate) fn logged(&self, level: LogLevel) -> Vec<&LogEvent> {
        let lines = self.events.iter().filter_map(|event| match event {
            Event::Log(line) if line.level == level => Some(line),
            _ => None,
        });
        lines.collect()
    }

    /// The first error with its causes, for assertions about words.
    pub(crate) fn error(&self) -> String {
        let first = self.ended.errors.first();
        first
            .map(|e| format!("{} [{}]", e.line(), e.hint.as_deref().unwrap_or_default()))
            .unwrap_or_default()
    }
}

/// Lists a plan as plain text.
struct Listed(Arc<Mutex<String>>);

impl PlanOutput for Listed {
    fn print(
        &mut self,
        _module: &str,
        heading: &str,
        changes: &mut Changes<'_>,
    ) -> std::io::Result<()> {
        let mut text = self.0.lock().unwrap();
        text.push_str(heading);
        text.push('\n');
        changes(&mut |change| {
            text.push(char::from(change.action as u8));
            text.push(' ');
            text.push_str(&String::from_utf8_lossy(&change.item));
            text.push('\n');
        });
        Ok(())
    }
}

impl Trial {
    /// A run that opens no gate, asks nothing and succeeds, with one sync module, `work`.
    pub(crate) fn new(world: &World) -> Self {
        Self::of(world, vec![TestModule::new("work")])
    }

    /// The same with these sync modules, in this order.
    pub(crate) fn of(world: &World, modules: Vec<TestModule>) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("config.yaml");
        std::fs::write(&path, "ours\n").unwrap();
        let names = modules.iter().map(|module| module.name);
        let config = config(path, names);
        let mut all = crate::modules::registry();
        // One of the name of a real one stands in for it.
        all.retain(|real| modules.iter().all(|module| module.name != real.name()));
        all.extend(modules.into_iter().map(|m| Box::new(m) as Box<dyn Module>));
        let mut events = EventSink::none();
        let heard = events.subscribe();
        Self {
            world: world.clone(),
            config,
            options: SyncOptions {
                host: "vega".into(),
                yes: true,
                batch: true,
                ..SyncOptions::default()
            },
            prompter: Arc::new(crate::prompt::NeverAsk),
            modules: all,
            events,
            heard,
            written: Arc::default(),
            _directory: directory,
        }
    }

    pub(crate) fn run(self) -> Outcome {
        let ended = sync(Setup {
            config: self.config,
            options: self.options,
            session: SyncSession::with_id("0123abcd".into()),
            machines: Arc::new(self.world.clone()),
            prompter: self.prompter,
            events: self.events,
            abort: self.world.abort(),
            modules: self.modules,
            plan_output: Box::new(Listed(Arc::clone(&self.written))),
            log_file: None,
            open_log: None,
        });
        let plan = self.written.lock().unwrap().clone();
        Outcome {
            ended,
            events: self.heard.try_iter().collect(),
            plan,
        }
    }
}

fn config(path: PathBuf, modules: impl Iterator<Item = &'static str>) -> Config {
    Config {
        path,
        log_file_level: LogLevel::Full,
        log_cli_level: LogLevel::Info,
        bandwidth_limit: None,
        transfers: None,
        sync_modules: modules.map(|name| (name.to_owned(), true)).collect(),
        disk: DiskConfig {
            preflight_minimum: Space::Percent(20),
            runtime_minimum: Space::Percent(15),
            warning_threshold: Space::Percent(25),
            check_interval: 30,
        },
        btrfs_snapshots: SnapshotConfig {
            subvolumes: vec!["@".into(), "@home".into()],
            snapshot_dir: "/.snapshots".into(),
            keep_recent: 3,
            max_age_days: None,
        },
        packages: crate::config::PackagesConfig::default(),
        user_data: UserDataConfig {
            folders: vec![Folder {
                path: "/home".into(),
                filter: None,
            }],
            full_scan_every: None,
            mass_delete_percent: 50,
            mass_delete_count: 100,
        },
        dummy_success: DummySuccessConfig {
            source_duration: 0,
            target_duration: 0,
        },
        dummy_fail: DummyFailConfig {
            source_duration: 0,
            target_duration: 0,
            fail_at: 0,
        },
    }
}
