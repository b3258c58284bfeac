//! The mirror as a service of the agent: requests in, work done, replies out.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use rustix::io::Errno;
use serde_json::{Map, Value};

use super::alike::Elsewhere;
use super::apply::{ApplyError, Other, apply};
use super::compare::TargetScan;
use super::diff::DiffError;
use super::filter::Filter;
use super::found;
use super::frames::Batch;
use super::look::Looker;
use super::path::is_valid_path;
use super::plan::FolderPlan;
use super::scan::{Notes, ScanError, SourceScan};
use super::serve::Server;
use super::staging::StagingError;
use super::suspects::{Mark, SUSPECTS_MAX, Suspect};
use super::tree::Tree;
use super::wire::{
    DiffRequest, FOR_CLI, FOR_PEER, Message, MirrorReply, MirrorRequest, OtherFolder, SERVICE,
    ScanTree,
};
use crate::agent::fault::{Fault, FaultKind};
use crate::agent::service::{Service, ServiceContext};
use crate::escape::escape_str;
use crate::event::LogLevel;
use crate::interrupt::Interrupted;
use crate::record::anchor::LeftPath;

/// The module on whose behalf this service works.
const USER_DATA: &str = "user_data";

/// Keeps the plans of this run's folders between planning and carrying out.
#[derive(Debug, Default)]
pub struct MirrorService {
    plans: Mutex<HashMap<String, FolderPlan>>,
    /// What a scan has offered: the filters of the trees that files may be asked of.
    offers: Mutex<HashMap<String, Filter>>,
    /// What this machine has found that may differ, by the root of the tree.
    found: Mutex<HashMap<String, Vec<Suspect>>>,
}

pub(super) fn fault(kind: FaultKind, message: impl Into<String>) -> Fault {
    Fault {
        kind,
        message: message.into(),
        hint: None,
    }
}

pub(super) fn io_fault(errno: Errno, message: String) -> Fault {
    if matches!(errno, Errno::NOSPC | Errno::DQUOT) {
        return Fault {
            kind: FaultKind::NoSpace,
            message,
            hint: Some("free some space there and sync again".to_owned()),
        };
    }
    fault(FaultKind::Io, message)
}

impl From<Interrupted> for Fault {
    fn from(error: Interrupted) -> Self {
        fault(FaultKind::Interrupted, error.to_string())
    }
}

impl From<ScanError> for Fault {
    fn from(error: ScanError) -> Self {
        let message = error.to_string();
        match error {
            ScanError::Interrupted(e) => e.into(),
            ScanError::Malformed(_) => fault(FaultKind::Invalid, message),
            ScanError::Root { source, .. } => io_fault(source, message),
            ScanError::Rules(_) => Fault {
                kind: FaultKind::Invalid,
                message,
                hint: Some("correct or remove that filter file on the source".to_owned()),
            },
            ScanError::Spool(_) => fault(FaultKind::Io, message),
        }
    }
}

impl From<ApplyError> for Fault {
    fn from(error: ApplyError) -> Self {
        let message = error.to_string();
        match error {
            ApplyError::Interrupted(e) => e.into(),
            ApplyError::Malformed(_) | ApplyError::Staging(StagingError::Foreign) => {
                fault(FaultKind::Invalid, message)
            }
            ApplyError::Plan(_) => fault(FaultKind::Io, message),
            ApplyError::Write { source, .. } | ApplyError::Staging(StagingError::Io(source)) => {
                io_fault(source, message)
            }
        }
    }
}

