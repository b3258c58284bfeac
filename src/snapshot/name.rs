//! Names of our snapshots: `{subvolume}-{presync|postsync}-{YYYYMMDDTHHMMSSZ}-{session}`.
//!
//! The name is the only mark by which a snapshot is ours. Parsing is the exact inverse of
//! formatting: what does not come out again as it went in is not ours and is never touched.

use std::borrow::Cow;
use std::fmt;

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;

/// Longest flat name whose snapshots still have a valid file name.
const SUBVOLUME_MAX: usize = 255 - "-postsync-".len() - "YYYYMMDDTHHMMSSZ-".len() - SESSION_LEN;

/// Hex digits of a session id.
const SESSION_LEN: usize = 8;

/// Before or after the changes of a sync.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SnapshotKind {
    /// What a rollback goes back to.
    Presync,
    /// What the sync made of it.
    Postsync,
}

impl SnapshotKind {
    /// The word in the name.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Presync => "presync",
            Self::Postsync => "postsync",
        }
    }
}

/// A snapshot's name, taken apart.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SnapshotName {
    /// Flat name of the subvolume.
    pub subvolume: String,
    /// Before or after.
    pub kind: SnapshotKind,
    /// When the session's snapshots were made, in whole seconds.
    pub at: Timestamp,
    /// Session id, 8 lower-case hex digits.
    pub session: String,
}

/// Whether `session` is 8 lower-case hex digits.
#[must_use]
pub fn is_session_id(session: &str) -> bool {
    session.len() == SESSION_LEN
        && session
            .bytes()
            .all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// Whether `name` can be the name of a subvolume we snapshot, as `btrfs subvolume list` prints it: a
/// path from the top level without `.` and `..`, not hidden, without control characters.
#[must_use]
pub fn is_flat_name(name: &str) -> bool {
    encoded(name).len() <= SUBVOLUME_MAX
        && !name.starts_with('.')
        && !name.split('/').any(|part| matches!(part, "" | "." | ".."))
        && !name.chars().any(char::is_control)
}

/// A subvolume's name as part of a file name: openSUSE's `@/home` is `@%2fhome`.
fn encoded(name: &str) -> Cow<'_, str> {
    if name.contains(['%', '/']) {
        Cow::Owned(name.replace('%', "%25").replace('/', "%2f"))
    } else {
        Cow::Borrowed(name)
    }
}

/// The inverse of [`encoded`]; `None` for what that never makes.
fn decoded(text: &str) -> Option<String> {
    let name = text.replace("%2f", "/").replace("%25", "%");
    (encoded(&name) == text).then_some(name)
}

impl SnapshotName {
    /// Takes `name` apart; `None` if it is not one of ours.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        let (rest, session) = name.rsplit_once('-')?;
        let (rest, at) = rest.rsplit_once('-')?;
        let (subvolume, kind) = rest.rsplit_once('-')?;
        let kind = match kind {
            "presync" => SnapshotKind::Presync,
            "postsync" => SnapshotKind::Postsync,
            _ => return None,
        };
        let parsed = Self {
            subvolume: decoded(subvolume)?,
            kind,
            at: parse_time(at)?,
            session: session.to_owned(),
        };
        (is_flat_name(&parsed.subvolume) && is_session_id(session)).then_some(parsed)
    }
}

impl fmt::Display for SnapshotName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}-{}-{}-{}",
            encoded(&self.subvolume),
            self.kind.word(),
            self.at.strftime("%Y%m%dT%H%M%SZ"),
            self.session
        )
    }
}

