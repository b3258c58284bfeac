//! What both machines are told of the other folders when a folder's plan is carried out, so that what is in one
//! of them already need not be sent for another.

use super::Planned;
use super::basis::{place, under};
use crate::mirror::wire::OtherFolder;
use crate::module::ModuleContext;

/// The same folders for both machines, in the same order.
pub(super) struct Others {
    pub source: Vec<OtherFolder>,
    pub target: Vec<OtherFolder>,
}

/// For each of `folders` the others; they are carried out in their order.
pub(super) fn of_each(context: &ModuleContext<'_>, folders: &[Planned]) -> Vec<Others> {
    let both: Vec<[OtherFolder; 2]> = folders
        .iter()
        .map(|folder| {
            let half = folder.start.halves.as_ref();
            let side = |root: &str, before| OtherFolder {
                root: root.to_owned(),
                before,
                is_done: false,
            };
            let anchored = half.map(|(source, _)| source.clone());
            [
                side(&folder.source_root, anchored),
                side(&folder.path, presync(context, &folder.path)),
            ]
        })
        .collect();
    without_each(&both)
}

/// For each folder, as both machines know it, all but it.
fn without_each(folders: &[[OtherFolder; 2]]) -> Vec<Others> {
    (0..folders.len())
        .map(|this| {
            let side = |side: usize| {
                let others = folders
                    .iter()
                    .enumerate()
                    .filter(|(index, _)| *index != this);
                let told = others.map(|(index, both)| OtherFolder {
                    is_done: index < this,
                    ..both[side].clone()
                });
                told.collect()
            };
            Others {
                source: side(0),
                target: side(1),
            }
        })
        .collect()
}

/// The target's folder in the snapshot from before the run, if there is one.
fn presync(context: &ModuleContext<'_>, folder: &str) -> Option<String> {
    let session = context.session;
    let (name, below) = place(&session.target_subvolumes, folder)?;
    let mut snapshots = session.target_presync.iter();
    let snapshot = snapshots.find(|snapshot| snapshot.subvolume == name)?;
    Some(under(&snapshot.path, below))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_are_counted_alike_on_both_machines_and_those_before_are_done() {
        let folder = |root: &str, is_done| OtherFolder {
            root: root.to_owned(),
            before: Some(format!("{root} before")),
            is_done,
        };
        let both = ["a", "b", "c"].map(|name| {
            let [ours, theirs] = ["source", "target"].map(|side| format!("{side} {name}"));
            [folder(&ours, false), folder(&theirs, false)]
        });
        let told = without_each(&both);
        let of = |side: &str, others: [(&str, bool); 2]| {
            others.map(|(name, is_done)| folder(&format!("{side} {name}"), is_done))
        };
        for (told, others) in told.iter().zip([
            [("b", false), ("c", false)],
            [("a", true), ("c", false)],
            [("a", true), ("b", true)],
        ]) {
            assert_eq!(told.source, of("source", others));
            assert_eq!(told.target, of("target", others));
        }
        assert_eq!(without_each(&both[..1])[0].source, []);
    }
}
