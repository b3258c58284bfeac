//! What an agent finds out about its machine: who it is, what is installed, how much space there is.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use rustix::fs::{CWD, Mode, OFlags, openat};

use super::fault::Fault;
use super::places::Places;
use super::protocol::{AgentFacts, DiskFacts, Installed};
use crate::interrupt::AbortFlag;
use crate::record::MachineName;
use crate::sys::command::{Limits, command, run};
use crate::sys::{btrfs, mounts};

/// How long an installed binary has to say its version.
const VERSION_TIMEOUT: Duration = Duration::from_secs(5);

/// More paths than this in one question make no sense.
const MAX_PATHS: usize = 1024;

/// Everything a hello is answered with.
#[must_use]
pub fn agent_facts(places: &Places, uid: Option<u32>) -> AgentFacts {
    let uname = rustix::system::uname();
    let MachineName {
        hostname,
        machine_id,
    } = machine_name(places);
    AgentFacts {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        hostname,
        machine_id,
        boot_id: read_word(Path::new("/proc/sys/kernel/random/boot_id")),
        arch: std::env::consts::ARCH.to_owned(),
        kernel: uname.release().to_string_lossy().into_owned(),
        pid: std::process::id(),
        uid,
        installed: find_installed(places),
        now: jiff::Timestamp::now(),
    }
}

/// Who this machine is.
#[must_use]
pub fn machine_name(places: &Places) -> MachineName {
    let uname = rustix::system::uname();
    MachineName {
        hostname: uname.nodename().to_string_lossy().into_owned(),
        machine_id: machine_id(&places.machine_id),
    }
}

/// The first short line of a file, or nothing.
fn read_word(path: &Path) -> String {
    let mut text = String::new();
    let read = File::open(path).and_then(|f| f.take(256).read_to_string(&mut text));
    match read {
        Ok(_) => text.trim().to_owned(),
        Err(_) => String::new(),
    }
}

/// The machine's id, or nothing if it has none yet (a fresh image says `uninitialized`).
fn machine_id(path: &Path) -> String {
    let id = read_word(path);
    let is_id = id.len() == 32 && id.bytes().all(|b| b.is_ascii_hexdigit());
    if is_id { id } else { String::new() }
}

/// The installed pc-switcher that can be trusted: root's, and nobody else's to write.
fn find_installed(places: &Places) -> Option<Installed> {
    places.installed.iter().find_map(|path| {
        let file = open_program(path)?;
        let same_binary = File::open(&places.own_binary)
            .and_then(|own| is_same_content(own, file))
            .unwrap_or(false);
        Some(Installed {
            path: path.to_string_lossy().into_owned(),
            version: if same_binary {
                Some(env!("CARGO_PKG_VERSION").to_owned())
            } else {
                program_version(path)
            },
            same_binary,
        })
    })
}

/// Opens a program if it is a regular file of root's (or ours) that nobody else may write to.
fn open_program(path: &Path) -> Option<File> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = File::from(openat(CWD, path, flags, Mode::empty()).ok()?);
    let meta = file.metadata().ok()?;
    let own = rustix::process::geteuid().as_raw();
    let is_safe = meta.is_file()
        && (meta.uid() == 0 || meta.uid() == own)
        && meta.mode() & 0o022 == 0
        && meta.mode() & 0o111 != 0;
    is_safe.then_some(file)
}

/// What a pc-switcher prints as its version, without its name.
#[must_use]
pub fn program_version(path: &Path) -> Option<String> {
    let limits = Limits {
        timeout: Some(VERSION_TIMEOUT),
        output_bytes: 4096,
    };
    let mut version = command(path);
    version
        .arg("--version")
        .env_clear()
        .env("LC_ALL", "C.UTF-8")
        .current_dir("/");
    let done = run(&mut version, b"", &limits, &AbortFlag::new()).ok()?;
    if !done.status.success() {
        return None;
    }
    let text = String::from_utf8(done.stdout).ok()?;
    let line = text.lines().next()?.trim();
    let version = line.strip_prefix("pc-switcher").unwrap_or(line).trim();
    (!version.is_empty()).then(|| version.to_owned())
}

