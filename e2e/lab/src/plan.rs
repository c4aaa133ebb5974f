//! The address plan: every lab has ranges of its own, every node a pod network of its own.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Which addresses a lab uses; a function of its index alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    index: u8,
}

/// Addresses in the wire's namespace that stand for the world outside: the documentation prefixes.
pub const WORLD: [&str; 4] = ["198.51.100.1/32", "203.0.113.1/32", "2001:db8::1/128", "2001:db8:1::1/128"];

/// The gateway that pods are given; it exists nowhere, its neighbour entry is permanent.
pub const POD_GATEWAY_V4: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);

/// The same for IPv6; every host end of a veth has it.
pub const POD_GATEWAY_V6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);

impl Plan {
    /// The plan of lab number `index` (below [`crate::limits::MAX_LABS`]).
    #[must_use]
    pub const fn new(index: u8) -> Self {
        Self { index }
    }

    /// The wire's own addresses, which nodes use as their default gateway.
    #[must_use]
    pub const fn wire(self) -> (Ipv4Addr, Ipv6Addr) {
        (Ipv4Addr::new(192, 168, 64 + self.index, 1), self.v6(0, 0xffff))
    }

    /// Addresses of node `number` (from 1).
    #[must_use]
    pub const fn node(self, number: u8) -> (Ipv4Addr, Ipv6Addr) {
        (Ipv4Addr::new(192, 168, 64 + self.index, 10 + number), self.v6(0, number as u16))
    }

    /// Prefixes that the pods of node `number` are in.
    #[must_use]
    pub fn pod_cidrs(self, number: u8) -> (String, String) {
        let v4 = Ipv4Addr::new(10, 64 + self.index, number, 0);
        (format!("{v4}/24"), format!("{}/64", self.v6(u16::from(number), 0)))
    }

    /// Addresses of the pod in place `slot` (2 to 254) of node `number`.
    #[must_use]
    pub const fn pod(self, number: u8, slot: u8) -> (Ipv4Addr, Ipv6Addr) {
        (Ipv4Addr::new(10, 64 + self.index, number, slot), self.v6(number as u16, slot as u16))
    }

    /// The place that `ip` is in, where it is a pod address of node `number`.
    #[must_use]
    pub fn pod_slot(self, number: u8, ip: IpAddr) -> Option<u8> {
        let slot = match ip {
            IpAddr::V4(v4) => v4.octets()[3],
            IpAddr::V6(v6) => v6.octets()[15],
        };
        let (v4, v6) = self.pod(number, slot);
        (IpAddr::V4(v4) == ip || IpAddr::V6(v6) == ip).then_some(slot)
    }

    /// `fd00:c5:<lab>:<net>::<host>`.
    const fn v6(self, net: u16, host: u16) -> Ipv6Addr {
        Ipv6Addr::new(0xfd00, 0xc5, self.index as u16, net, 0, 0, 0, host)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn labs_nodes_and_pods_never_share_an_address() {
        let mut seen = BTreeSet::new();
        for index in [0, 1, 63] {
            let plan = Plan::new(index);
            assert!(seen.insert(plan.wire()));
            for node in 1..=16 {
                assert!(seen.insert(plan.node(node)));
                assert!((2..=254).all(|slot| seen.insert(plan.pod(node, slot))));
            }
        }
    }

    #[test]
    fn a_pod_address_leads_back_to_its_place() {
        let plan = Plan::new(3);
        let (v4, v6) = plan.pod(2, 77);
        assert_eq!(v4.to_string(), "10.67.2.77");
        assert_eq!(v6.to_string(), "fd00:c5:3:2::4d");
        assert_eq!(plan.pod_slot(2, v4.into()), Some(77));
        assert_eq!(plan.pod_slot(2, v6.into()), Some(77));
        assert_eq!(plan.pod_slot(1, v4.into()), None);
        assert_eq!(plan.pod_cidrs(2), ("10.67.2.0/24".into(), "fd00:c5:3:2::/64".into()));
    }
}
