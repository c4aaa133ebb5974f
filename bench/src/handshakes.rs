//! `handshakes`: 100 identities against 100, 10,000 fresh pairs: how fast all are proved from cold, how long one
//! waits when 2,000 come per second, and what the agents' memory is then.
//!
//! How fast the machine is changes from minute to minute, so the same library alone is measured beside it, and
//! the waiting is measured once more at the rate that belongs to that.

mod memory;

use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use countersign_e2e::probe::{self, Probe};
use countersign_e2e::process;
use countersign_e2e::stats::{Samples, rounded};
use countersign_e2e::udp::{self, Receiver};
use countersign_e2e::world::{World, WorldOptions};
use serde::Serialize;

use crate::limits::{ALONE, COLD, HANDSHAKE_PODS, OF_ONE_CORE, OFFERED_RATE, QUIET, RESEND};
use crate::report::{self, ms};
use crate::scene::{self, Group};

const PORT: u16 = 9002;
const CLIENTS: Group = Group { name: "client", node: "node1", app: "client", count: HANDSHAKE_PODS };
const SERVERS: Group = Group { name: "server", node: "node2", app: "server", count: HANDSHAKE_PODS };

#[derive(Serialize)]
struct Report {
    pairs_per_s: f64,
    p50_ms: f64,
    p99_ms: f64,
    rss_mib: f64,
    rss_idle_mib: f64,
    alone_per_s_and_core: f64,
    ratio_to_alone: f64,
    scaled_rate_per_s: f64,
    scaled_p50_ms: f64,
    scaled_p99_ms: f64,
}

/// Both parts, and memory before and after.
pub fn run(json: bool) -> Result<()> {
    let world =
        scene::up(WorldOptions::new("benchhs")?, &[CLIENTS, SERVERS], vec![scene::required(&["UDP/9002"])])?;
    let idle = rss(&world)?;
    let stage = Stage::new(&world)?;
    let before = memory::per_core(ALONE)?;
    scene::flush(&world)?;
    let cold = stage.cold()?;
    let alone = (before + memory::per_core(ALONE)?) / 2.0;
    scene::flush(&world)?;
    let paced = stage.paced(f64::from(OFFERED_RATE))?;
    let live = rss(&world)?;
    scene::flush(&world)?;
    let scaled_rate = memory::per_core(ALONE)? * OF_ONE_CORE;
    let scaled = stage.paced(scaled_rate)?;
    let pairs_per_s = stage.pairs() as f64 / cold.took.as_secs_f64();
    let report = Report {
        pairs_per_s: rounded(pairs_per_s),
        p50_ms: rounded(paced.latencies.p50()),
        p99_ms: rounded(paced.latencies.p99()),
        rss_mib: rounded(live),
        rss_idle_mib: rounded(idle),
        alone_per_s_and_core: rounded(alone),
        ratio_to_alone: rounded(pairs_per_s / alone),
        scaled_rate_per_s: rounded(scaled_rate),
        scaled_p50_ms: rounded(scaled.latencies.p50()),
        scaled_p99_ms: rounded(scaled.latencies.p99()),
    };
    let lost = paced.lost + scaled.lost;
    print(&stage, &cold, &report, lost);
    report::json(json, &report)?;
    if lost > 0 {
        bail!("{lost} of the paced datagrams were lost");
    }
    Ok(())
}

struct Stage {
    clients: Vec<UdpSocket>,
    servers: Vec<SocketAddr>,
    receiver: Receiver,
}

/// All pairs as fast as they go, each sending again until it is heard.
struct Cold {
    took: Duration,
    rounds: u32,
}

/// Pairs at a steady rate, one datagram each.
struct Paced {
    latencies: Samples,
    lost: u64,
}

impl Stage {
    fn new(world: &World) -> Result<Self> {
        let (clients, servers) = (CLIENTS.places(world)?, SERVERS.places(world)?);
        let sockets = servers.iter().map(|place| udp::socket(&place.space, PORT)).collect::<Result<_>>()?;
        let addresses =
            servers.iter().map(|place| Ok(udp::mapped(SocketAddr::new(place.address(false)?, PORT))));
        Ok(Self {
            clients: clients.iter().map(|place| udp::socket(&place.space, 0)).collect::<Result<_>>()?,
            servers: addresses.collect::<Result<_>>()?,
            receiver: Receiver::start(sockets),
        })
    }

