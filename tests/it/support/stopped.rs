//! Runs that are stopped on the way: something to sync that takes a few seconds, moments at which to
//! stop it, and the judgement.
//!
//! Every judgement ends with two equal homes, from which the next round starts.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::awkward::Random;
use super::lab::{ATLAS, Lab, Output, Running, VEGA};
use super::oracle;
use super::scenario::{DONE, FILTER, PRIVATE, home};
use super::tree::{Entry, Tree};

/// More than the mirror puts in place at once, so that some are in place while others are still coming.
const FILES: u64 = 9_000;
/// Of which as many go, and as many come, each round.
const GOING: u64 = 400;
/// Size of the one large file.
const LARGE: u64 = 24 << 20;
/// Something waits to be moved into place.
pub const STAGING: &str = ".pc-switcher-staging";
/// Everything is in place when nobody has stopped the run for so long.
const PATIENCE: Duration = Duration::from_mins(1);

/// How a run that was stopped is judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Judgement {
    /// The next sync makes both homes equal.
    NextSync,
    /// A rollback gives what was there before, byte for byte; and the next sync converges.
    Rollback,
}

impl Judgement {
    /// One after the other.
    pub fn of(number: u64) -> Self {
        if number.is_multiple_of(2) {
            Self::Rollback
        } else {
            Self::NextSync
        }
    }
}

/// What the next run needs besides `--allow-incomplete`.
const FLAGS: [&str; 2] = ["--allow-mass-delete", "--allow-out-of-order"];

/// When to stop a run: a while after something can be seen on the target.
#[derive(Debug, Clone, Copy)]
pub enum Moment {
    /// The first change: something waits to be moved into place.
    Receiving(Duration),
    /// The first file is in place.
    Placing(Duration),
    /// The first file is deleted; everything else is in place.
    Deleting(Duration),
}

impl Moment {
    /// Any, as `random` says; most while most of the time goes by.
    pub fn any(random: &mut Random) -> Self {
        let mut millis = |limit: u64| Duration::from_micros(random.below(limit * 1000));
        let (receiving, placing, deleting) = (millis(2500), millis(500), millis(40));
        match random.below(4) {
            0 | 1 => Self::Receiving(receiving),
            2 => Self::Placing(placing),
            _ => Self::Deleting(deleting),
        }
    }

    fn later(self) -> Duration {
        match self {
            Self::Receiving(later) | Self::Placing(later) | Self::Deleting(later) => later,
        }
    }

    fn sooner(self) -> Self {
        match self {
            Self::Receiving(later) => Self::Receiving(later / 2),
            Self::Placing(later) => Self::Placing(later / 2),
            Self::Deleting(later) => Self::Deleting(later / 2),
        }
    }
}

/// Two homes, one of them with changes that take a while to arrive.
pub struct Bulk<'a> {
    lab: &'a Lab,
    random: Random,
    noise: Vec<u8>,
    round: u64,
    before: Tree,
    /// The target's home before the run that is stopped, as a snapshot.
    snapshot: PathBuf,
}

impl<'a> Bulk<'a> {
    /// Fills both homes; the target has an older version of some of it.
    pub fn new(lab: &'a Lab, seed: u64) -> Self {
        for host in [ATLAS, VEGA] {
            lab.configure(host, FILTER); // what a run writes there is not what is judged here
        }
        let mut random = Random::new(seed);
        let noise = (0..256 << 10).map(|_| random.byte()).collect();
        let mut bulk = Self {
            lab,
            random,
            noise,
            round: 0,
            before: Tree::default(),
            snapshot: PathBuf::new(),
        };
        for host in [ATLAS, VEGA] {
            fs::create_dir(lab.dev(host).join("bulk")).expect("writable");
        }
        bulk.write_files(&lab.dev(VEGA).join("bulk"), 3);
        bulk.before = home(lab, VEGA);
        bulk.change();
        // Twenty-five megabytes a second, and one millisecond there and back.
        lab.verb(&["netem", "200mbit", "1ms"]).ok();
        bulk
    }

