//! Two pods of this node, one of another, a router, and the tables that know them.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::vec::Vec;

use crate::action::{Action, Errand};
use crate::addr::Addr;
use crate::auth::{AuthValue, Bound};
use crate::config::{self, Config};
use crate::craft::Craft;
use crate::decide::auth_key;
use crate::endpoint::{self, Endpoint};
use crate::identity;
use crate::ipcache::{IpEntry, flag};
use crate::policy::{PREFIX_PROTOCOL, PREFIX_STATIC, PolicyEntry, PolicyKey, auth_type, precedence};
use crate::twin::{Twin, network};
use crate::{pod, wire};

pub const A: u32 = 1000;
pub const B: u32 = 2000;
pub const C: u32 = 3000;
pub const A_SLOT: u16 = 1;
pub const B_SLOT: u16 = 2;
pub const A_IF: u32 = 11;
pub const B_IF: u32 = 12;
pub const PARK_IF: u32 = 20;
pub const REMOTE_NODE: u16 = 7;
pub const SECOND: u64 = 1_000_000_000;

/// The node's hosts, by name and family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Host {
    A,
    B,
    C,
    Node,
    World,
}

pub fn ip(host: Host, v6: bool) -> IpAddr {
    let last = match host {
        Host::A => 10,
        Host::B => 11,
        Host::C => 12,
        Host::Node => 1,
        Host::World => 99,
    };
    if v6 {
        let net = match host {
            Host::C => 0x200,
            Host::Node => 0x300,
            Host::World => 0x400,
            _ => 0x100,
        };
        return IpAddr::V6(Ipv6Addr::new(0xfd00, net, 0, 0, 0, 0, 0, last));
    }
    let [second, third] = match host {
        Host::C => [0, 2],
        Host::Node => [200, 0],
        Host::World => [201, 0],
        _ => [0, 1],
    };
    IpAddr::V4(Ipv4Addr::new(10, second, third, last as u8))
}

pub fn endpoint(host: Host) -> Endpoint {
    let (slot, ifindex, identity, last) =
        if host == Host::A { (A_SLOT, A_IF, A, 0xa) } else { (B_SLOT, B_IF, B, 0xb) };
    let (ip4, _) = Addr::from_ip(ip(host, false));
    let (ip6, _) = Addr::from_ip(ip(host, true));
    Endpoint {
        identity,
        ifindex,
        ip4: ip4.words[0],
        slot,
        flags: endpoint::flag::READY,
        ip6,
        mac: [2, 0, 0, 0, 0, last],
        host_mac: [2, 0, 0, 0, 1, last],
        audit_slot: 0,
        pad: 0,
    }
}

pub struct Scene {
    pub twin: Twin,
}

impl Scene {
    /// Everybody known, nothing allowed.
    pub fn new() -> Self {
        let mut twin = Twin { config: Some(settings()), ..Twin::default() };
        twin.coarse.set(100 * SECOND);
        twin.boot.set(500 * SECOND);
        for host in [Host::A, Host::B] {
            let endpoint = endpoint(host);
            twin.endpoints.insert(endpoint.ifindex, endpoint);
        }
        for v6 in [false, true] {
            let mut know = |host, identity, node, flags| {
                let (addr, family) = Addr::from_ip(ip(host, v6));
                let bits = if v6 { 128 } else { 32 };
                twin.ips.insert((family, bits, addr), IpEntry { identity, node, flags });
            };
            know(Host::A, A, 0, flag::POD | flag::LOCAL);
            know(Host::B, B, 0, flag::POD | flag::LOCAL);
            know(Host::C, C, REMOTE_NODE, flag::POD | flag::ENCRYPTED);
            know(Host::Node, identity::HOST, 0, 0);
        }
        Self { twin }
    }

    /// As above, and everything is allowed, without proof.
    pub fn open() -> Self {
        let mut scene = Self::new();
        for slot in [A_SLOT, B_SLOT] {
            for direction in [0, 1] {
                scene.allow(slot, direction, 0, auth_type::NONE);
            }
        }
        scene
    }

    /// Allows everything between the slot and an identity (0: everybody).
    pub fn allow(&mut self, slot: u16, direction: u8, identity: u32, auth: u8) {
        let key = PolicyKey { identity, slot_be: slot.to_be(), direction, ..PolicyKey::default() };
        let entry = PolicyEntry {
            precedence: precedence(0, false),
            rule_id: 42,
            auth_type: auth,
            prefix_bits: PREFIX_STATIC,
            ..PolicyEntry::default()
        };
        self.twin.policy_lpm.insert((PREFIX_STATIC, key), entry);
        self.bump(slot);
    }

    /// Gives a pod a second verdict, of which nothing is allowed yet.
    pub fn audit(&mut self, host: Host) {
        let of = self.twin.endpoints.get_mut(&endpoint(host).ifindex).unwrap();
        of.audit_slot = endpoint::audit_slot(of.slot);
        let slot = of.slot;
        self.bump(slot);
    }

    /// Allows a protocol between the slot and everybody.
    pub fn allow_protocol(&mut self, slot: u16, direction: u8, protocol: u8) {
        let key = PolicyKey { slot_be: slot.to_be(), direction, protocol, ..PolicyKey::default() };
        let entry = PolicyEntry {
            precedence: precedence(0, false),
            prefix_bits: PREFIX_PROTOCOL,
            ..PolicyEntry::default()
        };
        self.twin.policy_lpm.insert((PREFIX_PROTOCOL, key), entry);
        self.bump(slot);
    }

