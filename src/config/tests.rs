//! The samples in `tests/samples/config`, the example, and how a file is found and read.

use std::fmt::Write as _;
use std::fs;

use super::*;

const MODULES: &[KnownModule<'_>] = &[
    KnownModule {
        name: "btrfs_snapshots",
        required: true,
    },
    KnownModule {
        name: "disk_monitor",
        required: true,
    },
    KnownModule {
        name: "packages",
        required: false,
    },
    KnownModule {
        name: "user_data",
        required: false,
    },
    KnownModule {
        name: "dummy_success",
        required: false,
    },
    KnownModule {
        name: "dummy_fail",
        required: false,
    },
];

/// Every `.yaml` below a directory of samples.
fn samples(kind: &str) -> Vec<PathBuf> {
    fn collect(directory: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(directory).expect("samples") {
            let path = entry.expect("entry").path();
            if path.is_dir() {
                collect(&path, found);
            } else if path
                .extension()
                .is_some_and(|extension| extension == "yaml")
            {
                found.push(path);
            }
        }
    }
    let mut found = Vec::new();
    let base = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/samples/config");
    collect(&base.join(kind), &mut found);
    found.sort();
    found
}

fn sample(name: &str) -> Config {
    let base = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/samples/config/valid");
    load(&base.join(name), MODULES).expect("valid sample")
}

fn messages(problems: &[ConfigProblem]) -> String {
    problems.iter().fold(String::new(), |mut text, problem| {
        writeln!(text, "{problem}").expect("a String takes every write");
        text
    })
}

/// What `text` is called wrong for, with the place of the file left out.
fn problems_of(text: &[u8]) -> String {
    let problems = parse(Path::new("config.yaml"), text, MODULES).expect_err("invalid");
    messages(&problems)
}

#[test]
fn every_valid_sample_is_accepted() {
    let samples = samples("valid");
    assert!(samples.len() >= 6);
    for path in samples {
        if let Err(problems) = load(&path, MODULES) {
            panic!("{}", messages(&problems));
        }
    }
}

/// `UPDATE_EXPECTED=1` writes the files anew, to be read with care.
#[test]
fn every_invalid_sample_gives_exactly_the_expected_problems() {
    let samples = samples("invalid");
    assert!(samples.len() >= 30);
    for path in samples {
        let problems = load(&path, MODULES).expect_err("invalid sample");
        let directory = format!("{}/", path.parent().expect("in a directory").display());
        let found = messages(&problems).replace(&directory, "");
        assert!(
            !found.contains(|c: char| c.is_control() && c != '\n'),
            "{found:?}"
        );
        let expected = path.with_extension("expected");
        if std::env::var_os("UPDATE_EXPECTED").is_some() {
            fs::write(&expected, &found).expect("writable samples");
        }
        let expected = fs::read_to_string(&expected).unwrap_or_default();
        assert_eq!(found, expected, "{}", path.display());
    }
}

#[test]
fn values_of_every_kind_are_read() {
    let config = sample("everything.yaml");
    let directory = config.path.parent().expect("in a directory").to_owned();
    let folder = |path: &str, filter: Option<&str>| Folder {
        path: path.to_owned(),
        filter: filter.map(|name| directory.join(name)),
    };
    let expected = Config {
        path: config.path.clone(),
        log_file_level: LogLevel::Debug,
        log_cli_level: LogLevel::Warning,
        bandwidth_limit: Some(2_500_000),
        transfers: Some(3),
        sync_modules: vec![
            ("dummy_fail".to_owned(), false),
            ("user_data".to_owned(), true),
            ("dummy_success".to_owned(), true),
        ],
        disk: DiskConfig {
            preflight_minimum: Space::Bytes(50 << 30, "50GiB".to_owned()),
            runtime_minimum: Space::Bytes(20_000_000_000, "20GB".to_owned()),
            warning_threshold: Space::Percent(5),
            check_interval: 300,
        },
        btrfs_snapshots: SnapshotConfig {
            subvolumes: ["root", "home", "@var-log"].map(str::to_owned).to_vec(),
            snapshot_dir: "/mnt/snapshots".to_owned(),
            keep_recent: 1,
            max_age_days: Some(30),
        },
        packages: PackagesConfig::default(),
        user_data: UserDataConfig {
            folders: vec![
                folder("/home", Some("home.filter")),
                folder("/srv/data", None),
                folder("/srv/data2", None),
            ],
            full_scan_every: Some(jiff::SignedDuration::from_hours(24 * 14)),
            mass_delete_percent: 100,
            mass_delete_count: 0,
        },
        dummy_success: DummySuccessConfig {
            source_duration: 0,
            target_duration: 1,
        },
        dummy_fail: DummyFailConfig {
            source_duration: 2,
            target_duration: 3,
            fail_at: 4,
        },
    };
    assert_eq!(config, expected);
}

