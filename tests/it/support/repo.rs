//! Package repositories made for a test: real packages, signed with keys thrown away afterwards.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use super::lab::Lab;

/// A package to be built.
#[derive(Clone)]
pub struct Deb {
    name: &'static str,
    version: String,
    architecture: &'static str,
    fields: String,
    scripts: Vec<(&'static str, &'static str)>,
    control: Vec<(&'static str, &'static str)>,
    conffiles: Vec<(&'static str, &'static str)>,
}

impl Deb {
    /// An empty package.
    pub fn new(name: &'static str, version: &str) -> Self {
        Self {
            name,
            version: version.to_owned(),
            architecture: "all",
            fields: String::new(),
            scripts: Vec::new(),
            control: Vec::new(),
            conffiles: Vec::new(),
        }
    }

    /// Its name.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// For machines of this architecture only.
    pub fn of(mut self, architecture: &'static str) -> Self {
        self.architecture = architecture;
        self
    }

    /// A further field (`Depends: x`).
    pub fn field(mut self, line: &str) -> Self {
        writeln!(self.fields, "{line}").expect("a String takes every write");
        self
    }

    /// A maintainer script.
    pub fn script(mut self, name: &'static str, body: &'static str) -> Self {
        self.scripts.push((name, body));
        self
    }

    /// A further file about it (`templates`).
    pub fn about(mut self, name: &'static str, content: &'static str) -> Self {
        self.control.push((name, content));
        self
    }

    /// A configuration file it ships.
    pub fn conffile(mut self, path: &'static str, content: &'static str) -> Self {
        self.conffiles.push((path, content));
        self
    }

    /// Builds it into `directory`; its stanza for an index.
    pub fn build(&self, directory: &Path) -> String {
        let tree = tempfile::tempdir().expect("room for a package");
        let control = tree.path().join("DEBIAN");
        fs::create_dir(&control).expect("new");
        let stanza = format!(
            "Package: {}\nVersion: {}\nArchitecture: {}\nMaintainer: Test <test@example.invalid>\n\
             Description: made for a test\n{}",
            self.name, self.version, self.architecture, self.fields
        );
        fs::write(control.join("control"), &stanza).expect("new");
        for (name, body) in &self.scripts {
            let path = control.join(name);
            fs::write(&path, format!("#!/bin/sh\n{body}\n")).expect("new");
            super::awkward::chmod(&path, 0o755).expect("own file");
        }
        for (name, content) in &self.control {
            fs::write(control.join(name), content).expect("new");
        }
        let mut listed = String::new();
        for (path, content) in &self.conffiles {
            let file = tree.path().join(path.trim_start_matches('/'));
            fs::create_dir_all(file.parent().expect("below the root")).expect("new");
            fs::write(&file, content).expect("new");
            writeln!(listed, "{path}").expect("a String takes every write");
        }
        if !listed.is_empty() {
            fs::write(control.join("conffiles"), listed).expect("new");
        }
        let version = self.version.replace(':', "%3a");
        let file = format!("{}_{version}_{}.deb", self.name, self.architecture);
        let deb = directory.join(&file);
        run(Command::new("dpkg-deb")
            .args(["--build", "--root-owner-group", "-Znone"])
            .arg(tree.path())
            .arg(&deb));
        let sum = output(Command::new("sha256sum").arg(&deb));
        let sum = sum.split_whitespace().next().expect("a sum");
        let size = fs::metadata(&deb).expect("just built").len();
        format!("{stanza}Filename: ./{file}\nSize: {size}\nSHA256: {sum}\n\n")
    }
}

/// A signing key.
pub struct Key {
    home: tempfile::TempDir,
    /// The public half, as apt wants it.
    pub public: Vec<u8>,
}

impl Key {
    /// Makes one.
    pub fn new(name: &str) -> Self {
        let home = tempfile::tempdir().expect("room for a key");
        run(gpg(home.path()).args(["--quick-gen-key", name, "ed25519", "sign", "never"]));
        let public = gpg(home.path())
            .arg("--export")
            .output()
            .expect("gpg runs")
            .stdout;
        assert!(!public.is_empty());
        Self { home, public }
    }
}

impl Key {
    /// The public half as text.
    pub fn armored(&self) -> String {
        output(gpg(self.home.path()).args(["--armor", "--export"]))
    }
}

impl Drop for Key {
    fn drop(&mut self) {
        let _ = Command::new("gpgconf")
            .arg("--homedir")
            .arg(self.home.path())
            .args(["--kill", "all"])
            .status();
    }
}