    /// Makes another version of most of it on the source.
    pub fn change(&mut self) {
        self.round += 1;
        self.write_files(&self.lab.dev(ATLAS).join("bulk"), 1);
        // What a power cut goes back to.
        let target = File::open(self.lab.home(VEGA)).expect("readable");
        rustix::fs::syncfs(target).expect("the disk takes it");
        // Where its name is free: a power cut may have come between.
        let name = format!("before-{}", self.round);
        self.snapshot = oracle::snapshot(self.lab, VEGA, "@home", &name);
    }

    /// Every `every`-th file of this round, the large one, and files that the next round will not have.
    fn write_files(&mut self, root: &Path, every: u64) {
        let gone = root.join(format!("gone {}", self.round.saturating_sub(1)));
        if gone.exists() {
            fs::remove_dir_all(gone).expect("writable");
        }
        let going = root.join(format!("gone {}", self.round));
        fs::create_dir(&going).expect("writable");
        for n in 0..GOING {
            self.write(&going.join(n.to_string()));
        }
        for n in (0..FILES).step_by(usize::try_from(every).expect("small")) {
            let path = root.join(format!("{n:05}"));
            // Some change in their mode alone.
            if n % 50 == 7 && path.exists() {
                let mode = 0o600 + u32::try_from(self.round % 64).expect("small");
                fs::set_permissions(&path, PermissionsExt::from_mode(mode)).expect("root may");
            } else {
                self.write(&path);
            }
        }
        let large = File::create(root.join("05000 large")).expect("writable");
        let mut at = 0;
        // All of it another content each time: what both machines have is not sent again.
        let mut bytes = vec![0; 256 << 10];
        while at < LARGE {
            for word in bytes.chunks_exact_mut(8) {
                word.copy_from_slice(&self.random.next().to_le_bytes());
            }
            large.write_all_at(&bytes, at).expect("writable");
            at += bytes.len() as u64;
        }
    }

    fn write(&mut self, path: &Path) {
        let pick = self.random.below((self.noise.len() - 4096) as u64);
        let start = usize::try_from(pick).expect("an index");
        let length = usize::try_from(700 + self.random.below(2000)).expect("small");
        let stamp = self.random.next().to_le_bytes();
        let bytes = [&stamp, &self.noise[start..start + length]].concat();
        fs::write(path, bytes).expect("writable");
    }

    /// Starts a sync and returns at the moment; what it printed if it ended before.
    pub fn start(&self, moment: Moment) -> Result<Running, Output> {
        let mut run = self.lab.start_sync(&FLAGS);
        let target = self.lab.dev(VEGA).join("bulk");
        let new_dir = target.join(format!("gone {}", self.round));
        let old_dir = target.join(format!("gone {}", self.round - 1));
        let staging = self.lab.home(VEGA).join(STAGING);
        let since = Instant::now();
        loop {
            let reached = match moment {
                Moment::Receiving(_) => staging.exists(),
                Moment::Placing(_) => new_dir.exists(),
                Moment::Deleting(_) => {
                    let deleted = fs::read_dir(&old_dir).map_or(GOING, |d| d.count() as u64);
                    new_dir.exists() && deleted < GOING
                }
            };
            if reached {
                break;
            }
            if !run.is_running() {
                return Err(run.wait());
            }
            assert!(since.elapsed() < PATIENCE, "it never came to {moment:?}");
            std::thread::sleep(Duration::from_micros(500));
        }
        std::thread::sleep(moment.later());
        if run.is_running() {
            Ok(run)
        } else {
            Err(run.wait())
        }
    }

    /// The same; one that ended before is judged, and there is something to sync again.
    #[track_caller]
    pub fn caught(&mut self, moment: Moment) -> Option<Running> {
        match self.start(moment) {
            Ok(run) => Some(run),
            Err(ended) => {
                println!("too late: {:?}", ended.expect(0).status);
                self.judge_ended();
                self.change();
                None
            }
        }
    }

