//! The probes themselves, on plain routing without any agent: they must see what is there, or what they do not
//! see elsewhere would mean nothing. Needs root.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use countersign_e2e::flow::{Conversation, Datagrams};
use countersign_e2e::http::{Server, curl};
use countersign_e2e::manifests::Pod;
use countersign_e2e::probe::MARKER;
use countersign_e2e::udp::{self, Receiver};
use countersign_e2e::wire::Capture;
use countersign_e2e::world::{World, WorldOptions, eventually, in_world};
use countersign_e2e::{stats::Samples, tcp};
use countersign_lab::AgentMode;

fn plain(name: &str, test: impl FnOnce(&World) -> Result<()>) -> Result<()> {
    let options = WorldOptions { agent: AgentMode::None, ..WorldOptions::new(name)? };
    let pods = [Pod::new("web", "node2", "web").yaml(), Pod::new("client", "node1", "client").yaml()];
    in_world(options, &pods, test)
}

#[test]
fn a_capture_sees_what_is_readable() -> Result<()> {
    plain("plain1", |world| {
        let (client, web) = (world.place("client")?, world.place("web")?);
        let marker = std::str::from_utf8(MARKER)?;
        let _server = Server::start(&web.space, 80, marker)?;
        let capture = Capture::start(&world.name())?;
        for ipv6 in [false, true] {
            let answer = curl(&client.space, web.address(ipv6)?, 80)?;
            ensure!(answer.exit == 0 && answer.body == marker, "{answer:?}");
        }
        let seen = capture.stop()?;
        ensure!(!seen.is_clean() && seen.with_marker >= 2, "{seen:?}");
        for kind in ["IPv4 TCP 80", "IPv6 TCP 80"] {
            ensure!(seen.foreign().contains_key(kind), "no {kind} in {seen:?}");
        }
        Ok(())
    })
}

#[test]
fn flows_run_and_lose_nothing() -> Result<()> {
    plain("plain2", |world| {
        let (client, web) = (world.place("client")?, world.place("web")?);
        let to = |port| Ok::<_, anyhow::Error>(SocketAddr::new(web.address(false)?, port));
        let receiver = Receiver::start(vec![udp::socket(&web.space, 9000)?]);
        let datagrams = Datagrams::start(udp::socket(&client.space, 0)?, to(9000)?, 0, 1000);
        let (beat, silence) = (Duration::from_millis(10), Duration::from_secs(2));
        let conversation = Conversation::start(&client.space, &web.space, to(8000)?, beat, silence)?;
        eventually("both have gone on for a while", Duration::from_secs(30), || {
            Ok(datagrams.sent() >= 2_000 && conversation.beats() > 50)
        })?;
        let (sent, beats) = (u64::from(datagrams.stop()?), conversation.beats());
        ensure!(conversation.stop()? == 0, "broken after {beats} beats");
        ensure!(receiver.wait(sent, Duration::from_secs(1)) == sent, "{sent} sent");
        let received = receiver.take();
        let totals = received.ledger.totals();
        ensure!(totals.duplicates == 0 && totals.reordered == 0, "{totals:?}");
        Ok(())
    })
}

#[test]
fn connections_are_timed_and_silence_is_a_time_out() -> Result<()> {
    plain("plain3", |world| {
        let (client, web) = (world.place("client")?, world.place("web")?);
        let to = SocketAddr::new(web.address(true)?, 8000);
        let _acceptor = tcp::Acceptor::start(vec![tcp::listen(&web.space, to.port())?]);
        let sockets = tcp::sockets(&client.space, to, 50)?;
        let connect = |socket| Ok(tcp::timed_connect(socket, to, Duration::from_secs(1))?);
        let samples: Samples = sockets.iter().map(connect).collect::<Result<Vec<_>>>()?.into_iter().collect();
        ensure!(samples.len() == 50 && samples.p50() < 50.0, "{samples:?}");
        // An address of the pods' network that no pod has.
        let nobody: SocketAddr = "198.51.100.77:80".parse()?;
        let socket = tcp::sockets(&client.space, nobody, 1)?.pop().context("one socket")?;
        ensure!(tcp::timed_connect(&socket, nobody, Duration::from_millis(300)).is_err(), "nobody answered");
        Ok(())
    })
}