impl Service for MirrorService {
    fn name(&self) -> &'static str {
        SERVICE
    }

    fn call(&self, context: &ServiceContext, body: Value) -> Result<Value, Fault> {
        let request: MirrorRequest = serde_json::from_value(body)
            .map_err(|e| fault(FaultKind::Invalid, format!("unknown mirror request: {e}")))?;
        let reply = match request {
            MirrorRequest::Check { root } => {
                open_tree(&root, false)?;
                MirrorReply::default()
            }
            MirrorRequest::Diff(diff) => self.diff(context, &diff)?,
            MirrorRequest::ScanSource(scan) => self.scan_source(context, &scan)?,
            MirrorRequest::ScanTarget(scan) => self.scan_target(context, &scan)?,
            MirrorRequest::ListPlan { root } => self.list(context, &root)?,
            MirrorRequest::Serve { root, others } => self.serve(context, &root, &others)?,
            MirrorRequest::Apply { root, others } => self.apply(context, &root, &others)?,
        };
        Ok(serde_json::to_value(reply).expect("a reply is plain data"))
    }
}

fn open_tree(root: &str, without_mounts: bool) -> Result<Tree, Fault> {
    let path = Path::new(root);
    let opened = if without_mounts {
        Tree::open_without_mounts(path)
    } else {
        Tree::open(path)
    };
    opened.map_err(|errno| {
        let mut fault = io_fault(errno, format!("cannot open {}: {errno}", escape_str(root)));
        if matches!(errno, Errno::LOOP | Errno::NOTDIR) {
            fault.hint = Some("a folder must be a real directory, not a symbolic link".to_owned());
        }
        fault
    })
}

fn parse_filter(scan: &ScanTree) -> Result<Filter, Fault> {
    Filter::parse(scan.rules.as_bytes(), &scan.origin).map_err(|errors| {
        let text: Vec<String> = errors.iter().map(ToString::to_string).collect();
        fault(FaultKind::Invalid, text.join("; "))
    })
}

/// Logs the notes as those of `module` and puts their counts into the reply.
pub(super) fn report(
    context: &ServiceContext,
    module: &str,
    notes: Notes,
    reply: &mut MirrorReply,
) {
    for (level, line) in notes.lines {
        context.events.log(level, module, None, line, Map::new());
    }
    reply.notes = notes.counts;
    reply.errors = notes.errors;
    reply.warned = notes.warnings;
}

fn unreadable(error: &std::io::Error) -> Fault {
    fault(FaultKind::Io, format!("cannot read the plan: {error}"))
}

/// Sends the operations of a plan to the CLI.
pub(super) fn list_plan(context: &ServiceContext, plan: &FolderPlan) -> Result<MirrorReply, Fault> {
    let mut cli = Batch::new(FOR_CLI, &context.outgoing, &context.abort);
    let mut items = 0;
    for mut ops in [
        plan.changes().map_err(|e| unreadable(&e))?,
        plan.deletions().map_err(|e| unreadable(&e))?,
    ] {
        while let Some(op) = ops.next_op().map_err(|e| unreadable(&e))? {
            items += 1;
            cli.push(&Message::Change {
                action: op.action() as u8,
                aspects: op.aspects.0,
                bytes: op.bytes_shown(),
                path: &op.path,
                from: op.moved_from(),
            })?;
        }
    }
    cli.flush()?;
    Ok(MirrorReply {
        items,
        ..MirrorReply::default()
    })
}

impl MirrorService {
    fn scan_source(&self, context: &ServiceContext, scan: &ScanTree) -> Result<MirrorReply, Fault> {
        let filter = parse_filter(scan)?;
        let tree = open_tree(&scan.root, scan.without_mounts)?;
        let looker = Looker::new(&tree, Path::new(&scan.root));
        let batch = Batch::new(FOR_PEER, &context.outgoing, &context.abort).packing();
        let mut source = SourceScan::new(
            &tree,
            looker,
            &context.incoming,
            batch,
            &context.abort,
            scan,
            filter.clone(),
        );
        if let Some(suspects) = self.suspects(scan)? {
            source = source.restricted(suspects);
        }
        if let Some(anchor) = &scan.anchor {
            source = source.since(open_tree(anchor, false)?);
        }
        source.run(&scan.root)?;
        let mut reply = MirrorReply {
            items: source.entries,
            looked: source.looked(),
            own_rules: source.rules_excluded,
            matched_rules: filter.matched(),
            ..MirrorReply::default()
        };
        self.note_unseen(scan, source.unseen(), &mut reply)?;
        report(context, USER_DATA, source.notes, &mut reply);
        let mut offers = self.offers.lock().unwrap_or_else(PoisonError::into_inner);
        offers.insert(scan.root.clone(), filter);
        Ok(reply)
    }