    pub fn forbid_everything(&mut self) {
        self.twin.policy_lpm.clear();
        self.twin.policy_exact.clear();
        self.bump(A_SLOT);
        self.bump(B_SLOT);
    }

    pub fn bump(&mut self, slot: u16) {
        let epochs = self.twin.epochs.entry(slot).or_default();
        epochs.policy = epochs.policy.wrapping_add(1);
    }

    /// The cluster says whose the address is.
    pub fn know(&mut self, host: Host) {
        self.name(host, Some(IpEntry { identity: C, node: REMOTE_NODE, flags: flag::POD | flag::ENCRYPTED }));
    }

    /// All that is known of the other node's pod is that such addresses are pods' there.
    pub fn forget(&mut self, host: Host) {
        self.name(host, None);
    }

    fn name(&mut self, host: Host, entry: Option<IpEntry>) {
        for (v6, bits, net) in [(false, 32, 24), (true, 128, 64)] {
            let (addr, family) = Addr::from_ip(ip(host, v6));
            let kind = IpEntry {
                identity: identity::UNKNOWN,
                node: REMOTE_NODE,
                flags: flag::POD | flag::ENCRYPTED,
            };
            // IPv4 addresses are kept in the first word.
            let prefix = network(&addr, net);
            self.twin.ips.insert((family, net, prefix), kind);
            match entry {
                Some(entry) => drop(self.twin.ips.insert((family, bits, addr), entry)),
                None => drop(self.twin.ips.remove(&(family, bits, addr))),
            }
        }
        // As the agent does whenever addresses change.
        self.bump(A_SLOT);
        self.bump(B_SLOT);
    }

    /// Whether it is known whose the address is.
    pub fn knows(&self, host: Host) -> bool {
        let (addr, family) = Addr::from_ip(ip(host, false));
        self.twin.ips.contains_key(&(family, 32, addr))
    }

    /// Installs a proof between a pod of this node and a peer, for so many nanoseconds.
    pub fn prove(&mut self, local: Host, remote: Host, lifetime: u64) {
        let endpoint = endpoint(local);
        for v6 in [false, true] {
            let (addr, family) = Addr::from_ip(ip(remote, v6));
            let entry = self.twin.ips[&(family, if v6 { 128 } else { 32 }, addr)];
            let value = AuthValue { expires_at: self.twin.boot.get() + lifetime, ..AuthValue::default() };
            self.twin.auth.insert(auth_key(&endpoint, entry), value);
            let bound = Bound { identity: entry.identity, node: entry.node, ..Bound::default() };
            self.twin.bound.insert((family, addr), bound);
        }
    }

    /// A frame as the pod would send it.
    pub fn craft(&self, from: Host, to: Host, v6: bool) -> Craft {
        let endpoint = endpoint(if from == Host::A || from == Host::B { from } else { to });
        let macs = if from == Host::A || from == Host::B {
            (endpoint.mac, endpoint.host_mac)
        } else {
            (endpoint.host_mac, endpoint.mac)
        };
        Craft::new(macs, ip(from, v6), ip(to, v6))
    }

    pub fn leave(&self, host: Host, frame: &[u8]) -> Action {
        self.leave_again(host, frame, 0).0
    }

    pub fn enter(&self, host: Host, frame: &[u8]) -> Action {
        self.enter_again(host, frame, 0)
    }

    /// A frame that has been parked so many times.
    pub fn enter_again(&self, host: Host, frame: &[u8], round: u8) -> Action {
        self.arrive(host, frame, round).0
    }

    /// The same, with what becomes of it.
    pub fn arrive(&self, host: Host, frame: &[u8], round: u8) -> (Action, Errand) {
        let mut errand = Errand { ifindex: endpoint(host).ifindex, round, ..Errand::default() };
        let action = pod::to_pod(frame, &self.twin, &mut errand);
        (action, errand)
    }

    /// A frame that has been parked so many times.
    pub fn leave_again(&self, host: Host, frame: &[u8], round: u8) -> (Action, Errand) {
        let mut errand = Errand { ifindex: endpoint(host).ifindex, round, ..Errand::default() };
        let action = pod::from_pod(frame, &self.twin, &mut errand);
        (action, errand)
    }

    pub fn come_back(&self, frame: &[u8]) -> (Action, Errand) {
        let mut errand = Errand::default();
        let action = wire::from_park(frame, &self.twin, &mut errand);
        (action, errand)
    }

    /// Packets dropped in the direction, by reason, since the scene began.
    pub fn reasons(&self, direction: u8) -> Vec<(u8, u64)> {
        let metrics = self.twin.metrics.borrow();
        let of = metrics.iter().filter(|(index, _)| *index >> 8 == u32::from(direction));
        of.map(|(index, counter)| (*index as u8, counter.packets))
            .filter(|(reason, _)| *reason != 0)
            .collect()
    }
}

fn settings() -> Config {
    Config {
        flags: config::flag::READY | config::flag::ENCRYPTION,
        park_ifindex: PARK_IF,
        handshake_port: 4250,
        wireguard_port: 51871,
        ..Config::default()
    }
}
