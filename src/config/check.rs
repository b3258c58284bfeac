//! From the tree to a [`Config`], collecting everything that is wrong.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use crate::event::LogLevel;

use super::fields::{Checker, Field, Section, describe, is_true, join};
use super::keys::{self, suggestion};
use super::problem::ConfigProblem;
use super::yaml::{Node, Position, Value};
use super::{
    Config, DiskConfig, DummyFailConfig, DummySuccessConfig, Folder, KnownModule, PackagesConfig,
    SnapshotConfig, Space, UserDataConfig,
};

/// Most problems reported at once.
const MAX_PROBLEMS: usize = 100;
/// Connections for content.
const TRANSFERS: RangeInclusive<u64> = 1..=16;
/// Longest pretended work of a dummy: a day.
const DURATIONS: RangeInclusive<u64> = 0..=86_400;

/// Checks `root` (`None`: an empty file) as the configuration in `file`.
pub(super) fn check(
    file: &Path,
    root: Option<&Node>,
    modules: &[KnownModule<'_>],
) -> Result<Config, Vec<ConfigProblem>> {
    let mut checker = Checker {
        file,
        modules,
        problems: Vec::new(),
    };
    let config = checker.config(root);
    if checker.problems.is_empty() {
        Ok(config)
    } else {
        checker
            .problems
            .sort_by_key(|problem| (problem.line, problem.column));
        checker.problems.truncate(MAX_PROBLEMS);
        Err(checker.problems)
    }
}

impl<'a> Checker<'a> {
    fn config(&mut self, root: Option<&Node>) -> Config {
        let mut top = match root {
            Some(root) => self.section("", root, keys::TOP),
            None => Section(Vec::new()),
        };
        let log_file_level = self.level(top.take("log_file_level"), LogLevel::Full);
        let log_cli_level = self.level(top.take("log_cli_level"), LogLevel::Info);
        let bandwidth_limit = self.rate(top.take("bandwidth_limit"));
        let transfers = self.transfers(top.take("transfers"));
        let modules_field = top.take("sync_modules");
        let user_data_switch = modules_field.as_ref().and_then(user_data_key);
        let of_root = |problem: &ConfigProblem| problem.key_path.is_empty();
        let sync_modules = if modules_field.is_none() && self.problems.iter().any(of_root) {
            // The file is no mapping at all: that has been said.
            Vec::new()
        } else {
            self.sync_modules(modules_field)
        };
        let disk = self.disk(&mut top);
        let btrfs_snapshots = self.snapshots(&mut top);
        let user_data_enabled = sync_modules
            .iter()
            .any(|(name, on)| name == "user_data" && *on);
        let user_data = self.user_data(
            &mut top,
            &btrfs_snapshots.snapshot_dir,
            user_data_switch.filter(|_| user_data_enabled),
        );
        let packages = self.packages(&mut top);
        let defaults = DummySuccessConfig::default();
        let mut section = self.subsection(&mut top, "dummy_success", keys::DUMMY_SUCCESS);
        let mut duration = |checker: &mut Self, key: &str, default| {
            checker.number(section.take(key), DURATIONS, default)
        };
        let dummy_success = DummySuccessConfig {
            source_duration: duration(self, "source_duration", defaults.source_duration),
            target_duration: duration(self, "target_duration", defaults.target_duration),
        };
        let defaults = DummyFailConfig::default();
        let mut section = self.subsection(&mut top, "dummy_fail", keys::DUMMY_FAIL);
        let mut duration = |checker: &mut Self, key: &str, default| {
            checker.number(section.take(key), DURATIONS, default)
        };
        let dummy_fail = DummyFailConfig {
            source_duration: duration(self, "source_duration", defaults.source_duration),
            target_duration: duration(self, "target_duration", defaults.target_duration),
            fail_at: duration(self, "fail_at", defaults.fail_at),
        };
        Config {
            path: self.file.to_owned(),
            log_file_level,
            log_cli_level,
            bandwidth_limit,
            transfers,
            sync_modules,
            disk,
            btrfs_snapshots,
            packages,
            user_data,
            dummy_success,
            dummy_fail,
        }
    }

    /// How many connections; null leaves it to the machine.
    fn transfers(&mut self, field: Option<Field<'_>>) -> Option<usize> {
        let field = field.filter(|field| !field.node.is_null())?;
        usize::try_from(self.number(Some(field), TRANSFERS, 1)).ok()
    }

    fn sync_modules(&mut self, field: Option<Field<'_>>) -> Vec<(String, bool)> {
        let optional = self.modules.iter().filter(|module| !module.required);
        let optional: Vec<&'a str> = optional.map(|module| module.name).collect();
        let example = || Some(format!("choose from: {}", optional.join(", ")));
        let Some(field) = field else {
            let message = "missing: it says what is synced, and in which order";
            self.problem_with_hint(Position::START, "sync_modules", message, example());
            return Vec::new();
        };
        let map = match &field.node.value {
            Value::Map(map) if !map.is_empty() => map,
            Value::Map(_) => {
                self.problem_with_hint(field.node.at, &field.path, "names no module", example());
                return Vec::new();
            }
            _ => {
                let message = format!(
                    "expected modules with a switch (user_data: true), found {}",
                    describe(field.node)
                );
                self.problem_with_hint(field.node.at, &field.path, message, example());
                return Vec::new();
            }
        };
        let mut modules = Vec::new();
        for (name, field) in self.entries(&field.path, map) {
            let Some(module) = self.modules.iter().find(|module| module.name == name) else {
                let hint = suggestion(name, &optional);
                self.problem_with_hint(field.key_at, &field.path, "unknown module", hint);
                continue;
            };
            if !module.required {
                if let Some(on) = self.switch(&field) {
                    modules.push((name.to_owned(), on));
                }
            } else if !is_true(field.node) {
                let message = "this module is required and cannot be disabled";
                let hint = Some("remove the line".to_owned());
                self.problem_with_hint(field.node.at, &field.path, message, hint);
            }
        }
        modules
    }

    fn disk(&mut self, top: &mut Section<'_>) -> DiskConfig {
        let defaults = DiskConfig::default();
        let mut section = self.subsection(top, "disk", keys::DISK);
        let runtime = section.take("runtime_minimum");
        let runtime_at = runtime
            .as_ref()
            .map(|field| (field.node.at, field.path.clone()));
        let preflight = section.take("preflight_minimum");
        let preflight_at = preflight
            .as_ref()
            .map(|field| (field.node.at, field.path.clone()));
        let problems = self.problems.len();
        let disk = DiskConfig {
            preflight_minimum: self.space(preflight, defaults.preflight_minimum),
            runtime_minimum: self.space(runtime, defaults.runtime_minimum),
            warning_threshold: self.space(
                section.take("warning_threshold"),
                defaults.warning_threshold,
            ),
            check_interval: self.number(
                section.take("check_interval"),
                5..=300,
                defaults.check_interval,
            ),
        };
        let backwards = match (&disk.runtime_minimum, &disk.preflight_minimum) {
            (Space::Percent(runtime), Space::Percent(preflight)) => runtime > preflight,
            (Space::Bytes(runtime, _), Space::Bytes(preflight, _)) => runtime > preflight,
            _ => false,
        };
        if backwards
            && problems == self.problems.len()
            && let Some((at, path)) = runtime_at.or(preflight_at)
        {
            let message = format!(
                "runtime_minimum ({}) is more than preflight_minimum ({}): a sync would start and \
                 stop at once",
                disk.runtime_minimum, disk.preflight_minimum
            );
            let hint = Some("set both, the runtime minimum lower".to_owned());
            self.problem_with_hint(at, &path, message, hint);
        }
        disk
    }

    fn packages(&mut self, top: &mut Section<'_>) -> PackagesConfig {
        let defaults = PackagesConfig::default();
        let mut section = self.subsection(top, "packages", keys::PACKAGES);
        let left_alone = section
            .take("left_alone")
            .and_then(|field| self.patterns(&field));
        let recipes = section.take("recipes").map(|field| self.recipes(&field));
        let share_cache = section
            .take("share_cache")
            .and_then(|field| self.switch(&field));
        PackagesConfig {
            left_alone: left_alone.unwrap_or(defaults.left_alone),
            recipes: recipes.unwrap_or_default(),
            share_cache: share_cache.unwrap_or(defaults.share_cache),
            command_timeout: self.number(
                section.take("command_timeout"),
                60..=86_400,
                defaults.command_timeout,
            ),
        }
    }

    /// Commands by the name of what they bring; there may be none.
    fn recipes(&mut self, field: &Field<'_>) -> BTreeMap<String, String> {
        let map = match &field.node.value {
            Value::Map(map) => map,
            _ if field.node.is_null() => return BTreeMap::new(),
            _ => {
                self.wrong_type(field, "commands by the name of what they bring", None);
                return BTreeMap::new();
            }
        };
        let mut recipes = BTreeMap::new();
        for (name, field) in self.entries(&field.path, map) {
            if let Some(command) = self.text(&field, "a command") {
                recipes.insert(name.to_owned(), command.to_owned());
            }
        }
        recipes
    }

    /// Names of packages with `*` in them; there may be none.
    fn patterns(&mut self, field: &Field<'_>) -> Option<Vec<String>> {
        if matches!(&field.node.value, Value::List(items) if items.is_empty()) {
            return Some(Vec::new());
        }
        let expected = "the name of a package, with * for any run of characters";
        let items = self.list(field, "a list of names of packages")?;
        let patterns = items.iter().filter_map(|item| self.text(item, expected));
        let patterns: Vec<String> = patterns.map(str::to_owned).collect();
        Some(patterns)
    }

    fn snapshots(&mut self, top: &mut Section<'_>) -> SnapshotConfig {
        let defaults = SnapshotConfig::default();
        let mut section = self.subsection(top, "btrfs_snapshots", keys::SNAPSHOTS);
        let subvolumes = section.take("subvolumes").and_then(|f| self.subvolumes(&f));
        let snapshot_dir = section
            .take("snapshot_dir")
            .and_then(|f| self.absolute_path(&f));
        let keep_recent = self.number_u32(section.take("keep_recent"), 1, defaults.keep_recent);
        let max_age_days = section
            .take("max_age_days")
            .filter(|field| !field.node.is_null());
        SnapshotConfig {
            subvolumes: subvolumes.unwrap_or(defaults.subvolumes),
            snapshot_dir: snapshot_dir.unwrap_or(defaults.snapshot_dir),
            keep_recent,
            max_age_days: max_age_days.map(|field| self.number_u32(Some(field), 1, 1)),
        }
    }

    fn subvolumes(&mut self, field: &Field<'_>) -> Option<Vec<String>> {
        let items = self.list(field, "a list of subvolume names, at least one")?;
        let mut names: Vec<String> = Vec::new();
        for item in items {
            let Some(name) = self.text(&item, "a subvolume name") else {
                continue;
            };
            let hint = "names as 'btrfs subvolume list' prints them: \"@\", \"@home\"";
            if name.starts_with('/') {
                let message = format!("{} is a path", describe(item.node));
                self.problem_with_hint(item.node.at, &item.path, message, Some(hint.to_owned()));
            } else if name.split('/').any(|part| matches!(part, "" | "." | ".."))
                || name.len() > 255
                || name.chars().any(char::is_control)
            {
                let message = format!("{} is no name of a subvolume", describe(item.node));
                self.problem_with_hint(item.node.at, &item.path, message, Some(hint.to_owned()));
            } else if names.iter().any(|other| other == name) {
                let message = format!("{} is listed twice", describe(item.node));
                self.problem(item.node.at, &item.path, message);
            } else {
                names.push(name.to_owned());
            }
        }
        Some(names)
    }

    /// `enabled`: where the module is switched on, if it is.
    fn user_data(
        &mut self,
        top: &mut Section<'_>,
        snapshot_dir: &str,
        enabled: Option<Position>,
    ) -> UserDataConfig {
        let directory = self.file.parent().unwrap_or(Path::new(""));
        let defaults = UserDataConfig::in_directory(directory);
        let mut section = self.subsection(top, "user_data", keys::USER_DATA);
        let folders = if let Some(field) = section.take("folders") {
            self.folders(&field, snapshot_dir)
        } else {
            let filters = defaults
                .folders
                .iter()
                .filter_map(|folder| folder.filter.as_deref());
            for (index, filter) in filters.enumerate() {
                if let Some(at) = enabled {
                    self.filter_exists(at, &format!("user_data.folders[{index}].filter"), filter);
                }
            }
            None
        };
        let full_scan_every = self.age(section.take("full_scan_every"), defaults.full_scan_every);
        let percent = self.number(
            section.take("mass_delete_percent"),
            1..=100,
            u64::from(defaults.mass_delete_percent),
        );
        UserDataConfig {
            folders: folders.unwrap_or(defaults.folders),
            full_scan_every,
            mass_delete_percent: u8::try_from(percent).expect("at most 100"),
            mass_delete_count: self.number(
                section.take("mass_delete_count"),
                0..=u64::from(u32::MAX),
                defaults.mass_delete_count,
            ),
        }
    }

    fn folders(&mut self, field: &Field<'_>, snapshot_dir: &str) -> Option<Vec<Folder>> {
        let items = self.list(field, "a list of folders, at least one")?;
        let mut folders: Vec<Folder> = Vec::new();
        for item in items {
            if !matches!(item.node.value, Value::Map(_)) {
                let hint = "write: - { path: /home, filter: home.filter }";
                self.wrong_type(&item, "a folder (path and filter)", Some(hint));
                continue;
            }
            let mut section = self.section(&item.path, item.node, keys::FOLDER);
            let filter = section.take("filter").and_then(|field| self.filter(&field));
            let Some(field) = section.take("path") else {
                let path = join(&item.path, "path");
                self.problem(item.node.at, &path, "missing: which folder to mirror");
                continue;
            };
            let Some(path) = self.absolute_path(&field) else {
                continue;
            };
            if let Some(message) = folder_conflict(&path, &folders, snapshot_dir) {
                self.problem(field.node.at, &field.path, message);
                continue;
            }
            folders.push(Folder { path, filter });
        }
        Some(folders)
    }

    /// A filter file, against the configuration's directory.
    fn filter(&mut self, field: &Field<'_>) -> Option<PathBuf> {
        if field.node.is_null() {
            return None;
        }
        let text = self.text(field, "the name of a filter file")?;
        let message = if text.starts_with('~') || text.starts_with('$') {
            format!("'{}' is not expanded", &text[..1])
        } else if text.split('/').any(|name| name == "..") || text.contains('\0') {
            "'..' and zero bytes are not allowed in a path".to_owned()
        } else {
            let path = self.file.parent().unwrap_or(Path::new("")).join(text);
            self.filter_exists(field.node.at, &field.path, &path);
            return Some(path);
        };
        let hint = "a name is looked up beside the configuration; other places begin with '/'";
        self.problem_with_hint(field.node.at, &field.path, message, Some(hint.to_owned()));
        None
    }

    fn filter_exists(&mut self, at: Position, key_path: &str, filter: &Path) {
        let reason = match std::fs::metadata(filter) {
            Ok(facts) if facts.is_file() => return,
            Ok(_) => "it is not a file".to_owned(),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                "there is no such file".to_owned()
            }
            Err(error) => error.to_string(),
        };
        let message = format!("filter file {}: {reason}", filter.display());
        let hint = "'pc-switcher init' writes home.filter and root.filter; 'filter: null' \
                    mirrors everything";
        self.problem_with_hint(at, key_path, message, Some(hint.to_owned()));
    }
}

