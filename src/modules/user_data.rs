//! `user_data`: people's files, as the mirror moves them.
//!
//! The source's side is read from its presync snapshot (a dry run, which makes none, reads the live
//! tree as its own filesystem shows it); the target's side is the live tree.

mod basis;
mod others;
mod report;
mod scan;
mod settle;

use std::fmt::Write as _;
use std::io::ErrorKind;
use std::path::Path;
use std::time::Instant;

use crate::agent::client::AgentClient;
use crate::config::{Config, Folder};
use crate::escape::escape_bytes;
use crate::event::{Host, LogLevel, ProgressUpdate};
use crate::figures;
use crate::interrupt::Interrupted;
use crate::mirror::entry::{Aspects, Time};
use crate::mirror::filter::{Filter, MAX_FILTER_BYTES, SHIPPED};
use crate::mirror::relay::{begin, hearing, run_alone, run_pair};
use crate::mirror::told;
use crate::mirror::wire::{Message, MirrorReply, MirrorRequest, PlanTotals};
use crate::module::{
    Change, ConfigError, Mirrored, Module, ModuleContext, ModuleError, ModuleKind, Plan,
    PlanSummary, ValidationError,
};
use crate::record::anchor::LeftPath;
use basis::Start;

/// The module's name, as in the configuration.
pub const NAME: &str = "user_data";

/// The module, with what planning found out.
#[derive(Debug, Default)]
pub struct UserData {
    planned: Vec<Planned>,
}

/// One folder between planning and carrying out.
#[derive(Debug, Clone)]
struct Planned {
    path: String,
    /// Where the source's side is read.
    source_root: String,
    rules: String,
    origin: String,
    /// What the filter means, in one word.
    digest: String,
    /// What its scan starts from.
    start: Start,
    totals: PlanTotals,
    /// Paths that stay different whatever the plan does, and whether there are more.
    left: Vec<LeftPath>,
    left_more: bool,
    /// Whether a directory's filter file is not mirrored itself.
    own_rules: bool,
    /// When the plan was begun and when it had been carried out, by the target's clock.
    applied: Option<(Time, Time)>,
}

impl Planned {
    /// Takes what the target's scan came to.
    fn take(&mut self, target: &MirrorReply, own_rules: bool) {
        self.totals = target.plan.clone().unwrap_or_default();
        if let (None, Some(anchored)) = (&self.start.full_scan, &self.start.anchored) {
            // What was not visited is still there.
            self.totals.existing = self.totals.existing.max(anchored.entries);
        }
        self.left.clone_from(&target.left);
        self.left_more = target.left_more;
        self.own_rules = own_rules;
    }
}

/// Adds a folder's plan to that of the module.
fn add(summary: &mut PlanSummary, planned: &Planned) {
    let totals = &planned.totals;
    summary.created += totals.created;
    summary.changed += totals.changed;
    summary.renamed += totals.renamed;
    summary.attributes += totals.attributes;
    summary.deleted += totals.deleted;
    summary.existing += totals.existing;
    (summary.bytes).insert(planned.path.clone(), totals.bytes);
}

/// Reads a folder's filter file: its text, and its name for messages; an error is a message and what to do about it.
pub fn read_rules(folder: &Folder) -> Result<(String, String), (String, Option<String>)> {
    let Some(path) = &folder.filter else {
        return Ok((String::new(), "no filter".to_owned()));
    };
    let shown = escape_bytes(path.as_os_str().as_encoded_bytes());
    let unreadable = |e: std::io::Error| {
        let hint = match e.kind() {
            ErrorKind::PermissionDenied => format!("it must be yours to read:\n    ls -l {shown}"),
            ErrorKind::NotFound => format!(
                "an empty one excludes nothing; `pc-switcher init` writes those of /home and \
                 /root:\n    touch {shown}"
            ),
            _ => "it must be a file of UTF-8 text".to_owned(),
        };
        (format!("cannot read {shown}: {e}"), Some(hint))
    };
    let length = std::fs::metadata(path).map_err(unreadable)?.len();
    if length > MAX_FILTER_BYTES as u64 {
        let message = format!("{shown} is larger than {MAX_FILTER_BYTES} bytes");
        return Err((message, None));
    }
    let rules = std::fs::read_to_string(path).map_err(unreadable)?;
    let origin = path
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    Ok((rules, origin))
}

