//! The one definition of the command line; help, man pages and completions come from it.
//!
//! Nothing here acts: reading the arguments must stay fast and without side effects.

use std::fmt::Write as _;
use std::path::PathBuf;

use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum, ValueHint};

use crate::age::parse_age;
use crate::config::parse_rate;
use crate::event::LogLevel;
use crate::exit::ExitStatus;

/// Columns of the widest help line.
const HELP_WIDTH: usize = 80;

const EXAMPLES: &str = "\
Examples:
  pc-switcher init                 write the configuration, with comments
  pc-switcher sync vega --dry-run  show what a sync to vega would change
  pc-switcher sync vega            put this machine's state on vega";

const SYNC_EXAMPLES: &str = "\
Examples:
  pc-switcher sync vega --dry-run          say what would change, change nothing
  pc-switcher sync vega --dry-run -v       list every single change
  pc-switcher sync vega                    ask where something is unclear
  pc-switcher sync vega --only user_data   only people's files
  pc-switcher sync vega --batch --yes --allow-out-of-order
                                           never ask, as from a timer

A gate is a question that stops the sync: with --batch, or without a terminal,
it refuses with status 4 and names the flag that answers it. --yes answers
ordinary confirmations and opens no gate.";

const INIT_EXAMPLES: &str = "\
Examples:
  pc-switcher init              write config.yaml, home.filter and root.filter
  pc-switcher init --force      start anew, overwriting all three
  pc-switcher init --sudoers    print what lets a timer sync without a password";

const PRUNE_EXAMPLES: &str = "\
Examples:
  pc-switcher snapshots prune --dry-run       list what the next line deletes
  pc-switcher snapshots prune                 by the rules of the configuration
  pc-switcher snapshots prune --keep 1        all but those of the newest sync
  pc-switcher snapshots prune --older-than 2w --host vega
                                              those of vega, two weeks old

What the next sync begins from, and the way back from a sync that died, stay
whatever is said here. A month has 30 days, a year 365.";

const HISTORY_EXAMPLES: &str = "\
Examples:
  pc-switcher history              past syncs of this machine, the newest first
  pc-switcher history 1f3          what the sync whose name begins so changed
  pc-switcher history --host vega  past syncs of vega";

const LOGS_EXAMPLES: &str = "\
Examples:
  pc-switcher logs                         list them
  pc-switcher logs --last                  the newest, through $PAGER
  pc-switcher logs --session 1f3 --level WARNING
                                           what went wrong in that session
  pc-switcher logs --follow                watch a sync that is running
  pc-switcher logs --last --json | jq -r 'select(.path) | .path'
                                           every path that is in it

Without --last or --session, a filter shows the newest. -v adds the details of
each line.";

const ROLLBACK_EXAMPLES: &str = "\
Examples:
  pc-switcher rollback --dry-run   what undoing the last sync would change
  pc-switcher rollback             undo it, on the machine that it changed
  pc-switcher rollback 1f3         go back before an earlier one
  pc-switcher rollback --local     undo the last sync to this machine, from here

It works after a sync that ended well, failed, or died. What was there before
the rollback is in snapshots too: `pc-switcher rollback SESSION` with the session
of the rollback undoes it. Excluded paths, nested subvolumes and mounts are left
as they are.";

const STATUS_EXAMPLES: &str = "\
Examples:
  pc-switcher status           this machine: what was changed since the last sync
  pc-switcher status -v        and each path that was
  pc-switcher status vega      vega too: what a sync to it would overwrite
  pc-switcher status --json | jq '.machines[0].syncs[].since'
                               how much, folder by folder, for a program

Nothing is changed. A run that did not end well makes it end with 8.";

const RESTORE_EXAMPLES: &str = "\
Examples:
  pc-switcher restore --list thesis.tex     which versions there are
  pc-switcher restore thesis.tex            the newest that is another one
  pc-switcher restore --session 1f3 work    the tree as it was before that sync
  pc-switcher restore --to /tmp .bashrc     beside, to look at it first
  pc-switcher restore --host vega /home/ann/notes
                                            on vega, out of its own snapshots

