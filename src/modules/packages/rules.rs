//! What the configuration says of software: what is left alone, what a person wrote down how to get, and
//! what another module brings.

use std::collections::BTreeMap;

use super::patterns::Patterns;
use crate::config::Config;
use crate::mirror::filter::{Filter, FilterState, Verdict};
use crate::modules::user_data::read_rules;

/// All of it.
#[derive(Debug, Default)]
pub struct Rules {
    /// Names that are never converged.
    pub left_alone: Patterns,
    /// Commands that bring what no package source offers, by name or path.
    pub recipes: BTreeMap<String, String>,
    /// What `user_data` mirrors.
    pub mirrored: Mirrored,
}

impl Rules {
    /// Those of this configuration.
    #[must_use]
    pub fn of(config: &Config) -> Self {
        Self {
            left_alone: Patterns::new(&config.packages.left_alone),
            recipes: config.packages.recipes.clone(),
            mirrored: Mirrored::of(config),
        }
    }
}

impl Rules {
    /// Why `name` is never converged, if it is not.
    #[must_use]
    pub fn why_left_alone(&self, name: &str) -> Option<String> {
        let pattern = self.left_alone.matching(name)?;
        Some(format!("left alone: it belongs to the machine ({pattern})"))
    }
}

/// Folders that `user_data` mirrors, with their filters.
#[derive(Debug, Default)]
pub struct Mirrored(Vec<(String, Filter)>);

impl Mirrored {
    /// Of this configuration. A filter that cannot be read mirrors everything here: `user_data` itself
    /// refuses to begin then.
    #[must_use]
    fn of(config: &Config) -> Self {
        let is_on = (config.sync_modules.iter()).any(|(name, on)| *on && name == "user_data");
        if !is_on {
            return Self::default();
        }
        let folders = config.user_data.folders.iter().map(|folder| {
            let filter = read_rules(folder)
                .ok()
                .and_then(|(text, origin)| Filter::parse(text.as_bytes(), &origin).ok())
                .unwrap_or_else(Filter::everything);
            (folder.path.clone(), filter)
        });
        Self(folders.collect())
    }

    /// One folder, for tests.
    #[cfg(test)]
    pub fn made(path: &str, filter: Filter) -> Self {
        Self(vec![(path.to_owned(), filter)])
    }

    /// The folder that brings the directory `path`, if one does.
    #[must_use]
    pub fn folder_of(&self, path: &str) -> Option<&str> {
        (self.0.iter())
            .find(|(folder, filter)| {
                let below = path.strip_prefix(folder.trim_end_matches('/'));
                below.is_some_and(|rest| {
                    rest.is_empty() || rest.starts_with('/') && is_included(filter, rest)
                })
            })
            .map(|(folder, _)| folder.as_str())
    }
}

fn is_included(filter: &Filter, path: &str) -> bool {
    let mut state = FilterState::root(filter);
    for name in path.split('/').filter(|name| !name.is_empty()) {
        if state.verdict(name.as_bytes(), true) != Verdict::Include {
            return false;
        }
        state = state.enter(name.as_bytes());
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_brings_what_its_filter_does_not_leave_out() {
        let filter = Filter::parse(b"- */.local/share/flatpak/\n", "f").unwrap();
        let mirrored = Mirrored(vec![
            ("/home".to_owned(), filter),
            ("/opt/".to_owned(), Filter::everything()),
        ]);
        for (path, folder) in [
            ("/home/dev/.local/share/flatpak", None),
            ("/home/dev/.local/share", Some("/home")),
            ("/homework", None),
            ("/opt", Some("/opt/")),
            ("/opt/x", Some("/opt/")),
            ("/usr/local/x", None),
        ] {
            assert_eq!(mirrored.folder_of(path), folder, "{path}");
        }
    }

    #[test]
    fn the_filter_that_is_shipped_leaves_flatpaks_own_files_out() {
        let (_, text) = crate::mirror::filter::SHIPPED[0];
        let filter = Filter::parse(text.as_bytes(), "home.filter").unwrap();
        assert!(!is_included(&filter, "/dev/.local/share/flatpak"));
        assert!(is_included(&filter, "/dev/.var/app/org.x.App/data"));
    }
}
