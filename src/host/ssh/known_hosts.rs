//! Host keys: which are known, whether an offered one is, and remembering a new one.
//!
//! The files are read as OpenSSH reads them (sshd(8), "`SSH_KNOWN_HOSTS` FILE FORMAT"): several names a
//! line, wildcards and `!`, hashed names, `[host]:port`, `@revoked`. One rule is stricter: where
//! any key of a host is known, only a known key is accepted, whatever its type; a server that
//! suddenly offers another type only is treated as changed. Certificates of hosts are not used.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use sha1::{Digest, Sha1};

use super::config::HostConfig;
use super::encoding::{base64, key_type, unbase64};
use super::error::SshError;

/// Larger files of known hosts are cut off.
const FILE_MAX: u64 = 16 << 20;

/// Where a key was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) file: PathBuf,
    pub(super) line: usize,
}

/// A key known for the host we look for.
#[derive(Debug, Clone)]
struct Entry {
    place: Place,
    key: Vec<u8>,
}

/// What is known about one host.
#[derive(Debug, Default)]
pub(super) struct KnownKeys {
    /// Keys under the name with its port.
    exact: Vec<Entry>,
    /// For a port other than 22: keys under the bare name, good enough if they match.
    bare: Vec<Entry>,
    revoked: Vec<Entry>,
}

/// What to think of an offered key.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Known,
    Unknown,
    Changed(Place),
    Revoked(Place),
}

/// The name under which the host's keys are kept: its alias, or the host with a port other than 22.
pub(super) fn lookup_name(config: &HostConfig) -> String {
    match &config.host_key_alias {
        Some(alias) => alias.to_ascii_lowercase(),
        None => with_port(&config.hostname.to_ascii_lowercase(), config.port),
    }
}

fn with_port(host: &str, port: u16) -> String {
    if port == 22 {
        host.to_owned()
    } else {
        format!("[{host}]:{port}")
    }
}

impl KnownKeys {
    /// Reads what the files say about `config`'s host; a file that is not there says nothing.
    pub(super) fn read(config: &HostConfig) -> Result<Self, SshError> {
        let mut known = Self::default();
        let name = lookup_name(config);
        let bare = (config.host_key_alias.is_none() && config.port != 22)
            .then(|| config.hostname.to_ascii_lowercase());
        for file in config
            .user_known_hosts
            .iter()
            .chain(&config.global_known_hosts)
        {
            let text = match read_text(file) {
                Ok(text) => text,
                Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                // Somebody else's global file is not our business; our own must be readable.
                Err(_) if config.global_known_hosts.contains(file) => continue,
                Err(source) => {
                    return Err(SshError::KnownHosts {
                        file: file.clone(),
                        source,
                    });
                }
            };
            known.take_in(file, &text, &name, bare.as_deref());
        }
        Ok(known)
    }

    fn take_in(&mut self, file: &Path, text: &str, name: &str, bare: Option<&str>) {
        for (index, line) in text.lines().enumerate() {
            let Some(parsed) = Line::parse(line) else {
                continue;
            };
            let is_bare_match = bare.is_some_and(|bare| parsed.covers(bare));
            let is_match = parsed.covers(name);
            if !is_match && !is_bare_match {
                continue;
            }
            let entry = Entry {
                place: Place {
                    file: file.to_owned(),
                    line: index + 1,
                },
                key: parsed.key,
            };
            match parsed.marker {
                Some("@revoked") => self.revoked.push(entry),
                Some(_) => {}
                None if is_match => self.exact.push(entry),
                None => self.bare.push(entry),
            }
        }
    }

    /// Compares `key` with what is known.
    pub(super) fn check(&self, key: &[u8]) -> Verdict {
        if let Some(entry) = self.revoked.iter().find(|entry| entry.key == key) {
            return Verdict::Revoked(entry.place.clone());
        }
        if self.exact.iter().any(|entry| entry.key == key) {
            return Verdict::Known;
        }
        if let Some(other) = self
            .exact
            .iter()
            .find(|entry| key_type(&entry.key) == key_type(key))
            .or(self.exact.first())
        {
            return Verdict::Changed(other.place.clone());
        }
        if self.bare.iter().any(|entry| entry.key == key) {
            return Verdict::Known;
        }
        Verdict::Unknown
    }

    /// `algorithms` with those first for which a key is known, in unchanged order otherwise.
    pub(super) fn prefer(&self, algorithms: &[&'static str]) -> Vec<&'static str> {
        let known: Vec<&str> = self
            .exact
            .iter()
            .chain(&self.bare)
            .filter_map(|entry| key_type(&entry.key))
            .collect();
        let is_known = |algorithm: &&str| {
            let kind = if algorithm.starts_with("rsa-sha2-") {
                "ssh-rsa"
            } else {
                algorithm
            };
            known.contains(&kind)
        };
        let (mut first, rest): (Vec<_>, Vec<_>) = algorithms
            .iter()
            .copied()
            .partition(|algorithm| is_known(algorithm));
        first.extend(rest);
        first
    }
}

fn read_text(file: &Path) -> io::Result<String> {
    let mut bytes = Vec::new();
    File::open(file)?.take(FILE_MAX).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

struct Line<'a> {
    marker: Option<&'a str>,
    names: &'a str,
    key: Vec<u8>,
}

impl<'a> Line<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let mut words = line.split_ascii_whitespace();
        let mut names = words.next()?;
        if names.starts_with('#') {
            return None;
        }
        let marker = names.starts_with('@').then_some(names);
        if marker.is_some() {
            names = words.next()?;
        }
        let kind = words.next()?;
        let key = unbase64(words.next()?)?;
        (key_type(&key) == Some(kind)).then_some(Self { marker, names, key })
    }

