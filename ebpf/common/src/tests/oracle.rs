//! Random histories, against an oracle that knows no cache, no key orientation and no tables: it looks at
//! lists from one end to the other, for every packet anew. The first pod has a second verdict.

use std::vec::Vec;

use proptest::prelude::*;

use super::scene::{A, A_SLOT, B, B_SLOT, C, Host, SECOND, Scene};
use crate::action::Action;
use crate::addr::Addr;
use crate::auth::{AuthKey, AuthValue, Bound};
use crate::craft::Craft;
use crate::ipcache::IpEntry;
use crate::policy::direction::{EGRESS, INGRESS};
use crate::policy::{PREFIX_PORT, PREFIX_PROTOCOL, PREFIX_STATIC, PolicyEntry, PolicyKey, flag, precedence};
use crate::proto::{self, tcp};
use crate::reason;

const PEERS: [(Host, u16); 4] = [(Host::A, 0), (Host::B, 0), (Host::C, 7), (Host::World, 0)];

/// A rule, as a person would write it.
#[derive(Clone, Copy, Debug)]
struct Rule {
    slot: u16,
    direction: u8,
    peer: Option<u32>,
    protocol: Option<u8>,
    port: Option<u16>,
    priority: u32,
    deny: bool,
    auth: u8,
    explicit: bool,
}

#[derive(Clone, Debug)]
enum Step {
    Packet { local: Host, peer: usize, direction: u8, kind: u8, port: u16, flags: u8 },
    Wait(u64),
    Rules(Vec<Rule>),
    Prove { local: u32, peer: usize, seconds: u64 },
    Withdraw { local: u32, peer: usize },
    Move { peer: usize, identity: u32 },
}

/// A flow as the oracle remembers it.
#[derive(Clone, Copy, Debug)]
struct Flow {
    local: Host,
    peer: usize,
    kind: u8,
    port: u16,
    opened: u8,
    answered: bool,
    closing: bool,
    last: u64,
    /// Which change of the world it was last allowed under.
    change: u32,
}

/// What becomes of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Drop,
    Pass,
    /// It passes, and is said to be dropped by the second verdict.
    Audit,
}

struct Oracle {
    now: u64,
    rules: Vec<Rule>,
    identities: [u32; 4],
    proofs: Vec<(u32, usize, u32, u64)>,
    flows: Vec<Flow>,
    changes: u32,
}

impl Oracle {
    fn alive(&self, flow: &Flow) -> bool {
        let life = match flow {
            Flow { kind: 0, closing: true, .. } => 10,
            Flow { kind: 0, answered: true, .. } => 8000,
            _ => 60,
        };
        self.now < flow.last + life * SECOND
    }

    fn allowed(&self, local: Host, peer: usize, direction: u8, protocol: u8, port: u16) -> bool {
        let slot = if local == Host::A { A_SLOT } else { B_SLOT };
        self.allowed_by(slot, local, peer, direction, protocol, port)
    }

    fn allowed_by(
        &self,
        slot: u16,
        local: Host,
        peer: usize,
        direction: u8,
        protocol: u8,
        port: u16,
    ) -> bool {
        let own = if local == Host::A { A } else { B };
        let identity = self.identities[peer];
        let fits = |rule: &&Rule| {
            rule.slot == slot
                && rule.direction == direction
                && rule.protocol.is_none_or(|wanted| wanted == protocol)
                && rule.port.is_none_or(|wanted| wanted == port)
        };
        let length = |rule: &Rule| 1 + u8::from(rule.protocol.is_some()) + u8::from(rule.port.is_some());
        let best = |peer: Option<u32>| {
            self.rules.iter().filter(fits).filter(|rule| rule.peer == peer).max_by_key(|rule| length(rule))
        };
        let (own_rule, any_rule) = (best(Some(identity)), best(None));
        let strength =
            |rule: &Rule| (core::cmp::Reverse(rule.priority), rule.deny, length(rule), rule.peer.is_some());
        let Some(winner) = own_rule.into_iter().chain(any_rule).max_by_key(|rule| strength(rule)) else {
            return false;
        };
        if winner.deny {
            return false;
        }
        let rivals = own_rule.into_iter().chain(any_rule);
        let auth = rivals
            .filter(|rule| !winner.explicit && (rule.priority, rule.deny) == (winner.priority, winner.deny))
            .map(|rule| rule.auth)
            .fold(winner.auth, u8::max);
        auth == 0 || (auth == 1 && self.proved(own, peer))
    }