Without --session it is the newest version that is not what is there now; with
it the one from before that sync, or else from after it. What is only there now
stays. It asks before it overwrites anything.";

const DOCTOR_EXAMPLES: &str = "\
Examples:
  pc-switcher doctor                this machine alone
  pc-switcher doctor vega           both, and what is between them
  pc-switcher --batch doctor vega   the same as a timer will find it
  pc-switcher doctor vega --json | jq '.checks[] | select(.state != \"ok\")'
                                    what is not as it should be, for a program

Nothing is changed. It ends with 0 if a sync can begin, with 8 if there are
warnings, and else with the status that the sync would end with.";

const SNAPSHOTS_EXAMPLES: &str = "\
Examples:
  pc-switcher snapshots list               those of this machine
  pc-switcher snapshots list --host vega   those of vega";

const COMPLETIONS_EXAMPLES: &str = "\
Examples:
  pc-switcher completions bash   for a file in
                                 ~/.local/share/bash-completion/completions
  pc-switcher completions zsh    for a file _pc-switcher in a directory of $fpath
  pc-switcher completions fish   for a file in ~/.config/fish/completions";

/// Work on one Linux machine, sync, and go on working on the other as if it were the same machine.
#[derive(Debug, Clone, PartialEq, Eq, Parser)]
#[command(
    name = "pc-switcher",
    version,
    max_term_width = HELP_WIDTH,
    arg_required_else_help = true,
    propagate_version = true,
    after_help = EXAMPLES,
    after_long_help = long_help()
)]
pub struct Cli {
    /// Flags of every command.
    #[command(flatten)]
    pub global: GlobalArgs,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Flags of every command.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
#[command(next_help_heading = "Global options")]
pub struct GlobalArgs {
    /// Configuration file [default: ~/.config/pc-switcher/config.yaml]
    #[arg(long, global = true, value_name = "PATH", value_hint = ValueHint::FilePath)]
    pub config: Option<PathBuf>,
    /// Never ask: a question without its flag is a refusal
    #[arg(long, global = true)]
    pub batch: bool,
    /// When to colour
    #[arg(long, global = true, value_name = "WHEN", value_enum, default_value_t)]
    pub color: ColorMode,
    /// How to show progress; json: one event a line on standard output
    #[arg(long, global = true, value_name = "HOW", value_enum, default_value_t)]
    pub progress: ProgressMode,
    /// Show more; may be repeated
    #[arg(short, long, global = true, action = ArgAction::Count, conflicts_with = "quiet")]
    pub verbose: u8,
    /// Show less; may be repeated
    #[arg(short, long, global = true, action = ArgAction::Count)]
    pub quiet: u8,
}

/// When to colour.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum ColorMode {
    /// On a terminal; `NO_COLOR` and `CLICOLOR_FORCE` are honoured.
    #[value(help = "On a terminal; NO_COLOR and CLICOLOR_FORCE are honoured")]
    #[default]
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// How to show progress.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum ProgressMode {
    /// Live on a terminal, plain lines elsewhere.
    #[default]
    Auto,
    /// Plain lines.
    Plain,
    /// One JSON object a line on standard output.
    Json,
    /// Not at all.
    None,
}

/// The commands.
#[derive(Debug, Clone, PartialEq, Eq, Subcommand)]
pub enum Command {
    /// Put this machine's state on another machine.
    Sync(SyncArgs),
    /// Check everything that a sync needs, and say how to mend it.
    Doctor(DoctorArgs),
    /// Read back what syncs have written down.
    Logs(LogsArgs),
    /// Write a configuration with every key explained.
    Init(InitArgs),
    /// Say where this machine stands: last syncs, and what was changed since.
    Status(StatusArgs),
    /// List past syncs, or what one of them changed.
    History(HistoryArgs),
    /// Put a machine back to its state before a sync.
    Rollback(RollbackArgs),
    /// Bring files back out of a snapshot that a sync has taken.
    Restore(RestoreArgs),
    /// Look at the snapshots that syncs have taken.
    Snapshots(SnapshotsArgs),
    /// Print what a shell needs to complete command lines.
    Completions(CompletionsArgs),
    /// Write the manual's pages into a directory.
    #[command(hide = true)]
    Man(ManArgs),
    /// Serve the protocol on standard input and output (internal).
    #[command(hide = true)]
    Agent,
}

