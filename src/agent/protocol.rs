//! The words the CLI and an agent exchange: frames, and the control requests and replies.
//!
//! An agent first writes one plain-text line ([`banner`]); after it both directions carry frames:
//! a little-endian `u32` length (of kind and payload together), one kind byte, the payload.
//! Control payloads are JSON; stream payloads belong to a service (`mirror::wire`).
//! Every length is checked against a local constant before anything is allocated.

use std::collections::{BTreeMap, VecDeque};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::fault::Fault;
use super::health::Health;
use super::lanes::LaneOffer;
use super::lanes::order::{NUMBER, put_number};
use crate::buffers;
use crate::event::LogEvent;
use crate::record::{HistoryEntry, Incomplete, LockHolder, MachineState};
use crate::snapshot::space::Held;
use crate::snapshot::{NewSnapshot, SnapshotFacts, SubvolumeFacts};

/// Version of the frames and requests. Both sides are the same binary, so it must match exactly.
pub const PROTOCOL: u32 = 1;

/// Largest frame (kind and payload) either side accepts.
pub const MAX_FRAME: usize = 4 << 20;

/// An agent that hears nothing for this long ends itself; the CLI pings more often. Shorter than
/// [`PEER_SILENCE`], so that after a cut the lock is free when a person tries again.
pub const AGENT_SILENCE: std::time::Duration = std::time::Duration::from_secs(12);

/// How often the CLI pings an agent it has nothing to say to.
pub const PING_EVERY: std::time::Duration = std::time::Duration::from_secs(3);

/// The CLI gives an agent up after this long without any frame, ping replies included.
pub const PEER_SILENCE: std::time::Duration = std::time::Duration::from_secs(15);

/// Frame kinds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// CLI to agent: a [`Call`] as JSON.
    Call = 1,
    /// Agent to CLI: an [`Answer`] as JSON.
    Answer = 2,
    /// Agent to CLI: a [`LogEvent`] as JSON.
    Log = 3,
    /// Either way: are you there. Empty.
    Ping = 4,
    /// The answer to a ping. Empty.
    Pong = 5,
    /// Either way: bytes of a service, relayed by the CLI between the agents or meant for itself.
    Stream = 16,
    /// CLI to agent, over several connections: the same with a number at the end (see [`super::lanes`]).
    Numbered = 17,
}

impl Kind {
    /// The kind for a byte off the wire.
    #[must_use]
    pub fn from_byte(byte: u8) -> Option<Self> {
        Some(match byte {
            1 => Self::Call,
            2 => Self::Answer,
            3 => Self::Log,
            4 => Self::Ping,
            5 => Self::Pong,
            16 => Self::Stream,
            17 => Self::Numbered,
            _ => return None,
        })
    }
}

/// Length and kind, before each payload.
pub const HEAD: usize = 5;

/// One frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// What the payload is.
    pub kind: Kind,
    /// The payload, at most [`MAX_FRAME`] - 1 bytes.
    pub payload: Vec<u8>,
}

/// What is wrong with bytes from the other side.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// Longer than [`MAX_FRAME`], or empty.
    #[error("the other side announced a frame of {0} bytes, which is not allowed")]
    Length(u32),
    /// A kind this version does not have.
    #[error("the other side sent a frame of unknown kind {0}")]
    Kind(u8),
}

impl Frame {
    /// Appends the frame's bytes to `out`.
    ///
    /// # Panics
    /// If the payload exceeds [`MAX_FRAME`]: our own encoders bound what they produce.
    pub fn encode(&self, out: &mut Vec<u8>) {
        encode_frame(self.kind, &self.payload, out);
    }
}

/// Appends the head of a frame of `kind`, which `length` bytes of payload must follow.
///
/// # Panics
/// If the payload exceeds [`MAX_FRAME`]: our own encoders bound what they produce.
pub fn encode_head(kind: Kind, length: usize, out: &mut Vec<u8>) {
    let length = length + 1;
    assert!(
        length <= MAX_FRAME,
        "own frame of {length} bytes exceeds the maximum"
    );
    let announced = u32::try_from(length).expect("bounded by MAX_FRAME");
    out.extend_from_slice(&announced.to_le_bytes());
    out.push(kind as u8);
}

