//! What may be seen between the nodes, and what WireGuard's own tools see. Needs root.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use countersign_e2e::http::{Server, curl};
use countersign_e2e::manifests::{Pod, Rule, policy};
use countersign_e2e::probe::MARKER;
use countersign_e2e::wire::Capture;
use countersign_e2e::world::{WorldOptions, eventually, in_world};

fn cast(required: bool) -> Vec<String> {
    vec![
        Pod::new("web", "node2", "web").yaml(),
        Pod::new("client", "node1", "client").yaml(),
        policy("web", "web", &[Rule { peer: "client", ports: &[], required }], &[]),
    ]
}

#[test]
fn nothing_is_readable_on_the_wire() -> Result<()> {
    in_world(WorldOptions::new("wire")?, &cast(true), |world| {
        let (client, web) = (world.place("client")?, world.place("web")?);
        let marker = std::str::from_utf8(MARKER)?;
        let _server = Server::start(&web.space, 80, marker)?;
        let capture = Capture::start(&world.name())?;
        for ipv6 in [false, true] {
            let answer = curl(&client.space, web.address(ipv6)?, 80)?;
            ensure!(answer.exit == 0 && answer.body == marker, "{answer:?}");
        }
        let seen = capture.stop()?;
        ensure!(seen.is_clean(), "{seen:?}");
        for kind in ["wireguard", "handshake"] {
            ensure!(seen.kinds.contains_key(kind), "no {kind} in {seen:?}");
        }
        Ok(())
    })
}

#[test]
fn the_state_of_encryption_is_told_by_us_and_by_wg() -> Result<()> {
    in_world(WorldOptions::new("wgshow")?, &cast(false), |world| {
        let (client, web) = (world.place("client")?, world.place("web")?);
        let _server = Server::start(&web.space, 80, "hello")?;
        ensure!(curl(&client.space, web.address(false)?, 80)?.exit == 0, "no way through");
        for node in ["node1", "node2"] {
            eventually("an encrypted peer with a handshake", Duration::from_secs(5), || {
                let status = world.agent(node)?.encrypt_status()?;
                let alive =
                    status.peers.iter().any(|peer| peer.last_handshake.is_some() && peer.tx_bytes > 0);
                Ok(status.is_encrypted() && status.mode == "Wireguard" && alive)
            })?;
            let show = || Command::new("wg").args(["show", "cs_wg0"]).output().context("run wg");
            let text = String::from_utf8(world.node(node)?.run(show)?.stdout)?;
            ensure!(text.contains("listening port: 51871") && text.contains("latest handshake"), "{text}");
        }
        Ok(())
    })
}
