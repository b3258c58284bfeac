//! Random rules on random trees, decided by rsync and by us.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use super::*;
use crate::sys::command::command;

/// Random enough, and the same every time.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 33).expect("31 bits") % limit
    }

    fn pick<'a>(&mut self, from: &[&'a str]) -> &'a str {
        from[self.below(from.len())]
    }
}

const NAMES: &[&str] = &["a", "b", "ab", "c.o", "-x", "a b", "*", "q\\", "[b]", "é"];
const PARTS: &[&str] = &[
    "a",
    "b",
    "ab",
    "c.o",
    "\\-x",
    "a b",
    "\\*",
    "q\\\\",
    "\\[b]",
    "é",
    "*",
    "a*",
    "*b",
    "*.o",
    "?",
    "?b",
    "[ab]",
    "[!a]",
    "[[:alpha:]]",
    "*[b\\]]",
    "**",
    "**",
];

fn random_rules(random: &mut Random) -> String {
    let mut text = String::new();
    while text.is_empty() || random.below(5) != 0 {
        let mut rule = random.pick(&["+ ", "- "]).to_owned();
        rule.push_str(random.pick(&["", "", "/"]));
        let mut previous = "";
        for i in 0..=random.below(3) {
            let part = random.pick(PARTS);
            if part == "**" && previous == "**" {
                continue;
            }
            if i > 0 {
                rule.push('/');
            }
            rule.push_str(part);
            previous = part;
        }
        rule.push_str(random.pick(&["", "", "/"]));
        text.push_str(&rule);
        text.push('\n');
    }
    text
}

fn random_tree(random: &mut Random, at: &Path, depth: usize) {
    for name in NAMES {
        let path = at.join(name);
        match random.below(8) {
            0 | 1 => fs::write(path, "").expect("file"),
            2 => std::os::unix::fs::symlink("a", path).expect("link"),
            3 | 4 if depth > 0 => {
                fs::create_dir(&path).expect("directory");
                if random.below(3) != 0 {
                    random_tree(random, &path, depth - 1);
                }
            }
            _ => {}
        }
    }
}

/// Text of the per-directory file a tree has in `directory`, if it has one.
type DirectoryRules<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Paths that are not excluded (directories end in a slash), and those that are, top-most only.
fn walk(
    at: &Path,
    relative: &str,
    state: &FilterState,
    rules: DirectoryRules<'_>,
    kept: &mut BTreeSet<String>,
    excluded: &mut BTreeSet<String>,
) {
    let own = rules(relative).map(|text| {
        state
            .with_directory_rules(text.as_bytes(), relative)
            .expect("valid rules")
    });
    let state = own.as_ref().unwrap_or(state);
    for entry in fs::read_dir(at).expect("directory") {
        let entry = entry.expect("entry");
        let name = entry.file_name().into_string().expect("UTF-8");
        let is_dir = entry.file_type().expect("type").is_dir();
        let path = format!("{relative}{name}{}", if is_dir { "/" } else { "" });
        if state.verdict(name.as_bytes(), is_dir) == Verdict::Exclude {
            excluded.insert(path);
            continue;
        }
        if is_dir {
            walk(
                &entry.path(),
                &path,
                &state.enter(name.as_bytes()),
                rules,
                kept,
                excluded,
            );
        }
        kept.insert(path);
    }
}

fn rsync(rules: &Path, from: &Path, to: &Path, extra: &[&str]) -> BTreeSet<String> {
    let output = command("rsync")
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .args(["-rl8", "--out-format=%i %n"])
        .arg(format!("--filter=merge {}", rules.display()))
        .args(extra)
        .arg(format!("{}/", from.display()))
        .arg(format!("{}/", to.display()))
        .output()
        .expect("rsync runs");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let lines = String::from_utf8(output.stdout).expect("UTF-8 names");
    let paths = lines
        .lines()
        .filter(|line| !line.starts_with("cannot delete"));
    paths
        .map(|line| {
            line.split_once(' ')
                .expect("two columns")
                .1
                .trim_start()
                .to_owned()
        })
        .filter(|path| path != "./")
        .collect()
}

/// Whether rsync is here; where everything must be tested, it has to be.
fn have_rsync() -> bool {
    let found = command("rsync").arg("--version").output().is_ok();
    assert!(
        found || std::env::var_os("CI").is_none(),
        "rsync is needed with CI set"
    );
    if !found {
        crate::sys::testing::say_skipped("rsync is not installed");
    }
    found
}

