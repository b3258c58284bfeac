//! What can be seen once agents answer: each machine by itself, then the two together.

use std::collections::BTreeMap;

use super::{Checks, State};
use crate::agent::client::AgentError;
use crate::agent::health::{Health, Login};
use crate::agent::protocol::{Reply, Request};
use crate::escape::escape_str;
use crate::event::Host;
use crate::exit::ExitStatus;
use crate::figures;
use crate::modules::{btrfs_snapshots, space, user_data};
use crate::run::error::RunError;
use crate::run::{
    CORE, Pair, Peer, Run, clocks, gates, initialise, logins, preflight, status, validate,
};
use crate::snapshot::Subvolume;

/// Less than this is left in `/run`: not enough to be sure that an agent fits.
const RUN_MINIMUM: u64 = 64 << 20;

/// Looks at `hosts` of the pair; at what is between them only if that is both.
pub(super) fn all(
    run: &mut Run,
    pair: &Pair,
    hosts: &[Host],
    checks: &mut Checks,
) -> Result<(), RunError> {
    for host in hosts {
        let peer = pair.peer(*host);
        installed(peer, checks);
        health(run, peer, checks)?;
        if hosts.len() == 1 {
            memory(peer, checks)?;
        }
    }
    validation(run, pair, hosts, checks)?;
    disks(run, pair, hosts, checks)?;
    for host in hosts {
        standing(run, pair.peer(*host), checks)?;
    }
    if hosts.len() == 2 {
        together(run, pair, checks)?;
    }
    Ok(())
}

fn installed(peer: &Peer, checks: &mut Checks) {
    let host = peer.machine.host;
    let ours = env!("CARGO_PKG_VERSION");
    let message = match (host, &peer.facts.installed) {
        (Host::Source, _) => format!("{ours}, {}", escape_str(&peer.facts.arch)),
        (Host::Target, None) => format!("not installed yet; a sync installs {ours}"),
        (Host::Target, Some(found)) => {
            let version = found.version.as_deref().unwrap_or("one that does not run");
            let (version, path) = (escape_str(version), escape_str(&found.path));
            if found.same_binary || version.ends_with(ours) {
                format!("{version} at {path}")
            } else {
                format!("{version} at {path}; a sync installs {ours}")
            }
        }
    };
    match initialise::refuse_newer_target(peer) {
        Err(error) if host == Host::Target => {
            // It is no interruption, so this cannot end looking.
            let _ = checks.failed("version", Some(host), error);
        }
        _ => checks.ok("version", host, message),
    }
}

fn health(run: &Run, peer: &Peer, checks: &mut Checks) -> Result<(), RunError> {
    let host = peer.machine.host;
    let health = match logins::begin(peer).and_then(|call| logins::finish(peer, &call)) {
        Ok(health) => health,
        Err(error) => return checks.failed("kernel", Some(host), error),
    };
    let Health {
        lock,
        logins,
        run: run_facts,
        kernel_lacks,
    } = health;
    let kernel = escape_str(&peer.facts.kernel);
    if kernel_lacks.is_empty() {
        checks.ok("kernel", host, format!("Linux {kernel}"));
    } else {
        let lacks: Vec<String> = kernel_lacks.iter().map(|l| escape_str(l)).collect();
        let message = format!("Linux {kernel} has no {}", lacks.join(", no "));
        let remedy = Some("a newer kernel is needed: Linux 5.8, or later".to_owned());
        checks.explained(
            "kernel",
            Some(host),
            message,
            remedy,
            ExitStatus::Validation,
        );
    }
    let free = figures::bytes(run_facts.free_bytes);
    if run_facts.free_bytes < RUN_MINIMUM && !run_facts.is_noexec {
        let remedy = format!(
            "see what fills it on {}:\n    df -h /run; sudo du -xsh /run/*",
            peer.machine.hostname
        );
        checks.warn(
            "run",
            Some(host),
            format!("only {free} free in /run"),
            Some(remedy),
        );
    } else if run_facts.is_noexec {
        let message = "starts no programs; a private file system in memory does";
        checks.ok("run", host, message);
    } else {
        checks.ok("run", host, format!("{free} free in /run"));
    }
    match lock {
        Some(holder) => checks.failed("lock", Some(host), initialise::locked(peer, &holder))?,
        None => checks.ok("lock", host, "no sync is running"),
    }
    people(run, peer, logins.as_deref(), checks);
    Ok(())
}

