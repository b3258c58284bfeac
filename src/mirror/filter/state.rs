//! Deciding about paths on the way down a tree.
//!
//! A state belongs to one directory. It keeps the best rule that covers the directory itself and,
//! for rules of several components, how far each has matched; whatever can no longer win is dropped,
//! so that deep down little more is left than the look-up of a name.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::rule::Rule;
use super::{Filter, FilterError, STAGING_NAME};

/// Most per-directory filter files on one path.
pub const MAX_DIRECTORY_FILTERS: usize = 32;
/// Most rules of all per-directory filter files on one path: they cost time at every entry below.
pub const MAX_DIRECTORY_RULES: usize = 200;

/// What becomes of an entry of a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Verdict {
    /// It is mirrored: created, changed, deleted as on the source.
    Include,
    /// It is left alone on both machines, with everything in it. Do not descend.
    Exclude,
    /// A directory whose content is excluded except for what an earlier rule includes: descend.
    /// The directory itself (not its other content) is mirrored: it must be there for what it may
    /// hold, and it is deleted only when nothing excluded is left in it.
    Traverse,
}

/// A rule's place among all rules in force: smaller is asked first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Rank {
    /// How many filter files are further in: inner files are asked first.
    files_further_in: u16,
    /// Number of the rule in its file.
    rule: u16,
}

/// Larger than every rule's place: nothing has matched.
const NO_RULE: Rank = Rank {
    files_further_in: u16::MAX,
    rule: u16::MAX,
};

/// A rule that has matched the path down to this directory; its next component is `part`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Progress {
    /// Index into the filters in force (0: the folder's own), and the rule's number there.
    filter: u16,
    rule: u16,
    part: u16,
}

/// The rules as seen from one directory; cheap to clone and to send to another thread.
#[derive(Debug, Clone)]
pub struct FilterState {
    /// The folder's filter, then the per-directory ones from the outside in.
    filters: Arc<[Filter]>,
    /// Ordered as the rules are asked.
    progress: Arc<[Progress]>,
    /// The rule that covers this directory, and so all of it: place, and whether it includes.
    cover: (Rank, bool),
    at_root: bool,
}

impl FilterState {
    /// The state in the root of the folder.
    #[must_use]
    pub fn root(filter: &Filter) -> Self {
        Self {
            filters: [filter.clone()].into(),
            progress: begin(filter, 0).into(),
            cover: (NO_RULE, true),
            at_root: true,
        }
    }

    /// What becomes of the entry `name` of this directory.
    #[must_use]
    pub fn verdict(&self, name: &[u8], is_dir: bool) -> Verdict {
        if self.at_root && name == STAGING_NAME.as_bytes() {
            return Verdict::Exclude;
        }
        let (rank, include) = self.decide(name, is_dir);
        if include {
            Verdict::Include
        } else if is_dir && self.may_include_below(name, rank) {
            Verdict::Traverse
        } else {
            Verdict::Exclude
        }
    }

    /// The state in the directory `name` of this directory.
    #[must_use]
    pub fn enter(&self, name: &[u8]) -> Self {
        if self.at_root && name == STAGING_NAME.as_bytes() {
            return Self {
                filters: Arc::clone(&self.filters),
                progress: [].into(),
                cover: (
                    Rank {
                        files_further_in: 0,
                        rule: 0,
                    },
                    false,
                ),
                at_root: false,
            };
        }
        let cover = self.decide(name, true);
        let mut progress = Vec::new();
        for &step in self.progress.iter() {
            if self.rank(step.filter, step.rule) >= cover.0 {
                break;
            }
            let parts = &self.rule(step).parts;
            let part = &parts[usize::from(step.part)];
            // A rule's steps stand together, so looking at those of this rule is enough.
            let mut add = |step: Progress| {
                let same_rule =
                    |other: &&Progress| (other.filter, other.rule) == (step.filter, step.rule);
                if !progress
                    .iter()
                    .rev()
                    .take_while(same_rule)
                    .any(|other| *other == step)
                {
                    progress.push(step);
                }
            };
            if part.any_before {
                add(step);
            }
            if usize::from(step.part) + 1 < parts.len() && part.glob.matches(name) {
                add(Progress {
                    part: step.part + 1,
                    ..step
                });
            }
        }
        Self {
            filters: Arc::clone(&self.filters),
            progress: progress.into(),
            cover,
            at_root: false,
        }
    }

