//! `btrfs_snapshots`: the way back. Snapshots of the configured subvolumes before and after.
//!
//! The orchestrator places them: [`create`] in the presync phase before anything is changed and
//! in the postsync phase afterwards, on both machines at once. [`Module::execute`] comes between
//! the presync snapshots and the first change, and refuses to go on without a way back.

use jiff::Timestamp;

use super::{space, user_data};
use crate::agent::client::{AgentClient, AgentError, PendingCall};
use crate::agent::protocol::{Reply, Request};
use crate::config::{Config, SnapshotConfig};
use crate::escape::few;
use crate::event::{Host, LogLevel};
use crate::module::{
    ListPlan, Machine, Module, ModuleContext, ModuleError, ModuleKind, Plan, ValidationError,
};
use crate::snapshot::name::{SnapshotKind, SnapshotName};
use crate::snapshot::{NewSnapshot, SnapshotDir, SnapshotFacts, Subvolume, SubvolumeFacts};

/// The module's name, as in the configuration.
pub const NAME: &str = "btrfs_snapshots";

/// Asks a machine about the configured subvolumes, without waiting for the answer.
pub fn begin_facts(machine: &Machine, config: &SnapshotConfig) -> Result<PendingCall, AgentError> {
    machine.agent.begin(Request::Subvolumes {
        names: config.subvolumes.clone(),
        snapshot_dir: config.snapshot_dir.clone(),
    })
}

/// Takes the answer to [`begin_facts`].
pub fn finish_facts(agent: &AgentClient, call: &PendingCall) -> Result<SubvolumeFacts, AgentError> {
    match call.wait(None)? {
        Reply::Subvolumes(facts) => Ok(*facts),
        _ => Err(agent.nonsense("not facts about subvolumes")),
    }
}

/// What each machine was left with by [`create`].
#[derive(Debug)]
pub struct Created {
    /// The source's snapshots, or why there are none.
    pub source: Result<Vec<SnapshotFacts>, AgentError>,
    /// The target's.
    pub target: Result<Vec<SnapshotFacts>, AgentError>,
}

/// Makes snapshots of these subvolumes on both machines at once, under one time stamp. Each
/// machine makes all of its own or none; what one made is known even if the other failed.
#[must_use]
pub fn create(
    source: &Machine,
    target: &Machine,
    snapshot_dir: &str,
    subvolumes: &[String],
    session: &str,
    kind: SnapshotKind,
) -> Created {
    let at = Timestamp::now();
    let snapshots: Vec<NewSnapshot> = subvolumes
        .iter()
        .map(|subvolume| NewSnapshot {
            subvolume: subvolume.clone(),
            name: SnapshotName {
                subvolume: subvolume.clone(),
                kind,
                at,
                session: session.to_owned(),
            }
            .to_string(),
        })
        .collect();
    let request = || Request::CreateSnapshots {
        snapshot_dir: snapshot_dir.to_owned(),
        snapshots: snapshots.clone(),
    };
    // Not interruptible: a snapshot takes milliseconds, and one that was made must be known.
    let (source, target) = (source.agent.unabortable(), target.agent.unabortable());
    let on_target = target.begin(request());
    let on_source = source.begin(request());
    Created {
        source: finish(&source, on_source, &snapshots),
        target: finish(&target, on_target, &snapshots),
    }
}

fn finish(
    agent: &AgentClient,
    call: Result<PendingCall, AgentError>,
    asked: &[NewSnapshot],
) -> Result<Vec<SnapshotFacts>, AgentError> {
    match call?.wait(None)? {
        Reply::Snapshots(made)
            if made.len() == asked.len()
                && made.iter().zip(asked).all(|(m, a)| m.name == a.name) =>
        {
            Ok(made)
        }
        _ => Err(agent.nonsense("not the snapshots that were asked for")),
    }
}

/// Folders that the mirror will read from and write to, if it is switched on.
fn mirrored_folders(config: &Config) -> Vec<&str> {
    if !config.is_on(user_data::NAME) {
        return Vec::new();
    }
    let folders = &config.user_data.folders;
    folders.iter().map(|folder| folder.path.as_str()).collect()
}

/// The snapshots module.
#[derive(Debug, Clone, Copy, Default)]
pub struct BtrfsSnapshots;