/// Where `user_data` stands among the sync modules.
fn user_data_key(field: &Field<'_>) -> Option<Position> {
    let Value::Map(map) = &field.node.value else {
        return None;
    };
    map.iter()
        .find(|(key, _)| matches!(&key.value, Value::Scalar { text, .. } if text == "user_data"))
        .map(|(key, _)| key.at)
}

/// Whether `path` is `base` or below it.
fn is_within(path: &str, base: &str) -> bool {
    path.strip_prefix(base)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Why `path` cannot be mirrored beside the other folders.
fn folder_conflict(path: &str, folders: &[Folder], snapshot_dir: &str) -> Option<String> {
    let kernel = ["/proc", "/sys", "/dev", "/run"];
    if let Some(base) = kernel.into_iter().find(|base| is_within(path, base)) {
        return Some(format!(
            "{base} is the running system's and is never mirrored"
        ));
    }
    if is_within(path, snapshot_dir) {
        return Some(format!(
            "{path} lies in the snapshot directory {snapshot_dir}"
        ));
    }
    folders.iter().find_map(|Folder { path: other, .. }| {
        if path == other {
            Some(format!("{path} is listed twice"))
        } else if is_within(path, other) {
            Some(format!(
                "{path} lies in {other}, which is mirrored as a whole"
            ))
        } else if is_within(other, path) {
            Some(format!(
                "{path} contains {other}, which is listed on its own"
            ))
        } else {
            None
        }
    })
}
