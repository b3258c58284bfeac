//! Single files and trees brought back out of a session's snapshot.
//!
//! The agent of the machine does it, with the mirror's own means: it compares a snapshot with what is
//! there, for the paths asked for alone, and carries out what came of it. What is only there now stays. No
//! session of its own, no marker, no snapshot: what is overwritten was asked about.

mod versions;

use std::collections::{BTreeMap, BTreeSet};

use super::PlanOutput;
use super::error::RunError;
use super::met::{Meets, Met};
use crate::agent::client::AgentError;
use crate::change::{Action, Change};
use crate::config::Config;
use crate::escape::escape_bytes;
use crate::event::{Event, EventSink, Host, ProgressEvent, ProgressUpdate};
use crate::figures;
use crate::interrupt::AbortFlag;
use crate::mirror::drift::Told;
use crate::mirror::entry::Aspects;
use crate::mirror::local::{LocalPlan, Side, client};
use crate::mirror::told;
use crate::mirror::wire::Message;
use crate::prompt::{Choice, PromptError, Prompter, Question};

pub use versions::{Version, Wanted};
use versions::{is_at_or_below, versions, wanted};

/// The name it goes by among modules.
pub const NAME: &str = "restore";

/// Paths of one command.
const PATHS_MAX: usize = 1000;
/// Bytes of all of them: they must fit one request with room to spare.
const PATH_BYTES_MAX: usize = 256 << 10;
/// Things to be overwritten that a question names.
const NAMED_MAX: usize = 10;

/// What is to be restored, and how.
#[derive(Debug, Clone, Default)]
pub struct RestoreOptions {
    /// Absolute paths without `.`, `..` and links on the way to them.
    pub paths: Vec<Vec<u8>>,
    /// Out of the snapshots of this session; `None`: the newest version that is another one than is there.
    pub session: Option<String>,
    /// Into this directory, not to their place.
    pub to: Option<Vec<u8>>,
    /// On this machine, not on the one where it was typed.
    pub host: Option<String>,
    /// Change nothing, list everything.
    pub dry_run: bool,
    /// Do not ask.
    pub yes: bool,
    /// Never ask.
    pub batch: bool,
}

/// Everything restoring is given.
pub struct Work<'a> {
    /// The checked configuration.
    pub config: &'a Config,
    /// The command line.
    pub options: &'a RestoreOptions,
    /// Where events go.
    pub events: &'a EventSink,
    /// Asks a person.
    pub prompter: &'a dyn Prompter,
    /// Raised by signals.
    pub abort: &'a AbortFlag,
}

/// Some paths that come out of one snapshot to one directory.
#[derive(Debug)]
pub struct Restored {
    /// Which snapshot.
    pub version: Version,
    /// The paths.
    pub paths: Vec<Wanted>,
    /// What it comes to.
    pub amount: Amount,
    /// What could not be brought back.
    pub errors: u64,
    /// What was left as it is, by kind.
    pub left: BTreeMap<String, u64>,
    /// The plan's name with the agent.
    id: String,
    /// The directory that paths of the plan are below.
    top: Vec<u8>,
}

/// What a plan comes to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Amount {
    /// What is not there now.
    pub created: u64,
    /// What is there in another version, or gives way.
    pub overwritten: u64,
    /// What gets another time, and nothing else.
    pub times: u64,
    /// Some of what is overwritten, for people.
    pub named: Vec<String>,
}

impl Amount {
    fn add(&mut self, top: &[u8], change: &Change) {
        if change.action == Action::Create {
            self.created += 1;
        } else if is_time_alone(change) {
            self.times += 1;
        } else {
            self.overwritten += 1;
            if self.named.len() < NAMED_MAX {
                self.named
                    .push(escape_bytes(&told::below(top, &change.item)));
            }
        }
    }

    /// Everything that changes.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.created + self.overwritten + self.times
    }
}

fn is_time_alone(change: &Change) -> bool {
    change.action == Action::Attributes && change.detail == Aspects(Aspects::MTIME).describe()
}

/// What restoring came to.
#[derive(Debug)]
pub struct Report {
    /// The machine.
    pub machine: String,
    /// What was, or would be, brought back.
    pub restored: Vec<Restored>,
    /// What is as it was in every version there is.
    pub unchanged: Vec<Wanted>,
}

/// One version of a path.
#[derive(Debug)]
pub struct Listed {
    /// The snapshot.
    pub version: Version,
    /// The path.
    pub path: Wanted,
    /// What is there in it.
    pub found: Told,
}

