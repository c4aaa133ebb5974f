//! Strangers on the handshake's port, and those in between.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use countersign_agent::handshake::{Deadlines, FailureKind, limits};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

use crate::hello::{client_hello, records};
use crate::support::*;

const TLS13: &[u16] = &[0x0304];

/// Sends bytes, and returns everything that comes back until the server closes.
async fn exchange(addr: SocketAddr, bytes: &[u8]) -> Vec<u8> {
    let mut tcp = TcpStream::connect(addr).await.unwrap();
    let _ = tcp.write_all(bytes).await;
    let mut reply = Vec::new();
    let _ = tokio::time::timeout(Duration::from_secs(3), tcp.read_to_end(&mut reply)).await;
    reply
}

async fn works(a: &Agent, b: &Agent) {
    a.client.handshake(a.request(300, 301, "node-b", b.addr())).await.unwrap().ack.send().await;
}

async fn pair() -> (Agent, Agent) {
    let ca = authority(DOMAIN);
    (Agent::start("node-a", &ca, &[300]).await, Agent::start("node-b", &ca, &[301]).await)
}

#[tokio::test]
async fn every_name_that_is_not_local_gets_the_same_answer() {
    let (a, b) = pair().await;
    let long = [b'a'; 60_000];
    let label = [vec![b'1'; 64], b".countersign.lab".to_vec()].concat();
    let names: [Option<&[u8]>; 16] = [
        None,
        Some(b"302.countersign.lab"),
        Some(b"0.countersign.lab"),
        Some(b"00301.countersign.lab"),
        Some(b"+301.countersign.lab"),
        Some(b"4294967296.countersign.lab"),
        Some(b"301.other.example"),
        Some(b"301"),
        Some(b"301."),
        Some(b"countersign.lab"),
        Some(b"301.countersign.lab\0"),
        Some(b"3 1.countersign.lab"),
        Some(b"\xff\xfe"),
        Some(b"127.0.0.1"),
        Some(&label),
        Some(&long),
    ];
    for name in names {
        let reply = exchange(b.addr(), &records(&client_hello(name, TLS13), 16_000)).await;
        let shown = name.map(|name| String::from_utf8_lossy(&name[..name.len().min(30)]).into_owned());
        assert_eq!(reply, [0x15, 3, 3, 0, 2, 2, 49], "{shown:?}");
    }
    let local =
        exchange(b.addr(), &records(&client_hello(Some(b"301.countersign.lab"), TLS13), 16_000)).await;
    assert_eq!(local.first(), Some(&0x16), "a ServerHello");
    works(&a, &b).await;
}

#[tokio::test]
async fn tls_12_is_refused() {
    let (a, b) = pair().await;
    for versions in [&[0x0303][..], &[0x0303, 0x0302, 0x0301], &[0x0300]] {
        let bytes = records(&client_hello(Some(b"301.countersign.lab"), versions), 16_000);
        assert_eq!(exchange(b.addr(), &bytes).await, [0x15, 3, 3, 0, 2, 2, 70], "protocol_version");
    }
    works(&a, &b).await;
}

#[tokio::test]
async fn odd_records_are_no_trouble() {
    let (a, b) = pair().await;
    let hello = client_hello(Some(b"301.countersign.lab"), TLS13);
    // One byte per record (RUSTSEC-2024-0399), also with pauses in between.
    let reply = exchange(b.addr(), &records(&hello, 1)).await;
    assert_eq!(reply.first(), Some(&0x16), "a ServerHello");
    let close_notify = [0x15, 3, 3, 0, 2, 1, 0];
    let whole = records(&hello, 16_000);
    let rows = [
        // close_notify before, in the middle of, and after the ClientHello (RUSTSEC-2024-0336).
        close_notify.to_vec(),
        [&records(&hello, 50)[..55], &close_notify].concat(),
        [whole.as_slice(), &close_notify].concat(),
        [whole.as_slice(), &whole].concat(),
        // An empty record, an unknown type, application data first, lengths beyond all bounds.
        vec![0x16, 3, 1, 0, 0],
        vec![0xff; 600],
        vec![0x17, 3, 3, 0, 1, 0],
        vec![0x16, 3, 1, 0xff, 0xff, 1],
        vec![0x16, 3, 1, 0, 4, 1, 0xff, 0xff, 0xff],
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(),
        // The ClientHello cut off anywhere.
        whole[..3].to_vec(),
        whole[..whole.len() - 1].to_vec(),
    ];
    for bytes in rows {
        exchange(b.addr(), &bytes).await;
    }
    assert_eq!(b.seen.count(), 0);
    works(&a, &b).await;
}

