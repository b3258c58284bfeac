//! Large files of which little changed cost little: what goes over the wire is counted, and the
//! result is judged by the oracles.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::time::{Duration, Instant};

use crate::support::awkward::{Random, set_mtime};
use crate::support::lab::{ATLAS, Lab, VEGA};
use crate::support::noise;
use crate::support::oracle::places;
use crate::support::random::{self, BLOCK};
use crate::support::scenario::{AGAIN, FILTER, cost, make_private_paths, work};
use crate::support::stopped::STAGING;

const MIB: u64 = 1 << 20;

/// Two machines that have `file` alike; what a sync costs that has nothing to do, with these flags.
#[track_caller]
fn idle(lab: &Lab, args: &[&str]) -> u64 {
    lab.configure(ATLAS, FILTER);
    make_private_paths(lab);
    cost(lab, &[]);
    // The program is installed there now, and need not be sent any more.
    cost(lab, args).0
}

#[test]
fn changed_blocks_of_an_image_cost_a_tenth_more_than_themselves() {
    let Some(lab) = Lab::fresh() else { return };
    let (ours, theirs) = (work(&lab, ATLAS), work(&lab, VEGA));
    let (ours, theirs) = (ours.join("image"), theirs.join("image"));
    noise(&ours, 128 * MIB);
    let idle = idle(&lab, &[]);
    let mut random = Random::new(7);
    let count = 128 * MIB / BLOCK / 100;
    let mut costs = Vec::new();

    // Here, there, and on both machines: what was changed on either goes to the other.
    for (here, there) in [(count, 0), (0, count / 4), (count / 4, count / 4)] {
        if here > 0 {
            random::edit(&ours, here, &mut random).expect("writable");
        }
        if there > 0 {
            random::edit(&theirs, there, &mut random).expect("writable");
        }
        let (bytes, how) = cost(&lab, &[]);
        assert_eq!(how, "anchor");
        let changed = (here + there) * BLOCK;
        costs.push((changed, bytes.saturating_sub(idle)));
    }
    println!("an idle sync costs {idle}; changed bytes and what they cost: {costs:?}");
    for (changed, bytes) in costs {
        assert!(bytes < changed * 11 / 10, "{bytes} for {changed}");
        assert!(
            bytes > changed * 9 / 10,
            "{bytes} for {changed}: not counted"
        );
    }

    // Written anew with what was there: that is a change for the filesystem alone.
    let file = File::options().read(true).write(true).open(&ours);
    let file = file.expect("there");
    let mut same = vec![0; 8 << 20];
    file.read_exact_at(&mut same, 40 * MIB).expect("readable");
    file.write_all_at(&same, 40 * MIB).expect("writable");
    drop(file);
    let (bytes, how) = cost(&lab, &[]);
    println!("8 MiB written anew cost {}", bytes.saturating_sub(idle));
    assert_eq!(how, "anchor");
    assert!(bytes < idle + 128 * 1024, "{bytes}, idle {idle}");
}

#[test]
fn without_an_anchor_changed_blocks_and_lines_put_in_do_not_send_the_rest() {
    let Some(lab) = Lab::fresh() else { return };
    let ours = work(&lab, ATLAS);
    let (text, image) = (ours.join("text"), ours.join("image"));
    let size = if std::env::var_os("CI").is_some() {
        50 * MIB
    } else {
        200 * MIB
    };
    let mut random = Random::new(8);
    random::text(&text, size, &mut random).expect("writable");
    noise(&image, 64 * MIB);
    let idle = idle(&lab, &["--full-scan"]);

    random::edit(&image, 100, &mut random).expect("writable");
    let (bytes, how) = cost(&lab, &["--full-scan"]);
    assert_eq!(how, "full");
    let changed = 100 * BLOCK;
    println!("100 blocks cost {} beyond {idle}", bytes - idle);
    // And the hashes of all pieces, and of the blocks in those that differ.
    assert!(bytes - idle < changed + 300_000, "{bytes}, idle {idle}");

    // Written anew as a whole, as editors do: an anchor does not help, nor is it needed.
    for args in [&[][..], &["--full-scan"]] {
        let new = ours.join("text.new");
        let mut file = File::create(&new).expect("writable");
        writeln!(file, "a line put in at the head {}", random.next()).expect("writable");
        io::copy(&mut File::open(&text).expect("there"), &mut file).expect("writable");
        fs::rename(&new, &text).expect("writable");
        let (bytes, _) = cost(&lab, args);
        println!("a line at the head of {size} bytes cost {}", bytes - idle);
        assert!(bytes < idle + size / 200, "{bytes}, idle {idle}: {args:?}");
    }
}

