//! What the rules mean, case by case; `tests/oracle.rs` beside this compares with rsync.

use super::*;

mod oracle;

fn filter(text: &str) -> Filter {
    Filter::parse(text.as_bytes(), "test.filter").expect("valid rules")
}

/// The verdict on a path (a directory if it ends in a slash), walking down as a caller does.
fn verdict(filter: &Filter, path: &str) -> Verdict {
    let (path, is_dir) = match path.strip_suffix('/') {
        Some(path) => (path, true),
        None => (path, false),
    };
    let mut state = FilterState::root(filter);
    let mut names = path.split('/').peekable();
    while let Some(name) = names.next() {
        if names.peek().is_none() {
            return state.verdict(name.as_bytes(), is_dir);
        }
        if state.verdict(name.as_bytes(), true) == Verdict::Exclude {
            return Verdict::Exclude;
        }
        state = state.enter(name.as_bytes());
    }
    unreachable!("a path has a last name")
}

/// Checks `PATH VERDICT` lines against rules.
fn check(rules: &str, expected: &[(&str, Verdict)]) {
    let filter = filter(rules);
    for (path, wanted) in expected {
        assert_eq!(verdict(&filter, path), *wanted, "{path} under\n{rules}");
    }
}

fn messages(text: &[u8]) -> Vec<String> {
    let errors = Filter::parse(text, "test.filter").expect_err("invalid rules");
    errors.iter().map(ToString::to_string).collect()
}

use Verdict::{Exclude, Include, Traverse};

#[test]
fn without_rules_everything_is_included_but_our_staging_directory() {
    check(
        "",
        &[
            ("a", Include),
            ("a/b/c/", Include),
            (".pc-switcher-staging/", Exclude),
            (".pc-switcher-staging/x", Exclude),
            ("a/.pc-switcher-staging/", Include),
        ],
    );
    check("+ **", &[(".pc-switcher-staging/", Exclude)]);
    let below = FilterState::root(&Filter::everything()).enter(STAGING_NAME.as_bytes());
    assert_eq!(below.verdict(b"x", false), Exclude);
}

#[test]
fn a_name_matches_at_any_depth_and_a_path_from_the_folder() {
    check(
        "*.o\n/top\na/b\ncache/",
        &[
            ("x.o", Exclude),
            ("d/e/x.o", Exclude),
            ("top", Exclude),
            ("d/top", Include),
            ("a/b", Exclude),
            ("d/a/b", Include),
            ("cache/", Exclude),
            ("d/cache/", Exclude),
            ("cache", Include),
            ("cache/x", Exclude),
        ],
    );
}

#[test]
fn the_first_rule_that_covers_a_path_decides() {
    check(
        "+ keep.o\n- *.o\n! late.o",
        &[("keep.o", Include), ("x.o", Exclude), ("late.o", Exclude)],
    );
    // A directory rule covers what is in it, so it wins over later rules about the content.
    check("+ src/\n- *.o", &[("src/x.o", Include), ("x.o", Exclude)]);
    check(
        "- *.o\n+ src/",
        &[("src/x.o", Exclude), ("src/x.c", Include)],
    );
}

#[test]
fn an_earlier_include_works_below_an_excluded_directory() {
    check(
        "+ */.cache/pip/\n- */.cache/",
        &[
            ("u/", Include),
            ("u/.cache/", Traverse),
            ("u/.cache/pip/", Include),
            ("u/.cache/pip/http/x", Include),
            ("u/.cache/pip", Exclude),
            ("u/.cache/other/", Exclude),
            ("u/.cache/x", Exclude),
            ("u/v/.cache/", Include),
            (".cache/", Include),
        ],
    );
    // Too late: the exclude has covered it.
    check("- */.cache/\n+ */.cache/pip/", &[("u/.cache/", Exclude)]);
    // A name at any depth may be below every directory excluded later, but not earlier.
    check(
        "- a/\n+ *.txt\n- b/",
        &[
            ("a/", Exclude),
            ("b/", Traverse),
            ("b/c/", Traverse),
            ("b/c/x.txt", Include),
            ("b/c/x", Exclude),
        ],
    );
}

#[test]
fn two_stars_stand_for_any_number_of_directories() {
    check(
        "+ keep/**/x\n- a/**/b\n- **/deep/z\n- all/**\n- keep/",
        &[
            ("a/b", Exclude),
            ("a/c/b", Exclude),
            ("a/c/d/b/e", Exclude),
            ("a/c", Include),
            ("deep/z", Exclude),
            ("p/q/deep/z", Exclude),
            ("p/q/z", Include),
            ("all/", Include),
            ("all/x", Exclude),
            ("all/x/y", Exclude),
            ("keep/", Traverse),
            ("keep/x", Include),
            ("keep/m/", Traverse),
            ("keep/m/n/x", Include),
            ("keep/m/n/y", Exclude),
        ],
    );
    check("- **/", &[("d/", Exclude), ("f", Include)]);
    check(
        "+ d/\n- **",
        &[("d/e", Include), ("f/", Traverse), ("f/g", Exclude)],
    );
}

