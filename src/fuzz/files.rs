//! Files that people write, or that lay on a disk: filters, configurations, what machines remember,
//! logs.

use std::path::Path;

use crate::cli;
use crate::config::{self, KnownModule};
use crate::escape::is_unsafe;
use crate::mirror::filter::{Filter, FilterState, Verdict};
use crate::modules::packages::marks as package_marks;
use crate::modules::user_data;
use crate::record::history::Memories;
use crate::record::log::reader::Entry as LogEntry;
use crate::record::sessions::{find, indispensable, undone};
use crate::record::state::{StateError, parse_history, parse_incomplete};
use crate::record::{MachineName, MachineState, anchor};

/// A filter's text up to the first NUL; then paths, each up to the next.
pub(super) fn filter(bytes: &[u8]) -> bool {
    let mut parts = bytes.split(|byte| *byte == 0);
    let text = parts.next().unwrap_or_default();
    let filter = match Filter::parse(text, "fuzz.filter") {
        Ok(filter) => filter,
        Err(errors) => {
            assert!(!errors.is_empty());
            for error in errors {
                assert_printable(&error.to_string());
            }
            return false;
        }
    };
    for rule in 0..filter.rule_count() {
        assert_printable(&filter.rule_text(rule));
    }
    let _ = filter.to_rsync_rules();
    // What the rules mean does not hang on the text around them.
    let crlf = [text, b"\n\n# more\n"].concat();
    if let Ok(same) = Filter::parse(&crlf, "fuzz.filter") {
        assert_eq!(filter.digest(), same.digest());
    }
    let moved = filter.moved_below(b"some/where");
    for path in parts.take(50) {
        let names: Vec<&[u8]> = path.split(|byte| *byte == b'/').collect();
        if names.iter().any(|name| name.is_empty()) || names.len() > 40 {
            continue;
        }
        let own = FilterState::root(&filter);
        let below = FilterState::root(&moved).enter(b"some").enter(b"where");
        let (own, below) = (verdicts(own, &names), verdicts(below, &names));
        // The staging directory is only special at the top.
        if !names[0].starts_with(b".pc-switcher") {
            assert_eq!(own, below, "{:?}", path.escape_ascii().to_string());
        }
    }
    if let Ok(state) = FilterState::root(&filter).with_directory_rules(text, "own") {
        let _ = state.verdict(b"name", true);
    }
    true
}

/// What becomes of each step of a path, as a directory and as something else.
fn verdicts(mut state: FilterState, names: &[&[u8]]) -> Vec<(Verdict, Verdict)> {
    let mut verdicts = Vec::new();
    for name in names {
        verdicts.push((state.verdict(name, true), state.verdict(name, false)));
        state = state.enter(name);
    }
    verdicts
}

/// A configuration: understood, or refused with words that can be printed.
pub(super) fn config(bytes: &[u8]) -> bool {
    let module = |name| KnownModule {
        name,
        required: matches!(name, "btrfs_snapshots" | "disk_monitor"),
    };
    let modules = [
        "btrfs_snapshots",
        "disk_monitor",
        "packages",
        "user_data",
        "dummy_success",
        "dummy_fail",
    ];
    // Whoever calls this is in the repository; the filters it may name are there.
    let path = Path::new("tests/samples/config/valid/config.yaml");
    match config::parse(path, bytes, &modules.map(module)) {
        Ok(_) => true,
        Err(problems) => {
            assert!(!problems.is_empty());
            for problem in problems {
                // The hint has a line of its own.
                let text = problem.to_string();
                assert_printable(&text.replacen("\n  hint: ", "", 1));
            }
            false
        }
    }
}

/// What a machine remembers, perhaps another one that means no good: understood, or named as damaged;
/// and whatever it says, everything that is made of it can be made.
pub(super) fn history(bytes: &[u8]) -> bool {
    let path = Path::new("/var/lib/pc-switcher/history.json");
    let incomplete = match parse_incomplete(path, bytes) {
        Ok(incomplete) => Some(incomplete),
        Err(error) => {
            check_damage(&error);
            None
        }
    };
    let history = match parse_history(path, bytes) {
        Ok(history) => history,
        Err(error) => {
            check_damage(&error);
            Vec::new()
        }
    };
    let state = MachineState {
        history,
        incomplete,
    };
    let own = MachineState::default();
    let name = |hostname: &str| MachineName {
        hostname: hostname.to_owned(),
        machine_id: hostname.to_owned(),
    };
    let (atlas, vega) = (name("atlas"), name("vega"));
    let pair = |source_state, target_state| Memories {
        source: &atlas,
        target: &vega,
        source_state,
        target_state,
    };
    for memories in [pair(&own, &state), pair(&state, &state), pair(&state, &own)] {
        for finding in memories.findings() {
            let _ = finding.explain();
        }
        let _ = memories.last_with_module(user_data::NAME);
        if let Ok(standing) = memories.anchor(user_data::NAME) {
            assert!(standing.anchor.fits());
        }
    }
    let _ = (undone(&state.history), anchor::held(&state));
    let snapshots = state.history.first().map(|e| e.target_snapshots.clone());
    let _ = indispensable(&state, &snapshots.unwrap_or_default());
    let sessions = || state.history.iter().map(|entry| entry.session.as_str());
    let _ = find(sessions(), sessions().next().unwrap_or_default());
    for text in cli::history::shown(&state) {
        assert!(!text.contains(|c| c != '\n' && is_unsafe(c)), "{text:?}");
    }
    !state.history.is_empty() || state.incomplete.is_some()
}

fn check_damage(error: &StateError) {
    assert!(
        error
            .to_string()
            .contains("/var/lib/pc-switcher/history.json")
    );
    assert!(error.hint().is_some());
}

/// What belongs to one machine only.
pub(super) fn marks(bytes: &[u8]) -> bool {
    match package_marks::parse("/marks.json", bytes) {
        Ok(_) => true,
        Err(why) => {
            assert!(why.0.contains("/marks.json"));
            assert_printable(&why.0);
            false
        }
    }
}

/// A line of a log file, perhaps damaged.
pub(super) fn log(bytes: &[u8]) -> bool {
    let lines = bytes.split(|byte| *byte == b'\n');
    let understood = lines.filter(|line| match LogEntry::parse(line) {
        LogEntry::Line(line) => line.is_closing() || !line.module.is_empty(),
        LogEntry::Damaged(_) => false,
    });
    understood.count() > 0
}

fn assert_printable(text: &str) {
    assert!(!text.contains(is_unsafe), "{text:?}");
}
