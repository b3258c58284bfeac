//! `logs`: written by real formats, damaged by hand, read back by people, programs and pagers.

use std::fs;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::support::json_doc;

const FIRST: &str = "sync-20260102T030405Z-1a2b3c4d.log";
const SECOND: &str = "sync-20260103T100000Z-1fffffff.log";

fn line(time: &str, level: &str, module: &str, event: &str, message: &str, more: &str) -> String {
    format!(
        "{{\"timestamp\":\"2026-01-02T{time}.000000Z\",\"level\":\"{level}\",\"module\":\"{module}\",\
         \"session\":\"1a2b3c4d\",\"event\":\"{event}\",\"message\":\"{message}\"{more}}}\n"
    )
}

/// A home with two logs, one of them with every kind of line there should not be.
struct Home(tempfile::TempDir);

impl Home {
    fn new() -> Self {
        let home = Self(tempfile::tempdir().expect("a directory"));
        fs::create_dir_all(home.logs()).expect("writable");
        let mut text = line(
            "03:04:05",
            "INFO",
            "core",
            "session",
            "session 1a2b3c4d",
            ",\"source\":\"atlas\",\"target\":\"vega\"",
        );
        text += &line(
            "03:04:06",
            "FULL",
            "user_data",
            "log",
            "looked at it",
            ",\"path\":\"/home/x\"",
        );
        text += "this is no JSON \x1b[2J\x1b]0;title\x07\n";
        text += "{\"timestamp\":\"2026-01-02T03:04:0\n";
        text += &line(
            "03:04:07",
            "WARNING",
            "user_data",
            "log",
            "left alone: \\u001b[31m",
            ",\"hostname\":\"vega\"",
        );
        text += &line(
            "03:04:08",
            "INFO",
            "core",
            "closing",
            "COMPLETED after 3 s",
            ",\"state\":\"COMPLETED\",\"exit_code\":8",
        );
        let mut bytes = text.into_bytes();
        bytes.extend_from_slice(b"\xff\xfe cut");
        fs::write(home.logs().join(FIRST), bytes).expect("writable");
        fs::write(home.logs().join(SECOND), "").expect("writable");
        home
    }

    fn logs(&self) -> PathBuf {
        self.0.path().join(".local/state/pc-switcher/logs")
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pc-switcher"));
        command
            .env_clear()
            .env("HOME", self.0.path())
            .env("PATH", "/usr/bin:/bin");
        command
            .env("LANG", "C.UTF-8")
            .env("TERM", "xterm")
            .env("PAGER", "sed s/^/PAGED:/");
        command.arg("logs").args(args).stdin(Stdio::null());
        command
    }

    fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().expect("it runs")
    }

    #[track_caller]
    fn said(&self, args: &[&str]) -> String {
        let output = self.run(args);
        assert!(output.status.success(), "{output:?}");
        let text = String::from_utf8(output.stdout).expect("what is not UTF-8 is escaped");
        let acts = |c: char| c.is_control() && c != '\n';
        assert!(!text.contains(acts), "{text:?}");
        text
    }
}

#[test]
fn logs_are_listed_the_newest_first_with_what_became_of_them() {
    let home = Home::new();
    let text = home.said(&[]);
    let rows: Vec<Vec<&str>> = text
        .lines()
        .map(|l| l.split_whitespace().collect())
        .collect();
    assert_eq!(rows[1][..4], ["1fffffff", "2026-01-03", "10:00:00", "no"]);
    assert_eq!(
        rows[2][..7],
        [
            "1a2b3c4d",
            "2026-01-02",
            "03:04:05",
            "atlas",
            "vega",
            "completed",
            "(8)"
        ]
    );
    let object: Value =
        serde_json::from_str(home.said(&["--json"]).lines().last().expect("two")).expect("JSON");
    assert_eq!(
        (&object["session"], &object["exit_code"]),
        (&"1a2b3c4d".into(), &8.into())
    );
    json_doc::check("logs", "Logs", &object);
    let empty = tempfile::tempdir().expect("a directory");
    let output = home
        .command(&[])
        .env("HOME", empty.path())
        .output()
        .expect("it runs");
    assert_eq!(output.stdout, b"No logs yet.\n");
    let output = home
        .command(&["--last"])
        .env("HOME", empty.path())
        .output()
        .expect("it runs");
    assert_eq!(output.status.code(), Some(2), "{output:?}");
}

