//! Matching one name (one component of a path) against one component of a pattern.
//!
//! Bytes, not characters: `?` and `[...]` stand for one byte, as in rsync. Time is bounded by the
//! product of both lengths; there is no recursion, so no pattern can make matching explode.

/// A set of bytes, for `[...]`.
type ByteSet = [u64; 4];

#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    Byte(u8),
    /// `?`
    One,
    /// `*`
    Many,
    /// `[...]`, with its text for [`Glob::to_rsync`].
    Set(ByteSet, Box<[u8]>),
}

/// One component of a pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Glob {
    /// Exactly this name.
    Literal(Box<[u8]>),
    /// `*`
    Any,
    /// `text*`
    Prefix(Box<[u8]>),
    /// `*text`
    Suffix(Box<[u8]>),
    /// Everything else.
    Tokens(Box<[TokenBox]>),
}

/// Keeps [`Token`] private to this file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct TokenBox(Token);

fn contains(set: &ByteSet, byte: u8) -> bool {
    set[usize::from(byte >> 6)] & (1 << (byte & 63)) != 0
}

fn insert(set: &mut ByteSet, byte: u8) {
    set[usize::from(byte >> 6)] |= 1 << (byte & 63);
}

fn insert_range(set: &mut ByteSet, range: std::ops::RangeInclusive<u8>) {
    for byte in range {
        insert(set, byte);
    }
}

/// Members of a POSIX class in the C locale.
fn posix_class(name: &[u8]) -> Option<fn(&u8) -> bool> {
    Some(match name {
        b"alnum" => u8::is_ascii_alphanumeric,
        b"alpha" => u8::is_ascii_alphabetic,
        b"digit" => u8::is_ascii_digit,
        b"lower" => u8::is_ascii_lowercase,
        b"upper" => u8::is_ascii_uppercase,
        b"punct" => u8::is_ascii_punctuation,
        b"xdigit" => u8::is_ascii_hexdigit,
        _ => return None,
    })
}

/// Reads `[...]` from the start of `text`; the set, and how many bytes it took.
fn parse_set(text: &[u8]) -> Result<(ByteSet, usize), &'static str> {
    const OPEN: &str = "'[' without ']': close it, or write '\\[' for the character itself";
    let mut set = [0; 4];
    let mut at = 1;
    let negated = matches!(text.get(at), Some(b'!' | b'^'));
    at += usize::from(negated);
    let first = at;
    loop {
        let byte = match *text.get(at).ok_or(OPEN)? {
            b']' if at > first => break,
            b'[' if text.get(at + 1) == Some(&b':') => {
                let name = &text[at + 2..];
                let end = name.windows(2).position(|w| w == b":]").ok_or(OPEN)?;
                let is_member =
                    posix_class(&name[..end]).ok_or("unknown character class in '[...]'")?;
                for member in (0..=0x7f).filter(is_member) {
                    insert(&mut set, member);
                }
                at += end + 4;
                continue;
            }
            b'\\' => {
                at += 1;
                *text.get(at).ok_or(OPEN)?
            }
            byte => byte,
        };
        at += 1;
        let mut last = byte;
        if text.get(at) == Some(&b'-') && !matches!(text.get(at + 1), None | Some(b']')) {
            at += 1;
            if text[at] == b'\\' {
                at += 1;
            }
            last = *text.get(at).ok_or(OPEN)?;
            at += 1;
        }
        if byte == b'/' || last == b'/' {
            return Err("'/' inside '[...]' can never match");
        }
        if !byte.is_ascii() || !last.is_ascii() {
            return Err("'[...]' stands for one byte and takes ASCII only; use '*' instead");
        }
        if byte > last {
            return Err("the range in '[...]' runs backwards");
        }
        insert_range(&mut set, byte..=last);
    }
    if negated {
        set = set.map(|word| !word);
    }
    Ok((set, at + 1))
}

