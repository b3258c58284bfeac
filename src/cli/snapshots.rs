//! `snapshots list` and `prune`: what syncs have left to go back to, here or on another machine.

use std::time::Duration;

use super::args::{GlobalArgs, PruneArgs};
use super::errand::Errand;
use super::load_config;
use super::table::{number, print, render, text};
use crate::config::SnapshotConfig;
use crate::escape::escape_str;
use crate::event::Host;
use crate::exit::ExitStatus;
use crate::figures;
use crate::modules;
use crate::run::error::RunError;
use crate::run::prune::{delete, what_goes};
use crate::snapshot::SnapshotFacts;
use crate::snapshot::name::SnapshotName;
use crate::snapshot::retention::{Policy, days};
use crate::snapshot::space::Held;

/// How long it may take to find out what is freed.
const SPACE_LIMIT: Duration = Duration::from_secs(5);

/// Lists the snapshots of this machine, or of `host`.
#[must_use]
pub fn list(global: &GlobalArgs, host: Option<&str>) -> ExitStatus {
    let config = match load_config(global, &modules::registry()) {
        Ok(config) => config,
        Err(status) => return status,
    };
    let mut errand = Errand::start(global, config.log_cli_level);
    let listed = errand
        .on(host)
        .and_then(|met| met.snapshots(&config.btrfs_snapshots.snapshot_dir, false));
    errand.finish(listed.map(|snapshots| print(&table(snapshots))))
}

/// Deletes old snapshots of this machine, or of another one.
#[must_use]
pub fn prune(global: &GlobalArgs, args: &PruneArgs) -> ExitStatus {
    let config = match load_config(global, &modules::registry()) {
        Ok(config) => config,
        Err(status) => return status,
    };
    let mut errand = Errand::start(global, config.log_cli_level);
    let result = prune_with(&mut errand, args, &config.btrfs_snapshots);
    errand.finish(result)
}

fn prune_with(
    errand: &mut Errand,
    args: &PruneArgs,
    config: &SnapshotConfig,
) -> Result<ExitStatus, RunError> {
    let met = errand.on(args.host.as_deref())?;
    if !args.dry_run {
        met.lock(Host::Source)?;
    }
    let policy = Policy {
        keep_recent: args.keep.unwrap_or(config.keep_recent),
        max_age: args.older_than.or(config.max_age_days.map(days)),
    };
    let dir = &config.snapshot_dir;
    let doing = || RunError::agent("deleting old snapshots");
    let gone = what_goes(&met.agent, dir, policy, true).map_err(doing())?;
    // What that frees cannot be told afterwards. It is no reason not to delete.
    let held = (!gone.is_empty()).then(|| met.held(dir, SPACE_LIMIT).ok());
    let held = held.flatten();
    let status = print(&departing(&gone, held.as_ref()));
    if !args.dry_run && !gone.is_empty() {
        delete(&met.agent, dir, &gone).map_err(doing())?;
    }
    let (count, name) = (figures::counted(gone.len() as u64, "snapshot"), met.name());
    let frees = held.map_or_else(String::new, |held| {
        let goes = |name: &str| gone.iter().any(|facts| facts.name == name);
        format!(", which frees {}", amount(held.freed(goes), held.complete))
    });
    let done = match (gone.is_empty(), args.dry_run) {
        (true, _) => format!("Nothing to delete on {name}.\n"),
        (false, true) => format!("Would delete {count} on {name}{frees}.\n"),
        (false, false) => format!("Deleted {count} on {name}{frees}.\n"),
    };
    Ok(status.max(print(&done)))
}

/// So many bytes, or more if not all was found.
fn amount(bytes: u64, is_all: bool) -> String {
    let least = if is_all { "" } else { "at least " };
    format!("{least}{}", figures::bytes(bytes))
}

/// The space that only this snapshot holds, as far as it is known.
fn space(facts: &SnapshotFacts, held: Option<&Held>) -> String {
    match (facts.exclusive_bytes, held) {
        (Some(bytes), _) => figures::bytes(bytes),
        (None, Some(held)) => amount(held.freed(|name| name == facts.name), held.complete),
        (None, None) => "unknown".to_owned(),
    }
}

/// A line per snapshot that goes, the oldest session first.
fn departing(gone: &[SnapshotFacts], held: Option<&Held>) -> String {
    if gone.is_empty() {
        return String::new();
    }
    let rows = gone.iter().filter_map(|facts| {
        let name = SnapshotName::parse(&facts.name)?;
        Some([
            name.session,
            name.at.strftime("%Y-%m-%d %H:%M:%S").to_string(),
            escape_str(&facts.name),
            space(facts, held),
        ])
    });
    let columns = [
        text("SESSION"),
        text("TIME (UTC)"),
        text("SNAPSHOT"),
        number("ONLY IN IT"),
    ];
    render(&columns, rows.collect())
}

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
    let columns = [
        text("SESSION"),
        text("TIME (UTC)"),
        text("SUBVOLUME"),
        text("PHASE"),
        text("READ-ONLY"),
        text("UNTOUCHED"),
    ];
    let rows = ours.iter().map(|(name, facts)| {
        [
            name.session.clone(),
            name.at.strftime("%Y-%m-%d %H:%M:%S").to_string(),
            escape_str(&name.subvolume),
            name.kind.word().to_owned(),
            yes_no(facts.readonly),
            yes_no(facts.is_untouched()),
        ]
    });
    render(&columns, rows.collect())
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
            changed_generation: generation,
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