/// `sync`.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
#[command(after_help = SYNC_EXAMPLES)]
pub struct SyncArgs {
    /// The machine to change: a host name, an address or an alias of ~/.ssh/config
    #[arg(value_name = "HOST", value_parser = parse_host, value_hint = ValueHint::Hostname)]
    pub host: String,

    /// Say exactly what the sync would do, with -v each change; change nothing
    #[arg(long, help_heading = "What is synced")]
    pub dry_run: bool,
    /// Only these modules
    #[arg(
        long,
        help_heading = "What is synced",
        value_name = "MODULE,..",
        value_delimiter = ','
    )]
    #[arg(value_parser = parse_module)]
    pub only: Vec<String>,
    /// All enabled modules but these
    #[arg(
        long,
        help_heading = "What is synced",
        value_name = "MODULE,..",
        value_delimiter = ','
    )]
    #[arg(value_parser = parse_module)]
    pub skip: Vec<String>,
    /// Compare all files, not only those that changed since the last sync
    #[arg(long, help_heading = "What is synced")]
    pub full_scan: bool,
    /// Afterwards, compare the content of all files on both machines
    #[arg(long, help_heading = "What is synced")]
    pub verify: bool,
    /// Send at most so many bytes a second, like 10MiB; 0 for no limit
    #[arg(long, help_heading = "What is synced", value_name = "RATE", value_parser = parse_bwlimit)]
    pub bwlimit: Option<u64>,

    /// Answer ordinary confirmations with yes; opens no gate
    #[arg(short, long, help_heading = "Questions")]
    pub yes: bool,
    /// Install packages that the target lacks, without asking
    #[arg(long, help_heading = "Questions")]
    pub apply_package_installs: bool,
    /// Remove packages that this machine has not, without asking
    #[arg(long, help_heading = "Questions")]
    pub apply_package_removals: bool,
    /// Ask before every command that changes a machine
    #[arg(long, help_heading = "Questions", conflicts_with = "batch")]
    pub confirm_each_command: bool,
    /// Sync though these two machines have never been synced
    #[arg(long, help_heading = "Gates")]
    pub allow_first_sync: bool,
    /// Sync though the target has state that never came back to this machine
    #[arg(long, help_heading = "Gates")]
    pub allow_out_of_order: bool,
    /// Sync though the last sync to the target died on the way
    #[arg(long, help_heading = "Gates")]
    pub allow_incomplete: bool,
    /// Sync though files were changed on both machines since the last sync
    #[arg(long, help_heading = "Gates")]
    pub allow_conflicts: bool,
    /// Sync though unusually many files will be deleted on the target
    #[arg(long, help_heading = "Gates")]
    pub allow_mass_delete: bool,
    /// Sync though somebody is logged in to the target's desktop
    #[arg(long, help_heading = "Gates")]
    pub allow_logged_in: bool,
}

/// `init`.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
#[command(after_help = INIT_EXAMPLES)]
pub struct InitArgs {
    /// Overwrite config.yaml, home.filter and root.filter if they exist
    #[arg(long)]
    pub force: bool,
    /// Write nothing; print the one line with which sudo asks you for no password
    #[arg(long, conflicts_with = "force")]
    pub sudoers: bool,
}

/// `logs`.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
#[command(after_help = LOGS_EXAMPLES)]
pub struct LogsArgs {
    /// Show the newest
    #[arg(long, conflicts_with = "session")]
    pub last: bool,
    /// Show that of this session; the beginning of its name is enough
    #[arg(long, value_name = "SESSION", value_parser = parse_session)]
    pub session: Option<String>,
    /// Only this level and above: DEBUG, FULL, INFO, WARNING, ERROR, CRITICAL
    #[arg(long, value_name = "LEVEL", value_parser = parse_level)]
    pub level: Option<LogLevel>,
    /// Only what these modules said; `core` is the sync itself
    #[arg(long, value_name = "MODULE,..", value_delimiter = ',')]
    #[arg(value_parser = parse_module)]
    pub module: Vec<String>,
    /// Show more as it is written, to the end of the session
    #[arg(short, long)]
    pub follow: bool,
    /// One JSON object a line, as they stand in the file
    #[arg(long)]
    pub json: bool,
}

