//! From an event to its JSON, which the readers of the control socket expect to the letter.

mod common;

use std::net::IpAddr;
use std::sync::Arc;

use common::flow;
use countersign_ebpf_common::event::{Event, kind};
use countersign_ebpf_common::{metrics, policy, reason};
use countersign_flows::{
    Context, Direction, Flow, FlowEvent, LossSource, PolicyName, Resolve, Verdict, Workload, to_flow,
};

struct World;

impl Resolve for World {
    fn workload(&self, identity: u32, ip: Option<IpAddr>) -> Arc<Workload> {
        let pod = ip.map_or_else(String::new, |ip| format!("pod-{ip}"));
        Arc::new(Workload { namespace: "default".into(), pod, labels: vec![format!("id={identity}")] })
    }

    fn policies(&self, event: &Event) -> Arc<[PolicyName]> {
        let name =
            |n: u32| PolicyName { kind: "K".into(), namespace: "ns".into(), name: format!("rule-{n}") };
        (0..event.rule_id).map(name).collect()
    }

    fn log(&self, rule_id: u32) -> Arc<str> {
        format!("said by {rule_id}").into()
    }
}

fn event() -> Event {
    let mut event = Event {
        time: 5_000_000_000,
        local_identity: 815,
        remote_identity: 4711,
        rule_id: 1,
        suppressed: 9,
        suppressed_other: 2,
        source_port: 40_000,
        destination_port: 80,
        kind: kind::DROP,
        reason: reason::AUTH_REQUIRED,
        detail: reason::AUTH_BACKOFF,
        direction: policy::direction::INGRESS,
        family: 4,
        protocol: 6,
        auth_type: policy::auth_type::SPIRE,
        tcp_flags: 0x12,
        ..Event::default()
    };
    event.source[..4].copy_from_slice(&[10, 0, 1, 5]);
    event.destination[..4].copy_from_slice(&[10, 0, 2, 8]);
    event
}

fn convert(event: &Event) -> Flow {
    to_flow(event, &Context { node: "n1".into(), boot_to_unix_ns: 1_000_000_000 }, &World)
}

#[test]
fn an_ingress_drop() {
    let flow = convert(&event());
    assert_eq!((flow.time, &*flow.node), (6_000_000_000, "n1"));
    assert_eq!((flow.direction, flow.verdict, flow.drop_reason), (Direction::Ingress, Verdict::Dropped, 189));
    assert_eq!((flow.drop_reason_desc, flow.drop_detail), ("AUTH_REQUIRED", "AUTH_BACKOFF"));
    assert_eq!(flow.drop_text, "Authentication required: the last handshake failed");
    assert_eq!((flow.source.identity, flow.destination.identity), (4711, 815));
    assert_eq!(flow.source.workload.pod, "pod-10.0.1.5");
    assert_eq!(flow.destination.ip, "10.0.2.8".parse().ok());
    assert_eq!((flow.summary.as_str(), flow.auth_type), ("TCP Flags: SYN, ACK", "SPIRE"));
    assert_eq!((flow.suppressed, flow.suppressed_other, flow.policies.len()), (9, 2, 1));
    assert_eq!(&*flow.policy_log, "said by 1");
}

#[test]
fn the_endpoint_is_the_source_of_what_goes_out() {
    let flow = convert(&Event { direction: policy::direction::EGRESS, ..event() });
    assert_eq!((flow.source.identity, flow.destination.identity), (815, 4711));
    assert_eq!(flow.direction, Direction::Egress);
    let flow = convert(&Event { direction: metrics::WIRE, ..event() });
    assert_eq!((flow.source.identity, flow.direction), (4711, Direction::Unknown));
}

#[test]
fn kinds_and_their_verdicts() {
    for (kind, detail, verdict, event_type) in [
        (kind::DROP, reason::POLICY_DENIED, Verdict::Dropped, "drop"),
        (kind::VERDICT, 0, Verdict::Forwarded, "policy-verdict"),
        (kind::AUTH_REQUIRED, reason::PARKED, Verdict::Redirected, "auth-required"),
        (kind::AUTH_REQUIRED, reason::PARK_FULL, Verdict::Dropped, "auth-required"),
        (kind::PROOF_ENDED, reason::PARKED, Verdict::Redirected, "proof-ended"),
        (kind::PROOF_ENDED, reason::AUTH_REQUIRED, Verdict::Dropped, "proof-ended"),
        (kind::ADDRESS_UNKNOWN, reason::PARKED, Verdict::Redirected, "address-unknown"),
        (kind::ADDRESS_UNKNOWN, reason::ADDRESS_UNKNOWN, Verdict::Dropped, "address-unknown"),
        (kind::AUDIT, reason::POLICY_DENIED, Verdict::Audit, "policy-verdict"),
        (kind::AUDIT, reason::AUTH_REQUIRED, Verdict::Audit, "policy-verdict"),
        (99, 0, Verdict::Error, "unknown"),
    ] {
        let flow = convert(&Event { kind, reason: reason::field_number(detail), detail, ..event() });
        assert_eq!((flow.verdict, flow.event_type), (verdict, event_type), "kind {kind} detail {detail}");
        let named = !flow.drop_reason_desc.is_empty();
        let would = matches!(verdict, Verdict::Dropped | Verdict::Audit);
        assert_eq!(named, would, "kind {kind} detail {detail}");
        assert_eq!(named, flow.drop_reason != 0 && !flow.drop_text.is_empty());
    }
}

#[test]
fn other_protocols() {
    for (family, protocol, port, summary) in [
        (4, 17, 53, "UDP"),
        (4, 1, 8, "ICMPv4 EchoRequest"),
        (6, 58, 129, "ICMPv6 EchoReply"),
        (6, 58, 3, "ICMPv6 type 3"),
        (4, 132, 80, "SCTP"),
        (4, 47, 0, "IP protocol 47"),
        (0, 6, 0, "not IP"),
    ] {
        let flow = convert(&Event { family, protocol, destination_port: port, ..event() });
        assert_eq!(flow.summary, summary);
        assert_eq!(flow.source.ip.is_some(), family != 0);
        assert_eq!(flow.l4.icmp_type.is_some(), matches!(protocol, 1 | 58), "{summary}");
        assert!(flow.l4.tcp_flags.is_empty());
    }
}

#[test]
fn json_is_what_readers_expect() {
    let json = serde_json::to_string_pretty(&FlowEvent::Flow(Arc::new(flow(1_795_256_215_221_186_244, 80))));
    assert_eq!(json.expect("JSON") + "\n", include_str!("fixtures/flow.json"));
    let json = serde_json::to_string(&FlowEvent::Lost { source: LossSource::RingBuffer, count: 7 });
    assert_eq!(json.expect("JSON"), r#"{"lost":{"source":"ring_buffer","count":7}}"#);
}
