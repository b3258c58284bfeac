//! Which part of the sources may know which other part.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// The floors, from the top. A module imports only from floors below its own; modules of one floor
/// do not know each other.
pub const FLOORS: &[&[&str]] = &[
    &["main", "fuzz"],
    &["cli"],
    &["run"],
    &["modules"],
    &["module"],
    &["mirror"],
    &["agent"],
    &["record"],
    &["snapshot"],
    &["host"],
    &["ui"],
    &["prompt", "config", "signals", "jsonline"],
    &["event", "sys"],
    &["change"],
    &["exit", "interrupt", "escape", "figures", "age", "buffers"],
];

/// Who may use what only one part shall know: a name in paths, and where it may stand.
const HOMES: &[(&str, &[&str])] = &[
    ("crate::ui", &["src/cli/"]),
    ("ssh2", &["src/host/ssh/"]),
    ("ssh2_config", &["src/host/ssh/"]),
    ("console", &["src/ui/"]),
    ("clap", &["src/cli/"]),
    ("clap_complete", &["src/cli/completions.rs"]),
    ("saphyr_parser", &["src/config/yaml.rs"]),
    ("similar", &["src/run/reconcile.rs"]),
    ("strsim", &["src/config/"]),
    ("fern", &["src/record/log/"]),
    ("signal_hook", &["src/signals.rs", "src/agent/server.rs"]),
    ("zstd", &["src/mirror/spool.rs", "src/mirror/packing.rs"]),
    ("fastcdc", &["src/mirror/delta/cut.rs"]),
    ("libc", &["src/sys/"]),
    ("crc32c", &["src/sys/search.rs"]),
];

/// A source file: its path in the repository and its text without comment lines.
struct Source {
    path: String,
    code: String,
}

/// Every file of `src/`.
fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    let mut directories = vec![root.join("src")];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(&directory).unwrap() {
            let path: PathBuf = entry.unwrap().path();
            if path.is_dir() {
                directories.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                let name = path.strip_prefix(root).unwrap().to_str().unwrap();
                found.push(Source {
                    path: name.to_owned(),
                    code: without_comments(&fs::read_to_string(&path).unwrap()),
                });
            }
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    assert!(found.len() > 100, "the sources are here");
    found
}

fn without_comments(text: &str) -> String {
    let lines = text.lines().filter(|l| !l.trim_start().starts_with("//"));
    let code = lines.map(|l| l.split(" // ").next().unwrap_or_default());
    code.collect::<Vec<_>>().join("\n")
}

/// `src/ui/live.rs` is `["ui", "live"]`, `src/ui/mod.rs` is `["ui"]`; `src/ui/live_tests.rs` is the
/// module `tests` of `live`.
fn module_path(path: &str) -> Vec<&str> {
    let inner = path.trim_start_matches("src/").trim_end_matches(".rs");
    let mut names: Vec<&str> = inner.split('/').filter(|name| *name != "mod").collect();
    if let Some(of) = names.last().and_then(|last| last.strip_suffix("_tests")) {
        names.pop();
        names.extend([of, "tests"]);
    }
    names
}

/// Names that follow `prefix` in paths: `a` of `prefix::a::b`, `a` and `b` of `prefix::{a::x, b}`.
fn after<'a>(code: &'a str, prefix: &str) -> BTreeSet<&'a str> {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let word = |text: &'a str| &text[..text.find(|c| !is_word(c)).unwrap_or(text.len())];
    let mut names = BTreeSet::new();
    for (at, _) in code.match_indices(prefix) {
        if code[..at].ends_with(|c| is_word(c) || c == ':') {
            continue;
        }
        let rest = &code[at + prefix.len()..];
        let Some(list) = rest.strip_prefix('{') else {
            names.insert(word(rest));
            continue;
        };
        let (mut depth, mut begins) = (1, true);
        for (at, c) in list.char_indices() {
            match c {
                '{' => depth += 1,
                '}' => depth -= 1,
                ',' => begins |= depth == 1,
                c if is_word(c) && begins => {
                    names.insert(word(&list[at..]));
                    begins = false;
                }
                _ => {}
            }
            if depth == 0 {
                break;
            }
        }
    }
    names.remove("");
    names
}

