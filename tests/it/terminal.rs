//! What a person sees: real syncs in a terminal of three widths, through `ssh -t`, resized, asked in the
//! middle, without colours, and with everything hostile that a name, a banner or a command can print.

use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use pc_switcher::event::{Event, EventSink, LogLevel, Phase, ProgressEvent, ProgressUpdate};
use pc_switcher::interrupt::AbortFlag;
use pc_switcher::record::log::LogWriter;
use pc_switcher::ui::{self, UiOptions};

use crate::support::awkward::{chmod, chown, set_mtime};
use crate::support::events_doc::Schema;
use crate::support::lab::{ATLAS, Lab, VEGA};
use crate::support::scenario::{DONE, FILTER, home, make_private_paths, work};
use crate::support::terminal::Terminal;

/// A module that takes some seconds, and people's files.
const BOTH: &str = "sync_modules: { dummy_success: true, user_data: true }\n\
    disk: { preflight_minimum: \"1%\", runtime_minimum: \"1%\", warning_threshold: \"1%\", check_interval: 5 }\n\
    btrfs_snapshots: { subvolumes: [\"@home\"] }\n\
    dummy_success: { source_duration: 2, target_duration: 1 }\n\
    user_data: { folders: [ { path: /home, filter: home.filter } ] }\n";

const SYNC: &str = "pc-switcher sync vega --yes --allow-first-sync --allow-out-of-order";

/// Some files of some size in a directory of the person's.
fn files(lab: &Lab, count: usize) {
    let directory = work(lab, ATLAS);
    for n in 0..count {
        fs::write(directory.join(format!("file {n}")), vec![b'x'; 3000 + n]).expect("writable");
    }
}

/// The status line among the lines of a screen.
fn status_line(screen: &[String]) -> Option<&String> {
    screen
        .iter()
        .find(|line| line.starts_with("atlas → vega") && line.contains("/10"))
}

#[test]
fn a_sync_is_right_at_three_widths() {
    let Some(lab) = Lab::fresh() else { return };
    lab.configure_with(ATLAS, BOTH, FILTER);
    make_private_paths(&lab);
    files(&lab, 200);
    for (rows, cols) in [(24, 40), (24, 80), (50, 200)] {
        let mut terminal = Terminal::open(&lab, (rows, cols), SYNC);
        let (mut seen, mut bar, mut phases) = (0, 0, Vec::new());
        let status = terminal.end(|terminal| {
            let screen = terminal.screen();
            if let Some(line) = status_line(&screen) {
                seen += 1;
                let phase = line.split("/10").next().unwrap_or_default();
                let phase = phase.rsplit(['[', ' ']).next().unwrap_or_default();
                phases.push(phase.parse::<u8>().expect("a number"));
                let lines = screen
                    .iter()
                    .filter(|l| l.starts_with("atlas → vega"))
                    .count();
                assert_eq!(lines, 1, "one status line:\n{}", screen.join("\n"));
            }
            bar += usize::from(screen.iter().any(|l| l.contains('━') && l.contains('%')));
            // Only the path of the log, at the very end, is left whole.
            let above = screen.iter().take_while(|l| !l.starts_with("Log "));
            let above: Vec<&String> = above.collect();
            let wrapped = terminal.wrapped();
            let bad: Vec<&String> = wrapped.iter().filter(|l| above.contains(l)).collect();
            assert!(bad.is_empty(), "{cols}: {bad:?}");
        });
        let screen = terminal.screen().join("\n");
        assert!(DONE.contains(&status), "{status:?}\n{screen}");
        assert!(
            seen > 5 && bar > 1,
            "{cols}: {seen} status lines, {bar} bars"
        );
        assert!(phases.is_sorted() && phases.contains(&7), "{phases:?}");
        let text = terminal.text();
        assert!(text.contains(" ms"), "{cols}: the round trip");
        assert_eq!(terminal.foreign_controls(), [""; 0]);
        // The closing block is the last thing, and nothing of the live lines is left.
        assert!(screen.contains("Synced atlas → vega"), "{screen}");
        assert!(
            screen.contains("Session ") && screen.contains("\nLog "),
            "{screen}"
        );
        assert!(status_line(&terminal.screen()).is_none(), "{screen}");
        for module in ["dummy_success", "user_data", "disk_monitor"] {
            let closing = screen.split("Synced ").last().unwrap_or_default();
            assert_eq!(
                closing.matches(&format!("✔ {module}")).count(),
                1,
                "{screen}"
            );
        }
    }
}