fn parse_time(text: &str) -> Option<Timestamp> {
    let bytes: &[u8; 16] = text.as_bytes().try_into().ok()?;
    if bytes[8] != b'T' || bytes[15] != b'Z' {
        return None;
    }
    let number = |from: usize, to: usize| -> Option<i16> {
        bytes[from..to].iter().try_fold(0, |sum, digit| {
            digit
                .is_ascii_digit()
                .then(|| sum * 10 + i16::from(digit - b'0'))
        })
    };
    let small = |from| number(from, from + 2).and_then(|n| i8::try_from(n).ok());
    DateTime::new(
        number(0, 4)?,
        small(4)?,
        small(6)?,
        small(9)?,
        small(11)?,
        small(13)?,
        0,
    )
    .ok()?
    .to_zoned(TimeZone::UTC)
    .ok()
    .map(|z| z.timestamp())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_name_is_taken_apart() {
        let name = SnapshotName::parse("my-data-presync-20251115T120005Z-abc12345").unwrap();
        assert_eq!(name.subvolume, "my-data");
        assert_eq!(name.kind, SnapshotKind::Presync);
        assert_eq!(name.at.to_string(), "2025-11-15T12:00:05Z");
        assert_eq!(name.session, "abc12345");
    }

    #[test]
    fn what_is_not_exactly_ours_is_not_ours() {
        for name in [
            "",
            "@home",
            "-presync-20251115T120000Z-abc12345",
            ".x-presync-20251115T120000Z-abc12345",
            "a/b-presync-20251115T120000Z-abc12345",
            "a%2-presync-20251115T120000Z-abc12345",
            "a%2F-presync-20251115T120000Z-abc12345",
            "@%2f-presync-20251115T120000Z-abc12345",
            "@%2f..%2fhome-presync-20251115T120000Z-abc12345",
            "a\n-presync-20251115T120000Z-abc12345",
            "@-presync-20251115T120000Z-ABC12345",
            "@-presync-20251115T120000Z-abc1234",
            "@-presync-20251115T120000Z-abc123456",
            "@-midsync-20251115T120000Z-abc12345",
            "@-presync-20251315T120000Z-abc12345",
            "@-presync-20250230T120000Z-abc12345",
            "@-presync-20251115T250000Z-abc12345",
            "@-presync-20251115T120060Z-abc12345",
            "@-presync-2025-115T120000Z-abc12345",
            "@-presync-+2025115T120000Z-abc12345",
            "@-presync-20251115 120000Z-abc12345",
            "@-presync-20251115T120000Z-abc12345 ",
            "@-presync-20251115T120000Z-abc12345-old",
        ] {
            assert_eq!(SnapshotName::parse(name), None, "{name:?}");
        }
    }

    #[test]
    fn the_longest_subvolume_still_gives_a_file_name() {
        let name = SnapshotName {
            subvolume: "x".repeat(SUBVOLUME_MAX),
            kind: SnapshotKind::Postsync,
            at: Timestamp::from_second(0).unwrap(),
            session: "00000000".to_owned(),
        };
        assert_eq!(name.to_string().len(), 255);
        assert!(SnapshotName::parse(&name.to_string()).is_some());
        assert!(SnapshotName::parse(&format!("x{name}")).is_none());
    }

    proptest! {
        #[test]
        fn formatting_and_parsing_are_inverse(
            subvolume in "[@a-z%][-@a-z0-9_% ]{0,20}(/[.@a-z%][-@a-z0-9%]{1,9}){0,2}",
            post in any::<bool>(),
            second in 0_i64..253_402_200_000,
            session in "[0-9a-f]{8}",
        ) {
            let kind = if post { SnapshotKind::Postsync } else { SnapshotKind::Presync };
            let at = Timestamp::from_second(second).unwrap();
            let name = SnapshotName { subvolume, kind, at, session };
            prop_assert_eq!(SnapshotName::parse(&name.to_string()), Some(name));
        }

        #[test]
        fn whatever_parses_comes_out_as_it_went_in(text in "[@a-z-]{0,6}-(presync|postsync)-[0-9]{8}T[0-9]{6}Z-[0-9a-f]{8}") {
            if let Some(name) = SnapshotName::parse(&text) {
                prop_assert_eq!(name.to_string(), text);
            }
        }
    }
}
