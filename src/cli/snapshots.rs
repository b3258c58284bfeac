//! `snapshots list`: what syncs have left to go back to, here or on another machine.

use super::args::GlobalArgs;
use super::errand::Errand;
use super::load_config;
use super::table::{print, render, text};
use crate::escape::escape_str;
use crate::exit::ExitStatus;
use crate::modules;
use crate::snapshot::SnapshotFacts;
use crate::snapshot::name::SnapshotName;

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
            yes_no(facts.generation == facts.created_generation),
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
            changed_generation: 5,
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