/// Whether two files hold the same bytes.
pub fn is_same_content(mut a: File, mut b: File) -> io::Result<bool> {
    if a.metadata()?.len() != b.metadata()?.len() {
        return Ok(false);
    }
    let hash = |file: &mut File| -> io::Result<blake3::Hash> {
        let mut hasher = blake3::Hasher::new();
        hasher.update_reader(file)?;
        Ok(hasher.finalize())
    };
    Ok(hash(&mut a)? == hash(&mut b)?)
}

/// Space and identity of the filesystems that hold `paths`, in that order. A path that does not
/// exist yet stands for the directory it would be created in.
pub fn disk_facts(paths: &[String]) -> Result<Vec<DiskFacts>, Fault> {
    if paths.len() > MAX_PATHS {
        return Err(Fault::invalid(format!("more than {MAX_PATHS} paths")));
    }
    let mounts = mounts::mounts().map_err(|e| Fault::of_io("cannot read the mount table", &e))?;
    paths.iter().map(|path| disk_of(path, &mounts)).collect()
}

fn disk_of(path: &str, mounts: &[mounts::Mount]) -> Result<DiskFacts, Fault> {
    let fail = |e: io::Error| Fault::of_io(format!("cannot examine {path}: {e}"), &e);
    let asked = Path::new(path);
    if !asked.is_absolute() {
        return Err(Fault::invalid(format!("{path} is not an absolute path")));
    }
    let file = open_nearest(asked).map_err(fail)?;
    let stat = rustix::fs::fstatvfs(&file).map_err(|e| fail(e.into()))?;
    let id = mounts::mount_id(&file).map_err(fail)?;
    let mount = mounts
        .iter()
        .find(|m| m.id == id)
        .ok_or_else(|| Fault::invalid(format!("{path} is on no mounted filesystem")))?;
    // The device of a btrfs mount is anonymous and differs between subvolumes.
    let filesystem = if btrfs::is_btrfs(&file).unwrap_or(false) {
        let directory = File::open(&mount.mount_point).map_err(fail)?;
        format!(
            "btrfs:{}",
            btrfs::filesystem_uuid(&directory).map_err(fail)?
        )
    } else {
        format!("{}:{}", mount.fs_type, mount.device)
    };
    Ok(DiskFacts {
        path: path.to_owned(),
        mount_point: mount.mount_point.to_string_lossy().into_owned(),
        fs_type: mount.fs_type.clone(),
        filesystem,
        total_bytes: stat.f_blocks.saturating_mul(stat.f_frsize),
        // What is left to others than root; on btrfs the kernel's estimate for the profile data
        // is written with, which is 0 as soon as metadata has no room (btrfs_statfs).
        free_bytes: stat.f_bavail.saturating_mul(stat.f_frsize),
    })
}

