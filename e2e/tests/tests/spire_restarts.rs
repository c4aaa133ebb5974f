//! What an agent's restart must not forget, with real SPIRE: revocations, and the epochs of WireGuard keys. Needs root,
//! and SPIRE built by `cargo xtask peers`.

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;

use anyhow::{Context as _, Result, ensure};
use countersign_e2e::manifests::{Pod, Rule, policy};
use countersign_e2e::spire::{PATIENCE, delete_entry, holds, spiffe_id};
use countersign_e2e::tcp::{self, Acceptor};
use countersign_e2e::world::{World, WorldOptions, eventually, in_world};
use countersign_lab::spire::Part;

const PORT: u16 = 8001;

fn client(name: &str) -> String {
    Pod::new(name, "node1", "client").label("who", name).yaml()
}

#[test]
fn a_restart_forgets_neither_revocations_nor_epochs() -> Result<()> {
    let rule = Rule { peer: "client", ports: &[], required: true };
    let cast = [
        Pod::new("web", "node2", "web").yaml(),
        client("one"),
        client("two"),
        client("three"),
        policy("web", "web", &[rule], &[]),
    ];
    in_world(WorldOptions::with_spire("spforget")?, &cast, |world| {
        let _acceptor = Acceptor::start(vec![tcp::listen(&world.place("web")?.space, PORT)?]);
        eventually("web has its SVID", PATIENCE, || holds(world, "node2", "web"))?;
        for pod in ["one", "two", "three"] {
            eventually(&format!("{pod} has its SVID"), PATIENCE, || holds(world, "node1", pod))?;
            connect(world, pod)?;
        }
        // It would put back what is deleted here.
        world.spire()?.stop(Part::Registrar)?;
        told_before_the_restart(world)?;
        revoked_while_no_agent_ran(world)?;
        told_to_a_node_that_was_away(world)?;
        an_older_announcement_is_a_replay(world)
    })
}

fn connect(world: &World, pod: &str) -> Result<()> {
    let to = SocketAddr::new(world.place("web")?.address(false)?, PORT);
    let socket = tcp::sockets(&world.place(pod)?.space, to, 1)?.pop().context("one socket")?;
    tcp::timed_connect(&socket, to, PATIENCE).with_context(|| format!("{pod} reaches nobody"))?;
    Ok(())
}

/// Whether a node has a live proof with that identity at either end.
fn proved(world: &World, node: &str, identity: u32) -> Result<bool> {
    let entries = world.agent(node)?.auth_list()?;
    Ok(entries.iter().any(|entry| {
        entry.expires_at.is_some() && [entry.local_identity, entry.remote_identity].contains(&identity)
    }))
}

/// The identity of a pod of node 1, and its SPIFFE ID.
fn who(world: &World, pod: &str) -> Result<(u32, String)> {
    let id = spiffe_id(world, "node1", pod)?;
    let svids = world.agent("node1")?.spire_status()?.svids;
    let svid = svids.into_iter().find(|svid| svid.spiffe_id == id).context("its SVID")?;
    Ok((svid.identity, id))
}

fn cut_on_both_nodes(world: &World, identity: u32) -> Result<()> {
    for node in ["node1", "node2"] {
        eventually(&format!("it is cut on {node}"), PATIENCE, || Ok(!proved(world, node, identity)?))?;
    }
    Ok(())
}

/// The agent that told a peer is not the one that hears of the revocation.
fn told_before_the_restart(world: &World) -> Result<()> {
    let (one, id) = who(world, "one")?;
    world.kill_agent("node1")?;
    world.start_agent("node1")?;
    eventually("it has its SVIDs again", PATIENCE, || holds(world, "node1", "one"))?;
    ensure!(proved(world, "node1", one)? && proved(world, "node2", one)?, "what was proved is");
    delete_entry(&world.spire()?, &id)?;
    cut_on_both_nodes(world, one)
}

/// Nobody was there to hear of the revocation.
fn revoked_while_no_agent_ran(world: &World) -> Result<()> {
    let ((two, id), (three, _)) = (who(world, "two")?, who(world, "three")?);
    world.kill_agent("node1")?;
    delete_entry(&world.spire()?, &id)?;
    ensure!(proved(world, "node2", two)?, "node 2 believes on");
    world.start_agent("node1")?;
    cut_on_both_nodes(world, two)?;
    ensure!(proved(world, "node1", three)? && proved(world, "node2", three)?, "and nobody else is");
    Ok(())
}

/// Who was to be told was away, and then who was to tell: its proofs had gone by then, and with them what the maps say.
fn told_to_a_node_that_was_away(world: &World) -> Result<()> {
    eventually("three has its SVID", PATIENCE, || holds(world, "node1", "three"))?;
    let (three, id) = who(world, "three")?;
    world.kill_agent("node2")?;
    delete_entry(&world.spire()?, &id)?;
    eventually("node 1 has cut it", PATIENCE, || Ok(!proved(world, "node1", three)?))?;
    world.kill_agent("node1")?;
    let file = world.lab().paths().node_run("node1").join("told.json");
    let mode = std::fs::metadata(&file).context("what is to be told")?.permissions().mode();
    ensure!(mode & 0o777 == 0o600, "mode {mode:o}");
    world.start_agent("node2")?;
    ensure!(proved(world, "node2", three)?, "node 2 has not heard of it");
    world.start_agent("node1")?;
    eventually("node 2 has", PATIENCE, || Ok(!proved(world, "node2", three)?))?;
    Ok(())
}

/// Node 2 gets a new key; what it said of the old one is put in its object's place while no agent looks.
fn an_older_announcement_is_a_replay(world: &World) -> Result<()> {
    let paths = world.lab().paths();
    let object = paths.status().join("nodes/node2.yaml");
    // Its key and what is wrong with it; nothing while node 1 knows nothing of it.
    let of_node2 = |world: &World| -> Result<Option<(String, Option<String>)>> {
        let status = world.agent("node1")?.encrypt_status()?;
        let peer = status.peers.into_iter().find(|peer| peer.node == "node2");
        Ok(peer.map(|peer| (peer.public_key, peer.error)))
    };
    let believed =
        |of: Option<(String, Option<String>)>| of.filter(|(_, error)| error.is_none()).map(|(key, _)| key);
    let mut old_key = String::new();
    eventually("node 2's key is known", PATIENCE, || {
        old_key = believed(of_node2(world)?).unwrap_or_default();
        Ok(!old_key.is_empty())
    })?;
    let old = std::fs::read_to_string(&object)?;
    world.kill_agent("node2")?;
    std::fs::remove_file(paths.node_run("node2").join("wireguard.key")).context("node 2's key")?;
    world.start_agent("node2")?;
    eventually("node 1 knows the new key", PATIENCE, || {
        Ok(believed(of_node2(world)?).is_some_and(|key| !key.is_empty() && key != old_key))
    })?;
    let new = std::fs::read_to_string(&object)?;
    world.kill_agent("node2")?;
    world.kill_agent("node1")?;
    std::fs::write(&object, &old)?;
    world.start_agent("node1")?;
    let mut said = None;
    eventually("the older announcement is refused", PATIENCE, || {
        said = of_node2(world)?.and_then(|(_, error)| error);
        Ok(said.as_ref().is_some_and(|error| error.contains("accepted before")))
    })
    .with_context(|| format!("{said:?}"))?;
    // The lab's own way of writing keeps the owner; a plain write of the newer text mends it.
    std::fs::write(&object, &new)?;
    world.start_agent("node2")?;
    eventually("and the newer is believed again", PATIENCE, || Ok(believed(of_node2(world)?).is_some()))?;
    Ok(())
}
