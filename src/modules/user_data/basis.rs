//! What the scan of each folder starts from: the anchor of the last sync, or nothing, and why.
//!
//! With an anchor both machines are asked at once what has changed since, and the scan visits
//! nothing else. Every reason against it is told; the sync is the same without.

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::Planned;
use crate::agent::client::{AgentError, PendingCall};
use crate::event::Host;
use crate::mirror::RULES;
use crate::mirror::filter::{Filter, SHIPPED};
use crate::mirror::relay::{begin, finish};
use crate::mirror::wire::{DiffFolder, DiffRequest, MirrorReply, MirrorRequest};
use crate::module::{ModuleContext, ModuleError};
use crate::modules::space;
use crate::record::anchor::AnchoredFolder;
use crate::record::standing::Standing;
use crate::snapshot::{SnapshotFacts, Subvolume};

/// What one folder's scan starts from.
#[derive(Debug, Clone)]
pub struct Start {
    /// Why everything has to be compared; `None`: only what both machines named.
    pub full_scan: Option<String>,
    /// The folder in both halves of the anchor, if they still are what they were: what was changed
    /// since can be told.
    pub halves: Option<(String, String)>,
    /// What the anchor says of the folder.
    pub anchored: Option<AnchoredFolder>,
    /// The session that left the anchor.
    pub session: String,
    /// The folder in the snapshot of the target that was compared with its half.
    pub compared: Option<String>,
    /// Paths that each machine has named.
    pub suspects: (u64, u64),
}

impl Start {
    /// Without an anchor, because of `why`.
    #[must_use]
    pub fn nowhere(why: String) -> Self {
        Self {
            full_scan: Some(why),
            halves: None,
            anchored: None,
            session: String::new(),
            compared: None,
            suspects: (0, 0),
        }
    }

    fn needs_full_scan(&mut self, why: impl Into<String>) {
        self.full_scan.get_or_insert_with(|| why.into());
    }
}

/// What a filter means, in one word: two that are equal mirror the same paths the same way.
///
/// Besides the rules it says which version of the mirror read them: what an older one took for
/// equal need not be.
#[must_use]
pub fn digest(filter: &Filter) -> String {
    let mut shipped = blake3::Hasher::new();
    for (name, text) in SHIPPED {
        shipped.update(name.as_bytes());
        shipped.update(text.as_bytes());
    }
    let shipped = shipped.finalize().to_hex();
    format!("{RULES}.{}:{}", &shipped[..8], filter.digest())
}

/// Whether `folder` was mirrored with the filter `now` when `then` was noted.
#[must_use]
pub fn is_unchanged(then: &BTreeMap<String, String>, folder: &str, now: &str) -> bool {
    then.get(folder).is_some_and(|digest| digest == now)
}

/// The subvolume that holds a folder, and the folder's path in it.
pub(super) fn place<'a>(
    subvolumes: &'a [Subvolume],
    folder: &'a str,
) -> Option<(&'a str, &'a str)> {
    let holder = space::holder(subvolumes, folder)?;
    let below = folder.strip_prefix(holder.mount_point.trim_end_matches('/'))?;
    Some((&holder.name, below.trim_matches('/')))
}

/// `below` in the tree at `root`.
pub(super) fn under(root: &str, below: &str) -> String {
    if below.is_empty() {
        root.to_owned()
    } else {
        format!("{root}/{below}")
    }
}

