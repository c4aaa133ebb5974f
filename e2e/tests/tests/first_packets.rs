//! First packets of fresh pairs: each arrives, once and in order; a pair that cannot prove itself costs next to
//! nothing. Needs root.

use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use anyhow::{Result, ensure};
use countersign_e2e::flow::Datagrams;
use countersign_e2e::manifests::{Pod, Rule, policy};
use countersign_e2e::probe::{self, Probe};
use countersign_e2e::process;
use countersign_e2e::sequence::Totals;
use countersign_e2e::udp::{self, Receiver};
use countersign_e2e::world::{World, WorldOptions, eventually, in_world};

const PORT: u16 = 9000;
const SIDE: usize = 6;
const PAIRS: u32 = (SIDE * SIDE) as u32;
/// Nothing new for so long, and no more will come: parked frames are discarded after 5 s.
const QUIET: Duration = Duration::from_secs(6);

/// As many clients as servers; the servers are on both nodes.
fn cast() -> Vec<String> {
    let pod = |name: String, node: &str, app: &str| Pod::new(&name, node, app).label("who", &name).yaml();
    let clients = (0..SIDE).map(|n| pod(format!("client-{n}"), "node1", "client"));
    let servers = (0..SIDE).map(|n| pod(format!("server-{n}"), ["node1", "node2"][n % 2], "server"));
    let rule = Rule { peer: "client", ports: &["UDP/9000"], required: true };
    clients.chain(servers).chain([policy("servers", "server", &[rule], &[])]).collect()
}

struct Stage {
    clients: Vec<UdpSocket>,
    servers: Vec<SocketAddr>,
    receiver: Receiver,
}

impl Stage {
    fn new(world: &World, ipv6: bool) -> Result<Self> {
        let place = |side: &str, n: usize| world.place(&format!("{side}-{n}"));
        let clients = (0..SIDE).map(|n| udp::socket(&place("client", n)?.space, 0)).collect::<Result<_>>()?;
        let sockets =
            (0..SIDE).map(|n| udp::socket(&place("server", n)?.space, PORT)).collect::<Result<_>>()?;
        let address = |n| Ok(udp::mapped(SocketAddr::new(place("server", n)?.address(ipv6)?, PORT)));
        let servers = (0..SIDE).map(address).collect::<Result<_>>()?;
        Ok(Self { clients, servers, receiver: Receiver::start(sockets) })
    }

    /// Sends `count` datagrams for every pair, those of a pair one after the other, and says what came.
    fn send(&self, count: u32, gap: Duration) -> Result<(u64, Totals)> {
        for pair in 0..PAIRS {
            let first = probe::now();
            for number in 0..count {
                // Sleeping takes longer than the gaps.
                while probe::now() < first + gap * number {
                    std::hint::spin_loop();
                }
                self.send_one(pair, number)?;
            }
        }
        let sent = u64::from(PAIRS * count);
        self.receiver.wait(sent, QUIET);
        // Whatever comes twice is on its way by now, and before this one.
        (0..PAIRS).try_for_each(|pair| self.send_one(pair, count))?;
        self.receiver.wait(sent + u64::from(PAIRS), QUIET);
        Ok((sent + u64::from(PAIRS), self.receiver.take().ledger.totals()))
    }

    fn send_one(&self, pair: u32, number: u32) -> Result<()> {
        let (client, server) = (pair as usize % SIDE, pair as usize / SIDE);
        self.clients[client].send_to(&Probe::now(pair, number).encode(), self.servers[server])?;
        Ok(())
    }
}

fn each_arrives_once_in_order(name: &str, ipv6: bool, count: u32, gap: Duration) -> Result<()> {
    in_world(WorldOptions::new(name)?, &cast(), |world| {
        let (sent, totals) = Stage::new(world, ipv6)?.send(count, gap)?;
        ensure!(totals == Totals { received: sent, duplicates: 0, reordered: 0 }, "{sent} sent, {totals:?}");
        Ok(())
    })
}

#[test]
fn a_lone_datagram_of_a_fresh_pair_arrives_once() -> Result<()> {
    each_arrives_once_in_order("alone", false, 1, Duration::ZERO)
}

#[test]
fn a_burst_of_a_fresh_pair_arrives_in_order() -> Result<()> {
    each_arrives_once_in_order("burst", false, 20, Duration::ZERO)
}

#[test]
fn a_burst_over_ipv6_arrives_in_order() -> Result<()> {
    each_arrives_once_in_order("burst6", true, 20, Duration::ZERO)
}

#[test]
fn a_stream_stays_in_order_while_its_pair_is_proved() -> Result<()> {
    // Several times as long as a handshake, and no more than a pair may park.
    each_arrives_once_in_order("stream", false, 200, Duration::from_micros(20))
}

#[test]
fn a_pair_that_cannot_prove_itself_does_not_make_a_storm() -> Result<()> {
    let documents = [
        Pod::new("web", "node2", "web").yaml(),
        Pod::new("nobody", "node1", "client").unregistered().yaml(),
        policy("web", "web", &[Rule { peer: "client", ports: &[], required: true }], &[]),
    ];
    in_world(WorldOptions::new("storm")?, &documents, |world| {
        let (nobody, web) = (world.place("nobody")?, world.place("web")?);
        let pid = world.agent_pid("node2")?;
        let receiver = Receiver::start(vec![udp::socket(&web.space, PORT)?]);
        let to = SocketAddr::new(web.address(false)?, PORT);
        let datagrams = Datagrams::start(udp::socket(&nobody.space, 0)?, to, 0, 1000);
        // Past the steady tries (the pod is there, and might have its SVID soon) and the first steps after them.
        eventually("the first tries have failed", Duration::from_secs(30), || Ok(failures(world)? >= 21))?;
        let (failed, cpu, sent) = (failures(world)?, process::cpu_seconds(pid)?, datagrams.sent());
        eventually("10 s worth of packets is sent", Duration::from_secs(60), || {
            Ok(datagrams.sent() >= sent + 10_000)
        })?;
        let (failed, cpu) = (failures(world)? - failed, process::cpu_seconds(pid)? - cpu);
        datagrams.stop()?;
        ensure!(receiver.received().ledger.totals().received == 0, "an unproved pod got through");
        ensure!(failed <= 5, "{failed} handshakes in 10 s");
        // A hundredth of a core is the aim; the test allows for a busy machine.
        ensure!(cpu <= 0.3, "{cpu} s of processor time in 10 s");
        Ok(())
    })
}

fn failures(world: &World) -> Result<u64> {
    Ok(world.agent("node2")?.status()?.authentication.handshakes_failed.values().sum())
}
