//! Phase 1: modules and configuration, this machine's agent and lock, the connection, the
//! target's agent and lock.

use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;

use super::error::RunError;
use super::options::choose;
use super::watch::ConnectionWatch;
use super::{Pair, Peer, Run};
use crate::agent::client::AgentClient;
use crate::agent::protocol::{AGENT_SILENCE, AgentFacts, Reply, Request, banner};
use crate::escape::escape_str;
use crate::event::{ConnectionEvent, ConnectionStatus, Event, Host, LogLevel};
use crate::module::{Machine, ModuleKind};
use crate::modules::install_on_target::is_newer;
use crate::record::LockHolder;

/// How long an agent that lost its connection may take to be gone: until it notices, and then ends.
const LETTING_GO: Duration = AGENT_SILENCE.saturating_add(Duration::from_secs(8));

/// Longest host name a kernel knows (`HOST_NAME_MAX`), which bounds what the other side claims.
const MAX_HOSTNAME: usize = 64;

pub(super) fn run(run: &mut Run) -> Result<Arc<Pair>, RunError> {
    choose_modules(run)?;
    if run.shared.options.confirm_each_command && !run.shared.prompter.can_ask() {
        return Err(RunError::Refused {
            message: "--confirm-each-command asks, and there is nobody to ask".to_owned(),
            flag: None,
        });
    }

    let source = start_source(run)?;
    lock(run, &source, &source.machine.hostname)?;

    let target = start_target(run)?;
    refuse_same_machine(run, &source, &target)?;
    lock(run, &target, &source.machine.hostname)?;
    refuse_newer_target(&target)?;

    run.shared.events.emit(&Event::Session {
        id: run.session.id().to_owned(),
        source: source.machine.hostname.clone(),
        target: target.machine.hostname.clone(),
    });
    run.connection = Some(ConnectionWatch::start(
        vec![target.machine.agent.clone(), source.machine.agent.clone()],
        run.shared.events.clone(),
        run.shared.stop.clone(),
    ));
    let pair = Arc::new(Pair { source, target });
    run.pair = Some(Arc::clone(&pair));
    Ok(pair)
}

pub(super) fn choose_modules(run: &mut Run) -> Result<(), RunError> {
    let registry = std::mem::take(&mut run.registry);
    let shared = Arc::get_mut(&mut run.shared).expect("no thread shares the run before phase 1");
    run.selection = choose(registry, &mut shared.config, &shared.options)?;
    let modules = run.selection.foreground.iter();
    let mut order: Vec<String> = (modules.filter(|m| m.kind() == ModuleKind::System))
        .map(|module| module.name().to_owned())
        .collect();
    order.extend(
        run.shared
            .config
            .sync_modules
            .iter()
            .map(|(name, _)| name.clone()),
    );
    run.session.set_order(order);
    for (module, reason) in &run.selection.skipped {
        run.session.skip(module, reason);
    }
    Ok(())
}

pub(super) fn start_source(run: &mut Run) -> Result<Peer, RunError> {
    let agent = run.shared.machines.local(&run.access())?;
    run.agents.push(agent.clone());
    let uid = Some(rustix::process::getuid().as_raw());
    let peer = greet(run, agent, Host::Source, uid)?;
    if let Some(open_log) = run.open_log.take() {
        match peer.machine.agent.call(Request::RunDirectory) {
            Ok(Reply::Path(directory)) => run.log_file = open_log(&directory),
            Ok(_) => return Err(nonsense(&peer.machine.agent, "no directory")),
            Err(error) => return Err(RunError::agent("making a directory for the log")(error)),
        }
    }
    Ok(peer)
}

pub(super) fn start_target(run: &mut Run) -> Result<Peer, RunError> {
    let connection = |status| {
        Event::Connection(ConnectionEvent {
            status,
            latency: None,
        })
    };
    let events = run.shared.events.clone();
    events.emit(&connection(ConnectionStatus::Connecting));
    let agent = run
        .shared
        .machines
        .target(&run.access())
        .inspect_err(|_| events.emit(&connection(ConnectionStatus::Disconnected)))?;
    run.agents.push(agent.clone());
    let peer = greet(run, agent, Host::Target, None)?;
    events.emit(&connection(ConnectionStatus::Connected));
    Ok(peer)
}

fn nonsense(agent: &AgentClient, detail: &str) -> RunError {
    RunError::agent("talking to the agent")(agent.nonsense(detail))
}

/// The first line must be ours to the letter: both sides are one binary, or one of its builds for
/// another architecture.
fn is_our_banner(theirs: &str) -> bool {
    let ours = banner();
    let words =
        |banner: &str| -> Vec<String> { banner.split(' ').take(3).map(str::to_owned).collect() };
    words(theirs) == words(&ours)
}

