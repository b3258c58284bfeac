//! `history`: past sessions, and what one of them changed on its target.
//!
//! The sessions are what a machine remembers. What one of them changed is not remembered but looked up:
//! it is what differs between the snapshots taken before and after it on its target, so it stays true
//! whatever happened in between, and old versions are where the list says.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::time::Duration;

use serde_json::{Map, Value, json};

use super::args::{GlobalArgs, HistoryArgs};
use super::errand::Errand;
use super::load_config;
use super::table::{number, print, render, text};
use crate::agent::client::AgentError;
use crate::change::{Action, Change};
use crate::config::Config;
use crate::escape::{escape_bytes, escape_str};
use crate::event::{Host, SessionState};
use crate::exit::ExitStatus;
use crate::figures;
use crate::interrupt::{AbortFlag, Interrupted};
use crate::jsonline::safe;
use crate::mirror::local::{LocalPlan, Side, client};
use crate::mirror::told::below;
use crate::modules;
use crate::record::sessions::{find, undone};
use crate::record::{HistoryEntry, Incomplete, MachineState};
use crate::run::error::RunError;
use crate::run::met::{Meets as _, Met};
use crate::snapshot::SnapshotFacts;
use crate::snapshot::name::{SnapshotKind, SnapshotName};

/// Lists sessions, or what one of them changed.
#[must_use]
pub fn run(global: &GlobalArgs, args: &HistoryArgs) -> ExitStatus {
    let config = match load_config(global, &modules::registry()) {
        Ok(config) => config,
        Err(status) => return status,
    };
    let mut errand = Errand::start(global, config.log_cli_level);
    let result = match &args.session {
        None => sessions(&mut errand, args, &config),
        Some(session) => changes_of(&mut errand, args, &config, session),
    };
    errand.finish(result)
}

fn sessions(
    errand: &mut Errand,
    args: &HistoryArgs,
    config: &Config,
) -> Result<ExitStatus, RunError> {
    let met = errand.on(args.host.as_deref())?;
    let state = met.state()?;
    let snapshots = met.snapshots(&config.btrfs_snapshots.snapshot_dir, false)?;
    let present: BTreeSet<String> = snapshots.into_iter().map(|s| s.name).collect();
    Ok(print(&if args.json {
        json_lines(&state, &present)
    } else {
        table(&state, &present)
    }))
}

/// How a session ended, in words, as far as this machine knows.
pub(super) fn result_words(
    entry: &HistoryEntry,
    marker: Option<&Incomplete>,
    undone: &BTreeSet<String>,
) -> String {
    let mut words = match entry.state {
        SessionState::Completed => "completed",
        SessionState::Aborted => "stopped",
        _ => "failed",
    }
    .to_owned();
    if let Some(of) = &entry.rollback_of {
        words = match entry.state {
            SessionState::Completed => format!("rollback of {}", escape_str(of)),
            _ => format!("rollback of {}, {words}", escape_str(of)),
        };
    }
    if marker.is_some_and(|marker| marker.session == entry.session) {
        words.push_str(", incomplete");
    }
    if undone.contains(&entry.session) {
        words.push_str(", rolled back");
    }
    words
}

/// This machine's own snapshots of a session.
fn own_snapshots(entry: &HistoryEntry) -> &[SnapshotFacts] {
    match entry.role {
        Host::Source => &entry.source_snapshots,
        Host::Target => &entry.target_snapshots,
    }
}

fn took(entry: &HistoryEntry) -> Duration {
    let took = entry.ended_at.duration_since(entry.started_at);
    took.try_into().unwrap_or_default()
}

/// Everything that is shown of what a machine remembers, whatever that is.
pub(crate) fn shown(state: &MachineState) -> Vec<String> {
    let nothing = BTreeSet::new();
    let undone = undone(&state.history);
    let mut shown = vec![table(state, &nothing), json_lines(state, &nothing)];
    for entry in &state.history {
        shown.push(heading(entry, state.incomplete.as_ref(), &undone));
    }
    shown
}

