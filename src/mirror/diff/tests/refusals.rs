//! When there is no diff: each reason made to happen, and told apart.

use super::*;

fn fingerprint(snapshot: &Path) -> Fingerprint {
    Fingerprint::of(File::open(snapshot).unwrap().as_fd()).unwrap()
}

fn refused(older: &Path, newer: &Path) -> DiffError {
    compare(2, older, newer).expect_err("this cannot be compared")
}

fn set_writable(snapshot: &Path, is_writable: bool) {
    let ro = !is_writable;
    run(&format!(
        "btrfs property set -f '{}' ro {ro}",
        snapshot.display()
    ));
}

/// A subvolume with two snapshots that differ.
fn pair() -> Option<(Lab, PathBuf, PathBuf)> {
    let lab = Lab::new()?;
    lab.shell("echo x > f");
    let older = lab.snapshot("older");
    lab.shell("echo y > g");
    let newer = lab.snapshot("newer");
    Some((lab, older, newer))
}

#[test]
fn snapshots_of_different_subvolumes_are_unrelated() {
    let (Some((_, older, newer)), Some((_, other, _))) = (pair(), pair()) else {
        return;
    };
    assert!(matches!(refused(&other, &newer), DiffError::Unrelated));
    assert!(matches!(refused(&newer, &older), DiffError::Unrelated));
    let error = refused(&older, &other).to_string();
    assert_eq!(error, "the snapshots are not of one and the same subvolume");
}

#[test]
fn a_snapshot_of_the_older_snapshot_is_related_to_it() {
    let Some((lab, older, _)) = pair() else {
        return;
    };
    let again = lab.top.join(format!("{}-again", lab.name));
    run(&format!(
        "btrfs subvolume snapshot -r '{}' '{}'",
        older.display(),
        again.display()
    ));
    assert_eq!(lines(&judged(&older, &again, "again")), [""; 0]);
}

#[test]
fn a_snapshot_that_can_be_written_to_is_refused() {
    let Some((_, older, newer)) = pair() else {
        return;
    };
    set_writable(&older, true);
    let error = refused(&older, &newer);
    assert!(matches!(error, DiffError::Writable(Side::Older)), "{error}");
    set_writable(&older, false);
    set_writable(&newer, true);
    let error = refused(&older, &newer);
    assert!(matches!(error, DiffError::Writable(Side::Newer)), "{error}");
}

#[test]
fn a_snapshot_that_was_written_to_is_refused_for_ever() {
    let Some((_, older, newer)) = pair() else {
        return;
    };
    let recorded = fingerprint(&older);
    set_writable(&older, true);
    set_writable(&older, false);
    // Opened and closed again without a change: as it was.
    assert!(compare(2, &older, &newer).is_ok());
    set_writable(&older, true);
    std::fs::write(older.join("planted"), "x").unwrap();
    set_writable(&older, false);
    // The kernel itself would now say that the file was deleted, and be believed.
    let error = refused(&older, &newer);
    assert!(matches!(error, DiffError::Written(Side::Older)), "{error}");
    run(&format!("btrfs filesystem sync '{}'", older.display()));
    let error = fingerprint(&older).check_unmoved(&recorded).unwrap_err();
    assert!(matches!(error, DiffError::Written(Side::Older)), "{error}");
    assert!(fingerprint(&newer).check_pristine(Side::Newer).is_ok());
}

#[test]
fn a_snapshot_whose_generation_moved_is_as_it_was_made_but_not_as_it_was_recorded() {
    let Some((lab, older, newer)) = pair() else {
        return;
    };
    let recorded = fingerprint(&older);
    assert!(fingerprint(&older).check_unmoved(&recorded).is_ok());
    let copy = lab.top.join(format!("{}-copy", lab.name));
    run(&format!(
        "btrfs subvolume snapshot '{0}' '{1}' && touch '{1}/x' && btrfs filesystem sync '{0}'",
        older.display(),
        copy.display()
    ));
    let now = fingerprint(&older);
    assert!(now.generation > recorded.generation);
    assert!(matches!(
        now.check_unmoved(&recorded),
        Err(DiffError::Moved)
    ));
    assert!(now.check_pristine(Side::Older).is_ok());
    assert_eq!(
        lines(&judged(&older, &newer, "moved")),
        [": attributes", "g: appeared"]
    );
}

#[test]
fn another_snapshot_of_the_same_name_is_not_the_recorded_one() {
    let Some((lab, older, _)) = pair() else {
        return;
    };
    let recorded = fingerprint(&older);
    let json = serde_json::to_string(&recorded).unwrap();
    assert_eq!(
        serde_json::from_str::<Fingerprint>(&json).unwrap(),
        recorded
    );
    run(&format!("btrfs subvolume delete '{}'", older.display()));
    let again = lab.snapshot("older");
    let error = fingerprint(&again).check_unmoved(&recorded).unwrap_err();
    assert!(matches!(error, DiffError::Replaced), "{error}");
}

