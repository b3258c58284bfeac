//! Runs that end before their end: each file old or new, nothing left running, and the next run converges.

use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::support::awkward::Random;
use crate::support::lab::{ATLAS, Lab, VEGA};
use crate::support::processes::{self, Part};
use crate::support::scenario::DONE;
use crate::support::seeds;
use crate::support::stopped::{Bulk, Judgement, Moment};

/// A link is noticed to be dead after 15 seconds, an agent nobody speaks to ends after 30.
const NOTICED: Duration = Duration::from_secs(35);

/// A part of a sync, for people.
fn words(part: Part) -> &'static str {
    match part {
        Part::Cli => "the program",
        Part::Agent(ATLAS) => "the source's agent",
        Part::Agent(_) => "an agent of the target",
        Part::Login(_) => "the target's sshd of the connection",
    }
}

#[test]
fn whatever_is_killed_whenever_each_file_is_old_or_new_and_nothing_is_left() {
    let Some(lab) = Lab::fresh() else { return };
    let parts = [
        Part::Cli,
        Part::Agent(ATLAS),
        Part::Agent(VEGA),
        Part::Login(VEGA),
    ];
    let seeds = seeds(&[1, 2, 3]);
    let mut bulk = Bulk::new(&lab, seeds[0]);
    for seed in seeds {
        for (number, part) in parts.into_iter().enumerate() {
            let mut random = Random::new(seed * 4 + number as u64);
            let moment = Moment::any(&mut random);
            println!("seed {seed}: {part:?} is killed at {moment:?}");
            let Some(run) = bulk.caught(moment) else {
                continue;
            };
            let victims = processes::of(&lab, part);
            assert!(!victims.is_empty(), "no {part:?}");
            let victim = random.pick(&victims);
            let is_first = std::ptr::eq(victim, &raw const victims[0]);
            victim.signal(Signal::KILL);
            let since = Instant::now();
            let run = run.wait();
            let ended = since.elapsed();
            match part {
                Part::Cli => assert!(!matches!(run.status, Some(0..=8)), "{run:?}"),
                // Not the connection: something on this very machine failed.
                Part::Agent(ATLAS) => drop(run.expect(1)),
                // Only the disk monitor lost its connection: the rest was faster than the news, or the monitor
                // was just beginning and makes do with the other connection, which is a warning.
                _ if !is_first && DONE.contains(&run.status) => {
                    println!("the run was over first");
                    bulk.judge_ended();
                    bulk.change();
                    continue;
                }
                _ => drop(run.expect(5)),
            }
            for host in [ATLAS, VEGA] {
                let left = NOTICED.saturating_sub(since.elapsed());
                lab.assert_nothing_left_running_on(host, left);
            }
            println!(
                "ended after {ended:?}, nothing left after {:?}",
                since.elapsed()
            );
            bulk.judge_by(Judgement::of(seed + number as u64));
            bulk.change();
            println!("survived: {} killed (SIGKILL)", words(part));
        }
    }
}

/// What happens to a machine or to the wire between them.
#[derive(Debug, Clone, Copy)]
enum Blow {
    /// The wire is pulled out: the kernel knows at once.
    Cut,
    /// Everything that is sent disappears, and nobody is told.
    BlackHole,
    /// A machine loses its power.
    PowerCut(&'static str),
}

impl Blow {
    const ALL: [Self; 4] = [
        Self::Cut,
        Self::BlackHole,
        Self::PowerCut(VEGA),
        Self::PowerCut(ATLAS),
    ];

    fn words(self) -> &'static str {
        match self {
            Self::Cut => "the link cut",
            Self::BlackHole => "the link a black hole",
            Self::PowerCut(ATLAS) => "a power cut of the source",
            Self::PowerCut(_) => "a power cut of the target",
        }
    }

    fn strike(self, lab: &Lab) {
        match self {
            Self::Cut => lab.verb(&["cut", "down"]).ok(),
            Self::BlackHole => lab.verb(&["cut", "drop"]).ok(),
            Self::PowerCut(host) => lab.verb(&["powercut", host]).ok(),
        };
    }