fn greet(run: &Run, agent: AgentClient, host: Host, uid: Option<u32>) -> Result<Peer, RunError> {
    if !is_our_banner(agent.banner()) {
        let said: String = agent.banner().chars().take(80).collect();
        return Err(RunError::WrongAgent {
            hostname: agent.hostname(),
            said: escape_str(&said),
        });
    }
    let hello = Request::Hello {
        session: run.session.id().to_owned(),
        uid,
    };
    let asked = Timestamp::now();
    let facts: AgentFacts = match agent
        .call(hello)
        .map_err(RunError::agent("greeting the agent"))?
    {
        Reply::Hello(facts) => *facts,
        _ => return Err(nonsense(&agent, "no greeting")),
    };
    // It looked at its clock somewhere between: in the middle, on average.
    let round_trip = Timestamp::now().duration_since(asked);
    let clock_ahead = facts.now.duration_since(asked) - round_trip / 2;
    let hostname: String = facts.hostname.chars().take(MAX_HOSTNAME).collect();
    let hostname = match escape_str(&hostname) {
        empty if empty.is_empty() => agent.hostname(),
        hostname => hostname,
    };
    agent.set_hostname(&hostname);
    run.log(
        LogLevel::Full,
        Some(host),
        format!(
            "agent {} of {hostname} on {}, kernel {}",
            escape_str(&facts.version),
            escape_str(&facts.arch),
            escape_str(&facts.kernel)
        ),
    );
    Ok(Peer {
        machine: Machine {
            host,
            hostname,
            agent: run.confirming(agent),
        },
        clock_ahead,
        facts,
    })
}

/// A newer pc-switcher there may have written what we do not understand.
pub(super) fn refuse_newer_target(target: &Peer) -> Result<(), RunError> {
    match target.facts.installed.as_ref().filter(|i| is_newer(i)) {
        None => Ok(()),
        Some(installed) => Err(RunError::NewerTarget {
            hostname: target.machine.hostname.clone(),
            theirs: escape_str(installed.version.as_deref().unwrap_or_default()),
            ours: env!("CARGO_PKG_VERSION"),
        }),
    }
}

pub(super) fn refuse_same_machine(run: &Run, source: &Peer, target: &Peer) -> Result<(), RunError> {
    let same = if source.facts.machine_id.is_empty() && target.facts.machine_id.is_empty() {
        source.facts.hostname == target.facts.hostname
    } else {
        source.facts.machine_id == target.facts.machine_id
    };
    if same {
        return Err(RunError::SameMachine {
            typed: run.shared.options.host.clone(),
            hostname: target.machine.hostname.clone(),
        });
    }
    Ok(())
}

fn lock(run: &Run, peer: &Peer, from: &str) -> Result<(), RunError> {
    let agent = &peer.machine.agent;
    let holder = LockHolder {
        session: run.session.id().to_owned(),
        role: peer.machine.host,
        from: from.to_owned(),
        pid: peer.facts.pid,
        since: Timestamp::now(),
    };
    let mut going = None;
    let end = Instant::now() + LETTING_GO;
    loop {
        let reply = agent
            .call(Request::Lock(holder.clone()))
            .map_err(RunError::agent("taking the lock"))?;
        let held_by = match reply {
            Reply::Lock(None) => return Ok(()),
            Reply::Lock(Some(held_by)) => held_by,
            _ => return Err(nonsense(agent, "no answer about the lock")),
        };
        let hostname = &peer.machine.hostname;
        // This machine's own lock is ours by now, so no other sync from here is alive: what holds
        // the target is an agent that has lost its connection, and ends by itself.
        let is_left_over = peer.machine.host == Host::Target
            && held_by.role == Host::Target
            && held_by.from == from;
        if !is_left_over || Instant::now() >= end {
            return Err(locked(peer, &held_by));
        }
        if going.is_none() {
            let session = escape_str(&held_by.session);
            let text = format!(
                "{hostname} still has the agent of session {session}, which has lost its connection; \
                 waiting for it to end"
            );
            run.log(LogLevel::Info, Some(Host::Target), text);
            let doing = format!("ending the agent of session {session}");
            going = Some(run.shared.events.working(hostname, doing));
        }
        run.shared.stop.flag().sleep(Duration::from_millis(500))?;
    }
}

/// The error for a machine whose lock `holder` has.
pub(super) fn locked(peer: &Peer, holder: &LockHolder) -> RunError {
    RunError::Locked {
        hostname: peer.machine.hostname.clone(),
        holder: LockHolder {
            session: escape_str(&holder.session),
            from: escape_str(&holder.from),
            ..holder.clone()
        },
    }
}