fn gpg(home: &Path) -> Command {
    let mut command = Command::new("gpg");
    command.arg("--homedir").arg(home);
    command.args([
        "--batch",
        "--quiet",
        "--pinentry-mode",
        "loopback",
        "--passphrase",
        "",
    ]);
    command
}

#[track_caller]
fn run(command: &mut Command) {
    let _ = output(command);
}

#[track_caller]
fn output(command: &mut Command) -> String {
    let done = command.output().expect("the program is there");
    assert!(
        done.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&done.stderr)
    );
    String::from_utf8_lossy(&done.stdout).into_owned()
}

/// The machines' own architecture, as dpkg names it.
pub fn own_architecture() -> &'static str {
    static OWN: OnceLock<String> = OnceLock::new();
    OWN.get_or_init(|| {
        let name = output(Command::new("dpkg").arg("--print-architecture"));
        name.trim().to_owned()
    })
}

/// Makes a flat repository of `debs` at `path` on a machine.
pub fn publish(lab: &Lab, host: &str, path: &str, origin: &str, key: &Key, debs: &[Deb]) {
    publish_with(lab, host, path, origin, key, debs, "");
}

/// The same with more in its index, of packages that nobody can fetch.
pub fn publish_with(
    lab: &Lab,
    host: &str,
    path: &str,
    origin: &str,
    key: &Key,
    debs: &[Deb],
    more: &str,
) {
    let directory = inside(lab, host, path);
    if directory.exists() {
        fs::remove_dir_all(&directory).expect("ours");
    }
    fs::create_dir_all(&directory).expect("root may");
    let mut index: String = debs.iter().map(|deb| deb.build(&directory)).collect();
    index.push_str(more);
    fs::write(directory.join("Packages"), &index).expect("root may");
    sign(
        &directory,
        origin,
        key,
        &format!("all {}", own_architecture()),
        &["Packages".to_owned()],
    );
}

/// Makes a repository with an index for each of `architectures`, as distributions have it.
pub fn publish_suite(
    lab: &Lab,
    host: &str,
    path: &str,
    (origin, key): (&str, &Key),
    debs: &[Deb],
    architectures: &[&str],
) {
    let top = inside(lab, host, path);
    if top.exists() {
        fs::remove_dir_all(&top).expect("ours");
    }
    let suite = top.join("dists/stable");
    fs::create_dir_all(top.join("pool")).expect("root may");
    let built: Vec<(&str, String)> = (debs.iter())
        .map(|deb| (deb.architecture, deb.build(&top.join("pool"))))
        .collect();
    let mut indexes = Vec::new();
    for architecture in architectures {
        let name = format!("main/binary-{architecture}/Packages");
        let stanzas: String = (built.iter())
            .filter(|(of, _)| of == architecture || *of == "all")
            .map(|(_, stanza)| stanza.replace("Filename: ./", "Filename: pool/"))
            .collect();
        let file = suite.join(&name);
        fs::create_dir_all(file.parent().expect("below the suite")).expect("root may");
        fs::write(file, stanzas).expect("root may");
        indexes.push(name);
    }
    sign(&suite, origin, key, &architectures.join(" "), &indexes);
}

/// Writes the signed list of what a repository's indexes are.
fn sign(directory: &Path, origin: &str, key: &Key, architectures: &str, indexes: &[String]) {
    let mut release = format!(
        "Origin: {origin}\nLabel: {origin}\nSuite: stable\nCodename: test\nComponents: main\n\
         Architectures: {architectures}\nDate: Thu, 01 Jan 2026 00:00:00 UTC\nSHA256:\n"
    );
    for name in indexes {
        let file = directory.join(name);
        let sum = output(Command::new("sha256sum").arg(&file));
        let sum = sum.split_whitespace().next().expect("a sum");
        let size = fs::metadata(&file).expect("just written").len();
        writeln!(release, " {sum} {size} {name}").expect("a String takes every write");
    }
    let plain = directory.join("Release");
    fs::write(&plain, release).expect("root may");
    run(gpg(key.home.path())
        .args(["--yes", "--clearsign", "--output"])
        .arg(directory.join("InRelease"))
        .arg(&plain));
}

/// `path` of a machine, seen from outside.
pub fn inside(lab: &Lab, host: &str, path: &str) -> PathBuf {
    lab.inside(host).join(path.trim_start_matches('/'))
}

/// Writes a file of a machine.
pub fn write(lab: &Lab, host: &str, path: &str, content: impl AsRef<[u8]>) {
    let file = inside(lab, host, path);
    fs::create_dir_all(file.parent().expect("below the root")).expect("root may");
    fs::write(file, content).expect("root may");
}
