//! Where apt gets packages from: `sources.list(5)`, both forms, as far as identity needs them.

use std::collections::BTreeMap;

use crate::modules::packages::tools::redact;

/// One place packages come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Addresses, as written.
    pub uris: Vec<String>,
    /// Key files it names. Keys written into the file itself are not listed: they travel with it.
    pub keys: Vec<String>,
    /// Whether a key is named or written in at all.
    pub signed_by: bool,
    /// Whether apt is told to take what is there without checking signatures.
    pub unchecked: bool,
    /// Whether it is about packages to install, and not about their sources alone.
    pub binaries: bool,
    /// Which architectures' packages apt takes from there.
    pub architectures: Architectures,
}

/// The architectures of an entry: `arch=`, `arch+=`, `arch-=`, or the fields of the same meaning.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Architectures {
    /// Only these; nothing: all that the machine has.
    only: Option<Vec<String>>,
    /// These, too.
    more: Vec<String>,
    /// But not these.
    less: Vec<String>,
}

impl Architectures {
    fn take(&mut self, how: Option<char>, value: &str) {
        let names = (value.split(|c: char| c == ',' || c.is_whitespace()))
            .filter(|name| !name.is_empty())
            .map(str::to_owned);
        match how {
            Some('+') => self.more.extend(names),
            Some('-') => self.less.extend(names),
            _ => self.only.get_or_insert_default().extend(names),
        }
    }
}

impl Entry {
    /// Whether packages of an architecture, which the machine has, are taken from there.
    #[must_use]
    pub fn serves(&self, architecture: &str) -> bool {
        let Architectures { only, more, less } = &self.architectures;
        let has = |list: &[String]| list.iter().any(|name| name == architecture);
        self.binaries
            && !has(less)
            && (has(more)
                || only
                    .as_deref()
                    .is_none_or(|only| only.is_empty() || has(only)))
    }
}

/// Options that switch the check of signatures off, and what says yes to them (sources.list(5)).
const UNCHECKED: [&str; 2] = ["trusted", "allow-insecure"];
const YES: [&str; 6] = ["yes", "true", "with", "on", "enable", "1"];

fn is_yes(value: &str) -> bool {
    YES.iter().any(|yes| value.eq_ignore_ascii_case(yes))
}

/// The packages' origin that an address stands for: without scheme where that is `http` or `https`,
/// user info and trailing slashes, so that the same vendor has one name on both machines.
#[must_use]
pub fn origin(uri: &str) -> String {
    let mut uri = uri.trim();
    for scheme in ["https://", "http://", "mirror+https://", "mirror+http://"] {
        if let Some(rest) = uri.strip_prefix(scheme) {
            uri = rest;
            let end = uri.find('/').unwrap_or(uri.len());
            if let Some(at) = uri[..end].rfind('@') {
                uri = &uri[at + 1..];
            }
            break;
        }
    }
    redact(uri.trim_end_matches('/')).replace("***@", "")
}

/// The entries of a sources file that are switched on. What apt would not understand is skipped:
/// apt itself says so at its refresh.
#[must_use]
pub fn parse(path: &str, text: &str) -> Vec<Entry> {
    if path.ends_with(".sources") {
        parse_deb822(text)
    } else {
        text.lines().filter_map(parse_line).collect()
    }
}

/// `deb [ option=value ... ] uri suite component...`
fn parse_line(line: &str) -> Option<Entry> {
    let line = line.split('#').next().unwrap_or_default().trim();
    let rest = line.strip_prefix("deb")?;
    let (binaries, rest) = match rest.strip_prefix("-src") {
        Some(rest) => (false, rest),
        None => (true, rest),
    };
    let rest = rest.strip_prefix(char::is_whitespace)?.trim_start();
    let mut entry = Entry {
        uris: Vec::new(),
        keys: Vec::new(),
        signed_by: false,
        unchecked: false,
        binaries,
        architectures: Architectures::default(),
    };
    let rest = match rest.strip_prefix('[') {
        Some(rest) => {
            let (options, rest) = rest.split_once(']')?;
            for option in options.split_whitespace() {
                let Some((name, value)) = option.split_once('=') else {
                    continue;
                };
                let how = name.chars().last().filter(|c| "+-".contains(*c));
                let name = name.trim_end_matches(['+', '-']).to_ascii_lowercase();
                if name == "arch" {
                    entry.architectures.take(how, value);
                }
                if name == "signed-by" {
                    entry.signed_by = true;
                    entry.keys.extend(key_files(value));
                }
                entry.unchecked |= UNCHECKED.contains(&&*name) && is_yes(value);
            }
            rest.trim_start()
        }
        None => rest,
    };
    entry.uris.push(rest.split_whitespace().next()?.to_owned());
    Some(entry)
}

