//! Whom a handshake believes: the authorities of the trust domain that was asked for, as they are now, and
//! nobody else's.

use std::sync::Arc;
use std::time::Duration;

use countersign_agent::handshake::{FailureKind, KeyExchange, NODE, PeerNames, SvidStore, Tls, check_domain};
use countersign_certs::{Bundle, CertAuthority, Serial, SigningKey, SpiffeId, TrustDomain};

use crate::support::*;

const OTHER: &str = "other.example";

fn foreign(number: u32) -> SpiffeId {
    SpiffeId::parse(&format!("spiffe://{OTHER}/identity/{number}")).unwrap()
}

/// Keeps the connection until the peer has had enough.
async fn silence<S>(stream: S) {
    tokio::time::sleep(Duration::from_secs(60)).await;
    drop(stream);
}

/// Our authority, that of a domain we are federated with, and its key; agents that know both bundles.
struct World {
    ours: CertAuthority,
    theirs: CertAuthority,
    their_key: SigningKey,
    a: Agent,
    b: Agent,
}

async fn federated() -> World {
    let (ours, their_key) = (authority(DOMAIN), signing_key());
    let domain = foreign(1).trust_domain();
    let begin = now() - 86_400;
    let theirs =
        CertAuthority::create(domain, their_key.clone(), Serial::from_random([3; 16]), begin, 1_000_000)
            .unwrap();
    let a = Agent::start("node-a", &ours, &[300]).await;
    let b = Agent::start("node-b", &ours, &[301]).await;
    for agent in [&a, &b] {
        agent.store.set_bundle(Arc::new(theirs.bundle().unwrap()));
    }
    World { ours, theirs, their_key, a, b }
}

#[tokio::test]
async fn a_federated_domain_is_not_ours_whatever_it_calls_itself() {
    let w = federated().await;
    // Its own member with the same path, and one of our IDs that its authority has signed.
    let twin = (&issue_at(&w.theirs, &foreign(301), now(), 60)).into();
    let impostor = forge(&w.theirs, &w.their_key, |_| {});
    for shown in [twin, impostor] {
        let peer = fake_server(shown, silence).await;
        let failure = w.a.client.handshake(w.a.request(300, 301, "node-b", peer)).await.unwrap_err();
        assert_eq!(failure.kind, FailureKind::Untrusted, "{failure}");
    }
    w.a.client.handshake(w.a.request(300, 301, "node-b", w.b.addr())).await.unwrap();
    // Our authority does not vouch for their members either.
    let mut request =
        w.a.request(300, 301, "node-b", fake_server((&issue(&w.ours, 301)).into(), silence).await);
    request.remote_id = foreign(301);
    let failure = w.a.client.handshake(request).await.unwrap_err();
    assert_eq!(failure.kind, FailureKind::Untrusted, "{failure}");
}

#[tokio::test]
async fn as_a_client_it_gets_nothing_either() {
    let w = federated().await;
    let twin = (&issue_at(&w.theirs, &foreign(300), now(), 60)).into();
    let impostor = forge(&w.theirs, &w.their_key, |params| {
        params.subject_alt_names = vec![rcgen::SanType::URI(id(300).as_str().try_into().unwrap())];
    });
    for (at, shown) in [twin, impostor].into_iter().enumerate() {
        let name = format!("301.{DOMAIN}");
        // TLS 1.3: the client is through before the server has looked at its chain; reading tells.
        if let Ok(mut stream) = connect_tls(fake_client(Some(shown)), w.b.addr(), &name).await {
            let mut byte = [0];
            let read = tokio::io::AsyncReadExt::read(&mut stream, &mut byte).await;
            assert!(read.is_err(), "{read:?}");
        }
        let refused = || w.b.server.stats().failures(FailureKind::Untrusted) == at as u64 + 1;
        eventually("it is refused as untrusted", refused).await;
    }
    assert_eq!(w.b.seen.count(), 0, "the node was never asked");
}

#[tokio::test]
async fn a_member_of_a_federated_domain_is_verified_against_its_own_bundle() {
    let w = federated().await;
    let peer = fake_server((&issue_at(&w.theirs, &foreign(301), now(), 60)).into(), silence).await;
    let mut request = w.a.request(300, 301, "node-b", peer);
    request.remote_id = foreign(301);
    // Its chain is believed; that it then says nothing is another matter.
    let failure = w.a.client.handshake(request.clone()).await.unwrap_err();
    assert_eq!(failure.kind, FailureKind::Timeout, "{failure}");
    // Of a domain without a bundle, nobody is.
    request.remote_id = SpiffeId::parse("spiffe://unknown.example/identity/301").unwrap();
    let failure = w.a.client.handshake(request).await.unwrap_err();
    assert_eq!(failure.kind, FailureKind::NoSvid, "{failure}");
}

