//! What tests need of a real kernel: root, and a btrfs of their own on a loop device.
//!
//! Whatever ends the test process, the btrfs goes away: a small guardian process holds the other
//! end of a pipe, and when the pipe closes (the guard was dropped, a test panicked, the process was
//! killed) it unmounts everything and removes the image. The loop device frees itself with the
//! last mount (`mount -o loop` sets autoclear).

#![expect(
    clippy::missing_panics_doc,
    reason = "test support fails by panicking, everywhere"
)]

use std::io::{Read, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use super::command::command;

/// Unmounts all below `$1` and removes it, once stdin closes; deaf to signals of the terminal.
const GUARDIAN: &str = r#"
trap '' HUP INT TERM QUIT
echo ready
cat >/dev/null
cd /
while awk -v d="$1/" 'index($5, d) == 1 { f = 1; print $5 } END { exit !f }' /proc/self/mountinfo >"$1/mounts"; do
    tac "$1/mounts" | while read -r point; do
        umount "$(printf '%b' "$point")" 2>/dev/null || umount -l "$(printf '%b' "$point")"
    done
done
rm -rf --one-file-system "$1"
"#;

/// Whether the test runs as root; says so loudly if not, and fails where nothing may be skipped.
#[must_use]
pub fn is_root(test: &str) -> bool {
    if rustix::process::geteuid().is_root() {
        return true;
    }
    skip(test, "it needs root");
    false
}

/// Says that `test` is skipped, past the capture of the test harness; panics when `CI=true`,
/// where nothing may be skipped.
pub fn skip(test: &str, reason: &str) {
    assert!(
        std::env::var_os("CI").is_none_or(|v| v != "true"),
        "{test} cannot be skipped with CI=true: {reason}"
    );
    say(test, reason);
}

/// Says that the test of this thread is skipped, past the capture of the test harness; nowhere a failure.
pub fn say_skipped(reason: &str) {
    let thread = std::thread::current();
    say(thread.name().unwrap_or("a test"), reason);
}

fn say(test: &str, reason: &str) {
    let line = format!("SKIPPED {test}: {reason}\n");
    let _ = std::io::stderr().write_all(line.as_bytes());
}

/// A fresh btrfs of 512 MiB (or much more, where many seeds are tried) on a loop device, mounted, gone when
/// dropped.
#[derive(Debug)]
pub struct TestBtrfs {
    directory: PathBuf,
    guardian: Child,
    mounts: AtomicU32,
}

impl TestBtrfs {
    /// Makes one, with its top level (subvolume 5) mounted at [`top`](Self::top);
    /// `None`, after saying so, when there is no root or no btrfs.
    #[must_use]
    #[track_caller]
    pub fn new() -> Option<Self> {
        let caller = std::panic::Location::caller();
        let test = std::thread::current()
            .name()
            .map_or_else(|| caller.to_string(), str::to_owned);
        if !is_root(&test) {
            return None;
        }
        let known = std::fs::read_to_string("/proc/filesystems").unwrap_or_default();
        let has_btrfs = known.contains("\tbtrfs") || sh("modprobe btrfs").is_ok();
        if !has_btrfs || sh("command -v mkfs.btrfs").is_err() {
            skip(&test, "it needs btrfs and mkfs.btrfs");
            return None;
        }
        let directory = tempfile::Builder::new()
            .prefix("pc-switcher-btrfs-")
            .tempdir()
            .expect("a temporary directory can be made")
            .keep();
        let guardian = start_guardian(&directory);
        let test_btrfs = Self {
            directory,
            guardian,
            mounts: AtomicU32::new(0),
        };
        let image = test_btrfs.directory.join("image");
        let top = test_btrfs.top();
        std::fs::create_dir(&top).unwrap();
        // What many seeds leave behind adds up; only what is written takes room.
        let many = ["PCS_SEEDS", "PC_SWITCHER_TEST_SEEDS"];
        let has_many = many.iter().any(|name| std::env::var_os(name).is_some());
        let size = if has_many { "32G" } else { "512M" };
        run(&format!(
            "truncate -s {size} '{0}' && mkfs.btrfs -q '{0}' && \
             mount -t btrfs -o loop,subvolid=5 '{0}' '{1}'",
            image.display(),
            top.display()
        ));
        Some(test_btrfs)
    }

    /// Where the top level is mounted.
    #[must_use]
    pub fn top(&self) -> PathBuf {
        self.directory.join("top")
    }

    /// The block device below it.
    #[must_use]
    pub fn device(&self) -> PathBuf {
        let top = self.top();
        let found = sh(&format!("findmnt -no SOURCE '{}'", top.display())).unwrap();
        // `/dev/loop0[/subvolume]`
        PathBuf::from(found.trim().split('[').next().unwrap())
    }

    /// Creates the subvolume `name` (relative to the top level) and returns its path there.
    pub fn create_subvolume(&self, name: &str) -> PathBuf {
        let path = self.top().join(name);
        run(&format!(
            "btrfs -q subvolume create '{0}' || btrfs subvolume create '{0}' >/dev/null",
            path.display()
        ));
        path
    }

    /// Mounts the existing subvolume `name` in a place of its own.
    pub fn mount_subvolume(&self, name: &str) -> PathBuf {
        let number = self.mounts.fetch_add(1, Ordering::Relaxed);
        let point = self.directory.join(format!("mount-{number}"));
        std::fs::create_dir(&point).unwrap();
        self.mount_subvolume_at(name, &point);
        point
    }

    /// Mounts the existing subvolume `name` at `point`, which must be below
    /// [`directory`](Self::directory) to be cleaned up.
    pub fn mount_subvolume_at(&self, name: &str, point: &Path) {
        assert!(point.starts_with(&self.directory), "would outlive the test");
        run(&format!(
            "mount -t btrfs -o 'subvol=/{name}' '{}' '{}'",
            self.device().display(),
            point.display()
        ));
    }

    /// Everything of this btrfs lives below here; tests may put mount points into it.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }
}

impl Drop for TestBtrfs {
    fn drop(&mut self) {
        drop(self.guardian.stdin.take());
        let _ = self.guardian.wait();
    }
}

fn start_guardian(directory: &Path) -> Child {
    let mut guardian = command("/bin/sh")
        .args(["-c", GUARDIAN, "guardian"])
        .arg(directory)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .process_group(0)
        .spawn()
        .expect("a shell can be started");
    // Only when it has set its traps is the directory in safe hands.
    let mut ready = [0; 6];
    guardian
        .stdout
        .take()
        .expect("it was asked for")
        .read_exact(&mut ready)
        .expect("the guardian starts");
    guardian
}

/// Writes into a file through a mapping of it.
#[expect(unsafe_code, reason = "that is what a mapping is")]
pub fn write_mapped(file: &std::fs::File, bytes: &[u8]) {
    use std::os::fd::AsRawFd;
    // SAFETY: a fresh mapping of the whole length, used only here; the file is as long, and nobody
    // cuts it meanwhile.
    unsafe {
        let (read_write, shared) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED);
        let none = std::ptr::null_mut();
        let at = libc::mmap(none, bytes.len(), read_write, shared, file.as_raw_fd(), 0);
        assert_ne!(at, libc::MAP_FAILED);
        std::ptr::copy_nonoverlapping(bytes.as_ptr(), at.cast(), bytes.len());
        assert_eq!(libc::munmap(at, bytes.len()), 0);
    }
}

