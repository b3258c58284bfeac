//! Which names share an inode: the first one seen is the leader, the others point to its path.

use std::collections::HashMap;
use std::collections::hash_map::Entry as Slot;

use super::diff::DiffError;
use super::diff::snapshot::Snapshot;
use super::entry::Meta;
use super::left::Left;
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

/// Names that lead on the source and cannot be made on the target, where something stands that stays: for each
/// the next name of the inode that leads in its place, once it has come.
#[derive(Debug, Default)]
pub struct StandIns(HashMap<Vec<u8>, Vec<u8>>);

impl StandIns {
    /// Sets who leads the name at `path` on the target: nobody, if it is the one to lead now. What stays there
    /// as it is, is `left`.
    pub fn settle(&mut self, meta: &mut Meta, left: &Left, path: impl FnOnce() -> Vec<u8>) {
        let Some(mut leader) = meta.leader.take() else {
            return;
        };
        // Whoever stood in may itself have had to be left.
        while left.covers(&leader) {
            match self.0.entry(leader) {
                Slot::Occupied(next) => leader = Vec::clone(next.get()),
                Slot::Vacant(none) => {
                    none.insert(path());
                    return;
                }
            }
        }
        meta.leader = Some(leader);
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
    use crate::mirror::entry::Kind;

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

    #[test]
    fn where_a_leader_stays_away_the_next_name_leads() {
        let mut stand_ins = StandIns::default();
        let mut left = Left::default();
        left.add(b"dir".to_vec());
        let mut led = |path: &[u8], leader: &[u8], stays: bool| {
            let mut meta = Meta {
                leader: Some(leader.to_vec()),
                ..Meta::opaque()
            };
            stand_ins.settle(&mut meta, &left, || path.to_vec());
            if stays {
                left.add(path.to_vec());
            }
            meta.leader
        };
        assert_eq!(led(b"x", b"dirt", false), Some(b"dirt".to_vec()));
        assert_eq!(led(b"b", b"dir/a", true), None);
        assert_eq!(led(b"c", b"dir/a", false), None);
        assert_eq!(led(b"d", b"dir/a", true), Some(b"c".to_vec()));
        assert_eq!(led(b"e", b"dir/a", false), Some(b"c".to_vec()));
        assert_eq!(led(b"f", b"dir", false), None);
    }
}
