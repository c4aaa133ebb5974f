//! `first-datagram`: whether a lone datagram of a fresh pair arrives, a burst in order, and a stream in order
//! that does not stop while its pair is proved.

use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use anyhow::{Context as _, Result};
use countersign_e2e::probe::{self, Probe};
use countersign_e2e::sequence::Totals;
use countersign_e2e::stats::Samples;
use countersign_e2e::udp::{self, Receiver};
use countersign_e2e::world::{Place, World, WorldOptions};
use serde::Serialize;

use crate::limits::{
    BURST_DATAGRAMS, BURST_PAIRS, BURST_PODS, DATAGRAM_PAIRS, DATAGRAM_PODS, QUIET, STREAM_DATAGRAMS,
    STREAM_GAP, STREAM_PAUSE,
};
use crate::report::{self, ms};
use crate::scene::{self, Group};

const PORT: u16 = 9001;
const CLIENTS: Group = Group { name: "client", node: "node1", app: "client", count: DATAGRAM_PODS };
const NEAR: Group = Group { name: "near", node: "node1", app: "server", count: DATAGRAM_PODS / 2 };
const FAR: Group = Group { name: "far", node: "node2", app: "server", count: DATAGRAM_PODS / 2 };

/// All parts in sum.
#[derive(Serialize)]
struct Report {
    sent: u64,
    received: u64,
    duplicates: u64,
    reordered: u64,
}

/// How the datagrams of a part follow each other.
struct Pace {
    /// Datagrams of each pair.
    count: u32,
    /// Between two of them.
    gap: Duration,
    /// Between the first ones of two pairs.
    pause: Duration,
}

const AT_ONCE: Pace = Pace { count: 1, gap: Duration::ZERO, pause: Duration::ZERO };
const STREAM: Pace = Pace { count: STREAM_DATAGRAMS, gap: STREAM_GAP, pause: STREAM_PAUSE };

/// What became of one part.
struct Part {
    name: &'static str,
    sent: u64,
    totals: Totals,
    latencies: Samples,
}

/// Runs all parts and prints them.
pub fn run(json: bool) -> Result<()> {
    let world = scene::up(
        WorldOptions::new("benchfd")?,
        &[CLIENTS, NEAR, FAR],
        vec![scene::required(&["UDP/9001"])],
    )?;
    let stage = Stage::new(&world)?;
    let parts = [
        (
            "1,000 pairs, one datagram each",
            stage.alone(),
            Pace { pause: Duration::from_millis(1), ..AT_ONCE },
        ),
        ("100 pairs, 20 datagrams at once", stage.burst(), Pace { count: BURST_DATAGRAMS, ..AT_ONCE }),
        ("100 pairs, 200 datagrams while they are proved", stage.burst(), STREAM),
    ];
    let parts: Vec<Part> = parts
        .into_iter()
        .map(|(name, pairs, pace)| {
            scene::flush(&world)?;
            stage.send(name, &pairs, &pace)
        })
        .collect::<Result<_>>()?;
    print(&parts);
    let sum = |of: fn(&Part) -> u64| parts.iter().map(of).sum();
    report::json(
        json,
        &Report {
            sent: sum(|part| part.sent),
            received: sum(|part| part.totals.received),
            duplicates: sum(|part| part.totals.duplicates),
            reordered: sum(|part| part.totals.reordered),
        },
    )
}

struct Stage {
    clients: Vec<UdpSocket>,
    /// Near and far ones in turns, so that every selection has as many of both.
    servers: Vec<SocketAddr>,
    receiver: Receiver,
}

impl Stage {
    fn new(world: &World) -> Result<Self> {
        let clients = CLIENTS.places(world)?;
        let (near, far) = (NEAR.places(world)?, FAR.places(world)?);
        let places: Vec<&Place> = near.iter().zip(&far).flat_map(|(near, far)| [near, far]).collect();
        let sockets = places.iter().map(|place| udp::socket(&place.space, PORT)).collect::<Result<_>>()?;
        let servers =
            places.iter().map(|place| Ok(udp::mapped(SocketAddr::new(place.address(false)?, PORT))));
        Ok(Self {
            clients: clients.iter().map(|place| udp::socket(&place.space, 0)).collect::<Result<_>>()?,
            servers: servers.collect::<Result<_>>()?,
            receiver: Receiver::start(sockets),
        })
    }

    /// Different pairs of client and server, by number; neighbours in the list share no end.
    fn alone(&self) -> Vec<(usize, usize)> {
        let pair = |n: usize| (n % DATAGRAM_PODS, (n + n / DATAGRAM_PODS) % DATAGRAM_PODS);
        (0..DATAGRAM_PAIRS).map(pair).collect()
    }

    fn burst(&self) -> Vec<(usize, usize)> {
        (0..BURST_PAIRS).map(|n| (n % BURST_PODS, n / BURST_PODS)).collect()
    }

    /// Sends to `pairs`, one after the other, and waits for what comes.
    fn send(&self, name: &'static str, pairs: &[(usize, usize)], pace: &Pace) -> Result<Part> {
        self.receiver.take();
        let start = probe::now();
        for (flow, &(client, server)) in (0_u32..).zip(pairs) {
            udp::sleep_until(start + pace.pause * flow);
            let first = probe::now();
            for number in 0..pace.count {
                // Sleeping takes longer than most gaps.
                while probe::now() < first + pace.gap * number {
                    std::hint::spin_loop();
                }
                let probe = Probe::now(flow, number).encode();
                self.clients[client].send_to(&probe, self.servers[server]).context("send")?;
            }
        }
        let sent = pairs.len() as u64 * u64::from(pace.count);
        self.receiver.wait(sent, QUIET);
        // One that comes twice comes soon after the first.
        std::thread::sleep(Duration::from_millis(500));
        let received = self.receiver.take();
        Ok(Part {
            name,
            sent,
            totals: received.ledger.totals(),
            latencies: received.latencies.into_iter().collect(),
        })
    }
}

fn print(parts: &[Part]) {
    println!();
    let headings = ["first datagrams", "sent", "received", "twice", "out of order", "p50 ms", "p99 ms"];
    let mut table = report::table(&headings);
    for part in parts {
        let Totals { received, duplicates, reordered } = part.totals;
        let counts = [part.sent, received, duplicates, reordered].map(|count| count.to_string());
        let times = [part.latencies.p50(), part.latencies.p99()].map(ms);
        table.add_row(std::iter::once(part.name.to_owned()).chain(counts).chain(times));
    }
    println!("{table}");
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn pairs_are_different() {
        let stage = Stage { clients: Vec::new(), servers: Vec::new(), receiver: Receiver::start(Vec::new()) };
        assert_eq!(stage.alone().into_iter().collect::<BTreeSet<_>>().len(), DATAGRAM_PAIRS);
        assert_eq!(stage.burst().into_iter().collect::<BTreeSet<_>>().len(), BURST_PAIRS);
    }
}
