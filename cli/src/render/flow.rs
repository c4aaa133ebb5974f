//! `observe`: a line for each flow.
//!
//! `Nov 21 10:16:55.221: default/a:58964 (ID:4711) <> default/b:8080 (ID:815) Policy denied DROPPED (TCP Flags: SYN)`

use std::fmt::Write;
use std::net::IpAddr;

use countersign_agent_api::{Flow, FlowEndpoint, FlowEvent};

use super::escape::Safe;
use super::paint::{Paint, Tone};

/// The line of an event, its newline included.
#[must_use]
pub fn line(event: &FlowEvent, node: Option<&str>, wide: bool, paint: Paint) -> String {
    match event {
        FlowEvent::Flow(flow) => flow_line(flow, node.is_some(), wide, paint),
        FlowEvent::Lost { source, count } => {
            let node = node.map_or(String::new(), |node| format!(" [{}]", Safe(node)));
            paint.bad(format!("EVENTS LOST:{node} {count} ({})", Safe(source))) + "\n"
        }
    }
}

fn flow_line(flow: &Flow, named: bool, wide: bool, paint: Paint) -> String {
    let time = if wide { Safe(&flow.time).to_string() } else { short_time(&flow.time) };
    let node = if named || wide { format!(" [{}]", Safe(&flow.node)) } else { String::new() };
    let (source, destination) = (&flow.source, &flow.destination);
    let mut line = format!(
        "{}{node}: {} {} {} {}",
        paint.tone(Tone::Dim, time),
        side(source, flow.l4.source_port),
        if matches!(flow.verdict.as_str(), "FORWARDED" | "AUDIT") { "->" } else { "<>" },
        side(destination, flow.l4.destination_port),
        what(flow, paint),
    );
    if let Some(details) = details(flow) {
        let _ = write!(line, " ({details})");
    }
    if let Some(policies) = policies(flow) {
        let _ = write!(line, " BY {policies}");
    }
    if wide {
        let labels = |side: &FlowEndpoint| Safe(&side.labels.join(",")).to_string();
        let _ = write!(line, " [{}] [{}]", labels(source), labels(destination));
    }
    line.push('\n');
    line
}

/// `Nov 21 10:16:55.221`, in UTC as everything here; what is no RFC 3339 time is shown as it is.
fn short_time(time: &str) -> String {
    const MONTHS: [&str; 12] =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let parts = || {
        let month: usize = time.get(5..7)?.parse().ok()?;
        let clock =
            time.get(11..23).filter(|clock| clock.bytes().all(|b| b.is_ascii_digit() || b".:".contains(&b)));
        let day = time.get(8..10).filter(|day| day.bytes().all(|b| b.is_ascii_digit()));
        Some((MONTHS.get(month.checked_sub(1)?)?, day?, clock?))
    };
    match parts() {
        Some((month, day, clock)) => format!("{month} {day} {clock}"),
        None => Safe(time).to_string(),
    }
}

/// `namespace/pod:port (ID:n)`, or the address where there is no pod, or the reserved identity's name.
fn side(side: &FlowEndpoint, port: Option<u16>) -> String {
    let name = match (side.pod.as_str(), side.ip) {
        ("", Some(IpAddr::V6(ip))) if port.is_some() => format!("[{ip}]"),
        ("", Some(ip)) => ip.to_string(),
        ("", None) => "?".into(),
        (pod, _) => format!("{}/{}", Safe(&side.namespace), Safe(pod)),
    };
    let port = port.map_or(String::new(), |port| format!(":{port}"));
    match reserved(side.identity) {
        Some(name_of_identity) => format!("{name}{port} ({name_of_identity})"),
        None => format!("{name}{port} (ID:{})", side.identity),
    }
}

fn reserved(identity: u32) -> Option<&'static str> {
    const NAMES: [&str; 9] = [
        "unknown",
        "host",
        "world",
        "unmanaged",
        "health",
        "init",
        "remote-node",
        "kube-apiserver",
        "ingress",
    ];
    NAMES.get(usize::try_from(identity).ok()?).copied()
}

/// What happened: `policy-verdict INGRESS ALLOWED`, `Authentication required DROPPED`, `parked …`.
fn what(flow: &Flow, paint: Paint) -> String {
    let direction =
        if flow.direction.is_empty() { String::new() } else { format!("{} ", Safe(&flow.direction)) };
    match flow.verdict.as_str() {
        "FORWARDED" => format!("{} {direction}{}", Safe(&flow.event_type), paint.good("ALLOWED")),
        "DROPPED" => {
            let reason = [&flow.drop_text, &flow.drop_reason_desc, &flow.event_type];
            let reason = reason.into_iter().find(|text| !text.is_empty()).map_or("", String::as_str);
            format!("{} {direction}{}", Safe(reason), paint.bad("DROPPED"))
        }
        "AUDIT" => {
            let would = Safe(&flow.drop_text);
            let audited = paint.warn("AUDITED");
            format!("{} {direction}{audited}, would be dropped: {would}", Safe(&flow.event_type))
        }
        "REDIRECTED" => format!("{} {direction}{}", Safe(&flow.event_type), paint.warn("PARKED")),
        other => format!("{} {direction}{}", Safe(&flow.event_type), paint.warn(Safe(other))),
    }
}

fn details(flow: &Flow) -> Option<String> {
    let mut parts = Vec::new();
    if !flow.summary.is_empty() {
        parts.push(Safe(&flow.summary).to_string());
    }
    if !flow.auth_type.is_empty() {
        parts.push(format!("Auth: {}", Safe(&flow.auth_type)));
    }
    if !flow.policy_log.is_empty() {
        parts.push(format!("Log: {}", Safe(&flow.policy_log)));
    }
    if flow.suppressed > 0 {
        parts.push(format!("and {} more like it", flow.suppressed));
    }
    if flow.suppressed_other > 0 {
        parts.push(format!("{} of other flows not shown", flow.suppressed_other));
    }
    (!parts.is_empty()).then(|| parts.join("; "))
}

fn policies(flow: &Flow) -> Option<String> {
    let name = |policy: &countersign_agent_api::FlowPolicy| {
        let scope =
            if policy.namespace.is_empty() { String::new() } else { format!("{}/", Safe(&policy.namespace)) };
        format!("{scope}{} ({})", Safe(&policy.name), Safe(&policy.kind))
    };
    let names: Vec<_> = flow.policies.iter().map(name).collect();
    (!names.is_empty()).then(|| names.join(", "))
}
