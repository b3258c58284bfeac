//! A private sshd for tests: loopback, a free port, throw-away keys, nothing of the person's, not
//! even root's login scripts: it has a `/run` and a `/root` of its own.
//!
//! Needs root (sshd changes to the user who logs in) and the OpenSSH server; where either is
//! missing a test is skipped loudly, and fails if `CI` is set.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use super::{SshConnection, SshError, SshOptions, connect};
use crate::event::EventSink;
use crate::interrupt::AbortFlag;
use crate::prompt::{NeverAsk, PromptError, Prompter, Question, Secret};
use crate::sys::command::{command, tie_to_parent};

/// Where OpenSSH's server is on Debian, Fedora and Arch.
const SSHD: [&str; 3] = ["/usr/sbin/sshd", "/usr/bin/sshd", "/sbin/sshd"];

/// A running sshd; it ends with this value.
pub(crate) struct TestSshd {
    directory: tempfile::TempDir,
    child: Child,
    pub(crate) port: u16,
    config: String,
}

/// What a test's server has beyond the usual.
#[derive(Default)]
pub(crate) struct Extra<'a> {
    /// Lines of its configuration that win over ours.
    pub(crate) server: &'a str,
    /// The kinds of its host keys; the first is known. ed25519 if empty.
    pub(crate) host_keys: &'a [&'a str],
    /// Whether programs may not be run from `/run`.
    pub(crate) run_noexec: bool,
    /// Whether the directory `bin` comes first on the `PATH` of who logs in.
    pub(crate) fake_path: bool,
}

impl TestSshd {
    /// An sshd that lets root in with a key, or `None` if that cannot be had here.
    pub(crate) fn start() -> Option<Self> {
        Self::with(&Extra::default())
    }

    /// The same with `extra` configuration.
    pub(crate) fn with(extra: &Extra<'_>) -> Option<Self> {
        let sshd = SSHD.iter().find(|path| Path::new(path).exists());
        let Some(sshd) = sshd.filter(|_| rustix::process::getuid().is_root()) else {
            assert!(
                std::env::var_os("CI").is_none(),
                "CI needs root and the OpenSSH server"
            );
            crate::sys::testing::say_skipped("it needs root and the OpenSSH server");
            return None;
        };
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        keygen(&at("user_key"), "ed25519", "");
        std::fs::copy(at("user_key.pub"), at("authorized_keys")).unwrap();
        let kinds = if extra.host_keys.is_empty() {
            &["ed25519"]
        } else {
            extra.host_keys
        };
        // Directives read first win in sshd_config.
        let mut text = format!("{}\n", extra.server);
        for kind in kinds {
            let key = at(&format!("host_{kind}"));
            keygen(&key, kind, "");
            writeln!(text, "HostKey {}", key.display()).unwrap();
        }
        write!(
            text,
            "ListenAddress 127.0.0.1\nAuthorizedKeysFile {}\nPermitRootLogin yes\n\
             StrictModes no\nUsePAM no\nPidFile none\nPasswordAuthentication no\n\
             KbdInteractiveAuthentication no\nMaxStartups 100\n",
            at("authorized_keys").display()
        )
        .unwrap();
        if extra.fake_path {
            writeln!(
                text,
                "SetEnv PATH={}:/usr/sbin:/usr/bin:/sbin:/bin",
                at("bin").display()
            )
            .unwrap();
        }
        std::fs::write(at("sshd_config"), text).unwrap();
        std::fs::create_dir(at("home")).unwrap();
        let (port, child) = listening(sshd, directory.path(), extra.run_noexec);
        let this = Self {
            config: format!(
                "Host test *\n  HostName 127.0.0.1\n  Port {port}\n  User root\n  IdentityFile {}\n  \
                 IdentitiesOnly yes\n  IdentityAgent none\n  GlobalKnownHostsFile /dev/null\n  \
                 UserKnownHostsFile {}\n",
                at("user_key").display(),
                at("known_hosts").display()
            ),
            port,
            child,
            directory,
        };
        this.know(kinds[0]);
        Some(this)
    }

