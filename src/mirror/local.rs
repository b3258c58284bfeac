//! The mirror on one machine: what differs between two of its trees, and making one like the other.
//!
//! A service of the agent beside the mirror's own. Both halves of a scan run here, side by side; what
//! is carried out shares content with the tree it is taken from instead of sending it. Comparing two
//! snapshots says what a sync changed; a snapshot against the live tree says what a rollback or the
//! restoring of a file will do.

pub mod client;
mod find;
mod grown;
mod pairing;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::apply::apply_here;
use super::frames::Batch;
use super::plan::FolderPlan;
use super::service::{fault, io_fault, list_plan, report};
use super::told;
use super::tree::Tree;
use super::wire::{FOR_CLI, MirrorReply};
use crate::agent::fault::{Fault, FaultKind};
use crate::agent::service::{Service, ServiceContext};
use crate::escape::escape_bytes;
use crate::event::LogLevel;
use crate::snapshot::boot;
use crate::snapshot::manage::Temporary;
use crate::snapshot::replace::{self, Replacement};

/// Name of the agent service.
pub const SERVICE: &str = "local";

/// Plans kept at once: a rollback has one for each subvolume.
const PLANS_MAX: usize = 64;

/// What the CLI asks of this service. Paths are bytes: they name what people have.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LocalRequest {
    /// Look whether there is something at paths below a tree.
    Find {
        /// The tree.
        tree: Vec<u8>,
        /// Paths below it.
        paths: Vec<Vec<u8>>,
    },
    /// Compare two trees and keep the plan that makes the second like the first.
    Plan(Box<LocalPlan>),
    /// Compare a folder as it is now with an older snapshot, through a snapshot of its own that is gone
    /// when the answer comes: `from` and `newer` are filled in.
    Since {
        /// The comparison; its plan makes the snapshot's folder what it is now.
        plan: Box<LocalPlan>,
        /// Where snapshots are.
        snapshot_dir: String,
        /// Flat name of the subvolume.
        subvolume: String,
        /// The folder below it.
        below: Vec<u8>,
    },
    /// Whether the running root can be exchanged for the next boot; with `make`, make the copy that will
    /// take its place.
    Copy {
        /// Flat name of the root subvolume.
        subvolume: String,
        /// Where snapshots are: not inside it.
        snapshot_dir: String,
        /// Whether to make it.
        make: bool,
    },
    /// What kernels there are beside the root, and whether their modules would go if the root went back.
    Boot {
        /// The snapshot that the root would go back to.
        back: Vec<u8>,
        /// Where other subvolumes are mounted that go back with it.
        going_back: Vec<String>,
    },
    /// Give the copy the root's name, and the machine's memory as it is now.
    TakePlace {
        /// A directory of the root.
        memory: String,
        /// Files in it.
        files: Vec<String>,
    },
    /// Forget the copy, if it has not taken its place.
    DropCopy,
    /// Send a plan to the CLI as [`Message::Change`](super::wire::Message::Change).
    List {
        /// The plan's name.
        id: String,
    },
    /// Carry a plan out.
    Apply {
        /// The plan's name.
        id: String,
    },
}

impl LocalRequest {
    /// What the machine does meanwhile, as a phrase that follows a colon.
    fn doing(&self) -> String {
        match self {
            Self::Find { tree, .. } => format!("looking into {}", escape_bytes(tree)),
            Self::Plan(plan) => format!("comparing {}", escape_bytes(&plan.to)),
            Self::Since { subvolume, .. } => format!("looking what changed in {subvolume}"),
            Self::Copy { make: false, .. } => "looking at its root".to_owned(),
            Self::Copy { .. } => "copying its root".to_owned(),
            Self::Boot { .. } => "looking at its kernels".to_owned(),
            Self::TakePlace { .. } => "exchanging its root".to_owned(),
            Self::DropCopy => "deleting the copy of its root".to_owned(),
            Self::List { .. } => "listing what changes".to_owned(),
            Self::Apply { .. } => "changing files".to_owned(),
        }
    }
}

