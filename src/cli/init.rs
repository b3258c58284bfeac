//! `init`: writes the commented configuration and the shipped filters.
//!
//! Existing files are never overwritten without `--force`, and then the old ones are kept beside
//! the new. Each file is written whole or not at all.

mod layout;
pub mod sudoers;

use std::fmt;
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use crate::config::EXAMPLE;
use crate::escape::{escape_bytes, escape_str};
use crate::run::error::RunError;
use layout::{Found, Layout};

/// The shipped filter of `/home`.
pub const HOME_FILTER: &str = include_str!("../../filters/home.filter");
/// The shipped filter of `/root`.
pub const ROOT_FILTER: &str = include_str!("../../filters/root.filter");

/// The line of the example that says where snapshots are.
const SNAPSHOT_DIR_LINE: &str = "  snapshot_dir: /.snapshots\n";

/// The line of the example that says which subvolumes there are.
const SUBVOLUMES_LINE: &str = "  subvolumes: [\"@\", \"@home\"]\n";

/// Added to the name of a file that `--force` replaces.
const OLD_SUFFIX: &str = ".old";

/// All files are there already.
fn already_there(config_file: &Path) -> RunError {
    // Not a gate: those are questions of a sync.
    RunError::Usage {
        message: format!(
            "{} is there already, with both filters; nothing was written",
            shown(config_file)
        ),
        hint: "edit the files, or start anew with --force (old files are kept as *.old)".to_owned(),
    }
}

/// What could not be written.
fn unwritten(path: &Path) -> impl FnOnce(io::Error) -> RunError {
    let path = shown(path);
    move |source| RunError::Write { path, source }
}

fn shown(path: &Path) -> String {
    escape_bytes(path.as_os_str().as_encoded_bytes())
}

/// What became of one file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It was not there.
    Written,
    /// It was there; the old one is now at this path.
    Replaced(PathBuf),
    /// It was there and is as it was.
    Kept,
}

/// What `init` did; displays as lines for a person.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InitReport {
    /// The files, the configuration first.
    pub files: Vec<(PathBuf, Outcome)>,
    /// What was found about this machine's subvolumes.
    pub layout: Layout,
}

impl fmt::Display for InitReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (path, outcome) in &self.files {
            match outcome {
                Outcome::Written => writeln!(f, "Wrote {}", shown(path))?,
                Outcome::Kept => writeln!(f, "Kept {}, which was there already", shown(path))?,
                Outcome::Replaced(old) => {
                    writeln!(f, "Wrote {}; the old one is {}", shown(path), shown(old))?;
                }
            }
        }
        if self
            .files
            .first()
            .is_some_and(|(_, outcome)| *outcome != Outcome::Kept)
        {
            match &self.layout {
                Layout::Found(found) => {
                    let names = found.subvolumes.iter();
                    let names: Vec<String> =
                        names.map(|(name, at)| format!("{name} ({at})")).collect();
                    let (kind, names) = (found.kind(), escape_str(&names.join(", ")));
                    writeln!(f, "Found {kind}: subvolumes {names}")?;
                    write!(f, "Snapshots will be in {}", found.snapshot_dir)?;
                    let notes = found.notes.join(" ");
                    match notes.as_str() {
                        "" => writeln!(f)?,
                        notes => writeln!(f, ". {notes}")?,
                    }
                }
                Layout::Unknown(reason) => {
                    writeln!(
                        f,
                        "Check btrfs_snapshots.subvolumes: {}",
                        escape_str(reason)
                    )?;
                }
            }
        }
        write!(
            f,
            "Next: look through them, then 'pc-switcher doctor HOST', then 'pc-switcher sync HOST --dry-run'"
        )
    }
}

/// Writes `config_file` and the filters beside it. `root` is where `/proc` is looked for.
pub fn init(config_file: &Path, root: &Path, force: bool) -> Result<InitReport, RunError> {
    let layout = Layout::detect(root);
    let config = example_for(&layout);
    let directory = match config_file.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let texts = [
        (config_file.to_owned(), config.as_str()),
        (directory.join("home.filter"), HOME_FILTER),
        (directory.join("root.filter"), ROOT_FILTER),
    ];
    if !force && texts.iter().all(|(path, _)| is_there(path)) {
        return Err(already_there(config_file));
    }
    // Others have no business in it: the XDG specification asks for 0700.
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)
        .map_err(unwritten(directory))?;
    let mut files = Vec::new();
    for (path, text) in texts {
        let outcome = write(&path, text, force).map_err(unwritten(&path))?;
        files.push((path, outcome));
    }
    Ok(InitReport { files, layout })
}

/// Whether there is anything of that name, a dangling link included.
fn is_there(path: &Path) -> bool {
    std::fs::symlink_metadata(path).is_ok()
}

