//! Nodes change their WireGuard keys and preshared keys under traffic, and nothing is lost. Needs root.
//!
//! `CS_ROTATION_SECONDS=300` makes the first test as long as that, `CS_ROTATION_ROUNDS=40` the second one.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use countersign_agent_api::{Request, RotationBegun};
use countersign_e2e::flow::{Bulk, Datagrams};
use countersign_e2e::manifests::{Pod, Rule, policy};
use countersign_e2e::udp::{self, Receiver};
use countersign_e2e::wire::Capture;
use countersign_e2e::world::{World, WorldOptions, eventually, in_world};

const NODES: [&str; 2] = ["node1", "node2"];
/// How old a key gets, and a preshared key, before there is another.
const EVERY: Duration = Duration::from_secs(20);
/// In each direction.
const DATAGRAMS_PER_SECOND: u32 = 1_000;
/// Bytes per second of the stream beside them: what the machine's two cores do not feel. Faster than they can go, a
/// stream makes queues overflow by itself.
const BULK: u64 = 10 << 20;

fn cast() -> Vec<String> {
    vec![
        Pod::new("web", "node2", "web").yaml(),
        Pod::new("client", "node1", "client").yaml(),
        policy("web", "web", &[Rule { peer: "client", ports: &[], required: true }], &[]),
    ]
}

fn arguments(all: &[&str]) -> Vec<String> {
    all.iter().map(|argument| (*argument).to_owned()).collect()
}

/// How long a change takes that nobody disturbs, about.
const CHANGE: Duration = Duration::from_millis(4_500);

fn number(variable: &'static str, otherwise: u32) -> Result<u32> {
    match std::env::var(variable) {
        Ok(text) => text.parse().context(variable),
        Err(_) => Ok(otherwise),
    }
}

/// The preshared keys of all devices of a node.
fn preshared_keys(world: &World, node: &str) -> Result<BTreeSet<String>> {
    let show = || Command::new("wg").args(["show", "all", "preshared-keys"]).output().context("run wg");
    let text = String::from_utf8(world.node(node)?.run(show)?.stdout)?;
    let last = |line: &str| line.split_whitespace().last().map(str::to_owned);
    Ok(text.lines().filter_map(last).filter(|key| key != "(none)").collect())
}

fn public_key(world: &World, node: &str) -> Result<String> {
    Ok(world.agent(node)?.encrypt_status()?.public_key)
}

/// Both nodes' pods speak with each other; a marker in the payload tells them on the wire.
struct Flows {
    receivers: [Receiver; 2],
    datagrams: [Datagrams; 2],
}

impl Flows {
    fn start(world: &World, rate: u32) -> Result<Self> {
        let (client, web) = (world.place("client")?, world.place("web")?);
        // The way back is let through because it is one.
        let (from, at) = (udp::socket(&client.space, 9001)?, udp::socket(&web.space, 9000)?);
        let to_web = SocketAddr::new(web.address(false)?, 9000);
        let to_client = SocketAddr::new(client.address(false)?, 9001);
        let receivers = [Receiver::start(vec![at.try_clone()?]), Receiver::start(vec![from.try_clone()?])];
        let there = Datagrams::start(from, to_web, 0, rate);
        eventually("the flow runs", Duration::from_secs(20), || {
            Ok(receivers[0].received().ledger.received(0) > 0)
        })?;
        let datagrams = [there, Datagrams::start(at, to_client, 1, rate)];
        Ok(Self { receivers, datagrams })
    }

    fn arrived(&self, direction: usize) -> u64 {
        self.receivers[direction].received().ledger.totals().received
    }

    /// How many were sent, and how many arrived, in both directions.
    fn stop(self) -> Result<(u64, u64)> {
        let (mut sent, mut received) = (0, 0);
        for (datagrams, receiver) in self.datagrams.into_iter().zip(self.receivers) {
            let count = u64::from(datagrams.stop()?);
            sent += count;
            received += receiver.wait(count, Duration::from_secs(2));
        }
        Ok((sent, received))
    }
}

