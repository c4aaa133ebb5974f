//! Peers that are broken or not who they should be: each has its own reason, in time, and the next
//! genuine handshake works.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use countersign_agent::handshake::message::{Reply, wire};
use countersign_agent::handshake::{
    Assertion, Failure, FailureKind, InboundAccept, KeyExchange, Refusal, Step, limits,
};
use countersign_certs::SpiffeId;
use prost::Message;
use rcgen::{BasicConstraints, IsCa, SanType};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};

use crate::support::*;

/// The handshake with `peer` fails, in time, with that kind; then one with a real agent works.
async fn fails_and_recovers(a: &Agent, b: &Agent, peer: SocketAddr, kind: FailureKind) -> Failure {
    let began = Instant::now();
    let failure = a.client.handshake(a.request(300, 301, "node-b", peer)).await.unwrap_err();
    assert_eq!(failure.kind, kind, "{failure}");
    assert!(began.elapsed() < DEADLINES.total + Duration::from_millis(500), "{:?}", began.elapsed());
    a.client.handshake(a.request(300, 301, "node-b", b.addr())).await.unwrap();
    failure
}

struct World {
    ca: countersign_certs::CertAuthority,
    ca_key: countersign_certs::SigningKey,
    a: Agent,
    b: Agent,
}

async fn world() -> World {
    let ca_key = signing_key();
    let serial = countersign_certs::Serial::from_random([1; 16]);
    let ca =
        countersign_certs::CertAuthority::create(domain(), ca_key.clone(), serial, now() - 86_400, 1_000_000)
            .unwrap();
    let a = Agent::start("node-a", &ca, &[300]).await;
    let b = Agent::start("node-b", &ca, &[301]).await;
    World { ca, ca_key, a, b }
}

/// Accepts TCP, does `then` with it.
async fn tcp_server<F, R>(then: F) -> SocketAddr
where
    F: Fn(TcpStream) -> R + Send + 'static,
    R: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            tokio::spawn(then(tcp));
        }
    });
    addr
}

async fn silence<S>(stream: S) {
    tokio::time::sleep(Duration::from_secs(60)).await;
    drop(stream);
}

#[tokio::test]
async fn silence_is_a_timeout() {
    let w = world().await;
    let mute = tcp_server(silence).await;
    let failure = fails_and_recovers(&w.a, &w.b, mute, FailureKind::Timeout).await;
    assert_eq!(failure.step, Step::Tls);
    let after_tls = fake_server((&issue(&w.ca, 301)).into(), silence).await;
    let failure = fails_and_recovers(&w.a, &w.b, after_tls, FailureKind::Timeout).await;
    assert_eq!(failure.step, Step::Message);
}

#[tokio::test]
async fn garbage_is_malformed() {
    let w = world().await;
    for bytes in
        [&b"HTTP/1.1 400 Bad Request\r\n\r\n"[..], &[0; 5000], b"\x16\x03\x03", b"\x16\x03\x03\xff\xff"]
    {
        let noise = tcp_server(move |mut tcp| async move {
            let _ = tcp.write_all(bytes).await;
            silence(tcp).await;
        })
        .await;
        let failure = w.a.client.handshake(w.a.request(300, 301, "node-b", noise)).await.unwrap_err();
        // Three bytes are not yet wrong, only too few.
        let expected = if bytes.len() == 3 { FailureKind::Timeout } else { FailureKind::Malformed };
        assert_eq!(failure.kind, expected, "{failure}: {bytes:?}");
    }
    let noise = tcp_server(|mut tcp| async move {
        let _ = tcp.write_all(b"SSH-2.0-OpenSSH_9.2\r\n").await;
    })
    .await;
    fails_and_recovers(&w.a, &w.b, noise, FailureKind::Malformed).await;
}

#[tokio::test]
async fn nobody_there_and_hanging_up_are_told_apart() {
    let w = world().await;
    let gone = tcp_server(|_| async {}).await;
    let failure = fails_and_recovers(&w.a, &w.b, gone, FailureKind::Closed).await;
    assert_eq!(failure.step, Step::Tls);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let nobody = listener.local_addr().unwrap();
    drop(listener);
    let failure = fails_and_recovers(&w.a, &w.b, nobody, FailureKind::Refused).await;
    assert_eq!(failure.step, Step::Connect);
}

