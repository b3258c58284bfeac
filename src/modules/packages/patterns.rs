//! Package names that are never converged: what belongs to a machine's hardware.

/// Names with `*` for any run of characters.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Patterns(Vec<String>);

impl Patterns {
    /// These patterns.
    #[must_use]
    pub fn new(patterns: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self(patterns.into_iter().map(Into::into).collect())
    }

    /// The pattern that `name` (without architecture) matches, if one does.
    #[must_use]
    pub fn matching(&self, name: &str) -> Option<&str> {
        let name = name.split(':').next().unwrap_or_default();
        (self.0.iter())
            .find(|pattern| matches(pattern.as_bytes(), name.as_bytes()))
            .map(String::as_str)
    }
}

/// In time of at most the product of both lengths.
fn matches(pattern: &[u8], name: &[u8]) -> bool {
    let (mut p, mut n) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while n < name.len() {
        if pattern.get(p) == Some(&b'*') {
            star = Some((p, n));
            p += 1;
        } else if pattern.get(p) == Some(&name[n]) {
            p += 1;
            n += 1;
        } else if let Some((star_p, star_n)) = star {
            p = star_p + 1;
            n = star_n + 1;
            star = Some((star_p, n));
        } else {
            return false;
        }
    }
    pattern[p..].iter().all(|&byte| byte == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_any_run() {
        for (pattern, name, expected) in [
            ("linux-image-*", "linux-image-6.1.0-18-amd64", true),
            ("linux-image-*", "linux-image", false),
            ("*-dkms", "v4l2loopback-dkms", true),
            ("*-dkms", "dkms", false),
            ("a*b*c", "a-b-b-c", true),
            ("a*b*c", "a-c-b", false),
            ("grub-*", "grub-pc:amd64", true),
            ("exact", "exact", true),
            ("exact", "exactly", false),
            ("*", "", true),
        ] {
            let patterns = Patterns::new([pattern]);
            assert_eq!(
                patterns.matching(name).is_some(),
                expected,
                "{pattern} {name}"
            );
        }
    }
}
