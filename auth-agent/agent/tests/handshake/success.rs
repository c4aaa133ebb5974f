//! Handshakes that work, and what both sides then know.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use countersign_agent::handshake::{
    Assertion, FailureKind, InboundAccept, KeyExchange, PeerNames, StoreError, SvidStore, Tls,
};
use countersign_certs::{IdTemplate, SpiffeId};

use crate::support::*;

#[tokio::test]
async fn both_sides_learn_who_the_other_is() {
    let ca = authority(DOMAIN);
    let a = Agent::start("node-a", &ca, &[300]).await;
    let b = Agent::start("node-b", &ca, &[301]).await;
    let outcome = a.client.handshake(a.request(300, 301, "node-b", b.addr())).await.unwrap();
    assert_eq!((outcome.peer.spiffe_id(), outcome.plain), (&id(301), false));
    assert_eq!(outcome.assertions, [Assertion { ip: ip("10.0.2.7"), generation: 3 }]);
    assert_eq!(outcome.remote_node, "node-b");
    assert!(outcome.duration < Duration::from_millis(500), "{:?}", outcome.duration);
    let live = now() + 3600 - outcome.not_after;
    assert!(live <= 2, "the SVIDs' end: {live}");

    let inbound = b.seen.last();
    assert_eq!((inbound.asked_identity, inbound.remote_identity), (301, 300));
    assert_eq!((inbound.peer.spiffe_id(), inbound.remote_node.as_str()), (&id(300), "node-a"));
    assert_eq!(inbound.peer_addr.ip(), ip("127.0.0.1"));
    assert_eq!(inbound.assertions, [Assertion { ip: ip("fd00::1"), generation: 9 }]);
    assert!(inbound.not_after.abs_diff(outcome.not_after) <= 1);

    assert!(b.confirmed.lock().unwrap().is_empty(), "not before the client's entry is installed");
    outcome.ack.send().await;
    eventually("confirmed", || *b.confirmed.lock().unwrap() == [true]).await;
    eventually("counted", || b.server.stats().completed() == 1).await;
}

#[tokio::test]
async fn a_client_that_goes_away_instead_is_noticed() {
    let ca = authority(DOMAIN);
    let a = Agent::start("node-a", &ca, &[300]).await;
    let b = Agent::start("node-b", &ca, &[301]).await;
    drop(a.client.handshake(a.request(300, 301, "node-b", b.addr())).await.unwrap());
    eventually("not confirmed", || *b.confirmed.lock().unwrap() == [false]).await;
    assert_eq!((b.server.stats().completed(), b.server.stats().failures(FailureKind::Closed)), (0, 1));
}

#[tokio::test]
async fn a_pair_of_the_same_node_is_proved_too() {
    let ca = authority(DOMAIN);
    let a = Agent::start("node-a", &ca, &[300, 301]).await;
    let outcome = a.client.handshake(a.request(300, 301, "node-a", a.addr())).await.unwrap();
    outcome.ack.send().await;
    eventually("confirmed", || *a.confirmed.lock().unwrap() == [true]).await;
    // And an identity with itself.
    a.client.handshake(a.request(300, 300, "node-a", a.addr())).await.unwrap();
}

#[tokio::test]
async fn the_earliest_end_counts() {
    fn short() -> Result<InboundAccept, countersign_agent::handshake::Refusal> {
        Ok(InboundAccept { not_after: now() + 50, ..InboundAccept::default() })
    }
    let ca = authority(DOMAIN);
    let a = Agent::start("node-a", &ca, &[300]).await;
    let b = Agent::with("node-b", store(&ca, &[301]), DEADLINES, short).await;
    let mut request = a.request(300, 301, "node-b", b.addr());
    let theirs = a.client.handshake(request.clone()).await.unwrap().not_after;
    assert!(theirs.abs_diff(now() + 50) <= 1);
    request.not_after = now() + 20;
    let ours = a.client.handshake(request.clone()).await.unwrap().not_after;
    assert_eq!((ours, b.seen.last().not_after), (request.not_after, request.not_after));
    a.store.put(300, &issue_at(&ca, &id(300), now(), 25)).unwrap();
    b.store.put(301, &issue_at(&ca, &id(301), now(), 30)).unwrap();
    request.not_after = u64::MAX;
    let svids = a.client.handshake(request).await.unwrap().not_after;
    assert!(svids.abs_diff(now() + 25) <= 1);
}