#[tokio::test]
async fn another_trust_domain_is_untrusted() {
    let w = world().await;
    let other = authority("other.example");
    let foreign = SpiffeId::parse("spiffe://other.example/identity/301").unwrap();
    let peer = fake_server((&issue_at(&other, &foreign, now(), 60)).into(), silence).await;
    let failure = fails_and_recovers(&w.a, &w.b, peer, FailureKind::Untrusted).await;
    assert!(failure.detail.contains("not of trust domain countersign.lab"), "{failure}");
    // One that calls itself by our name.
    let impostor = authority(DOMAIN);
    let peer = fake_server((&issue(&impostor, 301)).into(), silence).await;
    fails_and_recovers(&w.a, &w.b, peer, FailureKind::Untrusted).await;
}

#[tokio::test]
async fn another_identity_is_wrong() {
    let w = world().await;
    let peer = fake_server((&issue(&w.ca, 302)).into(), silence).await;
    let failure = fails_and_recovers(&w.a, &w.b, peer, FailureKind::WrongIdentity).await;
    assert!(failure.detail.contains("/identity/302"), "{failure}");
}

#[tokio::test]
async fn expired_and_not_yet_valid_are_expired_and_say_by_how_much() {
    let w = world().await;
    let old = issue_at(&w.ca, &id(301), now() - 1000, 100);
    let failure =
        fails_and_recovers(&w.a, &w.b, fake_server((&old).into(), silence).await, FailureKind::Expired).await;
    assert!(failure.detail.contains("expired 90"), "{failure}");
    let early = issue_at(&w.ca, &id(301), now() + 310, 100);
    let failure =
        fails_and_recovers(&w.a, &w.b, fake_server((&early).into(), silence).await, FailureKind::Expired)
            .await;
    assert!(failure.detail.contains("clock skew"), "{failure}");
    // Our own SVID is past its life: the server says so.
    w.a.store.put(300, &issue_at(&w.ca, &id(300), now() - 1000, 100)).unwrap();
    let failure = w.a.client.handshake(w.a.request(300, 301, "node-b", w.b.addr())).await.unwrap_err();
    assert_eq!(failure.kind, FailureKind::Refused);
    assert!(failure.detail.contains("CertificateExpired"), "{failure}");
    assert_eq!(w.b.server.stats().failures(FailureKind::Expired), 1);
}

#[tokio::test]
async fn certificates_that_are_no_svids_are_malformed() {
    let w = world().await;
    let authority_as_leaf = forge(&w.ca, &w.ca_key, |p| p.is_ca = IsCa::Ca(BasicConstraints::Unconstrained));
    let two_names = forge(&w.ca, &w.ca_key, |p| {
        p.subject_alt_names.push(SanType::URI(id(666).as_str().try_into().unwrap()));
    });
    let no_name = forge(&w.ca, &w.ca_key, |p| p.subject_alt_names.clear());
    let no_usage = forge(&w.ca, &w.ca_key, |p| p.key_usages.clear());
    for (forged, text) in [
        (authority_as_leaf, "the leaf is a certificate authority"),
        (two_names, "2 URI names"),
        (no_name, "no URI name"),
        (no_usage, "no key usage"),
    ] {
        let peer = fake_server(forged, silence).await;
        let failure = fails_and_recovers(&w.a, &w.b, peer, FailureKind::Malformed).await;
        assert!(failure.detail.contains(text), "{failure}");
    }
    let mut victim_too = forge(&w.ca, &w.ca_key, |_| {});
    victim_too.chain.push(issue(&w.ca, 302).chain()[0].clone());
    let peer = fake_server(victim_too, silence).await;
    let failure = fails_and_recovers(&w.a, &w.b, peer, FailureKind::Malformed).await;
    assert!(failure.detail.contains("not a certificate authority"), "{failure}");
}

#[tokio::test]
async fn clients_that_are_not_who_they_should_be_install_nothing() {
    let w = world().await;
    let other = authority("other.example");
    let foreign = SpiffeId::parse("spiffe://other.example/identity/300").unwrap();
    let rows = [
        (None, FailureKind::Untrusted),
        (Some((&issue_at(&other, &foreign, now(), 60)).into()), FailureKind::Untrusted),
        (Some((&issue(&authority(DOMAIN), 300)).into()), FailureKind::Untrusted),
        (Some((&issue_at(&w.ca, &id(300), now() - 1000, 100)).into()), FailureKind::Expired),
        (
            Some(forge(&w.ca, &w.ca_key, |p| p.is_ca = IsCa::Ca(BasicConstraints::Unconstrained))),
            FailureKind::Malformed,
        ),
        (Some(forge(&w.ca, &w.ca_key, |p| p.extended_key_usages.truncate(1))), FailureKind::Malformed),
    ];
    for (at, (forged, kind)) in rows.into_iter().enumerate() {
        let before = w.b.server.stats().failures(kind);
        let stream = connect_tls(fake_client(forged), w.b.addr(), "301.countersign.lab").await;
        // TLS 1.3: the client is through before the server has looked at its certificate.
        if let Ok(mut stream) = stream {
            let mut end = Vec::new();
            let alert = tokio::io::AsyncReadExt::read_to_end(&mut stream, &mut end).await;
            assert!(alert.is_err() && end.is_empty(), "row {at}");
        }
        eventually("counted", || w.b.server.stats().failures(kind) == before + 1).await;
    }
    assert_eq!(w.b.seen.count(), 0);
    w.a.client.handshake(w.a.request(300, 301, "node-b", w.b.addr())).await.unwrap();
}

