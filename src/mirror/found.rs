//! What this machine finds out that may differ, before a restricted scan: its half of the anchor and
//! its snapshot of now, compared by the kernel, as suspects of each folder.
//!
//! Whatever stands in the way is a reason for a full scan, never an error of the run.

use std::path::Path;

use super::diff::{Changed, Changes, DiffError, Fingerprint, Side, What, changes};
use super::suspects::{Mark, SUSPECTS_MAX, Suspect, holds_folder, in_folder, of_rules};
use super::tree::Tree;
use super::wire::{DiffFolder, DiffRequest};
use crate::interrupt::{AbortFlag, Interrupted};
use crate::snapshot::SnapshotFacts;

/// What came of comparing.
pub struct Found {
    /// Whether the older snapshot is what it was.
    pub intact: bool,
    /// The suspects of each folder asked about, or why there are none to be had.
    pub suspects: Result<Vec<Vec<Suspect>>, String>,
}

/// Looks whether the older snapshot is what it was and, unless only that is asked, compares.
pub fn find(request: &DiffRequest, abort: &AbortFlag) -> Result<Found, Interrupted> {
    let mut intact = false;
    let suspects = match find_in(request, &mut intact, abort) {
        Ok(suspects) => Ok(suspects),
        Err(DiffError::Interrupted(interrupted)) => return Err(interrupted),
        Err(error) => Err(reason(request, &error)),
    };
    Ok(Found { intact, suspects })
}

fn find_in(
    request: &DiffRequest,
    intact: &mut bool,
    abort: &AbortFlag,
) -> Result<Vec<Vec<Suspect>>, DiffError> {
    let older = open(&request.older.path)?;
    Fingerprint::of(older.root())?.check_unmoved(&fingerprint(&request.older))?;
    *intact = true;
    let Some(newer) = &request.newer else {
        return Ok(request.folders.iter().map(|_| Vec::new()).collect());
    };
    let newer = open(newer)?;
    let changes = changes(older.root(), newer.root(), SUSPECTS_MAX, abort)?;
    let of = |folder: &DiffFolder| {
        let below = folder.below.as_bytes();
        suspects(&changes, below, folder.rules, request.own_writes)
    };
    Ok(request.folders.iter().map(of).collect())
}

fn open(path: &str) -> Result<Tree, DiffError> {
    Tree::open(Path::new(path)).map_err(|errno| DiffError::Io(errno.into()))
}

/// In words that complete "full scan: ".
fn reason(request: &DiffRequest, error: &DiffError) -> String {
    match error {
        DiffError::Io(e) if e.kind() == std::io::ErrorKind::NotFound => {
            format!("the snapshot {} is gone", request.older.name)
        }
        DiffError::Written(Side::Older) | DiffError::Writable(Side::Older) => {
            format!(
                "the snapshot {} was written to since the last sync",
                request.older.name
            )
        }
        error => error.to_string(),
    }
}

fn fingerprint(facts: &SnapshotFacts) -> Fingerprint {
    Fingerprint {
        uuid: facts.uuid.clone(),
        parent_uuid: facts.parent_uuid.clone(),
        generation: facts.generation,
        created_generation: facts.created_generation,
        changed_generation: facts.changed_generation,
        read_only: facts.readonly,
    }
}

/// What of the changes concerns the folder at `below`, in which `rules` says whether filter files of
/// directories count.
pub(super) fn suspects(
    changes: &Changes,
    below: &[u8],
    rules: bool,
    own_writes: bool,
) -> Vec<Suspect> {
    let mut suspects = Vec::new();
    for changed in changes.list() {
        if let Some(path) = in_folder(&changed.path, below) {
            if rules {
                suspects.extend(of_rules(path));
            }
            let mut suspect = suspect(path, changed, own_writes);
            let is_here = changed.what.has(What::APPEARED) && !changed.what.has(What::NESTED);
            if let Some(from) = changed.from.as_ref().filter(|_| is_here) {
                suspect.from = in_folder(from, below).map(<[u8]>::to_vec);
                if !changed.what.has(What::CONTENT) {
                    suspect.mark = suspect.mark.with(Mark::AS_WRITTEN);
                }
            }
            suspects.push(suspect);
        } else if is_other(changed.what) && holds_folder(&changed.path, below) {
            suspects.push(Suspect::new(Vec::new(), Mark::ANYTHING));
        }
    }
    suspects
}

/// Whether something else may be at the path than was.
fn is_other(what: What) -> bool {
    what.has(What::APPEARED) || what.has(What::GONE) || what.has(What::NESTED)
}

fn suspect(path: &[u8], changed: &Changed, own_writes: bool) -> Suspect {
    let what = changed.what;
    let mut mark = Mark::default();
    let mut content = what.has(What::CONTENT);
    if is_other(what) {
        mark = mark.with(Mark::OTHER);
        // What is new after the mirror has written was written by it, which never writes into a
        // file in place; unless it was moved, or took the place of something of its kind.
        let is_new = own_writes
            && changed.from.is_none()
            && !what.has(What::NESTED)
            && !(what.has(What::SUBTREE) && what.has(What::GONE.with(What::APPEARED)));
        content |= !is_new;
    }
    if content {
        mark = mark.with(Mark::CONTENT);
    }
    if what.has(What::SUBTREE) {
        mark = mark.with(Mark::BELOW);
    }
    let known = what.has(What::CONTENT) && !changed.ranges.is_empty();
    Suspect {
        path: path.to_vec(),
        mark,
        ranges: known.then(|| changed.ranges.clone()),
        from: None,
    }
}
