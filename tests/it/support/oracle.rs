//! Who says whether a sync was right: rsync, the kernel, and a reader of our own.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::lab::{ATLAS, Lab, VEGA};
use super::tree::{Aspect, Difference, Tree};

/// What rsync would have to do to make `right` equal to `left`, one line each; empty if they are equal.
///
/// `-c` and `-@-1`: without them rsync believes a file of equal size and second. Paths beyond
/// `PATH_MAX` are beyond rsync: leave them out with an exclude and compare them with [`differences`].
pub fn rsync(left: &Path, right: &Path, excludes: &[&str]) -> Vec<String> {
    let mut source = left.as_os_str().to_owned();
    source.push("/");
    let mut target = right.as_os_str().to_owned();
    target.push("/");
    let output = Command::new("rsync")
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .args([
            "-aHAXScni",
            "-@-1",
            "--delete",
            "--numeric-ids",
            "--8-bit-output",
        ])
        .args(excludes.iter().map(|e| format!("--exclude={e}")))
        .args([&source, &target])
        .output()
        .expect("rsync is there");
    let mut lines: Vec<String> = output
        .stdout
        .split(|b| *b == b'\n')
        .chain(output.stderr.split(|b| *b == b'\n'))
        .filter(|l| !l.is_empty())
        .map(|l| l.escape_ascii().to_string())
        .collect();
    if !output.status.success() {
        lines.push(format!("rsync ended with {}", output.status));
    }
    lines
}

/// What our own reader finds different, leaving out what `skip` says yes to.
pub fn differences(
    left: &Path,
    right: &Path,
    skip: &dyn Fn(&[u8]) -> bool,
) -> io::Result<Vec<Difference>> {
    let (left, right) = (
        Tree::read_except(left, skip)?,
        Tree::read_except(right, skip)?,
    );
    Ok(left.differences(&right))
}

/// Fails the test unless both machines' homes are equal, for rsync and for our own reader.
/// `excludes` are paths from `/home` down (`/dev/.ssh`).
#[track_caller]
pub fn assert_homes_equal(lab: &Lab, excludes: &[&str]) {
    assert_trees_equal(&lab.home(ATLAS), &lab.home(VEGA), excludes);
}

/// The same for two trees; `excludes` are paths from their tops down.
#[track_caller]
pub fn assert_trees_equal(left: &Path, right: &Path, excludes: &[&str]) {
    for tree in [left, right] {
        let tree = File::open(tree).expect("the disk is mounted");
        rustix::fs::syncfs(tree).expect("the disk takes it");
    }
    let skip = |path: &[u8]| {
        excludes
            .iter()
            .any(|e| path == e.trim_matches('/').as_bytes())
    };
    let mut found = differences(left, right, &skip).expect("both can be read");
    found.retain(|d| d.aspect != Aspect::ZeroData);
    let shown: Vec<String> = found.iter().take(40).map(ToString::to_string).collect();
    assert!(
        found.is_empty(),
        "{} differences:\n{}",
        found.len(),
        shown.join("\n")
    );
    let deep = "/dev/deep";
    let lines = rsync(left, right, &[excludes, &[deep]].concat());
    assert!(lines.is_empty(), "rsync would:\n{}", lines.join("\n"));
}

/// Only differences of one aspect.
pub fn of(found: &[Difference], aspect: Aspect) -> Vec<&Difference> {
    found.iter().filter(|d| d.aspect == aspect).collect()
}

/// Where on its disk the data of a file is, as the filesystem says.
#[track_caller]
pub fn places(path: &Path) -> Vec<String> {
    let file = File::open(path).expect("there");
    file.sync_all().expect("the disk takes it");
    let list = Command::new("filefrag").arg("-v").arg(path).output();
    let list = list.expect("filefrag is there");
    let text = String::from_utf8_lossy(&list.stdout);
    // `   0:        0..   16383:     219464..    235847:  16384:             last,shared,eof`
    let lines = text
        .lines()
        .filter_map(|line| line.split(':').nth(2).map(str::trim));
    let places: Vec<String> = lines
        .filter(|place| place.contains(".."))
        .map(str::to_owned)
        .collect();
    assert!(!places.is_empty(), "{}: {text}", path.display());
    places
}

