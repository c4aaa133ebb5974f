//! Pods that cannot prove themselves send without pause: they get nowhere, cost next to nothing, and take nobody
//! else's places. Needs root.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use countersign_e2e::flow::Datagrams;
use countersign_e2e::manifests::{Pod, Rule, policy};
use countersign_e2e::probe::Probe;
use countersign_e2e::udp::{self, Receiver};
use countersign_e2e::world::{World, WorldOptions, eventually, in_world};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Packets a second.
const RATE: u32 = 1_000;
/// The peer has the pod and no SVID of it: pauses of 0.1 s, 17 times 0.2 s, and then 0.4, 0.8 and 1.6 s fit into the
/// flood, some of them up to a quarter longer, and the first try.
const HANDSHAKES: u64 = 24;

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

/// Together they send more than all pods of a node may park.
const FLOODERS: usize = 24;
const FLOOD_RATE: u32 = 500;
const HONEST: u32 = 8;

#[test]
fn a_silent_node_that_floods_under_many_names_takes_its_own_places_only() -> Result<()> {
    let named = |name: String, node| Pod::new(&name, node, "client").label("who", &name).yaml();
    let mut documents: Vec<String> = (0..FLOODERS).map(|n| named(format!("flooder-{n}"), "node2")).collect();
    documents.extend((0..HONEST).map(|n| named(format!("honest-{n}"), "node1")));
    documents.push(Pod::new("web", "node1", "web").yaml());
    documents.push(policy("web", "web", &[Rule { peer: "client", ports: &[], required: true }], &[]));
    in_world(WorldOptions::new("names")?, &documents, |world| {
        let web = world.place("web")?;
        let receiver = Receiver::start(vec![udp::socket(&web.space, 9000)?]);
        let to = SocketAddr::new(web.address(false)?, 9000);
        // It accepts connections and never says a word: every one of its pods' pairs is tried for seconds.
        kill(Pid::from_raw(world.agent_pid("node2")?), Signal::SIGSTOP)?;
        let floods = (0..FLOODERS).map(|n| {
            let socket = udp::socket(&world.place(&format!("flooder-{n}"))?.space, 0)?;
            Ok(Datagrams::start(socket, to, 1_000 + u32::try_from(n)?, FLOOD_RATE))
        });
        let floods: Vec<Datagrams> = floods.collect::<Result<_>>()?;
        eventually("the flood has taken what it can get", Duration::from_secs(20), || {
            let parking = world.agent("node1")?.status()?.parking;
            Ok(parking.parked_packets > 4_096 && !parking.discarded.is_empty())
        })?;
        for n in 0..HONEST {
            let socket = udp::socket(&world.place(&format!("honest-{n}"))?.space, 0)?;
            socket.send_to(&Probe::now(n, 0).encode(), udp::mapped(to))?;
        }
        let arrived = receiver.wait(HONEST.into(), Duration::from_secs(6));
        kill(Pid::from_raw(world.agent_pid("node2")?), Signal::SIGCONT)?;
        floods.into_iter().try_for_each(|flood| flood.stop().map(drop))?;
        ensure!(arrived == u64::from(HONEST), "{arrived} of {HONEST} lone datagrams found a place");
        Ok(())
    })
}
