//! YAML as a tree that knows where everything stands.
//!
//! Built from the parser's events rather than with a ready-made loader because positions, duplicate
//! keys and whether a scalar was quoted must survive, and because aliases must be counted while they
//! are expanded: a small file can stand for more than any memory holds.

use std::collections::HashMap;

use saphyr_parser::{Event, Parser, ScalarStyle, ScanError, Span};

/// Deepest nesting; the configuration needs four.
const MAX_DEPTH: usize = 16;
/// Most nodes, those of expanded aliases included.
const MAX_NODES: usize = 5000;
/// Most text in scalars, that of expanded aliases included.
const MAX_TEXT: usize = 1024 * 1024;

/// A place in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Position {
    /// From 1.
    pub line: usize,
    /// In characters, from 1.
    pub column: usize,
}

impl Position {
    /// The beginning of the file.
    pub(super) const START: Self = Self { line: 1, column: 1 };

    /// The place `offset` bytes into `text`.
    pub(super) fn of_byte(text: &[u8], offset: usize) -> Self {
        let before = &text[..offset];
        let lines = before.split(|&b| b == b'\n');
        let line_start = before
            .iter()
            .rposition(|&b| b == b'\n')
            .map_or(0, |at| at + 1);
        Self {
            line: lines.count(),
            column: String::from_utf8_lossy(&before[line_start..])
                .chars()
                .count()
                + 1,
        }
    }
}

impl From<Span> for Position {
    fn from(span: Span) -> Self {
        Self {
            line: span.start.line(),
            column: span.start.col() + 1,
        }
    }
}

/// A value and where it begins.
#[derive(Debug, Clone)]
pub(super) struct Node {
    pub at: Position,
    pub value: Value,
}

#[derive(Debug, Clone)]
pub(super) enum Value {
    /// Text; `plain`: not quoted, so that it may be a number, a switch or nothing.
    Scalar {
        text: String,
        plain: bool,
    },
    List(Vec<Node>),
    /// Keys with values in the order of the file, duplicates included.
    Map(Vec<(Node, Node)>),
}

impl Node {
    /// Whether this is YAML's "no value".
    pub(super) fn is_null(&self) -> bool {
        matches!(&self.value, Value::Scalar { text, plain: true }
            if matches!(text.as_str(), "" | "~" | "null" | "Null" | "NULL"))
    }

    /// Nodes and bytes of text in this subtree.
    fn weight(&self) -> (usize, usize) {
        let sum = |a: (usize, usize), b: (usize, usize)| (a.0 + b.0, a.1 + b.1);
        match &self.value {
            Value::Scalar { text, .. } => (1, text.len()),
            Value::List(items) => items.iter().map(Self::weight).fold((1, 0), sum),
            Value::Map(entries) => entries
                .iter()
                .map(|(key, value)| sum(key.weight(), value.weight()))
                .fold((1, 0), sum),
        }
    }
}

/// Why there is no tree.
#[derive(Debug)]
pub(super) struct SyntaxError {
    pub at: Position,
    pub message: String,
    pub hint: Option<&'static str>,
}

impl SyntaxError {
    fn new(at: Position, message: &str) -> Self {
        Self {
            at,
            message: message.to_owned(),
            hint: None,
        }
    }
}

/// A list or mapping that is not finished.
struct Open {
    at: Position,
    anchor: usize,
    kind: OpenKind,
}

enum OpenKind {
    List(Vec<Node>),
    Map(Vec<(Node, Node)>, Option<Node>),
}

#[derive(Default)]
struct Builder {
    open: Vec<Open>,
    root: Option<Node>,
    anchors: HashMap<usize, Node>,
    nodes: usize,
    text: usize,
}

impl Builder {
    /// Counts what is about to be kept.
    fn account(&mut self, at: Position, (nodes, text): (usize, usize)) -> Result<(), SyntaxError> {
        self.nodes += nodes;
        self.text += text;
        if self.nodes > MAX_NODES || self.text > MAX_TEXT {
            let message = format!("more than {MAX_NODES} values, aliases counted as often as used");
            return Err(SyntaxError::new(at, &message));
        }
        Ok(())
    }

    /// Puts a finished node where it belongs.
    fn place(&mut self, mut node: Node, anchor: usize) -> Result<(), SyntaxError> {
        if anchor != 0 {
            self.account(node.at, node.weight())?;
            self.anchors.insert(anchor, node.clone());
        }
        match self.open.last_mut().map(|open| &mut open.kind) {
            None => self.root = Some(node),
            Some(OpenKind::List(items)) => items.push(node),
            Some(OpenKind::Map(entries, key)) => match key.take() {
                None => *key = Some(node),
                Some(key) => {
                    // "No value" has no place of its own: it is where its key is.
                    if matches!(&node.value, Value::Scalar { text, plain: true } if text.is_empty())
                    {
                        node.at = key.at;
                    }
                    entries.push((key, node));
                }
            },
        }
        Ok(())
    }

    fn begin(&mut self, at: Position, anchor: usize, kind: OpenKind) -> Result<(), SyntaxError> {
        self.account(at, (1, 0))?;
        if self.open.len() == MAX_DEPTH {
            return Err(SyntaxError::new(at, "nested too deeply"));
        }
        self.open.push(Open { at, anchor, kind });
        Ok(())
    }

