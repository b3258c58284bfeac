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
        match &key.value {
            Value::Section => page.subheading(&key.name),
            Value::One(value) => page.head(&format!("`{}`: {value}", key.name)),
            Value::Many(_) => page.head(&format!("`{}`:", key.name)),
        }
        let is_section = key.value == Value::Section;
        for (at, said) in key.said.iter().enumerate() {
            match said {
                Said::Words(words) if is_section => page.paragraph(words),
                Said::Words(words) if at == 0 => page.meaning(words),
                Said::Words(words) => page.continued(words),
                Said::Term(name, words) => page.term(&format!("`{name}`"), words),
            }
        }
        if let Value::Many(items) = &key.value {
            let items: Vec<String> = items.iter().map(|item| format!("`{item}`")).collect();
            page.continued(&format!("Without it: {}.", items.join(", ")));
        }
        if !key.sample.is_empty() {
            page.continued("For example:");
            let lines: Vec<&str> = key.sample.iter().map(String::as_str).collect();
            page.continued_verbatim(&lines);
        }
    }
    markup::put(page, after);
}

/// A key of the example.
#[derive(Debug, PartialEq, Eq)]
struct Key {
    /// With the section it is in: `disk.check_interval`.
    name: String,
    /// What it is without that line.
    value: Value,
    /// The comment above it.
    said: Vec<Said>,
    /// Lines that are commented out below it, with the key itself.
    sample: Vec<String>,
}

#[derive(Debug, PartialEq, Eq)]
enum Value {
    /// It has keys of its own.
    Section,
    One(String),
    /// Items of a list.
    Many(Vec<String>),
}

/// Part of a comment.
#[derive(Debug, PartialEq, Eq)]
enum Said {
    /// A paragraph.
    Words(String),
    /// A line of a table, with the lines that go on with it.
    Term(String, String),
}

/// How far the lines of a table in a comment are set in; those that go on are further in.
const TABLE: usize = 3;

/// Keys of an example: each has its comment above it, in sections at most one deep.
fn keys(example: &str) -> Vec<Key> {
    let mut found: Vec<Key> = Vec::new();
    let mut comment: Vec<&str> = Vec::new();
    let mut section = String::new();
    for line in example.lines() {
        let text = line.trim_start();
        if let Some(words) = text.strip_prefix('#') {
            comment.push(words);
            continue;
        }
        if text.is_empty() {
            // What was said so far is about the file.
            comment.clear();
            continue;
        }
        if let Some(item) = text.strip_prefix("- ") {
            let list = &mut found.last_mut().expect("a list has a key").value;
            let item = item.trim_matches('"').to_owned();
            match list {
                Value::Many(items) => items.push(item),
                _ => *list = Value::Many(vec![item]),
            }
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
        // What a comment begins with, set in, is a sample of the key before.
        let is_sample = |line: &&&str| indent(line) >= TABLE;
        let samples = comment.iter().take_while(is_sample).count();
        if let Some(last) = found.last_mut().filter(|_| samples > 0) {
            let key = last.name.rsplit('.').next().unwrap_or_default();
            last.sample = std::iter::once(format!("{key}:"))
                .chain(comment[..samples].iter().map(|line| line[1..].to_owned()))
                .collect();
        }
        found.push(Key {
            name,
            value: if is_section {
                Value::Section
            } else {
                Value::One(value.to_owned())
            },
            said: said(&comment[samples..]),
            sample: Vec::new(),
        });
        comment.clear();
    }
    found
}

fn indent(line: &str) -> usize {
    line.len() - line.trim_start().len()
}

/// What the lines of a comment say.
fn said(comment: &[&str]) -> Vec<Said> {
    let mut said: Vec<Said> = Vec::new();
    for line in comment {
        let indent = indent(line);
        let line = line.trim().replace('"', "`");
        if indent == TABLE {
            let (name, words) = line.split_once("  ").unwrap_or((&line, ""));
            said.push(Said::Term(name.to_owned(), words.trim().to_owned()));
            continue;
        }
        match said.last_mut() {
            Some(Said::Words(text)) if indent < TABLE => add(text, &line),
            Some(Said::Term(_, text)) if indent > TABLE => add(text, &line),
            _ => said.push(Said::Words(line)),
        }
    }
    said
}

fn add(text: &mut String, line: &str) {
    text.push_str(if text.is_empty() { "" } else { " " });
    text.push_str(line);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_has_its_comment_and_its_value() {
        let found = keys(
            "# The file.\n\n# One.\none: \"1\"\n# Two.\n# More.\n#   x    ex,\n#        why\n#   y, z\n#        wy\n\
             # End.\ntwo:\n  # In two.\n  a: 2\n  #   s: |\n  #     t\n  # List.\n  b:\n    - \"x*\"\n    - y\n",
        );
        let words = |text: &str| Said::Words(text.to_owned());
        let term = |name: &str, text: &str| Said::Term(name.to_owned(), text.to_owned());
        let one = |value: &str| Value::One(value.to_owned());
        let key = |name: &str, value, said| Key {
            name: name.to_owned(),
            value,
            said,
            sample: Vec::new(),
        };
        assert_eq!(
            found,
            [
                key("one", one("\"1\""), vec![words("One.")]),
                key(
                    "two",
                    Value::Section,
                    vec![
                        words("Two. More."),
                        term("x", "ex, why"),
                        term("y, z", "wy"),
                        words("End."),
                    ]
                ),
                Key {
                    sample: ["a:", "  s: |", "    t"].map(str::to_owned).to_vec(),
                    ..key("two.a", one("2"), vec![words("In two.")])
                },
                key(
                    "two.b",
                    Value::Many(vec!["x*".to_owned(), "y".to_owned()]),
                    vec![words("List.")]
                ),
            ]
        );
    }

    #[test]
    fn the_example_is_read_whole() {
        let found = keys(EXAMPLE);
        let get = |name: &str| found.iter().find(|key| key.name == name).expect(name);
        assert_eq!(
            get("disk.check_interval").value,
            Value::One("30".to_owned())
        );
        let Value::Many(folders) = &get("user_data.folders").value else {
            panic!("a list");
        };
        assert_eq!(folders.len(), 2);
        let is_term = |said: &&Said| matches!(said, Said::Term(..));
        assert_eq!(get("packages").said.iter().filter(is_term).count(), 5);
        assert_eq!(get("packages.recipes").sample.len(), 4);
        let Value::Many(left_alone) = &get("packages.left_alone").value else {
            panic!("a list");
        };
        assert!(left_alone.contains(&"*-dkms".to_owned()), "{left_alone:?}");
    }
}
