//! Agents started through a real sshd.
//!
//! The stand-in for our binary is bash: started with the argument `agent` it finds the script of
//! that name on the agent's `PATH`, whose first directory is ours in the test server.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use super::*;
use crate::agent::protocol::{Frame, Kind, banner};
use crate::host::ssh::testing::{Extra, Person, TestSshd};
use crate::prompt::NeverAsk;

const SESSION: &str = "00c0ffee";

/// Says its banner, then sends every frame back.
fn echo_agent(sshd: &TestSshd) -> AgentBinary {
    let script = format!("echo {}\necho $$ >~/pid\ncat\n", banner());
    std::fs::write(sshd.path("home/agent"), script).unwrap();
    AgentBinary::read(Path::new("/bin/bash")).unwrap()
}

fn frame(payload: Vec<u8>) -> Frame {
    Frame {
        kind: Kind::Stream,
        payload,
    }
}

fn send(link: &Link, frame: &Frame) {
    let mut bytes = Vec::new();
    frame.encode(&mut bytes);
    link.outgoing.send(bytes).unwrap();
}

fn next(link: &Link) -> Incoming {
    link.incoming.recv_timeout(Duration::from_secs(20)).unwrap()
}

fn echoes(link: &Link) {
    let sent = frame(b"hello".to_vec());
    send(link, &sent);
    let Incoming::Frame(got) = next(link) else {
        panic!("no frame");
    };
    assert_eq!(got, sent);
}

fn ends(link: Link) -> Closed {
    let incoming = link.incoming.clone();
    drop(link);
    loop {
        match incoming.recv_timeout(Duration::from_secs(20)).unwrap() {
            Incoming::Closed(closed) => return closed,
            Incoming::Frame(_) => {}
        }
    }
}

/// What the target's `/run/pc-switcher` holds, and its tmpfs mounts.
fn leftovers(sshd: &TestSshd) -> String {
    let done = sshd
        .connect()
        .exec(
            "ls -A /run/pc-switcher; grep ^pc-switcher /proc/self/mounts",
            b"",
            Duration::from_secs(10),
        )
        .unwrap();
    String::from_utf8(done.stdout).unwrap()
}

fn agent_pid(sshd: &TestSshd) -> u32 {
    let text = std::fs::read_to_string(sshd.path("home/pid")).unwrap();
    text.trim().parse().unwrap()
}