/// `doctor`.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
#[command(after_help = DOCTOR_EXAMPLES)]
pub struct DoctorArgs {
    /// Another machine to check too, as for a sync to it
    #[arg(value_name = "HOST", value_parser = parse_host, value_hint = ValueHint::Hostname)]
    pub host: Option<String>,
    /// One JSON object with every check
    #[arg(long)]
    pub json: bool,
}

/// `status`.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
#[command(after_help = STATUS_EXAMPLES)]
pub struct StatusArgs {
    /// Another machine to look at too
    #[arg(value_name = "HOST", value_parser = parse_host, value_hint = ValueHint::Hostname)]
    pub host: Option<String>,
    /// One JSON object
    #[arg(long)]
    pub json: bool,
}

/// `history`.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
#[command(after_help = HISTORY_EXAMPLES)]
pub struct HistoryArgs {
    /// List what this session changed; the beginning of its name is enough
    #[arg(value_name = "SESSION", value_parser = parse_session)]
    pub session: Option<String>,
    /// What that machine remembers instead of this one
    #[arg(long, value_name = "HOST", value_parser = parse_host, value_hint = ValueHint::Hostname)]
    pub host: Option<String>,
    /// One JSON object a line
    #[arg(long)]
    pub json: bool,
}

/// `rollback`.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
#[command(after_help = ROLLBACK_EXAMPLES)]
pub struct RollbackArgs {
    /// The session to go back before; the beginning of its name is enough [default: the last one]
    #[arg(value_name = "SESSION", value_parser = parse_session)]
    pub session: Option<String>,
    /// Roll back that machine [default: the one that the session changed]
    #[arg(long, value_name = "HOST", value_parser = parse_host, conflicts_with = "local")]
    #[arg(value_hint = ValueHint::Hostname)]
    pub host: Option<String>,
    /// Roll back this machine
    #[arg(long)]
    pub local: bool,
    /// Only this subvolume; may be repeated
    #[arg(long, value_name = "NAME")]
    pub subvolume: Vec<String>,
    /// Put the running root back file by file instead of exchanging it for the next boot
    #[arg(long)]
    pub in_place: bool,
    /// List exactly what would be put back; change nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Do not ask
    #[arg(short, long)]
    pub yes: bool,
}

/// `restore`.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
#[command(after_help = RESTORE_EXAMPLES)]
pub struct RestoreArgs {
    /// What to bring back: files, or directories with everything in them
    #[arg(value_name = "PATH", required = true, value_hint = ValueHint::AnyPath)]
    pub paths: Vec<PathBuf>,
    /// As it was before this session; the beginning of its name is enough [default: the newest other version]
    #[arg(long, value_name = "SESSION", value_parser = parse_session)]
    pub session: Option<String>,
    /// Into this directory instead of to its place
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub to: Option<PathBuf>,
    /// On that machine, out of its snapshots
    #[arg(long, value_name = "HOST", value_parser = parse_host, value_hint = ValueHint::Hostname)]
    pub host: Option<String>,
    /// List the versions there are; restore nothing
    #[arg(long, conflicts_with_all = ["to", "dry_run", "yes"])]
    pub list: bool,
    /// List exactly what would be restored; change nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Overwrite without asking
    #[arg(short, long)]
    pub yes: bool,
}

/// `snapshots`.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
#[command(after_help = SNAPSHOTS_EXAMPLES)]
pub struct SnapshotsArgs {
    /// What about them.
    #[command(subcommand)]
    pub command: SnapshotsCommand,
}

/// Commands of `snapshots`.
#[derive(Debug, Clone, PartialEq, Eq, Subcommand)]
pub enum SnapshotsCommand {
    /// List them: subvolume, before or after which sync, when.
    List {
        /// Those of that machine instead of this one's
        #[arg(long, value_name = "HOST", value_parser = parse_host, value_hint = ValueHint::Hostname)]
        host: Option<String>,
    },
    /// Delete old ones now, as every sync does when it ends.
    Prune(PruneArgs),
}

