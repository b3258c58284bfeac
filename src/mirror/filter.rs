//! Filter files: which paths of a folder are mirrored.
//!
//! A filter file has one rule a line; paths are relative to the folder (or to the directory of a
//! per-directory file), and rules work on raw bytes.
//!
//! ```text
//! # a comment
//! - */.cache/         exclude; "- " may be left out
//! + */.cache/pip/     include; "!" may be written for "+ "
//! ```
//!
//! **The first rule that covers a path decides**; a path that no rule covers is included. A rule
//! covers the paths its pattern matches and, where that is a directory, everything in it. So an
//! include must stand *before* the exclude it is an exception to, and it works below an excluded
//! directory too: such a directory is walked ([`Verdict::Traverse`]) because something in it may be
//! included. A directory on the way is mirrored itself, its other content is not.
//!
//! Patterns: `*` any part of a name, `?` one byte, `[a-z]`, `[!a-z]`, `[[:digit:]]` one byte of a
//! set, `**` as a whole component any number of directories, also none (at the end: everything
//! below). A slash at the end: directories only. A slash anywhere else: the pattern starts at the
//! folder, otherwise it is a name at any depth. A backslash takes the next character literally;
//! blanks around a pattern are not part of it unless escaped. CRLF line ends and a byte order mark
//! are tolerated.
//!
//! A file [`DIRECTORY_FILTER_NAME`] holds rules for its own directory and below; they are asked
//! before all rules from further out ([`FilterState::with_directory_rules`]).
//!
//! Nothing here does I/O, follows a link, or takes more time than rules times length of a name:
//! rules come from people's homes and are used by root. [`Filter::to_rsync_rules`] says the same to
//! rsync, which the tests use as an oracle.

mod compose;
mod glob;
mod rsync;
mod rule;
mod state;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

pub use rule::{FilterError, MAX_FILTER_BYTES, MAX_LINE_BYTES, MAX_RULES};
pub use state::{FilterState, MAX_DIRECTORY_FILTERS, MAX_DIRECTORY_RULES, Verdict};

use glob::Glob;
use rule::Rule;

/// Our own staging directory in the root of a folder: never mirrored, whatever the rules say.
pub const STAGING_NAME: &str = ".pc-switcher-staging";

/// The filters that `init` writes, by file name.
pub const SHIPPED: [(&str, &str); 2] = [
    ("home.filter", include_str!("../../filters/home.filter")),
    ("root.filter", include_str!("../../filters/root.filter")),
];

/// Name of the per-directory filter file.
pub const DIRECTORY_FILTER_NAME: &str = ".pc-switcher-filter";

/// A parsed filter file; cheap to clone, shared between threads. Clones share what
/// [`Filter::matched`] says.
#[derive(Debug, Clone)]
pub struct Filter {
    rules: Arc<Rules>,
}

#[derive(Debug)]
struct Rules {
    origin: String,
    list: Vec<Rule>,
    /// Whether each rule ever decided a path.
    matched: Vec<AtomicBool>,
    /// Rules that are one plain name at any depth, by that name, in order.
    names: HashMap<Box<[u8]>, Vec<usize>>,
    /// Rules that are one name with wildcards at any depth, in order.
    patterns: Vec<usize>,
    /// Rules of more than one component or bound to the folder's root, in order.
    anchored: Vec<usize>,
    /// The first include that may match at any depth: everything excluded later is walked.
    first_floating_include: Option<usize>,
}

impl Filter {
    /// Parses the text of a filter file; `origin` is its name in messages (`home.filter`).
    pub fn parse(text: &[u8], origin: &str) -> Result<Self, Vec<FilterError>> {
        Ok(Self::from_rules(rule::parse(text, origin)?, origin))
    }

    /// A filter without rules: everything is mirrored.
    #[must_use]
    pub fn everything() -> Self {
        Self::from_rules(Vec::new(), "")
    }