impl Glob {
    /// Compiles one component (no unescaped `/`).
    pub(super) fn parse(text: &[u8]) -> Result<Self, &'static str> {
        let mut tokens = Vec::new();
        let mut at = 0;
        while at < text.len() {
            let token = match text[at] {
                b'*' if tokens.last() == Some(&Token::Many) => {
                    return Err("'**' must stand alone between slashes; use '*' inside a name");
                }
                b'*' => Token::Many,
                b'?' => Token::One,
                b'[' => {
                    let (set, taken) = parse_set(&text[at..])?;
                    at += taken - 1;
                    Token::Set(set, text[at + 1 - taken..=at].into())
                }
                b'\\' => {
                    at += 1;
                    match text.get(at) {
                        None => return Err("a backslash at the end of a rule escapes nothing"),
                        Some(b) if b.is_ascii_alphanumeric() => {
                            return Err("a backslash before a letter or digit means nothing; \
                                        write '\\\\' for a backslash");
                        }
                        Some(&b) => Token::Byte(b),
                    }
                }
                byte => Token::Byte(byte),
            };
            tokens.push(token);
            at += 1;
        }
        Ok(Self::from_tokens(tokens))
    }

    fn from_tokens(tokens: Vec<Token>) -> Self {
        let literal = |tokens: &[Token]| -> Option<Box<[u8]>> {
            tokens
                .iter()
                .map(|token| match token {
                    Token::Byte(byte) => Some(*byte),
                    _ => None,
                })
                .collect()
        };
        if let Some(name) = literal(&tokens) {
            return Self::Literal(name);
        }
        match tokens.split_first() {
            Some((Token::Many, [])) => return Self::Any,
            Some((Token::Many, rest)) => {
                if let Some(text) = literal(rest) {
                    return Self::Suffix(text);
                }
            }
            _ => {}
        }
        if let Some((Token::Many, rest)) = tokens.split_last()
            && let Some(text) = literal(rest)
        {
            return Self::Prefix(text);
        }
        Self::Tokens(tokens.into_iter().map(TokenBox).collect())
    }

    /// Whether the whole of `name` matches.
    pub(super) fn matches(&self, name: &[u8]) -> bool {
        match self {
            Self::Literal(text) => **text == *name,
            Self::Any => true,
            Self::Prefix(text) => name.starts_with(text),
            Self::Suffix(text) => name.ends_with(text),
            Self::Tokens(tokens) => matches_tokens(tokens, name),
        }
    }

    /// Appends the component as rsync writes it: with `wild`, in a pattern that has a wildcard
    /// somewhere; without, in one that has none, where rsync takes a backslash literally.
    pub(super) fn to_rsync(&self, out: &mut Vec<u8>, wild: bool) {
        let literal = |out: &mut Vec<u8>, text: &[u8]| {
            for &byte in text {
                if wild && matches!(byte, b'*' | b'?' | b'[' | b'\\') {
                    out.push(b'\\');
                }
                out.push(byte);
            }
        };
        match self {
            Self::Literal(text) => literal(out, text),
            Self::Any => out.push(b'*'),
            Self::Prefix(text) => {
                literal(out, text);
                out.push(b'*');
            }
            Self::Suffix(text) => {
                out.push(b'*');
                literal(out, text);
            }
            Self::Tokens(tokens) => {
                for TokenBox(token) in tokens {
                    match token {
                        Token::Byte(byte) => literal(out, &[*byte]),
                        Token::One => out.push(b'?'),
                        Token::Many => out.push(b'*'),
                        Token::Set(_, text) => out.extend_from_slice(text),
                    }
                }
            }
        }
    }

    /// Whether rsync would see a wildcard in this component, escaped ones included.
    pub(super) fn looks_wild(&self) -> bool {
        match self {
            Self::Literal(text) => text.iter().any(|b| matches!(b, b'*' | b'?' | b'[')),
            _ => true,
        }
    }
}

/// Greedy matching that goes back to the latest `*` only.
fn matches_tokens(tokens: &[TokenBox], name: &[u8]) -> bool {
    let (mut token_at, mut byte_at) = (0, 0);
    let mut retry: Option<(usize, usize)> = None;
    loop {
        match tokens.get(token_at).map(|TokenBox(token)| token) {
            Some(Token::Many) => {
                retry = Some((token_at + 1, byte_at));
                token_at += 1;
                continue;
            }
            Some(token) => {
                let fits = name.get(byte_at).is_some_and(|&byte| match token {
                    Token::Byte(wanted) => *wanted == byte,
                    Token::One => true,
                    Token::Set(set, _) => contains(set, byte),
                    Token::Many => unreachable!("handled above"),
                });
                if fits {
                    token_at += 1;
                    byte_at += 1;
                    continue;
                }
            }
            None if byte_at == name.len() => return true,
            None => {}
        }
        match retry {
            Some((tokens_from, bytes_from)) if bytes_from < name.len() => {
                retry = Some((tokens_from, bytes_from + 1));
                token_at = tokens_from;
                byte_at = bytes_from + 1;
            }
            _ => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(pattern: &str, name: &[u8]) -> bool {
        Glob::parse(pattern.as_bytes())
            .expect("valid pattern")
            .matches(name)
    }

    #[test]
    fn wildcards_match_whole_names_of_any_bytes() {
        for (pattern, yes, no) in [
            ("abc", "abc", "abcd"),
            ("*", "", "\0never"),
            ("*.o", ".o", "a.oo"),
            ("id_*", "id_ed25519", "xid_rsa"),
            ("a?c", "abc", "ac"),
            ("a*b*c", "a-b-b-c", "a-c-b"),
            ("*a*b", "xaxxab", "xaxxaba"),
            ("[a-c]x", "bx", "dx"),
            ("[!a-c]x", "dx", "bx"),
            ("[^a]", "b", "a"),
            ("[]a]", "]", "b"),
            ("[a-]", "-", "b"),
            ("[[:digit:]_]", "_", "a"),
            ("[\\]]", "]", "\\"),
            (r"\*", "*", "a"),
            (r"a\ ", "a ", "a"),
            ("a*[0-9]", "ab7", "ab"),
        ] {
            assert!(matches(pattern, yes.as_bytes()), "{pattern} {yes}");
            if no != "\0never" {
                assert!(!matches(pattern, no.as_bytes()), "{pattern} {no}");
            }
        }
        assert!(matches("a?b", b"a\xffb"));
        assert!(matches("[!x]", b"\xff"));
    }

    #[test]
    fn patterns_that_cannot_mean_anything_are_refused() {
        for pattern in [
            "[abc",
            "[",
            "[!",
            "[z-a]",
            "[a/b]",
            "[ä]",
            "a\\",
            r"\a",
            "a**b",
            "***",
            "[[:nope:]]",
        ] {
            assert!(Glob::parse(pattern.as_bytes()).is_err(), "{pattern}");
        }
    }

    #[test]
    fn many_stars_do_not_explode() {
        let pattern = "*a".repeat(100) + "b";
        let start = std::time::Instant::now();
        assert!(!matches(&pattern, &[b'a'; 255]));
        assert!(start.elapsed().as_secs() < 20);
    }
}