    fn pairs(&self) -> usize {
        self.clients.len() * self.servers.len()
    }

    /// Sends datagram `number` of pair `pair`; neighbouring pairs share no end.
    fn send(&self, pair: usize, number: u32) -> Result<()> {
        let (round, client) = (pair / self.clients.len(), pair % self.clients.len());
        let server = (client + round) % self.servers.len();
        let probe = Probe::now(u32::try_from(pair)?, number).encode();
        self.clients[client].send_to(&probe, self.servers[server]).context("send")?;
        Ok(())
    }

    fn cold(&self) -> Result<Cold> {
        self.receiver.take();
        let start = probe::now();
        let mut waiting: Vec<usize> = (0..self.pairs()).collect();
        for rounds in 0.. {
            for &pair in &waiting {
                self.send(pair, rounds)?;
            }
            self.receiver.wait_flows(self.pairs(), RESEND);
            let received = self.receiver.received();
            waiting.retain(|&pair| !received.first_of_flow.contains_key(&(pair as u32)));
            let last = received.first_of_flow.values().max().copied().unwrap_or_default();
            if waiting.is_empty() {
                return Ok(Cold { took: last.saturating_sub(start), rounds: rounds + 1 });
            }
            if probe::now() > start + COLD {
                break;
            }
        }
        bail!("{} of {} pairs are not proved after {COLD:?}", waiting.len(), self.pairs())
    }

    fn paced(&self, rate: f64) -> Result<Paced> {
        self.receiver.take();
        let start = probe::now();
        for (number, pair) in (0_u32..).zip(0..self.pairs()) {
            udp::sleep_until(start + Duration::from_secs_f64(f64::from(number) / rate));
            self.send(pair, 0)?;
        }
        let arrived = self.receiver.wait(self.pairs() as u64, QUIET);
        let latencies = self.receiver.take().latencies.into_iter().collect();
        Ok(Paced { latencies, lost: self.pairs() as u64 - arrived })
    }
}

/// The larger agent's resident memory, in MiB.
fn rss(world: &World) -> Result<f64> {
    let mut largest = 0.0_f64;
    for node in ["node1", "node2"] {
        largest = largest.max(process::rss_mib(world.agent_pid(node)?)?);
    }
    Ok(largest)
}

fn print(stage: &Stage, cold: &Cold, report: &Report, lost: u64) {
    println!();
    let mut table = report::table(&["handshakes", "result"]);
    table.add_row(["pairs".to_owned(), stage.pairs().to_string()]);
    table.add_row([
        "all proved from cold, s".to_owned(),
        format!("{:.2} (sent {} times)", cold.took.as_secs_f64(), cold.rounds),
    ]);
    table.add_row(["pairs/s from cold".to_owned(), format!("{:.0}", report.pairs_per_s)]);
    table.add_row([
        "rustls alone, in memory, handshakes/s and core".to_owned(),
        format!("{:.0}", report.alone_per_s_and_core),
    ]);
    table.add_row([format!("ratio (aim {OF_ONE_CORE:.2})"), format!("{:.2}", report.ratio_to_alone)]);
    for (rate, p50, p99) in [
        (f64::from(OFFERED_RATE), report.p50_ms, report.p99_ms),
        (report.scaled_rate_per_s, report.scaled_p50_ms, report.scaled_p99_ms),
    ] {
        table.add_row([format!("p50 ms at {rate:.0} pairs/s"), ms(p50)]);
        table.add_row([format!("p99 ms at {rate:.0} pairs/s"), ms(p99)]);
    }
    table.add_row(["lost at those rates".to_owned(), lost.to_string()]);
    table.add_row(["agent, RSS MiB before".to_owned(), format!("{:.1}", report.rss_idle_mib)]);
    table.add_row(["agent, RSS MiB with all pairs".to_owned(), format!("{:.1}", report.rss_mib)]);
    println!("{table}");
}