/// `lsattr -R` of a directory: the flags as e2fsprogs reads them, to judge our own reader by.
pub fn lsattr(directory: &Path) -> BTreeSet<Vec<u8>> {
    let output = Command::new("lsattr")
        .args(["-a", "-R", "."])
        .current_dir(directory)
        .output()
        .expect("lsattr is there");
    output
        .stdout
        .split(|b| *b == b'\n')
        .filter(|l| !l.is_empty() && !l.ends_with(b":"))
        .map(<[u8]>::to_vec)
        .collect()
}

/// Read-only snapshot of one of a machine's subvolumes, outside of what the machine itself looks at.
pub fn snapshot(lab: &Lab, host: &str, subvolume: &str, name: &str) -> PathBuf {
    let disk = lab.disk(host);
    let kept = disk.join("oracle");
    std::fs::create_dir_all(&kept).expect("the disk takes it");
    let path = kept.join(name);
    let mut command = Command::new("btrfs");
    command
        .args(["subvolume", "snapshot", "-r"])
        .arg(disk.join(subvolume))
        .arg(&path);
    let output = command.output().expect("btrfs is there");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    path
}

/// Paths the kernel says differ between two snapshots of one subvolume: by their old name, their new
/// name, or both.
pub fn kernel_diff(before: &Path, after: &Path) -> BTreeSet<Vec<u8>> {
    named_in_dump(&kernel_dump(before, after))
}

/// What has to be done to the first snapshot to get the second, as `btrfs receive --dump` prints it.
pub fn kernel_dump(before: &Path, after: &Path) -> Vec<u8> {
    // The reader stops at the stream's end mark; the writer may not be through yet.
    let send =
        "btrfs send -q --no-data -p \"$1\" \"$2\" | { btrfs receive --dump && cat >/dev/null; }";
    let output = Command::new("bash")
        .args(["-o", "pipefail", "-c", send, "diff"])
        .args([before, after])
        .output()
        .expect("bash is there");
    assert!(
        output.status.success(),
        "{}, after {}: {}",
        output.status,
        String::from_utf8_lossy(&output.stdout)
            .lines()
            .next_back()
            .unwrap_or_default(),
        String::from_utf8_lossy(&output.stderr)
    );
    output.stdout
}

/// The paths named in what `btrfs receive --dump` prints, with temporary names resolved.
fn named_in_dump(dump: &[u8]) -> BTreeSet<Vec<u8>> {
    let mut named: BTreeSet<Vec<u8>> = BTreeSet::new();
    for line in dump.split(|b| *b == b'\n').filter(|l| !l.is_empty()) {
        let words = words(line);
        let command = words.first().map_or(&b""[..], Vec::as_slice);
        if command == b"snapshot" || command == b"subvol" {
            continue;
        }
        let path = below_snapshot(words.get(1).expect("every command names a path"));
        if command == b"rename" {
            let dest = words
                .iter()
                .find_map(|w| w.strip_prefix(b"dest="))
                .expect("a rename has a destination");
            let dest = below_snapshot(dest);
            move_names(&mut named, &path, &dest);
            named.insert(dest);
        }
        named.insert(path);
    }
    named.retain(|p| !is_orphan(p) && !p.is_empty());
    named
}

/// What was named below a temporary name is now below `dest`.
fn move_names(named: &mut BTreeSet<Vec<u8>>, path: &[u8], dest: &[u8]) {
    if !is_orphan(path) {
        return;
    }
    let moved: Vec<Vec<u8>> = named
        .iter()
        .filter(|n| n.starts_with(path) && n.get(path.len()) == Some(&b'/'))
        .cloned()
        .collect();
    for name in moved {
        named.insert([dest, &name[path.len()..]].concat());
        named.remove(&name);
    }
}

