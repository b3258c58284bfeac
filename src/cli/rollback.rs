//! `rollback`: a machine put back to its state before a session.

use std::fmt::Write as _;

use super::args::{GlobalArgs, RollbackArgs};
use super::errand::Errand;
use super::load_config;
use super::sync::{Listed, Log, lost_lines};
use super::table::print;
use crate::config::Config;
use crate::escape::escape_str;
use crate::event::EventSink;
use crate::exit::ExitStatus;
use crate::figures;
use crate::mirror::compare::EXCLUDED;
use crate::modules;
use crate::record::log::log_dir;
use crate::run::rollback::{Report, RollbackOptions, Tree, Work, rollback, totals};
use crate::run::session;

/// Rolls back.
#[must_use]
pub fn run(global: &GlobalArgs, args: &RollbackArgs) -> ExitStatus {
    let config = match load_config(global, &modules::registry()) {
        Ok(config) => config,
        Err(status) => return status,
    };
    let id = session::new_id();
    let mut events = EventSink::none();
    // A dry run leaves no file behind.
    let log = (!args.dry_run).then(|| Log::start(&id, &mut events));
    let mut errand = Errand::start_as(global, config.log_cli_level, &id, events);
    if let Some(log) = &log {
        log.open(&config, false, &errand.console.events);
    }
    let result = with_errand(global, args, &config, &id, &mut errand);
    let status = errand.finish(result);
    lost_lines(log.map_or(Ok(()), Log::finish_if_used), status)
}

fn with_errand(
    global: &GlobalArgs,
    args: &RollbackArgs,
    config: &Config,
    id: &str,
    errand: &mut Errand,
) -> Result<ExitStatus, crate::run::error::RunError> {
    let options = RollbackOptions {
        session: args.session.clone(),
        host: args.host.clone(),
        local: args.local,
        subvolumes: args.subvolume.clone(),
        in_place: args.in_place,
        dry_run: args.dry_run,
        yes: args.yes,
        batch: global.batch,
    };
    let (events, abort) = (errand.console.events.clone(), errand.console.abort.clone());
    let prompter = errand.console.prompter();
    let mut listed = Listed(errand.ui());
    let logs = log_dir(|name| std::env::var_os(name), false);
    let work = Work {
        config,
        options: &options,
        id,
        of: String::new(),
        protected: logs
            .and_then(|path| path.to_str().map(str::to_owned))
            .into_iter()
            .collect(),
        events: &events,
        prompter: &*prompter,
        abort: &abort,
    };
    let report = rollback(errand, work, &mut listed)?;
    let written = print(&words(&report, &options, id));
    Ok(if report.errors() > 0 {
        ExitStatus::Failed
    } else {
        written
    })
}

/// What a person is told at the end.
fn words(report: &Report, options: &RollbackOptions, id: &str) -> String {
    let Report { machine, of, .. } = report;
    let mut text = String::new();
    let mut line = |words: String| {
        let _ = writeln!(text, "{words}");
    };
    if !report.is_needed {
        line(format!(
            "{machine} is as it was before session {of}; nothing was changed."
        ));
        return text;
    }
    if options.dry_run {
        line(format!(
            "A rollback would put {machine} back to its state before session {of}; nothing was changed."
        ));
    } else if report.errors() > 0 {
        line(format!(
            "{machine} is not wholly back at its state before session {of}: {} could not be put back. \
             Once more does the rest.",
            figures::counted(report.errors(), "entry")
        ));
    } else {
        line(format!(
            "{machine} is back at its state before session {of}."
        ));
    }
    for tree in &report.trees {
        line(format!("  {}: {}", tree.place(), totals(tree)));
        match &tree.kept {
            Some(kept) => {
                let kept = escape_str(kept);
                line(format!(
                    "    at the next boot; what runs now is kept as the subvolume {kept}. Until then, do not sync."
                ));
            }
            None if tree.is_exchanged && options.dry_run => {
                line("    at the next boot; what runs now would be kept".to_owned());
            }
            None if tree.is_exchanged => {
                line("    not exchanged, because not everything could be put back".to_owned());
            }
            None => {}
        }
        for words in left(tree) {
            line(format!("    {words}"));
        }
    }
    if !options.dry_run {
        line(format!("To undo this: pc-switcher rollback {id}"));
    }
    text
}

/// What was left as it is; the log names it.
fn left(tree: &Tree) -> Vec<String> {
    let kinds = tree.left.iter();
    let words = kinds.map(|(kind, count)| {
        if kind == EXCLUDED {
            format!("{} excluded, left as it is", figures::number(*count))
        } else {
            format!("{}: {}", figures::number(*count), kind)
        }
    });
    words.collect()
}
