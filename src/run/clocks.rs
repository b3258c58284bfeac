//! Both machines' clocks: they date snapshots and histories, and say which file was touched since
//! when.

use jiff::SignedDuration;

use super::{CORE, Pair};
use crate::event::Host;
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
        hint: Some(
            "have the network set the clock, on the machine that is wrong:\n    \
             sudo timedatectl set-ntp true"
                .to_owned(),
        ),
    })
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
    format!("its clock is {} {way} that of {source}", span(ahead.abs()))
}

/// A length of time in its two largest units, to the nearest of the smaller: `2 h 3 min`, `41 s`.
fn span(time: SignedDuration) -> String {
    const UNITS: [(i64, &str); 4] = [(86_400, "d"), (3600, "h"), (60, "min"), (1, "s")];
    let exact = time.as_secs() + i64::from(time.subsec_millis() >= 500);
    if exact == 0 {
        return format!("{} ms", time.as_millis());
    }
    // Only what is shown is rounded, and rounding may reach the next unit.
    let largest = (UNITS.iter()).position(|(unit, _)| exact >= *unit);
    let smaller = UNITS[largest.map_or(3, |at| (at + 1).min(3))].0;
    let mut rest = (exact + smaller / 2) / smaller * smaller;
    let mut parts = Vec::new();
    for (seconds, unit) in UNITS {
        let count = rest / seconds;
        rest %= seconds;
        if count > 0 {
            parts.push(format!("{count} {unit}"));
        }
    }
    parts.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_length_of_time_has_two_units_at_most() {
        for (seconds, text) in [
            (1, "1 s"),
            (61, "1 min 1 s"),
            (3600, "1 h"),
            (3601, "1 h"),
            (7199, "2 h"),
            (7380, "2 h 3 min"),
            (200_000, "2 d 8 h"),
        ] {
            assert_eq!(span(SignedDuration::from_secs(seconds)), text);
        }
        for (millis, text) in [(12, "12 ms"), (499, "499 ms"), (7_199_990, "2 h")] {
            assert_eq!(span(SignedDuration::from_millis(millis)), text);
        }
    }
}