/// What is known of the machine before anything is compared.
struct Known {
    met: Met,
    versions: Vec<Version>,
    paths: Vec<Wanted>,
}

fn usage(message: String, hint: &str) -> RunError {
    RunError::Usage {
        message,
        hint: hint.to_owned(),
    }
}

fn meet(meets: &mut dyn Meets, work: &Work<'_>) -> Result<Known, RunError> {
    let options = work.options;
    let bytes: usize = options.paths.iter().map(Vec::len).sum();
    if options.paths.len() > PATHS_MAX || bytes > PATH_BYTES_MAX {
        return Err(usage(
            format!("more than {PATHS_MAX} paths, or too long ones"),
            "name the directory they are in, or restore them a part at a time",
        ));
    }
    let met = match &options.host {
        Some(host) => meets.remote(host)?,
        None => meets.local()?,
    };
    let dir = &work.config.btrfs_snapshots.snapshot_dir;
    let versions = versions(met.snapshots(dir, false)?, options.session.as_deref())?;
    if versions.is_empty() {
        return Err(usage(
            format!("there are no snapshots of syncs on {}", met.name()),
            "every sync leaves some, on both machines",
        ));
    }
    let names: BTreeSet<String> = versions.iter().map(|v| v.subvolume.clone()).collect();
    let mounted = met.subvolumes(names.into_iter().collect(), dir)?.found;
    let paths = wanted(&options.paths, &mounted)?;
    Ok(Known {
        met,
        versions,
        paths,
    })
}

/// Every version there is of the paths.
pub fn list(meets: &mut dyn Meets, work: &Work<'_>) -> Result<Vec<Listed>, RunError> {
    let known = meet(meets, work)?;
    let all: Vec<usize> = (0..known.paths.len()).collect();
    let mut listed = Vec::new();
    for version in &known.versions {
        for (at, found) in known.has(version, &all)? {
            listed.push(Listed {
                version: version.clone(),
                path: known.paths[at].clone(),
                found,
            });
        }
    }
    listed.sort_by(|a, b| a.path.path.cmp(&b.path.path));
    Ok(listed)
}

impl Known {
    /// Which of `paths`, by number, the snapshot of `version` has, and what of each.
    fn has(&self, version: &Version, paths: &[usize]) -> Result<Vec<(usize, Told)>, RunError> {
        let of_it = |at: &&usize| self.paths[**at].subvolume == version.subvolume;
        let asked: Vec<usize> = paths.iter().filter(of_it).copied().collect();
        if asked.is_empty() {
            return Ok(Vec::new());
        }
        let below = asked.iter().map(|at| self.paths[*at].below.clone());
        let tree = version.path.clone().into_bytes();
        let found = client::find(&self.met.agent, tree, below.collect())
            .map_err(RunError::agent("looking into the snapshots"))?;
        let there = asked.into_iter().zip(found);
        Ok(there.filter_map(|(at, told)| Some((at, told?))).collect())
    }
}

/// Restores.
pub fn restore(
    meets: &mut dyn Meets,
    work: &Work<'_>,
    output: &mut dyn PlanOutput,
) -> Result<Report, RunError> {
    let known = meet(meets, work)?;
    if !work.options.dry_run {
        known.met.lock(Host::Target)?;
    }
    let (mut restored, unchanged) = plan(&known, work)?;
    if work.options.dry_run {
        for part in &restored {
            list_changes(&known.met, part, output)?;
        }
    } else {
        agree(work, &known.met, &restored)?;
        carry_out(&known.met, work, &mut restored)?;
    }
    Ok(Report {
        machine: known.met.name(),
        restored,
        unchanged,
    })
}

