//! Numbers, sizes and time spans as people read them; the same everywhere.

use std::time::Duration;

use serde::de::{Deserialize as _, Deserializer, Error as _, Unexpected};

/// More than this of anything is not counted: another machine that says so is not believed, and the
/// sum of a thousand such figures is still a number.
pub const MOST: u64 = 1 << 53;

/// Reads a figure that another machine or a file says: at most [`MOST`].
pub fn count<'de, D: Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
    let figure = u64::deserialize(from)?;
    if figure > MOST {
        let said = Unexpected::Unsigned(figure);
        return Err(D::Error::invalid_value(said, &"a figure that can be"));
    }
    Ok(figure)
}

/// `1234567` as `1,234,567`.
#[must_use]
pub fn number(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// `1 file`, `2 files`, `3 entries`.
#[must_use]
pub fn counted(n: u64, noun: &str) -> String {
    let n_text = number(n);
    match noun.strip_suffix('y') {
        _ if n == 1 => format!("{n_text} {noun}"),
        Some(stem) if !stem.ends_with(['a', 'e', 'o', 'u']) => format!("{n_text} {stem}ies"),
        _ => format!("{n_text} {noun}s"),
    }
}

/// Bytes in binary units ("4.2 MiB").
#[must_use]
pub fn bytes(n: u64) -> String {
    bytesize::ByteSize(n).display().iec().to_string()
}

/// A time span in a sentence: `0.4 s`, `12 s`, `2 min 5 s`, `1 h 2 min`.
#[must_use]
pub fn span(time: Duration) -> String {
    let secs = time.as_secs();
    match secs {
        0..=9 => format!("{:.1} s", time.as_secs_f64()),
        10..=59 => format!("{secs} s"),
        60..=3599 => format!("{} min {} s", secs / 60, secs % 60),
        _ => format!("{} h {} min", secs / 3600, secs / 60 % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_read_well() {
        assert_eq!(number(0), "0");
        assert_eq!(number(999), "999");
        assert_eq!(number(1_234_567), "1,234,567");
        assert_eq!(counted(1, "file"), "1 file");
        assert_eq!(counted(2000, "file"), "2,000 files");
        assert_eq!(counted(1, "entry"), "1 entry");
        assert_eq!(counted(0, "entry"), "0 entries");
        assert_eq!(counted(3, "day"), "3 days");
        assert_eq!(bytes(4_404_019), "4.2 MiB");
        let spans = [
            (400, "0.4 s"),
            (12_000, "12 s"),
            (125_000, "2 min 5 s"),
            (3_720_000, "1 h 2 min"),
        ];
        for (millis, text) in spans {
            assert_eq!(span(Duration::from_millis(millis)), text);
        }
    }
}
