//! Which addresses of a node's pod network are free.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::{Context, Result, bail};

use crate::plan::Plan;

/// First and last place of a pod; the first is the gateway's by custom.
const PLACES: std::ops::RangeInclusive<u8> = 2..=254;

/// Hands out addresses, the longest unused first, so that a new pod does not get its predecessor's by accident.
#[derive(Debug)]
pub(super) struct Addresses {
    plan: Plan,
    node: u8,
    used: BTreeSet<u8>,
    last: u8,
}

impl Addresses {
    pub(super) const fn new(plan: Plan, node: u8) -> Self {
        Self { plan, node, used: BTreeSet::new(), last: *PLACES.end() }
    }

    /// Takes the address that is asked for, or the next free one.
    pub(super) fn take(&mut self, wanted: Option<&str>) -> Result<(Ipv4Addr, Ipv6Addr)> {
        let place = match wanted {
            Some(wanted) => self.named(wanted)?,
            None => self.next().context("all addresses of the node are in use")?,
        };
        self.used.insert(place);
        Ok(self.plan.pod(self.node, place))
    }

    /// Marks an address as used.
    pub(super) fn hold(&mut self, ip: Ipv4Addr) {
        if let Some(place) = self.plan.pod_slot(self.node, ip.into()) {
            self.used.insert(place);
            self.last = place;
        }
    }

    /// Gives an address back.
    pub(super) fn release(&mut self, ip: Ipv4Addr) {
        if let Some(place) = self.plan.pod_slot(self.node, ip.into()) {
            self.used.remove(&place);
        }
    }

    fn named(&self, wanted: &str) -> Result<u8> {
        let ip: IpAddr = wanted.parse().with_context(|| format!("{wanted:?} is no address"))?;
        let place = self.plan.pod_slot(self.node, ip).filter(|place| PLACES.contains(place));
        let place = place.with_context(|| format!("{ip} is not in the pod network of this node"))?;
        if self.used.contains(&place) {
            bail!("{ip} is in use");
        }
        Ok(place)
    }

    fn next(&mut self) -> Option<u8> {
        let after = PLACES.filter(|place| *place > self.last);
        let from_start = PLACES.filter(|place| *place <= self.last);
        let free = after.chain(from_start).find(|place| !self.used.contains(place))?;
        self.last = free;
        Some(free)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_unused_comes_first() {
        let mut addresses = Addresses::new(Plan::new(0), 1);
        let first = addresses.take(None).unwrap().0;
        assert_eq!(first.octets()[3], 2);
        addresses.release(first);
        assert_eq!(addresses.take(None).unwrap().0.octets()[3], 3);
        for _ in 0..252 {
            addresses.take(None).unwrap();
        }
        assert!(addresses.take(None).is_err(), "253 at most");
        addresses.release(first);
        assert_eq!(addresses.take(None).unwrap().0, first);
    }

    #[test]
    fn one_can_be_asked_for() {
        let mut addresses = Addresses::new(Plan::new(0), 1);
        assert_eq!(addresses.take(Some("10.64.1.7")).unwrap().0.octets()[3], 7);
        for wrong in ["10.64.1.7", "10.64.2.8", "10.64.1.1", "10.64.1.255", "x"] {
            assert!(addresses.take(Some(wrong)).is_err(), "{wrong}");
        }
    }
}
