//! What the person's ssh configuration says about a host.
//!
//! `ssh -G` answers it: OpenSSH itself resolves `Include`, `Match` and `Host`. Only where there is
//! no `ssh` program is the file read by a crate, which knows no `Match`; that is said in a warning.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Map;

use super::error::SshError;
use super::tokens::{Tokens, home};
use crate::event::{EventSink, Host, LogLevel};
use crate::interrupt::{AbortFlag, Interrupted};
use crate::sys::command::{Limits, RunError, command, run};

/// How long `ssh -G` may take: `Match exec` and canonical names ask programs and name servers.
const CONFIG_TIMEOUT: Duration = Duration::from_secs(20);

/// How long connecting may take where the configuration does not say.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);

/// How the stream to the server is made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Proxy {
    /// TCP.
    Direct,
    /// `ProxyCommand`, with its tokens still in it.
    Command(String),
    /// `ProxyJump`, as written.
    Jump(String),
}

/// What to do with a host key nobody knows. A changed key is refused whatever this says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UnknownKey {
    /// `StrictHostKeyChecking yes`.
    Refuse,
    /// `ask`, the default.
    Ask,
    /// `accept-new`, and `no` too: we are never weaker than that.
    Accept,
}

/// Where the ssh-agent is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AgentSocket {
    /// `IdentityAgent none`, or no `SSH_AUTH_SOCK`.
    None,
    /// A socket.
    Path(PathBuf),
}

/// A host as the configuration describes it.
#[derive(Debug, Clone)]
pub struct HostConfig {
    /// As typed.
    pub alias: String,
    /// Name or address to connect to.
    pub hostname: String,
    /// Port.
    pub port: u16,
    /// Login name.
    pub user: String,
    /// Private keys, in order; some may not exist.
    pub identity_files: Vec<PathBuf>,
    /// Certificates for them.
    pub certificate_files: Vec<PathBuf>,
    /// Whether the agent's other keys must not be tried.
    pub identities_only: bool,
    /// The ssh-agent.
    pub agent: AgentSocket,
    /// Files of known host keys; the first is written to.
    pub user_known_hosts: Vec<PathBuf>,
    /// The machine's files of known host keys.
    pub global_known_hosts: Vec<PathBuf>,
    /// Name to look up instead of the host name.
    pub host_key_alias: Option<String>,
    /// How the stream is made.
    pub proxy: Proxy,
    /// Whether the proxy command passes back a connected socket.
    pub proxy_use_fdpass: bool,
    /// Limit for the connection, and for the handshake after it.
    pub connect_timeout: Duration,
    /// What to do with an unknown host key.
    pub unknown_key: UnknownKey,
    /// Whether names are hashed when a key is remembered.
    pub hash_known_hosts: bool,
    /// `BatchMode yes`: ask nothing.
    pub batch_mode: bool,
    /// Whether keys may be used.
    pub use_keys: bool,
    /// Whether a password may be used.
    pub use_password: bool,
    /// Whether keyboard-interactive may be used.
    pub use_keyboard_interactive: bool,
    /// Limits the address family: `Some(true)` for IPv6 only, `Some(false)` for IPv4 only.
    pub ipv6: Option<bool>,
}

/// Whether `host` may be handed to `ssh` and into a proxy command: what OpenSSH itself refuses
/// since 9.6, and anything that could be read as an option.
fn is_plausible(host: &str) -> bool {
    !host.is_empty()
        && host.len() <= 255
        && !host.starts_with('-')
        && !host.contains("@-")
        && !host
            .chars()
            .any(|c| c.is_control() || c.is_whitespace() || "'`\"$\\;&<>|(){}*?!#".contains(c))
}

