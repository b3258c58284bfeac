//! This machine's own btrfs layout: which subvolumes hold what is synced, and where snapshots can be.
//!
//! Read from the mount table, as a person and without asking the filesystem: `subvol=` in it is the name
//! that `btrfs subvolume list` prints. Ubuntu has `@` and `@home`, Fedora `root` and `home`; openSUSE
//! has a root that is itself one of snapper's snapshots, and many subvolumes below `@`.

use std::path::Path;

/// Mount points whose subvolumes hold what is mirrored by default.
const MOUNT_POINTS: [&str; 3] = ["/", "/home", "/root"];

/// Where snapshots are, unless somebody else has that place.
const USUAL_DIR: &str = "/.snapshots";

/// Where they are, where snapper has the usual place.
const BESIDE_SNAPPER: &str = "/.pc-switcher-snapshots";

/// The same where the root subvolume is one of snapper's: it gives way to another at a rollback, and
/// what lies in it would stay behind.
const OUTSIDE_ROOT: &str = "/var/pc-switcher-snapshots";

/// This machine's subvolumes, as far as they concern us.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Layout {
    /// What there is.
    Found(Found),
    /// Why it could not be told.
    Unknown(String),
}

/// A layout that was understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Names with the place each is mounted at.
    pub subvolumes: Vec<(String, String)>,
    /// Where snapshots shall be.
    pub snapshot_dir: &'static str,
    /// What a person should know about these choices, each a sentence.
    pub notes: Vec<&'static str>,
}

impl Found {
    /// Whose layout it looks like.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        let name = |at: &str| {
            let mut found = self.subvolumes.iter();
            found
                .find(|(_, point)| point == at)
                .map(|(name, _)| name.as_str())
        };
        match (name("/"), name("/home")) {
            (Some("@"), Some("@home")) => "the layout of Ubuntu and Debian",
            (Some("root"), Some("home")) => "the layout of Fedora",
            (Some(root), _) if is_numbered(root) => "the layout of openSUSE",
            _ => "a layout of its own",
        }
    }
}

/// Whether a subvolume is one of snapper's snapshots: `@/.snapshots/1/snapshot`.
fn is_numbered(name: &str) -> bool {
    let inner = name
        .strip_suffix("/snapshot")
        .and_then(|rest| rest.rsplit_once('/'));
    inner.is_some_and(|(above, number)| {
        above.ends_with(".snapshots") && number.bytes().all(|b| b.is_ascii_digit())
    })
}

impl Layout {
    /// Reads `/proc/self/mountinfo` below `root`, and looks whether snapper is set up there.
    #[must_use]
    pub fn detect(root: &Path) -> Self {
        let has_snapper = root.join("etc/snapper/configs/root").exists();
        match std::fs::read(root.join("proc/self/mountinfo")) {
            Ok(text) => Self::from_mountinfo(&String::from_utf8_lossy(&text), has_snapper),
            Err(error) => Self::Unknown(format!("/proc/self/mountinfo: {error}")),
        }
    }

    /// See `proc_pid_mountinfo(5)`; a later line is mounted over an earlier one.
    fn from_mountinfo(text: &str, has_snapper: bool) -> Self {
        let at = |point: &str| text.lines().filter_map(mount).rfind(|(at, ..)| at == point);
        let mut subvolumes: Vec<(String, String)> = Vec::new();
        for point in MOUNT_POINTS {
            let Some((_, fstype, options)) = at(point) else {
                // Part of the subvolume above it.
                if point == "/" {
                    return Self::Unknown("what is mounted on / cannot be told".to_owned());
                }
                continue;
            };
            if fstype != "btrfs" {
                return Self::Unknown(format!(
                    "{point} is on {fstype}, and only what is on btrfs can be synced"
                ));
            }
            let name = subvolume(options);
            if name.is_empty() {
                let reason = format!("{point} is the top level of its filesystem, no subvolume");
                return Self::Unknown(reason);
            }
            if name.chars().any(|c| c.is_control() || c == '\u{fffd}') {
                return Self::Unknown(format!("{point} is the subvolume {name}, an unusual name"));
            }
            if !subvolumes.iter().any(|(other, _)| *other == name) {
                subvolumes.push((name, point.to_owned()));
            }
        }
        let root_is_numbered = subvolumes
            .first()
            .is_some_and(|(name, _)| is_numbered(name));
        let var_is_apart = at("/var").is_some_and(|(_, fstype, _)| fstype == "btrfs");
        let mut notes = Vec::new();
        let snapshot_dir = if root_is_numbered && var_is_apart {
            notes.push("/.snapshots is snapper's, and / changes with a rollback of it.");
            OUTSIDE_ROOT
        } else if root_is_numbered || has_snapper {
            notes.push("/.snapshots is snapper's.");
            BESIDE_SNAPPER
        } else {
            USUAL_DIR
        };
        if root_is_numbered {
            notes.push("After a rollback with snapper, the number in the name of / is another.");
        }
        Self::Found(Found {
            subvolumes,
            snapshot_dir,
            notes,
        })
    }
}

/// The name in a mount's options.
fn subvolume(options: &str) -> String {
    let mut options = options.split(',');
    let path = options.find_map(|option| option.strip_prefix("subvol="));
    unescape(path.unwrap_or_default())
        .trim_start_matches('/')
        .to_owned()
}

