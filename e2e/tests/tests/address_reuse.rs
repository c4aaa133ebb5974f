//! Whose an address is: it passes to another pod while the peer's node hears nothing from the cluster; a node
//! says of one of its pods that it is another. Needs root.

use std::time::Duration;

use anyhow::{Result, ensure};
use countersign_e2e::http::{Server, curl};
use countersign_e2e::manifests::{Pod, Rule, policy};
use countersign_e2e::news::freeze;
use countersign_e2e::world::{WorldOptions, eventually, in_world};

const SOON: Duration = Duration::from_secs(10);

fn cast() -> Vec<String> {
    vec![
        Pod::new("web", "node2", "web").yaml(),
        policy("web", "web", &[Rule { peer: "client", ports: &[], required: true }], &[]),
    ]
}

#[test]
fn a_successor_does_not_pass_as_its_predecessor() -> Result<()> {
    in_world(WorldOptions::new("reuse")?, &cast(), |world| {
        world.apply("client.yaml", &[Pod::new("old", "node1", "client").yaml()])?;
        world.lab().wait_pods(SOON)?;
        let (old, web) = (world.place("old")?, world.place("web")?);
        let server = Server::start(&web.space, 80, "hello")?;
        let (address, to) = (old.address(false)?, web.address(false)?);
        ensure!(curl(&old.space, to, 80)?.exit == 0, "the client is not let through");

        let _frozen = freeze(world, "node2")?;
        let thief = Pod::new("thief", "node1", "attacker");
        let thief = thief.annotation("countersign.dev/lab-ip", &address.to_string());
        world.apply("client.yaml", &[thief.yaml()])?;
        world.lab().wait_pods(SOON)?;
        let thief = world.place("thief")?;
        ensure!(thief.address(false)? == address, "the thief has another address");
        let refused = world.agent("node2")?;
        eventually("the address is asked for again, in vain", SOON, || {
            let answer = curl(&thief.space, to, 80)?;
            ensure!(answer.exit == 28 && answer.body.is_empty(), "the thief was let through: {answer:?}");
            Ok(refused.auth_list()?.iter().any(|pair| pair.last_error.is_some()))
        })?;
        drop(server);
        Ok(())
    })
}

#[test]
fn a_node_cannot_pass_one_of_its_pods_off_as_another() -> Result<()> {
    let documents = [
        Pod::new("web", "node1", "web").yaml(),
        Pod::new("client", "node2", "client").yaml(),
        policy("web", "web", &[Rule { peer: "client", ports: &[], required: true }], &[]),
    ];
    in_world(WorldOptions::new("lie")?, &documents, |world| {
        world.apply("thief.yaml", &[Pod::new("thief", "node2", "client").yaml()])?;
        world.lab().wait_pods(SOON)?;
        world.lab().wait_known(SOON)?;
        let (thief, client) = (world.place("thief")?, world.place("client")?);
        let web = world.place("web")?;
        let to = web.address(false)?;
        let _server = Server::start(&web.space, 80, "hello")?;
        ensure!(curl(&thief.space, to, 80)?.exit == 0, "while it is a client it is let through");

        // Node 2 goes on saying that the thief's address is a client's, and can prove to be a client's node.
        let _frozen = freeze(world, "node2")?;
        world.apply("thief.yaml", &[Pod::new("thief", "node2", "attacker").yaml()])?;
        eventually("the cluster's word counts", SOON, || Ok(curl(&thief.space, to, 80)?.exit == 28))?;
        for _ in 0..3 {
            // A handshake of the true client has the lie in it as well.
            let answer = curl(&client.space, to, 80)?;
            ensure!(answer.exit == 0, "the client is locked out by its neighbour: {answer:?}");
            let answer = curl(&thief.space, to, 80)?;
            ensure!(answer.exit == 28 && answer.body.is_empty(), "the thief was let through: {answer:?}");
            world.agent("node1")?.auth_flush()?;
        }
        Ok(())
    })
}