/// Finds the version of every path, and plans.
fn plan(known: &Known, work: &Work<'_>) -> Result<(Vec<Restored>, Vec<Wanted>), RunError> {
    let mut parts = Vec::new();
    let mut open: Vec<usize> = (0..known.paths.len()).collect();
    let mut unchanged = BTreeSet::new();
    for version in &known.versions {
        work.abort.check()?;
        let has = known.has(version, &open)?;
        let has: Vec<usize> = has.into_iter().map(|(at, _)| at).collect();
        for (top, group) in groups(known, work.options, version, &has) {
            let part = compare(known, work, version, &top, &group, parts.len())?;
            let is_chosen = work.options.session.is_some() || work.options.to.is_some();
            let (part, found) = match part {
                // Said to be of this version, or it goes where nothing is compared with.
                (part, _) if is_chosen => (part, group),
                // What stands in the way does so for every version.
                (part, _) if part.errors > 0 || !part.left.is_empty() => (part, group),
                (part, differing) if differing.len() == group.len() => (part, group),
                (_, differing) => {
                    unchanged.extend(group.iter().filter(|at| !differing.contains(at)).copied());
                    if differing.is_empty() {
                        continue;
                    }
                    // The others may come out of an older one.
                    let again = compare(known, work, version, &top, &differing, parts.len())?;
                    (again.0, differing)
                }
            };
            open.retain(|at| !found.contains(at));
            if part.amount.total() + part.errors == 0 && part.left.is_empty() {
                unchanged.extend(found);
            } else {
                unchanged.retain(|at| !found.contains(at));
                parts.push(part);
            }
        }
        if open.is_empty() {
            break;
        }
    }
    if let Some(at) = open.into_iter().find(|at| !unchanged.contains(at)) {
        let of = match &work.options.session {
            Some(_) => format!(" of session {}", known.versions[0].session),
            None => String::new(),
        };
        return Err(usage(
            format!(
                "{} is in no snapshot{of} on {}",
                known.paths[at].shown(),
                known.met.name()
            ),
            "with --list it says which versions there are; what is mounted there, or a nested \
             subvolume, is in none",
        ));
    }
    let unchanged = unchanged.into_iter().map(|at| known.paths[at].clone());
    Ok((parts, unchanged.collect()))
}

/// The paths of a version by the directory they go below: what is compared at once.
fn groups(
    known: &Known,
    options: &RestoreOptions,
    version: &Version,
    paths: &[usize],
) -> BTreeMap<Vec<u8>, Vec<usize>> {
    let mut groups = BTreeMap::<Vec<u8>, Vec<usize>>::new();
    for at in paths {
        let path = &known.paths[*at];
        let from = match options.to {
            None => version.path.clone().into_bytes(),
            Some(_) => told::below(version.path.as_bytes(), path.split().0),
        };
        groups.entry(from).or_default().push(*at);
    }
    groups
}

/// Has the agent compare some paths with a snapshot; which of them are another there than now.
fn compare(
    known: &Known,
    work: &Work<'_>,
    version: &Version,
    from: &[u8],
    paths: &[usize],
    number: usize,
) -> Result<(Restored, Vec<usize>), RunError> {
    let to = work.options.to.as_ref();
    let of = |at: &usize| &known.paths[*at];
    let top = match to {
        Some(to) => to.clone(),
        None => of(&paths[0]).mount_point.clone().into_bytes(),
    };
    let id = number.to_string();
    let below = |path: &Wanted| match to {
        Some(_) => path.split().1.to_vec(),
        None => path.below.clone(),
    };
    let wanted = LocalPlan {
        id: id.clone(),
        from: from.to_vec(),
        to: top.clone(),
        // What is in another directory has nothing to do with the snapshot.
        older: to.is_none().then_some(Side::From),
        only: paths.iter().map(|at| below(of(at))).collect(),
        ..LocalPlan::default()
    };
    let mut progress = |message: &Message<'_>| {
        if let Message::Progress { items, path, .. } = message {
            work.progress(ProgressUpdate {
                current: Some(*items),
                item: Some(format!(
                    "comparing {}",
                    escape_bytes(&told::below(&top, path))
                )),
                ..ProgressUpdate::default()
            });
        }
        Ok(())
    };
    let doing = || RunError::agent("comparing with the snapshot");
    let agent = &known.met.agent;
    let reply = client::plan(agent, wanted, &mut progress).map_err(doing())?;
    let (mut amount, mut differing) = (Amount::default(), BTreeSet::new());
    client::each_change(agent, &id, &mut |change| {
        amount.add(&top, &change);
        if !is_time_alone(&change) {
            // On the way to several it is made for all of them.
            let concerns = |at: &&usize| {
                let path = below(of(at));
                is_at_or_below(&path, &change.item) || is_at_or_below(&change.item, &path)
            };
            differing.extend(paths.iter().filter(concerns));
        }
        Ok(())
    })
    .map_err(doing())?;
    let restored = Restored {
        version: version.clone(),
        paths: paths.iter().map(|at| of(at).clone()).collect(),
        amount,
        errors: reply.errors,
        left: reply.notes,
        id,
        top,
    };
    Ok((restored, differing.into_iter().collect()))
}

