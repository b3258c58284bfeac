//! Before a restricted scan: each machine tells the other which paths may differ.
//!
//! The target speaks first and the source only when it has heard all of it, so that neither waits
//! for the other to take what it sends. The source says where things were, if they could be moved
//! as they are; last the target says which of them it will move.

use std::collections::{HashMap, HashSet};

use crossbeam_channel::Receiver;

use super::codec::Malformed;
use super::filter::Filter;
use super::frames::{Batch, peer_payload, receive};
use super::movable::Movable;
use super::moves::{MOVES_MAX, Move, Moves};
use super::path::{above, split};
use super::scan::ScanError;
use super::suspects::{Mark, SUSPECT_BYTES_MAX, SUSPECTS_MAX, Suspect, is_below, walk_order};
use super::tree::Tree;
use super::wire::{Message, Messages};
use crate::interrupt::{AbortFlag, Interrupted};

/// What one machine may name: what it has found and what was left at the anchor.
const NAMED_MAX: usize = SUSPECTS_MAX + crate::record::anchor::LEFT_MAX;

/// Names all of `suspects` to the other machine.
pub fn tell(batch: &mut Batch<'_>, suspects: &[Suspect]) -> Result<(), ScanError> {
    for suspect in suspects {
        batch.push(&Message::Suspect(Box::new(suspect.clone())))?;
    }
    batch.push(&Message::SuspectsEnd)?;
    Ok(batch.flush()?)
}

/// What the other machine names.
pub fn hear(incoming: &Receiver<Vec<u8>>, abort: &AbortFlag) -> Result<Vec<Suspect>, ScanError> {
    let mut suspects = Vec::new();
    let mut bytes = 0;
    let mut ended = false;
    while !ended {
        let frame = receive(incoming, abort)?;
        for message in Messages::new(&peer_payload(&frame)?) {
            match message? {
                Message::Suspect(suspect) if !ended => {
                    let ranges = suspect
                        .ranges
                        .as_ref()
                        .map_or(0, super::ranges::Ranges::len);
                    let from = suspect.from.as_ref().map_or(0, Vec::len);
                    bytes += suspect.path.len() + from + 16 * ranges;
                    if suspects.len() >= NAMED_MAX || bytes > SUSPECT_BYTES_MAX {
                        return Err(Malformed("suspects more paths than allowed").into());
                    }
                    suspects.push(*suspect);
                }
                Message::SuspectsEnd if !ended => ended = true,
                _ => return Err(Malformed("out of place before a scan").into()),
            }
        }
    }
    Ok(suspects)
}

/// Of what came from elsewhere.
fn move_of(suspect: &Suspect) -> Option<Move> {
    Some(Move {
        from: suspect.from.clone()?,
        to: suspect.path.clone(),
    })
}

/// Whether the folder as a whole is suspect.
fn is_everything(suspects: &[Suspect]) -> bool {
    let mut suspects = suspects.iter();
    suspects.any(|s| s.path.is_empty() && s.mark.has(Mark::BELOW))
}

/// On the source: takes back where those were that cannot be moved as they are.
pub fn offer(
    ours: &mut [Suspect],
    tree: &Tree,
    filter: &Filter,
    abort: &AbortFlag,
) -> Result<(), Interrupted> {
    let mut offered = Together::default();
    let mut movable = Movable::new(tree, filter, abort);
    let mut order: Vec<usize> = (0..ours.len())
        .filter(|at| move_of(&ours[*at]).is_some())
        .collect();
    // What goes along comes after what it goes along with.
    order.sort_by(|a, b| ours[*a].path.cmp(&ours[*b].path));
    for at in order {
        abort.check()?;
        let Some(m) = move_of(&ours[at]) else {
            continue;
        };
        if offered.goes_along(&m) {
            continue;
        }
        if offered.list.len() < MOVES_MAX && movable.is(&m, &m.to)? {
            offered.add(m);
        } else {
            ours[at].from = None;
        }
    }
    Ok(())
}

/// Moves of which one may be part of another: what goes along with the directory it is in.
#[derive(Default)]
struct Together {
    list: Vec<Move>,
    by_to: HashMap<Vec<u8>, usize>,
}

impl Together {
    fn add(&mut self, m: Move) {
        self.by_to.insert(m.to.clone(), self.list.len());
        self.list.push(m);
    }

    fn goes_along(&self, m: &Move) -> bool {
        let mut dir = split(&m.to).0;
        while !dir.is_empty() {
            if let Some(at) = self.by_to.get(dir) {
                let above = &self.list[*at];
                let rest = &m.to[above.to.len()..];
                return m.from.strip_prefix(&above.from[..]) == Some(rest);
            }
            dir = split(dir).0;
        }
        false
    }
}

/// Where this machine was touched since both sides were equal.
struct Touched<'s> {
    /// In the order of a walk.
    paths: Vec<&'s [u8]>,
    /// Those of which everything below is suspect.
    whole: HashSet<&'s [u8]>,
}

