//! Questions on a pseudo-terminal, answered, stopped and left without echo.

use std::os::fd::{AsFd as _, OwnedFd};
use std::process::Stdio;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, tcgetattr};

use super::super::live::memory::MemoryScreen;
use super::super::look::Look;
use super::super::renderer::{Mode as UiMode, Renderer};
use super::super::{Ui, UiOptions, restore_terminal, run, start};
use super::*;
use crate::event::{Event, EventSink, LogLevel};
use crate::prompt::Choice;
use crate::sys::command::command;

/// A pseudo-terminal: we type and read at `master`, the program under test has `slave`.
struct Pty {
    master: OwnedFd,
    slave: OwnedFd,
    seen: String,
}

impl Pty {
    fn open() -> Self {
        let master =
            openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let name = ptsname(&master, Vec::new()).unwrap();
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
        let slave = rustix::fs::open(name, flags, Mode::empty()).unwrap();
        Self {
            master,
            slave,
            seen: String::new(),
        }
    }

    fn send(&self, keys: &str) {
        let written = rustix::io::write(&self.master, keys.as_bytes()).unwrap();
        assert_eq!(written, keys.len());
    }

    fn has_echo(&self) -> bool {
        let modes = tcgetattr(&self.slave).unwrap();
        modes.local_modes.contains(LocalModes::ECHO)
    }

    /// Reads what comes within `time`.
    fn read(&mut self, time: Duration) {
        let time = Timespec::try_from(time).unwrap();
        let ready = poll(&mut [PollFd::new(&self.master, PollFlags::IN)], Some(&time));
        let mut bytes = [0; 4096];
        if ready.unwrap() > 0
            && let Ok(n) = rustix::io::read(&self.master, &mut bytes)
        {
            self.seen.push_str(&String::from_utf8_lossy(&bytes[..n]));
        }
    }

    /// Reads until `text` was seen; what was seen up to its end is then forgotten, and returned.
    fn expect(&mut self, text: &str) -> String {
        let end = Instant::now() + Duration::from_secs(20);
        loop {
            if let Some(at) = self.seen.find(text) {
                return self.seen.drain(..at + text.len()).collect();
            }
            assert!(Instant::now() < end, "no {text:?} in {:?}", self.seen);
            self.read(Duration::from_millis(100));
        }
    }

    fn spawn(&self, what: &str) -> std::process::Child {
        let io = || Stdio::from(self.slave.try_clone().unwrap());
        // `setsid --ctty` makes the pseudo-terminal the controlling one, so that Ctrl-C signals.
        command("setsid")
            .args(["--ctty", "--wait"])
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", "--nocapture", "--test-threads=1"])
            .arg("ui::terminal::tests::child_of_the_tests_with_a_controlling_terminal")
            .env("PC_SWITCHER_TEST_CHILD", what)
            .env("TERM", "xterm")
            .env("LC_ALL", "C.UTF-8")
            .env_remove("CLICOLOR_FORCE")
            .stdin(io())
            .stdout(io())
            .stderr(io())
            .spawn()
            .unwrap()
    }
}

/// A terminal in memory whose answers come from a pseudo-terminal.
struct Desk {
    pty: Pty,
    ui: Ui,
    screen: MemoryScreen,
    abort: AbortFlag,
    sink: EventSink,
}

impl Desk {
    fn new() -> Self {
        let pty = Pty::open();
        let screen = MemoryScreen::new(40, 80);
        let look = Look {
            color: false,
            unicode: true,
        };
        let now = Instant::now();
        let boxed = Box::new(screen.clone());
        let renderer = Renderer::new(UiMode::Live, look, true, boxed, None, now);
        let mut sink = EventSink::none();
        let events = sink.subscribe();
        let abort = AbortFlag::new();
        let tty = pty.slave.as_fd().try_clone_to_owned().unwrap();
        let options = UiOptions::default();
        let ui = run(options, renderer, Some(tty), events, abort.clone());
        Self {
            pty,
            ui,
            screen,
            abort,
            sink,
        }
    }