/// Finds out how to reach `host`, reading `config_file` instead of the usual files if it is given.
pub fn resolve(
    host: &str,
    config_file: Option<&Path>,
    events: &EventSink,
    abort: &AbortFlag,
) -> Result<HostConfig, SshError> {
    if !is_plausible(host) {
        return Err(SshError::BadHost {
            host: host.to_owned(),
        });
    }
    let mut ssh = command("ssh");
    if let Some(file) = config_file {
        ssh.arg("-F").arg(file);
    }
    ssh.args(["-G", "--", host]);
    let limits = Limits {
        timeout: Some(CONFIG_TIMEOUT),
        output_bytes: 1 << 20,
    };
    let config_error = |detail: String| SshError::Config {
        host: host.to_owned(),
        detail,
    };
    let settings = match run(&mut ssh, b"", &limits, abort) {
        Ok(done) if done.status.success() => {
            Settings::from_ssh(&String::from_utf8_lossy(&done.stdout))
        }
        Ok(done) => {
            let stderr = String::from_utf8_lossy(&done.stderr);
            return Err(config_error(
                stderr
                    .trim()
                    .lines()
                    .last()
                    .unwrap_or("ssh -G failed")
                    .to_owned(),
            ));
        }
        Err(RunError::NotFound { .. }) => {
            events.log(
                LogLevel::Warning,
                "core",
                Some(Host::Source),
                "there is no ssh program here: ~/.ssh/config is read without its Match blocks",
                Map::new(),
            );
            Settings::from_file(host, config_file).map_err(config_error)?
        }
        Err(RunError::Interrupted { .. }) => return Err(Interrupted.into()),
        Err(e) => return Err(config_error(e.to_string())),
    };
    settings.into_config(host).map_err(config_error)
}

/// Keywords in lower case, each with its values in order.
#[derive(Debug, Default)]
struct Settings(HashMap<String, Vec<String>>);

impl Settings {
    fn from_ssh(text: &str) -> Self {
        let mut settings = Self::default();
        for line in text.lines() {
            if let Some((keyword, value)) = line.split_once(' ') {
                settings.add(keyword, value);
            }
        }
        settings
    }

    fn add(&mut self, keyword: &str, value: impl Into<String>) {
        self.0
            .entry(keyword.to_ascii_lowercase())
            .or_default()
            .push(value.into());
    }

    fn from_file(host: &str, config_file: Option<&Path>) -> Result<Self, String> {
        let (user, name) = match host.rsplit_once('@') {
            Some((user, name)) => (Some(user), name),
            None => (None, host),
        };
        let mut settings = Self::default();
        let path = match config_file {
            Some(path) => path.to_owned(),
            None => home().join(".ssh/config"),
        };
        if let Ok(file) = std::fs::File::open(&path) {
            let config = ssh2_config::SshConfig::default()
                .parse(
                    &mut std::io::BufReader::new(file),
                    ssh2_config::ParseRule::ALLOW_UNKNOWN_FIELDS
                        | ssh2_config::ParseRule::ALLOW_UNSUPPORTED_FIELDS,
                )
                .map_err(|e| format!("{}: {e}", path.display()))?;
            settings.take(config.query(name));
        }
        if let Some(user) = user {
            settings.0.insert("user".to_owned(), vec![user.to_owned()]);
        }
        settings
            .0
            .entry("hostname".to_owned())
            .or_insert_with(|| vec![name.to_owned()]);
        for (keyword, values) in [
            (
                "identityfile",
                ["~/.ssh/id_ed25519", "~/.ssh/id_ecdsa", "~/.ssh/id_rsa"].as_slice(),
            ),
            (
                "userknownhostsfile",
                &["~/.ssh/known_hosts ~/.ssh/known_hosts2"],
            ),
            (
                "globalknownhostsfile",
                &["/etc/ssh/ssh_known_hosts /etc/ssh/ssh_known_hosts2"],
            ),
        ] {
            settings
                .0
                .entry(keyword.to_owned())
                .or_insert_with(|| values.iter().map(|v| (*v).to_owned()).collect());
        }
        Ok(settings)
    }

    fn take(&mut self, params: ssh2_config::HostParams) {
        if let Some(name) = params.host_name {
            self.add("hostname", name);
        }
        if let Some(user) = params.user {
            self.add("user", user);
        }
        if let Some(port) = params.port {
            self.add("port", port.to_string());
        }
        if let Some(time) = params.connect_timeout {
            self.add("connecttimeout", time.as_secs().to_string());
        }
        for file in params.identity_file.unwrap_or_default() {
            self.add("identityfile", file.to_string_lossy());
        }
        if let Some(jumps) = params.proxy_jump {
            self.add("proxyjump", jumps.join(","));
        }
        for fields in [params.ignored_fields, params.unsupported_fields] {
            for (keyword, values) in fields {
                self.add(&keyword, values.join(" "));
            }
        }
    }

    fn get(&self, keyword: &str) -> Option<&str> {
        let value = self.0.get(keyword)?.first()?.as_str();
        (!value.is_empty()).then_some(value)
    }