/// The top modules that a file uses, other than its own.
fn uses(source: &Source) -> BTreeSet<&str> {
    let own = module_path(&source.path);
    let mut names = after(&source.code, "crate::");
    names.append(&mut after(&source.code, "pc_switcher::"));
    // As many steps up as the file is deep lead to the root as well.
    let up = "super::".repeat(own.len());
    let known = |name: &&str| FLOORS.iter().any(|floor| floor.contains(name));
    names.extend(after(&source.code, &up).into_iter().filter(known));
    names.remove(own[0]);
    names
}

fn floor_of(name: &str) -> usize {
    let found = FLOORS.iter().position(|floor| floor.contains(&name));
    found.unwrap_or_else(|| panic!("{name} is on no floor; give it one"))
}

/// What `source` imports although it must not.
fn upward(source: &Source) -> Vec<String> {
    let own = module_path(&source.path)[0];
    if own == "lib" {
        return Vec::new();
    }
    let bad = uses(source).into_iter();
    bad.filter(|name| floor_of(name) <= floor_of(own))
        .map(|name| format!("{}: {name}", source.path))
        .collect()
}

#[test]
fn each_floor_imports_only_what_is_below() {
    let bad: Vec<String> = sources().iter().flat_map(upward).collect();
    assert!(bad.is_empty(), "{bad:#?}");
}

#[test]
fn every_module_is_on_one_floor() {
    let files = sources();
    let lib = files.iter().find(|s| s.path == "src/lib.rs").unwrap();
    let declared = lib.code.lines().filter_map(|l| l.strip_prefix("pub mod "));
    let mut declared: Vec<&str> = declared.map(|l| l.trim_end_matches(';')).collect();
    declared.push("main");
    declared.sort_unstable();
    let mut listed: Vec<&str> = FLOORS.concat();
    listed.sort_unstable();
    assert_eq!(declared, listed);
}

#[test]
fn an_upward_import_is_found_however_it_is_written() {
    let found = |path: &str, code: &str| {
        let (path, code) = (path.to_owned(), without_comments(code));
        upward(&Source { path, code })
    };
    assert_eq!(
        found("src/agent/server.rs", "use crate::mirror::scan;"),
        ["src/agent/server.rs: mirror"]
    );
    assert_eq!(
        found(
            "src/ui/mod.rs",
            "use crate::{event::{Event, Host}, run::sync};"
        ),
        ["src/ui/mod.rs: run"]
    );
    assert_eq!(
        found("src/host/local.rs", "fn f() { super::super::agent::f() }"),
        ["src/host/local.rs: agent"]
    );
    assert_eq!(found("src/exit.rs", "use crate::escape;").len(), 1);
    let fine = "use crate::host::ssh; // crate::run\n    // use crate::cli;\nuse super::run;";
    assert_eq!(found("src/agent/deploy.rs", fine), [""; 0]);
}

#[test]
fn what_one_part_knows_stays_there() {
    let mut bad = Vec::new();
    for source in sources() {
        for (name, homes) in HOMES {
            let own = name.strip_prefix("crate::");
            if own == Some(module_path(&source.path)[0]) {
                continue;
            }
            let is_used = match own {
                Some(own) => after(&source.code, "crate::").contains(own),
                None => !after(&source.code, &format!("{name}::")).is_empty(),
            };
            if is_used && !homes.iter().any(|home| source.path.starts_with(home)) {
                bad.push(format!("{}: {name}", source.path));
            }
        }
    }
    assert!(bad.is_empty(), "{bad:#?}");
}

#[test]
fn unsafe_code_is_in_sys_alone() {
    let forms = [
        "unsafe {",
        "unsafe fn",
        "unsafe impl",
        "unsafe extern",
        "unsafe_code",
    ];
    let files = sources();
    let (sys, others): (Vec<_>, _) = (files.iter()).partition(|s| s.path.starts_with("src/sys/"));
    let has = |s: &&&Source| forms.iter().any(|form| s.code.contains(form));
    let bad: Vec<&str> = others.iter().filter(has).map(|s| &*s.path).collect();
    assert!(bad.is_empty(), "{bad:#?}");
    assert!(sys.iter().any(|s| has(&s)), "the forms are those in use");
}

#[test]
fn children_are_made_in_one_place() {
    let makes = |s: &Source| {
        s.code.contains("Command::new") || s.code.contains("clippy::disallowed_methods")
    };
    let files = sources();
    let places: Vec<&str> = files
        .iter()
        .filter(|s| makes(s))
        .map(|s| &*s.path)
        .collect();
    assert_eq!(places, ["src/sys/command.rs"]);
}
