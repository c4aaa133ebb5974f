//! What the eBPF programs cost per packet, read in three ways.
//!
//! - In a loop: `BPF_PROG_TEST_RUN` of one packet many times, the least of ten runs. Caches are warm. The
//!   kernel's own part in a run is in every figure; the first row is next to nothing else.
//! - One by one: a call for every packet, each the first of its flow. A call leaves caches cold and reads the
//!   clock twice; the row of a program that does next to nothing says what that costs by itself.
//! - Real packets: ten thousand flows to ten thousand peers through a veth pair, timed by the kernel
//!   (`BPF_ENABLE_STATS`), the clock's two readings included.

use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::thread;

use anyhow::{Context as _, Result, anyhow, ensure};
use comfy_table::Cell;
use countersign_ebpf_loader::common::auth::{AuthKey, AuthValue, Bound};
use countersign_ebpf_loader::common::config::{self, Config};
use countersign_ebpf_loader::common::craft::Craft;
use countersign_ebpf_loader::common::ipcache::{IpEntry, flag};
use countersign_ebpf_loader::common::layout::program::{FROM_POD, FROM_WIRE, TO_POD, TO_WIRE};
use countersign_ebpf_loader::common::policy::direction::{EGRESS, INGRESS};
use countersign_ebpf_loader::common::policy::{PREFIX_PORT, PolicyEntry, PolicyKey, auth_type, precedence};
use countersign_ebpf_loader::common::proto::{self, tcp};
use countersign_ebpf_loader::common::{limits, metrics, reason};
use countersign_ebpf_loader::{Datapath, EndpointConfig, OpenConfig, PolicyOp, PolicyTable, Skb};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use serde::Serialize;

use crate::report;

/// Runs of one measurement, of which the least counts.
const ROUNDS: u32 = 10;
/// Packets of a run.
const REPEAT: u32 = 200_000;
/// Peers that policy knows, and so its entries.
const PEERS: u32 = 10_000;
/// Packets that are measured one by one, because each must be the first of its flow.
const SINGLES: u16 = 1_500;

const A: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 1, 10));
const B: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 1, 11));
const A_IDENTITY: u32 = 1000;
const B_IDENTITY: u32 = 2000;
const PASS: i32 = -1;
const DROP: i32 = 2;

#[derive(Serialize)]
struct Row {
    program: &'static str,
    case: &'static str,
    ns_per_packet: f64,
    verified_instructions: u32,
}

#[derive(Serialize)]
struct Rows {
    rows: Vec<Row>,
}

/// Measures in namespaces of its own, so that nothing of the machine's network is touched.
pub fn run(json: bool) -> Result<()> {
    let measured = thread::spawn(measure).join().map_err(|_| anyhow!("the measuring thread panicked"))??;
    let mut table = report::table(&["program", "case", "ns/packet", "verified instructions"]);
    for row in &measured.rows {
        let (ns, verified) = (format!("{:.0}", row.ns_per_packet), row.verified_instructions.to_string());
        table.add_row([Cell::new(row.program), Cell::new(row.case), Cell::new(ns), Cell::new(verified)]);
    }
    println!("{table}");
    report::json(json, &measured)
}

fn measure() -> Result<Rows> {
    unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).context("new namespaces: root is needed")?;
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
    let dir = tempfile::tempdir()?;
    mount(Some("bpf"), dir.path(), Some("bpf"), MsFlags::empty(), none)?;
    let mut bench = Bench::new(&OpenConfig { pin_dir: dir.path().join("cs"), ..OpenConfig::default() })?;
    let rows = bench.rows();
    drop(bench);
    nix::mount::umount2(dir.path(), nix::mount::MntFlags::MNT_DETACH)?;
    rows
}

/// Two pods of one node, and a policy that knows ten thousand peers.
struct Bench {
    datapath: Datapath,
    a: EndpointConfig,
    b: EndpointConfig,
}

impl Bench {
    fn new(config: &OpenConfig) -> Result<Self> {
        let mut datapath = Datapath::open(config)?;
        let a = endpoint("cs_bench_a", 1, A_IDENTITY, A)?;
        let b = endpoint("cs_bench_b", 2, B_IDENTITY, B)?;
        datapath.add_endpoint(&a)?;
        datapath.add_endpoint(&b)?;
        let mut this = Self { datapath, a, b };
        this.settings(0)?;
        this.peers()?;
        Ok(this)
    }

