//! What the machines remember, their snapshots, disks and configuration, with everything that was
//! asked of them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::{SignedDuration, Timestamp};

use crate::agent::client::AgentClient;
use crate::agent::fake::{FakeAgent, fault};
use crate::agent::fault::{Fault, FaultKind};
use crate::agent::health::{Health, RunFacts};
use crate::agent::protocol::{AgentFacts, DiskFacts, Installed, Reply, Request, RunOutput};
use crate::event::{Host, SessionState};
use crate::interrupt::AbortFlag;
use crate::record::{HistoryEntry, LockHolder, MachineName, MachineState};
use crate::run::machines::{Access, MachineError, Machines};
use crate::snapshot::{SnapshotDir, SnapshotFacts, Subvolume, SubvolumeFacts};

/// Process id of every first agent.
const PID: u32 = 7;

/// What a fake machine has.
#[derive(Debug, Clone)]
pub(crate) struct MachineWorld {
    pub(crate) hostname: String,
    pub(crate) machine_id: String,
    pub(crate) state: MachineState,
    pub(crate) lock: Option<LockHolder>,
    pub(crate) snapshots: Vec<SnapshotFacts>,
    pub(crate) config: BTreeMap<String, String>,
    pub(crate) installed: Option<Installed>,
    pub(crate) free_bytes: u64,
    pub(crate) missing: Vec<String>,
    pub(crate) snapshot_dir: SnapshotDir,
    pub(crate) health: Health,
    pub(crate) clock_ahead: SignedDuration,
    /// Everything asked of any agent of this machine, in order.
    pub(crate) requests: Vec<Request>,
}

impl MachineWorld {
    fn new(hostname: &str) -> Self {
        Self {
            hostname: hostname.to_owned(),
            machine_id: format!("id-{hostname}"),
            state: MachineState::default(),
            lock: None,
            snapshots: Vec::new(),
            config: BTreeMap::new(),
            installed: None,
            free_bytes: 900,
            missing: Vec::new(),
            snapshot_dir: SnapshotDir::Subvolume,
            health: Health {
                logins: Some(Vec::new()),
                run: RunFacts {
                    fs_type: "tmpfs".into(),
                    is_noexec: false,
                    free_bytes: 1 << 30,
                },
                ..Health::default()
            },
            clock_ahead: SignedDuration::ZERO,
            requests: Vec::new(),
        }
    }

    /// Requests that change something, in order.
    pub(crate) fn mutations(&self) -> Vec<&Request> {
        let changes = |request: &&Request| request.mutation().is_some();
        self.requests.iter().filter(changes).collect()
    }

    fn answer(&mut self, request: &Request) -> Result<Reply, Fault> {
        Ok(match request {
            Request::Hello { .. } => Reply::Hello(Box::new(AgentFacts {
                version: env!("CARGO_PKG_VERSION").into(),
                hostname: self.hostname.clone(),
                machine_id: self.machine_id.clone(),
                boot_id: "boot".into(),
                arch: "x86_64".into(),
                kernel: "6.1".into(),
                pid: PID,
                uid: Some(1000),
                installed: self.installed.clone(),
                now: Timestamp::now() + self.clock_ahead,
            })),
            Request::Lock(holder) => {
                if let Some(other) = &self.lock {
                    return Ok(Reply::Lock(Some(other.clone())));
                }
                self.lock = Some(holder.clone());
                Reply::Lock(None)
            }
            Request::ReadState => Reply::State(Box::new(self.state.clone())),
            Request::Health => Reply::Health(Box::new(self.health.clone())),
            Request::WriteIncomplete(marker) => {
                self.state.incomplete.clone_from(marker);
                Reply::Done
            }
            Request::AppendHistory(entry) => {
                self.state.history.push((**entry).clone());
                Reply::Done
            }
            Request::Disk { paths } => Reply::Disk(self.disks(paths)),
            Request::Subvolumes { names, .. } => Reply::Subvolumes(Box::new(self.facts(names))),
            Request::CreateSnapshots { snapshots, .. } => {
                let made: Vec<SnapshotFacts> = (snapshots.iter())
                    .map(|new| SnapshotFacts {
                        subvolume: new.subvolume.clone(),
                        name: new.name.clone(),
                        path: format!("/.snapshots/{}", new.name),
                        uuid: String::new(),
                        parent_uuid: None,
                        generation: 5,
                        created_generation: 5,
                        changed_generation: 5,
                        readonly: true,
                        exclusive_bytes: None,
                    })
                    .collect();
                self.snapshots.extend(made.clone());
                Reply::Snapshots(made)
            }
            Request::ListSnapshots { .. } => Reply::Snapshots(self.snapshots.clone()),
            Request::SnapshotSpace { .. } => Reply::Held(crate::snapshot::space::Held::default()),
            Request::DeleteSnapshots { names, .. } => {
                self.snapshots.retain(|s| !names.contains(&s.name));
                Reply::Done
            }
            Request::Run { .. } => Reply::Run(RunOutput {
                exit_code: 0,
                stdout: String::new(),
                stderr: String::new(),
            }),
            Request::ReadUserConfig => Reply::UserConfig(self.config.clone()),
            Request::WriteUserConfig { name, content } => {
                self.config.insert(name.clone(), content.clone());
                Reply::Done
            }
            Request::InstallSelf => {
                self.installed = Some(Installed {
                    path: "/usr/local/bin/pc-switcher".into(),
                    version: Some(env!("CARGO_PKG_VERSION").into()),
                    same_binary: true,
                });
                Reply::Done
            }
            Request::RunDirectory => Reply::Path("/run/pc-switcher/user-1000".into()),
            Request::LetInNoMore | Request::Abort | Request::Goodbye => Reply::Done,
            Request::Service { .. } | Request::LetIn(_) | Request::Many(_) => {
                return Err(fault(FaultKind::Invalid, "no such service"));
            }
        })
    }