    /// A file of this server's directory.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// What sshd logged.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.path("sshd.log")).unwrap_or_default()
    }

    /// Makes the host key of `kind`, and only that, known.
    pub(crate) fn know(&self, kind: &str) {
        let public = std::fs::read_to_string(self.path(&format!("host_{kind}.pub"))).unwrap();
        let line = format!("[127.0.0.1]:{} {public}", self.port);
        std::fs::write(self.path("known_hosts"), line).unwrap();
    }

    /// Makes a user key that logs in.
    pub(crate) fn add_user_key(&self, name: &str, kind: &str, passphrase: &str) -> PathBuf {
        let key = self.path(name);
        keygen(&key, kind, passphrase);
        let public = std::fs::read_to_string(self.path(&format!("{name}.pub"))).unwrap();
        let mut all = std::fs::read_to_string(self.path("authorized_keys")).unwrap();
        all.push_str(&public);
        std::fs::write(self.path("authorized_keys"), all).unwrap();
        key
    }

    /// Options that read this server's client configuration, with `lines` in front.
    pub(crate) fn options(&self, lines: &str) -> SshOptions {
        let file = self.path("config");
        std::fs::write(&file, format!("{lines}\n{}", self.config)).unwrap();
        SshOptions {
            config_file: Some(file),
            ..SshOptions::default()
        }
    }

    /// Logs in without a person.
    pub(crate) fn connect(&self) -> SshConnection {
        self.try_connect("", &NeverAsk)
            .unwrap_or_else(|e| panic!("{e}\n{}", self.log()))
    }

    /// Logs in with `lines` in front of the configuration, asking `prompter`.
    pub(crate) fn try_connect(
        &self,
        lines: &str,
        prompter: &dyn Prompter,
    ) -> Result<SshConnection, SshError> {
        connect(
            "test",
            &self.options(lines),
            prompter,
            &EventSink::none(),
            &AbortFlag::new(),
        )
    }
}

/// Starts `sshd` on a port nobody else was given meanwhile.
fn listening(sshd: &str, directory: &Path, run_noexec: bool) -> (u16, Child) {
    let log = directory.join("sshd.log");
    for _ in 0..10 {
        let port = free_port();
        let mut child = spawn(sshd, directory, run_noexec, port);
        let until = Instant::now() + Duration::from_secs(20);
        let told = format!("Server listening on 127.0.0.1 port {port}.");
        while child.try_wait().unwrap().is_none() {
            if std::fs::read_to_string(&log).is_ok_and(|text| text.contains(&told)) {
                return (port, child);
            }
            assert!(Instant::now() < until, "sshd does not listen");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
    panic!(
        "sshd ended: {}",
        std::fs::read_to_string(&log).unwrap_or_default()
    );
}

fn spawn(sshd: &str, directory: &Path, run_noexec: bool, port: u16) -> Child {
    let log = std::fs::File::create(directory.join("sshd.log")).unwrap();
    let exec = if run_noexec { "noexec" } else { "exec" };
    // In a mount namespace of its own: another /run, another home of root, which is also the
    // first directory agents look for programs in.
    let script = format!(
        "mount -t tmpfs -o size=256m,mode=755,{exec} tmpfs /run && mkdir /run/sshd && \
         mount --bind \"$1/home\" /root && mount --bind \"$1/home\" /usr/local/sbin && \
         exec \"$2\" -D -e -f \"$1/sshd_config\" -p {port}"
    );
    let mut command = command("unshare");
    command
        .args(["--mount", "--propagation", "slave", "/bin/sh", "-c"])
        .arg(script)
        .arg("sh")
        .arg(directory)
        .arg(sshd)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::from(log));
    tie_to_parent(&mut command);
    command.spawn().unwrap()
}

impl Drop for TestSshd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn keygen(path: &Path, kind: &str, passphrase: &str) {
    let done = command("ssh-keygen")
        .args(["-q", "-t", kind, "-N", passphrase, "-C", "test", "-f"])
        .arg(path)
        .output()
        .unwrap();
    assert!(done.status.success(), "{done:?}");
}

/// A port nobody listens on.
pub(crate) fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    listener.local_addr().unwrap().port()
}

/// A person who gives prepared answers.
#[derive(Default)]
pub(crate) struct Person {
    /// The choice for every question.
    pub(crate) choice: usize,
    /// Secrets and lines, in order; the last is repeated.
    pub(crate) secrets: Mutex<Vec<String>>,
    /// What was asked.
    pub(crate) asked: Mutex<Vec<String>>,
}

impl Person {
    /// Somebody who types `secrets`.
    pub(crate) fn typing(secrets: &[&str]) -> Self {
        Self {
            secrets: Mutex::new(secrets.iter().map(|s| (*s).to_owned()).collect()),
            ..Self::default()
        }
    }

    fn next(&self, prompt: &str) -> String {
        self.asked.lock().unwrap().push(prompt.to_owned());
        let mut secrets = self.secrets.lock().unwrap();
        if secrets.len() > 1 {
            secrets.remove(0)
        } else {
            secrets.first().cloned().unwrap_or_default()
        }
    }
}

impl Prompter for Person {
    fn can_ask(&self) -> bool {
        true
    }

    fn choose(&self, question: &Question) -> Result<usize, PromptError> {
        self.asked.lock().unwrap().push(question.detail.join("\n"));
        Ok(self.choice)
    }

    fn secret(&self, prompt: &str) -> Result<Secret, PromptError> {
        Ok(Secret::new(self.next(prompt)))
    }

    fn line(&self, prompt: &str) -> Result<String, PromptError> {
        Ok(self.next(prompt))
    }
}