#[test]
fn a_window_that_changes_its_size_is_right_again_at_once() {
    let Some(lab) = Lab::fresh() else { return };
    let slow = BOTH.replace("source_duration: 2", "source_duration: 6");
    lab.configure_with(ATLAS, &slow, FILTER);
    make_private_paths(&lab);
    let mut terminal = Terminal::open(&lab, (24, 100), SYNC);
    terminal.until_words("second 1 on atlas");
    for (rows, cols) in [(24, 45), (12, 60), (40, 160)] {
        terminal.resize(rows, cols);
        // A line of the new width, and one of them.
        terminal.until("status line of the new width", |t| {
            let screen = t.screen();
            let lines = screen
                .iter()
                .filter(|l| l.starts_with("atlas → vega"))
                .count();
            let bars = screen
                .iter()
                .filter(|l| l.starts_with("dummy_success  "))
                .count();
            lines == 1 && bars == 1 && t.wrapped().is_empty()
        });
    }
    let status = terminal.end(|_| {});
    let screen = terminal.screen().join("\n");
    assert!(DONE.contains(&status), "{status:?}\n{screen}");
    assert!(screen.contains("Synced atlas → vega"), "{screen}");
}

#[test]
fn a_question_stands_where_the_lines_were_and_its_answer_counts() {
    let Some(lab) = Lab::fresh() else { return };
    lab.configure_with(ATLAS, BOTH, FILTER);
    for (keys, expected) in [("\x03", 130), ("\n", 4), ("a\n", 4)] {
        let before = home(&lab, VEGA);
        let mut terminal = Terminal::open(&lab, (30, 40), "pc-switcher sync vega --yes");
        terminal.until_words("Enter for abort:");
        let screen = terminal.screen();
        let text = screen.join(" ");
        let text: Vec<&str> = text.split_whitespace().collect();
        let text = text.join(" ");
        for words in [
            "atlas",
            "vega",
            "for the first time?",
            "[c] continue",
            "[a] abort",
            "--allow-first-sync",
        ] {
            assert!(
                text.contains(words),
                "no {words:?} in\n{}",
                screen.join("\n")
            );
        }
        assert!(
            status_line(&screen).is_none(),
            "the lines are out of the way"
        );
        assert!(terminal.wrapped().is_empty(), "{:?}", terminal.wrapped());
        terminal.send(keys);
        assert_eq!(terminal.end(|_| {}), Some(expected), "{keys:?}");
        assert_eq!(before.differences(&home(&lab, VEGA)), []);
        lab.assert_nothing_left_running();
    }
    let mut terminal = Terminal::open(&lab, (30, 80), "pc-switcher sync vega --yes");
    terminal.until_words("Enter for abort:");
    terminal.send("c\n");
    terminal.until("bar after the question", |t| {
        status_line(&t.screen()).is_some()
    });
    let status = terminal.end(|_| {});
    assert!(DONE.contains(&status), "{}", terminal.screen().join("\n"));
}

#[test]
fn a_conflict_is_shown_with_both_versions_and_a_person_decides() {
    let Some(lab) = Lab::fresh() else { return };
    lab.configure(ATLAS, FILTER);
    make_private_paths(&lab);
    let (ours, theirs) = (work(&lab, ATLAS), work(&lab, VEGA));
    fs::write(ours.join("letter"), "dear\n").expect("writable");
    let first = lab.sync(&[]);
    assert!(DONE.contains(&first.status), "{}", first.text());
    fs::write(ours.join("letter"), "dear Ann\n").expect("writable");
    set_mtime(&ours.join("letter"), 1_700_000_000, 0).expect("root may");
    fs::write(theirs.join("letter"), "dear Bob, I am\n").expect("writable");
    set_mtime(&theirs.join("letter"), 1_700_086_400, 0).expect("root may");

    let command = "pc-switcher sync vega --yes --allow-out-of-order";
    let dear_bob = || {
        let text = fs::read(theirs.join("letter")).expect("there");
        text == b"dear Bob, I am\n"
    };
    for (width, keys, expected) in [(40, "\x03", 130), (80, "\n", 4), (132, "a\n", 4)] {
        let mut terminal = Terminal::open(&lab, (40, width), command);
        terminal.until_words("Enter for abort:");
        let screen = terminal.screen();
        let flat = |text: &str| text.split_whitespace().collect::<String>();
        let text = flat(&screen.join(" "));
        for words in [
            "1 path changed on both atlas and vega",
            "/home/dev/work/letter",
            "atlas 9 B of 2023-11-14 22:13:20 UTC",
            "vega 15 B of 2023-11-15 22:13:20 UTC",
            "--allow-conflicts",
        ] {
            assert!(
                text.contains(&flat(words)),
                "no {words:?} at {width} in\n{}",
                screen.join("\n")
            );
        }
        assert!(terminal.wrapped().is_empty(), "{:?}", terminal.wrapped());
        terminal.send(keys);
        assert_eq!(terminal.end(|_| {}), Some(expected), "{keys:?}");
        assert!(dear_bob());
        lab.assert_nothing_left_running();
    }
    let mut terminal = Terminal::open(&lab, (40, 80), command);
    terminal.until_words("Enter for abort:");
    terminal.send("c\n");
    let status = terminal.end(|_| {});
    assert!(DONE.contains(&status), "{}", terminal.screen().join("\n"));
    assert_eq!(
        fs::read(theirs.join("letter")).expect("there"),
        b"dear Ann\n"
    );
}

