//! The terminal: what a run shows and asks.
//!
//! One thread, the renderer, writes; everything that happens reaches it as an [`Event`]. Stderr is
//! for people, stdout for results (`--progress json`, the list of a dry run). This is the only place
//! that knows terminals. Nothing that is not ours is written unescaped.

mod bar;
mod changes;
mod checkup;
mod json;
mod live;
mod logview;
mod look;
mod meter;
mod pager;
mod plan;
mod renderer;
mod report;
mod screen;
mod sheet;
mod terminal;
mod text;
mod tty;
mod view;
mod words;

use std::ffi::OsString;
use std::io::{self, BufWriter, IsTerminal as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::str::FromStr;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Instant;

use crossbeam_channel::{Receiver, Sender, never, select, unbounded};

use crate::event::{Event, LogLevel};
use crate::interrupt::AbortFlag;
use crate::prompt::Prompter;

pub use changes::{ChangePrinter, ReaderGone};
pub use checkup::{CheckGroup, CheckRow, Mark, print_checks};
pub use logview::{LogRow, LogView};
pub use look::ColorMode;
pub use pager::page;
pub use report::{ErrorReport, report_error, report_errors, set_color};
pub use tty::restore_terminal;

use look::{Look, is_utf8};
use renderer::{Mode, Renderer};
use screen::stderr_screen;
use terminal::{Paused, Request, Terminal};

/// Events taken in between two looks at the screen.
const BATCH: usize = 4096;

/// `--progress`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ProgressMode {
    /// Live lines on a terminal, plain lines elsewhere.
    #[default]
    Auto,
    /// A line after the other.
    Plain,
    /// One event object a line on stdout.
    Json,
    /// Errors and the closing block only.
    None,
}

impl ProgressMode {
    /// Every mode with its name on the command line.
    pub const ALL: [(&'static str, Self); 4] = [
        ("auto", Self::Auto),
        ("plain", Self::Plain),
        ("json", Self::Json),
        ("none", Self::None),
    ];
}

impl FromStr for ProgressMode {
    type Err = ();

    fn from_str(name: &str) -> Result<Self, ()> {
        let found = Self::ALL.iter().find(|(n, _)| *n == name);
        found.map(|(_, mode)| *mode).ok_or(())
    }
}

/// What the command line says about the terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UiOptions {
    /// `--progress`.
    pub progress: ProgressMode,
    /// `--color`.
    pub color: ColorMode,
    /// How often `-v` was given, less how often `-q` was.
    pub verbosity: i8,
    /// `--batch`: never ask.
    pub batch: bool,
    /// Lowest level shown, before `verbosity`; see [`Ui::set_level`].
    pub log_cli_level: LogLevel,
}

impl Default for UiOptions {
    fn default() -> Self {
        Self {
            progress: ProgressMode::Auto,
            color: ColorMode::Auto,
            verbosity: 0,
            batch: false,
            log_cli_level: LogLevel::Info,
        }
    }
}

impl UiOptions {
    /// `level` made more verbose by each `-v`, less by each `-q`.
    fn adjusted(self, level: LogLevel) -> LogLevel {
        let all = LogLevel::ALL;
        let at = all.iter().position(|l| *l == level).unwrap_or(0);
        let step = usize::from(self.verbosity.unsigned_abs());
        let at = if self.verbosity > 0 {
            at.saturating_sub(step)
        } else {
            (at + step).min(all.len() - 1)
        };
        all[at]
    }

    fn mode(self, is_terminal: bool, env: impl Fn(&str) -> Option<OsString>) -> Mode {
        let term = env("TERM").filter(|term| !term.is_empty() && term != "dumb");
        match self.progress {
            ProgressMode::Json => Mode::Json,
            ProgressMode::None => Mode::Quiet,
            ProgressMode::Auto if is_terminal && term.is_some() => Mode::Live,
            ProgressMode::Auto | ProgressMode::Plain => Mode::Plain,
        }
    }
}

/// The terminal of a run. Dropping it ends it like [`finish`](Ui::finish).
pub struct Ui {
    options: UiOptions,
    renderer: Sender<Request>,
    thread: Option<JoinHandle<()>>,
    prompter: Arc<Terminal>,
}

/// Starts the renderer thread on `events`. `abort` ends a question that is being asked.
///
/// # Panics
/// If the machine cannot start one more thread: nothing else would work either.
#[must_use]
pub fn start(options: UiOptions, events: Receiver<Event>, abort: AbortFlag) -> Ui {
    let env = |name: &str| std::env::var_os(name);
    set_color(options.color);
    let is_terminal = io::stderr().is_terminal();
    let look = Look {
        color: options.color.applies(is_terminal, env),
        unicode: is_utf8(env),
    };
    let mode = options.mode(is_terminal, env);
    let json = (mode == Mode::Json).then(|| Box::new(io::stdout()) as Box<dyn io::Write + Send>);
    let screen = Box::new(stderr_screen());
    let now = Instant::now();
    let renderer = Renderer::new(mode, look, is_terminal, screen, json, now);
    let asks = !options.batch && is_terminal && io::stdin().is_terminal();
    let tty = asks.then(|| io::stdin().as_fd().try_clone_to_owned().ok());
    run(options, renderer, tty.flatten(), events, abort)
}

