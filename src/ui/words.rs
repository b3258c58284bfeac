//! Events in words: log lines, the end of a module, questions, the closing block, errors.
//!
//! Everything here turns data into [`Line`]s; what is not ours is escaped on the way.

use std::collections::HashMap;

use serde_json::Value;

use crate::event::{
    ClosingReport, EndingError, Host, LogEvent, LogLevel, ModuleResult, ModuleStatus, SessionState,
};
use crate::prompt::Question;

use super::look::{Line, Look, Paint};
use super::plan;
use super::report::ErrorReport;
use super::text::{clean, clean_lines, clock, columns, counted, number, span, wrap};

/// Lines of one message that are shown; the rest is in the log.
const MESSAGE_LINES: usize = 20;

/// Below this many columns a result does not stand beside its module.
const NARROW: usize = 60;

/// Different warnings the closing block repeats.
const WARNINGS_SHOWN: usize = 20;

/// The host names, as far as they are known.
pub(super) type Hosts<'a> = (Option<&'a str>, Option<&'a str>);

/// What `width` there is to wrap to: none when the output is no terminal.
pub(super) type Width = Option<usize>;

pub(super) fn wrapped(text: &str, width: Width, indent: usize) -> Vec<String> {
    match width {
        // A line that begins with a space is a command to copy: it is left whole.
        Some(width) if !text.starts_with(' ') => wrap(text, width, indent),
        _ => vec![text.to_owned()],
    }
}

/// `head`, painted, then `text` as far as it fits beside it, the rest below, `indent`ed.
fn paragraph(
    (head, head_paint): (&str, Paint),
    (text, paint): (&str, Paint),
    width: Width,
    indent: usize,
) -> Vec<Line> {
    let mut rows = wrapped(&format!("{head}{text}"), width, indent).into_iter();
    let mut lines = Vec::new();
    if let Some(first) = rows.next() {
        let mut line = Line::default();
        match first.strip_prefix(head) {
            Some(rest) => {
                line.push(head, head_paint);
                line.push(rest, paint);
            }
            None => line.push(first, head_paint),
        }
        lines.push(line);
    }
    lines.extend(rows.map(|row| Line::of(row, paint)));
    lines
}

/// Who and where a log line is about: `user_data (vega): `.
fn speaker(log: &LogEvent, hosts: Hosts<'_>) -> String {
    let host = match log.host {
        // Before the names are known nobody is told "source": the message says which machine it is.
        Some(Host::Source) => hosts.0,
        Some(Host::Target) => hosts.1,
        None => None,
    };
    let module = clean(&log.module);
    match (module.as_str(), host) {
        ("core" | "", None) => String::new(),
        ("core" | "", Some(host)) => format!("{host}: "),
        (module, None) => format!("{module}: "),
        (module, Some(host)) => format!("{module} ({host}): "),
    }
}

/// A log line; with its context if `detail`.
pub(super) fn log(log: &LogEvent, hosts: Hosts<'_>, detail: bool, width: Width) -> Vec<Line> {
    let (head, head_paint, paint) = match log.level {
        LogLevel::Debug | LogLevel::Full => ("", Paint::Dim, Paint::Dim),
        LogLevel::Info => ("", Paint::Plain, Paint::Plain),
        LogLevel::Warning => ("warning: ", Paint::Warn, Paint::Plain),
        LogLevel::Error => ("error: ", Paint::Bad, Paint::Plain),
        LogLevel::Critical => ("critical: ", Paint::Bad, Paint::Plain),
    };
    let mut texts = clean_lines(&log.message, MESSAGE_LINES).into_iter();
    let mut first = speaker(log, hosts) + &texts.next().unwrap_or_default();
    if detail && !log.context.is_empty() {
        let mut context = Value::Object(log.context.clone());
        crate::jsonline::redact_value(&mut context);
        first.push(' ');
        first.push_str(&clean(&context.to_string()));
    }
    let mut lines = paragraph((head, head_paint), (&first, paint), width, 2);
    for text in texts {
        let rows = match width {
            Some(width) => wrap(&format!("  {text}"), width, 2),
            None => vec![format!("  {text}")],
        };
        lines.extend(rows.into_iter().map(|row| Line::of(row, paint)));
    }
    // A message is no reason to scroll everything else away.
    if width.is_some() && lines.len() > MESSAGE_LINES {
        lines.truncate(MESSAGE_LINES);
        lines.push(Line::of("  (cut here)", Paint::Dim));
    }
    lines
}

