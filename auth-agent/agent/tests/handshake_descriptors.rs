//! Running out of file descriptors: its own binary, because the limit is the process's.

use std::sync::Arc;
use std::time::Duration;

use countersign_agent::handshake::{
    Client, Deadlines, InboundAccept, KeyExchange, PeerNames, Request, Server, ServerConfig, SvidStore, Tls,
};
use countersign_certs::{IdTemplate, SpiffeId, TrustDomain};
use countersign_spire::embedded::EmbeddedCa;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::mpsc;

fn now() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs()
}

fn id(number: u32) -> SpiffeId {
    SpiffeId::parse(&format!("spiffe://countersign.lab/identity/{number}")).unwrap()
}

fn store(dir: &std::path::Path) -> SvidStore {
    let domain = TrustDomain::parse("countersign.lab").unwrap();
    let ca = EmbeddedCa::open(dir, &domain, now()).unwrap();
    let names = PeerNames::ByNumber(IdTemplate::default());
    let store = SvidStore::new(Tls::new(KeyExchange::Prefer), domain, names);
    store.set_bundle(Arc::new(ca.bundle().unwrap()));
    for number in [300, 301] {
        store.put(number, &ca.issue(&id(number), now(), 3600).unwrap()).unwrap();
    }
    store
}

fn request(server: &Server) -> Request {
    Request {
        local_identity: 300,
        remote_identity: 301,
        remote_id: id(301),
        addr: server.local_addr(),
        own_node: "node-a".into(),
        remote_node: "node-a".into(),
        assertions: vec![],
        not_after: u64::MAX,
        disowned: Vec::new(),
        tunnel: None,
        moved: None,
    }
}

#[tokio::test]
async fn a_server_out_of_descriptors_waits_and_recovers() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (inbound, mut requests) = mpsc::channel(64);
    let config = ServerConfig { node: "node-a".into(), deadlines: Deadlines::default() };
    let server = Server::spawn(listener, config, store.share(), inbound).unwrap();
    tokio::spawn(async move {
        while let Some(inbound) = requests.recv().await {
            let _ =
                inbound.respond.send(Ok(InboundAccept { not_after: u64::MAX, ..InboundAccept::default() }));
        }
    });
    let client = Client::new(store.share(), Deadlines::default());
    client.handshake(request(&server)).await.unwrap().ack.send().await;

    // The clients' sockets exist already, so that only `accept` wants new descriptors.
    let sockets: Vec<TcpSocket> = (0..50).map(|_| TcpSocket::new_v4().unwrap()).collect();
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    let open = std::fs::read_dir("/proc/self/fd").unwrap().count() as u64;
    setrlimit(Resource::RLIMIT_NOFILE, open + 2, hard).unwrap();
    let mut idle = Vec::new();
    for socket in sockets {
        idle.push(socket.connect(server.local_addr()).await.unwrap());
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    let errors = server.stats().accept_errors();
    setrlimit(Resource::RLIMIT_NOFILE, soft, hard).unwrap();
    assert!((1..=20).contains(&errors), "it noticed, and did not spin: {errors}");
    drop(idle);
    client.handshake(request(&server)).await.unwrap().ack.send().await;
}
