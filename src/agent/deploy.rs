//! Starting an agent: on this machine as a child of `sudo`, on another one by streaming our own
//! binary into memory there.
//!
//! Nothing is installed and nothing can be left behind: the file the binary is received into has
//! no name from before its first byte on (see `script`). One `exec` carries everything; frames
//! are sent only after the banner was read, so nothing that receives the binary can swallow them.
//! The words a shell parses are numbers and hex digits made here.

mod error;
mod script;
#[cfg(test)]
mod tests;

use std::fmt::Write as _;
use std::path::Path;

use crossbeam_channel::{Sender, unbounded};
use sha2::{Digest, Sha256};

pub use error::{Allowance, DeployError};

use self::script::Sudo;
use super::link::{Backlog, Closed, Incoming, Link, Traffic};
use super::protocol::{FrameSplitter, PROTOCOL};
use crate::escape::escape_str;
use crate::host::local;
use crate::host::opening::{BANNER_TIMEOUT, Opened, Opening};
use crate::host::ssh::SshConnection;
use crate::host::stream::ByteSink;
use crate::host::sudo::SudoTrouble;
use crate::host::sudoers;
use crate::interrupt::AbortFlag;
use crate::prompt::{Prompter, Secret};
use crate::sys::command::command;

/// Where we are looked for on the other machine: where `install_on_target` puts us, and where packages do.
const INSTALLED: [&str; 2] = ["/usr/local/bin/pc-switcher", "/usr/bin/pc-switcher"];

/// A static build that is streamed instead of ourselves, if it is there.
const STATIC_SIBLING: &str = "/usr/lib/pc-switcher/pc-switcher-static";

/// Names another binary to stream.
const BINARY_VARIABLE: &str = "PC_SWITCHER_AGENT_BINARY";

/// What every agent's first line begins with.
const BANNER: &str = "pc-switcher-agent ";

/// As much may wait to be taken in, which takes no time to speak of.
const WAITING_MAX: usize = 256 << 20;

/// How often a password is asked for.
const TRIES: usize = 3;

/// To be called first by the agent: what starting it left open is not handed on to the programs it
/// runs, and it is listed under its own name (it was started through a descriptor).
pub fn settle_in() {
    crate::sys::inherit::keep_descriptors_from_children();
    let _ = rustix::thread::set_name(c"pc-switcher");
}

/// The binary that becomes the target's agent.
#[derive(Debug)]
pub struct AgentBinary {
    bytes: Vec<u8>,
    sha256: String,
}

impl AgentBinary {
    /// What `PC_SWITCHER_AGENT_BINARY` names, else the static build installed beside us, else we.
    pub fn find() -> Result<Self, DeployError> {
        if let Some(path) = std::env::var_os(BINARY_VARIABLE).filter(|path| !path.is_empty()) {
            return Self::read(Path::new(&path));
        }
        let sibling = Path::new(STATIC_SIBLING);
        if sibling.exists() {
            return Self::read(sibling);
        }
        Self::read(Path::new("/proc/self/exe"))
    }

    /// The file at `path`.
    pub fn read(path: &Path) -> Result<Self, DeployError> {
        let bytes = std::fs::read(path).map_err(|source| DeployError::Binary {
            path: path.to_owned(),
            source,
        })?;
        let mut sha256 = String::with_capacity(64);
        for byte in Sha256::digest(&bytes) {
            write!(sha256, "{byte:02x}").expect("a String takes every write");
        }
        Ok(Self { bytes, sha256 })
    }
}

/// How the first agent on a machine was started, so that more can be started the same way.
#[derive(Debug, Clone)]
pub struct AgentAccess {
    as_root: bool,
    is_installed: bool,
    password: Option<Secret>,
    sha256: String,
    session: String,
}

/// Starts an agent on the machine behind `connection`, streaming `binary` to it.
///
/// `session` is the session id in hex digits. With the link comes what is needed to start further
/// agents there.
pub fn start_agent(
    connection: SshConnection,
    binary: &AgentBinary,
    session: &str,
    prompter: &dyn Prompter,
) -> Result<(Link, AgentAccess), DeployError> {
    let as_root = connection.user() == "root";
    start_agent_as(connection, binary, session, prompter, as_root)
}