#[test]
fn what_is_left_out_has_its_default() {
    for name in ["mirror.yaml", "sections-without-content.yaml"] {
        let config = sample(name);
        let directory = config.path.parent().expect("in a directory");
        let expected = Config {
            path: config.path.clone(),
            log_file_level: LogLevel::Full,
            log_cli_level: LogLevel::Info,
            bandwidth_limit: None,
            transfers: None,
            sync_modules: vec![("user_data".to_owned(), true)],
            disk: DiskConfig::default(),
            btrfs_snapshots: SnapshotConfig::default(),
            packages: PackagesConfig::default(),
            user_data: UserDataConfig::in_directory(directory),
            dummy_success: DummySuccessConfig::default(),
            dummy_fail: DummyFailConfig::default(),
        };
        assert_eq!(config, expected, "{name}");
    }
}

#[test]
fn other_names_and_aliases_mean_the_same() {
    let config = sample("other-names.yaml");
    assert_eq!(config.sync_modules, [("dummy_success".to_owned(), true)]);
    assert_eq!(
        config.disk.preflight_minimum,
        Space::Bytes(500 << 20, "500MiB".to_owned())
    );
    assert_eq!(
        config.disk.runtime_minimum,
        Space::Bytes(400_000_000, "400MB".to_owned())
    );
    let config = sample("aliases-and-byte-order-mark.yaml");
    assert_eq!(config.dummy_success.target_duration, 7);
}

/// The example beside its filter files, as `init` writes them.
fn example_directory() -> tempfile::TempDir {
    let directory = tempfile::tempdir().expect("temporary directory");
    for name in ["home.filter", "root.filter"] {
        fs::write(directory.path().join(name), "").expect("filter");
    }
    fs::write(directory.path().join(FILE_NAME), EXAMPLE).expect("example");
    directory
}

#[test]
fn the_example_shows_every_default() {
    let directory = example_directory();
    let example = load(&directory.path().join(FILE_NAME), MODULES).expect("valid example");
    let modules =
        b"sync_modules: {packages: true, user_data: true, dummy_success: false, dummy_fail: false}";
    let defaults = parse(&directory.path().join(FILE_NAME), modules, MODULES).expect("valid");
    assert_eq!(example, defaults);
}

#[test]
fn the_example_names_every_key() {
    for (section, keys) in [
        ("", keys::TOP),
        ("disk", keys::DISK),
        ("btrfs_snapshots", keys::SNAPSHOTS),
        ("user_data", keys::USER_DATA),
        ("dummy_success", keys::DUMMY_SUCCESS),
        ("dummy_fail", keys::DUMMY_FAIL),
    ] {
        let lines: Vec<&str> = if section.is_empty() {
            EXAMPLE
                .lines()
                .filter(|line| !line.starts_with(' '))
                .collect()
        } else {
            let at = EXAMPLE.find(&format!("\n{section}:")).expect("section") + 1;
            let lines = EXAMPLE[at..].lines().skip(1);
            lines.map_while(|line| line.strip_prefix("  ")).collect()
        };
        for (name, canonical) in keys {
            if name == canonical {
                let key = format!("{name}:");
                assert!(
                    lines.iter().any(|line| line.starts_with(&key)),
                    "{section}.{name}"
                );
            } else {
                assert!(EXAMPLE.contains(&format!("\"{name}\"")), "{section}.{name}");
            }
        }
    }
    for (name, _) in keys::FOLDER {
        assert!(EXAMPLE.contains(&format!("{name}: ")), "{name}");
    }
    for line in EXAMPLE.lines() {
        assert!(line.chars().count() <= 80, "{line}");
    }
}