#[tokio::test]
async fn hybrid_key_exchange_can_be_required() {
    let ca = authority(DOMAIN);
    let strict = || {
        let store = empty_store(KeyExchange::Require);
        store.set_bundle(Arc::new(ca.bundle().unwrap()));
        for number in [300, 301] {
            store.put(number, &issue(&ca, number)).unwrap();
        }
        store
    };
    let a = Agent::with("node-a", strict(), DEADLINES, accept).await;
    let b = Agent::with("node-b", strict(), DEADLINES, accept).await;
    a.client.handshake(a.request(300, 301, "node-b", b.addr())).await.unwrap();
    // A client that knows only X25519 gets no further.
    let mut classic = rustls::crypto::aws_lc_rs::default_provider();
    classic.kx_groups = vec![rustls::crypto::aws_lc_rs::kx_group::X25519];
    let config = rustls::ClientConfig::builder_with_provider(Arc::new(classic))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody))
        .with_no_client_auth();
    let refused = connect_tls(config, b.addr(), "301.countersign.lab").await.unwrap_err();
    assert!(refused.to_string().contains("HandshakeFailure"), "{refused}");
}

#[tokio::test]
async fn the_hybrid_group_is_what_two_agents_use() {
    let ca = authority(DOMAIN);
    let b = Agent::start("node-b", &ca, &[301]).await;
    let config = fake_client(Some((&issue(&ca, 300)).into()));
    let stream = connect_tls(config, b.addr(), "301.countersign.lab").await.unwrap();
    let session = stream.get_ref().1;
    assert_eq!(session.negotiated_key_exchange_group().unwrap().name(), rustls::NamedGroup::X25519MLKEM768);
    assert_eq!(session.protocol_version(), Some(rustls::ProtocolVersion::TLSv1_3));
}

#[tokio::test]
async fn a_rotated_svid_is_used_from_the_next_handshake_on() {
    let ca = authority(DOMAIN);
    let a = Agent::start("node-a", &ca, &[300]).await;
    let b = Agent::start("node-b", &ca, &[301]).await;
    let mut keys = std::collections::BTreeSet::new();
    for _ in 0..5 {
        let outcome = a.client.handshake(a.request(300, 301, "node-b", b.addr())).await.unwrap();
        assert!(keys.insert(outcome.peer.public_key().to_vec()));
        b.store.put(301, &issue(&ca, 301)).unwrap();
    }
}

#[tokio::test]
async fn a_new_bundle_counts_at_once_cached_chains_included() {
    let (old, new) = (authority(DOMAIN), authority(DOMAIN));
    let a = Agent::start("node-a", &old, &[300]).await;
    let b = Agent::start("node-b", &old, &[301]).await;
    let request = a.request(300, 301, "node-b", b.addr());
    a.client.handshake(request.clone()).await.unwrap();
    a.store.set_bundle(Arc::new(new.bundle().unwrap()));
    let failure = a.client.handshake(request.clone()).await.unwrap_err();
    assert_eq!(failure.kind, FailureKind::Untrusted);
    b.store.put(301, &issue(&new, 301)).unwrap();
    // Now the server is believed, but does not believe the client: its bundle is the old one still, so
    // the client with a new SVID is refused, and counted as untrusted there.
    a.store.put(300, &issue(&new, 300)).unwrap();
    let failure = a.client.handshake(request.clone()).await.unwrap_err();
    assert_eq!(failure.kind, FailureKind::Refused);
    assert_eq!(b.server.stats().failures(FailureKind::Untrusted), 1);
    b.store.set_bundle(Arc::new(new.bundle().unwrap()));
    a.client.handshake(request).await.unwrap();
}

