//! Which names share an inode: the first one seen is the leader, the others point to its path.

use std::collections::HashMap;

use super::diff::DiffError;
use super::diff::snapshot::Snapshot;
use super::suspects::{Suspects, in_folder};
use super::tree::{Found, Tree};

/// Leaders of the inodes seen so far; forgets an inode once all its names were seen.
#[derive(Debug, Default)]
pub struct Leaders {
    by_ino: HashMap<u64, Leader>,
}

#[derive(Debug)]
struct Leader {
    path: Box<[u8]>,
    left: u64,
}

impl Leaders {
    /// Inodes of which not all names were seen, in order.
    #[must_use]
    pub fn incomplete(&self) -> Vec<u64> {
        let mut numbers: Vec<u64> = self.by_ino.keys().copied().collect();
        numbers.sort_unstable();
        numbers
    }

    /// Takes note of `found` at `path` and sets its leader if it is a further name.
    pub fn note(&mut self, found: &mut Found, path: impl FnOnce() -> Vec<u8>) {
        if !found.meta.multi {
            return;
        }
        if let Some(leader) = self.by_ino.get_mut(&found.ino) {
            found.meta.leader = Some(leader.path.to_vec());
            leader.left = leader.left.saturating_sub(1);
            if leader.left == 0 {
                self.by_ino.remove(&found.ino);
            }
        } else {
            let leader = Leader {
                path: path().into(),
                left: found.nlink.saturating_sub(1),
            };
            self.by_ino.insert(found.ino, leader);
        }
    }
}

/// After a restricted scan of `tree`: names in it, below it, of inodes seen, that nobody suspected.
/// What shares an inode can only be judged together. `called` says how a path of this tree is called
/// among the suspects.
pub fn unseen(
    leaders: &Leaders,
    tree: &Tree,
    suspects: &Suspects,
    called: impl Fn(&[u8]) -> Vec<u8>,
) -> Result<Vec<Vec<u8>>, DiffError> {
    let numbers = leaders.incomplete();
    if numbers.is_empty() {
        return Ok(Vec::new());
    }
    let mut subvolume = Snapshot::new(tree.root());
    let folder = subvolume.path(tree.root_ino()?, b"")?;
    let mut unseen = Vec::new();
    for (_, inode) in subvolume.inodes(&numbers)? {
        for (dir, name) in &inode.names {
            let path = subvolume.path(*dir, name)?;
            if let Some(path) = in_folder(&path, &folder)
                && !suspects.covers(&called(path))
            {
                unseen.push(path.to_vec());
            }
        }
    }
    Ok(unseen)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mirror::entry::{Kind, Meta};

    #[test]
    fn the_first_name_leads_and_a_complete_group_is_forgotten() {
        let found = |nlink| Found {
            meta: Meta {
                kind: Kind::File,
                multi: nlink > 1,
                ..Meta::opaque()
            },
            ino: 7,
            nlink,
            ctime: crate::mirror::entry::Time::default(),
            born: crate::mirror::entry::Time::default(),
        };
        let mut leaders = Leaders::default();
        let (mut first, mut second) = (found(2), found(2));
        leaders.note(&mut first, || b"a".to_vec());
        leaders.note(&mut second, || b"b/c".to_vec());
        assert_eq!(first.meta.leader, None);
        assert_eq!(second.meta.leader.as_deref(), Some(&b"a"[..]));
        assert!(leaders.by_ino.is_empty());
    }
}
