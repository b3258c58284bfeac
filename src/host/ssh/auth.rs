//! Logging in: agent, key files, keyboard-interactive, password, in this order.
//!
//! What a person must type is asked only where the prompter can ask; without one, everything that
//! needs no person is still tried, and the refusal says what that was.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::Duration;

use crossbeam_channel::{RecvTimeoutError, bounded};
use ssh2::{KeyboardInteractivePrompt, Session};

use super::carrier::STEP;
use super::config::{AgentSocket, HostConfig};
use super::encoding::{fingerprint, key_type};
use super::error::SshError;
use super::keys::{KeyFile, Unusable, public_of};
use super::session::{AUTHENTICATION_FAILED, PUBLICKEY_UNVERIFIED, Wire, WireError};
use crate::escape::escape_str;
use crate::interrupt::AbortFlag;
use crate::prompt::{PromptError, Prompter};

/// How long the server may take for one step of a login (its name look-ups, PAM).
const STEP_LIMIT: Duration = Duration::from_mins(1);

/// How long the agent may take: it may be waiting for a touch or its own passphrase window.
const AGENT_LIMIT: Duration = Duration::from_mins(1);

/// How often a passphrase or password is asked for.
const TRIES: usize = 3;

/// Prompts of one keyboard-interactive round that are answered.
const PROMPTS_MAX: usize = 8;

struct Login<'a> {
    wire: &'a Wire,
    config: &'a HostConfig,
    prompter: &'a dyn Prompter,
    abort: &'a AbortFlag,
    tried: Vec<String>,
    offered: Vec<String>,
    /// Public keys the server did not take from the agent.
    declined: Vec<Vec<u8>>,
}

/// Logs in as `config.user`.
pub(super) fn log_in(
    wire: &Wire,
    config: &HostConfig,
    prompter: &dyn Prompter,
    abort: &AbortFlag,
) -> Result<(), SshError> {
    let mut login = Login {
        wire,
        config,
        prompter,
        abort,
        tried: Vec::new(),
        offered: Vec::new(),
        declined: Vec::new(),
    };
    if login.ask_methods()? {
        return Ok(());
    }
    if login.run()? {
        Ok(())
    } else {
        Err(login.refused())
    }
}