impl UserData {
    /// Where the source's side of `folder` is read.
    fn source_root(context: &ModuleContext<'_>, folder: &str) -> Result<String, ModuleError> {
        if context.session.dry_run {
            return Ok(folder.to_owned());
        }
        let subvolumes = &context.session.source_subvolumes;
        let holds = |mount: &str| Path::new(folder).starts_with(mount);
        let subvolume = subvolumes
            .iter()
            .filter(|s| holds(&s.mount_point))
            .max_by_key(|s| s.mount_point.len())
            .ok_or_else(|| ModuleError::Failed {
                message: format!("{folder} is in none of the configured subvolumes"),
                hint: Some("add its subvolume to btrfs_snapshots.subvolumes".to_owned()),
            })?;
        let snapshot = context
            .session
            .source_presync
            .iter()
            .find(|s| s.subvolume == subvolume.name)
            .ok_or_else(|| {
                ModuleError::failed(format!(
                    "there is no presync snapshot of {}",
                    subvolume.name
                ))
            })?;
        let below = Path::new(folder)
            .strip_prefix(&subvolume.mount_point)
            .expect("filtered above");
        let root = Path::new(&snapshot.path).join(below);
        Ok(root
            .to_str()
            .expect("both came as UTF-8")
            .trim_end_matches('/')
            .to_owned())
    }

    /// Rules that matched nothing on either machine: probably a typo. Rules of the filters we ship
    /// are for many machines and are passed over. A filter that a good sync was made with before
    /// has been warned of then: from then on it is a detail, so that status 8 keeps its meaning.
    fn warn_unmatched(context: &ModuleContext<'_>, planned: &Planned, replies: [&MirrorReply; 2]) {
        let Ok(filter) = Filter::parse(planned.rules.as_bytes(), &planned.origin) else {
            return;
        };
        let shipped: Vec<String> = SHIPPED
            .iter()
            .filter_map(|(name, text)| Filter::parse(text.as_bytes(), name).ok())
            .flat_map(|f| {
                (0..f.rule_count())
                    .map(|i| f.rule_text(i))
                    .collect::<Vec<_>>()
            })
            .collect();
        let is_known = context.session.equal_at.as_ref().is_some_and(|equal| {
            basis::is_unchanged(&equal.filters, &planned.path, &planned.digest)
        });
        let level = if is_known {
            LogLevel::Full
        } else {
            LogLevel::Warning
        };
        for index in 0..filter.rule_count() {
            let matched = replies
                .iter()
                .any(|r| r.matched_rules.get(index) == Some(&true));
            let text = filter.rule_text(index);
            if !matched && !shipped.contains(&text) {
                let message = format!("{}: `{text}` matches nothing", filter.rule_origin(index));
                context.log(level, Host::Source, message);
            }
        }
    }
}

/// The plan of all folders; the target's agent has the changes.
struct UserDataPlan {
    summary: PlanSummary,
    target: AgentClient,
    folders: Vec<String>,
}

impl Plan for UserDataPlan {
    fn summary(&self) -> &PlanSummary {
        &self.summary
    }

    fn for_each(
        &self,
        visit: &mut dyn FnMut(&Change) -> Result<(), Interrupted>,
    ) -> Result<(), ModuleError> {
        for folder in &self.folders {
            let request = MirrorRequest::ListPlan {
                root: folder.clone(),
            };
            let mut visit = |change| Ok(visit(&told::within(folder.as_bytes(), change))?);
            run_alone(
                &self.target,
                &request,
                &mut hearing(&self.target, &mut visit),
            )?;
        }
        Ok(())
    }
}

