//! Showing text that is not ours: file names, values of configuration files, words of the other
//! machine.
//!
//! Whatever is printed to a terminal or a log goes through here once: no control character, no
//! invalid UTF-8 and nothing that turns the direction of writing reaches the reader. What is
//! escaped is written byte for byte as `\xNN`, so that a raw name can be told exactly.

use std::fmt::Write as _;

/// Names in one line before it says how many more there are.
const NAMED: usize = 8;

/// Whether `c` must not be printed as it is: C0 and C1 controls, line and paragraph separators,
/// marks and overrides of writing direction, the byte order mark, interlinear and tag characters.
#[must_use]
pub fn is_unsafe(c: char) -> bool {
    c.is_control()
        || matches!(
            c,
            '\u{061c}'
                | '\u{200e}'
                | '\u{200f}'
                | '\u{2028}'..='\u{202e}'
                | '\u{2066}'..='\u{2069}'
                | '\u{feff}'
                | '\u{fff9}'..='\u{fffb}'
                | '\u{e0000}'..='\u{e007f}'
        )
}

fn push_hex(out: &mut String, bytes: &[u8]) {
    for byte in bytes {
        write!(out, "\\x{byte:02x}").expect("a String takes every write");
    }
}

fn push_text(out: &mut String, text: &str, double_backslash: bool) {
    for c in text.chars() {
        if is_unsafe(c) {
            push_hex(out, c.encode_utf8(&mut [0; 4]).as_bytes());
        } else if c == '\\' && double_backslash {
            out.push_str("\\\\");
        } else {
            out.push(c);
        }
    }
}

/// A raw name (a path, usually) as printable text, without loss: a backslash is doubled, and
/// everything unprintable or not UTF-8 is `\xNN` byte by byte.
#[must_use]
pub fn escape_bytes(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        push_text(&mut out, chunk.valid(), true);
        push_hex(&mut out, chunk.invalid());
    }
    out
}

/// Text for people (a message, a value) made safe to print on one line: like [`escape_bytes`], but
/// backslashes stay single, so that text with names escaped before is not escaped twice.
#[must_use]
pub fn escape_str(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    push_text(&mut out, text, false);
    out
}

/// Names in a sentence, at most a few of them and how many more there are, safe to print.
#[must_use]
pub fn few<'n>(names: impl IntoIterator<Item = &'n String>) -> String {
    let names: Vec<&String> = names.into_iter().collect();
    let shown: Vec<String> = names.iter().take(NAMED).map(|n| escape_str(n)).collect();
    let mut text = shown.join(", ");
    if names.len() > NAMED {
        write!(text, " and {} more", names.len() - NAMED).expect("a String takes every write");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_many_names_a_few_are_shown_and_the_rest_counted() {
        let names = |count: usize| (0..count).map(|n| format!("n{n}")).collect::<Vec<_>>();
        assert_eq!(few(&names(0)), "");
        assert_eq!(few(&names(2)), "n0, n1");
        assert_eq!(few(&names(8)), "n0, n1, n2, n3, n4, n5, n6, n7");
        assert_eq!(
            few(&names(400)),
            "n0, n1, n2, n3, n4, n5, n6, n7 and 392 more"
        );
        assert_eq!(few(&["a\n".to_owned()]), r"a\x0a");
    }

    #[test]
    fn plain_and_foreign_letters_stay_as_they_are() {
        let name = "Büro/日本語/it's 100% (ok) 👩‍💻.txt";
        assert_eq!(escape_bytes(name.as_bytes()), name);
        assert_eq!(escape_str(name), name);
    }

    #[test]
    fn controls_invalid_bytes_and_backslashes_are_shown() {
        assert_eq!(
            escape_bytes(b"a\nb\x1b[31m\\\x7f\xff\xc2"),
            r"a\x0ab\x1b[31m\\\x7f\xff\xc2"
        );
        // A C1 control and an override of writing direction, as UTF-8.
        assert_eq!(escape_bytes("\u{9b}31m".as_bytes()), r"\xc2\x9b31m");
        assert_eq!(escape_bytes("x\u{202e}y".as_bytes()), r"x\xe2\x80\xaey");
        assert_eq!(escape_str("a\\\t\u{2066}"), r"a\\x09\xe2\x81\xa6");
    }

    #[test]
    fn different_names_never_look_the_same() {
        assert_ne!(escape_bytes(b"\n"), escape_bytes(b"\\x0a"));
        assert_ne!(
            escape_bytes("\u{feff}a".as_bytes()),
            escape_bytes(b"\\xef\\xbb\\xbfa")
        );
    }
}
