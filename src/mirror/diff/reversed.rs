//! The way back: what may differ between two snapshots, told as if the older one had come of the newer one.

use std::collections::BTreeMap;

use super::{Changed, Changes, What};
use crate::mirror::path::above;
use crate::mirror::ranges::Ranges;

impl Changes {
    /// The same changes undone: paths are where things are in the older snapshot, `from` is where they are in
    /// the newer one.
    #[must_use]
    pub fn reversed(self) -> Self {
        let moved: BTreeMap<&[u8], &[u8]> = (self.list.iter())
            .filter(|changed| is_here(changed.what))
            .filter_map(|changed| Some((&*changed.path, changed.from.as_deref()?)))
            .collect();
        let mut back = BTreeMap::new();
        for changed in &self.list {
            let place = before(&changed.path, &moved);
            let Some(from) = moved.get(&*changed.path) else {
                add(&mut back, place, changed, swapped(changed.what), None);
                continue;
            };
            // It goes back to where it came from,
            let coming = changed.what.without(What::GONE);
            let to = from.to_vec();
            add(&mut back, to, changed, coming, Some(changed.path.clone()));
            // and leaves the place it came to, perhaps to what was there before.
            let left = swapped(changed.what.without(What::CONTENT.with(What::ATTRIBUTES)));
            let place = before_in(&changed.path, &moved);
            add(&mut back, place, changed, left, None);
        }
        Self {
            list: back.into_values().collect(),
            ..self
        }
    }
}

/// Whether a thing of both snapshots is at the path now.
fn is_here(what: What) -> bool {
    what.has(What::APPEARED) && !what.has(What::NESTED)
}

/// What came is gone, and what is gone comes.
fn swapped(what: What) -> What {
    let rest = what.without(What::APPEARED.with(What::GONE));
    let (appeared, gone) = (what.has(What::APPEARED), what.has(What::GONE));
    let rest = if appeared {
        rest.with(What::GONE)
    } else {
        rest
    };
    if gone {
        rest.with(What::APPEARED)
    } else {
        rest
    }
}

/// Where something at `path` would be if nothing had been moved.
fn before(path: &[u8], moved: &BTreeMap<&[u8], &[u8]>) -> Vec<u8> {
    match moved.get(path) {
        Some(from) => from.to_vec(),
        None => before_in(path, moved),
    }
}

/// The same if it was not moved itself: its directory may have been.
fn before_in(path: &[u8], moved: &BTreeMap<&[u8], &[u8]>) -> Vec<u8> {
    let nearest = above(path).filter(|dir| !dir.is_empty() && moved.contains_key(dir));
    match nearest.max_by_key(|dir| dir.len()) {
        Some(dir) => [moved[dir], &path[dir.len()..]].concat(),
        None => path.to_vec(),
    }
}

fn add(
    back: &mut BTreeMap<Vec<u8>, Changed>,
    path: Vec<u8>,
    changed: &Changed,
    what: What,
    from: Option<Vec<u8>>,
) {
    if let Some(there) = back.get_mut(&path) {
        // Of two things that may differ nobody knows which parts are meant.
        there.ranges = Ranges::default();
        there.what = there.what.with(what);
        there.from = there.from.take().or(from);
        return;
    }
    let ranges = if what.has(What::CONTENT) {
        changed.ranges.clone()
    } else {
        Ranges::default()
    };
    let new = Changed {
        path: path.clone(),
        what,
        ranges,
        from,
    };
    back.insert(path, new);
}

#[cfg(test)]
mod tests {
    use super::*;

    const CAME: What = What::APPEARED.with(What::SUBTREE);
    const WENT: What = What::GONE.with(What::SUBTREE);

    fn changes(list: &[(&str, What, Option<&str>)]) -> Changes {
        let mut list: Vec<Changed> = (list.iter())
            .map(|(path, what, from)| Changed {
                path: path.as_bytes().to_vec(),
                what: *what,
                ranges: Ranges::default(),
                from: from.map(|from| from.as_bytes().to_vec()),
            })
            .collect();
        list.sort_by(|a, b| a.path.cmp(&b.path));
        Changes {
            list,
            ..Changes::default()
        }
    }

    #[track_caller]
    fn assert_back(list: &[(&str, What, Option<&str>)], back: &[(&str, What, Option<&str>)]) {
        assert_eq!(changes(list).reversed().list, changes(back).list);
    }

    #[test]
    fn what_came_goes_and_what_went_comes() {
        assert_back(
            &[
                ("both", What::APPEARED.with(What::GONE), None),
                ("came", CAME, None),
                ("edited", What::CONTENT.with(What::ATTRIBUTES), None),
                ("went", WENT, None),
            ],
            &[
                ("both", What::APPEARED.with(What::GONE), None),
                ("came", WENT, None),
                ("edited", What::CONTENT.with(What::ATTRIBUTES), None),
                ("went", CAME, None),
            ],
        );
    }

    #[test]
    fn what_was_moved_is_moved_back_with_all_that_happened_in_it() {
        assert_back(
            &[
                ("old", WENT, None),
                ("new", CAME.with(What::ATTRIBUTES), Some("old")),
                (
                    "new/edited",
                    What::APPEARED.with(What::CONTENT),
                    Some("old/edited"),
                ),
                ("new/came", What::APPEARED, None),
                ("new/went", What::GONE, None),
                ("new/touched", What::ATTRIBUTES, None),
            ],
            &[
                ("old", CAME.with(What::ATTRIBUTES), Some("new")),
                ("new", WENT, None),
                (
                    "old/edited",
                    What::APPEARED.with(What::CONTENT).with(What::GONE),
                    Some("new/edited"),
                ),
                ("old/came", What::GONE, None),
                ("old/went", What::APPEARED, None),
                ("old/touched", What::ATTRIBUTES, None),
            ],
        );
    }

    #[test]
    fn two_that_changed_places_do_so_again() {
        let swap = CAME.with(What::GONE);
        assert_back(
            &[("a", swap, Some("b")), ("b", swap, Some("a"))],
            &[("a", swap, Some("b")), ("b", swap, Some("a"))],
        );
        // Out of a directory that was moved itself, and the place taken by something else.
        assert_back(
            &[
                ("dir", WENT, None),
                ("there", CAME, Some("dir")),
                ("there/x", What::APPEARED.with(What::GONE), None),
                ("x", What::APPEARED, Some("dir/x")),
            ],
            &[
                ("dir", CAME, Some("there")),
                ("there", WENT, None),
                ("dir/x", What::APPEARED.with(What::GONE), Some("x")),
                ("x", What::GONE, None),
            ],
        );
    }
}