#[tokio::test]
async fn random_bytes_never_stop_the_server() {
    let (a, b) = pair().await;
    let hello = records(&client_hello(Some(b"301.countersign.lab"), TLS13), 16_000);
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state >> 33).unwrap()
    };
    for _ in 0..300 {
        let mut bytes = hello.clone();
        for _ in 0..=random() % 4 {
            let at = random() % bytes.len();
            bytes[at] = u8::try_from(random() % 256).unwrap();
        }
        let mut tcp = TcpStream::connect(b.addr()).await.unwrap();
        tcp.write_all(&bytes).await.unwrap();
    }
    works(&a, &b).await;
    assert_eq!(b.seen.count(), 1);
}

/// Forwards connections to `to`, from another loopback address, keeping a copy of what the client sent.
async fn proxy(to: SocketAddr, from: &str) -> (SocketAddr, Arc<Mutex<Vec<u8>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let copy = Arc::new(Mutex::new(Vec::new()));
    let kept = Arc::clone(&copy);
    let from: SocketAddr = format!("{from}:0").parse().unwrap();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let socket = TcpSocket::new_v4().unwrap();
            socket.bind(from).unwrap();
            let server = socket.connect(to).await.unwrap();
            let kept = Arc::clone(&kept);
            let (mut client_rx, mut client_tx) = client.into_split();
            let (mut server_rx, mut server_tx) = server.into_split();
            tokio::spawn(async move { tokio::io::copy(&mut server_rx, &mut client_tx).await });
            tokio::spawn(async move {
                let mut buffer = [0; 4096];
                while let Ok(got @ 1..) = client_rx.read(&mut buffer).await {
                    kept.lock().unwrap().extend_from_slice(&buffer[..got]);
                    if server_tx.write_all(&buffer[..got]).await.is_err() {
                        break;
                    }
                }
            });
        }
    });
    (addr, copy)
}

#[tokio::test]
async fn a_replayed_handshake_proves_nothing() {
    let (a, b) = pair().await;
    let (through, copy) = proxy(b.addr(), "127.0.0.1").await;
    let outcome = a.client.handshake(a.request(300, 301, "node-b", through)).await.unwrap();
    outcome.ack.send().await;
    eventually("completed", || b.server.stats().completed() == 1).await;
    let recorded = copy.lock().unwrap().clone();
    assert!(recorded.len() > 2000, "a whole handshake: {} bytes", recorded.len());
    for _ in 0..3 {
        exchange(b.addr(), &recorded).await;
    }
    assert_eq!((b.seen.count(), b.server.stats().completed()), (1, 1));
    works(&a, &b).await;
}

#[tokio::test]
async fn a_handshake_sent_back_to_its_own_node_is_refused() {
    let ca = authority(DOMAIN);
    // Both identities are on both nodes, so that the certificates alone would do.
    let a = Agent::start("node-a", &ca, &[300, 301]).await;
    let c = Agent::start("node-c", &ca, &[300, 301]).await;
    let (mirror, _) = proxy(a.addr(), "127.0.0.2").await;
    let failure = a.client.handshake(a.request(300, 301, "node-b", mirror)).await.unwrap_err();
    assert_eq!(failure.kind, FailureKind::WrongIdentity, "{failure}");
    // Sent on to a third node that has the identity too.
    let (detour, _) = proxy(c.addr(), "127.0.0.2").await;
    let failure = a.client.handshake(a.request(300, 301, "node-b", detour)).await.unwrap_err();
    assert_eq!(failure.kind, FailureKind::WrongIdentity, "{failure}");
    // Meant for this very node, but coming from elsewhere: somebody else calls himself node-a.
    let failure = a.client.handshake(a.request(300, 301, "node-a", mirror)).await.unwrap_err();
    assert_eq!(failure.kind, FailureKind::Refused, "{failure}");
    assert_eq!((a.seen.count(), c.seen.count()), (0, 0));
    assert_eq!(a.server.stats().failures(FailureKind::WrongIdentity), 2);
}