/// A line per session, the newest first.
fn table(state: &MachineState, present: &BTreeSet<String>) -> String {
    let undone = undone(&state.history);
    let marker = state.incomplete.as_ref();
    let columns = [
        text("SESSION"),
        text("TIME (UTC)"),
        text("FROM"),
        text("TO"),
        text("RESULT"),
        number("TOOK"),
        number("CREATED"),
        number("CHANGED"),
        number("DELETED"),
        number("BYTES"),
        number("SNAPSHOTS"),
    ];
    let time = |at: jiff::Timestamp| at.strftime("%Y-%m-%d %H:%M:%S").to_string();
    let mut rows = Vec::new();
    // A run that died before it could write its history.
    let unwritten = marker.filter(|marker| {
        let mut all = state.history.iter();
        all.all(|entry| entry.session != marker.session)
    });
    if let Some(marker) = unwritten {
        let place = match &marker.module {
            Some(module) => escape_str(module),
            None => marker.phase.title().to_owned(),
        };
        let left = |names: &[String]| names.iter().filter(|name| present.contains(*name)).count();
        rows.push([
            escape_str(&marker.session),
            time(marker.started_at),
            escape_str(&marker.source),
            escape_str(&marker.target),
            format!("died in {place}, incomplete"),
            "?".to_owned(),
            "?".to_owned(),
            "?".to_owned(),
            "?".to_owned(),
            "?".to_owned(),
            left(&marker.presync).to_string(),
        ]);
    }
    for entry in state.history.iter().rev() {
        let figure = |of: fn(&crate::record::Changed) -> u64| {
            let changed = entry.changed.as_ref();
            changed.map_or("?".to_owned(), |changed| figures::number(of(changed)))
        };
        let own = own_snapshots(entry);
        let there = own.iter().filter(|s| present.contains(&s.name)).count();
        rows.push([
            escape_str(&entry.session),
            time(entry.started_at),
            escape_str(&entry.source.hostname),
            escape_str(&entry.target.hostname),
            result_words(entry, marker, &undone),
            figures::span(took(entry)),
            figure(|c| c.created),
            figure(|c| c.changed + c.renamed + c.attributes),
            figure(|c| c.deleted),
            match &entry.changed {
                Some(changed) => figures::bytes(changed.bytes),
                None => "?".to_owned(),
            },
            there.to_string(),
        ]);
    }
    if rows.is_empty() {
        return "No sync is remembered.\n".to_owned();
    }
    render(&columns, rows)
}

/// The same for programs, oldest first.
fn json_lines(state: &MachineState, present: &BTreeSet<String>) -> String {
    let undone = undone(&state.history);
    let mut text = String::new();
    let mut line = |value: &Value| {
        text.push_str(&safe(&value.to_string()));
        text.push('\n');
    };
    for entry in &state.history {
        let marker = state.incomplete.as_ref();
        let marker = marker.filter(|marker| marker.session == entry.session);
        line(&session_json(
            entry,
            marker,
            undone.contains(&entry.session),
            present,
        ));
    }
    if let Some(marker) = &state.incomplete
        && state.history.iter().all(|e| e.session != marker.session)
    {
        line(&died_json(marker, present));
    }
    text
}

fn named<'a>(names: impl Iterator<Item = &'a String>, present: &BTreeSet<String>) -> Value {
    names
        .map(|name| json!({ "name": name, "present": present.contains(name) }))
        .collect()
}

fn session_json(
    entry: &HistoryEntry,
    marker: Option<&Incomplete>,
    is_undone: bool,
    present: &BTreeSet<String>,
) -> Value {
    json!({
        "session": entry.session,
        "role": entry.role,
        "source": entry.source,
        "target": entry.target,
        "address": entry.address,
        "started_at": entry.started_at,
        "ended_at": entry.ended_at,
        "seconds": took(entry).as_secs_f64(),
        "state": entry.state,
        "incomplete": marker.is_some(),
        "phase": marker.map(|marker| marker.phase),
        "module": marker.and_then(|marker| marker.module.as_ref()),
        "rollback_of": entry.rollback_of,
        "rolled_back": is_undone,
        "changed": entry.changed,
        "version": entry.version,
        "modules": entry.modules,
        "snapshots": named(own_snapshots(entry).iter().map(|s| &s.name), present),
    })
}

/// The same members, of a run that died before it wrote its history.
fn died_json(marker: &Incomplete, present: &BTreeSet<String>) -> Value {
    json!({
        "session": marker.session,
        "role": marker.role,
        "source": { "hostname": marker.source, "machine_id": null },
        "target": { "hostname": marker.target, "machine_id": null },
        "address": marker.address,
        "started_at": marker.started_at,
        "ended_at": null,
        "seconds": null,
        "state": null,
        "incomplete": true,
        "phase": marker.phase,
        "module": marker.module,
        "rollback_of": marker.rollback_of,
        "rolled_back": false,
        "changed": null,
        "version": null,
        "modules": [],
        "snapshots": named(marker.presync.iter(), present),
    })
}

