//! Names and versions of packages as dpkg and apt have them.

/// Whether it can be the name of a package (dpkg's own rule, with its architecture), and to apt neither an
/// option, nor a file, nor the wish to remove it.
#[must_use]
pub fn is_name(name: &str) -> bool {
    let (plain, architecture) = name.split_once(':').unwrap_or((name, "all"));
    name.len() <= 255
        && plain.starts_with(|c: char| c.is_ascii_alphanumeric())
        && (plain.chars()).all(|c| c.is_ascii_alphanumeric() || "-+._".contains(c))
        && !plain.ends_with('-')
        && is_architecture(architecture)
}

/// Whether it can be the name of an architecture (dpkg's own rule).
#[must_use]
pub fn is_architecture(name: &str) -> bool {
    (1..=64).contains(&name.len())
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && (name.chars()).all(|c| c.is_ascii_alphanumeric() || c == '-')
}

/// Whether it can be a version (deb-version(7)), and no pattern.
#[must_use]
pub fn is_version(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= 255
        && (text.chars()).all(|c| c.is_ascii_alphanumeric() || ".+-~:".contains(c))
}

/// The name without the machine's own architecture.
#[must_use]
pub fn own_name<'a>(name: &'a str, architecture: &str) -> &'a str {
    match name.split_once(':') {
        Some((plain, arch)) if arch == architecture || arch == "all" => plain,
        _ => name,
    }
}

/// The name without any architecture.
#[must_use]
pub fn plain_name(name: &str) -> &str {
    name.split_once(':').map_or(name, |(plain, _)| plain)
}

/// The foreign architecture that a name says, if it says one.
#[must_use]
pub fn foreign_architecture(name: &str) -> Option<&str> {
    name.split_once(':').map(|(_, architecture)| architecture)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_names_and_nothing_else_to_apt() {
        for name in [
            "g++",
            "libstdc++6:i386",
            "0ad",
            "a.b_C",
            "python3.11",
            "x:all",
        ] {
            assert!(is_name(name), "{name}");
        }
        for name in [
            "",
            "-o",
            "--purge",
            "sudo-",
            "sudo-:amd64",
            "/tmp/x.deb",
            "./x.deb",
            "x/stable",
            "x=1",
            "x*",
            "^x",
            "?essential",
            "~i",
            "x y",
            "x:",
            "x:-",
            "x:a:b",
            "x\u{1b}[2J",
        ] {
            assert!(!is_name(name), "{name:?}");
        }
        for version in ["1:2.36-9+deb12u4", "1.0~rc1"] {
            assert!(is_version(version), "{version}");
        }
        for version in ["", "1.0*", "1 2", "1/2", "1=2"] {
            assert!(!is_version(version), "{version}");
        }
        assert_eq!(own_name("libc6:amd64", "amd64"), "libc6");
        assert_eq!(own_name("libc6:i386", "amd64"), "libc6:i386");
        assert_eq!(plain_name("libc6:i386"), "libc6");
        assert_eq!(foreign_architecture("libc6:i386"), Some("i386"));
        assert_eq!(foreign_architecture("libc6"), None);
        for architecture in ["", "--help", "i386\n", "a b", &"x".repeat(65)] {
            assert!(!is_architecture(architecture), "{architecture:?}");
        }
    }
}