/// Appends a frame of `kind` with `payload` to `out`.
///
/// # Panics
/// Like [`encode_head`].
pub fn encode_frame(kind: Kind, payload: &[u8], out: &mut Vec<u8>) {
    encode_head(kind, payload.len(), out);
    out.extend_from_slice(payload);
}

/// Appends a frame of kind [`Kind::Numbered`] to `out`.
///
/// # Panics
/// Like [`encode_head`].
pub fn encode_numbered(number: u64, payload: &[u8], out: &mut Vec<u8>) {
    encode_head(Kind::Numbered, payload.len() + NUMBER, out);
    out.extend_from_slice(payload);
    put_number(out, number);
}

/// Cuts a byte stream into frames; fed with whatever arrived.
#[derive(Debug, Default)]
pub struct FrameSplitter {
    /// Of a head that has not arrived as a whole.
    head: Vec<u8>,
    /// A frame, and how much of its payload is missing.
    begun: Option<(Frame, usize)>,
    whole: VecDeque<Frame>,
    broken: Option<FrameError>,
}

impl FrameSplitter {
    /// A splitter at the start of a frame.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes in `bytes`. After something that is no frame, whatever comes is lost.
    pub fn feed(&mut self, mut bytes: &[u8]) {
        while self.broken.is_none() {
            if let Some((mut frame, missing)) = self.begun.take() {
                let (now, later) = bytes.split_at(missing.min(bytes.len()));
                frame.payload.extend_from_slice(now);
                bytes = later;
                if now.len() < missing {
                    self.begun = Some((frame, missing - now.len()));
                    return;
                }
                self.whole.push_back(frame);
            }
            let wanted = HEAD - self.head.len();
            let (now, later) = bytes.split_at(wanted.min(bytes.len()));
            self.head.extend_from_slice(now);
            bytes = later;
            match begin(&self.head) {
                Ok(None) => return,
                Ok(begun) => {
                    self.begun = begun;
                    self.head.clear();
                }
                Err(error) => self.broken = Some(error),
            }
        }
    }

    /// The next whole frame, if one has arrived.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, FrameError> {
        match (self.whole.pop_front(), &self.broken) {
            (None, Some(error)) => Err(error.clone()),
            (frame, _) => Ok(frame),
        }
    }

    /// Whether the stream stopped inside a frame.
    #[must_use]
    pub fn is_mid_frame(&self) -> bool {
        !self.head.is_empty() || self.begun.is_some() || !self.whole.is_empty()
    }
}

/// The frame that begins with `head` and how long its payload will be; `None` if that is not known yet.
fn begin(head: &[u8]) -> Result<Option<(Frame, usize)>, FrameError> {
    let Some((length, kind)) = head.split_first_chunk::<4>() else {
        return Ok(None);
    };
    let announced = u32::from_le_bytes(*length);
    let length = announced as usize;
    if length == 0 || length > MAX_FRAME {
        return Err(FrameError::Length(announced));
    }
    let Some(kind) = kind.first() else {
        return Ok(None);
    };
    let kind = Kind::from_byte(*kind).ok_or(FrameError::Kind(*kind))?;
    let missing = length - 1;
    // What is more than that gets its memory as it comes.
    let payload = buffers::take(missing.min(buffers::SIZE));
    Ok(Some((Frame { kind, payload }, missing)))
}

/// The first line an agent writes, without its newline: `pc-switcher-agent PROTOCOL VERSION ARCH`.
#[must_use]
pub fn banner() -> String {
    format!(
        "pc-switcher-agent {PROTOCOL} {} {}",
        env!("CARGO_PKG_VERSION"),
        std::env::consts::ARCH
    )
}

/// A request with its number; answers carry the same number and may come in any order.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Call {
    /// Chosen by the CLI, never reused on a connection.
    pub id: u64,
    /// What is asked.
    pub request: Request,
    /// Where frames of the stream have numbers: that of the first one which may be meant for this request.
    /// Those before it belong to requests that were sent before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stream_from: Option<u64>,
}

/// The answer to a [`Call`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Answer {
    /// The call's number.
    pub id: u64,
    /// What came of it.
    pub result: Result<Reply, Fault>,
}