fn start_agent_as(
    connection: SshConnection,
    binary: &AgentBinary,
    session: &str,
    prompter: &dyn Prompter,
    as_root: bool,
) -> Result<(Link, AgentAccess), DeployError> {
    let mut access = AgentAccess {
        as_root,
        is_installed: false,
        password: None,
        sha256: binary.sha256.clone(),
        session: session.chars().filter(char::is_ascii_hexdigit).collect(),
    };
    let mut place = Place {
        host: connection.host().to_owned(),
        user: connection.user().to_owned(),
        bytes: binary.bytes.len(),
        allowance: Allowance::LineOnceInstalled(sudoers::line(connection.user(), INSTALLED[0])),
    };
    let mut connection = connection;
    if !as_root {
        // The very same program may be installed there. It comes first: where sudo allows this one and
        // nothing else, trying anything else is an offence that sudo reports to root.
        connection = match place.run_installed(connection, &access)? {
            Installed::Agent(link) => {
                access.is_installed = true;
                return Ok((link, access));
            }
            Installed::NotAllowed(mut connection) => {
                place.allowance = place.where_installed(&mut connection, &access)?;
                connection
            }
            Installed::Absent(connection) | Installed::Died(connection, _) => connection,
        };
    }
    let script = script::streamed(binary.bytes.len(), &access.sha256, &access.session);
    let (trouble, connection) = match place.run(connection, &access, &script, &binary.bytes)? {
        Heard::Agent(link) => return Ok((link, access)),
        Heard::Trouble(trouble, connection) => (trouble, connection),
    };
    // In all other cases no password helps.
    if trouble != SudoTrouble::PasswordRequired {
        return Err(place.sudo(trouble));
    }
    let mut connection = Some(connection);
    let link = place.with_password(prompter, |place, password| {
        access.password = Some(password.clone());
        let free = connection.take().expect("given back after each failure");
        Ok(match place.run(free, &access, &script, &binary.bytes)? {
            Heard::Agent(link) => Ok(link),
            Heard::Trouble(trouble, free) => {
                connection = Some(free);
                Err(trouble)
            }
        })
    })?;
    Ok((link, access))
}

/// Starts one more agent on the machine behind `connection`, without streaming anything: from the
/// binary of the first agent, which still runs there as process `pid`.
pub fn start_extra_agent(
    connection: SshConnection,
    pid: u32,
    access: &AgentAccess,
) -> Result<Link, DeployError> {
    let place = Place {
        host: connection.host().to_owned(),
        user: connection.user().to_owned(),
        bytes: 0,
        allowance: Allowance::LineOnceInstalled(sudoers::line(connection.user(), INSTALLED[0])),
    };
    if access.is_installed {
        return match place.run_installed(connection, access)? {
            Installed::Agent(link) => Ok(link),
            Installed::NotAllowed(_) => Err(place.sudo(SudoTrouble::PasswordRequired)),
            Installed::Absent(_) => Err(DeployError::Damaged { host: place.host }),
            Installed::Died(_, error) => Err(error),
        };
    }
    let script = script::extra(pid, &access.sha256);
    match place.run(connection, access, &script, b"")? {
        Heard::Agent(link) => Ok(link),
        Heard::Trouble(trouble, _) => Err(place.sudo(trouble)),
    }
}

/// Starts an agent on this machine: ourselves through `sudo`, or directly where we are root.
pub fn start_local_agent(prompter: &dyn Prompter, abort: &AbortFlag) -> Result<Link, DeployError> {
    let program = std::env::current_exe().map_err(|e| DeployError::Local {
        detail: e.to_string(),
    })?;
    let as_root = rustix::process::geteuid().is_root();
    start_local_agent_from(&program, as_root, prompter, abort)
}

