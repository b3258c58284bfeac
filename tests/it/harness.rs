//! The oracles are judged first: an oracle that cannot fail is worthless.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::fs::{FileType, IFlags};
use rustix::process::Signal;

use crate::support::awkward::{
    self, chmod, chown, make_node, set_flags, set_mtime, set_xattr, some_acl,
};
use crate::support::lab::{ATLAS, Lab, VEGA};
use crate::support::oracle;
use crate::support::processes;
use crate::support::random;
use crate::support::tree::{Aspect, Tree, bytes};

/// What is planted on one side, in which aspect it must be found, and whether rsync must find it too.
type Planted = (&'static str, Aspect, bool, fn(&Path) -> std::io::Result<()>);

const PLANTED: &[Planted] = &[
    ("a missing file", Aspect::Presence, true, |d| {
        fs::remove_file(d.join("file"))
    }),
    ("one file more", Aspect::Presence, true, |d| {
        fs::write(d.join("more"), "")
    }),
    ("another kind", Aspect::Kind, true, |d| {
        fs::remove_file(d.join("fifo"))?;
        make_node(&d.join("fifo"), FileType::Socket, 0o600, 0)
    }),
    ("setuid", Aspect::Mode, true, |d| {
        chmod(&d.join("file"), 0o4644)
    }),
    ("the sticky bit of a directory", Aspect::Mode, true, |d| {
        chmod(&d.join("directory"), 0o1755)
    }),
    ("an owner", Aspect::Owner, true, |d| {
        chown(&d.join("file"), 4321, 1000)
    }),
    ("a symlink's group", Aspect::Owner, true, |d| {
        chown(&d.join("symlink"), 0, 4321)
    }),
    ("one nanosecond of a file", Aspect::Mtime, true, |d| {
        set_mtime(&d.join("file"), 1_000_000_000, 124)
    }),
    ("one nanosecond of a directory", Aspect::Mtime, true, |d| {
        set_mtime(&d.join("directory"), 1_000_000_000, 124)
    }),
    ("one nanosecond of a symlink", Aspect::Mtime, true, |d| {
        set_mtime(&d.join("symlink"), 1_000_000_000, 124)
    }),
    ("one byte, time and size kept", Aspect::Content, true, |d| {
        fs::write(d.join("file"), "contenT")?;
        set_mtime(&d.join("file"), 1_000_000_000, 123)
    }),
    ("a symlink's text", Aspect::Content, true, |d| {
        fs::remove_file(d.join("symlink"))?;
        symlink("elsewhere", d.join("symlink"))?;
        set_mtime(&d.join("symlink"), 1_000_000_000, 123)
    }),
    ("a device's number", Aspect::Content, true, |d| {
        fs::remove_file(d.join("device"))?;
        let zero = rustix::fs::makedev(1, 5);
        make_node(&d.join("device"), FileType::CharacterDevice, 0o600, zero)
    }),
    ("a user xattr", Aspect::Xattrs, true, |d| {
        set_xattr(&d.join("file"), "user.x", b"2")
    }),
    ("a trusted xattr", Aspect::Xattrs, true, |d| {
        set_xattr(&d.join("symlink"), "trusted.x", b"2")
    }),
    ("a capability", Aspect::Xattrs, true, |d| {
        set_xattr(
            &d.join("file"),
            "security.capability",
            &awkward::capability(),
        )
    }),
    ("an ACL", Aspect::Xattrs, true, |d| {
        set_xattr(
            &d.join("directory"),
            "system.posix_acl_access",
            &some_acl(5),
        )
    }),
    ("a default ACL", Aspect::Xattrs, true, |d| {
        set_xattr(
            &d.join("directory"),
            "system.posix_acl_default",
            &some_acl(5),
        )
    }),
    ("+i", Aspect::Flags, false, |d| {
        set_flags(&d.join("file"), IFlags::IMMUTABLE)
    }),
    ("+d on a directory", Aspect::Flags, false, |d| {
        set_flags(&d.join("directory"), IFlags::NODUMP)
    }),
    (
        "a hard link that became a copy",
        Aspect::HardLinks,
        false,
        |d| {
            fs::remove_file(d.join("name 2"))?;
            fs::write(d.join("name 2"), "linked")?;
            set_mtime(&d.join("name 2"), 1_000_000_000, 123)
        },
    ),
    (
        "a copy that became a hard link",
        Aspect::HardLinks,
        false,
        |d| {
            fs::remove_file(d.join("same 2"))?;
            fs::hard_link(d.join("same 1"), d.join("same 2"))
        },
    ),
    ("a filled hole", Aspect::Holes, false, |d| {
        fs::write(d.join("sparse"), vec![0; 1 << 20])?;
        set_mtime(&d.join("sparse"), 1_000_000_000, 123)
    }),
];

fn small_tree(root: &Path) -> std::io::Result<()> {
    fs::create_dir_all(root)?;
    fs::write(root.join("file"), "content")?;
    fs::create_dir(root.join("directory"))?;
    symlink("target", root.join("symlink"))?;
    make_node(&root.join("fifo"), FileType::Fifo, 0o600, 0)?;
    let null = rustix::fs::makedev(1, 3);
    make_node(&root.join("device"), FileType::CharacterDevice, 0o600, null)?;
    fs::write(root.join("name 1"), "linked")?;
    fs::hard_link(root.join("name 1"), root.join("name 2"))?;
    fs::write(root.join("same 1"), "same")?;
    fs::write(root.join("same 2"), "same")?;
    fs::File::create(root.join("sparse"))?.set_len(1 << 20)?;
    for entry in fs::read_dir(root)? {
        set_mtime(&entry?.path(), 1_000_000_000, 123)?;
    }
    Ok(())
}

/// The same again beside it, made by the same steps.
fn two_trees(lab: &Lab, name: &str) -> (PathBuf, PathBuf) {
    let left = lab.home(ATLAS).join(name);
    let right = lab.home(VEGA).join(name);
    small_tree(&left).expect("a small tree");
    small_tree(&right).expect("a small tree");
    (left, right)
}

#[test]
fn every_planted_difference_is_found_and_nothing_else() {
    let Some(lab) = Lab::fresh() else { return };
    for (what, aspect, for_rsync, plant) in PLANTED {
        let (left, right) = two_trees(&lab, "planted");
        let equalise = |root: &Path| set_mtime(root, 1_000_000_000, 123).expect("root may");
        equalise(&left);
        equalise(&right);
        let none = |_: &[u8]| false;
        let before = oracle::differences(&left, &right, &none).expect("readable");
        assert_eq!(before, [], "before {what}");
        assert_eq!(oracle::rsync(&left, &right, &[]), [""; 0], "before {what}");

        plant(&right).unwrap_or_else(|e| panic!("{what}: {e}"));
        equalise(&right);
        for (here, there) in [(&left, &right), (&right, &left)] {
            let found = oracle::differences(here, there, &none).expect("readable");
            // Seen from the other side a filled hole is a block of zeroes that became a hole.
            let seen = if *aspect == Aspect::Holes && here == &right {
                Aspect::ZeroData
            } else {
                *aspect
            };
            assert!(
                !oracle::of(&found, seen).is_empty(),
                "{what} was not found: {found:?}"
            );
            if *for_rsync {
                assert!(
                    !oracle::rsync(here, there, &[]).is_empty(),
                    "rsync did not find {what}"
                );
            }
        }
        if *aspect == Aspect::Flags {
            assert_ne!(oracle::lsattr(&left), oracle::lsattr(&right), "{what}");
        }
        for root in [&left, &right] {
            awkward::unlock(root).expect("root may");
            fs::remove_dir_all(root).expect("root may");
        }
    }
}

#[test]
fn an_awkward_home_equals_its_snapshot_and_not_a_naive_copy() {
    let Some(lab) = Lab::fresh() else { return };
    let home = lab.dev(ATLAS);
    awkward::build(&home).expect("the awkward home");
    let tree = Tree::read(&home).expect("readable");
    assert!(tree.entries.len() > 2000, "{}", tree.entries.len());
    let deepest = tree.entries.keys().map(Vec::len).max();
    assert!(deepest > Some(20_000), "{deepest:?}");
    assert!(tree.hard_links().iter().any(|g| g.len() == 61));

    let snapshot = oracle::snapshot(&lab, ATLAS, "@home", "same").join("dev");
    let none = |_: &[u8]| false;
    assert_eq!(
        oracle::differences(&home, &snapshot, &none).expect("readable"),
        []
    );
    assert_eq!(oracle::rsync(&home, &snapshot, &["/deep"]), [""; 0]);

    // A faithful tool makes a copy that rsync accepts: the fixture is not beyond what can be copied.
    let copy = lab.home(VEGA).join("copied");
    fs::create_dir(&copy).expect("writable");
    let status = Command::new("rsync")
        .args(["-aHAXS", "--numeric-ids", "--exclude=/deep"])
        .args([
            format!("{}/", home.display()),
            format!("{}/", copy.display()),
        ])
        .status();
    assert!(status.expect("rsync is there").success());
    assert_eq!(oracle::rsync(&home, &copy, &["/deep"]), [""; 0]);
    // And rsync loses what it cannot carry, which our own reader sees.
    let deep = |path: &[u8]| path == b"deep";
    let found = oracle::differences(&home, &copy, &deep).expect("readable");
    assert!(!oracle::of(&found, Aspect::Flags).is_empty());
}

#[test]
fn the_kernel_names_exactly_what_was_touched() {
    let Some(lab) = Lab::fresh() else { return };
    let home = lab.dev(VEGA);
    random::tree(&home, 7, 50).expect("a tree");
    fs::write(home.join("edited"), "before").expect("writable");
    fs::write(home.join("renamed"), "x").expect("writable");
    fs::write(home.join("deleted \n\u{e9}"), "x").expect("writable");
    let before = oracle::snapshot(&lab, VEGA, "@home", "before");
    let same = oracle::snapshot(&lab, VEGA, "@home", "same");
    assert!(oracle::kernel_diff(&before, &same).is_empty());

    fs::write(home.join("edited"), "after!").expect("writable");
    fs::rename(home.join("renamed"), home.join("new name")).expect("writable");
    fs::remove_file(home.join("deleted \n\u{e9}")).expect("writable");
    fs::write(home.join("created"), "x").expect("writable");
    let after = oracle::snapshot(&lab, VEGA, "@home", "after");
    let named = oracle::kernel_diff(&before, &after);
    let expected = [
        "dev",
        "dev/created",
        "dev/deleted \n\u{e9}",
        "dev/edited",
        "dev/new name",
        "dev/renamed",
    ];
    assert_eq!(
        named,
        expected
            .iter()
            .map(|p| bytes(Path::new(p)).to_vec())
            .collect()
    );
}

#[test]
fn a_generation_moves_with_one_write_and_not_without() {
    let Some(lab) = Lab::fresh() else { return };
    let before = oracle::generations(&lab, VEGA);
    assert_eq!(before["@home"], oracle::generations(&lab, VEGA)["@home"]);
    lab.as_dev(VEGA, &["touch", "touched"]).ok();
    assert!(oracle::generations(&lab, VEGA)["@home"] > before["@home"]);
}

#[test]
fn a_left_over_process_mount_or_file_is_found() {
    let Some(lab) = Lab::fresh() else { return };
    assert_eq!(lab.left_running(VEGA), [""; 0]);
    let plant = "cp /bin/sleep /usr/local/bin/pc-switcher; setsid pc-switcher 60 >/dev/null 2>&1 </dev/null &
        mkdir -p /run/pc-switcher/agent /mnt/x; touch /run/pc-switcher/lock /run/pc-switcher/agent/binary; mount -t tmpfs x /mnt/x";
    lab.exec(VEGA, &["sh", "-c", plant]).ok();
    let left = lab.left_running(VEGA);
    for what in ["process", "mount", "file"] {
        assert!(
            left.iter().any(|l| l.starts_with(what)),
            "no {what}: {left:?}"
        );
    }
    assert!(!left.iter().any(|l| l.contains("/lock")), "{left:?}");
    let lock = fs::File::open(lab.inside(VEGA).join("run/pc-switcher/lock")).expect("planted");
    lock.lock().expect("nobody else has it");
    let left = lab.left_running(VEGA);
    assert!(left.iter().any(|l| l.starts_with("lock held")), "{left:?}");
    drop(lock);
    let planted = processes::all(&lab, VEGA);
    let planted = planted.iter().find(|p| p.is_program());
    assert!(planted.is_some_and(|p| p.signal(Signal::KILL)));
    lab.exec(VEGA, &["sh", "-c", "umount /mnt/x; rm -r /run/pc-switcher"])
        .ok();
    assert_eq!(lab.left_running(VEGA), [""; 0]);
    assert_eq!(lab.left_running(ATLAS), [""; 0]);
}

#[test]
fn a_reset_machine_is_pristine_and_reachable() {
    let Some(lab) = Lab::fresh() else { return };
    lab.exec(VEGA, &["sh", "-c", "touch /planted /home/dev/planted; btrfs -q subvolume create /home/dev/nested; chattr +i /home/dev/planted"]).ok();
    lab.verb(&["cut", "down"]).ok();
    drop(lab);
    let Some(lab) = Lab::fresh() else { return };
    assert!(!lab.disk(VEGA).join("@/planted").exists());
    assert!(!lab.dev(VEGA).join("planted").exists());
    assert!(!lab.dev(VEGA).join("nested").exists());
    let hostname = lab.as_dev(ATLAS, &["ssh", "vega", "sudo", "cat", "/etc/hostname"]);
    assert_eq!(hostname.ok().stdout, "vega\n");
    let absent = lab.exec(VEGA, &["test", "-e", "/usr/local/bin/pc-switcher"]);
    assert_eq!(absent.status, Some(1));
}

#[test]
fn the_same_seed_makes_the_same_tree_and_the_same_changes() {
    let Some(lab) = Lab::fresh() else { return };
    let read = |host| {
        let root = lab.dev(host).join("random");
        fs::create_dir_all(&root).expect("writable");
        root
    };
    let (left, right) = (read(ATLAS), read(VEGA));
    for root in [&left, &right] {
        random::tree(root, 42, 300).expect("a tree");
        random::mutate(root, 43, 100).expect("changes");
    }
    let found = oracle::differences(&left, &right, &|_| false).expect("readable");
    // Times nobody set are those of the clock.
    let unexplained: Vec<_> = found.iter().filter(|d| d.aspect != Aspect::Mtime).collect();
    assert!(unexplained.is_empty(), "{unexplained:?}");
    let before = Tree::read(&left).expect("readable");
    random::mutate(&left, 44, 20).expect("changes");
    assert!(
        before
            .differences(&Tree::read(&left).expect("readable"))
            .len()
            > 5
    );
}