    /// Compares snapshots and keeps what may differ, or says why a full scan is needed.
    fn diff(&self, context: &ServiceContext, request: &DiffRequest) -> Result<MirrorReply, Fault> {
        let mut reply = MirrorReply::default();
        let found = found::find(request, &context.abort)?;
        reply.intact = found.intact;
        match found.suspects {
            Ok(suspects) => {
                for (folder, mut suspects) in request.folders.iter().zip(suspects) {
                    if let Some(root) = &folder.plan
                        && !self.add_planned(root, &mut suspects)?
                    {
                        reply.full_scan = Some("more was changed than is kept in mind".to_owned());
                        return Ok(reply);
                    }
                    reply.items += suspects.len() as u64;
                    self.suspect(&folder.root, suspects);
                }
            }
            Err(reason) => reply.full_scan = Some(reason),
        }
        Ok(reply)
    }

    /// Adds the paths of a plan; whether there was room for all.
    fn add_planned(&self, root: &str, suspects: &mut Vec<Suspect>) -> Result<bool, Fault> {
        let plan = self.plan(root)?;
        let moves = plan.moves().map_err(|e| unreadable(&e))?;
        if !moves.is_empty() {
            for suspect in &mut *suspects {
                // Moved by us: what is in it is what was in it, but for what is named besides.
                suspect.come_along(&moves);
            }
        }
        for mut ops in [
            plan.changes().map_err(|e| unreadable(&e))?,
            plan.deletions().map_err(|e| unreadable(&e))?,
        ] {
            while let Some(op) = ops.next_op().map_err(|e| unreadable(&e))? {
                if suspects.len() >= SUSPECTS_MAX {
                    return Ok(false);
                }
                suspects.push(Suspect::new(op.path, Mark::default()));
            }
        }
        Ok(true)
    }

    /// Notes what this machine has found that may differ in the tree at `root`.
    pub(super) fn suspect(&self, root: &str, suspects: Vec<Suspect>) {
        let mut found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        found.insert(root.to_owned(), suspects);
    }

    /// Keeps the names that a restricted scan has turned out to need.
    fn note_unseen(
        &self,
        scan: &ScanTree,
        unseen: Result<Vec<Vec<u8>>, DiffError>,
        reply: &mut MirrorReply,
    ) -> Result<(), Fault> {
        match unseen {
            Ok(paths) => {
                reply.more_suspects = paths.len() as u64;
                let mut found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
                let known = found.entry(scan.root.clone()).or_default();
                known.extend(paths.into_iter().map(|p| Suspect::new(p, Mark::NAME)));
            }
            Err(DiffError::Interrupted(interrupted)) => return Err(interrupted.into()),
            Err(error) => reply.full_scan = Some(error.to_string()),
        }
        Ok(())
    }

    /// What a restricted scan shall visit as far as this machine knows; `None` for a full one.
    fn suspects(&self, scan: &ScanTree) -> Result<Option<Vec<Suspect>>, Fault> {
        let Some(restricted) = &scan.restricted else {
            return Ok(None);
        };
        let left = restricted.left.iter();
        let mut suspects: Vec<Suspect> = left
            .map(|path| Suspect::new(path.0.clone(), Mark::ANYTHING))
            .collect();
        let mut found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        if restricted.found {
            let found = found.get(&scan.root).ok_or_else(|| {
                let text = format!("nothing was found out about {}", escape_str(&scan.root));
                fault(FaultKind::Invalid, text)
            })?;
            suspects.extend_from_slice(found);
        } else {
            found.remove(&scan.root);
            if restricted.planned {
                let planned = self.planned(&scan.root)?;
                suspects.extend_from_slice(&planned);
                found.insert(scan.root.clone(), planned);
            }
        }
        drop(found);
        if suspects.iter().any(|s| !is_valid_path(&s.path)) {
            return Err(fault(FaultKind::Invalid, "an impossible path"));
        }
        Ok(Some(suspects))
    }