#[test]
fn comments_blanks_line_ends_and_signs_are_understood() {
    let text = "\u{feff}# comment\r\n\r\n  - a b \t\r\n-\tc\r\n\\#d\r\n\\!e\r\n\\-f\r\ng\\ \r\n!h\r\n+ x y";
    let filter = filter(text);
    assert_eq!(filter.rule_count(), 8);
    assert_eq!(filter.rule_origin(0), "test.filter:3");
    assert_eq!(filter.rule_text(0), "- a b");
    for name in ["a b", "c", "#d", "!e", "-f", "g "] {
        assert_eq!(verdict(&filter, name), Exclude, "{name}");
    }
}

#[test]
fn names_that_are_not_utf8_are_matched_byte_by_byte() {
    let filter = Filter::parse(b"- \xff*\n- a?b\n- /[!\x01-\x7f]/", "f").expect("valid rules");
    let state = FilterState::root(&filter);
    assert_eq!(state.verdict(b"\xffx", false), Exclude);
    assert_eq!(state.verdict(b"a\xfeb", false), Exclude);
    assert_eq!(state.verdict(b"\xe4", true), Exclude);
    assert_eq!(state.verdict(b"\xe4x", true), Include);
}

#[test]
fn every_invalid_line_is_reported_with_its_number_and_without_control_characters() {
    let text = b"- ok\n-bad\n+\na//b\na/../b\n~/x\n/\n[ab\na\0b\na\rb\n- ***\n- a/***\n- a**\n";
    let found = messages(text);
    let lines: Vec<&str> = found
        .iter()
        .map(|m| m.split(':').nth(1).expect("line"))
        .collect();
    assert_eq!(
        lines,
        [
            "2", "3", "4", "5", "6", "7", "8", "9", "10", "11", "12", "13"
        ]
    );
    for message in &found {
        assert!(message.starts_with("test.filter:"), "{message}");
        assert!(!message.contains(char::is_control), "{message:?}");
    }
}

#[test]
fn sizes_are_bounded() {
    assert_eq!(
        messages(&vec![b'x'; MAX_FILTER_BYTES + 1]),
        ["test.filter: larger than 256 KiB"]
    );
    assert_eq!(messages(&[b'x'; MAX_LINE_BYTES + 1]).len(), 1);
    assert_eq!(messages("a\n".repeat(MAX_RULES + 1).as_bytes()).len(), 1);
    assert_eq!(messages(b"**/a/**/b/**/c/**/d/**/e").len(), 1);
    assert_eq!(messages("*/*/[\n".repeat(1000).as_bytes()).len(), 50);
    let state = FilterState::root(&Filter::everything());
    let many = "a\n".repeat(MAX_DIRECTORY_RULES);
    let state = state
        .with_directory_rules(many.as_bytes(), "f")
        .expect("within bounds");
    assert!(state.with_directory_rules(b"b", "f").is_err());
    let mut state = FilterState::root(&Filter::everything());
    for _ in 0..MAX_DIRECTORY_FILTERS {
        state = state
            .enter(b"d")
            .with_directory_rules(b"x", "f")
            .expect("within bounds");
    }
    assert!(state.with_directory_rules(b"x", "f").is_err());
}

#[test]
fn rules_of_a_directory_are_asked_before_rules_from_further_out() {
    let outer = filter("+ *.txt\n- *.o\n- /p/q/secret");
    let p = FilterState::root(&outer).enter(b"p");
    let p = p
        .with_directory_rules(b"+ keep.o\n- /q/x.txt\n- y.txt", "p/f")
        .expect("valid");
    assert_eq!(p.verdict(b"keep.o", false), Include);
    assert_eq!(p.verdict(b"x.o", false), Exclude);
    assert_eq!(p.verdict(b"x.txt", false), Include);
    assert_eq!(p.verdict(b"y.txt", false), Exclude);
    let q = p.enter(b"q");
    assert_eq!(q.verdict(b"x.txt", false), Exclude);
    assert_eq!(q.verdict(b"secret", false), Exclude);
    let inner = q
        .with_directory_rules(b"! x.txt\n+ secret", "p/q/f")
        .expect("valid");
    assert_eq!(inner.verdict(b"x.txt", false), Include);
    assert_eq!(inner.verdict(b"secret", false), Include);
    assert_eq!(inner.verdict(b"y.txt", false), Exclude);
    assert_eq!(inner.verdict(b"keep.o", false), Include);
    // Siblings know nothing of it.
    let other = FilterState::root(&outer).enter(b"r");
    assert_eq!(other.verdict(b"y.txt", false), Include);
    // A covered directory can be opened again from inside.
    let state = FilterState::root(&filter("+ /d/e\n- /d/")).enter(b"d");
    assert_eq!(state.verdict(b"x", false), Exclude);
    let state = state.with_directory_rules(b"+ x", "d/f").expect("valid");
    assert_eq!(state.verdict(b"x", false), Include);
    assert_eq!(state.verdict(b"y", false), Exclude);
    assert_eq!(state.verdict(b"z", true), Traverse);
}

