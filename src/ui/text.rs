//! Measuring, shortening and wrapping text for a terminal, and numbers for people.

use std::time::Duration;

use crate::escape::escape_str;
pub(super) use crate::figures::{bytes, counted, number, span};
use crate::jsonline::redact;

/// Text of others on one line: secrets in URLs hidden, tabs as spaces, the rest escaped.
pub(super) fn clean(text: &str) -> String {
    escape_str(&redact(text).replace('\t', "    "))
}

/// A message for people: [`clean`], and without the numbers the system gives its errors.
pub(super) fn message(text: &str) -> String {
    let mut rest = text;
    let mut said = String::with_capacity(text.len());
    while let Some((before, after)) = rest.split_once(" (os error ") {
        said.push_str(before);
        let digits = after.trim_start_matches(|c: char| c.is_ascii_digit());
        rest = if let Some(rest) = digits.strip_prefix(')') {
            rest
        } else {
            said.push_str(" (os error ");
            after
        };
    }
    said.push_str(rest);
    clean(&said)
}

/// [`message`] for text that may have several lines, at most `max` of them.
pub(super) fn clean_lines(text: &str, max: usize) -> Vec<String> {
    let mut lines: Vec<String> = text
        .lines()
        .take(max)
        .map(|l| message(l.trim_end()))
        .collect();
    let more = text.lines().skip(max).count();
    if more > 0 {
        lines.push(format!("({} more)", counted(more as u64, "line")));
    }
    lines
}

/// Columns `c` may take. A variation selector counts as one: it can widen what is before it.
fn char_columns(c: char) -> usize {
    if c == '\u{fe0f}' {
        return 1;
    }
    console::measure_text_width(c.encode_utf8(&mut [0; 4]))
}

/// Columns `text` takes at most: every character by itself, as a terminal that joins none does.
pub(super) fn columns(text: &str) -> usize {
    text.chars().map(char_columns).sum()
}

/// The longest beginning of `text` that fits into `width` columns.
fn head(text: &str, width: usize) -> &str {
    let mut used = 0;
    for (at, c) in text.char_indices() {
        used += char_columns(c);
        if used > width {
            return &text[..at];
        }
    }
    text
}

/// The longest end of `text` that fits into `width` columns.
fn tail(text: &str, width: usize) -> &str {
    let mut used = 0;
    for (at, c) in text.char_indices().rev() {
        used += char_columns(c);
        if used > width {
            return &text[at + c.len_utf8()..];
        }
    }
    text
}

/// `text` in at most `width` columns, its end replaced by `ellipsis` if it is longer.
pub(super) fn fit(text: &str, width: usize, ellipsis: &str) -> String {
    if columns(text) <= width {
        return text.to_owned();
    }
    let room = width.saturating_sub(columns(ellipsis));
    format!("{}{}", head(text, room), head(ellipsis, width))
}

/// `text` in at most `width` columns, its middle replaced by `ellipsis` if it is longer.
pub(super) fn fit_middle(text: &str, width: usize, ellipsis: &str) -> String {
    if columns(text) <= width {
        return text.to_owned();
    }
    let Some(room) = width.checked_sub(columns(ellipsis) + 2) else {
        return head(text, width).to_owned();
    };
    // The end of a path tells more than its beginning.
    let front = head(text, room / 3 + 1);
    let back = tail(text, room + 2 - columns(front));
    format!("{front}{ellipsis}{back}")
}

