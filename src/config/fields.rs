//! Reading typed values out of the tree; each mistake becomes a problem and the default goes on.

use std::ops::RangeInclusive;
use std::path::Path;

use jiff::SignedDuration;

use crate::age::parse_age;
use crate::event::LogLevel;

use super::keys::{Keys, suggestion};
use super::problem::ConfigProblem;
use super::yaml::{Node, Position, Value};
use super::{KnownModule, Space};

/// A value with its key path.
pub(super) struct Field<'a> {
    pub path: String,
    /// Where the key stands.
    pub key_at: Position,
    pub node: &'a Node,
}

/// The fields of a mapping by the names we use for them.
pub(super) struct Section<'a>(pub Vec<(&'static str, Field<'a>)>);

impl<'a> Section<'a> {
    pub(super) fn take(&mut self, key: &str) -> Option<Field<'a>> {
        let index = self.0.iter().position(|(name, _)| *name == key)?;
        Some(self.0.swap_remove(index).1)
    }
}

/// Walks the tree and collects what is wrong; `check.rs` knows the sections.
pub(super) struct Checker<'a> {
    pub file: &'a Path,
    pub modules: &'a [KnownModule<'a>],
    pub problems: Vec<ConfigProblem>,
}

/// What stands there, for "expected X, found Y".
pub(super) fn describe(node: &Node) -> String {
    match &node.value {
        Value::List(items) if items.is_empty() => "an empty list".to_owned(),
        Value::List(_) => "a list".to_owned(),
        Value::Map(_) => "a mapping".to_owned(),
        Value::Scalar { .. } if node.is_null() => "nothing".to_owned(),
        Value::Scalar { text, plain } => {
            let mut shown: String = text.chars().take(40).collect();
            if shown.len() < text.len() {
                shown.push('…');
            }
            if *plain {
                shown
            } else {
                format!("\"{shown}\"")
            }
        }
    }
}

/// Whether `node` is YAML's true.
pub(super) fn is_true(node: &Node) -> bool {
    matches!(&node.value, Value::Scalar { text, plain: true }
        if matches!(text.as_str(), "true" | "True" | "TRUE"))
}

/// `parent.key`.
pub(super) fn join(parent: &str, key: &str) -> String {
    if parent.is_empty() {
        key.to_owned()
    } else {
        format!("{parent}.{key}")
    }
}