impl Login<'_> {
    fn run(&mut self) -> Result<bool, SshError> {
        if self.offers("publickey") && self.config.use_keys {
            if self.try_agent()? || self.try_files()? {
                return Ok(true);
            }
            // A server that wants a key and something else says so only after the key.
            if !self.tried.is_empty() && self.ask_methods()? {
                return Ok(true);
            }
        }
        if !self.can_ask() {
            return Ok(false);
        }
        if self.offers("keyboard-interactive")
            && self.config.use_keyboard_interactive
            && self.try_keyboard_interactive()?
        {
            return Ok(true);
        }
        Ok(self.offers("password") && self.config.use_password && self.try_password()?)
    }

    fn can_ask(&self) -> bool {
        self.prompter.can_ask() && !self.config.batch_mode
    }

    fn offers(&self, method: &str) -> bool {
        self.offered.iter().any(|offered| offered == method)
    }

    fn refused(&self) -> SshError {
        SshError::LoginRefused {
            host: self.config.alias.clone(),
            user: self.config.user.clone(),
            tried: self.tried.clone(),
            offered: self.offered.clone(),
        }
    }

    /// Turns the end of one attempt into "not this one", or an error that ends the login.
    fn judge(&self, result: Result<(), WireError>) -> Result<bool, SshError> {
        match result {
            Ok(()) => Ok(true),
            Err(WireError::Interrupted(e)) => Err(e.into()),
            Err(WireError::TimedOut) => Err(SshError::TimedOut {
                host: self.config.alias.clone(),
                seconds: STEP_LIMIT.as_secs(),
                doing: "logging in",
            }),
            Err(WireError::Io(source)) => Err(SshError::Local {
                host: self.config.alias.clone(),
                source,
            }),
            Err(WireError::Ssh(e)) => {
                if is_disconnect(&e) {
                    // Usually too many attempts for one connection.
                    return Err(self.refused());
                }
                Ok(false)
            }
        }
    }

    /// Asks which methods the server accepts; true if it needs none.
    fn ask_methods(&mut self) -> Result<bool, SshError> {
        let session = &self.wire.session;
        let user = &self.config.user;
        let listed = self.wire.drive(STEP_LIMIT, self.abort, || {
            // ssh2 panics on a list that is not UTF-8, which is the server's to send.
            catch_unwind(AssertUnwindSafe(|| {
                session.auth_methods(user).map(str::to_owned)
            }))
            .unwrap_or_else(|_| Err(ssh2::Error::unknown()))
        });
        match listed {
            Ok(list) => {
                if !list.is_empty() {
                    self.offered = list.split(',').map(str::to_owned).collect();
                }
                Ok(session.authenticated())
            }
            Err(e) => {
                if session.authenticated() {
                    return Ok(true);
                }
                if matches!(&e, WireError::Ssh(e) if is_disconnect(e)) && self.tried.is_empty() {
                    return Err(SshError::Lost {
                        host: self.config.alias.clone(),
                        detail: "the server ended the connection before the login".to_owned(),
                    });
                }
                self.judge(Err(e))
            }
        }
    }

    fn try_agent(&mut self) -> Result<bool, SshError> {
        let AgentSocket::Path(socket) = &self.config.agent else {
            return Ok(false);
        };
        let listed: Vec<Vec<u8>> = self
            .config
            .identity_files
            .iter()
            .filter_map(|file| public_of(file))
            .collect();
        let session = self.wire.session.clone();
        let user = self.config.user.clone();
        let only_listed = self.config.identities_only;
        let path = socket.clone();
        let (sender, receiver) = bounded(1);
        // The agent's socket blocks inside libssh2, perhaps until a person touches a token. After an
        // abort this thread is left behind with the session until the agent answers or we exit.
        std::thread::Builder::new()
            .name("ssh-agent".to_owned())
            .spawn(move || {
                let _ = sender.send(ask_agent(&session, &user, &path, &listed, only_listed));
            })
            .map_err(|source| SshError::Local {
                host: self.config.alias.clone(),
                source,
            })?;
        let until = std::time::Instant::now() + AGENT_LIMIT;
        let outcome = loop {
            match receiver.recv_timeout(STEP) {
                Ok(outcome) => break outcome,
                Err(RecvTimeoutError::Disconnected) => return Ok(false),
                Err(RecvTimeoutError::Timeout) => {}
            }
            self.abort.check()?;
            if std::time::Instant::now() > until {
                return Err(SshError::TimedOut {
                    host: self.config.alias.clone(),
                    seconds: AGENT_LIMIT.as_secs(),
                    doing: "waiting for the ssh-agent",
                });
            }
        };
        self.tried.extend(outcome.tried);
        self.declined = outcome.declined;
        self.judge(match outcome.error {
            Some(e) => Err(WireError::Ssh(e)),
            None if outcome.is_in => Ok(()),
            None => return Ok(false),
        })
    }

    fn try_files(&mut self) -> Result<bool, SshError> {
        for path in &self.config.identity_files {
            let shown = escape_str(&path.to_string_lossy());
            let key = match KeyFile::read(path) {
                Ok(key) => key,
                Err(Unusable::Absent) => continue,
                Err(Unusable::Open) => {
                    self.tried
                        .push(format!("{shown} not used: others may read it"));
                    continue;
                }
                Err(Unusable::NotAKey) => {
                    if path.extension().is_none_or(|e| e != "pub") {
                        self.tried
                            .push(format!("{shown} not used: not a private key"));
                    }
                    continue;
                }
            };
            if key
                .public
                .as_ref()
                .is_some_and(|blob| self.declined.contains(blob))
            {
                continue;
            }
            let kind = key.public.as_deref().and_then(key_type).unwrap_or_default();
            if kind.starts_with("sk-") {
                self.tried.push(format!(
                    "{shown} not used: a security key needs the ssh-agent"
                ));
                continue;
            }
            self.tried.push(shown.clone());
            if self.try_certificate(&key)? || self.try_key(&key, &shown)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// With the certificate lying beside the key, or the one configured for it.
    fn try_certificate(&mut self, key: &KeyFile) -> Result<bool, SshError> {
        if key.is_encrypted {
            return Ok(false);
        }
        let mut beside = key.path.as_os_str().to_owned();
        beside.push("-cert.pub");
        let own = std::path::PathBuf::from(beside);
        for path in self.config.certificate_files.iter().chain([&own]) {
            if let Ok(line) = std::fs::read_to_string(path) {
                let session = &self.wire.session;
                let user = &self.config.user;
                let result = self.wire.drive(STEP_LIMIT, self.abort, || {
                    session.userauth_pubkey_memory(user, Some(line.trim()), &key.text, None)
                });
                if self.judge(result)? {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    fn try_key(&mut self, key: &KeyFile, shown: &str) -> Result<bool, SshError> {
        let public = key.public_line();
        let attempt = |passphrase: Option<&str>| {
            let session = &self.wire.session;
            let user = &self.config.user;
            self.wire.drive(STEP_LIMIT, self.abort, || {
                session.userauth_pubkey_memory(user, public.as_deref(), &key.text, passphrase)
            })
        };
        if !key.is_encrypted {
            return self.judge(attempt(None));
        }
        // Without the passphrase libssh2 can still ask whether the server would take the key.
        if public.is_some() {
            match attempt(None) {
                Err(e) if e.is(AUTHENTICATION_FAILED) => return Ok(false),
                Err(e) if e.is(PUBLICKEY_UNVERIFIED) => {}
                other => return self.judge(other),
            }
        }
        if !self.can_ask() {
            let last = self.tried.last_mut().expect("the key was just listed");
            last.push_str(" (needs its passphrase: use ssh-add)");
            return Ok(false);
        }
        for attempted in 0..TRIES {
            let again = wrong(attempted);
            let passphrase = self
                .prompter
                .secret(&format!(
                    "{again}Passphrase for the key {shown}, to log in on {} (ssh-add answers beforehand): ",
                    escape_str(&self.config.alias)
                ))?;
            if self.judge(attempt(Some(passphrase.expose())))? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn try_keyboard_interactive(&mut self) -> Result<bool, SshError> {
        self.tried.push("keyboard-interactive".to_owned());
        for _ in 0..TRIES {
            let mut answers = Answers {
                prompter: self.prompter,
                config: self.config,
                failure: None,
                asked: false,
            };
            let session = &self.wire.session;
            let user = &self.config.user;
            let result = self.wire.drive(STEP_LIMIT * 2, self.abort, || {
                session.userauth_keyboard_interactive(user, &mut answers)
            });
            if let Some(failure) = answers.failure {
                return Err(failure.into());
            }
            let asked = answers.asked;
            if self.judge(result)? {
                return Ok(true);
            }
            if !asked {
                break;
            }
        }
        Ok(false)
    }

    fn try_password(&mut self) -> Result<bool, SshError> {
        self.tried.push("password".to_owned());
        for attempted in 0..TRIES {
            let password = self.prompter.secret(&format!(
                "{}Password of {} on {}: ",
                wrong(attempted),
                escape_str(&self.config.user),
                escape_str(&self.config.hostname)
            ))?;
            let session = &self.wire.session;
            let user = &self.config.user;
            let result = self.wire.drive(STEP_LIMIT, self.abort, || {
                session.userauth_password(user, password.expose())
            });
            if self.judge(result)? {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

fn is_disconnect(error: &ssh2::Error) -> bool {
    // LIBSSH2_ERROR_SOCKET_SEND, _SOCKET_DISCONNECT, _SOCKET_RECV; and what a vanished server
    // makes of a wait for its answer.
    matches!(error.code(), ssh2::ErrorCode::Session(-7 | -13 | -43))
        || error.message().starts_with("Waiting for")
}

struct AgentOutcome {
    is_in: bool,
    declined: Vec<Vec<u8>>,
    tried: Vec<String>,
    error: Option<ssh2::Error>,
}

/// Tries the agent's keys, those of the configured files first.
fn ask_agent(
    session: &Session,
    user: &str,
    socket: &Path,
    listed: &[Vec<u8>],
    only_listed: bool,
) -> AgentOutcome {
    let mut outcome = AgentOutcome {
        is_in: false,
        declined: Vec::new(),
        tried: Vec::new(),
        error: None,
    };
    let keys = session.agent().and_then(|mut agent| {
        agent.set_identity_path(socket)?;
        agent.connect()?;
        agent.list_identities()?;
        let keys = agent.identities()?;
        Ok((agent, keys))
    });
    let (agent, mut keys) = match keys {
        Ok(got) => got,
        Err(e) => {
            outcome.tried.push(format!(
                "ssh-agent not used: {}",
                escape_str(&e.message().to_lowercase())
            ));
            return outcome;
        }
    };
    keys.retain(|key| !only_listed || listed.iter().any(|blob| blob == key.blob()));
    keys.sort_by_key(|key| {
        listed
            .iter()
            .position(|blob| blob == key.blob())
            .unwrap_or(usize::MAX)
    });
    for key in &keys {
        outcome.tried.push(format!(
            "agent key {} ({})",
            fingerprint(key.blob()),
            escape_str(key.comment())
        ));
        loop {
            match agent.userauth(user, key) {
                Ok(()) => {
                    outcome.is_in = true;
                    return outcome;
                }
                Err(e) if e.code() == super::session::EAGAIN => {
                    std::thread::sleep(Duration::from_millis(1));
                }
                Err(e) if is_disconnect(&e) => {
                    outcome.error = Some(e);
                    return outcome;
                }
                Err(_) => {
                    outcome.declined.push(key.blob().to_vec());
                    break;
                }
            }
        }
    }
    outcome
}

/// Passes the server's questions on to the person.
struct Answers<'a> {
    prompter: &'a dyn Prompter,
    config: &'a HostConfig,
    failure: Option<PromptError>,
    asked: bool,
}

impl KeyboardInteractivePrompt for Answers<'_> {
    fn prompt(
        &mut self,
        _username: &str,
        instructions: &str,
        prompts: &[ssh2::Prompt<'_>],
    ) -> Vec<String> {
        let mut answers = Vec::with_capacity(prompts.len());
        for (index, prompt) in prompts.iter().enumerate() {
            if self.failure.is_some() || index >= PROMPTS_MAX {
                answers.push(String::new());
                continue;
            }
            self.asked = true;
            let mut text = format!("({}@{}) ", self.config.user, self.config.hostname);
            if index == 0 && !instructions.trim().is_empty() {
                text.push_str(instructions.trim());
                text.push(' ');
            }
            text.push_str(&prompt.text);
            let text = bounded_text(&text);
            let answer = if prompt.echo {
                self.prompter.line(&text)
            } else {
                self.prompter.secret(&text).map(|s| s.expose().to_owned())
            };
            answers.push(answer.unwrap_or_else(|failure| {
                self.failure = Some(failure);
                String::new()
            }));
        }
        answers
    }
}

/// A server's text on one printable line of bounded length.
fn bounded_text(text: &str) -> String {
    let text: String = text.chars().take(300).collect();
    let mut shown = escape_str(&text);
    if !shown.ends_with(' ') {
        shown.push(' ');
    }
    shown
}

/// What to say before a question that was answered in vain.
fn wrong(attempted: usize) -> &'static str {
    match attempted {
        0 => "",
        _ => "That was wrong. ",
    }
}