    fn covers(&self, name: &str) -> bool {
        if let Some(hashed) = self.names.strip_prefix("|1|") {
            let Some((salt, hash)) = hashed.split_once('|') else {
                return false;
            };
            let (Some(salt), Some(hash)) = (unbase64(salt), unbase64(hash)) else {
                return false;
            };
            return hmac_sha1(&salt, name.as_bytes()) == hash[..];
        }
        let mut covered = false;
        for pattern in self.names.split(',') {
            let pattern = pattern.to_ascii_lowercase();
            match pattern.strip_prefix('!') {
                Some(pattern) if glob(pattern.as_bytes(), name.as_bytes()) => return false,
                Some(_) => {}
                None => covered |= glob(pattern.as_bytes(), name.as_bytes()),
            }
        }
        covered
    }
}

/// `*` and `?` as in ssh: no character classes, and time linear in pattern times text.
fn glob(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        if p < pattern.len() && pattern[p] == b'*' {
            star = Some((p, t));
            p += 1;
        } else if p < pattern.len() && (pattern[p] == b'?' || pattern[p] == text[t]) {
            p += 1;
            t += 1;
        } else if let Some((at, from)) = star {
            p = at + 1;
            t = from + 1;
            star = Some((at, from + 1));
        } else {
            return false;
        }
    }
    pattern[p..].iter().all(|c| *c == b'*')
}

/// HMAC-SHA1 (RFC 2104), which hashed names use; their secrecy, not ours, depends on it.
fn hmac_sha1(key: &[u8], message: &[u8]) -> [u8; 20] {
    let mut block = [0_u8; 64];
    if key.len() > block.len() {
        block[..20].copy_from_slice(&Sha1::digest(key));
    } else {
        block[..key.len()].copy_from_slice(key);
    }
    let inner = Sha1::new()
        .chain_update(block.map(|byte| byte ^ 0x36))
        .chain_update(message)
        .finalize();
    Sha1::new()
        .chain_update(block.map(|byte| byte ^ 0x5c))
        .chain_update(inner)
        .finalize()
        .into()
}

/// Appends `key` to the first of the person's files, which is made if it is missing.
pub(super) fn remember(config: &HostConfig, key: &[u8]) -> Result<(), SshError> {
    let Some(file) = config.user_known_hosts.first() else {
        return Ok(());
    };
    let name = lookup_name(config);
    let name = if config.hash_known_hosts {
        hashed(&name)
    } else {
        name
    };
    let kind = key_type(key).unwrap_or("unknown");
    append(file, &format!("{name} {kind} {}\n", base64(key, true))).map_err(|source| {
        SshError::KnownHosts {
            file: file.clone(),
            source,
        }
    })
}

fn hashed(name: &str) -> String {
    let mut salt = [0_u8; 20];
    let got = rustix::rand::getrandom(&mut salt, rustix::rand::GetRandomFlags::empty());
    debug_assert_eq!(got, Ok(20));
    format!(
        "|1|{}|{}",
        base64(&salt, true),
        base64(&hmac_sha1(&salt, name.as_bytes()), true)
    )
}

