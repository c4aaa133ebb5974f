//! `auth list`, `auth flush`.

use countersign_agent_api::{AuthEntry, AuthFlushed, AuthState};

use super::paint::{Paint, Tone};
use super::table::{Field, Table, field, maybe, toned};
use super::units::{count, millis, seconds};
use crate::ask::OnNode;

const HEADERS: [&str; 8] = [
    "LOCAL IDENTITY",
    "REMOTE IDENTITY",
    "PEER NODE",
    "TYPE",
    "STATE",
    "EXPIRES IN",
    "HANDSHAKE",
    "LAST ERROR",
];
const WIDE: [&str; 6] =
    ["PARKED", "NEXT TRY IN", "LOCAL SPIFFE ID", "REMOTE SPIFFE ID", "LOCAL LABELS", "REMOTE LABELS"];

/// The pairs as a table.
#[must_use]
pub fn table(entries: &[OnNode<AuthEntry>], named: bool, wide: bool, paint: Paint) -> String {
    let mut headers = if named { vec!["NODE"] } else { vec![] };
    headers.extend(HEADERS);
    if wide {
        headers.extend(WIDE);
    }
    let mut table = Table::new(&headers, paint);
    for OnNode { node, value } in entries {
        let mut row: Vec<Field> = if named { vec![maybe(node.as_ref())] } else { vec![] };
        row.extend(narrow(value));
        if wide {
            row.extend(more(value));
        }
        table.row(row);
    }
    table.render("No pairs: nothing that needs authentication has been tried yet.")
}

fn narrow(entry: &AuthEntry) -> [Field; HEADERS.len()] {
    let error = entry
        .last_error
        .as_ref()
        .map(|error| format!("{}: {} ({} ago)", error.kind, error.message, seconds(error.ago_seconds)));
    [
        field(entry.local_identity),
        field(entry.remote_identity),
        field(&entry.peer_node),
        field(&entry.auth_type),
        toned(tone(entry.state), entry.state),
        maybe(entry.expires_in_seconds.map(seconds)),
        maybe(entry.handshake_ms.map(millis)),
        maybe(error),
    ]
}

fn more(entry: &AuthEntry) -> [Field; WIDE.len()] {
    [
        field(count(entry.parked, "packet")),
        maybe(entry.retry_in_seconds.map(|seconds| millis(seconds * 1000.0))),
        field(&entry.local_spiffe_id),
        field(&entry.remote_spiffe_id),
        field(entry.local_labels.join(",")),
        field(entry.remote_labels.join(",")),
    ]
}

fn tone(state: AuthState) -> Tone {
    match state {
        AuthState::Authenticated | AuthState::Renewing => Tone::Good,
        AuthState::Pending | AuthState::Handshaking => Tone::Warn,
        AuthState::Failed => Tone::Bad,
    }
}

/// What a flush did.
#[must_use]
pub fn flushed(answers: &[OnNode<AuthFlushed>]) -> String {
    let line = |answer: &OnNode<AuthFlushed>| {
        let node = answer.node.as_ref().map_or(String::new(), |node| format!("{node}: "));
        let n = answer.value.removed;
        format!("{node}{n} {} removed\n", if n == 1 { "entry" } else { "entries" })
    };
    answers.iter().map(line).collect()
}