/// What the CLI may ask of an agent. One agent is on each machine, always as root.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    /// First request: who is asking, and for what.
    Hello {
        /// Session id of the run.
        session: String,
        /// User id the CLI's user has on that machine (owner of config files there); the agent
        /// uses `SUDO_UID` when this is absent.
        uid: Option<u32>,
    },
    /// Many questions at once, answered in order; stops at the first fault.
    Many(Vec<Request>),
    /// Takes the machine's lock for the life of the agent.
    Lock(LockHolder),
    /// Reads history and the incomplete marker.
    ReadState,
    /// Who works on the machine and holds its lock, and what it can do; changes nothing.
    Health,
    /// Writes (or with `None` removes) the marker that a run has begun to change this machine.
    WriteIncomplete(Option<Incomplete>),
    /// Appends one session to the history.
    AppendHistory(Box<HistoryEntry>),
    /// Space and identity of the filesystems that hold `paths`.
    Disk {
        /// Absolute paths.
        paths: Vec<String>,
    },
    /// Facts about the named subvolumes, and everything nested below them.
    Subvolumes {
        /// Flat names as `btrfs subvolume list` prints them.
        names: Vec<String>,
        /// Where snapshots will be made.
        snapshot_dir: String,
    },
    /// Makes read-only snapshots, all or none.
    CreateSnapshots {
        /// Directory for them (a btrfs directory on the same filesystem).
        snapshot_dir: String,
        /// Pairs of flat subvolume name and snapshot name.
        snapshots: Vec<NewSnapshot>,
    },
    /// Lists our snapshots.
    ListSnapshots {
        /// The directory.
        snapshot_dir: String,
        /// Whether to compute how much space only they hold (needs quota or a walk; may be slow).
        with_space: bool,
    },
    /// What our snapshots hold that nothing else does.
    SnapshotSpace {
        /// The directory.
        snapshot_dir: String,
        /// How long it may take to find out.
        limit_millis: u64,
    },
    /// Deletes snapshots by name.
    DeleteSnapshots {
        /// The directory.
        snapshot_dir: String,
        /// Names within it.
        names: Vec<String>,
    },
    /// Runs a program: absolute or found on root's `PATH`, no shell.
    Run {
        /// Program and arguments.
        argv: Vec<String>,
        /// Extra environment.
        env: BTreeMap<String, String>,
        /// What it reads on stdin.
        stdin: Option<String>,
        /// Killed after this many milliseconds.
        timeout_millis: Option<u64>,
    },
    /// Copies the agent's own binary to `/usr/local/bin/pc-switcher`, atomically.
    InstallSelf,
    /// Reads the person's configuration directory on that machine (`config.yaml`, `*.filter`).
    ReadUserConfig,
    /// Replaces one file in it, creating the directory; owner is the person.
    WriteUserConfig {
        /// File name, no slash.
        name: String,
        /// New content.
        content: String,
    },
    /// Creates `/run/pc-switcher/user-UID` owned by the person, for logs of dry runs.
    RunDirectory,
    /// Something a higher layer added to the agent (see `agent::service`); its frames of kind
    /// [`Kind::Stream`] may follow.
    Service {
        /// The service's name (`mirror`).
        name: String,
        /// Its own request.
        body: serde_json::Value,
        /// What it changes, for `--confirm-each-command`; `None` for a request that only reads.
        changes: Option<String>,
    },
    /// Lets so many further connections in, which carry a share of the streams (see [`super::lanes`]).
    LetIn(usize),
    /// Lets no more in.
    LetInNoMore,
    /// Stops what is running and cleans up; answered when done.
    Abort,
    /// Ends the agent in good order.
    Goodbye,
}

