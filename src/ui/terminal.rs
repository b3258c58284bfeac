//! Asking a person: the [`Prompter`] of a terminal.
//!
//! The renderer thread shows the question, with the live lines out of the way; the thread that asks
//! reads the answer. One question at a time, whoever asks.

use std::os::fd::OwnedFd;
use std::sync::{Mutex, PoisonError};

use crossbeam_channel::{Sender, bounded};

use crate::interrupt::AbortFlag;
use crate::prompt::{PromptError, Prompter, Question, Secret, Survey};

use super::sheet::{Sheet, Turn};
use super::tty::{Keys, read_line};

/// What the renderer is asked to do.
pub(super) enum Request {
    /// Clear the live lines and write nothing of its own any more, then reply.
    Pause(Sender<()>),
    /// Show a question; only while paused.
    Ask(Question, Sender<()>),
    /// Show a text with the cursor behind it; only while paused.
    Prompt(String, Sender<()>),
    /// End the line; only while paused.
    Newline(Sender<()>),
    /// Show a survey in place of what is there of it; only while paused. Answered with rows and columns,
    /// or nothing where it cannot be shown.
    Survey(Box<Sheet>, Sender<Option<(usize, usize)>>),
    /// Leave the survey's answers on the screen; only while paused.
    Answers(Box<Sheet>, Sender<()>),
    /// Go on.
    Resume,
    /// Show log lines from this level up.
    Level(crate::event::LogLevel),
    /// Show what is there, then end.
    Finish,
}

/// Asks `renderer` something and waits until it is done; whether it was.
pub(super) fn request(
    renderer: &Sender<Request>,
    make: impl FnOnce(Sender<()>) -> Request,
) -> bool {
    let (reply, done) = bounded(1);
    renderer.send(make(reply)).is_ok() && done.recv().is_ok()
}

/// The renderer stands back until this is dropped.
pub(super) struct Paused<'a>(&'a Sender<Request>);

impl<'a> Paused<'a> {
    /// `None` if there is no renderer any more.
    pub(super) fn new(renderer: &'a Sender<Request>) -> Option<Self> {
        request(renderer, Request::Pause).then_some(Self(renderer))
    }
}

impl Drop for Paused<'_> {
    fn drop(&mut self) {
        let _ = self.0.send(Request::Resume);
    }
}

/// A person at a terminal.
pub(super) struct Terminal {
    /// Where answers come from; `None` where nobody can be asked.
    tty: Option<OwnedFd>,
    renderer: Sender<Request>,
    abort: AbortFlag,
    asking: Mutex<()>,
}

impl Terminal {
    /// Asks on `tty`, if there is one.
    pub(super) fn new(tty: Option<OwnedFd>, renderer: Sender<Request>, abort: AbortFlag) -> Self {
        Self {
            tty,
            renderer,
            abort,
            asking: Mutex::new(()),
        }
    }

    /// With the renderer out of the way, `show`s something and reads a line, until `accept` takes it.
    fn converse<T>(
        &self,
        echo: bool,
        mut show: impl FnMut(Option<&'static str>, Sender<()>) -> Request,
        mut accept: impl FnMut(Vec<u8>) -> Result<T, &'static str>,
    ) -> Result<T, PromptError> {
        let tty = self.tty.as_ref().ok_or(PromptError::CannotAsk)?;
        let _one = self.asking.lock().unwrap_or_else(PoisonError::into_inner);
        self.abort.check()?;
        let _paused = Paused::new(&self.renderer).ok_or(PromptError::CannotAsk)?;
        let mut again = None;
        loop {
            let line = read_line(tty, echo, &self.abort, || {
                request(&self.renderer, |reply| show(again, reply));
            });
            // Without echo, and after Ctrl-C or Ctrl-D, the cursor is still behind the prompt.
            if !echo || line.is_err() {
                request(&self.renderer, Request::Newline);
            }
            match line.map(&mut accept)? {
                Ok(answer) => return Ok(answer),
                Err(why) => again = Some(why),
            }
        }
    }
}

impl Prompter for Terminal {
    fn can_ask(&self) -> bool {
        self.tty.is_some()
    }

    fn choose(&self, question: &Question) -> Result<usize, PromptError> {
        let keys: Vec<String> = question.choices.iter().map(|c| c.key.to_string()).collect();
        let please = format!("Please answer {}:", keys.join(" or "));
        self.converse(
            true,
            |again, reply| match again {
                None => Request::Ask(question.clone(), reply),
                Some(_) => Request::Prompt(please.clone(), reply),
            },
            |line| answer(question, &line).ok_or("unknown"),
        )
    }

    fn survey(&self, survey: &Survey) -> Result<Option<Vec<Vec<usize>>>, PromptError> {
        let tty = self.tty.as_ref().ok_or(PromptError::CannotAsk)?;
        let _one = self.asking.lock().unwrap_or_else(PoisonError::into_inner);
        self.abort.check()?;
        let _paused = Paused::new(&self.renderer).ok_or(PromptError::CannotAsk)?;
        let mut sheet = Sheet::new(survey.clone());
        // The mode first: what is typed once it is shown is an answer.
        let mut keys = Keys::of(tty)?;
        loop {
            let (reply, size) = bounded(1);
            let shown = Request::Survey(Box::new(sheet.clone()), reply);
            self.renderer
                .send(shown)
                .map_err(|_| PromptError::CannotAsk)?;
            let Some(size) = size.recv().map_err(|_| PromptError::CannotAsk)? else {
                return Ok(None);
            };
            sheet.fit_into(size);
            let key = keys.next(&self.abort)?;
            if sheet.press(key) == Turn::Done {
                let answers = sheet.answers();
                request(&self.renderer, |reply| {
                    Request::Answers(Box::new(sheet), reply)
                });
                return Ok(Some(answers));
            }
        }
    }

    fn secret(&self, prompt: &str) -> Result<Secret, PromptError> {
        self.converse(
            false,
            |again, reply| Request::Prompt(repeated(again, prompt), reply),
            |line| {
                String::from_utf8(line).map(Secret::new).map_err(|e| {
                    let mut bytes = e.into_bytes();
                    bytes.fill(0);
                    std::hint::black_box(&bytes);
                    "That was not UTF-8. "
                })
            },
        )
    }

    fn line(&self, prompt: &str) -> Result<String, PromptError> {
        self.converse(
            true,
            |again, reply| Request::Prompt(repeated(again, prompt), reply),
            |line| String::from_utf8(line).map_err(|_| "That was not UTF-8. "),
        )
    }
}

fn repeated(again: Option<&str>, prompt: &str) -> String {
    format!("{}{prompt}", again.unwrap_or_default())
}

/// Which choice `line` picks: by its key, its word, or the default on an empty line.
fn answer(question: &Question, line: &[u8]) -> Option<usize> {
    let line = std::str::from_utf8(line).ok()?.trim().to_lowercase();
    if line.is_empty() {
        return (question.default < question.choices.len()).then_some(question.default);
    }
    question.choices.iter().position(|choice| {
        line == choice.key.to_lowercase().to_string() || line == choice.label.to_lowercase()
    })
}

#[cfg(test)]
#[path = "terminal_tests.rs"]
mod tests;
