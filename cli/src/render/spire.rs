//! `spire status`, `svid list`, `svid show`.

use std::fmt::Write;

use countersign_agent_api::{RegistrarEntry, RegistrarTurn, SpireStatus, SvidEntry};

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
        match (domain.lives_until, domain.expired) {
            (None, _) => line("  Expired:", &paint.bad("every authority: nobody of it is believed")),
            (Some(_), 0) => {}
            (Some(_), expired) => {
                let of = format!("{expired} of {}; they vouch for nobody", domain.authorities);
                line("  Expired:", &paint.bad(of));
            }
        }
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
    if let Some(registrar) = &status.registrar {
        text.push_str(&self::registrar(registrar, now, paint));
    }
    text
}

/// Longer than a registrar that is well is silent: it looks at everything about once a minute.
const SILENT: u64 = 180;

/// What the registrar says of itself, for people.
fn registrar(registrar: &RegistrarEntry, now: u64, paint: Paint) -> String {
    let mut text = String::new();
    let mut line = |label: &str, value: &str| {
        // Writing into a string does not fail.
        let _ = writeln!(text, "{label:<20}{value}");
    };
    if let Some(why) = &registrar.unreadable {
        line("Registrar:", &paint.bad(format!("{}: {}", Safe(&registrar.file), Safe(why))));
        return text;
    }
    let (cluster, server) = (Safe(&registrar.cluster), Safe(&registrar.server));
    line("Registrar:", &format!("cluster {cluster}, server {server}"));
    if let Some(turn) = &registrar.turn {
        line("  Leader:", &leader(turn, now, paint));
    }
    let elsewhere = match registrar.elsewhere {
        0 => String::new(),
        count => format!(", {count} of them done by others' entries"),
    };
    let in_step =
        registrar.in_step.map_or("never in step".to_owned(), |at| format!("in step {}", since(at, now)));
    if waits(registrar) {
        line("Entries:", "the leader's to write");
    } else {
        let (managed, desired) = (registrar.managed, registrar.desired);
        line("Entries:", &format!("{managed} of {desired} wanted{elsewhere}; {in_step}"));
    }
    if registrar.waiting > 0 {
        let pods = super::units::count(registrar.waiting, "pod");
        line("  Waiting:", &format!("{pods} of which something is not known yet"));
    }
    if registrar.failed > 0 {
        line("  Failed:", &paint.bad(registrar.failed.to_string()));
    }
    for error in &registrar.errors {
        line("  Entry:", &paint.bad(format!("{}: {}", Safe(&error.about), Safe(&error.message))));
    }
    if let Some(down) = registrar.server_down_since {
        line("  Server:", &paint.bad(format!("away, {}", since(down, now))));
    }
    if let Some(error) = &registrar.last_error {
        line("  Last error:", &Safe(error).to_string());
    }
    if is_silent(registrar, now) {
        line("  Silent:", &paint.bad(format!("it wrote last {}", since(registrar.written, now))));
    }
    text
}

/// Whether it waits for its turn, and knows of no entries.
fn waits(registrar: &RegistrarEntry) -> bool {
    registrar.turn.as_ref().is_some_and(|turn| !turn.leads)
}

fn leader(turn: &RegistrarTurn, now: u64, paint: Paint) -> String {
    let lease = Safe(&turn.lease);
    match &turn.leader {
        _ if turn.leads => format!("this one, {}, by Lease {lease}", Safe(&turn.identity)),
        Some(leader) => format!("{}, by Lease {lease}, seen {}", Safe(leader), since(turn.seen, now)),
        None => paint.bad(format!("nobody, by Lease {lease}")),
    }
}

fn is_silent(registrar: &RegistrarEntry, now: u64) -> bool {
    now.saturating_sub(registrar.written) > SILENT
}

/// Whether everything is as it should be on that node and at the registrar.
#[must_use]
pub fn is_well(status: &SpireStatus, now: u64) -> bool {
    let bundles = status.trust_domains.iter().all(|domain| !domain.own || domain.lives_until.is_some());
    let entries = status.registrar.as_ref().is_none_or(|registrar| {
        registrar.unreadable.is_none()
            && registrar.failed == 0
            && registrar.server_down_since.is_none()
            && registrar.turn.as_ref().is_none_or(|turn| turn.leads || turn.leader.is_some())
            && !is_silent(registrar, now)
    });
    let svids = status.down_since.is_none() && status.missing.is_empty() && status.renewals_overdue == 0;
    bundles && entries && svids
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
    fn a_registrar_that_is_not_well_is_said() {
        let good = RegistrarEntry {
            cluster: "east".into(),
            written: 1_950,
            managed: 3,
            desired: 3,
            in_step: Some(1_940),
            ..RegistrarEntry::default()
        };
        let check = |registrar: &RegistrarEntry| {
            let status = SpireStatus { registrar: Some(registrar.clone()), ..SpireStatus::default() };
            (is_well(&status, 2_000), self::status(&status, 2_000, Paint::new(false)))
        };
        let (well, text) = check(&good);
        assert!(well && text.contains("3 of 3 wanted; in step 1m ago"), "{text}");
        let entry =
            |about: &str| countersign_agent_api::EntryTrouble { about: about.into(), message: "no".into() };
        let bad = [
            (RegistrarEntry { failed: 1, errors: vec![entry("shop/web")], ..good.clone() }, "shop/web: no"),
            (RegistrarEntry { server_down_since: Some(1_000), ..good.clone() }, "away"),
            (RegistrarEntry { written: 1_000, ..good.clone() }, "it wrote last 16m"),
            (RegistrarEntry { unreadable: Some("damaged".into()), ..good }, "damaged"),
        ];
        for (registrar, expected) in bad {
            let (well, text) = check(&registrar);
            assert!(!well && text.contains(expected), "{expected}: {text}");
        }
    }

    #[test]
    fn who_leads_is_said() {
        let turn = |leads, leader: Option<&str>| RegistrarTurn {
            lease: "countersign/registrar".into(),
            identity: "one".into(),
            leader: leader.map(str::to_owned),
            leads,
            seen: 1_990,
        };
        let cases = [
            (turn(true, Some("one")), true, "this one, one, by Lease countersign/registrar"),
            (turn(false, Some("two")), true, "two, by Lease countersign/registrar, seen 10s ago"),
            (turn(false, None), false, "nobody, by Lease"),
        ];
        for (turn, good, expected) in cases {
            let leads = turn.leads;
            let registrar = RegistrarEntry { written: 1_990, turn: Some(turn), ..RegistrarEntry::default() };
            let status = SpireStatus { registrar: Some(registrar), ..SpireStatus::default() };
            let text = self::status(&status, 2_000, Paint::new(false));
            assert!(text.contains(expected) && text.contains("0 of 0 wanted") == leads, "{text}");
            assert_eq!(is_well(&status, 2_000), good, "{text}");
        }
    }

    #[test]
    fn expired_roots_are_said() {
        let domain = |expired, lives_until| countersign_agent_api::TrustDomainEntry {
            name: "lab".into(),
            own: true,
            authorities: 2,
            expired,
            lives_until,
        };
        for (expired, lives, well, expected) in [
            (0, Some(9), true, ""),
            (1, Some(9), true, "1 of 2"),
            (2, None, false, "nobody of it is believed"),
        ] {
            let status =
                SpireStatus { trust_domains: vec![domain(expired, lives)], ..SpireStatus::default() };
            let text = self::status(&status, 5, Paint::new(false));
            assert_eq!(is_well(&status, 5), well, "{text}");
            assert!(text.contains(expected) && text.contains("Expired") != expected.is_empty(), "{text}");
        }
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
