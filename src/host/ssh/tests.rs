//! The connection against a real sshd.

use std::time::{Duration, Instant};

use super::SshError;
use super::testing::{Extra, Person, TestSshd};
use crate::prompt::NeverAsk;

const LIMIT: Duration = Duration::from_secs(20);

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
        Some("aes256-gcm@openssh.com")
    );
}

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
    times.sort();
    println!(
        "exec of `true` on an open session: median {:.1} ms, worst {:.1} ms",
        times[10].as_secs_f64() * 1e3,
        times[19].as_secs_f64() * 1e3
    );
    assert!(times[10] < Duration::from_millis(35), "{times:?}");
}