    fn from_rules(list: Vec<Rule>, origin: &str) -> Self {
        let mut names: HashMap<Box<[u8]>, Vec<usize>> = HashMap::new();
        let (mut patterns, mut anchored) = (Vec::new(), Vec::new());
        for (index, rule) in list.iter().enumerate() {
            match &*rule.parts {
                [part] if part.any_before => match &part.glob {
                    Glob::Literal(name) => names.entry(name.clone()).or_default().push(index),
                    _ => patterns.push(index),
                },
                _ => anchored.push(index),
            }
        }
        let first_floating_include = list
            .iter()
            .position(|rule| rule.include && rule.parts[0].any_before && rule.parts.len() == 1);
        Self {
            rules: Arc::new(Rules {
                origin: origin.to_owned(),
                matched: list.iter().map(|_| AtomicBool::new(false)).collect(),
                list,
                names,
                patterns,
                anchored,
                first_floating_include,
            }),
        }
    }

    /// Number of rules; they are numbered in the order of the file, from 0.
    #[must_use]
    pub fn rule_count(&self) -> usize {
        self.rules.list.len()
    }

    /// Where a rule stands, for messages: `home.filter:12`.
    ///
    /// # Panics
    /// If there is no such rule.
    #[must_use]
    pub fn rule_origin(&self, index: usize) -> String {
        format!("{}:{}", self.rules.origin, self.rules.list[index].line)
    }

    /// A rule as text, escaped for printing: `- */.cache/`.
    ///
    /// # Panics
    /// If there is no such rule.
    #[must_use]
    pub fn rule_text(&self, index: usize) -> String {
        let rule = &self.rules.list[index];
        format!(
            "{} {}",
            rule.sign(),
            crate::escape::escape_bytes(&rule.text)
        )
    }

    /// For each rule, whether it decided at least one path since this filter was parsed, here or
    /// in what was merged into it.
    #[must_use]
    pub fn matched(&self) -> Vec<bool> {
        let load = |flag: &AtomicBool| flag.load(Ordering::Relaxed);
        self.rules.matched.iter().map(load).collect()
    }

    /// Adds what the same filter has [`matched`](Self::matched) elsewhere; surplus flags, which
    /// only a peer with another filter could send, are ignored.
    pub fn merge_matched(&self, elsewhere: &[bool]) {
        for (flag, &matched) in self.rules.matched.iter().zip(elsewhere) {
            if matched {
                flag.store(true, Ordering::Relaxed);
            }
        }
    }

    /// Numbers of the rules that have not decided any path: they match nothing, or an earlier rule
    /// always came first.
    #[must_use]
    pub fn unmatched(&self) -> Vec<usize> {
        let indices = self.matched().into_iter().enumerate();
        indices
            .filter(|(_, matched)| !matched)
            .map(|(i, _)| i)
            .collect()
    }

    /// A digest (BLAKE3, hex) of what the rules mean: comments, blank lines and line ends do not
    /// change it.
    #[must_use]
    pub fn digest(&self) -> String {
        let mut hasher = blake3::Hasher::new();
        hasher.update(b"pc-switcher filter 1\n");
        for rule in &self.rules.list {
            hasher.update(&[rule.sign() as u8, b' ']);
            hasher.update(&rule.text);
            hasher.update(b"\n");
        }
        hasher.finalize().to_hex().to_string()
    }

    /// The same decisions as a list of rsync filter rules, one a line, for `--filter='merge FILE'`
    /// of a transfer whose root is the folder. Not UTF-8 where the rules are not.
    #[must_use]
    pub fn to_rsync_rules(&self) -> Vec<u8> {
        rsync::render(&self.rules.list, None)
    }

    /// The rules of a per-directory filter file in `directory` (relative to the folder) as rsync
    /// rules anchored there. Lists of several files are put together innermost first, the
    /// folder's own [`to_rsync_rules`](Self::to_rsync_rules) last.
    #[must_use]
    pub fn to_rsync_rules_below(&self, directory: &[u8]) -> Vec<u8> {
        rsync::render(&self.rules.list, Some(directory))
    }
}

#[cfg(test)]
mod tests;