    fn settings(&mut self, flags: u32) -> Result<()> {
        let ports = Config { flags, handshake_port: 4250, wireguard_port: 51871, ..Config::default() };
        Ok(self.datapath.set_config(&ports)?)
    }

    /// Everybody is known by an exact address, and allowed on one port.
    fn peers(&mut self) -> Result<()> {
        let local = flag::POD | flag::LOCAL;
        self.datapath.ipcache_upsert(A.into(), IpEntry { identity: A_IDENTITY, node: 0, flags: local })?;
        self.datapath.ipcache_upsert(B.into(), IpEntry { identity: B_IDENTITY, node: 0, flags: local })?;
        for number in 0..PEERS {
            let ip = IpAddr::V4(peer_ip(number));
            let entry = IpEntry { identity: 10_000 + number, node: 7, flags: flag::POD };
            self.datapath.ipcache_upsert(ip.into(), entry)?;
            self.allow(1, EGRESS, 10_000 + number, auth_type::NONE)?;
        }
        self.allow(1, EGRESS, B_IDENTITY, auth_type::NONE)?;
        self.allow(2, INGRESS, A_IDENTITY, auth_type::NONE)
    }

    fn allow(&mut self, slot: u16, direction: u8, identity: u32, auth: u8) -> Result<()> {
        self.allow_one(slot, direction, proto::TCP, identity, auth)?;
        Ok(self.datapath.epoch_bump_policy(slot)?)
    }

    fn allow_one(&mut self, slot: u16, direction: u8, protocol: u8, identity: u32, auth: u8) -> Result<()> {
        let key = PolicyKey {
            identity,
            slot_be: slot.to_be(),
            direction,
            protocol,
            port_be: 80u16.to_be(),
            pad: 0,
        };
        let entry = PolicyEntry {
            precedence: precedence(0, false),
            rule_id: 1,
            auth_type: auth,
            prefix_bits: PREFIX_PORT,
            ..PolicyEntry::default()
        };
        Ok(self.datapath.policy_apply(&[PolicyOp::Upsert(PolicyTable::Exact, key, entry)])?)
    }

    /// Both halves ask for a proof from here on, and have it.
    fn require(&mut self) -> Result<()> {
        self.allow(1, EGRESS, B_IDENTITY, auth_type::SPIRE)?;
        self.allow(2, INGRESS, A_IDENTITY, auth_type::SPIRE)?;
        for (local, remote, ip) in [(A_IDENTITY, B_IDENTITY, B), (B_IDENTITY, A_IDENTITY, A)] {
            let key = AuthKey { local, remote, node: 0, auth_type: auth_type::SPIRE, pad: 0 };
            // The boot clock will not come to that.
            self.datapath
                .auth_upsert(key, AuthValue { expires_at: u64::MAX / 2, epoch: 0, generation: 1 })?;
            self.datapath.bind(ip, Bound { identity: remote, ..Bound::default() })?;
        }
        Ok(())
    }

