//! The first words with a program that was just started: what it is sent, and how its banner is
//! found among what login scripts and `sudo` may print before it.
//!
//! Nothing here does I/O; the owner of the streams feeds it and asks what to send. Everything that
//! arrives is bounded, because the other side may be anything.

use std::collections::VecDeque;
use std::time::Duration;

use super::stream::Tail;

/// Longest line that can be a banner, a refusal or a ready line.
const LINE_MAX: usize = 1024;

/// How much of anything else may come before them.
const NOISE_MAX: usize = 64 << 10;

/// How long nothing may move before everything was sent.
pub const STALL_TIMEOUT: Duration = Duration::from_secs(30);

/// How long to wait for the banner once everything was sent.
pub const BANNER_TIMEOUT: Duration = Duration::from_secs(20);

/// What is said to a program, and how it is known to have started.
#[derive(Debug, Clone, Default)]
pub struct Opening<'a> {
    /// Sent at once, in this order.
    pub at_once: Vec<&'a [u8]>,
    /// The line on which `when_ready` is sent.
    pub ready: &'a str,
    /// Sent when the program has said `ready`.
    pub when_ready: Vec<&'a [u8]>,
    /// What the banner line begins with.
    pub banner: &'a str,
    /// What a line begins with by which the program says why it will not start.
    pub refusal: &'a str,
    /// What `sudo` prints on stderr when it wants the password. It is sent once with `at_once`;
    /// when `sudo` asks again it was wrong.
    pub password_prompt: Option<&'a str>,
}

/// How an opening ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Opened {
    /// The banner line, without its newline, and the bytes after it.
    Banner {
        /// The line.
        line: String,
        /// What came in the same breath.
        rest: Vec<u8>,
    },
    /// The words after the refusal prefix.
    Refused(String),
    /// `sudo` asked for the password a second time.
    PasswordRefused,
    /// Too much that is none of these.
    Babble,
    /// The program ended first, with this exit status.
    Ended(Option<i32>),
    /// It did not answer in time.
    TimedOut,
}

/// An opening under way.
#[derive(Debug)]
pub(crate) struct Conversation<'a> {
    opening: Opening<'a>,
    to_send: VecDeque<&'a [u8]>,
    line: Vec<u8>,
    noise: usize,
    prompt_search: Vec<u8>,
    prompts: usize,
    stderr: Tail,
}

impl<'a> Conversation<'a> {
    pub(crate) fn new(opening: Opening<'a>) -> Self {
        Self {
            to_send: opening.at_once.iter().copied().collect(),
            opening,
            line: Vec::new(),
            noise: 0,
            prompt_search: Vec::new(),
            prompts: 0,
            stderr: Tail::default(),
        }
    }

