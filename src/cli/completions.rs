//! `completions SHELL`: what a shell needs to complete our command lines, from their one definition.
//!
//! Two things are added to what the generator writes: commands that nobody types are left out, and
//! bash and fish offer names of machines where one is expected, as zsh does.

use std::fmt::Write as _;
use std::io::{self, Write as _};

use clap::{Command as Definition, CommandFactory as _, ValueHint};
use clap_complete::aot::{Shell as Generator, generate};

use super::args::{Cli, Shell};
use crate::exit::ExitStatus;

const NAME: &str = "pc-switcher";

/// Prints the completions of `shell` on stdout.
#[must_use]
pub fn run(shell: Shell) -> ExitStatus {
    // Written whole here: in the generator, a pipe that closes early would be a panic.
    match io::stdout().lock().write_all(script(shell).as_bytes()) {
        Ok(()) => ExitStatus::Done,
        Err(_) => ExitStatus::Failed,
    }
}

/// The completions of `shell`.
fn script(shell: Shell) -> String {
    let mut command = without_hidden(&Cli::command());
    let generator = match shell {
        Shell::Bash => Generator::Bash,
        Shell::Zsh => Generator::Zsh,
        Shell::Fish => Generator::Fish,
    };
    let mut text = Vec::new();
    generate(generator, &mut command, NAME, &mut text);
    let mut text = String::from_utf8_lossy(&text).into_owned();
    let expecting = expecting_a_host(&command);
    match shell {
        Shell::Bash => {
            // The generator writes a name with a hyphen in one way where it sets it and in another
            // where it asks for it (clap_complete 4.6).
            text = text.replace("pc__subcmd__switcher", "pc__switcher");
            write!(
                text,
                "{}",
                BASH_HOSTS.replace("COMMANDS", &expecting.join("|"))
            )
            .expect("a String takes every write");
        }
        Shell::Fish => {
            for command in expecting {
                writeln!(
                    text,
                    "complete -c {NAME} -n \"__fish_pc_switcher_using_subcommand {command}\" \
                     -f -a \"(__fish_print_hostnames)\""
                )
                .expect("a String takes every write");
            }
        }
        Shell::Zsh => {}
    }
    text
}

/// Added to bash's: after a command that takes a host, and after `--host`, the names of machines that
/// `ssh` knows (through bash-completion where it is loaded).
const BASH_HOSTS: &str = r#"
_pc_switcher() {
    local cur="$2" prev="$3"
    _pc__switcher "$@"
    case "$prev" in
        COMMANDS|--host)
            [[ $cur == -* ]] && return 0
            [[ $prev == --host ]] && COMPREPLY=()
            if declare -F _comp_compgen_known_hosts >/dev/null; then
                _comp_compgen -a known_hosts -- "$cur"
            elif declare -F _known_hosts_real >/dev/null; then
                _known_hosts_real -- "$cur"
            else
                COMPREPLY+=($(compgen -A hostname -- "$cur"))
            fi
            ;;
    esac
    return 0
}
complete -F _pc_switcher -o bashdefault pc-switcher
"#;

/// A copy without what nobody types.
fn without_hidden(command: &Definition) -> Definition {
    let shown = command.get_subcommands().filter(|c| !c.is_hide_set());
    // Names live as long as the program; it ends when the script is printed.
    let name: &'static str = command.get_name().to_owned().leak();
    let mut copy = Definition::new(name)
        .args(command.get_arguments().cloned())
        .subcommands(shown.map(without_hidden))
        .version(env!("CARGO_PKG_VERSION"));
    if let Some(about) = command.get_about() {
        copy = copy.about(about.clone());
    }
    copy
}

/// Commands whose first word is a machine.
fn expecting_a_host(command: &Definition) -> Vec<String> {
    let takes_host = |command: &&Definition| {
        let mut words = command.get_positionals();
        words
            .next()
            .is_some_and(|word| word.get_value_hint() == ValueHint::Hostname)
    };
    let commands = command.get_subcommands().filter(takes_host);
    commands.map(|c| c.get_name().to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hidden_commands_are_left_out_and_sync_expects_a_host() {
        let command = without_hidden(&Cli::command());
        assert!(command.find_subcommand("agent").is_none());
        assert_eq!(command.get_name(), NAME);
        let expecting = expecting_a_host(&command);
        assert!(expecting.iter().any(|name| name == "sync"), "{expecting:?}");
        assert!(!expecting.iter().any(|name| name == "init"));
    }
}