/// Writes one file whole, or keeps the one that is there.
fn write(path: &Path, text: &str, force: bool) -> io::Result<Outcome> {
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    if !force && is_there(path) {
        return Ok(Outcome::Kept);
    }
    let mut file = tempfile::Builder::new()
        .permissions(std::fs::Permissions::from_mode(0o644))
        .tempfile_in(directory)?;
    file.write_all(text.as_bytes())?;
    file.as_file().sync_all()?;
    let mut outcome = Outcome::Written;
    if force && is_there(path) {
        let mut old = path.as_os_str().to_owned();
        old.push(OLD_SUFFIX);
        let old = PathBuf::from(old);
        if is_there(&old) {
            std::fs::remove_file(&old)?;
        }
        // A second name for the old file, so that there is one of this name at every instant.
        std::fs::hard_link(path, &old)?;
        outcome = Outcome::Replaced(old);
    }
    if force {
        file.persist(path).map_err(|error| error.error)?;
    } else if let Err(error) = file.persist_noclobber(path) {
        // Another `init` may have been faster.
        return match error.error.kind() {
            io::ErrorKind::AlreadyExists => Ok(Outcome::Kept),
            _ => Err(error.error),
        };
    }
    std::fs::File::open(directory)?.sync_all()?;
    Ok(outcome)
}

