//! Before a restricted scan: each machine tells the other which paths may differ.
//!
//! The target speaks first and the source only when it has heard all of it, so that neither waits
//! for the other to take what it sends. The source says of directories where they were, if they
//! could be moved as they are; last the target says which of them it will move.

use crossbeam_channel::Receiver;

use super::codec::Malformed;
use super::filter::Filter;
use super::movable::{goes_along, is_movable};
use super::moves::{Move, Moves};
use super::scan::ScanError;
use super::suspects::{Mark, SUSPECT_BYTES_MAX, SUSPECTS_MAX, Suspect, is_below};
use super::tree::Tree;
use super::wire::{Batch, Message, Messages};
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
        let frame = super::receive(incoming, abort)?;
        for message in Messages::new(super::peer_payload(&frame)?) {
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

/// On the source: takes back where directories were that cannot be moved as they are.
pub fn offer(
    ours: &mut [Suspect],
    tree: &Tree,
    filter: &Filter,
    abort: &AbortFlag,
) -> Result<(), Interrupted> {
    let mut offered: Vec<Move> = Vec::new();
    for suspect in ours {
        let Some(m) = move_of(suspect) else { continue };
        // In the order of paths: what goes along comes after what it goes along with.
        if offered.iter().any(|above| goes_along(&m, above)) {
            continue;
        }
        if is_movable(tree, &m.to, &m, filter, abort)? {
            offered.push(m);
        } else {
            suspect.from = None;
        }
    }
    Ok(())
}

/// On the target: which of the moves that the source offers will be made: those of directories that
/// have not been touched here since both sides were equal, as far as `ours` tells.
pub fn accept(
    ours: &[Suspect],
    theirs: &[Suspect],
    tree: &Tree,
    filter: &Filter,
    abort: &AbortFlag,
) -> Result<Moves, Interrupted> {
    if is_everything(ours) || is_everything(theirs) {
        return Ok(Moves::default());
    }
    let is_touched = |path: &[u8]| {
        let mut ours = ours.iter();
        ours.any(|s| {
            s.path == path
                || is_below(&s.path, path)
                || s.mark.has(Mark::BELOW) && is_below(path, &s.path)
        })
    };
    let mut wanted: Vec<Move> = Vec::new();
    for m in theirs.iter().filter_map(move_of) {
        abort.check()?;
        if is_touched(&m.from) || is_touched(&m.to) {
            continue;
        }
        if wanted.iter().any(|above| goes_along(&m, above))
            || is_movable(tree, &m.from, &m, filter, abort)?
        {
            wanted.push(m);
        }
    }
    Ok(Moves::possible(wanted, |path| tree.occupied(path)))
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
    let mut moves = Vec::new();
    for m in theirs.iter().map(move_of) {
        let m = m.ok_or(Malformed("moves nothing"))?;
        let is_offered = |s: &Suspect| s.path == m.to && s.from.as_ref() == Some(&m.from);
        if !ours.iter().any(is_offered) {
            return Err(Malformed("moves what was not offered"));
        }
        moves.push(m);
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