    fn rows(&mut self) -> Result<Rows> {
        let out = Craft::new((self.a.mac, self.a.host_mac), A, B);
        let into = Craft { source_mac: self.b.host_mac, destination_mac: self.b.mac, ..out.clone() };
        let (syn, data) = (out.tcp(1000, 80, tcp::SYN), out.tcp(1000, 80, tcp::ACK));
        let (syn_in, data_in) = (into.tcp(1000, 80, tcp::SYN), into.tcp(1000, 80, tcp::ACK));
        let answer = out.reversed().tcp(80, 1000, tcp::ACK);
        let denied = out.tcp(1000, 81, tcp::SYN);
        let (a, b) = (self.a.ifindex, self.b.ifindex);
        let mut rows = vec![
            self.row(FROM_WIRE, "nothing to watch for (the harness)", a, &data, PASS)?,
            self.row(FROM_POD, "first packet (SYN), 10,000 policy entries", a, &syn, PASS)?,
            self.row(TO_POD, "first packet (SYN)", b, &syn_in, PASS)?,
            self.row(FROM_POD, "established", a, &data, PASS)?,
            self.row(TO_POD, "established", b, &data_in, PASS)?,
            self.row(TO_POD, "reply", a, &answer, PASS)?,
            self.row(FROM_POD, "denied, event suppressed", a, &denied, DROP)?,
        ];
        rows.extend(self.one_by_one(&out)?);
        rows.push(self.delivered(&out)?);
        rows.extend(self.real_packets()?);
        self.require()?;
        rows.push(self.row(FROM_POD, "authenticated, first packet (SYN)", a, &syn, PASS)?);
        rows.push(self.row(FROM_POD, "authenticated, established", a, &data, PASS)?);
        rows.push(self.row(TO_POD, "authenticated, first packet (SYN)", b, &syn_in, PASS)?);
        rows.push(self.row(TO_POD, "authenticated, established", b, &data_in, PASS)?);
        rows.push(self.row(TO_POD, "authenticated, reply", a, &answer, PASS)?);
        // A second verdict that says no to everything.
        self.datapath.set_audited(self.a.slot, true)?;
        rows.push(self.row(FROM_POD, "audited, first packet (SYN), event suppressed", a, &syn, PASS)?);
        rows.push(self.row(FROM_POD, "audited, established", a, &data, PASS)?);
        rows.extend(self.wire(&data)?);
        Ok(Rows { rows })
    }

    /// The wire is watched only where encryption is asked for.
    fn wire(&mut self, data: &[u8]) -> Result<Vec<Row>> {
        self.settings(config::flag::ENCRYPTION)?;
        let a = self.a.ifindex;
        let node = Craft::new(([2; 6], [4; 6]), [192, 0, 2, 1].into(), [10, 1, 0, 7].into());
        let outer = node.udp(51871, 51871, &[0; 100]);
        Ok(vec![
            self.row(TO_WIRE, "between nodes", a, &outer, PASS)?,
            self.row(TO_WIRE, "a pod's packet in the clear", a, data, DROP)?,
        ])
    }

    fn row(
        &mut self,
        program: &'static str,
        case: &'static str,
        ifindex: u32,
        packet: &[u8],
        want: i32,
    ) -> Result<Row> {
        let mut least = u64::MAX;
        for _ in 0..ROUNDS {
            let run = self.datapath.test_run(program, packet, &Skb::on(ifindex), REPEAT)?;
            ensure!(run.action == want, "{program}, {case}: {} instead of {want}", run.action);
            least = least.min(run.nanoseconds);
        }
        self.finish(program, case, least as f64)
    }

    /// What a call costs by itself, then a first packet that makes its table entry, with that and without.
    fn one_by_one(&mut self, out: &Craft) -> Result<[Row; 3]> {
        let syn = |port| out.tcp(port, 80, tcp::SYN);
        let call = self.singles(FROM_WIRE, "one by one: nothing to watch for (the call)", syn, PASS)?;
        let first = self.singles(FROM_POD, "one by one: first packet, table entry made", syn, PASS)?;
        let less = first.ns_per_packet - call.ns_per_packet;
        let case = "one by one: first packet, less the call";
        Ok([call, first, self.finish(FROM_POD, case, less)?])
    }

    /// The mean over packets of which each is the first of its flow.
    fn singles(
        &mut self,
        program: &'static str,
        case: &'static str,
        packet: impl Fn(u16) -> Vec<u8>,
        want: i32,
    ) -> Result<Row> {
        let mut sum = 0;
        for port in 0..SINGLES {
            let run = self.datapath.test_run(program, &packet(10_000 + port), &Skb::on(self.a.ifindex), 1)?;
            ensure!(run.action == want, "{case}: {} instead of {want}", run.action);
            sum += run.nanoseconds;
        }
        self.finish(program, case, sum as f64 / f64::from(SINGLES))
    }

    /// A datagram to each of the peers, and another one.
    fn real_packets(&mut self) -> Result<[Row; 2]> {
        for peer in 0..PEERS {
            self.allow_one(1, EGRESS, proto::UDP, 10_000 + peer, auth_type::NONE)?;
        }
        self.datapath.epoch_bump_policy(1)?;
        plumb()?;
        let socket = UdpSocket::bind((A, 0)).context("a socket on the pod's address")?;
        let timing = Datapath::time_runs()?;
        let first = self.through(&socket, "real packets: first of 10,000 flows to 10,000 peers")?;
        let second = self.through(&socket, "real packets: established, 10,000 flows in turns")?;
        drop(timing);
        Ok([first, second])
    }

