//! `status`: what is wrong first, then one line for each part.

use std::collections::BTreeMap;
use std::fmt::{Display, Write};

use countersign_agent_api::{
    Authentication, ClusterSource, Datapath, EncryptSummary, Health, HealthState, IdentitySource, Parking,
    PolicyMode, SourceState, Status,
};

use super::escape::Safe;
use super::paint::Paint;
use super::units::{bytes, count, millis, seconds, until};
use crate::limits::MAX_SHOWN;

/// Everything about one node.
#[must_use]
pub fn text(status: &Status, now: u64, paint: Paint) -> String {
    let mut lines = Lines::default();
    lines.add("Node", format!("{} (agent {})", Safe(&status.node), Safe(&status.version)));
    health(&mut lines, &status.health, paint);
    lines.add("Uptime", seconds(status.uptime_seconds));
    identity(&mut lines, &status.identity_source, now, paint);
    cluster(&mut lines, &status.cluster, paint);
    let refused = status.policies.refused;
    let refused = if refused > 0 { paint.bad(format!("{refused} refused")) } else { "0 refused".into() };
    lines.add("Policies", format!("{} in force, {refused}", status.policies.accepted));
    policy_mode(&mut lines, &status.policy_mode, paint);
    lines.add("Endpoints", by(&status.endpoints, "none"));
    datapath(&mut lines, &status.datapath);
    authentication(&mut lines, &status.authentication);
    parking(&mut lines, &status.parking, paint);
    encryption(&mut lines, &status.encryption, paint);
    if status.events_lost.values().any(|n| *n > 0) {
        lines.add("Flow events lost", paint.warn(by(&status.events_lost, "none")));
    }
    lines.0
}

/// Aligned `Label:   value` lines.
#[derive(Default)]
struct Lines(String);

impl Lines {
    fn add(&mut self, label: &str, value: impl Display) {
        let label = if label.is_empty() { String::new() } else { format!("{label}:") };
        // Writing into a string does not fail.
        let _ = writeln!(self.0, "{label:<18}{value}");
    }
}

/// `3 ready, 1 regenerating`.
fn by<K: Display, V: Copy + Into<u64>>(counts: &BTreeMap<K, V>, none: &str) -> String {
    let parts: Vec<_> = counts
        .iter()
        .map(|(key, n)| (key.to_string(), (*n).into()))
        .filter(|(_, n)| *n > 0)
        .map(|(key, n)| format!("{n} {}", Safe(&key)))
        .collect();
    if parts.is_empty() { none.into() } else { parts.join(", ") }
}

fn health(lines: &mut Lines, health: &Health, paint: Paint) {
    let state = match health.state {
        HealthState::Ok => paint.good("OK"),
        HealthState::Degraded => paint.bad("Degraded"),
    };
    lines.add("Status", state);
    for reason in health.reasons.iter().take(MAX_SHOWN) {
        lines.add("", format!("- {}", paint.bad(Safe(reason))));
    }
    if health.reasons.len() > MAX_SHOWN {
        lines.add("", format!("- and {} more: see -o json", health.reasons.len() - MAX_SHOWN));
    }
}

fn identity(lines: &mut Lines, source: &IdentitySource, now: u64, paint: Paint) {
    let how_long = seconds(now.saturating_sub(source.since));
    let state = match source.state {
        SourceState::Ok => paint.good(format!("ok for {how_long}")),
        SourceState::Failing => paint.bad(format!("failing for {how_long}")),
    };
    lines.add("Identity source", format!("{}, {state}", Safe(&source.kind)));
    lines.add("", format!("trust domain {}", Safe(&source.trust_domain)));
    let next = source.next_expiry.map_or(String::new(), |at| match at.checked_sub(now) {
        Some(_) => format!(", the first expires in {}", until(at, now)),
        None => format!(", {}", paint.bad(format!("the first {}", until(at, now)))),
    });
    lines.add("", format!("{} held{next}", count(source.svids_held, "SVID")));
    if let Some(error) = &source.last_error {
        let ago = seconds(error.ago_seconds);
        lines.add("", format!("last error {ago} ago: {}: {}", Safe(&error.kind), Safe(&error.message)));
    }
}