/// One module's line: sign or word, name in `name_width` columns (0: no table), time, what it did or why not.
pub(super) fn module_result(
    result: &ModuleResult,
    name_width: usize,
    look: Look,
    width: Width,
) -> Vec<Line> {
    let (sign, paint) = match result.status {
        ModuleStatus::Success => (look.sign("✔", "ok     "), Paint::Good),
        ModuleStatus::Skipped => (look.sign("○", "skipped"), Paint::Dim),
        ModuleStatus::Failed => (look.sign("✖", "failed "), Paint::Bad),
    };
    let name = clean(&result.module);
    let pad = " ".repeat(name_width.saturating_sub(columns(&name)));
    let took = result.ended_at.duration_since(result.started_at);
    let mut took = clock(took.try_into().unwrap_or_default());
    if name_width > 0 {
        took = format!("{took:>5}");
    }
    let word = match result.status {
        ModuleStatus::Success => "",
        ModuleStatus::Skipped => "skipped",
        ModuleStatus::Failed => "failed",
    };
    let texts = [
        Some(word).filter(|_| look.unicode).unwrap_or_default(),
        result.error.as_deref().unwrap_or_default(),
        result.summary.as_deref().unwrap_or_default(),
    ];
    let texts: Vec<String> = texts
        .into_iter()
        .filter(|text| !text.is_empty())
        .map(|text| clean_lines(text, 1).join(" "))
        .collect();
    let head = format!("{sign} ");
    let (title, text) = (format!("{name}{pad}  {took}"), texts.join(": "));
    let line = format!("{title}  {text}");
    let is_narrow = |width| width < NARROW && columns(&head) + columns(&line) > width;
    if !width.is_some_and(is_narrow) {
        return paragraph((&head, paint), (line.trim_end(), Paint::Plain), width, 4);
    }
    // No table fits: what was done begins on a line of its own.
    let mut lines = paragraph((&head, paint), (&title, Paint::Plain), width, 4);
    lines.extend(indented(4, (&text, Paint::Plain), width));
    lines
}

/// `text` as lines that all begin `margin` spaces from the left.
fn indented(margin: usize, (text, paint): (&str, Paint), width: Width) -> Vec<Line> {
    let room = width.map(|width| width.saturating_sub(margin).max(10));
    let margin = " ".repeat(margin);
    let rows = wrapped(text, room, 0).into_iter();
    rows.map(|row| Line::of(format!("{margin}{row}"), paint))
        .collect()
}

/// The width for a column of module names.
fn name_width(modules: &[&ModuleResult]) -> usize {
    let names = modules.iter().map(|m| columns(&clean(&m.module)));
    names.max().unwrap_or(0).min(24)
}

