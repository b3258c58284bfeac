//! Runs that end before their end: each file old or new, nothing left running, and the next run converges.

use std::fs;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use crate::support::awkward::Random;
use crate::support::lab::{ATLAS, Lab, Running, VEGA};
use crate::support::oracle;
use crate::support::scenario::{DONE, FILTER, PRIVATE, home};
use crate::support::tree::Tree;

/// Enough that a slow wire takes a while: new files, changed files, files to be deleted, one large file.
fn prepare(lab: &Lab) -> Tree {
    lab.configure(ATLAS, FILTER);
    let (source, target) = (lab.dev(ATLAS).join("bulk"), lab.dev(VEGA).join("bulk"));
    for root in [&source, &target] {
        fs::create_dir(root).expect("writable");
    }
    let mut random = Random::new(77);
    let mut noise = vec![0; 64 << 10];
    for n in 0..1500 {
        fill(&mut noise, 1, &mut random);
        fs::write(source.join(format!("new {n}")), &noise[..20_000]).expect("writable");
        if n % 3 == 0 {
            fs::write(source.join(format!("changed {n}")), &noise[..5000]).expect("writable");
            fs::write(target.join(format!("changed {n}")), &noise[..5001]).expect("writable");
            fs::write(target.join(format!("deleted {n}")), "old").expect("writable");
        }
    }
    let large = fs::File::create(source.join("large")).expect("writable");
    for block in 0..(96 << 20) / noise.len() as u64 {
        noise
            .iter_mut()
            .step_by(64)
            .for_each(|b| *b = random.byte());
        large
            .write_all_at(&noise, block * noise.len() as u64)
            .expect("writable");
    }
    fs::write(target.join("large"), "an older, small one").expect("writable");
    // What a power cut goes back to.
    rustix::fs::syncfs(fs::File::open(&target).expect("readable")).expect("the disk takes it");
    lab.verb(&["netem", "200mbit", "1ms"]).ok();
    home(lab, VEGA)
}

fn fill(buffer: &mut [u8], every: usize, random: &mut Random) {
    for byte in buffer.iter_mut().step_by(every) {
        *byte = random.byte();
    }
}

/// Starts a sync and returns when it has begun to change the target, and a random moment later.
fn start(lab: &Lab, later: Duration) -> Running {
    let mut run = lab.start_sync(&["--allow-mass-delete"]);
    let bulk = lab.dev(VEGA).join("bulk");
    let began = Lab::wait_until(Duration::from_mins(1), || {
        !run.is_running()
            || fs::read_dir(&bulk).is_ok_and(|all| {
                all.flatten()
                    .any(|e| e.file_name().to_string_lossy().starts_with("new "))
            })
    });
    assert!(
        began && run.is_running(),
        "it ended or never began to write: {:?}",
        run.wait()
    );
    std::thread::sleep(later);
    run
}

/// Every file on the target is its old or its new version; then the next run says so and converges.
fn judge(lab: &Lab, before: &Tree) {
    lab.assert_nothing_left_running();
    let (now, wanted) = (home(lab, VEGA), home(lab, ATLAS));
    for (path, entry) in now.entries.iter().filter(|(_, e)| e.is_file()) {
        let versions = [before.entries.get(path), wanted.entries.get(path)];
        let known = versions
            .iter()
            .flatten()
            .any(|v| (v.size, &v.content) == (entry.size, &entry.content));
        let ours = path
            .windows(b".pc-switcher".len())
            .any(|w| w == b".pc-switcher");
        assert!(
            known || ours,
            "{} is neither old nor new",
            path.escape_ascii()
        );
    }
    assert_ne!(
        now.differences(&wanted),
        [],
        "it was over before it was interrupted"
    );

    lab.verb(&["netem", "off"]).ok();
    let next = lab.sync(&["--allow-mass-delete", "--allow-out-of-order"]);
    assert!(DONE.contains(&next.status), "{}", next.text());
    assert!(
        next.text().to_lowercase().contains("incomplete"),
        "{}",
        next.text()
    );
    oracle::assert_homes_equal(lab, PRIVATE);
    lab.assert_nothing_left_running();
}

#[test]
fn a_killed_cli_leaves_nothing_running() {
    for later in [0, 700, 2100] {
        let Some(lab) = Lab::fresh() else { return };
        let before = prepare(&lab);
        let run = start(&lab, Duration::from_millis(later));
        lab.signal(ATLAS, "-KILL", "sync").ok();
        assert_ne!(run.wait().status, Some(0));
        judge(&lab, &before);
    }
}

#[test]
fn a_killed_agent_on_the_target_is_a_lost_connection() {
    for later in [100, 1500] {
        let Some(lab) = Lab::fresh() else { return };
        let before = prepare(&lab);
        let run = start(&lab, Duration::from_millis(later));
        lab.exec(
            VEGA,
            &["pkill", "-KILL", "-f", "pc-switcher.*agent|memfd.*agent"],
        )
        .ok();
        run.wait().expect(5);
        judge(&lab, &before);
    }
}

#[test]
fn a_cut_link_is_noticed_and_everything_ends() {
    for (how, later) in [("down", 300), ("drop", 1200)] {
        let Some(lab) = Lab::fresh() else { return };
        let before = prepare(&lab);
        let run = start(&lab, Duration::from_millis(later));
        let since = Instant::now();
        lab.verb(&["cut", how]).ok();
        run.wait().expect(5);
        // Keepalives detect a dead peer within 15 seconds; then there is cleaning up.
        assert!(
            since.elapsed() < Duration::from_secs(25),
            "{:?}",
            since.elapsed()
        );
        Lab::wait_until(Duration::from_secs(25), || {
            lab.left_running(VEGA).is_empty()
        });
        lab.assert_nothing_left_running();
        lab.verb(&["heal"]).ok();
        judge(&lab, &before);
    }
}

#[test]
fn a_power_cut_on_the_target_leaves_old_or_new_files() {
    let Some(lab) = Lab::fresh() else { return };
    let before = prepare(&lab);
    let run = start(&lab, Duration::from_secs(1));
    lab.verb(&["powercut", VEGA]).ok();
    run.wait().expect(5);
    lab.verb(&["start", VEGA]).ok();
    judge(&lab, &before);
}

#[test]
fn signals_end_a_run_in_good_order_with_130() {
    for signal in ["-INT", "-TERM", "-HUP"] {
        let Some(lab) = Lab::fresh() else { return };
        let before = prepare(&lab);
        let run = start(&lab, Duration::from_millis(400));
        let since = Instant::now();
        lab.signal(ATLAS, signal, "sync").ok();
        run.wait().expect(130);
        assert!(
            since.elapsed() < Duration::from_secs(10),
            "{signal}: {:?}",
            since.elapsed()
        );
        judge(&lab, &before);
    }
}
