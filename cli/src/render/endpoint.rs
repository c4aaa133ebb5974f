//! `endpoint list`, `identity list`, `ipcache list`.

use countersign_agent_api::{EndpointEntry, IdentityEntry, IpcacheEntry};

use super::paint::{Paint, Tone};
use super::table::{Field, Table, field, maybe, toned};
use super::units::until;
use crate::ask::OnNode;

/// The endpoints as a table.
#[must_use]
pub fn endpoints(
    entries: &[OnNode<EndpointEntry>],
    named: bool,
    wide: bool,
    now: u64,
    paint: Paint,
) -> String {
    let mut headers = if named { vec!["NODE"] } else { vec![] };
    headers.extend([
        "ENDPOINT", "POD", "IDENTITY", "INGRESS", "EGRESS", "AUTH", "IPV4", "IPV6", "STATE", "SVID",
    ]);
    if wide {
        headers.extend(["INTERFACE", "MAC", "LABELS"]);
    }
    let mut table = Table::new(&headers, paint);
    for OnNode { node, value } in entries {
        let mut row: Vec<Field> = if named { vec![maybe(node.as_ref())] } else { vec![] };
        row.extend(endpoint(value, now));
        if wide {
            row.extend([field(&value.interface), field(&value.mac), field(value.labels.join(","))]);
        }
        table.row(row);
    }
    table.render("No endpoints.")
}

fn endpoint(entry: &EndpointEntry, now: u64) -> [Field; 10] {
    let enforced = |on, audited| match (on, audited) {
        (true, _) => field("Enabled"),
        (false, true) => toned(Tone::Warn, "Audit"),
        (false, false) => field("Disabled"),
    };
    [
        field(entry.id),
        field(format!("{}/{}", entry.namespace, entry.pod)),
        field(entry.identity),
        enforced(entry.ingress_enforced, entry.ingress_audited),
        enforced(entry.egress_enforced, entry.egress_audited),
        field(if entry.auth_required { "required" } else { "" }),
        maybe(entry.ipv4),
        maybe(entry.ipv6),
        match (entry.state.as_str(), entry.mode.as_str()) {
            (state, "audit") => toned(Tone::Warn, format!("{state}, audit mode")),
            ("ready", _) => toned(Tone::Good, "ready"),
            (state, _) => toned(Tone::Warn, state),
        },
        svid(entry, now),
    ]
}

fn svid(entry: &EndpointEntry, now: u64) -> Field {
    match (entry.svid_expiry, &entry.svid_error) {
        (Some(expiry), _) if expiry < now => toned(Tone::Bad, until(expiry, now)),
        (Some(expiry), _) => field(format!("expires in {}", until(expiry, now))),
        (None, Some(error)) => toned(Tone::Bad, error),
        (None, None) => field("none"),
    }
}

/// The identities as a table.
#[must_use]
pub fn identities(entries: &[OnNode<IdentityEntry>], named: bool, now: u64, paint: Paint) -> String {
    let mut headers = if named { vec!["NODE"] } else { vec![] };
    headers.extend(["ID", "LABELS", "SPIFFE ID", "ENDPOINTS", "SVID EXPIRES IN"]);
    let mut table = Table::new(&headers, paint);
    for OnNode { node, value } in entries {
        let mut row: Vec<Field> = if named { vec![maybe(node.as_ref())] } else { vec![] };
        row.extend([
            field(value.id),
            field(value.labels.join(",")),
            field(&value.spiffe_id),
            field(value.local_endpoints),
            maybe(value.svid_expiry.map(|expiry| until(expiry, now))),
        ]);
        table.row(row);
    }
    table.render("No identities.")
}

/// The address cache as a table.
#[must_use]
pub fn ipcache(entries: &[OnNode<IpcacheEntry>], named: bool, paint: Paint) -> String {
    let mut headers = if named { vec!["NODE"] } else { vec![] };
    headers.extend(["IP PREFIX/ADDRESS", "IDENTITY", "ON NODE", "ENCRYPTED"]);
    let mut table = Table::new(&headers, paint);
    for OnNode { node, value } in entries {
        let mut row: Vec<Field> = if named { vec![maybe(node.as_ref())] } else { vec![] };
        let here = if value.local { " (this node)" } else { "" };
        row.extend([
            field(format!("{}/{}", value.address, value.prefix_len)),
            field(value.identity),
            field(format!("{}{here}", value.node)),
            field(if value.encrypted { "yes" } else { "no" }),
        ]);
        table.row(row);
    }
    table.render("No addresses.")
}
