//! From the text of a filter file to rules.

use super::glob::Glob;

/// Largest filter file that is read.
pub const MAX_FILTER_BYTES: usize = 256 * 1024;
/// Longest line.
pub const MAX_LINE_BYTES: usize = 1024;
/// Most rules in one file.
pub const MAX_RULES: usize = 2000;
/// Most errors reported for one file.
const MAX_ERRORS: usize = 50;
/// Most `**` in one rule: as rsync rules, each doubles the list.
const MAX_ANY_DEPTH: usize = 4;
/// Longest file name on Linux.
const NAME_MAX: usize = 255;

/// Something in a filter file that is not a rule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct FilterError {
    /// Name of the file.
    pub origin: String,
    /// Line, from 1; `None`: the file as a whole.
    pub line: Option<usize>,
    /// What is wrong, and what would be right.
    pub message: String,
}

impl std::fmt::Display for FilterError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let origin = crate::escape::escape_str(&self.origin);
        match self.line {
            Some(line) => write!(f, "{origin}:{line}: {}", self.message),
            None => write!(f, "{origin}: {}", self.message),
        }
    }
}

/// One component of a pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Part {
    /// Any number of directories may come before it.
    pub any_before: bool,
    /// The name.
    pub glob: Glob,
}

/// One rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Rule {
    pub include: bool,
    /// Matches directories only (and thereby what is in them).
    pub dir_only: bool,
    pub line: usize,
    /// The pattern as written, without sign and surrounding blanks.
    pub text: Box<[u8]>,
    /// From the root of the rule's scope; never empty.
    pub parts: Box<[Part]>,
}

impl Rule {
    pub(super) fn sign(&self) -> char {
        if self.include { '+' } else { '-' }
    }
}

/// Parses a whole file, collecting every error.
pub(super) fn parse(text: &[u8], origin: &str) -> Result<Vec<Rule>, Vec<FilterError>> {
    let error = |line, message: &str| FilterError {
        origin: origin.to_owned(),
        line,
        message: message.to_owned(),
    };
    if text.len() > MAX_FILTER_BYTES {
        let message = format!("larger than {} KiB", MAX_FILTER_BYTES / 1024);
        return Err(vec![error(None, &message)]);
    }
    let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
    let (mut rules, mut errors) = (Vec::new(), Vec::new());
    for (index, line) in text.split(|&byte| byte == b'\n').enumerate() {
        match parse_line(line.strip_suffix(b"\r").unwrap_or(line), index + 1) {
            Ok(None) => {}
            Ok(Some(_)) if rules.len() == MAX_RULES => {
                let message = format!("more than {MAX_RULES} rules");
                errors.push(error(Some(index + 1), &message));
                break;
            }
            Ok(Some(rule)) => rules.push(rule),
            Err(message) => errors.push(error(Some(index + 1), message)),
        }
        if errors.len() == MAX_ERRORS {
            break;
        }
    }
    if errors.is_empty() {
        Ok(rules)
    } else {
        Err(errors)
    }
}

fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t')
}

fn trim_start(text: &[u8]) -> &[u8] {
    let blanks = text.iter().take_while(|&&byte| is_blank(byte)).count();
    &text[blanks..]
}

/// Removes blanks at the end, except one that a backslash escapes.
fn trim_end(mut text: &[u8]) -> &[u8] {
    while let Some((&last, rest)) = text.split_last() {
        let backslashes = rest.iter().rev().take_while(|&&b| b == b'\\').count();
        if !is_blank(last) || backslashes % 2 == 1 {
            break;
        }
        text = rest;
    }
    text
}

fn parse_line(line: &[u8], number: usize) -> Result<Option<Rule>, &'static str> {
    if line.len() > MAX_LINE_BYTES {
        return Err("the line is longer than 1024 bytes");
    }
    let line = trim_start(line);
    if trim_end(line).is_empty() || line[0] == b'#' {
        return Ok(None);
    }
    if line.contains(&0) {
        return Err("a rule cannot hold a zero byte; is this a text file?");
    }
    if line.contains(&b'\r') {
        return Err("a carriage return inside a rule; end lines with a line feed");
    }
    let (include, text) = match line {
        [b'!', rest @ ..] => (true, rest),
        [sign @ (b'+' | b'-'), rest @ ..] => {
            if rest.first().is_some_and(|&byte| !is_blank(byte)) {
                return Err(
                    "put a blank after '+' or '-', or a backslash before it if the name \
                            begins so",
                );
            }
            (*sign == b'+', rest)
        }
        _ => (false, line),
    };
    let text = trim_end(trim_start(text));
    let mut path = text;
    let rooted = path.first() == Some(&b'/');
    if rooted {
        path = &path[1..];
    }
    let dir_only = path.last() == Some(&b'/');
    if dir_only {
        path = &path[..path.len() - 1];
    }
    if path.is_empty() {
        return Err(if text.is_empty() {
            "no pattern after the sign"
        } else {
            "the folder itself cannot be included or excluded; '**' is everything in it"
        });
    }
    if text.starts_with(b"~/") {
        return Err(
            "'~' is not expanded: rules start at the folder; for every home below /home \
                    write '*/'",
        );
    }
    let mut parts: Vec<Part> = Vec::new();
    let mut any_before = !rooted && !path.contains(&b'/');
    for component in path.split(|&byte| byte == b'/') {
        match component {
            b"" => return Err("two slashes in a row"),
            b"." | b".." => return Err("'.' and '..' never occur in a path"),
            b"***" => {
                return Err("'***' is not needed: a rule for a directory covers everything in it");
            }
            b"**" => any_before = true,
            name => {
                let glob = Glob::parse(name)?;
                if matches!(&glob, Glob::Literal(name) if name.len() > NAME_MAX) {
                    return Err("no file name is longer than 255 bytes");
                }
                parts.push(Part { any_before, glob });
                any_before = false;
            }
        }
    }
    if path == b"**" || path.ends_with(b"/**") {
        parts.push(Part {
            any_before: true,
            glob: Glob::Any,
        });
    }
    if parts.iter().filter(|part| part.any_before).count() > MAX_ANY_DEPTH {
        return Err("more than four '**' in one rule");
    }
    Ok(Some(Rule {
        include,
        dir_only,
        line: number,
        text: text.into(),
        parts: parts.into(),
    }))
}