fn start_local_agent_from(
    program: &Path,
    as_root: bool,
    prompter: &dyn Prompter,
    abort: &AbortFlag,
) -> Result<Link, DeployError> {
    let user = sudoers::person().unwrap_or_else(|| "root".to_owned());
    let place = Place {
        host: "this machine".to_owned(),
        allowance: match sudoers::line_for(&user, program) {
            Ok(line) => Allowance::Line(line),
            Err(error) => Allowance::None {
                reason: escape_str(&error.to_string()),
            },
        },
        user,
        bytes: 0,
    };
    let start = |password: Option<&Secret>| -> Result<Result<Link, SudoTrouble>, DeployError> {
        let prompt = prompt_marker(&std::process::id().to_string());
        let mut child = if as_root {
            command(program)
        } else {
            let mut sudo = command("sudo");
            match password {
                Some(_) => sudo.args(["-k", "-S", "-p", &prompt]),
                None => sudo.arg("-n"),
            };
            sudo.arg("--").arg(program).env("LC_ALL", "C");
            sudo
        };
        child.arg("agent");
        let typed = typed(password);
        let opening = Opening {
            at_once: vec![typed.expose().as_bytes()],
            banner: BANNER,
            refusal: script::REFUSED,
            password_prompt: password.map(|_| prompt.as_str()),
            ..Opening::default()
        };
        let (opened, stderr, program) = local::open_program(child, opening, abort)?;
        let (banner, rest) = match place.judge(opened, &stderr)? {
            Ok(heard) => heard,
            Err(trouble) => return Ok(Err(trouble)),
        };
        let program = program.expect("a banner comes from a running program");
        let (sink, mut link) = LinkEnd::make(banner, &rest);
        link.outgoing = program
            .run("link-source", Box::new(sink), link.traffic.clone())
            .map_err(|e| DeployError::Local {
                detail: e.to_string(),
            })?;
        Ok(Ok(link))
    };
    match start(None)? {
        Ok(link) => Ok(link),
        Err(SudoTrouble::PasswordRequired) => {
            place.with_password(prompter, |_, password| start(Some(password)))
        }
        Err(trouble) => Err(place.sudo(trouble)),
    }
}

/// A password as `sudo -S` reads it.
fn typed(password: Option<&Secret>) -> Secret {
    Secret::new(password.map_or_else(String::new, |secret| format!("{}\n", secret.expose())))
}

/// A prompt nobody else prints.
fn prompt_marker(id: &str) -> String {
    format!("pc-switcher-password-{id}:")
}

/// What came of one attempt.
enum Heard {
    Agent(Link),
    Trouble(SudoTrouble, SshConnection),
}

/// What came of trying the installed pc-switcher.
enum Installed {
    Agent(Link),
    NotAllowed(SshConnection),
    Absent(SshConnection),
    /// It was started and ended without a word that it had.
    Died(SshConnection, DeployError),
}

/// Where an agent is being started, for the messages.
struct Place {
    host: String,
    user: String,
    bytes: usize,
    allowance: Allowance,
}

impl Place {
    /// Runs `script` as root, followed by `body` on its stdin.
    fn run(
        &self,
        connection: SshConnection,
        access: &AgentAccess,
        script: &str,
        body: &[u8],
    ) -> Result<Heard, DeployError> {
        let prompt = prompt_marker(&access.session);
        let sudo = match &access.password {
            _ if access.as_root => Sudo::NotNeeded,
            Some(_) => Sudo::Password(&prompt),
            None => Sudo::Silent,
        };
        let typed = typed(access.password.as_ref().filter(|_| !access.as_root));
        let mut opening = Opening {
            banner: BANNER,
            refusal: script::REFUSED,
            ready: script::READY,
            ..Opening::default()
        };
        opening.when_ready = vec![body];
        if !typed.expose().is_empty() {
            opening.at_once = vec![typed.expose().as_bytes()];
            opening.password_prompt = Some(&prompt);
        }
        self.open(connection, &script::as_root(script, sudo), opening)
    }

    fn open(
        &self,
        connection: SshConnection,
        command: &str,
        opening: Opening<'_>,
    ) -> Result<Heard, DeployError> {
        let (opened, stderr, program) = connection.open_program(command, opening)?;
        match (self.judge(opened, &stderr)?, program) {
            (Ok((banner, rest)), Ok(program)) => {
                let (sink, mut link) = LinkEnd::make(banner, &rest);
                let traffic = link.traffic.clone();
                link.outgoing = program.run("link-target", Box::new(sink), traffic)?;
                Ok(Heard::Agent(link))
            }
            (Err(trouble), Err(connection)) => Ok(Heard::Trouble(trouble, connection)),
            (Ok(_), Err(_)) | (Err(_), Ok(_)) => {
                unreachable!("there is a program exactly if there is a banner")
            }
        }
    }

