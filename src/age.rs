//! Ages as people type them: `7d`, `2w`, `12h`. What could mean two things is refused.

use jiff::SignedDuration;

/// Hours of a unit: its short and long forms. A month has 30 days here and a year 365.
const UNITS: [(&[&str], i64); 5] = [
    (&["h", "hour", "hours"], 1),
    (&["d", "day", "days"], 24),
    (&["w", "week", "weeks"], 7 * 24),
    (&["mo", "month", "months"], 30 * 24),
    (&["y", "year", "years"], 365 * 24),
];

/// Reads a number with a unit.
pub fn parse_age(text: &str) -> Result<SignedDuration, String> {
    let usual = "such as 12h, 7d, 2w, 6mo or 1y";
    let text = text.trim();
    let digits = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, unit) = (&text[..digits], text[digits..].trim());
    if number.is_empty() {
        return Err(format!("an age is a whole number with a unit, {usual}"));
    }
    match unit {
        "" => return Err(format!("{number} what? Add a unit, {usual}")),
        "m" | "M" => {
            return Err(format!(
                "{number}{unit} may mean minutes or months: write {number}mo for months"
            ));
        }
        _ => {}
    }
    let lower = unit.to_ascii_lowercase();
    let found = UNITS
        .iter()
        .find(|(names, _)| names.contains(&lower.as_str()));
    let Some((_, hours)) = found else {
        return Err(format!("an age has a unit of hours or more, {usual}"));
    };
    let hours = number.parse().ok().and_then(|n: i64| n.checked_mul(*hours));
    hours
        .filter(|hours| *hours <= 1000 * 365 * 24)
        .map(SignedDuration::from_hours)
        .ok_or_else(|| "an age is at most a thousand years".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_with_clear_units_are_ages() {
        for (text, hours) in [
            ("12h", 12),
            ("7d", 168),
            ("1 day", 24),
            ("2W", 336),
            ("6mo", 6 * 720),
            ("3 months", 3 * 720),
            ("1y", 8760),
            ("0d", 0),
        ] {
            assert_eq!(
                parse_age(text),
                Ok(SignedDuration::from_hours(hours)),
                "{text}"
            );
        }
    }

    #[test]
    fn what_could_mean_two_things_or_nothing_is_refused() {
        let refused = |text| parse_age(text).expect_err(text);
        assert_eq!(
            refused("1m"),
            "1m may mean minutes or months: write 1mo for months"
        );
        assert!(refused("1M").contains("minutes or months"));
        assert!(refused("7").contains("7 what?"));
        for text in [
            "",
            "d",
            "-7d",
            "1.5d",
            "7s",
            "7min",
            "7x",
            "1d12h",
            "99999999999999999999d",
            "1001y",
        ] {
            assert!(!refused(text).is_empty(), "{text}");
        }
    }
}
