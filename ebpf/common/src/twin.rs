//! The tables in memory: the same deciding code runs on them in tests, packet for packet.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::vec::Vec;

use crate::addr::{Addr, V4};
use crate::auth::{AuthKey, AuthValue, Bound};
use crate::budget::SlotBudget;
use crate::config::Config;
use crate::ct::{CtEntry, CtKey};
use crate::endpoint::{Endpoint, Epochs};
use crate::event::Event;
use crate::frag::{FragKey, FragPorts};
use crate::ipcache::IpEntry;
use crate::limits;
use crate::maps::{Maps, Scratch};
use crate::metrics::{self, Counter};
use crate::packet::Packet;
use crate::park::{Pending, PendingKey};
use crate::policy::{PolicyEntry, PolicyKey};
use crate::report::Dedup;

/// The tables and two clocks that stand still until they are set. Fields are what a test fills and reads.
#[derive(Debug, Default)]
pub struct Twin {
    /// `cs_config`.
    pub config: Option<Config>,
    /// `cs_endpoints`, by interface.
    pub endpoints: BTreeMap<u32, Endpoint>,
    /// `cs_epochs`.
    pub epochs: BTreeMap<u16, Epochs>,
    /// `cs_ip4`, `cs_ip6`, `cs_cidr4`, `cs_cidr6`, by family, prefix length and network.
    pub ips: BTreeMap<(u8, u8, Addr), IpEntry>,
    /// `cs_policy`.
    pub policy_exact: BTreeMap<PolicyKey, PolicyEntry>,
    /// `cs_policy_lpm`, by prefix length.
    pub policy_lpm: BTreeMap<(u8, PolicyKey), PolicyEntry>,
    /// `cs_auth`.
    pub auth: BTreeMap<AuthKey, AuthValue>,
    /// `cs_backoff`.
    pub backoff: BTreeMap<AuthKey, u64>,
    /// `cs_bound4`, `cs_bound6`.
    pub bound: BTreeMap<(u8, Addr), Bound>,
    /// `cs_ct4`, `cs_ct6`.
    pub flows: RefCell<BTreeMap<(u8, CtKey), CtEntry>>,
    /// `cs_frag4`, `cs_frag6`.
    pub fragments: RefCell<BTreeMap<(u8, FragKey), FragPorts>>,
    /// `cs_pending`.
    pub pending: RefCell<BTreeMap<PendingKey, Pending>>,
    /// `cs_returned`.
    pub returned: BTreeMap<PendingKey, u64>,
    /// `cs_budgets`.
    pub budgets: RefCell<BTreeMap<u32, SlotBudget>>,
    /// `cs_dedup`.
    pub dedup: RefCell<BTreeMap<u32, Dedup>>,
    /// `cs_metrics`.
    pub metrics: RefCell<BTreeMap<u32, Counter>>,
    /// `cs_events`, all of them.
    pub events: RefCell<Vec<Event>>,
    /// The coarse clock.
    pub coarse: Cell<u64>,
    /// The boot clock.
    pub boot: Cell<u64>,
    /// The flow table takes nothing more.
    pub flows_full: Cell<bool>,
}

impl Twin {
    /// Moves both clocks.
    pub fn advance(&self, nanoseconds: u64) {
        self.coarse.set(self.coarse.get() + nanoseconds);
        self.boot.set(self.boot.get() + nanoseconds);
    }

    /// The counter of a direction and reason.
    #[must_use]
    pub fn counter(&self, direction: u8, reason: u8) -> Counter {
        self.metrics.borrow().get(&metrics::index(direction, reason)).copied().unwrap_or_default()
    }

    fn counted(&self, direction: u8, reason: u8, work: impl FnOnce(&mut Counter)) {
        work(self.metrics.borrow_mut().entry(metrics::index(direction, reason)).or_default());
    }
}

/// The address with all bits after the prefix cleared.
#[must_use]
pub fn network(address: &Addr, bits: u8) -> Addr {
    let value = u128::from_be_bytes(address.bytes());
    let mask = if bits == 0 { 0 } else { u128::MAX << (128 - u32::from(bits)) };
    Addr::v6((value & mask).to_be_bytes())
}

/// The key with all bits after the prefix cleared, as the trie compares them.
#[must_use]
pub fn policy_prefix(key: &PolicyKey, bits: u8) -> PolicyKey {
    let mut bytes = [0; 12];
    bytes[0..4].copy_from_slice(&key.identity.to_ne_bytes());
    bytes[4..6].copy_from_slice(&key.slot_be.to_ne_bytes());
    bytes[6] = key.direction;
    bytes[7] = key.protocol;
    bytes[8..10].copy_from_slice(&key.port_be.to_ne_bytes());
    for (index, byte) in bytes.iter_mut().enumerate() {
        let keep = usize::from(bits).saturating_sub(index * 8).min(8);
        *byte &= if keep == 0 { 0 } else { 0xff << (8 - keep) };
    }
    PolicyKey {
        identity: u32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]),
        slot_be: u16::from_ne_bytes([bytes[4], bytes[5]]),
        direction: bytes[6],
        protocol: bytes[7],
        port_be: u16::from_ne_bytes([bytes[8], bytes[9]]),
        pad: 0,
    }
}

