//! Content over several connections: equal to what one carries, and what becomes of a run when they cannot be
//! had, are lost, are limited together or are not wanted any more.

use std::fs;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::support::awkward::Random;
use crate::support::lab::{ATLAS, Lab, Running, VEGA};
use crate::support::noise;
use crate::support::oracle;
use crate::support::processes::{self, Part};
use crate::support::random;
use crate::support::scenario::{DONE, FILTER, PRIVATE, last_log, make_private_paths, sent, work};
use crate::support::stopped::STAGING;

/// Four connections for `/home`.
const FOUR: &str = "sync_modules: { user_data: true }\ntransfers: 4\n\
    disk: { preflight_minimum: \"1%\", runtime_minimum: \"1%\", warning_threshold: \"1%\", check_interval: 300 }\n\
    btrfs_snapshots: { subvolumes: [\"@home\"] }\n\
    user_data: { folders: [ { path: /home, filter: home.filter } ] }\n";

/// What the log says when all of them are there.
const ALL: &str = "4 connections carry what is sent";

/// How long anything may take on a machine that does much else.
const PATIENCE: Duration = Duration::from_mins(2);

fn four(lab: &Lab) {
    for host in [ATLAS, VEGA] {
        lab.configure_with(host, FOUR, FILTER);
    }
    make_private_paths(lab);
}

/// What a run has to send before anything else of it: enough for all connections to be there, and long enough
/// on a line of 100 Mbit/s.
fn bulk(lab: &Lab) {
    noise(&lab.dev(ATLAS).join("0 bulk"), 120 << 20);
}

/// Starts a sync on a slow line and returns when it has all its connections.
fn over_four(lab: &Lab, args: &[&str]) -> Running {
    let old = lab.logs();
    lab.verb(&["netem", "100mbit", "1ms"]).ok();
    let mut run = lab.start_sync(args);
    let has_all = || {
        let logs = lab.logs();
        let mut new = logs.difference(&old);
        new.any(|log| fs::read_to_string(log).is_ok_and(|text| text.contains(ALL)))
    };
    if !Lab::wait_until(PATIENCE, has_all) {
        assert!(run.is_running(), "{}", run.wait().text());
        panic!("it has not all its connections");
    }
    run
}

/// ... and lets it end at full speed, with two equal homes.
fn sync_over_four(lab: &Lab, args: &[&str]) {
    let run = over_four(lab, args);
    lab.verb(&["netem", "off"]).ok();
    let run = run.wait();
    assert!(DONE.contains(&run.status), "{}", run.text());
    oracle::assert_homes_equal(lab, PRIVATE);
    lab.assert_nothing_left_running();
}

#[test]
fn what_comes_over_four_connections_is_what_is_there() {
    let Some(lab) = Lab::fresh() else { return };
    four(&lab);
    let (ours, theirs) = (work(&lab, ATLAS), work(&lab, VEGA));
    random::tree(&ours, 41, 300).expect("a tree");
    let many = ours.join("many");
    fs::create_dir(&many).expect("writable");
    for n in 0..3000 {
        fs::write(many.join(n.to_string()), format!("page {n}\n")).expect("writable");
        if n % 10 == 0 {
            let link = ours.join(format!("name {n}"));
            fs::hard_link(many.join(n.to_string()), link).expect("writable");
        }
    }
    let image = ours.join("image");
    noise(&image, 48 << 20);
    bulk(&lab);
    sync_over_four(&lab, &[]);

    // Blocks of the large file, and anything of the tree on both machines.
    let mut random = Random::new(42);
    random::edit(&image, 500, &mut random).expect("writable");
    random::mutate(&ours, 43, 60).expect("changes");
    random::mutate(&theirs, 44, 40).expect("changes");
    bulk(&lab);
    let again = [
        "--allow-out-of-order",
        "--allow-conflicts",
        "--allow-mass-delete",
    ];
    sync_over_four(&lab, &again);
    bulk(&lab);
    sync_over_four(&lab, &[&again[..], &["--full-scan"]].concat());
}

#[test]
fn a_connection_that_dies_in_the_middle_is_a_lost_connection() {
    let Some(lab) = Lab::fresh() else { return };
    four(&lab);
    bulk(&lab);
    let run = over_four(&lab, &[]);
    // What sshd runs for a login that has started nothing.
    let lanes = processes::all(&lab, VEGA).into_iter().filter(|process| {
        let title = process.args.first().map_or("", |title| title.trim_end());
        process.comm.starts_with("sshd") && title.ends_with(": dev")
    });
    let lanes: Vec<_> = lanes.collect();
    assert_eq!(lanes.len(), 3, "{lanes:?}");
    assert!(lanes[1].signal(Signal::KILL));
    let run = run.wait().expect(5);
    let words = "lost the agent on vega: the connection was closed";
    assert!(run.text().contains(words), "{}", run.text());
    lab.assert_nothing_left_running();
    lab.verb(&["netem", "off"]).ok();
    let again = lab.sync(&["--allow-incomplete", "--allow-out-of-order"]);
    assert!(DONE.contains(&again.status), "{}", again.text());
    oracle::assert_homes_equal(&lab, PRIVATE);
}

