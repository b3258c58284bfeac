//! The connection against a real sshd.

use std::os::unix::fs::PermissionsExt;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use super::testing::{Extra, Person, TestSshd, free_port};
use super::{SshConnection, SshError, SshOptions, connect};
use crate::event::EventSink;
use crate::host::opening::Opening;
use crate::host::stream::{ByteSink, Closed, Traffic};
use crate::host::throttle::Throttle;
use crate::interrupt::AbortFlag;
use crate::prompt::NeverAsk;
use crate::sys::command::command;

const LIMIT: Duration = Duration::from_secs(20);

fn works(connection: Result<SshConnection, SshError>) {
    let mut connection = connection.unwrap_or_else(|e| panic!("{e}: {:?}", e.hint()));
    let done = connection.exec("echo hello", b"", LIMIT).unwrap();
    assert_eq!(done.stdout, b"hello\n");
}

#[test]
fn a_command_runs_with_input_output_and_status() {
    let Some(sshd) = TestSshd::start() else {
        return;
    };
    let mut connection = sshd.connect();
    let input = vec![b'x'; 3_000_000];
    let done = connection
        .exec("wc -c; echo oops >&2; exit 3", &input, LIMIT)
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&done.stdout).trim(), "3000000");
    assert_eq!(done.stderr, b"oops\n");
    assert_eq!(done.status, Some(3));
    assert_eq!(
        connection.cipher().as_deref(),
        Some("aes128-gcm@openssh.com")
    );
}

#[test]
fn a_command_that_takes_no_input_or_says_too_much_ends_all_the_same() {
    let Some(sshd) = TestSshd::start() else {
        return;
    };
    let mut connection = sshd.connect();
    let input = vec![b'x'; 20_000_000];
    let done = connection.exec("exec true", &input, LIMIT).unwrap();
    assert_eq!(done.status, Some(0));
    let done = connection
        .exec("head -c 5000000 /dev/zero", b"", LIMIT)
        .unwrap();
    assert_eq!((done.stdout.len(), done.status), (1 << 20, Some(0)));
    let started = Instant::now();
    let error = connection
        .exec("sleep 60", b"", Duration::from_millis(300))
        .unwrap_err();
    assert!(matches!(error, SshError::TimedOut { .. }), "{error}");
    assert!(started.elapsed() < LIMIT);
}

/// Before tuning the first `exec` of a session took 45 ms: the server answers in two segments, its
/// Nagle algorithm holds the second back until the first is acknowledged, and the kernel here
/// delays that for 40 ms. What remains beyond is the login shell's start-up files over there.
#[test]
fn exec_takes_no_delayed_acknowledgements() {
    let Some(sshd) = TestSshd::start() else {
        return;
    };
    let mut connection = sshd.connect();
    let mut times: Vec<Duration> = (0..20)
        .map(|_| {
            let started = Instant::now();
            connection.exec("true", b"", LIMIT).unwrap();
            started.elapsed()
        })
        .collect();
    let first = times[0];
    times.sort();
    println!(
        "exec of `true` on an open session: first {:.1} ms, median {:.1} ms, worst {:.1} ms",
        first.as_secs_f64() * 1e3,
        times[10].as_secs_f64() * 1e3,
        times[19].as_secs_f64() * 1e3
    );
    assert!(times[10] < Duration::from_millis(35), "{times:?}");
}

#[test]
fn the_known_type_of_host_key_is_asked_for() {
    let Some(sshd) = TestSshd::with(&Extra {
        host_keys: &["ed25519", "ecdsa", "rsa"],
        ..Extra::default()
    }) else {
        return;
    };
    for kind in ["ecdsa", "rsa", "ed25519"] {
        sshd.know(kind);
        works(sshd.try_connect("", &NeverAsk));
    }
}

#[test]
fn an_unknown_key_is_refused_in_batch_and_remembered_when_a_person_says_yes() {
    let Some(sshd) = TestSshd::start() else {
        return;
    };
    let file = sshd.path("known_hosts");
    std::fs::remove_file(&file).unwrap();
    let error = sshd.try_connect("", &NeverAsk).unwrap_err();
    let SshError::HostKeyUnknown { fingerprint, .. } = &error else {
        panic!("{error}");
    };
    let shown = command("ssh-keygen")
        .arg("-lf")
        .arg(sshd.path("host_ed25519.pub"))
        .output()
        .unwrap();
    let shown = String::from_utf8(shown.stdout).unwrap();
    assert!(shown.contains(&format!(" {fingerprint} ")), "{shown}");
    assert!(!file.exists());

    let no = Person {
        choice: 1,
        ..Person::default()
    };
    assert!(matches!(
        sshd.try_connect("", &no).unwrap_err(),
        SshError::HostKeyUnknown { .. }
    ));
    assert!(no.asked.lock().unwrap()[0].contains(fingerprint));
    assert!(!file.exists());
    let strict = sshd.try_connect("StrictHostKeyChecking yes", &Person::default());
    assert!(strict.is_err() && !file.exists());

    let yes = Person::default();
    works(sshd.try_connect("HashKnownHosts yes", &yes));
    let text = std::fs::read_to_string(&file).unwrap();
    assert!(
        text.starts_with("|1|") && text.lines().count() == 1,
        "{text}"
    );
    assert_eq!(
        std::fs::metadata(&file).unwrap().permissions().mode() & 0o777,
        0o600
    );
    works(sshd.try_connect("", &NeverAsk));
    std::fs::remove_file(&file).unwrap();
    works(sshd.try_connect("StrictHostKeyChecking accept-new", &NeverAsk));
}

