//! Which versions of a path there are: the snapshots that syncs have left, and what each of them is of.
//!
//! Pure: from what a machine has of snapshots and mounts to what is asked of its agent.

use std::collections::BTreeSet;

use jiff::Timestamp;

use crate::escape::{escape_bytes, escape_str};
use crate::modules::space::holder;
use crate::record::sessions::find;
use crate::run::error::RunError;
use crate::snapshot::name::{SnapshotKind, SnapshotName};
use crate::snapshot::{SnapshotFacts, Subvolume};

/// A snapshot of a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version {
    /// The session.
    pub session: String,
    /// Whether it was taken before or after it.
    pub kind: SnapshotKind,
    /// When.
    pub at: Timestamp,
    /// Of which subvolume.
    pub subvolume: String,
    /// Where it is.
    pub path: String,
}

impl Version {
    /// Which one it is, for people: `before session 1f3a0c2e, 2026-11-21 10:00:00 UTC`.
    #[must_use]
    pub fn words(&self) -> String {
        let when = match self.kind {
            SnapshotKind::Presync => "before",
            SnapshotKind::Postsync => "after",
        };
        let at = self.at.strftime("%F %T UTC");
        format!("{when} session {}, {at}", escape_str(&self.session))
    }
}

/// The snapshots to look into, in this order: the newest first, or those of one session, of which the one
/// from before it comes first.
pub fn versions(
    snapshots: Vec<SnapshotFacts>,
    session: Option<&str>,
) -> Result<Vec<Version>, RunError> {
    let mut all: Vec<Version> = (snapshots.into_iter())
        // One that somebody has written to is no version of anything.
        .filter(SnapshotFacts::is_untouched)
        .filter_map(|facts| {
            let name = SnapshotName::parse(&facts.name)?;
            Some(Version {
                session: name.session,
                kind: name.kind,
                at: name.at,
                subvolume: name.subvolume,
                path: facts.path,
            })
        })
        .collect();
    all.sort_by(|a, b| (b.at, b.kind, &b.session).cmp(&(a.at, a.kind, &a.session)));
    let Some(wanted) = session else {
        return Ok(all);
    };
    let known: BTreeSet<&str> = all.iter().map(|version| &*version.session).collect();
    let session = find(known.into_iter(), wanted).map_err(|error| RunError::Usage {
        message: format!("{error} of which there are snapshots"),
        hint: "`pc-switcher snapshots list` shows what there is to go back to".to_owned(),
    })?;
    let session = session.to_owned();
    all.retain(|version| version.session == session);
    all.sort_by_key(|version| version.kind);
    Ok(all)
}

/// A path to restore.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// As a person means it: absolute, without `.` and `..`.
    pub path: Vec<u8>,
    /// The subvolume that holds it.
    pub subvolume: String,
    /// Where that is mounted.
    pub mount_point: String,
    /// The path below it.
    pub below: Vec<u8>,
}

impl Wanted {
    /// The path, for people.
    #[must_use]
    pub fn shown(&self) -> String {
        escape_bytes(&self.path)
    }

    /// The directory it is in, below the subvolume, and its name.
    #[must_use]
    pub fn split(&self) -> (&[u8], &[u8]) {
        match self.below.iter().rposition(|b| *b == b'/') {
            Some(slash) => (&self.below[..slash], &self.below[slash + 1..]),
            None => (b"", &self.below),
        }
    }
}

/// Whether `path` is `top` or inside it.
pub(super) fn is_at_or_below(path: &[u8], top: &[u8]) -> bool {
    match path.strip_prefix(top) {
        Some(rest) => rest.is_empty() || rest.starts_with(b"/"),
        None => false,
    }
}