    /// The paths of a plan.
    fn planned(&self, root: &str) -> Result<Vec<Suspect>, Fault> {
        let plan = self.plan(root)?;
        let mut suspects = Vec::new();
        for mut ops in [
            plan.changes().map_err(|e| unreadable(&e))?,
            plan.deletions().map_err(|e| unreadable(&e))?,
        ] {
            while let Some(op) = ops.next_op().map_err(|e| unreadable(&e))? {
                if suspects.len() >= SUSPECTS_MAX {
                    return Err(fault(FaultKind::Invalid, "too much is planned"));
                }
                suspects.push(Suspect::new(op.path, Mark::default()));
            }
        }
        Ok(suspects)
    }

    /// The filter of what a scan has offered.
    fn offered(&self, root: &str) -> Result<Filter, Fault> {
        let offers = self.offers.lock().unwrap_or_else(PoisonError::into_inner);
        offers.get(root).cloned().ok_or_else(|| {
            let text = format!("nothing of {} was offered", escape_str(root));
            fault(FaultKind::Invalid, text)
        })
    }

    fn serve(
        &self,
        context: &ServiceContext,
        root: &str,
        others: &[OtherFolder],
    ) -> Result<MirrorReply, Fault> {
        let filter = self.offered(root)?;
        let tree = open_tree(root, false)?;
        let mut elsewhere = Vec::new();
        for (other, folder) in others.iter().zip(1..) {
            let filter = self.offered(&other.root)?;
            for root in std::iter::once(&other.root).chain(&other.before) {
                // Without it more is sent, and that is all.
                if let Ok(tree) = open_tree(root, false) {
                    elsewhere.push(Elsewhere {
                        folder,
                        tree,
                        filter: filter.clone(),
                    });
                }
            }
        }
        let batch = Batch::new(FOR_PEER, &context.outgoing, &context.abort);
        let mut server = Server::new(
            &tree,
            &filter,
            &elsewhere,
            &context.incoming,
            batch,
            &context.abort,
        );
        server.run()?;
        Ok(MirrorReply {
            items: server.files,
            bytes: server.bytes,
            ..MirrorReply::default()
        })
    }

    /// Changes what is planned for a folder.
    #[cfg(test)]
    pub(super) fn change_plan(&self, root: &str, change: impl Fn(&mut super::plan::Op)) {
        let plan = self.plan(root).unwrap();
        let mut planner = super::plan::Planner::new().unwrap();
        for mut ops in [plan.changes().unwrap(), plan.deletions().unwrap()] {
            while let Some(mut op) = ops.next_op().unwrap() {
                change(&mut op);
                planner.add(&op).unwrap();
            }
        }
        let mut changed = planner.finish().unwrap();
        changed.filter = plan.filter;
        let mut plans = self.plans.lock().unwrap();
        plans.insert(root.to_owned(), changed);
    }

    /// Has the plan for a folder be this one, under these rules.
    #[cfg(test)]
    pub(super) fn put_plan(&self, root: &str, mut plan: FolderPlan, filter: Filter) {
        plan.filter = Some(filter);
        self.plans.lock().unwrap().insert(root.to_owned(), plan);
    }

    pub(super) fn plan(&self, root: &str) -> Result<FolderPlan, Fault> {
        let plans = self.plans.lock().unwrap_or_else(PoisonError::into_inner);
        plans.get(root).cloned().ok_or_else(|| {
            fault(
                FaultKind::Invalid,
                format!("no plan for {}", escape_str(root)),
            )
        })
    }