/// Replies, one variant per request that returns something.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    /// Done, nothing to say.
    Done,
    /// To [`Request::Hello`].
    Hello(Box<AgentFacts>),
    /// To [`Request::Many`].
    Many(Vec<Reply>),
    /// To [`Request::Lock`]: `None` if taken, else who holds it.
    Lock(Option<LockHolder>),
    /// To [`Request::ReadState`].
    State(Box<MachineState>),
    /// To [`Request::Health`].
    Health(Box<Health>),
    /// To [`Request::Disk`], in the order asked.
    Disk(Vec<DiskFacts>),
    /// To [`Request::Subvolumes`].
    Subvolumes(Box<SubvolumeFacts>),
    /// To [`Request::CreateSnapshots`] and [`Request::ListSnapshots`].
    Snapshots(Vec<SnapshotFacts>),
    /// To [`Request::Run`].
    Run(RunOutput),
    /// To [`Request::SnapshotSpace`].
    Held(Held),
    /// To [`Request::ReadUserConfig`]: file name to content.
    UserConfig(BTreeMap<String, String>),
    /// To [`Request::RunDirectory`].
    Path(String),
    /// To [`Request::LetIn`].
    Lanes(LaneOffer),
    /// To [`Request::Service`].
    Service(serde_json::Value),
}

/// What an agent says of itself and its machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentFacts {
    /// pc-switcher's version.
    pub version: String,
    /// The machine's own host name.
    pub hostname: String,
    /// `/etc/machine-id`, or empty.
    pub machine_id: String,
    /// Changes at every boot.
    pub boot_id: String,
    /// CPU architecture as Rust names it.
    pub arch: String,
    /// Kernel release.
    pub kernel: String,
    /// The agent's process id.
    pub pid: u32,
    /// The person's user id on that machine, if known.
    pub uid: Option<u32>,
    /// The version installed at `/usr/local/bin` or `/usr/bin`, if any.
    pub installed: Option<Installed>,
    /// The machine's clock.
    pub now: Timestamp,
}

/// A pc-switcher found installed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Installed {
    /// Where.
    pub path: String,
    /// Its version as it prints it, or `None` if it did not run.
    pub version: Option<String>,
    /// Whether it is byte for byte the running agent.
    pub same_binary: bool,
}

/// A filesystem's space.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskFacts {
    /// The path asked about.
    pub path: String,
    /// Where its filesystem is mounted.
    pub mount_point: String,
    /// `btrfs`, `ext4`, …
    pub fs_type: String,
    /// Identifies the filesystem on that machine (several mounts may share one).
    pub filesystem: String,
    /// Bytes in all.
    pub total_bytes: u64,
    /// Bytes an ordinary writer can still use.
    pub free_bytes: u64,
}

/// What a program printed and how it ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunOutput {
    /// Exit code, or 128 + signal.
    pub exit_code: i32,
    /// Standard output, invalid UTF-8 replaced, at most 1 MiB.
    pub stdout: String,
    /// Standard error, likewise.
    pub stderr: String,
}

/// A log line sent by an agent (payload of [`Kind::Log`]).
pub type AgentLog = LogEvent;

/// Characters of a command line that are shown while it is waited for.
const COMMAND_SHOWN: usize = 60;

impl Request {
    /// What the machine does when it is asked this, as a phrase that follows a colon: what is shown
    /// while the answer is waited for.
    #[must_use]
    pub fn doing(&self) -> String {
        let words = match self {
            Self::Hello { .. } => "starting its agent",
            Self::Many(requests) => {
                return requests.first().map(Self::doing).unwrap_or_default();
            }
            Self::Lock(_) => "taking its lock",
            Self::ReadState => "reading its history",
            Self::Health => "looking at who uses it",
            Self::WriteIncomplete(Some(_)) => "noting that a sync has begun",
            Self::WriteIncomplete(None) => "noting that the sync has ended",
            Self::AppendHistory(_) => "writing its history",
            Self::Disk { .. } => "looking at its free space",
            Self::Subvolumes { .. } => "looking at its subvolumes",
            Self::CreateSnapshots { .. } => "making snapshots",
            Self::ListSnapshots { .. } => "listing its snapshots",
            Self::SnapshotSpace { .. } => "looking what its snapshots hold",
            Self::DeleteSnapshots { .. } => "deleting snapshots",
            Self::Run { argv, .. } => {
                let line = argv.join(" ");
                let shown: String = line.chars().take(COMMAND_SHOWN).collect();
                let rest = if shown.len() < line.len() { " ..." } else { "" };
                return format!("running {shown}{rest}");
            }
            Self::InstallSelf => "installing pc-switcher",
            Self::ReadUserConfig => "reading its configuration",
            Self::WriteUserConfig { name, .. } => return format!("writing {name}"),
            Self::RunDirectory => "making a directory for the log",
            Self::Service { name, .. } => return format!("working on {name}"),
            Self::LetIn(_) | Self::LetInNoMore => "opening more connections",
            Self::Abort => "stopping its work",
            Self::Goodbye => "ending its agent",
        };
        words.to_owned()
    }

