//! The preshared keys of the tunnels between nodes: out of the nodes' handshakes, the same on both, and changed
//! under traffic. Needs root.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use countersign_e2e::flow::Datagrams;
use countersign_e2e::manifests::{Pod, Rule, policy};
use countersign_e2e::udp::{self, Receiver};
use countersign_e2e::world::{World, WorldOptions, eventually, in_world};

const NODES: [&str; 2] = ["node1", "node2"];
/// Keys live no longer than the SVIDs they rest on, and are agreed on anew at half of that.
const SVID_TTL: Duration = Duration::from_secs(20);

fn cast() -> Vec<String> {
    vec![
        Pod::new("web", "node2", "web").yaml(),
        Pod::new("client", "node1", "client").yaml(),
        policy("web", "web", &[Rule { peer: "client", ports: &[], required: true }], &[]),
    ]
}

/// Runs `wg` on a node.
fn wg(world: &World, node: &str, arguments: &[&str]) -> Result<String> {
    let output = world.node(node)?.run(|| Command::new("wg").args(arguments).output().context("run wg"))?;
    ensure!(output.status.success(), "wg {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?)
}

/// The public key of a node's only peer, and the preshared key with it.
fn peer(world: &World, node: &str) -> Result<Option<(String, String)>> {
    let text = wg(world, node, &["show", "cs_wg0", "preshared-keys"])?;
    let mut words = text.split_whitespace().map(str::to_owned);
    Ok(words.next().zip(words.next()).filter(|(_, preshared)| preshared != "(none)"))
}

/// The one preshared key that both nodes have.
fn shared(world: &World) -> Result<Option<String>> {
    let mut keys = BTreeSet::new();
    for node in NODES {
        keys.extend(peer(world, node)?.map(|(_, preshared)| preshared));
        keys.extend(peer(world, node)?.is_none().then(String::new));
    }
    Ok(keys.pop_first().filter(|key| keys.is_empty() && !key.is_empty()))
}

#[test]
fn it_is_one_key_and_changes_under_traffic() -> Result<()> {
    in_world(WorldOptions { svid_ttl: SVID_TTL, ..WorldOptions::new("preshared")? }, &cast(), |world| {
        let (client, web) = (world.place("client")?, world.place("web")?);
        let receiver = Receiver::start(vec![udp::socket(&web.space, 9000)?]);
        let to = SocketAddr::new(web.address(false)?, 9000);
        let datagrams = Datagrams::start(udp::socket(&client.space, 0)?, to, 0, 500);
        let mut seen = BTreeSet::new();
        let mut changes = |what: &str, count: usize| {
            let goal = seen.len() + count;
            eventually(what, 3 * SVID_TTL, || {
                seen.extend(shared(world)?);
                Ok(seen.len() >= goal)
            })
        };
        changes("three keys, one after the other", 3)?;
        for node in NODES {
            let status = world.agent(node)?.encrypt_status()?;
            let preshared =
                status.peers.first().and_then(|peer| peer.preshared).context("no preshared key")?;
            ensure!(status.is_encrypted() && preshared.post_quantum == Some(true), "{status:?}");
        }
        // An agent that comes back finds the key in the device, and agrees on another.
        world.kill_agent("node1")?;
        world.start_agent("node1")?;
        changes("another key after the agent's return", 1)?;
        let sent = u64::from(datagrams.stop()?);
        let received = receiver.wait(sent, Duration::from_secs(2));
        ensure!(received == sent, "{} of {sent} datagrams lost", sent - received);
        Ok(())
    })
}

#[test]
fn a_session_needs_it_and_a_change_by_hand_is_undone() -> Result<()> {
    in_world(WorldOptions::new("handmade")?, &cast(), |world| {
        let (client, web) = (world.place("client")?, world.place("web")?);
        let receiver = Receiver::start(vec![udp::socket(&web.space, 9000)?]);
        let to = SocketAddr::new(web.address(false)?, 9000);
        let datagrams = Datagrams::start(udp::socket(&client.space, 0)?, to, 0, 100);
        let arrived = || receiver.received().ledger.received(0);
        eventually("the flow runs", Duration::from_secs(10), || Ok(arrived() > 10))?;
        // The session goes with the peer; the one that the manager makes again needs the key both have.
        let (public_key, preshared) = peer(world, "node1")?.context("no peer")?;
        wg(world, "node1", &["set", "cs_wg0", "peer", &public_key, "remove"])?;
        eventually("the peer is back, with its key", Duration::from_secs(60), || {
            Ok(peer(world, "node1")? == Some((public_key.clone(), preshared.clone())))
        })?;
        let before = arrived();
        eventually("the flow goes on", Duration::from_secs(30), || Ok(arrived() > before + 10))?;
        datagrams.stop()?;
        Ok(())
    })
}
