//! The target's disk gives out in the middle of a sync: it is full, over its quota, or cannot be written to
//! any more. Each file is old or new, nothing is left running; the next run converges, and a rollback gives
//! what was there before, byte for byte.

use std::time::Duration;

use crate::support::awkward::Random;
use crate::support::lab::{ATLAS, Lab, VEGA};
use crate::support::scenario::DONE;
use crate::support::seeds;
use crate::support::stopped::{Bulk, Judgement, Moment};

/// What happens to the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    /// Somebody else writes it full.
    NoSpace,
    /// The quota of the subvolume is reached.
    NoQuota,
    /// It is mounted read-only.
    ReadOnly,
}

const FAULTS: [Fault; 3] = [Fault::NoSpace, Fault::NoQuota, Fault::ReadOnly];

fn sh(lab: &Lab, script: &str) -> bool {
    let done = lab.exec(VEGA, &["bash", "-c", script]);
    if done.status != Some(0) {
        println!("{script}: {}", done.text());
    }
    done.status == Some(0)
}

impl Fault {
    /// For people.
    fn words(self) -> &'static str {
        match self {
            Self::NoSpace => "the target's disk full (ENOSPC)",
            Self::NoQuota => "the quota of its subvolume reached (EDQUOT)",
            Self::ReadOnly => "its file system read-only",
        }
    }

    /// What must be there before it can happen.
    fn prepare(self, lab: &Lab) {
        if self == Self::NoQuota {
            assert!(sh(
                lab,
                "btrfs quota enable /home && btrfs quota rescan -w /home"
            ));
        }
    }

    /// Makes it happen; whether it did.
    fn strike(self, lab: &Lab) -> bool {
        match self {
            // What is still free goes in ever smaller pieces.
            Self::NoSpace => sh(
                lab,
                "i=0; for size in 8G 4G 2G 1G 512M 256M 64M 16M 4M 1M 256K; do
                   while fallocate -l $size /full.$i 2>/dev/null; do i=$((i+1)); done; rm -f /full.$i; done; true",
            ),
            // Less than is there: nothing more can be written.
            Self::NoQuota => sh(lab, "btrfs qgroup limit 1M /home"),
            // Not while somebody is just writing: the next moment it is free for that.
            Self::ReadOnly => sh(
                lab,
                "for try in $(seq 2000); do mount -o remount,bind,ro /home 2>/dev/null && exit 0; done; exit 1",
            ),
        }
    }

    /// Makes it good again.
    fn mend(self, lab: &Lab) {
        let mended = match self {
            Self::NoSpace => sh(lab, "rm -f /full.* && btrfs filesystem sync /"),
            // It may be busy counting for a moment.
            Self::NoQuota => Lab::wait_until(Duration::from_secs(90), || {
                sh(
                    lab,
                    "btrfs quota disable / && ! btrfs qgroup show / 2>/dev/null",
                )
            }),
            Self::ReadOnly => sh(lab, "mount -o remount,bind,rw /home"),
        };
        assert!(mended, "{self:?} stays");
    }
}

#[test]
fn whatever_the_disk_refuses_whenever_nothing_is_lost_and_everything_can_be_undone() {
    let Some(lab) = Lab::fresh() else { return };
    let seeds = seeds(&[1]);
    let mut bulk = Bulk::new(&lab, seeds[0]);
    for seed in seeds {
        for (number, fault) in FAULTS.into_iter().enumerate() {
            let mut random = Random::new(seed * 3 + number as u64);
            let moment = match fault {
                // It takes a moment to reach it.
                Fault::NoQuota => Moment::Receiving(Duration::from_millis(random.below(1200))),
                _ => Moment::any(&mut random),
            };
            println!("seed {seed}: {fault:?} at {moment:?}");
            fault.prepare(&lab);
            let run = match bulk.start(moment) {
                Ok(run) => run,
                Err(ended) => {
                    println!("too late: {:?}", ended.expect(0).status);
                    fault.mend(&lab);
                    bulk.judge_ended();
                    bulk.change();
                    continue;
                }
            };
            let struck = fault.strike(&lab);
            let run = run.wait();
            for host in [ATLAS, VEGA] {
                lab.assert_nothing_left_running_on(host, Duration::from_secs(30));
                assert!(lab.is_free(host), "{host} is locked");
            }
            fault.mend(&lab);
            if DONE.contains(&run.status) {
                println!("the run was over first (struck: {struck})");
                bulk.judge_ended();
                bulk.change();
                continue;
            }
            assert!(matches!(run.status, Some(1 | 7)), "{}", run.text());
            bulk.judge_by(Judgement::of(seed + number as u64));
            bulk.change();
            println!("survived: {}", fault.words());
        }
    }
}
