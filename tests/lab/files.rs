//! Makes and compares directory trees: the same ones the tests use, for the demo and the benchmarks.
//!
//! ```text
//! lab-files awkward DIR                    one of everything a btrfs file system can hold
//! lab-files random DIR SEED COUNT          a random tree
//! lab-files mutate DIR SEED COUNT          random changes to one
//! lab-files many DIR COUNT MEAN_BYTES      COUNT files of realistic sizes, 20 to 100 in a directory
//! lab-files one DIR BYTES                  one file that does not compress
//! lab-files text DIR BYTES                 one file of lines
//! lab-files edit FILE PERCENT SEED         other content in so many of its blocks of 4 KiB
//! lab-files watch CGROUP...                until stdin ends; prints the largest resident set (KiB) in each
//! lab-files compare LEFT RIGHT [EXCEPT..]  every difference in every aspect; fails if there is one
//! ```

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::mpsc::RecvTimeoutError;
use std::time::Duration;

#[path = "../it/support"]
#[allow(dead_code, reason = "the tests use the rest")]
mod support {
    pub mod awkward;
    pub mod random;
    pub mod tree;
}

use support::awkward::{self, OWNER, Random, chown};
use support::random;
use support::tree::Tree;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match run(&words) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("lab-files: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(words: &[&str]) -> io::Result<ExitCode> {
    match words {
        ["awkward", directory] => awkward::build(Path::new(directory))?,
        ["random", directory, seed, count] => {
            random::tree(Path::new(directory), number(seed)?, number(count)?)?;
        }
        ["mutate", directory, seed, count] => {
            random::mutate(Path::new(directory), number(seed)?, number(count)?)?;
        }
        ["many", directory, count, mean] => {
            many(Path::new(directory), number(count)?, number(mean)?)?;
        }
        ["one", directory, bytes] => one(Path::new(directory), number(bytes)?)?,
        ["text", directory, bytes] => {
            let path = Path::new(directory).join("text");
            random::text(&path, number(bytes)?, &mut Random::new(1))?;
            chown(&path, OWNER, OWNER)?;
        }
        ["edit", file, percent, seed] => {
            let blocks = fs::metadata(file)?.len() / random::BLOCK;
            let count = (blocks * number::<u64>(percent)? / 100).max(1);
            random::edit(Path::new(file), count, &mut Random::new(number(seed)?))?;
        }
        ["watch", groups @ ..] => watch(groups),
        ["compare", left, right, except @ ..] => return compare(left, right, except),
        _ => {
            eprintln!(
                "lab-files awkward|random|mutate|many|one|text|edit|watch|compare ... (see tests/lab/files.rs)"
            );
            return Ok(ExitCode::from(2));
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn number<T: std::str::FromStr>(text: &str) -> io::Result<T> {
    text.parse()
        .map_err(|_| io::Error::other(format!("not a number: {text}")))
}

fn compare(left: &str, right: &str, except: &[&str]) -> io::Result<ExitCode> {
    let skip = |path: &[u8]| except.iter().any(|e| e.as_bytes() == path);
    let left = Tree::read_except(Path::new(left), &skip)?;
    let right = Tree::read_except(Path::new(right), &skip)?;
    let found = left.differences(&right);
    for difference in found.iter().take(20) {
        println!("{difference}");
    }
    let entries = left.entries.values();
    let (files, directories) = (
        entries.clone().filter(|e| e.is_file()).count(),
        entries.clone().filter(|e| e.is_dir()).count(),
    );
    let bytes: u64 = entries.map(|e| e.size).sum();
    println!(
        "{} entries compared ({files} files, {directories} directories, {} others; {} MiB), {} groups of hard links: {} differences",
        left.entries.len(),
        left.entries.len() - files - directories,
        bytes >> 20,
        left.hard_links().len(),
        found.len()
    );
    Ok(if found.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Sizes as homes have them: half tiny, a long tail; `mean` on average.
fn many(directory: &Path, count: u64, mean: u64) -> io::Result<()> {
    let mut random = Random::new(count);
    let mut noise = vec![0; 1 << 20];
    for byte in &mut noise {
        *byte = random.byte();
    }
    let mut parents: Vec<PathBuf> = vec![directory.to_owned()];
    let mut parent = directory.to_owned();
    let mut left_in_parent = 0;
    for file in 0..count {
        if left_in_parent == 0 {
            left_in_parent = 20 + random.below(81);
            // Most directories are a few levels down; the choice keeps the tree bushy.
            let above = random.pick(&parents).clone();
            parent = above.join(format!("directory-{file}"));
            fs::create_dir(&parent)?;
            chown(&parent, OWNER, OWNER)?;
            if parent.components().count() < directory.components().count() + 6 {
                parents.push(parent.clone());
            }
        }
        left_in_parent -= 1;
        // In tenths of the mean: 50 % up to 0.2, 30 % up to 1, 15 % up to 4, 5 % up to 17.
        let tenths = match random.below(100) {
            0..50 => random.below(3),
            50..80 => random.below(11),
            80..95 => random.below(41),
            _ => random.below(171),
        };
        let length =
            usize::try_from((mean * tenths / 10 + random.below(mean / 10 + 1)).min(1 << 19))
                .expect("at most 512 KiB");
        let at = usize::try_from(random.below(1 << 19)).expect("below 512 KiB");
        let path = parent.join(format!("file-{file}.dat"));
        let mut out = File::create(&path)?;
        out.write_all(&noise[at..at + length])?;
        rustix::fs::fchown(
            &out,
            Some(rustix::fs::Uid::from_raw(OWNER)),
            Some(rustix::fs::Gid::from_raw(OWNER)),
        )?;
    }
    Ok(())
}

fn one(directory: &Path, bytes: u64) -> io::Result<()> {
    let mut random = Random::new(bytes);
    let path = directory.join("one.img");
    let mut out = BufWriter::with_capacity(1 << 20, File::create(&path)?);
    for _ in 0..bytes / 8 {
        out.write_all(&random.next().to_le_bytes())?;
    }
    out.flush()?;
    chown(&path, OWNER, OWNER)
}

/// Peak resident set of the largest process of rsync, ssh, tar or ours in each control group.
fn watch(groups: &[&str]) {
    let (ended, end) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let _ = io::copy(&mut io::stdin(), &mut io::sink());
        let _ = ended.send(());
    });
    let mut peaks = vec![0; groups.len()];
    while end.recv_timeout(Duration::from_millis(50)) == Err(RecvTimeoutError::Timeout) {
        for (group, peak) in groups.iter().zip(&mut peaks) {
            for pid in processes(Path::new(group)) {
                *peak = (*peak).max(peak_resident(&pid).unwrap_or(0));
            }
        }
    }
    let shown: Vec<String> = peaks.iter().map(u64::to_string).collect();
    println!("{}", shown.join(" "));
}

fn processes(group: &Path) -> Vec<String> {
    let list = fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
    let mut found: Vec<String> = list.lines().map(str::to_owned).collect();
    for entry in fs::read_dir(group).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            found.extend(processes(&entry.path()));
        }
    }
    found
}

fn peak_resident(pid: &str) -> Option<u64> {
    // By what is executed: a deployed agent, whose file has no name any more, is called otherwise.
    let program = fs::read_link(format!("/proc/{pid}/exe")).ok()?;
    let program = program.to_string_lossy();
    let name = program.rsplit('/').next().unwrap_or_default();
    if !["rsync", "ssh", "tar"].contains(&name) && !program.contains("pc-switcher") {
        return None;
    }
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}