    fn through(&mut self, socket: &UdpSocket, case: &'static str) -> Result<Row> {
        let (runs, took) = self.datapath.timed_runs(FROM_POD)?;
        let passed = self.passed()?;
        for peer in 0..PEERS {
            socket.send_to(&[0; 64], (peer_ip(peer), 80)).context("sending through the pod's device")?;
        }
        let passed = self.passed()? - passed;
        ensure!(passed >= u64::from(PEERS), "{case}: {passed} of {PEERS} passed");
        let (all, sum) = self.datapath.timed_runs(FROM_POD)?;
        self.finish(FROM_POD, case, (sum - took).as_nanos() as f64 / (all - runs) as f64)
    }

    fn passed(&self) -> Result<u64> {
        let rows = self.datapath.metrics()?;
        let row = rows.iter().find(|row| (row.direction, row.reason) == (metrics::EGRESS, reason::FORWARDED));
        Ok(row.map_or(0, |row| row.counter.packets))
    }

    /// As above, and every one of the events must have come out of the ring.
    fn delivered(&mut self, out: &Craft) -> Result<Row> {
        let case = "denied, event delivered, one by one";
        let mut events = self.datapath.take_events().context("the events are somebody else's")?;
        while events.next().is_some() {}
        let row = self.singles(FROM_POD, case, |port| out.tcp(port, 81, tcp::SYN), DROP)?;
        let got = std::iter::from_fn(|| events.next()).count();
        let lost = self.lost()?;
        ensure!(got + lost >= usize::from(SINGLES) && lost == 0, "{got} events, {lost} lost");
        Ok(row)
    }

    fn lost(&self) -> Result<usize> {
        let rows = self.datapath.metrics()?;
        let denied =
            rows.iter().find(|row| (row.direction, row.reason) == (metrics::EGRESS, reason::POLICY_DENIED));
        Ok(denied.map_or(0, |row| row.counter.lost as usize))
    }

    fn finish(&mut self, program: &'static str, case: &'static str, ns_per_packet: f64) -> Result<Row> {
        let verified_instructions = self.datapath.verified_instructions(program)?;
        Ok(Row { program, case, ns_per_packet, verified_instructions })
    }
}

const _: () = assert!((SINGLES as u32) < limits::EVENTS_PER_SLOT);

const fn peer_ip(number: u32) -> Ipv4Addr {
    let [_, _, high, low] = number.to_be_bytes();
    Ipv4Addr::new(10, 1, high, low)
}

/// The way of the first pod's packets, in the one namespace there is: out of its device, to the host's MAC.
fn plumb() -> Result<()> {
    for line in [
        "link set cs_bench_a address 02:00:00:00:01:01 up",
        "link set cs_bench_ap address 02:00:00:00:00:01 up",
        "address add 10.0.1.10/32 dev cs_bench_ap",
        "neighbour add 10.0.0.1 lladdr 02:00:00:00:01:01 dev cs_bench_ap",
        "route add 10.1.0.0/16 via 10.0.0.1 dev cs_bench_ap onlink src 10.0.1.10",
    ] {
        ip(line)?;
    }
    Ok(())
}

fn ip(line: &str) -> Result<()> {
    let status = std::process::Command::new("ip").args(line.split(' ')).status().context("running ip")?;
    ensure!(status.success(), "ip {line}: {status}");
    Ok(())
}

/// A pair of devices for an endpoint.
pub fn endpoint(device: &str, slot: u16, identity: u32, ip: IpAddr) -> Result<EndpointConfig> {
    self::ip(&format!("link add {device} type veth peer name {device}p"))?;
    let IpAddr::V4(ip4) = ip else { anyhow::bail!("{ip} is not IPv4") };
    let ifindex = nix::net::if_::if_nametoindex(device)?;
    let last = slot as u8;
    let (mac, host_mac) = ([2, 0, 0, 0, 0, last], [2, 0, 0, 0, 1, last]);
    Ok(EndpointConfig { slot, ifindex, identity, ip4: Some(ip4), ip6: None, mac, host_mac })
}