impl Maps for Twin {
    fn config(&self) -> Option<&Config> {
        self.config.as_ref()
    }

    fn endpoint(&self, ifindex: u32) -> Option<&Endpoint> {
        self.endpoints.get(&ifindex)
    }

    fn slot(&self, slot: u16) -> Option<&Endpoint> {
        self.endpoints.values().find(|endpoint| endpoint.slot == slot)
    }

    fn epochs(&self, slot: u16) -> Option<Epochs> {
        (u32::from(slot) < limits::SLOTS).then(|| self.epochs.get(&slot).copied().unwrap_or_default())
    }

    fn ip_exact(&self, family: u8, address: &Addr) -> Option<IpEntry> {
        let bits = if family == V4 { 32 } else { 128 };
        self.ips.get(&(family, bits, *address)).copied()
    }

    fn ip_prefix(&self, family: u8, address: &Addr) -> Option<IpEntry> {
        let bits = if family == V4 { 32 } else { 128 };
        (0..bits).rev().find_map(|len| self.ips.get(&(family, len, network(address, len))).copied())
    }

    fn policy_exact(&self, key: &PolicyKey) -> Option<PolicyEntry> {
        self.policy_exact.get(key).copied()
    }

    fn policy_prefix(&self, key: &PolicyKey) -> Option<PolicyEntry> {
        (0..=96).rev().find_map(|bits| self.policy_lpm.get(&(bits, policy_prefix(key, bits))).copied())
    }

    fn auth(&self, key: &AuthKey) -> Option<AuthValue> {
        self.auth.get(key).copied()
    }

    fn backoff(&self, key: &AuthKey) -> Option<u64> {
        self.backoff.get(key).copied()
    }

    fn bound(&self, family: u8, address: &Addr) -> Option<Bound> {
        self.bound.get(&(family, *address)).copied()
    }

    fn with_flow<R>(&self, family: u8, key: &CtKey, work: impl FnOnce(&mut CtEntry) -> R) -> Option<R> {
        self.flows.borrow_mut().get_mut(&(family, *key)).map(work)
    }

    fn put_flow(&self, family: u8, key: &CtKey, entry: &CtEntry) -> bool {
        if self.flows_full.get() {
            return false;
        }
        self.flows.borrow_mut().insert((family, *key), *entry);
        true
    }

    fn fragment(&self, family: u8, key: &FragKey) -> Option<FragPorts> {
        self.fragments.borrow().get(&(family, *key)).copied()
    }

    fn put_fragment(&self, family: u8, key: &FragKey, ports: &FragPorts) -> bool {
        self.fragments.borrow_mut().insert((family, *key), *ports);
        true
    }

    fn with_pending<R>(&self, key: &PendingKey, work: impl FnOnce(&mut Pending) -> R) -> Option<R> {
        Some(work(self.pending.borrow_mut().entry(*key).or_default()))
    }

    fn pending(&self, key: &PendingKey) -> Option<(u64, u64)> {
        self.pending.borrow().get(key).map(|pending| (pending.parked, pending.waited))
    }

    fn returned(&self, key: &PendingKey) -> u64 {
        self.returned.get(key).copied().unwrap_or(0)
    }

    fn with_budget<R>(&self, cell: u32, work: impl FnOnce(&mut SlotBudget) -> R) -> Option<R> {
        (cell < limits::BUDGETS).then(|| work(self.budgets.borrow_mut().entry(cell).or_default()))
    }

    fn with_dedup<R>(&self, cell: u32, work: impl FnOnce(&mut Dedup) -> R) -> Option<R> {
        Some(work(self.dedup.borrow_mut().entry(cell).or_default()))
    }

    fn count(&self, direction: u8, reason: u8, bytes: u32) {
        self.counted(direction, reason, |counter| {
            counter.packets += 1;
            counter.bytes += u64::from(bytes);
        });
    }

    fn count_suppressed(&self, direction: u8, reason: u8) {
        self.counted(direction, reason, |counter| counter.suppressed += 1);
    }

    fn emit(&self, _direction: u8, _reason: u8, event: impl FnOnce() -> Event) {
        self.events.borrow_mut().push(event());
    }

    fn with_scratch<R>(&self, work: impl FnOnce(&mut Scratch) -> R) -> Option<R> {
        // What an earlier packet left must not matter: fill it with what would be noticed.
        let stale = Packet { tcp_flags: 0xff, more_fragments: true, transport: 0xdead, ..Packet::default() };
        Some(work(&mut Scratch { packet: stale, quoted: stale, ..Scratch::default() }))
    }

    fn add(counter: &mut u64, amount: u64) {
        *counter = counter.wrapping_add(amount);
    }

    fn coarse_now(&self) -> u64 {
        self.coarse.get()
    }

    fn boot_now(&self) -> u64 {
        self.boot.get()
    }
}
