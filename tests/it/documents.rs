//! What the documents say is so: the map, command lines, flags, keys, statuses.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use clap::{CommandFactory as _, Parser as _};
use pc_switcher::cli::args::Cli;
use pc_switcher::cli::manual;
use pc_switcher::exit::ExitStatus;

use super::layers::FLOORS;

const MAP_BEGINS: &str = "<!-- map begins -->\n";
const MAP_ENDS: &str = "<!-- map ends -->";

/// What people read first.
const DOCUMENTS: [&str; 7] = [
    "README.md",
    "ARCHITECTURE.md",
    "BENCHMARKS.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "RELIABILITY.md",
    "SECURITY.md",
];

fn read(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// Rust files below `directory`, each folder after its own files.
fn files(directory: &str) -> Vec<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    let mut below = Vec::new();
    for entry in fs::read_dir(root.join(directory)).unwrap() {
        let entry = entry.unwrap();
        let name = format!("{directory}/{}", entry.file_name().to_str().unwrap());
        if entry.file_type().unwrap().is_dir() {
            below.push(name);
        } else if Path::new(&name).extension().is_some_and(|e| e == "rs") {
            found.push(name);
        }
    }
    found.sort_by_key(|name| (!name.ends_with("/mod.rs"), name.clone()));
    below.sort();
    found.extend(below.iter().flat_map(|directory| files(directory)));
    found
}

/// What a file says about itself first: a sentence, or two where the first is a few words.
fn first_words(path: &str) -> String {
    let text = read(path);
    let lines = text.lines().map_while(|line| line.strip_prefix("//!"));
    let words: Vec<&str> = lines
        .take_while(|line| !line.trim().is_empty())
        .flat_map(str::split_whitespace)
        .collect();
    let paragraph = words.join(" ");
    let mut ends = paragraph.match_indices(". ").map(|(at, _)| at);
    let end = ends.find(|at| *at >= 35).unwrap_or(paragraph.len());
    let sentence = paragraph[..end].trim_end_matches('.');
    assert!(!sentence.is_empty(), "{path} begins without `//!`");
    sentence.replace("[`", "`").replace("`]", "`")
}

/// The map: floors from the top, then the tests.
fn map() -> String {
    let mut all = files("src");
    let floor = |path: &String| {
        let name = path.trim_start_matches("src/").trim_end_matches(".rs");
        let name = name.split('/').next().unwrap();
        let mut names = FLOORS.iter().flat_map(|floor| floor.iter());
        names.position(|known| *known == name)
    };
    // A folder beside a file of its name (`filter.rs`, `filter/`) follows that file.
    all.sort_by_key(floor);
    all.extend(files("tests/it"));
    all.extend(files("tests/lab"));
    all.extend(files("examples"));
    let lines = all
        .iter()
        .map(|path| format!("- `{path}` {}\n", first_words(path)));
    lines.collect()
}

#[test]
fn the_map_in_architecture_md_is_the_tree() {
    let text = read("ARCHITECTURE.md");
    let (before, rest) = text.split_once(MAP_BEGINS).expect("the map begins");
    let (written, after) = rest.split_once(MAP_ENDS).expect("the map ends");
    let map = map();
    if std::env::var_os("UPDATE_DOCS").is_some() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("ARCHITECTURE.md");
        let text = format!("{before}{MAP_BEGINS}{map}{MAP_ENDS}{after}");
        fs::write(path, text).unwrap();
        return;
    }
    let (written, map): (BTreeSet<&str>, BTreeSet<&str>) =
        (written.lines().collect(), map.lines().collect());
    let missing: Vec<_> = map.difference(&written).collect();
    let stale: Vec<_> = written.difference(&map).collect();
    assert!(
        missing.is_empty() && stale.is_empty(),
        "write it anew with UPDATE_DOCS=1; missing {missing:#?}, stale {stale:#?}"
    );
}

#[test]
fn the_pages_in_man_are_those_of_the_program() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("man");
    let expected = manual::pages();
    if std::env::var_os("UPDATE_DOCS").is_some() {
        let _ = fs::remove_dir_all(&directory);
        fs::create_dir_all(&directory).unwrap();
        for page in &expected {
            fs::write(directory.join(&page.file_name), &page.text).unwrap();
        }
        return;
    }
    let listed = fs::read_dir(&directory).expect("write it with UPDATE_DOCS=1");
    let listed: BTreeSet<String> = listed
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    let names: BTreeSet<String> = expected.iter().map(|p| p.file_name.clone()).collect();
    assert_eq!(listed, names, "write them anew with UPDATE_DOCS=1");
    for page in expected {
        let written = fs::read_to_string(directory.join(&page.file_name)).unwrap();
        assert!(
            written == page.text,
            "man/{} is not what the program says: write it anew with UPDATE_DOCS=1",
            page.file_name
        );
    }
}

#[test]
fn files_named_in_architecture_md_exist() {
    let text = read("ARCHITECTURE.md");
    let (text, _) = text.split_once(MAP_BEGINS).expect("the map begins");
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let named = text.split('`').skip(1).step_by(2);
    let files = named.filter(|name| {
        Path::new(name)
            .extension()
            .is_some_and(|e| e == "rs" || e == "md")
            && !name.contains(' ')
    });
    let mut count = 0;
    for name in files {
        let found = root.join(name).exists() || root.join("src").join(name).exists();
        assert!(found, "{name}");
        count += 1;
    }
    assert!(count > 10);
}