#[tokio::test]
async fn a_client_may_name_only_the_identity_of_its_svid() {
    let w = world().await;
    // A store that lies about names: 302's SVID is put in as 300.
    let liar = empty_store(KeyExchange::Prefer);
    liar.set_bundle(std::sync::Arc::new(w.ca.bundle().unwrap()));
    let names = std::collections::HashMap::from([(300, id(302))]);
    liar.set_names(countersign_agent::handshake::PeerNames::Listed(names));
    liar.put(300, &issue(&w.ca, 302)).unwrap();
    let liar = Agent::with("node-c", liar, DEADLINES, accept).await;
    let failure = liar.client.handshake(liar.request(300, 301, "node-b", w.b.addr())).await.unwrap_err();
    assert_eq!(failure.kind, FailureKind::Refused, "{failure}");
    assert_eq!(w.b.server.stats().failures(FailureKind::WrongIdentity), 1);
    assert_eq!(w.b.seen.count(), 0);
}

#[tokio::test]
async fn an_identity_that_is_not_local_is_not_local() {
    let w = world().await;
    let failure = w.a.client.handshake(w.a.request(300, 302, "node-b", w.b.addr())).await.unwrap_err();
    assert_eq!(failure.kind, FailureKind::NotLocal, "{failure}");
    w.b.store.put(302, &issue(&w.ca, 302)).unwrap();
    w.a.client.handshake(w.a.request(300, 302, "node-b", w.b.addr())).await.unwrap();
    w.b.store.remove(302);
    let failure = w.a.client.handshake(w.a.request(300, 302, "node-b", w.b.addr())).await.unwrap_err();
    assert_eq!(failure.kind, FailureKind::NotLocal, "{failure}");
    assert_eq!(w.b.server.stats().failures(FailureKind::NotLocal), 2);
}

#[tokio::test]
async fn without_an_svid_or_a_bundle_nothing_is_sent() {
    let w = world().await;
    let failure = w.a.client.handshake(w.a.request(299, 301, "node-b", w.b.addr())).await.unwrap_err();
    assert_eq!((failure.kind, failure.step), (FailureKind::NoSvid, Step::Prepare));
    let mut elsewhere = w.a.request(300, 301, "node-b", w.b.addr());
    elsewhere.remote_id = SpiffeId::parse("spiffe://other.example/identity/301").unwrap();
    let failure = w.a.client.handshake(elsewhere).await.unwrap_err();
    assert_eq!((failure.kind, failure.step), (FailureKind::NoSvid, Step::Prepare));
    let mut long = w.a.request(300, 301, "node-b", w.b.addr());
    long.assertions = vec![Assertion { ip: ip("10.0.0.1"), generation: 0 }; limits::MAX_ASSERTIONS + 1];
    let failure = w.a.client.handshake(long).await.unwrap_err();
    assert_eq!((failure.kind, failure.step), (FailureKind::Malformed, Step::Prepare));
    assert_eq!(w.b.server.stats().accepted(), 0);
}

#[tokio::test]
async fn the_nodes_refusals_reach_the_client() {
    let rows: [(Answer, FailureKind); 3] = [
        (|| Err(Refusal::NotLocal), FailureKind::NotLocal),
        (|| Err(Refusal::Overload), FailureKind::Overload),
        (|| Err(Refusal::Declined), FailureKind::Refused),
    ];
    let ca = authority(DOMAIN);
    let a = Agent::start("node-a", &ca, &[300]).await;
    for (answer, kind) in rows {
        let b = Agent::with("node-b", store(&ca, &[301]), DEADLINES, answer).await;
        let failure = a.client.handshake(a.request(300, 301, "node-b", b.addr())).await.unwrap_err();
        assert_eq!((failure.kind, failure.step), (kind, Step::Message), "{failure}");
    }
}