/// The closing block.
pub(super) fn closing(report: &ClosingReport, look: Look, width: Width) -> Vec<Line> {
    let (source, target) = (clean(&report.source), clean(&report.target));
    let hosts = (Some(source.as_str()), Some(target.as_str()));
    let errors = report.warnings.iter().any(|w| w.level > LogLevel::Warning);
    let (state, paint, head) = match (report.state, report.dry_run) {
        (SessionState::Completed, true) => {
            ("COMPLETED", Paint::Good, "Dry run, nothing was changed: ")
        }
        (SessionState::Completed, false) => ("COMPLETED", Paint::Good, "Synced "),
        (SessionState::Aborted, _) => ("ABORTED", Paint::Warn, "Stopped before the end: "),
        (SessionState::Failed, _) => ("FAILED", Paint::Bad, "Failed: "),
        (SessionState::Initializing, _) => ("INITIALIZING", Paint::Bad, "Not begun: "),
        (SessionState::Validating, _) => ("VALIDATING", Paint::Bad, "Not begun: "),
        (SessionState::Executing, _) => ("EXECUTING", Paint::Bad, "Not ended: "),
        (SessionState::Cleanup, _) => ("CLEANUP", Paint::Bad, "Not ended: "),
    };
    let way = format!("{source}{}{target}", look.sign(" → ", " to "));
    let mut lines = vec![Line::default()];
    lines.extend(paragraph((head, paint), (&way, Paint::Bold), width, 2));
    for error in &report.errors {
        lines.extend(ending_error(error, width));
    }
    let decisions = |module: &str| {
        let all = report.decisions.iter().filter(|d| d.module == module);
        let texts = all.map(|d| clean_lines(&d.message, 1).join(" "));
        texts
            .flat_map(|text| indented(4, (&text, Paint::Dim), width))
            .collect::<Vec<_>>()
    };
    for digest in &report.plans {
        let decided = decisions(&digest.module);
        lines.extend(plan::plan(digest, decided, look, width));
    }
    let is_told = |module: &&ModuleResult| !report.plans.iter().any(|p| p.module == module.module);
    let modules: Vec<&ModuleResult> = report.modules.iter().filter(is_told).collect();
    let names = name_width(&modules);
    for module in modules {
        let mut module = module.clone();
        let told = |text: &String| told_above(text, &report.errors);
        if module.status == ModuleStatus::Failed && module.error.as_ref().is_some_and(told) {
            module.error = None;
        }
        lines.extend(module_result(&module, names, look, width));
        lines.extend(decisions(&module.module));
    }
    if !report.warnings.is_empty() {
        let noun = if errors {
            "warning or error"
        } else {
            "warning"
        };
        let n = report.warnings.len() as u64;
        let title = match (errors, n) {
            (true, 2..) => format!("{} warnings and errors:", number(n)),
            _ => format!("{}:", counted(n, noun)),
        };
        lines.push(Line::of(
            title,
            if errors { Paint::Bad } else { Paint::Warn },
        ));
        lines.extend(warnings(
            &report.warnings,
            hosts,
            width,
            report.log_file.is_some(),
        ));
    }
    let session = format!(
        "{} {state}, {}, status {}",
        clean(&report.session),
        span(report.elapsed),
        report.exit_code
    );
    lines.extend(paragraph(
        ("Session ", Paint::Dim),
        (&session, Paint::Plain),
        width,
        2,
    ));
    if report.plans.iter().any(|plan| !plan.is_whole) {
        let text = "each with -v, and in the log at level FULL";
        lines.extend(paragraph(
            ("Changes ", Paint::Dim),
            (text, Paint::Plain),
            width,
            2,
        ));
    }
    if let Some(log) = &report.log_file {
        // Not wrapped: a path is there to be copied.
        let mut line = Line::of("Log     ", Paint::Dim);
        let path = crate::escape::escape_bytes(log.as_os_str().as_encoded_bytes());
        line.push(path, Paint::Plain);
        lines.push(line);
    }
    lines
}

fn told_above(text: &str, errors: &[EndingError]) -> bool {
    let mut told = errors
        .iter()
        .flat_map(|error| error.causes.iter().chain([&error.message]));
    told.any(|above| above.contains(text))
}

/// What stopped a run: first thing in the closing block.
fn ending_error(error: &EndingError, width: Width) -> Vec<Line> {
    if error.is_list {
        let mut items: Vec<ErrorReport> = error.causes.iter().map(ErrorReport::new).collect();
        if let Some(last) = items.last_mut() {
            last.hint.clone_from(&error.hint);
        }
        return errors(&error.message, &items, width);
    }
    let report = ErrorReport {
        message: error.message.clone(),
        causes: error.causes.clone(),
        hint: error.hint.clone(),
    };
    self::error(&report, "error: ", 0, width)
}

/// Several errors that were found together, under a `title`.
pub(super) fn errors(title: &str, reports: &[ErrorReport], width: Width) -> Vec<Line> {
    let mut lines = error(&ErrorReport::new(title), "error: ", 0, width);
    for report in reports {
        lines.extend(error(report, "", 2, width));
    }
    lines
}

/// Warnings, the same ones counted, the most serious first.
fn warnings(warnings: &[LogEvent], hosts: Hosts<'_>, width: Width, logged: bool) -> Vec<Line> {
    let mut groups: Vec<(&LogEvent, u64)> = Vec::new();
    let mut seen: HashMap<(&str, Option<Host>, &str), usize> = HashMap::new();
    for warning in warnings {
        let key = (
            warning.module.as_str(),
            warning.host,
            warning.message.as_str(),
        );
        let at = *seen.entry(key).or_insert_with(|| {
            groups.push((warning, 0));
            groups.len() - 1
        });
        groups[at].1 += 1;
    }
    groups.sort_by_key(|(warning, _)| std::cmp::Reverse(warning.level));
    let mut lines = Vec::new();
    for (warning, times) in groups.iter().take(WARNINGS_SHOWN) {
        let text = clean_lines(&warning.message, 1).join(" ");
        let mut text = speaker(warning, hosts) + &text;
        if *times > 1 {
            text = format!("{text} ({} times)", number(*times));
        }
        let paint = match warning.level {
            LogLevel::Warning => Paint::Warn,
            _ => Paint::Bad,
        };
        lines.extend(paragraph(("- ", paint), (&text, Paint::Plain), width, 4));
    }
    let hidden = groups.len().saturating_sub(WARNINGS_SHOWN);
    if hidden > 0 {
        let place = if logged { " in the log" } else { "" };
        lines.push(Line::of(
            format!("  and {} more{place}", number(hidden as u64)),
            Paint::Dim,
        ));
    }
    lines
}