    /// What to send now; empty when there is nothing.
    pub(crate) fn front(&mut self) -> &'a [u8] {
        while self.to_send.front().is_some_and(|piece| piece.is_empty()) {
            self.to_send.pop_front();
        }
        self.to_send.front().copied().unwrap_or_default()
    }

    /// `count` bytes of [`front`](Self::front) are on their way.
    pub(crate) fn wrote(&mut self, count: usize) {
        if let Some(piece) = self.to_send.front_mut() {
            *piece = &piece[count..];
        }
    }

    /// What the program wrote to stderr last.
    pub(crate) fn into_stderr(mut self) -> Tail {
        if let Some(prompt) = self.opening.password_prompt {
            self.stderr.forget(prompt);
        }
        self.stderr
    }

    /// Takes in bytes of stdout.
    pub(crate) fn stdout(&mut self, bytes: &[u8]) -> Option<Opened> {
        let mut bytes = bytes;
        while let Some(end) = bytes.iter().position(|b| *b == b'\n') {
            self.line.extend_from_slice(&bytes[..end]);
            bytes = &bytes[end + 1..];
            let line = std::mem::take(&mut self.line);
            if let Some(opened) = self.whole_line(&line, bytes) {
                return Some(opened);
            }
            self.noise += line.len() + 1;
        }
        self.line.extend_from_slice(bytes);
        (self.noise + self.line.len() > NOISE_MAX).then_some(Opened::Babble)
    }

    fn whole_line(&mut self, line: &[u8], rest: &[u8]) -> Option<Opened> {
        // A login script may have left its last line open: look for the prefix anywhere.
        let text = String::from_utf8_lossy(line);
        let text = text.trim_end_matches('\r');
        let from = |prefix: &str| {
            let at = text.rfind(prefix).filter(|_| !prefix.is_empty())?;
            (text.len() - at <= LINE_MAX).then(|| text[at..].to_owned())
        };
        if let Some(line) = from(self.opening.banner) {
            return Some(Opened::Banner {
                line,
                rest: rest.to_vec(),
            });
        }
        if let Some(line) = from(self.opening.refusal) {
            let words = line[self.opening.refusal.len()..].trim().to_owned();
            return Some(Opened::Refused(words));
        }
        if from(self.opening.ready).is_some() {
            self.to_send.extend(self.opening.when_ready.drain(..));
        }
        None
    }

    /// Takes in bytes of stderr.
    pub(crate) fn stderr(&mut self, bytes: &[u8]) -> Option<Opened> {
        self.stderr.push(bytes);
        let prompt = self.opening.password_prompt?.as_bytes();
        self.prompt_search.extend_from_slice(bytes);
        while let Some(at) = self
            .prompt_search
            .windows(prompt.len())
            .position(|window| window == prompt)
        {
            self.prompt_search.drain(..at + prompt.len());
            self.prompts += 1;
        }
        let keep = prompt.len().min(self.prompt_search.len());
        self.prompt_search.drain(..self.prompt_search.len() - keep);
        (self.prompts > 1).then_some(Opened::PasswordRefused)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn conversation() -> Conversation<'static> {
        Conversation::new(Opening {
            at_once: vec![b"secret\n"],
            ready: "ready",
            when_ready: vec![b"binary"],
            banner: "agent ",
            refusal: "refused ",
            password_prompt: Some("[pw]"),
        })
    }

    #[test]
    fn noise_before_the_banner_is_skipped_wherever_it_is_cut() {
        let all = b"Welcome!\nno newline hereagent 1 2 3\nFRAMES";
        for cut in 0..=all.len() {
            let mut talk = conversation();
            let opened = talk
                .stdout(&all[..cut])
                .or_else(|| talk.stdout(&all[cut..]));
            let Some(Opened::Banner { line, rest }) = opened else {
                panic!("no banner when cut at {cut}");
            };
            assert_eq!(line, "agent 1 2 3");
            assert!(b"FRAMES".starts_with(&rest[..]));
        }
    }

    #[test]
    fn the_binary_is_sent_only_after_the_ready_line() {
        let mut talk = conversation();
        assert_eq!(talk.front(), b"secret\n");
        talk.wrote(7);
        assert_eq!(talk.front(), b"");
        assert_eq!(talk.stdout(b"ready\n"), None);
        assert_eq!(talk.front(), b"binary");
        assert_eq!(
            talk.stdout(b"refused arch aarch64\n"),
            Some(Opened::Refused("arch aarch64".into()))
        );
    }

    #[test]
    fn a_second_password_prompt_means_it_was_wrong() {
        let mut talk = conversation();
        assert_eq!(talk.stderr(b"[p"), None);
        assert_eq!(talk.stderr(b"w]"), None);
        assert_eq!(talk.stderr(b"Sorry, try again.\n[pw"), None);
        assert_eq!(talk.stderr(b"]"), Some(Opened::PasswordRefused));
    }

    #[test]
    fn endless_noise_is_given_up() {
        let mut talk = conversation();
        let mut rounds = 0;
        while talk.stdout(&[b'x'; 1000]).is_none() {
            rounds += 1;
            assert!(rounds < 100);
        }
    }
}
