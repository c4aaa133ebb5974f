//! `policy-latency`: from a manifest written to the first packet that is decided by it, on a node full of endpoints.
//!
//! One pod sends a datagram to another every half millisecond while the manifest of a policy changes: what was let
//! through is denied, what was denied is let through. Once for a policy about one endpoint, once for one about all.

use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use anyhow::{Result, ensure};
use clap::Args;
use countersign_e2e::probe::{self, LENGTH, Probe};
use countersign_e2e::stats::Samples;
use countersign_e2e::udp;
use countersign_e2e::world::{World, WorldOptions};
use serde::Serialize;

use crate::limits::{LATENCY_GAP, LATENCY_PAUSE, LATENCY_SILENCE};
use crate::report::{self, ms};
use crate::scene::{self, Group};

const PORT: u16 = 9005;
const CLIENT: Group = Group { name: "client", node: "node1", app: "client", count: 1 };
const SERVER: Group = Group { name: "server", node: "node1", app: "server", count: 1 };

/// How much of it.
#[derive(Args)]
pub struct Size {
    /// Endpoints of the node
    #[arg(long, default_value_t = 200)]
    endpoints: usize,
    /// Changes of each policy
    #[arg(long, default_value_t = 200)]
    changes: u32,
}

#[derive(Serialize)]
struct Report {
    endpoints: usize,
    changes: u32,
    one_ms_p50: f64,
    one_ms_p99: f64,
    all_ms_p50: f64,
    all_ms_p99: f64,
}

/// Whom the policy that changes is about.
#[derive(Clone, Copy)]
enum About {
    Server,
    Everybody,
}

impl About {
    /// The policy; it denies the client, or somebody who is not there.
    fn policy(self, client: bool) -> String {
        let subject = match self {
            Self::Server => "matchLabels: {app: server}",
            Self::Everybody => "",
        };
        let peer = if client { "client" } else { "nobody" };
        format!(
            "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {{name: changing, namespace: default}}\n\
             spec:\n  endpointSelector: {{{subject}}}\n  enableDefaultDeny: {{ingress: false, egress: false}}\n  ingressDeny:\n  - fromEndpoints:\n    - matchLabels: {{app: {peer}}}\n"
        )
    }
}

/// Measures.
pub fn run(json: bool, size: &Size) -> Result<()> {
    ensure!(size.endpoints > 2 && size.changes > 1, "there is nothing to measure");
    let others = Group { name: "other", node: "node1", app: "other", count: size.endpoints - 2 };
    let policies = (0..others.count).map(|n| everyday(&format!("other-{n}"))).collect();
    let world = scene::up(WorldOptions::new("benchpol")?, &[CLIENT, SERVER, others], policies)?;
    let stage = Stage::new(&world)?;
    let one = stage.changes(About::Server, size.changes)?;
    let all = stage.changes(About::Everybody, size.changes)?;
    let mut table = report::table(&["about", "changes", "p50 ms", "p99 ms", "most ms"]);
    for (name, samples) in [("one endpoint", &one), ("every endpoint", &all)] {
        table.add_row([
            name.to_owned(),
            size.changes.to_string(),
            ms(samples.p50()),
            ms(samples.p99()),
            ms(samples.percentile(100)),
        ]);
    }
    println!("{} endpoints; bar: 100 ms at p99\n{table}", size.endpoints);
    let report = Report {
        endpoints: size.endpoints,
        changes: size.changes,
        one_ms_p50: one.p50(),
        one_ms_p99: one.p99(),
        all_ms_p50: all.p50(),
        all_ms_p99: all.p99(),
    };
    report::json(json, &report)
}

/// What the other endpoints have: a policy each, with peers and ports.
fn everyday(who: &str) -> String {
    format!(
        "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {{name: of-{who}, namespace: default}}\n\
         spec:\n  endpointSelector: {{matchLabels: {{who: {who}}}}}\n  ingress:\n  - fromEndpoints:\n    \
         - matchLabels: {{app: other}}\n    toPorts:\n    - ports: [{{port: \"8080\", protocol: TCP}}]\n"
    )
}

struct Stage<'a> {
    world: &'a World,
    client: UdpSocket,
    server: UdpSocket,
    to: SocketAddr,
}

impl<'a> Stage<'a> {
    fn new(world: &'a World) -> Result<Self> {
        let (client, server) = (world.place("client-0")?, world.place("server-0")?);
        Ok(Self {
            to: udp::mapped(SocketAddr::new(server.address(false)?, PORT)),
            client: udp::socket(&client.space, 0)?,
            server: udp::socket(&server.space, PORT)?,
            world,
        })
    }

    fn changes(&self, about: About, count: u32) -> Result<Samples> {
        // The first makes the policy; it is no change of one.
        self.change(about, false)?;
        let change = |number: u32| {
            // Not in step with anything that the agent does regularly.
            std::thread::sleep(LATENCY_PAUSE + Duration::from_millis(u64::from(number * 7 % 50)));
            self.change(about, number.is_multiple_of(2))
        };
        let samples = (0..count).map(change).collect::<Result<Samples>>()?;
        self.world.lab().delete("changing.yaml")?;
        std::thread::sleep(LATENCY_PAUSE);
        Ok(samples)
    }

    /// From before the manifest is written to the sending of the first packet that it decides.
    fn change(&self, about: About, denies: bool) -> Result<Duration> {
        let written = probe::now();
        self.world.apply("changing.yaml", &[about.policy(denies)])?;
        let mut last = written;
        for number in 0.. {
            let datagram = Probe::now(0, number);
            self.client.send_to(&datagram.encode(), self.to)?;
            udp::sleep_until(datagram.sent + LATENCY_GAP);
            while let Some(arrived) = self.arrived() {
                last = last.max(arrived.sent);
            }
            let now = probe::now();
            if !denies && last > written {
                return Ok(last - written);
            }
            if denies && now > last + LATENCY_SILENCE {
                return Ok(last + LATENCY_GAP - written);
            }
            ensure!(denies || now < written + Duration::from_secs(30), "nothing is let through again");
        }
        Ok(last - written)
    }

    fn arrived(&self) -> Option<Probe> {
        let mut buffer = [0; LENGTH + 1];
        let length = self.server.recv(&mut buffer).ok()?;
        Probe::decode(&buffer[..length])
    }
}