#[test]
fn a_changed_or_revoked_key_is_refused_whatever_the_configuration_says() {
    let Some(sshd) = TestSshd::with(&Extra {
        host_keys: &["ed25519", "ecdsa"],
        ..Extra::default()
    }) else {
        return;
    };
    // The key of another machine under this name.
    let other = std::fs::read_to_string(sshd.path("user_key.pub")).unwrap();
    let line = format!("# mine\n[127.0.0.1]:{} {other}", sshd.port);
    std::fs::write(sshd.path("known_hosts"), line).unwrap();
    for lines in ["", "StrictHostKeyChecking no"] {
        let error = sshd.try_connect(lines, &Person::default()).unwrap_err();
        let SshError::HostKeyChanged { line, .. } = &error else {
            panic!("{error}");
        };
        assert_eq!(*line, 2);
        assert!(error.hint().unwrap().contains("ssh-keygen -R"), "{error}");
    }
    let own = std::fs::read_to_string(sshd.path("host_ed25519.pub")).unwrap();
    std::fs::write(sshd.path("known_hosts"), format!("@revoked * {own}")).unwrap();
    let error = sshd.try_connect("", &Person::default()).unwrap_err();
    assert!(
        matches!(error, SshError::HostKeyRevoked { line: 1, .. }),
        "{error}"
    );
}

#[test]
fn a_host_key_alias_and_the_global_file_are_looked_at() {
    let Some(sshd) = TestSshd::start() else {
        return;
    };
    let own = std::fs::read_to_string(sshd.path("host_ed25519.pub")).unwrap();
    std::fs::write(sshd.path("known_hosts"), "").unwrap();
    std::fs::write(sshd.path("global"), format!("other,my-alias {own}")).unwrap();
    works(sshd.try_connect(
        &format!(
            "HostKeyAlias my-alias\nGlobalKnownHostsFile {}",
            sshd.path("global").display()
        ),
        &NeverAsk,
    ));
}

#[test]
fn keys_with_a_passphrase_ask_for_it_only_if_the_server_wants_them() {
    let Some(sshd) = TestSshd::start() else {
        return;
    };
    let wanted = sshd.add_user_key("locked", "ed25519", "opensesame");
    let unwanted = sshd.path("unwanted");
    let done = command("ssh-keygen")
        .args(["-q", "-t", "ed25519", "-N", "secret", "-f"])
        .arg(&unwanted)
        .output()
        .unwrap();
    assert!(done.status.success());
    // Lines in front come first; the key that always works is taken out.
    std::fs::rename(sshd.path("user_key"), sshd.path("away")).unwrap();
    let lines = format!(
        "IdentityFile {}\nIdentityFile {}",
        unwanted.display(),
        wanted.display()
    );
    let error = sshd.try_connect(&lines, &NeverAsk).unwrap_err();
    let SshError::LoginRefused { tried, offered, .. } = &error else {
        panic!("{error}");
    };
    assert_eq!(tried.len(), 2, "{tried:?}");
    assert!(tried[1].contains("needs its passphrase"), "{tried:?}");
    assert_eq!(offered, &["publickey"]);
    let person = Person::typing(&["wrong", "opensesame"]);
    works(sshd.try_connect(&lines, &person));
    let asked = person.asked.lock().unwrap();
    assert_eq!(asked.len(), 2);
    assert!(
        asked.iter().all(|text| text.contains("locked")),
        "{asked:?}"
    );
}

#[test]
fn rsa_and_ecdsa_keys_log_in_with_sha_2() {
    let Some(sshd) = TestSshd::with(&Extra {
        server: "PubkeyAcceptedAlgorithms rsa-sha2-256,rsa-sha2-512,ecdsa-sha2-nistp256",
        ..Extra::default()
    }) else {
        return;
    };
    for kind in ["rsa", "ecdsa"] {
        let key = sshd.add_user_key(&format!("key_{kind}"), kind, "");
        works(sshd.try_connect(&format!("IdentityFile {}", key.display()), &NeverAsk));
    }
}

