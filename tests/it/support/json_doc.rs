//! What the manual says of `--json`: the members of an object, from the texts in `src/cli/manual/texts`. Used by the unit
//! tests of those commands too.

use std::collections::BTreeSet;

use serde_json::Value;

/// The members that the text of a page names below a heading: `checks[].id` is a member of each object in the list `checks`.
fn documented(page: &str, heading: &str) -> BTreeSet<String> {
    let root = env!("CARGO_MANIFEST_DIR");
    let path = format!("{root}/src/cli/manual/texts/{page}.md");
    let text = std::fs::read_to_string(&path).expect("the page has a text");
    let begin = format!("\n## {heading}\n");
    let (_, text) = text.split_once(&begin).expect("the heading is there");
    let lines: Vec<&str> = (text.lines())
        .take_while(|line| !line.starts_with('#'))
        .collect();
    let terms = lines.windows(2).filter(|pair| pair[1].starts_with(": "));
    let names = terms.flat_map(|pair| pair[0].split(", "));
    names
        .map(|name| name.trim_matches('`').to_owned())
        .collect()
}

/// The members of `value` and of the objects in it, as far as the page goes into them.
fn members(value: &Value, of: &str, documented: &BTreeSet<String>, found: &mut BTreeSet<String>) {
    if !of.is_empty() && !documented.iter().any(|name| name.starts_with(of)) {
        return;
    }
    for (name, value) in value.as_object().into_iter().flatten() {
        let name = format!("{of}{name}");
        match value {
            Value::Array(values) => {
                for value in values {
                    members(value, &format!("{name}[]."), documented, found);
                }
            }
            value => members(value, &format!("{name}."), documented, found),
        }
        found.insert(name);
    }
}

/// Fails unless `value` has exactly the members that the page names below the heading.
#[track_caller]
pub fn check(page: &str, heading: &str, value: &Value) {
    let documented = documented(page, heading);
    assert!(documented.len() > 4, "the page is understood");
    let mut found = BTreeSet::new();
    members(value, "", &documented, &mut found);
    assert_eq!(found, documented, "{page}: {heading}: {value}");
}
