//! What commands that speak to agents share: events, the terminal, signals, and how flags map.

use std::sync::Arc;

use super::args::{self, GlobalArgs};
use crate::event::{EventSink, LogLevel};
use crate::interrupt::AbortFlag;
use crate::prompt::Prompter;
use crate::run::machines::Access;
use crate::signals::{self, SignalThread};
use crate::ui::{self, ColorMode, ProgressMode, Ui, UiOptions};

/// The terminal and the signals of one command.
pub(super) struct Console {
    pub(super) events: EventSink,
    pub(super) abort: AbortFlag,
    pub(super) ui: Arc<Ui>,
    signals: Option<SignalThread>,
}

impl Console {
    /// Starts the renderer and hears signals. `events` may have other listeners already.
    pub(super) fn start(global: &GlobalArgs, level: LogLevel, mut events: EventSink) -> Self {
        let abort = AbortFlag::new();
        let heard = events.subscribe();
        let ui = ui::start(ui_options(global, level), heard, abort.clone());
        let signals = signals::listen(abort.clone(), events.clone(), ui::restore_terminal);
        if let Err(error) = &signals {
            events.log(
                LogLevel::Warning,
                "core",
                None,
                format!("signals cannot be heard, Ctrl-C will not clean up: {error}"),
                serde_json::Map::new(),
            );
        }
        Self {
            events,
            abort,
            ui: Arc::new(ui),
            signals: signals.ok(),
        }
    }

    /// Who asks questions.
    pub(super) fn prompter(&self) -> Arc<dyn Prompter> {
        self.ui.prompter()
    }

    /// What agents are connected with.
    pub(super) fn access(&self, session: &str) -> Access {
        Access {
            session: session.to_owned(),
            events: self.events.clone(),
            abort: self.abort.clone(),
            prompter: self.prompter(),
        }
    }

    /// Shows what is left to show and gives the terminal back.
    pub(super) fn finish(self) {
        if let Some(signals) = self.signals {
            signals.stop();
        }
        drop(self.ui);
    }
}

fn ui_options(global: &GlobalArgs, level: LogLevel) -> UiOptions {
    let count = |times: u8| i8::try_from(times).unwrap_or(i8::MAX);
    UiOptions {
        progress: match global.progress {
            args::ProgressMode::Auto => ProgressMode::Auto,
            args::ProgressMode::Plain => ProgressMode::Plain,
            args::ProgressMode::Json => ProgressMode::Json,
            args::ProgressMode::None => ProgressMode::None,
        },
        color: color(global.color),
        verbosity: count(global.verbose).saturating_sub(count(global.quiet)),
        batch: global.batch,
        log_cli_level: level,
    }
}

/// `--color` for the terminal.
pub(super) fn color(color: args::ColorMode) -> ColorMode {
    match color {
        args::ColorMode::Auto => ColorMode::Auto,
        args::ColorMode::Always => ColorMode::Always,
        args::ColorMode::Never => ColorMode::Never,
    }
}