/// An ssh-agent; it ends with this value.
struct TestAgent(Child);

impl TestAgent {
    fn start(sshd: &TestSshd) -> Self {
        let socket = sshd.path("agent.sock");
        let child = command("ssh-agent")
            .arg("-D")
            .arg("-a")
            .arg(&socket)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let until = Instant::now() + LIMIT;
        while !socket.exists() {
            assert!(Instant::now() < until);
            std::thread::sleep(Duration::from_millis(10));
        }
        Self(child)
    }

    fn add(sshd: &TestSshd, name: &str) {
        let done = command("ssh-add")
            .env("SSH_AUTH_SOCK", sshd.path("agent.sock"))
            .arg(sshd.path(name))
            .output()
            .unwrap();
        assert!(done.status.success(), "{done:?}");
    }
}

impl Drop for TestAgent {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn the_agent_is_asked_first_and_only_for_listed_keys_if_so_configured() {
    let Some(sshd) = TestSshd::start() else {
        return;
    };
    let _agent = TestAgent::start(&sshd);
    for name in ["a", "b", "c", "d", "e", "f"] {
        let done = command("ssh-keygen")
            .args(["-q", "-t", "ed25519", "-N", "", "-f"])
            .arg(sshd.path(name))
            .output()
            .unwrap();
        assert!(done.status.success());
        TestAgent::add(&sshd, name);
    }
    TestAgent::add(&sshd, "user_key");
    // The private key is in the agent only.
    std::fs::remove_file(sshd.path("user_key")).unwrap();
    let socket = format!("IdentityAgent {}", sshd.path("agent.sock").display());
    works(sshd.try_connect(&format!("{socket}\nIdentitiesOnly yes"), &NeverAsk));
    // The key of a configured file goes first: seven would be too many.
    works(sshd.try_connect(&format!("{socket}\nIdentitiesOnly no"), &NeverAsk));
    std::fs::remove_file(sshd.path("user_key.pub")).unwrap();
    let error = sshd
        .try_connect(&format!("{socket}\nIdentitiesOnly no"), &NeverAsk)
        .unwrap_err();
    let SshError::LoginRefused { tried, .. } = &error else {
        panic!("{error}");
    };
    assert!(tried.len() >= 6, "{tried:?}");
    assert!(error.hint().unwrap().contains("IdentitiesOnly"), "{error}");
}

#[test]
fn a_password_is_asked_for_on_a_terminal_only() {
    let Some(sshd) = TestSshd::with(&Extra {
        server: "PasswordAuthentication yes\nPubkeyAuthentication no",
        ..Extra::default()
    }) else {
        return;
    };
    let error = sshd.try_connect("", &NeverAsk).unwrap_err();
    let SshError::LoginRefused { tried, offered, .. } = &error else {
        panic!("{error}");
    };
    assert!(tried.is_empty(), "{tried:?}");
    assert_eq!(offered, &["password"]);
    assert!(error.hint().unwrap().contains("without --batch"), "{error}");
    let person = Person::typing(&["surely not the password of root here"]);
    let error = sshd.try_connect("", &person).unwrap_err();
    assert!(matches!(error, SshError::LoginRefused { .. }), "{error}");
    assert_eq!(person.asked.lock().unwrap().len(), 3);
    let person = Person::typing(&["x"]);
    sshd.try_connect("BatchMode yes", &person).unwrap_err();
    assert!(person.asked.lock().unwrap().is_empty());
}

#[test]
fn proxies_carry_the_session_and_their_failure_is_told_in_their_words() {
    let Some(sshd) = TestSshd::start() else {
        return;
    };
    // bash makes the connection: no tool beyond the test's own need.
    let script = sshd.path("proxy");
    std::fs::write(&script, "exec 3<>/dev/tcp/$1/$2; cat <&3 & exec cat >&3\n").unwrap();
    works(sshd.try_connect(
        &format!("ProxyCommand bash {} %h %p", script.display()),
        &NeverAsk,
    ));
    let error = sshd
        .try_connect("ProxyCommand echo no route today >&2; exit 3", &NeverAsk)
        .unwrap_err();
    let SshError::Proxy { detail, .. } = &error else {
        panic!("{error}");
    };
    assert_eq!(detail, "no route today");
    // The jump host is the same server under another name.
    let jump = "Host hop\n  ProxyJump none\nHost test\n  ProxyJump hop\nHost *";
    works(sshd.try_connect(jump, &NeverAsk));
    let jump = "Host hop\n  ProxyJump none\n  Port 1\nHost test\n  ProxyJump hop\nHost *";
    let error = sshd.try_connect(jump, &NeverAsk).unwrap_err();
    assert!(error.to_string().contains("refused"), "{error}");
}

#[test]
fn nobody_there_no_ssh_there_and_no_such_name_are_told_apart() {
    let Some(sshd) = TestSshd::start() else {
        return;
    };
    let error = sshd
        .try_connect(&format!("Port {}", free_port()), &NeverAsk)
        .unwrap_err();
    let SshError::Connect { source, .. } = &error else {
        panic!("{error}");
    };
    assert_eq!(source.kind(), std::io::ErrorKind::ConnectionRefused);
    let error = sshd
        .try_connect("HostName no-such-host.invalid\nConnectTimeout 5", &NeverAsk)
        .unwrap_err();
    assert!(matches!(error, SshError::NameNotFound { .. }), "{error}");
    // Somebody who accepts and says nothing.
    let mute = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = mute.local_addr().unwrap().port();
    let error = sshd
        .try_connect(&format!("Port {port}\nConnectTimeout 1"), &NeverAsk)
        .unwrap_err();
    assert!(matches!(error, SshError::TimedOut { .. }), "{error}");
    assert!(error.hint().is_some());
}

#[test]
fn the_abort_flag_ends_every_wait_at_once() {
    let Some(sshd) = TestSshd::start() else {
        return;
    };
    let mute = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = mute.local_addr().unwrap().port();
    let options = sshd.options(&format!("Port {port}"));
    let abort = AbortFlag::new();
    let flag = abort.clone();
    let raiser = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(300));
        flag.raise();
    });
    let started = Instant::now();
    let error = connect("test", &options, &NeverAsk, &EventSink::none(), &abort).unwrap_err();
    raiser.join().unwrap();
    assert!(error.is_interrupt(), "{error}");
    // Not only when the server has had its 15 seconds.
    assert!(started.elapsed() < Duration::from_secs(12));
}

