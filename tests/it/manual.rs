//! The manual: its pages are those of this program, nothing finds fault with them, and what they
//! show can be typed.

use std::fs;
use std::process::{Command, Output};

use clap::{CommandFactory as _, Parser as _};
use pc_switcher::cli::args::Cli;
use pc_switcher::cli::manual::pages;

use super::support::lab::{ATLAS, Lab, VEGA};
use super::support::oracle;
use super::support::programs::all_there;
use super::support::scenario::{DONE, FILTER};

/// What a page says, without the marks of `roff`.
fn plain(text: &str) -> String {
    let mut out = text
        .replace("\\fB", "")
        .replace("\\fI", "")
        .replace("\\fR", "");
    for (mark, sign) in [
        ("\\-", "-"),
        ("\\(aq", "'"),
        ("\\(ti", "~"),
        ("\\(dq", "\""),
    ] {
        out = out.replace(mark, sign);
    }
    out.replace("\\&", "").replace("\\e", "\\")
}

#[test]
fn the_hidden_command_writes_the_same_pages() {
    let to = tempfile::tempdir().unwrap();
    let to = to.path().join("man1");
    let done = Command::new(env!("CARGO_BIN_EXE_pc-switcher"))
        .arg("man")
        .arg(&to)
        .status();
    assert!(done.unwrap().success());
    for page in pages() {
        let written = fs::read_to_string(to.join(&page.file_name)).unwrap();
        assert_eq!(written, page.text);
    }
}

/// Whatever a program printed.
fn said(output: &Output) -> String {
    let text = [&output.stdout[..], &output.stderr[..]].concat();
    String::from_utf8(text).unwrap()
}

