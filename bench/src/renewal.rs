//! `renewal`: SVIDs that live for 30 seconds under a steady flow: does it notice when proofs are renewed, or when
//! the agent is killed? And what passes on the wire meanwhile?

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use countersign_e2e::flow::{Conversation, Datagrams};
use countersign_e2e::sequence::Totals;
use countersign_e2e::udp::Receiver;
use countersign_e2e::wire::{Capture, Seen};
use countersign_e2e::world::{Place, World, WorldOptions};
use countersign_e2e::{tcp, udp};
use serde::Serialize;

use crate::limits::{AGENT_AWAY, FLOW_RATE, RETURN, SHORT_TTL, TCP_BEAT, TCP_SILENCE};
use crate::report;
use crate::scene::{self, Group};

const CLIENT: Group = Group { name: "client", node: "node1", app: "client", count: 2 };
const SERVER: Group = Group { name: "server", node: "node2", app: "server", count: 1 };
const NODES: [&str; 2] = ["node1", "node2"];
const UDP: u16 = 9003;
const TCP: u16 = 8003;
/// Where the new pair of `--kill-agent` connects.
const NEW: u16 = 8004;

#[derive(Serialize)]
struct Report {
    seconds: u64,
    lost: u64,
    duplicated: u64,
    resets: u64,
    renewals: u64,
    #[serde(flatten)]
    killed: Option<Killed>,
}

/// What a pair without a proof met while the agent was gone, and after its return.
#[derive(Clone, Copy, Serialize)]
struct Killed {
    new_pair_dropped: bool,
    new_pair_after_restart_ms: u64,
}

/// Runs the flows for `seconds`; a third into it, the client's agent is killed if `kill`.
pub fn run(json: bool, seconds: u64, kill: bool) -> Result<()> {
    let options = WorldOptions { svid_ttl: SHORT_TTL, ..WorldOptions::new("benchren")? };
    let policy = scene::required(&["UDP/9003", "TCP/8003", "TCP/8004"]);
    let world = scene::up(options, &[CLIENT, SERVER], vec![policy])?;
    let (clients, server) = (CLIENT.places(&world)?, world.place("server-0")?);
    let flows = Flows::start(&world, &clients[0], &server)?;
    let mut watch = Watch::new(&world)?;
    let start = Instant::now();
    let mut killed = None;
    while start.elapsed() < Duration::from_secs(seconds) {
        if kill && killed.is_none() && start.elapsed() > Duration::from_secs(seconds) / 3 {
            killed = Some(kill_agent(&world, &clients[1], &server)?);
        }
        watch.look()?;
        std::thread::sleep(Duration::from_secs(1));
    }
    let (outcome, wire) = flows.stop()?;
    let report = Report { seconds, renewals: watch.renewals, killed, ..outcome };
    print(&report, &wire);
    report::json(json, &report)?;
    if !wire.is_clean() {
        bail!("foreign frames on the wire: {:?}, {} with the marker", wire.foreign(), wire.with_marker);
    }
    Ok(())
}

/// A steady flow of datagrams, a conversation, and a tcpdump on the wire.
struct Flows {
    datagrams: Datagrams,
    receiver: Receiver,
    conversation: Conversation,
    capture: Capture,
}

impl Flows {
    fn start(world: &World, client: &Place, server: &Place) -> Result<Self> {
        let to: IpAddr = server.address(false)?;
        let capture = Capture::start(&world.name())?;
        let receiver = Receiver::start(vec![udp::socket(&server.space, UDP)?]);
        let sender = udp::socket(&client.space, 0)?;
        let tcp = SocketAddr::new(to, TCP);
        Ok(Self {
            datagrams: Datagrams::start(sender, SocketAddr::new(to, UDP), 0, FLOW_RATE),
            receiver,
            conversation: Conversation::start(&client.space, &server.space, tcp, TCP_BEAT, TCP_SILENCE)?,
            capture,
        })
    }

    fn stop(self) -> Result<(Report, Seen)> {
        let sent = u64::from(self.datagrams.stop()?);
        let beats = self.conversation.beats();
        let resets = self.conversation.stop()?;
        self.receiver.wait(sent, Duration::from_secs(2));
        let Totals { received, duplicates, .. } = self.receiver.take().ledger.totals();
        if beats == 0 {
            bail!("the TCP flow never spoke");
        }
        let report = Report {
            seconds: 0,
            lost: sent - received,
            duplicated: duplicates,
            resets,
            renewals: 0,
            killed: None,
        };
        Ok((report, self.capture.stop()?))
    }
}

/// Counts handshakes from where the run began, over restarts of an agent. Whichever node dials counts one.
struct Watch<'a> {
    world: &'a World,
    last: [u64; NODES.len()],
    renewals: u64,
}

impl<'a> Watch<'a> {
    fn new(world: &'a World) -> Result<Self> {
        // The flows' own first handshakes are no renewals.
        std::thread::sleep(Duration::from_secs(1));
        let mut watch = Self { world, last: [0; NODES.len()], renewals: 0 };
        watch.look()?;
        watch.renewals = 0;
        Ok(watch)
    }

    fn look(&mut self) -> Result<()> {
        for (node, last) in NODES.iter().zip(&mut self.last) {
            let now = self.world.agent(node)?.status()?.authentication.handshakes_ok;
            // An agent that started anew counts from nothing.
            self.renewals += if now < *last { now } else { now - *last };
            *last = now;
        }
        Ok(())
    }
}

/// Kills the client's agent, tries a new pair while it is away, and again from its return on.
fn kill_agent(world: &World, client: &Place, server: &Place) -> Result<Killed> {
    let to = SocketAddr::new(server.address(false)?, NEW);
    let _listener = tcp::listen(&server.space, NEW)?;
    let connects = |limit| -> Result<bool> {
        let socket = tcp::sockets(&client.space, to, 1)?.pop().context("one socket")?;
        Ok(tcp::timed_connect(&socket, to, limit).is_ok())
    };
    world.kill_agent("node1")?;
    let new_pair_dropped = !connects(AGENT_AWAY)?;
    let start = Instant::now();
    world.start_agent("node1")?;
    while !connects(Duration::from_millis(100))? {
        if start.elapsed() > RETURN {
            bail!("no new pair passes {RETURN:?} after the agent's return");
        }
    }
    let new_pair_after_restart_ms = u64::try_from(start.elapsed().as_millis())?;
    Ok(Killed { new_pair_dropped, new_pair_after_restart_ms })
}

fn print(report: &Report, wire: &Seen) {
    println!();
    let mut table = report::table(&["renewal", "result"]);
    table.add_row(["seconds", &report.seconds.to_string()]);
    table.add_row(["datagrams lost", &report.lost.to_string()]);
    table.add_row(["datagrams twice", &report.duplicated.to_string()]);
    table.add_row(["TCP resets", &report.resets.to_string()]);
    table.add_row(["renewals", &report.renewals.to_string()]);
    if let Some(killed) = report.killed {
        table.add_row(["agent away: a new pair was dropped", &killed.new_pair_dropped.to_string()]);
        table.add_row([
            "agent back: a new pair passed after, ms",
            &killed.new_pair_after_restart_ms.to_string(),
        ]);
    }
    for (kind, count) in &wire.kinds {
        table.add_row([&format!("on the wire: {kind}"), &count.to_string()]);
    }
    table.add_row(["on the wire: frames with the payload's marker", &wire.with_marker.to_string()]);
    println!("{table}");
}