/// Stanzas of `Name: value`, continued on lines that begin with a blank.
fn parse_deb822(text: &str) -> Vec<Entry> {
    let mut entries = Vec::new();
    let mut stanza: BTreeMap<String, String> = BTreeMap::new();
    let mut last: Option<String> = None;
    for line in text.lines().chain([""]) {
        if line.starts_with('#') {
            continue;
        }
        if line.trim().is_empty() {
            entries.extend(stanza_entry(&std::mem::take(&mut stanza)));
            last = None;
        } else if line.starts_with([' ', '\t']) {
            if let Some(value) = last.as_ref().and_then(|name| stanza.get_mut(name)) {
                value.push('\n');
                value.push_str(line.trim());
            }
        } else if let Some((name, value)) = line.split_once(':') {
            let name = name.trim().to_ascii_lowercase();
            stanza.insert(name.clone(), value.trim().to_owned());
            last = Some(name);
        }
    }
    entries
}

fn stanza_entry(stanza: &BTreeMap<String, String>) -> Option<Entry> {
    let off = ["no", "false", "without", "off", "disable", "0"];
    let enabled = stanza.get("enabled");
    if enabled.is_some_and(|value| off.contains(&value.to_ascii_lowercase().as_str())) {
        return None;
    }
    let words = |name: &str| -> Vec<String> {
        let value = stanza.get(name).map_or("", String::as_str);
        value.split_whitespace().map(str::to_owned).collect()
    };
    let uris = words("uris");
    let signed_by = stanza.get("signed-by").map(String::as_str);
    let inline = signed_by.is_some_and(|value| value.contains("-----BEGIN"));
    let keys = match signed_by {
        Some(value) if !inline => value.split_whitespace().flat_map(key_files).collect(),
        _ => Vec::new(),
    };
    let mut architectures = Architectures::default();
    for (field, how) in [
        ("architectures", None),
        ("architectures-add", Some('+')),
        ("architectures-remove", Some('-')),
    ] {
        if let Some(value) = stanza.get(field) {
            architectures.take(how, value);
        }
    }
    (!uris.is_empty()).then_some(Entry {
        binaries: words("types").iter().any(|word| word == "deb"),
        architectures,
        uris,
        keys,
        signed_by: signed_by.is_some(),
        unchecked: (UNCHECKED.iter()).any(|name| stanza.get(*name).is_some_and(|v| is_yes(v))),
    })
}

/// Absolute paths are files; anything else is a fingerprint.
fn key_files(value: &str) -> impl Iterator<Item = String> + '_ {
    (value.split(','))
        .map(str::trim)
        .filter(|key| key.starts_with('/'))
        .map(str::to_owned)
}