#[test]
fn connections_that_cannot_be_had_are_told_once_and_done_without() {
    let Some(lab) = Lab::fresh() else { return };
    four(&lab);
    let limit = |lines: &str| {
        let file = lab.inside(VEGA).join("etc/ssh/sshd_config.d/0-limits.conf");
        fs::write(file, lines).expect("root may");
        lab.exec(VEGA, &["systemctl", "restart", "ssh"]).ok();
    };
    // A connection has one channel and is opened when the one before has logged in.
    limit("MaxSessions 2\nMaxStartups 1\n");
    bulk(&lab);
    sync_over_four(&lab, &[]);

    limit("AllowStreamLocalForwarding no\n");
    bulk(&lab);
    lab.verb(&["netem", "100mbit", "1ms"]).ok();
    let run = lab.sync(&["--allow-out-of-order"]);
    lab.verb(&["netem", "off"]).ok();
    // No warning: it was asked for as an upper bound, and everything is there.
    assert_eq!(run.status, Some(0), "{}", run.text());
    let told = "what is sent goes over 1 of 4 connections: \
        the ssh server of vega does not pass it on (AllowStreamLocalForwarding)";
    assert_eq!(run.text().matches(told).count(), 1, "{}", run.text());
    oracle::assert_homes_equal(&lab, PRIVATE);
    lab.assert_nothing_left_running();
}

#[test]
fn four_connections_keep_one_limit() {
    let Some(lab) = Lab::fresh() else { return };
    four(&lab);
    assert!(DONE.contains(&lab.sync(&[]).status));
    let size = 100_000_000;
    noise(&lab.dev(ATLAS).join("large"), size);
    let before = sent(&lab)[0];
    let since = Instant::now();
    let run = lab.sync(&["--allow-out-of-order", "--bwlimit", "10MB"]);
    let took = since.elapsed();
    assert!(DONE.contains(&run.status), "{}", run.text());
    assert!(last_log(&lab, ATLAS).contains(ALL));
    println!("{} bytes at 10 MB/s took {took:?}", sent(&lab)[0] - before);
    // What is sent at once after a pause comes on top, once for all of them.
    assert!(took + Duration::from_millis(500) > Duration::from_secs(size / 10_000_000));
    oracle::assert_homes_equal(&lab, PRIVATE);
}

#[test]
fn ctrl_c_ends_all_connections_on_a_slow_line() {
    let Some(lab) = Lab::fresh() else { return };
    four(&lab);
    bulk(&lab);
    let run = over_four(&lab, &[]);
    lab.verb(&["netem", "10mbit", "20ms"]).ok();
    let since = Instant::now();
    assert!(processes::signal(&lab, Part::Cli, Signal::INT));
    run.wait().expect(130);
    let ended = since.elapsed();
    println!("interrupted at 10 Mbit/s with four connections: ended after {ended:?}");
    assert!(ended < Duration::from_secs(25), "{ended:?}");
    lab.assert_nothing_left_running();
    lab.verb(&["netem", "off"]).ok();
    let again = lab.sync(&["--allow-incomplete", "--allow-out-of-order"]);
    assert!(DONE.contains(&again.status), "{}", again.text());
    oracle::assert_homes_equal(&lab, PRIVATE);
}

#[test]
fn ctrl_c_on_a_slow_line_is_heard_there_before_what_was_to_be_sent() {
    let Some(lab) = Lab::fresh() else { return };
    let one = FOUR.replace("transfers: 4", "transfers: 1");
    for host in [ATLAS, VEGA] {
        lab.configure_with(host, &one, FILTER);
    }
    bulk(&lab);
    // A buffer on the way as a line of 10 Mbit/s may have one: it is filled, and nothing overtakes it.
    lab.verb(&["netem", "100mbit", "20ms", "0%", "128"]).ok();
    let run = lab.start_sync(&[]);
    let staging = lab.home(VEGA).join(STAGING);
    assert!(Lab::wait_until(PATIENCE, || staging.exists()));
    let arrived = |bytes: u64| sent(&lab)[0] >= bytes;
    let before = sent(&lab)[0];
    assert!(Lab::wait_until(PATIENCE, || arrived(before + (10 << 20))));
    lab.verb(&["netem", "10mbit", "20ms", "0%", "128"]).ok();
    let since = Instant::now();
    assert!(processes::signal(&lab, Part::Cli, Signal::INT));
    let run = run.wait().expect(130);
    println!(
        "interrupted at 10 Mbit/s: ended after {:?}",
        since.elapsed()
    );
    // Whoever waits in vain says so.
    assert!(!run.text().contains("no answer"), "{}", run.text());
    lab.assert_nothing_left_running();
}
