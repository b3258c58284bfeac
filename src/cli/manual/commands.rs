//! A page for each command, from its definition: what `--help` says, and what the texts add.

use clap::{Arg, ArgAction, Command};

use super::markup;
use super::roff::Roff;
use crate::exit::ExitStatus;

/// The page of `command` on `page`; `path` are the words it is called by. `text` is hand-written:
/// what stands before its first heading belongs to the description, the rest follows the options.
pub(super) fn put(page: &mut Roff, path: &str, command: &Command, text: &str) {
    let (description, sections) = split(text);
    page.heading("Name");
    let about = one_line(&about(command));
    page.paragraph(&format!("{} - {about}", path.replace(' ', "-")));
    page.heading("Synopsis");
    synopsis(page, path, command);
    page.heading("Description");
    page.paragraph(&sentence(&about));
    markup::put(page, description);
    let below: Vec<&Command> = visible(command).collect();
    let mut shown = vec![command];
    if path.contains(' ') {
        shown.extend(&below);
        for command in &below {
            page.heading(&format!("{path} {}", command.get_name()));
            page.paragraph(&sentence(&self::about(command)));
            options(page, command, Globals::Left);
            for note in notes(&after_help(command)) {
                page.paragraph(&note);
            }
        }
    } else if !below.is_empty() {
        page.heading("Commands");
        for command in below {
            let name = format!("{path}-{}", command.get_name());
            page.term(&format!("`{name}`(1)"), &sentence(&self::about(command)));
        }
    }
    let globals = if path.contains(' ') {
        Globals::Named
    } else {
        Globals::Told
    };
    page.heading("Options");
    options(page, command, globals);
    markup::put(page, sections);
    let notes = notes(&after_help(command));
    if !notes.is_empty() {
        page.heading("Notes");
    }
    for note in notes {
        page.paragraph(&note);
    }
    let examples = shown.iter().flat_map(|c| examples(&after_help(c)));
    for (at, (line, meaning)) in examples.enumerate() {
        if at == 0 {
            page.heading("Examples");
        }
        page.term(&format!("`{line}`"), &sentence(&meaning));
    }
}

/// The list of exit statuses.
pub(super) fn exit_statuses(page: &mut Roff) {
    page.heading("Exit status");
    for (status, meaning) in ExitStatus::ALL {
        page.term(&format!("`{}`", status.code()), &sentence(meaning));
    }
}

/// Commands a person may type.
pub(super) fn visible(command: &Command) -> impl Iterator<Item = &Command> {
    let shown = |c: &&Command| !c.is_hide_set() && c.get_name() != "help";
    command.get_subcommands().filter(shown)
}

/// What stands before the first heading of a text, and the rest.
fn split(text: &str) -> (&str, &str) {
    if text.starts_with("# ") {
        return ("", text);
    }
    text.find("\n# ")
        .map_or((text, ""), |at| text.split_at(at + 1))
}

fn about(command: &Command) -> String {
    let about = command.get_about();
    about.map(ToString::to_string).unwrap_or_default()
}

fn one_line(text: &str) -> String {
    let text = text.trim_end_matches('.');
    let mut chars = text.chars();
    let first = chars.next().map(|c| c.to_ascii_lowercase());
    first.into_iter().chain(chars).collect()
}

/// Text that begins with a capital and ends with a full stop, flags set bold.
fn sentence(text: &str) -> String {
    let mut chars = text.trim().chars();
    let first = chars.next().map(|c| c.to_ascii_uppercase());
    let mut text: String = first.into_iter().chain(chars).collect();
    if !text.ends_with(['.', '?', '!']) {
        text.push('.');
    }
    bold_flags(&text)
}

/// Sets words that are flags bold.
fn bold_flags(text: &str) -> String {
    let words = text.split(' ').map(|word| {
        let is_flag = |c: char| c.is_ascii_lowercase() || c == '-';
        let end = word.find(|c| !is_flag(c)).unwrap_or(word.len());
        if word.starts_with("--") && end > 2 {
            format!("`{}`{}", &word[..end], &word[end..])
        } else {
            word.to_owned()
        }
    });
    words.collect::<Vec<_>>().join(" ")
}

fn synopsis(page: &mut Roff, path: &str, command: &Command) {
    let below: Vec<&Command> = visible(command).collect();
    if below.is_empty() || !path.contains(' ') {
        let mut line = format!("`{path}` [*OPTION*]...");
        for argument in command.get_positionals().filter(|a| !a.is_hide_set()) {
            line.push_str(&positional(argument));
        }
        if !below.is_empty() {
            line.push_str(" *COMMAND* ...");
        }
        return page.paragraph(&line);
    }
    for command in below {
        synopsis(page, &format!("{path} {}", command.get_name()), command);
    }
}

fn positional(argument: &Arg) -> String {
    let many = matches!(argument.get_action(), ArgAction::Append);
    let many = if many { "..." } else { "" };
    let name = value_name(argument);
    if argument.is_required_set() {
        format!(" *{name}*{many}")
    } else {
        format!(" [*{name}*{many}]")
    }
}

fn value_name(argument: &Arg) -> String {
    let names = argument.get_value_names().unwrap_or_default();
    let names: Vec<&str> = names.iter().map(AsRef::as_ref).collect();
    names.join(" ")
}

