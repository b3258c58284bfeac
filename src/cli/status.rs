//! `status`: where this machine stands, and another one with it.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io::Write as _;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::args::{GlobalArgs, StatusArgs};
use super::errand::Errand;
use super::history::result_words;
use super::load_config;
use super::table::print;
use crate::agent::client::AgentError;
use crate::escape::escape_str;
use crate::event::Host;
use crate::exit::ExitStatus;
use crate::figures;
use crate::interrupt::Interrupted;
use crate::jsonline::safe;
use crate::mirror::wire::PlanTotals;
use crate::modules;
use crate::record::Incomplete;
use crate::run::error::RunError;
use crate::run::status::{Folder, NAME, Other, Standing, Work, status};

/// Looks, and says.
#[must_use]
pub fn run(global: &GlobalArgs, args: &StatusArgs) -> ExitStatus {
    let config = match load_config(global, &modules::registry()) {
        Ok(config) => config,
        Err(status) => return status,
    };
    let mut errand = Errand::start(global, config.log_cli_level);
    let events = errand.console.events.clone();
    let work = Work {
        config: &config,
        events: &events,
    };
    let looked = status(&mut errand, &work, args.host.as_deref());
    let result = looked.and_then(|standings| {
        let text = if args.json {
            json(&standings)
        } else {
            words(&standings, Timestamp::now())
        };
        let mut written = print(&text);
        if global.verbose > 0 && !args.json {
            list(&errand, &standings)?;
        }
        if standings.iter().any(|s| s.incomplete.is_some()) {
            written = written.max(ExitStatus::Warnings);
        }
        Ok(written)
    });
    errand.finish(result)
}

/// How long ago, for people.
fn ago(at: Timestamp, now: Timestamp) -> String {
    let seconds = now.duration_since(at).as_secs().max(0).cast_unsigned();
    match seconds {
        0..=59 => "just now".to_owned(),
        60..=3599 => format!("{} min ago", seconds / 60),
        3600..=172_799 => format!("{} h ago", seconds / 3600),
        _ => format!("{} days ago", seconds / 86_400),
    }
}

fn time(at: Timestamp) -> String {
    at.strftime("%F %T UTC").to_string()
}

/// What a person is told.
fn words(standings: &[Standing], now: Timestamp) -> String {
    let mut text = String::new();
    for standing in standings {
        if !text.is_empty() {
            text.push('\n');
        }
        of_machine(&mut text, standing, now);
    }
    text
}

fn line(text: &mut String, name: &str, words: &str) {
    let _ = writeln!(text, "  {name:<12} {words}");
}

fn of_machine(text: &mut String, standing: &Standing, now: Timestamp) {
    let _ = writeln!(text, "{}", standing.machine);
    if let Some(holder) = &standing.running {
        let (session, from) = (escape_str(&holder.session), escape_str(&holder.from));
        let since = ago(holder.since, now);
        line(
            text,
            "running",
            &format!("session {session}, from {from}, begun {since}"),
        );
    }
    if let Some(marker) = &standing.incomplete {
        line(text, "incomplete", &of_marker(marker, now));
        line(
            text,
            "",
            "`pc-switcher rollback` goes back before it, a sync goes on",
        );
    }
    if standing.others.is_empty() {
        line(text, "last sync", "none is remembered");
    }
    for other in &standing.others {
        of_other(text, other, now);
    }
    line(text, "snapshots", &of_snapshots(standing));
}

fn of_marker(marker: &Incomplete, now: Timestamp) -> String {
    let place = match &marker.module {
        Some(module) => escape_str(module),
        None => marker.phase.title().to_owned(),
    };
    let of = match &marker.rollback_of {
        Some(of) => format!("the rollback to before session {}", escape_str(of)),
        None => format!(
            "the sync from {} to {}",
            escape_str(&marker.source),
            escape_str(&marker.target)
        ),
    };
    format!(
        "session {}, {of}, did not end well: it was in {place} ({}, {})",
        escape_str(&marker.session),
        time(marker.started_at),
        ago(marker.started_at, now)
    )
}

fn of_other(text: &mut String, other: &Other, now: Timestamp) {
    let last = &other.last;
    let direction = match last.role {
        Host::Source => "to",
        Host::Target => "from",
    };
    let undone = if other.is_undone {
        [last.session.clone()].into()
    } else {
        BTreeSet::new()
    };
    let words = format!(
        "{direction} {}, {}, {}, session {}: {}",
        escape_str(&other.machine.hostname),
        time(last.ended_at),
        ago(last.ended_at, now),
        escape_str(&last.session),
        result_words(last, None, &undone)
    );
    line(text, "last sync", &words);
    let mut scanned: Vec<Timestamp> = Vec::new();
    for folder in &other.folders {
        line(text, "since then", &of_folder(folder));
        scanned.push(folder.full_scan_at);
    }
    if let Some(session) = other
        .anchor
        .as_ref()
        .filter(|session| **session != last.session)
    {
        let words = format!(
            "\"then\" is session {}, the last that left both equal",
            escape_str(session)
        );
        line(text, "", &words);
    }
    if let Some(oldest) = scanned.into_iter().min() {
        let words = format!(
            "everything was compared last {}, {}",
            time(oldest),
            ago(oldest, now)
        );
        line(text, "full scan", &words);
    }
}