/// Reasons that need no look at a machine.
fn reason(
    context: &ModuleContext<'_>,
    standing: &Standing,
    anchored: Option<&AnchoredFolder>,
    folder: &Planned,
) -> Option<String> {
    let path = &folder.path;
    let Some(anchored) = anchored else {
        return Some(format!("{path} was not mirrored by the last sync"));
    };
    let rules = |digest: &str| digest.split(':').next().unwrap_or_default().to_owned();
    match standing.filters.get(path) {
        Some(then) if *then == folder.digest => {}
        Some(then) if rules(then) != rules(&folder.digest) => {
            return Some("another pc-switcher has mirrored it".to_owned());
        }
        _ => return Some(format!("the filter of {path} changed")),
    }
    if context.session.full_scan {
        return Some("--full-scan".to_owned());
    }
    if let Some(every) = context.config.user_data.full_scan_every {
        let age = Timestamp::now().duration_since(anchored.full_scan_at);
        if age >= every || age.is_negative() {
            let at = anchored.full_scan_at.strftime("%F");
            return Some(format!("the last one was on {at} (full_scan_every)"));
        }
    }
    if anchored.own_rules && !standing.same_direction {
        return Some(format!(
            "filter files in {path} are not mirrored themselves"
        ));
    }
    if context.session.dry_run {
        return Some("a dry run makes no snapshots to compare".to_owned());
    }
    None
}

/// One question to a machine: about all folders in one of its subvolumes.
struct Question {
    host: Host,
    folders: Vec<usize>,
    request: DiffRequest,
}

/// What a machine says, or why it cannot.
type Answer = Result<MirrorReply, String>;

/// Finds out what each folder's scan can start from, and has both machines find what may differ.
pub(super) fn starts(
    context: &ModuleContext<'_>,
    folders: &[Planned],
) -> Result<Vec<Start>, ModuleError> {
    let standing = match &context.session.anchor {
        Ok(standing) => standing,
        Err(why) => {
            let start = || Start::nowhere(why.to_string());
            return Ok(folders.iter().map(|_| start()).collect());
        }
    };
    let mut starts: Vec<Start> = Vec::new();
    for folder in folders {
        let anchored = standing.anchor.folders.get(&folder.path);
        starts.push(Start {
            full_scan: reason(context, standing, anchored, folder),
            halves: None,
            anchored: anchored.cloned(),
            session: standing.session.clone(),
            compared: None,
            suspects: (0, 0),
        });
    }
    let mut questions = Vec::new();
    for host in [Host::Source, Host::Target] {
        ask_about(
            context,
            standing,
            host,
            folders,
            &mut starts,
            &mut questions,
        );
    }
    for (question, reply) in answers(context, &questions)? {
        let reply = reply.unwrap_or_else(|why| MirrorReply {
            full_scan: Some(why),
            ..MirrorReply::default()
        });
        let hostname = &context.machine(question.host).hostname;
        for &index in &question.folders {
            let start = &mut starts[index];
            if !reply.intact {
                start.halves = None;
            }
            if let Some(why) = &reply.full_scan {
                start.needs_full_scan(format!("on {hostname}, {why}"));
            }
            match question.host {
                Host::Source => start.suspects.0 = reply.items,
                Host::Target => start.suspects.1 = reply.items,
            }
        }
    }
    Ok(starts)
}

