//! Which remote address has which identity, by the word of the node that owns it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use crate::event::Assertion;
use crate::limits::{MAX_ASSERTIONS, MAX_BINDINGS};

/// A change to the datapath's bindings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rebinding {
    Bind { ip: IpAddr, identity: u32, node: u16, generation: u32 },
    Unbind { ip: IpAddr },
}

#[derive(Debug)]
struct Bound {
    holder: (u32, u16),
    generation: u32,
    asserted_at: u64,
}

/// An identity on a node: how many live pairs vouch for it, and its addresses.
#[derive(Debug, Default)]
struct Holder {
    live: usize,
    ips: BTreeSet<IpAddr>,
    asserted_at: u64,
}

/// Addresses are bound as long as one live pair has the identity on that node.
#[derive(Debug, Default)]
pub(crate) struct Bindings {
    by_ip: BTreeMap<IpAddr, Bound>,
    holders: BTreeMap<(u32, u16), Holder>,
}

impl Bindings {
    pub(crate) fn holds(&self, ip: IpAddr, identity: u32, node: u16) -> bool {
        self.by_ip.get(&ip).is_some_and(|bound| bound.holder == (identity, node))
    }

    /// What to write again for this address.
    pub(crate) fn get(&self, ip: IpAddr) -> Option<Rebinding> {
        let bound = self.by_ip.get(&ip)?;
        let (identity, node) = bound.holder;
        Some(Rebinding::Bind { ip, identity, node, generation: bound.generation })
    }

    pub(crate) fn len(&self) -> usize {
        self.by_ip.len()
    }

    /// One more live pair vouches for the identity on the node.
    pub(crate) fn retain(&mut self, identity: u32, node: u16) {
        self.holders.entry((identity, node)).or_default().live += 1;
    }

    /// One less; with the last one the addresses go.
    pub(crate) fn release(&mut self, identity: u32, node: u16) -> Vec<Rebinding> {
        let key = (identity, node);
        let Some(holder) = self.holders.get_mut(&key) else { return Vec::new() };
        holder.live = holder.live.saturating_sub(1);
        if holder.live > 0 {
            return Vec::new();
        }
        let ips = self.holders.remove(&key).map(|holder| holder.ips).unwrap_or_default();
        ips.into_iter()
            .map(|ip| {
                self.by_ip.remove(&ip);
                Rebinding::Unbind { ip }
            })
            .collect()
    }

    /// The address has no owner any more.
    pub(crate) fn unbind(&mut self, ip: IpAddr) -> Option<Rebinding> {
        let bound = self.by_ip.remove(&ip)?;
        if let Some(holder) = self.holders.get_mut(&bound.holder) {
            holder.ips.remove(&ip);
        }
        Some(Rebinding::Unbind { ip })
    }

    /// Takes over what the node says in a handshake that began at `started_at`: it replaces what the node
    /// said about this identity before. Returns the changes, and how many assertions were not taken.
    pub(crate) fn assert(
        &mut self,
        (identity, node): (u32, u16),
        started_at: u64,
        said: &[Assertion],
    ) -> (Vec<Rebinding>, u64) {
        let Some(holder) = self.holders.get_mut(&(identity, node)) else { return (Vec::new(), 0) };
        if started_at < holder.asserted_at {
            return (Vec::new(), said.len() as u64);
        }
        holder.asserted_at = started_at;
        let mut ignored = said.len().saturating_sub(MAX_ASSERTIONS) as u64;
        let said: BTreeMap<IpAddr, u32> =
            said.iter().take(MAX_ASSERTIONS).map(|said| (said.ip, said.generation)).collect();
        let gone: Vec<IpAddr> = holder.ips.iter().filter(|ip| !said.contains_key(ip)).copied().collect();
        let mut changes: Vec<Rebinding> = gone.into_iter().filter_map(|ip| self.unbind(ip)).collect();
        for (ip, generation) in said {
            match self.bind(ip, (identity, node), generation, started_at) {
                Ok(change) => changes.extend(change),
                Err(NotTaken) => ignored += 1,
            }
        }
        (changes, ignored)
    }

    /// Takes over a binding from the pinned map. Returns whether it has a live pair and may stay.
    pub(crate) fn restore(&mut self, ip: IpAddr, holder: (u32, u16), generation: u32) -> bool {
        self.holders.contains_key(&holder) && self.bind(ip, holder, generation, 0).is_ok()
    }

    // The later handshake is right about an address that two claim.
    fn bind(
        &mut self,
        ip: IpAddr,
        holder: (u32, u16),
        generation: u32,
        asserted_at: u64,
    ) -> Result<Option<Rebinding>, NotTaken> {
        let known = self.by_ip.get(&ip);
        if known.is_some_and(|bound| bound.asserted_at > asserted_at) {
            return Err(NotTaken);
        }
        if known.is_none() && self.by_ip.len() >= MAX_BINDINGS {
            return Err(NotTaken);
        }
        let same = known.is_some_and(|bound| bound.holder == holder && bound.generation == generation);
        let other = known.map(|bound| bound.holder).filter(|other| *other != holder);
        if let Some(other) = other.and_then(|other| self.holders.get_mut(&other)) {
            other.ips.remove(&ip);
        }
        self.by_ip.insert(ip, Bound { holder, generation, asserted_at });
        if let Some(holder) = self.holders.get_mut(&holder) {
            holder.ips.insert(ip);
        }
        let (identity, node) = holder;
        Ok((!same).then_some(Rebinding::Bind { ip, identity, node, generation }))
    }
}

/// The address is claimed by a later handshake, or there is no room.
struct NotTaken;