fn is_running(pid: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

fn wait_gone(pid: u32) {
    let until = Instant::now() + Duration::from_secs(10);
    while is_running(pid) {
        assert!(Instant::now() < until, "process {pid} is still running");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn streamed_agents(run_noexec: bool) {
    let extra = Extra {
        run_noexec,
        ..Extra::default()
    };
    let Some(sshd) = TestSshd::with(&extra) else {
        return;
    };
    let binary = echo_agent(&sshd);
    let started = Instant::now();
    let connection = sshd.connect();
    let connected = started.elapsed();
    let (link, access) = start_agent(connection, &binary, SESSION, &NeverAsk).unwrap();
    println!(
        "connect {:.1} ms, agent started after {:.1} ms (noexec {run_noexec})",
        connected.as_secs_f64() * 1e3,
        started.elapsed().as_secs_f64() * 1e3
    );
    assert_eq!(link.banner, banner());
    echoes(&link);
    assert_eq!(leftovers(&sshd), "");
    // It lives in the same mount namespace as everything else there.
    let pid = agent_pid(&sshd);
    let done = sshd
        .connect()
        .exec("readlink /proc/self/ns/mnt", b"", Duration::from_secs(10))
        .unwrap();
    let namespace = std::fs::read_link(format!("/proc/{pid}/ns/mnt")).unwrap();
    assert_eq!(
        String::from_utf8(done.stdout).unwrap().trim(),
        namespace.to_str().unwrap()
    );
    // A second one from the running first.
    let second = start_extra_agent(sshd.connect(), pid, &access).unwrap();
    echoes(&second);
    assert!(ends(second).orderly);
    let closed = ends(link);
    assert!(closed.orderly, "{closed:?}");
    wait_gone(pid);
    assert_eq!(leftovers(&sshd), "");
    // Now nobody runs it any more, and that is what is said.
    let gone = start_extra_agent(sshd.connect(), pid, &access).unwrap_err();
    assert!(matches!(gone, DeployError::Gone { .. }), "{gone}");
}

#[test]
fn streamed_agents_start_speak_multiply_and_leave_nothing() {
    streamed_agents(false);
}

#[test]
fn a_run_directory_without_programs_is_got_round() {
    streamed_agents(true);
}

#[test]
fn a_stdin_that_closes_early_and_a_wrong_checksum_leave_nothing() {
    let Some(sshd) = TestSshd::start() else {
        return;
    };
    let mut binary = echo_agent(&sshd);
    let script = script::streamed(binary.bytes.len(), &binary.sha256, SESSION);
    let command = script::as_root(&script, Sudo::NotNeeded);
    let half = &binary.bytes[..binary.bytes.len() / 2];
    let done = sshd
        .connect()
        .exec(&command, half, Duration::from_secs(20))
        .unwrap();
    assert_eq!(done.status, Some(70), "{done:?}");
    assert_eq!(leftovers(&sshd), "");
    binary.sha256 = "0".repeat(64);
    let error = start_agent(sshd.connect(), &binary, SESSION, &NeverAsk).unwrap_err();
    assert!(matches!(error, DeployError::Damaged { .. }), "{error}");
    assert_eq!(leftovers(&sshd), "");
}

#[test]
fn a_planted_run_directory_is_refused() {
    let Some(sshd) = TestSshd::start() else {
        return;
    };
    let binary = echo_agent(&sshd);
    for plant in [
        "ln -s /tmp /run/pc-switcher",
        "rm /run/pc-switcher; mkdir /run/pc-switcher; chown 12345 /run/pc-switcher",
    ] {
        sshd.connect()
            .exec(plant, b"", Duration::from_secs(10))
            .unwrap();
        let error = start_agent(sshd.connect(), &binary, SESSION, &NeverAsk).unwrap_err();
        assert!(
            matches!(error, DeployError::RunDirectory { .. }),
            "{plant}: {error}"
        );
    }
}

#[test]
fn other_architectures_full_tmpfs_and_broken_binaries_are_told_apart() {
    let Some(sshd) = TestSshd::start() else {
        return;
    };
    let binary = echo_agent(&sshd);
    let place = Place {
        host: "vega".into(),
        user: "kim".into(),
        bytes: 1,
        allowance: Allowance::Line(String::new()),
    };
    let error = place.refused("arch aarch64", "");
    assert_eq!(
        error.to_string(),
        format!(
            "refused: vega has aarch64, this binary is for {}",
            std::env::consts::ARCH
        )
    );
    let mut garbage = AgentBinary {
        bytes: b"\x7fELF garbage".to_vec(),
        sha256: String::new(),
    };
    for byte in Sha256::digest(&garbage.bytes) {
        write!(garbage.sha256, "{byte:02x}").unwrap();
    }
    let error = start_agent(sshd.connect(), &garbage, SESSION, &NeverAsk).unwrap_err();
    assert!(matches!(error, DeployError::WillNotRun { .. }), "{error}");
    sshd.connect()
        .exec(
            "mount -o remount,size=64k /run",
            b"",
            Duration::from_secs(10),
        )
        .unwrap();
    let error = start_agent(sshd.connect(), &binary, SESSION, &NeverAsk).unwrap_err();
    assert!(matches!(error, DeployError::NoSpace { .. }), "{error}");
}

/// A `sudo` for tests, first on the server's PATH. It behaves as the file `mode` says.
fn fake_sudo(sshd: &TestSshd) {
    let directory = sshd.path("bin");
    std::fs::create_dir(&directory).unwrap();
    let sudo = directory.join("sudo");
    std::fs::write(
        &sudo,
        r#"#!/bin/sh
mode=$(cat ~/mode)
ask=no; reads=no
while :; do case $1 in
  -n) shift;; -k) shift;; -S) reads=yes; shift;; -p) prompt=$2; shift 2;; --) shift; break;;
  *) exit 99;; esac; done
case $mode in
  free) exec "$@";;
  forbidden) echo "kim is not in the sudoers file." >&2; exit 1;;
esac
if [ $reads = no ]; then echo "sudo: a password is required" >&2; exit 1; fi
for try in 1 2 3; do
  printf %s "$prompt" >&2
  read -r line || { echo "sudo: no password was provided" >&2; exit 1; }
  [ "$line" = opensesame ] && exec "$@"
  echo "Sorry, try again." >&2
