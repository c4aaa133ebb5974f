//! Nodes that speak for themselves: what one of them disowns, and who may not say so in its name.

use countersign_agent::handshake::{End, FailureKind, NODE, Request, Tunnel};
use countersign_certs::CertAuthority;
use countersign_wg_proto::PublicKey;

use crate::support::*;

/// An agent whose node has an SVID of its own, besides those of `numbers`.
async fn start(name: &str, ca: &CertAuthority, numbers: &[u32]) -> Agent {
    let agent = Agent::start(name, ca, numbers).await;
    agent.store.put_node(&issue_at(ca, &node_id(name), now(), 3600)).unwrap();
    agent
}

fn disowning(from: &Agent, to: &Agent) -> Request {
    let mut request = from.request(NODE, NODE, &to.name, to.addr());
    request.remote_id = node_id(&to.name);
    request.assertions.clear();
    request.disowned = vec![300, 301];
    request
}

#[tokio::test]
async fn a_node_says_whom_it_speaks_for_no_longer() {
    let ca = authority(DOMAIN);
    let (a, b) = (start("node-a", &ca, &[]).await, start("node-b", &ca, &[]).await);
    a.client.handshake(disowning(&a, &b)).await.unwrap().ack.send().await;
    let inbound = b.seen.last();
    assert_eq!((inbound.remote_identity, inbound.asked_identity), (NODE, NODE));
    assert_eq!(inbound.peer.spiffe_id(), &node_id("node-a"));
    assert_eq!((inbound.remote_node.as_str(), inbound.disowned.as_slice()), ("node-a", &[300, 301][..]));
}

#[tokio::test]
async fn no_node_speaks_in_the_name_of_another() {
    let ca = authority(DOMAIN);
    let (mut liar, b) = (start("node-c", &ca, &[]).await, start("node-b", &ca, &[]).await);
    liar.name = "node-a".to_owned();
    let failure = liar.client.handshake(disowning(&liar, &b)).await.unwrap_err();
    assert_eq!(failure.kind, FailureKind::Refused, "{failure}");
    assert_eq!(b.seen.count(), 0);
}

#[tokio::test]
async fn a_pods_svid_says_nothing_for_its_node() {
    let ca = authority(DOMAIN);
    let (a, b) = (start("node-a", &ca, &[300]).await, start("node-b", &ca, &[301]).await);
    // As a pod to the node, as the node to a pod, and as a pod to a pod with something to disown.
    for (local, remote) in [(300, NODE), (NODE, 301), (300, 301)] {
        let mut request = disowning(&a, &b);
        (request.local_identity, request.remote_identity) = (local, remote);
        request.remote_id = if remote == NODE { node_id("node-b") } else { id(remote) };
        let failure = a.client.handshake(request).await.unwrap_err();
        assert_eq!(failure.kind, FailureKind::Refused, "{local} to {remote}: {failure}");
    }
    assert_eq!(b.seen.count(), 0);
}

#[tokio::test]
async fn a_node_without_an_svid_is_not_there() {
    let ca = authority(DOMAIN);
    let (a, b) = (start("node-a", &ca, &[]).await, Agent::start("node-b", &ca, &[301]).await);
    let failure = a.client.handshake(disowning(&a, &b)).await.unwrap_err();
    assert_eq!(failure.kind, FailureKind::NotLocal, "{failure}");
}

fn end(number: u8) -> End {
    End { public_key: PublicKey::from_bytes([number; 32]), epoch: u64::from(number) }
}

fn asking(from: &Agent, to: &Agent) -> Request {
    let tunnel = Some(Tunnel { client: end(1), server: end(2) });
    Request { disowned: Vec::new(), tunnel, ..disowning(from, to) }
}

#[tokio::test]
async fn both_ends_of_a_tunnel_get_one_key() {
    let ca = authority(DOMAIN);
    let (a, b) = (start("node-a", &ca, &[]).await, start("node-b", &ca, &[]).await);
    let mut keys = Vec::new();
    for _ in 0..2 {
        let outcome = a.client.handshake(asking(&a, &b)).await.unwrap();
        let ours = outcome.preshared.unwrap();
        outcome.ack.send().await;
        let (tunnel, theirs) = b.seen.last().tunnel.unwrap();
        assert_eq!((tunnel.client, tunnel.server), (end(1), end(2)));
        assert_eq!(ours.key, theirs.key);
        assert!(ours.post_quantum && theirs.post_quantum);
        keys.push(ours.key);
    }
    assert_ne!(keys[0], keys[1], "every handshake gives another one");
    assert!(!keys[0].is_zero());
}

#[tokio::test]
async fn whoever_does_not_ask_gets_no_key() {
    let ca = authority(DOMAIN);
    let (a, b) = (start("node-a", &ca, &[]).await, start("node-b", &ca, &[]).await);
    let outcome = a.client.handshake(disowning(&a, &b)).await.unwrap();
    assert!(outcome.preshared.is_none());
    outcome.ack.send().await;
    assert!(b.seen.last().tunnel.is_none());
}

#[tokio::test]
async fn a_pod_gets_no_key_of_its_nodes_tunnel() {
    let ca = authority(DOMAIN);
    let (a, b) = (start("node-a", &ca, &[300]).await, start("node-b", &ca, &[301]).await);
    let mut request = asking(&a, &b);
    (request.local_identity, request.remote_identity, request.remote_id) = (300, 301, id(301));
    let failure = a.client.handshake(request).await.unwrap_err();
    assert_eq!(failure.kind, FailureKind::Refused, "{failure}");
    assert_eq!(b.seen.count(), 0);
}