/// `o257-10-0`, the name the kernel gives what is between two names, always in the root.
fn is_orphan(path: &[u8]) -> bool {
    let first = path.split(|b| *b == b'/').next().unwrap_or_default();
    let Some(numbers) = first.strip_prefix(b"o") else {
        return false;
    };
    let parts: Vec<&[u8]> = numbers.split(|b| *b == b'-').collect();
    parts.len() == 3
        && parts
            .iter()
            .all(|p| !p.is_empty() && p.iter().all(u8::is_ascii_digit))
}

/// `./name-of-snapshot/path` without the first two.
fn below_snapshot(path: &[u8]) -> Vec<u8> {
    path.splitn(3, |b| *b == b'/')
        .nth(2)
        .unwrap_or_default()
        .to_vec()
}

/// Splits at blanks that are not escaped, and undoes the escapes.
fn words(line: &[u8]) -> Vec<Vec<u8>> {
    let mut words = vec![Vec::new()];
    let mut bytes = line.iter().copied().peekable();
    while let Some(byte) = bytes.next() {
        let last = words.last_mut().expect("never empty");
        match byte {
            b' ' => words.push(Vec::new()),
            b'\\' => match bytes.next() {
                Some(first @ b'0'..=b'7') => {
                    let mut value = u32::from(first - b'0');
                    for _ in 0..2 {
                        if let Some(digit) = bytes.next_if(|b| (b'0'..=b'7').contains(b)) {
                            value = value * 8 + u32::from(digit - b'0');
                        }
                    }
                    last.push(u8::try_from(value).expect("three octal digits of a byte"));
                }
                Some(other) => last.push(match other {
                    b'a' => 7,
                    b'b' => 8,
                    b'e' => 27,
                    b'f' => 12,
                    b'n' => b'\n',
                    b'r' => b'\r',
                    b't' => b'\t',
                    b'v' => 11,
                    same => same,
                }),
                None => {}
            },
            _ => last.push(byte),
        }
    }
    words.retain(|w| !w.is_empty());
    words
}

/// Generation of every subvolume of a machine, by its path from the top.
pub fn generations(lab: &Lab, host: &str) -> BTreeMap<String, u64> {
    let disk = lab.disk(host);
    let run = |args: &[&str]| {
        let output = Command::new("btrfs").args(args).arg(&disk).output();
        String::from_utf8_lossy(&output.expect("btrfs is there").stdout).into_owned()
    };
    run(&["filesystem", "sync"]);
    run(&["subvolume", "list"])
        .lines()
        .filter_map(|line| {
            let (head, path) = line.split_once(" path ")?;
            let generation = head.split_whitespace().nth(3)?.parse().ok()?;
            Some((path.to_owned(), generation))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dump_names_old_and_new_paths_and_no_temporary_ones() {
        let dump = b"snapshot        ./post                          uuid=1 transid=10\n\
            mkfile          ./post/o270-10-0\n\
            rename          ./post/o270-10-0                dest=./post/dev/cr\\ eated\n\
            rename          ./post/old                      dest=./post/o9-1-0\n\
            utimes          ./post/o9-1-0/inside            atime=1\n\
            rename          ./post/o9-1-0                   dest=./post/new\n\
            rename          ./post/gone                     dest=./post/o11-1-0\n\
            rmdir           ./post/o11-1-0\n\
            link            ./post/l                        dest=untouched\n\
            chmod           ./post/a\\nb\\\\c\\377            mode=644\n\
            utimes          ./post                          atime=1\n";
        let names: Vec<Vec<u8>> = named_in_dump(dump).into_iter().collect();
        let expected: [&[u8]; 7] = [
            b"a\nb\\c\xff",
            b"dev/cr eated",
            b"gone",
            b"l",
            b"new",
            b"new/inside",
            b"old",
        ];
        assert_eq!(names, expected);
    }
}