    /// Asks in a thread of its own; the answer comes out of the handle.
    fn ask<T: Send + 'static>(
        &self,
        ask: impl FnOnce(&dyn Prompter) -> T + Send + 'static,
    ) -> std::thread::JoinHandle<T> {
        let prompter = self.ui.prompter();
        std::thread::spawn(move || ask(prompter.as_ref()))
    }

    fn wait_for(&self, text: &str) {
        let end = Instant::now() + Duration::from_secs(20);
        while !self.screen.text().contains(text) {
            assert!(
                Instant::now() < end,
                "no {text:?} in {}",
                self.screen.text()
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

fn question() -> Question {
    let choice = |key, label: &str| Choice {
        key,
        label: label.into(),
        effect: "does it".into(),
    };
    Question {
        detail: vec!["first sync".into()],
        text: "Go on?".into(),
        choices: vec![choice('c', "continue"), choice('a', "abort")],
        default: 1,
        flag: Some("--allow-first-sync".into()),
    }
}

#[test]
fn an_answer_is_a_key_a_word_or_enter_for_the_default() {
    for (typed, picked) in [("c\n", 0), ("C\n", 0), (" abort \n", 1), ("\n", 1)] {
        let desk = Desk::new();
        let answer = desk.ask(|p| p.choose(&question()));
        desk.wait_for("Answer c/a, Enter for abort:");
        desk.pty.send(typed);
        assert_eq!(answer.join().unwrap(), Ok(picked), "{typed:?}");
        assert!(desk.screen.text().contains("--allow-first-sync"));
    }
}

#[test]
fn an_unknown_answer_is_asked_again() {
    let desk = Desk::new();
    let answer = desk.ask(|p| p.choose(&question()));
    desk.wait_for("Answer");
    desk.pty.send("yes\n");
    desk.wait_for("Please answer c or a:");
    desk.pty.send("c\n");
    assert_eq!(answer.join().unwrap(), Ok(0));
}

#[test]
fn what_was_typed_before_the_question_does_not_answer_it() {
    let desk = Desk::new();
    desk.pty.send("c\n");
    let answer = desk.ask(|p| p.choose(&question()));
    desk.wait_for("Answer");
    std::thread::sleep(Duration::from_millis(100));
    assert!(!answer.is_finished());
    desk.pty.send("a\n");
    assert_eq!(answer.join().unwrap(), Ok(1));
}

fn survey() -> Survey {
    let choice = |key, label: &str| Choice {
        key,
        label: label.into(),
        effect: "does it".into(),
    };
    let row = |text: &str, answer| crate::prompt::SurveyRow {
        text: text.into(),
        answer,
        ..Default::default()
    };
    let group = |heading: &str, rows| crate::prompt::SurveyGroup {
        heading: heading.into(),
        choices: vec![choice('y', "yes"), choice('n', "no"), choice('x', "never")],
        rows,
    };
    Survey {
        title: "Software for vega".into(),
        groups: vec![
            group("Install", vec![row("vim", 0), row("jq", 0)]),
            group("Remove", vec![row("nano", 1)]),
        ],
    }
}

#[test]
fn a_survey_is_answered_on_one_screen_and_its_answers_stay_there() {
    let desk = Desk::new();
    let answers = desk.ask(|p| p.survey(&survey()));
    desk.wait_for("❯ ● yes    vim");
    assert!(!desk.pty.has_echo());
    desk.pty.send("\x1b[Bx");
    desk.wait_for("❯ ○ no     nano");
    desk.pty.send("q \r");
    let expected = vec![vec![0, 2], vec![2]];
    assert_eq!(answers.join().unwrap(), Ok(Some(expected)));
    assert!(desk.pty.has_echo());
    let text = desk.screen.text();
    assert!(
        text.contains("⊘ never  jq") && !text.contains('❯'),
        "{text}"
    );
}

#[test]
fn a_survey_ends_with_the_abort_flag_and_with_the_input() {
    for end in [true, false] {
        let desk = Desk::new();
        let answers = desk.ask(|p| p.survey(&survey()));
        desk.wait_for("vim");
        if end {
            desk.abort.raise();
        } else {
            desk.pty.send("\x04");
        }
        let interrupted = PromptError::Interrupted(crate::interrupt::Interrupted);
        assert_eq!(answers.join().unwrap(), Err(interrupted));
        assert!(desk.pty.has_echo());
    }
}

#[test]
fn end_of_input_is_an_interruption_and_no_answer() {
    let desk = Desk::new();
    let answer = desk.ask(|p| p.choose(&question()));
    desk.wait_for("Answer");
    desk.pty.send("\x04");
    let interrupted = PromptError::Interrupted(crate::interrupt::Interrupted);
    assert_eq!(answer.join().unwrap(), Err(interrupted));
}

#[test]
fn a_raised_abort_flag_ends_the_question_and_restores_the_echo() {
    let desk = Desk::new();
    let answer = desk.ask(|p| p.secret("Password:").map(|_| ()));
    desk.wait_for("Password:");
    assert!(!desk.pty.has_echo());
    desk.abort.raise();
    assert!(matches!(
        answer.join().unwrap(),
        Err(PromptError::Interrupted(_))
    ));
    assert!(desk.pty.has_echo());
    let again = desk.ask(|p| p.line("Name:"));
    assert!(again.join().unwrap().is_err(), "nothing is asked any more");
}

#[test]
fn a_secret_is_read_without_echo_and_a_line_with_it() {
    let mut desk = Desk::new();
    let secret = desk.ask(|p| p.secret("Password for me@vega: "));
    desk.wait_for("Password for me@vega:");
    assert!(!desk.pty.has_echo());
    desk.pty.send("hünter2\n");
    assert_eq!(secret.join().unwrap().unwrap().expose(), "hünter2");
    assert!(desk.pty.has_echo());
    desk.pty.read(Duration::from_millis(50));
    assert_eq!(desk.pty.seen, "", "nothing was echoed");

    let line = desk.ask(|p| p.line("Code: "));
    desk.wait_for("Code:");
    desk.pty.send("123\n");
    assert_eq!(line.join().unwrap().unwrap(), "123");
    desk.pty.expect("123");
}

#[test]
fn questions_of_two_threads_come_one_after_the_other() {
    let desk = Desk::new();
    let first = desk.ask(|p| p.line("One:"));
    desk.wait_for("One:");
    let second = desk.ask(|p| p.line("Two:"));
    std::thread::sleep(Duration::from_millis(100));
    assert!(!desk.screen.text().contains("Two:"));
    desk.pty.send("1\n");
    assert_eq!(first.join().unwrap().unwrap(), "1");
    desk.wait_for("Two:");
    desk.pty.send("2\n");
    assert_eq!(second.join().unwrap().unwrap(), "2");
}

#[test]
fn logs_wait_while_a_question_is_open_and_come_after_it() {
    let desk = Desk::new();
    let say = |text: &str| {
        let context = serde_json::Map::new();
        desk.sink.log(LogLevel::Info, "core", None, text, context);
    };
    say("before the question");
    let answer = desk.ask(|p| p.choose(&question()));
    desk.wait_for("Answer");
    assert!(desk.screen.text().contains("before the question"));
    say("during the question");
    std::thread::sleep(Duration::from_millis(300));
    assert!(!desk.screen.text().contains("during"));
    desk.pty.send("a\n");
    answer.join().unwrap().unwrap();
    desk.wait_for("during the question");
}

#[test]
fn without_a_terminal_nothing_is_asked() {
    let (renderer, _orders) = crossbeam_channel::unbounded();
    let terminal = Terminal::new(None, renderer, AbortFlag::new());
    assert!(!terminal.can_ask());
    assert_eq!(terminal.choose(&question()), Err(PromptError::CannotAsk));
}

/// Not a test of its own: what the tests below run on a pseudo-terminal.
#[test]
fn child_of_the_tests_with_a_controlling_terminal() {
    let Ok(what) = std::env::var("PC_SWITCHER_TEST_CHILD") else {
        return;
    };
    let abort = AbortFlag::new();
    let mut sink = EventSink::none();
    let ui = start(UiOptions::default(), sink.subscribe(), abort.clone());
    let signals = crate::signals::listen(abort.clone(), sink.clone(), restore_terminal).unwrap();
    sink.emit(&Event::Session {
        id: "1a2b3c4d".into(),
        source: "atlas".into(),
        target: "vega".into(),
    });
    let prompter = ui.prompter();
    let answer = match what.as_str() {
        "question" => prompter.choose(&question()).map(|n| n.to_string()),
        "secret" => prompter.secret("Password:").map(|s| s.expose().to_owned()),
        // Deaf to the flag, and without echo: only the second signal ends it.
        _ => {
            let tty = std::io::stdin().as_fd().try_clone_to_owned().unwrap();
            let deaf = AbortFlag::new();
            let line = read_line(&tty, false, &deaf, || {
                request(&ui.renderer, |reply| Request::Prompt("Deaf:".into(), reply));
            });
            line.map(|_| String::new()).map_err(PromptError::from)
        }
    };
    ui.finish();
    signals.stop();
    println!("RESULT {answer:?} raised {}", abort.is_raised());
}

#[test]
fn ctrl_c_at_a_question_interrupts_and_never_answers() {
    let mut pty = Pty::open();
    let mut child = pty.spawn("question");
    pty.expect("Enter for abort:");
    pty.send("\x03");
    let shown = pty.expect("raised true");
    assert!(shown.contains("RESULT Err(Interrupted"), "{shown:?}");
    assert!(child.wait().unwrap().success());
}

#[test]
fn a_secret_on_a_real_terminal_leaves_no_trace_and_the_echo_on() {
    let mut pty = Pty::open();
    let mut child = pty.spawn("secret");
    let before = pty.expect("Password:");
    assert!(before.contains("vega"), "the live lines were there");
    pty.send("hunter2\n");
    let shown = pty.expect("RESULT");
    assert!(!shown.contains("hunter2"), "{shown:?}");
    pty.expect("Ok(\"hunter2\") raised false");
    assert!(child.wait().unwrap().success());
    assert!(pty.has_echo());
}

#[test]
fn sigterm_ends_a_question_and_restores_the_echo() {
    let mut pty = Pty::open();
    let mut child = pty.spawn("secret");
    pty.expect("Password:");
    assert!(!pty.has_echo());
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    let shown = pty.expect("raised true");
    assert!(shown.contains("RESULT Err(Interrupted"), "{shown:?}");
    assert!(child.wait().unwrap().success());
    assert!(pty.has_echo());
}

#[test]
fn the_second_ctrl_c_leaves_at_once_with_130_and_the_echo_on() {
    let mut pty = Pty::open();
    let mut child = pty.spawn("deaf");
    pty.expect("Deaf:");
    assert!(!pty.has_echo());
    pty.send("\x03");
    pty.expect("press Ctrl-C again");
    pty.send("\x03");
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert!(pty.has_echo());
    pty.expect("\x1b[?25h");
}

#[test]
fn the_renderer_ends_when_the_ui_is_dropped() {
    let desk = Desk::new();
    let message = "the last word";
    let context = serde_json::Map::new();
    desk.sink
        .log(LogLevel::Info, "core", None, message, context);
    drop(desk.ui);
    assert_eq!(
        desk.screen.text(),
        message,
        "drained, and no live line left"
    );
}