/// Every command line in a document: in blocks and between backticks.
fn command_lines(text: &str) -> Vec<String> {
    let mut lines = Vec::new();
    let mut in_block = false;
    for line in text.lines() {
        if line.starts_with("```") {
            in_block = !in_block;
        } else if in_block {
            let line = line.trim_start_matches("$ ");
            let line = line.split(" #").next().unwrap_or_default().trim();
            lines.extend(line.starts_with("pc-switcher ").then(|| line.to_owned()));
        } else {
            let spans = line.split('`').skip(1).step_by(2);
            let spans = spans.filter(|span| span.starts_with("pc-switcher "));
            lines.extend(spans.map(str::to_owned));
        }
    }
    lines
}

#[test]
fn every_command_line_in_the_documents_is_understood() {
    use clap::error::ErrorKind::{DisplayHelp, DisplayVersion};
    let readme = command_lines(&read("README.md"));
    assert!(readme.len() >= 8, "{readme:#?}");
    let others = DOCUMENTS[1..].iter().map(|document| read(document));
    let others = others.flat_map(|text| command_lines(&text));
    for line in readme.into_iter().chain(others) {
        match Cli::try_parse_from(line.split_whitespace()) {
            Ok(_) => {}
            Err(error) if matches!(error.kind(), DisplayHelp | DisplayVersion) => {}
            Err(error) => panic!("{line}: {error}"),
        }
    }
}

/// Flags named in a text: what follows two hyphens.
fn flags(text: &str) -> BTreeSet<&str> {
    let is_flag = |c: char| c.is_ascii_lowercase() || c == '-';
    let mut named: BTreeSet<&str> = (text.match_indices("--"))
        .filter(|(at, _)| !text[..*at].ends_with(|c: char| c.is_alphanumeric() || c == '-'))
        .map(|(at, _)| {
            let rest = &text[at + 2..];
            &rest[..rest.find(|c| !is_flag(c)).unwrap_or(rest.len())]
        })
        .collect();
    named.retain(|flag| flag.starts_with(|c: char| c.is_ascii_lowercase()));
    named
}

// That the manual has every flag is a test of `manual`, that the example has every key one of `config`.
#[test]
fn the_readme_names_no_flag_that_is_not_there() {
    let cli = Cli::command();
    let mut known = BTreeSet::from(["help", "version"]);
    let mut commands = vec![&cli];
    while let Some(command) = commands.pop() {
        known.extend(command.get_arguments().filter_map(|arg| arg.get_long()));
        commands.extend(command.get_subcommands());
    }
    let readme = read("README.md");
    let named = flags(&readme);
    let unknown: Vec<_> = named.difference(&known).collect();
    assert!(unknown.is_empty(), "there is no {unknown:?}");
    let gates = known.iter().filter(|flag| flag.starts_with("allow-"));
    let missing: Vec<_> = gates.filter(|gate| !named.contains(*gate)).collect();
    assert!(missing.is_empty(), "gates are explained: {missing:?}");
    assert!(named.len() >= 10, "{named:?}");
}

#[test]
fn files_that_documents_refer_to_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut count = 0;
    for document in DOCUMENTS {
        let text = read(document);
        for (at, _) in text.match_indices("](") {
            let link = &text[at + 2..];
            let link = &link[..link.find(')').expect("a link ends")];
            assert!(root.join(link).exists(), "{document}: {link}");
            count += 1;
        }
    }
    assert!(count > 10);
}

#[test]
fn the_readme_has_every_exit_status() {
    let readme = read("README.md");
    let (_, table) = readme
        .split_once("| status | meaning |\n|---|---|\n")
        .expect("the table");
    let rows: Vec<&str> = table.lines().take_while(|l| l.starts_with('|')).collect();
    let expected = ExitStatus::ALL.map(|(status, text)| format!("| {} | {text} |", status.code()));
    assert_eq!(rows, expected);
}

#[test]
fn make_has_every_target_that_the_documents_name() {
    let makefile = read("Makefile");
    let text = DOCUMENTS.map(read).join("\n");
    let mut count = 0;
    for (at, found) in text.match_indices("make ") {
        let before = &text[..at];
        if !(before.ends_with('`') || before.ends_with('\n')) {
            continue;
        }
        let rest = &text[at + found.len()..];
        let end = rest.find(|c: char| !c.is_ascii_lowercase() && c != '-');
        let target = &rest[..end.unwrap_or(rest.len())];
        assert!(makefile.contains(&format!("\n{target}:")), "{target}");
        count += 1;
    }
    assert!(count >= 3);
}

#[test]
fn every_target_that_compiles_installs_what_it_needs_first() {
    let makefile = read("Makefile");
    let mut count = 0;
    // Of each target, its name and the lines of what it does.
    for rule in makefile.split("\n\n").filter(|r| r.contains("\n\t")) {
        let Some(compiles) = rule.find("\t$(CARGO)") else {
            continue;
        };
        let installs = rule.find("need.sh");
        assert!(installs.is_some_and(|at| at < compiles), "{rule}");
        count += 1;
    }
    assert!(count >= 2);
}

#[test]
fn what_is_missing_is_named_with_its_package() {
    let nothing = tempfile::tempdir().unwrap();
    for tool in ["bash", "cat", "cut", "head", "sort"] {
        symlink(Path::new("/usr/bin").join(tool), nothing.path().join(tool)).unwrap();
    }
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/lab/need.sh");
    let said = Command::new(script)
        .args(["--check", "lint"])
        .env_clear()
        .env("PATH", nothing.path())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&said.stdout);
    assert_eq!(said.status.code(), Some(1), "{said:?}");
    assert_eq!(
        text,
        "missing: rustfmt-web (formatting), rust-web-clippy (lints)\n"
    );
}
