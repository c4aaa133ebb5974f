//! A pod that cannot prove itself sends without pause: it gets nowhere, and costs next to nothing. Needs root.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use countersign_e2e::flow::Datagrams;
use countersign_e2e::manifests::{Pod, Rule, policy};
use countersign_e2e::udp::{self, Receiver};
use countersign_e2e::world::{World, WorldOptions, eventually, in_world};

/// Packets a second.
const RATE: u32 = 1_000;
/// Back-off steps of 0.1, 0.2, … 3.2 s fit into the flood, each up to half longer or shorter, and the first try.
const HANDSHAKES: u64 = 12;

fn cast() -> Vec<String> {
    vec![
        Pod::new("web", "node2", "web").yaml(),
        Pod::new("nobody", "node1", "client").unregistered().yaml(),
        Pod::new("honest", "node1", "client").label("who", "honest").yaml(),
        policy("web", "web", &[Rule { peer: "client", ports: &[], required: true }], &[]),
    ]
}

/// Processor time that a node's agent has used, in clock ticks.
fn ticks(world: &World, node: &str) -> Result<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", world.agent_pid(node)?))?;
    let (_, rest) = stat.rsplit_once(") ").context("no process name")?;
    Ok(rest.split(' ').skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum())
}

#[test]
fn a_flood_without_a_proof_is_neither_delivered_nor_dialled_for() -> Result<()> {
    in_world(WorldOptions::new("flood")?, &cast(), |world| {
        let (nobody, web) = (world.place("nobody")?, world.place("web")?);
        let receiver = Receiver::start(vec![udp::socket(&web.space, 9000)?]);
        let to = SocketAddr::new(web.address(false)?, 9000);
        let (start, before) = (Instant::now(), ticks(world, "node2")?);
        let flood = Datagrams::start(udp::socket(&nobody.space, 0)?, to, 0, RATE);
        eventually("six steps of back-off", Duration::from_secs(20), || {
            Ok(start.elapsed() > Duration::from_secs(6))
        })?;
        let used = ticks(world, "node2")? - before;
        let failed: u64 = world.agent("node2")?.status()?.authentication.handshakes_failed.values().sum();
        println!("{failed} handshakes, {used} ticks (of 10 ms) of node2's agent in {:?}", start.elapsed());
        ensure!((1..=HANDSHAKES).contains(&failed), "{failed} handshakes for one pair");

        // Whoever can prove himself gets through meanwhile.
        let honest = Datagrams::start(udp::socket(&world.place("honest")?.space, 0)?, to, 1, 100);
        eventually("the honest one gets through", Duration::from_secs(5), || {
            Ok(receiver.received().ledger.received(1) > 10)
        })?;
        honest.stop()?;
        let sent = flood.stop()?;
        ensure!(receiver.received().ledger.received(0) == 0, "of {sent} packets without a proof some came");
        Ok(())
    })
}