#[test]
fn neither_mandoc_nor_man_has_anything_to_say() {
    if !all_there(&["mandoc", "man"]) {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let mut count = 0;
    for page in pages() {
        let path = directory.path().join(&page.file_name);
        fs::write(&path, &page.text).unwrap();
        let lint = Command::new("mandoc").arg("-Tlint").arg(&path).output();
        assert_eq!(said(&lint.unwrap()), "", "mandoc: {}", page.file_name);
        for width in ["60", "80", "200"] {
            let man = Command::new("man")
                .args(["--warnings", "--local-file"])
                .arg(&path)
                .env("MANWIDTH", width)
                .env("LC_ALL", "C.UTF-8")
                .output()
                .unwrap();
            assert!(man.status.success());
            let warnings = String::from_utf8_lossy(&man.stderr);
            assert_eq!(warnings, "", "man at {width} columns: {}", page.file_name);
            assert!(man.stdout.len() > 500, "{}", page.file_name);
        }
        count += 1;
    }
    assert!(count >= 5);
}

#[test]
fn every_command_has_its_page_and_every_flag_is_on_it() {
    let pages = pages();
    let mut root = Cli::command();
    root.build();
    let page_of = |name: &str| {
        let page = pages.iter().find(|p| p.file_name == format!("{name}.1"));
        plain(&page.unwrap_or_else(|| panic!("{name}(1)")).text)
    };
    let overview = page_of("pc-switcher");
    let shown = |c: &&clap::Command| !c.is_hide_set() && c.get_name() != "help";
    let mut count = 0;
    for command in root.get_subcommands().filter(shown) {
        let name = format!("pc-switcher-{}", command.get_name());
        assert!(overview.contains(&format!("{name}(1)")), "{name}");
        let text = page_of(&name);
        let below = command.get_subcommands().filter(shown);
        for command in std::iter::once(command).chain(below) {
            for argument in command.get_arguments().filter(|a| !a.is_hide_set()) {
                let flag = argument.get_long().map(|long| format!("--{long}"));
                let name = argument.get_value_names().and_then(|n| n.first());
                let wanted = flag.or(name.map(ToString::to_string)).unwrap();
                assert!(text.contains(&wanted), "{name:?}: {wanted}");
                count += 1;
            }
        }
    }
    assert!(count > 30, "{count}");
}

/// The command lines of a page that begin with the program's name.
fn command_lines(text: &str) -> Vec<String> {
    let mut lines = Vec::new();
    let mut is_term = false;
    let mut is_kept = false;
    for line in text.lines() {
        match line {
            ".nf" => is_kept = true,
            ".fi" => is_kept = false,
            ".TP" => is_term = true,
            _ => {
                let words = plain(line);
                let words = words.trim_start_matches("$ ");
                if (is_term || is_kept) && words.starts_with("pc-switcher ") {
                    lines.push(words.to_owned());
                }
                is_term = false;
            }
        }
    }
    lines
}

#[test]
fn every_command_line_of_the_manual_is_understood() {
    let mut count = 0;
    for page in pages() {
        for line in command_lines(&page.text) {
            // What a shell does with the output is the shell's.
            let words = line.split(['>', '|']).next().unwrap_or_default();
            if let Err(error) = Cli::try_parse_from(words.split_whitespace()) {
                panic!("{}: {line}: {error}", page.file_name);
            }
            count += 1;
        }
    }
    assert!(count >= 12, "{count}");
}

/// Whether a command line of the manual changes neither machine, so that all of them can be run in a row. `init`
/// is, in a home of its own.
fn changes_nothing(line: &str) -> bool {
    let words: Vec<&str> = line.split_whitespace().skip(1).collect();
    let command = words.iter().find(|word| !word.starts_with('-'));
    match command.copied().unwrap_or_default() {
        "doctor" | "history" | "init" | "completions" => true,
        "logs" => !words.contains(&"--follow"),
        "snapshots" => words.contains(&"list") || words.contains(&"--dry-run"),
        "sync" | "rollback" => words.contains(&"--dry-run"),
        _ => false,
    }
}

#[test]
fn every_example_that_changes_nothing_does_what_it_says() {
    let Some(lab) = Lab::fresh() else { return };
    lab.configure(ATLAS, FILTER);
    assert!(DONE.contains(&lab.sync(&[]).status));
    let history = lab.pc_switcher(&["history", "--json"]).ok().stdout;
    let last: serde_json::Value =
        serde_json::from_str(history.lines().next().expect("a session")).expect("an object a line");
    let session = last["session"].as_str().expect("its name").to_owned();
    let before = oracle::generations(&lab, VEGA);
    let mut count = 0;
    for page in pages() {
        for line in command_lines(&page.text) {
            if !changes_nothing(&line) {
                continue;
            }
            let own = line.split(['>', '|']).next().unwrap_or_default();
            let typed = own.replace("1f3", &session[..3]);
            let home = "export XDG_CONFIG_HOME=$(mktemp -d); ";
            let place = if own.contains(" init") { home } else { "" };
            let done = lab.as_dev(
                ATLAS,
                &["sh", "-c", &format!("{place}exec {typed} </dev/null")],
            );
            let told = format!("{}: {line}:\n{}", page.file_name, done.text());
            assert!(DONE.contains(&done.status), "{told}");
            // A good sync has no line of that level.
            let says = line.contains("--level") || !done.text().trim().is_empty();
            assert!(says, "{told}");
            assert!(!done.stderr.contains("error:"), "{told}");
            count += 1;
        }
    }
    println!("{count} command lines of the manual were run");
    assert!(count >= 20, "{count}");
    let after = oracle::generations(&lab, VEGA);
    for subvolume in ["@home", ".snapshots"] {
        assert_eq!(before[subvolume], after[subvolume], "{subvolume} moved");
    }
}

#[test]
fn pages_that_are_referred_to_exist() {
    let pages = pages();
    let mut count = 0;
    for page in &pages {
        let text = plain(&page.text);
        for (at, _) in text.match_indices("pc-switcher") {
            let rest = &text[at..];
            let Some(open) = rest.find(|c: char| !(c.is_ascii_alphanumeric() || "-.".contains(c)))
            else {
                continue;
            };
            let (name, rest) = rest.split_at(open);
            let Some(section) = rest.strip_prefix('(').and_then(|rest| rest.chars().next()) else {
                continue;
            };
            let file = format!("{name}.{section}");
            assert!(pages.iter().any(|p| p.file_name == file), "{file}");
            count += 1;
        }
    }
    assert!(count > 10);
}