done
exit 1
"#,
    )
    .unwrap();
    std::fs::set_permissions(&sudo, std::fs::Permissions::from_mode(0o755)).unwrap();
}

fn sudo_server(mode: &str) -> Option<(TestSshd, AgentBinary)> {
    let extra = Extra {
        fake_path: true,
        ..Extra::default()
    };
    let sshd = TestSshd::with(&extra)?;
    fake_sudo(&sshd);
    std::fs::write(sshd.path("home/mode"), mode).unwrap();
    let binary = echo_agent(&sshd);
    Some((sshd, binary))
}

fn start(
    sshd: &TestSshd,
    binary: &AgentBinary,
    prompter: &dyn Prompter,
) -> Result<(Link, AgentAccess), DeployError> {
    start_agent_as(sshd.connect(), binary, SESSION, prompter, false)
}

#[test]
fn sudo_without_a_password_is_used_silently() {
    let Some((sshd, binary)) = sudo_server("free") else {
        return;
    };
    let (link, _) = start(&sshd, &binary, &NeverAsk).unwrap();
    echoes(&link);
}

#[test]
fn a_password_is_asked_for_until_it_is_right_and_used_again_without_asking() {
    let Some((sshd, binary)) = sudo_server("password") else {
        return;
    };
    let person = Person::typing(&["wrong", "opensesame"]);
    let (link, access) = start(&sshd, &binary, &person).unwrap();
    echoes(&link);
    assert_eq!(person.asked.lock().unwrap().len(), 2);
    let second = start_extra_agent(sshd.connect(), agent_pid(&sshd), &access).unwrap();
    echoes(&second);
    assert_eq!(person.asked.lock().unwrap().len(), 2);
    let stubborn = Person::typing(&["wrong"]);
    let error = start(&sshd, &binary, &stubborn).unwrap_err();
    assert!(
        matches!(
            error,
            DeployError::Sudo {
                trouble: SudoTrouble::PasswordWrong,
                ..
            }
        ),
        "{error}"
    );
    assert_eq!(stubborn.asked.lock().unwrap().len(), 3);
}

#[test]
fn without_a_person_the_one_sudoers_line_is_named() {
    let Some((sshd, binary)) = sudo_server("password") else {
        return;
    };
    let error = start(&sshd, &binary, &NeverAsk).unwrap_err();
    let hint = error.hint().unwrap();
    let line = "\n    echo 'root ALL=(root) NOPASSWD: /usr/local/bin/pc-switcher agent' | ";
    assert!(hint.contains(line), "{hint}");
    assert!(hint.contains("installs pc-switcher there"), "{hint}");
    assert!(
        hint.contains("visudo -f /etc/sudoers.d/pc-switcher"),
        "{hint}"
    );
    std::fs::write(sshd.path("home/mode"), "forbidden").unwrap();
    let error = start(&sshd, &binary, &NeverAsk).unwrap_err();
    let hint = error.hint().unwrap();
    assert!(
        hint.contains(line) && hint.contains("install pc-switcher"),
        "{hint}"
    );
    // Where sudo says no, no password helps: a person is not asked for one.
    let person = Person::typing(&["opensesame"]);
    start(&sshd, &binary, &person).unwrap_err();
    assert!(person.asked.lock().unwrap().is_empty());
}

#[test]
fn a_local_agent_speaks_and_ends_in_good_order() {
    let directory = tempfile::tempdir().unwrap();
    let program = directory.path().join("pc-switcher");
    let script = format!(
        "#!/bin/sh\n[ \"$1\" = agent ] || exit 9\necho {}\nexec cat\n",
        banner()
    );
    std::fs::write(&program, script).unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    let link = start_local_agent_from(&program, true, &NeverAsk, &AbortFlag::new()).unwrap();
    echoes(&link);
    let closed = ends(link);
    assert!(closed.orderly, "{closed:?}");
}

fn cpu_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    time.try_into().unwrap()
}

