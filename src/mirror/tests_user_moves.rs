//! A person on the target who works against the mirror while it moves what was renamed, with what a person may
//! do, in a sync and in a rollback: nothing outside is touched, nothing comes into their reach that was not meant
//! for them, and nothing of theirs stays where it was not meant to be.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use crossbeam_channel::unbounded;
use rustix::fs::{CWD, Mode, OFlags, RenameFlags, renameat_with};

use super::local::{LocalPlan, LocalRequest, LocalService, Side};
use super::place::{PlaceError, Shared, take_back};
use super::staging::{KEPT_PREFIX, Staging};
use super::testing::Pair;
use super::tests::{rsync_differences, sh};
use super::tests_anchor::Anchored;
use super::tests_property::number;
use super::tests_random::{Random, manifest};
use super::tests_user::as_alice;
use super::tree::Tree;
use super::wire::MirrorReply;
use crate::agent::service::{Service, ServiceContext};
use crate::event::EventSink;
use crate::interrupt::AbortFlag;
use crate::sys::testing::run;

const BOB: u32 = 12_002;
/// Directories of each kind that are moved.
const EACH: usize = 12;

/// alice's and bob's homes: directories and files that get other names (`m`), trade places (`x` and `y`), go from the
/// one to the other (`gift`), and go into new ones; one of bob's that nobody can get in the way of.
const HOMES: &str = r"
chmod 755 .; mkdir alice bob shared; mkdir bob/plain
for n in $(seq 12); do mkdir -p alice/m$n/sub alice/x$n alice/y$n bob/x$n bob/m$n alice/gift$n bob/loan$n
  for d in alice/m$n alice/m$n/sub alice/x$n alice/y$n alice/gift$n; do echo $d >$d/f; done
  for d in bob/x$n bob/m$n bob/loan$n; do echo private-$d >$d/f; done; echo alice-$n >alice/file$n; done
for n in $(seq 12); do for d in alice/fresh$n alice/stale$n alice/over$n; do mkdir $d; echo $d >$d/f; done
  mkdir bob/over$n; echo private-over$n >bob/over$n/f; echo fresh-$n >alice/log$n; echo private-log$n >bob/log$n; done
chown -R 12001:12001 alice; chown -R 12002:12002 bob; chmod 700 bob; chmod -R o-rwx bob
";

/// What the source has done since. What comes to alice is hers from then on, and what comes to bob is his.
const MOVED: &str = r"
cd alice; for n in $(seq 12); do mv m$n n$n; mv n$n/sub sub$n; mv x$n t; mv y$n x$n; mv t y$n; mkdir new$n; mv file$n new$n/
  mv gift$n ../bob/gift$n; mv ../bob/loan$n loan$n
  rm -r stale$n ../bob/over$n; mv fresh$n stale$n; mv over$n ../bob/over$n; mv log$n ../bob/log$n; done
cd ../bob; for n in $(seq 12); do mv m$n n$n; done
";

/// The people's homes, and what neither may touch.
struct Homes<'a> {
    to: &'a Path,
    outside: std::path::PathBuf,
    secret: std::path::PathBuf,
    /// What root keeps in alice's home, hers to rename and not to read.
    roots: [u64; 2],
    /// What may go from her to bob, or from him to her: nothing else in its place.
    going: BTreeMap<String, u64>,
    /// What of his it takes the place of.
    gone: BTreeSet<String>,
    sentinel: Vec<u8>,
    before: String,
}

impl<'a> Homes<'a> {
    fn new(top: &Path, to: &'a Path) -> Self {
        let (outside, secret) = (top.join("outside"), top.join("secret"));
        run(&format!(
            "rm -rf '{0}' '{1}'; mkdir '{0}' '{0}/dir' '{1}' && echo sentinel >'{0}/sentinel' && \
             echo x >'{1}/x' && chmod 1777 '{0}' && chmod 700 '{1}'",
            outside.display(),
            secret.display()
        ));
        sh(
            to,
            "mkdir -m 700 alice/root-dir; echo secret >alice/root-dir/secret; echo secret >alice/root-file; chmod 600 alice/root-file",
        );
        let ino = |name: &str| {
            let path = to.join("alice").join(name);
            fs::symlink_metadata(path).map_or(0, |meta| meta.ino())
        };
        let kinds = ["gift", "loan", "over", "log"];
        let names = kinds.map(|kind| (1..=EACH).map(move |n| format!("{kind}{n}")));
        let going = names
            .into_iter()
            .flatten()
            .map(|name| (name.clone(), ino(&name)));
        let mut homes = Self {
            to,
            outside,
            secret,
            roots: [ino("root-dir"), ino("root-file")],
            going: going.filter(|(_, ino)| *ino != 0).collect(),
            gone: (1..=EACH)
                .flat_map(|n| [format!("over{n}"), format!("log{n}")])
                .collect(),
            sentinel: Vec::new(),
            before: String::new(),
        };
        (homes.sentinel, homes.before) = homes.untouchable();
        homes
    }

