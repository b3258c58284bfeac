//! Names and paths as bytes, and which of them can be.
//!
//! A path is relative to a folder and has no slash at either end; the folder itself is the empty path.

/// Longest file name Linux allows (`NAME_MAX`).
pub const NAME_MAX: usize = 255;
/// Directories this many levels down are not looked into: each level costs an open file and a path.
pub const DEPTH_MAX: usize = 1000;
/// Longest path we carry; trees may be deeper than `PATH_MAX`, but not without end.
pub const PATH_LIMIT: usize = (DEPTH_MAX + 2) * (NAME_MAX + 1);

/// Whether `name` is one a directory can hold and we may create: not empty, `.` or `..`, no slash, no NUL.
#[must_use]
pub fn is_valid_name(name: &[u8]) -> bool {
    !name.is_empty()
        && name.len() <= NAME_MAX
        && name != b"."
        && name != b".."
        && !name.iter().any(|b| matches!(b, 0 | b'/'))
}

/// Whether `path` is empty (the folder itself) or valid names joined by single slashes.
#[must_use]
pub fn is_valid_path(path: &[u8]) -> bool {
    path.is_empty() || (path.len() <= PATH_LIMIT && path.split(|b| *b == b'/').all(is_valid_name))
}

/// `parent` and `name` joined by a slash.
#[must_use]
pub fn join(parent: &[u8], name: &[u8]) -> Vec<u8> {
    let mut path = Vec::with_capacity(parent.len() + 1 + name.len());
    path.extend_from_slice(parent);
    if !parent.is_empty() {
        path.push(b'/');
    }
    path.extend_from_slice(name);
    path
}

/// The directories above a path, from the top, the folder itself not among them.
pub fn above(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    let slashes = path.iter().enumerate().filter(|(_, b)| **b == b'/');
    slashes.map(|(at, _)| &path[..at])
}

/// A path's parent and last name; the folder itself has neither.
#[must_use]
pub fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|b| *b == b'/') {
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => (b"", path),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_leave_the_directory_are_refused() {
        for name in [&b""[..], b".", b"..", b"a/b", b"a\0", &[b'x'; 256]] {
            assert!(!is_valid_name(name), "{name:?}");
        }
        for path in [&b"/"[..], b"a//b", b"a/", b"/a", b"a/../b"] {
            assert!(!is_valid_path(path), "{path:?}");
        }
        assert!(is_valid_path(b"") && is_valid_path(b"a/..b/c\xff"));
    }
}