#[test]
#[ignore = "a measurement: cargo test --release -- --ignored --nocapture throughput"]
fn throughput_of_a_link_both_ways() {
    const BYTES: u32 = 1 << 30;
    let Some(sshd) = TestSshd::start() else {
        return;
    };
    let binary = AgentBinary::read(Path::new("/bin/bash")).unwrap();
    let chunk = vec![7_u8; 1 << 20];
    let mut encoded = Vec::new();
    frame(chunk).encode(&mut encoded);
    for (what, agent) in [
        ("up", "cat >/dev/null"),
        ("down", "exec cat ~/frames"),
        ("both", "cat"),
    ] {
        let script = format!("echo {}\n{agent}\n", banner());
        std::fs::write(sshd.path("home/agent"), script).unwrap();
        let rounds = BYTES as usize / encoded.len();
        if what == "down" {
            std::fs::write(sshd.path("home/frames"), encoded.repeat(rounds)).unwrap();
        }
        let started = Instant::now();
        let (link, _) = start_agent(sshd.connect(), &binary, SESSION, &NeverAsk).unwrap();
        let deployed = started.elapsed();
        let started = Instant::now();
        let cpu = cpu_time();
        let feeder = {
            let Link {
                outgoing, incoming, ..
            } = link;
            let encoded = encoded.clone();
            std::thread::spawn(move || {
                if what != "down" {
                    for _ in 0..rounds {
                        outgoing.send(encoded.clone()).unwrap();
                    }
                }
                drop(outgoing);
                let mut frames = 0;
                while let Ok(Incoming::Frame(_)) = incoming.recv() {
                    frames += 1;
                }
                frames
            })
        };
        let frames = feeder.join().unwrap();
        let seconds = started.elapsed().as_secs_f64();
        println!(
            "{what}: {:.0} MB/s ({frames} frames back, {:.2} s of our CPU per GB, deployed in {:.0} ms)",
            f64::from(BYTES) / seconds / 1e6,
            cpu_time().saturating_sub(cpu).as_secs_f64() * 1e9 / f64::from(BYTES),
            deployed.as_secs_f64() * 1e3
        );
    }
}

#[test]
fn a_link_is_full_duplex_however_much_goes_each_way() {
    let Some(sshd) = TestSshd::start() else {
        return;
    };
    // The agent writes 64 MiB before it reads anything, while as much is sent to it.
    let mut encoded = Vec::new();
    frame(vec![7; 1 << 20]).encode(&mut encoded);
    let binary = echo_agent(&sshd);
    let script = format!(
        "echo {}\ncat ~/frames\nsleep 0.2\nwc -c >~/count\n",
        banner()
    );
    std::fs::write(sshd.path("home/agent"), script).unwrap();
    std::fs::write(sshd.path("home/frames"), encoded.repeat(64)).unwrap();
    let (link, _) = start_agent(sshd.connect(), &binary, SESSION, &NeverAsk).unwrap();
    for _ in 0..64 {
        link.outgoing.send(encoded.clone()).unwrap();
    }
    let Link {
        outgoing,
        incoming,
        traffic,
        ..
    } = link;
    drop(outgoing);
    let mut frames = 0;
    let closed = loop {
        match incoming.recv_timeout(Duration::from_mins(1)).unwrap() {
            Incoming::Frame(got) => {
                assert_eq!(got.payload.len(), 1 << 20);
                frames += 1;
            }
            Incoming::Closed(closed) => break closed,
        }
    };
    assert!(closed.orderly, "{closed:?}");
    assert_eq!(frames, 64);
    let count = std::fs::read_to_string(sshd.path("home/count")).unwrap();
    assert_eq!(count.trim(), (64 * encoded.len()).to_string());
    let all = 64 * encoded.len() as u64;
    assert_eq!(traffic.totals(), (all, all));
}

#[test]
fn small_frames_go_back_and_forth_quickly_also_beside_a_saturated_link() {
    let Some(sshd) = TestSshd::start() else {
        return;
    };
    let binary = echo_agent(&sshd);
    let (link, access) = start_agent(sshd.connect(), &binary, SESSION, &NeverAsk).unwrap();
    let round_trips = |link: &Link| {
        let mut times: Vec<Duration> = (0..50)
            .map(|_| {
                let started = Instant::now();
                echoes(link);
                started.elapsed()
            })
            .collect();
        times.sort();
        times[25]
    };
    let idle = round_trips(&link);
    let monitor = start_extra_agent(sshd.connect(), agent_pid(&sshd), &access).unwrap();
    let mut encoded = Vec::new();
    frame(vec![7; 1 << 20]).encode(&mut encoded);
    for _ in 0..200 {
        link.outgoing.send(encoded.clone()).unwrap();
    }
    let busy = round_trips(&monitor);
    println!("round trip of a frame: idle {idle:?}, beside a saturated link {busy:?}");
    assert!(idle < Duration::from_millis(20), "{idle:?}");
    assert!(busy < Duration::from_millis(200), "{busy:?}");
}