/// Whether apt reads a file of this name in a directory of parts (apt.conf(5): letters, digits,
/// `-`, `_` and `.`, with one of these endings; `""` stands for no ending at all).
#[must_use]
pub fn is_read(name: &str, endings: &[&str]) -> bool {
    let plain = (name.bytes()).all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
    let ending = name.rsplit_once('.').map_or("", |(_, ending)| ending);
    plain && !name.is_empty() && !name.starts_with('.') && endings.contains(&ending)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uris(path: &str, text: &str) -> Vec<String> {
        parse(path, text).into_iter().flat_map(|e| e.uris).collect()
    }

    #[test]
    fn one_line_entries() {
        let text = "# deb http://off.example/ x\n\
                    deb http://deb.example/debian/ bookworm main # why\n\
                    deb-src http://deb.example/debian bookworm main\n\
                    \tdeb [arch=amd64 signed-by=/usr/share/keyrings/v.gpg,/etc/apt/keyrings/w.asc] https://u:p@v.example/apt stable main\n\
                    deb [signed-by=ABCDEF0123] file:/srv/repo ./\n\
                    debris http://no.example x\n";
        let entries = parse("/etc/apt/sources.list", text);
        assert_eq!(entries.len(), 4);
        assert_eq!(
            entries[2].keys,
            ["/usr/share/keyrings/v.gpg", "/etc/apt/keyrings/w.asc"]
        );
        assert!(entries[3].signed_by && entries[3].keys.is_empty());
        assert!(entries.iter().all(|entry| !entry.unchecked));
        for (path, text, unchecked) in [
            (
                "a.list",
                "deb [ arch=amd64 Trusted=yes ] http://v.example x",
                true,
            ),
            ("a.list", "deb [trusted=no] http://v.example x", false),
            (
                "a.sources",
                "URIs: http://v.example\nAllow-Insecure: 1\n",
                true,
            ),
        ] {
            assert_eq!(parse(path, text)[0].unchecked, unchecked, "{text}");
        }
        let origins: Vec<String> = entries.iter().map(|e| origin(&e.uris[0])).collect();
        assert_eq!(
            origins,
            [
                "deb.example/debian",
                "deb.example/debian",
                "v.example/apt",
                "file:/srv/repo"
            ]
        );
    }

    #[test]
    fn stanzas() {
        let text = "Types: deb\nURIs: http://a.example/x/ http://b.example/y\nSuites: s\nSigned-By:\n \
                    -----BEGIN PGP PUBLIC KEY BLOCK-----\n .\n abc/def\n -----END PGP PUBLIC KEY BLOCK-----\n\n\
                    # a comment\nTypes: deb\nEnabled: no\nURIs: http://off.example\n\n\
                    uris: https://c.example\nSigned-By: /k/one.gpg\n  /k/two.asc\n";
        let entries = parse("/etc/apt/sources.list.d/x.sources", text);
        assert_eq!(entries.len(), 2);
        assert!(
            entries[0].signed_by && entries[0].keys.is_empty(),
            "a key within is no file"
        );
        assert_eq!(entries[1].keys, ["/k/one.gpg", "/k/two.asc"]);
        assert_eq!(uris("a.sources", text).len(), 3);
    }

    #[test]
    fn only_what_apt_reads() {
        for (name, read) in [
            ("vendor.list", true),
            ("a_b-1.sources", true),
            ("vendor.list.save", false),
            ("vendor.list~", false),
            (".hidden.list", false),
            ("v x.list", false),
            ("vendor", false),
        ] {
            assert_eq!(is_read(name, &["list", "sources"]), read, "{name}");
        }
        assert!(is_read("99pin", &["", "pref"]) && is_read("a.pref", &["", "pref"]));
        assert!(!is_read("a.bak", &["", "pref"]));
    }

    #[test]
    fn an_origin_has_no_secrets_and_one_name() {
        for uri in [
            "https://tok@v.example/apt/",
            "http://v.example/apt",
            "mirror+http://v.example/apt//",
        ] {
            assert_eq!(origin(uri), "v.example/apt");
        }
        assert_eq!(origin("ftp://u:p@f.example/x"), "ftp://f.example/x");
    }

    #[test]
    fn entries_say_which_architectures_they_are_for() {
        let serves = |path: &str, text: &str| -> Vec<bool> {
            let entry = parse(path, text).remove(0);
            ["amd64", "i386", "armhf"]
                .map(|name| entry.serves(name))
                .to_vec()
        };
        for (options, expected) in [
            ("", [true, true, true]),
            ("[arch=amd64]", [true, false, false]),
            ("[arch=amd64,i386]", [true, true, false]),
            ("[arch=amd64 arch+=i386]", [true, true, false]),
            ("[ARCH-=i386]", [true, false, true]),
        ] {
            let line = format!("deb {options} http://x.example/ x y\n");
            assert_eq!(serves("/a/x.list", &line), expected, "{options}");
        }
        assert_eq!(
            serves("/a/x.list", "deb-src http://x.example x y"),
            [false; 3]
        );
        let stanza = "Types: deb deb-src\nURIs: http://x.example\nSuites: x\n";
        assert_eq!(serves("/a/x.sources", stanza), [true; 3]);
        let some = format!("{stanza}Architectures: amd64 armhf\nArchitectures-Remove: armhf\n");
        assert_eq!(serves("/a/x.sources", &some), [true, false, false]);
        let none = stanza.replace("deb deb-src", "deb-src");
        assert_eq!(serves("/a/x.sources", &none), [false; 3]);
    }
}
