//! `first-connection`: what the first TCP connection of a pair costs when a proof is required, with parking and
//! without, and what later ones cost beside the same path without authentication.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use countersign_e2e::manifests::{Rule, policy};
use countersign_e2e::stats::{Samples, rounded};
use countersign_e2e::tcp::{self, Acceptor};
use countersign_e2e::world::{Place, World, WorldOptions};
use countersign_lab::Parking;
use serde::Serialize;
use socket2::Socket;

use crate::limits::{CONNECT, FIRST_PAIRS, FIRST_PODS, LATER_CONNECTIONS};
use crate::report::{self, ms};
use crate::scene::{self, Group};

const CLIENTS: Group = Group { name: "client", node: "node1", app: "client", count: FIRST_PODS };
const NEAR: Group = Group { name: "near", node: "node1", app: "server", count: FIRST_PODS };
const FAR: Group = Group { name: "far", node: "node2", app: "server", count: FIRST_PODS };

/// Which side's policy asks for the proof; each has a port of its own, so that no policy has to change.
const DIRECTIONS: [(&str, u16); 3] = [("ingress", 8001), ("egress", 8002), ("both", 8003)];
/// The port on which nobody asks.
const OPEN: u16 = 8004;

#[derive(Serialize)]
struct Report {
    rows: Vec<Row>,
    later: Vec<Later>,
}

#[derive(Serialize)]
struct Row {
    direction: &'static str,
    placement: &'static str,
    family: &'static str,
    parking: bool,
    n: usize,
    p50_ms: f64,
    p99_ms: f64,
    #[serde(skip)]
    failed: usize,
}

/// Later connections of proved pairs, and the same without authentication, taken in turns.
#[derive(Serialize)]
struct Later {
    placement: &'static str,
    family: &'static str,
    n: usize,
    authenticated_p50_ms: f64,
    open_p50_ms: f64,
}

/// Runs all rows and prints them.
pub fn run(json: bool) -> Result<()> {
    let mut stage = Stage::up()?;
    let (mut rows, later) = with_parking(&stage)?;
    stage.world.lab_mut().set_parking(Parking::Off)?;
    rows.extend(without_parking(&stage)?);
    print(&rows, &later);
    let failed: usize = rows.iter().map(|row| row.failed).sum();
    report::json(json, &Report { rows, later })?;
    if failed > 0 {
        bail!("{failed} connections failed");
    }
    Ok(())
}

/// The pods and their listeners.
struct Stage {
    world: World,
    clients: Vec<Place>,
    near: Vec<Place>,
    far: Vec<Place>,
    _acceptor: Acceptor,
}

impl Stage {
    fn up() -> Result<Self> {
        let world = scene::up(WorldOptions::new("benchfc")?, &[CLIENTS, NEAR, FAR], policies())?;
        let (clients, near, far) = (CLIENTS.places(&world)?, NEAR.places(&world)?, FAR.places(&world)?);
        let ports = DIRECTIONS.map(|(_, port)| port).into_iter().chain([OPEN]);
        let everywhere = ports.flat_map(|port| near.iter().chain(&far).map(move |place| (place, port)));
        let listeners =
            everywhere.map(|(place, port)| tcp::listen(&place.space, port)).collect::<Result<_>>()?;
        Ok(Self { world, clients, near, far, _acceptor: Acceptor::start(listeners) })
    }

    fn servers(&self, placement: &str) -> &[Place] {
        if placement == "same-node" { &self.near } else { &self.far }
    }
}

/// Both ends' policies name every port, each with or without `required` as its row needs.
fn policies() -> Vec<String> {
    let rule = |peer, ports, required| Rule { peer, ports, required };
    let ingress =
        [rule("client", &["TCP/8001", "TCP/8003"], true), rule("client", &["TCP/8002", "TCP/8004"], false)];
    let egress =
        [rule("server", &["TCP/8002", "TCP/8003"], true), rule("server", &["TCP/8001", "TCP/8004"], false)];
    vec![policy("servers", "server", &ingress, &[]), policy("clients", "client", &[], &egress)]
}

/// Every combination of placement and family.
const PATHS: [(&str, &str); 4] =
    [("same-node", "ipv4"), ("same-node", "ipv6"), ("cross-node", "ipv4"), ("cross-node", "ipv6")];

fn with_parking(stage: &Stage) -> Result<(Vec<Row>, Vec<Later>)> {
    let (mut rows, mut later) = (Vec::new(), Vec::new());
    for (direction, port) in DIRECTIONS {
        for (placement, family) in PATHS {
            scene::flush(&stage.world)?;
            let pairs = pairs(stage, placement, family, port, FIRST_PAIRS)?;
            let taken = pairs.into_iter().map(|pair| tcp::timed_connect(&pair.socket, pair.to, CONNECT));
            rows.push(row(direction, placement, family, true, taken.collect()));
        }
    }
    for (placement, family) in PATHS {
        later.push(compare(stage, placement, family)?);
    }
    Ok((rows, later))
}