/// A question with its answers, without the line the answer is typed on.
pub(super) fn question(question: &Question, look: Look, width: Width) -> Vec<Line> {
    let mut lines = vec![Line::default()];
    for detail in &question.detail {
        for text in detail.split('\n') {
            let rows = wrapped(&clean(text), width, 2);
            lines.extend(rows.into_iter().map(|row| Line::of(row, Paint::Plain)));
        }
    }
    let text = clean(&question.text);
    let rows = wrapped(&text, width, 2).into_iter();
    lines.extend(rows.map(|row| Line::of(row, Paint::Bold)));
    for (at, choice) in question.choices.iter().enumerate() {
        let head = format!("  [{}] ", clean(&choice.key.to_string()));
        let default = if at == question.default {
            " (default)"
        } else {
            ""
        };
        let dash = look.sign("–", "-");
        let text = format!(
            "{} {dash} {}{default}",
            clean(&choice.label),
            clean(&choice.effect)
        );
        let indent = columns(&head);
        let room = width.map(|width| width.saturating_sub(indent).max(10));
        for (row, text) in wrapped(&text, room, 0).into_iter().enumerate() {
            let margin = if row == 0 {
                head.clone()
            } else {
                " ".repeat(indent)
            };
            let mut line = Line::of(margin, Paint::Accent);
            line.push(text, Paint::Plain);
            lines.push(line);
        }
    }
    if let Some(flag) = &question.flag {
        let text = format!("To answer beforehand: {}", clean(flag));
        let rows = wrapped(&text, width, 2).into_iter();
        lines.extend(rows.map(|row| Line::of(row, Paint::Dim)));
    }
    lines
}

/// The text before the cursor where an answer is typed.
pub(super) fn answer_prompt(question: &Question) -> String {
    let keys: Vec<String> = question
        .choices
        .iter()
        .map(|choice| clean(&choice.key.to_string()))
        .collect();
    match question.choices.get(question.default) {
        Some(default) => format!(
            "Answer {}, Enter for {}: ",
            keys.join("/"),
            clean(&default.label)
        ),
        None => format!("Answer {}: ", keys.join("/")),
    }
}

/// What a remedy begins with.
const HINT: &str = "hint: ";

/// An error with its causes and its hint, `margin` spaces from the left.
pub(super) fn error(report: &ErrorReport, title: &str, margin: usize, width: Width) -> Vec<Line> {
    let mut parts = vec![(title, Paint::Bad, &report.message)];
    parts.extend(report.causes.iter().map(|c| ("cause: ", Paint::Dim, c)));
    parts.extend(report.hint.iter().map(|h| (HINT, Paint::Accent, h)));
    let mut lines = Vec::new();
    for (n, (head, paint, text)) in parts.into_iter().enumerate() {
        let margin = if n > 0 && title.is_empty() {
            margin + 2
        } else {
            margin
        };
        let room = width.map(|width| width.saturating_sub(margin).max(10));
        let mut rows = Vec::new();
        let mut texts = text.lines().map(super::text::message);
        let first = texts.next().unwrap_or_default();
        rows.extend(paragraph((head, paint), (&first, Paint::Plain), room, 2));
        for text in texts {
            // One of several errors has its hint in its text.
            if let Some(hint) = text.strip_prefix(HINT) {
                let hint = paragraph((HINT, Paint::Accent), (hint, Paint::Plain), room, 2);
                rows.extend(hint.into_iter().map(|row| {
                    let mut line = Line::of("  ", Paint::Plain);
                    line.append(row);
                    line
                }));
                continue;
            }
            let text = wrapped(&text, room, 2).into_iter();
            rows.extend(text.map(|row| Line::of(format!("  {row}"), Paint::Plain)));
        }
        for row in rows {
            let mut line = Line::of(" ".repeat(margin), Paint::Plain);
            line.append(row);
            lines.push(line);
        }
    }
    lines
}
