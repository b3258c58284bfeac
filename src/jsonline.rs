//! One JSON object a line, fit to be read by programs and shown by `cat`.
//!
//! Shared by the log file and `--progress json`: user info in URLs is hidden, and characters that
//! would act on a terminal are written as `\uNNNN`, which JSON readers undo.

use std::borrow::Cow;
use std::fmt::Write as _;

use serde_json::Value;

use crate::escape::is_unsafe;

/// Replaces the user info of every URL in `text` (`https://me:secret@host/`) by `***`.
#[must_use]
pub fn redact(text: &str) -> Cow<'_, str> {
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find("://") {
        let (head, tail) = rest.split_at(at + 3);
        out.push_str(head);
        rest = match user_info(head, tail) {
            Some(end) => {
                out.push_str("***");
                &tail[end..]
            }
            None => tail,
        };
    }
    if out.is_empty() {
        return Cow::Borrowed(text);
    }
    out.push_str(rest);
    Cow::Owned(out)
}

/// Where the `@` after the user info is in `tail`, the text after `://`, if there is user info.
fn user_info(head: &str, tail: &str) -> Option<usize> {
    let scheme = head.strip_suffix("://")?;
    if !scheme.ends_with(|c: char| c.is_ascii_alphanumeric()) {
        return None;
    }
    let word = tail
        .find(|c: char| c.is_whitespace() || matches!(c, '"' | '\'' | '<' | '>' | '`'))
        .map_or(tail, |end| &tail[..end]);
    let authority = word.find(['/', '?', '#']).map_or(word, |end| &word[..end]);
    if let Some(at) = authority.rfind('@') {
        return Some(at);
    }
    // A secret with an unescaped `/`, `?` or `#` in it: what follows the colon is no port then.
    let (_, port) = authority.split_once(':')?;
    let bracketed = authority.starts_with('[');
    if bracketed || port.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    word.rfind('@')
}

/// [`redact`]s every string inside `value`, names of members included.
pub fn redact_value(value: &mut Value) {
    match value {
        Value::String(text) => {
            if let Cow::Owned(clean) = redact(text) {
                *text = clean;
            }
        }
        Value::Array(items) => items.iter_mut().for_each(redact_value),
        Value::Object(map) => {
            if map.keys().any(|key| matches!(redact(key), Cow::Owned(_))) {
                let members = std::mem::take(map).into_iter();
                map.extend(members.map(|(key, value)| (redact(&key).into_owned(), value)));
            }
            map.values_mut().for_each(redact_value);
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// Rewrites serialised JSON so that no character in it acts on a terminal.
///
/// Such characters can only stand inside strings, where an escape means the same.
#[must_use]
pub fn safe(json: &str) -> Cow<'_, str> {
    if !json.contains(is_unsafe) {
        return Cow::Borrowed(json);
    }
    let mut out = String::with_capacity(json.len() + 16);
    for c in json.chars() {
        if is_unsafe(c) {
            for unit in c.encode_utf16(&mut [0; 2]) {
                write!(out, "\\u{unit:04x}").expect("a String takes every write");
            }
        } else {
            out.push(c);
        }
    }
    Cow::Owned(out)
}

#[cfg(test)]
#[path = "../tests/it/support/json_doc.rs"]
pub mod json_doc;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn user_info_in_urls_is_hidden_and_nothing_else() {
        for (given, shown) in [
            (
                "GET https://me:s3cret@host/x ok",
                "GET https://***@host/x ok",
            ),
            ("git+ssh://me@host", "git+ssh://***@host"),
            (
                "a https://u:p@h, b http://u2:p2@h2",
                "a https://***@h, b http://***@h2",
            ),
            ("https://u:p/w#?@host/", "https://***@host/"),
            ("https://u:p@ss@host/", "https://***@host/"),
            ("http://host:80/a@2x.png", "http://host:80/a@2x.png"),
            ("http://[::1]:80/a@b", "http://[::1]:80/a@b"),
            ("see host, then me@host", "see host, then me@host"),
            ("\"https://host\" me@host", "\"https://host\" me@host"),
            ("://a@b", "://a@b"),
        ] {
            assert_eq!(redact(given), shown);
        }
    }

    #[test]
    fn strings_at_any_depth_are_redacted() {
        let mut value = serde_json::json!({"a": [{"ftp://u@b": "ftp://u:p@h/"}], "n": 1});
        redact_value(&mut value);
        assert_eq!(
            value,
            serde_json::json!({"a": [{"ftp://***@b": "ftp://***@h/"}], "n": 1})
        );
    }

    #[test]
    fn json_keeps_its_meaning_and_loses_its_controls() {
        let value = Value::String("\u{9b}2J \u{7f} \u{202e} \u{e0001} é \n".into());
        let line = safe(&value.to_string()).into_owned();
        assert!(!line.contains(is_unsafe), "{line}");
        assert!(line.contains('é'));
        assert_eq!(serde_json::from_str::<Value>(&line).unwrap(), value);
    }
}