/// The example with this machine's subvolumes, or with a comment why they are not there.
fn example_for(layout: &Layout) -> String {
    let Found {
        subvolumes,
        snapshot_dir,
        notes,
    } = match layout {
        Layout::Found(found) => found,
        Layout::Unknown(reason) => {
            let line = format!(
                "  # CHECK THIS: the names could not be found out\n  # ({}).\n{SUBVOLUMES_LINE}",
                escape_str(reason)
            );
            return EXAMPLE.replacen(SUBVOLUMES_LINE, &line, 1);
        }
    };
    let quoted = |(name, _): &(String, String)| {
        let name = name.replace('\\', "\\\\").replace('"', "\\\"");
        format!("\"{name}\"")
    };
    let names: Vec<String> = subvolumes.iter().map(quoted).collect();
    let line = format!("  subvolumes: [{}]\n", names.join(", "));
    let mut dir: Vec<String> = notes.iter().map(|note| format!("  # {note}\n")).collect();
    dir.push(format!("  snapshot_dir: {snapshot_dir}\n"));
    let dir = dir.concat();
    EXAMPLE
        .replacen(SUBVOLUMES_LINE, &line, 1)
        .replacen(SNAPSHOT_DIR_LINE, &dir, 1)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::config::{self, Config};
    use crate::exit::ExitStatus;
    use crate::run::explain::explain;

    const DEBIAN: &str = "\
25 1 0:22 /@ / rw,noatime shared:1 - btrfs /dev/sda2 rw,ssd,subvolid=256,subvol=/@
26 25 0:22 /@home /home rw shared:2 - btrfs /dev/sda2 rw,subvolid=257,subvol=/@home
27 25 0:5 / /proc rw - proc proc rw
";

    /// A machine with that mountinfo, and a directory for its configuration.
    fn machine(mountinfo: &str) -> (tempfile::TempDir, PathBuf) {
        let root = tempfile::tempdir().expect("temporary directory");
        fs::create_dir_all(root.path().join("proc/self")).expect("proc");
        fs::write(root.path().join("proc/self/mountinfo"), mountinfo).expect("mountinfo");
        let config = root.path().join("home/dev/.config/pc-switcher/config.yaml");
        (root, config)
    }

    fn load(path: &Path) -> Config {
        let modules = crate::cli::known(&crate::modules::registry());
        config::load(path, &modules).expect("what init writes is valid")
    }

    #[test]
    fn the_example_has_the_lines_that_are_replaced() {
        assert_eq!(EXAMPLE.matches(SUBVOLUMES_LINE).count(), 1);
        assert_eq!(EXAMPLE.matches(SNAPSHOT_DIR_LINE).count(), 1);
    }

    #[test]
    fn an_opensuse_machine_gets_a_place_beside_snapper_with_the_reason() {
        let (root, path) = machine(
            "60 1 0:34 / / rw - btrfs x rw,subvol=/@/.snapshots/1/snapshot\n\
             62 60 0:34 /@/var /var rw - btrfs x rw,subvol=/@/var\n\
             64 60 0:34 /@/home /home rw - btrfs x rw,subvol=/@/home\n",
        );
        let report = init(&path, root.path(), false).expect("written");
        let config = load(&path).btrfs_snapshots;
        assert_eq!(config.subvolumes, ["@/.snapshots/1/snapshot", "@/home"]);
        assert_eq!(config.snapshot_dir, "/var/pc-switcher-snapshots");
        let text = fs::read_to_string(&path).expect("readable");
        assert!(text.contains("  # /.snapshots is snapper's"), "{text}");
        let shown = report.to_string();
        assert!(
            shown.contains("Found the layout of openSUSE: subvolumes @/"),
            "{shown}"
        );
    }

    #[test]
    fn three_files_are_written_that_load() {
        let (root, path) = machine(&DEBIAN.replace("@home", "@h\\040\"x"));
        let report = init(&path, root.path(), false).expect("written");
        assert!(
            report
                .files
                .iter()
                .all(|(_, outcome)| *outcome == Outcome::Written)
        );
        let config = load(&path);
        assert_eq!(config.btrfs_snapshots.subvolumes, ["@", "@h \"x"]);
        for folder in &config.user_data.folders {
            let filter = folder.filter.as_ref().expect("a filter");
            let text = fs::read(filter).expect("readable");
            assert!(crate::mirror::filter::Filter::parse(&text, "f").is_ok());
        }
        let mode = |path: &Path| fs::metadata(path).expect("there").permissions().mode() & 0o777;
        assert_eq!(mode(path.parent().expect("directory")), 0o700);
        assert_eq!(mode(&path) & 0o600, 0o600);
        let shown = report.to_string();
        assert_eq!(shown.matches("Wrote ").count(), 3, "{shown}");
        assert!(
            shown.contains(": subvolumes @ (/), @h \"x (/home)\n"),
            "{shown}"
        );
        let left = fs::read_dir(path.parent().expect("directory")).expect("listed");
        assert_eq!(left.count(), 3);
    }

    #[test]
    fn an_unknown_layout_leaves_the_default_with_a_comment() {
        let (root, path) = machine("25 1 8:2 / / rw - ext4 /dev/sda2 rw\n");
        let report = init(&path, root.path(), false).expect("written");
        assert_eq!(load(&path).btrfs_snapshots.subvolumes, ["@", "@home"]);
        let text = fs::read_to_string(&path).expect("readable");
        assert!(text.contains("# CHECK THIS"), "{text}");
        assert!(report.to_string().contains("/ is on ext4"));
        let nowhere = Layout::detect(Path::new("/nonexistent"));
        assert!(matches!(nowhere, Layout::Unknown(_)));
    }

    #[test]
    fn existing_files_are_kept_unless_forced() {
        let (root, path) = machine(DEBIAN);
        let directory = path.parent().expect("directory");
        let filter = directory.join("home.filter");
        fs::create_dir_all(directory).expect("directory");
        fs::write(&filter, "- mine\n").expect("filter");
        let report = init(&path, root.path(), false).expect("written");
        let outcomes: Vec<_> = report.files.iter().map(|(_, outcome)| outcome).collect();
        assert_eq!(
            outcomes,
            [&Outcome::Written, &Outcome::Kept, &Outcome::Written]
        );

        fs::write(&path, "mine: true\n").expect("config");
        let error = init(&path, root.path(), false).expect_err("all there");
        let error = explain(&error);
        assert!(error.hint.expect("a hint").contains("--force"));
        assert_eq!(error.status, ExitStatus::Usage);
        assert_eq!(fs::read_to_string(&path).expect("readable"), "mine: true\n");
        assert_eq!(fs::read_to_string(&filter).expect("readable"), "- mine\n");

        let report = init(&path, root.path(), true).expect("forced");
        let old = directory.join("config.yaml.old");
        assert_eq!(report.files[0].1, Outcome::Replaced(old.clone()));
        assert_eq!(fs::read_to_string(old).expect("kept"), "mine: true\n");
        assert_eq!(fs::read_to_string(&filter).expect("readable"), HOME_FILTER);
        load(&path);
    }

    #[test]
    fn a_dangling_link_is_not_followed() {
        let (root, path) = machine(DEBIAN);
        let directory = path.parent().expect("directory");
        fs::create_dir_all(directory).expect("directory");
        let elsewhere = root.path().join("elsewhere");
        std::os::unix::fs::symlink(&elsewhere, &path).expect("link");
        let report = init(&path, root.path(), false).expect("the rest is written");
        assert_eq!(report.files[0].1, Outcome::Kept);
        assert!(!is_there(&elsewhere));
    }

    #[test]
    fn a_directory_that_cannot_be_made_is_an_error_with_its_path() {
        let (root, _) = machine(DEBIAN);
        let file = root.path().join("file");
        fs::write(&file, "").expect("file");
        let error = init(&file.join("config.yaml"), root.path(), false).expect_err("a file");
        let error = explain(&error);
        assert_eq!(error.status, ExitStatus::Failed);
        assert!(error.message.ends_with("/file"), "{error:?}");
        assert!(error.hint.is_some_and(|hint| hint.contains("move it away")));
    }
}
