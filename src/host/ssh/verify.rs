//! Whether the server is the machine it should be.

use std::path::Path;

use serde_json::Map;

use super::config::{HostConfig, UnknownKey};
use super::encoding::{base64, fingerprint, key_type};
use super::error::SshError;
use super::known_hosts::{KnownKeys, Verdict, lookup_name, remember};
use super::session::Wire;
use crate::escape::escape_str;
use crate::event::{EventSink, Host, LogLevel};
use crate::prompt::{Choice, Prompter, Question};

/// Where a machine keeps its host keys.
const OWN_KEYS: &str = "/etc/ssh";

/// Checks the server's key against what is known, asking about a new one where somebody can answer.
pub(super) fn host_key(
    wire: &Wire,
    config: &HostConfig,
    known: &KnownKeys,
    prompter: &dyn Prompter,
    events: &EventSink,
) -> Result<(), SshError> {
    let Some((key, _)) = wire.session.host_key() else {
        return Err(SshError::Handshake {
            host: config.alias.clone(),
            detail: "the server has no host key".to_owned(),
        });
    };
    let host = lookup_name(config);
    let kind = key_type(key).unwrap_or("unknown type").to_owned();
    let fingerprint = fingerprint(key);
    match known.check(key) {
        Verdict::Known => Ok(()),
        Verdict::Changed(place) => Err(SshError::HostKeyChanged {
            host,
            kind,
            fingerprint,
            file: place.file,
            line: place.line,
        }),
        Verdict::Revoked(place) => Err(SshError::HostKeyRevoked {
            host,
            kind,
            fingerprint,
            file: place.file,
            line: place.line,
        }),
        // Before anybody is asked about a key that is no stranger's.
        Verdict::Unknown if is_own(key, Path::new(OWN_KEYS)) => Err(SshError::OwnKey {
            host: config.alias.clone(),
        }),
        Verdict::Unknown => {
            let may_accept = match config.unknown_key {
                UnknownKey::Accept => true,
                UnknownKey::Refuse => false,
                UnknownKey::Ask => {
                    prompter.can_ask()
                        && !config.batch_mode
                        && ask(config, &host, &kind, &fingerprint, prompter)?
                }
            };
            if !may_accept {
                return Err(SshError::HostKeyUnknown {
                    host,
                    alias: config.alias.clone(),
                    kind,
                    fingerprint,
                });
            }
            remember(config, key)?;
            events.log(
                LogLevel::Info,
                "core",
                Some(Host::Target),
                format!("remembered the host key of {host} ({kind} {fingerprint})"),
                Map::new(),
            );
            Ok(())
        }
    }
}

/// Whether `key` is a host key of this machine, by the public halves in `directory`.
fn is_own(key: &[u8], directory: &Path) -> bool {
    let key = base64(key, true);
    let files = std::fs::read_dir(directory).into_iter().flatten().flatten();
    files
        .filter(|file| {
            let name = file.file_name();
            let name = name.to_string_lossy();
            name.starts_with("ssh_host_") && name.ends_with("_key.pub")
        })
        .filter_map(|file| std::fs::read_to_string(file.path()).ok())
        .any(|text| text.split_whitespace().nth(1) == Some(&key))
}

fn ask(
    config: &HostConfig,
    host: &str,
    kind: &str,
    fingerprint: &str,
    prompter: &dyn Prompter,
) -> Result<bool, SshError> {
    let here = escape_str(&rustix::system::uname().nodename().to_string_lossy());
    let there = escape_str(&config.alias);
    let question = Question {
        detail: vec![
            format!("{here} does not know the host key of {}:", escape_str(host)),
            format!("  {} {fingerprint}", escape_str(kind)),
            format!("Compare it with what this prints on {there}:"),
            "  ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub"
                .replace("ed25519", &key_file(kind)),
        ],
        text: format!("Is this {there}?"),
        choices: vec![
            Choice {
                key: 'y',
                label: "yes".to_owned(),
                effect: format!("{here} remembers the key and goes on"),
            },
            Choice {
                key: 'n',
                label: "no".to_owned(),
                effect: "stop here; nothing was sent, nothing is remembered".to_owned(),
            },
        ],
        default: 1,
        flag: Some(format!("log in once with `ssh {there}`")),
    };
    Ok(prompter.choose(&question)? == 0)
}

/// The part of the key file's name that says which kind it is.
fn key_file(kind: &str) -> String {
    let kinds = ["ed25519", "ecdsa", "rsa"];
    let found = kinds
        .iter()
        .find(|name| kind.to_lowercase().contains(*name));
    (*found.unwrap_or(&"*")).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_of_this_machine_is_known_by_its_public_half() {
        let directory = tempfile::tempdir().unwrap();
        let write = |name: &str, text: String| {
            std::fs::write(directory.path().join(name), text).unwrap();
        };
        write("ssh_host_rsa_key.pub", "garbage".to_owned());
        write(
            "ssh_host_ed25519_key.pub",
            format!("ssh-ed25519 {} root@atlas\n", base64(b"ours", true)),
        );
        write(
            "id_ed25519.pub",
            format!("ssh-ed25519 {}\n", base64(b"a person's", true)),
        );
        assert!(is_own(b"ours", directory.path()));
        assert!(!is_own(b"theirs", directory.path()));
        assert!(!is_own(b"a person's", directory.path()));
        assert!(!is_own(b"ours", Path::new("/nowhere")));
    }

    #[test]
    fn the_file_to_compare_with_is_that_of_the_key() {
        for (kind, file) in [("ssh-ed25519", "ed25519"), ("ECDSA", "ecdsa"), ("?", "*")] {
            assert_eq!(key_file(kind), file);
        }
    }
}