#[test]
fn colours_come_and_go_as_asked() {
    let Some(lab) = Lab::fresh() else { return };
    let quick = BOTH.replace("source_duration: 2", "source_duration: 0");
    lab.configure_with(ATLAS, &quick, FILTER);
    make_private_paths(&lab);
    let has_colour = |before: &str, flag: &str| {
        let line = format!("{before} {SYNC} --dry-run {flag}");
        let mut terminal = Terminal::open(&lab, (24, 80), &line);
        let status = terminal.end(|_| {});
        assert!(DONE.contains(&status), "{}", terminal.screen().join("\n"));
        terminal.text().contains("\x1b[1m")
    };
    assert!(has_colour("", ""));
    assert!(!has_colour("NO_COLOR=1", ""));
    assert!(!has_colour("", "--color never"));
    assert!(has_colour("NO_COLOR=1", "--color always"));
    // Into a pipe: no colour, no movement, unless it is asked for.
    let piped = lab.sync(&["--dry-run"]);
    assert!(!piped.text().contains('\x1b'), "{}", piped.text());
    let line = format!("CLICOLOR_FORCE=1 {SYNC} --batch --dry-run 2>&1 | cat");
    let forced = lab.as_dev(ATLAS, &["bash", "-c", &line]).ok().stdout;
    assert!(
        forced.contains("\x1b[1m") && !forced.contains("\x1b[K"),
        "{forced}"
    );
}

#[test]
fn programs_get_documented_objects_and_nothing_else() {
    let Some(lab) = Lab::fresh() else { return };
    let quick = BOTH.replace("source_duration: 2", "source_duration: 0");
    lab.configure_with(ATLAS, &quick, FILTER);
    make_private_paths(&lab);
    files(&lab, 20);
    let schema = Schema::read();
    for (flags, first_kinds) in [
        (&["--dry-run"][..], &["connection", "phase", "change"][..]),
        (&["-v"], &["progress", "module_started", "change"]),
    ] {
        let run = lab.sync(&[&["--progress", "json"], flags].concat());
        assert!(DONE.contains(&run.status), "{}", run.text());
        assert_eq!(run.stderr, "", "nothing for people");
        let events: Vec<String> = (run.stdout.lines())
            .map(|line| schema.check(line).unwrap_or_else(|wrong| panic!("{wrong}")))
            .collect();
        assert_eq!(events.last().map(String::as_str), Some("closing"));
        for kind in first_kinds {
            assert!(schema.events().contains(kind), "{kind} is documented");
            assert!(
                events.iter().any(|event| event == kind),
                "no {kind}: {events:?}"
            );
        }
        let last = run.stdout.lines().last().expect("a line");
        let closing: serde_json::Value = serde_json::from_str(last).expect("an object");
        assert_eq!(closing["exit_code"], run.status.unwrap_or_default());
    }
    // A run that fails says why to people, and its last object says so to programs.
    let run = lab
        .pc_switcher(&["--progress", "json", "sync", "no-such-host"])
        .expect(5);
    for line in run.stdout.lines() {
        schema.check(line).unwrap_or_else(|wrong| panic!("{wrong}"));
    }
    assert!(
        run.stdout
            .lines()
            .last()
            .is_some_and(|l| l.contains("\"closing\""))
    );
    assert!(run.stderr.contains("no-such-host"), "{}", run.stderr);
}

/// What tries to clear the screen, set the title, colour, move and turn the writing around.
const EVIL: &str = "\x1b[2J\x1b]0;owned\x07\x1b[5;31mred\x1b[H\u{9b}2J\u{202e}\x08\x7f";