#[tokio::test]
async fn a_revoked_authority_vouches_for_nobody_from_then_on() {
    let (old, new) = (authority(DOMAIN), authority(DOMAIN));
    let a = Agent::start("node-a", &old, &[300]).await;
    let b = Agent::start("node-b", &old, &[301]).await;
    let prove = || a.client.handshake(a.request(300, 301, "node-b", b.addr()));
    prove().await.unwrap();
    // Prepared and activated: both are believed, whoever has changed already.
    let both = Bundle::new(domain(), &[old.certificate(), new.certificate()]).unwrap();
    for agent in [&a, &b] {
        agent.store.set_bundle(Arc::new(both.clone()));
    }
    prove().await.unwrap();
    b.store.put(301, &issue(&new, 301)).unwrap();
    prove().await.unwrap();
    // Revoked: the chain that was believed a moment ago is not, remembered or not.
    for agent in [&a, &b] {
        agent.store.set_bundle(Arc::new(new.bundle().unwrap()));
    }
    let failure = prove().await.unwrap_err();
    assert_eq!(failure.kind, FailureKind::Refused, "the server does not believe us any more: {failure}");
    a.store.put(300, &issue(&new, 300)).unwrap();
    prove().await.unwrap();
}

/// Names as a node lists them: ours, and one identity of the federated domain.
fn names(foreign_ones: &[u32]) -> PeerNames {
    let ours = [300, 301].map(|number| (number, id(number)));
    PeerNames::Listed(ours.into_iter().chain(foreign_ones.iter().map(|n| (*n, foreign(*n)))).collect())
}

/// An agent of the federated domain, which speaks for these of its identities, and for its node.
async fn foreign_agent(w: &World, numbers: &[u32]) -> Agent {
    let listed = numbers.iter().map(|number| (*number, foreign(*number))).chain([(301, id(301))]);
    let names = PeerNames::Listed(listed.collect());
    let store = SvidStore::new(Tls::new(KeyExchange::Prefer), foreign(1).trust_domain(), names);
    for ca in [&w.ours, &w.theirs] {
        store.set_bundle(Arc::new(ca.bundle().unwrap()));
    }
    for number in numbers {
        store.put(*number, &issue_at(&w.theirs, &foreign(*number), now(), 3600)).unwrap();
    }
    let node = SpiffeId::parse(&format!("spiffe://{OTHER}/node/node-a")).unwrap();
    store.put_node(&issue_at(&w.theirs, &node, now(), 3600)).unwrap();
    Agent::with("node-c", store, DEADLINES, accept).await
}

#[tokio::test]
async fn an_identity_of_a_federated_domain_is_proved_by_that_domains_bundle() {
    let w = federated().await;
    let c = foreign_agent(&w, &[400]).await;
    let prove = || c.client.handshake(c.request(400, 301, "node-b", w.b.addr()));
    // Nobody of that domain is known here: its members get no further than their certificates.
    let failure = prove().await.unwrap_err();
    assert_eq!(failure.kind, FailureKind::Refused, "{failure}");
    assert_eq!(w.b.server.stats().failures(FailureKind::Untrusted), 1);
    w.b.store.set_names(names(&[400]));
    prove().await.unwrap().ack.send().await;
    let inbound = w.b.seen.last();
    assert_eq!((inbound.remote_identity, inbound.peer.spiffe_id()), (400, &foreign(400)));
    assert_eq!(inbound.peer.bundle_version(), w.theirs.bundle().unwrap().version(), "theirs, not ours");
    // And the other way round: that domain's server asks for, and believes, ours by our bundle.
    let mut request = w.a.request(300, 400, "node-c", c.addr());
    request.remote_id = foreign(400);
    c.store.set_name(300, Some(id(300)));
    let outcome = w.a.client.handshake(request).await.unwrap();
    assert_eq!(outcome.peer.bundle_version(), w.theirs.bundle().unwrap().version());
    // What was believed a moment ago is not once the domain is no longer federated with.
    w.b.store.remove_bundle(&foreign(1).trust_domain());
    let failure = prove().await.unwrap_err();
    assert_eq!(failure.kind, FailureKind::Refused, "{failure}");
    assert_eq!(w.b.server.stats().failures(FailureKind::Untrusted), 2);
}

