//! What most sync tests share: which paths belong to a machine, and the state before and after.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use serde_json::Value;

use super::lab::{ATLAS, Lab, VEGA};
use super::oracle;
use super::tree::{Aspect, Entry, Tree};

/// Paths below `/home` that no sync of these tests carries over.
pub const PRIVATE: &[&str] = &["/dev/.ssh", "/dev/.config/pc-switcher", "/dev/.local"];

/// The filter file that says so.
pub const FILTER: &str = "\
# what belongs to a machine: its keys, and the settings and logs of these very runs
- /dev/.ssh/
- /dev/.config/pc-switcher/
- /dev/.local/
";

/// Statuses of a run that did everything: done, and done with warnings.
pub const DONE: [Option<i32>; 2] = [Some(0), Some(8)];

/// A directory of the person's, for random trees: their changes must not reach the keys of the login.
pub fn work(lab: &Lab, host: &str) -> PathBuf {
    let path = lab.dev(host).join("work");
    fs::create_dir_all(&path).expect("the home is writable");
    path
}

/// A machine's `/home` as our reader sees it, without what is private.
pub fn home(lab: &Lab, host: &str) -> Tree {
    let private = |path: &[u8]| PRIVATE.iter().any(|p| p.as_bytes()[1..] == *path);
    Tree::read_except(&lab.home(host), &private).expect("the home can be read")
}

/// The target before a sync, to tell afterwards what was touched.
pub struct Before {
    tree: Tree,
    snapshot: PathBuf,
}

impl Before {
    /// Remembers vega's `/home` as it is now.
    pub fn remember(lab: &Lab, name: &str) -> Self {
        Self {
            tree: home(lab, VEGA),
            snapshot: oracle::snapshot(lab, VEGA, "@home", name),
        }
    }

    /// Paths the kernel says were touched since.
    pub fn touched(&self, lab: &Lab, name: &str) -> BTreeSet<Vec<u8>> {
        let after = oracle::snapshot(lab, VEGA, "@home", name);
        oracle::kernel_diff(&self.snapshot, &after)
    }

    /// Paths that differ from then, in any aspect; with one name of a file all its names.
    pub fn changed(&self, lab: &Lab) -> BTreeSet<Vec<u8>> {
        let now = home(lab, VEGA);
        let found = self.tree.differences(&now);
        let (old_groups, new_groups) = (self.tree.hard_links(), now.hard_links());
        let groups = old_groups.symmetric_difference(&new_groups).flatten();
        let names = groups.map(|name| name.to_vec());
        found.into_iter().map(|d| d.path).chain(names).collect()
    }

    /// Directories of which nothing but the time differs: something in them came or went.
    pub fn only_time(&self, lab: &Lab) -> BTreeSet<Vec<u8>> {
        let now = home(lab, VEGA);
        let found = self.tree.differences(&now);
        let (time, rest): (Vec<_>, Vec<_>) =
            found.into_iter().partition(|d| d.aspect == Aspect::Mtime);
        let rest: BTreeSet<Vec<u8>> = rest.into_iter().map(|d| d.path).collect();
        time.into_iter()
            .map(|d| d.path)
            .filter(|p| !rest.contains(p) && now.entries.get(p).is_some_and(Entry::is_dir))
            .collect()
    }

    /// Fails the test if the kernel names a path that is no different from before and is not the
    /// parent of one that came or went.
    #[track_caller]
    pub fn assert_only_changes_were_touched(&self, lab: &Lab, name: &str) {
        let changed = self.changed(lab);
        let parents: BTreeSet<Vec<u8>> = changed.iter().map(|p| parent(p)).collect();
        let now = home(lab, VEGA);
        // What is below a directory that was moved has names in between that it had at no time we know.
        let is_or_was =
            |p: &Vec<u8>| self.tree.entries.contains_key(p) || now.entries.contains_key(p);
        let extra: Vec<String> = self
            .touched(lab, name)
            .into_iter()
            .filter(|p| !changed.contains(p) && !parents.contains(p) && is_or_was(p))
            .map(|p| p.escape_ascii().to_string())
            .collect();
        if extra.is_empty() {
            return;
        }
        let after = lab.disk(VEGA).join("oracle").join(name);
        let dump = oracle::kernel_dump(&self.snapshot, &after);
        panic!(
            "touched without need:\n{}\nin\n{}",
            extra.join("\n"),
            String::from_utf8_lossy(&dump)
        );
    }
}

fn parent(path: &[u8]) -> Vec<u8> {
    let end = path.iter().rposition(|b| *b == b'/').unwrap_or(0);
    path[..end].to_vec()
}

/// Syncs atlas to vega and fails the test unless everything was done and both homes are equal.
#[track_caller]
pub fn sync_and_compare(lab: &Lab, args: &[&str]) {
    let run = lab.sync(args);
    assert!(
        DONE.contains(&run.status),
        "`{}` ended with {:?}:\n{}",
        run.command,
        run.status,
        run.text()
    );
    oracle::assert_homes_equal(lab, PRIVATE);
    lab.assert_nothing_left_running();
}

/// A filter is only warned about if one of its rules matches nothing; this makes all of them match.
pub fn make_private_paths(lab: &Lab) {
    for host in [ATLAS, VEGA] {
        lab.as_dev(host, &["mkdir", "-p", ".local/state"]).ok();
    }
}

/// What the last sync's log says of its comparison: `anchor` or `full`, with all it says besides.
pub fn comparison(lab: &Lab, host: &str) -> (String, Value) {
    let text = last_log(lab, host);
    let mut lines = text
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
    let line = lines.rfind(|line| line["scan"].is_string());
    let line = line.expect("a line about the comparison");
    (line["scan"].as_str().expect("text").to_owned(), line)
}

/// The log of the last run on this machine.
pub fn last_log(lab: &Lab, host: &str) -> String {
    let logs = lab.dev(host).join(".local/state/pc-switcher/logs");
    let mut files: Vec<PathBuf> = (fs::read_dir(logs).expect("a directory of logs"))
        .map(|entry| entry.expect("readable").path())
        .collect();
    files.sort_by_key(|path| fs::metadata(path).expect("there").mtime_nsec());
    files.sort_by_key(|path| fs::metadata(path).expect("there").mtime());
    fs::read_to_string(files.last().expect("a log")).expect("readable")
}

/// Bytes that went over the wire so far, in both directions.
pub fn wire_bytes(lab: &Lab) -> u64 {
    sent(lab).iter().sum()
}

/// Bytes that atlas has sent and received so far.
pub fn sent(lab: &Lab) -> [u64; 2] {
    let counted = lab.verb(&["wire-bytes"]).ok().stdout;
    let mut words = counted.split_whitespace().map(str::parse);
    [(); 2].map(|()| words.next().and_then(Result::ok).expect("a number"))
}

/// Lets a sync go the same way again, over what was changed on both machines.
pub const AGAIN: [&str; 2] = ["--allow-out-of-order", "--allow-conflicts"];

/// Syncs, compares the homes, and returns what went over the wire, and how it was compared.
#[track_caller]
pub fn cost(lab: &Lab, args: &[&str]) -> (u64, String) {
    let before = wire_bytes(lab);
    let run = lab.sync(&[&AGAIN, args].concat());
    let bytes = wire_bytes(lab) - before;
    assert!(
        DONE.contains(&run.status),
        "{:?}\n{}",
        run.status,
        run.text()
    );
    oracle::assert_homes_equal(lab, PRIVATE);
    (bytes, comparison(lab, ATLAS).0)
}
