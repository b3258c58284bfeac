//! Both machines' clocks: they date snapshots and histories, and say which file was touched since
//! when.

use std::time::Duration;

use jiff::SignedDuration;

use super::{CORE, Pair};
use crate::event::Host;
use crate::figures::span;
use crate::module::ValidationError;

/// A larger difference is refused: ages and the order of histories would be wrong.
const MAX_DIFFERENCE: SignedDuration = SignedDuration::from_mins(5);

/// A smaller difference is not worth a word.
const SMALL_DIFFERENCE: SignedDuration = SignedDuration::from_secs(30);

/// A reason not to start, if the clocks are too far apart.
pub(super) fn difference(pair: &Pair) -> Option<ValidationError> {
    (pair.target.clock_ahead.abs() > MAX_DIFFERENCE).then(|| ValidationError {
        module: CORE.to_owned(),
        host: Host::Target,
        message: words(pair),
        hint: Some(remedy()),
    })
}

/// What a person can do about it.
pub(super) fn remedy() -> String {
    "have the network set the clock, on the machine that is wrong:\n    \
     sudo timedatectl set-ntp true"
        .to_owned()
}

/// A difference that is worth a warning and no more.
pub(super) fn small_difference(pair: &Pair) -> Option<String> {
    let ahead = pair.target.clock_ahead.abs();
    (ahead > SMALL_DIFFERENCE && ahead <= MAX_DIFFERENCE).then(|| words(pair))
}

/// How far apart they are.
pub(super) fn words(pair: &Pair) -> String {
    let ahead = pair.target.clock_ahead;
    let way = if ahead.is_negative() {
        "behind"
    } else {
        "ahead of"
    };
    let source = &pair.source.machine.hostname;
    // To the second: what a round trip takes makes more than that a guess.
    let exact = ahead.unsigned_abs();
    let whole = Duration::from_secs(exact.as_secs() + u64::from(exact.subsec_millis() >= 500));
    if whole.is_zero() {
        return format!("its clock agrees with that of {source}");
    }
    format!("its clock is {} {way} that of {source}", span(whole))
}
