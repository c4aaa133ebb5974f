//! `policy get`.

use countersign_agent_api::{PolicyDocument, PolicyEntry, PolicyView};

use super::escape::Safe;
use super::paint::{Paint, Tone};
use super::table::{Field, Table, field, maybe, toned};
use crate::ask::OnNode;

/// Documents, and where it may be wide, the entries made of them.
#[must_use]
pub fn text(views: &[OnNode<PolicyView>], named: bool, wide: bool, paint: Paint) -> String {
    let mut text = documents(views, named, paint);
    if wide {
        text.push('\n');
        text.push_str(&entries(views, named, paint));
        let omitted: u64 = views.iter().map(|view| view.value.entries_omitted).sum();
        if omitted > 0 {
            text.push_str(&format!("… and {omitted} more entries.\n"));
        }
    }
    text
}

fn documents(views: &[OnNode<PolicyView>], named: bool, paint: Paint) -> String {
    let mut headers = if named { vec!["NODE"] } else { vec![] };
    headers.extend(["KIND", "NAMESPACE", "NAME", "RULES", "ENDPOINTS", "AUTH", "STATUS"]);
    let mut table = Table::new(&headers, paint);
    for OnNode { node, value } in views {
        for one in &value.documents {
            let mut row: Vec<Field> = if named { vec![maybe(node.as_ref())] } else { vec![] };
            row.extend(document(one));
            table.row(row);
        }
    }
    let mut text = table.render("No policies: everything is allowed.");
    text.push_str(&conditions(views, paint));
    text
}

/// What authors should know of policies in force, a line each.
fn conditions(views: &[OnNode<PolicyView>], paint: Paint) -> String {
    let mut known = std::collections::BTreeSet::new();
    let mut text = String::new();
    for one in views.iter().flat_map(|view| &view.value.documents) {
        for condition in &one.conditions {
            let name =
                if one.namespace.is_empty() { &one.name } else { &format!("{}/{}", one.namespace, one.name) };
            let line = if condition.line > 0 { format!(":{}", condition.line) } else { String::new() };
            let path = if condition.path.is_empty() { String::new() } else { format!(" {}", condition.path) };
            let said = Safe(&format!("{} {name}{line}{path}: {}", one.kind, condition.message)).to_string();
            if known.insert(said.clone()) {
                let tone = if condition.denied { paint.bad("denied") } else { paint.warn("note") };
                text.push_str(&format!("{tone}  {said}\n"));
            }
        }
    }
    if text.is_empty() { text } else { format!("\n{text}") }
}

fn document(one: &PolicyDocument) -> [Field; 7] {
    let status = match &one.refused {
        None if one.not_applied > 0 => {
            toned(Tone::Bad, format!("not in force at {} of them: no room", one.not_applied))
        }
        None if one.mode == "audit" => toned(Tone::Warn, "audit: drops nothing"),
        None if one.conditions.iter().any(|condition| condition.denied) => {
            toned(Tone::Warn, "in force, in part denied")
        }
        None => toned(Tone::Good, "in force"),
        Some(why) => toned(Tone::Bad, format!("refused: {why}")),
    };
    [
        field(&one.kind),
        field(&one.namespace),
        field(&one.name),
        field(one.rules),
        field(one.endpoints),
        field(if one.auth_required { "required" } else { "" }),
        status,
    ]
}

fn entries(views: &[OnNode<PolicyView>], named: bool, paint: Paint) -> String {
    let mut headers = if named { vec!["NODE"] } else { vec![] };
    headers.extend(["ENDPOINT", "POD", "DIRECTION", "IDENTITY", "PORT/PROTO", "VERDICT", "AUTH", "RULES"]);
    let mut table = Table::new(&headers, paint);
    for OnNode { node, value } in views {
        for one in &value.entries {
            let mut row: Vec<Field> = if named { vec![maybe(node.as_ref())] } else { vec![] };
            row.extend(entry(one));
            table.row(row);
        }
    }
    table.render("No entries.")
}

fn entry(one: &PolicyEntry) -> [Field; 8] {
    let port = match (one.port, one.port_end) {
        (0, 0) => one.protocol.clone(),
        (port, end) if end <= port => format!("{port}/{}", one.protocol),
        (port, end) => format!("{port}-{end}/{}", one.protocol),
    };
    let tone = if one.verdict == "deny" { Tone::Bad } else { Tone::Plain };
    [
        field(one.endpoint),
        field(&one.pod),
        field(&one.direction),
        if one.identity == 0 { field("any") } else { field(one.identity) },
        field(port),
        toned(tone, &one.verdict),
        field(&one.auth),
        field(one.rules.join(", ")),
    ]
}