/// `text` in lines of at most `width` columns, broken at spaces where possible; all but the first
/// begin with `indent` spaces.
pub(super) fn wrap(text: &str, width: usize, indent: usize) -> Vec<String> {
    let indent = if width > indent + 10 { indent } else { 0 };
    let margin = " ".repeat(indent);
    let mut lines = Vec::new();
    let mut line = String::new();
    let mut used = 0;
    let mut rest = text;
    while !rest.is_empty() {
        // Spaces that belong before the next word, then the word.
        let word_at = rest.find(|c| c != ' ').unwrap_or(rest.len());
        let word_end = rest[word_at..]
            .find(' ')
            .map_or(rest.len(), |end| word_at + end);
        let piece = &rest[..word_end];
        let word = &rest[word_at..word_end];
        let wide = columns(piece);
        if used + wide <= width {
            line.push_str(piece);
            used += wide;
            rest = &rest[word_end..];
            continue;
        }
        let fits_next = columns(word) <= width.saturating_sub(indent);
        if fits_next && !line.trim().is_empty() {
            rest = &rest[word_at..];
        } else {
            // No line is wide enough for this word: cut it.
            let cut = head(piece, width.saturating_sub(used));
            let cut = if cut.is_empty() && line.len() <= indent {
                &piece[..piece.chars().next().map_or(0, char::len_utf8)]
            } else {
                cut
            };
            line.push_str(cut);
            rest = &rest[cut.len()..];
        }
        lines.push(std::mem::replace(&mut line, margin.clone()));
        used = indent;
    }
    if lines.is_empty() || used > indent {
        lines.push(line);
    }
    lines
}

/// A time span as a clock shows it: `0:07`, `12:34`, `1:02:03`.
pub(super) fn clock(time: Duration) -> String {
    let secs = time.as_secs();
    let (h, m, s) = (secs / 3600, secs / 60 % 60, secs % 60);
    if h > 0 {
        format!("{h}:{m:02}:{s:02}")
    } else {
        format!("{m}:{s:02}")
    }
}

/// A round trip in milliseconds: `0.4 ms`, `12 ms`.
pub(super) fn millis(time: Duration) -> String {
    let ms = time.as_secs_f64() * 1e3;
    if ms < 9.95 {
        format!("{ms:.1} ms")
    } else {
        format!("{ms:.0} ms")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_person_is_not_told_the_numbers_of_system_errors() {
        assert_eq!(
            message("a: Permission denied (os error 13); b: gone (os error 2)"),
            "a: Permission denied; b: gone"
        );
        assert_eq!(
            message("x (os error y) (os error 3"),
            "x (os error y) (os error 3"
        );
    }

    #[test]
    fn the_middle_goes_first_and_the_end_of_a_path_stays() {
        assert_eq!(fit_middle("short", 9, "…"), "short");
        assert_eq!(
            fit_middle("/home/me/a/b/c/file.txt", 14, "…"),
            "/hom…/file.txt"
        );
        assert_eq!(fit_middle("日本語日本語日本語", 9, "…"), "日…日本語");
        assert_eq!(fit("a long message", 8, "..."), "a lon...");
    }

    #[test]
    fn long_text_is_wrapped_at_spaces_with_an_indent() {
        assert_eq!(
            wrap("one two three four five six seven", 14, 2),
            ["one two three", "  four five", "  six seven"]
        );
        assert_eq!(wrap("", 10, 2), [""]);
        assert_eq!(wrap("  indented", 20, 2), ["  indented"]);
        assert_eq!(wrap("abcdefghijklmno", 6, 0), ["abcdef", "ghijkl", "mno"]);
    }

    #[test]
    fn figures_are_readable() {
        assert_eq!(clock(Duration::from_secs(3723)), "1:02:03");
        assert_eq!(millis(Duration::from_micros(420)), "0.4 ms");
    }

    proptest! {
        #[test]
        fn nothing_is_ever_wider_than_asked(text in "\\PC{0,60}", width in 1_usize..50) {
            let text = clean(&text);
            prop_assert!(columns(&fit(&text, width, "…")) <= width);
            prop_assert!(columns(&fit_middle(&text, width, "…")) <= width);
            // The widest character there is takes four.
            for line in wrap(&text, width.max(4), 2) {
                prop_assert!(columns(&line) <= width.max(4), "{line:?}");
            }
        }

        #[test]
        fn wrapping_loses_no_word(text in "[a-z ]{0,80}", width in 5_usize..50) {
            let words: String = text.split_whitespace().collect();
            let wrapped: String = wrap(&text, width, 2).concat().split_whitespace().collect();
            prop_assert_eq!(words, wrapped);
        }
    }
}
