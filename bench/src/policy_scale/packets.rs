//! What the first packet of a flow costs in the programs, by the size of the endpoint's table.

use std::net::{IpAddr, Ipv4Addr};
use std::thread;

use anyhow::{Context as _, Result, anyhow, ensure};
use countersign_ebpf_loader::common::config::Config;
use countersign_ebpf_loader::common::craft::Craft;
use countersign_ebpf_loader::common::ipcache::{IpEntry, flag};
use countersign_ebpf_loader::common::layout::program::FROM_POD;
use countersign_ebpf_loader::common::policy::direction::EGRESS;
use countersign_ebpf_loader::common::policy::{PREFIX_PORT, PolicyEntry, PolicyKey, precedence};
use countersign_ebpf_loader::common::proto::{self, tcp};
use countersign_ebpf_loader::{Datapath, OpenConfig, PolicyOp, PolicyTable, Skb};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

use crate::datapath::endpoint;

/// Runs of one measurement, of which the least counts.
const ROUNDS: u32 = 10;
/// Packets of a run.
const REPEAT: u32 = 200_000;
const SLOT: u16 = 1;
const A_IDENTITY: u32 = 1_000;
/// The first peer's identity.
const PEERS: u32 = 10_000;
const A: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 1, 10));
const B: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 1, 11));
const PASS: i32 = -1;

/// Nanoseconds per packet with few entries, and with many.
pub fn run(few: u32, many: u32) -> Result<(f64, f64)> {
    let measured = thread::spawn(move || in_namespaces(few, many)).join();
    measured.map_err(|_| anyhow!("the measuring thread panicked"))?
}

fn in_namespaces(few: u32, many: u32) -> Result<(f64, f64)> {
    unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).context("new namespaces: root is needed")?;
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
    let dir = tempfile::tempdir()?;
    mount(Some("bpf"), dir.path(), Some("bpf"), MsFlags::empty(), none)?;
    let measured =
        measure(&OpenConfig { pin_dir: dir.path().join("cs"), ..OpenConfig::default() }, few, many);
    nix::mount::umount2(dir.path(), nix::mount::MntFlags::MNT_DETACH)?;
    measured
}

fn measure(config: &OpenConfig, few: u32, many: u32) -> Result<(f64, f64)> {
    let mut datapath = Datapath::open(config)?;
    let a = endpoint("cs_scale_a", SLOT, A_IDENTITY, A)?;
    datapath.add_endpoint(&a)?;
    datapath.set_config(&Config { handshake_port: 4250, wireguard_port: 51871, ..Config::default() })?;
    let local = flag::POD | flag::LOCAL;
    datapath.ipcache_upsert(A.into(), IpEntry { identity: A_IDENTITY, node: 0, flags: local })?;
    datapath.ipcache_upsert(B.into(), IpEntry { identity: PEERS, node: 0, flags: local })?;
    // The peer asked for is the first: in a list it would be the last rule, in a hash it is one of many.
    allow(&mut datapath, 0..few)?;
    let small = packets(&mut datapath, a.ifindex, &a)?;
    allow(&mut datapath, few..many)?;
    let large = packets(&mut datapath, a.ifindex, &a)?;
    Ok((small, large))
}

fn allow(datapath: &mut Datapath, peers: std::ops::Range<u32>) -> Result<()> {
    let op = |index: u32| {
        let key = PolicyKey {
            identity: PEERS + index,
            slot_be: SLOT.to_be(),
            direction: EGRESS,
            protocol: proto::TCP,
            port_be: 80_u16.to_be(),
            pad: 0,
        };
        let entry = PolicyEntry {
            precedence: precedence(0, false),
            rule_id: 1,
            prefix_bits: PREFIX_PORT,
            ..PolicyEntry::default()
        };
        PolicyOp::Upsert(PolicyTable::Exact, key, entry)
    };
    let ops: Vec<PolicyOp> = peers.map(op).collect();
    datapath.policy_apply(&ops)?;
    Ok(datapath.epoch_bump_policy(SLOT)?)
}

fn packets(
    datapath: &mut Datapath,
    ifindex: u32,
    a: &countersign_ebpf_loader::EndpointConfig,
) -> Result<f64> {
    // A SYN is decided anew each time.
    let syn = Craft::new((a.mac, a.host_mac), A, B).tcp(1000, 80, tcp::SYN);
    let mut least = u64::MAX;
    for _ in 0..ROUNDS {
        let run = datapath.test_run(FROM_POD, &syn, &Skb::on(ifindex), REPEAT)?;
        ensure!(run.action == PASS, "{} instead of {PASS}", run.action);
        least = least.min(run.nanoseconds);
    }
    Ok(least as f64)
}
