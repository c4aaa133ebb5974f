//! A flow to start from.

use std::sync::Arc;

use countersign_flows::{Direction, Endpoint, Flow, L4, PolicyName, Protocol, Verdict, Workload};

/// `default/client-1` (identity 4711) to `shop/server-1` (identity 815), dropped for want of a proof.
pub fn flow(time: u64, port: u16) -> Flow {
    let side = |identity, namespace: &str, pod: &str, ip: &str| Endpoint {
        identity,
        workload: Arc::new(Workload {
            namespace: namespace.into(),
            pod: pod.into(),
            labels: vec![format!("k8s:app={}", pod.trim_end_matches("-1"))],
        }),
        ip: ip.parse().ok(),
    };
    Flow {
        time,
        node: "n1".into(),
        direction: Direction::Ingress,
        verdict: Verdict::Dropped,
        drop_reason: 189,
        drop_reason_desc: "AUTH_REQUIRED",
        drop_detail: "AUTH_BACKOFF",
        drop_text: "Authentication required: the last handshake failed",
        auth_type: "SPIRE",
        source: side(4711, "default", "client-1", "10.0.1.5"),
        destination: side(815, "shop", "server-1", "fd00::8"),
        l4: L4 {
            protocol: Some(Protocol::TCP),
            source_port: Some(40_000),
            destination_port: Some(port),
            tcp_flags: vec!["SYN"],
            ..L4::default()
        },
        policies: Arc::new([PolicyName {
            kind: "CiliumNetworkPolicy".into(),
            namespace: "shop".into(),
            name: "rule1".into(),
        }]),
        policy_log: "payments".into(),
        event_type: "drop",
        summary: "TCP Flags: SYN".into(),
        suppressed: 3,
        suppressed_other: 0,
        is_reply: None,
    }
}