fn cluster(lines: &mut Lines, cluster: &ClusterSource, paint: Paint) {
    let synced = if cluster.synced { paint.good("synced") } else { paint.bad("not synced yet") };
    lines.add("Cluster", format!("{} {}, {synced}", Safe(&cluster.kind), Safe(&cluster.location)));
    lines.add("", by(&cluster.objects, "no objects"));
    for problem in cluster.problems.iter().take(MAX_SHOWN) {
        let line = if problem.line > 0 { format!(":{}", problem.line) } else { String::new() };
        let field =
            if problem.field.is_empty() { String::new() } else { format!(" {}:", Safe(&problem.field)) };
        let file = Safe(&problem.file);
        lines.add("", format!("- {}", paint.bad(format!("{file}{line}:{field} {}", Safe(&problem.message)))));
    }
    if cluster.problems.len() > MAX_SHOWN {
        lines.add("", format!("- and {} more: see -o json", cluster.problems.len() - MAX_SHOWN));
    }
}

/// What is not enforced must not be overlooked.
fn policy_mode(lines: &mut Lines, mode: &PolicyMode, paint: Paint) {
    match mode.enforcement.as_str() {
        "never" => lines.add("", paint.bad("enforcement never: no policy drops anything")),
        "" | "default" => {}
        other => lines.add("", format!("enforcement {}", Safe(other))),
    }
    if mode.audit_all {
        lines.add("", paint.bad("AUDIT MODE: policies drop nothing on this node"));
    }
    let lists = [
        ("at these endpoints policies drop nothing", &mode.audited_endpoints),
        ("policies of these namespaces drop nothing", &mode.audited_namespaces),
        ("these policies drop nothing", &mode.audited_policies),
    ];
    for (what, names) in lists.into_iter().filter(|(_, names)| !names.is_empty()) {
        let shown: Vec<String> = names.iter().take(MAX_SHOWN).map(|name| Safe(name).to_string()).collect();
        let more = names.len().saturating_sub(MAX_SHOWN);
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        lines.add("", paint.warn(format!("audit mode: {what}: {}{more}", shown.join(", "))));
    }
}

fn datapath(lines: &mut Lines, datapath: &Datapath) {
    let programs = count(datapath.programs, "program");
    lines.add("Datapath", format!("{programs} attached with {}", Safe(&datapath.attach_mode)));
    for map in &datapath.maps {
        let used = match map.entries {
            Some(entries) if map.max_entries > 0 => {
                let percent = entries as f64 * 100.0 / map.max_entries as f64;
                format!("{entries} of {} entries ({percent:.1} %)", map.max_entries)
            }
            _ => format!("room for {} entries", map.max_entries),
        };
        lines.add("", format!("{:<16} {used}", Safe(&map.name)));
    }
}

fn authentication(lines: &mut Lines, auth: &Authentication) {
    let total: u64 = auth.pairs.values().sum();
    let states = if total == 0 { String::new() } else { format!(": {}", by(&auth.pairs, "")) };
    lines.add("Authentication", format!("{}{states}", count(total, "pair")));
    let failed: u64 = auth.handshakes_failed.values().sum();
    let kinds = if failed == 0 { String::new() } else { format!(" ({})", by(&auth.handshakes_failed, "")) };
    lines.add(
        "",
        format!(
            "handshakes: {} ok, {failed} failed{kinds}, {} under way",
            auth.handshakes_ok, auth.in_flight
        ),
    );
    if let (Some(p50), Some(p99)) = (auth.latency_p50_ms, auth.latency_p99_ms) {
        lines.add("", format!("handshake time: p50 {}, p99 {}", millis(p50), millis(p99)));
    }
}

fn parking(lines: &mut Lines, parking: &Parking, paint: Paint) {
    let state = if parking.enabled {
        paint.good("on")
    } else {
        paint.warn("off: first packets of a pair are dropped until it is authenticated")
    };
    lines.add("Parking", state);
    let held = format!("{} ({})", count(parking.parked_packets, "packet"), bytes(parking.parked_bytes));
    lines.add("", format!("now {held}, released {}", count(parking.released, "packet")));
    if parking.discarded.values().any(|n| *n > 0) {
        lines.add("", format!("discarded: {}", by(&parking.discarded, "none")));
    }
}

fn encryption(lines: &mut Lines, encryption: &EncryptSummary, paint: Paint) {
    if encryption.mode.is_empty() || encryption.mode == "Disabled" {
        lines.add("Encryption", paint.bad("Disabled"));
        return;
    }
    lines.add(
        "Encryption",
        format!(
            "{} [{} (Pubkey: {}, Port: {}, Peers: {})]",
            Safe(&encryption.mode),
            Safe(&encryption.device),
            Safe(&encryption.public_key),
            encryption.listen_port,
            encryption.peers
        ),
    );
    lines.add("", format!("leaks prevented: {}", count(encryption.leaks_prevented, "packet")));
}
