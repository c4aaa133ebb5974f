//! Random values, written as block YAML by a writer of this file's own, come back as they were, and every field
//! is found on the line on which it was written.

use std::fmt::Write;

use countersign_policy::yaml::{LineMap, parse};
use proptest::prelude::*;
use serde_json::{Value, json};

/// A writer of block YAML that remembers the line of everything it writes.
#[derive(Default)]
struct Writer {
    text: String,
    lines: Vec<(String, u32)>,
    line: u32,
}

impl Writer {
    fn end_line(&mut self) {
        self.text.push('\n');
        self.line += 1;
    }

    fn value(&mut self, value: &Value, indent: usize, path: &str) {
        match value {
            Value::Object(map) if !map.is_empty() => {
                for (index, (key, value)) in map.iter().enumerate() {
                    let pad = if index == 0 { 0 } else { indent };
                    let step = path_of(path, key);
                    self.lines.push((step.clone(), self.line));
                    let _ = write!(self.text, "{:pad$}{}:", "", json!(key));
                    self.inner(value, indent + 2, &step);
                }
            }
            Value::Array(list) if !list.is_empty() => {
                for (index, value) in list.iter().enumerate() {
                    let pad = if index == 0 { 0 } else { indent };
                    let step = format!("{path}[{index}]");
                    self.lines.push((step.clone(), self.line));
                    let _ = write!(self.text, "{:pad$}- ", "");
                    self.value(value, indent + 2, &step);
                }
            }
            scalar => {
                self.text += &scalar.to_string();
                self.end_line();
            }
        }
    }

    /// What stands behind a key: on a line of its own if it is a list or map, with a comment now and then.
    fn inner(&mut self, value: &Value, indent: usize, path: &str) {
        let block = match value {
            Value::Object(map) => !map.is_empty(),
            Value::Array(list) => !list.is_empty(),
            _ => false,
        };
        if block {
            if path.len().is_multiple_of(3) {
                self.text += " # a remark: with a colon";
                self.end_line();
                self.text += "# and a line of its own";
            }
            self.end_line();
            let _ = write!(self.text, "{:indent$}", "");
        } else {
            self.text.push(' ');
        }
        self.value(value, indent, path);
    }
}

fn path_of(path: &str, key: &str) -> String {
    let plain = !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_alphanumeric());
    match (path.is_empty(), plain) {
        (true, true) => key.to_owned(),
        (false, true) => format!("{path}.{key}"),
        (_, false) => format!("{path}[\"{key}\"]"),
    }
}

fn value() -> impl Strategy<Value = Value> {
    let text =
        prop_oneof!["[a-z]{0,6}", Just("yes".to_owned()), Just("# no".to_owned()), Just("1.20".to_owned())];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i32>().prop_map(Value::from),
        text.prop_map(Value::from),
        Just(json!([])),
        Just(json!({})),
    ];
    let key = prop_oneof![4 => "[a-z]{1,4}", 1 => Just("a.b/c-d".to_owned()), 1 => Just("on".to_owned())];
    leaf.prop_recursive(5, 40, 4, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map(key.clone(), inner, 0..4).prop_map(|map| json!(map)),
        ]
    })
}

proptest! {
    #[test]
    fn what_is_written_is_read_and_found(values in prop::collection::vec(value(), 1..4)) {
        let mut writer = Writer { line: 1, ..Writer::default() };
        let mut expected: Vec<(Value, Vec<(String, u32)>)> = Vec::new();
        for value in values {
            writer.text += "---";
            writer.end_line();
            writer.value(&value, 0, "");
            let lines = std::mem::take(&mut writer.lines);
            if !value.is_null() {
                expected.push((value, lines));
            }
        }
        let documents = parse(&writer.text).unwrap();
        prop_assert_eq!(documents.len(), expected.len());
        for (document, (value, lines)) in documents.iter().zip(&expected) {
            prop_assert_eq!(&document.value, value, "{}", writer.text);
            for (path, line) in lines {
                prop_assert_eq!(document.lines.at(path), Some(*line), "{} in\n{}", path, writer.text);
            }
        }
    }

    #[test]
    fn any_path_may_be_asked_for(path in "[a-z.\\[\\]\"0-9]{0,20}") {
        let lines = parse("a: {b: [1, {c: 2}]}").unwrap().remove(0).lines;
        prop_assert_eq!(lines.at(&path), Some(1));
        prop_assert_eq!(LineMap::default().at(&path), None);
    }
}