    fn disks(&self, paths: &[String]) -> Vec<DiskFacts> {
        let mount = |path: &str| match path.strip_prefix("/home") {
            Some(rest) if rest.is_empty() || rest.starts_with('/') => "/home",
            _ => "/",
        };
        (paths.iter())
            .map(|path| DiskFacts {
                path: path.clone(),
                mount_point: mount(path).into(),
                fs_type: "btrfs".into(),
                filesystem: "fs".into(),
                total_bytes: 1000,
                free_bytes: self.free_bytes,
            })
            .collect()
    }

    fn facts(&self, names: &[String]) -> SubvolumeFacts {
        let here = |name: &&String| !self.missing.contains(name);
        SubvolumeFacts {
            found: (names.iter().filter(here))
                .map(|name| Subvolume {
                    name: name.clone(),
                    mount_point: if name == "@" { "/" } else { "/home" }.into(),
                    id: 256,
                    uuid: name.clone(),
                    generation: 9,
                    filesystem: "fs".into(),
                    nested: Vec::new(),
                })
                .collect(),
            missing: names.iter().filter(|n| !here(n)).cloned().collect(),
            snapshot_dir: self.snapshot_dir,
            snapshot_dir_in: Some(256),
            existing: vec!["@".into(), "@home".into()],
        }
    }
}

/// What happens when a machine is asked something, before its ordinary answer.
pub(crate) type Hook =
    Box<dyn FnMut(Host, &Request, &Levers) -> Option<Result<Reply, Fault>> + Send>;

/// What a hook can pull.
pub(crate) struct Levers {
    pub(crate) abort: AbortFlag,
    /// Kills the agent that is asked.
    pub(crate) death: Arc<std::sync::atomic::AtomicBool>,
}

impl Levers {
    pub(crate) fn die(&self) {
        self.death.store(true, std::sync::atomic::Ordering::SeqCst);
    }
}

/// Both machines, reachable as a run reaches them.
#[derive(Clone)]
pub(crate) struct World(Arc<Mutex<Inner>>, Arc<Mutex<Option<Hook>>>);

struct Inner {
    source: MachineWorld,
    target: MachineWorld,
    abort: AbortFlag,
    /// Errors for the next connections to the target, first first.
    unreachable: usize,
    /// Agents that have not been ended, of both machines.
    agents: Vec<FakeAgent>,
    banner: Option<String>,
}

