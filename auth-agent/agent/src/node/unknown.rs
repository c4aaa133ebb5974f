//! Packets from and to pods of other nodes that the cluster has not told us of yet: a pod may speak before every node
//! has heard of it. They wait by address, until that is known or they have waited long enough; then they are judged
//! as any other, or dropped.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use countersign_auth_proto::{Pair, Source};
use countersign_ebpf_common::addr::Addr;
use countersign_ebpf_common::auth::AuthKey;
use countersign_ebpf_common::event::Event;
use countersign_ebpf_common::park::address_line;
use ipnet::IpNet;

use super::Node;
use super::park::{full_name, place, remote_address};
use crate::clock;
use crate::limits;

/// What stands for the address in the keys of lines.
type Line = u32;

/// The lines of addresses.
#[derive(Debug, Default)]
pub(super) struct Unknown {
    /// Those with frames in the parking queue.
    held: BTreeMap<Line, BTreeSet<Pair>>,
    /// Those whose packets the programs drop by themselves for a while, and until when.
    given_up: BTreeMap<Pair, u64>,
}

impl Node {
    /// A frame that waits for word of an address, which may have come while it was on its way here.
    pub(super) fn park_unknown(&mut self, frame: &[u8], pair: Pair, source: Source, event: Event, now: u64) {
        let place = place(pair, event.slot, event.direction);
        if remote_address(&event).is_some_and(|ip| self.is_known(ip)) {
            self.write_back(frame);
            return self.order.gave_back(place, 1, now);
        }
        self.metrics.parked(1);
        self.names.remember_parked(pair, event);
        match self.parking.push(pair, source, frame.to_vec(), frame.len(), now) {
            Ok(()) => {
                self.order.hold(place);
                self.unknown.held.entry(pair.remote).or_default().insert(pair);
            }
            Err(full) => {
                self.order.dropped(place);
                self.count_discarded(full_name(full), 1);
            }
        }
    }

    /// Whether the programs know who is behind the address.
    fn is_known(&self, ip: IpAddr) -> bool {
        self.addresses.known.get(&IpNet::from(ip)).is_some_and(|entry| !entry.is_unknown_pod())
    }

    /// Policy and addresses are in force: what waited for these addresses is judged.
    pub(super) fn release_addresses<'a>(&mut self, addresses: impl IntoIterator<Item = &'a IpAddr>) {
        if self.unknown.held.is_empty() && self.unknown.given_up.is_empty() {
            return;
        }
        let now = clock::boot_ns();
        for ip in addresses {
            if !self.is_known(*ip) {
                continue;
            }
            let line = address_line(&Addr::from_ip(*ip).0);
            let given_up: Vec<Pair> =
                self.unknown.given_up.keys().filter(|pair| pair.remote == line).copied().collect();
            for pair in given_up {
                self.unknown.given_up.remove(&pair);
                if let Err(error) = self.datapath.backoff_clear(&key(pair)) {
                    tracing::debug!(%error, "packets of a pod that is known now are still dropped for a while");
                }
            }
            for pair in self.unknown.held.remove(&line).unwrap_or_default() {
                self.give_back(pair, now);
            }
        }
    }

    /// Nobody has said in time whose address it is: as long again, packets of the line are not taken in. Otherwise a
    /// pod that talks to one that is gone would keep the agent busy.
    pub(super) fn give_up_unknown(&mut self, pair: Pair, now: u64) {
        if self.parking.parked(pair) == 0
            && let Some(pairs) = self.unknown.held.get_mut(&pair.remote)
        {
            pairs.remove(&pair);
            if pairs.is_empty() {
                self.unknown.held.remove(&pair.remote);
            }
        }
        self.unknown.given_up.retain(|_, until| *until > now);
        if self.unknown.given_up.len() >= limits::ADDRESSES_GIVEN_UP {
            return;
        }
        let until = now.saturating_add(limits::ADDRESS_QUIET);
        match self.datapath.backoff_set(key(pair), until) {
            Ok(()) => drop(self.unknown.given_up.insert(pair, until)),
            Err(error) => tracing::debug!(%error, "packets of an unknown address are still taken in"),
        }
    }
}

fn key(pair: Pair) -> AuthKey {
    super::auth::key(pair)
}