/// Mount point, type and options of the filesystem of one line.
fn mount(line: &str) -> Option<(String, &str, &str)> {
    let (mount, filesystem) = line.split_once(" - ")?;
    let point = unescape(mount.split(' ').nth(4)?);
    let mut fields = filesystem.split(' ');
    let fstype = fields.next()?;
    Some((point, fstype, fields.nth(1)?))
}

/// Undoes the kernel's `\040` for blanks, tabs, line feeds and backslashes.
fn unescape(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        out.push_str(&rest[..at]);
        let code = rest.get(at + 1..at + 4);
        if let Some(byte) = code.and_then(|code| u8::from_str_radix(code, 8).ok()) {
            out.push(char::from(byte));
            rest = &rest[at + 4..];
        } else {
            out.push('\\');
            rest = &rest[at + 1..];
        }
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEBIAN: &str = "\
25 1 0:22 /@ / rw,noatime shared:1 - btrfs /dev/sda2 rw,ssd,subvolid=256,subvol=/@
26 25 0:22 /@home /home rw shared:2 - btrfs /dev/sda2 rw,subvolid=257,subvol=/@home
";
    const OPENSUSE: &str = "\
60 1 0:34 /@/.snapshots/1/snapshot / rw - btrfs /dev/sda2 rw,subvol=/@/.snapshots/1/snapshot
61 60 0:34 /@/.snapshots /.snapshots rw - btrfs /dev/sda2 rw,subvol=/@/.snapshots
62 60 0:34 /@/var /var rw - btrfs /dev/sda2 rw,subvol=/@/var
63 60 0:34 /@/root /root rw - btrfs /dev/sda2 rw,subvol=/@/root
64 60 0:34 /@/home /home rw - btrfs /dev/sda2 rw,subvolid=264,subvol=/@/home
";

    fn found(mountinfo: &str, has_snapper: bool) -> Result<Found, String> {
        match Layout::from_mountinfo(mountinfo, has_snapper) {
            Layout::Found(found) => Ok(found),
            Layout::Unknown(reason) => Err(reason),
        }
    }

    fn names(mountinfo: &str) -> Result<Vec<String>, String> {
        let found = found(mountinfo, false)?;
        Ok(found.subvolumes.into_iter().map(|(name, _)| name).collect())
    }

    #[test]
    fn layouts_of_distributions_are_recognised() {
        let fedora = "\
60 1 0:34 /root / rw - btrfs /dev/nvme0n1p3 rw,subvolid=257,subvol=/root
61 60 0:34 /home /home rw - btrfs /dev/nvme0n1p3 rw,subvolid=256,subvol=/home
";
        for (mountinfo, kind, wanted, snapshot_dir) in [
            (DEBIAN, "Ubuntu", &["@", "@home"][..], USUAL_DIR),
            (fedora, "Fedora", &["root", "home"], USUAL_DIR),
            (
                OPENSUSE,
                "openSUSE",
                &["@/.snapshots/1/snapshot", "@/home", "@/root"],
                OUTSIDE_ROOT,
            ),
        ] {
            let found = found(mountinfo, false).expect("understood");
            assert!(found.kind().contains(kind), "{}", found.kind());
            let names: Vec<&str> = found
                .subvolumes
                .iter()
                .map(|(name, _)| name.as_str())
                .collect();
            assert_eq!(names, wanted);
            assert_eq!(found.snapshot_dir, snapshot_dir);
        }
        let one = "25 1 0:22 /@ / rw - btrfs /dev/sda2 rw,subvol=/@\n";
        assert_eq!(names(one), Ok(vec!["@".to_owned()]));
        let root_of_its_own = format!("{DEBIAN}30 25 0:22 /@r /root rw - btrfs x rw,subvol=/@r\n");
        assert_eq!(names(&root_of_its_own).map(|names| names.len()), Ok(3));
    }

    #[test]
    fn what_is_snappers_is_left_to_it() {
        let with_snapper = found(DEBIAN, true).expect("understood");
        assert_eq!(with_snapper.snapshot_dir, BESIDE_SNAPPER);
        let without_var = OPENSUSE.replace(" /var ", " /srv ");
        let found = found(&without_var, false).expect("understood");
        assert_eq!((found.snapshot_dir, found.notes.len()), (BESIDE_SNAPPER, 2));
        for name in [
            "@",
            "@/home",
            "x/snapshot",
            "@/.snapshots/new/snapshot",
            "snapshot",
        ] {
            assert!(!is_numbered(name), "{name}");
        }
    }

    #[test]
    fn what_is_not_btrfs_is_told() {
        let ext4 = "25 1 8:2 / / rw - ext4 /dev/sda2 rw\n";
        assert_eq!(
            names(ext4),
            Err("/ is on ext4, and only what is on btrfs can be synced".to_owned())
        );
        let home = format!("{DEBIAN}31 26 8:3 / /home rw - xfs /dev/sdb1 rw\n");
        assert_eq!(
            names(&home),
            Err("/home is on xfs, and only what is on btrfs can be synced".to_owned())
        );
        let top = "25 1 0:22 / / rw - btrfs /dev/sda2 rw,subvolid=5,subvol=/\n";
        assert!(names(top).is_err());
        for damaged in [
            "",
            "\n",
            "1 2 3",
            "1 2 3 4 / 6 - btrfs",
            "25 1 0:22 / / rw - btrfs x",
        ] {
            assert!(names(damaged).is_err(), "{damaged}");
        }
        assert_eq!(unescape(r"a\040b\134c\x\04"), r"a b\c\x\04");
    }
}
