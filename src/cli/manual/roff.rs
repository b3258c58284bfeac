//! Pages in the language of `man(7)`: headings, paragraphs, lists of terms, lines kept as they are.
//!
//! Inline, `` `word` `` is set bold and `*word*` in italics; everything else is literal. Lines are
//! broken well below 80 columns, as `mandoc -Tlint` wants them.

use std::fmt::Write as _;

/// Longest line of text in the source of a page.
const WIDTH: usize = 78;

/// A page that is being written.
#[derive(Debug, Default)]
pub(super) struct Roff {
    text: String,
    /// Whether the next paragraph needs no macro: a heading has just been written.
    fresh: bool,
}

impl Roff {
    /// Begins a page: name, section, date, the program and its version.
    pub(super) fn new(name: &str, section: u8, date: &str, source: &str) -> Self {
        let mut roff = Self::default();
        let title = name.to_uppercase();
        roff.text = format!(
            ".\\\" Written by `UPDATE_DOCS=1 cargo test --test it documents`.\n\
             .TH \"{}\" \"{section}\" \"{date}\" \"{}\" \"pc-switcher manual\"\n",
            literal(&title),
            literal(source)
        );
        roff
    }

    /// A section.
    pub(super) fn heading(&mut self, title: &str) {
        self.macro_line("SH", &title.to_uppercase());
    }

    /// A section within a section.
    pub(super) fn subheading(&mut self, title: &str) {
        self.macro_line("SS", title);
    }

    fn macro_line(&mut self, name: &str, title: &str) {
        writeln!(self.text, ".{name} \"{}\"", literal(title)).expect("a String takes every write");
        self.fresh = true;
    }

    /// A paragraph with inline marks.
    pub(super) fn paragraph(&mut self, marked: &str) {
        if !std::mem::take(&mut self.fresh) {
            self.text.push_str(".PP\n");
        }
        self.flow(marked);
    }

    /// A term and, indented below, what it means.
    pub(super) fn term(&mut self, marked: &str, meaning: &str) {
        self.head(marked);
        self.meaning(meaning);
    }

    /// A term alone; [`Roff::meaning`] or [`Roff::continued`] says what it means, if anything does.
    pub(super) fn head(&mut self, marked: &str) {
        self.text.push_str(".TP\n");
        // A term is one line of the source.
        self.line(&inline(marked));
        self.fresh = false;
    }

    /// What the term above means.
    pub(super) fn meaning(&mut self, marked: &str) {
        self.flow(marked);
    }

    /// A further paragraph below a term.
    pub(super) fn continued(&mut self, marked: &str) {
        self.text.push_str(".IP\n");
        self.flow(marked);
    }

    /// Lines kept as they are, below a term.
    pub(super) fn continued_verbatim(&mut self, lines: &[&str]) {
        self.text.push_str(".IP\n.nf\n");
        for line in lines {
            self.line(&literal(line));
        }
        self.text.push_str(".fi\n");
    }

    /// An item of a list.
    pub(super) fn item(&mut self, marked: &str) {
        self.text.push_str(".IP \\(bu 2\n");
        self.fresh = false;
        self.flow(marked);
    }

    /// Lines kept as they are, indented.
    pub(super) fn verbatim(&mut self, lines: &[&str]) {
        if !std::mem::take(&mut self.fresh) {
            self.text.push_str(".PP\n");
        }
        self.text.push_str(".RS 4\n.nf\n");
        for line in lines {
            self.line(&literal(line));
        }
        self.text.push_str(".fi\n.RE\n");
    }

    /// The finished page.
    pub(super) fn finish(self) -> String {
        self.text
    }

