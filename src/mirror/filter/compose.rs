//! Filters that no file holds: several folders' rules over one tree that holds the folders, and a
//! single path out of a tree.
//!
//! Made from bytes, never through the text of a filter file: a name with a line feed or a star in it
//! means itself.

use super::glob::Glob;
use super::rule::{Part, Rule};
use super::{Filter, MAX_RULES};

/// A plain path as components that match only themselves.
fn literal(path: &[u8]) -> Vec<Part> {
    let names = path.split(|byte| *byte == b'/');
    let names = names.filter(|name| !name.is_empty());
    let part = |name: &[u8]| Part {
        any_before: false,
        glob: Glob::Literal(name.into()),
    };
    names.map(part).collect()
}

impl Filter {
    /// This filter as it stands for a tree that holds its folder at `directory` (empty: the tree
    /// itself): the same paths are excluded, and nothing outside the folder.
    #[must_use]
    pub fn moved_below(&self, directory: &[u8]) -> Self {
        let above = literal(directory);
        if above.is_empty() {
            return self.clone();
        }
        let moved = |rule: &Rule| Rule {
            parts: above.iter().chain(&rule.parts).cloned().collect(),
            ..rule.clone()
        };
        let rules = self.rules.list.iter().map(moved).collect();
        Self::from_rules(rules, &self.rules.origin)
    }

    /// The rules of all `filters`, asked in this order; `None` if they are too many.
    #[must_use]
    pub fn joined(filters: &[Self]) -> Option<Self> {
        let rules: Vec<Rule> = (filters.iter())
            .flat_map(|filter| filter.rules.list.iter().cloned())
            .collect();
        let origins: Vec<&str> = (filters.iter())
            .map(|filter| filter.rules.origin.as_str())
            .filter(|origin| !origin.is_empty())
            .collect();
        (rules.len() <= MAX_RULES).then(|| Self::from_rules(rules, &origins.join(", ")))
    }

    /// Excludes the plain paths `paths`, with everything in them.
    #[must_use]
    pub fn protecting(paths: &[Vec<u8>]) -> Self {
        let rule = |path: &Vec<u8>| Rule {
            include: false,
            dir_only: false,
            line: 0,
            text: [b"/", &path[..]].concat().into(),
            parts: literal(path).into(),
        };
        Self::from_rules(paths.iter().map(rule).collect(), "")
    }

    /// Includes the plain paths `paths` with everything in them, and the directories on the way to them;
    /// `None` if they are too many.
    #[must_use]
    pub fn only(paths: &[Vec<u8>]) -> Option<Self> {
        let wanted = |path: &Vec<u8>| Rule {
            include: true,
            dir_only: false,
            line: 0,
            text: [b"/", &path[..]].concat().into(),
            parts: literal(path).into(),
        };
        let rest = Rule {
            include: false,
            dir_only: false,
            line: 0,
            text: b"**".as_slice().into(),
            parts: [Part {
                any_before: true,
                glob: Glob::Any,
            }]
            .into(),
        };
        let rules: Vec<Rule> = paths.iter().map(wanted).chain([rest]).collect();
        (rules.len() <= MAX_RULES).then(|| Self::from_rules(rules, ""))
    }
}

#[cfg(test)]
mod tests {
    use super::super::{FilterState, Verdict};
    use super::*;

    /// What becomes of a path; of a directory if it ends with a slash.
    fn verdict(filter: &Filter, path: &str) -> Verdict {
        let mut state = FilterState::root(filter);
        let is_dir = path.ends_with('/');
        let names: Vec<&str> = path.trim_end_matches('/').split('/').collect();
        let (last, way) = names.split_last().unwrap();
        for name in way {
            if state.verdict(name.as_bytes(), true) == Verdict::Exclude {
                return Verdict::Exclude;
            }
            state = state.enter(name.as_bytes());
        }
        state.verdict(last.as_bytes(), is_dir)
    }

    const RULES: &[u8] = b"+ keep/*.cache\n- *.cache\n- /top\n- a/**/z/\n- dir/\n";