impl<'s> Touched<'s> {
    fn of(suspects: &'s [Suspect]) -> Self {
        // Another name of something that was touched is as it was.
        let touched = || suspects.iter().filter(|s| s.mark != Mark::NAME);
        let mut paths: Vec<&[u8]> = touched().map(|s| &s.path[..]).collect();
        paths.sort_by(|a, b| walk_order(a, b));
        let whole = touched().filter(|s| s.mark.has(Mark::BELOW));
        Self {
            paths,
            whole: whole.map(|s| &s.path[..]).collect(),
        }
    }

    /// Whether something at `path`, below it, or above it with all that is in it.
    fn is_at(&self, path: &[u8]) -> bool {
        let at = self.paths.partition_point(|p| walk_order(p, path).is_lt());
        let is_here = (self.paths.get(at)).is_some_and(|p| *p == path || is_below(p, path));
        is_here || above(path).any(|dir| self.whole.contains(dir))
    }
}

/// On the target: which of the moves that the source offers will be made: those of what has not been
/// touched here since both sides were equal, as far as `ours` tells, and is not barred besides.
pub fn accept(
    ours: &[Suspect],
    theirs: &[Suspect],
    tree: &Tree,
    filter: &Filter,
    is_barred: impl Fn(&Move) -> bool,
    abort: &AbortFlag,
) -> Result<Moves, Interrupted> {
    let mut offered: Vec<Move> = theirs.iter().filter_map(move_of).collect();
    if offered.is_empty() || is_everything(ours) || is_everything(theirs) {
        return Ok(Moves::default());
    }
    offered.sort_by(|a, b| a.to.cmp(&b.to));
    let touched = Touched::of(ours);
    let mut wanted = Together::default();
    let mut movable = Movable::new(tree, filter, abort);
    for m in offered {
        abort.check()?;
        if wanted.list.len() < MOVES_MAX
            && !wanted.goes_along(&m)
            && !touched.is_at(&m.from)
            && !touched.is_at(&m.to)
            && !is_barred(&m)
            && movable.is(&m, &m.from)?
        {
            wanted.add(m);
        }
    }
    // Where the source has something else now, what was there and is nowhere any more gives way, if that is all
    // there is to it here.
    let gives_way = |path: &[u8]| {
        let here = Move {
            from: path.to_vec(),
            to: path.to_vec(),
        };
        !touched.is_at(path) && !is_barred(&here) && movable.is(&here, path).unwrap_or(false)
    };
    let moves = Moves::possible(wanted.list, |path| tree.occupied(path), gives_way);
    abort.check()?;
    Ok(moves)
}

/// What the target will move, for the source.
#[must_use]
pub fn agreed(moves: &Moves) -> Vec<Suspect> {
    let moves = moves.list().iter();
    moves
        .map(|m| Suspect {
            from: Some(m.from.clone()),
            ..Suspect::new(m.to.clone(), Mark::default())
        })
        .collect()
}

/// What the target has said it will move, of what was offered.
pub fn agree(ours: &[Suspect], theirs: &[Suspect]) -> Result<Moves, Malformed> {
    let offered: HashMap<&[u8], &Vec<u8>> = (ours.iter())
        .filter_map(|s| Some((&s.path[..], s.from.as_ref()?)))
        .collect();
    let mut moves = Vec::new();
    for s in theirs {
        let from = s.from.clone().ok_or(Malformed("moves nothing"))?;
        if offered.get(&s.path[..]) != Some(&&from) {
            return Err(Malformed("moves what was not offered"));
        }
        let to = s.path.clone();
        moves.push(Move { from, to });
    }
    Ok(Moves::of(moves))
}

#[cfg(test)]
mod tests {
    use super::super::suspects::Mark;
    use super::super::wire::FOR_PEER;
    use super::*;
    use crossbeam_channel::unbounded;

    #[test]
    fn what_is_told_is_heard_and_more_than_allowed_is_refused() {
        let (tx, rx) = unbounded();
        let abort = AbortFlag::new();
        let few: Vec<Suspect> = (0..3)
            .map(|n| Suspect::new(format!("a/{n}").into_bytes(), Mark::CONTENT))
            .collect();
        let mut batch = Batch::new(FOR_PEER, &tx, &abort);
        tell(&mut batch, &few).unwrap();
        assert_eq!(hear(&rx, &abort).unwrap(), few);
        let many = vec![Suspect::new(b"x".to_vec(), Mark::CONTENT); NAMED_MAX + 1];
        tell(&mut batch, &many).unwrap();
        assert!(matches!(hear(&rx, &abort), Err(ScanError::Malformed(_))));
        while rx.try_recv().is_ok() {}
        // The scan itself begins with a frame of its own.
        batch.push(&Message::SuspectsEnd).unwrap();
        batch.push(&Message::ScanEnd).unwrap();
        batch.flush().unwrap();
        assert!(matches!(hear(&rx, &abort), Err(ScanError::Malformed(_))));
    }
}