/// Two snapshots of one subvolume.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Versions {
    before: Option<SnapshotFacts>,
    after: Option<SnapshotFacts>,
}

/// The snapshots of a session, by subvolume.
fn versions(snapshots: Vec<SnapshotFacts>, session: &str) -> BTreeMap<String, Versions> {
    let mut all = BTreeMap::<String, Versions>::new();
    for snapshot in snapshots {
        let Some(name) = SnapshotName::parse(&snapshot.name) else {
            continue;
        };
        if name.session == session {
            let of = all.entry(name.subvolume).or_default();
            match name.kind {
                SnapshotKind::Presync => of.before = Some(snapshot),
                SnapshotKind::Postsync => of.after = Some(snapshot),
            }
        }
    }
    all
}

/// The machine that a session changed: the one that was asked, or another one.
fn on_target(
    errand: &mut Errand,
    met: Met,
    state: &MachineState,
    session: &str,
) -> Result<Met, RunError> {
    let entry = state.history.iter().find(|entry| entry.session == session);
    // A run that died before it wrote its history has left its marker.
    let marker = state.incomplete.as_ref().filter(|m| m.session == session);
    let (role, host, machine_id) = match (entry, marker) {
        (Some(entry), _) => {
            let target = &entry.target;
            let host = entry.address.as_ref().unwrap_or(&target.hostname);
            (entry.role, host, Some(&target.machine_id))
        }
        (None, Some(marker)) => {
            let host = marker.address.as_ref().unwrap_or(&marker.target);
            (marker.role, host, None)
        }
        (None, None) => return Ok(met),
    };
    if role == Host::Target {
        return Ok(met);
    }
    let target = errand.remote(host)?;
    if machine_id.is_some_and(|id| target.facts.machine_id != *id) {
        let host = escape_str(host);
        return Err(RunError::Usage {
            message: format!("{host} is not the machine that session {session} changed"),
            hint: format!("ask that machine: pc-switcher history {session} --host HOST"),
        });
    }
    Ok(target)
}

fn changes_of(
    errand: &mut Errand,
    args: &HistoryArgs,
    config: &Config,
    prefix: &str,
) -> Result<ExitStatus, RunError> {
    let met = errand.on(args.host.as_deref())?;
    let state = met.state()?;
    let marker = state.incomplete.as_ref();
    let known = state.history.iter().map(|entry| entry.session.as_str());
    let known = known.chain(marker.map(|marker| marker.session.as_str()));
    let session = find(known, prefix).map_err(|error| RunError::Usage {
        message: error.to_string(),
        hint: "`pc-switcher history` lists them".to_owned(),
    })?;
    let entry = state.history.iter().find(|entry| entry.session == session);
    let undone = undone(&state.history);
    let target = on_target(errand, met, &state, session)?;
    let dir = &config.btrfs_snapshots.snapshot_dir;
    let versions = versions(target.snapshots(dir, false)?, session);
    if let Some(entry) = entry
        && !args.json
    {
        print(&heading(entry, marker, &undone));
    }
    if versions.is_empty() {
        return Err(RunError::Usage {
            message: format!("the snapshots of session {session} are gone"),
            hint: "old ones are deleted by btrfs_snapshots.keep_recent and max_age_days".to_owned(),
        });
    }
    for (subvolume, of) in versions {
        let mount_point = mount_point(&target, config, &subvolume)?;
        let listing = Listing {
            session,
            subvolume: &subvolume,
            mount_point: mount_point.as_deref(),
            target: &target,
            json: args.json,
            abort: &errand.console.abort,
        };
        listing.show(errand, &of)?;
    }
    Ok(ExitStatus::Done)
}

/// What a person is told of a session before the list.
fn heading(entry: &HistoryEntry, marker: Option<&Incomplete>, undone: &BTreeSet<String>) -> String {
    format!(
        "Session {}: {} to {}, {} UTC, {}, {}\n",
        escape_str(&entry.session),
        escape_str(&entry.source.hostname),
        escape_str(&entry.target.hostname),
        entry.started_at.strftime("%Y-%m-%d %H:%M:%S"),
        figures::span(took(entry)),
        result_words(entry, marker, undone)
    )
}

/// Where the subvolume is mounted there now, if it is.
fn mount_point(met: &Met, config: &Config, subvolume: &str) -> Result<Option<String>, RunError> {
    let facts = met.subvolumes(
        vec![subvolume.to_owned()],
        &config.btrfs_snapshots.snapshot_dir,
    )?;
    Ok(facts.found.into_iter().next().map(|s| s.mount_point))
}