/// What to do about flags that every command has.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Globals {
    /// List them.
    Told,
    /// Say where they are listed.
    Named,
    /// Nothing: the command above says it.
    Left,
}

/// The arguments of a command, grouped as in its help.
fn options(page: &mut Roff, command: &Command, globals: Globals) {
    let shown = |a: &&Arg| {
        let is_common = ["help", "version"].contains(&a.get_id().as_str()) || a.is_global_set();
        !a.is_hide_set() && (!is_common || globals == Globals::Told)
    };
    let arguments: Vec<&Arg> = command.get_arguments().filter(shown).collect();
    let mut headings: Vec<Option<&str>> = Vec::new();
    for argument in &arguments {
        if !headings.contains(&argument.get_help_heading()) {
            headings.push(argument.get_help_heading());
        }
    }
    headings.sort_by_key(Option::is_some);
    for heading in headings {
        if let Some(heading) = heading.filter(|_| globals == Globals::Named) {
            page.subheading(heading);
        }
        for argument in arguments.iter().filter(|a| a.get_help_heading() == heading) {
            option(page, argument);
        }
    }
    if globals == Globals::Named {
        if !arguments.is_empty() {
            page.subheading("Global options");
        }
        page.paragraph(
            "`--config`, `--batch`, `--color`, `--progress`, `--verbose`, `--quiet`, `--help` and \
             `--version` are described in `pc-switcher`(1).",
        );
    }
}

fn option(page: &mut Roff, argument: &Arg) {
    let mut names = Vec::new();
    names.extend(argument.get_short().map(|short| format!("`-{short}`")));
    names.extend(argument.get_long().map(|long| format!("`--{long}`")));
    let mut head = names.join(", ");
    if argument.get_action().takes_values() {
        if !head.is_empty() {
            head.push(' ');
        }
        head.extend(["*", &value_name(argument), "*"]);
    }
    let help = argument.get_long_help().or_else(|| argument.get_help());
    let help = help.map(ToString::to_string).unwrap_or_default();
    page.term(&head, &sentence(help.trim()));
    if !argument.get_action().takes_values() || argument.is_hide_possible_values_set() {
        return;
    }
    let values = argument.get_possible_values();
    let values: Vec<String> = (values.iter().filter(|v| !v.is_hide_set()))
        .map(|value| match value.get_help() {
            Some(help) if one_line(&help.to_string()) != value.get_name() => {
                format!("`{}` ({})", value.get_name(), one_line(&help.to_string()))
            }
            _ => format!("`{}`", value.get_name()),
        })
        .collect();
    if values.is_empty() {
        return;
    }
    let default = argument.get_default_values().first();
    let default = default.map(|d| format!(" Without it: `{}`.", d.to_string_lossy()));
    page.continued(&format!(
        "One of {}.{}",
        values.join(", "),
        default.unwrap_or_default()
    ));
}

/// What the help ends with: its examples, and notes.
fn after_help(command: &Command) -> String {
    let text = command.get_after_help();
    text.map(ToString::to_string).unwrap_or_default()
}

const EXAMPLES: &str = "Examples:\n";

/// What else a help says, paragraph by paragraph.
fn notes(help: &str) -> Vec<String> {
    let blocks = help.split("\n\n").map(str::trim);
    let notes = blocks.filter(|block| !block.is_empty() && !block.starts_with(EXAMPLES));
    notes
        .map(|note| bold_flags(&note.replace('\n', " ")))
        .collect()
}

/// The command lines among the examples of a help, each with what is said about it.
pub(super) fn examples(help: &str) -> Vec<(String, String)> {
    let mut found: Vec<(String, String)> = Vec::new();
    let blocks = help.split("\n\n").filter(|b| b.starts_with(EXAMPLES));
    for line in blocks.flat_map(|block| block.lines().skip(1)) {
        let indent = line.len() - line.trim_start().len();
        let line = line.trim();
        match found.last_mut() {
            // Deeper than command lines are: what is said about the line before.
            Some((_, meaning)) if indent > 2 => {
                meaning.push_str(if meaning.is_empty() { "" } else { " " });
                meaning.push_str(line);
            }
            _ => {
                let (command, meaning) = line.split_once("  ").unwrap_or((line, ""));
                found.push((command.trim().to_owned(), meaning.trim().to_owned()));
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn examples_are_lines_with_their_meaning() {
        let block =
            "Examples:\n  a b     first\n  a longer line\n          second,\n          two lines\n";
        let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
        assert_eq!(
            examples(block),
            [
                pair("a b", "first"),
                pair("a longer line", "second, two lines")
            ]
        );
    }

    #[test]
    fn every_example_says_what_it_is_for() {
        let mut root = crate::cli::args::Cli::command();
        root.build();
        let mut waiting = vec![&root];
        let mut count = 0;
        while let Some(command) = waiting.pop() {
            waiting.extend(visible(command));
            for (line, meaning) in examples(&after_help(command)) {
                assert!(!meaning.is_empty(), "{line}");
                count += 1;
            }
        }
        assert!(count > 30, "{count}");
    }

    #[test]
    fn flags_in_sentences_are_bold() {
        assert_eq!(
            sentence("with --batch, or -- alone"),
            "With `--batch`, or -- alone."
        );
    }
}
