//! Single files and trees brought back out of what syncs have left: to their place and beside it, from any
//! session, here and on the other machine, whatever they are called.

use std::ffi::{OsStr, OsString};
use std::fmt::Write as _;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::support::awkward;
use crate::support::lab::{ATLAS, Lab, Output, VEGA};
use crate::support::oracle;
use crate::support::scenario::{FILTER, sync_and_compare, work};

/// `pc-switcher --batch restore` on a machine, as the person.
fn restore(lab: &Lab, host: &str, args: &[&str]) -> Output {
    lab.as_dev(
        host,
        &[&["pc-switcher", "--batch", "restore"], args].concat(),
    )
}

/// Two machines that have been synced once; vega had `text` in its own file `doc`.
fn synced(lab: &Lab) {
    for host in [ATLAS, VEGA] {
        lab.configure(host, FILTER);
    }
    write(lab, VEGA, "doc", "vega's own\n");
    write(lab, ATLAS, "doc", "of atlas, and longer\n");
    sync_and_compare(lab, &["--allow-mass-delete"]);
    // The first sync has replaced it.
    lab.configure(VEGA, FILTER);
}

fn write(lab: &Lab, host: &str, path: &str, text: &str) {
    let path = lab.dev(host).join(path);
    fs::create_dir_all(path.parent().expect("it is in the home")).expect("writable");
    fs::write(path, text).expect("writable");
}