impl Module for UserData {
    fn name(&self) -> &'static str {
        NAME
    }

    fn kind(&self) -> ModuleKind {
        ModuleKind::Sync
    }

    fn validate_config(&self, config: &Config) -> Vec<ConfigError> {
        let mut errors = Vec::new();
        for (index, folder) in config.user_data.folders.iter().enumerate() {
            let mut add = |message: String, hint: Option<String>| {
                errors.push(ConfigError {
                    module: Some(NAME.to_owned()),
                    path: format!("user_data.folders[{index}].filter"),
                    message,
                    hint,
                });
            };
            match read_rules(folder) {
                Err((message, hint)) => add(message, hint),
                Ok((rules, origin)) => {
                    if let Err(problems) = Filter::parse(rules.as_bytes(), &origin) {
                        for problem in problems {
                            add(problem.to_string(), None);
                        }
                    }
                }
            }
        }
        errors
    }

    fn validate(
        &mut self,
        context: &ModuleContext<'_>,
    ) -> Result<Vec<ValidationError>, ModuleError> {
        let mut calls = Vec::new();
        for folder in &context.config.user_data.folders {
            for machine in [context.source, context.target] {
                let request = MirrorRequest::Check {
                    root: folder.path.clone(),
                };
                calls.push((machine, begin(&machine.agent, &request, None)?));
            }
        }
        let mut errors = Vec::new();
        for (machine, call) in calls {
            match call.wait(None) {
                Ok(_) => {}
                Err(crate::agent::client::AgentError::Fault { fault, .. }) => {
                    errors.push(ValidationError {
                        module: NAME.to_owned(),
                        host: machine.host,
                        message: fault.message,
                        hint: fault.hint,
                    });
                }
                Err(other) => return Err(other.into()),
            }
        }
        Ok(errors)
    }

    fn plan(&mut self, context: &ModuleContext<'_>) -> Result<Box<dyn Plan>, ModuleError> {
        self.planned.clear();
        for folder in &context.config.user_data.folders {
            let (rules, origin) = read_rules(folder)
                .map_err(|(message, hint)| ModuleError::Failed { message, hint })?;
            let filter = Filter::parse(rules.as_bytes(), &origin)
                .map_err(|_| ModuleError::failed(format!("{origin} has changed meanwhile")))?;
            self.planned.push(Planned {
                digest: basis::digest(&filter),
                path: folder.path.clone(),
                source_root: Self::source_root(context, &folder.path)?,
                rules,
                origin,
                start: Start::nowhere(String::new()),
                totals: PlanTotals::default(),
                left: Vec::new(),
                left_more: false,
                own_rules: false,
                applied: None,
            });
        }
        let starts = basis::starts(context, &self.planned)?;
        for (planned, start) in self.planned.iter_mut().zip(starts) {
            planned.start = start;
        }
        let mut summary = PlanSummary::default();
        let mut drift = report::Drifts::default();
        for planned in &mut self.planned {
            let began = Instant::now();
            let scanned = scan::scan(context, planned)?;
            planned.start.full_scan = planned.start.full_scan.take().or(scanned.full_scan);
            let (source, target) = (scanned.source, scanned.target);
            planned.take(&target, source.own_rules || target.own_rules);
            report::scanned(context, planned, [&source, &target], began.elapsed());
            if planned.start.full_scan.is_some() {
                Self::warn_unmatched(context, planned, [&source, &target]);
            }
            add(&mut summary, planned);
            drift.add(planned, target.drift);
        }
        drift.report(context, &mut summary);
        let folders = self.planned.iter().map(|p| p.path.clone()).collect();
        Ok(Box::new(UserDataPlan {
            summary,
            target: context.target.agent.clone(),
            folders,
        }))
    }

    fn execute(&mut self, context: &ModuleContext<'_>) -> Result<String, ModuleError> {
        let total_items: u64 = self.planned.iter().map(|p| p.totals.changes()).sum();
        let total_bytes: u64 = self.planned.iter().map(|p| p.totals.bytes).sum();
        let (mut items, mut bytes, mut kept, mut errors) = (0, 0, 0, 0);
        let mut made = context.changes();
        let others = others::of_each(context, &self.planned);
        for (planned, others) in self.planned.iter_mut().zip(others) {
            let mut progress = |message: &Message<'_>| {
                if let Ok(Some(change)) = told::change(message) {
                    made.push(told::within(planned.path.as_bytes(), change));
                }
                if let Message::Progress {
                    items: i,
                    bytes: b,
                    path,
                } = message
                {
                    // What was made is in the log within a moment.
                    made.say();
                    context.emit_progress(ProgressUpdate {
                        current: Some(items + i),
                        total: Some(total_items),
                        current_bytes: Some(bytes + kept + b),
                        total_bytes: Some(total_bytes),
                        item: Some(format!("{}/{}", planned.path, escape_bytes(path))),
                        ..ProgressUpdate::default()
                    });
                }
            };
            let serve = MirrorRequest::Serve {
                root: planned.source_root.clone(),
                others: others.source,
            };
            let apply = MirrorRequest::Apply {
                root: planned.path.clone(),
                others: others.target,
            };
            let (_, applied) = run_pair(
                (&context.source.agent, &serve),
                (&context.target.agent, &apply),
                Some(&format!("carry out the plan for {}", planned.path)),
                context.abort,
                &mut progress,
            )?;
            items += applied.items;
            bytes += applied.bytes;
            kept += applied.kept;
            errors += applied.errors;
            planned.applied = applied.begun.zip(applied.ended);
        }
        context.emit_progress(ProgressUpdate {
            percent: Some(100),
            current: Some(items),
            total: Some(total_items.max(items)),
            current_bytes: Some(bytes + kept),
            total_bytes: Some(total_bytes.max(bytes + kept)),
            ..ProgressUpdate::default()
        });
        if context.session.verify {
            self.verify(context)?;
        }
        let mut done = PlanSummary::default();
        for planned in &self.planned {
            add(&mut done, planned);
        }
        let mut parts = done.counts();
        if bytes > 0 {
            parts.push(format!("{} written", figures::bytes(bytes)));
        }
        let mut summary = if parts.is_empty() {
            "nothing to change".to_owned()
        } else {
            parts.join(", ")
        };
        if kept > 0 {
            let _ = write!(summary, "; {} were there already", figures::bytes(kept));
        }
        if errors > 0 {
            let _ = write!(summary, "; {} not done", figures::number(errors));
        }
        Ok(summary)
    }

    fn mirrors(&self, config: &Config) -> Vec<String> {
        let folders = config.user_data.folders.iter();
        folders.map(|folder| folder.path.clone()).collect()
    }

    fn mirrored(&mut self, context: &ModuleContext<'_>) -> Result<Option<Mirrored>, ModuleError> {
        let filters = self
            .planned
            .iter()
            .map(|p| (p.path.clone(), p.digest.clone()));
        Ok(Some(Mirrored {
            filters: filters.collect(),
            anchor: settle::anchor(context, &self.planned)?,
        }))
    }
}

impl UserData {
    /// `--verify`: compares everything once more, content included.
    fn verify(&self, context: &ModuleContext<'_>) -> Result<(), ModuleError> {
        for planned in &self.planned {
            let trees = scan::trees(context, planned, true);
            let (source, target) = scan::once(context, &planned.path, &trees)?;
            let totals = target.plan.unwrap_or_default();
            let differences = totals.changes();
            if differences == 0 {
                let message = format!(
                    "{}: verified, {} entries are equal",
                    planned.path, source.items
                );
                context.log(LogLevel::Info, Host::Target, message);
                continue;
            }
            let request = MirrorRequest::ListPlan {
                root: planned.path.clone(),
            };
            run_alone(&context.target.agent, &request, &mut |message| {
                if let Message::Change { path, aspects, .. } = message {
                    let text = format!(
                        "{}/{} differs after the sync ({})",
                        planned.path,
                        escape_bytes(path),
                        Aspects(*aspects).describe(),
                    );
                    context.log(LogLevel::Error, Host::Target, text);
                }
                Ok(())
            })?;
        }
        Ok(())
    }
}
