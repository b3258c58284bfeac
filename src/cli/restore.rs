//! `restore`: single files and trees brought back out of a session's snapshot.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::io::ErrorKind;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use super::args::{GlobalArgs, RestoreArgs};
use super::errand::Errand;
use super::load_config;
use super::sync::Listed as Output;
use super::table::{number, print, render, text};
use crate::config::Config;
use crate::escape::escape_bytes;
use crate::exit::ExitStatus;
use crate::figures;
use crate::modules;
use crate::run::error::RunError;
use crate::run::restore::{Listed, Report, RestoreOptions, Restored, Wanted, Work, list, restore};

/// Paths that are named one by one at the end.
const NAMED_MAX: usize = 20;

/// Restores.
#[must_use]
pub fn run(global: &GlobalArgs, args: &RestoreArgs) -> ExitStatus {
    let config = match load_config(global, &modules::registry()) {
        Ok(config) => config,
        Err(status) => return status,
    };
    let mut errand = Errand::start(global, config.log_cli_level);
    let result = with_errand(global, args, &config, &mut errand);
    errand.finish(result)
}

fn with_errand(
    global: &GlobalArgs,
    args: &RestoreArgs,
    config: &Config,
    errand: &mut Errand,
) -> Result<ExitStatus, RunError> {
    let is_here = args.host.is_none();
    let paths: Result<Vec<Vec<u8>>, RunError> = (args.paths.iter())
        .map(|path| whole(path, is_here))
        .collect();
    let options = RestoreOptions {
        paths: paths?,
        session: args.session.clone(),
        to: args
            .to
            .as_deref()
            .map(|to| directory(to, is_here))
            .transpose()?,
        host: args.host.clone(),
        dry_run: args.dry_run,
        yes: args.yes,
        batch: global.batch,
    };
    let (events, abort) = (errand.console.events.clone(), errand.console.abort.clone());
    let prompter = errand.console.prompter();
    let mut output = Output(errand.ui());
    let work = Work {
        config,
        options: &options,
        events: &events,
        prompter: &*prompter,
        abort: &abort,
    };
    if args.list {
        return Ok(print(&table(&list(errand, &work)?)));
    }
    one_of_each_name(&options)?;
    let report = restore(errand, &work, &mut output)?;
    let written = print(&words(&report, &options));
    let errors: u64 = report.restored.iter().map(|part| part.errors).sum();
    let is_left = report.restored.iter().any(|part| !part.left.is_empty());
    Ok(match (errors, is_left) {
        (0, false) => written,
        (0, true) => ExitStatus::Warnings,
        _ => ExitStatus::Failed,
    })
}

fn usage(message: String, hint: &str) -> RunError {
    RunError::Usage {
        message,
        hint: hint.to_owned(),
    }
}

/// A path as the other side of the program takes it: absolute, without `.` and `..`, and without links on
/// the way to it. What it names itself may be a link, and need not be there any more.
fn whole(path: &Path, is_here: bool) -> Result<Vec<u8>, RunError> {
    let shown = escape_bytes(path.as_os_str().as_bytes());
    let plain = "name it by its whole path, without `..`";
    if !is_here {
        if !path.is_absolute() {
            let message = format!("{shown} could be anywhere on another machine");
            return Err(usage(message, plain));
        }
        return normal(path).ok_or_else(|| usage(format!("{shown} has `..` in it"), plain));
    }
    let absolute = std::path::absolute(path)
        .map_err(|error| usage(format!("{shown} is no path: {error}"), plain))?;
    let Some(mut directory) = absolute.parent().map(Path::to_path_buf) else {
        // The root directory: it is a whole subvolume.
        return Ok(b"/".to_vec());
    };
    let Some(name) = absolute.file_name() else {
        return Err(usage(format!("{shown} ends with `..`"), plain));
    };
    // What is gone has no links; what is left of the way to it may.
    let mut rest: Vec<OsString> = vec![name.to_owned()];
    let real = loop {
        match directory.canonicalize() {
            Ok(real) => break real,
            Err(error)
                if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) =>
            {
                let (Some(name), Some(above)) = (directory.file_name(), directory.parent()) else {
                    return Err(usage(format!("{shown} has `..` after what is gone"), plain));
                };
                rest.push(name.to_owned());
                directory = above.to_path_buf();
            }
            // Root will see what we may not.
            Err(_) => break directory,
        }
    };
    let path: PathBuf = std::iter::once(real.into_os_string())
        .chain(rest.into_iter().rev())
        .collect();
    normal(&path).ok_or_else(|| usage(format!("{shown} has `..` in it"), plain))
}

/// An absolute path of nothing but names; `None` if it has `..` in it.
fn normal(path: &Path) -> Option<Vec<u8>> {
    let mut whole = Vec::new();
    for component in path.components() {
        match component {
            Component::RootDir | Component::CurDir => {}
            Component::Normal(name) => {
                whole.push(b'/');
                whole.extend_from_slice(name.as_bytes());
            }
            Component::ParentDir | Component::Prefix(_) => return None,
        }
    }
    if whole.is_empty() {
        whole.push(b'/');
    }
    Some(whole)
}

/// The directory of `--to`.
fn directory(path: &Path, is_here: bool) -> Result<Vec<u8>, RunError> {
    if !is_here {
        return whole(path, false);
    }
    let shown = escape_bytes(path.as_os_str().as_bytes());
    match path.canonicalize() {
        Ok(real) if real.is_dir() => Ok(real.as_os_str().as_bytes().to_vec()),
        Ok(_) => Err(usage(format!("{shown} is no directory"), "--to takes one")),
        Err(error) => Err(usage(
            format!("{shown} cannot be used: {error}"),
            "--to takes a directory that is there",
        )),
    }
}

