//! Frames that come over several connections, put back in the order they were sent in.

use std::collections::BTreeMap;

use crate::agent::inflow::MAX_QUEUED;

/// A frame's number, at its end.
pub const NUMBER: usize = 8;

/// What keeping a frame costs besides its bytes.
const WEIGHT: usize = 128;

/// Why frames cannot be put in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Disorder {
    /// It has no number.
    #[error("a frame without its number")]
    NoNumber,
    /// That number was there already.
    #[error("two frames with the same number")]
    Twice,
    /// More came before its turn than is ever under way.
    #[error("too much came before its turn")]
    TooMuch,
}

/// Frames that came before their turn.
#[derive(Debug, Default)]
pub struct Order {
    /// What has a lower number is not wanted, whenever it comes.
    first: u64,
    next: u64,
    early: BTreeMap<u64, Vec<u8>>,
    bytes: usize,
}

impl Order {
    /// Nobody waits any more for frames before this number; some may be under way for a while.
    pub fn start_from(&mut self, number: u64) {
        if number > self.next {
            self.early = self.early.split_off(&number);
            self.bytes = (self.early.values())
                .map(|payload| payload.len() + WEIGHT)
                .sum();
            self.next = number;
        }
        self.first = self.first.max(number);
    }

    /// Takes a numbered payload in; returns those whose turn it is now, without their numbers.
    pub fn take(&mut self, mut payload: Vec<u8>) -> Result<Vec<Vec<u8>>, Disorder> {
        let (rest, number) = payload
            .split_last_chunk::<NUMBER>()
            .ok_or(Disorder::NoNumber)?;
        let number = u64::from_le_bytes(*number);
        let length = rest.len();
        payload.truncate(length);
        if number < self.first {
            return Ok(Vec::new());
        }
        if number < self.next || self.early.contains_key(&number) {
            return Err(Disorder::Twice);
        }
        if number > self.next {
            if self.bytes + length + WEIGHT > MAX_QUEUED {
                return Err(Disorder::TooMuch);
            }
            self.bytes += length + WEIGHT;
            self.early.insert(number, payload);
            return Ok(Vec::new());
        }
        let mut ready = vec![payload];
        self.next += 1;
        while let Some(payload) = self.early.remove(&self.next) {
            self.bytes -= payload.len() + WEIGHT;
            self.next += 1;
            ready.push(payload);
        }
        Ok(ready)
    }
}

/// Appends its number to a payload.
pub fn put_number(payload: &mut Vec<u8>, number: u64) {
    payload.extend_from_slice(&number.to_le_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(number: u64, payload: &[u8]) -> Vec<u8> {
        let mut frame = payload.to_vec();
        put_number(&mut frame, number);
        frame
    }

    #[test]
    fn whatever_way_frames_come_they_leave_in_order() {
        // All orders of six frames.
        let mut orders = vec![Vec::new()];
        for number in 0..6_u64 {
            orders = (orders.iter())
                .flat_map(|order: &Vec<u64>| {
                    (0..=order.len()).map(move |at| {
                        let mut order = order.clone();
                        order.insert(at, number);
                        order
                    })
                })
                .collect();
        }
        assert_eq!(orders.len(), 720);
        for numbers in orders {
            let mut order = Order::default();
            let mut got = Vec::new();
            for number in &numbers {
                let payload = vec![7; usize::try_from(*number).unwrap()];
                got.extend(order.take(frame(*number, &payload)).unwrap());
            }
            let lengths: Vec<usize> = got.iter().map(Vec::len).collect();
            assert_eq!(lengths, [0, 1, 2, 3, 4, 5], "{numbers:?}");
            assert_eq!(order.bytes, 0);
        }
    }

    #[test]
    fn what_is_left_of_an_earlier_stream_is_neither_waited_for_nor_handed_on() {
        let mut order = Order::default();
        order.take(frame(0, b"old")).unwrap();
        // Number 1 is under way on a slow connection, or lost with it.
        order.take(frame(2, b"old")).unwrap();
        order.take(frame(5, b"second")).unwrap();
        order.start_from(4);
        assert_eq!(order.bytes, b"second".len() + WEIGHT);
        for late in [1, 2, 3, 0] {
            assert!(order.take(frame(late, b"old")).unwrap().is_empty());
        }
        let ready = order.take(frame(4, b"first")).unwrap();
        assert_eq!(ready, [b"first".to_vec(), b"second".to_vec()]);
        assert_eq!(order.bytes, 0);
        // What was handed on already stays handed on.
        order.start_from(2);
        assert_eq!(order.take(frame(5, b"")), Err(Disorder::Twice));
    }

    #[test]
    fn impossible_numbers_and_more_than_fits_are_refused() {
        let mut order = Order::default();
        assert_eq!(order.take(vec![1; 7]), Err(Disorder::NoNumber));
        order.take(frame(0, b"")).unwrap();
        assert_eq!(order.take(frame(0, b"")), Err(Disorder::Twice));
        order.take(frame(5, b"")).unwrap();
        assert_eq!(order.take(frame(5, b"")), Err(Disorder::Twice));
        assert!(order.take(frame(u64::MAX, b"")).unwrap().is_empty());
        // How many of `payload` are kept besides what is kept already.
        let most = |order: &mut Order, payload: &[u8]| {
            let limit = 1 + MAX_QUEUED / (payload.len() + WEIGHT);
            let mut numbers = (6..).zip(0..=limit);
            let refused = numbers.find_map(|(number, kept)| {
                let taken = order.take(frame(number, payload));
                (taken == Err(Disorder::TooMuch)).then_some(kept)
            });
            assert!(
                refused.is_some_and(|kept| kept + 2 > limit / 2),
                "{refused:?}"
            );
        };
        most(&mut order, &vec![0; 1 << 20]);
        // Empty ones are not free either.
        most(&mut Order::default(), b"");
    }
}
