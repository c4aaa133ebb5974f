//! Two pods of this node, one of another, and the tables that know them: in the kernel, and in the twin.

use std::net::IpAddr;

use countersign_ebpf_loader::common::action::{Action, Errand};
use countersign_ebpf_loader::common::addr::Addr;
use countersign_ebpf_loader::common::auth::{AuthKey, AuthValue, Bound};
use countersign_ebpf_loader::common::config::{self, Config};
use countersign_ebpf_loader::common::craft::Craft;
use countersign_ebpf_loader::common::endpoint::{Epochs, audit_slot, owner};
use countersign_ebpf_loader::common::ipcache::{IpEntry, flag};
use countersign_ebpf_loader::common::layout::program;
use countersign_ebpf_loader::common::policy::{PolicyEntry, PolicyKey, auth_type, precedence};
use countersign_ebpf_loader::common::twin::{Twin, network, policy_prefix};
use countersign_ebpf_loader::common::{identity, pod, wire};
use countersign_ebpf_loader::{Datapath, EndpointConfig, PolicyOp, PolicyTable, Skb};
use ipnet::IpNet;

use super::device;

pub const A: u32 = 1000;
pub const B: u32 = 2000;
pub const C: u32 = 3000;
pub const NODE: u16 = 7;
pub const SECOND: u64 = 1_000_000_000;

/// The addresses of the scene, IPv4 and IPv6.
pub const A_IPS: [&str; 2] = ["10.0.1.10", "fd00:100::a"];
pub const B_IPS: [&str; 2] = ["10.0.1.11", "fd00:100::b"];
pub const C_IPS: [&str; 2] = ["10.0.2.12", "fd00:200::c"];
pub const HOST_IPS: [&str; 2] = ["10.0.0.1", "fd00::1"];
pub const WORLD_IPS: [&str; 2] = ["198.51.100.9", "2001:db8::9"];

/// Kernel and twin, filled alike.
pub struct Scene {
    pub datapath: Datapath,
    pub twin: Twin,
    pub a: EndpointConfig,
    pub b: EndpointConfig,
}

pub fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

impl Scene {
    /// Both pods attached, everybody known, nothing allowed.
    pub fn new(mut datapath: Datapath) -> Self {
        let a = endpoint("csa", 1, A, A_IPS, 0xa);
        let b = endpoint("csb", 2, B, B_IPS, 0xb);
        datapath.add_endpoint(&a).unwrap();
        datapath.add_endpoint(&b).unwrap();
        let mut scene = Self { datapath, twin: Twin::default(), a, b };
        for endpoint in scene.datapath.endpoints() {
            scene.twin.endpoints.insert(endpoint.ifindex, endpoint);
            // What `add_endpoint` leaves in a slot that was never used.
            scene.twin.epochs.insert(endpoint.slot, Epochs { policy: 1, auth: 1, birth: 1, pad: 0 });
        }
        scene.configure(&Config {
            flags: config::flag::ENCRYPTION,
            handshake_port: 4250,
            wireguard_port: 51871,
            ..Config::default()
        });
        scene.know_everybody();
        scene
    }

    fn know_everybody(&mut self) {
        let entry = |identity, node, flags| IpEntry { identity, node, flags };
        let local = flag::POD | flag::LOCAL;
        let remote = flag::POD | flag::ENCRYPTED;
        for family in [0, 1] {
            self.know(A_IPS[family], entry(A, 0, local));
            self.know(B_IPS[family], entry(B, 0, local));
            self.know(C_IPS[family], entry(C, NODE, remote));
            self.know(HOST_IPS[family], entry(identity::HOST, 0, 0));
        }
        self.know("10.0.1.0/24", entry(0, 0, local));
        self.know("10.0.2.0/24", entry(0, NODE, remote));
        self.know("fd00:100::/64", entry(0, 0, local));
        self.know("fd00:200::/64", entry(0, NODE, remote));
    }

    pub fn configure(&mut self, config: &Config) {
        self.datapath.set_config(config).unwrap();
        self.twin.config = Some(self.datapath.config().unwrap());
    }

    /// An address or a prefix.
    pub fn know(&mut self, text: &str, entry: IpEntry) {
        let net: IpNet = text.parse().unwrap_or_else(|_| IpNet::from(ip(text)));
        self.datapath.ipcache_upsert(net, entry).unwrap();
        let (addr, family) = Addr::from_ip(net.addr());
        self.twin.ips.insert((family, net.prefix_len(), network(&addr, net.prefix_len())), entry);
    }

    /// Sets a policy entry; `bits` 0 is the exact table.
    pub fn policy(&mut self, key: PolicyKey, bits: u8, entry: PolicyEntry) {
        let table = if bits == 0 { PolicyTable::Exact } else { PolicyTable::Prefix(bits) };
        self.datapath.policy_apply(&[PolicyOp::Upsert(table, key, entry)]).unwrap();
        if bits == 0 {
            self.twin.policy_exact.insert(key, entry);
        } else {
            self.twin.policy_lpm.insert((bits, policy_prefix(&key, bits)), entry);
        }
        self.bump(owner(u16::from_be(key.slot_be)));
    }

    /// Allows everything between a slot and an identity (0: everybody).
    pub fn allow(&mut self, slot: u16, direction: u8, identity: u32, auth: u8) {
        let key = PolicyKey { identity, slot_be: slot.to_be(), direction, ..PolicyKey::default() };
        self.policy(key, 56, allowing(auth, 56));
    }