/// `snapshots prune`.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
#[command(after_help = PRUNE_EXAMPLES)]
pub struct PruneArgs {
    /// Keep those of the newest N sessions [default: as configured]
    #[arg(long, value_name = "N")]
    pub keep: Option<u32>,
    /// Of the others, delete those older than this: 12h, 7d, 2w, 6mo, 1y [default: as configured]
    #[arg(long, value_name = "AGE", value_parser = parse_age)]
    pub older_than: Option<jiff::SignedDuration>,
    /// List exactly what would be deleted; delete nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Those of that machine instead of this one's
    #[arg(long, value_name = "HOST", value_parser = parse_host, value_hint = ValueHint::Hostname)]
    pub host: Option<String>,
}

/// `completions`.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
#[command(after_help = COMPLETIONS_EXAMPLES)]
pub struct CompletionsArgs {
    /// The shell
    #[arg(value_name = "SHELL", value_enum)]
    pub shell: Shell,
}

/// Shells that can be told how to complete command lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Shell {
    /// bash(1), with the package bash-completion.
    Bash,
    /// zsh(1).
    Zsh,
    /// fish(1).
    Fish,
}

/// `man`.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct ManArgs {
    /// Where to; made if it is not there
    #[arg(value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub directory: PathBuf,
}

/// The examples and what the exit status says.
fn long_help() -> String {
    let mut text = format!("{EXAMPLES}\n\nExit status:\n");
    for (status, meaning) in ExitStatus::ALL {
        writeln!(text, "  {:>3}  {meaning}", status.code()).expect("a String takes every write");
    }
    text.truncate(text.trim_end().len());
    text
}

/// A host as ssh takes it; what could be an option or several words is refused.
fn parse_host(text: &str) -> Result<String, &'static str> {
    if text.is_empty() {
        Err("a host name cannot be empty")
    } else if text.starts_with('-') {
        Err("a host name cannot begin with '-'")
    } else if text.len() > 255 {
        Err("a host name is at most 255 characters long")
    } else if text
        .chars()
        .any(|c| c.is_whitespace() || c.is_control() || c == '/')
    {
        Err("a host name has no blanks, slashes or control characters")
    } else {
        Ok(text.to_owned())
    }
}

/// A session's name or the beginning of it: hex digits.
fn parse_session(text: &str) -> Result<String, &'static str> {
    if text.is_empty() || text.len() > 8 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
        Err("a session is called by up to 8 hex digits; `pc-switcher history` lists them")
    } else {
        Ok(text.to_ascii_lowercase())
    }
}

/// A level, in any case.
fn parse_level(text: &str) -> Result<LogLevel, String> {
    text.parse().map_err(|()| {
        let names = LogLevel::ALL.map(LogLevel::name);
        format!("the levels are {}", names.join(", "))
    })
}

/// The name of a module; whether there is one of that name is known later.
fn parse_module(text: &str) -> Result<String, &'static str> {
    let name = text.trim();
    if name.is_empty() {
        Err("a module name is missing before or after a comma")
    } else {
        Ok(name.to_owned())
    }
}