/// Runs a shell line for a test's set-up and returns its output, or what it complained about.
pub fn sh(script: &str) -> Result<String, String> {
    let done = command("/bin/sh")
        .args(["-c", script])
        .stdin(Stdio::null())
        .output()
        .map_err(|e| e.to_string())?;
    if done.status.success() {
        Ok(String::from_utf8_lossy(&done.stdout).into_owned())
    } else {
        Err(String::from_utf8_lossy(&done.stderr).into_owned())
    }
}

/// Runs a shell line that must work.
#[track_caller]
#[expect(
    clippy::must_use_candidate,
    reason = "a set-up line is run for what it does"
)]
pub fn run(script: &str) -> String {
    match sh(script) {
        Ok(output) => output,
        Err(error) => panic!("{script}: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_mounted_below(directory: &Path) -> bool {
        std::fs::read_to_string("/proc/self/mountinfo")
            .unwrap()
            .contains(directory.to_str().unwrap())
    }

    #[test]
    fn a_test_btrfs_is_gone_after_a_panic() {
        let Some(btrfs) = TestBtrfs::new() else {
            return;
        };
        let directory = btrfs.directory().to_owned();
        let device = btrfs.device();
        btrfs.create_subvolume("@home");
        let home = btrfs.mount_subvolume("@home");
        std::fs::write(home.join("file"), "text").unwrap();
        assert!(btrfs.top().join("@home/file").exists());
        assert!(is_mounted_below(&directory));
        let held = std::fs::File::open(home.join("file")).unwrap();
        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(move || {
            let _btrfs = btrfs;
            std::panic::resume_unwind(Box::new("on purpose"));
        }));
        assert!(panicked.is_err());
        assert!(!is_mounted_below(&directory));
        assert!(!directory.exists());
        drop(held);
        let image = run(&format!(
            "losetup -n -O BACK-FILE '{}' || true",
            device.display()
        ));
        assert!(!image.contains(directory.to_str().unwrap()), "{image}");
    }
}