#[test]
fn a_copy_on_the_source_becomes_one_on_the_target_and_is_not_sent() {
    let Some(lab) = Lab::fresh() else { return };
    let (ours, theirs) = (work(&lab, ATLAS), work(&lab, VEGA));
    let size = 64 * MIB;
    noise(&ours.join("image"), size);
    noise(&ours.join("document"), 300_000);
    let idle = idle(&lab, &[]);
    let reflink = |from: &str, to: &str| {
        let to = File::create(ours.join(to)).expect("writable");
        let from = File::open(ours.join(from)).expect("there");
        rustix::fs::ioctl_ficlone(to, from).expect("btrfs can");
    };

    reflink("image", "copy");
    fs::create_dir_all(ours.join("new/deep")).expect("writable");
    reflink("image", "new/deep/edited");
    reflink("document", "new/document");
    let edited = 50;
    let mut random = Random::new(11);
    random::edit(&ours.join("new/deep/edited"), edited, &mut random).expect("writable");
    let (bytes, how) = cost(&lab, &[]);
    assert_eq!(how, "anchor");
    let cost_of_copies = bytes.saturating_sub(idle);
    println!("two copies of {size} bytes, {edited} blocks changed, cost {cost_of_copies}");
    assert!(cost_of_copies < size / 100 + edited * BLOCK, "{bytes}");
    let image = places(&theirs.join("image"));
    assert_eq!(places(&theirs.join("copy")), image);
    let edited = places(&theirs.join("new/deep/edited"));
    assert!(edited.len() > image.len(), "{edited:?}");
    assert_eq!(
        places(&theirs.join("new/document")),
        places(&theirs.join("document"))
    );

    // A copy of what is new itself comes once.
    noise(&ours.join("fresh"), 8 * MIB);
    reflink("fresh", "again");
    let (bytes, _) = cost(&lab, &[]);
    println!("8 MiB and a copy of it cost {}", bytes - idle);
    assert!(bytes - idle < 9 * MIB, "{bytes}, idle {idle}");
    assert_eq!(places(&theirs.join("again")), places(&theirs.join("fresh")));

    // Nothing is shared, but it is in the plan under another name: a copy of what is replaced.
    fs::copy(ours.join("image"), ours.join("kept")).expect("writable");
    let time = fs::metadata(ours.join("image")).expect("there");
    set_mtime(&ours.join("kept"), time.mtime(), time.mtime_nsec()).expect("root may");
    fs::write(ours.join("image"), "begun anew\n").expect("writable");
    let before = places(&theirs.join("image"));
    let (bytes, _) = cost(&lab, &[]);
    println!("a copy of what was replaced costs {}", bytes - idle);
    assert!(bytes - idle < size / 100, "{bytes}, idle {idle}");
    assert_eq!(places(&theirs.join("kept")), before);
}

#[test]
fn a_large_file_whose_link_was_cut_goes_on_from_what_arrived() {
    let Some(lab) = Lab::fresh() else { return };
    let (ours, theirs) = (work(&lab, ATLAS), work(&lab, VEGA));
    let size = 160 * MIB;
    fs::write(ours.join("small"), "small\n").expect("writable");
    let idle = idle(&lab, &[]);
    fs::create_dir_all(ours.join("new/deep")).expect("writable");
    noise(&ours.join("new/deep/large"), size);
    lab.verb(&["netem", "200mbit", "1ms"]).ok();
    let mut run = lab.start_sync(&AGAIN);
    let arrived = || {
        let staged = fs::read_dir(lab.home(VEGA).join(STAGING)).into_iter();
        let parts = staged.flatten().flatten().filter(|entry| {
            let name = entry.file_name();
            name.to_string_lossy().starts_with("part-")
        });
        let blocks = parts.map(|part| part.metadata().map_or(0, |part| part.blocks()));
        blocks.sum::<u64>() * 512
    };
    let is_half_there = || arrived() > size / 2;
    if !Lab::wait_until(Duration::from_mins(1), is_half_there) {
        assert!(run.is_running(), "{}", run.wait().text());
        panic!("it does not arrive: {}", arrived());
    }
    let since = Instant::now();
    lab.verb(&["cut", "down"]).ok();
    run.wait().expect(5);
    lab.assert_nothing_left_running_on(VEGA, Duration::from_secs(35));
    println!("everything ended {:?} after the cut", since.elapsed());
    lab.assert_nothing_left_running();
    let arrived = arrived();
    assert!(arrived > size / 2, "{arrived}");
    assert!(!theirs.join("new/deep/large").exists());

    lab.verb(&["heal"]).ok();
    lab.verb(&["netem", "off"]).ok();
    // It has moved on meanwhile, a little.
    let large = ours.join("new/deep/large");
    random::edit(&large, 3, &mut Random::new(9)).expect("writable");
    let (bytes, _) = cost(&lab, &["--allow-incomplete"]);
    println!("{arrived} of {size} had arrived, the rest cost {bytes} with {idle} for a sync");
    // Besides the rest: the hashes of all pieces, and what was not a whole piece yet.
    assert!(bytes < idle + size - arrived + 2 * MIB, "{bytes}");
    assert!(!lab.home(VEGA).join(STAGING).exists());
    let (bytes, how) = cost(&lab, &[]);
    assert_eq!(how, "anchor");
    assert!(bytes < idle * 2, "{bytes}, idle {idle}");
}

#[test]
fn on_a_slow_line_content_that_gets_smaller_is_compressed_and_the_rest_is_not() {
    let Some(lab) = Lab::fresh() else { return };
    let ours = work(&lab, ATLAS);
    fs::write(ours.join("small"), "small\n").expect("writable");
    let idle = idle(&lab, &[]);
    lab.verb(&["netem", "50mbit", "1ms"]).ok();
    let size = 40 * MIB;
    random::text(&ours.join("text"), size, &mut Random::new(10)).expect("writable");
    let since = Instant::now();
    let (bytes, _) = cost(&lab, &[]);
    let text = bytes - idle;
    println!("text of {size} bytes cost {text} in {:?}", since.elapsed());
    // Random numbers in hexadecimal: half of it. Before anything is known it goes as it is.
    assert!(text < size * 3 / 4, "{text}");
    fs::remove_file(ours.join("text")).expect("there");
    noise(&ours.join("noise"), size);
    let (bytes, _) = cost(&lab, &["--allow-mass-delete"]);
    println!("noise of {size} bytes cost {}", bytes - idle);
    // Packets of 1500 bytes have 66 around what they carry.
    assert!(bytes - idle < size * 107 / 100, "{bytes}, idle {idle}");
}