#[tokio::test]
async fn there_are_no_tickets_and_no_early_data() {
    let ca = authority(DOMAIN);
    let b = Agent::start("node-b", &ca, &[301]).await;
    let config = fake_client(Some((&issue(&ca, 300)).into()));
    for _ in 0..2 {
        // The same configuration remembers sessions; there is nothing to remember.
        let stream = connect_tls(config.clone(), b.addr(), "301.countersign.lab").await.unwrap();
        let session = stream.get_ref().1;
        assert_eq!(session.handshake_kind(), Some(rustls::HandshakeKind::Full));
        assert_eq!(session.tls13_tickets_received(), 0);
        assert!(!session.is_early_data_accepted());
    }
}

fn raise_descriptors() {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn idle_strangers_do_not_keep_honest_peers_waiting() {
    raise_descriptors();
    let ca = authority(DOMAIN);
    let deadlines = Deadlines::default();
    let a = Agent::with("node-a", store(&ca, &[300]), deadlines, accept).await;
    let b = Agent::with("node-b", store(&ca, &[301]), deadlines, accept).await;
    let hello = records(&client_hello(Some(b"301.countersign.lab"), TLS13), 16_000);
    let mut idle = Vec::new();
    for at in 0..1000_usize {
        // All from the honest peer's own address, the worst case.
        let mut tcp = TcpStream::connect(b.addr()).await.unwrap();
        // A third is silent, a third stops in the middle of a ClientHello, a third after one.
        let sent = [0, hello.len() / 2, hello.len()][at % 3];
        let _ = tcp.write_all(&hello[..sent]).await;
        idle.push(tcp);
    }
    let mut slowest = Duration::ZERO;
    for _ in 0..50 {
        let began = Instant::now();
        works(&a, &b).await;
        slowest = slowest.max(began.elapsed());
    }
    assert!(slowest < Duration::from_millis(100), "{slowest:?}");
    let stats = b.server.stats();
    assert!(stats.evicted() >= 1000 - limits::MAX_INBOUND_PER_PEER as u64, "{}", stats.evicted());
    // The rest is gone after the deadline, without anybody's doing.
    tokio::time::sleep(limits::EXCHANGE + Duration::from_millis(200)).await;
    let gone = stats.failures(FailureKind::Timeout) + stats.evicted();
    assert_eq!(gone, 1000, "every one of them has ended");
    works(&a, &b).await;
}

#[tokio::test]
async fn one_byte_a_second_ends_with_the_deadline() {
    let (a, b) = pair().await;
    let hello = records(&client_hello(Some(b"301.countersign.lab"), TLS13), 16_000);
    let mut tcp = TcpStream::connect(b.addr()).await.unwrap();
    let began = Instant::now();
    for byte in hello {
        if tcp.write_all(&[byte]).await.is_err() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(began.elapsed() < DEADLINES.exchange + Duration::from_millis(400), "{:?}", began.elapsed());
    eventually("counted", || b.server.stats().failures(FailureKind::Timeout) == 1).await;
    works(&a, &b).await;
}

#[tokio::test]
async fn resets_before_and_after_accept_are_survived() {
    let (a, b) = pair().await;
    for at in 0..200 {
        let tcp = TcpStream::connect(b.addr()).await.unwrap();
        tcp.set_zero_linger().unwrap();
        if at % 2 == 0 {
            tokio::task::yield_now().await;
        }
        drop(tcp);
    }
    works(&a, &b).await;
}