/// Bytes a second; 0: no limit.
fn parse_bwlimit(text: &str) -> Result<u64, &'static str> {
    match text.trim() {
        "0" => Ok(0),
        rate => parse_rate(rate),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;
    use clap::error::ErrorKind;

    use super::*;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(line.split_whitespace())
    }

    /// Every command with all that is below it.
    fn commands(command: clap::Command) -> Vec<clap::Command> {
        let below: Vec<_> = command
            .get_subcommands()
            .cloned()
            .flat_map(commands)
            .collect();
        std::iter::once(command).chain(below).collect()
    }

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_help_line_fits_80_columns() {
        let mut root = Cli::command();
        root.build();
        let commands = commands(root);
        assert!(commands.len() >= 6);
        for mut command in commands {
            for text in [command.render_help(), command.render_long_help()] {
                for line in text.to_string().lines() {
                    let name = command.get_name();
                    assert!(line.chars().count() <= HELP_WIDTH, "{name}: {line}");
                }
            }
        }
    }

    #[test]
    fn the_long_help_lists_every_exit_status() {
        let help = Cli::command().render_long_help().to_string();
        for (status, meaning) in ExitStatus::ALL {
            assert!(
                help.contains(&format!("{:>3}  {meaning}\n", status.code())),
                "{status:?}"
            );
        }
    }

    #[test]
    fn help_is_grouped_and_has_examples() {
        let mut root = Cli::command();
        root.build();
        let sync = root.find_subcommand_mut("sync").expect("sync");
        let help = sync.render_help().to_string();
        let headings = [
            "What is synced:",
            "Questions:",
            "Gates:",
            "Global options:",
            "Examples:",
        ];
        let at: Vec<usize> = headings.map(|h| help.find(h).expect(h)).to_vec();
        assert!(at.is_sorted(), "{help}");
        assert!(
            !Cli::command()
                .render_long_help()
                .to_string()
                .contains("agent")
        );
    }

    #[test]
    fn every_flag_of_sync_is_read() {
        let cli = parse(
            "pc-switcher sync vega --dry-run --yes --only a,b --skip c --full-scan --verify --bwlimit 10MiB \
             --allow-first-sync --allow-out-of-order --allow-incomplete --allow-conflicts --allow-mass-delete \
             --allow-logged-in --confirm-each-command --config /c --color never --progress json -vv",
        );
        let expected = Cli {
            global: GlobalArgs {
                config: Some("/c".into()),
                batch: false,
                color: ColorMode::Never,
                progress: ProgressMode::Json,
                verbose: 2,
                quiet: 0,
            },
            command: Command::Sync(SyncArgs {
                host: "vega".to_owned(),
                dry_run: true,
                only: vec!["a".to_owned(), "b".to_owned()],
                skip: vec!["c".to_owned()],
                full_scan: true,
                verify: true,
                bwlimit: Some(10 << 20),
                apply_package_installs: false,
                apply_package_removals: false,
                yes: true,
                confirm_each_command: true,
                allow_first_sync: true,
                allow_out_of_order: true,
                allow_incomplete: true,
                allow_conflicts: true,
                allow_mass_delete: true,
                allow_logged_in: true,
            }),
        };
        assert_eq!(cli.expect("valid"), expected);
    }

    #[test]
    fn global_flags_stand_before_or_after_the_command() {
        for line in [
            "pc-switcher --batch -q init --force",
            "pc-switcher init --force -q --batch",
        ] {
            let cli = parse(line).expect("valid");
            assert!(cli.global.batch && cli.global.quiet == 1, "{line}");
            assert_eq!(
                cli.command,
                Command::Init(InitArgs {
                    force: true,
                    sudoers: false
                })
            );
        }
        let cli = parse("pc-switcher snapshots list --host vega").expect("valid");
        let Command::Snapshots(SnapshotsArgs { command }) = cli.command else {
            panic!("snapshots");
        };
        assert_eq!(
            command,
            SnapshotsCommand::List {
                host: Some("vega".to_owned())
            }
        );
        assert_eq!(
            parse("pc-switcher agent").expect("valid").command,
            Command::Agent
        );
    }

    #[test]
    fn usage_errors_end_with_the_documented_status() {
        for line in [
            "pc-switcher",
            "pc-switcher sync",
            "pc-switcher synk vega",
            "pc-switcher sync vega altair",
            "pc-switcher sync --frobnicate vega",
            "pc-switcher sync -- -oProxyCommand=x",
            "pc-switcher sync ve/ga",
            "pc-switcher sync vega --only a,,b",
            "pc-switcher sync vega -v -q",
            "pc-switcher sync vega --batch --confirm-each-command",
            "pc-switcher init --color sometimes",
            "pc-switcher snapshots",
        ] {
            let error = parse(line).expect_err(line);
            assert_eq!(
                error.exit_code(),
                i32::from(ExitStatus::Usage.code()),
                "{line}"
            );
        }
        let help = parse("pc-switcher sync --help").expect_err("help");
        assert_eq!((help.kind(), help.exit_code()), (ErrorKind::DisplayHelp, 0));
    }
}
