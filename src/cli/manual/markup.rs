//! The hand-written texts of the manual: a few marks that read well as they stand, put on a page.
//!
//! `# Heading`, `## Heading`, paragraphs, `- items`, a term followed by lines that begin with `: `,
//! and lines indented by four blanks, kept as they are. Paragraphs are separated by empty lines.

use super::roff::Roff;

/// Puts `text` on `page`.
pub(super) fn put(page: &mut Roff, text: &str) {
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        if line.trim().is_empty() {
            continue;
        }
        if let Some(title) = line.strip_prefix("## ") {
            page.subheading(title);
        } else if let Some(title) = line.strip_prefix("# ") {
            page.heading(title);
        } else if let Some(first) = line.strip_prefix(INDENT) {
            let mut kept = vec![first];
            while let Some(more) = lines.peek().and_then(|l| l.strip_prefix(INDENT)) {
                kept.push(more);
                lines.next();
            }
            page.verbatim(&kept);
        } else if let Some(first) = line.strip_prefix("- ") {
            page.item(&paragraph(first, &mut lines));
        } else if let Some(first) = lines.peek().and_then(|l| l.strip_prefix(": ")) {
            let first = first.to_owned();
            lines.next();
            page.term(line, &paragraph(&first, &mut lines));
        } else if let Some(first) = line.strip_prefix(": ") {
            page.continued(&paragraph(first, &mut lines));
        } else {
            page.paragraph(&paragraph(line, &mut lines));
        }
    }
}

const INDENT: &str = "    ";

/// The rest of a paragraph that began with `first`.
fn paragraph<'a>(
    first: &str,
    lines: &mut std::iter::Peekable<impl Iterator<Item = &'a str>>,
) -> String {
    let mut text = first.to_owned();
    while let Some(line) = lines.next_if(|line| {
        let begins = ["- ", ": ", "# ", "## "];
        !line.trim().is_empty() && !begins.iter().any(|mark| line.starts_with(mark))
    }) {
        text.push(' ');
        text.push_str(line.trim());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_mark_becomes_its_macro() {
        let mut page = Roff::default();
        put(
            &mut page,
            "# one\nText of\ntwo lines.\n\n## Two\n- first\n  goes on\n- second\n\n\
             `term`\n: meaning\n  goes on\n\n: more\n\n    kept  as\n    it is\n",
        );
        let expected = ".SH \"ONE\"\nText of two lines.\n.SS \"Two\"\n\
            .IP \\(bu 2\nfirst goes on\n.IP \\(bu 2\nsecond\n\
            .TP\n\\fBterm\\fR\nmeaning goes on\n.IP\nmore\n\
            .PP\n.RS 4\n.nf\nkept  as\nit is\n.fi\n.RE\n";
        assert_eq!(page.finish(), expected);
    }
}