    /// What must be the same afterwards.
    fn untouchable(&self) -> (Vec<u8>, String) {
        let text = fs::read(self.outside.join("sentinel")).unwrap();
        let all = [manifest(&self.secret), manifest(&self.outside.join("dir"))];
        (text, format!("{all:?}"))
    }

    /// Runs `work` while alice does her worst, which she has begun before.
    fn against<T>(&self, seed: u64, work: impl FnOnce() -> T) -> T {
        let home = self.to.join("alice");
        let done = AtomicBool::new(false);
        as_alice(|| {
            let mut rng = Random::new(seed * 100 + 99);
            for _ in 0..20 {
                mischief(&home, &self.outside, &mut rng);
            }
        });
        std::thread::scope(|scope| {
            for thread in 0..2 {
                let (home, outside, done) = (&home, &self.outside, &done);
                scope.spawn(move || {
                    as_alice(|| {
                        let mut rng = Random::new(seed * 100 + thread);
                        while !done.load(Ordering::SeqCst) {
                            mischief(home, outside, &mut rng);
                        }
                    });
                });
            }
            let result = work();
            done.store(true, Ordering::SeqCst);
            result
        })
    }

    /// `came` are the names that have come to bob if all went well, from alice or from himself.
    fn judge(&self, came: &[&str], what: &str) {
        let (text, all) = self.untouchable();
        assert_eq!(text, self.sentinel, "{what}: written outside");
        assert_eq!(all, self.before, "{what}: something outside was changed");
        for top in [self.to, &self.outside] {
            for (path, entry) in manifest(top) {
                let meta = &entry.meta;
                let at = top.join(std::ffi::OsStr::from_bytes(&path));
                let shown = crate::escape::escape_bytes(&path);
                if self.roots.contains(&entry.ino) {
                    let is_roots = meta.uid == 0 && meta.mode.trailing_zeros() >= 6;
                    assert!(is_roots, "{what}: {shown} was given away: {meta:?}");
                }
                let text = fs::read(&at).unwrap_or_default();
                if text.starts_with(b"secret") {
                    assert_eq!(meta.uid, 0, "{what}: {shown} is a copy of root's file");
                }
                if text.starts_with(b"private") {
                    assert_eq!(meta.uid, BOB, "{what}: {shown} is bob's");
                }
                if text.starts_with(b"private-over") || text.starts_with(b"private-log") {
                    let is_bobs =
                        path.starts_with(b"bob/") || path.starts_with(KEPT_PREFIX.as_bytes());
                    assert!(is_bobs, "{what}: {shown} came out of bob's home");
                }
                let mut parts = path.splitn(3, |b| *b == b'/');
                if top != self.to || parts.next() != Some(b"bob") {
                    continue;
                }
                let Some(name) = parts.next() else { continue };
                let name = String::from_utf8(name.to_vec()).unwrap();
                let kind = name.trim_end_matches(|c: char| c.is_ascii_digit());
                assert!(came.contains(&kind), "{what}: {shown} was planted");
                let is_inside = parts.next().is_some();
                if let Some(ino) = self.going.get(&name).filter(|_| !is_inside) {
                    // A rollback makes anew what had given way.
                    let is_anew = self.gone.contains(&name) && meta.uid == BOB;
                    let is_one = entry.ino == *ino || is_anew;
                    assert!(is_one, "{what}: {shown} was planted");
                }
                // What has come from alice was hers until then: she may have put anything in it.
                if !["gift", "over", "log"].contains(&kind) {
                    assert_eq!(meta.uid, BOB, "{what}: {shown}");
                }
            }
        }
        assert!(!self.to.join(".pc-switcher-staging").exists(), "{what}");
    }
}

