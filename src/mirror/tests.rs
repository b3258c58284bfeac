//! The mirror as a whole, on real btrfs, against rsync as the judge.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::testing::Pair;
use crate::sys::command::command;
use crate::sys::testing::TestBtrfs;

pub(super) struct Lab {
    /// Mounted as long as it is here.
    pub disk: TestBtrfs,
    pub from: PathBuf,
    pub to: PathBuf,
}

pub(super) fn lab() -> Option<Lab> {
    let disk = TestBtrfs::new()?;
    let (from, to) = (disk.top().join("from"), disk.top().join("to"));
    fs::create_dir(&from).unwrap();
    fs::create_dir(&to).unwrap();
    Some(Lab { disk, from, to })
}

pub(super) fn sh(dir: &Path, script: &str) {
    let status = command("bash")
        .args(["-euo", "pipefail", "-c", script])
        .current_dir(dir)
        .status()
        .unwrap();
    assert!(status.success(), "{script}");
}

/// What rsync would still do; nothing if the trees are equal.
pub(super) fn rsync_differences(from: &Path, to: &Path) -> String {
    let output = command("rsync")
        .args(["-aHAXScni", "-@-1", "--delete", "--numeric-ids"])
        .arg(format!("{}/", from.display()))
        .arg(format!("{}/", to.display()))
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

pub(super) fn lsattr(dir: &Path) -> String {
    let output = command("bash")
        .args([
            "-c",
            "find . -xdev \\( -type f -o -type d \\) -print0 | sort -z | xargs -0 lsattr -d",
        ])
        .current_dir(dir)
        .output()
        .unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn assert_equal(lab: &Lab) {
    assert_eq!(rsync_differences(&lab.from, &lab.to), "");
    assert_eq!(lsattr(&lab.from), lsattr(&lab.to));
    assert!(!lab.to.join(".pc-switcher-staging").exists());
}

pub(super) const AWKWARD: &str = r#"
umask 022
mkdir -p d/sub empty 'with space' ro
echo hello >d/file; chmod 4755 d/file; chown 1000:1000 d/file
echo x >d/sub/x; touch -d '1950-01-01 00:00:00.123456789' d/sub/x
touch -d '2100-01-01 00:00:00.987654321' d/sub
: >$'new\nline'; : >$'\xff\xfe'; : >-dash; : >$'\e[31m'
ln -s /nonexistent dangling; ln -s ../x d/rel; touch -h -d '1960-01-01 00:00:00.5' dangling
mkfifo fifo; mknod null c 1 3; mknod zero c 0 0; mknod blk b 7 250
perl -MIO::Socket::UNIX -e 'IO::Socket::UNIX->new(Local => "sock") or die "no socket: $!"'
ln d/file d/sub/link; ln d/file top-link; ln -P dangling d/dangling2; ln null d/null2
truncate -s 10M sparse; printf data | dd of=sparse bs=1 seek=5000000 conv=notrunc status=none
fallocate -l 1M prealloc
setfacl -m u:1234:rwx d/file; setfacl -d -m g:4321:r d
setfattr -n user.test -v value d/file; setfattr -n trusted.secret -v 0sAAEC d/sub
setfattr -h -n trusted.onlink -v 1 dangling
cp /bin/true caps; setcap cap_net_raw+ep caps
: >nocow; chattr +C nocow; echo data >nocow
echo c >compressed; chattr +c compressed
echo i >immutable; chattr +i immutable; echo a >append; chattr +a append
echo m >many; chattr +ASdi many; mkdir dmany; chattr +dA dmany
mkdir idir; echo in >idir/f; touch -d '2001-01-01 01:01:01.111' idir; chattr +i idir
chmod 0 ro; chmod 1777 empty; chmod 2755 'with space'
head -c 3000000 /dev/urandom >big
: >$(printf "x%.0s" $(seq 255))
chown -h 1000:1001 d dangling; touch -d '1999-09-09 09:09:09.9' d
"#;

pub(super) const CLEAN: &str = "chattr -R -f -i -a . 2>/dev/null || true";

#[test]
fn awkward_trees_arrive_exactly_and_a_second_run_finds_nothing() {
    let Some(lab) = lab() else { return };
    sh(&lab.from, AWKWARD);
    let mut pair = Pair::new();
    let outcome = pair.mirror(&lab.from, &lab.to, "");
    assert_eq!(pair.complaints, Vec::<String>::new());
    assert_eq!(outcome.applied.errors, 0);
    assert_equal(&lab);
    let again = pair.mirror(&lab.from, &lab.to, "");
    assert_eq!(again.changes, vec![]);
    let (_, verify) = pair.scan(&lab.from, &lab.to, "", true).unwrap();
    assert_eq!(
        verify.plan.unwrap(),
        super::wire::PlanTotals {
            existing: again.scan.items,
            ..Default::default()
        }
    );
    sh(&lab.from, CLEAN);
    sh(&lab.to, CLEAN);
}

#[test]
fn a_new_tree_takes_one_move_and_what_is_there_one_each() {
    let Some(lab) = lab() else { return };
    sh(
        &lab.from,
        "mkdir -p new/a/b; echo 1 >new/1; ln -s x new/a/link; echo 2 >new/a/b/2; setfacl -d -m u:1000:rwx new/a; chmod 2775 new/a/b; chattr +i new/1",
    );
    let mut pair = Pair::new();
    let applied = pair.mirror(&lab.from, &lab.to, "").applied;
    // As many things as are made together in tests, the folder's own time not among them.
    assert_eq!((applied.items, applied.moves, applied.errors), (7, 1, 0));
    assert_equal(&lab);
    sh(
        &lab.from,
        "chattr -i new/1; echo more >new/1; echo 3 >new/a/3; mkdir -p new/c/d/e",
    );
    let applied = pair.mirror(&lab.from, &lab.to, "").applied;
    assert_eq!(applied.moves, 3);
    assert_equal(&lab);
}

#[test]
fn what_is_linked_to_a_first_name_in_doubt_comes_after_it() {
    let Some(lab) = lab() else { return };
    // Of equal size and time: one differs in its mode, one in its content, and both were touched.
    sh(
        &lab.from,
        "echo same >mode; echo new >text; chmod 600 mode; ln mode mode-2; ln text text-2; touch -d @9 *",
    );
    sh(
        &lab.to,
        "echo same >mode; echo old >text; ln mode other; ln text third; touch -d @9 *",
    );
    let mut pair = Pair::new();
    pair.equal_at = Some(super::entry::Time { secs: 1, nanos: 0 });
    let outcome = pair.mirror(&lab.from, &lab.to, "");
    assert_eq!(pair.complaints, Vec::<String>::new());
    assert_eq!(outcome.applied.errors, 0);
    assert_equal(&lab);
}

#[test]
fn every_kind_of_change_converges_in_both_directions() {
    let Some(lab) = lab() else { return };
    sh(&lab.from, AWKWARD);
    let mut pair = Pair::new();
    pair.mirror(&lab.from, &lab.to, "");
    sh(
        &lab.from,
        r"
chattr -i immutable; echo more >>immutable; chattr +i immutable
chattr -i idir; echo new >idir/g; chattr +i idir
echo more >>append
rm -r d/sub; echo now-a-file >d/sub
rm fifo; mkdir fifo; echo in >fifo/x
chmod 600 caps; setcap -r caps
setfattr -x user.test d/file
setfacl -k d
mv big renamed; rm top-link; ln d/file other-link
chattr -C nocow 2>/dev/null || true
truncate -s 5M sparse
chattr -a append; rm append; ln -s elsewhere append
chmod 755 ro; echo x >ro/x
",
    );
    let outcome = pair.mirror(&lab.from, &lab.to, "");
    assert_eq!(
        pair.complaints,
        Vec::<String>::new(),
        "{:?}",
        outcome.changes
    );
    assert_equal(&lab);
    // And back: the other one changes.
    sh(
        &lab.to,
        "rm -r 'with space' renamed; echo back >d/back; mkdir -p new/deep/er; : >new/deep/er/f",
    );
    let back = Lab {
        from: lab.to.clone(),
        to: lab.from.clone(),
        disk: lab.disk,
    };
    pair.mirror(&back.from, &back.to, "");
    assert_eq!(pair.complaints, Vec::<String>::new());
    assert_equal(&back);
    sh(&back.from, CLEAN);
    sh(&back.to, CLEAN);
}

#[test]
fn the_listed_plan_names_every_path_once() {
    let Some(lab) = lab() else { return };
    sh(
        &lab.from,
        "mkdir a; echo 1 >a/f; echo 2 >g; echo same >same; touch -d @5 same",
    );
    sh(
        &lab.to,
        "mkdir z; echo 3 >z/f; echo 22 >g; echo same >same; touch -d @5 same; chmod 600 same",
    );
    let outcome = Pair::new().mirror(&lab.from, &lab.to, "");
    let mut changes = outcome.changes;
    changes.sort();
    let expected = [
        ('*', "g"),
        ('+', "a"),
        ('+', "a/f"),
        ('-', "z"),
        ('-', "z/f"),
        ('.', ""),
        ('.', "same"),
    ];
    assert_eq!(changes, expected.map(|(c, p)| (c, p.to_owned())));
    assert_equal(&lab);
}

#[test]
fn excluded_paths_mounts_and_nested_subvolumes_survive() {
    let Some(lab) = lab() else { return };
    sh(
        &lab.from,
        "mkdir keep; echo s >keep/s; echo secret >excluded; mkdir cache; echo c >cache/c",
    );
    sh(&lab.to, "
mkdir -p gone/deep mnt cache old; echo mine >excluded; echo t >cache/t; echo o >old/excluded; echo x >gone/deep/x
btrfs -q subvolume create nested >/dev/null; echo n >nested/n
mount -t tmpfs none mnt; echo m >mnt/m
");
    let mut pair = Pair::new();
    let rules = "excluded\n/cache/\n";
    pair.mirror(&lab.from, &lab.to, rules);
    let read = |path: &str| fs::read_to_string(lab.to.join(path)).ok();
    let kept = [
        "excluded",
        "cache/t",
        "old/excluded",
        "nested/n",
        "mnt/m",
        "keep/s",
    ]
    .map(read);
    sh(&lab.to, "umount mnt");
    assert_eq!(
        kept.map(Option::unwrap_or_default),
        ["mine\n", "t\n", "o\n", "n\n", "m\n", "s\n"]
    );
    assert!(!lab.to.join("gone").exists() && !lab.to.join("cache/c").exists());
}

#[test]
fn where_a_name_cannot_be_made_the_others_of_its_file_are_made_without_it() {
    let Some(lab) = lab() else { return };
    // Of each file the first name meets something that stays: a directory with something excluded in it, a nested
    // subvolume, one on the way; of `c` the second, too.
    sh(
        &lab.from,
        "
mkdir a d z; for n in b c d/in; do echo content >$n; done
ln b z/b; ln b z/bb; chattr +i b; ln c a/c; ln c z/c; ln c z/cc; ln d/in z/d; ln d/in z/dd
",
    );
    sh(
        &lab.to,
        "
mkdir -p b/cache a/c/cache
btrfs -q subvolume create c >/dev/null; btrfs -q subvolume create d >/dev/null
",
    );
    let mut pair = Pair::new();
    let mut mirror = || {
        let outcome = pair.mirror(&lab.from, &lab.to, "cache/");
        assert_eq!(outcome.applied.errors, 0, "{:?}", pair.complaints);
        outcome.changes
    };
    assert_ne!(mirror(), []);
    for (one, other) in [("z/b", "z/bb"), ("z/c", "z/cc"), ("z/d", "z/dd")] {
        let [one, other] = [one, other].map(|name| fs::metadata(lab.to.join(name)).unwrap());
        assert_eq!((one.ino(), one.nlink()), (other.ino(), 2));
        assert_eq!(one.len(), 8);
    }
    assert!(lab.to.join("a/c/cache").exists());
    assert_eq!(mirror(), []);
}

#[test]
fn a_file_keeps_its_flags_when_one_of_its_names_gives_way() {
    let Some(lab) = lab() else { return };
    // To a directory, to a file, and to nothing.
    sh(
        &lab.from,
        "mkdir x; echo >x/in; echo new >y; echo x >keep; ln keep too; touch -d @1 keep; chattr +ia keep",
    );
    sh(
        &lab.to,
        "echo x >keep; touch -d @1 keep; for n in too x y z; do ln keep $n; done; chattr +ia keep",
    );
    let outcome = Pair::new().mirror(&lab.from, &lab.to, "");
    assert_eq!(outcome.applied.errors, 0);
    assert_equal(&lab);
    for top in [&lab.from, &lab.to] {
        sh(top, "lsattr keep | grep -q '^-*ia-* '; chattr -ia keep");
    }
}

#[test]
fn something_changed_since_the_plan_is_left_alone_and_named() {
    let Some(lab) = lab() else { return };
    sh(&lab.from, "echo new >a; echo new >b; echo c >c");
    sh(&lab.to, "echo old >a; echo old >d; echo old >b");
    let mut pair = Pair::new();
    pair.scan(&lab.from, &lab.to, "", false).unwrap();
    sh(&lab.to, "echo mine! >a; echo mine! >c; echo mine! >d");
    let applied = pair.apply(&lab.from, &lab.to).unwrap();
    for name in ["a", "c", "d"] {
        assert_eq!(fs::read_to_string(lab.to.join(name)).unwrap(), "mine!\n");
    }
    assert_eq!(fs::read_to_string(lab.to.join("b")).unwrap(), "new\n");
    assert_eq!(applied.errors, 3, "{:?}", pair.complaints);
    // The next run sees it as it is, and converges.
    pair.mirror(&lab.from, &lab.to, "");
    assert_equal(&lab);
}

#[test]
fn deep_trees_beyond_path_max_arrive() {
    let Some(lab) = lab() else { return };
    sh(
        &lab.from,
        r"
n=$(printf 'n%.0s' $(seq 100))
for i in $(seq 60); do mkdir $n; cd $n; done; echo deep >file; ln file link
",
    );
    let mut pair = Pair::new();
    pair.mirror(&lab.from, &lab.to, "");
    assert_eq!(pair.complaints, Vec::<String>::new());
    let (_, again) = pair.scan(&lab.from, &lab.to, "", true).unwrap();
    assert_eq!(again.items, 63);
    assert_eq!(again.plan.unwrap().created, 0);
    sh(&lab.to, "rm -rf n*");
}

#[test]
fn an_edit_that_puts_size_and_time_back_is_found_by_its_change_time() {
    let Some(lab) = lab() else { return };
    sh(
        &lab.from,
        "for n in a b c d e; do echo 1 >$n; done; ln e e2; ln b b2",
    );
    let mut pair = Pair::new();
    pair.mirror(&lab.from, &lab.to, "");
    std::thread::sleep(std::time::Duration::from_millis(20));
    let now = jiff::Timestamp::now();
    pair.equal_at = Some(super::entry::Time {
        secs: now.as_second(),
        nanos: now.subsec_nanosecond().unsigned_abs(),
    });
    // The kernel stamps changes with a clock that moves in ticks of some milliseconds.
    std::thread::sleep(std::time::Duration::from_millis(20));
    let stealth = "edit() { touch -r $1 /tmp/pcs-ref.$$; echo $2 >$1; touch -r /tmp/pcs-ref.$$ $1; rm /tmp/pcs-ref.$$; }; ";
    sh(
        &lab.from,
        &format!("{stealth} edit a 2; edit e 2; chmod 600 d"),
    );
    sh(
        &lab.to,
        &format!("{stealth} edit b 3; chmod 600 c; chmod 644 c"),
    );
    let outcome = pair.mirror(&lab.from, &lab.to, "");
    let mut changes = outcome.changes;
    changes.sort();
    let expected = [
        ('*', "a"),
        ('*', "b"),
        ('*', "b2"),
        ('*', "e"),
        ('*', "e2"),
        ('.', "d"),
    ];
    assert_eq!(changes, expected.map(|(c, p)| (c, p.to_owned())));
    assert_eq!(pair.complaints, Vec::<String>::new());
    assert_equal(&lab);
}

#[test]
fn new_names_of_a_file_whose_content_is_in_doubt_get_the_new_content() {
    let Some(lab) = lab() else { return };
    sh(&lab.from, "echo 1 >a; echo other >y; touch -d @7 a");
    let mut pair = Pair::new();
    pair.mirror(&lab.from, &lab.to, "");
    pair.equal_at = Some(super::entry::Time { secs: 1, nanos: 0 });
    sh(
        &lab.from,
        "echo 2 >a; touch -d @7 a; ln a z; ln -f a y; mkdir d; ln a d/deep",
    );
    pair.mirror(&lab.from, &lab.to, "");
    assert_eq!(pair.complaints, Vec::<String>::new());
    assert_equal(&lab);
}