    /// Tries the pc-switcher installed there, if it is the same as ours.
    fn run_installed(
        &self,
        connection: SshConnection,
        access: &AgentAccess,
    ) -> Result<Installed, DeployError> {
        let command = script::as_person(&script::installed(&access.sha256));
        let opening = Opening {
            banner: BANNER,
            refusal: script::REFUSED,
            ..Opening::default()
        };
        let (opened, stderr, program) = connection.open_program(&command, opening)?;
        match (opened, program) {
            (Opened::Banner { line, rest }, Ok(program)) => {
                let banner = self.checked(line)?;
                let (sink, mut link) = LinkEnd::make(banner, &rest);
                let traffic = link.traffic.clone();
                link.outgoing = program.run("link-target", Box::new(sink), traffic)?;
                Ok(Installed::Agent(link))
            }
            (Opened::Ended(status), Err(connection))
                if SudoTrouble::from_stderr(&stderr, status).is_some() =>
            {
                Ok(Installed::NotAllowed(connection))
            }
            (Opened::Ended(status), Err(connection)) => {
                Ok(Installed::Died(connection, self.ended(status, &stderr)))
            }
            (Opened::Refused(_), Err(connection)) => Ok(Installed::Absent(connection)),
            // Nothing else would be heard either.
            (opened, Err(_)) => match self.judge(opened, &stderr)? {
                Err(trouble) => Err(self.sudo(trouble)),
                Ok(_) => unreachable!("there is no program without a banner"),
            },
            (_, Ok(_)) => unreachable!("there is a program exactly if there is a banner"),
        }
    }

    /// The line that would allow the program that [`run_installed`](Self::run_installed) tried.
    fn where_installed(
        &self,
        connection: &mut SshConnection,
        access: &AgentAccess,
    ) -> Result<Allowance, DeployError> {
        let command = script::as_person(&script::where_installed(&access.sha256));
        let done = connection.exec(&command, b"", BANNER_TIMEOUT)?;
        // Login scripts may print anything before it.
        let said = String::from_utf8_lossy(&done.stdout);
        let mut places = INSTALLED.iter();
        let found = places.find(|place| said.lines().any(|line| line.ends_with(*place)));
        Ok(match found {
            Some(place) => Allowance::Line(sudoers::line(&self.user, place)),
            None => self.allowance.clone(),
        })
    }

    /// Asks for the password until `start` works with it.
    fn with_password(
        &self,
        prompter: &dyn Prompter,
        mut start: impl FnMut(&Self, &Secret) -> Result<Result<Link, SudoTrouble>, DeployError>,
    ) -> Result<Link, DeployError> {
        if !prompter.can_ask() {
            return Err(self.sudo(SudoTrouble::PasswordRequired));
        }
        for attempt in 0..TRIES {
            let again = if attempt == 0 { "" } else { "That was wrong. " };
            let question = format!("{again}[sudo] password of {} on {}: ", self.user, self.host);
            let password = prompter.secret(&escape_str(&question))?;
            match start(self, &password)? {
                Ok(link) => return Ok(link),
                Err(SudoTrouble::PasswordWrong) => {}
                Err(trouble) => return Err(self.sudo(trouble)),
            }
        }
        Err(self.sudo(SudoTrouble::PasswordWrong))
    }

    /// The banner and what followed it, or what is wrong with `sudo`, or any other error.
    fn judge(
        &self,
        opened: Opened,
        stderr: &str,
    ) -> Result<Result<(String, Vec<u8>), SudoTrouble>, DeployError> {
        let host = self.host.clone();
        Err(match opened {
            Opened::Banner { line, rest } => return Ok(Ok((self.checked(line)?, rest))),
            Opened::PasswordRefused => return Ok(Err(SudoTrouble::PasswordWrong)),
            Opened::Babble => DeployError::Babble { host },
            Opened::TimedOut => DeployError::NotStarted {
                host,
                detail: if stderr.is_empty() {
                    "no answer in time".to_owned()
                } else {
                    stderr.to_owned()
                },
            },
            Opened::Refused(words) => self.refused(&words, stderr),
            Opened::Ended(status) => {
                if let Some(trouble) = SudoTrouble::from_stderr(stderr, status) {
                    return Ok(Err(trouble));
                }
                self.ended(status, stderr)
            }
        })
    }