impl BtrfsSnapshots {
    fn check_facts(
        context: &ModuleContext<'_>,
        host: Host,
        facts: &SubvolumeFacts,
    ) -> Vec<ValidationError> {
        let config = &context.config.btrfs_snapshots;
        let hostname = &context.machine(host).hostname;
        let mut errors = Vec::new();
        let mut push = |message: String, hint: String| {
            errors.push(ValidationError {
                module: NAME.to_owned(),
                host,
                message,
                hint: Some(hint),
            });
        };
        if facts.existing.is_empty() {
            push(
                "no btrfs is mounted".to_owned(),
                "the way back is snapshots, so both machines need btrfs; what there is:\n    \
                 findmnt --real -o TARGET,FSTYPE"
                    .to_owned(),
            );
            return errors;
        }
        for name in &facts.missing {
            if facts.existing.contains(name) {
                push(
                    format!("the subvolume {name} is not mounted"),
                    format!("mount it on {hostname}, and name it in /etc/fstab there"),
                );
            } else {
                push(
                    format!("there is no subvolume {name}"),
                    format!(
                        "{hostname} has {}: name what it has in btrfs_snapshots.subvolumes",
                        few(&facts.existing)
                    ),
                );
            }
        }
        let dir = &config.snapshot_dir;
        let is_inside = |subvolume: &Subvolume| Some(subvolume.id) == facts.snapshot_dir_in;
        match facts.snapshot_dir {
            SnapshotDir::Subvolume | SnapshotDir::Absent => {}
            SnapshotDir::Directory => match facts.found.iter().find(|s| is_inside(s)) {
                Some(Subvolume { name, .. }) => push(
                    format!(
                        "{dir} is a plain directory in {name}: snapshots in it would go away with \
                         {name} itself"
                    ),
                    format!(
                        "move it away on {hostname}, then a sync makes it as a subvolume of its \
                         own:\n    sudo mv {dir} {dir}.old"
                    ),
                ),
                None => context.log(
                    LogLevel::Full,
                    host,
                    format!("{dir} is a plain directory; snapshots will be made in it"),
                ),
            },
            SnapshotDir::Unusable => push(
                format!("{dir} cannot hold the snapshots"),
                "it must be a directory owned by root, on the same filesystem as the subvolumes; \
                 if nothing is there, it will be created"
                    .to_owned(),
            ),
        }
        errors
    }

    /// Each mirrored folder must lie on a configured subvolume itself: the nearest mount decides,
    /// not the path, or a folder on a mount of its own would have no way back.
    fn check_folders(
        context: &ModuleContext<'_>,
        host: Host,
        facts: &SubvolumeFacts,
    ) -> Result<Vec<ValidationError>, ModuleError> {
        let machine = context.machine(host);
        let mut errors = Vec::new();
        for folder in mirrored_folders(context.config) {
            let holder = space::holder(&facts.found, folder);
            let mount_point = match space::ask(machine, vec![folder.to_owned()]) {
                Ok(disks) => disks.first().map(|disk| disk.mount_point.clone()),
                // A folder that does not exist yet has no mount of its own.
                Err(AgentError::Fault { .. }) => holder.map(|s| s.mount_point.clone()),
                Err(error) => return Err(error.into()),
            };
            let covered = holder.is_some_and(|s| Some(&s.mount_point) == mount_point.as_ref());
            if !covered {
                errors.push(ValidationError {
                    module: NAME.to_owned(),
                    host,
                    message: format!("{folder} is on no configured subvolume"),
                    hint: Some(format!(
                        "add the subvolume mounted at {} to btrfs_snapshots.subvolumes, or take \
                         {folder} out of user_data.folders",
                        mount_point.unwrap_or_else(|| folder.to_owned())
                    )),
                });
            }
        }
        Ok(errors)
    }
}

impl Module for BtrfsSnapshots {
    fn name(&self) -> &'static str {
        NAME
    }

    fn kind(&self) -> ModuleKind {
        ModuleKind::System
    }

    fn validate(
        &mut self,
        context: &ModuleContext<'_>,
    ) -> Result<Vec<ValidationError>, ModuleError> {
        let config = &context.config.btrfs_snapshots;
        let calls = [
            (Host::Source, begin_facts(context.source, config)?),
            (Host::Target, begin_facts(context.target, config)?),
        ];
        let mut errors = Vec::new();
        for (host, call) in calls {
            let facts = finish_facts(&context.machine(host).agent, &call)?;
            let mut found = Self::check_facts(context, host, &facts);
            if found.is_empty() {
                found = Self::check_folders(context, host, &facts)?;
            }
            errors.append(&mut found);
        }
        Ok(errors)
    }

    fn plan(&mut self, _: &ModuleContext<'_>) -> Result<Box<dyn Plan>, ModuleError> {
        // Snapshots add something beside people's data; the list of changes is about the data.
        Ok(Box::new(ListPlan::default()))
    }

    /// Checks that there is a way back, right before the first change.
    fn execute(&mut self, context: &ModuleContext<'_>) -> Result<String, ModuleError> {
        let wanted = &context.config.btrfs_snapshots.subvolumes;
        for (machine, snapshots) in [
            (context.source, &context.session.source_presync),
            (context.target, &context.session.target_presync),
        ] {
            for name in wanted {
                let safe = snapshots
                    .iter()
                    .any(|s| s.subvolume == *name && s.is_untouched());
                if !safe {
                    return Err(ModuleError::failed(format!(
                        "{}: no read-only snapshot of {name} to go back to",
                        machine.hostname
                    )));
                }
            }
        }
        Ok(match wanted.len() {
            1 => "1 snapshot on each machine".to_owned(),
            count => format!("{count} snapshots on each machine"),
        })
    }
}
