//! What `apt-cache policy` says: which versions there are, from where, and who the places say they are.

use std::collections::BTreeMap;

use super::sources::origin;

/// What apt knows of one package.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Policy {
    /// The installed version.
    pub installed: Option<String>,
    /// The version an install would take.
    pub candidate: Option<String>,
    /// Every version with the origins that offer it; none for one that is only installed.
    pub versions: Vec<(String, Vec<String>)>,
}

impl Policy {
    /// Origins that offer `version`.
    #[must_use]
    pub fn origins_of(&self, version: &str) -> Vec<String> {
        (self.versions.iter())
            .filter(|(v, _)| v == version)
            .flat_map(|(_, origins)| origins.iter().cloned())
            .collect()
    }

    /// Where what is installed comes from: the origins of its version, or, when its version has been
    /// superseded, of the package's other versions. None: no place offers this package at all.
    #[must_use]
    pub fn installed_origins(&self) -> Vec<String> {
        let of_version = self
            .installed
            .as_deref()
            .map(|version| self.origins_of(version))
            .unwrap_or_default();
        if !of_version.is_empty() {
            return of_version;
        }
        let mut all: Vec<String> = (self.versions.iter())
            .flat_map(|(_, origins)| origins.iter().cloned())
            .collect();
        all.sort_unstable();
        all.dedup();
        all
    }
}

/// Reads the answer for named packages. A package apt has never heard of is not in it.
#[must_use]
pub fn parse(text: &str) -> BTreeMap<String, Policy> {
    let mut all = BTreeMap::new();
    let mut name: Option<String> = None;
    let mut policy = Policy::default();
    for line in text.lines() {
        if !line.starts_with(' ') {
            if let Some(name) = name.take() {
                all.insert(name, std::mem::take(&mut policy));
            }
            name = line.strip_suffix(':').map(str::to_owned);
            continue;
        }
        let body = line.trim();
        let version = |value: &str| (value != "(none)").then(|| value.to_owned());
        if let Some(value) = body.strip_prefix("Installed: ") {
            policy.installed = version(value);
        } else if let Some(value) = body.strip_prefix("Candidate: ") {
            policy.candidate = version(value);
        } else if line.starts_with("        ") {
            // `500 http://host/path suite/component arch Packages`
            let mut words = body.split_whitespace();
            let place = words.nth(1).filter(|place| place.contains(':'));
            if let (Some(place), Some((_, origins))) = (place, policy.versions.last_mut()) {
                let place = origin(place);
                if !origins.contains(&place) {
                    origins.push(place);
                }
            }
        } else if line.starts_with("     ") || line.starts_with(" *** ") {
            // `*** version priority` or `version priority`
            let mut words = body.trim_start_matches("*** ").split_whitespace();
            if let Some(version) = words.next() {
                policy.versions.push((version.to_owned(), Vec::new()));
            }
        }
    }
    if let Some(name) = name {
        all.insert(name, policy);
    }
    all
}

/// Reads the answer without names: who each place says it is (`o=` of its Release file).
#[must_use]
pub fn parse_labels(text: &str) -> BTreeMap<String, String> {
    let mut labels = BTreeMap::new();
    let mut place = None;
    for line in text.lines() {
        let body = line.trim();
        if let Some(release) = body.strip_prefix("release ") {
            let label = release
                .split(',')
                .find_map(|field| field.strip_prefix("o="));
            if let (Some(place), Some(label)) = (place.take(), label) {
                labels.insert(place, label.to_owned());
            }
        } else {
            place = (body.split_whitespace().nth(1))
                .filter(|word| word.contains(':'))
                .map(origin);
        }
    }
    labels
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANSWER: &str = "\
firefox:
  Installed: 128.0-1
  Candidate: 129.0-1
  Version table:
     129.0-1 500
        500 https://packages.vendor.example/apt mozilla/main amd64 Packages
        500 https://packages.vendor.example/apt/ mozilla/main all Packages
 *** 128.0-1 100
        100 /var/lib/dpkg/status
     102.0-1 500
        500 http://deb.example/debian bookworm/main amd64 Packages
libc6:i386:
  Installed: 2.36-9
  Candidate: 2.36-9
  Version table:
 *** 2.36-9 500
        500 http://deb.example/debian bookworm/main i386 Packages
        100 /var/lib/dpkg/status
handmade:
  Installed: 1.0
  Candidate: 1.0
  Version table:
 *** 1.0 100
        100 /var/lib/dpkg/status
virtual-only:
  Installed: (none)
  Candidate: (none)
  Version table:
";

    #[test]
    fn versions_and_their_places() {
        let all = parse(ANSWER);
        assert_eq!(all.len(), 4);
        let firefox = &all["firefox"];
        assert_eq!(firefox.candidate.as_deref(), Some("129.0-1"));
        assert_eq!(
            firefox.origins_of("129.0-1"),
            ["packages.vendor.example/apt"]
        );
        assert_eq!(
            firefox.installed_origins(),
            ["deb.example/debian", "packages.vendor.example/apt"],
            "a superseded version still belongs to whoever offers the package"
        );
        assert_eq!(
            all["libc6:i386"].installed_origins(),
            ["deb.example/debian"]
        );
        assert!(all["handmade"].installed_origins().is_empty());
        assert_eq!(all["virtual-only"].candidate, None);
    }

    #[test]
    fn places_say_who_they_are() {
        let text = "Package files:\n 100 /var/lib/dpkg/status\n     release a=now\n 500 http://deb.example/debian bookworm/main amd64 Packages\n     release v=12.5,o=Debian,a=stable,n=bookworm\n     origin deb.example\n 500 file:/srv/v ./ Packages\n     release c=\n     origin \nPinned packages:\n";
        let labels = parse_labels(text);
        assert_eq!(labels.len(), 1);
        assert_eq!(labels["deb.example/debian"], "Debian");
    }
}