/// Opens the path or the nearest directory above it that exists, without reading it.
fn open_nearest(path: &Path) -> io::Result<File> {
    let mut candidate = path;
    loop {
        match openat(
            CWD,
            candidate,
            OFlags::PATH | OFlags::CLOEXEC,
            Mode::empty(),
        ) {
            Ok(fd) => return Ok(fd.into()),
            Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => match candidate.parent() {
                Some(parent) => candidate = parent,
                None => return Err(io::ErrorKind::NotFound.into()),
            },
            Err(e) => return Err(e.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::testing::{TestBtrfs, is_root, run as sh};
    use std::os::unix::fs::PermissionsExt;

    fn places() -> (tempfile::TempDir, Places) {
        let root = tempfile::tempdir().unwrap();
        for directory in ["etc", "usr/local/bin", "usr/bin"] {
            std::fs::create_dir_all(root.path().join(directory)).unwrap();
        }
        let places = Places::below(root.path());
        (root, places)
    }

    fn program(path: &Path, script: &str, mode: u32) {
        std::fs::write(path, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
    }

    #[test]
    fn a_hello_is_answered_with_this_machine() {
        let (root, places) = places();
        let id = "0123456789abcdef0123456789abcdef";
        std::fs::write(root.path().join("etc/machine-id"), format!("{id}\n")).unwrap();
        let facts = agent_facts(&places, Some(1000));
        assert_eq!(facts.machine_id, id);
        assert_eq!(facts.hostname, sh("uname -n").trim());
        assert_eq!(facts.kernel, sh("uname -r").trim());
        assert_eq!(facts.boot_id.len(), 36);
        assert_eq!(facts.pid, std::process::id());
        assert_eq!(facts.installed, None);
        std::fs::write(root.path().join("etc/machine-id"), "uninitialized\n").unwrap();
        assert_eq!(agent_facts(&places, None).machine_id, "");
    }

    #[test]
    fn an_installed_program_is_found_if_nobody_else_can_change_it() {
        let (_root, mut places) = places();
        let (first, second) = (places.installed[0].clone(), places.installed[1].clone());
        program(&second, "echo pc-switcher 0.9.1; echo more", 0o755);
        let found = find_installed(&places).unwrap();
        assert_eq!(found.path, second.to_str().unwrap());
        assert_eq!(found.version.as_deref(), Some("0.9.1"));
        assert!(!found.same_binary);

        // One that somebody else could have written is not even run.
        let proof = first.with_file_name("was-run");
        let script = format!("touch {}; echo pc-switcher 6.6.6", proof.display());
        for mode in [0o775, 0o757, 0o644] {
            program(&first, &script, mode);
            let found = find_installed(&places).unwrap();
            assert_eq!(found.path, second.to_str().unwrap(), "{mode:o}");
        }
        if is_root("an_installed_program_is_found") {
            program(&first, &script, 0o755);
            std::os::unix::fs::chown(&first, Some(1000), None).unwrap();
            assert_eq!(
                find_installed(&places).unwrap().path,
                second.to_str().unwrap()
            );
            std::os::unix::fs::chown(&first, Some(0), None).unwrap();
        }
        assert!(!proof.exists());

        program(&first, "exit 1", 0o755);
        let found = find_installed(&places).unwrap();
        assert_eq!(
            (found.path.as_str(), found.version),
            (first.to_str().unwrap(), None)
        );

        // Byte for byte our own: not run either.
        places.own_binary = second.with_file_name("own");
        program(&places.own_binary, &script, 0o755);
        program(&first, &script, 0o755);
        let found = find_installed(&places).unwrap();
        assert!(found.same_binary);
        assert_eq!(found.version.as_deref(), Some(env!("CARGO_PKG_VERSION")));
        assert!(!proof.exists());
    }

    #[test]
    fn space_agrees_with_df_and_absent_paths_stand_for_their_parent() {
        let Some(btrfs) = TestBtrfs::new() else {
            return;
        };
        btrfs.create_subvolume("d-one");
        let one = btrfs.mount_subvolume("d-one");
        let paths = [
            one.join("not/yet/there"),
            btrfs.top().join("d-one"),
            "/proc".into(),
        ]
        .map(|p| p.to_str().unwrap().to_owned());
        let facts = disk_facts(&paths).unwrap();
        assert_eq!(facts[0].path, paths[0]);
        assert_eq!(facts[0].mount_point, one.to_str().unwrap());
        assert_eq!(facts[1].mount_point, btrfs.top().to_str().unwrap());
        assert_eq!(facts[0].fs_type, "btrfs");
        // Two mounts, two subvolumes, one filesystem.
        assert_eq!(facts[0].filesystem, facts[1].filesystem);
        assert_ne!(facts[0].filesystem, facts[2].filesystem);
        let df = sh(&format!(
            "df -B1 --output=size,avail '{}' | tail -1",
            one.display()
        ));
        let df: Vec<u64> = df.split_whitespace().map(|n| n.parse().unwrap()).collect();
        assert_eq!([facts[0].total_bytes, facts[0].free_bytes][..], df);
        assert!(disk_facts(&["relative".to_owned()]).is_err());
        assert!(disk_facts(&vec!["/".to_owned(); MAX_PATHS + 1]).is_err());
    }
}