impl World {
    pub(crate) fn new() -> Self {
        Self(
            Arc::new(Mutex::new(Inner {
                source: MachineWorld::new("atlas"),
                target: MachineWorld::new("vega"),
                abort: AbortFlag::new(),
                unreachable: 0,
                agents: Vec::new(),
                banner: None,
            })),
            Arc::default(),
        )
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes a machine.
    pub(crate) fn with<T>(&self, host: Host, change: impl FnOnce(&mut MachineWorld) -> T) -> T {
        let mut inner = self.inner();
        change(match host {
            Host::Source => &mut inner.source,
            Host::Target => &mut inner.target,
        })
    }

    /// A machine as it is now.
    pub(crate) fn machine(&self, host: Host) -> MachineWorld {
        self.with(host, |machine| machine.clone())
    }

    pub(crate) fn hook(
        &self,
        hook: impl FnMut(Host, &Request, &Levers) -> Option<Result<Reply, Fault>> + Send + 'static,
    ) {
        *self.1.lock().unwrap_or_else(PoisonError::into_inner) = Some(Box::new(hook));
    }

    /// Raises the abort flag, as a signal does, as soon as `wanted` is asked.
    pub(crate) fn interrupt_at(&self, wanted: impl Fn(Host, &Request) -> bool + Send + 'static) {
        self.hook(move |host, request, levers| {
            if wanted(host, request) {
                levers.abort.raise();
            }
            None
        });
    }

    pub(crate) fn unreachable(&self, times: usize) {
        self.inner().unreachable = times;
    }

    /// Whether all connections that were to fail have failed.
    pub(crate) fn is_reachable(&self) -> bool {
        self.inner().unreachable == 0
    }

    pub(crate) fn banner(&self, banner: &str) {
        self.inner().banner = Some(banner.to_owned());
    }

    /// The flag a signal raises.
    pub(crate) fn abort(&self) -> AbortFlag {
        self.inner().abort.clone()
    }

    /// Whether every agent has ended.
    pub(crate) fn nothing_runs(&self) -> bool {
        let agents = self.inner().agents.clone();
        agents.iter().all(|agent| agent.client.closed().is_some())
    }

    /// How many agents of the target were ended in good order.
    pub(crate) fn target_agents(&self) -> usize {
        let inner = self.inner();
        let goodbyes = inner.target.requests.iter();
        goodbyes
            .filter(|request| matches!(request, Request::Goodbye))
            .count()
    }

    /// Makes the history that opens no gate: the target was the source of the last sync.
    pub(crate) fn synced_before(&self) {
        let (atlas, vega) = (name("atlas"), name("vega"));
        let entry = history_entry("00000001", &vega, &atlas, Host::Target);
        self.with(Host::Source, |m| m.state.history.push(entry.clone()));
        let theirs = HistoryEntry {
            role: Host::Source,
            ..entry
        };
        self.with(Host::Target, |m| m.state.history.push(theirs));
    }

    fn start(&self, host: Host, access: &Access) -> AgentClient {
        let world = self.clone();
        let death = Arc::new(Mutex::new(None));
        let switch = Arc::clone(&death);
        let answer = move |request: &Request| {
            let levers = Levers {
                abort: world.abort(),
                death: loop {
                    let guard = switch.lock().unwrap_or_else(PoisonError::into_inner);
                    if let Some(death) = &*guard {
                        break Arc::clone(death);
                    }
                    drop(guard);
                    std::thread::yield_now();
                },
            };
            world.with(host, |machine| machine.requests.push(request.clone()));
            // The hook runs without the world's lock: it may look at the world.
            let mut hook = world.1.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(answer) = hook.as_mut().and_then(|hook| hook(host, request, &levers)) {
                return answer;
            }
            drop(hook);
            world.with(host, |machine| machine.answer(request))
        };
        let banner = self
            .inner()
            .banner
            .clone()
            .filter(|_| host == Host::Target)
            .unwrap_or_else(crate::agent::protocol::banner);
        let agent = FakeAgent::with_banner(
            &banner,
            host,
            "typed",
            access.events.clone(),
            access.abort.clone(),
            answer,
        );
        *death.lock().unwrap_or_else(PoisonError::into_inner) = Some(agent.death_switch());
        let client = agent.client.clone();
        self.inner().agents.push(agent);
        client
    }
}

impl Machines for World {
    fn local(&self, access: &Access) -> Result<AgentClient, MachineError> {
        Ok(self.start(Host::Source, access))
    }

    fn target(&self, access: &Access) -> Result<AgentClient, MachineError> {
        let mut inner = self.inner();
        if inner.unreachable > 0 {
            inner.unreachable -= 1;
            return Err(MachineError::Target {
                hostname: "vega".into(),
                source: Box::new(std::io::Error::from(std::io::ErrorKind::ConnectionRefused)),
            });
        }
        drop(inner);
        Ok(self.start(Host::Target, access))
    }

    fn target_again(&self, access: &Access, first: u32) -> Result<AgentClient, MachineError> {
        assert_eq!(first, PID);
        self.target(access)
    }
}

pub(crate) fn name(hostname: &str) -> MachineName {
    MachineName {
        hostname: hostname.into(),
        machine_id: format!("id-{hostname}"),
    }
}

pub(crate) fn history_entry(
    session: &str,
    source: &MachineName,
    target: &MachineName,
    role: Host,
) -> HistoryEntry {
    HistoryEntry {
        role,
        source: source.clone(),
        target: target.clone(),
        ..crate::record::testing::entry(session, "", "", SessionState::Completed)
    }
}