#[test]
fn a_command_killed_by_a_signal_has_no_exit_status() {
    let Some(sshd) = TestSshd::start() else {
        return;
    };
    let done = sshd.connect().exec("kill -9 $$", b"", LIMIT).unwrap();
    assert_eq!(done.status, None);
}

/// Hands on what arrives.
struct Ear(crossbeam_channel::Sender<Vec<u8>>);

impl ByteSink for Ear {
    fn received(&mut self, bytes: &[u8]) -> Result<(), String> {
        self.0.send(bytes.to_vec()).map_err(|e| e.to_string())
    }

    fn closed(&mut self, _: Closed) {}
}

#[test]
fn a_limit_is_kept_by_all_connections_together_and_what_is_urgent_goes_first() {
    let Some(sshd) = TestSshd::start() else {
        return;
    };
    let rate = 2_000_000;
    let options = SshOptions {
        throttle: Throttle::per_second(rate),
        ..sshd.options("")
    };
    let start = || {
        let (events, abort) = (EventSink::none(), AbortFlag::new());
        let connection = connect("test", &options, &NeverAsk, &events, &abort).unwrap();
        let opening = Opening {
            banner: "agent ",
            ..Opening::default()
        };
        let (_, _, program) = connection
            .open_program("echo agent 1; exec cat", opening)
            .unwrap();
        let (sender, receiver) = crossbeam_channel::unbounded();
        let program = program.expect("it said its banner");
        let outgoing = program.run("test", Box::new(Ear(sender)), Traffic::default());
        (outgoing.unwrap(), receiver)
    };
    let lines = [start(), start()];
    let begun = Instant::now();
    let chunk = 250_000;
    for (outgoing, _) in &lines {
        for _ in 0..12 {
            outgoing.send(vec![1; chunk]).unwrap();
        }
    }
    // Somebody has six megabytes to send when there is something urgent.
    let (outgoing, receiver) = &lines[0];
    receiver.recv_timeout(LIMIT).unwrap();
    let before: usize = receiver.try_iter().map(|bytes| bytes.len()).sum();
    outgoing.send_first(vec![2; 5]).unwrap();
    let mut overtaken = None;
    for (_, receiver) in &lines {
        let mut left = 12 * chunk - 12 * chunk / 10;
        if overtaken.is_none() {
            left = left.saturating_sub(before);
        }
        while left > 0 {
            let bytes = receiver.recv_timeout(LIMIT).unwrap();
            left = left.saturating_sub(bytes.len());
            if bytes.contains(&2) {
                overtaken = Some(left);
            }
        }
    }
    let took = begun.elapsed().as_secs_f64();
    println!("6 MB at 2 MB/s took {took:.2} s, the urgent bytes overtook {overtaken:?}");
    assert!(took > 2.2, "{took}");
    // What the pipes hold already cannot be overtaken.
    assert!(overtaken.expect("it came") > chunk, "{overtaken:?}");
}