    /// This directory's state with the rules of its own filter file, which are asked before all
    /// others. `origin` is the file's path for messages.
    ///
    /// Both machines must use the same text, the source's, or one side protects what the other
    /// deletes.
    pub fn with_directory_rules(
        &self,
        text: &[u8],
        origin: &str,
    ) -> Result<Self, Vec<FilterError>> {
        let filter = Filter::parse(text, origin)?;
        let further_out = &self.filters[1..];
        let rules: usize = further_out.iter().map(Filter::rule_count).sum();
        if further_out.len() == MAX_DIRECTORY_FILTERS
            || rules + filter.rule_count() > MAX_DIRECTORY_RULES
        {
            return Err(vec![FilterError {
                origin: origin.to_owned(),
                line: None,
                message: format!(
                    "more than {MAX_DIRECTORY_FILTERS} filter files or {MAX_DIRECTORY_RULES} rules of them \
                     on one path"
                ),
            }]);
        }
        let number = small(self.filters.len());
        let mut progress = begin(&filter, number);
        progress.extend_from_slice(&self.progress);
        let mut filters = self.filters.to_vec();
        filters.push(filter);
        let mut cover = self.cover;
        if cover.0 != NO_RULE {
            cover.0.files_further_in += 1;
        }
        Ok(Self {
            filters: filters.into(),
            progress: progress.into(),
            cover,
            at_root: self.at_root,
        })
    }

    /// The filters in force here: the folder's, then per-directory ones from the outside in.
    #[must_use]
    pub fn filters(&self) -> &[Filter] {
        &self.filters
    }

    fn rule(&self, step: Progress) -> &Rule {
        &self.filters[usize::from(step.filter)].rules.list[usize::from(step.rule)]
    }

    fn rank(&self, filter: u16, rule: u16) -> Rank {
        let innermost = small(self.filters.len() - 1);
        Rank {
            files_further_in: innermost - filter,
            rule,
        }
    }

    /// The first rule that covers the entry: its place, and whether it includes.
    fn decide(&self, name: &[u8], is_dir: bool) -> (Rank, bool) {
        let mut best = self.cover.0;
        let mut by = None;
        for (number, filter) in self.filters.iter().enumerate().rev() {
            let number = small(number);
            if self.rank(number, 0) >= best {
                break;
            }
            if let Some(rule) = filter.first_floating(name, is_dir) {
                let rank = self.rank(number, rule);
                if rank < best {
                    best = rank;
                    by = Some((number, rule));
                }
                break;
            }
        }
        for &step in self.progress.iter() {
            let rank = self.rank(step.filter, step.rule);
            if rank >= best {
                break;
            }
            let rule = self.rule(step);
            if usize::from(step.part) + 1 == rule.parts.len()
                && (is_dir || !rule.dir_only)
                && rule.parts[usize::from(step.part)].glob.matches(name)
            {
                best = rank;
                by = Some((step.filter, step.rule));
                break;
            }
        }
        match by {
            None => self.cover,
            Some((filter, rule)) => {
                let rules = &self.filters[usize::from(filter)].rules;
                let matched = &rules.matched[usize::from(rule)];
                // Looked at first, so that threads do not fight over the cache line.
                if !matched.load(Ordering::Relaxed) {
                    matched.store(true, Ordering::Relaxed);
                }
                (best, rules.list[usize::from(rule)].include)
            }
        }
    }

    /// Whether a rule asked before `limit` may include something below the directory `name`.
    fn may_include_below(&self, name: &[u8], limit: Rank) -> bool {
        let floating = self.filters.iter().enumerate().any(|(number, filter)| {
            let number = small(number);
            filter.rules.first_floating_include.is_some_and(|rule| {
                let rule = small(rule);
                self.rank(number, rule) < limit
            })
        });
        floating
            || self
                .progress
                .iter()
                .take_while(|step| self.rank(step.filter, step.rule) < limit)
                .any(|&step| {
                    let rule = self.rule(step);
                    let part = &rule.parts[usize::from(step.part)];
                    rule.include
                        && (part.any_before
                            || (usize::from(step.part) + 1 < rule.parts.len()
                                && part.glob.matches(name)))
                })
    }
}

/// A number of a filter or rule; both are bounded when filters are parsed and added.
fn small(number: usize) -> u16 {
    u16::try_from(number).expect("bounded by MAX_RULES and MAX_DIRECTORY_FILTERS")
}

/// Where the anchored rules of `filter` stand in the directory they are relative to.
fn begin(filter: &Filter, number: u16) -> Vec<Progress> {
    let step = |&rule: &usize| Progress {
        filter: number,
        rule: small(rule),
        part: 0,
    };
    filter.rules.anchored.iter().map(step).collect()
}

impl Filter {
    /// The first rule for a name at any depth that matches.
    fn first_floating(&self, name: &[u8], is_dir: bool) -> Option<u16> {
        let list = &self.rules.list;
        let applies = |&rule: &usize| is_dir || !list[rule].dir_only;
        let named = self.rules.names.get(name);
        let named = named.and_then(|rules| rules.iter().copied().find(applies));
        let limit = named.unwrap_or(usize::MAX);
        let pattern = self
            .rules
            .patterns
            .iter()
            .copied()
            .take_while(|&rule| rule < limit);
        let pattern = pattern
            .filter(applies)
            .find(|&rule| list[rule].parts[0].glob.matches(name));
        let first = pattern.or(named)?;
        Some(small(first))
    }
}