impl Checker<'_> {
    pub(super) fn problem(&mut self, at: Position, path: &str, message: impl Into<String>) {
        self.problem_with_hint(at, path, message, None);
    }

    pub(super) fn problem_with_hint(
        &mut self,
        at: Position,
        path: &str,
        message: impl Into<String>,
        hint: Option<String>,
    ) {
        let problem = ConfigProblem::at(self.file, at, path, message.into(), hint);
        self.problems.push(problem);
    }

    pub(super) fn wrong_type(&mut self, field: &Field<'_>, expected: &str, hint: Option<&str>) {
        let message = format!("expected {expected}, found {}", describe(field.node));
        self.problem_with_hint(field.node.at, &field.path, message, hint.map(str::to_owned));
    }

    /// The entries of a mapping whose keys are text, each key once.
    pub(super) fn entries<'n>(
        &mut self,
        path: &str,
        map: &'n [(Node, Node)],
    ) -> Vec<(&'n str, Field<'n>)> {
        let mut entries: Vec<(&str, Field<'_>)> = Vec::new();
        for (key, node) in map {
            let Value::Scalar { text, .. } = &key.value else {
                self.problem(key.at, path, "a key must be a word");
                continue;
            };
            let path = join(path, text);
            if let Some((_, first)) = entries.iter().find(|(name, _)| *name == text) {
                let message = format!("given twice, first in line {}", first.key_at.line);
                let hint = Some("keep one of them".to_owned());
                self.problem_with_hint(key.at, &path, message, hint);
                continue;
            }
            let field = Field {
                path,
                key_at: key.at,
                node,
            };
            entries.push((text, field));
        }
        entries
    }

    /// A mapping with known keys; nothing where a mapping may be stands for all defaults.
    pub(super) fn section<'n>(&mut self, path: &str, node: &'n Node, known: Keys) -> Section<'n> {
        let mut section: Vec<(&'static str, Field<'n>)> = Vec::new();
        let map = match &node.value {
            Value::Map(map) => map,
            _ if node.is_null() => return Section(section),
            _ => {
                let message = format!("expected a mapping (key: value), found {}", describe(node));
                let names: Vec<&str> = known.iter().map(|(name, _)| *name).collect();
                let hint = Some(format!("known here: {}", names.join(", ")));
                self.problem_with_hint(node.at, path, message, hint);
                return Section(section);
            }
        };
        let mut written: Vec<(&'static str, &str)> = Vec::new();
        for (name, field) in self.entries(path, map) {
            let Some((_, canonical)) = known.iter().find(|(known, _)| *known == name) else {
                let names: Vec<&str> = known.iter().map(|(name, _)| *name).collect();
                let message = if path.is_empty() && self.modules.iter().any(|m| m.name == name) {
                    "this module has no settings"
                } else {
                    "unknown key"
                };
                let hint = suggestion(name, &names);
                self.problem_with_hint(field.key_at, &field.path, message, hint);
                continue;
            };
            if let Some((_, other)) = written.iter().find(|(key, _)| key == canonical) {
                let message = format!("the same setting as '{other}', which is given too");
                let hint = Some(format!("keep '{canonical}'"));
                self.problem_with_hint(field.key_at, &field.path, message, hint);
                continue;
            }
            written.push((canonical, name));
            section.push((canonical, field));
        }
        Section(section)
    }

    /// A mapping below `key` of `parent`; absent: an empty one.
    pub(super) fn subsection<'n>(
        &mut self,
        parent: &mut Section<'n>,
        key: &str,
        known: Keys,
    ) -> Section<'n> {
        match parent.take(key) {
            None => Section(Vec::new()),
            Some(field) => self.section(&field.path, field.node, known),
        }
    }

    pub(super) fn text<'n>(&mut self, field: &Field<'n>, expected: &str) -> Option<&'n str> {
        match &field.node.value {
            Value::Scalar { text, .. } if !field.node.is_null() && !text.is_empty() => Some(text),
            _ => {
                self.wrong_type(field, expected, None);
                None
            }
        }
    }

    pub(super) fn list<'n>(&mut self, field: &Field<'n>, expected: &str) -> Option<Vec<Field<'n>>> {
        let Value::List(items) = &field.node.value else {
            self.wrong_type(field, expected, None);
            return None;
        };
        if items.is_empty() {
            self.wrong_type(field, expected, Some("leave the key out for the default"));
            return None;
        }
        let item = |(index, node): (usize, &'n Node)| Field {
            path: format!("{}[{index}]", field.path),
            key_at: node.at,
            node,
        };
        Some(items.iter().enumerate().map(item).collect())
    }

    pub(super) fn switch(&mut self, field: &Field<'_>) -> Option<bool> {
        let (text, plain) = match &field.node.value {
            Value::Scalar { text, plain } => (text.as_str(), *plain),
            _ => ("", false),
        };
        if is_true(field.node) {
            return Some(true);
        }
        if plain && matches!(text, "false" | "False" | "FALSE") {
            return Some(false);
        }
        let hint = match text.to_ascii_lowercase().as_str() {
            "true" if !plain => Some("write it without quotes: true"),
            "false" if !plain => Some("write it without quotes: false"),
            "yes" | "on" | "y" | "1" => Some("write: true"),
            "no" | "off" | "n" | "0" => Some("write: false"),
            _ => None,
        };
        self.wrong_type(field, "true or false", hint);
        None
    }

    pub(super) fn number(
        &mut self,
        field: Option<Field<'_>>,
        range: RangeInclusive<u64>,
        default: u64,
    ) -> u64 {
        let Some(field) = field else {
            return default;
        };
        let expected = if *range.end() == u64::from(u32::MAX) {
            format!("a whole number from {}", range.start())
        } else {
            format!("a whole number from {} to {}", range.start(), range.end())
        };
        if let Value::Scalar { text, plain } = &field.node.value
            && !text.is_empty()
            && text.bytes().all(|byte| byte.is_ascii_digit())
        {
            if !plain {
                self.wrong_type(&field, &expected, Some("write the number without quotes"));
                return default;
            }
            // Anything that does not fit is out of every range.
            let number = text.parse().unwrap_or(u64::MAX);
            if range.contains(&number) {
                return number;
            }
        }
        self.wrong_type(&field, &expected, None);
        default
    }

    pub(super) fn number_u32(&mut self, field: Option<Field<'_>>, least: u32, default: u32) -> u32 {
        let range = u64::from(least)..=u64::from(u32::MAX);
        let number = self.number(field, range, u64::from(default));
        u32::try_from(number).expect("within the range or the default")
    }

    /// A length of time (`30d`); null is none at all.
    pub(super) fn age(
        &mut self,
        field: Option<Field<'_>>,
        default: Option<SignedDuration>,
    ) -> Option<SignedDuration> {
        let Some(field) = field else { return default };
        if field.node.is_null() {
            return None;
        }
        let text = self.text(&field, "a length of time (30d, 2w) or null")?;
        match parse_age(text) {
            Ok(age) => Some(age),
            Err(message) => {
                self.problem(field.node.at, &field.path, message);
                default
            }
        }
    }

    pub(super) fn level(&mut self, field: Option<Field<'_>>, default: LogLevel) -> LogLevel {
        let Some(field) = field else {
            return default;
        };
        let Some(text) = self.text(&field, "a log level") else {
            return default;
        };
        text.parse().unwrap_or_else(|()| {
            let names = LogLevel::ALL.map(LogLevel::name);
            let message = format!("{} is not a log level", describe(field.node));
            self.problem_with_hint(
                field.node.at,
                &field.path,
                message,
                suggestion(text, &names),
            );
            default
        })
    }

    pub(super) fn space(&mut self, field: Option<Field<'_>>, default: Space) -> Space {
        const EXPECTED: &str = "a share (\"20%\") or a size (\"50GiB\", MiB, GB, MB)";
        let Some(field) = field else {
            return default;
        };
        let Some(text) = self.text(&field, EXPECTED) else {
            return default;
        };
        match parse_space(text) {
            Ok(space) => space,
            Err(hint) => {
                let hint = hint.replace("{}", text);
                self.wrong_type(
                    &field,
                    EXPECTED,
                    Some(hint.as_str()).filter(|h| !h.is_empty()),
                );
                default
            }
        }
    }

    /// Bytes a second; `null`: no limit.
    pub(super) fn rate(&mut self, field: Option<Field<'_>>) -> Option<u64> {
        const EXPECTED: &str = "bytes a second (\"10MiB\", KiB, GiB, KB, MB, GB), or null";
        let field = field?;
        if field.node.is_null() {
            return None;
        }
        let text = self.text(&field, EXPECTED)?;
        match parse_rate(text) {
            Ok(rate) => Some(rate),
            Err(hint) => {
                self.wrong_type(&field, EXPECTED, Some(hint));
                None
            }
        }
    }

    /// An absolute path below `/`, without detours, without doubled and final slashes.
    pub(super) fn absolute_path(&mut self, field: &Field<'_>) -> Option<String> {
        let text = self.text(field, "an absolute path")?;
        let mut hint = None;
        let message = if text.starts_with('~') || text.starts_with('$') {
            hint = Some("write it out: it must mean the same on both machines");
            format!("'{}' is not expanded", &text[..1])
        } else if !text.starts_with('/') {
            hint = Some("begin with '/': it must mean the same on both machines");
            "the path is relative".to_owned()
        } else if text.split('/').any(|name| matches!(name, "." | "..")) {
            "'.' and '..' are not allowed in a path".to_owned()
        } else if text.contains('\0') {
            "a path cannot hold a zero byte".to_owned()
        } else {
            let names: Vec<&str> = text.split('/').filter(|name| !name.is_empty()).collect();
            if names.is_empty() {
                "the whole root '/' is too much".to_owned()
            } else {
                return Some(format!("/{}", names.join("/")));
            }
        };
        self.problem_with_hint(field.node.at, &field.path, message, hint.map(str::to_owned));
        None
    }
}