fn append(file: &Path, line: &str) -> io::Result<()> {
    if let Some(directory) = file.parent()
        && !directory.as_os_str().is_empty()
    {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(directory)?;
    }
    let mut open = OpenOptions::new()
        .read(true)
        .append(true)
        .create(true)
        .mode(0o600)
        .open(file)?;
    let mut text = String::new();
    // A last line somebody left open must not swallow ours.
    let length = open.metadata()?.len();
    if length > 0 {
        use std::os::unix::fs::FileExt;
        let mut last = [0];
        if open.read_at(&mut last, length - 1)? == 1 && last[0] != b'\n' {
            text.push('\n');
        }
    }
    text.push_str(line);
    open.write_all(text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::command::command;

    fn blob(kind: &str, body: &[u8]) -> Vec<u8> {
        let mut blob = Vec::new();
        for part in [kind.as_bytes(), body] {
            blob.extend(u32::try_from(part.len()).unwrap().to_be_bytes());
            blob.extend(part);
        }
        blob
    }

    fn line(names: &str, key: &[u8]) -> String {
        format!(
            "{names} {} {} comment\n",
            key_type(key).unwrap(),
            base64(key, true)
        )
    }

    fn known(text: &str, name: &str, bare: Option<&str>) -> KnownKeys {
        let mut known = KnownKeys::default();
        known.take_in(Path::new("known_hosts"), text, name, bare);
        known
    }

    #[test]
    fn names_lists_wildcards_and_negation_are_understood() {
        let key = blob("ssh-ed25519", b"one");
        for (names, name, matches) in [
            ("vega", "vega", true),
            ("VEGA", "vega", true),
            ("atlas,vega,192.0.2.7", "vega", true),
            ("*.example.org", "vega.example.org", true),
            ("*.example.org", "vega", false),
            ("ve?a", "vega", true),
            ("*.example.org,!vega.example.org", "vega.example.org", false),
            ("[vega]:2200", "[vega]:2200", true),
            ("vega", "[vega]:2200", false),
            ("*", "anything", true),
        ] {
            let found = known(&line(names, &key), name, None).check(&key);
            let expected = if matches {
                Verdict::Known
            } else {
                Verdict::Unknown
            };
            assert_eq!(found, expected, "{names} for {name}");
        }
    }

    #[test]
    fn a_changed_key_names_its_line_and_another_type_is_changed_too() {
        let old = blob("ssh-ed25519", b"old");
        let text = format!("# comment\n\n{}", line("vega", &old));
        let known = known(&text, "vega", None);
        for new in [
            blob("ssh-ed25519", b"new"),
            blob("ecdsa-sha2-nistp256", b"new"),
        ] {
            let Verdict::Changed(place) = known.check(&new) else {
                panic!("not changed");
            };
            assert_eq!(place.line, 3);
        }
    }

    #[test]
    fn a_revoked_key_is_refused_even_if_it_is_also_known() {
        let key = blob("ssh-ed25519", b"bad");
        let text = format!("{}@revoked {}", line("vega", &key), line("*", &key));
        assert!(
            matches!(known(&text, "vega", None).check(&key), Verdict::Revoked(place) if place.line == 2)
        );
    }

    #[test]
    fn a_key_under_the_bare_name_is_good_for_another_port_but_never_makes_it_changed() {
        let key = blob("ssh-ed25519", b"one");
        let other = blob("ssh-ed25519", b"two");
        let known = known(&line("vega", &key), "[vega]:2200", Some("vega"));
        assert_eq!(known.check(&key), Verdict::Known);
        assert_eq!(known.check(&other), Verdict::Unknown);
    }

    #[test]
    fn broken_lines_and_authorities_say_nothing() {
        let key = blob("ssh-ed25519", b"one");
        let text = format!(
            "vega\nvega ssh-ed25519\nvega ssh-rsa {}\n|1|x vega y\n@cert-authority {}",
            base64(&key, true),
            line("vega", &key)
        );
        assert_eq!(known(&text, "vega", None).check(&key), Verdict::Unknown);
    }

    #[test]
    fn algorithms_with_a_known_key_come_first() {
        let known = known(&line("vega", &blob("ssh-rsa", b"n")), "vega", None);
        assert_eq!(
            known.prefer(&["ssh-ed25519", "rsa-sha2-512", "rsa-sha2-256"]),
            ["rsa-sha2-512", "rsa-sha2-256", "ssh-ed25519"]
        );
    }

    #[test]
    fn names_hashed_by_openssh_and_by_us_are_found() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("known_hosts");
        let key = blob("ssh-ed25519", &[7; 32]);
        for name in ["vega", "[vega]:2200"] {
            append(
                &file,
                &format!("{} ssh-ed25519 {}\n", hashed(name), base64(&key, true)),
            )
            .unwrap();
        }
        append(&file, &line("[lyra]:2200,mira", &key)).unwrap();
        match command("ssh-keygen")
            .arg("-H")
            .arg("-f")
            .arg(&file)
            .output()
        {
            Ok(done) => assert!(done.status.success(), "{done:?}"),
            Err(_) => assert!(std::env::var_os("CI").is_none(), "CI needs ssh-keygen"),
        }
        let text = std::fs::read_to_string(&file).unwrap();
        assert!(!text.contains("vega") && !text.contains("mira"), "{text}");
        for name in ["vega", "[vega]:2200", "[lyra]:2200", "mira"] {
            assert_eq!(
                known(&text, name, None).check(&key),
                Verdict::Known,
                "{name}"
            );
        }
        assert_eq!(known(&text, "lyra", None).check(&key), Verdict::Unknown);
        // And OpenSSH finds what we hashed.
        if let Ok(found) = command("ssh-keygen")
            .args(["-F", "vega", "-f"])
            .arg(&file)
            .output()
        {
            assert!(found.status.success());
        }
    }

    #[test]
    fn remembering_makes_a_private_file_and_mends_an_open_line() {
        use std::os::unix::fs::PermissionsExt;
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("new/known_hosts");
        append(&file, "first").unwrap();
        append(&file, "second\n").unwrap();
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "first\nsecond\n");
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&file), 0o600);
        assert_eq!(mode(file.parent().unwrap()), 0o700);
    }
}
