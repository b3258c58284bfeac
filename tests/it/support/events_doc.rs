//! `docs/events.md` as a schema: which fields an event has, and of which type. Used by the unit tests of
//! the renderer too.

use std::collections::BTreeMap;

use serde_json::Value;

/// Fields of each event, with the words for their types.
pub struct Schema(BTreeMap<String, BTreeMap<String, String>>);

impl Schema {
    /// Reads the tables of the document.
    pub fn read() -> Self {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/events.md");
        let text = std::fs::read_to_string(path).expect("the document is there");
        let mut events = BTreeMap::<String, BTreeMap<String, String>>::new();
        let mut event = None;
        for line in text.lines() {
            if let Some(name) = line.strip_prefix("## ") {
                event = Some(events.entry(name.to_owned()).or_default());
            } else if let (Some(fields), Some(row)) = (&mut event, line.strip_prefix("| `")) {
                let (name, rest) = row.split_once("` | ").expect("a name and a type");
                let (kind, _) = rest.split_once(" |").expect("a type and a meaning");
                fields.insert(name.to_owned(), kind.to_owned());
            }
        }
        assert!(events.len() >= 9, "the tables are understood");
        Self(events)
    }

    /// The events there are.
    pub fn events(&self) -> Vec<&str> {
        self.0.keys().map(String::as_str).collect()
    }

    /// What is wrong with a line of standard output, and which event it is.
    pub fn check(&self, line: &str) -> Result<String, String> {
        let wrong = |what: String| Err(format!("{what} in {line}"));
        let Ok(Value::Object(object)) = serde_json::from_str(line) else {
            return wrong("no object".to_owned());
        };
        let Some(event) = object.get("event").and_then(Value::as_str) else {
            return wrong("no event".to_owned());
        };
        let Some(fields) = self.0.get(event) else {
            return wrong(format!("undocumented event {event}"));
        };
        if !object.get("ts").is_some_and(is_time) {
            return wrong("no time".to_owned());
        }
        for (name, value) in object
            .iter()
            .filter(|(name, _)| *name != "event" && *name != "ts")
        {
            let Some(kind) = fields.get(name) else {
                return wrong(format!("undocumented field {name}"));
            };
            if !kind.split(" or ").any(|kind| is_a(value, kind)) {
                return wrong(format!("{name} is not {kind}"));
            }
        }
        if let Some(missing) = fields.keys().find(|name| !object.contains_key(*name)) {
            return wrong(format!("{missing} is missing"));
        }
        Ok(event.to_owned())
    }
}

fn is_time(value: &Value) -> bool {
    let text = value.as_str().unwrap_or_default();
    text.ends_with('Z') && text.parse::<jiff::Timestamp>().is_ok()
}

fn is_a(value: &Value, kind: &str) -> bool {
    match kind {
        "string" => value.is_string(),
        "time" => is_time(value),
        "integer" => value.is_u64(),
        "number" => value.is_number(),
        "boolean" => value.is_boolean(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        "null" => value.is_null(),
        other => panic!("docs/events.md has an unknown type {other}"),
    }
}