/// Who is logged in. A desktop on the target is a gate, and told there; here it is who there is.
fn people(run: &Run, peer: &Peer, logins: Option<&[Login]>, checks: &mut Checks) {
    let host = peer.machine.host;
    let Some(logins) = logins else {
        return checks.warn(
            "logins",
            Some(host),
            "nobody keeps account of who is logged in (no logind)",
            Some("before a sync, see that nobody works on its desktop".to_owned()),
        );
    };
    if host == Host::Target && !logins::at_work(logins, &run.shared.config).is_empty() {
        return;
    }
    let in_words = |login: &Login| {
        let (user, place) = (escape_str(&login.user), escape_str(&login.place));
        let how = if login.is_graphical {
            "desktop"
        } else {
            "terminal"
        };
        format!("{user} ({how}, {place})")
    };
    let people: Vec<String> = logins.iter().map(in_words).collect();
    checks.ok(
        "logins",
        host,
        match people.as_slice() {
            [] => "nobody else is logged in".to_owned(),
            people => people.join(", "),
        },
    );
}

/// One machine's memory, where there is no other to compare it with.
fn memory(peer: &Peer, checks: &mut Checks) -> Result<(), RunError> {
    let host = peer.machine.host;
    let doing = || RunError::agent("reading the history");
    let state = match peer.machine.agent.call(Request::ReadState).map_err(doing()) {
        Ok(Reply::State(state)) => state,
        Ok(_) => {
            let error = doing()(peer.machine.agent.nonsense("no history"));
            return checks.failed("history", Some(host), error);
        }
        Err(error) => return checks.failed("history", Some(host), error),
    };
    match state.incomplete {
        Some(marker) => checks.warn(
            "history",
            Some(host),
            format!(
                "session {} from {} to {} did not end well",
                escape_str(&marker.session),
                escape_str(&marker.source),
                escape_str(&marker.target)
            ),
            Some("the next sync between the two asks about it: --allow-incomplete".to_owned()),
        ),
        None => checks.ok(
            "history",
            host,
            match state.history.last() {
                None => "no sync yet".to_owned(),
                Some(last) => format!(
                    "last sync from {} to {}, {}",
                    escape_str(&last.source.hostname),
                    escape_str(&last.target.hostname),
                    last.ended_at.strftime("%F %T UTC")
                ),
            },
        ),
    }
    Ok(())
}

/// What `status` tells of a machine, as far as that can be seen without writing: to learn what was changed since
/// the last sync takes a snapshot. What cannot be read is said by the checks it stands in the way of.
fn standing(run: &Run, peer: &Peer, checks: &mut Checks) -> Result<(), RunError> {
    let dir = &run.shared.config.btrfs_snapshots.snapshot_dir;
    let limit = u64::try_from(status::SPACE_LIMIT.as_millis()).unwrap_or(u64::MAX);
    let requests = [
        Request::ReadState,
        Request::ListSnapshots {
            snapshot_dir: dir.clone(),
            with_space: false,
        },
        Request::SnapshotSpace {
            snapshot_dir: dir.clone(),
            limit_millis: limit,
        },
    ];
    let mut replies = Vec::with_capacity(requests.len());
    for request in requests {
        match peer.machine.agent.call(request) {
            Ok(reply) => replies.push(reply),
            Err(AgentError::Fault { .. }) => return Ok(()),
            Err(error) => return Err(RunError::agent("looking where it stands")(error)),
        }
    }
    if let [
        Reply::State(state),
        Reply::Snapshots(snapshots),
        Reply::Held(held),
    ] = &replies[..]
        && let Some(message) = status::at_a_glance(state, snapshots, held)
    {
        checks.ok("standing", peer.machine.host, message);
    }
    Ok(())
}