#[test]
fn nothing_of_others_acts_on_the_terminal() {
    let Some(lab) = Lab::fresh() else { return };
    lab.configure_with(ATLAS, BOTH, FILTER);
    make_private_paths(&lab);
    // Names of files, one of which cannot be read as planned and so is named in a warning or error.
    let directory = work(&lab, ATLAS);
    for n in 0..30 {
        let name = [EVIL.as_bytes(), b"\xff\n", n.to_string().as_bytes()].concat();
        let path = directory.join(std::ffi::OsStr::from_bytes(&name));
        fs::write(&path, vec![b'x'; 200_000]).expect("writable");
    }
    let socket = directory.join(format!("socket {EVIL}"));
    let _socket = std::os::unix::net::UnixListener::bind(&socket).expect("a socket");
    // The server's banner, a login script and sudo that say the same.
    let root = lab.inside(VEGA);
    fs::write(root.join("etc/ssh/banner"), EVIL).expect("root may");
    let sshd = root.join("etc/ssh/sshd_config.d/banner.conf");
    fs::write(sshd, "Banner /etc/ssh/banner\n").expect("root may");
    lab.exec(VEGA, &["systemctl", "restart", "ssh"]).ok();
    let script = lab.dev(VEGA).join(".bashrc");
    fs::write(
        &script,
        format!("printf '%s\\n' '{EVIL}'; printf '%s\\n' '{EVIL}' >&2\n"),
    )
    .expect("writable");
    chown(&script, 1000, 1000).expect("root may");

    let mut plain = Terminal::open(&lab, (30, 80), &format!("printf '%s' '{EVIL}'"));
    plain.end(|_| {});
    assert!(
        plain.foreign_controls().len() >= 5,
        "what is looked for is found"
    );

    for flags in ["--dry-run -vv", "-vv"] {
        let mut terminal = Terminal::open(&lab, (30, 80), &format!("{SYNC} {flags}"));
        let status = terminal.end(|_| {});
        assert!(DONE.contains(&status), "{}", terminal.screen().join("\n"));
        assert_eq!(terminal.foreign_controls(), [""; 0], "{flags}");
        assert!(
            terminal.text().contains("\\x1b[2J"),
            "names are shown, escaped"
        );
    }
    // Without a terminal, and in the log.
    for progress in ["plain", "json"] {
        let run = lab.sync(&[
            "--allow-out-of-order",
            "--dry-run",
            "-vv",
            "--progress",
            progress,
        ]);
        assert!(DONE.contains(&run.status), "{}", run.text());
        let bad = |c: char| (c.is_control() && c != '\n') || c == '\u{202e}';
        assert!(
            !run.text().contains(bad),
            "{progress}: {}",
            run.text().escape_debug()
        );
    }
    let logs = lab.exec(
        ATLAS,
        &[
            "sh",
            "-c",
            "cat /home/dev/.local/state/pc-switcher/logs/*.log",
        ],
    );
    assert!(
        !logs
            .ok()
            .stdout
            .contains(|c: char| c.is_control() && c != '\n')
    );

    // What sudo says when it refuses, and what a configuration has in it.
    let sudo = root.join("usr/local/bin/sudo");
    fs::write(
        &sudo,
        format!("#!/bin/sh\nprintf '%s\\n' '{EVIL}' >&2\nexit 1\n"),
    )
    .expect("root may");
    chmod(&sudo, 0o755).expect("root may");
    fs::write(&script, "export PATH=/usr/local/bin:$PATH\n").expect("writable");
    let mut refused = Terminal::open(&lab, (30, 80), SYNC);
    let status = refused.end(|_| {});
    assert!(!DONE.contains(&status), "{}", refused.screen().join("\n"));
    assert_eq!(refused.foreign_controls(), [""; 0]);
    fs::remove_file(&sudo).expect("root may");
    for value in ["\\e[2J\\x07", "/home/\\e]0;owned\\a"] {
        let yaml = format!("{BOTH}  # {value}\nuser_dat\\e[2J: \"{value}\"\n");
        lab.configure_with(ATLAS, &yaml, FILTER);
        let mut wrong = Terminal::open(&lab, (30, 80), SYNC);
        assert_eq!(wrong.end(|_| {}), Some(2), "{}", wrong.screen().join("\n"));
        assert_eq!(wrong.foreign_controls(), [""; 0]);
        let yaml = BOTH.replace("path: /home,", &format!("path: \"{value}\","));
        lab.configure_with(ATLAS, &yaml, FILTER);
        let mut wrong = Terminal::open(&lab, (30, 80), SYNC);
        let status = wrong.end(|_| {});
        assert!(!DONE.contains(&status), "{}", wrong.screen().join("\n"));
        assert_eq!(wrong.foreign_controls(), [""; 0]);
    }
}