    /// Text that is filled: words are put on lines of at most [`WIDTH`] columns.
    fn flow(&mut self, marked: &str) {
        let mut line = String::new();
        for word in inline(marked).split_whitespace() {
            if !line.is_empty() && line.len() + 1 + word.len() > WIDTH {
                self.line(&line);
                line.clear();
            }
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
            // Sentences begin on lines of their own, so that changes are small.
            if word.ends_with(['.', '?', '!']) && !word.ends_with("...") && word.len() > 3 {
                self.line(&line);
                line.clear();
            }
        }
        if !line.is_empty() {
            self.line(&line);
        }
    }

    /// One line of text; a dot or quote at its beginning would be a request.
    fn line(&mut self, text: &str) {
        if text.starts_with(['.', '\'']) {
            self.text.push_str("\\&");
        }
        self.text.push_str(text);
        self.text.push('\n');
    }
}

/// Text without any meaning to `roff`. A plain `-` would become a hyphen that cannot be searched
/// for, a plain `'`, `` ` ``, `^` or `~` a typographic sign that cannot be pasted.
fn literal(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\e"),
            '-' => out.push_str("\\-"),
            '\'' => out.push_str("\\(aq"),
            '`' => out.push_str("\\(ga"),
            '^' => out.push_str("\\(ha"),
            '~' => out.push_str("\\(ti"),
            '"' => out.push_str("\\(dq"),
            c if c.is_ascii() => out.push(c),
            c => write!(out, "\\[u{:04X}]", c as u32).expect("a String takes every write"),
        }
    }
    out
}

/// Text with `` `bold` `` and `*italic*` words. A mark that is not closed is literal.
fn inline(marked: &str) -> String {
    let mut out = String::new();
    let mut rest = marked;
    while let Some(at) = rest.find(['`', '*']) {
        let mark = &rest[at..=at];
        let inside = &rest[at + 1..];
        let font = if mark == "`" { "\\fB" } else { "\\fI" };
        match inside.find(mark) {
            Some(end) if end > 0 => {
                out.push_str(&literal(&rest[..at]));
                // Each word on its own: lines are broken between them.
                for (i, word) in inside[..end].split(' ').enumerate() {
                    let gap = if i > 0 { " " } else { "" };
                    write!(out, "{gap}{font}{}\\fR", literal(word))
                        .expect("a String takes every write");
                }
                rest = &inside[end + 1..];
            }
            _ => {
                out.push_str(&literal(&rest[..=at]));
                rest = inside;
            }
        }
    }
    out.push_str(&literal(rest));
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_in_a_text_is_a_request() {
        assert_eq!(
            literal(r#"a\b --x 'q' "d""#),
            r"a\eb \-\-x \(aqq\(aq \(dqd\(dq"
        );
        assert_eq!(literal("é"), r"\[u00E9]");
        let mut roff = Roff::default();
        roff.verbatim(&[".so /etc/passwd", "'br", "\\n"]);
        assert_eq!(
            roff.finish(),
            ".PP\n.RS 4\n.nf\n\\&.so /etc/passwd\n\\&\\(aqbr\n\\en\n.fi\n.RE\n"
                .replace("\\&\\(aq", "\\(aq")
        );
    }

    #[test]
    fn marks_are_fonts_and_lone_marks_are_literal() {
        assert_eq!(
            inline("see `--batch x` now"),
            r"see \fB\-\-batch\fR \fBx\fR now"
        );
        assert_eq!(inline("a *HOST* b"), r"a \fIHOST\fR b");
        assert_eq!(inline("2 * 3 ` 4"), r"2 * 3 \(ga 4");
    }

    #[test]
    fn lines_are_short_and_sentences_begin_lines() {
        let mut roff = Roff::new("x", 1, "2026-01-01", "x 1");
        roff.heading("Name");
        roff.paragraph(&format!(
            "A sentence ends. {}",
            "word `--flag-name` ".repeat(40)
        ));
        let text = roff.finish();
        assert!(text.contains("\nA sentence ends.\n"), "{text}");
        assert!(text.lines().all(|line| line.len() <= WIDTH), "{text}");
    }
}