/// What goes into one directory must have names of its own there.
fn one_of_each_name(options: &RestoreOptions) -> Result<(), RunError> {
    let name = |path: &[u8]| {
        path.rsplit(|b| *b == b'/')
            .next()
            .unwrap_or_default()
            .to_vec()
    };
    let mut names = std::collections::BTreeSet::new();
    let twice = options.paths.iter().find(|path| !names.insert(name(path)));
    match twice {
        Some(path) if options.to.is_some() => Err(usage(
            format!("two paths are called {}", escape_bytes(&name(path))),
            "restore them one at a time, each to a directory of its own",
        )),
        _ => Ok(()),
    }
}

/// A line for every version there is.
fn table(listed: &[Listed]) -> String {
    if listed.is_empty() {
        return "No snapshot has it.\n".to_owned();
    }
    let columns = [
        text("SESSION"),
        text("TAKEN (UTC)"),
        text("PHASE"),
        text("KIND"),
        number("SIZE"),
        text("MODIFIED (UTC)"),
        text("PATH"),
    ];
    let rows = listed.iter().map(|row| {
        let modified = jiff::Timestamp::new(row.found.mtime.secs, 0);
        [
            row.version.session.clone(),
            row.version.at.strftime("%F %T").to_string(),
            row.version.kind.word().to_owned(),
            row.found.kind.clone(),
            row.found.size.map_or_else(String::new, figures::bytes),
            modified.map_or_else(|_| "?".to_owned(), |at| at.strftime("%F %T").to_string()),
            row.path.shown(),
        ]
    });
    render(&columns, rows.collect())
}

/// What a person is told at the end.
fn words(report: &Report, options: &RestoreOptions) -> String {
    let mut text = String::new();
    for part in &report.restored {
        let version = part.version.words();
        let begin = match (options.dry_run, part.errors) {
            (true, _) => "Would restore",
            (false, 0) => "Restored",
            (false, _) => "Restored in part",
        };
        let into = match &options.to {
            Some(to) => format!(" to {}", escape_bytes(to)),
            None => String::new(),
        };
        let _ = writeln!(text, "{begin}{into}, as it was {version}:");
        named(&mut text, &part.paths);
        let _ = writeln!(text, "  {}", counts(part));
    }
    if !report.unchanged.is_empty() {
        let _ = writeln!(text, "As it was, nothing to restore:");
        named(&mut text, &report.unchanged);
    }
    text
}

fn named(text: &mut String, paths: &[Wanted]) {
    for path in paths.iter().take(NAMED_MAX) {
        let _ = writeln!(text, "    {}", path.shown());
    }
    if let Some(more) = paths.len().checked_sub(NAMED_MAX).filter(|more| *more > 0) {
        let _ = writeln!(text, "    and {more} more");
    }
}

fn counts(part: &Restored) -> String {
    let amount = &part.amount;
    let counts = [
        (amount.created, "brought back"),
        (amount.overwritten, "overwritten"),
        (part.errors, "not restored"),
    ];
    let some = counts.iter().filter(|(count, _)| *count > 0);
    let mut parts: Vec<String> = some
        .map(|(count, words)| format!("{} {words}", figures::number(*count)))
        .collect();
    let left = part.left.iter();
    parts.extend(left.map(|(kind, count)| format!("{}: {kind}", figures::number(*count))));
    if parts.is_empty() {
        parts.push("times put back".to_owned());
    }
    parts.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(path: &str, is_here: bool) -> Result<String, String> {
        let whole = whole(Path::new(path), is_here).map_err(|error| error.to_string())?;
        Ok(escape_bytes(&whole))
    }

    #[test]
    fn a_path_is_whole_and_leads_through_no_link() {
        let temp = tempfile::tempdir().unwrap();
        let top = temp.path().canonicalize().unwrap();
        std::fs::create_dir_all(top.join("real/dir")).unwrap();
        std::os::unix::fs::symlink("real", top.join("link")).unwrap();
        std::fs::write(top.join("file"), "").unwrap();
        let at = |path: &str| top.join(path).to_str().unwrap().to_owned();
        for (typed, meant) in [
            ("link/dir/x", "real/dir/x"),
            ("link", "link"),
            ("link/dir/gone/deeper/x", "real/dir/gone/deeper/x"),
            ("link/dir/../x", "real/x"),
            ("real/./dir/", "real/dir"),
            ("file/x", "file/x"),
        ] {
            assert_eq!(shown(&at(typed), true), Ok(at(meant)), "{typed}");
        }
        for wrong in ["real/dir/..", "gone/../x"] {
            assert!(shown(&at(wrong), true).is_err(), "{wrong}");
        }
        let here = std::env::current_dir().unwrap().canonicalize().unwrap();
        let expected = here.join("-rf").to_str().unwrap().to_owned();
        assert_eq!(shown("-rf", true), Ok(expected));
    }

    #[test]
    fn a_path_of_another_machine_is_taken_as_it_is() {
        assert_eq!(shown("/home//ann/./x/", false), Ok("/home/ann/x".into()));
        assert_eq!(shown("/", false), Ok("/".into()));
        for wrong in ["x", "./x", "/home/../x"] {
            assert!(shown(wrong, false).is_err(), "{wrong}");
        }
    }

    #[test]
    fn two_of_one_name_do_not_go_into_one_directory() {
        let mut options = RestoreOptions {
            paths: ["/a/x", "/b/x"].map(|path| path.as_bytes().to_vec()).into(),
            ..RestoreOptions::default()
        };
        assert!(one_of_each_name(&options).is_ok());
        options.to = Some(b"/tmp".to_vec());
        assert!(one_of_each_name(&options).is_err());
    }
}
