//! `policy verdicts -o table`.

use serde_json::Value;

use super::paint::{Paint, Tone};
use super::table::{Field, Table, field, toned};

/// An empty table.
#[must_use]
pub fn table(paint: Paint) -> Table {
    Table::new(&["FROM", "TO", "PORT/PROTO", "EGRESS", "INGRESS", "VERDICT", "AUTH", "RULES"], paint)
}

/// The row of one decided flow.
#[must_use]
pub fn row(flow: &Value) -> Vec<Field> {
    let text = |key: &str| flow.get(key).and_then(Value::as_str).unwrap_or_default();
    let port = flow.get("port").and_then(Value::as_u64).unwrap_or_default();
    let protocol = match text("protocol") {
        "" => "TCP",
        protocol => protocol,
    };
    let outcome = |key: &str| match text(key) {
        "denied" => toned(Tone::Bad, "denied"),
        "allowed" => toned(Tone::Good, "allowed"),
        other => field(other),
    };
    let last = match text("error") {
        "" => field(rules(flow)),
        error => toned(Tone::Bad, error),
    };
    vec![
        field(text("from")),
        field(text("to")),
        field(format!("{port}/{protocol}")),
        outcome("egress"),
        outcome("ingress"),
        outcome("verdict"),
        field(text("auth")),
        last,
    ]
}

fn rules(flow: &Value) -> String {
    let rules = flow.get("rules").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let name = |rule: &Value| {
        let text = |key: &str| rule.get(key).and_then(Value::as_str).unwrap_or_default();
        let namespace = text("namespace");
        let scope = if namespace.is_empty() { String::new() } else { format!("{namespace}/") };
        let line = rule.get("line").and_then(Value::as_u64).map_or(String::new(), |line| format!(":{line}"));
        format!("{scope}{}{line}", text("name"))
    };
    rules.iter().map(name).collect::<Vec<_>>().join(", ")
}