fn run(
    options: UiOptions,
    mut renderer: Renderer,
    tty: Option<OwnedFd>,
    events: Receiver<Event>,
    abort: AbortFlag,
) -> Ui {
    renderer.set_level(options.adjusted(options.log_cli_level));
    let (requests, orders) = unbounded();
    let thread = std::thread::Builder::new()
        .name("renderer".into())
        .spawn(move || render(renderer, events, &orders))
        .expect("a thread can be started");
    Ui {
        options,
        prompter: Arc::new(Terminal::new(tty, requests.clone(), abort)),
        renderer: requests,
        thread: Some(thread),
    }
}

/// The renderer thread.
fn render(mut renderer: Renderer, mut events: Receiver<Event>, orders: &Receiver<Request>) {
    loop {
        let order = select! {
            recv(orders) -> order => Some(order.unwrap_or(Request::Finish)),
            recv(events) -> event => {
                match event {
                    Ok(event) => renderer.take(&event, Instant::now()),
                    Err(_) => events = never(),
                }
                None
            }
            default(renderer.patience()) => None,
        };
        // What was said before an order comes before what the order does.
        let ready = if order.is_some() { usize::MAX } else { BATCH };
        for event in events.try_iter().take(events.len().min(ready)) {
            renderer.take(&event, Instant::now());
        }
        let now = Instant::now();
        match order {
            None => renderer.flush(now),
            Some(Request::Level(level)) => renderer.set_level(level),
            Some(Request::Pause(done)) => {
                renderer.pause(now);
                let _ = done.send(());
            }
            Some(Request::Ask(question, done)) => {
                renderer.ask(&question);
                let _ = done.send(());
            }
            Some(Request::Prompt(text, done)) => {
                renderer.prompt(&text);
                let _ = done.send(());
            }
            Some(Request::Newline(done)) => {
                renderer.newline();
                let _ = done.send(());
            }
            Some(Request::Survey(sheet, size)) => {
                let _ = size.send(renderer.survey(&sheet));
            }
            Some(Request::Answers(sheet, done)) => {
                renderer.answers(&sheet);
                let _ = done.send(());
            }
            Some(Request::Resume) => renderer.resume(now),
            Some(Request::Finish) => {
                renderer.finish(now);
                return;
            }
        }
    }
}

impl Ui {
    /// Who asks questions.
    #[must_use]
    pub fn prompter(&self) -> Arc<dyn Prompter> {
        self.prompter.clone()
    }

    /// Shows log lines from `level` up, `-v` and `-q` applied: for when the configuration is read.
    pub fn set_level(&self, level: LogLevel) {
        let level = self.options.adjusted(level);
        let _ = self.renderer.send(Request::Level(level));
    }

    /// Whether a dry run lists every change: `-v` asks for it, and so does whoever reads stdout
    /// with a program or into a file. Else a person is told what they come to.
    #[must_use]
    pub fn lists_changes(&self) -> bool {
        self.options.verbosity > 0
            || self.options.progress == ProgressMode::Json
            || !io::stdout().is_terminal()
    }

    /// Lets `print` write a list of changes of `module` to stdout, with the live lines out of the way.
    ///
    /// A reader that goes away is no error: `print` is told so, and may stop early.
    pub fn print_changes<R>(
        &self,
        module: &str,
        print: impl FnOnce(&mut ChangePrinter<'_>) -> R,
    ) -> io::Result<R> {
        let paused = Paused::new(&self.renderer);
        let stdout = io::stdout();
        let env = |name: &str| std::env::var_os(name);
        let color = self.options.color.applies(stdout.is_terminal(), env);
        let json = self.options.progress == ProgressMode::Json;
        let mut out = BufWriter::with_capacity(64 << 10, stdout.lock());
        let mut printer = ChangePrinter::new(&mut out, module, json, color);
        let result = print(&mut printer);
        let finished = printer.finish();
        // Not dropped: that would write to the closed pipe once more.
        let _ = out.into_parts();
        drop(paused);
        finished.map(|()| result)
    }

    /// Shows every event emitted so far, removes the live lines and ends the thread.
    pub fn finish(mut self) {
        self.end();
    }

    fn end(&mut self) {
        if let Some(thread) = self.thread.take() {
            let _ = self.renderer.send(Request::Finish);
            let _ = thread.join();
        }
    }
}

impl Drop for Ui {
    fn drop(&mut self) {
        self.end();
    }
}
