//! Which names share an inode: the first one seen is the leader, the others point to its path.

use std::collections::HashMap;

use super::tree::Found;

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