#[test]
fn files_that_cannot_be_read_say_so() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let problem = |path: &Path| {
        let problems = load(path, MODULES).expect_err("unreadable");
        messages(&problems).replace(&format!("{}/", directory.path().display()), "")
    };
    let path = directory.path().join("config.yaml");
    let hint = "config.yaml: no such file\n  hint: 'pc-switcher --config FILE init' writes one \
                with every key explained\n";
    assert_eq!(problem(&path), hint);
    fs::create_dir(&path).expect("directory");
    assert_eq!(
        problem(&path),
        "config.yaml: not a file\n  hint: name a file\n"
    );
    let large = directory.path().join("large.yaml");
    fs::write(&large, vec![b'#'; MAX_BYTES + 1]).expect("file");
    assert_eq!(problem(&large), "large.yaml: larger than 1024 KiB\n");
    // A pipe nobody writes to must not be waited for.
    let pipe = directory.path().join("pipe");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &pipe,
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RUSR,
        0,
    )
    .expect("pipe");
    assert_eq!(problem(&pipe), "pipe: not a file\n  hint: name a file\n");
}

#[test]
fn problems_are_bounded_and_come_in_the_order_of_the_file() {
    let mut text = String::from("sync_modules: {dummy_fail: true}\n");
    for index in 0..2000 {
        writeln!(text, "key{index}: 1").expect("a String takes every write");
    }
    let problems = parse(Path::new("c"), text.as_bytes(), MODULES).expect_err("invalid");
    assert_eq!(problems.len(), 100);
    assert_eq!((problems[0].line, problems[99].line), (Some(2), Some(101)));
}

#[test]
fn damaged_text_never_panics() {
    let mut seed = 1_u64;
    let mut random = |limit: usize| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        usize::try_from(seed >> 33).expect("31 bits") % limit
    };
    let pieces = [
        "",
        "\t",
        "\n",
        ":",
        "- ",
        "&a",
        "*a",
        "[",
        "]",
        "{",
        "}",
        "\"",
        "'",
        "!",
        "%",
        "\0",
        "é",
        "~",
        "|\n",
        ">",
        "? ",
        "#",
        "---\n",
        "true",
        "99999999999999999999",
        "\u{feff}",
        "\u{85}",
    ];
    for _ in 0..3000 {
        let mut text = EXAMPLE.as_bytes().to_vec();
        for _ in 0..=random(4) {
            let (from, length) = (random(text.len()), random(12));
            let to = (from + length).min(text.len());
            let piece = pieces[random(pieces.len())].as_bytes().to_vec();
            text.splice(from..to, piece);
        }
        if let Err(problems) = parse(Path::new("c"), &text, MODULES) {
            assert!(!problems.is_empty());
            let shown = messages(&problems);
            assert!(
                !shown.contains(|c: char| c.is_control() && c != '\n'),
                "{shown:?}"
            );
        }
    }
}

#[test]
fn xdg_config_home_is_used_if_absolute() {
    let from = |xdg: Option<&str>, home: Option<&str>| {
        directory_from(xdg.map(Into::into), home.map(Into::into))
    };
    assert_eq!(from(Some("/x"), Some("/h")), Some("/x/pc-switcher".into()));
    assert_eq!(
        from(Some("x"), Some("/h")),
        Some("/h/.config/pc-switcher".into())
    );
    assert_eq!(
        from(Some(""), Some("/h")),
        Some("/h/.config/pc-switcher".into())
    );
    assert_eq!(
        from(None, Some("/h")),
        Some("/h/.config/pc-switcher".into())
    );
    assert_eq!(from(None, None), None);
}

#[test]
fn a_key_beside_a_nested_mistake_is_still_checked() {
    let found = problems_of(b"sync_modules: {x: 1}\ndisk: {check_interval: no, y: 2}\n");
    assert_eq!(found.matches("config.yaml:").count(), 3, "{found}");
}