/// Prepares the questions for one machine.
fn ask_about(
    context: &ModuleContext<'_>,
    standing: &Standing,
    host: Host,
    folders: &[Planned],
    starts: &mut [Start],
    questions: &mut Vec<Question>,
) {
    let session = context.session;
    let (subvolumes, presync) = match host {
        Host::Source => (&session.source_subvolumes, &session.source_presync),
        Host::Target => (&session.target_subvolumes, &session.target_presync),
    };
    let hostname = &context.machine(host).hostname;
    let named =
        |all: &[SnapshotFacts], name: &str| all.iter().find(|s| s.subvolume == name).cloned();
    for (index, folder) in folders.iter().enumerate() {
        let start = &mut starts[index];
        if start.anchored.is_none() {
            continue;
        }
        let place = place(subvolumes, &folder.path);
        let half = place.and_then(|(name, _)| named(standing.anchor.half(host), name));
        let (Some((name, below)), Some(half)) = (place, half) else {
            start.needs_full_scan(format!("on {hostname}, {} was elsewhere then", folder.path));
            start.anchored = None;
            start.halves = None;
            continue;
        };
        let then = under(&half.path, below);
        match host {
            Host::Source => start.halves = Some((then, String::new())),
            Host::Target => {
                if let Some((_, target)) = &mut start.halves {
                    *target = then;
                }
            }
        }
        let newer = named(presync, name).filter(|_| start.full_scan.is_none());
        if newer.is_none() {
            start.needs_full_scan(format!("{hostname} has no snapshot of now"));
        }
        let about = DiffFolder {
            below: below.to_owned(),
            root: match host {
                Host::Source => folder.source_root.clone(),
                Host::Target => folder.path.clone(),
            },
            rules: host == Host::Source,
            plan: None,
        };
        if host == Host::Target
            && let Some(newer) = &newer
        {
            start.compared = Some(under(&newer.path, below));
        }
        let newer = newer.map(|snapshot| snapshot.path);
        let same = |q: &&mut Question| q.host == host && q.request.older == half;
        match questions.iter_mut().find(same) {
            Some(question) => {
                question.folders.push(index);
                question.request.newer = question.request.newer.take().or(newer);
                question.request.folders.push(about);
            }
            None => questions.push(Question {
                host,
                folders: vec![index],
                request: DiffRequest {
                    older: half,
                    newer,
                    folders: vec![about],
                    own_writes: false,
                },
            }),
        }
    }
}

/// Asks all at once; a machine that cannot answer has a reason.
fn answers<'q>(
    context: &ModuleContext<'_>,
    questions: &'q [Question],
) -> Result<Vec<(&'q Question, Answer)>, ModuleError> {
    let mut calls: Vec<(&Question, PendingCall)> = Vec::new();
    for question in questions {
        let agent = &context.machine(question.host).agent;
        let request = MirrorRequest::Diff(Box::new(question.request.clone()));
        calls.push((question, begin(agent, &request, None)?));
    }
    let mut answers = Vec::new();
    for (question, call) in calls {
        let agent = &context.machine(question.host).agent;
        let answer = match finish(agent, &call) {
            Ok(reply) => Ok(reply),
            Err(AgentError::Fault { fault, .. }) => Err(fault.message),
            Err(other) => return Err(other.into()),
        };
        answers.push((question, answer));
    }
    Ok(answers)
}

/// Asks one machine one such question.
pub(super) fn ask(
    context: &ModuleContext<'_>,
    host: Host,
    request: DiffRequest,
) -> Result<Result<MirrorReply, String>, ModuleError> {
    let question = Question {
        host,
        folders: Vec::new(),
        request,
    };
    let mut answers = answers(context, std::slice::from_ref(&question))?;
    Ok(answers.remove(0).1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_found_in_its_subvolume() {
        let subvolume = |name: &str, mount_point: &str| Subvolume {
            name: name.into(),
            mount_point: mount_point.into(),
            id: 256,
            uuid: String::new(),
            generation: 1,
            filesystem: "f".into(),
            nested: Vec::new(),
        };
        let both = [subvolume("@", "/"), subvolume("@home", "/home")];
        for (folder, expected) in [
            ("/home", Some(("@home", ""))),
            ("/home/ann", Some(("@home", "ann"))),
            ("/root", Some(("@", "root"))),
        ] {
            assert_eq!(place(&both, folder), expected, "{folder}");
        }
        assert_eq!(place(&both[1..], "/root"), None);
        assert_eq!(under("/s/x", ""), "/s/x");
        assert_eq!(under("/s/x", "a/b"), "/s/x/a/b");
    }

    #[test]
    fn another_rule_is_another_digest_and_a_comment_is_not() {
        let digest = |text: &str| digest(&Filter::parse(text.as_bytes(), "f").unwrap());
        assert_eq!(digest("a\n"), digest("# why\na\n"));
        assert_ne!(digest("a\n"), digest("b\n"));
    }
}