#[test]
fn nothing_is_lost_while_all_keys_change() -> Result<()> {
    let every = EVERY.as_secs().to_string();
    let twice = (2 * EVERY.as_secs()).to_string();
    let agent_args = arguments(&["--wireguard-rotate-every", &every, "--preshared-key-life", &twice]);
    let length = Duration::from_secs(number("CS_ROTATION_SECONDS", 50)?.into());
    in_world(WorldOptions { agent_args, ..WorldOptions::new("rotation")? }, &cast(), |world| {
        let (client, web) = (world.place("client")?, world.place("web")?);
        let capture = Capture::start(&world.name())?;
        let flows = Flows::start(world, DATAGRAMS_PER_SECOND)?;
        let to = SocketAddr::new(web.address(false)?, 9002);
        let bulk = Bulk::start(&client.space, &web.space, to, BULK)?;
        let (mut keys, mut preshared) = ([BTreeSet::new(), BTreeSet::new()], BTreeSet::new());
        let end = Instant::now() + length;
        while Instant::now() < end {
            for (node, keys) in NODES.iter().zip(&mut keys) {
                keys.insert(public_key(world, node)?);
                preshared.extend(preshared_keys(world, node)?);
            }
            std::thread::sleep(Duration::from_millis(250));
        }
        let (bytes, breaks) = bulk.stop()?;
        let (sent, received) = flows.stop()?;
        let changes = keys.each_ref().map(|keys| keys.len() - 1);
        println!(
            "{} s: {sent} datagrams sent, {} lost; {} MB in one stream, {breaks} breaks; keys changed {changes:?} times, {} preshared keys",
            length.as_secs(),
            sent - received,
            bytes >> 20,
            preshared.len(),
        );
        ensure!(received == sent, "{} of {sent} datagrams lost", sent - received);
        ensure!(breaks == 0 && bytes > 0, "the stream broke {breaks} times after {bytes} bytes");
        let wanted = usize::try_from(length.as_secs() / EVERY.as_secs())?.saturating_sub(1);
        ensure!(changes.iter().all(|changes| *changes >= wanted), "keys changed {changes:?} times");
        ensure!(preshared.len() >= 2 * wanted, "{} preshared keys", preshared.len());
        let seen = capture.stop()?;
        ensure!(seen.is_clean(), "{seen:?}");
        for node in NODES {
            let status = world.agent(node)?.encrypt_status()?;
            ensure!(status.is_encrypted(), "{status:?}");
        }
        Ok(())
    })
}

#[test]
fn a_change_outlives_the_agents_of_both_nodes() -> Result<()> {
    in_world(WorldOptions::new("rotagents")?, &cast(), |world| {
        let flows = Flows::start(world, 200)?;
        let rounds = number("CS_ROTATION_ROUNDS", 6)?;
        for round in 0..rounds {
            let victim = NODES[round as usize % 2];
            let before = public_key(world, "node1")?;
            let begun: RotationBegun = world.agent("node1")?.call(&Request::RotateKey)?;
            ensure!(begun.is_new && begun.public_key == before, "{begun:?}");
            let again: RotationBegun = world.agent("node1")?.call(&Request::RotateKey)?;
            ensure!(!again.is_new && again.next_public_key == begun.next_public_key, "{again:?}");
            // In the middle of it, each time somewhere else.
            std::thread::sleep(CHANGE * round / rounds);
            world.kill_agent(victim)?;
            world.start_agent(victim)?;
            eventually("the key has changed", Duration::from_secs(60), || {
                let status = world.agent("node1")?.encrypt_status()?;
                Ok(status.public_key == begun.next_public_key && status.rotation.is_none())
            })?;
        }
        let (sent, received) = flows.stop()?;
        println!("{} of {sent} datagrams lost", sent - received);
        ensure!(received == sent, "{} of {sent} datagrams lost", sent - received);
        // Nobody has a device more than it needs: one key, one peer.
        for node in NODES {
            eventually("one device with a peer", Duration::from_secs(10), || {
                Ok(preshared_keys(world, node)?.len() == 1)
            })?;
        }
        Ok(())
    })
}

#[test]
fn a_node_that_does_not_come_along_is_named_and_cut_off_until_it_does() -> Result<()> {
    let agent_args = arguments(&["--wireguard-key-overlap", "8s"]);
    in_world(WorldOptions { agent_args, ..WorldOptions::new("rotlate")? }, &cast(), |world| {
        let capture = Capture::start(&world.name())?;
        let flows = Flows::start(world, 100)?;
        world.kill_agent("node2")?;
        let begun: RotationBegun = world.agent("node1")?.call(&Request::RotateKey)?;
        let status = || world.agent("node1")?.encrypt_status();
        eventually("the late node is named", Duration::from_secs(5), || {
            let rotation = status()?.rotation;
            Ok(rotation.is_some_and(|of| of.waiting_for == ["node2"] && of.until > 0))
        })?;
        let before = flows.arrived(0);
        eventually("the old key is in use meanwhile", Duration::from_secs(5), || {
            Ok(flows.arrived(0) > before + 100)
        })?;
        eventually("the old key ends", Duration::from_secs(20), || {
            let status = status()?;
            Ok(status.public_key == begun.next_public_key && status.rotation.is_none())
        })?;
        eventually("the node is cut off, and why is said", Duration::from_secs(10), || {
            let before = flows.arrived(0);
            std::thread::sleep(Duration::from_millis(300));
            let peers = status()?.peers;
            Ok(flows.arrived(0) == before && peers.iter().any(|of| of.node == "node2" && of.error.is_some()))
        })?;
        world.start_agent("node2")?;
        let before = [0, 1].map(|direction| flows.arrived(direction));
        eventually("it comes along", Duration::from_secs(60), || {
            Ok((0..2).all(|direction| flows.arrived(direction) > before[direction] + 50))
        })?;
        flows.stop()?;
        let seen = capture.stop()?;
        ensure!(seen.is_clean(), "{seen:?}");
        Ok(())
    })
}