/// Each of these takes a second or more, so they run side by side.
fn without_parking(stage: &Stage) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for (direction, port) in DIRECTIONS {
        for (placement, family) in PATHS {
            scene::flush(&stage.world)?;
            let pairs = pairs(stage, placement, family, port, FIRST_PODS)?;
            let taken = std::thread::scope(|scope| {
                let connect =
                    |pair: Pair| scope.spawn(move || tcp::timed_connect(&pair.socket, pair.to, CONNECT));
                let threads: Vec<_> = pairs.into_iter().map(connect).collect();
                threads.into_iter().filter_map(|thread| thread.join().ok()).collect()
            });
            rows.push(row(direction, placement, family, false, taken));
        }
    }
    Ok(rows)
}

/// A client's socket, and where it is to connect.
struct Pair {
    socket: Socket,
    to: SocketAddr,
}

/// `count` different pairs. The first as many as there are clients have neither end in common.
fn pairs(stage: &Stage, placement: &str, family: &str, port: u16, count: usize) -> Result<Vec<Pair>> {
    let servers = stage.servers(placement);
    let mut pairs = Vec::with_capacity(count);
    for number in 0..count {
        let (round, client) = (number / FIRST_PODS, number % FIRST_PODS);
        let to = SocketAddr::new(address(&servers[(client + round) % FIRST_PODS], family)?, port);
        let socket = tcp::sockets(&stage.clients[client].space, to, 1)?.pop().context("one socket")?;
        pairs.push(Pair { socket, to });
    }
    Ok(pairs)
}

fn address(place: &Place, family: &str) -> Result<IpAddr> {
    place.address(family == "ipv6")
}

fn row(
    direction: &'static str,
    placement: &'static str,
    family: &'static str,
    parking: bool,
    taken: Vec<std::io::Result<Duration>>,
) -> Row {
    let all = taken.len();
    let samples: Samples = taken.into_iter().flatten().collect();
    let (n, p50_ms, p99_ms) = (samples.len(), rounded(samples.p50()), rounded(samples.p99()));
    Row { direction, placement, family, parking, n, p50_ms, p99_ms, failed: all - n }
}

/// Takes turns between the port of proved pairs and the open one, so that both see the same machine.
fn compare(stage: &Stage, placement: &'static str, family: &'static str) -> Result<Later> {
    let (_, proved) = DIRECTIONS[2];
    let mut taken = [Vec::new(), Vec::new()];
    // Once unmeasured: the pairs prove themselves, the neighbours are known.
    connect_each(stage, placement, family, proved)?;
    while taken[1].len() < LATER_CONNECTIONS {
        for (port, taken) in [proved, OPEN].into_iter().zip(&mut taken) {
            taken.extend(connect_each(stage, placement, family, port)?);
        }
    }
    let [authenticated, open] = taken.map(|taken| taken.into_iter().collect::<Samples>());
    Ok(Later {
        placement,
        family,
        n: open.len(),
        authenticated_p50_ms: rounded(authenticated.p50()),
        open_p50_ms: rounded(open.p50()),
    })
}

fn connect_each(stage: &Stage, placement: &str, family: &str, port: u16) -> Result<Vec<Duration>> {
    let pairs = pairs(stage, placement, family, port, FIRST_PODS)?;
    let connect = |pair: Pair| Ok(tcp::timed_connect(&pair.socket, pair.to, CONNECT)?);
    pairs.into_iter().map(connect).collect()
}

fn print(rows: &[Row], later: &[Later]) {
    println!("\nFirst connection of a fresh pair");
    let mut table =
        report::table(&["required on", "placement", "family", "parking", "n", "p50 ms", "p99 ms", "failed"]);
    for row in rows {
        let parking = if row.parking { "on" } else { "off" };
        let (n, failed) = (row.n.to_string(), row.failed.to_string());
        let (p50, p99) = (ms(row.p50_ms), ms(row.p99_ms));
        table.add_row([row.direction, row.placement, row.family, parking, &n, &p50, &p99, &failed]);
    }
    println!("{table}\n\nLater connections, beside the same path on which no proof is asked for");
    let mut table =
        report::table(&["placement", "family", "n", "proved p50 ms", "open p50 ms", "difference"]);
    for row in later {
        let (n, proved, open) = (row.n.to_string(), ms(row.authenticated_p50_ms), ms(row.open_p50_ms));
        let difference = format!("{:+.1} %", (row.authenticated_p50_ms / row.open_p50_ms - 1.0) * 100.0);
        table.add_row([row.placement, row.family, &n, &proved, &open, &difference]);
    }
    println!("{table}");
}