    fn end(&mut self) -> Result<(), SyntaxError> {
        let open = self.open.pop().expect("the parser balances its events");
        let value = match open.kind {
            OpenKind::List(items) => Value::List(items),
            OpenKind::Map(entries, _) => Value::Map(entries),
        };
        let node = Node { at: open.at, value };
        self.place(node, open.anchor)
    }
}

/// Parses one document; `None`: there is nothing but comments.
pub(super) fn parse(text: &str) -> Result<Option<Node>, SyntaxError> {
    let mut parser = Parser::new_from_str(text);
    let mut builder = Builder::default();
    let mut documents = 0;
    while let Some(event) = parser.next_event() {
        let (event, span) = event.map_err(|error| syntax_error(text, &error))?;
        let at = Position::from(span);
        match event {
            Event::DocumentStart(_) => {
                documents += 1;
                if documents > 1 {
                    let message = "a second document begins here; the configuration is one";
                    return Err(SyntaxError::new(at, message));
                }
            }
            Event::Scalar(_, _, _, Some(_))
            | Event::SequenceStart(_, Some(_))
            | Event::MappingStart(_, Some(_)) => {
                return Err(SyntaxError::new(at, "tags ('!') have no meaning here"));
            }
            Event::Scalar(text, style, anchor, None) => {
                builder.account(at, (1, text.len()))?;
                let value = Value::Scalar {
                    text: text.into_owned(),
                    plain: style == ScalarStyle::Plain,
                };
                builder.place(Node { at, value }, anchor)?;
            }
            Event::SequenceStart(anchor, None) => {
                builder.begin(at, anchor, OpenKind::List(Vec::new()))?;
            }
            Event::MappingStart(anchor, None) => {
                builder.begin(at, anchor, OpenKind::Map(Vec::new(), None))?;
            }
            Event::SequenceEnd | Event::MappingEnd => builder.end()?,
            Event::Alias(anchor) => {
                let Some(node) = builder.anchors.get(&anchor) else {
                    return Err(SyntaxError::new(
                        at,
                        "an alias of something that contains it",
                    ));
                };
                let weight = node.weight();
                builder.account(at, weight)?;
                let node = builder.anchors[&anchor].clone();
                builder.place(node, 0)?;
            }
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentEnd => {}
        }
    }
    Ok(builder.root.filter(|root| !root.is_null()))
}

/// The parser's error; tabs, by far the most frequent one, are told apart.
fn syntax_error(text: &str, error: &ScanError) -> SyntaxError {
    let marker = error.marker();
    let at = Position {
        line: marker.line(),
        column: marker.col() + 1,
    };
    let indented_by_tab = |line: &str| {
        let indent = line.len() - line.trim_start_matches([' ', '\t']).len();
        line[..indent].contains('\t') && !line[indent..].is_empty()
    };
    let lines = text
        .lines()
        .enumerate()
        .skip(at.line.saturating_sub(2))
        .take(2);
    let tab = lines.filter(|(_, line)| indented_by_tab(line)).last();
    if let Some((index, line)) = tab {
        return SyntaxError {
            at: Position {
                line: index + 1,
                column: line.find('\t').map_or(1, |column| column + 1),
            },
            message: "a tab in the indentation".to_owned(),
            hint: Some("YAML takes blanks only; use two for each level"),
        };
    }
    let line = text.lines().nth(at.line.saturating_sub(1));
    let character = line.and_then(|line| line.chars().nth(at.column.saturating_sub(1)));
    if let Some(c @ ('@' | '`')) = character {
        return SyntaxError {
            at,
            message: format!("a word cannot begin with {c}"),
            hint: Some("put it in quotes: \"@home\""),
        };
    }
    SyntaxError {
        at,
        message: format!(
            "not valid YAML: {}",
            crate::escape::escape_str(error.info())
        ),
        hint: Some("check the indentation, colons and quotes of this line and the one above"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_count_characters_from_one() {
        let root = parse("ä: {b: 'ü'}\nc:\n")
            .expect("valid")
            .expect("not empty");
        let Value::Map(entries) = root.value else {
            panic!("a mapping");
        };
        let Value::Map(inner) = &entries[0].1.value else {
            panic!("a mapping");
        };
        assert_eq!(inner[0].1.at, Position { line: 1, column: 8 });
        assert!(entries[1].1.is_null());
        assert_eq!(entries[1].1.at, Position { line: 2, column: 1 });
        assert_eq!(Position::of_byte("a\nbü\u{fffd}".as_bytes(), 5).column, 3);
    }

    #[test]
    fn aliases_are_expanded_but_not_without_end() {
        assert!(parse("a: &x [1, 2]\nb: *x\n").is_ok());
        assert!(parse("a: &x [*x]\n").is_err());
        let mut bomb = String::from("a0: &a0 [x,x,x,x,x,x,x,x,x]\n");
        for level in 1..12 {
            let aliases = vec![format!("*a{}", level - 1); 9].join(",");
            bomb = format!("{bomb}a{level}: &a{level} [{aliases}]\n");
        }
        assert!(parse(&bomb).is_err());
        let long = format!("a: &a {}\nb: [{}]\n", "x".repeat(100_000), "*a,".repeat(20));
        assert!(parse(&long).is_err());
    }

    #[test]
    fn deep_nesting_is_an_error_and_not_a_crash() {
        for text in [
            "[".repeat(100_000),
            "{a: ".repeat(100_000),
            "- ".repeat(100_000),
        ] {
            assert!(parse(&text).is_err());
        }
    }
}
