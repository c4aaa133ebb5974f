//! The agent is killed while flows go on, and comes back. Needs root.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use countersign_e2e::flow::{Conversation, Datagrams};
use countersign_e2e::manifests::{Pod, Rule, policy};
use countersign_e2e::udp::Receiver;
use countersign_e2e::world::{WorldOptions, eventually, in_world};
use countersign_e2e::{tcp, udp};

const NODES: [&str; 2] = ["node1", "node2"];

fn cast() -> Vec<String> {
    let client = |name: &str| Pod::new(name, "node1", "client").label("who", name).yaml();
    vec![
        Pod::new("web", "node2", "web").yaml(),
        client("old"),
        client("new"),
        policy("web", "web", &[Rule { peer: "client", ports: &[], required: true }], &[]),
    ]
}

#[test]
fn proved_flows_outlive_the_agents_and_new_pairs_wait_for_them() -> Result<()> {
    in_world(WorldOptions::new("away")?, &cast(), |world| {
        let (old, new, web) = (world.place("old")?, world.place("new")?, world.place("web")?);
        let to = |port| Ok::<_, anyhow::Error>(SocketAddr::new(web.address(false)?, port));
        let receiver = Receiver::start(vec![udp::socket(&web.space, 9000)?]);
        let datagrams = Datagrams::start(udp::socket(&old.space, 0)?, to(9000)?, 0, 500);
        let (beat, silence) = (Duration::from_millis(10), Duration::from_secs(5));
        let conversation = Conversation::start(&old.space, &web.space, to(8000)?, beat, silence)?;
        let _listener = tcp::listen(&web.space, 8001)?;
        let passes = |limit| {
            let socket = tcp::sockets(&new.space, to(8001)?, 1)?.pop().context("one socket")?;
            Ok::<_, anyhow::Error>(tcp::timed_connect(&socket, to(8001)?, limit).is_ok())
        };
        eventually("the flows run", Duration::from_secs(5), || {
            Ok(receiver.received().ledger.received(0) > 100 && conversation.beats() > 10)
        })?;
        NODES.iter().try_for_each(|node| world.kill_agent(node))?;
        let before = (receiver.received().ledger.received(0), conversation.beats());
        ensure!(!passes(Duration::from_millis(1500))?, "a new pair passed without an agent");
        let meanwhile = (receiver.received().ledger.received(0), conversation.beats());
        ensure!(meanwhile.0 > before.0 && meanwhile.1 > before.1, "{before:?} {meanwhile:?}");
        NODES.iter().try_for_each(|node| world.start_agent(node))?;
        eventually("a new pair passes", Duration::from_secs(20), || passes(Duration::from_millis(100)))?;
        // How soon is measured by the benchmark `renewal --kill-agent`.
        std::thread::sleep(Duration::from_secs(1));
        let sent = u64::from(datagrams.stop()?);
        ensure!(conversation.stop()? == 0, "the conversation broke");
        let received = receiver.wait(sent, Duration::from_secs(1));
        ensure!(received == sent, "{} of {sent} datagrams lost", sent - received);
        Ok(())
    })
}

#[test]
fn killed_over_and_over_it_comes_back() -> Result<()> {
    in_world(WorldOptions::new("again")?, &cast(), |world| {
        let (old, web) = (world.place("old")?, world.place("web")?);
        let to = SocketAddr::new(web.address(true)?, 8000);
        let _listener = tcp::listen(&web.space, 8000)?;
        for round in 0..3 {
            NODES.iter().try_for_each(|node| world.kill_agent(node))?;
            NODES.iter().try_for_each(|node| world.start_agent(node))?;
            NODES.iter().try_for_each(|node| world.agent(node)?.auth_flush().map(|_| ()))?;
            let socket = tcp::sockets(&old.space, to, 1)?.pop().context("one socket")?;
            let took = tcp::timed_connect(&socket, to, Duration::from_secs(5))
                .with_context(|| format!("round {round}"))?;
            ensure!(took < Duration::from_millis(900), "round {round}: {took:?}");
        }
        Ok(())
    })
}