fn read(lab: &Lab, host: &str, path: &str) -> String {
    fs::read_to_string(lab.dev(host).join(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
}

#[test]
fn what_a_sync_replaced_or_deleted_comes_back_and_nothing_is_overwritten_unasked() {
    let Some(lab) = Lab::fresh() else { return };
    write(&lab, VEGA, "only/vega", "precious\n");
    synced(&lab);
    assert!(!lab.dev(VEGA).join("only").exists());

    // Deleted by the sync: nothing is in its place, so nothing is asked.
    let done = restore(&lab, VEGA, &["only/vega"]).ok();
    assert!(done.stdout.contains("before session"), "{}", done.text());
    assert_eq!(read(&lab, VEGA, "only/vega"), "precious\n");

    // Replaced by the sync: asked about, which cannot be here.
    for args in [&["doc"][..], &["doc", "--dry-run"]] {
        let run = restore(&lab, VEGA, args);
        if args.len() == 1 {
            let refused = run.expect(4);
            assert!(refused.stderr.contains("--yes"), "{}", refused.text());
        } else {
            let dry = run.ok();
            assert!(dry.stdout.contains("* /home/dev/doc"), "{}", dry.text());
            assert!(dry.stdout.contains("Would restore"), "{}", dry.text());
        }
        assert_eq!(read(&lab, VEGA, "doc"), "of atlas, and longer\n");
    }
    restore(&lab, VEGA, &["doc", "--yes"]).ok();
    assert_eq!(read(&lab, VEGA, "doc"), "vega's own\n");
    // Now the newest other version is the one that the sync brought.
    let done = restore(&lab, VEGA, &["doc", "-y"]).ok();
    assert!(done.stdout.contains("after session"), "{}", done.text());
    assert_eq!(read(&lab, VEGA, "doc"), "of atlas, and longer\n");

    // Over SSH, from the machine that has no such version itself.
    write(&lab, VEGA, "doc", "changed since\n");
    let session = last_session(&lab);
    let args = [
        "--host",
        VEGA,
        "--session",
        &session[..5],
        "/home/dev/doc",
        "--yes",
    ];
    restore(&lab, ATLAS, &args).ok();
    assert_eq!(read(&lab, VEGA, "doc"), "vega's own\n");
    assert_eq!(read(&lab, ATLAS, "doc"), "of atlas, and longer\n");
    lab.assert_nothing_left_running();

    // A source keeps snapshots as well.
    fs::remove_file(lab.dev(ATLAS).join("doc")).expect("writable");
    restore(&lab, ATLAS, &["doc"]).ok();
    assert_eq!(read(&lab, ATLAS, "doc"), "of atlas, and longer\n");
    let same = restore(&lab, ATLAS, &["doc"]).ok();
    assert!(
        same.stdout.contains("nothing to restore"),
        "{}",
        same.text()
    );

    for (args, words) in [
        (&["never was"][..], "is in no snapshot"),
        (&["/home"], "whole subvolume"),
        (&["/proc/version"], "is in no"),
        (&["--session", "ffffffff", "doc"], "no session is called"),
        (&["--to", "nowhere", "doc"], "cannot be used"),
    ] {
        let wrong = restore(&lab, ATLAS, args).expect(2);
        assert!(wrong.stderr.contains(words), "{args:?}: {}", wrong.text());
    }
    let versions = restore(&lab, VEGA, &["--list", "doc"]).ok().stdout;
    assert_eq!(versions.lines().count(), 3, "{versions}");
    // The next sync takes it for what it is: work of the person.
    sync_and_compare(&lab, &["--allow-mass-delete", "--allow-out-of-order"]);
}

fn last_session(lab: &Lab) -> String {
    let lines = lab.pc_switcher(&["history", "--json"]).ok().stdout;
    let last = lines.lines().last().expect("a session");
    let last: serde_json::Value = serde_json::from_str(last).expect("JSON");
    last["session"].as_str().expect("a name").to_owned()
}

#[test]
fn a_tree_comes_back_with_everything_about_it() {
    let Some(lab) = Lab::fresh() else { return };
    for host in [ATLAS, VEGA] {
        lab.configure(host, FILTER);
    }
    let tree = work(&lab, ATLAS);
    awkward::build(&tree).expect("the awkward tree");
    // A directory further in it would be too deep for rsync; and of a clone the kernel calls data what
    // was only preallocated.
    fs::remove_dir_all(tree.join("deep")).expect("it is there");
    fs::remove_file(tree.join("documents/preallocated")).expect("it is there");
    sync_and_compare(&lab, &["--allow-mass-delete"]);
    let kept = oracle::snapshot(&lab, ATLAS, "@home", "kept").join("dev/work");
    let same = |now: &Path| {
        oracle::assert_trees_equal(&kept, now, &[]);
        let flags = [oracle::lsattr(&kept), oracle::lsattr(now)];
        assert_eq!(flags[0], flags[1]);
    };

    // Gone altogether, with a place beside it that stays.
    write(&lab, ATLAS, "beside", "stays\n");
    awkward::unlock(&tree).expect("root may");
    fs::remove_dir_all(&tree).expect("root may");
    restore(&lab, ATLAS, &["work"]).ok();
    same(&tree);
    assert_eq!(read(&lab, ATLAS, "beside"), "stays\n");

    // To another directory, which keeps what it has.
    lab.as_dev(ATLAS, &["mkdir", "other"]).ok();
    write(&lab, ATLAS, "other/mine", "stays\n");
    restore(&lab, ATLAS, &["work", "--to", "other"]).ok();
    same(&lab.dev(ATLAS).join("other/work"));
    assert_eq!(read(&lab, ATLAS, "other/mine"), "stays\n");

    // Over one that was changed; what is new in it stays.
    awkward::unlock(&tree).expect("root may");
    let first = fs::read_dir(&tree).expect("readable").next();
    let first = first.expect("it is not empty").expect("readable").path();
    if first.is_dir() {
        fs::remove_dir_all(&first).expect("root may");
    } else {
        fs::remove_file(&first).expect("root may");
    }
    fs::write(tree.join("new"), "stays\n").expect("writable");
    restore(&lab, ATLAS, &["work"]).expect(4);
    restore(&lab, ATLAS, &["work", "--yes"]).ok();
    assert_eq!(read(&lab, ATLAS, "work/new"), "stays\n");
    fs::remove_file(tree.join("new")).expect("writable");
    // Nothing but the time of a directory is another one: of a session that is named that comes back too.
    let times = restore(&lab, ATLAS, &["work"]).ok();
    assert!(
        times.stdout.contains("nothing to restore"),
        "{}",
        times.text()
    );
    restore(&lab, ATLAS, &["work", "--session", &last_session(&lab)]).ok();
    same(&tree);
    for top in [lab.home(ATLAS), lab.dev(ATLAS).join("other")] {
        assert!(!top.join(".pc-switcher-staging").exists());
    }
}

/// Names that are options, patterns or control sequences to somebody.
const NAMES: [&[u8]; 7] = [
    b"new\nline",
    b"\x1b[2J\x1b]0;title\x07",
    b"\xff\xfe",
    b"--to",
    b"*",
    b"e\xcc\x81",
    b"\xc3\xa9",
];

#[test]
fn names_that_attack_are_restored_like_others_and_shown_harmlessly() {
    let Some(lab) = Lab::fresh() else { return };
    for host in [ATLAS, VEGA] {
        lab.configure(host, FILTER);
    }
    let long = vec![b'x'; 255];
    let names: Vec<&[u8]> = NAMES.into_iter().chain([&long[..]]).collect();
    let directory = work(&lab, ATLAS);
    let path = |name: &[u8]| directory.join(OsStr::from_bytes(name));
    for name in &names {
        fs::write(path(name), name).expect("writable");
    }
    sync_and_compare(&lab, &["--allow-mass-delete"]);
    for name in &names {
        fs::remove_file(path(name)).expect("writable");
    }
    fs::write(directory.join("beside"), "stays").expect("writable");
    // Arguments of the lab are text, so a script finds them: all that the snapshot has.
    let script = "cd work && pc-switcher --batch restore -- \"$@\"";
    let listed: Vec<OsString> = names
        .iter()
        .map(|n| OsStr::from_bytes(n).to_owned())
        .collect();
    let quoted: Vec<String> = listed.iter().map(|name| quote(name)).collect();
    let script = format!("set -- {}; {script}", quoted.join(" "));
    let done = lab.as_dev(ATLAS, &["bash", "-c", &script]).ok();
    assert!(!done.text().contains('\u{1b}'), "{:?}", done.text());
    for name in &names {
        assert_eq!(fs::read(path(name)).expect("it is back"), *name);
    }
    let count = fs::read_dir(&directory).expect("readable").count();
    assert_eq!(count, names.len() + 1);
}

/// A word for bash, in ASCII whatever is in it.
fn quote(name: &OsStr) -> String {
    let mut hex = String::new();
    for byte in name.as_bytes() {
        let _ = write!(hex, "\\x{byte:02x}");
    }
    format!("$'{hex}'")
}

#[test]
fn nothing_is_written_or_read_through_a_link_that_somebody_put_in_the_way() {
    let Some(lab) = Lab::fresh() else { return };
    for host in [ATLAS, VEGA] {
        lab.configure(host, FILTER);
    }
    write(&lab, ATLAS, "dir/file", "mine\n");
    lab.as_dev(ATLAS, &["ln", "-s", "/etc", "to-etc"]).ok();
    sync_and_compare(&lab, &["--allow-mass-delete"]);
    // Where the directory was is a link now.
    fs::remove_dir_all(lab.dev(ATLAS).join("dir")).expect("writable");
    lab.as_dev(ATLAS, &["ln", "-s", "/etc", "dir"]).ok();
    let passwd = lab
        .exec(ATLAS, &["stat", "-c", "%Y %i", "/etc/passwd"])
        .ok()
        .stdout;
    // Named through another machine's eyes the path is taken as it is typed.
    let there = ["--host", ATLAS, "--yes", "/home/dev/dir/file"];
    let blocked = restore(&lab, VEGA, &there).expect(1);
    assert!(blocked.text().contains("in the way"), "{}", blocked.text());
    lab.exec(ATLAS, &["test", "!", "-e", "/etc/file"]).ok();
    for to in ["/home/dev/dir", "/home/dev/to-etc"] {
        let there = ["--host", ATLAS, "--yes", "--to", to, "/home/dev/to-etc"];
        let refused = restore(&lab, VEGA, &there);
        assert!(!matches!(refused.status, Some(0 | 8)), "{}", refused.text());
        lab.exec(ATLAS, &["test", "!", "-e", "/etc/to-etc"]).ok();
    }
    // A link in a snapshot is a link, and leads nowhere.
    let there = [
        "--host",
        ATLAS,
        "--to",
        "/home/dev",
        "/home/dev/to-etc/passwd",
    ];
    restore(&lab, VEGA, &there).expect(2);
    let now = lab
        .exec(ATLAS, &["stat", "-c", "%Y %i", "/etc/passwd"])
        .ok()
        .stdout;
    assert_eq!(now, passwd);
    let link = fs::symlink_metadata(lab.dev(ATLAS).join("dir")).expect("it is there");
    assert!(link.is_symlink() && link.uid() != 0);
}