#[test]
fn this_machine_by_any_name_is_refused_as_such_before_any_question() {
    let Some(lab) = Lab::fresh() else { return };
    lab.configure_with(ATLAS, BOTH, FILTER);
    for name in ["localhost", "127.0.0.1", "atlas"] {
        let run = lab.pc_switcher(&["sync", name]).expect(3);
        assert!(
            run.text().contains("is this machine itself"),
            "{name}: {}",
            run.text()
        );
    }
}

/// What the child below floods its terminal with, and its log.
const FLOOD: u64 = 30_000;
const CHILD: &str = "PC_SWITCHER_TEST_FLOOD";

/// Not a test of its own: three seconds of ten thousand lines each, run by the test below.
#[test]
fn child_that_logs_ten_thousand_lines_a_second() {
    let Some(directory) = std::env::var_os(CHILD) else {
        return;
    };
    let mut events = EventSink::none();
    let log = LogWriter::start("1a2b3c4d", events.subscribe()).expect("a thread");
    log.open(Path::new(&directory), LogLevel::Full)
        .expect("a file");
    let heard = events.subscribe();
    let ui = ui::start(UiOptions::default(), heard, AbortFlag::new());
    events.emit(&Event::Session {
        id: "1a2b3c4d".into(),
        source: "atlas".into(),
        target: "vega".into(),
    });
    events.emit(&Event::Phase {
        phase: Phase::Execute,
    });
    events.emit(&Event::ModuleStarted {
        module: "user_data".into(),
        background: false,
    });
    let begun = Instant::now();
    for n in 0..FLOOD {
        let context = serde_json::Map::new();
        events.log(
            LogLevel::Info,
            "user_data",
            None,
            format!("line {n}"),
            context,
        );
        if n % 1000 == 0 {
            events.emit(&Event::Progress(ProgressEvent {
                timestamp: jiff::Timestamp::now(),
                module: "user_data".into(),
                update: ProgressUpdate {
                    current: Some(n),
                    total: Some(FLOOD),
                    ..ProgressUpdate::default()
                },
            }));
        }
        let due = begun + Duration::from_micros(100 * n);
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
    }
    ui.finish();
    log.finish().expect("the log is whole");
}

#[test]
fn ten_thousand_lines_a_second_leave_the_screen_calm_and_the_log_whole() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut program = Command::new(std::env::current_exe().expect("this test"));
    program
        .args(["--exact", "--nocapture", "--test-threads=1"])
        .arg("terminal::child_that_logs_ten_thousand_lines_a_second")
        .env(CHILD, directory.path());
    for (rows, cols) in [(24, 40), (50, 200)] {
        let mut terminal = Terminal::run((rows, cols), &program);
        let mut calm = 0;
        let status = terminal.end(|terminal| {
            let screen = terminal.screen();
            let lines = screen
                .iter()
                .filter(|l| l.starts_with("atlas → vega"))
                .count();
            let bars = screen
                .iter()
                .filter(|l| l.starts_with("user_data  "))
                .count();
            calm += usize::from((lines, bars) == (1, 1));
            assert!(lines <= 1 && bars <= 1, "{}", screen.join("\n"));
        });
        assert_eq!(status, Some(0), "{}", terminal.screen().join("\n"));
        let text = terminal.text();
        let shown = text.matches("user_data: line ").count();
        assert!((20..300).contains(&shown), "{shown} lines were shown");
        assert!(text.contains("log lines not shown here"));
        assert!(
            calm > 10,
            "the status line and the bar were there {calm} times"
        );
        // Ten frames a second, not ten thousand.
        assert!(terminal.raw.len() < 150_000, "{} bytes", terminal.raw.len());
    }
    let mut logs = fs::read_dir(directory.path()).expect("it is there");
    let whole = |path: std::path::PathBuf| {
        let text = fs::read_to_string(path).expect("readable");
        let lines = text.lines().filter_map(|line| {
            let value: serde_json::Value = serde_json::from_str(line).expect("an object a line");
            value["message"]
                .as_str()?
                .strip_prefix("line ")?
                .parse()
                .ok()
        });
        assert_eq!(
            lines.collect::<Vec<u64>>(),
            (0..FLOOD).collect::<Vec<u64>>()
        );
    };
    let first = logs.next().expect("a log").expect("readable").path();
    let second = logs.next().expect("a log a run").expect("readable").path();
    whole(first);
    whole(second);
}
