//! `pc-switcher.config(5)`: the keys, their meaning and their defaults, from the example that
//! `init` writes. What the example says is checked by the tests of `config`.

use super::markup;
use super::roff::Roff;
use crate::config::EXAMPLE;

/// What the page says beside the keys.
const TEXT: &str = include_str!("texts/config.md");

/// Where the keys belong in the text.
const KEYS_GO_HERE: &str = "# Files\n";

/// Puts everything but the name on `page`.
pub(super) fn put(page: &mut Roff) {
    let (before, after) = TEXT.split_at(TEXT.find(KEYS_GO_HERE).unwrap_or(TEXT.len()));
    markup::put(page, before);
    page.heading("Keys");
    for key in keys(EXAMPLE) {
        let meaning = key.meaning.replace('"', "`");
        match key.value {
            None => {
                page.subheading(&key.name);
                page.paragraph(&meaning);
            }
            Some(value) => {
                page.term(&format!("`{}`: {value}", key.name), &meaning);
            }
        }
    }
    markup::put(page, after);
}

/// A key of the example.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Key {
    /// With the section it is in: `disk.check_interval`.
    pub(super) name: String,
    /// What it is without that line; `None` for a section.
    pub(super) value: Option<String>,
    /// The comment above it.
    meaning: String,
}

/// Keys of an example: each has its comment above it, in sections at most one deep.
pub(super) fn keys(example: &str) -> Vec<Key> {
    let mut found: Vec<Key> = Vec::new();
    let mut comment = String::new();
    let mut section = String::new();
    for line in example.lines() {
        let text = line.trim_start();
        if let Some(words) = text.strip_prefix('#') {
            comment.push_str(words);
            continue;
        }
        if text.is_empty() {
            // What was said so far is about the file.
            comment.clear();
            continue;
        }
        if text.starts_with("- ") {
            let list = found.last_mut().expect("a list has a key");
            list.value = list
                .value
                .take()
                .map(|value| format!("{value} {text}").trim().to_owned());
            continue;
        }
        let (name, value) = text.split_once(':').expect("a key, or part of a list");
        let value = value.trim();
        let is_inner = line.starts_with(' ');
        let is_section = value.is_empty() && !is_inner;
        let name = if is_inner {
            format!("{section}.{name}")
        } else {
            section = if is_section {
                name.to_owned()
            } else {
                String::new()
            };
            name.to_owned()
        };
        found.push(Key {
            name,
            value: (!is_section).then(|| value.to_owned()),
            meaning: comment.split_whitespace().collect::<Vec<_>>().join(" "),
        });
        comment.clear();
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_has_its_comment_and_its_value() {
        let found = keys(
            "# The file.\n\n# One.\none: \"1\"\n# Two.\n# More.\ntwo:\n  # In two.\n  a: 2\n  # List.\n  b:\n    - x\n    - y\n",
        );
        let key = |name: &str, value: Option<&str>, meaning: &str| Key {
            name: name.to_owned(),
            value: value.map(str::to_owned),
            meaning: meaning.to_owned(),
        };
        assert_eq!(
            found,
            [
                key("one", Some("\"1\""), "One."),
                key("two", None, "Two. More."),
                key("two.a", Some("2"), "In two."),
                key("two.b", Some("- x - y"), "List."),
            ]
        );
    }

    #[test]
    fn the_example_is_read_whole() {
        let found = keys(EXAMPLE);
        let get = |name: &str| found.iter().find(|key| key.name == name);
        let interval = get("disk.check_interval").expect("in the example");
        assert_eq!(interval.value.as_deref(), Some("30"));
        let folders = get("user_data.folders").and_then(|key| key.value.as_deref());
        assert_eq!(folders.map(|f| f.matches("- {").count()), Some(2));
    }
}