    /// Allows everything, without proof.
    pub fn open(&mut self) {
        for slot in [1, 2] {
            for direction in [0, 1] {
                self.allow(slot, direction, 0, auth_type::NONE);
            }
        }
    }

    /// Asks for a second verdict on the flows of the pod in a slot.
    pub fn audit(&mut self, slot: u16) {
        self.datapath.set_audited(slot, true).unwrap();
        for endpoint in self.twin.endpoints.values_mut().filter(|endpoint| endpoint.slot == slot) {
            endpoint.audit_slot = audit_slot(slot);
        }
        self.twin.epochs.entry(slot).or_default().policy += 1;
    }

    pub fn bump(&mut self, slot: u16) {
        self.datapath.epoch_bump_policy(slot).unwrap();
        self.twin.epochs.entry(slot).or_default().policy += 1;
    }

    /// Installs a proof of a pair, and what the peer's session says of its addresses.
    pub fn prove(&mut self, local: u32, remote: u32, node: u16, ips: [&str; 2], lifetime: u64) {
        let key = AuthKey { local, remote, node, auth_type: auth_type::SPIRE, pad: 0 };
        let value = AuthValue { expires_at: boot_now() + lifetime, ..AuthValue::default() };
        self.datapath.auth_upsert(key, value).unwrap();
        self.twin.auth.insert(key, value);
        for text in ips {
            let bound = Bound { identity: remote, node, ..Bound::default() };
            self.datapath.bind(ip(text), bound).unwrap();
            let (addr, family) = Addr::from_ip(ip(text));
            self.twin.bound.insert((family, addr), bound);
        }
    }

    /// A frame between a pod of ours and somebody, as the pod's device has it.
    pub fn craft(&self, endpoint: &EndpointConfig, peer: [&str; 2], v6: bool, leaves: bool) -> Craft {
        let own = if v6 { IpAddr::V6(endpoint.ip6.unwrap()) } else { IpAddr::V4(endpoint.ip4.unwrap()) };
        let craft = Craft::new((endpoint.mac, endpoint.host_mac), own, ip(peer[usize::from(v6)]));
        if leaves { craft } else { craft.reversed() }
    }

    /// Runs a program of the kernel on a frame.
    pub fn kernel(&self, program: &'static str, ifindex: u32, frame: &[u8]) -> i32 {
        let run = self.datapath.test_run(program, frame, &Skb::on(ifindex), 1);
        run.unwrap_or_else(|error| panic!("{error}, {} bytes", frame.len())).action
    }

    /// What the twin says that the program should return.
    pub fn expected(&self, program: &'static str, ifindex: u32, frame: &[u8]) -> i32 {
        self.twin.coarse.set(now(libc::CLOCK_MONOTONIC_COARSE));
        self.twin.boot.set(boot_now());
        let mut errand = Errand { ifindex, ..Errand::default() };
        code(match program {
            program::FROM_POD => pod::from_pod(frame, &self.twin, &mut errand),
            program::TO_POD => pod::to_pod(frame, &self.twin, &mut errand),
            program::FROM_PARK => wire::from_park(frame, &self.twin, &mut errand),
            program::TO_WIRE => wire::to_wire(frame, &self.twin),
            program::FROM_WIRE => wire::from_wire(frame, &self.twin),
            program::TO_WG => wire::to_wg(frame, &self.twin),
            program::FROM_WG => wire::from_wg(frame, &self.twin),
            other => panic!("{other}"),
        })
    }

    /// Packets that the kernel counted, by direction and reason.
    pub fn counted(&self, direction: u8, reason: u8) -> u64 {
        let rows = self.datapath.metrics().unwrap();
        let row = rows.iter().find(|row| (row.direction, row.reason) == (direction, reason));
        row.map_or(0, |row| row.counter.packets)
    }
}

/// An entry that allows.
pub fn allowing(auth: u8, bits: u8) -> PolicyEntry {
    PolicyEntry {
        precedence: precedence(0, false),
        rule_id: 42,
        auth_type: auth,
        prefix_bits: bits,
        ..PolicyEntry::default()
    }
}

/// What the kernel is told for an action.
pub fn code(action: Action) -> i32 {
    match action {
        Action::Pass => -1,
        Action::Drop => 2,
        Action::Park | Action::ReleaseIn | Action::ReleaseOut => 7,
    }
}

pub fn now(clock: libc::clockid_t) -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the structure lives through the call.
    assert_eq!(unsafe { libc::clock_gettime(clock, &mut time) }, 0);
    time.tv_sec as u64 * SECOND + time.tv_nsec as u64
}

pub fn boot_now() -> u64 {
    now(libc::CLOCK_BOOTTIME)
}

fn endpoint(name: &str, slot: u16, identity: u32, ips: [&str; 2], last: u8) -> EndpointConfig {
    let (mac, host_mac) = ([2, 0, 0, 0, 0, last], [2, 0, 0, 0, 1, last]);
    let ifindex = device::veth(name, &format!("{name}p"), host_mac, mac);
    let (IpAddr::V4(ip4), IpAddr::V6(ip6)) = (ip(ips[0]), ip(ips[1])) else { panic!("families") };
    EndpointConfig { slot, ifindex, identity, ip4: Some(ip4), ip6: Some(ip6), mac, host_mac }
}