#[test]
fn rsync_transfers_and_deletes_what_we_do_not_exclude() {
    if !have_rsync() {
        return;
    }
    // In memory where possible: it is many small trees.
    let shared_memory = Path::new("/dev/shm");
    let directory = if shared_memory.is_dir() {
        tempfile::tempdir_in(shared_memory)
    } else {
        tempfile::tempdir()
    };
    let directory = directory.expect("temporary directory");
    let (tree, empty) = (
        directory.path().join("tree"),
        directory.path().join("empty"),
    );
    let list = directory.path().join("rules");
    fs::create_dir(&empty).expect("directory");
    let mut decisive = 0;
    for seed in 1..=120_u64 {
        let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        if seed % 5 == 1 {
            let _ = fs::remove_dir_all(&tree);
            fs::create_dir(&tree).expect("directory");
            random_tree(&mut random, &tree, 3);
        }
        let text = random_rules(&mut random);
        let inner =
            (seed % 3 == 0).then(|| (random.pick(&["a/", "b/"]), random_rules(&mut random)));
        let own_rules = |at: &str| {
            inner
                .as_ref()
                .filter(|(directory, _)| at == *directory)
                .map(|(_, text)| text.clone())
        };
        let filter = filter(&text);
        let mut rendered = Vec::new();
        if let Some((at, inner)) = &inner {
            rendered = super::filter(inner).to_rsync_rules_below(at.as_bytes());
        }
        rendered.extend(filter.to_rsync_rules());
        fs::write(&list, &rendered).expect("rules");

        let (mut kept, mut excluded) = (BTreeSet::new(), BTreeSet::new());
        let state = FilterState::root(&filter);
        walk(&tree, "", &state, &own_rules, &mut kept, &mut excluded);
        let told = format!(
            "seed {seed}, rules\n{text}inner {inner:?}, for rsync\n{}",
            String::from_utf8_lossy(&rendered)
        );
        assert_eq!(
            rsync(&list, &tree, &empty, &["--dry-run"]),
            kept,
            "transferred, {told}"
        );

        // The other way round: what would go if the source were empty. A directory stays as long
        // as something excluded is in it.
        let gone: BTreeSet<String> = kept
            .iter()
            .filter(|path| !path.ends_with('/') || !excluded.iter().any(|e| e.starts_with(*path)))
            .cloned()
            .collect();
        let copy = directory.path().join("copy");
        let _ = fs::remove_dir_all(&copy);
        let copied = command("cp").arg("-a").args([&tree, &copy]).status();
        assert!(copied.expect("cp runs").success());
        rsync(&list, &empty, &copy, &["--delete"]);
        let left = |path: &&String| fs::symlink_metadata(copy.join(path.as_str())).is_ok();
        let kept_there: Vec<&String> = gone.iter().filter(left).collect();
        assert!(kept_there.is_empty(), "not deleted {kept_there:?}, {told}");
        let missing: Vec<&String> = (kept.union(&excluded))
            .filter(|path| !gone.contains(*path) && !left(path))
            .collect();
        assert!(missing.is_empty(), "deleted {missing:?}, {told}");
        decisive += usize::from(!excluded.is_empty() && !kept.is_empty());
    }
    assert!(
        decisive > 50,
        "only {decisive} of the random filters decided anything"
    );
}

#[test]
fn rsync_understands_the_shipped_filters_the_same_way() {
    if !have_rsync() {
        return;
    }
    let directory = tempfile::tempdir().expect("temporary directory");
    let (tree, empty) = (
        directory.path().join("tree"),
        directory.path().join("empty"),
    );
    let list = directory.path().join("rules");
    fs::create_dir(&empty).expect("directory");
    let names = [
        ".ssh/id_rsa",
        ".ssh/config",
        ".ssh/known_hosts.old",
        ".ssh/cm-x",
        ".gnupg/S.gpg-agent",
        ".gnupg/.#lk1",
        ".gnupg/public-keys.d/pubring.db.lock",
        ".gnupg/pubring.kbx",
        ".config/chrome/SingletonLock",
        ".config/chrome/Default/Code Cache/js/1",
        ".config/chrome/Default/Cache/Cache_Data/1",
        ".config/chrome/Default/Bookmarks",
        ".config/Code/CachedData/1",
        ".config/Code/User/settings.json",
        ".config/monitors.xml~",
        ".cache/pip/http/1",
        ".cache/fontconfig/1",
        ".cache/x",
        ".cargo/registry/1",
        "snap/firefox/common/.cache/1",
        "snap/firefox/common/x",
        ".var/app/org.x/cache/1",
        ".local/share/Trash/files/1",
        ".mozilla/firefox/a.default/lock",
        "Doc/.~lock.a.odt#",
        "Doc/a.odt",
        "project/.cache/1",
        "project/.ssh/id_rsa",
    ];
    for name in names {
        let path = tree.join("user").join(name);
        fs::create_dir_all(path.parent().expect("in a directory")).expect("directory");
        fs::write(path, "").expect("file");
    }
    let shipped = |name: &str| {
        let path = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("filters")
            .join(name);
        Filter::parse(&fs::read(path).expect("shipped filter"), name).expect("valid rules")
    };
    let home = shipped("home.filter");
    let root = shipped("root.filter");
    for (filter, tree) in [(home, tree.clone()), (root, tree.join("user"))] {
        fs::write(&list, filter.to_rsync_rules()).expect("rules");
        let (mut kept, mut excluded) = (BTreeSet::new(), BTreeSet::new());
        walk(
            &tree,
            "",
            &FilterState::root(&filter),
            &|_| None,
            &mut kept,
            &mut excluded,
        );
        assert_eq!(rsync(&list, &tree, &empty, &["--dry-run"]), kept);
        assert!(excluded.len() >= 15, "{excluded:?}");
    }
}
