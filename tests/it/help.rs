//! `--help` as a person gets it: from the program itself, of every command, in no time and no wider than 80 columns.

use std::process::{Command, Output};
use std::time::{Duration, Instant};

use clap::CommandFactory as _;
use pc_switcher::cli::args::Cli;

fn run(arguments: &[String]) -> Output {
    let mut program = Command::new(env!("CARGO_BIN_EXE_pc-switcher"));
    // A wide terminal shall not make it wide.
    program.args(arguments).env("COLUMNS", "250");
    program.output().expect("it runs")
}

/// The words of every command that is shown, and of those below it.
fn commands(command: &clap::Command, above: &[String]) -> Vec<Vec<String>> {
    let mut all = vec![above.to_vec()];
    for below in command
        .get_subcommands()
        .filter(|c| !c.is_hide_set() && c.get_name() != "help")
    {
        let words = [above, &[below.get_name().to_owned()]].concat();
        all.extend(commands(below, &words));
    }
    all
}

#[test]
fn the_help_of_every_command_fits_80_columns() {
    let mut root = Cli::command();
    root.build();
    let all = commands(&root, &[]);
    assert!(all.len() >= 10, "{all:?}");
    for words in all {
        for flag in ["-h", "--help"] {
            let done = run(&[&words[..], &[flag.to_owned()]].concat());
            let text = String::from_utf8(done.stdout).expect("text");
            assert!(done.status.success() && done.stderr.is_empty(), "{words:?}");
            assert!(text.contains("Usage: pc-switcher"), "{words:?}: {text}");
            for line in text.lines() {
                assert!(line.chars().count() <= 80, "{words:?}: {line}");
                assert!(!line.contains('\x1b'), "no colour into a pipe: {words:?}");
            }
        }
    }
}

#[test]
fn help_comes_within_ten_milliseconds() {
    // The quickest of many: a busy machine makes some slow, none of them quick.
    let quickest = (0..40)
        .map(|_| {
            let since = Instant::now();
            assert!(run(&["--help".to_owned()]).status.success());
            since.elapsed()
        })
        .min();
    let quickest = quickest.expect("there were some");
    println!("--help: {quickest:?}, not optimised");
    assert!(quickest < Duration::from_millis(10), "{quickest:?}");
}