/// Two trees of one machine, and what of them is compared.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct LocalPlan {
    /// The plan's name, chosen by the CLI.
    pub id: String,
    /// The tree as it should be: a directory in a read-only snapshot.
    pub from: Vec<u8>,
    /// The tree as it is.
    pub to: Vec<u8>,
    /// Which of the two is a snapshot that the other one grew out of.
    pub older: Option<Side>,
    /// Rules of the folders inside the tree.
    pub rules: Vec<FolderRules>,
    /// Paths below the tree that are left alone with everything in them.
    pub protected: Vec<Vec<u8>>,
    /// If any are named: nothing but these paths below the tree, and no deletions but of what gives way.
    pub only: Vec<Vec<u8>>,
    /// The same place in a read-only snapshot of the tree that is not the older one: then the kernel is
    /// asked what differs, and nothing else is looked at.
    pub newer: Option<Vec<u8>>,
    /// Whether filter files inside the tree count, as they do in a sync.
    pub own_rules: bool,
    /// Whether the tree that is changed is the copy of the root instead of what is at `to`.
    pub to_copy: bool,
}

/// One of the two trees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Side {
    /// The tree as it should be.
    From,
    /// The tree as it is.
    To,
}

/// The filter of a folder.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct FolderRules {
    /// Where the folder is below the tree; empty: the tree itself.
    pub below: Vec<u8>,
    /// The filter's text.
    pub rules: String,
    /// Where it comes from, for messages.
    pub origin: String,
}

/// The service: keeps plans between making them and carrying them out.
#[derive(Debug, Default)]
pub struct LocalService {
    plans: Mutex<BTreeMap<String, Kept>>,
    copy: Mutex<Option<Replacement>>,
}

#[derive(Debug, Clone)]
struct Kept {
    from: Vec<u8>,
    to: Vec<u8>,
    to_copy: bool,
    plan: FolderPlan,
}

impl Service for LocalService {
    fn name(&self) -> &'static str {
        SERVICE
    }

    fn call(&self, context: &ServiceContext, body: Value) -> Result<Value, Fault> {
        let request: LocalRequest = serde_json::from_value(body)
            .map_err(|e| fault(FaultKind::Invalid, format!("unknown local request: {e}")))?;
        let reply = match request {
            LocalRequest::Find { tree, paths } => {
                let found = find::find(&open_tree(&tree)?, &paths)?;
                return Ok(serde_json::to_value(found).expect("a reply is plain data"));
            }
            LocalRequest::Plan(wanted) => self.plan(context, &wanted)?,
            LocalRequest::Since {
                plan,
                snapshot_dir,
                subvolume,
                below,
            } => {
                let now = Temporary::make(Path::new(&snapshot_dir), &subvolume)?;
                let path = told::below(now.path().as_os_str().as_bytes(), &below);
                let path = path.strip_suffix(b"/").unwrap_or(&path).to_vec();
                let wanted = LocalPlan {
                    newer: Some(path.clone()),
                    from: path,
                    ..*plan
                };
                self.plan(context, &wanted)?
            }
            LocalRequest::Copy {
                subvolume,
                snapshot_dir,
                make,
            } => {
                let dir = Path::new(&snapshot_dir);
                if make {
                    let made = Replacement::make(&subvolume, dir, &context.session)?;
                    *self.copy() = Some(made);
                } else {
                    replace::check(&subvolume, dir)?;
                }
                MirrorReply::default()
            }
            LocalRequest::Boot { back, going_back } => {
                let going_back: Vec<PathBuf> = going_back.iter().map(PathBuf::from).collect();
                let back = Path::new(OsStr::from_bytes(&back));
                let staying = boot::staying(Path::new("/"), back, &going_back);
                return Ok(serde_json::to_value(staying).expect("a reply is plain data"));
            }
            LocalRequest::TakePlace { memory, files } => {
                let kept = self.take_place(Path::new(&memory), &files)?;
                return Ok(Value::String(kept));
            }
            LocalRequest::DropCopy => {
                *self.copy() = None;
                MirrorReply::default()
            }
            LocalRequest::List { id } => list_plan(context, &self.kept(&id)?.plan)?,
            LocalRequest::Apply { id } => self.apply(context, &id)?,
        };
        Ok(serde_json::to_value(reply).expect("a reply is plain data"))
    }
}

