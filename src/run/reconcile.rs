//! The target's configuration: the same as ours, or a person decides.
//!
//! It is decided with the plan, before the first change, and written in phase 7. Only
//! `config.yaml` and the filters beside it travel; what only the target has stays there.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::ErrorKind;
use std::path::Path;

use similar::TextDiff;

use super::error::RunError;
use super::plan::{digest, totals};
use super::{Pair, Run};
use crate::agent::protocol::{Reply, Request};
use crate::config::Config;
use crate::escape::escape_str;
use crate::event::{Host, LogLevel};
use crate::figures::counted;
use crate::module::{Action, Change, ListPlan};
use crate::prompt::{Choice, PromptError, Question};

/// The name of the configuration file on every machine.
const CONFIG: &str = "config.yaml";

/// Lines of differences shown at the question; one of the answers shows all.
const SHORT_DIFF_LINES: usize = 16;

/// Lines of differences shown at all.
const MAX_DIFF_LINES: usize = 2000;

/// One file to write on the target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Write {
    pub(super) name: String,
    pub(super) content: String,
    /// Whether the target has such a file.
    pub(super) replaces: bool,
}

/// What this machine's configuration is on disk: file name to content.
fn own_files(config: &Config) -> Result<BTreeMap<String, String>, RunError> {
    let read = |path: &Path| {
        std::fs::read_to_string(path).map_err(|source| RunError::Read {
            path: path.display().to_string(),
            source,
        })
    };
    let mut files = BTreeMap::from([(CONFIG.to_owned(), read(&config.path)?)]);
    let directory = config.path.parent();
    let folders = &config.user_data.folders;
    for filter in folders.iter().filter_map(|f| f.filter.as_ref()) {
        // A filter kept elsewhere is part of that machine's set-up, not of the configuration.
        if filter.parent() == directory
            && let Some(name) = filter.file_name().and_then(|name| name.to_str())
        {
            match read(filter) {
                // Those of the mirror were checked when it is on; nobody else needs them.
                Err(RunError::Read { source, .. }) if source.kind() == ErrorKind::NotFound => {}
                text => drop(files.insert(name.to_owned(), text?)),
            }
        }
    }
    Ok(files)
}

fn their_files(pair: &Pair) -> Result<BTreeMap<String, String>, RunError> {
    let agent = &pair.target.machine.agent;
    let doing = || RunError::agent("reading the target's configuration");
    match agent.call(Request::ReadUserConfig).map_err(doing())? {
        Reply::UserConfig(files) => Ok(files),
        _ => Err(doing()(agent.nonsense("no configuration"))),
    }
}

fn differing(ours: BTreeMap<String, String>, theirs: &BTreeMap<String, String>) -> Vec<Write> {
    ours.into_iter()
        .filter(|(name, content)| theirs.get(name) != Some(content))
        .map(|(name, content)| Write {
            replaces: theirs.contains_key(&name),
            name,
            content,
        })
        .collect()
}

/// The differences as a person reads them, escaped and bounded.
fn diff(
    writes: &[Write],
    theirs: &BTreeMap<String, String>,
    source: &str,
    target: &str,
) -> Vec<String> {
    let mut text = String::new();
    for write in writes {
        let old = theirs.get(&write.name).map_or("", String::as_str);
        let diff = TextDiff::from_lines(old, &write.content);
        let _ = write!(
            text,
            "{}",
            diff.unified_diff().context_radius(3).header(
                &format!("{target}:{}", write.name),
                &format!("{source}:{}", write.name)
            )
        );
    }
    let mut lines: Vec<String> = text.lines().map(escape_str).collect();
    if lines.len() > MAX_DIFF_LINES {
        let more = lines.len() - MAX_DIFF_LINES;
        lines.truncate(MAX_DIFF_LINES);
        lines.push(format!("({more} more lines)"));
    }
    lines
}

/// The same in a few lines: of a file that is not there yet only its name and length, of the others how their
/// differences begin. `None` if that is no shorter.
fn brief(
    writes: &[Write],
    theirs: &BTreeMap<String, String>,
    names: [&str; 2],
) -> Option<Vec<String>> {
    let [source, target] = names;
    let (old, new): (Vec<Write>, Vec<Write>) = writes.iter().cloned().partition(|w| w.replaces);
    let mut lines: Vec<String> = (new.iter())
        .map(|write| {
            let length = counted(write.content.lines().count() as u64, "line");
            format!("+ {} ({length}, not there yet)", escape_str(&write.name))
        })
        .collect();
    let mut changes = diff(&old, theirs, source, target);
    let is_whole = new.is_empty() && changes.len() <= SHORT_DIFF_LINES;
    if changes.len() > SHORT_DIFF_LINES {
        let more = counted((changes.len() - SHORT_DIFF_LINES) as u64, "line");
        changes.truncate(SHORT_DIFF_LINES);
        changes.push(format!("({more} more)"));
    }
    lines.append(&mut changes);
    (!is_whole).then_some(lines)
}