#[test]
fn more_changes_than_wanted_are_too_many() {
    let Some((lab, older, _)) = pair() else {
        return;
    };
    lab.shell("for i in $(seq 30); do mkdir d$i; done");
    let newer = lab.snapshot("more");
    let (older, newer) = (File::open(older).unwrap(), File::open(newer).unwrap());
    let limited = |limit| changes(older.as_fd(), newer.as_fd(), limit, &AbortFlag::new());
    assert_eq!(limited(32).unwrap().list().len(), 32);
    assert!(matches!(limited(31), Err(DiffError::TooMany(31))));
    assert!(matches!(limited(0), Err(DiffError::TooMany(0))));
}

#[test]
fn what_changed_is_counted_before_it_is_compared() {
    let Some(lab) = Lab::new() else {
        return;
    };
    lab.shell(
        "mkdir some others; for i in $(seq 2000); do echo $i >some/$i; done; cp -a some/. others",
    );
    let older = lab.snapshot("older");
    lab.shell("for i in $(seq 1000); do echo more >>some/$i; done; rm -r others");
    let newer = lab.snapshot("newer");
    let generation = fingerprint(&older).created_generation;
    let newer = File::open(newer).unwrap();
    let count = |until: usize| {
        let may_go_on = |counted| counted < until;
        let counted = InodeReader::new().count_changed(newer.as_fd(), generation, may_go_on);
        counted.unwrap()
    };
    // The root lost a directory; the directory `some` itself is as it was.
    assert_eq!(count(usize::MAX), 1001);
    assert_eq!(count(300), 300);
    assert!(matches!(
        check_few(newer.as_fd(), generation, 1000, &AbortFlag::new()),
        Err(DiffError::TooMany(1000))
    ));
    check_few(newer.as_fd(), generation, 1001, &AbortFlag::new()).unwrap();
}

#[test]
fn who_is_asked_to_stop_stops() {
    let Some((_, older, newer)) = pair() else {
        return;
    };
    let (older, newer) = (File::open(older).unwrap(), File::open(newer).unwrap());
    let abort = AbortFlag::new();
    abort.raise();
    let error = changes(older.as_fd(), newer.as_fd(), 10, &abort).unwrap_err();
    assert!(matches!(error, DiffError::Interrupted(_)), "{error}");
}

#[test]
fn the_kernel_stops_when_nobody_reads_any_more() {
    let Some(lab) = Lab::new() else { return };
    let older = lab.snapshot("older");
    // Much more than the pipe holds.
    lab.shell("mkdir d; cd d; seq -f %0200g 20000 | xargs touch");
    let newer = lab.snapshot("newer");
    let abort = AbortFlag::new();
    let id = subvolume_info(File::open(&older).unwrap()).unwrap().id;
    let mut feed = Feed::start(id, File::open(&newer).unwrap().as_fd(), 2, &abort).unwrap();
    let mut some = [0; 100];
    assert!(stream::Source::fill(&mut &mut feed, &mut some).unwrap() > 0);
    let flip = format!("btrfs property set -f '{}' ro false", newer.display());
    assert!(
        crate::sys::testing::sh(&flip).is_err(),
        "the kernel is at it"
    );
    abort.raise();
    let stopped = stream::Source::fill(&mut &mut feed, &mut some).unwrap_err();
    assert!(matches!(stopped, DiffError::Interrupted(_)), "{stopped}");
    drop(feed);
    // It has let go of the snapshot.
    run(&flip);
}

#[test]
fn without_privileges_it_is_not_permitted() {
    let Some((_, older, newer)) = pair() else {
        return;
    };
    let (older, newer) = (File::open(older).unwrap(), File::open(newer).unwrap());
    // Capabilities belong to a thread: this one ends afterwards.
    let error = std::thread::spawn(move || {
        let none = rustix::thread::CapabilitySet::empty();
        let sets = rustix::thread::CapabilitySets {
            effective: none,
            permitted: none,
            inheritable: none,
        };
        rustix::thread::set_capabilities(None, sets).unwrap();
        changes(older.as_fd(), newer.as_fd(), 10, &AbortFlag::new()).unwrap_err()
    })
    .join()
    .unwrap();
    assert!(matches!(error, DiffError::NotPermitted), "{error}");
}

#[test]
fn another_filesystem_cannot_do_it() {
    let proc = File::open("/proc").unwrap();
    let error = changes(proc.as_fd(), proc.as_fd(), 10, &AbortFlag::new()).unwrap_err();
    assert!(matches!(error, DiffError::Unsupported), "{error}");
}