/// The module whose name log lines of this service carry.
const MODULE: &str = "core";

fn open_tree(path: &[u8]) -> Result<Tree, Fault> {
    let opened = Tree::open(Path::new(OsStr::from_bytes(path)));
    opened.map_err(|e| io_fault(e, format!("cannot open {}: {e}", escape_bytes(path))))
}

impl LocalService {
    fn copy(&self) -> MutexGuard<'_, Option<Replacement>> {
        self.copy.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The tree that is changed.
    fn target(&self, path: &[u8], is_copy: bool) -> Result<Tree, Fault> {
        if !is_copy {
            return open_tree(path);
        }
        let copy = self.copy();
        let copy = copy
            .as_ref()
            .ok_or_else(|| fault(FaultKind::Invalid, "there is no copy"))?;
        let opened = rustix::io::dup(copy.root()).and_then(Tree::from_fd);
        opened.map_err(|e| io_fault(e, format!("cannot open the copy of the root: {e}")))
    }

    /// Exchanges the root; the name that the running one has now.
    fn take_place(&self, memory: &Path, files: &[String]) -> Result<String, Fault> {
        let mut copy = self.copy();
        let copy = copy
            .as_mut()
            .ok_or_else(|| fault(FaultKind::Invalid, "there is no copy"))?;
        let kept = if copy.is_in_place() {
            String::new()
        } else {
            copy.take_place()?
        };
        let files: Vec<&str> = files.iter().map(String::as_str).collect();
        copy.carry_over(memory, &files)?;
        Ok(kept)
    }

    fn kept(&self, id: &str) -> Result<Kept, Fault> {
        let plans = self.plans.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = plans.get(id).cloned();
        kept.ok_or_else(|| fault(FaultKind::Invalid, "no such plan"))
    }

    fn plan(&self, context: &ServiceContext, wanted: &LocalPlan) -> Result<MirrorReply, Fault> {
        let (from, to) = (
            open_tree(&wanted.from)?,
            self.target(&wanted.to, wanted.to_copy)?,
        );
        let found = pairing::compare(context, wanted, &from, &to)?;
        let mut reply = MirrorReply {
            items: found.entries,
            plan: Some(found.plan.totals.clone()),
            full_scan: found.full_scan,
            looked: found.looked,
            ..MirrorReply::default()
        };
        if let Some(why) = &reply.full_scan {
            let line = format!("everything was compared: {why}");
            let events = &context.events;
            events.log(LogLevel::Full, MODULE, None, line, Map::new());
        }
        report(context, MODULE, found.notes, &mut reply);
        let kept = Kept {
            from: wanted.from.clone(),
            to: wanted.to.clone(),
            to_copy: wanted.to_copy,
            plan: found.plan,
        };
        let mut plans = self.plans.lock().unwrap_or_else(PoisonError::into_inner);
        if plans.len() >= PLANS_MAX && !plans.contains_key(&wanted.id) {
            return Err(fault(FaultKind::Invalid, "too many plans"));
        }
        plans.insert(wanted.id.clone(), kept);
        Ok(reply)
    }

    fn apply(&self, context: &ServiceContext, id: &str) -> Result<MirrorReply, Fault> {
        let kept = self.kept(id)?;
        let (from, to) = (open_tree(&kept.from)?, self.target(&kept.to, kept.to_copy)?);
        let cli = Batch::new(FOR_CLI, &context.outgoing, &context.abort);
        let applied = apply_here(&to, &kept.plan, &from, cli, &context.abort)?;
        let mut reply = MirrorReply {
            items: applied.items,
            bytes: applied.bytes,
            ..MirrorReply::default()
        };
        report(context, MODULE, applied.notes, &mut reply);
        Ok(reply)
    }
}
