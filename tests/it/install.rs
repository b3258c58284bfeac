//! What `make install`, the package and the tarball are made of: everything is there, readable by everybody, in the
//! package too, and goes again.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Runs `packaging/install.sh`.
fn install(arguments: [&str; 2]) {
    let repository = Path::new(env!("CARGO_MANIFEST_DIR"));
    let done = Command::new(repository.join("packaging/install.sh"))
        .args(arguments)
        .output()
        .unwrap();
    assert!(done.status.success(), "{done:?}");
}

/// Every file below a directory, from there on.
fn files(top: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut directories = vec![top.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path: PathBuf = entry.unwrap().path();
            if path.is_dir() {
                directories.push(path);
            } else {
                let path = path.strip_prefix(top).unwrap();
                found.push(path.to_str().unwrap().to_owned());
            }
        }
    }
    found.sort();
    found
}

/// Whether a pattern of an asset takes a file: of stars it has at most two, in its last component.
fn takes(pattern: &str, file: &str) -> bool {
    let split = |path: &str| {
        path.rsplit_once('/')
            .map(|(directory, name)| (directory.to_owned(), name.to_owned()))
    };
    let (Some((of, name)), Some((at, file))) = (split(pattern), split(file)) else {
        return pattern == file;
    };
    of == at
        && match name.as_str() {
            "*" => true,
            "*.*" => file.contains('.'),
            name => name == file,
        }
}

#[test]
fn all_that_belongs_to_the_program_is_installed_and_packaged_and_goes_again() {
    let to = tempfile::tempdir().unwrap();
    let prefix = to.path().to_str().unwrap();
    install([env!("CARGO_BIN_EXE_pc-switcher"), prefix]);
    let installed = files(to.path());
    for file in [
        "bin/pc-switcher",
        "share/man/man1/pc-switcher-sync.1",
        "share/man/man5/pc-switcher.config.5",
        "share/man/man7/pc-switcher.7",
        "share/bash-completion/completions/pc-switcher",
        "share/zsh/site-functions/_pc-switcher",
        "share/fish/vendor_completions.d/pc-switcher.fish",
        "share/doc/pc-switcher/README.md",
        "share/doc/pc-switcher/RELIABILITY.md",
        "share/doc/pc-switcher/docs/events.md",
        "share/doc/pc-switcher/examples/config.yaml",
        "share/doc/pc-switcher/examples/home.filter",
        "share/doc/pc-switcher/examples/systemd/pc-switcher@.timer",
    ] {
        assert!(installed.iter().any(|found| found == file), "{file}");
    }
    for file in &installed {
        let facts = fs::metadata(to.path().join(file)).unwrap();
        let mode = if file.starts_with("bin/") {
            0o755
        } else {
            0o644
        };
        assert_eq!(facts.permissions().mode() & 0o7777, mode, "{file}");
        assert!(facts.len() > 0, "{file}");
    }

    let manifest = include_str!("../../Cargo.toml");
    let assets: Vec<&str> = manifest
        .lines()
        .filter_map(|line| line.trim().strip_prefix("[\"target/package/usr/"))
        .filter_map(|rest| rest.split('"').next())
        .collect();
    assert!(assets.len() > 5, "{assets:?}");
    // packaging/deb.sh moves one thing and leaves out what `copyright` has.
    let packaged = installed
        .iter()
        .map(|file| file.replace("zsh/site-functions", "zsh/vendor-completions"))
        .filter(|file| !file.contains("/LICENSE-"));
    for file in packaged {
        let is_taken = assets.iter().any(|pattern| takes(pattern, &file));
        assert!(is_taken, "the package has no {file}");
    }

    install(["--remove", prefix]);
    assert_eq!(files(to.path()), [""; 0]);
}