    /// The same, with another try sooner for each run that was quicker.
    #[track_caller]
    pub fn surely(&mut self, mut moment: Moment) -> Running {
        for _ in 0..8 {
            if let Some(run) = self.caught(moment) {
                return run;
            }
            moment = moment.sooner();
        }
        panic!("it always ended before {moment:?}")
    }

    /// Every file on the target is its old or its new version, none is lost, and nothing is left on
    /// either machine; then the next run says so, is refused without its flag, and converges.
    #[track_caller]
    pub fn judge(&mut self) {
        let (now, wanted) = (home(self.lab, VEGA), home(self.lab, ATLAS));
        let before_end = !now.differences(&wanted).is_empty();
        self.assert_old_or_new(now, &wanted);
        self.lab.verb(&["netem", "off"]).ok();
        if before_end {
            let refused = self.lab.sync(&FLAGS).expect(4).text();
            for words in ["did not end well", "--allow-incomplete"] {
                assert!(refused.contains(words), "no word of {words}: {refused}");
            }
        }
        let next = self
            .lab
            .sync(&[&FLAGS[..], &["--allow-incomplete"]].concat());
        assert!(DONE.contains(&next.status), "{}", next.text());
        let told = next.text().contains("did not end well");
        assert!(told || !before_end, "{}", next.text());
        self.assert_converged();
        self.before = wanted;
    }

    /// Judges a run that was stopped in either way.
    #[track_caller]
    pub fn judge_by(&mut self, judgement: Judgement) {
        if judgement == Judgement::NextSync {
            return self.judge();
        }
        let (now, wanted) = (home(self.lab, VEGA), home(self.lab, ATLAS));
        self.assert_old_or_new(now, &wanted);
        self.lab.verb(&["netem", "off"]).ok();
        self.lab.pc_switcher(&["rollback", "--yes"]).ok();
        oracle::assert_trees_equal(&self.snapshot, &self.lab.home(VEGA), PRIVATE);
        let next = self.lab.sync(&FLAGS);
        assert!(DONE.contains(&next.status), "{}", next.text());
        self.judge_ended();
    }

    /// The same for a run that ended before it could be stopped.
    #[track_caller]
    pub fn judge_ended(&mut self) {
        self.assert_converged();
        self.before = home(self.lab, ATLAS);
    }

    #[track_caller]
    fn assert_converged(&mut self) {
        oracle::assert_homes_equal(self.lab, PRIVATE);
        self.lab.assert_nothing_left_running();
        for host in [ATLAS, VEGA] {
            assert!(!self.lab.home(host).join(STAGING).exists(), "on {host}");
        }
        self.lab.verb(&["netem", "200mbit", "1ms"]).ok();
    }

    #[track_caller]
    fn assert_old_or_new(&self, mut now: Tree, wanted: &Tree) {
        now.entries.retain(|path, _| {
            let staged = |rest: &[u8]| rest.is_empty() || rest[0] == b'/';
            !path.strip_prefix(STAGING.as_bytes()).is_some_and(staged)
        });
        let describe = |e: &Entry| {
            let mut e = e.clone();
            (e.inode, e.data) = (0, Vec::new());
            if e.is_dir() {
                e.mtime = (0, 0); // moves with what comes and goes
            }
            e
        };
        let all = |tree: &Tree| -> BTreeMap<Vec<u8>, Entry> {
            let entries = tree.entries.iter();
            entries.map(|(p, e)| (p.clone(), describe(e))).collect()
        };
        let (now, old, new) = (all(&now), all(&self.before), all(wanted));
        for (path, entry) in &now {
            let known = [old.get(path), new.get(path)].contains(&Some(entry));
            let path = path.escape_ascii();
            assert!(known, "{path} is neither old nor new: {entry:?}");
        }
        let lost = old.keys().filter(|p| new.contains_key(*p));
        let lost: Vec<String> = lost
            .filter(|p| !now.contains_key(*p))
            .map(|p| p.escape_ascii().to_string())
            .collect();
        assert!(lost.is_empty(), "lost: {lost:?}");
    }
}
