//! `init` and `doctor` on the btrfs layouts of distributions: real file systems on a loop device, mounted
//! as those mount them, with the program in a root of its own.
//!
//! All mounts are in a mount namespace that ends with the script, whatever ends it.

use std::fs;
use std::io::Write as _;
use std::process::{Command, Stdio};

use serde_json::Value;

/// `$1` a scratch directory, `$2` the program, `$3` the layout: lines of a subvolume's name and where it is
/// mounted, `-` for not at all. Prints what `init` says, what it wrote, and the doctor's object.
const SCRIPT: &str = r#"
set -eu
cd "$1"
truncate -s 600M image
mkfs.btrfs -q image
mkdir top root
mount -o loop image top
device=$(findmnt -no SOURCE top)
echo "$3" | while read -r name point; do
    mkdir -p "top/$(dirname "$name")"
    btrfs -q subvolume create "top/$name"
done
echo "$3" | while read -r name point; do
    case $point in
        -) ;;
        *) mkdir -p "root$point"; mount -o "subvol=/$name" "$device" "root$point" ;;
    esac
done
for d in bin sbin lib lib64; do if [ -L "/$d" ]; then cp -P "/$d" "root/$d"; fi; done
mkdir -p root/usr root/proc root/dev root/run root/etc root/tmp root/opt root/root root/home
mount --rbind /usr root/usr
mount --rbind /dev root/dev
mount -t proc proc root/proc
mount -t tmpfs tmpfs root/run
cp /etc/passwd root/etc/
cp "$2" root/opt/pc-switcher
if [ -n "${SNAPPER:-}" ]; then mkdir -p root/etc/snapper/configs; : >root/etc/snapper/configs/root; fi
in_root() { env -i HOME=/root PATH=/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8 chroot root /opt/pc-switcher "$@"; }
in_root init
echo ---
cat root/root/.config/pc-switcher/config.yaml
echo ---
in_root --batch doctor --json || true
"#;

/// What was said, written and looked at; `None`, after saying so, where it cannot be tried.
fn tried(layout: &str, has_snapper: bool) -> Option<(String, String, Vec<Value>)> {
    let known = fs::read_to_string("/proc/filesystems").unwrap_or_default();
    let can = rustix::process::geteuid().is_root() && known.contains("\tbtrfs");
    if !can {
        assert!(
            std::env::var_os("CI").is_none_or(|v| v != "true"),
            "with CI=true nothing may be skipped"
        );
        let thread = std::thread::current();
        let test = thread.name().unwrap_or("a test");
        // Not `eprintln!`: the test harness would keep it to itself.
        let _ = writeln!(std::io::stderr(), "SKIPPED {test}: it needs root and btrfs");
        return None;
    }
    let scratch = tempfile::tempdir().expect("a directory");
    let mut script = Command::new("unshare");
    script.args([
        "--mount",
        "--propagation",
        "private",
        "sh",
        "-c",
        SCRIPT,
        "sh",
    ]);
    script
        .arg(scratch.path())
        .arg(env!("CARGO_BIN_EXE_pc-switcher"))
        .arg(layout);
    if has_snapper {
        script.env("SNAPPER", "1");
    }
    let output = script
        .stdin(Stdio::null())
        .output()
        .expect("unshare is there");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}{errors}");
    let parts: Vec<&str> = text.split("---\n").collect();
    assert_eq!(parts.len(), 3, "{text}{errors}");
    let object: Value = serde_json::from_str(parts[2]).expect("the doctor's object");
    let checks = object["checks"].as_array().expect("a list").clone();
    Some((parts[0].to_owned(), parts[1].to_owned(), checks))
}

/// Fails the test unless `init` found and chose this, and the doctor is content with it.
#[track_caller]
fn fits(layout: &str, has_snapper: bool, said: &[&str], subvolumes: &str, snapshot_dir: &str) {
    let Some((text, config, checks)) = tried(layout, has_snapper) else {
        return;
    };
    for words in said {
        assert!(text.contains(words), "no word of {words:?} in:\n{text}");
    }
    assert!(
        config.contains(&format!("\n  subvolumes: {subvolumes}\n")),
        "{config}"
    );
    assert!(
        config.contains(&format!("\n  snapshot_dir: {snapshot_dir}\n")),
        "{config}"
    );
    let snapshots: Vec<&Value> = checks
        .iter()
        .filter(|c| c["id"] == "btrfs_snapshots")
        .collect();
    assert_eq!(snapshots.len(), 1, "{checks:#?}");
    assert_eq!(snapshots[0]["state"], "ok", "{snapshots:#?}");
    let configuration = checks.iter().find(|c| c["id"] == "config").expect("always");
    assert_eq!(configuration["state"], "ok");
}

#[test]
fn ubuntu_has_two_flat_subvolumes() {
    let layout = "@ /\n@home /home";
    let said = ["the layout of Ubuntu and Debian: subvolumes @ (/), @home (/home)"];
    fits(layout, false, &said, "[\"@\", \"@home\"]", "/.snapshots");
}

#[test]
fn fedora_has_two_others_and_snapper_perhaps() {
    let layout = "root /\nhome /home\nroot/var/lib/machines -\nroot/.snapshots -";
    let said = ["the layout of Fedora: subvolumes root (/), home (/home)"];
    fits(layout, false, &said, "[\"root\", \"home\"]", "/.snapshots");
    let said = ["/.snapshots is snapper's"];
    fits(
        layout,
        true,
        &said,
        "[\"root\", \"home\"]",
        "/.pc-switcher-snapshots",
    );
}

#[test]
fn opensuse_has_many_and_a_root_that_is_a_snapshot() {
    let layout = "@ -\n@/.snapshots -\n@/.snapshots/1/snapshot /\n@/home /home\n@/opt /opt\n@/root /root\n\
        @/srv /srv\n@/tmp /tmp\n@/usr/local -\n@/var /var\n@/boot/grub2/x86_64-efi -";
    let said = [
        "the layout of openSUSE: subvolumes @/.snapshots/1/snapshot (/), @/home (/home), @/root (/root)",
        "Snapshots will be in /var/pc-switcher-snapshots",
        "the number in the name of / is another",
    ];
    let subvolumes = "[\"@/.snapshots/1/snapshot\", \"@/home\", \"@/root\"]";
    fits(
        layout,
        false,
        &said,
        subvolumes,
        "/var/pc-switcher-snapshots",
    );
}