    fn scan_target(&self, context: &ServiceContext, scan: &ScanTree) -> Result<MirrorReply, Fault> {
        let filter = parse_filter(scan)?;
        let tree = open_tree(&scan.root, scan.without_mounts)?;
        let peer = Batch::new(FOR_PEER, &context.outgoing, &context.abort).packing();
        let cli = Batch::new(FOR_CLI, &context.outgoing, &context.abort);
        let looker = Looker::new(&tree, Path::new(&scan.root));
        // What is compared once more was planned when it was compared first.
        let begun = match &scan.restricted {
            Some(restricted) if restricted.planned => Some(self.plan(&scan.root)?.begun),
            _ => None,
        };
        let mut target = TargetScan::new(
            &tree,
            looker,
            &context.incoming,
            peer,
            cli,
            &context.abort,
            scan,
        )?;
        if let Some(suspects) = self.suspects(scan)? {
            let compared = scan.restricted.as_ref().and_then(|r| r.compared.as_deref());
            let compared = compared.map(|path| open_tree(path, false)).transpose()?;
            target = target.restricted(suspects, compared);
        }
        if let Some(anchor) = &scan.anchor {
            target = target.since(open_tree(anchor, false)?);
        }
        let compared = target.run(&filter)?;
        let (mut plan, mut notes, left, more) =
            (compared.plan, compared.notes, compared.left, compared.more);
        let mut reply = MirrorReply {
            items: compared.entries,
            looked: compared.looked,
            plan: Some(plan.totals.clone()),
            left: left.paths.into_iter().map(LeftPath).collect(),
            left_more: left.more,
            own_rules: left.own_rules,
            drift: compared.drift,
            matched_rules: filter.matched(),
            ..MirrorReply::default()
        };
        if begun.is_some() {
            // It was told when all was compared.
            notes.lines.clear();
        }
        plan.filter = Some(filter);
        plan.begun = begun.unwrap_or(plan.begun);
        self.note_unseen(scan, more, &mut reply)?;
        report(context, USER_DATA, notes, &mut reply);
        let mut plans = self.plans.lock().unwrap_or_else(PoisonError::into_inner);
        plans.insert(scan.root.clone(), plan);
        Ok(reply)
    }

    fn list(&self, context: &ServiceContext, root: &str) -> Result<MirrorReply, Fault> {
        list_plan(context, &self.plan(root)?)
    }

    /// The other folders, as far as a plan can have a use for them.
    fn others(&self, plan: &FolderPlan, folders: &[OtherFolder]) -> Result<Vec<Other>, Fault> {
        if plan.sizes.is_empty() {
            return Ok(Vec::new());
        }
        let open = |root: &str| open_tree(root, false).ok();
        let mut others = Vec::new();
        for folder in folders {
            others.push(Other {
                plan: self.plan(&folder.root)?,
                is_done: folder.is_done,
                live: open(&folder.root),
                before: folder.before.as_deref().and_then(open),
            });
        }
        Ok(others)
    }

    fn apply(
        &self,
        context: &ServiceContext,
        root: &str,
        folders: &[OtherFolder],
    ) -> Result<MirrorReply, Fault> {
        let plan = self.plan(root)?;
        let others = self.others(&plan, folders)?;
        let tree = open_tree(root, false)?;
        let peer = Batch::new(FOR_PEER, &context.outgoing, &context.abort).packing();
        let cli = Batch::new(FOR_CLI, &context.outgoing, &context.abort);
        let applied = apply(
            &tree,
            &plan,
            &others,
            &context.incoming,
            peer,
            cli,
            &context.abort,
        )?;
        let mut reply = MirrorReply {
            items: applied.items,
            bytes: applied.bytes,
            kept: applied.kept,
            moves: applied.moves,
            begun: Some(plan.begun),
            ended: Some(super::plan::now()),
            ..MirrorReply::default()
        };
        let placed = format!("{} changes, {} moves", applied.items, applied.moves);
        let events = &context.events;
        events.log(LogLevel::Full, USER_DATA, None, placed, Map::new());
        report(context, USER_DATA, applied.notes, &mut reply);
        Ok(reply)
    }
}