/// The list of one subvolume.
struct Listing<'a> {
    session: &'a str,
    subvolume: &'a str,
    mount_point: Option<&'a str>,
    target: &'a Met,
    json: bool,
    abort: &'a AbortFlag,
}

impl Listing<'_> {
    fn show(&self, errand: &Errand, of: &Versions) -> Result<(), RunError> {
        let name = escape_str(self.mount_point.unwrap_or(self.subvolume));
        let say = |text: String| {
            if !self.json {
                print(&format!("{name}: {text}\n"));
            }
        };
        let Some(before) = &of.before else {
            say("the snapshot taken before is gone: what changed cannot be told".to_owned());
            return Ok(());
        };
        let (after, since) = match (&of.after, self.mount_point) {
            (Some(after), _) => (after.path.clone(), ""),
            (None, Some(mounted)) => (
                mounted.to_owned(),
                "; there is no snapshot from after it, so this is everything that changed since",
            ),
            (None, None) => {
                say("there is nothing to compare with: it is not mounted".to_owned());
                return Ok(());
            }
        };
        let after = after.into_bytes();
        let wanted = LocalPlan {
            id: self.subvolume.to_owned(),
            // The live tree is no snapshot that the kernel could compare.
            newer: of.after.is_some().then(|| after.clone()),
            from: after,
            to: before.path.clone().into_bytes(),
            older: Some(Side::To),
            ..LocalPlan::default()
        };
        let doing = || RunError::agent(format!("comparing the snapshots of {}", self.subvolume));
        let agent = &self.target.agent;
        let reply = client::plan(agent, wanted, &mut |_| Ok(())).map_err(doing())?;
        let totals = reply.plan.unwrap_or_default();
        say(format!(
            "{} created, {} changed, {} renamed, {} with new attributes, {} deleted{since}; what was there \
             before is in {}",
            figures::number(totals.created),
            figures::number(totals.changed),
            figures::number(totals.renamed),
            figures::number(totals.attributes),
            figures::number(totals.deleted),
            escape_str(&before.path),
        ));
        if self.json {
            self.print_json(before)
        } else {
            self.print_lines(errand)
        }
    }

    fn print_lines(&self, errand: &Errand) -> Result<(), RunError> {
        let shown = self
            .mount_point
            .map_or_else(|| self.subvolume.to_owned(), str::to_owned);
        let mut result = Ok(());
        let printed = errand.ui().print_changes("history", |printer| {
            result = self.each_change(&mut |change| {
                let shown = Change {
                    item: below(shown.as_bytes(), &change.item),
                    from: change
                        .from
                        .as_ref()
                        .map(|from| below(shown.as_bytes(), from)),
                    ..change.clone()
                };
                printer.print(&shown).map_err(|_| Interrupted)
            });
        });
        self.settle(result, printed)
    }

    fn print_json(&self, before: &SnapshotFacts) -> Result<(), RunError> {
        let mut out = std::io::BufWriter::new(std::io::stdout().lock());
        let mut failure = None;
        let result = self.each_change(&mut |change| {
            let path = &change.item;
            let mut value = Map::new();
            let mut put = |key: &str, text: Value| value.insert(key.to_owned(), text);
            put("session", json!(self.session));
            put("subvolume", json!(self.subvolume));
            put("sign", json!(char::from(change.action as u8)));
            let place = self
                .mount_point
                .map(|point| escape_bytes(&below(point.as_bytes(), path)));
            put("path", json!(place));
            put("inside", json!(escape_bytes(path)));
            let from = change.from.as_ref();
            put("from", json!(from.map(|from| escape_bytes(from))));
            put("detail", json!(change.detail));
            put("bytes", json!(change.bytes));
            let old = (change.action != Action::Create)
                .then(|| escape_bytes(&below(before.path.as_bytes(), from.unwrap_or(path))));
            put("before", json!(old));
            let line = Value::Object(value).to_string();
            let written = writeln!(out, "{}", safe(&line));
            written.map_err(|error| {
                failure = Some(error);
                Interrupted
            })
        });
        let printed = match failure {
            None => out.flush(),
            Some(error) => Err(error),
        };
        // Not dropped: that would write to the closed pipe once more.
        let _ = out.into_parts();
        self.settle(result, printed)
    }

    /// Calls `visit` with every change; its item is the path below the subvolume.
    fn each_change(
        &self,
        visit: &mut dyn FnMut(&Change) -> Result<(), Interrupted>,
    ) -> Result<(), AgentError> {
        client::each_change(&self.target.agent, self.subvolume, &mut |change| {
            Ok(visit(&change)?)
        })
    }

    /// A list that ended because its reader has gone is no error; one that could not be written is.
    fn settle(
        &self,
        listed: Result<(), AgentError>,
        printed: std::io::Result<()>,
    ) -> Result<(), RunError> {
        match printed {
            Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
                return Err(RunError::Output(error));
            }
            _ => {}
        }
        match listed {
            Err(AgentError::Interrupted(_)) if !self.abort.is_raised() => Ok(()),
            listed => listed.map_err(RunError::agent("listing the changes")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::jsonline::json_doc;
    use crate::record::Changed;
    use crate::record::testing::{entry, marker, snapshot};

    fn state() -> MachineState {
        let mut first = entry("00000001", "atlas", "vega", SessionState::Completed);
        first.ended_at = "1970-01-01T00:02:05Z".parse().unwrap();
        first.changed = Some(Changed {
            created: 1200,
            changed: 3,
            renamed: 0,
            attributes: 1,
            deleted: 0,
            bytes: 5 << 20,
        });
        first.source_snapshots = vec![snapshot("@home-presync-19700101T000000Z-00000001")];
        let mut second = entry("00000002", "at\u{1b}[2Jlas", "vega", SessionState::Failed);
        second.role = Host::Target;
        let mut third = entry("00000003", "atlas", "vega", SessionState::Completed);
        third.rollback_of = Some("00000002".to_owned());
        MachineState {
            history: vec![first, second, third],
            incomplete: Some(Incomplete {
                presync: vec!["gone".to_owned()],
                ..marker("00000004", Host::Source)
            }),
        }
    }

    #[test]
    fn sessions_are_listed_newest_first_and_what_died_before_all() {
        let present = BTreeSet::from(["@home-presync-19700101T000000Z-00000001".to_owned()]);
        let text = table(&state(), &present);
        let lines: Vec<Vec<&str>> = (text.lines())
            .map(|line| {
                line.split("  ")
                    .map(str::trim)
                    .filter(|c| !c.is_empty())
                    .collect()
            })
            .collect();
        let start = "1970-01-01 00:00:00";
        let unknown = ["?"; 4];
        let died = "died in user_data, incomplete";
        let row = |head: [&'static str; 6], tail: &[&'static str]| [&head[..], tail].concat();
        assert_eq!(
            lines[1],
            row(
                ["00000004", start, "atlas", "vega", died, "?"],
                &["?", "?", "?", "?", "0"]
            )
        );
        let rollback = "rollback of 00000002";
        assert_eq!(
            lines[2],
            row(
                ["00000003", start, "atlas", "vega", rollback, "0.0 s"],
                &[&unknown[..], &["0"]].concat()
            )
        );
        let failed = "failed, rolled back";
        assert_eq!(
            lines[3],
            row(
                ["00000002", start, r"at\x1b[2Jlas", "vega", failed, "0.0 s"],
                &[&unknown[..], &["0"]].concat()
            )
        );
        assert_eq!(
            lines[4],
            row(
                ["00000001", start, "atlas", "vega", "completed", "2 min 5 s"],
                &["1,200", "4", "0", "5.0 MiB", "1"]
            )
        );
        assert_eq!(
            table(&MachineState::default(), &present),
            "No sync is remembered.\n"
        );
    }

    #[test]
    fn every_json_line_is_an_object_and_harmless_to_a_terminal() {
        let text = json_lines(&state(), &BTreeSet::new());
        assert!(!text.contains('\u{1b}'));
        let lines: Vec<Value> = (text.lines())
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        let sessions: Vec<&str> = lines
            .iter()
            .map(|l| l["session"].as_str().unwrap())
            .collect();
        assert_eq!(sessions, ["00000001", "00000002", "00000003", "00000004"]);
        assert_eq!(lines[0]["changed"]["created"], 1200);
        assert_eq!(lines[0]["snapshots"][0]["present"], false);
        assert_eq!(lines[1]["rolled_back"], true);
        assert_eq!(lines[1]["source"]["hostname"], "at\u{1b}[2Jlas");
        assert_eq!(lines[3]["incomplete"], true);
        for line in &lines {
            json_doc::check("history", "Sessions, the oldest first", line);
        }
    }
}