/// Finds the subvolumes that hold `paths`; what is inside another one of them comes with it.
pub fn wanted(paths: &[Vec<u8>], mounted: &[Subvolume]) -> Result<Vec<Wanted>, RunError> {
    let sorted: BTreeSet<&Vec<u8>> = paths.iter().collect();
    let mut all = Vec::<Wanted>::new();
    for path in sorted {
        if all.iter().any(|other| is_at_or_below(path, &other.path)) {
            continue;
        }
        let shown = escape_bytes(path);
        let subvolume = holder(mounted, path).ok_or_else(|| RunError::Usage {
            message: format!("{shown} is in no subvolume of which there are snapshots"),
            hint: "`pc-switcher snapshots list` shows which subvolumes there are snapshots of"
                .to_owned(),
        })?;
        let top = subvolume.mount_point.trim_end_matches('/').len();
        let below = path.get(top + 1..).unwrap_or_default().to_vec();
        if below.is_empty() {
            return Err(RunError::Usage {
                message: format!("{shown} is a whole subvolume"),
                hint: format!(
                    "`pc-switcher rollback --local --subvolume {}` puts it back",
                    escape_str(&subvolume.name)
                ),
            });
        }
        all.push(Wanted {
            path: path.clone(),
            subvolume: subvolume.name.clone(),
            mount_point: subvolume.mount_point.clone(),
            below,
        });
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::testing::snapshot;

    fn subvolume(name: &str, mount_point: &str) -> Subvolume {
        Subvolume {
            name: name.into(),
            mount_point: mount_point.into(),
            id: 256,
            uuid: String::new(),
            generation: 1,
            filesystem: "f".into(),
            nested: Vec::new(),
        }
    }

    fn order(session: Option<&str>) -> Result<Vec<String>, RunError> {
        let touched = SnapshotFacts {
            changed_generation: 9,
            ..snapshot("@home-presync-20260105T000000Z-00000005")
        };
        let writable = SnapshotFacts {
            readonly: false,
            ..snapshot("@home-presync-20260106T000000Z-00000006")
        };
        let all = vec![
            snapshot("@home-presync-20260101T000000Z-0000000a"),
            snapshot("@home-postsync-20260101T000000Z-0000000a"),
            snapshot("@home-presync-20260103T000000Z-0000000c"),
            snapshot("@home-postsync-20260103T000010Z-0000000c"),
            snapshot("somebody-elses"),
            touched,
            writable,
        ];
        let found = versions(all, session)?;
        Ok(found.iter().map(Version::words).collect())
    }

    #[test]
    fn the_newest_version_is_asked_first_and_of_a_session_the_one_before_it() {
        assert_eq!(
            order(None).unwrap(),
            [
                "after session 0000000c, 2026-01-03 00:00:10 UTC",
                "before session 0000000c, 2026-01-03 00:00:00 UTC",
                "after session 0000000a, 2026-01-01 00:00:00 UTC",
                "before session 0000000a, 2026-01-01 00:00:00 UTC",
            ]
        );
        assert_eq!(
            order(Some("0000000C")).unwrap(),
            [
                "before session 0000000c, 2026-01-03 00:00:00 UTC",
                "after session 0000000c, 2026-01-03 00:00:10 UTC",
            ]
        );
        for wrong in ["0", "b", "00000005"] {
            let error = order(Some(wrong)).unwrap_err();
            assert!(matches!(error, RunError::Usage { .. }), "{wrong}");
        }
    }

    #[test]
    fn a_path_is_found_in_its_subvolume_and_what_is_inside_another_comes_with_it() {
        let both = [subvolume("@", "/"), subvolume("@home", "/home")];
        let found = |paths: &[&[u8]]| -> Vec<(String, Vec<u8>)> {
            let paths: Vec<Vec<u8>> = paths.iter().map(|path| path.to_vec()).collect();
            let all = wanted(&paths, &both).unwrap();
            all.into_iter().map(|w| (w.subvolume, w.below)).collect()
        };
        assert_eq!(
            found(&[b"/home/ann/a\xff", b"/etc/hosts", b"/homework"]),
            [
                ("@".to_owned(), b"etc/hosts".to_vec()),
                ("@home".to_owned(), b"ann/a\xff".to_vec()),
                ("@".to_owned(), b"homework".to_vec()),
            ]
        );
        assert_eq!(
            found(&[b"/home/ann/b", b"/home/ann", b"/home/ann", b"/home/anna"]),
            [
                ("@home".to_owned(), b"ann".to_vec()),
                ("@home".to_owned(), b"anna".to_vec()),
            ]
        );
        for (path, mounted) in [("/home", &both[..]), ("/", &both[..]), ("/etc", &both[1..])] {
            let error = wanted(&[path.as_bytes().to_vec()], mounted).unwrap_err();
            assert!(matches!(error, RunError::Usage { .. }), "{path}");
        }
    }

    #[test]
    fn a_path_is_taken_apart_where_its_name_begins() {
        let mut one = Wanted {
            path: b"/home/a/b".to_vec(),
            subvolume: "@home".to_owned(),
            mount_point: "/home".to_owned(),
            below: b"a/b".to_vec(),
        };
        assert_eq!(one.split(), (&b"a"[..], &b"b"[..]));
        assert!(is_at_or_below(b"a/b", b"a/b") && is_at_or_below(b"a/b/c", b"a/b"));
        assert!(!is_at_or_below(b"a/bc", b"a/b") && !is_at_or_below(b"a", b"a/b"));
        one.below = b"b".to_vec();
        assert_eq!(one.split(), (&b""[..], &b"b"[..]));
    }
}