#[tokio::test]
async fn a_full_or_absent_node_task_is_overload() {
    let ca = authority(DOMAIN);
    let a = Agent::start("node-a", &ca, &[300]).await;
    let store = store(&ca, &[301]);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (inbound, mut requests) = tokio::sync::mpsc::channel(1);
    let config = countersign_agent::handshake::ServerConfig { node: "node-b".into(), deadlines: DEADLINES };
    let server =
        countersign_agent::handshake::Server::spawn(listener, config, store.share(), inbound).unwrap();
    let request = a.request(300, 301, "node-b", server.local_addr());
    // The first waits in the queue for an answer that does not come.
    let (first, second) = tokio::join!(a.client.handshake(request.clone()), async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        a.client.handshake(request.clone()).await
    });
    assert_eq!(first.unwrap_err().kind, FailureKind::Timeout);
    assert_eq!(second.unwrap_err().kind, FailureKind::Overload);
    // Late answers go nowhere and hurt nobody.
    let late = requests.recv().await.unwrap();
    let _ = late.respond.send(Ok(InboundAccept::default()));
    requests.close();
    assert_eq!(a.client.handshake(request).await.unwrap_err().kind, FailureKind::Overload);
}

#[tokio::test]
async fn too_many_at_once_are_refused_here_without_a_packet() {
    let w = world().await;
    let mute = tcp_server(silence).await;
    let mut running = tokio::task::JoinSet::new();
    for _ in 0..limits::MAX_OUTBOUND {
        let (client, request) = (w.a.client.clone(), w.a.request(300, 301, "node-b", mute));
        running.spawn(async move { client.handshake(request).await });
    }
    tokio::time::sleep(Duration::from_millis(100)).await;
    let failure = w.a.client.handshake(w.a.request(300, 301, "node-b", w.b.addr())).await.unwrap_err();
    assert_eq!((failure.kind, failure.step), (FailureKind::Overload, Step::Prepare));
    while let Some(one) = running.join_next().await {
        assert_eq!(one.unwrap().unwrap_err().kind, FailureKind::Timeout);
    }
    w.a.client.handshake(w.a.request(300, 301, "node-b", w.b.addr())).await.unwrap();
}

#[tokio::test]
async fn answers_that_make_no_sense_are_malformed() {
    let w = world().await;
    let good = Reply { node: "node-b".into(), verdict: Ok((vec![], u64::MAX)) };
    let wire = wire::Reply::decode(&good.encode()[4..]).unwrap();
    let framed = |wire: &wire::Reply| {
        let body = wire.encode_to_vec();
        [&u32::try_from(body.len()).unwrap().to_be_bytes(), body.as_slice()].concat()
    };
    let assertion = |ip: Vec<u8>| wire::Assertion { ip, generation: 1 };
    let spoiled = [
        b"\0\0\0\x03abc".to_vec(),
        u32::MAX.to_be_bytes().to_vec(),
        u32::try_from(limits::MAX_MESSAGE_BYTES + 1).unwrap().to_be_bytes().to_vec(),
        framed(&wire::Reply { version: 2, ..wire.clone() }),
        framed(&wire::Reply { node: "no de".into(), ..wire.clone() }),
        framed(&wire::Reply { node: String::new(), ..wire.clone() }),
        framed(&wire::Reply { assertions: vec![assertion(vec![1, 2, 3])], ..wire.clone() }),
        framed(&wire::Reply { assertions: vec![assertion(vec![127, 0, 0, 1])], ..wire.clone() }),
        framed(&wire::Reply { assertions: vec![assertion(vec![0; 16])], ..wire.clone() }),
        framed(&wire::Reply {
            assertions: vec![assertion(vec![10, 0, 0, 1]); limits::MAX_ASSERTIONS + 1],
            ..wire.clone()
        }),
    ];
    for (at, bytes) in spoiled.into_iter().enumerate() {
        let peer = fake_server((&issue(&w.ca, 301)).into(), move |mut stream| {
            let bytes = bytes.clone();
            async move {
                let _ = stream.write_all(&bytes).await;
                silence(stream).await;
            }
        })
        .await;
        let failure = w.a.client.handshake(w.a.request(300, 301, "node-b", peer)).await.unwrap_err();
        assert_eq!(
            (failure.kind, failure.step),
            (FailureKind::Malformed, Step::Message),
            "row {at}: {failure}"
        );
    }
    w.a.client.handshake(w.a.request(300, 301, "node-b", w.b.addr())).await.unwrap();
}

#[tokio::test]
async fn a_cut_connection_is_not_a_plain_peer() {
    let w = world().await;
    // No close_notify: whoever is in between can cut, but not pretend that the peer had nothing to say.
    let peer = fake_server((&issue(&w.ca, 301)).into(), |stream| async move {
        tokio::time::sleep(Duration::from_millis(50)).await;
        drop(stream.into_inner().0);
    })
    .await;
    let failure = fails_and_recovers(&w.a, &w.b, peer, FailureKind::Closed).await;
    assert_eq!(failure.step, Step::Message);
}