    /// What this request changes on the machine, as a phrase for `--confirm-each-command`;
    /// `None` for one that only reads or only touches `/run`.
    #[must_use]
    pub fn mutation(&self) -> Option<String> {
        match self {
            Self::Hello { .. }
            | Self::Lock(_)
            | Self::ReadState
            | Self::Health
            | Self::Disk { .. }
            | Self::Subvolumes { .. }
            | Self::ListSnapshots { .. }
            | Self::SnapshotSpace { .. }
            | Self::ReadUserConfig
            | Self::RunDirectory
            | Self::LetIn(_)
            | Self::LetInNoMore
            | Self::Abort
            | Self::Goodbye => None,
            Self::Many(requests) => {
                let all: Vec<String> = requests.iter().filter_map(Self::mutation).collect();
                if all.is_empty() {
                    None
                } else {
                    Some(all.join("; "))
                }
            }
            Self::WriteIncomplete(Some(_)) => Some("note that a sync has begun".to_owned()),
            Self::WriteIncomplete(None) => Some("note that the sync has ended".to_owned()),
            Self::AppendHistory(_) => Some("write the session to the history".to_owned()),
            Self::CreateSnapshots { snapshots, .. } => {
                let names: Vec<&str> = snapshots.iter().map(|s| s.name.as_str()).collect();
                Some(format!("create snapshots {}", names.join(", ")))
            }
            Self::DeleteSnapshots { names, .. } => {
                Some(format!("delete snapshots {}", names.join(", ")))
            }
            Self::Run { argv, .. } => Some(format!("run {}", argv.join(" "))),
            Self::InstallSelf => Some("install pc-switcher in /usr/local/bin".to_owned()),
            Self::WriteUserConfig { name, .. } => {
                Some(format!("replace ~/.config/pc-switcher/{name}"))
            }
            Self::Service { changes, .. } => changes.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_a_cut_the_agent_is_gone_before_the_cli_gives_up() {
        // The last ping may have come just before the cut.
        assert!(AGENT_SILENCE + PING_EVERY <= PEER_SILENCE);
        assert!(AGENT_SILENCE >= PING_EVERY * 4, "one ping may be lost");
    }

    #[test]
    fn frames_survive_being_cut_anywhere() {
        let frames = [
            Frame {
                kind: Kind::Ping,
                payload: vec![],
            },
            Frame {
                kind: Kind::Stream,
                payload: vec![7; 1000],
            },
        ];
        let mut bytes = Vec::new();
        for frame in &frames {
            frame.encode(&mut bytes);
        }
        for cut in 0..bytes.len() {
            let mut splitter = FrameSplitter::new();
            let mut got = Vec::new();
            for part in [&bytes[..cut], &bytes[cut..]] {
                splitter.feed(part);
                while let Some(frame) = splitter.next_frame().unwrap() {
                    got.push(frame);
                }
            }
            assert_eq!(got, frames);
            assert!(!splitter.is_mid_frame());
        }
    }

    #[test]
    fn a_huge_or_empty_length_is_refused_before_allocation() {
        for announced in [0, u32::MAX, u32::try_from(MAX_FRAME).unwrap() + 1] {
            let mut splitter = FrameSplitter::new();
            splitter.feed(&announced.to_le_bytes());
            assert_eq!(splitter.next_frame(), Err(FrameError::Length(announced)));
        }
    }

    #[test]
    fn an_unknown_kind_is_refused() {
        let mut splitter = FrameSplitter::new();
        splitter.feed(&[1, 0, 0, 0, 99]);
        assert_eq!(splitter.next_frame(), Err(FrameError::Kind(99)));
    }
}