fn of_folder(folder: &Folder) -> String {
    let path = escape_str(&folder.path);
    match &folder.changed {
        Err(why) => format!("{path}: cannot be told: {}", escape_str(why)),
        Ok(_) if folder.count() == 0 => format!("{path}: nothing was changed here"),
        Ok(totals) => {
            let slow = match &folder.full_scan {
                Some(why) => format!(" (everything was looked at: {})", escape_str(why)),
                None => String::new(),
            };
            format!("{path}: {} here{slow}", changed(totals))
        }
    }
}

fn changed(totals: &PlanTotals) -> String {
    let counts = [
        (totals.created, "created"),
        (totals.changed, "changed"),
        (totals.renamed, "renamed"),
        (totals.attributes, "with other attributes"),
        (totals.deleted, "deleted"),
    ];
    let some = counts.iter().filter(|(count, _)| *count > 0);
    let parts: Vec<String> = some
        .map(|(count, words)| format!("{} {words}", figures::number(*count)))
        .collect();
    parts.join(", ")
}

fn of_snapshots(standing: &Standing) -> String {
    let space = standing.space();
    if space.is_empty() {
        return "none".to_owned();
    }
    let least = if standing.held.complete {
        ""
    } else {
        "at least "
    };
    format!(
        "{} of {}; only they hold {least}{}",
        figures::counted(standing.snapshots.len() as u64, "snapshot"),
        figures::counted(space.len() as u64, "session"),
        figures::bytes(standing.held.freed(|_| true))
    )
}

/// What was changed, path by path.
fn list(errand: &Errand, standings: &[Standing]) -> Result<(), RunError> {
    for standing in standings {
        for folder in standing.others.iter().flat_map(|other| &other.folders) {
            if folder.count() == 0 {
                continue;
            }
            let heading = format!("{}: {}", standing.machine, of_folder(folder));
            let mut listed = Ok(());
            let printed = errand.ui().print_changes(NAME, |printer| {
                printer.heading(&heading);
                listed = standing.each_change(folder, &mut |change| {
                    let printed = printer.print(change);
                    printed.map_err(|_| AgentError::Interrupted(Interrupted))
                });
            });
            match printed {
                // Who reads it has seen enough.
                Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => return Ok(()),
                Err(error) => return Err(RunError::Output(error)),
                Ok(()) => listed?,
            }
        }
    }
    let _ = std::io::stdout().flush();
    Ok(())
}

/// The same for programs: one object.
fn json(standings: &[Standing]) -> String {
    let machines: Vec<Value> = standings.iter().map(machine_json).collect();
    let value = json!({ "machines": machines });
    format!("{}\n", safe(&value.to_string()))
}

fn machine_json(standing: &Standing) -> Value {
    let others: Vec<Value> = standing.others.iter().map(other_json).collect();
    let space = standing.space();
    let sessions: Vec<Value> = (space.iter())
        .map(|(session, bytes)| json!({ "session": session, "only_in_it": bytes }))
        .collect();
    json!({
        "machine": standing.machine,
        "running": standing.running,
        "incomplete": standing.incomplete,
        "syncs": others,
        "snapshots": {
            "count": standing.snapshots.len(),
            "only_in_them": standing.held.freed(|_| true),
            "complete": standing.held.complete,
            "sessions": sessions,
        },
    })
}

fn other_json(other: &Other) -> Value {
    let last = &other.last;
    let folders = other.folders.iter().map(|folder| {
        let (totals, unknown) = match &folder.changed {
            Ok(totals) => (Some(totals), None),
            Err(why) => (None, Some(why)),
        };
        let figure = |of: fn(&PlanTotals) -> u64| totals.map(of);
        json!({
            "path": folder.path,
            "created": figure(|t| t.created),
            "changed": figure(|t| t.changed),
            "renamed": figure(|t| t.renamed),
            "attributes": figure(|t| t.attributes),
            "deleted": figure(|t| t.deleted),
            "unknown": unknown,
            "full_scan": folder.full_scan,
            "full_scan_at": folder.full_scan_at,
        })
    });
    json!({
        "with": other.machine,
        "session": last.session,
        "role": last.role,
        "ended_at": last.ended_at,
        "state": last.state,
        "rolled_back": other.is_undone,
        "anchor": other.anchor,
        "since": folders.collect::<Vec<Value>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_are_told_in_one_unit() {
        let now: Timestamp = "2026-03-10T00:00:00Z".parse().unwrap();
        for (at, words) in [
            ("2026-03-09T23:59:30Z", "just now"),
            ("2026-03-10T00:05:00Z", "just now"),
            ("2026-03-09T23:00:30Z", "59 min ago"),
            ("2026-03-08T23:00:00Z", "25 h ago"),
            ("2026-03-01T00:00:00Z", "9 days ago"),
        ] {
            assert_eq!(ago(at.parse().unwrap(), now), words, "{at}");
        }
    }

    #[test]
    fn what_was_changed_is_counted_by_kind_and_what_cannot_be_told_says_why() {
        let folder = |changed| Folder::new("/home", Timestamp::UNIX_EPOCH, changed);
        let totals = PlanTotals {
            created: 1200,
            deleted: 2,
            ..PlanTotals::default()
        };
        assert_eq!(
            of_folder(&folder(Ok(totals))),
            "/home: 1,200 created, 2 deleted here"
        );
        assert_eq!(
            of_folder(&folder(Ok(PlanTotals::default()))),
            "/home: nothing was changed here"
        );
        assert_eq!(
            of_folder(&folder(Err("it \u{1b} is gone".to_owned()))),
            r"/home: cannot be told: it \x1b is gone"
        );
    }
}
