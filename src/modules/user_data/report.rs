//! What a person is told of the comparison: how it was made, and what it would undo.

use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Map, Value};

use super::{Planned, add};
use crate::escape::escape_bytes;
use crate::event::{Host, LogLevel};
use crate::figures::{bytes, counted, number};
use crate::mirror::drift::{Drift, Told};
use crate::mirror::wire::MirrorReply;
use crate::module::{ModuleContext, PlanSummary};
use crate::record::standing::NoAnchor;

/// Conflicts shown at the question; all of them are in the log.
const SHOWN: usize = 20;

/// How a folder was compared, and what came of it.
pub(super) fn scanned(
    context: &ModuleContext<'_>,
    planned: &Planned,
    [source, target]: [&MirrorReply; 2],
    took: Duration,
) {
    let (path, start) = (&planned.path, &planned.start);
    let mut facts = Map::new();
    let mut fact = |key: &str, value: Value| facts.insert(key.to_owned(), value);
    fact("source_entries", source.items.into());
    fact("target_entries", target.items.into());
    fact("source_looked", source.looked.into());
    fact("target_looked", target.looked.into());
    fact("seconds", took.as_secs_f64().into());
    let mut own = PlanSummary::default();
    add(&mut own, planned);
    let found = match own.counts() {
        none if none.is_empty() => String::new(),
        some => format!(": {}", some.join(", ")),
    };
    if let Some(why) = &start.full_scan {
        fact("scan", "full".into());
        context.decide(
            "full_scan",
            Host::Target,
            format!("full scan of {path}: {why}"),
        );
        let message = format!("{path}: {} compared{found}", counted(source.items, "entry"));
        // The plan of the only folder is that of the module, which is told anyway.
        let level = match context.config.user_data.folders.len() {
            1 => LogLevel::Full,
            _ => LogLevel::Info,
        };
        context.log_with(level, Host::Target, message, facts);
        return;
    }
    fact("scan", "anchor".into());
    fact("anchor", start.session.clone().into());
    let (here, there) = start.suspects;
    let message = format!(
        "{path}: changes since session {} from the filesystem itself, {} on {}, {} on {}{found}",
        start.session,
        counted(here, "path"),
        context.source.hostname,
        number(there),
        context.target.hostname,
    );
    context.log_with(LogLevel::Info, Host::Target, message, facts);
}

/// What the plans of all folders would undo.
#[derive(Debug, Default)]
pub(super) struct Drifts {
    all: Vec<(String, Drift)>,
    unknown: Vec<String>,
    session: String,
}

impl Drifts {
    /// Adds a folder's; `None`: it could not be told.
    pub(super) fn add(&mut self, planned: &Planned, drift: Option<Drift>) {
        match drift {
            Some(drift) => {
                self.all.push((planned.path.clone(), drift));
                self.session.clone_from(&planned.start.session);
            }
            None => self.unknown.push(planned.path.clone()),
        }
    }

    /// Tells it, and puts the conflicts into the summary for the gate.
    pub(super) fn report(self, context: &ModuleContext<'_>, summary: &mut PlanSummary) {
        let target = &context.target.hostname;
        let is_first = matches!(context.session.anchor, Err(NoAnchor::FirstSync { .. }));
        // Before the first sync there was none since which anything could have changed.
        if !self.unknown.is_empty() && !is_first {
            let text = format!(
                "what was changed on {target} below {} since the last sync is not known: there is no \
                 anchor to tell",
                self.unknown.join(", ")
            );
            context.decide("drift_unknown", Host::Target, text);
        }
        let sum = |count: fn(&Drift) -> u64| self.all.iter().map(|(_, d)| count(d)).sum::<u64>();
        let (changed, noise) = (sum(|d| d.changed), sum(|d| d.noise));
        let conflicts = sum(|d| d.conflicts);
        let besides = match noise {
            0 => String::new(),
            noise => format!(" (and {} caches, logs and session files)", number(noise)),
        };
        if changed + noise > 0 {
            let text = format!(
                "{} changed on {target} since session {}{besides}: the sync undoes that",
                counted(changed, "path"),
                self.session
            );
            context.decide("drift", Host::Target, text);
        }
        if conflicts == 0 {
            return;
        }
        summary.conflicts = conflicts;
        let told = self.all.iter().flat_map(|(folder, drift)| {
            let conflicts = drift.told.iter().filter(|told| told.conflict);
            conflicts.map(move |told| {
                format!(
                    "{folder}/{}: {} {}, {} {}",
                    escape_bytes(&told.path.0),
                    context.source.hostname,
                    version(told.source.as_ref()),
                    context.target.hostname,
                    version(told.target.as_ref()),
                )
            })
        });
        let lines: Vec<String> = told.collect();
        for line in &lines {
            context.log(LogLevel::Info, Host::Target, format!("conflict: {line}"));
        }
        summary.conflict_lines = lines.iter().take(SHOWN).cloned().collect();
        let more = conflicts - summary.conflict_lines.len() as u64;
        if more > 0 {
            let line = format!("and {} more, which the log has", number(more));
            summary.conflict_lines.push(line);
        }
    }
}

/// What a machine has at a path, in a few words.
fn version(told: Option<&Told>) -> String {
    let Some(told) = told else {
        return "has deleted it".to_owned();
    };
    let at = Timestamp::new(
        told.mtime.secs,
        i32::try_from(told.mtime.nanos).unwrap_or(0),
    );
    let at = match at {
        Ok(at) => at.strftime("%F %T UTC").to_string(),
        Err(_) => format!("{} s after 1970", told.mtime.secs),
    };
    match told.size {
        Some(size) => format!("{} of {at}", bytes(size)),
        None => format!("{} of {at}", told.kind),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mirror::entry::Time;

    #[test]
    fn a_version_has_its_time_and_its_size() {
        let told = |kind: &str, size, secs| Told {
            kind: kind.to_owned(),
            size,
            mtime: Time { secs, nanos: 5 },
        };
        for (told, text) in [
            (None, "has deleted it"),
            (
                Some(told("file", Some(7), 0)),
                "7 B of 1970-01-01 00:00:00 UTC",
            ),
            (
                Some(told("directory", None, 86_400)),
                "directory of 1970-01-02 00:00:00 UTC",
            ),
            (
                Some(told("symlink", None, i64::MAX)),
                "symlink of 9223372036854775807 s after 1970",
            ),
        ] {
            assert_eq!(version(told.as_ref()), text);
        }
    }
}
