//! What handshakes cost, between two agents' clients and servers in one process over loopback.
//!
//! `cargo run --release -p countersign-agent --example handshake_micro -- [LANES [PAIRS]]`
//!
//! Every handshake is of another pair of 100 × 100 identities; both directions of the messages, the answer
//! of a node's task and the acknowledgement are included. CPU is that of both sides together.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result};
use countersign_agent::handshake::{
    Assertion, Client, Deadlines, Inbound, InboundAccept, KeyExchange, PeerNames, Request, Server,
    ServerConfig, SvidStore, Tls,
};
use countersign_certs::{IdTemplate, SpiffeId, TrustDomain};
use countersign_spire::embedded::EmbeddedCa;
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike as _;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

const IDENTITIES: u32 = 100;
const CLIENTS_FROM: u32 = 1_000;
const SERVERS_FROM: u32 = 5_000;

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let mut number = |default: usize| arguments.next().map_or(Ok(default), |text| text.parse());
    let (lanes, pairs) = (number(16)?, number(10_000)?);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(run(lanes, pairs))
}

async fn run(lanes: usize, pairs: usize) -> Result<()> {
    let dir = tempfile::tempdir()?;
    let domain = TrustDomain::parse("countersign.lab")?;
    let ca = EmbeddedCa::open(dir.path(), &domain, now()?)?;
    let clients = store(&ca, CLIENTS_FROM)?;
    let servers = store(&ca, SERVERS_FROM)?;
    let (inbound, requests) = mpsc::channel(1024);
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let config = ServerConfig { node: "node-b".to_owned(), deadlines: Deadlines::default() };
    let server = Server::spawn(listener, config, servers.share(), inbound)?;
    tokio::spawn(answer(requests));
    let client = Client::new(clients.share(), Deadlines::default());
    println!(
        "{:>8} {:>8} {:>10} {:>10} {:>10} {:>14}",
        "lanes", "pairs", "pairs/s", "p50", "p99", "CPU per pair"
    );
    for _ in 0..3 {
        measure(&client, &server, lanes, pairs).await?;
    }
    Ok(())
}

async fn measure(client: &Client, server: &Server, lanes: usize, pairs: usize) -> Result<()> {
    let (next, addr) = (Arc::new(AtomicUsize::new(0)), server.local_addr());
    let (cpu, began) = (cpu()?, Instant::now());
    let mut running = JoinSet::new();
    for _ in 0..lanes {
        let (client, next) = (client.clone(), Arc::clone(&next));
        running.spawn(async move {
            let mut times = Vec::new();
            loop {
                let pair = next.fetch_add(1, Ordering::Relaxed);
                if pair >= pairs {
                    return Ok::<_, anyhow::Error>(times);
                }
                let outcome = client.handshake(request(pair, addr)?).await?;
                times.push(outcome.duration);
                outcome.ack.send().await;
            }
        });
    }
    let mut times: Vec<Duration> = Vec::with_capacity(pairs);
    while let Some(lane) = running.join_next().await {
        times.extend(lane??);
    }
    let rate = pairs as f64 / began.elapsed().as_secs_f64();
    let spent = (self::cpu()? - cpu) / u32::try_from(pairs)?;
    times.sort_unstable();
    let at = |percent: usize| times.get(times.len() * percent / 100).copied().unwrap_or_default();
    println!("{lanes:>8} {pairs:>8} {rate:>10.0} {:>10.2?} {:>10.2?} {spent:>14.1?}", at(50), at(99));
    Ok(())
}

fn store(ca: &EmbeddedCa, from: u32) -> Result<SvidStore> {
    let names = PeerNames::ByNumber(IdTemplate::default());
    let store = SvidStore::new(Tls::new(KeyExchange::Prefer), ca.trust_domain().clone(), names);
    store.set_bundle(Arc::new(ca.bundle()?));
    for number in from..from + IDENTITIES {
        store.put(number, &ca.issue(&id(number)?, now()?, 3600)?)?;
    }
    Ok(store)
}

async fn answer(mut requests: mpsc::Receiver<Inbound>) {
    while let Some(inbound) = requests.recv().await {
        let assertions = inbound.assertions;
        let accept = InboundAccept { assertions, not_after: u64::MAX, confirmed: None };
        let _ = inbound.respond.send(Ok(accept));
    }
}

fn request(pair: usize, addr: std::net::SocketAddr) -> Result<Request> {
    let pair = u32::try_from(pair)?;
    let remote = SERVERS_FROM + pair / IDENTITIES % IDENTITIES;
    Ok(Request {
        local_identity: CLIENTS_FROM + pair % IDENTITIES,
        remote_identity: remote,
        remote_id: id(remote)?,
        addr,
        own_node: "node-a".to_owned(),
        remote_node: "node-b".to_owned(),
        assertions: vec![Assertion { ip: [10, 0, 1, 1].into(), generation: 1 }],
        not_after: u64::MAX,
        disowned: Vec::new(),
        tunnel: None,
        moved: None,
    })
}

fn id(number: u32) -> Result<SpiffeId> {
    Ok(SpiffeId::parse(&format!("spiffe://countersign.lab/identity/{number}"))?)
}

fn now() -> Result<u64> {
    Ok(SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs())
}

fn cpu() -> Result<Duration> {
    let usage = getrusage(UsageWho::RUSAGE_SELF)?;
    let micros = usage.user_time().num_microseconds() + usage.system_time().num_microseconds();
    Ok(Duration::from_micros(u64::try_from(micros).context("CPU time")?))
}