    fn proved(&self, own: u32, peer: usize) -> bool {
        let identity = self.identities[peer];
        let genuine = (256..1 << 24).contains(&identity);
        let of = |proof: &(u32, usize, u32, u64)| (proof.0, proof.1, proof.2) == (own, peer, identity);
        genuine && self.proofs.iter().any(|proof| of(proof) && self.now < proof.3)
    }

    fn packet(&mut self, local: Host, peer: usize, direction: u8, kind: u8, port: u16, flags: u8) -> Outcome {
        let now = self.now;
        let same = |flow: &Flow| (flow.local, flow.peer, flow.kind, flow.port) == (local, peer, kind, port);
        let found = self.flows.iter().position(|flow| same(flow) && self.alive(flow));
        let syn = kind == 0 && flags & (tcp::SYN | tcp::ACK) == tcp::SYN;
        // An echo says itself who asked: kinds 2 and 3 are the endpoint's and the peer's exchanges.
        let fixed = match kind {
            2 => Some(EGRESS),
            3 => Some(INGRESS),
            _ => None,
        };
        let opened = match (found, syn) {
            (Some(index), false) => self.flows[index].opened,
            _ if fixed.is_some_and(|asks| asks != direction) => return Outcome::Drop,
            _ => direction,
        };
        let (protocol, asked) = match kind {
            0 => (proto::TCP, ports(port, opened)),
            1 => (proto::UDP, ports(port, opened)),
            _ => (proto::ICMP, 8),
        };
        if !self.allowed(local, peer, opened, protocol, asked) {
            return Outcome::Drop;
        }
        let second = local != Host::A || self.allowed_by(A_AUDIT, local, peer, opened, protocol, asked);
        let would = if second { Outcome::Pass } else { Outcome::Audit };
        let change = self.changes;
        let index = match found {
            Some(index) if !syn => index,
            other => {
                let flow = Flow {
                    local,
                    peer,
                    kind,
                    port,
                    opened,
                    answered: false,
                    closing: false,
                    last: now,
                    change,
                };
                if let Some(index) = other {
                    self.flows[index] = flow;
                } else {
                    self.flows.retain(|flow| !same(flow));
                    self.flows.push(flow);
                }
                return would;
            }
        };
        let flow = &mut self.flows[index];
        flow.answered |= direction != flow.opened;
        flow.closing |= flags & (tcp::FIN | tcp::RST) != 0;
        flow.last = now;
        let asked = std::mem::replace(&mut flow.change, change) != change;
        if asked { would } else { Outcome::Pass }
    }
}

/// The endpoint's port is fixed, the peer's varies; policy is asked about the opener's destination.
const LOCAL_PORT: u16 = 80;
/// Where the first pod's second verdict is.
const A_AUDIT: u16 = crate::endpoint::audit_slot(A_SLOT);

fn ports(peer_port: u16, opened: u8) -> u16 {
    if opened == EGRESS { peer_port } else { LOCAL_PORT }
}

fn rule() -> impl Strategy<Value = Rule> {
    let peer = proptest::option::of(prop_oneof![Just(A), Just(B), Just(C), Just(2u32), Just(4000)]);
    let protocol =
        prop_oneof![Just(None), Just(Some(proto::TCP)), Just(Some(proto::UDP)), Just(Some(proto::ICMP))];
    let port = prop_oneof![Just(None), Just(Some(8u16)), Just(Some(80)), Just(Some(81))];
    let slot = prop_oneof![Just(A_SLOT), Just(B_SLOT), Just(A_AUDIT)];
    ((slot, 0..2u8, peer, protocol), (port, 0..2u32, any::<bool>(), 0..3u8, any::<bool>())).prop_map(
        |((slot, direction, peer, protocol), (port, priority, deny, auth, explicit))| Rule {
            slot,
            direction,
            peer,
            protocol,
            port: protocol.and(port),
            priority,
            deny: deny && priority == 0,
            auth: if deny && priority == 0 { 0 } else { auth },
            explicit,
        },
    )
}

