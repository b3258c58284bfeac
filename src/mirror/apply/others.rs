//! The other folders of a run, as far as files of this one can be made out of what is there.
//!
//! Nothing is changed in them, and nothing there is believed: it is opened confined to the folder, under the
//! folder's own filter, and what comes of it is compared with what the source says, as with a file of the same
//! folder (`bases`). What the plan of another folder has deleted or replaced meanwhile is still in the snapshot
//! from before the run.

use std::os::fd::{AsFd, OwnedFd};

use crate::mirror::path::split;
use crate::mirror::plan::{FolderPlan, Old};
use crate::mirror::scope::Way;
use crate::mirror::tree::Tree;

/// Another folder.
pub struct Other {
    /// What is planned for it.
    pub plan: FolderPlan,
    /// Whether that was carried out.
    pub is_done: bool,
    /// The folder.
    pub live: Option<Tree>,
    /// What it was before the run, in a snapshot.
    pub before: Option<Tree>,
}

/// Opens files of another folder.
pub(super) struct Opener<'a> {
    live: Option<Place<'a>>,
    before: Option<Place<'a>>,
}

struct Place<'a> {
    tree: &'a Tree,
    way: Way<'a>,
}

impl Place<'_> {
    fn open(&mut self, path: &[u8]) -> Option<OwnedFd> {
        // A filter file there that cannot be used is no reason for this folder's files not to come.
        let dir = self.way.open_parent(path).ok()?.ok()?;
        self.tree.open_file(dir.as_fd(), split(path).1).ok()
    }
}

impl<'a> Opener<'a> {
    /// Of `other`; of a folder without a filter nothing is opened.
    pub(super) fn new(other: &'a Other) -> Self {
        let place = |tree: &'a Option<Tree>| {
            let (tree, filter) = (tree.as_ref()?, other.plan.filter.as_ref()?);
            let way = Way::new(tree, filter);
            Some(Place { tree, way })
        };
        Self {
            live: place(&other.live),
            before: place(&other.before),
        }
    }

    /// The file at `path` as it is, or else as it was.
    pub(super) fn open(&mut self, path: &[u8]) -> Option<OwnedFd> {
        let places = [&mut self.live, &mut self.before];
        let mut places = places.into_iter().flatten();
        places.find_map(|place| place.open(path))
    }

    /// The same if it has `size` bytes; as it was, or else as it is, unless it `is_new`.
    pub(super) fn open_sized(&mut self, path: &[u8], is_new: bool, size: u64) -> Option<OwnedFd> {
        let before = self.before.as_mut().filter(|_| !is_new);
        let places = [before, self.live.as_mut()];
        let mut places = places.into_iter().flatten();
        places.find_map(|place| {
            let file = place.open(path)?;
            let now = Old::of(&file).ok()?;
            (now.size == size).then_some(file)
        })
    }
}