    fn is_on(&self, keyword: &str, default: bool) -> bool {
        match self.get(keyword) {
            Some("yes" | "true") => true,
            Some("no" | "false") => false,
            _ => default,
        }
    }

    fn into_config(self, alias: &str) -> Result<HostConfig, String> {
        let hostname = self.get("hostname").unwrap_or(alias).to_owned();
        let user = match self.get("user") {
            Some(user) => user.to_owned(),
            None => std::env::var("USER").map_err(|_| "no User is set, and no USER either")?,
        };
        if !is_plausible(&hostname) {
            return Err(format!("HostName {hostname:?} is not a host name"));
        }
        if user.is_empty() || user.starts_with('-') || user.chars().any(char::is_control) {
            return Err(format!("User {user:?} is not a user name"));
        }
        let port = match self.get("port") {
            Some(text) => text
                .parse()
                .map_err(|_| format!("Port {text} is not a port"))?,
            None => 22,
        };
        let host_key_alias = self.get("hostkeyalias").map(str::to_owned);
        let tokens = Tokens {
            alias: alias.rsplit_once('@').map_or(alias, |(_, name)| name),
            hostname: &hostname,
            port,
            user: &user,
            host_key_alias: host_key_alias.as_deref(),
            jump: self.get("proxyjump").unwrap_or_default(),
        };
        // Lists of files stand on one line, except IdentityFile and CertificateFile.
        let files = |keyword: &str, on_one_line: bool| -> Result<Vec<PathBuf>, String> {
            let mut files = Vec::new();
            for value in self.0.get(keyword).into_iter().flatten() {
                let words = if on_one_line {
                    words(value)
                } else {
                    vec![unquoted(value)]
                };
                for word in words {
                    if word != "none" {
                        files.push(tokens.path(&word)?);
                    }
                }
            }
            Ok(files)
        };
        let agent = match self.get("identityagent") {
            Some("none") => AgentSocket::None,
            Some("SSH_AUTH_SOCK") | None => agent_from("SSH_AUTH_SOCK"),
            Some(variable) if variable.starts_with('$') && !variable.starts_with("${") => {
                agent_from(&variable[1..])
            }
            Some(path) => AgentSocket::Path(tokens.path(&unquoted(path))?),
        };
        let proxy = match (self.get("proxycommand"), self.get("proxyjump")) {
            (Some(command), _) if command != "none" => Proxy::Command(tokens.expand(command)?),
            (_, Some(jump)) if jump != "none" => Proxy::Jump(jump.to_owned()),
            _ => Proxy::Direct,
        };
        Ok(HostConfig {
            alias: alias.to_owned(),
            identity_files: files("identityfile", false)?,
            certificate_files: files("certificatefile", false)?,
            user_known_hosts: files("userknownhostsfile", true)?,
            global_known_hosts: files("globalknownhostsfile", true)?,
            identities_only: self.is_on("identitiesonly", false),
            agent,
            proxy,
            proxy_use_fdpass: self.is_on("proxyusefdpass", false),
            connect_timeout: self
                .get("connecttimeout")
                .and_then(|text| text.parse().ok())
                .filter(|seconds| *seconds > 0)
                .map_or(CONNECT_TIMEOUT, Duration::from_secs),
            unknown_key: match self.get("stricthostkeychecking") {
                Some("yes" | "true") => UnknownKey::Refuse,
                Some("no" | "false" | "off" | "accept-new") => UnknownKey::Accept,
                _ => UnknownKey::Ask,
            },
            hash_known_hosts: self.is_on("hashknownhosts", false),
            batch_mode: self.is_on("batchmode", false),
            use_keys: self.get("pubkeyauthentication") != Some("no")
                && self.get("pubkeyauthentication") != Some("false"),
            use_password: self.is_on("passwordauthentication", true),
            use_keyboard_interactive: self.is_on("kbdinteractiveauthentication", true),
            ipv6: match self.get("addressfamily") {
                Some("inet") => Some(false),
                Some("inet6") => Some(true),
                _ => None,
            },
            host_key_alias,
            port,
            hostname: hostname.clone(),
            user: user.clone(),
        })
    }
}

fn agent_from(variable: &str) -> AgentSocket {
    match std::env::var_os(variable) {
        Some(path) if !path.is_empty() => AgentSocket::Path(path.into()),
        _ => AgentSocket::None,
    }
}

fn unquoted(value: &str) -> String {
    let value = value.trim();
    value
        .strip_prefix('"')
        .and_then(|rest| rest.strip_suffix('"'))
        .unwrap_or(value)
        .to_owned()
}

