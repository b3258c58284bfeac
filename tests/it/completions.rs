//! Completions are judged by the shells they are for.

use std::fs;
use std::path::Path;
use std::process::Command;

use super::support::programs::all_there;

/// What `pc-switcher completions SHELL` prints.
fn script(shell: &str) -> String {
    let done = Command::new(env!("CARGO_BIN_EXE_pc-switcher"))
        .args(["completions", shell])
        .output()
        .unwrap();
    assert!(done.status.success(), "{done:?}");
    assert!(done.stderr.is_empty(), "{done:?}");
    String::from_utf8(done.stdout).unwrap()
}

/// Runs `program` on `commands`, its home an empty directory in which `file` has the completions.
fn ask(shell: &str, arguments: &[&str], file: &str, commands: &str) -> Vec<String> {
    let home = tempfile::tempdir().unwrap();
    fs::write(home.path().join(file), script(shell)).unwrap();
    fs::create_dir(home.path().join(".ssh")).unwrap();
    fs::write(home.path().join(".ssh/config"), "Host vega-of-a-test\n").unwrap();
    let path = std::env::var_os("PATH").unwrap();
    let done = Command::new(shell)
        .args(arguments)
        .args(["-c", commands])
        .current_dir(home.path())
        .env_clear()
        .env("PATH", path)
        .env("HOME", home.path())
        .env("LC_ALL", "C.UTF-8")
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{shell}: {errors}");
    assert_eq!(errors, "", "{shell}");
    let text = String::from_utf8(done.stdout).unwrap();
    text.lines().map(str::to_owned).collect()
}

/// Commands that are offered, and those that are never typed.
#[track_caller]
fn assert_commands(offered: &[String]) {
    let begins = |word: &str| {
        let is_word = |line: &String| line.split_whitespace().next() == Some(word);
        offered.iter().any(is_word)
    };
    for command in ["sync", "init", "snapshots", "completions"] {
        assert!(begins(command), "{command}: {offered:#?}");
    }
    for hidden in ["agent", "man"] {
        assert!(!begins(hidden), "{hidden}: {offered:#?}");
    }
}

#[test]
fn bash_offers_commands_and_flags() {
    if !all_there(&["bash"]) {
        return;
    }
    let complete = |line: &str| {
        let commands = format!(
            "set -u; . ./it; words=({line}); COMP_WORDS=(\"${{words[@]}}\"); \
             COMP_CWORD=$((${{#words[@]}} - 1)); \
             complete -p pc-switcher >/dev/null || exit 1; \
             _pc_switcher pc-switcher \"${{words[-1]}}\" \"${{words[-2]}}\"; \
             printf '%s\\n' \"${{COMPREPLY[@]}}\""
        );
        ask("bash", &["--norc", "--noprofile"], "it", &commands)
    };
    assert_commands(&complete("pc-switcher ''"));
    assert_eq!(complete("pc-switcher syn"), ["sync"]);
    assert_eq!(complete("pc-switcher sync --dry"), ["--dry-run"]);
    assert_eq!(complete("pc-switcher --color ne"), ["never"]);
    for command in ["sync", "doctor", "status"] {
        let line = format!("pc-switcher {command} localhos");
        assert_eq!(complete(&line), ["localhost"], "{command}");
    }
    assert_eq!(
        complete("pc-switcher snapshots list --host localhos"),
        ["localhost"]
    );
}

#[test]
fn zsh_loads_them_and_knows_what_they_are_for() {
    if !all_there(&["zsh"]) {
        return;
    }
    let commands = "fpath=($PWD $fpath); autoload -Uz compinit; compinit -u -d ./dump; \
                    print -l $_comps[pc-switcher]; autoload -Uz +X _pc-switcher && print loaded";
    let lines = ask("zsh", &["-f"], "_pc-switcher", commands);
    assert_eq!(lines, ["_pc-switcher", "loaded"]);
    // What it would offer is shown by a stand-in for the function that all offers go through.
    let commands = "autoload -Uz compinit; compinit -u -d ./dump; . ./_pc-switcher; \
                    _describe() { print -l ${(P)4} }; _pc-switcher_commands";
    let lines = ask("zsh", &["-f"], "_pc-switcher", commands);
    let words: Vec<String> = lines.iter().map(|l| l.replace(':', " ")).collect();
    assert_commands(&words);
}

#[test]
fn fish_offers_commands_and_flags() {
    if !all_there(&["fish"]) {
        return;
    }
    let complete = |line: &str| {
        let commands = format!("source ./it.fish; complete -C '{line}'");
        ask("fish", &["--no-config"], "it.fish", &commands)
    };
    assert_commands(&complete("pc-switcher "));
    let flags = complete("pc-switcher sync --dry");
    assert_eq!(flags.len(), 1, "{flags:?}");
    assert!(flags[0].starts_with("--dry-run\t"), "{flags:?}");
    let words = complete("pc-switcher sync vega --color ne");
    assert!(words[0].starts_with("never"), "{words:?}");
    for words in ["sync", "doctor", "restore --host", "history --host"] {
        let hosts = complete(&format!("pc-switcher {words} vega-"));
        assert!(hosts[0].starts_with("vega-of-a-test"), "{words}: {hosts:?}");
    }
}

#[test]
fn a_reader_that_leaves_early_is_no_panic() {
    if !Path::new("/bin/sh").exists() {
        return;
    }
    let commands = format!(
        "'{}' completions zsh | :",
        env!("CARGO_BIN_EXE_pc-switcher")
    );
    let done = Command::new("/bin/sh").args(["-c", &commands]).output();
    assert_eq!(String::from_utf8_lossy(&done.unwrap().stderr), "");
}