#[tokio::test]
async fn identities_named_by_service_account_work_too() {
    let ca = authority(DOMAIN);
    let name = |account: &str| SpiffeId::parse(&format!("spiffe://{DOMAIN}/ns/shop/sa/{account}")).unwrap();
    let names = HashMap::from([(300, name("web")), (301, name("db"))]);
    let make = |number: u32, account: &str| {
        let store = SvidStore::new(Tls::new(KeyExchange::Prefer), domain(), PeerNames::Listed(names.clone()));
        store.set_bundle(Arc::new(ca.bundle().unwrap()));
        store.put(number, &issue_at(&ca, &name(account), now(), 3600)).unwrap();
        store
    };
    let a = Agent::with("node-a", make(300, "web"), DEADLINES, accept).await;
    let b = Agent::with("node-b", make(301, "db"), DEADLINES, accept).await;
    let mut request = a.request(300, 301, "node-b", b.addr());
    request.remote_id = name("db");
    a.client.handshake(request.clone()).await.unwrap();
    // The server does not know the client's identity any more: it cannot be who it says.
    b.store.set_names(PeerNames::Listed(HashMap::from([(301, name("db"))])));
    let failure = a.client.handshake(request).await.unwrap_err();
    assert_eq!(failure.kind, FailureKind::Refused);
    assert_eq!(b.server.stats().failures(FailureKind::WrongIdentity), 1);
}

#[tokio::test]
async fn the_store_takes_only_what_fits() {
    let ca = authority(DOMAIN);
    let store = store(&ca, &[300]);
    assert!(store.is_local(300) && !store.is_local(301));
    let refused = store.put(301, &issue(&ca, 300));
    assert!(matches!(refused, Err(StoreError::WrongIdentity { number: 301, .. })));
    let other = authority("other.example");
    let foreign = SpiffeId::parse("spiffe://other.example/identity/300").unwrap();
    let refused = store.put(300, &issue_at(&other, &foreign, now(), 60));
    assert!(matches!(refused, Err(StoreError::TrustDomain(_))));
    store.remove(300);
    assert!(!store.is_local(300));
    assert!(IdTemplate::default().needs_only_number());
}

#[tokio::test]
async fn a_peer_that_knows_only_tls_is_plain_on_both_sides() {
    let ca = authority(DOMAIN);
    let a = Agent::start("node-a", &ca, &[300]).await;
    // Its server verifies, and closes without a word.
    let server = fake_server((&issue(&ca, 301)).into(), |mut stream| async move {
        let _ = tokio::io::AsyncWriteExt::shutdown(&mut stream).await;
    })
    .await;
    let outcome = a.client.handshake(a.request(300, 301, "node-b", server)).await.unwrap();
    assert!(outcome.plain && outcome.assertions.is_empty());
    assert_eq!(outcome.peer.spiffe_id(), &id(301));
    outcome.ack.send().await;
    // So does its client.
    let config = fake_client(Some((&issue(&ca, 301)).into()));
    let mut stream = connect_tls(config, a.addr(), "300.countersign.lab").await.unwrap();
    tokio::io::AsyncWriteExt::shutdown(&mut stream).await.unwrap();
    eventually("counted as plain", || a.server.stats().plain() == 1).await;
    assert_eq!(a.seen.count(), 0, "nothing is installed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_at_once_all_come_through() {
    let ca = authority(DOMAIN);
    let a = Arc::new(Agent::start("node-a", &ca, &[300]).await);
    let b = Agent::start("node-b", &ca, &[301]).await;
    let addr = b.addr();
    let mut running = tokio::task::JoinSet::new();
    for lane in 0..64 {
        let a = Arc::clone(&a);
        running.spawn(async move {
            for _ in 0..16 {
                let outcome = a.client.handshake(a.request(300, 301, "node-b", addr)).await;
                outcome.unwrap_or_else(|failure| panic!("lane {lane}: {failure}")).ack.send().await;
            }
        });
    }
    while let Some(lane) = running.join_next().await {
        lane.unwrap();
    }
    eventually("all counted", || b.server.stats().completed() == 1024).await;
}