/// What modules and clocks have against it; what they say nothing about is good.
fn validation(
    run: &mut Run,
    pair: &Pair,
    hosts: &[Host],
    checks: &mut Checks,
) -> Result<(), RunError> {
    let errors = match validate::look(run, pair) {
        Ok(errors) => errors,
        Err(error) => return checks.failed(btrfs_snapshots::NAME, None, error),
    };
    let names: Vec<&'static str> = (run.selection.foreground.iter())
        .map(|module| module.name())
        .collect();
    for &host in hosts {
        for &name in &names {
            let found = (errors.iter().map(|(_, error)| error))
                .filter(|error| error.host == host && error.module == name);
            let mut is_good = true;
            for error in found {
                is_good = false;
                let (message, hint) = (error.message.clone(), error.hint.clone());
                checks.explained(name, Some(host), message, hint, ExitStatus::Validation);
            }
            if let Some(message) = good_words(run, host, name).filter(|_| is_good) {
                checks.ok(name, host, message);
            }
        }
    }
    if hosts.len() == 2 {
        let clock = errors.into_iter().find(|(_, error)| error.module == CORE);
        match (clock, clocks::small_difference(pair)) {
            (Some((_, error)), _) => {
                let (message, hint) = (error.message, error.hint);
                checks.explained(
                    "clock",
                    Some(Host::Target),
                    message,
                    hint,
                    ExitStatus::Validation,
                );
            }
            (None, Some(message)) => {
                let remedy = clocks::remedy();
                checks.warn("clock", Some(Host::Target), message, Some(remedy));
            }
            (None, None) => checks.ok("clock", Host::Target, clocks::words(pair)),
        }
    }
    Ok(())
}

/// What is said of a module that has nothing against it, if it is worth a line.
fn good_words(run: &Run, host: Host, module: &str) -> Option<String> {
    let config = &run.shared.config;
    let subvolumes = match host {
        Host::Source => &run.facts.source_subvolumes,
        Host::Target => &run.facts.target_subvolumes,
    };
    match module {
        btrfs_snapshots::NAME => {
            let shown = |s: &Subvolume| {
                format!("{} at {}", escape_str(&s.name), escape_str(&s.mount_point))
            };
            let names: Vec<String> = subvolumes.iter().map(shown).collect();
            let dir = escape_str(&config.btrfs_snapshots.snapshot_dir);
            Some(format!("{}; snapshots in {dir}", names.join(", ")))
        }
        user_data::NAME => {
            let folders = config.user_data.folders.iter();
            let folders: Vec<String> = folders.map(|f| escape_str(&f.path)).collect();
            Some(folders.join(", "))
        }
        _ => None,
    }
}

fn disks(run: &Run, pair: &Pair, hosts: &[Host], checks: &mut Checks) -> Result<(), RunError> {
    let looks = match preflight::look(run, pair, &BTreeMap::new()) {
        Ok(looks) => looks,
        Err(error) => return checks.failed("disk", None, error),
    };
    for look in looks.into_iter().filter(|look| hosts.contains(&look.host)) {
        let host = look.host;
        let fact = &look.fact;
        let free = space::share(fact.free_bytes, fact.total_bytes);
        match (&look.critical, &look.low) {
            (Some(critical), _) => {
                let relief = preflight::relief(run, pair, &look).into_iter().collect();
                let errors = vec![critical.clone()];
                checks.failed("disk", Some(host), RunError::DiskSpace { errors, relief })?;
            }
            (None, Some(low)) => {
                let remedy = "what could go:\n    pc-switcher snapshots list".to_owned();
                checks.warn("disk", Some(host), space::low_words(low), Some(remedy));
            }
            (None, None) => checks.ok("disk", host, format!("{free} free on {}", fact.mount_point)),
        }
    }
    Ok(())
}

fn together(run: &mut Run, pair: &Pair, checks: &mut Checks) -> Result<(), RunError> {
    if let Err(error) = initialise::refuse_same_machine(run, &pair.source, &pair.target) {
        return checks.failed("machines", None, error);
    }
    let gates = match gates::look(run, pair) {
        Ok(gates) => gates,
        Err(error) => return checks.failed("history", None, error),
    };
    for gate in &gates {
        let id = match gate.flag {
            logins::FLAG => "logins",
            _ => "history",
        };
        checks.warn(
            id,
            None,
            gate.finding.clone(),
            Some(format!("a sync asks; {} answers beforehand", gate.flag)),
        );
    }
    if gates.iter().all(|gate| gate.flag == logins::FLAG) {
        let message = "nothing in it speaks against a sync".to_owned();
        checks.push("history", None, State::Ok, message);
    }
    Ok(())
}
