//! Whether the server is the machine it should be.

use serde_json::Map;

use super::config::{HostConfig, UnknownKey};
use super::encoding::{fingerprint, key_type};
use super::error::SshError;
use super::known_hosts::{KnownKeys, Verdict, lookup_name, remember};
use super::session::Wire;
use crate::escape::escape_str;
use crate::event::{EventSink, Host, LogLevel};
use crate::prompt::{Choice, Prompter, Question};

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

fn ask(
    config: &HostConfig,
    host: &str,
    kind: &str,
    fingerprint: &str,
    prompter: &dyn Prompter,
) -> Result<bool, SshError> {
    let question = Question {
        detail: vec![
            format!("The host key of {} is not known.", escape_str(host)),
            format!("  {} {fingerprint}", escape_str(kind)),
            format!(
                "Compare it with what `ssh-keygen -lf` prints for /etc/ssh/ssh_host_*_key.pub on {}.",
                escape_str(&config.alias)
            ),
        ],
        text: "Is this the right machine?".to_owned(),
        choices: vec![
            Choice {
                key: 'y',
                label: "yes".to_owned(),
                effect: "remember the key and go on".to_owned(),
            },
            Choice {
                key: 'n',
                label: "no".to_owned(),
                effect: "do not connect".to_owned(),
            },
        ],
        default: 1,
        flag: None,
    };
    Ok(prompter.choose(&question)? == 0)
}