    #[test]
    fn moved_rules_say_below_the_directory_what_they_said_in_it_and_nothing_elsewhere() {
        let filter = Filter::parse(RULES, "home.filter").unwrap();
        let moved = filter.moved_below(b"home/dev");
        for path in [
            "x.cache",
            "keep/x.cache",
            "b/keep/x.cache",
            "top",
            "b/top",
            "a/b/c/z/",
            "a/z",
            "dir/",
            "b/dir/",
            "dir",
            "plain",
            "a/",
            "keep/",
        ] {
            let below = format!("home/dev/{path}");
            assert_eq!(verdict(&filter, path), verdict(&moved, &below), "{path}");
            let beside = format!("home/other/{path}");
            assert_eq!(verdict(&moved, &beside), Verdict::Include, "{path}");
        }
        assert_eq!(verdict(&moved, "home/"), Verdict::Include);
        assert_eq!(moved.rule_origin(1), "home.filter:2");
        assert_eq!(filter.moved_below(b"").digest(), filter.digest());
    }

    #[test]
    fn joined_filters_are_asked_in_order() {
        let parse = |text: &[u8], origin| Filter::parse(text, origin).unwrap();
        let (one, two) = (parse(b"+ /a/x\n", "one"), parse(b"- /a\n- b\n", "two"));
        let both = Filter::joined(&[one.clone(), two.clone()]).unwrap();
        assert_eq!(verdict(&both, "a/x"), Verdict::Include);
        assert_eq!(verdict(&both, "a/y"), Verdict::Exclude);
        assert_eq!(verdict(&both, "c/b"), Verdict::Exclude);
        let other_way = Filter::joined(&[two, one]).unwrap();
        assert_eq!(verdict(&other_way, "a/x"), Verdict::Exclude);
        let many = parse("- x\n".repeat(MAX_RULES).as_bytes(), "many");
        assert!(Filter::joined(&[many.clone(), both]).is_none());
        assert!(Filter::joined(&[many]).is_some());
    }

    #[test]
    fn one_path_is_taken_literally_whatever_is_in_its_name() {
        for name in ["a*b", "line\nfeed", "- x", "[ab]", "#", "back\\slash"] {
            let filter = Filter::only(&[format!("dir/{name}").into_bytes()]).unwrap();
            assert_eq!(verdict(&filter, "dir/"), Verdict::Traverse);
            assert_eq!(verdict(&filter, &format!("dir/{name}")), Verdict::Include);
            assert_eq!(
                verdict(&filter, &format!("dir/{name}/x/y")),
                Verdict::Include
            );
            for other in ["dir/other", "dir/axb", "dir/a", name, "x/", "dirx/"] {
                assert_eq!(verdict(&filter, other), Verdict::Exclude, "{name}: {other}");
            }
        }
    }

    #[test]
    fn protected_paths_are_left_alone_where_they_are_and_nowhere_else() {
        let filter = Filter::protecting(&[b"var/lib/x*".to_vec(), b"snapshots".to_vec()]);
        for path in ["var/lib/x*/", "var/lib/x*/y", "snapshots/", "snapshots"] {
            assert_eq!(verdict(&filter, path), Verdict::Exclude, "{path}");
        }
        for path in ["var/", "var/lib/", "var/lib/xy", "a/snapshots"] {
            assert_eq!(verdict(&filter, path), Verdict::Include, "{path}");
        }
    }

    #[test]
    fn several_paths_are_taken_with_the_ways_to_them() {
        let paths = ["a/x", "a/y/z", "b"].map(|path| path.as_bytes().to_vec());
        let filter = Filter::only(&paths).unwrap();
        for (path, expected) in [
            ("a/", Verdict::Traverse),
            ("a/x", Verdict::Include),
            ("a/y/", Verdict::Traverse),
            ("a/y/z/deep", Verdict::Include),
            ("a/y/other", Verdict::Exclude),
            ("b/c", Verdict::Include),
            ("c", Verdict::Exclude),
        ] {
            assert_eq!(verdict(&filter, path), expected, "{path}");
        }
        assert!(Filter::only(&vec![b"x".to_vec(); MAX_RULES]).is_none());
    }
}
