//! `spire status`, `svid list`, `svid show`.

use std::fmt::Write;

use countersign_agent_api::{SpireStatus, SvidEntry};

use super::escape::Safe;
use super::paint::{Paint, Tone};
use super::table::{Field, Table, field, maybe, toned};
use super::units::{since, until};
use crate::ask::OnNode;

/// Where a node's SVIDs come from, for people.
#[must_use]
pub fn status(status: &SpireStatus, now: u64, paint: Paint) -> String {
    let mut text = String::new();
    let mut line = |label: &str, value: &str| {
        // Writing into a string does not fail.
        let _ = writeln!(text, "{label:<20}{value}");
    };
    line("Node:", &Safe(&status.node).to_string());
    line("SVIDs from:", &Safe(&status.kind).to_string());
    line("Trust domain:", &Safe(&status.trust_domain).to_string());
    for connection in &status.connections {
        let reach = if connection.up { paint.good("up") } else { paint.bad("away") };
        let (api, socket) = (Safe(&connection.api), Safe(&connection.socket));
        line("Connection:", &format!("{api} at {socket}: {reach}, {}", since(connection.since, now)));
        if let Some(error) = &connection.last_error {
            line("  Last error:", &Safe(error).to_string());
        }
    }
    for domain in &status.trust_domains {
        let whose = if domain.own { "own" } else { "federated" };
        let authorities =
            super::units::count(domain.authorities, "authority").replace("authoritys", "authorities");
        line("Trust bundle:", &format!("{} ({whose}, {authorities})", Safe(&domain.name)));
    }
    let next = status.svids.iter().map(|svid| svid.not_after).min();
    let next = next.map_or(String::new(), |next| format!(", the first expires in {}", until(next, now)));
    line("SVIDs held:", &format!("{}{next}", status.svids.len()));
    if status.renewals_overdue > 0 {
        let overdue = format!("{} past their time: is the SPIRE server there?", status.renewals_overdue);
        line("Renewals overdue:", &paint.bad(overdue));
    }
    for missing in &status.missing {
        let what = format!("{} ({}): {}", Safe(&missing.pod), Safe(&missing.spiffe_id), Safe(&missing.why));
        line("Without SVID:", &paint.bad(what));
    }
    text
}

/// The SVIDs of the nodes as a table.
#[must_use]
pub fn list(nodes: &[OnNode<SpireStatus>], named: bool, now: u64, paint: Paint) -> String {
    let mut headers = if named { vec!["NODE"] } else { vec![] };
    headers.extend(["IDENTITY", "SPIFFE ID", "KEY", "EXPIRES IN", "PODS"]);
    let mut table = Table::new(&headers, paint);
    for OnNode { node, value } in nodes {
        for svid in &value.svids {
            let mut row: Vec<Field> = if named { vec![maybe(node.as_ref())] } else { vec![] };
            row.extend(entry(svid, now));
            table.row(row);
        }
    }
    table.render("No SVIDs.")
}

fn entry(svid: &SvidEntry, now: u64) -> [Field; 5] {
    let expires = until(svid.not_after, now);
    let identity = if svid.identity == 0 { "node".to_owned() } else { svid.identity.to_string() };
    [
        field(identity),
        field(&svid.spiffe_id),
        field(&svid.key),
        if svid.not_after < now { toned(Tone::Bad, expires) } else { field(expires) },
        field(svid.pods.join(",")),
    ]
}

/// One SVID, for people: what it says, and its chain.
#[must_use]
pub fn show(node: &str, svid: &SvidEntry, now: u64, paint: Paint) -> String {
    let end = until(svid.not_after, now);
    let end = if svid.not_after < now { paint.bad(end) } else { format!("in {end}") };
    let mut text = format!("SPIFFE ID:  {}\nNode:       {}\n", Safe(&svid.spiffe_id), Safe(node));
    // Writing into a string does not fail.
    let _ = writeln!(text, "Pods:       {}", Safe(&svid.pods.join(", ")));
    let _ = writeln!(text, "Key:        {}", Safe(&svid.key));
    let _ = writeln!(text, "Valid:      since {}, expires {end}", since(svid.not_before, now));
    text + &svid.chain_pem.lines().map(|line| format!("{}\n", Safe(line))).collect::<String>()
}

/// Whether `what` names this SVID: `node`, an identity's number, a pod, or a SPIFFE ID.
#[must_use]
pub fn is_named(svid: &SvidEntry, what: &str) -> bool {
    let pod = if what.contains('/') { what.to_owned() } else { format!("default/{what}") };
    (svid.identity == 0 && what == "node")
        || (svid.identity != 0 && svid.identity.to_string() == what)
        || svid.spiffe_id == what
        || svid.pods.contains(&pod)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn svid() -> SvidEntry {
        SvidEntry {
            identity: 300,
            spiffe_id: "spiffe://lab/identity/300".into(),
            pods: vec!["default/web".into()],
            not_before: 1_000,
            not_after: 4_600,
            key: "ECDSA P-256".into(),
            chain_pem: "-----BEGIN CERTIFICATE-----\n\u{1b}[31m\n".into(),
        }
    }

    #[test]
    fn an_svid_is_named_in_four_ways() {
        for name in ["300", "web", "default/web", "spiffe://lab/identity/300"] {
            assert!(is_named(&svid(), name), "{name}");
        }
        for other in ["node", "0", "301", "shop/web", "spiffe://lab/identity/301"] {
            assert!(!is_named(&svid(), other), "{other}");
        }
        assert!(is_named(&SvidEntry::default(), "node"));
    }

    #[test]
    fn what_comes_from_elsewhere_is_escaped() {
        let text = show("n", &svid(), 2_000, Paint::new(false));
        assert!(!text.contains('\u{1b}') && text.contains("spiffe://lab/identity/300"), "{text}");
    }

    #[test]
    fn trouble_is_said() {
        let status = SpireStatus {
            renewals_overdue: 2,
            missing: vec![countersign_agent_api::MissingSvid {
                pod: "shop/web".into(),
                why: "no entry matches it".into(),
                ..Default::default()
            }],
            ..SpireStatus::default()
        };
        let text = self::status(&status, 2_000, Paint::new(false));
        assert!(
            text.contains("2 past their time") && text.contains("shop/web") && text.contains("no entry"),
            "{text}"
        );
    }
}