/// Finds out what differs and what a person wants done about it; writes nothing.
pub(super) fn decide(run: &Run, pair: &Pair) -> Result<Vec<Write>, RunError> {
    let ours = own_files(&run.shared.config)?;
    let theirs = their_files(pair)?;
    let (source, target) = (&pair.source.machine.hostname, &pair.target.machine.hostname);
    let writes = differing(ours, &theirs);
    if writes.is_empty() {
        run.log(
            LogLevel::Info,
            Some(Host::Target),
            "the configuration is the same".to_owned(),
        );
        return Ok(writes);
    }
    let has_one = theirs.contains_key(CONFIG);
    let finding = if has_one {
        format!("the configuration of {target} differs from that of {source}")
    } else {
        format!("{target} has no configuration yet")
    };
    let options = &run.shared.options;
    let shown = diff(&writes, &theirs, source, target);
    if options.dry_run || options.yes {
        run.log(LogLevel::Info, None, finding);
        run.log(LogLevel::Full, Some(Host::Target), shown.join("\n"));
        return Ok(writes);
    }
    if options.batch || !run.shared.prompter.can_ask() {
        return Err(RunError::Refused {
            message: finding,
            flag: Some("--yes".to_owned()),
        });
    }
    let brief = brief(&writes, &theirs, [source, target]);
    let shown = Shown {
        brief,
        whole: shown,
    };
    match ask(run, &finding, shown, has_one, source, target)? {
        Answer::Take => Ok(writes),
        Answer::Keep => Ok(Vec::new()),
        Answer::Show | Answer::Abort => Err(RunError::Refused {
            message: finding,
            flag: Some("--yes".to_owned()),
        }),
    }
}

#[derive(Debug, Clone, Copy)]
enum Answer {
    Take,
    Keep,
    Show,
    Abort,
}

/// What is shown at the question: little first, where there is much.
struct Shown {
    brief: Option<Vec<String>>,
    whole: Vec<String>,
}

fn ask(
    run: &Run,
    finding: &str,
    mut shown: Shown,
    has_one: bool,
    source: &str,
    target: &str,
) -> Result<Answer, RunError> {
    let choice = |key, label: &str, effect: String| Choice {
        key,
        label: label.to_owned(),
        effect,
    };
    loop {
        let brief = shown.brief.take();
        let is_brief = brief.is_some();
        let mut detail = vec![finding.to_owned()];
        detail.extend(brief.unwrap_or_else(|| shown.whole.clone()));
        let mut choices = vec![choice(
            't',
            "take",
            format!("give {target} the files of {source}"),
        )];
        let mut answers = vec![Answer::Take];
        if has_one {
            let effect = format!("leave the files of {target} as they are");
            choices.push(choice('k', "keep", effect));
            answers.push(Answer::Keep);
        }
        if is_brief {
            choices.push(choice(
                'd',
                "diff",
                "show all the differences, then ask again".to_owned(),
            ));
            answers.push(Answer::Show);
        }
        choices.push(choice(
            'a',
            "abort",
            "stop here; neither machine is changed".to_owned(),
        ));
        answers.push(Answer::Abort);
        let question = Question {
            detail,
            text: format!("Which configuration shall {target} have?"),
            default: choices.len() - 1,
            choices,
            flag: Some("--yes".to_owned()),
        };
        match run.shared.prompter.choose(&question) {
            Ok(chosen) => match answers.get(chosen) {
                Some(Answer::Show) => {}
                answer => return Ok(answer.copied().unwrap_or(Answer::Abort)),
            },
            Err(PromptError::CannotAsk) => return Ok(Answer::Abort),
            Err(PromptError::Interrupted(interrupted)) => {
                return Err(RunError::Interrupted(interrupted));
            }
        }
    }
}

/// Lists what will be written, in a dry run.
pub(super) fn list(run: &mut Run) -> Result<(), RunError> {
    let changes = run.config_writes.iter().map(|write| Change {
        action: if write.replaces {
            Action::Change
        } else {
            Action::Create
        },
        item: format!("~/.config/pc-switcher/{}", write.name).into_bytes(),
        detail: String::new(),
        bytes: write.content.len() as u64,
        from: None,
    });
    let plan = ListPlan::new(changes.collect());
    if plan.changes.is_empty() {
        return Ok(());
    }
    let heading = format!("configuration: {}", totals(&plan.summary));
    digest(run, "configuration", &heading, &mut |visit| {
        plan.changes.iter().for_each(&mut *visit);
    })
}

/// Writes what was decided.
pub(super) fn apply(run: &mut Run, pair: &Pair) -> Result<(), RunError> {
    let machine = &pair.target.machine;
    for write in std::mem::take(&mut run.config_writes) {
        let request = Request::WriteUserConfig {
            name: write.name.clone(),
            content: write.content,
        };
        machine
            .agent
            .call(request)
            .map_err(RunError::agent("writing the target's configuration"))?;
        run.log(
            LogLevel::Info,
            Some(Host::Target),
            format!("wrote {}", escape_str(&write.name)),
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(list: &[(&str, &str)]) -> BTreeMap<String, String> {
        (list.iter())
            .map(|(name, content)| ((*name).to_owned(), (*content).to_owned()))
            .collect()
    }

    #[test]
    fn only_what_differs_is_written_and_what_only_they_have_stays() {
        let ours = files(&[
            (CONFIG, "a\n"),
            ("home.filter", "x\n"),
            ("root.filter", "y\n"),
        ]);
        let theirs = files(&[
            (CONFIG, "b\n"),
            ("home.filter", "x\n"),
            ("own.filter", "z\n"),
        ]);
        let writes = differing(ours, &theirs);
        let named: Vec<(&str, bool)> = writes
            .iter()
            .map(|w| (w.name.as_str(), w.replaces))
            .collect();
        assert_eq!(named, [(CONFIG, true), ("root.filter", false)]);
    }

    #[test]
    fn a_difference_is_shown_as_a_unified_diff_from_theirs_to_ours() {
        let theirs = files(&[(CONFIG, "same\nold\n")]);
        let writes = differing(files(&[(CONFIG, "same\nnew\x1b\n")]), &theirs);
        let lines = diff(&writes, &theirs, "atlas", "vega");
        assert_eq!(lines[0], "--- vega:config.yaml");
        assert_eq!(lines[1], "+++ atlas:config.yaml");
        assert!(lines.contains(&"-old".to_owned()), "{lines:?}");
        assert!(lines.iter().any(|l| l.starts_with("+new")) && !lines.concat().contains('\x1b'));
    }
}