#[test]
fn a_log_is_shown_whole_and_damaged_lines_are_shown_too() {
    let home = Home::new();
    let text = home.said(&["--session", "1A2"]);
    assert_eq!(
        text,
        "2026-01-02 UTC\n\
         03:04:05.000 INFO     session 1a2b3c4d\n\
         03:04:06.000 FULL     user_data: looked at it\n\
         damaged line: this is no JSON \\x1b[2J\\x1b]0;title\\x07\n\
         damaged line: {\"timestamp\":\"2026-01-02T03:04:0\n\
         03:04:07.000 WARNING  user_data (vega): left alone: \\x1b[31m\n\
         03:04:08.000 INFO     COMPLETED after 3 s\n\
         damaged line: \u{fffd}\u{fffd} cut\n"
    );
    assert_eq!(home.said(&["--last"]), "", "the newest is empty");
    let detailed = home.said(&["--session", "1a2b3c4d", "-v"]);
    assert!(detailed.contains("{\"path\":\"/home/x\"}"), "{detailed}");
}

#[test]
fn lines_are_chosen_by_level_and_module() {
    let home = Home::new();
    let count = |args: &[&str]| {
        let text = home.said(&[&["--session", "1a2"], args].concat());
        text.lines().filter(|l| l.starts_with("03:")).count()
    };
    assert_eq!(count(&["--level", "info"]), 3);
    assert_eq!(count(&["--level", "WARNING"]), 1);
    assert_eq!(count(&["--module", "user_data"]), 2);
    assert_eq!(count(&["--module", "user_data,core", "--level", "FULL"]), 4);
    assert_eq!(count(&["--module", "nobody"]), 0);
}

#[test]
fn json_is_what_the_file_says_and_stays_json() {
    let home = Home::new();
    let text = home.said(&["--session", "1a2", "--json"]);
    let objects: Vec<Value> = text
        .lines()
        .map(|l| serde_json::from_str(l).expect("JSON"))
        .collect();
    assert_eq!(objects.len(), 7);
    let file = fs::read(home.logs().join(FIRST)).expect("readable");
    assert_eq!(
        text.lines().next(),
        String::from_utf8_lossy(&file).lines().next()
    );
    let damaged = objects
        .iter()
        .filter(|o| o.get("damaged").is_some())
        .count();
    assert_eq!(damaged, 3);
}

#[test]
fn a_session_that_is_not_known_or_not_one_is_status_2() {
    let home = Home::new();
    for (session, words) in [("dead", "no session is called"), ("1", "may mean any of")] {
        let output = home.run(&["--session", session]);
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(
            text.contains(words) && text.contains("pc-switcher logs"),
            "{text}"
        );
    }
}

#[test]
fn following_shows_what_is_written_and_ends_with_the_session() {
    let home = Home::new();
    let path = home.logs().join(SECOND);
    let mut file = fs::OpenOptions::new()
        .append(true)
        .open(&path)
        .expect("writable");
    let mut child = home
        .command(&["--follow"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("it runs");
    let full = line("10:00:01", "INFO", "core", "phase", "phase 1", "");
    for half in [&full[..30], &full[30..]] {
        std::thread::sleep(Duration::from_millis(300));
        file.write_all(half.as_bytes()).expect("writable");
    }
    assert!(
        child.try_wait().expect("a child").is_none(),
        "it has not ended"
    );
    let closing = line("10:00:02", "INFO", "core", "closing", "COMPLETED", "");
    file.write_all(closing.as_bytes()).expect("writable");
    let output = child.wait_with_output().expect("it ends");
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).expect("text");
    assert!(
        text.contains("phase 1\n") && text.ends_with("COMPLETED\n"),
        "{text}"
    );
    assert!(
        !text.contains("damaged"),
        "half a line is waited for: {text}"
    );
}

#[test]
fn a_pager_is_used_on_a_terminal_and_nowhere_else() {
    let home = Home::new();
    assert!(!home.said(&["--session", "1a2"]).contains("PAGED"));
    let on_a_terminal = |args: &[&str], pager: &str| {
        let mut command = home.command(args);
        command.env("PAGER", pager);
        let mut session =
            rexpect::session::spawn_command(command, Some(10_000)).expect("a terminal");
        session.exp_eof().expect("it ends").replace('\r', "")
    };
    let text = on_a_terminal(&["--session", "1a2"], "sed s/^/PAGED:/");
    let lines: Vec<&str> = text.lines().collect();
    assert!(
        lines.len() >= 8 && lines.iter().all(|l| l.starts_with("PAGED:")),
        "{text}"
    );
    assert!(text.contains("\x1b[35mWARNING"), "in colour: {text:?}");
    for (args, pager) in [
        (&["--session", "1a2"][..], "cat"),
        (&["--session", "1a2", "--json"], "sed s/^/PAGED:/"),
    ] {
        let text = on_a_terminal(args, pager);
        assert!(
            text.contains("looked at it") && !text.contains("PAGED"),
            "{text}"
        );
    }
    // One that ends early is no error; one that is not there is.
    assert!(on_a_terminal(&["--session", "1a2"], "head -n 1").contains("2026-01-02"));
    let missing = on_a_terminal(&["--session", "1a2"], "no-such-pager");
    assert!(
        missing.contains("no-such-pager") && missing.contains("set PAGER"),
        "{missing}"
    );
}