    fn mend(self, lab: &Lab) {
        match self {
            Self::Cut | Self::BlackHole => lab.verb(&["heal"]).ok(),
            Self::PowerCut(host) => lab.verb(&["start", host]).ok(),
        };
    }
}

#[test]
fn whatever_wire_or_power_fails_whenever_nothing_is_lost_and_everything_can_be_undone() {
    let Some(lab) = Lab::fresh() else { return };
    let seeds = seeds(&[1]);
    let mut bulk = Bulk::new(&lab, seeds[0]);
    for seed in seeds {
        for (number, blow) in Blow::ALL.into_iter().enumerate() {
            let mut random = Random::new(seed * 4 + number as u64);
            let moment = Moment::any(&mut random);
            println!("seed {seed}: {blow:?} at {moment:?}");
            let Some(run) = bulk.caught(moment) else {
                continue;
            };
            blow.strike(&lab);
            let run = run.wait();
            if !matches!(blow, Blow::PowerCut(_)) {
                // Everything ends while the wire is still gone.
                for host in [ATLAS, VEGA] {
                    lab.assert_nothing_left_running_on(host, NOTICED);
                }
            }
            blow.mend(&lab);
            for host in [ATLAS, VEGA] {
                lab.assert_nothing_left_running_on(host, NOTICED);
                assert!(lab.is_free(host), "{host} is locked");
            }
            if DONE.contains(&run.status) {
                println!("the run was over first");
                bulk.judge_ended();
                bulk.change();
                continue;
            }
            bulk.judge_by(Judgement::of(seed + number as u64));
            bulk.change();
            println!("survived: {}", blow.words());
        }
    }
}

#[test]
fn a_cut_link_is_noticed_and_everything_ends() {
    let Some(lab) = Lab::fresh() else { return };
    let mut bulk = Bulk::new(&lab, 5);
    for (how, moment) in [
        ("down", Moment::Receiving(Duration::from_millis(300))),
        ("drop", Moment::Receiving(Duration::from_millis(1200))),
    ] {
        let run = bulk.surely(moment);
        let since = Instant::now();
        lab.verb(&["cut", how]).ok();
        run.wait().expect(5);
        // A dead peer is noticed within 15 seconds; then there is cleaning up.
        let ended = since.elapsed();
        assert!(ended < Duration::from_secs(35), "{ended:?}");
        for host in [ATLAS, VEGA] {
            let left = NOTICED.saturating_sub(since.elapsed());
            lab.assert_nothing_left_running_on(host, left);
        }
        println!(
            "{how}: ended after {ended:?}, nothing left after {:?}",
            since.elapsed()
        );
        lab.verb(&["heal"]).ok();
        bulk.judge();
        bulk.change();
    }
}

#[test]
fn a_power_cut_on_the_target_leaves_old_or_new_files() {
    for (seed, moment) in [
        (1, Moment::Receiving(Duration::from_secs(1))),
        (2, Moment::Placing(Duration::from_millis(20))),
    ] {
        let Some(lab) = Lab::fresh() else { return };
        let mut bulk = Bulk::new(&lab, seed);
        let run = bulk.surely(moment);
        lab.verb(&["powercut", VEGA]).ok();
        run.wait().expect(5);
        lab.verb(&["start", VEGA]).ok();
        lab.assert_nothing_left_running();
        bulk.judge();
    }
}

#[test]
fn signals_end_a_run_in_good_order_with_130() {
    let Some(lab) = Lab::fresh() else { return };
    let mut bulk = Bulk::new(&lab, 6);
    for (signal, moment) in [
        (Signal::INT, Moment::Receiving(Duration::from_millis(400))),
        (Signal::TERM, Moment::Receiving(Duration::from_millis(1500))),
        (Signal::HUP, Moment::Placing(Duration::ZERO)),
    ] {
        let run = bulk.surely(moment);
        let since = Instant::now();
        assert!(processes::signal(&lab, Part::Cli, signal));
        run.wait().expect(130);
        let ended = since.elapsed();
        assert!(ended < Duration::from_secs(25), "{signal:?}: {ended:?}");
        lab.assert_nothing_left_running();
        bulk.judge();
        bulk.change();
    }
}
