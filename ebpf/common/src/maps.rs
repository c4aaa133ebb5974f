//! What the deciding code asks of the tables. The programs answer from the kernel's maps, [`crate::twin`] from
//! ordinary collections.

use crate::addr::Addr;
use crate::auth::{AuthKey, AuthValue, Bound};
use crate::budget::SlotBudget;
use crate::config::Config;
use crate::ct::{CtEntry, CtKey};
use crate::decide::Verdict;
use crate::endpoint::{Endpoint, Epochs};
use crate::event::Event;
use crate::flow::Recall;
use crate::frag::{FragKey, FragPorts};
use crate::ipcache::IpEntry;
use crate::packet::Packet;
use crate::park::{Pending, PendingKey};
use crate::policy::{PolicyEntry, PolicyKey};
use crate::report::{About, Dedup};
use crate::wait::Wait;

/// Facts that are too big for the 512 bytes of stack that a program has.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Scratch {
    /// The packet.
    pub packet: Packet,
    /// The packet that an ICMP error quotes.
    pub quoted: Packet,
    /// What is known of its flow.
    pub recall: Recall,
    /// The verdict on its flow.
    pub verdict: Verdict,
    /// What a report would say.
    pub about: About,
    /// What becomes of it while its pair has no proof.
    pub wait: Wait,
}

/// The tables and the clocks. `None` is "not there"; nothing here fails otherwise.
pub trait Maps {
    /// `cs_config`.
    fn config(&self) -> Option<&Config>;
    /// `cs_endpoints`.
    fn endpoint(&self, ifindex: u32) -> Option<&Endpoint>;
    /// `cs_slots`.
    fn slot(&self, slot: u16) -> Option<&Endpoint>;
    /// `cs_epochs`.
    fn epochs(&self, slot: u16) -> Option<Epochs>;
    /// `cs_ip4` or `cs_ip6`.
    fn ip_exact(&self, family: u8, address: &Addr) -> Option<IpEntry>;
    /// `cs_cidr4` or `cs_cidr6`: the longest prefix.
    fn ip_prefix(&self, family: u8, address: &Addr) -> Option<IpEntry>;
    /// `cs_policy`.
    fn policy_exact(&self, key: &PolicyKey) -> Option<PolicyEntry>;
    /// `cs_policy_lpm`: the longest prefix.
    fn policy_prefix(&self, key: &PolicyKey) -> Option<PolicyEntry>;
    /// `cs_auth`.
    fn auth(&self, key: &AuthKey) -> Option<AuthValue>;
    /// `cs_backoff`: until when (boot clock).
    fn backoff(&self, key: &AuthKey) -> Option<u64>;
    /// `cs_bound4` or `cs_bound6`.
    fn bound(&self, family: u8, address: &Addr) -> Option<Bound>;
    /// Works on the flow's entry in `cs_ct4` or `cs_ct6`, if there is one.
    fn with_flow<R>(&self, family: u8, key: &CtKey, work: impl FnOnce(&mut CtEntry) -> R) -> Option<R>;
    /// Enters a flow, or overwrites it; `false` where the table takes no more.
    fn put_flow(&self, family: u8, key: &CtKey, entry: &CtEntry) -> bool;
    /// `cs_frag4` or `cs_frag6`.
    fn fragment(&self, family: u8, key: &FragKey) -> Option<FragPorts>;
    /// Remembers a datagram; `false` where the table takes no more.
    fn put_fragment(&self, family: u8, key: &FragKey, ports: &FragPorts) -> bool;
    /// Works on the pair's record in `cs_pending`, which is made if it is missing.
    fn with_pending<R>(&self, key: &PendingKey, work: impl FnOnce(&mut Pending) -> R) -> Option<R>;
    /// What the pair has parked and when it last had to (see [`Pending`]), if there is a record of it.
    fn pending(&self, key: &PendingKey) -> Option<(u64, u64)>;
    /// `cs_returned`: how many of the parked packets the agent has dealt with.
    fn returned(&self, key: &PendingKey) -> u64;
    /// Works on an element of `cs_budgets`.
    fn with_budget<R>(&self, cell: u32, work: impl FnOnce(&mut SlotBudget) -> R) -> Option<R>;
    /// Works on a cell of `cs_dedup`.
    fn with_dedup<R>(&self, cell: u32, work: impl FnOnce(&mut Dedup) -> R) -> Option<R>;
    /// Counts a packet in `cs_metrics`.
    fn count(&self, direction: u8, reason: u8, bytes: u32);
    /// Counts an event held back.
    fn count_suppressed(&self, direction: u8, reason: u8);
    /// Sends an event, or counts it as lost.
    fn emit(&self, direction: u8, reason: u8, event: impl FnOnce() -> Event);
    /// Room for one packet's facts; it is not cleared from one packet to the next.
    fn with_scratch<R>(&self, work: impl FnOnce(&mut Scratch) -> R) -> Option<R>;
    /// Adds to a counter that several CPUs add to.
    fn add(counter: &mut u64, amount: u64);
    /// The coarse monotonic clock, nanoseconds.
    fn coarse_now(&self) -> u64;
    /// The boot clock, nanoseconds.
    fn boot_now(&self) -> u64;
}
