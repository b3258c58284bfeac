//! `snapshots list`: what syncs have left to go back to, here or on another machine.

use std::fmt::Write as _;
use std::io::Write as _;

use super::args::GlobalArgs;
use super::session::Console;
use super::{load_config, report};
use crate::agent::client::AgentClient;
use crate::agent::protocol::{Reply, Request};
use crate::escape::escape_str;
use crate::event::EventSink;
use crate::exit::ExitStatus;
use crate::modules;
use crate::run::error::RunError;
use crate::run::explain::explain;
use crate::run::machines::Machines as _;
use crate::run::reach::Reach;
use crate::run::{say_goodbye, session};
use crate::snapshot::SnapshotFacts;
use crate::snapshot::name::SnapshotName;

/// Lists the snapshots of this machine, or of `host`.
#[must_use]
pub fn list(global: &GlobalArgs, host: Option<&str>) -> ExitStatus {
    let config = match load_config(global, &modules::registry()) {
        Ok(config) => config,
        Err(status) => return status,
    };
    let console = Console::start(global, config.log_cli_level, EventSink::none());
    let access = console.access(&session::new_id());
    let reach = Reach::new(host.unwrap_or_default());
    let agent = match host {
        None => reach.local(&access),
        Some(_) => reach.target(&access),
    };
    let listed = agent.map_err(RunError::from).and_then(|agent| {
        let listed = ask(
            &agent,
            &access.session,
            &config.btrfs_snapshots.snapshot_dir,
        );
        say_goodbye(&[agent]);
        listed
    });
    console.finish();
    match listed {
        Ok(snapshots) => print(&table(snapshots)),
        Err(error) => {
            let explained = explain(&error);
            report(&explained);
            explained.status
        }
    }
}

fn ask(
    agent: &AgentClient,
    session: &str,
    snapshot_dir: &str,
) -> Result<Vec<SnapshotFacts>, RunError> {
    let hello = Request::Hello {
        session: session.to_owned(),
        uid: None,
    };
    let doing = || RunError::agent("listing the snapshots");
    let list = Request::ListSnapshots {
        snapshot_dir: snapshot_dir.to_owned(),
        with_space: false,
    };
    agent.call(hello).map_err(doing())?;
    match agent.call(list).map_err(doing())? {
        Reply::Snapshots(snapshots) => Ok(snapshots),
        _ => Err(doing()(agent.nonsense("no snapshots"))),
    }
}

/// A reader that has gone (`| head`) is no error.
fn print(text: &str) -> ExitStatus {
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            report(&explain(&RunError::Output(error)));
            ExitStatus::Failed
        }
        _ => ExitStatus::Done,
    }
}

const HEADINGS: [&str; 6] = [
    "SESSION",
    "TIME (UTC)",
    "SUBVOLUME",
    "PHASE",
    "READ-ONLY",
    "UNTOUCHED",
];

/// A line per snapshot of ours, the newest first.
fn table(snapshots: Vec<SnapshotFacts>) -> String {
    let mut ours: Vec<(SnapshotName, SnapshotFacts)> = (snapshots.into_iter())
        .filter_map(|facts| Some((SnapshotName::parse(&facts.name)?, facts)))
        .collect();
    if ours.is_empty() {
        return "No snapshots of a sync.\n".to_owned();
    }
    ours.sort_by(|(a, _), (b, _)| {
        let newest_first = (b.at, &b.session).cmp(&(a.at, &a.session));
        newest_first.then_with(|| (a.kind, &a.subvolume).cmp(&(b.kind, &b.subvolume)))
    });
    let yes_no = |yes: bool| if yes { "yes" } else { "NO" }.to_owned();
    let mut rows = vec![HEADINGS.map(str::to_owned)];
    rows.extend(ours.iter().map(|(name, facts)| {
        [
            name.session.clone(),
            name.at.strftime("%Y-%m-%d %H:%M:%S").to_string(),
            escape_str(&name.subvolume),
            name.kind.word().to_owned(),
            yes_no(facts.readonly),
            yes_no(facts.generation == facts.created_generation),
        ]
    }));
    let widths: [usize; 6] = std::array::from_fn(|column| {
        let cells = rows.iter().map(|row| row[column].chars().count());
        cells.max().unwrap_or(0)
    });
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(widths) {
            let _ = write!(line, "{cell:width$}  ");
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(name: &str, generation: u64) -> SnapshotFacts {
        SnapshotFacts {
            subvolume: String::new(),
            name: name.into(),
            path: String::new(),
            uuid: String::new(),
            parent_uuid: None,
            generation,
            created_generation: 5,
            readonly: true,
            exclusive_bytes: None,
        }
    }

    #[test]
    fn snapshots_are_listed_newest_first_with_what_was_touched() {
        let text = table(vec![
            facts("@-presync-20260101T080000Z-0000000a", 5),
            facts("@home-presync-20260102T080000Z-0000000b", 6),
            facts("somebody-elses", 5),
        ]);
        assert_eq!(
            text,
            "SESSION   TIME (UTC)           SUBVOLUME  PHASE    READ-ONLY  UNTOUCHED\n\
             0000000b  2026-01-02 08:00:00  @home      presync  yes        NO\n\
             0000000a  2026-01-01 08:00:00  @          presync  yes        yes\n"
        );
        assert_eq!(table(Vec::new()), "No snapshots of a sync.\n");
    }
}
