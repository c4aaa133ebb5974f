//! JSON values to YAML text, the way `kubectl -o yaml` writes them: block style, keys in order.

use std::fmt::Write;

use serde_json::Value;

/// The document that reads back as `value`.
#[must_use]
pub fn to_yaml(value: &Value) -> String {
    let mut out = String::new();
    block(&mut out, value, 0);
    out
}

/// Writes a map or list whose lines start at `indent`, or a scalar.
fn block(out: &mut String, value: &Value, indent: usize) {
    match value {
        Value::Object(map) if !map.is_empty() => {
            for (key, value) in map {
                let _ = write!(out, "{:indent$}{}:", "", scalar(key));
                after_marker(out, value, indent + 2);
            }
        }
        Value::Array(items) if !items.is_empty() => {
            for item in items {
                let _ = write!(out, "{:indent$}- ", "");
                // The first line of what is nested stands beside the dash.
                let mut nested = String::new();
                block(&mut nested, item, indent + 2);
                out.push_str(nested.trim_start_matches(' '));
            }
        }
        _ => inline(out, value),
    }
}

/// Writes what follows `key:`.
fn after_marker(out: &mut String, value: &Value, indent: usize) {
    let nested = match value {
        Value::Object(map) => !map.is_empty(),
        Value::Array(items) => !items.is_empty(),
        _ => false,
    };
    out.push(if nested { '\n' } else { ' ' });
    if nested {
        block(out, value, indent);
    } else {
        inline(out, value);
    }
}

/// Scalars and empty collections are written as JSON, which YAML contains.
fn inline(out: &mut String, value: &Value) {
    match value {
        Value::String(text) => out.push_str(&scalar(text)),
        other => out.push_str(&other.to_string()),
    }
    out.push('\n');
}

/// Without quotes where no YAML dialect could take the text for anything else.
fn scalar(text: &str) -> String {
    const NOT_STRINGS: [&str; 8] = ["true", "false", "yes", "no", "on", "off", "null", "y"];
    let starts = text.bytes().next().is_some_and(|b| b.is_ascii_alphabetic());
    let plain = text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b'/'));
    let word = text.to_ascii_lowercase();
    if starts && plain && word != "n" && !NOT_STRINGS.contains(&word.as_str()) {
        return text.to_owned();
    }
    Value::from(text).to_string()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_written_reads_back() {
        let value = json!({
            "apiVersion": "v1",
            "metadata": {"name": "a-b", "labels": {"app.kubernetes.io/name": "x", "on": "yes", "n": "1"}},
            "list": [1, "two", {"three": [], "four": {}}, [["deep"]], null, true, 1.5],
            "odd": ["", " ", "# no", "a: b", "- c", "\"q\"", "line\nline", "ünï", "0x10", "1e3", "~", "null"],
        });
        let text = to_yaml(&value);
        let read = countersign_policy::yaml::parse(&text).unwrap();
        assert_eq!(read.len(), 1);
        assert_eq!(read[0].value, value, "{text}");
    }
}