/// One thing a person may do in a home where things are moved about; most fail most of the time.
fn mischief(home: &Path, outside: &Path, rng: &mut Random) {
    let names = [
        "m", "n", "x", "y", "sub", "new", "gift", "loan", "file", "fresh", "stale", "over", "log",
    ];
    let mut pick = || {
        let number = 1 + rng.below(EACH);
        match rng.below(12) {
            0 => home.join(rng.pick::<&str>(&["root-dir", "root-file", "mine", "aside"])),
            1 => home.join(format!("m{number}/sub")),
            _ => home.join(format!("{}{number}", rng.pick(&names))),
        }
    };
    let (one, other) = (pick(), pick());
    let exchange = |a: &Path, b: &Path| renameat_with(CWD, a, CWD, b, RenameFlags::EXCHANGE);
    match rng.below(10) {
        0 | 1 => {
            let aside = home.join(format!("aside{}", rng.below(50)));
            if fs::rename(&one, &aside).is_ok() {
                let _ = symlink(outside, &one);
                std::thread::yield_now();
                if rng.one_in(2) {
                    let _ = fs::remove_file(&one);
                    let _ = fs::rename(&aside, &one);
                }
            }
        }
        2 => drop(fs::rename(&one, &other)),
        3 | 4 => drop(exchange(&one, &other)),
        5 => drop(exchange(
            &home.join(rng.pick::<&str>(&["root-file", "root-dir"])),
            &one,
        )),
        6 => drop(fs::rename(
            &one,
            outside.join(format!("out{}", rng.below(20))),
        )),
        7 => drop(fs::rename(
            outside.join(format!("out{}", rng.below(20))),
            &one,
        )),
        8 => {
            let _ = fs::create_dir(&one);
            let _ = fs::write(one.join("new"), "new");
        }
        _ => {
            let _ = fs::remove_dir_all(&one).or_else(|_| fs::remove_file(&one));
            let _ = symlink(outside.join("dir"), &one);
        }
    }
}

#[test]
fn a_person_who_exchanges_what_a_sync_moves_gains_nothing() {
    let mut errors = 0;
    for seed in 1..=number("PCS_SEEDS", 4) {
        let Some(mut anchored) = Anchored::new() else {
            return;
        };
        let (from, to) = (anchored.lab.from.clone(), anchored.lab.to.clone());
        sh(anchored.lab.disk.directory(), "chmod 755 . top");
        anchored.rules = "root-dir/\nroot-file\n".to_owned();
        sh(&from, HOMES);
        anchored.sync("", "");
        sh(&from, MOVED);
        let homes = Homes::new(&anchored.lab.disk.top(), &to);
        let newer = anchored.plan();
        let planned = anchored.pair.list(&to);
        let moves = planned.iter().filter(|(sign, _)| *sign == '>').count();
        assert!(moves >= 9 * EACH, "only {moves} moves: {planned:?}");
        let pair = &mut anchored.pair;
        let applied = homes.against(seed, || pair.apply(Path::new(&newer), &to).unwrap());
        errors += applied.errors;
        let what = format!("seed {seed}");
        homes.judge(
            &["plain", "x", "m", "n", "loan", "gift", "over", "log"],
            &what,
        );
        // What she could not get at is where it shall be.
        for n in 1..=EACH {
            assert!(to.join(format!("bob/n{n}/f")).exists(), "{what}");
        }
        converges(Path::new(&newer), &to, &what);
    }
    assert!(errors > 0, "nothing was ever in the way");
}

/// Left alone, it converges.
fn converges(from: &Path, to: &Path, what: &str) {
    sh(to, "find . -name 'root-*' -prune -exec rm -rf {} +");
    for _ in 0..2 {
        let mut pair = Pair::new();
        pair.scan(from, to, "", true).unwrap();
        pair.apply(from, to).unwrap();
    }
    assert_eq!(rsync_differences(from, to), "", "{what}");
}

#[test]
fn a_person_who_exchanges_what_a_rollback_moves_back_gains_nothing() {
    let mut errors = 0;
    for seed in 1..=number("PCS_SEEDS", 4) {
        let Some(anchored) = Anchored::new() else {
            return;
        };
        let (top, to) = (anchored.lab.disk.top(), anchored.lab.to.clone());
        sh(anchored.lab.disk.directory(), "chmod 755 . top");
        sh(&to, HOMES);
        let homes = Homes::new(&top, &to);
        let snapshot = |name: &str| {
            let script =
                format!("btrfs -q subvolume snapshot -r to {name}; btrfs filesystem sync .");
            sh(&top, &script);
            top.join(name)
        };
        let before = snapshot("before");
        sh(&to, MOVED);
        let after = snapshot("after");
        let service = LocalService::default();
        let (outgoing, _said) = unbounded();
        let context = ServiceContext {
            incoming: unbounded().1,
            outgoing,
            events: EventSink::none(),
            abort: AbortFlag::new(),
            session: "00000000".to_owned(),
        };
        let call = |request| -> MirrorReply {
            let reply = service.call(&context, serde_json::to_value(request).unwrap());
            serde_json::from_value(reply.unwrap()).unwrap()
        };
        let bytes = |path: &Path| path.as_os_str().as_bytes().to_vec();
        let planned = call(LocalRequest::Plan(Box::new(LocalPlan {
            from: bytes(&before),
            to: bytes(&to),
            newer: Some(bytes(&after)),
            older: Some(Side::From),
            ..LocalPlan::default()
        })));
        let totals = planned.plan.unwrap();
        assert_eq!(planned.full_scan, None);
        assert!(totals.renamed >= 6 * EACH as u64, "{totals:?}");
        let applied = homes.against(seed, || call(LocalRequest::Apply { id: String::new() }));
        errors += applied.errors;
        let what = format!("seed {seed}");
        homes.judge(
            &["plain", "x", "m", "n", "loan", "gift", "over", "log"],
            &what,
        );
        for n in 1..=EACH {
            assert!(to.join(format!("bob/m{n}/f")).exists(), "{what}");
        }
        converges(&before, &to, &what);
    }
    assert!(errors > 0, "nothing was ever in the way");
}

