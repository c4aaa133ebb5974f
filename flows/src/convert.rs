//! An event of the kernel becomes a flow record.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use countersign_ebpf_common::event::{Event, kind};
use countersign_ebpf_common::{addr, policy, reason};

use crate::reason::name;
use crate::record::{Direction, Endpoint, Flow, L4, PolicyName, Protocol, Verdict, Workload};

/// Who is behind what an event carries. The one who implements it shares what it hands out, event after event.
pub trait Resolve {
    /// The pod behind an address, if that has this identity now; else what the identity alone says.
    fn workload(&self, identity: u32, ip: Option<IpAddr>) -> Arc<Workload>;
    /// The policies that decided: that of its rule, or those because of which what nothing allows is dropped.
    fn policies(&self, event: &Event) -> Arc<[PolicyName]>;
    /// What a rule wants to be logged (`log.value`); empty for 0.
    fn log(&self, rule_id: u32) -> Arc<str>;
}

/// What an event does not carry.
#[derive(Clone, Debug)]
pub struct Context {
    /// This node.
    pub node: Arc<str>,
    /// Unix time less boot-clock time, in nanoseconds.
    pub boot_to_unix_ns: u64,
}

/// The record of an event.
#[must_use]
pub fn to_flow(event: &Event, context: &Context, resolver: &impl Resolve) -> Flow {
    let [source, destination] = endpoints(event, resolver);
    let verdict = verdict(event);
    // What it was dropped for, or would have been.
    let dropped = matches!(verdict, Verdict::Dropped | Verdict::Audit);
    let l4 = l4(event);
    Flow {
        time: event.time.saturating_add(context.boot_to_unix_ns),
        node: Arc::clone(&context.node),
        direction: direction(event),
        verdict,
        drop_reason: if dropped { event.reason } else { 0 },
        drop_reason_desc: if dropped { name(event.reason) } else { "" },
        drop_detail: if dropped && event.detail != event.reason { name(event.detail) } else { "" },
        drop_text: if dropped { reason::text(exact_reason(event)) } else { "" },
        auth_type: auth_type(event.auth_type),
        source,
        destination,
        summary: summary(&l4),
        l4,
        policies: resolver.policies(event),
        policy_log: resolver.log(event.rule_id),
        event_type: event_type(event.kind),
        suppressed: u64::from(event.suppressed),
        suppressed_other: u64::from(event.suppressed_other),
        is_reply: (event.kind == kind::VERDICT).then_some(false),
    }
}

fn exact_reason(event: &Event) -> u8 {
    if event.detail == 0 { event.reason } else { event.detail }
}

fn verdict(event: &Event) -> Verdict {
    match event.kind {
        kind::VERDICT => Verdict::Forwarded,
        kind::AUDIT => Verdict::Audit,
        kind::DROP => Verdict::Dropped,
        kind::AUTH_REQUIRED | kind::PROOF_ENDED | kind::ADDRESS_UNKNOWN if event.detail == reason::PARKED => {
            Verdict::Redirected
        }
        kind::AUTH_REQUIRED | kind::PROOF_ENDED | kind::ADDRESS_UNKNOWN => Verdict::Dropped,
        // Programs newer than this build; what they did is not known.
        _ => Verdict::Error,
    }
}

fn event_type(of: u8) -> &'static str {
    match of {
        kind::DROP => "drop",
        kind::AUTH_REQUIRED => "auth-required",
        kind::VERDICT | kind::AUDIT => "policy-verdict",
        kind::PROOF_ENDED => "proof-ended",
        kind::ADDRESS_UNKNOWN => "address-unknown",
        _ => "unknown",
    }
}

fn direction(event: &Event) -> Direction {
    match event.direction {
        policy::direction::INGRESS => Direction::Ingress,
        policy::direction::EGRESS => Direction::Egress,
        _ => Direction::Unknown,
    }
}

fn auth_type(of: u8) -> &'static str {
    match of {
        policy::auth_type::NONE => "",
        policy::auth_type::SPIRE => "SPIRE",
        policy::auth_type::ALWAYS_FAIL => "TEST_ALWAYS_FAIL",
        _ => "UNKNOWN",
    }
}

/// Source and destination. The endpoint that decided is the destination of what comes in, the source of the rest.
fn endpoints(event: &Event, resolver: &impl Resolve) -> [Endpoint; 2] {
    let (from, to) = match direction(event) {
        Direction::Egress => (event.local_identity, event.remote_identity),
        Direction::Ingress | Direction::Unknown => (event.remote_identity, event.local_identity),
    };
    [(from, event.source), (to, event.destination)].map(|(identity, bytes)| {
        let ip = ip(event.family, bytes);
        Endpoint { identity, workload: resolver.workload(identity, ip), ip }
    })
}

fn ip(family: u8, bytes: [u8; 16]) -> Option<IpAddr> {
    let [a, b, c, d, ..] = bytes;
    match family {
        addr::V4 => Some(Ipv4Addr::new(a, b, c, d).into()),
        addr::V6 => Some(Ipv6Addr::from(bytes).into()),
        _ => None,
    }
}

fn l4(event: &Event) -> L4 {
    if !matches!(event.family, addr::V4 | addr::V6) {
        return L4::default();
    }
    let protocol = Protocol(event.protocol);
    let mut l4 = L4 { protocol: Some(protocol), ..L4::default() };
    match protocol {
        Protocol::ICMPV4 | Protocol::ICMPV6 => l4.icmp_type = u8::try_from(event.destination_port).ok(),
        Protocol::TCP | Protocol::UDP | Protocol::SCTP => {
            l4.source_port = Some(event.source_port);
            l4.destination_port = Some(event.destination_port);
        }
        _ => {}
    }
    if protocol == Protocol::TCP {
        l4.tcp_flags = tcp_flags(event.tcp_flags);
    }
    l4
}

/// Names of the flags, in the order in which `SYN, ACK` is usually written.
fn tcp_flags(bits: u8) -> Vec<&'static str> {
    const FLAGS: [(u8, &str); 8] = [
        (0x01, "FIN"),
        (0x02, "SYN"),
        (0x04, "RST"),
        (0x08, "PSH"),
        (0x10, "ACK"),
        (0x20, "URG"),
        (0x40, "ECE"),
        (0x80, "CWR"),
    ];
    FLAGS.iter().filter(|(bit, _)| bits & bit != 0).map(|(_, name)| *name).collect()
}

fn summary(l4: &L4) -> String {
    match (l4.protocol, l4.icmp_type) {
        (Some(Protocol::TCP), _) => format!("TCP Flags: {}", l4.tcp_flags.join(", ")),
        (Some(protocol), Some(of)) => match (protocol, of) {
            (Protocol::ICMPV4, 8) | (Protocol::ICMPV6, 128) => format!("{protocol} EchoRequest"),
            (Protocol::ICMPV4, 0) | (Protocol::ICMPV6, 129) => format!("{protocol} EchoReply"),
            _ => format!("{protocol} type {of}"),
        },
        (Some(protocol @ (Protocol::UDP | Protocol::SCTP)), None) => protocol.to_string(),
        (Some(protocol), None) => format!("IP protocol {protocol}"),
        (None, _) => "not IP".into(),
    }
}
