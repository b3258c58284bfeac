//! Before a restricted scan: each machine tells the other which paths may differ.
//!
//! The target speaks first and the source only when it has heard all of it, so that neither waits
//! for the other to take what it sends.

use crossbeam_channel::Receiver;

use super::codec::Malformed;
use super::scan::ScanError;
use super::suspects::{SUSPECT_BYTES_MAX, SUSPECTS_MAX, Suspect};
use super::wire::{Batch, Message, Messages};
use crate::interrupt::AbortFlag;

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
                    bytes += suspect.path.len() + 16 * ranges;
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