    fn refused(&self, words: &str, stderr: &str) -> DeployError {
        let host = self.host.clone();
        let words = &escape_str(words);
        let (what, detail) = words.split_once(' ').unwrap_or((words, ""));
        match what {
            "arch" => DeployError::Architecture {
                host,
                theirs: detail.to_owned(),
                ours: std::env::consts::ARCH,
            },
            "root" => DeployError::NotRoot { host },
            "directory" => DeployError::RunDirectory { host },
            "noexec" => DeployError::NoExec { host },
            "tool" => DeployError::NoTool {
                host,
                tool: detail.to_owned(),
            },
            "gone" => DeployError::Gone { host },
            "hash" if !stderr.contains("No space left") => DeployError::Damaged { host },
            "space" | "hash" => DeployError::NoSpace {
                host,
                bytes: self.bytes,
            },
            _ => DeployError::NotStarted {
                host,
                detail: words.to_owned(),
            },
        }
    }

    fn ended(&self, status: Option<i32>, stderr: &str) -> DeployError {
        let host = self.host.clone();
        let last = stderr.lines().last().unwrap_or_default().trim();
        if stderr.contains("No space left") {
            return DeployError::NoSpace {
                host,
                bytes: self.bytes,
            };
        }
        let is_loader = [
            "GLIBC",
            "error while loading",
            "Exec format",
            "/proc/self/fd/8",
        ]
        .iter()
        .any(|sign| stderr.contains(sign));
        if is_loader {
            return DeployError::WillNotRun {
                host,
                // The loader names the file as it was started.
                detail: last.trim_start_matches("/proc/self/fd/8: ").to_owned(),
            };
        }
        DeployError::NotStarted {
            host,
            detail: match (last, status) {
                ("", Some(status)) => format!("it ended with status {status}"),
                ("", None) => "it was killed".to_owned(),
                (last, _) => last.to_owned(),
            },
        }
    }

    fn checked(&self, banner: String) -> Result<String, DeployError> {
        let protocol = banner.split(' ').nth(1).and_then(|word| word.parse().ok());
        if protocol == Some(PROTOCOL) {
            Ok(banner)
        } else {
            Err(DeployError::Protocol {
                host: self.host.clone(),
                banner,
            })
        }
    }

    fn sudo(&self, trouble: SudoTrouble) -> DeployError {
        DeployError::Sudo {
            host: self.host.clone(),
            user: self.user.clone(),
            trouble,
            allowance: self.allowance.clone(),
        }
    }
}

/// Cuts an agent's bytes into frames for the [`Link`].
struct LinkEnd {
    splitter: FrameSplitter,
    incoming: Sender<Incoming>,
    backlog: Backlog,
}

impl LinkEnd {
    /// The sink and the link it feeds; its `outgoing` leads nowhere yet. `rest` came after the
    /// banner.
    fn make(banner: String, rest: &[u8]) -> (Self, Link) {
        let (sender, incoming) = unbounded();
        let (nowhere, _) = unbounded();
        let traffic = Traffic::default();
        traffic.add_received(rest.len() as u64);
        let link = Link {
            outgoing: nowhere.into(),
            incoming,
            traffic,
            banner,
        };
        let mut end = Self {
            splitter: FrameSplitter::new(),
            incoming: sender,
            backlog: Backlog::default(),
        };
        if let Err(reason) = end.received(rest) {
            end.closed(Closed {
                reason,
                stderr: String::new(),
                orderly: false,
            });
        }
        (end, link)
    }
}

impl ByteSink for LinkEnd {
    fn received(&mut self, bytes: &[u8]) -> Result<(), String> {
        self.splitter.feed(bytes);
        while let Some(frame) = self.splitter.next_frame().map_err(|e| e.to_string())? {
            // What a frame takes besides its payload counts, too: they may all be empty.
            let bytes = frame.payload.len() + size_of::<Incoming>();
            self.incoming
                .send(Incoming::Frame(frame))
                .map_err(|_| "nobody listens any more".to_owned())?;
            if self.backlog.add(bytes, self.incoming.len()) > WAITING_MAX {
                return Err("it sends faster than anybody can listen".to_owned());
            }
        }
        Ok(())
    }

    fn closed(&mut self, closed: Closed) {
        let _ = self.incoming.send(Incoming::Closed(closed));
    }
}