#[test]
fn rules_know_whether_they_ever_decided_something() {
    let filter = filter("*.o\nx.o\n/never\n+ keep/\n- keep/\n");
    assert_eq!(filter.unmatched(), [0, 1, 2, 3, 4]);
    let state = FilterState::root(&filter);
    let _ = state.verdict(b"x.o", false);
    let _ = state.verdict(b"keep", true);
    // The second rule matched too, but came too late to decide.
    assert_eq!(filter.unmatched(), [1, 2, 4]);
    filter.merge_matched(&[false, false, true, false, false, true, true]);
    assert_eq!(filter.matched(), [true, false, true, true, false]);
}

#[test]
fn the_digest_follows_the_rules_and_not_the_layout() {
    let digest = filter("- a\n+ b\n").digest();
    assert_eq!(digest.len(), 64);
    assert_eq!(filter("# note\r\n\r\na\r\n!b").digest(), digest);
    assert_ne!(filter("+ b\n- a\n").digest(), digest);
    assert_ne!(filter("- a\n- b\n").digest(), digest);
    assert_ne!(Filter::everything().digest(), digest);
}

#[test]
fn a_state_can_be_sent_to_another_thread() {
    fn sendable<T: Send + Sync + Clone + 'static>(_: &T) {}
    sendable(&FilterState::root(&Filter::everything()));
}

#[test]
fn hostile_rules_stay_fast() {
    let text = "+ **/*a*a*a*a*a*a*a*b/**/x\n".repeat(200);
    let filter = filter(&text);
    let name = [b'a'; 255];
    let start = std::time::Instant::now();
    let mut state = FilterState::root(&filter);
    for _ in 0..20 {
        let _ = state.verdict(&name, true);
        state = state.enter(&name);
    }
    assert!(start.elapsed().as_secs() < 20);
}

mod shipped {
    use super::*;

    const HOME: &str = include_str!("../../../filters/home.filter");
    const ROOT: &str = include_str!("../../../filters/root.filter");

    #[test]
    fn identities_and_machine_state_stay_and_developer_caches_travel() {
        let (home, root) = (filter(HOME), filter(ROOT));
        for (path, wanted) in [
            (".ssh/", Include),
            (".ssh/config", Include),
            (".ssh/config.d/work", Include),
            (".ssh/id_ed25519", Exclude),
            (".ssh/id_ed25519.pub", Exclude),
            (".ssh/id_work", Exclude),
            (".ssh/known_hosts", Exclude),
            (".ssh/known_hosts.old", Exclude),
            (".ssh/authorized_keys", Exclude),
            (".config/pc-switcher/", Exclude),
            (".local/state/pc-switcher/", Exclude),
            (".cache/", Traverse),
            (".cache/pip/http/1", Include),
            (".cache/uv/", Include),
            (".cache/go-build/", Include),
            (".cache/thumbnails/", Exclude),
            (".cache/mozilla/", Exclude),
            (".cargo/registry/x", Include),
            (".npm/_cacache/", Include),
            (".m2/repository/", Include),
            (".gradle/caches/", Include),
            (".Xauthority", Exclude),
            (".local/share/Trash/", Exclude),
            (".local/share/keyrings/", Include),
            (".config/dconf/user", Include),
            (".config/monitors.xml", Exclude),
            (".bashrc", Include),
            ("Documents/letter.odt", Include),
        ] {
            assert_eq!(
                verdict(&home, &format!("user/{path}")),
                wanted,
                "/home/user/{path}"
            );
            assert_eq!(verdict(&root, path), wanted, "/root/{path}");
        }
        // Not a home of its own: names deeper down are people's files.
        assert_eq!(verdict(&home, "user/project/.cache/x"), Include);
        assert_eq!(verdict(&home, "user/backup/.ssh/id_rsa"), Include);
    }

    #[test]
    fn both_files_have_the_same_rules() {
        let bare = |text: &str, base: &str| -> Vec<String> {
            let filter = filter(text);
            let rules = (0..filter.rule_count()).map(|i| filter.rule_text(i));
            rules.map(|rule| rule.replacen(base, "", 1)).collect()
        };
        let mut home = bare(HOME, "*/");
        // The module "packages" brings each person's apps, and none of root's.
        home.retain(|rule| rule != "- .local/share/flatpak/");
        assert_eq!(home, bare(ROOT, "/"));
    }

    #[test]
    fn each_rule_follows_a_reason() {
        for text in [HOME, ROOT] {
            let mut reason = false;
            for line in text.lines() {
                if line.starts_with('#') {
                    reason = true;
                } else if line.is_empty() {
                    reason = false;
                } else {
                    assert!(reason, "no reason for {line}");
                }
            }
        }
    }
}
