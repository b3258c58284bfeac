//! The keys the configuration knows, and the nearest one to a key it does not.

/// A section's keys: each as written, with the one it is an other name of.
pub(super) type Keys = &'static [(&'static str, &'static str)];

/// Keys of the file itself.
pub(super) const TOP: Keys = &[
    ("log_file_level", "log_file_level"),
    ("log_cli_level", "log_cli_level"),
    ("bandwidth_limit", "bandwidth_limit"),
    ("transfers", "transfers"),
    ("sync_modules", "sync_modules"),
    ("sync_jobs", "sync_modules"),
    ("disk", "disk"),
    ("btrfs_snapshots", "btrfs_snapshots"),
    ("packages", "packages"),
    ("user_data", "user_data"),
    ("dummy_success", "dummy_success"),
    ("dummy_fail", "dummy_fail"),
];

/// Keys of `disk`.
pub(super) const DISK: Keys = &[
    ("preflight_minimum", "preflight_minimum"),
    ("min_free", "preflight_minimum"),
    ("runtime_minimum", "runtime_minimum"),
    ("reserve_minimum", "runtime_minimum"),
    ("warning_threshold", "warning_threshold"),
    ("check_interval", "check_interval"),
];

/// Keys of `btrfs_snapshots`.
pub(super) const SNAPSHOTS: Keys = &[
    ("subvolumes", "subvolumes"),
    ("snapshot_dir", "snapshot_dir"),
    ("keep_recent", "keep_recent"),
    ("max_age_days", "max_age_days"),
];

/// Keys of `packages`.
pub(super) const PACKAGES: Keys = &[
    ("left_alone", "left_alone"),
    ("recipes", "recipes"),
    ("share_cache", "share_cache"),
    ("command_timeout", "command_timeout"),
];

/// Keys of `user_data`.
pub(super) const USER_DATA: Keys = &[
    ("folders", "folders"),
    ("full_scan_every", "full_scan_every"),
    ("mass_delete_percent", "mass_delete_percent"),
    ("mass_delete_count", "mass_delete_count"),
];

/// Keys of an item of `user_data.folders`.
pub(super) const FOLDER: Keys = &[("path", "path"), ("filter", "filter")];

/// Keys of `dummy_success`.
pub(super) const DUMMY_SUCCESS: Keys = &[
    ("source_duration", "source_duration"),
    ("target_duration", "target_duration"),
];

/// Keys of `dummy_fail`.
pub(super) const DUMMY_FAIL: Keys = &[
    ("source_duration", "source_duration"),
    ("target_duration", "target_duration"),
    ("fail_at", "fail_at"),
];

/// The candidate most like `word`, if one is like it: a third of its letters may differ.
pub(super) fn nearest<'a>(
    word: &str,
    candidates: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    // What is as long as a page is no misspelling, and comparing takes the product of lengths.
    if word.len() > 64 {
        return None;
    }
    let plain = |text: &str| text.to_lowercase().replace(['-', ' ', '.'], "_");
    let word = plain(word);
    let distance = |candidate: &str| strsim::damerau_levenshtein(&word, &plain(candidate));
    candidates
        .into_iter()
        .map(|candidate| (distance(candidate), candidate))
        .filter(|(distance, candidate)| *distance <= candidate.chars().count().div_ceil(3))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// The remedy for an unknown word: the nearest candidate, or all of them.
pub(super) fn suggestion(word: &str, candidates: &[&str]) -> Option<String> {
    match nearest(word, candidates.iter().copied()) {
        Some(candidate) => Some(format!("did you mean '{candidate}'?")),
        None if candidates.is_empty() => None,
        None => Some(format!("known here: {}", candidates.join(", "))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn misspellings_find_their_key_and_other_words_find_none() {
        let keys = ["log_file_level", "log_cli_level", "sync_modules", "disk"];
        for (word, key) in [
            ("sync_module", Some("sync_modules")),
            ("sync-modules", Some("sync_modules")),
            ("Disk", Some("disk")),
            ("dsik", Some("disk")),
            ("log_clilevel", Some("log_cli_level")),
            ("colour", None),
        ] {
            assert_eq!(nearest(word, keys), key, "{word}");
        }
        assert_eq!(nearest(&"x".repeat(1_000_000), keys), None);
    }
}