#[test]
fn an_agent_that_dies_tells_its_status_and_last_words() {
    let Some(sshd) = TestSshd::start() else {
        return;
    };
    let binary = echo_agent(&sshd);
    for (end, reason) in [
        ("exit 9", "agent exited with status 9"),
        ("kill -9 $$", "agent was killed by SIGKILL"),
    ] {
        let script = format!("echo {}\nread -r x\necho dying >&2\n{end}\n", banner());
        std::fs::write(sshd.path("home/agent"), script).unwrap();
        let (link, _) = start_agent(sshd.connect(), &binary, SESSION, &NeverAsk).unwrap();
        link.outgoing.send(b"go\n".to_vec()).unwrap();
        let Incoming::Closed(closed) = next(&link) else {
            panic!("no end");
        };
        assert_eq!(closed.reason, reason);
        assert_eq!(closed.stderr, "dying");
        assert!(!closed.orderly);
        // Whoever sends now is told.
        let until = Instant::now() + Duration::from_secs(5);
        while link.outgoing.send(vec![0]).is_ok() {
            assert!(Instant::now() < until);
        }
    }
}

#[test]
fn a_cut_connection_ends_the_link_here_and_the_agent_there() {
    let Some(sshd) = TestSshd::start() else {
        return;
    };
    let binary = echo_agent(&sshd);
    let (link, _) = start_agent(sshd.connect(), &binary, SESSION, &NeverAsk).unwrap();
    echoes(&link);
    let pid = agent_pid(&sshd);
    // The server's process for this connection is the agent's parent.
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let parent = stat.rsplit_once(") ").unwrap().1.split(' ').nth(1).unwrap();
    let parent = rustix::process::Pid::from_raw(parent.parse().unwrap()).unwrap();
    rustix::process::kill_process(parent, rustix::process::Signal::KILL).unwrap();
    let Incoming::Closed(closed) = next(&link) else {
        panic!("no end");
    };
    assert!(
        closed.reason.contains("connection was closed"),
        "{closed:?}"
    );
    wait_gone(pid);
}

#[test]
fn an_agent_that_talks_nonsense_is_cut_off() {
    let Some(sshd) = TestSshd::start() else {
        return;
    };
    let binary = echo_agent(&sshd);
    let script = format!("echo {}\necho '<html>'\nsleep 60\n", banner());
    std::fs::write(sshd.path("home/agent"), script).unwrap();
    let (link, _) = start_agent(sshd.connect(), &binary, SESSION, &NeverAsk).unwrap();
    let Incoming::Closed(closed) = next(&link) else {
        panic!("no end");
    };
    assert!(closed.reason.contains("not allowed"), "{closed:?}");
    std::fs::write(
        sshd.path("home/agent"),
        "echo pc-switcher-agent 999 0 x\ncat\n",
    )
    .unwrap();
    let error = start_agent(sshd.connect(), &binary, SESSION, &NeverAsk).unwrap_err();
    assert!(matches!(error, DeployError::Protocol { .. }), "{error}");
}

#[test]
fn a_chatty_login_script_is_talked_over() {
    let Some(sshd) = TestSshd::start() else {
        return;
    };
    let binary = echo_agent(&sshd);
    std::fs::write(
        sshd.path("home/.bashrc"),
        "for i in 1 2 3; do echo Welcome $i; done; printf 'no newline'\n",
    )
    .unwrap();
    let (link, _) = start_agent(sshd.connect(), &binary, SESSION, &NeverAsk).unwrap();
    echoes(&link);
    std::fs::write(sshd.path("home/.bashrc"), "yes\n").unwrap();
    let error = start_agent(sshd.connect(), &binary, SESSION, &NeverAsk).unwrap_err();
    assert!(matches!(error, DeployError::Babble { .. }), "{error}");
}