#[tokio::test]
async fn a_federated_domain_speaks_for_its_own_identities_and_for_no_node() {
    let w = federated().await;
    w.b.store.set_names(names(&[400]));
    // Our own path under their name, an identity of theirs that nobody knows here, and one that is somebody else's.
    let c = foreign_agent(&w, &[300, 401]).await;
    for number in [300, 401] {
        let failure = c.client.handshake(c.request(number, 301, "node-b", w.b.addr())).await.unwrap_err();
        assert_eq!(failure.kind, FailureKind::Refused, "{number}: {failure}");
    }
    c.store.set_name(400, Some(foreign(401)));
    c.store.put(400, &issue_at(&w.theirs, &foreign(401), now(), 3600)).unwrap();
    let failure = c.client.handshake(c.request(400, 301, "node-b", w.b.addr())).await.unwrap_err();
    assert_eq!(failure.kind, FailureKind::Refused, "{failure}");
    // As the node of that name, which is ours.
    let mut node = c.request(NODE, NODE, "node-b", w.b.addr());
    node.own_node = "node-a".to_owned();
    node.disowned = vec![300];
    w.b.store.put_node(&issue_at(&w.ours, &node_id("node-b"), now(), 3600)).unwrap();
    node.remote_id = node_id("node-b");
    let failure = c.client.handshake(node).await.unwrap_err();
    assert_eq!(failure.kind, FailureKind::Refused, "{failure}");
    assert_eq!(w.b.server.stats().failures(FailureKind::WrongIdentity), 4, "each was told apart by its ID");
    assert_eq!(w.b.seen.count(), 0, "the node was never asked");
}

#[tokio::test]
async fn no_authority_vouches_across_domains() {
    let w = federated().await;
    w.b.store.set_names(names(&[400]));
    let san = |id: &SpiffeId| vec![rcgen::SanType::URI(id.as_str().try_into().unwrap())];
    let theirs = forge(&w.theirs, &w.their_key, |params| params.subject_alt_names = san(&id(300)));
    let our_key = signing_key();
    let begin = now() - 86_400;
    let ours =
        CertAuthority::create(domain(), our_key.clone(), Serial::from_random([5; 16]), begin, 1_000_000)
            .unwrap();
    w.b.store.set_bundle(Arc::new(ours.bundle().unwrap()));
    let forged = forge(&ours, &our_key, |params| params.subject_alt_names = san(&foreign(400)));
    for (at, shown) in [theirs, forged].into_iter().enumerate() {
        let name = format!("301.{DOMAIN}");
        w.b.store.put(301, &issue(&ours, 301)).unwrap();
        if let Ok(mut stream) = connect_tls(fake_client(Some(shown)), w.b.addr(), &name).await {
            let read = tokio::io::AsyncReadExt::read(&mut stream, &mut [0]).await;
            assert!(read.is_err(), "{read:?}");
        }
        let refused = || w.b.server.stats().failures(FailureKind::Untrusted) == at as u64 + 1;
        eventually("it is refused as untrusted", refused).await;
    }
    assert_eq!(w.b.seen.count(), 0);
}

/// SPIFFE allows trust domains that no server name can hold: refused at the start, and not at every handshake.
#[test]
fn a_trust_domain_has_to_be_a_server_name() {
    let check = |name: &str| check_domain(&TrustDomain::parse(name).expect("SPIFFE allows it"));
    let longest = format!("{}.{}.{}.{}", "a".repeat(63), "b".repeat(63), "c".repeat(63), "d".repeat(50));
    for good in ["example.org", "countersign.lab", "a", "a-b.c_d", "1.example", &longest] {
        assert_eq!(check(good), Ok(()), "{good}");
        rustls::pki_types::ServerName::try_from(format!("1.{good}")).expect("as handshakes ask");
    }
    let (label, whole) = ("a".repeat(64), format!("{longest}d"));
    for bad in ["10.0.0.1", "lab.1", "-a", "a-", "a..b", ".a", label.as_str(), whole.as_str()] {
        let refused = check(bad).expect_err(bad).to_string();
        assert!(refused.contains("server name") && refused.contains(bad), "{refused}");
    }
}