fn step() -> impl Strategy<Value = Step> {
    let local = prop_oneof![Just(Host::A), Just(Host::B)];
    let flags = prop_oneof![
        4 => Just(tcp::SYN), 4 => Just(tcp::SYN | tcp::ACK), 8 => Just(tcp::ACK),
        1 => Just(tcp::FIN | tcp::ACK), 1 => Just(tcp::RST)
    ];
    let packet = (local, 1..4usize, 0..2u8, 0..4u8, prop_oneof![Just(80u16), Just(81), Just(8)], flags)
        .prop_map(|(local, peer, direction, kind, port, flags)| Step::Packet {
            local,
            peer,
            direction,
            kind,
            port,
            flags,
        });
    let identity = prop_oneof![Just(A), Just(B)];
    prop_oneof![
        20 => packet,
        3 => prop_oneof![Just(SECOND / 7), Just(2 * SECOND), Just(11 * SECOND), Just(61 * SECOND)].prop_map(Step::Wait),
        2 => proptest::collection::vec(rule(), 1..12).prop_map(Step::Rules),
        3 => (identity.clone(), 1..4usize, 1..40u64)
            .prop_map(|(local, peer, seconds)| Step::Prove { local, peer, seconds }),
        1 => (identity, 1..4usize).prop_map(|(local, peer)| Step::Withdraw { local, peer }),
        1 => (2..4usize, prop_oneof![Just(C), Just(4000u32), Just(2)])
            .prop_map(|(peer, identity)| Step::Move { peer, identity }),
    ]
}

/// The scene beside the oracle: what happens to the one happens to the other.
struct Both {
    scene: Scene,
    oracle: Oracle,
}

impl Both {
    fn new() -> Self {
        let mut scene = Scene::new();
        scene.audit(Host::A);
        let oracle = Oracle {
            now: scene.twin.boot.get(),
            rules: Vec::new(),
            identities: [A, B, C, 2],
            proofs: Vec::new(),
            flows: Vec::new(),
            changes: 0,
        };
        Self { scene, oracle }
    }

    fn bump(&mut self) {
        self.oracle.changes += 1;
        for slot in [A_SLOT, B_SLOT] {
            let epochs = self.scene.twin.epochs.entry(slot).or_default();
            epochs.policy += 1;
            epochs.auth += 1;
        }
    }

    fn take(&mut self, step: &Step) {
        match step {
            Step::Wait(time) => {
                self.scene.twin.advance(*time);
                self.oracle.now += time;
            }
            Step::Rules(rules) => self.rules(rules),
            Step::Prove { local, peer, seconds } => self.prove(*local, *peer, seconds * SECOND),
            Step::Withdraw { local, peer } => {
                let (_, node) = PEERS[*peer];
                let remote = self.oracle.identities[*peer];
                let key = AuthKey { local: *local, remote, node, auth_type: 1, pad: 0 };
                self.scene.twin.auth.remove(&key);
                let identities = self.oracle.identities;
                self.oracle.proofs.retain(|proof| {
                    (proof.0, proof.2) != (*local, remote)
                        || PEERS[proof.1].1 != node
                        || identities[proof.1] != remote
                });
            }
            Step::Move { peer, identity } => {
                let (host, node) = PEERS[*peer];
                let (addr, family) = Addr::from_ip(super::scene::ip(host, false));
                let entry = IpEntry { identity: *identity, node, flags: 0 };
                self.scene.twin.ips.insert((family, 32, addr), entry);
                self.oracle.identities[*peer] = *identity;
            }
            Step::Packet { .. } => return,
        }
        if !matches!(step, Step::Wait(_)) {
            self.bump();
        }
    }