#[test]
fn what_was_moved_by_mistake_goes_back_or_to_where_only_root_can_reach_it() {
    let Some(lab) = super::tests::lab() else {
        return;
    };
    let (exchange, plain) = (RenameFlags::EXCHANGE, RenameFlags::NOREPLACE);
    let (own, bobs) = (
        "chown 12001 alice bob",
        "chown 12001 alice; chown 12002 bob",
    );
    // What is at `alice/a`, and at `bob/b` where another thing has come by mistake; and where it is afterwards.
    for (flags, thing, script, owners, expected, left) in [
        (plain, "back", "echo mine >bob/b", own, "", "a"),
        (
            plain,
            "back from root's",
            "echo mine >bob/b",
            "chown 12001 alice",
            "",
            "a",
        ),
        (
            plain,
            "taken",
            "echo mine >bob/b; echo x >alice/a",
            own,
            "kept",
            "a",
        ),
        (
            plain,
            "a directory",
            "mkdir bob/b alice/a; echo x >bob/b/x",
            own,
            "kept",
            "a",
        ),
        (
            plain,
            "a link",
            "ln -s / bob/b; echo x >alice/a",
            own,
            "kept",
            "a",
        ),
        (plain, "gone", "true", own, "", ""),
        // The one could say what comes into the other's home.
        (plain, "another's", "echo mine >bob/b", bobs, "kept", ""),
        (
            plain,
            "a group's",
            "echo mine >bob/b; chmod 775 bob",
            own,
            "kept",
            "",
        ),
        (
            plain,
            "people's into root's",
            "echo x >bob/b",
            "chown 12002 bob",
            "kept",
            "",
        ),
        (
            exchange,
            "back",
            "echo mine >bob/b; echo his >alice/a",
            own,
            "",
            "ab",
        ),
        (
            exchange,
            "its other was taken away",
            "echo mine >bob/b",
            own,
            "",
            "a",
        ),
        (exchange, "gone", "echo his >alice/a", own, "", "a"),
        (
            exchange,
            "another's",
            "echo x >bob/b; echo y >alice/a",
            bobs,
            "kept",
            "a",
        ),
        (
            exchange,
            "root's",
            "echo x >bob/b; echo y >alice/a",
            "chown 12001 alice",
            "kept",
            "a",
        ),
    ] {
        sh(
            &lab.to,
            &format!("mkdir -m 755 alice bob; {script}; {owners}"),
        );
        let tree = Tree::open(&lab.to).unwrap();
        let staging = Staging::open(&tree).unwrap();
        let shared = Shared::new(&tree, &staging).unwrap();
        let dir = |name: &str| -> OwnedFd {
            rustix::fs::open(lab.to.join(name), OFlags::DIRECTORY, Mode::empty()).unwrap()
        };
        let (alice, bob) = (dir("alice"), dir("bob"));
        let error = take_back(&shared, (&alice, b"a"), (&bob, b"b"), flags);
        let kept = match error {
            PlaceError::Changed => "",
            PlaceError::Kept(name) => {
                assert!(name.starts_with(KEPT_PREFIX));
                let meta = fs::symlink_metadata(lab.to.join(&name)).unwrap();
                assert_eq!((meta.mode() & 0o7777, meta.uid()), (0o700, 0));
                assert!(fs::symlink_metadata(lab.to.join(name).join("was-here")).is_ok());
                "kept"
            }
            other => panic!("{thing}: {other}"),
        };
        assert_eq!(kept, expected, "{thing}");
        let is_there = |path: &&str| fs::symlink_metadata(lab.to.join(path)).is_ok();
        let there: Vec<&str> = ["alice/a", "bob/b"].into_iter().filter(is_there).collect();
        let there: String = there.iter().map(|path| &path[path.len() - 1..]).collect();
        assert_eq!(there, left, "{thing}");
        staging.remove(&tree).unwrap();
        sh(&lab.to, "rm -rf alice bob .pc-switcher-kept-*");
    }
}