/// The slowest rate that is not refused: with less, a frame that is under way would hold up the next
/// sign of life for so long that the machines would take each other for gone.
const SLOWEST: u64 = 64_000;

/// Parses a rate, `10MiB` (a second); the error is a hint.
pub fn parse_rate(text: &str) -> Result<u64, &'static str> {
    const UNITS: &str = "a whole number and its unit: KiB, MiB, GiB, KB, MB or GB";
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let factor: u64 = match unit {
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        "KB" => 1000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        _ => return Err(UNITS),
    };
    match number.parse().ok().and_then(|n: u64| n.checked_mul(factor)) {
        Some(rate) if rate >= SLOWEST => Ok(rate),
        Some(_) => Err("at least 64KB a second"),
        None => Err(UNITS),
    }
}

/// Parses `20%` or `50GiB`; the error is a hint (with `{}` for the text), which may be empty.
fn parse_space(text: &str) -> Result<Space, &'static str> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    if number.is_empty() {
        return Err("");
    }
    let factor = match unit {
        "%" => {
            return match number.parse() {
                Ok(percent) if percent < 100 => Ok(Space::Percent(percent)),
                _ => Err("a share is less than 100%"),
            };
        }
        "GiB" => 1 << 30,
        "MiB" => 1 << 20,
        "GB" => 1_000_000_000,
        "MB" => 1_000_000,
        "" => return Err("a number needs its unit: \"{}%\" or \"{}GiB\""),
        _ => return Err("units are %, GiB, MiB, GB and MB, right after a whole number"),
    };
    let bytes = number.parse().ok().and_then(|n: u64| n.checked_mul(factor));
    match bytes {
        Some(bytes) => Ok(Space::Bytes(bytes, text.to_owned())),
        None => Err("no disk is that large"),
    }
}