    /// Proves a pair, and has the peer's session assert the peer's one address.
    fn prove(&mut self, local: u32, peer: usize, lifetime: u64) {
        let (host, node) = PEERS[peer];
        let remote = self.oracle.identities[peer];
        let key = AuthKey { local, remote, node, auth_type: 1, pad: 0 };
        let ends = self.oracle.now + lifetime;
        self.scene.twin.auth.insert(key, AuthValue { expires_at: ends, ..AuthValue::default() });
        let (addr, family) = Addr::from_ip(super::scene::ip(host, false));
        self.scene.twin.bound.insert((family, addr), Bound { identity: remote, node, ..Bound::default() });
        let (identities, twin) = (self.oracle.identities, &self.scene.twin);
        // What the lists say now: a proof per pair and node, an owner per address.
        self.oracle.proofs.clear();
        for (key, value) in &twin.auth {
            for (other, (host, node)) in PEERS.iter().enumerate() {
                let (addr, family) = Addr::from_ip(super::scene::ip(*host, false));
                let owner = twin.bound.get(&(family, addr)).map(|bound| (bound.identity, bound.node));
                if key.node == *node && owner == Some((key.remote, *node)) {
                    self.oracle.proofs.push((key.local, other, key.remote, value.expires_at));
                }
            }
        }
        assert_eq!(identities, self.oracle.identities);
    }

    fn rules(&mut self, rules: &[Rule]) {
        self.scene.twin.policy_lpm.clear();
        self.oracle.rules.clear();
        for (number, rule) in rules.iter().enumerate() {
            let bits = match (rule.protocol, rule.port) {
                (None, _) => PREFIX_STATIC,
                (Some(_), None) => PREFIX_PROTOCOL,
                (Some(_), Some(_)) => PREFIX_PORT,
            };
            let key = PolicyKey {
                identity: rule.peer.unwrap_or(0),
                slot_be: rule.slot.to_be(),
                direction: rule.direction,
                protocol: rule.protocol.unwrap_or(0),
                port_be: rule.port.unwrap_or(0).to_be(),
                pad: 0,
            };
            let flags =
                if rule.deny { flag::DENY } else { 0 } | if rule.explicit { flag::AUTH_EXPLICIT } else { 0 };
            let entry = PolicyEntry {
                precedence: precedence(rule.priority, rule.deny),
                rule_id: number as u32 + 1,
                auth_type: rule.auth,
                flags,
                prefix_bits: bits,
                pad: 0,
            };
            // One entry per place: the first rule there stays.
            if let std::collections::btree_map::Entry::Vacant(place) =
                self.scene.twin.policy_lpm.entry((bits, key))
            {
                place.insert(entry);
                self.oracle.rules.push(*rule);
            }
        }
    }

    /// Packets that were said to be dropped by the second verdict.
    fn audited(&self) -> u64 {
        [INGRESS, EGRESS].map(|way| self.scene.twin.counter(way, reason::AUDITED).packets).iter().sum()
    }

    fn frame(&self, local: Host, peer: usize, direction: u8, kind: u8, port: u16, flags: u8) -> Vec<u8> {
        let out = Craft::new(
            (super::scene::endpoint(local).mac, super::scene::endpoint(local).host_mac),
            super::scene::ip(local, false),
            super::scene::ip(PEERS[peer].0, false),
        );
        let (craft, from, to) =
            if direction == EGRESS { (out, LOCAL_PORT, port) } else { (out.reversed(), port, LOCAL_PORT) };
        match kind {
            0 => craft.tcp(from, to, flags),
            1 => craft.udp(from, to, b"x"),
            2 => craft.echo(port, direction == EGRESS),
            _ => craft.echo(port, direction == INGRESS),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn histories_end_as_the_oracle_says(steps in proptest::collection::vec(step(), 1..120)) {
        let mut both = Both::new();
        for (number, step) in steps.iter().enumerate() {
            let Step::Packet { local, peer, direction, kind, port, flags } = *step else {
                both.take(step);
                continue;
            };
            if (local, PEERS[peer].0) == (Host::B, Host::B) {
                continue;
            }
            let flags = if kind == 0 { flags } else { 0 };
            let frame = both.frame(local, peer, direction, kind, port, flags);
            let audited = both.audited();
            let action = if direction == EGRESS {
                both.scene.leave(local, &frame)
            } else {
                both.scene.enter(local, &frame)
            };
            let expected = both.oracle.packet(local, peer, direction, kind, port, flags);
            let audits = both.audited() - audited;
            let outcome = match (action, audits) {
                (Action::Pass, 0) => Outcome::Pass,
                (Action::Pass, 1) => Outcome::Audit,
                (_, audits) => {
                    prop_assert_eq!(audits, 0, "step {}: dropped and audited", number);
                    Outcome::Drop
                }
            };
            prop_assert_eq!(outcome, expected, "step {}: {:?}", number, step);
        }
    }
}