/// Splits at spaces outside double quotes.
fn words(value: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word = String::new();
    let mut quoted = false;
    for c in value.chars() {
        match c {
            '"' => quoted = !quoted,
            ' ' | '\t' if !quoted => {
                if !word.is_empty() {
                    words.push(std::mem::take(&mut word));
                }
            }
            c => word.push(c),
        }
    }
    if !word.is_empty() {
        words.push(word);
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolved(host: &str, config: &str) -> Result<HostConfig, SshError> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), config).unwrap();
        resolve(
            host,
            Some(file.path()),
            &EventSink::none(),
            &AbortFlag::new(),
        )
    }

    fn has_ssh() -> bool {
        if command("ssh").arg("-V").output().is_ok() {
            return true;
        }
        assert!(std::env::var_os("CI").is_none(), "CI needs the ssh program");
        crate::sys::testing::say_skipped("there is no ssh program");
        false
    }

    #[test]
    fn a_host_that_could_be_an_option_or_a_command_is_refused() {
        for host in [
            "-oProxyCommand=x",
            "",
            "a b",
            "a\nb",
            "x@-oFoo",
            "a;b",
            "$(x)",
            "a`b`",
        ] {
            let error = resolve(host, None, &EventSink::none(), &AbortFlag::new()).unwrap_err();
            assert!(matches!(error, SshError::BadHost { .. }), "{host}: {error}");
        }
    }

    #[test]
    fn match_include_and_several_keys_are_honoured() {
        if !has_ssh() {
            return;
        }
        let more = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(
            more.path(),
            "Host vega\n  HostName 192.0.2.7\n  Port 2200\n",
        )
        .unwrap();
        let config = resolved(
            "kim@vega",
            &format!(
                "Include {}\nMatch host 192.0.2.7 user kim\n  IdentityFile ~/.ssh/one\n  IdentityFile %d/two\n  IdentitiesOnly yes\n  StrictHostKeyChecking no\n  ProxyJump hop:22,other\n  UserKnownHostsFile /tmp/a /tmp/b\n  ConnectTimeout 4\n",
                more.path().display()
            ),
        )
        .unwrap();
        assert_eq!((config.hostname.as_str(), config.port), ("192.0.2.7", 2200));
        assert_eq!(config.user, "kim");
        assert_eq!(
            config.identity_files,
            [home().join(".ssh/one"), home().join("two")]
        );
        assert!(config.identities_only);
        assert_eq!(config.unknown_key, UnknownKey::Accept);
        assert_eq!(config.proxy, Proxy::Jump("hop:22,other".into()));
        assert_eq!(
            config.user_known_hosts,
            [Path::new("/tmp/a"), Path::new("/tmp/b")]
        );
        assert_eq!(config.connect_timeout, Duration::from_secs(4));
    }

    #[test]
    fn proxy_command_tokens_are_expanded() {
        if !has_ssh() {
            return;
        }
        let config = resolved(
            "vega",
            "Host vega\n  HostName 192.0.2.7\n  Port 2200\n  User kim\n  ProxyCommand nc %h %p %r 100%%\n",
        )
        .unwrap();
        assert_eq!(
            config.proxy,
            Proxy::Command("nc 192.0.2.7 2200 kim 100%".into())
        );
    }

    #[test]
    fn a_broken_configuration_names_its_error() {
        if !has_ssh() {
            return;
        }
        let error = resolved("vega", "Host vega\n  Porrt 22\n").unwrap_err();
        assert!(
            error.to_string().contains("ad configuration option"),
            "{error}"
        );
    }

    #[test]
    fn without_an_ssh_program_the_file_is_read_by_the_crate() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(
            file.path(),
            "Host vega\n  HostName 192.0.2.7\n  Port 2200\n  User kim\n  UserKnownHostsFile /tmp/known\n  IdentitiesOnly yes\n",
        )
        .unwrap();
        let config = Settings::from_file("vega", Some(file.path()))
            .unwrap()
            .into_config("vega")
            .unwrap();
        assert_eq!((config.hostname.as_str(), config.port), ("192.0.2.7", 2200));
        assert_eq!(config.user, "kim");
        assert!(config.identities_only);
        assert_eq!(config.user_known_hosts, [Path::new("/tmp/known")]);
        assert_eq!(config.identity_files.len(), 3);
    }
}