fn list_changes(met: &Met, part: &Restored, output: &mut dyn PlanOutput) -> Result<(), RunError> {
    let mut listed = Ok(());
    output
        .print(NAME, &part.version.words(), &mut |visit| {
            listed = client::each_change(&met.agent, &part.id, &mut |change| {
                visit(&told::within(&part.top, change));
                Ok::<_, AgentError>(())
            });
        })
        .map_err(RunError::Output)?;
    listed.map_err(RunError::agent("listing the changes"))
}

/// Asks before anything is overwritten, or takes `--yes` for an answer.
fn agree(work: &Work<'_>, met: &Met, parts: &[Restored]) -> Result<(), RunError> {
    let overwritten: u64 = parts.iter().map(|part| part.amount.overwritten).sum();
    if overwritten == 0 || work.options.yes {
        return Ok(());
    }
    let refused = || RunError::Refused {
        message: format!(
            "{} on {} would be overwritten",
            figures::counted(overwritten, "path"),
            met.name()
        ),
        flag: Some("--yes".to_owned()),
    };
    if work.options.batch || !work.prompter.can_ask() {
        return Err(refused());
    }
    let mut detail = Vec::new();
    for part in parts.iter().filter(|part| part.amount.overwritten > 0) {
        let amount = &part.amount;
        detail.push(format!(
            "with what was there {}: {} overwritten, {} brought back",
            part.version.words(),
            figures::number(amount.overwritten),
            figures::number(amount.created),
        ));
        detail.extend(amount.named.iter().map(|path| format!("  {path}")));
        let more = amount.overwritten - amount.named.len() as u64;
        if more > 0 {
            detail.push(format!("  and {} more", figures::number(more)));
        }
    }
    let question = Question {
        detail,
        text: format!("Overwrite what is there now on {}?", met.name()),
        choices: vec![
            Choice {
                key: 'o',
                label: "overwrite".to_owned(),
                effect: "what is there now is lost, unless another snapshot has it".to_owned(),
            },
            Choice {
                key: 'a',
                label: "abort".to_owned(),
                effect: "nothing was changed".to_owned(),
            },
        ],
        default: 1,
        flag: Some("--yes".to_owned()),
    };
    match work.prompter.choose(&question) {
        Ok(0) => Ok(()),
        Ok(_) | Err(PromptError::CannotAsk) => Err(refused()),
        Err(PromptError::Interrupted(interrupted)) => Err(RunError::Interrupted(interrupted)),
    }
}

fn carry_out(met: &Met, work: &Work<'_>, parts: &mut [Restored]) -> Result<(), RunError> {
    let total = parts.iter().map(|part| part.amount.total()).sum();
    let mut before = 0;
    for part in parts {
        work.abort.check()?;
        let top = part.top.clone();
        let mut progress = |message: &Message<'_>| {
            if let Message::Progress { items, path, .. } = message {
                work.progress(ProgressUpdate {
                    current: Some(before + items),
                    total: Some(total),
                    item: Some(escape_bytes(&told::below(&top, path))),
                    ..ProgressUpdate::default()
                });
            }
            Ok(())
        };
        let changes = format!("restore what was there {}", part.version.words());
        let reply = client::apply(&met.agent, &part.id, &changes, &mut progress)
            .map_err(RunError::agent("restoring"))?;
        part.errors += reply.errors;
        before += part.amount.total();
    }
    Ok(())
}

impl Work<'_> {
    fn progress(&self, update: ProgressUpdate) {
        self.events.emit(&Event::Progress(ProgressEvent {
            timestamp: jiff::Timestamp::now(),
            module: NAME.to_owned(),
            update,
        }));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_new_or_has_another_time_overwrites_nothing() {
        let change = |action, item: &str, aspects| Change {
            action,
            item: item.as_bytes().to_vec(),
            detail: Aspects(aspects).describe(),
            bytes: 0,
            from: None,
        };
        let mut amount = Amount::default();
        for change in [
            change(Action::Create, "new", 0),
            change(Action::Attributes, "dir", Aspects::MTIME),
            change(
                Action::Attributes,
                "dir/mode",
                Aspects::MTIME | Aspects::MODE,
            ),
            change(Action::Change, "dir/\u{1b}x", Aspects::CONTENT),
            change(Action::Delete, "gives way", 0),
        ] {
            amount.add(b"/home", &change);
        }
        assert_eq!(
            (amount.created, amount.overwritten, amount.times),
            (1, 3, 1)
        );
        let named = ["/home/dir/mode", "/home/dir/\\x1bx", "/home/gives way"];
        assert_eq!(amount.named, named);
        assert_eq!(amount.total(), 5);
    }
}
